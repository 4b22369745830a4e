"""The command line: `python -m scans_lens anchor | reply | explain | fit | evaluate | report | reproduce | …`."""

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

app = typer.Typer(
    help="Find where a chat model decides to refuse, show it, and steer it prompt by prompt.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Name = Annotated[str | None, typer.Option("--model", help="Hub name or local folder; the bundled model by default.")]
Backend = Annotated[str, typer.Option(help="bridge or hooked.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, …")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")]
Revision = Annotated[str | None, typer.Option(help="Of a hub model.")]
Pairs = Annotated[Path | None, typer.Option(help="CSV with columns harmful and harmless, perhaps borderline.")]


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


def _loaded(name: str | None, backend: str, device: str | None, dtype: str | None, revision: str | None) -> Any:
    import torch

    from scans_lens.model import load_model

    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype is not None and dtype not in kinds:
        raise ValueError(f"No dtype {dtype!r}; there are {', '.join(kinds)}.")
    return load_model(name, backend=backend, device=device, dtype=kinds[dtype] if dtype else None, revision=revision)  # type: ignore[arg-type]


def _contrast(file: Path | None) -> Contrast | None:
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


def _writable(file: Path | None) -> None:
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


def _console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 150)


@app.command()
def anchor(
    model: Name = None,
    backend: Backend = "bridge",
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    contrast: Pairs = None,
    seed: Annotated[int, typer.Option(help="Of bootstrap and label shuffles.")] = 0,
    save: Annotated[Path | None, typer.Option(help="Write the evidence as JSON.")] = None,
) -> None:
    """Print the layers in which refusal is decided, with the evidence."""
    with sentences():
        import json

        from scans_lens.directions import refusal_directions
        from scans_lens.lens import anchor_layers, default_anchors, thirds

        _writable(save)
        loaded = _loaded(model, backend, device, dtype, revision)
        chosen = _contrast(contrast) or default_anchors(loaded)
        found = anchor_layers(loaded, contrast=chosen, seed=seed)
        typer.echo(str(found))
        typer.echo(f"Next tokens that rise from harmless to harmful prompts: {_listed(found.rising)}")
        typer.echo("By third (first principal component, as in the paper's table 1):")
        for third in thirds(loaded, refusal_directions(loaded, chosen, progress=False)):
            place = f"{third.layers[0]}-{third.layers[-1]}"
            typer.echo(f"  {third.name:<7} {place:>6}  {_listed(third.tokens)}")
        if save:
            save.write_text(json.dumps(found.to_dict(), indent=1) + "\n")


def _listed(tokens: tuple[str, ...]) -> str:
    return "  ".join(repr(token)[1:-1] for token in tokens)


@app.command()
def fit(
    out: Annotated[Path, typer.Option(help="Where to write the fitted method (safetensors).")],
    model: Name = None,
    backend: Backend = "bridge",
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    preset: Annotated[str | None, typer.Option(help="paper or release; none chooses every knob on validation.")] = None,
    contrast: Pairs = None,
    validation: Pairs = None,
    abstain: Annotated[float, typer.Option(min=0.0, help="No push where the score is nearer to the threshold.")] = 0.0,
) -> None:
    """Fit SCANS and keep it; prints what every scale did on validation prompts at the chosen threshold."""
    with sentences():
        from dataclasses import replace

        from scans_lens.methods.scans import SCANS

        _writable(out)
        loaded = _loaded(model, backend, device, dtype, revision)
        scans = SCANS.fit(loaded, _contrast(contrast), validation=_contrast(validation), preset=preset)  # type: ignore[arg-type]
        scans = replace(scans, abstain=abstain)
        scans.save(out)
        typer.echo(str(scans))
        _print_trials(scans)
        typer.echo(f"Written to {out}.")


def _print_trials(scans: SCANS) -> None:
    from rich.table import Table

    from scans_lens.methods.scans import summary

    if not scans.trials:
        return
    table = Table(title="Refused on validation prompts")
    table.add_column("scale", justify="right")
    table.add_column("borderline, else harmless", justify="right")
    table.add_column("harmful", justify="right")
    for row in summary(scans):
        mark = " *" if row["scale"] == scans.scale else ""
        table.add_row(f"{row['scale']:g}{mark}", str(row["harmless"]), str(row["harmful"]))
    _console().print(table)


@app.command()
def reply(
    prompts: Annotated[list[str], typer.Argument(help="What to ask; - reads one prompt a line from standard input.")],
    model: Name = None,
    backend: Backend = "bridge",
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    scans: Annotated[
        Path | None, typer.Option(help="A fitted method, from `fit`; by default it is fitted here.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system prompt.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Where a reply is cut.")] = 256,
    refit: Annotated[bool, typer.Option("--refit", help="Do not use what an earlier call has fitted.")] = False,
) -> None:
    """Print the plain and the steered reply to each prompt side by side, with its score."""
    with sentences():
        from rich.table import Table
        from rich.text import Text

        from scans_lens import judges
        from scans_lens.generation import replies
        from scans_lens.methods.scans import SCANS

        asked = [line.strip() for line in sys.stdin if line.strip()] if prompts == ["-"] else list(prompts)
        loaded = _loaded(model, backend, device, dtype, revision)
        method = SCANS.load(scans, loaded) if scans else _kept(loaded, refit)
        plain = replies(loaded, asked, system=system, max_new_tokens=max_new_tokens)
        steered = replies(loaded, asked, method=method, system=system, max_new_tokens=max_new_tokens)
        assert steered.score is not None and steered.scale is not None
        judge = judges.judge_for(loaded)
        table = Table(show_lines=True)
        for column in ("prompt", "plain", "steered"):
            table.add_column(column, ratio=1)
        for place, prompt in enumerate(asked):
            score, scale = float(steered.score[place]), float(steered.scale[place])
            way = _way(scale)
            about = (
                f"\nscore {score:.4f}, threshold {method.classifier.threshold:.4f}: {way} ({scale:+g} {method.unit})"
            )
            cells = [Text(prompt) + Text(about, style="dim")]
            for said in (plain, steered):
                cells.append(Text(said[place]) + Text(f"\n[{judge([said[place]])[0]}]", style="dim"))
            table.add_row(*cells)
        _console().print(table)


def _way(scale: float) -> str:
    return "harmful, towards refusal" if scale > 0 else "harmless, away from refusal" if scale else "unsure, not pushed"


def _kept(model: Any, refit: bool, draw: int | None = None) -> SCANS:
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
    method = SCANS.fit(model, anchors, validation=learning_prompts(model, None, None, 0)[1])
    try:
        method.save(file)
    except OSError:
        typer.echo(f"It could not be kept in {file}.", err=True)
    return method


@app.command()
def explain(
    prompt: Annotated[str, typer.Argument(help="What the user says.")],
    model: Name = None,
    backend: Backend = "bridge",
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    scans: Annotated[Path | None, typer.Option(help="What `fit` has saved; else SCANS is fitted now.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Where a reply is cut.")] = 128,
) -> None:
    """Show why the model refuses a prompt: tokens by their projection, the score by layer, the push, both replies."""
    with sentences():
        from rich.panel import Panel
        from rich.text import Text

        from scans_lens.explain import explained
        from scans_lens.methods.scans import SCANS

        loaded = _loaded(model, backend, device, dtype, revision)
        found = explained(
            loaded, prompt, SCANS.load(scans, loaded) if scans else _kept(loaded, False), max_new_tokens=max_new_tokens
        )
        console = _console()
        middle = float(found.look.projection.mean())
        most = float((found.look.projection - middle).abs().max()) or 1.0
        line = Text()
        for token, projection in zip(found.look.tokens, found.look.projection.tolist(), strict=True):
            line.append(token.replace("\n", "⏎"), style=_shade((projection - middle) / most))
        line.append(
            f"\n\nred towards refusal, blue away from it; cosines {found.look.projection.min():+.2f} to ", style="dim"
        )
        line.append(f"{found.look.projection.max():+.2f}, coloured from their mean {middle:+.2f}", style="dim")
        console.print(Panel(line, title="every token along the refusal direction, at the steered layers"))
        bars = Text()
        for layer, cosine in enumerate(found.look.by_layer.tolist()):
            votes = layer in found.voting
            bars.append(f"layer {layer:>3} {cosine:+.4f} ", style="bold" if votes else "dim")
            bars.append("█" * round(40 * max(cosine, 0.0)) + (" votes" if votes else "") + "\n")
        way = _way(found.scale)
        bars.append(f"score {found.score:.4f}, threshold {found.threshold:.4f}: {way} ({found.scale:+g} {found.unit})")
        console.print(Panel(bars, title="how harmful the prompt looks, layer by layer"))
        for name, said, verdict in zip(("plain", "steered"), (found.plain, found.steered), found.verdicts, strict=True):
            console.print(Panel(Text(said or "(empty)"), title=f"{name}: {verdict}"))


def _shade(share: float) -> str:
    """Red for +1, blue for -1, on a ground that both a light and a dark terminal can show."""
    pale = round(235 - 150 * min(abs(share), 1.0))
    red, green, blue = (235, pale, pale) if share > 0 else (pale, pale, 235)
    return f"black on rgb({red},{green},{blue})"


@app.command()
def evaluate(
    out: Annotated[Path, typer.Option(help="Folder for the results; an interrupted run goes on there.")],
    model: Name = None,
    backend: Backend = "bridge",
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    method: Annotated[str, typer.Option(help="Names, commas between them; see above.")] = "scans",
    sets: Annotated[str | None, typer.Option(help="Names, or files with a column prompt; commas between them.")] = None,
    judge: Annotated[str | None, typer.Option(help="Names, commas between them; the first one counts.")] = None,
    judge_address: Annotated[
        str | None, typer.Option(help="One more judge, `asked`: an OpenAI-compatible address, up to /v1.")
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option(help="Its name there; alone, a hub name or folder of a chat model to load as a judge.")
    ] = None,
    scans: Annotated[Path | None, typer.Option(help="What `fit` has saved; else SCANS is fitted now.")] = None,
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
    pairs_validation and pairs_test, the public ones that `data` lists, or a file of yours. Judges: panel (the default
    for real models), trained, rules, substrings, beginnings, bundled (the default on the bundled model).
    Methods, beside the plain model: scans, constant (its push away from refusal for all), random, shuffled and
    wrong_layers (placebos of the same size), system (a safety prompt) and self_cd (that prompt subtracted).
    """
    with sentences():
        from scans_lens import evaluation, judges, organism, prompts, ranks
        from scans_lens.lens import default_anchors
        from scans_lens.methods.scans import SCANS
        from scans_lens.model import is_bundled

        wanted = [name for name in method.split(",") if name and name != evaluation.PLAIN]
        if sets is not None and not sets.strip(", "):
            raise ValueError("There are no sets to ask: --sets is empty.")
        unknown = [name for name in wanted if name not in evaluation.METHODS]
        if unknown:
            raise ValueError(f"There is no method {unknown[0]!r}: there are {', '.join(evaluation.METHODS)}.")
        judging = {name: judges.named(name) for name in judge.split(",")} if judge else None
        if judge_address and not judge_model:
            raise ValueError("An address needs the name of a model there: give --judge-model, too.")
        names = sets.split(",") if sets else None
        chosen = [_set(name) for name in names] if names else []
        loaded = _loaded(model, backend, device, dtype, revision)
        bundled = is_bundled(loaded)
        if not chosen and not bundled:
            raise ValueError("Name the sets to ask, for instance --sets xstest,oktest: `scans_lens data` lists them.")
        chosen = chosen or [organism.prompt_set(kind) for kind in organism.KINDS]
        chosen = [one if limit is None else one.first(limit) for one in chosen]
        steered = any(name in evaluation.STEERED for name in wanted)
        rank = ranks.here()
        if not rank.first:
            rank.wait()  # the first one fits, and the others read what it has kept
        fitted = None if not steered else SCANS.load(scans, loaded) if scans else _kept(loaded, False)
        drawn = [_kept(loaded, False, draw) for draw in range(anchor_draws)]
        if rank.first:
            rank.wait()
        arms = evaluation.arms(
            fitted, wanted, seed, model=loaded, contrast=default_anchors(loaded),
            safety_prompt=organism.SAFETY_PROMPT if bundled else evaluation.SAFETY_PROMPT,
        )  # fmt: skip
        arms += [evaluation.Arm(evaluation.DRAWN, own, f"half {draw}", draw) for draw, own in enumerate(drawn)]
        if judge_model:
            judging = judging or {"bundled" if bundled else "panel": judges.judge_for(loaded)}
            judging["asked"] = _asked(judge_address, judge_model, device, dtype)
        learned = [default_anchors(loaded), organism.validation() if bundled else prompts.borderline("validation")]
        if bundled and any(one.source.startswith("http") for one in chosen):
            typer.echo(
                "Public sets are outside the bundled model's world: what it says to them means little.", err=True
            )
        try:
            table = evaluation.evaluate(
                loaded, chosen, arms, out, judge=judging, max_new_tokens=max_new_tokens, batch_size=batch_size,
                learned_from=learned,
            )  # fmt: skip
        except OSError as error:
            raise ValueError(str(error)) from error
        except KeyboardInterrupt:
            typer.echo(f"Stopped. What was answered is in {out}; the same command goes on from there.", err=True)
            raise typer.Exit(130) from None
        if not rank.first:
            return
        lines = evaluation.summary(table)
        _print_summary(lines)
        for one in evaluation.spreads(lines):
            low, high = (100 * edge for edge in one.range)
            typer.echo(
                f"Refused over {one.draws} halves of the anchors, {one.set}, {one.kind}: mean {100 * one.mean:.1f} %, "
                f"standard deviation {100 * one.deviation:.1f} points, {low:.1f} to {high:.1f} %."
            )
        for name in (column for column in table.columns if column.startswith("verdict_")):
            own = name.removeprefix("verdict_")
            if (doubt := evaluation.unsure(table, own)) and doubt[0]:
                typer.echo(
                    f"The judge {own} was not sure of {doubt[0]} of {doubt[1]} verdicts; the report shows which."
                )
            if missing := sum(not isinstance(verdict, str) for verdict in table[name]):
                typer.secho(
                    f"The judge {own} gave no verdict on {missing} of {len(table)} replies; the same call asks again.",
                    fg="red",
                    err=True,
                )
        if fitted is not None:
            from scans_lens.report import audit

            audit.keep(out, loaded, fitted, batch_size=batch_size)
            audit.weigh(out, loaded, arms, learned[1].harmless[:64])
        typer.echo(f"Every reply is in {out}; `python -m scans_lens report {out}` makes a page of it.")


@app.command()
def compare(
    out: Annotated[Path, typer.Option(help="Folder for fitted methods, replies and numbers; goes on there.")],
    model: Name = None,
    backend: Backend = "bridge",
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    methods: Annotated[str | None, typer.Option(help="Names, commas between them; by default all.")] = None,
    sets: Annotated[str | None, typer.Option(help="Names, or files with a column prompt; commas between them.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Prompts of each set, at most.")] = None,
    validated: Annotated[int, typer.Option(min=8, help="Validation prompts of each kind to choose knobs on.")] = 96,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Where a reply is cut.")] = 24,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows at once; by default what fits and pays.")] = None,
) -> None:
    """SCANS beside its rivals: same anchors, same validation prompts for every knob, same questions, same judge.

    Methods: scans, scans_centred, scans_instruction, scans_continuous, constant, random, safeswitch, cast, antidote,
    caa, false_refusal, ablation, addition, self_cd, system.
    """
    with sentences():
        from scans_lens import comparison, organism
        from scans_lens.figures import drawing_comparison
        from scans_lens.model import is_bundled

        names = [name for name in methods.split(",") if name] if methods else comparison.DEFAULT
        unknown = [name for name in names if name not in comparison.WAYS]
        if unknown:
            raise ValueError(f"There is no method {unknown[0]!r}: there are {', '.join(comparison.WAYS)}.")
        chosen = [_set(name) for name in sets.split(",")] if sets else None
        loaded = _loaded(model, backend, device, dtype, revision)
        if chosen is None and limit is not None and is_bundled(loaded):
            chosen = [organism.prompt_set(kind) for kind in organism.KINDS]
        if chosen is not None and limit is not None:
            chosen = [one.first(limit) for one in chosen]
        try:
            found = comparison.compare(
                loaded, names, chosen, out=out, max_new_tokens=max_new_tokens, validated=validated,
                batch_size=batch_size,
            )  # fmt: skip
        except KeyboardInterrupt:
            typer.echo(f"Stopped. What was done is in {out}; the same command goes on from there.", err=True)
            raise typer.Exit(130) from None
        _print_comparison(found)
        drawn = drawing_comparison.write(found, out)
        typer.echo(f"Numbers: {out / 'comparison.json'}; figure: {drawn[0]}; replies: {out / 'replies'}.")


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

    fitted = {name: own for name, own in found["ways"].items() if own.get("fitted") is not False}
    kinds = list(fitted["plain"].get("refused", {}))
    refused = table("Refused (%), 95 %; * differs from plain (McNemar, exact, Holm, p < .05)", *kinds, "not beaten")
    for name, own in fitted.items():
        shares = (share(own["refused"][kind]) if kind in own.get("refused", {}) else "" for kind in kinds)
        refused.add_row(name, *shares, "yes" if own.get("front") else "")
    cost = table("What it costs, 95 %", "quiz right (%)", "perplexity", "KL (nats)", "ms a reply", "kB", "tuned on")
    for name, own in fitted.items():
        cost.add_row(
            name,
            share(own["quiz"]) if "quiz" in own else "",
            mean(own["perplexity"]) if "perplexity" in own else "",
            mean(own["kl"]) if "kl" in own else "",
            f"{1000 * own['seconds a reply']:.1f}" if "seconds a reply" in own else "",
            f"{own['stored'] / 1000:.1f}" if "stored" in own else "",
            f"{own['tuning']['replies']:,}" if own.get("tuning", {}).get("replies") else "",
        )
    for one in (refused, cost):
        _console().print(one)
    tried = table("What was tried on validation prompts; each in grid.csv", "settings", "knobs")
    tried.columns[2].justify = "left"
    for fit, own in {own["fit"]: own for own in fitted.values() if own.get("tried", {}).get("settings")}.items():
        knobs = "; ".join(f"{knob} {_values(values)}" for knob, values in own["tried"]["knobs"].items())
        tried.add_row(fit, str(own["tried"]["settings"]), knobs)
    if tried.row_count:
        _console().print(tried)
    for name, own in found["ways"].items():
        if name not in fitted:
            typer.echo(f"{name} could not be fitted: {own['knobs']}")
    typer.echo(
        "Not beaten: no other way refuses fewer borderline prompts without refusing fewer harmful ones or jailbreaks. "
        "Perplexity: of the corpus' answers; KL: at the first token, harmless prompts; ms: wall time, in a batch; kB: "
        f"to be stored; tuned on: replies judged in fitting and choosing, {found['validation']['budget']:,} at most "
        "for choosing."
    )


def _values(values: Any) -> str:
    """Values of a knob in a few words: all of them, or how many between which."""
    shown = [f"{one:g}" if isinstance(one, float) else str(one) for one in values]
    if len(shown) <= 6:
        return (" | " if any(", " in one for one in shown) else ", ").join(shown)
    return f"{shown[0]} to {shown[-1]} ({len(shown)} values)"


@app.command()
def calibrate(
    sets: Annotated[str | None, typer.Option(help="Names, or files with a column prompt; commas between them.")] = None,
    model: Name = None,
    backend: Backend = "bridge",
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    scans: Annotated[Path | None, typer.Option(help="What `fit` has saved; else SCANS is fitted now.")] = None,
    missed: Annotated[
        float, typer.Option(min=0.0, max=0.99, help="Harmful prompts that may count as harmless.")
    ] = 0.01,
    limit: Annotated[int | None, typer.Option(min=1, help="Prompts of each kind of a set, at most.")] = None,
) -> None:
    """Print where each set's harmful prompts put the threshold, how sure that is, and what it does on other sets."""
    with sentences():
        import numpy as np
        from rich import box
        from rich.table import Table

        from scans_lens import calibration, organism, prompts
        from scans_lens.methods.scans import SCANS
        from scans_lens.model import is_bundled
        from scans_lens.prompts.overlaps import without

        chosen = [_set(name) for name in sets.split(",")] if sets else []
        loaded = _loaded(model, backend, device, dtype, revision)
        bundled = is_bundled(loaded)
        chosen = chosen or (
            [organism.prompt_set(kind) for kind in ("harmful", "borderline", "plain", "jailbreak")]
            if bundled
            else [prompts.pairs("test")]
        )
        fitted = SCANS.load(scans, loaded) if scans else _kept(loaded, False)
        own = organism.validation() if bundled else prompts.borderline("validation")
        sides = {"validation": (own.harmful, (*own.borderline, *own.harmless))}
        for one in chosen:
            shown, _ = without(one if limit is None else one.first(limit), [])
            sides[one.name] = (shown.harmful, (*shown.borderline, *shown.harmless))

        def scored(texts: Any) -> Any:
            if not texts:
                return np.empty(0)
            return fitted.classifier.score(fitted.transitions(loaded, texts)).double().cpu().numpy()

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
        _console().print(table)
        typer.echo("Intervals are 95 %: of thresholds over resampled prompts, of rates Clopper and Pearson's.")
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


@app.command()
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
) -> None:
    """Measure the tables of the SCANS paper on a model, beside the paper's numbers where it is one of the paper's."""
    with sentences():
        from rich import box
        from rich.table import Table

        from scans_lens import reproduce as reproduction

        for number in table or []:
            if number not in reproduction.TABLES:
                known = ", ".join(map(str, reproduction.TABLES))
                raise ValueError(f"The paper has no table {number}: there are {known}.")
        _writable(out / "tables.json")
        made = reproduction.Reproduction(_loaded(model, backend, device, dtype, revision), out, draws, limit)
        sheets = []
        for number in table or reproduction.TABLES:
            sheet = made.sheet(number)
            sheets.append(sheet)
            shown = Table(title=f"Table {number}: {sheet.title}", box=box.SIMPLE_HEAD, padding=(0, 1))
            for place, column in enumerate(sheet.head):
                shown.add_column(column, no_wrap=place < 2 or number > 1, justify="left" if place < 2 else "right")
            for row in sheet.rows:
                shown.add_row(*row, style="dim" if row[1] == "paper" else "")
            _console().print(shown)
            for note in sheet.notes:
                typer.echo(note)
            page = reproduction.write(made, sheets)
        typer.echo(f"Written to {page}.")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder that `evaluate` has written.")],
    out: Annotated[Path | None, typer.Option(help="The HTML file; report.html in that folder by default.")] = None,
    judge: Annotated[str | None, typer.Option(help="Whose verdicts count; the run's first judge by default.")] = None,
) -> None:
    """Write a run's results as one HTML file that opens by a double click."""
    with sentences():
        from scans_lens import report as pages

        _writable(out)
        typer.echo(f"Written to {pages.write(run, out, judge)}.")


@app.command()
def label(
    run: Annotated[Path, typer.Argument(help="Folder that `evaluate` has written.")],
    n: Annotated[int, typer.Option(min=1, help="How many replies.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
) -> None:
    """Write replies to be judged by hand; `report` reads the labels from there as one more judge, people."""
    with sentences():
        import csv

        from scans_lens.report import labels

        file = labels.export(run, n, seed)
        with file.open(encoding="utf-8", newline="") as lines:
            written = sum(1 for _ in csv.reader(lines)) - 1
        typer.echo(
            f"{written} replies, every way's to each prompt. Fill the column label of {file} with refused, answered, "
            "partial or degenerate; then `report` again."
        )


_PAIRS = ("pairs_validation", "pairs_test")


def _asked(address: str | None, model: str, device: str | None, dtype: str | None) -> Any:
    """Another model as a judge; a key for an address comes from the environment."""
    import os

    from scans_lens.judges import asked

    if address:
        return asked.address(address, model, key=os.environ.get("SCANS_LENS_JUDGE_KEY"))
    return asked.model_here(_loaded(model, "bridge", device, dtype, None))


def _set(name: str) -> Any:
    """A prompt set of ours, a public one, or the caller's own file."""
    from scans_lens import organism, prompts

    if name in organism.KINDS:
        return organism.prompt_set(name)  # type: ignore[arg-type]
    if name in _PAIRS:
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
    known = ", ".join([*organism.KINDS, *_PAIRS, *prompts.known()])
    raise ValueError(f"There is no prompt set {name!r}: the known ones are {known}; or name a file.")


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
            change, p = f"{100 * line.against_plain.difference:+.1f}", f"{line.p:.2g}"
        about = [str(getattr(line, name) or "") for name in shown]
        asked = line.set if line.set in (line.kind, "plain", "quiz", "jailbreak") else f"{line.set}, {line.kind}"
        table.add_row(asked, f"{line.method} {line.setting}".strip(), refused, change, p, *about)
    _console().print(table)


@app.command(name="judges")
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

        _writable(save)
        _writable(train)
        replies = labelled.xstest_replies()
        found = labelled.left_out(replies, lambda parts: tqdm(parts, desc="judging", unit="part", leave=False))
        title = "Judges against two people's labels of replies to XSTest; 95 % intervals"
        table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1))
        wide = _console().width >= 120
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
        _console().print(table)
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


@app.command()
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
        _console().print(table)
        folder = f"{prompts.FOLDER_VARIABLE} is {named!r}" if named else f"{prompts.FOLDER_VARIABLE} is not set"
        typer.echo(f"{folder}. What is not there is fetched from its public place when it is asked for.")


@app.command()
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

        found = [_contrast(contrast)] if contrast else []
        if sets:
            chosen = [without(_set(name), [])[0] for name in sets.split(",")]
            harmful = [prompt for one in chosen for prompt in one.harmful]
            others = [prompt for one in chosen for prompt in (*one.borderline, *one.harmless)]
            found.append(prompts.Contrast(" and ".join(one.name for one in chosen), harmful, others))
        for one in found or [prompts.anchors()]:
            assert one is not None
            typer.echo(f"{one.name}\n{confounds(one)}\n")


@app.command()
def check(
    model: Name = None,
    backend: Backend = "bridge",
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
) -> None:
    """Try the laws on your own model; exit status 1 when one fails."""
    with sentences():
        from rich.table import Table
        from rich.text import Text

        from scans_lens.check import laws, positions

        loaded = _loaded(model, backend, device, dtype, revision)
        findings = laws(loaded)
        table = Table("law", "measured", "holds")
        for finding in findings:
            table.add_row(
                finding.law, Text(finding.measured), "yes" if finding.ok else Text("FAILED", style="bold red")
            )
        _console().print(table)
        where = Table("id", "token", "part", title="Where the template's positions lie")
        for token, text, part in positions(loaded):
            where.add_row(str(token), Text(repr(text)[1:-1]), part)
        _console().print(where)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
