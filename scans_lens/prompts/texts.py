"""Texts: running text that a model's perplexity is measured on, from the folder of local copies."""

from __future__ import annotations

from scans_lens.prompts import tables


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
