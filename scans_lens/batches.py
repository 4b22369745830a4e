"""Batches: how many rows go through a model at once, and what is done again in halves where memory runs out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from scans_lens.cache import sides
from scans_lens.chat import Tokens, chat_tokens
from scans_lens.conversation import BARE, Askable, Asking
from scans_lens.model import Model, unembedding_of
from scans_lens.packing import free_bytes

Result = TypeVar("Result")

MOST_ROWS = 256
"""Rows beyond which a larger batch gains nothing worth its memory."""
BUSY = 10**10
"""Rows times parameters that keep a processor busy; a small model needs many rows for that."""
FEWEST = 64
"""Rows that pay with any model in float32, since a step of decoding reads all weights for however few; in half the
precision twice as many do. 256 XSTest prompts, 64 new tokens, Qwen2.5-Coder-0.5B in bfloat16 on two cores: 213 s by 64,
102 s all at once."""
SHARE = 0.5
"""Of the free memory, what a batch may take."""


def rows_at_once(model: Model, columns: int) -> int:
    """How many rows of so many tokens pay and fit into half of the memory that is free, by a rough count.

    Keys and values, what a layer holds at once with its attention scores, and logits are counted. On a processor more
    rows than keep it busy gain nothing; a GPU gains up to `MOST_ROWS`.
    """
    cfg, weights = model.cfg, unembedding_of(model)
    size, d_model, n_layers = weights.element_size(), int(cfg.d_model), int(cfg.n_layers)
    heads = int(getattr(cfg, "n_heads", 0) or 1)
    held = int(getattr(cfg, "n_key_value_heads", None) or heads) * int(getattr(cfg, "d_head", d_model // heads))
    d_mlp = int(getattr(cfg, "d_mlp", None) or 4 * d_model)
    row = columns * size * (2 * n_layers * held + 8 * d_model + 3 * d_mlp)
    row += 8 * heads * columns**2 + 12 * weights.shape[1]
    fit = int(SHARE * _free_bytes(weights.device)) // row
    parameters = n_layers * d_model * (4 * d_model + 3 * d_mlp) + weights.numel()
    fewest = FEWEST * 4 // size
    most = MOST_ROWS if weights.device.type == "cuda" else max(fewest, min(MOST_ROWS, BUSY // parameters))
    return max(1, min(most, fit))


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_bytes() or 4 * 2**30


def out_of_memory(error: BaseException) -> bool:
    """Whether this is what a library says when there is no memory left."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("out of memory", "not enough memory", "can't allocate memory")
    )


def free_memory() -> None:
    """Give back what nothing holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def in_batches(
    model: Model,
    whole: Tokens,
    work: Callable[[Int[Tensor, "row"], Tokens], Result],
    *,
    batch_size: int | None = None,
    more: int = 0,
    progress: str | None = None,
) -> Iterator[tuple[Int[Tensor, "row"], Result]]:
    """What `work` makes of batches of like length, each with its rows' places in the whole.

    Rows whose replies open in other ways, such as with thinking on and off, are not in one batch.

    A batch that does not fit the memory is done again in halves, and the later ones are as small as that; what was done
    before is kept. Texts that rotary positions treat otherwise are in batches of their own (see `cache.sides`).

    Args:
        work: from the rows' places in the whole, and their tokens.
        batch_size: rows at once; by default what `rows_at_once` says.
        more: columns that the work will add to each row.

    Raises:
        ValueError: a batch of less than one row.
        RuntimeError: even one row does not fit the memory.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"A batch holds at least one prompt, not {batch_size}.")
    lengths = whole.mask.sum(dim=1).cpu()
    groups = _groups(model, whole, lengths, more)
    order = torch.tensor(sorted(range(len(whole)), key=lambda row: (groups[row], int(lengths[row]))))
    size = batch_size or rows_at_once(model, whole.ids.shape[1] + more)
    hidden = progress is None or len(whole) <= size
    with tqdm(total=len(whole), desc=progress, unit="prompt", disable=hidden, leave=False) as bar:
        start = 0
        while start < len(order):
            rows = order[start : start + size]
            rows = rows[: sum(groups[row] == groups[int(rows[0])] for row in rows.tolist())]
            done, fits = _tried(work, rows, whole.at(rows, int(lengths[rows].max())))
            if not fits:
                size = len(rows) // 2
                free_memory()
                continue
            yield rows, done
            start += len(rows)
            bar.update(len(rows))


def token_batches(
    model: Model,
    prompts: Sequence[Askable],
    *,
    asking: Asking = BARE,
    batch_size: int | None = None,
    progress: str | None = None,
) -> Iterator[tuple[Int[Tensor, "row"], Tokens]]:
    """Prompts of like length together, each batch with its rows' places in the caller's list."""
    whole = chat_tokens(model, prompts, asking=asking)
    return in_batches(model, whole, lambda _, tokens: tokens, batch_size=batch_size, progress=progress)


def _groups(model: Model, whole: Tokens, lengths: Int[Tensor, "row"], more: int) -> list[tuple[int, int]]:
    """For every row, which opening and which rotary table it has; only rows that share both may be in a batch."""
    number: dict[tuple[int, ...], int] = {}
    openings = [number.setdefault(template.opening, len(number)) for template in whole.templates] or [0] * len(whole)
    return list(zip(openings, sides(model, lengths, more).tolist(), strict=True))


def _tried(
    work: Callable[[Int[Tensor, "row"], Tokens], Result], rows: Int[Tensor, "row"], tokens: Tokens
) -> tuple[Any, bool]:
    """What the work gives, and whether it fitted; a function of its own, so that what did not fit is let go of."""
    try:
        return work(rows, tokens), True
    except (RuntimeError, MemoryError) as error:
        if len(rows) == 1 or not out_of_memory(error):
            raise
        return None, False
