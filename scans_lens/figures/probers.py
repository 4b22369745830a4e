"""Probers: what SafeSwitch's probers tell, learned anew at every layer and after every token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scans_lens.figures import captions
from scans_lens.figures.captions import Numbers
from scans_lens.figures.panels import percentages
from scans_lens.figures.style import INK, WIDTH, blank

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from scans_lens.figures.picture import Picture
    from scans_lens.figures.study import Study
    from scans_lens.figures.switch_study import Switching

ABOUT = "what SafeSwitch's probers tell, by layer and by tokens decoded"


def measure(study: Study) -> dict[str, Any]:
    """How often every prober is right, learned anew at every layer, and two of them after 0 to 10 reply tokens."""
    from scans_lens.figures import switch_study

    own = study.switching
    return {**switch_study.about(study), "by_layer": by_layer(own), "by_tokens": by_tokens(own)}


def by_layer(study: Switching) -> dict[str, Any]:
    """Each prober learned anew at every layer, and behind them after the final norm: accuracy and AUC.

    `instruction` and `direct` (harmful and complied) read the end of the prompt, `compliance` reads k tokens later.
    """
    from scans_lens.figures.switch_study import QUESTIONS, SORTS, accuracy, majority, prober_at

    tested, depth = study.tested, study.learned.first.shape[1]
    found: dict[str, Any] = {}
    for name, (at, answer) in QUESTIONS.items():
        truth = answer(tested)
        for sort, hidden in SORTS.items():
            rows = []
            for layer in range(depth):
                prober, states = prober_at(study, name, layer, hidden), getattr(tested, at)[:, layer]
                right = accuracy(study, prober.probability(states) >= 0.5, truth)
                rows.append({"auc": prober.quality(states, truth).auc, **right})
            found.setdefault(name, {})[sort] = rows
    return {
        "n": len(tested.kinds),
        "layers": depth - 1,
        "k": study.method.k,
        "probers": found,
        "majority": {name: majority(answer(tested)) for name, (_, answer) in QUESTIONS.items()},
    }


def by_tokens(study: Switching) -> dict[str, Any]:
    """Two stages, the second read after 0 to 10 reply tokens: is a prompt harmful and complied with?

    Both must be at least a half, as in the authors' code; the one-stage prober of the same label stands beside it.
    """
    from scans_lens.figures.switch_study import QUESTIONS, SORTS, accuracy, majority
    from scans_lens.prober import Prober

    learned, held, tested = study.learned, study.held, study.tested
    truth = tested.harmful & tested.complied

    def found(name: str, token: int, sort: str) -> Tensor:
        answer = QUESTIONS[name][1]
        prober = Prober.fit(
            name,
            learned.ahead[:, token],
            answer(learned),
            held.ahead[:, token],
            answer(held),
            hidden=SORTS[sort],
            seed=study.seed,
        )
        return prober.probability(tested.ahead[:, token]) >= 0.5

    first = {sort: found("instruction", 0, sort) for sort in SORTS}
    rows: list[dict[str, Any]] = []
    for token in range(study.effort.ahead + 1):
        second = {sort: found("compliance", token, sort) for sort in SORTS}
        two = {sort: accuracy(study, first[sort] & second[sort], truth) for sort in SORTS}
        alone = {sort: accuracy(study, second[sort], tested.complied) for sort in SORTS}
        rows.append({"two stages": two, "compliance": alone})
    return {
        "n": len(truth),
        "positive": int(truth.sum()),
        "majority": majority(truth),
        "tokens": rows,
        "one stage": {sort: accuracy(study, found("direct", 0, sort), truth) for sort in SORTS},
    }


_PROBERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "instruction": ("harmful?", {"color": "#0072B2", "marker": "o"}),
    "compliance": ("complied with?", {"color": "#E69F00", "marker": "s"}),
    "direct": ("harmful and complied with? (one stage)", {"color": "#009E73", "marker": "^"}),
}
_TWO: dict[str, Any] = {"color": "#000000", "marker": "D"}
_SORTS: Mapping[str, dict[str, Any]] = {
    "network": {"ls": "-"},
    "straight line": {"ls": ":", "markerfacecolor": "white", "lw": 1.2},
}


def caption(numbers: Numbers, settings: Numbers) -> str:
    by_layer = numbers["by_layer"]
    return captions.caption(
        captions.model(settings),
        captions.switch_tested(numbers),
        captions.WRAPPED,
        f"Probers of SafeSwitch (arXiv 2502.01042), every one learned from {numbers['learned']['probers']} training",
        f"prompts, stopped and calibrated on {numbers['learned']['held']} validation prompts; right where its half",
        f"falls on the right side. Bars: 95 %, bootstrap over the {numbers['items']} things that prompts are about",
        f"({numbers['resamples']} resamples). Hollow and dotted: straight lines (logistic regression) in place of",
        "networks of one hidden layer. Thin lines: always the commoner answer. “Complied with?” reads",
        f"{by_layer['k']} reply tokens later on the left. Right: two stages say yes where “harmful?” at the end of",
        "the prompt and “complied with?” after so many tokens both do, each read after the final norm.",
    )


def draw(numbers: Numbers, settings: Numbers) -> Picture:
    by_layer = numbers["by_layer"]
    picture = blank(WIDTH, 4.9, caption(numbers, settings))
    left, right = picture.subplots(1, 2, width_ratios=(1.15, 1))
    probers_by_layer(left, by_layer)
    probers_by_tokens(right, numbers["by_tokens"])
    for ax in (left, right):
        low = ax.dataLim.y0
        ax.set_ylim(max(0, low - 0.06 * (100 - low)), 100 + 0.04 * (100 - low))
        ax.set_ylabel("test prompts told rightly (%)")
    return picture


def _line(ax: Axes, at: Any, rates: Sequence[Numbers], sort: str, label: str, look: Mapping[str, Any]) -> None:
    value, bars = percentages(rates)
    ax.errorbar(at, value, yerr=bars, capsize=2, elinewidth=1, label=label, **{**look, **_SORTS[sort]})


def _majority(ax: Axes, share: float, colour: str) -> None:
    ax.axhline(100 * share, color=colour, lw=0.7, alpha=0.7, zorder=0)


def probers_by_layer(ax: Axes, numbers: Numbers) -> Axes:
    """Accuracy of the three probers at every layer, and behind the final norm."""
    n = numbers["layers"]
    for place, (name, sorts) in enumerate(numbers["probers"].items()):
        question, look = _PROBERS[name]
        for sort, found in sorts.items():
            at = np.arange(len(found)) + 0.14 * (place - 1)
            _line(ax, at, found, sort, question if sort == "network" else "_", look)
        _majority(ax, numbers["majority"][name], look["color"])
    step = max(1, -(-n // 14))
    ax.set_xticks([*range(0, n, step), n], [*map(str, range(0, n, step)), "norm"])
    ax.set_xlabel("layer (end of block); norm: after the final norm, as published")
    ax.set_title("Probers by layer")
    ax.legend(loc="lower right", bbox_to_anchor=(1, 0.14))
    return ax


def probers_by_tokens(ax: Axes, numbers: Numbers) -> Axes:
    """Accuracy of two stages by how far the second looks ahead, beside one stage."""
    from matplotlib.lines import Line2D

    at = np.arange(len(numbers["tokens"]))
    direct = _PROBERS["direct"][1]["color"]
    for sort, look in _SORTS.items():
        one = numbers["one stage"][sort]
        low, high = (100 * edge for edge in one["interval"])
        ax.axhline(100 * one["value"], color=direct, ls=look["ls"], lw=1.4, label="_")
        if sort == "network":
            ax.axhspan(low, high, color=direct, alpha=0.13, lw=0)
    for sort in _SORTS:
        first = sort == "network"
        own = [row["two stages"][sort] for row in numbers["tokens"]]
        _line(ax, at - 0.08, own, sort, "harmful and complied with? (two stages)" if first else "_", _TWO)
        own = [row["compliance"][sort] for row in numbers["tokens"]]
        _line(
            ax, at + 0.08, own, sort, "complied with? (second stage alone)" if first else "_", _PROBERS["compliance"][1]
        )
    _majority(ax, numbers["majority"], INK)
    handles, labels = ax.get_legend_handles_labels()
    handles.append(Line2D([], [], color=direct))
    labels.append("harmful and complied with? (one stage; band: 95 %)")
    ax.legend(handles, labels, loc="lower right", bbox_to_anchor=(1, 0.08))
    ax.set_xticks(at)
    ax.set_xlabel("reply tokens that the second stage has seen")
    ax.set_title("Two stages by tokens decoded (another axis)")
    return ax
