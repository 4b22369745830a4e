"""Rivals: what other methods find in the model, and what they make of it: probers, a switch, one direction.

SafeSwitch (Han et al. 2025, arXiv 2502.01042) is measured by `switching`, the refusal direction (Arditi et al. 2024,
arXiv 2406.11717) here. Whatever they learn or choose is from training and validation prompts; these figures report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from scans_lens import judges
from scans_lens.chat import template, words_of
from scans_lens.conversation import Prompt
from scans_lens.divergence import divergences
from scans_lens.figures import switching
from scans_lens.figures.study import Study
from scans_lens.methods import refusal_direction as arditi
from scans_lens.methods.refusal_direction import NoDirection, RefusalDirection
from scans_lens.model import is_bundled
from scans_lens.organism import corpus
from scans_lens.rates import Mean, Paired, Rate, holm
from scans_lens.steering import Method

RESAMPLES = 500
REPLY_TOKENS = 24
"""New tokens of a reply that is judged; enough for the rules to hear a broken refusal."""

# ── SafeSwitch ───────────────────────────────────────────────────────────────────────────────────────────────


def probers(study: Study) -> dict[str, Any]:
    """How often every prober is right, learned anew at every layer, and two of them after 0 to 10 reply tokens."""
    own = study.switching
    return {**_about(study), "by_layer": switching.by_layer(own), "by_tokens": switching.by_tokens(own)}


def states(study: Study) -> dict[str, Any]:
    """Where harmless, refused harmful and complied harmful prompts lie, at four depths."""
    return {**_about(study), **switching.plane(study.switching)}


def switched(study: Study) -> dict[str, Any]:
    """Who is answered with and without the switch, by kind, with paired tests, and how refusals are worded."""
    own = study.switching
    found = switching.before_and_after(own)
    ways = {
        way: {kind: part[kind] for kind in own.asked}  # harmful prompts and jailbreaks together are left out
        for way, part in found["ways"].items()
    }
    plain = ways["plain model"]
    tests = [(way, kind) for way in ways if way != "plain model" for kind in own.asked]
    for (way, kind), p in zip(tests, holm([ways[way][kind]["p"] for way, kind in tests]), strict=True):
        difference = ways[way][kind]["complied"]["value"] - plain[kind]["complied"]["value"]
        ways[way][kind] |= {"p_holm": p, "difference": difference}
    return {
        **_about(study),
        "ways": ways,
        "tests": len(tests),
        "manners": switching.manners(own),
        "tokens": switching.REPLY_TOKENS,
        "hard_words": switching.HARD_WORDS,
    }


def switch_by_type(study: Study) -> dict[str, Any]:
    """How often the switch decides rightly, by a jailbreak's wrapping and by a borderline prompt's type."""
    return {**_about(study), "rows": switching.by_type(study.switching, _type_of)}


def _type_of(kind: str, item: corpus.Item) -> str:
    return item.wrapper or (item.type if kind == "borderline" else "")


def _about(study: Study) -> dict[str, Any]:
    """What was fitted, and how many prompts it is reported on."""
    own = study.switching
    method = own.method
    return {
        "n": {kind: len(asked) for kind, asked in own.asked.items()},
        "items": len(set(own.items)),
        "learned": {"probers": len(own.learned.kinds), "held": len(own.held.kinds)},
        "k": method.k,
        "threshold": method.threshold,
        "share": method.head.share,
        "validation": [asdict(one) for one in method.switched],
        "resamples": switching.RESAMPLES,
    }


# ── The refusal direction ────────────────────────────────────────────────────────────────────────────────────


def refusal_direction(study: Study) -> dict[str, Any]:
    """What every candidate did on validation prompts, and what the chosen one does to refusals of test prompts."""
    filters = arditi.BUNDLED if is_bundled(study.model) else arditi.Filters()
    found: RefusalDirection | None = None
    try:
        found = RefusalDirection.fit(
            study.model,
            study.anchors,
            validation=study.validation,
            judge=study.judge,
            filters=filters,
            seed=study.seed,
            batch_size=study.batch_size,
            progress=study.progress,
        )
        trials: Sequence[arditi.Trial] = found.trials
    except NoDirection as none:
        trials = none.trials
    shape = (max(-one.position for one in trials), max(one.layer for one in trials) + 1)
    tail = list(template(study.model).tail)
    return {
        "words": words_of(study.model, tail),
        "filters": {**asdict(filters), "first_late": filters.first_late(shape[1])},
        "kept_count": sum(one.kept for one in trials),
        "tried": len(trials),
        **{
            name: arditi.grid(trials, shape, lambda one, name=name: float(getattr(one, name)))
            for name in ("bypass", "induce", "kl", "kept")
        },
        "chosen": found and _chosen(study, found),
    }


def _chosen(study: Study, found: RefusalDirection) -> dict[str, Any]:
    """The candidate in use: its scores with their intervals, and refusals of test prompts with it out or added."""
    harmful, harmless = (
        arditi.on_its_side(
            study.model,
            arditi.spread(getattr(study.validation, kind), arditi.VALIDATION),
            found.tokens,
            kind=kind,
            split="validation",
            batch_size=study.batch_size,
        )
        for kind in ("harmful", "harmless")
    )
    out = found.ablation()
    n_layers = int(study.model.cfg.n_layers)
    ablating = arditi.ablating(found.direction, n_layers)
    adding = arditi.adding(found.direction, found.layer, 1.0)

    def scores(texts: Sequence[Prompt], hooks: Sequence[Any]) -> dict[str, Any]:
        own = arditi.refusal_scores(study.model, texts, found.tokens, hooks=hooks, batch_size=study.batch_size)
        return Mean.of(own.tolist(), resamples=RESAMPLES, seed=study.seed).as_json()

    ways: dict[str, Method | None] = {"plain model": None, "taken out": out, "added": found.addition(1.0)}
    said = {
        way: {kind: study.replies(texts, method, REPLY_TOKENS) for kind, texts in study.test.items()}
        for way, method in ways.items()
    }
    refused, by_rules = (
        {way: {kind: judges.refused(judge, own) for kind, own in kinds.items()} for way, kinds in said.items()}
        for judge in (study.judge, judges.rules)
    )
    tests = [(way, kind) for way in ways if way != "plain model" for kind in study.test]
    paired = [Paired.of(refused["plain model"][kind], refused[way][kind]) for way, kind in tests]
    corrected = holm([one.p for one in paired])
    moved = divergences(study.model, harmless, [out], batch_size=study.batch_size)[0]
    return {
        "position": found.position,
        "layer": found.layer,
        "tokens": words_of(study.model, list(found.tokens)),
        "learned": [found.origin.n_harmful, found.origin.n_harmless],
        "scores": {
            "harmful, plain model": scores(harmful, []),
            "bypass": scores(harmful, ablating),
            "harmless, plain model": scores(harmless, []),
            "induce": scores(harmless, adding),
            "kl": Mean.of(moved.tolist(), resamples=RESAMPLES, seed=study.seed).as_json(),
        },
        "n": {kind: len(texts) for kind, texts in study.test.items()},
        "refused": {way: {kind: Rate.of(own) for kind, own in kinds.items()} for way, kinds in refused.items()},
        "by_rules": {way: {kind: Rate.of(own) for kind, own in kinds.items()} for way, kinds in by_rules.items()},
        "broken": {
            way: Rate.of([verdict == "degenerate" for own in kinds.values() for verdict in judges.rules(own)])
            for way, kinds in said.items()
        },
        "paired": [
            {"way": way, "kind": kind, "difference": one.difference, "p": one.p, "p_holm": p}
            for (way, kind), one, p in zip(tests, paired, corrected, strict=True)
        ],
        "judge": "exact" if study.bundled else "panel",
        "reply_tokens": REPLY_TOKENS,
        "resamples": RESAMPLES,
    }


MEASURES: dict[str, Callable[[Study], dict[str, Any]]] = {
    "probers": probers,
    "states": states,
    "switching": switched,
    "switch_by_type": switch_by_type,
    "refusal_direction": refusal_direction,
}
