"""Artefacts: what was learned, on disk as safetensors with a JSON header, and refused when it does not fit."""

from __future__ import annotations

import dataclasses
import json
import os
import types
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from torch import Tensor

    from scans_lens.model import Identity

FORMAT = 1
SITE = "blocks.{layer}.hook_resid_post"
EVERYWHERE = "every token of the prompt and of the reply"
FROM_THE_END = "from the last token of the prompt on: that token, and every token of the reply"
AS_STORED = "1 is the vector as stored, in units of the residual stream"

Kind = TypeVar("Kind")


def versions() -> dict[str, str]:
    """Of the libraries that numbers depend on."""
    found = {}
    for name in ("scans_lens", "transformer-lens", "transformers", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@dataclass(frozen=True)
class Use:
    """One thing that a file's tensors are for, so that another program can do it without reading our code.

    A header has a list of these under `use`, in the order in which they are done.
    """

    operation: str
    """"add", "take out" or "unembed" act on a model; "read" only looks, and what it finds others use by its name."""
    site: str
    """A hook point in TransformerLens' words; `{layer}` stands for each of the layers."""
    positions: str
    """Of which tokens."""
    layers: tuple[int, ...]
    unit: str
    """What 1 of the scale, or of what is read, means."""
    formula: str
    """Of the tensors and fields of this file by their names, and x, what is at the site."""


def write(
    path: str | Path, kind: str, tensors: dict[str, Tensor], header: dict[str, Any], use: Collection[Use] = ()
) -> None:
    """Save beside the final place first, so that an interrupted write leaves no half file."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    about = json.dumps(header | ({"use": [asdict(one) for one in use]} if use else {}))
    try:
        save_file(own, aside, metadata={"kind": kind, "format": str(FORMAT), "header": about})
    except SafetensorError as error:
        aside.unlink(missing_ok=True)
        raise OSError(f"{str(path)!r} cannot be written: {error}") from error
    os.replace(aside, path)


def read(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file that `write` made.

    Raises:
        ValueError: there is no such file, it is broken or not safetensors, or it holds something else.
    """
    header = header_of(path, kind)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{str(path)!r} is no safetensors file, or it is cut short: {error}") from error
    if not all(tensor.isfinite().all() for tensor in tensors.values() if tensor.is_floating_point()):
        raise ValueError(f"{str(path)!r} holds numbers that are not finite.")
    return tensors, header


def header_of(path: str | Path, kind: str) -> dict[str, Any]:
    """The header of a file that `write` made, without its tensors and without torch; raises as `read` does."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {str(path)!r}.")
    try:
        with safe_open(path, framework="np") as file:
            about = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{str(path)!r} is no safetensors file, or it is cut short: {error}") from error
    if about.get("kind") != kind:
        raise ValueError(f"{str(path)!r} holds no {kind}, but {about.get('kind', 'something of another program')}.")
    if about.get("format") != str(FORMAT):
        raise ValueError(f"{str(path)!r} is in format {about.get('format')}; this version reads format {FORMAT}.")
    try:
        header = json.loads(about.get("header", ""))
    except json.JSONDecodeError as error:
        raise ValueError(f"{str(path)!r} has a header that is missing or no JSON: {error}") from error
    if not isinstance(header, dict):
        raise ValueError(f"{str(path)!r} has a header that is a {type(header).__name__}, not an object of JSON.")
    return header


# ── Taking a file apart ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Kept:
    """A file's tensors and header, taken apart with a sentence for whatever is missing or of another sort."""

    path: str
    kind: str
    tensors: Mapping[str, Tensor]
    header: Mapping[str, Any]

    @classmethod
    def read(cls, path: str | Path, kind: str) -> Kept:
        """Raises ValueError as `read` does."""
        return cls(str(path), kind, *read(path, kind))

    def tensor(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise ValueError(self._lacks(name))
        return self.tensors[name]

    def value(self, name: str, hint: Any) -> Any:
        """A field of the header, if it is what this annotation says: lists are tuples again, objects dataclasses."""
        if name not in self.header:
            raise ValueError(self._lacks(name))
        return self.built(name, hint, self.header[name])

    def fields(self, kind: type, *names: str) -> dict[str, Any]:
        """Fields of the header as the dataclass of that kind annotates them."""
        hints = get_type_hints(kind)
        return {name: self.value(name, hints[name]) for name in names}

    def require_layers(self, name: str, layers: Collection[int], n: int) -> None:
        """Refuse layers that there are not."""
        if not all(0 <= layer < n for layer in layers):
            raise ValueError(f"{self.path!r} has {name} {list(layers)}, and its vectors have layers 0 to {n - 1}.")

    def require_shape(self, name: str, shape: tuple[int, ...]) -> None:
        if tuple(self.tensor(name).shape) != shape:
            raise ValueError(
                f"{self.path!r} holds {name} of shape {tuple(self.tensor(name).shape)}, which should be {shape}."
            )

    def _lacks(self, name: str) -> str:
        return f"{self.path!r} lacks a part of a {self.kind}: {name!r}."

    def built(self, name: str, hint: Any, value: Any) -> Any:
        """A value of JSON as the annotation has it.

        Raises:
            ValueError: it is of another sort, or an object with other fields.
        """
        origin, args = get_origin(hint), get_args(hint)
        if hint is Any:
            return value
        if origin in (Union, types.UnionType):
            if value is None and type(None) in args:
                return None
            (hint,) = (arg for arg in args if arg is not type(None))
            return self.built(name, hint, value)
        if origin is Literal and value in args:
            return value
        if origin is tuple and isinstance(value, list):
            own = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
            if len(own) == len(value):
                return tuple(
                    self.built(f"{name}[{place}]", one, entry)
                    for place, (one, entry) in enumerate(zip(own, value, strict=True))
                )
        if origin in (dict, Mapping) and isinstance(value, dict):
            return {key: self.built(f"{name}.{key}", args[1], entry) for key, entry in value.items()}
        if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, dict):
            return self._object(name, hint, value)
        if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return value
        if hint in (str, bool, int) and type(value) is hint:
            return value
        raise ValueError(f"{self.path!r} is no {self.kind} that can be read: its {name!r} is {_brief(value)}.")

    def _object(self, name: str, kind: type[Kind], value: Mapping[str, Any]) -> Kind:
        hints = get_type_hints(kind)
        known = [one.name for one in dataclasses.fields(kind)]  # type: ignore[arg-type]
        for field in known:
            if field not in value:
                raise ValueError(self._lacks(f"{name}.{field}"))
        for field in value:
            if field not in known:
                raise ValueError(f"{self.path!r} has {name}.{field} of another version: fit it again with this one.")
        return kind(**{field: self.built(f"{name}.{field}", hints[field], value[field]) for field in known})


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


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
