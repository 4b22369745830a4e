"""What we ask of a model, and what makes it this one.

Only this file and `running` touch the Hugging Face module inside a bridge; only `running` and what loads a model
(`checkpoint`, `hooked`, `loading`) touch `transformer_lens`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

Hook: TypeAlias = tuple[str, Callable[..., Any]]
"""TransformerLens' own pair of a hook point's name and a function; lists of them add."""


@runtime_checkable
class Model(Protocol):
    """What is used of a `HookedTransformer` or a `TransformerBridge`; anything that has it will do."""

    cfg: Any
    tokenizer: Any
    W_U: Any
    blocks: Any

    def hooks(self, fwd_hooks: list[Hook]) -> AbstractContextManager[Any]: ...


@dataclass(frozen=True)
class Identity:
    """What makes a model the model that something was measured on. The name is shown and never compared."""

    architecture: str
    n_layers: int
    d_model: int
    d_vocab: int
    unembedding: str
    """A hash of the unembedding in bfloat16, so that one model in two precisions is one model."""
    blocks: str = ""
    """A hash of what every block reads and writes, since fine-tuning often leaves the unembedding as it was."""
    name: str = ""
    rest: str = ""
    """A hash of the other weights of every block, whatever kind of block, and of an adapter's, with its settings. Empty
    in what was kept before this was taken, and then not compared."""
    weights: str = ""
    """In what form they came, where that was not as they were trained: "Q4_K_M, dequantised". Shown with the name."""
    file: str = ""
    """SHA-256 of the GGUF file that they came in; empty where they came otherwise, and then not compared."""

    @property
    def title(self) -> str:
        """Name and form of the weights; a folder's without where it lies."""
        name = Path(self.name).name if Path(self.name).exists() else self.name or "unnamed"
        return f"{name} ({self.weights})" if self.weights else name

    def same_as(self, other: Identity) -> bool:
        apart = {"name": "", "rest": "", "weights": "", "file": ""}
        pairs = ((self.rest, other.rest), (self.file, other.file))
        alike = replace(self, **apart) == replace(other, **apart)
        return alike and all(one == another or not (one and another) for one, another in pairs)


def resid_post(layer: int) -> str:
    """The hook point at which everything here reads and writes."""
    return f"blocks.{layer}.hook_resid_post"


@contextmanager
def hooked(model: Model, hooks: Sequence[Hook]) -> Iterator[None]:
    """As `model.hooks(fwd_hooks=hooks)`, without a bridge's search through all its hook points for each of them.

    A bridge builds the list of its points anew for every hook, some milliseconds; where a layer ends is known.
    """
    points = None if not is_bridge(model) or model.compatibility_mode else _layer_ends(model, hooks)  # type: ignore[attr-defined]
    if points is None:
        with model.hooks(fwd_hooks=list(hooks)):
            yield
        return
    bridge: Any = model
    bridge.context_level += 1
    try:
        for point, (_, function) in zip(points, hooks, strict=True):
            point.add_hook(function, level=bridge.context_level)
        yield
    finally:
        for point in points:
            point.remove_hooks(level=bridge.context_level)
        bridge.context_level -= 1


def is_watched(model: Model) -> bool:
    """Whether somebody has put a hook on some hook point."""
    return any(getattr(part, "fwd_hooks", None) for part in model.modules())  # type: ignore[attr-defined]


def _layer_ends(model: Model, hooks: Sequence[Hook]) -> list[Any] | None:
    """The points that these hooks name, if all are ends of layers."""
    layers = {resid_post(layer): layer for layer in range(int(model.cfg.n_layers))}
    if not all(name in layers for name, _ in hooks):
        return None
    return [model.blocks[layers[name]].hook_resid_post for name, _ in hooks]


def identity(model: Model) -> Identity:
    """Architecture, shape and hashes of samples of the weights.

    It is taken anew each time, so that it is right when weights were changed in place or an adapter was switched off;
    only the samples are read, which takes milliseconds.
    """
    unembedding = unembedding_of(model)
    cfg = model.cfg
    came_in = getattr(cfg, "gguf", None) or {}
    architecture = getattr(cfg, "architecture", None) or getattr(cfg, "original_architecture", None) or "unknown"
    return Identity(
        architecture=str(architecture),
        n_layers=int(cfg.n_layers),
        d_model=int(cfg.d_model),
        d_vocab=int(unembedding.shape[1]),
        unembedding=_hashed([unembedding], 65_536),
        blocks=_hashed((weight for block in model.blocks for weight in _weights(block, _FIRST)), 512),
        name=str(getattr(cfg, "model_name", "") or ""),
        rest=_hashed((*(weight for block in model.blocks for weight in _others(block)), *_adapter(model)), 512),
        weights=str(came_in.get("weights", "")),
        file=str(came_in.get("sha256", "")),
    )


_FIRST = (("attn", "W_Q"), ("attn", "W_V"), ("attn", "W_O"), ("mlp", "W_out"))
_SECOND = (("attn", "W_K"), ("mlp", "W_in"), ("mlp", "W_gate"))
"""What either class of model lays out alike; an ungated MLP has no gate."""


def _weights(block: Any, names: Iterable[tuple[str, str]]) -> Iterator[Tensor]:
    """Of the first head and of the MLP, those that this block has and that can be read as a matrix."""
    for part, name in names:
        try:
            weight = getattr(getattr(block, part, None), name, None)
        except (ValueError, NotImplementedError, RuntimeError, AttributeError):  # packed, or laid out otherwise
            continue
        if isinstance(weight, Tensor) and weight.is_floating_point() and weight.ndim in (2, 3):
            yield weight[0] if weight.ndim == 3 else weight


def _others(block: Any) -> Iterator[Tensor]:
    """What `_FIRST` leaves out; of a block that is not plain attention and MLP, each of its parameters."""
    if len(list(_weights(block, _FIRST))) == len(_FIRST):
        yield from _weights(block, _SECOND)
    else:
        yield from _named(block)


def _named(part: Any) -> Iterator[Tensor]:
    """The parameters of a part, in the order of the names that transformers has for them."""
    plain = {name.replace("_original_component.", ""): weight for name, weight in part.named_parameters()}
    yield from (plain[name] for name in sorted(plain))


def _adapter(model: Model) -> Iterator[Tensor]:
    """What lies around the weights of the base where an adapter was loaded and not merged, and how strongly it acts."""
    if not is_bridge(model):
        return
    layers = [part for part in source_of(model).modules() if hasattr(part, "base_layer")]
    for layer in layers:
        yield from (weight for name, weight in sorted(layer.named_parameters()) if not name.startswith("base_layer."))
        acting = (
            sorted((getattr(layer, "scaling", None) or {}).items()),
            getattr(layer, "disable_adapters", False),
            list(getattr(layer, "active_adapters", ())),
        )
        yield torch.tensor(list(repr(acting).encode()), dtype=torch.uint8)


def _hashed(weights: Iterable[Tensor], size: int) -> str:
    """Of about so many values of each, in bfloat16; what is packed counts as the bytes that it is."""
    found = hashlib.sha256()
    for weight in weights:
        sample = _sampled(weight.detach(), size).cpu()
        if sample.is_floating_point():
            sample = sample.to(torch.bfloat16)
        found.update(sample.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def _sampled(weight: Tensor, size: int) -> Tensor:
    """Every n-th value in the order of rows, read where it lies: a transposed matrix is not copied for it."""
    places = torch.arange(0, weight.numel(), max(1, weight.numel() // size), device=weight.device)
    return weight[torch.unravel_index(places, weight.shape)] if weight.ndim else weight.reshape(1)


def unembedding_of(model: Model) -> Float[Tensor, "d_model d_vocab"]:
    """The matrix that turns the last residual into logits, without the final norm."""
    return model.W_U


def is_exact(model: Model) -> bool:
    """Whether it computes in float32 throughout, with no packed weights, so that two ways to a value give one."""
    plain = all(weight.is_floating_point() for weight in model.parameters())  # type: ignore[attr-defined]
    return plain and unembedding_of(model).dtype == torch.float32


def device_of(model: Model) -> torch.device:
    return unembedding_of(model).device


def is_folded(model: Model) -> bool:
    """Whether norms were folded into weights, which changes logit lens, norms and cosines but no reply.

    A HookedTransformer says so in its configuration. A bridge knows only that TransformerLens worked on its weights;
    its final norm has one gain for all then. That alone says nothing, since gains of a new model are all 1. In either
    class an unembedding that was centred shows it.
    """
    if str(getattr(model.cfg, "normalization_type", "")).endswith("Pre"):
        return True
    norm = getattr(model, "ln_final", None)
    gain = getattr(norm, "w", None) if getattr(norm, "w", None) is not None else getattr(norm, "weight", None)
    flat = isinstance(gain, Tensor) and bool((gain == gain.flatten()[0]).all())
    unembedding = unembedding_of(model).detach().float()
    centred = bool(unembedding.mean(-1).abs().max() < 1e-4 * unembedding.std())
    return centred or (flat and bool(getattr(model, "_weights_processed", False)))


def require_raw(model: Model, what: str) -> None:
    """Refuse a model whose norms are folded, naming what was to be done."""
    if is_folded(model):
        raise ValueError(
            f"{what} needs raw weights, and this model's norms are folded into them: load it with "
            "scans_lens.load_model(…), HookedTransformer.from_pretrained_no_processing(…), or a TransformerBridge "
            "without enable_compatibility_mode()."
        )


def is_bridge(model: Model) -> bool:
    """Whether it is a `TransformerBridge`, with the Hugging Face module inside, rather than a `HookedTransformer`."""
    return hasattr(model, "original_model")


def source_of(model: Model) -> Any:
    """The Hugging Face module inside a bridge."""
    return model.original_model  # type: ignore[attr-defined]


def unembedded(model: Model, states: Float[Tensor, "state d_model"]) -> Float[Tensor, "state d_vocab"]:
    """States that are behind the final norm as logits, before any soft cap or scale that follows, in float32."""
    return model.unembed(states.to(unembedding_of(model))).float()  # type: ignore[attr-defined]


def parameters_of(model: Model) -> int:
    """How many numbers were learned, a tied embedding counted once."""
    return sum(weight.numel() for weight in model.parameters())  # type: ignore[attr-defined]


def after_final_norm(model: Model, states: Float[Tensor, "row layer d_model"]) -> Float[Tensor, "row layer d_model"]:
    """The same states with the last layer's after the model's final norm, as Hugging Face's `hidden_states` have it."""
    norm = model.ln_final  # type: ignore[attr-defined]
    weights = unembedding_of(model)
    last = norm(states[:, -1:].to(weights.device, weights.dtype)).to(states)
    return torch.cat([states[:, :-1], last], dim=1)
