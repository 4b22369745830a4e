"""Judges: was that a refusal? A judge is a function from replies to verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Literal, Protocol, runtime_checkable

from scans_lens.judges.cues import by_rules as rules
from scans_lens.judges.lists import by_beginnings as beginnings
from scans_lens.judges.lists import by_substrings as substrings
from scans_lens.judges.together import Opinion, Panel, panel

__all__ = [
    "Described", "Doubting", "Early", "Judge", "Opinion", "Panel", "Verdict", "beginnings", "description", "known",
    "named", "panel", "refused", "rules", "settled", "substrings", "trained",
]  # fmt: skip

Verdict = Literal["refused", "answered", "partial", "degenerate"]
Judge = Callable[[Sequence[str]], list[Verdict]]


@dataclass(frozen=True)
class Early:
    """A judge whose verdict is known from how a reply begins."""

    judge: Judge
    tokens: int
    """Of a reply, after which its verdict is the one on the whole reply."""
    settled: Callable[[str], bool]
    """Whether the verdict on a reply that begins like this is sure; for `replies(…, enough=…)`."""
    about: str
    """What tells it from every other judge."""

    def __call__(self, replies: Sequence[str]) -> list[Verdict]:
        return self.judge(replies)


@runtime_checkable
class Doubting(Protocol):
    """A judge that can say of which replies its verdict is sure."""

    def sure(self, replies: Sequence[str]) -> Sequence[bool]: ...


@runtime_checkable
class Described(Protocol):
    """A judge that says what tells it from another one of the same name."""

    about: str


def description(judge: Callable[..., Any]) -> str:
    """What tells a judge from another one of the same name."""
    if isinstance(judge, Described) and judge.about:
        return str(judge.about)
    named = judge.__qualname__ if isinstance(judge, FunctionType) else type(judge).__qualname__
    return f"{judge.__module__}.{named}"


def settled(judge: Judge) -> Callable[[str], bool]:
    """Whether this judge's verdict on a reply that begins like this is sure; for `replies(…, enough=…)`.

    Raises:
        ValueError: a judge that reads replies to their ends.
    """
    if not isinstance(judge, Early):
        raise ValueError(
            "Only a judge of beginnings, such as the bundled model's own, is sure before a reply has ended."
        )
    return judge.settled


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
}


def known() -> tuple[str, ...]:
    """The names that `named` takes."""
    return tuple(_KNOWN)


def require_known(names: Sequence[str], more: Sequence[str] = ()) -> None:
    """Refuse a name that `named` does not take and that is none of these others, without making a judge."""
    for name in names:
        if name not in (*_KNOWN, *more):
            raise ValueError(f"There is no judge {name!r}: the known ones are {', '.join((*_KNOWN, *more))}.")


def named(name: str) -> Judge:
    """The judge of that name; raises ValueError for an unknown one."""
    require_known([name])
    return _KNOWN[name]()


def refused(judge: Judge, replies: Sequence[str]) -> list[bool]:
    """Whether each reply is a full refusal."""
    return [verdict == "refused" for verdict in judge(replies)]
