"""Answers: every reply of a run, by prompt, as the page's script reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scans_lens.report import html

if TYPE_CHECKING:
    import pandas as pd


def by_prompt(table: pd.DataFrame, seen: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry a prompt, with what every way made of it."""
    columns = [name for name in table.columns if name.startswith("verdict_")]
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in table.to_dict("records"):
        own = found.setdefault(
            (row["set"], row["prompt_id"]),
            {
                "set": row["set"],
                "kind": row["kind"],
                "type": row["type"],
                "prompt": row["prompt"],
                "before": _before(row.get("messages")),
                "ways": [],
                "seen": seen.get(row["prompt_id"]),
            },
        )
        own["ways"].append(
            {
                "way": html.named(row["method"], row["setting"]),
                "reply": row["reply"] + (" …" if row["finish"] == "length" else ""),
                "thought": row.get("thought") if isinstance(row.get("thought"), str) else None,
                "score": _number(row["score"]),
                "scale": _number(row["scale"]),
                "verdicts": {name.removeprefix("verdict_"): row[name] or "none" for name in columns},
                "unsure": [
                    name for column in columns if row.get(f"sure_{(name := column.removeprefix('verdict_'))}") is False
                ],
            }
        )
    return list(found.values())


def _before(messages: Any) -> str | None:
    """The turns before the last one of a conversation, a line each."""
    if not isinstance(messages, str):
        return None
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in json.loads(messages)[:-1])


def _number(value: Any) -> float | None:
    return None if value is None or value != value else round(float(value), 5)
