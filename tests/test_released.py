"""Released: the authors' own forms of capability, pinned to their description."""

import math

import pytest
import torch
from conftest import one_by_one

import scans_lens
from scans_lens.chat import chat_tokens, prompt_ids, text_of
from scans_lens.model import resid_post
from scans_lens.paper import released
from scans_lens.steering import Push

TEXT = "One two three four. Why is it so? Because the sea is deep, and so on, and on, and on again until the end."


@pytest.fixture
def way(model, prompts):
    half = len(prompts) // 2
    contrast = scans_lens.Contrast("made up", tuple(prompts[:half]), tuple(prompts[half:]))
    directions = scans_lens.refusal_directions(model, contrast)
    directions = scans_lens.Directions(
        torch.randn(directions.vectors.shape, generator=torch.Generator().manual_seed(0)),
        directions.residual_norms,
        directions.origin,
    )
    moves = scans_lens.transitions(model, prompts, progress=False)
    classifier = scans_lens.TransitionClassifier.fit(moves[:3], moves[3:])
    return scans_lens.SCANS(directions, (1, 2), 2.0, "length", classifier)


def by_hand(model, reference, window, vectors=None):
    """Losses window by window: the prompt's tokens and the reply's, all but the first, with a constant push or none."""
    ids = model.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    losses = []
    for start in range(0, len(ids) - window + 1, window):
        before = prompt_ids(model, text_of(model, ids[start : start + window // 2]))
        whole = torch.tensor([[*before, *ids[start + window // 2 : start + window]]])

        end = len(before) - 1

        def push(state, hook, end=end):
            return torch.cat([state[:, :end], state[:, end:] + vectors[hook.layer()]], dim=1)

        hooks = [] if vectors is None else [(resid_post(layer), push) for layer in (1, 2)]
        with torch.no_grad(), model.hooks(fwd_hooks=hooks):
            logits = model(whole)
        shares = logits[0, :-1].log_softmax(-1).gather(1, whole[0, 1:, None])
        losses.append(-float(shares.mean()))
    return math.exp(sum(losses) / len(losses)), len(losses)


@pytest.mark.parametrize("window", [10, 17])
def test_perplexity_counts_every_token_of_a_window_and_averages_windows(model, reference, window):
    found = released.perplexity(model, TEXT, window=window, progress=False)
    expected = by_hand(model, reference, window)
    assert found[1] == expected[1] > 1
    assert found[0] == pytest.approx(expected[0], rel=1e-4)


def test_the_push_begins_where_the_first_half_ends(model, reference, way):
    push = Push(way.directions, way.layers, 2.0)
    found = released.perplexity(model, TEXT, push, window=12, progress=False)
    expected = by_hand(model, reference, 12, 2.0 * way.directions.vectors)
    plain = released.perplexity(model, TEXT, window=12, progress=False)
    assert found[0] == pytest.approx(expected[0], rel=1e-4) and found[0] != pytest.approx(plain[0], rel=1e-3)


def test_everywhere_pushes_every_position_by_the_sign_of_its_row(model, prompts, way):
    tokens = chat_tokens(model, prompts)
    flight = scans_lens.flight.Flight(model, tokens)
    rows = released.Everywhere(way).decide(flight)
    assert torch.equal(rows["scale"], way.decide(flight)["scale"])
    together = flight.again(released.Everywhere(way).hooks_for(rows, flight), whole_prompt=True)
    for row, alone in enumerate(one_by_one(tokens)):
        scale = float(rows["scale"][row])

        def push(state, hook, scale=scale):
            return state + scale * way.directions.vectors[hook.layer()]

        with torch.no_grad(), model.hooks(fwd_hooks=[(resid_post(layer), push) for layer in way.layers]):
            expected = model(alone)[0, -1]
        torch.testing.assert_close(together[row], expected, rtol=1e-3, atol=1e-3)


def test_a_text_or_window_that_does_not_do_gets_a_sentence(model):
    with pytest.raises(ValueError, match="fewer than one window"):
        released.perplexity(model, "Short.", window=50)
    with pytest.raises(ValueError, match="from 4 to"):
        released.perplexity(model, TEXT, window=10**6)
