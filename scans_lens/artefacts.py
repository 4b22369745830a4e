"""Artefacts: what was learned, on disk as safetensors with a JSON header, and refused when it does not fit."""

from __future__ import annotations

import dataclasses
import json
import os
import types
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from torch import Tensor

    from scans_lens.model import Identity, Model

FORMAT = 2
SITE = "blocks.{layer}.hook_resid_post"
EVERYWHERE = "every token of the prompt and of the reply"
FROM_THE_END = "from the last token of the prompt on: that token, and every token of the reply"
AS_STORED = "1 is the vector as stored, in units of the residual stream"

Kind = TypeVar("Kind")
Kept = TypeVar("Kept", bound="Artefact")


def within(window: int | None) -> str:
    """Positions from the end of the prompt on, of which there may be a number."""
    if window is None:
        return FROM_THE_END
    return "the last token of the prompt" + (f" and the first {window - 1} of the reply" if window > 1 else "")


def later(default: Any) -> Any:
    """A field that artefacts got later: a file from before, which lacks it, means the default."""
    return field(default=default, metadata={"later": True})


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
    about = _metadata(path)
    if about.get("kind") != kind:
        raise ValueError(f"{str(path)!r} holds no {kind}, but {about.get('kind', 'something of another program')}.")
    _require_format(path, about)
    try:
        header = json.loads(about.get("header", ""))
    except json.JSONDecodeError as error:
        raise ValueError(f"{str(path)!r} has a header that is missing or no JSON: {error}") from error
    if not isinstance(header, dict):
        raise ValueError(f"{str(path)!r} has a header that is a {type(header).__name__}, not an object of JSON.")
    return header


def require_ours(path: str | Path) -> None:
    """Refuse a file that `write` did not make, whatever it holds, without torch."""
    about = _metadata(path)
    if "kind" not in about:
        raise ValueError(f"{str(path)!r} holds nothing that `fit` has saved, but something of another program.")
    _require_format(path, about)


def _metadata(path: str | Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise ValueError(f"There is no file {str(path)!r}.")
    try:
        with safe_open(path, framework="np") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{str(path)!r} is no safetensors file, or it is cut short: {error}") from error


def _require_format(path: str | Path, about: Mapping[str, str]) -> None:
    if about.get("format") != str(FORMAT):
        raise ValueError(
            f"{str(path)!r} is in format {about.get('format')}, and this version reads format {FORMAT}: fit it again."
        )


# ── What is kept ─────────────────────────────────────────────────────────────────────────────────────────────


class Artefact:
    """A frozen dataclass that is kept in a file by what its annotations say; see `save` and `load`."""

    KIND: ClassVar[str]
    """What its file says it holds."""
    WHAT: ClassVar[str]
    """What it is, as the beginning of a sentence: "These SCANS vectors"."""
    trials: tuple[Any, ...]
    """What was tried in choosing it."""

    @property
    def measured_on(self) -> Identity | None:
        """The model that it fits, or None where that is not known."""
        raise NotImplementedError

    def uses(self) -> list[Use]:
        """What its tensors are for, for its file's header."""
        raise NotImplementedError

    def require_whole(self, owner: Identity | None) -> None:
        """Refuse parts that do not go together, with `require_layers` and its like.

        Args:
            owner: the model that it was measured on, or where that is not known, the one at hand.
        """

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with everything else in its header."""
        save(self, path)

    @classmethod
    def load(cls: type[Kept], path: str | Path, model: Model | None = None) -> Kept:
        """Read it back; with `model`, only if it was measured on that.

        Raises:
            ValueError: no such file, not safetensors, cut short, something else, or of another model.
        """
        return load(cls, path, model)


def save(learned: Artefact, path: str | Path) -> None:
    """Write a frozen dataclass to a safetensors file.

    A tensor is named by the way to its field, such as `directions.vectors`. Everything else stands in the header as
    JSON, under the same names, with the shapes of tensors in their places.
    """
    tensors: dict[str, Tensor] = {}
    write(path, learned.KIND, tensors, _flat("", type(learned), learned, tensors), learned.uses())


def load(kind: type[Kept], path: str | Path, model: Model | None = None) -> Kept:
    """Read back what `save` wrote; raises as `Artefact.load` does."""
    tensors, header = read(path, kind.KIND)
    file = _File(str(path), kind.KIND, tensors)
    found = file.made("", kind, {name: value for name, value in header.items() if name != "use"})
    if more := sorted(set(tensors) - file.named):
        raise ValueError(f"{file.path!r} should hold {', '.join(sorted(file.named))}, and holds {', '.join(more)} too.")
    owner = found.measured_on
    if model is not None:
        from scans_lens.model import identity

        require_same_model(owner, identity(model), kind.WHAT)
        owner = owner or identity(model)
    try:
        found.require_whole(owner)
    except ValueError as error:
        raise ValueError(f"{file.path!r} holds parts that do not go together: {error}") from error
    return found


def require_layers(name: str, layers: Collection[int], n: int) -> None:
    """Refuse layers that there are not."""
    if not all(0 <= layer < n for layer in layers):
        raise ValueError(f"the {name} are {list(layers)}, and there are layers 0 to {n - 1}.")


def require_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse a tensor of another shape."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} is of shape {tuple(tensor.shape)}, which should be {shape}.")


def require_layers_of(owner: Identity | None, name: str, tensor: Tensor) -> None:
    """Refuse a tensor of [… layer d_model] where the model has other layers."""
    if owner is not None and tuple(tensor.shape[-2:]) != (owner.n_layers, owner.d_model):
        raise ValueError(
            f"{name} is of shape {tuple(tensor.shape)}, and the model has {owner.n_layers} layers of width "
            f"{owner.d_model}."
        )


# ── A dataclass as JSON and tensors, and back ────────────────────────────────────────────────────────────────


def _flat(name: str, hint: Any, value: Any, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON has it; tensors go to `tensors`, and where they stood is their shape."""
    from torch import Tensor

    if isinstance(value, Tensor):
        tensors[name] = value
        return list(value.shape)
    if is_dataclass(value) and not isinstance(value, type):
        hints = get_type_hints(type(value))
        own = {
            field.name: _flat(_within(name, field.name), hints[field.name], getattr(value, field.name), tensors)
            for field in dataclasses.fields(value)
        }
        return {"kind": type(value).__name__, **own} if len(_kinds(hint)) > 1 else own
    if isinstance(value, tuple):
        parts = zip(_entries(hint, len(value)), value, strict=True)
        return [_flat(f"{name}.{place}", *part, tensors) for place, part in enumerate(parts)]
    return dict(value) if isinstance(value, Mapping) else value


@dataclass
class _File:
    """A file's tensors, and which of them were asked for; has a sentence for whatever is missing or of another sort."""

    path: str
    kind: str
    tensors: Mapping[str, Tensor]
    named: set[str] = field(default_factory=set)

    def made(self, name: str, kind: type[Kind], value: Mapping[str, Any]) -> Kind:
        """A dataclass of its fields."""
        hints = get_type_hints(kind)
        fields = dataclasses.fields(kind)  # type: ignore[arg-type]
        known = [one.name for one in fields]
        for one in fields:
            if (own := one.name) not in value and not one.metadata.get("later"):
                raise ValueError(f"{self.path!r} lacks {_within(name, own)!r}, a part of its {self.kind}.")
        for own in value:
            if own not in known:
                raise ValueError(
                    f"{self.path!r} has {_within(name, own)} of another version: fit it again with this one."
                )
        parts = {own: self._built(_within(name, own), hints[own], value[own]) for own in known if own in value}
        try:
            return kind(**parts)
        except ValueError as error:
            raise ValueError(f"{self.path!r} is no {self.kind} that can be read: {error}") from error

    def _built(self, name: str, hint: Any, value: Any) -> Any:
        """A value of JSON as the annotation has it: lists are tuples again, objects dataclasses, shapes tensors."""
        origin, args = get_origin(hint), get_args(hint)
        if hint is Any:
            return value
        if value is None and type(None) in args:
            return None
        if origin in (Union, types.UnionType):
            if len(kinds := _kinds(hint)) > 1:
                return self._one_of(name, kinds, value)
            (hint,) = (arg for arg in args if arg is not type(None))
            return self._built(name, hint, value)
        if origin is Literal and value in args:
            return value
        if origin is tuple and isinstance(value, list):
            hints = _entries(hint, len(value))
            if len(hints) == len(value):
                parts = zip(hints, value, strict=True)
                return tuple(self._built(f"{name}.{place}", *part) for place, part in enumerate(parts))
        if origin in (dict, Mapping) and isinstance(value, dict):
            return {key: self._built(f"{name}.{key}", args[1], entry) for key, entry in value.items()}
        if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, dict):
            return self.made(name, hint, value)
        if _is_tensor(hint) and isinstance(value, list):
            return self._tensor(name, value)
        if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return value
        if hint in (str, bool, int) and type(value) is hint:
            return value
        raise self._odd(name, value)

    def _one_of(self, name: str, kinds: Mapping[str, type], value: Any) -> Any:
        if not isinstance(value, dict) or value.get("kind") not in kinds:
            raise self._odd(name, value)
        return self.made(name, kinds[value["kind"]], {own: part for own, part in value.items() if own != "kind"})

    def _tensor(self, name: str, shape: list[Any]) -> Tensor:
        if name not in self.tensors:
            raise ValueError(f"{self.path!r} lacks {name!r}, a part of its {self.kind}.")
        self.named.add(name)
        found = self.tensors[name]
        if list(found.shape) != shape:
            raise ValueError(f"{self.path!r} holds {name} of shape {tuple(found.shape)}, which should be {shape}.")
        return found

    def _odd(self, name: str, value: Any) -> ValueError:
        text = json.dumps(value, ensure_ascii=False)
        text = text if len(text) <= 60 else text[:57] + "…"
        return ValueError(f"{self.path!r} is no {self.kind} that can be read: its {name!r} is {text}.")


def _within(name: str, field: str) -> str:
    return f"{name}.{field}" if name else field


def _kinds(hint: Any) -> dict[str, type]:
    """The dataclasses that an annotation allows, by name."""
    return {kind.__name__: kind for kind in get_args(hint) if isinstance(kind, type) and is_dataclass(kind)}


def _entries(hint: Any, n: int) -> list[Any]:
    """The annotations of a tuple's entries."""
    args = get_args(hint)
    return [args[0]] * n if args[-1] is Ellipsis else list(args)


def _is_tensor(hint: Any) -> bool:
    from jaxtyping import AbstractArray
    from torch import Tensor

    return isinstance(hint, type) and issubclass(hint, (Tensor, AbstractArray))


# ── Of which model ───────────────────────────────────────────────────────────────────────────────────────────


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
