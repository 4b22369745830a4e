"""One pass over the prompts reads what passes of their own read, in any batch and when memory runs out."""

import pytest
import torch
from conftest import one_by_one

import scans_lens
from scans_lens.chat import chat_tokens
from scans_lens.directions import directions_of, refusal_directions
from scans_lens.methods.readers import either_way
from scans_lens.model import resid_post
from scans_lens.prompts import Contrast
from scans_lens.reading import Readings, collect, readings, residuals


def close(found: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * float(expected.abs().max()))


def same(found: Readings, expected: Readings) -> None:
    close(found.residuals, expected.residuals)
    close(found.mass, expected.mass)
    assert found.moves is not None and expected.moves is not None
    close(found.moves, expected.moves)


@pytest.fixture
def whole(any_model, prompts) -> Readings:
    return readings(any_model, prompts, either_way, progress=None)


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [None, 1, 2, 3])
def test_one_pass_reads_what_passes_of_their_own_read(any_model, prompts, batch_size):
    found = readings(any_model, prompts, either_way, batch_size=batch_size, progress=None)
    close(found.residuals, residuals(any_model, prompts, progress=False))
    close(found.moves, collect(any_model, prompts, either_way))
    said = [any_model(ids)[0, -1].float() for ids in one_by_one(chat_tokens(any_model, prompts))]
    mass = torch.stack(said).double().softmax(-1).mean(0)
    close(found.mass, mass, 1e-4)
    assert found.mass.dtype == torch.float64 and found.mass.sum().item() == pytest.approx(1.0, abs=1e-6)
    assert found.residuals.dtype == found.moves.dtype == torch.float32


def test_nothing_else_is_read_where_nothing_was_asked_for(one_model, prompts):
    found = readings(one_model, prompts, progress=None)
    assert found.moves is None
    close(found.residuals, residuals(one_model, prompts, progress=False))


def test_one_prompt_is_read_as_ever(any_model, prompts, whole):
    found = readings(any_model, prompts[3:4], either_way, progress=None)
    close(found.residuals[0], whole.residuals[3])
    close(found.moves[0], whole.moves[3])


@pytest.mark.parametrize("last", [False, True], ids=["in the prompts", "in the opening, when they were read"])
def test_a_batch_that_does_not_fit_is_read_in_halves_and_nothing_is_counted_twice(any_model, prompts, whole, last):
    seen = []

    def full(residual, hook):
        seen.append(residual.shape[0])
        late = residual.shape[1] < 8  # the opening is short, no prompt is
        if residual.shape[0] > 2 and late == last:
            raise torch.OutOfMemoryError("out of memory")

    with any_model.hooks(fwd_hooks=[(resid_post(2), full)]):
        found = readings(any_model, prompts, either_way, progress=None)
    assert max(seen) > 2
    same(found, whole)


def test_a_later_batch_that_does_not_fit_leaves_the_earlier_ones_as_they_are(any_model, prompts, whole):
    calls = []

    def full(residual, hook):
        calls.append(residual.shape[0])
        if len(calls) == 3:  # prompts and opening of the first batch are through
            raise torch.OutOfMemoryError("out of memory")

    with any_model.hooks(fwd_hooks=[(resid_post(2), full)]):
        found = readings(any_model, prompts, either_way, batch_size=2, progress=None)
    assert calls[:3] == [2, 2, 2] and calls[3] == 1
    same(found, whole)


def test_directions_are_those_that_are_learned_from_the_prompts(any_model, prompts):
    contrast = Contrast("two and three", prompts[:2], prompts[2:])
    sides = (readings(any_model, side, progress=None) for side in (contrast.harmful, contrast.harmless))
    found, expected = directions_of(any_model, contrast, *sides), refusal_directions(any_model, contrast)
    close(found.vectors, expected.vectors)
    close(found.residual_norms, expected.residual_norms)
    assert found.origin == expected.origin


def test_anchor_layers_are_the_same_from_what_was_read_before(one_model, monkeypatch):
    from learning import contrast_of

    monkeypatch.setattr("scans_lens.anchoring.SIGNIFICANCE", 2.0)  # so that some layers qualify
    contrast = contrast_of()
    read = tuple(readings(one_model, side, either_way, progress=None) for side in (contrast.harmful, contrast.harmless))
    how = {"contrast": contrast, "resamples": 20, "progress": False}
    found = scans_lens.anchor_layers(one_model, read=read, **how)
    assert found == scans_lens.anchor_layers(one_model, **how)
