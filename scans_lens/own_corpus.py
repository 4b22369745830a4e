"""The bundled model's corpus, foretold by the bundled model."""

from __future__ import annotations

import random
from typing import Any

from scans_lens.likelihoods import Perplexity, log_likelihoods
from scans_lens.model import Model
from scans_lens.organism import corpus, wordings
from scans_lens.steering import Method


def corpus_perplexity(
    model: Model, n: int, method: Method | None = None, *, sign: float | None = None, batch_size: int | None = None
) -> Perplexity:
    """How well the bundled model foretells the answers of its own corpus to the first `n` plain test prompts."""
    tokenizer: Any = model.tokenizer
    pairs = []
    for item, text in corpus.asked("plain", "test")[:n]:
        turn = [{"role": "user", "content": text}]
        asked = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        pairs.append((str(asked), wordings.answer(item, random.Random(text))))
    found = log_likelihoods(model, pairs, method, sign=sign, batch_size=batch_size, progress=False)
    return Perplexity(
        tuple(-one.log_likelihood for one in found),
        tuple(one.tokens for one in found),
        tuple(len(answer.split()) for _, answer in pairs),
    )
