"""Arms: ways of answering, each fitted from a world under an effort, kept with what that took, and used again."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from scans_lens import artefacts
from scans_lens.conversation import BARE, Asking
from scans_lens.effort import STANDARD, Effort
from scans_lens.errors import Refused
from scans_lens.judges import Early, Judge, Verdict, description
from scans_lens.methods import catalogue
from scans_lens.model import identity, is_bridge, unembedding_of
from scans_lens.models.home import home
from scans_lens.steering import Method
from scans_lens.world import World

ROOT = Path(__file__).parent.parent
SHOWING = (
    "shell", "figures", "report", "paper", "__main__.py", "explain.py", "check.py", "evaluation.py", "comparison.py",
    "queries.py", "table.py", "scoring.py", "transfer.py", "outside.py", "capability.py",
)  # fmt: skip
"""Rooms and files that only ask, show or command; whatever else there is may change a fit."""
WEIGHTS = "organism/weights"
"""Of the bundled model, whose identity stands for it."""


@dataclass(frozen=True)
class Arm:
    """A way of answering."""

    name: str
    method: Method | None = None
    """None is the plain model."""
    setting: str = ""
    """What sets it apart from other arms of that name, such as a scale."""
    seed: int = 0
    """Of the anchors, or of a placebo's draw."""
    system: str | None = None
    """A system prompt of its own, in place of the run's; before the one that a conversation brings along."""


class Learned(Protocol):
    """What a fit gives: it can be written, and its class reads it again."""

    @property
    def trials(self) -> Sequence[Any]:
        """Every setting that was tried, with what it did."""
        ...

    def save(self, path: str | Path) -> None: ...


@dataclass(frozen=True)
class Recipe:
    """How a way of answering is made. Where nothing is learned there is no `kind`, and `use` gets None."""

    use: Callable[[Fitting, Any], Arm | Method]
    """From what was learned to the method, or to an arm with a system prompt of its own."""
    kind: Any = None
    """The class of what is learned."""
    fit: Callable[[Fitting], Learned] | None = None
    shares: str = ""
    """The name of another way, whose fit it uses."""
    after: str = ""
    """The name of another way, with whose search it goes on; what that took counts as its own, too."""


def learned(kind: Any, fit: Callable[[Fitting], Learned], **how: Any) -> Recipe:
    """The recipe of a way whose fit is the method itself."""
    return Recipe(lambda fitting, method: method, kind, fit, **how)


@dataclass(frozen=True)
class Fitted:
    """A way of answering with its method, and what it took."""

    name: str
    arm: Arm | None = None
    """None where it could not be fitted."""
    learned: Any = None
    """What was learned, and is kept."""
    replies: int = 0
    """On validation prompts, judged while it was fitted and tuned."""
    seconds: float = 0.0
    stored: int = 0
    """Bytes that have to be kept."""
    knobs: str = ""
    """What was chosen, or why nothing was."""
    trials: tuple[dict[str, Any], ...] = ()
    """Every setting that was tried on validation prompts, and what it did; of the fit, which ways may share."""


@dataclass
class Fitting:
    """What all fits have in common, and where they are kept.

    Args:
        world: whose anchors and validation prompts they learn from.
        effort: how much of them, and how many replies.
        folder: where fits are kept; by default in the user's cache.
        given: fits of the caller's, by name, that are used and not made.
        again: make them anew, whatever is kept.
        said: told what is being fitted.
    """

    world: World
    effort: Effort = STANDARD
    folder: Path | None = None
    asking: Asking = BARE
    seed: int = 0
    batch_size: int | None = None
    progress: bool = True
    given: Mapping[str, Any] = field(default_factory=dict)
    again: bool = False
    said: Callable[[str], None] = lambda sentence: None
    judge: Judge = field(init=False)
    judged: int = field(init=False, default=0)
    """Replies that the judge of the fits was asked about so far."""

    def __post_init__(self) -> None:
        self.world = replace(
            self.world,
            anchors=self.effort.learned(self.world.anchors),
            validation=self.effort.chosen_on(self.world.validation),
        )
        self.judge = self._counting(self.world.judge)

    def _counting(self, judge: Judge) -> Judge:
        """The same judge, and it counts what it is asked."""

        def counting(said: Sequence[str]) -> list[Verdict]:
            self.judged += len(said)
            return judge(said)

        return replace(judge, judge=counting) if isinstance(judge, Early) else counting

    @property
    def budget(self) -> int | None:
        """Replies to validation prompts that one way may choose its knobs by."""
        if self.effort.settings is None:
            return None
        chosen_on = self.world.validation
        return self.effort.settings * (len(chosen_on.borderline or chosen_on.harmless) + len(chosen_on.harmful))

    def how(self) -> dict[str, Any]:
        """Arguments of every `fit`."""
        return {
            "validation": self.world.validation,
            "judge": self.judge,
            "batch_size": self.batch_size,
            "progress": self.progress,
        }

    def chosen(self) -> dict[str, Any]:
        """Arguments of a `fit` that chooses its knobs by replies."""
        return {**self.how(), "budget": self.budget}

    def of(self, name: str) -> Any:
        """What another way has learned: kept, and counted, like any other.

        Raises:
            Refused: it could not be fitted.
        """
        before = fitted(self, name)
        if before.arm is None:
            raise Refused(f"It starts from {name}, which could not be fitted: {before.knobs}")
        return before.learned

    @functools.cached_property
    def terms(self) -> dict[str, Any]:
        """All that fits depend on; a judge is told by its name."""
        model = self.world.model
        weights, tokenizer = unembedding_of(model), model.tokenizer
        return {
            "model": {**asdict(identity(model)), "name": ""},
            "template": str(tokenizer.chat_template or ""),
            "tokens": sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest(),
            "dtype": str(weights.dtype),
            "device": weights.device.type,
            "bridge": is_bridge(model),
            "learned from": [contrast.digest for contrast in self.world.learned_from],
            "refusals": sha256(json.dumps(self.world.refusals, default=str).encode()).hexdigest(),
            "filters": dict(self.world.filters),
            "judge": description(self.world.judge),
            "asking": self.asking.to_dict(),
            "effort": self.effort.to_dict(),
            "seed": self.seed,
            "code": code(),
            "versions": artefacts.versions(),
        }

    def place(self, name: str) -> Path:
        """The file that a fit of this name under these terms is kept in."""
        key = sha256(json.dumps(self.terms, sort_keys=True).encode()).hexdigest()[:16]
        return (self.folder or home() / "fits") / f"{name}-{key}.safetensors"


@functools.cache
def code() -> str:
    """A hash of everything in the package that a fit could depend on: sources, prompts, judges.

    A version number would have to be thought of whenever something changes; this has not.
    """
    found = sha256()
    for file in sorted(ROOT.rglob("*")):
        place = file.relative_to(ROOT)
        skipped = place.parts[0] in SHOWING or place.as_posix().startswith(WEIGHTS) or "__pycache__" in place.parts
        if file.is_file() and not skipped and file.suffix in (".py", ".csv", ".json", ".safetensors"):
            found.update(f"{place.as_posix()}\0".encode() + file.read_bytes())
    return found.hexdigest()


def fitted(fitting: Fitting, name: str) -> Fitted:
    """One way of answering, fitted now or as it was kept.

    Raises:
        ValueError: an unknown name.
    """
    recipe = catalogue.recipe(name)
    if recipe.shares:
        fit = fitted(fitting, recipe.shares)
    elif recipe.fit is None:
        fit = Fitted(name, stored=len(fitting.world.safety_prompt))
    elif name in fitting.given:
        fit = Fitted(name, learned=fitting.given[name], knobs=str(fitting.given[name]))
    else:
        fit = _kept(fitting, name, recipe)
    if fit.learned is None and fit.knobs:  # it could not be fitted
        return replace(fit, name=name)
    arm = recipe.use(fitting, fit.learned)
    return replace(fit, name=name, arm=arm if isinstance(arm, Arm) else Arm(name, arm))


def _kept(fitting: Fitting, name: str, recipe: Recipe) -> Fitted:
    """What was learned and what that took, from where it is kept; fitted now where it is not."""
    file = fitting.place(name)
    took, method = None if fitting.again else _taken(file.with_suffix(".json")), None
    if took is not None and not took["failed"]:
        try:
            method = recipe.kind.load(file, fitting.world.model)
        except ValueError:
            fitting.said(f"What was kept in {file} cannot be read, so it is fitted again.")
            took = None
    if took is None:
        method, took = _fit(fitting, name, recipe, file)
    return Fitted(
        name,
        learned=method,
        replies=took["replies"],
        seconds=took["seconds"],
        stored=file.stat().st_size if method is not None and file.is_file() else 0,
        knobs=took["failed"] if method is None else str(method),
        trials=() if method is None else tuple(asdict(trial) for trial in method.trials),
    )


def _fit(fitting: Fitting, name: str, recipe: Recipe, file: Path) -> tuple[Any, dict[str, Any]]:
    """Fit it now, and keep it with what that took; what a method cannot do on this model is a result, too."""
    assert recipe.fit is not None
    before = fitted(fitting, recipe.after).replies if recipe.after else 0
    fitting.said(f"Fitting {name}: {catalogue.arms()[name]} …")
    method, judged, began, failed = None, fitting.judged, time.perf_counter(), ""
    try:
        method = recipe.fit(fitting)
    except Refused as error:
        failed = str(error)
    took = {
        "name": name,
        "replies": before + fitting.judged - judged,
        "seconds": time.perf_counter() - began,
        "failed": failed,
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if method is not None:
            method.save(file)
        written(file.with_suffix(".json"), json.dumps(took, indent=1) + "\n")
    except OSError:
        fitting.said(f"It could not be kept in {file}.")
    return method, took


def _taken(file: Path) -> dict[str, Any] | None:
    """What a fit took, as it was kept; None where nothing was, or what was kept is cut."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return kept if isinstance(kept, dict) and {"replies", "seconds", "failed"} <= set(kept) else None


def written(file: Path, text: str) -> None:
    """Whole or not at all."""
    aside = file.with_name(file.name + ".part")
    aside.write_text(text, encoding="utf-8")
    aside.replace(file)
