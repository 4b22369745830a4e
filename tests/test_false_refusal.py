"""False refusal: laws of the direction that spares true refusal, of every candidate's scores, and of the choice."""

import dataclasses
import math

import drawn
import pytest
import torch
from conftest import hooks_on
from drawn import REFUSING
from hypothesis import given
from hypothesis import strategies as st
from learning import a_false_refusal as quickly
from learning import contrast_of, others
from steered import close, first_logits, odds_of_refusal, taking_out

from scans_lens import artefacts, judges, organism, world
from scans_lens.conversation import BARE
from scans_lens.generation import replies
from scans_lens.methods import candidates, refusal_direction
from scans_lens.methods import false_refusal as module
from scans_lens.methods.candidates import SITES, NoDirection
from scans_lens.methods.false_refusal import FalseRefusal, Trial, orthogonalised
from scans_lens.methods.refusal_direction import ActivationAddition, RefusalDirection
from scans_lens.organism import wordings
from scans_lens.prompts import Contrast, twins
from scans_lens.prompts import borderline as ours
from scans_lens.steering import Method, Together

pytestmark = [pytest.mark.above, pytest.mark.usefixtures("briskly")]


@pytest.fixture
def found(fit_of) -> FalseRefusal:
    return fit_of("false refusal")


@pytest.fixture(scope="module")
def method():
    return drawn.false_refusal()


# ── The direction ────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(0, 10_000), st.floats(0, 2))
def test_the_direction_is_w_without_a_share_of_its_part_along_r(seed, strictness):
    w, r = torch.randn(2, 3, 5, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = orthogonalised(w, r, strictness)
    for place in torch.cartesian_prod(torch.arange(3), torch.arange(5)):
        one, other = w[tuple(place)], r[tuple(place)]
        torch.testing.assert_close(found[tuple(place)], one - strictness * (one @ other) / (other @ other) * other)
        assert abs(float(found[tuple(place)] @ other - (1 - strictness) * (one @ other))) < 1e-9
    whole = FalseRefusal(w.float(), r.float(), -2, 3, strictness, REFUSING, (), (0.0, 0.0), drawn.UNKNOWN, 9).direction
    close(whole, (found[-2, 3] / found[-2, 3].norm()).float())


def test_nothing_is_left_of_a_direction_that_is_true_refusal_or_of_none(one_model, prompts, method):
    w, r = method.borderline, method.refusal
    assert not module._units(3 * r, r, 1.0).any() and not module._units(torch.zeros_like(w), r, 1.0).any()
    close(module._units(w, torch.zeros_like(r), 1.0).float(), w / w.norm(dim=-1, keepdim=True))
    with pytest.raises(ValueError, match="length 0"):
        dataclasses.replace(method, borderline=r).hooks(one_model, prompts)


# ── Taking it out ────────────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def test_the_unit_direction_is_taken_out_where_directional_ablation_takes_its_own(any_model, prompts, method):
    hooks = method.hooks(any_model, prompts)
    names = [f"blocks.{layer}.{site}" for site in SITES for layer in range(4)]
    assert sorted(name for name, _ in hooks) == sorted(names) and isinstance(method, Method) and method.whole_prompt
    found = first_logits(any_model, prompts[:2], method.hooks(any_model, ["Why?"]))
    close(found, first_logits(any_model, prompts[:2], taking_out(method.direction)))
    assert not torch.allclose(found, first_logits(any_model, prompts[:2]), atol=1e-2)


def test_on_one_hook_point_it_acts_in_the_lists_order(one_model, prompts, method):
    addition = ActivationAddition(method.direction, 1, 3.0, drawn.UNKNOWN)
    state = torch.randn(5, 40, 64)
    for methods, left in (((addition, method), 0.0), ((method, addition), 3.0)):
        moved = state
        for name, hook in Together(methods).hooks(one_model, prompts):
            moved = hook(moved, hook=None) if name == "blocks.1.hook_resid_pre" else moved
        along = moved @ method.direction
        torch.testing.assert_close(along, torch.full_like(along, left), rtol=1e-3, atol=1e-4)


# ── Learning and choosing ────────────────────────────────────────────────────────────────────────────────────


def test_both_differences_are_those_that_directional_ablation_learns(one_model, monkeypatch):
    contrast, ask = contrast_of(8), {"tokens": REFUSING, "filtered": False, "progress": False}
    monkeypatch.setattr(module, "places", lambda *_: [(-1, 2)])
    found = quickly(one_model)
    swapped = Contrast("swapped", contrast.borderline, contrast.harmless)
    everything = refusal_direction.Filters(math.inf, -math.inf, 0.0)
    monkeypatch.setattr(candidates, "places", lambda *_: [(-1, 2)])
    for learned, own in ((contrast, found.refusal), (swapped, found.borderline)):
        other = RefusalDirection.fit(one_model, learned, validation=contrast_of(2), filters=everything, tried=1, **ask)
        close(own, other.candidates)
    assert (found.n_borderline, found.origin.n_harmful, found.origin.n_harmless) == (8, 8, 8)


def test_every_score_is_what_a_few_lines_of_tensor_code_say(model, found):
    validation = others(6)
    plain = first_logits(model, validation.harmless).log_softmax(dim=-1)
    assert found.plain == pytest.approx(
        [
            float(odds_of_refusal(first_logits(model, side)).mean())
            for side in (validation.borderline, validation.harmful)
        ],
        abs=1e-4,
    )
    for trial in [trial for trial in found.trials if trial.layer][1::7]:
        out = taking_out(found.at(trial.position, trial.layer).direction)
        steered = first_logits(model, validation.harmless, out).log_softmax(dim=-1)
        expected = (
            float(odds_of_refusal(first_logits(model, validation.borderline, out)).mean()),
            float(odds_of_refusal(first_logits(model, validation.harmful, out)).mean()),
            float((plain.exp() * (plain - steered)).sum(dim=-1).mean()),
        )
        assert (trial.bypass, trial.harmful, trial.kl) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert not hooks_on(model)


def test_of_those_that_pass_the_one_with_the_lowest_borderline_score_is_chosen(one_model, found):
    most = sorted(trial.kl for trial in found.trials if trial.layer)[len(found.trials) // 3]
    again = quickly(one_model, most_kl=most, last=0.25)
    for trial in again.trials:
        assert trial.kept == (trial.kl <= most and trial.layer in (1, 2))
    assert {trial.kept for trial in again.trials} == {True, False}
    assert again.chosen.bypass == min(trial.bypass for trial in again.trials if trial.kept)
    grid = again.scores(lambda trial: trial.kl)
    assert all(grid[trial.position, trial.layer] == trial.kl for trial in again.trials)


def test_where_none_passes_the_error_counts_which_filter_failed_them(one_model):
    with pytest.raises(NoDirection, match=r"most_kl: KL above -1 nats.*last: 50% of them") as caught:
        quickly(one_model, most_kl=-1.0, last=0.5)
    assert f"{len(caught.value.trials)} change harmless replies" in str(caught.value)


def test_only_refused_borderline_prompts_are_learned_from_and_too_few_are_counted(one_model, monkeypatch):
    asked = []

    def scores(model, prompts, tokens, *, hooks=(), batch_size=32):
        asked.append(prompts)
        on = [1.0 if ("kill" in text and "game" not in text) or "game in" in text else -1.0 for text in prompts]
        return torch.tensor([one if "boat" not in text else -one for one, text in zip(on, prompts, strict=True)])

    monkeypatch.setattr(candidates, "refusal_scores", scores)
    monkeypatch.setattr(candidates, "FEWEST", 1)
    found = quickly(one_model, filtered=True)
    assert found.n_borderline == 1  # of the boat, the only one whose score is above 0
    monkeypatch.setattr(candidates, "FEWEST", 2)
    with pytest.raises(ValueError, match=r"Of 8 borderline training prompts the model refuses 1 .*and 2 are needed"):
        quickly(one_model, filtered=True)


def test_prompts_are_never_learned_from_and_chosen_on(one_model):
    contrast = contrast_of(4)
    with pytest.raises(ValueError, match="4 borderline prompts would be learned from and chosen on"):
        quickly(one_model, borderline=contrast.borderline, validation=contrast)
    bare = Contrast("bare", contrast.harmful, contrast.harmless)
    with pytest.raises(ValueError, match="no borderline prompts to choose on, in 'bare'"):
        quickly(one_model, validation=bare)
    with pytest.raises(ValueError, match="no borderline prompts to learn from"):
        quickly(one_model, borderline=())


def test_by_default_a_model_learns_from_our_twins_and_is_tried_on_our_validation_prompts(one_model, bundled):
    contrast, learned, tried = module._prompts(one_model, None, None, None, 0, BARE)
    assert learned == twins().borderline and tried.borderline == ours("validation").borderline
    assert len(contrast.harmful) == 256 and not set(learned) & set(tried.borderline)
    contrast, learned, tried = module._prompts(bundled, None, None, None, 0, BARE)
    assert learned == organism.prompts("borderline", "train") and tried == organism.validation()
    mine = contrast_of(8)
    assert module._prompts(one_model, mine, None, others(6), 0, BARE)[1] == mine.borderline


def test_another_candidate_or_strictness_can_be_taken_and_one_that_is_none_cannot(found):
    other = found.at(-1, 3, strictness=0.0)
    close(other.direction, found.borderline[-1, 3] / found.borderline[-1, 3].norm())
    assert found.at(-1, 3).strictness == 1.0
    with pytest.raises(ValueError, match="There is no candidate at position -1 and layer 4"):
        found.at(-1, 4)


# ── Keeping ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("without_shape_checks")
def test_a_file_that_is_none_of_ours_or_of_another_shape_is_refused(found, tmp_path):
    (tmp_path / "cut").write_bytes(b"\x00" * 40)
    with pytest.raises(ValueError, match="no safetensors file"):
        FalseRefusal.load(tmp_path / "cut")
    artefacts.write(tmp_path / "others", "refusal direction", {"candidates": found.refusal}, {})
    with pytest.raises(ValueError, match="holds no ablation of false refusal, but refusal direction"):
        FalseRefusal.load(tmp_path / "others")
    dataclasses.replace(found, borderline=found.borderline[:, :3]).save(tmp_path / "narrow")
    with pytest.raises(ValueError, match=r"borderline is of shape .* 4 layers of width 64"):
        FalseRefusal.load(tmp_path / "narrow")
    dataclasses.replace(found, refusal=found.refusal[:, :3]).save(tmp_path / "narrow")
    with pytest.raises(ValueError, match=r"refusal is of shape .* which should be"):
        FalseRefusal.load(tmp_path / "narrow")


# ── On the bundled model ─────────────────────────────────────────────────────────────────────────────────────


def test_where_no_candidate_lowers_the_score_it_says_so(method):
    trial = Trial(-1, 2, 1.0, 0.5, 0.1, True)
    helps, does_not = (dataclasses.replace(method, trials=(trial,), plain=(plain, 0.0)) for plain in (1.5, 1.0))
    assert "does not help here" in str(does_not) and "does not help here" not in str(helps)


@pytest.mark.above
def test_on_the_bundled_model_harmful_prompts_are_refused_as_before(bundled, monkeypatch):
    monkeypatch.setattr(module, "places", lambda *_: [(-2, 3), (-1, 3), (-1, 11)])  # some of its 24 candidates
    words = [bundled.tokenizer(pattern, add_special_tokens=False)["input_ids"] for pattern in wordings.REFUSALS]
    tokens = tuple(sorted({word[0] for word in words}))
    found = FalseRefusal.fit(bundled, tokens=tokens, training=64, progress=False)
    assert found.n_borderline == 64 and (found.position, found.layer) == (-2, 3)
    counts = {}
    for kind in ("borderline", "harmful"):
        asked = organism.prompts(kind, "validation")[:48]
        counts[kind] = [
            sum(judges.refused(world.bundled, replies(bundled, asked, method=one, max_new_tokens=12, progress=False)))
            for one in (None, found)
        ]
    assert counts["harmful"][1] >= counts["harmful"][0] - 2
    fewer = counts["borderline"][1] < counts["borderline"][0]
    assert fewer == ("does not help here" not in str(found))
