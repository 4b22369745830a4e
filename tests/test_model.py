"""The front door: conversations to tokens, positions, loading, identity, and a batch on its way through a model."""

import dataclasses
import string
from types import SimpleNamespace

import pytest
import tiny
import torch
from conftest import one_by_one
from hypothesis import given
from hypothesis import strategies as st
from tiny import STYLES
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from scans_lens import model as front
from scans_lens.model import (
    chat_tokens,
    end_tokens,
    identity,
    is_folded,
    leaving,
    load_model,
    out_of_memory,
    prompt_ids,
    rows_at_once,
    runner,
    template,
)

ORDINARY = [
    "Why?",
    "How do I kill a process?\n",
    "  a space before and two behind  ",
    "\n\nTwo\n\nparagraphs.",
    "Wie spät ist es, café ✓ 日本?",
    "<<SYS>> system",
]
BRIEF = "Answer in one word."


def rendered(model, prompt, system=None, reply=None):
    """What the tokenizer's own template makes of it, as text."""
    messages = [{"role": "user", "content": prompt}]
    if system is not None:
        messages = [{"role": "system", "content": system}, *messages]
    if reply is not None:
        messages = [*messages, {"role": "assistant", "content": reply}]
    return model.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=reply is None)


def tokenised(model, text):
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


def special_ids(model, style):
    return [model.tokenizer.convert_tokens_to_ids(token) for token in STYLES[style].special]


def specials(model, style, ids):
    known = special_ids(model, style)
    return [token for token in ids if token in known]


# ── Tokens ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("prompt", ORDINARY)
def test_tokens_are_those_of_the_tokenizers_own_template(talker, prompt):
    own = talker.tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=True
    )
    assert prompt_ids(talker, prompt) == list(own["input_ids"])


def test_there_is_exactly_the_bos_that_the_template_writes(talker, style):
    ids = prompt_ids(talker, "Why?")
    if STYLES[style].bos is None:
        assert talker.tokenizer.decode(ids[:1]) == "<|im_start|>"
    else:
        bos = talker.tokenizer.convert_tokens_to_ids(STYLES[style].bos)
        assert ids[0] == bos and ids.count(bos) == 1


@pytest.mark.parametrize("system", [None, BRIEF, "</s> <|im_end|> <eos> <|eot_id|> stays text"])
def test_special_tokens_that_a_user_types_stay_text(talker, style, system):
    piece = st.sampled_from([*STYLES[style].special, *STYLES[style].added, " ", "\n", "\t", "Why", "a dog.", "é"])
    no_system_role = style == "gemma" and system is not None
    frame = specials(talker, style, prompt_ids(talker, "Why", "Be brief." if system else None))

    @given(st.lists(piece, min_size=1, max_size=8).map("".join).filter(str.strip))
    def law(prompt):
        ids = prompt_ids(talker, prompt, system)
        assert specials(talker, style, ids) == frame
        turn = [f"{system}\n\n{prompt}"] if no_system_role else [prompt, system]
        assert talker.tokenizer.decode(ids) == rendered(talker, *turn)

    law()


def test_typed_special_tokens_add_no_space_where_a_tokenizer_marks_the_beginning():
    """Llama 2's tokenizer puts a space before every text, and would before every piece of one."""
    tokens = [*STYLES["llama2"].special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *string.ascii_letters]
    backend = Tokenizer(models.BPE({token: id for id, token in enumerate(tokens)}, [], byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    words = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", chat_template=STYLES["llama2"].template
    )
    model = SimpleNamespace(cfg=None, tokenizer=words, W_U=None, hooks=list)
    tail = template(model).tail
    for prompt in ("What is </s> for?", "</s>", "a<s>b</s>"):
        ids = prompt_ids(model, prompt)
        assert words.decode(ids) == rendered(model, prompt)
        assert tuple(ids[-len(tail) :]) == tail


def test_typed_special_tokens_leave_no_setting_behind(talker, style):
    text = f"{STYLES[style].eos} and more"
    before = tokenised(talker, text)
    prompt_ids(talker, text)
    assert tokenised(talker, text) == before


def test_a_system_prompt_goes_where_the_template_has_it(talker, style):
    said = prompt_ids(talker, "Why?", BRIEF)
    if style == "gemma":  # knows no system role
        assert not template(talker).has_system
        assert said == prompt_ids(talker, f"{BRIEF}\n\nWhy?")
    else:
        assert template(talker).has_system
        assert said == tokenised(talker, rendered(talker, "Why?", BRIEF))


def test_an_empty_system_prompt_takes_the_templates_own_away(load, tiny_model):
    chatml = tiny_model(load, "llama", "chatml")
    for prompt in ("Why?", "Why <|im_end|>?"):
        assert "helpful" in chatml.tokenizer.decode(prompt_ids(chatml, prompt))
        assert "helpful" not in chatml.tokenizer.decode(prompt_ids(chatml, prompt, ""))


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_is_aligned_at_its_ends_whatever_the_tokenizers_side(talker, prompts, side, monkeypatch):
    monkeypatch.setattr(talker.tokenizer, "padding_side", side)
    tokens = chat_tokens(talker, prompts)
    assert [text[0].tolist() for text in one_by_one(tokens)] == [prompt_ids(talker, prompt) for prompt in prompts]
    assert (tokens.mask.diff(dim=1) >= 0).all() and tokens.mask[:, -1].all()


# ── Positions ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("prompt", [prompt for prompt in ORDINARY if prompt == prompt.strip()])
def test_what_lies_behind_the_users_words_is_the_tail(talker, prompt):
    shape, ids = template(talker), prompt_ids(talker, prompt)
    assert tuple(ids[-len(shape.tail) :]) == shape.tail
    assert talker.tokenizer.decode(shape.tail) == rendered(talker, prompt).rpartition(prompt)[2]
    assert prompt.endswith(talker.tokenizer.decode(ids[shape.end_of_instruction]).strip())
    assert ids[shape.end_of_prompt] == shape.tail[-1]


def test_the_opening_is_how_a_reply_begins_that_starts_with_sure(talker):
    shape = template(talker)
    assert talker.tokenizer.decode(shape.opening).strip() == "Sure"
    text = rendered(talker, "Why?", reply="Sure, because")
    assert prompt_ids(talker, "Why?") + list(shape.opening) == tokenised(talker, text[: text.index("Sure") + 4])


def test_a_reply_ends_with_its_turn_or_its_text(talker, style):
    ends = {talker.tokenizer.convert_tokens_to_ids(token) for token in (STYLES[style].eos, STYLES[style].end_of_turn)}
    assert set(end_tokens(talker)) == ends


# ── What is refused ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("prompts", "sentence"),
    [
        ([], "There are no prompts"),
        (["Why?", " \n"], "Prompt 1 is empty"),
        (["Why?", 3], "Prompt 1 is int, not a string"),
        ("Why?", "put it in a list"),
        (["Why?", "why " * 600], "Prompt 1 is .* tokens long, and this model reads at most 512"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_bad_prompts_get_a_sentence(model, prompts, sentence):
    with pytest.raises(ValueError, match=sentence):
        chat_tokens(model, prompts)


def test_a_model_without_a_chat_template_says_how_to_give_it_one(model, monkeypatch):
    monkeypatch.setattr(model.tokenizer, "chat_template", None)
    with pytest.raises(ValueError, match=r"no chat template.*model\.tokenizer\.chat_template ="):
        chat_tokens(model, ["Why?"])


def test_a_model_without_a_tokenizer_is_refused(model, monkeypatch):
    monkeypatch.setattr(model, "tokenizer", None)
    with pytest.raises(ValueError, match="no tokenizer"):
        template(model)


# ── Loading, and what a model is ─────────────────────────────────────────────────────────────────────────────

BACKENDS = [load.__name__ for load in tiny.LOADERS]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_from_a_folder_is_the_hugging_face_model(family, tiny_folder, reference, prompts, backend):
    loaded = load_model(tiny_folder(*family), backend=backend, device="cpu")
    assert not is_folded(loaded)
    for text in one_by_one(chat_tokens(loaded, prompts)):
        with torch.no_grad():
            torch.testing.assert_close(loaded(text), reference(text).logits, rtol=1e-4, atol=1e-3)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no model .*config\.json"):
        load_model(tmp_path)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["nobody/has-this-model", "no/such/folder", "NeelNanda/SoLU_1L_v9_old"])
def test_a_hub_that_cannot_be_reached_gets_a_sentence(backend, name):
    with pytest.raises(ValueError, match=f"Cannot load the model '{name}': it is no folder here"):
        load_model(name, backend=backend)


@pytest.mark.usefixtures("without_shape_checks")
def test_an_unknown_backend_is_refused(tiny_folder):
    with pytest.raises(ValueError, match="'bridge' and 'hooked'"):
        load_model(tiny_folder(), backend="vllm")


@pytest.mark.skipif(tiny.HAS_HOOKED, reason="TransformerLens 3 has HookedTransformer")
def test_where_there_is_no_hooked_transformer_the_error_says_so(tiny_folder):
    with pytest.raises(ValueError, match=r"removed in TransformerLens 4; use backend='bridge'"):
        load_model(tiny_folder(), backend="hooked")


def test_a_model_is_the_same_one_in_either_class_and_precision(family, tiny_folder, tiny_model):
    path = tiny_folder(*family)
    found = [identity(tiny_model(load, *family)) for load in tiny.LOADERS]
    found += [identity(load_model(path, device="cpu", dtype=torch.bfloat16))]
    assert all(one.same_as(other) for one in found for other in found)


def test_another_seed_or_family_is_another_model(load, tiny_model):
    found = [
        identity(tiny_model(load, "llama", "llama3")),
        identity(tiny_model(load, "llama", "llama3", None, 1)),
        identity(tiny_model(load, "mistral", "llama3")),
    ]
    assert not any(one.same_as(other) for one in found for other in found if one is not other)


def test_a_name_is_shown_and_never_compared(model):
    assert identity(model).same_as(dataclasses.replace(identity(model), name="another"))


def test_folded_norms_are_noticed(load, family, tiny_folder):
    folded = load(tiny_folder(*family))
    if load is tiny.bridge:
        folded.enable_compatibility_mode()
    else:
        folded.process_weights_()
    assert is_folded(folded)
    with pytest.raises(ValueError, match="The lens needs raw weights"):
        front.require_raw(folded, "The lens")


def test_raw_weights_pass(any_model):
    assert not is_folded(any_model)
    front.require_raw(any_model, "The lens")


def test_only_words_of_one_token_are_found(model):
    found = front.first_tokens(model, ["How", "xylophone"])
    assert [model.tokenizer.decode([token]) for token in found.values()] == list(found)
    assert not any("xylophone" in word for word in found)


# ── A batch on its way ───────────────────────────────────────────────────────────────────────────────────────


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.fixture
def batch(any_model, prompts):
    return chat_tokens(any_model, prompts)


@torch.no_grad()
def test_a_row_of_a_padded_batch_runs_as_if_it_were_alone(any_model, reference, batch):
    alone = [reference(text).logits[:, -1] for text in one_by_one(batch)]
    close(runner(any_model).feed(batch.ids, batch.mask), torch.cat(alone))


@torch.no_grad()
@pytest.mark.parametrize("cut", [-1, -3, -20])
def test_a_text_in_two_pieces_runs_as_in_one(any_model, batch, cut):
    run = runner(any_model)
    whole = runner(any_model).feed(batch.ids, batch.mask)
    run.feed(batch.ids[:, :cut], batch.mask[:, :cut])
    close(run.feed(batch.ids[:, cut:], batch.mask[:, cut:]), whole)
    assert run.length == batch.ids.shape[1] and torch.equal(run.mask, batch.mask)


@torch.no_grad()
def test_what_was_gone_back_over_is_forgotten(any_model, batch):
    run = runner(any_model)
    whole = run.feed(batch.ids, batch.mask)
    run.feed(batch.ids[:, :4], torch.ones_like(batch.ids[:, :4]))
    run.back(4 + 2)
    close(run.feed(batch.ids[:, -2:], batch.mask[:, -2:]), whole)


@torch.no_grad()
def test_rows_that_leave_do_not_change_the_others(any_model, batch):
    step = batch.ids[:, :1] * 0 + 7
    everybody, some = runner(any_model), runner(any_model)
    everybody.feed(batch.ids, batch.mask)
    some.feed(batch.ids, batch.mask)
    kept = torch.tensor([0, 3])
    some.keep(kept)
    close(some.feed(step[kept], torch.ones_like(step[kept])), everybody.feed(step, torch.ones_like(step))[kept])
    assert torch.equal(some.mask, everybody.mask[kept])


@torch.no_grad()
@pytest.mark.parametrize("order", [[0, 3], [3, 0], [4, 1, 2], [2, 2, 0], "leaving"])
def test_rows_run_on_as_they_would_in_whatever_order_they_are_kept(any_model, batch, order):
    over = torch.tensor([False, True, False, True, False])
    kept = leaving(over) if order == "leaving" else torch.tensor(order)
    everybody, some = runner(any_model), runner(any_model)
    for run in (everybody, some):
        run.feed(batch.ids, batch.mask)
    steps = [batch.ids[:, column : column + 1] * 0 + 7 + column for column in range(3)]
    some.keep(kept)
    for step in steps:
        expected = everybody.feed(step, torch.ones_like(step))[kept]
        close(some.feed(step[kept], torch.ones_like(step[kept])), expected)
    some.back(2)
    some.feed(steps[1][kept], torch.ones_like(steps[1][kept]))
    close(some.feed(steps[2][kept], torch.ones_like(steps[2][kept])), expected)


def test_those_who_stay_keep_their_places_but_for_the_last():
    over = torch.tensor([False, True, False, True, False, False])
    assert leaving(over).tolist() == [0, 4, 2, 5]
    assert leaving(~over).tolist() == [3, 1]
    assert leaving(torch.zeros(3, dtype=torch.bool)).tolist() == [0, 1, 2]
    assert leaving(torch.ones(3, dtype=torch.bool)).tolist() == []


@torch.no_grad()
def test_a_copy_runs_on_and_what_it_was_copied_from_stays(any_model, batch):
    run, alone = runner(any_model), runner(any_model)
    for one in (run, alone):
        one.feed(batch.ids, batch.mask)
    rows = torch.tensor([1, 0, 1])
    step = batch.ids[:, :1] * 0 + 7
    copied = run.copy(rows)
    for _ in range(2):
        copied.feed(step[rows] + 1, torch.ones_like(step[rows]))
    assert run.length == alone.length and copied.length == run.length + 2
    expected = alone.feed(step, torch.ones_like(step))
    close(run.feed(step, torch.ones_like(step)), expected)
    copied.back(2)
    close(copied.feed(step[rows], torch.ones_like(step[rows])), expected[rows])


def test_fewer_rows_fit_where_there_is_less_memory_or_more_text(model, monkeypatch):
    monkeypatch.setattr("scans_lens.model._free_bytes", lambda device: 2**30)
    some = rows_at_once(model, 1000)
    assert 1 <= rows_at_once(model, 2000) < some < rows_at_once(model, 10)
    monkeypatch.setattr("scans_lens.model._free_bytes", lambda device: 2**10)
    assert rows_at_once(model, 4000) == 1


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 1 byte"),
            True,
        ),
        (MemoryError(), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_want_of_memory_is_told_from_other_errors(error, is_it):
    assert out_of_memory(error) is is_it


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(ValueError, match=f"The device '{device}' cannot be used here"):
        load_model(device=device)
