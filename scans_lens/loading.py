"""Loading: the front door. A chat model from a folder or a hub, with hooks, that is the one that transformers runs."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from scans_lens import agreement, organism, past, processes
from scans_lens.checkpoint import ADAPTER, CONFIG, architecture_of, lens, parts
from scans_lens.hooked import load_hooked
from scans_lens.models import unpacking
from scans_lens.models.located import located
from scans_lens.whole import told

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
        name: None for the bundled model, a folder in Hugging Face format, a hub name, a GGUF file, or the short name of
            a model that `python -m scans_lens models get` has brought.
        backend: "bridge" for a `TransformerBridge`; "hooked" for a `HookedTransformer` (TransformerLens 3 only;
            decoding through it takes nearly three times as long on a CPU).
        device: "cuda" where there is one, else "cpu"; among processes of one launch, each its own GPU. "auto" spreads
            a large model over all GPUs (a bridge only, and the package accelerate has to be there).
        dtype: bfloat16 on a GPU, float32 on a CPU, unless said otherwise.
        revision: of a hub model.

    Raises:
        ValueError: the model cannot be found or reached, or the backend is not there; weights are missing from its
            files; or with hooks it is not the model that transformers runs (see `scans_lens.agreement`).
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
    where = located(str(organism.weights() if name is None else name))
    if Path(where).exists() and not any(Path(where, name).is_file() for name in (CONFIG, ADAPTER)):
        raise ValueError(f"The folder {where!r} holds no model in Hugging Face format: it has no config.json.")
    if backend == "hooked":
        model = load_hooked(where, device, dtype, revision)
    else:
        model = _bridge(where, None if spread else device, dtype, revision)
    if (record := unpacking.record_in(where)) is not None:
        model.cfg.gguf, model.cfg.model_name = record, record["name"]
    return model


def _device(wanted: str | torch.device | None) -> torch.device:
    """The device that was asked for, once something has been put there."""
    if wanted is None:
        own = processes.device_number()
        wanted = "cpu" if not torch.cuda.is_available() else "cuda" if own is None else f"cuda:{own}"
    try:
        return torch.empty(1, device=wanted).device
    except (RuntimeError, AssertionError) as error:  # a name that is none, or hardware that is not there
        raise ValueError(f"The device {str(wanted)!r} cannot be used here: {str(error).splitlines()[0]}") from error


def _bridge(where: str, device: torch.device | None, dtype: torch.dtype, revision: str | None) -> Any:
    """A `TransformerBridge` around the Hugging Face module, on one device, or with None spread over all GPUs.

    Raises:
        ValueError: it cannot be loaded whole, or the bridge is not the model that transformers runs.
    """
    source, tokenizer = parts(where, device, dtype, revision)
    truth = agreement.truth(source, tokenizer)
    model = wrapped(source, tokenizer, where)
    remedy = "" if dtype == torch.float32 else f" That was in {str(dtype).removeprefix('torch.')}; try float32."
    agreement.require(model, truth, f"{type(source).__name__} as a bridge of TransformerLens {lens()}", remedy)
    return model


def wrapped(source: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, where: str) -> Any:
    """The bridge by itself: `boot_transformers` would change the tokenizer, and install packages for images."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module, detect_tokenizer_bos_eos
    from transformer_lens.utilities.multi_gpu import count_unique_devices, find_embedding_device

    config = copy.deepcopy(source.config)
    architecture = architecture_of(config)
    with told(f"TransformerLens {lens()} cannot put its hooks into this {type(source).__name__}"):
        bridge = build_bridge_from_module(source, architecture, hf_config=config, dtype=source.dtype, model_name=where)
    past.drop_hollow_parts(bridge.original_model)
    if (first := find_embedding_device(source)) is not None:
        bridge.cfg.device, bridge.cfg.n_devices = str(first), count_unique_devices(source)
    prepends, appends = detect_tokenizer_bos_eos(tokenizer)
    bridge.cfg.tokenizer_prepends_bos, bridge.cfg.tokenizer_appends_eos = prepends, appends
    bridge.tokenizer = tokenizer  # the first one stays as it is; TransformerLens would give it a BOS and a pad token
    return bridge.eval()
