# %% [markdown]
# # A real chat model
#
# Qwen2.5-Coder-0.5B-Instruct refuses harmless questions that only sound harmful. Where does it decide to, and what does a push on a
# single token do about it? `python -m scans_lens models get qwen2.5-coder-0.5b` brings the model; some ten minutes of two cores.

# %%
import os
import sys

if "google.colab" in sys.modules:
    get_ipython().run_line_magic("pip", "install -q scans_lens[notebooks]")

MODEL = "qwen2.5-coder-0.5b"  # or a hub name, a local folder, a GGUF file; None is the chat model that ships with the package
N = int(os.environ.get("SCANS_LENS_NOTEBOOK_N", "64"))  # prompts of each kind to learn from and to choose on, at most

# %%
import torch

import scans_lens
from scans_lens import figures, judges

model = scans_lens.load_model(MODEL, dtype=torch.bfloat16)
effort = scans_lens.Effort(anchors=N, pushed=N, validation=N, tokens=16, scales=4, rounds=1, resamples=200)
layers = scans_lens.anchor_layers(model, effort=effort, progress=False)
layers

# %% [markdown]
# The band is where pushing a layer back takes most of the refusal away (`drop`). Many layers say words of refusal; fewer decide.
#
# The gated push is ours, not SCANS: a ridge regression on the states at the end of the prompt says who is pushed, and the push reaches
# one token. It learns from prompts of ours, and its knobs are chosen on others.

# %%
gated = scans_lens.GatedPush.fit(model, layers=layers, effort=effort, progress=False)
gated

# %% [markdown]
# Now prompts of neither: borderline ones, and harmful ones in the same words.

# %%
world = scans_lens.world.world_of(model)
asked = {"borderline": world.test.borderline[:N], "harmful": world.test.harmful[:N]}
given, refused = {}, {}
for way, method in {"plain": None, "gated push": gated}.items():
    for kind, prompts in asked.items():
        how = {"method": method, "max_new_tokens": 48, "progress": False}
        given[way, kind] = scans_lens.replies(model, prompts, **how)
        refused[way, kind] = judges.refused(world.judge, given[way, kind])
        print(f"{way:11} {kind:11} refused {scans_lens.Rate.of(refused[way, kind])}")

# %%
for place, (before, after) in enumerate(
    zip(refused["plain", "borderline"], refused["gated push", "borderline"], strict=True)
):
    if before and not after:
        print(asked["borderline"][place])
        for way in ("plain", "gated push"):
            print(f"   {way:11} {given[way, 'borderline'][place]}")

# %% [markdown]
# What is freed is answered by the plain model itself, for only one token was pushed. Read whether it is answered well: that a refusal
# is gone is not yet help. With halves of public sets to learn from the gate knows more; on their other halves:

# %%
from pathlib import Path

HALVES = "qwen2.5-coder-0.5b-halves/measured"
MEASURED = next(path for path in (Path("figures") / HALVES, Path("../figures") / HALVES) if path.is_dir())
figures.draw("benchmarks", figures.load("benchmarks", MEASURED))
