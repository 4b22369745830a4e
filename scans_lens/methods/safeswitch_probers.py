"""SafeSwitch's probers: what prompts leave behind, what becomes of them, and what is learned from both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scans_lens.errors import Refused
from scans_lens.flight import Flight
from scans_lens.generation import replies
from scans_lens.judges import Judge, Verdict
from scans_lens.methods.choosing import reply_tokens
from scans_lens.model import Model, after_final_norm
from scans_lens.prober import Prober, Quality
from scans_lens.prompts import Contrast
from scans_lens.steering import Method, Rows

Stages = Literal["two", "direct", "instruction"]

ROUNDING = 1e-6
"""How far above a prompt's own score a threshold lies; in float32 scores differ a little with the company."""


@dataclass(frozen=True)
class Heard:
    """What prompts left behind at the two places, and what became of them."""

    first: Float[Tensor, "prompt d_model"]
    second: Float[Tensor, "prompt d_model"] | None
    sides: tuple[str, ...]
    complied: Bool[Tensor, "prompt"]

    def side(self, name: str) -> Bool[Tensor, "prompt"]:
        return torch.tensor([one == name for one in self.sides], dtype=torch.bool)

    @property
    def harmful(self) -> Bool[Tensor, "prompt"]:
        return self.side("harmful")


def read(flight: Flight, layer: int | None, ahead: int | None) -> tuple[Tensor, Tensor | None]:
    """States at the end of the prompt and, where asked, after so many tokens, of one layer: [row d_model] each."""

    def at(states: Tensor) -> Tensor:
        return after_final_norm(flight.model, states[:, -1:])[:, -1] if layer is None else states[:, layer]

    return at(flight.residuals()), None if ahead is None else at(flight.ahead(ahead))


@dataclass(frozen=True)
class Listener(Method):
    """A method that steers nothing and decides what it read, so that replies and states take one prefill."""

    layer: int | None
    ahead: int | None

    def decide(self, flight: Flight) -> Rows:
        first, second = read(flight, self.layer, self.ahead)
        return {"first": first} if second is None else {"first": first, "second": second}


def complied(judge: Judge, said: Sequence[str]) -> list[bool]:
    """Whether each reply does what was asked, in whole or in part; a broken one does not."""
    does: tuple[Verdict, ...] = ("answered", "partial")
    return [verdict in does for verdict in judge(said)]


def heard(
    model: Model,
    contrast: Contrast,
    judge: Judge,
    ahead: int | None,
    layer: int | None,
    batch_size: int | None,
    progress: bool,
) -> Heard:
    named = {name: getattr(contrast, name) for name in ("harmless", "borderline", "harmful")}
    asked = [prompt for own in named.values() for prompt in own]
    listener = Listener(layer, ahead)
    how = {"max_new_tokens": reply_tokens(judge), "batch_size": batch_size, "progress": progress}
    said = replies(model, asked, method=listener, **how)
    states = said.decisions
    sides = tuple(name for name, own in named.items() for _ in own)
    return Heard(states["first"], states.get("second"), sides, torch.tensor(complied(judge, said), dtype=torch.bool))


def require_complied(heard: Heard, what_for: str, needed: int, stages: Stages) -> None:
    harmful = heard.harmful
    found = int((harmful & heard.complied).sum())
    if found >= needed:
        return
    wanted = "A second stage" if stages == "two" else "A direct prober"
    raise Refused(
        f"{wanted} needs at least {needed} harmful prompts that the model complies with {what_for}, and of "
        f"{int(harmful.sum())} it complied with {found}. Give harmful prompts that it complies with, jailbreaks among "
        'them, or ask for stages="instruction", which switches on harmful prompts whatever the model would do.'
    )


def probers_of(
    learned: Heard, held: Heard, stages: Stages, hidden: int, seed: int
) -> tuple[Prober, Prober | None, tuple[Quality, ...]]:
    """The probers, and how well they and straight lines in their place do on the held-out prompts."""

    def answers(heard: Heard) -> Tensor:
        return heard.harmful & heard.complied if stages == "direct" else heard.harmful

    def both(
        question: str, at: Literal["first", "second"], yes: Tensor, held_yes: Tensor
    ) -> tuple[Prober, list[Quality]]:
        states, others = getattr(learned, at), getattr(held, at)
        fits = {
            width: Prober.fit(question, states, yes, others, held_yes, hidden=width, seed=seed) for width in {hidden, 0}
        }
        kinds = [(0, "straight line")] if not hidden else [(hidden, "network"), (0, "straight line")]
        return fits[hidden], [fits[w].quality(others, held_yes, f"{question} ({name})") for w, name in kinds]

    question = "harmful and complied" if stages == "direct" else "harmful"
    first, found = both(question, "first", answers(learned), answers(held))
    if stages != "two":
        return first, None, tuple(found)
    second, more = both("complied", "second", learned.complied, held.complied)
    return first, second, (*found, *more)


def threshold_above(scores: Sequence[Tensor], share: float) -> float:
    """The smallest threshold above which lie at most this share of each of several sides' scores.

    It lies just above the highest score that must not switch, so that rounding does not switch that prompt.
    """
    found = [0.0]
    for own in scores:
        if len(own):
            allowed = int(share * len(own) + 1e-9)
            found.append(float(own.sort(descending=True).values[min(allowed, len(own) - 1)]) + ROUNDING)
    return max(found)
