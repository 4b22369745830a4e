"""Conversations: a file's column `messages`, read and checked; with earlier turns, or a system turn before them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

ROLES = ("system", "user", "assistant")
Messages = tuple[dict[str, str], ...]
"""Turns as a chat template takes them, each with `role` and `content`; the last is the user's."""


def prompt_of(messages: Messages) -> Any:
    """What is put to a model: the words alone where there is one turn, and the turns where there are more."""
    return messages[0]["content"] if len(messages) == 1 else messages


def messages_in(value: Any) -> Messages:
    """The turns in a cell: a list of objects, or in a CSV file that list as JSON.

    Raises:
        ValueError: what is wrong with it, to be put behind "the messages in row 3".
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"are no JSON ({error})") from error
    if not isinstance(value, list) or not value:
        raise ValueError('are no list of turns, such as [{"role": "user", "content": "Why?"}]')
    turns = tuple(_turn(number, one) for number, one in enumerate(value, 1))
    late = next((number for number, turn in enumerate(turns[1:], 2) if turn["role"] == "system"), None)
    if late is not None:
        raise ValueError(f"have a system turn in place {late}: there may be one, and it comes first")
    if turns[-1]["role"] != "user":
        raise ValueError(f"end with a turn of the {turns[-1]['role']}: the last turn is the user's")
    return turns


def _turn(number: int, turn: Any) -> dict[str, str]:
    if not isinstance(turn, Mapping):
        raise ValueError(f"have {turn!r} for turn {number}, and a turn has a role and a content")
    own = {name: value for name, value in turn.items() if value is not None}  # a column of parquet has every key
    if set(own) != {"role", "content"}:
        raise ValueError(f"have a turn {number} with {', '.join(map(str, own)) or 'nothing'}: give role and content")
    if own["role"] not in ROLES:
        raise ValueError(f"have the role {own['role']!r} in turn {number}; there are {', '.join(ROLES)}")
    if not isinstance(own["content"], str) or not own["content"].strip():
        raise ValueError(f"say nothing in turn {number}: its content is {own['content']!r}, and should be text")
    return {"role": own["role"], "content": own["content"]}
