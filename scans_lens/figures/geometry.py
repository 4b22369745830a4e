"""Geometry: how long the directions are beside the residual stream, and how alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scans_lens.figures import captions
from scans_lens.figures.captions import Numbers
from scans_lens.figures.style import INK, KINDS, SOFT, WIDTH, blank, layers_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scans_lens.figures.picture import Picture
    from scans_lens.figures.study import Study

ABOUT = "how long the directions are, and how alike"


def measure(study: Study) -> dict[str, Any]:
    import torch

    from scans_lens.directions import difference_of_means
    from scans_lens.figures.estimates import interval

    directions = study.directions
    harmful, plain = (study.anchor_states[kind].residuals for kind in ("harmful", "plain"))
    generator = study.generator("geometry")
    lengths, sizes = [], []
    norms = [states.norm(dim=-1) for states in (harmful, plain)]
    for _ in range(study.effort.resamples):
        yes, no = (torch.randint(len(side), (len(side),), generator=generator) for side in (harmful, plain))
        lengths.append(difference_of_means(harmful[yes], plain[no]).norm(dim=-1))
        sizes.append((norms[0][yes].mean(0) + norms[1][no].mean(0)) / 2)
    units = directions.unit().vectors
    return {
        "length": directions.vectors.norm(dim=-1),
        "length_interval": interval(torch.stack(lengths)),
        "residual_norm": directions.residual_norms,
        "residual_norm_interval": interval(torch.stack(sizes)),
        "cosine": units @ units.T,
        "resamples": study.effort.resamples,
    }


def caption(numbers: Numbers, settings: Numbers) -> str:
    return captions.caption(
        captions.model(settings),
        captions.anchors(settings),
        f"Bands: 95 %, bootstrap over the anchors ({numbers['resamples']} resamples).",
    )


def draw(numbers: Numbers, settings: Numbers) -> Picture:
    picture = blank(WIDTH, 4.6, caption(numbers, settings))
    left, right = picture.subplots(1, 2, width_ratios=(1.15, 1))
    lengths_by_layer(left, numbers)
    cosines(right, numbers)
    return picture


def lengths_by_layer(ax: Axes, numbers: Numbers) -> Axes:
    """The direction's length beside the mean length of the residual stream."""
    at = range(len(numbers["length"]))
    for name, label, colour, mark in (
        ("residual_norm", "mean residual", SOFT, "s"),
        ("length", "direction (difference of means)", KINDS["harmful"]["color"], "o"),
    ):
        low, high = zip(*numbers[f"{name}_interval"], strict=True)
        ax.fill_between(at, low, high, color=colour, alpha=0.25, lw=0)
        ax.plot(at, numbers[name], color=colour, marker=mark, label=label)
    shares = [length / norm for length, norm in zip(numbers["length"], numbers["residual_norm"], strict=True)]
    ax.set_ylim(0, ax.get_ylim()[1])
    ax.set_ylabel("length (residual-stream units)")
    ax.set_title(f"The direction is {min(shares):.2f} to {max(shares):.2f} of the mean residual long")
    ax.legend(loc="upper left")
    layers_axis(ax, len(shares))
    return ax


def cosines(ax: Axes, numbers: Numbers) -> Axes:
    """Cosine between every two layers' directions."""
    values = np.array(numbers["cosine"])
    n = len(values)
    ax.spines[:].set_visible(False)
    image = ax.imshow(values, origin="lower", vmin=-1, vmax=1, cmap="RdBu_r")
    if n <= 16:
        for row in range(n):
            for column in range(n):
                shown = f"{values[row, column]:.2f}".replace("0.", ".", 1) if values[row, column] < 0.995 else "1"
                ax.text(
                    column,
                    row,
                    shown,
                    ha="center",
                    va="center",
                    fontsize=5.8,
                    color="white" if abs(values[row, column]) > 0.6 else INK,
                )
    step = max(1, -(-n // 16))
    ax.set_xticks(range(0, n, step))
    ax.set_yticks(range(0, n, step))
    ax.set_xlabel("layer (end of block)")
    ax.set_ylabel("layer (end of block)")
    ax.set_title("Cosine between the layers’ directions")
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.85, aspect=25)
    bar.outline.set_visible(False)  # type: ignore[operator]
    return ax
