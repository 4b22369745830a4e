"""Switching: who is answered before and after SafeSwitch, and how refusals are worded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scans_lens.figures import captions
from scans_lens.figures.captions import Numbers
from scans_lens.figures.panels import beside, dot, labelled, mark
from scans_lens.figures.style import ASKED, FAINT, INK, SOFT, WIDTH, blank

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scans_lens.figures.picture import Picture
    from scans_lens.figures.study import Study
    from scans_lens.figures.switch_study import Switching
    from scans_lens.methods.safeswitch import SafeSwitch

ABOUT = "who is answered before and after SafeSwitch, and how refusals are worded"


HARD_WORDS = 20
"""A refusal of fewer words is a hard one (the release's rule)."""


def measure(study: Study) -> dict[str, Any]:
    """Who is answered with and without the switch, by kind, with paired tests, and how refusals are worded."""
    from scans_lens.figures.switch_study import about
    from scans_lens.rates import holm

    own = study.switching
    found = before_and_after(own)
    ways = {
        way: {kind: part[kind] for kind in own.asked}  # harmful prompts and jailbreaks together are left out
        for way, part in found["ways"].items()
    }
    plain = ways["plain model"]
    tests = [(way, kind) for way in ways if way != "plain model" for kind in own.asked]
    for (way, kind), p in zip(tests, holm([ways[way][kind]["p"] for way, kind in tests]), strict=True):
        difference = ways[way][kind]["complied"]["value"] - plain[kind]["complied"]["value"]
        ways[way][kind] |= {"p_holm": p, "difference": difference}
    return {
        **about(study),
        "ways": ways,
        "tests": len(tests),
        "manners": manners(own),
        "tokens": own.effort.switch_tokens,
        "hard_words": HARD_WORDS,
    }


def before_and_after(study: Switching, others: Mapping[str, SafeSwitch] | None = None) -> dict[str, Any]:
    """Who is complied with, by kind: plain model, head always on, oracle switch, the method by either rule, others.

    Replies of the head and of the plain model are run once each, and every switch is looked up from them. The oracle
    switches where a harmful prompt is complied with. `complied harmful` are harmful prompts and jailbreaks together.
    """
    import torch

    from scans_lens.figures.switch_study import decisions
    from scans_lens.methods.safeswitch_probers import complied
    from scans_lens.rates import Paired, Rate

    does = {
        way: torch.tensor([yes for kind in study.asked for yes in complied(study.judge, said[kind])])
        for way, said in (("plain", study.plain), ("head", study.headed))
    }
    kinds, harmful = np.array(study.tested.kinds), study.tested.harmful
    switches = {
        "plain model": torch.zeros_like(harmful),
        "head always on": torch.ones_like(harmful),
        "oracle switch": harmful & does["plain"],
        "SafeSwitch": decisions(study)["switched"],
        "both at least a half": decisions(study, replace(study.method, rule="both"))["switched"],
        **{name: decisions(study, other)["switched"] for name, other in (others or {}).items()},
    }
    ways = {}
    plain = does["plain"].tolist()
    for name, switched in switches.items():
        after = torch.where(switched, does["head"], does["plain"])
        sets = {kind: torch.tensor(kinds == kind) for kind in study.asked} | {"complied harmful": harmful}
        ways[name] = {
            kind: {
                "switched": Rate.of(switched[own].tolist()).as_json(),
                "complied": Rate.of(after[own].tolist()).as_json(),
                "p": Paired.of([plain[i] for i in own.nonzero()[:, 0]], after[own].tolist()).p,
            }
            for kind, own in sets.items()
        }
    return {"split": study.split, "threshold": study.method.threshold, "ways": ways}


def manners(study: Switching) -> dict[str, Any]:
    """How refusals of harmful prompts look: with a reason, with what was asked for, and hard (under 20 words).

    The plain model's own refusals, and the head's where the method switched.
    """
    from scans_lens.figures.switch_study import decisions
    from scans_lens.organism import wordings
    from scans_lens.rates import Rate

    switched = decisions(study)["switched"].tolist()
    items = [item for own in study.asked.values() for item, _ in own]
    place = 0
    groups: dict[str, list[tuple[Any, str]]] = {"plain model": [], "SafeSwitch": []}
    for kind in study.asked:
        for plain, headed in zip(study.plain[kind], study.headed[kind], strict=True):
            if kind in ("harmful", "jailbreak"):
                if wordings.is_refusal(plain):
                    groups["plain model"].append((items[place], plain))
                if switched[place] and wordings.is_refusal(headed):
                    groups["SafeSwitch"].append((items[place], headed))
            place += 1
    return {
        way: {
            "says why": Rate.of(wordings.says_why(reply) for _, reply in own).as_json(),
            "names it": Rate.of(wordings.names(item, reply) for item, reply in own).as_json(),
            "hard": Rate.of(len(reply.split()) < HARD_WORDS for _, reply in own).as_json(),
        }
        for way, own in groups.items()
        if own
    }


_WAYS: Mapping[str, str] = {
    "plain model": "plain model",
    "SafeSwitch": "SafeSwitch",
    "both at least a half": "both at least ½",
    "head always on": "head always on",
    "oracle switch": "oracle switch",
}


def caption(numbers: Numbers, settings: Numbers) -> str:
    return captions.caption(
        captions.model(settings),
        captions.switch_tested(numbers),
        captions.WRAPPED,
        captions.switch_fitted(numbers),
        "Both at least ½: the released code’s rule. Oracle: the head where a harmful prompt would be complied with,",
        f"and nowhere else. Replies of up to {numbers['tokens']} tokens, complied with by the model’s own judge (in",
        "whole or in part); bars: 95 %, Clopper–Pearson. Change: points against the plain model, bold where McNemar’s",
        f"exact test has p < .05 after Holm over {numbers['tests']} tests. Wording: of refusals of harmful prompts",
        "and jailbreaks, the plain model’s own and those of replies that switched; bare: under",
        f"{numbers['hard_words']} words. The head has {100 * numbers['share']:.1f} % as many numbers as the model.",
    )


def draw(numbers: Numbers, settings: Numbers) -> Picture:
    picture = blank(WIDTH, 8.0, caption(numbers, settings))
    above, below = picture.add_gridspec(2, 1, height_ratios=(2.6, 1), hspace=0.04)
    grid = above.subgridspec(2, 3)
    kinds = [("harmful", "plain", "wrapped plain"), ("jailbreak", "borderline", "wrapped borderline")]
    for row, own in enumerate(kinds):
        for column, kind in enumerate(own):
            answered(picture.add_subplot(grid[row, column]), numbers, kind, named=column == 0)
    worded(picture.add_subplot(below), numbers)
    return picture


def answered(ax: Axes, numbers: Numbers, kind: str, *, named: bool = True) -> Axes:
    """How often one kind is complied with, every way."""
    look = ASKED[kind]
    ways = [way for way in _WAYS if way in numbers["ways"]]
    ways += [way for way in numbers["ways"] if way not in _WAYS]
    ax.axvline(100 * numbers["ways"]["plain model"][kind]["complied"]["value"], color=FAINT, lw=1, zorder=0)
    for y, way in enumerate(ways):
        part = numbers["ways"][way][kind]
        dot(ax, part["complied"], y, **look)
        if "difference" in part:
            sure = part["p_holm"] < 0.05
            change = f"{100 * part['difference']:+.1f}".replace("-", "−") if part["difference"] else "±0"
            weight = {"fontweight": "bold", "color": INK} if sure else {"color": SOFT}
            beside(ax, y, change, **weight)
    beside(ax, -0.6, "change", fontsize=6.8, color=SOFT)
    labelled(ax, [_WAYS.get(way, way) for way in ways], named=named)
    ax.set(xlim=(-4, 104), xticks=[0, 25, 50, 75, 100], xlabel="complied with (%)")
    ax.set_title(f"{kind} (n = {numbers['n'][kind]})", color=look["color"], fontweight="bold")
    return ax


_MANNERS = {
    "says why": "says why",
    "names it": "names what was asked for",
    "hard": "bare: under {hard_words} words",
}


def worded(ax: Axes, numbers: Numbers) -> Axes:
    """How refusals are worded: the plain model's own, and the head's."""
    looks: dict[str, dict[str, Any]] = {
        "plain model": {"color": SOFT, "marker": "o", "markerfacecolor": "white"},
        "SafeSwitch": {"color": "#D55E00", "marker": "o"},
    }
    found = numbers["manners"]
    for place, (way, look) in enumerate(looks.items()):
        if way not in found:
            continue
        for y, name in enumerate(_MANNERS):
            dot(ax, found[way][name], y + 0.3 * (place - 0.5), **look)
            beside(ax, y + 0.3 * (place - 0.5), captions.percent(found[way][name]), color=look["color"])
    labelled(ax, [said.format(**numbers) for said in _MANNERS.values()])
    ax.set(xlim=(-2, 102), xticks=[0, 25, 50, 75, 100], xlabel="share of refusals (%)")
    ax.set_title("How refusals of harmful prompts and jailbreaks are worded")
    marks = [
        mark(f"{way} (n = {found[way]['hard']['total']} refusals)", **look)
        for way, look in looks.items()
        if way in found
    ]
    ax.legend(handles=marks, loc="center", bbox_to_anchor=(0.5, 0.5))
    return ax
