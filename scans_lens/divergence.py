"""Divergence: how far a push moves the first token of replies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from scans_lens.conversation import Prompt
from scans_lens.flight import flights
from scans_lens.model import Model
from scans_lens.steering import Method


@torch.no_grad()
def divergences(
    model: Model, prompts: Sequence[Prompt], methods: Sequence[Method], *, batch_size: int | None = None
) -> Float[Tensor, "method prompt"]:
    """How far each method moves the reply's first token: KL(plain || steered), in nats, for each prompt.

    On harmless prompts it gives pushes of different models and units one axis. All methods share one prefill.
    """
    found = torch.zeros(len(methods), len(prompts), dtype=torch.float64)
    # What steers the whole prompt leaves keys and values of its own behind, so it comes last.
    order = sorted(range(len(methods)), key=lambda place: methods[place].whole_prompt)
    for rows, flight in flights(model, prompts, batch_size=batch_size):
        decided = [method.decide(flight) for method in methods]  # before anything is steered
        plain = flight.again([], whole_prompt=False).double().log_softmax(dim=-1)
        for place in order:
            hooks = methods[place].hooks_for(decided[place], flight)
            steered = flight.again(hooks, whole_prompt=methods[place].whole_prompt).double().log_softmax(dim=-1)
            found[place, rows] = (plain.exp() * (plain - steered)).sum(dim=-1).clamp(min=0.0).cpu()
    return found
