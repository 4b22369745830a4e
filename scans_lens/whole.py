"""Whole: whether every weight came from the files, and what the libraries that read them say, as one sentence."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from scans_lens.batches import out_of_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def require_whole(source: PreTrainedModel, info: Mapping[str, Any], where: str) -> None:
    """Refuse a model that does not have each of its weights from the files, or leaves some of the files' weights out.

    What transformers knows to be tied or harmless is not in its report. Left over may be what belongs to no part of
    this model (another head, a vision tower), and never what a part that is here would have used.
    """
    if info["missing_keys"]:
        left = set(info["unexpected_keys"])
        under = {key[: -len(name)] for name in info["missing_keys"] for key in left if key.endswith("." + name)}
        hint = f" (the files have them under the prefix {min(under)!r})" if under else ""
        raise ValueError(
            f"The model {where!r} is not whole: {len(info['missing_keys'])} weights that its configuration asks for "
            f"are not in its files, and would be drawn at random: {some(info['missing_keys'])}{hint}."
        )
    if info["mismatched_keys"]:
        shapes = [
            f"{name} {tuple(there)} in the files, {tuple(own)} here" for name, there, own in info["mismatched_keys"]
        ]
        raise ValueError(f"The weights of {where!r} have other shapes than its configuration asks for: {some(shapes)}.")
    parts = {name for name, _ in source.named_modules()} - {""}
    dropped = [name for name in info["unexpected_keys"] if _of_this_model(name, parts)]
    if dropped:
        raise ValueError(
            f"The files of {where!r} hold {len(dropped)} weights that its configuration has no place for, so it would "
            f"be another model without them: {some(dropped)}."
        )


_BUFFERS = (".inv_freq", ".masked_bias", ".k_scale", ".v_scale")
"""Names that older files keep beside weights, and that are computed or not used today."""


def _of_this_model(name: str, parts: set[str]) -> bool:
    """Whether a weight belongs to a part that is here, or to one more layer of those that are."""
    if name.endswith(_BUFFERS):
        return False
    path = name.split(".")
    if ".".join(path[:-1]) in parts:
        return True
    return any(
        word.isdigit() and ".".join([*path[:place], "0"]) in parts and ".".join(path[: place + 1]) not in parts
        for place, word in enumerate(path)
    )


def some(names: Iterable[str], most: int = 4) -> str:
    """The first names of a list, and how many more there are."""
    ordered = sorted(names)
    rest = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + rest


# ── What is said ─────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def told(what: str) -> Iterator[None]:
    """Whatever a library raises in here as one sentence, but for want of memory."""
    try:
        yield
    except Exception as error:
        if out_of_memory(error):
            raise
        raise ValueError(f"{what}. It said: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Loading without the libraries' progress bars, reports and notices of deprecation."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
