"""Catalogue: every figure by name, in order. A figure is a file in this folder.

Each file has one line that says what it shows (`ABOUT`), `measure(study)`, which needs a model, and
`draw(numbers, settings)`, which needs none. None of them imports torch or matplotlib before it measures or draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

if TYPE_CHECKING:
    from scans_lens.figures.picture import Picture
    from scans_lens.figures.runs import Runs
    from scans_lens.figures.study import Study

NAMES = (
    "overview", "example", "anchor_layers", "top_tokens", "geometry", "projections", "transitions", "tsne",
    "classifier", "refusal_rates", "push_sweep", "threshold_sweep", "thirds", "by_type", "calibration",
    "judge_agreement", "anchor_size", "capability", "probers", "states", "switching", "switch_by_type",
    "refusal_direction", "comparison", "front", "benchmarks", "ceilings",
)  # fmt: skip
FROM_A_RUN = {"comparison": "compared", "front": "compared", "benchmarks": "evaluated", "ceilings": "evaluated"}
"""Figures whose numbers come from a folder that another command fills (`runs.Runs`), and not from a study."""


@runtime_checkable
class Figure(Protocol):
    """What the file of a figure holds."""

    ABOUT: str

    def measure(self, study: Any) -> dict[str, Any]:
        """The figure's numbers, of a study, or of the runs of `FROM_A_RUN`."""
        ...

    def draw(self, numbers: Mapping[str, Any], settings: Mapping[str, Any]) -> Picture:
        """The picture of these numbers, which were measured with these settings."""
        ...


class _About(Mapping[str, str]):
    """What every figure shows, read from its file when it is asked for."""

    def __getitem__(self, name: str) -> str:
        if name not in NAMES:
            raise KeyError(name)
        return figure(name).ABOUT

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)


ABOUT: Mapping[str, str] = _About()
"""Every figure, in order, with what it shows."""


def known(name: str) -> str:
    """The name, if there is such a figure."""
    if name not in NAMES:
        raise ValueError(f"No figure {name!r}; there are {', '.join(NAMES)}.")
    return name


def figure(name: str) -> Figure:
    """The file of this figure."""
    return cast(Figure, import_module(f"scans_lens.figures.{known(name)}"))


def measure(name: str, study: Study | Runs) -> dict[str, Any]:
    """The figure's numbers, as JSON can hold them, with what they were measured on and with."""
    import torch

    from scans_lens import artefacts
    from scans_lens.figures.measured import FORMAT, plain
    from scans_lens.figures.runs import Runs

    with torch.no_grad():
        numbers = figure(name).measure(study)
    if isinstance(study, Runs):  # with settings and versions of their own, and as they were written
        settings, versions = numbers.pop("settings"), numbers.pop("made_with")
    else:
        settings, versions, numbers = study.settings, artefacts.versions(), plain(numbers)
    return {"figure": name, "format": FORMAT, "settings": settings, "made_with": versions, "numbers": numbers}


def draw(name: str, measured: Mapping[str, Any]) -> Picture:
    """The picture of these numbers; no model is needed.

    Raises:
        ValueError: there is no such figure, or the numbers belong to another one.
    """
    from scans_lens.figures import style

    if measured.get("figure") != known(name):
        raise ValueError(f"These numbers are of the figure {measured.get('figure')!r}, not of {name!r}.")
    with style.looks():
        return style.settled(figure(name).draw(measured["numbers"], measured["settings"]))
