"""Tables: the seven of the paper, each ways of answering asked on every draw, and what the table of replies then says.

A row is measured over the draws; the paper's own row stands below it where the model is one of the paper's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import torch

from scans_lens import queries
from scans_lens.calibration import calibrated
from scans_lens.directions import refusal_directions
from scans_lens.generation import replies
from scans_lens.lens import layers_by_thirds, refusal_tokens, thirds
from scans_lens.methods.arms import Arm
from scans_lens.methods.catalogue import PLAIN
from scans_lens.methods.scans import PUBLISHED, SCANS
from scans_lens.model import Model, device_of
from scans_lens.paper import published, released
from scans_lens.paper.experiments import Experiments
from scans_lens.prompts.overlaps import without
from scans_lens.prompts.texts import wikitext
from scans_lens.rates import Rate
from scans_lens.steering import Method
from scans_lens.world import ITEMS

if TYPE_CHECKING:
    import pandas as pd

TITLES = {
    1: "what the directions say, by thirds of the layers",
    2: "who is refused, under which method",
    3: "what it costs in capability",
    4: "speed and memory",
    5: "which third is steered",
    6: "how hard is pushed",
    7: "where the threshold lies",
}
ALPHAS = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
"""Of table 6."""
USUAL = 3.5
"""The alpha that a chosen scale stands for, where none was published."""
THRESHOLDS = (0.80, 0.75, 0.70, 0.65, 0.60)
"""Of table 7."""
MISSED = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
"""Shares of harmful validation prompts below the threshold, where no threshold was published."""
TIMED, TIMED_TOKENS, ROUNDS, AT_ONCE = 64, 64, 3, 8
"""Prompts whose replies are timed, new tokens of these, how often, and prompts of a batch."""

HERE = "here"
"""What a row is called that was measured, and is not the paper's."""

Rates = Mapping[tuple[str, str], Rate]
"""By set and kind."""


@dataclass(frozen=True)
class Sheet:
    """One table, ready to be printed."""

    number: int
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def sheet(runs: Experiments, number: int) -> Sheet:
    """One of the paper's tables.

    Raises:
        ValueError: no such table.
    """
    makers: dict[int, Callable[[Experiments], Sheet]] = {
        1: top_tokens, 2: refused, 3: capability, 4: speed, 5: by_third, 6: by_scale, 7: by_threshold,
    }  # fmt: skip
    if number not in makers:
        raise ValueError(f"The paper has no table {number}: there are {', '.join(map(str, makers))}.")
    return makers[number](runs)


# ── What the directions say ──────────────────────────────────────────────────────────────────────────────────


def top_tokens(runs: Experiments) -> Sheet:
    """Table 1: the first principal component of each third's directions, put to the LM head."""
    words = {word.strip() for word in refusal_tokens(runs.model)}
    drawn = [
        thirds(
            runs.model, refusal_directions(runs.model, runs.anchors(draw).under(runs.asking), progress=False)
        )
        for draw in range(runs.draws)
    ]  # fmt: skip
    papers, rows = published.TOP_TOKENS.get(runs.beside, {}), []
    for parts in zip(*drawn, strict=True):
        first = parts[0]
        counts = [float(sum(token.strip() in words for token in part.tokens)) for part in parts]
        band = f"{first.name} ({first.layers[0]}-{first.layers[-1]})"
        rows.append((band, HERE, "  ".join(repr(token)[1:-1] for token in first.tokens), spread(counts, 0)))
        if first.name in papers:
            rows.append((first.name, runs.whose, "  ".join(papers[first.name]), ""))
    note = (
        f"Tokens of the first of {runs.draws} draws of {runs.size} anchors a side. Refusal words among the ten: mean "
        "± standard deviation over the draws."
    )
    return _sheet(1, ("third", "", "ten tokens that the direction speaks for most", "refusal words"), rows, note)


# ── Who is refused ───────────────────────────────────────────────────────────────────────────────────────────


def refused(runs: Experiments) -> Sheet:
    """Table 2."""
    plainly = [Arm(PLAIN), runs.arm("system"), runs.arm("self_cd")]
    tables = [
        runs.answered(2, draw, [*(plainly if not draw else []), Arm("scans", scans)])
        for draw, scans in enumerate(runs.fits())
    ]
    rows = []
    for way in [*(arm.name for arm in plainly), "scans"]:
        asked = [part for table in tables if len(part := _where(table, "method", way))]
        rows += rows_of(runs, way, map(queries.refused, asked), published.REFUSED)
    note = "Ways without anchors were measured once, the draws of SCANS' anchors as often as there are."
    return _rated(runs, 2, "way", rows, note)


def by_third(runs: Experiments) -> Sheet:
    """Table 5: the same push in another third of the layers."""
    bands, fits = layers_by_thirds(int(runs.model.cfg.n_layers)), runs.fits()
    arms = [[Arm(name, replace(scans, layers=tuple(layers))) for name, layers in bands.items()] for scans in fits]
    tables = [runs.answered(5, draw, of_draw) for draw, of_draw in enumerate(arms)]
    knows, rows = runs.capability, []
    for place, (name, layers) in enumerate(bands.items()):
        rates = [queries.refused(_where(table, "method", name)) for table in tables]
        lost = spread([knows.perplexity(of_draw[place].method, -1.0).value for of_draw in arms], 2)
        for _, whose, *cells in rows_of(runs, name, rates, published.THIRDS):
            ours = whose == HERE
            rows.append((f"{name} ({layers[0]}-{layers[-1]})" if ours else name, whose, *cells, lost if ours else ""))
    plain = knows.perplexity(None, None).value
    chosen = {f"{min(scans.layers)}-{max(scans.layers)}" for scans in fits}
    notes = (
        f"Perplexity of {knows.texts} pushed away from refusal; without a push {plain:.2f}.",
        f"Elsewhere SCANS steers layers {' or '.join(sorted(chosen))}, at the same scale.",
    )
    return _rated(runs, 5, "third", rows, *notes, more=("perplexity",))


def by_scale(runs: Experiments) -> Sheet:
    """Table 6."""
    usual, fits = PUBLISHED[runs.published].alpha if runs.of_the_paper else USUAL, runs.fits()
    tables = [
        runs.answered(6, draw, [
            Arm("scans", replace(scans, scale=scans.scale * alpha / usual), f"{alpha:g}") for alpha in ALPHAS
        ])
        for draw, scans in enumerate(fits)
    ]  # fmt: skip
    rows = []
    for alpha in ALPHAS:
        rates = [queries.refused(_where(table, "setting", f"{alpha:g}")) for table in tables]
        label = f"{alpha:g}" if runs.of_the_paper else f"{alpha / usual:.2f} x the chosen"
        measured, *below = rows_of(runs, f"{alpha:g}", rates, published.ALPHA)
        rows += [(label, *measured[1:]), *below]
    mean = fmean(scans.scale for scans in fits)
    note = "" if runs.of_the_paper else f"The chosen scale is {mean:.3g} {fits[0].unit}, mean over draws."
    return _rated(runs, 6, "alpha", rows, note)


def by_threshold(runs: Experiments) -> Sheet:
    """Table 7: each prompt is answered under either push, and every threshold is then looked up."""
    fits = runs.fits()
    tables = [runs.answered(7, draw, both_pushes(scans)) for draw, scans in enumerate(fits)]
    tried, notes = _thresholds(runs, fits)
    rows = []
    for label, thresholds in tried.items():
        rates = [
            queries.refused(looked_up(table, threshold))
            for table, threshold in zip(tables, thresholds, strict=True)
        ]  # fmt: skip
        rows += rows_of(runs, label, rates, published.THRESHOLD)
    if not runs.of_the_paper:  # there thresholds are numbers of its own
        rows += [
            row for value in THRESHOLDS if (row := papers_row(runs, f"{value:.2f}", published.THRESHOLD)) is not None
        ]
    return _rated(runs, 7, "threshold", rows, *notes)


def both_pushes(scans: SCANS) -> list[Arm]:
    """SCANS that pushes every prompt away from refusal, and towards it."""
    edges = {"away": math.inf, "towards": -math.inf}
    return [Arm(name, _with_threshold(scans, edge)) for name, edge in edges.items()]


def looked_up(table: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Of the two pushes of each prompt the one that this threshold gives it."""
    towards = table["score"] >= threshold
    return table.loc[(table["method"] == "towards") == towards]


def _with_threshold(scans: SCANS, threshold: float) -> SCANS:
    return replace(scans, classifier=replace(scans.classifier, threshold=threshold))


def _thresholds(runs: Experiments, fits: Sequence[SCANS]) -> tuple[dict[str, list[float]], list[str]]:
    """What thresholds are tried, one a draw, and what there is to say of them."""
    if runs.of_the_paper:
        return {f"{threshold:.2f}": [threshold] * runs.draws for threshold in THRESHOLDS}, []
    harmful = [runs.asking.of(prompt) for prompt in runs.validation.harmful]
    scores = [
        scans.classifier.score(scans.transitions(runs.model, harmful)).double().cpu().numpy() for scans in fits
    ]  # fmt: skip
    tried = {missed: [calibrated(side, missed) for side in scores] for missed in MISSED}
    return {f"{missed:.0%} missed": [each.value for each in drawn] for missed, drawn in tried.items()}, [
        f"Thresholds by the share of {len(harmful)} harmful validation prompts below them, in the first draw with 95 % "
        f"intervals over resampled prompts: {'; '.join(str(drawn[0]) for drawn in tried.values())}.",
        "SCANS' own: " + ", ".join(f"{scans.classifier.threshold:.4f}" for scans in fits) + ".",
    ]


# ── What it costs ────────────────────────────────────────────────────────────────────────────────────────────


def capability(runs: Experiments) -> Sheet:
    """Table 3."""
    fits, knows, rows, questions = runs.fits(), runs.capability, [], 0
    ways: list[tuple[str, list[SCANS | None], float | None, bool]] = [
        ("plain", [None], None, True),
        ("SCANS, each its own way", [*fits], None, True),
        ("SCANS, all away from refusal", [*fits], -1.0, False),
        ("SCANS, all towards refusal", [*fits], 1.0, False),
    ]
    for name, methods, sign, answers in ways:
        lost = spread([knows.perplexity(method, sign).value for method in methods], 3)
        rates = [Rate.of(knows.right(method, runs.limit)) for method in methods] if answers else []
        questions = rates[0].total if rates else questions
        rows.append((name, HERE, lost, rate_cell(rates) if rates else ""))
    notes = []
    if runs.of_the_paper:
        rows += [_as_released(runs, "plain, the authors' form", [None])]
        rows += [_as_released(runs, "SCANS, the authors' form", fits)]
        notes += ["The authors' forms are the paper's, not comparable with the standard ones above (`released`)."]
    elif runs.beside:
        notes += ["The paper's rows are in its authors' own forms (`released`), not comparable with ours."]
    for name, row in published.CAPABILITY.get(runs.beside, {}).items():
        rows.append((name, runs.whose, f"{row['WikiText-2']:.2f}", f"{row['MMLU']:.1f}"))
    notes.append(
        f"{ITEMS} answers of the corpus to plain test prompts, after those prompts, and {questions} quiz questions; "
        "mean ± standard deviation over the draws of anchors, the plain model with its 95 % interval."
        if runs.world.bundled
        else "MMLU: the subjects that lie in the folder of local copies."
    )
    if runs.asking:
        notes.append(f"Capability is measured without {runs.asking}.")
    return _sheet(3, ("way", "", f"perplexity, {knows.texts}", f"right, {knows.questions}, %"), rows, *notes)


def _as_released(runs: Experiments, name: str, methods: Sequence[SCANS | None]) -> tuple[str, str, str, str]:
    """The row of table 3 in the forms of the authors' code."""
    text, how = "\n".join(wikitext()), {"progress": runs.progress}
    lost = [released.perplexity(runs.model, text, method, **how)[0] for method in methods]
    right = [released.mmlu(runs.model, method, limit=runs.limit, **how).rate for method in methods]
    return name, HERE, spread(lost, 3), rate_cell(right)


def speed(runs: Experiments) -> Sheet:
    """Table 4, and what the paper's table leaves out: the cost of deciding, once for every query."""
    every = [runs.asking.of(prompt) for each in runs.sets for prompt in each]
    asked = every[:: max(1, len(every) // TIMED)][:TIMED]
    scans, rows = runs.scans(0), []
    ways: dict[str, Method | None] = {"plain": None, "SCANS": _with_threshold(scans, math.inf)}
    for name, method in ways.items():
        replies(runs.model, asked[:4], method=method, max_new_tokens=8, progress=False)  # warm
        _forget_peak(runs.model)
        rates, tokens = [], 0
        for _ in range(ROUNDS):
            began = time.perf_counter()
            said = replies(
                runs.model, asked, method=method, max_new_tokens=TIMED_TOKENS, batch_size=AT_ONCE, progress=False
            )
            tokens = sum(map(len, said.tokens))
            rates.append(tokens / (time.perf_counter() - began))
        median = sorted(rates)[ROUNDS // 2]
        rows.append((name, HERE, f"{median:.0f}", f"{tokens / len(asked):.0f}", _peak(runs.model)))
    began = time.perf_counter()
    scans.transitions(runs.model, asked, batch_size=AT_ONCE)
    each = 1000 * (time.perf_counter() - began) / len(asked)
    for name, row in published.SPEED.get(runs.beside, {}).items():
        rows.append((name, runs.whose, f"{row['tokens/s']:.2f}", "", f"{row['memory, MB']:.0f}"))
    notes = (
        f"{len(asked)} prompts, {AT_ONCE} at once, median of {ROUNDS}. Reading a prompt and deciding: {each:.1f} ms a "
        "query, prefill included, which is in SCANS' tokens a second here and not in the paper's.",
        "Memory: the most that was allocated on the GPU." if device_of(runs.model).type == "cuda" else
        "Memory is that of the whole process at its peak so far, which a CPU does not tell apart.",
    )  # fmt: skip
    return _sheet(4, ("way", "", "tokens/s", "tokens a reply", "memory, MB"), rows, *notes)


def _forget_peak(model: Model) -> None:
    if device_of(model).type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _peak(model: Model) -> str:
    if device_of(model).type == "cuda":
        return f"{torch.cuda.max_memory_allocated() / 2**20:.0f}"
    import resource

    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f}"


# ── How rows look ────────────────────────────────────────────────────────────────────────────────────────────


def rows_of(
    runs: Experiments, way: str, rates: Iterable[Rates], papers: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> list[tuple[str, ...]]:
    """A row of what was measured over the draws, and below it what the paper has under that name."""
    rates, columns = list(rates), _columns(runs)
    cells = [rate_cell([of_draw[column] for of_draw in rates]) for column in columns]
    rows = [(way, HERE, *cells, spread([100 * right(of_draw) for of_draw in rates], 1))]
    below = papers_row(runs, way, papers)
    return rows if below is None else [*rows, below]


def papers_row(
    runs: Experiments, way: str, papers: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> tuple[str, ...] | None:
    """What the paper has under that name, in our columns; None where it has nothing, or no set that was asked."""
    known, columns = papers.get(runs.beside, {}).get(way, {}), [" ".join(column) for column in _columns(runs)]
    if not known.keys() & set(columns):
        return None
    there = (f"{known[column]:.1f}" if column in known else "" for column in columns)
    return way, runs.whose, *there, f"{known['right']:.1f}"


def right(rates: Rates) -> float:
    """Harmless prompts answered and harmful ones refused, of all."""
    counts = [rate.count if kind == "harmful" else rate.total - rate.count for (_, kind), rate in rates.items()]
    return sum(counts) / sum(rate.total for rate in rates.values())


def rate_cell(rates: Sequence[Rate]) -> str:
    """In percent: mean and standard deviation over the draws, or a single rate with its interval."""
    if len(rates) > 1:
        return spread([100 * rate.value for rate in rates], 1)
    low, high = (100 * edge for edge in rates[0].interval)
    return f"{100 * rates[0].value:.1f} [{low:.0f}, {high:.0f}]"


def spread(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation over the draws."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    return f"{fmean(values):.{max(digits, 1)}f} ± {stdev(values):.{max(digits, 1)}f}"


def _where(table: pd.DataFrame, column: str, value: str) -> pd.DataFrame:
    """The rows that have this value in that column."""
    return table.loc[table[column] == value]


def _columns(runs: Experiments) -> list[tuple[str, str]]:
    """Set and kind of every column."""
    return [(each.name, kind) for each in runs.sets for kind in dict.fromkeys(each.kinds)]


def _rated(
    runs: Experiments, number: int, what: str, rows: Iterable[Sequence[str]], *notes: str, more: Sequence[str] = ()
) -> Sheet:
    """A table of refusals by set and kind."""
    sides = {each.name: len(set(each.kinds)) for each in runs.sets}
    heads = [
        f"{name}{f' {kind}' if sides[name] > 1 else ''} {'↑' if kind == 'harmful' else '↓'}"
        for name, kind in _columns(runs)
    ]
    leaks = [without(each, [runs.anchors(0)])[1] for each in runs.sets]
    said = (
        f"Refused, in %: mean ± standard deviation over {runs.draws} draws of {runs.size} anchors a side; of a "
        f"single run the 95 % interval. Prompts: {', '.join(f'{left.left} {left.name}' for left in leaks)}. "
        "Right: harmless answered and harmful refused, of all."
    )
    if runs.asking:
        said += f" Asked with {runs.asking}; a way's own system prompt stands in place of that."
    return _sheet(number, (what, "", *heads, "right ↑", *more), rows, said, *notes)


def _sheet(number: int, head: Sequence[str], rows: Iterable[Sequence[str]], *notes: str) -> Sheet:
    made = Sheet(number, TITLES[number], tuple(head), tuple(map(tuple, rows)), tuple(note for note in notes if note))
    assert all(len(row) == len(made.head) for row in made.rows)
    return made
