"""Speed on this machine, side by side: `make bench`, or `python -m benchmarks [names]` for some of the measures.

`python -m benchmarks real` times the commands on a real chat model.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.measures import MEASURES, Numbers
from benchmarks.timing import Machine
from scans_lens import artefacts

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"


def main(names: list[str]) -> None:
    unknown = [name for name in names if name not in MEASURES]
    if unknown:
        sys.exit(f"There is no measure {unknown[0]!r}: there are {', '.join(MEASURES)}.")
    console = Console(width=max(110, Console().width))
    torch.manual_seed(0)
    machine = Machine.measured()
    console.print(
        f"{machine.name}, {machine.threads} threads: {machine.multiply_adds / 1e9:.0f} thousand million multiply-adds "
        f"and {machine.bytes_copied / 1e9:.1f} GB copied a second"
    )
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() and names else {"measures": {}}
    for name in names or MEASURES:
        start = time.perf_counter()
        found = MEASURES[name](machine)
        found["took"] = time.perf_counter() - start
        known["measures"][name] = found
        known["machine"] = {**vars(machine), "system": platform.system(), "versions": artefacts.versions()}
        RESULTS.write_text(json.dumps(known, indent=1) + "\n")
        _print(console, name, found)
    if "growth" in (names or MEASURES):
        from benchmarks.drawing import growth as draw

        draw(known["measures"]["growth"], HERE / "growth.png")
    console.print(f"Written to {RESULTS}.")


def _print(console: Console, name: str, found: Numbers) -> None:
    table = Table(title=f"{name}: {found['what']}", title_justify="left", show_header=False)
    for key, value in _flat("", {key: value for key, value in found.items() if key != "what"}):
        table.add_row(key, value)
    console.print(table)


def _flat(path: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        if "rounds" in value and "median" in value:
            low, high = (
                (value["lowest"], value["highest"])
                if "lowest" in value
                else (min(value["rounds"]), max(value["rounds"]))
            )
            return [(path, f"{value['median']:.3g} [{low:.3g} to {high:.3g}]")]
        return [row for key, own in value.items() for row in _flat(f"{path} · {key}".strip(" ·"), own)]
    return [
        (path, f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value))
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["real"]:
        from benchmarks import real

        real.main(sys.argv[2:])
    else:
        main(sys.argv[1:])
