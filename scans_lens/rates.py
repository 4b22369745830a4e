"""Rates: a share of a number of prompts with its interval, and comparisons on the same prompts."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rate:
    """So many of so many, with the exact interval of Clopper and Pearson.

    >>> print(Rate(12, 250))
    4.8 % [2.5, 8.2] (12 of 250)
    """

    count: int
    total: int

    def __post_init__(self) -> None:
        if self.total < 1:
            raise ValueError("A rate of nothing is no rate: there are 0 prompts.")
        if not 0 <= self.count <= self.total:
            raise ValueError(f"{self.count} of {self.total} is no rate.")

    @classmethod
    def of(cls, outcomes: Iterable[bool]) -> Rate:
        """The share of outcomes that are true."""
        outcomes = [bool(outcome) for outcome in outcomes]
        return cls(sum(outcomes), len(outcomes))

    @property
    def value(self) -> float:
        return self.count / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval."""
        from scipy.stats import binomtest

        low, high = binomtest(self.count, self.total).proportion_ci(0.95, method="exact")
        return float(low), float(high)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}] ({self.count} of {self.total})"

    def as_json(self) -> dict[str, float | int | list[float]]:
        return {"count": self.count, "total": self.total, "value": self.value, "interval": list(self.interval)}


@dataclass(frozen=True)
class Clustered:
    """A share of prompts that come several to an item, with a bootstrap interval over the items."""

    rate: Rate
    items: int
    interval: tuple[float, float]
    """95 %, over resampled items; that of Clopper and Pearson where every prompt is an item of its own, and for as many
    items where all prompts agree."""

    @classmethod
    def of(
        cls, outcomes: Sequence[bool], items: Sequence[Hashable], *, resamples: int = 2000, seed: int = 0
    ) -> Clustered:
        """The share of outcomes that are true.

        Args:
            outcomes: one a prompt.
            items: what each prompt is about; prompts about one thing are resampled together.

        Raises:
            ValueError: no outcomes, or not one item for each.
        """
        if len(outcomes) != len(items):
            raise ValueError(f"Every outcome has its item; got {len(outcomes)} outcomes and {len(items)} items.")
        rate, about = Rate.of(outcomes), len(set(items))
        if about == rate.total:
            return cls(rate, about, rate.interval)
        if rate.count in (0, rate.total):
            return cls(rate, about, Rate(about if rate.count else 0, about).interval)
        return cls(rate, about, _over_items(outcomes, items, resamples, seed))

    @property
    def value(self) -> float:
        return self.rate.value

    def as_json(self) -> dict[str, float | int | list[float]]:
        return {**self.rate.as_json(), "interval": list(self.interval), "items": self.items}

    def __str__(self) -> str:
        low, high = (100 * edge for edge in self.interval)
        about = f"{self.rate.count} of {self.rate.total}, {self.items} items"
        return f"{100 * self.value:.1f} % [{low:.1f}, {high:.1f}] ({about})"


@dataclass(frozen=True)
class Paired:
    """Two ways on the same prompts: how many were true only one way, and McNemar's exact test."""

    only_first: int
    only_second: int
    total: int

    @classmethod
    def of(cls, first: Sequence[bool], second: Sequence[bool]) -> Paired:
        if len(first) != len(second):
            raise ValueError(f"Paired outcomes come in pairs; got {len(first)} and {len(second)}.")
        if not len(first):
            raise ValueError("A rate of nothing is no rate: there are 0 pairs.")
        pairs = list(zip(first, second, strict=True))
        return cls(sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs), len(pairs))

    @property
    def difference(self) -> float:
        """Rate of the second minus rate of the first."""
        return (self.only_second - self.only_first) / self.total

    @property
    def p(self) -> float:
        """Of McNemar's exact test, two-sided."""
        from scipy.stats import binomtest

        discordant = self.only_first + self.only_second
        return float(binomtest(self.only_first, discordant).pvalue) if discordant else 1.0


@dataclass(frozen=True)
class Change:
    """What a second way changes on the same prompts, which come several to an item: a difference of two shares."""

    difference: float
    """Share of the second minus share of the first."""
    total: int
    items: int
    interval: tuple[float, float]
    """95 %, over resampled items; where no prompt changes, as far either way as 0 of as many items leaves open."""

    @classmethod
    def of(
        cls,
        first: Sequence[bool],
        second: Sequence[bool],
        items: Sequence[Hashable],
        *,
        resamples: int = 2000,
        seed: int = 0,
    ) -> Change:
        """The change from the first to the second.

        Raises:
            ValueError: no outcomes, or not one of each and one item for every prompt.
        """
        if not len(first) == len(second) == len(items):
            raise ValueError(
                f"Paired outcomes come in pairs, each with its item; got {len(first)}, {len(second)} and {len(items)}."
            )
        if not len(first):
            raise ValueError("A rate of nothing is no rate: there are 0 pairs.")
        moved = [int(bool(b)) - int(bool(a)) for a, b in zip(first, second, strict=True)]
        about = len(set(items))
        if not any(moved):
            edge = Rate(0, about).interval[1]
            return cls(0.0, len(moved), about, (-edge, edge))
        return cls(sum(moved) / len(moved), len(moved), about, _over_items(moved, items, resamples, seed))

    def as_json(self) -> dict[str, float | int | list[float]]:
        return {
            "difference": self.difference,
            "total": self.total,
            "items": self.items,
            "interval": list(self.interval),
        }

    def __str__(self) -> str:
        low, high = (100 * edge for edge in self.interval)
        return f"{100 * self.difference:+.1f} points [{low:+.1f}, {high:+.1f}] ({self.total}, {self.items} items)"


@dataclass(frozen=True)
class Mean:
    """The mean of a number that every prompt has, with a bootstrap interval over the prompts."""

    value: float
    interval: tuple[float, float]
    """95 %."""
    total: int

    @classmethod
    def of(cls, values: Sequence[float], *, resamples: int = 2000, seed: int = 0) -> Mean:
        """The mean of the values, one a prompt.

        Raises:
            ValueError: no values.
        """
        if not len(values):
            raise ValueError("A mean of nothing is no mean: there are 0 values.")
        own = [float(value) for value in values]
        return cls(sum(own) / len(own), _over_items(own, range(len(own)), resamples, seed), len(own))

    def as_json(self) -> dict[str, float | int | list[float]]:
        return {"value": self.value, "interval": list(self.interval), "n": self.total}


def unbeaten(places: Mapping[str, Sequence[float]]) -> list[str]:
    """Of ways with a value on every axis, those that no other one betters on one without being worse on another.

    More is better on every axis; ways with equal values do not beat each other.
    """
    return [
        name
        for name, mine in places.items()
        if not any(
            tuple(other) != tuple(mine) and all(theirs >= own for theirs, own in zip(other, mine, strict=True))
            for other in places.values()
        )
    ]


def in_percent(rate: Mapping[str, Any]) -> str:
    """A rate of `as_json` as tables have it: 12.5 [7.2, 19.8]."""
    low, high = (100 * edge for edge in rate["interval"])
    return f"{100 * rate['value']:.1f} [{low:.1f}, {high:.1f}]"


def in_points(change: Mapping[str, Any]) -> str:
    """A change of `as_json` in points of share: -8.3 [-18.8, +1.0]."""
    low, high = (100 * edge for edge in change["interval"])
    return f"{100 * change['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"


def _over_items(
    values: Sequence[float | int], items: Sequence[Hashable], resamples: int, seed: int
) -> tuple[float, float]:
    """95 % interval of the mean of the values, by drawing items with replacement."""
    import numpy as np

    places = {item: place for place, item in enumerate(dict.fromkeys(items))}
    sums = np.zeros((len(places), 2))
    for value, item in zip(values, items, strict=True):
        sums[places[item]] += (value, 1)
    rng = np.random.default_rng(seed)
    drawn = sums[rng.integers(len(places), size=(resamples, len(places)))].sum(axis=1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number (Holm 1979)."""
    from statsmodels.stats.multitest import multipletests

    if not len(p_values):
        return []
    _, corrected, *_ = multipletests(p_values, method="holm")
    return [float(p) for p in corrected]  # type: ignore[union-attr]
