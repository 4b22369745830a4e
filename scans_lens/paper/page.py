"""Page: tables as one HTML page and as JSON, with what it takes to get the same numbers again."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from scans_lens import artefacts
from scans_lens.model import device_of, identity, unembedding_of
from scans_lens.paper.experiments import Experiments
from scans_lens.paper.tables import HERE, Sheet


def write(runs: Experiments, sheets: Sequence[Sheet]) -> Path:
    """The tables and the circumstances as one HTML page, and as JSON beside it."""
    about = circumstances(runs)
    text = (resources.files("scans_lens.paper") / "page.html").read_text(encoding="utf-8")
    for name, part in {
        "model": "the bundled model" if runs.world.bundled else escape(runs.world.name),
        "beside": escape(runs.said_beside),
        "tables": "".join(map(_html, sheets)),
        "circumstances": escape(json.dumps(about, indent=1, ensure_ascii=False)),
    }.items():  # fmt: skip
        text = text.replace(f"<!--{name}-->", part)
    kept = {"circumstances": about, "tables": [asdict(sheet) for sheet in sheets]}
    runs.out.mkdir(parents=True, exist_ok=True)
    (runs.out / "tables.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page = runs.out / "index.html"
    page.write_text(text, encoding="utf-8")
    return page


def _html(sheet: Sheet) -> str:
    return (
        f"<h2>Table {sheet.number}: {escape(sheet.title)}</h2><div class=wide><table><thead><tr>"
        + "".join(f"<th>{escape(cell)}</th>" for cell in sheet.head)
        + "</tr></thead><tbody>"
        + "".join(
            f"<tr class={'here' if row[1] == HERE else 'paper'}>"
            + "".join(f"<td>{escape(cell)}</td>" for cell in row)
            + "</tr>"
            for row in sheet.rows
        )
        + "</tbody></table></div>"
        + "".join(f"<p class=note>{escape(note)}</p>" for note in sheet.notes)
    )


def circumstances(runs: Experiments) -> dict[str, Any]:
    """What somebody needs to know to get the same numbers."""
    device = device_of(runs.model)
    return {
        "command": " ".join(["python -m scans_lens", *sys.argv[1:]]) if "scans_lens" in sys.argv[0] else "",
        "model": asdict(identity(runs.model)) | {
            "name": runs.world.name, "dtype": str(unembedding_of(runs.model).dtype),
        },
        "anchors": {f"draw {draw}": runs.anchors(draw).digest for draw in range(runs.draws)},
        "sets": {each.name: {"prompts": len(each), "digest": each.digest} for each in runs.sets},
        "seeds": list(range(runs.draws)),
        "tokens of a reply": runs.tokens,
        "beside": runs.said_beside,
        "asking": runs.asking.to_dict(),
        "effort": runs.effort.to_dict(),
        "safety prompt": runs.world.safety_prompt,
        "versions": artefacts.versions(),
        "python": platform.python_version(),
        "machine": {
            "system": platform.system(), "processor": _processor(), "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        },
    }  # fmt: skip


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
