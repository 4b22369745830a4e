"""Pieces: texts without a chat as tokens, some of them given and some asked for, and how a batch of them begins.

A push is decided from what is given and acts from its last token on, as it does in replies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scans_lens.batches import rows_at_once
from scans_lens.cache import Runner, crosses, runner, sides
from scans_lens.chat import Tokens, padded, template
from scans_lens.decoding import Rider, hooks_of_riders
from scans_lens.flight import Flight, begun_together
from scans_lens.model import Hook, Model, device_of, hooked
from scans_lens.steering import Method, Rows, require_method

ALIKE = 64
"""Tokens that contexts must have in common to be run together."""
MANY = 8
"""Contexts that must have them, for that to pay."""


@dataclass(frozen=True)
class Piece:
    """Tokens whose last ones are to be foretold, and how many of them are given."""

    ids: tuple[int, ...]
    context: int
    scored: int
    decided: bool = True
    """Whether there is something to decide from; otherwise the sign has to be given."""

    @property
    def read(self) -> tuple[int, ...]:
        """The last token is only foretold."""
        return self.ids[:-1]


def text_ids(model: Model, text: str, *, specials: bool = True) -> list[int]:
    """A text as the model's own tokenizer has it; one that brings its BOS along gets no other."""
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise ValueError("This model has no tokenizer, so texts cannot be put to it.")
    there = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
    return list(tokenizer(text, add_special_tokens=specials and not there, verbose=False)["input_ids"])


def prefix_of(model: Model) -> int:
    """What stands before a text that has no context, as lm-eval has it."""
    tokenizer = model.tokenizer
    return int(tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id)


def without(first: int, ids: list[int]) -> list[int]:
    """The tokens behind `first`, where they begin with it."""
    return ids[1:] if ids[:1] == [first] else ids


def parted(
    model: Model, context: str, continuation: str, tail: tuple[int, ...] = ()
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens of a context and of what follows it (lm-eval, `TemplateLM._encode_pair`).

    Args:
        tail: how a chat prompt ends; there the push begins in replies, too, and spaces stay where they are.
    """
    if not context:
        first = prefix_of(model)
        return (first,), tuple(without(first, text_ids(model, continuation, specials=False)))
    spaces = len(context) - len(context.rstrip())
    if spaces and not (tail and tuple(text_ids(model, context)[-len(tail) :]) == tail):
        context, continuation = context[:-spaces], context[-spaces:] + continuation
        if not context:
            return parted(model, context, continuation)
    before = text_ids(model, context)
    return tuple(before), tuple(text_ids(model, context + continuation)[len(before) :])


def tail_of(model: Model) -> tuple[int, ...]:
    """How a chat prompt of this model ends; nothing where it has no chat template."""
    return template(model).tail if getattr(model.tokenizer, "chat_template", None) else ()


def room_of(model: Model, method: Method | None) -> Any:
    """From a piece to the columns that it takes; a method may read the opening behind the context."""
    opening = len(template(model).opening) if method is not None else 0
    return lambda piece: max(len(piece.read), piece.context + opening)


def fitting(model: Model, pieces: Sequence[Piece], method: Method | None, truncate: bool) -> list[Piece]:
    """The pieces, cut at the beginning where that was asked for."""
    most, room, fit = int(model.cfg.n_ctx), room_of(model, method), []
    for place, piece in enumerate(pieces):
        over = room(piece) - most
        if over > 0:
            kept = int(piece.ids[0] == prefix_of(model))
            if not truncate or over >= piece.context - kept:
                remedy = "cut it, or let truncate=True do so" if over < piece.context - kept else "cut it"
                raise ValueError(
                    f"Request {place} takes {over + most} tokens, its continuation included, and this model reads at "
                    f"most {most}: {remedy}."
                )
            piece = Piece(
                piece.ids[:kept] + piece.ids[kept + over :], piece.context - over, piece.scored, piece.decided
            )
        fit.append(piece)
    return fit


def require_steerable(method: Any, sign: float | None) -> None:
    """Say what is wrong with a method or a sign that texts without a chat cannot be put under."""
    require_method(method)
    if method is not None and method.asks_twice:
        raise ValueError(
            f"{type(method).__name__} asks prompts in a second context, and texts without a chat have none."
        )
    if sign is not None and (method is None or sign not in (-1, 1)):
        raise ValueError(f"A sign is -1 (away from refusal) or +1 (towards it), of a method's push; got {sign}.")


def forced(method: Method, rows: Rows, sign: float | None, decided: bool) -> Rows:
    """The method's decisions, with the sign of the push as the caller has it."""
    if sign is None:
        if rows and not decided:
            raise ValueError(
                f"{type(method).__name__} decides from a context, and here is a text without one: "
                "give sign=-1 (away from refusal) or sign=+1 (towards it)."
            )
        return rows
    scales = [name for name in rows if is_scale(name)]
    if not scales:
        raise ValueError(f"{type(method).__name__} decides no scale, so there is no sign of it to give.")
    return {name: sign * values.abs() if name in scales else values for name, values in rows.items()}


def is_scale(name: str) -> bool:
    """Whether what a method decided under this name is its push; of one of several, too (see `steering.Together`)."""
    return name.rpartition(".")[2] == "scale"


@dataclass
class Begun:
    """A batch behind its contexts: decided, steered, and ready for what follows."""

    model: Model
    tokens: Tokens
    """The contexts."""
    run: Runner
    logits: Float[Tensor, "row d_vocab"]
    """Of the token after the last column that went in."""
    riders: list[Rider]
    """The method with what it decided; empty where there is none."""

    def feed(self, ids: Int[Tensor, "row pos"], also: Sequence[Hook] = ()) -> None:
        """Run the next columns under the method's hooks and, behind them, the caller's."""
        with hooked(self.model, [*hooks_of_riders(self.riders, len(ids)), *also]):
            self.logits = self.run.feed(ids, torch.ones_like(ids))

    @property
    def scales(self) -> list[float] | None:
        """How hard each row is pushed, + towards refusal; None where nothing is."""
        rows = self.riders[0].rows if self.riders else {}
        return next((values.tolist() for name, values in rows.items() if is_scale(name)), None)

    @property
    def swaps_the_head(self) -> bool:
        """Whether the method writes through an unembedding of its own."""
        return any(rider.method is not None and rider.method.swaps_the_head for rider in self.riders)


def begun(model: Model, pieces: Sequence[Piece], method: Method | None, sign: float | None) -> Begun:
    """The contexts of these pieces, run once; under a method their last tokens once more, or all of them."""
    tokens = padded([piece.ids[: piece.context] for piece in pieces], 0, device_of(model))
    if method is None:
        run = runner(model)
        rest = begun_together(run, tokens, 1)
        return Begun(model, tokens, run, run.feed(rest.ids, rest.mask), [])
    flight = Flight(model, tokens)
    decided = all(piece.decided for piece in pieces)
    riders = [Rider(method, forced(method, method.decide(flight), sign, decided), flight, torch.arange(len(pieces)))]
    flight.again(hooks_of_riders(riders, len(pieces)), whole_prompt=method.whole_prompt)
    return Begun(model, tokens, flight.run, flight.logits, riders)


def _alike(pieces: Sequence[Piece]) -> list[int]:
    """A number for each piece, the same for those whose contexts begin alike for long, and 0 for all others."""
    begins = [piece.ids[:ALIKE] if piece.context > ALIKE else () for piece in pieces]
    many = [each for each, count in Counter(begins).items() if each and count >= MANY]
    number = {each: place for place, each in enumerate(many, 1)}
    return [number.get(each, 0) for each in begins]


def piece_batches(model: Model, pieces: Sequence[Piece], size: int | None) -> Iterator[list[int]]:
    """Places of pieces with contexts of like length, as many as fit side by side, contexts aligned at their ends.

    Contexts that begin alike, as those of questions with the same examples before them, have a batch of their own, in
    which what they share is run once (see `flight`).
    """
    if size is not None and size < 1:
        raise ValueError(f"A batch holds at least one text, not {size}.")
    most = int(model.cfg.n_ctx)
    size = size or rows_at_once(model, max((len(piece.read) for piece in pieces), default=1))
    side = sides(model, torch.tensor([piece.context for piece in pieces])).tolist()
    for place, piece in enumerate(pieces):  # padding behind the others would take them across a rotary switch with it
        if crosses(model, torch.tensor([piece.context]), len(piece.read) - piece.context):
            side[place] = -1 - place
    alike = _alike(pieces)
    key = {place: (alike[place], pieces[place].context, len(pieces[place].read)) for place in range(len(pieces))}
    batch: list[int] = []
    behind = 0
    for place in sorted(key, key=key.__getitem__):
        piece = pieces[place]
        wider = max(behind, len(piece.read) - piece.context)
        apart = batch and (side[place], alike[place]) != (side[batch[0]], alike[batch[0]])
        if batch and (len(batch) == size or piece.context + wider > most or apart):
            yield batch
            batch, wider = [], len(piece.read) - piece.context
        batch, behind = [*batch, place], wider
    if batch:
        yield batch
