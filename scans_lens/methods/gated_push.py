"""Gated push: a ridge regression tells harm, and prompts on either side of it are pushed their own way.

Ours, and not SCANS (2408.11491), from which it has the push. What differs: the gate is a regression on states at the
end of the prompt, learned from harmful prompts and borderline ones like them, in place of a cosine with the mean
transition of harmful anchors; there are two thresholds, between which no prompt is pushed; a prompt unlike all that
the gate has learned from is never pushed away from refusal; and only the last token of the prompt is pushed, since the
beginning of a reply decides whether it refuses (Qi et al. 2025, arXiv 2406.05946), and the plain model writes the rest.
Layers, weights and window come from measurements on Qwen2.5-Coder-0.5B-Instruct alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from scans_lens import artefacts, steering
from scans_lens.anchoring import anchor_layers
from scans_lens.artefacts import Artefact, Use
from scans_lens.conversation import BARE, Asking, key
from scans_lens.directions import Directions, Origin, added, directions_of, origin_of
from scans_lens.effort import STANDARD, Effort
from scans_lens.errors import Refused
from scans_lens.flight import Flight
from scans_lens.judges import Judge
from scans_lens.methods import choosing
from scans_lens.methods.arms import Fitting, Recipe, learned
from scans_lens.methods.choosing import Bench
from scans_lens.methods.gating import Marks, States, Trial, loosened, with_chosen_knobs
from scans_lens.methods.ridge import RidgeGate
from scans_lens.model import Hook, Identity, Model
from scans_lens.prompts import Contrast, normalised
from scans_lens.reading import collect, readings
from scans_lens.steering import Method, Push, Rows
from scans_lens.world import World, world_of

ARMS = {
    "gated_push": "pushes whom a ridge gate calls harmless or harmful, and leaves the others",
    "gated_push_loose": "the gated push with a threshold that may cost more harmful refusals",
    "gated_push_away": "the gated push's way from refusal for all, whatever its gate says",
    "gated_push_towards": "the gated push's way to refusal for all, whatever its gate says",
}

DEPTHS = (0.5, 0.58, 0.67)
"""Where the gate reads, as shares of the depth: layers 12, 14 and 16 of 24."""
TWIN, ANCHOR = 1.0, 0.3
"""What a harmful or borderline prompt of the twins counts in learning the gate, and what any other prompt does."""
WINDOW = 1
"""Tokens that are pushed: the last one of the prompt alone. On Qwen2.5-Coder-0.5B that needs the same scale as a push
of the whole reply and leaves as many validation prompts refused, 2 of 69; the other one slides into what the harmless
anchors are about."""
LOOSE = 0.05
"""By how much harmful refusals may fall on validation prompts under `gated_push_loose`, as a share of them."""


@dataclass(frozen=True)
class GatedPush(Method, Artefact):
    """Pushes away from refusal below `low`, towards it above `high`, and not at all between.

    Site: gate and push both at `resid_post`, the gate at its few layers and the push at `layers`. Positions: the gate
    reads the last token of the prompt; what is steered is that token and the beginning of the reply, `window` tokens in
    all. Phase: decided once, in the pass of the unsteered prompt, for each row by itself.
    """

    KIND = "gated push"
    WHAT = "This gate and its directions"

    directions: Directions
    """As they are added: `scale` times these vectors, whose lengths are the layers' mean residual norms."""
    layers: tuple[int, ...]
    """Where they are added."""
    scale: float
    """In residual norms, towards refusal or away from it."""
    gate: RidgeGate
    low: float
    """Below it a prompt is pushed away from refusal, unless it is novel."""
    high: float
    """Above it a prompt is pushed towards refusal."""
    learned_from: Origin
    """What the gate was learned from: its harmless prompts are the borderline ones, too."""
    trials: tuple[Trial, ...] = ()
    """What every scale did on validation prompts; the first, of scale 0, is the plain model."""
    note: str = ""
    """How the knobs were chosen."""
    effort: Effort = STANDARD
    """What learning and choosing were allowed to take."""
    window: int | None = artefacts.later(None)
    """How many tokens are steered, the last one of the prompt among them; None is all of the reply."""

    def __post_init__(self) -> None:
        steering.require_window(self.window)

    # ── Acting ──

    @torch.no_grad()
    def decide(self, flight: Flight) -> Rows:
        """Score and variance of every row, and the scale that it gets: plus, minus or none.

        Raises:
            ValueError: the batch is on its way through another model than this was fitted on.
        """
        self.directions.origin.require(flight, self.WHAT)
        states = flight.residuals()[:, list(self.gate.layers)]
        score, variance = self.gate.score(states), self.gate.variance(states)
        rows = {"score": score, "variance": variance, "scale": self.scale * self.signs(score, variance)}
        return {name: values.float().to(states.device) for name, values in rows.items()}

    def signs(self, score: Float[Tensor, "row"], variance: Float[Tensor, "row"]) -> Float[Tensor, "row"]:
        """+1 towards refusal, -1 away from it, 0 for no push."""
        away = (score < self.low) & (variance <= self.gate.limit)
        return (score > self.high).to(score.dtype) - away.to(score.dtype)

    def hooks_for(self, rows: Rows, flight: Flight) -> list[Hook]:
        return steering.pushing(self.directions, self.layers, rows["scale"], flight, flight.end_of_prompt, self.window)

    @property
    def push(self) -> Push:
        return Push(self.directions, self.layers, self.scale, window=self.window)

    @property
    def bounds(self) -> tuple[float, ...]:
        return self.low, self.high

    @property
    def scale_unit(self) -> str:
        return "residual norms"

    # ── Learning ──

    @classmethod
    def fit(
        cls,
        model: Model,
        contrast: Contrast | None = None,
        *,
        twins: Contrast | None = None,
        validation: Contrast | None = None,
        layers: Sequence[int] | None = None,
        window: int | None = WINDOW,
        judge: Judge | None = None,
        budget: int | None = None,
        effort: Effort | None = None,
        asking: Asking = BARE,
        seed: int = 0,
        batch_size: int | None = None,
        progress: bool = True,
    ) -> GatedPush:
        """Learn directions and gate, and choose thresholds and scale on validation prompts.

        The scale is the smallest at which nearly all borderline prompts that the plain model refuses are answered when
        they are pushed away (`gating.LEFT`). `high` is a quantile of the scores of borderline and harmless prompts
        (`gating.HIGHS`), and `low` the largest threshold at which refusals of harmful prompts fall by at most one and
        a half points net of what the push towards refusal wins; that pair is taken which leaves the fewest borderline
        prompts refused. No prompt is answered twice under one scale and way; thresholds are looked up.

        Args:
            contrast: what directions are learned from, and the gate, too; by default the bundled model's own anchors
                for it, ours for any other.
            twins: harmful prompts and borderline ones like them, for the gate; by default the contrast itself where it
                has borderline prompts, else what the model's world has: its twins, or its borderline prompts beside the
                contrast's harmful ones. A world without any gives half of its validation prompts for them.
            validation: what to choose on, never a test set; by default as in `SCANS.fit`.
            layers: where to push, instead of what `anchor_layers` finds.
            window: how many tokens to push, the last one of the prompt among them; None is all of the reply.
            judge: whether a reply refuses; by default the exact one for the bundled model, the panel for any other.
            budget: replies to validation prompts that may be asked for in choosing; see `SCANS.fit`.
            effort: how many anchors, twins, validation prompts, tokens and scales it may take.
            asking: how all these prompts are put: a system prompt, thinking on or off; it travels with the fit.

        Raises:
            ValueError: there are no borderline prompts to learn from, or some are chosen on, too; a budget below three
                replies to every harmful and borderline validation prompt; layers that there are not.
            NoAnchorLayers: no layer qualifies.
        """
        n, effort = int(model.cfg.n_layers), effort or choosing.standard()
        steering.require_window(window)
        if layers is not None:  # refused here, before anything is read
            steering.add(torch.zeros(n, 1), layers, 0.0)
        contrast, twins, validation, note = _prompts(model, contrast, twins, validation, seed, asking, effort)
        bench = Bench.of(model, validation, judge, batch_size, budget, progress, effort, looks=0)
        harmful, harmless = (
            readings(model, side, batch_size=batch_size, progress=f"{word} anchors" if progress else None)
            for word, side in (("harmful", contrast.harmful), ("harmless", contrast.harmless))
        )
        directions = directions_of(model, contrast, harmful, harmless)
        if layers is None:
            layers = anchor_layers(
                model, directions, contrast=contrast, effort=effort, seed=seed, batch_size=batch_size,
                progress=progress, read=(harmful, harmless),
            )  # fmt: skip
        reads = sorted({min(round(depth * n), n - 1) for depth in DEPTHS})
        read = _reader(model, reads, batch_size, progress)
        anchored = zip(
            map(key, (*contrast.harmful, *contrast.harmless)),
            torch.cat([harmful.residuals, harmless.residuals])[:, reads],
            strict=True,
        )
        lessons, shares = lessons_of(contrast, twins)
        told, states = (*lessons.harmful, *lessons.harmless), dict(anchored)
        if more := [prompt for prompt in told if key(prompt) not in states]:
            states |= zip(map(key, more), read(more, "twins"), strict=True)
        truth = torch.arange(len(told)) < len(lessons.harmful)
        gate = RidgeGate.fit(torch.stack([states[key(prompt)] for prompt in told]), truth, shares, reads)
        marks = _marks(gate, bench, validation, read)
        high = marks.highs[-1]
        blank = cls(
            directions=directions.in_residual_norms(),
            layers=tuple(int(layer) for layer in layers),
            scale=0.0,
            gate=gate,
            low=high,
            high=high,
            learned_from=origin_of(model, lessons),
            note=note,
            effort=effort,
            window=window,
        )
        return with_chosen_knobs(blank, bench, marks)

    @property
    def chosen(self) -> Trial | None:
        """The trial that was chosen, where knobs were chosen."""
        return next((trial for trial in self.trials[1:] if trial.scale == self.scale), None)

    # ── Keeping ──

    @property
    def measured_on(self) -> Identity | None:
        return self.directions.origin.model

    def uses(self) -> list[Use]:
        """How the gate is read and a prompt is pushed, for a file's header."""
        unit = "1 is the vector as stored: as long as the layer's mean residual norm (directions.residual_norms)"
        formula = "x + sign * scale * directions.vectors[layer]; sign = 1 if score > high, -1 if score < low and "
        formula += "variance <= gate.limit, else 0"
        return [
            *self.gate.uses("gate"),
            added(self.layers, positions=artefacts.within(self.window), unit=unit, formula=formula),
        ]

    def require_whole(self, owner: Identity | None) -> None:
        self.directions.require_whole(owner)
        n_layers, width = self.directions.vectors.shape
        artefacts.require_layers("layers", self.layers, n_layers)
        self.gate.require_whole(n_layers, width)
        if not self.low <= self.high:
            raise ValueError(f"the low threshold, {self.low:g}, lies above the high one, {self.high:g}.")

    def __str__(self) -> str:
        lines = [
            f"Gated push, learned from {self.directions.origin.contrast!r}{self.directions.origin.on}",
            f"  gate       {self.gate}, learned from {self.learned_from.contrast!r}",
            f"  low        {self.low:.4f}: away from refusal below it, unless novel (variance above "
            f"{self.gate.limit:.4g})",
            f"  high       {self.high:.4f}: towards refusal above it",
            f"  layers     {', '.join(map(str, self.layers))}",
            f"  scale      {self.scale:g} residual norms, on {artefacts.within(self.window)}",
            f"  effort     {self.effort}",
        ]
        if self.directions.origin.asking:
            lines.append(f"  asked      with {self.directions.origin.asking}")
        return "\n".join([*lines, f"  {self.note}"] if self.note else lines)

    __repr__ = __str__


# ── What the gate learns from ────────────────────────────────────────────────────────────────────────────────


def twins_of(world: World, contrast: Contrast) -> Contrast:
    """The world's twins, or its borderline prompts beside the harmful prompts of the contrast.

    Raises:
        Refused: it has neither.
    """
    if world.twins is not None:
        return world.twins
    if not world.borderline:
        raise Refused("There are no borderline prompts to learn the gate from: give twins=Contrast(…) with some.")
    name = f"{contrast.name} and borderline prompts"
    return Contrast(name, contrast.harmful, contrast.harmless, world.borderline)


def lessons_of(contrast: Contrast, twins: Contrast) -> tuple[Contrast, Float[Tensor, "prompt"]]:
    """Harmful prompts and all others, each once, and what each counts, harmful ones first."""
    harmful = {key(prompt): prompt for prompt in (*twins.harmful, *contrast.harmful)}
    others = {key(prompt): prompt for prompt in (*twins.borderline, *twins.harmless, *contrast.harmless)}
    name = contrast.name if twins is contrast else f"{contrast.name} with {twins.name}"
    lessons = Contrast(name, list(harmful.values()), list(others.values()))
    paired = {key(prompt) for prompt in (*twins.harmful, *twins.borderline)}
    return lessons, torch.tensor([TWIN if each in paired else ANCHOR for each in (*harmful, *others)])


def _prompts(
    model: Model,
    contrast: Contrast | None,
    twins: Contrast | None,
    validation: Contrast | None,
    seed: int,
    asking: Asking,
    effort: Effort,
) -> tuple[Contrast, Contrast, Contrast, str]:
    """What to learn directions from, what to learn the gate from beside it, what to choose on, and a note on that."""
    world = world_of(model)
    if twins is None and not (contrast is not None and contrast.borderline):
        apart = world if world.twins is not None else world.with_borderline()
        twins, validation = twins_of(apart, contrast or apart.anchors), validation or apart.validation
    contrast, validation, note = world.learning(contrast, validation, seed, asking)
    twins = contrast if twins is None else twins.under(asking)
    if not twins.borderline:
        raise Refused(f"There are no borderline prompts to learn the gate from in {twins.name!r}: give twins=….")
    chosen_on = {normalised(prompt) for prompt in (*validation.harmful, *validation.borderline)}
    both = [prompt for prompt in (*twins.harmful, *twins.borderline) if normalised(prompt) in chosen_on]
    if both:
        raise ValueError(
            f"{len(both)} prompts would be learned from and chosen on, such as {both[0]!r}: give other ones to twins=… "
            "than to validation=…."
        )
    lessons = effort.learned(contrast)
    return lessons, lessons if twins is contrast else effort.learned(twins), effort.chosen_on(validation), note


def _of_world(fitting: Fitting) -> GatedPush:
    """From the world's twins; where it has none, from borderline prompts that are not chosen on."""
    world = fitting.world if fitting.world.twins is not None else fitting.world.with_borderline()
    how = {**fitting.chosen(), "validation": world.validation, "asking": fitting.asking, "seed": fitting.seed}
    twins = twins_of(world, world.anchors)
    return GatedPush.fit(world.model, world.anchors, twins=twins, effort=fitting.effort, **how)


def _reader(
    model: Model, layers: Sequence[int], batch_size: int | None, progress: bool
) -> Callable[[Sequence[Any], str], States]:
    """What reads the states that the gate needs, of prompts that the progress bar calls by a word."""
    return lambda prompts, word: collect(
        model, prompts, lambda flight: flight.residuals()[:, list(layers)], batch_size=batch_size,
        progress=f"reading {word}" if progress else None,
    )  # fmt: skip


def _marks(gate: RidgeGate, bench: Bench, validation: Contrast, read: Callable[[Sequence[Any], str], States]) -> Marks:
    """What the gate makes of the validation prompts, plain ones beside borderline ones."""
    held = read(bench.asked, "validation")
    spared = [gate.score(held[: len(bench.harmless)])]
    if validation.borderline and validation.harmless:
        spared.append(gate.score(read(validation.harmless, "validation")))
    return Marks.of(gate, held, torch.cat(spared))


def _loose(fitting: Fitting) -> GatedPush:
    """The same gate, push and scale, with other thresholds."""
    method: GatedPush = fitting.of("gated_push")
    world = fitting.world if fitting.world.twins is not None else fitting.world.with_borderline()
    model, validation = world.model, world.validation.under(fitting.asking)
    bench = Bench.of(
        model,
        validation,
        fitting.judge,
        fitting.batch_size,
        fitting.budget,
        fitting.progress,
        fitting.effort,
        looks=0,
    )
    read = _reader(model, method.gate.layers, fitting.batch_size, fitting.progress)
    return loosened(method, bench, _marks(method.gate, bench, validation, read), LOOSE)


RECIPES = {
    "gated_push": learned(GatedPush, _of_world),
    "gated_push_loose": learned(GatedPush, _loose),
    "gated_push_away": Recipe(lambda fitting, fit: replace(fit.push, scale=-fit.scale), shares="gated_push"),
    "gated_push_towards": Recipe(lambda fitting, fit: fit.push, shares="gated_push"),
}
