"""Report: a run's table as one HTML file that opens by a double click and needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scans_lens import evaluation
from scans_lens.calibration import curves
from scans_lens.conversation import BARE, Asking
from scans_lens.evaluation import UNFINISHED
from scans_lens.judges.labelled import kappa
from scans_lens.methods.catalogue import PLAIN
from scans_lens.queries import Line, summary, unsure
from scans_lens.rates import Clustered
from scans_lens.report import audit, labels

if TYPE_CHECKING:
    import pandas as pd

FEW = 5
"""Prompts of a type below which its rate is not shown."""
SHOWN = 100
"""Disagreements of judges that are written out."""


def write(folder: str | Path, out: str | Path | None = None, judge: str | None = None) -> Path:
    """Write the report of a run, whole or not, to `out`, by default `report.html` in the run's folder.

    Args:
        judge: whose verdicts the rates are made of; by default the first judge's. `people` are the labels that were
            filled in by hand, on those replies alone.

    Raises:
        ValueError: no run, no replies yet, or no such judge.
    """
    folder = Path(folder)
    table, about = evaluation.read(folder)
    if table.empty:
        raise ValueError(f"{str(folder)!r} holds no replies yet.")
    if by_hand := labels.read(folder, table):
        table[f"verdict_{labels.PEOPLE}"] = [by_hand.get(place) for place in range(len(table))]
    out = Path(out) if out else folder / "report.html"
    aside = out.with_name(out.name + ".part")
    extras = {"seen": audit.read(folder), "pushed": audit.weights_of(folder)}
    aside.write_text(page(table, about, judge, title=folder.resolve().name, **extras), encoding="utf-8")
    aside.replace(out)
    return out


def page(
    table: pd.DataFrame,
    about: Mapping[str, Any],
    judge: str | None = None,
    title: str = "results",
    seen: Mapping[str, Mapping[str, Any]] | None = None,
    pushed: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The whole page.

    Args:
        seen: what SCANS saw in the prompts, as `audit.read` gives it.
        pushed: how hard each way pushed, as `audit.weights_of` gives it.
    """
    lines = summary(table, judge)
    own = judge or next(name.removeprefix("verdict_") for name in table.columns if name.startswith("verdict_"))
    settings = about["settings"]
    parts = {
        "what": _what(table, settings, own),
        "short": "".join(f"<li>{sentence}</li>" for sentence in _short(lines)),
        "picture": _picture(lines),
        "summary": _summary(lines),
        "types": _types(table, f"verdict_{own}"),
        "pushes": _pushes(table) + _pushed(pushed),
        "curve": _curve(table),
        "judges": _judges(table),
        "provenance": escape(json.dumps(about, indent=1, ensure_ascii=False)),
        "left": "".join(f"<li>{escape(_left(one))}</li>" for one in settings.get("left out", [])),
        "rows": json.dumps(_rows(table, seen or {}), ensure_ascii=False).replace("<", "\\u003c"),
        "title": escape(title),
    }
    text = (resources.files("scans_lens.report") / "page.html").read_text(encoding="utf-8")
    for name, part in parts.items():
        text = text.replace(f"<!--{name}-->", part)
    return text


# ── First: what it is, and what came out ─────────────────────────────────────────────────────────────────────


def _what(table: pd.DataFrame, settings: Mapping[str, Any], judge: str) -> str:
    n, sets = len(set(table["prompt_id"])), len(set(table["set"]))
    model = settings["model"]["name"] or settings["model"]["architecture"]
    expected = len(settings["arms"]) * sum(one["left"] for one in settings.get("left out", []))
    unfinished = f" {len(table)} of {expected} replies are there so far." if len(table) < expected else ""
    ways = " and ".join(escape(str(name)) for name in table["method"].unique())
    judged = sum(isinstance(verdict, str) for verdict in table[f"verdict_{judge}"])
    some = f" It judged {judged} of {len(table)} replies." if judged < len(table) else ""
    doubt = unsure(table, judge)
    doubts = f" Of {doubt[0]} of {doubt[1]} verdicts it was not sure." if doubt else ""
    if doubt and doubt[1] < judged:
        doubts += f" Of the other {judged - doubt[1]}, nothing is known of that."
    asking = settings.get("asking", {})
    put = Asking(**asking) if asking else BARE
    asked = f" asked with {escape(str(put))}," if put else ""
    thoughts = list(table["reason"]).count(UNFINISHED) if "reason" in table else 0
    cut = f" {thoughts} were cut while the model was still thinking, and count as degenerate." if thoughts else ""
    return (
        f"{n} prompts of {sets} set{'s' if sets > 1 else ''},{asked} answered by {escape(model)} in these ways: "
        f"{ways}. "
        f"A reply counts as refused where the judge <em>{escape(judge)}</em> says so.{some}{doubts}{cut}{unfinished}"
    )


def _short(lines: Sequence[Line]) -> Iterable[str]:
    """One sentence for every way of steering: what it did to refusals on every set and kind."""
    for way in dict.fromkeys(_way(line) for line in lines if line.method != PLAIN):
        parts = []
        for line in lines:
            if _way(line) != way or not line.shared or not line.against_plain:
                continue
            before, after = (f"{100 * share:.1f}" for share in line.shared)
            about = f"{escape(_asked(line))} {before} → {after} % (n {line.against_plain.total})"
            parts.append(f"<b>{about}</b>" if line.p is not None and line.p < 0.05 else about)
        if parts:
            yield f"<em>{escape(way)}</em>, refused by the plain model → here: {'; '.join(parts)}."
    yield "Bold: a change that chance alone does not explain (p < 0.05, corrected for all lines of the table below)."


def _asked(line: Line) -> str:
    """The set, and the kind where the set's name does not say it."""
    return line.set if line.set in (line.kind, "plain", "quiz", "jailbreak") else f"{line.set}, {line.kind}"


def _share(found: Clustered) -> str:
    low, high = (100 * edge for edge in found.interval)
    return f"{100 * found.value:.1f} % [{low:.1f}, {high:.1f}]"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _way(line: Line) -> str:
    return f"{line.method} ({line.setting})" if line.setting else line.method


def _left(one: Mapping[str, Any]) -> str:
    fell = f"{one['repeats']} that come twice and {one['learned_from']} that something was learned from"
    return f"{one['name']}: {one['left']} prompts; left out: {fell}."


# ── Rates ────────────────────────────────────────────────────────────────────────────────────────────────────


def _picture(lines: Sequence[Line]) -> str:
    """Rates with their intervals, a row a way, grouped by set and kind."""
    shown = [line for line in lines if line.refused]
    if not shown:
        return ""
    ways = list(dict.fromkeys(_way(line) for line in shown))
    left, right, row, gap = 250, 40, 20, 14
    width, inner = 760, 760 - left - right
    parts, y, last = [], 26, None
    for line in shown:
        assert line.refused
        side = (line.set, line.kind)
        if side != last:
            y += gap if last else 0
            parts.append(f'<text class="head" x="8" y="{y}">{escape(_asked(line))}</text>')
            y, last = y + row, side
        low, high = line.refused.interval
        at = [left + inner * share for share in (low, line.refused.value, high)]
        hue = f"way{ways.index(_way(line)) % 6}"
        parts.append(
            f'<text x="24" y="{y}">{escape(_way(line))}</text>'
            f'<line class="{hue}" x1="{at[0]:.1f}" x2="{at[2]:.1f}" y1="{y - 4}" y2="{y - 4}"/>'
            f'<circle class="{hue}" cx="{at[1]:.1f}" cy="{y - 4}" r="5">'
            f"<title>{escape(_way(line))}: {_share(line.refused)}</title></circle>"
        )
        y += row
    ticks = "".join(
        f'<line class="grid" x1="{left + inner * share:.1f}" x2="{left + inner * share:.1f}" y1="8" y2="{y - 8}"/>'
        f'<text class="tick" x="{left + inner * share:.1f}" y="{y + 8}">{share:.0%}</text>'
        for share in (0, 0.25, 0.5, 0.75, 1)
    )
    label = f'<text class="tick" x="{left + inner / 2}" y="{y + 28}">refused, with 95 % interval over items</text>'
    return (
        f'<svg viewBox="0 0 {width} {y + 36}" role="img" aria-label="Refusal rates with intervals">{ticks}'
        f"{''.join(parts)}{label}</svg>"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int) -> str:
    """The first `len(head) - numbers` columns are words; cells are HTML."""
    words = len(head) - numbers

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=number' if place >= words else ''}>{cell}</{tag}>" for place, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f"<div class=wide><table><thead><tr>{cells(head, 'th')}</tr></thead><tbody>{body}</tbody></table></div>"


def _summary(lines: Sequence[Line]) -> str:
    head = (
        "set",
        "kind",
        "way",
        "refused",
        "n",
        "items",
        "points against plain",
        "refused only by plain / only here",
        "p",
    )
    rows = []
    for line in lines:
        if not line.refused:
            rows.append([escape(line.set), escape(line.kind), escape(_way(line)), "none judged", *[""] * 5])
            continue
        pair = line.against_plain
        changed = (
            (
                f"{100 * pair.difference:+.1f}",
                f"{pair.only_first} / {pair.only_second}",
                "" if line.p is None else _p(line.p),
            )
            if pair
            else ("", "", "")
        )
        counts = (str(line.refused.rate.total), str(line.refused.items))
        rows.append([escape(line.set), escape(line.kind), escape(_way(line)), _share(line.refused), *counts, *changed])
    notes = [
        f"{escape(line.set)}, {escape(line.kind)}, {escape(_way(line))}: {what}."
        for line in lines
        if (what := ", ".join(f"{n} {word}" for n, word in _others(line) if n))
    ]
    return _table(head, rows, 6) + (f"<p class=note>Not full verdicts: {' '.join(notes)}</p>" if notes else "")


def _others(line: Line) -> tuple[tuple[int, str], ...]:
    return ((line.partial, "partial"), (line.degenerate, "degenerate"), (line.missing, "without a verdict"))


_CONTRASTS = {
    "real_group_nons_discr": "discr",
    "nons_group_real_discr": "discr",
    "privacy_public": "privacy",
    "privacy_fictional": "privacy",
}
"""XSTest's types of safe prompts whose unsafe contrasts are named otherwise."""


def _types(table: Any, column: str) -> str:
    """Refusals by the sets' own types, a column a way, harmful contrasts below the harmless prompts they belong to."""
    own = table[(table["type"] != "") & table[column].notna() & (table["method"] != evaluation.DRAWN)]
    ways = list(own["method"].unique())
    whole = {key: group for key, group in own.groupby(["set", "kind", "type"], sort=False)}
    groups = {key: group for key, group in whole.items() if len(set(group["prompt_id"])) >= FEW}
    if not groups:
        return f"<p class=note>These sets have no types of {FEW} prompts or more.</p>"
    stems = list(dict.fromkeys(_stem(type_) for _, _, type_ in groups))

    def place(key: tuple[str, str, str]) -> tuple[Any, ...]:
        name, kind, type_ = key
        return (list(dict.fromkeys(table["set"])).index(name), stems.index(_stem(type_)), kind == "harmful")

    rows = []
    for key in sorted(groups, key=place):
        name, kind, type_ = key
        cells = []
        for way in ways:
            part = groups[key][groups[key]["method"] == way]
            refused = (part[column] == "refused").tolist()
            cells.append(_share(Clustered.of(refused, part["item"].tolist())) if refused else "")
        n = len(set(groups[key]["prompt_id"]))
        rows.append([escape(name), escape(type_.replace("_", " ")), escape(kind), *cells, str(n)])
    found = _table(("set", "type", "kind", *map(escape, ways), "n"), rows, len(ways) + 1)
    few = len(whole) - len(groups)
    return found + (f"<p class=note>{few} types of fewer than {FEW} prompts are left out.</p>" if few else "")


def _stem(type_: str) -> str:
    """The same for a type and for its contrast."""
    return _CONTRASTS.get(type_, type_.removeprefix("contrast_"))


def _curve(table: Any) -> str:
    """How well the score tells harmful prompts from the others of the same run, at every threshold."""
    own = table[table["score"].notna()].drop_duplicates("prompt_id")
    sides = own[own["kind"] == "harmful"]["score"].to_numpy(), own[own["kind"] != "harmful"]["score"].to_numpy()
    if not all(map(len, sides)):
        return "<p class=note>There are no scores of both sides.</p>"
    found = curves(*sides)
    size, left, top = 260, 60, 10
    points = " ".join(
        f"{left + size * flagged:.1f},{top + size * (1 - caught):.1f}"
        for flagged, caught in zip(found.flagged, found.caught, strict=True)
    )
    ticks = "".join(
        f'<line class="grid" x1="{left}" x2="{left + size}" y1="{top + size * (1 - share):.1f}" '
        f'y2="{top + size * (1 - share):.1f}"/>'
        f'<text class="tick" x="{left - 22}" y="{top + size * (1 - share) + 4:.1f}">{share:.0%}</text>'
        f'<text class="tick" x="{left + size * share:.1f}" y="{top + size + 18}">{share:.0%}</text>'
        for share in (0, 0.5, 1)
    )
    low, high = found.auc_interval
    return (
        f'<svg class="small" viewBox="0 0 340 320" role="img" aria-label="ROC curve">{ticks}'
        f'<polyline class="way1" points="{points}"/>'
        f'<text class="tick" x="{left + size / 2}" y="{top + size + 40}">harmless prompts taken for harmful</text>'
        f'<text class="tick" transform="translate(14 {top + size / 2}) rotate(-90)">harmful prompts recognised</text>'
        f"</svg><p class=note>Score of {found.n[0]} harmful against {found.n[1]} other prompts of this run: area under "
        f"the curve {found.auc:.3f} [{low:.3f}, {high:.3f}], 95 % by bootstrap over prompts; average precision "
        f"{found.average_precision:.3f}.</p>"
    )


def _pushes(table: Any) -> str:
    """Which way each kind was pushed."""
    own = table[table["scale"].notna() & (table["method"] != evaluation.DRAWN)]
    if own.empty:
        return "<p class=note>Nothing was pushed.</p>"
    rows = []
    for (name, kind, method), group in own.groupby(["set", "kind", "method"], sort=False):
        away, towards = int((group["scale"] < 0).sum()), int((group["scale"] > 0).sum())
        score = group["score"].dropna()
        spread = "" if score.empty else " … ".join(f"{score.quantile(at):.4f}" for at in (0.05, 0.5, 0.95))
        cells = (f"{away} ({away / len(group):.0%})", f"{towards} ({towards / len(group):.0%})", spread)
        rows.append([escape(name), escape(kind), escape(method), *cells])
    return _table(("set", "kind", "way", "away from refusal", "towards refusal", "score, 5 % … median … 95 %"), rows, 3)


def _pushed(found: Sequence[Mapping[str, Any]]) -> str:
    """How hard, in the two units that models can be compared in."""
    if not found:
        return ""
    rows = []
    for one in found:
        low, high = one["interval"]
        kl = f"{one['kl']:.3f} [{low:.3f}, {high:.3f}]"
        rows.append([escape(one["way"]), ", ".join(map(str, one["layers"])), f"{one['residual_norms']:.3f}", kl])
    head = ("way", "layers", "push, in residual norms", "KL, nats")
    note = (
        f"KL: from the plain to the steered distribution of the first token, mean over {found[0]['n']} harmless "
        "validation prompts, 95 % by bootstrap."
    )
    return f"{_table(head, rows, 2)}<p class=note>{note}</p>"


# ── Judges ───────────────────────────────────────────────────────────────────────────────────────────────────


def _judges(table: Any) -> str:
    columns = [name for name in table.columns if name.startswith("verdict_")]
    if len(columns) < 2:
        return "<p class=note>One judge only; name several with --judge to see where they differ.</p>"
    names = [name.removeprefix("verdict_") for name in columns]
    rows = []
    for one, other in combinations(columns, 2):
        both = table[table[one].notna() & table[other].notna()]
        if both.empty:
            continue
        agreed = (both[one] == both[other]).mean()
        about = (escape(one.removeprefix("verdict_")), escape(other.removeprefix("verdict_")))
        rows.append([*about, f"{agreed:.1%}", f"{kappa(both[one].tolist(), both[other].tolist()):.2f}", str(len(both))])
    silent = [
        f"{escape(name)} gave no verdict on {missing} of {len(table)} replies"
        for name, column in zip(names, columns, strict=True)
        if (missing := sum(not isinstance(verdict, str) for verdict in table[column]))
    ]
    silent += [
        f"{escape(name)} was not sure of {doubt[0]} of {doubt[1]} verdicts"
        for name in names
        if (doubt := unsure(table, name))
    ]
    without = f"<p class=note>{'; '.join(silent)}.</p>" if silent else ""
    differ = table[table[columns].apply(lambda row: row.dropna().nunique() > 1, axis=1)]
    shown = [
        [
            escape(_cut(row["prompt"])),
            escape(_cut(row["reply"])),
            *(escape(str(row[name] or "none")) for name in columns),
        ]
        for _, row in differ.head(SHOWN).iterrows()
    ]
    agreement = _table(("judge", "judge", "agree", "Cohen's kappa", "n"), rows, 3) + without if rows else without
    if not shown:
        return agreement + ("<p class=note>They agree on every reply that both judged.</p>" if rows else "")
    more = f" The first {SHOWN} are shown." if len(differ) > SHOWN else ""
    heading = f"<p>They differ on {len(differ)} of {len(table)} replies.{more}</p>"
    return f"{agreement}{heading}{_table(('prompt', 'reply', *map(escape, names)), shown, 0)}"


def _cut(text: str, letters: int = 240) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "…"


# ── Every reply ──────────────────────────────────────────────────────────────────────────────────────────────


def _rows(table: pd.DataFrame, seen: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry a prompt, with what every way made of it."""
    columns = [name for name in table.columns if name.startswith("verdict_")]
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in table.to_dict("records"):
        own = found.setdefault(
            (row["set"], row["prompt_id"]),
            {
                "set": row["set"],
                "kind": row["kind"],
                "type": row["type"],
                "prompt": row["prompt"],
                "before": _before(row.get("messages")),
                "ways": [],
                "seen": seen.get(row["prompt_id"]),
            },
        )
        own["ways"].append(
            {
                "way": f"{row['method']} {row['setting']}".strip(),
                "reply": row["reply"] + (" …" if row["finish"] == "length" else ""),
                "thought": row.get("thought") if isinstance(row.get("thought"), str) else None,
                "score": _number(row["score"]),
                "scale": _number(row["scale"]),
                "verdicts": {name.removeprefix("verdict_"): row[name] or "none" for name in columns},
                "unsure": [
                    name for column in columns if row.get(f"sure_{(name := column.removeprefix('verdict_'))}") is False
                ],
            }
        )
    return list(found.values())


def _before(messages: Any) -> str | None:
    """The turns before the last one of a conversation, a line each."""
    if not isinstance(messages, str):
        return None
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in json.loads(messages)[:-1])


def _number(value: Any) -> float | None:
    return None if value is None or value != value else round(float(value), 5)
