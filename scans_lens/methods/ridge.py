"""Ridge: a gate that weighted least squares learns from states of a few layers, and how far a prompt lies from them.

Harmful prompts are labelled +1 and others -1. Hoerl and Kennard: Ridge Regression. Technometrics 12 (1970).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scans_lens import artefacts
from scans_lens.artefacts import SITE, Use

PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Penalties (lambda) that are tried by leave-one-out error, for states whose mean square length is 1."""
NOVEL = 0.99
"""Quantile of the learning prompts' own variances, each without itself, above which a prompt is novel."""
NOTHING = 1e-7
"""Axes along which states spread by less than this share of the widest one hold nothing but rounding."""


@dataclass(frozen=True)
class RidgeGate:
    """A score of each prompt, +1 where harmful prompts lie and -1 where others do, and how novel the prompt is.

    With z = (x - means) / scales at `layers`, all in one row: score = z·w and variance = z'(Z'DZ + penalty)^-1 z +
    1 / total, where Z are the learning prompts and D their weights. The classes have equal weight and the means are
    weighted, so that the intercept is 0.
    """

    layers: tuple[int, ...]
    """Whose `resid_post` at the end of the prompt is read."""
    means: Float[Tensor, "read d_model"]
    scales: Float[Tensor, "read d_model"]
    """Standard deviations over the learning prompts times the root of how many numbers are read."""
    weights: Float[Tensor, "read d_model"]
    """w, one vector for each layer that is read."""
    axes: Float[Tensor, "axis read d_model"]
    """Principal axes of the learning prompts: across all layers together, each is of length 1."""
    squares: Float[Tensor, "axis"]
    """The learning prompts' sum of squares along each axis, weighted."""
    penalty: float
    total: float
    """Sum of the learning prompts' weights."""
    limit: float
    """The variance above which a prompt is novel."""

    # ── Acting ──

    def score(self, states: Float[Tensor, "prompt read d_model"]) -> Float[Tensor, "prompt"]:
        """The regression's value, in float64; states are those of `layers` in this order."""
        return self._standardised(states) @ self.weights.double().flatten()

    def variance(self, states: Float[Tensor, "prompt read d_model"]) -> Float[Tensor, "prompt"]:
        """The regression's predictive variance in units of its noise, in float64: large where little was learned."""
        z, axes = self._standardised(states), self.axes.double().flatten(1)
        along = z @ axes.T
        apart = ((z - along @ axes) ** 2).sum(dim=1) / self.penalty
        return 1 / self.total + (along**2 / (self.squares.double() + self.penalty)).sum(dim=1) + apart

    def novel(self, states: Float[Tensor, "prompt read d_model"]) -> Bool[Tensor, "prompt"]:
        """Whether a prompt lies farther out than nearly all that was learned from."""
        return self.variance(states) > self.limit

    def _standardised(self, states: Float[Tensor, "prompt read d_model"]) -> Float[Tensor, "prompt number"]:
        """On the CPU: float64 is not to be had on every device."""
        return ((states.cpu().double() - self.means.double()) / self.scales.double()).flatten(1)

    # ── Learning ──

    @classmethod
    def fit(
        cls,
        states: Float[Tensor, "prompt read d_model"],
        harmful: Bool[Tensor, "prompt"],
        shares: Float[Tensor, "prompt"],
        layers: Sequence[int],
    ) -> RidgeGate:
        """Learn a gate; the penalty is the one of the smallest weighted leave-one-out error.

        Args:
            states: of the learning prompts at `layers`.
            shares: what each prompt counts beside others of its class; the classes are then balanced.
        """
        importance = balanced(harmful, shares)
        flat = states.cpu().double().flatten(1)
        total = importance.sum()
        means = importance @ flat / total
        spreads = (importance @ (flat - means) ** 2 / total).sqrt()
        scales = torch.where(spreads > 0, spreads, 1.0) * math.sqrt(flat.shape[1])
        z = (flat - means) / scales
        u, s, axes = torch.linalg.svd(importance.sqrt()[:, None] * z, full_matrices=False)
        there = s > NOTHING * s.max()
        u, s, axes = u[:, there], s[there], axes[there]
        labels = torch.where(harmful, 1.0, -1.0).double()
        errors = [float(importance @ left_out_errors(u, s, importance, labels, penalty) ** 2) for penalty in PENALTIES]
        penalty = PENALTIES[errors.index(min(errors))]
        along = u.T @ (importance.sqrt() * labels)
        weights = (s / (s**2 + penalty) * along) @ axes
        shape = states.shape[1:]
        return cls(
            layers=tuple(int(layer) for layer in layers),
            means=means.reshape(shape).float(),
            scales=scales.reshape(shape).float(),
            weights=weights.reshape(shape).float(),
            axes=axes.reshape(-1, *shape).float(),
            squares=(s**2).float(),
            penalty=penalty,
            total=float(total),
            limit=float(left_out_variances(u, s, importance, penalty).quantile(NOVEL)),
        )

    # ── Keeping ──

    def uses(self, name: str) -> list[Use]:
        """How a prompt's score and variance are read, for the header of a file that has the gate under this name."""
        z = f"z = (x - {name}.means) / {name}.scales at the layers of {name}.layers in their order, all in one row"
        score = f"score = z . {name}.weights; {z}"
        variance = f"variance = 1 / {name}.total + sum over axes of (z . a)^2 / ({name}.squares + {name}.penalty) "
        variance += f"+ |z - sum over axes of (z . a) a|^2 / {name}.penalty, a = {name}.axes; {z}"
        where = (SITE, "the last token of the prompt, unsteered", self.layers)
        return [
            Use("read", *where, "1 is the label of harmful prompts, -1 that of others", score),
            Use("read", *where, f"squares of the regression's noise; above {name}.limit is novel", variance),
        ]

    def require_whole(self, n_layers: int, width: int) -> None:
        """Refuse parts that do not go together, or layers that the model does not have."""
        artefacts.require_layers("layers of the gate", self.layers, n_layers)
        shape = (len(self.layers), width)
        for part in ("means", "scales", "weights"):
            artefacts.require_shape(f"gate.{part}", getattr(self, part), shape)
        artefacts.require_shape("gate.axes", self.axes, (len(self.squares), *shape))

    def __str__(self) -> str:
        layers = ", ".join(map(str, self.layers))
        return f"ridge on the end of the prompt, layers {layers}, penalty {self.penalty:g}"


def balanced(harmful: Bool[Tensor, "prompt"], shares: Float[Tensor, "prompt"]) -> Float[Tensor, "prompt"]:
    """What each prompt counts: in proportion to its share, with both classes at half of the number of prompts."""
    shares = shares.double()
    sums = torch.where(harmful, shares[harmful].sum(), shares[~harmful].sum())
    return shares / sums * len(shares) / 2


def left_out_errors(
    u: Float[Tensor, "prompt axis"],
    s: Float[Tensor, "axis"],
    importance: Float[Tensor, "prompt"],
    labels: Float[Tensor, "prompt"],
    penalty: float,
) -> Float[Tensor, "prompt"]:
    """By how much each prompt is missed by the regression that is learned from the others alone, in closed form.

    The error of a prompt that was learned from, divided by 1 minus its leverage. Means, scales and weights of the
    others stay as they are; the regression without the prompt has an intercept of its own.

    Args:
        u, s: of the singular value decomposition of the standardised states, each times the root of its weight.
    """
    root = importance.sqrt()
    said = u @ (s**2 / (s**2 + penalty) * (u.T @ (root * labels))) / root
    return (labels - said) / (1 - leverages(u, s, importance, penalty))


def left_out_variances(
    u: Float[Tensor, "prompt axis"], s: Float[Tensor, "axis"], importance: Float[Tensor, "prompt"], penalty: float
) -> Float[Tensor, "prompt"]:
    """The predictive variance of each prompt under the regression that is learned from the others alone."""
    leverage = leverages(u, s, importance, penalty)
    return leverage / importance / (1 - leverage)


def leverages(
    u: Float[Tensor, "prompt axis"], s: Float[Tensor, "axis"], importance: Float[Tensor, "prompt"], penalty: float
) -> Float[Tensor, "prompt"]:
    """How much each prompt's own label moves what the regression says of it: its variance times its weight."""
    return importance / importance.sum() + u**2 @ (s**2 / (s**2 + penalty))
