"""Effort: how much measuring the figures may cost, as a value with numbers in it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """How many resamples, draws, prompts and tokens the figures take.

    A study holds it and every figure reads it there; tests and first looks hand in a smaller one.
    """

    resamples: int = 500
    """Of every bootstrap interval."""
    token_resamples: int = 100
    """Of the anchors, for how often a token stays among the loudest."""

    example_tokens: int = 24
    """New tokens of a reply to a validation prompt from which an example may be taken."""
    shown_tokens: int = 96
    """New tokens of an example that is shown."""
    rate_tokens: int = 40
    """New tokens of a reply that is judged, and read for whether it names what was asked."""
    judged_tokens: int = 40
    """New tokens of a reply that every judge is asked about."""
    quiz_tokens: int = 24
    switch_tokens: int = 64
    """New tokens of a reply with and without the refusal head."""
    direction_tokens: int = 24
    """New tokens of a reply under the refusal direction; enough for the rules to hear a broken refusal."""

    placebo_draws: int = 4
    """Placebos of one sort beside SCANS; each steers its own share of the prompts, so that no single draw decides."""
    scales: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
    """Scales that are swept, as multiples of the chosen one."""
    placebo_scales: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0)
    swept_draws: int = 3
    """Placebos of one sort in the sweep of scales."""
    swept_prompts: int = 100
    """Prompts that each of them is tried on."""
    thresholds: int = 40
    """Points of the threshold's sweep."""
    typed: int = 3
    """Where prompts are divided by type, so many times as many test prompts are asked as elsewhere."""
    sizes: tuple[int, ...] = (8, 16, 32, 64, 128, 192)
    """Anchors a side."""
    size_draws: int = 4
    size_prompts: int = 100
    """Prompts of a kind that are answered with every draw of anchors."""

    probed: int = 200
    """Training prompts of a kind for the many probers by layer and by token."""
    ahead: int = 10
    """Reply tokens that are looked ahead (SafeSwitch's release sweeps 0 to 10)."""


STANDARD = Effort()
