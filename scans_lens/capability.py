"""Capability: what a model still knows under every way of answering, beside a run's replies: questions and texts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scans_lens.errors import Refused
from scans_lens.rates import Change, Rate, in_percent, in_points

if TYPE_CHECKING:
    from scans_lens.methods.arms import Arm
    from scans_lens.world import World

FILE = "capability.json"
QUESTIONS = 40
"""Of each subject."""


def measured(
    world: World, arms: Sequence[Arm], folder: str | Path, *, limit: int | None = QUESTIONS, progress: bool = True
) -> dict[str, Any]:
    """Which questions are answered rightly and how well texts are foretold, by arm, kept in the run's folder.

    What is there is not measured again. Every method decides from the question, and from what stands before a text. An
    arm with a system prompt is left out, and so is, with a word, one that has no log-likelihoods of another's text.

    Args:
        limit: questions of each subject, at most; None is all.

    Returns:
        What was asked (`questions`, `texts`, `limit`), and by arm, with its setting, what every question and text came
        to (`right`, `nats`, `tokens`), or `none`, why there is nothing. `lines` makes rates of it.

    Raises:
        ValueError: the world has no questions and no texts, or the folder has those of another limit.
    """
    from tqdm.auto import tqdm

    capability = world.capability
    if capability is None:
        raise ValueError("Nothing is known that this model should still know: its world has no capability.")
    file = Path(folder) / FILE
    about = {"questions": capability.questions, "texts": capability.texts, "limit": limit}
    found = read(folder) or {**about, "arms": {}}
    if {name: found.get(name) for name in about} != about:
        raise ValueError(f"{str(file)!r} has answers to other questions: name a new folder, or remove it.")
    todo = [arm for arm in arms if arm.system is None and _way(arm) not in found["arms"]]
    for arm in tqdm(todo, desc="capability", unit="way", disable=not progress):
        try:
            right = [bool(own) for own in capability.right(arm.method, limit)]
            texts = capability.perplexity(arm.method, None)
            own: dict[str, Any] = {"right": right, "nats": list(texts.nats), "tokens": list(texts.tokens)}
        except Refused as error:  # such as a head that takes the unembedding's place
            own = {"none": str(error)}
        found["arms"][_way(arm)] = own
        _keep(file, found)
    return found


def lines(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By arm the rate of right answers and the perplexity, each with what it changes of the plain model's.

    `right` and `points` are a rate and a difference of rates on the same questions, `perplexity` and its `interval` are
    per token, and `ratio` is to the plain model's on the same texts, with `ratio_interval`; all intervals are 95 %.
    """
    from scans_lens.likelihoods import Perplexity
    from scans_lens.methods.catalogue import PLAIN

    arms, shown = found["arms"], {}
    plain = arms.get(PLAIN)
    for way, own in arms.items():
        if "none" in own:
            shown[way] = dict(own)
            continue
        texts = Perplexity(tuple(own["nats"]), tuple(own["tokens"]), ())
        line = {
            "right": Rate.of(own["right"]).as_json(),
            "perplexity": texts.value,
            "interval": texts.interval and list(texts.interval),
            "texts": len(texts.nats),
        }
        if plain is not None and "none" not in plain and way != PLAIN:
            line["points"] = Change.of(plain["right"], own["right"], range(len(own["right"]))).as_json()
            ratio, between = texts.beside(Perplexity(tuple(plain["nats"]), tuple(plain["tokens"]), ()))
            line |= {"ratio": ratio, "ratio_interval": list(between)}
        shown[way] = line
    return shown


def cells(line: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """A line of a table: right in per cent, change in points, perplexity, and its change in per cent."""
    if "none" in line:
        return line["none"], "", "", ""
    right = in_percent(line["right"])
    if "points" not in line:
        return right, "", f"{line['perplexity']:.3f}", ""
    low, high = (100 * (edge - 1) for edge in line["ratio_interval"])
    return (
        right,
        in_points(line["points"]),
        f"{line['perplexity']:.3f}",
        f"{100 * (line['ratio'] - 1):+.2f} [{low:+.2f}, {high:+.2f}]",
    )


def _way(arm: Arm) -> str:
    """Its name and setting, as `queries.shifts` has them."""
    return " ".join(filter(None, (arm.name, arm.setting)))


def read(folder: str | Path) -> dict[str, Any] | None:
    """What was measured in the folder; None where nothing was.

    Raises:
        ValueError: the file cannot be read, or an older version has written it.
    """
    file = Path(folder) / FILE
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(file)!r} is no JSON: remove it, and measure again.") from error
    if any("none" not in own and "nats" not in own for own in found["arms"].values()):
        raise ValueError(f"{str(file)!r} was written by an older version: remove it, and measure again.")
    return found


def _keep(file: Path, contents: Mapping[str, Any]) -> None:
    from scans_lens.methods.arms import written

    file.parent.mkdir(parents=True, exist_ok=True)
    written(file, json.dumps(contents, ensure_ascii=False) + "\n")
