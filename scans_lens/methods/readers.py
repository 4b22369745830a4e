"""Readers: what SCANS reads of a prompt to tell harm by, at every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from scans_lens.chat import OPENING
from scans_lens.flight import Flight
from scans_lens.model import after_final_norm


@dataclass(frozen=True)
class Transitions:
    """How the state at the end of the prompt moves when the reply begins with "Sure" (eq. 2)."""

    normed: bool = False
    """Whether the last layer is read after the final norm, as the release does."""

    def read(self, flight: Flight) -> Float[Tensor, "row layer d_model"]:
        if not self.normed:
            return flight.transitions()
        return after_final_norm(flight.model, flight.residuals()) - after_final_norm(flight.model, flight.opened())

    @property
    def formula(self) -> str:
        """What is compared of x, the state at `positions`, for a file's header."""
        return "x"

    @property
    def positions(self) -> str:
        """In words, for a file's header."""
        return f"the last token of the prompt, minus the last token of {OPENING!r} when the reply begins with it"

    def __str__(self) -> str:
        return "transitions"


@dataclass(frozen=True)
class InstructionEnd:
    """The state at the last token of the user's own words (see `variants.at_instruction`)."""

    normed: bool = False
    """Whether the last layer is read after the final norm."""

    def read(self, flight: Flight) -> Float[Tensor, "row layer d_model"]:
        states = flight.instructed()
        return after_final_norm(flight.model, states) if self.normed else states

    @property
    def formula(self) -> str:
        """What is compared of x, the state at `positions`, for a file's header."""
        return "x"

    @property
    def positions(self) -> str:
        """In words, for a file's header."""
        return "the last token of the user's own words"

    def __str__(self) -> str:
        return "states at the end of the instruction"


@dataclass(frozen=True)
class Centred:
    """What another reader reads, minus what harmful and harmless prompts share."""

    reader: Transitions | InstructionEnd
    centre: Float[Tensor, "layer d_model"]
    """Halfway between the means of harmful and of harmless anchors."""

    @classmethod
    def between(
        cls,
        reader: Transitions | InstructionEnd,
        harmful: Float[Tensor, "harmful layer d_model"],
        harmless: Float[Tensor, "harmless layer d_model"],
    ) -> Centred:
        """Centred between the two sides, as the reader reads them."""
        middle = (harmful.double().mean(dim=0) + harmless.double().mean(dim=0)) / 2
        return cls(reader, middle.float())

    def read(self, flight: Flight) -> Float[Tensor, "row layer d_model"]:
        return self.of(self.reader.read(flight))

    def of(self, states: Float[Tensor, "row layer d_model"]) -> Float[Tensor, "row layer d_model"]:
        """What the inner reader read, minus the centre."""
        return states.float() - self.centre.to(states.device)

    @property
    def normed(self) -> bool:
        return self.reader.normed

    @property
    def formula(self) -> str:
        return f"{self.reader.formula} - reader.centre[layer]"

    @property
    def positions(self) -> str:
        return self.reader.positions

    def __str__(self) -> str:
        return f"{self.reader}, centred"


Reader = Transitions | InstructionEnd | Centred

TRANSITIONS = Transitions()


def either_way(
    flight: Flight, reader: Transitions | InstructionEnd = TRANSITIONS
) -> Float[Tensor, "row layer_and_one d_model"]:
    """What is read of all layers, and behind them the last layer's once more, after the final norm."""
    plain, normed = (replace(reader, normed=each).read(flight) for each in (False, True))
    return torch.cat([plain, normed[:, -1:]], dim=1)


def one_way(read: Sequence[Tensor], reader: Reader) -> list[Tensor]:
    """What `either_way` gave, as this reader has it: [prompt layer d_model]."""
    states = [torch.cat([t[:, :-2], t[:, -1:]], dim=1) if reader.normed else t[:, :-1] for t in read]
    return [reader.of(t) for t in states] if isinstance(reader, Centred) else states
