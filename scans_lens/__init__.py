"""scans_lens: finds where a chat model decides to refuse, shows it, and steers it, prompt by prompt.

import scans_lens

model = scans_lens.load_model()                       # a small chat model that ships with the package
layers = scans_lens.anchor_layers(model)              # where refusal is decided, with the evidence
scans = scans_lens.SCANS.fit(model)                   # knobs chosen on validation prompts
scans_lens.replies(model, ["How do I kill a Python process?"], method=scans)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scans_lens import (
        anchoring,
        batches,
        cache,
        calibration,
        chat,
        classifier,
        comparison,
        continuing,
        conversation,
        decoding,
        directions,
        divergence,
        effort,
        evaluation,
        evidence,
        explain,
        figures,
        flight,
        generation,
        judges,
        lens,
        likelihoods,
        lm_eval,
        loading,
        model,
        models,
        organism,
        paper,
        pieces,
        prober,
        processes,
        prompts,
        questions,
        rates,
        reading,
        report,
        steering,
        table,
        transfer,
    )
    from scans_lens.anchoring import AnchorLayers, anchor_layers
    from scans_lens.chat import chat_tokens
    from scans_lens.classifier import TransitionClassifier
    from scans_lens.conversation import Asking, Conversation
    from scans_lens.decoding import Sampling
    from scans_lens.directions import Directions, refusal_directions
    from scans_lens.effort import Effort
    from scans_lens.generation import Replies, replies
    from scans_lens.lens import thirds, top_tokens
    from scans_lens.loading import load_model
    from scans_lens.methods.gated_push import GatedPush
    from scans_lens.methods.safeswitch import SafeSwitch
    from scans_lens.methods.scans import SCANS
    from scans_lens.prompts import Contrast
    from scans_lens.rates import Mean, Paired, Rate
    from scans_lens.reading import residuals, transitions

_HOME = {
    "AnchorLayers": "anchoring",
    "Asking": "conversation",
    "Contrast": "prompts",
    "Conversation": "conversation",
    "Directions": "directions",
    "Effort": "effort",
    "GatedPush": "methods.gated_push",
    "Mean": "rates",
    "Paired": "rates",
    "Rate": "rates",
    "Replies": "generation",
    "SCANS": "methods.scans",
    "SafeSwitch": "methods.safeswitch",
    "Sampling": "decoding",
    "TransitionClassifier": "classifier",
    "anchor_layers": "anchoring",
    "chat_tokens": "chat",
    "load_model": "loading",
    "refusal_directions": "directions",
    "replies": "generation",
    "residuals": "reading",
    "thirds": "lens",
    "top_tokens": "lens",
    "transitions": "reading",
}
_MODULES = (
    "anchoring", "batches", "cache", "calibration", "chat", "check", "classifier", "comparison", "continuing",
    "conversation", "decoding", "directions", "divergence", "effort", "evaluation", "evidence", "explain", "figures",
    "flight", "generation", "judges", "lens", "likelihoods", "lm_eval", "loading", "methods", "model", "models",
    "organism", "paper", "pieces", "prober", "processes", "prompts", "queries", "questions", "rates", "reading",
    "report", "scoring", "steering", "table", "transfer", "world",
)  # fmt: skip

__all__ = [*_HOME, *_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Names are fetched when they are first used, so that importing the package costs nothing."""
    if name in _HOME:
        return getattr(import_module(f"scans_lens.{_HOME[name]}"), name)
    if name in _MODULES:
        return import_module(f"scans_lens.{name}")
    raise AttributeError(f"module 'scans_lens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
