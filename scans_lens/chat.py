"""Conversations to tokens: where the parts of a conversation lie, and prompts and replies as ids."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from scans_lens.conversation import (
    BARE,
    Askable,
    Asking,
    Conversation,
    Prompt,
    Turn,
    asking_of,
    checked,
    conversation_of,
)
from scans_lens.model import Model, device_of
from scans_lens.templates import Writing, shared_end, writing
from scans_lens.thoughts import Spoken, apart

OPENING = "Sure"
"""How a reply begins that complies (SCANS, section 3.3: r_pos)."""


@dataclass(frozen=True)
class Template:
    """Where the parts of a conversation lie, counted in tokens from the end."""

    tail: tuple[int, ...]
    """The tokens after the user's own words, up to where the reply begins; the last is the end of the prompt."""
    opening: tuple[int, ...]
    """`OPENING` as the reply would begin with it, behind an empty thought where the template writes one."""
    has_system: bool
    """Whether the template knows a system role; without one a system prompt goes into the user's first turn."""
    asking: Asking = BARE
    """How the conversation is put: its system prompt, thinking, and what else the template is told."""
    digest: str = ""
    """Of what the template writes around the user's words; two conversations with one digest are put alike."""
    thinking: bool = False
    """Whether the reply begins inside a thought that the template has opened."""

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
    templates: tuple[Template, ...] = ()
    """Where each prompt's parts lie; empty for texts that are no chat."""

    def __len__(self) -> int:
        return self.ids.shape[0]

    def at(self, rows: Int[Tensor, "row"], width: int | None = None) -> Tokens:
        """These rows, in this order; with a width, the last so many columns of them."""
        first = 0 if width is None else self.ids.shape[1] - width
        there = rows.to(self.ids.device)
        templates = tuple(self.templates[row] for row in rows.tolist()) if self.templates else ()
        return Tokens(self.ids[there, first:], self.mask[there, first:], templates)

    def shared(self, kept: int) -> Int[Tensor, "pos"]:
        """What every row begins with, a system prompt for instance, but for the last `kept` tokens of each."""
        lengths = self.mask.sum(dim=1)
        columns = torch.arange(max(0, int(lengths.min()) - kept), device=self.ids.device)
        begun = self.ids.gather(1, self.ids.shape[1] - lengths[:, None] + columns)
        same = (begun == begun[:1]).all(dim=0).cumprod(dim=0)
        return begun[0, : int(same.sum())]

    def behind(self, first: int) -> Tokens:
        """Every row without its first so many tokens."""
        width = self.ids.shape[1]
        starts = width - self.mask.sum(dim=1, keepdim=True) + first
        mask = torch.arange(first, width, device=self.ids.device) >= starts
        return Tokens(self.ids[:, first:], mask.to(self.mask.dtype), self.templates)


Asked: TypeAlias = Sequence[Askable] | Tokens
"""Prompts, or what `chat_tokens` made of them, with a system prompt perhaps."""

_PROBES = ("Tell me a.", "What is b?", "Name one c!", "Say: d", "Count 1 2 3", "(brackets)")


def template(model: Model, prompt: Askable = _PROBES[0], *, asking: Asking = BARE) -> Template:
    """Positions in the model's chat template, found by comparing what it does to several prompts.

    They belong to the conversation: what comes before the user's last words, and how it is asked, may change what the
    template writes behind them.

    Raises:
        ValueError: the model has no tokenizer or no chat template, or one in which no reply can follow.
    """
    return _template(writing(model), conversation_of(asking.of(prompt)))


def _template(own: Writing, asked: Conversation) -> Template:
    put = [replace(asked, turns=(*asked.before, Turn("user", probe))) for probe in _PROBES]
    texts = [own.text(one) for one in put]
    left_out = next((probe for probe, text in zip(_PROBES, texts, strict=True) if probe not in text), None)
    if left_out is not None:
        raise ValueError(
            f"The model's chat template leaves out what the user says in this conversation ({left_out!r} was tried)."
        )
    rows = [own.ids(text) for text in texts]
    behind = texts[0][texts[0].rindex(_PROBES[0]) + len(_PROBES[0]) :]
    return Template(
        tail=tuple(rows[0][len(rows[0]) - shared_end(rows) :]),
        opening=_beginning(own, put[0], OPENING),
        has_system=own.has_system,
        asking=asking_of(asked),
        digest=own.digest(asked),
        thinking=any(behind.rfind(one.opening) > behind.rfind(one.closing) for one in own.marks),
    )


def template_record(model: Model, asking: Asking = BARE) -> dict[str, str | None]:
    """What tells one state of a chat template from another, for what is kept.

    SHA-256 (16 hex digits each) of its `source`, and of what is `written` around a user's words when asked like this;
    and the `date`, where the template may write today's.
    """
    own = writing(model)
    source = hashlib.sha256(str(own.tokenizer.chat_template).encode()).hexdigest()[:16]
    written = own.digest(conversation_of(asking.of(_PROBES[0])))
    return {"source": source, "written": written, "date": own.dated}


def beginning(model: Model, reply: str, *, asking: Asking = BARE) -> tuple[int, ...]:
    """The tokens of a reply's beginning, as they stand behind a prompt's (see `prompt_ids`)."""
    return _beginning(writing(model), conversation_of(asking.of(_PROBES[0])), reply)


def _beginning(own: Writing, asked: Conversation, reply: str) -> tuple[int, ...]:
    prompt, told = own.text(asked), own.text(asked, reply)
    text, ids = reply, own.ids(prompt)
    if told.startswith(prompt) and reply in told[len(prompt) :]:
        rest = told[len(prompt) :]
        text = rest[: rest.index(reply) + len(reply)]
    joined = own.ids(prompt + text)
    if joined[: len(ids)] == ids and len(joined) > len(ids):
        return tuple(joined[len(ids) :])
    return tuple(own.continued(text))


def prompt_ids(model: Model, prompt: Askable, *, asking: Asking = BARE) -> list[int]:
    """One prompt as the tokens after which the model's reply begins.

    Equal to the tokenizer's own `apply_chat_template`, unless somebody typed the text of a special token: then
    that text is tokenised by itself, and stays text.
    """
    return _prompt_ids(writing(model), asking.of(prompt))


def _prompt_ids(own: Writing, prompt: Prompt) -> list[int]:
    asked = conversation_of(prompt)
    said = "\n".join(turn.content for turn in asked.turns)
    typed = sorted((token for token in own.structure.values() if token in said), key=len, reverse=True)
    if not typed:
        return own.ids(own.text(asked))
    # The template is shown marks that it leaves alone and nobody typed; their places are then filled with plain text.
    salt = next(n for n in itertools.count() if f"\ue000{n}." not in said)
    marks = {token: f"\ue000{salt}.{n}\ue001" for n, token in enumerate(typed)}
    hide = re.compile("|".join(map(re.escape, typed)))
    hidden = tuple(Turn(one.role, hide.sub(lambda found: marks[found[0]], one.content)) for one in asked.turns)
    meant = {mark: token for token, mark in marks.items()}
    ids: list[int] = []
    for piece in filter(None, re.split(f"({'|'.join(meant)})", own.text(replace(asked, turns=hidden)))):
        tokenise = own.continued if ids else own.ids
        ids += tokenise(meant.get(piece, piece), as_text=piece in meant)
    return ids


def chat_tokens(model: Model, prompts: Sequence[Askable], *, asking: Asking = BARE) -> Tokens:
    """Prompts in the model's chat template, padded on the left, with exactly the BOS that the template writes.

    Args:
        prompts: what users say, or whole conversations: `Conversation`s, or lists of messages with role and content.
        asking: how they are put: a system prompt, thinking on or off.

    Raises:
        ValueError: no prompts; one that is no text, is blank, or does not fit the context; one that the template
            refuses.
    """
    own, asked = writing(model), [asking.of(prompt) for prompt in checked(prompts)]
    rows = [_prompt_ids(own, prompt) for prompt in asked]
    context = int(model.cfg.n_ctx)
    for place, row in enumerate(rows):
        if len(row) > context:
            raise ValueError(f"Prompt {place} is {len(row)} tokens long, and this model reads at most {context}.")
    known: dict[str, Template] = {}  # by all but what the user said last
    templates = []
    for prompt in asked:
        around = conversation_of(prompt)
        put = repr((around.before, around.thinking, around.template_kwargs))
        known[put] = known.get(put) or _template(own, around)
        templates.append(known[put])
    return replace(padded(rows, _pad(own.tokenizer), device_of(model)), templates=tuple(templates))


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


# ── Replies ──────────────────────────────────────────────────────────────────────────────────────────────────


def end_tokens(model: Model) -> tuple[int, ...]:
    """Every token that ends a reply: the tokenizer's, the generation settings', and the template's end of turn."""
    source = getattr(model, "original_model", None)
    settings = getattr(source, "generation_config", None)
    said = getattr(settings, "eos_token_id", None)
    told = set(said) if isinstance(said, (list, tuple)) else {said} if said is not None else set()
    return tuple(sorted(told | set(writing(model).ends)))


def reply_ids(model: Model, prompt: Askable, reply: str, *, asking: Asking = BARE) -> list[int]:
    """The tokens that this reply adds to `prompt_ids(model, prompt)`, the end of its turn among them."""
    own, ends, asked = writing(model), set(end_tokens(model)), asking.of(prompt)
    before = _prompt_ids(own, asked)
    told = own.ids(own.text(conversation_of(asked), reply))
    if told[: len(before)] != before:  # the template writes more between them, or they grew together
        end = [own.end_of_turn] if own.end_of_turn is not None else []
        told = [*before, *own.continued(reply, as_text=True), *end]
    rest = told[len(before) :]
    return rest[: next((place for place, token in enumerate(rest) if token in ends), len(rest)) + 1]


def spoken(model: Model, ids: Sequence[int], *, thinking: bool = False) -> Spoken:
    """A reply's tokens as its thought and its answer, without special tokens.

    Args:
        thinking: whether it begins inside a thought that the template has opened (`Template.thinking`).
    """
    own = writing(model)
    if own.marks:
        tokenizer: Any = own.tokenizer
        found = apart(str(tokenizer.decode(list(ids), skip_special_tokens=False)), own.marks, thinking=thinking)
        if found.thought is not None:
            answer = found.answer
            for token in own.structure.values():
                answer = answer.replace(token, "")
            return replace(found, answer=answer.strip())
    return Spoken(text_of(model, ids))


def text_of(model: Model, ids: Sequence[int]) -> str:
    """The tokens as text, without special ones."""
    return str(model.tokenizer.decode(list(ids), skip_special_tokens=True))


def words_of(model: Model, ids: Sequence[int]) -> list[str]:
    """Each token as text by itself."""
    return [str(model.tokenizer.decode([token])) for token in ids]


def first_tokens(model: Model, words: Sequence[str]) -> dict[str, int]:
    """For each word that is one token of this vocabulary, with a space before it or without, that token."""
    own = writing(model)
    found = {}
    for word in words:
        for form in (word, " " + word):
            ids = own.ids(form, as_text=True)
            if len(ids) == 1:
                found[form] = ids[0]
    return found
