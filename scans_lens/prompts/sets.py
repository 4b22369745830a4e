"""Sets: the prompts of a benchmark, with the kind of each and where they came from."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsIndex, overload

from scans_lens.conversation import Prompt
from scans_lens.prompts.contrast import KINDS, digest_of


@dataclass(frozen=True, repr=False)
class PromptSet(Sequence[Prompt]):
    """The prompts of a benchmark, in its order; a sequence of strings or conversations that knows where it came from.

    In a file of the caller's own there may be conversations among them (see `conversations`).

    `.harmful`, `.harmless` and `.borderline` are the prompts of one kind, as tuples.
    """

    name: str
    prompts: tuple[Prompt, ...]
    kinds: tuple[str, ...]
    """One of `KINDS` for each prompt."""
    types: tuple[str, ...]
    """The benchmark's own category of each prompt, such as XSTest's 18 types; empty where it has none."""
    source: str
    """Its public place, pinned to a revision."""
    licence: str
    citation: str
    items: tuple[str, ...] = ()
    """What each prompt is about, where several are about one thing: intervals resample them together."""
    labelled: bool = True
    """Whether somebody has said what kind each prompt is; a file of the caller's need not."""

    def __post_init__(self):
        assert len(self.prompts) == len(self.kinds) == len(self.types) == len(self.items or self.prompts)
        assert set(self.kinds) <= set(KINDS)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{kind}={self.kinds.count(kind)}" for kind in KINDS if kind in self.kinds)
        return f"PromptSet({self.name!r}, {sizes})"

    def __len__(self) -> int:
        return len(self.prompts)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Prompt, ...]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Prompt | tuple[Prompt, ...]:
        return self.prompts[index]

    def at(self, places: Sequence[int]) -> "PromptSet":
        """The prompts at these places, as a set of the same name."""
        return dataclasses.replace(
            self,
            prompts=tuple(self.prompts[place] for place in places),
            kinds=tuple(self.kinds[place] for place in places),
            types=tuple(self.types[place] for place in places),
            items=tuple(self.items[place] for place in places) if self.items else (),
        )

    def first(self, n: int) -> "PromptSet":
        """At most `n` prompts of each kind, the first ones."""
        seen: dict[str, int] = {}
        places = []
        for place, kind in enumerate(self.kinds):
            seen[kind] = seen.get(kind, 0) + 1
            if seen[kind] <= n:
                places.append(place)
        return self.at(places)

    @property
    def harmful(self) -> tuple[Prompt, ...]:
        return self._of("harmful")

    @property
    def harmless(self) -> tuple[Prompt, ...]:
        return self._of("harmless")

    @property
    def borderline(self) -> tuple[Prompt, ...]:
        return self._of("borderline")

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the prompts and their kinds, in order."""
        return digest_of([self.prompts, self.kinds])

    def _of(self, kind: str) -> tuple[Prompt, ...]:
        return tuple(prompt for prompt, its in zip(self.prompts, self.kinds, strict=True) if its == kind)
