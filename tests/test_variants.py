"""Variants: SCANS that reads harmfulness otherwise or elsewhere, or pushes in proportion; laws of all three."""

import dataclasses

import pytest
import torch
from conftest import hooks_on, one_by_one
from learning import others, some
from sklearn.metrics import roc_auc_score
from steered import close

import scans_lens
from scans_lens import artefacts, organism
from scans_lens.classifier import TransitionClassifier
from scans_lens.flight import Flight
from scans_lens.methods import scans as module
from scans_lens.methods import variants
from scans_lens.methods.scans import SCANS
from scans_lens.model import resid_post
from scans_lens.prompts import Contrast
from scans_lens.reading import collect


@torch.no_grad()
def at_the_instructions_end(model, prompts):
    """Each prompt alone, run whole, read at the last token before the template's tail."""
    column, found = -1 - len(scans_lens.chat.template(model).tail), []
    for ids in one_by_one(scans_lens.chat_tokens(model, prompts)):
        _, cache = model.run_with_cache(ids)
        found.append(torch.stack([cache[resid_post(layer)][0, column].float() for layer in range(4)]))
    return torch.stack(found)


pytestmark = pytest.mark.usefixtures("briskly")


@pytest.fixture
def validation() -> Contrast:
    return others()


@pytest.fixture
def fitted(fit_of) -> SCANS:
    return fit_of("SCANS")


@pytest.fixture(params=["SCANS, centred", "SCANS at the instruction's end", "SCANS in proportion"])
def variant(request, fit_of) -> SCANS:
    return fit_of(request.param)


# ── Reading ──────────────────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def test_the_end_of_the_instruction_reads_the_same_alone_and_in_company(any_model, prompts):
    found = collect(any_model, prompts, Flight.instructed, batch_size=3)
    close(found, at_the_instructions_end(any_model, prompts))


@torch.no_grad()
def test_reading_the_end_of_the_instruction_leaves_the_flight_as_it_was(any_model, prompts):
    tokens = scans_lens.chat_tokens(any_model, prompts)
    read, unread = Flight(any_model, tokens), Flight(any_model, tokens)
    read.instructed()
    close(read.logits, unread.logits)
    assert read.run.length == unread.run.length
    close(read.transitions(), unread.transitions())
    token = torch.full((len(prompts), 1), 17)
    close(*(each.run.feed(token, torch.ones_like(token)) for each in (read, unread)))
    assert hooks_on(any_model) == {}


@torch.no_grad()
def test_a_flight_that_is_steered_is_read_there_as_it_was(model, prompts):
    before = Flight(model, scans_lens.chat_tokens(model, prompts)).instructed()
    steered = Flight(model, scans_lens.chat_tokens(model, prompts))
    steered.again([(resid_post(0), lambda residual, hook: residual + 1.0)], whole_prompt=True)
    assert torch.equal(steered.instructed(), before)


# ── Scoring ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_centred_score_is_the_mean_cosine_with_the_difference_of_means(generator):
    harmful, harmless = (torch.randn(n, 6, 8, generator=generator) + shift for n, shift in ((20, 3.0), (30, 2.0)))
    classifier = TransitionClassifier.fit(harmful, harmless, layers=[1, 4], centred=True)
    middle, towards = (harmful.mean(0) + harmless.mean(0)) / 2, harmful.mean(0) - harmless.mean(0)
    for t in (harmful, harmless):
        cosines = [torch.cosine_similarity(t[:, at] - middle[at], towards[at][None], dim=-1) for at in (1, 4)]
        torch.testing.assert_close(classifier.score(t), torch.stack(cosines).mean(dim=0), atol=1e-5, rtol=0)
    assert classifier.is_harmful(harmful).float().mean() > classifier.is_harmful(harmless).float().mean()
    assert TransitionClassifier.fit(harmful, harmless).centre is None


@torch.no_grad()
def test_each_variant_scores_what_it_says_it_reads(variant, model, prompts):
    flight = Flight(model, scans_lens.chat_tokens(model, prompts))
    states = at_the_instructions_end(model, prompts) if variant.at_instruction else flight.transitions()
    if variant.last_after_norm:
        ends = [states] if variant.at_instruction else [flight.residuals(), flight.opened()]
        normed = [model.ln_final(each[:, -1:]) for each in ends]
        last = normed[0] if variant.at_instruction else normed[0] - normed[1]
        states = torch.cat([states[:, :-1], last], dim=1)
    expected = variant.classifier.score(states)
    torch.testing.assert_close(variant.decide(flight)["score"], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        variant.classifier.score(variant.transitions(model, prompts)), expected, atol=1e-5, rtol=0
    )


# ── Scales ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_within_the_width_a_prompt_is_pushed_in_proportion_and_beyond_it_whole(fitted, model, prompts):
    flight = Flight(model, scans_lens.chat_tokens(model, prompts))
    score = fitted.decide(flight)["score"]
    threshold = float(score.sort().values[1:3].mean())
    at = dataclasses.replace(fitted.classifier, threshold=threshold)
    over = score - threshold
    for width in (float(over.abs().median()), 10.0, 1e-9):
        rows = dataclasses.replace(fitted, scale=2.0, classifier=at, width=width).decide(flight)
        expected = [2.0 * min(1.0, max(-1.0, far / width)) for far in over.tolist()]
        assert rows["scale"].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_width_is_the_harmful_prompts_median_distance_from_the_threshold(fitted, model, validation):
    found = variants.continuous(fitted, model, validation=validation, judge=some, progress=False)
    scores = fitted.classifier.score(fitted.transitions(model, validation.harmful)).sort().values
    far = (scores - fitted.classifier.threshold).abs().sort().values
    assert found.classifier == fitted.classifier and found.width == pytest.approx(float(far[4]), rel=1e-3, abs=1e-7)


# ── Acting ───────────────────────────────────────────────────────────────────────────────────────────────────


# ── Choosing and keeping ─────────────────────────────────────────────────────────────────────────────────────


def test_directions_and_layers_stay_and_the_other_knobs_are_chosen_again(variant, fitted, model, validation):
    assert torch.equal(variant.directions.vectors, fitted.directions.vectors) and variant.layers == fitted.layers
    assert {0.0, 0.1, 0.4} <= {trial.scale for trial in variant.trials} and "'others'" in variant.note
    chosen = variant.chosen
    assert chosen == module.choice(variant.trials)[0]
    asked = (*validation.borderline, *validation.harmful)
    verdicts = some(scans_lens.replies(model, asked, method=variant, max_new_tokens=5, progress=False))
    assert chosen.harmless == (verdicts[:10].count("refused"), 10)
    assert chosen.harmful == (verdicts[10:].count("refused"), 10)


def test_files_from_before_there_were_variants_still_load(fitted, tmp_path):
    fitted.save(tmp_path / "scans.safetensors")
    tensors, header = artefacts.read(tmp_path / "scans.safetensors", "SCANS")
    older = {name: value for name, value in header.items() if name not in ("at_instruction", "width")}
    artefacts.write(tmp_path / "old.safetensors", "SCANS", tensors, older)
    assert str(SCANS.load(tmp_path / "old.safetensors")) == str(fitted)


def test_another_models_scans_has_no_variants(fitted, load, tiny_model):
    other = tiny_model(load, "llama", "llama3", None, 1)
    for make in (variants.centred, variants.at_instruction, variants.continuous):
        with pytest.raises(ValueError, match="These SCANS vectors were measured on another model"):
            make(fitted, other, progress=False)


def test_a_width_is_not_below_zero(fitted):
    with pytest.raises(ValueError, match="A width is 0 or more, not -1"):
        dataclasses.replace(fitted, width=-1.0)


# ── On a model that refuses ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.above
def test_on_the_bundled_model_every_way_of_reading_tells_harmful_from_borderline_prompts(bundled):
    contrast, validation = organism.anchors().split(64, 0)[0], organism.validation().split(48, 0)[0]
    asked, truth = (*validation.harmful, *validation.borderline), [1] * 48 + [0] * 48
    for read in (Flight.transitions, Flight.instructed):
        sides = [collect(bundled, side, read, batch_size=192) for side in (contrast.harmful, contrast.harmless)]
        for centred in (False, True) if read is Flight.transitions else (True,):
            classifier = TransitionClassifier.fit(*sides, centred=centred)
            assert roc_auc_score(truth, classifier.score(collect(bundled, asked, read, batch_size=192))) > 0.9
