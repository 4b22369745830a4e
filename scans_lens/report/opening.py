"""Opening: what a run asked, and in a sentence a way what came out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from scans_lens import queries
from scans_lens.conversation import BARE, Asking
from scans_lens.evaluation import UNFINISHED
from scans_lens.methods.catalogue import PLAIN
from scans_lens.queries import Line
from scans_lens.report import html

if TYPE_CHECKING:
    import pandas as pd


def what_it_is(table: pd.DataFrame, settings: Mapping[str, Any], judge: str) -> str:
    n, sets = len(set(table["prompt_id"])), len(set(table["set"]))
    model = settings["model"]["name"] or settings["model"]["architecture"]
    expected = len(settings["arms"]) * sum(one["left"] for one in settings["left out"].values())
    unfinished = f" {len(table)} of {expected} replies are there so far." if len(table) < expected else ""
    ways = html.listed([escape(way) for way in dict.fromkeys(html.ways(table))])
    judged = sum(isinstance(verdict, str) for verdict in table[f"verdict_{judge}"])
    some = f" It judged {judged} of {len(table)} replies." if judged < len(table) else ""
    doubt = queries.unsure(table, judge)
    doubts = f" Of {doubt[0]} of {doubt[1]} verdicts it was not sure." if doubt else ""
    if doubt and doubt[1] < judged:
        doubts += f" Of the other {judged - doubt[1]}, nothing is known of that."
    asking = settings.get("asking", {})
    put = Asking(**asking) if asking else BARE
    asked = f" asked with {escape(str(put))}," if put else ""
    thoughts = list(table["reason"]).count(UNFINISHED) if "reason" in table else 0
    cut = f" {thoughts} were cut while the model was still thinking, and count as degenerate." if thoughts else ""
    return (
        f"{n} prompts of {sets} set{'s' if sets > 1 else ''},{asked} answered by {escape(model)} in these ways: "
        f"{ways}. "
        f"A reply counts as refused where the judge <em>{escape(judge)}</em> says so.{some}{doubts}{cut}{unfinished}"
    )


def in_short(lines: Sequence[Line]) -> Iterable[str]:
    """One sentence for every way of steering: what it did to refusals on every set and kind."""
    for way in dict.fromkeys(html.way(line) for line in lines if line.method != PLAIN):
        parts = []
        for line in lines:
            if html.way(line) != way or not line.shared or not line.against_plain:
                continue
            before, after = (f"{100 * share:.1f}" for share in line.shared)
            about = f"{escape(html.asked(line))} {before} → {after} % (n {line.against_plain.total})"
            parts.append(f"<b>{about}</b>" if line.p is not None and line.p < 0.05 else about)
        if parts:
            yield f"<em>{escape(way)}</em>, refused by the plain model → this way: {'; '.join(parts)}."


def left_out(one: Mapping[str, Any]) -> str:
    if not one["repeats"] and not one["learned_from"]:
        return f"{one['name']}: {one['left']} prompts; none was left out."
    fell = f"{one['repeats']} that come twice and {one['learned_from']} that something was learned from"
    return f"{one['name']}: {one['left']} prompts; left out: {fell}."
