"""Hooked: a HookedTransformer with the raw weights of a Hugging Face model (TransformerLens 3 only)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from scans_lens import agreement
from scans_lens.checkpoint import parts
from scans_lens.whole import quiet, told

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

REMEDY = " Use backend='bridge'."
FAMILIES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "MistralForCausalLM", "Gemma2ForCausalLM")
"""Architectures whose configuration is written out here; of a hub's other names TransformerLens knows its own."""


def load_hooked(where: str, device: torch.device, dtype: torch.dtype, revision: str | None) -> Any:
    """A `HookedTransformer` of a folder's or a hub's model, with raw weights and the tokenizer as it is.

    Raises:
        ValueError: TransformerLens has none, or it would not be the model that transformers runs.
    """
    try:
        from transformer_lens.loading_from_pretrained import get_official_model_name
    except ImportError as error:
        raise ValueError(
            "HookedTransformer was removed in TransformerLens 4; use backend='bridge', or install transformer-lens<4."
        ) from error
    if not Path(where).exists():
        try:
            where = get_official_model_name(where)
        except ValueError:
            raise ValueError(
                f"Cannot load the model {where!r}: it is no folder here, and TransformerLens has no HookedTransformer "
                "of that name; use backend='bridge', which takes any name of the hub."
            ) from None
    source, tokenizer = parts(where, device, dtype, revision)
    _require_carried(source, where)
    truth = agreement.truth(source, tokenizer)
    what = f"A {type(source).__name__} as a HookedTransformer"
    with quiet(), told(f"{what} cannot be made; use backend='bridge'"):
        model = _made(source, tokenizer, where, device, dtype)
    model.tokenizer = tokenizer  # TransformerLens would give it a BOS and a pad token
    agreement.require(model, truth, what, REMEDY)
    return model


def _made(
    source: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    where: str,
    device: torch.device,
    dtype: torch.dtype,
) -> Any:
    from transformer_lens import HookedTransformer
    from transformer_lens.loading_from_pretrained import get_pretrained_state_dict

    if _architecture(source) not in FAMILIES:
        return HookedTransformer.from_pretrained_no_processing(
            where, hf_model=source, tokenizer=tokenizer, device=str(device), dtype=dtype
        ).eval()
    # TransformerLens' own way from a folder to a configuration guesses the architecture from words in the path
    config = _config(source.config, where, device, dtype)
    weights = get_pretrained_state_dict(where, config, hf_model=source, dtype=dtype)
    model = HookedTransformer(config)
    model.load_and_process_state_dict(
        weights, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    model.cfg.tokenizer_prepends_bos = len(tokenizer.encode("")) > 0
    return model.eval()


def _architecture(source: PreTrainedModel) -> str:
    return (source.config.architectures or [type(source).__name__])[0]


def _require_carried(source: PreTrainedModel, where: str) -> None:
    """Refuse what TransformerLens would leave out without a word, by the name that the configuration has for it."""
    architecture, config = _architecture(source), source.config
    if architecture not in FAMILIES:
        if Path(where).exists():
            raise ValueError(f"A local {architecture} does not load as a HookedTransformer; use backend='bridge'.")
        return
    rope: dict[str, Any] = config.rope_parameters
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "llama3"):
        raise ValueError(f"Rotary positions of type {kind!r} do not load as a HookedTransformer; use backend='bridge'.")
    slides = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    biased = {name.split(".")[-2] for name, _ in source.named_parameters() if name.endswith(".bias")}
    if architecture == "Qwen2ForCausalLM":
        biased -= {"q_proj", "k_proj", "v_proj"}
    dropped = [name for name in ("attention_bias", "mlp_bias") if biased and getattr(config, name, False)]
    dropped += ["biases of " + ", ".join(sorted(biased))] if biased and not dropped else []
    dropped += ["use_sliding_window"] if slides and architecture in ("LlamaForCausalLM", "Qwen2ForCausalLM") else []
    dropped += ["partial_rotary_factor"] if float(rope.get("partial_rotary_factor") or 1) != 1 else []
    dropped += ["an adapter"] if any(hasattr(part, "base_layer") for part in source.modules()) else []
    if dropped:
        raise ValueError(
            f"A local {architecture} with {' and '.join(dropped)} does not load as a HookedTransformer; "
            "use backend='bridge'."
        )


def _config(config: PreTrainedConfig, where: str, device: torch.device, dtype: torch.dtype) -> Any:
    """The shape of a local Llama, Qwen 2, Mistral or Gemma 2 in TransformerLens' words."""
    from transformer_lens import HookedTransformerConfig

    architecture = (config.architectures or ["unknown"])[0]
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    grouped = config.num_key_value_heads != config.num_attention_heads or architecture != "LlamaForCausalLM"
    rope = config.rope_parameters
    attention: dict[str, Any] = {}
    if rope.get("rope_type", "default") == "llama3":
        attention = {
            "use_NTK_by_parts_rope": True,
            "NTK_original_ctx_len": rope["original_max_position_embeddings"],
            "NTK_by_parts_low_freq_factor": rope["low_freq_factor"],
            "NTK_by_parts_high_freq_factor": rope["high_freq_factor"],
            "NTK_by_parts_factor": rope["factor"],
        }
    if architecture == "Gemma2ForCausalLM":
        attention = {
            "use_local_attn": True,
            "window_size": config.sliding_window,
            "attn_types": ["local" if kind == "sliding_attention" else "global" for kind in config.layer_types],
            "attn_scale": config.query_pre_attn_scalar**0.5,
            "attn_scores_soft_cap": config.attn_logit_softcapping,
            "output_logits_soft_cap": config.final_logit_softcapping,
            "use_normalization_before_and_after": True,
        }
    elif architecture == "MistralForCausalLM" and config.sliding_window is not None:
        attention = {
            "use_local_attn": True,
            "window_size": config.sliding_window,
            "attn_types": ["local"] * config.num_hidden_layers,
        }
    return HookedTransformerConfig(
        model_name=where,
        original_architecture=architecture,
        init_weights=False,
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        d_mlp=config.intermediate_size,
        d_vocab=config.vocab_size,
        n_ctx=config.max_position_embeddings,
        n_heads=config.num_attention_heads,
        n_key_value_heads=config.num_key_value_heads if grouped else None,
        d_head=d_head,
        gated_mlp=True,
        act_fn=getattr(config, "hidden_activation", None) or config.hidden_act,
        normalization_type="RMS",
        final_rms=True,
        eps=config.rms_norm_eps,
        positional_embedding_type="rotary",
        rotary_base=rope["rope_theta"],
        rotary_dim=d_head,
        rotary_adjacent_pairs=False,
        default_prepend_bos=architecture != "Qwen2ForCausalLM",
        device=str(device),
        dtype=dtype,
        **attention,
    )
