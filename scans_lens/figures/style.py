"""Style: how every figure looks, and how it is written so that the same numbers give the same bytes."""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scans_lens.figures.catalogue import known

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scans_lens.figures.picture import Picture

WIDTH = 10.0
"""Inches of a wide figure."""
DPI = 150

INK, SOFT, FAINT, BAND = "#222222", "#6b6b6b", "#d9d9d9", "#efe6c8"

# Okabe and Ito's palette, which colour-blind readers can tell apart; marks and dashes say the same again.
KINDS: Mapping[str, dict[str, Any]] = {
    "harmful": {"color": "#D55E00", "marker": "o", "linestyle": "-"},
    "borderline": {"color": "#E69F00", "marker": "s", "linestyle": "--"},
    "plain": {"color": "#0072B2", "marker": "^", "linestyle": "-."},
    "jailbreak": {"color": "#CC79A7", "marker": "D", "linestyle": ":"},
}
ASKED: Mapping[str, dict[str, Any]] = {
    **{kind: {key: KINDS[kind][key] for key in ("color", "marker")} for kind in KINDS},
    "wrapped plain": {"color": KINDS["plain"]["color"], "marker": "^", "markerfacecolor": "white"},
    "wrapped borderline": {"color": KINDS["borderline"]["color"], "marker": "s", "markerfacecolor": "white"},
}
"""Colours and marks without lines; what is wrapped as jailbreaks are, and harmless, is hollow."""
METHODS: Mapping[str, dict[str, Any]] = {
    "SCANS score": {"color": "#000000", "linestyle": "-"},
    "mean difference": {"color": "#009E73", "linestyle": "--"},
    "linear probe": {"color": "#56B4E9", "linestyle": "-"},
    "refusal log-odds": {"color": "#8C4A7B", "linestyle": "-."},
    "keyword list": {"color": "#9A9A9A", "linestyle": ":"},
}
REFUSED, ANSWERED = "#D55E00", "#0072B2"

RC: dict[Any, Any] = {
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",  # ships with matplotlib, so letters are the same everywhere
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.color": INK,
    "text.parse_math": False,  # tokens and replies may hold a $
    "legend.frameon": True,
    "legend.framealpha": 0.85,
    "legend.facecolor": "white",
    "legend.edgecolor": "white",
    "legend.fancybox": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "svg.fonttype": "path",
    "svg.hashsalt": "scans_lens",
}


@contextmanager
def looks() -> Iterator[None]:
    """Our settings, whatever the reader's own matplotlib is set to, and theirs again afterwards."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        yield


def blank(width: float, height: float, caption: str) -> Picture:
    """A picture with its caption below and room for panels above."""
    from scans_lens.figures.picture import Picture

    letters = int(width * 17.6)
    lines = textwrap.wrap(caption, letters)
    below = (0.2 + 0.155 * len(lines)) / height
    picture = Picture(figsize=(width, height))
    picture.set_layout_engine("constrained", rect=(0, below, 1, 1 - below), w_pad=0.08, h_pad=0.06)
    picture.text(
        0.09 / width,
        0.09 / height,
        "\n".join(lines),
        fontsize=7.6,
        color=SOFT,
        va="bottom",
        ha="left",
        linespacing=1.35,
    )
    return picture


def settled(picture: Picture) -> Picture:
    """The picture with its layout done and rounded: the solver's last digits differ from run to run."""
    picture.draw_without_rendering()
    picture.set_layout_engine("none")
    for ax in picture.axes:
        ax.set_position([round(edge, 5) for edge in ax.get_position(original=True).bounds])  # type: ignore[arg-type]
    return picture


def layers_axis(ax: Axes, n_layers: int, *, label: bool = True) -> None:
    """Layer numbers along x: all of them where there is room."""
    step = max(1, -(-n_layers // 16))
    ax.set_xticks(range(0, n_layers, step))
    ax.set_xlim(-0.6, n_layers - 0.4)
    if label:
        ax.set_xlabel("layer (end of block)")


def shade(ax: Axes, layers: list[int], label: str) -> None:
    """Shade runs of layers; the first run bears the label."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    for place, run in enumerate(runs):
        ax.axvspan(run[0] - 0.5, run[-1] + 0.5, color=BAND, lw=0, zorder=0, label="_" if place else label)


def stretched(score: Any) -> Any:
    """A score on an axis stretched towards 1, where scores crowd."""
    return -np.log10(np.clip(1 - np.asarray(score, dtype=float), 1e-5, None))


def scores_axis(ax: Axes, lowest: float, highest: float) -> None:
    """Scores along a stretched x, with round ones marked where there is room."""
    low, high = stretched(lowest), stretched(highest)
    ticks = [
        tick
        for tick in (-0.9, -0.5, 0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999)
        if low - 0.1 <= stretched(tick) <= high + 0.1
    ]
    kept: list[float] = []
    for tick in ticks:
        if not kept or stretched(tick) - stretched(kept[-1]) > (high - low) / 9:
            kept.append(tick)
    ax.set_xticks([float(stretched(tick)) for tick in kept], [f"{tick:g}" for tick in kept])


def legible(token: str) -> str:
    """A token as it can be drawn: spaces shown, and what the font does not have written as its code."""
    shown = token.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")
    return "".join(letter if _has_glyph(letter) else f"U+{ord(letter):04X}" for letter in shown) or "(empty)"


@cache
def _has_glyph(letter: str) -> bool:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return letter.isprintable() and bool(
        get_font(findfont(FontProperties(family="DejaVu Sans"))).get_char_index(ord(letter))
    )


def written(picture: Figure, kind: str) -> bytes:
    """What a file of this kind holds, without a date or a program's version in it."""
    metadata = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}[kind]
    file = io.BytesIO()
    with looks():
        picture.savefig(file, format=kind, metadata=metadata, dpi=DPI)  # type: ignore[arg-type]
    return file.getvalue()


def save(picture: Figure, folder: str | Path, name: str) -> list[Path]:
    """Write `<name>.png` and `<name>.svg`, each whole or not at all, byte for byte the same for the same numbers."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for kind in ("png", "svg"):
        file = folder / f"{known(name)}.{kind}"
        aside = file.with_name(file.name + ".part")
        aside.write_bytes(written(picture, kind))
        os.replace(aside, file)
        files.append(file)
    return files
