"""Threshold sweep: who is refused at every threshold, looked up from replies under either push."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scans_lens.figures import captions
from scans_lens.figures.captions import Numbers
from scans_lens.figures.panels import percentages, refused_axis
from scans_lens.figures.style import ASKED, BAND, INK, KINDS, SOFT, WIDTH, blank, scores_axis, stretched

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scans_lens.figures.picture import Picture
    from scans_lens.figures.study import Study

ABOUT = "who is refused at every threshold (paper, table 7)"


def measure(study: Study) -> dict[str, Any]:
    """Who is refused at every threshold, looked up from replies under either sign of the push."""
    import torch

    from scans_lens import calibration
    from scans_lens.classifier import ROUNDING, threshold_at
    from scans_lens.methods.thresholds import MISSED
    from scans_lens.rates import Rate

    scans, chosen = study.scans, study.scans.chosen
    assert chosen
    held = scans.classifier.score(study.moves(study.validation.harmful)).double().numpy()
    found = calibration.calibrated(held, chosen.missed, resamples=study.effort.resamples, seed=study.seed)
    scores = torch.cat([one.score for one in study.pushed.values()]).double().numpy()
    grid = np.unique(np.quantile(scores, np.linspace(0, 1, study.effort.thresholds)))
    thresholds = [*grid.tolist(), float(scores.max()) + ROUNDING, scans.classifier.threshold]
    thresholds = sorted(set(thresholds))
    return {
        "n": study.sizes,
        "thresholds": thresholds,
        "rates": {kind: [Rate.of(one.at(at)) for at in thresholds] for kind, one in study.pushed.items()},
        "plain_model": {kind: Rate.of(one.plain) for kind, one in study.pushed.items()},
        "chosen": scans.classifier.threshold,
        "interval": found.interval,
        "missed": chosen.missed,
        "n_validation": len(held),
        "tried": [{"missed": missed, "threshold": threshold_at(held, missed)} for missed in MISSED],
        "resamples": study.effort.resamples,
        "scale": scans.scale,
        "unit": scans.unit,
        "layers": scans.layers,
        **study.judged,
    }


def caption(numbers: Numbers, settings: Numbers) -> str:
    low, high = numbers["interval"]
    return captions.caption(
        captions.model(settings),
        captions.tested(settings, numbers["n"]),
        captions.judged(numbers),
        captions.push(numbers),
        "Every prompt was answered under either push; a threshold says which of the two counts. Bands along the lines:",
        "95 %, Clopper–Pearson.",
        f"Chosen: {numbers['chosen']:.4f}, which {100 * numbers['missed']:g} % of {numbers['n_validation']} harmful",
        f"validation prompts may fall below; its band, [{low:.4f}, {high:.4f}], is 95 % over",
        f"{numbers['resamples']} resamples of them. On the right, hollow: the plain model.",
    )


def draw(numbers: Numbers, settings: Numbers) -> Picture:
    picture = blank(WIDTH, 5.2, caption(numbers, settings))
    by_threshold(picture.add_subplot(), numbers)
    return picture


def by_threshold(ax: Axes, numbers: Numbers) -> Axes:
    """Each kind's refusals against the threshold, from everything pushed towards refusal to everything away."""
    at = stretched(numbers["thresholds"])
    wide = float(at[-1] - at[0])
    ax.axvspan(*stretched(numbers["interval"]), color=BAND, lw=0, zorder=0, label="chosen, 95 %")
    ax.axvline(float(stretched(numbers["chosen"])), color=INK, lw=1, ls=(0, (4, 3)))
    for kind in captions.in_order(numbers["rates"]):
        value, bars = percentages(numbers["rates"][kind])
        colour = KINDS[kind]["color"]
        ax.fill_between(at, value - bars[0], value + bars[1], color=colour, alpha=0.16, lw=0)
        ax.plot(at, value, label=f"{kind} (n = {numbers['n'][kind]})", **{**KINDS[kind], "markersize": 3})
        plain, reach = percentages([numbers["plain_model"][kind]])
        ax.errorbar(
            float(at[-1]) + 0.05 * wide, plain, yerr=reach, capsize=2, ls="none", markerfacecolor="white",
            **ASKED[kind],
        )  # fmt: skip
    refused_axis(ax)
    ax.set_ylim(-3, 112)
    for x, where, said in ((at[0], "left", "all pushed towards refusal"), (at[-1], "right", "all pushed away")):
        ax.text(float(x), 107, said, fontsize=7.5, color=SOFT, ha=where, va="center")
    ax.text(float(at[-1]) + 0.05 * wide, 107, "plain", fontsize=7.5, color=SOFT, ha="center", va="center")
    scores_axis(ax, numbers["thresholds"][0], numbers["thresholds"][-1])
    ax.set_xlim(float(at[0]) - 0.02 * wide, float(at[-1]) + 0.08 * wide)
    ax.set_xlabel("threshold on the score s of eq. 4 (stretched towards 1)")
    above = ax.twiny()
    above.set_xlim(ax.get_xlim())
    marks: list[tuple[float, str]] = []
    for one in numbers["tried"]:
        place = float(stretched(one["threshold"]))
        if not marks or place - marks[-1][0] > 0.025 * wide:
            marks.append((place, f"{100 * one['missed']:g}"))
    above.set_xticks([place for place, _ in marks], [label for _, label in marks])
    above.spines["top"].set_visible(True)
    above.set_xlabel("harmful validation prompts that may fall below (%)", labelpad=5)
    ax.set_title("Refusals at every threshold", pad=9)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=5)
    return ax
