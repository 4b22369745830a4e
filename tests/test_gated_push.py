"""Gated push: laws of the gate, of both thresholds, and of how they and the scale are chosen."""

import json
from dataclasses import replace

import drawn
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learning import a_gated_push, contrast_of, others, some
from safetensors import safe_open
from safetensors.torch import load_file
from sklearn.linear_model import Ridge

import scans_lens
from scans_lens import organism
from scans_lens.comparison import grid
from scans_lens.conversation import Asking
from scans_lens.errors import Refused
from scans_lens.flight import Flight
from scans_lens.generation import replies
from scans_lens.methods import choosing, gating, ridge
from scans_lens.methods import gated_push as module
from scans_lens.methods.arms import Fitting
from scans_lens.methods.arms import fitted as fitted_way
from scans_lens.methods.choosing import FALL, Bench
from scans_lens.methods.gated_push import GatedPush
from scans_lens.methods.gating import Asked, Marks, Trial
from scans_lens.methods.ridge import RidgeGate
from scans_lens.prompts import Contrast
from scans_lens.reading import collect
from scans_lens.world import World, world_of

pytestmark = [pytest.mark.above, pytest.mark.usefixtures("briskly")]
N = 20


@pytest.fixture
def fitted(fit_of):
    return fit_of("gated push")


@pytest.fixture(params=["more numbers than prompts", "more prompts than numbers"])
def lessons(request, generator):
    """States of two layers [prompt layer d_model], which are harmful, and what each counts."""
    width = 24 if request.param.startswith("more numbers") else 5
    harmful = torch.arange(N) < 7
    states = torch.randn(N, 2, width, generator=generator) * 4 + harmful[:, None, None]
    return states, harmful, torch.where(torch.rand(N, generator=generator) > 0.5, 1.0, 0.3)


def rows_of(gate, states):
    """The states as the gate has them, [prompt number], in numpy's float64."""
    return ((states - gate.means) / gate.scales).flatten(1).double().numpy()


def ridge_of(gate, rows, labels, importance):
    return Ridge(alpha=gate.penalty, solver="svd").fit(rows, labels, sample_weight=importance)


# ── The gate ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_scores_are_those_of_a_weighted_ridge_regression(lessons, generator):
    states, harmful, shares = lessons
    gate = RidgeGate.fit(states, harmful, shares, (1, 2))
    labels, importance = np.where(harmful, 1.0, -1.0), ridge.balanced(harmful, shares).numpy()
    assert importance[harmful].sum() == pytest.approx(importance[~harmful].sum()) == pytest.approx(N / 2)
    model = ridge_of(gate, rows_of(gate, states), labels, importance)
    more = torch.cat([states, torch.randn(6, *states.shape[1:], generator=generator) * 9])
    np.testing.assert_allclose(gate.score(more).numpy(), model.predict(rows_of(gate, more)), atol=1e-5)
    assert model.intercept_ == pytest.approx(0, abs=1e-6)
    assert importance @ rows_of(gate, states) == pytest.approx(np.zeros(states[0].numel()), abs=1e-4)
    assert importance @ (rows_of(gate, states) ** 2).sum(axis=1) / N == pytest.approx(1, abs=1e-5)


def test_leave_one_out_errors_and_variances_are_those_of_explicit_refits(lessons):
    states, harmful, shares = lessons
    gate = RidgeGate.fit(states, harmful, shares, (1, 2))
    rows, labels = rows_of(gate, states), np.where(harmful, 1.0, -1.0)
    importance = ridge.balanced(harmful, shares)
    u, s, _ = np.linalg.svd(importance.sqrt().numpy()[:, None] * rows, full_matrices=False)
    u, s = torch.from_numpy(u[:, s > 1e-6]), torch.from_numpy(s[s > 1e-6])
    errors, variances = [], []
    for place in range(N):
        others = np.arange(N) != place
        model = ridge_of(gate, rows[others], labels[others], importance.numpy()[others])
        errors.append(labels[place] - model.predict(rows[place : place + 1])[0])
        z = np.concatenate([[1.0], rows[place]])
        wide = np.concatenate([np.ones((N, 1)), rows], axis=1)[others]
        inside = wide.T @ (importance.numpy()[others, None] * wide)
        variances.append(z @ np.linalg.solve(inside + gate.penalty * np.diag([0.0] + [1.0] * rows.shape[1]), z))
    found = ridge.left_out_errors(u, s, importance, torch.from_numpy(labels), gate.penalty)
    np.testing.assert_allclose(found.numpy(), errors, atol=1e-5)
    found = ridge.left_out_variances(u, s, importance, gate.penalty)
    np.testing.assert_allclose(found.numpy(), variances, rtol=1e-4)
    assert gate.limit == pytest.approx(np.quantile(variances, ridge.NOVEL), rel=1e-4)


def test_the_penalty_is_the_one_of_the_smallest_leave_one_out_error(lessons):
    states, harmful, shares = lessons
    gate = RidgeGate.fit(states, harmful, shares, (1, 2))
    rows, labels = rows_of(gate, states), np.where(harmful, 1.0, -1.0)
    importance = ridge.balanced(harmful, shares).numpy()
    missed = {}
    for penalty in ridge.PENALTIES:
        refit = replace(gate, penalty=penalty)
        missed[penalty] = 0.0
        for place in range(N):
            others = np.arange(N) != place
            model = ridge_of(refit, rows[others], labels[others], importance[others])
            missed[penalty] += importance[place] * (labels[place] - model.predict(rows[place : place + 1])[0]) ** 2
    assert gate.penalty == min(missed, key=missed.get)


def test_the_variance_of_any_prompt_is_the_regressions_and_grows_away_from_all_that_was_learned(lessons, generator):
    states, harmful, shares = lessons
    gate = RidgeGate.fit(states, harmful, shares, (1, 2))
    more = torch.randn(6, *states.shape[1:], generator=generator) * 9
    wide, asked = (np.concatenate([np.ones((len(each), 1)), rows_of(gate, each)], axis=1) for each in (states, more))
    inside = wide.T @ (ridge.balanced(harmful, shares).numpy()[:, None] * wide)
    inverse = np.linalg.inv(inside + gate.penalty * np.diag([0.0] + [1.0] * (wide.shape[1] - 1)))
    np.testing.assert_allclose(gate.variance(more).numpy(), ((asked @ inverse) * asked).sum(axis=1), rtol=1e-4)
    assert gate.novel(gate.means + 100 * (more - gate.means)).all() and not gate.novel(gate.means[None]).any()


# ── Acting ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_prompt_between_is_not_pushed_and_novelty_never_pushes_away():
    method = replace(drawn_method(), low=-0.5, high=0.25, gate=replace(drawn.gate(), limit=3.0))
    scores = torch.tensor([-0.6, -0.5, 0.0, 0.25, 0.3, -0.6, 0.3]).double()
    variances = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 3.5, 3.5]).double()
    assert method.signs(scores, variances).tolist() == [-1, 0, 0, 0, 1, 0, 1]


def drawn_method() -> GatedPush:
    return GatedPush(drawn.directions(), (1, 3), 1.5, drawn.gate(), 0.0, 0.0, drawn.UNKNOWN)


def test_the_scale_is_pushed_below_low_and_above_high_and_not_where_a_prompt_is_novel(any_model, prompts):
    tokens = scans_lens.chat_tokens(any_model, prompts)
    pushed = {novel: drawn.gated_push(any_model, prompts, novel) for novel in (0, 1)}
    rows = {novel: method.decide(Flight(any_model, tokens)) for novel, method in pushed.items()}
    order = rows[0]["score"].sort().indices
    assert rows[0]["scale"][order].tolist() == [-1.5, -1.5, 0, 1.5, 1.5]
    assert sorted(rows[1]["scale"][order][:2].tolist()) == [-1.5, 0] and rows[1]["scale"][order][2] == 0
    assert rows[1]["scale"][order][3:].tolist() == [1.5, 1.5]


def test_the_gate_decides_the_same_alone_and_in_company(any_model, prompts):
    method = drawn.gated_push(any_model, prompts)
    together = method.decide(Flight(any_model, scans_lens.chat_tokens(any_model, prompts)))
    for row, prompt in enumerate(prompts):
        alone = method.decide(Flight(any_model, scans_lens.chat_tokens(any_model, [prompt])))
        assert alone["scale"][0] == together["scale"][row]
        for name in ("score", "variance"):
            torch.testing.assert_close(alone[name][0], together[name][row], rtol=1e-4, atol=1e-4)


# ── Thresholds ───────────────────────────────────────────────────────────────────────────────────────────────


def test_low_is_the_largest_threshold_at_which_harm_stays_refused():
    """Four harmful prompts behind three others; the second harmful one is answered when it is pushed away."""
    scores = (-0.9, -0.7, -0.1, -0.8, -0.3, 0.1, 0.6)
    asked = Asked(
        scores, (False,) * 7, {place: True for place in range(7)},
        {0: False, 1: False, 2: False, 3: True, 4: False, 5: True, 6: True}, high=0.5,
    )  # fmt: skip
    assert asked.low(range(3, 7)) == pytest.approx(-0.5)  # between -0.7 and -0.3
    assert asked.low(range(3, 7), fall=0.25) == 0.5  # one of four may be lost
    assert asked.refused(-0.5) == {0: False, 1: False, 2: True, 3: True, 4: True, 5: True, 6: True}
    kept = replace(asked, pushed={**asked.pushed, 4: True})
    assert kept.low(range(3, 7)) == 0.5  # nobody is lost, so that it ends at the high one
    won = replace(asked, plain={**asked.plain, 6: False})
    assert won.low(range(3, 7)) == 0.5  # what the push towards refusal wins makes up for the loss
    novel = replace(asked, novel=(False, False, False, False, True, False, False))
    assert novel.low(range(3, 7)) == 0.5  # it is not pushed away at all
    lost = replace(asked, pushed={**asked.pushed, 3: False}, scores=(-0.9 + 2e-1, *scores[1:]))
    assert lost.low(range(3, 7)) == -1.8 and lost.refused(-1.8) == {**lost.plain, 6: True}


@given(st.data())
def test_no_larger_threshold_keeps_harm_refused(data):
    n = data.draw(st.integers(2, 12))
    booleans = st.lists(st.booleans(), min_size=n, max_size=n)
    scores = [score / 10 for score in data.draw(st.lists(st.integers(-9, 9), min_size=n, max_size=n))]
    plain, pushed, novel = (data.draw(booleans) for _ in range(3))
    high = data.draw(st.integers(-9, 9)) / 10 + 0.05
    asked = Asked(tuple(scores), tuple(novel), dict(enumerate(plain)), dict(enumerate(pushed)), high)
    harmful = range(data.draw(st.integers(0, n - 1)), n)

    def holds(low):
        no = [
            pushed[i] if scores[i] > high or (scores[i] < low and not novel[i]) else plain[i] for i in range(n)
        ]  # fmt: skip
        return sum(no[i] for i in harmful) >= sum(plain[i] for i in harmful) - FALL * len(harmful) - 1e-9

    low = asked.low(harmful)
    assert low <= high
    edges = [edge for edge in np.arange(-0.85, 0.96, 0.1) if low + 0.1 < edge < high]
    below = {tuple(score < edge for score in scores) for edge in (low, high)}
    assert not any(holds(edge) for edge in edges if tuple(score < edge for score in scores) not in below)
    assert holds(low) or low < min(scores)


def marks_of(fitted, model, bench) -> Marks:
    def scored(prompts):
        return collect(model, prompts, lambda flight: flight.residuals()[:, list(fitted.gate.layers)])

    spared = fitted.gate.score(scored((*others().borderline, *others().harmless)))
    return Marks.of(fitted.gate, scored(bench.asked), spared)


def test_high_is_a_quantile_of_the_scores_of_harmless_and_borderline_validation_prompts(fitted, model):
    asked = (*others().borderline, *others().harmless)
    states = collect(model, asked, lambda flight: flight.residuals()[:, list(fitted.gate.layers)])
    quantiles = np.quantile(fitted.gate.score(states).numpy(), gating.HIGHS)
    assert min(abs(quantiles - fitted.high)) < 1e-4 and fitted.low <= fitted.high
    others_high = [trial.high for trial in fitted.trials if trial != fitted.chosen]
    assert others_high == pytest.approx([quantiles[-1]] * len(others_high), abs=1e-4)


def test_of_all_pairs_of_thresholds_the_one_that_leaves_fewest_borderline_prompts_refused_is_taken(one_model):
    """Three borderline prompts before three harmful ones; only with the lower of two high thresholds harm is won."""
    bench = Bench(one_model, ("a", "b", "c"), ("d", "e", "f"), some, 5, None)
    marks = Marks((-0.5, 0.2, 0.6, 0.1, 0.7, 0.9), (False,) * 6, (0.5, 0.8))
    plain = dict.fromkeys(range(6), True) | {4: False}
    away, towards = dict.fromkeys(range(6), False), dict.fromkeys(range(6), True)
    before = Trial(0.1, 0.0, 0.0, (0, 3), (0, 0), (0, 0))
    chosen = gating.together(bench, marks, plain, away, towards, before, fall=0.0)
    assert (chosen.low, chosen.high) == (0.5, 0.5)  # the fifth is won, so that the fourth may be lost
    assert chosen.harmless == (1, 3) and chosen.harmful == (2, 3)
    lost = gating.together(bench, marks, plain, away, dict.fromkeys(range(6), False), before, fall=0.0)
    assert (lost.high, lost.harmful) == (0.8, (1, 3))  # pushed towards refusal all are lost, and here that is only one


def test_a_looser_threshold_costs_no_more_than_it_may(fitted, model):
    bench = Bench.of(model, others(), some, None, effort=scans_lens.Effort(tokens=5))
    marks, falls = marks_of(fitted, model, bench), (FALL, 0.2, 1.0)
    found = [gating.loosened(fitted, bench, marks, fall) for fall in falls]
    assert (found[0].low, found[0].high) == (pytest.approx(fitted.low), pytest.approx(fitted.high))
    assert found[-1].low == found[-1].high
    assert [one.chosen.harmless[0] for one in found] == sorted((one.chosen.harmless[0] for one in found), reverse=True)
    for one, fall in zip(found, falls, strict=True):
        plain, chosen = one.trials
        assert chosen == one.chosen and chosen.harmful[0] >= plain.harmful[0] - fall * plain.harmful[1] - 1e-9
        assert (one.gate, one.scale, one.directions) == (fitted.gate, fitted.scale, fitted.directions)
    with pytest.raises(ValueError, match=r"by a share of 0 to 1 of them, not by 1\.5"):
        gating.loosened(fitted, bench, marks, 1.5)


def test_a_verdict_that_is_looked_up_is_that_of_the_reply(fitted, model):
    validation = others()
    asked = (*validation.borderline, *validation.harmful)
    for trial in fitted.trials[1:]:
        method = replace(fitted, scale=trial.scale, low=trial.low, high=trial.high)
        verdicts = some(replies(model, asked, method=method, max_new_tokens=5, progress=False))
        assert trial.harmless == (verdicts[:10].count("refused"), 10)
        assert trial.harmful == (verdicts[10:].count("refused"), 10)


def test_no_reply_is_asked_for_twice(one_model, monkeypatch):
    asked = []

    def judge(said):
        scale = "plain" if said.scale is None else {round(scale, 4) for scale in said.scale.tolist()}
        asked.extend((str(scale), prompt) for prompt in said.prompts)
        return some(said)

    monkeypatch.setattr(choosing, "ROUNDS", 2)
    found = a_gated_push(one_model, judge=judge)
    assert len(asked) == len(set(asked)) <= 20 * (len(found.trials) + 1)
    assert len({trial.scale for trial in found.trials}) == len(found.trials) > 3


# ── The scale ────────────────────────────────────────────────────────────────────────────────────────────────


def trial(scale: float, left: int) -> Trial:
    return Trial(scale, -0.1, 0.3, (left, 40), (left, 60), (90, 100))


def test_the_smallest_scale_that_answers_nearly_all_refused_borderline_prompts_is_chosen():
    plain = trial(0.0, 40)
    assert gating.choice([plain, trial(0.05, 9), trial(0.2, 0), trial(0.1, 2)]) == (trial(0.1, 2), "")
    best, note = gating.choice([plain, trial(0.05, 9), trial(0.2, 3), trial(0.4, 3)])
    assert best.scale == 0.2 and "No scale left at most 5%" in note


def test_the_search_ends_at_the_first_scale_that_does_and_looks_for_smaller_ones(one_model, monkeypatch):
    monkeypatch.setattr(gating, "SHARES", (0.1, 0.2, 0.4))
    monkeypatch.setattr(choosing, "ROUNDS", 2)

    def refusing(said):
        """The plain model and pushes below .15 refuse."""
        sizes = [0.0] * len(said) if said.scale is None else said.scale.abs().tolist()
        return ["refused" if size < 0.15 else "answered" for size in sizes]

    found = a_gated_push(one_model, judge=refusing)
    assert [one.scale for one in found.trials] == [0.0, 0.1, 0.14, 0.17, 0.2] and found.scale == 0.17


# ── What the gate learns from ────────────────────────────────────────────────────────────────────────────────


def test_twins_count_more_than_anchors_and_a_prompt_that_is_both_counts_once():
    contrast = Contrast("anchors", ["kill", "rob"], ["cook", "sing"])
    twins = Contrast("twins", ["kill", "poison"], ["walk"], ["kill a process"])
    lessons, shares = module.lessons_of(contrast, twins)
    assert lessons.harmful == ("kill", "poison", "rob")
    assert lessons.harmless == ("kill a process", "walk", "cook", "sing")
    torch.testing.assert_close(shares, torch.tensor([1.0, 1.0, 0.3, 1.0, 0.3, 0.3, 0.3]))


def test_a_worlds_twins_come_before_its_borderline_prompts(one_model):
    contrast = Contrast("anchors", ["kill"], ["cook"])
    assert World.of(one_model).twins.borderline == scans_lens.prompts.twins().borderline
    world = World.of(one_model, twins=None)
    with pytest.raises(Refused, match="no borderline prompts to learn the gate from"):
        module.twins_of(world, contrast)
    found = module.twins_of(world.with_borderline(), contrast)
    assert found.harmful == contrast.harmful and found.borderline == world.with_borderline().borderline
    assert module.twins_of(replace(world.with_borderline(), twins=contrast_of()), contrast) == contrast_of()


def test_on_another_model_no_twin_is_chosen_on_by_default(one_model):
    effort = scans_lens.Effort(anchors=4, validation=4)
    contrast, twins, validation, note = module._prompts(one_model, None, None, None, 0, Asking(), effort)
    assert twins.borderline and not set(twins.borderline) & set(
        world_of(one_model).with_borderline().validation.borderline
    )
    assert len(contrast.harmful) == len(twins.harmful) == len(validation.harmful) == 4 and "validation" in note


def test_prompts_that_the_gate_cannot_be_learned_from_are_refused(one_model):
    bare = Contrast("bare", contrast_of().harmful, contrast_of().harmless)
    for how, sentence in (
        ({"twins": bare}, "no borderline prompts to learn the gate from in 'bare'"),
        ({"twins": others()}, "20 prompts would be learned from and chosen on"),
        ({"twins": Contrast("odd", ["Why?"], ["So?"], [contrast_of().harmful[0]])}, "as harmful and as harmless"),
    ):
        with pytest.raises(ValueError, match=sentence):
            a_gated_push(one_model, **how)


def test_the_gate_reads_middle_layers_and_knows_what_it_was_learned_from(fitted):
    assert fitted.gate.layers == (2, 3)  # of 4
    assert (fitted.learned_from.n_harmful, fitted.learned_from.n_harmless) == (10, 20)
    assert fitted.learned_from.model == fitted.measured_on


# ── Keeping ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_kept_file_gives_the_same_decisions(fitted, model, prompts, tmp_path):
    fitted.save(tmp_path / "kept")
    flight = Flight(model, scans_lens.chat_tokens(model, prompts))
    rows, again = (method.decide(flight) for method in (fitted, GatedPush.load(tmp_path / "kept", model)))
    assert all(torch.equal(rows[name], again[name]) for name in ("score", "variance", "scale"))


def test_a_header_alone_is_enough_to_score_as_the_gate_does(model, prompts, tmp_path):
    method = drawn.gated_push(model, prompts, novel=1)
    method.save(tmp_path / "kept")
    header = json.loads(safe_open(tmp_path / "kept", framework="pt").metadata()["header"])
    t = {name: tensor.double() for name, tensor in load_file(tmp_path / "kept").items()}
    score, variance, push = header["use"]
    assert score["layers"] == variance["layers"] == header["gate"]["layers"] and push["operation"] == "add"
    flight = Flight(model, scans_lens.chat_tokens(model, prompts))
    x = flight.residuals().double()[:, score["layers"]]
    z = ((x - t["gate.means"]) / t["gate.scales"]).flatten(1)
    along = z @ t["gate.axes"].flatten(1).T
    rest, penalty = z - along @ t["gate.axes"].flatten(1), header["gate"]["penalty"]
    spread = (
        1 / header["gate"]["total"] + (along**2 / (t["gate.squares"] + penalty)).sum(1) + (rest**2).sum(1) / penalty
    )
    said = z @ t["gate.weights"].flatten()
    sign = (said > header["high"]).double() - ((said < header["low"]) & (spread <= header["gate"]["limit"])).double()
    rows = method.decide(flight)
    torch.testing.assert_close(rows["score"].double(), said, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rows["variance"].double(), spread, rtol=1e-5, atol=1e-5)
    assert rows["scale"].tolist() == (sign * header["scale"]).tolist()


def test_thresholds_in_the_wrong_order_are_refused(fitted, tmp_path):
    replace(fitted, low=fitted.high + 1).save(tmp_path / "odd")
    with pytest.raises(ValueError, match=r"the low threshold, .* lies above the high one"):
        GatedPush.load(tmp_path / "odd")


# ── On a model that refuses ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.above
def test_on_the_bundled_model_borderline_prompts_are_answered_harm_is_not_and_jailbreaks_are_left_alone(
    bundled, tmp_path, monkeypatch
):
    """Through the catalogue: fitted, kept, read again, and every trial in the comparison's grid."""
    monkeypatch.setattr(choosing, "VALIDATION_TOKENS", 16)
    monkeypatch.setattr(gating, "SHARES", (0.05, 0.1))
    effort = scans_lens.Effort(anchors=48, pushed=16, validation=16, tokens=16, rounds=1, resamples=50, settings=6)
    fitting = Fitting(world_of(bundled), effort, tmp_path, progress=False)
    way = fitted_way(fitting, "gated_push")
    assert way.learned is not None and way.replies <= fitting.budget == 6 * 32
    found, plain = way.learned.chosen, way.learned.trials[0]
    assert found.harmless[0] < plain.harmless[0] and found.harmful[0] >= plain.harmful[0] - 1
    assert len(grid([way])) == len(way.learned.trials) == len(way.trials) and {"low", "left"} <= set(grid([way]))
    assert fitted_way(fitting, "gated_push").replies == way.replies and fitting.judged == way.replies
    asked = [organism.prompts(kind, "validation")[:24] for kind in ("harmful", "borderline", "jailbreak")]
    harmful, borderline, jailbreaks = (
        Flight(bundled, scans_lens.chat_tokens(bundled, prompts)) for prompts in asked
    )  # fmt: skip
    assert (way.learned.decide(harmful)["scale"] < 0).sum() <= 2
    assert (way.learned.decide(borderline)["scale"] < 0).sum() >= 18
    assert (way.learned.decide(jailbreaks)["scale"] < 0).sum() <= 2
