"""Scoring: what judges and scorers say of replies, as columns of a table, whatever they are and however they fail."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from scans_lens.generation import Replies
from scans_lens.judges import Doubting, Judge, Verdict
from scans_lens.prompts import PromptSet
from scans_lens.world import Scorer


def columns_of(
    asked: PromptSet, replies: Replies, judges: Mapping[str, Judge], scorers: Sequence[Scorer]
) -> dict[str, Sequence[Any]]:
    """Everything that is said of these replies, one value a prompt.

    Raises:
        ValueError: a scorer that does not give one value a prompt.
    """
    columns: dict[str, Sequence[Any]] = {}
    for name, judge in judges.items():
        columns |= heard(name, judge, replies)
    for scorer in scorers:
        for name, values in scorer(asked, replies.texts).items():
            if len(values) != len(replies):
                raise ValueError(f"A scorer gave {len(values)} values of {name!r} for {len(replies)} replies.")
            columns[name] = values
    return columns


def judged(judge: Judge, said: Sequence[str]) -> list[Verdict | None]:
    """A judge's verdicts; None for a reply on which it fails, which is said once and stops nothing."""
    if not said:
        return []
    try:
        given: list[Verdict | None] = [*judge(said)]
        wrong = next((verdict for verdict in given if verdict not in get_args(Verdict)), None)
        if wrong is not None or len(given) != len(said):
            found = f"said {wrong!r}" if wrong is not None else f"gave {len(given)} verdicts on {len(said)} replies"
            raise ValueError(f"it {found}; it has to give one of {', '.join(get_args(Verdict))} for each")
        return given
    except Exception as error:  # a judge may be anybody's
        if len(said) == 1:
            warnings.warn(f"A judge failed on a reply, whose verdict is missing: {error}", stacklevel=2)
            return [None]
        return [verdict for reply in said for verdict in judged(judge, [reply])]


def heard(name: str, judge: Judge, said: Replies) -> dict[str, list[Any]]:
    """A judge's columns on replies; one that is still a thought is degenerate, whatever the judge."""
    given = opinions(name, judge, said.texts)
    given[f"verdict_{name}"] = [
        verdict if finished else "degenerate"
        for verdict, finished in zip(given[f"verdict_{name}"], said.finished, strict=True)
    ]
    return given


def opinions(name: str, judge: Judge, said: Sequence[str]) -> dict[str, list[Any]]:
    """A judge's columns: its verdicts and, where it can tell, whether it is sure of each."""
    verdicts = judged(judge, said)
    if not isinstance(judge, Doubting) or not callable(judge.sure):
        return {f"verdict_{name}": list(verdicts)}
    places = [place for place, verdict in enumerate(verdicts) if verdict is not None]
    sure: list[bool | None] = [None] * len(verdicts)
    try:
        given: Any = judge.sure([said[place] for place in places])
        for place, own in zip(places, given, strict=True):
            sure[place] = bool(own)
    except Exception as error:  # a judge may be anybody's
        warnings.warn(f"A judge failed to say how sure it is: {error}", stacklevel=2)
        sure = [None] * len(verdicts)
    return {f"verdict_{name}": list(verdicts), f"sure_{name}": list(sure)}
