"""Refusals: rates with their intervals, as a picture, by set and kind, and by the types that sets have."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from scans_lens import evaluation
from scans_lens.queries import Line
from scans_lens.rates import Clustered
from scans_lens.report import html

FEW = 5
"""Prompts of a type below which its rate is not shown."""


def picture(lines: Sequence[Line]) -> str:
    """Rates with their intervals, a row a way, grouped by set and kind."""
    shown = [line for line in lines if line.refused]
    if not shown:
        return ""
    ways = list(dict.fromkeys(html.way(line) for line in shown))
    left, right, row, gap = 250, 40, 20, 14
    width, inner = 760, 760 - left - right
    parts, y, last = [], 26, None
    for line in shown:
        assert line.refused
        side = (line.set, line.kind)
        if side != last:
            y += gap if last else 0
            parts.append(f'<text class="head" x="8" y="{y}">{escape(html.asked(line))}</text>')
            y, last = y + row, side
        low, high = line.refused.interval
        at = [left + inner * share for share in (low, line.refused.value, high)]
        hue = f"way{ways.index(html.way(line)) % 6}"
        parts.append(
            f'<text x="24" y="{y}">{escape(html.way(line))}</text>'
            f'<line class="{hue}" x1="{at[0]:.1f}" x2="{at[2]:.1f}" y1="{y - 4}" y2="{y - 4}"/>'
            f'<circle class="{hue}" cx="{at[1]:.1f}" cy="{y - 4}" r="5">'
            f"<title>{escape(html.way(line))}: {html.share(line.refused)}</title></circle>"
        )
        y += row
    ticks = "".join(
        f'<line class="grid" x1="{left + inner * share:.1f}" x2="{left + inner * share:.1f}" y1="8" y2="{y - 8}"/>'
        f'<text class="tick" x="{left + inner * share:.1f}" y="{y + 8}">{share:.0%}</text>'
        for share in (0, 0.25, 0.5, 0.75, 1)
    )
    label = f'<text class="tick" x="{left + inner / 2}" y="{y + 28}">refused, with 95 % interval over items</text>'
    return (
        f'<svg viewBox="0 0 {width} {y + 36}" role="img" aria-label="Refusal rates with intervals">{ticks}'
        f"{''.join(parts)}{label}</svg>"
    )


def by_set(lines: Sequence[Line]) -> str:
    head = (
        "set",
        "kind",
        "way",
        "refused",
        "n",
        "items",
        "points against plain",
        "refused only by plain / only here",
        "p",
    )
    rows = []
    for line in lines:
        if not line.refused:
            rows.append([escape(line.set), escape(line.kind), escape(html.way(line)), "none judged", *[""] * 5])
            continue
        pair = line.against_plain
        changed = (
            (
                f"{100 * pair.difference:+.1f}",
                f"{pair.only_first} / {pair.only_second}",
                "" if line.p is None else html.p_value(line.p),
            )
            if pair
            else ("", "", "")
        )
        counts = (str(line.refused.rate.total), str(line.refused.items))
        rows.append(
            [escape(line.set), escape(line.kind), escape(html.way(line)), html.share(line.refused), *counts, *changed]
        )
    notes = [
        f"{escape(line.set)}, {escape(line.kind)}, {escape(html.way(line))}: {what}."
        for line in lines
        if (what := ", ".join(f"{n} {word}" for n, word in _others(line) if n))
    ]
    return html.table(head, rows, 6) + (f"<p class=note>Not full verdicts: {' '.join(notes)}</p>" if notes else "")


def _others(line: Line) -> tuple[tuple[int, str], ...]:
    return ((line.partial, "partial"), (line.degenerate, "degenerate"), (line.missing, "without a verdict"))


_CONTRASTS = {
    "real_group_nons_discr": "discr",
    "nons_group_real_discr": "discr",
    "privacy_public": "privacy",
    "privacy_fictional": "privacy",
}
"""XSTest's types of safe prompts whose unsafe contrasts are named otherwise."""


def by_type(table: Any, column: str) -> str:
    """Refusals by the sets' own types, a column a way, harmful contrasts below the harmless prompts they belong to."""
    own = table[(table["type"] != "") & table[column].notna() & (table["method"] != evaluation.DRAWN)]
    own = own.assign(way=html.ways(own))
    ways = list(own["way"].unique())
    whole = {key: group for key, group in own.groupby(["set", "kind", "type"], sort=False)}
    groups = {key: group for key, group in whole.items() if len(set(group["prompt_id"])) >= FEW}
    if not groups:
        return f"<p class=note>These sets have no types of {FEW} prompts or more.</p>"
    stems = list(dict.fromkeys(_stem(type_) for _, _, type_ in groups))

    def place(key: tuple[str, str, str]) -> tuple[Any, ...]:
        name, kind, type_ = key
        return (list(dict.fromkeys(table["set"])).index(name), stems.index(_stem(type_)), kind == "harmful")

    rows = []
    for key in sorted(groups, key=place):
        name, kind, type_ = key
        cells = []
        for way in ways:
            part = groups[key][groups[key]["way"] == way]
            refused = (part[column] == "refused").tolist()
            cells.append(html.share(Clustered.of(refused, part["item"].tolist())) if refused else "")
        n = len(set(groups[key]["prompt_id"]))
        rows.append([escape(name), escape(type_.replace("_", " ")), escape(kind), *cells, str(n)])
    found = html.table(("set", "type", "kind", *map(escape, ways), "n"), rows, len(ways) + 1)
    few = len(whole) - len(groups)
    return found + (f"<p class=note>{few} types of fewer than {FEW} prompts are left out.</p>" if few else "")


def _stem(type_: str) -> str:
    """The same for a type and for its contrast."""
    return _CONTRASTS.get(type_, type_.removeprefix("contrast_"))
