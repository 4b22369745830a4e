# %% [markdown]
# # The figures of the method
#
# The first ten figures, drawn from its measured numbers; no model is needed. `python -m scans_lens.figures` measures them.

# %%
from pathlib import Path

MEASURED = next(path for path in (Path("figures/measured"), Path("../figures/measured")) if path.is_dir())

# %%
from IPython.display import Markdown, display

from scans_lens import figures

for name, what in list(figures.ABOUT.items())[:10]:
    display(Markdown(f"### {name}: {what}"))
    display(figures.draw(name, figures.load(name, MEASURED)))

# %% [markdown]
# You should see the same pictures as in `figures/`. What steering gains and costs is in the next notebook.
