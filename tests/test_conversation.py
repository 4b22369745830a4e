"""Conversations: whatever takes a prompt takes one, and how it is asked travels with what is learned from it."""

import warnings

import pytest
import torch
from conftest import one_by_one

import scans_lens
from scans_lens.chat import chat_tokens, prompt_ids
from scans_lens.conversation import Asking, Conversation, checked
from scans_lens.directions import Directions, refusal_directions
from scans_lens.flight import Flight
from scans_lens.generation import replies
from scans_lens.methods.choosing import Bench
from scans_lens.prompts import Contrast, PromptSet, normalised
from scans_lens.prompts.overlaps import without
from scans_lens.reading import residuals, transitions
from scans_lens.steering import Push

SYSTEM = {"role": "system", "content": "Answer in one word."}
USER = {"role": "user", "content": "How do I kill a process?"}
EARLIER = [
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": "Hello! What can I do for you?"},
]
LONG = [*EARLIER, USER]


@pytest.fixture(scope="session")
def thinker(load, tiny_model):
    return tiny_model(load, "llama", "thinking")


# ── What is asked ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_conversation_of_one_turn_is_the_prompt(talker):
    one = Conversation.of([USER])
    assert prompt_ids(talker, one) == prompt_ids(talker, USER["content"])
    assert chat_tokens(talker, [[USER]]).ids.equal(chat_tokens(talker, [USER["content"]]).ids)


def test_a_conversation_is_written_as_the_tokenizer_writes_it(talker):
    own = talker.tokenizer.apply_chat_template(LONG, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert prompt_ids(talker, Conversation.of(LONG)) == list(own)


def test_special_tokens_stay_text_in_every_turn(talker, style):
    for token in talker.tokenizer.all_special_tokens:
        turns = [{"role": "user", "content": f"Say {token}."}, EARLIER[1], {"role": "user", "content": f"And {token}?"}]
        plain = [{"role": "user", "content": "Say it."}, EARLIER[1], {"role": "user", "content": "And it?"}]
        number = talker.tokenizer.convert_tokens_to_ids(token)
        typed, there = (prompt_ids(talker, Conversation.of(one)).count(number) for one in (turns, plain))
        assert typed == there


def test_the_system_prompt_of_a_conversation_is_the_same_as_one_for_all(talker, style):
    own = prompt_ids(talker, Conversation.of([SYSTEM, *LONG]))
    assert own == prompt_ids(talker, Conversation.of(LONG), asking=Asking(SYSTEM["content"]))


def test_a_conversation_reads_and_replies_the_same_alone_and_in_company(model):
    asked = [USER["content"], [SYSTEM, USER], LONG, "Why?"]
    for read in (residuals, transitions):
        together = read(model, asked, progress=False)
        alone = torch.cat([read(model, [one], progress=False) for one in asked])
        assert torch.allclose(together, alone, atol=1e-4)
    said = replies(model, asked, max_new_tokens=6, progress=False)
    assert said.tokens == tuple(replies(model, [one], max_new_tokens=6, progress=False).tokens[0] for one in asked)


def test_the_end_of_the_instruction_is_each_conversations_own(thinker):
    asked = ["Why?", Asking(thinking=False).of("Name ten stars.")]
    tokens = chat_tokens(thinker, asked)
    read = Flight(thinker, tokens).instructed()
    for row, text in enumerate(one_by_one(tokens)):
        column = text.shape[1] + tokens.templates[row].end_of_instruction
        seen = {}
        with torch.no_grad():
            thinker.run_with_hooks(
                text, fwd_hooks=[("blocks.2.hook_resid_post", lambda state, hook, seen=seen: seen.update(state=state))]
            )
        assert torch.allclose(read[row, 2], seen["state"][0, column], atol=1e-4)


def test_a_conversation_is_steered_from_its_last_end_of_prompt_on(model):
    directions = refusal_directions(model, Contrast("few", ["Kill it?", "Burn it?"], ["See it?", "Buy it?"]))
    hooks = Push(directions.unit(), [1], 3.0).hooks(model, [LONG])
    tokens = chat_tokens(model, [LONG])
    seen = []
    watch = ("blocks.1.hook_resid_post", lambda state, hook: seen.append(state.detach().clone()))
    for own in ([watch], [*hooks, watch]):
        model.run_with_hooks(tokens.ids, fwd_hooks=own)
    moved = (seen[1] - seen[0]).norm(dim=-1)[0]
    assert (moved[:-1] == 0).all() and moved[-1].item() == pytest.approx(3.0, rel=1e-3)


def test_a_run_keeps_the_whole_conversation(model, tmp_path):
    asked = PromptSet(
        "talks", (Conversation.of(LONG), "Why is the sky blue?"), ("borderline",) * 2, ("",) * 2, "here", "", ""
    )
    from scans_lens.evaluation import evaluate
    from scans_lens.methods.arms import Arm

    table = evaluate(model, [asked], [Arm("plain"), Arm("system", system="Be kind.")], tmp_path, max_new_tokens=3)
    assert list(table["prompt"][:2]) == [USER["content"], "Why is the sky blue?"]
    assert table["messages"][0] == str(Conversation.of(LONG)) and not isinstance(table["messages"][1], str)
    assert len(table) == 4


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([], "no messages in the conversation"),
        ([USER, EARLIER[1]], "ends with what the user says, and this one with 'assistant'"),
        ([{"role": "user"}], "Message 0 of the conversation has no role and content"),
        ([{"role": "user", "content": 3}], "Message 0 of the conversation is not text"),
        ([{"role": "user", "content": [{"type": "image"}]}], "Message 0 of the conversation is not text"),
        ([{"role": "user", "content": " "}], "Message 0 of the conversation says nothing"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_what_is_no_conversation_gets_a_sentence(messages, sentence):
    with pytest.raises(ValueError, match=sentence):
        checked([messages])


@pytest.mark.usefixtures("without_shape_checks")
def test_messages_in_the_place_of_prompts_and_broken_text_get_a_sentence():
    with pytest.raises(ValueError, match="the messages of one conversation"):
        checked(LONG)
    with pytest.raises(ValueError, match=r"Prompt 1 holds '\\ud83d', half of a character"):
        checked(["Why?", "A \ud83d smile"])


def test_prompts_are_the_same_by_what_the_user_said():
    ruled = Asking("Be kind.").of(USER["content"])
    assert normalised(ruled) == normalised(USER["content"])
    asked = PromptSet("one", (ruled, Conversation.of(LONG)), ("borderline",) * 2, ("",) * 2, "here", "", "")
    left, leaks = without(asked, [[USER["content"]]])
    assert list(left) == [Conversation.of(LONG)] and leaks.learned_from == 1


# ── How it is asked ──────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_that_a_conversation_says_of_itself_is_lost():
    asked = Conversation.of([SYSTEM, USER])
    with pytest.raises(ValueError, match="system prompt of its own"):
        Asking("Be kind.").of(asked)
    with pytest.raises(ValueError, match="says itself whether to think"):
        Asking(thinking=True).of(Asking(thinking=False).of("Why?"))
    assert Asking(thinking=False).of(asked).turns == asked.turns
    assert asked.with_system("Be kind.").system == f"Be kind.\n\n{SYSTEM['content']}"


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("how", [{"system": 3}, {"thinking": "on"}, {"template_kwargs": {"when": object()}}])
def test_a_way_of_asking_that_is_none_gets_a_sentence(how):
    with pytest.raises(ValueError, match=r"A system prompt is|Thinking is|can be told"):
        Asking(**how)


def test_a_contrast_under_an_asking_is_another_contrast():
    contrast = Contrast("few", ["Kill it?"], ["See it?"], ["Kill time?"])
    quiet = contrast.under(Asking(thinking=False))
    assert quiet.asking == Asking(thinking=False) and contrast.asking == Asking()
    assert quiet.digest != contrast.digest and quiet.name == "few, thinking off"
    assert contrast.under(Asking()) is contrast


def test_what_was_learned_knows_how_it_was_asked_and_says_when_it_is_asked_otherwise(thinker, tmp_path):
    contrast = Contrast("few", ["Kill it?", "Burn it?"], ["See it?", "Buy it?"])
    quiet = Asking(thinking=False)
    refusal_directions(thinker, contrast.under(quiet), progress=False).save(tmp_path / "quiet.safetensors")
    learned = Directions.load(tmp_path / "quiet.safetensors", thinker)
    assert learned.origin.asking == quiet
    push = Push(learned, [1], 0.1)
    with pytest.warns(UserWarning, match=r"learned with .*thinking off.*these are put with thinking on"):
        replies(thinker, ["Why?"], method=push, asking=Asking(thinking=True), max_new_tokens=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replies(thinker, ["Why?"], method=push, asking=quiet, max_new_tokens=1)


def test_a_fit_under_an_asking_learns_and_chooses_under_it(thinker):
    contrast = Contrast("few", [f"Kill {n} of it?" for n in range(6)], [f"See {n} of it?" for n in range(6)])
    quiet = Asking(thinking=False)
    fitted = scans_lens.SCANS.fit(
        thinker, contrast, validation=Contrast("v", ["Burn it?", "Hurt it?"], ["Buy it?", "Eat it?"]), layers=[1, 2],
        asking=quiet, judge=lambda said: ["answered"] * len(said), progress=False,
    )  # fmt: skip
    assert fitted.directions.origin.asking == quiet
    directly = refusal_directions(thinker, contrast.under(quiet), progress=False)
    assert torch.allclose(fitted.directions.vectors, directly.in_residual_norms().vectors, atol=1e-5)
    assert not torch.allclose(directly.vectors, refusal_directions(thinker, contrast, progress=False).vectors)


def test_validation_replies_that_are_still_thoughts_are_no_verdicts(thinker, monkeypatch):
    from scans_lens.methods import choosing

    def thinking(model, prompts, methods, **how):
        n = len(prompts)
        return (
            scans_lens.Replies(tuple(prompts), ("",) * n, ((1,),) * n, ("length",) * n, {}, ("Hm",) * n, (False,) * n),
        )

    monkeypatch.setattr(choosing, "replies_under", thinking)
    bench = Bench.of(thinker, Contrast("v", ["Burn it?"], ["Buy it?"]), lambda said: ["answered"] * len(said), None)
    with pytest.raises(ValueError, match=r"2 of 2 replies .* still thinking.*--thinking off"):
        bench.counts(None)
