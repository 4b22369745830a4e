"""Keeping: fits that commands make for themselves, in the user's cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from scans_lens.conversation import BARE, Asking
from scans_lens.effort import STANDARD, Effort
from scans_lens.prompts import halves

if TYPE_CHECKING:
    from scans_lens.methods.arms import Fitting, Recipe
    from scans_lens.methods.scans import SCANS
    from scans_lens.model import Model
    from scans_lens.prompts import PromptSet
    from scans_lens.world import World


def fitting(world: World, asking: Asking = BARE, effort: Effort = STANDARD, **more: Any) -> Fitting:
    """Fits for this world, kept in the user's cache; what is fitted is said."""
    from scans_lens.methods.arms import Fitting

    return Fitting(world, effort, asking=asking, said=lambda sentence: typer.echo(sentence, err=True), **more)


def world_with(model: Model, sets: Sequence[PromptSet]) -> World:
    """What belongs to the model, with halves of these sets to learn from and to choose on."""
    from scans_lens.world import world_of

    return world_of(model).with_halves(sets) if sets else world_of(model)


def loaded_fits(files: Mapping[str, Path], model: Model, world: World | None = None) -> dict[str, Any]:
    """What `fit` has saved in these files, by the name of the method.

    Args:
        world: whose `learned_from` is not asked in what follows.

    Raises:
        ValueError: a method that keeps nothing of its own, a file of another method or model, or a fit that has learned
            from halves of benchmarks that the world would ask.
    """
    found = {name: recipe_with_a_file(name).kind.load(file, model) for name, file in files.items()}
    spared = halves.named_in(world.validation.name) if world is not None else ""
    for name, fit in found.items():
        told = halves.named_in(str(fit))
        if world is not None and told and told != spared:
            sets = ",".join(f"{one}:{size}" for one, size in halves.sets_in(told).items())
            raise ValueError(
                f"{name} has learned from {told}, which would be asked: give --halves {sets}, so that only the other "
                "halves are."
            )
    return found


def recipe_with_a_file(name: str) -> Recipe:
    """How this method is made, if it learns something of its own that can be kept in a file.

    Raises:
        ValueError: it does not.
    """
    from scans_lens.methods import catalogue

    recipe = catalogue.recipe(name)
    if recipe.kind is None:
        why = f"it uses what {recipe.shares} has learned" if recipe.shares else "it learns nothing"
        raise ValueError(f"Of {name} there is nothing to keep in a file: {why}.")
    return recipe


def kept(
    world: World, refit: bool = False, draw: int | None = None, asking: Asking = BARE, effort: Effort = STANDARD
) -> SCANS:
    """SCANS for this model as an earlier call has fitted it, or fitted now and kept in the user's cache folder.

    With a draw, of a random half of the anchors; knobs are chosen on the same validation prompts as ever.

    Raises:
        ValueError: it could not be fitted.
    """
    from scans_lens.evaluation import half
    from scans_lens.methods.arms import fitted

    if draw is not None:
        world = replace(world, anchors=half(world.anchors, draw))
    fit = fitted(fitting(world, asking, effort, again=refit), "scans")
    if fit.arm is None:
        of = ("" if draw is None else f" on half {draw} of the anchors") + (f" with {asking}" if asking else "")
        raise ValueError(f"SCANS could not be fitted{of}: {fit.knobs}")
    return fit.learned
