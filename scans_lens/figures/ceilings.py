"""Ceilings: where a gate and a push lose, from replies of the plain model and of the push either way for all.

Who is pushed which way is then looked up: by true labels (a perfect gate), by a gate's own score at every threshold, or
by the fitted gate with a push that always does what it should (a perfect push).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scans_lens.figures import captions
from scans_lens.figures.benchmarks import halves_of, knobs, model, title
from scans_lens.figures.captions import Numbers
from scans_lens.figures.panels import mark
from scans_lens.figures.style import FAINT, INK, SOFT, WIDTH, blank

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scans_lens.figures.picture import Picture
    from scans_lens.figures.runs import Runs

ABOUT = "what a perfect gate or a perfect push would do, and what every threshold of a score does"
GATED, AWAY, TOWARDS = "gated_push", "gated_push_away", "gated_push_towards"
SCORES = {"gated_push": "ridge gate", "scans": "SCANS' score"}
"""Ways whose scores are tried as gates of the same push."""
MOST = 60
"""Thresholds along a curve."""
LOOKS: Mapping[str, dict[str, Any]] = {
    "plain": {"color": INK, "marker": "o", "markerfacecolor": "white"},
    "pushed away, all": {"color": SOFT, "marker": "X"},
    "gated push": {"color": "#D55E00", "marker": "D"},
    "SCANS": {"color": "#0072B2", "marker": "s"},
    "true labels": {"color": "#009E73", "marker": "*"},
    "perfect push": {"color": "#D55E00", "marker": "D", "markerfacecolor": "white"},
}
CURVES: Mapping[str, dict[str, Any]] = {
    "ridge gate": {"color": "#D55E00", "linestyle": "-"},
    "SCANS' score": {"color": "#0072B2", "linestyle": "--"},
}


@dataclass(frozen=True)
class Seen:
    """One prompt: who refuses it, and how it looks."""

    harmful: bool
    plain: bool
    away: bool
    towards: bool
    refused: Mapping[str, bool]
    """Under the ways themselves."""
    scores: Mapping[str, float]
    sign: int
    """Of the gated push: + towards refusal."""

    def pushed(self, sign: int) -> bool:
        """Whether it is refused when it is pushed this way, or not at all."""
        return self.plain if not sign else self.towards if sign > 0 else self.away


def measure(runs: Runs) -> dict[str, Any]:
    """For every set of over-refusal and the harmful prompts beside it: points, curves, and scores by set.

    Raises:
        ValueError: no run, or one without the gated push and its push for all.
    """
    from scans_lens import queries
    from scans_lens.figures.runs import settings_of, table_of

    table, settings = table_of(runs, "The figure of the ceilings")
    table = queries.with_purpose(table)
    lacking = [name for name in ("plain", GATED, AWAY, TOWARDS) if name not in set(table["method"])]
    if lacking:
        raise ValueError(
            f"The run lacks {', '.join(lacking)}: evaluate with --method {GATED},{AWAY},{TOWARDS}, and scans beside."
        )
    seen = _seen(table)
    harmful = [name for name in seen if name[2] == queries.HARM]
    harm = [one for name in harmful for one in seen[name]]
    all_of_it = "all harmful sets" if len(harmful) != 1 else title(*harmful[0][:2])
    panels = []
    for (name, kind, purpose), safe in seen.items():
        if purpose != queries.OVER_REFUSAL:
            continue
        own = seen.get((name, "harmful", queries.HARM))
        panels.append({"set": name, "kind": kind, "harm": name if own else all_of_it, **_panel(safe, own or harm)})
    return {
        "panels": panels,
        "scores": [
            {"set": name, "kind": kind, "purpose": purpose, **_spread([one.scores[GATED] for one in rows], rows)}
            for (name, kind, purpose), rows in seen.items()
        ],
        "thresholds": _thresholds(table),
        "halves": halves_of(settings),
        "settings": settings_of(settings),
        "made_with": settings["versions"],
    }


def _seen(table: Any) -> dict[tuple[str, str, str], list[Seen]]:
    """By set, kind and purpose, its prompts, as far as every way has answered them."""
    from scans_lens import queries

    column = queries.verdicts_of(table)
    ways = {way: rows.set_index(["set", "prompt_id"]) for way, rows in table.groupby("method", sort=False)}
    verdicts = {way: rows[column] == "refused" for way, rows in ways.items()}
    scores = {way: ways[way]["score"] for way in SCORES if way in ways}
    found: dict[tuple[str, str, str], list[Seen]] = {}
    for at, row in ways["plain"].iterrows():
        if any(at not in ways[way].index for way in (GATED, AWAY, TOWARDS)):
            continue
        found.setdefault((str(at[0]), row["kind"], row["purpose"]), []).append(
            Seen(
                row["kind"] == "harmful", bool(verdicts["plain"][at]), bool(verdicts[AWAY][at]),
                bool(verdicts[TOWARDS][at]),
                {way: bool(verdicts[way][at]) for way in SCORES if way in ways and at in ways[way].index},
                {way: float(own[at]) for way, own in scores.items() if at in own.index},
                round(float(ways[GATED]["scale"][at]) / (abs(float(ways[GATED]["scale"][at])) or 1)),
            )
        )  # fmt: skip
    return found


def _panel(safe: Sequence[Seen], harm: Sequence[Seen]) -> dict[str, Any]:
    from scans_lens.rates import Rate

    def point(of: Any) -> dict[str, Any]:
        return {side: Rate.of(map(of, rows)).as_json() for side, rows in (("safe", safe), ("harm", harm))}

    points = {
        "plain": point(lambda one: one.plain),
        "pushed away, all": point(lambda one: one.away),
        "gated push": point(lambda one: one.refused[GATED]),
        "true labels": point(lambda one: one.pushed(1 if one.harmful else -1)),
        "perfect push": point(lambda one: one.sign > 0 or (one.sign == 0 and one.plain)),
    }
    if all("scans" in one.refused for one in (*safe, *harm)):
        points["SCANS"] = point(lambda one: one.refused["scans"])
    curves = {
        said: _curve(safe, harm, way)
        for way, said in SCORES.items()
        if all(way in one.scores for one in (*safe, *harm))
    }
    return {"points": {name: points[name] for name in LOOKS if name in points}, "curves": curves}


def _curve(safe: Sequence[Seen], harm: Sequence[Seen], way: str) -> dict[str, Any]:
    """Shares refused when everybody below a threshold is pushed away and nobody towards refusal, and the AUC."""
    values = sorted({one.scores[way] for one in (*safe, *harm)})
    step = max(1, len(values) // MOST)
    edges = [*values[::step], values[-1] + 1.0]

    def share(rows: Sequence[Seen], edge: float) -> float:
        return sum(one.away if one.scores[way] < edge else one.plain for one in rows) / len(rows)

    higher = sum(
        (one.scores[way] > other.scores[way]) + 0.5 * (one.scores[way] == other.scores[way])
        for one in harm
        for other in safe
    )
    return {
        "safe": [share(safe, edge) for edge in edges],
        "harm": [share(harm, edge) for edge in edges],
        "auc": higher / (len(harm) * len(safe)),
    }


def _spread(scores: Sequence[float], rows: Sequence[Seen]) -> dict[str, Any]:
    import numpy as np

    from scans_lens.rates import Rate

    return {
        "n": len(scores),
        "quantiles": [float(value) for value in np.quantile(scores, [0.05, 0.25, 0.5, 0.75, 0.95])],
        "away": Rate.of(one.sign < 0 for one in rows).as_json(),
        "towards": Rate.of(one.sign > 0 for one in rows).as_json(),
    }


def _thresholds(table: Any) -> dict[str, float]:
    """Between which scores nobody is pushed, as the run shows them: the highest pushed away, the lowest towards."""
    own = table[table["method"] == GATED]
    return {
        "low": float(own[own["scale"] < 0]["score"].max()),
        "high": float(own[own["scale"] > 0]["score"].min()),
    }


def caption(numbers: Numbers, settings: Numbers) -> str:
    aucs = []
    for one in numbers["panels"]:
        told = ", ".join(f"{name} {curve['auc']:.2f}" for name, curve in one["curves"].items())
        aucs.append(f"{title(one['set'], one['kind'])} {told}")
    return captions.caption(
        model(settings),
        "Above: shares refused by the plain model, under the methods, and with replies looked up for other gates.",
        "True labels: the same push, each prompt its own way. Perfect push: the fitted gate’s signs, always obeyed.",
        f"Curves: whoever lies below a threshold is pushed away, nobody towards refusal (AUC: {'; '.join(aucs)}).",
        "A reply that runs in a circle counts as refused where its first sentence refuses. Bars: 95 %,",
        "Clopper–Pearson. Below: the ridge gate’s score, 5 to 95 % and quartiles; dotted: its thresholds;",
        "on the right: shares pushed away and towards refusal.",
        knobs(numbers),
    )


def draw(numbers: Numbers, settings: Numbers) -> Picture:
    """Trade-offs above, one panel a set; scores by set below."""
    panels, rows = numbers["panels"], _ordered(numbers["scores"])
    picture = blank(WIDTH, 5.0 + 0.2 * len(rows), caption(numbers, settings))
    grid = picture.add_gridspec(2, len(panels), height_ratios=[3.0, 0.4 + 0.2 * len(rows)])
    for place, one in enumerate(panels):
        _tradeoff(picture.add_subplot(grid[0, place]), one, first=place == 0)
    _scores(picture.add_subplot(grid[1, :]), rows, numbers["thresholds"])
    from matplotlib.lines import Line2D

    names = [name for name in LOOKS if any(name in one["points"] for one in panels)]
    handles = [mark(name, **LOOKS[name]) for name in names]
    handles += [Line2D([], [], label=name, **look) for name, look in CURVES.items()]
    picture.legend(handles=handles, loc="outside upper left", ncols=len(handles), frameon=False)
    return picture


def _tradeoff(ax: Axes, panel: Numbers, *, first: bool) -> None:
    for name, curve in panel["curves"].items():
        ax.plot(
            [100 * share for share in curve["harm"]], [100 * share for share in curve["safe"]], lw=1.1, **CURVES[name]
        )
    for name, point in panel["points"].items():
        look = LOOKS[name]
        x, y = point["harm"], point["safe"]
        ax.plot([100 * edge for edge in x["interval"]], [100 * y["value"]] * 2, color=look["color"], lw=0.9)
        ax.plot([100 * x["value"]] * 2, [100 * edge for edge in y["interval"]], color=look["color"], lw=0.9)
        ax.plot(100 * x["value"], 100 * y["value"], ls="none", ms=9 if look["marker"] == "*" else 5.5, **look)
    safe, harm = next(iter(panel["points"].values())).values()
    beside = "unsafe ones" if panel["harm"] == panel["set"] else panel["harm"]
    ax.set(
        title=f"{title(panel['set'], panel['kind'])} (n = {safe['total']})",
        xlabel=f"{beside} refused (%), n = {harm['total']}",
        ylabel="refused (%)" if first else "",
        xlim=(-3, 103),
        ylim=(-2, None),
    )


def _ordered(rows: Sequence[Numbers]) -> list[Numbers]:
    order = ("over-refusal", "harmless", "harmful", "jailbreaks")
    return sorted(rows, key=lambda row: order.index(row["purpose"]))


def _scores(ax: Axes, rows: Sequence[Numbers], thresholds: Numbers) -> None:
    colors = {"over-refusal": "#E69F00", "harmless": "#0072B2", "harmful": "#D55E00", "jailbreaks": "#CC79A7"}
    for place, row in enumerate(rows):
        color, (least, low, middle, high, most) = colors[row["purpose"]], row["quantiles"]
        ax.plot([least, most], [place, place], color=color, lw=1.0)
        ax.plot([low, high], [place, place], color=color, lw=4.5, solid_capstyle="butt")
        ax.plot(middle, place, "|", color=INK, ms=8)
        said = f"{100 * row['away']['value']:.0f} / {100 * row['towards']['value']:.0f} %"
        ax.text(1.01, place, said, transform=ax.get_yaxis_transform(), fontsize=7.2, va="center")
        if place and rows[place - 1]["purpose"] != row["purpose"]:
            ax.axhline(place - 0.5, color=FAINT, lw=0.6)
    for edge in thresholds.values():
        ax.axvline(edge, color=SOFT, lw=0.9, ls=":")
    ax.set_yticks(range(len(rows)), [f"{title(row['set'], row['kind'])} ({row['n']})" for row in rows])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel("score of the ridge gate (-1 harmless, +1 harmful)")
