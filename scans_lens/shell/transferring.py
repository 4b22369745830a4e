"""Transferring: the command that uses a fit on prompts that are put otherwise than those that it was learned from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from scans_lens.shell.common import (
    Backend,
    Device,
    Dtype,
    Effort,
    Name,
    Revision,
    model_named,
    require_model,
    require_prompts,
    say_of,
    screen,
    sentences,
)
from scans_lens.shell.keeping import kept

if TYPE_CHECKING:
    from scans_lens.rates import Rate
    from scans_lens.transfer import Transfer


def transfer(
    model: Name = None,
    backend: Backend = "bridge",
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    system: Annotated[
        list[str] | None, typer.Option(help="A system prompt to put prompts under; may be given several times.")
    ] = None,
    effort: Effort = "standard",
    limit: Annotated[int, typer.Option(min=8, help="Test prompts of each kind, at most.")] = 100,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Where a reply is cut.")] = 64,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows at once; by default what fits and pays.")] = None,
) -> None:
    """Fit SCANS under one way of putting prompts, use it under the other, and print both for every pair of ways.

    The ways: thinking on and off, where the model has a switch for it, else the prompt alone; and each system prompt.
    Where there is neither, a safety prompt stands for one.
    """
    with sentences():
        from scans_lens import effort as efforts

        if system:
            require_prompts(system, "System prompt")
        allowed = efforts.named(effort)
        require_model(model, backend, device, dtype, revision)

        from scans_lens.conversation import Asking
        from scans_lens.prompts import Contrast
        from scans_lens.templates import writing
        from scans_lens.transfer import across_askings
        from scans_lens.world import world_of

        loaded = model_named(model, backend, device, dtype, revision)
        world = world_of(loaded)
        switch = writing(loaded).has_thinking_switch
        ways = [Asking(thinking=True), Asking(thinking=False)] if switch else [Asking()]
        texts = system or ([] if switch else [world.safety_prompt])
        ways += [Asking(text) for text in texts]
        test = world.test
        asked = Contrast(test.name, test.harmful[:limit], test.harmless[:limit], test.borderline[:limit])
        found = across_askings(
            loaded, ways, lambda asking: kept(world, asking=asking, effort=allowed), asked,
            max_new_tokens=max_new_tokens, batch_size=batch_size,
        )  # fmt: skip
        _print(found)
        say_of(loaded)


def _print(found: Transfer) -> None:
    from rich import box
    from rich.table import Table

    table = Table(
        title="SCANS fitted and used under several ways of putting prompts; 95 % intervals",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
    )
    for column in ("prompts put", "fitted on prompts put"):
        table.add_column(column, overflow="fold")
    for column in ("AUC of the score", "borderline refused", "harmful refused", "still thinking"):
        table.add_column(column, justify="right")
    for cell in found.cells:
        auc = ""
        if cell.curves is not None:
            low, high = cell.curves.auc_interval
            auc = f"{cell.curves.auc:.3f} [{low:.3f}, {high:.3f}]"
        fitted = "(plain model)" if cell.fitted is None else str(cell.fitted)
        mark = " *" if cell.fitted == cell.used else ""
        table.add_row(
            str(cell.used), fitted + mark, auc, _share(cell.others), _share(cell.harmful), str(cell.unfinished or "")
        )
    screen().print(table)
    typer.echo("* used as it was fitted. AUC: harmful against borderline test prompts, interval by bootstrap.")
    for asking, reason in found.unfitted.items():
        typer.secho(f"Not fitted with {asking}: {reason}", fg="yellow", err=True)


def _share(rate: Rate) -> str:
    low, high = (100 * edge for edge in rate.interval)
    return f"{100 * rate.value:.1f} % [{low:.1f}, {high:.1f}] of {rate.total}"
