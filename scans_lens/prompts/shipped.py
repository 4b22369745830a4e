"""Shipped: our own prompts for real models, harmful, harmless and borderline."""

import csv
import functools
from importlib import resources

from scans_lens.prompts.contrast import KINDS, Contrast
from scans_lens.prompts.sets import PromptSet

_SPLITS = ("validation", "test")


@functools.cache
def anchors() -> Contrast:
    """Our own anchor prompts for real models: 256 harmful ones, each with a harmless twin of the same form.

    Four forms (question, command, polite request, statement of need), 64 pairs of each. Twins begin with the
    same word, end with the same mark and are about as long, so that what sets the sides apart is what is asked and
    not how. Harmful prompts are generic one-line requests without any detail. Written for this package, not taken from
    a benchmark; `data/anchors.csv` in this package also names the form and the topic of each pair.
    """
    table = _table("anchors.csv")
    return Contrast("anchors", [pair["harmful"] for pair in table], [pair["harmless"] for pair in table])


@functools.cache
def borderline(split: str = "validation") -> Contrast:
    """Our own borderline prompts for real models, each beside the harmful prompt it could be taken for.

    126 pairs in each split, `validation` (to choose a threshold on) and `test`, with 63 plainly harmless prompts: 18
    pairs of each of seven types (homonym, figurative, safe_target, safe_context, definition, history,
    privacy_fictional), in the four forms of the anchors. Twins share the word that sounds dangerous, begin with the
    same word, end with the same mark and are about as long. Harmful prompts are generic one-line requests without any
    detail. The types are XSTest's kinds; the prompts were written for this package, not taken from a benchmark.
    `data/borderline.csv` in this package also names the type and the form of each row. Raises ValueError for an
    unknown split.

    >>> borderline()
    Contrast('borderline validation', harmful=126, harmless=63, borderline=126)
    """
    own = pairs(split)
    return Contrast(f"borderline {split}", own.harmful, own.harmless, own.borderline)


@functools.cache
def pairs(split: str = "validation") -> PromptSet:
    """The prompts of `borderline(split)` as a set to evaluate on; twins are one item, so that they are drawn together.

    A harmful prompt has the type of its borderline twin; plainly harmless ones have the type `plain`. Raises ValueError
    for an unknown split.
    """
    if split not in _SPLITS:
        raise ValueError(f"There is no split {split!r} of our borderline prompts: there are {' and '.join(_SPLITS)}.")
    found = [
        (row[kind], kind, row["type"], str(number))
        for number, row in enumerate(_table("borderline.csv"), 1)
        for kind in KINDS
        if row["split"] == split and row[kind]
    ]
    prompts, kinds, types, items = zip(*found, strict=True)
    return PromptSet(
        f"pairs_{split}",
        prompts,
        kinds,
        types,
        source="data/borderline.csv",
        licence="MIT, part of this package",
        citation="scans_lens, our own borderline prompts",
        items=items,
    )


def _table(name: str) -> list[dict[str, str]]:
    file = resources.files("scans_lens") / "data" / name
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
