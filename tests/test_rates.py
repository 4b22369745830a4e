"""Rates: laws of shares, their intervals and their comparisons."""

import doctest
import itertools

import pytest
from scipy.stats import beta
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from scans_lens import rates
from scans_lens.rates import Change, Clustered, Mean, Paired, Rate, holm


@pytest.mark.parametrize(("count", "total"), [(0, 1), (1, 1), (0, 40), (40, 40), (1, 3), (12, 250), (499, 500)])
def test_the_interval_is_that_of_clopper_and_pearson(count, total):
    low = beta.ppf(0.025, count, total - count + 1) if count else 0.0
    high = beta.ppf(0.975, count + 1, total - count) if count < total else 1.0
    assert Rate(count, total).interval == pytest.approx((low, high))
    assert Rate(count, total).interval == pytest.approx(proportion_confint(count, total, method="beta"))


def test_an_interval_known_by_heart():
    # 0 of n: 1 - 0.025^(1/n), which one can do on paper
    assert Rate(0, 10).interval == pytest.approx((0.0, 1 - 0.025**0.1))


def test_a_rate_prints_with_its_interval_as_its_docstring_says():
    assert str(Rate(12, 250)) == "4.8 % [2.5, 8.2] (12 of 250)"
    assert doctest.testmod(rates).failed == 0


def test_a_rate_counts_what_is_true():
    assert Rate.of([True, False, True]) == Rate(2, 3)
    assert Rate.of(verdict == "refused" for verdict in ("refused", "answered")) == Rate(1, 2)
    assert Rate(1, 4).value == 0.25
    assert Rate(1, 4).as_json() == {"count": 1, "total": 4, "value": 0.25, "interval": list(Rate(1, 4).interval)}


def test_a_rate_of_nothing_is_an_error():
    for nothing in (lambda: Rate(0, 0), lambda: Rate.of([]), lambda: Paired.of([], [])):
        with pytest.raises(ValueError, match="rate of nothing"):
            nothing()
    with pytest.raises(ValueError, match="5 of 4 is no rate"):
        Rate(5, 4)
    with pytest.raises(ValueError, match="-1 of 4 is no rate"):
        Rate(-1, 4)


@pytest.mark.parametrize("table", [[[3, 9], [1, 7]], [[0, 2], [2, 0]], [[5, 0], [0, 5]], [[10, 0], [6, 4]]])
def test_pairs_are_compared_by_mcnemars_exact_test(table):
    first = [True] * sum(table[0]) + [False] * sum(table[1])
    second = [True] * table[0][0] + [False] * table[0][1] + [True] * table[1][0] + [False] * table[1][1]
    paired = Paired.of(first, second)
    assert (paired.only_first, paired.only_second) == (table[0][1], table[1][0])
    assert paired.p == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert paired.difference == pytest.approx(Rate.of(second).value - Rate.of(first).value)


def test_pairs_come_in_pairs():
    with pytest.raises(ValueError, match="got 2 and 1"):
        Paired.of([True, False], [True])


def test_holm_multiplies_the_smallest_by_all_and_never_reverses_an_order():
    # Holm (1979) by hand: sorted .005, .01, .03, .04 times 4, 3, 2, 1, then made to rise
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


# ── Prompts that come several to an item ─────────────────────────────────────────────────────────────────────


def test_asking_each_item_again_with_the_same_outcome_makes_nothing_surer():
    outcomes = [place % 3 == 0 for place in range(90)]
    once = Clustered.of([outcome for outcome in outcomes for _ in range(2)], [item for item in range(90) for _ in "ab"])
    often = Clustered.of(
        [outcome for outcome in outcomes for _ in range(7)], [item for item in range(90) for _ in range(7)]
    )
    assert often.interval == once.interval and often.value == once.value
    assert often.items == once.items == 90 and often.rate.total == 630


def test_with_one_prompt_an_item_the_interval_is_nearly_that_of_the_rate():
    outcomes = [place % 5 == 0 for place in range(400)]
    found, plain = Clustered.of(outcomes, range(400)).interval, Rate.of(outcomes).interval
    assert found == pytest.approx(plain, abs=0.01)


def test_where_all_prompts_agree_the_items_still_set_the_interval():
    assert Clustered.of([True] * 60, [place // 3 for place in range(60)]).interval == Rate(20, 20).interval
    assert Clustered.of([False] * 60, [place // 3 for place in range(60)]).interval == Rate(0, 20).interval


def test_outcomes_and_items_go_together():
    with pytest.raises(ValueError, match="3 outcomes and 2 items"):
        Clustered.of([True, False, True], [1, 2])


def test_a_change_is_the_difference_of_the_two_shares_and_its_interval_holds_it():
    first, second = [place % 2 == 0 for place in range(300)], [place % 3 == 0 for place in range(300)]
    found = Change.of(first, second, range(300))
    assert found.difference == pytest.approx(Rate.of(second).value - Rate.of(first).value)
    assert found.interval[0] < found.difference < found.interval[1]
    turned = Change.of(second, first, range(300))
    assert turned.difference == pytest.approx(-found.difference)
    assert turned.interval == pytest.approx((-found.interval[1], -found.interval[0]), abs=0.01)


def test_pairing_makes_a_change_surer_than_two_rates_apart():
    first = [place % 2 == 0 for place in range(400)]
    second = [outcome and place % 20 != 0 for place, outcome in enumerate(first)]
    low, high = Change.of(first, second, range(400)).interval
    assert high - low < Clustered.of(first, range(400)).interval[1] - Clustered.of(first, range(400)).interval[0]


def test_asking_items_again_makes_no_change_surer():
    first, second = [True] * 50, [place % 10 != 0 for place in range(50)]
    once = Change.of(first, second, range(50))
    often = Change.of(first * 6, second * 6, [*range(50)] * 6)
    assert often.interval == once.interval and often.total == 300 and often.items == 50


def test_where_nothing_changes_the_items_say_how_much_is_left_open():
    found = Change.of([True, False] * 20, [True, False] * 20, range(40))
    assert (found.difference, found.interval) == (0.0, (-Rate(0, 40).interval[1], Rate(0, 40).interval[1]))
    with pytest.raises(ValueError, match="got 2, 2 and 1"):
        Change.of([True, False], [True, False], [1])
    with pytest.raises(ValueError, match="0 pairs"):
        Change.of([], [], [])


def test_where_every_prompt_is_an_item_of_its_own_the_interval_is_exact_and_grows_with_the_count():
    found = [Clustered.of([place < count for place in range(10)], range(10)).interval for count in range(11)]
    assert found == [Rate(count, 10).interval for count in range(11)]
    assert all(one[0] <= two[0] and one[1] <= two[1] for one, two in itertools.pairwise(found))


def test_a_means_interval_holds_it_and_narrows_as_prompts_are_added():
    few, many = Mean.of([0.0, 1.0, 2.0]), Mean.of([0.0, 1.0, 2.0] * 30)
    assert few.value == many.value == 1.0
    assert few.interval[0] < many.interval[0] < 1.0 < many.interval[1] < few.interval[1]
    assert many.as_json()["n"] == 90


def test_a_mean_of_one_value_everywhere_is_sure_of_it():
    assert Mean.of([0.5] * 4).interval == (0.5, 0.5)


def test_a_mean_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="0 values"):
        Mean.of([])
