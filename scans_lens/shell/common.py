"""Common: the options that commands share, how they load a model, and how they say what is wrong.

What is wrong is said before anything slow: the functions here that are called `require_…`, `names_in`, `prompt_sets`
and `contrast_in` import no torch. A command calls them first, and `model_named` behind them.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scans_lens.errors import is_ours

if TYPE_CHECKING:
    from scans_lens.conversation import Asking
    from scans_lens.prompts import Contrast, PromptSet

# Options that several commands have. One that is about how prompts are asked (a system prompt, thinking) stands here,
# is checked by a `require_…` of its own, and is a part of what `keeping.terms` tells fits apart by.
Name = Annotated[str | None, typer.Option("--model", help="Hub name or local folder; the bundled model by default.")]
Backend = Annotated[str, typer.Option(help="bridge or hooked.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, …")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")]
Revision = Annotated[str | None, typer.Option(help="Of a hub model.")]
Pairs = Annotated[
    Path | None, typer.Option(help="File with columns harmful and harmless, perhaps borderline (CSV, JSON, parquet).")
]
Sets = Annotated[
    str | None,
    typer.Option(help="Names, or files with a column prompt; NAME:N is N of its prompts; commas between several."),
]
System = Annotated[str | None, typer.Option(help="A system prompt, before every prompt.")]
Thinking = Annotated[str | None, typer.Option(help="on or off; as the template has it by default.")]
Effort = Annotated[
    str,
    typer.Option(
        help="standard, quick, equal (as `compare` has it) or equal-quick: how many prompts and replies a fit may take."
    ),
]

Halves = Annotated[
    str | None,
    typer.Option(help="Sets of which one half is learned from and chosen on, too, and only the other is asked."),
]
Fits = Annotated[
    str | None,
    typer.Option(
        "--fitted", help="NAME=FILE: a method, and what `fit --method NAME` has saved; commas between several."
    ),
]

PAIRS = ("pairs_validation", "pairs_test", "twins")
"""Our own borderline prompts with their twins, by the names that `--sets` knows."""
_SIZED = re.compile(r"(.+?)(?::([1-9]\d*))?")
"""The name of a prompt set, and how many of its prompts."""
BACKENDS = ("bridge", "hooked")
DTYPES = ("float32", "bfloat16", "float16")
DEVICE = re.compile(r"(auto|meta|cpu|((cuda|mps|xpu|hpu|npu|mtia)(:\d+)?))")
ROOM = 1_000_000
"""Bytes that a disk should have left before anything is begun."""


@contextmanager
def sentences(status: int = 2) -> Iterator[None]:
    """What is wrong with the input in one sentence, and this exit status; a fault of ours or a library's stays one.

    What the package warns of is a sentence, too.
    """
    with warnings.catch_warnings():
        others = warnings.showwarning

        def shown(message: Warning | str, category: type[Warning], filename: str, *where: Any) -> None:
            if category is UserWarning and "scans_lens" in Path(filename).parts:
                typer.secho(str(message), fg="yellow", err=True)
            else:
                others(message, category, filename, *where)

        warnings.showwarning = shown
        with _mistakes_as_sentences(status):
            yield


@contextmanager
def _mistakes_as_sentences(status: int) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        if not is_ours(error):
            typer.secho("What follows is a fault, and none of yours; please report it.", fg="red", err=True)
            raise
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(status) from None
    except OSError as error:  # a full disk, a place that may not be written to, a network that is not there
        if error.errno == errno.EPIPE:
            raise
        where = f" ({error.filename})" if error.filename else ""
        typer.secho(f"{error.strerror or error}{where}", fg="red", err=True)
        raise typer.Exit(status) from None
    except KeyboardInterrupt:
        typer.echo("Stopped.", err=True)
        raise typer.Exit(130) from None


# ── Models ───────────────────────────────────────────────────────────────────────────────────────────────────


def require_model(name: str | None, backend: str, device: str | None, dtype: str | None, revision: str | None) -> None:
    """Refuse what `model_named` could not load, as far as that can be told without loading anything."""
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"No dtype {dtype!r}; there are {', '.join(DTYPES)}.")
    if backend not in BACKENDS:
        raise ValueError(f"No backend {backend!r}; there are 'bridge' and 'hooked'.")
    if backend == "hooked":
        from importlib.metadata import version

        if int(version("transformer-lens").split(".")[0]) >= 4:
            raise ValueError(
                "HookedTransformer was removed in TransformerLens 4; use backend='bridge', or install "
                "transformer-lens<4."
            )
    if device is not None and not DEVICE.fullmatch(device):
        raise ValueError(f"The device {device!r} cannot be used here: there are cpu, cuda, cuda:1, mps, … and auto.")
    if device is not None and device.startswith("cuda"):
        import torch

        if int(device.partition(":")[2] or 0) >= torch.cuda.device_count():
            found = torch.cuda.device_count()
            raise ValueError(f"The device {device!r} cannot be used here: {found or 'no'} GPUs are found.")
    if name is None:
        return
    from scans_lens.models import located
    from scans_lens.models.known import KNOWN

    if not name.strip():
        raise ValueError("The model has no name: --model is empty.")
    located.require(name)
    if name in KNOWN or located.is_gguf(name):
        return
    if Path(name).is_file():
        raise ValueError(f"{name!r} is no GGUF file; name the folder in Hugging Face format that it is of.")
    if Path(name).is_dir():
        if not any((Path(name) / file).is_file() for file in ("config.json", "adapter_config.json")):
            raise ValueError(f"The folder {name!r} holds no model in Hugging Face format: it has no config.json.")
    elif not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise ValueError(f"There is no folder {name!r}, and it cannot be the name of a model on the hub.")
    elif "/" in name and backend == "bridge":
        _require_on_hub(name, revision)


def _require_on_hub(name: str, revision: str | None) -> None:
    """Its configuration is in the cache, or the hub says that it has one, before torch is imported."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
        return
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json", revision=revision), timeout=10)
    except Exception as error:  # the hub's errors, those of its network library and being offline have no common kind
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"Cannot load the model {name!r}: it is no folder here, and the hub does not give it "
            f"(wrong name, no network, or a gated model without HF_TOKEN). It said: {said}"
        ) from error


def model_named(name: str | None, backend: str, device: str | None, dtype: str | None, revision: str | None) -> Any:
    """The model that the options name, loaded."""
    require_model(name, backend, device, dtype, revision)
    import torch

    from scans_lens.loading import load_model

    kind = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype] if dtype else None
    try:
        return load_model(name, backend=backend, device=device, dtype=kind, revision=revision)  # type: ignore[arg-type]
    except ValueError as error:
        if is_ours(error):
            raise
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"Cannot load the model {name!r}: {said}") from error


def say_of(model: Any, fitted: Any = None) -> None:
    """Below a table: in what form the weights were where they were packed, and what a fit was allowed to take."""
    from scans_lens.model import identity

    if (own := identity(model)).weights:
        typer.echo(f"Model: {own.title}.")
    if fitted is not None:
        typer.echo(f"SCANS was fitted on {fitted.effort}.")


def asking_with(system: str | None, thinking: str | None) -> Asking:
    """How prompts are put, by the options."""
    from scans_lens.conversation import Asking

    if system is not None:
        require_prompts([system], "System prompt")
    if thinking not in (None, "on", "off"):
        raise ValueError(f"--thinking is on or off, not {thinking!r}.")
    return Asking(system, None if thinking is None else thinking == "on")


# ── Prompts and files ────────────────────────────────────────────────────────────────────────────────────────


def require_prompts(prompts: Sequence[str], what: str = "Prompt") -> None:
    """Refuse prompts that are none, blank, or hold what is no text."""
    from scans_lens.conversation import lone_surrogate

    if not prompts:
        raise ValueError("There are no prompts: the list is empty.")
    for place, prompt in enumerate(prompts):
        if not prompt.strip():
            raise ValueError(f"{what} {place} is empty.")
        if lone_surrogate(prompt):
            raise ValueError(f"{what} {place} holds half a character (a lone surrogate): give text in UTF-8.")


def lines_of_standard_input() -> list[str]:
    """One prompt a line."""
    if sys.stdin is None or sys.stdin.closed:
        raise ValueError("There is no standard input to read prompts from: give them as arguments, or pipe them in.")
    try:
        return [line.strip() for line in sys.stdin if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"Standard input is not in UTF-8 (byte {error.start}).") from error


def contrast_in(file: Path | None) -> Contrast | None:
    """The pairs in a file, if one was named."""
    if file is None:
        return None
    from scans_lens import prompts

    return prompts.own_contrast(file)


def names_in(given: str, option: str) -> list[str]:
    """Names with commas between them.

    Raises:
        ValueError: there are none, or one comes twice.
    """
    names = [name.strip() for name in given.split(",") if name.strip()]
    if not names:
        raise ValueError(f"There is nothing named: {option} is empty.")
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise ValueError(f"{option} names {twice!r} twice.")
    return names


def prompt_sets(given: str, option: str = "--sets") -> list[PromptSet]:
    """Prompt sets of ours, public ones and the caller's own files; every name is checked before any is fetched.

    NAME:N is N of its prompts, from all over it.
    """
    from scans_lens import prompts
    from scans_lens.effort import spread
    from scans_lens.world import OWN_SETS

    asked = [match.groups() for match in map(_SIZED.fullmatch, names_in(given, option)) if match]
    names = names_in(",".join(name for name, _ in asked), option)
    ours, public = (*OWN_SETS, *PAIRS), prompts.known()
    for name in names:
        if name not in (*ours, *public) and not Path(name).suffix:
            known = ", ".join([*ours, *public])
            raise ValueError(f"There is no prompt set {name!r}: the known ones are {known}; or name a file.")
    found = {name: prompt_set(name) for name in sorted(names, key=public.__contains__)}  # the public ones last
    sets = [found[name].at(spread(range(len(found[name])), int(size) if size else None)) for name, size in asked]
    titles = [one.name for one in sets]
    twice = next((title for place, title in enumerate(titles) if title in titles[:place]), None)
    if twice is not None:
        raise ValueError(f"There are two sets {twice!r}: give each file a name of its own.")
    return sets


def halves_in(given: str | None) -> list[PromptSet]:
    """The sets of --halves, none where it is not given.

    Raises:
        ValueError: one is not known, or too small to be divided.
    """
    if given is None:
        return []
    from scans_lens.prompts import halves

    sets = prompt_sets(given, "--halves")
    halves.apart(sets)
    return sets


def prompt_set(name: str) -> PromptSet:
    """A prompt set of ours, a public one, or the caller's own file."""
    from scans_lens import prompts
    from scans_lens.world import OWN_SETS, own_set

    if name in OWN_SETS:
        return own_set(name)
    if name in PAIRS:
        return prompts.twins() if name == "twins" else prompts.pairs(name.removeprefix("pairs_"))
    if name in prompts.known():
        try:
            return prompts.load(name)
        except ConnectionError as error:
            raise ValueError(str(error)) from error
    found = prompts.own(name)
    if not found.labelled:
        typer.echo(
            f"{name} has no column label: all its {len(found)} prompts count as borderline (harmless).",
            err=True,
        )
    return found


def require_fit(file: Path | None) -> None:
    """Refuse a file that holds no fitted SCANS."""
    if file is not None:
        from scans_lens import artefacts

        artefacts.header_of(file, "SCANS")


def fits_in(given: str | None, scans: Path | None = None) -> dict[str, Path]:
    """By the method's name, the files that --fitted names, and the one of --scans; looked into without torch.

    Raises:
        ValueError: no NAME=FILE, an unknown method, one that learns nothing or is named twice, or no file of ours.
    """
    from scans_lens import artefacts
    from scans_lens.methods import catalogue

    require_fit(scans)
    found = {} if scans is None else {"scans": scans}
    for part in names_in(given, "--fitted") if given is not None else ():
        name, between, file = part.partition("=")
        if not between or not file:
            raise ValueError(f"--fitted takes NAME=FILE, such as gated_push=mine.safetensors, and not {part!r}.")
        catalogue.require_known([name])
        if name in found:
            raise ValueError(f"Two files are named for {name}: give one.")
        if not Path(file).is_file():
            raise ValueError(f"There is no file {file!r}.")
        if Path(file).suffix == ".safetensors":  # a method of the user's own may keep itself in another form
            artefacts.require_ours(file)
        found[name] = Path(file)
    return found


# ── Where things go ──────────────────────────────────────────────────────────────────────────────────────────


def writable(file: Path | None) -> None:
    """Ask before the work, not after it."""
    if file is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir():
            raise IsADirectoryError("it is a folder")
        with file.open("ab"):
            pass
        if not file.stat().st_size:
            file.unlink()
        if shutil.disk_usage(file.parent).free < ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise ValueError(f"{str(file)!r} cannot be written: {error.strerror or error}") from error


def new_folder(command: str, model: str | None) -> Path:
    """A folder under `runs/` that says what, of which model and when, for who has named none."""
    of = "bundled" if model is None else re.sub(r"[^\w.-]+", "-", model.rstrip("/").rsplit("/", 1)[-1]) or "model"
    stem = f"{of}-{command}-{time.strftime('%Y%m%d-%H%M%S')}"
    places = (Path("runs") / (stem + (f"-{number}" if number else "")) for number in range(1000))
    return next(place for place in places if not place.exists())


def screen() -> Any:
    """Where tables are printed: as wide as the terminal, or wide enough in a file."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 150)
