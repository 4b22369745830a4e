"""Generation: prompts to replies. Prefill once, read, decide, decode steered; the only decode loop."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from scans_lens.model import Hook, Model, Template, Tokens, checked, end_tokens, template, text_of
from scans_lens.reading import BATCH, Flight, batches
from scans_lens.steering import Contrastive, Method, Rows, take

NEW_TOKENS = 256
"""As in the SCANS release."""


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
    """What the model replied, and how that came about; a sequence of strings in the order of the prompts."""

    prompts: tuple[str, ...]
    texts: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    """Without the end token."""
    finish: tuple[Literal["stop", "length"], ...]
    """Whether the reply ended by itself or was cut."""
    decisions: Mapping[str, Tensor]
    """What the method decided, by name, one entry a prompt; empty without a method."""

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


@torch.no_grad()
def replies(
    model: Model,
    prompts: Sequence[str],
    *,
    method: Method | None = None,
    max_new_tokens: int = NEW_TOKENS,
    system: str | None = None,
    sampling: Sampling | None = None,
    repetition_penalty: float | None = None,
    batch_size: int = BATCH,
    progress: bool = True,
) -> Replies:
    """The model's replies, greedy unless told otherwise, steered by `method` if there is one.

    Args:
        prompts: what users say; the chat template is put around them here.
        method: a steering method such as `SCANS`; None is the plain model.
        max_new_tokens: where a reply is cut.
        system: a system prompt; without a system role in the template it goes into the user's turn.
        sampling: draw instead of taking the likeliest token.
        repetition_penalty: divides (or multiplies, below 0) the logits of every token that was there before; by
            default what the method asks for, and 1, none, where it asks for nothing.
        batch_size: prompts decoded at once.

    Raises:
        ValueError: bad prompts, one that leaves no room for a reply, or a model without a chat template.
    """
    prompts = checked(prompts)
    if method is not None and (isinstance(method, type) or not isinstance(method, Method)):
        raise ValueError(
            f"A method decides and gives hooks, as SCANS.fit(model) or Push(directions, layers, scale) do; "
            f"this is {method if isinstance(method, type) else type(method)}."
        )
    if max_new_tokens < 1:
        raise ValueError(f"A reply needs room for at least one token, not {max_new_tokens}.")
    if repetition_penalty is None:
        repetition_penalty = float(getattr(method, "repetition_penalty", 1.0))
    if repetition_penalty <= 0:
        raise ValueError(f"A repetition penalty is above 0, not {repetition_penalty}.")
    shape, ends = template(model), torch.tensor(end_tokens(model))
    context = int(model.cfg.n_ctx)
    waiting = list(_with_room(batches(model, prompts, system=system, batch_size=batch_size), max_new_tokens, context))
    said: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    decisions: dict[str, Tensor] = {}
    with tqdm(
        total=len(prompts), desc="replies", unit="reply", disable=not progress or len(prompts) < 2, leave=False
    ) as bar:
        for places, tokens in waiting:
            flight = Flight(model, tokens, shape)
            rows: Rows = {}
            if method is not None:
                rows = method.decide(flight)
                for name, values in rows.items():
                    decisions.setdefault(name, torch.zeros((len(prompts), *values.shape[1:]), dtype=values.dtype))
                    decisions[name][places] = values.cpu()
                flight.again(method.hooks_for(rows, flight), whole_prompt=method.whole_prompt)
            asked = [prompts[place] for place in places.tolist()]
            stream = _Stream(flight, method, asked, shape)
            pick = Picker(asked, tokens.ids, tokens.mask, sampling, repetition_penalty)
            room = min(max_new_tokens, context - stream.width)
            if room < 1:
                raise ValueError(
                    f"A prompt takes {stream.width} of the {context} tokens that this model reads in the method's "
                    "second context, so there is no room for a reply."
                )
            _decode(stream, method, rows, pick, places.tolist(), said, ended, ends.to(tokens.ids.device), room, bar)
    return Replies(
        prompts=tuple(prompts),
        texts=tuple(text_of(model, ids) for ids in said),
        tokens=tuple(map(tuple, said)),
        finish=tuple("stop" if stopped else "length" for stopped in ended),
        decisions=decisions,
    )


def _with_room(
    found: Iterable[tuple[Int[Tensor, "row"], Tokens]], most: int, context: int
) -> Iterator[tuple[Int[Tensor, "row"], Tokens]]:
    """The same batches; near the end of the context only rows of one length, so that none is cut for another."""
    for places, tokens in found:
        if tokens.ids.shape[1] + most <= context:
            yield places, tokens
            continue
        lengths = tokens.mask.sum(dim=1).cpu()
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero().squeeze(1)
            if length >= context:
                raise ValueError(
                    f"Prompt {int(places[rows[0]])} is {length} tokens long, and this model reads at most {context}, "
                    "so there is no room for a reply."
                )
            yield places[rows], Tokens(tokens.ids[rows, -length:], tokens.mask[rows, -length:])


class _Stream:
    """Logits of the next token: the flight's own, or mixed with those of the same prompts in a second context."""

    def __init__(self, flight: Flight, method: Method | None, prompts: Sequence[str], shape: Template) -> None:
        self.flight = flight
        self._mix, self._other = None, None
        if isinstance(method, Contrastive):
            self._mix = method.mix
            self._other = Flight(flight.model, method.second_context(flight.model, prompts), shape)
        self.logits = self._mixed(flight.logits, self._other.logits if self._other else None)

    @property
    def width(self) -> int:
        return max(self.flight.width, self._other.width if self._other else 0)

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        self.flight.run.keep(rows)
        if self._other:
            self._other.run.keep(rows)

    def feed(self, chosen: Int[Tensor, "row"], hooks: list[Hook]) -> Float[Tensor, "row d_vocab"]:
        column, mask = chosen[:, None], torch.ones_like(chosen[:, None])
        with self.flight.model.hooks(fwd_hooks=hooks):
            own = self.flight.run.feed(column, mask)
        return self._mixed(own, self._other.run.feed(column, mask) if self._other else None)

    def _mixed(self, own: Tensor, other: Tensor | None) -> Tensor:
        return own if self._mix is None or other is None else self._mix(own, other)


def _decode(
    stream: _Stream,
    method: Method | None,
    rows: Rows,
    pick: Picker,
    places: list[int],
    said: list[list[int]],
    ended: list[bool],
    ends: Tensor,
    room: int,
    bar: tqdm,
) -> None:
    """Write each row's reply to `said`, letting rows leave the batch as they end."""
    logits, flight = stream.logits, stream.flight
    hooks = method.hooks_for(rows, flight) if method is not None else []
    for step in range(room):
        chosen = pick(logits)
        over = torch.isin(chosen, ends).cpu()
        for row, (place, token) in enumerate(zip(places, chosen.tolist(), strict=True)):
            if over[row]:
                ended[place] = True
            else:
                said[place].append(token)
        if bool(over.any()):
            bar.update(int(over.sum()))
            kept = (~over).nonzero().squeeze(1)
            places = [places[row] for row in kept.tolist()]
            if not places:
                return
            on_device = kept.to(chosen.device)
            stream.keep(on_device)
            pick.keep(kept.tolist())
            rows, chosen = take(rows, kept), chosen[on_device]
            hooks = method.hooks_for(rows, flight) if method is not None else []
        if step + 1 < room:
            logits = stream.feed(chosen, hooks)
    bar.update(len(places))


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
