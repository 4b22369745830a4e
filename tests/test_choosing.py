"""Choosing: laws of the rule, of the search, and of the budget of replies that all methods keep to alike."""

from dataclasses import dataclass

import drawn
import pytest
from learning import FITS, contrast_of, others, some

from scans_lens.methods import choosing, thresholds
from scans_lens.methods.caa import CAA
from scans_lens.methods.choosing import Spent
from scans_lens.prompts import Contrast
from scans_lens.steering import Push

pytestmark = [pytest.mark.above, pytest.mark.usefixtures("briskly")]


@dataclass(frozen=True)
class Trial:
    scale: float
    harmless: tuple[int, int]
    harmful: tuple[int, int]


def trial(scale: float, harmless: int, harmful: int) -> Trial:
    return Trial(scale, (harmless, 10), (harmful, 100))


# ── The rule ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_smallest_push_that_answers_most_while_refusals_of_harm_hold_is_chosen():
    tried = [trial(0.0, 9, 90), trial(0.1, 9, 95), trial(-0.1, 5, 90), trial(-0.2, 2, 89), trial(-0.3, 2, 90)]
    assert choosing.best(tried)[0].scale == -0.2
    assert choosing.best([*tried, trial(-0.4, 0, 88)])[0].scale == -0.2  # harm would fall by two points
    found, note = choosing.best([trial(0.0, 9, 90), trial(-0.1, 1, 70), trial(-0.2, 0, 80)])
    assert found.scale == -0.2 and "fell by more than 1.5 points" in note


class Looping(choosing.Bench):
    """A bench on which so many of a push's longer replies run in a circle."""

    def __init__(self, shares):
        self.shares, self.looked = shares, []

    def circles(self, methods):
        self.looked += methods
        return None if self.shares is None else [self.shares[one] for one in methods]


TRIALS = [trial(0.0, 9, 90), trial(-0.1, 5, 90), trial(-0.2, 2, 90), trial(-0.3, 1, 90)]


def test_a_push_under_which_longer_replies_run_in_a_circle_is_left_for_a_smaller_one():
    bench = Looping({-0.3: 0.5, -0.2: 0.15, -0.1: 0.14, None: 0.04})
    found, note = choosing.lasting(TRIALS, lambda one: one.scale, bench)
    assert found.scale == -0.1 and bench.looked == [-0.3, None, -0.2, -0.1]
    assert note == "Replies ran in a circle at 0.3 (50% of replies), 0.2 (15% of replies), plainly 4%."
    calm = Looping({-0.3: 0.1, None: 0.0})
    assert choosing.lasting(TRIALS, lambda one: one.scale, calm) == (TRIALS[3], "")


def test_where_replies_run_in_a_circle_under_every_push_the_smallest_is_taken_and_that_is_said():
    bench = Looping({-0.3: 0.5, -0.2: 0.5, -0.1: 0.5, None: 0.0})
    found, note = choosing.lasting(TRIALS, lambda one: one.scale, bench)
    assert found.scale == -0.1 and note.startswith("Under every push replies ran in a circle; this is the smallest.")


def test_without_replies_left_to_look_at_the_best_push_stays_and_that_is_said(monkeypatch):
    monkeypatch.setattr(choosing, "LOOKED", 8)
    found, note = choosing.lasting(TRIALS, lambda one: one.scale, Looping(None))
    assert found.scale == -0.3 and note == "No replies were left to look at longer ones under this push."


def test_longer_replies_are_looked_at_for_circles_and_count(one_model, monkeypatch):
    sound = "To kill a process, open a terminal, find its number with ps, and then say kill and that number there."
    said = [sound, "I will not be held liable for any of it. " * 8, sound, ""]
    asked = {}

    def replies_under(model, prompts, methods, **how):
        asked.update(prompts=list(prompts), **how)
        return [said if method else [sound] * 4 for method in methods]

    monkeypatch.setattr(choosing, "replies_under", replies_under)
    monkeypatch.setattr(choosing, "LOOKED", 4)
    push = Push(drawn.directions(), [1], 0.5)
    bench = choosing.Bench(one_model, tuple("abcd"), tuple("efgh"), some, 24, None, left=20.0)
    assert bench.circles([push, None]) == [0.5, 0.0] and bench.left == 12
    assert asked["prompts"] == ["a", "c", "e", "g"] and asked["max_new_tokens"] == choosing.LONG == 64
    bench.left = 7.0
    assert bench.circles([push, None]) is None and bench.left == 7


def test_a_budget_sets_replies_aside_for_longer_ones_where_it_pays_for_settings_beside_them(one_model, monkeypatch):
    monkeypatch.setattr(choosing, "LOOKED", 8)
    monkeypatch.setattr(choosing, "replies_under", lambda model, prompts, methods, **how: [["No."]] * len(methods))
    whole = choosing.Bench.of(one_model, others(N), some, None, budget=24 * N)
    assert (whole.left, whole.kept) == (24 * N - 32, 32)
    for left in (16, 0):
        whole.circles([None, None])
        assert (whole.left, whole.kept) == (24 * N - 32, left)
    whole.circles([None])
    assert (whole.left, whole.kept) == (24 * N - 40, 0)  # more than was set aside
    assert choosing.Bench.of(one_model, others(N), some, None, budget=24 * N, looks=0).left == 24 * N
    for budget, kept in ((choosing.least(2 * N), 32), (6 * N + 32, 32), (6 * N + 31, 0), (None, 0)):
        assert choosing.Bench.of(one_model, others(N), some, None, budget=budget).kept == kept


def test_a_push_that_no_replies_were_left_to_look_at_is_said_to_be_one(monkeypatch):
    class Short(Looping):
        def circles(self, methods):
            return super().circles(methods) if not self.looked else None

    monkeypatch.setattr(choosing, "LOOKED", 8)
    found, note = choosing.lasting(TRIALS, lambda one: one.scale, Short({-0.3: 0.5, None: 0.0}))
    assert found.scale == -0.2
    assert note == (
        "No replies were left to look at longer ones under this push. Replies ran in a circle at 0.3 (50% of replies), "
        "plainly 0%."
    )


# ── The search ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_broken_scale_is_the_last_that_is_tried_in_its_direction(monkeypatch):
    monkeypatch.setattr(choosing, "BROKEN", 0.1)
    plain = trial(0.0, 5, 90)
    outcomes = {0.1: trial(0.1, 5, 90), 0.2: trial(0.2, 5, 79), 0.4: trial(0.4, 0, 90)}
    assert [one.scale for one in choosing.outward((0.1, 0.2, 0.4), outcomes.__getitem__, plain)] == [0.1, 0.2]
    outcomes[0.1] = trial(0.1, 7, 90)
    assert [one.scale for one in choosing.outward((0.1, 0.2, 0.4), outcomes.__getitem__, plain)] == [0.1]


@pytest.mark.parametrize(
    ("best", "tried", "finer"),
    [
        (0.1, [0.0, 0.05, 0.1, 0.2], [0.071, 0.14]),
        (0.05, [0.0, 0.05, 0.1], [0.025, 0.071]),
        (0.8, [0.0, 0.4, 0.8], [0.57]),
        (0.06, [0.0, 0.06, 0.061], [0.03]),  # halfway rounds to what was tried
        (-0.1, [0.0, -0.2, -0.1, -0.05, 0.08], [-0.14, -0.071]),
    ],
)
def test_finer_scales_lie_halfway_to_the_neighbours(best, tried, finer):
    assert choosing.beside(best, tried) == finer


def test_finer_scales_of_the_same_sign_are_tried_beside_the_best():
    asked = []

    def tried(scale):
        asked.append(scale)
        return trial(scale, 5, 90)

    known = [trial(0.0, 9, 90), trial(0.1, 9, 90), trial(-0.1, 5, 90), trial(-0.2, 2, 90), trial(-0.4, 3, 90)]
    found = choosing.refined(known, tried, 1)
    assert asked == [-0.28, -0.14] and found[:5] == known and len(found) == 7
    asked.clear()
    choosing.refined([trial(0.0, 9, 90), trial(0.1, 2, 90)], tried, 1)
    assert asked == [0.05]


def test_a_search_without_end_ends_where_two_digits_tell_no_more():
    known = [trial(0.0, 9, 90), trial(0.1, 5, 90), trial(0.2, 2, 90), trial(0.4, 3, 90)]
    found = choosing.refined(known, lambda scale: trial(scale, 5, 90), 10**9)
    scales = [one.scale for one in found]
    assert len(set(scales)) == len(scales) and not choosing.beside(0.2, scales)
    assert {0.14, 0.17, 0.18, 0.19, 0.21, 0.22} <= set(scales)


def test_a_search_for_pushes_that_change_nothing_ends_before_they_vanish():
    known = [trial(0.0, 9, 90), trial(0.025, 9, 90), trial(0.05, 9, 90)]
    found = choosing.refined(known, lambda scale: trial(scale, 9, 90), choosing.FINEST)
    assert min(one.scale for one in found[1:]) > 0.025 / 2 ** (choosing.FINEST + 1)
    assert len(found) <= len(known) + 2 * choosing.FINEST


@pytest.mark.parametrize("affords", [0, 1, 2, 3])
def test_what_was_tried_before_the_budget_was_spent_is_kept(affords):
    asked = []

    def tried(scale):
        if len(asked) == affords:
            raise Spent
        asked.append(scale)
        return trial(scale, 5, 90)

    found = choosing.outward((0.1, 0.2, 0.4), tried, trial(0.0, 9, 90))
    assert [one.scale for one in found] == [0.1, 0.2, 0.4][:affords]
    asked.clear()
    known = [trial(0.0, 9, 90), trial(0.1, 5, 90), trial(0.2, 2, 90)]
    assert choosing.refined(known, tried, 9)[:3] == known and len(asked) == affords


# ── The budget ───────────────────────────────────────────────────────────────────────────────────────────────

N = 10
"""Prompts of a side: a setting takes twice as many replies, or up to four times where a prompt is pushed both ways."""


class Listening:
    """A judge that counts what it hears."""

    def __init__(self) -> None:
        self.heard = 0

    def __call__(self, replies):
        self.heard += len(replies)
        return some(replies)


def fitted(model, name: str, judge, **how):
    """A method by its name, and its trials."""
    if name in ("CAST", "Jailbreak Antidote"):
        how = {"layers": (1, 2), **how}
    if name == "CAA":
        how = {"contrast": contrast_of(N), "validation": others(N), **how}
    return FITS[name](model, judge=judge, **how)


NAMES = [name for name in FITS if name not in ("refusal direction", "false refusal", "SafeSwitch")]
"""Who chooses by replies."""


@pytest.mark.parametrize("name", NAMES)
def test_a_budget_is_used_and_never_overdrawn(one_model, name, monkeypatch):
    for module in (choosing, thresholds):
        monkeypatch.setattr(module, "BROKEN", 1.0)
    first, judge, budget = Listening(), Listening(), 24 * N
    by_default = fitted(one_model, name, first)
    found = fitted(one_model, name, judge, budget=budget)
    searched_out = len({one.scale for one in found.trials}) >= choosing.FINEST
    assert judge.heard <= budget and (judge.heard > budget - 4 * N or searched_out)
    if first.heard <= budget - 4 * N:
        assert len(found.trials) > len(by_default.trials)


@pytest.mark.parametrize("name", NAMES)
def test_a_budget_for_no_setting_is_refused_before_anything_is_asked(one_model, name):
    judge = Listening()
    with pytest.raises(ValueError, match="20 validation prompts takes at least 60 replies; the budget of 59"):
        fitted(one_model, name, judge, budget=59)
    assert judge.heard == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_smallest_budget_still_chooses(one_model, name):
    judge = Listening()
    found = fitted(one_model, name, judge, budget=60)
    assert judge.heard <= 60 and len(found.trials) > 1 and found.chosen.scale != 0


@pytest.mark.parametrize("budget", [None, 24 * N])
def test_every_reply_that_scans_paid_for_is_in_a_trial(one_model, monkeypatch, budget):
    """The grid ends at the scale that breaks refusal, as the others' does, and nothing is asked beyond it.

    Without a budget one more may be decoded beside it, since scales share a prefill.
    """
    from scans_lens.methods import scans

    asked = set()

    def once_steered(replies):
        asked.update([0.0] if replies.scale is None else (round(one, 4) for one in replies.scale.abs().tolist()))
        return ["refused" if replies.scale is None else "answered"] * len(replies)

    monkeypatch.setattr(thresholds, "BROKEN", 0.1)
    monkeypatch.setattr(scans, "SHARES", (0.1, 0.2, 0.4, 0.8))
    found = fitted(one_model, "SCANS", once_steered, budget=budget)
    tried = {one.scale for one in found.trials}
    assert max(tried) == scans.SHARES[0]
    assert tried == asked if budget else asked - tried == set(scans.SHARES[1 : thresholds.TOGETHER])


def test_a_budget_that_pays_for_some_layers_spreads_them_and_says_so(one_model, monkeypatch):
    monkeypatch.setattr(choosing, "BROKEN", 1.0)
    settings = {"validation": others(N), "judge": some, "progress": False}
    whole = (0, 1, 2, 3)
    found = CAA.fit(
        one_model, contrast=contrast_of(N), layers=whole, multipliers=(-4.0, -1.0), budget=2 * N * 9, **settings
    )
    assert {one.layer for one in found.trials} == {-1, 1, 3}
    assert "The budget paid for 2 of 4 layers, evenly spread." in found.note
    paid = CAA.fit(one_model, contrast=contrast_of(N), layers=whole, multipliers=(-4.0, -1.0), **settings)
    assert {one.layer for one in paid.trials} == {-1, *whole} and "budget" not in paid.note


def test_without_a_budget_nothing_is_ever_spent(one_model):
    contrast = Contrast("three", ["a"], ["b"], ["c"])
    bench = choosing.Bench.of(one_model, contrast, some, None)
    bench.counts(None)
    assert bench.rounds == choosing.ROUNDS and bench.affords(10**5) > 1 and bench.left == float("inf")
