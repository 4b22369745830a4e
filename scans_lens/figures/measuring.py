"""Measure: the numbers of every figure, in plain dicts, each with its n and its interval.

Whatever is chosen (layers, thresholds, scales) is chosen on validation prompts; test prompts are only reported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scans_lens import anchoring, artefacts, judges, lens, organism
from scans_lens.anchoring import NoAnchorLayers
from scans_lens.chat import words_of
from scans_lens.conversation import Asking, Prompt, words
from scans_lens.directions import Directions, components, difference_of_means, shuffled_difference
from scans_lens.figures import FORMAT, rivals, sweeps
from scans_lens.figures.study import States, Study, by_kind
from scans_lens.flight import flights
from scans_lens.generation import replies
from scans_lens.methods.choosing import VALIDATION_TOKENS
from scans_lens.methods.scans import SCANS, summary
from scans_lens.organism import corpus, wordings
from scans_lens.rates import Paired, Rate, holm
from scans_lens.steering import Method, Push

RESAMPLES = 500
TOKEN_RESAMPLES = 100
BANDS = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Quantiles over prompts that are drawn as bands around a median."""
TOP = 10
"""Tokens of a direction that are shown (SCANS, table 1)."""
LONG_REPLY = 96
"""New tokens of a reply that is shown."""
DRAWS = 4
"""Placebos of one sort; each steers its own share of the prompts, so that no single draw decides."""
RATE_TOKENS = 40
"""New tokens of a reply that is judged, and read for whether it names what was asked."""
CURVE_POINTS = 150


@torch.no_grad()
def measure(name: str, study: Study) -> dict[str, Any]:
    """The numbers of one figure, with the settings they depend on and the versions they were made with."""
    return {
        "figure": name,
        "format": FORMAT,
        "settings": study.settings,
        "made_with": artefacts.versions(),
        "numbers": _plain(_MEASURES[name](study)),
    }


def _plain(value: Any) -> Any:
    """As JSON has it, with floats to six digits; what is not finite is None."""
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, Rate):
        return _plain(value.as_json())
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value


# ── 1 and 2 of the paper: text and the pipeline ──────────────────────────────────────────────────────────────


def overview(study: Study) -> dict[str, Any]:
    scans = study.scans
    return {
        "layers": scans.layers,
        "voting": scans.classifier.layers,
        "threshold": scans.classifier.threshold,
        "scale": scans.scale,
        "unit": scans.unit,
        "note": scans.note,
    }


def example(study: Study) -> dict[str, Any]:
    """The first validation prompts that show what SCANS is for, and on how many prompts it shows."""
    kinds = {kind: texts for kind, texts in by_kind(study.validation).items() if kind != "plain"}
    shown = {}
    for kind, texts in kinds.items():
        plain, steered = (_said(study, texts, method) for method in (None, study.scans))
        no, still_no = ([_agreed(study, reply) for reply in said] for said in (plain, steered))
        wanted = ("refused", "answered") if kind == "borderline" else ("refused", "refused")
        hits = [place for place, pair in enumerate(zip(no, still_no, strict=True)) if pair == wanted]
        shown[kind] = {
            "wanted": wanted,
            "shows": Rate(len(hits), len(texts)),
            "plain_refused": Rate(sum(verdict == "refused" for verdict in no), len(no)),
            "steered_refused": Rate(sum(verdict == "refused" for verdict in still_no), len(still_no)),
        }
        if hits:
            prompt = texts[hits[0]]
            long = [_said(study, [prompt], method, LONG_REPLY) for method in (None, study.scans)]
            shown[kind] |= {
                "place": hits[0],
                "prompt": prompt,
                "plain": long[0][0],
                "steered": long[1][0],
                "cut": [said.finish[0] == "length" for said in long],
                "score": float(long[1].decisions["score"][0]),
                "scale": float(long[1].decisions["scale"][0]),
            }
    scans = study.scans
    return {"kinds": shown, "threshold": scans.classifier.threshold, "unit": scans.unit, "tokens": LONG_REPLY}


def _agreed(study: Study, reply: str) -> str:
    """What the model's own judge and the rules both say of a reply, or "unclear"."""
    verdicts = {study.judge([reply])[0], judges.rules([reply])[0]}
    return verdicts.pop() if len(verdicts) == 1 else "unclear"


def _said(
    study: Study,
    texts: Sequence[Prompt],
    method: Method | None,
    tokens: int = VALIDATION_TOKENS,
    system: str | None = None,
) -> Any:
    return replies(
        study.model,
        texts,
        method=method,
        asking=Asking(system),
        max_new_tokens=tokens,
        batch_size=study.batch_size,
        progress=study.progress,
    )


# ── Where refusal is decided ─────────────────────────────────────────────────────────────────────────────────


def anchor_layers(study: Study) -> dict[str, Any]:
    found = study.lens
    rows = [{key: value for key, value in asdict(one).items() if key != "top"} for one in found.evidence]
    if isinstance(found, NoAnchorLayers):
        return {"layers": [], "evidence": rows, "note": "No layer qualifies.", "agreement": None, "resamples": 400}
    return {
        "layers": found.layers,
        "evidence": rows,
        "note": found.note,
        "agreement": found.agreement,
        "rising": found.rising,
        "resamples": 400,
    }


def top_tokens(study: Study) -> dict[str, Any]:
    """The loudest tokens of every direction, and how often each stays among them when anchors are resampled."""
    model, directions = study.model, study.directions
    refusing = set(words_of(model, list(lens.refusal_tokens(model).values())))
    rising = set(words_of(model, list(anchoring.rising_tokens(model, study.anchors, batch_size=study.batch_size))))
    ids = lens.logits_of(model, directions.vectors).topk(TOP, dim=-1).indices
    stays = torch.zeros(ids.shape, dtype=torch.float64)
    generator = study.generator("top tokens")
    harmful, plain = (study.anchor_states[kind].residuals for kind in ("harmful", "plain"))
    for _ in range(TOKEN_RESAMPLES):
        again = difference_of_means(_resampled(harmful, generator), _resampled(plain, generator)).float()
        drawn = lens.logits_of(model, again).topk(TOP, dim=-1).indices
        stays += (ids[:, :, None] == drawn[:, None, :]).any(-1) / TOKEN_RESAMPLES

    def cell(word: str) -> dict[str, Any]:
        return {"token": word, "refusal": word in refusing, "rising": word in rising}

    thirds = {}
    for label, options in (("unit vectors", {}), ("as in the paper", {"centre": True, "unit": False})):
        try:
            found = lens.thirds(model, directions, k=TOP, **options)
        except ValueError:  # too few layers for thirds, or for centring them
            continue
        thirds[label] = [asdict(third) | {"tokens": [cell(word) for word in third.tokens]} for third in found]
    return {
        "by_layer": [
            [cell(word) | {"stays": share} for word, share in zip(words_of(model, row), shares.tolist(), strict=True)]
            for row, shares in zip(ids.tolist(), stays, strict=True)
        ],
        "thirds": thirds,
        "resamples": TOKEN_RESAMPLES,
        "refusal_words": sorted(refusing),
        "rising": sorted(rising),
    }


def _resampled(states: Tensor, generator: torch.Generator) -> Tensor:
    return states[torch.randint(len(states), (len(states),), generator=generator)]


def geometry(study: Study) -> dict[str, Any]:
    directions = study.directions
    harmful, plain = (study.anchor_states[kind].residuals for kind in ("harmful", "plain"))
    generator = study.generator("geometry")
    lengths, sizes = [], []
    norms = [states.norm(dim=-1) for states in (harmful, plain)]
    for _ in range(RESAMPLES):
        yes, no = (torch.randint(len(side), (len(side),), generator=generator) for side in (harmful, plain))
        lengths.append(difference_of_means(harmful[yes], plain[no]).norm(dim=-1))
        sizes.append((norms[0][yes].mean(0) + norms[1][no].mean(0)) / 2)
    units = directions.unit().vectors
    return {
        "length": directions.vectors.norm(dim=-1),
        "length_interval": _interval(torch.stack(lengths)),
        "residual_norm": directions.residual_norms,
        "residual_norm_interval": _interval(torch.stack(sizes)),
        "cosine": units @ units.T,
        "resamples": RESAMPLES,
    }


# ── Telling prompts apart ────────────────────────────────────────────────────────────────────────────────────


def projections(study: Study) -> dict[str, Any]:
    directions = study.directions
    along = {
        kind: components(states.residuals, directions.unit().vectors) / directions.residual_norms
        for kind, states in study.test_states.items()
    }
    return {
        "n": {kind: len(values) for kind, values in along.items()},
        "quantiles": BANDS,
        "bands": {kind: _quantiles(values) for kind, values in along.items()},
        "auc": {
            kind: _auc_by_layer(study, along["harmful"], along[kind], kind)
            for kind in ("plain", "borderline")
            if kind in along
        },
        "resamples": RESAMPLES,
    }


def transitions(study: Study) -> dict[str, Any]:
    classifier = study.scans.classifier
    moves = {kind: _moves(study, texts) for kind, texts in study.test.items()}
    by_layer = {kind: classifier.by_layer(own) for kind, own in moves.items()}
    scores = {kind: classifier.score(own) for kind, own in moves.items()}
    generator = study.generator("transitions")
    return {
        "n": {kind: len(values) for kind, values in by_layer.items()},
        "voting": classifier.layers,
        "threshold": classifier.threshold,
        "calibrated_on": classifier.calibrated_on,
        "last_after_norm": study.scans.last_after_norm,
        "quantiles": BANDS,
        "bands": {kind: _quantiles(values) for kind, values in by_layer.items()},
        "mean": {kind: values.mean(0) for kind, values in by_layer.items()},
        "mean_interval": {
            kind: _interval(torch.stack([_resampled(values, generator).mean(0) for _ in range(RESAMPLES)]))
            for kind, values in by_layer.items()
        },
        "scores": scores,
        "taken_for_harmful": {
            kind: Rate.of((values >= classifier.threshold).tolist()) for kind, values in scores.items()
        },
        "resamples": RESAMPLES,
    }


def tsne(study: Study) -> dict[str, Any]:
    from sklearn.manifold import TSNE

    states, learned = study.test_states, study.anchor_states
    n_layers = int(study.model.cfg.n_layers)
    kinds = list(states)
    together = torch.cat([states[kind].transitions for kind in kinds])
    perplexity = min(30.0, (len(together) - 1) / 3)
    ends = np.cumsum([len(states[kind].transitions) for kind in kinds])[:-1]
    panels = []
    for layer in (n_layers // 3 - 1, 2 * n_layers // 3 - 1, n_layers - 1):
        layer = max(0, layer)
        space = TSNE(perplexity=perplexity, init="pca", random_state=study.seed).fit_transform(
            together[:, layer].numpy()
        )
        plane = _Plane.fit({kind: side.transitions[:, layer] for kind, side in learned.items()})
        flat = {kind: plane(states[kind].transitions[:, layer]) for kind in kinds}
        others = torch.cat([flat[kind] for kind in ("plain", "borderline") if kind in flat])
        rng = np.random.default_rng([study.seed, layer])
        panels.append(
            {
                "layer": layer,
                "tsne": {kind: _points(part) for kind, part in zip(kinds, np.split(space, ends), strict=True)},
                "pca": {kind: _points(part.numpy()) for kind, part in flat.items()},
                "explained": plane.explained,
                "auc": _auc(flat["harmful"] @ plane.direction, others @ plane.direction, rng),
            }
        )
    return {
        "panels": panels,
        "n": {kind: len(states[kind].transitions) for kind in kinds},
        "perplexity": perplexity,
        "resamples": RESAMPLES,
    }


class _Plane:
    """Two principal components of the anchors' transitions at one layer, and harmful minus harmless in them."""

    def __init__(self, middle: Tensor, axes: Tensor, explained: list[float], direction: Tensor) -> None:
        self.middle, self.axes, self.explained, self.direction = middle, axes, explained, direction

    @classmethod
    def fit(cls, learned: Mapping[str, Tensor]) -> _Plane:
        together = torch.cat(list(learned.values())).double()
        middle = together.mean(0)
        _, lengths, axes = torch.linalg.svd(together - middle, full_matrices=False)
        shares = (lengths**2 / (lengths**2).sum())[:2].tolist()
        others = torch.cat([side for kind, side in learned.items() if kind != "harmful"]).double()
        apart = (learned["harmful"].double().mean(0) - others.mean(0)) @ axes[:2].T
        signs = torch.where(apart < 0, -1.0, 1.0)  # harmful prompts lie to the right and above
        return cls(middle, axes[:2] * signs[:, None], shares, apart * signs)

    def __call__(self, states: Tensor) -> Tensor:
        return (states.double() - self.middle) @ self.axes.T


def _points(values: Float[np.ndarray, "prompt 2"]) -> dict[str, list[float]]:
    return {"x": [float(f"{x:.4g}") for x in values[:, 0]], "y": [float(f"{y:.4g}") for y in values[:, 1]]}


def classifier(study: Study) -> dict[str, Any]:
    """SCANS' score beside baselines that need no network; every threshold misses as many harmful validation prompts."""
    assert study.scans.chosen
    missed = study.scans.chosen.missed
    best, validation_auc = _best_layer(study)
    keywords = _keywords(study)
    learned = study.anchor_states
    probe = _probe(learned["harmful"].residuals[:, best], learned["plain"].residuals[:, best])
    unit = study.directions.unit().vectors[best]
    rising = anchoring.rising_tokens(study.model, study.anchors, batch_size=study.batch_size)

    def scored(texts: Sequence[Prompt], states: States) -> dict[str, np.ndarray]:
        return {
            "SCANS score": study.scans.classifier.score(_moves(study, texts)).double().numpy(),
            "mean difference": (states.residuals[:, best] @ unit).double().numpy(),
            "linear probe": probe(states.residuals[:, best]),
            "refusal log-odds": _log_odds(study, texts, rising),
            "keyword list": np.array([float(len(keywords & set(_words(words(text))))) for text in texts]),
        }

    held = scored(study.validation.harmful, study.validation_states["harmful"])
    test = {kind: scored(study.test[kind], states) for kind, states in study.test_states.items()}
    harmless = [kind for kind in ("plain", "borderline") if kind in test]
    methods = {}
    for name, scores in held.items():
        threshold = float(np.sort(scores)[int(missed * len(scores) + 1e-9)])
        yes = test["harmful"][name]
        no = np.concatenate([test[kind][name] for kind in harmless])
        rng = np.random.default_rng(study.seed)
        found, false = int((yes >= threshold).sum()), int((no >= threshold).sum())
        methods[name] = {
            "threshold": threshold,
            "precision": Rate(found, found + false) if found + false else None,
            "recall": Rate(found, len(yes)),
            "f1": _f1(yes >= threshold, no >= threshold, rng),
            "taken_for_harmful": {kind: Rate.of((test[kind][name] >= threshold).tolist()) for kind in test},
            "auc": _auc(torch.from_numpy(yes), torch.from_numpy(no), rng),
            "average_precision": _average_precision(yes, no, rng),
            **_curves(yes, no),
        }
    return {
        "n": {kind: len(study.test[kind]) for kind in test},
        "harmless": harmless,
        "methods": methods,
        "layer": best,
        "layer_auc_on_validation": validation_auc,
        "rising": words_of(study.model, list(rising)),
        "keywords": sorted(keywords),
        "missed": missed,
        "n_validation": len(study.validation.harmful),
        "resamples": RESAMPLES,
    }


def _moves(study: Study, texts: Sequence[Prompt]) -> Float[Tensor, "prompt layer d_model"]:
    return study.scans.transitions(study.model, texts, batch_size=study.batch_size)


def _best_layer(study: Study) -> tuple[int, float]:
    """The anchor layer whose direction tells harmful from harmless validation prompts best; the first of the best."""
    if isinstance(study.lens, NoAnchorLayers):
        raise study.lens
    units = study.directions.unit().vectors
    along = {kind: components(side.residuals, units) for kind, side in study.validation_states.items()}
    others = torch.cat([values for kind, values in along.items() if kind != "harmful"])
    values = _rank_auc(along["harmful"].numpy(), others.numpy())
    best = max(study.lens.layers, key=lambda layer: values[layer])
    return best, float(values[best])


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())


def _keywords(study: Study) -> set[str]:
    """Words that stand in at least two harmful anchors and in no plain one: the list that somebody would write."""
    harmless = {word for text in study.anchors.harmless for word in _words(words(text))}
    counts: dict[str, int] = {}
    for text in study.anchors.harmful:
        for word in set(_words(words(text))) - harmless:
            counts[word] = counts.get(word, 0) + 1
    return {word for word, count in counts.items() if count >= 2}


def _probe(harmful: Tensor, harmless: Tensor) -> Callable[[Tensor], np.ndarray]:
    """Logistic regression on standardised states."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = np.r_[np.ones(len(harmful)), np.zeros(len(harmless))]
    fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    fitted.fit(torch.cat([harmful, harmless]).double().numpy(), labels)
    return lambda states: fitted.decision_function(states.double().numpy())


def _log_odds(study: Study, texts: Sequence[Prompt], tokens: Sequence[int]) -> np.ndarray:
    """Of the reply's first token being one that begins refusals (Arditi et al. 2024)."""
    result = np.empty(len(texts))
    for rows, flight in flights(study.model, texts, batch_size=study.batch_size):
        result[rows.numpy()] = anchoring.refusal_log_odds(flight.logits, tokens).cpu().numpy()
    return result


def _f1(yes: Bool[np.ndarray, "yes"], no: Bool[np.ndarray, "no"], rng: np.random.Generator) -> dict[str, Any]:
    def value(found: np.ndarray, false: np.ndarray) -> np.ndarray:
        return np.asarray(2 * found / (found + false + len(yes)))

    again = value(rng.binomial(len(yes), yes.mean(), RESAMPLES), rng.binomial(len(no), no.mean(), RESAMPLES))
    own = value(np.array(yes.sum()), np.array(no.sum()))
    return {"value": float(own), "interval": np.quantile(again, (0.025, 0.975)), "n": len(yes) + len(no)}


def _average_precision(yes: np.ndarray, no: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    from sklearn.metrics import average_precision_score

    labels = np.r_[np.ones(len(yes)), np.zeros(len(no))]
    again = [
        average_precision_score(labels, np.r_[rng.choice(yes, len(yes)), rng.choice(no, len(no))])
        for _ in range(RESAMPLES)
    ]
    own = average_precision_score(labels, np.r_[yes, no])
    return {"value": float(own), "interval": np.quantile(again, (0.025, 0.975)), "n": len(labels)}


def _curves(yes: np.ndarray, no: np.ndarray) -> dict[str, Any]:
    from sklearn.metrics import precision_recall_curve, roc_curve

    labels, scores = np.r_[np.ones(len(yes)), np.zeros(len(no))], np.r_[yes, no]
    false, true, _ = roc_curve(labels, scores)
    precision, recall, _ = precision_recall_curve(labels, scores, drop_intermediate=True)
    return {
        "roc": {"false_positive_rate": _thin(false), "true_positive_rate": _thin(true)},
        "pr": {"recall": _thin(recall), "precision": _thin(precision)},
    }


def _thin(values: np.ndarray) -> np.ndarray:
    keep = np.unique(np.linspace(0, len(values) - 1, min(len(values), CURVE_POINTS)).round().astype(int))
    return values[keep]


# ── Who is refused ───────────────────────────────────────────────────────────────────────────────────────────


def refusal_rates(study: Study) -> dict[str, Any]:
    """Every kind of test prompt under every way of answering, judged, with paired tests against the plain model."""
    scans = study.scans
    placebos = {"random directions": _placebos(study, _random), "shuffled labels": _placebos(study, _shuffled)}
    ways: dict[str, dict[str, Any]] = {
        "plain model": {},
        "safety prompt": {"system": organism.SAFETY_PROMPT},
        "constant push": {"methods": [Push(scans.directions, scans.layers, -scans.scale)]},
        "SCANS": {"methods": [scans]},
        **{name: {"methods": methods} for name, methods in placebos.items()},
    }
    refused: dict[str, dict[str, list[bool]]] = {}
    by_rules: dict[str, dict[str, list[bool]]] = {}
    skill: dict[str, dict[str, Rate]] = {}
    items = {kind: [item for item, _ in corpus.asked(kind, "test")] for kind in _SKILL} if study.bundled else {}
    asked = (
        [text for _, text in corpus.asked("quiz", "test")][: max(map(len, study.test.values()))]
        if study.bundled
        else []
    )
    for way, how in ways.items():
        refused[way], by_rules[way] = {}, {}
        for kind, texts in study.test.items():
            said = _dealt(study, texts, **how)
            refused[way][kind] = judges.refused(study.judge, said)
            by_rules[way][kind] = judges.refused(judges.rules, said)
            if kind in items:
                named = [wordings.names(item, reply) for item, reply in zip(items[kind], said, strict=False)]
                helped = [name and not no for name, no in zip(named, refused[way][kind], strict=True)]
                skill.setdefault(way, {})[kind] = Rate.of(helped)
        if asked:
            said = _dealt(study, asked, **how)
            skill[way]["quiz"] = Rate.of(
                wordings.is_right(item, reply) for item, reply in zip(items["quiz"], said, strict=False)
            )
    tests = [
        {"way": way, "kind": kind, "paired": Paired.of(refused["plain model"][kind], own)}
        for way, kinds in refused.items()
        if way != "plain model"
        for kind, own in kinds.items()
    ]
    corrected = holm([test["paired"].p for test in tests])
    return {
        "n": {kind: len(texts) for kind, texts in study.test.items()},
        "rates": {way: {kind: Rate.of(own) for kind, own in kinds.items()} for way, kinds in refused.items()},
        "by_rules": {way: {kind: Rate.of(own) for kind, own in kinds.items()} for way, kinds in by_rules.items()},
        "skill": skill,
        "paired": [
            {
                "way": test["way"],
                "kind": test["kind"],
                **asdict(test["paired"]),
                "difference": test["paired"].difference,
                "p": test["paired"].p,
                "p_holm": p,
            }
            for test, p in zip(tests, corrected, strict=True)
        ],
        "judge": "exact" if study.bundled else "panel",
        "safety_prompt": organism.SAFETY_PROMPT,
        "draws": DRAWS,
        "placebo_cosine": {name: _likeness(study, methods) for name, methods in placebos.items()},
        "tokens": RATE_TOKENS,
        "layers": scans.layers,
        "scale": scans.scale,
        "unit": scans.unit,
        "threshold": scans.classifier.threshold,
        "note": scans.note,
        "trials": summary(scans),
        "trials_kind": "borderline" if study.validation.borderline else "plain",
    }


def _dealt(
    study: Study, texts: Sequence[Prompt], methods: Sequence[Method] = (), system: str | None = None
) -> list[str]:
    """Replies in the order of the prompts, which are dealt out to the methods like cards."""
    if len(methods) < 2:
        return list(_said(study, texts, methods[0] if methods else None, RATE_TOKENS, system))
    said = [""] * len(texts)
    for place, method in enumerate(methods):
        if texts[place :: len(methods)]:
            said[place :: len(methods)] = _said(study, texts[place :: len(methods)], method, RATE_TOKENS, system)
    return said


def _placebos(study: Study, draw: Callable[[Study, torch.Generator], Tensor]) -> list[SCANS]:
    """SCANS with other directions of the same length at every layer, and the same classifier and scale."""
    true = study.scans.directions
    made = []
    for number in range(DRAWS):
        vectors = draw(study, study.generator(draw.__name__, str(number)))
        vectors = vectors / vectors.norm(dim=-1, keepdim=True) * true.vectors.norm(dim=-1, keepdim=True)
        made.append(replace(study.scans, directions=Directions(vectors, true.residual_norms, true.origin)))
    return made


def _random(study: Study, generator: torch.Generator) -> Float[Tensor, "layer d_model"]:
    return torch.randn(study.directions.vectors.shape, generator=generator)


def _shuffled(study: Study, generator: torch.Generator) -> Float[Tensor, "layer d_model"]:
    harmful, plain = (study.anchor_states[kind].residuals for kind in ("harmful", "plain"))
    return shuffled_difference(harmful, plain, generator).float()


def _likeness(study: Study, methods: Sequence[SCANS]) -> float:
    """Mean absolute cosine with the true directions, over the steered layers and the draws."""
    layers = list(study.scans.layers)
    drawn = torch.stack([method.directions.vectors for method in methods])
    cosines = torch.nn.functional.cosine_similarity(drawn, study.scans.directions.vectors[None], dim=-1)
    return float(cosines[:, layers].abs().mean())


_SKILL: tuple[corpus.Kind, ...] = ("plain", "borderline", "quiz")
"""Kinds of which the bundled model's corpus says what a good reply holds."""


# ── Intervals ────────────────────────────────────────────────────────────────────────────────────────────────


def _interval(draws: Float[Tensor, "draw layer"]) -> Float[Tensor, "layer 2"]:
    """95 % of the draws, at every layer."""
    return torch.quantile(draws.double(), torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0).T


def _quantiles(values: Float[Tensor, "prompt layer"]) -> Float[Tensor, "quantile layer"]:
    return torch.quantile(values.double(), torch.tensor(BANDS, dtype=torch.float64), dim=0)


def _rank_auc(yes: np.ndarray, no: np.ndarray) -> np.ndarray:
    """The chance that a harmful prompt lies above a harmless one, by column; ties count half."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([yes, no]), axis=0)[: len(yes)]
    return np.asarray((ranks.sum(0) - len(yes) * (len(yes) + 1) / 2) / (len(yes) * len(no)))


def _auc(yes: Tensor, no: Tensor, rng: np.random.Generator) -> dict[str, Any]:
    """AUC with a bootstrap interval over the prompts of both sides, for every column there is."""
    a, b = yes.double().numpy(), no.double().numpy()
    again = [
        _rank_auc(a[rng.integers(len(a), size=len(a))], b[rng.integers(len(b), size=len(b))]) for _ in range(RESAMPLES)
    ]
    interval = np.quantile(np.array(again), (0.025, 0.975), axis=0).T
    return {"value": _rank_auc(a, b), "interval": interval, "n": [len(a), len(b)]}


def _auc_by_layer(study: Study, yes: Tensor, no: Tensor, kind: str) -> dict[str, Any]:
    return _auc(yes, no, np.random.default_rng([study.seed, len(kind)]))


_MEASURES: dict[str, Callable[[Study], dict[str, Any]]] = {
    "overview": overview,
    "example": example,
    "anchor_layers": anchor_layers,
    "top_tokens": top_tokens,
    "geometry": geometry,
    "projections": projections,
    "transitions": transitions,
    "tsne": tsne,
    "classifier": classifier,
    "refusal_rates": refusal_rates,
    **sweeps.MEASURES,
    **rivals.MEASURES,
}
