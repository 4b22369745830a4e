"""Readme: the tables of README.md, written again from the numbers in `measured/`.

`python figures/readme.py` after `python -m scans_lens.figures --again --compared FOLDER`; a test says when it is due.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE.parent / "README.md"

Numbers = Mapping[str, Any]


REAL = HERE.parent / "benchmarks" / "real.json"
"""What `python -m benchmarks real` has measured."""


def _read(name: str) -> Numbers:
    file = REAL if name.startswith("real") else HERE / "measured" / f"{name}.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    return found.get("numbers", found)


def _percent(rate: Numbers) -> str:
    return f"{100 * rate['value']:.1f} [{100 * rate['interval'][0]:.1f}, {100 * rate['interval'][1]:.1f}]"


def refusal_rates(found: Numbers) -> dict[str, Any]:
    """By way: who is refused, and what is answered well."""
    table = {}
    for way, rates in found["rates"].items():
        refused = {f"{kind} refused": rates[kind] for kind in ("harmful", "borderline", "plain", "jailbreak")}
        skill = found["skill"][way]
        table[way] = {**refused, "plain answered well": skill["plain"], "quiz right": skill["quiz"]}
    return {way: {what: _percent(rate) for what, rate in row.items()} for way, row in table.items()}


def switching(found: Numbers) -> dict[str, Any]:
    """By way: what is complied with."""
    kinds = ("harmful", "jailbreak", "plain", "borderline", "wrapped plain", "wrapped borderline")
    ways = ("plain model", "SafeSwitch", "head always on")
    return {way: {kind: _percent(found["ways"][way][kind]["complied"]) for kind in kinds} for way in ways}


def comparison(found: Numbers) -> dict[str, Any]:
    """By way: refusals, answers, and what it costs."""
    table = {}
    for way, own in found["ways"].items():
        kl, tuned = own.get("kl"), own.get("tuning", {}).get("replies")
        table[way] = {
            **{f"{kind} refused": _percent(own["refused"][kind]) for kind in ("borderline", "harmful", "jailbreak")},
            "plain answered well": _percent(own["right"]["plain"]),
            "quiz right": _percent(own["right"]["quiz"]),
            "KL (nats)": "{:.3f} [{:.3f}, {:.3f}]".format(kl["value"], *kl["interval"]) if kl else "",
            "tuned on": f"{tuned:,}" if tuned else "",
            "not beaten": "yes" if own.get("front") else "",
        }
    return table


def real_refused(found: Numbers) -> dict[str, Any]:
    """By way: who of XSTest is refused by a real model."""
    table: dict[str, Any] = {}
    for row in found["items"]["xstest"]["refused"]:
        low, high = (100 * end for end in row["interval"])
        kind = "unsafe" if row["kind"] == "harmful" else "safe"
        rate = f"{100 * row['count'] / row['total']:.1f} [{low:.1f}, {high:.1f}]"
        table.setdefault(row["way"], {})[f"{kind} refused, of {row['total']}"] = rate
    return table


def real_times(found: Numbers) -> dict[str, Any]:
    """By item: what it took, and what it may take."""
    return {
        f"`{name}`": {"what": own["what"], "measured": own["measured"], "may take": own.get("bound", "")}
        for name, own in found["items"].items()
    }


TABLES = {
    "real_refused": ("XSTest", real_refused),
    "real_times": ("command", real_times),
    "refusal_rates": ("", refusal_rates),
    "switching": ("complied with", switching),
    "comparison": ("", comparison),
}
"""Where the numbers lie, what the first column is called, and how the rows are made."""


def written(text: str) -> str:
    """The text with every table as it was measured.

    Raises:
        ValueError: a table is not there once.
    """
    for name, (corner, make) in TABLES.items():
        rows = make(_read(name))
        columns = list(next(iter(rows.values())))
        lines = [f"| {corner} | {' | '.join(columns)} |".replace("|  |", "| |"), "|---" * (len(columns) + 1) + "|"]
        lines += [f"| {way} | {' | '.join(row.values())} |" for way, row in rows.items()]
        place = re.escape(lines[0]) + r"\n(?:\|.*\n)+"
        if len(re.findall(place, text)) != 1:
            raise ValueError(f"README.md has no table that begins with {lines[0]!r}.")
        text = re.sub(place, lambda _, lines=lines: "\n".join(lines) + "\n", text)
    return text


if __name__ == "__main__":
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
