"""The bundled model from the shell: measure it, `train` it again, write its `card`, `--audit` its splits."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from scans_lens.errors import Refused
from scans_lens.organism import VALIDATION, corpus, weights
from scans_lens.shell.common import sentences, writable

MEASURED = Path(__file__).parent / "measured"
CARD = weights().parent / "card.md"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def measure(
    context: typer.Context,
    split: Annotated[str, typer.Option(help="validation or test.")] = "test",
    prompts: Annotated[int, typer.Option(min=1, help="How many of each kind, at most.")] = corpus.PROMPTS_A_SPLIT,
    audit: Annotated[bool, typer.Option("--audit", help="Recompute what the splits share, and stop there.")] = False,
) -> None:
    """Print what the bundled model does with each kind of prompt, unsteered and greedy."""
    if context.invoked_subcommand:
        return
    if audit:
        raise typer.Exit(_audit())
    if split not in corpus.SPLITS:
        raise Refused(f"No split {split!r}; the splits are {', '.join(corpus.SPLITS)}.")
    from rich.console import Console
    from rich.table import Table

    from making import card, measuring
    from scans_lens.loading import load_model

    found = measuring.behaviour(load_model(), split, prompts)  # type: ignore[arg-type]
    table = Table("what", "found, 95 % by bootstrap over items", "aim", title=f"The bundled model on {split} prompts")
    for line in found["lines"]:
        table.add_row(line["what"], card.rate(line), line["aim"])
    table.add_row("tokens of a reply", ", ".join(f"{name} {count}" for name, count in found["replies"].items()), "")
    Console(width=120).print(table)
    forms = Table(title="How alike the kinds are in form")
    rows = measuring.balance(split)  # type: ignore[arg-type]
    for key in rows[0]:
        forms.add_column(key, justify="left" if key == "kind" else "right")
    for row in rows:
        forms.add_row(*(f"{cell:.0%}" if isinstance(cell, float) else str(cell) for cell in row.values()))
    Console(width=120).print(forms)


@app.command(name="card")
def write_card(
    others: Annotated[list[Path] | None, typer.Argument(help="Folders of further trainings, shown beside it.")] = None,
    out: Annotated[Path, typer.Option(help="Where to write it.")] = CARD,
    measured: Annotated[Path, typer.Option(help="Where the numbers lie.")] = MEASURED,
    prompts: Annotated[int, typer.Option(min=1, help="How many of each kind.")] = corpus.PROMPTS_A_SPLIT,
    again: Annotated[bool, typer.Option("--again", help="Measure anew what was measured before.")] = False,
) -> None:
    """Measure the bundled model on test prompts, and how deep its refusal lies, and write its card.

    Numbers of these weights that were measured before are kept, those of further trainings, too.
    """
    for folder in others or ():
        _require_training(folder)
    writable(out)
    writable(measured / "behaviour.json")
    from making import card, measuring
    from scans_lens.loading import load_model

    own = measuring.weights_of(weights())
    model = load_model()

    def kept(name: str) -> dict[str, Any]:
        return _numbers(measured / f"{name}.json", own)

    behaviour = kept("behaviour") or {"weights": own, "split": "test", "models": {}}
    folders = {"shipped": weights(), **{other.name: other for other in others or ()}}
    for name, folder in folders.items():
        if again or name not in behaviour["models"]:
            typer.echo(f"Measuring {name} …")
            behaviour["models"][name] = measuring.behaviour(load_model(folder), "test", prompts)
            _store(measured / "behaviour.json", behaviour)
    parts = {"depth": lambda: measuring.depth(model), "steered": lambda: measuring.steered(model, "test", prompts)}
    found = {}
    for name, take in parts.items():
        found[name] = {} if again else kept(name)
        if not found[name]:
            typer.echo(f"Measuring {name} …")
            found[name] = {"weights": own, **take()}
            _store(measured / f"{name}.json", found[name])
    recipe = json.loads((weights() / "recipe.json").read_text())
    size = sum(file.stat().st_size for file in weights().iterdir())
    aside = {name: numbers for name in ("strength", "tried") if (numbers := kept(name))}
    text = card.written(recipe, size, measuring.balance("test"), behaviour, **found, **aside)
    out.write_text(text)
    typer.echo(f"Written to {out}.")


@app.command()
def strength(
    work: Annotated[Path, typer.Option(help="Where `train --work` kept the state after the first stage.")],
    out: Annotated[Path, typer.Option(help="Where the trained variations go.")],
    measured: Annotated[Path, typer.Option(help="Where the numbers go.")] = MEASURED,
    prompts: Annotated[int, typer.Option(min=1, help="Validation prompts of each kind.")] = 240,
) -> None:
    """Align the same first stage more and less strongly, and count what is refused; goes on where it was."""
    writable(measured / "strength.json")
    writable(out / "recipe.json")
    from dataclasses import replace

    from making import measuring
    from making.train import VARIATIONS, Recipe
    from making.train import train as make
    from scans_lens.loading import load_model

    own = measuring.weights_of(weights())
    recipe = Recipe()
    file = measured / "strength.json"
    found = _numbers(file, own) or {"weights": own, "rows": []}
    for name, changes in VARIATIONS.items():
        if name in (row["change"] for row in found["rows"]):
            continue
        folder = out / name.replace(" ", "_") if changes else weights()
        if not (folder / "model.safetensors").is_file():
            make(folder, replace(recipe, **changes), work)
        refused = measuring.strength(load_model(folder), prompts)
        found["rows"].append({"change": name, "refused": refused})
        _store(file, found)
    typer.echo(f"Written to {file}.")


@app.command()
def tried(
    folders: Annotated[list[Path], typer.Argument(help="Folders of trainings.")],
    measured: Annotated[Path, typer.Option(help="Where the numbers go.")] = MEASURED,
    prompts: Annotated[int, typer.Option(min=1, help="Validation prompts of each kind.")] = 600,
) -> None:
    """Measure trainings on validation prompts, so that one can be chosen; those measured before are kept."""
    for folder in folders:
        _require_training(folder)
    writable(measured / "tried.json")
    from making import measuring
    from making.train import Recipe, taught
    from scans_lens.loading import load_model

    file = measured / "tried.json"
    there = json.loads(file.read_text()) if file.is_file() else {}
    corpus_of = {"corpus": taught(Recipe(seed=0)), "prompts": {"behaviour": prompts, "steering": VALIDATION}}
    kept = {name: there.get(name) for name in corpus_of} == corpus_of
    rows = {row["weights"]: row for row in there["rows"]} if kept else {}
    for folder in folders:
        own = measuring.weights_of(folder)
        if own not in rows:
            typer.echo(f"Measuring {folder} …")
            recipe = json.loads((folder / "recipe.json").read_text())["recipe"]
            rows[own] = {"weights": own, "recipe": recipe, **measuring.trained(load_model(folder), prompts)}
        found = {"weights": measuring.weights_of(weights()), **corpus_of, "rows": list(rows.values())}
        _store(file, {**found, "missed": there.get("missed", [])})
    typer.echo(f"Written to {file}.")


def _require_training(folder: Path) -> None:
    """Refuse a folder that no training has written, before a model is loaded."""
    for name in ("config.json", "model.safetensors", "recipe.json"):
        if not (folder / name).is_file():
            raise Refused(f"The folder {str(folder)!r} holds no training: there is no {name} in it.")


def _numbers(file: Path, own: str) -> dict[str, Any]:
    """What is in the file, if it is of these weights."""
    there = json.loads(file.read_text()) if file.is_file() else {}
    return there if there.get("weights") == own else {}


def _store(file: Path, numbers: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(file.name + ".part")
    aside.write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    aside.replace(file)


def _audit() -> int:
    """How many phrases, objects and wrappers of alignment's items recur in validation and test; 0 phrases is right."""
    shared = 0
    for kind in corpus.KINDS:
        own = {split: [item for item in corpus.items(kind) if item.split == split] for split in corpus.SPLITS}
        phrases = {split: {item.phrase for item in held} for split, held in own.items()}
        wrappers = {split: {item.wrapper for item in held if item.wrapper} for split, held in own.items()}
        trained = {item.object for item in own["train"]}
        for split, others in (("validation", ("train",)), ("test", ("train", "validation"))):
            texts = sum(len(phrases[split] & phrases[other]) for other in others)
            around = sum(len(wrappers[split] & wrappers[other]) for other in others)
            new = {item.object for item in own[split]} - trained
            unseen = sum(not item.first_stage for item in own[split])
            typer.echo(
                f"{kind:<11} {split:<11} {len(own[split]):5} items: {texts} phrases and {around} wrappers shared with "
                f"{' or '.join(others)}, {len(new)} objects new to alignment, {unseen} items new to both stages"
            )
            shared += texts + around
    return 1 if shared else 0


@app.command()
def train(
    out: Annotated[Path | None, typer.Option(help="Where to write the model; the package by default.")] = None,
    work: Annotated[Path | None, typer.Option(help="Where to keep the state after the first stage.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of corpus order and weights; by default as shipped.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE of the recipe to train with, as often as you like.")
    ] = None,
) -> None:
    """Train the bundled model again, both stages, with a progress bar."""
    from making.train import recipe_with
    from making.train import train as make

    out = out or weights()
    seeded = [] if seed is None else [f"seed={seed}"]
    recipe = recipe_with([*seeded, *(change or ())])
    writable(out / "recipe.json")
    make(out, recipe, work)
    write_identity(out)
    typer.echo(f"Written to {out}.")


def write_identity(folder: Path) -> None:
    """Write what tells this model from every other beside its weights."""
    from scans_lens.loading import load_model
    from scans_lens.model import identity

    own = {**asdict(identity(load_model(folder))), "name": "scans_lens bundled"}
    (folder / "identity.json").write_text(json.dumps(own, indent=1) + "\n")


if __name__ == "__main__":
    try:
        with sentences():
            app()
    except typer.Exit as done:  # a sentence was said
        sys.exit(done.exit_code)
