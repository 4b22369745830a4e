"""Evaluating: the command that answers sets of prompts, plainly and steered, and prints who is refused."""

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
    say_of,
    screen,
    sentences,
)
from scans_lens.shell.keeping import fitting, kept, loaded_fits, world_with


def evaluate(
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the results; an interrupted run goes on there. By default a new one in runs/."),
    ] = None,
    model: Name = None,
    backend: Backend = "bridge",
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    method: Annotated[str, typer.Option(help="Names, commas between them; `methods` lists them.")] = "scans",
    sets: Sets = None,
    judge: Annotated[str | None, typer.Option(help="Names, commas between them; the first one counts.")] = None,
    judge_address: Annotated[
        str | None, typer.Option(help="One more judge, `asked`: an OpenAI-compatible address, up to /v1.")
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option(help="Its name there; alone, a hub name or folder of a chat model to load as a judge.")
    ] = None,
    scans: Annotated[Path | None, typer.Option(help="What `fit` has saved; else SCANS is fitted now.")] = None,
    fits: Fits = None,
    halves: Halves = None,
    system: System = None,
    thinking: Thinking = None,
    effort: Effort = "standard",
    limit: Annotated[int | None, typer.Option(min=1, help="Prompts of each set, at most.")] = None,
    seed: Annotated[int, typer.Option(help="Of the random directions.")] = 0,
    anchor_draws: Annotated[
        int, typer.Option(min=0, help="Fit SCANS so often again, each time on another half of its anchors.")
    ] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Where a reply is cut.")] = 128,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Prompts answered at once; by default what fits and pays.")
    ] = None,
    questions: Annotated[
        int,
        typer.Option(min=0, help="Ask so many of each subject too, and foretell texts; 0 is none."),
    ] = 0,
) -> None:
    """Answer sets of prompts plainly and steered, write every reply, and print what was refused.

    Sets: the bundled model's own (plain, borderline, harmful, jailbreak, quiz; all of them by default on it), our
    pairs_validation, pairs_test and twins, the public ones that `data` lists (by default on other models pairs_test and
    those that are here), or a file of yours. Judges: panel (the default for real models), trained, rules, substrings,
    beginnings, bundled (the default on the bundled model). `methods` lists the methods.
    """
    with sentences():
        from scans_lens import effort as efforts
        from scans_lens import processes, table, world
        from scans_lens.methods import catalogue

        wanted = names_in(method, "--method") if method.strip(", ") else []  # the plain model alone
        wanted = [name for name in wanted if name != catalogue.PLAIN]
        catalogue.require_known(wanted)
        if scans and anchor_draws:
            raise ValueError(
                "--anchor-draws fits SCANS on halves of the default anchors, and --scans names another fit: give one."
            )
        heard = names_in(judge, "--judge") if judge else []
        world.require_judges(heard)
        if judge_address and not judge_model:
            raise ValueError("An address needs the name of a model there: give --judge-model, too.")
        if judge_model and not judge_address:
            require_model(judge_model, "bridge", device, dtype, None)
        asking, allowed = asking_with(system, thinking), efforts.named(effort)
        files = fits_in(fits, scans)
        require_model(model, backend, device, dtype, revision)
        if out is None and processes.here().of > 1:
            raise ValueError("Several processes share this evaluation: name the folder that they write to, with --out.")
        named = prompt_sets(sets) if sets is not None else []
        learned = halves_in(halves)
        chosen = named or (map(world.own_set, world.OWN_SETS) if world.may_be_bundled(model) else world.public_sets())
        chosen = [each if limit is None else each.first(limit) for each in chosen]
        own_folder = out is None
        folder = new_folder("evaluate", model) if out is None else out
        again: dict[str, Any] = {"max_new_tokens": max_new_tokens, "asking": asking.to_dict()}
        again["sets"] = {each.name: {"whole": each.digest} for each in chosen}
        if heard and not judge_model:
            again["judges"] = heard
        if processes.here().first:
            table.require_free(folder, again)
        if own_folder:
            typer.echo(f"Results go to {folder}; the same command with --out {folder} goes on there.", err=True)

        from scans_lens import evaluation, queries
        from scans_lens.methods.arms import Arm, fitted
        from scans_lens.methods.scans import SCANS

        judging = {name: world.judge_named(name) for name in heard} or None
        loaded = model_named(model, backend, device, dtype, revision)
        own = world_with(loaded, learned)
        if not named and not own.bundled and world.may_be_bundled(model):
            chosen = [each if limit is None else each.first(limit) for each in own.sets]
        if questions and own.capability:
            own.capability.require()  # before anything slow
        rank = processes.here()
        if not rank.first:
            rank.wait()  # the first one fits, and the others read what it has kept
        given = loaded_fits(files, loaded, own)
        made = fitting(own, asking, allowed, seed=seed, batch_size=batch_size, given=given)
        ways = [fitted(made, name) for name in wanted]
        if ways and all(way.arm is None for way in ways):
            raise ValueError(f"{ways[0].name} could not be fitted: {ways[0].knobs}")
        for way in ways:
            if way.arm is None:
                typer.secho(f"{way.name} could not be fitted: {way.knobs}", fg="yellow", err=True)
        drawn = [kept(own, False, draw, asking, allowed) for draw in range(anchor_draws)]
        if rank.first:
            rank.wait()
        arms = [Arm(catalogue.PLAIN), *(way.arm for way in ways if way.arm is not None)]
        arms += [Arm(evaluation.DRAWN, fit, f"half {draw}", draw) for draw, fit in enumerate(drawn)]
        if judge_model:
            judging = {**(judging or own.judges), "asked": _asked(judge_address, judge_model, device, dtype)}
        if own.bundled and any(each.source.startswith("http") for each in chosen):
            typer.echo(
                "Public sets are outside the bundled model's world: what it says to them means little.", err=True
            )
        try:
            rows = evaluation.evaluate(
                loaded, chosen, arms, folder, world=own, judge=judging, max_new_tokens=max_new_tokens,
                batch_size=batch_size, learned_from=own.learned_from, divergence=True, asking=asking,
            )  # fmt: skip
        except OSError as error:
            raise ValueError(str(error)) from error
        except KeyboardInterrupt:
            how = f"with --out {folder} " if own_folder else ""
            typer.echo(
                f"Stopped. What was answered is in {folder}; the same command {how}goes on from there.", err=True
            )
            raise typer.Exit(130) from None
        if not rank.first:
            return
        lines = queries.summary(rows)
        _print_summary(lines)
        if asking:
            typer.echo(f"Asked with {asking}.")
        fit = next((way.learned for way in ways if isinstance(way.learned, SCANS)), None)
        say_of(loaded, fit)
        if unfinished := list(rows["reason"]).count(evaluation.UNFINISHED):
            typer.echo(f"{unfinished} of {len(rows)} replies were cut while still thinking, and count as degenerate.")
        for one in queries.spreads(lines):
            low, high = (100 * edge for edge in one.range)
            typer.echo(
                f"Refused over {one.draws} halves of the anchors, {one.set}, {one.kind}: mean {100 * one.mean:.1f} %, "
                f"standard deviation {100 * one.deviation:.1f} points, {low:.1f} to {high:.1f} %."
            )
        for name in (column for column in rows.columns if column.startswith("verdict_")):
            jury = name.removeprefix("verdict_")
            if (doubt := queries.unsure(rows, jury)) and doubt[0]:
                typer.echo(
                    f"The judge {jury} was not sure of {doubt[0]} of {doubt[1]} verdicts; the report shows which."
                )
            if missing := sum(not isinstance(verdict, str) for verdict in rows[name]):
                typer.secho(
                    f"The judge {jury} gave no verdict on {missing} of {len(rows)} replies; the same call asks again.",
                    fg="red",
                    err=True,
                )
        if questions and rank.first:
            from scans_lens import capability

            _print_capability(capability.measured(own, arms, folder, limit=questions))
        if fit is not None:
            from scans_lens.report import audit

            audit.keep(folder, loaded, fit, batch_size=batch_size)
            audit.weigh(folder, arms, rows)
        typer.echo(f"Every reply is in {folder}; `python -m scans_lens report {folder}` makes a page of it.")
        if own_folder:
            typer.echo(f"More of the same, or verdicts that are missing: the same command with --out {folder}.")


def _print_summary(lines: Any) -> None:
    from rich import box
    from rich.table import Table

    title = "Refused, with 95 % intervals over items; points and p (McNemar, exact, after Holm) against plain"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in ("prompts", "way"):
        table.add_column(column, overflow="fold")
    others = ("partial", "degenerate", "missing")
    shown = [name for name in others if any(getattr(line, name) for line in lines)]
    for column in ("refused", "points", "p", *("no verdict" if name == "missing" else name for name in shown)):
        table.add_column(column, justify="right", overflow="fold")
    for line in lines:
        refused, change, p = "none judged", "", ""
        if line.refused:
            low, high = (100 * edge for edge in line.refused.interval)
            refused = f"{100 * line.refused.value:.1f} % [{low:.1f}, {high:.1f}] of {line.refused.rate.total}"
        if line.against_plain:
            change, p = f"{100 * line.against_plain.difference:+.1f}", "" if line.p is None else f"{line.p:.2g}"
        about = [str(getattr(line, name) or "") for name in shown]
        asked = line.set if line.set in (line.kind, "plain", "quiz", "jailbreak") else f"{line.set}, {line.kind}"
        table.add_row(asked, f"{line.method} {line.setting}".strip(), refused, change, p, *about)
    screen().print(table)


def _print_capability(found: Any) -> None:
    from rich import box
    from rich.table import Table

    from scans_lens.capability import cells, lines

    shown = lines(found)
    first = next((line for line in shown.values() if "right" in line), None)
    if first is None:
        return
    title = (
        f"{found['questions']}, {found['limit']} of a subject ({first['right']['total']}), and perplexity a token of "
        f"{found['texts']}, {first['texts']} in all; 95 % intervals, changes against plain"
    )
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("way")
    for column in ("right (%)", "points", "perplexity", "change (%)"):
        table.add_column(column, justify="right")
    for way, line in shown.items():
        table.add_row(way, *cells(line))
    screen().print(table)


def _asked(address: str | None, model: str, device: str | None, dtype: str | None) -> Any:
    """Another model as a judge; a key for an address comes from the environment."""
    import os

    from scans_lens.judges import asked

    if address:
        return asked.address(address, model, key=os.environ.get("SCANS_LENS_JUDGE_KEY"))
    return asked.model_here(model_named(model, "bridge", device, dtype, None))
