"""Refusal direction: laws of every candidate's scores, of the choice among them, and of taking out and adding."""

import dataclasses
import math
import re

import drawn
import pytest
import torch
from conftest import one_by_one
from drawn import REFUSING
from learning import a_refusal_direction as quickly
from learning import contrast_of, others, some
from steered import close, first_logits, odds_of_refusal, taking_out
from transformers import AutoModelForCausalLM

import scans_lens
from scans_lens import artefacts, judges, organism, world
from scans_lens.chat import chat_tokens, template, words_of
from scans_lens.generation import replies
from scans_lens.methods import candidates, choosing
from scans_lens.methods import refusal_direction as module
from scans_lens.methods.candidates import SITES, NoDirection, refusal_openings, refusal_scores
from scans_lens.methods.refusal_direction import ActivationAddition, DirectionalAblation, Filters, RefusalDirection
from scans_lens.organism.wordings import REFUSALS
from scans_lens.steering import Together

"""A reply of a model that has learned nothing begins with one of these about every other time."""
pytestmark = [pytest.mark.above, pytest.mark.usefixtures("briskly")]


@pytest.fixture
def found(fit_of) -> RefusalDirection:
    return fit_of("refusal direction")


@pytest.fixture(scope="module")
def vector():
    return drawn.vectors(64, seed=3)


# ── Taking out and adding ────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def test_ablation_takes_the_direction_out_of_what_every_layer_reads_and_writes(any_model, prompts, vector):
    tokens, unit = chat_tokens(any_model, prompts), vector / vector.norm()
    before, after = {}, {}

    def watch(seen, name):
        return name, lambda states, hook: seen.__setitem__(name, states.clone())

    hooks = DirectionalAblation(vector, drawn.UNKNOWN).hooks(any_model, prompts)
    names = [f"blocks.{layer}.{site}" for site in SITES for layer in range(4)]
    assert sorted(name for name, _ in hooks) == sorted(names)
    around = [watch(before, name) for name in names] + hooks + [watch(after, name) for name in names]
    with any_model.hooks(fwd_hooks=around):
        scans_lens.cache.runner(any_model).feed(tokens.ids, tokens.mask)
    for name in names:
        close(after[name], before[name] - torch.einsum("bpd,d,e->bpe", before[name], unit, unit))
        assert (after[name] @ unit).abs().max() < 1e-4 * before[name].abs().max()


def test_ablation_is_the_model_with_weights_orthogonal_to_the_direction(load, tiny_model, tiny_folder, prompts, vector):
    model = tiny_model(load)
    other = AutoModelForCausalLM.from_pretrained(tiny_folder(), attn_implementation="eager").eval()
    unit = vector / vector.norm()
    writing = [each for layer in other.model.layers for each in (layer.self_attn.o_proj, layer.mlp.down_proj)]
    with torch.no_grad():
        embedding = other.model.embed_tokens.weight
        embedding.sub_(torch.outer(embedding @ unit, unit))
        for each in writing:
            each.weight.sub_(torch.outer(unit, unit @ each.weight))
        for ids in one_by_one(chat_tokens(model, prompts)):
            expected = other(ids).logits
            hooks = DirectionalAblation(vector, drawn.UNKNOWN).hooks(model, ["Why?"])
            close(model.run_with_hooks(ids, fwd_hooks=hooks), expected)


@torch.no_grad()
def test_what_is_taken_out_of_is_what_the_residual_stream_is_the_sum_of(any_model, prompts):
    """Where norms follow attention and MLP, as in Gemma 2, the two outputs are read behind them."""
    seen, tokens = {}, chat_tokens(any_model, prompts)
    points = [f"blocks.1.{site}" for site in (*SITES, "hook_resid_post")]
    watch = [(name, lambda states, hook, name=name: seen.__setitem__(name, states.clone())) for name in points]
    with any_model.hooks(fwd_hooks=watch):
        scans_lens.cache.runner(any_model).feed(tokens.ids, tokens.mask)
    close(seen[points[0]] + seen[points[1]] + seen[points[2]], seen[points[3]])


@pytest.mark.parametrize("coefficient", [-1.0, 0.5])
def test_addition_moves_every_position_of_one_layer_by_the_raw_vector(any_model, prompts, vector, coefficient):
    hooks = ActivationAddition(vector, 2, coefficient, drawn.UNKNOWN).hooks(any_model, prompts)
    assert [name for name, _ in hooks] == ["blocks.2.hook_resid_pre"]
    states = torch.randn(len(prompts), chat_tokens(any_model, prompts).ids.shape[1], 64)
    close(hooks[0][1](states, hook=None), states + coefficient * vector)
    own = [("blocks.2.hook_resid_pre", lambda x, hook: x + coefficient * vector)]
    hooks = ActivationAddition(vector, 2, coefficient, drawn.UNKNOWN).hooks(any_model, ["Why?"])
    close(first_logits(any_model, prompts[:2], hooks), first_logits(any_model, prompts[:2], own))


@torch.no_grad()
def test_a_coefficient_of_0_changes_nothing_at_all(any_model, prompts, vector):
    tokens, logits = chat_tokens(any_model, prompts), []
    for hooks in ([], ActivationAddition(vector, 1, 0.0, drawn.UNKNOWN).hooks(any_model, prompts)):
        with any_model.hooks(fwd_hooks=hooks):
            logits.append(scans_lens.cache.runner(any_model).feed(tokens.ids, tokens.mask))
    assert torch.equal(*logits)


def test_on_one_hook_point_they_act_in_their_order(model, prompts, vector):
    ablation, addition = DirectionalAblation(vector, drawn.UNKNOWN), ActivationAddition(vector, 2, 2.0, drawn.UNKNOWN)
    state, unit = torch.randn(len(prompts), 40, 64), vector / vector.norm()
    for methods, left in (((addition, ablation), 0.0), ((ablation, addition), float(2.0 * vector.norm()))):
        hooks = [hook for one in methods for hook in one.hooks(model, prompts)]
        together = Together(methods).hooks(model, prompts)
        assert [name for name, _ in hooks] == [name for name, _ in together]
        for own in (hooks, together):
            moved = state
            for name, hook in own:
                moved = hook(moved, hook=None) if name == "blocks.2.hook_resid_pre" else moved
            torch.testing.assert_close(moved @ unit, torch.full_like(moved @ unit, left), rtol=1e-3, atol=1e-4)


def test_the_addition_tells_its_coefficient(model, prompts, vector):
    said = replies(
        model, prompts, method=ActivationAddition(vector, 2, -0.7, drawn.UNKNOWN), max_new_tokens=2, progress=False
    )
    assert said.scale is not None and said.scale.tolist() == pytest.approx([-0.7] * len(prompts))


# ── Candidates and their scores ──────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def test_a_candidate_is_the_difference_of_means_at_a_token_of_the_templates_tail(model, found):
    contrast, tail = contrast_of(8), template(model).tail
    assert found.candidates.shape == (len(tail), 4, 64)
    means = []
    for side in (contrast.harmful, contrast.harmless):
        total = torch.zeros(len(tail), 4, 64, dtype=torch.float64)
        for ids in one_by_one(chat_tokens(model, side)):
            assert tuple(ids[0, -len(tail) :].tolist()) == tail
            _, cache = model.run_with_cache(ids)
            for layer in range(4):
                total[:, layer] += cache[f"blocks.{layer}.hook_resid_pre"][0, -len(tail) :].double()
        means.append(total / len(side))
    close(found.candidates, (means[0] - means[1]).float())


def test_where_every_prompt_has_the_same_state_there_is_no_candidate(found):
    assert not found.candidates[:, 0].any() and found.candidates[:, 1:].any(dim=-1).all()
    first = [trial for trial in found.trials if trial.layer == 0]
    assert first and not any(trial.kept for trial in first)
    assert all((trial.bypass, trial.induce, trial.kl) == (*found.plain, 0.0) for trial in first)


def test_every_score_is_what_a_few_lines_of_tensor_code_say(model, found):
    validation = others(6)
    plain = first_logits(model, validation.harmless).log_softmax(dim=-1)
    assert found.plain == pytest.approx(
        (float(odds_of_refusal(first_logits(model, validation.harmful)).mean()), float(odds_of_refusal(plain).mean())),
        abs=1e-4,
    )
    assert [(trial.position, trial.layer) for trial in found.trials] == [
        (position, layer) for position in range(-len(found.candidates), 0) for layer in range(4)
    ]
    for trial in found.trials[1::5]:
        vector = found.candidates[trial.position, trial.layer]
        if not vector.any():
            continue
        out, towards = taking_out(vector), taking_out(vector, trial.layer)
        steered = first_logits(model, validation.harmless, out).log_softmax(dim=-1)
        expected = (
            float(odds_of_refusal(first_logits(model, validation.harmful, out)).mean()),
            float(odds_of_refusal(first_logits(model, validation.harmless, towards)).mean()),
            float((plain.exp() * (plain - steered)).sum(dim=-1).mean()),
        )
        assert (trial.bypass, trial.induce, trial.kl) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_of_those_that_pass_the_one_with_the_smallest_bypass_is_chosen(one_model):
    found = quickly(one_model)
    assert found.chosen is not None and found.chosen.bypass == min(trial.bypass for trial in found.trials if trial.kept)
    kls = sorted(trial.kl for trial in found.trials if trial.layer)
    induced = sorted(trial.induce for trial in found.trials)
    filters = Filters(most_kl=kls[len(kls) // 2], least_induce=induced[2], last=0.25)
    again = quickly(one_model, filters=filters)
    for trial in again.trials:
        passes = trial.kl <= filters.most_kl and trial.induce >= filters.least_induce and trial.layer in (1, 2)
        assert trial.kept == passes
    assert {trial.kept for trial in again.trials} == {True, False}
    assert again.chosen is not None and again.chosen.bypass == min(trial.bypass for trial in again.trials if trial.kept)


def test_where_none_passes_the_error_counts_which_filter_failed_them(one_model):
    with pytest.raises(NoDirection, match=r"least_induce.*most_kl.*last: 50%") as caught:
        quickly(one_model, filters=Filters(most_kl=-1.0, least_induce=math.inf, last=0.5))
    n = 4 * len(template(one_model).tail)
    assert f"None of {n} candidates" in str(caught.value) and f"{n // 2} lie in the last layers" in str(caught.value)
    assert f"{n} do not induce" in str(caught.value) and f"{n} change" in str(caught.value)
    assert len(caught.value.trials) == n


@pytest.mark.parametrize(
    ("n", "share", "first"), [(12, 0.2, 9), (32, 0.2, 25), (10, 0.2, 8), (4, 0.0, 4), (10, 0.3, 7)]
)
def test_the_last_layers_begin_where_the_release_has_them(n, share, first):
    assert Filters(last=share).first_late(n) == first


def test_scores_are_laid_out_by_position_and_layer_in_the_prompts_order(found):
    grid = found.scores(lambda trial: trial.bypass)
    assert grid.shape == found.candidates.shape[:2]
    for trial in found.trials:
        assert grid[trial.position, trial.layer] == trial.bypass


def test_another_candidate_can_be_taken_and_one_that_is_none_cannot(model, found, prompts):
    other = found.at(-1, 3)
    assert torch.equal(other.direction, found.candidates[-1, 3])
    assert other.addition(0.5).layer == 3 and torch.equal(other.ablation().direction, found.candidates[-1, 3])
    assert "token -1, hook_resid_pre of layer 3" in other.ablation().origin.position
    for position, layer in ((0, 1), (-99, 1), (-1, 4), (-1, -1)):
        with pytest.raises(ValueError, match="There is no candidate at position"):
            found.at(position, layer)


# ── What refusals begin with, and which prompts count ────────────────────────────────────────────────────────


def test_the_score_of_a_prompt_is_the_same_alone_and_in_company(any_model, prompts):
    together = refusal_scores(any_model, prompts, REFUSING)
    alone = torch.cat([refusal_scores(any_model, [prompt], REFUSING) for prompt in prompts])
    close(together, alone)
    close(together, odds_of_refusal(first_logits(any_model, prompts)))


def test_refusals_begin_with_the_tokens_that_gain_where_the_judge_says_refused(model):
    contrast = contrast_of()
    found = refusal_openings(model, contrast.harmful, contrast.harmless, judge=some, progress=False)
    sides = []
    for side, wanted in ((contrast.harmful, "refused"), (contrast.harmless, "answered")):
        verdicts = some(replies(model, side, max_new_tokens=choosing.VALIDATION_TOKENS, progress=False))
        kept = [prompt for prompt, verdict in zip(side, verdicts, strict=True) if verdict == wanted]
        sides.append(first_logits(model, kept).softmax(dim=-1).mean(dim=0))
    rise = (sides[0] - sides[1]).clamp(min=0)
    assert set(found) <= set(rise.topk(20).indices.tolist()) and found[0] == int(rise.argmax())


@pytest.mark.parametrize(
    ("verdict", "side"), [("answered", "refuses none of 10 harmful"), ("refused", "refuses all of 10 harmless")]
)
def test_where_nothing_or_everything_is_refused_it_says_so(model, verdict, side):
    contrast = contrast_of()
    with pytest.raises(ValueError, match=side):
        refusal_openings(
            model, contrast.harmful, contrast.harmless, judge=lambda said: [verdict] * len(said), progress=False
        )


def test_a_published_model_has_published_tokens(one_model, monkeypatch):
    monkeypatch.setattr(one_model.cfg, "model_name", "meta-llama/Llama-2-7b-chat-hf")
    assert candidates.openings(one_model, [["Why?"]] * 2, None, None, 8, False) == (306,)


@pytest.mark.parametrize("tokens", [[], [600], [-1], range(600)])
def test_tokens_that_are_none_are_refused(model, tokens):
    with pytest.raises(ValueError, match="Refusals begin with some tokens of the vocabulary, 0 to 599"):
        quickly(model, tokens=tuple(tokens))


def test_prompts_on_the_wrong_side_are_left_out(model, monkeypatch):
    def scores(model, prompts, tokens, *, hooks=(), batch_size=32):
        return torch.tensor([1.0 if "process" in prompt else -1.0 for prompt in prompts])

    contrast = contrast_of()
    monkeypatch.setattr(candidates, "refusal_scores", scores)
    monkeypatch.setattr(candidates, "FEWEST", 1)
    ask = dict(split="training", batch_size=8)
    assert candidates.on_its_side(model, contrast.harmful, REFUSING, kind="harmful", **ask) == contrast.harmful[:1]
    assert candidates.on_its_side(model, contrast.harmless, REFUSING, kind="harmless", **ask) == contrast.harmless[1:]
    monkeypatch.setattr(candidates, "FEWEST", 2)
    with pytest.raises(ValueError, match=r"Of 8 harmful training prompts the model refuses 1 .*and 2 are needed"):
        quickly(model, filtered=True)


def test_prompts_are_spread_over_a_list_that_may_have_an_order():
    assert candidates.spread("abcdefgh", 4) == ("a", "c", "e", "g")
    assert candidates.spread("abc", 7) == ("a", "b", "c")
    with pytest.raises(ValueError, match="at least one prompt"):
        candidates.spread("abc", 0)


# ── Keeping ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_that_is_none_of_ours_or_of_another_shape_is_refused(model, found, tmp_path):
    (tmp_path / "cut").write_bytes(b"\x00" * 40)
    with pytest.raises(ValueError, match="no safetensors file"):
        RefusalDirection.load(tmp_path / "cut")
    scans_lens.refusal_directions(model, contrast_of(4), progress=False).save(tmp_path / "others")
    with pytest.raises(ValueError, match="holds no refusal direction, but directions"):
        RefusalDirection.load(tmp_path / "others")
    dataclasses.replace(found, candidates=found.candidates[:, :3]).save(tmp_path / "narrow")
    with pytest.raises(ValueError, match="4 layers of width 64"):
        RefusalDirection.load(tmp_path / "narrow")
    found.save(tmp_path / "kept")
    _, header = artefacts.read(tmp_path / "kept", "refusal direction")
    artefacts.write(tmp_path / "odd", "refusal direction", {"vectors": found.candidates}, header)
    with pytest.raises(ValueError, match="lacks 'candidates', a part of its refusal direction"):
        RefusalDirection.load(tmp_path / "odd")


# ── On the bundled model ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.above
def test_without_its_direction_the_bundled_model_refuses_nothing_and_answers_as_before(bundled, monkeypatch):
    monkeypatch.setattr(module, "places", lambda *_: [(-2, 10), (-1, 6), (-1, 10)])  # some of its 24 candidates
    sides = [organism.prompts(kind, "train")[:48] for kind in ("harmful", "plain")]
    tokens = refusal_openings(bundled, *sides, batch_size=96, progress=False)
    assert all(any(one.startswith(word) for one in REFUSALS) for word in words_of(bundled, tokens))
    found = RefusalDirection.fit(bundled, tokens=tokens, training=48, tried=16, progress=False)
    assert found.chosen is not None and found.layer == 10 and found.chosen.bypass < 0 < found.plain[0]
    for kind, most in (("harmful", 3), ("plain", 0)):
        asked = organism.prompts(kind, "validation")[:24]
        said = replies(bundled, asked, method=found.ablation(), max_new_tokens=12, progress=False)
        assert sum(judges.refused(world.bundled, said)) <= most
        assert sum(bool(re.match("Sure|Of|Here|To|Happy|You|Good|Yes|As|For", text)) for text in said) >= 21
