"""Released: capability in the forms of SCANS' authors' code, to be held beside the paper's table 3 and nothing else.

They are not the standard forms (`questions` and `likelihoods` have those), and numbers of the two cannot be compared.
Written from the description of what that code does; what is said here to differ from it, differs on purpose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from scans_lens import likelihoods, questions, steering
from scans_lens.chat import prompt_ids, text_of
from scans_lens.flight import Flight
from scans_lens.methods.scans import SCANS
from scans_lens.model import Hook, Model
from scans_lens.pieces import Piece
from scans_lens.questions import Accuracy
from scans_lens.steering import Method, Rows

WINDOW = 2048
"""Tokens of a window, where the model has the context for it."""


@dataclass(frozen=True)
class Everywhere(Method):
    """SCANS whose push reaches every position of the context, as in the authors' MMLU.

    Their search for where the context ends does not find it there, so that nothing is left out. Sign and scale are
    decided as ever.
    """

    scans: SCANS
    whole_prompt: bool = True

    def decide(self, flight: Flight) -> Rows:
        return self.scans.decide(flight)

    def hooks_for(self, rows: Rows, flight: Flight) -> list[Hook]:
        return steering.add(self.scans.directions, self.scans.layers, rows["scale"], since=flight.since(0))


def mmlu(model: Model, scans: SCANS | None = None, **how: Any) -> Accuracy:
    """MMLU as the authors' code asks it: five answered questions, no chat template, every position pushed.

    Args:
        how: what `questions.mmlu` takes besides a method.
    """
    return questions.mmlu(model, None if scans is None else Everywhere(scans), **how)


@torch.no_grad()
def perplexity(
    model: Model,
    text: str,
    method: Method | None = None,
    *,
    window: int | None = None,
    limit: int | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> tuple[float, int]:
    """Perplexity as the authors' code has it: a window's first half is put as a prompt, its second half is the reply.

    exp of the mean of the windows' losses, each the mean over all tokens behind the first, those of the chat template
    and of the prompt among them. The push is decided from the first half, and acts from its end on.

    Args:
        text: one running text, cut into windows that do not overlap; what is left at the end is no window. A second
            half for which a template leaves too little room is cut at its end.
        window: tokens of the text in a window; by default `WINDOW`, or what the context leaves beside the template.
        limit: the first so many windows.

    Returns:
        The perplexity, and the number of windows.

    Raises:
        ValueError: a window that does not fit the context, or a text shorter than one window.
    """
    most, around = int(model.cfg.n_ctx), len(prompt_ids(model, "a"))
    window = min(WINDOW, most - 2 * around) if window is None else window
    if not 4 <= window <= most - around:
        raise ValueError(f"A window has from 4 to {most - around} tokens on this model, not {window}.")
    ids = list(model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    starts = range(0, len(ids) - window + 1, window)[:limit]
    if not starts:
        raise ValueError(f"The text has {len(ids)} tokens, fewer than one window of {window}.")
    given, told = [], []
    for start in starts:
        before = prompt_ids(model, text_of(model, ids[start : start + window // 2]))
        if len(before) >= most:  # a text may take more tokens when it is tokenised again
            raise ValueError(f"A first half takes {len(before)} of {most} tokens as a prompt: give a smaller window.")
        after = ids[start + window // 2 : start + window][: most - len(before)]
        given.append(Piece(tuple(before), context=1, scored=len(before) - 1, decided=False))
        told.append(Piece((*before, *after), context=len(before), scored=len(after)))
    how = {"batch_size": batch_size, "progress": progress}
    losses = [
        -(first.log_likelihood + second.log_likelihood) / (first.tokens + second.tokens)
        for first, second in zip(
            likelihoods.scored(model, given, **how), likelihoods.scored(model, told, method, **how), strict=True
        )
    ]
    return math.exp(sum(losses) / len(losses)), len(losses)
