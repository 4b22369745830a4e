"""Looking: the commands about one model: what decides refusal in it, what steering does, whether it is read rightly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from scans_lens.conversation import Asking
    from scans_lens.generation import Replies
    from scans_lens.methods.scans import SCANS
    from scans_lens.prompts import Contrast
    from scans_lens.steering import Method
    from scans_lens.world import World

from scans_lens.shell.common import (
    Backend,
    Device,
    Dtype,
    Effort,
    Fits,
    Halves,
    Name,
    Pairs,
    Revision,
    System,
    Thinking,
    asking_with,
    contrast_in,
    fits_in,
    halves_in,
    lines_of_standard_input,
    model_named,
    require_fit,
    require_model,
    require_prompts,
    say_of,
    screen,
    sentences,
    writable,
)
from scans_lens.shell.keeping import fitting, kept, loaded_fits, recipe_with_a_file, world_with


def anchor(
    model: Name = None,
    backend: Backend = "bridge",
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    contrast: Pairs = None,
    system: System = None,
    thinking: Thinking = None,
    effort: Effort = "standard",
    seed: Annotated[int, typer.Option(help="Of bootstrap and label shuffles.")] = 0,
    save: Annotated[Path | None, typer.Option(help="Write the evidence as JSON.")] = None,
) -> None:
    """Print the layers in which refusal is decided, with the evidence."""
    with sentences():
        import json

        from scans_lens import effort as efforts

        pairs, asking, allowed = contrast_in(contrast), asking_with(system, thinking), efforts.named(effort)
        require_model(model, backend, device, dtype, revision)
        writable(save)

        from scans_lens.anchoring import anchor_layers
        from scans_lens.directions import directions_of
        from scans_lens.lens import thirds
        from scans_lens.reading import readings
        from scans_lens.world import world_of

        loaded = model_named(model, backend, device, dtype, revision)
        chosen = allowed.learned(pairs or world_of(loaded).anchors).under(asking)
        harmful, harmless = (readings(loaded, side) for side in (chosen.harmful, chosen.harmless))
        directions = directions_of(loaded, chosen, harmful, harmless)
        found = anchor_layers(loaded, directions, contrast=chosen, effort=allowed, seed=seed, read=(harmful, harmless))
        typer.echo(str(found))
        typer.echo(f"Next tokens that rise from harmless to harmful prompts: {_listed(found.rising)}")
        typer.echo("By third (first principal component of unit vectors, after the paper's table 1):")
        for third in thirds(loaded, directions):
            place = f"{third.layers[0]}-{third.layers[-1]}"
            typer.echo(f"  {third.name:<7} {place:>6}  {_listed(third.tokens)}")
        if save:
            save.write_text(json.dumps(found.to_dict(), indent=1) + "\n")


def _listed(tokens: tuple[str, ...]) -> str:
    return "  ".join(repr(token)[1:-1] for token in tokens)


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
    system: System = None,
    thinking: Thinking = None,
    effort: Effort = "standard",
    method: Annotated[str, typer.Option(help="Which; `methods` lists them.")] = "scans",
    fits: Fits = None,
    halves: Halves = None,
    abstain: Annotated[float, typer.Option(min=0.0, help="No push where the score is nearer to the threshold.")] = 0.0,
) -> None:
    """Fit SCANS, or another method, and keep it; of SCANS, print what every scale did on validation prompts."""
    with sentences():
        from dataclasses import replace

        from scans_lens import effort as efforts
        from scans_lens.methods import catalogue

        catalogue.require_preset(preset)
        catalogue.require_known([method])
        if method != "scans" and (preset or abstain):
            raise ValueError(f"--preset and --abstain are SCANS', and not of {method}.")
        files = fits_in(fits)
        learned, chosen_on, asking = contrast_in(contrast), contrast_in(validation), asking_with(system, thinking)
        allowed = efforts.named(effort)
        more = halves_in(halves)
        if more and (preset or chosen_on is not None):
            other = "--preset" if preset else "--validation"
            raise ValueError(f"--halves and {other} both say what knobs are chosen on: give one of them.")
        require_model(model, backend, device, dtype, revision)
        writable(out)

        from scans_lens.methods.rules import Band
        from scans_lens.methods.scans import SCANS

        if method != "scans":
            recipe_with_a_file(method)
        loaded = model_named(model, backend, device, dtype, revision)
        if method != "scans":
            given = loaded_fits(files, loaded)  # what it starts from
            own = _learning(world_with(loaded, more), learned, chosen_on)
            typer.echo(str(_other(own, method, asking, allowed, given, out)))
            typer.echo(f"Written to {out}.")
            return
        if more:
            chosen_on = _learning(world_with(loaded, more), learned, chosen_on).validation
        scans = SCANS.fit(
            loaded, learned, validation=chosen_on, preset=preset, effort=allowed, asking=asking,  # type: ignore[arg-type]
        )  # fmt: skip
        if abstain:
            scans = replace(scans, rule=Band(abstain))
        scans.save(out)
        typer.echo(str(scans))
        _print_trials(scans)
        typer.echo(f"Written to {out}.")


def _learning(world: World, learned: Contrast | None, chosen_on: Contrast | None) -> World:
    """With the caller's prompts in place of the model's own."""
    from dataclasses import replace

    return replace(world, anchors=learned or world.anchors, validation=chosen_on or world.validation)


def _other(world: World, name: str, asking: Asking, effort: Any, given: Mapping[str, Any], out: Path) -> Any:
    """What another method has learned, from the prompts of this world, saved there."""
    from scans_lens.methods.arms import fitted

    way = fitted(fitting(world, asking, effort, again=True, given=given), name)
    if way.learned is None:
        raise ValueError(f"{name} could not be fitted: {way.knobs}")
    way.learned.save(out)
    return way.learned


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
    screen().print(table)


def reply(
    prompts: Annotated[list[str], typer.Argument(help="What to ask; - reads one prompt a line from standard input.")],
    model: Name = None,
    backend: Backend = "bridge",
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    method: Annotated[str, typer.Option(help="Which; `methods` lists them.")] = "scans",
    scans: Annotated[
        Path | None, typer.Option(help="SCANS as `fit` has saved it; by default it is fitted here.")
    ] = None,
    fits: Fits = None,
    system: System = None,
    thinking: Thinking = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Where a reply is cut.")] = 256,
    effort: Effort = "standard",
    refit: Annotated[bool, typer.Option("--refit", help="Do not use what an earlier call has fitted.")] = False,
) -> None:
    """Print the plain and the steered reply to each prompt side by side, with its score."""
    with sentences():
        from rich.table import Table
        from rich.text import Text

        from scans_lens import effort as efforts
        from scans_lens.methods import catalogue

        asked = lines_of_standard_input() if prompts == ["-"] else list(prompts)
        require_prompts(asked)
        asking, allowed = asking_with(system, thinking), efforts.named(effort)
        catalogue.require_known([method])
        files = fits_in(fits, scans)
        require_model(model, backend, device, dtype, revision)

        from dataclasses import replace

        from scans_lens.generation import replies, replies_under
        from scans_lens.methods.arms import fitted
        from scans_lens.methods.scans import SCANS
        from scans_lens.world import world_of

        loaded = model_named(model, backend, device, dtype, revision)
        world = world_of(loaded)
        way = fitted(fitting(world, asking, allowed, again=refit, given=loaded_fits(files, loaded)), method)
        if way.arm is None:
            put = f" with {asking}" if asking else ""
            raise ValueError(f"{method} could not be fitted{put}: {way.knobs}")
        steering, system_of_its_own = way.arm.method, way.arm.system
        if system_of_its_own is None:
            plain, steered = replies_under(
                loaded, asked, [None, steering], asking=asking, max_new_tokens=max_new_tokens
            )
        else:
            put = replace(asking, system=system_of_its_own)
            plain = replies(loaded, asked, asking=asking, max_new_tokens=max_new_tokens)
            steered = replies(loaded, asked, method=steering, asking=put, max_new_tokens=max_new_tokens)
        judge = world.judge
        table = Table(show_lines=True)
        for column in ("prompt", "plain", "steered"):
            table.add_column(column, ratio=1)
        for place, prompt in enumerate(asked):
            cells = [Text(prompt) + Text(_decided(steering, steered, place), style="dim")]
            for said in (plain, steered):
                cells.append(_told(said, place) + Text(f"\n[{judge([said[place]])[0]}]", style="dim"))
            table.add_row(*cells)
        screen().print(table)
        say_of(loaded, way.learned if isinstance(way.learned, SCANS) else None)


def _decided(method: Method | None, said: Replies, place: int) -> str:
    """What a method saw in a prompt, and how it was pushed; nothing where it does the same to all."""
    if said.scale is None or method is None:
        return ""
    scale = float(said.scale[place])
    pushed = f"{_way(scale)} ({scale:+g}{f' {method.scale_unit}' if method.scale_unit else ''})"
    if said.score is None:
        return f"\n{pushed}"
    bounds = " and ".join(f"{bound:.4f}" for bound in method.bounds)
    held = f", threshold{'s' if len(method.bounds) > 1 else ''} {bounds}" if bounds else ""
    return f"\nscore {float(said.score[place]):.4f}{held}: {pushed}"


def _told(said: Replies, place: int) -> Any:
    """A reply, with what was thought before it in another shade."""
    from rich.text import Text

    thought = said.thoughts[place]
    if thought is None:
        return Text(said[place])
    cut = "" if said.finished[place] else " … (the thought is not finished)"
    return Text(f"{thought}{cut}\n", style="dim italic") + Text(said[place])


def _way(scale: float) -> str:
    return "harmful, towards refusal" if scale > 0 else "harmless, away from refusal" if scale else "unsure, not pushed"


def explain(
    prompt: Annotated[str, typer.Argument(help="What the user says.")],
    model: Name = None,
    backend: Backend = "bridge",
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    scans: Annotated[Path | None, typer.Option(help="What `fit` has saved; else SCANS is fitted now.")] = None,
    system: System = None,
    thinking: Thinking = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Where a reply is cut.")] = 128,
    effort: Effort = "standard",
) -> None:
    """Show why the model refuses a prompt: tokens by their projection, the score by layer, the push, both replies."""
    with sentences():
        from rich.panel import Panel
        from rich.text import Text

        from scans_lens import effort as efforts

        require_prompts([prompt])
        asking, allowed = asking_with(system, thinking), efforts.named(effort)
        require_fit(scans)
        require_model(model, backend, device, dtype, revision)

        from scans_lens.explain import explained
        from scans_lens.methods.scans import SCANS
        from scans_lens.world import world_of

        loaded = model_named(model, backend, device, dtype, revision)
        fitted = SCANS.load(scans, loaded) if scans else kept(world_of(loaded), asking=asking, effort=allowed)
        found = explained(loaded, asking.of(prompt), fitted, max_new_tokens=max_new_tokens, progress=True)
        console = screen()
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
        say_of(loaded, fitted)


def _shade(share: float) -> str:
    """Red for +1, blue for -1, on a ground that both a light and a dark terminal can show."""
    pale = round(235 - 150 * min(abs(share), 1.0))
    red, green, blue = (235, pale, pale) if share > 0 else (pale, pale, 235)
    return f"black on rgb({red},{green},{blue})"


def check(
    model: Name = None,
    backend: Backend = "bridge",
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
) -> None:
    """Try the laws on your own model, against transformers too; exit status 1 when one fails."""
    with sentences():
        from rich.table import Table
        from rich.text import Text

        require_model(model, backend, device, dtype, revision)

        from scans_lens.check import laws, positions

        loaded = model_named(model, backend, device, dtype, revision)
        findings = laws(loaded, progress=True)
        table = Table("law", "measured", "holds")
        verdicts = {True: Text("yes"), False: Text("FAILED", style="bold red"), None: Text("not tried", style="yellow")}
        for finding in findings:
            table.add_row(finding.law, Text(finding.measured), verdicts[finding.ok])
        screen().print(table)
        where = Table("id", "token", "part", title="Where the template's positions lie")
        for token, text, part in positions(loaded):
            where.add_row(str(token), Text(repr(text)[1:-1]), part)
        screen().print(where)
        say_of(loaded)
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(1)
