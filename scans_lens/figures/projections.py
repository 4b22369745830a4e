"""Projections: how far prompts lie along each layer's refusal direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scans_lens.figures import captions
from scans_lens.figures.captions import Numbers
from scans_lens.figures.style import FAINT, KINDS, SOFT, WIDTH, blank, layers_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scans_lens.figures.picture import Picture
    from scans_lens.figures.study import Study

ABOUT = "prompts along the refusal direction, by layer"


def measure(study: Study) -> dict[str, Any]:
    from scans_lens.directions import components
    from scans_lens.figures import estimates

    directions = study.directions
    along = {
        kind: components(states.residuals, directions.unit().vectors) / directions.residual_norms
        for kind, states in study.test_states.items()
    }

    def apart(kind: str) -> dict[str, Any]:
        rng = np.random.default_rng([study.seed, len(kind)])
        return estimates.auc(along["harmful"], along[kind], rng, study.effort.resamples)

    return {
        "n": {kind: len(values) for kind, values in along.items()},
        "quantiles": estimates.BANDS,
        "bands": {kind: estimates.bands(values) for kind, values in along.items()},
        "auc": {kind: apart(kind) for kind in ("plain", "borderline") if kind in along},
        "resamples": study.effort.resamples,
    }


def caption(numbers: Numbers, settings: Numbers) -> str:
    return captions.caption(
        captions.model(settings),
        captions.anchors(settings),
        captions.tested(settings, numbers["n"]),
        "Left: median, with bands over prompts from the 10th to the 90th and from the 25th to the 75th percentile,",
        "in shares of the anchors’ mean residual norm at the layer.",
        f"Right: bars are 95 %, bootstrap over test prompts ({numbers['resamples']} resamples).",
    )


def draw(numbers: Numbers, settings: Numbers) -> Picture:
    picture = blank(WIDTH, 4.5, caption(numbers, settings))
    left, right = picture.subplots(1, 2, width_ratios=(1.25, 1))
    bands_by_layer(left, numbers)
    left.set_ylabel("projection (share of mean residual norm)")
    left.set_title("Prompts along each layer’s refusal direction")
    left.axhline(0, color=FAINT, lw=1, zorder=0)
    left.legend(loc="best", ncols=2)
    auc_by_layer(right, numbers)
    return picture


def bands_by_layer(ax: Axes, numbers: Numbers) -> Axes:
    """Median and quantile bands over prompts, by kind."""
    n_layers = 0
    for kind in captions.in_order(numbers["bands"]):
        outer_low, low, median, high, outer_high = numbers["bands"][kind]
        at = range(len(median))
        colour = KINDS[kind]["color"]
        ax.fill_between(at, outer_low, outer_high, color=colour, alpha=0.12, lw=0)
        ax.fill_between(at, low, high, color=colour, alpha=0.22, lw=0)
        ax.plot(at, median, label=kind, **KINDS[kind])
        n_layers = len(median)
    layers_axis(ax, n_layers)
    return ax


def auc_by_layer(ax: Axes, numbers: Numbers) -> Axes:
    """How well the projection alone tells harmful prompts from each harmless kind."""
    shift = 0.0
    n_layers = 0
    for kind in captions.in_order(numbers["auc"]):
        part = numbers["auc"][kind]
        value = np.array(part["value"])
        bars = np.abs(np.array(part["interval"]).T - value)
        n_layers = len(value)
        ax.errorbar(
            np.arange(n_layers) + shift, value, yerr=bars, capsize=2.5, label=f"harmful against {kind}", **KINDS[kind]
        )
        shift += 0.15
    low = min(min(np.array(part["interval"])[:, 0]) for part in numbers["auc"].values())
    ax.set_ylim(min(0.48, low - 0.03) - 0.1, 1.02)  # with room for the legend
    ax.axhline(0.5, color=FAINT, lw=1, zorder=0)
    ax.text(n_layers - 0.6, 0.505, "chance", fontsize=7.5, color=SOFT, ha="right", va="bottom")
    ax.set_ylabel("AUC")
    ax.set_title("How well that tells them apart")
    ax.legend(loc="lower right")
    layers_axis(ax, n_layers)
    return ax
