"""Evaluating: the commands about sets of prompts: who is refused, by whose verdict, and how alike the sets are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scans_lens.shell.common import (
    Backend,
    Device,
    Dtype,
    Effort,
    Name,
    Pairs,
    Revision,
    System,
    Thinking,
    asking_with,
    contrast_in,
    model_named,
    names_in,
    new_folder,
    prompt_sets,
    require_fit,
    require_model,
    say_of,
    screen,
    sentences,
    writable,
)
from scans_lens.shell.keeping import fitting, kept


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
    sets: Annotated[str | None, typer.Option(help="Names, or files with a column prompt; commas between them.")] = None,
    judge: Annotated[str | None, typer.Option(help="Names, commas between them; the first one counts.")] = None,
    judge_address: Annotated[
        str | None, typer.Option(help="One more judge, `asked`: an OpenAI-compatible address, up to /v1.")
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option(help="Its name there; alone, a hub name or folder of a chat model to load as a judge.")
    ] = None,
    scans: Annotated[Path | None, typer.Option(help="What `fit` has saved; else SCANS is fitted now.")] = None,
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
) -> None:
    """Answer sets of prompts plainly and steered, write every reply, and print what was refused.

    Sets: the bundled model's own (plain, borderline, harmful, jailbreak, quiz; all of them by default on it), our
    pairs_validation and pairs_test, the public ones that `data` lists (by default on other models our pairs and those
    that are here), or a file of yours. Judges: panel (the default for real models), trained, rules, substrings,
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
        require_fit(scans)
        require_model(model, backend, device, dtype, revision)
        if out is None and processes.here().of > 1:
            raise ValueError("Several processes share this evaluation: name the folder that they write to, with --out.")
        named = prompt_sets(sets) if sets is not None else []
        chosen = named or (map(world.own_set, world.OWN_SETS) if world.may_be_bundled(model) else world.public_sets())
        chosen = [each if limit is None else each.first(limit) for each in chosen]
        own_folder = out is None
        folder = new_folder("evaluate", model) if out is None else out
        again = {"sets": [each.name for each in chosen], "max_new_tokens": max_new_tokens, "asking": asking.to_dict()}
        if heard and not judge_model:
            again["judges"] = heard
        if processes.here().first:
            table.require_free(folder, again)
        if own_folder:
            typer.echo(f"Results go to {folder}; the same command with --out {folder} goes on there.", err=True)

        from scans_lens import comparison, evaluation, queries
        from scans_lens.methods.arms import Arm, fitted
        from scans_lens.methods.scans import SCANS

        judging = {name: world.judge_named(name) for name in heard} or None
        loaded = model_named(model, backend, device, dtype, revision)
        own = world.world_of(loaded).with_borderline() if "false_refusal" in wanted else world.world_of(loaded)
        if not named and not own.bundled and world.may_be_bundled(model):
            chosen = [each if limit is None else each.first(limit) for each in own.sets]
        rank = processes.here()
        if not rank.first:
            rank.wait()  # the first one fits, and the others read what it has kept
        given = {"scans": SCANS.load(scans, loaded)} if scans else {}
        fits = fitting(own, asking, allowed, seed=seed, batch_size=batch_size, given=given)
        ways = [fitted(fits, name) for name in wanted]
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
                batch_size=batch_size, learned_from=comparison.learned_from(own), divergence=True, asking=asking,
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
            heard = name.removeprefix("verdict_")
            if (doubt := queries.unsure(rows, heard)) and doubt[0]:
                typer.echo(
                    f"The judge {heard} was not sure of {doubt[0]} of {doubt[1]} verdicts; the report shows which."
                )
            if missing := sum(not isinstance(verdict, str) for verdict in rows[name]):
                typer.secho(
                    f"The judge {heard} gave no verdict on {missing} of {len(rows)} replies; the same call asks again.",
                    fg="red",
                    err=True,
                )
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


def _asked(address: str | None, model: str, device: str | None, dtype: str | None) -> Any:
    """Another model as a judge; a key for an address comes from the environment."""
    import os

    from scans_lens.judges import asked

    if address:
        return asked.address(address, model, key=os.environ.get("SCANS_LENS_JUDGE_KEY"))
    return asked.model_here(model_named(model, "bridge", device, dtype, None))


def calibrate(
    sets: Annotated[str | None, typer.Option(help="Names, or files with a column prompt; commas between them.")] = None,
    model: Name = None,
    backend: Backend = "bridge",
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    scans: Annotated[Path | None, typer.Option(help="What `fit` has saved; else SCANS is fitted now.")] = None,
    system: System = None,
    thinking: Thinking = None,
    missed: Annotated[
        float, typer.Option(min=0.0, max=0.99, help="Harmful prompts that may count as harmless.")
    ] = 0.01,
    effort: Effort = "standard",
    limit: Annotated[int | None, typer.Option(min=1, help="Prompts of each kind of a set, at most.")] = None,
) -> None:
    """Print where each set's harmful prompts put the threshold, how sure that is, and what it does on other sets."""
    with sentences():
        from scans_lens import effort as efforts
        from scans_lens.prompts.overlaps import without

        asking, allowed = asking_with(system, thinking), efforts.named(effort)
        require_fit(scans)
        require_model(model, backend, device, dtype, revision)
        chosen = prompt_sets(sets) if sets is not None else []
        chosen = [without(one if limit is None else one.first(limit), [])[0] for one in chosen]

        import numpy as np
        from rich import box
        from rich.table import Table

        from scans_lens import calibration
        from scans_lens.methods.scans import SCANS
        from scans_lens.world import world_of

        loaded = model_named(model, backend, device, dtype, revision)
        world = world_of(loaded)
        chosen = chosen or [each for each in world.sets if each.name != "quiz"]
        fitted = SCANS.load(scans, loaded) if scans else kept(world, asking=asking, effort=allowed)
        own = world.validation
        sides = {"validation": (own.harmful, (*own.borderline, *own.harmless))}
        for one in chosen:
            shown, _ = without(one if limit is None else one.first(limit), [])
            sides[one.name] = (shown.harmful, (*shown.borderline, *shown.harmless))

        def scored(texts: Any) -> Any:
            if not texts:
                return np.empty(0)
            moves = fitted.transitions(loaded, [asking.of(text) for text in texts])
            return fitted.classifier.score(moves).double().cpu().numpy()

        scores = {name: tuple(map(scored, both)) for name, both in sides.items()}
        typer.echo(f"SCANS' own threshold: {fitted.classifier.threshold:.4f} ({fitted.classifier.calibrated_on}).")
        title = f"A threshold that takes at most {missed:.1%} of one set's harmful prompts for harmless, on every set"
        table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1))
        for column in ("calibrated on", "threshold", "tried on", "harmful missed", "harmless flagged"):
            table.add_column(column)
        last, few = None, []
        for one in calibration.transfer(scores, missed):  # type: ignore[arg-type]
            about = ("", "")
            if one.learned_on != last:
                found, last = calibration.calibrated(scores[one.learned_on][0], missed), one.learned_on
                about = (f"{last}, n {found.n}", "{:.4f} [{:.4f}, {:.4f}]".format(found.value, *found.interval))
                few += [last] if missed * found.n < 1 else []
            table.add_row(
                *about, "itself" if one.tried_on == last else one.tried_on, *map(_percent, (one.missed, one.flagged))
            )
        screen().print(table)
        typer.echo("Intervals are 95 %: of thresholds over resampled prompts, of rates Clopper and Pearson's.")
        say_of(loaded, fitted)
        if few:
            typer.echo(
                f"Too few harmful prompts to say where {missed:.1%} of them lie: {', '.join(few)}. The threshold then "
                "lies at the lowest of them, and its interval says little."
            )


def _percent(rate: Any) -> str:
    if rate is None:
        return ""
    low, high = (100 * edge for edge in rate.interval)
    return f"{100 * rate.value:.1f} % [{low:.1f}, {high:.1f}] of {rate.total}"


def report(
    run: Annotated[Path, typer.Argument(help="Folder that `evaluate` has written.")],
    out: Annotated[Path | None, typer.Option(help="The HTML file; report.html in that folder by default.")] = None,
    judge: Annotated[str | None, typer.Option(help="Whose verdicts count; the run's first judge by default.")] = None,
) -> None:
    """Write a run's results as one HTML file that opens by a double click."""
    with sentences():
        from scans_lens import table

        writable(out)
        table.require_run(run, judge)
        from scans_lens import report as pages

        typer.echo(f"Written to {pages.write(run, out, judge)}.")


def label(
    run: Annotated[Path, typer.Argument(help="Folder that `evaluate` has written.")],
    n: Annotated[int, typer.Option(min=1, help="How many replies.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
) -> None:
    """Write replies to be judged by hand; `report` reads the labels from there as one more judge, people."""
    with sentences():
        import csv

        from scans_lens import table

        table.require_run(run)
        from scans_lens.report import labels

        file = labels.export(run, n, seed)
        with file.open(encoding="utf-8", newline="") as lines:
            written = sum(1 for _ in csv.reader(lines)) - 1
        typer.echo(
            f"{written} replies, every way's to each prompt. Fill the column label of {file} with refused, answered, "
            "partial or degenerate; then `report` again."
        )


def judged(
    save: Annotated[Path | None, typer.Option(help="Write the table as JSON.")] = None,
    train: Annotated[Path | None, typer.Option(help="Teach the trained judge by all of them, and write it.")] = None,
) -> None:
    """Print how far every judge agrees with people, on replies of models that it was not taught by."""
    with sentences():
        import json
        from dataclasses import asdict

        from rich import box
        from rich.table import Table
        from tqdm.auto import tqdm

        from scans_lens.judges import labelled

        writable(save)
        writable(train)
        replies = labelled.xstest_replies()
        found = labelled.left_out(replies, lambda parts: tqdm(parts, desc="judging", unit="part", leave=False))
        title = "Judges against two people's labels of replies to XSTest; 95 % intervals"
        table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1))
        wide = screen().width >= 120
        for column in ("judge", "replies of"):
            table.add_column(column, overflow="fold")
        more = ("macro F1", "sure of", "right there") if wide else ()
        for column in ("accuracy", "balanced", "kappa", *more):
            table.add_column(column, justify="right")
        for line in found:
            low, high = line.balanced_interval
            least, most = line.kappa_interval
            accuracy = "{:.3f} [{:.3f}, {:.3f}]".format(line.accuracy.value, *line.accuracy.interval)
            balanced = f"{line.balanced:.3f} [{low:.3f}, {high:.3f}]"
            kappa = f"{line.kappa:.2f} [{least:.2f}, {most:.2f}]"
            if not wide:
                balanced, kappa = f"{line.balanced:.3f}", f"{line.kappa:.2f}"
            sure = (f"{one.value:.1%}" if one else "" for one in (line.coverage, line.accuracy_where_sure))
            rest = (f"{line.three_class:.3f}", *sure) if wide else ()
            table.add_row(line.judge, line.model, accuracy, balanced, kappa, *rest)
        screen().print(table)
        typer.echo(
            "Accuracy is of full refusals against full answers; a verdict of anything else counts as an error. What is"
            " trained was trained anew for every model and fifth of the prompts, on the others. Macro F1 is over"
            " refused, answered and partial. Where the panel says how sure it is: share of the replies, and accuracy"
            " on those."
        )
        if save:
            save.write_text(json.dumps([asdict(line) for line in found], indent=1) + "\n")
        if train:
            labelled.teach(replies).save(train)


def data() -> None:
    """List the public benchmarks: sizes, licences, and which of them are here."""
    with sentences():
        import os

        from rich.table import Table
        from rich.text import Text

        from scans_lens import prompts
        from scans_lens.prompts import tables

        named = os.environ.get(prompts.FOLDER_VARIABLE)
        table = Table("set", "prompts", "licence", "here", "where it comes from", title="Public benchmarks")
        table.columns[1].justify = "right"
        for name, source in prompts.SOURCES.items():
            here = Text("no", style="dim")
            if tables.local(source.table.files):
                try:
                    prompts.load(name)
                    here = Text("yes", style="green")
                except ValueError as error:
                    here = Text(str(error), style="red")
            table.add_row(name, str(source.size), source.licence, here, Text(source.table.place, overflow="fold"))
        screen().print(table)
        folder = f"{prompts.FOLDER_VARIABLE} is {named!r}" if named else f"{prompts.FOLDER_VARIABLE} is not set"
        typer.echo(f"{folder}. What is not there is fetched from its public place when it is asked for.")


def form(
    sets: Annotated[
        str | None, typer.Option(help="Harmful prompts of these against their others; our anchors by default.")
    ] = None,
    contrast: Pairs = None,
) -> None:
    """Print how well harmful prompts are told from harmless ones by their form alone: marks, openings, length."""
    with sentences():
        from scans_lens import prompts
        from scans_lens.prompts.confounds import confounds
        from scans_lens.prompts.overlaps import without

        found = [contrast_in(contrast)] if contrast else []
        if sets:
            chosen = [without(one, [])[0] for one in prompt_sets(sets)]
            harmful = [prompt for one in chosen for prompt in one.harmful]
            others = [prompt for one in chosen for prompt in (*one.borderline, *one.harmless)]
            found.append(prompts.Contrast(" and ".join(one.name for one in chosen), harmful, others))
        for one in found or [prompts.anchors()]:
            assert one is not None
            typer.echo(f"{one.name}\n{confounds(one)}\n")
