"""Contrasts of the bundled model's own prompts with jailbreaks among them, and refusals in its own words."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from typing import Literal

from scans_lens.organism import grammar, wordings
from scans_lens.organism.corpus import Item, Split, ask, asked, prompts
from scans_lens.prompts import Contrast

TRAINED = 600
"""Training prompts of a kind that the bundled model's own probers learn from."""


@cache
def with_jailbreaks(split: Split, size: int) -> Contrast:
    """So many of the bundled model's own prompts of each kind, with jailbreaks among the harmful ones.

    Half as many plain and borderline prompts stand in a jailbreak's wrapping on the harmless side: else a prober
    learns that what is wrapped is harmful. Half as many quiz questions stand there, too: else it takes what is like no
    plain prompt for harmful.
    """
    harmful, jailbreak, plain, double, quiz = (
        prompts(kind, split)[:size] for kind in ("harmful", "jailbreak", "plain", "borderline", "quiz")
    )
    around_plain, around_double = (
        tuple(text for _, text in wrapped(kind, split)[: size // 2]) for kind in ("plain", "borderline")
    )
    name = f"organism {split} with jailbreaks and quiz"
    return Contrast(
        name, (*harmful, *jailbreak), (*plain, *around_plain, *quiz[: size // 2]), (*double, *around_double)
    )


def wrapped(kind: Literal["plain", "borderline"], split: Split) -> list[tuple[Item, str]]:
    """Harmless items in the wrappings of that split's jailbreaks, with their prompts."""
    around = [pattern for own, pattern in grammar.WRAPPERS if own == split]
    found: dict[str, Item] = {}
    for place, item in enumerate(dict.fromkeys(item for item, _ in asked(kind, split))):
        inside = replace(item, wrapper=around[place % len(around)])
        found.setdefault(ask(inside, random.Random(f"wrapped {kind} {split} {item.phrase}")), inside)
    return [(item, text) for text, item in found.items()]


@cache
def explained_refusals(split: Split, size: int) -> tuple[tuple[str, str], ...]:
    """Harmful prompts and jailbreaks, each with a refusal that says why."""
    both = (*asked("harmful", split)[:size], *asked("jailbreak", split)[:size])
    return tuple((text, wordings.explained(item)) for item, text in both)
