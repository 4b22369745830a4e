"""Timing: contenders take turns, so that what the machine does besides hits all of them alike."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Times:
    """Seconds of one contender, a round each."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def as_json(self) -> dict[str, Any]:
        return {"median": self.median, "rounds": list(self.seconds)}


def in_turns(contenders: Mapping[str, Callable[[], object]], rounds: int, warm: bool = True) -> dict[str, Times]:
    """Each contender once a round, in an order that turns from round to round."""
    if warm:
        for run in contenders.values():
            run()
    names, taken = list(contenders), {name: [] for name in contenders}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            gc.collect()
            start = time.perf_counter()
            contenders[name]()
            taken[name].append(time.perf_counter() - start)
    return {name: Times(tuple(own)) for name, own in taken.items()}


def ratio(times: Mapping[str, Times], ours: str, other: str) -> dict[str, Any]:
    """How many times as fast as the other: the median over rounds of the ratio within a round, with its range."""
    each = [b / a for a, b in zip(times[ours].seconds, times[other].seconds, strict=True)]
    return {"median": statistics.median(each), "lowest": min(each), "highest": max(each), "rounds": len(each)}


@dataclass(frozen=True)
class Machine:
    """What the hardware could do at most."""

    name: str
    threads: int
    multiply_adds: float
    """A second, in a square float32 matrix product."""
    bytes_copied: float
    """Read a second, in a copy of 256 MiB."""

    @classmethod
    def measured(cls) -> Machine:
        side = 1536
        one, other = torch.randn(side, side), torch.randn(side, side)
        product = min(_timed(lambda: one @ other) for _ in range(7))
        large = torch.zeros(2**26)
        into = torch.empty_like(large)
        copy = min(_timed(lambda: into.copy_(large)) for _ in range(7))
        return cls(_processor(), torch.get_num_threads(), side**3 / product, large.numel() * 4 / copy)

    def decoding_limit(self, weights: int, size: int, rows: int) -> tuple[float, str]:
        """Seconds that a step takes at least, and what sets that: reading the weights, or arithmetic."""
        read, computed = weights * size / self.bytes_copied, weights * rows / self.multiply_adds
        return (read, "bandwidth") if read > computed else (computed, "arithmetic")


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return f"{line.partition(':')[2].strip()}, {os.cpu_count()} cores"
    except OSError:
        pass
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
