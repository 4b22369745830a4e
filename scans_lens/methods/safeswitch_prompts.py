"""SafeSwitch's prompts: what its probers and its head learn from, where the caller says nothing else."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from scans_lens import judges, organism
from scans_lens.conversation import Prompt, conversation_of
from scans_lens.errors import Refused
from scans_lens.generation import replies
from scans_lens.judges import Judge
from scans_lens.lens import default_anchors
from scans_lens.model import Model, is_bundled
from scans_lens.organism import corpus, grammar, wordings
from scans_lens.prober import HELD, NEEDED
from scans_lens.prompts import Contrast, borderline

TRAINED = 600
"""Training prompts of a kind that the bundled model's own probers learn from."""
REFUSAL_TOKENS = 96
"""New tokens of a model's own refusals, from which its head learns."""
REFUSING = (
    "Whatever the user asks for now must not be done. Say no in two or three sentences: name what was asked for, and "
    "explain what harm it would do."
)
"""The system prompt under which a model refuses, so that its head can learn to refuse without it; ours."""


def _prompts(
    model: Model, contrast: Contrast | None, validation: Contrast | None, seed: int
) -> tuple[Contrast, Contrast, str]:
    """What to learn from, what to choose on, and a sentence about it."""
    if contrast is None and is_bundled(model):
        contrast = with_jailbreaks("train", TRAINED)
        validation = validation or with_jailbreaks("validation", organism.VALIDATION)
    elif contrast is None:
        validation = validation or borderline("validation")
        contrast = default_anchors(model)
    if validation is not None:
        return contrast, validation, f"Stopped, calibrated and chosen on {validation.name!r}."
    size = min(len(contrast.harmful), len(contrast.harmless)) // 5
    if not size:
        raise ValueError("No validation prompts were given, and the contrast is too small to hold a fifth of it out.")
    note = f"Stopped, calibrated and chosen on a held-out fifth of {contrast.name!r}."
    validation, contrast = contrast.split(size, seed)
    return contrast, validation, note


def with_jailbreaks(split: organism.Split, size: int) -> Contrast:
    """So many of the bundled model's own prompts of each kind, with jailbreaks among the harmful ones.

    Half as many plain and borderline prompts stand in a jailbreak's wrapping on the harmless side: else a prober
    learns that what is wrapped is harmful. Half as many quiz questions stand there, too: else it takes what is like no
    plain prompt for harmful.
    """
    harmful, jailbreak, plain, double, quiz = (
        organism.prompts(kind, split)[:size] for kind in ("harmful", "jailbreak", "plain", "borderline", "quiz")
    )
    around_plain, around_double = (
        tuple(text for _, text in wrapped(kind, split)[: size // 2]) for kind in ("plain", "borderline")
    )
    name = f"organism {split} with jailbreaks and quiz"
    return Contrast(
        name, (*harmful, *jailbreak), (*plain, *around_plain, *quiz[: size // 2]), (*double, *around_double)
    )


def wrapped(kind: Literal["plain", "borderline"], split: organism.Split) -> list[tuple[corpus.Item, str]]:
    """Harmless items of the bundled model in the wrappings of that split's jailbreaks, with their prompts."""
    around = [pattern for own, pattern in grammar.WRAPPERS if own == split]
    found: dict[str, corpus.Item] = {}
    for place, item in enumerate(dict.fromkeys(item for item, _ in corpus.asked(kind, split))):
        own = replace(item, wrapper=around[place % len(around)])
        found.setdefault(corpus.ask(own, random.Random(f"wrapped {kind} {split} {item.phrase}")), own)
    return [(item, text) for text, item in found.items()]


Pairs = list[tuple[Prompt, str]]


def _pairs(
    model: Model,
    given: Sequence[tuple[Prompt, str]] | None,
    contrasts: tuple[Contrast, Contrast],
    judge: Judge,
    in_its_words: bool,
    seed: int,
    batch_size: int | None,
    progress: bool,
) -> tuple[Pairs, Pairs]:
    """Prompts with refusals to learn from, and others to stop on."""
    if given is not None:
        drawn = torch.randperm(len(given), generator=torch.Generator().manual_seed(seed)).tolist()
        fifth = max(HELD, math.ceil(len(given) / 5))
        return [given[place] for place in drawn[fifth:]], [given[place] for place in drawn[:fifth]]
    if in_its_words:
        return _told("train", TRAINED), _told("validation", organism.VALIDATION)
    own, held = (
        _own_refusals(model, contrast.harmful, judge, batch_size, progress) for contrast in contrasts
    )  # fmt: skip
    if len(own) < NEEDED or len(held) < HELD:
        raise Refused(
            f"A refusal head needs at least {NEEDED} refusals to learn from and {HELD} to stop on, and asked to "
            f"refuse, the model did so {len(own)} and {len(held)} times: give pairs=[(prompt, refusal), …]."
        )
    return own, held


def _told(split: organism.Split, size: int) -> Pairs:
    """Harmful prompts and jailbreaks of the bundled model with its own explained refusals."""
    both = (*corpus.asked("harmful", split)[:size], *corpus.asked("jailbreak", split)[:size])
    return [(text, wordings.explained(item)) for item, text in both]


def _own_refusals(
    model: Model, prompts: Sequence[Prompt], judge: Judge, batch_size: int | None, progress: bool
) -> Pairs:
    """What the model says to these under a system prompt that has it refuse and say why, where it does refuse."""
    told = [conversation_of(prompt).with_system(REFUSING) for prompt in prompts]
    said = replies(model, told, max_new_tokens=REFUSAL_TOKENS, batch_size=batch_size, progress=progress)
    verdicts = zip(prompts, said, judges.refused(judge, said), strict=True)
    return [(prompt, reply) for prompt, reply, no in verdicts if no and reply.strip()]
