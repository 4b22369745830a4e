"""Keeping: fits that commands make for themselves, in the user's cache, by everything that they depend on."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from scans_lens.conversation import BARE, Asking
from scans_lens.effort import STANDARD, Effort
from scans_lens.errors import Refused
from scans_lens.models.home import home

if TYPE_CHECKING:
    from scans_lens.methods.scans import SCANS
    from scans_lens.prompts import Contrast

ROOT = Path(__file__).parent.parent
SHOWING = ("shell", "figures", "report", "reproduce", "__main__.py", "explain.py", "check.py")
"""Rooms and files that only show or command what others have done; whatever else there is may change a fit."""
WEIGHTS = "organism/weights"
"""Of the bundled model, whose identity stands for it."""


@functools.cache
def code() -> str:
    """A hash of everything in the package that a fit could depend on: sources, prompts, judges.

    A version number would have to be thought of whenever something changes; this has not.
    """
    found = sha256()
    for file in sorted(ROOT.rglob("*")):
        place = file.relative_to(ROOT)
        skipped = place.parts[0] in SHOWING or place.as_posix().startswith(WEIGHTS) or "__pycache__" in place.parts
        if file.is_file() and not skipped and file.suffix in (".py", ".csv", ".json", ".safetensors"):
            found.update(f"{place.as_posix()}\0".encode() + file.read_bytes())
    return found.hexdigest()


def terms(model: Any, anchors: Contrast, validation: Contrast | None, asking: Asking, effort: Effort) -> dict[str, Any]:
    """All that SCANS as it is fitted here depends on."""
    from scans_lens.artefacts import versions
    from scans_lens.model import identity, is_bridge, unembedding_of

    weights, tokenizer = unembedding_of(model), model.tokenizer
    return {
        "model": {**asdict(identity(model)), "name": ""},
        "template": str(getattr(tokenizer, "chat_template", "")),
        "tokens": sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest(),
        "dtype": str(weights.dtype),
        "device": weights.device.type,
        "bridge": is_bridge(model),
        "anchors": anchors.digest,
        "validation": validation.digest if validation else None,
        "asking": asking.to_dict(),
        "effort": effort.to_dict(),
        "code": code(),
        "versions": versions(),
    }


def place(of: dict[str, Any]) -> Path:
    """The file that a fit under these terms is kept in."""
    key = sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:16]
    return home() / "fits" / f"scans-{key}.safetensors"


def kept(model: Any, refit: bool, draw: int | None = None, asking: Asking = BARE, effort: Effort = STANDARD) -> SCANS:
    """SCANS for this model as an earlier call has fitted it, or fitted now and kept in the user's cache folder.

    With a draw, of a random half of the anchors; knobs are chosen on the same validation prompts as ever.
    """
    from scans_lens.anchoring import default_anchors
    from scans_lens.evaluation import half
    from scans_lens.methods.choosing import learning_prompts
    from scans_lens.methods.scans import SCANS

    anchors = default_anchors(model)
    if draw is not None:
        anchors = half(anchors, draw)
    validation = learning_prompts(model, None, None, 0)[1]
    file = place(terms(model, anchors, validation, asking, effort))
    if file.is_file() and not refit:
        try:
            return SCANS.load(file, model)
        except ValueError:
            typer.echo(f"What was kept in {file} cannot be read, so it is fitted again.", err=True)
    of = ("" if draw is None else f" on half {draw} of the anchors") + (f" with {asking}" if asking else "")
    typer.echo(f"Fitting SCANS{of}; the next call will find it kept.", err=True)
    try:
        method = SCANS.fit(model, anchors, validation=validation, asking=asking, effort=effort)
    except Refused as error:
        raise ValueError(f"SCANS could not be fitted{of}: {error}") from error
    try:
        method.save(file)
    except OSError:
        typer.echo(f"It could not be kept in {file}.", err=True)
    return method
