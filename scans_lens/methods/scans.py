"""SCANS: each prompt pushed its own way, harmless ones away from refusal and harmful ones towards it.

Cao, Yang, Zhao: SCANS: Mitigating the Exaggerated Safety for LLMs via Safety-Conscious Activation Steering.
AAAI 2025, arXiv 2408.11491. Equation numbers are the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from scans_lens import artefacts, steering
from scans_lens.anchoring import anchor_layers
from scans_lens.artefacts import SITE, Artefact, Use
from scans_lens.classifier import TransitionClassifier
from scans_lens.conversation import BARE, Asking, Prompt
from scans_lens.directions import Directions, added, directions_of
from scans_lens.effort import STANDARD, Effort, spread
from scans_lens.flight import Flight
from scans_lens.judges import Judge
from scans_lens.methods import choosing
from scans_lens.methods.arms import learned
from scans_lens.methods.catalogue import require_preset
from scans_lens.methods.choosing import SHARES, Bench
from scans_lens.methods.readers import TRANSITIONS, Centred, InstructionEnd, Reader, Transitions, either_way, one_way
from scans_lens.methods.rules import SIGN, Rule
from scans_lens.methods.thresholds import Trial, with_chosen_knobs
from scans_lens.model import Hook, Identity, Model
from scans_lens.prompts import Contrast
from scans_lens.rates import Rate
from scans_lens.reading import collect, readings
from scans_lens.steering import Method, Push, Rows
from scans_lens.world import world_of

ARMS = {"scans": "each prompt pushed its own way (2408.11491)"}

Preset = Literal["paper", "release"]

ALPHAS = (0.5, 1.0, 2.0, 4.0)
"""Scales that are tried first where vectors are raw, as multiples of the difference of means."""
DEPTH = 32
"""Layers of Llama-2-7b, on which the paper's bands are given."""


@dataclass(frozen=True)
class Published:
    """What the release uses on one of the paper's models (its SCANS_llama.py and SCANS_vicuna.py)."""

    alpha: float
    threshold: float
    voting: range
    """Layers of the classifier; the paper says middle and latter."""


PUBLISHED = {
    "Llama-2-7b-chat-hf": Published(3.5, 0.75, range(10, 32)),
    "Llama-2-13b-chat-hf": Published(3.5, 0.75, range(10, 19)),
    "vicuna-7b-v1.5": Published(4.0, 0.75, range(10, 32)),
    "vicuna-13b-v1.5": Published(4.0, 0.70, range(10, 19)),
}
"""By the end of the hub name. Thresholds are the release's defaults, before it changes them by test set."""

_STEERED = {"paper": (10, 21), "release": (10, 20)}
"""First layer and the one after the last: 10 to 20 in the paper's table 1, 10 to 19 in its code."""


@dataclass(frozen=True)
class SCANS(Method, Artefact):
    """A fitted steering method; give it to `replies(model, prompts, method=…)`."""

    KIND = "SCANS"
    WHAT = "These SCANS vectors"

    directions: Directions
    """As they are added: `scale` times these vectors."""
    layers: tuple[int, ...]
    scale: float
    """The paper's alpha, in multiples of the vectors."""
    unit: Literal["residual norms", "length", "differences of means"]
    """What a scale of 1 is."""
    classifier: TransitionClassifier
    trials: tuple[Trial, ...] = ()
    """What every scale and threshold did on validation prompts; the first, of scale 0, is the plain model."""
    note: str = ""
    """How the knobs were chosen."""
    repetition_penalty: float = 1.0
    effort: Effort = STANDARD
    """What learning and choosing were allowed to take."""
    reader: Reader = TRANSITIONS
    """What the classifier reads."""
    rule: Rule = SIGN
    """What becomes of a score."""
    window: int | None = artefacts.later(None)
    """How many tokens are steered, the last one of the prompt among them; None is all of the reply, as in the paper."""

    def __post_init__(self) -> None:
        steering.require_window(self.window)

    # ── Acting ──

    @torch.no_grad()
    def decide(self, flight: Flight) -> Rows:
        """A score for every row (eq. 4), and with it the scale that the row will get (eq. 5).

        Raises:
            ValueError: the batch is on its way through another model than SCANS was fitted on.
        """
        self.directions.origin.require(flight, self.WHAT)
        score = self.classifier.score(self.reader.read(flight))
        return {"score": score, "scale": self.rule.share(score - self.classifier.threshold) * self.scale}

    def hooks_for(self, rows: Rows, flight: Flight) -> list[Hook]:
        """Eq. 6, from the last prompt token on."""
        return steering.pushing(self.directions, self.layers, rows["scale"], flight, flight.end_of_prompt, self.window)

    @property
    def push(self) -> Push:
        return Push(self.directions, self.layers, self.scale, window=self.window)

    @property
    def bounds(self) -> tuple[float, ...]:
        return (self.classifier.threshold,)

    @property
    def scale_unit(self) -> str:
        return self.unit

    def transitions(
        self, model: Model, prompts: Sequence[Prompt], *, batch_size: int | None = None
    ) -> Float[Tensor, "prompt layer d_model"]:
        """What its classifier reads of every prompt: transitions, unless its reader is another."""
        return collect(model, prompts, self.reader.read, batch_size=batch_size)

    # ── Learning ──

    @classmethod
    def fit(
        cls,
        model: Model,
        contrast: Contrast | None = None,
        *,
        validation: Contrast | None = None,
        preset: Preset | None = None,
        layers: Sequence[int] | None = None,
        judge: Judge | None = None,
        budget: int | None = None,
        effort: Effort | None = None,
        asking: Asking = BARE,
        seed: int = 0,
        batch_size: int | None = None,
        progress: bool = True,
    ) -> SCANS:
        """Learn directions and classifier from the contrast, and choose layers, threshold and scale.

        Without a preset, on validation prompts: layers from `anchor_layers` of the contrast; of the last layers of
        the network, the last one before or after the final norm, those vote whose score tells harmful prompts from
        borderline ones best (AUC); of the scales
        (`SHARES`, then finer near the best) and the thresholds of `MISSED`, that pair is taken which leaves the
        fewest borderline prompts refused while refusals of harmful ones fall by at most one and a half points. Ties
        go to the threshold that misses fewest harmful prompts, and then to the smaller scale. Where there are no
        borderline prompts, harmless ones take their place.

        Args:
            contrast: what to learn from; by default the bundled model's own anchors for it, ours for any other.
            validation: what to choose knobs on, never a test set; by default the bundled model's own for it, and
                `prompts.borderline("validation")` for any other; beside a contrast of the caller's own a fifth of
                that, which is then held out.
            asking: how all these prompts are put: a system prompt, thinking on or off; it travels with the fit.
            preset: "paper" (the equations: raw vectors) or "release" (the authors' code: unit vectors, repetition
                penalty 1.1). On models other than the paper's four, layers scale to the same fractions of depth, and
                threshold and alpha are chosen on validation prompts, which have to be given.
            layers: where to steer, instead of what `anchor_layers` or the preset says.
            judge: whether a reply refuses; by default the exact one for the bundled model, the panel for any other.
            budget: replies to validation prompts that may be asked for in choosing; with it, finer scales are tried
                more often, until it is spent or two digits tell no more. Nothing is chosen where all was published.
            effort: how many anchors, validation prompts, tokens and scales it may take; by default all there are. It is
                kept with the fit.
            batch_size: prompts at once; by default what fits and pays.

        Raises:
            ValueError: an unknown preset, or one without validation prompts on a model it was not published for; a
                budget below three replies to every harmful and borderline validation prompt.
            NoAnchorLayers: no layer qualifies.
        """
        require_preset(preset)
        published, world = _published(model), world_of(model)
        if preset and not published and validation is None and not (contrast is None and world.bundled):
            raise ValueError(
                f"The {preset!r} preset's threshold was published for {', '.join(PUBLISHED)} and means nothing on "
                "another model: give validation=Contrast(…) to choose one on."
            )
        note, bench, effort = f"The {preset} preset, as published.", None, effort or choosing.standard()
        if preset and published:  # nothing is chosen, so nothing is held out
            contrast = (contrast or world.anchors).under(asking)
        else:
            contrast, validation, note = world.learning(contrast, validation, seed, asking)
            assert validation is not None
            validation = effort.chosen_on(validation)
            bench = Bench.of(model, validation, judge, batch_size, budget, progress, effort)
        contrast = effort.learned(contrast)
        harmful, harmless = (
            readings(model, side, either_way, batch_size=batch_size, progress=f"{word} anchors" if progress else None)
            for word, side in (("harmful", contrast.harmful), ("harmless", contrast.harmless))
        )
        directions = directions_of(model, contrast, harmful, harmless)
        n = len(directions)
        reader = Transitions(normed=preset == "release")
        anchored = [side.moves for side in (harmful, harmless) if side.moves is not None]
        voting = published.voting if preset and published else None
        classifier = TransitionClassifier.fit(*one_way(anchored, reader), layers=voting)
        if layers is None:
            layers = (
                _scaled(preset, n)
                if preset
                else anchor_layers(
                    model, directions, contrast=contrast, effort=effort, seed=seed, batch_size=batch_size,
                    progress=progress, read=(harmful, harmless),
                )
            )  # fmt: skip
        vectors, unit, grid = _vectors(preset, directions, published)
        fitted = cls(
            directions=vectors,
            layers=tuple(int(layer) for layer in layers),
            scale=0.0,
            unit=unit,
            classifier=classifier,
            note=note,
            repetition_penalty=1.1 if preset == "release" else 1.0,
            effort=effort,
            reader=reader,
        )
        if preset and published:
            known = replace(
                classifier, threshold=published.threshold, calibrated_on="what was published for this model"
            )
            return replace(fitted, classifier=known, scale=published.alpha)
        assert bench is not None
        held = [
            collect(model, side, either_way, batch_size=batch_size, progress="reading validation" if progress else None)
            for side in (bench.harmful, bench.harmless)
        ]
        if not preset:
            classifier, reader = voters(anchored, held)
            fitted = replace(fitted, classifier=classifier, reader=reader)
        t_held, t_others = one_way(held, reader)
        return with_chosen_knobs(fitted, bench, (t_others, t_held), spread(grid, effort.scales))

    @property
    def chosen(self) -> Trial | None:
        """The trial that was chosen, where threshold and scale were chosen."""
        own = (self.scale, self.classifier.threshold)
        return next((trial for trial in self.trials if (trial.scale, trial.threshold) == own), None)

    # ── Keeping ──

    @property
    def measured_on(self) -> Identity | None:
        return self.directions.origin.model

    def uses(self) -> list[Use]:
        """How the score is read and a prompt is pushed, for a file's header."""
        formula = f"score = mean over layers of cos({self.reader.formula}, classifier.harmful_transition[layer])"
        if self.reader.normed:
            formula += "; the last layer is read after the final norm"
        voting = tuple(int(layer) for layer in self.classifier.layers)
        unit = "cosine, -1 to 1; at or above classifier.threshold is harmful"
        score = Use("read", SITE, self.reader.positions, voting, unit, formula)
        unit = f"1 is the vector as stored: {_UNITS[self.unit]}"
        formula = f"x + sign * scale * directions.vectors[layer]; {self.rule.formula()}"
        return [score, added(self.layers, positions=artefacts.within(self.window), unit=unit, formula=formula)]

    def require_whole(self, owner: Identity | None) -> None:
        self.directions.require_whole(owner)
        shape = tuple(self.directions.vectors.shape)
        artefacts.require_shape("classifier.harmful_transition", self.classifier.harmful_transition, shape)
        if isinstance(self.reader, Centred):
            artefacts.require_shape("reader.centre", self.reader.centre, shape)
        artefacts.require_layers("layers", self.layers, shape[0])
        artefacts.require_layers("voting layers", self.classifier.layers, shape[0])
        if not self.classifier.layers:
            raise ValueError("there are no voting layers, so that there is no score.")

    def __str__(self) -> str:
        lines = [
            f"SCANS, learned from {self.directions.origin.contrast!r}{self.directions.origin.on}",
            f"  layers     {', '.join(map(str, self.layers))}",
            f"  scale      {self.scale:g} {self.unit}",
            f"  voting     {', '.join(map(str, self.classifier.layers))}{_NORMED * self.reader.normed}",
            f"  threshold  {self.classifier.threshold:.4f} ({self.classifier.calibrated_on})",
        ]
        if self.window is not None:
            lines.append(f"  pushed     {artefacts.within(self.window)}")
        if str(self.rule):
            lines.append(f"  {self.rule}")
        if self.reader != Transitions(self.reader.normed):
            lines.append(f"  reads      {self.reader}")
        lines.append(f"  effort     {self.effort}")
        if self.directions.origin.asking:
            lines.append(f"  asked      with {self.directions.origin.asking}")
        return "\n".join([*lines, f"  {self.note}"] if self.note else lines)

    __repr__ = __str__


_UNITS = {
    "residual norms": "as long as the layer's mean residual norm (directions.residual_norms)",
    "length": "of length 1",
    "differences of means": "the raw difference of means",
}
_NORMED = " (the last one after the final norm)"


def _published(model: Model) -> Published | None:
    name = str(getattr(model.cfg, "model_name", "") or "")
    ending = name.rsplit("/", 1)[-1].lower()
    return next((known for own, known in PUBLISHED.items() if own.lower() == ending), None)


def _scaled(preset: Preset, n: int) -> tuple[int, ...]:
    """The preset's band at the same fractions of depth; the release uses the same numbers on 40 layers, too."""
    first, last = _STEERED[preset]
    if n in (DEPTH, 40):
        return tuple(range(first, last))
    low = round(first * n / DEPTH)
    return tuple(range(low, max(low + 1, round(last * n / DEPTH))))


def _vectors(
    preset: Preset | None, directions: Directions, published: Published | None
) -> tuple[Directions, Any, Sequence[float]]:
    if preset == "paper":
        return directions, "differences of means", ALPHAS
    if preset == "release" and published:
        return directions.unit(), "length", ()
    return directions.in_residual_norms(), "residual norms", SHARES


def voters(
    anchored: Sequence[Tensor],
    held: Sequence[Tensor],
    reader: Transitions | InstructionEnd = TRANSITIONS,
    *,
    centred: bool = False,
) -> tuple[TransitionClassifier, Reader]:
    """The classifier whose score tells the held-out sides apart best, and what it reads, the last layer normed or not.

    The last layers vote, from one in the last two thirds of the depth on. Ties: more layers, and before the norm.

    Args:
        anchored: harmful and harmless anchors, as `either_way` gives them.
        held: harmful validation prompts and the others, likewise.
        reader: how they were read.
        centred: whether the anchors' centre is taken off first.
    """
    from sklearn.metrics import roc_auc_score

    n = held[0].shape[1] - 1
    truth = [1] * len(held[0]) + [0] * len(held[1])
    found = []
    for normed in (False, True):
        own: Reader = replace(reader, normed=normed)
        if centred:
            own = Centred.between(own, *one_way(anchored, own))
        learned, asked = one_way(anchored, own), torch.cat(one_way(held, own))
        for first in range(n // 3, n):
            classifier = TransitionClassifier.fit(*learned, layers=range(first, n))
            found.append((roc_auc_score(truth, classifier.score(asked).double()), classifier, own))
    _, best, chosen = max(found, key=lambda entry: entry[0])
    return best, chosen


def summary(scans: SCANS) -> list[dict[str, Any]]:
    """The trials at the chosen threshold as rows of rates with their intervals, from the plain model on."""
    chosen = scans.chosen
    own = [trial for trial in scans.trials if not trial.scale or (chosen and trial.missed == chosen.missed)]
    return [{"scale": trial.scale, "harmless": Rate(*trial.harmless), "harmful": Rate(*trial.harmful)} for trial in own]


RECIPES = {
    "scans": learned(
        SCANS,
        lambda fitting: SCANS.fit(
            fitting.world.model, fitting.world.anchors, effort=fitting.effort, asking=fitting.asking, seed=fitting.seed,
            **fitting.chosen(),
        ),
    )
}  # fmt: skip
