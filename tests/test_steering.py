"""Steering: every push lands on its own layer, row and position, on nothing else, and leaves no trace."""

from collections.abc import Mapping
from dataclasses import replace

import drawn
import numpy as np
import pytest
import torch
from conftest import hooks_on
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from steered import SAID, applied, close, moves_under, states_under

from scans_lens.chat import chat_tokens
from scans_lens.directions import Directions, Origin
from scans_lens.flight import Flight
from scans_lens.generation import replies
from scans_lens.model import identity, resid_post
from scans_lens.steering import Ablation, Push, Together, ablate, add, take

LAYERS = [1, 3]


@pytest.fixture(scope="module")
def directions():
    return drawn.directions()


@pytest.fixture
def tokens(any_model, prompts):
    return chat_tokens(any_model, prompts)


# ── Adding ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("scale", [-3.5, 2.0])
def test_each_layer_moves_by_its_own_direction(any_model, tokens, directions, scale):
    moves = moves_under(any_model, tokens, add(directions, LAYERS, scale))
    assert sorted(moves) == LAYERS
    for layer, move in moves.items():
        close(move, (scale * directions.vectors[layer]).expand_as(move))


def test_layers_before_the_first_push_do_not_move(any_model, tokens, directions):
    plain, _ = states_under(any_model, tokens, [])
    steered, _ = states_under(any_model, tokens, add(directions, LAYERS, 2.0))
    assert torch.equal(steered[:, :, 0], plain[:, :, 0])
    assert not torch.isclose(steered[:, -1, 1:], plain[:, -1, 1:]).all(dim=-1).any()


def test_a_positive_scale_is_towards_the_direction(directions, generator):
    state = torch.randn(2, 3, 64, generator=generator)
    for sign in (-1.0, 1.0):
        moved = applied(add(directions.unit(), [2], sign), state) - state
        torch.testing.assert_close(moved @ directions.unit().vectors[2], torch.full((2, 3), sign))


def test_directions_and_their_bare_vectors_push_alike(directions, generator):
    state = torch.randn(2, 3, 64, generator=generator)
    assert torch.equal(applied(add(directions, [2], 1.5), state), applied(add(directions.vectors, [2], 1.5), state))


def test_a_scale_of_zero_changes_nothing_at_all(any_model, tokens, directions):
    plain, logits = states_under(any_model, tokens, [])
    for scale in (0.0, torch.zeros(len(tokens))):
        steered, steered_logits = states_under(any_model, tokens, add(directions, range(4), scale))
        assert torch.equal(steered, plain) and torch.equal(steered_logits, logits)


def test_opposite_pushes_cancel(any_model, tokens, directions):
    plain, logits = states_under(any_model, tokens, [])
    both = add(directions, LAYERS, 3.0) + add(directions, LAYERS, -3.0)
    steered, steered_logits = states_under(any_model, tokens, both)
    close(steered, plain)
    close(steered_logits, logits)


def test_each_row_gets_its_own_scale(any_model, tokens, directions):
    scales = torch.tensor([-2.0, 0.0, 1.0, 3.0, -0.5])
    together, logits = states_under(any_model, tokens, add(directions, LAYERS, scales))
    for row, scale in enumerate(scales.tolist()):
        alone, own = states_under(any_model, tokens, add(directions, LAYERS, scale))
        close(together[row], alone[row])
        close(logits[row], own[row])


@pytest.mark.parametrize("write", [add, ablate])
@pytest.mark.parametrize("since", [None, lambda columns: 2])
def test_a_hook_does_not_write_on_what_it_is_given(directions, generator, write, since):
    given_state = torch.randn(2, 5, 64, generator=generator)
    kept = given_state.clone()
    scale = [1.5] if write is add else []
    for _, function in write(directions, range(4), *scale, since=since):
        assert function(given_state, hook=None) is not given_state
        assert torch.equal(given_state, kept)


def test_a_hook_does_not_change_with_the_tensors_it_was_made_from(directions, generator):
    vectors, scales = directions.vectors.clone(), torch.ones(2)
    state = torch.randn(2, 5, 64, generator=generator)
    hooks = add(vectors, [1], scales) + ablate(vectors, [1])
    expected = applied(hooks, state)
    vectors.mul_(7)
    scales.mul_(7)
    assert torch.equal(applied(hooks, state), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_state_keeps_its_precision(directions, dtype):
    for hook in add(directions, [0], 1.0) + ablate(directions, [0]):
        assert applied([hook], torch.ones(2, 3, 64, dtype=dtype)).dtype == dtype


# ── Ablation ─────────────────────────────────────────────────────────────────────────────────────────────────

numbers = st.floats(-100, 100, width=32)


@given(
    arrays.arrays(np.float32, (3, 4, 8), elements=numbers),
    arrays.arrays(np.float32, 8, elements=numbers).filter(lambda vector: np.linalg.norm(vector) > 1e-3),
)
def test_ablation_takes_out_the_component_and_nothing_else(state, vector):
    state, vector = torch.from_numpy(state), torch.from_numpy(vector)
    hooks = ablate(vector[None], [0])
    left, unit = applied(hooks, state), vector / vector.norm()
    torch.testing.assert_close(left @ unit, torch.zeros(3, 4), rtol=0, atol=1e-3)
    torch.testing.assert_close(state - left, (state @ unit)[..., None] * unit, rtol=0, atol=1e-3)
    torch.testing.assert_close(applied(hooks, left), left, rtol=0, atol=1e-3)


def test_ablation_takes_each_layers_own_direction_out(any_model, tokens, directions):
    states, _ = states_under(any_model, tokens, ablate(directions, LAYERS))
    units = directions.unit().vectors
    for layer in LAYERS:
        component = states[:, :, layer] @ units[layer]
        assert component.abs().max() < 1e-4 * states[:, :, layer].norm(dim=-1).max()


# ── Where in the text ────────────────────────────────────────────────────────────────────────────────────────


@given(begins=st.integers(0, 12), columns=st.integers(1, 12), start=st.integers(0, 24))
def test_a_push_begins_at_its_column_whatever_part_of_the_text_a_call_holds(begins, columns, start):
    vectors, state = torch.ones(1, 2), torch.zeros(1, 24, 2)
    state[:, start:] = 1
    moved = applied(
        add(vectors, [0], 1.0, since=lambda width: max(0, start - begins)),
        torch.zeros(1, columns, 2),
    )
    assert torch.equal(moved, state[:, begins : begins + columns])


@given(begins=st.integers(0, 12), columns=st.integers(1, 12), start=st.integers(0, 24), window=st.integers(1, 12))
def test_a_push_ends_behind_its_window_whatever_part_of_the_text_a_call_holds(begins, columns, start, window):
    state = torch.zeros(1, 24, 2)
    state[:, start : start + window] = 1
    hooks = add(
        torch.ones(1, 2),
        [0],
        1.0,
        since=lambda width: max(0, start - begins),
        until=lambda width: max(0, start + window - begins),
    )
    assert torch.equal(applied(hooks, torch.zeros(1, columns, 2)), state[:, begins : begins + columns])


def test_behind_its_window_a_push_moves_nothing_but_what_it_has_moved_before(any_model, prompts, directions):
    """The states of every layer but the first one pushed are moved by attention; what is added is added there alone."""
    tokens = chat_tokens(any_model, prompts)
    end, said = tokens.ids.shape[1] - 1, torch.tensor(SAID).expand(len(prompts), -1)
    whole = replace(tokens, ids=torch.cat([tokens.ids, said], 1), mask=torch.cat([tokens.mask, said * 0 + 1], 1))
    for window in (1, 2, 3):
        moved = moves_under(any_model, whole, Push(directions, [1], 2.0, window=window).hooks(any_model, prompts))[1]
        steered = torch.zeros(whole.ids.shape[1])
        steered[end : end + window] = 1
        close(moved, (2.0 * directions.vectors[1] * steered[:, None]).expand_as(moved), rtol=1e-3)


def test_a_window_as_wide_as_the_reply_is_no_window(model, prompts, directions):
    how = {"max_new_tokens": 4, "progress": False}
    whole, cut = (replies(model, prompts, method=Push(directions, LAYERS, 2.0, window=n), **how) for n in (None, 4))
    assert whole.tokens == cut.tokens


def test_a_window_without_tokens_is_refused(directions):
    with pytest.raises(ValueError, match="A window is at least 1 token, the last one of the prompt, and not 0"):
        Push(directions, LAYERS, 2.0, window=0)


def test_a_push_leaves_the_prompt_alone_up_to_its_end(any_model, prompts, tokens, directions):
    plain, _ = states_under(any_model, tokens, [])
    steered, _ = states_under(any_model, tokens, Push(directions, LAYERS, 2.0).hooks(any_model, prompts))
    before = tokens.mask.bool()
    before[:, -1] = False
    assert torch.equal(steered[before], plain[before])
    assert not torch.isclose(steered[:, -1, 1:], plain[:, -1, 1:]).all(dim=-1).any()


@torch.no_grad()
def test_rows_that_are_left_keep_their_own_scales(any_model, tokens, directions):
    scales = torch.tensor([-2.0, 0.5, 1.0, 3.0, -0.5])
    kept = torch.tensor([1, 3])

    def steered(rows, flight):
        return add(directions, LAYERS, rows["scale"], since=flight.since(flight.end_of_prompt))

    def step(leaving):
        flight = Flight(any_model, tokens)
        rows = {"scale": scales}
        flight.again(steered(rows, flight), whole_prompt=False)
        if leaving:
            flight.run.keep(kept)
            rows = take(rows, kept)
        column = torch.full((len(rows["scale"]), 1), 9)
        with any_model.hooks(fwd_hooks=steered(rows, flight)):
            return flight.run.feed(column, torch.ones_like(column))

    close(step(leaving=True), step(leaving=False)[kept])


# ── Together ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_composed_methods_act_each_at_their_own_positions(any_model, prompts, tokens, directions):
    both = Together((Ablation(directions, [1]), Push(directions, [3], 2.0)))
    assert both.whole_prompt
    moves = moves_under(any_model, tokens, both.hooks(any_model, prompts))
    assert (moves[1].norm(dim=-1) > 1e-3).all()
    assert (moves[3][:, :-1] == 0).all()
    close(moves[3][:, -1], (2.0 * directions.vectors[3]).expand(len(prompts), -1))


def test_composed_methods_act_in_their_order(any_model, prompts, tokens, directions):
    push, ablation = Push(directions, [2], 2.0), Ablation(directions, [2])
    unit, length = directions.unit().vectors[2], directions.vectors[2].norm()
    for methods, left in (((push, ablation), 0.0), ((ablation, push), 2.0 * length)):
        states, _ = states_under(any_model, tokens, Together(methods).hooks(any_model, prompts))
        component = states[:, -1, 2] @ unit
        torch.testing.assert_close(component, torch.full_like(component, float(left)), rtol=1e-3, atol=2e-3)


@torch.no_grad()
def test_each_composed_method_finds_its_own_decisions(model, prompts, directions):
    flight = Flight(model, chat_tokens(model, prompts))
    pushes = [Push(directions, [layer], float(layer + 1)) for layer in range(4)]
    for both in (
        Together(tuple(pushes)),
        Together((Together(tuple(pushes[:2])), Together(tuple(pushes[2:])))),
        Together((pushes[0], Together((pushes[1], Together((pushes[2], pushes[3])))))),
    ):
        rows = both.decide(flight)
        assert isinstance(rows, Mapping) and torch.equal(rows["0.scale"], torch.ones(len(prompts)))
        state = torch.zeros(len(prompts), flight.width, 64)
        hooks = both.hooks_for(rows, flight.for_the_callers_loop())
        assert [name for name, _ in hooks] == [resid_post(layer) for layer in range(4)]
        for layer, hook in enumerate(hooks):
            expected = ((layer + 1) * directions.vectors[layer]).expand(len(prompts), -1)
            torch.testing.assert_close(applied([hook], state)[:, -1], expected)


# ── No trace, and what is refused ────────────────────────────────────────────────────────────────────────────


def test_steering_leaves_no_trace_even_after_an_error(model, prompts, directions):
    tokens = chat_tokens(model, prompts)
    plain, logits = states_under(model, tokens, [])

    def stop(residual, hook):
        raise RuntimeError("stop")

    hooks = add(directions, LAYERS, 5.0) + [(resid_post(3), stop)]
    with pytest.raises(RuntimeError, match="stop"), torch.no_grad():
        Flight(model, tokens).again(hooks, whole_prompt=True)
    assert not hooks_on(model)
    again, logits_again = states_under(model, tokens, [])
    assert torch.equal(again, plain) and torch.equal(logits_again, logits)


@pytest.mark.parametrize("write", [lambda *args: add(*args, 1.0), ablate], ids=["add", "ablate"])
@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ([], "no layers to steer"),
        ([1, 4], "no layer 4: these directions have layers 0 to 3"),
        ([-1], "no layer -1"),
        ([2, 1, 2], r"named twice in \[2, 1, 2\]"),
    ],
)
def test_layers_that_cannot_be_steered_are_refused(directions, write, layers, sentence):
    with pytest.raises(ValueError, match=sentence):
        write(directions, layers)


@pytest.mark.parametrize(
    ("scale", "sentence"),
    [
        (torch.ones(2, 2), r"not of shape \(2, 2\)"),
        (float("nan"), "not finite"),
        (torch.tensor([1.0, np.inf]), "not finite"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_a_scale_that_is_none_is_refused(directions, scale, sentence):
    with pytest.raises(ValueError, match=sentence):
        add(directions, LAYERS, scale)


@pytest.mark.usefixtures("without_shape_checks")
def test_vectors_that_are_not_one_a_layer_are_refused():
    for write in (lambda vectors: add(vectors, [0], 1.0), lambda vectors: ablate(vectors, [0])):
        with pytest.raises(ValueError, match=r"one vector a layer, \[layer d_model\], not of shape \(8,\)"):
            write(torch.ones(8))


def test_a_direction_of_length_zero_cannot_be_taken_out():
    with pytest.raises(ValueError, match="direction of layer 1 has length 0"):
        ablate(torch.tensor([[1.0], [0.0]]), [0, 1])


@pytest.mark.parametrize("method", [Push, Ablation])
def test_directions_of_another_model_steer_nothing(method, load, tiny_model, prompts):
    own, other = tiny_model(load), tiny_model(load, "llama", "llama3", None, 1)
    vectors = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    learned = Directions(vectors, torch.full((4,), 8.0), Origin(identity(own), "drawn", "", 1, 1, {}))
    made = method(learned, LAYERS, 1.0) if method is Push else method(learned, LAYERS)
    assert made.hooks(own, prompts)
    with pytest.raises(ValueError, match="These directions were measured on another model"):
        made.hooks(other, prompts)
    with pytest.raises(ValueError, match="These directions were measured on another model"):
        replies(other, prompts, method=Together((made,)), progress=False)


@pytest.mark.usefixtures("without_shape_checks")
def test_one_layer_is_asked_for_in_a_list(directions):
    with pytest.raises(ValueError, match=r"3 is one number; put it in a list: \[3\]"):
        add(directions, 3, 1.0)
