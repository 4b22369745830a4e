"""Catalogue: names of ways to answer, with a line about each; names can be checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

PRESETS = ("paper", "release")
"""Of `SCANS.fit`."""
PLAIN = "plain"
"""The way of answering that all others are compared with: no method."""
PROMPTED: Mapping[str, str] = {
    "system": "the plain model under a safety prompt",
    "self_cd": "what that prompt adds to the logits, subtracted",
}
"""What `evaluate` knows that needs no fitted SCANS."""
STEERED: Mapping[str, str] = {
    "scans": "each prompt pushed its own way",
    "constant": "its push away from refusal for every prompt alike",
    "random": "SCANS along random directions, as long as the true ones",
    "shuffled": "SCANS along directions learned from labels that mean nothing, as long as the true ones",
    "wrong_layers": "SCANS in as many layers, as far from its own as there are",
}
"""What `evaluate` knows that SCANS is fitted for; the last three are placebos: what any push of that size would do."""
EVALUATED = (*STEERED, *PROMPTED)
COMPARED: Mapping[str, str] = {
    "scans": "each prompt pushed its own way (2408.11491)",
    "constant": "SCANS' push away from refusal for all",
    "scans_centred": "SCANS, transitions minus their mean",
    "scans_instruction": "SCANS, harm read at the instruction's end",
    "scans_continuous": "SCANS, pushes in proportion to the score",
    "safeswitch": "a refusal head where an unsafe reply comes (2502.01042)",
    "cast": "pushes those who meet a condition (2409.05907)",
    "antidote": "sparse push for all, Jailbreak Antidote (2410.02298)",
    "caa": "one layer's push, learned from A/B choices (2312.06681)",
    "false_refusal": "the false part of refusal ablated (2410.03415)",
    "ablation": "the refusal direction ablated (2406.11717)",
    "addition": "the refusal direction subtracted (2406.11717)",
    "self_cd": "what a safety prompt adds to logits, subtracted (2401.17633)",
    "system": "the plain model under a safety prompt",
    "random": "a placebo: SCANS along random directions",
}
"""What `compare` holds side by side, in that order."""


def require_known(names: Sequence[str], known: Sequence[str]) -> None:
    """Refuse a name that is none of those there are, or comes twice."""
    for place, name in enumerate(names):
        if name not in known:
            raise ValueError(f"There is no method {name!r}: there are {', '.join(known)}.")
        if name in names[:place]:
            raise ValueError(f"The method {name!r} is named twice.")


def require_preset(preset: str | None) -> None:
    """Refuse a preset that there is not."""
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"No preset {preset!r}; there are 'paper' and 'release', or None to choose on validation.")
