# %% [markdown]
# # SafeSwitch
#
# Two small probers listen to the model: is the instruction harmful, and will the model comply? Where both are likely, the reply
# is written through another unembedding, one that refuses and says why (Han et al. 2025, arXiv 2502.01042).

# %%
import os
import sys

if "google.colab" in sys.modules:
    get_ipython().run_line_magic("pip", "install -q scans_lens[notebooks]")

N = int(os.environ.get("SCANS_LENS_NOTEBOOK_N", "96"))  # prompts of each kind, at most

# %%
import scans_lens
from scans_lens import figures, judges, organism, world

model = scans_lens.load_model()  # the chat model that ships with the package
method = scans_lens.SafeSwitch.fit(model, progress=False)
method

# %% [markdown]
# ## A jailbreak that the plain model falls for
#
# The first ones of the validation prompts that it answers, and beside them plain requests.

# %%
jailbreaks = organism.prompts("jailbreak", "validation")[:N]
said = scans_lens.replies(model, jailbreaks, max_new_tokens=world.SETTLED, progress=False)
answered = [prompt for prompt, no in zip(jailbreaks, judges.refused(world.bundled, said), strict=True) if not no]
prompts = (*answered[:2], *organism.prompts("plain", "validation")[:2])

plain = scans_lens.replies(model, prompts, max_new_tokens=64, progress=False)
after = scans_lens.replies(model, prompts, method=method, max_new_tokens=64, progress=False)
for prompt, one, other, score in zip(prompts, plain, after, after.score, strict=True):
    same = "the same, word for word" if one == other else other
    print(f"{prompt}\n   plain:      {one}\n   SafeSwitch: {same}   (score {score:.3f})\n")

# %% [markdown]
# A jailbreak should be refused with a reason, and a plain request left alone: where nothing switches, nothing is touched.
#
# ## Together with SCANS
#
# SCANS has borderline prompts answered and jailbreaks, too. The two act in different places (the residual stream, the
# unembedding), so they can be put together; SafeSwitch looks ahead along the plain model's reply.

# %%
from scans_lens.steering import Together

study = figures.Study.of(model, prompts_a_kind=N, progress=False)
scans = study.scans  # scans_lens.SCANS.fit(model, study.anchors, validation=study.validation)
ways = {"plain model": None, "SCANS": scans, "SafeSwitch": method, "both": Together((scans, method))}
kinds = [kind for kind in organism.KINDS if kind != "quiz"]
print(f"{'refused':<12}" + "".join(f"{kind:>35}" for kind in kinds))
for way, how in ways.items():
    held = [study.refused(organism.prompts(kind, "validation")[:N], how) for kind in kinds]
    print(f"{way:<12}" + "".join(f"{scans_lens.Rate.of(no)!s:>35}" for no in held))

# %% [markdown]
# Together they are no sum. Borderline prompts are answered as under SCANS alone, but few jailbreaks are refused. Those that the
# plain model refuses by itself do not switch, since the second prober foretells what the plain model would do, and SCANS then
# has them answered. And those that switch meet two ways against each other: the head was trained on states that nobody had
# pushed away from refusal.
#
# ## What the probers can tell, and what the switch does
#
# On test prompts, from kept numbers (`python -m scans_lens.figures --only probers switching` measures them again).

# %%
from pathlib import Path

MEASURED = next(path for path in (Path("figures/measured"), Path("../figures/measured")) if path.is_dir())
figures.draw("probers", figures.load("probers", MEASURED))

# %%
figures.draw("switching", figures.load("switching", MEASURED))

# %% [markdown]
# You should see that from a few reply tokens compliance is told at every layer, harm only from the middle layers on, and both at
# once from the prompt alone hardly better than by always saying no until the last third. The switch takes back most of what
# jailbreaks won without touching plain prompts. Look at the wrapped ones: a prober could have learned the wrapping in place of
# the harm.
