"""Refusal direction: the one line along which a model refuses, found by trying every candidate, and taken out or added.

Arditi et al.: Refusal in Language Models Is Mediated by a Single Direction. NeurIPS 2024, arXiv 2406.11717. What the
paper leaves open is as in its released code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from scans_lens import artefacts, judges, steering
from scans_lens.anchoring import refusal_log_odds, rising_tokens
from scans_lens.artefacts import EVERYWHERE, Kept, Use
from scans_lens.batches import token_batches
from scans_lens.cache import runner
from scans_lens.chat import Asked, Tokens, template
from scans_lens.conversation import BARE, Asking, Prompt
from scans_lens.directions import Origin, added, origin_in, origin_of
from scans_lens.errors import Refused
from scans_lens.flight import Flight
from scans_lens.generation import replies
from scans_lens.judges import Judge
from scans_lens.methods.choosing import learning_prompts, reply_tokens
from scans_lens.model import Hook, Model, identity, is_bundled
from scans_lens.prompts import Contrast
from scans_lens.reading import seen_at
from scans_lens.steering import Rows

SITES = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out")
"""Where a direction is taken out, in every layer: what a layer reads, and both things that it writes.

The two outputs are read as they are added to the residual stream: behind Gemma 2's norms after attention and MLP.
"""
TRAINING, VALIDATION = 128, 32
"""Prompts of each kind that are learned from and tried on, before those on the wrong side are left out."""
FEWEST = 8
"""Prompts that must be left of each kind; ours."""
NOTHING = 1e-6
"""A difference shorter than this share of the states that it is taken of is none: the template's tokens have the same
state in every prompt before the first layer."""

PUBLISHED = {
    "llama-2-7b-chat-hf": (306,),
    "llama-2-13b-chat-hf": (306,),
    "llama-2-70b-chat-hf": (306,),
    "meta-llama-3-8b-instruct": (40,),
    "meta-llama-3-70b-instruct": (40,),
    "qwen-1_8b-chat": (40, 2121),
    "qwen-7b-chat": (40, 2121),
    "gemma-2b-it": (235285,),
    "gemma-7b-it": (235285,),
    "yi-6b-chat": (59597,),
}
"""The release's tokens that refusals begin with ("I", "As"), by the end of the hub name."""


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


BUNDLED = Filters(most_kl=0.3, last=0.0)
"""For the bundled model, in which no candidate passes the paper's: it decides in its last quarter whether to refuse
(see its card), and begins an answer in a dozen ways, so that their shares move where no answer does."""


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


class NoDirection(Refused):
    """No candidate passed the filters; `trials` says what each did."""

    def __init__(self, sentence: str, trials: Sequence[Any]) -> None:
        super().__init__(sentence)
        self.trials = tuple(trials)


# ── The two methods ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class DirectionalAblation:
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

    def hooks(self, model: Model, prompts: Asked) -> list[Hook]:
        """For the caller's own loop over `chat_tokens(model, prompts)`; see `steering.hooks_of`."""
        return steering.hooks_of(self, model, prompts)


@dataclass(frozen=True)
class ActivationAddition:
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

    def hooks(self, model: Model, prompts: Asked) -> list[Hook]:
        """For the caller's own loop over `chat_tokens(model, prompts)`; see `steering.hooks_of`."""
        return steering.hooks_of(self, model, prompts)


def ablating(direction: Float[Tensor, "d_model"], n_layers: int, *, since: Any = None) -> list[Hook]:
    """Hooks that take the direction out of every layer, at each of `SITES`."""
    everywhere = direction.expand(n_layers, -1)
    return [hook for site in SITES for hook in steering.ablate(everywhere, range(n_layers), since=since, at=site)]


def taken_out(n_layers: int, what: str) -> list[Use]:
    """What a file's header says of a direction u that is taken out of every layer, at each of `SITES`."""
    unit = "none: all of x along u is taken out"
    return [
        Use("take out", f"blocks.{{layer}}.{site}", EVERYWHERE, tuple(range(n_layers)), unit, f"x - (x . u) u, {what}")
        for site in SITES
    ]


def adding(direction: Float[Tensor, "d_model"], layer: int, scale: Any, *, since: Any = None) -> list[Hook]:
    """Hooks that add the raw direction to what one layer reads."""
    return steering.add(direction.expand(layer + 1, -1), [layer], scale, since=since, at=SITES[0])


def require_own(origin: Origin, model: Model, what: str) -> None:
    """Refuse another model than the one that something was found in."""
    artefacts.require_same_model(origin.model, identity(model), what)


# ── Finding the direction ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class RefusalDirection:
    """A direction that was chosen among all candidates; `ablation()` and `addition(-1)` are the methods it makes."""

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
            judge: for that, whether a reply refuses; by default `judges.judge_for(model)`.
            training, tried: prompts of each kind, spread evenly over the contrast and the validation prompts.
            filtered: whether prompts on the wrong side are left out: harmful ones with a score below 0, which the
                model answers, and harmless ones above.
            filters: by default the paper's, and `BUNDLED` for the bundled model; `Filters(inf, -inf, 0)` let
                everything pass.
            seed: of what is held out, where the caller gives a contrast and no validation prompts.
            batch_size: prompts at once; by default what fits and pays.

        Raises:
            ValueError: too few prompts are left, or the model refuses none.
            NoDirection: no candidate passes the filters.
        """
        contrast, validation, _ = learning_prompts(model, contrast, validation, seed, asking)
        assert validation is not None
        filters = filters or (BUNDLED if is_bundled(model) else Filters())
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

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with everything else in its header."""
        header = {
            "origin": asdict(self.origin),
            "position": self.position,
            "layer": self.layer,
            "tokens": self.tokens,
            "trials": [asdict(trial) for trial in self.trials],
            "plain": self.plain,
            "note": self.note,
        }
        artefacts.write(path, "refusal direction", {"candidates": self.candidates}, header, self._uses())

    def _uses(self) -> list[Use]:
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

    @classmethod
    def load(cls, path: str | Path, model: Model | None = None) -> RefusalDirection:
        """Read it back; with `model`, only if it was found in that model.

        Raises:
            ValueError: no such file, not safetensors, cut short, something else, or of another model.
        """
        kept = Kept.read(path, "refusal direction")
        artefacts.require_parts(path, kept.tensors, ("candidates",))
        origin = origin_in(kept, ("candidates",), model, "These refusal directions")
        named = ("position", "layer", "tokens", "trials", "plain", "note")
        found = cls(candidates=kept.tensor("candidates"), origin=origin, **kept.fields(cls, *named))
        return found.at(found.position, found.layer)

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


# ── What the candidates are made of, and tried with; single-vector ablation uses it too ──────────────────────


def spread(prompts: Sequence[Prompt], most: int) -> tuple[Prompt, ...]:
    """At most so many of the prompts, evenly spread over them, since a list may be in the order of its topics."""
    if most < 1:
        raise ValueError(f"There must be at least one prompt of each kind, not {most}.")
    most = min(most, len(prompts))
    return tuple(prompts[place * len(prompts) // most] for place in range(most))


def openings(
    model: Model,
    sides: Sequence[Sequence[Prompt]],
    tokens: Sequence[int] | None,
    judge: Judge | None,
    batch_size: int | None,
    progress: bool,
) -> tuple[int, ...]:
    """The caller's tokens, the published ones, or those that the model's own replies give."""
    if tokens is not None:
        size = identity(model).d_vocab
        wrong = next((token for token in tokens if not 0 <= int(token) < size), None)
        if wrong is not None or not len(tokens) or len(set(tokens)) == size:
            found = f"{wrong} is none" if wrong is not None else f"there are {len(tokens)} of them"
            raise ValueError(f"Refusals begin with some tokens of the vocabulary, 0 to {size - 1}; {found}.")
        return tuple(int(token) for token in tokens)
    name = str(getattr(model.cfg, "model_name", "") or "").rsplit("/", 1)[-1].lower()
    if name in PUBLISHED:
        return PUBLISHED[name]
    return refusal_openings(model, sides[0], sides[1], judge=judge, batch_size=batch_size, progress=progress)


def refusal_openings(
    model: Model,
    harmful: Sequence[Prompt],
    harmless: Sequence[Prompt],
    *,
    judge: Judge | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> tuple[int, ...]:
    """The tokens that this model's refusals begin with, the likeliest first.

    Ours, for any model; the paper picks them by hand. The prompts are the harmful ones whose greedy reply the judge
    calls refused and the harmless ones whose reply it does not; the tokens are those that carry nine tenths of the
    rise in probability, as the reply's first token, from the latter to the former (see `lens.rising_tokens`).

    Raises:
        ValueError: no reply to a harmful prompt is a refusal, or every reply to a harmless one.
    """
    judge = judge or judges.judge_for(model)
    found = []
    for name, prompts, wanted in (("harmful", harmful, True), ("harmless", harmless, False)):
        said = replies(model, prompts, max_new_tokens=reply_tokens(judge), batch_size=batch_size, progress=progress)
        verdicts = judges.refused(judge, said)
        found.append([prompt for prompt, no in zip(prompts, verdicts, strict=True) if no == wanted])
        if not found[-1]:
            raise Refused(
                f"The model refuses {'none' if wanted else 'all'} of {len(prompts)} {name} training prompts, so that "
                "there is no telling how its refusals begin; give tokens=…, their first tokens."
            )
    return rising_tokens(model, Contrast("refused and answered", *found), batch_size=batch_size)


@torch.no_grad()
def refusal_scores(
    model: Model,
    prompts: Sequence[Prompt],
    tokens: Sequence[int],
    *,
    hooks: Sequence[Hook] = (),
    batch_size: int | None = None,
) -> Float[Tensor, "prompt"]:
    """log P - log(1 - P) of the reply beginning with one of the tokens, in nats, for each prompt under these hooks.

    Exact: the release adds 1e-8 to both shares, which bounds its scores at 18.4.
    """
    scores = torch.empty(len(prompts), dtype=torch.float64)
    for rows, batch in token_batches(model, prompts, batch_size=batch_size):
        scores[rows] = refusal_log_odds(_first_logits(model, batch, hooks), tokens).cpu()
    return scores


def on_its_side(
    model: Model, prompts: Sequence[Prompt], tokens: Sequence[int], *, kind: str, split: str, batch_size: int | None
) -> tuple[Prompt, ...]:
    """The prompts that the model refuses, or of harmless ones those that it answers, by the refusal score.

    Raises:
        ValueError: fewer than `FEWEST` are left.
    """
    sign, verb = (-1, "answers") if kind == "harmless" else (1, "refuses")
    scores = refusal_scores(model, prompts, tokens, batch_size=batch_size)
    found = tuple(text for text, score in zip(prompts, scores.tolist(), strict=True) if sign * score > 0)
    if len(found) < FEWEST:
        raise Refused(
            f"Of {len(prompts)} {kind} {split} prompts the model {verb} {len(found)} (by the refusal score), and "
            f"{FEWEST} are needed; give other prompts or other tokens, or filtered=False."
        )
    return found


@torch.no_grad()
def tail_means(
    model: Model, prompts: Sequence[Prompt], batch_size: int | None, progress: bool
) -> tuple[Float[Tensor, "position layer d_model"], Float[Tensor, "position layer"]]:
    """Mean states at `hook_resid_pre` of the template's tail, and their mean norms, summed in float64."""
    points = [f"blocks.{layer}.{SITES[0]}" for layer in range(int(model.cfg.n_layers))]
    length = len(template(model, prompts[0]).tail)
    if not length:
        raise Refused("The model's chat template writes nothing behind the user's words, so there is no candidate.")

    def tail(states: Float[Tensor, "row pos d_model"], mask: Int[Tensor, "row pos"]) -> Tensor:
        return states[:, -length:]

    total, norms = torch.tensor(0.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    word = "reading" if progress else None
    for _, batch in token_batches(model, prompts, batch_size=batch_size, progress=word):
        states = seen_at(model, batch, points, tail).cpu().double()
        total = total + states.sum(dim=0).transpose(0, 1)
        norms = norms + states.norm(dim=-1).sum(dim=0).transpose(0, 1)
    return total / len(prompts), norms / len(prompts)


def differences(
    these: Float[Tensor, "position layer d_model"],
    those: Float[Tensor, "position layer d_model"],
    lengths: Float[Tensor, "position layer"],
) -> Float[Tensor, "position layer d_model"]:
    """These means minus those, and exactly 0 where they differ by rounding alone."""
    found = these - those
    return torch.where((found.norm(dim=-1) > NOTHING * lengths)[..., None], found, 0.0)


def places(candidates: Float[Tensor, "position layer d_model"], word: str, progress: bool) -> Iterator[tuple[int, int]]:
    """Every position, counted from the end, with every layer."""
    positions, layers = candidates.shape[:2]
    every = [(position, layer) for position in range(-positions, 0) for layer in range(layers)]
    yield from tqdm(every, desc=word, unit="candidate", disable=not progress, leave=False)


def grid(trials: Sequence[Any], shape: Sequence[int], of: Callable[[Any], float]) -> Float[Tensor, "position layer"]:
    """One number a trial, by position and layer."""
    found = torch.full(tuple(shape), float("nan"), dtype=torch.float64)
    for trial in trials:
        found[trial.position, trial.layer] = of(trial)
    return found


class Trying:
    """Sides of validation prompts, tokenised once, that are run under the hooks of one candidate after the other."""

    def __init__(
        self, model: Model, tokens: Sequence[int], sides: Sequence[Sequence[Prompt]], batch_size: int | None
    ) -> None:
        self.model, self.tokens = model, tokens
        self._sides = [[batch for _, batch in token_batches(model, side, batch_size=batch_size)] for side in sides]
        self._plain: dict[int, list[Tensor]] = {}
        self._plain_score: dict[int, float] = {}

    def hooks(self, vector: Float[Tensor, "d_model"]) -> list[Hook]:
        """Of directional ablation; none where there is nothing to take out."""
        return ablating(vector, int(self.model.cfg.n_layers)) if bool(vector.any()) else []

    def score(self, side: int, hooks: Sequence[Hook]) -> float:
        """Mean refusal score of a side under these hooks, in nats."""
        if not hooks and side in self._plain_score:
            return self._plain_score[side]
        found = [refusal_log_odds(_first_logits(self.model, batch, hooks), self.tokens) for batch in self._sides[side]]
        score = float(torch.cat(found).mean())
        if not hooks:
            self._plain_score[side] = score
        return score

    def divergence(self, side: int, hooks: Sequence[Hook]) -> float:
        """Mean KL(plain || steered) of a side's first reply token, in nats."""
        if not hooks:
            return 0.0
        if side not in self._plain:
            self._plain[side] = [_first_logits(self.model, batch, ()).cpu() for batch in self._sides[side]]
        found = []
        for batch, before in zip(self._sides[side], self._plain[side], strict=True):
            plain = before.double().log_softmax(dim=-1)
            steered = _first_logits(self.model, batch, hooks).cpu().double().log_softmax(dim=-1)
            found.append((plain.exp() * (plain - steered)).sum(dim=-1).clamp(min=0.0))
        return float(torch.cat(found).mean())


@torch.no_grad()
def _first_logits(model: Model, batch: Tokens, hooks: Sequence[Hook]) -> Float[Tensor, "row d_vocab"]:
    with model.hooks(fwd_hooks=list(hooks)):
        return runner(model).feed(batch.ids, batch.mask)
