"""False refusal: the line along which harmless prompts are refused, made to spare the true one, and taken out.

Wang, Hu, Röttger, Plank: Surgical, Cheap, and Flexible: Mitigating False Refusal in Language Models via Single Vector
Ablation. ICLR 2025, arXiv 2410.03415. The nearest rival of SCANS: no prompt is told from another, so it costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from scans_lens import artefacts
from scans_lens.artefacts import EVERYWHERE, FROM_THE_END, Artefact, Use
from scans_lens.conversation import BARE, Asking, Prompt
from scans_lens.directions import Origin, origin_of
from scans_lens.errors import Refused
from scans_lens.flight import Flight
from scans_lens.judges import Judge
from scans_lens.methods.arms import Fitting, learned
from scans_lens.methods.candidates import (
    FEWEST,
    NOTHING,
    TRAINING,
    VALIDATION,
    NoDirection,
    Trying,
    ablating,
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
from scans_lens.prompts import Contrast, normalised
from scans_lens.steering import Method, Rows
from scans_lens.world import world_of

ARMS = {"false_refusal": "the false part of refusal ablated (2410.03415)"}

MOST_KL = 0.2
"""Nats by which harmless replies may change (the paper's filter)."""
LAST = 0.2
"""Share of the depth, at its end, whose layers give no candidates (the paper's filter)."""
HALF = 31
"""Of the 63 harmless prompts of `prompts.borderline("validation")`, those that go with the half to learn from."""
ASKED = 4
"""So many times as many borderline prompts are looked through as refused ones are wanted."""


@dataclass(frozen=True)
class Trial:
    """What one candidate did on validation prompts."""

    position: int
    """Of the token that it was read at, from the end of the prompt: -1 is the last."""
    layer: int
    """It was read at this layer's `hook_resid_pre`."""
    bypass: float
    """Mean refusal score of borderline prompts with the candidate taken out, in nats; the lower, the better."""
    harmful: float
    """The same of harmful prompts: the higher, the better. Measured and not chosen by, as in the paper."""
    kl: float
    """Mean KL(plain || ablated) of the first reply token on harmless prompts, in nats."""
    kept: bool
    """Whether it passed every filter."""


@dataclass(frozen=True)
class FalseRefusal(Method, Artefact):
    """Single-vector ablation: the direction of false refusal without its part along true refusal, taken out.

    At one token and layer, w = mean(borderline prompts that the model refuses) - mean(harmless) and r = mean(harmful) -
    mean(harmless). Then w' = w - λ (w·r)/(r·r) r, of length 1, and x - (x·w') w' at `hook_resid_pre`, `hook_attn_out`
    and `hook_mlp_out` of every layer, at every position, of the prompt and the reply.
    """

    KIND = "ablation of false refusal"
    WHAT = "These directions of false refusal"

    borderline: Float[Tensor, "position layer d_model"]
    """w of every token of the template's tail (in the prompt's order) at `hook_resid_pre` of every layer; raw."""
    refusal: Float[Tensor, "position layer d_model"]
    """r at the same places; raw."""
    position: int
    """Of the chosen candidate, from the end of the prompt: -1 is the last token."""
    layer: int
    strictness: float
    """The paper's λ: at 1 true refusal is spared, at 0 w is taken out as it is."""
    tokens: tuple[int, ...]
    """That refusals begin with: what the refusal score counts."""
    trials: tuple[Trial, ...]
    """What every candidate did on validation prompts."""
    plain: tuple[float, float]
    """Mean refusal scores without steering: of borderline and of harmful validation prompts, in nats."""
    origin: Origin
    n_borderline: int
    """Refused borderline prompts that w was learned from."""
    note: str = ""
    """What it was chosen on."""
    whole_prompt: bool = True

    @property
    def direction(self) -> Float[Tensor, "d_model"]:
        """The chosen w', of length 1."""
        return _units(self.borderline, self.refusal, self.strictness)[self.position, self.layer].float()

    @property
    def chosen(self) -> Trial | None:
        """What the candidate did that is in use; None where it was not tried."""
        own = (self.position, self.layer)
        return next((one for one in self.trials if (one.position, one.layer) == own), None)

    def at(self, position: int, layer: int, strictness: float | None = None) -> FalseRefusal:
        """The same with another candidate, such as one of `trials`, or another λ.

        Raises:
            ValueError: there is no such candidate.
        """
        positions, layers = self.borderline.shape[:2]
        if not (-positions <= position < 0 and 0 <= layer < layers):
            raise ValueError(
                f"There is no candidate at position {position} and layer {layer}: positions are {-positions} to -1 "
                f"and layers 0 to {layers - 1}."
            )
        strictness = self.strictness if strictness is None else strictness
        return replace(self, position=position, layer=layer, strictness=strictness)

    def scores(self, of: Callable[[Trial], float]) -> Float[Tensor, "position layer"]:
        """A score of every candidate, `found.scores(lambda trial: trial.bypass)`; rows in the prompt's order."""
        return grid(self.trials, self.borderline.shape[:2], of)

    # ── Acting ──

    def decide(self, flight: Flight) -> Rows:
        """Nothing: every prompt is treated alike.

        Raises:
            ValueError: the batch is on its way through another model than the direction was found in.
        """
        require_own(self.origin, flight.model, self.WHAT)
        return {}

    def hooks_for(self, rows: Rows, flight: Flight) -> list[Hook]:
        start = 0 if self.whole_prompt else flight.end_of_prompt
        return ablating(self.direction, int(flight.model.cfg.n_layers), since=flight.since(start))

    # ── Learning ──

    @classmethod
    def fit(
        cls,
        model: Model,
        contrast: Contrast | None = None,
        *,
        borderline: Sequence[Prompt] | None = None,
        validation: Contrast | None = None,
        strictness: float = 1.0,
        tokens: Sequence[int] | None = None,
        judge: Judge | None = None,
        training: int = TRAINING,
        tried: int = VALIDATION,
        filtered: bool = True,
        most_kl: float = MOST_KL,
        last: float = LAST,
        asking: Asking = BARE,
        seed: int = 0,
        batch_size: int | None = None,
        progress: bool = True,
    ) -> FalseRefusal:
        """Try w' of every token of the template's tail and every layer, and choose one.

        Of those with KL <= `most_kl` and a layer before the last `last` of the depth, the one is taken that leaves
        borderline validation prompts the lowest refusal score. The scores are those of `RefusalDirection.fit`.

        Args:
            contrast: harmful and harmless prompts to learn from; by default the bundled model's own anchors for it,
                ours for any other.
            borderline: prompts to learn from, of which those count that the model refuses; by default the contrast's
                own, and without those the bundled model's training prompts, or for any other model half of
                `prompts.borderline("validation")`, whose other half is then chosen on.
            validation: what to choose on, with borderline prompts, never a test set; by default as in `SCANS.fit`.
            asking: how all these prompts are put: a system prompt, thinking on or off; it travels with the fit.
            strictness: the paper's λ.
            tokens, judge: see `RefusalDirection.fit`.
            training, tried: prompts of each kind, spread evenly over those that there are.
            filtered: whether prompts on the wrong side are left out; without that every borderline prompt counts.
            most_kl, last: the filters; `inf` and 0 let everything pass.
            seed: of what is held out.
            batch_size: prompts at once; by default what fits and pays.

        Raises:
            ValueError: the model refuses too few borderline prompts, prompts to learn from are among those to choose
                on, or there are none of a kind.
            NoDirection: no candidate passes the filters.
        """
        contrast, borderline, validation = _prompts(model, contrast, borderline, validation, seed, asking)
        sides = [spread(side, training) for side in (contrast.harmful, contrast.harmless)]
        asked = [spread(side, tried) for side in (validation.borderline, validation.harmful, validation.harmless)]
        tokens = openings(model, sides, tokens, judge, batch_size, progress)
        doubtful = spread(borderline, ASKED * training if filtered else training)
        learned = {"borderline": doubtful, "harmful": sides[0], "harmless": sides[1]}
        if filtered:
            learned = {
                kind: on_its_side(model, texts, tokens, kind=kind, split="training", batch_size=batch_size)
                for kind, texts in learned.items()
            }
        learned["borderline"] = spread(learned["borderline"], training)
        read = {kind: tail_means(model, texts, batch_size, progress) for kind, texts in learned.items()}
        base, lengths = read["harmless"]
        w, r = (differences(read[kind][0], base, lengths) for kind in ("borderline", "harmful"))
        units = _units(w, r, strictness).float()
        trying = Trying(model, tokens, asked, batch_size)
        n = units.shape[1]
        late = int(n * (1.0 - last) + 1e-9)
        trials = []
        for position, layer in places(units, "trying candidates", progress):
            vector = units[position, layer]
            out = trying.hooks(vector)
            bypass, harmful, kl = trying.score(0, out), trying.score(1, out), trying.divergence(2, out)
            kept = layer < late and kl <= most_kl and bool(vector.any())
            trials.append(Trial(position, layer, bypass, harmful, kl, kept))
        best = min((one for one in trials if one.kept), key=lambda one: one.bypass, default=None)
        if best is None:
            far, behind = (sum(not one.kl <= most_kl for one in trials), sum(one.layer >= late for one in trials))
            raise NoDirection(
                f"None of {len(trials)} candidates passed the filters: {far} change harmless replies too much "
                f"(most_kl: KL above {most_kl:g} nats), {behind} lie in the last layers (last: {last:.0%} of them). "
                "Give other values to let more pass; the error's `trials` say what each candidate did.",
                trials,
            )
        return cls(
            borderline=w.float(),
            refusal=r.float(),
            position=best.position,
            layer=best.layer,
            strictness=float(strictness),
            tokens=tuple(tokens),
            trials=tuple(trials),
            plain=(trying.score(0, []), trying.score(1, [])),
            origin=replace(
                origin_of(model, contrast),
                n_harmful=len(learned["harmful"]),
                n_harmless=len(learned["harmless"]),
                position="hook_resid_pre of the template's tail",
            ),
            n_borderline=len(learned["borderline"]),
            note=f"Chosen on {validation.name!r}.",
        )

    # ── Keeping ──

    @property
    def measured_on(self) -> Identity | None:
        return self.origin.model

    def uses(self) -> list[Use]:
        positions = EVERYWHERE if self.whole_prompt else FROM_THE_END
        formula = (
            "u = v / |v|, v = w - strictness (w . r) / (r . r) r, w = borderline[position, layer], "
            "r = refusal[position, layer]"
        )
        return [replace(use, positions=positions) for use in taken_out(self.borderline.shape[1], formula)]

    def require_whole(self, owner: Identity | None) -> None:
        artefacts.require_layers_of(owner, "borderline", self.borderline)
        artefacts.require_shape("refusal", self.refusal, tuple(self.borderline.shape))
        self.at(self.position, self.layer)

    def __str__(self) -> str:
        lines = [
            f"False refusal, learned from {self.n_borderline} refused borderline prompts and {self.origin.contrast!r}",
            f"  read at     token {self.position}, layer {self.layer}",
            f"  strictness  {self.strictness:g}",
        ]
        if best := self.chosen:
            lines += [
                f"  passed      {sum(trial.kept for trial in self.trials)} of {len(self.trials)} candidates",
                f"  borderline  {best.bypass:.2f} nats (plain {self.plain[0]:.2f})",
                f"  harmful     {best.harmful:.2f} nats (plain {self.plain[1]:.2f})",
                f"  KL          {best.kl:.3f} nats",
            ]
            if best.bypass >= self.plain[0]:
                lines += ["  No candidate lowers the refusal score of borderline prompts: it does not help here."]
        return "\n".join([*lines, f"  {self.note}"] if self.note else lines)

    __repr__ = __str__


def orthogonalised(
    w: Float[Tensor, "*place d_model"], r: Float[Tensor, "*place d_model"], strictness: float = 1.0
) -> Float[Tensor, "*place d_model"]:
    """w - strictness x (w·r)/(r·r) r, in float64; w itself where r is 0."""
    w, r = w.double(), r.double()
    square = (r * r).sum(dim=-1, keepdim=True)
    along = (w * r).sum(dim=-1, keepdim=True) / torch.where(square > 0, square, 1.0)
    return w - strictness * along * r


def _units(
    w: Float[Tensor, "position layer d_model"], r: Float[Tensor, "position layer d_model"], strictness: float
) -> Float[Tensor, "position layer d_model"]:
    """w' of length 1, and exactly 0 where nothing but rounding is left of w."""
    left = orthogonalised(w, r, strictness)
    length, whole = left.norm(dim=-1, keepdim=True), w.double().norm(dim=-1, keepdim=True)
    there = length > NOTHING * whole
    return torch.where(there, left / torch.where(there, length, 1.0), 0.0)


def _prompts(
    model: Model,
    contrast: Contrast | None,
    borderline: Sequence[Prompt] | None,
    validation: Contrast | None,
    seed: int,
    asking: Asking,
) -> tuple[Contrast, Sequence[Prompt], Contrast]:
    """What to learn from, the borderline prompts to learn from, and what to choose on."""
    world = world_of(model)
    if borderline is None and not (contrast is not None and contrast.borderline):
        apart = world.with_borderline()
        borderline, validation = apart.borderline, validation or apart.validation
    contrast, validation, _ = world.learning(contrast, validation, seed, asking)
    borderline = contrast.borderline if borderline is None else tuple(asking.of(prompt) for prompt in borderline)
    if not len(borderline) or not validation.borderline:
        where = "to learn from (borderline=…)" if not len(borderline) else f"to choose on, in {validation.name!r}"
        raise Refused(f"There are no borderline prompts {where}; {FEWEST} that the model refuses are needed.")
    chosen_on = {normalised(prompt) for prompt in validation.borderline}
    both = [prompt for prompt in borderline if normalised(prompt) in chosen_on]
    if both:
        raise ValueError(
            f"{len(both)} borderline prompts would be learned from and chosen on, such as {both[0]!r}: give other "
            "ones to borderline=… than to validation=…."
        )
    return contrast, borderline, validation


def _of_world(fitting: Fitting) -> FalseRefusal:
    """From borderline prompts that are not chosen on; where the world has none, from half of its validation prompts."""
    world = fitting.world.with_borderline()
    how = {**fitting.how(), "validation": world.validation, "asking": fitting.asking, "seed": fitting.seed}
    return FalseRefusal.fit(world.model, world.anchors, borderline=world.borderline, **how)


RECIPES = {"false_refusal": learned(FalseRefusal, _of_world)}
