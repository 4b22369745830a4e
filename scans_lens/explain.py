"""Explain: why does this model refuse this prompt? What every token says, what every layer says, and both replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scans_lens.batches import token_batches
from scans_lens.cache import runner
from scans_lens.chat import words_of
from scans_lens.conversation import Prompt
from scans_lens.generation import replies_under
from scans_lens.judges import Judge, Verdict
from scans_lens.methods.scans import SCANS
from scans_lens.model import Model, hooked, resid_post
from scans_lens.reading import collect
from scans_lens.world import world_of


@dataclass(frozen=True)
class Look:
    """What SCANS sees in one prompt."""

    prompt: Prompt
    tokens: tuple[str, ...]
    """The prompt in the model's chat template."""
    projection: Float[Tensor, "token"]
    """Cosine of each token's residual stream with the refusal direction, mean over the steered layers."""
    by_layer: Float[Tensor, "layer"]
    """Cosine of the prompt's transition with the harmful one, at every layer (a term of SCANS, eq. 4)."""


@torch.no_grad()
def looks(
    model: Model,
    prompts: Sequence[Prompt],
    scans: SCANS,
    *,
    batch_size: int | None = None,
    progress: bool = False,
) -> list[Look]:
    """What SCANS sees in each prompt, token by token and layer by layer.

    Raises:
        ValueError: a prompt that cannot be asked, or SCANS of another model.
    """
    moves = collect(
        model, prompts, scans.reader.read, batch_size=batch_size, progress="reading prompts" if progress else None
    )
    layers = scans.classifier.by_layer(moves).cpu()
    found: dict[int, Look] = {}
    word = "looking at each token" if progress else None
    for places, tokens in token_batches(model, prompts, batch_size=batch_size, progress=word):
        cosines = _cosines(model, tokens.ids, tokens.mask, scans)
        for row, place in enumerate(places.tolist()):
            own = tokens.mask[row].bool().cpu()
            words = tuple(words_of(model, tokens.ids[row].cpu()[own].tolist()))
            found[place] = Look(prompts[int(place)], words, cosines[row][own], layers[place])
    return [found[place] for place in range(len(prompts))]


@dataclass(frozen=True)
class Explained:
    """One prompt, and what SCANS sees in it and does to it."""

    look: Look
    voting: tuple[int, ...]
    """The layers whose mean is the score."""
    score: float
    threshold: float
    scale: float
    """The push that it would get, + towards refusal, in the method's unit."""
    unit: str
    plain: str
    steered: str
    verdicts: tuple[Verdict, Verdict]
    """On the plain and on the steered reply."""


@torch.no_grad()
def explained(
    model: Model,
    prompt: Prompt,
    scans: SCANS,
    *,
    judge: Judge | None = None,
    max_new_tokens: int = 128,
    progress: bool = False,
) -> Explained:
    """What SCANS sees in a prompt, and what it changes.

    Raises:
        ValueError: a prompt that cannot be asked, or SCANS of another model.
    """
    judge = judge or world_of(model).judge
    plain, steered = replies_under(model, [prompt], [None, scans], max_new_tokens=max_new_tokens, progress=progress)
    assert steered.score is not None and steered.scale is not None
    return Explained(
        look=looks(model, [prompt], scans)[0],
        voting=scans.classifier.layers,
        score=float(steered.score[0]),
        threshold=scans.classifier.threshold,
        scale=float(steered.scale[0]),
        unit=scans.unit,
        plain=plain[0],
        steered=steered[0],
        verdicts=(judge([plain[0]])[0], judge([steered[0]])[0]),
    )


def _cosines(
    model: Model, ids: Int[Tensor, "row pos"], mask: Int[Tensor, "row pos"], scans: SCANS
) -> Float[Tensor, "row pos"]:
    units = scans.directions.unit().vectors.float().cpu()
    seen: list[Tensor] = []

    def watch(layer: int) -> Any:
        def look(residual: Float[Tensor, "row pos d_model"], hook: Any) -> None:
            seen.append(torch.cosine_similarity(residual.detach().float().cpu(), units[layer], dim=-1))

        return look

    with hooked(model, [(resid_post(layer), watch(layer)) for layer in scans.layers]):
        runner(model).feed(ids, mask)
    return torch.stack(seen).mean(dim=0)
