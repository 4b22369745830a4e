"""A batch on its way through a model: alone as in company, back again, copied, left by rows, and how much fits."""

import contextlib

import pytest
import torch
from conftest import one_by_one

from scans_lens import batches
from scans_lens.batches import out_of_memory, rows_at_once
from scans_lens.cache import leaving, run_through, runner
from scans_lens.chat import chat_tokens
from scans_lens.model import resid_post


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.fixture
def batch(any_model, prompts):
    return chat_tokens(any_model, prompts)


@torch.no_grad()
def test_a_row_of_a_padded_batch_runs_as_if_it_were_alone(any_model, reference, batch):
    alone = [reference(text).logits[:, -1] for text in one_by_one(batch)]
    close(runner(any_model).feed(batch.ids, batch.mask), torch.cat(alone))


@torch.no_grad()
@pytest.mark.parametrize("cut", [-1, -3, -20])
def test_a_text_in_two_pieces_runs_as_in_one(any_model, batch, cut):
    run = runner(any_model)
    whole = runner(any_model).feed(batch.ids, batch.mask)
    run.feed(batch.ids[:, :cut], batch.mask[:, :cut])
    close(run.feed(batch.ids[:, cut:], batch.mask[:, cut:]), whole)
    assert run.length == batch.ids.shape[1] and torch.equal(run.mask, batch.mask)


@torch.no_grad()
def test_what_was_gone_back_over_is_forgotten(any_model, batch):
    run = runner(any_model)
    whole = run.feed(batch.ids, batch.mask)
    run.feed(batch.ids[:, :4], torch.ones_like(batch.ids[:, :4]))
    run.back(4 + 2)
    close(run.feed(batch.ids[:, -2:], batch.mask[:, -2:]), whole)


@torch.no_grad()
def test_rows_that_leave_do_not_change_the_others(any_model, batch):
    step = batch.ids[:, :1] * 0 + 7
    everybody, some = runner(any_model), runner(any_model)
    everybody.feed(batch.ids, batch.mask)
    some.feed(batch.ids, batch.mask)
    kept = torch.tensor([0, 3])
    some.keep(kept)
    close(some.feed(step[kept], torch.ones_like(step[kept])), everybody.feed(step, torch.ones_like(step))[kept])
    assert torch.equal(some.mask, everybody.mask[kept])


@torch.no_grad()
@pytest.mark.parametrize("order", [[0, 3], [3, 0], [4, 1, 2], [2, 2, 0], "leaving"])
def test_rows_run_on_as_they_would_in_whatever_order_they_are_kept(any_model, batch, order):
    over = torch.tensor([False, True, False, True, False])
    kept = leaving(over) if order == "leaving" else torch.tensor(order)
    everybody, some = runner(any_model), runner(any_model)
    for run in (everybody, some):
        run.feed(batch.ids, batch.mask)
    steps = [batch.ids[:, column : column + 1] * 0 + 7 + column for column in range(3)]
    some.keep(kept)
    for step in steps:
        expected = everybody.feed(step, torch.ones_like(step))[kept]
        close(some.feed(step[kept], torch.ones_like(step[kept])), expected)
    some.back(2)
    some.feed(steps[1][kept], torch.ones_like(steps[1][kept]))
    close(some.feed(steps[2][kept], torch.ones_like(steps[2][kept])), expected)


def test_those_who_stay_keep_their_places_but_for_the_last():
    over = torch.tensor([False, True, False, True, False, False])
    assert leaving(over).tolist() == [0, 4, 2, 5]
    assert leaving(~over).tolist() == [3, 1]
    assert leaving(torch.zeros(3, dtype=torch.bool)).tolist() == [0, 1, 2]
    assert leaving(torch.ones(3, dtype=torch.bool)).tolist() == []


@torch.no_grad()
def test_a_copy_runs_on_and_what_it_was_copied_from_stays(any_model, batch):
    run, alone = runner(any_model), runner(any_model)
    for one in (run, alone):
        one.feed(batch.ids, batch.mask)
    rows = torch.tensor([1, 0, 1])
    step = batch.ids[:, :1] * 0 + 7
    copied = run.copy(rows)
    for _ in range(2):
        copied.feed(step[rows] + 1, torch.ones_like(step[rows]))
    assert run.length == alone.length and copied.length == run.length + 2
    expected = alone.feed(step, torch.ones_like(step))
    close(run.feed(step, torch.ones_like(step)), expected)
    copied.back(2)
    close(copied.feed(step[rows], torch.ones_like(step[rows])), expected[rows])


# ── Norms that nobody watches ────────────────────────────────────────────────────────────────────────────────


def norms(model):
    return [one for one in model.modules() if hasattr(one, "hook_scale") and hasattr(one, "hook_normalized")]


@torch.no_grad()
@pytest.mark.parametrize("read", ["feed", "run_through"])
@pytest.mark.parametrize("point", ["hook_scale", "hook_normalized"])
@pytest.mark.filterwarnings("ignore:A forward hook edited")
def test_a_hook_on_a_norm_is_heard_and_obeyed(any_model, batch, point, read):
    heard, found = [], []
    name = f"blocks.1.ln1.{point}"

    def twice(value, hook):
        heard.append(hook.name)
        return value * 2

    def last(value, hook):
        found.append(value[:, -1].clone())

    after = (resid_post(int(any_model.cfg.n_layers) - 1), last)
    for hooks in ([after], [(name, twice), after]):
        if read == "run_through":
            run_through(any_model, batch.ids, batch.mask, hooks, int(any_model.cfg.n_layers) - 1)
            continue
        with any_model.hooks(fwd_hooks=hooks):
            runner(any_model).feed(batch.ids, batch.mask)
    assert set(heard) == {name}
    assert not torch.allclose(found[0], found[1], rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("fails", [False, True])
def test_norms_are_as_they_were_after_a_batch_even_if_it_failed(any_model, batch, fails):
    def fail(value, hook):
        if fails:
            raise RuntimeError("half way")

    with contextlib.suppress(RuntimeError), any_model.hooks(fwd_hooks=[(resid_post(1), fail)]):
        runner(any_model).feed(batch.ids, batch.mask)
    assert norms(any_model) and not any("forward" in one.__dict__ for one in norms(any_model))


def test_fewer_rows_fit_where_there_is_less_memory_or_more_text(model, monkeypatch):
    monkeypatch.setattr("scans_lens.batches._free_bytes", lambda device: 2**30)
    some = rows_at_once(model, 1000)
    assert 1 <= rows_at_once(model, 2000) < some < rows_at_once(model, 10)
    monkeypatch.setattr("scans_lens.batches._free_bytes", lambda device: 2**10)
    assert rows_at_once(model, 4000) == 1


def test_a_large_model_in_half_the_precision_takes_twice_as_many_rows(model, monkeypatch):
    monkeypatch.setattr("scans_lens.batches._free_bytes", lambda device: 2**40)
    monkeypatch.setattr(batches, "BUSY", 1)  # any model is a large one then
    weights = batches.unembedding_of(model)
    assert rows_at_once(model, 100) == batches.FEWEST
    monkeypatch.setattr(batches, "unembedding_of", lambda _: weights.bfloat16())
    assert rows_at_once(model, 100) == 2 * batches.FEWEST


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 1 byte"),
            True,
        ),
        (MemoryError(), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_want_of_memory_is_told_from_other_errors(error, is_it):
    assert out_of_memory(error) is is_it
