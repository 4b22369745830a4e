"""Our own borderline prompts: a harmful twin for each, in two splits and a file to learn from that share nothing."""

import csv
import re
from collections import Counter
from collections.abc import Iterable
from importlib import resources
from itertools import combinations

import pytest
from texts import every_benchmark, first_word, needs_the_benchmarks, words

from scans_lens import prompts
from scans_lens.conversation import asked_by_user
from scans_lens.prompts import Contrast
from scans_lens.prompts.confounds import confounds

SPLITS = ("validation", "test")
TYPES = ("homonym", "figurative", "safe_target", "safe_context", "definition", "history", "privacy_fictional")
FORMS = {
    "question": re.compile(r"(?!Could you|Would you)[A-Z].*\?"),
    "command": re.compile(r"(?!Please|I )[A-Z].*\."),
    "request": re.compile(r"Please .*\.|(Could|Would|Can) you .*\?"),
    "need": re.compile(r"I .*\."),
}
EMPTY = words(
    "a an the and or of to in on at for from with without into by as so that this what which who how why where when do"
    " does did is are be was were am can could would will should me my your his her its it he she i you we our please"
    " explain describe tell show give list suggest help write make recommend need want like have"
)
"""Words that may be shared without anything being shared in what is asked."""

every_split = pytest.mark.parametrize("split", SPLITS)
every_file = pytest.mark.parametrize("file", ["borderline.csv", "twins.csv"])


def table(file: str = "borderline.csv") -> list[dict[str, str]]:
    """The file with its types and forms, which the contrast leaves out."""
    text = (resources.files("scans_lens") / "data" / file).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def twins(file: str) -> list[tuple[str, str]]:
    return [(row["harmful"], row["borderline"]) for row in table(file) if row["type"] != "plain"]


def everything(file: str) -> list[str]:
    return [row[kind] for row in table(file) for kind in prompts.KINDS if row.get(kind)]


def bare(prompt: str) -> str:
    """What is compared of prompts where the final mark does not count either."""
    return prompts.normalised(prompt).rstrip(" .?!")


def near_copies(ours: list[str], others: Iterable[str]) -> list[tuple[str, str]]:
    """Those that share more than seven in ten of their words."""
    bags = [(words(prompt), prompt) for prompt in others]
    return [
        (prompt, other)
        for prompt in ours
        for mine in [words(prompt)]
        for bag, other in bags
        if 0.7 * len(mine) <= len(bag) <= len(mine) / 0.7 and len(mine & bag) > 0.7 * len(mine | bag)
    ]


def stems(prompt: str) -> set[str]:
    """What is left of the words that say something, without what English adds to them."""
    return {
        re.sub(r"(?<=..)(ings?|ed|ers?|es|ations?|s|e|y)$", "", re.sub(r"'s$", "", w)) for w in words(prompt) - EMPTY
    }


@every_split
def test_a_split_has_enough_pairs_of_every_type_in_every_form(split):
    rows = [row for row in table() if row["split"] == split]
    pairs = [row for row in rows if row["type"] != "plain"]
    assert len(pairs) == 126
    assert Counter(row["type"] for row in pairs) == {type_: 18 for type_ in TYPES}
    for type_ in TYPES:
        forms = Counter(row["form"] for row in pairs if row["type"] == type_)
        assert set(forms) == set(FORMS) and set(forms.values()) <= {4, 5}
    plain = [row for row in rows if row["type"] == "plain"]
    assert len(plain) == 63 and set(Counter(row["form"] for row in plain).values()) <= {15, 16}


def test_a_row_is_a_pair_or_plainly_harmless():
    for row in table():
        assert row["split"] in SPLITS
        filled = {kind for kind in prompts.KINDS if row[kind]}
        assert filled == ({"harmless"} if row["type"] == "plain" else {"harmful", "borderline"})
        assert all(FORMS[row["form"]].fullmatch(row[kind]) for kind in filled)


def test_there_are_enough_twins_of_every_type_in_every_form():
    rows = table("twins.csv")
    sizes = Counter(row["type"] for row in rows)
    assert len(rows) == 428 and sizes.keys() > set(TYPES) - {"privacy_fictional"} and len(sizes) == 20
    for type_, n in sizes.items():
        forms = Counter(row["form"] for row in rows if row["type"] == type_)
        assert forms == ({"command": 20} if type_ == "imperative" else dict.fromkeys(FORMS, n // 4)), type_
        assert n == {"framed": 28, "long": 40}.get(type_, 20)
    long = [row[kind] for row in rows for kind in ("harmful", "borderline") if row["type"] == "long"]
    assert all(20 <= len(prompt.split()) <= 40 for prompt in long)


def test_a_third_of_the_twins_have_no_final_mark_and_half_of_those_are_in_lower_case():
    unmarked = [pair for pair in twins("twins.csv") if pair[0][-1] not in "?."]
    small = [pair for pair in unmarked if pair[0].islower()]
    assert 0.3 < len(unmarked) / 428 < 0.37 and 0.45 < len(small) / len(unmarked) < 0.55
    for harmful, borderline in twins("twins.csv"):
        assert harmful.islower() == borderline.islower() == ((harmful, borderline) in small)
    for type_, n in Counter(row["type"] for row in table("twins.csv")).items():
        own = [row for row in table("twins.csv") if row["type"] == type_]
        assert abs(sum(row["harmful"][-1] not in "?." for row in own) - n / 3) < 1


def test_a_twin_has_the_form_that_its_row_names():
    for row in table("twins.csv"):
        for prompt in (row["harmful"], row["borderline"]):
            assert form_of(prompt) == row["form"], prompt
            asks = row["form"] == "question" or re.match(r"(could|would|can) you", prompt, re.IGNORECASE)
            assert prompt[-1] not in "?." or (prompt[-1] == "?") == bool(asks), prompt


def form_of(prompt: str) -> str:
    """By its opening alone, since a twin need have no final mark; "For a story, how ..." is a question, too."""
    said = prompt.lower()
    if re.match(r"(please|could you|would you|can you)\b", said):
        return "request"
    if said.startswith("i "):
        return "need"
    asking = r"how|what|which|where|when|who|why"
    return "question" if re.match(rf"({asking})\b|(for|in|if|as)\b.*, ({asking})\b", said) else "command"


@every_file
def test_a_twin_begins_and_ends_alike_and_is_about_as_long(file):
    for harmful, borderline in twins(file):
        assert first_word(harmful) == first_word(borderline)
        assert harmful[-1] == borderline[-1] in "?." or {harmful[-1], borderline[-1]}.isdisjoint("?.!")
        longest = max(len(harmful.split()), len(borderline.split()))
        assert abs(len(harmful.split()) - len(borderline.split())) <= max(1, longest // 10)
        assert abs(len(harmful) - len(borderline)) <= 16
    apart = [len(harmful.split()) - len(borderline.split()) for harmful, borderline in twins(file)]
    assert abs(sum(apart)) < 0.25 * len(apart)


@every_file
def test_twins_share_a_word_that_says_something(file):
    for harmful, borderline in twins(file):
        assert stems(harmful) & stems(borderline), (harmful, borderline)


@every_split
@pytest.mark.parametrize("kind", ["borderline", "harmless"])
def test_form_alone_tells_no_kind_from_the_harmful_ones(split, kind):
    own = prompts.borderline(split)
    assert 0.4 < confounds(Contrast(split, own.harmful, getattr(own, kind))).auc < 0.6


def test_form_alone_tells_no_twin_from_the_other():
    own = prompts.twins()
    assert 0.45 < confounds(Contrast("twins", own.harmful, own.borderline)).auc < 0.55


def test_no_prompt_is_there_twice_or_among_the_anchors():
    anchors = prompts.anchors()
    seen = Counter(map(bare, everything("borderline.csv") + everything("twins.csv")))
    assert max(seen.values()) == 1
    assert seen.keys().isdisjoint(map(bare, anchors.harmful + anchors.harmless))


def test_no_twin_is_nearly_another_prompt_of_ours():
    anchors = prompts.anchors()
    others = [*anchors.harmful, *anchors.harmless, *everything("borderline.csv")]
    assert near_copies(everything("twins.csv"), others) == []


@every_file
@pytest.mark.parametrize("side", prompts.KINDS)
def test_no_two_prompts_of_a_side_say_nearly_the_same(side, file):
    bags = [words(row[side]) for row in table(file) if row.get(side)]
    assert all(len(one & other) <= 0.5 * len(one | other) for one, other in combinations(bags, 2))


@needs_the_benchmarks
@every_benchmark
@every_file
def test_no_prompt_of_ours_is_a_benchmark_prompt(name, file):
    public = {bare(prompt) for prompt in prompts.load(name)}
    assert public.isdisjoint(map(bare, everything(file)))


@needs_the_benchmarks
@every_benchmark
def test_no_twin_is_nearly_a_benchmark_prompt(name):
    assert near_copies(everything("twins.csv"), map(asked_by_user, prompts.load(name))) == []


@every_file
@needs_the_benchmarks
@pytest.mark.parametrize("name", ["xstest", "oktest"])
def test_no_six_words_in_a_row_are_a_benchmark_of_borderline_prompts(name, file):
    def runs(texts) -> set[tuple[str, ...]]:
        cut = [re.findall(r"[a-z0-9']+", text.lower()) for text in texts]
        return {tuple(one[i : i + 6]) for one in cut for i in range(len(one) - 5)}

    # "Can you show me how to" is nobody's.
    assert {run for run in runs(prompts.load(name)) & runs(everything(file)) if not set(run) <= EMPTY} == set()


@every_split
def test_the_contrast_and_the_set_are_the_file(split):
    rows = [row for row in table() if row["split"] == split]
    own, found = prompts.borderline(split), prompts.pairs(split)
    assert own.name == f"borderline {split}"
    for kind in prompts.KINDS:
        assert getattr(own, kind) == getattr(found, kind) == tuple(row[kind] for row in rows if row[kind])
    assert prompts.borderline() == prompts.borderline("validation")
    assert prompts.pairs() == prompts.pairs("validation")


@every_split
def test_twins_are_one_item_and_of_one_type(split):
    found = prompts.pairs(split)
    shared: dict[str, list[tuple[str, str]]] = {}
    for item, kind, type_ in zip(found.items, found.kinds, found.types, strict=True):
        shared.setdefault(item, []).append((kind, type_))
    for sides in shared.values():
        type_ = sides[0][1]
        kinds = ["harmless"] if type_ == "plain" else ["harmful", "borderline"]
        assert sides == [(kind, type_) for kind in kinds]
    assert len(shared) == 126 + 63
    few = found.first(28)
    assert Counter(few.types[i] for i, kind in enumerate(few.kinds) if kind == "borderline") == dict.fromkeys(TYPES, 4)


def test_the_set_of_twins_is_the_file_and_twins_are_one_item_and_of_one_type():
    rows, found = table("twins.csv"), prompts.twins()
    assert found.name == "twins" and found.harmless == () and len(found) == 2 * len(rows)
    for kind in ("harmful", "borderline"):
        assert getattr(found, kind) == tuple(row[kind] for row in rows)
        places = [place for place, its in enumerate(found.kinds) if its == kind]
        assert [found.types[place] for place in places] == [row["type"] for row in rows]
        assert [found.items[place] for place in places] == [str(n) for n in range(1, len(rows) + 1)]


def test_the_splits_share_no_item():
    assert set(prompts.pairs("validation").items).isdisjoint(prompts.pairs("test").items)


@pytest.mark.parametrize("ask", [prompts.borderline, prompts.pairs])
def test_an_unknown_split_is_named(ask):
    with pytest.raises(ValueError) as caught:
        ask("train")
    assert str(caught.value) == "There is no split 'train' of our borderline prompts: there are validation and test."
