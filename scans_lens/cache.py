"""A cache: one batch on its way through a model, with its keys and values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scans_lens.model import Hook, Model, hooked, is_bridge, is_watched, resid_post
from scans_lens.packing import multiplied, packed
from scans_lens.past import past_of, refusal_of, roomy_layer, tells_again


@runtime_checkable
class Runner(Protocol):
    """One batch with its keys and values: tokens go in, the last column's logits come out, and one can go back."""

    model: Any
    length: int
    """Columns that have gone in; the present call's first column while hooks run."""
    mask: Int[Tensor, "row pos"]

    def feed(self, ids: Int[Tensor, "row pos"], mask: Int[Tensor, "row pos"]) -> Float[Tensor, "row d_vocab"]: ...
    def begin(self, ids: Int[Tensor, "pos"], rows: int) -> None:
        """So many rows that all begin with these tokens, which are run once; where `shares` says so."""
        ...

    def back(self, columns: int) -> None: ...
    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        """Only these rows, in this order; `leaving` gives one that costs little."""
        ...

    def copy(self, rows: Int[Tensor, "copied"]) -> Runner:
        """A batch of these rows, each as often as it is named; this one stays as it is."""
        ...


def runner(model: Model) -> Runner:
    """An empty batch for this model.

    Raises:
        ValueError: it cannot be run, see `refusal`.
    """
    return _BridgeRunner(model) if is_bridge(model) else _HookedRunner(model)


def refusal(model: Model) -> str | None:
    """Why this model cannot be run, in one sentence; None where it can."""
    return refusal_of(model.original_model) if is_bridge(model) else None  # type: ignore[attr-defined]


def shares(model: Model, columns: int) -> bool:
    """Whether what rows begin with alike may be run once for all of them, in texts of so many columns.

    Padding then stands between it and what each row goes on with. Rotary positions are counted by tokens, but a sliding
    window and a chunk of attention by columns. Somebody's hooks would see two calls where they expect one, so there
    must be none.
    """
    if not is_bridge(model):
        return False
    source = model.original_model  # type: ignore[attr-defined]
    past, config = past_of(source), source.config.get_text_config(decoder=True)
    reach = min(getattr(config, name, None) or columns for name in ("sliding_window", "attention_chunk_size"))
    plain = past.attends and not past.recurrent and past.switch is None and past.grows_at is None
    rotary = getattr(config, "rope_parameters", None) is not None
    return plain and rotary and columns <= reach and not is_watched(model)


def sides(model: Model, lengths: Int[Tensor, "row"], more: int = 0) -> Int[Tensor, "row"]:
    """A number for each text, not falling as lengths rise, and the same for those that can be in one batch.

    All positions of a batch are rotated by one table, which with LongRoPE depends on the longest text. So those on the
    two sides of its switch are not put together, nor those that would cross it at different tokens while they grow by
    `more`.
    """
    if not is_bridge(model):
        return torch.zeros_like(lengths)
    return past_of(model.original_model).sides(lengths, more)  # type: ignore[attr-defined]


def crosses(model: Model, lengths: Int[Tensor, "row"], more: int) -> bool:
    """Whether some text is read by another rotary table when it has grown by so many tokens."""
    return is_bridge(model) and past_of(model.original_model).crosses(lengths, more)  # type: ignore[attr-defined]


NOT_FINITE = (
    "The model's states are not finite (nan or infinite); this happens in float16, so load it in bfloat16 or float32."
)


def finite(logits: Float[Tensor, "row d_vocab"]) -> Float[Tensor, "row d_vocab"]:
    """The same logits, once the largest of each row is a number; a nan anywhere in a row is its largest.

    Raises:
        ValueError: one is not.
    """
    if not torch.isfinite(logits.amax(dim=-1)).all():
        raise ValueError(NOT_FINITE)
    return logits


def all_finite(states: Tensor) -> Tensor:
    if not torch.isfinite(states).all():
        raise ValueError(NOT_FINITE)
    return states


def leaving(over: Bool[Tensor, "row"]) -> Int[Tensor, "kept"]:
    """The rows that are not over: each in its place, but for the last ones, which fill the places that became free.

    So a cache moves as many rows as have left, and not all that stay.
    """
    kept = (~over).nonzero().squeeze(1)
    order = torch.arange(len(kept), device=over.device)
    order[over[: len(kept)]] = kept[kept >= len(kept)]
    return order


def _norms(source: Any) -> list[Any]:
    """A bridge's norms that give what the original norm gives, and compute it again for their hook points."""
    return [norm for norm in source.modules() if getattr(norm, "use_native_layernorm_autograd", False) is True]


_POINTS = ("hook_in", "hook_scale", "hook_normalized", "hook_out")


@contextmanager
def _computed_once(norms: Sequence[Any]) -> Iterator[None]:
    """Within it, norms whose hook points nobody watches are the original ones, which is what they give anyway.

    The hook points of a norm cost as much as the norm, a twentieth of a step of decoding.
    """
    bare = [norm for norm in norms if not any(_watched(getattr(norm, point)) for point in _POINTS)]
    for norm in bare:  # past the bridge's own setter, which would reach the original
        norm.__dict__["forward"] = partial(_of_its_type, norm.original_component)
    try:
        yield
    finally:
        for norm in bare:
            norm.__dict__.pop("forward", None)


def _watched(point: Any) -> bool:
    return bool(point.fwd_hooks or point.bwd_hooks or point._forward_hooks or point._forward_pre_hooks)


def _of_its_type(norm: Any, state: Tensor) -> Tensor:
    return norm(state).to(state.dtype)


class _BridgeRunner:
    """Through the Hugging Face module inside a bridge: every hook fires, at nearly bare speed.

    Where what is kept cannot be used (see `Past`), the whole text is run again, under the hooks that are on: `length`
    is 0 then, and hooks see a call that begins at the first column.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._source = model.original_model
        self._past = past_of(self._source)
        self._norms, self._packed = _norms(self._source), packed(self._source)
        self._cache: Any = None
        self._long = False
        self.length = 0
        self.ids = self.mask = torch.zeros((0, 0), dtype=torch.long)

    def feed(self, ids: Tensor, mask: Tensor) -> Tensor:
        told = torch.cat([self.ids, ids], dim=1) if self.length else ids
        whole = torch.cat([self.mask, mask], dim=1) if self.length else mask
        long = self._past.is_long(whole)
        before, kept = self.length, self._cache
        if self._from_the_start(ids.shape[1], long):
            self.length, kept, ids, mask = 0, self._past.empty(self._source), told, whole
        positions = (whole.cumsum(dim=1) - 1).clamp(min=0)[:, self.length :]
        self._past.prepare(self._source)
        try:
            with _computed_once(self._norms), multiplied(self._packed):
                logits = self._source(
                    input_ids=ids,
                    attention_mask=whole if self._past.attends else mask,
                    position_ids=positions,
                    use_cache=True,
                    logits_to_keep=1,
                    **{self._past.argument: kept},
                ).logits[:, -1]
        finally:
            self.length = before
        self.ids, self.mask, self.length = told, whole, whole.shape[1]
        self._cache, self._long = kept, long
        return finite(logits)

    def _from_the_start(self, columns: int, long: bool) -> bool:
        if self._cache is None:
            return True
        if self._past.recurrent:
            return columns > 1
        switch = self._past.switch
        return long != self._long and switch is not None and tells_again(self._source, switch)

    def begin(self, ids: Tensor, rows: int) -> None:
        self.feed(ids[None], torch.ones_like(ids[None]))
        many = self.copy(torch.zeros(rows, dtype=torch.long, device=ids.device))
        self._cache, self.ids, self.mask = many._cache, many.ids, many.mask

    def back(self, columns: int) -> None:
        if self._past.recurrent:
            self._cache = None
        else:
            self._cache.crop(-columns)
        self.ids, self.mask, self.length = self.ids[:, :-columns], self.mask[:, :-columns], self.length - columns

    def keep(self, rows: Tensor) -> None:
        if self._past.recurrent and self._cache is not None:
            self._cache.reorder_cache(rows)
        elif self._cache is not None:
            self._cache.batch_select_indices(rows)
        self.ids, self.mask = self.ids[rows], self.mask[rows]

    def copy(self, rows: Tensor) -> _BridgeRunner:
        other = _BridgeRunner(self.model)
        if not self._past.recurrent:  # else it begins again from its tokens
            other._cache = self._past.empty(self._source)
            for layer in self._cache.layers:
                copied = roomy_layer()()
                copied.lazy_initialization(layer.keys, layer.values)
                copied.keys, copied.values = (there[rows.to(there.device)] for there in (layer.keys, layer.values))
                other._cache.layers.append(copied)
        other.ids, other.mask, other.length, other._long = self.ids[rows], self.mask[rows], self.length, self._long
        return other


class _HookedRunner:
    """Through a HookedTransformer, whose cache is sliced by hand."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._cache: Any = None
        self.length = 0
        self.mask = torch.zeros((0, 0), dtype=torch.long)

    def feed(self, ids: Tensor, mask: Tensor) -> Tensor:
        if self._cache is None:
            self._cache = self._empty(ids.shape[0], ids.device)
        cfg = self.model.cfg
        residual = self.model(
            ids,
            attention_mask=mask,
            past_kv_cache=self._cache,
            padding_side="left",
            stop_at_layer=cfg.n_layers,
        )
        logits = self.model.unembed(self.model.ln_final(residual[:, -1:]))[:, -1]
        if cfg.output_logits_soft_cap > 0:
            logits = cfg.output_logits_soft_cap * torch.tanh(logits / cfg.output_logits_soft_cap)
        self.mask = torch.cat([self.mask, mask], dim=1) if self.length else mask
        self.length = self.mask.shape[1]
        return finite(logits)

    def begin(self, ids: Tensor, rows: int) -> None:
        raise NotImplementedError("A HookedTransformer shares nothing; see `shares`.")

    def back(self, columns: int) -> None:
        for entry in self._cache.entries:
            entry.past_keys = entry.past_keys[:, :-columns]
            entry.past_values = entry.past_values[:, :-columns]
        self._cache.previous_attention_mask = self._cache.previous_attention_mask[:, :-columns]
        self.mask, self.length = self.mask[:, :-columns], self.length - columns

    def keep(self, rows: Tensor) -> None:
        self._take(self._cache, rows)
        self.mask = self.mask[rows]

    def copy(self, rows: Tensor) -> _HookedRunner:
        other = _HookedRunner(self.model)
        other._cache = self._empty(len(rows), rows.device)
        other._take(self._cache, rows)
        other.mask, other.length = self.mask[rows], self.length
        return other

    def _empty(self, rows: int, device: torch.device) -> Any:
        from transformer_lens import TransformerLensKeyValueCache  # gone with TransformerLens 4

        return TransformerLensKeyValueCache.init_cache(self.model.cfg, device, rows)

    def _take(self, cache: Any, rows: Tensor) -> None:
        for empty, entry in zip(self._cache.entries, cache.entries, strict=True):
            empty.past_keys, empty.past_values = entry.past_keys[rows], entry.past_values[rows]
        self._cache.previous_attention_mask = cache.previous_attention_mask[rows]


class _Enough(Exception):
    """Raised by a hook behind which nothing is wanted."""


def run_through(
    model: Model, ids: Int[Tensor, "row pos"], mask: Int[Tensor, "row pos"], hooks: Sequence[Hook], last: int
) -> None:
    """Whole texts through the layers up to `last` under these hooks: no logits, no cache, and nothing comes back."""

    def stop(residual: Float[Tensor, "row pos d_model"], hook: Any) -> None:
        raise _Enough

    if not is_bridge(model):
        with model.hooks(fwd_hooks=[*hooks]):
            model(ids, attention_mask=mask, padding_side="left", stop_at_layer=last + 1)  # type: ignore[operator]
        return
    source = model.original_model  # type: ignore[attr-defined]
    past = past_of(source)
    past.is_long(mask)
    past.prepare(source)
    # A recurrent layer of a bridge may have a way of its own without a cache, which is not the module's
    kept = {"use_cache": past.recurrent, **({past.argument: past.empty(source)} if past.recurrent else {})}
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    fast = (_computed_once(_norms(source)), multiplied(packed(source)))
    with hooked(model, [*hooks, (resid_post(last), stop)]), suppress(_Enough), fast[0], fast[1]:
        source(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=1, **kept)
