"""Drawing the rivals: from measured numbers to pictures, as in `drawing`."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from scans_lens.figures import captions
from scans_lens.figures.captions import Numbers
from scans_lens.figures.drawing_sweeps import beside, dot, labelled, percentages
from scans_lens.figures.style import FAINT, INK, KINDS, SOFT, WIDTH, Picture, blank, legible

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
_GROUPS: Mapping[str, dict[str, Any]] = {
    "harmless": {"color": "#0072B2", "marker": "^"},
    "refused harmful": {"color": "#D55E00", "marker": "o"},
    "complied harmful": {"color": "#CC79A7", "marker": "D"},
}
_ASKED: Mapping[str, dict[str, Any]] = {
    **{kind: {key: KINDS[kind][key] for key in ("color", "marker")} for kind in KINDS},
    "wrapped plain": {"color": KINDS["plain"]["color"], "marker": "^", "markerfacecolor": "white"},
    "wrapped borderline": {"color": KINDS["borderline"]["color"], "marker": "s", "markerfacecolor": "white"},
}
"""Kinds of prompts; what is wrapped as jailbreaks are, and harmless, is hollow."""
_ORDER = ("harmful", "jailbreak", "plain", "borderline", "wrapped plain", "wrapped borderline")


def _tested(numbers: Numbers) -> str:
    said = ", ".join(f"{numbers['n'][kind]} {kind}" for kind in _ORDER if kind in numbers["n"])
    return f"n = {said} test prompts."


_WRAPPED = (
    "Wrapped: harmless requests in the wrappings of the jailbreaks; wrappings of test prompts are in no other split."
)


def _fitted(numbers: Numbers) -> str:
    """Of the method in use."""
    switched = "; ".join(f"{one['side']} {one['switched']} of {one['total']}" for one in numbers["validation"])
    return (
        "SafeSwitch (arXiv 2502.01042): probers after the final norm, at the end of the prompt and "
        f"{numbers['k']} reply "
        "tokens later; it switches where the product of their probabilities is above "
        f"{numbers['threshold']:.3f}, chosen "
        f"on validation prompts, of which switched: {switched}."
    )


# ── What the probers can tell ────────────────────────────────────────────────────────────────────────────────


def probers(numbers: Numbers, settings: Numbers) -> Picture:
    by_layer = numbers["by_layer"]
    caption = captions.caption(
        captions.model(settings),
        _tested(numbers),
        _WRAPPED,
        f"Probers of SafeSwitch (arXiv 2502.01042), every one learned from {numbers['learned']['probers']} training",
        f"prompts, stopped and calibrated on {numbers['learned']['held']} validation",
        "prompts; right where its half falls on the right side. Bars: 95 %, bootstrap over the",
        f"{numbers['items']} things that prompts are about ({numbers['resamples']} resamples). Hollow and",
        "dotted: straight",
        "lines (logistic regression) in place of networks of one hidden layer. Thin lines: always the commoner answer.",
        f"“Complied with?” reads {by_layer['k']} reply tokens later on the left. Right: two stages say yes",
        "where “harmful?”",
        "at the end of the prompt and “complied with?” after so many tokens both do, each read after the final norm.",
    )
    picture = blank(WIDTH, 4.9, caption)
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


# ── Where prompts lie ────────────────────────────────────────────────────────────────────────────────────────


def states(numbers: Numbers, settings: Numbers) -> Picture:
    said = ", ".join(f"{n} {group}" for group, n in numbers["n"].items())
    caption = captions.caption(
        captions.model(settings),
        f"Residual stream at the end of the prompt: principal components of the {said} test prompts that are drawn,",
        "centred, and scaled to 0–1 at each depth. Harmful: harmful prompts and jailbreaks together;",
        "complied, refused: by",
        "the plain model. Harmless: plain and borderline prompts that it answers, bare and in the wrappings",
        "of jailbreaks.",
        "Hollow: wrapped, jailbreaks among them. Below each panel: what straight lines in all dimensions, learned from",
        f"{numbers['learned']['probers']} training prompts, get right of {numbers['tried']} test prompts of all kinds;",
        f"95 %, bootstrap over {numbers['items']} things that prompts are about. Always the commoner answer gets",
        f"{100 * numbers['majority']['instruction']:.1f} % and {100 * numbers['majority']['direct']:.1f} %.",
        "After SafeSwitch",
        "(arXiv 2502.01042).",
    )
    picture = blank(WIDTH, 4.5, caption)
    axes = picture.subplots(1, len(numbers["panels"]))
    for ax, panel in zip(np.atleast_1d(axes), numbers["panels"], strict=True):
        plane(ax, panel, numbers["wrapped"])
    marks = [
        Line2D([], [], ls="none", ms=5, label=f"{group} (n = {numbers['n'][group]})", **look)
        for group, look in _GROUPS.items()
        if group in numbers["n"]
    ]
    picture.legend(handles=marks, loc="outside upper center", ncols=len(marks))
    return picture


def plane(ax: Axes, panel: Numbers, wrapped: Mapping[str, Sequence[bool]]) -> Axes:
    """Prompts of the three groups in the plane of two principal components; what is wrapped is hollow."""
    for group, points in panel["points"].items():
        colour = _GROUPS[group]["color"]
        for hollow in (False, True):
            own = [point for point, inside in zip(points, wrapped[group], strict=True) if inside == hollow]
            if own:
                x, y = np.array(own).T
                face = "none" if hollow else colour
                ax.scatter(
                    x, y, s=13, marker=_GROUPS[group]["marker"], facecolor=face, edgecolor=colour, alpha=0.65, lw=0.8
                )
    ax.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05), xticks=[0, 1], yticks=[0, 1])
    ax.set_box_aspect(1)
    first, second = (f"{100 * share:.0f} %" for share in panel["variance"])
    lines = [
        f"{word} {captions.percent(panel['straight lines'][name])}"
        for name, word in (("instruction", "harmful?"), ("direct", "… and complied?"))
    ]
    ax.set_xlabel(f"PC 1 ({first} of variance)", labelpad=-5)
    ax.text(
        0, -0.17, "Straight lines in all dimensions:\n" + "\n".join(lines), transform=ax.transAxes, fontsize=6.8,
        color=SOFT, va="top", linespacing=1.4,
    )  # fmt: skip
    ax.set_ylabel(f"PC 2 ({second})", labelpad=-6)
    layer = panel["layer"]
    ax.set_title(f"layer {layer}" if isinstance(layer, int) else layer)
    return ax


# ── What the switch does ─────────────────────────────────────────────────────────────────────────────────────

_WAYS: Mapping[str, str] = {
    "plain model": "plain model",
    "SafeSwitch": "SafeSwitch",
    "both at least a half": "both at least ½",
    "head always on": "head always on",
    "oracle switch": "oracle switch",
}


def switching(numbers: Numbers, settings: Numbers) -> Picture:
    caption = captions.caption(
        captions.model(settings),
        _tested(numbers),
        _WRAPPED,
        _fitted(numbers),
        "Both at least ½: the released code’s rule. Oracle: the head where a harmful prompt would be",
        "complied with, and",
        f"nowhere else. Replies of up to {numbers['tokens']} tokens, complied with by the model’s own judge",
        "(in whole or in",
        "part); bars: 95 %, Clopper–Pearson. Change: points against the plain model, bold where McNemar’s",
        "exact test has",
        f"p < .05 after Holm over {numbers['tests']} tests. Wording: of refusals of harmful prompts and",
        "jailbreaks, the",
        f"plain model’s own and those of replies that switched; bare: under {numbers['hard_words']} words.",
        "The head has",
        f"{100 * numbers['share']:.1f} % as many numbers as the model.",
    )
    picture = blank(WIDTH, 8.0, caption)
    above, below = picture.add_gridspec(2, 1, height_ratios=(2.6, 1), hspace=0.04)
    grid = above.subgridspec(2, 3)
    kinds = [("harmful", "plain", "wrapped plain"), ("jailbreak", "borderline", "wrapped borderline")]
    for row, own in enumerate(kinds):
        for column, kind in enumerate(own):
            answered(picture.add_subplot(grid[row, column]), numbers, kind, named=column == 0)
    manners(picture.add_subplot(below), numbers)
    return picture


def answered(ax: Axes, numbers: Numbers, kind: str, *, named: bool = True) -> Axes:
    """How often one kind is complied with, every way."""
    look = _ASKED[kind]
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


def manners(ax: Axes, numbers: Numbers) -> Axes:
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
        Line2D([], [], ls="none", ms=5.5, label=f"{way} (n = {found[way]['hard']['total']} refusals)", **look)
        for way, look in looks.items()
        if way in found
    ]
    ax.legend(handles=marks, loc="center", bbox_to_anchor=(0.5, 0.5))
    return ax


def switch_by_type(numbers: Numbers, settings: Numbers) -> Picture:
    caption = captions.caption(
        captions.model(settings),
        _tested(numbers),
        "In brackets n, in the order of the marks. Jailbreaks and wrapped prompts by their wrapping, of which none is",
        "in another split,",
        "borderline prompts by their type. Complied with: by the plain model. Rightly: the head where a",
        "prompt is harmful",
        "and complied with, and nowhere else. Bars: 95 %, Clopper–Pearson.",
        _fitted(numbers),
    )
    picture = blank(WIDTH, 8.4, caption)
    groups = _by_type(numbers["rows"])
    heights = [sum(len(own) for own in part.values()) ** 0.5 for part in groups]
    axes = picture.subplots(2, 2, height_ratios=heights, sharex=True, squeeze=False)
    for row, part in enumerate(groups):
        for column, what in enumerate(("complied", "right")):
            by_type(axes[row, column], part, what, named=column == 0)
    titles = ("Complied with by the plain model", "Switched rightly")
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title)
    for ax, label in zip(axes[1], ("complied with (%)", "decided rightly (%)"), strict=True):
        ax.set_xlabel(label)
    marks = [Line2D([], [], ls="none", ms=5.5, label=kind, **_ASKED[kind]) for kind in _ORDER]
    picture.legend(handles=marks, loc="outside upper center", ncols=len(marks))
    return picture


Group = Mapping[str, Sequence[Numbers]]


def _by_type(found: Sequence[Numbers]) -> tuple[Group, Group]:
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
    order = sorted(bare, key=lambda name: (_ORDER.index(bare[name][0]["kind"]), name))
    return wrapped, {name: bare[name] for name in order}


def by_type(ax: Axes, part: Group, what: str, *, named: bool = True) -> Axes:
    """One row a type, with a mark for each kind that has it."""
    for y, own in enumerate(part.values()):
        for place, one in enumerate(sorted(own, key=lambda one: _ORDER.index(one["kind"]))):
            at = y + 0.24 * (place - (len(own) - 1) / 2)
            dot(ax, one[what], at, **{"ms": 4.8, **_ASKED[one["kind"]]})
        if y:
            ax.axhline(y - 0.5, color=FAINT, lw=0.8, zorder=0)
    labels = []
    for name, own in part.items():
        sizes = sorted(own, key=lambda one: _ORDER.index(one["kind"]))
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


# ── The refusal direction ────────────────────────────────────────────────────────────────────────────────────

_SCORES = {
    "bypass": "Bypass: refusal score of harmful prompts, direction taken out",
    "induce": "Induce: refusal score of harmless prompts, direction added",
    "kl": "KL of the first reply token, harmless prompts, direction taken out",
}
_STEERED: Mapping[str, dict[str, Any]] = {
    "harmful, plain model": {"color": SOFT, "marker": "o", "markerfacecolor": "white"},
    "bypass": {"color": KINDS["harmful"]["color"], "marker": "o"},
    "harmless, plain model": {"color": SOFT, "marker": "^", "markerfacecolor": "white"},
    "induce": {"color": KINDS["plain"]["color"], "marker": "^"},
}
_STEERED_ROWS = {
    "harmful, plain model": "harmful, plain model",
    "bypass": "harmful, taken out",
    "harmless, plain model": "plain, plain model",
    "induce": "plain, added",
}


def refusal_direction(numbers: Numbers, settings: Numbers) -> Picture:
    filters, chosen = numbers["filters"], numbers["chosen"]
    late = f", none from layer {filters['first_late']} on" if filters["last"] else ""
    caption = captions.caption(
        captions.model(settings),
        "Arditi et al. (2024, arXiv 2406.11717): each candidate is a difference of means, read where the row",
        "and the column",
        "say. Refusal score: log-odds of a first reply token that begins refusals.",
        f"{numbers['kept_count']} of {numbers['tried']} candidates pass: induce at least",
        f"{filters['least_induce']:g}, KL at most",
        f"{filters['most_kl']:g} nats{late}; the others are hatched. – : no difference there.",
    )
    if chosen:
        plain, taken = chosen["learned"][1], chosen["learned"][0]
        caption = captions.caption(
            caption,
            f"Framed: the chosen one, of the smallest bypass. Learned from {taken} harmful and {plain} plain prompts;",
            f"maps: means over {chosen['scores']['bypass']['n']} harmful and {chosen['scores']['induce']['n']} plain",
            f"validation prompts; bars there: 95 %, bootstrap over prompts ({chosen['resamples']} resamples).",
            captions.tested(settings, chosen["n"]),
            "Refused by",
            "the model’s own judge" if chosen["judge"] == "exact" else "the panel of judges",
            "(hollow: by the rule judge, where it differs), replies of up to",
            f"{chosen['reply_tokens']} tokens; bars: 95 %, Clopper–Pearson. Replies that run in a circle:",
            ", ".join(f"{way} {100 * rate['value']:.0f} %" for way, rate in chosen["broken"].items()) + ".",
            "Numbers: change in points, bold where",
            "McNemar’s exact test",
            f"has p < .05 after Holm over {len(chosen['paired'])} tests.",
        )
    else:
        caption = captions.caption(caption, "None passes, so none is chosen.")
    kinds = captions.in_order(chosen["n"]) if chosen else []
    picture = blank(WIDTH, 8.6 if chosen else 5.2, caption)
    if not chosen:
        maps = picture.add_gridspec(1, 1)[0].subgridspec(3, 1)
    else:
        above, below = picture.add_gridspec(2, 1, height_ratios=(2.35, 1), hspace=0.03)
        maps = above.subgridspec(3, 1)
        panels = below.subgridspec(1, 1 + len(kinds), width_ratios=(1.5, *[1] * len(kinds)))
        scores(picture.add_subplot(panels[0]), chosen)
        for place, kind in enumerate(kinds):
            refused(picture.add_subplot(panels[place + 1]), chosen, kind, named=place == 0)
    bound = max(
        abs(value) for name in ("bypass", "induce") for row in numbers[name] for value in row if value is not None
    )
    for place, name in enumerate(_SCORES):
        heat(picture, picture.add_subplot(maps[place]), numbers, name, bound, labelled=place == 2)
    return picture


def heat(picture: Picture, ax: Axes, numbers: Numbers, name: str, bound: float, *, labelled: bool) -> Axes:
    """One score of every candidate, by the token and the layer that it was read at."""
    found = np.array(numbers[name], dtype=float)
    kl = np.array(numbers["kl"], dtype=float)
    none = kl == 0
    shown = np.ma.masked_array(found, mask=none | np.isnan(found))
    if name == "kl":
        positive = found[found > 0]
        norm: Normalize = LogNorm(max(1e-3, float(positive.min(initial=1.0))), max(1e-2, float(np.nanmax(found))))
        colours = "Blues"
    else:
        norm, colours = Normalize(-bound, bound), "PuOr_r"
    image = ax.imshow(shown, norm=norm, cmap=colours, aspect="auto")
    kept, chosen = np.array(numbers["kept"], dtype=float), numbers["chosen"]
    for (y, x), value in np.ndenumerate(found):
        said = "–" if none[y, x] else f"{value:.2g}" if name == "kl" else f"{value:.1f}".replace("-", "−")
        red, green, blue, _ = image.cmap(image.norm(value)) if not none[y, x] else (1, 1, 1, 1)
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 and kept[y, x]
        behind = {"facecolor": "white", "alpha": 0.85, "lw": 0, "pad": 1.2}
        if not kept[y, x]:
            corner = (x - 0.5, y - 0.5)
            ax.add_patch(Rectangle(corner, 1, 1, fill=False, hatch="////", edgecolor="#8c8c8c", lw=0, zorder=2))
        ax.text(
            x, y, said, ha="center", va="center", fontsize=7, color="white" if dark else INK, zorder=4,
            fontweight="bold" if kept[y, x] else "normal", bbox=None if kept[y, x] else behind,
        )  # fmt: skip
    if chosen:
        y = len(found) + chosen["position"]
        frame = Rectangle((chosen["layer"] - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="black", lw=2.4, zorder=5)
        frame.set_clip_on(False)
        ax.add_patch(frame)
    ax.set_yticks(
        range(len(found)),
        [f"{legible(word)}  {y - len(found)}".replace("-", "−") for y, word in enumerate(numbers["words"])],
    )
    step = max(1, -(-found.shape[1] // 24))
    ax.set_xticks(range(0, found.shape[1], step))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if name == "induce":
        ax.set_ylabel("token, and its place from the end")
    if labelled:
        ax.set_xlabel("layer (start of block)")
    ax.set_title(_SCORES[name])
    bar = picture.colorbar(image, ax=ax, pad=0.01, fraction=0.05, aspect=12)
    bar.set_label("nats")
    if name == "kl":
        assert norm.vmin and norm.vmax
        ticks = [tick for tick in (0.001, 0.01, 0.1, 1.0, 10.0) if norm.vmin <= tick <= norm.vmax]
        bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    bar.outline.set_visible(False)  # type: ignore[operator]
    return ax


def scores(ax: Axes, chosen: Numbers) -> Axes:
    """The chosen candidate's scores with their intervals, beside the plain model's."""
    ax.axvline(0, color=FAINT, lw=1, zorder=0)
    for y, name in enumerate(_STEERED_ROWS):
        dot(ax, chosen["scores"][name], y, times=1, **_STEERED[name])
    labelled(ax, list(_STEERED_ROWS.values()))
    ax.margins(x=0.1)
    ax.set_xlabel("refusal score (nats)")
    kl = chosen["scores"]["kl"]
    low, high = kl["interval"]
    ax.set_title(f"Chosen: KL {kl['value']:.2f} [{low:.2f}, {high:.2f}] nats", fontsize=8.4)
    return ax


def refused(ax: Axes, chosen: Numbers, kind: str, *, named: bool = True) -> Axes:
    """Refusals of one kind of test prompts with the direction taken out or added."""
    ways, look = list(chosen["refused"]), _ASKED[kind]
    tests = {test["way"]: test for test in chosen["paired"] if test["kind"] == kind}
    ax.axvline(100 * chosen["refused"]["plain model"][kind]["value"], color=FAINT, lw=1, zorder=0)
    for y, way in enumerate(ways):
        rate, other = chosen["refused"][way][kind], chosen["by_rules"][way][kind]
        if other["count"] != rate["count"]:
            dot(ax, other, y, **{**look, "markerfacecolor": "white"})
        dot(ax, rate, y, **look)
        if way in tests:
            sure, change = tests[way]["p_holm"] < 0.05, tests[way]["difference"]
            said = f"{100 * change:+.0f}".replace("-", "−") if change else "±0"
            beside(ax, y, said, **({"fontweight": "bold", "color": INK} if sure else {"color": SOFT}))
    labelled(ax, ways, named=named)
    ax.set(xlim=(-6, 106), xticks=[0, 50, 100], xlabel="refused (%)")
    ax.set_title(f"{kind}\n(n = {chosen['n'][kind]})", color=look["color"], fontweight="bold", fontsize=8.6)
    return ax


DRAWINGS: dict[str, Callable[[Numbers, Numbers], Picture]] = {
    "probers": probers,
    "states": states,
    "switching": switching,
    "switch_by_type": switch_by_type,
    "refusal_direction": refusal_direction,
}
