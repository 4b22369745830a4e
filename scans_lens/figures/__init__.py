"""Figures: numbers in, Figure out. `python -m scans_lens.figures` measures a model and draws all of them.

    study = figures.Study.of(scans_lens.load_model())     # what several figures need, computed once
    measured = figures.measure("transitions", study)      # plain numbers, as they lie in figures/measured/*.json
    figures.draw("transitions", measured)                 # needs no model

Measuring and drawing never meet: what is drawn can be read, and drawn again, without a model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scans_lens.figures.study import Study
    from scans_lens.figures.style import Picture

__all__ = ["ABOUT", "Study", "draw", "load", "measure", "save", "store"]

FORMAT = 1
"""Of the measured numbers; one more whenever what is measured changes."""

ABOUT = {
    "overview": "the method on one page (paper, figure 2)",
    "example": "real replies, plain and steered (paper, figure 1)",
    "anchor_layers": "where refusal is decided: lens and cause by layer",
    "top_tokens": "what the directions say, by layer and by third (paper, table 1)",
    "geometry": "how long the directions are, and how alike",
    "projections": "prompts along the refusal direction, by layer",
    "transitions": "the classifier's cosines by layer (paper, figure 5)",
    "tsne": "transitions in two dimensions (paper, figure 3)",
    "classifier": "the score against offline baselines (paper, figure 4)",
    "refusal_rates": "who is refused, under which method (paper, table 2)",
    "push_sweep": "who is refused at every scale, beside placebos (paper, table 6)",
    "threshold_sweep": "who is refused at every threshold (paper, table 7)",
    "thirds": "the same push in other layers (paper, table 5)",
    "by_type": "which types of prompts are refused",
    "calibration": "the score's trade-off, and thresholds carried over",
    "judge_agreement": "how far the judges agree",
    "anchor_size": "how many anchors are enough",
    "capability": "what the push costs (paper, table 3)",
    "probers": "what SafeSwitch's probers tell, by layer and by tokens decoded",
    "states": "harmless, refused and complied prompts in the plane, at four depths",
    "switching": "who is answered before and after SafeSwitch, and how refusals are worded",
    "switch_by_type": "where the switch decides rightly, by wrapping and by type",
    "refusal_direction": "every candidate for the one refusal direction, and the chosen one",
}
"""Every figure, in order, with what it shows."""


def __getattr__(name: str) -> Any:
    if name == "Study":  # fetched when it is used: it brings torch along
        return import_module("scans_lens.figures.study").Study
    raise AttributeError(f"module 'scans_lens.figures' has no attribute {name!r}")


def known(name: str) -> str:
    """The name, if there is such a figure."""
    if name not in ABOUT:
        raise ValueError(f"No figure {name!r}; there are {', '.join(ABOUT)}.")
    return name


def measure(name: str, study: Study) -> dict[str, Any]:
    """The figure's numbers, as JSON can hold them, with what they were measured on and with."""
    from scans_lens.figures import measuring

    return measuring.measure(known(name), study)


def draw(name: str, measured: Mapping[str, Any]) -> Picture:
    """The figure of these numbers; no model is needed.

    Raises:
        ValueError: there is no such figure, or the numbers belong to another one.
    """
    from scans_lens.figures import drawing

    if measured.get("figure") != known(name):
        raise ValueError(f"These numbers are of the figure {measured.get('figure')!r}, not of {name!r}.")
    return drawing.draw(name, measured)


def save(picture: Picture, folder: str | Path, name: str) -> list[Path]:
    """Write `<name>.png` and `<name>.svg`, byte for byte the same for the same numbers."""
    from scans_lens.figures import style

    return style.save(picture, Path(folder), known(name))


def load(name: str, folder: str | Path) -> dict[str, Any]:
    """Measured numbers from `<folder>/<name>.json`.

    Raises:
        ValueError: they are not there, cannot be read, or are of another format.
    """
    file = Path(folder) / f"{known(name)}.json"
    if not file.is_file():
        raise ValueError(
            f"There are no measured numbers of {name!r} in {str(folder)!r}; measure them first, without --draw-only."
        )
    try:
        measured = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{str(file)!r} is no JSON, or it is cut short: {error}") from error
    if not isinstance(measured, dict) or measured.get("format") != FORMAT or measured.get("figure") != name:
        raise ValueError(
            f"{str(file)!r} does not hold the figure {name!r} in format {FORMAT}; measure it again (--again)."
        )
    return measured


def store(measured: Mapping[str, Any], folder: str | Path) -> Path:
    """Write `<folder>/<figure>.json`, whole or not at all."""
    file = Path(folder) / f"{known(measured['figure'])}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(file.name + ".part")
    aside.write_text(_as_json(measured) + "\n", encoding="utf-8")
    os.replace(aside, file)
    return file


def _as_json(value: Any, indent: int = 0) -> str:
    """JSON with one line for every list of plain values, so that it can be read and compared."""
    inner = " " * (indent + 1)
    if isinstance(value, Mapping):
        rows = [f"{inner}{json.dumps(str(key))}: {_as_json(entry, indent + 1)}" for key, entry in value.items()]
        return "{\n" + ",\n".join(rows) + "\n" + " " * indent + "}" if rows else "{}"
    if isinstance(value, (list, tuple)) and any(isinstance(entry, (list, tuple, Mapping)) for entry in value):
        rows = [f"{inner}{_as_json(entry, indent + 1)}" for entry in value]
        return "[\n" + ",\n".join(rows) + "\n" + " " * indent + "]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
