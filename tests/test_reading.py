"""Reading: what a prompt leaves behind, whatever its company, the class of its model, and what was read before."""

import pytest
import torch
from conftest import hooks_on, one_by_one

from scans_lens.batches import in_batches
from scans_lens.chat import chat_tokens, prompt_ids, template
from scans_lens.conversation import Asking
from scans_lens.flight import Flight
from scans_lens.loading import load_model
from scans_lens.model import after_final_norm, resid_post, unembedding_of
from scans_lens.reading import mean_residuals, residuals, seen_at, transitions


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@torch.no_grad()
def states_of(reference, ids):
    """Hugging Face's own hidden states of one text, after every layer: [pos, layer, d_model]."""
    return torch.stack(reference(torch.tensor([ids]), output_hidden_states=True).hidden_states[1:], dim=2)[0]


@pytest.fixture
def texts(any_model, prompts):
    return [prompt_ids(any_model, prompt) for prompt in prompts]


# ── What is read ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("read", [residuals, transitions])
def test_a_prompt_reads_the_same_alone_and_in_company(any_model, prompts, read):
    alone = torch.cat([read(any_model, [prompt]) for prompt in prompts])
    for size in (2, 3, 32):
        close(read(any_model, prompts, batch_size=size), alone)


def test_residuals_are_what_transformer_lens_caches_at_the_last_token(any_model, prompts, texts):
    found = residuals(any_model, prompts)
    for row, ids in enumerate(texts):
        _, cache = any_model.run_with_cache(torch.tensor([ids]))
        for layer in range(found.shape[1]):
            close(found[row, layer], cache[resid_post(layer)][0, -1])


def test_residuals_are_the_hidden_states_of_hugging_face(any_model, reference, prompts, texts):
    found = residuals(any_model, prompts)
    expected = torch.stack([states_of(reference, ids)[-1] for ids in texts])
    close(found[:, :-1], expected[:, :-1])


def test_the_last_layer_is_read_before_the_final_norm(any_model, reference, prompts, texts):
    found = residuals(any_model, prompts)
    normed = torch.stack([states_of(reference, ids)[-1, -1] for ids in texts])
    assert not torch.allclose(found[:, -1], normed, rtol=0.1)
    close(after_final_norm(any_model, found)[:, -1], normed)


@pytest.mark.parametrize("point", ["hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post"])
def test_any_point_and_column_reads_what_transformer_lens_caches_there(any_model, prompts, texts, point):
    points = [f"blocks.{layer}.{point}" for layer in (0, 2)]
    tokens = chat_tokens(any_model, prompts)
    late = seen_at(any_model, tokens, points, lambda states, mask: states[:, -3:])
    mean = seen_at(
        any_model, tokens, points, lambda states, mask: (states * mask[..., None]).sum(1) / mask.sum(1)[:, None]
    )
    for row, ids in enumerate(texts):
        _, cache = any_model.run_with_cache(torch.tensor([ids]))
        for place, name in enumerate(points):
            close(late[row, place], cache[name][0, -3:])
            close(mean[row, place], cache[name][0].mean(dim=0))


@pytest.mark.parametrize("read", [residuals, transitions])
def test_layers_that_are_asked_for_are_those_of_all_layers(any_model, prompts, read):
    whole = read(any_model, prompts)
    for layers in ([2], [3, 0], [1, 1]):
        close(read(any_model, prompts, layers=layers), whole[:, layers])


def test_the_model_is_run_no_further_than_the_last_layer_wanted(any_model, prompts):
    def unwanted(residual, hook):
        raise RuntimeError("nobody asked")

    with any_model.hooks(fwd_hooks=[(resid_post(2), unwanted)]):
        residuals(any_model, prompts, layers=[0, 1])


@pytest.mark.usefixtures("without_shape_checks")
def test_layers_that_are_not_there_are_named(model, prompts):
    for layers, what in (([4], "there is no layer 4"), ([-1], "there is no layer -1"), ([], "none was named")):
        with pytest.raises(ValueError, match=f"layers 0 to 3, and {what}"):
            residuals(model, prompts, layers=layers)


@torch.no_grad()
def test_the_last_layer_normed_and_unembedded_is_the_model(model, prompts):
    found = after_final_norm(model, residuals(model, prompts))[:, -1] @ unembedding_of(model)
    close(found, torch.cat([model(torch.tensor([prompt_ids(model, prompt)]))[:, -1] for prompt in prompts]))


def test_a_transition_is_the_difference_of_two_plain_runs(any_model, reference, prompts, texts):
    opening = template(any_model).opening
    found = transitions(any_model, prompts)
    for row, ids in enumerate(texts):
        opened = states_of(reference, [*ids, *opening])
        close(found[row, :-1], (opened[len(ids) - 1] - opened[-1])[:-1])
        _, cache = any_model.run_with_cache(torch.tensor([[*ids, *opening]]))
        last = cache[resid_post(found.shape[1] - 1)][0]
        close(found[row, -1], last[len(ids) - 1] - last[-1])


def test_a_system_prompt_is_read_with_the_prompt(model, prompts):
    found = residuals(model, prompts, asking=Asking("Answer in one word."))
    ids = torch.tensor([prompt_ids(model, prompts[0], asking=Asking("Answer in one word."))])
    close(found[0, 0], model.run_with_cache(ids)[1][resid_post(0)][0, -1])


def test_means_are_the_means_of_what_is_read(model, prompts):
    found = residuals(model, prompts).double()
    means, norms = mean_residuals(model, prompts, batch_size=2)
    close(means, found.mean(dim=0))
    close(norms, found.norm(dim=-1).mean(dim=0))


def test_what_is_read_is_float32_on_the_cpu_and_holds_nothing_else(load, tiny_folder, prompts):
    half = load_model(tiny_folder(), backend=load.__name__, dtype=torch.bfloat16)
    for found in (residuals(half, prompts), transitions(half, prompts)):
        assert found.dtype == torch.float32 and found.device.type == "cpu" and not found.requires_grad
        assert found.untyped_storage().nbytes() == 4 * found.numel()


@pytest.fixture
def residual_push():
    return [(resid_post(1), lambda residual, hook: residual + 1.0)]


# ── A flight that is read flies on ───────────────────────────────────────────────────────────────────────────


@pytest.fixture
@torch.no_grad()
def flight(any_model, prompts):
    return Flight(any_model, chat_tokens(any_model, prompts))


@torch.no_grad()
def test_a_flight_that_was_read_is_where_it_was(flight):
    before, mask = flight.logits, flight.run.mask
    flight.transitions()
    close(flight.logits, before)
    assert flight.run.length == flight.width
    assert torch.equal(flight.run.mask, mask)


@torch.no_grad()
def test_decoding_after_reading_equals_running_the_whole_text_again(flight, reference):
    flight.transitions()
    said = [ids[0].tolist() for ids in one_by_one(flight.tokens)]
    for token in (17, 300, 42):
        column = torch.full((len(said), 1), token)
        logits = flight.run.feed(column, torch.ones_like(column))
        said = [[*ids, token] for ids in said]
        close(logits, torch.cat([reference(torch.tensor([ids])).logits[:, -1] for ids in said]))


@torch.no_grad()
def test_transitions_read_in_any_order_are_the_same(flight, any_model, prompts):
    opened = flight.opened()
    close(flight.residuals() - opened, transitions(any_model, prompts))


@torch.no_grad()
def test_a_flight_reads_what_plain_readings_of_the_same_prompts_give(flight, any_model, prompts):
    close(flight.residuals(), residuals(any_model, prompts))
    close(flight.transitions(), transitions(any_model, prompts))


@torch.no_grad()
def test_what_was_read_is_kept_and_not_read_again(flight):
    first = flight.transitions()
    assert torch.equal(flight.transitions(), first)


@torch.no_grad()
def test_a_flight_is_not_opened_for_the_first_time_when_it_has_moved_on(model, prompts):
    steered = Flight(model, chat_tokens(model, prompts))
    steered.again([], whole_prompt=False)
    decoded = Flight(model, chat_tokens(model, prompts))
    decoded.run.feed(decoded.tokens.ids[:, -1:], decoded.tokens.mask[:, -1:])
    for flight in (steered, decoded):
        with pytest.raises(ValueError, match="steered or decoded already"):
            flight.opened()


@torch.no_grad()
def test_the_end_of_the_prompt_is_read_as_it_was_before_steering_and_decoding(any_model, prompts, residual_push):
    steered = Flight(any_model, chat_tokens(any_model, prompts))
    steered.again(residual_push, whole_prompt=True)
    steered.run.feed(steered.tokens.ids[:, -1:], steered.tokens.mask[:, -1:])
    close(steered.residuals(), residuals(any_model, prompts))


def test_a_prompt_as_long_as_the_context_has_residuals_but_no_room_for_the_opening(model, monkeypatch):
    monkeypatch.setattr(model.cfg, "n_ctx", len(prompt_ids(model, "Why?")))
    assert residuals(model, ["Why?"]).isfinite().all()
    with pytest.raises(ValueError, match="no room"):
        transitions(model, ["Why?"])


def test_work_that_gives_nothing_back_is_done_once_a_batch(model, prompts):
    seen = []
    whole = chat_tokens(model, prompts)
    for _, nothing in in_batches(model, whole, lambda rows, tokens: seen.extend(rows.tolist()), batch_size=2):
        assert nothing is None
    assert sorted(seen) == list(range(len(prompts)))


# ── What it leaves behind, and what it refuses ───────────────────────────────────────────────────────────────


def test_reading_leaves_no_hooks_behind_even_after_an_error(model, prompts):
    assert not hooks_on(model)
    transitions(model, prompts)
    assert not hooks_on(model)

    def stop(residual, hook):
        raise RuntimeError("stop")

    for read in (residuals, lambda model, prompts: Flight(model, chat_tokens(model, prompts)).opened()):
        read(model, prompts)
        assert not hooks_on(model)
        with pytest.raises(RuntimeError, match="stop"), model.hooks(fwd_hooks=[(resid_post(2), stop)]):
            read(model, prompts)
        assert not hooks_on(model)


def test_hooks_of_the_caller_are_read_through_and_stay(model, prompts):
    plain = residuals(model, prompts)
    with model.hooks(fwd_hooks=[(resid_post(1), lambda residual, hook: residual + 1.0)]):
        before = hooks_on(model)
        close(residuals(model, prompts)[:, 1], plain[:, 1] + 1.0)
        assert hooks_on(model) == before


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("read", [residuals, transitions])
def test_states_that_are_not_finite_are_refused(model, prompts, read, value):
    overflowing = [(resid_post(1), lambda residual, hook: residual + value)]
    with (
        model.hooks(fwd_hooks=overflowing),
        pytest.raises(ValueError, match=r"not finite.*load it in bfloat16 or float32"),
    ):
        read(model, prompts)


def test_overflow_in_half_precision_is_refused(load, tiny_folder, prompts):
    half = load_model(tiny_folder(), backend=load.__name__, dtype=torch.float16)
    assert residuals(half, prompts).isfinite().all()
    with torch.no_grad():
        for name, weight in half.named_parameters():
            if "embed" in name:
                weight.mul_(3e5)
    with pytest.raises(ValueError, match="not finite"):
        residuals(half, prompts)


@pytest.mark.usefixtures("without_shape_checks")
def test_a_batch_of_nothing_and_no_prompts_are_refused(model, prompts):
    with pytest.raises(ValueError, match="at least one prompt, not 0"):
        residuals(model, prompts, batch_size=0)
    with pytest.raises(ValueError, match="no prompts"):
        residuals(model, [])
    with pytest.raises(ValueError, match="no prompts"):
        mean_residuals(model, [])
