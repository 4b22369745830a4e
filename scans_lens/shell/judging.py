"""Judging: the commands about what is there already: runs and their judges, thresholds, benchmarks and their form."""

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
    Sets,
    System,
    Thinking,
    asking_with,
    contrast_in,
    model_named,
    prompt_sets,
    require_fit,
    require_model,
    say_of,
    screen,
    sentences,
    writable,
)
from scans_lens.shell.keeping import kept


def calibrate(
    sets: Sets = None,
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
