"""Variants: SCANS that reads harmfulness elsewhere or otherwise, or pushes in proportion to what it read.

Ours, but for the place of the second: Zhao et al., LLMs Encode Harmfulness and Refusal Separately. NeurIPS 2025,
arXiv 2507.11878. Each takes a fitted SCANS, keeps its directions and layers, and chooses the other knobs again, on the
same validation prompts and by the same rule as `SCANS.fit`; `scans_one_token` changes nothing but how many tokens are
pushed. What comes back is a `SCANS`: site and phase are eq. 6's, and it is saved, loaded and explained like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from scans_lens import artefacts
from scans_lens.conversation import BARE, Prompt
from scans_lens.judges import Judge
from scans_lens.methods import choosing
from scans_lens.methods.arms import Fitting, Recipe, fitted, learned
from scans_lens.methods.choosing import SHARES, Bench
from scans_lens.methods.readers import InstructionEnd, Transitions, either_way, one_way
from scans_lens.methods.rules import SIGN, Continuous
from scans_lens.methods.scans import SCANS, voters
from scans_lens.methods.thresholds import Trial, choice, with_chosen_knobs
from scans_lens.model import Model, identity
from scans_lens.prompts import Contrast
from scans_lens.reading import collect
from scans_lens.world import world_of

ARMS = {
    "scans_centred": "SCANS, transitions minus their mean",
    "scans_instruction": "SCANS, harm read at the instruction's end",
    "scans_continuous": "SCANS, pushes in proportion to the score",
    "scans_one_token": "SCANS, its push on the last token of the prompt alone",
}


def centred(
    scans: SCANS,
    model: Model,
    contrast: Contrast | None = None,
    *,
    validation: Contrast | None = None,
    judge: Judge | None = None,
    budget: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool = True,
) -> SCANS:
    """SCANS that reads transitions `Centred`: without what harmful and harmless anchors share.

    s = mean over voting layers of cos(t - c, d_harm - c), where c is halfway between the mean transitions of the
    harmful and of the harmless anchors. All transitions share most of their length, so that the cosines of eq. 4
    crowd near 1; without what they share, d_harm - c is half the difference of means.

    Args:
        contrast, validation: as in `SCANS.fit`; give those that `scans` was fitted with.
        budget: see `SCANS.fit`.

    Raises:
        ValueError: another model than `scans` was fitted on.
    """
    return _reread(scans, model, contrast, validation, Transitions(), judge, budget, seed, batch_size, progress)


def at_instruction(
    scans: SCANS,
    model: Model,
    contrast: Contrast | None = None,
    *,
    validation: Contrast | None = None,
    judge: Judge | None = None,
    budget: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool = True,
) -> SCANS:
    """SCANS whose classifier reads the state at the last token of the user's own words (Zhao et al.'s t_inst).

    s = mean over voting layers of cos(x - c, mean of harmful x - c), where x is `resid_post` at that token, and c lies
    halfway between the means of the harmful and of the harmless anchors: the cosine with the difference of means.
    Harmfulness is said to be encoded there, and refusal only in the template's tokens behind it. No opening is needed.

    Args:
        contrast, validation: as in `SCANS.fit`; give those that `scans` was fitted with.
        budget: see `SCANS.fit`.

    Raises:
        ValueError: another model than `scans` was fitted on.
    """
    return _reread(scans, model, contrast, validation, InstructionEnd(), judge, budget, seed, batch_size, progress)


def continuous(
    scans: SCANS,
    model: Model,
    *,
    validation: Contrast | None = None,
    judge: Judge | None = None,
    budget: int | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> SCANS:
    """SCANS that pushes a prompt the less, the nearer its score is to the threshold.

    Instead of eq. 5, sigma = clip((s - T) / w, -1, 1); the width w is the median of |s - T| over the harmful
    validation prompts, so that half of them are pushed whole. The threshold is the fitted one; the scale is chosen
    again, since a push in proportion has to be larger to do the same.

    Args:
        validation: as in `SCANS.fit`; give what `scans` was fitted with.
        budget: see `SCANS.fit`.

    Raises:
        ValueError: another model than `scans` was fitted on, or no validation prompts for a model that is not ours.
    """
    _require_own(scans, model)
    if validation is None:
        _, validation, _ = world_of(model).learning(None, None, 0, scans.directions.origin.asking or BARE)
        assert validation is not None
    t_harmful = scans.transitions(model, validation.harmful, batch_size=batch_size)
    threshold, scores = scans.classifier.threshold, scans.classifier.score(t_harmful)
    width = float((scores - threshold).abs().double().median())
    ramped = replace(scans, rule=Continuous(width) if width else SIGN, scale=0.0)
    bench = Bench.of(model, validation, judge, batch_size, budget)
    missed = float((scores < threshold).double().mean())

    def tried(scale: float) -> Trial:
        return Trial(scale, missed, threshold, **bench.counts(replace(ramped, scale=scale) if scale else None))

    plain = tried(0.0)
    start = choosing.outward(_first_scales(scans), tried, plain)
    trials = choosing.refined([plain, *start], tried, bench.rounds, lambda known: choice(known)[0])
    chosen, found = choosing.lasting(trials, lambda one: replace(ramped, scale=one.scale), bench, choice)
    note = f"Threshold as fitted; width and scale chosen on {validation.name!r}. {found}".strip()
    return replace(ramped, scale=chosen.scale, trials=tuple(trials), note=note)


def _reread(
    scans: SCANS,
    model: Model,
    contrast: Contrast | None,
    validation: Contrast | None,
    reader: Transitions | InstructionEnd,
    judge: Judge | None,
    budget: int | None,
    seed: int,
    batch_size: int | None,
    progress: bool,
) -> SCANS:
    _require_own(scans, model)
    contrast, validation, note = world_of(model).learning(
        contrast, validation, seed, scans.directions.origin.asking or BARE
    )
    assert validation is not None
    bench = Bench.of(model, validation, judge, batch_size, budget, progress)

    def read(*sides: Sequence[Prompt]) -> list[Tensor]:
        return [collect(model, side, partial(either_way, reader=reader), batch_size=batch_size) for side in sides]

    held = read(bench.harmful, bench.harmless)
    classifier, chosen = voters(read(contrast.harmful, contrast.harmless), held, reader, centred=True)
    again = replace(scans, classifier=classifier, reader=chosen, scale=0.0, note=note)
    t_harmful, t_others = one_way(held, chosen)
    return with_chosen_knobs(again, bench, (t_others, t_harmful), _first_scales(scans))


def _first_scales(scans: SCANS) -> tuple[float, ...]:
    return SHARES if scans.unit == "residual norms" else (scans.scale / 2, scans.scale)


def _require_own(scans: SCANS, model: Model) -> None:
    artefacts.require_same_model(scans.measured_on, identity(model), scans.WHAT)


def _continuous(fitting: Fitting) -> SCANS:
    """It keeps the threshold that SCANS has paid for, and has what SCANS left over, or what a search takes at least."""
    scans, budget = fitting.of("scans"), fitting.budget
    if budget is not None:
        least = choosing.least(budget // (fitting.effort.settings or 1))
        budget = max(budget - fitted(fitting, "scans").replies, least)
    return continuous(scans, fitting.world.model, **{**fitting.how(), "budget": budget})


RECIPES = {
    "scans_centred": learned(
        SCANS,
        lambda fitting: centred(fitting.of("scans"), fitting.world.model, fitting.world.anchors, **fitting.chosen()),
    ),
    "scans_instruction": learned(
        SCANS,
        lambda fitting: at_instruction(
            fitting.of("scans"), fitting.world.model, fitting.world.anchors, **fitting.chosen()
        ),
    ),
    "scans_continuous": learned(SCANS, _continuous, after="scans"),
    "scans_one_token": Recipe(lambda fitting, scans: replace(scans, window=1), shares="scans"),
}
