"""Drawing the comparison: what every method leaves refused, kind by kind, beside the plain model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scans_lens.figures import captions
from scans_lens.figures.style import FAINT, KINDS, SOFT, Picture, blank, looks, save, settled

Numbers = Mapping[str, Any]


def compared(numbers: Numbers) -> Picture:
    """One row a method, one panel a kind; vertical lines are the plain model, and black names lie on the front."""
    ways = {name: own for name, own in numbers["ways"].items() if own.get("refused")}
    kinds = [kind for kind in KINDS if all(kind in own["refused"] for own in ways.values())]
    total = ways["plain"]["refused"]
    with looks():
        caption = captions.caption(
            captions.model(numbers),
            "n = " + ", ".join(f"{total[kind]['total']} {kind}" for kind in kinds) + " test prompts.",
            f"All learned from {numbers['anchors']['a side']} anchors a side (SafeSwitch from kinds of its own) and",
            f"chose their knobs on {numbers['validation']['a kind']} validation prompts a kind.",
            "Bars: 95 %, Clopper–Pearson where each prompt is an item of its own, else bootstrap over items. Lines and",
            "bands: the plain model. Black names: no other one refuses fewer borderline prompts without refusing fewer",
            "harmful ones or jailbreaks.",
        )
        picture = blank(10.0, 1.5 + 0.27 * len(ways), caption)
        panels = picture.subplots(1, len(kinds), sharey=True)
        names = list(ways)[::-1]
        for ax, kind in zip(panels, kinds, strict=True):
            look = KINDS[kind]
            plain = ways["plain"]["refused"][kind]
            ax.axvspan(*(100 * edge for edge in plain["interval"]), color=FAINT, alpha=0.5, linewidth=0)
            ax.axvline(100 * plain["value"], color=SOFT, linewidth=0.8)
            for row, name in enumerate(names):
                rate = ways[name]["refused"][kind]
                low, high = (100 * edge for edge in rate["interval"])
                ax.plot([low, high], [row, row], color=look["color"], linewidth=1.6, solid_capstyle="butt")
                ax.plot(100 * rate["value"], row, marker=look["marker"], color=look["color"], markersize=5)
            ax.set(title=kind, xlim=(-4, 104), xlabel="refused (%)", xticks=[0, 25, 50, 75, 100])
        panels[0].set_yticks(range(len(names)), names)
        panels[0].set_ylim(-0.7, len(names) - 0.3)
        for label, name in zip(panels[0].get_yticklabels(), names, strict=True):
            front = ways[name].get("front", False)
            label.set(color="black" if front else SOFT, fontweight="bold" if front else "normal")
        return settled(picture)


def write(numbers: Numbers, folder: str | Path, name: str = "comparison") -> list[Path]:
    return save(compared(numbers), Path(folder), name)
