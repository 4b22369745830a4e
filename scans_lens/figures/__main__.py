"""`python -m scans_lens.figures`: measure a model and draw every figure, or draw again what was measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm

from scans_lens import figures
from scans_lens.errors import is_ours
from scans_lens.figures.catalogue import FROM_A_RUN, NAMES
from scans_lens.figures.runs import Runs
from scans_lens.shell.common import Dtype, model_named, require_model, sentences, writable

REDUCED = 24
"""Prompts of a kind where a quick look is enough."""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="More names for --only.")] = None,
    model: Annotated[str | None, typer.Option(help="A hub name or a folder; the bundled model by default.")] = None,
    dtype: Dtype = None,
    scans: Annotated[Path | None, typer.Option(help="What `fit` has saved; else SCANS is fitted now.")] = None,
    out: Annotated[Path, typer.Option(help="Where the pictures go.")] = Path("figures"),
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME...", help="Only these figures; may be repeated.")
    ] = None,
    draw_only: Annotated[bool, typer.Option("--draw-only", help="Draw from measured numbers; needs no model.")] = False,
    measured: Annotated[
        Path | None,
        typer.Option(
            help="Where measured numbers lie; by default OUT/measured, or to draw from, else those kept in figures/."
        ),
    ] = None,
    prompts: Annotated[int | None, typer.Option(min=4, help="At most so many prompts of a kind.")] = None,
    reduced: Annotated[bool, typer.Option("--reduced", help=f"A quick look: --prompts {REDUCED}.")] = False,
    seed: Annotated[int, typer.Option(help="Of resampling, placebos and splits.")] = 0,
    compared: Annotated[
        Path | None, typer.Option(help="What `python -m scans_lens compare --out` has filled; for the comparison.")
    ] = None,
    evaluated: Annotated[
        Path | None,
        typer.Option(help="What `evaluate --out` has filled; for benchmarks and ceilings."),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure anew what was measured before.")] = False,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Prompts at once.")] = None,
) -> None:
    """Measure a model and draw every figure.

    Numbers are written to OUT/measured/NAME.json as each figure is done, so an interrupted run goes on where it was.
    """
    console = Console()
    with sentences(1):
        wanted = [figures.known(name) for name in _split([*(only or []), *(names or [])])]
        numbers = measured or _kept(out, wanted or list(NAMES), draw_only)
        runs = Runs(compared, evaluated)
        wanted = wanted or [
            name for name in NAMES if name not in FROM_A_RUN or _is_in(numbers, name) or _run(name, runs)
        ]
        if not draw_only and any(name not in FROM_A_RUN for name in wanted):
            require_model(model, "bridge", None, dtype, None)
            if scans is not None and not scans.is_file():
                raise ValueError(f"There is no file {str(scans)!r}.")
        if not draw_only:
            writable(numbers / f"{wanted[0]}.json")
        writable(out / f"{wanted[0]}.svg")
        rows = _all(
            wanted,
            lambda: _study(model, dtype, scans, REDUCED if reduced else prompts, seed, batch_size),
            out,
            numbers,
            draw_only,
            again,
            runs,
        )
    table = Table("figure", "what it shows", "numbers", "files", "seconds", title=None)
    table.columns[-1].justify = "right"
    for name, state, files, seconds in rows:
        table.add_row(name, figures.ABOUT[name], state, files, f"{seconds:.1f}")
    table.add_row("", "", "", "together", f"{sum(row[-1] for row in rows):.1f}")
    console.print(table)
    console.print(f"Numbers: {numbers}.", soft_wrap=True, highlight=False)
    failed = [row for row in rows if not row[2]]
    for name, state, _, _ in failed:
        Console(stderr=True).print(f"{name}: {state}", style="red", markup=False, highlight=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def _kept(out: Path, wanted: list[str], draw_only: bool) -> Path:
    """Where numbers lie when nobody has said it: beside the pictures, and to draw from, else where ours are kept."""
    beside = out / "measured"
    if not draw_only or any(_is_in(beside, name) for name in wanted):
        return beside
    clone = Path(figures.__file__).parent.parent.parent / "figures" / "measured"
    places = (Path("figures") / "measured", clone)
    return next((place for place in places if any(_is_in(place, name) for name in wanted)), beside)


def _run(name: str, runs: Runs) -> Path | None:
    """The folder that this figure's numbers come from."""
    return {"compared": runs.compared, "evaluated": runs.evaluated}[FROM_A_RUN[name]]


def _is_in(folder: Path, name: str) -> bool:
    return (folder / f"{name}.json").is_file()


def _split(names: list[str]) -> list[str]:
    """Names given one by one or with commas between them, each once."""
    return list(dict.fromkeys(name.strip() for given in names for name in given.split(",") if name.strip()))


def _all(
    wanted: list[str],
    made: Callable[[], Any],
    out: Path,
    measured: Path,
    draw_only: bool,
    again: bool,
    runs: Runs,
) -> list[tuple[str, str, str, float]]:
    """Every figure's name, where its numbers came from or what went wrong, its files, and its seconds.

    The study is made when the first figure needs it.
    """
    if draw_only:
        for name in wanted:  # say at once what is missing
            figures.load(name, measured)
    study = None
    rows = []
    with tqdm(wanted, unit="figure") as bar:
        for name in bar:
            bar.set_description(name)
            start = time.monotonic()
            if draw_only:
                numbers, state = figures.load(name, measured), "as measured"
            else:
                if study is None and name not in FROM_A_RUN:
                    study = made()
                try:
                    numbers, state = _numbers(name, runs if name in FROM_A_RUN else study, measured, again)
                except ValueError as error:  # this figure cannot be; the others can
                    if not is_ours(error):
                        raise
                    rows.append((name, f"not measured: {str(error).splitlines()[0]}", "", time.monotonic() - start))
                    continue
            files = figures.save(figures.draw(name, numbers), out, name)
            rows.append((name, state, " ".join(map(str, files)), time.monotonic() - start))
    return rows


def _study(
    model: str | None, dtype: str | None, scans: Path | None, prompts: int | None, seed: int, batch_size: int | None
) -> Any:
    from scans_lens.methods.scans import SCANS

    loaded = model_named(model, "bridge", None, dtype, None)
    fitted = None if scans is None else SCANS.load(scans, loaded)
    return figures.Study.of(loaded, fitted=fitted, prompts_a_kind=prompts, seed=seed, batch_size=batch_size)


def _numbers(name: str, study: Any, folder: Path, again: bool) -> tuple[dict[str, Any], str]:
    """Those that are there, if they were measured with the same settings or by another command; else measured now."""
    from_elsewhere = name in FROM_A_RUN and _run(name, study) is None
    if from_elsewhere or not again:
        try:
            there = figures.load(name, folder)
        except ValueError:
            there = {}
        if there and (from_elsewhere or (name not in FROM_A_RUN and there["settings"] == study.settings)):
            return there, "kept"
    found = figures.measure(name, study)
    figures.store(found, folder)
    return found, "measured"


if __name__ == "__main__":
    app()
