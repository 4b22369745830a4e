"""Conversations to tokens: a model's chat template, where its parts lie, and prompts and replies as ids."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from scans_lens.model import Model, device_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OPENING = "Sure"
"""How a reply begins that complies (SCANS, section 3.3: r_pos)."""


@dataclass(frozen=True)
class Template:
    """Where the parts of a conversation lie, counted in tokens from the end."""

    tail: tuple[int, ...]
    """The tokens after the user's own words, up to where the reply begins; the last is the end of the prompt."""
    opening: tuple[int, ...]
    """`OPENING` as the reply would begin with it; several tokens where it must be."""
    has_system: bool
    """Whether the template knows a system role; without one a system prompt goes into the user's turn."""

    @property
    def end_of_prompt(self) -> int:
        """The last token before the reply, as an index from the end of the prompt (the paper's a_p)."""
        return -1

    @property
    def end_of_instruction(self) -> int:
        """The last token of the user's own words, as an index from the end of the prompt."""
        return -1 - len(self.tail)


@dataclass(frozen=True)
class Tokens:
    """Prompts as tokens, padded on the left."""

    ids: Int[Tensor, "prompt pos"]
    mask: Int[Tensor, "prompt pos"]
    """1 where there is a token, 0 where there is padding."""

    def __len__(self) -> int:
        return self.ids.shape[0]


Asked: TypeAlias = Sequence[str] | Tokens
"""Prompts, or what `chat_tokens` made of them, with a system prompt perhaps."""

_PROBES = ("Tell me a.", "What is b?", "Name one c!", "Say: d", "Count 1 2 3", "(brackets)")


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], reply: str | None = None) -> str:
    if reply is not None:
        messages = [*messages, {"role": "assistant", "content": reply}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=reply is None)  # type: ignore[return-value]


def _bare(tokenizer: PreTrainedTokenizerBase, text: str, *, as_text: bool = False) -> list[int]:
    """The ids of templated text: no special token is added, and with `as_text` none is recognised."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=as_text)["input_ids"])


def template(model: Model) -> Template:
    """Positions of the model's chat template, found by comparing what it does to several prompts.

    Raises:
        ValueError: the model has no tokenizer or no chat template.
    """
    tokenizer = _tokenizer(model)
    rows = [_bare(tokenizer, _render(tokenizer, [_user(probe)])) for probe in _PROBES]
    length = 0
    while length < min(map(len, rows)) and len({row[-1 - length] for row in rows}) == 1:
        length += 1
    prompt = _render(tokenizer, [_user(_PROBES[0])])
    return Template(
        tail=tuple(rows[0][len(rows[0]) - length :]),
        opening=_opening(tokenizer, prompt, rows[0]),
        has_system=_has_system(tokenizer),
    )


def beginning(model: Model, reply: str) -> tuple[int, ...]:
    """The tokens of a reply's beginning, as they stand behind a prompt's (see `prompt_ids`)."""
    tokenizer = _tokenizer(model)
    prompt = _render(tokenizer, [_user(_PROBES[0])])
    return _opening(tokenizer, prompt, _bare(tokenizer, prompt), reply)


def _opening(tokenizer: PreTrainedTokenizerBase, prompt: str, ids: list[int], reply: str = OPENING) -> tuple[int, ...]:
    told = _render(tokenizer, [_user(_PROBES[0])], reply=reply)
    text = reply
    if told.startswith(prompt) and reply in told[len(prompt) :]:
        rest = told[len(prompt) :]
        text = rest[: rest.index(reply) + len(reply)]
    joined = _bare(tokenizer, prompt + text)
    if joined[: len(ids)] == ids and len(joined) > len(ids):
        return tuple(joined[len(ids) :])
    return tuple(_continued(tokenizer, text))


def _has_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    try:
        said = _render(tokenizer, [{"role": "system", "content": "xyzzy"}, _user("hello")])
    except Exception:  # templates raise whatever jinja gives them
        return False
    return "xyzzy" in said


def _tokenizer(model: Model) -> PreTrainedTokenizerBase:
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise ValueError("This model has no tokenizer, so prompts cannot be put to it.")
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "This model has no chat template, so there is no telling where its replies begin. If it is a chat model, "
            "give it one: model.tokenizer.chat_template = '…' (a Jinja template, as in its tokenizer_config.json)."
        )
    return tokenizer


def _specials(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Every special token, those without a role of their own (headers of turns, for instance) among them."""
    added = {id: token.content for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))


def _user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def _messages(prompt: str, system: str | None, has_system: bool) -> list[dict[str, str]]:
    if system is None:
        return [_user(prompt)]
    if not has_system:
        return [_user(f"{system}\n\n{prompt}")]
    return [{"role": "system", "content": system}, _user(prompt)]


def prompt_ids(model: Model, prompt: str, system: str | None = None) -> list[int]:
    """One prompt as the tokens after which the model's reply begins.

    Equal to the tokenizer's own `apply_chat_template`, unless somebody typed the text of a special token: then
    that text is tokenised by itself, and stays text.
    """
    return _prompt_ids(_tokenizer(model), prompt, system, has_system=system is None or _has_system(_tokenizer(model)))


def _prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, system: str | None, has_system: bool) -> list[int]:
    said = prompt + (system or "")
    typed = sorted((token for token in _specials(tokenizer).values() if token in said), key=len, reverse=True)
    if not typed:
        return _bare(tokenizer, _render(tokenizer, _messages(prompt, system, has_system)))
    # The template is shown marks that it leaves alone and nobody typed; their places are then filled with plain text.
    salt = next(n for n in itertools.count() if f"\ue000{n}." not in said)
    marks = {token: f"\ue000{salt}.{n}\ue001" for n, token in enumerate(typed)}
    hide = re.compile("|".join(map(re.escape, typed)))
    prompt = hide.sub(lambda found: marks[found[0]], prompt)
    system = None if system is None else hide.sub(lambda found: marks[found[0]], system)
    text = _render(tokenizer, _messages(prompt, system, has_system))
    meant = {mark: token for token, mark in marks.items()}
    ids: list[int] = []
    for piece in filter(None, re.split(f"({'|'.join(meant)})", text)):
        tokenise = _continued if ids else _bare
        ids += tokenise(tokenizer, meant.get(piece, piece), as_text=piece in meant)
    return ids


def _continued(tokenizer: PreTrainedTokenizerBase, text: str, *, as_text: bool = False) -> list[int]:
    """The ids of text that is not at the beginning, where some tokenizers would put a space before it."""
    before = "\ue000"
    start, ids = _bare(tokenizer, before), _bare(tokenizer, before + text, as_text=as_text)
    return ids[len(start) :] if ids[: len(start)] == start else _bare(tokenizer, text, as_text=as_text)


def chat_tokens(model: Model, prompts: Sequence[str], *, system: str | None = None) -> Tokens:
    """Prompts in the model's chat template, padded on the left, with exactly the BOS that the template writes.

    Raises:
        ValueError: no prompts; one that is no string, is blank, or does not fit the context.
    """
    prompts = checked(prompts)
    tokenizer = _tokenizer(model)
    has_system = system is None or _has_system(tokenizer)
    rows = [_prompt_ids(tokenizer, prompt, system, has_system) for prompt in prompts]
    context = int(model.cfg.n_ctx)
    for place, row in enumerate(rows):
        if len(row) > context:
            raise ValueError(f"Prompt {place} is {len(row)} tokens long, and this model reads at most {context}.")
    return padded(rows, _pad(tokenizer), device_of(model))


def padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> Tokens:
    """Rows of ids side by side, aligned at their ends."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for place, row in enumerate(rows):
        ids[place, width - len(row) :] = torch.tensor(row)
        mask[place, width - len(row) :] = 1
    return Tokens(ids.to(device), mask.to(device))


def _pad(tokenizer: Any) -> int:
    """Any id will do, since the mask hides it."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0)


def checked(prompts: Sequence[str]) -> list[str]:
    """The prompts as a list, or one clear sentence about what is wrong with them."""
    if isinstance(prompts, str):
        raise ValueError("Expected a list of prompts and got one string; put it in a list: [prompt].")
    prompts = list(prompts)
    if not prompts:
        raise ValueError("There are no prompts: the list is empty.")
    for place, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise ValueError(f"Prompt {place} is {type(prompt).__name__}, not a string: {prompt!r:.60}.")
        if not prompt.strip():
            raise ValueError(f"Prompt {place} is empty.")
        if any("\ud800" <= sign <= "\udfff" for sign in prompt):
            raise ValueError(
                f"Prompt {place} holds half a character (a lone surrogate), which is no text: {prompt!r:.60}."
            )
    return prompts


def end_tokens(model: Model) -> tuple[int, ...]:
    """Every token that ends a reply: the tokenizer's, the generation settings', and the template's end of turn."""
    tokenizer: Any = _tokenizer(model)
    ends = {tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set()
    source = getattr(model, "original_model", None)
    settings = getattr(source, "generation_config", None)
    said = getattr(settings, "eos_token_id", None)
    ends |= set(said) if isinstance(said, (list, tuple)) else {said} if said is not None else set()
    told = _bare(tokenizer, _render(tokenizer, [_user(_PROBES[0])], reply="Yes"))
    ends |= {token for token in told[-2:] if token in _specials(tokenizer)}
    return tuple(sorted(ends))


def reply_ids(model: Model, prompt: str, reply: str) -> list[int]:
    """The tokens that this reply adds to `prompt_ids(model, prompt)`, the end of its turn among them."""
    tokenizer, ends = _tokenizer(model), set(end_tokens(model))
    before = prompt_ids(model, prompt)
    told = _bare(tokenizer, _render(tokenizer, [_user(prompt)], reply=reply))
    if told[: len(before)] != before:  # the template writes more between them, or they grew together
        shown = _bare(tokenizer, _render(tokenizer, [_user(prompt)], reply="Yes"))
        told = [*before, *_continued(tokenizer, reply, as_text=True), *[one for one in shown[-2:] if one in ends][:1]]
    rest = told[len(before) :]
    return rest[: next((place for place, token in enumerate(rest) if token in ends), len(rest)) + 1]


def text_of(model: Model, ids: Sequence[int]) -> str:
    return str(_tokenizer(model).decode(list(ids), skip_special_tokens=True))


def words_of(model: Model, ids: Sequence[int]) -> list[str]:
    """Each token as text by itself."""
    return [str(_tokenizer(model).decode([token])) for token in ids]


def first_tokens(model: Model, words: Sequence[str]) -> dict[str, int]:
    """For each word that is one token of this vocabulary, with a space before it or without, that token."""
    tokenizer = _tokenizer(model)
    found = {}
    for word in words:
        for form in (word, " " + word):
            ids = _bare(tokenizer, form, as_text=True)
            if len(ids) == 1:
                found[form] = ids[0]
    return found
