"""Continuing: how a model goes on after a text without a chat."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from scans_lens.chat import end_tokens, text_of
from scans_lens.decoding import Picker, Stream, decode, penalty_of
from scans_lens.generation import NEW_TOKENS
from scans_lens.model import Model
from scans_lens.pieces import Piece, begun, fitting, piece_batches, prefix_of, require_steerable, text_ids
from scans_lens.steering import Method


@torch.no_grad()
def continuations(
    model: Model,
    contexts: Sequence[str],
    method: Method | None = None,
    *,
    stops: Sequence[str] = (),
    most: int = NEW_TOKENS,
    sign: float | None = None,
    batch_size: int | None = None,
    truncate: bool = False,
) -> tuple[str, ...]:
    """How the model goes on after each context, as text without a chat template, greedily.

    The repetition penalty is what the method asks for, as in `replies`.

    Args:
        stops: a continuation ends before the first of these texts, or where the model ends it.
        most: new tokens. There must be room for all of them behind a context.
        sign: see `lm`.
        truncate: see `lm`.

    Raises:
        ValueError: a context that leaves no room, or a model without a chat template, which says how replies end.
    """
    require_steerable(method, sign)
    if most < 1:
        raise ValueError(f"A continuation needs room for at least one token, not {most}.")
    ends = frozenset(end_tokens(model))
    before = [tuple(text_ids(model, context)) or (prefix_of(model),) for context in contexts]
    # As long as they will be at most, so that batches have room; what stands there is never read.
    pieces = [
        Piece((*ids, *[0] * most), len(ids), most, decided=bool(context.strip()))
        for ids, context in zip(before, contexts, strict=True)
    ]
    pieces = fitting(model, pieces, method, truncate)
    said: list[list[int]] = [[] for _ in contexts]
    for places in piece_batches(model, pieces, batch_size):
        behind = begun(model, [pieces[place] for place in places], method, sign)
        stream = Stream(model, behind.run, behind.logits, behind.riders)
        pick = Picker([""] * len(places), behind.tokens.ids, behind.tokens.mask, None, penalty_of(method))
        decode(stream, pick, _told(model, [said[place] for place in places], ends, stops), most)
    return tuple(_cut(text_of(model, ids), stops) for ids in said)


def _told(
    model: Model, said: Sequence[list[int]], ends: frozenset[int], stops: Sequence[str]
) -> Callable[[int, int], bool]:
    """What writes each row's tokens down, the end token aside, and tells whether the row ends with this one."""

    def is_over(row: int, token: int) -> bool:
        if token in ends:
            return True
        said[row].append(token)
        text = text_of(model, said[row]) if stops else ""
        return any(stop in text for stop in stops)

    return is_over


def _cut(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0]
    return text
