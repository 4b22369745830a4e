"""Self-CD: laws of two contexts mixed at every token."""

import torch
from conftest import one_by_one

import scans_lens
from scans_lens.conversation import Asking
from scans_lens.methods.self_cd import SelfCD

SYSTEM = "Be careful."


def said_by(model, prompts, method, n=6):
    return scans_lens.replies(model, prompts, method=method, max_new_tokens=n, progress=False).tokens


def test_each_token_is_the_best_of_own_minus_ratio_times_what_the_safety_prompt_adds(model, prompts):
    method = SelfCD(SYSTEM, ratio=1.5)
    said = said_by(model, prompts, method)
    sides = [one_by_one(scans_lens.chat_tokens(model, prompts, asking=Asking(system))) for system in (None, SYSTEM)]
    for own, safe, reply in zip(*sides, said, strict=True):
        for step, token in enumerate(reply):
            so_far = torch.tensor([reply[:step]], dtype=torch.long)
            plain, careful = (
                model(torch.cat([side, so_far], dim=1), return_type="logits")[0, -1].float() for side in (own, safe)
            )
            mixed = plain - 1.5 * (careful - plain)
            assert mixed[token] >= mixed.max() - 1e-3


def test_ratio_0_is_the_plain_model(model, prompts):
    assert said_by(model, prompts, SelfCD(SYSTEM, ratio=0.0)) == said_by(model, prompts, None)


def test_a_prompt_is_answered_the_same_alone_and_in_company(model, prompts):
    method = SelfCD(SYSTEM)
    together = said_by(model, prompts, method)
    assert together == tuple(said_by(model, [prompt], method)[0] for prompt in prompts)


def test_rows_that_end_leave_both_contexts_together(model, prompts, monkeypatch):
    method = SelfCD(SYSTEM)
    free = said_by(model, prompts, method, n=8)
    ends = (free[0][1], free[1][3])
    monkeypatch.setattr("scans_lens.generation.end_tokens", lambda model: ends)
    cut = [next((step for step, token in enumerate(reply) if token in ends), len(reply)) for reply in free]
    assert len(set(cut)) > 1
    assert said_by(model, prompts, method, n=8) == tuple(reply[:at] for reply, at in zip(free, cut, strict=True))
