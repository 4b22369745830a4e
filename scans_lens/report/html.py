"""HTML: cells, tables and the words for a rate, a p-value and a way of asking, as the page has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from scans_lens.methods.catalogue import PLAIN
from scans_lens.queries import Line
from scans_lens.rates import Clustered

if TYPE_CHECKING:
    import pandas as pd


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int) -> str:
    """The first `len(head) - numbers` columns are words, short ones where numbers follow; cells are HTML."""
    words = len(head) - numbers
    names = [" class=name" if numbers else ""] * words + [" class=number"] * numbers

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}{name}>{cell}</{tag}>" for name, cell in zip(names, row, strict=True))

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f"<div class=wide><table><thead><tr>{cells(head, 'th')}</tr></thead><tbody>{body}</tbody></table></div>"


def share(found: Clustered) -> str:
    low, high = (100 * edge for edge in found.interval)
    return f"{100 * found.value:.1f} % [{low:.1f}, {high:.1f}]"


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def named(method: str, setting: str) -> str:
    """A way of answering; the plain model is called so, because a set of prompts may be called plain, too."""
    name = "plain model" if method == PLAIN else method
    return f"{name} ({setting})" if setting else name


def way(line: Line) -> str:
    return named(line.method, line.setting)


def ways(rows: pd.DataFrame) -> list[str]:
    """The way of every row of a run's table."""
    return [named(method, setting) for method, setting in zip(rows["method"], rows["setting"], strict=True)]


def listed(words: Sequence[str]) -> str:
    """Words as a sentence has them: a, b and c."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def asked(line: Line) -> str:
    """The set, and the kind where the set's name does not say it."""
    return line.set if line.set in (line.kind, "plain", "quiz", "jailbreak") else f"{line.set}, {line.kind}"
