"""Calibration: laws of thresholds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve

from scans_lens.calibration import calibrated, curves, transfer
from scans_lens.classifier import threshold_at

SCORES = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=60).map(np.array)


def drawn(mean, n, seed=0):
    return np.random.default_rng(seed).normal(mean, 0.1, n)


@given(SCORES, st.floats(0, 0.99))
def test_a_threshold_misses_at_most_its_share_and_any_higher_one_that_a_score_reaches_misses_more(scores, missed):
    threshold = threshold_at(scores, missed)
    assert (scores < threshold).mean() <= missed + 1e-9
    higher = scores[scores > threshold + 2e-6]
    if len(higher):
        below_next = np.sort(scores)[int(missed * len(scores) + 1e-9)] + 1e-9
        assert (scores < below_next).mean() > missed - 1e-9


def test_the_interval_of_a_threshold_holds_it_and_narrows_with_more_prompts():
    few, many = (calibrated(drawn(0.8, n), 0.05) for n in (40, 4000))
    for found in (few, many):
        assert found.interval[0] <= found.value <= found.interval[1]
    assert np.diff(many.interval) < np.diff(few.interval) / 3


def test_the_interval_covers_the_true_threshold_about_as_often_as_it_says():
    true = 0.8 + 0.1 * -1.2815515594600038  # the tenth percentile
    held = [
        low <= true <= high
        for low, high in (calibrated(drawn(0.8, 200, seed), 0.1, resamples=400).interval for seed in range(100))
    ]
    assert 0.85 <= np.mean(held) <= 1.0


def test_curves_are_those_of_scikit_learn_and_every_threshold_does_what_they_say():
    bad, good = drawn(0.8, 50), drawn(0.65, 70, 1)
    found = curves(bad, good, resamples=50)
    for threshold, caught, flagged in zip(found.thresholds, found.caught, found.flagged, strict=True):
        assert ((bad >= threshold).mean(), (good >= threshold).mean()) == pytest.approx((caught, flagged))
    precision, recall, _ = precision_recall_curve([1] * 50 + [0] * 70, np.concatenate([bad, good]))
    there = set(zip(recall.round(9), precision.round(9), strict=True))
    own = zip(found.caught[1:].round(9), found.precision[1:].round(9), strict=True)
    assert set(own) <= there
    assert found.auc_interval[0] < found.auc < found.auc_interval[1]


def test_a_threshold_that_is_carried_over_is_judged_on_the_other_sets_prompts():
    sides = {"near": (drawn(0.8, 100), drawn(0.5, 100, 1)), "far": (drawn(0.6, 100, 2), drawn(0.3, 100, 3))}
    found = {(one.learned_on, one.tried_on): one for one in transfer(sides, 0.05)}
    assert len(found) == 4
    for (one, other), carried in found.items():
        threshold = threshold_at(sides[one][0], 0.05)
        assert carried.missed.count == (sides[other][0] < threshold).sum()
        assert carried.flagged.count == (sides[other][1] >= threshold).sum()
    assert found["near", "far"].missed.value > 0.3 > found["near", "near"].missed.value


def test_a_set_without_harmful_prompts_has_no_threshold_but_can_be_tried():
    sides = {"both": (drawn(0.8, 20), drawn(0.5, 20)), "harmless": (np.empty(0), drawn(0.4, 20))}
    found = transfer(sides)
    assert [(one.learned_on, one.tried_on) for one in found] == [("both", "both"), ("both", "harmless")]
    assert found[1].missed is None


@pytest.mark.parametrize(("scores", "missed", "word"), [([], 0.1, "there are none"), ([0.5], 1.0, "between 0 and 1")])
def test_nothing_to_calibrate_on_is_said(scores, missed, word):
    with pytest.raises(ValueError, match=word):
        calibrated(np.array(scores, dtype=float), missed)


def test_a_side_without_prompts_has_no_curves():
    with pytest.raises(ValueError, match="both sides"):
        curves(drawn(0.8, 5), np.empty(0))
