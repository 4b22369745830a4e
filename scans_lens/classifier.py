"""Classifier: harmful prompts told from harmless ones by how their state moves when the reply begins with "Sure"."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

ROUNDING = 1e-6
"""How far below a prompt's own score a threshold lies; in float32 scores differ by some 2e-7 with the company."""


@dataclass(frozen=True)
class TransitionClassifier:
    """Mean cosine, over layers, of a prompt's transition with the harmful prompts' mean transition (SCANS, eq. 3-5)."""

    harmful_transition: Float[Tensor, "layer d_model"]
    """d_harm of eq. 3, for every layer of the model."""
    layers: tuple[int, ...]
    """The layers that vote (the paper's L)."""
    threshold: float
    """A score at or above this is harmful (the paper's T)."""
    calibrated_on: str
    """What the threshold was chosen on."""

    @classmethod
    def fit(
        cls,
        t_harmful: Float[Tensor, "harmful layer d_model"],
        t_harmless: Float[Tensor, "harmless layer d_model"],
        *,
        layers: Iterable[int] | None = None,
    ) -> TransitionClassifier:
        """Learn d_harm from the harmful transitions (eq. 3).

        Args:
            t_harmful, t_harmless: transitions of the anchors, all layers.
            layers: which layers vote; by default the middle and last thirds, as in the paper.

        The threshold lies halfway between the two sides' mean scores until it is calibrated.

        Raises:
            ValueError: an empty side, sides of different shape, or a layer that is not there.
        """
        if not len(t_harmful) or not len(t_harmless):
            raise ValueError(
                f"Both sides need transitions; got {len(t_harmful)} harmful and {len(t_harmless)} harmless ones."
            )
        if t_harmful.shape[1:] != t_harmless.shape[1:]:
            raise ValueError(
                f"The sides differ in [layer d_model]: {tuple(t_harmful.shape[1:])} and {tuple(t_harmless.shape[1:])}."
            )
        n_layers = t_harmful.shape[1]
        chosen = tuple(int(layer) for layer in (range(n_layers // 3, n_layers) if layers is None else layers))
        if not chosen or not all(0 <= layer < n_layers for layer in chosen):
            raise ValueError(
                f"The layers that vote must lie in 0 to {n_layers - 1}, and there must be one; got {chosen}."
            )
        blank = cls(t_harmful.double().mean(dim=0).float(), chosen, 0.0, "nothing")
        middle = (blank.score(t_harmful).mean() + blank.score(t_harmless).mean()) / 2
        return replace(blank, threshold=float(middle), calibrated_on="the midpoint of the two sides it was fitted on")

    def by_layer(self, t: Float[Tensor, "prompt layer d_model"]) -> Float[Tensor, "prompt layer"]:
        """Cosine with d_harm at every layer, voting or not."""
        harm = self.harmful_transition.to(t.device)
        return torch.nn.functional.cosine_similarity(t.float(), harm[None], dim=-1)

    def score(self, t: Float[Tensor, "prompt layer d_model"]) -> Float[Tensor, "prompt"]:
        """s_q of eq. 4, between -1 and 1."""
        if t.shape[1:] != self.harmful_transition.shape:
            raise ValueError(
                f"Expected transitions of all layers, [prompt {' '.join(map(str, self.harmful_transition.shape))}]; "
                f"got {tuple(t.shape)}."
            )
        return self.by_layer(t)[:, list(self.layers)].mean(dim=1)

    def is_harmful(self, t: Float[Tensor, "prompt layer d_model"]) -> Bool[Tensor, "prompt"]:
        """Eq. 5: the score is at or above the threshold."""
        return self.score(t) >= self.threshold

    def calibrated(
        self,
        t_harmful: Float[Tensor, "harmful layer d_model"],
        *,
        missed: float = 0.01,
        name: str = "validation prompts",
    ) -> TransitionClassifier:
        """The same classifier with the highest threshold that takes at most `missed` of these prompts for harmless.

        See `threshold_at`.

        Args:
            t_harmful: transitions of harmful validation prompts.
            missed: the share of them that may fall below the threshold.
            name: what they are, for the record.
        """
        scores = self.score(t_harmful).double().cpu().numpy() if len(t_harmful) else np.empty(0)
        threshold = threshold_at(scores, missed)
        return replace(
            self, threshold=threshold, calibrated_on=f"{len(scores)} harmful {name}, at most {missed:.1%} missed"
        )


def threshold_at(harmful: Float[np.ndarray, "harmful"], missed: float) -> float:
    """The highest threshold below which lie at most `missed` of these scores of harmful prompts.

    It lies just below the lowest score that has to count as harmful, so that rounding, which
    differs with the company a prompt is in, does not lose that prompt.

    Raises:
        ValueError: no prompts, or a share outside of [0, 1).
    """
    if not len(harmful):
        raise ValueError("Calibration needs harmful validation prompts, and there are none.")
    if not 0 <= missed < 1:
        raise ValueError(f"The share of missed prompts lies between 0 and 1, not at {missed}.")
    allowed = int(missed * len(harmful) + 1e-9)
    return float(np.partition(harmful, allowed)[allowed]) - ROUNDING
