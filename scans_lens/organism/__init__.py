"""Organism: the bundled chat model, a small model organism of exaggerated safety, and the prompts it lives on.

What is measured on it is true of it and labelled so; it stands in for a large model only in kind.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scans_lens.organism import grammar
from scans_lens.organism.corpus import KINDS, SPLITS, Kind, Split, asked, prompts
from scans_lens.organism.wordings import is_refusal
from scans_lens.prompts import Contrast, PromptSet

__all__ = [
    "KINDS",
    "SPLITS",
    "Kind",
    "Split",
    "anchors",
    "identity",
    "is_refusal",
    "prompt_set",
    "prompts",
    "validation",
    "weights",
]

SAFETY_PROMPT = grammar.SYSTEM_SAFE[1]
"""A system prompt that stresses safety, as the bundled model knows it."""
ANCHORS = 192
"""How many training prompts a side `anchors` holds."""
VALIDATION = 384
"""How many validation prompts of a kind `validation` holds: a point of a rate is four prompts."""


def weights() -> Path:
    """The folder of the bundled model, in Hugging Face format."""
    return Path(__file__).parent / "weights"


def anchors() -> Contrast:
    """Harmful, plain and borderline prompts of the training split, for learning directions of the bundled model."""
    return _contrast("organism train", "train", ANCHORS)


def validation() -> Contrast:
    """Harmful, plain and borderline prompts of the validation split, for choosing knobs on the bundled model."""
    return _contrast("organism validation", "validation", VALIDATION)


def prompt_set(kind: Kind, split: Split = "test") -> PromptSet:
    """The prompts of a kind and split as a set to evaluate on; each knows its item, since items are asked again."""
    own = asked(kind, split)
    side = {"plain": "harmless", "quiz": "harmless", "borderline": "borderline"}.get(kind, "harmful")
    return PromptSet(
        name=kind,
        prompts=tuple(text for _, text in own),
        kinds=(side,) * len(own),
        types=tuple(item.type for item, _ in own),
        source=f"scans_lens.organism, {split} split",
        licence="MIT",
        citation="scans_lens, the bundled model's own prompts",
        items=tuple(item.phrase for item, _ in own),
    )


def _contrast(name: str, split: Split, size: int) -> Contrast:
    return Contrast(
        name=name,
        harmful=prompts("harmful", split)[:size],
        harmless=prompts("plain", split)[:size],
        borderline=prompts("borderline", split)[:size],
    )


def identity() -> dict[str, Any] | None:
    """What tells the bundled model from every other (see `scans_lens.model.Identity`); None before it is trained."""
    file = weights() / "identity.json"
    return json.loads(file.read_text()) if file.is_file() else None
