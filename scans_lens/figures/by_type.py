"""By type: which types of borderline prompts are refused, and of their harmful contrasts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from scans_lens.figures import captions
from scans_lens.figures.captions import Numbers
from scans_lens.figures.panels import beside, dot, labelled, mark, refused_axis
from scans_lens.figures.style import ASKED, FAINT, KINDS, SOFT, WIDTH, blank

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scans_lens.figures.picture import Picture
    from scans_lens.figures.prompt_types import Typed
    from scans_lens.figures.study import Study

ABOUT = "which types of prompts are refused"


def measure(study: Study) -> dict[str, Any]:
    """Who is refused of each type of borderline prompts, and of their harmful contrasts, without and with SCANS."""
    from scans_lens.figures.prompt_types import typed

    asked = typed(study)
    refused = {
        kind: {
            "plain model": study.refused([one.text for one in own]),
            "SCANS": study.refused([one.text for one in own], study.scans),
        }
        for kind, own in asked.items()
    }

    def rates(kind: str, own: Callable[[Typed], bool]) -> dict[str, Any]:
        places = [place for place, one in enumerate(asked[kind]) if own(one)]
        items = [asked[kind][place].item for place in places]
        return {way: study.clustered([no[place] for place in places], items) for way, no in refused[kind].items()}

    found: dict[str, Any] = {}
    for type_ in sorted({name for one in asked["borderline"] for name in one.types}):
        there = [kind for kind, own in asked.items() if any(type_ in one.types for one in own)]
        found[type_] = {kind: rates(kind, lambda one, type_=type_: type_ in one.types) for kind in there}
    first = {name: part["borderline"]["plain model"] for name, part in found.items()}
    return {
        "types": dict(sorted(found.items(), key=lambda entry: (-first[entry[0]]["value"], entry[0]))),
        "all": {kind: rates(kind, lambda one: True) for kind in asked},
        "n": {kind: len(own) for kind, own in asked.items()},
        "overlapping": any(len(one.types) > 1 for one in asked["harmful"]),
        "resamples": study.effort.resamples,
        "scale": study.scans.scale,
        "unit": study.scans.unit,
        **study.judged,
    }


def caption(numbers: Numbers, settings: Numbers) -> str:
    return captions.caption(
        captions.model(settings),
        f"n = {numbers['n']['borderline']} borderline and {numbers['n']['harmful']} harmful test prompts.",
        captions.judged(numbers),
        f"SCANS at scale {numbers['scale']:g} {numbers['unit']}. Sorted by what the plain model refuses. Bars: 95 %,",
        "Clopper–Pearson where each prompt is an item of its own, or all agree; else bootstrap over items",
        f"({numbers['resamples']} resamples).",
        "The harmful contrast of a type: harmful prompts with the verbs that the type takes, so that one prompt may"
        " stand in several rows."
        if numbers["overlapping"]
        else "The harmful contrast of a type: the harmful twins of its prompts.",
    )


def draw(numbers: Numbers, settings: Numbers) -> Picture:
    picture = blank(WIDTH, 1.9 + 0.42 * (1 + len(numbers["types"])), caption(numbers, settings))
    left, right = picture.subplots(1, 2)
    types(left, numbers, "borderline", "borderline prompts, by type")
    types(right, numbers, "harmful", "their harmful contrasts")
    right.tick_params(axis="y", labelleft=False)
    marks = [mark("plain model", color=SOFT, marker="o", markerfacecolor="white")]
    marks += [mark("SCANS", color=SOFT, marker="o")]
    picture.legend(handles=marks, loc="outside upper center", ncols=2)
    return picture


def types(ax: Axes, numbers: Numbers, kind: str, title: str) -> Axes:
    """What of each type is refused by the plain model and under SCANS."""
    rows = {"all": numbers["all"], **numbers["types"]}
    look = ASKED[kind]
    for y, part in enumerate(rows.values()):
        if kind not in part:
            continue
        for way, shift in (("plain model", -0.16), ("SCANS", 0.16)):
            hollow: dict[str, Any] = {"markerfacecolor": "white"} if way == "plain model" else {}
            dot(ax, part[kind][way], y + shift, **look, **hollow)
        one = part[kind]["SCANS"]
        said = f"{one['total']} ({one['items']})" if one["items"] != one["total"] else f"{one['total']}"
        beside(ax, y, said, color=SOFT)
    many = any(part[kind]["SCANS"]["items"] != part[kind]["SCANS"]["total"] for part in rows.values() if kind in part)
    head = "n (items)" if many else "n"
    beside(ax, -0.62, head, fontsize=6.8, va="bottom", color=SOFT)
    ax.axhline(0.5, color=FAINT, lw=1, zorder=0)
    labelled(ax, [name.replace("_", " ") for name in rows])
    refused_axis(ax, along="x")
    least = min(part[kind][way]["interval"][0] for part in rows.values() if kind in part for way in part[kind])
    if least > 0.5:  # nothing to see below
        first = 10 * int(10 * least)
        ax.set_xlim(first - 0.04 * (100 - first), 100 + 0.04 * (100 - first))
        ax.set_xticks(np.linspace(first, 100, 5 if (100 - first) % 20 == 0 else 3))
        ax.set_xlabel(f"refused (%), from {first} on")
    ax.set_title(title, color=KINDS[kind]["color"], fontweight="bold")
    return ax
