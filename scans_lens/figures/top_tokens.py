"""Top tokens: what the directions say when they are put to the unembedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from scans_lens.figures import captions
from scans_lens.figures.captions import Numbers
from scans_lens.figures.style import INK, WIDTH, blank, legible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scans_lens.figures.picture import Picture
    from scans_lens.figures.study import Study

ABOUT = "what the directions say, by layer and by third (paper, table 1)"


TOP = 10
"""Tokens of a direction that are shown (SCANS, table 1)."""
_REFUSAL_CELL, _RISING_CELL = "#f3b48a", "#bcdcf0"


def measure(study: Study) -> dict[str, Any]:
    """The loudest tokens of every direction, and how often each stays among them when anchors are resampled."""
    import torch

    from scans_lens import anchoring, lens
    from scans_lens.chat import words_of
    from scans_lens.directions import difference_of_means
    from scans_lens.figures.estimates import resampled

    model, directions = study.model, study.directions
    refusing = set(words_of(model, list(lens.refusal_tokens(model).values())))
    rising = set(words_of(model, list(anchoring.rising_tokens(model, study.anchors, batch_size=study.batch_size))))
    ids = lens.logits_of(model, directions.vectors).topk(TOP, dim=-1).indices
    stays = torch.zeros(ids.shape, dtype=torch.float64)
    generator = study.generator("top tokens")
    harmful, plain = (study.anchor_states[kind].residuals for kind in ("harmful", "plain"))
    for _ in range(study.effort.token_resamples):
        again = difference_of_means(resampled(harmful, generator), resampled(plain, generator)).float()
        drawn = lens.logits_of(model, again).topk(TOP, dim=-1).indices
        stays += (ids[:, :, None] == drawn[:, None, :]).any(-1) / study.effort.token_resamples

    def cell(word: str) -> dict[str, Any]:
        return {"token": word, "refusal": word in refusing, "rising": word in rising}

    thirds = {}
    for label, options in (("unit vectors", {}), ("as in the paper", {"centre": True, "unit": False})):
        try:
            found = lens.thirds(model, directions, k=TOP, **options)
        except ValueError:  # too few layers for thirds, or for centring them
            continue
        thirds[label] = [asdict(third) | {"tokens": [cell(word) for word in third.tokens]} for third in found]
    return {
        "by_layer": [
            [cell(word) | {"stays": share} for word, share in zip(words_of(model, row), shares.tolist(), strict=True)]
            for row, shares in zip(ids.tolist(), stays, strict=True)
        ],
        "thirds": thirds,
        "resamples": study.effort.token_resamples,
        "refusal_words": sorted(refusing),
        "rising": sorted(rising),
    }


def caption(numbers: Numbers, settings: Numbers) -> str:
    return captions.caption(
        captions.model(settings),
        captions.anchors(settings),
        "Each direction put to the unembedding, without the final norm; the loudest token on the left.",
        f"Grey letters: among the ten in fewer than 90 % of {numbers['resamples']} bootstrap resamples of the anchors.",
        f"The vocabulary holds {len(numbers['refusal_words'])} refusal words as single tokens. ␣ is a space.",
    )


def draw(numbers: Numbers, settings: Numbers) -> Picture:
    from matplotlib.patches import Patch

    groups = [("by layer", [(f"{layer}", cells) for layer, cells in enumerate(numbers["by_layer"])])]
    titles = {
        "unit vectors": "by third: first principal component of unit vectors",
        "as in the paper": "by third, as in the paper: raw vectors, centred",
    }
    for label, thirds in numbers["thirds"].items():
        rows = [(f"{third['name']} ({captions.ranges(third['layers'])})", third["tokens"]) for third in thirds]
        groups.append((titles[label], rows))
    lines = sum(len(rows) for _, rows in groups)
    heights = [len(rows) + 0.9 for _, rows in groups]
    picture = blank(WIDTH, 1.15 + 0.24 * lines + 0.42 * len(groups), caption(numbers, settings))
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


def token_table(ax: Axes, rows: Sequence[tuple[str, Sequence[Numbers]]]) -> Axes:
    """Rows of tokens, refusal words marked."""
    from matplotlib.patches import Rectangle

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
