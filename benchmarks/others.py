"""Others: what a user would run instead, on the same prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from scans_lens.chat import Tokens, chat_tokens, end_tokens, prompt_ids, template
from scans_lens.methods.scans import SCANS
from scans_lens.model import resid_post


@cache
def bare(folder: Path) -> Any:
    """The same weights as Hugging Face runs them, with its own choice of attention (sdpa)."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


@torch.no_grad()
def forward(source: Any, tokens: Tokens) -> None:
    """A whole forward pass through the layers, without logits and without a cache: the least that reading can cost."""
    source.model(input_ids=tokens.ids, attention_mask=tokens.mask, use_cache=False)


@torch.no_grad()
def generate(source: Any, tokens: Tokens, new: int, ends: Sequence[int]) -> list[int]:
    """Hugging Face's own `generate`, greedy and batched. How many tokens each row got before its end."""
    said = source.generate(
        input_ids=tokens.ids,
        attention_mask=tokens.mask,
        max_new_tokens=new,
        do_sample=False,
        eos_token_id=list(ends),
        pad_token_id=ends[0],
    )[:, tokens.ids.shape[1] :]
    over = torch.isin(said, torch.tensor(list(ends)))
    return torch.where(over.any(1), over.int().argmax(1), said.shape[1]).tolist()


def sorted_batches(model: Any, prompts: Sequence[str], size: int) -> list[Tokens]:
    """Prompts sorted by length and padded on the left, as a careful user would batch them."""
    whole = chat_tokens(model, prompts)
    lengths = whole.mask.sum(1)
    order = lengths.argsort(stable=True)
    found = []
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        width = int(lengths[rows].max())
        found.append(Tokens(whole.ids[rows, -width:], whole.mask[rows, -width:]))
    return found


@torch.no_grad()
def transformer_lens(model: Any, tokens: Tokens, new: int) -> None:
    """TransformerLens' own `generate`."""
    model.generate(
        tokens.ids, max_new_tokens=new, do_sample=False, stop_at_eos=False, verbose=False, return_type="tokens"
    )


@torch.no_grad()
def published(source: Any, model: Any, scans: SCANS, prompts: Sequence[str], new: int) -> None:
    """SCANS as published, from its description: one prompt at a time, a whole pass for the score, and a second prefill.

    The score reads every layer's last hidden states; the push is added by forward hooks on the decoder layers from the
    last prompt token on, and Hugging Face's `generate` does the decoding.
    """
    opening = list(template(model).opening)
    ends = list(end_tokens(model))
    for prompt in prompts:
        ids = prompt_ids(model, prompt)
        told = torch.tensor([ids + opening])
        states = torch.stack(source(told, output_hidden_states=True).hidden_states[1:], dim=2)[0]
        move = states[len(ids) - 1] - states[-1]
        score = scans.classifier.score(move[None])
        sign = 1.0 if float(score) >= scans.classifier.threshold else -1.0
        handles = [
            source.model.layers[layer].register_forward_hook(
                _pushing(sign * scans.scale * scans.directions.vectors[layer], len(ids) - 1)
            )
            for layer in scans.layers
        ]
        try:
            source.generate(
                torch.tensor([ids]), max_new_tokens=new, do_sample=False, eos_token_id=ends, pad_token_id=ends[0]
            )
        finally:
            for handle in handles:
                handle.remove()


def _pushing(push: torch.Tensor, end: int) -> Callable[..., torch.Tensor]:
    def add(module: Any, given: Any, states: torch.Tensor) -> torch.Tensor:
        first = end if states.shape[1] > 1 else 0
        return torch.cat([states[:, :first], states[:, first:] + push], dim=1)

    return add


def own_loop_hooks(layers: Sequence[int], push: torch.Tensor) -> list[tuple[str, Callable[..., torch.Tensor]]]:
    """What somebody writes in a notebook: a constant push on every column."""
    return [(resid_post(layer), lambda residual, hook: residual + push) for layer in layers]
