"""Runs: one long table on disk, written as it comes, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scans_lens.processes import Rank

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 3
ABOUT, LOCK = "run.json", "lock"
ROOM = 1_000_000
"""Bytes that a disk should have left before a run is begun."""
_PART, _ASIDE, _BROKEN = ".parquet", ".part", ".unreadable"


@dataclass(frozen=True)
class Run:
    """A folder of parquet parts, read as one table, that only this process and those of its launch write to."""

    folder: Path
    key: tuple[str, ...] = ()
    """What tells a row from every other; of rows with one key the last one written counts."""
    rank: Rank = field(default_factory=Rank)
    """Every process names its parts its own way."""

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows, all of them or none: written aside, synced, and only then given their name.

        Raises:
            OSError: they cannot be written; what was there before stays as it was.
        """
        import pyarrow as pa
        from pyarrow import parquet

        if not rows:
            return
        number = 1 + max((int(part.stem.split("-")[1]) for part in _parts(self.folder)), default=-1)
        of = "" if self.rank.first else f"-{self.rank.number}"
        place = self.folder / f"part-{number:06}{of}{_PART}"
        aside = place.with_name(place.name + _ASIDE)
        try:
            with aside.open("wb") as file:
                parquet.write_table(pa.Table.from_pylist([dict(row) for row in rows]), file)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(place)
            _sync(self.folder)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise OSError(
                f"{str(self.folder)!r} cannot be written to ({error.strerror or error}); what was there before is "
                "kept, and the same command goes on from there."
            ) from error

    def table(self) -> pd.DataFrame:
        """What is there so far. A part that cannot be read is set aside, and its rows count as not done."""
        for part in _parts(self.folder):
            try:
                _read([part])
            except ValueError:
                part.replace(part.with_name(part.name + _BROKEN))
        return _last(_read(_parts(self.folder)), self.key)


@contextmanager
def opened(
    folder: str | Path,
    settings: Mapping[str, Any],
    machine: Mapping[str, Any] | None = None,
    key: Sequence[str] = (),
    rank: Rank | None = None,
    grows: Sequence[str] = (),
) -> Iterator[Run]:
    """The run in this folder, begun or gone on with; until the end no other process can write to it.

    The processes of one launch open it together, and leave it together.

    Args:
        settings: what the rows depend on. Who goes on with a run asks for the same, but for those that grow.
        machine: what else is worth keeping about where it ran; may differ when it goes on.
        rank: of this process, where several share the run.
        grows: settings that are mappings, of which a run may get more names as it goes on; what it has stays as it is.
        key: columns that tell a row from every other; a row written again takes the place of the one before.

    Raises:
        ValueError: the folder holds a run of other settings or of another version, or something else, or another
            process is writing to it.
    """
    folder = Path(folder)
    own = json.loads(json.dumps({"format": FORMAT, "key": list(key), "settings": dict(settings)}))
    rank = rank or Rank()
    if folder.is_dir() and rank.first:
        _grown(folder, own, grows)  # before anything is written into somebody else's folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{str(folder)!r} cannot be a folder of results: {error.strerror or error}.") from error
    with _locked(folder, rank):
        if rank.first:
            own = _grown(folder, own, grows)
            for left in folder.glob(f"*{_PART}{_ASIDE}"):  # of a process that was killed while it wrote
                left.unlink()
            _keep(folder / ABOUT, own | {"machine": dict(machine or {})})
        rank.wait()
        _grown(folder, own, grows)
        yield Run(folder, tuple(key), rank)
        rank.wait()


def read(folder: str | Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table of a run, whole or not, and what it was run with.

    Raises:
        ValueError: there is no run in the folder, one of another version, or a part of it cannot be read.
    """
    folder = Path(folder)
    about = _about(folder)
    _require_format(folder, about)
    return _last(_read(_parts(folder)), about.get("key", ())), about


def require_free(folder: str | Path, settings: Mapping[str, Any]) -> None:
    """Ask before the work whether a run could be begun here, or gone on with; what only a model tells is asked later.

    Args:
        settings: those that are known; of what is a mapping in the run, its names in a list are enough, and of a
            mapping what both have, at every depth.

    Raises:
        ValueError: as `opened`, or there is no room to write.
    """
    folder = Path(folder)
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOCK).open("ab"):
            pass
    except OSError as error:
        raise ValueError(f"{str(folder)!r} cannot be a folder of results: {error.strerror or error}.") from error
    try:
        if shutil.disk_usage(folder).free < ROOM:
            raise ValueError(f"{str(folder)!r} cannot be a folder of results: there is no space left on its disk.")
        with _locked(folder, Rank()):
            there = _there(folder)
            for name, value in settings.items() if there else ():
                before = list(there.get(name, ())) if isinstance(value, list) else there.get(name)
                if isinstance(value, dict) and isinstance(before, dict):
                    value, before = _common(value, before)
                if apart := _apart(name, before, value):
                    raise ValueError(_another(folder, *apart))
    finally:
        if made and not any(path.name != LOCK for path in folder.iterdir()):
            (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()


def require_run(folder: str | Path, judge: str | None = None) -> None:
    """Refuse a folder without a run, or one whose replies nobody of that name has judged, before anything is read."""
    judges = _about(Path(folder)).get("settings", {}).get("judges", {})
    if judge is not None and judge not in (*judges, "people"):
        raise ValueError(f"There are no verdicts of {judge!r} in the table: it has those of {', '.join(judges)}.")


def _another(folder: Path, place: str, one: Any, other: Any) -> str:
    return (
        f"{str(folder)!r} holds another run, whose {place} is {_brief(one)} and not {_brief(other)}: name a new "
        "folder, or ask for the same again to go on."
    )


def _last(table: pd.DataFrame, key: Sequence[str]) -> pd.DataFrame:
    return table.drop_duplicates(list(key), keep="last", ignore_index=True) if len(key) and len(table) else table


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"part-*{_PART}"))


def _read(parts: Sequence[Path]) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa
    from pyarrow import parquet

    tables = []
    for part in parts:
        try:
            tables.append(parquet.read_table(part))
        except (OSError, pa.ArrowException) as error:
            raise ValueError(
                f"{str(part)!r} is half written, or no parquet file: evaluate again into the same folder, and its rows "
                "are done again."
            ) from error
    return pa.concat_tables(tables, promote_options="permissive").to_pandas() if tables else pd.DataFrame()


def _about(folder: Path) -> dict[str, Any]:
    file = folder / ABOUT
    if not file.is_file():
        raise ValueError(f"{str(folder)!r} holds no results: there is no {ABOUT} in it.")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(file)!r} is no JSON, so nobody knows what these results are of.") from error


def _grown(folder: Path, own: Mapping[str, Any], grows: Sequence[str] = ()) -> dict[str, Any]:
    """What the run in the folder is of once it holds this, too; refused where the two do not go together."""
    there = _there(folder)
    if not there:
        return dict(own)
    settings = dict(own["settings"])
    for name in grows:
        before, now = there.get(name, {}), settings[name]
        if apart := _apart(name, *_common(before, now)):
            raise ValueError(_another(folder, *apart))
        settings[name] = {**before, **now}
    if apart := _apart("", there, settings | {name: there.get(name) for name in grows}):
        raise ValueError(_another(folder, *apart))
    return {**own, "settings": settings}


def _common(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both with only those names that both have, at every depth."""
    first, second = dict[str, Any](), dict[str, Any]()
    for name in one:
        if name in other:
            pair = one[name], other[name]
            first[name], second[name] = _common(*pair) if all(isinstance(side, dict) for side in pair) else pair
    return first, second


def _there(folder: Path) -> dict[str, Any]:
    """The settings of the run in the folder; none where the folder is empty."""
    if not (folder / ABOUT).is_file():
        others = [path.name for path in folder.iterdir() if not path.name.startswith(LOCK)]
        if others:
            raise ValueError(f"{str(folder)!r} holds {others[0]!r} and is no folder of results: name a new one.")
        return {}
    about = _about(folder)
    _require_format(folder, about)
    return about["settings"]


def _require_format(folder: Path, about: Mapping[str, Any]) -> None:
    if about.get("format") != FORMAT:
        raise ValueError(
            f"{str(folder)!r} is in format {about.get('format')}, and this version writes format {FORMAT}: "
            "name a new one."
        )


def _apart(place: str, one: Any, other: Any) -> tuple[str, Any, Any] | None:
    """Where two settings first differ, and how."""
    if one == other:
        return None
    if isinstance(one, dict) and isinstance(other, dict):
        found = (_apart(f"{place} {name}".strip(), one.get(name), other.get(name)) for name in {**one, **other})
        return next(filter(None, found))
    return place, one, other


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "…"


@contextmanager
def _locked(folder: Path, rank: Rank) -> Iterator[None]:
    """The lock ends with the process, however that ends."""
    import fcntl

    with (folder / (LOCK if rank.first else f"{LOCK}-{rank.number}")).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"Another process is writing to {str(folder)!r}: wait for it, or name a new one."
            ) from error
        yield


def _keep(file: Path, contents: Mapping[str, Any]) -> None:
    aside = file.with_name(file.name + _ASIDE)
    with aside.open("w", encoding="utf-8") as out:
        out.write(json.dumps(contents, indent=1, ensure_ascii=False) + "\n")
        out.flush()
        os.fsync(out.fileno())
    aside.replace(file)
    _sync(file.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
