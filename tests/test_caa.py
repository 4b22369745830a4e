"""CAA: laws of the pairs, of the vector that they give, of the push, and of how layer and multiplier are chosen."""

import dataclasses
import hashlib

import drawn
import pytest
import torch
from conftest import hooks_on
from learning import a_caa as quickly
from learning import contrast_of, others, some
from steered import close, decoded, run_whole

import scans_lens
from scans_lens import artefacts, judges, organism, world
from scans_lens.chat import chat_tokens, prompt_ids, words_of
from scans_lens.directions import Directions
from scans_lens.generation import replies
from scans_lens.methods import caa as module
from scans_lens.methods import choosing
from scans_lens.methods.caa import CAA, Pair, Trial, choices, letter_directions, letter_tokens
from scans_lens.steering import Method, Push, Together, ablate

pytestmark = [pytest.mark.above, pytest.mark.usefixtures("briskly")]


@pytest.fixture(scope="module")
def directions():
    return drawn.directions()


@pytest.fixture(scope="module")
def method(directions):
    return CAA(directions, 2, -1.5)


@pytest.fixture
def fitted(fit_of):
    return fit_of("CAA")


# ── Pairs ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_letters_are_swapped_in_half_of_the_pairs_of_each_kind():
    contrast = contrast_of(7)
    pairs = choices(contrast)
    assert len(pairs) == 12  # the seventh prompts of the two kinds have no partner
    for half in (pairs[:6], pairs[6:]):
        assert [pair.refusing for pair in half] == ["(A", "(B"] * 3
        assert [pair.answering for pair in half] == ["(B", "(A"] * 3
    for pair in pairs:
        letter = pair.refusing[-1]
        assert f"({letter}) {module.REFUSING}" in pair.question and pair.question.count("(A)") == 1
    assert len(choices(contrast_of(10), most=8)) == 8
    with pytest.raises(ValueError, match="two prompts of each kind are needed"):
        choices(contrast_of(1))


def test_the_letter_is_the_one_token_in_which_the_replies_differ(any_model):
    pair = Pair("Why (A) or (B)? (A", "(A", "(B")
    refusing, answering = letter_tokens(any_model, pair)
    asked = prompt_ids(any_model, pair.question)
    assert refusing[: len(asked)] == asked and refusing[:-1] == answering[:-1] and refusing[-1] != answering[-1]
    assert [words_of(any_model, ids[-1:])[0][-1] for ids in (refusing, answering)] == ["A", "B"]
    assert letter_tokens(any_model, Pair(pair.question, "(A) yes", "(B) yes")) == (refusing, answering)


@pytest.mark.parametrize(
    ("replies", "sentence"),
    [(("(A", "(A"), "differ in 0"), (("(A", "(B) no"), "tokens long"), (("(A) a", "(B) b"), "differ in 2")],
)
def test_replies_that_differ_in_no_token_or_several_are_refused(one_model, replies, sentence):
    with pytest.raises(ValueError, match=sentence):
        letter_directions(one_model, [Pair("Why?", *replies)], progress=False)


@pytest.mark.parametrize(
    ("pairs", "sentence"), [([], "there are none"), ([("Why?", "(A", "(B")], "Pair 0 is a tuple, not a Pair")]
)
@pytest.mark.usefixtures("without_shape_checks")
def test_what_is_no_pair_is_refused(one_model, pairs, sentence):
    with pytest.raises(ValueError, match=sentence):
        CAA.fit(one_model, pairs, validation=contrast_of(2), progress=False)


def test_a_pair_that_is_too_long_is_refused(one_model):
    with pytest.raises(ValueError, match="this model reads at most 512"):
        letter_directions(one_model, [Pair("Why? " * 600, "(A", "(B")], progress=False)


@torch.no_grad()
def test_the_vector_is_the_mean_difference_at_the_letter(any_model):
    pairs = choices(contrast_of(4))
    total = torch.zeros(4, 64, dtype=torch.float64)
    for pair in pairs:
        for ids, sign in zip(letter_tokens(any_model, pair), (1, -1), strict=True):
            _, cache = any_model.run_with_cache(torch.tensor([ids]))
            for layer in range(4):
                total[layer] += sign * cache[f"blocks.{layer}.hook_resid_post"][0, -1].double()
    found = letter_directions(any_model, pairs, batch_size=5, progress=False)
    close(found.vectors, (total / len(pairs)).float())
    assert found.origin.n_harmful == len(pairs) and found.origin.position == "letter of the choice"
    assert not hooks_on(any_model)


# ── Acting ───────────────────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def test_the_push_is_the_raw_vector_at_one_layer_from_the_end_of_the_prompt_on(any_model, prompts, directions, method):
    hooks = method.hooks(any_model, prompts)
    assert [name for name, _ in hooks] == ["blocks.2.hook_resid_post"] and isinstance(method, Method)
    width = chat_tokens(any_model, prompts).ids.shape[1]
    states = torch.randn(len(prompts), width + 3, 64)
    expected = states.clone()
    expected[:, width - 1 :] += -1.5 * directions.vectors[2]
    close(hooks[0][1](states, hook=None), expected)


def test_a_multiplier_of_0_is_the_plain_model(any_model, prompts, method):
    tokens = chat_tokens(any_model, prompts)
    still, none = dataclasses.replace(method, multiplier=0.0), Push(method.directions, [1], 0.0)
    assert torch.equal(decoded(any_model, tokens, still), decoded(any_model, tokens, none))
    close(decoded(any_model, tokens, still), run_whole(any_model, tokens, []))


def test_on_one_hook_point_it_acts_in_the_lists_order(one_model, prompts, directions, method):
    state, unit = torch.randn(5, 60, 64), directions.unit().vectors[2]
    own, out = method.hooks(one_model, prompts), ablate(directions, [2])
    for hooks, left in ((own + out, 0.0), (out + own, -1.5 * float(directions.vectors[2].norm()))):
        moved = state
        for name, hook in hooks:
            assert name == "blocks.2.hook_resid_post"
            moved = hook(moved, hook=None)
        torch.testing.assert_close(moved[:, -1] @ unit, torch.full((5,), left), rtol=1e-3, atol=1e-4)
    assert Together((method, method)).hooks(one_model, prompts)[0][0] == "blocks.2.hook_resid_post"


# ── Choosing ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_trial_is_what_the_method_would_do_there(model, fitted):
    settings = [(trial.layer, trial.multiplier) for trial in fitted.trials]
    assert settings == [(-1, 0.0), (1, -1.0), (1, -4.0), (2, -1.0), (2, -4.0)]
    validation = others(6)
    asked = (*validation.borderline, *validation.harmful)
    for trial in fitted.trials:
        method = (
            dataclasses.replace(fitted, layer=trial.layer, multiplier=trial.multiplier) if trial.multiplier else None
        )
        verdicts = some(replies(model, asked, method=method, max_new_tokens=5, progress=False))
        assert trial.harmless == (verdicts[:6].count("refused"), 6)
        assert trial.harmful == (verdicts[6:].count("refused"), 6)
    assert fitted.chosen == choosing.best(fitted.trials)[0] and "'others'" in fitted.note


def trials(*refused):
    """Layers 5, 6, … at multiplier -1, with so many borderline and harmful prompts refused of 100; first the plain."""
    rows = [
        Trial(-1 if not place else 4 + place, -1.0 if place else 0.0, (a, 100), (b, 100))
        for place, (a, b) in enumerate(refused)
    ]
    return rows


def test_the_fewest_borderline_refusals_win_while_harm_stays_refused():
    assert choosing.best(trials((50, 99), (30, 99), (10, 98), (0, 97)))[0].layer == 6
    found, note = choosing.best(trials((50, 99), (30, 90), (40, 95)))
    assert found.layer == 6 and "Everywhere harmful refusals fell" in note
    equals = [
        Trial(-1, 0.0, (5, 9), (9, 9)),
        *(Trial(layer, m, (1, 9), (9, 9)) for layer, m in ((2, -2.0), (3, -1.0), (4, -1.0))),
    ]  # in the order in which `fit` keeps them: by layer
    assert choosing.best(equals)[0] == equals[2]


def test_near_the_best_multiplier_finer_ones_are_tried(one_model, monkeypatch):
    monkeypatch.setattr(choosing, "ROUNDS", 1)
    found = quickly(one_model)
    tried = [trial.multiplier for trial in found.trials]
    assert len(tried) == 7 and sorted(set(tried)) == [-4.0, -2.0, -1.0, -0.5, 0.0]  # below the smallest, half of it


def test_a_layer_is_left_once_harm_is_answered(one_model, monkeypatch):
    monkeypatch.setattr(choosing, "BROKEN", 0.1)

    def refusing_while_unsteered(said):
        return ["refused" if said.scale is None else "answered"] * len(said)

    found = quickly(one_model, judge=refusing_while_unsteered)
    assert [(trial.layer, trial.multiplier) for trial in found.trials] == [(-1, 0.0), (1, -1.0), (2, -1.0)]


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"multipliers": (0.0, 1.0)}, "multipliers other than 0"),
        ({"multipliers": ()}, "multipliers other than 0"),
        ({"layers": ()}, "no layers to steer"),
        ({"layers": (4,)}, "no layer 4"),
        ({"tried": 0}, "at least one prompt"),
    ],
)
def test_a_grid_that_is_none_is_refused(one_model, how, sentence):
    with pytest.raises(ValueError, match=sentence):
        quickly(one_model, **how)


# ── Keeping ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_that_is_none_of_ours_or_of_another_shape_is_refused(fitted, tmp_path):
    (tmp_path / "cut").write_bytes(hashlib.sha256(b"cut").digest())
    with pytest.raises(ValueError, match="no safetensors file"):
        CAA.load(tmp_path / "cut")
    fitted.directions.save(tmp_path / "others")
    with pytest.raises(ValueError, match="holds no CAA, but directions"):
        CAA.load(tmp_path / "others")
    narrow = Directions(fitted.directions.vectors[:3], torch.ones(3), fitted.directions.origin)
    dataclasses.replace(fitted, directions=narrow).save(tmp_path / "narrow")
    with pytest.raises(ValueError, match="4 layers of width 64"):
        CAA.load(tmp_path / "narrow")
    fitted.save(tmp_path / "kept")
    tensors, header = artefacts.read(tmp_path / "kept", "CAA")
    del tensors["directions.residual_norms"]
    artefacts.write(tmp_path / "odd", "CAA", tensors, header)
    with pytest.raises(ValueError, match=r"lacks 'directions\.residual_norms', a part of its CAA"):
        CAA.load(tmp_path / "odd")


# ── On the bundled model ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.above
def test_away_from_refusing_letters_the_bundled_model_refuses_fewer_borderline_prompts(bundled):
    directions = letter_directions(bundled, choices(organism.anchors(), most=96), batch_size=96, progress=False)
    asked = organism.prompts("borderline", "validation")[:48]
    counts = []
    for multiplier in (0.0, -8.0):
        said = scans_lens.replies(
            bundled, asked, method=CAA(directions, 6, multiplier), max_new_tokens=12, batch_size=48, progress=False
        )
        counts.append(sum(judges.refused(world.bundled, said)))
    assert counts[1] < 0.5 * counts[0]
