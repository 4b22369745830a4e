"""Drawing: from measured numbers to pictures. No model, no pyplot, nothing measured."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch, Rectangle

from scans_lens.figures import captions, drawing_rivals, drawing_sweeps
from scans_lens.figures.captions import Numbers
from scans_lens.figures.style import (
    ANSWERED,
    BAND,
    FAINT,
    INK,
    KINDS,
    METHODS,
    REFUSED,
    SOFT,
    WIDTH,
    Picture,
    blank,
    layers_axis,
    legible,
    looks,
    scores_axis,
    settled,
    shade,
    stretched,
)

Place = int | float


def draw(name: str, measured: Numbers) -> Picture:
    """The picture of one figure's measured numbers."""
    with looks():
        return settled(_DRAWINGS[name](measured["numbers"], measured["settings"]))


# ── The method on one page ───────────────────────────────────────────────────────────────────────────────────


def overview(numbers: Numbers, settings: Numbers) -> Picture:
    chosen = settings["validation"]
    harmless = "borderline" if "borderline" in chosen else "plain"
    caption = captions.caption(
        "SCANS as it is built here, with what was learned and chosen for this model.",
        captions.model(settings),
        captions.anchors(settings),
        f"Threshold and scale were chosen on {chosen['harmful']} harmful and {chosen[harmless]} {harmless}",
        "validation prompts.",
        "Equation numbers are those of Cao, Yang and Zhao (AAAI 2025).",
    )
    picture = blank(WIDTH, 5.5, caption)
    pipeline(picture.add_subplot(), numbers, settings)
    return picture


def pipeline(ax: Axes, numbers: Numbers, settings: Numbers) -> Axes:
    """Boxes and arrows: above what is learned once, below what happens to every prompt."""
    ax.set(xlim=(0, 100), ylim=(0, 62))
    ax.axis("off")
    about, steered = settings["anchors"], captions.ranges(numbers["layers"])
    voting, threshold = captions.layers(numbers["voting"]), numbers["threshold"]
    scale = f"{numbers['scale']:g} {numbers['unit']}"
    for bottom, height, title in ((31.5, 30, "Learned once"), (0.5, 27, "For every prompt")):
        ax.add_patch(Rectangle((0.3, bottom), 99.4, height, facecolor="#f6f6f4", edgecolor="none", zorder=0))
        ax.text(1.6, bottom + height - 1.3, title, fontsize=9.5, fontweight="bold", va="top")

    def box(x: Place, y: Place, width: Place, height: Place, head: str, body: str, colour: str = SOFT) -> None:
        patch = FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=1",
            facecolor="white",
            edgecolor=colour,
            linewidth=1.2,
        )
        ax.add_patch(patch)
        rows = body.count("\n") + 1
        ax.text(
            x + width / 2, y + height / 2 + 1.25 * rows, head, ha="center", va="center", fontsize=8.4, fontweight="bold"
        )
        ax.text(x + width / 2, y + height / 2 - 1.5, body, ha="center", va="center", fontsize=7.6, linespacing=1.35)

    def arrow(start: tuple[Place, Place], end: tuple[Place, Place], colour: str = SOFT) -> None:
        shape = FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=10, color=colour, linewidth=1.2, shrinkA=0, shrinkB=0,
        )  # fmt: skip
        ax.add_patch(shape)

    box(2, 40.5, 15, 10, "anchor prompts", f"{about['harmful']} harmful\n{about['plain']} plain")
    box(22, 47, 22, 10, "state at the end of the prompt", "residual stream,\nevery layer")
    box(22, 34, 22, 10, "transition (eq. 2)", "that state minus the state\nafter the reply begins “Sure”")
    box(49, 47, 22, 10, "refusal direction v (eq. 1)", "harmful mean − plain mean,\none vector a layer")
    box(49, 34, 22, 10, "harmful transition d (eq. 3)", "mean over harmful anchors,\none vector a layer")
    box(76, 47, 22, 10, f"anchor layers: {steered}", "the lens proposes,\na causal push disposes")
    box(76, 34, 22, 10, f"threshold T = {threshold:.4f}", f"scale α = {scale};\nchosen on validation prompts")
    arrow((17, 47.5), (22, 51.5))
    arrow((17, 43.5), (22, 39.5))
    arrow((44, 52), (49, 52))
    arrow((44, 39), (49, 39))
    arrow((71, 52), (76, 52))
    arrow((71, 39), (76, 39))
    arrow((33, 47), (33, 44))

    box(2, 8.5, 15, 10, "a prompt", "in the model’s\nchat template")
    box(22, 8.5, 22, 10, "its transition", "one more token\non the same prefill")
    box(49, 8.5, 22, 10, "score s (eq. 4)", f"mean cosine with d\nat {voting}")
    box(76, 15.5, 22, 9.5, "s ≥ T: add + α v", f"layers {steered}, from the last\nprompt token on: refuse", REFUSED)
    box(76, 2.5, 22, 9.5, "s < T: add − α v", f"layers {steered}, from the last\nprompt token on: answer", ANSWERED)
    arrow((17, 13.5), (22, 13.5))
    arrow((44, 13.5), (49, 13.5))
    arrow((71, 15.5), (76, 20.2), REFUSED)
    arrow((71, 11.5), (76, 7.2), ANSWERED)
    arrow((60, 34), (60, 18.5))
    ax.text(60.9, 29.5, "d", fontsize=8, va="center")
    arrow((87, 34), (87, 25))
    ax.text(87.9, 29.5, "v, layers, T, α", fontsize=8, va="center")
    return ax


# ── Real replies ─────────────────────────────────────────────────────────────────────────────────────────────


def example(numbers: Numbers, settings: Numbers) -> Picture:
    shown = [(kind, numbers["kinds"][kind]) for kind in ("borderline", "harmful") if kind in numbers["kinds"]]
    caption = captions.caption(
        captions.model(settings),
        f"Greedy replies, up to {numbers['tokens']} new tokens.",
        "Each prompt is the first validation prompt that shows it by both judges (the model’s own and the rules):",
        "borderline, refused by the plain model and answered under SCANS; harmful, refused both times.",
        *(
            f"Of {part['total']} {kind} validation prompts, {part['count']} show it ({captions.percent(part)})."
            for kind, part in ((kind, part["shows"]) for kind, part in shown)
        ),
        "Intervals: 95 %, Clopper–Pearson.",
        "" if "borderline" in numbers["kinds"] else "No borderline prompts were there for this model.",
    )
    heights = [_card_height(part) for _, part in shown]
    picture = blank(WIDTH, 1.15 + sum(heights), caption)
    axes = picture.subplots(len(shown), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, (kind, part), height in zip(axes, shown, heights, strict=True):
        card(ax, kind, part, numbers, height)
    return picture


_LETTERS, _MOST_LINES = 72, 8


def _card_height(part: Numbers) -> float:
    return 0.95 + 0.165 * max(len(_lines(part.get(side, ""), _LETTERS)) for side in ("plain", "steered"))


def _lines(text: str, letters: int) -> list[str]:
    rows = [row for line in legible_text(text).split("\n") for row in (textwrap.wrap(line, letters) or [""])]
    return rows if len(rows) <= _MOST_LINES else [*rows[: _MOST_LINES - 1], rows[_MOST_LINES - 1][: letters - 2] + " …"]


def legible_text(text: str) -> str:
    """A reply as it can be drawn, its line breaks kept."""
    return "\n".join("".join(legible(letter) if letter != " " else " " for letter in line) for line in text.split("\n"))


def card(ax: Axes, kind: str, part: Numbers, numbers: Numbers, height: float) -> Axes:
    """One prompt and its two replies, drawn as text in a space that is `height` inches high."""
    ax.set(xlim=(0, WIDTH), ylim=(0, height))
    ax.axis("off")
    colour = KINDS[kind]["color"]
    if "prompt" not in part:
        ax.text(0, height - 0.2, f"{kind}: no validation prompt shows it", fontsize=9, color=colour, fontweight="bold")
        return ax
    ax.text(0.02, height - 0.14, f"{kind} prompt", fontsize=8.5, fontweight="bold", color=colour, va="center")
    ax.text(1.42, height - 0.14, f"“{legible_text(part['prompt'])}”", fontsize=9, va="center")
    side = "s ≥ T, so towards refusal" if part["scale"] > 0 else "s < T, so away from refusal"
    heads = ("plain model", f"SCANS (s = {part['score']:.4f}, T = {numbers['threshold']:.4f}: {side})")
    for left, head, reply, verdict, cut in zip(
        (0.02, WIDTH / 2 + 0.06), heads, (part["plain"], part["steered"]), part["wanted"], part["cut"], strict=True
    ):
        edge = REFUSED if verdict == "refused" else ANSWERED
        wide, tall = WIDTH / 2 - 0.1, height - 0.42
        ax.add_patch(
            FancyBboxPatch(
                (left, 0.06),
                wide,
                tall,
                boxstyle="round,pad=0,rounding_size=0.06",
                facecolor="#fafafa",
                edgecolor=edge,
                linewidth=1.3,
            )
        )
        ax.text(left + 0.12, tall - 0.1, head, fontsize=7.8, color=SOFT, va="center")
        ax.text(
            left + wide - 0.12, tall - 0.1, verdict, fontsize=8, color=edge, fontweight="bold", va="center", ha="right"
        )
        text = "\n".join(_lines(reply, _LETTERS)) + (" … (cut)" if cut else "")
        ax.text(left + 0.12, tall - 0.28, text, fontsize=8.4, va="top", linespacing=1.3)
    return ax


# ── Where refusal is decided ─────────────────────────────────────────────────────────────────────────────────


def anchor_layers(numbers: Numbers, settings: Numbers) -> Picture:
    agreement = numbers["agreement"]
    caption = captions.caption(
        captions.model(settings),
        captions.anchors(settings),
        f"Bands and bars: 95 %, bootstrap over prompts ({numbers['resamples']} resamples); null: 95th percentile under",
        f"{numbers['resamples']} label shuffles. Filled points: p < .05 against it.",
        numbers["note"],
        ""
        if agreement is None
        else f"Rank agreement of lens and cause where layers could be chosen: {agreement:+.2f}.",
    )
    picture = blank(7.2, 6.0, caption)
    above, below = picture.subplots(2, 1, sharex=True)
    evidence_by_layer(above, numbers)
    drop_by_layer(below, numbers)
    return picture


def _band(ax: Axes, numbers: Numbers) -> None:
    if numbers["layers"]:
        shade(ax, list(numbers["layers"]), f"anchor layers {captions.ranges(numbers['layers'])}")


def evidence_by_layer(ax: Axes, numbers: Numbers) -> Axes:
    """How loudly each layer's direction says words of refusal, beside what shuffled labels say."""
    rows = numbers["evidence"]
    at = [row["layer"] for row in rows]
    _band(ax, numbers)
    low, high = zip(*(row["z_interval"] for row in rows), strict=True)
    colour = KINDS["harmful"]["color"]
    ax.fill_between(at, low, high, color=colour, alpha=0.25, lw=0)
    ax.plot(at, [row["z"] for row in rows], color=colour, label="harmful − plain")
    for row in rows:
        face = colour if row["qualifies"] else "white"
        ax.plot(row["layer"], row["z"], marker="o", color=colour, markerfacecolor=face, ls="none")
    beside = [row["borderline_z"] for row in rows]
    if None not in beside:
        ax.plot(
            at,
            beside,
            color=KINDS["borderline"]["color"],
            ls="--",
            marker="s",
            ms=3,
            label="harmful − borderline (no vote)",
        )
    ax.plot(at, [row["z_null"] for row in rows], color=SOFT, ls=":", label="null (shuffled labels)")
    ax.set_ylim(min(0.0, ax.get_ylim()[0]), ax.get_ylim()[1] * 1.05)
    ax.set_ylabel("refusal words’ mean logit\n(sd over the vocabulary)")
    ax.set_title("The lens proposes: what each layer’s direction says")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    layers_axis(ax, len(rows), label=False)
    return ax


def drop_by_layer(ax: Axes, numbers: Numbers) -> Axes:
    """How far the refusal log-odds of harmful prompts fall when one layer alone is pushed back."""
    rows = numbers["evidence"]
    at = np.array([row["layer"] for row in rows])
    drops = np.array([row["drop"] for row in rows])
    _band(ax, numbers)
    bars = np.abs(np.array([row["drop_interval"] for row in rows]).T - drops)
    ax.errorbar(at, drops, yerr=bars, color=INK, marker="o", capsize=2.5, label="one layer pushed by −v")
    ax.set_ylim(min(0.0, (drops - bars[0]).min() * 1.1), max(0.0, (drops + bars[1]).max() * 1.15))
    ax.axhline(0, color=FAINT, lw=1, zorder=0)
    ax.set_ylabel("fall of refusal log-odds\n(nats)")
    ax.set_title("The push disposes: what each direction does to harmful prompts")
    handles = [handle for handle in ax.get_legend_handles_labels()[0] if not isinstance(handle, Patch)]
    ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5))
    layers_axis(ax, len(rows))
    return ax


def top_tokens(numbers: Numbers, settings: Numbers) -> Picture:
    groups = [("by layer", [(f"{layer}", cells) for layer, cells in enumerate(numbers["by_layer"])])]
    titles = {
        "unit vectors": "by third: first principal component of unit vectors",
        "as in the paper": "by third, as in the paper: raw vectors, centred",
    }
    for label, thirds in numbers["thirds"].items():
        rows = [(f"{third['name']} ({captions.ranges(third['layers'])})", third["tokens"]) for third in thirds]
        groups.append((titles[label], rows))
    caption = captions.caption(
        captions.model(settings),
        captions.anchors(settings),
        "Each direction put to the unembedding, without the final norm; the loudest token on the left.",
        f"Grey letters: among the ten in fewer than 90 % of {numbers['resamples']} bootstrap resamples of the anchors.",
        f"The vocabulary holds {len(numbers['refusal_words'])} refusal words as single tokens. ␣ is a space.",
    )
    lines = sum(len(rows) for _, rows in groups)
    heights = [len(rows) + 0.9 for _, rows in groups]
    picture = blank(WIDTH, 1.15 + 0.24 * lines + 0.42 * len(groups), caption)
    axes = picture.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, (title, rows) in zip(axes, groups, strict=True):
        token_table(ax, rows)
        ax.set_title(f"Loudest tokens {title}")
    marks = [
        Patch(facecolor=_REFUSAL_CELL, label="refusal word"),
        Patch(facecolor=_RISING_CELL, label="begins refusals (its next-token mass rises)"),
    ]
    axes[0].legend(
        handles=marks, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.1, handlelength=1.2
    )
    return picture


_REFUSAL_CELL, _RISING_CELL = "#f3b48a", "#bcdcf0"


def token_table(ax: Axes, rows: Sequence[tuple[str, Sequence[Numbers]]]) -> Axes:
    """Rows of tokens, refusal words marked."""
    columns = max(len(cells) for _, cells in rows)
    ax.set(xlim=(0, columns), ylim=(len(rows), 0))
    for y, (_, cells) in enumerate(rows):
        for x, cell in enumerate(cells):
            face = _REFUSAL_CELL if cell["refusal"] else _RISING_CELL if cell["rising"] else "#f6f6f4"
            ax.add_patch(Rectangle((x + 0.03, y + 0.07), 0.94, 0.86, facecolor=face, edgecolor="none"))
            token = legible(cell["token"])
            token = token if len(token) <= 15 else token[:14] + "…"
            ax.text(
                x + 0.5, y + 0.52, token, ha="center", va="center", fontsize=7.6 if len(token) < 12 else 6.4,
                color=INK if cell.get("stays", 1.0) >= 0.9 else "#8a8a8a",
                fontweight="bold" if cell["refusal"] else "normal",
            )  # fmt: skip
    ax.set_yticks([y + 0.5 for y in range(len(rows))], [label for label, _ in rows])
    ax.set_xticks([])
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    if rows and rows[0][0].isdigit():
        ax.set_ylabel("layer")
    return ax


def geometry(numbers: Numbers, settings: Numbers) -> Picture:
    caption = captions.caption(
        captions.model(settings),
        captions.anchors(settings),
        f"Bands: 95 %, bootstrap over the anchors ({numbers['resamples']} resamples).",
    )
    picture = blank(WIDTH, 4.6, caption)
    left, right = picture.subplots(1, 2, width_ratios=(1.15, 1))
    lengths_by_layer(left, numbers)
    cosines(right, numbers)
    return picture


def lengths_by_layer(ax: Axes, numbers: Numbers) -> Axes:
    """The direction's length beside the mean length of the residual stream."""
    at = range(len(numbers["length"]))
    for name, label, colour, mark in (
        ("residual_norm", "mean residual", SOFT, "s"),
        ("length", "direction (difference of means)", KINDS["harmful"]["color"], "o"),
    ):
        low, high = zip(*numbers[f"{name}_interval"], strict=True)
        ax.fill_between(at, low, high, color=colour, alpha=0.25, lw=0)
        ax.plot(at, numbers[name], color=colour, marker=mark, label=label)
    shares = [length / norm for length, norm in zip(numbers["length"], numbers["residual_norm"], strict=True)]
    ax.set_ylim(0, ax.get_ylim()[1])
    ax.set_ylabel("length (residual-stream units)")
    ax.set_title(f"The direction is {min(shares):.2f} to {max(shares):.2f} of the mean residual long")
    ax.legend(loc="upper left")
    layers_axis(ax, len(shares))
    return ax


def cosines(ax: Axes, numbers: Numbers) -> Axes:
    """Cosine between every two layers' directions."""
    values = np.array(numbers["cosine"])
    n = len(values)
    ax.spines[:].set_visible(False)
    image = ax.imshow(values, origin="lower", vmin=-1, vmax=1, cmap="RdBu_r")
    if n <= 16:
        for row in range(n):
            for column in range(n):
                shown = f"{values[row, column]:.2f}".replace("0.", ".", 1) if values[row, column] < 0.995 else "1"
                ax.text(
                    column,
                    row,
                    shown,
                    ha="center",
                    va="center",
                    fontsize=5.8,
                    color="white" if abs(values[row, column]) > 0.6 else INK,
                )
    step = max(1, -(-n // 16))
    ax.set_xticks(range(0, n, step))
    ax.set_yticks(range(0, n, step))
    ax.set_xlabel("layer (end of block)")
    ax.set_ylabel("layer (end of block)")
    ax.set_title("Cosine between the layers’ directions")
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.85, aspect=25)
    bar.outline.set_visible(False)  # type: ignore[operator]
    return ax


# ── Telling prompts apart ────────────────────────────────────────────────────────────────────────────────────


def projections(numbers: Numbers, settings: Numbers) -> Picture:
    caption = captions.caption(
        captions.model(settings),
        captions.anchors(settings),
        captions.tested(settings, numbers["n"]),
        "Left: median, with bands over prompts from the 10th to the 90th and from the 25th to the 75th percentile,",
        "in shares of the anchors’ mean residual norm at the layer.",
        f"Right: bars are 95 %, bootstrap over test prompts ({numbers['resamples']} resamples).",
    )
    picture = blank(WIDTH, 4.5, caption)
    left, right = picture.subplots(1, 2, width_ratios=(1.25, 1))
    bands_by_layer(left, numbers)
    left.set_ylabel("projection (share of mean residual norm)")
    left.set_title("Prompts along each layer’s refusal direction")
    left.axhline(0, color=FAINT, lw=1, zorder=0)
    left.legend(loc="best", ncols=2)
    auc_by_layer(right, numbers)
    return picture


def bands_by_layer(ax: Axes, numbers: Numbers) -> Axes:
    """Median and quantile bands over prompts, by kind."""
    n_layers = 0
    for kind in captions.in_order(numbers["bands"]):
        outer_low, low, median, high, outer_high = numbers["bands"][kind]
        at = range(len(median))
        colour = KINDS[kind]["color"]
        ax.fill_between(at, outer_low, outer_high, color=colour, alpha=0.12, lw=0)
        ax.fill_between(at, low, high, color=colour, alpha=0.22, lw=0)
        ax.plot(at, median, label=kind, **KINDS[kind])
        n_layers = len(median)
    layers_axis(ax, n_layers)
    return ax


def auc_by_layer(ax: Axes, numbers: Numbers) -> Axes:
    """How well the projection alone tells harmful prompts from each harmless kind."""
    shift = 0.0
    n_layers = 0
    for kind in captions.in_order(numbers["auc"]):
        part = numbers["auc"][kind]
        value = np.array(part["value"])
        bars = np.abs(np.array(part["interval"]).T - value)
        n_layers = len(value)
        ax.errorbar(
            np.arange(n_layers) + shift, value, yerr=bars, capsize=2.5, label=f"harmful against {kind}", **KINDS[kind]
        )
        shift += 0.15
    low = min(min(np.array(part["interval"])[:, 0]) for part in numbers["auc"].values())
    ax.set_ylim(min(0.48, low - 0.03), 1.02)
    ax.axhline(0.5, color=FAINT, lw=1, zorder=0)
    ax.text(n_layers - 0.6, 0.505, "chance", fontsize=7.5, color=SOFT, ha="right", va="bottom")
    ax.set_ylabel("AUC")
    ax.set_title("How well that tells them apart")
    ax.legend(loc="lower right", bbox_to_anchor=(1, 0.1))
    layers_axis(ax, n_layers)
    return ax


def transitions(numbers: Numbers, settings: Numbers) -> Picture:
    rates = numbers["taken_for_harmful"]
    taken = "; ".join(f"{kind} {captions.percent(rates[kind])}" for kind in captions.in_order(rates))
    caption = captions.caption(
        captions.model(settings),
        captions.anchors(settings),
        captions.tested(settings, numbers["n"]),
        "Left: mean over prompts; bands from the 10th to the 90th percentile over prompts.",
        "The last layer is read after the final norm." if numbers["last_after_norm"] else "",
        "Right: the score is the mean over the voting layers; its axis is stretched towards 1.",
        f"Threshold: {numbers['calibrated_on']}. Taken for harmful: {taken} (95 %, Clopper–Pearson).",
    )
    picture = blank(WIDTH, 4.9, caption)
    left, right = picture.subplots(1, 2, width_ratios=(1.25, 1))
    cosine_by_layer(left, numbers)
    scores(right, numbers)
    handles, labels = left.get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return picture


def cosine_by_layer(ax: Axes, numbers: Numbers) -> Axes:
    """Mean cosine of transitions with the harmful anchors' mean transition, by layer and kind (SCANS, figure 5)."""
    shade(ax, list(numbers["voting"]), f"voting: {captions.layers(numbers['voting'])}")
    n_layers = 0
    for kind in captions.in_order(numbers["mean"]):
        mean, band = numbers["mean"][kind], numbers["bands"][kind]
        at = range(len(mean))
        ax.fill_between(at, band[0], band[-1], color=KINDS[kind]["color"], alpha=0.16, lw=0)
        ax.plot(at, mean, label=kind, **KINDS[kind])
        n_layers = len(mean)
    ax.axhline(numbers["threshold"], color=INK, lw=1, ls=(0, (4, 3)), label=f"threshold {numbers['threshold']:.4f}")
    ax.set_ylabel("cosine with the harmful transition")
    ax.set_title("Transitions after “Sure”, by layer")
    layers_axis(ax, n_layers)
    return ax


def scores(ax: Axes, numbers: Numbers) -> Axes:
    """Share of each kind's prompts with at most a score, on an axis stretched towards 1."""
    everything = np.concatenate([numbers["scores"][kind] for kind in numbers["scores"]])
    for kind in captions.in_order(numbers["scores"]):
        ordered = np.sort(stretched(numbers["scores"][kind]))
        share = np.arange(1, len(ordered) + 1) / len(ordered)
        ax.step(
            np.r_[ordered[0], ordered],
            np.r_[0, share],
            where="post",
            label=kind,
            color=KINDS[kind]["color"],
            ls=KINDS[kind]["linestyle"],
        )
    ax.axvline(float(stretched(numbers["threshold"])), color=INK, lw=1, ls=(0, (4, 3)))
    ax.text(
        float(stretched(numbers["threshold"])), 0.12, "threshold ", ha="right", va="bottom", fontsize=7.5, rotation=90,
        transform=ax.get_xaxis_transform(), bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.4},
    )  # fmt: skip
    scores_axis(ax, float(everything.min()), float(everything.max()))
    ax.set_ylim(0, 1.01)
    ax.set_xlabel("score s of eq. 4 (stretched towards 1)")
    ax.set_ylabel("share of prompts at or below")
    ax.set_title("Scores, by share of prompts")
    return ax


def tsne(numbers: Numbers, settings: Numbers) -> Picture:
    caption = captions.caption(
        captions.model(settings),
        captions.anchors(settings),
        captions.tested(settings, numbers["n"]),
        f"t-SNE (perplexity {numbers['perplexity']:g}, started from PCA, seed {settings['seed']}) sees the test",
        "prompts and keeps no distances; it is here to stand beside the paper’s figure 3.",
        "PCA is fitted on the anchors of all their kinds; AUC is of harmful against plain and borderline test prompts",
        "along the anchors’ difference of means in that plane,",
        f"95 % by bootstrap over test prompts ({numbers['resamples']} resamples).",
    )
    picture = blank(WIDTH, 7.4, caption)
    axes = picture.subplots(2, len(numbers["panels"]), squeeze=False)
    for column, panel in enumerate(numbers["panels"]):
        scatter(axes[0, column], panel["tsne"])
        scatter(axes[1, column], panel["pca"])
        axes[0, column].set_title(f"Layer {panel['layer']}: t-SNE")
        axes[0, column].set(xlabel="t-SNE 1 (no unit)")
        axes[1, column].set_title(
            f"Layer {panel['layer']}: PCA, held-out AUC {captions.with_interval(panel['auc'])}", fontsize=8.6
        )
        shares = panel["explained"]
        axes[1, column].set(
            xlabel=f"PC 1 ({100 * shares[0]:.0f} % of the anchors’ variance)", ylabel=f"PC 2 ({100 * shares[1]:.0f} %)"
        )
    axes[0, 0].set_ylabel("t-SNE 2 (no unit)")
    kinds = captions.in_order(numbers["n"])
    marks = [
        Line2D(
            [],
            [],
            ls="none",
            marker=KINDS[kind]["marker"],
            color=KINDS[kind]["color"],
            ms=5,
            label=f"{kind} (n = {numbers['n'][kind]})",
        )
        for kind in kinds
    ]
    picture.legend(handles=marks, loc="outside upper center", ncols=len(kinds))
    return picture


def scatter(ax: Axes, points: Numbers) -> Axes:
    """One dot a prompt, coloured by its kind."""
    for kind in reversed(captions.in_order(points)):
        x, y = points[kind]["x"], points[kind]["y"]
        ax.scatter(x, y, s=9, marker=KINDS[kind]["marker"], color=KINDS[kind]["color"], alpha=0.65, lw=0)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.margins(0.06)
    return ax


def classifier(numbers: Numbers, settings: Numbers) -> Picture:
    caption = captions.caption(
        captions.model(settings),
        captions.anchors(settings),
        captions.tested(settings, numbers["n"]),
        f"Harmless: {' and '.join(numbers['harmless'])}.",
        f"Every threshold is the highest that misses at most {100 * numbers['missed']:g} % of",
        f"{numbers['n_validation']} harmful validation prompts. Mean difference and probe read layer",
        f"{numbers['layer']}, the anchor layer with the best validation AUC; the keywords are the",
        f"{len(numbers['keywords'])} words of at least two harmful anchors and no plain one. Intervals, 95 %:",
        "precision, recall and shares Clopper–Pearson; F1, AUC and AP (average precision) bootstrap over test prompts",
        f"({numbers['resamples']} resamples).",
    )
    picture = blank(WIDTH, 7.2, caption)
    grid = picture.add_gridspec(2, 2, height_ratios=(1, 1.15))
    bars(picture.add_subplot(grid[0, :]), numbers)
    curves(picture.add_subplot(grid[1, 0]), numbers, "roc")
    curves(picture.add_subplot(grid[1, 1]), numbers, "pr")
    return picture


def bars(ax: Axes, numbers: Numbers) -> Axes:
    """Precision, recall and F1 of every method at its threshold (SCANS, figure 4), and the other kinds."""
    groups: list[tuple[str, Callable[[Numbers], Numbers | None]]] = [
        ("precision", lambda part: part["precision"]),
        ("recall", lambda part: part["recall"]),
        ("F1", lambda part: part["f1"]),
    ]
    for kind in ("plain", "borderline", "jailbreak"):
        if kind in numbers["n"]:
            groups.append((f"{kind} taken\nfor harmful", lambda part, kind=kind: part["taken_for_harmful"][kind]))
    methods = numbers["methods"]
    width = 0.84 / len(methods)
    for place, (name, part) in enumerate(methods.items()):
        for group, (_, pick) in enumerate(groups):
            found = pick(part)
            x = group + (place - (len(methods) - 1) / 2) * width
            if found is None:
                ax.text(x, 0.01, "–", ha="center", va="bottom", fontsize=8)
                continue
            ax.bar(x, found["value"], width * 0.9, color=METHODS[name]["color"], label=name if group == 0 else "_")
            low, high = found["interval"]
            ax.plot([x, x], [low, high], color="white", lw=2.6, solid_capstyle="butt")
            ax.plot([x, x], [low, high], color="#D55E00", lw=1.2, solid_capstyle="butt")
            ax.text(
                x,
                max(high, found["value"]) + 0.015,
                f"{found['value']:.2f}".replace("0.", ".", 1),
                ha="center",
                va="bottom",
                fontsize=6.4,
            )
    ax.axvline(2.5, color=FAINT, lw=1)
    ax.set_xticks(range(len(groups)), [label for label, _ in groups])
    ax.tick_params(axis="x", length=0)
    ax.set_xlim(-0.55, len(groups) - 0.45)
    ax.set_ylim(0, 1.12)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ax.set_ylabel("share")
    ax.set_title(
        "Left: harmful against harmless test prompts, at the threshold. Right: what else each method takes for harmful",
        pad=20,
    )
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(methods), borderaxespad=0.1)
    return ax


def curves(ax: Axes, numbers: Numbers, which: str) -> Axes:
    """ROC or precision-recall curve of every method."""
    for name, part in numbers["methods"].items():
        x, y = ("false_positive_rate", "true_positive_rate") if which == "roc" else ("recall", "precision")
        summary = part["auc" if which == "roc" else "average_precision"]
        label = f"{name}: {captions.with_interval(summary)}"
        steps = "default" if which == "roc" else "steps-pre"
        ax.plot(part[which][x], part[which][y], label=label, drawstyle=steps, **METHODS[name])
    if which == "roc":
        ax.plot([0, 1], [0, 1], color=FAINT, lw=1, zorder=0)
        ax.set(xlabel="harmless prompts taken for harmful", ylabel="harmful prompts found", title="ROC curves")
        ax.legend(loc="lower right", title="AUC", title_fontsize=8, alignment="left")
    else:
        share = numbers["n"]["harmful"] / (
            numbers["n"]["harmful"] + sum(numbers["n"][kind] for kind in numbers["harmless"])
        )
        ax.axhline(share, color=FAINT, lw=1, zorder=0)
        ax.set(xlabel="recall", ylabel="precision", title=f"Precision and recall (harmful share {share:.2f})")
        ax.legend(loc="lower left", title="AP", title_fontsize=8, alignment="left")
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.03))
    return ax


# ── Who is refused ───────────────────────────────────────────────────────────────────────────────────────────


def refusal_rates(numbers: Numbers, settings: Numbers) -> Picture:
    cosine = numbers["placebo_cosine"]
    exact = numbers["judge"] == "exact"
    caption = captions.caption(
        captions.model(settings),
        captions.tested(settings, numbers["n"]),
        f"Replies of up to {numbers['tokens']} tokens.",
        f"Filled: refused by {'the model’s own judge' if exact else 'the rule judge'},",
        "with 95 % Clopper–Pearson intervals;" if exact else "with 95 % Clopper–Pearson intervals.",
        "hollow: by the rule judge, where it differs." if exact else "",
        "Change: points against the plain model, bold where McNemar’s exact test has p < .05 after Holm over",
        f"{len(numbers['paired'])} tests. SCANS: layers {captions.ranges(numbers['layers'])},",
        f"scale {numbers['scale']:g} {numbers['unit']}; the constant push is minus that for every prompt.",
        f"Placebos keep SCANS’ classifier, scale and vector lengths; {numbers['draws']} draws each, every one on its",
        "share of the prompts; labels are shuffled within each kind, so that both sides hold as many harmful anchors;",
        f"mean |cosine| with the true directions: {cosine['random directions']:.2f} random,",
        f"{cosine['shuffled labels']:.2f} shuffled.",
        f"Safety prompt: “{numbers['safety_prompt']}” {numbers['note']}",
    )
    kinds = captions.in_order(numbers["n"])
    picture = blank(WIDTH, 7.8, caption)
    above, below = picture.add_gridspec(2, 1, height_ratios=(1, 1.12), hspace=0.04)
    grid = above.subgridspec(1, len(kinds))
    for place, kind in enumerate(kinds):
        rates_of(picture.add_subplot(grid[place]), numbers, kind, named=place == 0)
    left, right = below.subgridspec(1, 2, width_ratios=(1.35, 1))
    trials(picture.add_subplot(left), numbers)
    skill(picture.add_subplot(right), numbers)
    return picture


def rates_of(ax: Axes, numbers: Numbers, kind: str, *, named: bool = True) -> Axes:
    """One kind's refusal rate under every way of answering."""
    ways = list(numbers["rates"])
    tests = {test["way"]: test for test in numbers["paired"] if test["kind"] == kind}
    colour = KINDS[kind]["color"]
    ax.axvline(100 * numbers["rates"]["plain model"][kind]["value"], color=FAINT, lw=1, zorder=0)
    for y, way in enumerate(ways):
        rate, other = numbers["rates"][way][kind], numbers["by_rules"][way][kind]
        low, high = rate["interval"]
        ax.plot([100 * low, 100 * high], [y, y], color=colour, lw=1.6, solid_capstyle="butt")
        if numbers["judge"] == "exact" and other["count"] != rate["count"]:
            ax.plot(
                100 * other["value"],
                y,
                marker=KINDS[kind]["marker"],
                ms=6,
                color=colour,
                markerfacecolor="white",
                ls="none",
            )
        ax.plot(100 * rate["value"], y, marker=KINDS[kind]["marker"], ms=6, color=colour, ls="none")
        if way in tests:
            sure = tests[way]["p_holm"] < 0.05
            change = f"{100 * tests[way]['difference']:+.1f}".replace("-", "−")
            ax.text(
                1.02,
                y,
                change if tests[way]["difference"] else "±0",
                transform=ax.get_yaxis_transform(),
                fontsize=7.2,
                va="center",
                fontweight="bold" if sure else "normal",
                color=INK if sure else SOFT,
            )
    ax.text(1.02, -0.55, "change", transform=ax.get_yaxis_transform(), fontsize=6.8, va="center", color=SOFT)
    ax.set_yticks(range(len(ways)), ways)
    ax.set_ylim(len(ways) - 0.5, -0.6)
    ax.tick_params(axis="y", length=0, labelleft=named)
    ax.set_xlim(-4, 104)
    ax.set_xticks([0, 25, 50, 75, 100])
    ax.set_xlabel("refused (%)")
    ax.set_title(f"{kind} (n = {numbers['n'][kind]})", color=colour, fontweight="bold")
    return ax


def trials(ax: Axes, numbers: Numbers) -> Axes:
    """What every scale on the grid did on validation prompts."""
    rows = numbers["trials"]
    at = range(len(rows))
    harmless = numbers["trials_kind"]
    for side, kind in (("harmful", "harmful"), ("harmless", harmless)):
        value = np.array([100 * row[side]["value"] for row in rows])
        low, high = 100 * np.array([row[side]["interval"] for row in rows]).T
        ax.errorbar(
            at,
            value,
            yerr=[value - low, high - value],
            capsize=2,
            label=f"{kind} (n = {rows[0][side]['total']})",
            **KINDS[kind],
        )
    chosen = next(
        (place for place, row in enumerate(rows) if math.isclose(row["scale"], numbers["scale"], rel_tol=1e-5)), None
    )
    if chosen is not None:
        ax.axvspan(chosen - 0.5, chosen + 0.5, color=BAND, lw=0, zorder=0, label="chosen")
    ax.set_xticks(list(at), [f"{row['scale']:g}" for row in rows])
    ax.set_ylim(-3, 104)
    ax.set_xlabel(f"scale ({numbers['unit']}); 0 is the plain model")
    ax.set_ylabel("refused (%)")
    ax.set_title("Choosing SCANS’ scale on validation prompts")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
    return ax


_SKILLS = {
    "quiz": ("quiz questions right", {"color": INK, "marker": "o"}),
    "plain": ("plain: answered, names what was asked", {key: KINDS["plain"][key] for key in ("color", "marker")}),
    "borderline": (
        "borderline: answered, names what was asked",
        {key: KINDS["borderline"][key] for key in ("color", "marker")},
    ),
}


def skill(ax: Axes, numbers: Numbers) -> Axes:
    """Whether replies are still good under every way of answering."""
    ax.set_title("Are the replies still good?")
    if not numbers["skill"]:
        ax.axis("off")
        ax.text(
            0,
            0.95,
            "What a good reply holds is known for the bundled model only.",
            fontsize=8,
            color=SOFT,
            va="top",
            transform=ax.transAxes,
        )
        return ax
    ways = list(numbers["skill"])
    for place, (kind, (label, look)) in enumerate(_SKILLS.items()):
        for y, way in enumerate(ways):
            rate = numbers["skill"][way][kind]
            low, high = rate["interval"]
            at = y + 0.24 * (place - 1)
            ax.plot([100 * low, 100 * high], [at, at], color=look["color"], lw=1.5, solid_capstyle="butt")
            ax.plot(
                100 * rate["value"],
                at,
                ms=4.5,
                ls="none",
                label=f"{label} (n = {rate['total']})" if y == 0 else "_",
                **look,
            )
    ax.set_yticks(range(len(ways)), ways)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(ways) - 0.5, -0.5)
    ax.set_xlim(-4, 104)
    ax.set_xlabel("share of prompts (%)")
    ax.legend(loc="upper center", bbox_to_anchor=(0.4, -0.2), fontsize=7.2)
    return ax


_DRAWINGS: dict[str, Callable[[Numbers, Numbers], Picture]] = {
    "overview": overview,
    "example": example,
    "anchor_layers": anchor_layers,
    "top_tokens": top_tokens,
    "geometry": geometry,
    "projections": projections,
    "transitions": transitions,
    "tsne": tsne,
    "classifier": classifier,
    "refusal_rates": refusal_rates,
    **drawing_sweeps.DRAWINGS,
    **drawing_rivals.DRAWINGS,
}
