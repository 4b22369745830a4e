"""Packing: a model's large matrices laid out once as this processor multiplies them, instead of at every call.

Decoding multiplies a few rows by all weights, and a library that lays them out anew each time spends most of a step on
that. oneDNN's own layout, which compilers for torch use, spares it: on two cores with AMX a step of 16 rows is twice as
fast in float32 and ten times in bfloat16. Products differ from the plain ones by rounding alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from math import gcd
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

SMALLEST = 1 << 18
"""Numbers of a matrix that is worth it; a smaller one stays in the processor's own memory from call to call."""
ROWS = 32
"""The rows that a layout is made for; it serves any number."""
LEFT = 0.25
"""Share of the free memory that has to remain free: packed weights stand beside the plain ones."""


class _Packed:
    """One matrix in the processor's layout, and what it was made of.

    Torch counts what is written into a tensor, but not what is written through `.data`; there a sample has to tell.
    """

    def __init__(self, weight: Tensor) -> None:
        self.laid = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)
        self.version, self.place, self.sample = _version(weight), weight.data_ptr(), _sample(weight).clone()

    def is_of(self, weight: Tensor) -> bool:
        same = (self.version, self.place) == (_version(weight), weight.data_ptr())
        return same and torch.equal(self.sample, _sample(weight))


_PACKED: WeakKeyDictionary[nn.Linear, _Packed] = WeakKeyDictionary()


def packed(source: nn.Module) -> list[tuple[nn.Linear, _Packed]]:
    """The large linear layers of a module with their packed weights, packed anew where somebody has changed them.

    Empty where it would not pay or there is no memory for it: on a GPU, for a small model, on another processor, and
    where gradients are wanted.
    """
    if not _may_be() or not _packs():
        return []
    layers = [layer for layer in source.modules() if isinstance(layer, nn.Linear) and _is_worth_it(layer)]
    missing = sum(layer.weight.nbytes for layer in layers if layer not in _PACKED)
    if missing and missing > (1 - LEFT) * free_bytes():
        return []
    found = []
    for layer in layers:
        own = _PACKED.get(layer)
        if own is None or not own.is_of(layer.weight):
            own = _PACKED[layer] = _Packed(layer.weight)
        found.append((layer, own))
    return found


def forget(source: nn.Module) -> None:
    """Let go of a module's packed weights, where memory is wanted; they are packed again when they are needed."""
    for layer in source.modules():
        if isinstance(layer, nn.Linear):
            _PACKED.pop(layer, None)


@contextmanager
def multiplied(layers: Sequence[tuple[nn.Linear, _Packed]]) -> Iterator[None]:
    """Within it these layers multiply by their packed weights, unless gradients or another precision are wanted."""
    own = [pair for pair in layers if "forward" not in pair[0].__dict__] if _may_be() else []
    for layer, weight in own:
        layer.__dict__["forward"] = partial(_product, layer, weight.laid)
    try:
        yield
    finally:
        for layer, _ in own:
            layer.__dict__.pop("forward", None)


def _product(layer: nn.Linear, laid: Tensor, given: Float[Tensor, "*rows d_in"]) -> Float[Tensor, "*rows d_out"]:
    weight = layer.weight
    one_row = given.dtype == torch.float32 and given.numel() == given.shape[-1]  # which reads plain weights as fast
    if one_row or given.dtype != weight.dtype or torch.is_grad_enabled():
        return nn.functional.linear(given, weight, layer.bias)
    return torch.ops.mkldnn._linear_pointwise(given, laid, layer.bias, "none", [], "")


def _is_worth_it(layer: nn.Linear) -> bool:
    if type(layer) is not nn.Linear:
        return False
    weight = layer.weight
    if weight.device.type != "cpu" or weight.numel() < SMALLEST or not weight.is_contiguous():
        return False
    return weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and _has_bfloat16())


def _may_be() -> bool:
    return not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")


def _version(weight: Tensor) -> int:
    """How often torch has seen somebody write into it; it does not count for a model that was loaded for inference."""
    return 0 if weight.is_inference() else weight._version


def _sample(weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "taken"]:
    """Some number of each row and of each column, so that one neuron or head that is written over is noticed."""
    return weight.detach().view(-1)[:: _step(*weight.shape)]


@cache
def _step(rows: int, columns: int) -> int:
    """The longest step by which a matrix that is laid flat is walked through all rows and all columns."""
    return next(step for step in range(min(rows, columns), 0, -1) if gcd(step, columns) == 1)


@cache
def _packs() -> bool:
    """Whether torch was built with oneDNN, and has the two operations that a packed product needs."""
    try:
        torch.ops.mkldnn._reorder_linear_weight.default  # noqa: B018
        torch.ops.mkldnn._linear_pointwise.default  # noqa: B018
    except (AttributeError, RuntimeError):
        return False
    return torch.backends.mkldnn.is_available()


@cache
def _has_bfloat16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def free_bytes() -> int:
    """Memory that is free on this machine; 0 where its system does not say."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 0
