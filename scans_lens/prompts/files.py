"""Files: prompts and contrasts of the caller's own, from a file."""

from pathlib import Path
from typing import Any

from scans_lens.conversation import Prompt, conversation_in, key, lone_surrogate
from scans_lens.prompts import tables
from scans_lens.prompts.contrast import KINDS, Contrast
from scans_lens.prompts.sets import PromptSet


def own(path: str | Path) -> PromptSet:
    """The caller's own prompts, from a CSV, JSON, JSON-lines or parquet file with a column `prompt` or `messages`.

    `messages` holds conversations, each a list of turns `{"role": …, "content": …}` that ends with the user's (in a
    CSV file as JSON). A column `label` says what each is: harmful, harmless or borderline; safe (borderline) and unsafe
    (harmful) are understood, and without it all are borderline. A column `type` may divide them further. Names of
    columns and labels may be in either case.

    Raises:
        ValueError: no such file, one that cannot be read, no prompts or a blank one, an unknown label, or one prompt
            under two labels.
    """
    path, found = _rows(path)
    items, labels = [], {}
    labelled = False
    for number, row in enumerate(found, 1):
        prompt = _asked_in(path, number, row)
        label = _cell(row.get("label")).lower()
        labelled = labelled or bool(label)
        kind = {"safe": "borderline", "unsafe": "harmful", "": "borderline"}.get(label, label)
        if kind not in KINDS:
            raise ValueError(
                f"{path} has the label {label!r} in row {number}; there are {', '.join(KINDS)}, safe and unsafe."
            )
        first, before = labels.setdefault(key(prompt).casefold(), (number, kind))
        if before != kind:
            raise ValueError(f"{path} has one prompt as {before} in row {first} and as {kind} in row {number}.")
        items.append((prompt, kind, _cell(row.get("type"))))
    if not items:
        raise ValueError(f"{path} holds no prompts.")
    prompts, kinds, types = zip(*items, strict=True)
    return PromptSet(
        path.stem, prompts, kinds, types, source=path.name, licence="your own", citation="", labelled=labelled
    )


def own_contrast(path: str | Path) -> Contrast:
    """The caller's own contrast, from a file with columns `harmful` and `harmless`, and perhaps `borderline`.

    A side may be shorter than another: its cells are then left empty.

    Raises:
        ValueError: no such file, one that cannot be read, lacks a column or has a side without prompts.
    """
    path, found = _rows(path)
    if not path.read_bytes().strip():
        raise ValueError(f"{str(path)!r} is empty.")
    columns = list(found[0]) if found else ["harmful", "harmless"]
    if not {"harmful", "harmless"} <= set(columns):
        raise ValueError(f"{str(path)!r} needs columns harmful and harmless, and has {', '.join(columns)}.")
    sides = {side: [row[side] for row in found if _cell(row.get(side))] for side in KINDS if side in columns}
    for side, prompts in sides.items():
        for prompt in prompts:
            if isinstance(prompt, str) and lone_surrogate(prompt):
                raise ValueError(f"{str(path)!r} has half a character (a lone surrogate) in a {side} prompt.")
    return Contrast(name=path.stem, **sides)


def _rows(path: str | Path) -> tuple[Path, list[tables.Row]]:
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {str(path)!r}.")
    return path, tables.read(path)


def _asked_in(path: Path, number: int, row: tables.Row) -> Prompt:
    """The prompt of a row: its text, or its conversation."""
    if "prompt" not in row and "messages" not in row:
        columns = ", ".join(map(repr, row)) or "none"
        raise ValueError(f"{path} has no column 'prompt' or 'messages': its columns are {columns}.")
    text, turns = row.get("prompt"), row.get("messages")
    if turns is not None and _cell(turns):
        if text is not None and _cell(text):
            raise ValueError(f"{path} has a prompt and messages in row {number}: give one of the two.")
        try:
            prompt = conversation_in(turns)
        except ValueError as error:
            raise ValueError(f"{path} has no conversation in row {number}. {error}") from error
    else:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{path} has no prompt in row {number}.")
        prompt = text.strip()
    if lone_surrogate(key(prompt)):
        raise ValueError(f"{path} has half a character (a lone surrogate) in row {number}, which no tokenizer takes.")
    return prompt


def _cell(value: Any) -> str:
    """A cell's text; nothing where it is empty or, as pandas writes that, not a number."""
    return "" if value is None or value != value else str(value).strip()
