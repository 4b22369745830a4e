"""Jailbreak Antidote: every state pushed along the few coordinates in which refusal is strongest.

Shen et al.: Jailbreak Antidote: Runtime Safety-Utility Balance via Sparse Representation Adjustment in Large Language
Models. ICLR 2025, arXiv 2410.02298. A defence: its push is towards refusal, and how strong is set at run time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from scans_lens import artefacts, steering
from scans_lens.artefacts import EVERYWHERE, FROM_THE_END, Artefact, Use
from scans_lens.conversation import BARE, Asking
from scans_lens.directions import Directions, added
from scans_lens.flight import Flight
from scans_lens.judges import Judge
from scans_lens.methods import choosing
from scans_lens.methods.arms import learned
from scans_lens.methods.choosing import SHARES
from scans_lens.methods.pairs import directions_along, pairs_of, principal
from scans_lens.model import Hook, Identity, Model
from scans_lens.prompts import Contrast
from scans_lens.reading import collect
from scans_lens.steering import Method, Push, Rows
from scans_lens.world import world_of

ARMS = {"antidote": "sparse push for all, Jailbreak Antidote (2410.02298)"}

SPARSITY = 0.05
"""Share of the coordinates that are pushed, as in the paper."""
LAYER_SHARE = 0.375
"""Share of the layers that are pushed, as in the authors' code."""


@dataclass(frozen=True)
class Trial:
    """What one scale did on validation prompts."""

    scale: float
    """Signed, + towards refusal."""
    harmless: tuple[int, int]
    """Refused and all, of borderline prompts where there are some, else of harmless ones."""
    harmful: tuple[int, int]


@dataclass(frozen=True)
class JailbreakAntidote(Method, Artefact):
    """h' = h + scale x sign x (d o m): the same sparse push for every prompt.

    d is a first principal component, sign turns it towards refusal, and the mask m keeps its largest coordinates.
    Site: `resid_post` of `layers`. Positions: every token of the prompt and of the reply, or with
    `whole_prompt=False` the last prompt token and the reply. Phase: prefill and decoding. No prompt is looked at.
    """

    KIND = "Jailbreak Antidote"
    WHAT = "These Jailbreak Antidote vectors"

    directions: Directions
    """sign x (d o m) at every layer, as it is added: d has the length of the layer's mean residual, and what the mask
    leaves of it is not made longer."""
    layers: tuple[int, ...]
    scale: float
    """In residual norms; + is towards refusal, which is its purpose, and - away from it."""
    accuracy: tuple[float, ...] = ()
    """Share of held-out pairs, by layer, of which the harmful prompt lies further along the direction."""
    trials: tuple[Trial, ...] = ()
    """What every scale did on validation prompts; the first, of scale 0, is the plain model."""
    note: str = ""
    """How the knobs were chosen."""
    whole_prompt: bool = True

    @property
    def push(self) -> Push:
        return Push(self.directions, self.layers, self.scale)

    # ── Acting ──

    def decide(self, flight: Flight) -> Rows:
        """The same scale for every row.

        Raises:
            ValueError: the batch is on its way through another model than this was fitted on.
        """
        self.directions.origin.require(flight, self.WHAT)
        return {"scale": torch.full((len(flight.tokens),), float(self.scale), device=flight.tokens.ids.device)}

    def hooks_for(self, rows: Rows, flight: Flight) -> list[Hook]:
        start = 0 if self.whole_prompt else flight.end_of_prompt
        return steering.add(self.directions, self.layers, rows["scale"], since=flight.since(start))

    # ── Learning ──

    @classmethod
    def fit(
        cls,
        model: Model,
        contrast: Contrast | None = None,
        *,
        validation: Contrast | None = None,
        sparsity: float = SPARSITY,
        layer_share: float = LAYER_SHARE,
        layers: Sequence[int] | None = None,
        whole_prompt: bool = True,
        judge: Judge | None = None,
        budget: int | None = None,
        asking: Asking = BARE,
        seed: int = 0,
        batch_size: int | None = None,
        progress: bool = True,
    ) -> JailbreakAntidote:
        """Learn the directions from pairs of the contrast, and choose the scale on validation prompts.

        At every layer, d is the first principal component of the recentred differences of the pairs' states at the
        last prompt token; every other pair is turned round first, since centring differences that all run one way
        would take out what they share. The layers whose direction puts most held-out pairs (validation prompts,
        harmful against harmless) in the right order are pushed; equals are told apart by how many spreads the mean
        difference is long. The first block is no candidate, as in the authors' code.

        Scales of both signs are tried, and that one is taken which leaves the fewest borderline prompts refused while
        refusals of harmful ones fall by at most one and a half points. That asks for less refusal than the authors
        want: `dataclasses.replace(fitted, scale=…)` with a positive scale is their defence, and `trials` has what
        positive scales did.

        Args:
            contrast: what to learn from; by default the bundled model's own anchors for it, ours for any other.
            validation: what to choose on, never a test set; by default as in `SCANS.fit`.
            asking: how all these prompts are put: a system prompt, thinking on or off; it travels with the fit.
            sparsity: share of the coordinates that the mask keeps; 1 keeps all.
            layer_share: share of the layers that are pushed.
            layers: where to push, instead of choosing.
            whole_prompt: whether the prompt is steered before its end, too, as in the authors' code.
            judge: whether a reply refuses; by default the exact one for the bundled model, the panel for any other.
            budget: see `SCANS.fit`.

        Raises:
            ValueError: fewer than two pairs, to learn from or held out, or a share outside of (0, 1].
        """
        for name, share in (("sparsity", sparsity), ("layer_share", layer_share)):
            if not 0 < share <= 1:
                raise ValueError(f"{name} is a share above 0 and at most 1, not {share}.")
        contrast, validation, note = world_of(model).learning(contrast, validation, seed, asking)
        assert validation is not None
        learned, held = (
            [collect(model, side, Flight.residuals, batch_size=batch_size) for side in pairs]
            for pairs in (pairs_of(one, "Jailbreak Antidote") for one in (contrast, validation))
        )
        units = difference_component(*learned)
        dense = directions_along(model, contrast, units, *learned).in_residual_norms()
        accuracy, lead = pair_accuracy(units, *held)
        if layers is None:
            layers = control_layers(accuracy, lead, layer_share)
        fitted = cls(
            directions=replace(dense, vectors=dense.vectors * mask_of(units, sparsity)),
            layers=tuple(int(layer) for layer in layers),
            scale=0.0,
            accuracy=tuple(accuracy.tolist()),
            whole_prompt=whole_prompt,
        )
        bench = choosing.Bench.of(model, validation, judge, batch_size, budget)

        def tried(scale: float) -> Trial:
            bar.update()
            return Trial(scale, **bench.counts(replace(fitted, scale=scale) if scale else None))

        with tqdm(desc="choosing the scale", unit="scale", disable=not progress, leave=False) as bar:
            trials = [tried(0.0)]
            for sign in (-1.0, 1.0):
                trials += choosing.outward([sign * one for one in SHARES], tried, trials[0])
            trials = choosing.refined(trials, tried, bench.rounds)
        chosen, said = choosing.lasting(trials, lambda one: replace(fitted, scale=one.scale), bench)
        return replace(fitted, scale=chosen.scale, trials=tuple(trials), note=f"{note} {said}".strip())

    @property
    def chosen(self) -> Trial | None:
        """The trial that was chosen, where the scale was chosen."""
        return next((trial for trial in self.trials if trial.scale == self.scale), None)

    # ── Keeping ──

    @property
    def measured_on(self) -> Identity | None:
        return self.directions.origin.model

    def uses(self) -> list[Use]:
        positions = EVERYWHERE if self.whole_prompt else FROM_THE_END
        unit = "1 is the vector as stored: what the mask leaves of one as long as the layer's mean residual norm"
        return [added(self.layers, positions=positions, unit=unit)]

    def require_whole(self, owner: Identity | None) -> None:
        self.directions.require_whole(owner)
        artefacts.require_layers("layers", self.layers, len(self.directions))

    def __str__(self) -> str:
        kept = (self.directions.vectors != 0).double().mean()
        lines = [
            f"Jailbreak Antidote, learned from {self.directions.origin.contrast!r}",
            f"  layers     {', '.join(map(str, self.layers))}",
            f"  mask       {kept:.1%} of the coordinates",
            f"  scale      {self.scale:+g} residual norms",
        ]
        return "\n".join([*lines, f"  {self.note}"] if self.note else lines)

    __repr__ = __str__


def difference_component(
    harmful: Float[Tensor, "pair layer d_model"], harmless: Float[Tensor, "pair layer d_model"]
) -> Float[Tensor, "layer d_model"]:
    """First principal component of the recentred differences of pairs, every other one turned round; of length 1."""
    turned = torch.ones(len(harmful), 1, 1).to(harmful)
    turned[1::2] = -1
    differences = (harmful - harmless) * turned
    return principal(differences - differences.mean(dim=0), harmful, harmless)


def pair_accuracy(
    units: Float[Tensor, "layer d_model"],
    harmful: Float[Tensor, "pair layer d_model"],
    harmless: Float[Tensor, "pair layer d_model"],
) -> tuple[Float[Tensor, "layer"], Float[Tensor, "layer"]]:
    """By layer, the share of pairs in the right order along the direction, and their mean lead in spreads of it."""
    lead = ((harmful - harmless).double() * units.double()).sum(dim=-1)
    return (lead > 0).double().mean(dim=0), lead.mean(dim=0) / lead.std(dim=0)


def control_layers(accuracy: Float[Tensor, "layer"], lead: Float[Tensor, "layer"], share: float) -> tuple[int, ...]:
    """The layers of highest accuracy, as many as this share of all; one at least, and never the first block."""
    n = len(accuracy)
    ranked = sorted(range(1, n), key=lambda layer: (float(accuracy[layer]), float(lead[layer])), reverse=True)
    return tuple(sorted(ranked[: max(1, round(share * n))]))


def mask_of(units: Float[Tensor, "layer d_model"], share: float) -> Float[Tensor, "layer d_model"]:
    """1 at the largest coordinates of each layer's direction by size, as many as this share, and 0 elsewhere."""
    kept = units.abs().topk(max(1, round(share * units.shape[1])), dim=1).indices
    return torch.zeros_like(units).scatter(1, kept, 1.0)


RECIPES = {
    "antidote": learned(
        JailbreakAntidote,
        lambda fitting: JailbreakAntidote.fit(
            fitting.world.model, fitting.world.anchors, asking=fitting.asking, seed=fitting.seed, **fitting.chosen()
        ),
    )
}
