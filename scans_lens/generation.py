"""Generation: prompts to replies. Prefill once, read, decide, decode steered."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, overload

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from scans_lens.batches import in_batches, rows_at_once
from scans_lens.chat import Tokens, chat_tokens, end_tokens, spoken
from scans_lens.conversation import BARE, Askable, Asking, Prompt, checked, key
from scans_lens.decoding import Picker, Rider, Sampling, Second, Stream, decode, hooks_of_riders, penalty_of
from scans_lens.flight import Flight
from scans_lens.model import Model
from scans_lens.steering import Method, Rows, require_method

NEW_TOKENS = 256
"""As in the SCANS release."""

Finish = Literal["stop", "length", "enough"]

Enough = Callable[[str], bool]
"""Whether a reply that begins like this need not go on."""


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
    opened = [template.thinking for template in whole.templates]
    _require_room(whole, context)
    said = [_Said.nothing(len(prompts)) for _ in methods]
    shown = progress and len(prompts) * len(methods) > 1
    with tqdm(total=len(prompts) * len(methods), desc="replies", unit="reply", disable=not shown, leave=False) as bar:
        ends = frozenset(end_tokens(model))
        decoder = _Decoder(model, asked, opened, ends, max_new_tokens, sampling, enough, bar)

        def answer(places: Int[Tensor, "row"], tokens: Tokens) -> None:
            before = bar.n
            try:
                for rows, part in _with_room(places, tokens, max_new_tokens, context):
                    decoder.answer(rows, part, methods, said, repetition_penalty, batch_size)
            except (RuntimeError, MemoryError):
                bar.update(before - bar.n)  # those rows may be asked again
                raise

        for _ in in_batches(model, whole, answer, batch_size=batch_size, more=max_new_tokens):
            pass
    return tuple(_replies(model, prompts, opened, reply) for reply in said)


def _replies(model: Model, prompts: Sequence[Prompt], opened: Sequence[bool], said: _Said) -> Replies:
    parts = [spoken(model, ids, thinking=thinking) for ids, thinking in zip(said.tokens, opened, strict=True)]
    return Replies(
        prompts=tuple(prompts),
        texts=tuple(part.answer for part in parts),
        tokens=tuple(map(tuple, said.tokens)),
        finish=tuple(said.finish),
        decisions=said.decisions,
        thoughts=tuple(part.thought for part in parts),
        finished=tuple(part.finished for part in parts),
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
) -> Iterator[tuple[Int[Tensor, "alike"], Tokens]]:
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
    ends: frozenset[int]
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
        turns = []
        for number, method in enumerate(methods):
            rows = method.decide(plain) if method is not None else {}
            said[number].decided(rows, places)
            turns.append(_Turn(number, method, rows, penalty_of(method) if penalty is None else penalty))
        most = batch_size or rows_at_once(self.model, tokens.ids.shape[1] + self.max_new_tokens)
        groups = list(_groups(turns, max(1, most // len(places))))
        for place, group in enumerate(groups):
            self._decode(plain, group, places, said, last=place + 1 == len(groups))

    def _decode(
        self, plain: Flight, group: Sequence[_Turn], places: Int[Tensor, "row"], said: Sequence[_Said], last: bool
    ) -> None:
        whole = group[0].method is not None and group[0].method.whole_prompt
        # Who runs the whole prompt again gets keys and values of its own by that
        alone = whole or (last and len(group) == 1)
        flight = copy.copy(plain) if alone else plain.branch(len(group))
        n = len(places)
        riders = [
            Rider(turn.method, turn.rows, flight, torch.arange(n) + n * seat)
            for seat, turn in enumerate(group)
            if turn.method is not None
        ]
        if riders:
            flight.again(hooks_of_riders(riders, n * len(group)), whole_prompt=whole)
        asked = [self.prompts[place] for place in places.tolist()] * len(group)
        second = _second(group[0].method, self.model, asked)
        stream = Stream(self.model, flight.run, flight.logits, riders, second)
        names = [key(prompt) for prompt in asked]
        pick = Picker(names, flight.tokens.ids, flight.tokens.mask, self.sampling, group[0].penalty)
        room = min(self.max_new_tokens, int(self.model.cfg.n_ctx) - stream.width)
        if room < 1:
            raise ValueError(
                f"A prompt takes {stream.width} of the {int(self.model.cfg.n_ctx)} tokens that this model reads in the "
                "method's second context, so there is no room for a reply."
            )
        replying = [(said[turn.number], place) for turn in group for place in places.tolist()]
        for reply, place in replying:
            reply.tokens[place], reply.finish[place] = [], "length"

        def is_over(row: int, token: int) -> bool:
            reply, place = replying[row]
            if token in self.ends:
                reply.finish[place] = "stop"
            else:
                reply.tokens[place].append(token)
                if not self._is_enough(reply.tokens[place], self.opened[place]):
                    return False
                reply.finish[place] = "enough"
            self.bar.update()
            return True

        decode(stream, pick, is_over, room)
        self.bar.update(sum(reply.finish[place] == "length" for reply, place in replying))

    def _is_enough(self, tokens: Sequence[int], thinking: bool) -> bool:
        """Whether the answer so far, which comes behind a thought, need not go on."""
        if self.enough is None:
            return False
        so_far = spoken(self.model, tokens, thinking=thinking)
        return so_far.finished and self.enough(so_far.answer)


@dataclass(frozen=True)
class _Turn:
    """A method whose replies are due, and what it decided about a batch."""

    number: int
    """Its place in the caller's list."""
    method: Method | None
    rows: Rows
    penalty: float


def _second(method: Method | None, model: Model, prompts: Sequence[Prompt]) -> Second | None:
    """The second context of a method that looks at one."""
    if method is None or not method.asks_twice:
        return None
    return Second(Flight(model, method.second_context(model, prompts)), method.mix)


def _groups(turns: Sequence[_Turn], most: int) -> Iterator[list[_Turn]]:
    """Methods whose rows can be decoded side by side, so many at a time."""
    together: dict[float, list[_Turn]] = {}
    for turn in turns:
        if turn.method is not None and (turn.method.whole_prompt or turn.method.asks_twice):
            yield [turn]
        else:
            together.setdefault(turn.penalty, []).append(turn)
    for alike in together.values():
        for start in range(0, len(alike), most):
            yield alike[start : start + most]
