"""A flight: a batch of prompts on its way through a model, prefilled once, read, and then steered."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scans_lens.batches import in_batches
from scans_lens.cache import Runner, all_finite, runner, shares
from scans_lens.chat import Template, Tokens, chat_tokens, end_tokens, template
from scans_lens.conversation import BARE, Askable, Asking
from scans_lens.model import Hook, Model, hooked, resid_post

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
        instructed = [max(each.end_of_instruction, -tokens.ids.shape[1]) for each in self.templates]
        rest = begun_together(self.run, tokens, -min(instructed))
        with _watching(model, _all_layers(model), ([-1] * len(tokens), instructed)) as self._ends:
            self.logits = self.run.feed(rest.ids, rest.mask)

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

    def until(self, column: int) -> tuple[Since, list[Hook]]:
        """Which columns of a call lie before `column`, and what notes where calls end, in the caller's own loop.

        There a narrow call is taken to go on where the one before it ended; the hooks belong behind those that ask.
        """
        if not self._in_the_callers_loop:
            return self.since(column), []
        note, first_of_the_last = self.follow()
        return lambda columns: max(0, column - (0 if columns >= self.width else first_of_the_last(0))), [note]

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
            opening = opening_ids(self.model, self.tokens, self.templates)
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


def begun_together(run: Runner, tokens: Tokens, kept: int) -> Tokens:
    """Run what all rows begin with alike, such as a system prompt, once; returns what is left of the rows.

    Args:
        kept: tokens at the end of each row that are to be read, and stay in it.
    """
    prefix = tokens.shared(kept) if len(tokens) > 1 else tokens.ids[0, :0]
    if len(prefix) < LEAST_SHARED or not shares(run.model, tokens.ids.shape[1]):
        return tokens
    run.begin(prefix, len(tokens))
    return tokens.behind(len(prefix))


_MOVED_ON = "This flight is steered or decoded already, and its own states are gone: read it before."


def opening_ids(model: Model, tokens: Tokens, templates: Sequence[Template]) -> Int[Tensor, "row pos"]:
    """The opening behind every row.

    Raises:
        ValueError: there is no room for it, or rows have other openings than others; `in_batches` parts them.
    """
    openings, width = {each.opening for each in templates}, tokens.ids.shape[1]
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
            self._stacks[column] = all_finite(
                torch.stack([self._seen[layer][:, column] for layer in self._layers], dim=1)
            )
        return self._stacks[column]


def _all_layers(model: Model) -> range:
    return range(int(model.cfg.n_layers))


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
