"""Comparison: SCANS and its rivals, learned from the same prompts, tuned on the same ones, asked the same ones.

The catalogue fits the ways under one effort, `evaluate` asks them, and what is told here is read from its table.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from scans_lens import artefacts, queries
from scans_lens.conversation import BARE, Asking, Prompt
from scans_lens.effort import EQUAL, Effort
from scans_lens.errors import Refused
from scans_lens.evaluation import evaluate
from scans_lens.generation import replies
from scans_lens.methods import catalogue
from scans_lens.methods.arms import Arm, Fitted, Fitting, fitted, written
from scans_lens.methods.catalogue import PLAIN
from scans_lens.model import Model, identity
from scans_lens.prompts import PromptSet
from scans_lens.rates import unbeaten
from scans_lens.world import World, world_of

TESTED = 150
"""Test prompts of each kind that the bundled model is asked."""
NEW_TOKENS = 24
TIMED, TIMED_TOKENS, ROUNDS = 32, 32, 3
"""Prompts that are timed, new tokens of their replies, and how often each way is timed, in turns."""
KNOBS = ("position", "layer", "layers", "steers", "multiplier", "scale", "missed")
"""What trials are told apart by; what else they hold is what they did."""
AXES = {queries.OVER_REFUSAL: -1, queries.HARM: 1, queries.JAILBREAK: 1}
"""What the front weighs, as far as it was asked: less over-refusal, more refusals of harm and of jailbreaks."""

Numbers = dict[str, Any]


def compare(
    model: Model,
    methods: Sequence[str] | None = None,
    sets: Sequence[PromptSet] | None = None,
    *,
    out: str | Path,
    world: World | None = None,
    effort: Effort = EQUAL,
    asking: Asking = BARE,
    given: Mapping[str, Any] | None = None,
    max_new_tokens: int = NEW_TOKENS,
    batch_size: int | None = None,
    progress: bool = True,
) -> Numbers:
    """SCANS and its rivals side by side; an interrupted comparison goes on where it was.

    Every method learns from the same anchors and chooses its knobs on the same validation prompts with the same judge,
    from as many replies at most (`Effort.settings`), looking finer until they are spent or two digits tell no more; the
    continuous variant goes on where SCANS' own search ended. SafeSwitch alone learns from kinds of its own where the
    world has them: it needs harmful prompts that are complied with, jailbreaks; its replies label what its probers
    learn. The refusal direction and false refusal choose among candidates by scores at one token, as published, and
    need few. All are then asked the same test prompts by `evaluate`.

    Args:
        methods: names of the catalogue; by default all but some placebos.
        sets: what to ask; by default the world's, `TESTED` prompts of each of the bundled model's kinds.
        out: a folder: fitted methods, every reply (`evaluation.read(out / "replies")`), `comparison.json`, and
            `grid.csv`, with every setting that was tried and what it did on validation prompts.
        world: what belongs to the model; by default what we have for it.
        effort: what each fit may take.
        asking: how all prompts are put, in learning and in asking.
        given: by name, what was learned before, and is used as it is, whatever that took.

    Returns:
        What `comparison.json` holds: for each way its rates by set and kind with intervals and paired tests against the
        plain model, the same over all sets of one purpose, KL on harmless prompts (nats), prompts answered rightly and
        perplexity (where the world knows), seconds a reply, bytes stored, replies and seconds of tuning, and whether it
        lies on the Pareto front.

    Raises:
        ValueError: an unknown method, or a folder of another comparison.
    """
    methods = catalogue.compared() if methods is None else list(methods)
    catalogue.require_known(methods)
    world, out = (world or world_of(model)).with_borderline(), Path(out)
    if sets is None:
        sets = [each.first(TESTED) for each in world.sets] if world.bundled else list(world.sets)
    fitting = Fitting(
        world, effort, out / "methods", asking, batch_size=batch_size, progress=progress, given=given or {},
        said=(lambda sentence: print(sentence, flush=True)) if progress else lambda sentence: None,
    )  # fmt: skip
    ways = [fitted(fitting, name) for name in methods]
    arms = [Arm(PLAIN), *(way.arm for way in ways if way.arm is not None)]
    table = evaluate(
        model, sets, arms, out / "replies", world=world, max_new_tokens=max_new_tokens, asking=asking, divergence=True,
        learned_from=world.learned_from, batch_size=batch_size, progress=progress,
    )  # fmt: skip
    return told(fitting, ways, arms, table, {each.name: len(each) for each in sets}, max_new_tokens, out)


def told(
    fitting: Fitting,
    ways: Sequence[Fitted],
    arms: Sequence[Arm],
    table: pd.DataFrame,
    sets: Mapping[str, int],
    max_new_tokens: int,
    out: Path,
) -> Numbers:
    """What the table and the fits say, and what is measured beside them: perplexity, and seconds in turns."""
    world, abouts = fitting.world, catalogue.arms()
    numbers: Numbers = {
        "model": {**asdict(identity(world.model)), "name": world.name},
        "bundled": world.bundled,
        "anchors": {"name": world.anchors.name, "a side": len(world.anchors.harmful)},
        "besides": _besides(fitting),
        "validation": {
            "name": world.validation.name, "a kind": len(world.validation.harmful), "budget": fitting.budget,
        },
        "effort": fitting.effort.to_dict(),
        "asking": fitting.asking.to_dict(),
        "sets": dict(sets),
        "max_new_tokens": max_new_tokens,
        "versions": artefacts.versions(),
        "ways": {PLAIN: {"about": "no method"}} | {way.name: _of_fit(way, abouts[way.name]) for way in ways},
    }  # fmt: skip
    kinds = table.groupby("set")["kind"].nunique().to_dict()
    for line in queries.summary(table):
        if line.refused is not None:
            name = line.set if kinds[line.set] == 1 else f"{line.set}, {line.kind}"
            numbers["ways"][line.method].setdefault("refused", {})[name] = {
                **line.refused.as_json(),
                "points": None if line.against_plain is None else 100 * line.against_plain.difference,
                "p": line.p,
            }
    for (way, name), rate in queries.right(table).items():
        numbers["ways"][way].setdefault("right", {})[name] = rate.as_json()
    for (way, _), nats in queries.divergence(table).items():
        numbers["ways"][way]["kl"] = nats.as_json()
    for way, purposes in queries.together(table).items():
        numbers["ways"][way]["together"] = purposes
    _cost(fitting, arms, numbers)
    _front(numbers)
    written(out / "grid.csv", grid(ways).to_csv(index=False))
    written(out / "comparison.json", json.dumps(numbers, indent=1, ensure_ascii=False) + "\n")
    return numbers


def _besides(fitting: Fitting) -> dict[str, Any]:
    """What some methods learn from beside the anchors: how many prompts a side."""
    twins = None if fitting.world.twins is None else fitting.effort.learned(fitting.world.twins)
    return {
        "twins": None if twins is None else {"name": twins.name, "a side": len(twins.harmful)},
        "borderline": len(fitting.world.borderline),
    }


def _of_fit(way: Fitted, about: str) -> Numbers:
    return {
        "about": about,
        "fit": catalogue.recipe(way.name).shares or way.name,
        "tuning": {"replies": way.replies, "seconds": way.seconds},
        "stored": way.stored,
        "knobs": way.knobs,
        "fitted": way.arm is not None,
        "tried": _tried(way.trials),
    }


def _tried(trials: Sequence[Mapping[str, Any]]) -> Numbers:
    """How many settings were tried, and of every knob which values."""
    steered = [trial for trial in trials if trial.get("scale", trial.get("multiplier", 1.0))]
    values = {
        name: {_plain(trial[name]) for trial in steered} for name in (steered[0] if steered else ()) if name in KNOBS
    }
    return {
        "settings": len(steered),
        "knobs": {name: sorted(tried) for name, tried in values.items() if len(tried) > 1},
    }


def _plain(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def grid(ways: Sequence[Fitted]) -> pd.DataFrame:
    """Every trial of every fit, one row each; ways that share a fit have its rows once."""
    rows = {}
    for way in ways:
        fit = catalogue.recipe(way.name).shares or way.name
        rows[fit] = [
            {
                "fit": fit,
                **{name: _plain(value) for name, value in trial.items() if name not in ("harmless", "harmful")},
            }
            | {
                f"{side} {what}": count
                for side in ("harmless", "harmful")
                if isinstance(trial.get(side), tuple)
                for what, count in zip(("refused", "asked"), trial[side], strict=True)
            }
            | ({"score, harmful": trial["harmful"]} if isinstance(trial.get("harmful"), float) else {})
            for trial in way.trials
        ]
    return pd.DataFrame([row for trials in rows.values() for row in trials]).convert_dtypes()


def _cost(fitting: Fitting, arms: Sequence[Arm], numbers: Numbers) -> None:
    """Perplexity where the world has texts, and seconds a reply, in turns."""
    world, timed = fitting.world, fitting.world.validation.harmless[:TIMED]
    for arm, seconds in seconds_a_reply(world.model, arms, timed, fitting.asking).items():
        numbers["ways"][arm]["seconds a reply"] = seconds
    if world.capability is None:
        return
    try:
        world.capability.require()
    except ValueError as error:
        for arm in arms:
            numbers["ways"][arm.name]["no perplexity"] = str(error)
        return
    for arm in arms:
        if arm.system is not None or (arm.method is not None and arm.method.asks_twice):
            continue
        try:
            numbers["ways"][arm.name]["perplexity"] = world.capability.perplexity(arm.method, None).as_json()
        except Refused as error:  # a head that replaces the unembedding has no log-likelihoods of another's text
            numbers["ways"][arm.name]["no perplexity"] = str(error)


def seconds_a_reply(
    model: Model, arms: Sequence[Arm], prompts: Sequence[Prompt], asking: Asking = BARE
) -> dict[str, float]:
    """By name of the arm, the median of some rounds in which all arms take turns; the first round only warms up."""
    taken: dict[str, list[float]] = {arm.name: [] for arm in arms}
    for turn in range(ROUNDS + 1):
        for arm in arms:
            put = Asking(arm.system) if arm.system is not None else asking
            began = time.perf_counter()
            replies(
                model, prompts, method=arm.method, asking=put, max_new_tokens=TIMED_TOKENS, progress=False
            )  # fmt: skip
            if turn:
                taken[arm.name].append((time.perf_counter() - began) / len(prompts))
    return {name: sorted(rounds)[ROUNDS // 2] for name, rounds in taken.items()}


def _front(numbers: Numbers) -> None:
    """Mark the ways that no other one beats on one axis without losing on another, by the rates as measured.

    All sets of one purpose count together. Without prompts to see both over-refusal and defence there is no front.
    """
    ways = {name: way["together"] for name, way in numbers["ways"].items() if "together" in way}
    axes = {purpose: sign for purpose, sign in AXES.items() if purpose in ways.get(PLAIN, {})}
    if len(set(axes.values())) < 2:
        return
    at = {
        name: [sign * way[purpose]["refused"]["value"] for purpose, sign in axes.items()]
        for name, way in ways.items()
        if axes.keys() <= way.keys()
    }
    front = unbeaten(at)
    for name in at:
        numbers["ways"][name]["front"] = name in front
