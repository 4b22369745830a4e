"""The past: models whose past is more than plain keys and values, against transformers itself, from outside."""

import math
from functools import cache

import pytest
import tiny
import torch
from conftest import one_by_one
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from scans_lens.cache import refusal, runner, sides
from scans_lens.chat import chat_tokens
from scans_lens.decoding import Sampling
from scans_lens.flight import Flight
from scans_lens.generation import replies
from scans_lens.likelihoods import scored
from scans_lens.loading import load_model
from scans_lens.model import resid_post
from scans_lens.pieces import Piece
from scans_lens.reading import collect, residuals, seen_at, transitions
from scans_lens.steering import Method, add

SWITCH = 42
"""Where LongRoPE's tables change here: two of the prompts are longer, one is as long, two cross it in their replies."""
NEW = 18

WIDTH = dict(vocab_size=tiny.VOCABULARY, hidden_size=64, num_hidden_layers=4)
SHAPE = dict(**WIDTH, num_attention_heads=4, num_key_value_heads=2, intermediate_size=96, max_position_embeddings=512)
EXPERTS = dict(num_experts_per_tok=2, moe_intermediate_size=48)
MAMBA2 = dict(mamba_n_heads=8, mamba_d_head=16, mamba_n_groups=1, mamba_d_state=8, mamba_chunk_size=16)
DELTA = dict(
    head_dim=16,
    layer_types=["linear_attention", "full_attention"] * 2,
    linear_key_head_dim=16,
    linear_value_head_dim=16,
    linear_num_key_heads=2,
    linear_num_value_heads=4,
)
pytestmark = pytest.mark.filterwarnings("ignore:.*RoPE was NOT applied")  # Granite has none

WITH_STATE = {
    "mamba": dict(**WIDTH, state_size=8, time_step_rank=8),
    "mamba2": dict(**WIDTH, state_size=8, head_dim=16, num_heads=8, expand=2, n_groups=2, chunk_size=16),
    "lfm2": dict(**SHAPE, layer_types=["conv", "full_attention"] * 2, block_auto_adjust_ff_dim=False),
    "falcon_h1": dict(**SHAPE, **{**MAMBA2, "mamba_n_heads": 4}, head_dim=16, mamba_d_ssm=64),
    "jamba": dict(
        **SHAPE,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        num_experts=4,
        num_experts_per_tok=2,
        mamba_d_state=8,
        mamba_dt_rank=8,
        use_mamba_kernels=False,
    ),
    "qwen3_5_text": dict(**SHAPE, **DELTA),
    "granitemoehybrid": dict(
        **SHAPE,
        **MAMBA2,
        layer_types=["mamba", "attention"] * 2,
        num_local_experts=4,
        num_experts_per_tok=2,
        shared_intermediate_size=48,
    ),
    "nemotron_h": dict(
        **SHAPE,
        **EXPERTS,
        head_dim=16,
        layers_block_type=["mamba", "attention", "mamba", "moe"],
        mamba_num_heads=8,
        mamba_head_dim=16,
        n_groups=1,
        ssm_state_size=8,
        chunk_size=16,
        n_routed_experts=4,
        moe_shared_expert_intermediate_size=48,
    ),
}
"""Models with a recurrent state in some layer or in all, in the shape of the published ones."""
ROTARY = {
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 5000.0,
        "short_factor": [1.0] * 8,
        "long_factor": [1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
        "original_max_position_embeddings": SWITCH,
    },
    "dynamic": {"rope_type": "dynamic", "rope_theta": 5000.0, "factor": 4.0},
}
OTHERS = {
    "phi3": dict(**SHAPE, rope_parameters=ROTARY["longrope"], original_max_position_embeddings=SWITCH),
    "llama-longrope": dict(**SHAPE, rope_parameters=ROTARY["longrope"]),
    "llama-dynamic": dict(**{**SHAPE, "max_position_embeddings": SWITCH}, rope_parameters=ROTARY["dynamic"]),
    "recurrent_gemma": dict(
        **{**WIDTH, "num_hidden_layers": 3}, num_attention_heads=4, intermediate_size=192, lru_width=64
    ),
    "rwkv": dict(**WIDTH, context_length=512),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """`made(kind)`: a model of that kind, saved with random weights, made once."""
    root = tmp_path_factory.mktemp("caches")

    @cache
    def folder(kind):
        words = tiny.tokenizer("chatml")
        config = AutoConfig.for_model(kind.partition("-")[0], **{**WITH_STATE, **OTHERS}[kind])
        config.bos_token_id, config.eos_token_id, config.pad_token_id = None, words.eos_token_id, words.pad_token_id
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim > 1 and "A_log" not in name:
                    weight.normal_(std=0.15, generator=generator)
        model.generation_config = GenerationConfig(eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id)
        model.save_pretrained(root / kind)
        words.save_pretrained(root / kind)
        return root / kind

    return folder


@pytest.fixture(scope="module")
def both(made):
    """`both(kind)`: the model as we load it, and as transformers does."""

    @cache
    def loaded(kind):
        source = AutoModelForCausalLM.from_pretrained(made(kind), attn_implementation="eager", dtype=torch.float32)
        return load_model(made(kind), dtype=torch.float32), source.eval()

    return loaded


@pytest.fixture(scope="module", params=WITH_STATE)
def stateful(both, request):
    return both(request.param)


@pytest.fixture(scope="module", params=["phi3", "llama-longrope"])
def switching(both, request):
    return both(request.param)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def generated(source, ids, new=NEW):
    """What transformers' own `generate` replies to one prompt, greedily, without the end token."""
    tokens = source.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False)
    found = tokens[0, ids.shape[1] :].tolist()
    return found[:-1] if found and found[-1] == source.config.eos_token_id else found


@torch.no_grad()
def by_whole_texts(model, source, ids, hooks, new=NEW):
    """A greedy reply by running the whole text again for every token, without a cache, under these hooks."""
    said = []
    for _ in range(new):
        text = torch.tensor([[*ids[0].tolist(), *said]])
        with model.hooks(fwd_hooks=hooks):
            logits = model.original_model(text, attention_mask=torch.ones_like(text)).logits[0, -1]
        if int(logits.argmax()) == source.config.eos_token_id:
            break
        said.append(int(logits.argmax()))
    return said


def pushes(model, since):
    """Hooks that push two layers from a column on."""
    vectors = torch.randn(int(model.cfg.n_layers), int(model.cfg.d_model), generator=torch.Generator().manual_seed(3))
    return add(vectors, [1, 2], 1.0, since=since)


class Pushed(Method):
    """A method that pushes every prompt alike, from its end on."""

    def decide(self, flight):
        return {"scale": torch.ones(len(flight.tokens))}

    def hooks_for(self, rows, flight):
        return pushes(flight.model, flight.since(flight.end_of_prompt))


# ── A state that cannot be taken back ────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def test_a_model_with_a_state_runs_in_company_and_in_steps_as_transformers_runs_a_whole_text(stateful, prompts):
    model, source = stateful
    tokens = chat_tokens(model, prompts)
    ids, mask = tokens.ids, tokens.mask
    expected = torch.cat([source(text).logits[:, -1] for text in one_by_one(tokens)])
    close(runner(model).feed(ids, mask), expected)
    for cut in (1, 3):
        run = runner(model)
        run.feed(ids[:, :-3], mask[:, :-3])
        for column in range(ids.shape[1] - 3, ids.shape[1], cut):
            found = run.feed(ids[:, column : column + cut], mask[:, column : column + cut])
        close(found, expected)
        assert run.length == ids.shape[1] and torch.equal(run.mask, mask)


@torch.no_grad()
def test_a_state_is_taken_back_copied_and_left_by_rows(stateful, prompts):
    model, _ = stateful
    tokens = chat_tokens(model, prompts)
    step = tokens.ids[:, :1] * 0 + 7
    there = torch.ones_like(step)
    plain, run = runner(model), runner(model)
    for one in (plain, run):
        one.feed(tokens.ids, tokens.mask)
    expected = [plain.feed(step + column, there) for column in range(3)]
    rows = torch.tensor([3, 0, 3])
    copied = run.copy(rows)
    run.feed(step + 50, there)
    run.feed(step + 60, there)
    run.back(2)
    close(run.feed(step, there), expected[0])
    kept = torch.tensor([4, 1])
    run.keep(kept)
    for column in (1, 2):
        close(run.feed(step[kept] + column, there[kept]), expected[column][kept])
    for column in range(3):
        close(copied.feed(step[rows] + column, there[rows]), expected[column][rows])


@torch.no_grad()
def test_a_model_with_a_state_replies_as_generate_does_and_steered_as_by_whole_texts(stateful, prompts):
    model, source = stateful
    plain, steered = (
        replies(model, prompts, method=method, max_new_tokens=8, progress=False).tokens for method in (None, Pushed())
    )
    for place, ids in enumerate(one_by_one(chat_tokens(model, prompts))):
        assert list(plain[place]) == generated(source, ids, 8)
        hooks = pushes(model, lambda columns, end=ids.shape[1] - 1: end)
        assert list(steered[place]) == by_whole_texts(model, source, ids, hooks, 8)
    assert plain != steered


@torch.no_grad()
def test_what_is_read_of_a_model_with_a_state_is_what_its_layers_give(stateful, prompts):
    model, source = stateful
    seen = {}
    layers = next(part for part in source.modules() if isinstance(part, torch.nn.ModuleList))
    hooks = [
        layer.register_forward_hook(
            lambda _, __, out, n=n: seen.__setitem__(n, (out[0] if isinstance(out, tuple) else out)[:, -1])
        )
        for n, layer in enumerate(layers)
    ]
    expected = []
    for ids in one_by_one(chat_tokens(model, prompts)):
        source(ids)
        expected.append(torch.cat([seen[n] for n in range(len(layers))]))
    for hook in hooks:
        hook.remove()
    close(residuals(model, prompts, progress=False), torch.stack(expected))
    close(transitions(model, prompts, progress=False), collect(model, prompts, Flight.transitions))


@pytest.mark.parametrize(("kind", "words"), [("recurrent_gemma", "padding for text"), ("rwkv", "way of its own")])
def test_a_model_whose_past_cannot_be_kept_rightly_is_refused_in_one_sentence(made, kind, words):
    model = tiny.bridge(made(kind))
    sentence = refusal(model)
    assert sentence is not None and words in sentence and "\n" not in sentence
    for ask in (lambda: runner(model), lambda: residuals(model, ["Why?"]), lambda: replies(model, ["Why?"])):
        with pytest.raises(ValueError, match=words):
            ask()


def test_a_part_that_is_wrapped_though_it_is_not_there_is_refused_and_taken_out_at_loading(made):
    assert "rotary_emb" in str(refusal(tiny.bridge(made("granitemoehybrid"))))
    assert refusal(load_model(made("granitemoehybrid"))) is None


def test_models_with_plain_attention_are_not_refused(any_model):
    assert refusal(any_model) is None


# ── Rotary tables that depend on the longest text ────────────────────────────────────────────────────────────


def test_prompts_are_on_both_sides_of_the_switch(both, prompts):
    lengths = chat_tokens(both("phi3")[0], prompts).mask.sum(dim=1).tolist()
    assert min(lengths) < SWITCH < max(lengths) and SWITCH in lengths and min(lengths) + NEW > SWITCH


@torch.no_grad()
def test_a_prompt_reads_as_in_transformers_whatever_longer_ones_are_beside_it(switching, prompts):
    model, source = switching
    found = residuals(model, prompts, progress=False)
    states = [residuals(model, [prompt], progress=False)[0] for prompt in reversed(prompts)][::-1]
    close(found, torch.stack(states))
    for place, ids in enumerate(one_by_one(chat_tokens(model, prompts))):
        close(found[place, 1], source(ids, output_hidden_states=True).hidden_states[2][0, -1])


@torch.no_grad()
def test_a_text_before_it_that_was_longer_than_the_context_changes_nothing(both, prompts):
    """With dynamic scaling the tables of transformers remember it, and a text as long as the context feels it."""
    model, source = both("llama-dynamic")
    ids = chat_tokens(model, [prompts[0]]).ids
    assert ids.shape[1] == SWITCH == int(model.cfg.n_ctx)
    expected = source(ids, output_hidden_states=True)
    for read in (
        lambda: (residuals(model, [prompts[0]], progress=False)[:, 1], expected.hidden_states[2][:, -1]),
        lambda: (runner(model).feed(ids, torch.ones_like(ids)), expected.logits[:, -1]),
    ):
        model.original_model(ids.repeat(1, 3))
        close(*read())


@torch.no_grad()
def test_greedy_replies_equal_generate_across_the_switch(switching, prompts):
    model, source = switching
    found = replies(model, prompts, max_new_tokens=NEW, progress=False)
    for tokens, ids in zip(found.tokens, one_by_one(chat_tokens(model, prompts)), strict=True):
        assert list(tokens) == generated(source, ids)
    assert any(len(tokens) > SWITCH - 34 for tokens in found.tokens[:4])


@torch.no_grad()
def test_a_steered_reply_across_the_switch_equals_running_the_whole_text_again(both, prompts):
    model, source = both("phi3")
    found = replies(model, prompts, method=Pushed(), max_new_tokens=NEW, progress=False)
    for place, ids in enumerate(one_by_one(chat_tokens(model, prompts))):
        hooks = pushes(model, lambda columns, end=ids.shape[1] - 1: end)
        assert list(found.tokens[place]) == by_whole_texts(model, source, ids, hooks)


@torch.no_grad()
def test_an_opening_that_crosses_the_switch_is_read_and_dropped_again(switching, prompts):
    model, source = switching
    ids = chat_tokens(model, [prompts[0]]).ids
    assert ids.shape[1] == SWITCH
    flight = Flight(model, chat_tokens(model, [prompts[0]]))
    before = flight.logits.clone()
    close(flight.residuals() - flight.opened(), transitions(model, prompts, progress=False)[:1])
    close(flight.residuals(), residuals(model, prompts, progress=False)[:1])
    flight.ahead(3)
    close(flight.again([], whole_prompt=False), before)
    if type(source).__name__.startswith("Phi3"):  # whole texts are the law there
        told = torch.cat([ids, torch.tensor([flight.templates[0].opening])], dim=1)
        close(flight.opened()[:, 1], source(told, output_hidden_states=True).hidden_states[2][:, -1])


@torch.no_grad()
def test_texts_on_both_sides_of_the_switch_are_not_run_together(switching, prompts):
    model, _ = switching
    tokens = chat_tokens(model, prompts)
    for ask in (
        lambda: runner(model).feed(tokens.ids, tokens.mask),
        lambda: seen_at(model, tokens, [resid_post(1)], lambda states, mask: states[:, -1]),
    ):
        with pytest.raises(ValueError, match="batch_size=1"):
            ask()
    lengths = torch.tensor([2, 5, SWITCH, SWITCH + 1, 500])
    assert sides(model, lengths, 0).tolist() == [2, 5, SWITCH, SWITCH + 1, SWITCH + 1]


def test_far_from_a_switch_prompts_of_all_lengths_go_together(model, any_model):
    lengths = torch.tensor([2, 5, 80])
    assert sides(any_model, lengths, 1000).tolist() == [0, 0, 0]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["phi3", "mamba", "qwen3_5_text"])
def test_log_likelihoods_are_those_of_transformers_own_whole_text(both, prompts, kind):
    model, source = both(kind)
    rows = [tuple(ids[0].tolist()) for ids in one_by_one(chat_tokens(model, prompts))]
    pieces = [Piece(ids, min(len(ids) - 5, SWITCH - 2), len(ids) - min(len(ids) - 5, SWITCH - 2)) for ids in rows]
    for piece, score in zip(pieces, scored(model, pieces, progress=False), strict=True):
        first = source(torch.tensor([piece.ids[: piece.context]])).logits[0, -1:]
        rest = source(torch.tensor([piece.read])).logits[0, piece.context :]
        shares = torch.cat([first, rest]).double().log_softmax(dim=-1)
        expected = shares.gather(1, torch.tensor(piece.ids[piece.context :])[:, None]).sum()
        assert score.log_likelihood == pytest.approx(float(expected), rel=1e-4)


# ── Logits that are no numbers ───────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("sampling", [None, Sampling(seed=1)])
def test_replies_of_logits_that_are_not_finite_are_refused(model, prompts, sampling, value):
    def overflows(residual, hook):
        late = residual.shape[1] == 1 and len(residual) == len(prompts)  # in a step of decoding, in one row
        return residual.index_fill(0, torch.tensor([2]), value) if late else residual

    with (
        model.hooks(fwd_hooks=[(resid_post(1), overflows)]),
        pytest.raises(ValueError, match=r"not finite.*load it in bfloat16 or float32"),
    ):
        replies(model, prompts, max_new_tokens=4, sampling=sampling, progress=False)


@torch.no_grad()
@pytest.mark.parametrize("place", [0, 3, -1])
def test_one_logit_that_is_no_number_is_found_wherever_it_stands(model, prompts, place):
    tokens = chat_tokens(model, prompts)
    weights = model.unembed.original_component.weight if hasattr(model, "original_model") else model.unembed.W_U.T
    kept = weights[place].clone()
    weights[place] = math.nan
    try:
        with pytest.raises(ValueError, match="not finite"):
            runner(model).feed(tokens.ids, tokens.mask)
    finally:
        weights[place] = kept
