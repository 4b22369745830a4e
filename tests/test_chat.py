"""Conversations to tokens: templates, positions, and what is refused."""

import string
from types import SimpleNamespace

import pytest
from conftest import one_by_one
from hypothesis import given
from hypothesis import strategies as st
from tiny import STYLES
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from scans_lens.chat import chat_tokens, end_tokens, first_tokens, prompt_ids, template
from scans_lens.conversation import Asking

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
    frame = specials(talker, style, prompt_ids(talker, "Why", asking=Asking("Be brief." if system else None)))

    @given(st.lists(piece, min_size=1, max_size=8).map("".join).filter(str.strip))
    def law(prompt):
        ids = prompt_ids(talker, prompt, asking=Asking(system))
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
    model = SimpleNamespace(cfg=None, tokenizer=words, W_U=None, blocks=(), hooks=list)
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
    said = prompt_ids(talker, "Why?", asking=Asking(BRIEF))
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
        assert "helpful" not in chatml.tokenizer.decode(prompt_ids(chatml, prompt, asking=Asking("")))


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


def test_only_words_of_one_token_are_found(model):
    found = first_tokens(model, ["How", "xylophone"])
    assert [model.tokenizer.decode([token]) for token in found.values()] == list(found)
    assert not any("xylophone" in word for word in found)
