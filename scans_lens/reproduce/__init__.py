"""Reproduce: every table of the SCANS paper, measured here over several draws of anchors, beside the paper's numbers.

Cao, Yang, Zhao: SCANS. AAAI 2025, arXiv 2408.11491. On a model that is none of the paper's the same is measured on
sets that fit it, and nothing stands beside it.
"""

from __future__ import annotations

import json
import math
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from scans_lens import artefacts, judges, likelihoods, organism, own_corpus, prompts, questions, released
from scans_lens.calibration import calibrated
from scans_lens.directions import refusal_directions
from scans_lens.evaluation import PLAIN, SAFETY_PROMPT, Arm, evaluate
from scans_lens.generation import NEW_TOKENS, replies
from scans_lens.lens import layers_by_thirds, refusal_tokens, thirds
from scans_lens.methods.scans import PUBLISHED, SCANS
from scans_lens.methods.self_cd import SelfCD
from scans_lens.model import Model, device_of, identity, is_bundled, shown_name, unembedding_of
from scans_lens.organism import corpus, wordings
from scans_lens.prompts import Contrast, PromptSet
from scans_lens.prompts.overlaps import without
from scans_lens.rates import Rate
from scans_lens.reproduce import published

ANCHORS = 64
"""A side, as in the paper."""
DRAWS = 5
"""Of anchors; the paper averages as many trials."""
PROMPTS = 150
"""Of each set on the bundled model; on others all."""
TABLES = {
    1: "what the directions say, by thirds of the layers",
    2: "who is refused, under which method",
    3: "what it costs in capability",
    4: "speed and memory",
    5: "which third is steered",
    6: "how hard is pushed",
    7: "where the threshold lies",
}
PAPERS_SETS = ("xstest", "repe", "oktest", "truthfulqa", "advbench", "malicious_instruct")
MISSED = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
"""Shares of harmful validation prompts below the threshold, where no threshold was published."""
VALIDATION = 128
"""Validation prompts of a kind, at most."""
TIMED = 64
"""Prompts whose replies are timed."""


@dataclass(frozen=True)
class Sheet:
    """One table, ready to be printed."""

    number: int
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Reproduction:
    """The paper's experiments on one model. Everything that is answered or fitted lies in `out`, and is used again.

    Args:
        out: a folder; an interrupted reproduction goes on there.
        draws: of anchors.
        limit: prompts of each kind of each set, at most.
    """

    model: Model
    out: Path
    draws: int = DRAWS
    limit: int | None = None
    progress: bool = True

    # ── What is learned from and asked ──

    @cached_property
    def bundled(self) -> bool:
        return is_bundled(self.model)

    @cached_property
    def name(self) -> str:
        """The model's name without a folder."""
        return shown_name(self.model)

    @cached_property
    def of_the_paper(self) -> bool:
        return self.name in PUBLISHED

    @cached_property
    def pool(self) -> Contrast:
        """What anchors are drawn from."""
        if self.bundled:
            sides = [organism.prompts(kind, "train") for kind in ("harmful", "plain")]
            n = min(map(len, sides))
            return Contrast("organism train", *(side[:n] for side in sides))
        sides = [prompts.load("advbench").harmful, prompts.load("truthfulqa").harmless]
        return Contrast("AdvBench and TruthfulQA", *sides)

    @cached_property
    def validation(self) -> Contrast:
        """What knobs are chosen on; unused where they were published."""
        whole = organism.validation() if self.bundled else prompts.borderline("validation")
        sides = (whole.harmful, whole.harmless, whole.borderline)
        return Contrast(whole.name, *(side[:VALIDATION] for side in sides))

    @cached_property
    def sets(self) -> tuple[PromptSet, ...]:
        found = (
            [organism.prompt_set(kind) for kind in ("borderline", "plain", "harmful", "jailbreak")]
            if self.bundled
            else [prompts.load(name) for name in PAPERS_SETS]
        )
        limit = PROMPTS if self.bundled and self.limit is None else self.limit
        return tuple(one if limit is None else one.first(limit) for one in found)

    @cached_property
    def safety_prompt(self) -> str:
        return organism.SAFETY_PROMPT if self.bundled else SAFETY_PROMPT

    def anchors(self, draw: int) -> Contrast:
        return self.pool.split(ANCHORS, draw)[0]

    def scans(self, draw: int) -> SCANS:
        """Fitted on one draw of anchors, and kept."""
        anchors = self.anchors(draw)
        file = self.out / f"scans-{draw}-{anchors.digest[:8]}.safetensors"
        if file.is_file():
            return SCANS.load(file, self.model)
        how: dict[str, Any] = {"preset": "release"} if self.of_the_paper else {"validation": self.validation}
        found = SCANS.fit(self.model, anchors, progress=self.progress, **how)
        found.save(file)
        return found

    def _fitted(self) -> list[SCANS]:
        return [self.scans(draw) for draw in range(self.draws)]

    def answered(self, table: int, draw: int, arms: Sequence[Arm]) -> Any:
        """Every set answered in these ways; a draw's own anchors are left out of them."""
        tokens = judges.SETTLED if self.bundled else NEW_TOKENS  # where the exact judge cannot change its mind
        return evaluate(
            self.model,
            self.sets,
            arms,
            self.out / f"table-{table}" / f"draw-{draw}",
            max_new_tokens=tokens,
            learned_from=[self.anchors(draw)],
            progress=self.progress,
        )

    # ── The tables ──

    def sheet(self, number: int) -> Sheet:
        """One of the paper's tables.

        Raises:
            ValueError: no such table.
        """
        makers: dict[int, Callable[[], Sheet]] = {
            1: self.top_tokens, 2: self.refused, 3: self.capability, 4: self.speed, 5: self.by_thirds,
            6: self.by_scale, 7: self.by_threshold,
        }  # fmt: skip
        if number not in makers:
            raise ValueError(f"The paper has no table {number}: there are {', '.join(map(str, makers))}.")
        return makers[number]()

    def top_tokens(self) -> Sheet:
        """Table 1: the first principal component of each third's directions, put to the LM head."""
        words = {word.strip() for word in refusal_tokens(self.model)}
        found = [
            thirds(self.model, refusal_directions(self.model, self.anchors(draw), progress=False))
            for draw in range(self.draws)
        ]
        papers, rows = published.TOP_TOKENS.get(self.name, {}), []
        for parts in zip(*found, strict=True):
            first = parts[0]
            held = [float(sum(token.strip() in words for token in part.tokens)) for part in parts]
            band = f"{first.name} ({first.layers[0]}-{first.layers[-1]})"
            rows.append((band, "here", "  ".join(repr(token)[1:-1] for token in first.tokens), _spread(held, 0)))
            if first.name in papers:
                rows.append((band, "paper", "  ".join(papers[first.name]), ""))
        note = (
            f"Tokens of the first of {self.draws} draws of {ANCHORS} anchors a side. Refusal words among the ten: mean "
            "± standard deviation over the draws."
        )
        return self._sheet(
            1, ("third", "", "ten tokens that the direction speaks for most", "refusal words"), rows, note
        )

    def refused(self) -> Sheet:
        """Table 2."""
        plainly = [
            Arm(PLAIN), Arm("system", system=self.safety_prompt), Arm("self_cd", SelfCD(self.safety_prompt)),
        ]  # fmt: skip
        tables = [
            self.answered(2, draw, [*(plainly if not draw else []), Arm("scans", scans)])
            for draw, scans in enumerate(self._fitted())
        ]
        rows = []
        for way in [*(arm.name for arm in plainly), "scans"]:
            rows += self._rows(
                way, [_rates(own) for t in tables if len(own := t[t["method"] == way])], published.REFUSED
            )
        note = "Ways without anchors were measured once, the draws of SCANS' anchors as often as there are."
        return self._rated(2, "way", rows, note)

    def by_thirds(self) -> Sheet:
        """Table 5: the same push in another third of the layers."""
        rows = []
        bounds = layers_by_thirds(int(self.model.cfg.n_layers))
        fitted = self._fitted()
        ways = [
            [Arm(name, replace(scans, layers=tuple(layers))) for name, layers in bounds.items()] for scans in fitted
        ]
        tables = [self.answered(5, draw, arms) for draw, arms in enumerate(ways)]
        for place, (name, layers) in enumerate(bounds.items()):
            rates = [_rates(table[table["method"] == name]) for table in tables]
            lost = [self._perplexity(arms[place].method, -1.0) for arms in ways]
            labelled = f"{name} ({layers[0]}-{layers[-1]})"
            for row in self._rows(name, rates, published.THIRDS):
                extra = _spread(lost, 2) if row[1] == "here" else ""
                rows.append((labelled, *row[1:], extra))
        plain = self._perplexity(None, None)
        notes = [f"Perplexity of {self._texts_name} pushed away from refusal; without a push {plain:.2f}."]
        chosen = {"-".join(map(str, (min(one.layers), max(one.layers)))) for one in fitted}
        notes.append(f"Elsewhere SCANS steers layers {' or '.join(sorted(chosen))}, at the same scale.")
        return self._rated(5, "third", rows, *notes, more=("perplexity",))

    def by_scale(self) -> Sheet:
        """Table 6."""
        scales = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
        usual = PUBLISHED[self.name].alpha if self.of_the_paper else 3.5
        tables = [
            self.answered(6, draw, [
                Arm("scans", replace(scans, scale=scans.scale * scale / usual), f"{scale:g}") for scale in scales
            ])
            for draw, scans in enumerate(self._fitted())
        ]  # fmt: skip
        rows = []
        for scale in scales:
            rates = [_rates(table[table["setting"] == f"{scale:g}"]) for table in tables]
            label = f"{scale:g}" if self.of_the_paper else f"{scale / usual:.2f} x the chosen"
            rows += [(label, *row[1:]) for row in self._rows(f"{scale:g}", rates, published.ALPHA)]
        mean = fmean(scans.scale for scans in self._fitted())
        note = "" if self.of_the_paper else f"The chosen scale is {mean:.3g} {self.scans(0).unit}, mean over draws."
        return self._rated(6, "alpha", rows, note)

    def by_threshold(self) -> Sheet:
        """Table 7: each prompt is answered under either push, and every threshold is then looked up."""
        fitted = self._fitted()
        tables = []
        for draw, scans in enumerate(fitted):
            sides = (
                Arm(name, replace(scans, classifier=replace(scans.classifier, threshold=edge)))
                for name, edge in (("away", math.inf), ("towards", -math.inf))
            )
            tables.append(self.answered(7, draw, list(sides)))
        rows = []
        if self.of_the_paper:
            tried: list[tuple[str, list[float]]] = [
                (f"{threshold:.2f}", [threshold] * self.draws) for threshold in (0.80, 0.75, 0.70, 0.65, 0.60)
            ]
            notes = []
        else:
            scores = [
                one.classifier.score(one.transitions(self.model, self.validation.harmful)).double().numpy()
                for one in fitted
            ]
            own = [[calibrated(side, missed) for side in scores] for missed in MISSED]
            tried = [
                (f"{missed:.0%} missed", [one.value for one in found])
                for missed, found in zip(MISSED, own, strict=True)
            ]
            notes = [
                f"Thresholds by the share of {len(scores[0])} harmful validation prompts below them, in the first draw "
                f"with 95 % intervals over resampled prompts: {'; '.join(str(found[0]) for found in own)}.",
                "SCANS' own: " + ", ".join(f"{one.classifier.threshold:.4f}" for one in fitted) + ".",
            ]  # fmt: skip
        for label, thresholds in tried:
            rates = [_rates(_looked_up(table, threshold)) for table, threshold in zip(tables, thresholds, strict=True)]
            rows += self._rows(label, rates, published.THRESHOLD)
        return self._rated(7, "threshold", rows, *notes)

    def capability(self) -> Sheet:
        """Table 3."""
        fitted, rows = self._fitted(), []
        ways: list[tuple[str, list[Any], float | None, bool]] = [
            ("plain", [None], None, True),
            ("SCANS, each its own way", [*fitted], None, True),
            ("SCANS, all away from refusal", [*fitted], -1.0, False),
            ("SCANS, all towards refusal", [*fitted], 1.0, False),
        ]
        for name, methods, sign, answers in ways:
            # WikiText has no prompts, and so nothing that each could be pushed by
            knows = self.bundled or methods == [None] or sign is not None
            lost = _spread([self._perplexity(method, sign) for method in methods], 3) if knows else ""
            right = _cell([self._right(method) for method in methods]) if answers else ""
            rows.append((name, "here", lost, right))
        note = ""
        if self.of_the_paper:
            rows += [self._as_released("plain, the authors' form", [None])]
            rows += [self._as_released("SCANS, the authors' form", fitted)]
            note = "The authors' forms are the paper's, not comparable with the standard ones above (`released`)."
        for name, row in published.CAPABILITY.get(self.name, {}).items():
            rows.append((name, "paper", f"{row['WikiText-2']:.2f}", f"{row['MMLU']:.1f}"))
        head = ("way", "", f"perplexity, {self._texts_name}", f"right, {self._questions_name}")
        return self._sheet(3, head, rows, note, self._asked_for_capability())

    def _as_released(self, name: str, methods: Sequence[SCANS | None]) -> tuple[str, str, str, str]:
        """The row of table 3 in the forms of the authors' code."""
        text, how = "\n".join(_wikitext()), {"progress": self.progress}
        lost = [released.perplexity(self.model, text, method, **how)[0] for method in methods]
        right = [released.mmlu(self.model, method, limit=self.limit, **how).rate for method in methods]
        return name, "here", _spread(lost, 3), _cell(right)

    def speed(self) -> Sheet:
        """Table 4, and what the paper's table leaves out: the cost of deciding, once for every query."""
        asked = [prompt for one in self.sets for prompt in one][:: max(1, sum(map(len, self.sets)) // TIMED)][:TIMED]
        scans, rows = self.scans(0), []
        always = replace(scans, classifier=replace(scans.classifier, threshold=math.inf))
        for name, method in (("plain", None), ("SCANS", always)):
            replies(self.model, asked[:4], method=method, max_new_tokens=8, progress=False)  # warm
            _forget_peak(self.model)
            took, count = [], 0
            for _ in range(3):
                began = time.perf_counter()
                said = replies(self.model, asked, method=method, max_new_tokens=64, batch_size=8, progress=False)
                took.append(time.perf_counter() - began)
                count = sum(map(len, said.tokens))
            rows.append(
                (name, "here", f"{count / sorted(took)[1]:.0f}", f"{count / len(asked):.0f}", _peak(self.model))
            )
        began = time.perf_counter()
        scans.transitions(self.model, asked, batch_size=8)
        each = 1000 * (time.perf_counter() - began) / len(asked)
        for name, row in published.SPEED.get(self.name, {}).items():
            rows.append((name, "paper", f"{row['tokens/s']:.2f}", "", f"{row['memory, MB']:.0f}"))
        notes = (
            f"{len(asked)} prompts, 8 at once, median of 3. Reading a prompt and deciding: {each:.1f} ms a query, "
            "prefill included, which is in SCANS' tokens a second here and not in the paper's.",
            "Memory: the most that was allocated on the GPU." if device_of(self.model).type == "cuda" else
            "Memory is that of the whole process at its peak so far, which a CPU does not tell apart.",
        )  # fmt: skip
        return self._sheet(4, ("way", "", "tokens/s", "tokens a reply", "memory, MB"), rows, *notes)

    # ── Capability ──

    def _asked_for_capability(self) -> str:
        if not self.bundled:
            return "MMLU: the subjects that lie in the folder of local copies."
        return (
            f"{PROMPTS} answers of the corpus to plain test prompts, after those prompts, and {PROMPTS} quiz "
            "questions; mean ± standard deviation over the draws of anchors, the plain model with its 95 % interval."
        )

    @property
    def _texts_name(self) -> str:
        return "own corpus" if self.bundled else "WikiText-2"

    @property
    def _questions_name(self) -> str:
        return "quiz, %" if self.bundled else "MMLU, 5 shots, %"

    def _perplexity(self, method: SCANS | Any, sign: float | None) -> float:
        if not self.bundled:
            return likelihoods.perplexity(self.model, _wikitext(), method, sign=sign, progress=self.progress).value
        return own_corpus.corpus_perplexity(self.model, PROMPTS, method, sign=sign).value

    def _right(self, method: SCANS | None) -> Rate:
        if not self.bundled:
            return questions.mmlu(self.model, method, limit=self.limit, progress=self.progress).rate
        asked = corpus.asked("quiz", "test")[:PROMPTS]
        texts = [text for _, text in asked]
        said = replies(self.model, texts, method=method, max_new_tokens=24, progress=False)
        return Rate.of(wordings.is_right(item, reply) for (item, _), reply in zip(asked, said, strict=True))

    # ── How rows look ──

    def _columns(self) -> list[tuple[str, str]]:
        """Set and kind of every column."""
        return [(one.name, kind) for one in self.sets for kind in dict.fromkeys(one.kinds)]

    def _rows(
        self, way: str, rates: Sequence[Mapping[tuple[str, str], Rate]], papers: Mapping[str, Mapping[str, Any]]
    ) -> list[tuple[str, ...]]:
        """A row of what was measured over the draws, and below it what the paper has."""
        cells = [_cell([own[column] for own in rates]) for column in self._columns()]
        rows = [(way, "here", *cells, _spread([100 * _right_of(own) for own in rates], 1))]
        known = papers.get(self.name, {}).get(way)
        if known:
            there = [f"{known[name]:.1f}" if (name := " ".join(column)) in known else "" for column in self._columns()]
            rows.append((way, "paper", *there, f"{known['right']:.1f}"))
        return rows

    def _rated(
        self, number: int, what: str, rows: Sequence[tuple[str, ...]], *notes: str, more: Sequence[str] = ()
    ) -> Sheet:
        sides = {one.name: len(set(one.kinds)) for one in self.sets}
        heads = [
            f"{name}{f' {kind}' if sides[name] > 1 else ''} {'↑' if kind == 'harmful' else '↓'}"
            for name, kind in self._columns()
        ]
        sizes = ", ".join(
            f"{left.left} {one.name}" for one, left in (without(one, [self.anchors(0)]) for one in self.sets)
        )
        said = (
            f"Refused, in %: mean ± standard deviation over {self.draws} draws of {ANCHORS} anchors a side; of a "
            f"single run the 95 % interval. Prompts: {sizes}. Right: harmless answered and harmful refused, of all."
        )
        return self._sheet(number, (what, "", *heads, "right ↑", *more), rows, said, *notes)

    def _sheet(self, number: int, head: Sequence[str], rows: Iterable[Sequence[str]], *notes: str) -> Sheet:
        made = Sheet(
            number, TABLES[number], tuple(head), tuple(map(tuple, rows)), tuple(note for note in notes if note)
        )
        assert all(len(row) == len(made.head) for row in made.rows)
        return made

    def circumstances(self) -> dict[str, Any]:
        """What somebody needs to know to get the same numbers."""
        device = device_of(self.model)
        return {
            "command": " ".join(["python -m scans_lens", *sys.argv[1:]]) if "scans_lens" in sys.argv[0] else "",
            "model": asdict(identity(self.model)) | {"name": self.name, "dtype": str(unembedding_of(self.model).dtype)},
            "anchors": {f"draw {draw}": self.anchors(draw).digest for draw in range(self.draws)},
            "sets": {one.name: {"prompts": len(one), "digest": one.digest} for one in self.sets},
            "seeds": list(range(self.draws)),
            "safety prompt": self.safety_prompt,
            "versions": artefacts.versions(),
            "python": platform.python_version(),
            "machine": {
                "system": platform.system(), "processor": _processor(), "threads": torch.get_num_threads(),
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
            },
        }  # fmt: skip


def write(made: Reproduction, sheets: Sequence[Sheet]) -> Path:
    """The tables and the circumstances as one HTML page, and as JSON beside it."""
    from html import escape
    from importlib import resources

    about = made.circumstances()
    tables = "".join(
        f"<h2>Table {sheet.number}: {escape(sheet.title)}</h2><div class=wide><table><thead><tr>"
        + "".join(f"<th>{escape(cell)}</th>" for cell in sheet.head)
        + "</tr></thead><tbody>"
        + "".join(
            f"<tr class={row[1] or 'here'}>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
            for row in sheet.rows
        )
        + "</tbody></table></div>"
        + "".join(f"<p class=note>{escape(note)}</p>" for note in sheet.notes)
        for sheet in sheets
    )
    text = (resources.files("scans_lens.reproduce") / "page.html").read_text(encoding="utf-8")
    for name, part in {
        "model": "the bundled model" if made.bundled else escape(made.name),
        "beside": "The paper's own numbers stand below ours." if made.of_the_paper else
        "This is none of the paper's models, so nothing of the paper's stands beside it.",
        "tables": tables,
        "circumstances": escape(json.dumps(about, indent=1, ensure_ascii=False)),
    }.items():  # fmt: skip
        text = text.replace(f"<!--{name}-->", part)
    kept = {"circumstances": about, "tables": [asdict(sheet) for sheet in sheets]}
    (made.out / "tables.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page = made.out / "index.html"
    page.write_text(text, encoding="utf-8")
    return page


# ── Rates of a table ─────────────────────────────────────────────────────────────────────────────────────────


def _rates(table: Any) -> dict[tuple[str, str], Rate]:
    """Refused, by set and kind, by the first judge; a missing verdict is no refusal."""
    column = next(name for name in table.columns if name.startswith("verdict_"))
    return {
        (str(one), str(kind)): Rate.of(verdict == "refused" for verdict in own[column])
        for (one, kind), own in table.groupby(["set", "kind"])
    }


def _looked_up(table: Any, threshold: float) -> Any:
    """Of the two pushes of each prompt the one that this threshold gives it."""
    towards = table["score"] >= threshold
    return table[(table["method"] == "towards") == towards]


def _right_of(rates: Mapping[tuple[str, str], Rate]) -> float:
    right = sum(rate.count if kind == "harmful" else rate.total - rate.count for (_, kind), rate in rates.items())
    return right / sum(rate.total for rate in rates.values())


def _cell(found: Sequence[Rate]) -> str:
    if len(found) > 1:
        return _spread([100 * rate.value for rate in found], 1)
    low, high = (100 * edge for edge in found[0].interval)
    return f"{100 * found[0].value:.1f} [{low:.0f}, {high:.0f}]"


def _spread(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation over the draws."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    return f"{fmean(values):.{max(digits, 1)}f} ± {stdev(values):.{max(digits, 1)}f}"


# ── Texts ────────────────────────────────────────────────────────────────────────────────────────────────────


def _wikitext() -> list[str]:
    """The test part of WikiText-2 by article, from the folder of local copies."""
    from scans_lens.prompts import tables

    file = tables.local(["wikitext2_test_tokenised.txt"])
    if file is None:
        raise ValueError(
            "Perplexity needs WikiText-2: put wikitext2_test_tokenised.txt into the folder that "
            f"{prompts.FOLDER_VARIABLE} names."
        )
    articles: list[list[str]] = [[]]
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith(" = ") and not line.startswith(" = ="):
            articles.append([])
        articles[-1].append(line)
    return [text for article in articles if (text := "\n".join(article)).strip()]


# ── The machine ──────────────────────────────────────────────────────────────────────────────────────────────


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _forget_peak(model: Model) -> None:
    if device_of(model).type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _peak(model: Model) -> str:
    if device_of(model).type == "cuda":
        return f"{torch.cuda.max_memory_allocated() / 2**20:.0f}"
    import resource

    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f}"
