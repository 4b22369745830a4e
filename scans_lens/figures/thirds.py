"""Thirds: the same push in another third of the layers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scans_lens.figures import captions
from scans_lens.figures.captions import Numbers
from scans_lens.figures.panels import beside, dot, labelled, refused_axis
from scans_lens.figures.style import ASKED, FAINT, INK, KINDS, WIDTH, blank

if TYPE_CHECKING:
    from scans_lens.figures.picture import Picture
    from scans_lens.figures.study import Study
    from scans_lens.methods.scans import SCANS

ABOUT = "the same push in other layers (paper, table 5)"


def measure(study: Study) -> dict[str, Any]:
    """The same push in another third of the layers: who is refused, and how well an answer is still foretold."""
    from scans_lens.figures import perplexity
    from scans_lens.figures.study import thirds_of
    from scans_lens.rates import Rate

    scans = study.scans
    ways: dict[str, SCANS | None] = {
        "plain model": None,
        "anchor layers": scans,
        **{name: replace(scans, layers=layers) for name, layers in thirds_of(len(scans.directions)).items()},
    }
    rates = {
        "plain model": {kind: Rate.of(one.plain) for kind, one in study.pushed.items()},
        "anchor layers": {kind: Rate.of(one.at(scans.classifier.threshold)) for kind, one in study.pushed.items()},
    }
    for way, method in ways.items():
        if way not in rates:
            rates[way] = {kind: Rate.of(study.refused(texts, method)) for kind, texts in study.test.items()}
    return {
        "n": study.sizes,
        "ways": {
            way: {
                "layers": method.layers if method else [],
                "rates": rates[way],
                "perplexity": perplexity.of_corpus(study, method, method and -1.0),
            }
            for way, method in ways.items()
        },
        "scale": scans.scale,
        "unit": scans.unit,
        "threshold": scans.classifier.threshold,
        **study.judged,
    }


def caption(numbers: Numbers, settings: Numbers) -> str:
    ways = numbers["ways"]
    lost = [part["perplexity"] for part in ways.values() if part["perplexity"]]
    return captions.caption(
        captions.model(settings),
        captions.tested(settings, numbers["n"]),
        captions.judged(numbers),
        f"Everywhere the same directions, threshold ({numbers['threshold']:.4f}) and scale, {numbers['scale']:g}",
        f"{numbers['unit']}, which were chosen for the anchor layers. Bars: 95 %, Clopper–Pearson. Grey: the plain",
        "model. The more layers, the greater the whole push.",
        f"{captions.perplexity(lost[0])}, all pushed away from refusal; bars: 95 %, bootstrap over answers."
        if lost
        else "",
        captions.SAME_ANSWERS if lost else "",
    )


def draw(numbers: Numbers, settings: Numbers) -> Picture:
    ways = numbers["ways"]
    lost = [part["perplexity"] for part in ways.values() if part["perplexity"]]
    kinds = captions.in_order(numbers["n"])
    picture = blank(WIDTH, 3.9, caption(numbers, settings))
    axes = picture.subplots(1, len(kinds) + bool(lost), squeeze=False)[0]
    labels = [f"{way} ({captions.ranges(part['layers'])})" if part["layers"] else way for way, part in ways.items()]
    for place, kind in enumerate(kinds):
        ax = axes[place]
        ax.axvline(100 * ways["plain model"]["rates"][kind]["value"], color=FAINT, lw=1, zorder=0)
        for y, part in enumerate(ways.values()):
            dot(ax, part["rates"][kind], y, **ASKED[kind])
        labelled(ax, labels, named=not place)
        refused_axis(ax, along="x")
        ax.set_title(f"{kind} (n = {numbers['n'][kind]})", color=KINDS[kind]["color"], fontweight="bold", fontsize=8.6)
    if lost:
        ax = axes[-1]
        ax.axvline(lost[0]["value"], color=FAINT, lw=1, zorder=0)
        for y, part in enumerate(ways.values()):
            dot(ax, part["perplexity"], y, times=1, color=INK, marker="o")
            beside(ax, y, f"{part['perplexity']['value']:.3f}")
        labelled(ax, labels, named=False)
        ax.margins(x=0.12)
        ax.set_xlabel("perplexity (a token)")
        ax.set_title(f"corpus (n = {lost[0]['texts']})", fontweight="bold", fontsize=8.6)
    return picture
