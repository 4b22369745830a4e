"""Texts: running text that a model's perplexity is measured on, from the folder of local copies."""

from __future__ import annotations

import re
from collections.abc import Sequence

from scans_lens.prompts import tables

GIVEN, FORETOLD = 100, 200
"""Words of a passage that a method decides from, and words behind them that are foretold."""
PASSAGES = 4
"""Of each text, one behind the other."""


def wikitext() -> list[str]:
    """The test part of WikiText-2 (Merity et al. 2016), by article.

    Raises:
        ValueError: its file is not there.
    """
    file = tables.local(["wikitext2_test_tokenised.txt"])
    if file is None:
        raise ValueError(
            "Perplexity needs WikiText-2: put wikitext2_test_tokenised.txt into the folder that "
            f"{tables.FOLDER_VARIABLE} names."
        )
    articles: list[list[str]] = [[]]
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith(" = ") and not line.startswith(" = ="):
            articles.append([])
        articles[-1].append(line)
    return [text for article in articles if (text := "\n".join(article)).strip()]


def continued(
    texts: Sequence[str], given: int = GIVEN, foretold: int = FORETOLD, most: int = PASSAGES
) -> list[tuple[str, str]]:
    """The first words of each passage and the next ones, as contexts with their continuations.

    A text has its first few passages, as far as they are whole.
    """
    cut = re.compile(rf"\s*(?:\S+\s+){{{given - 1}}}\S+")
    then = re.compile(rf"(?:\s+\S+){{{foretold}}}")
    pairs = []
    for text in texts:
        end = 0
        for _ in range(most):
            if not ((first := cut.match(text, end)) and (rest := then.match(text, first.end()))):
                break
            pairs.append((first.group(), rest.group()))
            end = rest.end()
    return pairs
