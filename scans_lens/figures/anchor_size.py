"""Anchor size: how alike directions are, and how well SCANS works, when they come from fewer anchors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scans_lens.figures import captions
from scans_lens.figures.captions import Numbers
from scans_lens.figures.panels import Place
from scans_lens.figures.style import INK, KINDS, SOFT, WIDTH, blank

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from scans_lens.directions import Directions
    from scans_lens.figures.picture import Picture
    from scans_lens.figures.study import Study
    from scans_lens.methods.scans import SCANS

ABOUT = "how many anchors are enough"


def measure(study: Study) -> dict[str, Any]:
    """How alike the directions are, and how well all of SCANS works, when they come from fewer anchors.

    Layers, voting layers and scale stay as the study chose them; directions, classifier and threshold are learned anew.
    """
    import torch
    from sklearn.metrics import roc_auc_score

    from scans_lens.classifier import TransitionClassifier
    from scans_lens.figures.study import by_kind, harmless_kind, thirds_of
    from scans_lens.rates import Rate

    scans, chosen, effort = study.scans, study.scans.chosen, study.effort
    assert chosen and scans.unit == "residual norms"
    pool, held = pool_of(study), by_kind(study.validation)
    kind = harmless_kind(held)
    yes, no = (study.moves(held[side]) for side in ("harmful", kind))
    truth = np.repeat([1, 0], [len(yes), len(no)])
    most = min(len(pool.harmful), len(pool.plain))
    everything = pool.directions(torch.arange(len(pool.harmful)), torch.arange(len(pool.plain)), scans)
    bands = {"anchor layers": scans.layers, **thirds_of(len(everything))}
    asked = {side: study.test[side][: effort.size_prompts] for side in ("harmful", "borderline") if side in study.test}
    rows = []
    for size in sorted({min(size, most) for size in effort.sizes}):
        row: dict[str, Any] = {"size": size, "cosine": {name: [] for name in bands}, "auc": [], "threshold": []}
        row["rates"] = {side: [] for side in asked}
        for draw in range(effort.size_draws if size < most else 1):
            generator = study.generator("anchors", str(size), str(draw))
            mine, theirs = (
                torch.randperm(len(side), generator=generator)[:size] for side in (pool.harmful, pool.plain)
            )
            directions = pool.directions(mine, theirs, scans)
            alike = torch.nn.functional.cosine_similarity(directions.vectors, everything.vectors, dim=-1)
            for name, layers in bands.items():
                row["cosine"][name].append(float(alike[list(layers)].mean()))
            classifier = TransitionClassifier.fit(
                pool.t_harmful[mine], pool.t_plain[theirs], layers=scans.classifier.layers
            ).calibrated(yes, missed=chosen.missed)
            row["auc"].append(float(roc_auc_score(truth, classifier.score(torch.cat([yes, no])).double().numpy())))
            row["threshold"].append(classifier.threshold)
            method = replace(scans, directions=directions, classifier=classifier)
            for side, texts in asked.items():
                row["rates"][side].append(Rate.of(study.refused(texts, method)))
        rows.append(row)
    return {
        "rows": rows,
        "pool": most,
        "auc_kind": kind,
        "n_validation": {"harmful": len(yes), kind: len(no)},
        "n": {side: len(texts) for side, texts in asked.items()},
        "plain_model": {side: Rate.of(study.pushed[side].plain[: len(texts)]) for side, texts in asked.items()},
        "missed": chosen.missed,
        "scale": scans.scale,
        "unit": scans.unit,
        "layers": scans.layers,
        **study.judged,
    }


@dataclass(frozen=True)
class Pool:
    """What anchors are drawn from: states and transitions (prompt, layer, d_model) of harmful and of plain prompts."""

    harmful: Tensor
    plain: Tensor
    t_harmful: Tensor
    t_plain: Tensor

    def directions(self, yes: Tensor, no: Tensor, like: SCANS) -> Directions:
        """Of these places, as long as SCANS' own are made."""
        from scans_lens.directions import Directions, difference_of_means

        harmful, plain = self.harmful[yes], self.plain[no]
        norms = (harmful.norm(dim=-1).mean(0) + plain.norm(dim=-1).mean(0)) / 2
        own = Directions(difference_of_means(harmful, plain).float(), norms.float(), like.directions.origin)
        return own.in_residual_norms()


def pool_of(study: Study) -> Pool:
    """Twice the study's anchors of the bundled model, from its training prompts; of any other those that there are."""
    from scans_lens import organism
    from scans_lens.organism import corpus
    from scans_lens.reading import residuals

    sides = (study.anchors.harmful, study.anchors.harmless)
    if not study.bundled:
        states = [study.anchor_states[kind].residuals for kind in ("harmful", "plain")]
    else:
        kinds: tuple[corpus.Kind, ...] = ("harmful", "plain")
        sides = tuple(organism.prompts(kind, "train")[: 2 * len(side)] for kind, side in zip(kinds, sides, strict=True))
        states = [residuals(study.model, side, batch_size=study.batch_size, progress=False) for side in sides]
    moves = [study.moves(side) for side in sides]
    return Pool(*states, *moves)


Draws = Sequence[Place]


def caption(numbers: Numbers, settings: Numbers) -> str:
    rows = numbers["rows"]
    draws = max(len(row["auc"]) for row in rows)
    held = ", ".join(f"{n} {kind}" for kind, n in numbers["n_validation"].items())
    asked = ", ".join(f"{n} {kind}" for kind, n in numbers["n"].items())
    return captions.caption(
        captions.model(settings),
        f"{draws} draws of each size from {numbers['pool']} training prompts a side. Lines: mean over the draws;",
        "bands: from the least to the most; dots: every draw. Directions, classifier and threshold are learned anew;",
        f"layers ({captions.ranges(numbers['layers'])}), voting layers and scale ({numbers['scale']:g}",
        f"{numbers['unit']}) are kept. AUC and threshold (at most {100 * numbers['missed']:g} % of the harmful ones",
        f"missed): {held} validation prompts. Refused: {asked} test prompts; the bar on the right is the 95 % interval",
        "(Clopper–Pearson) of the median draw of the largest size; dashed: the plain model.",
        captions.judged(numbers),
    )


def draw(numbers: Numbers, settings: Numbers) -> Picture:
    rows = numbers["rows"]
    picture = blank(WIDTH, 6.6, caption(numbers, settings))
    axes = picture.subplots(2, 2, sharex=True).ravel()
    _cosines(axes[0], numbers)
    _over_draws(axes[1], rows, [row["auc"] for row in rows], INK)
    axes[1].set(ylabel="AUC", title=f"The score: harmful against {numbers['auc_kind']} (validation)")
    for ax, side in zip(axes[2:], sorted(numbers["n"]), strict=False):
        _refused_by_size(ax, numbers, side)
    for ax in axes[2 + len(numbers["n"]) :]:
        ax.axis("off")
    for ax in axes:
        ax.set_xscale("log")
        ax.set_xticks([row["size"] for row in rows], [str(row["size"]) for row in rows])
        ax.minorticks_off()
        ax.tick_params(labelbottom=True)
    for ax in axes[2:]:
        ax.set_xlabel("anchors a side")
    return picture


def _over_draws(ax: Axes, rows: Sequence[Numbers], values: Sequence[Draws], colour: str, **look: Any) -> None:
    at = [row["size"] for row in rows]
    ax.fill_between(at, list(map(min, values)), list(map(max, values)), color=colour, alpha=0.18, lw=0)
    ax.plot(at, [float(np.mean(own)) for own in values], color=colour, **look)
    for x, own in zip(at, values, strict=True):
        ax.plot([x] * len(own), own, ls="none", marker="o", ms=2.6, color=colour, alpha=0.6)


def _cosines(ax: Axes, numbers: Numbers) -> Axes:
    """How alike the directions are to those of all prompts, by bands of layers."""
    looks = {
        "anchor layers": {"colour": "#D55E00", "ls": "-", "lw": 2},
        "former third": {"colour": "#56B4E9", "ls": "--"},
        "middle third": {"colour": "#009E73", "ls": "-."},
        "latter third": {"colour": "#8C4A7B", "ls": ":"},
    }
    for name, look in looks.items():
        _over_draws(ax, numbers["rows"], [row["cosine"][name] for row in numbers["rows"]], **look, label=name)
    ax.set(ylabel="cosine (mean over layers)", title=f"The directions: beside those of all {numbers['pool']} a side")
    ax.legend(loc="lower right")
    return ax


def _refused_by_size(ax: Axes, numbers: Numbers, side: str) -> Axes:
    """Refusals under SCANS from so many anchors."""
    rows, look = numbers["rows"], KINDS[side]
    values = [[100 * rate["value"] for rate in row["rates"][side]] for row in rows]
    _over_draws(ax, rows, values, look["color"], ls=look["linestyle"])
    plain = 100 * numbers["plain_model"][side]["value"]
    ax.axhline(plain, color=SOFT, lw=1, ls="--", zorder=0)
    ax.annotate(
        "plain model", (rows[0]["size"], plain), (0, -3), textcoords="offset points", fontsize=7.5, color=SOFT, va="top"
    )
    last = sorted(rows[-1]["rates"][side], key=lambda rate: rate["value"])
    middle = last[len(last) // 2]
    low, high = (100 * edge for edge in middle["interval"])
    x = rows[-1]["size"] * 1.13
    ax.plot([x, x], [low, high], color=look["color"], lw=1.4)
    lowest, highest = min(low, plain, *map(min, values)), max(high, plain, *map(max, values))
    room = 0.12 * (highest - lowest) + 1
    ax.set_ylim(max(-3, lowest - room), min(100 + room / 2, highest + room))
    ax.set_yticks([tick for tick in ax.get_yticks() if ax.get_ylim()[0] <= tick <= min(100, ax.get_ylim()[1])])
    ax.set(ylabel="refused (%)", title=f"{side} test prompts under SCANS (n = {numbers['n'][side]})")
    return ax
