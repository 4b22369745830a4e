"""Past: how a Hugging Face module keeps the text that went in, and where its rotary tables change."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int
from torch import Tensor

ROOM = 64
"""Columns that a cache makes room for in advance, at least, and that a batch may grow by without having said so."""


@dataclass(frozen=True)
class Past:
    """How one module keeps its past, and what that asks of a batch."""

    argument: str
    """Of its `forward`: the cache."""
    recurrent: bool
    """Whether some layer keeps a state that cannot be taken back, as Mamba's, or a convolution's last inputs.

    Such a past goes on by one token at a time; all else is run again from the tokens, which costs a prefill.
    """
    attends: bool
    """Whether some layer attends, and wants the mask of the whole text and not only of what goes in."""
    switch: int | None
    """The length up to which its rotary table is the short one (LongRoPE); None where there is one table."""
    grows_at: int | None
    """The length beyond which its rotary table is another for every length (dynamic NTK scaling); None as a rule.

    It is the length of the context, which prompts and replies do not go beyond.
    """

    def empty(self, source: Any) -> Any:
        """A cache in which nothing is yet."""
        from transformers import DynamicCache

        if self.recurrent:
            return DynamicCache(config=source.config)
        # Made without a configuration, so that layers with a sliding window keep everything too and can go back;
        # what lies outside the window is hidden by the attention mask all the same.
        plain = DynamicCache()
        plain.layer_class_to_replicate = roomy_layer()
        return plain

    def prepare(self, source: Any) -> None:
        """Make the module ready for a call: what an earlier, longer text left in its rotary tables is forgotten."""
        if self.grows_at is not None:
            _reset_rotary(source)

    def is_long(self, mask: Int[Tensor, "row pos"]) -> bool:
        """On which side of the switch the texts are.

        Raises:
            ValueError: some on one side and some on the other, of which one would be read by the other's table.
        """
        if mask.shape[1] <= min(self.switch or mask.shape[1], self.grows_at or mask.shape[1]):
            return False
        lengths = mask.sum(dim=1)
        shortest, longest = int(lengths.min()), int(lengths.max())
        straddles = self.switch is not None and shortest <= self.switch < longest
        if straddles or (self.grows_at is not None and longest > max(self.grows_at, shortest)):
            raise ValueError(
                f"Texts of {shortest} to {longest} tokens are in one batch, and this model's rotary positions change "
                f"at {self.switch or self.grows_at}, so that the shorter ones would be read by the longer ones' table: "
                "ask with batch_size=1."
            )
        return self.switch is not None and longest > self.switch

    def sides(self, lengths: Int[Tensor, "row"], more: int) -> Int[Tensor, "row"]:
        """A number for each text, the same for those that can be in one batch though they grow by so many tokens.

        It does not fall as lengths rise. Texts that may cross the switch on their way have those of their own length
        beside them, so that all cross at once.
        """
        if self.switch is not None:
            crosses = (lengths <= self.switch) & (lengths + max(more, ROOM) > self.switch)
            return torch.where(crosses, lengths, torch.where(lengths > self.switch, self.switch + 1, 0))
        return torch.zeros_like(lengths)

    def crosses(self, lengths: Int[Tensor, "row"], more: int) -> bool:
        """Whether some text is read by another table when it has grown by so many tokens."""
        return self.switch is not None and bool(((lengths <= self.switch) & (lengths + more > self.switch)).any())


def past_of(source: Any) -> Past:
    """How this module keeps its past.

    Raises:
        ValueError: it cannot be run here, see `refusal_of`.
    """
    if source not in _PASTS:
        sentence = refusal_of(source)
        if sentence is not None:
            raise ValueError(sentence)
        _PASTS[source] = _asked(source)
    return _PASTS[source]


_PASTS: WeakKeyDictionary[Any, Past] = WeakKeyDictionary()
"""Of modules that were asked before, since asking takes as long as a small model's step."""


def _asked(source: Any) -> Past:
    kinds = _kinds(source.config)
    ropes = _ropes(source.config)
    switches = [rope["original_max_position_embeddings"] for rope in ropes if rope.get("rope_type") == "longrope"]
    dynamic = any("dynamic" in str(rope.get("rope_type")) for rope in ropes)
    return Past(
        argument="past_key_values" if "past_key_values" in _arguments(source) else "cache_params",
        recurrent=any(map(_has_state, kinds)),
        attends=any(hasattr(kind, "get_mask_sizes") for kind in kinds),
        switch=min(map(int, switches), default=None),
        grows_at=int(source.config.get_text_config(decoder=True).max_position_embeddings) if dynamic else None,
    )


def refusal_of(source: Any) -> str | None:
    """Why texts cannot be run through this module with what it keeps of them, in one sentence; None where they can."""
    name = type(source).__name__
    if getattr(source.config, "is_encoder_decoder", False):
        return f"{name} reads with an encoder and writes with a decoder; only models that do both with one can be run."
    if not {"past_key_values", "cache_params"} & set(_arguments(source)):
        return f"{name} keeps its past in a way of its own, which is not known here, so its replies would be wrong."
    if source.config.model_type == "recurrent_gemma":
        # modeling_recurrent_gemma.py of transformers 5.23: the mask reaches the attention layers only
        return f"{name} takes padding for text in its recurrent layers, so a prompt would read otherwise in company."
    if hollow := _hollow(source):
        return f"TransformerLens wraps {hollow[0]!r}, which this {name} has not: load it with scans_lens.load_model(…)."
    try:
        strange = [kind.__name__ for kind in _kinds(source.config) if kind not in _plain() and not _has_state(kind)]
    except KeyError as kind:  # transformers itself has no cache for them
        strange = [str(kind)]
    if strange:
        return f"{name} keeps the past of its layers as {strange[0]}, which is not known here: it would read wrongly."
    return None


def drop_hollow_parts(source: Any) -> None:
    """Take out the parts that TransformerLens wrapped though they are not there, as Granite's rotary positions."""
    for name in _hollow(source):
        parent, _, child = name.rpartition(".")
        setattr(source.get_submodule(parent), child, None)


def _hollow(source: Any) -> list[str]:
    return [name for name, part in source.named_modules() if getattr(part, "original_component", part) is None]


def _arguments(source: Any) -> list[str]:
    return list(inspect.signature(type(source).forward).parameters)


def _kinds(config: Any) -> list[type]:
    """The cache layers that transformers makes for this configuration."""
    from transformers import DynamicCache

    return [type(layer) for layer in DynamicCache(config=config).layers]


@cache
def _plain() -> tuple[type, ...]:
    """Layers that keep keys and values of every token that they see, or nothing."""
    from transformers import cache_utils

    return cache_utils.DynamicLayer, cache_utils.DynamicSlidingWindowLayer, cache_utils.DummyLayer


def _has_state(kind: type) -> bool:
    from transformers.cache_utils import LinearAttentionCacheLayerMixin

    return issubclass(kind, LinearAttentionCacheLayerMixin)


def _ropes(config: Any) -> list[dict[str, Any]]:
    """Rotary parameters: one for all layers, or one for each kind of layer."""
    found = getattr(config.get_text_config(decoder=True), "rope_parameters", None) or {}
    return [found] if "rope_type" in found else [one for one in found.values() if isinstance(one, dict)]


def tells_again(source: Any, switch: int) -> bool:
    """Whether its own `generate` computes all keys again when a text crosses the switch; asked of it, not known.

    Phi-3's does; a Llama with the same scaling goes on with the keys of the short table.
    """
    from transformers import DynamicCache

    past, device = DynamicCache(), source.device
    keys = torch.zeros(1, 1, switch, 1, device=device)
    past.update(keys, keys, 0)
    ids = torch.zeros(1, switch + 1, dtype=torch.long, device=device)
    asked = source.prepare_inputs_for_generation(
        ids, past_key_values=past, attention_mask=torch.ones_like(ids), use_cache=True
    )
    return asked.get("past_key_values") is None


def _reset_rotary(source: Any) -> None:
    """Forget how long earlier texts were, as tables of dynamic scaling do not: a long one would change a later one."""
    for module in source.modules():
        for name in [name for name in vars(module) if name.endswith("max_seq_len_cached")]:
            kind = name.removesuffix("max_seq_len_cached")  # empty, or the kind of layer that the table is for
            if hasattr(module, f"{kind}inv_freq") and getattr(module, name) != module.original_max_seq_len:
                setattr(module, f"{kind}inv_freq", getattr(module, f"{kind}original_inv_freq"))
                setattr(module, name, module.original_max_seq_len)


# ── A cache with room ────────────────────────────────────────────────────────────────────────────────────────


@cache
def roomy_layer() -> Any:
    """A cache layer with room made in advance: a step writes its own column, and copies nothing that is there."""
    from transformers.cache_utils import DynamicLayer

    class RoomyLayer(DynamicLayer):
        """`keys` and `values` are the first rows and columns of the room, until rows are chosen in another order."""

        keys: Any
        values: Any

        def __init__(self, **how: Any) -> None:
            super().__init__(**how)
            self._keys_room: Tensor | None = None
            self._values_room: Tensor | None = None

        def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            length = self.get_seq_length()
            self._keys_room = _with_room(self._keys_room, self.keys, key_states, length)
            self._values_room = _with_room(self._values_room, self.values, value_states, length)
            rows, end = len(key_states), length + key_states.shape[-2]
            self._keys_room[:rows, :, length:end] = key_states
            self._values_room[:rows, :, length:end] = value_states
            self.keys, self.values = self._keys_room[:rows, :, :end], self._values_room[:rows, :, :end]
            return self.keys, self.values

        def batch_select_indices(self, indices: Tensor) -> None:
            if not self.get_seq_length():
                return
            kept, indices = len(indices), indices.to(self.keys.device)
            places = torch.arange(kept, device=indices.device)
            moved = indices != places
            roomy = self._keys_room is not None and kept <= len(self.keys)
            if roomy:  # in place: what moves is gathered before any of it is written
                for there in (self.keys, self.values):
                    there[places[moved]] = there[indices[moved]]
                self.keys, self.values = self.keys[:kept], self.values[:kept]
            else:
                self._keys_room = self._values_room = None
                self.keys, self.values = self.keys[indices], self.values[indices]

    return RoomyLayer


def _with_room(room: Tensor | None, there: Tensor, new: Tensor, length: int) -> Tensor:
    """The room itself while the new columns fit, or a larger one that holds what is there."""
    end = length + new.shape[-2]
    if room is not None and end <= room.shape[-2]:
        return room
    larger = new.new_empty(*new.shape[:-2], end + max(ROOM, end // 4), new.shape[-1])
    if length:
        larger[..., :length, :] = there
    return larger
