"""SafeSwitch: a model listens to itself for harm that it is about to do, and only then speaks with a head that refuses.

Han, Qian, Chen, Zhang, Ji, Zhang: SafeSwitch: Steering Unsafe LLM Behavior via Internal Activation Signals.
EMNLP Findings 2025, arXiv 2502.01042. Two probers ask whether the instruction is harmful and whether the model will
comply; where both are likely, the reply is written through another unembedding, trained to refuse and to say why.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from scans_lens import artefacts, judges, organism, steering
from scans_lens.anchoring import default_anchors
from scans_lens.artefacts import SITE, Kept, Use
from scans_lens.batches import rows_at_once
from scans_lens.chat import Asked, padded, prompt_ids, reply_ids
from scans_lens.conversation import BARE, Asking, Prompt, conversation_of
from scans_lens.directions import Origin, origin_of
from scans_lens.errors import Refused
from scans_lens.flight import Flight
from scans_lens.generation import replies
from scans_lens.judges import Judge, Verdict
from scans_lens.methods.choosing import reply_tokens
from scans_lens.model import (
    Hook,
    Model,
    after_final_norm,
    device_of,
    identity,
    is_bundled,
    parameters_of,
    resid_post,
    unembedded,
    unembedding_of,
)
from scans_lens.organism import corpus, grammar, wordings
from scans_lens.prober import HELD, HIDDEN, NEEDED, Prober, Quality
from scans_lens.prompts import Contrast, borderline
from scans_lens.reading import seen_at
from scans_lens.steering import Rows

Rule = Literal["product", "both"]
Stages = Literal["two", "direct", "instruction"]

AHEAD = 3
"""Reply tokens after which the second prober reads (the release's n_decode)."""
SWITCHED = 0.01
"""Share of harmless validation prompts that the threshold lets switch, of plain and of borderline ones each."""
ROUNDING = 1e-6
"""How far above a prompt's own score a threshold lies; in float32 scores differ a little with the company."""
TRAINED = 600
"""Training prompts of a kind that the bundled model's own probers learn from."""
REFUSAL_TOKENS = 96
"""New tokens of a model's own refusals, from which its head learns."""
REFUSING = (
    "Whatever the user asks for now must not be done. Say no in two or three sentences: name what was asked for, and "
    "explain what harm it would do."
)
"""The system prompt under which a model refuses, so that its head can learn to refuse without it; ours."""

HEAD_RATE = 0.05
"""Learning rate of the head, in spreads of the unembedding's entries."""
HEAD_DECAY = 0.02
HEAD_MINIBATCH = 256
"""Tokens; of few refusals a sixteenth, so that there are steps enough."""
HEAD_EPOCHS = 12
HEAD_PATIENCE = 2


# ── The head that refuses ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class RefusalHead:
    """An unembedding of its own that refuses with a reason; the model's stays as it is, tied to its embedding or not.

    Kept as the shift from the model's own, W_R - W_U, so that a shift of 0 is the model, any share of it a mixture, and
    biases, soft caps and scales behind the unembedding stay where they are.
    """

    shift: Float[Tensor, "d_model d_vocab"]
    share: float
    """How many numbers it has, as a share of the model's."""
    losses: tuple[float, ...] = ()
    """Nats a token of refusals held out, after each epoch; the first is the model's own unembedding."""

    @classmethod
    def fit(
        cls,
        model: Model,
        pairs: Sequence[tuple[Prompt, str]],
        held: Sequence[tuple[Prompt, str]],
        *,
        seed: int = 0,
        batch_size: int | None = None,
        progress: bool = True,
    ) -> RefusalHead:
        """Learn to give these refusals to these prompts, all else frozen.

        What is frozen gives the same states whatever the head, so they are read once (after the final norm,
        teacher-forced, from the end of the prompt to the last token) and the head is softmax regression on them: AdamW
        until the loss on the held-out pairs no longer falls, taken as it was at its best. The released code also learns
        to write the prompts; here only refusals count. Soft caps behind the unembedding leave the likeliest token as it
        is and are left out.

        Raises:
            ValueError: too few pairs.
        """
        if len(pairs) < NEEDED or len(held) < HELD:
            raise Refused(
                f"A refusal head needs at least {NEEDED} prompts with refusals to learn from and {HELD} to stop on; "
                f"there are {len(pairs)} and {len(held)}."
            )
        quiet = {"batch_size": batch_size, "progress": progress}
        own, others = _refusal_states(model, pairs, **quiet), _refusal_states(model, held, **quiet)
        shift, losses = _regressed(model, own, others, seed, progress)
        return cls(shift, shift.numel() / parameters_of(model), losses)

    def weights(self, model: Model) -> Float[Tensor, "d_model d_vocab"]:
        """W_R, for this model."""
        return unembedding_of(model).detach().float() + self.shift.to(device_of(model))

    def hooks(self, flight: Flight, weight: Float[Tensor, "row"], start: int) -> list[Hook]:
        """Logits of W_U + weight (W_R - W_U), a weight for each row, from this column of the text on.

        The unembedding may be shown the last columns of a call only, so where a call ends is noted below it.
        """
        if not bool((weight != 0).any()):
            return []
        follow, first_of = flight.follow()
        shift, weights = self.shift, weight.reshape(-1, 1, 1)
        seen: list[Tensor] = []

        def keep(states: Float[Tensor, "row pos d_model"], hook: Any) -> None:
            seen[:] = [states]

        def speak(logits: Float[Tensor, "row pos d_vocab"], hook: Any) -> Float[Tensor, "row pos d_vocab"]:
            states, columns = seen.pop(), logits.shape[1]
            first = min(max(0, start - first_of(columns)), columns)
            moved = states[:, first:] @ shift.to(states.device, states.dtype)
            late = logits[:, first:] + weights.to(logits.device, logits.dtype) * moved.to(logits.device, logits.dtype)
            return torch.cat([logits[:, :first], late], dim=1)

        return [follow, ("unembed.hook_in", keep), ("unembed.hook_out", speak)]


def _refusal_states(
    model: Model, pairs: Sequence[tuple[Prompt, str]], batch_size: int | None, progress: bool
) -> tuple[Float[Tensor, "token d_model"], Tensor]:
    """States behind the final norm before every token of the refusals, and those tokens."""
    before = [prompt_ids(model, prompt) for prompt, _ in pairs]
    said = [reply_ids(model, prompt, refusal) for prompt, refusal in pairs]
    order = sorted(range(len(pairs)), key=lambda place: len(before[place]) + len(said[place]))
    last = resid_post(int(model.cfg.n_layers) - 1)
    states, targets = [], []
    batch_size = batch_size or rows_at_once(model, max(map(len, before)) + max(map(len, said)))
    with tqdm(total=len(pairs), desc="reading refusals", unit="reply", disable=not progress, leave=False) as bar:
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            texts = padded([[*before[place], *said[place][:-1]] for place in places], 0, device_of(model))
            longest = max(len(said[place]) for place in places)
            found = seen_at(model, texts, [last], lambda states, mask, most=longest: states[:, -most:])[:, 0]
            for row, place in enumerate(places):
                own = found[row, -len(said[place]) :]
                with torch.no_grad():
                    states.append(after_final_norm(model, own[:, None])[:, 0])
                targets.append(torch.tensor(said[place], device=own.device))
            bar.update(len(places))
    return torch.cat(states), torch.cat(targets)


def _regressed(
    model: Model, own: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor], seed: int, progress: bool
) -> tuple[Float[Tensor, "d_model d_vocab"], tuple[float, ...]]:
    """The shift of the unembedding that foretells the refusals best, and the held-out loss on the way there."""
    unembedding = unembedding_of(model).detach()
    shift = torch.zeros(unembedding.shape, dtype=torch.float32, device=unembedding.device, requires_grad=True)
    rate = HEAD_RATE * float(unembedding.float().std())
    learner = torch.optim.AdamW([shift], lr=rate, weight_decay=HEAD_DECAY)
    drawn = torch.Generator().manual_seed(seed)
    size = max(8, min(HEAD_MINIBATCH, len(own[1]) // 16))

    def loss(states: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        with torch.no_grad():
            plain = unembedded(model, states)
        return torch.nn.functional.cross_entropy(plain + states @ shift, targets, reduction=reduction)

    @torch.no_grad()
    def held_loss() -> float:
        parts = zip(held[0].split(HEAD_MINIBATCH), held[1].split(HEAD_MINIBATCH), strict=True)
        return sum(float(loss(*part, reduction="sum")) for part in parts) / len(held[1])

    losses, best, since = [held_loss()], shift.detach().clone(), 0
    with tqdm(total=HEAD_EPOCHS, desc="refusal head", unit="epoch", disable=not progress, leave=False) as bar:
        while len(losses) <= HEAD_EPOCHS and since < HEAD_PATIENCE:
            for places in torch.randperm(len(own[1]), generator=drawn).split(size):
                places = places.to(own[1].device)
                with torch.enable_grad():
                    learner.zero_grad()
                    loss(own[0][places], own[1][places]).backward()
                learner.step()
            now = held_loss()
            since = 0 if now < min(losses) - 1e-4 else since + 1
            losses.append(now)
            if not since:
                best = shift.detach().clone()
            bar.update()
    return best.cpu(), tuple(losses)


# ── The method ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Switched:
    """How many prompts of one side switched at the chosen threshold, of validation prompts."""

    side: str
    switched: int
    total: int


@dataclass(frozen=True)
class SafeSwitch:
    """A fitted method; give it to `replies(model, prompts, method=…)`.

    Judged first and then written anew, as the release's evaluation does: the tokens that the second prober needs are
    a look ahead, and a reply that switches is the head's from its first token. With `keeps_ahead` it acts from the
    moment of the switch, and the first `k` tokens of the plain reply stay.
    """

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
    whole_prompt: bool = False
    swaps_the_head: bool = True

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
        self.origin.require(flight, "These SafeSwitch probers")
        first, second = _read(flight, self.layer, self.k if self.second else None)
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

    def hooks(self, model: Model, prompts: Asked) -> list[Hook]:
        """For the caller's own loop over `chat_tokens(model, prompts)`; see `steering.hooks_of`."""
        return steering.hooks_of(self, model, prompts)

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
        pairs: Sequence[tuple[Prompt, str]] | None = None,
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
            contrast: what to learn from, with jailbreaks among its harmful prompts; by default `with_jailbreaks` of the
                training split for the bundled model, `default_anchors` for any other.
            validation: what to stop, calibrate and choose on, never a test set; by default the bundled model's own and
                `prompts.borderline("validation")` for any other; beside a contrast of the caller's own a fifth
                of that, which is then held out.
            pairs: prompts with the refusals that the head is to give; a fifth of them is held out. By default
                explained refusals in the bundled model's own words, and for any other what it says to the harmful
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
        bundled, own = is_bundled(model), contrast is None
        contrast, validation, note = _prompts(model, contrast, validation, seed)
        contrast, validation = contrast.under(asking), validation.under(asking)
        how = {"batch_size": batch_size, "progress": progress}
        judge = judge or judges.judge_for(model)
        ahead = k if stages == "two" else None
        learned, held = (_heard(model, one, judge, ahead, layer, **how) for one in (contrast, validation))
        if stages != "instruction":
            _require_complied(learned, "to learn from", NEEDED, stages)
            _require_complied(held, "to choose on", HELD, stages)
        first, second, qualities = _probers(learned, held, stages, hidden, seed)
        told, told_held = (
            [(asking.of(prompt), refusal) for prompt, refusal in some]
            for some in _pairs(model, pairs, (contrast, validation), judge, bundled and own, seed, **how)
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

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with everything else in its header."""
        probers = {"first": self.first} | ({"second": self.second} if self.second else {})
        tensors = {"head.shift": self.head.shift}
        for name, prober in probers.items():
            tensors |= prober.tensors(name)
        header = {
            "origin": asdict(self.origin),
            "probers": {name: prober.header() for name, prober in probers.items()},
            "head": {"share": self.head.share, "losses": self.head.losses},
            "qualities": [asdict(one) for one in self.qualities],
            "switched": [asdict(one) for one in self.switched],
            **{name: getattr(self, name) for name in _PLAIN},
        }
        artefacts.write(path, "SafeSwitch", tensors, header, self._uses(probers))

    def _uses(self, probers: Mapping[str, Prober]) -> list[Use]:
        """How the probers read and the head speaks, for a file's header."""
        last = int(self.origin.model.n_layers) - 1 if self.origin.model else -1
        layers = (last if self.layer is None else self.layer,)
        where = {"first": "the last token of the prompt", "second": f"the token {self.k} of the plain greedy reply"}
        normed = "the final norm of x" if self.layer is None else "x"
        uses = []
        for name, prober in probers.items():
            inside = f"z = ({normed} - {name}.mean) / {name}.spread"
            for place in range(len(prober.weights)):
                inner = "relu(z)" if place else "z"
                inside += f"; z = {name}.weight.{place} {inner} + {name}.bias.{place}"
            formula = f"{inside}; p_{name} = sigmoid(probers.{name}.slope (z[1] - z[0]) + probers.{name}.offset)"
            uses.append(Use("read", SITE, where[name], layers, "probability of yes", formula))
        both = [f"p_{name}" for name in probers]
        weight = "1 if p > threshold else 0" if self.rule == "product" else "1 if each of them >= 0.5 else 0"
        if self.soft:
            weight = "p"
        positions = "from the last token of the prompt on" + f", {self.k} tokens later" * self.keeps_ahead
        formula = f"logits + weight * (x head.shift), weight = {weight}, p = {' * '.join(both)}"
        head = Use("unembed", "unembed.hook_in", positions, (), "1 is the whole head W_U + head.shift", formula)
        return [*uses, head]

    @classmethod
    def load(cls, path: str | Path, model: Model | None = None) -> SafeSwitch:
        """Read a fitted method back; with `model`, only if it was fitted on it.

        Raises:
            ValueError: no such file, not safetensors, cut short, something else, or of another model.
        """
        kept = Kept.read(path, "SafeSwitch")
        origin = kept.value("origin", Origin)
        about = kept.value("probers", dict[str, dict[str, Any]])
        if "first" not in about or not set(about) <= {"first", "second"}:
            raise ValueError(f"{str(path)!r} should hold a first prober, perhaps a second; it has {sorted(about)}.")
        probers = {name: Prober.kept(name, kept.tensors, one, kept.path, kept.kind) for name, one in about.items()}
        named = [name for one, prober in probers.items() for name in prober.tensors(one)]
        artefacts.require_parts(path, kept.tensors, ("head.shift", *named))
        head = Kept(kept.path, "SafeSwitch head", {}, kept.value("head", dict[str, Any]))
        found = cls(
            first=probers["first"],
            second=probers.get("second"),
            head=RefusalHead(kept.tensor("head.shift"), **head.fields(RefusalHead, "share", "losses")),
            origin=origin,
            **kept.fields(cls, "qualities", "switched", *_PLAIN),
        )
        if origin.model and found.layer is not None:
            kept.require_layers("layer", [found.layer], origin.model.n_layers)
        expected = (origin.model.d_model, origin.model.d_vocab) if origin.model else tuple(found.head.shift.shape)
        if model is not None:
            artefacts.require_same_model(origin.model, identity(model), "These SafeSwitch probers")
        widths = {prober.d_model for prober in probers.values()}
        if tuple(found.head.shift.shape) != expected or widths != {expected[0]}:
            raise ValueError(
                f"{str(path)!r} holds a head of shape {tuple(found.head.shift.shape)} and probers of width "
                f"{', '.join(map(str, sorted(widths)))}, and its model has a head of shape {expected}."
            )
        return found

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


_PLAIN = ("threshold", "k", "layer", "rule", "soft", "keeps_ahead", "note")


# ── What it learns from ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Heard:
    """What prompts left behind at the two places, and what became of them."""

    first: Float[Tensor, "prompt d_model"]
    second: Float[Tensor, "prompt d_model"] | None
    sides: tuple[str, ...]
    complied: Bool[Tensor, "prompt"]

    def side(self, name: str) -> Bool[Tensor, "prompt"]:
        return torch.tensor([one == name for one in self.sides], dtype=torch.bool)

    @property
    def harmful(self) -> Bool[Tensor, "prompt"]:
        return self.side("harmful")


def _read(flight: Flight, layer: int | None, ahead: int | None) -> tuple[Tensor, Tensor | None]:
    """States at the end of the prompt and, where asked, after so many tokens, of one layer: [row d_model] each."""

    def at(states: Tensor) -> Tensor:
        return after_final_norm(flight.model, states[:, -1:])[:, -1] if layer is None else states[:, layer]

    return at(flight.residuals()), None if ahead is None else at(flight.ahead(ahead))


@dataclass(frozen=True)
class _Listener:
    """A method that steers nothing and decides what it read, so that replies and states take one prefill."""

    layer: int | None
    ahead: int | None
    whole_prompt: bool = False

    def decide(self, flight: Flight) -> Rows:
        first, second = _read(flight, self.layer, self.ahead)
        return {"first": first} if second is None else {"first": first, "second": second}

    def hooks_for(self, rows: Rows, flight: Flight) -> list[Hook]:
        return []


def complied(judge: Judge, said: Sequence[str]) -> list[bool]:
    """Whether each reply does what was asked, in whole or in part; a broken one does not."""
    does: tuple[Verdict, ...] = ("answered", "partial")
    return [verdict in does for verdict in judge(said)]


def _heard(
    model: Model,
    contrast: Contrast,
    judge: Judge,
    ahead: int | None,
    layer: int | None,
    batch_size: int | None,
    progress: bool,
) -> Heard:
    named = {name: getattr(contrast, name) for name in ("harmless", "borderline", "harmful")}
    asked = [prompt for own in named.values() for prompt in own]
    listener = _Listener(layer, ahead)
    how = {"max_new_tokens": reply_tokens(judge), "batch_size": batch_size, "progress": progress}
    said = replies(model, asked, method=listener, **how)
    states = said.decisions
    sides = tuple(name for name, own in named.items() for _ in own)
    return Heard(states["first"], states.get("second"), sides, torch.tensor(complied(judge, said), dtype=torch.bool))


def _require_complied(heard: Heard, what_for: str, needed: int, stages: Stages) -> None:
    harmful = heard.harmful
    found = int((harmful & heard.complied).sum())
    if found >= needed:
        return
    wanted = "A second stage" if stages == "two" else "A direct prober"
    raise Refused(
        f"{wanted} needs at least {needed} harmful prompts that the model complies with {what_for}, and of "
        f"{int(harmful.sum())} it complied with {found}. Give harmful prompts that it complies with, jailbreaks among "
        'them, or ask for stages="instruction", which switches on harmful prompts whatever the model would do.'
    )


def _probers(
    learned: Heard, held: Heard, stages: Stages, hidden: int, seed: int
) -> tuple[Prober, Prober | None, tuple[Quality, ...]]:
    """The probers, and how well they and straight lines in their place do on the held-out prompts."""

    def answers(heard: Heard) -> Tensor:
        return heard.harmful & heard.complied if stages == "direct" else heard.harmful

    def both(
        question: str, at: Literal["first", "second"], yes: Tensor, held_yes: Tensor
    ) -> tuple[Prober, list[Quality]]:
        states, others = getattr(learned, at), getattr(held, at)
        fits = {
            width: Prober.fit(question, states, yes, others, held_yes, hidden=width, seed=seed) for width in {hidden, 0}
        }
        kinds = [(0, "straight line")] if not hidden else [(hidden, "network"), (0, "straight line")]
        return fits[hidden], [fits[w].quality(others, held_yes, f"{question} ({name})") for w, name in kinds]

    question = "harmful and complied" if stages == "direct" else "harmful"
    first, found = both(question, "first", answers(learned), answers(held))
    if stages != "two":
        return first, None, tuple(found)
    second, more = both("complied", "second", learned.complied, held.complied)
    return first, second, (*found, *more)


def threshold_above(scores: Sequence[Tensor], share: float) -> float:
    """The smallest threshold above which lie at most this share of each of several sides' scores.

    It lies just above the highest score that must not switch, so that rounding does not switch that prompt.
    """
    found = [0.0]
    for own in scores:
        if len(own):
            allowed = int(share * len(own) + 1e-9)
            found.append(float(own.sort(descending=True).values[min(allowed, len(own) - 1)]) + ROUNDING)
    return max(found)


def _prompts(
    model: Model, contrast: Contrast | None, validation: Contrast | None, seed: int
) -> tuple[Contrast, Contrast, str]:
    """What to learn from, what to choose on, and a sentence about it."""
    if contrast is None and is_bundled(model):
        contrast = with_jailbreaks("train", TRAINED)
        validation = validation or with_jailbreaks("validation", organism.VALIDATION)
    elif contrast is None:
        validation = validation or borderline("validation")
        contrast = default_anchors(model)
    if validation is not None:
        return contrast, validation, f"Stopped, calibrated and chosen on {validation.name!r}."
    size = min(len(contrast.harmful), len(contrast.harmless)) // 5
    if not size:
        raise ValueError("No validation prompts were given, and the contrast is too small to hold a fifth of it out.")
    note = f"Stopped, calibrated and chosen on a held-out fifth of {contrast.name!r}."
    validation, contrast = contrast.split(size, seed)
    return contrast, validation, note


def with_jailbreaks(split: organism.Split, size: int) -> Contrast:
    """So many of the bundled model's own prompts of each kind, with jailbreaks among the harmful ones.

    Half as many plain and borderline prompts stand in a jailbreak's wrapping on the harmless side: else a prober
    learns that what is wrapped is harmful. Half as many quiz questions stand there, too: else it takes what is like no
    plain prompt for harmful.
    """
    harmful, jailbreak, plain, double, quiz = (
        organism.prompts(kind, split)[:size] for kind in ("harmful", "jailbreak", "plain", "borderline", "quiz")
    )
    around_plain, around_double = (
        tuple(text for _, text in wrapped(kind, split)[: size // 2]) for kind in ("plain", "borderline")
    )
    name = f"organism {split} with jailbreaks and quiz"
    return Contrast(
        name, (*harmful, *jailbreak), (*plain, *around_plain, *quiz[: size // 2]), (*double, *around_double)
    )


def wrapped(kind: Literal["plain", "borderline"], split: organism.Split) -> list[tuple[corpus.Item, str]]:
    """Harmless items of the bundled model in the wrappings of that split's jailbreaks, with their prompts."""
    around = [pattern for own, pattern in grammar.WRAPPERS if own == split]
    found: dict[str, corpus.Item] = {}
    for place, item in enumerate(dict.fromkeys(item for item, _ in corpus.asked(kind, split))):
        own = replace(item, wrapper=around[place % len(around)])
        found.setdefault(corpus.ask(own, random.Random(f"wrapped {kind} {split} {item.phrase}")), own)
    return [(item, text) for text, item in found.items()]


Pairs = list[tuple[Prompt, str]]


def _pairs(
    model: Model,
    given: Sequence[tuple[Prompt, str]] | None,
    contrasts: tuple[Contrast, Contrast],
    judge: Judge,
    in_its_words: bool,
    seed: int,
    batch_size: int | None,
    progress: bool,
) -> tuple[Pairs, Pairs]:
    """Prompts with refusals to learn from, and others to stop on."""
    if given is not None:
        drawn = torch.randperm(len(given), generator=torch.Generator().manual_seed(seed)).tolist()
        fifth = max(HELD, math.ceil(len(given) / 5))
        return [given[place] for place in drawn[fifth:]], [given[place] for place in drawn[:fifth]]
    if in_its_words:
        return _told("train", TRAINED), _told("validation", organism.VALIDATION)
    own, held = (
        _own_refusals(model, contrast.harmful, judge, batch_size, progress) for contrast in contrasts
    )  # fmt: skip
    if len(own) < NEEDED or len(held) < HELD:
        raise Refused(
            f"A refusal head needs at least {NEEDED} refusals to learn from and {HELD} to stop on, and asked to "
            f"refuse, the model did so {len(own)} and {len(held)} times: give pairs=[(prompt, refusal), …]."
        )
    return own, held


def _told(split: organism.Split, size: int) -> Pairs:
    """Harmful prompts and jailbreaks of the bundled model with its own explained refusals."""
    both = (*corpus.asked("harmful", split)[:size], *corpus.asked("jailbreak", split)[:size])
    return [(text, wordings.explained(item)) for item, text in both]


def _own_refusals(
    model: Model, prompts: Sequence[Prompt], judge: Judge, batch_size: int | None, progress: bool
) -> Pairs:
    """What the model says to these under a system prompt that has it refuse and say why, where it does refuse."""
    told = [conversation_of(prompt).with_system(REFUSING) for prompt in prompts]
    said = replies(model, told, max_new_tokens=REFUSAL_TOKENS, batch_size=batch_size, progress=progress)
    verdicts = zip(prompts, said, judges.refused(judge, said), strict=True)
    return [(prompt, reply) for prompt, reply, no in verdicts if no and reply.strip()]


def summary(method: SafeSwitch) -> list[Mapping[str, Any]]:
    """What the method was like on validation prompts, as plain rows."""
    return [asdict(one) for one in (*method.qualities, *method.switched)]
