"""Runs: the folders that other commands fill, for figures that show what those have measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Runs:
    """What has been filled, as far as it was named."""

    compared: Path | None = None
    """By `python -m scans_lens compare --out`."""
    evaluated: Path | None = None
    """By `python -m scans_lens evaluate --out`."""


COMPARED = ("model", "anchors", "validation", "sets", "max_new_tokens")
"""What the numbers of a comparison depend on."""


def comparison_of(runs: Runs, what: str) -> dict[str, Any]:
    """What a comparison has found, with its settings and versions.

    Raises:
        ValueError: no folder is named, or it holds no comparison.
    """
    if runs.compared is None:
        raise ValueError(
            f"The {what} is measured by `python -m scans_lens compare --out FOLDER`; then give its FOLDER (--compared)."
        )
    file = Path(runs.compared) / "comparison.json"
    if not file.is_file():
        raise ValueError(
            f"There is no comparison.json in {str(runs.compared)!r}: it was never filled, or not to its end."
        )
    found = json.loads(file.read_text(encoding="utf-8"))
    return {**found, "settings": {name: found[name] for name in COMPARED}, "made_with": found["versions"]}


def table_of(runs: Runs, what: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table of an evaluation, and its settings.

    Raises:
        ValueError: no folder is named, or it holds no evaluation.
    """
    if runs.evaluated is None:
        raise ValueError(
            f"{what} is made from a run: fill one with `python -m scans_lens evaluate --out FOLDER`; then give its "
            "FOLDER (--evaluated)."
        )
    from scans_lens import evaluation

    table, about = evaluation.read(runs.evaluated)
    return table, about["settings"]


def settings_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the numbers of a run depend on, as a figure keeps it."""
    kept = ("model", "dtype", "sets", "judges", "max_new_tokens", "asking", "arms")
    return {name: settings[name] for name in kept}
