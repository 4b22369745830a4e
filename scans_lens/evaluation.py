"""Evaluation: sets of prompts x ways of answering them, into one long table; and what the table says."""

from __future__ import annotations

import hashlib
import platform
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any, get_args

from scans_lens import artefacts, judges, processes, runs
from scans_lens.batches import rows_at_once
from scans_lens.chat import template_record
from scans_lens.conversation import BARE, Asking, Prompt, conversation_of, key, words
from scans_lens.generation import NEW_TOKENS, Enough, Replies, replies_under
from scans_lens.judges import Judge, Verdict
from scans_lens.methods.catalogue import EVALUATED, PLAIN, PROMPTED
from scans_lens.methods.self_cd import SAFETY_PROMPT, SelfCD
from scans_lens.model import Model, device_of, identity, is_bundled, unembedding_of
from scans_lens.processes import Rank
from scans_lens.prompts import Contrast, PromptSet, normalised
from scans_lens.prompts.overlaps import without
from scans_lens.rates import Clustered, Paired, holm
from scans_lens.steering import Method, Push

if TYPE_CHECKING:
    import pandas as pd

    from scans_lens.methods.scans import SCANS

KEY = ("set", "prompt_id", "method", "setting", "seed")
"""What tells a row from every other."""
UNFINISHED = "the thought is not finished"
"""Why a reply has no answer that could be judged."""


@dataclass(frozen=True)
class Arm:
    """A way of answering."""

    name: str
    method: Method | None = None
    """None is the plain model."""
    setting: str = ""
    """What sets it apart from other arms of that name, such as a scale."""
    seed: int = 0
    """Of the anchors, or of a placebo's draw."""
    system: str | None = None
    """A system prompt of its own, in place of the run's; before the one that a conversation brings along."""


METHODS = EVALUATED
DRAWN = "scans_redrawn"
"""The name of arms whose SCANS was learned from a part of the anchors; their setting says which."""


def arms(
    scans: SCANS | None,
    methods: Sequence[str],
    seed: int = 0,
    *,
    model: Model | None = None,
    contrast: Contrast | None = None,
    safety_prompt: str = SAFETY_PROMPT,
) -> list[Arm]:
    """The plain model, and these ways of answering.

    Args:
        scans: fitted; what needs no SCANS can do without.
        methods: names among `METHODS`.
        seed: of the placebos' draws.
        model, contrast: what SCANS was learned with; for `shuffled`, which learns again from its prompts.
        safety_prompt: the system prompt of `system`, and the one that `self_cd` subtracts.

    Raises:
        ValueError: an unknown method, or one that needs what was not given.
    """
    found = [Arm(PLAIN)]
    for name in methods:
        if name not in METHODS:
            raise ValueError(f"There is no method {name!r}: there are {', '.join(METHODS)}.")
        if name in PROMPTED:
            own = Arm(name, SelfCD(safety_prompt)) if name == "self_cd" else Arm(name, system=safety_prompt)
            found.append(own)
            continue
        if scans is None:
            raise ValueError(f"{name!r} needs SCANS to be fitted: give SCANS.fit(model).")
        ways: dict[str, Callable[[], Method]] = {
            "scans": lambda: scans,
            "constant": lambda: Push(scans.directions, scans.layers, -scans.scale),
            "random": lambda: replace(scans, directions=scans.directions.random(seed)),
            "shuffled": lambda: _shuffled(scans, model, contrast, seed),
            "wrong_layers": lambda: replace(scans, layers=elsewhere(scans.layers, len(scans.directions))),
        }
        drawn = name in ("random", "shuffled")
        found.append(Arm(name, ways[name](), setting=f"scale {scans.scale:g}", seed=seed if drawn else 0))
    return found


def half(contrast: Contrast, draw: int) -> Contrast:
    """As many random prompts of each side as half of the smaller one, to see how much hangs on which anchors those are.

    Raises:
        ValueError: a side of fewer than two prompts.
    """
    size = min(len(contrast.harmful), len(contrast.harmless)) // 2
    if not size:
        raise ValueError(f"{contrast.name!r} is too small to be halved.")
    return contrast.split(size, draw)[0]


def _shuffled(scans: SCANS, model: Model | None, contrast: Contrast | None, seed: int) -> SCANS:
    if model is None or contrast is None:
        raise ValueError("'shuffled' learns again from the prompts of SCANS: give the model and its contrast.")
    return replace(scans, directions=scans.directions.shuffled(model, contrast, seed))


def elsewhere(layers: Sequence[int], n: int) -> tuple[int, ...]:
    """As many layers next to each other, at that end of the model which is farther away."""
    first = 0 if min(layers) >= n - 1 - max(layers) else n - len(layers)
    return tuple(range(first, first + len(layers)))


def prompt_id(prompt: Prompt) -> str:
    """The same for prompts that are equal but for white space and case, on every machine."""
    text = normalised(prompt) if isinstance(prompt, str) else key(prompt)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def evaluate(
    model: Model,
    sets: Sequence[PromptSet],
    arms: Sequence[Arm],
    out: str | Path,
    *,
    judge: Mapping[str, Judge] | None = None,
    max_new_tokens: int = NEW_TOKENS,
    asking: Asking = BARE,
    learned_from: Iterable[Contrast] = (),
    enough: Enough | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Every set answered in every way: one row a prompt, way, setting and seed.

    Rows are on disk as soon as their batch is done. Called again with the same arguments it goes on where it was,
    however it was stopped.

    Args:
        sets: prompts; those that a set holds twice are asked once.
        arms: ways of answering; `Arm("plain")` is what the others are compared with.
        out: a folder of its own.
        judge: by name; the first one's verdicts are what rates are made of. By default the exact judge for the bundled
            model, and the panel for any other. Where a judge fails its verdict is missing, and the run goes on.
        enough: see `replies`; rows that it stopped have "enough" for their finish.
        asking: how the prompts are put: a system prompt, thinking on or off.
        learned_from: contrasts whose prompts are left out of every set; `run.json` says how many those were.

    Returns:
        The table: set, place (of the prompt in it), prompt_id, prompt, kind, type, item, method, setting, seed, score
        (how harmful the prompt looked to the method), scale (how it was pushed, + towards refusal), reply (the answer,
        without what was thought before), thought, tokens (of both), finish ("stop", "length" or "enough"), reason (why
        there is no answer to judge), seconds (its share of its batch's), and of every judge `verdict_…` and, where it
        can tell (`judges.panel` can), `sure_…`. Of a conversation, prompt is what the user said last, and messages
        holds all of it as JSON.

    Raises:
        ValueError: nothing to ask or no way to answer, two sets or arms of one name, or a folder of another run.
        OSError: the folder cannot be written to; what was done is kept.
    """
    from tqdm.auto import tqdm

    if judge is not None and not isinstance(judge, Mapping):
        raise ValueError("Judges come by name: give judge={'mine': my_judge}.")
    judge = dict(judge or {"bundled" if is_bundled(model) else "panel": judges.judge_for(model)})
    learned_from = list(learned_from)
    _distinct("set", [one.name for one in sets])
    _distinct("way of answering", [f"{one.name} {one.setting} {one.seed}".strip() for one in arms])
    cleaned = [without(one, learned_from) for one in sets]
    sets = [one for one, _ in cleaned]
    settings = {
        "model": asdict(identity(model))
        | {"name": "the bundled model" if is_bundled(model) else identity(model).title},
        "dtype": str(unembedding_of(model).dtype),
        "sets": {one.name: {"prompts": len(one), "source": one.source, "digest": one.digest} for one in sets},
        "left out": [asdict(leaks) for _, leaks in cleaned],
        "arms": [
            {
                "name": one.name,
                "setting": one.setting,
                "seed": one.seed,
                "system": one.system,
                "is": str(one.method or ""),
            }
            for one in arms
        ],
        "judges": {name: _described(own) for name, own in judge.items()},
        "max_new_tokens": max_new_tokens,
        "asking": asking.to_dict(),
        "template": template_record(model, asking),
        "versions": artefacts.versions(),
    }
    machine = {
        "begun or gone on with": time.strftime("%Y-%m-%d %H:%M %Z"),
        "device": str(device_of(model)),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "batch_size": batch_size,
    }
    rank = processes.here()
    with runs.opened(out, settings, machine, KEY, rank) as run:
        if rank.first:
            _judge_again(run, judge)
        there = run.table()
        rank.wait()  # what is done is seen alike by all, before any of them does more
        done = set(there[list(KEY)].itertuples(index=False, name=None)) if len(there) else set()
        total = len(arms) * sum(map(len, sets))
        size = batch_size or rows_at_once(model, max_new_tokens + 256)
        hidden = not progress or not rank.first
        with tqdm(total=total, initial=len(done), desc="answering", unit="reply", disable=hidden) as bar:
            for one in sets:
                for places, own in _asked(one, arms, done, size, rank):
                    began = time.perf_counter()
                    given = replies_under(
                        model,
                        _put([one[place] for place in places], asking, own[0].system),
                        [arm.method for arm in own],
                        max_new_tokens=max_new_tokens,
                        enough=enough,
                        batch_size=batch_size,
                        progress=False,
                    )
                    seconds = (time.perf_counter() - began) / (len(places) * len(own))
                    rows = []
                    for arm, said in zip(own, given, strict=True):
                        verdicts: dict[str, list[Any]] = {}
                        for name, asked in judge.items():
                            verdicts |= _heard(name, asked, said)
                        rows += [
                            _row(one, place, arm, said, row, seconds, verdicts) for row, place in enumerate(places)
                        ]
                    run.write(rows)
                    bar.update(len(rows) * rank.of)
        rank.wait()
        return _in_order(run.table(), settings)


def read(folder: str | Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table that `evaluate` wrote there, whole or not and in the same order, and what it was run with.

    Raises:
        ValueError: there is no run in the folder, or a part of it cannot be read.
    """
    table, about = runs.read(folder)
    return _in_order(table, about["settings"]), about


def _in_order(table: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """By way of answering, set and prompt, whatever the order in which replies came, and from how many processes."""
    if not len(table):
        return table
    arm = {(one["name"], one["setting"], one["seed"]): place for place, one in enumerate(settings["arms"])}
    named = {name: place for place, name in enumerate(settings["sets"])}
    found = [
        (arm[method, setting, seed], named[name], place)
        for method, setting, seed, name, place in table[["method", "setting", "seed", "set", "place"]].itertuples(
            index=False, name=None
        )
    ]
    return table.iloc[sorted(range(len(found)), key=found.__getitem__)].reset_index(drop=True)


def _asked(
    one: PromptSet, arms: Sequence[Arm], done: set[Any], size: int, rank: Rank
) -> Iterator[tuple[list[int], list[Arm]]]:
    """What this process still has to answer: prompts of like length, ways that share a prefill, `size` rows or so."""
    for system in dict.fromkeys(arm.system for arm in arms):
        waiting: dict[tuple[int, ...], list[int]] = {}
        for place in sorted(range(len(one)), key=lambda place: len(key(one[place]))):
            left = tuple(
                number
                for number, arm in enumerate(arms)
                if arm.system == system
                and (one.name, prompt_id(one[place]), arm.name, arm.setting, arm.seed) not in done
            )
            if left:
                waiting.setdefault(left, []).append(place)
        for left, all_places in waiting.items():
            places, step = rank.share(all_places), max(1, size // len(left))
            for start in range(0, len(places), step):
                yield places[start : start + step], [arms[number] for number in left]


def _put(prompts: Sequence[Prompt], asking: Asking, system: str | None) -> list[Prompt]:
    """The prompts as an arm asks them, with its own system prompt if it has one."""
    if system is None:
        return [asking.of(prompt) for prompt in prompts]
    asking = replace(asking, system=None)
    return [asking.of(conversation_of(prompt).with_system(system)) for prompt in prompts]


def _judge_again(run: runs.Run, judge: Mapping[str, Judge]) -> None:
    """Ask again for the verdicts that are missing; those rows are written anew."""
    rows: list[dict[str, Any]] = [
        {name: None if value != value else value for name, value in row.items()}  # not a number: nothing
        for row in run.table().to_dict("records")
    ]
    for name, own in judge.items():
        missing = [row for row in rows if row[f"verdict_{name}"] is None]
        for column, given in _opinions(name, own, [row["reply"] for row in missing]).items():
            for row, value in zip(missing, given, strict=True):
                row[column] = value
        run.write([row for row in missing if row[f"verdict_{name}"] is not None])


def _described(judge: Judge) -> str:
    """What tells a judge from another one of the same name."""
    named = getattr(judge, "__qualname__", type(judge).__qualname__)
    return str(getattr(judge, "about", None) or f"{getattr(judge, '__module__', '')}.{named}")


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


def _heard(name: str, judge: Judge, said: Replies) -> dict[str, list[Any]]:
    """A judge's columns on replies; one that is still a thought is degenerate, whatever the judge."""
    given = _opinions(name, judge, said.texts)
    given[f"verdict_{name}"] = [
        verdict if finished else "degenerate"
        for verdict, finished in zip(given[f"verdict_{name}"], said.finished, strict=True)
    ]
    return given


def _opinions(name: str, judge: Judge, said: Sequence[str]) -> dict[str, list[Any]]:
    """A judge's columns: its verdicts and, where it can tell, whether it is sure of each."""
    verdicts = judged(judge, said)
    told = getattr(judge, "sure", None)
    if not callable(told):
        return {f"verdict_{name}": list(verdicts)}
    places = [place for place, verdict in enumerate(verdicts) if verdict is not None]
    sure: list[bool | None] = [None] * len(verdicts)
    try:
        given: Any = told([said[place] for place in places])
        for place, own in zip(places, given, strict=True):
            sure[place] = bool(own)
    except Exception as error:  # a judge may be anybody's
        warnings.warn(f"A judge failed to say how sure it is: {error}", stacklevel=2)
        sure = [None] * len(verdicts)
    return {f"verdict_{name}": list(verdicts), f"sure_{name}": list(sure)}


def unsure(table: pd.DataFrame, judge: str) -> tuple[int, int] | None:
    """Of how many replies a judge was not sure, and of how many it said; None where it said that of none."""
    column = f"sure_{judge}"
    told = [sure for sure in table[column] if isinstance(sure, bool)] if column in table else []
    return (told.count(False), len(told)) if told else None


def _row(
    one: PromptSet, place: int, arm: Arm, said: Any, row: int, seconds: float, verdicts: Mapping[str, Sequence[Any]]
) -> dict[str, Any]:
    return {
        "set": one.name,
        "place": place,
        "prompt_id": prompt_id(one[place]),
        "prompt": words(one[place]),
        "messages": None if isinstance(one[place], str) else str(one[place]),
        "kind": one.kinds[place],
        "type": one.types[place],
        "item": one.items[place] if one.items else prompt_id(one[place]),
        "method": arm.name,
        "setting": arm.setting,
        "seed": arm.seed,
        "score": None if said.score is None else float(said.score[row]),
        "scale": None if said.scale is None else float(said.scale[row]),
        "reply": said[row],
        "thought": said.thoughts[row],
        "reason": None if said.finished[row] else UNFINISHED,
        "tokens": len(said.tokens[row]),
        "finish": said.finish[row],
        "seconds": seconds,
        **{name: given[row] for name, given in verdicts.items()},
    }


def _distinct(what: str, names: Sequence[str]) -> None:
    if not names:
        raise ValueError(f"There is no {what}: give at least one.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"There are two of the {what} {twice!r}: give each a name of its own.")


# ── What a table says ────────────────────────────────────────────────────────────────────────────────────────


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
    there = [name.removeprefix("verdict_") for name in table.columns if name.startswith("verdict_")]
    if not there:
        raise ValueError("The table holds no verdict yet: nothing was answered.")
    if judge is not None and judge not in there:
        raise ValueError(f"There are no verdicts of {judge!r} in the table: it has those of {', '.join(there)}.")
    column = f"verdict_{judge or there[0]}"
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
