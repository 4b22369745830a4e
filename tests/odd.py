"""Odd: chat templates that do what most do not, after published ones, and tokenizers for them.

words = odd.tokenizer("channels")
model = odd.speaker("channels")      # what `chat` asks of a model, without one
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import tiny
import torch
from transformers import PreTrainedTokenizerFast

_TURNS = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
)
_HEAD = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
_CHATML = {
    "special": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    "eos": "<|im_end|>",
    "end_of_turn": "<|im_end|>",
    "pad": "<|endoftext|>",
}


def _chatml(template: str, **other: Any) -> tiny.Style:
    return tiny.Style(template=template, **{**_CHATML, **other})


STYLES = {
    # A vision model's: content is a list, of which the parts that are text are written.
    "parts": _chatml(
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
        "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}"
        "{{ '<|im_end|>\\n' }}{% endfor %}" + _HEAD
    ),
    # One that writes no content at all, in whatever form.
    "deaf": _chatml(
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '<|im_end|>\\n' }}{% endfor %}"
    ),
    # A fine-tune whose author forgot the head of the reply.
    "headless": _chatml(_TURNS),
    # A fine-tune on a base model's tokenizer: the end of a turn is an added token, neither special nor the EOS.
    "finetune": _chatml(
        _TURNS + _HEAD, special=("<|endoftext|>",), eos="<|endoftext|>", added=("<|im_start|>", "<|im_end|>")
    ),
    # Phi-3: behind the end of a turn stands a new line, and the EOS behind the conversation.
    "phi3": tiny.Style(
        template=(
            "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
        ),
        special=("<|endoftext|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"),
        eos="<|endoftext|>",
        end_of_turn="<|end|>",
        pad="<|endoftext|>",
    ),
    # A reminder stands before the reply where there is a system prompt.
    "reminding": _chatml(
        _TURNS + "{% if messages[0]['role'] == 'system' %}{{ '<|im_start|>note\\nMind the rules.<|im_end|>\\n' }}"
        "{% endif %}" + _HEAD
    ),
    # Qwen 3 as published: an empty thought stands before a reply that has none.
    "qwen3": _chatml(
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
        "{% if message['role'] == 'assistant' and loop.last %}{{ '<think>\\n'"
        " + (message['reasoning_content'] if message['reasoning_content'] is string else '') + '\\n</think>\\n\\n' }}"
        "{% endif %}{{ message['content'] + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
        "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}"
        "{% endif %}{% endif %}",
        added=("<think>", "</think>"),
    ),
    # DeepSeek R1: the template opens the thought, and leaves thoughts out of what it is shown.
    "opened": _chatml(
        _TURNS + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}",
        added=("<think>", "</think>"),
    ),
    # gpt-oss: thoughts and answers go through channels, all of them between special tokens.
    "channels": tiny.Style(
        template=(
            "{% for message in messages %}{% if message['role'] == 'assistant' %}"
            "{% if message['thinking'] is string and loop.last %}"
            "{{ '<|start|>assistant<|channel|>analysis<|message|>' + message['thinking'] + '<|end|>' }}{% endif %}"
            "{{ '<|start|>assistant<|channel|>final<|message|>' + message['content'] }}"
            "{{ '<|return|>' if loop.last else '<|end|>' }}"
            "{% else %}{{ '<|start|>' + message['role'] + '<|message|>' + message['content'] + '<|end|>' }}{% endif %}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
        ),
        special=("<|endoftext|>", "<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"),
        eos="<|return|>",
        end_of_turn="<|return|>",
        pad="<|endoftext|>",
    ),
    # Marks that no released model has, which only the template tells.
    "musing": _chatml(
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
        "{% if message['reasoning_content'] is string %}{{ '<|muse|>' + message['reasoning_content'] + '<|mused|>' }}"
        "{% endif %}{{ message['content'] + '<|im_end|>\\n' }}{% endfor %}" + _HEAD,
        special=(*_CHATML["special"], "<|muse|>", "<|mused|>"),
    ),
    # Llama 3.1: today's date stands in every prompt.
    "dated": _chatml(
        "{% set today = date_string if date_string is defined else strftime_now('%d %b %Y') %}"
        "{{ '<|im_start|>system\\nToday: ' + today + '<|im_end|>\\n' }}" + _TURNS + _HEAD
    ),
}
"""Templates by name."""


def tokenizer(name: str) -> PreTrainedTokenizerFast:
    return tiny.tokenizer_of(STYLES[name])


def speaker(name: str) -> Any:
    """What `chat` asks of a model, with such a tokenizer."""
    return SimpleNamespace(
        cfg=SimpleNamespace(n_ctx=512), tokenizer=tokenizer(name), W_U=torch.zeros(2, 2), blocks=(), hooks=list
    )
