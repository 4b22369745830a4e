"""The front door: loading, what we ask of a model, and what makes it this one.

Only this file and `running` touch `transformer_lens` and the Hugging Face module inside a bridge.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from scans_lens import organism, past, ranks

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

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

    def same_as(self, other: Identity) -> bool:
        return replace(self, name="") == replace(other, name="")


def resid_post(layer: int) -> str:
    """The hook point at which everything here reads and writes."""
    return f"blocks.{layer}.hook_resid_post"


# ── Loading ──────────────────────────────────────────────────────────────────────────────────────────────────


def load_model(
    name: str | Path | None = None,
    *,
    backend: Literal["bridge", "hooked"] = "bridge",
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
) -> Any:
    """A chat model with raw weights: the bundled one, a local folder's, or a hub's.

    Args:
        name: None for the bundled model, a folder in Hugging Face format, or a hub name.
        backend: "bridge" for a `TransformerBridge`; "hooked" for a `HookedTransformer` (TransformerLens 3 only;
            decoding through it takes nearly three times as long on a CPU).
        device: "cuda" where there is one, else "cpu"; among processes of one launch, each its own GPU. "auto" spreads
            a large model over all GPUs (a bridge only, and the package accelerate has to be there).
        dtype: bfloat16 on a GPU, float32 on a CPU, unless said otherwise.
        revision: of a hub model.

    Raises:
        ValueError: the model cannot be found or reached, or the backend is not there.
    """
    if backend not in ("bridge", "hooked"):
        raise ValueError(f"No backend {backend!r}; there are 'bridge' and 'hooked'.")
    spread = device == "auto"
    if spread and (backend != "bridge" or importlib.util.find_spec("accelerate") is None):
        raise ValueError(
            "device='auto' spreads a bridge over all GPUs, and needs the package accelerate: pip install accelerate."
        )
    device = _device(None if spread else device)
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    where = str(organism.weights() if name is None else name)
    if Path(where).exists() and not (Path(where) / "config.json").is_file():
        raise ValueError(f"The folder {where!r} holds no model in Hugging Face format: it has no config.json.")
    try:
        with _quiet():
            if backend == "hooked":
                model = _load_hooked(where, device, dtype, revision)
            else:
                model = _load_bridge(
                    where, {"device_map": "auto"} if spread else {"device": str(device)}, dtype, revision
                )
    except OSError as error:
        raise ValueError(
            f"Cannot load the model {where!r}: it is no folder here, and the hub does not give it "
            f"(wrong name, no network, or a gated model without HF_TOKEN). It said: {_first_line(error)}"
        ) from error
    return model


def _device(wanted: str | torch.device | None) -> torch.device:
    """The device that was asked for, once something has been put there."""
    if wanted is None:
        own = ranks.device_number()
        wanted = "cpu" if not torch.cuda.is_available() else "cuda" if own is None else f"cuda:{own}"
    try:
        return torch.empty(1, device=wanted).device
    except (RuntimeError, AssertionError) as error:  # a name that is none, or hardware that is not there
        raise ValueError(f"The device {str(wanted)!r} cannot be used here: {str(error).splitlines()[0]}") from error


def _load_bridge(where: str, place: Mapping[str, str], dtype: torch.dtype, revision: str | None) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    extra: dict[str, Any] = {"revision": revision} if revision else {}
    if revision and "revision" not in inspect.signature(TransformerBridge.boot_transformers).parameters:
        from huggingface_hub import snapshot_download

        where, extra = snapshot_download(where, revision=revision), {}
    model = TransformerBridge.boot_transformers(where, dtype=dtype, **place, **extra)
    past.drop_hollow_parts(model.original_model)
    model.eval()
    return model


def _load_hooked(where: str, device: torch.device, dtype: torch.dtype, revision: str | None) -> Any:
    try:
        from transformer_lens import HookedTransformer
    except ImportError as error:
        raise ValueError(
            "HookedTransformer was removed in TransformerLens 4; use backend='bridge', or install transformer-lens<4."
        ) from error
    if not Path(where).exists():
        from transformer_lens.loading_from_pretrained import get_official_model_name

        try:
            get_official_model_name(where)
        except ValueError:
            raise ValueError(
                f"Cannot load the model {where!r}: it is no folder here, and TransformerLens has no HookedTransformer "
                "of that name; use backend='bridge', which takes any name of the hub."
            ) from None
        extra: dict[str, Any] = {"revision": revision} if revision else {}
        return HookedTransformer.from_pretrained_no_processing(where, device=str(device), dtype=dtype, **extra).eval()
    from transformer_lens.loading_from_pretrained import get_pretrained_state_dict
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # TransformerLens' own way from a folder to a configuration guesses the architecture from words in the path
    source = AutoModelForCausalLM.from_pretrained(where, dtype=dtype).eval()
    config = _hooked_config(source.config, device, dtype)
    weights = get_pretrained_state_dict(where, config, hf_model=source, dtype=dtype)
    model = HookedTransformer(config, AutoTokenizer.from_pretrained(where))
    model.load_and_process_state_dict(
        weights, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    return model.eval()


def _hooked_config(config: PreTrainedConfig, device: torch.device, dtype: torch.dtype) -> Any:
    """The shape of a local Llama, Qwen 2, Mistral or Gemma 2 in TransformerLens' words."""
    from transformer_lens import HookedTransformerConfig

    architecture = (config.architectures or ["unknown"])[0]
    known = ("LlamaForCausalLM", "Qwen2ForCausalLM", "MistralForCausalLM", "Gemma2ForCausalLM")
    if architecture not in known:
        raise ValueError(f"A local {architecture} does not load as a HookedTransformer; use backend='bridge'.")
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    grouped = config.num_key_value_heads != config.num_attention_heads or architecture != "LlamaForCausalLM"
    rope = config.rope_parameters
    attention: dict[str, Any] = {}
    if rope.get("rope_type", "default") == "llama3":
        attention = {
            "use_NTK_by_parts_rope": True,
            "NTK_original_ctx_len": rope["original_max_position_embeddings"],
            "NTK_by_parts_low_freq_factor": rope["low_freq_factor"],
            "NTK_by_parts_high_freq_factor": rope["high_freq_factor"],
            "NTK_by_parts_factor": rope["factor"],
        }
    elif rope.get("rope_type", "default") != "default":
        raise ValueError(
            f"Rotary positions of type {rope['rope_type']!r} do not load as a HookedTransformer; use backend='bridge'."
        )
    if architecture == "Gemma2ForCausalLM":
        attention = {
            "use_local_attn": True,
            "window_size": config.sliding_window,
            "attn_types": ["local" if kind == "sliding_attention" else "global" for kind in config.layer_types],
            "attn_scale": config.query_pre_attn_scalar**0.5,
            "attn_scores_soft_cap": config.attn_logit_softcapping,
            "output_logits_soft_cap": config.final_logit_softcapping,
            "use_normalization_before_and_after": True,
        }
    elif architecture == "MistralForCausalLM" and config.sliding_window is not None:
        attention = {
            "use_local_attn": True,
            "window_size": config.sliding_window,
            "attn_types": ["local"] * config.num_hidden_layers,
        }
    return HookedTransformerConfig(
        model_name=str(config.name_or_path),
        original_architecture=architecture,
        init_weights=False,
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        d_mlp=config.intermediate_size,
        d_vocab=config.vocab_size,
        n_ctx=config.max_position_embeddings,
        n_heads=config.num_attention_heads,
        n_key_value_heads=config.num_key_value_heads if grouped else None,
        d_head=d_head,
        gated_mlp=True,
        act_fn=getattr(config, "hidden_activation", None) or config.hidden_act,
        normalization_type="RMS",
        final_rms=True,
        eps=config.rms_norm_eps,
        positional_embedding_type="rotary",
        rotary_base=rope["rope_theta"],
        rotary_dim=d_head,
        rotary_adjacent_pairs=False,
        default_prepend_bos=architecture != "Qwen2ForCausalLM",
        device=str(device),
        dtype=dtype,
        **attention,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Loading without the libraries' progress bars and notices of deprecation."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


# ── What a model is ──────────────────────────────────────────────────────────────────────────────────────────


def identity(model: Model) -> Identity:
    """Architecture, shape and hashes of samples of the weights."""
    unembedding = unembedding_of(model)
    cfg = model.cfg
    architecture = getattr(cfg, "architecture", None) or getattr(cfg, "original_architecture", None) or "unknown"
    return Identity(
        architecture=str(architecture),
        n_layers=int(cfg.n_layers),
        d_model=int(cfg.d_model),
        d_vocab=int(unembedding.shape[1]),
        unembedding=_hashed([unembedding], 65_536),
        blocks=_hashed((weight for block in model.blocks for weight in _weights(block)), 512),
        name=str(getattr(cfg, "model_name", "") or ""),
    )


def _weights(block: Any) -> Iterator[Tensor]:
    """Of the first head and of the MLP, what either class of model lays out alike."""
    for part, name in (("attn", "W_Q"), ("attn", "W_V"), ("attn", "W_O"), ("mlp", "W_out")):
        weight = getattr(getattr(block, part, None), name, None)
        if isinstance(weight, Tensor) and weight.ndim in (2, 3):
            yield weight[0] if weight.ndim == 3 else weight


def _hashed(weights: Iterable[Tensor], size: int) -> str:
    """Of about so many values of each, in bfloat16."""
    found = hashlib.sha256()
    for weight in weights:
        sample = weight.detach().flatten()
        sample = sample[:: max(1, len(sample) // size)].to("cpu", torch.bfloat16).view(torch.int16)
        found.update(sample.numpy().tobytes())
    return found.hexdigest()[:16]


def unembedding_of(model: Model) -> Float[Tensor, "d_model d_vocab"]:
    """The matrix that turns the last residual into logits, without the final norm."""
    return model.W_U


def device_of(model: Model) -> torch.device:
    return unembedding_of(model).device


def is_bundled(model: Model) -> bool:
    """Whether this is the model that ships with the package, however it was loaded."""
    shipped = organism.identity()
    return shipped is not None and identity(model).same_as(Identity(**shipped))


def shown_name(model: Model) -> str:
    """What to call it in what is kept and shown: a hub's name, or a folder's without where it lies."""
    name = identity(model).name
    if is_bundled(model):
        return "bundled"
    return Path(name).name if Path(name).exists() else name or "unnamed"


def is_folded(model: Model) -> bool:
    """Whether norms were folded into weights, which changes logit lens, norms and cosines but no reply.

    A bridge does not say so in its configuration, but its final norm has one gain for all then, or its unembedding is
    centred.
    """
    if str(getattr(model.cfg, "normalization_type", "")).endswith("Pre"):
        return True
    norm = getattr(model, "ln_final", None)
    gain = getattr(norm, "w", None) if getattr(norm, "w", None) is not None else getattr(norm, "weight", None)
    unembedding = unembedding_of(model).detach().float()
    centred = bool(unembedding.mean(-1).abs().max() < 1e-4 * unembedding.std())
    return centred or (isinstance(gain, Tensor) and bool((gain == gain.flatten()[0]).all()))


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
