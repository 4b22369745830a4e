"""Templates: what a tokenizer's chat template makes of a conversation, found by asking it and not by assuming it.

What is found of it: whether it wants texts or lists of parts, whether it knows a system role and a switch for thinking,
which tokens it writes as structure, what ends a reply, and what stands around a thought.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from scans_lens.conversation import Conversation, Turn
from scans_lens.model import Model
from scans_lens.thoughts import KNOWN, Marks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ASKED = Conversation((Turn("user", "Which word is xyzzy?"),))
_SAID = ("Yes", "No, not 1", "(perhaps)")
_SWITCHES = ("enable_thinking", "thinking")
"""What templates call the switch for thinking: the first in Qwen 3 and most others, the second in DeepSeek V3.1 and
Granite."""
_THOUGHT = ("reasoning_content", "reasoning", "thinking")
"""What templates call the thought of a message."""


@dataclass(frozen=True)
class Writing:
    """How one tokenizer's chat template writes conversations down."""

    tokenizer: PreTrainedTokenizerBase

    def text(self, conversation: Conversation, reply: str | None = None, thought: str | None = None) -> str:
        """The conversation up to where the reply begins, or with a reply behind it.

        Raises:
            ValueError: the template refuses it, leaves out what the user says, or has no switch for thinking.
        """
        if conversation.thinking is not None and not self.has_thinking_switch:
            raise ValueError(
                "This model's chat template has no switch for thinking: it writes the same with thinking on and off."
            )
        return self._rendered(conversation, reply, thought, parts=self.parts)

    def _rendered(
        self,
        conversation: Conversation,
        reply: str | None = None,
        thought: str | None = None,
        *,
        parts: bool = False,
        begun: bool | None = None,
    ) -> str:
        """`begun`: whether the head of the reply's turn is asked for; by default where no reply is given."""
        messages: list[dict[str, Any]] = list(self._merged(conversation).messages)
        if reply is not None:
            messages.append({"role": "assistant", "content": reply})
            messages[-1] |= {name: thought for name in _THOUGHT if thought is not None}
        if parts:
            for message in messages:
                message["content"] = [{"type": "text", "text": message["content"]}]
        told = dict(conversation.template_kwargs)
        if conversation.thinking is not None:
            told = {**dict.fromkeys(_SWITCHES, conversation.thinking), **told}
        head = reply is None if begun is None else begun
        try:
            written = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=head, **told)
        except Exception as error:  # a template raises whatever Jinja gives it
            raise ValueError(f"The model's chat template refuses this conversation: {error}") from error
        return str(written)

    def _merged(self, conversation: Conversation) -> Conversation:
        """With the system prompt in the user's first turn, where the template knows no system role."""
        if conversation.system is None or len(conversation.turns) < 2 or self.has_system:
            return conversation
        system, first, *rest = conversation.turns
        return replace(conversation, turns=(Turn(first.role, f"{system.content}\n\n{first.content}"), *rest))

    # ── What is found of it ──

    @cached_property
    def parts(self) -> bool:
        """Whether it wants a message's content as a list of parts; as a text, where both will do."""
        refusals = []
        for parts in (False, True):
            try:
                written = self._rendered(_ASKED, parts=parts)
            except ValueError as error:
                refusals.append(error)
                continue
            if _ASKED.text in written:
                return parts
        if len(refusals) == 2:
            raise refusals[0]
        raise ValueError(
            "The model's chat template leaves out what the user says, given as text and as a list of parts: every "
            "prompt would be the same tokens."
        )

    @cached_property
    def has_system(self) -> bool:
        """Whether it knows a system role."""
        messages = [{"role": "system", "content": "xyzzy"}, {"role": "user", "content": "hello"}]
        if self.parts:
            messages = [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in messages]  # type: ignore[dict-item]
        try:
            return "xyzzy" in str(self.tokenizer.apply_chat_template(messages, tokenize=False))
        except Exception:  # a template raises whatever Jinja gives it
            return False

    @cached_property
    def has_thinking_switch(self) -> bool:
        """Whether thinking can be turned on and off."""
        on, off = (self._rendered(replace(_ASKED, thinking=one), parts=self.parts) for one in (True, False))
        return on != off

    @cached_property
    def structure(self) -> dict[int, str]:
        """Tokens that are no text: special ones, and added ones that it writes around turns. Typed, they stay text."""
        tokenizer = self.tokenizer
        added = {id: token for id, token in tokenizer.added_tokens_decoder.items()}
        special = {id: token.content for id, token in added.items() if token.special}
        special |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
        told = replace(_ASKED, turns=(*_ASKED.turns, Turn("assistant", _SAID[0]), *_ASKED.turns))
        written = self.ids(self._rendered(told, parts=self.parts))
        thoughts = {mark for pair in self.marks for mark in (pair.opening, pair.closing)}
        around = {id: added[id].content for id in written if id in added and added[id].content not in thoughts}
        return special | around

    @cached_property
    def end_of_turn(self) -> int | None:
        """The first token of its own that it writes behind a reply."""
        told = [self.ids(self._rendered(_ASKED, reply, parts=self.parts)) for reply in _SAID]
        behind = told[0][len(told[0]) - shared_end(told) :]
        return next((id for id in behind if id in self.structure), None)

    @property
    def ends(self) -> tuple[int, ...]:
        """What ends a reply: the end of the turn, and the tokenizer's end of a text."""
        eos: Any = self.tokenizer.eos_token_id
        return tuple(sorted({id for id in (self.end_of_turn, eos) if id is not None}))

    @cached_property
    def marks(self) -> tuple[Marks, ...]:
        """What stands around a thought: as the template writes one, and those released marks that are tokens here.

        None for a model that knows nothing of thoughts, so that it may write of them as of anything else.
        """
        tokens = {token.content for token in self.tokenizer.added_tokens_decoder.values()}
        source = str(self.tokenizer.chat_template)
        known = [one for one in KNOWN if one.closing in tokens or one.closing in source or one.opening in tokens]
        learned = self._learned_marks()
        return tuple(dict.fromkeys([*known, *([learned] if learned else [])]))

    def _learned_marks(self) -> Marks | None:
        """From a message with a thought, and one without."""
        thought, answer = "xyzzy hm", "plugh so"
        try:
            written, bare = (self._rendered(_ASKED, answer, thinks, parts=self.parts) for thinks in (thought, None))
            prompt = self._rendered(_ASKED, parts=self.parts)
        except ValueError:
            return None
        if thought not in written or answer not in written or written.index(thought) > written.index(answer):
            return None
        start = next((i for i, (a, b) in enumerate(zip(written, prompt, strict=False)) if a != b), len(prompt))
        opening = written[start : written.index(thought)].strip()
        closing = written[written.index(thought) + len(thought) : written.rindex(answer)].strip()
        before = bare[len(prompt) :].split(answer)[0].strip() if bare.startswith(prompt) else ""
        common = shared_end([closing, before])
        closing = closing[len(closing) - common :].strip() if 0 < common < len(closing) else closing
        return Marks(opening, closing) if opening and closing else None

    def digest(self, conversation: Conversation) -> str:
        """SHA-256 (16 hex digits) of what it writes around the user's words in such a conversation."""
        system = conversation.turns[:1] if conversation.system is not None else ()
        probe = replace(conversation, turns=(*system, *_ASKED.turns))
        return hashlib.sha256(self.text(probe).encode()).hexdigest()[:16]

    @property
    def dated(self) -> str | None:
        """Today's date, where the template may write it: tomorrow's prompts are then other tokens."""
        return date.today().isoformat() if "strftime_now" in str(self.tokenizer.chat_template) else None

    def require_head(self) -> None:
        """Refuse a template that does not write the head of the reply's turn, so that nobody would answer.

        Templates without such a head are right (Llama 2): behind their prompts the reply itself follows.
        """
        prompt, bare = (self._rendered(_ASKED, parts=self.parts, begun=begun) for begun in (True, False))
        told = self._rendered(_ASKED, _SAID[0], parts=self.parts)
        if prompt != bare or not told.startswith(prompt) or _SAID[0] not in told[len(prompt) :]:
            return
        between = told[len(prompt) :].split(_SAID[0])[0].strip()
        if between and not any(between.startswith(one.opening) for one in self.marks):
            raise ValueError(
                f"The model's chat template ignores add_generation_prompt: a prompt would end without {between!r}, "
                "behind which its replies begin. Mend the template: model.tokenizer.chat_template = '…'."
            )

    # ── Text to tokens ──

    def ids(self, text: str, *, as_text: bool = False) -> list[int]:
        """The ids of templated text: no special token is added, and with `as_text` none is recognised."""
        found = list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=as_text)["input_ids"])
        added = self.tokenizer.added_tokens_decoder
        if as_text and len(text) > 1 and any(id in added and added[id].content == text for id in found):
            return [*self.ids(text[:1], as_text=True), *self.continued(text[1:], as_text=True)]
        return found

    def continued(self, text: str, *, as_text: bool = False) -> list[int]:
        """The ids of text that is not at the beginning, where some tokenizers would put a space before it."""
        before = "\ue000"
        start = self.ids(before)
        if as_text and any(text == token.content for token in self.tokenizer.added_tokens_decoder.values()):
            return [*self.continued(text[:1], as_text=True), *self.continued(text[1:], as_text=True)]
        ids = self.ids(before + text, as_text=as_text)
        return ids[len(start) :] if ids[: len(start)] == start else self.ids(text, as_text=as_text)


def writing(model: Model) -> Writing:
    """How this model's chat template writes; asked once a template.

    Raises:
        ValueError: no tokenizer, no chat template, or one that no reply can follow.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise ValueError("This model has no tokenizer, so prompts cannot be put to it.")
    source = getattr(tokenizer, "chat_template", None)
    if not source:
        raise ValueError(
            "This model has no chat template, so there is no telling where its replies begin. If it is a chat model, "
            "give it one: model.tokenizer.chat_template = '…' (a Jinja template, as in its tokenizer_config.json)."
        )
    return _asked_once(tokenizer, str(source), str(tokenizer.eos_token), str(tokenizer.bos_token), len(tokenizer))


@lru_cache(maxsize=8)
def _asked_once(tokenizer: Any, *changes_with: Any) -> Writing:
    found = Writing(tokenizer)
    found.require_head()
    return found


def shared_end(rows: Sequence[Sequence[Any]]) -> int:
    """How many entries at their ends all rows have in common."""
    return sum(1 for _ in _alike(rows))


def _alike(rows: Sequence[Sequence[Any]]) -> Iterator[int]:
    for length in range(1, min(map(len, rows)) + 1):
        if len({row[-length] for row in rows}) > 1:
            return
        yield length
