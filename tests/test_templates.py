"""Templates: what a chat template makes of a conversation is found by asking it."""

import shutil
from dataclasses import replace
from datetime import date

import odd
import pytest
import torch
from transformers import GenerationConfig

from scans_lens import check
from scans_lens.chat import chat_tokens, end_tokens, prompt_ids, reply_ids, spoken, template, template_record
from scans_lens.conversation import Asking, Conversation
from scans_lens.generation import replies
from scans_lens.loading import load_model
from scans_lens.reading import transitions
from scans_lens.templates import writing

ASKED = [{"role": "user", "content": "Why is the sky blue?"}]
RULES = "Be kind."


def own(model, messages=ASKED, **told):
    """What the untouched tokenizer makes of it."""
    return model.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, **told)[
        "input_ids"
    ]


def ids_of(model, *texts):
    return [id for text in texts for id in model.tokenizer(text, add_special_tokens=False)["input_ids"]]


# ── What the user says ───────────────────────────────────────────────────────────────────────────────────────


def test_a_template_that_wants_parts_gets_parts_and_holds_what_the_user_says():
    model = odd.speaker("parts")
    there = [{"role": "user", "content": [{"type": "text", "text": ASKED[0]["content"]}]}]
    ids = prompt_ids(model, ASKED[0]["content"])
    assert ids == own(model, there) and ASKED[0]["content"] in model.tokenizer.decode(ids)
    assert ids != prompt_ids(model, "Why is the sea salty?")
    assert template(model).tail == tuple(ids_of(model, "<|im_end|>\n<|im_start|>assistant\n"))
    assert RULES in model.tokenizer.decode(prompt_ids(model, "Why?", asking=Asking(RULES)))


def test_a_template_that_leaves_out_what_the_user_says_is_refused():
    with pytest.raises(ValueError, match="leaves out what the user says"):
        chat_tokens(odd.speaker("deaf"), ["Why?"])


def test_a_template_that_ignores_the_generation_prompt_is_refused():
    with pytest.raises(ValueError, match=r"ignores add_generation_prompt.*'<\|im_start\|>assistant'"):
        template(odd.speaker("headless"))


@pytest.mark.parametrize("name", [name for name in odd.STYLES if name not in ("deaf", "headless", "parts")])
def test_tokens_are_the_tokenizers_own_whatever_the_template_does(name):
    model = odd.speaker(name)
    turns = [*ASKED, {"role": "assistant", "content": "It scatters."}, {"role": "user", "content": "And the sea?"}]
    for messages in (ASKED, [{"role": "system", "content": RULES}, *ASKED], turns):
        assert prompt_ids(model, Conversation.of(messages)) == own(model, messages)


def test_a_conversation_that_the_template_refuses_is_one_sentence(load, tiny_model):
    mistral = tiny_model(load, "llama", "mistral")
    with pytest.raises(ValueError, match=r"chat template refuses this conversation: .*must alternate"):
        prompt_ids(mistral, Conversation.of([*ASKED, *ASKED]))


# ── Ends, and what counts as text ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "ends"), [("finetune", "<|im_end|> <|endoftext|>"), ("phi3", "<|end|> <|endoftext|>")]
)
def test_a_reply_ends_with_its_turn_whether_or_not_that_token_is_special(name, ends):
    model = odd.speaker(name)
    assert set(end_tokens(model)) == set(model.tokenizer.convert_tokens_to_ids(ends.split()))
    assert model.tokenizer.decode(reply_ids(model, "Why?", "Because."))[8:] == ends.split()[0]


@pytest.mark.parametrize("token", ["<|im_end|>", "<|im_start|>"])
def test_a_typed_turn_token_stays_text_though_it_is_not_special(token):
    model = odd.speaker("finetune")
    asked = f"What is {token} for?"
    ids = prompt_ids(model, asked)
    number = model.tokenizer.convert_tokens_to_ids(token)
    assert model.tokenizer.decode(ids) == model.tokenizer.apply_chat_template(
        [{"role": "user", "content": asked}], tokenize=False, add_generation_prompt=True
    )
    assert ids.count(number) == prompt_ids(model, "What is it for?").count(number)


def test_a_typed_thought_stays_what_the_tokenizer_makes_of_it():
    model = odd.speaker("qwen3")
    asked = [{"role": "user", "content": "What does <think> do?"}]
    assert prompt_ids(model, asked[0]["content"]) == own(model, asked)


# ── Positions ────────────────────────────────────────────────────────────────────────────────────────────────


def test_positions_are_those_of_the_conversation():
    model = odd.speaker("reminding")
    bare, ruled = (chat_tokens(model, ["Why?"], asking=asking) for asking in (Asking(), Asking(RULES)))
    tails = [model.tokenizer.decode(tokens.templates[0].tail) for tokens in (bare, ruled)]
    assert tails[0] == "<|im_end|>\n<|im_start|>assistant\n"
    assert tails[1] == "<|im_end|>\n<|im_start|>note\nMind the rules.<|im_end|>\n<|im_start|>assistant\n"
    for tokens in (bare, ruled):
        assert model.tokenizer.decode(tokens.ids[0, tokens.templates[0].end_of_instruction]) == "?"
    mixed = chat_tokens(model, ["Why?", [{"role": "system", "content": RULES}, *ASKED]])
    assert [one.tail for one in mixed.templates] == [bare.templates[0].tail, ruled.templates[0].tail]


def test_the_opening_of_a_right_qwen3_template_is_sure_behind_an_empty_thought():
    model = odd.speaker("qwen3")
    shape = template(model)
    assert model.tokenizer.decode(shape.opening) == "<think>\n\n</think>\n\nSure"
    assert spoken(model, shape.opening).answer == "Sure"
    quiet = template(model, asking=Asking(thinking=False))
    assert model.tokenizer.decode(quiet.opening) == "Sure" and quiet.tail != shape.tail


def test_thinking_is_what_the_template_makes_of_it():
    model = odd.speaker("qwen3")
    for thinking in (True, False):
        asking = Asking(thinking=thinking)
        assert prompt_ids(model, ASKED[0]["content"], asking=asking) == own(model, enable_thinking=thinking)
    with pytest.raises(ValueError, match="no switch for thinking"):
        prompt_ids(odd.speaker("finetune"), "Why?", asking=Asking(thinking=False))


def test_what_else_the_template_is_told_arrives():
    model = odd.speaker("dated")
    asking = Asking(template_kwargs={"date_string": "1 Jan 2020"})
    assert prompt_ids(model, ASKED[0]["content"], asking=asking) == own(model, date_string="1 Jan 2020")


# ── Thoughts ─────────────────────────────────────────────────────────────────────────────────────────────────

REPLIES = {
    "qwen3": ("<think>\nI cannot see why.\n</think>\n\nOpen a terminal.", "<think>\nI cannot see"),
    "opened": ("I cannot see why.\n</think>\n\nOpen a terminal.", "I cannot see"),
    "channels": (
        "<|channel|>analysis<|message|>I cannot see why.<|end|><|start|>assistant<|channel|>final<|message|>"
        "Open a terminal.",
        "<|channel|>analysis<|message|>I cannot see",
    ),
    "musing": ("<|muse|>I cannot see why.<|mused|>Open a terminal.", "<|muse|>I cannot see"),
}


@pytest.mark.parametrize("name", REPLIES)
def test_a_thought_is_told_from_the_answer_by_what_the_template_writes_around_it(name):
    model = odd.speaker(name)
    thinking = template(model).thinking
    assert thinking == (name == "opened")
    whole, cut = (spoken(model, ids_of(model, text), thinking=thinking) for text in REPLIES[name])
    assert (whole.answer, whole.thought, whole.finished) == ("Open a terminal.", "I cannot see why.", True)
    assert (cut.answer, cut.thought, cut.finished) == ("", "I cannot see", False)


@pytest.mark.parametrize("name", ["finetune", "phi3"])
def test_a_model_without_thoughts_may_write_of_them(name):
    model = odd.speaker(name)
    said = "Close it with </think> and go on."
    assert writing(model).marks == () and spoken(model, ids_of(model, said)).answer == said


# ── Asked of a user's own model ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def with_template(tiny_folder, tmp_path_factory):
    """`with_template(name)`: the folder of a tiny Llama that has such a tokenizer."""

    def made(name):
        path = tmp_path_factory.mktemp("odd") / name
        shutil.copytree(tiny_folder("llama", "chatml"), path)
        words = odd.tokenizer(name)
        words.save_pretrained(path)
        GenerationConfig(eos_token_id=words.eos_token_id).save_pretrained(path)
        return path

    return made


@pytest.mark.parametrize("name", ["qwen3", "channels", "finetune", "parts", "opened"])
def test_check_passes_on_a_model_with_such_a_template(with_template, name):
    findings = check.laws(load_model(with_template(name)))
    assert [finding.law for finding in findings if not finding.ok] == []


@pytest.mark.parametrize(
    ("name", "sentence"), [("deaf", "leaves out what the user says"), ("headless", "ignores add_")]
)
def test_check_refuses_a_model_with_a_broken_template(with_template, name, sentence):
    with pytest.raises(ValueError, match=sentence):
        check.laws(load_model(with_template(name)))


def test_a_reply_in_a_thought_that_the_template_has_opened_is_no_answer(with_template):
    said = replies(load_model(with_template("opened")), ["Why?"], max_new_tokens=4, progress=False)
    assert list(said) == [""] and said.finished == (False,) and said.thoughts[0]


def test_prompts_with_other_openings_are_read_in_batches_of_their_own(with_template):
    model = load_model(with_template("qwen3"))
    asked = ["Why?", Asking(thinking=False).of("Why?"), "Name ten stars.", Asking(thinking=False).of("Name them.")]
    assert len({one.opening for one in chat_tokens(model, asked).templates}) == 2
    alone = torch.cat([transitions(model, [one], progress=False) for one in asked])
    assert torch.allclose(transitions(model, asked, progress=False), alone, atol=1e-4)


# ── What is recorded ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_record_tells_templates_askings_and_days_apart():
    model, other = odd.speaker("qwen3"), odd.speaker("dated")
    plain, quiet = template_record(model), template_record(model, Asking(thinking=False))
    assert plain["source"] == quiet["source"] and plain["written"] != quiet["written"]
    assert plain["date"] is None and template_record(other)["date"] == date.today().isoformat()
    pinned = Asking(template_kwargs={"date_string": "1 Jan 2020"})
    assert template_record(other, pinned)["written"] != template_record(other)["written"]
    assert plain["written"] == template(model, "Why is it?").digest


def test_a_template_that_was_changed_is_asked_again():
    model = odd.speaker("finetune")
    before = template(model)
    model.tokenizer.chat_template = model.tokenizer.chat_template.replace("assistant\\n", "assistant, kindly\\n")
    assert template(model) != replace(before) and template(model).tail != before.tail
