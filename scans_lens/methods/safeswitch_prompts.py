"""SafeSwitch's prompts: what its probers and its head learn from, where the caller says nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from scans_lens import judges
from scans_lens.conversation import Prompt, conversation_of
from scans_lens.errors import Refused
from scans_lens.generation import replies
from scans_lens.judges import Judge
from scans_lens.model import Model
from scans_lens.prober import HELD, NEEDED
from scans_lens.prompts import Contrast
from scans_lens.world import world_of

REFUSAL_TOKENS = 96
"""New tokens of a model's own refusals, from which its head learns."""
REFUSING = (
    "Whatever the user asks for now must not be done. Say no in two or three sentences: name what was asked for, and "
    "explain what harm it would do."
)
"""The system prompt under which a model refuses, so that its head can learn to refuse without it; ours."""


Pairs = Sequence[tuple[Prompt, str]]


def learning(
    model: Model, contrast: Contrast | None, validation: Contrast | None, seed: int
) -> tuple[Contrast, Contrast, str]:
    """What to learn from, what to choose on, and a sentence about it."""
    world = world_of(model)
    if contrast is None:
        own = world.jailbreaks or (world.anchors, world.validation)
        contrast, validation = own[0], validation or own[1]
    contrast, validation, note = world.learning(contrast, validation, seed)
    return contrast, validation, note.replace("Knobs chosen", "Stopped, calibrated and chosen").partition(" No bord")[0]


def pairs_of(
    model: Model,
    given: Pairs | None,
    held: Pairs | None,
    contrasts: tuple[Contrast, Contrast],
    judge: Judge,
    seed: int,
    batch_size: int | None,
    progress: bool,
) -> tuple[Pairs, Pairs]:
    """Prompts with refusals to learn from, and others to stop on."""
    if given is not None and held is not None:
        return given, held
    if given is not None:
        drawn = torch.randperm(len(given), generator=torch.Generator().manual_seed(seed)).tolist()
        fifth = max(HELD, math.ceil(len(given) / 5))
        return [given[place] for place in drawn[fifth:]], [given[place] for place in drawn[:fifth]]
    own, held = (
        _own_refusals(model, contrast.harmful, judge, batch_size, progress) for contrast in contrasts
    )  # fmt: skip
    if len(own) < NEEDED or len(held) < HELD:
        raise Refused(
            f"A refusal head needs at least {NEEDED} refusals to learn from and {HELD} to stop on, and asked to "
            f"refuse, the model did so {len(own)} and {len(held)} times: give pairs=[(prompt, refusal), …]."
        )
    return own, held


def _own_refusals(
    model: Model, prompts: Sequence[Prompt], judge: Judge, batch_size: int | None, progress: bool
) -> Pairs:
    """What the model says to these under a system prompt that has it refuse and say why, where it does refuse."""
    told = [conversation_of(prompt).with_system(REFUSING) for prompt in prompts]
    said = replies(model, told, max_new_tokens=REFUSAL_TOKENS, batch_size=batch_size, progress=progress)
    verdicts = zip(prompts, said, judges.refused(judge, said), strict=True)
    return [(prompt, reply) for prompt, reply, no in verdicts if no and reply.strip()]
