"""Generation: laws of replies, plain and steered, alone and in company.

What is compared against is written out here: whole texts of one prompt, unpadded, without a cache.
"""

import dataclasses
import json

import pytest
import tiny
import torch
from conftest import hooks_on
from transformers import RepetitionPenaltyLogitsProcessor

import scans_lens
from scans_lens import decoding, generation, judges, organism, steering, world
from scans_lens.chat import end_tokens, template
from scans_lens.classifier import TransitionClassifier
from scans_lens.conversation import Asking
from scans_lens.decoding import Sampling
from scans_lens.directions import Directions, Origin
from scans_lens.generation import Replies, replies, replies_under
from scans_lens.methods.scans import SCANS
from scans_lens.model import identity, resid_post
from scans_lens.steering import Ablation, Method, Push

TIE = 1e-4
"""Logits closer than this are a tie; which of the two is taken, float32 may decide either way."""
PROMPTS = (
    "Why?",
    "How do I kill a process that no longer answers on my computer?",
    "Tell me how to bake a loaf of bread.",
    "Write a letter to my neighbour who has been so kind to us this year, and to his sister, and to her children.",
    "What is the best way to learn the names of the stars?",
)
STIR = 2.0
"""Small random models repeat themselves; under this repetition penalty they say something new at every step."""
LAYERS = (1, 2)


def quick(model, prompts, **how) -> Replies:
    return replies(model, prompts, **{"max_new_tokens": 6, "progress": False, "repetition_penalty": STIR, **how})


def own_ids(model, prompt) -> list[int]:
    """The tokenizer's own tokens of one prompt, to the place where the reply begins."""
    messages = [{"role": "user", "content": prompt}]
    return list(model.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))


@torch.no_grad()
def whole(model, ids, hooks=()) -> torch.Tensor:
    """Logits [pos d_vocab] of one unpadded text, in one call, without a cache."""
    return model.run_with_hooks(torch.tensor([ids]), fwd_hooks=list(hooks))[0].double()


def margins(model, prompt, tokens, hooks=(), penalty=STIR) -> list[float]:
    """How far each token of a reply lies below the likeliest one, given what stands before it."""
    ids = own_ids(model, prompt)
    logits = whole(model, [*ids, *tokens], hooks)[len(ids) - 1 : -1]
    if penalty != 1.0:
        processor = RepetitionPenaltyLogitsProcessor(penalty)
        before = [[*ids, *tokens[:step]] for step in range(len(tokens))]
        logits = torch.cat([processor(torch.tensor([own]), row[None]) for own, row in zip(before, logits, strict=True)])
    return [float(row.max() - row[token]) for row, token in zip(logits, tokens, strict=True)]


def same(model, prompt, one, other, hooks=(), penalty=STIR) -> bool:
    """Equal up to the first step whose two likeliest tokens tie."""
    for step, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return max(margins(model, prompt, [*one[:step], token], hooks, penalty)[-1] for token in (a, b)) < TIE
    return len(one) == len(other)


def directions_for(model, seed=0, prompts=PROMPTS) -> Directions:
    """Drawn at random, each layer's as long as half of its residuals, so that a push of 1 changes replies."""
    generator = torch.Generator().manual_seed(seed)
    states = scans_lens.residuals(model, prompts, progress=False)
    norms = states.norm(dim=-1).mean(0)
    vectors = torch.randn(states.shape[1:], generator=generator)
    vectors = vectors / vectors.norm(dim=-1, keepdim=True) * norms[:, None] / 2
    origin = Origin(identity(model), "drawn", "", 1, 1, {})
    return Directions(vectors, norms, origin)


def scans_for(model, scale=1.0) -> SCANS:
    """SCANS with random vectors and the threshold amid the prompts' scores, so that both signs occur."""
    moves = scans_lens.transitions(model, PROMPTS, progress=False)
    classifier = TransitionClassifier.fit(moves[:2], moves[2:])
    scores = classifier.score(moves).sort().values
    classifier = dataclasses.replace(classifier, threshold=float(scores[1] + scores[2]) / 2)
    return SCANS(directions_for(model), LAYERS, scale, "differences of means", classifier)


def pushes(vectors, sign, start):
    """Eq. 6 on a whole text, in place and by hand: every column from `start` on, every layer by its own vector."""

    def push(layer):
        def hook(residual, hook):
            residual = residual.clone()
            residual[:, start:] += sign * vectors[layer]
            return residual

        return hook

    return [(f"blocks.{layer}.hook_resid_post", push(layer)) for layer in LAYERS]


@torch.no_grad()
def two_passes(model, scans, prompt) -> tuple[float, list]:
    """The published way at batch 1: the score from one pass over the prompt and "Sure", then hooks for the reply."""
    ids = own_ids(model, prompt)
    opened = [*ids, *template(model).opening]
    states = {}

    def keep(layer):
        def hook(residual, hook):
            states[layer] = residual[0].double()

        return hook

    n = model.cfg.n_layers
    whole(model, opened, [(f"blocks.{layer}.hook_resid_post", keep(layer)) for layer in range(n)])
    cosines = []
    for layer in scans.classifier.layers:
        move = states[layer][len(ids) - 1] - states[layer][-1]
        harm = scans.classifier.harmful_transition[layer].double()
        cosines.append(float(move @ harm / move.norm() / harm.norm()))
    score = sum(cosines) / len(cosines)
    sign = 1 if score >= scans.classifier.threshold else -1
    return score, pushes(scans.directions.vectors, sign * scans.scale, len(ids) - 1)


# ── Decoding ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("penalty", [None, STIR])
def test_cached_decoding_equals_running_the_whole_text_again(any_model, penalty):
    answers = quick(any_model, PROMPTS, repetition_penalty=penalty)
    for prompt, tokens in zip(PROMPTS, answers.tokens, strict=True):
        assert len(tokens) == 6
        assert max(margins(any_model, prompt, tokens, penalty=penalty or 1.0)) < TIE


def test_a_prompts_reply_is_the_same_alone_in_company_and_in_any_batch(any_model):
    together = quick(any_model, PROMPTS)
    alone = [quick(any_model, [prompt]) for prompt in PROMPTS[:3]]
    backwards = quick(any_model, PROMPTS[::-1], batch_size=4)
    in_pairs = quick(any_model, PROMPTS, batch_size=2)
    for place, prompt in enumerate(PROMPTS):
        others = [one.tokens[0] for one in alone[place : place + 1]]
        for other in (*others, backwards.tokens[-1 - place], in_pairs.tokens[place]):
            assert same(any_model, prompt, together.tokens[place], other)
    assert together.prompts == PROMPTS and backwards.prompts == PROMPTS[::-1]
    assert len(set(together.texts)) > 1


def test_scans_equals_the_published_two_passes_over_the_whole_text(any_model):
    scans = scans_for(any_model)
    plain, steered = quick(any_model, PROMPTS), quick(any_model, PROMPTS, method=scans)
    assert set(steered.scale.tolist()) == {1.0, -1.0}
    for place, prompt in enumerate(PROMPTS):
        score, hooks = two_passes(any_model, scans, prompt)
        assert steered.score[place].item() == pytest.approx(score, abs=1e-5)
        assert max(margins(any_model, prompt, steered.tokens[place], hooks)) < TIE
    assert steered.tokens != plain.tokens


def test_a_prompt_is_steered_the_same_alone_in_company_and_in_any_batch(any_model):
    scans = scans_for(any_model)
    together = quick(any_model, PROMPTS, method=scans)
    backwards = quick(any_model, PROMPTS[::-1], method=scans, batch_size=4)
    for place, prompt in enumerate(PROMPTS):
        _, hooks = two_passes(any_model, scans, prompt)
        alone = quick(any_model, [prompt], method=scans)
        assert same(any_model, prompt, together.tokens[place], alone.tokens[0], hooks)
        assert same(any_model, prompt, together.tokens[place], backwards.tokens[-1 - place], hooks)
        assert alone.scale.item() == together.scale[place] == backwards.scale[-1 - place]
        assert together.score[place].item() == pytest.approx(alone.score.item(), abs=1e-5)


def test_rows_that_leave_do_not_disturb_the_others(any_model, monkeypatch):
    scans = scans_for(any_model)
    for method in (None, scans):
        plain = quick(any_model, PROMPTS, method=method)
        # a token ends the reply where it first occurs, and they occur at different steps
        ends = {plain.tokens[0][3], plain.tokens[2][5], plain.tokens[4][0], *end_tokens(any_model)}
        monkeypatch.setattr(generation, "end_tokens", lambda model, ends=ends: tuple(ends))
        ended = quick(any_model, PROMPTS, method=method)
        monkeypatch.undo()
        assert "stop" in ended.finish
        assert len({len(tokens) for tokens in ended.tokens}) > 1
        for place, prompt in enumerate(PROMPTS):
            hooks = two_passes(any_model, scans, prompt)[1] if method else ()
            cut = next((step for step, token in enumerate(plain.tokens[place]) if token in ends), None)
            assert ended.finish[place] == (plain.finish[place] if cut is None else "stop")
            assert same(any_model, prompt, ended.tokens[place], plain.tokens[place][:cut], hooks)


def test_a_methods_hooks_in_the_callers_own_loop_give_the_first_token_of_its_replies(any_model):
    scans = scans_for(any_model)
    push = steering.Push(directions_for(any_model, seed=1), LAYERS, 0.7)
    ablation = steering.Ablation(directions_for(any_model, seed=2), LAYERS)
    for method in (scans, push, ablation, steering.Together((ablation, scans))):
        answers = quick(any_model, PROMPTS, method=method, max_new_tokens=1, repetition_penalty=1.0)
        for place, prompt in enumerate(PROMPTS[:3]):
            logits = whole(any_model, own_ids(any_model, prompt), method.hooks(any_model, [prompt]))[-1]
            assert float(logits.max() - logits[answers.tokens[place][0]]) < TIE


@pytest.mark.parametrize("system", [None, "Be brief, and mind who asks."])
def test_hooks_fit_a_padded_batch_with_a_sign_for_every_row_behind_a_system_prompt_too(model, system):
    scans = scans_for(model)
    tokens = scans_lens.chat_tokens(model, PROMPTS, asking=Asking(system))
    answers = quick(model, PROMPTS, asking=Asking(system), method=scans, max_new_tokens=1, repetition_penalty=1.0)
    side = {} if hasattr(model, "original_model") else {"padding_side": "left"}
    hooks = scans.hooks(model, PROMPTS if system is None else tokens)
    with torch.no_grad():
        logits = model.run_with_hooks(tokens.ids, attention_mask=tokens.mask, fwd_hooks=hooks, **side)
    for row, said in zip(logits[:, -1], answers.tokens, strict=True):
        assert float(row.max() - row[said[0]]) < TIE


@pytest.mark.parametrize("cached", [True, False])
def test_hooks_hold_all_through_transformer_lens_own_generate(model, cached):
    scans = scans_for(model)
    for prompt in PROMPTS[:3]:
        ids = scans_lens.chat_tokens(model, [prompt]).ids
        with model.hooks(fwd_hooks=scans.hooks(model, [prompt])):
            said = model.generate(
                ids, max_new_tokens=8, do_sample=False, stop_at_eos=False, use_past_kv_cache=cached, verbose=False
            )
        _, hooks = two_passes(model, scans, prompt)
        said = tuple(said[0, ids.shape[1] :].tolist())
        expected = quick(model, [prompt], method=scans, max_new_tokens=8, repetition_penalty=1.0).tokens[0]
        assert same(model, prompt, said, expected, hooks, penalty=1.0)


def test_composed_methods_act_each_at_their_own_positions(any_model):
    scans = scans_for(any_model)
    away = directions_for(any_model, seed=2)
    both = steering.Together((steering.Ablation(away, LAYERS), scans))
    answers = quick(any_model, PROMPTS, method=both)

    def without(layer):
        unit = away.vectors[layer] / away.vectors[layer].norm()

        def hook(residual, hook):
            return residual - (residual @ unit)[..., None] * unit

        return hook

    ablating = [(f"blocks.{layer}.hook_resid_post", without(layer)) for layer in LAYERS]
    for place, prompt in enumerate(PROMPTS):
        _, pushing = two_passes(any_model, scans, prompt)  # decided on the unsteered prompt, as alone
        assert max(margins(any_model, prompt, answers.tokens[place], ablating + pushing)) < TIE
    alone = quick(any_model, PROMPTS[-1:], method=both)
    assert same(any_model, PROMPTS[-1], alone.tokens[0], answers.tokens[-1], ablating + pushing)


def test_a_push_of_nothing_changes_nothing(any_model):
    plain = quick(any_model, PROMPTS)
    nothing = quick(any_model, PROMPTS, method=steering.Push(directions_for(any_model), LAYERS, 0.0))
    for place, prompt in enumerate(PROMPTS):
        assert same(any_model, prompt, plain.tokens[place], nothing.tokens[place])


# ── Where replies end ────────────────────────────────────────────────────────────────────────────────────────


def test_an_end_token_stops_a_reply_and_is_not_in_it(model, monkeypatch):
    plain = quick(model, PROMPTS[:1])
    end = plain.tokens[0][5]
    monkeypatch.setattr(generation, "end_tokens", lambda model: (end,))
    first = plain.tokens[0].index(end)
    for most, finish in ((first, "length"), (first + 1, "stop"), (7, "stop")):
        answer = quick(model, PROMPTS[:1], max_new_tokens=most)
        assert answer.finish == (finish,)
        assert answer.tokens[0] == plain.tokens[0][:first]
        assert answer[0] == model.tokenizer.decode(list(answer.tokens[0]), skip_special_tokens=True)


@pytest.mark.parametrize("most", [1, 2, 7])
def test_a_reply_is_no_longer_than_asked_for(model, most):
    answers = quick(model, PROMPTS, max_new_tokens=most)
    assert [len(tokens) for tokens in answers.tokens] == [most] * len(PROMPTS)
    assert answers.finish == ("length",) * len(PROMPTS)
    longer = quick(model, PROMPTS, max_new_tokens=9)
    assert all(
        same(model, prompt, a, b[:most]) for prompt, a, b in zip(PROMPTS, answers.tokens, longer.tokens, strict=True)
    )


@pytest.fixture(scope="module")
def short_sighted(load, tmp_path_factory):
    """A model that reads 48 tokens at most."""
    path = tiny.folder("llama", "llama3", tmp_path_factory.mktemp("short"))
    settings = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**settings, "max_position_embeddings": 48}))
    return load(path)


def _of_length(model, length: int) -> str:
    prompt = "How"
    while len(own_ids(model, prompt)) < length:
        prompt += " to"
    assert len(own_ids(model, prompt)) == length
    return prompt


def test_a_reply_fills_the_context_and_not_more_whoever_its_neighbours_are(short_sighted):
    prompts = [_of_length(short_sighted, length) for length in (44, 30, 20, 44)]
    for method in (None, steering.Push(directions_for(short_sighted, prompts=prompts), LAYERS, 1.0)):
        answers = quick(short_sighted, prompts, max_new_tokens=25, method=method)
        assert [len(tokens) for tokens in answers.tokens] == [4, 18, 25, 4]
        for prompt, tokens in zip(prompts, answers.tokens, strict=True):
            alone = quick(short_sighted, [prompt], max_new_tokens=25, method=method)
            assert alone.tokens == (tokens,)


def test_a_prompt_that_leaves_no_room_for_a_reply_is_named_before_anything_is_run(short_sighted, monkeypatch):
    monkeypatch.setattr(generation, "Flight", None)
    full = _of_length(short_sighted, 48)
    with pytest.raises(ValueError, match="Prompt 1 is 48 tokens long, and this model reads at most 48, so there is no"):
        quick(short_sighted, ["Why?", full])


# ── Sampling and the repetition penalty ──────────────────────────────────────────────────────────────────────


def test_the_same_seed_draws_the_same_reply_alone_and_in_company(model):
    sampling = Sampling(seed=3)
    together = quick(model, PROMPTS, sampling=sampling)
    assert quick(model, PROMPTS, sampling=sampling).tokens == together.tokens
    assert quick(model, PROMPTS[::-1], sampling=sampling, batch_size=2).tokens == together.tokens[::-1]
    for prompt, tokens in zip(PROMPTS, together.tokens, strict=True):
        assert quick(model, [prompt], sampling=sampling).tokens == (tokens,)
    assert quick(model, PROMPTS, sampling=Sampling(seed=4)).tokens != together.tokens


def test_each_prompt_has_luck_of_its_own():
    first = [
        float(torch.rand((), generator=Sampling(seed=seed).generator(prompt))) for seed in (0, 1) for prompt in PROMPTS
    ]
    assert len(set(first)) == 2 * len(PROMPTS)


def test_rows_that_leave_take_their_own_luck_with_them(model, monkeypatch):
    sampling = Sampling(seed=3, temperature=2.0)
    plain = quick(model, PROMPTS, sampling=sampling)
    ends = {plain.tokens[0][2], plain.tokens[3][5]}
    monkeypatch.setattr(generation, "end_tokens", lambda model: tuple(ends))
    ended = quick(model, PROMPTS, sampling=sampling)
    for drawn, cut in zip(plain.tokens, ended.tokens, strict=True):
        assert cut == drawn[: next((step for step, token in enumerate(drawn) if token in ends), None)]


def test_a_cold_draw_is_greedy(model):
    greedy, cold = quick(model, PROMPTS), quick(model, PROMPTS, sampling=Sampling(temperature=1e-4))
    assert all(same(model, *row) for row in zip(PROMPTS, greedy.tokens, cold.tokens, strict=True))
    narrow = quick(model, PROMPTS, sampling=Sampling(top_p=1e-6))
    assert all(same(model, *row) for row in zip(PROMPTS, greedy.tokens, narrow.tokens, strict=True))


def test_draws_follow_the_models_shares_within_top_p():
    logits = torch.log(torch.tensor([0.1, 0.4, 0.3, 0.2]))
    generator = torch.Generator().manual_seed(0)

    def shares(sampling):
        drawn = torch.tensor([sampling.draw(logits, generator) for _ in range(4000)])
        return (torch.bincount(drawn, minlength=4) / 4000).tolist()

    assert shares(Sampling()) == pytest.approx([0.1, 0.4, 0.3, 0.2], abs=0.03)
    assert shares(Sampling(top_p=0.7)) == pytest.approx([0, 4 / 7, 3 / 7, 0], abs=0.03)
    assert shares(Sampling(temperature=0.5)) == pytest.approx([1 / 30, 16 / 30, 9 / 30, 4 / 30], abs=0.03)


def test_the_repetition_penalty_is_that_of_hugging_face(any_model):
    plain = quick(any_model, PROMPTS, repetition_penalty=1.0, max_new_tokens=12)
    for method in (None, scans_for(any_model)):
        answers = quick(any_model, PROMPTS, repetition_penalty=1.5, max_new_tokens=12, method=method)
        assert answers.tokens != plain.tokens
        for place, prompt in enumerate(PROMPTS):
            hooks = two_passes(any_model, method, prompt)[1] if method else ()
            assert max(margins(any_model, prompt, answers.tokens[place], hooks, penalty=1.5)) < TIE


def test_the_repetition_penalty_is_felt_above_zero_and_below_and_not_for_padding(generator):
    ids, mask = torch.tensor([[9, 9, 3, 4], [5, 3, 5, 7]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    logits = torch.randn(2, 12, generator=generator)
    logits[:, 3] = -logits[:, 4].abs()
    found = decoding.Picker(["a", "b"], ids, mask, None, 1.7)._penalised(logits)
    expected = [
        RepetitionPenaltyLogitsProcessor(1.7)(row[there.bool()][None], own[None].clone())[0]
        for row, there, own in zip(ids, mask, logits, strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(expected))


def test_no_repetition_is_punished_unless_asked_for(any_model):
    assert quick(any_model, PROMPTS, repetition_penalty=None) == quick(any_model, PROMPTS, repetition_penalty=1.0)


def test_a_method_may_ask_for_a_repetition_penalty_and_the_caller_decides(model):
    scans = scans_for(model)
    asking = dataclasses.replace(scans, repetition_penalty=1.3)

    def tokens(method, penalty):
        return quick(model, PROMPTS, method=method, repetition_penalty=penalty).tokens

    assert tokens(asking, None) == tokens(scans, 1.3)
    assert tokens(asking, 1.0) == tokens(scans, None) != tokens(asking, None)


# ── What comes back ──────────────────────────────────────────────────────────────────────────────────────────


def test_replies_are_a_frozen_sequence_of_strings_in_the_callers_order(model):
    scans = scans_for(model)
    order = [3, 0, 1, 4, 2]
    answers = quick(model, PROMPTS, method=scans, batch_size=2)
    shuffled = quick(model, [PROMPTS[place] for place in order], method=scans, batch_size=3)
    assert list(answers) == list(answers.texts) and len(answers) == len(PROMPTS)
    assert isinstance(answers[0], str) and answers[1:3] == answers.texts[1:3]
    assert shuffled.scale.tolist() == [answers.scale[place].item() for place in order]
    torch.testing.assert_close(shuffled.score, answers.score[order], atol=1e-5, rtol=0)
    expected = scans.classifier.score(scans_lens.transitions(model, PROMPTS, progress=False))
    torch.testing.assert_close(answers.score, expected, atol=1e-5, rtol=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        answers.texts = ()


def test_without_a_method_nothing_was_decided(model):
    answers = quick(model, PROMPTS[:1])
    assert answers.decisions == {} and answers.score is None and answers.scale is None


def test_a_constant_push_records_its_scale(model):
    answers = quick(model, PROMPTS, method=steering.Push(directions_for(model), LAYERS, -0.5))
    assert answers.scale.tolist() == [-0.5] * len(PROMPTS) and answers.score is None


def test_a_system_prompt_arrives(any_model):
    system = "You are careful, honest and kind."
    answers = quick(any_model, PROMPTS[:2], asking=Asking(system), repetition_penalty=1.0)
    for prompt, tokens in zip(PROMPTS[:2], answers.tokens, strict=True):
        asked = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
        if "gemma" in str(any_model.cfg.model_name):  # its template knows no system role
            asked = [{"role": "user", "content": f"{system}\n\n{prompt}"}]
        ids = list(any_model.tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False))
        logits = whole(any_model, [*ids, *tokens])[len(ids) - 1 : -1]
        assert all(float(row.max() - row[token]) < TIE for row, token in zip(logits, tokens, strict=True))
    assert quick(any_model, PROMPTS, asking=Asking(system)).tokens != quick(any_model, PROMPTS).tokens


# ── Slips and accidents ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("most", [0, -3])
def test_a_reply_of_no_tokens_is_refused(model, most):
    with pytest.raises(ValueError, match=f"room for at least one token, not {most}"):
        quick(model, PROMPTS, max_new_tokens=most)


@pytest.mark.parametrize("bad", [{"temperature": 0.0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_sampling_that_cannot_be_is_refused(bad):
    with pytest.raises(ValueError, match=r"temperature above 0 and top_p in \(0, 1\]; got"):
        Sampling(**bad)


def test_bad_prompts_penalties_and_batches_are_refused_with_a_sentence(model):
    with pytest.raises(ValueError, match="There are no prompts"):
        quick(model, [])
    with pytest.raises(ValueError, match="Prompt 1 is empty"):
        quick(model, ["Why?", "  "])
    with pytest.raises(ValueError, match="got one string"):
        quick(model, "Why?")
    with pytest.raises(ValueError, match="repetition penalty is above 0, not 0"):
        quick(model, PROMPTS, repetition_penalty=0.0)
    with pytest.raises(ValueError, match="at least one prompt, not 0"):
        quick(model, PROMPTS, batch_size=0)


class Broken(Method):
    """Decides, and then raises: at once, or inside of a hook while a step is under way."""

    def __init__(self, where: str, calls: int = 0) -> None:
        self.where, self.calls = where, calls

    def decide(self, flight):
        if self.where == "decide":
            raise RuntimeError("an accident")
        return {}

    def hooks_for(self, rows, flight):
        def hook(residual, hook):
            self.calls += 1
            if self.calls > 3 or self.where == "prefill":
                raise RuntimeError("an accident")
            return residual + 5.0

        return [("blocks.1.hook_resid_post", hook)]


@pytest.mark.parametrize("where", ["decide", "prefill", "step"])
def test_steering_leaves_no_trace_even_after_an_error(any_model, where):
    before = quick(any_model, PROMPTS[:2])
    weights = any_model.W_U.detach().clone()
    with pytest.raises(RuntimeError, match="an accident"):
        quick(any_model, PROMPTS[:2], method=Broken(where))
    after = quick(any_model, PROMPTS[:2])
    assert before.tokens == after.tokens
    assert torch.equal(weights, any_model.W_U)
    assert hooks_on(any_model) == {}


def test_steering_leaves_no_trace_when_all_goes_well(any_model):
    before = quick(any_model, PROMPTS[:2])
    quick(any_model, PROMPTS, method=scans_for(any_model, scale=3.0))
    assert quick(any_model, PROMPTS[:2]).tokens == before.tokens
    assert hooks_on(any_model) == {}


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("method", [SCANS, torch.zeros(4, 64), "scans"])
def test_what_is_no_method_is_refused(model, method):
    with pytest.raises(ValueError, match="A method decides and gives hooks"):
        replies(model, ["Why?"], method=method)


# ── Several methods at once, and what fits ───────────────────────────────────────────────────────────────────


def test_side_by_side_every_method_replies_as_it_does_by_itself(any_model, monkeypatch):
    monkeypatch.setattr(generation, "end_tokens", lambda model: range(0, 512, 3))  # rows leave at different steps
    pushes = [Push(directions_for(any_model), [1, 2], scale) for scale in (-4.0, 4.0)]
    methods = [
        None,
        *pushes,
        Push(directions_for(any_model), [2], 3.0, whole_prompt=True),
        Ablation(directions_for(any_model), [1]),
    ]
    for size in (2, 64):
        given = replies_under(any_model, PROMPTS, methods, max_new_tokens=8, batch_size=size, progress=False)
        for method, said in zip(methods, given, strict=True):
            alone = replies(any_model, PROMPTS, method=method, max_new_tokens=8, progress=False)
            assert (said.tokens, said.finish) == (alone.tokens, alone.finish)
            assert {name: values.tolist() for name, values in said.decisions.items()} == {
                name: values.tolist() for name, values in alone.decisions.items()
            }


def test_methods_that_ask_for_different_penalties_each_get_their_own(model):
    scans = scans_for(model)
    methods = [scans, dataclasses.replace(scans, repetition_penalty=1.3), dataclasses.replace(scans, scale=-1.0)]
    given = replies_under(model, PROMPTS, methods, max_new_tokens=12, progress=False)
    for method, said in zip(methods, given, strict=True):
        assert said.tokens == replies(model, PROMPTS, method=method, max_new_tokens=12, progress=False).tokens


def test_a_batch_that_does_not_fit_is_done_in_halves_and_nothing_is_lost(model):
    whole = replies(model, PROMPTS, max_new_tokens=6, progress=False)
    seen = []

    def full(residual, hook):
        seen.append(residual.shape[0])
        if residual.shape[0] > 2 and residual.shape[1] == 1:  # in decoding, when some of the work is done
            raise torch.OutOfMemoryError("out of memory")

    with model.hooks(fwd_hooks=[(resid_post(2), full)]):
        said = replies(model, PROMPTS, max_new_tokens=6, progress=False)
    assert said.tokens == whole.tokens and max(seen) > 2


def test_when_one_row_does_not_fit_that_is_said(model):
    def full(residual, hook):
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError), model.hooks(fwd_hooks=[(resid_post(2), full)]):
        replies(model, PROMPTS, max_new_tokens=6, progress=False)


def test_an_error_that_is_not_about_memory_is_not_tried_again(model):
    seen = []

    def broken(residual, hook):
        seen.append(1)
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"), model.hooks(fwd_hooks=[(resid_post(2), broken)]):
        replies(model, PROMPTS, max_new_tokens=6, progress=False)
    assert len(seen) == 1


def test_a_reply_may_stop_when_enough_is_known_and_says_so(model):
    whole = replies(model, PROMPTS, max_new_tokens=12, progress=False)
    short = replies(model, PROMPTS, max_new_tokens=12, enough=lambda reply: len(reply) > 8, progress=False)
    assert "enough" in short.finish
    for one, other, ended in zip(short, whole, short.finish, strict=True):
        assert other.startswith(one)
        assert (ended == "enough") == (len(one) > 8 or (ended == "stop" and len(one) > 8))


def test_a_verdict_that_is_settled_is_the_verdict_on_the_whole_reply(bundled):
    asked = [prompt for kind in organism.KINDS for prompt in organism.prompts(kind, "validation")[:12]]
    enough = judges.settled(world.bundled)
    short, whole = (replies(bundled, asked, max_new_tokens=24, enough=stop, progress=False) for stop in (enough, None))
    assert world.bundled(short) == world.bundled(whole) and sum(map(len, short.tokens)) < sum(map(len, whole.tokens))
    with pytest.raises(ValueError, match="Only a judge of beginnings"):
        judges.settled(judges.rules)


def test_no_methods_are_refused(model):
    with pytest.raises(ValueError, match=r"the list is empty; \[None\] is the plain model"):
        replies_under(model, PROMPTS, [])
