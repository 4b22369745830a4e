"""Errors: what a caller did or a model does not allow, said in one sentence, and told apart from what is broken."""

from __future__ import annotations

import traceback
from pathlib import Path

_HERE = Path(__file__).parent


class Refused(ValueError):
    """A method cannot be fitted on this model with these prompts, as far as we can tell: a result, and no fault.

    Where methods are compared, only this counts as "could not be fitted".
    """


def is_ours(error: BaseException) -> bool:
    """Whether one of our own `raise` statements made this error, rather than a library or a slip of ours.

    numpy says "operands could not be broadcast" in a ValueError, too, which is no answer to a caller.
    """
    if isinstance(error, Refused):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not Path(frames[-1].filename).is_relative_to(_HERE):
        return False
    return (frames[-1].line or "raise").startswith("raise")
