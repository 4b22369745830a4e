"""Rules: which share of its scale SCANS pushes a prompt with, and which way, from how far its score lies over T."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Sign:
    """All of it: towards refusal at or above the threshold, away from it below (eq. 5)."""

    def share(self, over: Float[Tensor, "row"]) -> Float[Tensor, "row"]:
        return torch.where(over >= 0, 1.0, -1.0)

    def formula(self, name: str = "rule") -> str:
        """The share as a file's header says it, of a rule that the file has under this name."""
        return "sign = 1 if score >= classifier.threshold else -1"

    def __str__(self) -> str:
        return ""


SIGN = Sign()


@dataclass(frozen=True)
class Continuous:
    """In proportion to how far a score lies from the threshold, and all of it from the width on; ours."""

    width: float

    def __post_init__(self) -> None:
        if not self.width > 0:
            raise ValueError(f"A width is above 0, not {self.width:g}.")

    def share(self, over: Float[Tensor, "row"]) -> Float[Tensor, "row"]:
        return (over / self.width).clamp(-1, 1)

    def formula(self, name: str = "rule") -> str:
        return f"sign = clip((score - classifier.threshold) / {name}.width, -1, 1)"

    def __str__(self) -> str:
        return f"width      {self.width:g}: a nearer score is pushed in proportion"


@dataclass(frozen=True)
class Band:
    """Nothing where a score lies nearer to the threshold than this, and beyond as another rule says; ours."""

    abstain: float
    beyond: Sign | Continuous = SIGN

    def share(self, over: Float[Tensor, "row"]) -> Float[Tensor, "row"]:
        return self.beyond.share(over) * (over.abs() >= self.abstain)

    def formula(self, name: str = "rule") -> str:
        beyond = self.beyond.formula(f"{name}.beyond")
        return f"{beyond}; sign = 0 where |score - classifier.threshold| < {name}.abstain"

    def __str__(self) -> str:
        said = f"abstain    where the score is nearer than {self.abstain:g} to it"
        return f"{said}\n  {self.beyond}" if str(self.beyond) else said


Rule = Sign | Continuous | Band
