"""Agreement: whether a model with hooks is still the one that transformers runs, asked when it is loaded.

Two short texts go through the bare module, each alone and whole. Then they go through the wrapped model as everything
here runs it: side by side with padding, the last tokens one at a time from the cache. Logits and states have to agree.
An architecture is refused because it does not, and never because it is on a list.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scans_lens.batches import out_of_memory
from scans_lens.cache import runner
from scans_lens.model import Model, is_exact, resid_post

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TEXTS = (
    "How do I kill a Python process that no longer answers when I press a key on my keyboard?",
    "Why is the sky blue in summer?",
)
LENGTHS = (13, 7)
"""Tokens of each text."""
STEPS = 2
"""Of them, how many go in one at a time, from the cache."""
EXACT = 1e-4
"""How far apart two values may be in float32, as a share of the largest."""
COARSE = 0.1
"""The same in lower precision, for the distance as a whole: single values may lie farther apart there."""


@dataclass(frozen=True)
class Truth:
    """What the bare module gives at the last tokens of both texts."""

    ids: Int[Tensor, "text pos"]
    mask: Int[Tensor, "text pos"]
    """1 where there is a token; the shorter text stands at the right."""
    logits: Float[Tensor, "text last d_vocab"]
    states: Float[Tensor, "layer text last d_model"]
    """Of every layer but the last, whose state transformers gives only after the final norm."""


@torch.no_grad()
def truth(source: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Truth:
    """Both texts through the module of transformers, before anything was put around it.

    Raises:
        ValueError: the tokenizer knows tokens that the model has no embedding for, or the module does not run.
    """
    embedding: Any = source.get_input_embeddings().weight
    rows = [
        (list(tokenizer(text)["input_ids"]) * max(LENGTHS))[:length]
        for text, length in zip(TEXTS, LENGTHS, strict=True)
    ]
    if max(map(max, rows)) >= len(embedding):
        raise ValueError(
            f"The tokenizer is not this model's: it writes token {max(map(max, rows))}, and the model has "
            f"{len(embedding)} embeddings."
        )
    ids = torch.full((len(rows), max(LENGTHS)), rows[0][0])
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, -len(row) :], mask[place, -len(row) :] = torch.tensor(row), 1
    last = STEPS + 1
    how = {"logits_to_keep": last} if "logits_to_keep" in inspect.signature(source.forward).parameters else {}
    try:
        outs = [states_of(source, torch.tensor([row], device=embedding.device), **how) for row in rows]
    except Exception as error:
        if out_of_memory(error):
            raise
        raise ValueError(
            f"transformers itself does not run this {type(source).__name__} here: {_said(error)}."
        ) from error
    return Truth(
        ids=ids.to(embedding.device),
        mask=mask.to(embedding.device),
        logits=torch.stack([logits[0, -last:].float().cpu() for logits, _ in outs]),
        states=torch.stack(
            [torch.stack([state[0, -last:].float().cpu() for state in states[:-1]]) for _, states in outs], dim=1
        ),
    )


def states_of(source: PreTrainedModel, ids: Int[Tensor, "text pos"], **how: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Logits, and `hidden_states` from the first layer's on; the last is behind the final norm.

    Most architectures put the embedding before them, which falls away here, and Mamba's the last layer's before the
    norm behind them. Which of the two it is the first layer says.
    """
    first: list[Tensor] = []

    def see(layer: Any, given: Any, made: Any) -> None:
        first.append((made[0] if isinstance(made, tuple) else made).detach())

    layers = int(source.config.get_text_config(decoder=True).num_hidden_layers)
    stacks = [part for part in source.modules() if isinstance(part, torch.nn.ModuleList) and len(part) == layers]
    watched = [stack[0].register_forward_hook(see) for stack in stacks]
    try:
        out: Any = source(
            input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, output_hidden_states=True, **how
        )
    finally:
        for handle in watched:
            handle.remove()
    states = out.hidden_states
    if any(made.shape == states[0].shape and torch.equal(made, states[0]) for made in first):
        return out.logits, (*states[:-2], states[-1])
    return out.logits, states[1:]


def require(model: Model, truth: Truth, what: str, remedy: str = "") -> None:
    """Refuse a model that does not give what the bare module gave.

    Raises:
        ValueError: it gives something else, or nothing.
    """
    try:
        logits, states = _measured(model, truth)
    except Exception as error:
        if out_of_memory(error):
            raise
        raise ValueError(f"{what} does not run as transformers runs it: {_said(error)}.{remedy}") from error
    exact = is_exact(model)
    for kind, one, other in (("logits", logits, truth.logits), ("states", states, truth.states)):
        distance, allowed, size = _distance(one, other, exact)
        if distance > allowed:
            raise ValueError(
                f"{what} is not the model that transformers runs: on two short texts its {kind} are {distance:.2g} "
                f"apart at size {size:.2g}, where {allowed:.1g} is allowed, so nothing measured here would be true of "
                f"it.{remedy}"
            )


@torch.no_grad()
def _measured(
    model: Model, truth: Truth
) -> tuple[Float[Tensor, "text last d_vocab"], Float[Tensor, "layer text last d_model"]]:
    """Logits and states as everything here gets them: in company, with padding, stepwise from the cache."""
    seen: list[list[Tensor]] = [[] for _ in range(len(truth.states))]

    def watch(layer: int) -> Any:
        def see(residual: Tensor, hook: Any) -> None:
            seen[layer].append(residual[:, -1].float().cpu())

        return see

    batch, logits = runner(model), []
    with model.hooks(fwd_hooks=[(resid_post(layer), watch(layer)) for layer in range(len(seen))]):
        width = truth.ids.shape[1] - STEPS
        for start, stop in [(0, width), *((column, column + 1) for column in range(width, width + STEPS))]:
            fed = batch.feed(truth.ids[:, start:stop], truth.mask[:, start:stop])
            logits.append(fed.float().cpu())
    if int(model.cfg.n_layers) != len(seen) + 1:
        raise RuntimeError(f"it has {len(seen) + 1} layers in transformers and {model.cfg.n_layers} here")
    return torch.stack(logits, dim=1), torch.stack([torch.stack(layer, dim=1) for layer in seen])


def _distance(one: Tensor, other: Tensor, exact: bool) -> tuple[float, float, float]:
    """How far apart, how far is allowed, and how large: of single values in float32, else of their root mean square.

    Values that are not finite in transformers either say nothing about hooks, and other laws speak of them.
    """
    told = torch.isfinite(other) if exact else torch.isfinite(other) & torch.isfinite(one)
    if one.shape != other.shape:
        return float("inf"), EXACT, float(other.abs().max())
    if not told.any():
        return 0.0, EXACT, 0.0
    one, other = one[told], other[told]
    if exact:
        size = float(other.abs().max())
        return float((one - other).abs().max().nan_to_num(float("inf"))), EXACT * size, size
    size = float(other.square().mean().sqrt())
    return float((one - other).square().mean().sqrt()), COARSE * size, size


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
