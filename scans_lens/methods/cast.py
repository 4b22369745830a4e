"""CAST: a push for those prompts alone that meet a condition, which is looked up once before the reply.

Lee et al.: Programming Refusal with Conditional Activation Steering. ICLR 2025, arXiv 2409.05907. The condition is how
far a prompt's mean state lies along one vector; the push is along another.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from scans_lens import artefacts, steering
from scans_lens.artefacts import EVERYWHERE, FROM_THE_END, SITE, Artefact, Use
from scans_lens.conversation import BARE, Asking, Prompt
from scans_lens.directions import Directions, added
from scans_lens.flight import Flight
from scans_lens.judges import Judge
from scans_lens.lens import layers_by_thirds
from scans_lens.methods import choosing
from scans_lens.methods.arms import learned
from scans_lens.methods.choosing import SHARES
from scans_lens.methods.pairs import directions_along, pairs_of, principal
from scans_lens.model import Hook, Identity, Model, resid_post
from scans_lens.prompts import Contrast
from scans_lens.reading import collect, seen_at
from scans_lens.steering import Method, Push, Rows
from scans_lens.world import world_of

ARMS = {"cast": "pushes those who meet a condition (2409.05907)"}

Side = Literal["harmful", "harmless"]
SIDES: tuple[Side, Side] = ("harmful", "harmless")


@dataclass(frozen=True)
class Condition:
    """Which prompts are steered: those whose similarity with a vector lies above a threshold, or below it."""

    vector: Float[Tensor, "d_model"]
    """c, of length 1."""
    layer: int
    """Where the mean state is read, at `resid_post`."""
    threshold: float
    above: bool
    """Whether a similarity above the threshold meets the condition; if not, one below it does."""
    tanh: bool = False
    """Whether the projection goes through tanh before it is compared, as in the released code."""

    def similarity(self, states: Float[Tensor, "row d_model"]) -> Float[Tensor, "row"]:
        """cos(h, (c c^T / c^T c) h): the size of the cosine with c, so that the sign of c plays no part."""
        return similarity(states[:, None], self.vector[None], self.tanh)[:, 0]

    def met(self, similarity: Float[Tensor, "row"]) -> Bool[Tensor, "row"]:
        return similarity > self.threshold if self.above else similarity < self.threshold

    def __str__(self) -> str:
        return f"similarity at layer {self.layer} {'above' if self.above else 'below'} {self.threshold:.4f}"


@dataclass(frozen=True)
class Searched:
    """The best threshold of one layer and direction of comparison, for telling one kind of prompts from the others."""

    finds: Side
    layer: int
    above: bool
    threshold: float
    f1: float


@dataclass(frozen=True)
class Trial:
    """What one setting did on validation prompts."""

    scale: float
    """Signed, + towards refusal."""
    layers: tuple[int, ...]
    steers: Side | None
    """Which prompts the condition was searched for; None for the plain model."""
    harmless: tuple[int, int]
    """Refused and all, of borderline prompts where there are some, else of harmless ones."""
    harmful: tuple[int, int]


@dataclass(frozen=True)
class CAST(Method, Artefact):
    """h' = h + f(sim(h, proj_c h)) x scale x v, where f is 1 if the condition is met and 0 if not.

    Site: condition and push both at `resid_post`, the condition at its one layer and the push at `layers`, each along
    its own vector. (The released code learns a vector from the output of a layer and uses it at the input of that
    layer, one block off.) Positions: the condition is on the mean state over all tokens of the prompt, the template's
    among them and padding not; what is steered is every token of prompt and reply, or with `whole_prompt=False` the
    last prompt token and the reply. Phase: the condition is looked up once, in a pass of the unsteered prompt, for
    each row by itself (the released code looks at the first row of a batch only), and holds for the whole reply.
    """

    KIND = "CAST"
    WHAT = "These CAST vectors"

    directions: Directions
    """v, as it is added: `scale` times these vectors, whose lengths are the layers' mean residual norms."""
    layers: tuple[int, ...]
    scale: float
    """In residual norms; + is towards refusal."""
    condition: Condition
    searched: tuple[Searched, ...] = ()
    """What the search for the condition found at every layer and direction of comparison."""
    trials: tuple[Trial, ...] = ()
    """What every setting did on validation prompts; the first is the plain model."""
    note: str = ""
    """How the knobs were chosen."""
    whole_prompt: bool = True

    @property
    def push(self) -> Push:
        return Push(self.directions, self.layers, self.scale)

    def __post_init__(self) -> None:
        n, width = self.directions.vectors.shape
        if not 0 <= self.condition.layer < n or self.condition.vector.shape != (width,):
            raise ValueError(
                f"The condition reads layer {self.condition.layer} with a vector of shape "
                f"{tuple(self.condition.vector.shape)}, and the directions have {n} layers of width {width}."
            )

    # ── Acting ──

    @torch.no_grad()
    def decide(self, flight: Flight) -> Rows:
        """The similarity of every row, and the scale that it gets: all of it, or none.

        Raises:
            ValueError: the batch is on its way through another model than CAST was fitted on.
        """
        self.directions.origin.require(flight, self.WHAT)
        found = self.condition.similarity(mean_states(flight, [self.condition.layer])[:, 0])
        return {"similarity": found, "scale": self.scale * self.condition.met(found)}

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
        steers: Sequence[Side] = SIDES,
        layers: Sequence[int] | None = None,
        tanh: bool = False,
        whole_prompt: bool = True,
        judge: Judge | None = None,
        budget: int | None = None,
        asking: Asking = BARE,
        seed: int = 0,
        batch_size: int | None = None,
        progress: bool = True,
    ) -> CAST:
        """Learn both vectors from pairs of the contrast, search the condition, and choose layers and scale.

        Both vectors are first principal components, at every layer, of the harmful and harmless states of each pair
        minus the pair's mean; their sign is the labels'. The condition's is of mean states over the prompt, the
        push's of states at its last token. (The paper learns the push from replies: the same questions followed by a
        refusal or by an answer, at the tokens of those.)

        The condition is searched over all layers, both directions of comparison, and every threshold halfway between
        two neighbouring similarities of validation prompts: the highest F1, harmless and borderline prompts together
        against harmful ones. It is searched twice, for the two uses that CAST has here: harmful prompts found and
        pushed towards refusal (the published one, a positive scale), and harmless ones found and pushed away from it
        (a negative one). Of both, of the middle and the last third of the layers, and of the scales, that setting is
        taken which leaves the fewest borderline prompts refused while refusals of harmful ones fall by at most one
        and a half points.

        Args:
            contrast: what to learn from; by default the bundled model's own anchors for it, ours for any other.
            validation: what to choose knobs on, never a test set; by default as in `SCANS.fit`.
            asking: how all these prompts are put: a system prompt, thinking on or off; it travels with the fit.
            steers: which of the two uses to try; `["harmful"]` is the published one alone.
            layers: where to push, instead of choosing.
            tanh: see `Condition`.
            whole_prompt: whether the prompt is steered before its end, too, as in the released code.
            judge: whether a reply refuses; by default the exact one for the bundled model, the panel for any other.
            budget: see `SCANS.fit`.

        Raises:
            ValueError: fewer than two pairs, or no known use.
        """
        if not steers or not set(steers) <= set(SIDES):
            raise ValueError(f"CAST steers {' or '.join(SIDES)} prompts, not {list(steers)}.")
        contrast, validation, note = world_of(model).learning(contrast, validation, seed, asking)
        assert validation is not None
        pairs = pairs_of(contrast, "CAST")
        if layers is not None and not layers:
            raise ValueError("There are no layers to steer: the list is empty.")
        everywhere = range(int(model.cfg.n_layers))

        def means(side: Sequence[Prompt]) -> Tensor:
            return collect(model, side, lambda flight: mean_states(flight, everywhere), batch_size=batch_size)

        ends = [collect(model, side, Flight.residuals, batch_size=batch_size) for side in pairs]
        behaviour = directions_along(model, contrast, pair_component(*ends), *ends).in_residual_norms()
        vectors = pair_component(*map(means, pairs))
        others = (*validation.harmless, *validation.borderline)
        found = similarity(torch.cat([means(validation.harmful), means(others)]), vectors, tanh)
        truth = np.arange(len(found)) < len(validation.harmful)
        searched = tuple(one for side in steers for one in _search(found.double().numpy(), truth, side))
        bench = choosing.Bench.of(model, validation, judge, batch_size, budget)
        thirds = layers_by_thirds(len(everywhere))
        bands = [tuple(layers)] if layers is not None else [tuple(thirds[name]) for name in ("middle", "latter")]
        plain = bench.refused(None)
        trials = [Trial(0.0, (), None, **bench.counted(plain))]
        fitted: dict[Side, CAST] = {}
        met: dict[Side, list[int]] = {}

        def tried_with(side: Side, band: tuple[int, ...]) -> Callable[[float], Trial]:
            def tried(scale: float) -> Trial:
                bar.update()
                method = replace(fitted[side], layers=band, scale=scale)
                own = {**plain, **bench.refused(method, met[side])}
                return Trial(scale, band, side, **bench.counted(own))

            return tried

        for side in steers:
            top = max((one for one in searched if one.finds == side), key=lambda one: one.f1)
            condition = Condition(vectors[top.layer], top.layer, top.threshold, top.above, tanh)
            one = cls(behaviour, tuple(everywhere), 1.0, condition, searched, note=note, whole_prompt=whole_prompt)
            reached = condition.met(condition.similarity(means(bench.asked)[:, top.layer]))
            fitted[side], met[side] = one, reached.nonzero()[:, 0].tolist()
        with tqdm(desc="choosing layers and scale", unit="setting", disable=not progress, leave=False) as bar:
            for side, band in itertools.product(sorted(steers, key=SIDES.index, reverse=True), filter(None, bands)):
                sign = 1.0 if side == "harmful" else -1.0
                trials += choosing.outward([sign * one for one in SHARES], tried_with(side, band), trials[0])
            top, _ = choosing.best(trials)
            assert top.steers is not None
            kin = [one for one in trials if (one.steers, one.layers) == (top.steers, top.layers)]
            finer = choosing.refined([trials[0], *kin], tried_with(top.steers, top.layers), bench.rounds)
            trials += finer[1 + len(kin) :]
        chosen, said = choosing.lasting(
            trials, lambda one: replace(fitted[one.steers or "harmful"], layers=one.layers, scale=one.scale), bench
        )
        assert chosen.steers is not None
        return replace(
            fitted[chosen.steers],
            layers=chosen.layers,
            scale=chosen.scale,
            trials=tuple(trials),
            note=f"{note} {said}".strip(),
        )

    @property
    def chosen(self) -> Trial | None:
        """The trial that was chosen, where knobs were chosen."""
        own = (self.scale, self.layers)
        return next((trial for trial in self.trials if (trial.scale, trial.layers) == own), None)

    # ── Keeping ──

    @property
    def measured_on(self) -> Identity | None:
        return self.directions.origin.model

    def uses(self) -> list[Use]:
        """How the condition is read and the push is done, for a file's header."""
        projected = "c (x . c) / (c . c)"
        if self.condition.tanh:
            projected = f"tanh({projected})"
        order = ">" if self.condition.above else "<"
        formula = f"similarity = cos(m, {projected}) with x = m, the mean of the states, and c = condition.vector; "
        formula += f"met where it is {order} condition.threshold"
        reading = Use(
            "read",
            SITE,
            "mean over every token of the prompt, the template's too, unsteered",
            (self.condition.layer,),
            "cosine, 0 to 1",
            formula,
        )
        positions = EVERYWHERE if self.whole_prompt else FROM_THE_END
        unit = "1 is the vector as stored: as long as the layer's mean residual norm (directions.residual_norms)"
        push = "x + scale * directions.vectors[layer] where the condition is met, else x"
        return [reading, added(self.layers, positions=positions, unit=unit, formula=push)]

    def require_whole(self, owner: Identity | None) -> None:
        self.directions.require_whole(owner)
        artefacts.require_layers("layers", self.layers, len(self.directions))

    def __str__(self) -> str:
        lines = [
            f"CAST, learned from {self.directions.origin.contrast!r}",
            f"  condition  {self.condition}",
            f"  layers     {', '.join(map(str, self.layers))}",
            f"  scale      {self.scale:+g} residual norms where it is met",
        ]
        return "\n".join([*lines, f"  {self.note}"] if self.note else lines)

    __repr__ = __str__


def mean_states(flight: Flight, layers: Sequence[int]) -> Float[Tensor, "row layer d_model"]:
    """`resid_post` at these layers, averaged over each prompt's tokens without padding, unsteered, in float32.

    In a pass of its own: the keys and values that a flight keeps do not give earlier states back.
    """
    return seen_at(flight.model, flight.tokens, [resid_post(layer) for layer in layers], _mean)


def _mean(states: Float[Tensor, "row pos d_model"], mask: Int[Tensor, "row pos"]) -> Float[Tensor, "row d_model"]:
    there = mask[..., None].to(states.device, states.dtype)
    return torch.where(there > 0, states, 0.0).sum(dim=1) / there.sum(dim=1)


def similarity(
    states: Float[Tensor, "row layer d_model"], vectors: Float[Tensor, "layer d_model"], tanh: bool = False
) -> Float[Tensor, "row layer"]:
    """Cosine of each state with its projection on its layer's vector, or with the tanh of that projection."""
    states = states.float()
    vectors = vectors.to(states.device, states.dtype)
    along = (states * vectors).sum(dim=-1, keepdim=True) / (vectors**2).sum(dim=-1, keepdim=True)
    projected = along * vectors
    return torch.nn.functional.cosine_similarity(states, projected.tanh() if tanh else projected, dim=-1)


def pair_component(
    harmful: Float[Tensor, "pair layer d_model"], harmless: Float[Tensor, "pair layer d_model"]
) -> Float[Tensor, "layer d_model"]:
    """First principal component of all states minus their pair's mean, of length 1, from harmless to harmful.

    The two rows of a pair are opposite, so that the component is that of the differences, uncentred.
    """
    middle = (harmful + harmless) / 2
    return principal(torch.cat([harmful - middle, harmless - middle]), harmful, harmless)


def _search(
    found: Float[np.ndarray, "prompt layer"], harmful: Bool[np.ndarray, "prompt"], side: Side
) -> list[Searched]:
    """For every layer and direction of comparison the threshold of highest F1."""
    wanted = harmful if side == "harmful" else ~harmful
    result = []
    for layer in range(found.shape[1]):
        for above in (True, False):
            threshold, f1 = threshold_of_best_f1(found[:, layer], wanted, above)
            result.append(Searched(side, layer, above, threshold, f1))
    return result


def threshold_of_best_f1(
    values: Float[np.ndarray, "prompt"], wanted: Bool[np.ndarray, "prompt"], above: bool
) -> tuple[float, float]:
    """The threshold above (or below) which the wanted prompts lie best by F1, and that F1.

    Thresholds lie halfway between neighbouring values, or beyond the last one. Of equals the one that meets fewest
    prompts is taken.
    """
    order = np.argsort(-values if above else values, kind="stable")
    ranked, hits = values[order], np.cumsum(wanted[order])
    ends = np.append(ranked[1:] != ranked[:-1], True)  # no threshold parts equal values
    f1 = np.where(ends, 2 * hits / (np.arange(1, len(values) + 1) + wanted.sum()), -1.0)
    place = int(f1.argmax())
    beyond = ranked[place] + (-1e-6 if above else 1e-6)
    threshold = (ranked[place] + ranked[place + 1]) / 2 if place + 1 < len(ranked) else beyond
    return float(threshold), float(f1[place])


RECIPES = {
    "cast": learned(
        CAST,
        lambda fitting: CAST.fit(
            fitting.world.model, fitting.world.anchors, asking=fitting.asking, seed=fitting.seed, **fitting.chosen()
        ),
    )
}
