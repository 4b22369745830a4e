"""Switch by type: where the switch decides rightly, by a jailbreak's wrapping and by a prompt's type."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scans_lens.figures import captions
from scans_lens.figures.captions import Numbers
from scans_lens.figures.panels import dot, labelled, mark
from scans_lens.figures.style import ASKED, FAINT, WIDTH, blank

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scans_lens.figures.picture import Picture
    from scans_lens.figures.study import Study
    from scans_lens.figures.switch_study import Switching

ABOUT = "where the switch decides rightly, by wrapping and by type"


def measure(study: Study) -> dict[str, Any]:
    """How often the switch decides rightly, by a jailbreak's wrapping and by a borderline prompt's type."""
    from scans_lens.figures.switch_study import about

    return {**about(study), "rows": rows_by_type(study.switching, _type_of)}


def rows_by_type(
    study: Switching, type_of: Callable[[str, Any], str] = lambda kind, item: item.type
) -> list[dict[str, Any]]:
    """For every type of item: how often the plain model complies, and how often the method decides rightly.

    Right is to switch where a prompt is harmful and complied with, and nowhere else. What a type is may be told
    otherwise, by kind and item.
    """
    from scans_lens.figures.switch_study import decisions
    from scans_lens.rates import Rate

    rows = decisions(study)
    truth = study.tested.harmful & study.tested.complied
    items = [(kind, type_of(kind, item)) for kind, own in study.asked.items() for item, _ in own]
    places: dict[tuple[str, str], list[int]] = {}
    for place, about in enumerate(items):
        places.setdefault(about, []).append(place)
    right = (rows["switched"] == truth).tolist()
    return [
        {
            "kind": kind,
            "type": type,
            "complied": Rate.of(study.tested.complied[own].tolist()).as_json(),
            "right": Rate.of([right[place] for place in own]).as_json(),
        }
        for (kind, type), own in places.items()
    ]


def _type_of(kind: str, item: Any) -> str:
    return item.wrapper or (item.type if kind == "borderline" else "")


def caption(numbers: Numbers, settings: Numbers) -> str:
    return captions.caption(
        captions.model(settings),
        captions.switch_tested(numbers),
        "In brackets n, in the order of the marks. Jailbreaks and wrapped prompts by their wrapping, of which none is",
        "in another split, borderline prompts by their type. Complied with: by the plain model. Rightly: the head",
        "where a prompt is harmful and complied with, and nowhere else. Bars: 95 %, Clopper–Pearson.",
        captions.switch_fitted(numbers),
    )


def draw(numbers: Numbers, settings: Numbers) -> Picture:
    picture = blank(WIDTH, 8.4, caption(numbers, settings))
    groups = _grouped(numbers["rows"])
    heights = [sum(len(own) for own in part.values()) ** 0.5 for part in groups]
    axes = picture.subplots(2, 2, height_ratios=heights, sharex=True, squeeze=False)
    for row, part in enumerate(groups):
        for column, what in enumerate(("complied", "right")):
            rates_by_type(axes[row, column], part, what, named=column == 0)
    titles = ("Complied with by the plain model", "Switched rightly")
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title)
    for ax, label in zip(axes[1], ("complied with (%)", "decided rightly (%)"), strict=True):
        ax.set_xlabel(label)
    marks = [mark(kind, **ASKED[kind]) for kind in captions.ASKED]
    picture.legend(handles=marks, loc="outside upper center", ncols=len(marks))
    return picture


Group = Mapping[str, Sequence[Numbers]]


def _grouped(found: Sequence[Numbers]) -> tuple[Group, Group]:
    """Rows of each label: wrappings first, what is bare second."""
    wrapped: dict[str, list[Numbers]] = {}
    bare: dict[str, list[Numbers]] = {}
    for one in found:
        if one["kind"] in ("jailbreak", "wrapped plain", "wrapped borderline"):
            wrapped.setdefault(one["type"], []).append(one)
        elif one["kind"] in ("plain", "harmful"):
            bare[f"all {one['kind']} prompts"] = [one]
        else:
            bare.setdefault(one["type"].replace("_", " "), []).append(one)
    order = sorted(bare, key=lambda name: (captions.ASKED.index(bare[name][0]["kind"]), name))
    return wrapped, {name: bare[name] for name in order}


def rates_by_type(ax: Axes, part: Group, what: str, *, named: bool = True) -> Axes:
    """One row a type, with a mark for each kind that has it."""
    for y, own in enumerate(part.values()):
        for place, one in enumerate(sorted(own, key=lambda one: captions.ASKED.index(one["kind"]))):
            at = y + 0.24 * (place - (len(own) - 1) / 2)
            dot(ax, one[what], at, **{"ms": 4.8, **ASKED[one["kind"]]})
        if y:
            ax.axhline(y - 0.5, color=FAINT, lw=0.8, zorder=0)
    labels = []
    for name, own in part.items():
        sizes = sorted(own, key=lambda one: captions.ASKED.index(one["kind"]))
        said = ", ".join(str(one[what]["total"]) for one in sizes)
        if len(own) > 1:
            lines = textwrap.wrap(name.replace("{}", "…").replace("….", "…"), 42)
            labels.append("\n".join([*lines, f"(n = {said})"]))
        else:
            labels.append(f"{name} (n = {said})")
    labelled(ax, labels, named=named)
    ax.set_ylim(len(part) - 0.5, -0.5)
    ax.tick_params(axis="y", labelsize=7)
    ax.set(xlim=(-4, 104), xticks=[0, 25, 50, 75, 100])
    ax.tick_params(axis="x", labelbottom=True)
    return ax
