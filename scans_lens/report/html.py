"""HTML: cells, tables and the words for a rate, a p-value and a way of asking, as the page has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from scans_lens.queries import Line
from scans_lens.rates import Clustered


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int) -> str:
    """The first `len(head) - numbers` columns are words; cells are HTML."""
    words = len(head) - numbers

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=number' if place >= words else ''}>{cell}</{tag}>" for place, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f"<div class=wide><table><thead><tr>{cells(head, 'th')}</tr></thead><tbody>{body}</tbody></table></div>"


def share(found: Clustered) -> str:
    low, high = (100 * edge for edge in found.interval)
    return f"{100 * found.value:.1f} % [{low:.1f}, {high:.1f}]"


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def way(line: Line) -> str:
    return f"{line.method} ({line.setting})" if line.setting else line.method


def asked(line: Line) -> str:
    """The set, and the kind where the set's name does not say it."""
    return line.set if line.set in (line.kind, "plain", "quiz", "jailbreak") else f"{line.set}, {line.kind}"
