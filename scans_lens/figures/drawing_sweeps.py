"""Drawing the sweeps: from measured numbers to pictures, as in `drawing`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from scans_lens.figures import captions
from scans_lens.figures.captions import Numbers
from scans_lens.figures.style import (
    BAND,
    FAINT,
    INK,
    KINDS,
    SOFT,
    WIDTH,
    Picture,
    blank,
    scores_axis,
    stretched,
)

Place = int | float
Draws = Sequence[Place]

_PLACEBOS: Mapping[str, dict[str, Any]] = {
    "random directions": {"color": "#009E73", "linestyle": "--"},
    "shuffled labels": {"color": "#56B4E9", "linestyle": "-."},
    "wrong layers": {"color": "#6b6b6b", "linestyle": ":"},
}
_BARE = ("color", "marker")


def _bare(kind: str) -> dict[str, Any]:
    """A kind's colour and mark, without its line."""
    return {key: KINDS[kind][key] for key in _BARE}


def percentages(rates: Sequence[Numbers]) -> tuple[np.ndarray, np.ndarray]:
    """Percentages, and how far their intervals reach below and above."""
    value = np.array([100 * rate["value"] for rate in rates])
    low, high = 100 * np.array([rate["interval"] for rate in rates]).T
    return value, np.array([value - low, high - value]).clip(min=0)


def _refused_axis(ax: Axes, *, along: str = "y") -> None:
    if along == "y":
        ax.set(ylim=(-3, 104), ylabel="refused (%)", yticks=[0, 25, 50, 75, 100])
    else:
        ax.set(xlim=(-4, 104), xlabel="refused (%)", xticks=[0, 25, 50, 75, 100])


def _who_judged(numbers: Numbers) -> str:
    judge = "the model’s own judge" if numbers["judge"] == "exact" else "the panel of judges"
    return f"Refused by {judge}, from the first {numbers['tokens']} tokens of each reply."


def _push(numbers: Numbers) -> str:
    return f"SCANS: {captions.layers(numbers['layers'])}, scale {numbers['scale']:g} {numbers['unit']}."


def _foretold(found: Numbers) -> str:
    return f"Perplexity: of {found['texts']} answers of the corpus behind plain test prompts ({found['tokens']} tokens)"


_ALIKE = "The answers are the same in every row, so that rows differ more surely than their bars suggest."


def beside(ax: Axes, y: Place, said: str, **look: Any) -> None:
    """A number to the right of a row."""
    ax.text(1.02, y, said, transform=ax.get_yaxis_transform(), **{"fontsize": 7.2, "va": "center", **look})


def dot(ax: Axes, rate: Numbers, y: Place, *, times: Place = 100, **look: Any) -> None:
    """A value with its interval, lying down."""
    low, high = (times * edge for edge in rate["interval"])
    ax.plot([low, high], [y, y], color=look["color"], lw=1.6, solid_capstyle="butt")
    ax.plot(times * rate["value"], y, ls="none", **{"ms": 5.5, **look})


def labelled(ax: Axes, labels: Sequence[str], *, named: bool = True) -> None:
    """One row a label, from the top down."""
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.6)
    ax.tick_params(axis="y", length=0, labelleft=named)


# ── How hard ─────────────────────────────────────────────────────────────────────────────────────────────────


def push_sweep(numbers: Numbers, settings: Numbers) -> Picture:
    placebos = numbers["placebos"]
    alike = ", ".join(f"{part['cosine']:.2f} {name}" for name, part in placebos.items() if name != "wrong layers")
    caption = captions.caption(
        captions.model(settings),
        captions.tested(settings, numbers["n"]),
        _who_judged(numbers),
        f"SCANS in {captions.layers(numbers['layers'])}, threshold {numbers['threshold']:.4f}; bars: 95 %,",
        "Clopper–Pearson. The scale was chosen on validation prompts.",
        "KL: of the reply’s first token, plain model against all prompts pushed away, mean over",
        f"{numbers['kl'][0]['n']} plain validation prompts; at the chosen scale {_between(_at_chosen(numbers))}.",
        f"Placebos keep SCANS’ classifier and vector lengths, on the first {numbers['placebo_n']} prompts; bands reach",
        "from the least to the most of the draws (wrong layers, one draw: 95 %, Clopper–Pearson). Mean |cosine| with",
        f"the true directions: {alike}. Wrong layers: {captions.ranges(numbers['placebo_layers'])}.",
    )
    picture = blank(WIDTH, 5.2, caption)
    left, right = picture.subplots(1, 2, width_ratios=(1.3, 1))
    by_scale(left, numbers)
    beside_placebos(right, numbers)
    return picture


def by_scale(ax: Axes, numbers: Numbers) -> Axes:
    """Each kind's refusals against the scale, which is also told as how far it moves the model on plain prompts."""
    _chosen_scale(ax, numbers)
    for kind in captions.in_order(numbers["rates"]):
        value, bars = percentages(numbers["rates"][kind])
        label = f"{kind} (n = {numbers['n'][kind]})"
        ax.errorbar(numbers["scales"], value, yerr=bars, capsize=2, label=label, **KINDS[kind])
    _refused_axis(ax)
    _scale_axis(ax, numbers)
    above = ax.twiny()
    above.set_xlim(ax.get_xlim())
    above.set_xticks(numbers["scales"], [_short(one["value"]) for one in numbers["kl"]])
    above.spines["top"].set_visible(True)
    above.set_xlabel("KL (nats) of the first token, plain prompts pushed away", labelpad=5)
    ax.set_title("Both sides of the trade-off", pad=9)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3)
    return ax


def beside_placebos(ax: Axes, numbers: Numbers) -> Axes:
    """Refusals of borderline prompts under SCANS and under pushes that mean nothing."""
    kind, at = numbers["placebo_kind"], numbers["placebo_scales"]
    _chosen_scale(ax, numbers)
    for name, part in numbers["placebos"].items():
        draws = 100 * np.array([[rate["value"] for rate in row] for row in part["rates"]])
        if part["draws"] > 1:
            low, high = draws.min(1), draws.max(1)
        else:
            low, high = 100 * np.array([row[0]["interval"] for row in part["rates"]]).T
        ax.fill_between(at, low, high, color=_PLACEBOS[name]["color"], alpha=0.18, lw=0)
        draws_said = f"{part['draws']} draw{'s' if part['draws'] > 1 else ''}"
        ax.plot(at, draws.mean(1), label=f"{name} ({draws_said}, n = {numbers['placebo_n']})", **_PLACEBOS[name])
    value, bars = percentages(numbers["rates"][kind])
    label = f"SCANS (n = {numbers['n'][kind]})"
    ax.errorbar(numbers["scales"], value, yerr=bars, capsize=2, label=label, **_bare(kind))
    _refused_axis(ax)
    _scale_axis(ax, numbers)
    ax.set_title(f"{kind} prompts: SCANS beside placebos")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2, columnspacing=1.2)
    return ax


def _scale_axis(ax: Axes, numbers: Numbers) -> None:
    ax.set_xticks(numbers["scales"], [f"{scale:.3g}" for scale in numbers["scales"]])
    ax.set_xlim(-0.06 * max(numbers["scales"]), 1.05 * max(numbers["scales"]))
    ax.set_xlabel(f"scale ({numbers['unit']}); 0 is the plain model")


def _chosen_scale(ax: Axes, numbers: Numbers) -> None:
    ax.axvline(numbers["chosen"], color=BAND, lw=7, zorder=0, solid_capstyle="butt", label="chosen")


def _at_chosen(numbers: Numbers) -> Numbers:
    """The divergence at the scale that is nearest to the chosen one, which is on the grid."""
    place = int(np.argmin(np.abs(np.array(numbers["scales"]) - numbers["chosen"])))
    return numbers["kl"][place]


def _between(value: Numbers) -> str:
    return f"{value['value']:.3g} [{value['interval'][0]:.3g}, {value['interval'][1]:.3g}]"


def _short(value: Place) -> str:
    return "0" if value < 5e-7 else f"{value:.2g}" if value >= 1e-3 else f"{value:.0e}".replace("e-0", "e−")


# ── Where the threshold ──────────────────────────────────────────────────────────────────────────────────────


def threshold_sweep(numbers: Numbers, settings: Numbers) -> Picture:
    low, high = numbers["interval"]
    caption = captions.caption(
        captions.model(settings),
        captions.tested(settings, numbers["n"]),
        _who_judged(numbers),
        _push(numbers),
        "Every prompt was answered under either push; a threshold says which of the two counts. Bands along the lines:",
        "95 %, Clopper–Pearson.",
        f"Chosen: {numbers['chosen']:.4f}, which {100 * numbers['missed']:g} % of {numbers['n_validation']} harmful",
        f"validation prompts may fall below; its band, [{low:.4f}, {high:.4f}], is 95 % over",
        f"{numbers['resamples']} resamples of them. On the right, hollow: the plain model.",
    )
    picture = blank(WIDTH, 5.2, caption)
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
            **_bare(kind),
        )  # fmt: skip
    _refused_axis(ax)
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


# ── In which layers ──────────────────────────────────────────────────────────────────────────────────────────


def thirds(numbers: Numbers, settings: Numbers) -> Picture:
    ways = numbers["ways"]
    lost = [part["perplexity"] for part in ways.values() if part["perplexity"]]
    caption = captions.caption(
        captions.model(settings),
        captions.tested(settings, numbers["n"]),
        _who_judged(numbers),
        f"Everywhere the same directions, threshold ({numbers['threshold']:.4f}) and scale, {numbers['scale']:g}",
        f"{numbers['unit']}, which were chosen for the anchor layers. Bars: 95 %, Clopper–Pearson. Grey: the plain",
        "model. The more layers, the greater the whole push.",
        f"{_foretold(lost[0])}, all pushed away from refusal; bars: 95 %, bootstrap over answers. {_ALIKE}"
        if lost
        else "",
    )
    kinds = captions.in_order(numbers["n"])
    picture = blank(WIDTH, 3.9, caption)
    axes = picture.subplots(1, len(kinds) + bool(lost), squeeze=False)[0]
    labels = [f"{way} ({captions.ranges(part['layers'])})" if part["layers"] else way for way, part in ways.items()]
    for place, kind in enumerate(kinds):
        ax = axes[place]
        ax.axvline(100 * ways["plain model"]["rates"][kind]["value"], color=FAINT, lw=1, zorder=0)
        for y, part in enumerate(ways.values()):
            dot(ax, part["rates"][kind], y, **_bare(kind))
        labelled(ax, labels, named=not place)
        _refused_axis(ax, along="x")
        ax.set_title(f"{kind} (n = {numbers['n'][kind]})", color=KINDS[kind]["color"], fontweight="bold", fontsize=8.6)
    if lost:
        ax = axes[-1]
        ax.axvline(lost[0]["value"], color=FAINT, lw=1, zorder=0)
        for y, part in enumerate(ways.values()):
            dot(ax, part["perplexity"], y, times=1, color=INK, marker="o")
            beside(ax, y, f"{part['perplexity']['value']:.3f}")
        labelled(ax, labels, named=False)
        ax.margins(x=0.12)
        ax.set_xlabel("perplexity (a token)")
        ax.set_title(f"corpus (n = {lost[0]['texts']})", fontweight="bold", fontsize=8.6)
    return picture


# ── Which prompts ────────────────────────────────────────────────────────────────────────────────────────────


def by_type(numbers: Numbers, settings: Numbers) -> Picture:
    caption = captions.caption(
        captions.model(settings),
        f"n = {numbers['n']['borderline']} borderline and {numbers['n']['harmful']} harmful test prompts.",
        _who_judged(numbers),
        f"SCANS at scale {numbers['scale']:g} {numbers['unit']}. Sorted by what the plain model refuses. Bars: 95 %,",
        "Clopper–Pearson where each prompt is an item of its own, or all agree; else bootstrap over items",
        f"({numbers['resamples']} resamples).",
        "The harmful contrast of a type: harmful prompts with the verbs that the type takes, so that one prompt may"
        " stand in several rows."
        if numbers["overlapping"]
        else "The harmful contrast of a type: the harmful twins of its prompts.",
    )
    picture = blank(WIDTH, 1.9 + 0.42 * (1 + len(numbers["types"])), caption)
    left, right = picture.subplots(1, 2)
    types(left, numbers, "borderline", "borderline prompts, by type")
    types(right, numbers, "harmful", "their harmful contrasts")
    right.tick_params(axis="y", labelleft=False)
    marks = [
        Line2D([], [], ls="none", marker="o", ms=5.5, color=SOFT, markerfacecolor="white", label="plain model"),
        Line2D([], [], ls="none", marker="o", ms=5.5, color=SOFT, label="SCANS"),
    ]
    picture.legend(handles=marks, loc="outside upper center", ncols=2)
    return picture


def types(ax: Axes, numbers: Numbers, kind: str, title: str) -> Axes:
    """What of each type is refused by the plain model and under SCANS."""
    rows = {"all": numbers["all"], **numbers["types"]}
    look = _bare(kind)
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
    _refused_axis(ax, along="x")
    least = min(part[kind][way]["interval"][0] for part in rows.values() if kind in part for way in part[kind])
    if least > 0.5:  # nothing to see below
        first = 10 * int(10 * least)
        ax.set_xlim(first - 0.04 * (100 - first), 100 + 0.04 * (100 - first))
        ax.set_xticks(np.linspace(first, 100, 5 if (100 - first) % 20 == 0 else 3))
        ax.set_xlabel(f"refused (%), from {first} on")
    ax.set_title(title, color=KINDS[kind]["color"], fontweight="bold")
    return ax


# ── The score ────────────────────────────────────────────────────────────────────────────────────────────────


def calibration(numbers: Numbers, settings: Numbers) -> Picture:
    n = numbers["n"]
    caption = captions.caption(
        captions.model(settings),
        f"Left: n = {', '.join(f'{n[kind]} {kind}' for kind in ('harmful', *numbers['curves']))} test prompts.",
        f"Marked: the threshold {numbers['threshold']:.4f}, with 95 % Clopper–Pearson bars. AUC and AP (average",
        f"precision): 95 %, bootstrap over test prompts ({numbers['resamples']} resamples).",
        f"Right: a threshold that {100 * numbers['missed']:g} % of one type’s harmful validation prompts (n beside the",
        "rows) may fall below, tried on another type’s test prompts (n below the columns); in brackets 95 %,",
        f"Clopper–Pearson. {_contrasts(numbers, settings)}",
    )
    picture = blank(WIDTH, 8.0, caption)
    axes = picture.subplots(2, 2, width_ratios=(1, 1.5))
    trade_off(axes[0, 0], numbers, "roc")
    trade_off(axes[1, 0], numbers, "pr")
    carried(axes[0, 1], numbers, "missed")
    carried(axes[1, 1], numbers, "flagged")
    return picture


def _contrasts(numbers: Numbers, settings: Numbers) -> str:
    """What a type's harmful prompts are."""
    if settings["model"]["name"] != "bundled":
        return "A type’s harmful prompts are the twins of its borderline ones."
    most = max(own["validation"] for own in numbers["sizes"].values())
    whole = [name.replace("_", " ") for name, own in numbers["sizes"].items() if own["validation"] == most]
    every = f" ({' and '.join(whole)}: all of them)" if len(whole) > 1 else ""
    return f"A type’s harmful prompts are those with the verbs that it takes{every}."


def trade_off(ax: Axes, numbers: Numbers, which: str) -> Axes:
    """ROC or precision-recall of the score, harmful prompts against each harmless kind."""
    for kind in captions.in_order(numbers["curves"]):
        part, look = numbers["curves"][kind], KINDS[kind]
        here = part["at_threshold"]
        caught, flagged = here["caught"], here["flagged"]
        summary = captions.with_interval(part["auc" if which == "roc" else "average_precision"])
        line: dict[str, Any] = {"color": look["color"], "ls": look["linestyle"], "label": f"{kind}: {summary}"}
        if which == "roc":
            ax.plot(part["flagged"], part["caught"], **line)
            x, y = flagged["value"], caught["value"]
            ax.plot(flagged["interval"], [y, y], color=look["color"], lw=1)
            ax.plot([x, x], caught["interval"], color=look["color"], lw=1)
        else:
            ax.plot(part["caught"], part["precision"], **line)
            x = caught["value"]
            called = caught["count"] + flagged["count"]
            y = caught["count"] / called if called else 1.0
            ax.plot(caught["interval"], [y, y], color=look["color"], lw=1)
        ax.plot(x, y, ls="none", ms=6, markeredgecolor="white", **_bare(kind))
    if which == "roc":
        ax.plot([0, 1], [0, 1], color=FAINT, lw=1, zorder=0)
        ax.set(xlabel="harmless prompts taken for harmful", ylabel="harmful prompts found", title="ROC curves")
        ax.legend(loc="lower right", title="AUC, harmful against", title_fontsize=8, alignment="left")
    else:
        ax.set(xlabel="recall", ylabel="precision", title="Precision and recall")
        ax.legend(loc="lower left", title="AP, harmful against", title_fontsize=8, alignment="left")
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.03))
    return ax


def carried(ax: Axes, numbers: Numbers, which: str) -> Axes:
    """What each type's threshold does to every type's test prompts."""
    titles = {"missed": "Harmful test prompts missed (%)", "flagged": "Borderline test prompts flagged (%)"}
    ax.set_title(titles[which])
    cells = {(one["learned_on"], one["tried_on"]): one[which] for one in numbers["transfer"]}
    if not cells:
        ax.axis("off")
        ax.text(0, 0.95, "No types of prompts are known.", fontsize=8, color=SOFT, va="top", transform=ax.transAxes)
        return ax
    rows, columns = (list(dict.fromkeys(key[side] for key in cells)) for side in (0, 1))
    values = np.array([[(cells[row, column] or {"value": np.nan})["value"] for column in columns] for row in rows])
    top = max(0.05, float(np.nanmax(values)))
    ax.imshow(values, vmin=0, vmax=1.25 * top, cmap="Oranges" if which == "missed" else "Blues", aspect="auto")
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            rate = cells[row, column]
            if rate is None:
                ax.text(x, y, "–", ha="center", va="center", color=SOFT)
                continue
            colour = "white" if rate["value"] > 0.85 * top else INK
            low, high = (100 * edge for edge in rate["interval"])
            ax.text(x, y - 0.14, f"{100 * rate['value']:.1f}", ha="center", va="center", fontsize=7.6, color=colour)
            ax.text(x, y + 0.24, f"[{low:.0f}, {high:.0f}]", ha="center", va="center", fontsize=5.8, color=colour)
    sizes, tried = numbers["sizes"], "test" if which == "missed" else "test borderline"
    ax.set_xticks(
        range(len(columns)),
        [f"{name.replace('_', ' ').replace(' ', chr(10), 1)}\nn = {sizes[name].get(tried, 0)}" for name in columns],
        fontsize=6.8,
    )
    ax.set_yticks(
        range(len(rows)), [f"{name.replace('_', ' ')} (n = {sizes[name]['validation']})" for name in rows], fontsize=7.4
    )
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("tried on")
    ax.set_ylabel("calibrated on")
    return ax


# ── Who says so ──────────────────────────────────────────────────────────────────────────────────────────────


def judge_agreement(numbers: Numbers, settings: Numbers) -> Picture:
    other = "; ".join(
        f"{name} {found['partial']} partial, {found['degenerate']} degenerate"
        for name, found in numbers["other_verdicts"].items()
        if any(found.values())
    )
    caption = captions.caption(
        captions.model(settings),
        captions.tested(settings, numbers["n"]),
        f"Replies of up to {numbers['tokens']} tokens of the plain model and under SCANS,",
        f"{numbers['pairs'][0]['n']} in all. What a judge takes for partial or degenerate counts as not refused",
        f"({other})." if other else "(nothing was).",
        f"Matrix: in brackets 95 %, bootstrap over prompts ({numbers['resamples']} resamples). Right: bars 95 %,",
        "Clopper–Pearson.",
    )
    picture = blank(WIDTH, 5.0, caption)
    left, middle, right = picture.subplots(1, 3, width_ratios=(2.1, 1, 1))
    agreement(left, numbers)
    called_refused(middle, numbers, "plain model")
    called_refused(right, numbers, "SCANS", named=False)
    marks = [
        Line2D([], [], ls="none", ms=5, label=f"{kind} (n = {numbers['n'][kind]})", **_bare(kind))
        for kind in captions.in_order(numbers["n"])
    ]
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
            dot(ax, numbers["refused"][name][way][kind], at, ms=4.5, **_bare(kind))
        if y:
            ax.axhline(y - 0.5, color=FAINT, lw=0.8, zorder=0)
    labelled(ax, _judges(numbers), named=named)
    ax.set_ylim(len(numbers["judges"]) - 0.5, -0.5)
    _refused_axis(ax, along="x")
    ax.set_title(way)
    return ax


# ── How many anchors ─────────────────────────────────────────────────────────────────────────────────────────


def anchor_size(numbers: Numbers, settings: Numbers) -> Picture:
    rows = numbers["rows"]
    draws = max(len(row["auc"]) for row in rows)
    held = ", ".join(f"{n} {kind}" for kind, n in numbers["n_validation"].items())
    asked = ", ".join(f"{n} {kind}" for kind, n in numbers["n"].items())
    caption = captions.caption(
        captions.model(settings),
        f"{draws} draws of each size from {numbers['pool']} training prompts a side. Lines: mean over the draws;",
        "bands: from the least to the most; dots: every draw. Directions, classifier and threshold are learned anew;",
        f"layers ({captions.ranges(numbers['layers'])}), voting layers and scale ({numbers['scale']:g}",
        f"{numbers['unit']}) are kept. AUC and threshold (at most {100 * numbers['missed']:g} % of the harmful ones",
        f"missed): {held} validation prompts. Refused: {asked} test prompts; the bar on the right is the 95 % interval",
        "(Clopper–Pearson) of the median draw of the largest size; dashed: the plain model.",
        _who_judged(numbers),
    )
    picture = blank(WIDTH, 6.6, caption)
    axes = picture.subplots(2, 2, sharex=True).ravel()
    _cosines(axes[0], numbers)
    _over_draws(axes[1], rows, [row["auc"] for row in rows], INK)
    axes[1].set(ylabel="AUC", title=f"The score: harmful against {numbers['auc_kind']} (validation)")
    for ax, side in zip(axes[2:], sorted(numbers["n"]), strict=False):
        _refused_by_size(ax, numbers, side)
    for ax in axes[2 + len(numbers["n"]) :]:
        ax.axis("off")
    for ax in axes:
        ax.set_xscale("log")
        ax.set_xticks([row["size"] for row in rows], [str(row["size"]) for row in rows])
        ax.minorticks_off()
        ax.tick_params(labelbottom=True)
    for ax in axes[2:]:
        ax.set_xlabel("anchors a side")
    return picture


def _over_draws(ax: Axes, rows: Sequence[Numbers], values: Sequence[Draws], colour: str, **look: Any) -> None:
    at = [row["size"] for row in rows]
    ax.fill_between(at, list(map(min, values)), list(map(max, values)), color=colour, alpha=0.18, lw=0)
    ax.plot(at, [float(np.mean(own)) for own in values], color=colour, **look)
    for x, own in zip(at, values, strict=True):
        ax.plot([x] * len(own), own, ls="none", marker="o", ms=2.6, color=colour, alpha=0.6)


def _cosines(ax: Axes, numbers: Numbers) -> Axes:
    """How alike the directions are to those of all prompts, by bands of layers."""
    looks = {
        "anchor layers": {"colour": "#D55E00", "ls": "-", "lw": 2},
        "former third": {"colour": "#56B4E9", "ls": "--"},
        "middle third": {"colour": "#009E73", "ls": "-."},
        "latter third": {"colour": "#8C4A7B", "ls": ":"},
    }
    for name, look in looks.items():
        _over_draws(ax, numbers["rows"], [row["cosine"][name] for row in numbers["rows"]], **look, label=name)
    ax.set(ylabel="cosine (mean over layers)", title=f"The directions: beside those of all {numbers['pool']} a side")
    ax.legend(loc="lower right")
    return ax


def _refused_by_size(ax: Axes, numbers: Numbers, side: str) -> Axes:
    """Refusals under SCANS from so many anchors."""
    rows, look = numbers["rows"], KINDS[side]
    values = [[100 * rate["value"] for rate in row["rates"][side]] for row in rows]
    _over_draws(ax, rows, values, look["color"], ls=look["linestyle"])
    plain = 100 * numbers["plain_model"][side]["value"]
    ax.axhline(plain, color=SOFT, lw=1, ls="--", zorder=0)
    ax.annotate(
        "plain model", (rows[0]["size"], plain), (0, -3), textcoords="offset points", fontsize=7.5, color=SOFT, va="top"
    )
    last = sorted(rows[-1]["rates"][side], key=lambda rate: rate["value"])
    middle = last[len(last) // 2]
    low, high = (100 * edge for edge in middle["interval"])
    x = rows[-1]["size"] * 1.13
    ax.plot([x, x], [low, high], color=look["color"], lw=1.4)
    lowest, highest = min(low, plain, *map(min, values)), max(high, plain, *map(max, values))
    room = 0.12 * (highest - lowest) + 1
    ax.set_ylim(max(-3, lowest - room), min(100 + room / 2, highest + room))
    ax.set_yticks([tick for tick in ax.get_yticks() if ax.get_ylim()[0] <= tick <= min(100, ax.get_ylim()[1])])
    ax.set(ylabel="refused (%)", title=f"{side} test prompts under SCANS (n = {numbers['n'][side]})")
    return ax


# ── What it costs ────────────────────────────────────────────────────────────────────────────────────────────


def capability(numbers: Numbers, settings: Numbers) -> Picture:
    ways = numbers["ways"]
    first = next(iter(ways.values()))
    quiz, corpus = first["quiz"], first["perplexity"]
    towards = ways["SCANS, each its own way"]["pushed_towards"]
    caption = captions.caption(
        captions.model(settings),
        _push(numbers),
        f"Quiz: {quiz['total']} test questions about {quiz['items']} items, replies of up to {numbers['tokens']}",
        "tokens; 95 %, " + ("Clopper–Pearson." if quiz["items"] == quiz["total"] else "bootstrap over the items."),
        f"{_foretold(corpus)}; 95 % by bootstrap over the answers. {_ALIKE} Grey: the plain model.",
        f"SCANS itself pushes {towards['count']} of the {towards['total']} questions towards refusal.",
    )
    picture = blank(WIDTH, 3.3, caption)
    left, right = picture.subplots(1, 2)
    for ax, key, times, form in ((left, "quiz", 100, ".1f"), (right, "perplexity", 1, ".3f")):
        ax.axvline(times * first[key]["value"], color=FAINT, lw=1, zorder=0)
        for y, part in enumerate(ways.values()):
            dot(ax, part[key], y, times=times, color=INK, marker="o")
            beside(ax, y, f"{times * part[key]['value']:{form}}")
        labelled(ax, list(ways), named=ax is left)
        ax.margins(x=0.1)
    left.set(xlabel="right (%)", title=f"Quiz questions right (n = {quiz['total']})")
    right.set(xlabel="perplexity (a token)", title=f"Answers foretold (n = {corpus['texts']})")
    return picture


DRAWINGS: dict[str, Callable[[Numbers, Numbers], Picture]] = {
    "push_sweep": push_sweep,
    "threshold_sweep": threshold_sweep,
    "thirds": thirds,
    "by_type": by_type,
    "calibration": calibration,
    "judge_agreement": judge_agreement,
    "anchor_size": anchor_size,
    "capability": capability,
}
