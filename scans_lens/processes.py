"""Processes: several of them, each with its share of the prompts, as `accelerate launch` and `torchrun` start them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

Thing = TypeVar("Thing")

_PATIENCE = timedelta(days=7)
"""How long a process waits for the slowest one."""


@dataclass(frozen=True)
class Rank:
    """Which of how many processes this is."""

    number: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.of:
            raise ValueError(f"There is no process {self.number} of {self.of}: they are numbered from 0.")

    @property
    def first(self) -> bool:
        return self.number == 0

    def share(self, things: Sequence[Thing]) -> list[Thing]:
        """Every so many-th of them, so that all shares are alike in length and, sorted, in kind."""
        return list(things[self.number :: self.of])

    def wait(self) -> None:
        """Until all of them are here. Alone, nobody is waited for."""
        if self.of == 1:
            return
        from torch import distributed

        if not distributed.is_initialized():
            distributed.init_process_group("gloo", rank=self.number, world_size=self.of, timeout=_PATIENCE)
        distributed.barrier()


def here() -> Rank:
    """What the launcher says of this process (RANK and WORLD_SIZE); alone, the first of one.

    Raises:
        ValueError: what it says makes no sense.
    """
    number, of = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (number.isdecimal() and of.isdecimal()):
        raise ValueError(f"RANK and WORLD_SIZE are numbers, not {number!r} and {of!r}.")
    return Rank(int(number), int(of))


def device_number() -> int | None:
    """Which of this machine's GPUs is this process' own (LOCAL_RANK); None where it is alone."""
    own = os.environ.get("LOCAL_RANK", "")
    return int(own) if own.isdecimal() and here().of > 1 else None
