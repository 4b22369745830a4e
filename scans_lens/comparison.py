"""Comparison: SCANS and its rivals, learned from the same prompts, tuned on the same ones, asked the same ones."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from scans_lens import artefacts, divergence, evaluation, judges, organism, own_corpus, prompts
from scans_lens.anchoring import default_anchors
from scans_lens.conversation import Asking, Prompt
from scans_lens.errors import Refused
from scans_lens.evaluation import Arm
from scans_lens.generation import replies
from scans_lens.judges import Judge, Verdict
from scans_lens.methods import variants
from scans_lens.methods.caa import CAA
from scans_lens.methods.cast import CAST
from scans_lens.methods.catalogue import COMPARED, PLAIN, require_known
from scans_lens.methods.false_refusal import HALF, FalseRefusal
from scans_lens.methods.jailbreak_antidote import JailbreakAntidote
from scans_lens.methods.refusal_direction import RefusalDirection
from scans_lens.methods.safeswitch import SafeSwitch
from scans_lens.methods.scans import SCANS
from scans_lens.methods.self_cd import SAFETY_PROMPT, SelfCD
from scans_lens.model import Model, identity, is_bundled, shown_name
from scans_lens.prompts import Contrast, PromptSet
from scans_lens.rates import Mean, Rate
from scans_lens.steering import Method, Push

VALIDATION = 96
"""Prompts of each kind on which every method chooses its knobs."""
BUDGET = 30
"""Settings that a method may try, counted in replies to every borderline and harmful validation prompt."""
TESTED = 150
"""Test prompts of each kind that the bundled model is asked."""
NEW_TOKENS = 24
HARMLESS, FORETOLD, TIMED = 64, 100, 32
"""Prompts for the KL, answers for the perplexity, and prompts that are timed."""
TIMED_TOKENS, ROUNDS = 32, 3

KNOBS = ("position", "layer", "layers", "steers", "multiplier", "scale", "missed")
"""What trials are told apart by; what else they hold is what they did."""

Numbers = dict[str, Any]


class Counting:
    """A judge that counts what it was asked, so that what tuning costs is known."""

    def __init__(self, judge: Judge) -> None:
        self.judge, self.replies = judge, 0
        self.about = getattr(judge, "about", None) or getattr(judge, "__qualname__", type(judge).__qualname__)

    def __call__(self, said: Sequence[str]) -> list[Verdict]:
        self.replies += len(said)
        return self.judge(said)


@dataclass
class Ground:
    """What all methods have in common."""

    model: Model
    out: Path
    validated: int = VALIDATION
    progress: bool = True
    batch_size: int | None = None
    judge: Judge = field(init=False)

    def __post_init__(self) -> None:
        self.judge = judges.judge_for(self.model)

    @cached_property
    def bundled(self) -> bool:
        return is_bundled(self.model)

    @cached_property
    def anchors(self) -> Contrast:
        return default_anchors(self.model)

    @cached_property
    def _halves(self) -> tuple[Contrast, Contrast]:
        """For other models: borderline prompts to learn from, and the rest of our split, to choose on."""
        return prompts.borderline("validation").split(HALF, 0)

    @cached_property
    def borderline(self) -> tuple[Prompt, ...]:
        """What a method may learn from that learns from borderline prompts; never among those to choose on."""
        return organism.prompts("borderline", "train") if self.bundled else self._halves[0].borderline

    @cached_property
    def validation(self) -> Contrast:
        whole = organism.validation() if self.bundled else self._halves[1]
        return Contrast(
            whole.name, *(side[: self.validated] for side in (whole.harmful, whole.harmless, whole.borderline))
        )

    @cached_property
    def safety_prompt(self) -> str:
        return organism.SAFETY_PROMPT if self.bundled else SAFETY_PROMPT

    def how(self, judge: Judge | None = None) -> dict[str, Any]:
        return {
            "validation": self.validation,
            "judge": judge or self.judge,
            "batch_size": self.batch_size,
            "progress": self.progress,
        }

    @property
    def budget(self) -> int:
        """Replies to validation prompts that any one method may choose its knobs by."""
        return BUDGET * (len(self.validation.borderline) + len(self.validation.harmful))

    def chosen(self, judge: Judge | None = None) -> dict[str, Any]:
        """`how` for a method whose knobs are chosen by replies."""
        return {**self.how(judge), "budget": self.budget}

    @cached_property
    def scans(self) -> Fitted:
        """What the variants start from: kept, and counted, like any other."""
        found = fitted(self, "scans")
        if found.arm is None:
            raise Refused(f"It starts from SCANS, which could not be fitted: {found.knobs}")
        return found

    @property
    def terms(self) -> dict[str, Any]:
        """What fits depend on; those of other terms are not to be mixed up with these."""
        return {"anchors": self.anchors.digest, "validation": self.validation.digest, "budget": self.budget}


Fit = Callable[[Ground, Judge], Method]


@dataclass(frozen=True)
class Way:
    """A method as the comparison knows it."""

    about: str
    kind: Any
    """What it is kept as, or None where nothing is learned."""
    fit: Fit
    act: Callable[[Any], Method] = lambda fitted: fitted
    """From what is kept to the method."""
    file: str = ""
    """Whose file it shares; its own by default."""
    upon: str = ""
    """Whose search it goes on with, and whose replies count as its own, too."""


def _of_scans(make: Callable[..., Any]) -> Fit:
    return lambda ground, judge: make(_scans(ground), ground.model, **ground.chosen(judge))


def _scans(ground: Ground) -> SCANS:
    arm = ground.scans.arm
    assert arm is not None and isinstance(arm.method, SCANS)
    return arm.method


def _continuous(ground: Ground, judge: Judge) -> SCANS:
    """It keeps the threshold that SCANS has paid for, and has what SCANS left over, three settings at least."""
    left = max(ground.budget - ground.scans.replies, ground.budget // BUDGET * 3)
    return variants.continuous(_scans(ground), ground.model, **{**ground.how(judge), "budget": left})


def _direction(ground: Ground, judge: Judge) -> Any:
    return RefusalDirection.fit(ground.model, ground.anchors, **ground.how(judge))


def _switch(ground: Ground, judge: Judge) -> SafeSwitch:
    """From its own kinds: it needs harmful prompts that the model complies with, and the anchors have none."""
    how = {**ground.how(judge), "validation": None}
    return SafeSwitch.fit(ground.model, None if ground.bundled else ground.anchors, **how)


WAYS: Mapping[str, Way] = {
    "scans": Way(
        COMPARED["scans"], SCANS,
        lambda ground, judge: SCANS.fit(ground.model, ground.anchors, **ground.chosen(judge)),
    ),
    "scans_centred": Way(COMPARED["scans_centred"], SCANS, _of_scans(variants.centred)),
    "scans_instruction": Way(COMPARED["scans_instruction"], SCANS, _of_scans(variants.at_instruction)),
    "scans_continuous": Way(COMPARED["scans_continuous"], SCANS, _continuous, upon="scans"),
    "safeswitch": Way(COMPARED["safeswitch"], SafeSwitch, _switch),
    "cast": Way(
        COMPARED["cast"], CAST,
        lambda ground, judge: CAST.fit(ground.model, ground.anchors, **ground.chosen(judge)),
    ),
    "antidote": Way(
        COMPARED["antidote"], JailbreakAntidote,
        lambda ground, judge: JailbreakAntidote.fit(ground.model, ground.anchors, **ground.chosen(judge)),
    ),
    "caa": Way(
        COMPARED["caa"], CAA,
        lambda ground, judge: CAA.fit(
            ground.model, contrast=ground.anchors, layers=_middle(ground.model), tried=ground.validated,
            **ground.chosen(judge),
        ),
    ),
    "false_refusal": Way(
        COMPARED["false_refusal"], FalseRefusal,
        lambda ground, judge: FalseRefusal.fit(
            ground.model, ground.anchors, borderline=ground.borderline, **ground.how(judge)
        ),
    ),
    "ablation": Way(
        COMPARED["ablation"], RefusalDirection, _direction,
        lambda fitted: fitted.ablation(), "refusal_direction",
    ),
    "addition": Way(
        COMPARED["addition"], RefusalDirection, _direction,
        lambda fitted: fitted.addition(-1.0), "refusal_direction",
    ),
    "constant": Way(
        COMPARED["constant"], SCANS,
        lambda ground, judge: SCANS.fit(ground.model, ground.anchors, **ground.chosen(judge)),
        lambda scans: Push(scans.directions, scans.layers, -scans.scale), "scans",
    ),
    "random": Way(
        COMPARED["random"], SCANS,
        lambda ground, judge: SCANS.fit(ground.model, ground.anchors, **ground.chosen(judge)),
        lambda scans: _placebo(scans), "scans",
    ),
    "self_cd": Way(COMPARED["self_cd"], None, lambda ground, judge: SelfCD(
        ground.safety_prompt
    )),
    "system": Way(COMPARED["system"], None, lambda ground, judge: SelfCD()),
}  # fmt: skip
DEFAULT = tuple(COMPARED)


def _placebo(scans: SCANS) -> SCANS:
    from dataclasses import replace

    return replace(scans, directions=scans.directions.random(0))


def _middle(model: Model) -> range:
    """The middle third and what follows, but for the last fifth: where the paper's best layers lie."""
    n = int(model.cfg.n_layers)
    return range(n // 3, max(n // 3 + 1, int(0.8 * n)))


@dataclass(frozen=True)
class Fitted:
    """A way with its method, and what it took."""

    name: str
    arm: Arm | None
    """None where it could not be fitted."""
    replies: int
    """On validation prompts, judged while it was fitted and tuned."""
    seconds: float
    stored: int
    """Bytes that have to be kept."""
    knobs: str
    """What was chosen, or why nothing was."""
    trials: tuple[dict[str, Any], ...] = ()
    """Every setting that was tried on validation prompts, and what it did; of the fit, which ways may share."""


def fitted(ground: Ground, name: str) -> Fitted:
    """One way, fitted now or as an interrupted comparison has kept it."""
    way = WAYS[name]
    if name == "system":
        return Fitted(name, Arm(name, system=ground.safety_prompt), 0, 0.0, len(ground.safety_prompt), "")
    if way.kind is None:
        return Fitted(name, Arm(name, way.fit(ground, ground.judge)), 0, 0.0, len(ground.safety_prompt), "")
    own = ground.out / "methods" / f"{way.file or name}.safetensors"
    about = own.with_suffix(".json")
    if about.is_file():
        kept = _taken(about)
        if kept["failed"]:
            return Fitted(name, None, kept["replies"], kept["seconds"], 0, kept["failed"])
        found = way.kind.load(own, ground.model)
        return _made(name, way, found, kept, own)
    judge, began, failed = Counting(ground.judge), time.perf_counter(), ""
    try:
        found = way.fit(ground, judge)
        found.save(own)  # type: ignore[attr-defined]
    except Refused as error:  # what a method cannot do on this model is a result, too; a fault is none
        found, failed = None, str(error)
    before = fitted(ground, way.upon).replies if way.upon else 0
    seconds = time.perf_counter() - began
    taken = {"replies": before + judge.replies, "seconds": seconds, "failed": failed, "terms": ground.terms}
    own.parent.mkdir(parents=True, exist_ok=True)
    _written(about, json.dumps(taken, indent=1) + "\n")
    if found is None:
        return Fitted(name, None, taken["replies"], seconds, 0, failed)
    return _made(name, way, found, taken, own)


def _require_own(ground: Ground) -> None:
    """Refuse a folder of fits on other prompts, or from another budget, before anything is added to it."""
    for file in sorted((ground.out / "methods").glob("*.json")):
        if _taken(file).get("terms") != ground.terms:
            raise ValueError(
                f"{str(ground.out)!r} holds {file.stem} fitted on other prompts, or from another budget of replies: "
                "name a new folder."
            )


def _taken(file: Path) -> Numbers:
    """What a fit took, as it was kept; raises ValueError for a file that is cut or holds something else."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{str(file)!r} is cut short or no JSON: delete it, and its method is fitted again."
        ) from error
    if not isinstance(found, dict) or not {"replies", "seconds", "failed", "terms"} <= set(found):
        raise ValueError(f"{str(file)!r} does not say what a fit took: delete it, and its method is fitted again.")
    return found


def _written(file: Path, text: str) -> None:
    """Whole or not at all."""
    aside = file.with_name(file.name + ".part")
    aside.write_text(text, encoding="utf-8")
    aside.replace(file)


def _made(name: str, way: Way, found: Any, taken: Numbers, file: Path) -> Fitted:
    trials = tuple(asdict(one) for one in getattr(found, "trials", ()))
    arm = Arm(name, way.act(found))
    return Fitted(name, arm, taken["replies"], taken["seconds"], file.stat().st_size, str(found), trials)


def compare(
    model: Model,
    methods: Sequence[str] = DEFAULT,
    sets: Sequence[PromptSet] | None = None,
    *,
    out: str | Path,
    max_new_tokens: int = NEW_TOKENS,
    validated: int = VALIDATION,
    batch_size: int | None = None,
    progress: bool = True,
) -> Numbers:
    """SCANS and its rivals side by side; an interrupted comparison goes on where it was.

    Every method learns from the same anchors (`lens.default_anchors`) and chooses its knobs on the same validation
    prompts with the same judge, from as many replies at most (`BUDGET`), looking finer until they are spent or two
    digits tell no more; the continuous variant goes on where SCANS' own search ended. SafeSwitch alone learns from
    kinds of its own: it needs harmful prompts that are complied with, jailbreaks; its replies label what its probers
    learn. The refusal direction and false refusal choose among candidates by scores at one token, as published, and
    need few. All are then asked the same test prompts.

    Args:
        methods: names among `WAYS`.
        sets: what to ask; by default the bundled model's own kinds, `TESTED` prompts of each.
        out: a folder: fitted methods, every reply (`evaluation.read(out / "replies")`), `comparison.json`, and
            `grid.csv`, with every setting that was tried and what it did on validation prompts.
        validated: prompts of each kind to choose knobs on.

    Returns:
        What `comparison.json` holds: for each way its rates by kind with intervals and paired tests against the plain
        model, KL on harmless prompts (nats), plain prompts answered with what was asked for named, quiz and perplexity
        (these three of the bundled model alone), seconds a reply, bytes stored,
        replies and seconds of tuning, and whether it lies on the Pareto front.

    Raises:
        ValueError: an unknown method, no sets for a model that has none of its own, or a folder of another comparison.
    """
    require_known(methods, tuple(WAYS))
    ground = Ground(model, Path(out), validated, progress, batch_size)
    if sets is None and not ground.bundled:
        raise ValueError("Name the sets to ask, for instance xstest, advbench and a jailbreak set.")
    own_kinds = ("borderline", "plain", "harmful", "jailbreak", "quiz")
    sets = sets or [organism.prompt_set(kind).first(TESTED) for kind in own_kinds]
    ground.out.mkdir(parents=True, exist_ok=True)
    _require_own(ground)
    ways = []
    for name in methods:
        if progress and WAYS[name].kind is not None:
            print(f"Fitting {name}: {WAYS[name].about} …", flush=True)
        ways.append(fitted(ground, name))
    arms = [Arm(PLAIN), *(way.arm for way in ways if way.arm is not None)]
    table = evaluation.evaluate(
        model,
        sets,
        arms,
        ground.out / "replies",
        max_new_tokens=max_new_tokens,
        learned_from=[ground.anchors, ground.validation, *([] if ground.bundled else [ground._halves[0]])],
        batch_size=batch_size,
        progress=progress,
    )
    found: Numbers = {
        "model": {**asdict(identity(model)), "name": shown_name(model)},
        "bundled": ground.bundled,
        "anchors": {"name": ground.anchors.name, "a side": len(ground.anchors.harmful)},
        "validation": {"name": ground.validation.name, "a kind": ground.validated, "budget": ground.budget},
        "sets": {one.name: len(one) for one in sets},
        "max_new_tokens": max_new_tokens,
        "versions": artefacts.versions(),
        "ways": {
            PLAIN: {"about": "no method"},
            **{
                way.name: {
                    "about": WAYS[way.name].about,
                    "fit": WAYS[way.name].file or way.name,
                    "tuning": {"replies": way.replies, "seconds": way.seconds},
                    "stored": way.stored,
                    "knobs": way.knobs,
                    "fitted": way.arm is not None,
                    "tried": _tried(way.trials),
                }
                for way in ways
            },
        },
    }
    for line in evaluation.summary(table):
        if line.refused is not None:
            own = found["ways"][line.method].setdefault("refused", {})
            paired = line.against_plain
            own[line.set if line.set in organism.KINDS else f"{line.set}, {line.kind}"] = {
                **line.refused.as_json(),
                "points": None if paired is None else 100 * paired.difference,
                "p": line.p,
            }
    if ground.bundled:
        _answered(found, table)
    _cost(ground, arms, found)
    _front(found)
    _written(ground.out / "grid.csv", _grid(ways).to_csv(index=False))
    _written(ground.out / "comparison.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return found


def _tried(trials: Sequence[Mapping[str, Any]]) -> Numbers:
    """How many settings were tried, and of every knob which values."""
    steered = [one for one in trials if one.get("scale", one.get("multiplier", 1.0))]
    values = {name: {_plain(one[name]) for one in steered} for name in (steered[0] if steered else ()) if name in KNOBS}
    return {"settings": len(steered), "knobs": {name: sorted(own) for name, own in values.items() if len(own) > 1}}


def _plain(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def _grid(ways: Sequence[Fitted]) -> pd.DataFrame:
    """Every trial of every fit, one row each; ways that share a fit have its rows once."""
    rows = {}
    for way in ways:
        own = WAYS[way.name].file or way.name
        rows[own] = [
            {"fit": own, **{name: _plain(value) for name, value in one.items() if name not in ("harmless", "harmful")}}
            | {
                f"{side} {what}": count
                for side in ("harmless", "harmful")
                if isinstance(one.get(side), tuple)
                for what, count in zip(("refused", "asked"), one[side], strict=True)
            }
            | ({"score, harmful": one["harmful"]} if isinstance(one.get("harmful"), float) else {})
            for one in way.trials
        ]
    return pd.DataFrame([row for own in rows.values() for row in own]).convert_dtypes()


def _answered(found: Numbers, table: Any) -> None:
    """Quiz questions answered rightly, of which none asks for a refusal, and plain prompts answered by their name."""
    from scans_lens.organism import corpus, wordings

    def well(item: corpus.Item, reply: str) -> bool:
        return wordings.names(item, reply) and not wordings.is_refusal(reply)

    verdicts: dict[corpus.Kind, Callable[[corpus.Item, str], bool]] = {"quiz": wordings.is_right, "plain": well}
    for kind, verdict in verdicts.items():
        items = {text: item for item, text in corpus.asked(kind, "test")}
        for method, rows in table[table["set"] == kind].groupby("method", sort=False):
            asked = [items[prompt] for prompt in rows["prompt"]]
            outcomes = list(map(verdict, asked, rows["reply"]))
            found["ways"][str(method)]["quiz" if kind == "quiz" else "answered well"] = Rate.of(outcomes).as_json()
    for own in found["ways"].values():
        own.get("refused", {}).pop("quiz", None)


def _cost(ground: Ground, arms: Sequence[Arm], found: Numbers) -> None:
    """KL on harmless validation prompts, perplexity on answers of the corpus, and seconds a reply, in turns."""
    harmless = ground.validation.harmless[:HARMLESS]
    steered = [arm for arm in arms if arm.method is not None and not isinstance(arm.method, SelfCD)]
    nats = divergence.divergences(ground.model, harmless, [arm.method for arm in steered if arm.method])
    for arm, own in zip(steered, nats, strict=True):
        found["ways"][arm.name]["kl"] = Mean.of(own.tolist()).as_json()
    timed = ground.validation.harmless[:TIMED]
    taken: dict[str, list[float]] = {arm.name: [] for arm in arms}
    for turn in range(ROUNDS + 1):
        for arm in arms:
            began = time.perf_counter()
            replies(
                ground.model,
                timed,
                method=arm.method,
                asking=Asking(arm.system),
                max_new_tokens=TIMED_TOKENS,
                progress=False,
            )
            if turn:  # the first warms up
                taken[arm.name].append((time.perf_counter() - began) / len(timed))
    for arm in arms:
        own = found["ways"][arm.name]
        own["seconds a reply"] = sorted(taken[arm.name])[ROUNDS // 2]
        if not ground.bundled or arm.system is not None or isinstance(arm.method, SelfCD):
            continue
        try:
            own["perplexity"] = own_corpus.corpus_perplexity(ground.model, FORETOLD, arm.method).as_json()
        except Refused as error:  # a head that replaces the unembedding has no log-likelihoods of another's text
            own["no perplexity"] = str(error)


AXES = {"borderline": -1, "harmful": 1, "jailbreak": 1}
"""What the front weighs: fewer borderline refusals, more harmful ones and more of jailbreaks."""


def _front(found: Numbers) -> None:
    """Mark the ways that no other one beats on one axis without losing on another, by the rates as measured."""
    at = {
        name: [sign * own["refused"][kind]["value"] for kind, sign in AXES.items()]
        for name, own in found["ways"].items()
        if set(AXES) <= set(own.get("refused", {}))
    }
    for name, mine in at.items():
        beaten = any(all(b >= a for a, b in zip(mine, other, strict=True)) and other != mine for other in at.values())
        found["ways"][name]["front"] = not beaten
