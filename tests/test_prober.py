"""Prober: what it answers is what it was taught, in units that can be believed, and it says what it lacks."""

import dataclasses
import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from scans_lens.prober import HELD, NEEDED, Prober, _platt

D = 12


def apart(n: int, seed: int, gap: float = 1.5, share: float = 0.5):
    """States of two classes that lie a little apart, in units in which one coordinate drowns the others."""
    drawn = torch.Generator().manual_seed(seed)
    yes = torch.rand(n, generator=drawn) < share
    states = torch.randn(n, D, generator=drawn)
    states[:, 0] += gap * yes
    scales = torch.ones(D)
    scales[1] = 500.0
    return states * scales + 40.0, yes


@pytest.fixture(scope="module", params=[64, 0], ids=["network", "straight line"])
def hidden(request) -> int:
    return request.param


@pytest.fixture(scope="module")
def fitted(hidden) -> Prober:
    return Prober.fit("asked", *apart(600, 1), *apart(300, 2), hidden=hidden)


def test_it_is_standardising_layers_with_a_kink_between_them_and_platts_line(fitted, hidden):
    states, _ = apart(7, 3)
    trained, _ = apart(600, 1)
    x = (states - trained.mean(0)) / trained.std(0)
    for place, (weight, bias) in enumerate(zip(fitted.weights, fitted.biases, strict=True)):
        x = torch.nn.functional.linear(x.clamp(min=0) if place else x, weight, bias)
    expected = torch.softmax(x, dim=1)[:, 1]
    raw = (expected / (1 - expected)).log()
    torch.testing.assert_close(fitted.logit(states), fitted.slope * raw + fitted.offset, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(fitted.probability(states), fitted.logit(states).sigmoid())
    assert fitted.is_linear == (not hidden)
    assert [tuple(one.shape) for one in fitted.weights] == ([(64, D), (2, 64)] if hidden else [(2, D)])


def test_it_learns_about_as_much_as_there_is_to_know(fitted):
    quality = fitted.quality(*apart(2000, 4))
    best = 0.5 * (1 + math.erf(0.75 / math.sqrt(2)))  # accuracy of the border halfway between the classes
    assert best - 0.05 < quality.accuracy < best + 0.03
    assert quality.total == 2000 and 0.8 < quality.auc < 0.9


def test_a_network_learns_what_no_straight_line_can():
    def crossed(n, seed):
        states = torch.randn(n, D, generator=torch.Generator().manual_seed(seed))
        return states, states[:, 0] * states[:, 1] > 0

    network, line = (Prober.fit("crossed", *crossed(1500, 1), *crossed(300, 2), hidden=width) for width in (64, 0))
    assert network.quality(*crossed(500, 3)).accuracy > 0.85 > 0.65 > line.quality(*crossed(500, 3)).accuracy


def test_the_units_of_a_state_are_all_the_same_to_it(hidden):
    (states, yes), (held, held_yes) = apart(200, 5), apart(100, 6)
    one = Prober.fit("a", states, yes, held, held_yes, hidden=hidden)
    other = Prober.fit("a", states * 1000 - 7, yes, held * 1000 - 7, held_yes, hidden=hidden)
    torch.testing.assert_close(one.logit(held), other.logit(held * 1000 - 7), rtol=0.02, atol=0.02)


def test_its_probabilities_are_shares_at_the_held_out_mix(hidden):
    """Learning weighs the classes alike; calibration brings the rare one back to how rare it is."""
    fitted = Prober.fit("rare", *apart(800, 1, share=0.2), *apart(800, 2, share=0.2), hidden=hidden)
    states, yes = apart(4000, 3, share=0.2)
    found = fitted.probability(states)
    assert abs(float(found.mean()) - float(yes.float().mean())) < 0.04
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 1.0)):
        there = (found >= low) & (found < high)
        assert abs(float(found[there].mean()) - float(yes[there].float().mean())) < 0.12


def test_platts_line_is_logistic_regression_of_the_logit():
    logits, yes = apart(500, 1)[0][:, 0], apart(500, 1)[1]
    slope, offset = _platt(logits, yes)
    plain = LogisticRegression(C=1e9, max_iter=1000).fit(logits[:, None].numpy(), yes.numpy())
    assert slope == pytest.approx(plain.coef_[0, 0], rel=0.05) and offset == pytest.approx(
        plain.intercept_[0], rel=0.05
    )


def test_classes_that_lie_apart_leave_probabilities_inside_of_0_and_1(hidden):
    fitted = Prober.fit("easy", *apart(200, 1, gap=50.0), *apart(100, 2, gap=50.0), hidden=hidden)
    found = fitted.probability(apart(100, 3, gap=50.0)[0])
    assert math.isfinite(fitted.slope) and bool(((found > 0) & (found < 1)).all())


def test_the_same_seed_learns_the_same_and_another_seed_another():
    one, same, other = (Prober.fit("a", *apart(100, 1), *apart(50, 2), seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one.weights, same.weights, strict=True))
    assert not torch.equal(one.weights[0], other.weights[0])


def test_learning_inside_no_grad_leaves_the_worlds_dice_and_gradients_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with torch.no_grad():
        fitted = Prober.fit("a", *apart(100, 1), *apart(50, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(one.requires_grad for one in (*fitted.weights, *fitted.biases))


@pytest.mark.parametrize("which", ["learn", "held"])
def test_too_few_of_a_class_are_counted_out(which):
    (states, yes), (held, held_yes) = apart(100, 1), apart(50, 2)
    few = torch.zeros_like(yes if which == "learn" else held_yes)
    few[:3] = True
    args = (states, few, held, held_yes) if which == "learn" else (states, yes, held, few)
    needed, what_for = (NEEDED, "to learn from") if which == "learn" else (HELD, "to stop and calibrate on")
    there = f"there are 3 with yes and {len(few) - 3} with no"
    with pytest.raises(ValueError, match=rf"\(is it\) needs at least {needed} prompts with yes.* {what_for}; {there}"):
        Prober.fit("is it", *args)


def test_states_of_another_width_are_refused(fitted, without_shape_checks):
    with pytest.raises(ValueError, match=r"\(asked\) reads states of width 12; got \(2, 5\)"):
        fitted.probability(torch.zeros(2, 5))


def test_layers_that_do_not_go_together_are_refused(fitted, without_shape_checks):
    for wrong in (fitted.weights[:-1] + (torch.zeros(3, 5),), ()):
        with pytest.raises(ValueError, match="from a state of width 12 to 2 answers"):
            dataclasses.replace(fitted, weights=wrong, biases=fitted.biases[: len(wrong)])
