"""The classifier: eq. 3-5 of the paper, and a threshold that misses as many as it may and no more."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scans_lens.classifier import TransitionClassifier


@pytest.fixture
def transitions(generator):
    """Harmful, harmless: clouds around different points, [prompt layer d_model]."""
    centre = torch.randn(6, 8, generator=generator)
    return tuple(sign * centre + torch.randn(n, 6, 8, generator=generator) for sign, n in ((1.0, 20), (-0.2, 30)))


@pytest.fixture
def classifier(transitions):
    return TransitionClassifier.fit(*transitions, layers=[1, 2, 5])


def classifier_that_scores(scores):
    """A classifier and transitions that it gives these scores: in two dimensions a cosine is what one chooses."""
    cosines = torch.tensor(scores, dtype=torch.float64)
    t = torch.stack([cosines, (1 - cosines**2).sqrt()], dim=-1)[:, None].float()
    return TransitionClassifier(torch.tensor([[1.0, 0.0]]), (0,), 0.0, "nothing"), t


def test_a_score_is_the_mean_cosine_with_the_mean_harmful_transition(transitions, classifier):
    harmful, harmless = (side.double().numpy() for side in transitions)
    d_harm = harmful.mean(axis=0)
    for side, t in zip((harmful, harmless), transitions, strict=True):
        cosines = [
            [x[layer] @ d_harm[layer] / np.linalg.norm(x[layer]) / np.linalg.norm(d_harm[layer]) for layer in (1, 2, 5)]
            for x in side
        ]
        np.testing.assert_allclose(classifier.score(t).numpy(), np.mean(cosines, axis=1), rtol=0, atol=1e-6)


def test_every_layer_shows_its_cosine_and_only_chosen_ones_vote(transitions, classifier):
    found = classifier.by_layer(transitions[0])
    torch.testing.assert_close(found[:, [1, 2, 5]].mean(dim=1), classifier.score(transitions[0]))
    changed = transitions[0].clone()
    changed[:, [0, 3, 4]] = 0
    assert torch.equal(classifier.score(changed), classifier.score(transitions[0]))


@given(st.floats(1e-3, 1e3))
def test_how_long_a_transition_is_does_not_matter(length):
    classifier, t = classifier_that_scores([-0.9, 0.1, 0.8])
    torch.testing.assert_close(classifier.score(length * t), classifier.score(t))


def test_a_score_at_the_threshold_is_harmful():
    classifier, t = classifier_that_scores([-0.25, 0.0, 0.5])
    assert classifier.is_harmful(t).tolist() == [False, True, True]


def test_a_prompt_scores_the_same_alone_and_in_company(transitions, classifier):
    together = classifier.score(transitions[1])
    alone = torch.cat([classifier.score(one[None]) for one in transitions[1]])
    torch.testing.assert_close(together, alone)


def test_the_middle_and_last_thirds_vote_unless_told_otherwise(transitions):
    assert TransitionClassifier.fit(*transitions).layers == (2, 3, 4, 5)


def test_until_it_is_calibrated_the_threshold_is_half_way(transitions, classifier):
    means = [float(classifier.score(side).mean()) for side in transitions]
    assert classifier.threshold == pytest.approx(sum(means) / 2)
    assert means[1] < classifier.threshold < means[0]
    assert "midpoint" in classifier.calibrated_on


@given(
    st.lists(st.integers(-99, 99).map(lambda percent: percent / 100), min_size=1, max_size=60),
    st.integers(0, 99).map(lambda percent: percent / 100),
)
def test_a_calibrated_threshold_misses_what_it_may_and_the_next_would_miss_more(scores, missed):
    classifier, t = classifier_that_scores(scores)
    calibrated = classifier.calibrated(t, missed=missed)
    found = calibrated.score(t).double()
    may = missed * len(scores) + 1e-9
    assert int((~calibrated.is_harmful(t)).sum()) <= may
    lowest = float(found[found >= calibrated.threshold].min())
    assert int((found <= lowest).sum()) > may  # above this score the threshold would miss too many
    assert 5e-7 < lowest - calibrated.threshold < 5e-6  # and below it by more than rounding moves a score


def test_calibration_is_written_down_and_changes_nothing_else(transitions, classifier):
    calibrated = classifier.calibrated(transitions[0], missed=0.05, name="prompts of mine")
    assert "20 harmful prompts of mine" in calibrated.calibrated_on and "5.0%" in calibrated.calibrated_on
    assert calibrated.layers == classifier.layers
    assert calibrated.harmful_transition is classifier.harmful_transition
    assert "midpoint" in classifier.calibrated_on


def test_half_precision_is_scored_in_full(transitions, classifier):
    half = transitions[0].bfloat16()
    assert torch.equal(classifier.score(half), classifier.score(half.float()))


def test_what_it_learns_from_must_fit_together(transitions):
    harmful, harmless = transitions
    with pytest.raises(ValueError, match="got 0 harmful and 30 harmless"):
        TransitionClassifier.fit(harmful[:0], harmless)
    with pytest.raises(ValueError, match="got 20 harmful and 0 harmless"):
        TransitionClassifier.fit(harmful, harmless[:0])
    for layers in ([], [6], [-1]):
        with pytest.raises(ValueError, match="must lie in 0 to 5"):
            TransitionClassifier.fit(harmful, harmless, layers=layers)


@pytest.mark.usefixtures("without_shape_checks")
def test_sides_of_different_shape_are_refused(transitions):
    with pytest.raises(ValueError, match=r"differ in \[layer d_model\]: \(6, 8\) and \(5, 8\)"):
        TransitionClassifier.fit(transitions[0], transitions[1][:, :5])


def test_transitions_of_some_layers_only_are_refused(transitions, classifier):
    with pytest.raises(ValueError, match=r"all layers, \[prompt 6 8\]; got \(20, 3, 8\)"):
        classifier.score(transitions[0][:, :3])


@pytest.mark.parametrize("missed", [-0.1, 1.0])
def test_a_share_is_a_share(transitions, classifier, missed):
    with pytest.raises(ValueError, match="lies between 0 and 1"):
        classifier.calibrated(transitions[0], missed=missed)


def test_calibrating_on_nothing_is_refused(transitions, classifier):
    with pytest.raises(ValueError, match="there are none"):
        classifier.calibrated(transitions[0][:0])
