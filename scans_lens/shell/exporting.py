"""Exporting: the command that writes a fitted method as another program reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scans_lens.shell.common import Fits, fits_in, sentences, writable


def export(
    out: Annotated[Path, typer.Option(help="The GGUF file to write: a control vector for llama.cpp and repeng.")],
    fitted: Fits = None,
    way: Annotated[str, typer.Option(help="away (from refusal) or towards (it).")] = "away",
) -> None:
    """Write what a fitted method adds as a control vector, for every prompt alike; llama.cpp and repeng read it."""
    with sentences():
        files = fits_in(fitted)
        if len(files) != 1:
            raise ValueError("Give one method: --fitted NAME=FILE.")
        from scans_lens import exporting
        from scans_lens.methods import catalogue

        if way not in exporting.WAYS:
            raise ValueError(f"--way is {' or '.join(exporting.WAYS)}, and not {way!r}.")
        writable(out)
        ((name, file),) = files.items()
        learned = catalogue.recipe(name)
        if learned.kind is None:
            raise ValueError(f"{name} learns nothing that could be written.")
        path = exporting.control_vector(learned.kind.load(file), out, way)  # type: ignore[arg-type]
        typer.echo(f"Written to {path}. At scale 1 it pushes every prompt {way} {'from ' * (way == 'away')}refusal:")
        typer.echo(f"llama-cli -m MODEL.gguf --control-vector {path}")
