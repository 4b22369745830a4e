"""Calibration: the score's trade-off, and what becomes of a threshold that was calibrated on another type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scans_lens.figures import captions
from scans_lens.figures.captions import Numbers
from scans_lens.figures.style import ASKED, FAINT, INK, KINDS, SOFT, WIDTH, blank

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scans_lens.conversation import Prompt
    from scans_lens.figures.picture import Picture
    from scans_lens.figures.study import Study

ABOUT = "the score's trade-off, and thresholds carried over"


def measure(study: Study) -> dict[str, Any]:
    """The score's trade-off on test prompts, and what becomes of a threshold that was calibrated on another type."""
    from scans_lens import calibration
    from scans_lens.figures.estimates import average_precision, kept_points
    from scans_lens.figures.prompt_types import typed
    from scans_lens.rates import Rate

    scans, chosen = study.scans, study.scans.chosen
    assert chosen

    def score(texts: Sequence[Prompt]) -> np.ndarray:
        return scans.classifier.score(study.moves(texts)).double().numpy()

    test = {kind: one.score.double().numpy() for kind, one in study.pushed.items()}
    curves = {}
    for kind in ("borderline", "plain"):
        if kind in test:
            own = calibration.curves(test["harmful"], test[kind], resamples=study.effort.resamples, seed=study.seed)
            keep, rng = kept_points(len(own.flagged)), np.random.default_rng(study.seed)
            curves[kind] = {
                "flagged": own.flagged[keep],
                "caught": own.caught[keep],
                "precision": own.precision[keep],
                "auc": {"value": own.auc, "interval": own.auc_interval, "n": own.n},
                "average_precision": average_precision(test["harmful"], test[kind], rng, study.effort.resamples)
                | {"n": own.n},
                "at_threshold": {
                    "caught": Rate.of((test["harmful"] >= scans.classifier.threshold).tolist()),
                    "flagged": Rate.of((test[kind] >= scans.classifier.threshold).tolist()),
                },
            }
    sides: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    sizes: dict[str, dict[str, int]] = {}
    for split in ("validation", "test"):
        asked = typed(study, split)
        scores = {kind: score([one.text for one in own]) for kind, own in asked.items()}
        for name in sorted({type_ for one in asked["borderline"] for type_ in one.types}):
            harmful, good = (
                scores[kind][[name in one.types for one in asked[kind]]] for kind in ("harmful", "borderline")
            )
            sides[f"{split} {name}"] = (harmful, good)
            sizes.setdefault(name, {})[split] = len(harmful)
            sizes[name][f"{split} borderline"] = len(good)
    carried = [
        {
            "learned_on": one.learned_on.removeprefix("validation "),
            "tried_on": one.tried_on.removeprefix("test "),
            "threshold": one.threshold,
            "missed": one.missed,
            "flagged": one.flagged,
        }
        for one in calibration.transfer(sides, chosen.missed)
        if one.learned_on.startswith("validation ") and one.tried_on.startswith("test ")
    ]
    return {
        "n": study.sizes,
        "curves": curves,
        "threshold": scans.classifier.threshold,
        "missed": chosen.missed,
        "sizes": sizes,
        "transfer": carried,
        "resamples": study.effort.resamples,
    }


def caption(numbers: Numbers, settings: Numbers) -> str:
    n = numbers["n"]
    return captions.caption(
        captions.model(settings),
        f"Left: n = {', '.join(f'{n[kind]} {kind}' for kind in ('harmful', *numbers['curves']))} test prompts.",
        f"Marked: the threshold {numbers['threshold']:.4f}, with 95 % Clopper–Pearson bars. AUC and AP (average",
        f"precision): 95 %, bootstrap over test prompts ({numbers['resamples']} resamples).",
        f"Right: a threshold that {100 * numbers['missed']:g} % of one type’s harmful validation prompts (n beside the",
        "rows) may fall below, tried on another type’s test prompts (n below the columns); in brackets 95 %,",
        f"Clopper–Pearson. {_contrasts(numbers, settings)}",
    )


def draw(numbers: Numbers, settings: Numbers) -> Picture:
    picture = blank(WIDTH, 8.0, caption(numbers, settings))
    axes = picture.subplots(2, 2, width_ratios=(1, 1.5))
    trade_off(axes[0, 0], numbers, "roc")
    trade_off(axes[1, 0], numbers, "pr")
    carried(axes[0, 1], numbers, "missed")
    carried(axes[1, 1], numbers, "flagged")
    return picture


def _contrasts(numbers: Numbers, settings: Numbers) -> str:
    """What a type's harmful prompts are."""
    if settings["model"]["name"] != "bundled":
        return "A type’s harmful prompts are the twins of its borderline ones."
    most = max(own["validation"] for own in numbers["sizes"].values())
    whole = [name.replace("_", " ") for name, own in numbers["sizes"].items() if own["validation"] == most]
    every = f" ({' and '.join(whole)}: all of them)" if len(whole) > 1 else ""
    return f"A type’s harmful prompts are those with the verbs that it takes{every}."


def trade_off(ax: Axes, numbers: Numbers, which: str) -> Axes:
    """ROC or precision-recall of the score, harmful prompts against each harmless kind."""
    for kind in captions.in_order(numbers["curves"]):
        part, look = numbers["curves"][kind], KINDS[kind]
        here = part["at_threshold"]
        caught, flagged = here["caught"], here["flagged"]
        summary = captions.with_interval(part["auc" if which == "roc" else "average_precision"])
        line: dict[str, Any] = {"color": look["color"], "ls": look["linestyle"], "label": f"{kind}: {summary}"}
        if which == "roc":
            ax.plot(part["flagged"], part["caught"], **line)
            x, y = flagged["value"], caught["value"]
            ax.plot(flagged["interval"], [y, y], color=look["color"], lw=1)
            ax.plot([x, x], caught["interval"], color=look["color"], lw=1)
        else:
            ax.plot(part["caught"], part["precision"], **line)
            x = caught["value"]
            called = caught["count"] + flagged["count"]
            y = caught["count"] / called if called else 1.0
            ax.plot(caught["interval"], [y, y], color=look["color"], lw=1)
        ax.plot(x, y, ls="none", ms=6, markeredgecolor="white", **ASKED[kind])
    if which == "roc":
        ax.plot([0, 1], [0, 1], color=FAINT, lw=1, zorder=0)
        ax.set(xlabel="harmless prompts taken for harmful", ylabel="harmful prompts found", title="ROC curves")
        ax.legend(loc="lower right", title="AUC, harmful against", title_fontsize=8, alignment="left")
    else:
        ax.set(xlabel="recall", ylabel="precision", title="Precision and recall")
        ax.legend(loc="lower left", title="AP, harmful against", title_fontsize=8, alignment="left")
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.03))
    return ax


def carried(ax: Axes, numbers: Numbers, which: str) -> Axes:
    """What each type's threshold does to every type's test prompts."""
    titles = {"missed": "Harmful test prompts missed (%)", "flagged": "Borderline test prompts flagged (%)"}
    ax.set_title(titles[which])
    cells = {(one["learned_on"], one["tried_on"]): one[which] for one in numbers["transfer"]}
    if not cells:
        ax.axis("off")
        ax.text(0, 0.95, "No types of prompts are known.", fontsize=8, color=SOFT, va="top", transform=ax.transAxes)
        return ax
    rows, columns = (list(dict.fromkeys(key[side] for key in cells)) for side in (0, 1))
    values = np.array([[(cells[row, column] or {"value": np.nan})["value"] for column in columns] for row in rows])
    top = max(0.05, float(np.nanmax(values)))
    ax.imshow(values, vmin=0, vmax=1.25 * top, cmap="Oranges" if which == "missed" else "Blues", aspect="auto")
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            rate = cells[row, column]
            if rate is None:
                ax.text(x, y, "–", ha="center", va="center", color=SOFT)
                continue
            colour = "white" if rate["value"] > 0.85 * top else INK
            low, high = (100 * edge for edge in rate["interval"])
            ax.text(x, y - 0.14, f"{100 * rate['value']:.1f}", ha="center", va="center", fontsize=7.6, color=colour)
            ax.text(x, y + 0.24, f"[{low:.0f}, {high:.0f}]", ha="center", va="center", fontsize=5.8, color=colour)
    sizes, tried = numbers["sizes"], "test" if which == "missed" else "test borderline"
    ax.set_xticks(
        range(len(columns)),
        [f"{name.replace('_', ' ').replace(' ', chr(10), 1)}\nn = {sizes[name].get(tried, 0)}" for name in columns],
        fontsize=6.8,
    )
    ax.set_yticks(
        range(len(rows)), [f"{name.replace('_', ' ')} (n = {sizes[name]['validation']})" for name in rows], fontsize=7.4
    )
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("tried on")
    ax.set_ylabel("calibrated on")
    return ax
