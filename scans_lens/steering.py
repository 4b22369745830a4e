"""Steering: writing on the residual stream, as plain `(hook name, function)` pairs that add as lists."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from scans_lens.chat import Asked, Tokens, chat_tokens
from scans_lens.conversation import Prompt

if TYPE_CHECKING:
    from scans_lens.directions import Directions
    from scans_lens.flight import Flight, Since
    from scans_lens.model import Hook, Model

Rows = Mapping[str, Tensor]
"""What a method decided: tensors with one entry a row."""


@runtime_checkable
class Method(Protocol):
    """A steering method: it decides once for each row, and turns the rows that are still there into hooks.

    A class of your own inherits from it and writes what differs from the defaults. This one pushes each prompt as hard
    as its state is long:

        @dataclass(frozen=True)
        class ByLength(Method):
            directions: Directions
            layer: int

            def decide(self, flight: Flight) -> Rows:
                return {"scale": 0.1 * flight.residuals()[:, self.layer].norm(dim=-1)}

            def hooks_for(self, rows: Rows, flight: Flight) -> list[Hook]:
                since = flight.since(flight.end_of_prompt)
                return add(self.directions, [self.layer], rows["scale"], since=since)
    """

    @property
    def whole_prompt(self) -> bool:
        """Whether it steers before the end of the prompt, so that the prompt has to be run again under its hooks."""
        return False

    @property
    def repetition_penalty(self) -> float:
        """What it asks of decoding, where the caller asks nothing; 1 is none."""
        return 1.0

    @property
    def swaps_the_head(self) -> bool:
        """Whether it writes through an unembedding of its own."""
        return False

    @property
    def asks_twice(self) -> bool:
        """Whether the same prompts run in a `second_context` too, whose logits it mixes in at every token."""
        return False

    @property
    def push(self) -> Push | None:
        """What it adds to a prompt that is pushed whole, where that is one direction a layer and one scale."""
        return None

    @property
    def bounds(self) -> tuple[float, ...]:
        """The thresholds that it holds a prompt's score against, smallest first."""
        return ()

    @property
    def scale_unit(self) -> str:
        """Such as "residual norms"."""
        return ""

    def decide(self, flight: Flight) -> Rows:
        """What it does to each row, from what the unsteered prompts left behind."""
        return {}

    def hooks_for(self, rows: Rows, flight: Flight) -> list[Hook]:
        """Hooks that do it, for the rows that are left."""
        return []

    def second_context(self, model: Model, prompts: Sequence[Prompt]) -> Tokens:
        """The prompts as they are asked the second time, where it `asks_twice`."""
        return chat_tokens(model, prompts)

    def mix(
        self, logits: Float[Tensor, "row d_vocab"], second: Float[Tensor, "row d_vocab"]
    ) -> Float[Tensor, "row d_vocab"]:
        """Logits of the next token, from those of both contexts."""
        return logits

    def hooks(self, model: Model, prompts: Asked) -> list[Hook]:
        """For the caller's own loop over `chat_tokens(model, prompts)`; see `hooks_of`."""
        return hooks_of(self, model, prompts)


def require_method(method: Any) -> None:
    """Refuse what is no method, saying how it becomes one; None is no method at all, and allowed."""
    if method is None or (isinstance(method, Method) and not isinstance(method, type)):
        return
    kind = method if isinstance(method, type) else type(method)
    raise ValueError(
        f"A method decides and gives hooks, as SCANS.fit(model) does; this is {kind}. A class of your own inherits "
        "from scans_lens.steering.Method."
    )


def add(
    directions: Directions | Float[Tensor, "layer d_model"],
    layers: Iterable[int],
    scale: float | Float[Tensor, "row"],
    *,
    since: Since | None = None,
    until: Since | None = None,
    at: str = "hook_resid_post",
) -> list[Hook]:
    """Hooks that add `scale` times the vectors as given, each layer its own (SCANS, eq. 6); + is towards refusal.

    Args:
        directions: one vector a layer; `directions.unit()` makes the scale an absolute length.
        layers: where to add.
        scale: one number, or one for each row of the batch.
        since: the first steered column of a call (see `Flight.since`); None steers from the first one on.
        until: the first column behind them (see `Flight.until`); None steers to the last one.
        at: which of a layer's hook points.

    Raises:
        ValueError: a layer that the directions do not have, or a scale that is no number or list of numbers.
    """
    vectors = _vectors(directions)
    scales = torch.as_tensor(scale, dtype=torch.float32)
    if scales.ndim > 1:
        raise ValueError(f"A scale is one number or one for each row, not of shape {tuple(scales.shape)}.")
    if not bool(torch.isfinite(scales).all()):
        raise ValueError("A scale is not finite.")
    scales = scales.reshape(-1, 1, 1)
    return [
        (_point(layer, at), _adding(scales * vectors[layer].float().to(scales.device), since, until))
        for layer in _checked(vectors, layers)
    ]


def ablate(
    directions: Directions | Float[Tensor, "layer d_model"],
    layers: Iterable[int],
    *,
    since: Since | None = None,
    at: str = "hook_resid_post",
) -> list[Hook]:
    """Hooks that take out each state's component along its layer's direction: x - (x·r̂) r̂ (Arditi et al. 2024, eq. 4).

    Args: as of `add`.

    Raises:
        ValueError: a layer that the directions do not have, or a direction of length 0.
    """
    vectors = _vectors(directions)
    hooks = []
    for layer in _checked(vectors, layers):
        length = vectors[layer].norm()
        if length == 0:
            raise ValueError(f"The direction of layer {layer} has length 0, so there is nothing to take out.")
        hooks.append((_point(layer, at), _ablating((vectors[layer] / length).float(), since)))
    return hooks


def _adding(push: Float[Tensor, "row 1 d_model"], since: Since | None, until: Since | None) -> Any:
    def add(residual: Float[Tensor, "row pos d_model"], hook: Any) -> Float[Tensor, "row pos d_model"]:
        columns = residual.shape[1]
        first = since(columns) if since else 0
        last = min(until(columns), columns) if until else columns
        if first >= last:
            return residual
        moved = residual[:, first:last] + push.to(residual.device, residual.dtype)
        if first or last < columns:
            return torch.cat([residual[:, :first], moved, residual[:, last:]], dim=1)
        return moved

    return add


def _ablating(unit: Float[Tensor, "d_model"], since: Since | None) -> Any:
    def ablate(residual: Float[Tensor, "row pos d_model"], hook: Any) -> Float[Tensor, "row pos d_model"]:
        first = since(residual.shape[1]) if since else 0
        direction = unit.to(residual.device, residual.dtype)
        late = residual[:, first:]
        moved = late - (late @ direction)[..., None] * direction
        return torch.cat([residual[:, :first], moved], dim=1) if first else moved

    return ablate


def _vectors(directions: Directions | Tensor) -> Tensor:
    vectors = directions if isinstance(directions, Tensor) else directions.vectors
    if vectors.ndim != 2:
        raise ValueError(f"Directions are one vector a layer, [layer d_model], not of shape {tuple(vectors.shape)}.")
    return vectors.detach()


def _checked(vectors: Tensor, layers: Iterable[int]) -> list[int]:
    if isinstance(layers, int):
        raise ValueError(f"Layers come in a list, and {layers} is one number; put it in a list: [{layers}].")
    chosen = [int(layer) for layer in layers]
    if not chosen:
        raise ValueError("There are no layers to steer: the list is empty.")
    for layer in chosen:
        if not 0 <= layer < len(vectors):
            raise ValueError(f"There is no layer {layer}: these directions have layers 0 to {len(vectors) - 1}.")
    if len(set(chosen)) != len(chosen):
        raise ValueError(f"A layer is named twice in {chosen}; it would be steered twice.")
    return chosen


def _point(layer: int, at: str) -> str:
    return f"blocks.{layer}.{at}"


def take(rows: Rows, kept: Tensor) -> Rows:
    """The decisions of the rows that are left."""
    return {name: values[kept.to(values.device)] for name, values in rows.items()}


# ── Methods that need nothing but a direction ────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Push(Method):
    """The same push for every prompt, from the end of the prompt on."""

    directions: Directions
    layers: Sequence[int]
    scale: float
    whole_prompt: bool = False
    window: int | None = None
    """How many tokens are steered from the end of the prompt on, its last one among them; None is all."""

    def __post_init__(self) -> None:
        require_window(self.window)

    @property
    def push(self) -> Push:
        return self

    def decide(self, flight: Flight) -> Rows:
        self.directions.origin.require(flight, "These directions")
        return {"scale": torch.full((len(flight.tokens),), float(self.scale), device=flight.tokens.ids.device)}

    def hooks_for(self, rows: Rows, flight: Flight) -> list[Hook]:
        start = 0 if self.whole_prompt else flight.end_of_prompt
        return pushing(self.directions, self.layers, rows["scale"], flight, start, self.window)


def pushing(
    directions: Directions,
    layers: Iterable[int],
    scale: Float[Tensor, "row"],
    flight: Flight,
    start: int,
    window: int | None = None,
) -> list[Hook]:
    """Hooks that add from a column on, and no longer than a window behind the end of the prompt."""
    if window is None:
        return add(directions, layers, scale, since=flight.since(start))
    until, following = flight.until(flight.end_of_prompt + window)
    return [*add(directions, layers, scale, since=flight.since(start), until=until), *following]


def require_window(window: int | None) -> None:
    """Refuse a window without tokens."""
    if window is not None and window < 1:
        raise ValueError(f"A window is at least 1 token, the last one of the prompt, and not {window}.")


@dataclass(frozen=True)
class Ablation(Method):
    """Every state of the prompt and the reply without its component along the direction."""

    directions: Directions
    layers: Sequence[int]
    whole_prompt: bool = True

    def decide(self, flight: Flight) -> Rows:
        self.directions.origin.require(flight, "These directions")
        return {}

    def hooks_for(self, rows: Rows, flight: Flight) -> list[Hook]:
        return ablate(
            self.directions, self.layers, since=flight.since(0 if self.whole_prompt else flight.end_of_prompt)
        )


@dataclass(frozen=True)
class Together(Method):
    """Several methods at once, each at its own positions; on one hook point they act in this order."""

    methods: tuple[Method, ...]

    def __post_init__(self) -> None:
        if not self.methods:
            raise ValueError("There are no methods to put together: the list is empty.")
        flat = (each.methods if isinstance(each, Together) else (each,) for each in self.methods)
        object.__setattr__(self, "methods", tuple(itertools.chain.from_iterable(flat)))
        heads = [type(each).__name__ for each in self.methods if each.swaps_the_head]
        if len(heads) > 1:
            raise ValueError(
                f"{' and '.join(heads)} each put a head of their own in place of the unembedding: take one."
            )
        mixing = next((each for each in self.methods if each.asks_twice), None)
        if mixing is not None:
            raise ValueError(f"{type(mixing).__name__} mixes logits of two contexts, and does that alone only.")

    @property
    def whole_prompt(self) -> bool:
        """Whether one of them steers before the end of the prompt."""
        return any(method.whole_prompt for method in self.methods)

    @property
    def swaps_the_head(self) -> bool:
        """Whether one of them writes through an unembedding of its own."""
        return any(method.swaps_the_head for method in self.methods)

    @property
    def repetition_penalty(self) -> float:
        """The strongest that any of them asks for."""
        return max(method.repetition_penalty for method in self.methods)

    def decide(self, flight: Flight) -> Rows:
        return {
            f"{place}.{name}": values
            for place, method in enumerate(self.methods)
            for name, values in method.decide(flight).items()
        }

    def hooks_for(self, rows: Rows, flight: Flight) -> list[Hook]:
        hooks: list[Hook] = []
        for place, method in enumerate(self.methods):
            mark = f"{place}."
            own = {name.removeprefix(mark): values for name, values in rows.items() if name.startswith(mark)}
            hooks += method.hooks_for(own, flight)
        return hooks


@torch.no_grad()
def hooks_of(method: Method, model: Model, prompts: Asked) -> list[Hook]:
    """A method's hooks for the caller's own loop over these prompts, all in one batch.

    They fit `chat_tokens(model, prompts)`, padded on the left: `model.hooks(fwd_hooks=…)`, `run_with_hooks`, or
    TransformerLens' `generate`, with a cache or without one. Prompts that are tokens already, since a system prompt
    stands before them, say, are taken as they are; the same tokens have to be run.

    Raises:
        ValueError: a method that hooks alone cannot do, since it mixes logits of two contexts.
    """
    from scans_lens.flight import Flight

    if method.asks_twice:
        raise ValueError(f"{type(method).__name__} mixes logits of two contexts, which no hooks do: use `replies`.")

    flight = Flight(model, prompts if isinstance(prompts, Tokens) else chat_tokens(model, prompts))
    return method.hooks_for(method.decide(flight), flight.for_the_callers_loop())
