"""Transfer: what becomes of a fit when prompts are put in another way than those that it was learned from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from scans_lens import judges
from scans_lens.calibration import Curves, curves
from scans_lens.chat import template
from scans_lens.conversation import Asking, Prompt
from scans_lens.errors import Refused
from scans_lens.generation import Replies, replies_under
from scans_lens.judges import Judge
from scans_lens.methods.scans import SCANS
from scans_lens.model import Model
from scans_lens.prompts import Contrast
from scans_lens.rates import Rate
from scans_lens.world import world_of


@dataclass(frozen=True)
class Cell:
    """One fit, used on prompts that are put in one way."""

    used: Asking
    fitted: Asking | None
    """How the prompts were put that it was learned from; None is the plain model."""
    curves: Curves | None
    """How well its score tells the harmful prompts from the others; None without a method."""
    harmful: Rate
    """Refused."""
    others: Rate
    """Refused, of borderline prompts where there are some, else of harmless ones."""
    unfinished: int
    """Replies that were cut while the model was still thinking, and refuse nothing."""


@dataclass(frozen=True)
class Transfer:
    """Every fit on prompts put in every way."""

    cells: tuple[Cell, ...]
    unfitted: Mapping[str, str]
    """Ways of putting prompts under which nothing could be fitted, each with the reason."""


def across_askings(
    model: Model,
    askings: Sequence[Asking],
    fit: Callable[[Asking], SCANS],
    contrast: Contrast,
    *,
    judge: Judge | None = None,
    max_new_tokens: int = 64,
    batch_size: int | None = None,
    progress: bool = True,
) -> Transfer:
    """Every fit on the same prompts put in every way, beside the plain model.

    Args:
        askings: ways of putting prompts, two at least; a fit is made under each.
        fit: from a way of putting prompts to SCANS as it is fitted under it.
        contrast: prompts that nothing was learned from or chosen on.
        judge: whether a reply refuses; by default the exact one for the bundled model, the panel for any other.

    Raises:
        ValueError: fewer than two ways, or one that the model's chat template does not know.
    """
    if len(askings) < 2:
        raise ValueError("A transfer is from one way of putting prompts to another: give two at least.")
    for asking in askings:  # before anything is fitted
        template(model, asking=asking)
    fits: list[tuple[Asking | None, SCANS | None]] = [(None, None)]
    unfitted = {}
    for asking in askings:
        try:
            fits.append((asking, fit(asking)))
        except Refused as error:
            unfitted[str(asking)] = str(error)
    judge = judge or world_of(model).judge
    others = contrast.borderline or contrast.harmless
    prompts: list[Prompt] = [*contrast.harmful, *others]
    cells = []
    for used in askings:
        how = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "progress": progress}
        said = replies_under(model, prompts, [method for _, method in fits], asking=used, **how)
        for (fitted, _), own in zip(fits, said, strict=True):
            cells.append(_cell(used, fitted, own, len(contrast.harmful), judge))
    return Transfer(tuple(cells), unfitted)


def _cell(used: Asking, fitted: Asking | None, said: Replies, n_harmful: int, judge: Judge) -> Cell:
    no = judges.refused(judge, said)
    score = said.score
    told = None
    if score is not None:
        values = score.double().cpu().numpy()
        told = curves(values[:n_harmful], values[n_harmful:])
    return Cell(used, fitted, told, Rate.of(no[:n_harmful]), Rate.of(no[n_harmful:]), said.finished.count(False))
