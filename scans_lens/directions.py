"""Directions: where refusal points, one vector a layer, learned as a difference of means."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from scans_lens import artefacts
from scans_lens.artefacts import AS_STORED, FROM_THE_END, SITE, Artefact, Use
from scans_lens.chat import template_record
from scans_lens.conversation import BARE, Asking
from scans_lens.errors import Refused
from scans_lens.flight import Flight
from scans_lens.model import Identity, Model, identity, resid_post
from scans_lens.prompts import Contrast
from scans_lens.reading import Readings, mean_residuals, residuals


@runtime_checkable
class Cache(Protocol):
    """TransformerLens' `ActivationCache`, a dict, or what else gives a tensor for a hook's name."""

    def __getitem__(self, name: str, /) -> Tensor: ...


@dataclass(frozen=True)
class Origin:
    """What something was measured with."""

    model: Identity | None
    contrast: str
    digest: str
    """Of the contrast's prompts; empty where only their states were given."""
    n_harmful: int
    n_harmless: int
    versions: Mapping[str, str]
    position: str = "end of prompt"
    asking: Asking | None = BARE
    """How its prompts were put; None where they were put in several ways."""
    template: Mapping[str, str | None] = field(default_factory=dict)
    """What the chat template was (see `chat.template_record`)."""

    @property
    def on(self) -> str:
        """Where the model's weights were packed, a clause that says so, for what is printed; else nothing."""
        return f" on {self.model.title}" if self.model is not None and self.model.weights else ""

    def require(self, flight: Flight, what: str) -> None:
        """Refuse a batch on its way through another model, and say it where prompts are put in another way.

        Args:
            what: what is used, as the beginning of a sentence: "These directions".
        """
        artefacts.require_same_model(self.model, identity(flight.model), what)
        written = self.template.get("written")
        other = next((one for one in flight.templates if written and one.digest and one.digest != written), None)
        if other is not None and self.asking is not None and other.asking != self.asking:
            warnings.warn(
                f"{what} were learned with prompts put {_put(self.asking, other.asking)}, and these are put "
                f"{_put(other.asking, self.asking)}: what was found under the one need not hold under the other "
                "(`python -m scans_lens transfer` measures it).",
                stacklevel=3,
            )


def _put(asking: Asking, other: Asking) -> str:
    """In what a way of asking differs from another, without the words of system prompts, of which there may be many."""
    said = []
    if asking.thinking != other.thinking:
        said.append(
            {True: "with thinking on", False: "with thinking off", None: "with thinking as by default"}[asking.thinking]
        )
    if asking.system != other.system:
        kind = "another" if asking.system is not None and other.system is not None else "a"
        said.append("without a system prompt" if asking.system is None else f"under {kind} system prompt")
    if asking.template_kwargs != other.template_kwargs:
        said.append(f"with {dict(asking.template_kwargs)} for the template")
    return " and ".join(said)


@dataclass(frozen=True)
class Directions(Artefact):
    """One vector per layer, pointing from harmless prompts towards harmful ones."""

    KIND = "directions"
    WHAT = "These directions"
    trials = ()

    vectors: Float[Tensor, "layer d_model"]
    """In residual-stream units at `blocks.l.hook_resid_post`."""
    residual_norms: Float[Tensor, "layer"]
    """Mean norm of the residual stream at the same place, over the prompts of both sides."""
    origin: Origin

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.residual_norms.shape != self.vectors.shape[:1]:
            raise ValueError(
                f"Directions are one vector a layer, with one norm each; got vectors of shape "
                f"{tuple(self.vectors.shape)} and norms of shape {tuple(self.residual_norms.shape)}."
            )

    def __len__(self) -> int:
        return self.vectors.shape[0]

    def __repr__(self) -> str:
        layers, width = self.vectors.shape
        return f"Directions({layers} layers of width {width}, from {self.origin.contrast!r})"

    def unit(self) -> Directions:
        """The same directions at length 1, so that a scale is an absolute length (the release's alpha)."""
        return replace(self, vectors=self._units())

    def in_residual_norms(self) -> Directions:
        """The same directions at the length of the layer's mean residual, so that a scale is a share of it."""
        return replace(self, vectors=self._units() * self.residual_norms[:, None])

    def random(self, seed: int) -> Directions:
        """A placebo: random directions, each as long as this one's layer; what any push of that size would do."""
        drawn = torch.randn(self.vectors.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        lengths = self.vectors.double().norm(dim=1, keepdim=True)
        drawn = drawn / drawn.norm(dim=1, keepdim=True) * lengths.cpu()
        return replace(self, vectors=drawn.to(self.vectors.device, self.vectors.dtype))

    def shuffled(self, model: Model, contrast: Contrast, seed: int, *, batch_size: int | None = None) -> Directions:
        """A placebo: directions of this contrast under labels that mean nothing, each as long as this one's layer."""
        harmful, harmless = (
            residuals(model, side, batch_size=batch_size, progress=False)
            for side in (contrast.harmful, contrast.harmless)
        )
        drawn = shuffled_difference(harmful, harmless, torch.Generator().manual_seed(seed)).float()
        lengths = self.vectors.norm(dim=1, keepdim=True).cpu()
        drawn = drawn / drawn.norm(dim=1, keepdim=True) * lengths
        return replace(self, vectors=drawn.to(self.vectors.device, self.vectors.dtype))

    def _units(self) -> Tensor:
        lengths = self.vectors.norm(dim=1, keepdim=True)
        if bool((lengths == 0).any()):
            raise Refused("A direction of length 0 has no unit vector: the two sides do not differ at some layer.")
        return self.vectors / lengths

    @property
    def measured_on(self) -> Identity | None:
        return self.origin.model

    def uses(self) -> list[Use]:
        return [added(range(len(self)), formula="x + scale * vectors[layer]")]

    def require_whole(self, owner: Identity | None) -> None:
        artefacts.require_layers_of(owner, "vectors", self.vectors)

    @classmethod
    def from_caches(
        cls,
        harmful_cache: Cache,
        harmless_cache: Cache,
        *,
        position: int = -1,
        name: str = "caches",
        model: Model | None = None,
    ) -> Directions:
        """Directions from TransformerLens caches that are already there.

        Args:
            harmful_cache, harmless_cache: with `blocks.l.hook_resid_post` [prompt pos d_model] for every layer.
            position: where in the sequence to read; the last column, for prompts padded on the left.
            model: recorded as the origin, if given.

        Raises:
            ValueError: a cache lacks layers.
        """
        harmful, harmless = (_states(cache, position) for cache in (harmful_cache, harmless_cache))
        found = harmful.shape[1], harmless.shape[1]
        if found[0] != found[1] or (model is not None and found[0] != int(model.cfg.n_layers)):
            expected = f"; the model has {model.cfg.n_layers}" if model is not None else ""
            raise ValueError(f"The caches hold the first {found[0]} and {found[1]} layers{expected}: keep every layer.")
        origin = Origin(
            model=identity(model) if model is not None else None,
            contrast=name,
            digest="",
            n_harmful=harmful.shape[0],
            n_harmless=harmless.shape[0],
            versions=artefacts.versions(),
            position=f"column {position}",
        )
        norms = (harmful.norm(dim=-1).mean(dim=0) + harmless.norm(dim=-1).mean(dim=0)) / 2
        return cls(difference_of_means(harmful, harmless).float(), norms.float(), origin)


def added(
    layers: Iterable[int],
    *,
    site: str = SITE,
    positions: str = FROM_THE_END,
    unit: str = AS_STORED,
    formula: str = "x + scale * directions.vectors[layer]",
) -> Use:
    """What a file's header says of vectors that are added, each at its own layer."""
    return Use("add", site, positions, tuple(int(layer) for layer in layers), unit, formula)


def difference_of_means(
    harmful: Float[Tensor, "harmful layer d_model"],
    harmless: Float[Tensor, "harmless layer d_model"],
) -> Float[Tensor, "layer d_model"]:
    """Mean state of the harmful prompts minus that of the harmless ones, in float64 (SCANS, eq. 1)."""
    return harmful.double().mean(dim=0) - harmless.double().mean(dim=0)


def shuffled_difference(
    harmful: Float[Tensor, "harmful layer d_model"],
    harmless: Float[Tensor, "harmless layer d_model"],
    generator: torch.Generator,
) -> Float[Tensor, "layer d_model"]:
    """A placebo: the difference of means of the same states under labels that mean nothing.

    Each side gets half of the harmful prompts and half of the harmless ones: where the kinds lie far apart, an
    unbalanced shuffle at full length would only be the true direction again, or minus it.
    """
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    for states in (harmful, harmless):
        mixed = states[torch.randperm(len(states), generator=generator)]
        half = len(mixed) // 2
        sides[0].append(mixed[:half])
        sides[1].append(mixed[half : 2 * half])
    return difference_of_means(torch.cat(sides[0]), torch.cat(sides[1]))


def components(
    states: Float[Tensor, "prompt layer d_model"], vectors: Float[Tensor, "layer d_model"]
) -> Float[Tensor, "prompt layer"]:
    """Inner product of each state with its layer's vector; along unit vectors, a length in the residual stream."""
    return einsum(states, vectors, "prompt layer d_model, layer d_model -> prompt layer")


def _states(cache: Cache, position: int) -> Float[Tensor, "prompt layer d_model"]:
    states = []
    while True:
        try:
            states.append(cache[resid_post(len(states))][:, position].detach().cpu().double())
        except (KeyError, AssertionError):
            break
    if not states:
        raise ValueError(f"The cache has no {resid_post(0)!r}; run with names_filter that keeps it for every layer.")
    return torch.stack(states, dim=1)


@torch.no_grad()
def refusal_directions(
    model: Model, contrast: Contrast, *, batch_size: int | None = None, progress: bool = True
) -> Directions:
    """From answering towards refusing: mean over harmful minus mean over harmless prompts (SCANS, eq. 1).

    Read at the last prompt token, `blocks.l.hook_resid_post`, every layer; summed in float64 as the
    batches come, so memory does not grow with the number of prompts. Raw vectors, as in the paper.
    """
    harmful, harmful_norms = mean_residuals(model, contrast.harmful, batch_size=batch_size, progress=progress)
    harmless, harmless_norms = mean_residuals(model, contrast.harmless, batch_size=batch_size, progress=progress)
    return Directions(
        vectors=(harmful - harmless).float(),
        residual_norms=((harmful_norms + harmless_norms) / 2).float(),
        origin=origin_of(model, contrast),
    )


def origin_of(model: Model, contrast: Contrast) -> Origin:
    return Origin(
        model=identity(model),
        contrast=contrast.name,
        digest=contrast.digest,
        n_harmful=len(contrast.harmful),
        n_harmless=len(contrast.harmless),
        versions=artefacts.versions(),
        asking=contrast.asking,
        template=template_record(model, contrast.asking or BARE),
    )


def directions_of(model: Model, contrast: Contrast, harmful: Readings, harmless: Readings) -> Directions:
    """From answering towards refusing, as `refusal_directions` has it, from what was read already (SCANS, eq. 1)."""
    norms = [side.residuals.double().norm(dim=-1).mean(dim=0) for side in (harmful, harmless)]
    vectors = difference_of_means(harmful.residuals.double(), harmless.residuals.double())
    return Directions(vectors.float(), ((norms[0] + norms[1]) / 2).float(), origin_of(model, contrast))
