"""SCANS: each prompt pushed its own way, harmless ones away from refusal and harmful ones towards it.

Cao, Yang, Zhao: SCANS: Mitigating the Exaggerated Safety for LLMs via Safety-Conscious Activation Steering.
AAAI 2025, arXiv 2408.11491. Equation numbers are the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, takewhile
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from scans_lens import artefacts, steering
from scans_lens.anchoring import anchor_layers, default_anchors
from scans_lens.artefacts import SITE, Kept, Use
from scans_lens.chat import OPENING, Asked
from scans_lens.classifier import TransitionClassifier
from scans_lens.conversation import BARE, Asking, Prompt
from scans_lens.directions import Directions, added, directions_in, directions_of
from scans_lens.effort import STANDARD, Effort, spread
from scans_lens.flight import Flight
from scans_lens.judges import Judge
from scans_lens.methods import choosing
from scans_lens.methods.catalogue import require_preset
from scans_lens.methods.choosing import BROKEN, SHARES, Bench, learning_prompts
from scans_lens.model import Hook, Model, after_final_norm, is_bundled
from scans_lens.prompts import Contrast
from scans_lens.rates import Rate
from scans_lens.reading import collect, readings
from scans_lens.steering import Rows

Preset = Literal["paper", "release"]

ALPHAS = (0.5, 1.0, 2.0, 4.0)
"""Scales that are tried first where vectors are raw, as multiples of the difference of means."""
MISSED = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.1, 0.12, 0.15, 0.2)
"""Shares of harmful validation prompts that the threshold may take for harmless: the thresholds that are tried, which
costs no reply (see `SCANS.with_chosen_knobs`).

A small push answers borderline prompts long before it answers harmful ones, so that the best threshold may well let
some harmful prompts be pushed the wrong way, as long as they stay refused.
"""
TOGETHER = 2
"""Scales that are tried side by side, which share a prefill; more might be decoded in vain, behind a broken one."""
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
class Trial:
    """What one scale and one threshold did on validation prompts."""

    scale: float
    missed: float
    """Share of harmful validation prompts that the threshold may take for harmless."""
    threshold: float
    harmless: tuple[int, int]
    """Refused and all, of borderline prompts where there are some, else of harmless ones."""
    harmful: tuple[int, int]


@dataclass(frozen=True)
class SCANS:
    """A fitted steering method; give it to `replies(model, prompts, method=…)`."""

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
    abstain: float = 0.0
    """A prompt whose score lies nearer than this to the threshold is not pushed at all; ours, the paper has none."""
    last_after_norm: bool = False
    """Whether the classifier reads the last layer after the final norm, as the release does."""
    at_instruction: bool = False
    """Whether the classifier reads states at the last token of the user's own words, not transitions (`variants`)."""
    width: float = 0.0
    """A score this far from the threshold is pushed whole, a nearer one in proportion; 0 is the sign of eq. 5."""
    effort: Effort = STANDARD
    """What learning and choosing were allowed to take."""
    whole_prompt: bool = False

    def __post_init__(self) -> None:
        if self.width < 0:
            raise ValueError(f"A width is 0 or more, not {self.width:g}.")

    # ── Acting ──

    @torch.no_grad()
    def decide(self, flight: Flight) -> Rows:
        """A score for every row (eq. 4), and with it the scale that the row will get (eq. 5).

        Raises:
            ValueError: the batch is on its way through another model than SCANS was fitted on.
        """
        self.directions.origin.require(flight, "These SCANS vectors")
        score = self.classifier.score(self.read(flight))
        over = score - self.classifier.threshold
        sign = (over / self.width).clamp(-1, 1) if self.width else torch.where(over >= 0, 1.0, -1.0)
        sure = over.abs() >= self.abstain
        return {"score": score, "scale": sign * self.scale * sure}

    def hooks_for(self, rows: Rows, flight: Flight) -> list[Hook]:
        """Eq. 6, from the last prompt token on."""
        return steering.add(self.directions, self.layers, rows["scale"], since=flight.since(flight.end_of_prompt))

    def hooks(self, model: Model, prompts: Asked) -> list[Hook]:
        """For the caller's own loop over `chat_tokens(model, prompts)`; see `steering.hooks_of`."""
        return steering.hooks_of(self, model, prompts)

    def read(self, flight: Flight) -> Float[Tensor, "row layer d_model"]:
        """What its classifier reads: transitions (eq. 2) unless `at_instruction`, the last layer normed or not."""
        if self.at_instruction:
            states = flight.instructed()
            return after_final_norm(flight.model, states) if self.last_after_norm else states
        return _transitions(flight, self.last_after_norm)

    def transitions(
        self, model: Model, prompts: Sequence[Prompt], *, batch_size: int | None = None
    ) -> Float[Tensor, "prompt layer d_model"]:
        """What its classifier reads of every prompt: transitions, unless it reads the end of the instruction."""
        return collect(model, prompts, self.read, batch_size=batch_size)

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
        published = _published(model)
        if preset and not published and validation is None and not (contrast is None and is_bundled(model)):
            raise ValueError(
                f"The {preset!r} preset's threshold was published for {', '.join(PUBLISHED)} and means nothing on "
                "another model: give validation=Contrast(…) to choose one on."
            )
        note, bench, effort = f"The {preset} preset, as published.", None, effort or choosing.standard()
        if preset and published:  # nothing is chosen, so nothing is held out
            contrast = (contrast or default_anchors(model)).under(asking)
        else:
            contrast, validation, note = learning_prompts(model, contrast, validation, seed, asking)
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
        last_after_norm = preset == "release"
        anchored = [side.moves for side in (harmful, harmless) if side.moves is not None]
        voting = published.voting if preset and published else None
        classifier = TransitionClassifier.fit(*one_way(anchored, last_after_norm), layers=voting)
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
            last_after_norm=last_after_norm,
            effort=effort,
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
            classifier, last_after_norm = voters(anchored, held)
            fitted = replace(fitted, classifier=classifier, last_after_norm=last_after_norm)
        t_held, t_others = one_way(held, last_after_norm)
        return fitted.with_chosen_knobs(bench, (t_others, t_held), spread(grid, effort.scales))

    def with_chosen_knobs(
        self,
        bench: Bench,
        moves: tuple[Float[Tensor, "other layer d_model"], Float[Tensor, "harmful layer d_model"]],
        grid: Sequence[float],
    ) -> SCANS:
        """The same with the best threshold and scale.

        Each prompt is answered under both signs of each scale, where some threshold gives it that sign, and every
        threshold is then looked up rather than run.

        Args:
            moves: what the classifier reads of the bench's harmless and of its harmful prompts.
            grid: scales to try first.
        """
        score = torch.cat([self.classifier.score(side) for side in moves]).double()
        tried = {missed: self.classifier.calibrated(moves[1], missed=missed) for missed in MISSED}
        lowest, highest = (end(one.threshold for one in tried.values()) for end in (min, max))
        strict = tried[MISSED[0]]
        trials = [Trial(0.0, MISSED[0], strict.threshold, **bench.counts(None))]
        sides = (
            (math.inf, (score < highest).nonzero()[:, 0].tolist()),
            (-math.inf, (score >= lowest).nonzero()[:, 0].tolist()),
        )

        def tried_at(scales: Sequence[float]) -> list[Trial]:
            """Every threshold's trial at each scale that can be paid; the scales share prefill and batches."""
            scales = scales[: bench.affords(sum(len(places) for _, places in sides))]
            if not scales:
                return []
            away, towards = (
                bench.refused_under(
                    [replace(self, scale=one, classifier=replace(strict, threshold=threshold)) for one in scales],
                    places,
                )
                for threshold, places in sides
            )
            found = []
            for scale, no_away, no_towards in zip(scales, away, towards, strict=True):
                for missed, one in tried.items():
                    pushed = [no_towards if at >= one.threshold else no_away for at in score.tolist()]
                    no = {place: side[place] for place, side in enumerate(pushed)}
                    found.append(Trial(scale, missed, one.threshold, **bench.counted(no)))
            return found

        at_once = TOGETHER if math.isinf(bench.left) else 1
        floor = trials[0].harmful[0] - BROKEN * len(bench.harmful)
        for start in range(0, len(grid), at_once):
            own = tried_at(grid[start : start + at_once])
            by_scale = [own[place : place + len(tried)] for place in range(0, len(own), len(tried))]
            good = list(takewhile(lambda some: max(trial.harmful[0] for trial in some) >= floor, by_scale))
            trials += chain.from_iterable(by_scale[: len(good) + 1])  # the first that is broken is the last
            if len(good) < at_once:
                break
        for _ in range(bench.rounds):
            finer = tried_at(choosing.beside(choice(trials)[0].scale, [trial.scale for trial in trials]))
            if not finer:
                break
            trials += finer
        trials.sort(key=lambda trial: trial.scale)
        chosen, found = choice(trials)
        return replace(
            self,
            scale=chosen.scale,
            classifier=tried[chosen.missed],
            trials=tuple(trials),
            note=f"{self.note} {found}".strip(),
        )

    @property
    def chosen(self) -> Trial | None:
        """The trial that was chosen, where threshold and scale were chosen."""
        own = (self.scale, self.classifier.threshold)
        return next((trial for trial in self.trials if (trial.scale, trial.threshold) == own), None)

    # ── Keeping ──

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with everything else in its header."""
        tensors = {
            "vectors": self.directions.vectors,
            "residual_norms": self.directions.residual_norms,
            "harmful_transition": self.classifier.harmful_transition,
        }
        if self.classifier.centre is not None:
            tensors["centre"] = self.classifier.centre
        header = {
            "origin": asdict(self.directions.origin),
            "layers": self.layers,
            "scale": self.scale,
            "unit": self.unit,
            "voting": self.classifier.layers,
            "threshold": self.classifier.threshold,
            "calibrated_on": self.classifier.calibrated_on,
            "trials": [asdict(trial) for trial in self.trials],
            "note": self.note,
            "repetition_penalty": self.repetition_penalty,
            "last_after_norm": self.last_after_norm,
            "abstain": self.abstain,
            "at_instruction": self.at_instruction,
            "width": self.width,
            "centred": self.classifier.centre is not None,
            "effort": self.effort.to_dict(),
        }
        artefacts.write(path, "SCANS", tensors, header, [self._score_use(), self._push_use()])

    def _score_use(self) -> Use:
        """How the score is read, for a file's header."""
        where = "the last token of the user's own words"
        if not self.at_instruction:
            where = f"the last token of the prompt, minus the last token of {OPENING!r} when the reply begins with it"
        minus = " - centre[layer]" if self.classifier.centre is not None else ""
        formula = f"score = mean over layers of cos(x{minus}, harmful_transition[layer]{minus})"
        if self.last_after_norm:
            formula += "; the last layer is read after the final norm"
        voting = tuple(int(layer) for layer in self.classifier.layers)
        unit = "cosine, -1 to 1; at or above threshold is harmful"
        return Use("read", SITE, where, voting, unit, formula)

    def _push_use(self) -> Use:
        """How a prompt is pushed, for a file's header."""
        sign = "sign = 1 if score >= threshold else -1"
        if self.width:
            sign = "sign = clip((score - threshold) / width, -1, 1)"
        if self.abstain:
            sign += "; sign = 0 where |score - threshold| < abstain"
        unit = f"1 is the vector as stored: {_UNITS[self.unit]}"
        return added(self.layers, unit=unit, formula=f"x + sign * scale * vectors[layer]; {sign}")

    @classmethod
    def load(cls, path: str | Path, model: Model | None = None) -> SCANS:
        """Read a fitted method back; with `model`, only if it was fitted on it.

        Raises:
            ValueError: no such file, not safetensors, cut short, something else, or of another model.
        """
        kept = Kept.read(path, "SCANS")
        directions = directions_in(kept, model, "These SCANS vectors")
        shape = tuple(directions.vectors.shape)
        named = [*_FIELDS, "abstain", *_OF_VARIANTS]
        older = [*_OF_VARIANTS] if "abstain" in kept.header else ["abstain", *_OF_VARIANTS]
        if not set(older) & set(kept.header):  # from before there were variants
            named = [name for name in named if name not in older]
        centred = ["centre"] if "centre" in kept.tensors else []
        if {"use", "centred"} & set(kept.header):  # else from before files said so
            centred = ["centre"] if kept.value("centred", bool) else []
        artefacts.require_parts(path, kept.tensors, ("vectors", "residual_norms", "harmful_transition", *centred))
        for name in ("harmful_transition", *centred):
            kept.require_shape(name, shape)
        voting = kept.value("voting", tuple[int, ...])
        found = cls(
            directions=directions,
            classifier=TransitionClassifier(
                kept.tensor("harmful_transition"),
                voting,
                **kept.fields(TransitionClassifier, "threshold", "calibrated_on"),
                centre=kept.tensors.get("centre"),
            ),
            **kept.fields(cls, *named, "effort"),
        )
        kept.require_layers("layers", found.layers, shape[0])
        kept.require_layers("voting layers", voting, shape[0])
        if not voting:
            raise ValueError(f"{str(path)!r} has no voting layers, so that there is no score.")
        return found

    def __str__(self) -> str:
        lines = [
            f"SCANS, learned from {self.directions.origin.contrast!r}{self.directions.origin.on}",
            f"  layers     {', '.join(map(str, self.layers))}",
            f"  scale      {self.scale:g} {self.unit}",
            f"  voting     {', '.join(map(str, self.classifier.layers))}{_NORMED * self.last_after_norm}",
            f"  threshold  {self.classifier.threshold:.4f} ({self.classifier.calibrated_on})",
        ]
        if self.abstain:
            lines.append(f"  abstain    where the score is nearer than {self.abstain:g} to it")
        if self.width:
            lines.append(f"  width      {self.width:g}: a nearer score is pushed in proportion")
        if self.at_instruction or self.classifier.centre is not None:
            what = "states at the end of the instruction" if self.at_instruction else "transitions"
            lines.append(f"  reads      {what}{', centred' * (self.classifier.centre is not None)}")
        lines.append(f"  effort     {self.effort}")
        if self.directions.origin.asking:
            lines.append(f"  asked      with {self.directions.origin.asking}")
        return "\n".join([*lines, f"  {self.note}"] if self.note else lines)

    __repr__ = __str__


_FIELDS = ("layers", "scale", "unit", "trials", "note", "repetition_penalty", "last_after_norm")
_OF_VARIANTS = ("at_instruction", "width")
_UNITS = {
    "residual norms": "as long as the layer's mean residual norm (residual_norms)",
    "length": "of length 1",
    "differences of means": "the raw difference of means",
}
_NORMED = " (the last one after the final norm)"


def _transitions(flight: Flight, last_after_norm: bool) -> Float[Tensor, "row layer d_model"]:
    if not last_after_norm:
        return flight.transitions()
    return after_final_norm(flight.model, flight.residuals()) - after_final_norm(flight.model, flight.opened())


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


def either_way(flight: Flight) -> Float[Tensor, "row layer_and_one d_model"]:
    """Transitions of all layers, and behind them the last layer's once more, after the final norm."""
    return torch.cat([flight.transitions(), _transitions(flight, True)[:, -1:]], dim=1)


def one_way(read: Sequence[Tensor], last_after_norm: bool) -> list[Tensor]:
    """What `either_way` gave, with one reading of the last layer: [prompt layer d_model]."""
    return [torch.cat([t[:, :-2], t[:, -1:]], dim=1) if last_after_norm else t[:, :-1] for t in read]


def voters(
    anchored: Sequence[Tensor], held: Sequence[Tensor], *, centred: bool = False
) -> tuple[TransitionClassifier, bool]:
    """The classifier whose score tells the held-out sides apart best, and whether it reads the last layer normed.

    The last layers vote, from one in the last two thirds of the depth on. Ties: more layers, and before the norm.

    Args:
        anchored: harmful and harmless anchors, as `either_way` gives them.
        held: harmful validation prompts and the others, likewise.
    """
    from sklearn.metrics import roc_auc_score

    n = held[0].shape[1] - 1
    truth = [1] * len(held[0]) + [0] * len(held[1])
    found = []
    for last_after_norm in (False, True):
        learned, asked = one_way(anchored, last_after_norm), torch.cat(one_way(held, last_after_norm))
        for first in range(n // 3, n):
            one = TransitionClassifier.fit(*learned, layers=range(first, n), centred=centred)
            found.append((roc_auc_score(truth, one.score(asked).double()), one, last_after_norm))
    _, best, normed = max(found, key=lambda entry: entry[0])
    return best, normed


def choice(trials: Sequence[Trial]) -> tuple[Trial, str]:
    """The best trial; ties go to the threshold that misses fewest harmful prompts, and then to the smaller scale."""
    return choosing.best(trials, lambda trial: (trial.missed, trial.scale))


def summary(scans: SCANS) -> list[dict[str, Any]]:
    """The trials at the chosen threshold as rows of rates with their intervals, from the plain model on."""
    chosen = scans.chosen
    own = [trial for trial in scans.trials if not trial.scale or (chosen and trial.missed == chosen.missed)]
    return [{"scale": trial.scale, "harmless": Rate(*trial.harmless), "harmful": Rate(*trial.harmful)} for trial in own]
