"""Home: the folder in which everything lies that was brought or made once, and how it gets there whole."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "SCANS_LENS_HOME"


def home() -> Path:
    """What the variable `SCANS_LENS_HOME` names, or the platform's cache folder."""
    import platformdirs

    named = os.environ.get(VARIABLE)
    return Path(named).expanduser().absolute() if named else Path(platformdirs.user_cache_path("scans_lens"))


def made(folder: Path) -> Path:
    """A folder that is there and can be written to.

    Raises:
        ValueError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise ValueError(
            f"The folder {str(folder)!r} cannot be written: {error.strerror or error}; {VARIABLE} can name another one."
        ) from error


def require_room(folder: Path, needed: int, what: str) -> None:
    """Refuse to begin what would fill the disk, in bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"{what} needs {size(needed)} in {str(folder)!r}, and {size(free)} are free; {VARIABLE} can name another "
            "folder."
        )


def size(n: int) -> str:
    """Bytes as people say them."""
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.0f} MB"


def say(sentence: str) -> None:
    """Tell who waits what takes so long."""
    print(sentence, file=sys.stderr, flush=True)


@contextmanager
def aside(place: Path) -> Iterator[Path]:
    """A folder beside `place` to write in, renamed to it when all went well and gone when not.

    Who comes second finds it there, and what he wrote is dropped.
    """
    beside = Path(tempfile.mkdtemp(dir=made(place.parent), prefix=f".{place.name}-"))
    try:
        yield beside
        try:
            beside.rename(place)
        except OSError:
            if not place.is_dir():
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def alone(place: Path) -> Iterator[None]:
    """Only one process at a time: a second one waits here, and says for what."""
    import filelock

    lock = filelock.FileLock(made(place.parent) / f".{place.name}.lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        say(f"Another process is at work on {place.name}; waiting for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
