"""GGUF: what a file of llama.cpp's format says of itself, and which files cannot become a chat model."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

MAGIC = b"GGUF"


@dataclass(frozen=True)
class Header:
    """What stands before the tensors of a GGUF file."""

    architecture: str
    """In llama.cpp's words: llama, qwen2, …"""
    quantisation: str
    """Q4_K_M, Q8_0, F16, …"""
    title: str
    licence: str
    template: str
    """The chat template; empty where there is none."""
    tokenizer: str
    """llama (sentence pieces) or gpt2 (byte pairs), …"""
    cuts: str
    """How a text is cut before byte pairs are merged, by llama.cpp's name."""
    embeds: bool
    """Whether it gives one vector a text and does not go on with it."""


def header(file: Path) -> Header:
    """The header of a file, read without its tensors.

    Raises:
        ValueError: it is no GGUF file, or one that ends before its header does.
    """
    return _header(file, contents_of(file).fields)


def _header(file: Path, fields: dict[str, Any]) -> Header:
    architecture = str(fields.get("general.architecture", ""))
    if not architecture:
        raise ValueError(f"The GGUF file {str(file)!r} does not name its architecture (general.architecture).")
    return Header(
        architecture=architecture,
        quantisation=_quantisation(fields.get("general.file_type")),
        title=str(fields.get("general.name", "")),
        licence=str(fields.get("general.license", "")),
        template=str(fields.get("tokenizer.chat_template", "")),
        tokenizer=str(fields.get("tokenizer.ggml.model", "")),
        cuts=str(fields.get("tokenizer.ggml.pre", "")),
        embeds=bool(fields.get(f"{architecture}.pooling_type")),
    )


@dataclass(frozen=True)
class Entry:
    """One tensor, as the table in front of all of them tells it."""

    shape: tuple[int, ...]
    kind: int
    begins: int
    """Bytes from the beginning of the file."""


@dataclass(frozen=True)
class Contents:
    """Settings and the table of tensors."""

    fields: dict[str, Any]
    """Of a list only its length."""
    tensors: dict[str, Entry]


_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9


def contents_of(file: Path) -> Contents:
    """Key-value pairs and the table of tensors (GGUF specification, versions 2 and 3)."""
    with file.open("rb") as stream:
        if stream.read(4) != MAGIC:
            raise ValueError(f"{str(file)!r} is no GGUF file: it does not begin with the letters GGUF.")

        def number(code: str) -> Any:
            wanted = struct.calcsize(code)
            found = stream.read(wanted)
            if len(found) < wanted:
                raise ValueError(f"The GGUF file {str(file)!r} was cut off: it ends within its header.")
            return struct.unpack(code, found)[0]

        def string() -> str:
            length = number("<Q")
            found = stream.read(length) if length < 1 << 30 else b""
            if len(found) < length:
                raise ValueError(f"The GGUF file {str(file)!r} was cut off: it ends within its header.")
            return found.decode("utf-8", errors="replace")

        def value(kind: int) -> Any:
            if kind == _STRING:
                return string()
            if kind != _ARRAY:
                return number(_NUMBERS[kind])
            inner, length = number("<I"), number("<Q")
            if inner in (_STRING, _ARRAY):
                for _ in range(length):
                    value(inner)
            else:
                stream.seek(struct.calcsize(_NUMBERS[inner]) * length, 1)
            return length

        version = number("<I")
        if version not in (2, 3):
            raise ValueError(f"The GGUF file {str(file)!r} is of version {version}; versions 2 and 3 can be read.")
        n_tensors, pairs = number("<Q"), number("<Q")
        try:
            fields = {string(): value(number("<I")) for _ in range(pairs)}
        except KeyError as error:
            raise ValueError(f"The GGUF file {str(file)!r} is damaged: no value has the type {error}.") from error
        table = {}
        for _ in range(n_tensors):
            name, axes = string(), number("<I")
            table[name] = tuple(number("<Q") for _ in range(axes)), number("<I"), number("<Q")
        step = int(fields.get("general.alignment", 32)) or 32
        data = -(-stream.tell() // step) * step
        return Contents(fields, {name: Entry(shape, kind, data + at) for name, (shape, kind, at) in table.items()})


def _quantisation(kind: Any) -> str:
    """llama.cpp's name for the mixture of types in a file."""
    if kind is None or find_spec("gguf") is None:
        return "of a type that it does not name"
    from gguf import LlamaFileType

    try:
        return LlamaFileType(kind).name.removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return f"type {kind}"


def require_readable(file: Path) -> Header:
    """Refuse what could not become a chat model, before anything slow.

    Raises:
        ValueError: no GGUF file or not a whole one, an embedding or a vision model's, one without a chat template, or
            the package gguf is not there.
    """
    contents = contents_of(file)
    found = _header(file, contents.fields)
    if find_spec("gguf") is None:
        raise ValueError(f"{file.name!r} is a GGUF file, and reading one needs the package gguf: pip install gguf.")
    if found.embeds:
        raise ValueError(
            f"The GGUF file {str(file)!r} is an embedding model ({found.architecture}), which does not go on with a "
            "text as a chat model does."
        )
    if found.architecture in ("clip", "mmproj"):
        raise ValueError(
            f"The GGUF file {str(file)!r} is the vision part of a model ({found.architecture}); name the file of its "
            "language part."
        )
    _require_whole(file, contents)
    if not found.template and not template_beside(file).is_file():
        raise ValueError(
            f"The GGUF file {str(file)!r} has no chat template, so there is no telling how prompts are put to it: "
            f"write one to {str(template_beside(file))!r} (Jinja, as in a tokenizer's chat_template)."
        )
    return found


def _require_whole(file: Path, contents: Contents) -> None:
    """Refuse a file without weights, a part of one, and one that ends before its last tensor does."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if (n_parts := int(contents.fields.get("split.count", 1))) > 1:
        raise ValueError(
            f"The GGUF file {str(file)!r} is one of {n_parts} parts: join them first, with llama.cpp's "
            "llama-gguf-split --merge."
        )
    if not contents.tensors:
        raise ValueError(f"The GGUF file {str(file)!r} holds no weights, only a vocabulary.")
    needed = 0
    for name, tensor in contents.tensors.items():
        try:
            values, size = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.kind)]
        except (ValueError, KeyError):
            raise ValueError(
                f"The GGUF file {str(file)!r} keeps {name} as type {tensor.kind}, which the package gguf does not know."
            ) from None
        needed = max(needed, tensor.begins + prod(tensor.shape) // values * size)
    if (there := file.stat().st_size) < needed:
        raise ValueError(f"The GGUF file {str(file)!r} was cut off: it has {there} bytes and should have {needed}.")


def template_beside(file: Path) -> Path:
    """Where the user may write a chat template for a file, instead of its own."""
    return file.with_suffix(".jinja")
