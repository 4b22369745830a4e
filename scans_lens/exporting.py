"""Exporting: a push as other programs read it: llama.cpp's control vectors, which repeng reads, too."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from scans_lens.steering import Method, Push

Way = Literal["away", "towards"]
WAYS: tuple[str, ...] = get_args(Way)


def push_of(method: Method, way: Way) -> Push:
    """What a method adds when it pushes a prompt away from refusal or towards it, whatever it would decide.

    Raises:
        ValueError: it does not add one vector a layer; or no such way.
    """
    if way not in WAYS:
        raise ValueError(f"A push is {' or '.join(WAYS)}, and not {way!r}.")
    push = method.push
    if push is None:
        raise ValueError(f"{type(method).__name__} does not add one vector a layer, so no control vector can be made.")
    size = abs(push.scale)
    return Push(push.directions, push.layers, size if way == "towards" else -size, push.whole_prompt, push.window)


def control_vector(method: Method, path: str | Path, way: Way = "away") -> Path:
    """Write a GGUF file that llama.cpp (`--control-vector`) and repeng (`ControlVector.import_gguf`) read.

    At scale 1 it adds what the method adds: `direction.N` is the push behind block N, at `blocks.N.hook_resid_post`.
    Those programs push every prompt alike and every token, the prompt's included; a method that decides by prompt, or
    pushes one token, does less.

    Args:
        method: one that adds a vector a layer: SCANS, the gated push, a constant push.
        way: away from refusal or towards it.

    Raises:
        ValueError: it adds no such vectors, or behind block 0, where these files have no place; or the package gguf is
            not there.
    """
    push = push_of(method, way)
    if 0 in push.layers:
        raise ValueError("A control vector has no place for a push behind block 0: fit with other layers.")
    try:
        from gguf import GGUFWriter
    except ImportError:
        raise ValueError("Writing a GGUF file needs the package gguf: pip install gguf.") from None
    origin, path = push.directions.origin, Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    writer = GGUFWriter(aside, "controlvector")
    if origin.model is not None:
        writer.add_string("controlvector.model_hint", _hint(origin.model.architecture))
        writer.add_string("scans_lens.unembedding", origin.model.unembedding)
    writer.add_uint32("controlvector.layer_count", len(push.layers))
    writer.add_string("general.name", f"{type(method).__name__}, {way} refusal")
    writer.add_string("general.description", f"Learned from {origin.contrast!r}{origin.on}, with scans_lens.")
    for layer in push.layers:
        writer.add_tensor(f"direction.{layer}", (push.scale * push.directions.vectors[layer]).float().cpu().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    aside.replace(path)
    return path


def _hint(architecture: str) -> str:
    """As llama.cpp would call the model; it shows that and asks nothing of it."""
    return architecture.removesuffix("ForCausalLM").lower()
