"""Tables: the rows of a benchmark's file, from a folder of local copies or from its public place."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

FOLDER_VARIABLE = "SCANS_LENS_DATA"
"""Environment variable that names a folder with local copies of the benchmarks."""

Row = Mapping[str, Any]
"""One row of a benchmark's file, its columns named in lower case."""


@dataclass(frozen=True)
class Table:
    """A public file: what it is called, where it lies, and which of its columns are read."""

    files: tuple[str, ...]
    """File names it goes by in a folder of local copies, whatever their case; the first is ours."""
    hub: Mapping[str, Any] = field(hash=False)
    """What `datasets.load_dataset` is asked for, pinned to a revision."""
    columns: tuple[str, ...]
    """Columns that are read, in lower case; others may stand beside them. Lines and JSON lists have the one `text`."""

    @property
    def place(self) -> str:
        if "data_files" in self.hub:
            return self.hub["data_files"]
        return f"https://huggingface.co/datasets/{self.hub['path']}/tree/{self.hub['revision']}"


def github(repository: str, commit: str, path: str) -> Mapping[str, Any]:
    """What `datasets` is asked for, for one file of a repository at a commit."""
    builder = {"txt": "text"}.get(suffix := path.rpartition(".")[2], suffix)
    how = {"encoding": "utf-8-sig", "keep_default_na": False} if builder == "csv" else {}
    place = f"https://raw.githubusercontent.com/{repository}/{commit}/{path}"
    return MappingProxyType({"path": builder, "data_files": place, "split": "train", **how})


def hub(path: str, name: str, revision: str, split: str) -> Mapping[str, Any]:
    """What `datasets` is asked for, for a split of a dataset on the hub at a revision."""
    return MappingProxyType({"path": path, "name": name, "revision": revision, "split": split})


def rows(name: str, table: Table) -> tuple[str, list[Row]]:
    """Where the table was found, and its rows.

    Raises:
        ValueError: the folder is none, the file cannot be read, or a column is missing.
        ConnectionError: it is not in the folder, and its public place cannot be reached.
    """
    path = local(table.files)
    if path is None:
        where, raw = table.place, _fetch(name, table)
    else:
        where, raw = str(path), read(path)
    found = _lowered(raw)
    for row in found:
        missing = [column for column in table.columns if column not in row]
        if missing:
            raise ValueError(
                f"{where} has no column {' and no column '.join(map(repr, missing))}, which {name!r} is read from:"
                f" its columns are {', '.join(map(repr, row))}."
            )
    return where, found


def local(files: Sequence[str]) -> Path | None:
    """The first of these files in the folder of local copies; None when there is no such folder or file."""
    named = os.environ.get(FOLDER_VARIABLE)
    if not named:
        return None
    folder = Path(named)
    if not folder.is_dir():
        raise ValueError(f"{FOLDER_VARIABLE} is {named!r}, which is not a folder.")
    present: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            present.setdefault(path.name.lower(), path)
    return next((present[file] for file in map(str.lower, files) if file in present), None)


def _lowered(found: list[Row]) -> list[Row]:
    return [{str(column).strip().lower(): value for column, value in row.items()} for row in found]


def read(path: Path) -> list[Row]:
    """The rows of a file, by its suffix; raises ValueError for one that cannot be read as what it is named."""
    if path.suffix.lower() not in _READERS:
        raise ValueError(f"{path} cannot be read: its name ends in none of {', '.join(_READERS)}.")
    try:
        return _lowered(_READERS[path.suffix.lower()](path))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} cannot be read as {path.suffix[1:]}: it is not in UTF-8 (byte {error.start}); save it as UTF-8."
        ) from error
    except Exception as error:  # whatever the format's reader makes of a broken file
        raise ValueError(f"{path} cannot be read as {path.suffix[1:]}: {first_line(error)}") from error


def _read_csv(path: Path) -> list[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, strict=True))  # else a quote that nobody closes swallows the rest


def _read_json(path: Path) -> list[Row]:
    found = json.loads(path.read_bytes())
    if not isinstance(found, list):
        raise ValueError("it holds no list of rows")
    return [_object(number, row) for number, row in enumerate(found, 1)]


def _read_json_lines(path: Path) -> list[Row]:
    lines = path.read_text(encoding="utf-8-sig").split("\n")  # and no other end of line, which JSON may hold in a text
    return [_object(number, json.loads(line)) for number, line in enumerate(lines, 1) if line.strip()]


def _object(number: int, row: Any) -> Row:
    if isinstance(row, str):
        return {"text": row}
    if not isinstance(row, dict):
        raise ValueError(f"row {number} is no object")
    return row


def _read_lines(path: Path) -> list[Row]:
    return [{"text": line} for line in path.read_text(encoding="utf-8-sig").splitlines()]


def _read_parquet(path: Path) -> list[Row]:
    from pyarrow import parquet

    return parquet.ParquetFile(path).read().to_pylist()


_READERS: Mapping[str, Callable[[Path], list[Row]]] = MappingProxyType(
    {".csv": _read_csv, ".json": _read_json, ".jsonl": _read_json_lines, ".parquet": _read_parquet, ".txt": _read_lines}
)


def _fetch(name: str, table: Table) -> list[Row]:
    try:
        import datasets

        return list(datasets.load_dataset(**table.hub))
    except Exception as error:  # `datasets` raises a dozen kinds when offline, and more when a place has moved
        raise ConnectionError(
            f"Cannot fetch {name!r} from {table.place} ({first_line(error)}):"
            f" put {table.files[0]} in a folder and name the folder in {FOLDER_VARIABLE}."
        ) from error


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
