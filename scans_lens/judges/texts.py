"""Texts: what of a reply is judged, and when there is nothing in it to judge."""

from __future__ import annotations

import re

from scans_lens.thoughts import apart

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_LOOP = 48
"""Words at the end of a reply in which a loop is looked for."""
_STUTTER = re.compile(r"(\S{0,6}?[^\W\d_]\S{0,6}?)\1{11,}\S{0,12}$")
"""A piece of a word, with a letter in it, that is said a dozen times without a space at the end of a reply."""


def said(reply: str) -> str:
    """What was said: the answer without the thought before it, with straight apostrophes.

    Empty where the thought is not finished. Thoughts are known by the marks of released models; `Replies` come without
    them, told apart by what the model itself writes around its thoughts.
    """
    return apart(reply).answer.replace("\u2019", "'").strip()


def sentences(text: str) -> list[str]:
    """Its sentences, roughly."""
    return _SENTENCE.split(text)


def is_degenerate(text: str) -> bool:
    """Whether there is nothing to judge: no text, one that runs in a circle, or one that is not in Latin letters.

    It runs in a circle when the last 48 words hold less than half of the four-word sequences that they could (of 1,350
    replies of three chat models to XSTest none holds less than three quarters), and when it ends in a dozen of the same
    without a space ("IIIIIIIIIIIIII").
    """
    letters = [letter for letter in text if letter.isalpha()]
    if len(letters) < 2 or sum(letter < "\u0250" for letter in letters) < len(letters) / 2:
        return True
    if _STUTTER.search(text):
        return True
    last = text.lower().split()[-_LOOP:]
    runs = [tuple(last[place : place + 4]) for place in range(len(last) - 3)]
    return len(last) >= _LOOP // 2 and len(set(runs)) < len(runs) / 2
