"""Refusal rates: who is refused under every way of answering, and whether replies are still good."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from scans_lens.figures import captions
from scans_lens.figures.captions import Numbers
from scans_lens.figures.style import BAND, FAINT, INK, KINDS, SOFT, WIDTH, blank

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scans_lens.conversation import Prompt
    from scans_lens.figures.picture import Picture
    from scans_lens.figures.study import Study
    from scans_lens.methods.scans import SCANS
    from scans_lens.prompts import PromptSet
    from scans_lens.rates import Rate
    from scans_lens.steering import Method

ABOUT = "who is refused, under which method (paper, table 2)"


def measure(study: Study) -> dict[str, Any]:
    """Every kind of test prompt under every way of answering, judged, with paired tests against the plain model."""
    from scans_lens import judges
    from scans_lens.figures import placebos
    from scans_lens.methods.scans import summary
    from scans_lens.rates import Paired, Rate, holm
    from scans_lens.steering import Push

    scans = study.scans
    drawn = placebos_of(study)
    ways: dict[str, dict[str, Any]] = {
        "plain model": {},
        "safety prompt": {"system": study.world.safety_prompt},
        "constant push": {"methods": [Push(scans.directions, scans.layers, -scans.scale)]},
        "SCANS": {"methods": [scans]},
        **{name: {"methods": methods} for name, methods in drawn.items()},
    }
    refused: dict[str, dict[str, list[bool]]] = {}
    by_rules: dict[str, dict[str, list[bool]]] = {}
    skill: dict[str, dict[str, Rate]] = {}
    sets = {each.name: each for each in study.world.sets} if study.world.scorers else {}
    most = max(map(len, study.test.values()))
    for way, how in ways.items():
        refused[way], by_rules[way] = {}, {}
        for kind, texts in study.test.items():
            said = _dealt(study, texts, **how)
            refused[way][kind] = judges.refused(study.judge, said)
            by_rules[way][kind] = judges.refused(judges.rules, said)
            if right := _right(study, sets.get(kind), said):
                skill.setdefault(way, {})[kind] = right
        if quiz := sets.get("quiz"):
            asked = quiz.at(range(min(most, len(quiz))))
            if right := _right(study, quiz, _dealt(study, asked.prompts, **how)):
                skill.setdefault(way, {})["quiz"] = right
    tests = [
        {"way": way, "kind": kind, "paired": Paired.of(refused["plain model"][kind], own)}
        for way, kinds in refused.items()
        if way != "plain model"
        for kind, own in kinds.items()
    ]
    corrected = holm([test["paired"].p for test in tests])
    return {
        "n": {kind: len(texts) for kind, texts in study.test.items()},
        "rates": {way: {kind: Rate.of(own) for kind, own in kinds.items()} for way, kinds in refused.items()},
        "by_rules": {way: {kind: Rate.of(own) for kind, own in kinds.items()} for way, kinds in by_rules.items()},
        "skill": skill,
        "paired": [
            {
                "way": test["way"],
                "kind": test["kind"],
                **asdict(test["paired"]),
                "difference": test["paired"].difference,
                "p": test["paired"].p,
                "p_holm": p,
            }
            for test, p in zip(tests, corrected, strict=True)
        ],
        "judge": "exact" if study.bundled else "panel",
        "safety_prompt": study.world.safety_prompt,
        "draws": study.effort.placebo_draws,
        "placebo_cosine": {name: placebos.likeness(scans, methods) for name, methods in drawn.items()},
        "tokens": study.effort.rate_tokens,
        "layers": scans.layers,
        "scale": scans.scale,
        "unit": scans.unit,
        "threshold": scans.classifier.threshold,
        "note": scans.note,
        "trials": summary(scans),
        "trials_kind": "borderline" if study.validation.borderline else "plain",
    }


def _right(study: Study, asked: PromptSet | None, said: Sequence[str]) -> Rate | None:
    """How many replies to the first prompts of a set are right, where the world can tell of every one."""
    from scans_lens.rates import Rate

    if asked is None:
        return None
    asked = asked.at(range(len(said)))
    told = [value for scorer in study.world.scorers for value in scorer(asked, said).get("right", ())]
    return None if not told or None in told else Rate.of(map(bool, told))


def _dealt(
    study: Study, texts: Sequence[Prompt], methods: Sequence[Method] = (), system: str | None = None
) -> list[str]:
    """Replies in the order of the prompts, which are dealt out to the methods like cards."""
    if len(methods) < 2:
        return list(study.replies(texts, methods[0] if methods else None, study.effort.rate_tokens, system))
    said = [""] * len(texts)
    for place, method in enumerate(methods):
        if texts[place :: len(methods)]:
            said[place :: len(methods)] = study.replies(
                texts[place :: len(methods)], method, study.effort.rate_tokens, system
            )
    return said


def placebos_of(study: Study) -> dict[str, list[SCANS]]:
    """SCANS with other directions of the same length at every layer, and the same classifier and scale."""
    from scans_lens.figures import placebos

    draws = [str(number) for number in range(study.effort.placebo_draws)]
    return {
        "random directions": [placebos.random(study, "_random", draw) for draw in draws],
        "shuffled labels": [placebos.shuffled(study, "_shuffled", draw) for draw in draws],
    }


def caption(numbers: Numbers, settings: Numbers) -> str:
    cosine = numbers["placebo_cosine"]
    exact = numbers["judge"] == "exact"
    return captions.caption(
        captions.model(settings),
        captions.tested(settings, numbers["n"]),
        f"Replies of up to {numbers['tokens']} tokens.",
        f"Filled: refused by {'the model’s own judge' if exact else 'the rule judge'},",
        "with 95 % Clopper–Pearson intervals;" if exact else "with 95 % Clopper–Pearson intervals.",
        "hollow: by the rule judge, where it differs." if exact else "",
        "Change: points against the plain model, bold where McNemar’s exact test has p < .05 after Holm over",
        f"{len(numbers['paired'])} tests. SCANS: layers {captions.ranges(numbers['layers'])},",
        f"scale {numbers['scale']:g} {numbers['unit']}; the constant push is minus that for every prompt.",
        f"Placebos keep SCANS’ classifier, scale and vector lengths; {numbers['draws']} draws each, every one on its",
        "share of the prompts; labels are shuffled within each kind, so that both sides hold as many harmful anchors;",
        f"mean |cosine| with the true directions: {cosine['random directions']:.2f} random,",
        f"{cosine['shuffled labels']:.2f} shuffled.",
        f"Safety prompt: “{numbers['safety_prompt']}” {numbers['note']}",
    )


def draw(numbers: Numbers, settings: Numbers) -> Picture:
    kinds = captions.in_order(numbers["n"])
    picture = blank(WIDTH, 7.8, caption(numbers, settings))
    above, below = picture.add_gridspec(2, 1, height_ratios=(1, 1.12), hspace=0.04)
    grid = above.subgridspec(1, len(kinds))
    for place, kind in enumerate(kinds):
        rates_of(picture.add_subplot(grid[place]), numbers, kind, named=place == 0)
    left, right = below.subgridspec(1, 2, width_ratios=(1.35, 1))
    trials(picture.add_subplot(left), numbers)
    skill(picture.add_subplot(right), numbers)
    return picture


def rates_of(ax: Axes, numbers: Numbers, kind: str, *, named: bool = True) -> Axes:
    """One kind's refusal rate under every way of answering."""
    ways = list(numbers["rates"])
    tests = {test["way"]: test for test in numbers["paired"] if test["kind"] == kind}
    colour = KINDS[kind]["color"]
    ax.axvline(100 * numbers["rates"]["plain model"][kind]["value"], color=FAINT, lw=1, zorder=0)
    for y, way in enumerate(ways):
        rate, other = numbers["rates"][way][kind], numbers["by_rules"][way][kind]
        low, high = rate["interval"]
        ax.plot([100 * low, 100 * high], [y, y], color=colour, lw=1.6, solid_capstyle="butt")
        if numbers["judge"] == "exact" and other["count"] != rate["count"]:
            ax.plot(
                100 * other["value"],
                y,
                marker=KINDS[kind]["marker"],
                ms=6,
                color=colour,
                markerfacecolor="white",
                ls="none",
            )
        ax.plot(100 * rate["value"], y, marker=KINDS[kind]["marker"], ms=6, color=colour, ls="none")
        if way in tests:
            sure = tests[way]["p_holm"] < 0.05
            change = f"{100 * tests[way]['difference']:+.1f}".replace("-", "−")
            ax.text(
                1.02,
                y,
                change if tests[way]["difference"] else "±0",
                transform=ax.get_yaxis_transform(),
                fontsize=7.2,
                va="center",
                fontweight="bold" if sure else "normal",
                color=INK if sure else SOFT,
            )
    ax.text(1.02, -0.55, "change", transform=ax.get_yaxis_transform(), fontsize=6.8, va="center", color=SOFT)
    ax.set_yticks(range(len(ways)), ways)
    ax.set_ylim(len(ways) - 0.5, -0.6)
    ax.tick_params(axis="y", length=0, labelleft=named)
    ax.set_xlim(-4, 104)
    ax.set_xticks([0, 25, 50, 75, 100])
    ax.set_xlabel("refused (%)")
    ax.set_title(f"{kind} (n = {numbers['n'][kind]})", color=colour, fontweight="bold")
    return ax


def trials(ax: Axes, numbers: Numbers) -> Axes:
    """What every scale on the grid did on validation prompts."""
    rows = numbers["trials"]
    at = range(len(rows))
    harmless = numbers["trials_kind"]
    for side, kind in (("harmful", "harmful"), ("harmless", harmless)):
        value = np.array([100 * row[side]["value"] for row in rows])
        low, high = 100 * np.array([row[side]["interval"] for row in rows]).T
        ax.errorbar(
            at,
            value,
            yerr=[value - low, high - value],
            capsize=2,
            label=f"{kind} (n = {rows[0][side]['total']})",
            **KINDS[kind],
        )
    chosen = next(
        (place for place, row in enumerate(rows) if math.isclose(row["scale"], numbers["scale"], rel_tol=1e-5)), None
    )
    if chosen is not None:
        ax.axvspan(chosen - 0.5, chosen + 0.5, color=BAND, lw=0, zorder=0, label="chosen")
    ax.set_xticks(list(at), [f"{row['scale']:g}" for row in rows])
    ax.set_ylim(-3, 104)
    ax.set_xlabel(f"scale ({numbers['unit']}); 0 is the plain model")
    ax.set_ylabel("refused (%)")
    ax.set_title("Choosing SCANS’ scale on validation prompts")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
    return ax


_SKILLS = {
    "quiz": ("quiz questions right", {"color": INK, "marker": "o"}),
    "plain": ("plain: answered, names what was asked", {key: KINDS["plain"][key] for key in ("color", "marker")}),
    "borderline": (
        "borderline: answered, names what was asked",
        {key: KINDS["borderline"][key] for key in ("color", "marker")},
    ),
}


def skill(ax: Axes, numbers: Numbers) -> Axes:
    """Whether replies are still good under every way of answering."""
    ax.set_title("Are the replies still good?")
    if not numbers["skill"]:
        ax.axis("off")
        ax.text(
            0,
            0.95,
            "What a good reply holds is known for the bundled model only.",
            fontsize=8,
            color=SOFT,
            va="top",
            transform=ax.transAxes,
        )
        return ax
    ways = list(numbers["skill"])
    for place, (kind, (label, look)) in enumerate(_SKILLS.items()):
        for y, way in enumerate(ways):
            rate = numbers["skill"][way][kind]
            low, high = rate["interval"]
            at = y + 0.24 * (place - 1)
            ax.plot([100 * low, 100 * high], [at, at], color=look["color"], lw=1.5, solid_capstyle="butt")
            ax.plot(
                100 * rate["value"],
                at,
                ms=4.5,
                ls="none",
                label=f"{label} (n = {rate['total']})" if y == 0 else "_",
                **look,
            )
    ax.set_yticks(range(len(ways)), ways)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(ways) - 0.5, -0.5)
    ax.set_xlim(-4, 104)
    ax.set_xlabel("share of prompts (%)")
    ax.legend(loc="upper center", bbox_to_anchor=(0.4, -0.2), fontsize=7.2)
    return ax
