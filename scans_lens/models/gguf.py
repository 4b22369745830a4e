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
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scans_lens.models import home
from scans_lens.models.known import KNOWN, of_digest

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

MAGIC = b"GGUF"
RECORD = "scans_lens.json"
"""What says of a folder that it was made of a GGUF file, and of which."""
FORMAT = 2
"""Of such a folder: one that was made otherwise is made anew."""
MARGIN = 64 << 20
"""Bytes for what lies beside the weights: a large vocabulary twice over."""
PLAIN = ("gpt-2", "phi-2", "olmo", "mpt", "jais", "trillion")
"""Ways to cut a text before byte pairs are merged that are GPT-2's own, by llama.cpp's names (its llama-vocab.cpp)."""
DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
"""Those that first part every digit from what stands beside it."""
WHOLE_WORDS = ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "tekken")
"""Those that take a piece whole where it is a token, whether merges make it or not (`ignore_merges` there)."""
COMPOSED = ("qwen2", "qwen35")
"""Those of models whose tokenizer.json first composes letters and their accents (NFC)."""
SLOWED = ("rope_freqs.", "rope_factors_long.", "rope_factors_short.")
"""Tensors that are no weights: by how much each rotary frequency is slowed down."""


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
    return _header(file, _contents(file).fields)


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
class _Tensor:
    shape: tuple[int, ...]
    kind: int
    begins: int
    """Bytes from the beginning of the file."""


@dataclass(frozen=True)
class _Contents:
    fields: dict[str, Any]
    """Of a list only its length."""
    tensors: dict[str, _Tensor]


_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9


def _contents(file: Path) -> _Contents:
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
        return _Contents(fields, {name: _Tensor(shape, kind, data + at) for name, (shape, kind, at) in table.items()})


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
    contents = _contents(file)
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
    if not found.template and not _template_beside(file).is_file():
        raise ValueError(
            f"The GGUF file {str(file)!r} has no chat template, so there is no telling how prompts are put to it: "
            f"write one to {str(_template_beside(file))!r} (Jinja, as in a tokenizer's chat_template)."
        )
    return found


def _require_whole(file: Path, contents: _Contents) -> None:
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
        if _is_made(folder):
            return folder
        n_values = sum(prod(tensor.shape) for tensor in _contents(file).tensors.values())
        home.require_room(home.made(folder.parent), 2 * n_values + MARGIN, f"Unpacking {file.name!r}")
        shutil.rmtree(folder, ignore_errors=True)
        home.say(f"Unpacking {file.name} ({about.quantisation}) into {str(folder)!r}, once; this takes a minute or so.")
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
    return folder if _is_made(folder) else None


def _is_made(folder: Path) -> bool:
    return (record_in(str(folder)) or {}).get("made_with", {}).get("format") == FORMAT


def record_in(where: str) -> dict[str, Any] | None:
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


def _convert(file: Path, about: Header, digest: str, template: str, folder: Path) -> None:
    """Write model, tokenizer and record.

    Raises:
        ValueError: transformers cannot read it, weights are missing or left over, or positions are told in a way that
            is not known here.
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
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            where,
            gguf_file=file.resolve().name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
            output_loading_info=True,
        )
    model, info = loaded
    require_whole(model, info, str(file))
    contents = _contents(file)
    _require_placed(model, file, contents)
    model.config.rope_parameters = _rotary(model.config, file, about, contents)
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
    from tokenizers import normalizers, pre_tokenizers
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    if about.tokenizer == "gpt2" and about.cuts in WHOLE_WORDS:
        tokenizer.backend_tokenizer.model.ignore_merges = True
    if about.tokenizer == "gpt2" and about.cuts in COMPOSED:
        tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    if about.tokenizer != "gpt2" or about.cuts in GGUF_PRE_TOKENIZER_SPLITS:
        return
    if about.cuts in PLAIN:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
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


def _require_placed(model: PreTrainedModel, file: Path, contents: _Contents) -> None:
    """Refuse a file of which transformers leaves weights out: it passes over names that it does not know.

    Raises:
        ValueError: the file holds more values than the model.
    """
    import transformers

    ahead = {name.split(".")[1] for name in contents.tensors if ".nextn." in name}  # layers that only guess ahead
    held = {
        name: prod(tensor.shape)
        for name, tensor in contents.tensors.items()
        if not name.startswith(SLOWED)
        and not (name.startswith("blk.") and name.split(".")[1] in ahead)
        and not (name == "output.weight" and model.config.tie_word_embeddings)
    }
    if (spare := sum(held.values()) - sum(weight.numel() for weight in model.parameters())) > 0:
        biased = any(name.endswith(".bias") for name, _ in model.named_parameters())
        biases = [] if biased else [name for name in held if name.endswith(".bias")]
        raise ValueError(
            f"The GGUF file {str(file)!r} holds {spare} values that transformers {transformers.__version__} has no "
            f"place for in a {type(model).__name__}, so it would be another model without them"
            f"{': ' + ', '.join(biases[:4]) if biases else ''}; use the model in Hugging Face format."
        )


def _rotary(config: PreTrainedConfig, file: Path, about: Header, contents: _Contents) -> Any:
    """How positions turn queries and keys, with the file's scaling, which transformers reads for next to no model.

    Raises:
        ValueError: the scaling is another than linear or Llama 3's.
    """
    plain: Any = getattr(config, "rope_parameters", None)
    kind = str(contents.fields.get(f"{about.architecture}.rope.scaling.type", "linear"))
    factor = float(contents.fields.get(f"{about.architecture}.rope.scaling.factor", 0.0)) or 1.0
    slowed = [name for name in contents.tensors if name.startswith(SLOWED)]
    scaled = kind != "none" and factor != 1.0
    if not (scaled or slowed) or (plain or {}).get("rope_type", "default") != "default":
        return plain
    if plain and "rope_theta" in plain:
        if scaled and kind == "linear" and not slowed:
            return {**plain, "rope_type": "linear", "factor": factor}
        if not scaled and slowed == ["rope_freqs.weight"]:
            found = _as_llama3(config, file, contents.tensors["rope_freqs.weight"])
            if found is not None:
                return found
    raise ValueError(
        f"The GGUF file {str(file)!r} scales positions ({', '.join([kind] * scaled + slowed)}) in a way that cannot be "
        "read here, so it would be another model: use the model in Hugging Face format."
    )


def _as_llama3(config: PreTrainedConfig, file: Path, tensor: _Tensor) -> dict[str, Any] | None:
    """Llama 3's scaling, if its numbers (Llama-3.1's config.json) slow the frequencies as the file's factors do."""
    import copy

    import numpy as np
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    if tensor.kind != 0:  # not in float32
        return None
    wanted = np.fromfile(file, dtype="<f4", count=prod(tensor.shape), offset=tensor.begins)
    plain: dict[str, Any] = config.rope_parameters
    if np.allclose(wanted, 1.0):
        return plain
    shape = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    trial = copy.deepcopy(config)
    trial.rope_parameters = {**plain, "rope_type": "llama3", "factor": float(wanted.max()), **shape}
    slowed = ROPE_INIT_FUNCTIONS["llama3"](trial, "cpu")[0].numpy()
    if len(slowed) != len(wanted):
        return None
    unslowed = plain["rope_theta"] ** (-np.arange(len(wanted)) / len(wanted))
    return trial.rope_parameters if np.allclose(unslowed / slowed, wanted, rtol=1e-3) else None
