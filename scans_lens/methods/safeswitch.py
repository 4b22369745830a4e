"""SafeSwitch: a model listens to itself for harm that it is about to do, and only then speaks with a head that refuses.

Han, Qian, Chen, Zhang, Ji, Zhang: SafeSwitch: Steering Unsafe LLM Behavior via Internal Activation Signals.
EMNLP Findings 2025, arXiv 2502.01042. Two probers ask whether the instruction is harmful and whether the model will
comply; where both are likely, the reply is written through another unembedding, trained to refuse and to say why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from scans_lens import artefacts
from scans_lens.artefacts import SITE, Artefact, Use
from scans_lens.conversation import BARE, Asking
from scans_lens.directions import Origin, origin_of
from scans_lens.flight import Flight
from scans_lens.judges import Judge
from scans_lens.methods.arms import Fitting, learned
from scans_lens.methods.refusal_head import RefusalHead
from scans_lens.methods.safeswitch_probers import (
    Heard,
    Stages,
    heard,
    probers_of,
    read,
    require_complied,
    threshold_above,
)
from scans_lens.methods.safeswitch_prompts import Pairs, learning, pairs_of
from scans_lens.model import Hook, Identity, Model
from scans_lens.prober import HELD, HIDDEN, NEEDED, Prober, Quality
from scans_lens.prompts import Contrast
from scans_lens.steering import Method, Rows
from scans_lens.world import world_of

ARMS = {"safeswitch": "a refusal head where an unsafe reply comes (2502.01042)"}

Rule = Literal["product", "both"]

AHEAD = 3
"""Reply tokens after which the second prober reads (the release's n_decode)."""
SWITCHED = 0.01
"""Share of harmless validation prompts that the threshold lets switch, of plain and of borderline ones each."""


@dataclass(frozen=True)
class Switched:
    """How many prompts of one side switched at the chosen threshold, of validation prompts."""

    side: str
    switched: int
    total: int


@dataclass(frozen=True)
class SafeSwitch(Method, Artefact):
    """A fitted method; give it to `replies(model, prompts, method=…)`.

    Judged first and then written anew, as the release's evaluation does: the tokens that the second prober needs are
    a look ahead, and a reply that switches is the head's from its first token. With `keeps_ahead` it acts from the
    moment of the switch, and the first `k` tokens of the plain reply stay.
    """

    KIND = "SafeSwitch"
    WHAT = "These SafeSwitch probers"
    swaps_the_head: ClassVar[bool] = True
    trials = ()

    first: Prober
    """At the end of the prompt: is the instruction harmful? With one stage, the only question."""
    second: Prober | None
    """After `k` tokens of the reply: will the model comply?"""
    head: RefusalHead
    origin: Origin
    threshold: float
    """A prompt switches when its score is above this (the paper's tau)."""
    k: int = AHEAD
    layer: int | None = None
    """Whose `resid_post` the probers read; None for the last hidden state after the final norm, as published."""
    rule: Rule = "product"
    """"product": p_instruction x p_compliance > threshold (the paper); "both": each at least a half (its code)."""
    soft: bool = False
    """Every reply through (1 - p) W_U + p W_R with p its own score, instead of one or the other; ours."""
    keeps_ahead: bool = False
    """Whether the head acts from the reply's token k + 1 on only. It has learned to begin refusals, and amid an answer
    it may do little: on the bundled model most replies go on as they began."""
    qualities: tuple[Quality, ...] = ()
    """Of the probers, and of straight lines in their place, on validation prompts."""
    switched: tuple[Switched, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        if self.rule not in ("product", "both"):
            raise ValueError(f"No rule {self.rule!r}; there are 'product' (the paper's) and 'both' (its code's).")
        if self.k < 0:
            raise ValueError(f"The second prober reads after 0 or more tokens, not {self.k}.")

    # ── Acting ──

    @torch.no_grad()
    def decide(self, flight: Flight) -> Rows:
        """For every row its probabilities, its score, and how much of the head it gets: 0 or 1 unless `soft`.

        Raises:
            ValueError: the batch is on its way through another model than the probers were fitted on.
        """
        self.origin.require(flight, self.WHAT)
        first, second = read(flight, self.layer, self.k if self.second else None)
        rows = {"instruction": self.first.probability(first)}
        if self.second is not None and second is not None:
            rows["compliance"] = self.second.probability(second)
        rows["score"] = torch.stack(list(rows.values())).prod(dim=0)
        return {**rows, "weight": rows["score"] if self.soft else self.switches(rows).to(rows["score"])}

    def switches(self, rows: Rows) -> Bool[Tensor, "row"]:
        """Which rows switch: by the paper's product above the threshold, or by its code's two halves."""
        if self.rule == "product":
            return rows["score"] > self.threshold
        both = [rows[name] >= 0.5 for name in ("instruction", "compliance") if name in rows]
        return torch.stack(both).all(dim=0)

    def hooks_for(self, rows: Rows, flight: Flight) -> list[Hook]:
        """The head's share of each row's logits, from the reply's first token or from the moment of the switch."""
        start = flight.end_of_prompt + (self.k if self.keeps_ahead else 0)
        return self.head.hooks(flight, rows["weight"], start)

    def always(self) -> SafeSwitch:
        """The same with every reply through the refusal head."""
        return replace(self, rule="product", threshold=-1.0, soft=False)

    # ── Learning ──

    @classmethod
    def fit(
        cls,
        model: Model,
        contrast: Contrast | None = None,
        *,
        validation: Contrast | None = None,
        pairs: Pairs | None = None,
        held_pairs: Pairs | None = None,
        judge: Judge | None = None,
        k: int = AHEAD,
        tau: float | None = None,
        rule: Rule = "product",
        layer: int | None = None,
        stages: Stages = "two",
        hidden: int = HIDDEN,
        asking: Asking = BARE,
        seed: int = 0,
        batch_size: int | None = None,
        progress: bool = True,
    ) -> SafeSwitch:
        """Learn the probers and the head, and choose the threshold on validation prompts.

        The model replies to every prompt, and a judge says where it complied. The first prober learns harmful against
        not, the second complied against not, from all prompts, as in the release. The threshold is the smallest at
        which at most 1 % of the harmless and at most 1 % of the borderline validation prompts switch; they also serve
        to stop and to calibrate the probers (see `Prober.fit`), so rates on them are a little too good.

        Args:
            contrast: what to learn from, with jailbreaks among its harmful prompts; by default the world's jailbreaks,
                and its anchors where it has none.
            validation: what to stop, calibrate and choose on, never a test set; by default the world's, beside a
                contrast of the caller's own a fifth of that, which is then held out.
            pairs: prompts with the refusals that the head is to give; a fifth of them is held out, unless there are
                `held_pairs`. By default the world's refusals, and where it has none what the model says to the harmful
                prompts under a system prompt that has it refuse and say why, where the judge hears a refusal.
            judge: whether a reply complies (answers, in whole or in part).
            tau: the threshold, instead of choosing one.
            stages: "two" as published; "direct", one prober of harmful and complied at the end of the prompt, for
                comparison; "instruction", harmful or not alone, for a model that never complies.
            hidden: width of the probers' hidden layer; 0 for straight lines.
            asking: how all these prompts are put: a system prompt, thinking on or off; it travels with the fit.

        Raises:
            ValueError: too few prompts of a class, a model that complies with too few harmful prompts for a second
                stage, or too few refusals for the head.
        """
        if stages not in ("two", "direct", "instruction"):
            raise ValueError(f"No stages {stages!r}; there are 'two', 'direct' and 'instruction'.")
        if layer is not None and not 0 <= layer < int(model.cfg.n_layers):
            raise ValueError(f"There is no layer {layer}: this model has layers 0 to {int(model.cfg.n_layers) - 1}.")
        world = world_of(model)
        if contrast is None and pairs is None and world.refusals is not None:
            pairs, held_pairs = world.refusals
        contrast, validation, note = learning(model, contrast, validation, seed)
        contrast, validation = contrast.under(asking), validation.under(asking)
        how = {"batch_size": batch_size, "progress": progress}
        judge = judge or world.judge
        ahead = k if stages == "two" else None
        learned, held = (heard(model, one, judge, ahead, layer, **how) for one in (contrast, validation))
        if stages != "instruction":
            require_complied(learned, "to learn from", NEEDED, stages)
            require_complied(held, "to choose on", HELD, stages)
        first, second, qualities = probers_of(learned, held, stages, hidden, seed)
        told, told_held = (
            [(asking.of(prompt), refusal) for prompt, refusal in some]
            for some in pairs_of(model, pairs, held_pairs, (contrast, validation), judge, seed, **how)
        )
        fitted = cls(
            first=first,
            second=second,
            head=RefusalHead.fit(model, told, told_held, seed=seed, **how),
            origin=origin_of(model, contrast),
            threshold=0.0,
            k=k,
            layer=layer,
            rule=rule,
            qualities=qualities,
            note=note,
        )
        rows = fitted._scored(held)
        if tau is None:
            tau = threshold_above([rows["score"][held.side(name)] for name in ("harmless", "borderline")], SWITCHED)
        fitted = replace(fitted, threshold=float(tau))
        went = fitted.switches(rows).cpu()
        sides = [(name, held.side(name)) for name in ("harmless", "borderline")]
        sides += [
            ("harmful, refused", held.harmful & ~held.complied),
            ("harmful, complied", held.harmful & held.complied),
        ]
        counts = tuple(Switched(name, int(went[one].sum()), int(one.sum())) for name, one in sides if bool(one.any()))
        return replace(fitted, switched=counts)

    def _scored(self, heard: Heard) -> dict[str, Tensor]:
        rows = {"instruction": self.first.probability(heard.first)}
        if self.second is not None and heard.second is not None:
            rows["compliance"] = self.second.probability(heard.second)
        return {**rows, "score": torch.stack(list(rows.values())).prod(dim=0)}

    # ── Keeping ──

    @property
    def measured_on(self) -> Identity | None:
        return self.origin.model

    def uses(self) -> list[Use]:
        """How the probers read and the head speaks, for a file's header."""
        probers = {"first": self.first} | ({"second": self.second} if self.second else {})
        last = int(self.origin.model.n_layers) - 1 if self.origin.model else -1
        layers = (last if self.layer is None else self.layer,)
        where = {"first": "the last token of the prompt", "second": f"the token {self.k} of the plain greedy reply"}
        normed = "the final norm of x" if self.layer is None else "x"
        uses = []
        for name, prober in probers.items():
            inside = f"z = ({normed} - {name}.mean) / {name}.spread"
            for place in range(len(prober.weights)):
                inner = "relu(z)" if place else "z"
                inside += f"; z = {name}.weights.{place} {inner} + {name}.biases.{place}"
            formula = f"{inside}; p_{name} = sigmoid({name}.slope (z[1] - z[0]) + {name}.offset)"
            uses.append(Use("read", SITE, where[name], layers, "probability of yes", formula))
        both = [f"p_{name}" for name in probers]
        weight = "1 if p > threshold else 0" if self.rule == "product" else "1 if each of them >= 0.5 else 0"
        if self.soft:
            weight = "p"
        positions = "from the last token of the prompt on" + f", {self.k} tokens later" * self.keeps_ahead
        formula = f"logits + weight * (x head.shift), weight = {weight}, p = {' * '.join(both)}"
        head = Use("unembed", "unembed.hook_in", positions, (), "1 is the whole head W_U + head.shift", formula)
        return [*uses, head]

    def require_whole(self, owner: Identity | None) -> None:
        if owner is not None:
            artefacts.require_layers("layer", [] if self.layer is None else [self.layer], owner.n_layers)
        shape = (owner.d_model, owner.d_vocab) if owner is not None else tuple(self.head.shift.shape)
        artefacts.require_shape("head.shift", self.head.shift, shape)
        for prober in (self.first, self.second):
            if prober is not None:
                artefacts.require_shape(f"the mean of the prober ({prober.question})", prober.mean, shape[:1])

    def __str__(self) -> str:
        where = "after the final norm" if self.layer is None else f"after layer {self.layer}"
        rule = f"p > {self.threshold:.4f}" if self.rule == "product" else "each p >= 0.5"
        lines = [
            f"SafeSwitch, learned from {self.origin.contrast!r}",
            f"  probers    {where}, at the end of the prompt" + (f" and {self.k} tokens ahead" if self.second else ""),
            f"  switches   where {rule}" + "; replies are mixed by p" * self.soft,
            f"  head       {self.head.shift.numel()} numbers, {100 * self.head.share:.1f} % of the model's",
            *(f"  {one}" for one in self.qualities),
            *(f"  {one.side}: {one.switched} of {one.total} validation prompts switch" for one in self.switched),
        ]
        return "\n".join([*lines, f"  {self.note}"] if self.note else lines)

    __repr__ = __str__


def summary(method: SafeSwitch) -> list[Mapping[str, Any]]:
    """What the method was like on validation prompts, as plain rows."""
    return [asdict(one) for one in (*method.qualities, *method.switched)]


def _of_world(fitting: Fitting) -> SafeSwitch:
    """From prompts of its own where the world has some: it needs harmful ones that the model complies with."""
    learned_from, validation = fitting.world.jailbreaks or (fitting.world.anchors, fitting.world.validation)
    how = {**fitting.how(), "validation": validation, "asking": fitting.asking, "seed": fitting.seed}
    pairs, held = fitting.world.refusals or (None, None)
    return SafeSwitch.fit(fitting.world.model, learned_from, pairs=pairs, held_pairs=held, **how)


RECIPES = {"safeswitch": learned(SafeSwitch, _of_world)}
