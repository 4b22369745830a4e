"""t-SNE: transitions of test prompts in two dimensions, beside a plane that is fitted on the anchors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from scans_lens.figures import captions
from scans_lens.figures.captions import Numbers
from scans_lens.figures.panels import mark
from scans_lens.figures.style import ASKED, KINDS, WIDTH, blank

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from scans_lens.figures.picture import Picture
    from scans_lens.figures.study import Study

ABOUT = "transitions in two dimensions (paper, figure 3)"


def measure(study: Study) -> dict[str, Any]:
    import torch
    from sklearn.manifold import TSNE

    from scans_lens.figures import estimates

    states, learned = study.test_states, study.anchor_states
    n_layers = int(study.model.cfg.n_layers)
    kinds = list(states)
    together = torch.cat([states[kind].transitions for kind in kinds])
    perplexity = min(30.0, (len(together) - 1) / 3)
    ends = np.cumsum([len(states[kind].transitions) for kind in kinds])[:-1]
    panels = []
    for layer in (n_layers // 3 - 1, 2 * n_layers // 3 - 1, n_layers - 1):
        layer = max(0, layer)
        space = TSNE(perplexity=perplexity, init="pca", random_state=study.seed).fit_transform(
            together[:, layer].numpy()
        )
        plane = _Plane.fit({kind: side.transitions[:, layer] for kind, side in learned.items()})
        flat = {kind: plane(states[kind].transitions[:, layer]) for kind in kinds}
        others = torch.cat([flat[kind] for kind in ("plain", "borderline") if kind in flat])
        rng = np.random.default_rng([study.seed, layer])
        panels.append(
            {
                "layer": layer,
                "tsne": {kind: _points(part) for kind, part in zip(kinds, np.split(space, ends), strict=True)},
                "pca": {kind: _points(part.numpy()) for kind, part in flat.items()},
                "explained": plane.explained,
                "auc": estimates.auc(
                    flat["harmful"] @ plane.direction, others @ plane.direction, rng, study.effort.resamples
                ),
            }
        )
    return {
        "panels": panels,
        "n": {kind: len(states[kind].transitions) for kind in kinds},
        "perplexity": perplexity,
        "resamples": study.effort.resamples,
    }


class _Plane:
    """Two principal components of the anchors' transitions at one layer, and harmful minus harmless in them."""

    def __init__(self, middle: Tensor, axes: Tensor, explained: list[float], direction: Tensor) -> None:
        self.middle, self.axes, self.explained, self.direction = middle, axes, explained, direction

    @classmethod
    def fit(cls, learned: Mapping[str, Tensor]) -> _Plane:
        import torch

        together = torch.cat(list(learned.values())).double()
        middle = together.mean(0)
        _, lengths, axes = torch.linalg.svd(together - middle, full_matrices=False)
        shares = (lengths**2 / (lengths**2).sum())[:2].tolist()
        others = torch.cat([side for kind, side in learned.items() if kind != "harmful"]).double()
        apart = (learned["harmful"].double().mean(0) - others.mean(0)) @ axes[:2].T
        signs = torch.where(apart < 0, -1.0, 1.0)  # harmful prompts lie to the right and above
        return cls(middle, axes[:2] * signs[:, None], shares, apart * signs)

    def __call__(self, states: Tensor) -> Tensor:
        return (states.double() - self.middle) @ self.axes.T


def _points(values: np.ndarray) -> dict[str, list[float]]:
    return {"x": [float(f"{x:.4g}") for x in values[:, 0]], "y": [float(f"{y:.4g}") for y in values[:, 1]]}


def caption(numbers: Numbers, settings: Numbers) -> str:
    return captions.caption(
        captions.model(settings),
        captions.anchors(settings),
        captions.tested(settings, numbers["n"]),
        f"t-SNE (perplexity {numbers['perplexity']:g}, started from PCA, seed {settings['seed']}) sees the test",
        "prompts and keeps no distances; it is here to stand beside the paper’s figure 3.",
        "PCA is fitted on the anchors of all their kinds; AUC is of harmful against plain and borderline test prompts",
        "along the anchors’ difference of means in that plane,",
        f"95 % by bootstrap over test prompts ({numbers['resamples']} resamples).",
    )


def draw(numbers: Numbers, settings: Numbers) -> Picture:
    picture = blank(WIDTH, 7.4, caption(numbers, settings))
    axes = picture.subplots(2, len(numbers["panels"]), squeeze=False)
    for column, panel in enumerate(numbers["panels"]):
        scatter(axes[0, column], panel["tsne"])
        scatter(axes[1, column], panel["pca"])
        axes[0, column].set_title(f"Layer {panel['layer']}: t-SNE")
        axes[0, column].set(xlabel="t-SNE 1 (no unit)")
        axes[1, column].set_title(
            f"Layer {panel['layer']}: PCA, held-out AUC {captions.with_interval(panel['auc'])}", fontsize=8.6
        )
        shares = panel["explained"]
        axes[1, column].set(
            xlabel=f"PC 1 ({100 * shares[0]:.0f} % of the anchors’ variance)", ylabel=f"PC 2 ({100 * shares[1]:.0f} %)"
        )
    axes[0, 0].set_ylabel("t-SNE 2 (no unit)")
    kinds = captions.in_order(numbers["n"])
    marks = [mark(f"{kind} (n = {numbers['n'][kind]})", 5, **ASKED[kind]) for kind in kinds]
    picture.legend(handles=marks, loc="outside upper center", ncols=len(kinds))
    return picture


def scatter(ax: Axes, points: Numbers) -> Axes:
    """One dot a prompt, coloured by its kind."""
    for kind in reversed(captions.in_order(points)):
        x, y = points[kind]["x"], points[kind]["y"]
        ax.scatter(x, y, s=9, marker=KINDS[kind]["marker"], color=KINDS[kind]["color"], alpha=0.65, lw=0)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.margins(0.06)
    return ax
