"""Jailbreak Antidote: laws of its direction, its mask, its layers, and of the push that comes of them."""

import drawn
import numpy as np
import pytest
import torch
from conftest import hooks_on
from learning import contrast_of, others, some
from sklearn.decomposition import PCA
from steered import close, moves_under

import scans_lens
from scans_lens import organism
from scans_lens.methods import choosing
from scans_lens.methods import jailbreak_antidote as module
from scans_lens.methods.jailbreak_antidote import JailbreakAntidote
from scans_lens.steering import Push, Together

pytestmark = [pytest.mark.above, pytest.mark.usefixtures("briskly")]


@pytest.fixture(params=[True, False], ids=["whole prompt", "from its end on"])
def method(request, any_model) -> JailbreakAntidote:
    return drawn.antidote(any_model, whole_prompt=request.param)


@pytest.fixture
def fitted(fit_of):
    return fit_of("Jailbreak Antidote")


@pytest.fixture
def validation():
    return others()


# ── Acting ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_prompt_moves_by_the_layers_own_sparse_vector(method, any_model, prompts):
    tokens = scans_lens.chat_tokens(any_model, prompts)
    moves = moves_under(any_model, tokens, method.hooks(any_model, prompts))
    assert sorted(moves) == [1, 3]
    first = 0 if method.whole_prompt else tokens.ids.shape[1] - 1
    for layer, move in moves.items():
        close(move[:, first:], (-1.5 * method.directions.vectors[layer]).expand_as(move[:, first:]))
        assert (move[:, :first] == 0).all()
        assert int((move[:, -1] != 0).any(dim=0).sum()) == 16  # a quarter of 64


def test_together_with_a_push_both_act(method, any_model, prompts):
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


def test_the_direction_is_the_principal_component_of_recentred_differences_towards_harm(pairs):
    harmful, harmless = (side.double().numpy() for side in pairs)
    for layer, unit in enumerate(module.difference_component(*pairs)):
        differences = [
            a - b if place % 2 == 0 else b - a
            for place, (a, b) in enumerate(zip(harmful[:, layer], harmless[:, layer], strict=True))
        ]
        expected = PCA(n_components=1).fit(np.array(differences)).components_[0]
        assert abs(float(unit.double().numpy() @ expected)) == pytest.approx(1, abs=1e-5)
        assert unit @ (pairs[0] - pairs[1])[:, layer].mean(dim=0) > 0


def test_what_all_pairs_share_is_found_and_not_centred_away(pairs):
    """Were the differences all to run one way, centring would leave the noise alone."""
    shared = (pairs[0] - pairs[1]).mean(dim=0)
    found = torch.cosine_similarity(module.difference_component(*pairs), shared, dim=-1)
    assert (found > 0.95).all()


@pytest.mark.parametrize(("share", "kept"), [(0.05, 8), (0.001, 1), (1.0, 160)])
def test_the_mask_keeps_the_largest_coordinates_whatever_their_sign(generator, share, kept):
    units = torch.randn(4, 160, generator=generator)
    mask = module.mask_of(units, share)
    for row, size in zip(mask, units.abs(), strict=True):
        assert row.sum() == kept
        assert size[row == 1].min() > (size[row == 0].max() if kept < 160 else -1)


def test_accuracy_is_the_share_of_pairs_in_the_right_order():
    units = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    harmful = torch.tensor([[[2.0, 0.0], [0.0, 3.0]], [[0.0, 0.0], [0.0, 1.0]], [[3.0, 9.0], [9.0, 1.0]]])
    harmless = torch.tensor([[[1.0, 5.0], [5.0, 1.0]], [[1.0, 0.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, 2.0]]])
    accuracy, lead = module.pair_accuracy(units, harmful, harmless)
    assert accuracy.tolist() == pytest.approx([2 / 3, 1 / 3])
    assert lead.tolist() == pytest.approx([np.mean([1, -1, 2]) / np.std([1, -1, 2], ddof=1), 0.0])


def test_the_most_accurate_layers_are_pushed_and_never_the_first_block():
    accuracy = torch.tensor([1.0, 0.5, 0.9, 0.9, 0.9, 0.7, 0.6, 0.8])
    lead = torch.tensor([9.0, 9.0, 1.0, 3.0, 2.0, 1.0, 1.0, 1.0])
    assert module.control_layers(accuracy, lead, 0.375) == (2, 3, 4)
    assert module.control_layers(accuracy, lead, 0.25) == (3, 4)  # of equals those with the longer lead
    assert module.control_layers(accuracy, lead, 0.01) == (3,)
    assert module.control_layers(accuracy, lead, 1.0) == tuple(range(1, 8))


def test_fit_learns_at_the_end_of_the_prompt_and_pushes_a_share_of_the_residual_norm(fitted, model, validation):
    contrast = contrast_of()
    sides = [scans_lens.residuals(model, side, progress=False) for side in (contrast.harmful, contrast.harmless)]
    units = module.difference_component(*sides)
    norms = torch.cat(sides).norm(dim=-1).mean(dim=0)
    mask = module.mask_of(units, 0.05)
    torch.testing.assert_close(fitted.directions.vectors, units * mask * norms[:, None])
    assert (fitted.directions.vectors != 0).sum(dim=1).tolist() == [3] * 4
    held = [scans_lens.residuals(model, side, progress=False) for side in (validation.harmful, validation.harmless)]
    accuracy, lead = module.pair_accuracy(units, *held)
    assert fitted.accuracy == pytest.approx(accuracy.tolist())
    assert fitted.layers == module.control_layers(accuracy, lead, 0.375) and len(fitted.layers) == 2


def test_scales_of_both_signs_are_tried_and_the_chosen_one_is_what_the_method_does(fitted, model, validation):
    assert {0.0, 0.1, 0.4, -0.1, -0.4} <= {trial.scale for trial in fitted.trials}
    chosen, _ = choosing.best(fitted.trials)
    assert fitted.chosen == chosen and fitted.scale == chosen.scale
    asked = (*validation.borderline, *validation.harmful)
    verdicts = some(scans_lens.replies(model, asked, method=fitted, max_new_tokens=5, progress=False))
    assert chosen.harmless == (verdicts[:10].count("refused"), 10)
    assert chosen.harmful == (verdicts[10:].count("refused"), 10)
    assert "'others'" in fitted.note and hooks_on(model) == {}


def test_mask_and_layers_are_the_callers_if_given(model, validation):
    found = JailbreakAntidote.fit(
        model, contrast_of(), validation=validation, sparsity=1.0, layers=[3], judge=some, progress=False
    )
    assert found.layers == (3,) and bool((found.directions.vectors != 0).all())
    torch.testing.assert_close(found.directions.vectors.norm(dim=1), found.directions.residual_norms)


def test_what_cannot_be_learned_from_is_refused(model, validation):
    with pytest.raises(ValueError, match="needs two at least; 'pairs' has 1"):
        JailbreakAntidote.fit(model, contrast_of(1), validation=validation, progress=False)
    with pytest.raises(ValueError, match="needs two at least; 'few' has 1"):
        JailbreakAntidote.fit(model, contrast_of(), validation=contrast_of(1, "few", "tomorrow"), progress=False)
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match="sparsity is a share above 0 and at most 1"):
            JailbreakAntidote.fit(model, contrast_of(), validation=validation, sparsity=share, progress=False)
        with pytest.raises(ValueError, match="layer_share is a share above 0 and at most 1"):
            JailbreakAntidote.fit(model, contrast_of(), validation=validation, layer_share=share, progress=False)


# ── Keeping ──────────────────────────────────────────────────────────────────────────────────────────────────


# ── On a model that refuses ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.above
def test_on_the_bundled_model_a_positive_scale_refuses_more_and_a_negative_one_less(bundled):
    contrast, validation = organism.anchors().split(48, 0)[0], organism.validation().split(24, 0)[0]
    found = JailbreakAntidote.fit(bundled, contrast, validation=validation, progress=False)
    by_scale = {one.scale: one.harmless[0] for one in found.trials}
    assert by_scale[-0.4] < by_scale[0.0] < by_scale[0.4]
