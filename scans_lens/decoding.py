"""Decoding: the only loop that picks tokens one after another, after chats and after bare texts, steered or not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scans_lens.cache import Runner, leaving
from scans_lens.flight import Flight
from scans_lens.model import Hook, Model, hooked
from scans_lens.steering import Method, Rows, take


@dataclass(frozen=True)
class Sampling:
    """Draw tokens instead of taking the likeliest. Each prompt has a generator of its own, from seed and text."""

    seed: int = 0
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature <= 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"Sampling needs a temperature above 0 and top_p in (0, 1]; got {self.temperature} and {self.top_p}."
            )

    def generator(self, prompt: str) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed}|{prompt}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

    def draw(self, logits: Float[Tensor, "d_vocab"], generator: torch.Generator) -> int:
        shares = torch.softmax(logits.float().cpu() / self.temperature, dim=-1)
        likely, ids = shares.sort(descending=True)
        likely = torch.where(likely.cumsum(0) - likely < self.top_p, likely, 0.0)
        return int(ids[torch.multinomial(likely, 1, generator=generator)])


class Picker:
    """The next token of every row that is left: the likeliest or a drawn one, after the repetition penalty."""

    def __init__(
        self,
        prompts: Sequence[str],
        ids: Int[Tensor, "row pos"],
        mask: Int[Tensor, "row pos"],
        sampling: Sampling | None,
        repetition_penalty: float,
    ) -> None:
        self._sampling = sampling
        self._generators = [sampling.generator(prompt) for prompt in prompts] if sampling else []
        self._penalty = repetition_penalty
        self._ids, self._mask = ids, mask
        self._seen: Tensor | None = None

    def __call__(self, logits: Float[Tensor, "row d_vocab"]) -> Int[Tensor, "row"]:
        if self._penalty != 1.0:
            logits = self._penalised(logits)
        if self._sampling is None:
            chosen = logits.argmax(dim=-1)
        else:
            drawn = [self._sampling.draw(row, luck) for row, luck in zip(logits, self._generators, strict=True)]
            chosen = torch.tensor(drawn, device=logits.device)
        if self._seen is not None:
            self._seen[torch.arange(len(chosen), device=chosen.device), chosen] = True
        return chosen

    def _penalised(self, logits: Tensor) -> Tensor:
        if self._seen is None:
            self._seen = torch.zeros_like(logits, dtype=torch.bool)
            there = self._mask.bool()
            row_of = torch.arange(len(logits), device=logits.device)[:, None].expand_as(self._ids)
            self._seen[row_of[there], self._ids[there]] = True
        lowered = torch.where(logits > 0, logits / self._penalty, logits * self._penalty)
        return torch.where(self._seen, lowered, logits)

    def keep(self, rows: list[int]) -> None:
        self._generators = [self._generators[row] for row in rows] if self._generators else []
        if self._seen is not None:
            self._seen = self._seen[torch.tensor(rows, device=self._seen.device)]


@dataclass(frozen=True)
class Rider:
    """A steering method in a batch that may hold rows of several."""

    method: Method
    rows: Rows
    flight: Flight
    at: Int[Tensor, "taken"]
    """Which rows of the batch it steers, in the order of what it decided about them."""

    def kept(self, rows: Int[Tensor, "kept"], of: int) -> Rider:
        """After only these rows were kept, in this order, of so many."""
        seat = torch.full((of,), -1)
        seat[self.at] = torch.arange(len(self.at))
        seat = seat[rows]
        at = (seat >= 0).nonzero().squeeze(1)
        return replace(self, rows=take(self.rows, seat[at]), at=at)


def hooks_of_riders(riders: Sequence[Rider], n: int) -> list[Hook]:
    """The hooks of all riders of a batch of `n` rows; in company each is shown the rows that it steers alone."""
    if len(riders) == 1 and len(riders[0].at) == n:
        return riders[0].method.hooks_for(riders[0].rows, riders[0].flight)
    return [
        (name, _on_rows(function, rider.at))
        for rider in riders
        for name, function in rider.method.hooks_for(rider.rows, rider.flight)
    ]


def _on_rows(function: Callable[..., Any], rows: Int[Tensor, "taken"]) -> Callable[..., Any]:
    def act(state: Tensor, hook: Any) -> Tensor | None:
        there = rows.to(state.device)
        moved = function(state[there], hook)
        return None if moved is None else state.index_copy(0, there, moved.to(state.dtype))

    return act


@dataclass(frozen=True)
class Second:
    """The same prompts in a second context, and how its logits are mixed into those of the first."""

    flight: Flight
    mix: Callable[[Tensor, Tensor], Tensor]


class Stream:
    """A batch that is ready for the tokens that follow: the logits of the next one, and who steers which rows.

    Within its block hooks stay on the model from one token to the next, until rows leave or the block ends.
    """

    def __init__(
        self,
        model: Model,
        run: Runner,
        logits: Float[Tensor, "row d_vocab"],
        riders: Sequence[Rider],
        second: Second | None = None,
    ) -> None:
        """`run`: what the text so far went through, and `logits` its last column's, both steered already."""
        self._model, self._run, self._riders, self._second = model, run, riders, second
        self._hooks: list[Hook] = []
        self._on = ExitStack()
        self.logits = second.mix(logits, second.flight.logits) if second else logits

    @property
    def width(self) -> int:
        """Columns of the text so far, in the wider of its contexts."""
        return max(self._run.length, self._second.flight.width if self._second else 0)

    def __len__(self) -> int:
        return self._run.mask.shape[0]

    def __enter__(self) -> Stream:
        self._steer()
        return self

    def __exit__(self, *reason: Any) -> None:
        self._on.close()

    def _steer(self) -> None:
        self._on.close()
        self._hooks = hooks_of_riders(self._riders, len(self))
        if not self._second:
            self._on.enter_context(hooked(self._model, self._hooks))

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        """Only these rows, in this order, with the hooks of those who steer them."""
        of, there = len(self), rows.to(self._run.mask.device)
        self._run.keep(there)
        if self._second:
            self._second.flight.run.keep(there)
        self._riders = [left for rider in self._riders if len((left := rider.kept(rows, of)).at)]
        self._steer()

    def feed(self, chosen: Int[Tensor, "row"]) -> None:
        """One more token of every row."""
        column, mask = chosen[:, None], torch.ones_like(chosen[:, None])
        if not self._second:
            self.logits = self._run.feed(column, mask)
            return
        with hooked(self._model, self._hooks):
            first = self._run.feed(column, mask)
        self.logits = self._second.mix(first, self._second.flight.run.feed(column, mask))


def decode(stream: Stream, pick: Picker, is_over: Callable[[int, int], bool], most: int) -> None:
    """Token after token of every row, until it is over or `most` are picked; rows that are over leave at once.

    Args:
        is_over: told of each token as it comes: the row's place in the whole batch, and the token. It says whether the
            row ends with it.
    """
    places = list(range(len(stream)))
    with stream:
        for step in range(most):
            chosen = pick(stream.logits)
            over = torch.tensor(list(map(is_over, places, chosen.tolist())))
            if bool(over.any()):
                kept = leaving(over)
                if not len(kept):
                    return
                places = [places[row] for row in kept.tolist()]
                stream.keep(kept)
                pick.keep(kept.tolist())
                chosen = chosen[kept.to(chosen.device)]
            if step + 1 < most:
                stream.feed(chosen)


def penalty_of(method: Method | None) -> float:
    """The repetition penalty that a method asks for; 1 is none."""
    return 1.0 if method is None else method.repetition_penalty
