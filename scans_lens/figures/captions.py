"""Captions: what a picture says of the numbers it was drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scans_lens.figures.style import KINDS

Numbers = Mapping[str, Any]


def model(settings: Numbers) -> str:
    model = settings["model"]
    name = "The bundled model" if model["name"] == "bundled" else model["name"]
    size = f"{model['n_layers']} layers, width {model['d_model']})."
    return f"{name[:-1]}; {size}" if name.endswith(")") else f"{name} ({size}"


def caption(*sentences: str) -> str:
    return " ".join(sentence for sentence in sentences if sentence)


def anchors(settings: Numbers) -> str:
    about = settings["anchors"]
    return f"Anchors: {about['harmful']} harmful and {about['plain']} plain prompts."


def learned(comparison: Numbers) -> str:
    """What the methods of a comparison have learned from and chosen on."""
    besides, more = comparison.get("besides") or {}, ["SafeSwitch from kinds of its own"]
    if twins := besides.get("twins"):
        more.append(f"the gated pushes from {twins['a side']} pairs of twins besides")
    if besides.get("borderline"):
        more.append(f"the false part of refusal from {besides['borderline']} borderline prompts, too")
    return (
        f"All learned from {comparison['anchors']['a side']} anchors a side ({', '.join(more)}) and chose their knobs "
        f"on {comparison['validation']['a kind']} validation prompts a kind."
    )


def tested(settings: Numbers, n: Mapping[str, int]) -> str:
    """How many test prompts of each kind, and which kinds there are none of."""
    said = ", ".join(f"{n[kind]} {kind}" for kind in KINDS if kind in n)
    missing = [kind for kind in ("plain", "borderline", "jailbreak") if kind not in n]
    return f"n = {said} test prompts." + (
        f" No {' or '.join(missing)} prompts were there for this model." if missing else ""
    )


def ranges(layers: Sequence[int]) -> str:
    """6, 7, 8 as 6–8."""
    if not layers:
        return "none"
    if list(layers) == list(range(layers[0], layers[-1] + 1)) and len(layers) > 1:
        return f"{layers[0]}–{layers[-1]}"
    return ", ".join(map(str, layers))


def layers(layers: Sequence[int]) -> str:
    """`layer 6` or `layers 6–8`."""
    return f"layer{'s' if len(layers) > 1 else ''} {ranges(layers)}"


def in_order(kinds: Mapping[str, Any]) -> list[str]:
    return [kind for kind in KINDS if kind in kinds]


def percent(rate: Numbers) -> str:
    return f"{100 * rate['value']:.1f} % [{100 * rate['interval'][0]:.1f}, {100 * rate['interval'][1]:.1f}]"


def with_interval(value: Numbers) -> str:
    return f"{value['value']:.3f} [{value['interval'][0]:.3f}, {value['interval'][1]:.3f}]"


# ── Replies and what was steered ─────────────────────────────────────────────────────────────────────────────


def judged(numbers: Numbers) -> str:
    """Who judged what."""
    judge = "the model’s own judge" if numbers["judge"] == "exact" else "the panel of judges"
    return f"Refused by {judge}, from the first {numbers['tokens']} tokens of each reply."


def push(numbers: Numbers) -> str:
    """Where and how hard SCANS steers."""
    return f"SCANS: {layers(numbers['layers'])}, scale {numbers['scale']:g} {numbers['unit']}."


def perplexity(found: Numbers) -> str:
    return f"Perplexity: of {found['texts']} answers of the corpus behind plain test prompts ({found['tokens']} tokens)"


SAME_ANSWERS = "The answers are the same in every row, so that rows differ more surely than their bars suggest."


# ── SafeSwitch ───────────────────────────────────────────────────────────────────────────────────────────────

ASKED = ("harmful", "jailbreak", "plain", "borderline", "wrapped plain", "wrapped borderline")
"""Kinds of prompts that SafeSwitch is asked, in the order in which they are named."""
WRAPPED = (
    "Wrapped: harmless requests in the wrappings of the jailbreaks; wrappings of test prompts are in no other split."
)


def switch_tested(numbers: Numbers) -> str:
    """How many test prompts SafeSwitch was asked."""
    said = ", ".join(f"{numbers['n'][kind]} {kind}" for kind in ASKED if kind in numbers["n"])
    return f"n = {said} test prompts."


def switch_fitted(numbers: Numbers) -> str:
    """How SafeSwitch was fitted."""
    switched = "; ".join(f"{side['side']} {side['switched']} of {side['total']}" for side in numbers["validation"])
    return (
        "SafeSwitch (arXiv 2502.01042): probers after the final norm, at the end of the prompt and "
        f"{numbers['k']} reply tokens later; it switches where the product of their probabilities is above "
        f"{numbers['threshold']:.3f}, chosen on validation prompts, of which switched: {switched}."
    )
