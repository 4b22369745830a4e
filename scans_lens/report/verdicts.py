"""Verdicts: how far judges agree, and the replies of which they do not."""

from __future__ import annotations

from html import escape
from itertools import combinations
from typing import Any

from scans_lens import queries
from scans_lens.judges.labelled import kappa
from scans_lens.report import html

SHOWN = 100
"""Disagreements of judges that are written out."""


def between_judges(table: Any) -> str:
    columns = [name for name in table.columns if name.startswith("verdict_")]
    if len(columns) < 2:
        return "<p class=note>One judge only; name several with --judge to see where they differ.</p>"
    names = [name.removeprefix("verdict_") for name in columns]
    rows = []
    for one, other in combinations(columns, 2):
        both = table[table[one].notna() & table[other].notna()]
        if both.empty:
            continue
        agreed = (both[one] == both[other]).mean()
        about = (escape(one.removeprefix("verdict_")), escape(other.removeprefix("verdict_")))
        rows.append([*about, f"{agreed:.1%}", f"{kappa(both[one].tolist(), both[other].tolist()):.2f}", str(len(both))])
    silent = [
        f"{escape(name)} gave no verdict on {missing} of {len(table)} replies"
        for name, column in zip(names, columns, strict=True)
        if (missing := sum(not isinstance(verdict, str) for verdict in table[column]))
    ]
    silent += [
        f"{escape(name)} was not sure of {doubt[0]} of {doubt[1]} verdicts"
        for name in names
        if (doubt := queries.unsure(table, name))
    ]
    without = f"<p class=note>{'; '.join(silent)}.</p>" if silent else ""
    differ = table[table[columns].apply(lambda row: row.dropna().nunique() > 1, axis=1)]
    shown = [
        [
            escape(_cut(row["prompt"])),
            escape(_cut(row["reply"])),
            *(escape(str(row[name] or "none")) for name in columns),
        ]
        for _, row in differ.head(SHOWN).iterrows()
    ]
    agreement = html.table(("judge", "judge", "agree", "Cohen's kappa", "n"), rows, 3) + without if rows else without
    if not shown:
        return agreement + ("<p class=note>They agree on every reply that both judged.</p>" if rows else "")
    more = f" The first {SHOWN} are shown." if len(differ) > SHOWN else ""
    heading = f"<p>They differ on {len(differ)} of {len(table)} replies.{more}</p>"
    return f"{agreement}{heading}{html.table(('prompt', 'reply', *map(escape, names)), shown, 0)}"


def _cut(text: str, letters: int = 240) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "…"
