"""Anchor layers: where refusal is decided, by what directions say and by what pushing them does."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from scans_lens.figures import captions
from scans_lens.figures.captions import Numbers
from scans_lens.figures.style import FAINT, INK, KINDS, SOFT, blank, layers_axis, shade

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scans_lens.figures.picture import Picture
    from scans_lens.figures.study import Study

ABOUT = "where refusal is decided: lens and cause by layer"


def measure(study: Study) -> dict[str, Any]:
    from scans_lens.anchoring import NoAnchorLayers

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


def caption(numbers: Numbers, settings: Numbers) -> str:
    agreement = numbers["agreement"]
    return captions.caption(
        captions.model(settings),
        captions.anchors(settings),
        f"Bands and bars: 95 %, bootstrap over prompts ({numbers['resamples']} resamples); null: 95th percentile under",
        f"{numbers['resamples']} label shuffles. Filled points: p < .05 against it.",
        numbers["note"],
        ""
        if agreement is None
        else f"Rank agreement of lens and cause where layers could be chosen: {agreement:+.2f}.",
    )


def draw(numbers: Numbers, settings: Numbers) -> Picture:
    picture = blank(7.2, 6.0, caption(numbers, settings))
    above, below = picture.subplots(2, 1, sharex=True)
    evidence_by_layer(above, numbers)
    drop_by_layer(below, numbers)
    return picture


def _band(ax: Axes, numbers: Numbers) -> None:
    if numbers["layers"]:
        shade(ax, list(numbers["layers"]), f"anchor layers {captions.ranges(numbers['layers'])}")


def evidence_by_layer(ax: Axes, numbers: Numbers) -> Axes:
    """How loudly each layer's direction says words of refusal, beside what shuffled labels say."""
    rows = numbers["evidence"]
    at = [row["layer"] for row in rows]
    _band(ax, numbers)
    low, high = zip(*(row["z_interval"] for row in rows), strict=True)
    colour = KINDS["harmful"]["color"]
    ax.fill_between(at, low, high, color=colour, alpha=0.25, lw=0)
    ax.plot(at, [row["z"] for row in rows], color=colour, label="harmful − plain")
    for row in rows:
        face = colour if row["qualifies"] else "white"
        ax.plot(row["layer"], row["z"], marker="o", color=colour, markerfacecolor=face, ls="none")
    beside = [row["borderline_z"] for row in rows]
    if None not in beside:
        ax.plot(
            at,
            beside,
            color=KINDS["borderline"]["color"],
            ls="--",
            marker="s",
            ms=3,
            label="harmful − borderline (no vote)",
        )
    ax.plot(at, [row["z_null"] for row in rows], color=SOFT, ls=":", label="null (shuffled labels)")
    ax.set_ylim(min(0.0, ax.get_ylim()[0]), ax.get_ylim()[1] * 1.05)
    ax.set_ylabel("refusal words’ mean logit\n(sd over the vocabulary)")
    ax.set_title("The lens proposes: what each layer’s direction says")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    layers_axis(ax, len(rows), label=False)
    return ax


def drop_by_layer(ax: Axes, numbers: Numbers) -> Axes:
    """How far the refusal log-odds of harmful prompts fall when one layer alone is pushed back."""
    from matplotlib.patches import Patch

    rows = numbers["evidence"]
    at = np.array([row["layer"] for row in rows])
    drops = np.array([row["drop"] for row in rows])
    _band(ax, numbers)
    bars = np.abs(np.array([row["drop_interval"] for row in rows]).T - drops)
    ax.errorbar(at, drops, yerr=bars, color=INK, marker="o", capsize=2.5, label="one layer pushed by −v")
    ax.set_ylim(min(0.0, (drops - bars[0]).min() * 1.1), max(0.0, (drops + bars[1]).max() * 1.15))
    ax.axhline(0, color=FAINT, lw=1, zorder=0)
    ax.set_ylabel("fall of refusal log-odds\n(nats)")
    ax.set_title("The push disposes: what each direction does to harmful prompts")
    handles = [handle for handle in ax.get_legend_handles_labels()[0] if not isinstance(handle, Patch)]
    ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5))
    layers_axis(ax, len(rows))
    return ax
