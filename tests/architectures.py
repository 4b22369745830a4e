"""Architectures: one tiny model of each, with random weights, for the laws about loading.

path = architectures.folder("qwen3", tmp_path)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel

SHAPE = dict(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
)
_LATENT = dict(num_key_value_heads=4, kv_lora_rank=16, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16)
_FEW = dict(num_experts_per_tok=2, moe_intermediate_size=32, n_shared_experts=1, first_k_dense_replace=1)

RIGHT: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": dict(head_dim=16),
    "gemma3_text": dict(head_dim=16, sliding_window=8),
    "phi3": {},
    "olmo2": {},
    "granite": {},
    "smollm3": {},
    "glm": dict(head_dim=16),
    "gpt_oss": dict(head_dim=16, num_local_experts=4, num_experts_per_tok=2),
    "mixtral": dict(num_local_experts=4),
    "deepseek_v3": dict(**_LATENT, **_FEW, q_lora_rank=16, n_routed_experts=4, n_group=1, topk_group=1),
    "gemma4_text": dict(head_dim=16, vocab_size_per_layer_input=600, hidden_size_per_layer_input=8),
}
"""What agrees with transformers in every TransformerLens that is supported."""

DOUBTFUL: dict[str, dict[str, Any]] = {
    "cohere": {},
    "cohere2": {},
    "mpt": dict(d_model=64, n_heads=4, n_layers=3),
    "hunyuan_v1_dense": dict(head_dim=16),
    "mamba": dict(state_size=8),
    "mamba2": dict(state_size=8, num_heads=8, head_dim=16, n_groups=1),
    "recurrent_gemma": dict(head_dim=16, lru_width=64, attention_window_size=16),
    "falcon_h1": dict(mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8, head_dim=16),
    "jamba": dict(mamba_d_state=8, num_experts=2),
    "lfm2": {},
    "qwen3_5_text": dict(head_dim=16),
    "helium": dict(head_dim=16),
}
"""What some TransformerLens rotates, caches or names otherwise, or does not know."""


def folder(kind: str, root: Path, **more: Any) -> Path:
    """A model of this kind on disk, with a ChatML tokenizer; `more` goes into its configuration."""
    words = tiny.tokenizer("chatml")
    ids = dict(bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id)
    config = AutoConfig.for_model(
        kind, **{**SHAPE, "vocab_size": len(words), **ids, **RIGHT.get(kind, {}), **DOUBTFUL.get(kind, {}), **more}
    )
    torch.manual_seed(0)
    return _kept(AutoModelForCausalLM.from_config(config, dtype=torch.float32), root / kind)


def seeing(root: Path) -> Path:
    """A Gemma 3 that reads images too."""
    words = tiny.tokenizer("chatml")
    text = {**SHAPE, "vocab_size": len(words), "head_dim": 16, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 2}
    image = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, image_size=28)
    config = AutoConfig.for_model(
        "gemma3",
        text_config=text,
        vision_config={**image, "patch_size": 14},
        mm_tokens_per_image=1,
        **dict.fromkeys(("boi_token_index", "eoi_token_index", "image_token_index"), 1),
    )
    return _kept(AutoModelForImageTextToText.from_config(config, dtype=torch.float32), root / "gemma3")


@torch.no_grad()
def _kept(model: PreTrainedModel, path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if weight.ndim >= 2 and "A_log" not in name and "conv" not in name:
            weight.normal_(std=0.2, generator=generator)
        elif "norm" in name:
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    model.save_pretrained(path)
    tiny.tokenizer("chatml").save_pretrained(path)
    return path
