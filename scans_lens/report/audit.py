"""Audit: what SCANS saw in each prompt of a run and how hard each way pushed, kept beside the run's table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scans_lens import evaluation, queries
from scans_lens.explain import looks
from scans_lens.methods.arms import Arm
from scans_lens.methods.scans import SCANS
from scans_lens.model import Model
from scans_lens.report import html

if TYPE_CHECKING:
    import pandas as pd

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


def weigh(folder: str | Path, arms: Sequence[Arm], table: pd.DataFrame) -> Path:
    """How hard each way pushes, written to `pushes.json`: layers, share of the residual norm, and the table's KL.

    Args:
        table: of `evaluate`, with the divergence of replies to harmless prompts, where there were some.
    """
    nats, pushes = queries.divergence(table), []
    for arm in arms:
        push = None if arm.method is None else arm.method.push
        if push is None:
            continue
        directions, layers = push.directions, list(push.layers)
        norms = directions.residual_norms[layers].cpu()
        lengths = abs(push.scale) * directions.vectors[layers].norm(dim=1).cpu() / norms
        moved = nats.get((arm.name, arm.setting))
        pushes.append(
            {
                "way": html.named(arm.name, arm.setting),
                "layers": layers,
                "residual_norms": float(lengths.mean()),
                "kl": None if moved is None else moved.value,
                "interval": None if moved is None else list(moved.interval),
                "n": 0 if moved is None else moved.total,
            }
        )
    file = Path(folder) / PUSHES
    aside = file.with_name(f"{PUSHES}.aside")
    aside.write_text(json.dumps(pushes, indent=1) + "\n", encoding="utf-8")
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
