"""Learning: what methods are fitted on in tests, and one quick fit of each."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from math import inf
from typing import Any

import pytest
from drawn import REFUSING

from scans_lens import prober
from scans_lens.methods import (
    cast,
    choosing,
    false_refusal,
    gating,
    jailbreak_antidote,
    safeswitch_prompts,
    scans,
    thresholds,
    variants,
)
from scans_lens.methods.caa import CAA
from scans_lens.methods.cast import CAST
from scans_lens.methods.false_refusal import FalseRefusal
from scans_lens.methods.gated_push import GatedPush
from scans_lens.methods.jailbreak_antidote import JailbreakAntidote
from scans_lens.methods.refusal_direction import Filters, RefusalDirection
from scans_lens.methods.safeswitch import SafeSwitch
from scans_lens.methods.scans import SCANS
from scans_lens.prompts import Contrast

THINGS = (
    "process", "bread", "letter", "train", "boat", "house", "knife", "fire", "market", "rain", "forest", "star",
    "table", "river", "garden", "clock", "window", "road", "stone", "field",
)  # fmt: skip
PAIRS = [(f"How do I kill the {thing}?", "Sorry, but I cannot help with that.") for thing in THINGS]
"""Prompts with refusals, for a head to learn."""


def contrast_of(n: int = 10, name: str = "pairs", when: str = "today", verbs: Sequence[str] = ("kill",)) -> Contrast:
    """So many pairs; with more verbs, so many harmful prompts of each."""
    return Contrast(
        name,
        harmful=[f"How do I {verb} the {thing} {when}?" for verb in verbs for thing in THINGS[:n]],
        harmless=[f"How do I name the {thing} {when}?" for thing in THINGS[:n]],
        borderline=[f"How do I kill the {thing} in a game {when}?" for thing in THINGS[:n]],
    )


def others(n: int = 10, verbs: Sequence[str] = ("kill",)) -> Contrast:
    """Validation prompts, none of which is in `contrast_of`."""
    return contrast_of(n, "others", "tomorrow", verbs)


def some(replies: Sequence[str]) -> list[str]:
    """A judge that looks at nothing but the letters, so that tiny random models refuse now and then."""
    return ["refused" if sha256(reply.encode()).digest()[0] % 2 else "answered" for reply in replies]


def _two_positions(candidates: Any, *_: Any) -> list[tuple[int, int]]:
    """The last two tokens of the tail with every layer, which are candidates enough."""
    return [(position, layer) for position in (-2, -1) for layer in range(candidates.shape[1])]


@contextmanager
def briskly() -> Iterator[pytest.MonkeyPatch]:
    """Fewer scales, shorter replies and fewer epochs are enough to see how a method learns and how it chooses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "VALIDATION_TOKENS", 5)
        patch.setattr(choosing, "ROUNDS", 0)
        patch.setattr(choosing, "LOOKED", 0)
        for module in (choosing, thresholds):
            patch.setattr(module, "BROKEN", 1.0)
        for module in (scans, variants, cast, jailbreak_antidote, gating):
            patch.setattr(module, "SHARES", (0.1, 0.4))
        patch.setattr(scans, "ALPHAS", (0.5, 2.0))
        patch.setattr(thresholds, "MISSED", (0.01, 0.2))
        patch.setattr(false_refusal, "places", _two_positions)
        patch.setattr(safeswitch_prompts, "REFUSAL_TOKENS", 5)
        patch.setattr(prober, "EPOCHS", 5)
        yield patch


def a_scans(model: Any, contrast: Contrast | None = None, **how: Any) -> SCANS:
    return SCANS.fit(model, contrast or contrast_of(), **{"judge": some, "layers": (1, 2), "progress": False, **how})


def a_caa(model: Any, **how: Any) -> CAA:
    settings = {
        "contrast": contrast_of(6), "validation": others(6), "layers": (1, 2), "multipliers": (-4.0, -1.0),
        "judge": some, "progress": False,
    }  # fmt: skip
    return CAA.fit(model, **{**settings, **how})


def a_refusal_direction(model: Any, **how: Any) -> RefusalDirection:
    settings = {
        "validation": others(6), "tokens": REFUSING, "filtered": False, "filters": Filters(inf, -inf, 0.0),
        "progress": False,
    }  # fmt: skip
    return RefusalDirection.fit(model, contrast_of(8), **{**settings, **how})


def a_false_refusal(model: Any, **how: Any) -> FalseRefusal:
    settings = {
        "validation": others(6), "tokens": REFUSING, "filtered": False, "most_kl": inf, "last": 0.0, "progress": False,
    }  # fmt: skip
    return FalseRefusal.fit(model, contrast_of(8), **{**settings, **how})


def a_safeswitch(model: Any, contrast: Contrast | None = None, **how: Any) -> SafeSwitch:
    both = ("kill", "steal")
    settings = {"validation": others(14, both), "judge": some, "pairs": PAIRS, "progress": False}
    return SafeSwitch.fit(model, contrast or contrast_of(20, verbs=both), **{**settings, **how})


def a_gated_push(model: Any, **how: Any) -> GatedPush:
    settings = {"validation": others(), "judge": some, "layers": (1, 2), "progress": False}
    return GatedPush.fit(model, contrast_of(), **{**settings, **how})


def _a_variant(make: Callable[..., SCANS], *contrast: Contrast) -> Callable[..., SCANS]:
    def made(model: Any, **how: Any) -> SCANS:
        start = a_scans(model, validation=others())
        return make(start, model, *contrast, **{"validation": others(), "judge": some, "progress": False, **how})

    return made


FITS: dict[str, Callable[..., Any]] = {
    "SCANS": lambda model, **how: a_scans(model, **{"validation": others(), **how}),
    "SCANS, centred": _a_variant(variants.centred, contrast_of()),
    "SCANS at the instruction's end": _a_variant(variants.at_instruction, contrast_of()),
    "SCANS in proportion": _a_variant(variants.continuous),
    "gated push": a_gated_push,
    "CAST": lambda model, **how: CAST.fit(
        model, contrast_of(), **{"validation": others(), "judge": some, "progress": False, **how}
    ),
    "Jailbreak Antidote": lambda model, **how: JailbreakAntidote.fit(
        model, contrast_of(), **{"validation": others(), "judge": some, "progress": False, **how}
    ),
    "CAA": a_caa,
    "refusal direction": a_refusal_direction,
    "false refusal": a_false_refusal,
    "SafeSwitch": a_safeswitch,
}
"""By name: `FITS[name](model)` fits a method quickly, within `briskly()`."""
