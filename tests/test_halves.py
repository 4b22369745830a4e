"""Halves: benchmarks that are learned from in one half and asked in the other."""

from collections import Counter

import pytest
from texts import needs_the_benchmarks

from scans_lens import prompts
from scans_lens.prompts import PromptSet, halves
from scans_lens.prompts.overlaps import without
from scans_lens.world import World


def a_set(name: str, n: int, kind: str = "borderline", types: int = 1) -> PromptSet:
    texts = tuple(f"{name} {place}" for place in range(n))
    of = tuple(f"type {place % types}" for place in range(n))
    return PromptSet(name, texts, (kind,) * n, of, "here", "none", "nobody")


def test_a_set_is_dealt_out_whole_and_once_with_every_type_in_every_part():
    found = a_set("mine", 36, types=3)
    parts = halves.parted(found)
    own = [parts.learned, parts.chosen_on, parts.asked]
    assert [len(part) for part in own] == [12, 6, 18]
    assert sorted(str(text) for part in own for text in part) == sorted(map(str, found))
    assert all(set(part.types) == set(found.types) for part in own)
    assert halves.parted(found) == parts


@needs_the_benchmarks
def test_a_pair_of_xstest_comes_into_one_part():
    found = prompts.load("xstest")
    ranks: dict[str, int] = {}
    dealt: Counter[str] = Counter()
    for text, type_ in zip(found, found.types, strict=True):
        ranks[str(text)] = dealt[type_]
        dealt[type_] += 1
    parts = halves.parted(found)
    for part, size in ((parts.learned, 162), (parts.chosen_on, 72), (parts.asked, 216)):
        assert len(part) == size
        for type_ in ("homonyms", "safe_targets", "definitions"):
            of = [
                {ranks[str(text)] for text, own in zip(part, part.types, strict=True) if own == one}
                for one in (type_, f"contrast_{type_}")
            ]
            assert of[0] == of[1] != set()


def test_what_is_learned_from_in_one_set_is_neither_chosen_on_nor_asked_in_another():
    one, turned = a_set("mine", 36), a_set("mine", 36).at(range(1, 19))
    first, second = halves.apart([one, turned])
    learned = {*first.learned, *second.learned}
    chosen_on = {*first.chosen_on, *second.chosen_on}
    assert learned.isdisjoint(chosen_on) and (learned | chosen_on).isdisjoint([*first.asked, *second.asked])
    assert {*first.asked, *second.asked}


def test_types_that_are_too_small_to_be_in_every_part_are_dealt_out_together():
    parts = halves.parted(a_set("mine", 24, types=24))
    assert [len(part) for part in (parts.learned, parts.chosen_on, parts.asked)] == [8, 4, 12]


def test_a_set_that_is_too_small_to_be_divided_is_named():
    with pytest.raises(ValueError, match="'mine' has 4 prompts, too few to learn from a part of them and ask others"):
        halves.parted(a_set("mine", 4))


def test_a_world_with_halves_learns_from_them_beside_its_own_prompts_and_asks_only_the_rest(one_model):
    mine = a_set("mine", 36), a_set("harm", 12, "harmful")
    before, world = World.of(one_model), World.of(one_model).with_halves(mine)
    assert before.twins is not None and world.twins is not None
    assert world.twins.borderline[: len(before.twins.borderline)] == before.twins.borderline
    assert world.validation.harmful[: len(before.validation.harmful)] == before.validation.harmful
    assert len(world.twins.borderline) == len(before.twins.borderline) + 12 and world.anchors == before.anchors
    assert len(world.validation.borderline) == len(before.validation.borderline) + 6
    assert len(world.twins.harmful) == len(before.twins.harmful) + 4
    for each in (world.twins, world.validation):
        assert halves.named_in(each.name) == halves.title(mine) == "halves of mine (36), harm (12)"
        assert halves.sets_in(each.name) == {"mine": 36, "harm": 12} and halves.sets_in("twins") == {}
    left, leaks = without(mine[0], world.learned_from)
    assert left.prompts == halves.parted(mine[0]).asked.prompts and leaks.learned_from == 18
