"""Unpacking: the folder in Hugging Face format that is made of a GGUF file, once.

The weights are unpacked by transformers' own reader and kept in bfloat16, which rounds each of them by at most one part
in 512.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scans_lens.models import home
from scans_lens.models.gguf import Contents, Entry, Header, contents_of, require_readable, template_beside
from scans_lens.models.known import KNOWN, of_digest

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

RECORD = "scans_lens.json"
"""What says of a folder that it was made of a GGUF file, and of which."""
FORMAT = 3
"""Of such a folder: one that was made otherwise is made anew."""
SHARD = "500MB"
"""Of a file of weights: while one is widened to float32, this much is there twice."""
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


def folder_of(file: Path) -> Path:
    """The folder in Hugging Face format for a GGUF file, made now if it was not made before.

    Raises:
        ValueError: the file cannot be read whole, or transformers does not know its architecture.
    """
    about = require_readable(file)
    digest = digest_of(file)
    beside = template_beside(file)
    template = beside.read_text(encoding="utf-8") if beside.is_file() else about.template
    folder = _place(file, digest, about, template)
    with home.alone(folder):
        if _is_made(folder):
            return folder
        n_values = sum(prod(tensor.shape) for tensor in contents_of(file).tensors.values())
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

    from scans_lens.whole import quiet, require_whole, told

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
    contents = contents_of(file)
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
        model.save_pretrained(folder, max_shard_size=SHARD)
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


def _require_placed(model: PreTrainedModel, file: Path, contents: Contents) -> None:
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


def _rotary(config: PreTrainedConfig, file: Path, about: Header, contents: Contents) -> Any:
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


def _as_llama3(config: PreTrainedConfig, file: Path, tensor: Entry) -> dict[str, Any] | None:
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
