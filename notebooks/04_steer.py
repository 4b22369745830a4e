# %% [markdown]
# # Steer
#
# Each prompt is pushed its own way: harmless ones away from refusal, harmful ones towards it (eq. 6).

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
scans = study.scans  # scans_lens.SCANS.fit(model, study.anchors, validation=study.validation)
scans

# %%
asked = study.validation.borderline[:N]
over = [prompt for prompt, no in zip(asked, study.refused(asked), strict=True) if no]
prompts = (*over[:2], *study.validation.harmful[:2])
plain = scans_lens.replies(model, prompts, max_new_tokens=60, progress=False)
steered = scans_lens.replies(model, prompts, method=scans, max_new_tokens=60, progress=False)
for prompt, one, other, score in zip(prompts, plain, steered, steered.score, strict=True):
    print(f"{prompt}\n   plain:   {one}\n   steered: {other}   (score {score:.3f})\n")

# %% [markdown]
# The first borderline prompts that the plain model refuses, which should get an answer now, and two harmful ones, which should not.

# %%
tokens = scans_lens.chat_tokens(model, prompts)
with model.hooks(fwd_hooks=scans.hooks(model, prompts)):
    logits = model(tokens.ids, attention_mask=tokens.mask)
tuple(logits.shape)

# %% [markdown]
# The same hooks in a loop of your own: plain `(name, function)` pairs that add as lists.

# %%
figures.draw("refusal_rates", figures.measure("refusal_rates", study))

# %% [markdown]
# SCANS beside a constant push and two placebos, with exact intervals; its knobs are chosen on fewer prompts here than for
# `figures/`, so that rates differ a little. Read the jailbreak panel and the skill panel too: that
# is what steering costs.
