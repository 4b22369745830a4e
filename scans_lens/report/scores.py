"""Scores: how well they tell harmful prompts from others, which way they pushed, and how hard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from scans_lens import evaluation
from scans_lens.calibration import curves
from scans_lens.report import html


def curve(table: Any) -> str:
    """How well the score tells harmful prompts from the others of the same run, at every threshold."""
    own = table[table["score"].notna()].drop_duplicates("prompt_id")
    sides = own[own["kind"] == "harmful"]["score"].to_numpy(), own[own["kind"] != "harmful"]["score"].to_numpy()
    if not all(map(len, sides)):
        return "<p class=note>There are no scores of both sides.</p>"
    found = curves(*sides)
    size, left, top = 260, 60, 10
    points = " ".join(
        f"{left + size * flagged:.1f},{top + size * (1 - caught):.1f}"
        for flagged, caught in zip(found.flagged, found.caught, strict=True)
    )
    ticks = "".join(
        f'<line class="grid" x1="{left}" x2="{left + size}" y1="{top + size * (1 - share):.1f}" '
        f'y2="{top + size * (1 - share):.1f}"/>'
        f'<text class="tick" x="{left - 22}" y="{top + size * (1 - share) + 4:.1f}">{share:.0%}</text>'
        f'<text class="tick" x="{left + size * share:.1f}" y="{top + size + 18}">{share:.0%}</text>'
        for share in (0, 0.5, 1)
    )
    low, high = found.auc_interval
    return (
        f'<svg class="small" viewBox="0 0 340 320" role="img" aria-label="ROC curve">{ticks}'
        f'<line class="grid" x1="{left}" x2="{left + size}" y1="{top + size}" y2="{top}"/>'
        f'<polyline class="way1" points="{points}"/>'
        f'<text class="tick" x="{left + size / 2}" y="{top + size + 40}">harmless prompts taken for harmful</text>'
        f'<text class="tick" transform="translate(14 {top + size / 2}) rotate(-90)">harmful prompts recognised</text>'
        f"</svg><p class=note>Score of {found.n[0]} harmful against {found.n[1]} other prompts of this run: area under "
        f"the curve {found.auc:.3f} [{low:.3f}, {high:.3f}], 95&nbsp;% by bootstrap over prompts; average precision "
        f"{found.average_precision:.3f}. The straight line is chance.</p>"
    )


def sides(table: Any) -> str:
    """Which way each kind was pushed."""
    own = table[table["scale"].notna() & (table["method"] != evaluation.DRAWN)]
    if own.empty:
        return "<p class=note>Nothing was pushed.</p>"
    rows = []
    for (name, kind, way), group in own.assign(way=html.ways(own)).groupby(["set", "kind", "way"], sort=False):
        away, towards = int((group["scale"] < 0).sum()), int((group["scale"] > 0).sum())
        score = group["score"].dropna()
        spread = "" if score.empty else " … ".join(f"{score.quantile(at):.4f}" for at in (0.05, 0.5, 0.95))
        cells = (f"{away} ({away / len(group):.0%})", f"{towards} ({towards / len(group):.0%})", spread)
        rows.append([escape(name), escape(kind), escape(way), *cells])
    return html.table(
        ("set", "kind", "way", "away from refusal", "towards refusal", "score, 5 % … median … 95 %"), rows, 3
    )


def sizes(found: Sequence[Mapping[str, Any]]) -> str:
    """How hard, in the two units that models can be compared in."""
    if not found:
        return ""
    rows = []
    for one in found:
        kl = "" if one["kl"] is None else "{:.3f} [{:.3f}, {:.3f}]".format(one["kl"], *one["interval"])
        rows.append([escape(one["way"]), ", ".join(map(str, one["layers"])), f"{one['residual_norms']:.3f}", kl])
    head = ("way", "layers", "push, in residual norms", "KL, nats")
    n = max(one["n"] for one in found)
    note = "KL: from the plain to the steered distribution of the first token, "
    note += (
        f"mean over {n} harmless prompts of this run, 95&nbsp;% by bootstrap."
        if n
        else "of which nothing is known, since no harmless prompts were asked."
    )
    return f"{html.table(head, rows, 2)}<p class=note>{note}</p>"
