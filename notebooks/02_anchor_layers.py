# %% [markdown]
# # Anchor layers
#
# Where is refusal decided? The lens proposes layers whose direction says words of refusal, and a causal push disposes.

# %%
import os
import sys

if "google.colab" in sys.modules:
    get_ipython().run_line_magic("pip", "install -q scans_lens[notebooks]")

MODEL = None  # None is the chat model that ships with the package; or a hub name, or a local folder
N = int(os.environ.get("SCANS_LENS_NOTEBOOK_N", "200"))  # prompts of each kind, at most

# %%
import scans_lens
from scans_lens import figures

model = scans_lens.load_model(MODEL)
study = figures.Study.of(model, prompts_a_kind=N, progress=False)

# %%
layers = scans_lens.anchor_layers(model, contrast=study.anchors, progress=False)
layers

# %% [markdown]
# The shaded rows are the band. `drop` is how far the refusal log-odds of harmful prompts fall when that layer alone is pushed
# back; `z` is how loud refusal words are, in standard deviations over the vocabulary (`null .95`: what shuffled labels give).

# %%
figures.draw("anchor_layers", figures.measure("anchor_layers", study))

# %% [markdown]
# Both curves should rise where refusal is decided. Layers beyond four fifths of the depth are left out, however far the log-odds
# drop there: so near to the unembedding a push changes the words themselves.

# %%
figures.draw("top_tokens", figures.measure("top_tokens", study))

# %% [markdown]
# By layer, and by third as in the paper's table 1 (last, from raw vectors): words of refusal should be rare in early layers and loud in later ones.
