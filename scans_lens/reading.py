"""Reading: the residual stream each prompt leaves behind, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scans_lens.batches import in_batches
from scans_lens.cache import all_finite, crosses, run_through, runner
from scans_lens.chat import Tokens, chat_tokens
from scans_lens.conversation import BARE, Askable, Asking
from scans_lens.flight import Flight, opening_ids
from scans_lens.model import Hook, Model, hooked, resid_post

What = Callable[[Flight], Float[Tensor, "row layer d_model"]]


@dataclass(frozen=True)
class Readings:
    """What each prompt of one side left behind."""

    residuals: Float[Tensor, "prompt layer d_model"]
    """`resid_post` at the end of the prompt."""
    mass: Float[Tensor, "d_vocab"]
    """Mean probability of each next token."""
    moves: Float[Tensor, "prompt moved d_model"] | None
    """What else was asked of each flight; None where nothing was."""


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
        opening = opening_ids(model, tokens, tokens.templates)
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
        more=max(len(template.opening) for template in whole.templates),
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
    return all_finite(torch.stack([seen[layer] for layer in layers], dim=2))


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
    return all_finite(torch.stack([found[point] for point in points], dim=1))


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
    for rows, states in in_batches(model, whole, lambda rows, tokens: read(rows, tokens).cpu(), **how):
        if not result.shape[1]:
            result = result.new_empty(len(whole), *states.shape[1:])
        result[rows] = states
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


@torch.no_grad()
def readings(
    model: Model,
    prompts: Sequence[Askable],
    moves: What | None = None,
    *,
    batch_size: int | None = None,
    progress: str | None = "reading",
) -> Readings:
    """Each prompt read once: states, next token and, where `moves` is given, what it takes of the flight."""

    def read(_: Int[Tensor, "row"], tokens: Tokens) -> tuple[Tensor, Tensor, Tensor | None]:
        flight = Flight(model, tokens)
        mass = torch.softmax(flight.logits.float(), dim=-1).double().sum(dim=0)
        moved = moves(flight).cpu() if moves else None
        return flight.residuals().cpu(), mass.cpu(), moved

    states: list[Tensor] = [torch.empty(0)] * len(prompts)
    moved: list[Tensor] = [torch.empty(0)] * len(prompts)
    total = torch.zeros(())
    whole = chat_tokens(model, prompts)
    for rows, (ends, mass, extra) in in_batches(model, whole, read, batch_size=batch_size, progress=progress):
        total = total + mass
        for place, row in enumerate(rows.tolist()):
            states[row] = ends[place]
            if extra is not None:
                moved[row] = extra[place]
    return Readings(torch.stack(states), total / len(prompts), torch.stack(moved) if moves else None)
