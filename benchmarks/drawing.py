"""Drawing: how the cost grows, from the numbers of the last run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def growth(found: Mapping[str, Any], out: Path) -> None:
    """One panel for each thing that grows, both axes logarithmic; grey is a line of slope 1 through the last point."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 4, figsize=(11, 3.1), layout="constrained", sharey=True)
    for ax, (name, points) in zip(panels, found["seconds"].items(), strict=True):
        x, y = np.array([float(key) for key in points]), np.array(list(points.values()), dtype=float)
        if name != "batch size":
            ax.plot(x, y[-1] * x / x[-1], color="0.8", zorder=1)
        ax.plot(x, y, "o-", color="#0072b2", zorder=2)
        ax.set(xscale="log", yscale="log", xlabel=name)
        ax.set_xticks(x, [f"{value:g}" for value in x])
        ax.minorticks_off()
        ax.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("seconds")
    panels[0].set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    figure.suptitle(found["what"] + ". Grey: in proportion.", fontsize=8, x=0.01, ha="left")
    figure.savefig(out, dpi=150)
    pyplot.close(figure)
