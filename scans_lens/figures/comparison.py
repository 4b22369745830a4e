"""Comparison: what every method leaves refused, kind by kind, beside the plain model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scans_lens.figures import captions
from scans_lens.figures.captions import Numbers
from scans_lens.figures.runs import comparison_of
from scans_lens.figures.style import FAINT, KINDS, SOFT, blank, looks, save, settled

if TYPE_CHECKING:
    from scans_lens.figures.picture import Picture
    from scans_lens.figures.runs import Runs

ABOUT = "who is refused under every method that is compared"


def measure(runs: Runs) -> dict[str, Any]:
    """The numbers that `python -m scans_lens compare` has left in a folder, with its settings and versions.

    Raises:
        ValueError: no folder is given, or it holds no comparison.
    """
    return comparison_of(runs, "comparison")


def caption(numbers: Numbers, settings: Numbers) -> str:
    total = _rates(_asked(numbers))["plain"]
    return captions.caption(
        captions.model(numbers),
        "n = " + ", ".join(f"{rate['total']} {kind}" for kind, rate in total.items()) + " test prompts.",
        captions.learned(numbers),
        "Bars: 95 %, Clopper–Pearson where each prompt is an item of its own, else bootstrap over items. Lines and",
        "bands: the plain model. Black names: no other one refuses fewer borderline prompts without refusing fewer",
        "harmful ones or jailbreaks.",
    )


def _asked(numbers: Numbers) -> dict[str, Any]:
    """The methods that were fitted and asked, and not only named."""
    return {name: way for name, way in numbers["ways"].items() if way.get("refused")}


def _rates(ways: Numbers) -> dict[str, dict[str, Any]]:
    """By way, refusals of our kinds; where other sets were asked, of all sets of a purpose together."""
    ours = [kind for kind in KINDS if all(kind in way["refused"] for way in ways.values())]
    if ways["plain"]["refused"].keys() <= {*KINDS, "quiz"}:
        return {name: {kind: way["refused"][kind] for kind in ours} for name, way in ways.items()}
    if any("together" not in way for way in ways.values()):
        raise ValueError("An older version made this comparison, which did not count sets together: compare again.")
    return {
        name: {purpose: way["together"][purpose]["refused"] for purpose in LOOKS if purpose in way["together"]}
        for name, way in ways.items()
    }


LOOKS = {"over-refusal": "borderline", "harmless": "plain", "harmful": "harmful", "jailbreaks": "jailbreak"}
"""Purposes of sets, and the kinds whose colours and marks they have."""


def draw(numbers: Numbers, settings: Numbers) -> Picture:
    """One row a method, one panel a kind; vertical lines are the plain model, and black names lie on the front."""
    ways = _asked(numbers)
    rates = _rates(ways)
    kinds = list(rates["plain"])
    picture = blank(10.0, 1.5 + 0.27 * len(ways), caption(numbers, settings))
    panels = picture.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    names = list(ways)[::-1]
    for ax, kind in zip(panels, kinds, strict=True):
        look, plain = KINDS[LOOKS.get(kind, kind)], rates["plain"][kind]
        ax.axvspan(*(100 * edge for edge in plain["interval"]), color=FAINT, alpha=0.5, linewidth=0)
        ax.axvline(100 * plain["value"], color=SOFT, linewidth=0.8)
        for row, name in enumerate(names):
            rate = rates[name][kind]
            low, high = (100 * edge for edge in rate["interval"])
            ax.plot([low, high], [row, row], color=look["color"], linewidth=1.6, solid_capstyle="butt")
            ax.plot(100 * rate["value"], row, marker=look["marker"], color=look["color"], markersize=5)
        ax.set(title=kind, xlim=(-4, 104), xlabel="refused (%)", xticks=[0, 25, 50, 75, 100])
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(-0.7, len(names) - 0.3)
    for label, name in zip(panels[0].get_yticklabels(), names, strict=True):
        front = ways[name].get("front", False)
        label.set(color="black" if front else SOFT, fontweight="bold" if front else "normal")
    return picture


def write(numbers: Numbers, folder: str | Path) -> list[Path]:
    """Draw a comparison that has just been measured, beside its other files."""
    with looks():
        return save(settled(draw(numbers, {})), folder, "comparison")
