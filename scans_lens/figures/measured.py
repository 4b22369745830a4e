"""Measured: the numbers of a figure as JSON in a folder, so that they can be read, compared and drawn again."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scans_lens.figures.catalogue import known

FORMAT = 1
"""Of the measured numbers; one more whenever what is measured changes."""


def load(name: str, folder: str | Path) -> dict[str, Any]:
    """Measured numbers from `<folder>/<name>.json`.

    Raises:
        ValueError: they are not there, cannot be read, or are of another format.
    """
    file = Path(folder) / f"{known(name)}.json"
    if not file.is_file():
        raise ValueError(
            f"There are no measured numbers of {name!r} in {str(folder)!r}; measure them first, without --draw-only."
        )
    try:
        measured = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{str(file)!r} is no JSON, or it is cut short: {error}") from error
    if not isinstance(measured, dict) or measured.get("format") != FORMAT or measured.get("figure") != name:
        raise ValueError(
            f"{str(file)!r} does not hold the figure {name!r} in format {FORMAT}; measure it again (--again)."
        )
    return measured


def store(measured: Mapping[str, Any], folder: str | Path) -> Path:
    """Write `<folder>/<figure>.json`, whole or not at all."""
    file = Path(folder) / f"{known(measured['figure'])}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(file.name + ".part")
    aside.write_text(_as_json(measured) + "\n", encoding="utf-8")
    os.replace(aside, file)
    return file


def plain(value: Any) -> Any:
    """As JSON has it, with floats to six digits; what is not finite is None."""
    from scans_lens.rates import Rate

    if isinstance(value, Rate):
        return plain(value.as_json())
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # a tensor, an array, or a number of numpy's
        return plain(value.tolist())
    return value


def _as_json(value: Any, indent: int = 0) -> str:
    """JSON with one line for every list of plain values, so that it can be read and compared."""
    inner = " " * (indent + 1)
    if isinstance(value, Mapping):
        rows = [f"{inner}{json.dumps(str(key))}: {_as_json(entry, indent + 1)}" for key, entry in value.items()]
        return "{\n" + ",\n".join(rows) + "\n" + " " * indent + "}" if rows else "{}"
    if isinstance(value, (list, tuple)) and any(isinstance(entry, (list, tuple, Mapping)) for entry in value):
        rows = [f"{inner}{_as_json(entry, indent + 1)}" for entry in value]
        return "[\n" + ",\n".join(rows) + "\n" + " " * indent + "]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
