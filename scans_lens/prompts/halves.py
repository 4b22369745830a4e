"""Halves: benchmarks of which one half is learned from and chosen on, and only the other half asked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scans_lens.prompts.contrast import normalised
from scans_lens.prompts.overlaps import without
from scans_lens.prompts.sets import PromptSet

LEARNED, CHOSEN_ON, ASKED = range(3)
TURNS = (LEARNED, ASKED, LEARNED, ASKED, CHOSEN_ON, ASKED)
"""What becomes of neighbours of one kind and type, in turn."""
_TITLE = re.compile(r"halves of [^()']+ \(\d+\)(?:, [^()',]+ \(\d+\))*")


@dataclass(frozen=True)
class Parts:
    """What becomes of a set's prompts."""

    learned: PromptSet
    chosen_on: PromptSet
    asked: PromptSet


def parted(found: PromptSet) -> Parts:
    """A third of a set to learn from, a sixth to choose on, and a half to ask, the same on every machine.

    Prompts are dealt out in their order within each kind and type, so that every type is in every part, and prompts
    that stand at the same place of their types, as XSTest's pairs do, come into the same part. Types that are too small
    to be in every part are dealt out together.

    Raises:
        ValueError: the set is too small for that.
    """
    whole, _ = without(found)
    sizes = Counter(zip(whole.kinds, whole.types, strict=True))
    dealt: Counter[tuple[str, str]] = Counter()
    places: dict[int, list[int]] = {LEARNED: [], CHOSEN_ON: [], ASKED: []}
    for place, (kind, type_) in enumerate(zip(whole.kinds, whole.types, strict=True)):
        own = kind, type_ if sizes[kind, type_] >= len(TURNS) else ""
        places[TURNS[dealt[own] % len(TURNS)]].append(place)
        dealt[own] += 1
    if not all(places.values()):
        raise ValueError(
            f"{found.name!r} has {len(whole)} prompts, too few to learn from a part of them and ask others."
        )
    return Parts(*(whole.at(own) for own in places.values()))


def title(sets: Sequence[PromptSet]) -> str:
    """What prompts are called that came out of these sets."""
    return f"halves of {', '.join(f'{one.name} ({len(one)})' for one in sets)}"


def named_in(said: str) -> str:
    """The `title` in what a fit says of itself; nothing where there is none."""
    found = _TITLE.search(said)
    return found.group() if found else ""


def sets_in(said: str) -> dict[str, int]:
    """The names of the sets in that title, and how many prompts each had."""
    named = named_in(said).removeprefix("halves of ").split(", ")
    parts = [one.rstrip(")").rpartition(" (") for one in named if one]
    return {name: int(size) for name, _, size in parts}


def apart(sets: Sequence[PromptSet]) -> list[Parts]:
    """The parts of several sets: what is learned from in one is neither chosen on nor asked in another."""
    parts = [parted(one) for one in sets]
    learned = {normalised(prompt) for each in parts for prompt in each.learned}
    chosen_on = {normalised(prompt) for each in parts for prompt in each.chosen_on}
    return [
        Parts(each.learned, _not_among(each.chosen_on, learned), _not_among(each.asked, learned | chosen_on))
        for each in parts
    ]


def _not_among(found: PromptSet, texts: set[str]) -> PromptSet:
    return found.at([place for place, prompt in enumerate(found) if normalised(prompt) not in texts])
