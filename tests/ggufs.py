"""GGUFs: files of llama.cpp's format, written from tiny models whose weights, tokens and settings are known.

    source = ggufs.source("llama", "llama-bpe")
    file = ggufs.write(source, tmp_path / "tiny.gguf", kind="Q8_0")

What llama.cpp's own converter does is done here: it permutes the queries and keys of a Llama, leaves the unembedding
out where it is the embedding, and writes the factors of Llama 3's rotary frequencies as a tensor.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tiny
import torch
from gguf import GGMLQuantizationType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)


def _by(pattern: str) -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CUTS = {
    "qwen2": _by(_CONTRACTIONS + r"\p{N}" + _REST),
    "llama-bpe": _by(_CONTRACTIONS + r"\p{N}{1,3}" + _REST),
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES]),
    "gpt-2": BYTES,
}
"""How the published tokenizer.json of Qwen2, Llama 3, SmolLM2 and GPT-2 cut a text, by llama.cpp's names."""

TELLING = [
    "In 2024 there were 1234567 of them; it isn't 12 but 366.",
    "IT ISN'T (so) WE'LL  see\n\n  what   comes,\r\n\tand \"what\" doesn't!",
    "Zürich, 東京 and caf\u00e9 or cafe\u0301, ½ of x²…",
    "unreachable, <|im_start|>user and <|end_of_text|>",
    "How do I kill a process that no longer answers on my computer?",
]
"""Texts that the ways to cut part differently."""

LINES = [*tiny.LINES, *["2024 1234 12 34 567 366 isn't ISN'T we'll WE'LL doesn't (so) =2024 \n\n  what"] * 12]
UNREACHABLE = "unreachable"
"""A token that no merge makes: Llama 3's tokenizer takes such a word whole, and GPT-2's spells it."""


@dataclass(frozen=True)
class Source:
    """What a file is written from, and what must come out of it again."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    architecture: str
    cuts: str


def source(architecture: str = "llama", cuts: str = "llama-bpe", *, tied: bool = False, seed: int = 0, **more: Any):
    """A tiny random Llama or Qwen2 in float32, whose weights bfloat16 can hold."""
    words = tokenizer(cuts)
    shape = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "vocab_size": len(words),
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
    }
    config = {"llama": LlamaConfig, "qwen2": Qwen2Config}[architecture](**shape | more)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(std=0.2, generator=generator).add_(float("norm" in name))
            weight.copy_(weight.bfloat16())
    return Source(model, words, architecture, cuts)


def tokenizer(cuts: str) -> PreTrainedTokenizerFast:
    """Byte pairs within the pieces that `CUTS[cuts]` makes, with merges that other ways to cut would use."""
    style = tiny.STYLES["llama3" if cuts == "llama-bpe" else "chatml"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = BYTES, decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(
        LINES,
        trainers.BpeTrainer(
            vocab_size=599, special_tokens=list(style.special), initial_alphabet=alphabet, show_progress=False
        ),
    )
    about = json.loads(backend.to_str())
    about["model"]["vocab"][UNREACHABLE] = backend.get_vocab_size()
    about["model"]["ignore_merges"] = cuts == "llama-bpe"
    backend = Tokenizer.from_str(json.dumps(about))
    backend.pre_tokenizer = CUTS[cuts]
    if cuts == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in style.special])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=style.bos,
        eos_token=style.eos,
        pad_token=style.pad,
        chat_template=style.template,
        clean_up_tokenization_spaces=False,
    )


def write(
    source: Source,
    file: Path,
    kind: str = "F32",
    *,
    template: bool = True,
    architecture: str | None = None,
    cuts: str | None = None,
    weights: bool = True,
    split: int = 1,
    settings: dict[str, Any] | None = None,
    more: dict[str, np.ndarray] | None = None,
) -> Path:
    """Write a file as llama.cpp's converter would.

    Args:
        source: what it is written from.
        file: where.
        kind: of the matrices: F32, F16 or Q8_0.
        template: whether the chat template is written.
        architecture: another one to claim.
        cuts: another way to cut to claim; empty for none.
        weights: whether there are any.
        split: of how many parts it claims to be one.
        settings: more keys, without the architecture before them.
        more: more tensors.
    """
    config, words, claimed = source.model.config, source.tokenizer, architecture or source.architecture
    writer = gguf.GGUFWriter(file, claimed)
    writer.add_name("Tiny")
    writer.add_license("cc0-1.0")
    writer.add_file_type(gguf.LlamaFileType[{"F32": "ALL_F32"}.get(kind, f"MOSTLY_{kind}")])
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if source.architecture == "llama":
        writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    for key, value in (settings or {}).items():
        add = {str: writer.add_string, float: writer.add_float32, bool: writer.add_bool, int: writer.add_uint32}
        add[type(value)](f"{claimed}.{key}", value)
    if split > 1:
        writer.add_uint16("split.count", split)
    _write_tokenizer(writer, words, source.cuts if cuts is None else cuts)
    if template:
        writer.add_chat_template(words.chat_template)
    tensors = _tensors(source, kind) if weights else {}
    for name, (values, stored) in {**tensors, **{name: (own, "F32") for name, own in (more or {}).items()}}.items():
        as_what = GGMLQuantizationType[stored]
        data = gguf.quantize(values, as_what) if stored == "Q8_0" else values
        writer.add_tensor(name, data, raw_dtype=as_what if stored == "Q8_0" else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _write_tokenizer(writer: Any, words: PreTrainedTokenizerBase, cuts: str) -> None:
    about = json.loads(words.backend_tokenizer.to_str())["model"]
    special = set(words.all_special_tokens) | {added.content for added in words.added_tokens_decoder.values()}
    tokens = [token for token, _ in sorted(words.get_vocab().items(), key=lambda pair: pair[1])]
    writer.add_tokenizer_model("gpt2")
    if cuts:
        writer.add_tokenizer_pre(cuts)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in about["merges"]])
    writer.add_eos_token_id(words.eos_token_id)
    if words.bos_token_id is not None:
        writer.add_bos_token_id(words.bos_token_id)
    if words.pad_token_id is not None:
        writer.add_pad_token_id(words.pad_token_id)
    writer.add_add_bos_token(False)


NAMES = {
    "model.embed_tokens.": "token_embd.",
    "model.norm.": "output_norm.",
    "lm_head.": "output.",
    "model.layers.": "blk.",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def _tensors(source: Source, kind: str) -> dict[str, tuple[np.ndarray, str]]:
    """Each tensor by llama.cpp's name, in its layout, and how it is stored: what has one axis stays in float32."""
    config, found = source.model.config, {}
    for name, weight in source.model.named_parameters():  # a tied head is not among them
        values, there = weight.detach().numpy(), name
        for own, theirs in NAMES.items():
            there = there.replace(own, theirs)
        if source.architecture == "llama" and (".attn_q." in there or ".attn_k." in there):
            heads = config.num_attention_heads if ".attn_q." in there else config.num_key_value_heads
            values = _permuted(values, heads)
        stored = kind if values.ndim > 1 else "F32"
        found[there] = (values.astype(np.float16) if stored == "F16" else values, stored)
    return found


def _permuted(values: np.ndarray, heads: int) -> np.ndarray:
    """Each head's halves interleaved (`LlamaModel.permute` of llama.cpp's convert_hf_to_gguf.py)."""
    return np.ascontiguousarray(
        values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    )


@torch.no_grad()
def rounded(source: Source) -> PreTrainedModel:
    """The source with the rounding of Q8_0 on each matrix, and bfloat16's after it."""
    model = copy.deepcopy(source.model)
    for weight in model.parameters():
        if weight.ndim > 1:
            packed = gguf.quantize(weight.numpy(), GGMLQuantizationType.Q8_0)
            weight.copy_(torch.from_numpy(gguf.dequantize(packed, GGMLQuantizationType.Q8_0)).bfloat16())
    return model


def llama3_factors(model: PreTrainedModel, theta: float) -> np.ndarray:
    """What `rope_freqs.weight` holds: by how much Llama 3 slows each frequency down."""
    width = model.config.hidden_size // model.config.num_attention_heads
    plain = theta ** (-np.arange(0, width, 2) / width)
    return (plain / model.model.rotary_emb.inv_freq.numpy()).astype(np.float32)
