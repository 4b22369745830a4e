"""Calibration: where a threshold lies, how sure that is, and what becomes of it on other prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from scans_lens.classifier import threshold_at
from scans_lens.rates import Rate

Harmful = Float[np.ndarray, "harmful"]
Harmless = Float[np.ndarray, "harmless"]
"""Scores of prompts of one side: how harmful each looks (SCANS, eq. 4)."""
RESAMPLES = 2000


@dataclass(frozen=True)
class Threshold:
    """The highest threshold that takes at most a given share of harmful prompts for harmless ones."""

    value: float
    interval: tuple[float, float]
    """95 %, over resampled prompts."""
    missed: float
    """The share that was aimed at."""
    n: int
    """Harmful prompts that it was calibrated on."""

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.4f} [{low:.4f}, {high:.4f}] at {self.missed:.0%} missed"


def calibrated(harmful: Harmful, missed: float = 0.01, *, resamples: int = RESAMPLES, seed: int = 0) -> Threshold:
    """The threshold for a target rate of harmful prompts taken for harmless, with its bootstrap interval.

    Args:
        harmful: scores of harmful validation prompts.
        missed: the target, between 0 and 1.

    Raises:
        ValueError: no prompts, or a share outside of [0, 1).
    """
    scores = np.asarray(harmful, dtype=np.float64)
    value = threshold_at(scores, missed)
    rng = np.random.default_rng(seed)
    drawn = np.sort(scores[rng.integers(len(scores), size=(resamples, len(scores)))], axis=1)
    low, high = np.quantile([threshold_at(row, missed) for row in drawn], (0.025, 0.975))
    return Threshold(value, (float(low), float(high)), missed, len(scores))


@dataclass(frozen=True)
class Curves:
    """The whole trade-off: what every threshold does to harmful and to harmless prompts."""

    thresholds: Float[np.ndarray, "threshold"]
    """Falling; a score at or above one counts as harmful."""
    caught: Float[np.ndarray, "threshold"]
    """Share of harmful prompts at or above it: recall, and the true positive rate."""
    flagged: Float[np.ndarray, "threshold"]
    """Share of harmless prompts at or above it: the false positive rate."""
    precision: Float[np.ndarray, "threshold"]
    auc: float
    auc_interval: tuple[float, float]
    average_precision: float
    n: tuple[int, int]
    """Harmful and harmless prompts."""


def curves(harmful: Harmful, harmless: Harmless, *, resamples: int = RESAMPLES, seed: int = 0) -> Curves:
    """ROC and precision-recall, with the bootstrap interval of the area under the first.

    Raises:
        ValueError: a side without prompts.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

    sides = [np.asarray(side, dtype=np.float64) for side in (harmful, harmless)]
    if not all(map(len, sides)):
        raise ValueError(f"Curves need prompts of both sides; got {len(sides[0])} harmful and {len(sides[1])} others.")
    truth, scores = np.repeat([1, 0], [len(side) for side in sides]), np.concatenate(sides)
    flagged, caught, thresholds = roc_curve(truth, scores, drop_intermediate=False)
    called = caught * len(sides[0]) + flagged * len(sides[1])
    precision = np.divide(caught * len(sides[0]), called, out=np.ones_like(called), where=called > 0)
    rng = np.random.default_rng(seed)
    again = [
        roc_auc_score(truth, np.concatenate([side[rng.integers(len(side), size=len(side))] for side in sides]))
        for _ in range(resamples)
    ]
    low, high = np.quantile(again, (0.025, 0.975))
    return Curves(
        thresholds, caught, flagged, precision,
        float(roc_auc_score(truth, scores)), (float(low), float(high)),
        float(average_precision_score(truth, scores)), (len(sides[0]), len(sides[1])),
    )  # fmt: skip


@dataclass(frozen=True)
class Carried:
    """A threshold calibrated on one set's harmful prompts, and what it does on another set."""

    learned_on: str
    tried_on: str
    threshold: float
    missed: Rate | None
    """Harmful prompts taken for harmless; None where the set has none."""
    flagged: Rate | None
    """Harmless prompts taken for harmful; None where the set has none."""


def transfer(
    sides: Mapping[str, tuple[Float[np.ndarray, "_"], Float[np.ndarray, "_"]]], missed: float = 0.01
) -> list[Carried]:
    """Every set's own threshold tried on every set.

    A set's own prompts on the diagonal are those that its threshold was calibrated on.

    Args:
        sides: by name, scores of a set's harmful and of its harmless prompts; either may be empty.
        missed: the share of harmful prompts that a threshold may take for harmless.
    """
    found = []
    for one, (harmful, _) in sides.items():
        if not len(harmful):
            continue
        threshold = threshold_at(harmful, missed)
        for other, (bad, good) in sides.items():
            found.append(Carried(one, other, threshold, _rate(bad < threshold), _rate(good >= threshold)))
    return found


def _rate(outcomes: Sequence[bool] | np.ndarray) -> Rate | None:
    return Rate.of(bool(outcome) for outcome in outcomes) if len(outcomes) else None
