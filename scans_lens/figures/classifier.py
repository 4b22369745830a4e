"""Classifier: SCANS' score beside baselines that need no network."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scans_lens.figures import captions
from scans_lens.figures.captions import Numbers
from scans_lens.figures.style import FAINT, METHODS, WIDTH, blank

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from scans_lens.conversation import Prompt
    from scans_lens.figures.picture import Picture
    from scans_lens.figures.study import States, Study

ABOUT = "the score against offline baselines (paper, figure 4)"


def measure(study: Study) -> dict[str, Any]:
    """SCANS' score beside baselines that need no network; every threshold misses as many harmful validation prompts."""
    import torch

    from scans_lens import anchoring
    from scans_lens.chat import words_of
    from scans_lens.conversation import words
    from scans_lens.figures import estimates
    from scans_lens.rates import Rate

    assert study.scans.chosen
    missed, resamples = study.scans.chosen.missed, study.effort.resamples
    best, validation_auc = _best_layer(study)
    keywords = _keywords(study)
    learned = study.anchor_states
    probe = _probe(learned["harmful"].residuals[:, best], learned["plain"].residuals[:, best])
    unit = study.directions.unit().vectors[best]
    rising = anchoring.rising_tokens(study.model, study.anchors, batch_size=study.batch_size)

    def scored(texts: Sequence[Prompt], states: States) -> dict[str, np.ndarray]:
        return {
            "SCANS score": study.scans.classifier.score(study.moves(texts)).double().numpy(),
            "mean difference": (states.residuals[:, best] @ unit).double().numpy(),
            "linear probe": probe(states.residuals[:, best]),
            "refusal log-odds": _log_odds(study, texts, rising),
            "keyword list": np.array([float(len(keywords & set(_words(words(text))))) for text in texts]),
        }

    held = scored(study.validation.harmful, study.validation_states["harmful"])
    test = {kind: scored(study.test[kind], states) for kind, states in study.test_states.items()}
    harmless = [kind for kind in ("plain", "borderline") if kind in test]
    methods = {}
    for name, scores in held.items():
        threshold = float(np.sort(scores)[int(missed * len(scores) + 1e-9)])
        yes = test["harmful"][name]
        no = np.concatenate([test[kind][name] for kind in harmless])
        rng = np.random.default_rng(study.seed)
        found, false = int((yes >= threshold).sum()), int((no >= threshold).sum())
        methods[name] = {
            "threshold": threshold,
            "precision": Rate(found, found + false) if found + false else None,
            "recall": Rate(found, len(yes)),
            "f1": estimates.f1(yes >= threshold, no >= threshold, rng, resamples),
            "taken_for_harmful": {kind: Rate.of((test[kind][name] >= threshold).tolist()) for kind in test},
            "auc": estimates.auc(torch.from_numpy(yes), torch.from_numpy(no), rng, resamples),
            "average_precision": estimates.average_precision(yes, no, rng, resamples) | {"n": len(yes) + len(no)},
            **_curves(yes, no),
        }
    return {
        "n": {kind: len(study.test[kind]) for kind in test},
        "harmless": harmless,
        "methods": methods,
        "layer": best,
        "layer_auc_on_validation": validation_auc,
        "rising": words_of(study.model, list(rising)),
        "keywords": sorted(keywords),
        "missed": missed,
        "n_validation": len(study.validation.harmful),
        "resamples": resamples,
    }


def _best_layer(study: Study) -> tuple[int, float]:
    """The anchor layer whose direction tells harmful from harmless validation prompts best; the first of the best."""
    import torch

    from scans_lens.anchoring import NoAnchorLayers
    from scans_lens.directions import components
    from scans_lens.figures.estimates import rank_auc

    if isinstance(study.lens, NoAnchorLayers):
        raise study.lens
    units = study.directions.unit().vectors
    along = {kind: components(side.residuals, units) for kind, side in study.validation_states.items()}
    others = torch.cat([values for kind, values in along.items() if kind != "harmful"])
    values = rank_auc(along["harmful"].numpy(), others.numpy())
    best = max(study.lens.layers, key=lambda layer: values[layer])
    return best, float(values[best])


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())


def _keywords(study: Study) -> set[str]:
    """Words that stand in at least two harmful anchors and in no plain one: the list that somebody would write."""
    from scans_lens.conversation import words

    harmless = {word for text in study.anchors.harmless for word in _words(words(text))}
    counts: dict[str, int] = {}
    for text in study.anchors.harmful:
        for word in set(_words(words(text))) - harmless:
            counts[word] = counts.get(word, 0) + 1
    return {word for word, count in counts.items() if count >= 2}


def _probe(harmful: Tensor, harmless: Tensor) -> Callable[[Tensor], np.ndarray]:
    """Logistic regression on standardised states."""
    import torch
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = np.r_[np.ones(len(harmful)), np.zeros(len(harmless))]
    fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    fitted.fit(torch.cat([harmful, harmless]).double().numpy(), labels)
    return lambda states: fitted.decision_function(states.double().numpy())


def _log_odds(study: Study, texts: Sequence[Prompt], tokens: Sequence[int]) -> np.ndarray:
    """Of the reply's first token being one that begins refusals (Arditi et al. 2024)."""
    from scans_lens import anchoring
    from scans_lens.flight import flights

    result = np.empty(len(texts))
    for rows, flight in flights(study.model, texts, batch_size=study.batch_size):
        result[rows.numpy()] = anchoring.refusal_log_odds(flight.logits, tokens).cpu().numpy()
    return result


def _curves(yes: np.ndarray, no: np.ndarray) -> dict[str, Any]:
    from sklearn.metrics import precision_recall_curve, roc_curve

    from scans_lens.figures.estimates import kept_points

    labels, scores = np.r_[np.ones(len(yes)), np.zeros(len(no))], np.r_[yes, no]
    false, true, _ = roc_curve(labels, scores)
    precision, recall, _ = precision_recall_curve(labels, scores, drop_intermediate=True)

    def thin(values: np.ndarray) -> np.ndarray:
        return values[kept_points(len(values))]

    return {
        "roc": {"false_positive_rate": thin(false), "true_positive_rate": thin(true)},
        "pr": {"recall": thin(recall), "precision": thin(precision)},
    }


def caption(numbers: Numbers, settings: Numbers) -> str:
    return captions.caption(
        captions.model(settings),
        captions.anchors(settings),
        captions.tested(settings, numbers["n"]),
        f"Harmless: {' and '.join(numbers['harmless'])}.",
        f"Every threshold is the highest that misses at most {100 * numbers['missed']:g} % of",
        f"{numbers['n_validation']} harmful validation prompts. Mean difference and probe read layer",
        f"{numbers['layer']}, the anchor layer with the best validation AUC; the keywords are the",
        f"{len(numbers['keywords'])} words of at least two harmful anchors and no plain one. Intervals, 95 %:",
        "precision, recall and shares Clopper–Pearson; F1, AUC and AP (average precision) bootstrap over test prompts",
        f"({numbers['resamples']} resamples).",
    )


def draw(numbers: Numbers, settings: Numbers) -> Picture:
    picture = blank(WIDTH, 7.2, caption(numbers, settings))
    grid = picture.add_gridspec(2, 2, height_ratios=(1, 1.15))
    bars(picture.add_subplot(grid[0, :]), numbers)
    curves(picture.add_subplot(grid[1, 0]), numbers, "roc")
    curves(picture.add_subplot(grid[1, 1]), numbers, "pr")
    return picture


def bars(ax: Axes, numbers: Numbers) -> Axes:
    """Precision, recall and F1 of every method at its threshold (SCANS, figure 4), and the other kinds."""
    groups: list[tuple[str, Callable[[Numbers], Numbers | None]]] = [
        ("precision", lambda part: part["precision"]),
        ("recall", lambda part: part["recall"]),
        ("F1", lambda part: part["f1"]),
    ]
    for kind in ("plain", "borderline", "jailbreak"):
        if kind in numbers["n"]:
            groups.append((f"{kind} taken\nfor harmful", lambda part, kind=kind: part["taken_for_harmful"][kind]))
    methods = numbers["methods"]
    width = 0.84 / len(methods)
    for place, (name, part) in enumerate(methods.items()):
        for group, (_, pick) in enumerate(groups):
            found = pick(part)
            x = group + (place - (len(methods) - 1) / 2) * width
            if found is None:
                ax.text(x, 0.01, "–", ha="center", va="bottom", fontsize=8)
                continue
            ax.bar(x, found["value"], width * 0.9, color=METHODS[name]["color"], label=name if group == 0 else "_")
            low, high = found["interval"]
            ax.plot([x, x], [low, high], color="white", lw=2.6, solid_capstyle="butt")
            ax.plot([x, x], [low, high], color="#D55E00", lw=1.2, solid_capstyle="butt")
            ax.text(
                x,
                max(high, found["value"]) + 0.015,
                f"{found['value']:.2f}".replace("0.", ".", 1),
                ha="center",
                va="bottom",
                fontsize=6.4,
            )
    ax.axvline(2.5, color=FAINT, lw=1)
    ax.set_xticks(range(len(groups)), [label for label, _ in groups])
    ax.tick_params(axis="x", length=0)
    ax.set_xlim(-0.55, len(groups) - 0.45)
    ax.set_ylim(0, 1.12)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ax.set_ylabel("share")
    ax.set_title(
        "Left: harmful against harmless test prompts, at the threshold. Right: what else each method takes for harmful",
        pad=20,
    )
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(methods), borderaxespad=0.1)
    return ax


def curves(ax: Axes, numbers: Numbers, which: str) -> Axes:
    """ROC or precision-recall curve of every method."""
    for name, part in numbers["methods"].items():
        x, y = ("false_positive_rate", "true_positive_rate") if which == "roc" else ("recall", "precision")
        summary = part["auc" if which == "roc" else "average_precision"]
        label = f"{name}: {captions.with_interval(summary)}"
        steps = "default" if which == "roc" else "steps-pre"
        ax.plot(part[which][x], part[which][y], label=label, drawstyle=steps, **METHODS[name])
    if which == "roc":
        ax.plot([0, 1], [0, 1], color=FAINT, lw=1, zorder=0)
        ax.set(xlabel="harmless prompts taken for harmful", ylabel="harmful prompts found", title="ROC curves")
        ax.legend(loc="lower right", title="AUC", title_fontsize=8, alignment="left")
    else:
        share = numbers["n"]["harmful"] / (
            numbers["n"]["harmful"] + sum(numbers["n"][kind] for kind in numbers["harmless"])
        )
        ax.axhline(share, color=FAINT, lw=1, zorder=0)
        ax.set(xlabel="recall", ylabel="precision", title=f"Precision and recall (harmful share {share:.2f})")
        ax.legend(loc="lower left", title="AP", title_fontsize=8, alignment="left")
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.03))
    return ax
