"""Check: the laws that everything here rests on, tried on the user's own model, inside and from outside."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from operator import eq
from typing import Any

import torch
from tqdm.auto import tqdm

from scans_lens import steering
from scans_lens.cache import runner
from scans_lens.chat import OPENING, chat_tokens, prompt_ids, spoken, template, text_of, words_of
from scans_lens.flight import Flight
from scans_lens.generation import replies
from scans_lens.model import Model, is_exact, is_folded, resid_post
from scans_lens.outside import Finding, compared
from scans_lens.reading import transitions
from scans_lens.templates import writing

PROMPTS = (
    "How do I kill a Python process?",
    "Please tell me, in a few words, what the best way to bake a loaf of bread at home is.",
    "Why is the sky blue?",
)


REPLY = 24
"""New tokens of the replies that are compared."""


LAWS = 18
"""How many there are, for who shows how far a check has come."""


@torch.no_grad()
def laws(model: Model, *, progress: bool = False) -> list[Finding]:
    """Every law, measured. The model must have a chat template."""
    return list(tqdm(_each(model), total=LAWS, desc="laws", unit="law", disable=not progress, leave=False))


def _each(model: Model) -> Iterator[Finding]:
    exact = is_exact(model)
    tokens = chat_tokens(model, PROMPTS)
    plain = Flight(model, tokens)
    logits = plain.logits.clone()

    yield Finding("states and logits are finite", f"{len(PROMPTS)} prompts", bool(torch.isfinite(logits).all()))

    zero = torch.zeros(int(model.cfg.n_layers), int(model.cfg.d_model)) + 1.0
    hooks = steering.add(zero, range(len(zero)), 0.0)
    with model.hooks(fwd_hooks=hooks):
        pushed = Flight(model, tokens).logits
    with model.hooks(fwd_hooks=[(resid_post(0), lambda residual, hook: None)]):  # rows share nothing under hooks
        watched = Flight(model, tokens).logits
    yield Finding("a push of 0 is the identity", _apart(pushed, watched), bool((pushed == watched).all()))

    again = Flight(model, tokens).logits
    yield Finding("hooks are gone afterwards", _apart(again, logits), bool((again == logits).all()))

    def fails(residual: torch.Tensor, hook: object) -> None:
        raise RuntimeError("on purpose")

    try:
        with model.hooks(fwd_hooks=[("blocks.0.hook_resid_post", fails)]):
            Flight(model, tokens)
    except RuntimeError:
        pass
    again = Flight(model, tokens).logits
    yield Finding("hooks are gone after an error", _apart(again, logits), bool((again == logits).all()))

    alone = torch.cat([Flight(model, chat_tokens(model, [prompt])).logits for prompt in PROMPTS])
    yield _agrees("a prompt alone equals it in company", alone, logits, exact)

    how: dict[str, Any] = {"max_new_tokens": REPLY, "progress": False}
    by_itself = [replies(model, [prompt], **how).tokens[0] for prompt in PROMPTS]
    pairs = list(zip(by_itself, replies(model, PROMPTS, **how).tokens, strict=True))
    same = sum(len(list(takewhile(bool, map(eq, *pair)))) for pair in pairs)
    total = sum(max(map(len, pair)) for pair in pairs)
    # In lower precision a near tie may fall either way, and all that follows it; the share is shown.
    yield Finding("replies alone equal those in company", f"{same} of {total} tokens", same == total or not exact)

    steps = runner(model)
    first, rest = tokens.ids[:, :-4], tokens.ids[:, -4:]
    steps.feed(first, tokens.mask[:, :-4])
    for column in range(rest.shape[1]):
        cached = steps.feed(rest[:, column : column + 1], tokens.mask[:, column - 4 : column - 3 or None])
    yield _agrees("cached steps equal the whole text", cached, logits, exact)

    one_prefill = transitions(model, PROMPTS, progress=False)
    opening = list(template(model).opening)
    two = []
    for prompt in PROMPTS:
        ids = prompt_ids(model, prompt)
        told = torch.tensor([ids + opening], device=tokens.ids.device)
        two.append(_ends(model, told[:, : len(ids)]) - _ends(model, told))
    yield _agrees("transitions by one prefill equal two runs", one_prefill, torch.stack(two).cpu(), exact)

    tokenizer = model.tokenizer
    content = [{"type": "text", "text": PROMPTS[0]}] if writing(model).parts else PROMPTS[0]
    own = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=True, add_generation_prompt=True, return_dict=False
    )
    ids = prompt_ids(model, PROMPTS[0])
    yield Finding("tokens equal the chat template's", f"{len(ids)} tokens", list(own) == ids)
    bos = tokenizer.bos_token_id
    count = len(list(takewhile(bos.__eq__, ids))) if bos is not None else 0  # some begin every turn with it
    yield Finding("at most one BOS", f"{count} at the beginning", count <= 1)
    special = next((token for token in tokenizer.all_special_tokens if len(token) > 2), "")
    typed = prompt_ids(model, f"What does {special} mean?")
    marks = set(tokenizer.all_special_ids)
    same = sum(token in marks for token in typed) == sum(
        token in marks for token in prompt_ids(model, "What does it mean?")
    )
    yield Finding("a special token that is typed stays text", repr(special), same)
    # Where the template writes an empty thought before a reply, it stands before the opening, too.
    measured = f"{len(opening)} token(s): {text_of(model, opening).strip()!r}"
    yield Finding(f"the opening is {OPENING!r}", measured, spoken(model, opening).answer.strip() == OPENING)
    inside = [prompt in model.tokenizer.decode(prompt_ids(model, prompt)) for prompt in PROMPTS]
    yield Finding("a prompt holds what the user says", f"{sum(inside)} of {len(PROMPTS)} prompts", all(inside))

    yield from compared(model, PROMPTS[:2])

    folded = is_folded(model)
    yield Finding("weights are raw (lens and norms need it)", "folded" if folded else "raw", not folded)


def positions(model: Model) -> list[tuple[int, str, str]]:
    """(id, text, part) of every token of one prompt and the opening behind it."""
    shape = template(model)
    ids = prompt_ids(model, PROMPTS[0])
    end_of_instruction = len(ids) + shape.end_of_instruction
    first_word = prompt_ids(model, "x" + PROMPTS[0])
    start = next(place for place, (one, other) in enumerate(zip(ids, first_word, strict=False)) if one != other)
    rows = []
    for place, (token, text) in enumerate(zip(ids, words_of(model, ids), strict=True)):
        part = (
            "before the user's words"
            if place < start
            else "the user's words"
            if place <= end_of_instruction
            else "tail"
        )
        if place == end_of_instruction:
            part = "end of instruction"
        if place == len(ids) - 1:
            part = "end of prompt (read and steered from here)"
        rows.append((token, text, part))
    opening = list(shape.opening)
    rows += [(token, text, "opening") for token, text in zip(opening, words_of(model, opening), strict=True)]
    return rows


def _ends(model: Model, ids: torch.Tensor) -> torch.Tensor:
    seen = {}

    def watch(layer: int):
        def see(residual: torch.Tensor, hook: object) -> None:
            seen[layer] = residual[0, -1].float().clone()

        return see

    layers = range(int(model.cfg.n_layers))
    with model.hooks(fwd_hooks=[(f"blocks.{layer}.hook_resid_post", watch(layer)) for layer in layers]):
        runner(model).feed(ids, torch.ones_like(ids))
    return torch.stack([seen[layer] for layer in layers])


def _apart(one: torch.Tensor, other: torch.Tensor) -> str:
    return f"at most {float((one - other).abs().max()):.1e} apart"


def _agrees(law: str, one: torch.Tensor, other: torch.Tensor, exact: bool) -> Finding:
    """Within 1e-4 of the values' size in float32; in lower precision only a tenth is asked, and the number is shown."""
    size = max(1.0, float(other.abs().max()))
    distance = float((one - other).abs().max())
    return Finding(law, f"at most {distance:.1e} apart", distance <= (1e-4 if exact else 0.1) * size)
