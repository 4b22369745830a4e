"""Prompt types: borderline prompts by type, and the harmful prompts that each type is the contrast of."""

from __future__ import annotations

from dataclasses import dataclass

from scans_lens import prompts
from scans_lens.conversation import words
from scans_lens.figures.study import Study
from scans_lens.organism import corpus


@dataclass(frozen=True)
class Typed:
    """A prompt with the types that it belongs to; those of one item are drawn together."""

    text: str
    item: str
    types: frozenset[str]


def typed(study: Study, split: corpus.Split = "test") -> dict[str, list[Typed]]:
    """Borderline prompts with their types, and harmful ones with those types that they are the contrast of.

    Of the bundled model a harmful prompt contrasts with every type that takes the same verbs; of any other model, with
    our own pairs, it is the twin of one borderline prompt.
    """
    sides: tuple[corpus.Kind, ...] = ("borderline", "harmful")
    most = study.effort.typed * max(map(len, study.test.values()))
    found: dict[str, list[Typed]] = {}
    if not study.bundled:
        whole = prompts.pairs(split)
        for text, kind, item, type_ in zip(whole.prompts, whole.kinds, whole.items, whole.types, strict=True):
            found.setdefault(kind, []).append(Typed(words(text), item, frozenset({type_})))
        return {side: found[side][:most] for side in sides}
    takes: dict[str, set[str]] = {}
    for item in corpus.items("borderline"):
        takes.setdefault(item.act, set()).add(item.type)
    for side in sides:
        for item, text in corpus.asked(side, split)[:most]:
            types = {item.type} if side == "borderline" else takes.get(item.act, set())
            found.setdefault(side, []).append(Typed(text, item.phrase, frozenset(types)))
    return found
