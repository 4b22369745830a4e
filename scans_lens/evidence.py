"""Evidence: what speaks for each layer as an anchor layer, and how it is printed."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LayerEvidence:
    """What speaks for one layer."""

    layer: int
    top: tuple[str, ...]
    """Tokens that its direction says the loudest."""
    rank: int
    """Of the loudest refusal word in the vocabulary; 1 is the very first."""
    loudest: str
    """That word."""
    z: float
    """Refusal words' mean logit, in standard deviations over the vocabulary."""
    z_interval: tuple[float, float]
    """95 %, by bootstrap over the anchors."""
    z_null: float
    """The 95th percentile under shuffled labels."""
    p: float
    """Of the label-shuffle test that z is that large by chance."""
    rising_z: float
    """The same z for the tokens whose next-token mass rises from harmless to harmful anchors; has no vote."""
    auc: float
    """Harmful against harmless along the direction, learned on one half and measured on the other; has no vote."""
    drop: float
    """By how much the refusal log-odds of harmful prompts fall, in nats, when only this layer is pushed back."""
    drop_interval: tuple[float, float]
    """95 %, by bootstrap over the prompts."""
    qualifies: bool
    """Whether z exceeds its null at p < .05."""
    borderline_z: float | None = None
    """The z of harmful minus borderline, where borderline prompts were there."""
    borderline_auc: float | None = None
    """Harmful against borderline, as above."""


def _cells(layers: Sequence[int], evidence: Sequence[LayerEvidence]) -> tuple[list[str], list[list[str]]]:
    header = [
        "",
        "layer",
        "drop (nats)",
        "95 %",
        "z",
        "95 %",
        "null .95",
        "p",
        "rank",
        "refusal word",
        "AUC",
        "top tokens",
    ]
    rows = []
    for layer in evidence:
        rows.append(
            [
                "*" if layer.layer in layers else "",
                str(layer.layer),
                f"{layer.drop:.2f}",
                f"[{layer.drop_interval[0]:.2f}, {layer.drop_interval[1]:.2f}]",
                f"{layer.z:.2f}",
                f"[{layer.z_interval[0]:.2f}, {layer.z_interval[1]:.2f}]",
                f"{layer.z_null:.2f}",
                f"{layer.p:.3f}",
                str(layer.rank),
                repr(layer.loudest)[1:-1],
                f"{layer.auc:.2f}",
                " ".join(repr(token)[1:-1].strip() or "␣" for token in layer.top[:6]),
            ]
        )
    return header, rows


def as_text(layers: Sequence[int], evidence: Sequence[LayerEvidence], note: str, of: str = "") -> str:
    """What speaks for each layer as a table, under the layers that were chosen and above the note."""
    header, rows = _cells(layers, evidence)
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    left = (0, len(header) - 1)

    def line(row: list[str]) -> str:
        return "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()

    title = f"Anchor layers{of}: {', '.join(map(str, layers)) if layers else 'none'}"
    return "\n".join([title, line(header), *map(line, rows), note])


def as_html(layers: Sequence[int], evidence: Sequence[LayerEvidence], note: str) -> str:
    """The same as a table for notebooks, the chosen layers shaded."""
    header, rows = _cells(layers, evidence)
    head = "".join(f"<th style='text-align:right'>{html.escape(cell)}</th>" for cell in header)
    body = ""
    for layer, row in zip(evidence, rows, strict=True):
        shade = " style='background:rgba(230,159,0,.25)'" if layer.layer in layers else ""
        body += f"<tr{shade}>"
        body += "".join(f"<td style='text-align:right'>{html.escape(cell)}</td>" for cell in row)
        body += "</tr>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{html.escape(note)}</p>"
