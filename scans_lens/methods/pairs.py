"""Pairs: principal directions of harmful and harmless prompts that stand side by side."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from scans_lens.conversation import Prompt
from scans_lens.directions import Directions, Origin, origin_of
from scans_lens.errors import Refused
from scans_lens.model import Model
from scans_lens.prompts import Contrast


def pairs_of(contrast: Contrast, method: str) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """Harmful and harmless prompts side by side, as many as the shorter side has.

    Raises:
        ValueError: fewer than two pairs.
    """
    n = min(len(contrast.harmful), len(contrast.harmless))
    if n < 2:
        raise Refused(f"{method} learns from pairs of prompts and needs two at least; {contrast.name!r} has {n}.")
    return contrast.harmful[:n], contrast.harmless[:n]


def principal(
    rows: Float[Tensor, "row layer d_model"],
    harmful: Float[Tensor, "pair layer d_model"],
    harmless: Float[Tensor, "pair layer d_model"],
) -> Float[Tensor, "layer d_model"]:
    """The first principal component of the rows at every layer, of length 1, turned from harmless to harmful.

    The rows are taken as they are: who wants them centred, centres them. The sign is that on which more of the pairs
    agree, the harmful prompt's state lying further along than the harmless one's; a draw is settled by the means.
    """
    found = []
    for layer in range(rows.shape[1]):
        _, _, axes = torch.linalg.svd(rows[:, layer].double(), full_matrices=False)
        apart = (harmful[:, layer] - harmless[:, layer]).double() @ axes[0]
        votes = float(apart.sign().sum()) or float(apart.mean())
        found.append(axes[0] if votes >= 0 else -axes[0])
    return torch.stack(found).float()


def directions_along(
    model: Model,
    contrast: Contrast,
    vectors: Float[Tensor, "layer d_model"],
    harmful: Float[Tensor, "pair layer d_model"],
    harmless: Float[Tensor, "pair layer d_model"],
) -> Directions:
    """Vectors as they are, with the mean norms of the pairs' states and where they came from."""
    norms = torch.cat([harmful, harmless]).norm(dim=-1).mean(dim=0)
    n = len(harmful)
    origin: Origin = replace(origin_of(model, contrast), n_harmful=n, n_harmless=n)
    return Directions(vectors, norms, origin)
