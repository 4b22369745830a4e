"""Effort: how much learning and choosing may cost, as a value with numbers in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from scans_lens.prompts import Contrast

Item = TypeVar("Item")


@dataclass(frozen=True)
class Effort:
    """How many prompts, tokens, scales and resamples a fit or an analysis may take; None is all prompts there are.

    It is handed in, kept with what was learned and printed with it. A smaller one takes prompts evenly spread over a
    contrast, so that all forms that stand in blocks stay in it, as in our anchors, and is never a matter of chance.
    """

    anchors: int | None = None
    """Of each side of the contrast that directions are learned from."""
    pushed: int | None = None
    """Harmful anchors that are pushed layer by layer to find the anchor layers."""
    validation: int | None = None
    """Of each side of the validation prompts that knobs are chosen on."""
    tokens: int = 24
    """New tokens of a reply to one of them: enough to see whether it refuses."""
    scales: int = 6
    """Scales that are tried first."""
    rounds: int = 3
    """How often the scales beside the best one are tried, too."""
    resamples: int = 400
    """Of bootstrap and of label shuffles."""
    settings: int | None = None
    """That a method may try, counted in replies to every borderline and harmful validation prompt; None is no limit."""

    def __post_init__(self) -> None:
        for name, number in asdict(self).items():
            least = 0 if name == "rounds" else 2 if name in ("anchors", "validation") else 1
            if number is None and name in ("anchors", "pushed", "validation", "settings"):
                continue
            if not isinstance(number, int) or number < least:
                raise ValueError(f"An effort has at least {least} {name}, in whole numbers, not {number!r}.")

    def __str__(self) -> str:
        every = {name: "all" if number is None else number for name, number in asdict(self).items()}
        return (
            f"{every['anchors']} anchors and {every['validation']} validation prompts a side, replies of up to "
            f"{self.tokens} tokens, up to {self.scales} scales and {self.rounds} rounds of finer ones"
            + (f", at most {self.settings} settings" if self.settings is not None else "")
        )

    def learned(self, contrast: Contrast) -> Contrast:
        """As much of the anchors as are to be learned from."""
        return _of_each(contrast, self.anchors)

    def chosen_on(self, validation: Contrast) -> Contrast:
        """As much of the validation prompts as knobs are to be chosen on."""
        return _of_each(validation, self.validation)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


STANDARD = Effort()
QUICK = Effort(anchors=64, pushed=48, validation=48, tokens=16, scales=4, rounds=1, resamples=200)
"""For a first look at a model of half a billion parameters in minutes on a laptop."""
EQUAL = Effort(validation=96, settings=30)
"""For comparing methods: each chooses its knobs by as many replies at most, on as many validation prompts."""
EQUAL_QUICK = replace(EQUAL, anchors=64, pushed=48, validation=48, resamples=200, settings=12)
"""The same on a real model in minutes a method: fewer prompts and settings, replies as long."""
NAMED = {"standard": STANDARD, "quick": QUICK, "equal": EQUAL, "equal-quick": EQUAL_QUICK}


def named(name: str) -> Effort:
    """The effort of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in NAMED:
        raise ValueError(f"There is no effort {name!r}: there are {', '.join(NAMED)}.")
    return NAMED[name]


def spread(items: Sequence[Item], n: int | None) -> tuple[Item, ...]:
    """`n` of these, evenly from first to last; all where there are no more."""
    if n is None or n >= len(items):
        return tuple(items)
    return tuple(items[place * len(items) // n] for place in range(n))


def _of_each(contrast: Contrast, n: int | None) -> Contrast:
    """So many of each side; twins stay together, since sides of one length are taken at the same places."""
    sides = {side: getattr(contrast, side) for side in ("harmful", "harmless", "borderline")}
    if n is None or n >= max(map(len, sides.values())):
        return contrast
    return Contrast(f"{contrast.name} ({n} a side)", **{side: spread(items, n) for side, items in sides.items()})
