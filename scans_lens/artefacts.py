"""Artefacts: what was learned, on disk as safetensors with a JSON header, and refused when it does not fit."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scans_lens.model import Identity

FORMAT = 1


def versions() -> dict[str, str]:
    """Of the libraries that numbers depend on."""
    found = {}
    for name in ("scans_lens", "transformer-lens", "transformers", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def write(path: str | Path, kind: str, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Save beside the final place first, so that an interrupted write leaves no half file."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(own, aside, metadata={"kind": kind, "format": str(FORMAT), "header": json.dumps(header)})
    except SafetensorError as error:
        raise OSError(f"{str(path)!r} cannot be written: {error}") from error
    os.replace(aside, path)


def read(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file that `write` made.

    Raises:
        ValueError: there is no such file, it is broken or not safetensors, or it holds something else.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {str(path)!r}.")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{str(path)!r} is no safetensors file, or it is cut short: {error}") from error
    if about.get("kind") != kind:
        raise ValueError(f"{str(path)!r} holds no {kind}, but {about.get('kind', 'something of another program')}.")
    if about.get("format") != str(FORMAT):
        raise ValueError(f"{str(path)!r} is in format {about.get('format')}; this version reads format {FORMAT}.")
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values() if tensor.is_floating_point()):
        raise ValueError(f"{str(path)!r} holds numbers that are not finite.")
    return tensors, json.loads(about["header"])


def require_parts(path: str | Path, tensors: Mapping[str, Tensor], names: Collection[str]) -> None:
    """Refuse a file that lacks tensors or has others."""
    if set(tensors) != set(names):
        raise ValueError(
            f"{str(path)!r} should hold {', '.join(sorted(names))}, and holds {', '.join(sorted(tensors))}."
        )


def require_same_model(found: Identity | None, model_identity: Identity, what: str) -> None:
    """Refuse what was measured on another model, saying which."""
    if found is None:
        return
    if found.n_layers != model_identity.n_layers or found.d_model != model_identity.d_model:
        raise ValueError(
            f"{what} were measured on another model ({found.name or 'unnamed'}), with {found.n_layers} layers of width "
            f"{found.d_model}; this one has {model_identity.n_layers} layers of width {model_identity.d_model}."
        )
    if not found.same_as(model_identity):
        raise ValueError(
            f"{what} were measured on another model ({found.name or found.architecture}, unembedding "
            f"{found.unembedding}) than this one ({model_identity.name or model_identity.architecture}, "
            f"unembedding {model_identity.unembedding})."
        )
