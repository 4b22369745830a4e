"""GGUF: what a file of llama.cpp's format says of itself, and the folder in Hugging Face format that is made of it.

The weights are unpacked by transformers' own reader, once, and kept in bfloat16, which rounds each of them by at most
one part in 512.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from scans_lens.models import home
from scans_lens.models.known import KNOWN, of_digest

MAGIC = b"GGUF"
RECORD = "scans_lens.json"
"""What says of a folder that it was made of a GGUF file, and of which."""
FORMAT = 1
PLAIN = ("gpt-2", "phi-2", "olmo", "mpt", "jais", "trillion")
"""Ways to cut a text before byte pairs are merged that are GPT-2's own, by llama.cpp's names (its llama-vocab.cpp)."""
DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
"""Those that first part every digit from what stands beside it."""


# ── What a file says of itself ───────────────────────────────────────────────────────────────────────────────


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
    fields = _fields(file)
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
        embeds=f"{architecture}.pooling_type" in fields,
    )


_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9


def _fields(file: Path) -> dict[str, Any]:
    """Key-value pairs; of a list only its length (GGUF specification, versions 2 and 3)."""
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
        _, pairs = number("<Q"), number("<Q")
        try:
            return {string(): value(number("<I")) for _ in range(pairs)}
        except KeyError as error:
            raise ValueError(f"The GGUF file {str(file)!r} is damaged: no value has the type {error}.") from error


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
        ValueError: no GGUF file, an embedding or a vision model's, one without a chat template, or the package gguf is
            not there.
    """
    found = header(file)
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
    if not found.template and not _template_beside(file).is_file():
        raise ValueError(
            f"The GGUF file {str(file)!r} has no chat template, so there is no telling how prompts are put to it: "
            f"write one to {str(_template_beside(file))!r} (Jinja, as in a tokenizer's chat_template)."
        )
    return found


def _template_beside(file: Path) -> Path:
    return file.with_suffix(".jinja")


# ── The folder that is made of it ────────────────────────────────────────────────────────────────────────────


def folder_of(file: Path) -> Path:
    """The folder in Hugging Face format for a GGUF file, made now if it was not made before.

    Raises:
        ValueError: the file cannot be read whole, or transformers does not know its architecture.
    """
    about = require_readable(file)
    digest = digest_of(file)
    beside = _template_beside(file)
    template = beside.read_text(encoding="utf-8") if beside.is_file() else about.template
    folder = _place(file, digest, about, template)
    with home.alone(folder):
        if (folder / RECORD).is_file():
            return folder
        home.say(f"Unpacking {file.name} ({about.quantisation}) into {str(folder)!r}, once; this takes a minute or so.")
        _require_whole(file)
        home.require_room(home.made(folder.parent), 8 * file.stat().st_size, f"Unpacking {file.name!r}")
        with home.aside(folder) as new:
            _convert(file, about, digest, template, new)
    return folder


def _place(file: Path, digest: str, about: Header, template: str) -> Path:
    """By the model's short name or the file's, and by what is in it."""
    known = of_digest(digest)
    stem = known.name if known else file.stem
    key = digest[:12]
    if template != about.template:
        key += "-" + hashlib.sha256(template.encode()).hexdigest()[:6]
    return home.home() / "models" / f"{stem}-{key}"


def kept_folder(name: str) -> Path | None:
    """Where a known model lies unpacked, if it does."""
    folder = home.home() / "models" / f"{name}-{KNOWN[name].sha256[:12]}"
    return folder if (folder / RECORD).is_file() else None


def record_in(where: str) -> dict[str, str] | None:
    """What a folder that was made of a GGUF file says of it; None of any other."""
    try:
        return json.loads(Path(where, RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def digest_of(file: Path) -> str:
    """SHA-256 of a file, remembered while its size and its time stay as they are."""
    there = file.resolve().stat()
    return _digest(str(file.resolve()), there.st_size, there.st_mtime_ns)


@lru_cache
def _digest(place: str, size: int, time: int) -> str:
    seen = home.home() / "digests.json"
    key = f"{place}|{size}|{time}"
    try:
        kept = json.loads(seen.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        kept = {}
    if key not in kept:
        with open(place, "rb") as stream:
            kept[key] = hashlib.file_digest(stream, "sha256").hexdigest()
        draft = seen.with_suffix(".new")
        home.made(seen.parent)
        draft.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        draft.replace(seen)
    return kept[key]


def _require_whole(file: Path) -> None:
    """Refuse a file that ends before its last tensor does."""
    from gguf import GGUFReader

    try:
        tensors = GGUFReader(file).tensors
    except Exception as error:  # the reader of a file that was cut fails in numpy, in one of several ways
        raise ValueError(
            f"The GGUF file {str(file)!r} was cut off or damaged: its tensors cannot all be read."
        ) from error
    if not tensors:
        raise ValueError(f"The GGUF file {str(file)!r} holds no weights, only a vocabulary.")


def _convert(file: Path, about: Header, digest: str, template: str, folder: Path) -> None:
    """Write model, tokenizer and record.

    Raises:
        ValueError: transformers cannot read it, or weights are missing.
    """
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from scans_lens.checkpoint import quiet, require_whole, told

    where, known = str(file.resolve().parent), of_digest(digest)
    cannot = f"transformers {transformers.__version__} cannot read the GGUF file {str(file)!r} ({about.architecture})"
    with quiet(), told(cannot):
        tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=file.resolve().name)
    _cut(tokenizer, about, file)
    tokenizer.chat_template = template
    with quiet(), told(cannot):
        model, info = AutoModelForCausalLM.from_pretrained(
            where,
            gguf_file=file.resolve().name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
            output_loading_info=True,
        )
    require_whole(model, info, str(file))
    record = {
        "sha256": digest,
        "file": known.hub.file if known else file.name,
        "name": known.name if known else file.stem,
        "weights": f"{about.quantisation}, dequantised",
        "architecture": about.architecture,
        "licence": known.licence if known else about.licence,
    }
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.config._name_or_path = record["name"]
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    made_with = {"transformers": transformers.__version__, "format": FORMAT}
    about_file = {**record, "header": {**asdict(about), "template": "in chat_template.jinja"}, "made_with": made_with}
    if known:
        about_file["origin"] = {"weights": known.publisher, "hub": asdict(known.hub)}
        beside = file.parent / "LICENSE"
        if beside.is_file():
            shutil.copyfile(beside, folder / "LICENSE")
    (folder / RECORD).write_text(json.dumps(about_file, indent=1) + "\n", encoding="utf-8")


def _cut(tokenizer: Any, about: Header, file: Path) -> None:
    """Let byte pairs be merged within the pieces that the file names; transformers takes GPT-2's where it knows none.

    Raises:
        ValueError: neither of us knows the pieces, so that tokens might be others than the model was trained on.
    """
    from tokenizers import pre_tokenizers
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    if about.tokenizer != "gpt2" or about.cuts in (*PLAIN, *GGUF_PRE_TOKENIZER_SPLITS):
        return
    if about.cuts not in DIGITS:
        how = f"in the way {about.cuts!r}, which is not known here" if about.cuts else "in a way that it does not name"
        raise ValueError(
            f"The GGUF file {str(file)!r} cuts texts {how}, before byte pairs are merged, so that its tokens might be "
            "wrong: use the model in Hugging Face format."
        )
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
