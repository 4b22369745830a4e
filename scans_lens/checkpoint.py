"""Checkpoint: model and tokenizer from their files as transformers loads them, whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from scans_lens.models import unpacking
from scans_lens.models.located import perhaps
from scans_lens.whole import quiet, require_whole, some, told

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

CONFIG, ADAPTER = "config.json", "adapter_config.json"
"""What says that a folder holds a model, or an adapter of one."""


def parts(
    where: str, device: torch.device | None, dtype: torch.dtype, revision: str | None = None, *, offline: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer as transformers loads them (see `hugging_face` and `tokenizer_of`), what is quick first."""
    _config(where, revision, offline)
    tokenizer = tokenizer_of(where, revision, offline=offline)
    return hugging_face(where, device, dtype, revision, offline=offline), tokenizer


def tokenizer_of(where: str, revision: str | None = None, *, offline: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer, untouched; an adapter without one has its base's.

    Raises:
        ValueError: there is none.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder = Path(where)
    base = _parts(where)[0]
    if base != where and not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        where = base
    # By the class that goes with Qwen2, transformers would cut every text as Qwen2 does, whatever the GGUF file said
    of_pairs = (unpacking.record_in(where) or {}).get("header", {}).get("tokenizer") == "gpt2"
    kind: Any = PreTrainedTokenizerFast if of_pairs else AutoTokenizer
    with quiet(), told(f"The model {where!r} has no tokenizer that can be loaded"):
        tokenizer = kind.from_pretrained(where, revision=revision, local_files_only=offline, trust_remote_code=False)
    files = tokenizer.vocab_files_names.values()
    if Path(where).is_dir() and not any((Path(where) / name).is_file() for name in (*files, "tokenizer.json")):
        raise ValueError(  # transformers then makes an empty one
            f"The folder {where!r} holds a model without a tokenizer: put its {' or '.join(sorted(set(files)))} there."
        )
    return tokenizer


def hugging_face(
    where: str,
    device: torch.device | None,
    dtype: torch.dtype,
    revision: str | None = None,
    *,
    offline: bool = False,
) -> PreTrainedModel:
    """The model as transformers loads it, with its adapter, and with every weight from its files.

    Args:
        where: a folder or a hub's name, of a model or of an adapter.
        device: None spreads it over all GPUs.
        dtype: of the weights.
        revision: of a hub's model.
        offline: whether only what is on this machine will do.

    Raises:
        ValueError: weights are missing, left over or of another shape; or it is no model that goes on with a text.
    """
    base, adapter = _parts(where)
    kind, config = _class_for(_config(where, revision, offline), base)
    how: dict[str, Any] = {
        "revision": revision if base == where else None,
        "local_files_only": offline,
        "trust_remote_code": False,
    }
    if device is None:
        how["device_map"] = "auto"
    elif getattr(config, "quantization_config", None) is not None:
        how["device_map"] = {"": str(device)}  # packed weights are put there once and do not move
    narrow = _narrow(base, dtype) if device is not None and adapter is None else None
    with quiet(), told(_cannot(base)), _without_adapter(base, adapter) as folder:
        source, info = kind.from_pretrained(
            folder, config=config, dtype=narrow or dtype, attn_implementation="eager", output_loading_info=True, **how
        )
        if narrow is not None and not _widened(source, dtype):
            source, info = kind.from_pretrained(
                folder, config=config, dtype=dtype, attn_implementation="eager", output_loading_info=True, **how
            )
    require_whole(source, info, base)
    if adapter is not None:
        with quiet(), told(f"The adapter {adapter!r} does not fit on {base!r}"):
            added = source.load_adapter(adapter)
        if added.missing_keys:
            raise ValueError(f"The adapter {adapter!r} does not hold all of itself: {some(added.missing_keys)}.")
    source.config._name_or_path = source.name_or_path = where
    if "device_map" not in how:
        source = source.to(device)  # type: ignore[arg-type]
    _require_placed(source)
    return source.eval()


def _narrow(where: str, dtype: torch.dtype) -> torch.dtype | None:
    """The precision of all weights of a folder, where it is a half one and float32 is wanted; else None."""
    from safetensors import safe_open

    files = sorted(Path(where).glob("*.safetensors"))
    kinds = set()
    for file in files if dtype == torch.float32 else ():
        with told(_cannot(where)), safe_open(file, "pt") as weights:
            kinds |= {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
    return {("BF16",): torch.bfloat16, ("F16",): torch.float16}.get(tuple(kinds))


def _widened(source: PreTrainedModel, dtype: torch.dtype) -> bool:
    """Make each weight of a model wider where it stands, so that it is never there twice as a whole.

    While transformers widens weights it maps all files, which takes half as much memory again. Where a table was
    computed in the half precision of the weights, nothing is done: it would be less exact.
    """
    weights, tables = list(source.parameters()), [own for own in source.buffers() if own.is_floating_point()]
    if len({own.dtype for own in weights}) > 1 or any(own.dtype == weights[0].dtype for own in tables):
        return False
    for weight in weights:
        weight.data = weight.data.to(dtype)
    source.config.dtype = dtype
    return True


def _config(where: str, revision: str | None, offline: bool) -> PreTrainedConfig:
    """The configuration of a model, or of an adapter's base, whose files are there as far as can be told."""
    from transformers import AutoConfig

    base = _parts(where)[0]
    with quiet(), told(_cannot(base)):
        config = AutoConfig.from_pretrained(
            base, revision=revision if base == where else None, local_files_only=offline, trust_remote_code=False
        )
    architecture_of(config)
    _require_files(base)
    return config


def _class_for(config: PreTrainedConfig, where: str) -> tuple[Any, PreTrainedConfig]:
    """The class that goes on with a text, and the configuration it wants (of a composite model perhaps the text's)."""
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_config_from_hf
    from transformer_lens.model_bridge.sources.transformers import get_hf_model_class_for_architecture
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    architecture = architecture_of(config)
    kind = get_hf_model_class_for_architecture(architecture)
    if kind not in (AutoModelForCausalLM, AutoModelForImageTextToText):
        raise ValueError(f"{where!r} is a {architecture}, which does not go on with a text as a chat model does.")
    wanted: dict[str, Any] = {"config": config}
    with told(f"TransformerLens {lens()} cannot read the configuration of {where!r}"):
        of_bridge = build_bridge_config_from_hf(config, architecture, where, torch.float32)
        ArchitectureAdapterFactory.select_architecture_adapter(of_bridge).prepare_loading(where, wanted)
    return kind, wanted["config"]


def architecture_of(config: PreTrainedConfig) -> str:
    from transformer_lens.model_bridge.sources.transformers import determine_architecture_from_hf_config

    try:
        return determine_architecture_from_hf_config(config)
    except ValueError:
        own = (config.architectures or [config.model_type])[0]
        raise ValueError(f"TransformerLens {lens()} has no bridge for the architecture {own}.") from None


# ── Whether it is all there ──────────────────────────────────────────────────────────────────────────────────


def _require_files(where: str) -> None:
    """Refuse a folder whose only weights are a GGUF file, naming it."""
    files = [file.name for file in Path(where).iterdir()] if Path(where).is_dir() else []
    packed = sorted(name for name in files if name.endswith(".gguf"))
    if packed and not any(name.endswith((".safetensors", ".bin")) for name in files):
        raise ValueError(
            f"The folder {where!r} holds its weights only as a GGUF file: name the file itself, "
            f"{str(Path(where) / packed[0])!r}."
        )


def _require_placed(source: PreTrainedModel) -> None:
    """Refuse weights that stayed on the disk, or in memory beside a GPU: hooks would not find them."""
    places = {str(place) for place in (getattr(source, "hf_device_map", None) or {}).values()}
    if places & {"disk", "meta"} or ("cpu" in places and len(places) > 1):
        raise ValueError(
            "This model does not fit on the GPUs that are here, and part of it would stay in memory or on the disk, "
            "where hooks do not reach it; use a smaller one, a lower precision, or device='cpu'."
        )


# ── Adapters ─────────────────────────────────────────────────────────────────────────────────────────────────


def _parts(where: str) -> tuple[str, str | None]:
    """The model and the adapter that a folder stands for: its own or, of an adapter alone, the base it was made for.

    Raises:
        ValueError: the base is not named, or the package peft is not there.
    """
    if not Path(where, ADAPTER).is_file():
        return where, None
    try:
        about = json.loads(Path(where, ADAPTER).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"The adapter {where!r} cannot be read: its {ADAPTER} is no JSON ({error}).") from error
    kind, wanted = str(about.get("peft_type", "PEFT")), about.get("base_model_name_or_path")
    whole = Path(where, CONFIG).is_file()
    what = (
        f"holds a {kind} adapter beside its model"
        if whole
        else f"is a {kind} adapter of {wanted or 'an unnamed model'}"
    )
    if find_spec("peft") is None:
        raise ValueError(
            f"The folder {where!r} {what}, and an adapter needs the package peft: pip install peft"
            + (f", or move {ADAPTER} away to load the model without it." if whole else ".")
        )
    if whole:
        return where, where
    if not wanted:
        raise ValueError(f"The folder {where!r} is a {kind} adapter that does not say of which model; merge it first.")
    if os.path.isabs(str(wanted)) and not Path(wanted, CONFIG).is_file():
        raise ValueError(
            f"The folder {where!r} {what}, and there is no model in that folder; put it there, or set "
            f"base_model_name_or_path in {ADAPTER}."
        )
    return str(wanted), where


@contextmanager
def _without_adapter(where: str, adapter: str | None) -> Iterator[str]:
    """The folder of a model without the adapter beside it, whose report would replace the model's own."""
    if adapter != where:
        yield where
        return
    with tempfile.TemporaryDirectory() as alone:
        for file in Path(where).iterdir():
            if not file.name.startswith("adapter_"):
                Path(alone, file.name).symlink_to(file.resolve())
        yield alone


# ── What is said ─────────────────────────────────────────────────────────────────────────────────────────────


def _cannot(where: str) -> str:
    if Path(where).exists():
        return f"Cannot load the model in the folder {where!r}"
    return (
        f"Cannot load the model {where!r}: it is no folder here, and the hub does not give it "
        f"(wrong name, no network, or a gated model without HF_TOKEN){perhaps(where)}"
    )


def lens() -> str:
    return version("transformer-lens")
