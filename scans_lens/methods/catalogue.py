"""Catalogue: the ways of answering by name, with a line about each, known before anything is loaded.

A method is one file in this folder. `ARMS = {"name": "a line about it", …}` stands in it as plain text, and `RECIPES`
says how each of these is fitted (see `arms.Recipe`): no other file has to know of it.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from scans_lens import methods

if TYPE_CHECKING:
    from scans_lens.methods.arms import Recipe

PRESETS = ("paper", "release")
"""Of `SCANS.fit`."""
PLAIN = "plain"
"""The way of answering that all others are compared with: no method."""
ORDER = (
    "scans", "constant", "scans_centred", "scans_instruction", "scans_continuous", "scans_one_token", "gated_push",
    "gated_push_loose", "safeswitch", "cast", "antidote", "caa", "false_refusal", "ablation", "addition", "self_cd",
    "system", "random", "shuffled", "wrong_layers", "gated_push_away", "gated_push_towards",
)  # fmt: skip
"""In which tables and pictures show them; who is not named here comes behind."""
NOT_COMPARED = ("shuffled", "wrong_layers", "gated_push_away", "gated_push_towards")
"""Placebos and ceilings that `compare` leaves out unless they are asked for."""
_ARMS = re.compile(r"^ARMS\b[^=\n]*= (\{[^\n]*\}|\{.*?^\})", re.M | re.S)


@functools.cache
def places() -> dict[str, tuple[str, str]]:
    """By name, the module that has the arm and the line about it."""
    named: dict[str, tuple[str, str]] = {}
    for folder in methods.__path__:
        for file in sorted(Path(folder).glob("*.py")):
            if literal := _ARMS.search(file.read_text(encoding="utf-8")):
                for name, about in ast.literal_eval(literal[1]).items():
                    if name in named or name == PLAIN:
                        raise ValueError(
                            f"There are two methods {name!r}: {file.stem!r} needs another name for its own."
                        )
                    named[name] = (f"scans_lens.methods.{file.stem}", about)
    order = {name: place for place, name in enumerate(ORDER)}
    return dict(sorted(named.items(), key=lambda item: order.get(item[0], len(order))))


def arms() -> Mapping[str, str]:
    """Every way of answering but the plain one, with a line about it."""
    return {name: about for name, (_, about) in places().items()}


def compared() -> tuple[str, ...]:
    """What `compare` holds side by side unless others are named."""
    return tuple(name for name in places() if name not in NOT_COMPARED)


def recipe(name: str) -> Recipe:
    """How a way of answering is fitted, kept and put to use."""
    require_known([name])
    return import_module(places()[name][0]).RECIPES[name]


def require_known(names: Sequence[str]) -> None:
    """Refuse a name that is none of those there are, or comes twice."""
    known = places()
    for place, name in enumerate(names):
        if name not in known:
            raise ValueError(f"There is no method {name!r}: there are {', '.join(known)}.")
        if name in names[:place]:
            raise ValueError(f"The method {name!r} is named twice.")


def require_preset(preset: str | None) -> None:
    """Refuse a preset that there is not."""
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"No preset {preset!r}; there are 'paper' and 'release', or None to choose on validation.")
