"""Perplexity: how well answers of the bundled model's corpus are still foretold under a push."""

from __future__ import annotations

from typing import Any

from scans_lens.figures.study import Study
from scans_lens.methods.scans import SCANS
from scans_lens.world import corpus_perplexity


def of_corpus(study: Study, method: SCANS | None, sign: float | None) -> dict[str, Any] | None:
    """Of the bundled model's corpus, answers behind plain test prompts; other models have no corpus here."""
    if not study.bundled:
        return None
    key = (method.layers if method else (), sign)
    if key not in study.foretold:
        study.foretold[key] = corpus_perplexity(
            study.model, len(study.test["plain"]), method, sign=sign, batch_size=study.batch_size
        )
    measured = study.foretold[key].as_json()
    return {name: measured[name] for name in ("value", "interval", "tokens", "texts")}
