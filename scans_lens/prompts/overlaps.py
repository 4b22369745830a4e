"""Overlaps: prompts that come twice, in one set, in two sets, or in what was learned from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

from scans_lens.conversation import Conversation, Prompt, key
from scans_lens.prompts.contrast import Contrast, normalised
from scans_lens.prompts.sets import PromptSet


@dataclass(frozen=True)
class Leaks:
    """What fell out of a set before it was used as a test, by text alone (white space and case do not count)."""

    name: str
    repeats: int
    """Prompts that the set holds a second time."""
    learned_from: int
    """Prompts that something was learned from: anchors, and validation prompts."""
    left: int

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.repeats} repeats and {self.learned_from} learned from fell out, {self.left} are left"
        )


def without(found: PromptSet, learned_from: Iterable[Contrast | Iterable[Prompt]] = ()) -> tuple[PromptSet, Leaks]:
    """The set with every prompt once, and without those that something was learned from.

    Args:
        found: a set to be tested on.
        learned_from: contrasts, or plain prompts, that directions, thresholds or scales were learned from.

    Raises:
        ValueError: nothing is left.
    """
    seen = {normalised(prompt) for one in learned_from for prompt in _all_of(one)}
    kept, repeats, fell = [], 0, 0
    own: set[str] = set()
    for place, prompt in enumerate(found):
        text, whole = normalised(prompt), key(prompt) if isinstance(prompt, Conversation) else normalised(prompt)
        repeats += whole in own
        fell += text in seen and whole not in own
        if whole not in own and text not in seen:
            kept.append(place)
        own.add(whole)
    if not kept:
        raise ValueError(f"Nothing of {found.name!r} is left to test on: all of it was learned from.")
    return found.at(kept), Leaks(found.name, repeats, fell, len(kept))


def shared(sets: Mapping[str, PromptSet]) -> dict[tuple[str, str], int]:
    """How many prompts two sets have in common, for every two that have any.

    RepE's harmful half lies inside AdvBench, for instance: these are not two results.
    """
    texts = {name: {normalised(prompt) for prompt in found} for name, found in sets.items()}
    counts = {(one, other): len(texts[one] & texts[other]) for one, other in combinations(texts, 2)}
    return {pair: count for pair, count in counts.items() if count}


def _all_of(learned: Contrast | Iterable[Prompt]) -> Iterable[Prompt]:
    return (*learned.harmful, *learned.harmless, *learned.borderline) if isinstance(learned, Contrast) else learned
