"""Audit: what SCANS saw in each prompt of a run and how hard each way pushed, kept beside the run's table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scans_lens import evaluation
from scans_lens.capability import divergences
from scans_lens.conversation import Prompt
from scans_lens.evaluation import Arm
from scans_lens.explain import looks
from scans_lens.methods.scans import SCANS
from scans_lens.model import Model
from scans_lens.rates import Mean
from scans_lens.report import html

FILE = "audit.parquet"
PUSHES = "pushes.json"


def keep(folder: str | Path, model: Model, scans: SCANS, *, batch_size: int | None = None) -> Path:
    """Look at every prompt of the run in the folder, and write what is seen to `audit.parquet`, whole or not at all.

    Raises:
        ValueError: no run in the folder, no replies yet, or SCANS of another model.
    """
    import pandas as pd

    folder = Path(folder)
    table, _ = evaluation.read(folder)
    if table.empty:
        raise ValueError(f"{str(folder)!r} holds no replies yet.")
    asked = table.drop_duplicates("prompt_id")
    seen = looks(model, asked["prompt"].tolist(), scans, batch_size=batch_size, progress=True)
    found = pd.DataFrame(
        {
            "prompt_id": asked["prompt_id"].tolist(),
            "tokens": [list(one.tokens) for one in seen],
            "projection": [one.projection.tolist() for one in seen],
            "by_layer": [one.by_layer.tolist() for one in seen],
            "threshold": scans.classifier.threshold,
            "voting": [list(scans.classifier.layers)] * len(seen),
        }
    )
    aside = folder / f"{FILE}.aside"
    found.to_parquet(aside)
    aside.replace(folder / FILE)
    return folder / FILE


def read(folder: str | Path) -> dict[str, dict[str, Any]]:
    """By prompt id, what was seen in it; empty where nothing was kept.

    Raises:
        ValueError: the file cannot be read.
    """
    file = Path(folder) / FILE
    if not file.is_file():
        return {}
    import pyarrow as pa
    from pyarrow import parquet

    try:
        rows = parquet.ParquetFile(file).read().to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{str(file)!r} cannot be read: remove it, and evaluate again to have it back.") from error
    return {
        row["prompt_id"]: {
            "tokens": row["tokens"],
            "projection": [round(value, 3) for value in row["projection"]],
            "layers": [round(value, 4) for value in row["by_layer"]],
            "voting": row["voting"],
            "threshold": round(row["threshold"], 4),
        }
        for row in rows
    }


def weigh(folder: str | Path, model: Model, arms: Sequence[Arm], harmless: Sequence[Prompt]) -> Path:
    """Measure how hard each way pushes, and write it to `pushes.json`: layers, share of the residual norm, and KL.

    Args:
        harmless: prompts on which the move of the next token is measured, in nats (see `capability.divergences`).
    """
    pushing = [arm for arm in arms if hasattr(arm.method, "directions") and hasattr(arm.method, "scale")]
    methods: list[Any] = [arm.method for arm in pushing]
    found = []
    moves = divergences(model, harmless, methods) if methods else ()
    for arm, method, nats in zip(pushing, methods, moves, strict=True):
        directions, layers = method.directions, list(method.layers)
        norms = directions.residual_norms[layers].cpu()
        lengths = abs(method.scale) * directions.vectors[layers].norm(dim=1).cpu() / norms
        moved = Mean.of(nats.tolist())
        found.append(
            {
                "way": html.named(arm.name, arm.setting),
                "layers": layers,
                "residual_norms": float(lengths.mean()),
                "kl": moved.value,
                "interval": list(moved.interval),
                "n": moved.total,
            }
        )
    file = Path(folder) / PUSHES
    aside = file.with_name(f"{PUSHES}.aside")
    aside.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    aside.replace(file)
    return file


def weights_of(folder: str | Path) -> list[dict[str, Any]]:
    """How hard each way pushed, as `weigh` wrote it; empty where nothing was kept."""
    file = Path(folder) / PUSHES
    if not file.is_file():
        return []
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(file)!r} is no JSON: remove it, and evaluate again to have it back.") from error
