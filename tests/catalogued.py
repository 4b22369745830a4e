"""Methods that stand in a file of their own, for as long as a test needs them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import scans_lens.methods
from scans_lens.methods import catalogue

HEAD = """
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scans_lens.errors import Refused
from scans_lens.methods.arms import learned
from scans_lens.steering import Method

"""
FILES = {
    "hopeless": HEAD
    + """
ARMS = {"hopeless": "a way that cannot be fitted"}


def _fails(fitting):
    fitting.judge(["I cannot.", "Sure."])
    raise Refused("there is nothing to learn here")


RECIPES = {"hopeless": learned(object, _fails)}
""",
    "breaks": HEAD
    + """
ARMS = {"breaks": "a way with a fault"}
RECIPES = {"breaks": learned(object, lambda fitting: np.zeros(2) + np.zeros(3))}
""",
    "scans": """
ARMS = {"scans": "not the one that is there already"}
""",
    "gentle": HEAD
    + """
ARMS = {"gentle": "a method of somebody's own, which does nothing"}


@dataclass(frozen=True)
class Gentle(Method):
    knob: float = 0.5
    chosen_on: str = ""
    trials: tuple = ()

    def save(self, path: str | Path) -> None:
        Path(path).write_text(f"{self.knob} {self.chosen_on}")

    @classmethod
    def load(cls, path: str | Path, model=None) -> "Gentle":
        knob, _, chosen_on = Path(path).read_text().partition(" ")
        return cls(float(knob), chosen_on)


def _fit(fitting):
    return Gentle(len(fitting.world.anchors.harmful) / 100, fitting.world.validation.name)


RECIPES = {"gentle": learned(Gentle, _fit)}
""",
}
"""By name, what somebody could write."""


@contextmanager
def method_file(folder: Path, name: str) -> Iterator[None]:
    """One of `FILES` in a folder that belongs to `scans_lens.methods` for a while."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(FILES[name])
    scans_lens.methods.__path__.append(str(folder))
    catalogue.places.cache_clear()
    try:
        yield
    finally:
        scans_lens.methods.__path__.remove(str(folder))
        catalogue.places.cache_clear()
