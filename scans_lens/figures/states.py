"""States: where harmless, refused harmful and complied harmful prompts lie, at four depths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scans_lens.figures import captions
from scans_lens.figures.captions import Numbers
from scans_lens.figures.panels import mark
from scans_lens.figures.style import SOFT, WIDTH, blank

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scans_lens.figures.picture import Picture
    from scans_lens.figures.study import Study
    from scans_lens.figures.switch_study import Switching

ABOUT = "harmless, refused and complied prompts in the plane, at four depths"


POINTS = 100
"""Prompts of a group in the plane (as in the release)."""
GROUPS = {"harmless": (False, True), "refused harmful": (True, False), "complied harmful": (True, True)}
"""Which prompts: harmful or not, complied with or not."""
_LOOKS: Mapping[str, dict[str, Any]] = {
    "harmless": {"color": "#0072B2", "marker": "^"},
    "refused harmful": {"color": "#D55E00", "marker": "o"},
    "complied harmful": {"color": "#CC79A7", "marker": "D"},
}


def measure(study: Study) -> dict[str, Any]:
    """Where harmless, refused harmful and complied harmful prompts lie, at four depths."""
    from scans_lens.figures import switch_study

    return {**switch_study.about(study), **in_the_plane(study.switching)}


def in_the_plane(study: Switching) -> dict[str, Any]:
    """First two principal components at a quarter, a half, three quarters and the end of the depth, by group.

    Coordinates are of the end of the prompt, centred and scaled to [0, 1] at each depth. Beside them stand the shares
    of variance, and what straight lines in all dimensions get right of all prompts, learned elsewhere: whether a prompt
    is harmful, and whether it is harmful and complied with.
    """
    import torch

    from scans_lens.figures.switch_study import QUESTIONS, accuracy, majority, prober_at

    seen = study.tested
    depth = seen.first.shape[1] - 1
    layers = [round(share * depth) - 1 for share in (0.25, 0.5, 0.75)] + [depth]
    rng = np.random.default_rng(study.seed)
    chosen = {}
    for group, (harmful, does) in GROUPS.items():
        there = ((seen.harmful == harmful) & (seen.complied == does)).nonzero()[:, 0].numpy()
        chosen[group] = np.sort(rng.permutation(there)[:POINTS])
    places = np.concatenate(list(chosen.values()))
    panels = []
    for layer in layers:
        states = seen.first[places, layer].double()
        u, s, _ = torch.linalg.svd(states - states.mean(0), full_matrices=False)
        xy = u[:, :2] * s[:2]
        xy = (xy - xy.min(0).values) / (xy.max(0).values - xy.min(0).values)
        ends = np.cumsum([len(own) for own in chosen.values()])[:-1]
        parts = dict(zip(chosen, np.split(xy.numpy(), ends), strict=True))
        panels.append(
            {
                "layer": layer if layer < depth else "after the final norm",
                "variance": (s[:2] ** 2 / (s**2).sum()).tolist(),
                "points": {group: own.tolist() for group, own in parts.items()},
                "straight lines": {
                    name: accuracy(
                        study,
                        prober_at(study, name, layer, 0).probability(seen.first[:, layer]) >= 0.5,
                        QUESTIONS[name][1](seen),
                    )
                    for name in ("instruction", "direct")
                },
            }
        )
    return {
        "n": {group: len(own) for group, own in chosen.items()},
        "wrapped": {group: [_is_wrapped(seen.kinds[place]) for place in own] for group, own in chosen.items()},
        "tried": len(seen.kinds),
        "majority": {name: majority(QUESTIONS[name][1](seen)) for name in ("instruction", "direct")},
        "panels": panels,
    }


def _is_wrapped(kind: str) -> bool:
    return kind == "jailbreak" or kind.startswith("wrapped")


def caption(numbers: Numbers, settings: Numbers) -> str:
    said = ", ".join(f"{n} {group}" for group, n in numbers["n"].items())
    return captions.caption(
        captions.model(settings),
        f"Residual stream at the end of the prompt: principal components of the {said} test prompts that are drawn,",
        "centred, and scaled to 0–1 at each depth. Harmful: harmful prompts and jailbreaks together; complied,",
        "refused: by the plain model. Harmless: plain and borderline prompts that it answers, bare and in the",
        "wrappings of jailbreaks. Hollow: wrapped, jailbreaks among them. Below each panel: what straight lines in",
        f"all dimensions, learned from {numbers['learned']['probers']} training prompts, get right of",
        f"{numbers['tried']} test prompts of all kinds; 95 %, bootstrap over {numbers['items']} things that prompts",
        f"are about. Always the commoner answer gets {100 * numbers['majority']['instruction']:.1f} % and",
        f"{100 * numbers['majority']['direct']:.1f} %. After SafeSwitch (arXiv 2502.01042).",
    )


def draw(numbers: Numbers, settings: Numbers) -> Picture:
    picture = blank(WIDTH, 4.5, caption(numbers, settings))
    axes = picture.subplots(1, len(numbers["panels"]))
    for ax, panel in zip(np.atleast_1d(axes), numbers["panels"], strict=True):
        plane(ax, panel, numbers["wrapped"])
    marks = [
        mark(f"{group} (n = {numbers['n'][group]})", 5, **look)
        for group, look in _LOOKS.items()
        if group in numbers["n"]
    ]
    picture.legend(handles=marks, loc="outside upper center", ncols=len(marks))
    return picture


def plane(ax: Axes, panel: Numbers, wrapped: Mapping[str, Sequence[bool]]) -> Axes:
    """Prompts of the three groups in the plane of two principal components; what is wrapped is hollow."""
    for group, points in panel["points"].items():
        colour = _LOOKS[group]["color"]
        for hollow in (False, True):
            own = [point for point, inside in zip(points, wrapped[group], strict=True) if inside == hollow]
            if own:
                x, y = np.array(own).T
                face = "none" if hollow else colour
                ax.scatter(
                    x, y, s=13, marker=_LOOKS[group]["marker"], facecolor=face, edgecolor=colour, alpha=0.65, lw=0.8
                )
    ax.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05), xticks=[0, 1], yticks=[0, 1])
    ax.set_box_aspect(1)
    first, second = (f"{100 * share:.0f} %" for share in panel["variance"])
    lines = [
        f"{word} {captions.percent(panel['straight lines'][name])}"
        for name, word in (("instruction", "harmful?"), ("direct", "… and complied?"))
    ]
    ax.set_xlabel(f"PC 1 ({first} of variance)", labelpad=-5)
    ax.text(
        0, -0.17, "Straight lines in all dimensions:\n" + "\n".join(lines), transform=ax.transAxes, fontsize=6.8,
        color=SOFT, va="top", linespacing=1.4,
    )  # fmt: skip
    ax.set_ylabel(f"PC 2 ({second})", labelpad=-6)
    layer = panel["layer"]
    ax.set_title(f"layer {layer}" if isinstance(layer, int) else layer)
    return ax
