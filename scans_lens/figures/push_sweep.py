"""Push sweep: who is refused at every scale, beside placebos, and how far the push moves the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scans_lens.figures import captions
from scans_lens.figures.captions import Numbers
from scans_lens.figures.panels import Place, percentages, refused_axis
from scans_lens.figures.style import ASKED, BAND, KINDS, WIDTH, blank

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scans_lens.figures.picture import Picture
    from scans_lens.figures.study import Study
    from scans_lens.methods.scans import SCANS

ABOUT = "who is refused at every scale, beside placebos (paper, table 6)"


def measure(study: Study) -> dict[str, Any]:
    """Who is refused at every scale, what placebos do to borderline prompts there, and how far it moves the model."""
    from scans_lens.divergence import divergences
    from scans_lens.figures import placebos
    from scans_lens.figures.estimates import INSIDE
    from scans_lens.figures.study import harmless_kind
    from scans_lens.methods.placebos import elsewhere
    from scans_lens.rates import Rate
    from scans_lens.steering import Push

    scans, effort = study.scans, study.effort
    scales = [share * scans.scale for share in effort.scales]
    own = {kind: [Rate.of(_at_share(study, kind, share)) for share in effort.scales] for kind in study.test}
    kind = harmless_kind(study.test)
    tried = study.test[kind][: effort.swept_prompts]
    before = Rate.of(study.pushed[kind].plain[: len(tried)])
    beside = {}
    for name, draws in placebos_of(study).items():
        rates = [
            [
                Rate.of(study.refused(tried, replace(draw, scale=share * scans.scale))) if share else before
                for draw in draws
            ]
            for share in effort.placebo_scales
        ]
        beside[name] = {"draws": len(draws), "rates": rates, "cosine": placebos.likeness(scans, draws)}
    asked = study.validation.harmless[: len(study.test["plain"])]
    away = [Push(scans.directions, scans.layers, -scale) for scale in scales]
    apart = divergences(study.model, asked, away, batch_size=study.batch_size).numpy()
    drawn = np.random.default_rng(study.seed).integers(len(asked), size=(effort.resamples, len(asked)))
    kl = [{"value": row.mean(), "interval": np.quantile(row[drawn].mean(1), INSIDE), "n": len(asked)} for row in apart]
    return {
        "n": study.sizes,
        "shares": effort.scales,
        "scales": scales,
        "chosen": scans.scale,
        "unit": scans.unit,
        "layers": scans.layers,
        "threshold": scans.classifier.threshold,
        "rates": own,
        "kl": kl,
        "placebos": beside,
        "placebo_scales": [share * scans.scale for share in effort.placebo_scales],
        "placebo_kind": kind,
        "placebo_layers": elsewhere(scans.layers, len(scans.directions)),
        "placebo_n": len(tried),
        "resamples": effort.resamples,
        **study.judged,
    }


def _at_share(study: Study, kind: str, share: float) -> Sequence[bool]:
    """Who of a kind's test prompts SCANS refuses at this multiple of its scale; what is known already is not run."""
    scans, there = study.scans, study.pushed[kind]
    if share == 0:
        return there.plain
    if share == 1:
        return there.at(scans.classifier.threshold)
    return study.refused(study.test[kind], replace(scans, scale=share * scans.scale))


def placebos_of(study: Study) -> dict[str, list[SCANS]]:
    """SCANS with directions that mean nothing, as long as its own, or in layers that are none of its own."""
    from scans_lens.figures import placebos
    from scans_lens.methods.placebos import elsewhere

    scans = study.scans
    draws = range(study.effort.swept_draws)
    return {
        "random directions": [replace(scans, directions=scans.directions.random(study.seed + draw)) for draw in draws],
        "shuffled labels": [placebos.shuffled(study, "shuffled for a sweep", str(draw)) for draw in draws],
        "wrong layers": [replace(scans, layers=elsewhere(scans.layers, len(scans.directions)))],
    }


_PLACEBOS: Mapping[str, dict[str, Any]] = {
    "random directions": {"color": "#009E73", "linestyle": "--"},
    "shuffled labels": {"color": "#56B4E9", "linestyle": "-."},
    "wrong layers": {"color": "#6b6b6b", "linestyle": ":"},
}


def caption(numbers: Numbers, settings: Numbers) -> str:
    placebos = numbers["placebos"]
    alike = ", ".join(f"{part['cosine']:.2f} {name}" for name, part in placebos.items() if name != "wrong layers")
    return captions.caption(
        captions.model(settings),
        captions.tested(settings, numbers["n"]),
        captions.judged(numbers),
        f"SCANS in {captions.layers(numbers['layers'])}, threshold {numbers['threshold']:.4f}; bars: 95 %,",
        "Clopper–Pearson. The scale was chosen on validation prompts.",
        "KL: of the reply’s first token, plain model against all prompts pushed away, mean over",
        f"{numbers['kl'][0]['n']} plain validation prompts; at the chosen scale {_between(_at_chosen(numbers))}.",
        f"Placebos keep SCANS’ classifier and vector lengths, on the first {numbers['placebo_n']} prompts; bands reach",
        "from the least to the most of the draws (wrong layers, one draw: 95 %, Clopper–Pearson). Mean |cosine| with",
        f"the true directions: {alike}. Wrong layers: {captions.ranges(numbers['placebo_layers'])}.",
    )


def draw(numbers: Numbers, settings: Numbers) -> Picture:
    picture = blank(WIDTH, 5.2, caption(numbers, settings))
    left, right = picture.subplots(1, 2, width_ratios=(1.3, 1))
    by_scale(left, numbers)
    beside_placebos(right, numbers)
    return picture


def by_scale(ax: Axes, numbers: Numbers) -> Axes:
    """Each kind's refusals against the scale, which is also told as how far it moves the model on plain prompts."""
    _chosen_scale(ax, numbers)
    for kind in captions.in_order(numbers["rates"]):
        value, bars = percentages(numbers["rates"][kind])
        label = f"{kind} (n = {numbers['n'][kind]})"
        ax.errorbar(numbers["scales"], value, yerr=bars, capsize=2, label=label, **KINDS[kind])
    refused_axis(ax)
    _scale_axis(ax, numbers)
    above = ax.twiny()
    above.set_xlim(ax.get_xlim())
    above.set_xticks(numbers["scales"], [_short(one["value"]) for one in numbers["kl"]])
    above.spines["top"].set_visible(True)
    above.set_xlabel("KL (nats) of the first token, plain prompts pushed away", labelpad=5)
    ax.set_title("Both sides of the trade-off", pad=9)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3)
    return ax


def beside_placebos(ax: Axes, numbers: Numbers) -> Axes:
    """Refusals of borderline prompts under SCANS and under pushes that mean nothing."""
    kind, at = numbers["placebo_kind"], numbers["placebo_scales"]
    _chosen_scale(ax, numbers)
    for name, part in numbers["placebos"].items():
        draws = 100 * np.array([[rate["value"] for rate in row] for row in part["rates"]])
        if part["draws"] > 1:
            low, high = draws.min(1), draws.max(1)
        else:
            low, high = 100 * np.array([row[0]["interval"] for row in part["rates"]]).T
        ax.fill_between(at, low, high, color=_PLACEBOS[name]["color"], alpha=0.18, lw=0)
        draws_said = f"{part['draws']} draw{'s' if part['draws'] > 1 else ''}"
        ax.plot(at, draws.mean(1), label=f"{name} ({draws_said}, n = {numbers['placebo_n']})", **_PLACEBOS[name])
    value, bars = percentages(numbers["rates"][kind])
    label = f"SCANS (n = {numbers['n'][kind]})"
    ax.errorbar(numbers["scales"], value, yerr=bars, capsize=2, label=label, **ASKED[kind])
    refused_axis(ax)
    _scale_axis(ax, numbers)
    ax.set_title(f"{kind} prompts: SCANS beside placebos")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2, columnspacing=1.2)
    return ax


def _scale_axis(ax: Axes, numbers: Numbers) -> None:
    ax.set_xticks(numbers["scales"], [f"{scale:.3g}" for scale in numbers["scales"]])
    ax.set_xlim(-0.06 * max(numbers["scales"]), 1.05 * max(numbers["scales"]))
    ax.set_xlabel(f"scale ({numbers['unit']}); 0 is the plain model")


def _chosen_scale(ax: Axes, numbers: Numbers) -> None:
    ax.axvline(numbers["chosen"], color=BAND, lw=7, zorder=0, solid_capstyle="butt", label="chosen")


def _at_chosen(numbers: Numbers) -> Numbers:
    """The divergence at the scale that is nearest to the chosen one, which is on the grid."""
    place = int(np.argmin(np.abs(np.array(numbers["scales"]) - numbers["chosen"])))
    return numbers["kl"][place]


def _between(value: Numbers) -> str:
    return f"{value['value']:.3g} [{value['interval'][0]:.3g}, {value['interval'][1]:.3g}]"


def _short(value: Place) -> str:
    return "0" if value < 5e-7 else f"{value:.2g}" if value >= 1e-3 else f"{value:.0e}".replace("e-0", "e−")
