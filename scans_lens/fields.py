"""Fields: a frozen dataclass as JSON and tensors, and back from them by what its annotations say."""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from torch import Tensor

Kind = TypeVar("Kind")


def later(default: Any) -> Any:
    """A field that artefacts got later: a file from before, which lacks it, means the default."""
    return field(default=default, metadata={"later": True})


def flat(name: str, hint: Any, value: Any, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON has it; tensors go to `tensors`, and where they stood is their shape."""
    from torch import Tensor

    if isinstance(value, Tensor):
        tensors[name] = value
        return list(value.shape)
    if is_dataclass(value) and not isinstance(value, type):
        hints = get_type_hints(type(value))
        own = {
            field.name: flat(_within(name, field.name), hints[field.name], getattr(value, field.name), tensors)
            for field in dataclasses.fields(value)
        }
        return {"kind": type(value).__name__, **own} if len(_kinds(hint)) > 1 else own
    if isinstance(value, tuple):
        parts = zip(_entries(hint, len(value)), value, strict=True)
        return [flat(f"{name}.{place}", *part, tensors) for place, part in enumerate(parts)]
    return dict(value) if isinstance(value, Mapping) else value


@dataclass
class File:
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
