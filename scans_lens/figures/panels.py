"""Panels: what several figures draw alike: a value with its interval, rows with labels, an axis of refusals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scans_lens.figures.captions import Numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

Place = int | float


def percentages(rates: Sequence[Numbers]) -> tuple[np.ndarray, np.ndarray]:
    """Percentages, and how far their intervals reach below and above."""
    value = np.array([100 * rate["value"] for rate in rates])
    low, high = 100 * np.array([rate["interval"] for rate in rates]).T
    return value, np.array([value - low, high - value]).clip(min=0)


def refused_axis(ax: Axes, *, along: str = "y") -> None:
    if along == "y":
        ax.set(ylim=(-3, 104), ylabel="refused (%)", yticks=[0, 25, 50, 75, 100])
    else:
        ax.set(xlim=(-4, 104), xlabel="refused (%)", xticks=[0, 25, 50, 75, 100])


def beside(ax: Axes, y: Place, said: str, **look: Any) -> None:
    """A number to the right of a row."""
    ax.text(1.02, y, said, transform=ax.get_yaxis_transform(), **{"fontsize": 7.2, "va": "center", **look})


def dot(ax: Axes, rate: Numbers, y: Place, *, times: Place = 100, **look: Any) -> None:
    """A value with its interval, lying down."""
    low, high = (times * edge for edge in rate["interval"])
    ax.plot([low, high], [y, y], color=look["color"], lw=1.6, solid_capstyle="butt")
    ax.plot(times * rate["value"], y, ls="none", **{"ms": 5.5, **look})


def labelled(ax: Axes, labels: Sequence[str], *, named: bool = True) -> None:
    """One row a label, from the top down."""
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.6)
    ax.tick_params(axis="y", length=0, labelleft=named)


def mark(label: str, size: Place = 5.5, **look: Any) -> Line2D:
    """A mark without a line, for a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], ls="none", ms=size, label=label, **look)
