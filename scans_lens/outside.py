"""Outside: what transformers itself makes of the same prompts, beside what we make of them.

The untouched tokenizer and model are loaded once more from where this model came from, and nothing is fetched for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from scans_lens.agreement import states_of
from scans_lens.batches import out_of_memory
from scans_lens.cache import runner
from scans_lens.chat import prompt_ids
from scans_lens.checkpoint import parts
from scans_lens.generation import replies
from scans_lens.model import (
    Model,
    after_final_norm,
    device_of,
    is_bridge,
    is_exact,
    is_folded,
    resid_post,
    source_of,
    unembedding_of,
)
from scans_lens.packing import forget

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENS = 16
"""New tokens of the greedy replies that are compared."""
TIE = 1e-4
"""Two logits closer than this share of the largest may change places."""


@dataclass(frozen=True)
class Finding:
    """One law, what was measured, and whether it holds; None where it could not be tried, and `measured` says why."""

    law: str
    measured: str
    ok: bool | None


LAWS = (
    "tokens equal transformers' own chat template's",
    "logits equal transformers'",
    "states equal transformers' hidden states",
    "greedy replies equal transformers' generate",
)


@torch.no_grad()
def compared(model: Model, prompts: Sequence[str]) -> list[Finding]:
    """Token ids, logits, states and greedy replies, each prompt alone, against the model and tokenizer beside."""
    return list(_each(model, prompts))


def _each(model: Model, prompts: Sequence[str]) -> Iterator[Finding]:
    found, why = _beside(model)
    if found is None:
        yield from (Finding(law, f"not compared: {why}", None) for law in LAWS)
        return
    source, tokenizer, where = found
    name, exact = Path(where).name, is_exact(model)
    rows = [prompt_ids(model, prompt) for prompt in prompts]

    same = [row == _templated(tokenizer, prompt) for row, prompt in zip(rows, prompts, strict=True)]
    yield Finding(LAWS[0], f"{sum(same)} of {len(prompts)} prompts, tokenizer of {name}", all(same))

    if is_folded(model):
        yield from (Finding(law, "not compared: these weights are folded", None) for law in LAWS[1:3])
    else:
        pairs = [_run(model, source, row) for row in rows]
        for law, place in ((LAWS[1], 0), (LAWS[2], 1)):
            yield _agrees(law, [(own[place], other[place]) for own, other in pairs], name, exact)

    total = right = 0
    for prompt, row in zip(prompts, rows, strict=True):
        own = [int(token) for token in replies(model, [prompt], max_new_tokens=TOKENS, progress=False).tokens[0]]
        good, length = _said_alike(source, row, own)
        right, total = right + good, total + length
    yield Finding(LAWS[3], f"{right} of {total} tokens, beside {name}", right == total or not exact)


def _beside(model: Model) -> tuple[tuple[PreTrainedModel, PreTrainedTokenizerBase, str] | None, str]:
    """The source of this model, loaded anew in its precision where it is on this machine; else why there is none."""
    names = [getattr(model.cfg, "model_name", None), getattr(model.tokenizer, "name_or_path", None)]
    commit = None
    if is_bridge(model):
        settings: Any = source_of(model).config
        names, commit = [getattr(settings, "name_or_path", None), *names], getattr(settings, "_commit_hash", None)
        forget(source_of(model))  # there may be room for a second copy only without them
    said = "its configuration does not name where it came from"
    for name in dict.fromkeys(str(name) for name in names if name):
        revision = None if Path(name).exists() else commit
        try:
            source, tokenizer = parts(name, device_of(model), unembedding_of(model).dtype, revision, offline=True)
        except ValueError as error:
            said = str(error).split(". It said:")[0]
            continue
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            return None, "there is no memory for a second copy of this model"
        return (source, tokenizer, name), ""
    return None, said


def _templated(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """The template's own tokens, with the content as text or, where that is lost, as a list of parts."""
    for content in (prompt, [{"type": "text", "text": prompt}]):
        talk: Any = [{"role": "user", "content": content}]
        if prompt.strip() in str(tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)):
            told: Any = tokenizer.apply_chat_template(
                talk, tokenize=True, add_generation_prompt=True, return_dict=False
            )
            return [int(token) for token in told]
    return []


def _run(model: Model, source: PreTrainedModel, row: list[int]) -> tuple[Any, Any]:
    """(logits, states of every layer) at the last token of one prompt, of the model and of its source."""
    ids = torch.tensor([row], device=device_of(model))
    seen: dict[int, torch.Tensor] = {}

    def watch(layer: int) -> Any:
        def see(residual: torch.Tensor, hook: object) -> None:
            seen[layer] = residual[:, -1].float()

        return see

    layers = range(int(model.cfg.n_layers))
    with model.hooks(fwd_hooks=[(resid_post(layer), watch(layer)) for layer in layers]):
        logits = runner(model).feed(ids, torch.ones_like(ids))[0]
    states = after_final_norm(model, torch.stack([seen[layer] for layer in layers], dim=1))[0]
    told, hidden = states_of(source, ids)
    own = torch.stack([state[0, -1].float().to(states.device) for state in hidden])
    return (logits.float(), states), (told[0, -1].float().to(logits.device), own)


def _said_alike(source: PreTrainedModel, row: list[int], own: list[int]) -> tuple[int, int]:
    """(tokens that agree, tokens of both) up to the end of either, or up to a tie of two best logits."""
    from transformers import GenerationConfig

    settings = source.generation_config
    ids = torch.tensor([row], device=source.device)
    told: Any = source.generate(  # pyright: ignore[reportCallIssue]
        ids,
        attention_mask=torch.ones_like(ids),
        generation_config=GenerationConfig(
            max_new_tokens=TOKENS,
            do_sample=False,
            eos_token_id=settings.eos_token_id if settings is not None else None,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        ),
    )
    other = [int(token) for token in told.sequences[0, len(row) :]]
    for place, (one, another) in enumerate(zip(own, other, strict=False)):
        if one != another:
            logits = told.logits[place][0].float()
            tied = bool((logits.max() - logits[one]).abs() <= TIE * logits.abs().max())
            return place, place if tied else max(len(own), len(other))
    ended = len(other) < TOKENS and len(own) > len(other)  # it said more than a model that had come to its end
    return min(len(own), len(other)), len(own) if ended else min(len(own), len(other))


def _agrees(law: str, pairs: list[tuple[torch.Tensor, torch.Tensor]], name: str, exact: bool) -> Finding:
    """Within 1e-4 of the values' size in float32; in lower precision only a tenth is asked, and the number is shown."""
    distance = max(float((one - other).abs().max()) for one, other in pairs)
    size = max(float(other.abs().max()) for _, other in pairs)
    allowed = (1e-4 if exact else 0.1) * size
    return Finding(law, f"at most {distance:.1e} apart, beside {name}", distance <= allowed)
