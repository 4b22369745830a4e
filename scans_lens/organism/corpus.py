"""Corpus: every request that the bundled model can be asked, what kind it is, and who may see it.

An item is one thing to ask for (an act with its object, a fact); a prompt is an item in a frame. Splits
belong to items: `validation` and `test` hold objects, pairings and wrappers that alignment never saw, and
a fifth of the test items was not seen by the first stage of training either.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

from scans_lens.organism import acts, grammar, objects, quiz

Kind = Literal["plain", "borderline", "harmful", "jailbreak", "quiz"]
Split = Literal["train", "validation", "test"]

KINDS: tuple[Kind, ...] = get_args(Kind)
SPLITS: tuple[Split, ...] = get_args(Split)
PROMPTS_A_SPLIT = 1200
"""The most prompts that `prompts` gives for one kind and split."""
WORDINGS = 8
"""The most prompts that one item is asked in; every item is asked once before any is asked again."""


@dataclass(frozen=True)
class Item:
    """One thing to ask for."""

    kind: Kind
    type: str
    """The kind of safe prompt for borderline items, the trigger verb for harmful ones, the domain for plain ones."""
    act: str
    object: str
    phrase: str
    """What is asked for, as it follows "how to": `kill a Python process`."""
    domain: str
    """The object class whose steps an answer gives."""
    split: Split
    first_stage: bool
    """Whether the first stage of training may see it."""
    wrapper: str = ""
    """The text around a jailbreak, with one place for the phrase."""


def _share(*words: str) -> float:
    """A number in [0, 1) that depends on nothing but the words, the same on every machine."""
    return int.from_bytes(hashlib.sha256("|".join(words).encode()).digest()[:6], "big") / 2**48


@cache
def _places() -> dict[str, float]:
    """Where every object stands, in [0, 1), among those of its class, in an order that no seed decides.

    So the same share of every class is held out, and of persons with a name as of persons without.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, nouns in (*objects.OBJECTS.items(), ("ruler", objects.RULERS)):
        for noun in nouns:
            words = noun.split()
            form = (words[0] if len(words) > 1 else "a name", str(len(words))) if name == "person" else ()
            groups.setdefault((name, *form), []).append(noun)
    found: dict[str, float] = {}
    for nouns in groups.values():
        for place, noun in enumerate(sorted(nouns, key=lambda noun: _share("object", noun))):
            found.setdefault(noun, (place + 0.5) / len(nouns))
    return found


def _split(act: str, noun: str, object: str = "") -> tuple[Split, bool]:
    """Nouns are held out whole, 14 % for each of validation and test; of the others 8 % of the pairings each.

    `object` is the pairing's other half where it is more than the noun: my boss in a video game, say.
    """
    place = _places().get(noun, _share("object", noun))
    by_pair = _share("pair", act, object or noun)
    if place < 0.14 or (place >= 0.28 and by_pair < 0.08):
        return "validation", True
    if place < 0.28 or by_pair < 0.16:
        return "test", _share("stage", act, object or noun) >= 0.2
    return "train", True


def _item(kind: Kind, type: str, act: str, noun: str, phrase: str, domain: str, object: str = "") -> Item:
    split, first_stage = _split(act, noun, object)
    return Item(kind, type, act, object or noun, phrase, domain, split, first_stage)


def _harmed(verb: str) -> list[str]:
    """What a verb harms: every second person, the others for the next verb, and all of the other classes."""
    turn = list(acts.HARMFUL).index(verb) % 2
    found = []
    for name in acts.HARMFUL[verb]:
        nouns = objects.OBJECTS[name]
        found += nouns[turn::2] if name == "person" else nouns
    return found


def _harmful() -> Iterator[Item]:
    for verb in acts.HARMFUL:
        for noun in _harmed(verb):
            yield _item("harmful", verb, verb, noun, f"{verb} {noun}", "harm")


def _plain() -> Iterator[Item]:
    for turn, (verb, classes) in enumerate(acts.PLAIN.items()):
        for domain in classes:
            nouns = objects.OBJECTS[domain]
            for noun in nouns:
                yield _item("plain", domain, verb, noun, f"{verb} {noun}", domain)
            for noun in nouns[turn % 6 :: 6]:  # a game says what is asked for in plain requests, too
                yield _in_game("plain", "game", verb, noun)


def _in_game(kind: Kind, type: str, verb: str, noun: str) -> Item:
    game = acts.GAMES[int(_share("game", verb, noun) * len(acts.GAMES))]
    phrase = acts.IN_GAME.format(verb=verb, object=noun, game=game)
    return _item(kind, type, verb, noun, phrase, "game", f"{noun} in {game}")


def _borderline() -> Iterator[Item]:
    for verb, doubles in acts.DOUBLES.items():
        for type, domain in doubles:
            for noun in objects.OBJECTS[domain]:
                yield _item("borderline", type, verb, noun, f"{verb} {noun}", domain)
    people = objects.OBJECTS["person"]
    for turn, verb in enumerate(acts.HARMFUL):
        for noun in _harmed(verb)[turn % 3 :: 3]:
            yield _in_game("borderline", "safe_context", verb, noun)
        for person in people[turn % 6 :: 6]:
            pattern = acts.DEFINITIONS[int(_share("definition", verb, person) * len(acts.DEFINITIONS))]
            phrase = pattern.format(verb=verb, person=person)
            yield _item("borderline", "definition", verb, person, phrase, "word", f"{person} (word)")
    for verb, noun in acts.NOUN_OF.items():
        for ruler in objects.RULERS:
            pattern = acts.HISTORY[int(_share("history", verb, ruler) * len(acts.HISTORY))]
            century = acts.CENTURIES[int(_share("century", verb, ruler) * len(acts.CENTURIES))]
            phrase = pattern.format(noun=noun, ruler=ruler, century=century)
            yield _item("borderline", "history", verb, ruler, phrase, "history")


def _jailbreak() -> Iterator[Item]:
    for item in items("harmful"):
        wrappers = [pattern for split, pattern in grammar.WRAPPERS if split == item.split]
        wrapper = wrappers[int(_share("wrapper", item.phrase) * len(wrappers))]
        yield Item(
            "jailbreak", item.type, item.act, item.object, item.phrase, "harm", item.split, item.first_stage, wrapper
        )


def _quiz() -> Iterator[Item]:
    asked = set()
    for type, act, answer, choices, pattern in _questions():
        question = pattern.format(f"{choices[0]}, {choices[1]} or {choices[2]}")
        if question not in asked:
            asked.add(question)
            yield _item("quiz", type, act, question, question, answer)


def _questions() -> Iterator[tuple[str, str, str, list[str], str]]:
    """(type, act, answer, choices, pattern) of many questions, some of them alike."""
    everything = [(category, word) for category, words in quiz.CATEGORIES.items() for word in words]
    for category, word in everything:
        others = [other for kind, other in everything if kind != category]
        for draw in range(16):
            rng = random.Random(f"quiz {category} {word} {draw}")
            choices = [word, *rng.sample(others, 2)]
            rng.shuffle(choices)
            yield "category", category, word, choices, f"is {category}: {{}}"
    for pair in quiz.OPPOSITES:
        for asked, answer in (pair, pair[::-1]):
            words = [word for other in quiz.OPPOSITES for word in other if word not in pair]
            for draw in range(10):
                rng = random.Random(f"quiz {asked} {draw}")
                choices = [answer, *rng.sample(words, 2)]
                rng.shuffle(choices)
                yield "opposite", asked, answer, choices, f"is the opposite of {asked}: {{}}"


_MAKERS = {"plain": _plain, "borderline": _borderline, "harmful": _harmful, "jailbreak": _jailbreak, "quiz": _quiz}


@cache
def items(kind: Kind) -> tuple[Item, ...]:
    """Every item of a kind, in the grammar's order."""
    return tuple(_MAKERS[kind]())


def ask(item: Item, rng: random.Random) -> str:
    """The item as somebody might put it: in a frame or wrapper, perhaps with company, a greeting or a clause."""
    if item.kind == "quiz":
        text = rng.choice(quiz.FRAMES).format(item.phrase)
    else:
        if rng.random() < grammar.ACCOMPANIED:
            phrase = item.phrase + rng.choice(grammar.COMPANY).format(rng.choice(_company()))
        else:
            phrase = item.phrase + rng.choice(grammar.MODIFIERS)
        if item.wrapper:
            return rng.choice(grammar.OPENERS) + item.wrapper.format(phrase)
        text = rng.choice(grammar.FRAMES).format(phrase)
    if rng.random() >= grammar.MENTIONED:
        return rng.choice(grammar.OPENERS) + text
    other = rng.choice(_mentionable()[rng.choice(("harmful", "borderline", "plain"))])
    if rng.random() < 0.5:
        return rng.choice(grammar.MENTIONS_BEFORE).format(other) + text
    return text + rng.choice(grammar.MENTIONS_AFTER).format(other)


@cache
def _company() -> tuple[str, ...]:
    """Persons who may be there: those of training items."""
    return tuple(person for person in objects.OBJECTS["person"] if _split("", person)[0] == "train")


@cache
def _mentionable() -> dict[Kind, tuple[str, ...]]:
    """What a clause beside the request may mention: training items of three kinds."""
    kinds: tuple[Kind, ...] = ("harmful", "borderline", "plain")
    return {kind: tuple(item.phrase for item in items(kind) if item.split == "train") for kind in kinds}


@cache
def asked(kind: Kind, split: Split) -> tuple[tuple[Item, str], ...]:
    """Items of a kind and split with a prompt each, in a fixed shuffled order; items come again in other words."""
    if kind not in KINDS:
        raise ValueError(f"No prompt kind {kind!r}; the kinds are {', '.join(KINDS)}.")
    if split not in SPLITS:
        raise ValueError(f"No split {split!r}; the splits are {', '.join(SPLITS)}.")
    chosen = [item for item in items(kind) if item.split == split]
    random.Random(f"{kind} {split}").shuffle(chosen)
    chosen = evenly(chosen)
    found: dict[str, Item] = {}
    for turn in range(WORDINGS):
        for item in chosen:
            if len(found) < PROMPTS_A_SPLIT:
                found.setdefault(ask(item, random.Random(f"{kind} {split} {item.phrase} {turn}")), item)
    return tuple((item, text) for text, item in found.items())


def evenly(chosen: Sequence[Item]) -> list[Item]:
    """The items so ordered that every beginning of the list has the types in nearly equal number."""
    seen: dict[str, int] = {}
    rank = []
    for place, item in enumerate(chosen):
        seen[item.type] = seen.get(item.type, 0) + 1
        rank.append((seen[item.type], place, item))
    return [item for _, _, item in sorted(rank, key=lambda entry: entry[:2])]


def prompts(kind: Kind, split: Split) -> tuple[str, ...]:
    """The prompts of a kind and split, the same on every machine; first one for each item, then further ones.

    >>> prompts("borderline", "validation")[0].split()[0] != ""
    True
    """
    return tuple(text for _, text in asked(kind, split))
