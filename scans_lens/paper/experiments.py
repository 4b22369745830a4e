"""Experiments: what the paper's tables ask and fit: a world, draws of its anchors, and SCANS fitted on each draw.

Cao, Yang, Zhao: SCANS. AAAI 2025, arXiv 2408.11491. On a model that is none of the paper's the same is measured, and
its knobs are chosen on validation prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from scans_lens import prompts
from scans_lens.conversation import BARE, Asking
from scans_lens.effort import STANDARD, Effort
from scans_lens.errors import Refused
from scans_lens.evaluation import evaluate
from scans_lens.generation import NEW_TOKENS
from scans_lens.methods.arms import Arm, Fitting, fitted
from scans_lens.methods.choosing import reply_tokens
from scans_lens.methods.scans import PUBLISHED, SCANS
from scans_lens.model import Model
from scans_lens.prompts import Contrast, PromptSet
from scans_lens.world import Capability, World, world_of

if TYPE_CHECKING:
    import pandas as pd

ANCHORS = 64
"""A side, as in the paper."""
DRAWS = 5
"""Of anchors; the paper averages as many trials."""
PROMPTS = 150
"""Of each set on the bundled model; on others all."""
SETS = ("xstest", "repe", "oktest", "truthfulqa", "advbench", "malicious_instruct")
"""The sets of the paper."""
VALIDATION = 128
"""Validation prompts of a kind, at most."""
PRESET = "release"
"""Of SCANS on the paper's models."""
SHOWN = "Llama-2-7b-chat-hf"
"""The paper's model whose rows stand below those of a real model that is none of the paper's."""


def papers_world(model: Model) -> World:
    """What we have for the bundled model; for any other the paper's sets, and its anchors to draw from."""
    world = world_of(model)
    if world.bundled:
        return world
    pool = Contrast("AdvBench and TruthfulQA", prompts.load("advbench").harmful, prompts.load("truthfulqa").harmless)
    return replace(world, pool=pool, load_sets=lambda: [prompts.load(name) for name in SETS])


@dataclass(frozen=True, eq=False)
class Experiments:
    """The paper's experiments on one model. Everything that is answered or fitted lies in `out`, and is used again.

    Args:
        world: of the model; `papers_world(model)` is the paper's.
        out: a folder; an interrupted run goes on there.
        draws: of anchors.
        limit: prompts of each kind of each set, at most.
        size: anchors of a side in a draw.
        effort: what a fit may take.
        asking: how all prompts are put, in learning and in asking; capability is measured without it.
        max_new_tokens: where a reply is cut; sooner where the judge needs no more.
    """

    world: World
    out: Path
    draws: int = DRAWS
    limit: int | None = None
    size: int = ANCHORS
    effort: Effort = STANDARD
    asking: Asking = BARE
    max_new_tokens: int = NEW_TOKENS
    progress: bool = True

    @property
    def model(self) -> Model:
        return self.world.model

    @property
    def published(self) -> str:
        """The name under which the paper's numbers for this model would stand."""
        return self.world.name.rsplit("/", 1)[-1]

    @property
    def of_the_paper(self) -> bool:
        return self.published in PUBLISHED

    @property
    def beside(self) -> str:
        """The paper's model whose rows stand below ours; empty for the bundled one, which is asked other sets."""
        return self.published if self.of_the_paper else "" if self.world.bundled else SHOWN

    @property
    def whose(self) -> str:
        """What those rows are called."""
        return "paper" if self.of_the_paper else f"paper's {self.beside.removesuffix('-chat-hf')}"

    @property
    def pool(self) -> Contrast:
        """What anchors are drawn from."""
        return self.world.pool or self.world.anchors

    @cached_property
    def validation(self) -> Contrast:
        """What knobs are chosen on; unused where they were published."""
        whole = self.world.validation
        return Contrast(
            whole.name, whole.harmful[:VALIDATION], whole.harmless[:VALIDATION], whole.borderline[:VALIDATION]
        )

    @cached_property
    def sets(self) -> tuple[PromptSet, ...]:
        """What is asked in tables of refusals."""
        limit = PROMPTS if self.world.bundled and self.limit is None else self.limit
        asked = (each for each in self.world.sets if each.name != "quiz")
        return tuple(each if limit is None else each.first(limit) for each in asked)

    @property
    def capability(self) -> Capability:
        """What the model should know.

        Raises:
            ValueError: the world does not say.
        """
        if self.world.capability is None:
            raise ValueError("This model's world says nothing of what it should know: give World(capability=…).")
        return self.world.capability

    def anchors(self, draw: int) -> Contrast:
        return self.pool.split(self.size, draw)[0]

    def fitting(self, draw: int) -> Fitting:
        """What fits on one draw of anchors depend on, and where they are kept."""
        world = replace(self.world, anchors=self.anchors(draw), validation=self.validation)
        return Fitting(world, self.effort, self.out / "fits", self.asking, progress=self.progress)

    def arm(self, name: str, draw: int = 0) -> Arm:
        """A way of answering of the catalogue, fitted on one draw of anchors.

        Raises:
            Refused: it could not be fitted.
        """
        fit = fitted(self.fitting(draw), name)
        if fit.arm is None:
            raise Refused(f"{name} could not be fitted on draw {draw} of the anchors: {fit.knobs}")
        return fit.arm

    def scans(self, draw: int) -> SCANS:
        """SCANS fitted on one draw of anchors; on the paper's models with the knobs of the authors' code.

        Raises:
            Refused: it could not be fitted.
        """
        if self.of_the_paper:
            return self._with_published_knobs(draw)
        method = self.arm("scans", draw).method
        assert isinstance(method, SCANS)
        return method

    def _with_published_knobs(self, draw: int) -> SCANS:
        """For which there is no recipe."""
        fitting = self.fitting(draw)
        file = fitting.place(f"scans_{PRESET}")
        if file.is_file():
            return SCANS.load(file, self.model)
        scans = SCANS.fit(
            self.model, fitting.world.anchors, preset=PRESET, effort=self.effort, asking=self.asking,
            progress=self.progress,
        )  # fmt: skip
        file.parent.mkdir(parents=True, exist_ok=True)
        scans.save(file)
        return scans

    def fits(self) -> list[SCANS]:
        """SCANS of every draw."""
        return [self.scans(draw) for draw in range(self.draws)]

    @property
    def tokens(self) -> int:
        """New tokens of a reply at most: fewer where the judge needs no more."""
        return reply_tokens(self.world.judge, self.max_new_tokens)

    @property
    def said_beside(self) -> str:
        """A sentence on whose rows stand below ours."""
        if self.of_the_paper:
            return "The paper's own numbers stand below ours."
        if not self.beside:
            return (
                "This is none of the paper's models, and was asked other sets, so nothing of the paper's stands beside."
            )
        return (
            f"This is none of the paper's models: below ours stands what the paper has of {self.beside}, of the same "
            "sets by the paper's own judge; its scales, thresholds and speed are that model's."
        )

    def answered(self, table: int, draw: int, arms: Sequence[Arm]) -> pd.DataFrame:
        """Every set answered in these ways; a draw's own anchors are left out of them."""
        return evaluate(
            self.model,
            self.sets,
            arms,
            folder_of(self.out, table, draw),
            world=self.world,
            max_new_tokens=self.tokens,
            asking=self.asking,
            learned_from=[self.anchors(draw)],
            progress=self.progress,
        )


def folder_of(out: Path, table: int, draw: int) -> Path:
    """Where the replies of one table lie that belong to one draw of anchors."""
    return out / f"table-{table}" / f"draw-{draw}"
