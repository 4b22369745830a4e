"""Conversation: what a model is asked, turn by turn, and how: under which system prompt, with or without thinking."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

Message: TypeAlias = Mapping[str, Any]
"""A turn as chat templates and chat APIs have it: {"role": "user", "content": "…"}."""


@dataclass(frozen=True)
class Turn:
    """What one side said."""

    role: str
    """"system", "user" or "assistant", or what else the template knows."""
    content: str


@dataclass(frozen=True)
class Conversation:
    """Turns up to the user's, which the model is to answer next.

    Read and steered from the end of its last turn on. A prompt that is a string is a conversation of one turn.
    """

    turns: tuple[Turn, ...]
    thinking: bool | None = None
    """On, off, or what the template does when it is not told."""
    template_kwargs: tuple[tuple[str, Any], ...] = ()
    """What else the template is told, as pairs in the order of their names."""

    @classmethod
    def of(cls, messages: Sequence[Message]) -> Conversation:
        """A conversation of messages as chat templates and chat APIs have them.

        Raises:
            ValueError: no message, one without a role or without text, a late system prompt, or a last message that is
                not the user's.
        """
        if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence):
            raise ValueError(f"A conversation is a list of messages, not {type(messages).__name__}.")
        if not messages:
            raise ValueError("There are no messages in the conversation: the list is empty.")
        turns = tuple(_turn(place, message) for place, message in enumerate(messages))
        if turns[-1].role != "user":
            raise ValueError(f"A conversation ends with what the user says, and this one with {turns[-1].role!r}.")
        return cls(turns)

    @property
    def text(self) -> str:
        """What the user said last."""
        return self.turns[-1].content

    @property
    def before(self) -> tuple[Turn, ...]:
        """The turns before the last one."""
        return self.turns[:-1]

    @property
    def system(self) -> str | None:
        """The system prompt that it begins with."""
        return self.turns[0].content if self.turns[0].role == "system" else None

    @property
    def messages(self) -> list[dict[str, str]]:
        """As chat templates have it."""
        return [{"role": turn.role, "content": turn.content} for turn in self.turns]

    def __str__(self) -> str:
        return json.dumps(self.messages, ensure_ascii=False)

    def with_system(self, system: str) -> Conversation:
        """The same under this system prompt, which comes before the one that is there."""
        own = self.system
        said = Turn("system", system if own is None else f"{system}\n\n{own}")
        return replace(self, turns=(said, *(self.turns if own is None else self.turns[1:])))


Prompt: TypeAlias = str | Conversation
"""What a model is asked: what a user says, or a whole conversation."""
Askable: TypeAlias = Prompt | Sequence[Message]
"""What may be handed over as a prompt: a list of messages is made a `Conversation`."""


def _turn(place: int, message: Any) -> Turn:
    if isinstance(message, Turn):
        return message
    if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
        raise ValueError(f"Message {place} of the conversation has no role and content: {message!r:.60}.")
    role, content = message["role"], message["content"]
    if isinstance(content, Sequence) and not isinstance(content, str):  # text in parts, as some APIs have it
        parts: list[Any] = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        content = "".join(parts) if parts and all(isinstance(part, str) for part in parts) else None
    if not isinstance(role, str) or not role.strip() or not isinstance(content, str):
        raise ValueError(f"Message {place} of the conversation is not text: {message!r:.60}.")
    if not content.strip() and role != "system":  # an empty system prompt takes a template's own away
        raise ValueError(f"Message {place} of the conversation says nothing: {message!r:.60}.")
    if role == "system" and place:
        raise ValueError(f"Message {place} of the conversation is a system prompt, which comes first or not at all.")
    return Turn(role, content)


def conversation_in(cell: Any) -> Conversation:
    """The conversation in a file's cell: a list of messages, or in a CSV file that list as JSON.

    Raises:
        ValueError: it holds none.
    """
    if isinstance(cell, str):
        try:
            found = json.loads(cell)
        except json.JSONDecodeError as error:
            raise ValueError(f"What should be messages is no JSON ({error}).") from error
    else:
        found = cell
    return Conversation.of(found)


def lone_surrogate(text: str) -> str | None:
    """Half of a character's UTF-16 code that stands in a text, as broken JSON and shells leave it behind."""
    return next((letter for letter in text if "\ud800" <= letter <= "\udfff"), None)


def conversation_of(prompt: Askable) -> Conversation:
    """A prompt as a conversation."""
    if isinstance(prompt, str):
        return Conversation((Turn("user", prompt),))
    return prompt if isinstance(prompt, Conversation) else Conversation.of(prompt)


def words(prompt: Prompt) -> str:
    """What the user said last."""
    return prompt if isinstance(prompt, str) else prompt.text


def asked_by_user(prompt: Prompt) -> str:
    """Everything that the user said in it, by which prompts of two lists are the same."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(turn.content for turn in prompt.turns if turn.role == "user")


def key(prompt: Prompt) -> str:
    """What tells it from every other prompt: its text, or all its turns and how it is asked."""
    if isinstance(prompt, str):
        return prompt
    asked = {"thinking": prompt.thinking, **dict(prompt.template_kwargs)} if asking_of(prompt) else {}
    return str(prompt) + (json.dumps(asked, sort_keys=True) if any(one is not None for one in asked.values()) else "")


def checked(prompts: Sequence[Askable]) -> list[Prompt]:
    """The prompts as a list of strings and conversations, or one clear sentence about what is wrong with them."""
    if isinstance(prompts, (str, Conversation)):
        one = "string" if isinstance(prompts, str) else "conversation"
        raise ValueError(f"Expected a list of prompts and got one {one}; put it in a list: [prompt].")
    prompts = list(prompts)
    if not prompts:
        raise ValueError("There are no prompts: the list is empty.")
    if any(isinstance(prompt, Mapping) and "role" in prompt for prompt in prompts):
        raise ValueError("Expected a list of prompts and got the messages of one conversation: [messages] is a list.")
    return [_checked(place, prompt) for place, prompt in enumerate(prompts)]


def _checked(place: int, prompt: Any) -> Prompt:
    if isinstance(prompt, Sequence) and not isinstance(prompt, str):
        try:
            prompt = Conversation.of(prompt)
        except ValueError as error:
            raise ValueError(f"Prompt {place} is no conversation. {error}") from None
    if not isinstance(prompt, (str, Conversation)):
        raise ValueError(f"Prompt {place} is {type(prompt).__name__}, not a string: {prompt!r:.60}.")
    said = [prompt] if isinstance(prompt, str) else [turn.content for turn in prompt.turns]
    if not said[-1].strip():
        raise ValueError(f"Prompt {place} is empty.")
    broken = next(filter(None, map(lone_surrogate, said)), None)
    if broken is not None:
        raise ValueError(
            f"Prompt {place} holds {broken!r}, half of a character (a lone surrogate), which is no text: it comes "
            "from bytes that were not read as UTF-8."
        )
    return prompt


# ── How ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Asking:
    """How prompts are put to a model: what stands around the user's words, the same for all of them.

    It travels with what was learned and measured under it, since directions, thresholds and refusals hang on it.
    """

    system: str | None = None
    """A system prompt; without a system role in the template it goes into the user's first turn."""
    thinking: bool | None = None
    """Thinking on or off, for templates that have a switch; None is what the template does when it is not told."""
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """What else the template is told, such as {"reasoning_effort": "low"} or {"date_string": "1 Jan 2026"}."""

    def __post_init__(self) -> None:
        if self.system is not None and not isinstance(self.system, str):
            raise ValueError(f"A system prompt is a string, not {type(self.system).__name__}.")
        if self.thinking not in (None, True, False):
            raise ValueError(f"Thinking is True, False or None, not {self.thinking!r}.")
        try:
            json.dumps(dict(self.template_kwargs))
        except TypeError as error:
            raise ValueError(f"The template can be told numbers and text, as JSON has them: {error}.") from None
        object.__setattr__(self, "template_kwargs", dict(self.template_kwargs))

    def __bool__(self) -> bool:
        return self != Asking()

    def __str__(self) -> str:
        """In words, for tables and sentences: "a system prompt (…), thinking off"."""
        said = []
        if self.system is not None:
            start = self.system if len(self.system) <= 40 else f"{self.system[:39]}…"
            said.append(f"the system prompt {start!r}")
        if self.thinking is not None:
            said.append(f"thinking {'on' if self.thinking else 'off'}")
        said += [f"{name} {value!r}" for name, value in sorted(self.template_kwargs.items())]
        return ", ".join(said) or "as the template has it"

    def of(self, prompt: Askable) -> Prompt:
        """The prompt put in this way; nothing is lost that it says of itself.

        Raises:
            ValueError: it has a system prompt, or a switch for thinking, of its own that is another one.
        """
        if not self and isinstance(prompt, (str, Conversation)):
            return prompt
        asked = conversation_of(prompt)
        if self.system is not None:
            if asked.system not in (None, self.system):
                raise ValueError(
                    "A conversation has a system prompt of its own, and another one was given for all: take one of "
                    "the two."
                )
            asked = asked if asked.system is not None else asked.with_system(self.system)
        if self.thinking is not None:
            if asked.thinking not in (None, self.thinking):
                raise ValueError("A conversation says itself whether to think, and otherwise than what was given.")
            asked = replace(asked, thinking=self.thinking)
        told = {**self.template_kwargs, **dict(asked.template_kwargs)}
        return replace(asked, template_kwargs=tuple(sorted(told.items())))

    def to_dict(self) -> dict[str, Any]:
        """As a JSON header has it."""
        return {"system": self.system, "thinking": self.thinking, "template_kwargs": dict(self.template_kwargs)}


BARE = Asking()
"""Nothing but what the user says, in the template as it is."""


def asking_of(prompt: Prompt) -> Asking:
    """How a prompt is put."""
    if isinstance(prompt, str):
        return BARE
    return Asking(prompt.system, prompt.thinking, dict(prompt.template_kwargs))
