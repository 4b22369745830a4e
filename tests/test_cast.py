"""CAST: laws of its condition, of the push that hangs on it, and of how both are chosen."""

import dataclasses

import drawn
import numpy as np
import pytest
import torch
from conftest import hooks_on, one_by_one
from hypothesis import given
from hypothesis import strategies as st
from learning import contrast_of, others, some
from sklearn.decomposition import PCA
from sklearn.metrics import f1_score
from steered import close, moves_under

import scans_lens
from scans_lens import artefacts, organism, steering
from scans_lens.flight import Flight
from scans_lens.methods import cast as module
from scans_lens.methods.cast import CAST, Condition
from scans_lens.model import resid_post
from scans_lens.steering import Push, Together

LAYER = 2
pytestmark = [pytest.mark.above, pytest.mark.usefixtures("briskly")]


@pytest.fixture(params=[True, False], ids=["whole prompt", "from its end on"])
def method(request, any_model, prompts):
    """One whose condition some prompts meet and others do not."""
    return drawn.cast(any_model, prompts, LAYER, whole_prompt=request.param)


@pytest.fixture
def fitted(fit_of):
    return fit_of("CAST")


@pytest.fixture
def validation():
    return others()


@pytest.fixture
def vectors():
    """The last one is a condition's."""
    return torch.cat([drawn.directions().vectors, drawn.vectors(64, seed=5)[None]])


def made(model, vectors, **how) -> CAST:
    """One that nobody fitted, at a threshold of its own."""
    settings = {"scale": 1.5, "condition": Condition(vectors[4], LAYER, 0.1, above=True), **how}
    return CAST(drawn.directions(model), (1, 3), **settings)


@torch.no_grad()
def similarities(model, prompts, vectors, after=lambda projected: projected):
    """By the formula, each prompt alone: its states averaged, projected with a matrix, and compared."""
    c, found = vectors[4], []
    for ids in one_by_one(scans_lens.chat_tokens(model, prompts)):
        _, cache = model.run_with_cache(ids)
        h = cache[resid_post(LAYER)][0].float().mean(dim=0)
        projected = after(torch.outer(c, c) / (c @ c) @ h)
        found.append(h @ projected / (h.norm() * projected.norm()))
    return torch.stack(found)


# ── Deciding ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("tanh", [False, True])
def test_the_similarity_is_the_papers_for_each_prompt_alone(any_model, vectors, prompts, tanh):
    condition = Condition(vectors[4], LAYER, 0.1, above=True, tanh=tanh)
    rows = made(any_model, vectors, condition=condition).decide(
        Flight(any_model, scans_lens.chat_tokens(any_model, prompts))
    )
    expected = similarities(any_model, prompts, vectors, torch.tanh if tanh else lambda projected: projected)
    torch.testing.assert_close(rows["similarity"], expected, atol=1e-5, rtol=0)
    assert (expected > 0).all()


@pytest.mark.parametrize("above", [True, False])
def test_each_row_is_steered_by_its_own_condition_and_by_no_other_rows(model, vectors, prompts, above):
    found = similarities(model, prompts, vectors)
    for threshold in found.sort().values[:-1].tolist():
        condition = Condition(vectors[4], LAYER, threshold + 1e-5, above)
        rows = made(model, vectors, condition=condition).decide(Flight(model, scans_lens.chat_tokens(model, prompts)))
        met = found > threshold + 1e-5 if above else found < threshold + 1e-5
        assert rows["scale"].tolist() == [1.5 if one else 0.0 for one in met.tolist()]
        assert 0 < int(met.sum()) < len(prompts)


def test_the_sign_of_the_conditions_vector_plays_no_part(vectors, generator):
    states = torch.randn(6, 64, generator=generator)
    one, other = (Condition(sign * vectors[4], LAYER, 0.0, above=True) for sign in (1.0, -3.0))
    torch.testing.assert_close(one.similarity(states), other.similarity(states))


def test_steering_that_is_under_way_does_not_change_the_condition(model, vectors, prompts):
    method = made(model, vectors)
    flight = Flight(model, scans_lens.chat_tokens(model, prompts))
    before = method.decide(flight)
    with torch.no_grad():
        flight.again(method.hooks_for({"scale": torch.full((5,), 9.0)}, flight), whole_prompt=True)
    assert torch.equal(method.decide(flight)["similarity"], before["similarity"])


# ── Acting ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_rows_that_meet_the_condition_move_by_the_layers_own_vector_and_others_not_at_all(method, any_model, prompts):
    tokens = scans_lens.chat_tokens(any_model, prompts)
    scale = method.decide(Flight(any_model, tokens))["scale"]
    assert 0 < int((scale != 0).sum()) < len(prompts)
    moves = moves_under(any_model, tokens, method.hooks(any_model, prompts))
    assert sorted(moves) == [1, 3]
    first = 0 if method.whole_prompt else tokens.ids.shape[1] - 1
    for layer, move in moves.items():
        push = scale[:, None, None] * method.directions.vectors[layer]
        close(move[:, first:], push.expand(-1, move.shape[1] - first, -1))
        assert (move[:, :first] == 0).all() and (move[scale == 0] == 0).all()


def test_a_scale_of_zero_and_a_condition_that_nobody_meets_change_nothing(model, vectors, prompts):
    plain = scans_lens.replies(model, prompts, max_new_tokens=6, progress=False)
    never = Condition(vectors[4], LAYER, 2.0, above=True)
    for method in (made(model, vectors, scale=0.0), made(model, vectors, condition=never)):
        assert (
            scans_lens.replies(model, prompts, method=method, max_new_tokens=6, progress=False).tokens == plain.tokens
        )
    assert hooks_on(model) == {}


def test_together_with_a_push_both_act(method, any_model, prompts):
    assert isinstance(method, steering.Method)
    tokens = scans_lens.chat_tokens(any_model, prompts)
    push = Push(method.directions, [1], 2.0, whole_prompt=True)
    both = moves_under(any_model, tokens, Together((method, push)).hooks(any_model, prompts))
    alone = moves_under(any_model, tokens, method.hooks(any_model, prompts))
    close(both[1], alone[1] + 2.0 * method.directions.vectors[1])


# ── Learning ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def pairs(generator):
    """Harmful and harmless states of pairs that lie anywhere, but apart along one line: [pair layer d_model]."""
    where, line = torch.randn(12, 1, 16, generator=generator) * 5, torch.randn(3, 16, generator=generator)
    return tuple(where + sign * line + torch.randn(12, 3, 16, generator=generator) * 0.5 for sign in (1.0, -1.0))


def test_a_vector_is_the_principal_component_of_states_minus_their_pairs_mean_towards_harm(pairs):
    harmful, harmless = (side.double().numpy() for side in pairs)
    for layer, vector in enumerate(module.pair_component(*pairs)):
        rows = []
        for a, b in zip(harmful[:, layer], harmless[:, layer], strict=True):
            rows += [a - (a + b) / 2, b - (a + b) / 2]
        expected = PCA(n_components=1).fit(np.array(rows)).components_[0]
        assert abs(float(vector.double().numpy() @ expected)) == pytest.approx(1, abs=1e-5)
        assert vector @ (pairs[0] - pairs[1])[:, layer].mean(dim=0) > 0


@given(st.data())
def test_no_threshold_has_a_better_f1(data):
    some_numbers = st.lists(st.integers(0, 9), min_size=2, max_size=12)
    values = np.array(data.draw(some_numbers)) / 10
    wanted = np.array(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    if not wanted.any():
        wanted[0] = True
    above = data.draw(st.booleans())
    threshold, f1 = module.threshold_of_best_f1(values, wanted, above)

    def at(edge):
        return f1_score(wanted, values > edge if above else values < edge)

    assert at(threshold) == pytest.approx(f1)
    assert f1 == pytest.approx(max(at(edge) for edge in np.arange(-0.05, 1.0, 0.05)))


def test_the_condition_is_the_one_of_highest_f1_among_all_layers_and_both_comparisons(fitted, model, validation):
    assert [(one.finds, one.layer, one.above) for one in fitted.searched] == [
        (side, layer, above) for side in module.SIDES for layer in range(4) for above in (True, False)
    ]
    assert fitted.chosen is not None
    own = [one for one in fitted.searched if one.finds == fitted.chosen.steers]
    top = max(own, key=lambda one: one.f1)
    assert (fitted.condition.layer, fitted.condition.threshold, fitted.condition.above) == (
        top.layer,
        top.threshold,
        top.above,
    )
    asked = [*validation.harmful, *validation.harmless, *validation.borderline]
    met = fitted.decide(Flight(model, scans_lens.chat_tokens(model, asked)))["scale"] != 0
    wanted = np.repeat([True, False], [10, 20]) == (top.finds == "harmful")
    assert f1_score(wanted, met.cpu().numpy()) == pytest.approx(top.f1)


def test_both_uses_are_tried_and_each_pushes_its_own_way(fitted):
    assert fitted.trials[0].steers is None and fitted.trials[0].scale == 0
    tried = {(trial.steers, trial.layers, trial.scale) for trial in fitted.trials[1:]}
    assert {(side, band, sign * share) for side, sign in (("harmful", 1), ("harmless", -1)) for band in ((1,), (2, 3))
            for share in (0.1, 0.4)} <= tried  # fmt: skip
    assert len(tried) == len(fitted.trials) - 1


def test_one_use_and_given_layers_are_all_that_is_tried_if_asked(model, validation):
    found = CAST.fit(
        model, contrast_of(), validation=validation, steers=["harmful"], layers=[0, 1], judge=some, progress=False
    )
    assert {(trial.steers, trial.layers) for trial in found.trials[1:]} == {("harmful", (0, 1))}
    assert found.scale > 0 and found.layers == (0, 1)


@pytest.mark.usefixtures("without_shape_checks")
def test_what_cannot_be_learned_from_is_refused(model, validation):
    with pytest.raises(ValueError, match="CAST learns from pairs of prompts and needs two at least; 'pairs' has 1"):
        CAST.fit(model, contrast_of(1), validation=validation, progress=False)
    with pytest.raises(ValueError, match=r"CAST steers harmful or harmless prompts, not \['borderline'\]"):
        CAST.fit(model, contrast_of(), validation=validation, steers=["borderline"], progress=False)


# ── Keeping ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_whose_parts_do_not_fit_is_refused(fitted, tmp_path):
    fitted.save(tmp_path / "cast.safetensors")
    tensors, header = artefacts.read(tmp_path / "cast.safetensors", "CAST")
    header["condition"]["vector"] = [8]
    artefacts.write(tmp_path / "odd.safetensors", "CAST", {**tensors, "condition.vector": torch.ones(8)}, header)
    with pytest.raises(ValueError, match=r"vector of shape \(8,\), and the directions have 4 layers of width 64"):
        CAST.load(tmp_path / "odd.safetensors")
    del tensors["condition.vector"]
    artefacts.write(tmp_path / "odd.safetensors", "CAST", tensors, header)
    with pytest.raises(ValueError, match=r"lacks 'condition\.vector', a part of its CAST"):
        CAST.load(tmp_path / "odd.safetensors")


def test_a_condition_on_a_layer_that_is_not_there_is_refused(fitted):
    with pytest.raises(ValueError, match="reads layer 4"):
        dataclasses.replace(fitted, condition=dataclasses.replace(fitted.condition, layer=4))


# ── On a model that refuses ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.above
def test_on_the_bundled_model_more_borderline_prompts_are_answered_and_harmful_ones_stay_refused(bundled, monkeypatch):
    monkeypatch.setattr(module, "SHARES", (0.05, 0.1))
    validation = organism.validation().split(24, 0)[0]
    contrast = organism.anchors().split(48, 0)[0]
    found = CAST.fit(bundled, contrast, validation=validation, layers=[6, 7, 8], progress=False)
    assert found.chosen is not None
    assert found.chosen.harmless[0] < found.trials[0].harmless[0] and found.chosen.harmful[0] >= 23
