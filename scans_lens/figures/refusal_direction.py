"""Refusal direction: every candidate for the one direction of Arditi et al. (2024), and what the chosen one does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from scans_lens.figures import captions
from scans_lens.figures.captions import Numbers
from scans_lens.figures.panels import beside, dot, labelled
from scans_lens.figures.style import ASKED, FAINT, INK, KINDS, SOFT, WIDTH, blank, legible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scans_lens.conversation import Prompt
    from scans_lens.figures.picture import Picture
    from scans_lens.figures.study import Study
    from scans_lens.methods.refusal_direction import RefusalDirection
    from scans_lens.steering import Method

ABOUT = "every candidate for the one refusal direction, and the chosen one"


def measure(study: Study) -> dict[str, Any]:
    """What every candidate did on validation prompts, and what the chosen one does to refusals of test prompts."""
    from scans_lens.chat import template, words_of
    from scans_lens.methods import candidates
    from scans_lens.methods import refusal_direction as arditi
    from scans_lens.methods.candidates import NoDirection
    from scans_lens.methods.refusal_direction import RefusalDirection

    filters = arditi.Filters(**study.world.filters)
    found: RefusalDirection | None = None
    try:
        found = RefusalDirection.fit(
            study.model,
            study.anchors,
            validation=study.validation,
            judge=study.judge,
            filters=filters,
            seed=study.seed,
            batch_size=study.batch_size,
            progress=study.progress,
        )
        trials: Sequence[arditi.Trial] = found.trials
    except NoDirection as none:
        trials = none.trials
    shape = (max(-one.position for one in trials), max(one.layer for one in trials) + 1)
    tail = list(template(study.model).tail)
    return {
        "words": words_of(study.model, tail),
        "filters": {**asdict(filters), "first_late": filters.first_late(shape[1])},
        "kept_count": sum(one.kept for one in trials),
        "tried": len(trials),
        **{
            name: candidates.grid(trials, shape, lambda one, name=name: float(getattr(one, name)))
            for name in ("bypass", "induce", "kl", "kept")
        },
        "chosen": found and _chosen(study, found),
    }


def _chosen(study: Study, found: RefusalDirection) -> dict[str, Any]:
    """The candidate in use: its scores with their intervals, and refusals of test prompts with it out or added."""
    from scans_lens import judges
    from scans_lens.chat import words_of
    from scans_lens.divergence import divergences
    from scans_lens.methods import candidates
    from scans_lens.rates import Mean, Paired, Rate, holm

    harmful, harmless = (
        candidates.on_its_side(
            study.model,
            candidates.spread(getattr(study.validation, kind), candidates.VALIDATION),
            found.tokens,
            kind=kind,
            split="validation",
            batch_size=study.batch_size,
        )
        for kind in ("harmful", "harmless")
    )
    effort, out = study.effort, found.ablation()
    n_layers = int(study.model.cfg.n_layers)
    ablating = candidates.ablating(found.direction, n_layers)
    adding = candidates.adding(found.direction, found.layer, 1.0)

    def scores(texts: Sequence[Prompt], hooks: Sequence[Any]) -> dict[str, Any]:
        own = candidates.refusal_scores(study.model, texts, found.tokens, hooks=hooks, batch_size=study.batch_size)
        return Mean.of(own.tolist(), resamples=effort.resamples, seed=study.seed).as_json()

    ways: dict[str, Method | None] = {"plain model": None, "taken out": out, "added": found.addition(1.0)}
    said = {
        way: {kind: study.replies(texts, method, effort.direction_tokens) for kind, texts in study.test.items()}
        for way, method in ways.items()
    }
    refused, by_rules = (
        {way: {kind: judges.refused(judge, own) for kind, own in kinds.items()} for way, kinds in said.items()}
        for judge in (study.judge, judges.rules)
    )
    tests = [(way, kind) for way in ways if way != "plain model" for kind in study.test]
    paired = [Paired.of(refused["plain model"][kind], refused[way][kind]) for way, kind in tests]
    corrected = holm([one.p for one in paired])
    moved = divergences(study.model, harmless, [out], batch_size=study.batch_size)[0]
    return {
        "position": found.position,
        "layer": found.layer,
        "tokens": words_of(study.model, list(found.tokens)),
        "learned": [found.origin.n_harmful, found.origin.n_harmless],
        "scores": {
            "harmful, plain model": scores(harmful, []),
            "bypass": scores(harmful, ablating),
            "harmless, plain model": scores(harmless, []),
            "induce": scores(harmless, adding),
            "kl": Mean.of(moved.tolist(), resamples=effort.resamples, seed=study.seed).as_json(),
        },
        "n": {kind: len(texts) for kind, texts in study.test.items()},
        "refused": {way: {kind: Rate.of(own) for kind, own in kinds.items()} for way, kinds in refused.items()},
        "by_rules": {way: {kind: Rate.of(own) for kind, own in kinds.items()} for way, kinds in by_rules.items()},
        "broken": {
            way: Rate.of([verdict == "degenerate" for own in kinds.values() for verdict in judges.rules(own)])
            for way, kinds in said.items()
        },
        "paired": [
            {"way": way, "kind": kind, "difference": one.difference, "p": one.p, "p_holm": p}
            for (way, kind), one, p in zip(tests, paired, corrected, strict=True)
        ],
        "judge": "exact" if study.bundled else "panel",
        "reply_tokens": effort.direction_tokens,
        "resamples": effort.resamples,
    }


def caption(numbers: Numbers, settings: Numbers) -> str:
    filters, chosen = numbers["filters"], numbers["chosen"]
    late = f", none from layer {filters['first_late']} on" if filters["last"] else ""
    said = captions.caption(
        captions.model(settings),
        "Arditi et al. (2024, arXiv 2406.11717): each candidate is a difference of means, read where the row and the",
        f"column say. Refusal score: log-odds of a first reply token that begins refusals. {numbers['kept_count']} of",
        f"{numbers['tried']} candidates pass: induce at least {filters['least_induce']:g}, KL at most",
        f"{filters['most_kl']:g} nats{late}; the others are hatched. – : no difference there.",
    )
    if chosen:
        plain, taken = chosen["learned"][1], chosen["learned"][0]
        said = captions.caption(
            said,
            f"Framed: the chosen one, of the smallest bypass. Learned from {taken} harmful and {plain} plain prompts;",
            f"maps: means over {chosen['scores']['bypass']['n']} harmful and {chosen['scores']['induce']['n']} plain",
            f"validation prompts; bars there: 95 %, bootstrap over prompts ({chosen['resamples']} resamples).",
            captions.tested(settings, chosen["n"]),
            "Refused by",
            "the model’s own judge" if chosen["judge"] == "exact" else "the panel of judges",
            f"(hollow: by the rule judge, where it differs), replies of up to {chosen['reply_tokens']} tokens; bars:",
            "95 %, Clopper–Pearson. Replies that run in a circle:",
            ", ".join(f"{way} {100 * rate['value']:.0f} %" for way, rate in chosen["broken"].items()) + ".",
            "Numbers: change in points, bold where McNemar’s exact test has p < .05 after Holm over",
            f"{len(chosen['paired'])} tests.",
        )
    else:
        said = captions.caption(said, "None passes, so none is chosen.")
    return said


def draw(numbers: Numbers, settings: Numbers) -> Picture:
    chosen = numbers["chosen"]
    kinds = captions.in_order(chosen["n"]) if chosen else []
    picture = blank(WIDTH, 8.6 if chosen else 5.2, caption(numbers, settings))
    if not chosen:
        maps = picture.add_gridspec(1, 1)[0].subgridspec(3, 1)
    else:
        above, below = picture.add_gridspec(2, 1, height_ratios=(2.35, 1), hspace=0.03)
        maps = above.subgridspec(3, 1)
        panels = below.subgridspec(1, 1 + len(kinds), width_ratios=(1.5, *[1] * len(kinds)))
        scores(picture.add_subplot(panels[0]), chosen)
        for place, kind in enumerate(kinds):
            refused(picture.add_subplot(panels[place + 1]), chosen, kind, named=place == 0)
    bound = max(
        abs(value) for name in ("bypass", "induce") for row in numbers[name] for value in row if value is not None
    )
    for place, name in enumerate(_SCORES):
        heat(picture, picture.add_subplot(maps[place]), numbers, name, bound, labelled=place == 2)
    return picture


_SCORES = {
    "bypass": "Bypass: refusal score of harmful prompts, direction taken out",
    "induce": "Induce: refusal score of harmless prompts, direction added",
    "kl": "KL of the first reply token, harmless prompts, direction taken out",
}


def heat(picture: Picture, ax: Axes, numbers: Numbers, name: str, bound: float, *, labelled: bool) -> Axes:
    """One score of every candidate, by the token and the layer that it was read at."""
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.patches import Rectangle

    found = np.array(numbers[name], dtype=float)
    kl = np.array(numbers["kl"], dtype=float)
    none = kl == 0
    shown = np.ma.masked_array(found, mask=none | np.isnan(found))
    if name == "kl":
        positive = found[found > 0]
        norm: Normalize = LogNorm(max(1e-3, float(positive.min(initial=1.0))), max(1e-2, float(np.nanmax(found))))
        colours = "Blues"
    else:
        norm, colours = Normalize(-bound, bound), "PuOr_r"
    image = ax.imshow(shown, norm=norm, cmap=colours, aspect="auto")
    kept, chosen = np.array(numbers["kept"], dtype=float), numbers["chosen"]
    for (y, x), value in np.ndenumerate(found):
        said = "–" if none[y, x] else f"{value:.2g}" if name == "kl" else f"{value:.1f}".replace("-", "−")
        red, green, blue, _ = image.cmap(image.norm(value)) if not none[y, x] else (1, 1, 1, 1)
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 and kept[y, x]
        behind = {"facecolor": "white", "alpha": 0.85, "lw": 0, "pad": 1.2}
        if not kept[y, x]:
            corner = (x - 0.5, y - 0.5)
            ax.add_patch(Rectangle(corner, 1, 1, fill=False, hatch="////", edgecolor="#8c8c8c", lw=0, zorder=2))
        ax.text(
            x, y, said, ha="center", va="center", fontsize=7, color="white" if dark else INK, zorder=4,
            fontweight="bold" if kept[y, x] else "normal", bbox=None if kept[y, x] else behind,
        )  # fmt: skip
    if chosen:
        y = len(found) + chosen["position"]
        frame = Rectangle((chosen["layer"] - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="black", lw=2.4, zorder=5)
        frame.set_clip_on(False)
        ax.add_patch(frame)
    ax.set_yticks(
        range(len(found)),
        [f"{legible(word)}  {y - len(found)}".replace("-", "−") for y, word in enumerate(numbers["words"])],
    )
    step = max(1, -(-found.shape[1] // 24))
    ax.set_xticks(range(0, found.shape[1], step))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if name == "induce":
        ax.set_ylabel("token, and its place from the end")
    if labelled:
        ax.set_xlabel("layer (start of block)")
    ax.set_title(_SCORES[name])
    bar = picture.colorbar(image, ax=ax, pad=0.01, fraction=0.05, aspect=12)
    bar.set_label("nats")
    if name == "kl":
        assert norm.vmin and norm.vmax
        ticks = [tick for tick in (0.001, 0.01, 0.1, 1.0, 10.0) if norm.vmin <= tick <= norm.vmax]
        bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    bar.outline.set_visible(False)  # type: ignore[operator]
    return ax


_STEERED: Mapping[str, dict[str, Any]] = {
    "harmful, plain model": {"color": SOFT, "marker": "o", "markerfacecolor": "white"},
    "bypass": {"color": KINDS["harmful"]["color"], "marker": "o"},
    "harmless, plain model": {"color": SOFT, "marker": "^", "markerfacecolor": "white"},
    "induce": {"color": KINDS["plain"]["color"], "marker": "^"},
}
_STEERED_ROWS = {
    "harmful, plain model": "harmful, plain model",
    "bypass": "harmful, taken out",
    "harmless, plain model": "plain, plain model",
    "induce": "plain, added",
}


def scores(ax: Axes, chosen: Numbers) -> Axes:
    """The chosen candidate's scores with their intervals, beside the plain model's."""
    ax.axvline(0, color=FAINT, lw=1, zorder=0)
    for y, name in enumerate(_STEERED_ROWS):
        dot(ax, chosen["scores"][name], y, times=1, **_STEERED[name])
    labelled(ax, list(_STEERED_ROWS.values()))
    ax.margins(x=0.1)
    ax.set_xlabel("refusal score (nats)")
    kl = chosen["scores"]["kl"]
    low, high = kl["interval"]
    ax.set_title(f"Chosen: KL {kl['value']:.2f} [{low:.2f}, {high:.2f}] nats", fontsize=8.4)
    return ax


def refused(ax: Axes, chosen: Numbers, kind: str, *, named: bool = True) -> Axes:
    """Refusals of one kind of test prompts with the direction taken out or added."""
    ways, look = list(chosen["refused"]), ASKED[kind]
    tests = {test["way"]: test for test in chosen["paired"] if test["kind"] == kind}
    ax.axvline(100 * chosen["refused"]["plain model"][kind]["value"], color=FAINT, lw=1, zorder=0)
    for y, way in enumerate(ways):
        rate, other = chosen["refused"][way][kind], chosen["by_rules"][way][kind]
        if other["count"] != rate["count"]:
            dot(ax, other, y, **{**look, "markerfacecolor": "white"})
        dot(ax, rate, y, **look)
        if way in tests:
            sure, change = tests[way]["p_holm"] < 0.05, tests[way]["difference"]
            said = f"{100 * change:+.0f}".replace("-", "−") if change else "±0"
            beside(ax, y, said, **({"fontweight": "bold", "color": INK} if sure else {"color": SOFT}))
    labelled(ax, ways, named=named)
    ax.set(xlim=(-6, 106), xticks=[0, 50, 100], xlabel="refused (%)")
    ax.set_title(f"{kind}\n(n = {chosen['n'][kind]})", color=look["color"], fontweight="bold", fontsize=8.6)
    return ax
