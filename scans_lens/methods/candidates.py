"""Candidates: directions of refusal that are read at every token of the template's tail and every layer, and tried.

Arditi et al.: Refusal in Language Models Is Mediated by a Single Direction. NeurIPS 2024, arXiv 2406.11717. What the
paper leaves open is as in its released code. Single-vector ablation (`false_refusal`) tries its candidates likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from scans_lens import artefacts, judges, steering
from scans_lens.anchoring import refusal_log_odds, rising_tokens
from scans_lens.artefacts import EVERYWHERE, Use
from scans_lens.batches import token_batches
from scans_lens.cache import runner
from scans_lens.chat import Tokens, template
from scans_lens.conversation import Prompt
from scans_lens.directions import Origin
from scans_lens.errors import Refused
from scans_lens.generation import replies
from scans_lens.judges import Judge
from scans_lens.methods.choosing import reply_tokens
from scans_lens.model import Hook, Model, identity
from scans_lens.prompts import Contrast
from scans_lens.reading import seen_at
from scans_lens.world import world_of

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


class NoDirection(Refused):
    """No candidate passed the filters; `trials` says what each did."""

    def __init__(self, sentence: str, trials: Sequence[Any]) -> None:
        super().__init__(sentence)
        self.trials = tuple(trials)


# ── Hooks ────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── What the candidates are made of, and tried with ──────────────────────────────────────────────────────────


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
    judge = judge or world_of(model).judge
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
