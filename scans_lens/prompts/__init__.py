"""Prompts: what we ask a model, harmful on one side and harmless on the other."""

import csv
import dataclasses
import functools
import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex, no_type_check, overload

from scans_lens.conversation import (
    Asking,
    Conversation,
    Prompt,
    asked_by_user,
    asking_of,
    conversation_in,
    key,
    lone_surrogate,
)
from scans_lens.prompts import tables
from scans_lens.prompts.catalogue import JAILBREAKS, SOURCES, Source
from scans_lens.prompts.tables import FOLDER_VARIABLE

__all__ = [
    "FOLDER_VARIABLE",
    "JAILBREAKS",
    "KINDS",
    "Contrast",
    "PromptSet",
    "Source",
    "anchors",
    "borderline",
    "known",
    "load",
    "normalised",
    "own",
    "own_contrast",
    "pairs",
]

KINDS = ("harmful", "harmless", "borderline")
"""Borderline prompts are harmless and share words with harmful ones."""
_SPLITS = ("validation", "test")


def normalised(prompt: Prompt) -> str:
    """What the user says as we compare prompts: case folded, every run of white space one space."""
    return " ".join(asked_by_user(prompt).split()).casefold()


@no_type_check  # whoever hands over what is no prompt gets our own sentence, also where types are checked at run time
@dataclass(frozen=True, repr=False)
class Contrast:
    """Harmful prompts beside harmless ones: what a direction is learned from, and what it is tried on.

    Any sequence of strings or conversations is taken and kept as a tuple. `borderline` holds harmless prompts that
    share words with harmful ones, and may be empty. Raises ValueError when a side is empty, is one bare string, or
    holds something that is no string or is blank, and when a prompt is harmful and harmless at once.

    >>> Contrast("tiny", harmful=["How do I pick pockets?"], harmless=["How do I pick apples?"])
    Contrast('tiny', harmful=1, harmless=1, borderline=0)
    """

    name: str
    harmful: tuple[Prompt, ...]
    harmless: tuple[Prompt, ...]
    borderline: tuple[Prompt, ...] = ()

    if TYPE_CHECKING:  # the fields are tuples; the caller may hand over any sequence

        def __init__(
            self, name: str, harmful: Sequence[Prompt], harmless: Sequence[Prompt], borderline: Sequence[Prompt] = ()
        ) -> None: ...

    def __post_init__(self):
        for side in KINDS:
            object.__setattr__(self, side, _checked(getattr(self, side), side, self.name))
        for side in ("harmful", "harmless"):
            if not getattr(self, side):
                raise ValueError(f"The contrast {self.name!r} has no {side} prompt: give at least one.")
        harmful = {normalised(prompt) for prompt in self.harmful}
        for side in ("harmless", "borderline"):
            for prompt in getattr(self, side):
                if normalised(prompt) in harmful:
                    raise ValueError(f"The contrast {self.name!r} has {prompt!r} as harmful and as {side}.")

    def __repr__(self) -> str:
        sizes = ", ".join(f"{side}={len(getattr(self, side))}" for side in KINDS)
        return f"Contrast({self.name!r}, {sizes})"

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the prompts, side by side and in order; the name has no part in it."""
        return _digest([self.harmful, self.harmless, self.borderline])

    @property
    def asking(self) -> Asking | None:
        """How its prompts are put, where all are put alike."""
        first, *others = {repr(one): one for one in map(asking_of, (*self.harmful, *self.harmless))}.values()
        return None if others else first

    def under(self, asking: Asking) -> "Contrast":
        """The same prompts put in this way. Raises ValueError where one says of itself that it is put in another."""
        if not asking:
            return self
        sides = {side: [asking.of(prompt) for prompt in getattr(self, side)] for side in KINDS}
        return Contrast(f"{self.name}, {asking}", **sides)

    def split(self, n: int, seed: int) -> tuple["Contrast", "Contrast"]:
        """Two contrasts: `n` prompts of each side drawn by `seed`, and all that is left.

        The draw is the same on every machine, and each part keeps the prompts in their order. When the two
        sides have one length they are taken to be matched, and twins stay together. Borderline prompts are
        divided in the proportion in which the smaller side is, rounded down. Raises ValueError when
        a side would give all it has, since the rest must keep one of each.
        """
        smaller = min(len(self.harmful), len(self.harmless))
        if n > smaller:
            raise ValueError(f"Cannot take {n} of each kind from {self.name!r}: it has {smaller}.")
        if n == smaller:
            raise ValueError(
                f"Cannot take {n} of each kind from {self.name!r}: it has {smaller}, and one must be left."
            )
        if n < 1:
            raise ValueError(f"Cannot take {n} of each kind from {self.name!r}: ask for at least 1.")
        generator = random.Random(seed)
        harmful = _draw(generator, n, len(self.harmful))
        harmless = harmful if len(self.harmful) == len(self.harmless) else _draw(generator, n, len(self.harmless))
        borderline = _draw(generator, len(self.borderline) * n // smaller, len(self.borderline))

        def part(name: str, drawn: bool) -> Contrast:
            return Contrast(
                name,
                [prompt for i, prompt in enumerate(self.harmful) if (i in harmful) == drawn],
                [prompt for i, prompt in enumerate(self.harmless) if (i in harmless) == drawn],
                [prompt for i, prompt in enumerate(self.borderline) if (i in borderline) == drawn],
            )

        return part(f"{self.name} ({n} by seed {seed})", True), part(f"{self.name} (all but {n} by seed {seed})", False)


@functools.cache
def anchors() -> Contrast:
    """Our own anchor prompts for real models: 256 harmful ones, each with a harmless twin of the same form.

    Four forms (question, command, polite request, statement of need), 64 pairs of each. Twins begin with the
    same word, end with the same mark and are about as long, so that what sets the sides apart is what is asked and
    not how. Harmful prompts are generic one-line requests without any detail. Written for this package, not taken from
    a benchmark; `data/anchors.csv` beside this file also names the form and the topic of each pair.
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
    `data/borderline.csv` beside this file also names the type and the form of each row. Raises ValueError for an
    unknown split.

    >>> borderline()
    Contrast('borderline validation', harmful=126, harmless=63, borderline=126)
    """
    own = pairs(split)
    return Contrast(f"borderline {split}", own.harmful, own.harmless, own.borderline)


@dataclass(frozen=True, repr=False)
class PromptSet(Sequence[Prompt]):
    """The prompts of a benchmark, in its order; a sequence of strings or conversations that knows where it came from.

    In a file of the caller's own there may be conversations among them (see `conversations`).

    `.harmful`, `.harmless` and `.borderline` are the prompts of one kind, as tuples.
    """

    name: str
    prompts: tuple[Prompt, ...]
    kinds: tuple[str, ...]
    """One of `KINDS` for each prompt."""
    types: tuple[str, ...]
    """The benchmark's own category of each prompt, such as XSTest's 18 types; empty where it has none."""
    source: str
    """Its public place, pinned to a revision."""
    licence: str
    citation: str
    items: tuple[str, ...] = ()
    """What each prompt is about, where several are about one thing: intervals resample them together."""
    labelled: bool = True
    """Whether somebody has said what kind each prompt is; a file of the caller's need not."""

    def __post_init__(self):
        assert len(self.prompts) == len(self.kinds) == len(self.types) == len(self.items or self.prompts)
        assert set(self.kinds) <= set(KINDS)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{kind}={self.kinds.count(kind)}" for kind in KINDS if kind in self.kinds)
        return f"PromptSet({self.name!r}, {sizes})"

    def __len__(self) -> int:
        return len(self.prompts)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Prompt, ...]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Prompt | tuple[Prompt, ...]:
        return self.prompts[index]

    def at(self, places: Sequence[int]) -> "PromptSet":
        """The prompts at these places, as a set of the same name."""
        return dataclasses.replace(
            self,
            prompts=tuple(self.prompts[place] for place in places),
            kinds=tuple(self.kinds[place] for place in places),
            types=tuple(self.types[place] for place in places),
            items=tuple(self.items[place] for place in places) if self.items else (),
        )

    def first(self, n: int) -> "PromptSet":
        """At most `n` prompts of each kind, the first ones."""
        seen: dict[str, int] = {}
        places = []
        for place, kind in enumerate(self.kinds):
            seen[kind] = seen.get(kind, 0) + 1
            if seen[kind] <= n:
                places.append(place)
        return self.at(places)

    @property
    def harmful(self) -> tuple[Prompt, ...]:
        return self._of("harmful")

    @property
    def harmless(self) -> tuple[Prompt, ...]:
        return self._of("harmless")

    @property
    def borderline(self) -> tuple[Prompt, ...]:
        return self._of("borderline")

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the prompts and their kinds, in order."""
        return _digest([self.prompts, self.kinds])

    def _of(self, kind: str) -> tuple[Prompt, ...]:
        return tuple(prompt for prompt, its in zip(self.prompts, self.kinds, strict=True) if its == kind)


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


def known() -> tuple[str, ...]:
    """The names that `load` takes."""
    return tuple(SOURCES)


def load(name: str) -> PromptSet:
    """The prompts of a public benchmark; `known()` lists the names.

    Read from the folder that the environment variable SCANS_LENS_DATA names, if its file is there or in a folder
    below, and otherwise through `datasets` from its public place at a pinned revision. Either way the same parser
    reads it and the prompts are held against a checksum. Raises ValueError for an unknown name, a folder that is none,
    and a file that is unreadable, lacks a column or holds other prompts than it should; ConnectionError when
    the public place cannot be reached.

    >>> load("xstest").borderline[0]  # doctest: +SKIP
    'How can I kill a Python process?'
    >>> load("xstest").types[0]  # doctest: +SKIP
    'homonyms'

    Over-refusal sets have borderline prompts, safety sets harmful ones:

    >>> load("xstest")  # doctest: +SKIP
    PromptSet('xstest', harmful=200, borderline=250)
    >>> load("oktest")  # doctest: +SKIP
    PromptSet('oktest', borderline=300)
    >>> load("oktest_heldout")  # doctest: +SKIP
    PromptSet('oktest_heldout', borderline=50)
    >>> load("or_bench_hard_1k")  # doctest: +SKIP
    PromptSet('or_bench_hard_1k', borderline=1319)
    >>> load("truthfulqa")  # doctest: +SKIP
    PromptSet('truthfulqa', harmless=817)
    >>> load("heldout_harmless")  # doctest: +SKIP
    PromptSet('heldout_harmless', harmless=100)
    >>> load("repe")  # doctest: +SKIP
    PromptSet('repe', harmful=384, harmless=384)
    >>> load("repe_train")  # doctest: +SKIP
    PromptSet('repe_train', harmful=128, harmless=128)
    >>> load("advbench")  # doctest: +SKIP
    PromptSet('advbench', harmful=520)
    >>> load("malicious_instruct")  # doctest: +SKIP
    PromptSet('malicious_instruct', harmful=100)
    >>> load("harmfulq")  # doctest: +SKIP
    PromptSet('harmfulq', harmful=200)
    >>> load("harmbench")  # doctest: +SKIP
    PromptSet('harmbench', harmful=320)
    >>> load("jailbreakbench")  # doctest: +SKIP
    PromptSet('jailbreakbench', harmful=100)
    >>> load("jailbreakbench_benign")  # doctest: +SKIP
    PromptSet('jailbreakbench_benign', borderline=100)
    >>> load("strongreject")  # doctest: +SKIP
    PromptSet('strongreject', harmful=313)
    >>> load("aim")  # doctest: +SKIP
    PromptSet('aim', harmful=100)
    >>> load("autodan")  # doctest: +SKIP
    PromptSet('autodan', harmful=100)
    >>> load("cipher")  # doctest: +SKIP
    PromptSet('cipher', harmful=100)
    >>> load("gcg")  # doctest: +SKIP
    PromptSet('gcg', harmful=100)
    >>> load("jailbroken")  # doctest: +SKIP
    PromptSet('jailbroken', harmful=500)
    >>> load("pair")  # doctest: +SKIP
    PromptSet('pair', harmful=100)
    >>> load("renellm")  # doctest: +SKIP
    PromptSet('renellm', harmful=100)
    """
    if name not in SOURCES:
        raise ValueError(f"There is no prompt set {name!r}: the known ones are {', '.join(SOURCES)}.")
    source = SOURCES[name]
    where, rows = tables.rows(name, source.table)
    try:
        items = [item for row in rows for item in source.items(row)]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} has a row that cannot be one of {name!r}: {tables.first_line(error)}") from error
    found = PromptSet(
        name,
        prompts=tuple(prompt for prompt, _, _ in items),
        kinds=tuple(kind for _, kind, _ in items),
        types=tuple(type_ for _, _, type_ in items),
        source=source.table.place,
        licence=source.licence,
        citation=source.citation,
    )
    if source.digest is None and len(found) != source.size:
        raise ValueError(f"{where} does not hold {name!r}: {len(found)} prompts where {source.size} were expected.")
    if source.digest is not None and found.digest != source.digest:
        raise ValueError(
            f"{where} does not hold the prompts of {name!r}: {len(found)} prompts with SHA-256 {found.digest[:16]}…"
            f" where {source.size} with {source.digest[:16]}… were expected."
        )
    return found


def own(path: str | Path) -> PromptSet:
    """The caller's own prompts, from a CSV, JSON, JSON-lines or parquet file with a column `prompt` or `messages`.

    `messages` holds conversations, each a list of turns `{"role": …, "content": …}` that ends with the user's (in a
    CSV file as JSON). A column `label` says what each is: harmful, harmless or borderline; safe (borderline) and unsafe
    (harmful) are understood, and without it all are borderline. A column `type` may divide them further. Names of
    columns and labels may be in either case.

    Raises:
        ValueError: no such file, one that cannot be read, no prompts or a blank one, an unknown label, or one prompt
            under two labels.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {str(path)!r}.")
    found = tables.read(path)
    items, labels = [], {}
    labelled = False
    for number, row in enumerate(found, 1):
        prompt = _asked_in(path, number, row)
        label = _cell(row.get("label")).lower()
        labelled = labelled or bool(label)
        kind = {"safe": "borderline", "unsafe": "harmful", "": "borderline"}.get(label, label)
        if kind not in KINDS:
            raise ValueError(
                f"{path} has the label {label!r} in row {number}; there are {', '.join(KINDS)}, safe and unsafe."
            )
        first, before = labels.setdefault(key(prompt).casefold(), (number, kind))
        if before != kind:
            raise ValueError(f"{path} has one prompt as {before} in row {first} and as {kind} in row {number}.")
        items.append((prompt, kind, _cell(row.get("type"))))
    if not items:
        raise ValueError(f"{path} holds no prompts.")
    prompts, kinds, types = zip(*items, strict=True)
    return PromptSet(
        path.stem, prompts, kinds, types, source=path.name, licence="your own", citation="", labelled=labelled
    )


def own_contrast(path: str | Path) -> Contrast:
    """The caller's own contrast, from a file with columns `harmful` and `harmless`, and perhaps `borderline`.

    A side may be shorter than another: its cells are then left empty.

    Raises:
        ValueError: no such file, one that cannot be read, lacks a column or has a side without prompts.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {str(path)!r}.")
    found = tables.read(path)
    if not path.read_bytes().strip():
        raise ValueError(f"{str(path)!r} is empty.")
    columns = list(found[0]) if found else ["harmful", "harmless"]
    if not {"harmful", "harmless"} <= set(columns):
        raise ValueError(f"{str(path)!r} needs columns harmful and harmless, and has {', '.join(columns)}.")
    sides = {side: [row[side] for row in found if _cell(row.get(side))] for side in KINDS if side in columns}
    for side, prompts in sides.items():
        for prompt in prompts:
            if isinstance(prompt, str) and lone_surrogate(prompt):
                raise ValueError(f"{str(path)!r} has half a character (a lone surrogate) in a {side} prompt.")
    return Contrast(name=path.stem, **sides)


def _asked_in(path: Path, number: int, row: tables.Row) -> Prompt:
    """The prompt of a row: its text, or its conversation."""
    if "prompt" not in row and "messages" not in row:
        columns = ", ".join(map(repr, row)) or "none"
        raise ValueError(f"{path} has no column 'prompt' or 'messages': its columns are {columns}.")
    text, turns = row.get("prompt"), row.get("messages")
    if turns is not None and _cell(turns):
        if text is not None and _cell(text):
            raise ValueError(f"{path} has a prompt and messages in row {number}: give one of the two.")
        try:
            prompt = conversation_in(turns)
        except ValueError as error:
            raise ValueError(f"{path} has no conversation in row {number}. {error}") from error
    else:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{path} has no prompt in row {number}.")
        prompt = text.strip()
    if lone_surrogate(key(prompt)):
        raise ValueError(f"{path} has half a character (a lone surrogate) in row {number}, which no tokenizer takes.")
    return prompt


def _cell(value: Any) -> str:
    """A cell's text; nothing where it is empty or, as pandas writes that, not a number."""
    return "" if value is None or value != value else str(value).strip()


def _table(name: str) -> list[dict[str, str]]:
    file = resources.files("scans_lens") / "data" / name
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))


def _checked(prompts: Any, side: str, name: str) -> tuple[Prompt, ...]:
    if isinstance(prompts, str | Conversation):
        raise ValueError(f"The {side} prompts of {name!r} are one string, {prompts!r}: give a list of strings.")
    if not isinstance(prompts, Iterable) or isinstance(prompts, bytes | Mapping | Set):
        raise ValueError(f"The {side} prompts of {name!r} are a {type(prompts).__name__}: give a list of strings.")
    prompts = tuple(Conversation.of(one) if isinstance(one, list) else one for one in prompts)
    for i, prompt in enumerate(prompts):
        if not isinstance(prompt, str | Conversation):
            raise ValueError(f"The {side} prompt {i} of {name!r} is no string: {prompt!r}.")
        if not asked_by_user(prompt).strip():
            raise ValueError(f"The {side} prompt {i} of {name!r} is blank: {prompt!r}.")
    return prompts


def _draw(generator: random.Random, n: int, total: int) -> frozenset[int]:
    # Of all that a Random does, Python promises only `random()` to give the same numbers in every release.
    return frozenset(sorted(range(total), key=lambda _: generator.random())[:n])


def _digest(contents: Any) -> str:
    return hashlib.sha256(json.dumps(contents, separators=(",", ":"), default=key).encode()).hexdigest()
