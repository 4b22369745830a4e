"""Evaluation: sets of prompts x ways of answering them, into one long table; and what the table says."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scans_lens import artefacts, judges, processes, table
from scans_lens.batches import rows_at_once
from scans_lens.chat import template_record
from scans_lens.conversation import BARE, Asking, Prompt, conversation_of, key, words
from scans_lens.divergence import divergences
from scans_lens.generation import NEW_TOKENS, Enough, replies_under
from scans_lens.judges import Judge
from scans_lens.methods.arms import Arm
from scans_lens.model import Model, device_of, identity, unembedding_of
from scans_lens.processes import Rank
from scans_lens.prompts import Contrast, PromptSet, normalised
from scans_lens.prompts.overlaps import without
from scans_lens.scoring import columns_of, opinions
from scans_lens.world import World, world_of

if TYPE_CHECKING:
    import pandas as pd

KEY = ("set", "prompt_id", "method", "setting", "seed")
"""What tells a row from every other."""
GROWS = ("sets", "left out", "arms")
"""What a run may get more of as it goes on."""
UNFINISHED = "the thought is not finished"
"""Why a reply has no answer that could be judged."""


DRAWN = "scans_redrawn"
"""The name of arms whose SCANS was learned from a part of the anchors; their setting says which."""


def half(contrast: Contrast, draw: int) -> Contrast:
    """As many random prompts of each side as half of the smaller one, to see how much hangs on which anchors those are.

    Raises:
        ValueError: a side of fewer than two prompts.
    """
    size = min(len(contrast.harmful), len(contrast.harmless)) // 2
    if not size:
        raise ValueError(f"{contrast.name!r} is too small to be halved.")
    return contrast.split(size, draw)[0]


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
    world: World | None = None,
    judge: Mapping[str, Judge] | None = None,
    max_new_tokens: int = NEW_TOKENS,
    asking: Asking = BARE,
    learned_from: Iterable[Contrast] = (),
    enough: Enough | None = None,
    divergence: bool = False,
    batch_size: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Every set answered in every way: one row a prompt, way, setting and seed.

    Rows are on disk as soon as their batch is done. Called again with the same arguments it goes on where it was,
    however it was stopped; with more sets or arms, the folder holds those too in the end.

    Args:
        sets: prompts; those that a set holds twice are asked once.
        arms: ways of answering; `Arm("plain")` is what the others are compared with.
        out: a folder of its own. What it has from calls with other sets and arms stays there, and is not given back.
        world: what belongs to the model; by default what we have for it. Its scorers say what else there is to say of
            a reply.
        judge: by name; the first one's verdicts are what rates are made of. By default the world's. Where a judge fails
            its verdict is missing, and the run goes on.
        enough: see `replies`; rows that it stopped have "enough" for their finish.
        asking: how the prompts are put: a system prompt, thinking on or off.
        divergence: measure on harmless prompts how far each way moves the reply's first token (column kl, nats).
        learned_from: contrasts whose prompts are left out of every set; `run.json` says how many those were.

    Returns:
        The table: set, place (of the prompt in it), prompt_id, prompt, kind, type, item, method, setting, seed, score
        (how harmful the prompt looked to the method), scale (how it was pushed, + towards refusal), reply (the answer,
        without what was thought before), thought, tokens (of both), finish ("stop", "length" or "enough"), reason (why
        there is no answer to judge), seconds (its share of its batch's), kl, of every judge `verdict_…` and, where it
        can tell (`judges.panel` can), `sure_…`, and the columns of the world's scorers. Of a conversation, prompt is
        what the user said last, and messages holds all of it as JSON.

    Raises:
        ValueError: nothing to ask or no way to answer, two sets or arms of one name, or a folder of another run.
        OSError: the folder cannot be written to; what was done is kept.
    """
    from tqdm.auto import tqdm

    if judge is not None and not isinstance(judge, Mapping):
        raise ValueError("Judges come by name: give judge={'mine': my_judge}.")
    world = world or world_of(model)
    judge = dict(judge or world.judges)
    learned_from = list(learned_from)
    _distinct("set", [one.name for one in sets])
    _distinct("way of answering", [_title(one) for one in arms])
    whole = {one.name: one.digest for one in sets}
    cleaned = [without(one, learned_from) for one in sets]
    sets = [one for one, _ in cleaned]
    settings = {
        "model": asdict(identity(model)) | {"name": "the bundled model" if world.bundled else world.name},
        "dtype": str(unembedding_of(model).dtype),
        "sets": {
            one.name: {"prompts": len(one), "source": one.source, "digest": one.digest, "whole": whole[one.name]}
            for one in sets
        },
        "left out": {one.name: asdict(leaks) for one, leaks in cleaned},
        "arms": {
            _title(one): {
                "name": one.name,
                "setting": one.setting,
                "seed": one.seed,
                "system": one.system,
                "is": str(one.method or ""),
            }
            for one in arms
        },
        "judges": {name: judges.description(own) for name, own in judge.items()},
        "scorers": [judges.description(scorer) for scorer in world.scorers],
        "divergence": divergence,
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
    with table.opened(out, settings, machine, KEY, rank, GROWS) as run:
        if rank.first:
            _judge_again(run, judge)
        there = _asked_for(run.table(), sets, arms)
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
                    asked = one.at(places)
                    moved = _moved(model, asked, own, asking) if divergence else {}
                    rows = []
                    for seat, (arm, said) in enumerate(zip(own, given, strict=True)):
                        columns = columns_of(asked, said, judge, world.scorers)
                        columns["kl"] = moved.get(seat, [None] * len(places))
                        rows += [_row(one, place, arm, said, row, seconds, columns) for row, place in enumerate(places)]
                    run.write(rows)
                    bar.update(len(rows) * rank.of)
        rank.wait()
        return _in_order(_asked_for(run.table(), sets, arms), settings)


def read(folder: str | Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table that `evaluate` wrote there, whole or not and in the same order, and what it was run with.

    Raises:
        ValueError: there is no run in the folder, or a part of it cannot be read.
    """
    found, about = table.read(folder)
    return _in_order(found, about["settings"]), about


def _in_order(table: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """By way of answering, set and prompt, whatever the order in which replies came, and from how many processes."""
    if not len(table):
        return table
    arms = settings["arms"].values()
    arm = {(one["name"], one["setting"], one["seed"]): place for place, one in enumerate(arms)}
    named = {name: place for place, name in enumerate(settings["sets"])}
    found = [
        (arm[method, setting, seed], named[name], place)
        for method, setting, seed, name, place in table[["method", "setting", "seed", "set", "place"]].itertuples(
            index=False, name=None
        )
    ]
    return table.iloc[sorted(range(len(found)), key=found.__getitem__)].reset_index(drop=True)


def _title(arm: Arm) -> str:
    """What tells an arm from every other."""
    return " ".join(part for part in (arm.name, arm.setting, f"seed {arm.seed}") if part)


def _asked_for(table: pd.DataFrame, sets: Sequence[PromptSet], arms: Sequence[Arm]) -> pd.DataFrame:
    """The rows of these sets and arms, of all that the folder holds."""
    if not len(table):
        return table
    names, ways = {one.name for one in sets}, {(arm.name, arm.setting, arm.seed) for arm in arms}
    told = zip(table["set"], table["method"], table["setting"], table["seed"], strict=True)
    kept = [name in names and tuple(way) in ways for name, *way in told]
    rows: Any = table[kept]
    return rows.reset_index(drop=True)


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


def _moved(model: Model, asked: PromptSet, arms: Sequence[Arm], asking: Asking) -> dict[int, list[float | None]]:
    """By place among the arms, how far each moves the first token of its replies to harmless prompts."""
    rows = [row for row, kind in enumerate(asked.kinds) if kind == "harmless"]
    steered = {
        place: arm.method
        for place, arm in enumerate(arms)
        if arm.method is not None and arm.system is None and not arm.method.asks_twice
    }
    if not rows or not steered:
        return {}
    nats = divergences(model, [asking.of(asked[row]) for row in rows], list(steered.values()))
    found: dict[int, list[float | None]] = {}
    for place, values in zip(steered, nats.tolist(), strict=True):
        found[place] = [None] * len(asked)
        for row, value in zip(rows, values, strict=True):
            found[place][row] = value
    return found


def _judge_again(run: table.Run, judge: Mapping[str, Judge]) -> None:
    """Ask again for the verdicts that are missing; those rows are written anew."""
    rows: list[dict[str, Any]] = [
        {name: None if value != value else value for name, value in row.items()}  # not a number: nothing
        for row in run.table().to_dict("records")
    ]
    for name, own in judge.items():
        missing = [row for row in rows if row[f"verdict_{name}"] is None]
        for column, given in opinions(name, own, [row["reply"] for row in missing]).items():
            for row, value in zip(missing, given, strict=True):
                row[column] = value
        run.write([row for row in missing if row[f"verdict_{name}"] is not None])


def _row(
    one: PromptSet, place: int, arm: Arm, said: Any, row: int, seconds: float, columns: Mapping[str, Sequence[Any]]
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
        **{name: given[row] for name, given in columns.items()},
    }


def _distinct(what: str, names: Sequence[str]) -> None:
    if not names:
        raise ValueError(f"There is no {what}: give at least one.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"There are two of the {what} {twice!r}: give each a name of its own.")
