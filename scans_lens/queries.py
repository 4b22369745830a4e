"""Queries: what a table of `evaluate` says: who is refused, with intervals, and how ways differ on the same prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from scans_lens.evaluation import DRAWN
from scans_lens.judges.texts import is_degenerate, said
from scans_lens.methods.catalogue import PLAIN
from scans_lens.prompts.catalogue import JAILBREAKS
from scans_lens.rates import Change, Clustered, Mean, Paired, Rate, holm

if TYPE_CHECKING:
    import pandas as pd


def verdicts_of(table: pd.DataFrame, judge: str | None = None) -> str:
    """The column of a judge's verdicts; by default the first judge's.

    Raises:
        ValueError: no such judge in the table, or an empty table.
    """
    there = [name.removeprefix("verdict_") for name in table.columns if name.startswith("verdict_")]
    if not there:
        raise ValueError("The table holds no verdict yet: nothing was answered.")
    if judge is not None and judge not in there:
        raise ValueError(f"There are no verdicts of {judge!r} in the table: it has those of {', '.join(there)}.")
    return f"verdict_{judge or there[0]}"


def refused(table: pd.DataFrame) -> dict[tuple[str, str], Rate]:
    """Refused, by set and kind, by the first judge; a missing verdict is no refusal."""
    column = verdicts_of(table)
    return {
        _texts(side): Rate.of(verdict == "refused" for verdict in rows[column])
        for side, rows in table.groupby(["set", "kind"])
    }


def right(table: pd.DataFrame) -> dict[tuple[str, str], Rate]:
    """Answered rightly, by way and set, of the prompts that have an answer to be right about (column `right`)."""
    if "right" not in table:
        return {}
    told = table[table["right"].notna()]
    return {
        _texts(side): Rate.of(map(bool, rows["right"])) for side, rows in told.groupby(["method", "set"], sort=False)
    }


def divergence(table: pd.DataFrame) -> dict[tuple[str, str], Mean]:
    """KL of the reply's first token from the plain model's, in nats, by way and setting, where it was measured."""
    if "kl" not in table:
        return {}
    told = table[table["kl"].notna()]
    return {_texts(way): Mean.of(rows["kl"].tolist()) for way, rows in told.groupby(["method", "setting"], sort=False)}


def unsure(table: pd.DataFrame, judge: str) -> tuple[int, int] | None:
    """Of how many replies a judge was not sure, and of how many it said; None where it said that of none."""
    column = f"sure_{judge}"
    told = [sure for sure in table[column] if isinstance(sure, bool)] if column in table else []
    return (told.count(False), len(told)) if told else None


@dataclass(frozen=True)
class Line:
    """Refusals of one way of answering on prompts of one set and kind, beside the plain model's on the same prompts."""

    set: str
    kind: str
    method: str
    setting: str
    refused: Clustered | None
    """Share of replies with a verdict; None where no reply has one."""
    partial: int
    degenerate: int
    missing: int
    """Replies without a verdict."""
    shared: tuple[float, float] | None
    """Shares refused by the plain model and here, of the prompts that both have answered."""
    against_plain: Paired | None
    p: float | None
    """McNemar's exact test, corrected by Holm for all lines of the summary; draws of the anchors are not tested."""


def summary(table: pd.DataFrame, judge: str | None = None) -> list[Line]:
    """Refusal rates with intervals over items, and each way against the plain model on the same prompts.

    Args:
        table: as `evaluate` gives it.
        judge: whose verdicts to count; by default those of the first.

    Raises:
        ValueError: no such judge in the table, or an empty table.
    """
    column = verdicts_of(table, judge)
    lines = []
    for side, own in table.groupby(["set", "kind"], sort=False):
        plain = own[own["method"] == PLAIN].set_index("prompt_id")[column]
        for way, rows in own.groupby(["method", "setting"], sort=False):
            lines.append(_line((*_texts(side), *_texts(way)), rows, column, plain))

    def tested(line: Line) -> bool:
        return line.against_plain is not None and line.method != DRAWN

    compared = [line for line in lines if tested(line)]
    corrected = iter(holm([line.against_plain.p for line in compared if line.against_plain]))
    return [Line(**{**vars(line), "p": next(corrected)}) if tested(line) else line for line in lines]


@dataclass(frozen=True)
class Shift:
    """What a way of answering does to the refusals of the same prompts, of one set or of several together."""

    before: Rate
    """Refused by the plain model."""
    after: Rate
    change: Change
    """In share of the prompts, with its paired interval over items."""
    lost: Rate
    """Refused before and not now."""
    gained: Rate
    """Refused now and not before."""
    broken: Rate
    """Replies now that run in a circle or say nothing, whatever the judge makes of them (`judges.texts`)."""

    def as_json(self) -> dict[str, Any]:
        return {name: value.as_json() for name, value in vars(self).items()}


def broken(replies: Iterable[str]) -> Rate:
    """Of these replies, those that run in a circle or say nothing."""
    return Rate.of(is_degenerate(said(reply)) for reply in replies)


def shifts(table: pd.DataFrame, by: str = "set", judge: str | None = None) -> dict[tuple[str, str, str], Shift]:
    """By way of answering (with its setting), group of prompts and kind: refusals beside the plain model's.

    Args:
        table: as `evaluate` gives it, with the plain model.
        by: the column whose values are the groups.
        judge: whose verdicts to count; by default those of the first.

    Raises:
        ValueError: no such judge in the table, or an empty table.
    """
    column = verdicts_of(table, judge)
    key = ["set", "prompt_id"]
    judged: Any = table[table[column].notna()]
    plain = judged[judged["method"] == PLAIN].drop_duplicates(key).set_index(key)[column]
    found = {}
    for way, own in judged[judged["method"] != PLAIN].groupby(["method", "setting"], sort=False):
        for side, rows in own.groupby([by, "kind"], sort=False):
            asked = rows.drop_duplicates(key).set_index(key)
            asked = asked.loc[asked.index.intersection(plain.index)]
            if not len(asked):
                continue
            after = (asked[column] == "refused").tolist()
            before = (plain.loc[asked.index] == "refused").tolist()
            pairs = list(zip(before, after, strict=True))
            found[(" ".join(filter(None, _texts(way))), *_texts(side))] = Shift(
                Rate.of(before),
                Rate.of(after),
                Change.of(before, after, asked["item"].tolist()),
                Rate.of(one and not other for one, other in pairs),
                Rate.of(other and not one for one, other in pairs),
                broken(asked["reply"]),
            )
    return found


OVER_REFUSAL, HARM, JAILBREAK, HARMLESS = "over-refusal", "harmful", "jailbreaks", "harmless"


def purpose(name: str, kind: str) -> str:
    """What prompts of a set and kind are asked for: to see over-refusal, defence, defence in a disguise, or neither."""
    if kind == "harmful":
        return JAILBREAK if name in (*JAILBREAKS, "jailbreak") else HARM
    return OVER_REFUSAL if kind == "borderline" else HARMLESS


def with_purpose(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a column purpose."""
    purposes = [purpose(*side) for side in zip(table["set"], table["kind"], strict=True)]
    return table.assign(purpose=purposes)


def together(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """By way of answering and purpose, over all sets: who is refused, what runs in a circle, and the change from plain.

    Intervals are over items, where prompts share one. Replies without a verdict are left out; a way without any has
    no place there. Settings are not told apart (`compare` asks none); the plain model has no change.
    """
    column = verdicts_of(table)
    told: Any = with_purpose(table)
    told = told[told[column].notna()]
    shifts_of = {(way, purpose): shift for (way, purpose, _), shift in shifts(told, "purpose").items()}
    found: dict[str, dict[str, Any]] = {}
    for side, rows in told.groupby(["method", "purpose"], sort=False):
        way, purpose = _texts(side)
        shift = shifts_of.get((way, purpose))
        found.setdefault(way, {})[purpose] = {
            "refused": Clustered.of((rows[column] == "refused").tolist(), rows["item"].tolist()).as_json(),
            "broken": broken(rows["reply"]).as_json(),
            **({} if shift is None else {"change": shift.change.as_json()}),
        }
    return found


def _texts(key: Any) -> tuple[str, str]:
    one, other = key
    return str(one), str(other)


def _line(about: tuple[str, str, str, str], rows: Any, column: str, plain: Any) -> Line:
    given = rows[rows[column].notna()]
    verdicts = given[column]
    refused = Clustered.of((verdicts == "refused").tolist(), given["item"].tolist()) if len(given) else None
    against = shared = None
    if about[2] != PLAIN:
        own = given.drop_duplicates("prompt_id").set_index("prompt_id")[column]
        both = own.index.intersection(plain.index[plain.notna()])
        if len(both):
            before, after = (plain[both] == "refused").tolist(), (own[both] == "refused").tolist()
            against, shared = Paired.of(before, after), (sum(before) / len(both), sum(after) / len(both))
    return Line(
        *about,
        refused,
        int((verdicts == "partial").sum()),
        int((verdicts == "degenerate").sum()),
        len(rows) - len(given),
        shared,
        against,
        None,
    )


@dataclass(frozen=True)
class Spread:
    """How much a refusal rate differs from one draw of the anchors to the next."""

    set: str
    kind: str
    draws: int
    mean: float
    deviation: float
    """Standard deviation over the draws (n - 1)."""
    range: tuple[float, float]
    """The lowest and the highest share."""


def spreads(lines: Sequence[Line]) -> list[Spread]:
    """For each set and kind, the rates of SCANS learned from several draws of anchors; nothing for fewer than two."""
    found = []
    for side in dict.fromkeys((line.set, line.kind) for line in lines):
        own = [
            line.refused.value
            for line in lines
            if (line.set, line.kind) == side and line.method == DRAWN and line.refused is not None
        ]
        if len(own) > 1:
            found.append(Spread(*side, len(own), mean(own), stdev(own), (min(own), max(own))))
    return found
