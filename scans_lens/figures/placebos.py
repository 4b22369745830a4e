"""Placebos: SCANS along directions that mean nothing, as long as its own at every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from scans_lens.directions import shuffled_difference
from scans_lens.figures.study import Study
from scans_lens.methods.scans import SCANS


def random(study: Study, *purpose: str) -> SCANS:
    """Along random directions."""
    drawn = torch.randn(study.directions.vectors.shape, generator=study.generator(*purpose))
    return _along(study.scans, drawn)


def shuffled(study: Study, *purpose: str) -> SCANS:
    """Along directions of the anchors under labels that mean nothing."""
    harmful, plain = (study.anchor_states[kind].residuals for kind in ("harmful", "plain"))
    return _along(study.scans, shuffled_difference(harmful, plain, study.generator(*purpose)).float())


def _along(scans: SCANS, vectors: Float[Tensor, "layer d_model"]) -> SCANS:
    """The same classifier and scale, other directions of the same lengths."""
    lengths = scans.directions.vectors.norm(dim=-1, keepdim=True)
    vectors = vectors / vectors.norm(dim=-1, keepdim=True) * lengths
    return replace(scans, directions=replace(scans.directions, vectors=vectors))


def likeness(scans: SCANS, draws: Sequence[SCANS]) -> float:
    """Mean absolute cosine with the true directions, over the draws and the layers that each of them steers."""
    cosines = [
        torch.nn.functional.cosine_similarity(draw.directions.vectors, scans.directions.vectors, dim=-1)
        for draw in draws
    ]
    steered = [cosine[list(draw.layers)] for cosine, draw in zip(cosines, draws, strict=True)]
    return float(torch.stack(steered).abs().mean())
