"""Writing: a run's table as one HTML file that opens by a double click and needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scans_lens import evaluation
from scans_lens.queries import summary
from scans_lens.report import answers, audit, labels, opening, refusals, scores, verdicts

if TYPE_CHECKING:
    import pandas as pd


def write(folder: str | Path, out: str | Path | None = None, judge: str | None = None) -> Path:
    """Write the report of a run, whole or not, to `out`, by default `report.html` in the run's folder.

    Args:
        judge: whose verdicts the rates are made of; by default the first judge's. `people` are the labels that were
            filled in by hand, on those replies alone.

    Raises:
        ValueError: no run, no replies yet, or no such judge.
    """
    folder = Path(folder)
    table, about = evaluation.read(folder)
    if table.empty:
        raise ValueError(f"{str(folder)!r} holds no replies yet.")
    if by_hand := labels.read(folder, table):
        table[f"verdict_{labels.PEOPLE}"] = [by_hand.get(place) for place in range(len(table))]
    out = Path(out) if out else folder / "report.html"
    aside = out.with_name(out.name + ".part")
    extras = {"seen": audit.read(folder), "pushed": audit.weights_of(folder)}
    aside.write_text(page(table, about, judge, title=folder.resolve().name, **extras), encoding="utf-8")
    aside.replace(out)
    return out


def page(
    table: pd.DataFrame,
    about: Mapping[str, Any],
    judge: str | None = None,
    title: str = "results",
    seen: Mapping[str, Mapping[str, Any]] | None = None,
    pushed: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The whole page.

    Args:
        seen: what SCANS saw in the prompts, as `audit.read` gives it.
        pushed: how hard each way pushed, as `audit.weights_of` gives it.
    """
    lines = summary(table, judge)
    own = judge or next(name.removeprefix("verdict_") for name in table.columns if name.startswith("verdict_"))
    settings = about["settings"]
    parts = {
        "what": opening.what_it_is(table, settings, own),
        "short": "".join(f"<li>{sentence}</li>" for sentence in opening.in_short(lines)),
        "picture": refusals.picture(lines),
        "summary": refusals.by_set(lines),
        "types": refusals.by_type(table, f"verdict_{own}"),
        "pushes": scores.sides(table) + scores.sizes(pushed),
        "curve": scores.curve(table),
        "judges": verdicts.between_judges(table),
        "provenance": escape(json.dumps(about, indent=1, ensure_ascii=False)),
        "left": "".join(f"<li>{escape(opening.left_out(one))}</li>" for one in settings["left out"].values()),
        "rows": json.dumps(answers.by_prompt(table, seen or {}), ensure_ascii=False).replace("<", "\\u003c"),
        "title": escape(title),
    }
    text = (resources.files("scans_lens.report") / "page.html").read_text(encoding="utf-8")
    for name, part in parts.items():
        text = text.replace(f"<!--{name}-->", part)
    return text
