"""Readme: the tables of README.md and of the pages in docs/, written again from the numbers in `measured/`.

`python figures/readme.py` after `python -m scans_lens.figures --again --compared FOLDER`, and, for a real model, after
`python -m scans_lens.figures benchmarks ceilings --evaluated FOLDER --out figures/NAME`; a test says when it is due.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scans_lens import capability, figures
from scans_lens.figures.benchmarks import UNSEEN, knobs, labelled
from scans_lens.figures.captions import learned
from scans_lens.figures.catalogue import FROM_A_RUN
from scans_lens.rates import Rate, in_percent, in_points

HERE = Path(__file__).parent
RESULTS = HERE.parent / "docs" / "results.md"
PAGES = (HERE.parent / "README.md", *(page for page in sorted(RESULTS.parent.glob("*.md")) if page != RESULTS))
"""Written by hand, but for their tables."""
RUNS = {
    "real_refused": "qwen2.5-coder-0.5b",
    "real_halves": "qwen2.5-coder-0.5b-halves",
    "real_knows": "qwen2.5-coder-0.5b-halves",
    "real_scans": "qwen2.5-coder-0.5b-halves-scans",
    "real_larger": "qwen2.5-coder-1.5b-halves",
    "real_larger_knows": "qwen2.5-coder-1.5b-halves",
    "real_door": "qwen2.5-coder-0.5b-halves",
}
"""Tables of the runs of real models that the README speaks of, and the folders with their numbers."""

PICTURES = (
    "benchmarks",
    "ceilings",
    "front",
    "comparison",
    *(name for name in figures.ABOUT if name not in FROM_A_RUN),
)
"""Of a model on the page of results, in this order, as far as they are there."""

Numbers = Mapping[str, Any]


REAL = HERE.parent / "benchmarks" / "real.json"
"""What `python -m benchmarks real` has measured."""


def _read(name: str) -> Numbers:
    file = HERE / "measured" / f"{name}.json"
    if name.startswith("real"):
        file = HERE / RUNS[name] / "measured" / "benchmarks.json" if name in RUNS else REAL
    found = json.loads(file.read_text(encoding="utf-8"))
    return found.get("numbers", found)


def _pooled(rates: list[Numbers]) -> Rate:
    """One rate of all that several were of."""
    return Rate(*(sum(rate[what] for rate in rates) for what in ("count", "total")))


def refusal_rates(found: Numbers) -> dict[str, Any]:
    """By way: who is refused, and what is answered well."""
    table = {}
    for way, rates in found["rates"].items():
        refused = {f"{kind} refused": rates[kind] for kind in ("harmful", "borderline", "plain", "jailbreak")}
        skill = found["skill"][way]
        table[way] = {**refused, "plain answered well": skill["plain"], "quiz right": skill["quiz"]}
    return {way: {what: in_percent(rate) for what, rate in row.items()} for way, row in table.items()}


def switching(found: Numbers) -> dict[str, Any]:
    """By way: what is complied with."""
    kinds = ("harmful", "jailbreak", "plain", "borderline", "wrapped plain", "wrapped borderline")
    ways = ("plain model", "SafeSwitch", "head always on")
    return {way: {kind: in_percent(found["ways"][way][kind]["complied"]) for kind in kinds} for way in ways}


def comparison(found: Numbers) -> dict[str, Any]:
    """By way: refusals, answers, and what it costs."""
    table = {}
    for way, own in found["ways"].items():
        kl, tuned = own.get("kl"), own.get("tuning", {}).get("replies")
        table[way] = {
            **{f"{kind} refused": in_percent(own["refused"][kind]) for kind in ("borderline", "harmful", "jailbreak")},
            "plain answered well": in_percent(own["right"]["plain"]),
            "quiz right": in_percent(own["right"]["quiz"]),
            "KL (nats)": "{:.3f} [{:.3f}, {:.3f}]".format(kl["value"], *kl["interval"]) if kl else "",
            "tuned on": f"{tuned:,}" if tuned else "",
            "not beaten": "yes" if own.get("front") else "",
        }
    return table


SHOWN = {
    "XSTest safe": ("xstest, borderline", ""),
    "OKTest": ("oktest, borderline", ""),
    "OR-Bench-Hard": ("or_bench_hard_1k, borderline", ""),
    "XSTest unsafe": ("xstest, harmful", ""),
    "all harmful sets": ("", "harmful"),
    "of these never learned from": ("", f"harmful, {UNSEEN}"),
    "jailbreaks": ("", "jailbreaks"),
}
"""Columns of the README's table: a set, or all sets of one purpose together."""


def real_refused(found: Numbers) -> dict[str, Any]:
    """By way: who is refused by a real model, set by set and together."""

    def shift(way: str, column: str) -> Numbers | None:
        name, purpose = SHOWN[column]
        own = found["ways"][way]
        return own["together"].get(purpose) if purpose else own["sets"].get(name)

    first = next(iter(found["ways"]))
    sizes = {column: whole["after"]["total"] for column in SHOWN if (whole := shift(first, column))}

    def cell(way: str, column: str, side: str) -> str:
        own = shift(way, column)  # a way that was asked fewer prompts has no place in the column
        return in_percent(own[side]) if own and own["after"]["total"] == sizes[column] else ""

    def broken(sides: list[Numbers]) -> str:
        rate = _pooled([side["broken"] for side in sides])
        return in_percent(rate.as_json()) + ("" if rate.total == asked else f" of {rate.total:,}")

    asked = sum(rate["refused"]["total"] for rate in found["plain"].values())

    def row(way: str, side: str) -> dict[str, str]:
        sides = list((found["plain"] if side == "before" else found["ways"][way]["sets"]).values())
        cells = {f"{column}, {n}": cell(way, column, side) for column, n in sizes.items()}
        return cells | {f"in a circle, {asked:,}": broken(sides)}

    return {"plain": row(first, "before"), **{way: row(way, "after") for way in found["ways"]}}


DOOR = {
    "XSTest safe": ("xstest, borderline", ""),
    "OKTest": ("oktest, borderline", ""),
    "OR-Bench-Hard": ("or_bench_hard_1k, borderline", ""),
    "TruthfulQA*": ("truthfulqa, harmless", ""),
    "XSTest unsafe": ("xstest, harmful", ""),
    "HarmBench*": ("harmbench_standard, harmful", ""),
    "all harmful sets": ("", "harmful"),
    "jailbreaks*": ("", "jailbreaks"),
}
"""Rows of the README's table; nothing was learned from those with a star."""


def door(found: Numbers) -> dict[str, Any]:
    """By set or purpose: who is refused by both real models, plainly and under our push, by one under SCANS."""
    smaller, larger, scans = found["ways"], _read("real_larger")["ways"], _read("real_scans")["ways"]

    def cells(ways: Numbers, way: str, row: str) -> tuple[str, str, str]:
        name, purpose = DOOR[row]
        shift = ways[way]["together"].get(purpose) if purpose else ways[way]["sets"].get(name)
        if shift is None:
            return "", "", ""
        return f"{shift['after']['total']:,}", in_percent(shift["before"]), in_percent(shift["after"])

    table = {}
    for row, (name, _) in DOOR.items():
        n, plain, pushed = cells(smaller, "gated_push", row)
        more, plainly, own = cells(larger, "gated_push", row)
        asked, _, also = cells(scans, "scans", row) if name in scans["scans"]["sets"] else ("", "", "")
        also = also if asked == n else ""  # who was asked fewer prompts has no place in the row
        table[row] = {
            "n, 0.5B": n, "plain, 0.5B": plain, "gated_push, 0.5B": pushed, "scans, 0.5B": also,
            "n, 1.5B": more, "plain, 1.5B": plainly, "gated_push, 1.5B": own,
        }  # fmt: skip
    return table


def real_halves(found: Numbers) -> dict[str, Any]:
    """The same, with SCANS as it is fitted since longer replies are looked at, from a run of its own."""
    rows = {way: row for way, row in real_refused(found).items() if not way.startswith("scans")}
    circle = "in a circle, "
    for way, row in real_refused(_read("real_scans")).items():
        if way != "plain":
            seen = {column if not column.startswith(circle) else circle: value for column, value in row.items()}
            asked = next(column for column in row if column.startswith(circle)).removeprefix(circle)
            rows[way] = {
                column: f"{seen[circle]} of {asked}" if column.startswith(circle) else seen.get(column, "")
                for column in rows["plain"]
            }
    return rows


def real_knows(found: Numbers) -> dict[str, Any]:
    """What every way still knows, beside the plain model."""
    known = found["capability"]
    asked = next(line for line in known["arms"].values() if "right" in line)
    right = f"{known['questions']}, right of {asked['right']['total']} (%)"
    columns = (right, "change (points)", f"perplexity, {asked['texts']} passages", "change (%)")
    return {
        way: dict(zip(columns, capability.cells(line), strict=True))
        for way, line in known["arms"].items()
        if not way.startswith("scans")  # as fitted before longer replies were looked at; the page of results has it
    }


def real_times(found: Numbers) -> dict[str, Any]:
    """By item: what it took, and what it may take."""
    return {
        f"`{name}`": {"what": own["what"], "measured": own["measured"], "may take": own.get("bound", "")}
        for name, own in found["items"].items()
    }


TABLES = {
    "real_door": ("refused", door),
    "real_refused": ("refused", real_refused),
    "real_halves": ("refused", real_halves),
    "real_larger": ("refused", real_refused),
    "real_knows": ("it still knows", real_knows),
    "real_larger_knows": ("it still knows", real_knows),
    "real_times": ("command", real_times),
    "refusal_rates": ("", refusal_rates),
    "switching": ("complied with", switching),
    "comparison": ("", comparison),
}
"""Where the numbers lie, what the first column is called, and how the rows are made."""


def written(pages: Mapping[Path, str]) -> dict[Path, str]:
    """The pages with every table as it was measured.

    Raises:
        ValueError: a table is not there once, on one of them.
    """
    pages = dict(pages)
    for name, (corner, make) in TABLES.items():
        rows = make(_read(name))
        columns = list(next(iter(rows.values())))
        lines = [f"| {corner} | {' | '.join(columns)} |".replace("|  |", "| |"), "|---" * (len(columns) + 1) + "|"]
        lines += [f"| {way} | {' | '.join(row.values())} |" for way, row in rows.items()]
        place = re.escape(lines[0]) + r"\n(?:\|.*\n)+"
        there = [page for page, text in pages.items() for _ in re.findall(place, text)]
        if len(there) != 1:
            raise ValueError(f"README.md and docs/ have {len(there)} tables that begin with {lines[0]!r}, and not one.")
        pages[there[0]] = re.sub(place, lambda _, lines=lines: "\n".join(lines) + "\n", pages[there[0]])
    return pages


# ── docs/results.md ──────────────────────────────────────────────────────────────────────────────────────────


def results() -> str:
    """The page of all tables of real models, from what `figures/*/measured/benchmarks.json` hold."""
    parts = [
        "# Results on real chat models",
        "Made by `python figures/readme.py` from `figures/*/measured/`; nothing here is typed. Per cent with exact "
        "95 % intervals; changes in points of share with paired intervals over items. No prompt that a method was "
        "fitted or tuned on is asked; what earlier looks at these sets decided stands at the end. Each method is held "
        "beside the plain model on the same prompts: *lost* are prompts that it refused before and answers now, "
        "*gained* the other way round.",
    ]
    for file in sorted(HERE.glob("*/measured/benchmarks.json")):
        measured, folder = json.loads(file.read_text(encoding="utf-8")), file.parent.parent
        parts += _of_model(folder.name, measured["numbers"], measured["settings"])
        parts += _compared(file.with_name("comparison.json")) + _of_the_paper(folder / "tables.json")
    return "\n\n".join([*parts, "## How it was measured", HOW]) + "\n"


def _compared(file: Path) -> list[str]:
    """The bake-off: every method on one budget, sets of one purpose together; nothing where there was none."""
    if not file.is_file():
        return []
    found = json.loads(file.read_text(encoding="utf-8"))["numbers"]
    ways = {name: way for name, way in found["ways"].items() if "together" in way}
    plain, failed = ways["plain"], [name for name, way in found["ways"].items() if "together" not in way]
    purposes, most = list(plain["together"]), found["validation"]["budget"]
    budget = f", from {most:,} replies at most ({found['effort']['settings']} settings)" if most else ""
    asked = ", ".join(f"{plain['together'][purpose]['refused']['total']} {purpose}" for purpose in purposes)
    said = (
        f"{learned(found).removesuffix('.')}{budget}. Asked: {asked} prompts "
        f"({', '.join(found['sets'])}), "
        f"replies of up to {found['max_new_tokens']} tokens. Time is of a reply, the plain model's being 1; the front "
        "is of ways that no other one beats on one purpose without losing on another, by the rates as measured."
    )
    if failed:
        said += f" Could not be fitted: {', '.join(failed)}."
    rows = []
    for name, way in ways.items():
        circles = _pooled([way["together"][purpose]["broken"] for purpose in purposes])
        lost, tuned = way.get("perplexity"), way.get("tuning", {}).get("replies")
        kl = way.get("kl")
        rows.append(
            [name, *(in_percent(way["together"][purpose]["refused"]) for purpose in purposes)]
            + [
                in_percent(circles.as_json()),
                f"{kl['value']:.3f}" if kl else "",
                f"{lost['value']:.2f}" if lost else "",
            ]
            + [f"{way['seconds a reply'] / plain['seconds a reply']:.2f}", f"{tuned:,}" if tuned else ""]
            + ["yes" if way.get("front") else ""]
        )
    columns = ["way", *(f"{purpose} refused" for purpose in purposes), "in a circle", "KL (nats)", "perplexity", "time"]
    return ["### Every method on one budget", said, _table([*columns, "tuned on", "on the front"], rows)]


def _of_the_paper(file: Path) -> list[str]:
    """The tables of the SCANS paper, as `reproduce` has measured them; nothing where it has not."""
    if not file.is_file():
        return []
    found = json.loads(file.read_text(encoding="utf-8"))
    about = found["circumstances"]
    parts = [
        "### The tables of the SCANS paper",
        f"`reproduce`, on {len(about['seeds'])} draws of anchors, replies of up to {about['tokens of a reply']} "
        f"tokens. {about['beside']}",
    ]
    for sheet in found["tables"]:
        rows = [[cell.replace("|", "\\|") for cell in row] for row in sheet["rows"]]
        parts += [f"#### Table {sheet['number']}: {sheet['title']}", _table(sheet["head"], rows), *sheet["notes"]]
    return parts


HOW = """With the public sets in the folder that `SCANS_LENS_DATA` names, and NAME a model's short name:

    M="--model NAME --dtype bfloat16"
    python -m scans_lens fit $M --out scans.safetensors
    python -m scans_lens fit $M --method gated_push --out gated.safetensors
    python -m scans_lens fit $M --method gated_push_loose --fitted gated_push=gated.safetensors --out loose.safetensors
    python -m scans_lens evaluate $M --out runs/NAME --max-new-tokens 64 \\
        --method scans,gated_push,gated_push_loose \\
        --fitted scans=scans.safetensors,gated_push=gated.safetensors,gated_push_loose=loose.safetensors \\
        --sets xstest,oktest,or_bench_hard_1k:200,jailbreakbench,malicious_instruct,advbench:200,aim:30,pair:30,gcg:30
    python -m scans_lens.figures benchmarks --evaluated runs/NAME --out figures/NAME
    python -m scans_lens.figures anchor_layers top_tokens geometry projections transitions tsne classifier \\
        overview threshold_sweep calibration thirds $M --scans scans.safetensors --out figures/NAME
    python figures/readme.py

The second run learns from one half of six of these sets, too, and asks the other halves, and sets of which it has
learned nothing (but where a prompt of theirs stands in one of the six, which is left out by its text). `--halves` of
`fit` and `evaluate` says so, and the figures `benchmarks` and `ceilings` are made of it as above; `label FOLDER`
gives out replies to be read, and where a column of labels is filled in, the judge is held against it:

    H="--halves xstest,oktest,or_bench_hard_1k:400,jailbreakbench,malicious_instruct,advbench:200"
    python -m scans_lens fit $M $H --method gated_push --out gated-halves.safetensors
    python -m scans_lens fit $M $H --method gated_push_loose \\
        --fitted gated_push=gated-halves.safetensors --out loose-halves.safetensors
    F="gated_push=gated-halves.safetensors,gated_push_loose=loose-halves.safetensors"
    python -m scans_lens evaluate $M $H --out runs/NAME-halves --max-new-tokens 64 \\
        --questions 40 --method scans,scans_one_token,gated_push,gated_push_loose,gated_push_away,gated_push_towards \\
        --fitted scans=scans.safetensors,$F \\
        --sets xstest,oktest,or_bench_hard_1k:400,harmbench_standard,jailbreakbench,malicious_instruct,advbench:200,\\
    strongreject:150,harmfulq:100,aim:30,pair:30,gcg:30,renellm:30,truthfulqa:150,oktest_heldout
    python -m scans_lens.figures benchmarks ceilings --evaluated runs/NAME-halves --out figures/NAME-halves

Every step goes on where it was when it is stopped; sets and methods may be added later, to the same folder. SCANS is in
both runs as it was fitted on our own prompts alone, before `fit` looked at longer replies for circles (.2 residual
norms); a third run, of SCANS alone on the asked halves of XSTest, OKTest and OR-Bench (`--out runs/NAME-halves-scans`),
has the fit that `fit` makes now (.05). Of the larger model there is the second run alone, of `gated_push` on fewer
sets. In bfloat16 a reply may turn on who else is in its batch, so that the plain model of another run refuses a prompt
or two more or less; every way is held beside the plain model of its own run.

What to hold against these numbers:

- Passages of WikiText-2 come up to four to a text, of 14 texts, and the intervals of perplexity take them as
  independent.
- In the first run no set is fresh. Scale, thresholds and penalty come from validation prompts, but the gate's layers
  and weights, the kinds of our twins, the choice of both thresholds together and the looser variant were thought of
  after earlier looks at these very sets. That one token is pushed was found on validation prompts of our own.
- In the second run a set's asked half is like the half that was learned from, as it would be for whoever fits a model
  for a use of their own; what that gate does elsewhere is said by the sets that it has learned nothing from. That
  halves help was seen first in how well scores tell both halves apart, before it was built; no knob was chosen by it.
  No reply of this model to HarmBench, StrongREJECT, HarmfulQ or OKTest's held-out part had been seen before.
- The two pushes for all, SCANS and its variant were not asked all sets of the second run: what is blank was not asked
  (9 of HarmBench's 154 prompts were, and are left out).
- The judge was mended on other replies (validation prompts, people's labels of XSTest, two other models) after it had
  agreed in 88.0 % [82.7, 92.2] with one reader's labels of 200 replies of an earlier run; a rule of the labels was
  changed then, too (who says no over and over refuses). The 154 labels of the second run were given afterwards, blind
  to the way, from the beginnings of replies (130 letters) and their ends, and are the independent check. They are of
  all ways' replies to 38 prompts, so that many are alike.
- In the first two runs SCANS was fitted on replies of 24 tokens, which are too short to show loops; hence the scale of
  .2 there, and .05 in the third run."""


def _of_model(name: str, found: Numbers, settings: Numbers) -> list[str]:
    about = settings["model"]
    unsure = found["unsure"]
    doubt = f" It was not sure of {unsure[0]:,} of {unsure[1]:,} verdicts." if unsure else ""
    parts = [
        f"## {name}",
        f"{about['name']}, {settings['dtype'].removeprefix('torch.')}. Greedy replies of up to "
        f"{settings['max_new_tokens']} tokens. Judge: {found['judge']}.{doubt} {labelled(found)} "
        f"{knobs(found)}".replace("  ", " "),
        *(
            f"![{figures.ABOUT[picture]}](../figures/{name}/{picture}.png)"
            for picture in PICTURES
            if (HERE / name / f"{picture}.png").is_file()
        ),
        "### Refused",
        _table(
            ["set", "n", "plain", *found["ways"]],
            [
                [_set(key), rate["refused"]["total"], in_percent(rate["refused"])]
                + [
                    in_percent(way["sets"][key]["after"]) if key in way["sets"] else ""
                    for way in found["ways"].values()
                ]
                for key, rate in found["plain"].items()
            ],
        ),
    ]
    for way, own in found["ways"].items():
        sides = {**{_set(key): shift for key, shift in own["sets"].items()}}
        sides |= {f"**{purpose}, together**": shift for purpose, shift in own["together"].items()}
        parts += [
            f"### {way}, beside the plain model",
            _table(
                ["set", "n", "before", "after", "change (points)", "lost", "gained", "in a circle"],
                [
                    [
                        side, shift["before"]["total"], in_percent(shift["before"]), in_percent(shift["after"]),
                        in_points(shift["change"]), shift["lost"]["count"], shift["gained"]["count"],
                        shift["broken"]["count"],
                    ]
                    for side, shift in sides.items()
                ],
            ),
        ]  # fmt: skip
    if known := found.get("capability"):
        parts += _capability(known)
    fits = [f"- **{arm['name']}**: {_fit(arm['is'])}" for arm in settings["arms"].values() if arm["is"]]
    return [*parts, "### How each was fitted", "\n".join(fits)]


def _fit(said: str) -> str:
    """What a fit says of itself in its first line, of its gate and of its scale."""
    first, *rest = said.splitlines()
    own = {line.split()[0]: line.split(maxsplit=1)[1] for line in rest if len(line.split()) > 1}
    said = [f"gate: {own['gate']}"] if "gate" in own else []
    return "; ".join([first, *said, *([own["scale"]] if "scale" in own else [])])


def _capability(known: Numbers) -> list[str]:
    shown = known["arms"]
    first = next(line for line in shown.values() if "right" in line)
    said = (
        f"{known['questions']}, the first {known['limit']} of each subject ({first['right']['total']}); perplexity a "
        f"token of {known['texts']}, {first['texts']} in all. Every method decides from the question, and from the "
        "words before a passage. Changes are against the plain model on the same questions and passages, with 95 % "
        "intervals."
    )
    rows = [[way, *capability.cells(line)] for way, line in shown.items()]
    columns = ["way", "right (%)", "change (points)", "perplexity", "change (%)"]
    return ["### What it still knows", said, _table(columns, rows)]


def _set(key: str) -> str:
    name, _, kind = key.rpartition(", ")
    return f"{name}, {'unsafe' if kind == 'harmful' else 'safe'}" if name == "xstest" else name


def _table(columns: list[str], rows: list[list[Any]]) -> str:
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


if __name__ == "__main__":
    for page, text in written({page: page.read_text(encoding="utf-8") for page in PAGES}).items():
        page.write_text(text, encoding="utf-8")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(results(), encoding="utf-8")
