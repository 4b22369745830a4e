"""Thresholds: every threshold and scale of SCANS tried on validation prompts, and the best pair chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, takewhile
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from scans_lens.methods import choosing
from scans_lens.methods.choosing import BROKEN, Bench

if TYPE_CHECKING:
    from scans_lens.methods.scans import SCANS

MISSED = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.1, 0.12, 0.15, 0.2)
"""Shares of harmful validation prompts that the threshold may take for harmless: the thresholds that are tried, which
costs no reply (see `with_chosen_knobs`).

A small push answers borderline prompts long before it answers harmful ones, so that the best threshold may well let
some harmful prompts be pushed the wrong way, as long as they stay refused.
"""
TOGETHER = 2
"""Scales that are tried side by side, which share a prefill; more might be decoded in vain, behind a broken one."""


@dataclass(frozen=True)
class Trial:
    """What one scale and one threshold did on validation prompts."""

    scale: float
    missed: float
    """Share of harmful validation prompts that the threshold may take for harmless."""
    threshold: float
    harmless: tuple[int, int]
    """Refused and all, of borderline prompts where there are some, else of harmless ones."""
    harmful: tuple[int, int]


def with_chosen_knobs(
    scans: SCANS,
    bench: Bench,
    moves: tuple[Float[Tensor, "other layer d_model"], Float[Tensor, "harmful layer d_model"]],
    grid: Sequence[float],
) -> SCANS:
    """This SCANS with the best threshold and scale.

    Each prompt is answered under both signs of each scale, where some threshold gives it that sign, and every
    threshold is then looked up rather than run.

    Args:
        moves: what the classifier reads of the bench's harmless and of its harmful prompts.
        grid: scales to try first.
    """
    score = torch.cat([scans.classifier.score(side) for side in moves]).double()
    tried = {missed: scans.classifier.calibrated(moves[1], missed=missed) for missed in MISSED}
    lowest, highest = (end(one.threshold for one in tried.values()) for end in (min, max))
    strict = tried[MISSED[0]]
    trials = [Trial(0.0, MISSED[0], strict.threshold, **bench.counts(None))]
    sides = (
        (math.inf, (score < highest).nonzero()[:, 0].tolist()),
        (-math.inf, (score >= lowest).nonzero()[:, 0].tolist()),
    )

    def tried_at(scales: Sequence[float]) -> list[Trial]:
        """Every threshold's trial at each scale that can be paid; the scales share prefill and batches."""
        scales = scales[: bench.affords(sum(len(places) for _, places in sides))]
        if not scales:
            return []
        away, towards = (
            bench.refused_under(
                [replace(scans, scale=one, classifier=replace(strict, threshold=threshold)) for one in scales],
                places,
            )
            for threshold, places in sides
        )
        found = []
        for scale, no_away, no_towards in zip(scales, away, towards, strict=True):
            for missed, one in tried.items():
                pushed = [no_towards if at >= one.threshold else no_away for at in score.tolist()]
                no = {place: side[place] for place, side in enumerate(pushed)}
                found.append(Trial(scale, missed, one.threshold, **bench.counted(no)))
        return found

    at_once = TOGETHER if math.isinf(bench.left) else 1
    floor = trials[0].harmful[0] - BROKEN * len(bench.harmful)
    for start in range(0, len(grid), at_once):
        own = tried_at(grid[start : start + at_once])
        by_scale = [own[place : place + len(tried)] for place in range(0, len(own), len(tried))]
        good = list(takewhile(lambda some: max(trial.harmful[0] for trial in some) >= floor, by_scale))
        trials += chain.from_iterable(by_scale[: len(good) + 1])  # the first that is broken is the last
        if len(good) < at_once:
            break
    for _ in range(bench.rounds):
        finer = tried_at(choosing.beside(choice(trials)[0].scale, [trial.scale for trial in trials]))
        if not finer:
            break
        trials += finer
    trials.sort(key=lambda trial: trial.scale)

    def under(trial: Trial) -> SCANS:
        return replace(scans, scale=trial.scale, classifier=tried[trial.missed])

    chosen, found = choosing.lasting(trials, under, bench, choice)
    return replace(
        scans,
        scale=chosen.scale,
        classifier=tried[chosen.missed],
        trials=tuple(trials),
        note=f"{scans.note} {found}".strip(),
    )


def choice(trials: Sequence[Trial]) -> tuple[Trial, str]:
    """The best trial; ties go to the threshold that misses fewest harmful prompts, and then to the smaller scale."""
    return choosing.best(trials, lambda trial: (trial.missed, trial.scale))
