"""Gating: both thresholds and the scale of a gated push, chosen on validation prompts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from jaxtyping import Float
from torch import Tensor

from scans_lens.effort import spread
from scans_lens.methods import choosing
from scans_lens.methods.choosing import FALL, SHARES, Bench, Spent

if TYPE_CHECKING:
    from scans_lens.methods.gated_push import GatedPush
    from scans_lens.methods.ridge import RidgeGate

States: TypeAlias = Float[Tensor, "prompt read d_model"]
HIGHS = (0.9, 0.95, 0.98)
"""Quantiles of the scores of harmless and borderline validation prompts, of which one is the high threshold."""
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


@dataclass(frozen=True)
class Marks:
    """What the gate makes of validation prompts, by their places on the bench; high thresholds to choose from."""

    scores: tuple[float, ...]
    novel: tuple[bool, ...]
    highs: tuple[float, ...]
    """Ascending."""

    @classmethod
    def of(cls, gate: RidgeGate, states: States, spared: Float[Tensor, "prompt"]) -> Marks:
        """Of the bench's prompts by their states, and of the scores of harmless and borderline ones.

        Args:
            spared: scores of prompts of which hardly any should be pushed towards refusal.
        """
        highs = sorted({float(spared.quantile(share)) for share in HIGHS})
        return cls(tuple(gate.score(states).tolist()), tuple(gate.novel(states).tolist()), tuple(highs))

    @property
    def above(self) -> list[int]:
        """Who lies above the highest threshold."""
        return [place for place, score in enumerate(self.scores) if score > self.highs[-1]]

    @property
    def between(self) -> list[int]:
        """Who lies above one of the high thresholds and not above another."""
        return [place for place, score in enumerate(self.scores) if self.highs[0] < score <= self.highs[-1]]

    @property
    def below(self) -> list[int]:
        """Who may be pushed away from refusal, whatever the thresholds are."""
        return [place for place, score in enumerate(self.scores) if score <= self.highs[-1] and not self.novel[place]]


def with_chosen_knobs(method: GatedPush, bench: Bench, marks: Marks) -> GatedPush:
    """This method with the scale and both thresholds that belong to it.

    The scale comes first, with the highest of the high thresholds; then both thresholds are chosen together.
    """
    n, high = len(bench.harmless), marks.highs[-1]
    plain = bench.refused(None)
    left = [place for place in marks.below if place < n and plain[place]]
    trials = [Trial(0.0, high, high, (len(left), len(left)), **bench.counted(plain))]
    away: dict[float, dict[int, bool]] = {}
    towards: dict[float, dict[int, bool]] = {}

    def tried(scale: float) -> Trial:
        """Everybody pushed away, or towards refusal above the highest threshold: who lies between is looked up."""
        if len(marks.below) + len(marks.above) > bench.left:
            raise Spent
        away[scale] = bench.refused(replace(method.push, scale=-scale), marks.below)
        towards[scale] = bench.refused(replace(method.push, scale=scale), marks.above)
        asked = Asked(marks.scores, marks.novel, plain, {**away[scale], **towards[scale]}, high)
        low = asked.low(range(n, len(marks.scores)))
        answered = (sum(away[scale][place] for place in left), len(left))
        return Trial(scale, low, high, answered, **bench.counted(asked.refused(low)))

    try:
        for scale in spread(SHARES, method.effort.scales):
            trials.append(tried(scale))
            if _answers(trials[-1]):  # a larger scale is not wanted
                break
        for _ in range(bench.rounds):
            best, _ = choice(trials)
            finer = choosing.beside(best.scale, [trial.scale for trial in trials])
            finer = [scale for scale in finer if scale < best.scale or not _answers(best)]
            if not finer or not left:
                break
            for scale in finer:
                trials.append(tried(scale))
    except Spent:
        pass
    chosen, said = choice(trials)
    if len(marks.between) <= bench.left:
        scale = chosen.scale
        towards[scale] |= bench.refused(replace(method.push, scale=scale), marks.between)
        better = together(bench, marks, plain, away[scale], towards[scale], chosen)
        trials[trials.index(chosen)] = chosen = better
    note = f"{method.note} {said}".strip()
    ranked = tuple(sorted(trials, key=lambda trial: trial.scale))
    return replace(method, scale=chosen.scale, low=chosen.low, high=chosen.high, trials=ranked, note=note)


def loosened(method: GatedPush, bench: Bench, marks: Marks, fall: float) -> GatedPush:
    """This method with thresholds at which refusals of harmful prompts may fall by that share of them.

    Raises:
        ValueError: no share between 0 and 1.
    """
    if not 0 <= fall <= 1:
        raise ValueError(f"Refusals of harmful prompts may fall by a share of 0 to 1 of them, not by {fall}.")
    plain = bench.refused(None)
    away = bench.refused(replace(method.push, scale=-method.scale), marks.below)
    towards = bench.refused(method.push, [*marks.between, *marks.above])
    before = method.chosen or Trial(method.scale, method.low, method.high, (0, 0), (0, 0), (0, 0))
    chosen = together(bench, marks, plain, away, towards, before, fall)
    first = Trial(0.0, marks.highs[-1], marks.highs[-1], (before.left[1], before.left[1]), **bench.counted(plain))
    note = f"{method.note} Refusals of harmful validation prompts may fall by {fall:.1%} of these prompts."
    return replace(method, low=chosen.low, high=chosen.high, trials=(first, chosen), note=note.strip())


def together(
    bench: Bench,
    marks: Marks,
    plain: Mapping[int, bool],
    away: Mapping[int, bool],
    towards: Mapping[int, bool],
    before: Trial,
    fall: float = FALL,
) -> Trial:
    """The trial of this scale with the pair of thresholds that leaves the fewest borderline prompts refused.

    For every high threshold the low one is the largest at which refusals of harmful prompts fall by at most that share
    of them. Among equals the highest is taken, which pushes the fewest prompts; where refusals fall by more with every
    pair, since the push towards refusal itself loses some, that is taken which loses the fewest.
    """
    n = len(bench.harmless)
    found = []
    for high in reversed(marks.highs):
        over = {place: refused for place, refused in towards.items() if marks.scores[place] > high}
        asked = Asked(marks.scores, marks.novel, plain, {**away, **over}, high)
        low = asked.low(range(n, len(marks.scores)), fall)
        found.append(replace(before, low=low, high=high, **bench.counted(asked.refused(low))))
    floor = sum(plain[place] for place in range(n, len(marks.scores))) - fall * (len(marks.scores) - n) - 1e-9
    kept = [trial for trial in found if trial.harmful[0] >= floor] or [max(found, key=lambda trial: trial.harmful[0])]
    return min(kept, key=lambda trial: trial.harmless[0])


def choice(trials: Sequence[Trial]) -> tuple[Trial, str]:
    """The smallest scale that answers nearly all refused borderline prompts, else the one that answers most."""
    enough = [trial for trial in trials[1:] if _answers(trial)]
    if enough:
        return min(enough, key=lambda trial: trial.scale), ""
    least = min(trials[1:], key=lambda trial: (trial.left[0], trial.scale))
    return least, f"No scale left at most {LEFT:.0%} of the refused borderline prompts refused; this one left fewest."


def _answers(trial: Trial) -> bool:
    return trial.left[0] <= LEFT * trial.left[1] + 1e-9
