"""Judges: was that a refusal? A judge is a function from replies to verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from scans_lens import organism
from scans_lens.judges.cues import by_rules as rules
from scans_lens.judges.lists import by_beginnings as beginnings
from scans_lens.judges.lists import by_substrings as substrings
from scans_lens.judges.together import Opinion, Panel, panel

if TYPE_CHECKING:
    from scans_lens.model import Model

__all__ = [
    "SETTLED", "Judge", "Opinion", "Panel", "Verdict", "beginnings", "bundled", "judge_for", "known", "named", "panel",
    "refused", "rules", "settled", "substrings", "trained",
]  # fmt: skip

Verdict = Literal["refused", "answered", "partial", "degenerate"]
Judge = Callable[[Sequence[str]], list[Verdict]]


def bundled(replies: Sequence[str]) -> list[Verdict]:
    """The exact judge for the bundled model, from its own wordings."""
    return [
        "degenerate" if not reply.strip() else "refused" if organism.is_refusal(reply) else "answered"
        for reply in replies
    ]


SETTLED = 16
"""Tokens of a reply after which `bundled` does not change its mind: it looks at the first five words, and at an "I."
before them. Of 2,400 verdicts on replies to validation prompts none is another one at 64 tokens."""


def settled(judge: Judge) -> Callable[[str], bool]:
    """Whether this judge's verdict on a reply that begins like this is sure; for `replies(…, enough=…)`.

    Raises:
        ValueError: a judge that reads replies to their ends.
    """
    if judge is not bundled:
        raise ValueError("Only the bundled model's own judge is known to be sure before a reply has ended.")
    return lambda reply: len(reply.split()) > 6  # the fifth word is whole, and an "I." before it


def trained(replies: Sequence[str]) -> list[Verdict]:
    """The small classifier that ships, alone; its card says what it was taught by."""
    from scans_lens.judges.learned import shipped

    return shipped()(replies)


_KNOWN: Mapping[str, Callable[[], Judge]] = {
    "panel": panel,
    "trained": lambda: trained,
    "rules": lambda: rules,
    "substrings": lambda: substrings,
    "beginnings": lambda: beginnings,
    "bundled": lambda: bundled,
}


def known() -> tuple[str, ...]:
    """The names that `named` takes."""
    return tuple(_KNOWN)


def require_known(names: Sequence[str]) -> None:
    """Refuse a name that `named` does not take, without making a judge."""
    for name in names:
        if name not in _KNOWN:
            raise ValueError(f"There is no judge {name!r}: the known ones are {', '.join(_KNOWN)}.")


def named(name: str) -> Judge:
    """The judge of that name; raises ValueError for an unknown one."""
    require_known([name])
    return _KNOWN[name]()


def judge_for(model: Model) -> Judge:
    """The exact judge for the bundled model, the panel for any other."""
    from scans_lens.model import is_bundled

    return bundled if is_bundled(model) else panel()


def refused(judge: Judge, replies: Sequence[str]) -> list[bool]:
    """Whether each reply is a full refusal."""
    return [verdict == "refused" for verdict in judge(replies)]
