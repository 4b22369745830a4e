"""Figures: numbers in, picture out. `python -m scans_lens.figures` measures a model and draws all of them.

    study = figures.Study.of(scans_lens.load_model())     # what several figures need, computed once
    measured = figures.measure("transitions", study)      # plain numbers, as they lie in figures/measured/*.json
    figures.draw("transitions", measured)                 # needs no model

Measuring and drawing never meet: what is drawn can be read, and drawn again, without a model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scans_lens.figures.catalogue import ABOUT, draw, known, measure
    from scans_lens.figures.effort import Effort
    from scans_lens.figures.measured import load, store
    from scans_lens.figures.study import Study
    from scans_lens.figures.style import save

__all__ = ["ABOUT", "Effort", "Study", "draw", "known", "load", "measure", "save", "store"]

_HOME = {
    "ABOUT": "catalogue", "draw": "catalogue", "known": "catalogue", "measure": "catalogue", "Effort": "effort",
    "load": "measured", "store": "measured", "Study": "study", "save": "style",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'scans_lens.figures' has no attribute {name!r}")
    return getattr(import_module(f"scans_lens.figures.{_HOME[name]}"), name)
