"""Overview: the method on one page, with what was learned and chosen for this model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scans_lens.figures import captions
from scans_lens.figures.captions import Numbers
from scans_lens.figures.panels import Place
from scans_lens.figures.style import ANSWERED, REFUSED, SOFT, WIDTH, blank

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scans_lens.figures.picture import Picture
    from scans_lens.figures.study import Study

ABOUT = "the method on one page (paper, figure 2)"


def measure(study: Study) -> dict[str, Any]:
    scans = study.scans
    return {
        "layers": scans.layers,
        "voting": scans.classifier.layers,
        "threshold": scans.classifier.threshold,
        "scale": scans.scale,
        "unit": scans.unit,
        "note": scans.note,
    }


def caption(numbers: Numbers, settings: Numbers) -> str:
    chosen = settings["validation"]
    harmless = "borderline" if "borderline" in chosen else "plain"
    return captions.caption(
        "SCANS as it is built here, with what was learned and chosen for this model.",
        captions.model(settings),
        captions.anchors(settings),
        f"Threshold and scale were chosen on {chosen['harmful']} harmful and {chosen[harmless]} {harmless}",
        "validation prompts.",
        "Equation numbers are those of Cao, Yang and Zhao (AAAI 2025).",
    )


def draw(numbers: Numbers, settings: Numbers) -> Picture:
    picture = blank(WIDTH, 5.5, caption(numbers, settings))
    pipeline(picture.add_subplot(), numbers, settings)
    return picture


def pipeline(ax: Axes, numbers: Numbers, settings: Numbers) -> Axes:
    """Boxes and arrows: above what is learned once, below what happens to every prompt."""
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

    ax.set(xlim=(0, 100), ylim=(0, 62))
    ax.axis("off")
    about, steered = settings["anchors"], captions.ranges(numbers["layers"])
    voting, threshold = captions.layers(numbers["voting"]), numbers["threshold"]
    scale = f"{numbers['scale']:g} {numbers['unit']}"
    for bottom, height, title in ((31.5, 30, "Learned once"), (0.5, 27, "For every prompt")):
        ax.add_patch(Rectangle((0.3, bottom), 99.4, height, facecolor="#f6f6f4", edgecolor="none", zorder=0))
        ax.text(1.6, bottom + height - 1.3, title, fontsize=9.5, fontweight="bold", va="top")

    def box(x: Place, y: Place, width: Place, height: Place, head: str, body: str, colour: str = SOFT) -> None:
        patch = FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=1",
            facecolor="white",
            edgecolor=colour,
            linewidth=1.2,
        )
        ax.add_patch(patch)
        rows = body.count("\n") + 1
        ax.text(
            x + width / 2, y + height / 2 + 1.25 * rows, head, ha="center", va="center", fontsize=8.4, fontweight="bold"
        )
        ax.text(x + width / 2, y + height / 2 - 1.5, body, ha="center", va="center", fontsize=7.6, linespacing=1.35)

    def arrow(start: tuple[Place, Place], end: tuple[Place, Place], colour: str = SOFT) -> None:
        shape = FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=10, color=colour, linewidth=1.2, shrinkA=0, shrinkB=0,
        )  # fmt: skip
        ax.add_patch(shape)

    box(2, 40.5, 15, 10, "anchor prompts", f"{about['harmful']} harmful\n{about['plain']} plain")
    box(22, 47, 22, 10, "state at the end of the prompt", "residual stream,\nevery layer")
    box(22, 34, 22, 10, "transition (eq. 2)", "that state minus the state\nafter the reply begins “Sure”")
    box(49, 47, 22, 10, "refusal direction v (eq. 1)", "harmful mean − plain mean,\none vector a layer")
    box(49, 34, 22, 10, "harmful transition d (eq. 3)", "mean over harmful anchors,\none vector a layer")
    box(76, 47, 22, 10, f"anchor layers: {steered}", "the lens proposes,\na causal push disposes")
    box(76, 34, 22, 10, f"threshold T = {threshold:.4f}", f"scale α = {scale};\nchosen on validation prompts")
    arrow((17, 47.5), (22, 51.5))
    arrow((17, 43.5), (22, 39.5))
    arrow((44, 52), (49, 52))
    arrow((44, 39), (49, 39))
    arrow((71, 52), (76, 52))
    arrow((71, 39), (76, 39))
    arrow((33, 47), (33, 44))

    box(2, 8.5, 15, 10, "a prompt", "in the model’s\nchat template")
    box(22, 8.5, 22, 10, "its transition", "one more token\non the same prefill")
    box(49, 8.5, 22, 10, "score s (eq. 4)", f"mean cosine with d\nat {voting}")
    box(76, 15.5, 22, 9.5, "s ≥ T: add + α v", f"layers {steered}, from the last\nprompt token on: refuse", REFUSED)
    box(76, 2.5, 22, 9.5, "s < T: add − α v", f"layers {steered}, from the last\nprompt token on: answer", ANSWERED)
    arrow((17, 13.5), (22, 13.5))
    arrow((44, 13.5), (49, 13.5))
    arrow((71, 15.5), (76, 20.2), REFUSED)
    arrow((71, 11.5), (76, 7.2), ANSWERED)
    arrow((60, 34), (60, 18.5))
    ax.text(60.9, 29.5, "d", fontsize=8, va="center")
    arrow((87, 34), (87, 25))
    ax.text(87.9, 29.5, "v, layers, T, α", fontsize=8, va="center")
    return ax
