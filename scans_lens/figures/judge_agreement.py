"""Judge agreement: how far the judges agree on who is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from scans_lens.figures import captions
from scans_lens.figures.captions import Numbers
from scans_lens.figures.panels import dot, labelled, mark, refused_axis
from scans_lens.figures.style import ASKED, FAINT, INK, WIDTH, blank

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scans_lens.figures.picture import Picture
    from scans_lens.figures.study import Study
    from scans_lens.judges import Judge, Verdict
    from scans_lens.steering import Method

ABOUT = "how far the judges agree"


def measure(study: Study) -> dict[str, Any]:
    """How far the judges agree on who is refused, and how many each takes for refused."""
    from scans_lens import judges
    from scans_lens.figures.estimates import INSIDE
    from scans_lens.rates import Rate

    who: dict[str, Judge] = {**study.world.judges, **{name: judges.named(name) for name in judges.known()}}
    ways: dict[str, Method | None] = {"plain model": None, "SCANS": study.scans}
    said = {
        way: {kind: study.replies(texts, method, study.effort.judged_tokens) for kind, texts in study.test.items()}
        for way, method in ways.items()
    }
    verdicts = {
        name: {way: {kind: judge(list(own)) for kind, own in kinds.items()} for way, kinds in said.items()}
        for name, judge in who.items()
    }
    no = {name: _by_prompt(own, study.test) for name, own in verdicts.items()}
    rng = np.random.default_rng(study.seed)
    n = len(next(iter(no.values())))
    draws = rng.integers(n, size=(study.effort.resamples, n))
    pairs = []
    for one, other in combinations(who, 2):
        again = np.array([kappa(no[one][draw], no[other][draw]) for draw in draws])
        same = no[one] == no[other]
        over = np.quantile(same.mean(1)[draws].mean(1), INSIDE)
        pairs.append(
            {
                "judges": [one, other],
                "kappa": {"value": kappa(no[one], no[other]), "interval": np.nanquantile(again, INSIDE)},
                "agreement": {"value": float(same.mean()), "interval": over},
                "n": same.size,
            }
        )
    return {
        "n": study.sizes,
        "judges": list(who),
        "pairs": pairs,
        "refused": {
            name: {way: {kind: Rate.of(_refusals(own)) for kind, own in kinds.items()} for way, kinds in ways.items()}
            for name, ways in verdicts.items()
        },
        "other_verdicts": {
            name: {
                verdict: sum(own.count(verdict) for kinds in ways.values() for own in kinds.values())
                for verdict in ("partial", "degenerate")
            }
            for name, ways in verdicts.items()
        },
        "tokens": study.effort.judged_tokens,
        "resamples": study.effort.resamples,
    }


def _refusals(verdicts: Sequence[Verdict]) -> list[bool]:
    return [verdict == "refused" for verdict in verdicts]


def _by_prompt(verdicts: Mapping[str, Mapping[str, list[Verdict]]], kinds: Mapping[str, Any]) -> np.ndarray:
    """Whether each prompt is refused (row), in every way of answering (column)."""
    return np.array([[no for kind in kinds for no in _refusals(own[kind])] for own in verdicts.values()]).T


def kappa(one: np.ndarray, other: np.ndarray) -> float:
    """Cohen's, of refused or not."""
    agreed, a, b = float((one == other).mean()), float(one.mean()), float(other.mean())
    by_chance = a * b + (1 - a) * (1 - b)
    return (agreed - by_chance) / (1 - by_chance) if by_chance < 1 else 1.0


def caption(numbers: Numbers, settings: Numbers) -> str:
    other = "; ".join(
        f"{name} {found['partial']} partial, {found['degenerate']} degenerate"
        for name, found in numbers["other_verdicts"].items()
        if any(found.values())
    )
    return captions.caption(
        captions.model(settings),
        captions.tested(settings, numbers["n"]),
        f"Replies of up to {numbers['tokens']} tokens of the plain model and under SCANS,",
        f"{numbers['pairs'][0]['n']} in all. What a judge takes for partial or degenerate counts as not refused",
        f"({other})." if other else "(nothing was).",
        f"Matrix: in brackets 95 %, bootstrap over prompts ({numbers['resamples']} resamples). Right: bars 95 %,",
        "Clopper–Pearson.",
    )


def draw(numbers: Numbers, settings: Numbers) -> Picture:
    picture = blank(WIDTH, 5.0, caption(numbers, settings))
    left, middle, right = picture.subplots(1, 3, width_ratios=(2.1, 1, 1))
    agreement(left, numbers)
    called_refused(middle, numbers, "plain model")
    called_refused(right, numbers, "SCANS", named=False)
    marks = [mark(f"{kind} (n = {numbers['n'][kind]})", 5, **ASKED[kind]) for kind in captions.in_order(numbers["n"])]
    picture.legend(handles=marks, loc="outside upper right", ncols=len(marks))
    return picture


def _judges(numbers: Numbers) -> list[str]:
    return ["exact" if name == "bundled" else str(name) for name in numbers["judges"]]


def agreement(ax: Axes, numbers: Numbers) -> Axes:
    """Above the diagonal Cohen's kappa of two judges, below it how often they say the same."""
    names = numbers["judges"]
    values = np.full((len(names), len(names)), np.nan)
    ax.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5))
    for pair in numbers["pairs"]:
        one, other = (names.index(name) for name in pair["judges"])
        values[one, other], values[other, one] = pair["kappa"]["value"], pair["agreement"]["value"]
    ax.imshow(values, vmin=0, vmax=1.2, cmap="Blues", aspect="auto")
    for pair in numbers["pairs"]:
        one, other = (names.index(name) for name in pair["judges"])
        for x, y, found, times in ((other, one, pair["kappa"], 1), (one, other, pair["agreement"], 100)):
            colour = "white" if found["value"] > 0.8 else INK
            low, high = (times * edge for edge in found["interval"])
            value = f"{found['value']:.2f}" if times == 1 else f"{100 * found['value']:.1f} %"
            between = f"[{low:.2f}, {high:.2f}]" if times == 1 else f"[{low:.1f}, {high:.1f}]"
            ax.text(x, y - 0.1, value, ha="center", va="center", fontsize=7.8, color=colour)
            ax.text(x, y + 0.2, between, ha="center", va="center", fontsize=5.4, color=colour)
    shown = _judges(numbers)
    ax.set_xticks(range(len(names)), shown, fontsize=7.4)
    ax.set_yticks(range(len(names)), shown, fontsize=7.4)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title("Above: Cohen’s κ. Below: agreement (%)")
    return ax


def called_refused(ax: Axes, numbers: Numbers, way: str, *, named: bool = True) -> Axes:
    """How many prompts of each kind each judge takes for refused."""
    kinds = captions.in_order(numbers["n"])
    for y, name in enumerate(numbers["judges"]):
        for place, kind in enumerate(kinds):
            at = y + 0.2 * (place - (len(kinds) - 1) / 2)
            dot(ax, numbers["refused"][name][way][kind], at, ms=4.5, **ASKED[kind])
        if y:
            ax.axhline(y - 0.5, color=FAINT, lw=0.8, zorder=0)
    labelled(ax, _judges(numbers), named=named)
    ax.set_ylim(len(numbers["judges"]) - 0.5, -0.5)
    refused_axis(ax, along="x")
    ax.set_title(way)
    return ax
