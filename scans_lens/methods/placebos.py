"""Placebos: what any push of that size would do, and the same push for all.

All of them take SCANS' fit, and change what it pushes along, where, or for whom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scans_lens.methods.arms import Arm, Fitting, Recipe
from scans_lens.methods.scans import SCANS
from scans_lens.steering import Push

ARMS = {
    "constant": "SCANS' push away from refusal for all",
    "random": "a placebo: SCANS along random directions",
    "shuffled": "a placebo: SCANS along directions learned from labels that mean nothing",
    "wrong_layers": "a placebo: SCANS in as many layers, as far from its own as there are",
}


def constant(scans: SCANS) -> Push:
    """Its push away from refusal for every prompt."""
    return Push(scans.directions, scans.layers, -scans.scale)


def random(scans: SCANS, seed: int = 0) -> SCANS:
    """Along random directions, as long as the true ones."""
    return replace(scans, directions=scans.directions.random(seed))


def wrong_layers(scans: SCANS) -> SCANS:
    """In as many layers next to each other, at that end of the model which is farther away."""
    return replace(scans, layers=elsewhere(scans.layers, len(scans.directions)))


def elsewhere(layers: Sequence[int], n: int) -> tuple[int, ...]:
    """As many of `n` layers next to each other, at that end of the model which is farther away."""
    first = 0 if min(layers) >= n - 1 - max(layers) else n - len(layers)
    return tuple(range(first, first + len(layers)))


def _shuffled(fitting: Fitting, scans: SCANS) -> Arm:
    anchors = fitting.world.anchors.under(fitting.asking)
    directions = scans.directions.shuffled(fitting.world.model, anchors, fitting.seed)
    return Arm("shuffled", replace(scans, directions=directions), seed=fitting.seed)


RECIPES = {
    "constant": Recipe(lambda fitting, scans: constant(scans), shares="scans"),
    "random": Recipe(
        lambda fitting, scans: Arm("random", random(scans, fitting.seed), seed=fitting.seed), shares="scans"
    ),
    "shuffled": Recipe(_shuffled, shares="scans"),
    "wrong_layers": Recipe(lambda fitting, scans: wrong_layers(scans), shares="scans"),
}
