"""Drawn: methods of every kind that nobody fitted, from vectors drawn at random, for models of 4 layers of width 64.

Where a method decides prompt by prompt, its threshold lies amid the scores of the prompts, so that some are on either
side.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from scans_lens.chat import chat_tokens
from scans_lens.classifier import TransitionClassifier
from scans_lens.directions import Directions, Origin
from scans_lens.flight import Flight
from scans_lens.methods.caa import CAA
from scans_lens.methods.cast import CAST, Condition
from scans_lens.methods.false_refusal import FalseRefusal
from scans_lens.methods.gated_push import GatedPush
from scans_lens.methods.jailbreak_antidote import JailbreakAntidote, mask_of
from scans_lens.methods.readers import Centred, InstructionEnd, Transitions
from scans_lens.methods.refusal_direction import ActivationAddition, DirectionalAblation
from scans_lens.methods.refusal_head import RefusalHead
from scans_lens.methods.ridge import RidgeGate
from scans_lens.methods.rules import Continuous
from scans_lens.methods.safeswitch import SafeSwitch
from scans_lens.methods.scans import SCANS
from scans_lens.model import identity
from scans_lens.prober import Prober
from scans_lens.steering import Ablation, Push, Together

UNKNOWN = Origin(None, "drawn", "", 1, 1, {})
REFUSING = tuple(range(0, 600, 2))
"""A reply of a model that has learned nothing begins with one of these about every other time."""


def vectors(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def origin(model: Any) -> Origin:
    return Origin(identity(model), "drawn", "", 1, 1, {})


def directions(model: Any = None, seed: int = 1) -> Directions:
    """For this model, or for any."""
    return Directions(vectors(4, 64, seed=seed), torch.full((4,), 8.0), origin(model) if model else UNKNOWN)


def scans(model: Any, prompts: Sequence[str], **how: Any) -> SCANS:
    classifier = TransitionClassifier(vectors(4, 64, seed=3), (1, 2, 3), 0.0, "nothing")
    made = SCANS(directions(model), (1, 3), 1.5, "residual norms", classifier, **how)
    score = made.decide(Flight(model, chat_tokens(model, prompts)))["score"].sort().values
    return replace(made, classifier=replace(classifier, threshold=float(score[1] + score[2]) / 2))


def cast(model: Any, prompts: Sequence[str], layer: int = 2, **how: Any) -> CAST:
    condition = Condition(vectors(64, seed=5), layer, 0.0, above=True)
    made = CAST(directions(model), (1, 3), **{"scale": 1.5, "condition": condition, **how})
    likeness = made.decide(Flight(model, chat_tokens(model, prompts)))["similarity"].sort().values
    return replace(made, condition=replace(condition, threshold=float(likeness[1] + likeness[2]) / 2))


def gate(layers: tuple[int, ...] = (1, 2), n: int = 24) -> RidgeGate:
    """Learned from states drawn at random, the first half of which pass for harmful."""
    states = vectors(n, len(layers), 64, seed=7) * 3
    return RidgeGate.fit(states, torch.arange(n) < n // 2, torch.ones(n), layers)


def gated_push(model: Any, prompts: Sequence[str], novel: int = 0, **how: Any) -> GatedPush:
    """One that pushes two prompts of five each way and none between; so many of those below `low` are novel."""
    made = GatedPush(directions(model), (1, 3), 1.5, gate(), 0.0, 0.0, UNKNOWN, **how)
    rows = made.decide(Flight(model, chat_tokens(model, prompts)))
    scores, order = rows["score"].sort()
    low, high = (float(scores[place] + scores[place + 1]) / 2 for place in (1, 2))
    strange = rows["variance"][order[:2]].sort().values
    limit = float(strange[0] + strange[1]) / 2 if novel else 2 * float(rows["variance"].max())
    return replace(made, low=low, high=high, gate=replace(made.gate, limit=limit))


def antidote(model: Any, **how: Any) -> JailbreakAntidote:
    own = directions(model, seed=5)
    sparse = replace(own, vectors=own.vectors * mask_of(own.vectors, 0.25))
    return JailbreakAntidote(sparse, (1, 3), -1.5, **how)


def false_refusal() -> FalseRefusal:
    w, r = vectors(2, 2, 4, 64, seed=4)
    return FalseRefusal(w, r, -1, 2, 1.0, REFUSING, (), (0.0, 0.0), UNKNOWN, 9)


def prober(question: str, seed: int, width: int = 64) -> Prober:
    drawn = torch.Generator().manual_seed(seed)
    shapes = ((8, width), (2, 8))
    return Prober(
        question,
        torch.randn(width, generator=drawn),
        torch.rand(width, generator=drawn) + 3.0,
        tuple(torch.randn(shape, generator=drawn) / shape[1] ** 0.5 for shape in shapes),
        (torch.zeros(8), torch.zeros(2)),
    )


def wide(own: Prober, width: int) -> Prober:
    """The same prober for states of another width."""
    drawn = torch.Generator().manual_seed(len(own.question))
    weights = (torch.randn(8, width, generator=drawn) / 4, own.weights[1])
    return replace(own, mean=torch.zeros(width), spread=torch.ones(width), weights=weights)


def safeswitch(model: Any, prompts: Sequence[str] | None = None, **how: Any) -> SafeSwitch:
    shift = vectors(*model.W_U.shape, seed=4) * float(model.W_U.detach().std())
    made = SafeSwitch(
        prober("harmful", 1),
        prober("complied", 2),
        RefusalHead(shift, 0.1),
        origin(model),
        **{"threshold": 0.2, **how},
    )
    if prompts is None:
        return made
    scores = made.decide(Flight(model, chat_tokens(model, prompts)))["score"].sort().values
    return replace(made, threshold=float(scores[1] + scores[2]) / 2)


def _of_directions(made: Callable[[Directions], Any]) -> Callable[[Any, Sequence[str]], Any]:
    return lambda model, prompts: made(directions())


VECTOR = vectors(64, seed=3)
OUT, IN = DirectionalAblation(VECTOR, UNKNOWN), ActivationAddition(VECTOR, 2, -0.7, UNKNOWN)
METHODS: dict[str, Callable[[Any, Sequence[str]], Any]] = {
    "push": _of_directions(lambda own: Push(own, [1, 3], -2.0)),
    "push the whole prompt": _of_directions(lambda own: Push(own, [1, 3], 1.0, whole_prompt=True)),
    "push of two tokens": _of_directions(lambda own: Push(own, [1, 3], -2.0, window=2)),
    "push of the whole prompt and a token more": _of_directions(
        lambda own: Push(own, [1, 3], 1.0, whole_prompt=True, window=2)
    ),
    "ablation": _of_directions(lambda own: Ablation(own, [0, 3])),
    "ablation of the reply": _of_directions(lambda own: Ablation(own, [1, 3], whole_prompt=False)),
    "together": _of_directions(lambda own: Together((Push(own, [1, 3], -2.0), Ablation(own, [0, 3])))),
    "together, one token and three": _of_directions(
        lambda own: Together((Push(own, [3], -2.0, window=1), Push(own, [1, 3], 2.0, window=3)))
    ),
    "nested": _of_directions(
        lambda own: Together(
            (
                Together((Push(own, [1, 3], -2.0), Push(own, [2], 3.0))),
                Together((Push(own, [1, 3], -2.0), Ablation(own, [0, 3]))),
            )
        )
    ),
    "SCANS": scans,
    "SCANS, centred": lambda model, prompts: scans(
        model, prompts, reader=Centred(Transitions(), vectors(4, 64, seed=6))
    ),
    "SCANS at the instruction's end, in proportion": lambda model, prompts: scans(
        model, prompts, reader=InstructionEnd(), rule=Continuous(0.05)
    ),
    "CAST": cast,
    "CAST from the prompt's end on": lambda model, prompts: cast(model, prompts, whole_prompt=False),
    "gated push": gated_push,
    "gated push of one token": lambda model, prompts: replace(gated_push(model, prompts), window=1),
    "gated push, with a novel prompt": lambda model, prompts: gated_push(model, prompts, novel=1),
    "Jailbreak Antidote": lambda model, prompts: antidote(model, whole_prompt=True),
    "Jailbreak Antidote from the prompt's end on": lambda model, prompts: antidote(model, whole_prompt=False),
    "CAA": _of_directions(lambda own: CAA(own, 2, -1.5)),
    "a direction taken out": lambda model, prompts: OUT,
    "a direction taken out of the reply": lambda model, prompts: replace(OUT, whole_prompt=False),
    "a direction added": lambda model, prompts: IN,
    "a direction taken out and added": lambda model, prompts: Together((OUT, IN)),
    "false refusal": lambda model, prompts: false_refusal(),
    "SafeSwitch": safeswitch,
    "SafeSwitch from the moment of the switch": lambda model, prompts: replace(
        safeswitch(model, prompts), k=2, keeps_ahead=True
    ),
    "SafeSwitch, mixed": lambda model, prompts: replace(safeswitch(model, prompts), soft=True),
    "SafeSwitch with a push": lambda model, prompts: Together(
        (Push(directions(), [1, 3], -2.0), safeswitch(model, prompts))
    ),
    "SafeSwitch, late, with an ablation": lambda model, prompts: Together(
        (replace(safeswitch(model, prompts), keeps_ahead=True), Ablation(directions(), [0, 3]))
    ),
}
"""By name: `METHODS[name](model, prompts)`."""
