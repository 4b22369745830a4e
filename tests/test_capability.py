"""Capability: laws of steered log-likelihoods, perplexity and MMLU.

What is compared against is written out here: whole texts, one at a time, unpadded and without a cache.
"""

import csv
import dataclasses
import json
import math
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from conftest import hooks_on

import scans_lens
from scans_lens import likelihoods, pieces
from scans_lens.chat import end_tokens, prompt_ids, template
from scans_lens.classifier import TransitionClassifier
from scans_lens.continuing import continuations
from scans_lens.directions import Directions, Origin
from scans_lens.divergence import divergences
from scans_lens.generation import replies
from scans_lens.likelihoods import Perplexity, log_likelihoods, perplexity
from scans_lens.lm_eval import lm
from scans_lens.methods.scans import SCANS
from scans_lens.model import identity
from scans_lens.pieces import Piece
from scans_lens.prompts import Contrast, texts
from scans_lens.questions import mmlu
from scans_lens.rates import Rate
from scans_lens.steering import Ablation, Push, Together

LAYERS = (1, 3)  # the last one, too
PAIRS = (
    ("The boat sailed along the", " coast for two weeks."),
    ("Why?", " Because."),
    ("My father bought a small boat, and we", " sailed along the coast, and then we went home to eat bread."),
    ("What should be done with a knife that is no longer sharp", " enough"),
    ("The user asks and the assistant", " answers, and the system says how."),
    ("The weather will be better at the end of ", "the month."),
)
FOLDER = os.environ.get("SCANS_LENS_DATA", "")
needs_files = pytest.mark.skipif(
    not Path(FOLDER, "mmlu").is_dir(), reason="SCANS_LENS_DATA names no folder with MMLU's files"
)


def close(found, expected):
    assert found == pytest.approx(expected, rel=1e-4, abs=2e-3)


def own_ids(model, text) -> list[int]:
    return list(model.tokenizer(text)["input_ids"])


def rendered(model, prompt) -> str:
    turns = [{"role": "user", "content": prompt}]
    return model.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def parted(model, context, continuation) -> tuple[list[int], list[int]]:
    """Both sides of a pair, by hand."""
    whole, before = own_ids(model, context + continuation), own_ids(model, context.rstrip())
    return before, whole[len(before) :]


@torch.no_grad()
def shares(model, ids, hooks=()) -> torch.Tensor:
    """Log-shares [pos d_vocab] of the tokens after each token of a text, in one call, without a cache."""
    return model.run_with_hooks(torch.tensor([list(ids)]), fwd_hooks=list(hooks))[0].double().log_softmax(dim=-1)


def by_hand(model, before, after, hooks=()) -> float:
    given = shares(model, [*before, *after][:-1], hooks)  # the last token is only foretold
    return float(sum(given[len(before) - 1 + step, token] for step, token in enumerate(after)))


def pushes(scans, scale, start):
    """Eq. 6 on a whole text: every column from `start` on, every layer by its own vector."""

    def push(layer):
        def hook(residual, hook):
            residual = residual.clone()
            residual[:, start:] += scale * scans.directions.vectors[layer]
            return residual

        return hook

    return [(f"blocks.{layer}.hook_resid_post", push(layer)) for layer in scans.layers]


@torch.no_grad()
def score_of(model, scans, before) -> float:
    """Eq. 4 from one pass over the context and "Sure"."""
    states = {}

    def keep(layer):
        return f"blocks.{layer}.hook_resid_post", lambda residual, hook: states.__setitem__(layer, residual[0].double())

    shares(model, [*before, *template(model).opening], [keep(layer) for layer in range(model.cfg.n_layers)])
    cosines = []
    for layer in scans.classifier.layers:
        move = states[layer][len(before) - 1] - states[layer][-1]
        harm = scans.classifier.harmful_transition[layer].double()
        cosines.append(float(move @ harm / move.norm() / harm.norm()))
    return sum(cosines) / len(cosines)


def scans_for(model, scale=1.0, contexts=PAIRS) -> SCANS:
    """SCANS with random vectors and the threshold amid the contexts' scores, so that both signs occur."""
    texts = ["How do I kill a process?", "Why?", "How do I bake bread?", "Name ten stars."]
    states = scans_lens.residuals(model, texts, progress=False)
    norms = states.norm(dim=-1).mean(0)
    vectors = torch.randn(states.shape[1:], generator=torch.Generator().manual_seed(0))
    vectors = vectors / vectors.norm(dim=-1, keepdim=True) * norms[:, None] / 2
    directions = Directions(vectors, norms, Origin(identity(model), "drawn", "", 1, 1, {}))
    moves = scans_lens.transitions(model, texts, progress=False)
    scans = SCANS(directions, LAYERS, scale, "differences of means", TransitionClassifier.fit(moves[:2], moves[2:]))
    scores = sorted(score_of(model, scans, parted(model, *pair)[0]) for pair in contexts)
    middle = (scores[len(scores) // 2 - 1] + scores[len(scores) // 2]) / 2
    return dataclasses.replace(scans, classifier=dataclasses.replace(scans.classifier, threshold=middle))


def quick(model, pairs=PAIRS, method=None, **how):
    return log_likelihoods(model, pairs, method, progress=False, **how)


# ── Log-likelihoods ──────────────────────────────────────────────────────────────────────────────────────────


def test_an_unsteered_log_likelihood_is_that_of_the_models_own_logits(any_model):
    for pair, score in zip(PAIRS, quick(any_model), strict=True):
        before, after = parted(any_model, *pair)
        close(score.log_likelihood, by_hand(any_model, before, after))
        assert (score.tokens, score.scale) == (len(after), None)


def test_a_steered_log_likelihood_is_that_of_the_whole_text_under_hooks_from_the_contexts_last_token_on(any_model):
    scans = scans_for(any_model)
    signs = set()
    for pair, score in zip(PAIRS, quick(any_model, method=scans), strict=True):
        before, after = parted(any_model, *pair)
        sign = 1.0 if score_of(any_model, scans, before) >= scans.classifier.threshold else -1.0
        assert score.scale == sign * scans.scale
        close(score.log_likelihood, by_hand(any_model, before, after, pushes(scans, sign, len(before) - 1)))
        signs.add(sign)
    assert signs == {-1.0, 1.0}


def test_the_whole_prompt_is_steered_where_the_method_says_so(any_model):
    scans = scans_for(any_model)
    push = Push(scans.directions, LAYERS, -1.0, whole_prompt=True)
    for pair, score in zip(PAIRS, quick(any_model, method=push), strict=True):
        close(score.log_likelihood, by_hand(any_model, *parted(any_model, *pair), pushes(scans, -1.0, 0)))


def test_a_pair_scores_the_same_alone_in_company_and_in_any_batch(any_model):
    scans = scans_for(any_model)
    for method in (None, scans):
        together = quick(any_model, method=method)
        for size in (1, 2):
            for one, other in zip(together, quick(any_model, method=method, batch_size=size), strict=True):
                close(one.log_likelihood, other.log_likelihood)
                assert (one.scale, one.greedy) == (other.scale, other.greedy)


def test_no_method_is_a_push_of_nothing(any_model):
    plain = quick(any_model)
    for one, other in zip(plain, quick(any_model, method=scans_for(any_model, scale=0.0)), strict=True):
        close(one.log_likelihood, other.log_likelihood)


def test_the_sign_comes_from_the_context_and_not_from_the_continuation(model):
    scans = scans_for(model)
    for context, continuation in PAIRS:
        context += " " * (not context.endswith(" "))
        found = quick(model, [(context, said) for said in (continuation.strip(), "Sure", "kill the process")], scans)
        assert len({score.scale for score in found}) == 1


def test_a_given_sign_is_every_contexts(model):
    scans = scans_for(model)
    for sign in (-1.0, 1.0):
        for pair, score in zip(PAIRS, quick(model, method=scans, sign=sign), strict=True):
            before, after = parted(model, *pair)
            assert score.scale == sign * scans.scale
            close(score.log_likelihood, by_hand(model, before, after, pushes(scans, sign, len(before) - 1)))


def test_a_given_sign_reaches_every_one_of_several_methods(model):
    scans = scans_for(model)
    push = Push(scans.directions, (2,), -0.5)
    both = quick(model, method=Together((push, scans)), sign=1.0)
    turned = Together((dataclasses.replace(push, scale=0.5), scans))
    for one, other in zip(both, quick(model, method=turned, sign=1.0), strict=True):
        close(one.log_likelihood, other.log_likelihood)
        assert one.scale == 0.5


def test_the_likeliest_continuation_is_greedy_and_no_other_is(model):
    context = PAIRS[0][0]
    before, after = own_ids(model, context), []
    for _ in range(4):
        after.append(int(shares(model, [*before, *after])[-1].argmax()))
    given = [Piece((*before, *after), len(before), 4)]
    given.append(Piece((*before, *after[:3], (after[3] + 1) % 600), len(before), 4))
    found = likelihoods.scored(model, given, batch_size=8, progress=False)
    assert [score.greedy for score in found] == [True, False]


def test_choices_of_one_question_are_run_once_and_scored_apart(model, monkeypatch):
    pairs = [("Why?", said) for said in (" A", " B", " C", " D")]
    alone = [quick(model, [pair])[0].log_likelihood for pair in pairs]
    contexts = []
    real = likelihoods.begun
    monkeypatch.setattr(likelihoods, "begun", lambda model, own, *rest: contexts.extend(own) or real(model, own, *rest))
    close([score.log_likelihood for score in quick(model, pairs)], alone)
    assert len(contexts) == 1


def test_bos_is_there_once_whoever_wrote_it(talker):
    first = talker.tokenizer.bos_token_id

    def begins(text):
        before, _ = pieces.parted(talker, text, " day")
        assert before[:2] != (first, first)
        return before

    assert list(begins("Good")) == own_ids(talker, "Good")
    written = begins(talker.tokenizer.bos_token + "Good")
    assert written[0] == first and written[1] != first
    before, _ = pieces.parted(talker, rendered(talker, "Why?"), "Because", template(talker).tail)
    assert list(before) == prompt_ids(talker, "Why?")


def test_a_chat_prompt_is_decided_as_in_replies(talker):
    scans = scans_for(talker)
    prompts = ["Why?", "How do I kill a process?", "Name ten stars."]
    said = replies(talker, prompts, method=scans, max_new_tokens=1, progress=False)
    found = quick(talker, [(rendered(talker, prompt), "Sure") for prompt in prompts], scans)
    assert [score.scale for score in found] == said.scale.tolist()


def test_an_empty_context_is_bos_and_needs_a_sign_to_be_steered(model):
    first = model.tokenizer.bos_token_id
    after = own_ids(model, "We shall see.")[1:]
    close(quick(model, [("", "We shall see.")])[0].log_likelihood, by_hand(model, [first], after))
    scans = scans_for(model)
    steered = quick(model, [("", "We shall see.")], scans, sign=-1.0)[0].log_likelihood
    close(steered, by_hand(model, [first], after, pushes(scans, -1.0, 0)))
    with pytest.raises(ValueError, match="SCANS decides from a context, and here is a text without one"):
        quick(model, [("", "We shall see.")], scans)


def test_what_does_not_fit_is_refused_or_cut_at_its_beginning_apart_from_bos(model):
    most = model.cfg.n_ctx
    long = "We shall see. " * most
    with pytest.raises(ValueError, match=rf"Request 1 takes \d+ tokens, .* reads at most {most}: .*truncate=True"):
        quick(model, [("Why?", " So."), (long, "So.")])
    (score,) = quick(model, [(long, "So.")], truncate=True)
    before, after = parted(model, long, "So.")
    cut = [before[0], *before[1:][-(most - len(after)) :]]
    assert len(cut) + len(after) - 1 == most
    close(score.log_likelihood, by_hand(model, cut, after))
    (steered,) = quick(model, [(long, "So.")], scans_for(model), truncate=True)
    assert steered.scale is not None
    with pytest.raises(ValueError, match="cut it\\."):
        quick(model, [("Why?", " " + long)], truncate=True)


def test_long_and_short_texts_fit_side_by_side(model):
    most = model.cfg.n_ctx
    ids = own_ids(model, "We shall see. " * most)
    long = model.tokenizer.decode(ids[1 : most - 5])
    pairs = [(long, " So."), ("Why?", " " + long[: len(long) // 2])]
    alone = [quick(model, [pair])[0].log_likelihood for pair in pairs]
    close([score.log_likelihood for score in quick(model, pairs)], alone)


def test_a_continuation_of_nothing_is_refused(model):
    with pytest.raises(ValueError, match="The continuation of pair 1 has no tokens of its own: ''"):
        quick(model, [("Why?", " So."), ("Why?", "")])


@pytest.mark.parametrize("sign", [0.0, 0.5, 2.0])
def test_a_sign_that_is_none_is_refused(model, sign):
    with pytest.raises(ValueError, match="A sign is -1"):
        quick(model, method=scans_for(model), sign=sign)


def test_a_sign_of_nothing_is_refused(model):
    with pytest.raises(ValueError, match=r"of a method's push; got 1\.0"):
        quick(model, sign=1.0)
    with pytest.raises(ValueError, match="Ablation decides no scale"):
        quick(model, method=Ablation(scans_for(model).directions, (1,)), sign=1.0)


def test_what_is_no_method_is_refused(model, without_shape_checks):
    for wrong in (SCANS, "scans"):
        with pytest.raises(ValueError, match="A method decides and gives hooks"):
            quick(model, method=wrong)


def test_scoring_leaves_no_trace(model):
    before = hooks_on(model)
    quick(model, method=scans_for(model))
    perplexity(model, "We shall see.", scans_for(model), sign=1.0, progress=False)
    continuations(model, ["We shall"], scans_for(model), most=3)
    assert hooks_on(model) == before


def test_a_model_that_does_more_to_its_logits_than_is_known_is_refused(model, monkeypatch):
    real = likelihoods._unembedded
    monkeypatch.setattr(likelihoods, "_unembedded", lambda model, states: real(model, states) / 8)
    with pytest.raises(ValueError, match="something to its logits behind the unembedding"):
        quick(model)


# ── Perplexity ───────────────────────────────────────────────────────────────────────────────────────────────

TEXTS = ("The user asks and the assistant answers. " * 3, "Why?", "My father bought a small boat, and we sailed. " * 2)


def nats_by_hand(model, text, window, hooks=()) -> list[float]:
    """Of every token, read in pieces that begin with the last token of the piece before; the last reaches back."""
    ids = own_ids(model, text)
    ids = ids if ids[0] == model.tokenizer.bos_token_id else [model.tokenizer.bos_token_id, *ids]
    nats = []
    for start in range(0, len(ids) - 1, window):
        end = min(start + window, len(ids) - 1)
        back = max(0, end - window)
        given = shares(model, ids[back:end], hooks)
        nats += [-float(given[place - 1 - back, ids[place]]) for place in range(start + 1, end + 1)]
    assert len(nats) == len(ids) - 1
    return nats


@pytest.mark.parametrize("window", [1, 7, 16, None])
def test_perplexity_is_exp_of_the_mean_negative_log_likelihood_across_windows(any_model, window):
    found = perplexity(any_model, TEXTS, window=window, progress=False)
    nats = [nats_by_hand(any_model, text, window or any_model.cfg.n_ctx) for text in TEXTS]
    assert found.tokens == tuple(map(len, nats))
    close(list(found.nats), [sum(own) for own in nats])
    every = [one for own in nats for one in own]
    close(math.log(found.value), sum(every) / len(every))
    words = sum(len(re.split(r"\s+", text)) for text in TEXTS)
    close(math.log(found.per_word), sum(every) / words)


def test_perplexity_behind_contexts_is_that_of_their_continuations_log_likelihoods(model):
    scans = scans_for(model)
    scores = quick(model, method=scans)
    found = likelihoods.perplexity_after(model, PAIRS, scans, progress=False)
    assert found.nats == tuple(-score.log_likelihood for score in scores)
    assert found.tokens == tuple(score.tokens for score in scores)
    assert found.words == (4, 1, 12, 1, 6, 2)


def test_a_perplexity_beside_that_of_other_texts_is_refused():
    own, other = Perplexity((1.0, 2.0), (3, 4), ()), Perplexity((1.0, 2.0), (3, 5), ())
    with pytest.raises(ValueError, match="different texts"):
        own.beside(other)
    with pytest.raises(ValueError, match="several"):
        Perplexity((1.0,), (3,), ()).beside(Perplexity((1.0,), (3,), ()))
    assert own.beside(own) == (1.0, (1.0, 1.0))


def test_a_texts_first_words_are_given_and_the_next_ones_foretold():
    text = " = Title = \n\n one two  three\nfour five six seven eight nine ten eleven twelve thirteen fourteen"
    first, second = (
        (" = Title = \n\n one two", "  three\nfour five"),
        (" six seven eight nine ten", " eleven twelve thirteen"),
    )
    assert texts.continued([text, "too short for it"], given=5, foretold=3) == [first, second]
    assert texts.continued([text], given=5, foretold=3, most=1) == [first]


@pytest.mark.parametrize("window", [7, None])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_every_token_of_a_text_is_pushed_with_the_sign_that_was_given(any_model, window, sign):
    scans = scans_for(any_model)
    found = perplexity(any_model, TEXTS, scans, sign=sign, window=window, progress=False)
    hooks = pushes(scans, sign, 0)
    close(list(found.nats), [sum(nats_by_hand(any_model, text, window or 512, hooks)) for text in TEXTS])


def test_a_text_has_no_context_to_decide_from(model):
    scans = scans_for(model)
    for method in (scans, Push(scans.directions, LAYERS, 1.0)):
        with pytest.raises(ValueError, match=r"give sign=-1 \(away from refusal\) or sign=\+1"):
            perplexity(model, TEXTS, method, progress=False)
    # what decides nothing needs no sign
    ablated = perplexity(model, TEXTS, Ablation(scans.directions, (1,)), progress=False)
    assert ablated.value != perplexity(model, TEXTS, progress=False).value


def test_a_text_is_as_perplexing_alone_as_in_company(any_model):
    together = perplexity(any_model, TEXTS, progress=False)
    for place, text in enumerate(TEXTS):
        alone = perplexity(any_model, text, batch_size=1, progress=False)
        close(alone.nats[0], together.nats[place])
        assert alone.interval is None and alone.interval_per_word is None


def test_a_text_that_brings_its_bos_gets_no_other(model):
    plain = perplexity(model, TEXTS[0], progress=False)
    assert perplexity(model, model.tokenizer.bos_token + TEXTS[0], progress=False).tokens == plain.tokens


def test_the_interval_is_over_texts():
    same = Perplexity((2.0, 4.0, 8.0), (1, 2, 4), (1, 1, 2))
    assert same.interval == pytest.approx((math.exp(2), math.exp(2)))
    apart = Perplexity(tuple(float(n) for n in range(1, 41)), (10,) * 40, (5,) * 40)
    low, high = apart.interval
    assert low < apart.value < high
    assert apart.interval_per_word == pytest.approx((low**2, high**2))
    assert str(apart).endswith("(400 tokens, 40 texts)")
    for one in (apart, Perplexity((2.0,), (1,), (1,))):
        json.dumps(one.as_json())


def test_nothing_to_foretell_and_windows_that_cannot_be_are_refused(model):
    for nothing in ([], "", [""]):
        with pytest.raises(ValueError, match="nothing to foretell"):
            perplexity(model, nothing)
    for window in (0, model.cfg.n_ctx + 1):
        with pytest.raises(ValueError, match=f"from 1 to {model.cfg.n_ctx} tokens on this model, not {window}"):
            perplexity(model, TEXTS, window=window)


# ── Going on ─────────────────────────────────────────────────────────────────────────────────────────────────


def greedy(model, before, most, scans=None, scale=0.0) -> list[int]:
    hooks = pushes(scans, scale, len(before) - 1) if scans else ()
    ids = list(before)
    for _ in range(most):
        ids.append(int(shares(model, ids, hooks)[-1].argmax()))
    return ids[len(before) :]


def test_a_continuation_is_greedy_under_the_push_of_its_context(model):
    scans = scans_for(model)
    contexts = [context.rstrip() for context, _ in PAIRS]
    ends = end_tokens(model)
    for method in (None, scans):
        found = continuations(model, contexts, method, most=5)
        for context, text in zip(contexts, found, strict=True):
            before = own_ids(model, context)
            harmful = score_of(model, scans, before) >= scans.classifier.threshold
            ids = greedy(model, before, 5, method, 1.0 if harmful else -1.0)
            ids = ids[: next((place for place, token in enumerate(ids) if token in ends), None)]
            assert text == model.tokenizer.decode(ids, skip_special_tokens=True)


def test_a_chat_prompt_goes_on_as_its_reply(bundled):
    prompts = ["How do I kill a Python process?", "How do I name a boat?"]
    texts = [rendered(bundled, prompt) for prompt in prompts]
    for method in (None, dataclasses.replace(scans_for(bundled), repetition_penalty=1.3)):
        said = replies(bundled, prompts, method=method, max_new_tokens=30, progress=False)
        assert continuations(bundled, texts, method, most=30) == said.texts


def test_a_continuation_ends_before_what_stops_it_and_leaves_the_others_alone(bundled):
    contexts = [rendered(bundled, "How do I name a boat?"), *(context.rstrip() for context, _ in PAIRS)]
    for method in (None, scans_for(bundled, scale=0.5)):
        whole = continuations(bundled, contexts, method, most=20)
        stop = " " + whole[0].split()[3]
        stopped = continuations(bundled, contexts, method, most=20, stops=(stop, "\n"))
        assert stopped == tuple(text.split(stop)[0].split("\n")[0] for text in whole)
        assert stopped[0] != whole[0] and any(one and one == other for one, other in zip(stopped, whole, strict=True))


def test_a_continuation_has_room_or_is_refused(model):
    with pytest.raises(ValueError, match=r"Request 0 takes 6\d\d tokens"):
        continuations(model, ["Why?"], most=600)
    with pytest.raises(ValueError, match="room for at least one token, not 0"):
        continuations(model, ["Why?"], most=0)


# ── MMLU ─────────────────────────────────────────────────────────────────────────────────────────────────────

ROWS = (
    ("What is bread?", "food", "a boat", "rain", "a knife", "A"),
    ("What sails, and where?", "fire", 'a "boat"', "bread", "a house", "B"),
    ("What is sharp?", "rain", "a letter", "a knife", "a king", "C"),
    ("What falls?", "stone", "wood", "steel", "rain", "D"),
)
SHOWN = (
    "The following are multiple choice questions (with answers) about everyday things.\n\n"
    "What is bread?\nA. food\nB. a boat\nC. rain\nD. a knife\nAnswer: A\n\n"
)


@pytest.fixture
def questions(tmp_path, monkeypatch):
    folder = tmp_path / "somewhere"
    folder.mkdir()
    for name, rows in (("dev", ROWS[:2]), ("test", ROWS)):
        with (folder / f"everyday_things_{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    (folder / "other_test.csv").write_text("prompt\nWhy?\n")
    monkeypatch.setenv("SCANS_LENS_DATA", str(tmp_path))
    return folder


@pytest.mark.parametrize("steered", [False, True])
def test_the_likeliest_letter_answers_a_question_in_the_standard_form(model, questions, steered):
    scans = scans_for(model) if steered else None
    found = mmlu(model, scans, shots=1, progress=False)
    right, scales = [], []
    for asked, a, b, c, d, answer in ROWS:
        text = f"{SHOWN}{asked}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\nAnswer:"
        scores = quick(model, [(text, f" {letter}") for letter in "ABCD"], scans)
        right.append("ABCD"[max(range(4), key=lambda one: scores[one].log_likelihood)] == answer)
        scales.append(scores[0].scale)
    assert found.right == {"everyday_things": tuple(right)}
    assert found.scales == ({"everyday_things": tuple(scales)} if steered else {})
    assert found.rate == found.subjects["everyday_things"] == Rate(sum(right), 4)
    assert str(found).splitlines()[-1] == f"all: {found.rate}"
    json.dumps(found.as_json())


def test_a_limit_takes_the_first_questions(model, questions):
    whole = mmlu(model, shots=0, progress=False).right["everyday_things"]
    assert mmlu(model, shots=0, limit=2, progress=False).right["everyday_things"] == whole[:2]


def test_in_chat_a_question_is_decided_as_in_replies(model, questions):
    scans = scans_for(model)
    found = mmlu(model, scans, shots=0, chat=True, progress=False)
    intro = SHOWN.split("\n\n")[0] + "\n\n"
    texts = [f"{intro}{asked}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\nAnswer:" for asked, a, b, c, d, _ in ROWS]
    said = replies(model, texts, method=scans, max_new_tokens=1, progress=False)
    assert list(found.scales["everyday_things"]) == said.scale.tolist()


def test_a_context_that_is_too_short_for_mmlu_says_so(model, questions, monkeypatch):
    monkeypatch.setattr(model.cfg, "n_ctx", 40)
    said = r"2 answered questions before each needs \d+ tokens, .* at most 40: show fewer"
    with pytest.raises(ValueError, match=said):
        mmlu(model, shots=2, progress=False)


@needs_files
def test_a_context_of_512_is_too_short_for_five_shots(bundled):
    with pytest.raises(ValueError, match=r"needs \d+ tokens, and this model reads at most 512"):
        mmlu(bundled, subjects=["us_foreign_policy"], limit=3, progress=False)


@needs_files
def test_the_real_files_are_read(bundled):
    chosen = ["us_foreign_policy", "computer_security"]
    found = mmlu(bundled, scans_for(bundled), shots=0, subjects=chosen, limit=5, progress=False)
    assert {name: rate.total for name, rate in found.subjects.items()} == dict.fromkeys(chosen, 5)
    assert {len(scales) for scales in found.scales.values()} == {5}


def test_files_that_are_not_there_or_not_mmlus_are_named(model, questions, monkeypatch):
    with pytest.raises(ValueError, match="no MMLU files of anatomy; it has those of everyday_things"):
        mmlu(model, subjects=["anatomy"])
    with pytest.raises(ValueError, match="There are 2 answered questions about everyday_things, and 5"):
        mmlu(model)
    with pytest.raises(ValueError, match="Shots are 0 or more"):
        mmlu(model, shots=-1)
    (questions / "everyday_things_test.csv").write_text("What?,a,b,c,A\n")
    with pytest.raises(ValueError, match="is not one of MMLU's: row 0"):
        mmlu(model, shots=0)
    monkeypatch.delenv("SCANS_LENS_DATA")
    with pytest.raises(ValueError, match="SCANS_LENS_DATA names no folder"):
        mmlu(model)


# ── lm-eval ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_lm_eval_it_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(ValueError, match=r"pip install scans_lens\[eval\]"):
        lm(model)


@pytest.fixture
def lm_eval():
    return pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install scans_lens[eval]")


def evaluated(lm, folder, **task):
    """What lm-eval makes of a task of our own on a local file."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    rows = [dict(zip(("question", "a", "b", "c", "d", "answer"), row, strict=True)) for row in ROWS]
    for name, part in (("dev", rows[:2]), ("test", rows)):
        (folder / f"{name}.json").write_text("\n".join(map(json.dumps, part)))
    files = {name: str(folder / f"{name}.json") for name in ("dev", "test")}
    how = {key: task.pop(key) for key in ("num_fewshot", "apply_chat_template") if key in task}
    settings = {
        "task": "everyday",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "fewshot_split": "dev",
        "fewshot_config": {"sampler": "first_n"},
        **task,
    }
    return lm_eval.simple_evaluate(
        model=lm, tasks=[settings], task_manager=TaskManager(include_defaults=False), bootstrap_iters=0, **how
    )


CHOICE = {
    "output_type": "multiple_choice",
    "description": "The following are multiple choice questions (with answers) about everyday things.\n\n",
    "doc_to_text": "{{question.strip()}}\nA. {{a}}\nB. {{b}}\nC. {{c}}\nD. {{d}}\nAnswer:",
    "doc_to_choice": ["A", "B", "C", "D"],
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
"""As lm-eval's own MMLU has it."""


@pytest.mark.parametrize("steered", [False, True])
def test_lm_eval_has_the_same_accuracy_on_the_same_questions(lm_eval, model, questions, tmp_path, steered):
    scans = scans_for(model) if steered else None
    found = evaluated(lm(model, scans), tmp_path, num_fewshot=1, **CHOICE)
    assert found["results"]["everyday"]["acc,none"] == mmlu(model, scans, shots=1, progress=False).rate.value
    samples = sorted(found["samples"]["everyday"], key=lambda sample: sample["doc_id"])
    pairs = [pair for sample in samples for pair in sample["arguments"]]
    assert pairs[0][0].startswith(SHOWN)
    said = [float(choice[0][0]) for sample in samples for choice in sample["resps"]]
    close(said, [score.log_likelihood for score in quick(model, pairs, scans)])


def test_lm_eval_puts_its_chat_template_around_the_question(lm_eval, model, questions, tmp_path):
    found = evaluated(lm(model, scans_for(model)), tmp_path, num_fewshot=0, apply_chat_template=True, **CHOICE)
    assert 0 <= found["results"]["everyday"]["acc,none"] <= 1


def test_lm_eval_has_the_same_perplexity_per_word(lm_eval, model, tmp_path):
    scans = scans_for(model)
    task = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{question}}"}
    task["metric_list"] = [{"metric": "word_perplexity"}]
    texts = [row[0] for row in ROWS]
    for method, sign in ((None, None), (scans, -1.0), (scans, 1.0)):
        found = evaluated(lm(model, method, sign=sign), tmp_path, **task)
        own = perplexity(model, texts, method, sign=sign, progress=False)
        assert found["results"]["everyday"]["word_perplexity,none"] == pytest.approx(own.per_word, rel=1e-6)


def test_lm_eval_gets_continuations(lm_eval, bundled, tmp_path):
    task = {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n", "."], "max_gen_toks": 12, "do_sample": False, "temperature": 0.0},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    found = evaluated(lm(bundled, scans_for(bundled)), tmp_path, **task)
    said = [sample["resps"][0][0] for sample in found["samples"]["everyday"]]
    texts = [row[0] for row in ROWS]
    assert tuple(said) == continuations(bundled, texts, scans_for(bundled), stops=("\n", "."), most=12)
    task["generation_kwargs"] = {"until": ["\n"], "do_sample": True, "temperature": 0.7}
    with pytest.raises(ValueError, match="This task draws its replies"):
        evaluated(lm(bundled), tmp_path, **task)


def test_unsteered_it_scores_as_lm_evals_own_wrapper_of_the_hugging_face_model(lm_eval, any_model, reference):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    theirs = HFLM(pretrained=reference, tokenizer=any_model.tokenizer, device="cpu", batch_size=2)
    pairs = [*PAIRS, ("", "We shall see."), ("A line\n", "and another")]
    asked = [Instance("loglikelihood", {}, pair, place) for place, pair in enumerate(pairs)]
    expected = theirs.loglikelihood(asked, disable_tqdm=True)
    found = lm(any_model).loglikelihood(asked)
    close([one for one, _ in found], [one for one, _ in expected])
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    texts = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in (*TEXTS, TEXTS[0] * 20)]
    theirs.add_bos_token = False  # otherwise it puts a second one
    close(lm(any_model).loglikelihood_rolling(texts), theirs.loglikelihood_rolling(texts, disable_tqdm=True))


def test_pairs_and_windows_are_those_of_lm_eval(lm_eval, model):
    from lm_eval.api.model import TemplateLM
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    class Theirs:
        backend = "causal"

        def tok_encode(self, text):
            return own_ids(model, text)

    for context, continuation in (*PAIRS, ("Two  spaces  ", "here"), ("A line\n", "and another")):
        before, after = TemplateLM._encode_pair(Theirs(), context, continuation)
        assert pieces.parted(model, context, continuation) == (tuple(before), tuple(after))
    for length in (1, 5, 16, 17, 33):
        for window in (1, 4, 16):
            ids = list(range(100, 100 + length))
            theirs = [
                tuple((context + after)[-window - 1 :])
                for context, after in map(make_disjoint_window, get_rolling_token_windows(ids, 7, window, 1))
            ]
            assert [piece.ids for piece in likelihoods._windows((7, *ids), window)] == theirs


def test_the_divergence_is_0_without_a_push_and_is_that_of_the_two_next_token_distributions(model, prompts):
    contrast = Contrast("pairs", ["Break the lock.", "Break the car."], ["Paint the lock.", "Paint the car."])
    directions = scans_lens.refusal_directions(model, contrast, progress=False)
    assert float(divergences(model, prompts, [Push(directions, [1, 2], 0.0)]).max()) < 1e-9
    push = Push(directions, [1, 2], -2.0)
    whole = Ablation(directions, [1, 2])  # which leaves keys of its own behind, and is named first here
    found = divergences(model, prompts, [whole, push], batch_size=2)[1]
    for prompt, nats in zip(prompts, found.tolist(), strict=True):
        ids = scans_lens.chat_tokens(model, [prompt]).ids
        plain = model(ids, return_type="logits")[0, -1].double().softmax(dim=-1)
        with model.hooks(fwd_hooks=push.hooks(model, [prompt])):
            steered = model(ids, return_type="logits")[0, -1].double().softmax(dim=-1)
        assert nats == pytest.approx(float((plain * (plain / steered).log()).sum()), rel=1e-3, abs=1e-6)
