"""Contrast: harmful prompts beside harmless ones, and how prompts are compared and told apart by kind."""

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, no_type_check

from scans_lens.conversation import Asking, Conversation, Prompt, asked_by_user, asking_of, key

if TYPE_CHECKING:
    from scans_lens.prompts.sets import PromptSet

KINDS = ("harmful", "harmless", "borderline")
"""Borderline prompts are harmless and share words with harmful ones."""


def normalised(prompt: Prompt) -> str:
    """What the user says as we compare prompts: case folded, every run of white space one space."""
    return " ".join(asked_by_user(prompt).split()).casefold()


@no_type_check  # whoever hands over what is no prompt gets our own sentence, also where types are checked at run time
@dataclass(frozen=True, repr=False)
class Contrast:
    """Harmful prompts beside harmless ones: what a direction is learned from, and what it is tried on.

    Any sequence of strings or conversations is taken and kept as a tuple. `borderline` holds harmless prompts that
    share words with harmful ones, and may be empty. Raises ValueError when a side is empty, is one bare string, or
    holds something that is no string or is blank, and when a prompt is harmful and harmless at once.

    >>> Contrast("tiny", harmful=["How do I pick pockets?"], harmless=["How do I pick apples?"])
    Contrast('tiny', harmful=1, harmless=1, borderline=0)
    """

    name: str
    harmful: tuple[Prompt, ...]
    harmless: tuple[Prompt, ...]
    borderline: tuple[Prompt, ...] = ()

    if TYPE_CHECKING:  # the fields are tuples; the caller may hand over any sequence

        def __init__(
            self, name: str, harmful: Sequence[Prompt], harmless: Sequence[Prompt], borderline: Sequence[Prompt] = ()
        ) -> None: ...

    def __post_init__(self):
        for side in KINDS:
            object.__setattr__(self, side, _checked(getattr(self, side), side, self.name))
        for side in ("harmful", "harmless"):
            if not getattr(self, side):
                raise ValueError(f"The contrast {self.name!r} has no {side} prompt: give at least one.")
        harmful = {normalised(prompt) for prompt in self.harmful}
        for side in ("harmless", "borderline"):
            for prompt in getattr(self, side):
                if normalised(prompt) in harmful:
                    raise ValueError(f"The contrast {self.name!r} has {prompt!r} as harmful and as {side}.")

    def __repr__(self) -> str:
        sizes = ", ".join(f"{side}={len(getattr(self, side))}" for side in KINDS)
        return f"Contrast({self.name!r}, {sizes})"

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the prompts, side by side and in order; the name has no part in it."""
        return digest_of([self.harmful, self.harmless, self.borderline])

    @property
    def asking(self) -> Asking | None:
        """How its prompts are put, where all are put alike."""
        first, *others = {repr(one): one for one in map(asking_of, (*self.harmful, *self.harmless))}.values()
        return None if others else first

    def under(self, asking: Asking) -> "Contrast":
        """The same prompts put in this way. Raises ValueError where one says of itself that it is put in another."""
        if not asking:
            return self
        sides = {side: [asking.of(prompt) for prompt in getattr(self, side)] for side in KINDS}
        return Contrast(f"{self.name}, {asking}", **sides)

    def with_sets(self, sets: Iterable["PromptSet"], name: str) -> "Contrast":
        """These prompts and those of benchmarks, each to its side."""
        sets = list(sets)
        sides = {side: [*getattr(self, side), *(text for one in sets for text in getattr(one, side))] for side in KINDS}
        return Contrast(name, **sides)

    def split(self, n: int, seed: int) -> tuple["Contrast", "Contrast"]:
        """Two contrasts: `n` prompts of each side drawn by `seed`, and all that is left.

        The draw is the same on every machine, and each part keeps the prompts in their order. When the two
        sides have one length they are taken to be matched, and twins stay together. Borderline prompts are
        divided in the proportion in which the smaller side is, rounded down. Raises ValueError when
        a side would give all it has, since the rest must keep one of each.
        """
        smaller = min(len(self.harmful), len(self.harmless))
        if n > smaller:
            raise ValueError(f"Cannot take {n} of each kind from {self.name!r}: it has {smaller}.")
        if n == smaller:
            raise ValueError(
                f"Cannot take {n} of each kind from {self.name!r}: it has {smaller}, and one must be left."
            )
        if n < 1:
            raise ValueError(f"Cannot take {n} of each kind from {self.name!r}: ask for at least 1.")
        generator = random.Random(seed)
        harmful = _draw(generator, n, len(self.harmful))
        harmless = harmful if len(self.harmful) == len(self.harmless) else _draw(generator, n, len(self.harmless))
        borderline = _draw(generator, len(self.borderline) * n // smaller, len(self.borderline))

        def part(name: str, drawn: bool) -> Contrast:
            return Contrast(
                name,
                [prompt for i, prompt in enumerate(self.harmful) if (i in harmful) == drawn],
                [prompt for i, prompt in enumerate(self.harmless) if (i in harmless) == drawn],
                [prompt for i, prompt in enumerate(self.borderline) if (i in borderline) == drawn],
            )

        return part(f"{self.name} ({n} by seed {seed})", True), part(f"{self.name} (all but {n} by seed {seed})", False)


def _checked(prompts: Any, side: str, name: str) -> tuple[Prompt, ...]:
    if isinstance(prompts, str | Conversation):
        raise ValueError(f"The {side} prompts of {name!r} are one string, {prompts!r}: give a list of strings.")
    if not isinstance(prompts, Iterable) or isinstance(prompts, bytes | Mapping | Set):
        raise ValueError(f"The {side} prompts of {name!r} are a {type(prompts).__name__}: give a list of strings.")
    prompts = tuple(Conversation.of(one) if isinstance(one, list) else one for one in prompts)
    for i, prompt in enumerate(prompts):
        if not isinstance(prompt, str | Conversation):
            raise ValueError(f"The {side} prompt {i} of {name!r} is no string: {prompt!r}.")
        if not asked_by_user(prompt).strip():
            raise ValueError(f"The {side} prompt {i} of {name!r} is blank: {prompt!r}.")
    return prompts


def _draw(generator: random.Random, n: int, total: int) -> frozenset[int]:
    # Of all that a Random does, Python promises only `random()` to give the same numbers in every release.
    return frozenset(sorted(range(total), key=lambda _: generator.random())[:n])


def digest_of(contents: Any) -> str:
    """SHA-256 (hex) of prompts in lists, in order."""
    return hashlib.sha256(json.dumps(contents, separators=(",", ":"), default=key).encode()).hexdigest()
