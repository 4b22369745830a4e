"""Thoughts: what a model thinks is not what it answers."""

import pytest

from scans_lens import evaluation, judges
from scans_lens.conversation import Asking
from scans_lens.generation import Replies
from scans_lens.judges.texts import is_degenerate, said
from scans_lens.methods import arms
from scans_lens.thoughts import apart

pytestmark = pytest.mark.above

THOUGHTS = {
    "tags": "<think>{}</think>\n\n{}",
    "tags that the template opened": "{}</think>{}",
    "channels": "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>{}",
    "a commentary too": "<|channel|>commentary<|message|>Hm.<|end|><|start|>assistant<|channel|>analysis<|message|>{}"
    "<|end|><|start|>assistant<|channel|>final<|message|>{}",
    "Gemma 4": "<|channel>thought\n{}<channel|>{}",
    "Magistral": "[THINK]{}[/THINK]{}",
}
NO, YES = "I'm sorry, but I cannot help with that.", "Open a terminal and type kill."


@pytest.mark.parametrize("form", THOUGHTS)
@pytest.mark.parametrize("judge", ["panel", "rules", "substrings", "beginnings", "trained"])
def test_the_answer_is_judged_and_not_the_thought(form, judge):
    written = [THOUGHTS[form].format(NO, YES), THOUGHTS[form].format(YES, NO)]
    assert judges.named(judge)(written) == ["answered", "refused"]


@pytest.mark.parametrize("form", THOUGHTS)
def test_a_thought_that_is_cut_is_degenerate(form):
    cut = THOUGHTS[form].format(NO, "@").split("@")[0][:-1]
    if form.startswith("tags that"):  # only the model that was asked can tell
        assert apart("I cannot see", thinking=True).finished is False
        return
    cut = cut[: cut.index(NO) + 9]
    assert said(cut) == "" and is_degenerate(said(cut))
    for judge in ("panel", "rules", "substrings", "beginnings"):
        assert judges.named(judge)([cut]) == ["degenerate"]


def test_an_answer_may_speak_of_thoughts():
    assert apart("Use the <think> tag.").answer == "Use the <think> tag."
    assert apart("<think>a</think>Use the <think> tag.").answer == "Use the <think> tag."


def test_two_thoughts_before_one_answer_are_one():
    found = apart("<think>a</think>\n<think>b</think>Yes.")
    assert (found.answer, found.thought) == ("Yes.", "a\n\n\nb")


def test_a_run_says_which_replies_were_still_thoughts(model, tmp_path, monkeypatch):
    def thinking(model, prompts, methods, **how):
        n = len(prompts)
        found = Replies(
            tuple(prompts), ("Sure, here it is.", "") * (n // 2), ((1,),) * n, ("stop", "length") * (n // 2), {},
            ("Hm.", "I cannot see") * (n // 2), (True, False) * (n // 2),
        )  # fmt: skip
        return (found,) * len(methods)

    monkeypatch.setattr(evaluation, "replies_under", thinking)
    asked = evaluation.PromptSet(
        "two", ("Why is it so?", "How is it done?"), ("borderline",) * 2, ("",) * 2, "here", "", ""
    )
    yes = {"kind": lambda replies: ["answered"] * len(replies)}
    table = evaluation.evaluate(
        model, [asked], [arms.Arm("plain")], tmp_path, judge=yes, asking=Asking("Be brief."), progress=False
    )
    assert list(table["verdict_kind"]) == ["answered", "degenerate"]
    assert list(table["thought"]) == ["Hm.", "I cannot see"]
    assert [one for one in table["reason"] if isinstance(one, str)] == [evaluation.UNFINISHED]
    assert evaluation.read(tmp_path)[1]["settings"]["asking"]["system"] == "Be brief."
