"""Example: real replies of the plain model and under SCANS."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from scans_lens.figures import captions
from scans_lens.figures.captions import Numbers
from scans_lens.figures.style import ANSWERED, KINDS, REFUSED, SOFT, WIDTH, blank, legible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scans_lens.figures.picture import Picture
    from scans_lens.figures.study import Study

ABOUT = "real replies, plain and steered (paper, figure 1)"


def measure(study: Study) -> dict[str, Any]:
    """The first validation prompts that show what SCANS is for, and on how many prompts it shows."""
    from scans_lens.figures.study import by_kind
    from scans_lens.rates import Rate

    kinds = {kind: texts for kind, texts in by_kind(study.validation).items() if kind != "plain"}
    shown = {}
    for kind, texts in kinds.items():
        plain, steered = (study.replies(texts, method, study.effort.example_tokens) for method in (None, study.scans))
        no, still_no = ([_agreed(study, reply) for reply in said] for said in (plain, steered))
        wanted = ("refused", "answered") if kind == "borderline" else ("refused", "refused")
        hits = [place for place, pair in enumerate(zip(no, still_no, strict=True)) if pair == wanted]
        shown[kind] = {
            "wanted": wanted,
            "shows": Rate(len(hits), len(texts)),
            "plain_refused": Rate(sum(verdict == "refused" for verdict in no), len(no)),
            "steered_refused": Rate(sum(verdict == "refused" for verdict in still_no), len(still_no)),
        }
        if hits:
            prompt = texts[hits[0]]
            long = [study.replies([prompt], method, study.effort.shown_tokens) for method in (None, study.scans)]
            shown[kind] |= {
                "place": hits[0],
                "prompt": prompt,
                "plain": long[0][0],
                "steered": long[1][0],
                "cut": [said.finish[0] == "length" for said in long],
                "score": float(long[1].decisions["score"][0]),
                "scale": float(long[1].decisions["scale"][0]),
            }
    scans = study.scans
    return {
        "kinds": shown,
        "threshold": scans.classifier.threshold,
        "unit": scans.unit,
        "tokens": study.effort.shown_tokens,
    }


def _agreed(study: Study, reply: str) -> str:
    """What the model's own judge and the rules both say of a reply, or "unclear"."""
    from scans_lens import judges

    verdicts = {study.judge([reply])[0], judges.rules([reply])[0]}
    return verdicts.pop() if len(verdicts) == 1 else "unclear"


def caption(numbers: Numbers, settings: Numbers) -> str:
    shown = [(kind, numbers["kinds"][kind]) for kind in ("borderline", "harmful") if kind in numbers["kinds"]]
    return captions.caption(
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


def draw(numbers: Numbers, settings: Numbers) -> Picture:
    shown = [(kind, numbers["kinds"][kind]) for kind in ("borderline", "harmful") if kind in numbers["kinds"]]
    heights = [_card_height(part) for _, part in shown]
    picture = blank(WIDTH, 1.15 + sum(heights), caption(numbers, settings))
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
    from matplotlib.patches import FancyBboxPatch

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
