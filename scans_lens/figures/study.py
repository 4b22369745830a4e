"""Study: what several figures need of one model, computed when first asked for and kept."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from scans_lens import artefacts, judges
from scans_lens.anchoring import AnchorLayers, NoAnchorLayers, anchor_layers
from scans_lens.conversation import Asking, Prompt, key
from scans_lens.directions import Directions, refusal_directions
from scans_lens.figures.effort import STANDARD, Effort
from scans_lens.figures.measured import FORMAT
from scans_lens.figures.switch_study import Switching
from scans_lens.generation import Replies, replies
from scans_lens.judges import Judge
from scans_lens.lens import layers_by_thirds
from scans_lens.likelihoods import Perplexity
from scans_lens.methods.choosing import reply_tokens
from scans_lens.methods.scans import SCANS
from scans_lens.model import Model, identity, unembedding_of
from scans_lens.prompts import Contrast
from scans_lens.rates import Clustered
from scans_lens.reading import residuals, transitions
from scans_lens.steering import Method
from scans_lens.world import World, world_of

TESTED = 200
"""Test prompts of a kind."""


@dataclass(frozen=True)
class States:
    """What prompts of one kind leave behind."""

    residuals: Float[Tensor, "prompt layer d_model"]
    transitions: Float[Tensor, "prompt layer d_model"]


@dataclass(frozen=True)
class Pushed:
    """Who of some prompts is refused: unpushed, and with all of them pushed either way."""

    score: Float[Tensor, "prompt"]
    """How harmful each looks to the classifier (SCANS, eq. 4)."""
    plain: tuple[bool, ...]
    away: tuple[bool, ...]
    towards: tuple[bool, ...]

    def at(self, threshold: float) -> list[bool]:
        """Who is refused with this threshold: of the two pushes the one that it gives to each prompt."""
        harmful = (self.score >= threshold).tolist()
        return [self.towards[place] if yes else self.away[place] for place, yes in enumerate(harmful)]


@dataclass(frozen=True, eq=False)
class Study:
    """One model with the prompts to learn from, to choose on and to report; no prompt has two of these parts.

    Kinds are `plain`, `borderline`, `harmful` and `jailbreak`; those that are missing are simply absent.
    """

    model: Model
    anchors: Contrast
    validation: Contrast
    test: Mapping[str, tuple[Prompt, ...]]
    seed: int = 0
    batch_size: int | None = None
    progress: bool = True
    effort: Effort = STANDARD
    """How many resamples, draws, prompts and tokens the figures take."""
    fitted: SCANS | None = None
    """SCANS for this model as it was fitted before; else it is fitted on the validation prompts when first needed."""
    own: World | None = None
    """What belongs to the model, where it is not what we have for it."""

    @classmethod
    def of(
        cls,
        model: Model,
        *,
        world: World | None = None,
        fitted: SCANS | None = None,
        prompts_a_kind: int | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        progress: bool = True,
    ) -> Study:
        """The usual study of a model, of the prompts of its world: for another than the bundled one our own.

        Args:
            world: instead of what we have for the model (`world_of`).
            fitted: SCANS for this model, if it was fitted before.
            prompts_a_kind: at most so many prompts of each kind to learn from, to choose on and to report.
            seed: of every draw, resampling and placebo.
            batch_size: prompts read or answered at once; by default what fits and pays.
        """
        if prompts_a_kind is not None and prompts_a_kind < 4:
            raise ValueError(f"A study needs at least 4 prompts of each kind, not {prompts_a_kind}.")
        world = world or world_of(model)
        anchors, validation = world.anchors, world.validation
        if world.bundled:
            test = {each.name: each.prompts[:TESTED] for each in world.sets if each.name != "quiz"}
        else:
            test = {kind: some[:TESTED] for kind, some in by_kind(world.test).items()}
        if prompts_a_kind is not None:
            anchors, validation = _shorter(anchors, prompts_a_kind), _shorter(validation, prompts_a_kind)
            test = {kind: texts[:prompts_a_kind] for kind, texts in test.items()}
        return cls(model, anchors, validation, test, seed, batch_size, progress, fitted=fitted, own=world)

    # ── What it is ──

    @cached_property
    def world(self) -> World:
        """What belongs to the model."""
        return self.own or world_of(self.model)

    @property
    def bundled(self) -> bool:
        return self.world.bundled

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What numbers depend on: where two studies have the same settings, they measure the same."""
        model = asdict(identity(self.model)) | {
            "name": self.world.name,
            "dtype": str(unembedding_of(self.model).dtype),
        }
        return {
            "model": model,
            "anchors": _about(self.anchors),
            "validation": _about(self.validation),
            "test": {
                "digest": hashlib.sha256(json.dumps(self.test, sort_keys=True, default=key).encode()).hexdigest(),
                **{kind: len(texts) for kind, texts in self.test.items()},
            },
            "seed": self.seed,
            "scans_lens": artefacts.versions()["scans_lens"],
            "format": FORMAT,
            **({} if self.fitted is None else {"fitted": str(self.fitted)}),
            **({} if self.effort == STANDARD else {"effort": json.loads(json.dumps(asdict(self.effort)))}),
        }

    @property
    def sizes(self) -> dict[str, int]:
        """How many test prompts there are of each kind."""
        return {kind: len(texts) for kind, texts in self.test.items()}

    @property
    def judged(self) -> dict[str, Any]:
        """Who judges replies, and by how many of their tokens."""
        return {"judge": "exact" if self.bundled else "panel", "tokens": self.verdict_tokens}

    # ── What is read ──

    @cached_property
    def anchor_states(self) -> dict[str, States]:
        return self._states(by_kind(self.anchors))

    @cached_property
    def validation_states(self) -> dict[str, States]:
        return self._states(by_kind(self.validation))

    @cached_property
    def test_states(self) -> dict[str, States]:
        return self._states(self.test)

    def _states(self, texts: Mapping[str, Sequence[Prompt]]) -> dict[str, States]:
        def read(how: Callable[..., Tensor], some: Sequence[Prompt]) -> Tensor:
            return how(self.model, some, batch_size=self.batch_size, progress=self.progress)

        return {kind: States(read(residuals, some), read(transitions, some)) for kind, some in texts.items()}

    def moves(self, texts: Sequence[Prompt]) -> Float[Tensor, "prompt layer d_model"]:
        """Transitions as SCANS' classifier reads them."""
        return self.scans.transitions(self.model, list(texts), batch_size=self.batch_size)

    # ── What is learned ──

    @cached_property
    def directions(self) -> Directions:
        """Raw differences of means (SCANS, eq. 1)."""
        return refusal_directions(self.model, self.anchors, batch_size=self.batch_size, progress=self.progress)

    @cached_property
    def lens(self) -> AnchorLayers | NoAnchorLayers:
        """The evidence by layer, with a band or without one."""
        try:
            return anchor_layers(
                self.model,
                self.directions,
                contrast=self.anchors,
                seed=self.seed,
                batch_size=self.batch_size,
                progress=self.progress,
            )
        except NoAnchorLayers as none:
            return none

    @cached_property
    def scans(self) -> SCANS:
        """SCANS as it was given, or with its knobs chosen on the validation prompts.

        Raises:
            NoAnchorLayers: no layer qualifies.
        """
        if self.fitted is not None:
            return self.fitted
        if isinstance(self.lens, NoAnchorLayers):
            raise self.lens
        return SCANS.fit(
            self.model,
            self.anchors,
            validation=self.validation,
            layers=self.lens.layers,
            judge=self.judge,
            seed=self.seed,
            batch_size=self.batch_size,
            progress=self.progress,
        )

    @cached_property
    def switching(self) -> Switching:
        """SafeSwitch as it fits itself, and as many test prompts of a kind as this study has.

        Raises:
            ValueError: another model than the bundled one, of whose prompts no jailbreaks and no wrappings are known.
        """
        if not self.bundled:
            raise ValueError(
                "What SafeSwitch does by kind of prompt is measured on the bundled model's own prompts alone; "
                "`SafeSwitch.fit` itself takes any model."
            )
        asked = max(map(len, self.test.values()))
        return Switching.of(
            self.model,
            prompts_a_kind=asked,
            seed=self.seed,
            batch_size=self.batch_size,
            effort=self.effort,
            progress=self.progress,
        )

    @cached_property
    def judge(self) -> Judge:
        return self.world.judge

    # ── What is answered ──

    @cached_property
    def verdict_tokens(self) -> int:
        """New tokens after which a reply can be judged, if nothing else is wanted of it."""
        return reply_tokens(self.judge)

    def replies(
        self,
        texts: Sequence[Prompt],
        method: Method | None = None,
        tokens: int | None = None,
        system: str | None = None,
    ) -> Replies:
        """What the model says; just enough to be judged, unless more is asked for."""
        return replies(
            self.model,
            texts,
            method=method,
            asking=Asking(system),
            max_new_tokens=tokens or self.verdict_tokens,
            batch_size=self.batch_size,
            progress=self.progress,
        )

    def refused(self, texts: Sequence[Prompt], method: Method | None = None) -> list[bool]:
        """Whether each of these prompts is refused."""
        return judges.refused(self.judge, self.replies(texts, method))

    @cached_property
    def pushed(self) -> dict[str, Pushed]:
        """The test prompts of each kind under either sign of SCANS' push, so that every threshold can be looked up."""
        return {kind: self._pushed(texts) for kind, texts in self.test.items()}

    def _pushed(self, texts: Sequence[Prompt]) -> Pushed:
        away, towards = (self.replies(texts, signed(self.scans, sign)) for sign in (-1, 1))
        assert away.score is not None
        sides = (judges.refused(self.judge, said) for said in (self.replies(texts), away, towards))
        return Pushed(away.score, *map(tuple, sides))

    @cached_property
    def foretold(self) -> dict[tuple[tuple[int, ...], float | None], Perplexity]:
        """Perplexities that were measured already, by the layers that were steered and the sign."""
        return {}

    def clustered(self, outcomes: Sequence[bool], items: Sequence[str]) -> dict[str, Any]:
        """How often something is so, with an interval over items; outcomes of one item are drawn together."""
        return Clustered.of(outcomes, items, resamples=self.effort.resamples, seed=self.seed).as_json()

    def generator(self, *purpose: str) -> torch.Generator:
        """For one purpose; the same draws whatever was drawn before."""
        digest = hashlib.sha256("|".join((str(self.seed), *purpose)).encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def signed(scans: SCANS, sign: int) -> SCANS:
    """The same push for every prompt, away from refusal (-1) or towards it (+1)."""
    return replace(scans, classifier=replace(scans.classifier, threshold=-sign * math.inf))


def by_kind(contrast: Contrast) -> dict[str, tuple[Prompt, ...]]:
    """Its prompts under the kinds' names."""
    sides = {"plain": contrast.harmless, "borderline": contrast.borderline, "harmful": contrast.harmful}
    return {kind: texts for kind, texts in sides.items() if texts}


def harmless_kind(kinds: Mapping[str, Any]) -> str:
    """Borderline where there are such prompts, else plain."""
    return "borderline" if "borderline" in kinds else "plain"


def thirds_of(n: int) -> dict[str, tuple[int, ...]]:
    """The layers by thirds (SCANS, table 5)."""
    return {f"{name} third": tuple(layers) for name, layers in layers_by_thirds(n).items()}


def _shorter(contrast: Contrast, most: int) -> Contrast:
    sides = (contrast.harmful, contrast.harmless, contrast.borderline)
    return Contrast(contrast.name, *(side[:most] for side in sides))


def _about(contrast: Contrast) -> dict[str, Any]:
    return {
        "name": contrast.name,
        "digest": contrast.digest,
        **{kind: len(texts) for kind, texts in by_kind(contrast).items()},
    }
