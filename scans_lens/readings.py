"""Readings: all that learning takes from one side of a contrast, in one pass over its prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scans_lens.chat import Tokens, chat_tokens
from scans_lens.conversation import Askable
from scans_lens.directions import Directions, difference_of_means, origin_of
from scans_lens.model import Model
from scans_lens.prompts import Contrast
from scans_lens.reading import Flight, in_batches

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
    for rows, (own, mass, other) in in_batches(model, whole, read, batch_size=batch_size, progress=progress):
        total = total + mass
        for place, row in enumerate(rows.tolist()):
            states[row] = own[place]
            if other is not None:
                moved[row] = other[place]
    return Readings(torch.stack(states), total / len(prompts), torch.stack(moved) if moves else None)


def directions_of(model: Model, contrast: Contrast, harmful: Readings, harmless: Readings) -> Directions:
    """From answering towards refusing, as `refusal_directions` has it, from what was read already (SCANS, eq. 1)."""
    norms = [side.residuals.double().norm(dim=-1).mean(dim=0) for side in (harmful, harmless)]
    vectors = difference_of_means(harmful.residuals.double(), harmless.residuals.double())
    return Directions(vectors.float(), ((norms[0] + norms[1]) / 2).float(), origin_of(model, contrast))
