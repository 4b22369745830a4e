"""Comparing: the commands that measure much at once: SCANS beside its rivals, and the tables of its paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scans_lens.shell.common import (
    Backend,
    Device,
    Dtype,
    Effort,
    Fits,
    Halves,
    Name,
    Revision,
    Sets,
    System,
    Thinking,
    asking_with,
    fits_in,
    halves_in,
    model_named,
    names_in,
    new_folder,
    prompt_sets,
    require_model,
    screen,
    sentences,
    writable,
)
from scans_lens.shell.keeping import loaded_fits, world_with


def methods() -> None:
    """List the ways of answering that `evaluate` and `compare` know."""
    with sentences():
        from rich import box
        from rich.table import Table

        from scans_lens.methods import catalogue

        table = Table("name", "what it does", title="Ways of answering, beside the plain model", box=box.SIMPLE_HEAD)
        for name, about in catalogue.arms().items():
            table.add_row(name, about)
        screen().print(table)


TABLES = (1, 2, 3, 4, 5, 6, 7)
"""Of the paper; `reproduce` has them all."""


def compare(
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for fitted methods, replies and numbers; goes on there. By default a new one."),
    ] = None,
    model: Name = None,
    backend: Backend = "bridge",
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    methods: Annotated[str | None, typer.Option(help="Names, commas between them; by default all.")] = None,
    sets: Sets = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Prompts of each set, at most.")] = None,
    system: System = None,
    thinking: Thinking = None,
    effort: Effort = "equal",
    fits: Fits = None,
    halves: Halves = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Where a reply is cut.")] = 24,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows at once; by default what fits and pays.")] = None,
) -> None:
    """SCANS beside its rivals: same anchors, same validation prompts for every knob, same questions, same judge.

    `methods` lists what can be compared.
    """
    with sentences():
        from scans_lens import effort as efforts
        from scans_lens import table
        from scans_lens.methods import catalogue

        names = names_in(methods, "--methods") if methods is not None else list(catalogue.compared())
        catalogue.require_known(names)
        files = fits_in(fits)
        asking, allowed = asking_with(system, thinking), efforts.named(effort)
        require_model(model, backend, device, dtype, revision)
        chosen = prompt_sets(sets) if sets is not None else None
        learned = halves_in(halves)
        own_folder = out is None
        folder = new_folder("compare", model) if out is None else out
        writable(folder / "comparison.json")
        again: dict[str, Any] = {"max_new_tokens": max_new_tokens, "asking": asking.to_dict()}
        if chosen is not None:
            chosen = [each if limit is None else each.first(limit) for each in chosen]
            again["sets"] = {each.name: {"whole": each.digest} for each in chosen}
        table.require_free(folder / "replies", again)
        if own_folder:
            typer.echo(f"Results go to {folder}; the same command with --out {folder} goes on there.", err=True)

        from scans_lens import comparison
        from scans_lens.figures import comparison as figure

        loaded = model_named(model, backend, device, dtype, revision)
        own = world_with(loaded, learned)
        if chosen is None and limit is not None:
            chosen = [each.first(limit) for each in own.sets]
        try:
            found = comparison.compare(
                loaded, names, chosen, out=folder, world=own, effort=allowed, asking=asking,
                given=loaded_fits(files, loaded, own), max_new_tokens=max_new_tokens, batch_size=batch_size,
            )  # fmt: skip
        except KeyboardInterrupt:
            how = f"with --out {folder} " if own_folder else ""
            typer.echo(f"Stopped. What was done is in {folder}; the same command {how}goes on from there.", err=True)
            raise typer.Exit(130) from None
        _print_comparison(found)
        drawn = figure.write(found, folder)
        typer.echo(f"Numbers: {folder / 'comparison.json'}; figure: {drawn[0]}; replies: {folder / 'replies'}.")


def _print_comparison(found: Any) -> None:
    from rich import box
    from rich.table import Table

    def table(title: str, *columns: str) -> Table:
        made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
        made.add_column("way", overflow="fold")
        for column in columns:
            made.add_column(column, justify="right", overflow="fold")
        return made

    def share(rate: Any) -> str:
        low, high = (100 * edge for edge in rate["interval"])
        star = "*" if rate.get("p") is not None and rate["p"] < 0.05 else ""
        return f"{100 * rate['value']:.1f}{star} [{low:.0f}, {high:.0f}]"

    def mean(own: Any) -> str:
        low, high = own["interval"]
        return f"{own['value']:.3f} [{low:.3f}, {high:.3f}]"

    fitted = {name: way for name, way in found["ways"].items() if way.get("fitted") is not False}
    kinds = list(fitted["plain"].get("refused", {}))
    refused = table("Refused (%), 95 %; * differs from plain (McNemar, exact, Holm, p < .05)", *kinds, "not beaten")
    for name, way in fitted.items():
        shares = (share(way["refused"][kind]) if kind in way.get("refused", {}) else "" for kind in kinds)
        refused.add_row(name, *shares, "yes" if way.get("front") else "")
    right = list(fitted["plain"].get("right", {}))
    what = (*(f"{kind} right (%)" for kind in right), "perplexity", "KL (nats)", "ms a reply", "kB", "tuned on")
    cost = table("What it costs, 95 %", *what)
    for name, way in fitted.items():
        cost.add_row(
            name,
            *(share(way["right"][kind]) if kind in way.get("right", {}) else "" for kind in right),
            mean(way["perplexity"]) if "perplexity" in way else "",
            mean(way["kl"]) if "kl" in way else "",
            f"{1000 * way['seconds a reply']:.1f}" if "seconds a reply" in way else "",
            f"{way['stored'] / 1000:.1f}" if "stored" in way else "",
            f"{way['tuning']['replies']:,}" if way.get("tuning", {}).get("replies") else "",
        )
    for one in (refused, cost):
        screen().print(one)
    tried = table("What was tried on validation prompts; each in grid.csv", "settings", "knobs")
    tried.columns[2].justify = "left"
    for fit, own in {own["fit"]: own for own in fitted.values() if own.get("tried", {}).get("settings")}.items():
        knobs = "; ".join(f"{knob} {_values(values)}" for knob, values in own["tried"]["knobs"].items())
        tried.add_row(fit, str(own["tried"]["settings"]), knobs)
    if tried.row_count:
        screen().print(tried)
    for name, own in found["ways"].items():
        if name not in fitted:
            typer.echo(f"{name} could not be fitted: {own['knobs']}")
    typer.echo(
        "Not beaten: no other way refuses fewer borderline prompts without refusing fewer harmful ones or jailbreaks. "
        "Right: quiz questions rightly, other harmless prompts with what was asked for named. "
        "Perplexity: of the corpus' answers; KL: at the first token, harmless prompts; ms: wall time, in a batch; kB: "
        "to be stored; tuned on: replies judged in fitting and choosing"
        + (
            f", at most {budget:,} where knobs are chosen by replies."
            if (budget := found["validation"]["budget"])
            else "."
        )
    )


def _values(values: Any) -> str:
    """Values of a knob in a few words: all of them, or how many between which."""
    shown = [f"{one:g}" if isinstance(one, float) else str(one) for one in values]
    if len(shown) <= 6:
        return (" | " if any(", " in one for one in shown) else ", ").join(shown)
    return f"{shown[0]} to {shown[-1]} ({len(shown)} values)"


def reproduce(
    out: Annotated[
        Path, typer.Option(help="Folder for replies, fits, tables and the page; an interrupted run goes on.")
    ],
    model: Name = None,
    backend: Backend = "bridge",
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    table: Annotated[list[int] | None, typer.Option(help="Only this one; may be repeated.")] = None,
    draws: Annotated[int, typer.Option(min=1, help="Of 64 anchors a side.")] = 5,
    limit: Annotated[int | None, typer.Option(min=1, help="Prompts of each kind of a set, at most.")] = None,
    system: System = None,
    thinking: Thinking = None,
    effort: Effort = "standard",
) -> None:
    """Measure the tables of the SCANS paper on a model, beside the paper's numbers: its own, or Llama-2-7b's."""
    with sentences():
        from rich import box
        from rich.table import Table

        from scans_lens import effort as efforts
        from scans_lens import table as kept

        for number in table or []:
            if number not in TABLES:
                raise ValueError(f"The paper has no table {number}: there are {', '.join(map(str, TABLES))}.")
        asking, allowed = asking_with(system, thinking), efforts.named(effort)
        require_model(model, backend, device, dtype, revision)
        writable(out / "tables.json")
        for number in table or TABLES:
            for folder in sorted(out.glob(f"table-{number}/draw-*")):
                kept.require_free(folder, {"asking": asking.to_dict()})

        from scans_lens.paper import experiments, page, tables

        world = experiments.papers_world(model_named(model, backend, device, dtype, revision))
        runs = experiments.Experiments(world, out, draws, limit, effort=allowed, asking=asking)
        sheets = []
        for number in table or TABLES:
            sheet = tables.sheet(runs, number)
            sheets.append(sheet)
            shown = Table(title=f"Table {number}: {sheet.title}", box=box.SIMPLE_HEAD, padding=(0, 1))
            for place, column in enumerate(sheet.head):
                shown.add_column(column, no_wrap=place < 2 or number > 1, justify="left" if place < 2 else "right")
            for row in sheet.rows:
                shown.add_row(*row, style="" if row[1] == tables.HERE else "dim")
            screen().print(shown)
            for note in sheet.notes:
                typer.echo(note)
            written = page.write(runs, sheets)
        typer.echo(f"Written to {written}.")
