"""Sweeps: what becomes of refusals when one thing at a time is changed: scale, threshold, layers, prompts, anchors.

Knobs come from the study, which chose them on validation prompts; the sweeps are of test prompts, and choose nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scans_lens import calibration, judges, organism, prompts
from scans_lens.classifier import ROUNDING, TransitionClassifier, threshold_at
from scans_lens.conversation import Prompt, words
from scans_lens.directions import Directions, difference_of_means, shuffled_difference
from scans_lens.divergence import divergences
from scans_lens.evaluation import elsewhere
from scans_lens.figures.study import Study, by_kind, signed
from scans_lens.judges import Judge, Verdict
from scans_lens.lens import layers_by_thirds
from scans_lens.likelihoods import Perplexity
from scans_lens.methods.scans import MISSED, SCANS
from scans_lens.organism import corpus, wordings
from scans_lens.own_corpus import corpus_perplexity
from scans_lens.rates import Clustered, Rate
from scans_lens.reading import residuals
from scans_lens.steering import Method, Push

RESAMPLES = 500
SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""Scales that are swept, as multiples of the chosen one."""
PLACEBO_SCALES = (0.0, 0.5, 1.0, 1.5, 2.0)
PLACEBO_DRAWS = 3
PLACEBO_PROMPTS = 100
"""Prompts that each placebo is tried on."""
THRESHOLDS = 40
"""Points of the threshold's sweep."""
TYPED = 3
"""Where prompts are divided by type, so many times as many test prompts are asked as elsewhere."""
JUDGED_TOKENS = 40
"""New tokens of a reply that every judge is asked about."""
SIZES = (8, 16, 32, 64, 128, 192)
"""Anchors a side."""
SIZE_DRAWS = 4
SIZE_PROMPTS = 100
"""Prompts of a kind that are answered with every draw of anchors."""
QUIZ_TOKENS = 24
CURVE_POINTS = 150


# ── How hard, and where the threshold ────────────────────────────────────────────────────────────────────────


def push_sweep(study: Study) -> dict[str, Any]:
    """Who is refused at every scale, what placebos do to borderline prompts there, and how far it moves the model."""
    scans = study.scans
    scales = [share * scans.scale for share in SCALES]
    own = {kind: [Rate.of(_at_share(study, kind, share)) for share in SCALES] for kind in study.test}
    kind = _harmless_kind(study.test)
    tried = study.test[kind][:PLACEBO_PROMPTS]
    before = Rate.of(study.pushed[kind].plain[: len(tried)])
    placebos = {}
    for name, draws in _placebos(study).items():
        rates = [
            [
                Rate.of(study.refused(tried, replace(draw, scale=share * scans.scale))) if share else before
                for draw in draws
            ]
            for share in PLACEBO_SCALES
        ]
        placebos[name] = {"draws": len(draws), "rates": rates, "cosine": _likeness(scans, draws)}
    asked = study.validation.harmless[: len(study.test["plain"])]
    away = [Push(scans.directions, scans.layers, -scale) for scale in scales]
    apart = divergences(study.model, asked, away, batch_size=study.batch_size).numpy()
    drawn = np.random.default_rng(study.seed).integers(len(asked), size=(RESAMPLES, len(asked)))
    kl = [
        {"value": row.mean(), "interval": np.quantile(row[drawn].mean(1), (0.025, 0.975)), "n": len(asked)}
        for row in apart
    ]
    return {
        "n": _sizes(study),
        "shares": SCALES,
        "scales": scales,
        "chosen": scans.scale,
        "unit": scans.unit,
        "layers": scans.layers,
        "threshold": scans.classifier.threshold,
        "rates": own,
        "kl": kl,
        "placebos": placebos,
        "placebo_scales": [share * scans.scale for share in PLACEBO_SCALES],
        "placebo_kind": kind,
        "placebo_layers": elsewhere(scans.layers, len(scans.directions)),
        "placebo_n": len(tried),
        "resamples": RESAMPLES,
        **_judged(study),
    }


def _at_share(study: Study, kind: str, share: float) -> Sequence[bool]:
    """Who of a kind's test prompts SCANS refuses at this multiple of its scale; what is known already is not run."""
    scans, there = study.scans, study.pushed[kind]
    if share == 0:
        return there.plain
    if share == 1:
        return there.at(scans.classifier.threshold)
    return study.refused(study.test[kind], replace(scans, scale=share * scans.scale))


def _placebos(study: Study) -> dict[str, list[SCANS]]:
    """SCANS with directions that mean nothing, as long as its own, or in layers that are none of its own."""
    scans = study.scans
    harmful, plain = (study.anchor_states[kind].residuals for kind in ("harmful", "plain"))
    lengths = scans.directions.vectors.norm(dim=-1, keepdim=True)

    def shuffled(draw: int) -> Directions:
        vectors = shuffled_difference(harmful, plain, study.generator("shuffled for a sweep", str(draw))).float()
        return replace(scans.directions, vectors=vectors / vectors.norm(dim=-1, keepdim=True) * lengths)

    return {
        "random directions": [
            replace(scans, directions=scans.directions.random(study.seed + draw)) for draw in range(PLACEBO_DRAWS)
        ],
        "shuffled labels": [replace(scans, directions=shuffled(draw)) for draw in range(PLACEBO_DRAWS)],
        "wrong layers": [replace(scans, layers=elsewhere(scans.layers, len(scans.directions)))],
    }


def _likeness(scans: SCANS, draws: Sequence[SCANS]) -> float:
    """Mean absolute cosine with the true directions, over the draws and the layers that each of them steers."""
    found = [
        torch.nn.functional.cosine_similarity(draw.directions.vectors, scans.directions.vectors, dim=-1)
        for draw in draws
    ]
    return float(torch.stack([one[list(draw.layers)] for one, draw in zip(found, draws, strict=True)]).abs().mean())


def threshold_sweep(study: Study) -> dict[str, Any]:
    """Who is refused at every threshold, looked up from replies under either sign of the push."""
    scans, chosen = study.scans, study.scans.chosen
    assert chosen
    moves = scans.transitions(study.model, study.validation.harmful, batch_size=study.batch_size)
    held = scans.classifier.score(moves).double().numpy()
    found = calibration.calibrated(held, chosen.missed, resamples=RESAMPLES, seed=study.seed)
    scores = torch.cat([one.score for one in study.pushed.values()]).double().numpy()
    grid = np.unique(np.quantile(scores, np.linspace(0, 1, THRESHOLDS)))
    thresholds = [*grid.tolist(), float(scores.max()) + ROUNDING, scans.classifier.threshold]
    thresholds = sorted(set(thresholds))
    return {
        "n": _sizes(study),
        "thresholds": thresholds,
        "rates": {kind: [Rate.of(one.at(at)) for at in thresholds] for kind, one in study.pushed.items()},
        "plain_model": {kind: Rate.of(one.plain) for kind, one in study.pushed.items()},
        "chosen": scans.classifier.threshold,
        "interval": found.interval,
        "missed": chosen.missed,
        "n_validation": len(held),
        "tried": [{"missed": missed, "threshold": threshold_at(held, missed)} for missed in MISSED],
        "resamples": RESAMPLES,
        "scale": scans.scale,
        "unit": scans.unit,
        "layers": scans.layers,
        **_judged(study),
    }


# ── In which layers ──────────────────────────────────────────────────────────────────────────────────────────


def thirds(study: Study) -> dict[str, Any]:
    """The same push in another third of the layers: who is refused, and how well an answer is still foretold."""
    scans = study.scans
    ways: dict[str, SCANS | None] = {
        "plain model": None,
        "anchor layers": scans,
        **{name: replace(scans, layers=layers) for name, layers in _bands(len(scans.directions)).items()},
    }
    rates = {
        "plain model": {kind: Rate.of(one.plain) for kind, one in study.pushed.items()},
        "anchor layers": {kind: Rate.of(one.at(scans.classifier.threshold)) for kind, one in study.pushed.items()},
    }
    for way, method in ways.items():
        if way not in rates:
            rates[way] = {kind: Rate.of(study.refused(texts, method)) for kind, texts in study.test.items()}
    return {
        "n": _sizes(study),
        "ways": {
            way: {
                "layers": method.layers if method else [],
                "rates": rates[way],
                "perplexity": _as_json(_perplexity(study, method, method and -1.0)),
            }
            for way, method in ways.items()
        },
        "scale": scans.scale,
        "unit": scans.unit,
        "threshold": scans.classifier.threshold,
        **_judged(study),
    }


def _bands(n: int) -> dict[str, tuple[int, ...]]:
    """The layers by thirds (SCANS, table 5)."""
    return {f"{name} third": tuple(layers) for name, layers in layers_by_thirds(n).items()}


def _perplexity(study: Study, method: SCANS | None, sign: float | None) -> Perplexity | None:
    """Of the bundled model's corpus, answers behind plain test prompts; other models have no corpus here."""
    if not study.bundled:
        return None
    key = (method.layers if method else (), sign)
    if key in study.foretold:
        return study.foretold[key]
    found = corpus_perplexity(study.model, len(study.test["plain"]), method, sign=sign, batch_size=study.batch_size)
    return study.foretold.setdefault(key, found)


def _as_json(found: Perplexity | None) -> dict[str, Any] | None:
    return None if found is None else {key: found.as_json()[key] for key in ("value", "interval", "tokens", "texts")}


# ── Which prompts ────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Typed:
    """A prompt with the types that it belongs to; those of one item are drawn together."""

    text: str
    item: str
    types: frozenset[str]


def typed(study: Study, split: corpus.Split = "test") -> dict[str, list[Typed]]:
    """Borderline prompts with their types, and harmful ones with those types that they are the contrast of.

    Of the bundled model a harmful prompt contrasts with every type that takes the same verbs; of any other model, with
    our own pairs, it is the twin of one borderline prompt.
    """
    sides: tuple[corpus.Kind, ...] = ("borderline", "harmful")
    most = TYPED * max(map(len, study.test.values()))
    found: dict[str, list[Typed]] = {}
    if not study.bundled:
        whole = prompts.pairs(split)
        for text, kind, item, type_ in zip(whole.prompts, whole.kinds, whole.items, whole.types, strict=True):
            found.setdefault(kind, []).append(Typed(words(text), item, frozenset({type_})))
        return {side: found[side][:most] for side in sides}
    takes: dict[str, set[str]] = {}
    for item in corpus.items("borderline"):
        takes.setdefault(item.act, set()).add(item.type)
    for side in sides:
        for item, text in corpus.asked(side, split)[:most]:
            types = {item.type} if side == "borderline" else takes.get(item.act, set())
            found.setdefault(side, []).append(Typed(text, item.phrase, frozenset(types)))
    return found


def by_type(study: Study) -> dict[str, Any]:
    """Who is refused of each type of borderline prompts, and of their harmful contrasts, without and with SCANS."""
    asked = typed(study)
    refused = {
        kind: {
            "plain model": study.refused([one.text for one in own]),
            "SCANS": study.refused([one.text for one in own], study.scans),
        }
        for kind, own in asked.items()
    }

    def rates(kind: str, own: Callable[[Typed], bool]) -> dict[str, Any]:
        places = [place for place, one in enumerate(asked[kind]) if own(one)]
        items = [asked[kind][place].item for place in places]
        return {way: _clustered(study, [no[place] for place in places], items) for way, no in refused[kind].items()}

    found: dict[str, Any] = {}
    for type_ in sorted({name for one in asked["borderline"] for name in one.types}):
        there = [kind for kind, own in asked.items() if any(type_ in one.types for one in own)]
        found[type_] = {kind: rates(kind, lambda one, type_=type_: type_ in one.types) for kind in there}
    first = {name: part["borderline"]["plain model"] for name, part in found.items()}
    return {
        "types": dict(sorted(found.items(), key=lambda entry: (-first[entry[0]]["value"], entry[0]))),
        "all": {kind: rates(kind, lambda one: True) for kind in asked},
        "n": {kind: len(own) for kind, own in asked.items()},
        "overlapping": any(len(one.types) > 1 for one in asked["harmful"]),
        "resamples": RESAMPLES,
        "scale": study.scans.scale,
        "unit": study.scans.unit,
        **_judged(study),
    }


def calibrated(study: Study) -> dict[str, Any]:
    """The score's trade-off on test prompts, and what becomes of a threshold that was calibrated on another type."""
    scans, chosen = study.scans, study.scans.chosen
    assert chosen

    def score(texts: Sequence[Prompt]) -> np.ndarray:
        moves = scans.transitions(study.model, list(texts), batch_size=study.batch_size)
        return scans.classifier.score(moves).double().numpy()

    test = {kind: one.score.double().numpy() for kind, one in study.pushed.items()}
    curves = {}
    for kind in ("borderline", "plain"):
        if kind in test:
            own = calibration.curves(test["harmful"], test[kind], resamples=RESAMPLES, seed=study.seed)
            keep = np.unique(np.linspace(0, len(own.flagged) - 1, CURVE_POINTS).round().astype(int))
            curves[kind] = {
                "flagged": own.flagged[keep],
                "caught": own.caught[keep],
                "precision": own.precision[keep],
                "auc": {"value": own.auc, "interval": own.auc_interval, "n": own.n},
                "average_precision": _average_precision(test["harmful"], test[kind], study.seed),
                "at_threshold": {
                    "caught": Rate.of((test["harmful"] >= scans.classifier.threshold).tolist()),
                    "flagged": Rate.of((test[kind] >= scans.classifier.threshold).tolist()),
                },
            }
    sides: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    sizes: dict[str, dict[str, int]] = {}
    splits: tuple[corpus.Split, ...] = ("validation", "test")
    for split in splits:
        asked = typed(study, split)
        scores = {kind: score([one.text for one in own]) for kind, own in asked.items()}
        for name in sorted({type_ for one in asked["borderline"] for type_ in one.types}):
            harmful, good = (
                scores[kind][[name in one.types for one in asked[kind]]] for kind in ("harmful", "borderline")
            )
            sides[f"{split} {name}"] = (harmful, good)
            sizes.setdefault(name, {})[split] = len(harmful)
            sizes[name][f"{split} borderline"] = len(good)
    carried = [
        {
            "learned_on": one.learned_on.removeprefix("validation "),
            "tried_on": one.tried_on.removeprefix("test "),
            "threshold": one.threshold,
            "missed": one.missed,
            "flagged": one.flagged,
        }
        for one in calibration.transfer(sides, chosen.missed)
        if one.learned_on.startswith("validation ") and one.tried_on.startswith("test ")
    ]
    return {
        "n": _sizes(study),
        "curves": curves,
        "threshold": scans.classifier.threshold,
        "missed": chosen.missed,
        "sizes": sizes,
        "transfer": carried,
        "resamples": RESAMPLES,
    }


def _average_precision(yes: np.ndarray, no: np.ndarray, seed: int) -> dict[str, Any]:
    from sklearn.metrics import average_precision_score

    truth, rng = np.repeat([1, 0], [len(yes), len(no)]), np.random.default_rng(seed)
    again = [
        average_precision_score(truth, np.concatenate([rng.choice(yes, len(yes)), rng.choice(no, len(no))]))
        for _ in range(RESAMPLES)
    ]
    own = float(average_precision_score(truth, np.concatenate([yes, no])))
    return {"value": own, "interval": np.quantile(again, (0.025, 0.975)), "n": [len(yes), len(no)]}


# ── Who says so ──────────────────────────────────────────────────────────────────────────────────────────────


def judge_agreement(study: Study) -> dict[str, Any]:
    """How far the judges agree on who is refused, and how many each takes for refused."""
    names = [name for name in ("bundled", *judges.known()) if name != "bundled" or study.bundled]
    who: dict[str, Judge] = {name: judges.named(name) for name in dict.fromkeys(names)}
    ways: dict[str, Method | None] = {"plain model": None, "SCANS": study.scans}
    said = {
        way: {kind: study.replies(texts, method, JUDGED_TOKENS) for kind, texts in study.test.items()}
        for way, method in ways.items()
    }
    verdicts = {
        name: {way: {kind: judge(list(own)) for kind, own in kinds.items()} for way, kinds in said.items()}
        for name, judge in who.items()
    }
    no = {name: _by_prompt(own, study.test) for name, own in verdicts.items()}
    rng = np.random.default_rng(study.seed)
    n = len(next(iter(no.values())))
    draws = rng.integers(n, size=(RESAMPLES, n))
    pairs = []
    for one, other in combinations(who, 2):
        again = np.array([_kappa(no[one][draw], no[other][draw]) for draw in draws])
        same = no[one] == no[other]
        over = np.quantile(same.mean(1)[draws].mean(1), (0.025, 0.975))
        pairs.append(
            {
                "judges": [one, other],
                "kappa": {"value": _kappa(no[one], no[other]), "interval": np.nanquantile(again, (0.025, 0.975))},
                "agreement": {"value": float(same.mean()), "interval": over},
                "n": same.size,
            }
        )
    return {
        "n": _sizes(study),
        "judges": list(who),
        "pairs": pairs,
        "refused": {
            name: {way: {kind: Rate.of(_refusals(own)) for kind, own in kinds.items()} for way, kinds in ways.items()}
            for name, ways in verdicts.items()
        },
        "other_verdicts": {
            name: {
                verdict: sum(own.count(verdict) for kinds in ways.values() for own in kinds.values())
                for verdict in ("partial", "degenerate")
            }
            for name, ways in verdicts.items()
        },
        "tokens": JUDGED_TOKENS,
        "resamples": RESAMPLES,
    }


def _refusals(verdicts: Sequence[Verdict]) -> list[bool]:
    return [verdict == "refused" for verdict in verdicts]


def _by_prompt(
    verdicts: Mapping[str, Mapping[str, list[Verdict]]], kinds: Mapping[str, Any]
) -> Bool[np.ndarray, "prompt way"]:
    """Whether each prompt is refused, in every way of answering."""
    return np.array([[no for kind in kinds for no in _refusals(own[kind])] for own in verdicts.values()]).T


def _kappa(one: Bool[np.ndarray, "prompt way"], other: Bool[np.ndarray, "prompt way"]) -> float:
    """Cohen's, of refused or not."""
    agreed, a, b = float((one == other).mean()), float(one.mean()), float(other.mean())
    by_chance = a * b + (1 - a) * (1 - b)
    return (agreed - by_chance) / (1 - by_chance) if by_chance < 1 else 1.0


# ── How many anchors ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Pool:
    """What anchors are drawn from: states and transitions of harmful and of plain prompts."""

    harmful: Float[Tensor, "harmful layer d_model"]
    plain: Float[Tensor, "plain layer d_model"]
    t_harmful: Float[Tensor, "harmful layer d_model"]
    t_plain: Float[Tensor, "plain layer d_model"]

    def directions(self, yes: Tensor, no: Tensor, like: SCANS) -> Directions:
        """Of these places, as long as SCANS' own are made."""
        harmful, plain = self.harmful[yes], self.plain[no]
        norms = (harmful.norm(dim=-1).mean(0) + plain.norm(dim=-1).mean(0)) / 2
        own = Directions(difference_of_means(harmful, plain).float(), norms.float(), like.directions.origin)
        return own.in_residual_norms()


def anchor_size(study: Study) -> dict[str, Any]:
    """How alike the directions are, and how well all of SCANS works, when they come from fewer anchors.

    Layers, voting layers and scale stay as the study chose them; directions, classifier and threshold are learned anew.
    """
    from sklearn.metrics import roc_auc_score

    scans, chosen = study.scans, study.scans.chosen
    assert chosen and scans.unit == "residual norms"
    pool, held = _pool(study), by_kind(study.validation)
    kind = _harmless_kind(held)
    yes, no = (scans.transitions(study.model, held[side], batch_size=study.batch_size) for side in ("harmful", kind))
    truth = np.repeat([1, 0], [len(yes), len(no)])
    most = min(len(pool.harmful), len(pool.plain))
    everything = pool.directions(torch.arange(len(pool.harmful)), torch.arange(len(pool.plain)), scans)
    bands = {"anchor layers": scans.layers, **_bands(len(everything))}
    asked = {side: study.test[side][:SIZE_PROMPTS] for side in ("harmful", "borderline") if side in study.test}
    rows = []
    for size in sorted({min(size, most) for size in SIZES}):
        row: dict[str, Any] = {"size": size, "cosine": {name: [] for name in bands}, "auc": [], "threshold": []}
        row["rates"] = {side: [] for side in asked}
        for draw in range(SIZE_DRAWS if size < most else 1):
            generator = study.generator("anchors", str(size), str(draw))
            mine, theirs = (
                torch.randperm(len(side), generator=generator)[:size] for side in (pool.harmful, pool.plain)
            )
            directions = pool.directions(mine, theirs, scans)
            alike = torch.nn.functional.cosine_similarity(directions.vectors, everything.vectors, dim=-1)
            for name, layers in bands.items():
                row["cosine"][name].append(float(alike[list(layers)].mean()))
            classifier = TransitionClassifier.fit(
                pool.t_harmful[mine], pool.t_plain[theirs], layers=scans.classifier.layers
            ).calibrated(yes, missed=chosen.missed)
            row["auc"].append(float(roc_auc_score(truth, classifier.score(torch.cat([yes, no])).double().numpy())))
            row["threshold"].append(classifier.threshold)
            method = replace(scans, directions=directions, classifier=classifier)
            for side, texts in asked.items():
                row["rates"][side].append(Rate.of(study.refused(texts, method)))
        rows.append(row)
    return {
        "rows": rows,
        "pool": most,
        "auc_kind": kind,
        "n_validation": {"harmful": len(yes), kind: len(no)},
        "n": {side: len(texts) for side, texts in asked.items()},
        "plain_model": {side: Rate.of(study.pushed[side].plain[: len(texts)]) for side, texts in asked.items()},
        "missed": chosen.missed,
        "scale": scans.scale,
        "unit": scans.unit,
        "layers": scans.layers,
        **_judged(study),
    }


def _pool(study: Study) -> _Pool:
    """Twice the study's anchors of the bundled model, from its training prompts; of any other those that there are."""
    scans, sides = study.scans, (study.anchors.harmful, study.anchors.harmless)
    if not study.bundled:
        states = [study.anchor_states[kind].residuals for kind in ("harmful", "plain")]
    else:
        kinds: tuple[corpus.Kind, ...] = ("harmful", "plain")
        sides = tuple(organism.prompts(kind, "train")[: 2 * len(side)] for kind, side in zip(kinds, sides, strict=True))
        states = [residuals(study.model, side, batch_size=study.batch_size, progress=False) for side in sides]
    moves = [scans.transitions(study.model, side, batch_size=study.batch_size) for side in sides]
    return _Pool(*states, *moves)


# ── What it costs ────────────────────────────────────────────────────────────────────────────────────────────


def capability(study: Study) -> dict[str, Any]:
    """Quiz answers and foretold answers under SCANS' own sign and under either sign for everything.

    Raises:
        ValueError: not the bundled model, whose quiz and corpus these are.
    """
    if not study.bundled:
        raise ValueError(
            "This figure is of the bundled model's own quiz and corpus; for other models there are MMLU in "
            "scans_lens.questions and perplexity in scans_lens.likelihoods, and `python -m scans_lens reproduce "
            "--table 3` measures both."
        )
    scans = study.scans
    asked = corpus.asked("quiz", "test")[: len(study.test["plain"])]
    ways: dict[str, tuple[SCANS | None, SCANS | None, float | None]] = {
        "plain model": (None, None, None),
        "SCANS, each its own way": (scans, scans, None),
        "all away from refusal": (signed(scans, -1), scans, -1.0),
        "all towards refusal": (signed(scans, 1), scans, 1.0),
    }
    found = {}
    for way, (talks, reads, sign) in ways.items():
        said = study.replies([text for _, text in asked], talks, QUIZ_TOKENS)
        right = [wordings.is_right(item, reply) for (item, _), reply in zip(asked, said, strict=True)]
        items = [item.phrase for item, _ in asked]
        found[way] = {
            "quiz": _clustered(study, right, items),
            "quiz_refused": Rate.of(judges.refused(study.judge, said)),
            "pushed_towards": None if said.scale is None else Rate.of((said.scale > 0).tolist()),
            "perplexity": _as_json(_perplexity(study, reads, sign)),
        }
    return {"ways": found, "scale": scans.scale, "unit": scans.unit, "layers": scans.layers, "tokens": QUIZ_TOKENS}


# ── What all of them say ─────────────────────────────────────────────────────────────────────────────────────


def _sizes(study: Study) -> dict[str, int]:
    return {kind: len(texts) for kind, texts in study.test.items()}


def _clustered(study: Study, outcomes: Sequence[bool], items: Sequence[str]) -> dict[str, Any]:
    return Clustered.of(outcomes, items, resamples=RESAMPLES, seed=study.seed).as_json()


def _harmless_kind(kinds: Mapping[str, Any]) -> str:
    return "borderline" if "borderline" in kinds else "plain"


def _judged(study: Study) -> dict[str, Any]:
    return {"judge": "exact" if study.bundled else "panel", "tokens": study.verdict_tokens}


MEASURES: dict[str, Callable[[Study], dict[str, Any]]] = {
    "push_sweep": push_sweep,
    "threshold_sweep": threshold_sweep,
    "thirds": thirds,
    "by_type": by_type,
    "calibration": calibrated,
    "judge_agreement": judge_agreement,
    "anchor_size": anchor_size,
    "capability": capability,
}
