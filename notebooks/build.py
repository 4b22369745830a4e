"""Build the notebooks: each percent script beside this file becomes an executed .ipynb, to be read where it lies.

Names on the command line (`04_steer`) say which; without them all are built.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import nbformat

HERE = Path(__file__).parent
LARGEST = 600_000
"""Bytes that a notebook may have."""


def scripts() -> list[Path]:
    return sorted(HERE.glob("[0-9]*.py"))


def from_script(script: Path) -> nbformat.NotebookNode:
    """The script as a notebook that has not run, with cell ids that do not change from one build to the next."""
    import jupytext

    notebook = jupytext.read(script)
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for place, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{place}", {}
    return notebook


def executed(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Run it, and leave out what is not there to be read: progress, timings, drawings in more than one form."""
    from nbclient import NotebookClient

    NotebookClient(notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(HERE)}}).execute()
    for cell in notebook.cells:
        cell.metadata = {}
        outputs = [out for out in cell.get("outputs", []) if out.get("name") != "stderr"]
        for out in outputs:
            if "image/png" in out.get("data", {}):
                out.data = {"image/png": out.data["image/png"]}
        if cell.cell_type == "code":
            cell.outputs = outputs
    notebook.metadata.pop("language_info", None)
    return notebook


def same_source(script: Path) -> bool:
    """Whether the notebook beside a script holds that script."""
    import nbformat

    built = script.with_suffix(".ipynb")
    if not built.is_file():
        return False
    told = [(cell.cell_type, cell.source) for cell in nbformat.read(built, as_version=4).cells]
    return told == [(cell.cell_type, cell.source) for cell in from_script(script).cells]


def main() -> int:
    options = [name for name in sys.argv[1:] if name.startswith("-")]
    if unknown := set(options) - {"--check"}:
        print(f"There is no option {', '.join(sorted(unknown))}; there is --check.")
        return 2
    os.environ |= {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    if "--check" in sys.argv:
        stale = [script.stem for script in scripts() if not same_source(script)]
        print(f"Not built from their scripts: {', '.join(stale)}." if stale else "Scripts and notebooks agree.")
        return bool(stale)
    named = [name for name in sys.argv[1:] if not name.startswith("-")]
    if unknown := set(named) - {script.stem for script in scripts()}:
        print(f"There is no notebook {', '.join(sorted(unknown))}; there are {', '.join(s.stem for s in scripts())}.")
        return 1
    import nbformat

    for script in scripts():
        if named and script.stem not in named:
            continue
        start = time.monotonic()
        notebook = executed(from_script(script))
        text = nbformat.writes(notebook)
        if len(text.encode()) > LARGEST:
            print(f"{script.stem} is {len(text) / 1e3:.0f} kB; at most {LARGEST / 1e3:.0f} are meant.")
            return 1
        script.with_suffix(".ipynb").write_text(text + "\n")
        print(f"{script.stem:<24} {len(text) / 1e3:5.0f} kB {time.monotonic() - start:5.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
