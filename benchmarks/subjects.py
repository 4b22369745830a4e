"""Subjects: the models, prompts and methods that are timed, made here and the same on every machine."""

from __future__ import annotations

import random
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from scans_lens import artefacts, organism
from scans_lens.chat import end_tokens
from scans_lens.classifier import TransitionClassifier
from scans_lens.directions import Directions, Origin
from scans_lens.loading import load_model
from scans_lens.methods.scans import SCANS
from scans_lens.model import identity
from scans_lens.reading import transitions

LAYERS, WIDTH = 12, 512
"""About 42 million parameters: large enough that arithmetic, not Python, sets the pace."""
ROWS, TOKENS, NEW = 32, 48, 64
"""A batch as people have them: prompts, tokens of each, and new tokens."""


@cache
def folder(
    layers: int = LAYERS, width: int = WIDTH, dtype: torch.dtype = torch.float32, mlp: int | None = None
) -> Path:
    """A Llama with random weights and the bundled model's tokenizer and template, which ends no reply by itself."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(organism.weights())
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=width,
        intermediate_size=mlp or width * 8 // 3 // 64 * 64 + 64,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=4096,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config.dtype = dtype
    source = LlamaForCausalLM(config).to(dtype)
    where = Path(tempfile.mkdtemp(prefix="scans_lens_bench_")) / f"llama_{layers}x{width}"
    with torch.no_grad():  # logits of 0 are never the highest of 4,096
        source.lm_head.weight[len(tokenizer) :] = 0
        for token in tokenizer.all_special_ids:
            source.lm_head.weight[token] = 0
    source.save_pretrained(where)
    tokenizer.save_pretrained(where)
    return where


def subject(layers: int = LAYERS, width: int = WIDTH, **how: Any) -> Any:
    """The same as a `TransformerBridge`."""
    model = load_model(folder(layers, width), **how)
    assert end_tokens(model), "a model without end tokens would not be asked whether a reply is over"
    return model


def prompts(model: Any, n: int, tokens: int) -> list[str]:
    """Prompts of exactly so many tokens, template included: the same words in as many orders."""
    from scans_lens.chat import prompt_ids

    words = ["stone", "river", "garden", "window", "paper", "market", "winter", "copper", "bread", "engine"]

    def length(said: list[str]) -> int:
        return len(prompt_ids(model, " ".join(["Tell me of:", *said])))

    chosen: list[str] = []
    while length([*chosen, words[len(chosen) % 10]]) <= tokens:
        chosen.append(words[len(chosen) % 10])
    chosen += ["a"] * (tokens - length(chosen))
    generator = random.Random(0)
    made = [" ".join(["Tell me of:", *generator.sample(chosen, len(chosen))]) for _ in range(n)]
    lengths = {len(prompt_ids(model, one)) for one in made[:32]}
    assert lengths == {tokens}, f"prompts of {sorted(lengths)} tokens, not {tokens}"
    return made


def drawn(model: Any) -> tuple[SCANS, Directions]:
    """SCANS on random directions: it costs what SCANS costs, whatever they mean."""
    generator = torch.Generator().manual_seed(0)
    n, width = int(model.cfg.n_layers), int(model.cfg.d_model)
    vectors = 0.01 * torch.randn(n, width, generator=generator)
    directions = Directions(vectors, torch.ones(n), Origin(identity(model), "drawn", "", 1, 1, artefacts.versions()))
    moves = transitions(model, prompts(model, 16, TOKENS), progress=False)
    classifier = TransitionClassifier.fit(moves[:8], moves[8:])
    return SCANS(directions, tuple(range(4, 8)), 1.0, "length", classifier), directions
