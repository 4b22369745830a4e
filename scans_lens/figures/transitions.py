"""Transitions: how like the harmful anchors' mean transition those of test prompts are, and the score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scans_lens.figures import captions
from scans_lens.figures.captions import Numbers
from scans_lens.figures.style import INK, KINDS, WIDTH, blank, layers_axis, scores_axis, shade, stretched

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scans_lens.figures.picture import Picture
    from scans_lens.figures.study import Study

ABOUT = "the classifier's cosines by layer (paper, figure 5)"


def measure(study: Study) -> dict[str, Any]:
    import torch

    from scans_lens.figures import estimates
    from scans_lens.rates import Rate

    classifier = study.scans.classifier
    moves = {kind: study.moves(texts) for kind, texts in study.test.items()}
    by_layer = {kind: classifier.by_layer(own) for kind, own in moves.items()}
    scores = {kind: classifier.score(own) for kind, own in moves.items()}
    generator = study.generator("transitions")
    return {
        "n": {kind: len(values) for kind, values in by_layer.items()},
        "voting": classifier.layers,
        "threshold": classifier.threshold,
        "calibrated_on": classifier.calibrated_on,
        "last_after_norm": study.scans.reader.normed,
        "quantiles": estimates.BANDS,
        "bands": {kind: estimates.bands(values) for kind, values in by_layer.items()},
        "mean": {kind: values.mean(0) for kind, values in by_layer.items()},
        "mean_interval": {
            kind: estimates.interval(
                torch.stack([estimates.resampled(values, generator).mean(0) for _ in range(study.effort.resamples)])
            )
            for kind, values in by_layer.items()
        },
        "scores": scores,
        "taken_for_harmful": {
            kind: Rate.of((values >= classifier.threshold).tolist()) for kind, values in scores.items()
        },
        "resamples": study.effort.resamples,
    }


def caption(numbers: Numbers, settings: Numbers) -> str:
    rates = numbers["taken_for_harmful"]
    taken = "; ".join(f"{kind} {captions.percent(rates[kind])}" for kind in captions.in_order(rates))
    return captions.caption(
        captions.model(settings),
        captions.anchors(settings),
        captions.tested(settings, numbers["n"]),
        "Left: mean over prompts; bands from the 10th to the 90th percentile over prompts.",
        "The last layer is read after the final norm." if numbers["last_after_norm"] else "",
        "Right: the score is the mean over the voting layers; its axis is stretched towards 1.",
        f"Threshold: {numbers['calibrated_on']}. Taken for harmful: {taken} (95 %, Clopper–Pearson).",
    )


def draw(numbers: Numbers, settings: Numbers) -> Picture:
    picture = blank(WIDTH, 4.9, caption(numbers, settings))
    left, right = picture.subplots(1, 2, width_ratios=(1.25, 1))
    cosine_by_layer(left, numbers)
    scores(right, numbers)
    handles, labels = left.get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return picture


def cosine_by_layer(ax: Axes, numbers: Numbers) -> Axes:
    """Mean cosine of transitions with the harmful anchors' mean transition, by layer and kind (SCANS, figure 5)."""
    shade(ax, list(numbers["voting"]), f"voting: {captions.layers(numbers['voting'])}")
    n_layers = 0
    for kind in captions.in_order(numbers["mean"]):
        mean, band = numbers["mean"][kind], numbers["bands"][kind]
        at = range(len(mean))
        ax.fill_between(at, band[0], band[-1], color=KINDS[kind]["color"], alpha=0.16, lw=0)
        ax.plot(at, mean, label=kind, **KINDS[kind])
        n_layers = len(mean)
    ax.axhline(numbers["threshold"], color=INK, lw=1, ls=(0, (4, 3)), label=f"threshold {numbers['threshold']:.4f}")
    ax.set_ylabel("cosine with the harmful transition")
    ax.set_title("Transitions after “Sure”, by layer")
    layers_axis(ax, n_layers)
    return ax


def scores(ax: Axes, numbers: Numbers) -> Axes:
    """Share of each kind's prompts with at most a score, on an axis stretched towards 1."""
    everything = np.concatenate([numbers["scores"][kind] for kind in numbers["scores"]])
    for kind in captions.in_order(numbers["scores"]):
        ordered = np.sort(stretched(numbers["scores"][kind]))
        share = np.arange(1, len(ordered) + 1) / len(ordered)
        ax.step(
            np.r_[ordered[0], ordered],
            np.r_[0, share],
            where="post",
            label=kind,
            color=KINDS[kind]["color"],
            ls=KINDS[kind]["linestyle"],
        )
    ax.axvline(float(stretched(numbers["threshold"])), color=INK, lw=1, ls=(0, (4, 3)))
    ax.text(
        float(stretched(numbers["threshold"])), 0.12, "threshold ", ha="right", va="bottom", fontsize=7.5, rotation=90,
        transform=ax.get_xaxis_transform(), bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.4},
    )  # fmt: skip
    scores_axis(ax, float(everything.min()), float(everything.max()))
    ax.set_ylim(0, 1.01)
    ax.set_xlabel("score s of eq. 4 (stretched towards 1)")
    ax.set_ylabel("share of prompts at or below")
    ax.set_title("Scores, by share of prompts")
    return ax
