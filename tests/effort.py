"""Effort: how little measuring has to take for the laws of figures and for the notebooks to run."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from scans_lens import prober, world
from scans_lens.figures import Effort
from scans_lens.methods import candidates, choosing, scans

N = 8
"""Prompts of a kind: enough for every law, and quick."""
LITTLE = Effort(
    resamples=20,
    token_resamples=10,
    example_tokens=4,
    shown_tokens=9,
    rate_tokens=3,
    judged_tokens=4,
    quiz_tokens=4,
    switch_tokens=8,
    direction_tokens=4,
    placebo_draws=2,
    scales=(0.0, 1.0),
    placebo_scales=(0.0, 1.0),
    swept_draws=2,
    thresholds=5,
    typed=2,
    sizes=(4, 8),
    size_draws=2,
    probed=3 * N,
    ahead=3,
)
"""Of the figures: short replies, few scales and few draws."""


@contextmanager
def little() -> Iterator[None]:
    """Of what is fitted: short replies and few scales."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scans, "SHARES", (0.05, 0.1))
        patch.setattr(choosing, "ROUNDS", 0)
        patch.setattr(choosing, "LOOKED", 0)
        patch.setattr(choosing, "VALIDATION_TOKENS", 4)
        patch.setattr(world, "bundled", replace(world.bundled, tokens=4))
        patch.setattr(prober, "EPOCHS", 2)
        patch.setattr(candidates, "FEWEST", 2)
        yield
