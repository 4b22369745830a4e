"""Located: from what a caller names to a folder or a hub's name that transformers can load."""

from __future__ import annotations

from pathlib import Path

from scans_lens.models import getting, gguf, unpacking
from scans_lens.models.known import KNOWN, nearest


def is_gguf(where: str | Path) -> bool:
    """Whether a GGUF file is named."""
    return Path(where).is_file() and (Path(where).suffix == ".gguf" or _begins(Path(where)))


def _begins(file: Path) -> bool:
    """Whether it begins as a GGUF file does: Ollama gives its files no ending."""
    with file.open("rb") as stream:
        return stream.read(4) == gguf.MAGIC


def require(where: str) -> None:
    """Refuse a known model that is not here, and a GGUF file that could not be one; quick, and without torch.

    Raises:
        ValueError: as said.
    """
    if Path(where).is_dir():
        return
    if where in KNOWN and unpacking.kept_folder(where) is None and not getting.place(KNOWN[where]).is_file():
        raise ValueError(f"The model {where!r} is not here yet: python -m scans_lens models get {where}")
    if is_gguf(where):
        gguf.require_readable(Path(where))


def located(where: str) -> str:
    """The folder of a known model or a GGUF file, which is unpacked now if need be; anything else as it is.

    A folder of that name comes first, as with transformers.
    """
    require(where)
    if Path(where).is_dir():
        return where
    if where in KNOWN:
        return str(unpacking.kept_folder(where) or unpacking.folder_of(getting.place(KNOWN[where])))
    if is_gguf(where):
        return str(unpacking.folder_of(Path(where)))
    return where


def perhaps(where: str) -> str:
    """The short name of a known model that was perhaps meant, for a sentence that refuses a name."""
    near = "" if "/" in where or Path(where).exists() else nearest(where)
    return f"; did you mean {near!r}?" if near else ""
