"""Packing: laws of matrices that are laid out once. What comes out is what the plain model says, and nothing stays."""

import contextlib
import copy
import gc
import weakref

import architectures
import pytest
import tiny
import torch
from torch import nn
from transformers import AutoModelForCausalLM

import scans_lens
from scans_lens import packing
from scans_lens.cache import run_through, runner
from scans_lens.chat import chat_tokens
from scans_lens.generation import replies
from scans_lens.model import resid_post
from scans_lens.packing import multiplied, packed

pytestmark = pytest.mark.skipif(not packing._packs(), reason="this torch was built without oneDNN, and packs nothing")
PRECISIONS = [
    torch.float32,
    pytest.param(
        torch.bfloat16,
        marks=pytest.mark.skipif(
            not (packing._packs() and packing._has_bfloat16()), reason="this processor does not multiply in bfloat16"
        ),
    ),
]


@pytest.fixture(autouse=True)
def even_small_ones(monkeypatch) -> None:
    """The models here are too small to be packed otherwise."""
    monkeypatch.setattr(packing, "SMALLEST", 0)
    monkeypatch.setattr(packing, "free_bytes", lambda: 1 << 40)


@pytest.fixture
def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(48, 80)


@pytest.fixture
def rows() -> torch.Tensor:
    return torch.randn(5, 48, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def any_bridge(family, tiny_model):
    """Of every family; a HookedTransformer has no linear layers."""
    return tiny_model(tiny.LOADERS[0], *family)


@contextlib.contextmanager
def plainly():
    """Within it nothing is packed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_packs", lambda: False)
        yield


def through(layer: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """What a module gives when its large layers multiply by packed weights; fails where none does."""
    with torch.no_grad():
        layers = packed(layer)
        assert layers
        with multiplied(layers):
            assert packs(layer)
            return layer(rows)


def packs(source: nn.Module) -> list[str]:
    """The names of the linear layers that multiply by packed weights now."""
    return [name for name, one in source.named_modules() if type(one) is nn.Linear and "forward" in one.__dict__]


def close(found: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * float(expected.abs().max()))


# ── What comes out ───────────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def test_logits_states_and_replies_are_those_of_the_plain_products(any_bridge, prompts):
    tokens = chat_tokens(any_bridge, prompts)

    def said():
        return (
            runner(any_bridge).feed(tokens.ids, tokens.mask),
            scans_lens.residuals(any_bridge, prompts, progress=False),
            scans_lens.transitions(any_bridge, prompts, progress=False),
            replies(any_bridge, prompts, max_new_tokens=8, progress=False).tokens,
        )

    assert len(packed(any_bridge.original_model)) > 20
    *found, tokens_found = said()
    with plainly():
        *expected, tokens_expected = said()
    for one, other in zip(found, expected, strict=True):
        close(one, other, 1e-4)  # rounding grows from layer to layer
    assert tokens_found == tokens_expected


@torch.no_grad()
@pytest.mark.parametrize("kind", [*architectures.RIGHT, *architectures.DOUBTFUL])
def test_other_architectures_say_what_they_say_plainly(tmp_path, kind):
    source = AutoModelForCausalLM.from_pretrained(
        architectures.folder(kind, tmp_path), attn_implementation="eager", dtype=torch.float32
    ).eval()
    ids = torch.arange(3, 63).reshape(3, 20)
    expected = source(ids, use_cache=False).logits
    with multiplied(packed(source)):
        assert packs(source)
        found = source(ids, use_cache=False).logits
    close(found, expected, 1e-4)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("shape", [(48,), (1, 48), (5, 48), (2, 3, 48), (2, 1, 48), (40, 48), (0, 48)])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_product_is_the_plain_one_for_any_number_of_rows(dtype, shape, bias):
    torch.manual_seed(0)
    layer, rows = nn.Linear(48, 80, bias=bias).to(dtype), torch.randn(shape, dtype=dtype)
    found, expected = through(layer, rows), layer(rows)
    assert found.dtype == dtype and found.shape == expected.shape
    if rows.numel():
        close(found, expected, 1e-5 if dtype == torch.float32 else 2**-7)


@torch.no_grad()
def test_rows_that_do_not_lie_side_by_side_are_taken_as_they_are(layer):
    for rows in (torch.randn(5, 96)[:, ::2], torch.randn(48, 5).T, torch.randn(1, 48).expand(4, 48)):
        close(through(layer, rows), layer(rows))


@torch.no_grad()
def test_a_weight_that_does_not_lie_row_by_row_stays_plain(layer):
    layer.weight = nn.Parameter(torch.randn(48, 80).T)
    assert not packed(layer)


# ── What stays ───────────────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("read", ["feed", "run_through"])
def test_nothing_is_left_on_the_layers_even_after_an_error(any_bridge, prompts, fails, read):
    tokens, seen = chat_tokens(any_bridge, prompts), []

    def watch(residual, hook):
        seen.append(len(packs(any_bridge.original_model)))
        if fails:
            raise RuntimeError("half way")

    with contextlib.suppress(RuntimeError):
        if read == "run_through":
            run_through(any_bridge, tokens.ids, tokens.mask, [(resid_post(1), watch)], 3)
        else:
            with any_bridge.hooks(fwd_hooks=[(resid_post(1), watch)]):
                runner(any_bridge).feed(tokens.ids, tokens.mask)
    assert seen and all(seen) and not packs(any_bridge.original_model)


def test_packed_weights_go_when_the_model_goes():
    model = nn.Sequential(nn.Linear(48, 80), nn.Linear(80, 48))
    with torch.no_grad():
        kept = [weakref.ref(own) for _, own in packed(model)]
    gc.collect()
    assert len(kept) == 2 and all(one() is not None for one in kept)
    del model
    gc.collect()
    assert all(one() is None for one in kept)


def test_weights_that_nobody_has_changed_are_packed_once(layer):
    with torch.no_grad():
        assert packed(layer)[0][1] is packed(layer)[0][1]
        assert packed(copy.deepcopy(layer))[0][1] is not packed(layer)[0][1]


# ── Weights that change ──────────────────────────────────────────────────────────────────────────────────────


def by_an_optimiser(layer):
    layer(torch.ones(2, 48)).sum().backward()
    torch.optim.SGD(layer.parameters(), lr=0.1).step()


@torch.no_grad()
def in_place(layer):
    layer.weight.add_(1.0)


def through_data(layer):
    layer.weight.data.add_(1.0)


def through_numpy(layer):
    layer.weight.detach().numpy()[:] *= 2


def one_input(layer):
    layer.weight.data[:, 17] += 3.0


def one_output(layer):
    layer.weight.data[33] += 3.0


def by_a_state(layer):
    layer.load_state_dict({name: torch.ones_like(value) for name, value in layer.state_dict().items()})


def by_another(layer):
    layer.weight = nn.Parameter(torch.ones_like(layer.weight))


def by_other_data(layer):
    layer.weight.data = torch.ones_like(layer.weight)


CHANGES = [
    in_place, through_data, through_numpy, one_input, one_output, by_an_optimiser, by_a_state, by_another, by_other_data
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_weights_that_were_changed_are_packed_anew(layer, rows, change):
    before = through(layer, rows)
    change(layer)
    with torch.no_grad():
        expected = layer(rows)
    assert not torch.allclose(before, expected, rtol=1e-3)
    close(through(layer, rows), expected)


@pytest.mark.parametrize("shape", [(80, 48), (48, 80), (64, 64), (7, 300), (300, 7), (1, 5), (5, 1), (96, 64)])
def test_whoever_writes_over_a_row_or_a_column_is_noticed(shape):
    weight = torch.zeros(shape)
    for axis, size in enumerate(shape):
        for place in range(size):
            changed = weight.clone()
            changed.select(axis, place).fill_(1.0)
            assert packing._sample(changed).any(), (axis, place)
    assert len(packing._sample(weight)) <= 2 * max(shape)


@torch.no_grad()
def test_replies_are_those_of_the_weights_that_are_there_now(one_model, prompts):
    source = one_model.original_model
    weight = source.model.layers[2].mlp.down_proj.weight
    kept = weight.clone()
    before = replies(one_model, prompts, max_new_tokens=4, progress=False).tokens
    try:
        weight.data.mul_(-3.0)
        changed = replies(one_model, prompts, max_new_tokens=4, progress=False).tokens
        with plainly():
            assert changed == replies(one_model, prompts, max_new_tokens=4, progress=False).tokens != before
    finally:
        weight.copy_(kept)
    assert replies(one_model, prompts, max_new_tokens=4, progress=False).tokens == before


# ── Where nothing is packed ──────────────────────────────────────────────────────────────────────────────────


def test_where_gradients_are_wanted_nothing_is_packed_and_they_flow(layer, rows):
    assert not packed(layer)
    with torch.no_grad():
        layers = packed(layer)
    with multiplied(layers):
        assert not packs(layer)
        layer(rows).sum().backward()
    close(layer.weight.grad, rows.sum(0).expand(80, -1))
    layer.weight.grad = None
    with torch.no_grad(), multiplied(layers), torch.enable_grad():  # as a hook may do
        layer(rows).sum().backward()
    close(layer.weight.grad, rows.sum(0).expand(80, -1))


@torch.no_grad()
def test_in_another_precision_for_a_while_nothing_is_packed(layer, rows):
    with torch.autocast("cpu", torch.bfloat16):
        with multiplied(packed(layer)):
            assert layer(rows).dtype == layer(rows.bfloat16()).dtype == torch.bfloat16
        expected = layer(rows)
        with multiplied([(layer, packing._Packed(layer.weight))]):
            assert torch.equal(layer(rows), expected)


def test_a_model_that_was_loaded_for_inference_is_packed_too(rows):
    with torch.inference_mode():
        layer = nn.Linear(48, 80)
        close(through(layer, rows), layer(rows))
        layer.weight.add_(1.0)
        close(through(layer, rows), layer(rows))
    with torch.no_grad():
        close(through(layer, rows), layer(rows))


@torch.no_grad()
def test_a_layer_whose_forward_is_somebody_elses_is_left_alone(layer, rows):
    layers = packed(layer)
    layer.forward = own = lambda given: given * 0
    with multiplied(layers):
        assert layer.forward is own and not layer(rows).any()
    assert layer.forward is own


class Doubled(nn.Linear):
    def forward(self, given):
        return 2 * super().forward(given)


@torch.no_grad()
def test_a_layer_of_another_class_is_left_alone():
    parametrised = nn.utils.parametrizations.weight_norm(nn.Linear(48, 80))
    assert not packed(nn.Sequential(Doubled(48, 80), parametrised))


@torch.no_grad()
def test_hooks_on_linear_layers_are_heard_and_obeyed(layer, rows):
    heard = []
    layer.register_forward_pre_hook(lambda module, given: heard.append("before") or (given[0] * 2,))
    layer.register_forward_hook(lambda module, given, result: heard.append("behind") or result + 1)
    found = through(layer, rows)
    assert heard == ["before", "behind"]
    close(found, layer(rows))


@torch.no_grad()
def test_where_little_memory_is_free_nothing_is_packed(layer, monkeypatch):
    model = nn.Sequential(layer, nn.Linear(80, 48))
    needed = sum(one.weight.nbytes for one in (model[0], model[1]))
    monkeypatch.setattr(packing, "free_bytes", lambda: int(needed / (1 - packing.LEFT)) - 8)
    assert not packed(model)
    monkeypatch.setattr(packing, "free_bytes", lambda: int(needed / (1 - packing.LEFT)) + 8)
    assert len(packed(model)) == 2
    monkeypatch.setattr(packing, "free_bytes", lambda: 0)
    assert len(packed(model)) == 2  # which are there already


@torch.no_grad()
def test_a_small_matrix_is_not_worth_it(layer, monkeypatch):
    monkeypatch.setattr(packing, "SMALLEST", layer.weight.numel() + 1)
    assert not packed(layer)
    monkeypatch.setattr(packing, "SMALLEST", layer.weight.numel())
    assert packed(layer) and not packed(copy.deepcopy(layer).half())


@torch.no_grad()
def test_a_row_alone_is_a_plain_product(layer, rows):
    """So that texts of one row say to the last bit what they say in transformers."""
    assert torch.equal(through(layer, rows[:1]), layer(rows[:1]))
