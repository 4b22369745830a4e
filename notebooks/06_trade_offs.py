# %% [markdown]
# # Trade-offs
#
# The figures of what steering gains and costs: sweeps of scale and threshold beside placebos, thirds of the layers, types of
# prompt, calibration, judges, the number of anchors, and capability. Drawn from measured numbers; no model is needed.

# %%
from pathlib import Path

MEASURED = next(path for path in (Path("figures/measured"), Path("../figures/measured")) if path.is_dir())

# %%
from IPython.display import Markdown, display

from scans_lens import figures

for name, what in list(figures.ABOUT.items())[10:18]:
    display(Markdown(f"### {name}: {what}"))
    display(figures.draw(name, figures.load(name, MEASURED)))

# %% [markdown]
# You should see that both sides of the trade-off move with the scale, and that wrapped harmful prompts are answered long before
# harmful ones are. Placebos of the same length do less at the scale that is chosen, random directions at every scale. But the
# true directions in wrong layers come near to SCANS there, and so does one draw of shuffled labels at twice the scale: what a
# push breaks is no sign of what it points at.
