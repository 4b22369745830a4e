"""Capability: what a model still knows under every way of answering, beside a run's replies: questions and texts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scans_lens.errors import Refused
from scans_lens.steering import Method, Push

if TYPE_CHECKING:
    from scans_lens.methods.arms import Arm
    from scans_lens.world import World

FILE = "capability.json"
QUESTIONS = 40
"""Of each subject."""


def measured(
    world: World, arms: Sequence[Arm], folder: str | Path, *, limit: int | None = QUESTIONS, progress: bool = True
) -> dict[str, Any]:
    """Questions answered rightly and perplexity of texts, by arm, kept in the run's folder and not measured twice.

    Texts without a prompt leave a method nothing to choose the sign from: they are measured under its whole push, away
    from refusal, as a harmless prompt is pushed, and towards it. An arm with a system prompt is left out, and so is,
    with a word, one that has no log-likelihoods of another's text.

    Args:
        limit: questions of each subject, at most; None is all.

    Returns:
        What was asked (`questions`, `texts`, `limit`), and by arm, with its setting, `right` and `perplexity` (of
        "away" and "towards" where the sign has to be given, else of "own"), or `none`, why there is nothing.

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
    if {name: found[name] for name in about} != about:
        raise ValueError(f"{str(file)!r} has answers to other questions: name a new folder, or remove it.")
    todo = [arm for arm in arms if arm.system is None and _way(arm) not in found["arms"]]
    for arm in tqdm(todo, desc="capability", unit="way", disable=not progress):
        try:
            own: dict[str, Any] = {
                "right": capability.right(arm.method, limit).as_json(),
                "perplexity": {
                    name: capability.perplexity(method, sign).as_json()
                    for name, (method, sign) in _texts_under(arm.method, capability.needs_sign).items()
                },
            }
        except Refused as error:  # such as a head that takes the unembedding's place
            own = {"none": str(error)}
        found["arms"][_way(arm)] = own
        _keep(file, found)
    return found


def _way(arm: Arm) -> str:
    """Its name and setting, as `queries.shifts` has them."""
    return " ".join(filter(None, (arm.name, arm.setting)))


def _texts_under(method: Method | None, needs_sign: bool) -> dict[str, tuple[Method | None, float | None]]:
    """As what texts are read: under the method itself or, where it had nothing to decide from, its whole push."""
    if method is None or not needs_sign:
        return {"own": (method, None)}
    if method.push is None:
        raise Refused(f"{type(method).__name__} decides from a prompt, and these texts have none.")
    whole = replace(method.push, scale=abs(method.push.scale))
    if isinstance(method, Push):  # the same for all
        return {"own": (whole, 1.0 if method.scale > 0 else -1.0)}
    return {"away": (whole, -1.0), "towards": (whole, 1.0)}


def read(folder: str | Path) -> dict[str, Any] | None:
    """What was measured in the folder; None where nothing was.

    Raises:
        ValueError: the file cannot be read.
    """
    file = Path(folder) / FILE
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(file)!r} is no JSON: remove it, and measure again.") from error


def _keep(file: Path, contents: Mapping[str, Any]) -> None:
    from scans_lens.methods.arms import written

    file.parent.mkdir(parents=True, exist_ok=True)
    written(file, json.dumps(contents, indent=1, ensure_ascii=False) + "\n")
