"""Reading: the residual stream each prompt leaves behind, layer by layer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from scans_lens.chat import Template, Tokens, chat_tokens, end_tokens, template
from scans_lens.conversation import BARE, Askable, Asking
from scans_lens.model import Hook, Model, hooked, resid_post
from scans_lens.running import (
    NOT_FINITE,
    Runner,
    crosses,
    free_memory,
    out_of_memory,
    rows_at_once,
    run_through,
    runner,
    shares,
    sides,
)

Result = TypeVar("Result")

LEAST_SHARED = 8
"""Tokens that rows must begin with alike for it to pay to run them once."""
Since = Callable[[int], int]
"""From the number of columns in the present call to the first of them that is to be steered."""


class Flight:
    """A batch of prompts on its way through a model, prefilled once, that can be read and then steered.

    What is read costs little: the end of the prompt is watched as it passes, and the opening "Sure" goes in on the keys
    and values that are there, and is dropped again.
    """

    def __init__(self, model: Model, tokens: Tokens) -> None:
        self.model = model
        self.tokens = tokens
        self.templates: tuple[Template, ...] = tokens.templates or (template(model),) * len(tokens)
        """Where each row's parts lie."""
        self.run: Runner = runner(model)
        self.logits: Float[Tensor, "row d_vocab"]
        """Of the token after the last column that went in."""
        self._opened: Tensor | None = None
        self._ahead: list[Tensor] = []
        self._steered = False
        self._in_the_callers_loop = False
        # A text that is no chat may be shorter than the template's tail
        instructed = [max(one.end_of_instruction, -tokens.ids.shape[1]) for one in self.templates]
        rest = self._begun(-min(instructed))
        with _watching(model, _all_layers(model), ([-1] * len(tokens), instructed)) as self._ends:
            self.logits = self.run.feed(rest.ids, rest.mask)

    def _begun(self, kept: int) -> Tokens:
        """Run what all rows begin with alike, such as a system prompt, once; returns what is left of the rows.

        Args:
            kept: tokens at the end of each row that are to be read, and stay in it.
        """
        prefix = self.tokens.shared(kept) if len(self.tokens) > 1 else self.tokens.ids[0, :0]
        if len(prefix) < LEAST_SHARED or not shares(self.model, self.width):
            return self.tokens
        self.run.begin(prefix, len(self.tokens))
        return self.tokens.behind(len(prefix))

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

    def _begins(self, columns: int) -> int:
        """The column at which a call of so many columns begins."""
        if self._in_the_callers_loop:
            return 0 if columns >= self.width else self.width
        return self.run.length

    def for_the_callers_loop(self) -> Flight:
        """The same flight for hooks that run outside of it: on whole texts of these rows or on cached steps after them.

        A call as wide as the prompts begins at their first column; a narrower one is a cached step behind them.
        """
        other = copy.copy(self)
        other._in_the_callers_loop = True
        return other

    def branch(self, copies: int = 1) -> Flight:
        """Every row so many times, one whole batch behind the other, on keys and values of its own."""
        rows = torch.arange(len(self.tokens), device=self.tokens.ids.device).repeat(copies)
        other = copy.copy(self)
        other.tokens, other.templates = self.tokens.at(rows), self.templates * copies
        other.run, other.logits = self.run.copy(rows), self.logits[rows]
        other._ends, other._opened, other._ahead, other._steered = None, None, [], True
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
            ends[0] = columns + (ends[0] if self._in_the_callers_loop and begins else begins)

        return (resid_post(int(self.model.cfg.n_layers) - 1), note), lambda last: ends[0] - last

    def residuals(self) -> Float[Tensor, "row layer d_model"]:
        """`resid_post` at the end of the prompt, all layers, unsteered, in float32 (the paper's a_p)."""
        return self._at(0)

    def instructed(self) -> Float[Tensor, "row layer d_model"]:
        """`resid_post` at the last token of the user's own words, all layers, unsteered, in float32.

        Zhao et al. (arXiv 2507.11878) call it t_inst.
        """
        return self._at(1)

    def _at(self, end: int) -> Float[Tensor, "row layer d_model"]:
        if self._ends is None:
            raise ValueError(_MOVED_ON)
        return self._ends.stacked(end)

    def opened(self) -> Float[Tensor, "row layer d_model"]:
        """`resid_post` after the reply is made to begin with the opening, all layers, in float32 (the paper's a_e)."""
        if self._opened is None:
            self._require_unsteered()
            opening = _opening(self.model, self.tokens, self.templates)
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
        with hooked(self.model, hooks):
            if whole_prompt:
                self.run = runner(self.model)
                self.logits = self.run.feed(self.tokens.ids, self.tokens.mask)
            else:
                self.run.back(1)
                self.logits = self.run.feed(self.tokens.ids[:, -1:], self.tokens.mask[:, -1:])
        return self.logits

    def _require_unsteered(self) -> None:
        if self._steered or self.run.length != self.width:
            raise ValueError(_MOVED_ON)


_MOVED_ON = "This flight is steered or decoded already, and its own states are gone: read it before."


def _opening(model: Model, tokens: Tokens, templates: Sequence[Template]) -> Int[Tensor, "row pos"]:
    """The opening behind every row.

    Raises:
        ValueError: there is no room for it, or rows have other openings than others; `in_batches` parts them.
    """
    openings, width = {one.opening for one in templates}, tokens.ids.shape[1]
    if len(openings) > 1:
        raise ValueError(
            "These conversations open their replies in several ways, so their transitions are not read in one batch: "
            "ask those with one system prompt and one way of thinking together."
        )
    (opening,) = openings
    room = int(model.cfg.n_ctx) - width
    if room < len(opening):
        raise ValueError(
            f"The longest prompt takes {width} tokens of a context of {width + room}, which leaves "
            f"no room for the opening, {len(opening)} tokens: transitions need it."
        )
    return torch.tensor(opening, device=tokens.ids.device).expand(len(tokens), -1)


class _watching:
    """Copies of some columns of every row, the last one by default, at the end of each layer, while the block lasts."""

    def __init__(self, model: Model, layers: Sequence[int], columns: Sequence[Sequence[int]] = ()) -> None:
        """`columns`: lists of one column a row, counted from the end."""
        self._seen: dict[int, Tensor] = {}
        self._hooks = hooked(model, [(resid_post(layer), self._watch(layer)) for layer in layers])
        self._layers, self._columns = layers, columns
        self._apart = [column for column in columns if len(set(column)) > 1]
        self._stacks: dict[int, Tensor] = {}

    def _watch(self, layer: int) -> Callable[..., None]:
        def watch(residual: Float[Tensor, "row pos d_model"], hook: Any) -> None:
            if not self._apart:  # the same columns of every row: one copy of them
                columns = [column[0] for column in self._columns] or [-1]
                self._seen[layer] = residual[:, columns].detach().float()
                return
            rows = torch.arange(len(residual), device=residual.device)
            picked = [residual[rows, torch.tensor(column, device=residual.device)] for column in self._columns]
            self._seen[layer] = torch.stack(picked, dim=1).detach().float()

        return watch

    def __enter__(self) -> _watching:
        self._hooks.__enter__()
        return self

    def __exit__(self, *reason: Any) -> None:
        self._hooks.__exit__(*reason)

    def stacked(self, column: int = 0) -> Float[Tensor, "row layer d_model"]:
        """All layers at one of the columns, by its place among those that were asked for."""
        if column not in self._stacks:
            self._stacks[column] = _finite(torch.stack([self._seen[layer][:, column] for layer in self._layers], dim=1))
        return self._stacks[column]


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

    with hooked(model, [*hooks, *map(watch, points)]):
        runner(model).feed(tokens.ids, tokens.mask)
    return _finite(torch.stack([found[point] for point in points], dim=1))


def _finite(states: Tensor) -> Tensor:
    if not torch.isfinite(states).all():
        raise ValueError(NOT_FINITE)
    return states


def _all_layers(model: Model) -> range:
    return range(int(model.cfg.n_layers))


def batches(
    model: Model,
    prompts: Sequence[Askable],
    *,
    asking: Asking = BARE,
    batch_size: int | None = None,
    progress: str | None = None,
) -> Iterator[tuple[Int[Tensor, "row"], Tokens]]:
    """Prompts of like length together, each batch with its rows' places in the caller's list."""
    whole = chat_tokens(model, prompts, asking=asking)
    return in_batches(model, whole, lambda _, tokens: tokens, batch_size=batch_size, progress=progress)


def in_batches(
    model: Model,
    whole: Tokens,
    work: Callable[[Int[Tensor, "row"], Tokens], Result],
    *,
    batch_size: int | None = None,
    more: int = 0,
    progress: str | None = None,
) -> Iterator[tuple[Int[Tensor, "row"], Result]]:
    """What `work` makes of batches of like length, each with its rows' places in the whole.

    Rows whose replies open in other ways, such as with thinking on and off, are not in one batch.

    A batch that does not fit the memory is done again in halves, and the later ones are as small as that; what was done
    before is kept. Texts that rotary positions treat otherwise are in batches of their own (see `running.sides`).

    Args:
        work: from the rows' places in the whole, and their tokens.
        batch_size: rows at once; by default what `rows_at_once` says.
        more: columns that the work will add to each row.

    Raises:
        ValueError: a batch of less than one row.
        RuntimeError: even one row does not fit the memory.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"A batch holds at least one prompt, not {batch_size}.")
    lengths = whole.mask.sum(dim=1).cpu()
    groups = _groups(model, whole, lengths, more)
    order = torch.tensor(sorted(range(len(whole)), key=lambda row: (groups[row], int(lengths[row]))))
    size = batch_size or rows_at_once(model, whole.ids.shape[1] + more)
    hidden = progress is None or len(whole) <= size
    with tqdm(total=len(whole), desc=progress, unit="prompt", disable=hidden, leave=False) as bar:
        start = 0
        while start < len(order):
            rows = order[start : start + size]
            rows = rows[: sum(groups[row] == groups[int(rows[0])] for row in rows.tolist())]
            done, fits = _tried(work, rows, whole.at(rows, int(lengths[rows].max())))
            if not fits:
                size = len(rows) // 2
                free_memory()
                continue
            yield rows, done
            start += len(rows)
            bar.update(len(rows))


def _groups(model: Model, whole: Tokens, lengths: Int[Tensor, "row"], more: int) -> list[tuple[int, int]]:
    """For every row, which opening and which rotary table it has; only rows that share both may be in a batch."""
    number: dict[tuple[int, ...], int] = {}
    openings = [number.setdefault(one.opening, len(number)) for one in whole.templates] or [0] * len(whole)
    return list(zip(openings, sides(model, lengths, more).tolist(), strict=True))


def _tried(
    work: Callable[[Int[Tensor, "row"], Tokens], Result], rows: Int[Tensor, "row"], tokens: Tokens
) -> tuple[Any, bool]:
    """What the work gives, and whether it fitted; a function of its own, so that what did not fit is let go of."""
    try:
        return work(rows, tokens), True
    except (RuntimeError, MemoryError) as error:
        if len(rows) == 1 or not out_of_memory(error):
            raise
        return None, False


@torch.no_grad()
def flights(
    model: Model,
    prompts: Sequence[Askable],
    *,
    asking: Asking = BARE,
    batch_size: int | None = None,
    progress: str | None = None,
) -> Iterator[tuple[Int[Tensor, "row"], Flight]]:
    """The prompts in batches, each prefilled, with its rows' places in the caller's list."""
    whole = chat_tokens(model, prompts, asking=asking)
    yield from in_batches(
        model, whole, lambda _, tokens: Flight(model, tokens), batch_size=batch_size, progress=progress
    )


@torch.no_grad()
def residuals(
    model: Model,
    prompts: Sequence[Askable],
    *,
    layers: Sequence[int] | None = None,
    asking: Asking = BARE,
    batch_size: int | None = None,
    progress: bool = True,
) -> Float[Tensor, "prompt layer d_model"]:
    """`blocks.l.hook_resid_post` at the last prompt token of every prompt, all layers (the paper's a_p).

    On the CPU in float32, whatever the model's precision. The last layer is before the final norm.

    Args:
        layers: only these, in this order; the model is run no further than the last of them.
        batch_size: prompts at once; by default what fits and pays.

    Raises:
        ValueError: bad prompts (see `chat_tokens`), a layer that is not there, or states that are not finite.
    """
    chosen = _chosen(model, layers)
    return _gathered(
        model,
        chat_tokens(model, prompts, asking=asking),
        lambda _, tokens: _at_the_ends(model, tokens, chosen, (1,))[:, 0],
        batch_size=batch_size,
        progress="reading" if progress else None,
    )


@torch.no_grad()
def transitions(
    model: Model,
    prompts: Sequence[Askable],
    *,
    layers: Sequence[int] | None = None,
    asking: Asking = BARE,
    batch_size: int | None = None,
    progress: bool = True,
) -> Float[Tensor, "prompt layer d_model"]:
    """State at the end of the prompt minus state after the reply is made to begin with "Sure" (SCANS, eq. 2).

    Attention is causal, so the state at the end of the prompt is the same with or without
    the opening, and the move is a difference of two plain readings of one run. Arguments and errors as for `residuals`.
    """
    chosen, whole = _chosen(model, layers), chat_tokens(model, prompts, asking=asking)

    def read(_: Tensor, tokens: Tokens) -> Tensor:
        opening = _opening(model, tokens, tokens.templates)
        if crosses(model, tokens.mask.sum(dim=1), opening.shape[1]):  # the end of the prompt is read by its own table
            return Flight(model, tokens).transitions()[:, chosen]
        told = Tokens(
            torch.cat([tokens.ids, opening], dim=1), torch.cat([tokens.mask, torch.ones_like(opening)], dim=1)
        )
        states = _at_the_ends(model, told, chosen, (1 + opening.shape[1], 1))
        return states[:, 0] - states[:, 1]

    return _gathered(
        model,
        whole,
        read,
        batch_size=batch_size,
        progress="transitions" if progress else None,
        more=max(len(one.opening) for one in whole.templates),
    )


def _chosen(model: Model, layers: Sequence[int] | None) -> list[int]:
    n = int(model.cfg.n_layers)
    chosen = list(range(n)) if layers is None else [int(layer) for layer in layers]
    wrong = next((layer for layer in chosen if not 0 <= layer < n), None)
    if wrong is not None or not chosen:
        found = "none was named" if wrong is None else f"there is no layer {wrong}"
        raise ValueError(f"This model has layers 0 to {n - 1}, and {found}.")
    return chosen


def _at_the_ends(
    model: Model, tokens: Tokens, layers: Sequence[int], back: Sequence[int]
) -> Float[Tensor, "row end layer d_model"]:
    """States of these layers so many columns from the end, from one pass without logits and without a cache."""
    seen: dict[int, Tensor] = {}
    columns = [-steps for steps in back]

    def watch(layer: int) -> Hook:
        def take(residual: Float[Tensor, "row pos d_model"], hook: Any) -> None:
            seen[layer] = residual[:, columns].detach().float()

        return resid_post(layer), take

    run_through(model, tokens.ids, tokens.mask, [watch(layer) for layer in sorted(set(layers))], max(layers))
    return _finite(torch.stack([seen[layer] for layer in layers], dim=2))


@torch.no_grad()
def collect(
    model: Model,
    prompts: Sequence[Askable],
    what: Callable[[Flight], Float[Tensor, "row layer d_model"]],
    *,
    asking: Asking = BARE,
    batch_size: int | None = None,
    progress: str | None = None,
) -> Float[Tensor, "prompt layer d_model"]:
    """What `what` reads of every batch, in the order of the prompts, on the CPU in float32."""
    return _gathered(
        model,
        chat_tokens(model, prompts, asking=asking),
        lambda _, tokens: what(Flight(model, tokens)),
        batch_size=batch_size,
        progress=progress,
    )


def _gathered(
    model: Model, whole: Tokens, read: Callable[[Tensor, Tokens], Tensor], **how: Any
) -> Float[Tensor, "prompt layer d_model"]:
    result = torch.empty(len(whole), 0, int(model.cfg.d_model))
    for rows, found in in_batches(model, whole, lambda rows, tokens: read(rows, tokens).cpu(), **how):
        if not result.shape[1]:
            result = result.new_empty(len(whole), *found.shape[1:])
        result[rows] = found
    return result


@torch.no_grad()
def mean_residuals(
    model: Model,
    prompts: Sequence[Askable],
    *,
    asking: Asking = BARE,
    batch_size: int | None = None,
    progress: bool = True,
) -> tuple[Float[Tensor, "layer d_model"], Float[Tensor, "layer"]]:
    """Mean state and mean norm at the last prompt token by layer, summed in float64 as the batches come."""
    layers = _chosen(model, None)
    total = torch.zeros(len(layers), int(model.cfg.d_model), dtype=torch.float64)
    norms = torch.zeros(len(layers), dtype=torch.float64)
    word = "reading" if progress else None

    def read(_: Tensor, tokens: Tokens) -> Tensor:
        return _at_the_ends(model, tokens, layers, (1,))[:, 0].cpu().double()

    whole = chat_tokens(model, prompts, asking=asking)
    for _, states in in_batches(model, whole, read, batch_size=batch_size, progress=word):
        total += states.sum(dim=0)
        norms += states.norm(dim=-1).sum(dim=0)
    return total / len(prompts), norms / len(prompts)
