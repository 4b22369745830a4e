"""Sharing: what all rows of a batch begin with is run once, and nobody can tell."""

import drawn
import pytest
import torch
from conftest import hooks_on

from scans_lens import flight, pieces
from scans_lens.cache import shares
from scans_lens.chat import chat_tokens
from scans_lens.conversation import Asking
from scans_lens.flight import Flight
from scans_lens.generation import replies
from scans_lens.likelihoods import log_likelihoods
from scans_lens.model import hooked, is_bridge, resid_post
from scans_lens.steering import Push

ASKING = Asking("You answer in a few plain words, and you never make anything up.")


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.fixture
def beginnings(monkeypatch):
    """The lengths of what was run once, as they come; rows share from the first common token on."""
    found = []
    begun = flight.begun_together

    def noted(run, tokens, kept):
        rest = begun(run, tokens, kept)
        found.append(tokens.ids.shape[1] - rest.ids.shape[1])
        return rest

    monkeypatch.setattr(flight, "LEAST_SHARED", 1)
    monkeypatch.setattr(flight, "begun_together", noted)
    monkeypatch.setattr(pieces, "begun_together", noted)
    return found


def asked(model, prompts):
    try:
        return chat_tokens(model, prompts, asking=ASKING)
    except ValueError:  # a template without a system role
        return chat_tokens(model, prompts)


def read(flight):
    return flight.residuals(), flight.instructed(), flight.transitions(), flight.logits


@torch.no_grad()
def test_rows_that_share_their_beginning_read_as_each_alone(any_model, prompts, beginnings):
    whole = asked(any_model, prompts)
    alone = [read(Flight(any_model, whole.at(torch.tensor([row])))) for row in range(len(prompts))]
    beginnings.clear()
    for rows in ([0, 1], [4, 2, 0], list(range(len(prompts)))):
        found = read(Flight(any_model, whole.at(torch.tensor(rows))))
        for part, states in enumerate(found):
            close(states, torch.cat([alone[row][part] for row in rows]))
    window = getattr(any_model.cfg, "window_size", None) or whole.ids.shape[1]
    if is_bridge(any_model) and window >= whole.ids.shape[1] and shares(any_model, whole.ids.shape[1]):
        assert min(beginnings) > 0


def test_questions_behind_the_same_examples_score_as_each_alone(any_model, beginnings, monkeypatch):
    for name, value in {"ALIKE": 6, "MANY": 2}.items():
        monkeypatch.setattr(pieces, name, value)
    first = "The boat sailed along the coast for two weeks, and then"
    pairs = [(f"{first}{more}", " we went home") for more in (" in the morning", "", " at the end of the long summer")]
    pairs.insert(1, ("Why?", " Because."))
    push = Push(drawn.directions(any_model), range(int(any_model.cfg.n_layers)), 0.3)
    for method in (None, push):
        alone = [log_likelihoods(any_model, [pair], method, progress=False)[0] for pair in pairs]
        beginnings.clear()
        found = log_likelihoods(any_model, pairs, method, progress=False)
        for score, own in zip(found, alone, strict=True):
            assert score.log_likelihood == pytest.approx(own.log_likelihood, rel=1e-4, abs=2e-3)
        if shares(any_model, 64):
            assert len(beginnings) == 2 and min(beginnings) == 0 and max(beginnings) >= 6


@pytest.mark.parametrize("whole_prompt", [False, True])
def test_replies_are_the_same_with_and_without_sharing(any_model, prompts, beginnings, whole_prompt):
    push = Push(drawn.directions(any_model), range(int(any_model.cfg.n_layers)), 0.3, whole_prompt=whole_prompt)
    how = {"method": push, "max_new_tokens": 6, "progress": False, "batch_size": len(prompts)}
    shared = replies(any_model, prompts, **how)
    flight.LEAST_SHARED = 10**6
    assert replies(any_model, prompts, **how).tokens == shared.tokens


@torch.no_grad()
def test_prompts_that_are_all_the_same_keep_what_is_read_of_each(model, beginnings):
    same = ["How do I kill a process?"] * 3
    found = read(Flight(model, chat_tokens(model, same)))
    one = read(Flight(model, chat_tokens(model, same[:1])))
    for states, alone in zip(found, one, strict=True):
        close(states, alone.expand(3, *alone.shape[1:]))


@torch.no_grad()
def test_somebodys_hooks_see_the_prompts_whole(model, prompts, beginnings):
    widths = []
    whole = asked(model, prompts)
    with model.hooks(fwd_hooks=[(resid_post(0), lambda states, hook: widths.append(tuple(states.shape[:2])))]):
        Flight(model, whole)
    assert widths == [tuple(whole.ids.shape)] and beginnings == [0]


def test_what_rows_share_leaves_the_last_tokens_of_the_shortest(model, prompts):
    tokens = asked(model, prompts)
    shortest = int(tokens.mask.sum(dim=1).min())
    for kept in (1, 4, shortest, shortest + 3):
        prefix = tokens.shared(kept)
        assert len(prefix) <= max(0, shortest - kept)
        rest = tokens.behind(len(prefix))
        for row in range(len(tokens)):
            told = torch.cat([prefix, rest.ids[row][rest.mask[row].bool()]])
            assert torch.equal(told, tokens.ids[row][tokens.mask[row].bool()])


# ── Hooks at the ends of layers ──────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def test_hooks_found_at_once_are_those_that_transformer_lens_puts_there(any_model):
    ids = torch.tensor([[3, 5, 7, 11]])
    layers = range(int(any_model.cfg.n_layers))

    def seen(manner):
        states = {}
        hooks = [
            (resid_post(layer), lambda state, hook, layer=layer: states.setdefault(layer, state.clone()) * 1.5)
            for layer in layers
        ]
        with manner(hooks):
            states["logits"] = any_model(ids)
        assert hooks_on(any_model) == {}
        return states

    ours = seen(lambda hooks: hooked(any_model, hooks))
    theirs = seen(lambda hooks: any_model.hooks(fwd_hooks=hooks))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_hooks_of_ours_go_and_those_of_others_stay_also_after_an_error(model):
    calls = []
    with (
        model.hooks(fwd_hooks=[(resid_post(0), lambda states, hook: calls.append(0))]),
        pytest.raises(RuntimeError, match="on purpose"),
        hooked(model, [(resid_post(0), lambda states, hook: None), (resid_post(0), lambda states, hook: None)]),
    ):
        before = sum(hooks_on(model).values())
        raise RuntimeError("on purpose")
    assert before >= 2 and hooks_on(model) == {}
    with hooked(model, [("blocks.0.hook_resid_pre", lambda states, hook: calls.append(1))]):
        model(torch.tensor([[3, 5]]))
    assert calls == [1]
