"""Choosing: a method's knobs looked for on validation prompts, by the rule of `SCANS.fit`.

Of the settings that were tried, that one is taken which leaves the fewest borderline prompts refused while refusals of
harmful ones fall by at most one and a half points of share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypedDict, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from scans_lens import judges
from scans_lens.directions import Directions, Origin, origin_of
from scans_lens.generation import replies
from scans_lens.judges import Judge
from scans_lens.methods.scans import BROKEN, FALL, VALIDATION_TOKENS
from scans_lens.model import Model
from scans_lens.prompts import Contrast
from scans_lens.rates import Rate
from scans_lens.steering import Method

ROUNDS = 2
"""How often the scales halfway to the best one's neighbours are tried, too (halfway in ratio)."""


class Counts(TypedDict):
    """Refused and all, of either side."""

    harmless: tuple[int, int]
    harmful: tuple[int, int]


@runtime_checkable
class Tried(Protocol):
    """What a trial must tell to be compared with others: its signed scale, + towards refusal, and its counts."""

    @property
    def scale(self) -> float: ...
    @property
    def harmless(self) -> tuple[int, int]: ...
    @property
    def harmful(self) -> tuple[int, int]: ...


Trial = TypeVar("Trial", bound=Tried)


@dataclass(frozen=True)
class Bench:
    """Validation prompts, and who judges the replies to them."""

    model: Model
    harmless: tuple[str, ...]
    """Borderline prompts where there are some."""
    harmful: tuple[str, ...]
    judge: Judge
    tokens: int
    batch_size: int | None

    @classmethod
    def of(cls, model: Model, validation: Contrast, judge: Judge, batch_size: int | None) -> Bench:
        tokens = min(VALIDATION_TOKENS, judges.SETTLED) if judge is judges.bundled else VALIDATION_TOKENS
        others = validation.borderline or validation.harmless
        return cls(model, others, validation.harmful, judge, tokens, batch_size)

    @property
    def asked(self) -> tuple[str, ...]:
        return (*self.harmless, *self.harmful)

    def refused(self, method: Method | None, places: Sequence[int] | None = None) -> dict[int, bool]:
        """By place in `asked`, whether the prompt is refused under the method."""
        places = range(len(self.asked)) if places is None else places
        own = [self.asked[place] for place in places]
        if not own:
            return {}
        said = replies(
            self.model, own, method=method, max_new_tokens=self.tokens, batch_size=self.batch_size, progress=False
        )
        return dict(zip(places, judges.refused(self.judge, said), strict=True))

    def counted(self, refused: dict[int, bool]) -> Counts:
        n = len(self.harmless)
        no = [refused[place] for place in range(len(self.asked))]
        return {"harmless": (sum(no[:n]), n), "harmful": (sum(no[n:]), len(no) - n)}

    def counts(self, method: Method | None) -> Counts:
        return self.counted(self.refused(method))


def best(trials: Sequence[Trial]) -> tuple[Trial, str]:
    """The trial with the fewest refusals of harmless prompts among those that keep harmful ones refused, and a note.

    The first trial is the plain model, from which the fall is counted. Ties go to the smaller push.
    """
    plain, tried = trials[0], trials[1:]
    floor = Rate(*plain.harmful).value - FALL
    kept = [trial for trial in tried if Rate(*trial.harmful).value >= floor - 1e-9]
    if not kept:
        least = max(tried, key=lambda trial: (trial.harmful[0], -trial.harmless[0], -abs(trial.scale)))
        return least, "Everywhere harmful refusals fell by more than 1.5 points; the knobs are where they fell least."
    return min(kept, key=lambda trial: (trial.harmless[0], abs(trial.scale))), ""


def outward(scales: Sequence[float], tried: Callable[[float], Trial], plain: Trial) -> list[Trial]:
    """Trials at these scales, from small to large, until one is broken.

    It is where it loses more than a tenth of the harmful refusals, or refuses a tenth more of the harmless prompts:
    no such scale can be chosen, and larger ones do worse.
    """
    found = []
    for scale in scales:
        found.append(one := tried(scale))
        lost = plain.harmful[0] - one.harmful[0] > BROKEN * plain.harmful[1]
        if lost or one.harmless[0] - plain.harmless[0] > BROKEN * plain.harmless[1]:
            break
    return found


def refined(
    trials: Sequence[Trial],
    tried: Callable[[float], Trial],
    rounds: int,
    chosen: Callable[[Sequence[Trial]], Trial] = lambda trials: best(trials)[0],
) -> list[Trial]:
    """These trials and those halfway, in ratio, from the chosen scale to its neighbours of the same sign."""
    known = list(trials)
    for _ in range(rounds):
        centre = chosen(known).scale
        sign, sizes = math.copysign(1.0, centre), sorted({abs(one.scale) for one in known if one.scale * centre > 0})
        place = sizes.index(abs(centre))
        ends = [sizes[place - 1] if place else sizes[0] / 4, *sizes[place + 1 : place + 2]]
        finer = {sign * float(f"{math.sqrt(end * abs(centre)):.2g}") for end in ends}
        known += [tried(scale) for scale in sorted(finer - {one.scale for one in known})]
    return sorted(known, key=lambda trial: trial.scale != 0)  # the plain model first, the others as they were tried


# ── Principal directions of pairs ────────────────────────────────────────────────────────────────────────────


def pairs_of(contrast: Contrast, method: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Harmful and harmless prompts side by side, as many as the shorter side has.

    Raises:
        ValueError: fewer than two pairs.
    """
    n = min(len(contrast.harmful), len(contrast.harmless))
    if n < 2:
        raise ValueError(f"{method} learns from pairs of prompts and needs two at least; {contrast.name!r} has {n}.")
    return contrast.harmful[:n], contrast.harmless[:n]


def principal(
    rows: Float[Tensor, "row layer d_model"],
    harmful: Float[Tensor, "pair layer d_model"],
    harmless: Float[Tensor, "pair layer d_model"],
) -> Float[Tensor, "layer d_model"]:
    """The first principal component of the rows at every layer, of length 1, turned from harmless to harmful.

    The rows are taken as they are: who wants them centred, centres them. The sign is that on which more of the pairs
    agree, the harmful prompt's state lying further along than the harmless one's; a draw is settled by the means.
    """
    found = []
    for layer in range(rows.shape[1]):
        _, _, axes = torch.linalg.svd(rows[:, layer].double(), full_matrices=False)
        apart = (harmful[:, layer] - harmless[:, layer]).double() @ axes[0]
        votes = float(apart.sign().sum()) or float(apart.mean())
        found.append(axes[0] if votes >= 0 else -axes[0])
    return torch.stack(found).float()


def directions_along(
    model: Model,
    contrast: Contrast,
    vectors: Float[Tensor, "layer d_model"],
    harmful: Float[Tensor, "pair layer d_model"],
    harmless: Float[Tensor, "pair layer d_model"],
) -> Directions:
    """Vectors as they are, with the mean norms of the pairs' states and where they came from."""
    norms = torch.cat([harmful, harmless]).norm(dim=-1).mean(dim=0)
    n = len(harmful)
    origin: Origin = replace(origin_of(model, contrast), n_harmful=n, n_harmless=n)
    return Directions(vectors, norms, origin)


def require_parts(path: str | Path, tensors: Mapping[str, Tensor], names: Collection[str]) -> None:
    """Refuse a file that lacks tensors or has others."""
    if set(tensors) != set(names):
        raise ValueError(
            f"{str(path)!r} should hold {', '.join(sorted(names))}, and holds {', '.join(sorted(tensors))}."
        )


def trial_from(kind: Callable[..., Any], header: dict[str, Any]) -> Any:
    """A trial as a JSON header has it: its lists are tuples again."""
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in header.items()})
