# %% [markdown]
# # Find the direction
#
# Refusal has a direction in every layer's residual stream: the mean state of harmful prompts minus that of harmless
# ones, at the last prompt token (SCANS, eq. 1).

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
directions = scans_lens.refusal_directions(model, study.anchors, progress=False)
directions

# %% [markdown]
# One vector a layer. The same directions come from caches that you already have: `Directions.from_caches(harmful, harmless)`.

# %%
states = scans_lens.residuals(model, study.anchors.harmful[:4], progress=False)
print("prompts, layers, d_model:", tuple(states.shape))
print("length of each layer's direction:", [round(float(length), 1) for length in directions.vectors.norm(dim=1)])

# %% [markdown]
# On the bundled model the lengths grow with depth: what tells the two sides apart is written as the prompt is understood.

# %%
figures.draw("geometry", figures.measure("geometry", study))

# %% [markdown]
# Left: how long the direction is beside the mean residual. Right: neighbouring layers point alike; where the colour
# breaks, a layer has written something new.

# %%
figures.draw("projections", figures.measure("projections", study))

# %% [markdown]
# Harmful prompts should lie above plain ones, and borderline ones between them; the AUC on the right says at which layer
# they come apart.
