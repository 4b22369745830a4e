"""SCANS: laws of the fitted method, of how its knobs are chosen, and of its presets."""

import dataclasses
import re
from functools import cache

import pytest
import tiny
import torch
from learning import a_scans as quickly
from learning import contrast_of, others, some
from sklearn.metrics import roc_auc_score
from transformers import AutoModelForCausalLM, LlamaConfig

import scans_lens
from scans_lens import organism
from scans_lens.anchoring import NoAnchorLayers
from scans_lens.classifier import ROUNDING, TransitionClassifier
from scans_lens.effort import Effort
from scans_lens.flight import Flight
from scans_lens.methods import choosing, thresholds
from scans_lens.methods import scans as module
from scans_lens.methods.readers import Transitions, either_way, one_way
from scans_lens.methods.rules import Band
from scans_lens.methods.scans import SCANS
from scans_lens.methods.thresholds import Trial
from scans_lens.prompts import Contrast
from scans_lens.world import world_of

LLAMA = "meta-llama/Llama-2-7b-chat-hf"
pytestmark = [pytest.mark.above, pytest.mark.usefixtures("briskly")]


@pytest.fixture
def validation() -> Contrast:
    return others()


@pytest.fixture
def fitted(fit_of) -> SCANS:
    return fit_of("SCANS")


@pytest.fixture(scope="module")
def called_llama(load, tmp_path_factory):
    """As deep as Llama-2-7b and under its name, but narrow."""
    words = tiny.tokenizer("llama2")
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=32, num_attention_heads=2,
        max_position_embeddings=128, bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        source = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in source.named_parameters():
            weight.mul_(torch.linspace(0.5, 1.5, 16) if "norm" in name else 10.0)
    path = tmp_path_factory.mktemp("deep")
    source.save_pretrained(path)
    words.save_pretrained(path)
    model = load(path)
    model.cfg.model_name = LLAMA
    return model


@pytest.fixture(scope="module")
def as_published(called_llama):
    """`as_published(preset)`: fitted on it once, from four prompts a side."""
    return cache(lambda preset: SCANS.fit(called_llama, contrast_of(4), preset=preset, progress=False))


# ── Choosing ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("broken", [-0.2, 1.0])  # the third is, or none
def test_scales_that_are_tried_side_by_side_do_what_they_do_one_by_one(one_model, validation, monkeypatch, broken):
    monkeypatch.setattr(module, "SHARES", (0.3, 0.9, 0.02, 2.0, 0.1))
    monkeypatch.setattr(thresholds, "BROKEN", broken)
    fits = []
    for together in (1, 2, 5):
        monkeypatch.setattr(thresholds, "TOGETHER", together)
        fits.append(quickly(one_model, validation=validation, effort=Effort(tokens=5, rounds=1)))
    assert fits[0].trials == fits[1].trials == fits[2].trials
    assert fits[0].scale == fits[1].scale == fits[2].scale
    tried = {trial.scale for trial in fits[0].trials}
    assert {0.0, 0.3, 0.9, 0.02} < tried and (2.0 in tried) == (broken == 1.0)


# ── Deciding ─────────────────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def test_the_score_is_the_classifiers_and_the_sign_is_by_equation_5(fitted, model, prompts):
    flight = Flight(model, scans_lens.chat_tokens(model, prompts))
    moves = fitted.transitions(model, prompts)
    scores = fitted.classifier.score(moves)
    for threshold in (float(scores.median()), -1.0, 1.0):  # amid the scores, and on either side of all
        method = dataclasses.replace(
            fitted, scale=0.7, classifier=dataclasses.replace(fitted.classifier, threshold=threshold)
        )
        rows = method.decide(flight)
        torch.testing.assert_close(rows["score"], scores, atol=1e-5, rtol=0)
        expected = [0.7 if score >= threshold else -0.7 for score in rows["score"].tolist()]
        assert rows["scale"].tolist() == pytest.approx(expected)


@torch.no_grad()
def test_a_prompt_exactly_at_the_threshold_is_harmful(fitted, model, prompts):
    flight = Flight(model, scans_lens.chat_tokens(model, prompts[:1]))
    score = float(fitted.decide(flight)["score"])
    at = dataclasses.replace(fitted, scale=1.0, classifier=dataclasses.replace(fitted.classifier, threshold=score))
    assert at.decide(flight)["scale"].item() == 1.0


def test_a_prompt_in_the_abstain_band_is_not_pushed_and_one_outside_as_ever(fitted, model, prompts):
    flight = Flight(model, scans_lens.chat_tokens(model, prompts))
    method = dataclasses.replace(fitted, scale=2.0)
    whole = method.decide(flight)
    far = (whole["score"] - fitted.classifier.threshold).abs()
    edge = float(far.median())
    rows = dataclasses.replace(method, rule=Band(edge)).decide(flight)
    assert torch.equal(rows["scale"], torch.where(far >= edge, whole["scale"], 0.0))
    assert 0 < int((rows["scale"] == 0).sum()) < len(prompts)


@torch.no_grad()
def test_hooks_add_each_layers_own_vector_to_each_row_by_its_sign_from_the_end_of_the_prompt_on(fitted, model, prompts):
    flight = Flight(model, scans_lens.chat_tokens(model, prompts))
    scale = torch.tensor([1.0, -1.0, 0.5, 0.0, 2.0])
    hooks = fitted.hooks_for({"scale": scale}, flight.for_the_callers_loop())
    assert [name for name, _ in hooks] == [f"blocks.{layer}.hook_resid_post" for layer in fitted.layers]
    states = torch.randn(5, flight.width + 3, int(model.cfg.d_model))
    for layer, (_, hook) in zip(fitted.layers, hooks, strict=True):
        moved = hook(states, hook=None)
        assert torch.equal(moved[:, : flight.width - 1], states[:, : flight.width - 1])
        push = scale[:, None] * fitted.directions.vectors[layer]
        torch.testing.assert_close(moved[:, flight.width - 1 :], states[:, flight.width - 1 :] + push[:, None])


@torch.no_grad()
def test_steering_that_is_under_way_does_not_change_the_score(fitted, model, prompts):
    tokens = scans_lens.chat_tokens(model, prompts)
    flight = Flight(model, tokens)
    before = fitted.decide(flight)["score"]
    flight.again(fitted.hooks_for({"scale": torch.full((5,), 3.0)}, flight), whole_prompt=False)
    torch.testing.assert_close(fitted.decide(flight)["score"], before)


@torch.no_grad()
def test_the_release_reads_the_last_layer_after_the_final_norm(called_llama, as_published, prompts):
    found = as_published("release")
    flight = Flight(called_llama, scans_lens.chat_tokens(called_llama, prompts))
    inner = [called_llama.ln_final(states[:, -1:]) for states in (flight.residuals(), flight.opened())]
    moves = flight.transitions()
    assert found.reader.normed and found.classifier.layers == tuple(range(10, 32))
    normed = torch.cat([moves[:, :-1], inner[0] - inner[1]], dim=1)
    torch.testing.assert_close(found.decide(flight)["score"], found.classifier.score(normed), atol=1e-5, rtol=0)
    assert not torch.allclose(found.decide(flight)["score"], found.classifier.score(moves), atol=1e-3)


# ── Choosing ─────────────────────────────────────────────────────────────────────────────────────────────────


def trials(plain, *others, missed=(0.01,) * 4, scales=(0.1, 0.2, 0.4, 0.8)):
    settings = zip(scales, missed, others, strict=False)
    return [Trial(0.0, 0.01, 0.5, *plain), *(Trial(scale, share, 0.5, *one) for scale, share, one in settings)]


def test_the_smallest_scale_that_answers_most_while_refusals_of_harm_hold_is_chosen():
    found, note = thresholds.choice(
        trials(((9, 10), (100, 100)), ((5, 10), (100, 100)), ((2, 10), (99, 100)), ((2, 10), (100, 100)))
    )
    assert (found.scale, note) == (0.2, "")


def test_among_equals_the_threshold_that_takes_most_harmful_prompts_for_harmful_is_chosen():
    equals = [((2, 10), (100, 100))] * 3
    found, _ = thresholds.choice(trials(((9, 10), (100, 100)), *equals, missed=(0.2, 0.05, 0.05)))
    assert (found.missed, found.scale) == (0.05, 0.2)


def test_a_setting_at_which_harmful_refusals_fall_by_more_than_allowed_is_not_chosen():
    found, _ = thresholds.choice(trials(((9, 10), (100, 100)), ((5, 10), (100, 100)), ((0, 10), (98, 100))))
    assert found.scale == 0.1


def test_the_fall_is_counted_from_the_plain_model():
    found, note = thresholds.choice(trials(((9, 10), (50, 100)), ((5, 10), (49, 100)), ((0, 10), (48, 100))))
    assert (found.scale, note) == (0.1, "")


def test_where_nothing_keeps_harm_refused_the_least_harm_is_done_and_said():
    found, note = thresholds.choice(
        trials(((9, 10), (100, 100)), ((0, 10), (90, 100)), ((3, 10), (95, 100)), ((1, 10), (95, 100)))
    )
    assert found.scale == 0.4  # of the two that kept 95, the one that answers more
    assert "Everywhere harmful refusals fell by more than 1.5 points" in note


def test_every_trial_is_what_the_method_would_do_with_that_threshold_and_scale(fitted, model, validation):
    assert [(trial.scale, trial.missed) for trial in fitted.trials] == [
        (0.0, 0.01),
        *((scale, missed) for scale in module.SHARES for missed in thresholds.MISSED),
    ]
    moves = fitted.transitions(model, validation.harmful)
    asked = (*validation.borderline, *validation.harmful)
    for trial in fitted.trials:
        lowest = fitted.classifier.score(moves).sort().values[int(trial.missed * len(moves))]
        assert trial.threshold == pytest.approx(float(lowest) - ROUNDING, abs=2e-7)
        at = dataclasses.replace(fitted.classifier, threshold=trial.threshold)
        method = dataclasses.replace(fitted, scale=trial.scale, classifier=at) if trial.scale else None
        verdicts = some(scans_lens.replies(model, asked, method=method, max_new_tokens=5, progress=False))
        assert trial.harmless == (verdicts[:10].count("refused"), 10)
        assert trial.harmful == (verdicts[10:].count("refused"), 10)


def test_fit_takes_the_trial_that_was_chosen_and_says_on_what(fitted):
    chosen, _ = thresholds.choice(fitted.trials)
    assert fitted.chosen == chosen
    assert (fitted.scale, fitted.classifier.threshold) == (chosen.scale, chosen.threshold)
    assert "'others'" in fitted.note and "No borderline" not in fitted.note
    rows = module.summary(fitted)
    assert [row["scale"] for row in rows] == [0.0, *module.SHARES]
    own = [
        trial for trial in fitted.trials if trial.missed in (chosen.missed, 0.01) and trial.scale == rows[1]["scale"]
    ]
    assert rows[1]["harmful"].count == own[-1].harmful[0]


def test_the_search_ends_where_every_threshold_breaks_refusal(model, validation, monkeypatch):
    def refusing_while_unsteered(replies):
        return ["refused" if replies.scale is None else "answered"] * len(replies)

    monkeypatch.setattr(thresholds, "BROKEN", 0.1)
    found = quickly(model, validation=validation, judge=refusing_while_unsteered)
    assert {trial.scale for trial in found.trials} == {0.0, 0.1}


def test_near_the_best_scale_finer_ones_are_tried(model, validation, monkeypatch):
    monkeypatch.setattr(choosing, "ROUNDS", 2)
    found = quickly(model, validation=validation)
    scales = sorted({trial.scale for trial in found.trials})
    assert [trial.scale for trial in found.trials] == sorted(trial.scale for trial in found.trials)
    assert set(module.SHARES) < set(scales) and found.scale in scales
    coarse = [trial for trial in found.trials if trial.scale in (0.0, *module.SHARES)]
    first = choosing.beside(thresholds.choice(coarse)[0].scale, [trial.scale for trial in coarse])
    assert first and set(first) <= set(scales)
    assert len(scales) <= 1 + len(module.SHARES) + 2 * 2


def apart(*layers) -> list:
    """Anchors and held-out sides of random transitions (6 layers, the last once more normed), apart at some layers."""
    generator = torch.Generator().manual_seed(0)
    harmful, harmless, held, others = torch.randn(4, 60, 7, 16, generator=generator)
    for layer in layers:
        for side in (harmful, held):
            side[:, layer] += 3
    return [[harmful, harmless], [held, others]]


@pytest.mark.parametrize(
    ("layers", "voting", "normed"),
    [
        ((2, 3, 4, 5), (2, 3, 4, 5), False),
        ((4, 5), (4, 5), False),
        ((6,), (5,), True),  # only after the norm
        ((0, 1, 5), (5,), False),  # the first third never votes
    ],
)
def test_the_layers_that_vote_are_the_last_ones_that_tell_the_sides_apart_best(layers, voting, normed):
    anchored, held = apart(*layers)
    for side in held[:1]:
        side += torch.randn(side.shape, generator=torch.Generator().manual_seed(1))  # so that no AUC is 1
    classifier, reader = module.voters(anchored, held)
    assert reader == Transitions(normed)
    assert set(classifier.layers) >= set(voting[-1:]) and set(classifier.layers) <= set(range(2, 6))
    cosines = [TransitionClassifier.fit(*one_way(anchored, reader), layers=range(k, 6)) for k in range(2, 6)]
    sides = one_way(held, reader)
    aucs = [roc_auc_score([1] * 60 + [0] * 60, torch.cat([one.score(side) for side in sides])) for one in cosines]
    assert classifier.layers == cosines[aucs.index(max(aucs))].layers


def test_of_equals_more_layers_vote_before_the_norm():
    anchored, _ = apart(2, 3, 4, 5, 6)
    classifier, reader = module.voters(anchored, [anchored[0], -anchored[0]])
    assert (classifier.layers, reader) == ((2, 3, 4, 5), Transitions())


def test_fit_lets_those_layers_vote_unless_a_preset_says_which(fitted, model, validation):
    contrast = contrast_of()
    read = [
        [scans_lens.reading.collect(model, side, either_way, batch_size=8) for side in sides]
        for sides in ((contrast.harmful, contrast.harmless), (validation.harmful, validation.borderline))
    ]
    best, reader = module.voters(*read)
    assert (fitted.classifier.layers, fitted.reader) == (best.layers, reader)
    preset = SCANS.fit(model, contrast, preset="paper", validation=validation, judge=some, progress=False)
    assert preset.classifier.layers == tuple(range(1, 4)) and preset.reader == Transitions()


def test_its_transitions_are_those_that_its_classifier_reads(fitted, model, prompts):
    for normed in (False, True):
        method = dataclasses.replace(fitted, reader=Transitions(normed), scale=0.5)
        moves = method.transitions(model, prompts, batch_size=2)
        said = scans_lens.replies(model, prompts, method=method, max_new_tokens=1, progress=False)
        torch.testing.assert_close(method.classifier.score(moves), said.score, atol=1e-5, rtol=0)


def test_without_a_preset_a_scale_is_a_share_of_the_residual_norm(fitted, model):
    raw = scans_lens.refusal_directions(model, contrast_of(), progress=False)
    assert fitted.unit == "residual norms"
    torch.testing.assert_close(fitted.directions.vectors.norm(dim=1), raw.residual_norms)
    cosines = torch.cosine_similarity(fitted.directions.vectors, raw.vectors)
    torch.testing.assert_close(cosines, torch.ones_like(cosines))


def test_without_validation_a_fifth_is_held_out_and_the_missing_borderline_prompts_are_said(model):
    contrast = dataclasses.replace(contrast_of(), borderline=())
    found = quickly(model, contrast)
    assert found.directions.origin.n_harmful == found.directions.origin.n_harmless == 8
    assert found.trials[0].harmful[1] == found.trials[0].harmless[1] == 2
    assert found.note == (
        "Knobs chosen on a held-out fifth of 'pairs'. No borderline prompt was seen in choosing them."
        + (" " + thresholds.choice(found.trials)[1]).rstrip()
    )


def test_a_contrast_too_small_to_hold_a_fifth_out_is_refused(model):
    with pytest.raises(ValueError, match="too small to hold a fifth of it out"):
        quickly(model, contrast_of(4))


def test_layers_come_from_the_anchor_layers_unless_they_are_given(model, validation, monkeypatch):
    asked = []

    def anchor_layers(model, directions, **how):
        asked.append((len(directions), how["contrast"].name))
        return (2,)

    monkeypatch.setattr(module, "anchor_layers", anchor_layers)
    assert quickly(model, validation=validation, layers=None).layers == (2,)
    assert asked == [(4, "pairs")]
    assert quickly(model, validation=validation, layers=(0, 3)).layers == (0, 3)
    assert len(asked) == 1


def test_where_refusal_is_nowhere_fit_says_so(model, validation, monkeypatch):
    def anchor_layers(model, directions, **how):
        raise NoAnchorLayers([])

    monkeypatch.setattr(module, "anchor_layers", anchor_layers)
    with pytest.raises(NoAnchorLayers):
        quickly(model, validation=validation, layers=None)


# ── Presets ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_paper_uses_raw_vectors_and_the_release_unit_vectors(called_llama, as_published):
    raw = scans_lens.refusal_directions(called_llama, contrast_of(4), progress=False)
    paper, release = as_published("paper"), as_published("release")
    torch.testing.assert_close(paper.directions.vectors, raw.vectors)
    torch.testing.assert_close(release.directions.vectors, raw.unit().vectors)
    assert (paper.unit, release.unit) == ("differences of means", "length")
    assert (paper.repetition_penalty, release.repetition_penalty) == (1.0, 1.1)
    assert (paper.reader, release.reader) == (Transitions(), Transitions(normed=True))
    assert (paper.layers, release.layers) == (tuple(range(10, 21)), tuple(range(10, 20)))
    for found in (paper, release):
        assert (found.scale, found.classifier.threshold, found.trials) == (3.5, 0.75, ())
        assert "as published" in found.note


@pytest.mark.parametrize("name", ["Llama-2-7b-chat-hf", "meta-llama/llama-2-7B-chat-hf"])
def test_a_published_model_is_known_by_the_end_of_its_name(called_llama, monkeypatch, name):
    monkeypatch.setattr(called_llama.cfg, "model_name", name)
    found = SCANS.fit(called_llama, contrast_of(2), preset="release", progress=False)
    assert (found.scale, found.unit) == (3.5, "length")


@pytest.mark.parametrize("name", ["", "Llama-2-7b", "someone/Llama-2-7b-chat-hf-merged"])
def test_no_other_model_is_taken_for_a_published_one(called_llama, monkeypatch, name):
    monkeypatch.setattr(called_llama.cfg, "model_name", name)
    with pytest.raises(ValueError, match="means nothing on another model"):
        SCANS.fit(called_llama, contrast_of(2), preset="release", progress=False)


def test_as_published_nothing_is_chosen_and_so_nothing_is_held_out(as_published):
    assert as_published("paper").directions.origin.n_harmful == 4


@pytest.mark.parametrize(
    ("preset", "n", "layers"),
    [
        ("paper", 32, range(10, 21)),
        ("release", 32, range(10, 20)),
        ("paper", 40, range(10, 21)),  # as published for the 13b models
        ("release", 40, range(10, 20)),
        ("paper", 16, range(5, 10)),
        ("release", 12, range(4, 8)),
        ("paper", 4, range(1, 3)),
        ("release", 64, range(20, 40)),
        ("release", 2, range(1, 2)),
    ],
)
def test_a_presets_layers_scale_to_the_same_fractions_of_depth(preset, n, layers):
    assert module._scaled(preset, n) == tuple(layers)


@pytest.mark.parametrize("preset", ["paper", "release"])
def test_on_another_model_a_preset_asks_for_validation_prompts_and_chooses_on_them(model, validation, preset):
    with pytest.raises(ValueError, match=re.escape("give validation=Contrast(…) to choose one on")):
        SCANS.fit(model, contrast_of(), preset=preset, progress=False)
    found = SCANS.fit(model, contrast_of(), preset=preset, validation=validation, judge=some, progress=False)
    grid, unit = (module.ALPHAS, "differences of means") if preset == "paper" else (module.SHARES, "residual norms")
    assert list(dict.fromkeys(trial.scale for trial in found.trials)) == [0.0, *grid]
    assert found.unit == unit
    assert found.layers == module._scaled(preset, 4)
    assert found.repetition_penalty == (1.0 if preset == "paper" else 1.1)
    assert "harmful validation prompts" in found.classifier.calibrated_on


def test_an_unknown_preset_is_named_beside_the_known_ones(model, without_shape_checks):
    with pytest.raises(ValueError, match="No preset 'papr'; there are 'paper' and 'release'"):
        quickly(model, preset="papr")


# ── Keeping ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_scans_prints_its_knobs(fitted):
    said = str(fitted)
    assert "'pairs'" in said and "1, 2" in said and f"{fitted.scale:g} residual norms" in said
    assert repr(fitted) == said


# ── On a model that refuses ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.above
def test_on_the_bundled_model_harmless_questions_get_answers_and_harmful_ones_still_do_not(bundled):
    contrast, rest = organism.anchors().split(32, 0)
    found = SCANS.fit(bundled, contrast, validation=rest.split(16, 0)[0], progress=False)
    assert found.chosen and found.chosen.harmless[0] < found.trials[0].harmless[0]
    assert found.chosen.harmful[0] >= 15


def test_the_bundled_models_own_prompts_are_the_default(bundled):
    contrast, validation, note = world_of(bundled).learning(None, None, 0)
    assert contrast == organism.anchors() and validation == organism.validation()
    assert note == "Knobs chosen on 'organism validation'."


def test_another_models_default_are_our_anchors_and_our_borderline_prompts(model):
    contrast, validation, note = world_of(model).learning(None, None, 0)
    assert contrast == scans_lens.prompts.anchors()
    assert validation == scans_lens.prompts.borderline("validation") and validation.borderline
    assert note == "Knobs chosen on 'borderline validation'."
