"""Effort: laws of how much learning and choosing may take, and of how a fit remembers it."""

import csv
import dataclasses
from collections import Counter
from importlib import resources
from itertools import pairwise

import pytest
from learning import a_scans, contrast_of, others

from scans_lens import anchoring, effort, prompts
from scans_lens.effort import QUICK, STANDARD, Effort, spread
from scans_lens.methods.arms import Fitting
from scans_lens.methods.scans import SCANS
from scans_lens.prompts import Contrast
from scans_lens.world import World

pytestmark = pytest.mark.above
SIDES = ("harmful", "harmless", "borderline")


def rows(file: str) -> list[dict[str, str]]:
    text = (resources.files("scans_lens") / "data" / file).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


# ── How much is taken ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("n", [2, 3, 64, 100, 255])
def test_so_many_are_taken_evenly_and_in_their_order(n):
    taken = spread(range(256), n)
    gaps = {after - before for before, after in pairwise(taken)}
    assert len(taken) == n and gaps <= {256 // n, -(-256 // n)} and min(gaps) > 0
    assert taken[0] < 256 / n and taken[-1] >= 256 - 2 * 256 / n


def test_none_is_all_there_are_and_so_is_more_than_there_are():
    assert spread("abc", None) == spread("abc", 3) == spread("abc", 99) == tuple("abc")
    anchors = prompts.anchors()
    assert STANDARD.learned(anchors) is STANDARD.chosen_on(anchors) is Effort(anchors=256).learned(anchors) is anchors


@pytest.mark.parametrize("n", [4, 48, 64, 100])
def test_twins_stay_together_and_every_form_of_our_anchors_stays(n):
    table = rows("anchors.csv")
    form = {row["harmful"]: row["form"] for row in table}
    twin = {row["harmful"]: row["harmless"] for row in table}
    taken = Effort(anchors=n).learned(prompts.anchors())
    assert taken.harmless == tuple(twin[prompt] for prompt in taken.harmful)
    counts = Counter(form[prompt] for prompt in taken.harmful)
    assert len(counts) == 4 and max(counts.values()) - min(counts.values()) <= 1


def test_quick_validation_prompts_are_twins_of_every_type_and_form():
    table = [row for row in rows("borderline.csv") if row["split"] == "validation" and row["harmful"]]
    twin = {row["harmful"]: row for row in table}
    taken = QUICK.chosen_on(prompts.borderline("validation"))
    assert [len(getattr(taken, side)) for side in SIDES] == [48, 48, 48]
    assert taken.borderline == tuple(twin[prompt]["borderline"] for prompt in taken.harmful)
    for what in ("type", "form"):
        assert {twin[prompt][what] for prompt in taken.harmful} == {row[what] for row in table}


def test_a_side_that_has_no_more_is_taken_whole():
    contrast = Contrast("uneven", [f"h{place}" for place in range(9)], ["a", "b", "c"])
    taken = Effort(anchors=6).learned(contrast)
    assert taken.harmless == contrast.harmless and len(taken.harmful) == 6 and taken.borderline == ()


def test_what_was_taken_is_another_contrast_and_is_taken_once():
    whole = contrast_of()
    taken = Effort(anchors=4).learned(whole)
    assert taken.digest != whole.digest and "4 a side" in taken.name
    assert Effort(anchors=4).learned(taken) is taken


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"anchors": 1}, "at least 2 anchors, in whole numbers, not 1"),
        ({"validation": 0}, "at least 2 validation"),
        ({"pushed": 0}, "at least 1 pushed"),
        ({"tokens": 0}, "at least 1 tokens"),
        ({"scales": -3}, "at least 1 scales"),
        ({"rounds": -1}, "at least 0 rounds"),
        ({"resamples": 0}, "at least 1 resamples"),
        ({"anchors": 2.5}, "at least 2 anchors, in whole numbers, not 2.5"),
        ({"tokens": None}, "at least 1 tokens, in whole numbers, not None"),
        ({"pushed": "all"}, "at least 1 pushed, in whole numbers, not 'all'"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_a_number_that_is_none_is_one_sentence(wrong, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        Effort(**wrong)
    assert "\n" not in str(error.value)
    Effort(rounds=0, anchors=2, validation=2, pushed=1, tokens=1, scales=1, resamples=1)


def test_an_effort_has_a_name_or_there_is_one_sentence():
    assert effort.named("quick") is QUICK and effort.named("standard") is STANDARD
    with pytest.raises(ValueError, match="There is no effort 'nonsense': there are standard, quick, equal"):
        effort.named("nonsense")


# ── What a fit knows of it ───────────────────────────────────────────────────────────────────────────────────

SMALL = Effort(anchors=6, validation=5, pushed=4, tokens=3, scales=2, rounds=0, resamples=20)


@pytest.fixture(scope="module")
def small(one_model, briskly) -> SCANS:
    return a_scans(one_model, validation=others(), effort=SMALL)


def test_a_fit_takes_what_it_may_and_no_more(small):
    assert (small.directions.origin.n_harmful, small.directions.origin.n_harmless) == (6, 6)
    assert small.trials[0].harmful[1] == small.trials[0].harmless[1] == 5
    assert len({trial.scale for trial in small.trials}) == 1 + 2


def test_layers_are_looked_for_with_as_much_as_they_may_take(one_model, monkeypatch):
    pushed = []
    drops = anchoring.causal_drops
    monkeypatch.setattr(
        anchoring, "causal_drops", lambda *given, **how: pushed.append(given[2]) or drops(*given, **how)
    )
    monkeypatch.setattr(anchoring, "SIGNIFICANCE", 2.0)  # so that some layers qualify
    found = anchoring.anchor_layers(one_model, contrast=contrast_of(), effort=SMALL, progress=False)
    assert [len(one) for one in pushed] == [4] and (found.origin.n_harmful, found.origin.n_harmless) == (6, 6)
    assert set(pushed[0]) <= set(SMALL.learned(contrast_of()).harmful)


def test_a_fit_keeps_its_effort_in_its_file_and_says_it(small, one_model, tmp_path):
    small.save(tmp_path / "small")
    again = SCANS.load(tmp_path / "small", one_model)
    assert again.effort == small.effort == SMALL and again.effort is not SMALL
    assert "6 anchors and 5 validation prompts a side, replies of up to 3 tokens, up to 2 scales" in str(again)


def test_kept_fits_of_two_efforts_are_told_apart(one_model):
    world = World.of(one_model, anchors=contrast_of())
    efforts = [STANDARD, QUICK, *(dataclasses.replace(QUICK, **{name: 7}) for name in QUICK.to_dict())]
    places = [Fitting(world, effort).place("scans") for effort in efforts]
    assert len(set(places)) == len(places)
    assert Fitting(world, Effort()).place("scans") == places[0]
