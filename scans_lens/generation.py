"""Generation: prompts to replies. Prefill once, read, decide, decode steered; the only decode loop."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from scans_lens.chat import Tokens, chat_tokens, end_tokens, spoken
from scans_lens.conversation import BARE, Askable, Asking, Prompt, checked, key
from scans_lens.model import Hook, Model, hooked
from scans_lens.reading import Flight, in_batches
from scans_lens.running import leaving, rows_at_once
from scans_lens.steering import Method, Rows, require_method, take

NEW_TOKENS = 256
"""As in the SCANS release."""

Finish = Literal["stop", "length", "enough"]
Enough = Callable[[str], bool]
"""Whether a reply that begins like this need not go on."""


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


@dataclass(frozen=True)
class Replies(Sequence[str]):
    """What the model replied, and how that came about; a sequence of strings in the order of the prompts.

    The strings are the answers, which judges and readers are to see; what was thought before stands apart.
    """

    prompts: tuple[Prompt, ...]
    texts: tuple[str, ...]
    """The answers; empty where a thought was not finished."""
    tokens: tuple[tuple[int, ...], ...]
    """Without the end token."""
    finish: tuple[Finish, ...]
    """Whether the reply ended by itself, was cut, or was stopped because enough was known of it."""
    decisions: Mapping[str, Tensor]
    """What the method decided, by name, one entry a prompt; empty without a method."""
    thoughts: tuple[str | None, ...]
    """What was thought before the answer; None where nothing was."""
    finished: tuple[bool, ...]
    """Whether the thought came to its end, so that there is an answer to judge; True where nothing was thought."""

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[str, ...]: ...
    def __getitem__(self, place: int | slice) -> str | tuple[str, ...]:
        return self.texts[place]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def score(self) -> Tensor | None:
        """How harmful each prompt looked to the method; None where it does not look."""
        return self._decided("score")

    @property
    def scale(self) -> Tensor | None:
        """How hard each prompt was pushed, + towards refusal; None where nothing was."""
        return self._decided("scale")

    def _decided(self, name: str) -> Tensor | None:
        """By the method, or by the first of several that decides it (see `steering.Together`)."""
        return next((values for key, values in self.decisions.items() if key.rpartition(".")[2] == name), None)


def replies(
    model: Model,
    prompts: Sequence[Askable],
    *,
    method: Method | None = None,
    max_new_tokens: int = NEW_TOKENS,
    asking: Asking = BARE,
    sampling: Sampling | None = None,
    repetition_penalty: float | None = None,
    enough: Enough | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> Replies:
    """The model's replies, greedy unless told otherwise, steered by `method` if there is one.

    Args:
        prompts: what users say, or whole conversations (lists of messages); the chat template is put around them here.
        method: a steering method such as `SCANS`; None is the plain model.
        max_new_tokens: where a reply is cut.
        asking: how the prompts are put: a system prompt, thinking on or off.
        sampling: draw instead of taking the likeliest token.
        repetition_penalty: divides (or multiplies, below 0) the logits of every token that was there before; by
            default what the method asks for, and 1, none, where it asks for nothing.
        enough: asked of each reply so far, at every token; where it says yes the reply stops there (`judges.settled`
            knows when a verdict is sure). None: replies go to their ends.
        batch_size: prompts decoded at once; by default what fits and pays, and fewer where memory runs out.

    Raises:
        ValueError: bad prompts, one that leaves no room for a reply, or a model without a chat template.
    """
    (said,) = replies_under(
        model,
        prompts,
        [method],
        max_new_tokens=max_new_tokens,
        asking=asking,
        sampling=sampling,
        repetition_penalty=repetition_penalty,
        enough=enough,
        batch_size=batch_size,
        progress=progress,
    )
    return said


@torch.no_grad()
def replies_under(
    model: Model,
    prompts: Sequence[Askable],
    methods: Sequence[Method | None],
    *,
    max_new_tokens: int = NEW_TOKENS,
    asking: Asking = BARE,
    sampling: Sampling | None = None,
    repetition_penalty: float | None = None,
    enough: Enough | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> tuple[Replies, ...]:
    """The same prompts under several methods: what `replies` gives for each of them, at less cost.

    A batch is prefilled and read once for all methods, and rows of several methods are decoded side by side, each
    under its own hooks. Methods that steer the whole prompt, or look at a second context, decode by themselves.

    Args:
        methods: None is the plain model. The other arguments are those of `replies`; `batch_size` counts rows, one for
            each prompt and method.
    """
    prompts = checked(prompts)
    asked = [asking.of(prompt) for prompt in prompts]
    if not methods:
        raise ValueError("There are no methods to reply under: the list is empty; [None] is the plain model.")
    for method in methods:
        require_method(method)
    if max_new_tokens < 1:
        raise ValueError(f"A reply needs room for at least one token, not {max_new_tokens}.")
    if repetition_penalty is not None and repetition_penalty <= 0:
        raise ValueError(f"A repetition penalty is above 0, not {repetition_penalty}.")
    context, whole = int(model.cfg.n_ctx), chat_tokens(model, asked)
    opened = [one.thinking for one in whole.templates]
    _require_room(whole, context)
    said = [_Said.nothing(len(prompts)) for _ in methods]
    shown = progress and len(prompts) * len(methods) > 1
    with tqdm(total=len(prompts) * len(methods), desc="replies", unit="reply", disable=not shown, leave=False) as bar:
        ends = torch.tensor(end_tokens(model))
        decoder = _Decoder(model, asked, opened, ends, max_new_tokens, sampling, enough, bar)

        def answer(places: Int[Tensor, "row"], tokens: Tokens) -> None:
            before = bar.n
            try:
                for own, part in _with_room(places, tokens, max_new_tokens, context):
                    decoder.answer(own, part, methods, said, repetition_penalty, batch_size)
            except (RuntimeError, MemoryError):
                bar.update(before - bar.n)  # those rows may be asked again
                raise

        for _ in in_batches(model, whole, answer, batch_size=batch_size, more=max_new_tokens):
            pass
    return tuple(_replies(model, prompts, opened, one) for one in said)


def _replies(model: Model, prompts: Sequence[Prompt], opened: Sequence[bool], said: _Said) -> Replies:
    parts = [spoken(model, ids, thinking=thinking) for ids, thinking in zip(said.tokens, opened, strict=True)]
    return Replies(
        prompts=tuple(prompts),
        texts=tuple(one.answer for one in parts),
        tokens=tuple(map(tuple, said.tokens)),
        finish=tuple(said.finish),
        decisions=said.decisions,
        thoughts=tuple(one.thought for one in parts),
        finished=tuple(one.finished for one in parts),
    )


@dataclass
class _Said:
    """Replies as they come, one place a prompt."""

    tokens: list[list[int]]
    finish: list[Finish]
    decisions: dict[str, Tensor]

    @classmethod
    def nothing(cls, n: int) -> _Said:
        return cls([[] for _ in range(n)], ["length"] * n, {})

    def decided(self, rows: Rows, places: Int[Tensor, "row"]) -> None:
        for name, values in rows.items():
            n = len(self.tokens)
            self.decisions.setdefault(name, torch.zeros((n, *values.shape[1:]), dtype=values.dtype))
            self.decisions[name][places] = values.cpu()


def _require_room(whole: Tokens, context: int) -> None:
    """Say which prompt fills the context before any is run."""
    lengths = whole.mask.sum(dim=1).tolist()
    full = next((place for place, length in enumerate(lengths) if length >= context), None)
    if full is not None:
        raise ValueError(
            f"Prompt {full} is {lengths[full]} tokens long, and this model reads at most {context}, "
            "so there is no room for a reply."
        )


def _with_room(
    places: Int[Tensor, "row"], tokens: Tokens, most: int, context: int
) -> Iterator[tuple[Int[Tensor, "own"], Tokens]]:
    """The batch itself; near the end of the context only rows of one length, so that none is cut for another."""
    if tokens.ids.shape[1] + most <= context:
        yield places, tokens
        return
    lengths = tokens.mask.sum(dim=1)
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero().squeeze(1)
        yield places[rows.cpu()], tokens.at(rows, int(length))


@dataclass(frozen=True)
class _Decoder:
    """What is the same for all batches of one call."""

    model: Model
    prompts: Sequence[Prompt]
    opened: Sequence[bool]
    """Whether the template has opened a thought."""
    ends: Int[Tensor, "end"]
    max_new_tokens: int
    sampling: Sampling | None
    enough: Enough | None
    bar: tqdm

    def answer(
        self,
        places: Int[Tensor, "row"],
        tokens: Tokens,
        methods: Sequence[Method | None],
        said: Sequence[_Said],
        penalty: float | None,
        batch_size: int | None,
    ) -> None:
        """Prefill and read once, let every method decide, and decode in groups that fit."""
        plain = Flight(self.model, tokens)
        riders = []
        for number, method in enumerate(methods):
            rows = method.decide(plain) if method is not None else {}
            said[number].decided(rows, places)
            asked = method.repetition_penalty if method is not None else 1.0
            own = penalty if penalty is not None else asked
            riders.append(_Rider(method, rows, torch.arange(len(places)), number, own))
        most = batch_size or rows_at_once(self.model, tokens.ids.shape[1] + self.max_new_tokens)
        groups = list(_groups(riders, max(1, most // len(places))))
        for place, group in enumerate(groups):
            self._decode(plain, group, places, said, last=place + 1 == len(groups))

    def _decode(
        self, plain: Flight, group: Sequence[_Rider], places: Int[Tensor, "row"], said: Sequence[_Said], last: bool
    ) -> None:
        whole = group[0].method is not None and group[0].method.whole_prompt
        # Who runs the whole prompt again gets keys and values of its own by that
        alone = whole or (last and len(group) == 1)
        flight = copy.copy(plain) if alone else plain.branch(len(group))
        n = len(places)
        riders = [replace(one, at=torch.arange(n) + n * seat) for seat, one in enumerate(group)]
        if any(one.method is not None for one in riders):
            flight.again(_hooks(riders, flight), whole_prompt=whole)
        asked = [self.prompts[place] for place in places.tolist()] * len(group)
        stream = _Stream(flight, riders[0].method, asked)
        names = [key(prompt) for prompt in asked]
        pick = Picker(names, flight.tokens.ids, flight.tokens.mask, self.sampling, riders[0].penalty)
        room = min(self.max_new_tokens, int(self.model.cfg.n_ctx) - stream.width)
        if room < 1:
            raise ValueError(
                f"A prompt takes {stream.width} of the {int(self.model.cfg.n_ctx)} tokens that this model reads in the "
                "method's second context, so there is no room for a reply."
            )
        seats = [(one.number, place) for one in group for place in places.tolist()]
        for number, place in seats:
            said[number].tokens[place], said[number].finish[place] = [], "length"
        ends = self.ends.to(flight.tokens.ids.device)
        with stream:
            stream.steer(_hooks(riders, flight))
            for step in range(room):
                chosen = pick(stream.logits)
                over = torch.isin(chosen, ends).cpu()
                for row, ((number, place), token) in enumerate(zip(seats, chosen.tolist(), strict=True)):
                    if over[row]:
                        said[number].finish[place] = "stop"
                        continue
                    said[number].tokens[place].append(token)
                    if self._is_enough(said[number].tokens[place], self.opened[place]):
                        said[number].finish[place] = "enough"
                        over[row] = True
                if bool(over.any()):
                    self.bar.update(int(over.sum()))
                    kept = leaving(over)
                    seats = [seats[row] for row in kept.tolist()]
                    if not seats:
                        return
                    on_device = kept.to(chosen.device)
                    stream.keep(on_device)
                    pick.keep(kept.tolist())
                    chosen = chosen[on_device]
                    riders = [left for one in riders if len((left := one.kept(kept, len(over))).at)]
                    stream.steer(_hooks(riders, flight))
                if step + 1 < room:
                    stream.feed(chosen)
        self.bar.update(len(seats))

    def _is_enough(self, tokens: Sequence[int], thinking: bool) -> bool:
        """Whether the answer so far, which comes behind a thought, need not go on."""
        if self.enough is None:
            return False
        so_far = spoken(self.model, tokens, thinking=thinking)
        return so_far.finished and self.enough(so_far.answer)


@dataclass(frozen=True)
class _Rider:
    """One method in a batch that may hold rows of several."""

    method: Method | None
    rows: Rows
    at: Int[Tensor, "own"]
    """Which rows of the batch are its own, in the order of what it decided about them."""
    number: int
    """Its place in the caller's list."""
    penalty: float

    def kept(self, rows: Int[Tensor, "kept"], of: int) -> _Rider:
        """After only these rows were kept, in this order, of so many."""
        seat = torch.full((of,), -1)
        seat[self.at] = torch.arange(len(self.at))
        seat = seat[rows]
        at = (seat >= 0).nonzero().squeeze(1)
        return replace(self, rows=take(self.rows, seat[at]), at=at)


def _groups(riders: Sequence[_Rider], most: int) -> Iterator[list[_Rider]]:
    """Riders that can be decoded side by side, so many at a time."""
    together: dict[float, list[_Rider]] = {}
    for one in riders:
        if one.method is not None and (one.method.whole_prompt or one.method.asks_twice):
            yield [one]
        else:
            together.setdefault(one.penalty, []).append(one)
    for alike in together.values():
        for start in range(0, len(alike), most):
            yield alike[start : start + most]


def _hooks(riders: Sequence[_Rider], flight: Flight) -> list[Hook]:
    """Every rider's hooks; in company each is shown its own rows alone."""
    if len(riders) == 1 and len(riders[0].at) == flight.run.mask.shape[0]:
        method = riders[0].method
        return method.hooks_for(riders[0].rows, flight) if method is not None else []
    return [
        (name, _on_rows(function, one.at))
        for one in riders
        if one.method is not None
        for name, function in one.method.hooks_for(one.rows, flight)
    ]


def _on_rows(function: Callable[..., Any], rows: Int[Tensor, "own"]) -> Callable[..., Any]:
    def act(state: Tensor, hook: Any) -> Tensor | None:
        own = rows.to(state.device)
        moved = function(state[own], hook)
        return None if moved is None else state.index_copy(0, own, moved.to(state.dtype))

    return act


class _Stream:
    """Logits of the next token: the flight's own, or mixed with those of the same prompts in a second context.

    Hooks stay on the model from one token to the next, until they are changed or the block ends.
    """

    def __init__(self, flight: Flight, method: Method | None, prompts: Sequence[Prompt]) -> None:
        self.flight = flight
        self._mix, self._other = None, None
        self._hooks: list[Hook] = []
        self._on = ExitStack()
        if method is not None and method.asks_twice:
            self._mix = method.mix
            self._other = Flight(flight.model, method.second_context(flight.model, prompts))
        self.logits = self._mixed(flight.logits, self._other.logits if self._other else None)

    @property
    def width(self) -> int:
        return max(self.flight.width, self._other.width if self._other else 0)

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *reason: Any) -> None:
        self._on.close()

    def steer(self, hooks: list[Hook]) -> None:
        """Under these hooks from now on, and no others of ours."""
        self._on.close()
        self._hooks = hooks
        if not self._other:
            self._on.enter_context(hooked(self.flight.model, hooks))

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        self.flight.run.keep(rows)
        if self._other:
            self._other.run.keep(rows)

    def feed(self, chosen: Int[Tensor, "row"]) -> None:
        column, mask = chosen[:, None], torch.ones_like(chosen[:, None])
        if not self._other:
            self.logits = self.flight.run.feed(column, mask)
            return
        with hooked(self.flight.model, self._hooks):
            own = self.flight.run.feed(column, mask)
        self.logits = self._mixed(own, self._other.run.feed(column, mask))

    def _mixed(self, own: Tensor, other: Tensor | None) -> Tensor:
        return own if self._mix is None or other is None else self._mix(own, other)


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
            drawn = [self._sampling.draw(row, own) for row, own in zip(logits, self._generators, strict=True)]
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
