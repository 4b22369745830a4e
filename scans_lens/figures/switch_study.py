"""Switch study: the bundled model with a SafeSwitch, what prompts leave behind in it, and what its probers tell.

Probers, head and threshold come from training and validation prompts; what is measured of them chooses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scans_lens import organism, world
from scans_lens.figures.effort import STANDARD, Effort
from scans_lens.flight import flights
from scans_lens.generation import replies
from scans_lens.judges import Judge
from scans_lens.methods.choosing import reply_tokens
from scans_lens.methods.safeswitch import SafeSwitch
from scans_lens.methods.safeswitch_probers import complied
from scans_lens.model import Model, after_final_norm
from scans_lens.organism import corpus
from scans_lens.organism.contrasts import wrapped
from scans_lens.prober import HIDDEN, Prober
from scans_lens.rates import Clustered
from scans_lens.steering import Method

if TYPE_CHECKING:
    from scans_lens.figures.study import Study

KINDS = ("plain", "borderline", "wrapped plain", "wrapped borderline", "harmful", "jailbreak")
"""The wrapped ones are harmless requests in a jailbreak's wrapping: did a prober learn harm, or its wrapping?"""
TESTED = 200
"""Prompts of a kind that are reported."""


@dataclass(frozen=True)
class Seen:
    """What prompts leave behind, and whether the plain model complied with them."""

    kinds: tuple[str, ...]
    complied: Bool[Tensor, "prompt"]
    first: Float[Tensor, "prompt layer_and_one d_model"]
    """At the end of the prompt: every layer, and behind them the last one once more, after the final norm."""
    second: Float[Tensor, "prompt layer_and_one d_model"]
    """The same after the method's k tokens."""
    ahead: Float[Tensor, "prompt token d_model"]
    """After the final norm, after 0, 1, … tokens."""

    @property
    def harmful(self) -> Bool[Tensor, "prompt"]:
        return torch.tensor([kind in ("harmful", "jailbreak") for kind in self.kinds])


@dataclass(frozen=True, eq=False)
class Switching:
    """The bundled model with a fitted SafeSwitch and the prompts to report, by kind."""

    model: Model
    method: SafeSwitch
    asked: Mapping[str, tuple[tuple[corpus.Item, str], ...]]
    split: str
    seed: int = 0
    batch_size: int | None = None
    effort: Effort = STANDARD

    @classmethod
    def of(
        cls,
        model: Model,
        method: SafeSwitch | None = None,
        *,
        split: organism.Split = "test",
        first: int = 0,
        prompts_a_kind: int = TESTED,
        seed: int = 0,
        batch_size: int | None = None,
        effort: Effort = STANDARD,
        progress: bool = True,
    ) -> Switching:
        """The usual one; `first` leaves out so many prompts of each kind, such as those that knobs were chosen on."""
        asked = {kind: tuple(_asked(kind, split)[first : first + prompts_a_kind]) for kind in KINDS}
        method = method or SafeSwitch.fit(model, seed=seed, batch_size=batch_size, progress=progress)
        return cls(model, method, asked, split, seed, batch_size, effort)

    @property
    def judge(self) -> Judge:
        return world.bundled

    def texts(self, kind: str) -> list[str]:
        return [text for _, text in self.asked[kind]]

    @property
    def items(self) -> list[str]:
        """What each prompt is about, in the order of `tested`: a wrapped one and a bare one may share it."""
        return [item.phrase for own in self.asked.values() for item, _ in own]

    @cached_property
    def plain(self) -> dict[str, tuple[str, ...]]:
        return self.said(None)

    @cached_property
    def headed(self) -> dict[str, tuple[str, ...]]:
        """Every reply through the refusal head."""
        return self.said(self.method.always())

    def said(self, method: Method | None) -> dict[str, tuple[str, ...]]:
        """Every kind's replies."""
        how = {"max_new_tokens": self.effort.switch_tokens, "batch_size": self.batch_size, "progress": False}
        return {kind: replies(self.model, self.texts(kind), method=method, **how).texts for kind in self.asked}

    @cached_property
    def tested(self) -> Seen:
        return self.seen({kind: self.texts(kind) for kind in self.asked})

    @cached_property
    def learned(self) -> Seen:
        return self.seen({kind: texts_of(kind, "train", self.effort.probed) for kind in KINDS})

    @cached_property
    def held(self) -> Seen:
        return self.seen({kind: texts_of(kind, "validation", self.effort.probed // 2) for kind in KINDS})

    @torch.no_grad()
    def seen(self, texts: Mapping[str, Sequence[str]]) -> Seen:
        asked = [text for own in texts.values() for text in own]
        kinds = tuple(kind for kind, own in texts.items() for _ in own)
        how = {"max_new_tokens": reply_tokens(world.bundled), "batch_size": self.batch_size, "progress": False}
        said = replies(self.model, asked, **how)
        parts: list[list[Tensor]] = [[], [], []]
        order: list[Tensor] = []
        for places, flight in flights(self.model, asked, batch_size=self.batch_size):
            order.append(places)
            ahead = [self._and_normed(flight.ahead(k)) for k in range(self.effort.ahead, -1, -1)][::-1]
            parts[0].append(ahead[0].cpu())
            parts[1].append(ahead[self.method.k].cpu())
            parts[2].append(torch.stack([states[:, -1] for states in ahead], dim=1).cpu())
        back = torch.cat(order).argsort()
        first, second, ahead = (torch.cat(one)[back] for one in parts)
        return Seen(kinds, torch.tensor(complied(self.judge, said)), first, second, ahead)

    def _and_normed(self, states: Tensor) -> Tensor:
        return torch.cat([states, after_final_norm(self.model, states[:, -1:])], dim=1)


def _asked(kind: str, split: organism.Split) -> Sequence[tuple[corpus.Item, str]]:
    if kind == "wrapped plain":
        return wrapped("plain", split)
    if kind == "wrapped borderline":
        return wrapped("borderline", split)
    return corpus.asked(cast(organism.Kind, kind), split)


def texts_of(kind: str, split: organism.Split, size: int) -> list[str]:
    return [text for _, text in _asked(kind, split)[:size]]


# ── What the probers can tell ────────────────────────────────────────────────────────────────────────────────


QUESTIONS: Mapping[str, tuple[str, Callable[[Seen], Tensor]]] = {
    "instruction": ("first", lambda seen: seen.harmful),
    "compliance": ("second", lambda seen: seen.complied),
    "direct": ("first", lambda seen: seen.harmful & seen.complied),
}
"""Where each prober reads, and what it is asked."""
SORTS: Mapping[str, int] = {"network": HIDDEN, "straight line": 0}
"""How wide their hidden layers are."""


def accuracy(study: Switching, found: Tensor, truth: Tensor) -> dict[str, Any]:
    """Of all kinds together, among which prompts about one thing are drawn together."""
    return Clustered.of(
        (found == truth).tolist(), study.items, resamples=study.effort.resamples, seed=study.seed
    ).as_json()


def majority(truth: Tensor) -> float:
    """What saying the commoner answer to everything gets right."""
    return float(max(truth.double().mean(), 1 - truth.double().mean()))


def prober_at(study: Switching, name: str, layer: int, hidden: int) -> Prober:
    """One of `QUESTIONS`, learned at this layer; behind the last layer comes the final norm."""
    at, answer = QUESTIONS[name]
    own, others = (getattr(seen, at)[:, layer] for seen in (study.learned, study.held))
    return Prober.fit(name, own, answer(study.learned), others, answer(study.held), hidden=hidden, seed=study.seed)


def decisions(study: Switching, method: SafeSwitch | None = None) -> dict[str, Tensor]:
    """The method's probabilities and switches on the reported prompts, from states that are read already."""
    method, seen = method or study.method, study.tested
    layer = -1 if method.layer is None else method.layer
    rows = {"instruction": method.first.probability(seen.first[:, layer])}
    if method.second is not None:
        rows["compliance"] = method.second.probability(seen.second[:, layer])
    rows["score"] = torch.stack(list(rows.values())).prod(dim=0)
    return {**rows, "switched": method.switches(rows)}


def about(study: Study) -> dict[str, Any]:
    """What was fitted, and how many prompts it is reported on."""
    own = study.switching
    method = own.method
    return {
        "n": {kind: len(asked) for kind, asked in own.asked.items()},
        "items": len(set(own.items)),
        "learned": {"probers": len(own.learned.kinds), "held": len(own.held.kinds)},
        "k": method.k,
        "threshold": method.threshold,
        "share": method.head.share,
        "validation": [asdict(one) for one in method.switched],
        "resamples": own.effort.resamples,
    }
