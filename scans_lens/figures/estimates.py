"""Estimates: values with their intervals (AUC, average precision, F1), quantiles of draws and of prompts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

INSIDE = (0.025, 0.975)
"""Quantiles between which lie 95 % of the draws."""
BANDS = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Quantiles over prompts that are drawn as bands around a median."""
CURVE_POINTS = 150
"""Points of a curve that are kept."""


def resampled(states: Tensor, generator: torch.Generator) -> Tensor:
    """As many prompts as there are, drawn with replacement."""
    return states[torch.randint(len(states), (len(states),), generator=generator)]


def interval(draws: Float[Tensor, "draw layer"]) -> Float[Tensor, "layer 2"]:
    """95 % of the draws, at every layer."""
    return torch.quantile(draws.double(), torch.tensor(INSIDE, dtype=torch.float64), dim=0).T


def bands(values: Float[Tensor, "prompt layer"]) -> Float[Tensor, "quantile layer"]:
    """The quantiles of `BANDS` over prompts, at every layer."""
    return torch.quantile(values.double(), torch.tensor(BANDS, dtype=torch.float64), dim=0)


def rank_auc(yes: np.ndarray, no: np.ndarray) -> np.ndarray:
    """The chance that a harmful prompt lies above a harmless one, by column; ties count half."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([yes, no]), axis=0)[: len(yes)]
    return np.asarray((ranks.sum(0) - len(yes) * (len(yes) + 1) / 2) / (len(yes) * len(no)))


def auc(yes: Tensor, no: Tensor, rng: np.random.Generator, resamples: int) -> dict[str, Any]:
    """AUC with a bootstrap interval over the prompts of both sides, for every column there is."""
    a, b = yes.double().numpy(), no.double().numpy()
    again = [
        rank_auc(a[rng.integers(len(a), size=len(a))], b[rng.integers(len(b), size=len(b))]) for _ in range(resamples)
    ]
    inside = np.quantile(np.array(again), INSIDE, axis=0).T
    return {"value": rank_auc(a, b), "interval": inside, "n": [len(a), len(b)]}


def f1(
    yes: Bool[np.ndarray, "yes"], no: Bool[np.ndarray, "no"], rng: np.random.Generator, resamples: int
) -> dict[str, Any]:
    """F1 of what was taken for harmful on either side, with a bootstrap interval over the prompts of both."""

    def value(found: np.ndarray, false: np.ndarray) -> np.ndarray:
        return np.asarray(2 * found / (found + false + len(yes)))

    again = value(rng.binomial(len(yes), yes.mean(), resamples), rng.binomial(len(no), no.mean(), resamples))
    score = value(np.array(yes.sum()), np.array(no.sum()))
    return {"value": float(score), "interval": np.quantile(again, INSIDE), "n": len(yes) + len(no)}


def average_precision(yes: np.ndarray, no: np.ndarray, rng: np.random.Generator, resamples: int) -> dict[str, Any]:
    """Average precision of the scores of both sides, with a bootstrap interval over their prompts."""
    from sklearn.metrics import average_precision_score

    truth = np.repeat([1, 0], [len(yes), len(no)])
    again = [
        average_precision_score(truth, np.concatenate([rng.choice(yes, len(yes)), rng.choice(no, len(no))]))
        for _ in range(resamples)
    ]
    score = average_precision_score(truth, np.concatenate([yes, no]))
    return {"value": float(score), "interval": np.quantile(again, INSIDE)}


def kept_points(n: int) -> np.ndarray:
    """Which of a curve's points are kept: evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, n - 1, min(n, CURVE_POINTS)).round().astype(int))
