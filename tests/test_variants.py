"""Variants: SCANS that reads harmfulness otherwise or elsewhere, or pushes in proportion; laws of all three."""

import dataclasses

import pytest
import torch
from conftest import hooks_on, one_by_one
from learning import others, some
from sklearn.metrics import roc_auc_score
from steered import close

import scans_lens
from scans_lens import organism
from scans_lens.classifier import TransitionClassifier
from scans_lens.flight import Flight
from scans_lens.methods import thresholds, variants
from scans_lens.methods.readers import Centred, InstructionEnd, Transitions
from scans_lens.methods.rules import Band, Continuous, Sign
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


pytestmark = [pytest.mark.above, pytest.mark.usefixtures("briskly")]


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
    reader = Centred.between(Transitions(), harmful, harmless)
    classifier = TransitionClassifier.fit(reader.of(harmful), reader.of(harmless), layers=[1, 4])
    middle, towards = (harmful.mean(0) + harmless.mean(0)) / 2, harmful.mean(0) - harmless.mean(0)
    for t in (harmful, harmless):
        cosines = [torch.cosine_similarity(t[:, at] - middle[at], towards[at][None], dim=-1) for at in (1, 4)]
        torch.testing.assert_close(classifier.score(reader.of(t)), torch.stack(cosines).mean(dim=0), atol=1e-5, rtol=0)
    assert classifier.is_harmful(reader.of(harmful)).float().mean() > 0.5
    assert classifier.is_harmful(reader.of(harmless)).float().mean() < 0.5


@torch.no_grad()
def test_each_variant_scores_what_it_says_it_reads(variant, model, prompts):
    flight = Flight(model, scans_lens.chat_tokens(model, prompts))
    centred = isinstance(variant.reader, Centred)
    inner = variant.reader.reader if centred else variant.reader
    there = isinstance(inner, InstructionEnd)
    states = at_the_instructions_end(model, prompts) if there else flight.transitions()
    if inner.normed:
        ends = [states] if there else [flight.residuals(), flight.opened()]
        normed = [model.ln_final(each[:, -1:]) for each in ends]
        last = normed[0] if there else normed[0] - normed[1]
        states = torch.cat([states[:, :-1], last], dim=1)
    states = states - variant.reader.centre if centred else states
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
        rows = dataclasses.replace(fitted, scale=2.0, classifier=at, rule=Continuous(width)).decide(flight)
        expected = [2.0 * min(1.0, max(-1.0, far / width)) for far in over.tolist()]
        assert rows["scale"].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_width_is_the_harmful_prompts_median_distance_from_the_threshold(fitted, model, validation):
    found = variants.continuous(fitted, model, validation=validation, judge=some, progress=False)
    scores = fitted.classifier.score(fitted.transitions(model, validation.harmful)).sort().values
    far = (scores - fitted.classifier.threshold).abs().sort().values
    assert found.classifier == fitted.classifier
    assert found.rule.width == pytest.approx(float(far[4]), rel=1e-3, abs=1e-7)


# ── Acting ───────────────────────────────────────────────────────────────────────────────────────────────────


# ── Choosing and keeping ─────────────────────────────────────────────────────────────────────────────────────


def test_directions_and_layers_stay_and_the_other_knobs_are_chosen_again(variant, fitted, model, validation):
    assert torch.equal(variant.directions.vectors, fitted.directions.vectors) and variant.layers == fitted.layers
    assert {0.0, 0.1, 0.4} <= {trial.scale for trial in variant.trials} and "'others'" in variant.note
    chosen = variant.chosen
    assert chosen == thresholds.choice(variant.trials)[0]
    asked = (*validation.borderline, *validation.harmful)
    verdicts = some(scans_lens.replies(model, asked, method=variant, max_new_tokens=5, progress=False))
    assert chosen.harmless == (verdicts[:10].count("refused"), 10)
    assert chosen.harmful == (verdicts[10:].count("refused"), 10)


def test_another_models_scans_has_no_variants(fitted, load, tiny_model):
    other = tiny_model(load, "llama", "llama3", None, 1)
    for make in (variants.centred, variants.at_instruction, variants.continuous):
        with pytest.raises(ValueError, match="These SCANS vectors were measured on another model"):
            make(fitted, other, progress=False)


@pytest.mark.parametrize("width", [0.0, -1.0])
def test_a_width_is_above_zero(width):
    with pytest.raises(ValueError, match="A width is above 0"):
        Continuous(width)


def test_within_a_band_nothing_is_pushed_and_beyond_it_as_the_other_rule_says():
    over = torch.tensor([-0.3, -0.05, 0.0, 0.05, 0.2, 0.5])
    for beyond in (Sign(), Continuous(0.4)):
        whole, band = beyond.share(over), Band(0.1, beyond).share(over)
        assert torch.equal(band, torch.where(over.abs() >= 0.1, whole, 0.0)) and bool(band.any())


# ── On a model that refuses ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.above
def test_on_the_bundled_model_every_way_of_reading_tells_harmful_from_borderline_prompts(bundled):
    contrast, validation = organism.anchors().split(64, 0)[0], organism.validation().split(48, 0)[0]
    asked, truth = (*validation.harmful, *validation.borderline), [1] * 48 + [0] * 48
    for reader in (Transitions(), InstructionEnd()):
        sides = [collect(bundled, side, reader.read, batch_size=192) for side in (contrast.harmful, contrast.harmless)]
        centred = Centred.between(reader, *sides)
        found = collect(bundled, asked, reader.read, batch_size=192)
        ways = [([centred.of(side) for side in sides], centred.of(found))]
        if isinstance(reader, Transitions):
            ways.append((sides, found))
        for learned, read in ways:
            assert roc_auc_score(truth, TransitionClassifier.fit(*learned).score(read)) > 0.9
