"""Reading: the residual stream each prompt leaves behind, layer by layer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from scans_lens.model import (
    Hook,
    Model,
    Runner,
    Template,
    Tokens,
    chat_tokens,
    end_tokens,
    resid_post,
    runner,
    template,
)

BATCH = 32
"""Prompts read at once, unless the caller says otherwise."""
BUNDLED_BATCH = 192
"""The bundled model is so small that larger batches are faster."""

Since = Callable[[int], int]
"""From the number of columns in the present call to the first of them that is to be steered."""


class Flight:
    """A batch of prompts on its way through a model, prefilled once, that can be read and then steered.

    What is read comes from the keys and values that are already there: the end of the prompt costs one token, and
    so does the opening "Sure", which is dropped again.
    """

    def __init__(self, model: Model, tokens: Tokens, shape: Template | None = None) -> None:
        self.model = model
        self.tokens = tokens
        self.template = shape or template(model)
        self.run: Runner = runner(model)
        self.logits: Float[Tensor, "row d_vocab"]
        """Of the token after the last column that went in."""
        self._begins: Callable[[int], int] = lambda columns: self.run.length
        self._residuals: Tensor | None = None
        self._opened: Tensor | None = None
        self._ahead: list[Tensor] = []
        self._steered = False
        self._calls_are_counted = False
        self.logits = self.run.feed(tokens.ids, tokens.mask)

    @property
    def width(self) -> int:
        """Columns of the prompts, padding included."""
        return self.tokens.ids.shape[1]

    @property
    def end_of_prompt(self) -> int:
        """The column of the last prompt token, the same in every row."""
        return self.width - 1

    def since(self, column: int) -> Since:
        """Which columns of a call lie at `column` or after it, whatever part of the text that call holds."""
        return lambda columns: max(0, column - self._begins(columns))

    def for_the_callers_loop(self) -> Flight:
        """The same flight for hooks that run outside of it: on whole texts of these rows or on cached steps after them.

        A call as wide as the prompts begins at their first column; a narrower one is a cached step behind them.
        """
        other, width = copy.copy(self), self.width
        other._begins = lambda columns: 0 if columns >= width else width
        other._calls_are_counted = True
        return other

    def follow(self) -> tuple[Hook, Callable[[int], int]]:
        """A hook that notes where the present call ends, and from that the column at which the last n of it begin.

        For what acts behind the layers, where a call may be cut to its last columns. In the caller's own loop a narrow
        call is taken to go on where the one before it ended.
        """
        ends = [self.width]

        def note(residual: Float[Tensor, "row pos d_model"], hook: Any) -> None:
            columns = residual.shape[1]
            begins = self._begins(columns)
            ends[0] = columns + (ends[0] if self._calls_are_counted and begins else begins)

        return (resid_post(int(self.model.cfg.n_layers) - 1), note), lambda last: ends[0] - last

    def residuals(self) -> Float[Tensor, "row layer d_model"]:
        """`resid_post` at the end of the prompt, all layers, unsteered, in float32 (the paper's a_p)."""
        if self._residuals is None:
            self._require_unsteered()
            self.run.back(1)
            with _watching(self.model, _all_layers(self.model)) as seen:
                self.logits = self.run.feed(self.tokens.ids[:, -1:], self.tokens.mask[:, -1:])
            self._residuals = seen.stacked()
        return self._residuals

    def opened(self) -> Float[Tensor, "row layer d_model"]:
        """`resid_post` after the reply is made to begin with the opening, all layers, in float32 (the paper's a_e)."""
        if self._opened is None:
            self._require_unsteered()
            room = int(self.model.cfg.n_ctx) - self.width
            if room < len(self.template.opening):
                raise ValueError(
                    f"The longest prompt takes {self.width} tokens of a context of {self.width + room}, which leaves "
                    f"no room for the opening, {len(self.template.opening)} tokens: transitions need it."
                )
            opening = torch.tensor(self.template.opening, device=self.tokens.ids.device)
            opening = opening.expand(len(self.tokens), -1)
            with _watching(self.model, _all_layers(self.model)) as seen:
                self.run.feed(opening, torch.ones_like(opening))
            self.run.back(opening.shape[1])
            self._opened = seen.stacked()
        return self._opened

    def ahead(self, k: int) -> Float[Tensor, "row layer d_model"]:
        """`resid_post` of the k-th token that the unsteered model would reply, all layers, in float32.

        The tokens are picked greedily, as generation picks them, and dropped again: this is a look ahead. A row whose
        reply ends sooner keeps the state of its last token, and k = 0 is the end of the prompt.

        Raises:
            ValueError: fewer than 0 tokens, or more than there is room for.
        """
        if k < 0:
            raise ValueError(f"There are {k} tokens to look ahead; it takes 0 or more.")
        if k > len(self._ahead):
            self._ahead = self._looked_ahead(k)
        return self._ahead[k - 1] if k else self.residuals()

    def _looked_ahead(self, k: int) -> list[Tensor]:
        """States after 1 to k tokens."""
        states = [self.residuals()]
        self._require_unsteered()
        room = int(self.model.cfg.n_ctx) - self.width
        if room < k:
            raise ValueError(
                f"The longest prompt takes {self.width} tokens of a context of {self.width + room}, which leaves no "
                f"room to look {k} tokens ahead."
            )
        ends = torch.tensor(end_tokens(self.model), device=self.tokens.ids.device)
        logits, over = self.logits, torch.zeros(len(self.tokens), dtype=torch.bool, device=ends.device)
        before = self.run.length
        try:
            for _ in range(k):
                chosen = logits.argmax(dim=-1)
                over = over | torch.isin(chosen, ends)
                with _watching(self.model, _all_layers(self.model)) as seen:
                    logits = self.run.feed(chosen[:, None], torch.ones_like(chosen[:, None]))
                states.append(torch.where(over[:, None, None], states[-1], seen.stacked()))
        finally:
            if self.run.length > before:
                self.run.back(self.run.length - before)
        return states[1:]

    def transitions(self) -> Float[Tensor, "row layer d_model"]:
        """State at the end of the prompt minus state after the opening (SCANS, eq. 2), all layers, in float32."""
        return self.residuals() - self.opened()

    def again(self, hooks: list[Hook], *, whole_prompt: bool) -> Float[Tensor, "row d_vocab"]:
        """Run the end of the prompt once more, or all of it, under hooks; keys and values are then the steered ones."""
        self._steered = True
        with self.model.hooks(fwd_hooks=hooks):
            if whole_prompt:
                self.run = runner(self.model)
                self.logits = self.run.feed(self.tokens.ids, self.tokens.mask)
            else:
                self.run.back(1)
                self.logits = self.run.feed(self.tokens.ids[:, -1:], self.tokens.mask[:, -1:])
        return self.logits

    def _require_unsteered(self) -> None:
        if self._steered or self.run.length != self.width:
            raise ValueError("This flight is steered or decoded already, and its own states are gone: read it before.")


class _watching:
    """Copies of the last column at the end of each layer, while the block lasts."""

    def __init__(self, model: Model, layers: Sequence[int]) -> None:
        self._seen: dict[int, Tensor] = {}
        self._hooks = model.hooks(fwd_hooks=[(resid_post(layer), self._watch(layer)) for layer in layers])
        self._layers = layers

    def _watch(self, layer: int) -> Callable[..., None]:
        def watch(residual: Float[Tensor, "row pos d_model"], hook: Any) -> None:
            self._seen[layer] = residual[:, -1].detach().float().clone()

        return watch

    def __enter__(self) -> _watching:
        self._hooks.__enter__()
        return self

    def __exit__(self, *reason: Any) -> None:
        self._hooks.__exit__(*reason)

    def stacked(self) -> Float[Tensor, "row layer d_model"]:
        return _finite(torch.stack([self._seen[layer] for layer in self._layers], dim=1))


@torch.no_grad()
def seen_at(
    model: Model,
    tokens: Tokens,
    points: Sequence[str],
    what: Callable[[Float[Tensor, "row pos d_model"], Int[Tensor, "row pos"]], Tensor],
    *,
    hooks: Sequence[Hook] = (),
) -> Float[Tensor, "row point *rest"]:
    """What `what` takes of the states at these hook points, in float32, in one pass of its own.

    Args:
        points: names such as `blocks.3.hook_resid_pre`, of which `what` is asked one after the other.
        what: from the states of all columns, padded on the left, and the mask (1 where there is a token) to one
            tensor a row: `lambda states, mask: states[:, -3:]`, or a mean over the tokens that are there.
        hooks: to run under; on one point they act before it is read.
    """
    found: dict[str, Tensor] = {}

    def watch(point: str) -> Hook:
        def take(states: Float[Tensor, "row pos d_model"], hook: Any) -> None:
            found[point] = what(states.detach().float(), tokens.mask).clone()

        return point, take

    with model.hooks(fwd_hooks=[*hooks, *map(watch, points)]):
        runner(model).feed(tokens.ids, tokens.mask)
    return _finite(torch.stack([found[point] for point in points], dim=1))


def _finite(states: Tensor) -> Tensor:
    if not torch.isfinite(states).all():
        raise ValueError(
            "The model's states are not finite (nan or infinite); this happens in float16, "
            "so load it in bfloat16 or float32."
        )
    return states


def _all_layers(model: Model) -> range:
    return range(int(model.cfg.n_layers))


def batches(
    model: Model,
    prompts: Sequence[str],
    *,
    system: str | None = None,
    batch_size: int = BATCH,
    progress: str | None = None,
) -> Iterator[tuple[Int[Tensor, "row"], Tokens]]:
    """Prompts of like length together, each batch with its rows' places in the caller's list."""
    if batch_size < 1:
        raise ValueError(f"A batch holds at least one prompt, not {batch_size}.")
    whole = chat_tokens(model, prompts, system=system)
    lengths = whole.mask.sum(dim=1)
    order = torch.argsort(lengths, stable=True).cpu()
    hidden = progress is None or len(prompts) <= batch_size
    with tqdm(total=len(prompts), desc=progress, unit="prompt", disable=hidden, leave=False) as bar:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            width = int(lengths[rows].max())
            yield rows, Tokens(whole.ids[rows, -width:], whole.mask[rows, -width:])
            bar.update(len(rows))


@torch.no_grad()
def flights(
    model: Model,
    prompts: Sequence[str],
    *,
    system: str | None = None,
    batch_size: int = BATCH,
    progress: str | None = None,
) -> Iterator[tuple[Int[Tensor, "row"], Flight]]:
    """The prompts in batches, each prefilled, with its rows' places in the caller's list."""
    shape = template(model)
    for rows, tokens in batches(model, prompts, system=system, batch_size=batch_size, progress=progress):
        yield rows, Flight(model, tokens, shape)


@torch.no_grad()
def residuals(
    model: Model,
    prompts: Sequence[str],
    *,
    system: str | None = None,
    batch_size: int = BATCH,
    progress: bool = True,
) -> Float[Tensor, "prompt layer d_model"]:
    """`blocks.l.hook_resid_post` at the last prompt token of every prompt, all layers (the paper's a_p).

    On the CPU in float32, whatever the model's precision. The last layer is before the final norm.

    Raises:
        ValueError: bad prompts (see `chat_tokens`), or states that are not finite.
    """
    word = "reading" if progress else None
    return collect(model, prompts, Flight.residuals, system=system, batch_size=batch_size, progress=word)


@torch.no_grad()
def transitions(
    model: Model,
    prompts: Sequence[str],
    *,
    system: str | None = None,
    batch_size: int = BATCH,
    progress: bool = True,
) -> Float[Tensor, "prompt layer d_model"]:
    """State at the end of the prompt minus state after the reply is made to begin with "Sure" (SCANS, eq. 2).

    Attention is causal, so the state at the end of the prompt is the same with or without
    the opening, and the move is a difference of two plain readings.
    """
    word = "transitions" if progress else None
    return collect(model, prompts, Flight.transitions, system=system, batch_size=batch_size, progress=word)


@torch.no_grad()
def collect(
    model: Model,
    prompts: Sequence[str],
    what: Callable[[Flight], Float[Tensor, "row layer d_model"]],
    *,
    system: str | None = None,
    batch_size: int = BATCH,
    progress: str | None = None,
) -> Float[Tensor, "prompt layer d_model"]:
    """What `what` reads of every batch, in the order of the prompts, on the CPU in float32."""
    result = torch.empty(len(prompts), 0, int(model.cfg.d_model))
    for rows, flight in flights(model, prompts, system=system, batch_size=batch_size, progress=progress):
        read = what(flight).cpu()
        if not result.shape[1]:
            result = result.new_empty(len(prompts), *read.shape[1:])
        result[rows] = read
    return result


@torch.no_grad()
def mean_residuals(
    model: Model,
    prompts: Sequence[str],
    *,
    system: str | None = None,
    batch_size: int = BATCH,
    progress: bool = True,
) -> tuple[Float[Tensor, "layer d_model"], Float[Tensor, "layer"]]:
    """Mean state and mean norm at the last prompt token by layer, summed in float64 as the batches come."""
    total = torch.zeros(int(model.cfg.n_layers), int(model.cfg.d_model), dtype=torch.float64)
    norms = torch.zeros(int(model.cfg.n_layers), dtype=torch.float64)
    word = "reading" if progress else None
    for _, flight in flights(model, prompts, system=system, batch_size=batch_size, progress=word):
        states = flight.residuals().cpu().double()
        total += states.sum(dim=0)
        norms += states.norm(dim=-1).sum(dim=0)
    return total / len(prompts), norms / len(prompts)
