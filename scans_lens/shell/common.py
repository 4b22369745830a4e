"""Common: the options that commands share, and how they load, keep, and say what is wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from scans_lens.methods.scans import SCANS
    from scans_lens.prompts import Contrast

Name = Annotated[str | None, typer.Option("--model", help="Hub name or local folder; the bundled model by default.")]
Backend = Annotated[str, typer.Option(help="bridge or hooked.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, …")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")]
Revision = Annotated[str | None, typer.Option(help="Of a hub model.")]
Pairs = Annotated[Path | None, typer.Option(help="CSV with columns harmful and harmless, perhaps borderline.")]

PAIRS = ("pairs_validation", "pairs_test")
"""Our own borderline prompts with their twins, by the names that `--sets` knows."""


@contextmanager
def sentences() -> Iterator[None]:
    """What is wrong with the input in one sentence, and exit status 2."""
    try:
        yield
    except ValueError as error:
        typer.secho(str(error), fg="red", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("Stopped.", err=True)
        raise typer.Exit(130) from None


def model_named(name: str | None, backend: str, device: str | None, dtype: str | None, revision: str | None) -> Any:
    """The model that the options name, loaded."""
    import torch

    from scans_lens.loading import load_model

    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype is not None and dtype not in kinds:
        raise ValueError(f"No dtype {dtype!r}; there are {', '.join(kinds)}.")
    return load_model(name, backend=backend, device=device, dtype=kinds[dtype] if dtype else None, revision=revision)  # type: ignore[arg-type]


def contrast_in(file: Path | None) -> Contrast | None:
    """The pairs in a CSV file, if one was named."""
    if file is None:
        return None
    import pandas as pd

    from scans_lens.prompts import Contrast

    if not file.is_file():
        raise ValueError(f"There is no file {str(file)!r}.")
    try:
        table = pd.read_csv(file)
    except ValueError as error:  # of pandas' parser, or of the encoding
        raise ValueError(f"{str(file)!r} is empty, or no CSV file in UTF-8: {error}") from error
    missing = {"harmful", "harmless"} - set(table.columns)
    if missing:
        raise ValueError(f"{str(file)!r} needs columns harmful and harmless, and has {', '.join(table.columns)}.")
    sides = {
        side: table[side].dropna().tolist() for side in ("harmful", "harmless", "borderline") if side in table.columns
    }
    return Contrast(name=file.stem, **sides)


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
    except OSError as error:
        raise ValueError(f"{str(file)!r} cannot be written: {error.strerror or error}") from error


def screen() -> Any:
    """Where tables are printed: as wide as the terminal, or wide enough in a file."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 150)


def kept(model: Any, refit: bool, draw: int | None = None) -> SCANS:
    """SCANS for this model as an earlier call has fitted it, or fitted now and kept in the user's cache folder.

    With a draw, of a random half of the anchors; knobs are chosen on the same validation prompts as ever.
    """
    from dataclasses import astuple
    from hashlib import sha256

    from scans_lens.artefacts import versions
    from scans_lens.evaluation import half
    from scans_lens.lens import default_anchors
    from scans_lens.methods.choosing import learning_prompts
    from scans_lens.methods.scans import SCANS
    from scans_lens.model import identity

    own, anchors = identity(model), default_anchors(model)
    if draw is not None:
        anchors = half(anchors, draw)
    key = sha256(f"{astuple(own)[:5]} {anchors.digest} {versions()}".encode()).hexdigest()[:16]
    file = Path(typer.get_app_dir("scans_lens")) / f"scans-{key}.safetensors"
    if file.is_file() and not refit:
        try:
            return SCANS.load(file, model)
        except ValueError:
            typer.echo(f"What was kept in {file} cannot be read, so it is fitted again.", err=True)
    of = "" if draw is None else f" on half {draw} of the anchors"
    typer.echo(f"Fitting SCANS{of}; the next call will find it kept.", err=True)
    try:
        method = SCANS.fit(model, anchors, validation=learning_prompts(model, None, None, 0)[1])
    except ValueError as error:
        raise ValueError(f"SCANS could not be fitted{of}: {error}") from error
    try:
        method.save(file)
    except OSError:
        typer.echo(f"It could not be kept in {file}.", err=True)
    return method


def prompt_set(name: str) -> Any:
    """A prompt set of ours, a public one, or the caller's own file."""
    from scans_lens import organism, prompts

    if name in organism.KINDS:
        return organism.prompt_set(name)  # type: ignore[arg-type]
    if name in PAIRS:
        return prompts.pairs(name.removeprefix("pairs_"))
    if name in prompts.known():
        return prompts.load(name)
    if Path(name).suffix:
        found = prompts.own(name)
        if not found.labelled:
            typer.echo(
                f"{name} has no column label: all its {len(found)} prompts count as borderline (harmless).",
                err=True,
            )
        return found
    known = ", ".join([*organism.KINDS, *PAIRS, *prompts.known()])
    raise ValueError(f"There is no prompt set {name!r}: the known ones are {known}; or name a file.")
