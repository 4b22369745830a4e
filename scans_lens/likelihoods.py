"""Likelihoods: how well a model, steered or not, foretells texts that have nothing to do with refusal.

A push is decided from a context and acts from the context's last token on, as it does in replies. The paper measures
perplexity, MMLU and XSum (SCANS, arXiv 2408.11491), in forms of its own that are not comparable.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from scans_lens.errors import Refused
from scans_lens.model import Model, resid_post
from scans_lens.pieces import (
    Begun,
    Piece,
    begun,
    fitting,
    parted,
    piece_batches,
    prefix_of,
    require_steerable,
    tail_of,
    text_ids,
    without,
)
from scans_lens.steering import Method

RESAMPLES = 2000
"""Draws behind an interval over texts."""


@dataclass(frozen=True)
class Score:
    """What a model makes of a continuation."""

    log_likelihood: float
    """In nats, summed over the tokens."""
    greedy: bool
    """Whether every token is the likeliest where it stands."""
    tokens: int
    scale: float | None
    """How hard the context was pushed, + towards refusal; None where nothing was."""


@dataclass(frozen=True)
class Perplexity:
    """How a model fares at foretelling texts, each of them by itself."""

    nats: tuple[float, ...]
    """Negative log-likelihood of each text, summed over its tokens."""
    tokens: tuple[int, ...]
    """Of each text, BOS aside."""
    words: tuple[int, ...]
    """Of each text, between white space, as lm-eval counts them."""

    @property
    def value(self) -> float:
        """exp of the nats per token."""
        return math.exp(sum(self.nats) / sum(self.tokens))

    @property
    def per_word(self) -> float:
        """exp of the nats per word (lm-eval's word_perplexity); it can be compared between tokenizers."""
        return math.exp(sum(self.nats) / sum(self.words))

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % of `value`, by bootstrap over texts; None for one text, of which there is nothing to draw."""
        return _over_texts(self.nats, self.tokens)

    @property
    def interval_per_word(self) -> tuple[float, float] | None:
        """95 % of `per_word`, likewise."""
        return _over_texts(self.nats, self.words)

    def beside(self, plain: Perplexity) -> tuple[float, tuple[float, float]]:
        """Its ratio to another perplexity of the same texts, and 95 % of that by bootstrap over texts.

        Raises:
            ValueError: the other is one of other texts, or there is only one text.
        """
        if self.tokens != plain.tokens:
            raise ValueError("These are perplexities of different texts, and have no ratio.")
        moved = [own - other for own, other in zip(self.nats, plain.nats, strict=True)]
        between = _over_texts(moved, self.tokens)
        if between is None:
            raise ValueError("Of one text there is no interval: give several.")
        return self.value / plain.value, between

    def as_json(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "interval": self.interval and list(self.interval),
            "per_word": self.per_word,
            "interval_per_word": self.interval_per_word and list(self.interval_per_word),
            "tokens": sum(self.tokens),
            "words": sum(self.words),
            "texts": len(self.nats),
        }

    def __str__(self) -> str:
        between = " [{:.2f}, {:.2f}]".format(*self.interval) if self.interval else ""
        return f"{self.value:.2f}{between} ({sum(self.tokens)} tokens, {len(self.nats)} texts)"


def log_likelihoods(
    model: Model,
    pairs: Sequence[tuple[str, str]],
    method: Method | None = None,
    *,
    sign: float | None = None,
    batch_size: int | None = None,
    truncate: bool = False,
    progress: bool = True,
) -> tuple[Score, ...]:
    """How likely each continuation is after its context, as text without a chat template.

    Context and continuation are tokenised as one text and parted at the context's length; spaces at a context's end
    go to the continuation (as lm-eval does), unless it is a chat prompt up to where the reply begins. BOS is there
    once, if the model's tokenizer puts one before a text. The push is decided from the context alone, and the first
    token that is read under it is the context's last, which foretells the continuation's first.

    Args:
        pairs: context and continuation; an empty context is BOS, or the end of text where there is none.
        sign: see `lm`; a method that decides something needs one where a context is empty.
        truncate: see `lm`.

    Raises:
        ValueError: a continuation without tokens, or a pair that does not fit the model's context.
    """
    require_steerable(method, sign)
    pieces, tail = [], tail_of(model)
    for place, (context, continuation) in enumerate(pairs):
        before, after = parted(model, context, continuation, tail)
        if not after:
            raise ValueError(f"The continuation of pair {place} has no tokens of its own: {continuation!r:.60}.")
        pieces.append(Piece((*before, *after), len(before), len(after), decided=bool(context.strip())))
    return scored(
        model, fitting(model, pieces, method, truncate), method, sign, batch_size=batch_size, progress=progress
    )


@torch.no_grad()
def perplexity(
    model: Model,
    texts: str | Sequence[str],
    method: Method | None = None,
    *,
    sign: float | None = None,
    window: int | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> Perplexity:
    """How well the model foretells texts, with every token of theirs pushed if there is a method.

    A text that is longer than the window is read in pieces as lm-eval reads it: the next piece begins with the last
    token of the one before, and the last piece reaches back as far as the window does; every token is foretold once.
    lm-eval's own wrapper of Hugging Face models has two BOS before a text where the tokenizer puts one, and counts
    the second as foretold; here there is one.

    Args:
        texts: each is read by itself. One string is one text, and has no interval.
        sign: -1 pushes away from refusal and +1 towards it, as hard as the method decides. It has to be given with a
            method that decides something, since a text has no context to decide from.
        window: tokens read at once; by default all that the model can.

    Raises:
        ValueError: no texts, texts without tokens, a window the model cannot read, or a method without a sign.
    """
    require_steerable(method, sign)
    texts = [texts] if isinstance(texts, str) else list(texts)
    most = int(model.cfg.n_ctx)
    window = most if window is None else window
    if not 1 <= window <= most:
        raise ValueError(f"A window has from 1 to {most} tokens on this model, not {window}.")
    pieces, owner, first = [], [], prefix_of(model)
    tokens = [without(first, text_ids(model, text, specials=False)) for text in texts]
    if not any(tokens):
        raise ValueError("There is nothing to foretell: there are no texts, or no tokens in them.")
    for place, ids in enumerate(tokens):
        cut = list(_windows((first, *ids), window))
        pieces += cut
        owner += [place] * len(cut)
    nats = [0.0] * len(texts)
    scores = scored(model, pieces, method, sign, batch_size=batch_size, progress=progress)
    for place, score in zip(owner, scores, strict=True):
        nats[place] -= score.log_likelihood
    words = tuple(len(re.split(r"\s+", text)) for text in texts)
    return Perplexity(tuple(nats), tuple(map(len, tokens)), words)


def perplexity_after(
    model: Model,
    pairs: Sequence[tuple[str, str]],
    method: Method | None = None,
    *,
    sign: float | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> Perplexity:
    """How well continuations are foretold after their contexts, from which the method decides.

    Args and errors are those of `log_likelihoods`, whose scores these are.
    """
    scores = log_likelihoods(model, pairs, method, sign=sign, batch_size=batch_size, progress=progress)
    return Perplexity(
        tuple(-score.log_likelihood for score in scores),
        tuple(score.tokens for score in scores),
        tuple(len(continuation.split()) for _, continuation in pairs),
    )


def _windows(ids: tuple[int, ...], window: int) -> Iterator[Piece]:
    """The pieces in which a text is foretold; its first token is given."""
    for start in range(0, len(ids) - 1, window):
        end = min(start + window, len(ids) - 1)
        yield Piece(ids[max(0, end - window) : end + 1], context=1, scored=end - start, decided=False)


def _over_texts(nats: Sequence[float], counts: Sequence[int]) -> tuple[float, float] | None:
    """95 % interval of exp(nats per count), by drawing texts with replacement."""
    import numpy as np

    if len(nats) < 2:
        return None
    sums = np.stack([np.asarray(nats), np.asarray(counts, dtype=float)], axis=1)
    drawn = sums[np.random.default_rng(0).integers(len(sums), size=(RESAMPLES, len(sums)))].sum(axis=1)
    drawn = drawn[drawn[:, 1] > 0]
    low, high = np.exp(np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975]))
    return float(low), float(high)


@torch.no_grad()
def scored(
    model: Model,
    pieces: Sequence[Piece],
    method: Method | None = None,
    sign: float | None = None,
    *,
    batch_size: int | None = None,
    progress: bool = True,
) -> tuple[Score, ...]:
    """Every piece's score; what reads the same, such as the choices of a question, is run once."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for place, piece in enumerate(pieces):
        alike.setdefault((piece.read, piece.context, piece.decided), []).append(place)
    groups = list(alike.values())
    found: list[Score | None] = [None] * len(pieces)
    hidden = not progress or len(groups) < 2
    with tqdm(total=len(groups), desc="scoring", unit="text", disable=hidden, leave=False) as bar:
        for batch in piece_batches(model, [pieces[group[0]] for group in groups], batch_size):
            distinct = [pieces[groups[number][0]] for number in batch]
            behind = begun(model, distinct, method, sign)
            scales = behind.scales
            for row, (number, logits) in enumerate(zip(batch, _logits(model, behind, distinct), strict=True)):
                for place in groups[number]:
                    found[place] = _score(logits, pieces[place], None if scales is None else float(scales[row]))
            bar.update(len(batch))
    return tuple(score for score in found if score is not None)


def _score(logits: Float[Tensor, "pos d_vocab"], piece: Piece, scale: float | None) -> Score:
    logits = logits[-piece.scored :]
    targets = torch.tensor(piece.ids[-piece.scored :], device=logits.device)
    shares = logits.float().log_softmax(dim=-1).gather(1, targets[:, None])
    greedy = bool((logits.argmax(dim=-1) == targets).all())
    return Score(float(shares.double().sum()), greedy, piece.scored, scale)


def _logits(model: Model, behind: Begun, pieces: Sequence[Piece]) -> Iterator[Float[Tensor, "pos d_vocab"]]:
    """Of each piece, from the last token of its context on: a row at a time, since a vocabulary is large."""
    rests = [piece.read[piece.context :] for piece in pieces]
    first, longest = behind.logits, max(map(len, rests))
    states = None
    if longest and behind.swaps_the_head:
        raise Refused(
            "This method puts a head of its own in place of the unembedding, and log-likelihoods behind the first "
            "token are not read through it: score continuations of one token, or ask for replies."
        )
    if longest:
        # Padding behind a text needs no mask: attention is causal, so that nothing feels it.
        ids = torch.tensor([[*rest, *[0] * (longest - len(rest))] for rest in rests], device=first.device)
        seen: list[Tensor] = []
        last = resid_post(int(model.cfg.n_layers) - 1)
        behind.feed(ids, [(last, lambda residual, hook: seen.append(residual))])
        states = seen[-1][:, -longest:]  # the whole text may have been run again
        _require_plain_logits(behind.logits, _unembedded(model, states[:, -1:])[:, 0])
    for row, rest in enumerate(rests):
        logits = first[row : row + 1]
        if states is not None and rest:
            logits = torch.cat([logits, _unembedded(model, states[row : row + 1, : len(rest)])[0]])
        yield logits


def _unembedded(model: Any, states: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos d_vocab"]:
    logits = model.unembed(model.ln_final(states))
    cap = getattr(model.cfg, "output_logits_soft_cap", None) or 0.0
    return cap * torch.tanh(logits / cap) if cap > 0 else logits


def _require_plain_logits(theirs: Tensor, ours: Tensor) -> None:
    """The same column two ways, so that nobody gets numbers of a model that does more to its logits than is known."""
    apart = float((theirs.float() - ours.float()).abs().max())
    if not apart <= 0.05 * float(theirs.float().abs().max()):
        raise ValueError(
            "This model does something to its logits behind the unembedding that is not known here, or they are not "
            f"finite: the last ones are {apart:.3g} apart."
        )
