"""Effort: how little measuring has to take for the laws of figures and for the notebooks to run."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from scans_lens import judges, prober
from scans_lens.figures import measuring, rivals, sweeps, switching
from scans_lens.methods import candidates, choosing, scans

N = 8
"""Prompts of a kind: enough for every law, and quick."""
AHEAD = 3


@contextmanager
def little() -> Iterator[None]:
    """Short replies, few scales and few draws."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scans, "SHARES", (0.05, 0.1))
        patch.setattr(choosing, "ROUNDS", 0)
        patch.setattr(choosing, "VALIDATION_TOKENS", 4)
        short = {"RATE_TOKENS": 3, "VALIDATION_TOKENS": 4, "LONG_REPLY": 9}
        for name, value in {"RESAMPLES": 40, "TOKEN_RESAMPLES": 10, "DRAWS": 2, **short}.items():
            patch.setattr(measuring, name, value)
        swept = {"SCALES": (0.0, 1.0), "THRESHOLDS": 5, "SIZES": (4, 8), "SIZE_DRAWS": 2}
        swept |= {"PLACEBO_SCALES": (0.0, 1.0), "PLACEBO_DRAWS": 2}
        for name, value in {"RESAMPLES": 20, "TYPED": 2, "JUDGED_TOKENS": 4, "QUIZ_TOKENS": 4, **swept}.items():
            patch.setattr(sweeps, name, value)
        patch.setattr(judges, "SETTLED", 4)
        for module in (switching, rivals):
            patch.setattr(module, "RESAMPLES", 20)
        patch.setattr(switching, "MOST_AHEAD", AHEAD)
        patch.setattr(switching, "REPLY_TOKENS", 8)
        patch.setattr(rivals, "REPLY_TOKENS", 4)
        patch.setattr(prober, "EPOCHS", 2)
        patch.setattr(candidates, "FEWEST", 2)
        yield
