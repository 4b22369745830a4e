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
    return _set(f"pairs_{split}", "borderline.csv", split)


@functools.cache
def twins() -> PromptSet:
    """More of our own borderline prompts, each with its harmful twin: 428 pairs to learn from; twins are one item.

    They share no prompt with `anchors()` or `borderline()`, which leaves both splits of `borderline()` to choose
    and to test on.
    Twins share the word that sounds dangerous, begin with the same word and are about as long. Both end with the same
    mark, or neither with any: every third pair has none, and half of those are in lower case.
    Harmful prompts are generic requests without any detail. All were written for this package, not taken from a
    benchmark.

    20 pairs of each type, five in each of the four forms of the anchors: homonym, figurative, safe_target,
    safe_context, definition, history, nonsense (groups that no one can discriminate against), groups (questions about
    people), privacy_public, privacy_fictional, drugs, sex, health, self_harm, weapons, hacking and crime; 20 more are
    plain commands (imperative). 28 pairs are framed on both sides, as a story, role, game, film, lesson or research
    (seven of each form), and 40 are long, of 20 to 40 words (ten of each form). In all 102 questions, 122 commands, 102
    polite requests and 102 statements of need. `data/twins.csv` in this package also names the form of each pair.

    >>> twins()
    PromptSet('twins', harmful=428, borderline=428)
    """
    return _set("twins", "twins.csv")


def _set(name: str, file: str, split: str | None = None) -> PromptSet:
    found = [
        (row[kind], kind, row["type"], str(number))
        for number, row in enumerate(_table(file), 1)
        for kind in KINDS
        if row.get("split") == split and row.get(kind)
    ]
    prompts, kinds, types, items = zip(*found, strict=True)
    return PromptSet(
        name,
        prompts,
        kinds,
        types,
        source=f"data/{file}",
        licence="MIT, part of this package",
        citation="scans_lens, our own borderline prompts",
        items=items,
    )


def _table(name: str) -> list[dict[str, str]]:
    file = resources.files("scans_lens") / "data" / name
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
