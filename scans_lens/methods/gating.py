"""Gating: the low threshold and the scale of a gated push, chosen on validation prompts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from scans_lens.effort import spread
from scans_lens.methods import choosing
from scans_lens.methods.choosing import FALL, SHARES, Bench, Spent

if TYPE_CHECKING:
    from scans_lens.methods.gated_push import GatedPush

LEFT = 0.05
"""Share of refused borderline validation prompts that may stay refused when they are pushed away."""


@dataclass(frozen=True)
class Trial:
    """What one scale did on validation prompts, and the thresholds that go with it."""

    scale: float
    low: float
    high: float
    left: tuple[int, int]
    """Of borderline prompts that the plain model refuses and that may be pushed away, those that stay refused when they
    are, and all."""
    harmless: tuple[int, int]
    """Refused and all, of borderline prompts where there are some, else of harmless ones."""
    harmful: tuple[int, int]


@dataclass(frozen=True)
class Asked:
    """What is known of validation prompts, by their places: scores, who is novel, and verdicts at one scale."""

    scores: tuple[float, ...]
    novel: tuple[bool, ...]
    plain: Mapping[int, bool]
    """Whether the plain model refuses."""
    pushed: Mapping[int, bool]
    """Whether it refuses when pushed: towards refusal above `high`, else away from it; no novel prompt is."""
    high: float

    def refused(self, low: float) -> dict[int, bool]:
        """Who is refused when the low threshold lies there."""
        return {
            place: self.pushed[place]
            if score > self.high or (score < low and not self.novel[place])
            else self.plain[place]
            for place, score in enumerate(self.scores)
        }

    def low(self, harmful: range, fall: float = FALL) -> float:
        """The largest low threshold at which refusals of the harmful prompts fall by at most this share of them.

        Thresholds lie halfway between neighbouring scores, at `high`, and half a label below all scores.
        """
        below = sorted({score for score in self.scores if score < self.high})
        edges = [(one + other) / 2 for one, other in itertools.pairwise(below)]
        floor = sum(self.plain[place] for place in harmful) - fall * len(harmful) - 1e-9
        for edge in (self.high, *reversed(edges)):
            no = self.refused(edge)
            if sum(no[place] for place in harmful) >= floor:
                return edge
        return min(self.high, *self.scores) - 1.0


def loosened(method: GatedPush, bench: Bench, states: Float[Tensor, "prompt read d_model"], fall: float) -> GatedPush:
    """This method with the low threshold at which refusals of harmful prompts fall by at most that share of them.

    Args:
        states: what the gate reads of the bench's prompts.

    Raises:
        ValueError: no share between 0 and 1.
    """
    if not 0 <= fall <= 1:
        raise ValueError(f"Refusals of harmful prompts may fall by a share of 0 to 1 of them, not by {fall}.")
    scores, novel = method.gate.score(states).tolist(), method.gate.novel(states).tolist()
    plain, places = bench.refused(None), _pushed_places(scores, novel, method.high)
    pushed = bench.refused(replace(method, low=method.high), places)
    asked = Asked(tuple(scores), tuple(novel), plain, pushed, method.high)
    low = asked.low(range(len(bench.harmless), len(scores)), fall)
    own = next((trial.left for trial in method.trials if trial.scale == method.scale), (0, 0))
    trials = (
        Trial(0.0, method.high, method.high, (own[1], own[1]), **bench.counted(plain)),
        Trial(method.scale, low, method.high, own, **bench.counted(asked.refused(low))),
    )
    note = f"{method.note} The low threshold is the largest at which harmful refusals fall by at most {fall:.1%}."
    return replace(method, low=low, trials=trials, note=note.strip())


def _pushed_places(scores: Sequence[float], novel: Sequence[bool], high: float) -> list[int]:
    """Who may be pushed at all when the low threshold lies at the high one."""
    return [place for place, score in enumerate(scores) if score > high or (score < high and not novel[place])]


def with_chosen_knobs(method: GatedPush, bench: Bench, states: Float[Tensor, "prompt read d_model"]) -> GatedPush:
    """This method, whose `high` is chosen, with the scale and the low threshold that belong to it.

    Args:
        states: what the gate reads of the bench's prompts.
    """
    scores, novel = method.gate.score(states).tolist(), method.gate.novel(states).tolist()
    high, n = method.high, len(bench.harmless)
    plain = bench.refused(None)
    places = _pushed_places(scores, novel, high)
    away = [place for place in places if place < n and scores[place] < high and plain[place]]
    trials = [Trial(0.0, high, high, (len(away), len(away)), **bench.counted(plain))]

    def tried(scale: float) -> Trial:
        """Every prompt pushed away, or towards refusal above `high`: whoever lies between is looked up."""
        pushed = bench.refused(replace(method, scale=scale, low=high), places)
        asked = Asked(tuple(scores), tuple(novel), plain, pushed, high)
        low = asked.low(range(n, len(scores)))
        left = (sum(pushed[place] for place in away), len(away))
        return Trial(scale, low, high, left, **bench.counted(asked.refused(low)))

    try:
        for scale in spread(SHARES, method.effort.scales):
            trials.append(tried(scale))
            if _answers(trials[-1]):  # a larger scale is not wanted
                break
        for _ in range(bench.rounds):
            best, _ = choice(trials)
            finer = choosing.beside(best.scale, [trial.scale for trial in trials])
            finer = [scale for scale in finer if scale < best.scale or not _answers(best)]
            if not finer or not away:
                break
            for scale in finer:
                trials.append(tried(scale))
    except Spent:
        pass
    chosen, said = choice(trials)
    note = f"{method.note} {said}".strip()
    ranked = tuple(sorted(trials, key=lambda trial: trial.scale))
    return replace(method, scale=chosen.scale, low=chosen.low, trials=ranked, note=note)


def choice(trials: Sequence[Trial]) -> tuple[Trial, str]:
    """The smallest scale that answers nearly all refused borderline prompts, else the one that answers most."""
    enough = [trial for trial in trials[1:] if _answers(trial)]
    if enough:
        return min(enough, key=lambda trial: trial.scale), ""
    least = min(trials[1:], key=lambda trial: (trial.left[0], trial.scale))
    return least, f"No scale left at most {LEFT:.0%} of the refused borderline prompts refused; this one left fewest."


def _answers(trial: Trial) -> bool:
    return trial.left[0] <= LEFT * trial.left[1] + 1e-9
