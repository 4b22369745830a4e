"""Refusal direction: the one line along which a model refuses, found by trying every candidate, and taken out or added.

Arditi et al.: Refusal in Language Models Is Mediated by a Single Direction. NeurIPS 2024, arXiv 2406.11717. What the
paper leaves open is as in its released code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from scans_lens import artefacts
from scans_lens.artefacts import EVERYWHERE, Artefact, Use
from scans_lens.conversation import BARE, Asking
from scans_lens.directions import Origin, added, origin_of
from scans_lens.flight import Flight
from scans_lens.judges import Judge
from scans_lens.methods.arms import Recipe
from scans_lens.methods.candidates import (
    SITES,
    TRAINING,
    VALIDATION,
    NoDirection,
    Trying,
    ablating,
    adding,
    differences,
    grid,
    on_its_side,
    openings,
    places,
    require_own,
    spread,
    tail_means,
    taken_out,
)
from scans_lens.model import Hook, Identity, Model
from scans_lens.prompts import Contrast
from scans_lens.steering import Method, Rows
from scans_lens.world import world_of

ARMS = {
    "ablation": "the refusal direction ablated (2406.11717)",
    "addition": "the refusal direction subtracted (2406.11717)",
}


@dataclass(frozen=True)
class Filters:
    """What a candidate must do to be kept; the paper's values (its appendix C)."""

    most_kl: float = 0.1
    """Nats by which harmless replies may change."""
    least_induce: float = 0.0
    """Refusal score, in nats, that harmless prompts must get with the candidate added."""
    last: float = 0.2
    """Share of the depth, at its end, whose layers give no candidates."""

    def first_late(self, n: int) -> int:
        """The first of the last layers, of `n`."""
        return int(n * (1.0 - self.last) + 1e-9)


@dataclass(frozen=True)
class Trial:
    """What one candidate did on validation prompts."""

    position: int
    """Of the token that it was read at, from the end of the prompt: -1 is the last."""
    layer: int
    """It was read at this layer's `hook_resid_pre`."""
    bypass: float
    """Mean refusal score of harmful prompts with the candidate taken out, in nats; the lower, the better."""
    induce: float
    """Mean refusal score of harmless prompts with it added once at its layer, in nats."""
    kl: float
    """Mean KL(plain || ablated) of the first reply token on harmless prompts, in nats."""
    kept: bool
    """Whether it passed every filter."""


# ── The two methods ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class DirectionalAblation(Method):
    """Directional ablation: no layer can read or write along one direction (the paper's eq. 4).

    x - (x·r̂) r̂ at `hook_resid_pre`, `hook_attn_out` and `hook_mlp_out` of every layer, at every position, of the
    prompt and the reply. It is the same model as one whose embedding, attention output and MLP output weights have
    been made orthogonal to r̂ (eq. 5), but where a norm follows those, as in Gemma 2.
    """

    direction: Float[Tensor, "d_model"]
    origin: Origin
    whole_prompt: bool = True

    def decide(self, flight: Flight) -> Rows:
        """Nothing: every prompt is treated alike.

        Raises:
            ValueError: the batch is on its way through another model than the direction was found in.
        """
        require_own(self.origin, flight.model, "This direction's states")
        return {}

    def hooks_for(self, rows: Rows, flight: Flight) -> list[Hook]:
        start = 0 if self.whole_prompt else flight.end_of_prompt
        return ablating(self.direction, int(flight.model.cfg.n_layers), since=flight.since(start))


@dataclass(frozen=True)
class ActivationAddition(Method):
    """Activation addition: the raw difference of means, added where it was read (the paper's eq. 3).

    x + coefficient x r at `hook_resid_pre` of one layer, at every position, of the prompt and the reply. A coefficient
    of -1 bypasses refusal, 1 induces it.
    """

    direction: Float[Tensor, "d_model"]
    layer: int
    coefficient: float
    origin: Origin
    whole_prompt: bool = True

    def decide(self, flight: Flight) -> Rows:
        """The coefficient, for every prompt.

        Raises:
            ValueError: the batch is on its way through another model than the direction was found in.
        """
        require_own(self.origin, flight.model, "This direction's states")
        return {"scale": torch.full((len(flight.tokens),), float(self.coefficient), device=flight.tokens.ids.device)}

    def hooks_for(self, rows: Rows, flight: Flight) -> list[Hook]:
        start = 0 if self.whole_prompt else flight.end_of_prompt
        return adding(self.direction, self.layer, rows["scale"], since=flight.since(start))


# ── Finding the direction ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class RefusalDirection(Artefact):
    """A direction that was chosen among all candidates; `ablation()` and `addition(-1)` are the methods it makes."""

    KIND = "refusal direction"
    WHAT = "These refusal directions"

    candidates: Float[Tensor, "position layer d_model"]
    """Difference of means, harmful minus harmless, of every token of the template's tail (in the prompt's order) and
    at `hook_resid_pre` of every layer; raw."""
    position: int
    """Of the chosen one, from the end of the prompt: -1 is the last token."""
    layer: int
    tokens: tuple[int, ...]
    """That refusals begin with: what the refusal score counts."""
    trials: tuple[Trial, ...]
    """What every candidate did on validation prompts."""
    plain: tuple[float, float]
    """Mean refusal scores without steering: of harmful and of harmless validation prompts, in nats."""
    origin: Origin
    note: str = ""
    """What it was chosen on."""

    @property
    def direction(self) -> Float[Tensor, "d_model"]:
        """The chosen difference of means, raw."""
        return self.candidates[self.position, self.layer]

    @property
    def chosen(self) -> Trial | None:
        """What the candidate did that is in use; None where it was not tried."""
        own = (self.position, self.layer)
        return next((one for one in self.trials if (one.position, one.layer) == own), None)

    def ablation(self) -> DirectionalAblation:
        """The direction taken out of every layer; bypasses refusal."""
        return DirectionalAblation(self.direction, self._own_origin())

    def addition(self, coefficient: float) -> ActivationAddition:
        """The direction added at its layer: -1 bypasses refusal, 1 induces it."""
        return ActivationAddition(self.direction, self.layer, float(coefficient), self._own_origin())

    def at(self, position: int, layer: int) -> RefusalDirection:
        """The same with another candidate, such as one of `trials`.

        Raises:
            ValueError: there is no such candidate.
        """
        positions, layers = self.candidates.shape[:2]
        if not (-positions <= position < 0 and 0 <= layer < layers):
            raise ValueError(
                f"There is no candidate at position {position} and layer {layer}: positions are {-positions} to -1 "
                f"and layers 0 to {layers - 1}."
            )
        return replace(self, position=position, layer=layer)

    def scores(self, of: Callable[[Trial], float]) -> Float[Tensor, "position layer"]:
        """A score of every candidate, `found.scores(lambda trial: trial.bypass)`; rows in the prompt's order."""
        return grid(self.trials, self.candidates.shape[:2], of)

    def _own_origin(self) -> Origin:
        return replace(self.origin, position=f"token {self.position}, hook_resid_pre of layer {self.layer}")

    # ── Learning ──

    @classmethod
    def fit(
        cls,
        model: Model,
        contrast: Contrast | None = None,
        *,
        validation: Contrast | None = None,
        tokens: Sequence[int] | None = None,
        judge: Judge | None = None,
        training: int = TRAINING,
        tried: int = VALIDATION,
        filtered: bool = True,
        filters: Filters | None = None,
        asking: Asking = BARE,
        seed: int = 0,
        batch_size: int | None = None,
        progress: bool = True,
    ) -> RefusalDirection:
        """Try the difference of means of every token of the template's tail and every layer, and choose one.

        The refusal score of a prompt is log P - log(1 - P), P the probability that the reply begins with one of
        `tokens`. Each candidate gets three scores on validation prompts (see `Trial`), and of those that
        pass the filters, the one with the smallest bypass is taken.

        Args:
            contrast: what to learn from; by default the bundled model's own anchors for it, ours for any other.
            validation: what to choose on, never a test set; by default as in `SCANS.fit`.
            asking: how all these prompts are put: a system prompt, thinking on or off; it travels with the fit.
            tokens: that refusals begin with; by default the published ones for the paper's models, and for others
                what `refusal_openings` finds in the model's own replies to the contrast.
            judge: for that, whether a reply refuses; by default the world's.
            training, tried: prompts of each kind, spread evenly over the contrast and the validation prompts.
            filtered: whether prompts on the wrong side are left out: harmful ones with a score below 0, which the
                model answers, and harmless ones above.
            filters: by default the paper's, but for what the world says otherwise; `Filters(inf, -inf, 0)` let
                everything pass.
            seed: of what is held out, where the caller gives a contrast and no validation prompts.
            batch_size: prompts at once; by default what fits and pays.

        Raises:
            ValueError: too few prompts are left, or the model refuses none.
            NoDirection: no candidate passes the filters.
        """
        world = world_of(model)
        contrast, validation, _ = world.learning(contrast, validation, seed, asking)
        assert validation is not None
        filters = filters or Filters(**world.filters)
        sides = [spread(side, training) for side in (contrast.harmful, contrast.harmless)]
        asked = [spread(side, tried) for side in (validation.harmful, validation.harmless)]
        tokens = openings(model, sides, tokens, judge, batch_size, progress)
        if filtered:
            sides, asked = (
                [
                    on_its_side(model, texts, tokens, kind=kind, split=split, batch_size=batch_size)
                    for kind, texts in zip(("harmful", "harmless"), both, strict=True)
                ]
                for both, split in ((sides, "training"), (asked, "validation"))
            )
        means, lengths = zip(*(tail_means(model, side, batch_size, progress) for side in sides), strict=True)
        candidates = differences(means[0], means[1], lengths[1])
        trial = Trying(model, tokens, asked, batch_size)
        trials = []
        for position, layer in places(candidates, "trying candidates", progress):
            vector = candidates[position, layer]
            out, towards = trial.hooks(vector), adding(vector, layer, 1.0) if bool(vector.any()) else []
            bypass, induce, kl = trial.score(0, out), trial.score(1, towards), trial.divergence(1, out)
            early = layer < filters.first_late(candidates.shape[1])
            kept = early and kl <= filters.most_kl and induce >= filters.least_induce and bool(vector.any())
            trials.append(Trial(position, layer, bypass, induce, kl, kept))
        best = min((one for one in trials if one.kept), key=lambda one: one.bypass, default=None)
        if best is None:
            raise NoDirection(_why_none(trials, filters, candidates.shape[1]), trials)
        return cls(
            candidates=candidates.float(),
            position=best.position,
            layer=best.layer,
            tokens=tuple(tokens),
            trials=tuple(trials),
            plain=(trial.score(0, []), trial.score(1, [])),
            origin=replace(
                origin_of(model, contrast),
                n_harmful=len(sides[0]),
                n_harmless=len(sides[1]),
                position="hook_resid_pre of the template's tail",
            ),
            note=f"Chosen on {validation.name!r}.",
        )

    # ── Keeping ──

    @property
    def measured_on(self) -> Identity | None:
        return self.origin.model

    def uses(self) -> list[Use]:
        """The two methods that the chosen candidate makes, for a file's header: either is used without the other."""
        chosen = "r = candidates[position, layer]"
        n = self.candidates.shape[1]
        addition = added(
            [self.layer],
            site=f"blocks.{{layer}}.{SITES[0]}",
            positions=EVERYWHERE,
            unit="1 is the raw difference of means; -1 bypasses refusal",
            formula=f"x + coefficient * r, {chosen}",
        )
        return [*taken_out(n, f"u = r / |r|, {chosen}"), addition]

    def require_whole(self, owner: Identity | None) -> None:
        artefacts.require_layers_of(owner, "candidates", self.candidates)
        self.at(self.position, self.layer)

    def __str__(self) -> str:
        lines = [
            f"Refusal direction, learned from {self.origin.contrast!r}",
            f"  read at  token {self.position}, layer {self.layer}",
        ]
        if best := self.chosen:
            lines += [
                f"  passed   {sum(trial.kept for trial in self.trials)} of {len(self.trials)} candidates",
                f"  bypass   {best.bypass:.2f} nats (plain {self.plain[0]:.2f})",
                f"  induce   {best.induce:.2f} nats (plain {self.plain[1]:.2f})",
                f"  KL       {best.kl:.3f} nats",
            ]
        return "\n".join([*lines, f"  {self.note}"] if self.note else lines)

    __repr__ = __str__


def _why_none(trials: Sequence[Trial], filters: Filters, n: int) -> str:
    late = sum(one.layer >= filters.first_late(n) for one in trials)
    far = sum(not one.kl <= filters.most_kl for one in trials)
    weak = sum(not one.induce >= filters.least_induce for one in trials)
    return (
        f"None of {len(trials)} candidates passed the filters: {weak} do not induce refusal (least_induce: score below "
        f"{filters.least_induce:g} nats), {far} change harmless replies too much (most_kl: KL above "
        f"{filters.most_kl:g} nats), {late} lie in the last layers (last: {filters.last:.0%} of them). Relax them with "
        "filters=Filters(most_kl, least_induce, last); the error's `trials` say what each candidate did."
    )


RECIPES = {
    "ablation": Recipe(
        lambda fitting, direction: direction.ablation(),
        RefusalDirection,
        lambda fitting: RefusalDirection.fit(
            fitting.world.model, fitting.world.anchors, asking=fitting.asking, seed=fitting.seed,
            filters=Filters(**fitting.world.filters), **fitting.how(),
        ),
    ),
    "addition": Recipe(lambda fitting, direction: direction.addition(-1.0), shares="ablation"),
}  # fmt: skip
