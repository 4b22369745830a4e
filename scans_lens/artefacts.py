"""Artefacts: what was learned, on disk as safetensors with a JSON header, and refused when it does not fit."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from scans_lens import hub
from scans_lens.fields import File, flat
from scans_lens.fields import later as later

if TYPE_CHECKING:
    from torch import Tensor

    from scans_lens.model import Identity, Model

FORMAT = 2
SITE = "blocks.{layer}.hook_resid_post"
EVERYWHERE = "every token of the prompt and of the reply"
FROM_THE_END = "from the last token of the prompt on: that token, and every token of the reply"
AS_STORED = "1 is the vector as stored, in units of the residual stream"

Kept = TypeVar("Kept", bound="Artefact")


def within(window: int | None) -> str:
    """Positions from the end of the prompt on, of which there may be a number."""
    if window is None:
        return FROM_THE_END
    return "the last token of the prompt" + (f" and the first {window - 1} of the reply" if window > 1 else "")


def versions() -> dict[str, str]:
    """Of the libraries that numbers depend on."""
    found = {}
    for name in ("scans_lens", "transformer-lens", "transformers", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@dataclass(frozen=True)
class Use:
    """One thing that a file's tensors are for, so that another program can do it without reading our code.

    A header has a list of these under `use`, in the order in which they are done.
    """

    operation: str
    """"add", "take out" or "unembed" act on a model; "read" only looks, and what it finds others use by its name."""
    site: str
    """A hook point in TransformerLens' words; `{layer}` stands for each of the layers."""
    positions: str
    """Of which tokens."""
    layers: tuple[int, ...]
    unit: str
    """What 1 of the scale, or of what is read, means."""
    formula: str
    """Of the tensors and fields of this file by their names, and x, what is at the site."""


def write(
    path: str | Path, kind: str, tensors: dict[str, Tensor], header: dict[str, Any], use: Collection[Use] = ()
) -> None:
    """Save beside the final place first, so that an interrupted write leaves no half file."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    about = json.dumps(header | ({"use": [asdict(one) for one in use]} if use else {}))
    try:
        save_file(own, aside, metadata={"kind": kind, "format": str(FORMAT), "header": about})
    except SafetensorError as error:
        aside.unlink(missing_ok=True)
        raise OSError(f"{str(path)!r} cannot be written: {error}") from error
    os.replace(aside, path)


def read(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file that `write` made.

    Raises:
        ValueError: there is no such file, it is broken or not safetensors, or it holds something else.
    """
    header = header_of(path, kind)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{str(path)!r} is no safetensors file, or it is cut short: {error}") from error
    if not all(tensor.isfinite().all() for tensor in tensors.values() if tensor.is_floating_point()):
        raise ValueError(f"{str(path)!r} holds numbers that are not finite.")
    return tensors, header


def header_of(path: str | Path, kind: str) -> dict[str, Any]:
    """The header of a file that `write` made, without its tensors and without torch; raises as `read` does."""
    about = _metadata(path)
    if about.get("kind") != kind:
        raise ValueError(f"{str(path)!r} holds no {kind}, but {about.get('kind', 'something of another program')}.")
    _require_format(path, about)
    try:
        header = json.loads(about.get("header", ""))
    except json.JSONDecodeError as error:
        raise ValueError(f"{str(path)!r} has a header that is missing or no JSON: {error}") from error
    if not isinstance(header, dict):
        raise ValueError(f"{str(path)!r} has a header that is a {type(header).__name__}, not an object of JSON.")
    return header


def require_ours(path: str | Path) -> None:
    """Refuse a file that `write` did not make, whatever it holds, without torch."""
    about = _metadata(path)
    if "kind" not in about:
        raise ValueError(f"{str(path)!r} holds nothing that `fit` has saved, but something of another program.")
    _require_format(path, about)


def _metadata(path: str | Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise ValueError(f"There is no file {str(path)!r}.")
    try:
        with safe_open(path, framework="np") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{str(path)!r} is no safetensors file, or it is cut short: {error}") from error


def _require_format(path: str | Path, about: Mapping[str, str]) -> None:
    if about.get("format") != str(FORMAT):
        raise ValueError(
            f"{str(path)!r} is in format {about.get('format')}, and this version reads format {FORMAT}: fit it again."
        )


# ── What is kept ─────────────────────────────────────────────────────────────────────────────────────────────


class Artefact:
    """A frozen dataclass that is kept in a file by what its annotations say; see `save` and `load`."""

    KIND: ClassVar[str]
    """What its file says it holds."""
    WHAT: ClassVar[str]
    """What it is, as the beginning of a sentence: "These SCANS vectors"."""
    trials: tuple[Any, ...]
    """What was tried in choosing it."""

    @property
    def measured_on(self) -> Identity | None:
        """The model that it fits, or None where that is not known."""
        raise NotImplementedError

    def uses(self) -> list[Use]:
        """What its tensors are for, for its file's header."""
        raise NotImplementedError

    def require_whole(self, owner: Identity | None) -> None:
        """Refuse parts that do not go together, with `require_layers` and its like.

        Args:
            owner: the model that it was measured on, or where that is not known, the one at hand.
        """

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with everything else in its header."""
        save(self, path)

    @classmethod
    def load(cls: type[Kept], path: str | Path, model: Model | None = None) -> Kept:
        """Read it back; with `model`, only if it was measured on that.

        Raises:
            ValueError: no such file, not safetensors, cut short, something else, or of another model.
        """
        return load(cls, path, model)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write it into a folder of its own, with a card that says how it came about, to be shared.

        Where the name of its model is that of a folder on this machine, what is written has the folder's own name.
        """
        folder, shared = Path(folder), _placeless(self)
        shared.save(folder / hub.FILE)
        (folder / hub.CARD).write_text(_card(shared), encoding="utf-8")
        return folder

    def push_to_hub(
        self, repo_id: str, *, private: bool = False, token: str | None = None, endpoint: str | None = None
    ) -> str:
        """Put it on a hub with its card; the repository is made where there is none (see `hub.put`).

        Returns:
            The repository's address.

        Raises:
            ValueError: no name of the form owner/name, or the hub does not take it.
        """
        with hub.put(repo_id, f"{self.KIND}, with scans_lens", private, token, endpoint) as upload:
            self.save_pretrained(upload.folder)
        return upload.address

    @classmethod
    def from_pretrained(
        cls: type[Kept],
        where: str | Path,
        model: Model | None = None,
        *,
        revision: str | None = None,
        token: str | None = None,
        endpoint: str | None = None,
    ) -> Kept:
        """Read it from a folder that `save_pretrained` wrote, or from a hub's repository owner/name.

        Raises:
            ValueError: there is no such folder or repository; or as `load` does.
        """
        return load(cls, hub.fetched(where, revision, token, endpoint), model)


def save(learned: Artefact, path: str | Path) -> None:
    """Write a frozen dataclass to a safetensors file.

    A tensor is named by the way to its field, such as `directions.vectors`. Everything else stands in the header as
    JSON, under the same names, with the shapes of tensors in their places.
    """
    tensors: dict[str, Tensor] = {}
    write(path, learned.KIND, tensors, flat("", type(learned), learned, tensors), learned.uses())


def load(kind: type[Kept], path: str | Path, model: Model | None = None) -> Kept:
    """Read back what `save` wrote; raises as `Artefact.load` does."""
    tensors, header = read(path, kind.KIND)
    file = File(str(path), kind.KIND, tensors)
    found = file.made("", kind, {name: value for name, value in header.items() if name != "use"})
    if more := sorted(set(tensors) - file.named):
        raise ValueError(f"{file.path!r} should hold {', '.join(sorted(file.named))}, and holds {', '.join(more)} too.")
    owner = found.measured_on
    if model is not None:
        from scans_lens.model import identity

        require_same_model(owner, identity(model), kind.WHAT)
        owner = owner or identity(model)
    try:
        found.require_whole(owner)
    except ValueError as error:
        raise ValueError(f"{file.path!r} holds parts that do not go together: {error}") from error
    return found


def require_layers(name: str, layers: Collection[int], n: int) -> None:
    """Refuse layers that there are not."""
    if not all(0 <= layer < n for layer in layers):
        raise ValueError(f"the {name} are {list(layers)}, and there are layers 0 to {n - 1}.")


def require_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse a tensor of another shape."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} is of shape {tuple(tensor.shape)}, which should be {shape}.")


def require_layers_of(owner: Identity | None, name: str, tensor: Tensor) -> None:
    """Refuse a tensor of [… layer d_model] where the model has other layers."""
    if owner is not None and tuple(tensor.shape[-2:]) != (owner.n_layers, owner.d_model):
        raise ValueError(
            f"{name} is of shape {tuple(tensor.shape)}, and the model has {owner.n_layers} layers of width "
            f"{owner.d_model}."
        )


# ── To be shared ─────────────────────────────────────────────────────────────────────────────────────────────


def _placeless(value: Any) -> Any:
    """The same with the last names alone, where an identity names a folder or a file on this machine."""
    from scans_lens.model import Identity

    if isinstance(value, Identity):
        return (
            dataclasses.replace(value, name=Path(value.name).name)
            if value.name and Path(value.name).exists()
            else value
        )
    if not is_dataclass(value) or isinstance(value, type):
        return value
    parts = {own.name: getattr(value, own.name) for own in dataclasses.fields(value)}
    changed = {name: shared for name, part in parts.items() if (shared := _placeless(part)) is not part}
    return dataclasses.replace(value, **changed) if changed else value


def _card(learned: Artefact) -> str:
    owner, kind = learned.measured_on, type(learned)
    return hub.card(
        learned.KIND,
        f"{kind.__module__}.{kind.__name__}",
        "" if owner is None else owner.title,
        "" if owner is None else f"{owner.architecture}, {owner.n_layers} layers, unembedding {owner.unembedding}",
        str(learned),
        [asdict(use) for use in learned.uses()],
        versions(),
    )


# ── Of which model ───────────────────────────────────────────────────────────────────────────────────────────


def require_same_model(found: Identity | None, model_identity: Identity, what: str) -> None:
    """Refuse what was measured on another model, saying which."""
    if found is None:
        return
    if found.n_layers != model_identity.n_layers or found.d_model != model_identity.d_model:
        raise ValueError(
            f"{what} were measured on another model ({found.name or 'unnamed'}), with {found.n_layers} layers of width "
            f"{found.d_model}; this one has {model_identity.n_layers} layers of width {model_identity.d_model}."
        )
    if not found.same_as(model_identity):
        raise ValueError(
            f"{what} were measured on another model ({found.name or found.architecture}, unembedding "
            f"{found.unembedding}) than this one ({model_identity.name or model_identity.architecture}, "
            f"unembedding {model_identity.unembedding})."
        )
