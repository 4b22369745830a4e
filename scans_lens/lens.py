"""The lens: what a direction says in words of the model's vocabulary."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from scans_lens.chat import first_tokens, words_of
from scans_lens.directions import Directions
from scans_lens.errors import Refused
from scans_lens.model import Model, require_raw, unembedding_of

REFUSAL_WORDS = (
    "sorry", "Sorry", "cannot", "Cannot", "can't", "won't", "unable", "Unable", "unfortunately", "Unfortunately",
    "apologize", "apologise", "refuse", "refused", "reject", "rejected", "decline", "declined", "deny", "denied",
    "impossible", "forbidden", "prohibited", "illegal", "unethical", "inappropriate", "harmful", "dangerous", "wrong",
    "not", "No", "no", "against", "harm", "irresponsible",
)  # fmt: skip
"""Stems and forms of words that refuse; those that are one token of a vocabulary are looked for there."""
COLUMNS = 16_384
"""Of the unembedding, how many are in float64 at once."""


def logits_of(model: Model, vectors: Float[Tensor, "layer d_model"]) -> Float[Tensor, "layer d_vocab"]:
    """Each vector put to the unembedding, without the final norm (SCANS, section 3.2), in float32 on the CPU."""
    require_raw(model, "The vocabulary projection")
    unembedding = unembedding_of(model).detach()
    return (vectors.to(unembedding.device).float() @ unembedding.float()).cpu()


def top_tokens(model: Model, vectors: Float[Tensor, "layer d_model"], k: int = 10) -> list[list[str]]:
    """The `k` tokens that each vector says the loudest, the loudest first."""
    return [words_of(model, row) for row in logits_of(model, vectors).topk(k, dim=-1).indices.tolist()]


def refusal_tokens(model: Model, words: Sequence[str] | None = None) -> dict[str, int]:
    """The words of refusal that are single tokens of this vocabulary, with those tokens.

    Args:
        words: to look for instead of `REFUSAL_WORDS`; then each must be there.

    Raises:
        ValueError: a word of the caller's is no single token, or none of ours is.
    """
    found = first_tokens(model, REFUSAL_WORDS if words is None else words)
    if words is not None:
        missing = [word for word in words if word not in found and " " + word not in found]
        if missing:
            raise ValueError(f"No single token of this vocabulary says {missing[0]!r}; give other refusal words.")
    if not found:
        raise Refused("None of the refusal words is a single token of this vocabulary; give words=… that are.")
    return found


@dataclass(frozen=True)
class Third:
    """What one third of the layers says together (SCANS, table 1)."""

    name: str
    layers: tuple[int, ...]
    tokens: tuple[str, ...]
    explained: float
    """Share of the stacked vectors' squared length that lies along the component."""


def layers_by_thirds(n: int) -> dict[str, range]:
    """Of `n` layers the former, the middle and the latter third; 0-9, 10-20 and 21-31 of 32, as in the paper."""
    edges = (0, n // 3, 2 * n // 3, n)
    return {name: range(*ends) for name, ends in zip(("former", "middle", "latter"), pairwise(edges), strict=True)}


def thirds(
    model: Model, directions: Directions, *, k: int = 10, centre: bool = False, unit: bool = True
) -> tuple[Third, Third, Third]:
    """The paper's own procedure: the first principal component of each third's directions, put to the LM head.

    Args:
        centre: subtract the third's mean first, as PCA usually does; that removes what the layers share.
        unit: give every layer's direction length 1 first. `centre=True, unit=False` is the paper to the letter.

    The component's sign is the one that agrees with the directions. The final norm is left out.

    Raises:
        ValueError: fewer than three layers, or centring a third of one layer, which leaves nothing of it.
    """
    n = len(directions)
    if n // 3 < (2 if centre else 1):
        raise ValueError(
            f"Each third needs {'two layers to be centred' if centre else 'a layer'}; {n} layers are too few."
        )
    chosen = directions.unit() if unit else directions
    result = []
    for name, layers in layers_by_thirds(n).items():
        stacked = chosen.vectors[layers.start : layers.stop].double()
        moved = stacked - stacked.mean(dim=0) if centre else stacked
        _, lengths, axes = torch.linalg.svd(moved, full_matrices=False)
        component = -axes[0] if (stacked @ axes[0]).mean() < 0 else axes[0]
        tokens = top_tokens(model, component[None].float(), k)[0]
        share = float(lengths[0] ** 2 / (lengths**2).sum())
        result.append(Third(name, tuple(layers), tuple(tokens), share))
    return tuple(result)  # type: ignore[return-value]


class Loudness:
    """How far words stand above a vocabulary, in standard deviations, for many vectors at once.

    The mean and spread over the vocabulary come from the unembedding's mean column and Gram matrix, so that
    thousands of vectors cost d_model squared each and not d_vocab.
    """

    def __init__(self, model: Model, ids: Sequence[int]) -> None:
        unembedding = unembedding_of(model).detach()
        self._mean = torch.zeros(len(unembedding), dtype=torch.float64)
        self._gram = torch.zeros(len(unembedding), len(unembedding), dtype=torch.float64)
        for part in unembedding.split(COLUMNS, dim=1):  # the whole in float64 would be a second model
            part = part.double().cpu()
            self._mean += part.sum(dim=1) / unembedding.shape[1]
            self._gram += part @ part.T / unembedding.shape[1]
        self._words = unembedding[:, list(ids)].double().cpu()

    def of_words(self, model: Model, ids: Sequence[int]) -> Loudness:
        """The same vocabulary with other words."""
        other = copy.copy(self)
        other._words = unembedding_of(model).detach()[:, list(ids)].double().cpu()
        return other

    def __call__(self, vectors: Float[Tensor, "*many d_model"]) -> Float[Tensor, "*many word"]:
        return self.lift(vectors) / self.spread(vectors)[..., None]

    def lift(self, vectors: Float[Tensor, "*many d_model"]) -> Float[Tensor, "*many word"]:
        """The words' logits minus the vocabulary's mean logit."""
        return vectors.double() @ self._words - (vectors.double() @ self._mean)[..., None]

    def spread(self, vectors: Float[Tensor, "*many d_model"]) -> Float[Tensor, "*many"]:
        """Standard deviation of the logits over the vocabulary."""
        vectors = vectors.double()
        return (((vectors @ self._gram) * vectors).sum(-1) - (vectors @ self._mean) ** 2).clamp(min=1e-24).sqrt()
