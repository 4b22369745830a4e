"""Thoughts: what a model thinks before it answers, told apart from the answer by the marks around it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Marks:
    """What a reply writes around a thought."""

    opening: str
    """Before a thought; a reply that begins with it begins to think."""
    closing: str
    """Behind a thought; what follows is the answer."""


KNOWN = (
    Marks("<think>", "</think>"),  # Qwen 3, DeepSeek R1, SmolLM3, GLM, MiniMax
    Marks("<|channel|>", "<|channel|>final<|message|>"),  # gpt-oss: analysis and commentary, then final
    Marks("<|channel>", "<channel|>"),  # Gemma 4
    Marks("[THINK]", "[/THINK]"),  # Magistral
    Marks("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A Reasoning
    Marks("◁think▷", "◁/think▷"),  # Kimi
    Marks("<seed:think>", "</seed:think>"),  # Seed-OSS
    Marks("<|begin_of_thought|>", "<|end_of_thought|>"),  # Sky-T1, OpenThinker
    Marks("<thought>", "</thought>"),
    Marks("<thinking>", "</thinking>"),
    Marks("<reasoning>", "</reasoning>"),
)
"""Marks of released models; `templates.Writing.marks` learns what else a template writes around a thought."""


@dataclass(frozen=True)
class Spoken:
    """A reply taken apart."""

    answer: str
    """What is said to the user; empty where the thought is not finished."""
    thought: str | None = None
    """What was thought before; None where nothing was."""
    finished: bool = True
    """Whether the thought came to its end."""


def apart(reply: str, marks: Sequence[Marks] = KNOWN, *, thinking: bool = False) -> Spoken:
    """A reply's thought and its answer.

    Args:
        reply: its text with the marks in it, special tokens included.
        marks: those that may stand in it.
        thinking: whether it begins inside a thought that the template has opened.
    """
    start = max((reply.rfind(one.closing) + len(one.closing) for one in marks if one.closing in reply), default=0)
    thought, rest = reply[:start].strip(), reply[start:].strip()
    if any(rest.startswith(one.opening) for one in marks) or (thinking and not start):
        return Spoken("", _bare(f"{thought}\n{rest}", marks), finished=False)
    return Spoken(rest, _bare(thought, marks) if start else None)


def _bare(thought: str, marks: Sequence[Marks]) -> str:
    for one in sorted((mark for pair in marks for mark in (pair.opening, pair.closing)), key=len, reverse=True):
        thought = thought.replace(one, "\n")
    return _FRAME.sub("\n", thought).strip()


_FRAME = re.compile(
    r"<\|(?:start|channel|message|end)\|>(?:assistant)?|^\s*(?:analysis|commentary|thought)\s*$", re.MULTILINE
)
"""What is left of channels and turns between thoughts."""
