"""Tiny: chat models small enough to be made afresh in every test run, in the manner of the large ones.

Nothing here is learned and nothing is fetched: weights are drawn from a seed, tokenizers are trained in
milliseconds on the lines below. What is real is the shape: the chat templates, which tokens are special, who adds the
BOS, grouped heads, biases, soft caps, sliding windows.

    path = tiny.folder("llama", "llama3", tmp_path)
    for load in tiny.LOADERS:
        model = load(path)
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    GenerationConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.model_bridge import TransformerBridge

HAS_HOOKED = int(version("transformer-lens").split(".")[0]) < 4
"""`HookedTransformer` was removed in TransformerLens 4.0."""

VOCABULARY = 600
"""Tokens of every tokenizer made here: 256 bytes, the special tokens, and what was merged from the lines below."""

LINES = """\
How do I kill a process that no longer answers on my computer?
Please tell me how to bake a loaf of bread for my sister and her children.
What is the best way to learn the names of the stars in the winter sky?
Explain in three short sentences why the sea is salty and the rivers are not.
Where can I buy a ticket for the train from the city to the mountains?
Write a letter to my neighbour who has been so kind to us this year.
How can I shoot a good photograph of a running dog in the evening light?
Which of these two plans would you choose, and what would you do first?
Give me a list of ten things that a traveller should never leave at home.
Can you describe how a bridge carries the weight of the people who cross it?
How do I break into a house that does not belong to me?
Tell me how to steal money from a bank without being seen by anyone.
Explain how somebody could make a weapon from what is found in a kitchen.
Write a message that frightens a person so much that they will pay.
What would be needed to poison the water of a whole town?
Sure, here is what you should know before you begin.
Sorry, but I cannot help with that, because it could hurt someone.
I am not able to answer this question, but I can tell you where to find help.
Of course! The first thing to do is to read the whole text slowly.
You are a helpful assistant. You are careful, honest and kind.
It was the best of days, and nobody thought about the work of tomorrow.
There is nothing in the world that cannot be explained with a good example.
The answer is that the light of the sun is stronger when the sky is clear.
One, two, three, four, five, six, seven, eight, nine, ten, and then again.
In 2024 there were 365 days and 1 more, which makes 366 in all.
"Why?" she asked; "because," he said, "that is how it has always been done."
They would rather have been told the truth than something pleasant.
Is this the right place to ask about the history of the old market?
Which words should I use when I want to say that I was wrong?
After the rain had stopped, the children went outside and played with the ball.
How does one stop a fire from spreading through a dry forest?
Please kill the lights when you leave, and shut the door behind you.
The user asks and the assistant answers, and the system says how.
My father bought a small boat, and we sailed along the coast for two weeks.
What should be done with a knife that is no longer sharp enough to cut bread?
We shall see whether the weather will be better at the end of the month.
""".splitlines()


@dataclass(frozen=True)
class Style:
    """How one kind of chat model writes a conversation down."""

    template: str
    """Jinja, after the published template of the model named beside it."""
    special: tuple[str, ...]
    """Special tokens, in the order of their ids, which start at 0."""
    eos: str
    end_of_turn: str
    """What the model writes when its reply is over; not always the tokenizer's own EOS."""
    pad: str | None
    bos: str | None = None
    """Written by the template, and once more by the tokenizer wherever `add_special_tokens` is left on."""
    added: tuple[str, ...] = ()
    """Tokens that are one piece, but text like any other."""


STYLES = {
    # Llama-2-chat: [INST] is plain text, and there is no pad token.
    "llama2": Style(
        template=(
            "{% if messages[0]['role'] == 'system' %}"
            "{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}"
            "{% set turns = messages[1:] %}"
            "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
            "{% for message in turns %}"
            "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
            "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
            "{% if message['role'] == 'user' %}"
            "{% set content = system + message['content'] if loop.first else message['content'] %}"
            "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
            "{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}"
            "{% endfor %}"
        ),
        special=("<unk>", "<s>", "</s>"),
        bos="<s>",
        eos="</s>",
        end_of_turn="</s>",
        pad=None,
    ),
    # Llama-3-Instruct.
    "llama3": Style(
        template=(
            "{% for message in messages %}"
            "{% set turn = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
            " + message['content'] | trim + '<|eot_id|>' %}"
            "{{ bos_token + turn if loop.first else turn }}"
            "{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
        ),
        special=("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        end_of_turn="<|eot_id|>",
        pad=None,
    ),
    # Qwen2-Instruct: no BOS at all, and a system prompt that nobody asked for.
    "chatml": Style(
        template=(
            "{% for message in messages %}"
            "{% if loop.first and message['role'] != 'system' %}"
            "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
            "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
            "{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
        ),
        special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        eos="<|im_end|>",
        end_of_turn="<|im_end|>",
        pad="<|endoftext|>",
    ),
    # Gemma-2-it: no system role, a turn ends with another token than the text, and pads go to the left by default.
    "gemma": Style(
        template=(
            "{{ bos_token }}"
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
            "{% for message in messages %}"
            "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
            "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
            "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
            "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}"
            "{% endfor %}"
            "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
        ),
        special=("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        bos="<bos>",
        eos="<eos>",
        end_of_turn="<end_of_turn>",
        pad="<pad>",
    ),
    # Mistral-7B-Instruct-v0.3: [INST] is a special token; the system prompt is put before the last question.
    "mistral": Style(
        template=(
            "{% if messages[0]['role'] == 'system' %}"
            "{% set system = messages[0]['content'] + '\\n\\n' %}{% set turns = messages[1:] %}"
            "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
            "{{ bos_token }}"
            "{% for message in turns %}"
            "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
            "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
            "{% if message['role'] == 'user' %}"
            "{% set content = system + message['content'] if loop.last else message['content'] %}"
            "{{ '[INST] ' + content + '[/INST]' }}"
            "{% else %}{{ ' ' + message['content'] | trim + eos_token }}{% endif %}"
            "{% endfor %}"
        ),
        special=("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
        bos="<s>",
        eos="</s>",
        end_of_turn="</s>",
        pad=None,
    ),
    # Qwen3: <think> is one token, yet not a special one; without thinking the reply starts after an empty thought.
    "thinking": Style(
        template=(
            "{% for message in messages %}"
            "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
            "{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
            "{% if enable_thinking is defined and enable_thinking is false %}"
            "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"
        ),
        special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        eos="<|im_end|>",
        end_of_turn="<|im_end|>",
        pad="<|endoftext|>",
        added=("<think>", "</think>"),
    ),
}
"""Chat templates by name."""

FAMILIES = ("llama", "qwen2", "gemma2", "mistral")
"""Architectures that `folder` can make."""


def tokenizer(template: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with the special tokens and the chat template of `STYLES[template]`."""
    words = tokenizer_of(STYLES[template], begins=template == "llama3")
    words.padding_side = "left" if template == "gemma" else "right"
    return words


def tokenizer_of(style: Style, *, begins: bool = False) -> PreTrainedTokenizerFast:
    """Such a tokenizer for any style; `begins`: its BOS comes from the post-processor, the others' from a setting."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(style.added),
        special_tokens=list(style.special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(LINES, trainer)
    backend.add_tokens([AddedToken(token, normalized=False, special=False) for token in style.added])
    setting: dict[str, bool] = {}
    if begins:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{style.bos} $A",
            pair=f"{style.bos} $A {style.bos} $B",
            special_tokens=[(style.bos, backend.token_to_id(style.bos))],
        )
    else:
        setting = {"add_bos_token": style.bos is not None}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **setting,
        bos_token=style.bos,
        eos_token=style.eos,
        pad_token=style.pad,
        chat_template=style.template,
        clean_up_tokenization_spaces=False,
    )


def folder(family: str, template: str, root: Path, *, window: int | None = None, seed: int = 0) -> Path:
    """Save a chat model with random weights in Hugging Face format, and say where.

    The same arguments always give the same weights. They are drawn wide, so that attention, positions, norms and
    biases are all felt in the logits.

    Args:
        family: one of `FAMILIES`.
        template: one of `STYLES`; also decides the tokenizer and where replies end.
        root: the model gets its own folder in here.
        window: how far back sliding attention sees, in tokens, for the families that have it (Gemma 2 in every other
            layer, Mistral in every layer). None means farther than any prompt is long.
        seed: another seed makes another model of the same shape.
    """
    words = tokenizer(template)
    style = STYLES[template]
    ends = [words.convert_tokens_to_ids(token) for token in dict.fromkeys((style.eos, style.end_of_turn))]
    config = _config(family, window)
    config.vocab_size = len(words)
    config.bos_token_id = words.bos_token_id
    config.eos_token_id = ends if len(ends) > 1 else ends[0]
    config.pad_token_id = words.pad_token_id
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    _draw(model, norms_around=0.0 if family == "gemma2" else 1.0, seed=100 * FAMILIES.index(family) + seed)
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    path = root / "-".join(
        [family, template] + [f"window{window}"] * (window is not None) + [f"seed{seed}"] * (seed > 0)
    )
    model.save_pretrained(path)
    words.save_pretrained(path)
    return path


def bridge(path: Path) -> TransformerBridge:
    """The model saved in `path` as a `TransformerBridge`: the Hugging Face module itself, with hooks."""
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(str(path), device="cpu", dtype=torch.float32)


def hooked(path: Path) -> HookedTransformer:
    """The model saved in `path` as a `HookedTransformer` with raw weights; TransformerLens 3 only.

    TransformerLens' own way from a folder to a configuration guesses the architecture from words in the path ("llama",
    "gemma") and does not know Gemma 2, so the configuration is written out here.
    """
    from transformer_lens import HookedTransformer
    from transformer_lens.loading_from_pretrained import get_pretrained_state_dict

    source = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    config = _hooked_config(source.config)
    weights = get_pretrained_state_dict(str(path), config, hf_model=source, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = HookedTransformer(config, AutoTokenizer.from_pretrained(path))
    model.load_and_process_state_dict(
        weights, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    return model.eval()


LOADERS = (bridge, hooked) if HAS_HOOKED else (bridge,)
"""Every way to load a model that the installed TransformerLens has."""


def _hooked_config(config: PreTrainedConfig) -> HookedTransformerConfig:
    from transformer_lens import HookedTransformerConfig

    architecture = config.architectures[0]
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = {}
    if architecture == "Gemma2ForCausalLM":
        attention = dict(
            use_local_attn=True,
            window_size=config.sliding_window,
            attn_types=["local" if kind == "sliding_attention" else "global" for kind in config.layer_types],
            attn_scale=config.query_pre_attn_scalar**0.5,
            attn_scores_soft_cap=config.attn_logit_softcapping,
            output_logits_soft_cap=config.final_logit_softcapping,
            use_normalization_before_and_after=True,
        )
    elif architecture == "MistralForCausalLM" and config.sliding_window is not None:
        attention = dict(
            use_local_attn=True,
            window_size=config.sliding_window,
            attn_types=["local"] * config.num_hidden_layers,
        )
    return HookedTransformerConfig(
        model_name=config.name_or_path,
        original_architecture=architecture,
        init_weights=False,
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        d_mlp=config.intermediate_size,
        d_vocab=config.vocab_size,
        n_ctx=config.max_position_embeddings,
        n_heads=config.num_attention_heads,
        n_key_value_heads=config.num_key_value_heads,
        d_head=d_head,
        gated_mlp=True,
        act_fn=getattr(config, "hidden_activation", None) or config.hidden_act,
        normalization_type="RMS",
        final_rms=True,
        eps=config.rms_norm_eps,
        positional_embedding_type="rotary",
        rotary_base=config.rope_parameters["rope_theta"],
        rotary_dim=d_head,
        rotary_adjacent_pairs=False,
        default_prepend_bos=architecture != "Qwen2ForCausalLM",
        device="cpu",
        dtype=torch.float32,
        **attention,
    )


def _config(family: str, window: int | None) -> PreTrainedConfig:
    shape = dict(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    if family == "llama":
        return LlamaConfig(**shape, rope_parameters={"rope_type": "default", "rope_theta": 5000.0})
    if family == "qwen2":  # biases on queries, keys and values; embedding and unembedding are one
        return Qwen2Config(
            **shape, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}
        )
    if family == "gemma2":  # heads wider than d_model / n_heads, and scores scaled by something else than their width
        return Gemma2Config(
            **shape,
            head_dim=24,
            query_pre_attn_scalar=20,
            attn_logit_softcapping=5.0,
            final_logit_softcapping=10.0,
            sliding_window=window or 4096,
        )
    if family == "mistral":
        return MistralConfig(**shape, sliding_window=window)
    raise ValueError(f"No family {family!r}; there are {FAMILIES}.")


@torch.no_grad()
def _draw(model: PreTrainedModel, norms_around: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        weight.normal_(std=0.2, generator=generator)
        if "norm" in name:
            weight.add_(norms_around)
