"""CAA: what sets the letter of a refusing choice apart from that of an answering one, added to every reply.

Rimsky et al.: Steering Llama 2 via Contrastive Activation Addition. ACL 2024, arXiv 2312.06681. The ancestor of SCANS:
one vector, one layer, the same push for every prompt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import no_type_check

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from scans_lens import artefacts, steering
from scans_lens.artefacts import EVERYWHERE, FROM_THE_END, Artefact, Use
from scans_lens.batches import rows_at_once
from scans_lens.chat import beginning, padded, prompt_ids, template_record
from scans_lens.conversation import BARE, Asking, words
from scans_lens.directions import Directions, Origin, added
from scans_lens.errors import Refused
from scans_lens.flight import Flight
from scans_lens.judges import Judge
from scans_lens.methods import choosing
from scans_lens.methods.arms import Fitting, learned
from scans_lens.methods.candidates import require_own, spread
from scans_lens.model import Hook, Identity, Model, device_of, identity, resid_post
from scans_lens.prompts import Contrast
from scans_lens.reading import seen_at
from scans_lens.steering import Method, Rows
from scans_lens.world import world_of

ARMS = {"caa": "one layer's push, learned from A/B choices (2312.06681)"}

MULTIPLIERS = (-0.5, -1.0, -2.0, -4.0, -8.0)
"""Multiples of the raw vector that are tried at every layer, away from refusal; the paper goes to 2 either way."""
PAIRS = 256
"""Pairs that are learned from."""
TRIED = 96
"""Validation prompts of each kind that every layer and multiplier is tried on."""
FINER = 4
"""Settings of a budget that are kept back for finer multipliers."""
FIRST, LAST = 0.25, 0.8
"""Layers between these shares of the depth are tried; the paper's best ones lie a little before the middle."""

QUESTION = """{prompt}

Which of these is your reply?
(A) {a}
(B) {b}"""
"""How a prompt becomes a question with two choices; the wording is ours."""
REFUSING = "I cannot help with that."
ANSWERING = "Sure, here is how."


@dataclass(frozen=True)
class Pair:
    """A question with two choices, and the two replies to it, which differ in one token: the letter."""

    question: str
    refusing: str
    """The reply that chooses to refuse, up to its letter, such as `(A`."""
    answering: str


@dataclass(frozen=True)
class Trial:
    """What one layer and multiplier did on validation prompts."""

    layer: int
    """Of the plain model, with multiplier 0, it is -1."""
    multiplier: float
    harmless: tuple[int, int]
    """Refused and all, of borderline prompts where there are some, else of harmless ones."""
    harmful: tuple[int, int]

    @property
    def scale(self) -> float:
        """The multiplier, as `choosing` calls it."""
        return self.multiplier


@dataclass(frozen=True)
class CAA(Method, Artefact):
    """Contrastive activation addition, fitted; the same push for every prompt.

    v = mean over pairs of (state at the refusing letter - state at the answering letter) at `hook_resid_post` of one
    layer; then x + multiplier x v at that layer, from the last prompt token on, through the whole reply.
    """

    KIND = "CAA"
    WHAT = "These CAA vectors"

    directions: Directions
    """v of every layer, from answering towards refusing; raw."""
    layer: int
    multiplier: float
    """+ is towards refusal."""
    trials: tuple[Trial, ...] = ()
    """What every layer and multiplier did on validation prompts; the first is the plain model."""
    note: str = ""
    """How layer and multiplier were chosen."""
    whole_prompt: bool = False

    def decide(self, flight: Flight) -> Rows:
        """The multiplier, for every prompt.

        Raises:
            ValueError: the batch is on its way through another model than CAA was fitted on.
        """
        require_own(self.directions.origin, flight.model, self.WHAT)
        return {"scale": torch.full((len(flight.tokens),), float(self.multiplier), device=flight.tokens.ids.device)}

    def hooks_for(self, rows: Rows, flight: Flight) -> list[Hook]:
        start = 0 if self.whole_prompt else flight.end_of_prompt
        return steering.add(self.directions, [self.layer], rows["scale"], since=flight.since(start))

    # ── Learning ──

    @classmethod
    def fit(
        cls,
        model: Model,
        pairs: Sequence[Pair] | None = None,
        *,
        contrast: Contrast | None = None,
        validation: Contrast | None = None,
        layers: Sequence[int] | None = None,
        multipliers: Sequence[float] = MULTIPLIERS,
        tried: int = TRIED,
        judge: Judge | None = None,
        budget: int | None = None,
        asking: Asking = BARE,
        seed: int = 0,
        batch_size: int | None = None,
        progress: bool = True,
    ) -> CAA:
        """Learn the vectors from pairs, and choose layer and multiplier on validation prompts.

        The choice is that of `SCANS.fit`: the fewest borderline prompts refused while refusals of harmful ones fall by
        at most one and a half points. Ties go to the smaller push, and then to the earlier layer.

        Args:
            pairs: questions with two choices; by default `choices(contrast)`.
            contrast: what to make pairs of; by default the bundled model's own anchors for it, ours for any other.
            validation: what to choose on, never a test set; by default as in `SCANS.fit`.
            asking: how all these prompts are put: a system prompt, thinking on or off; it travels with the fit.
            layers: to try; by default those from a quarter of the depth on to four fifths of it.
            multipliers: to try at every layer, the smallest push first; a layer's larger ones are left out once one
                is broken (see `choosing.outward`). Near the best one finer ones are tried.
            tried: validation prompts of each kind, spread evenly over those that there are.
            judge: whether a reply refuses; by default the exact one for the bundled model, the panel for any other.
            budget: see `SCANS.fit`; where it does not pay for every layer, fewer are tried, evenly spread.
            seed: of what is held out, where the caller gives a contrast and no validation prompts.
            batch_size: prompts at once; by default what fits and pays.

        Raises:
            ValueError: no pairs, or one whose replies do not differ in exactly one token; no layers or multipliers.
        """
        contrast, validation, note = world_of(model).learning(contrast, validation, seed, asking)
        assert validation is not None
        name = "the caller's pairs" if pairs is not None else f"pairs of {contrast.name!r}"
        pairs = choices(contrast) if pairs is None else pairs
        directions = letter_directions(model, pairs, name=name, asking=asking, batch_size=batch_size, progress=progress)
        n = len(directions)
        layers = range(int(FIRST * n), max(int(FIRST * n) + 1, int(LAST * n))) if layers is None else layers
        multipliers = sorted(multipliers, key=abs)
        if not multipliers or 0 in multipliers:
            raise ValueError("CAA chooses among multipliers other than 0, and there are none, or 0 is one.")
        steering.add(directions, layers, 1.0)  # says what is wrong with the layers
        fitted = cls(directions, int(layers[0]), 0.0)
        sides = (validation.harmful, validation.harmless, validation.borderline)
        shorter = Contrast(validation.name, *(spread(side, tried) for side in sides))
        bench = choosing.Bench.of(model, shorter, judge, batch_size, budget)
        trials = fitted._tried(bench, layers, multipliers, progress)
        chosen, found = choosing.lasting(
            trials, lambda one: replace(fitted, layer=one.layer, multiplier=one.multiplier), bench
        )
        left_out = len(set(layers) - {trial.layer for trial in trials})
        if left_out:
            found = f"The budget paid for {len(layers) - left_out} of {len(layers)} layers, evenly spread. {found}"
        return replace(
            fitted,
            layer=chosen.layer,
            multiplier=chosen.multiplier,
            trials=trials,
            note=f"{note} {found}".strip(),
        )

    def _tried(
        self, bench: choosing.Bench, layers: Sequence[int], multipliers: Sequence[float], progress: bool
    ) -> tuple[Trial, ...]:
        def trying(layer: int) -> Callable[[float], Trial]:
            def trial(multiplier: float) -> Trial:
                bar.update()
                method = replace(self, layer=layer, multiplier=multiplier) if multiplier else None
                return Trial(layer, multiplier, **bench.counts(method))

            return trial

        most = max(1, (bench.affords(len(bench.asked)) - 1 - FINER) // len(multipliers))
        layers = sorted(int(layer) for layer in layers)
        if most < len(layers):  # the middles of as many parts
            layers = [layers[(2 * place + 1) * len(layers) // (2 * most)] for place in range(most)]
        with tqdm(
            total=1 + len(layers) * len(multipliers) + 2 * bench.rounds,
            desc="choosing layer and multiplier",
            unit="setting",
            disable=not progress,
            leave=False,
        ) as bar:
            found = [trying(-1)(0.0)]
            for layer in layers:
                found += choosing.outward([float(one) for one in multipliers], trying(layer), found[0])
            best, _ = choosing.best(found)
            kin = [one for one in found if one.layer == best.layer]
            finer = choosing.refined([found[0], *kin], trying(best.layer), bench.rounds)
            found += finer[1 + len(kin) :]
        return (found[0], *sorted(found[1:], key=lambda one: (one.layer, abs(one.multiplier), one.multiplier)))

    @property
    def chosen(self) -> Trial | None:
        """The trial that was chosen, where layer and multiplier were chosen."""
        own = (self.layer, self.multiplier)
        return next((trial for trial in self.trials if (trial.layer, trial.multiplier) == own), None)

    # ── Keeping ──

    @property
    def measured_on(self) -> Identity | None:
        return self.directions.origin.model

    def uses(self) -> list[Use]:
        positions = EVERYWHERE if self.whole_prompt else FROM_THE_END
        unit = "1 is the vector as stored: the raw difference of means"
        formula = "x + multiplier * directions.vectors[layer]"
        return [added([self.layer], positions=positions, unit=unit, formula=formula)]

    def require_whole(self, owner: Identity | None) -> None:
        self.directions.require_whole(owner)
        artefacts.require_layers("layer", [self.layer], len(self.directions))

    def __str__(self) -> str:
        lines = [
            f"CAA, learned from {self.directions.origin.contrast}",
            f"  layer       {self.layer}",
            f"  multiplier  {self.multiplier:g}",
        ]
        return "\n".join([*lines, f"  {self.note}"] if self.note else lines)

    __repr__ = __str__


# ── Pairs, and what they give ────────────────────────────────────────────────────────────────────────────────


def choices(contrast: Contrast, most: int = PAIRS) -> tuple[Pair, ...]:
    """Each harmful and harmless prompt as a question whether to refuse it, at most so many, half of either kind.

    The refusing choice is (A) in every second pair of a kind, so that the letters' own difference cancels in the mean.

    Raises:
        ValueError: fewer than two prompts of a kind.
    """
    size = min(len(contrast.harmful), len(contrast.harmless), most // 2) // 2 * 2
    if size < 2:
        raise Refused(
            f"Letters are swapped in half of the pairs, so that two prompts of each kind are needed; "
            f"{contrast.name!r} has {len(contrast.harmful)} harmful and {len(contrast.harmless)} harmless ones."
        )
    found = []
    for prompts in (contrast.harmful, contrast.harmless):
        for place, prompt in enumerate(spread(prompts, size)):
            a, b = (REFUSING, ANSWERING) if place % 2 == 0 else (ANSWERING, REFUSING)
            letters = ("(A", "(B") if place % 2 == 0 else ("(B", "(A")
            found.append(Pair(QUESTION.format(prompt=words(prompt), a=a, b=b), *letters))
    return tuple(found)


@no_type_check  # whoever hands over what is no pair gets our own sentence, also where types are checked at run time
def _checked(pairs: Sequence[Pair]) -> list[Pair]:
    pairs = list(pairs)
    if not pairs:
        raise ValueError("CAA is learned from pairs, and there are none.")
    for place, pair in enumerate(pairs):
        if not isinstance(pair, Pair):
            raise ValueError(f"Pair {place} is a {type(pair).__name__}, not a Pair(question, refusing, answering).")
    return pairs


def letter_tokens(model: Model, pair: Pair, asking: Asking = BARE) -> tuple[list[int], list[int]]:
    """The refusing and the answering conversation as tokens, each up to the letter, its last one.

    The letter is the one token in which the two replies differ, wherever the tokenizer puts it.

    Raises:
        ValueError: the replies differ in no token, in several, or in their length.
    """
    both = [beginning(model, reply, asking=asking) for reply in (pair.refusing, pair.answering)]
    apart = [place for place, (a, b) in enumerate(zip(*both, strict=False)) if a != b]
    if len(both[0]) != len(both[1]) or len(apart) != 1:
        raise Refused(
            f"The replies of a pair differ in one token, the letter; {pair.refusing!r} and {pair.answering!r} are "
            f"{len(both[0])} and {len(both[1])} tokens long and differ in {len(apart)}."
        )
    asked = prompt_ids(model, pair.question, asking=asking)
    refusing, answering = (asked + list(reply[: apart[0] + 1]) for reply in both)
    return refusing, answering


def letter_directions(
    model: Model,
    pairs: Sequence[Pair],
    *,
    name: str = "pairs",
    asking: Asking = BARE,
    batch_size: int | None = None,
    progress: bool = True,
) -> Directions:
    """Mean over pairs of the state at the refusing letter minus that at the answering one, every layer; raw.

    Read at `hook_resid_post`, summed in float64.

    Raises:
        ValueError: no pairs, or one whose replies do not differ in exactly one token, or that is too long.
    """
    pairs = _checked(pairs)
    context, device = int(model.cfg.n_ctx), device_of(model)
    rows = [ids for pair in pairs for ids in letter_tokens(model, pair, asking)]
    long = max(map(len, rows))
    if long > context:
        raise Refused(f"A pair is {long} tokens long, and this model reads at most {context}.")
    points = [resid_post(layer) for layer in range(int(model.cfg.n_layers))]

    def last(states: Float[Tensor, "row pos d_model"], mask: Int[Tensor, "row pos"]) -> Tensor:
        return states[:, -1]

    total, norms = torch.tensor(0.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    batch_size = batch_size or rows_at_once(model, long)
    starts = range(0, len(rows), batch_size)
    for start in tqdm(starts, desc="reading letters", unit="batch", disable=not progress, leave=False):
        these = order[start : start + batch_size]
        tokens = padded([rows[row] for row in these], 0, device)  # any id will do, since the mask hides it
        states = seen_at(model, tokens, points, last).cpu().double()
        signs = torch.tensor([1.0 if row % 2 == 0 else -1.0 for row in these], dtype=torch.float64)
        total = total + (signs[:, None, None] * states).sum(dim=0)
        norms = norms + states.norm(dim=-1).sum(dim=0)
    digest = hashlib.sha256(json.dumps([list(asdict(pair).values()) for pair in pairs]).encode()).hexdigest()
    return Directions(
        vectors=(total / len(pairs)).float(),
        residual_norms=(norms / len(rows)).float(),
        origin=Origin(
            model=identity(model),
            contrast=name,
            digest=digest,
            n_harmful=len(pairs),
            n_harmless=len(pairs),
            versions=artefacts.versions(),
            position="letter of the choice",
            asking=asking,
            template=template_record(model, asking),
        ),
    )


def _of_world(fitting: Fitting) -> CAA:
    """Of the layers from the middle third on, but for the last fifth, where the paper's best ones lie."""
    n = int(fitting.world.model.cfg.n_layers)
    layers = range(n // 3, max(n // 3 + 1, int(0.8 * n)))
    tried = max(len(fitting.world.validation.harmful), len(fitting.world.validation.harmless))
    return CAA.fit(
        fitting.world.model, contrast=fitting.world.anchors, layers=layers, tried=tried, asking=fitting.asking,
        seed=fitting.seed, **fitting.chosen(),
    )  # fmt: skip


RECIPES = {"caa": learned(CAA, _of_world)}
