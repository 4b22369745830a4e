"""Benchmarks: who is refused on every set of a run, under every way of answering, and what that changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scans_lens.figures import captions
from scans_lens.figures.captions import Numbers
from scans_lens.figures.panels import mark, refused_axis
from scans_lens.figures.style import FAINT, INK, SOFT, WIDTH, blank
from scans_lens.prompts import halves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scans_lens.figures.picture import Picture
    from scans_lens.figures.runs import Runs

ABOUT = "who is refused on every benchmark, plainly and steered"
PURPOSES = {
    "over-refusal": "Harmless, sounding harmful ↓",
    "harmless": "Harmless ↓",
    "harmful": "Harmful ↑",
    "jailbreaks": "Jailbreaks ↑",
}
"""Groups of sets, as their panels are called."""
LOOKS: Sequence[dict[str, Any]] = (
    {"color": INK, "marker": "o", "markerfacecolor": "white"},
    {"color": "#0072B2", "marker": "s"},
    {"color": "#D55E00", "marker": "D"},
    {"color": "#009E73", "marker": "^"},
    {"color": "#CC79A7", "marker": "v"},
    {"color": "#E69F00", "marker": "P"},
    {"color": "#56B4E9", "marker": "X"},
)
"""Of the ways of answering, the plain model first."""
UNSEEN = "never learned from"
"""Sets of which no half was learned from, where there are others of their purpose."""
CEILINGS = ("gated_push_away", "gated_push_towards")
"""Ways that are no method, and belong to another figure."""


def measure(runs: Runs) -> dict[str, Any]:
    """By way, set and kind: refusals beside the plain model's, the same over all sets of one purpose, and doubts.

    Raises:
        ValueError: no run, or one without the plain model or another way.
    """
    from scans_lens import capability, queries
    from scans_lens.figures.runs import settings_of, table_of
    from scans_lens.methods.catalogue import PLAIN

    table, settings = table_of(runs, "The figure of the benchmarks")
    judge = queries.verdicts_of(table).removeprefix("verdict_")
    labelled = _labelled(str(runs.evaluated), table, judge)
    shown: Any = table[~table["method"].isin(CEILINGS)]
    table = queries.with_purpose(shown)
    shifts, pooled = queries.shifts(table), queries.shifts(table, "purpose")
    if not shifts:
        raise ValueError("The run has no way of answering beside the plain model: evaluate with --method.")
    learned, known = halves_of(settings), capability.read(str(runs.evaluated))
    if parted := halves.sets_in(learned):
        partly = sorted(set(table[table["set"].isin(list(parted))]["purpose"]))
        unseen: Any = table[~table["set"].isin(list(parted)) & table["purpose"].isin(partly)]
        others = queries.shifts(unseen, "purpose") if len(unseen) else {}
        pooled |= {(way, f"{purpose}, {UNSEEN}", kind): shift for (way, purpose, kind), shift in others.items()}
    asked = dict.fromkeys(zip(table["set"], table["kind"], strict=True))
    plain: Any = table[table["method"] == PLAIN]
    ways: dict[str, Any] = {}
    for (way, name, kind), shift in shifts.items():
        ways.setdefault(way, {}).setdefault("sets", {})[f"{name}, {kind}"] = shift.as_json()
    for (way, purpose, _), shift in pooled.items():
        ways[way].setdefault("together", {})[purpose] = shift.as_json()
    return {
        "sets": [
            {"name": name, "kind": kind, "purpose": queries.purpose(name, kind)} for name, kind in asked
        ],
        "plain": {
            f"{name}, {kind}": {
                "refused": rate.as_json(),
                "broken": queries.broken(plain[(plain["set"] == name) & (plain["kind"] == kind)]["reply"]).as_json(),
            }
            for (name, kind), rate in queries.refused(plain).items()
        },
        "ways": ways,
        "halves": learned,
        "capability": known and {**known, "arms": capability.lines(known)},
        "judge": judge,
        "unsure": queries.unsure(table, judge),
        "labelled": labelled,
        "settings": settings_of(settings),
        "made_with": settings["versions"],
    }  # fmt: skip


def halves_of(settings: Numbers) -> str:
    """Of what benchmarks the ways have learned from one half; nothing where they have not."""
    return next(filter(None, (halves.named_in(arm["is"]) for arm in settings["arms"].values())), "")


def _labelled(folder: str, table: Any, judge: str) -> Numbers | None:
    """How far the judge agrees with whoever has labelled replies of the run by reading them; None where nobody has."""
    from scans_lens.judges.labelled import agreement
    from scans_lens.report import labels

    given = labels.read(folder, table)
    if not given:
        return None
    column = table[f"verdict_{judge}"]
    found = agreement(judge, "", list(given.values()), [column[row] for row in given])
    return {
        "replies": len(given),
        "accuracy": found.accuracy.as_json(),
        "kappa": {"value": found.kappa, "interval": list(found.kappa_interval)},
    }


def labelled(numbers: Numbers) -> str:
    """A sentence on that agreement; nothing where nobody has labelled."""
    if not (about := numbers.get("labelled")):
        return ""
    accuracy = captions.percent(about["accuracy"])
    return (
        f"Of {about['replies']} replies that were labelled by reading, blind to the way, it has {accuracy} of full "
        f"refusals and answers as the reader has them (kappa {captions.with_interval(about['kappa'])})."
    )


def model(settings: Numbers) -> str:
    """The model as it was run."""
    about = settings["model"]
    dtype = settings["dtype"].removeprefix("torch.")
    return f"{about['name']} ({about['n_layers']} layers, width {about['d_model']}, {dtype})."


def knobs(numbers: Numbers) -> str:
    """A sentence on what was learned from and chosen on."""
    if not (learned := numbers.get("halves")):
        return "All knobs were chosen on validation prompts of our own."
    return f"Learned from and chosen on: our own prompts, and {learned}, of which only the other halves are asked."


def caption(numbers: Numbers, settings: Numbers) -> str:
    unsure = numbers["unsure"]
    return captions.caption(
        model(settings),
        f"Greedy replies of up to {settings['max_new_tokens']} tokens; refused as the judge {numbers['judge']} has it.",
        f"It was not sure of {unsure[0]} of {unsure[1]} verdicts." if unsure else "",
        labelled(numbers),
        "A reply that runs in a circle counts as refused where its first sentence refuses.",
        "Bars: 95 %, Clopper–Pearson. In brackets: prompts.",
        knobs(numbers),
    )


TITLES: Mapping[str, str] = {
    "xstest": "XSTest", "oktest": "OKTest", "or_bench_hard_1k": "OR-Bench-Hard", "truthfulqa": "TruthfulQA",
    "advbench": "AdvBench", "malicious_instruct": "MaliciousInstruct", "jailbreakbench": "JailbreakBench",
    "harmbench": "HarmBench", "harmbench_standard": "HarmBench, standard", "strongreject": "StrongREJECT",
    "harmfulq": "HarmfulQ", "oktest_heldout": "OKTest, held out", "aim": "AIM", "pair": "PAIR",
    "renellm": "ReNeLLM", "gcg": "GCG", "autodan": "AutoDAN", "cipher": "Cipher", "jailbroken": "Jailbroken",
    "pairs_test": "our test pairs", "pairs_validation": "our validation pairs",
}  # fmt: skip


def title(name: str, kind: str) -> str:
    """A set as its authors write it, and which of its prompts, where it has several kinds."""
    said = TITLES.get(name, name)
    both = {"harmful": "unsafe", "borderline": "safe", "harmless": "plain"}
    return f"{said}, {both[kind]}" if name in ("xstest", "pairs_test", "pairs_validation") else said


def draw(numbers: Numbers, settings: Numbers) -> Picture:
    """One panel a purpose, one row a set, one mark a way."""
    ways = list(numbers["ways"])
    groups = {
        purpose: rows for purpose in PURPOSES if (rows := [one for one in numbers["sets"] if one["purpose"] == purpose])
    }
    most = max(map(len, groups.values()))
    picture = blank(WIDTH, 1.5 + (0.17 + 0.13 * (1 + len(ways))) * most, caption(numbers, settings))
    panels = picture.subplots(1, len(groups), squeeze=False)[0]
    for ax, (purpose, rows) in zip(panels, groups.items(), strict=True):
        _panel(ax, rows, numbers, ways)
        ax.set_ylim(most - 0.5, -0.5)
        ax.set_title(PURPOSES[purpose])
        refused_axis(ax, along="x")
    marks = [mark(name, **look) for name, look in zip(["plain", *ways], _looks(ways), strict=True)]
    picture.legend(handles=marks, loc="outside upper left", ncols=len(marks), frameon=False)
    return picture


def _looks(ways: Sequence[str]) -> list[dict[str, Any]]:
    return [LOOKS[place % len(LOOKS)] for place in range(1 + len(ways))]


def _panel(ax: Axes, rows: Sequence[Numbers], numbers: Numbers, ways: Sequence[str]) -> None:
    step = 0.8 / (1 + len(ways))
    labels = []
    for row, one in enumerate(rows):
        name = f"{one['name']}, {one['kind']}"
        rates = [numbers["plain"][name]["refused"]]
        rates += [numbers["ways"][way]["sets"].get(name, {}).get("after") for way in ways]
        labels.append(f"{title(one['name'], one['kind'])}\n({rates[0]['total']})")
        for place, (rate, look) in enumerate(zip(rates, _looks(ways), strict=True)):
            if rate is None:
                continue
            y = row - 0.4 + (place + 0.5) * step
            ax.plot([100 * edge for edge in rate["interval"]], [y, y], color=look["color"], lw=1.3, alpha=0.75)
            ax.plot(100 * rate["value"], y, ls="none", ms=4.5, **look)
    for edge in range(1, len(rows)):
        ax.axhline(edge - 0.5, color=FAINT, lw=0.6)
    ax.set_yticks(range(len(rows)), labels, color=SOFT)
    ax.tick_params(axis="y", length=0)
