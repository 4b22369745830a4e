"""Refusal head: an unembedding of its own that refuses and says why, learned while all else is frozen.

Han et al., EMNLP Findings 2025, arXiv 2502.01042 (see `safeswitch`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from scans_lens.batches import rows_at_once
from scans_lens.chat import padded, prompt_ids, reply_ids
from scans_lens.conversation import Prompt
from scans_lens.errors import Refused
from scans_lens.flight import Flight
from scans_lens.model import (
    Hook,
    Model,
    after_final_norm,
    device_of,
    parameters_of,
    resid_post,
    unembedded,
    unembedding_of,
)
from scans_lens.prober import HELD, NEEDED
from scans_lens.reading import seen_at

HEAD_RATE = 0.05
"""Learning rate of the head, in spreads of the unembedding's entries."""
HEAD_DECAY = 0.02
HEAD_MINIBATCH = 256
"""Tokens; of few refusals a sixteenth, so that there are steps enough."""
HEAD_EPOCHS = 12
HEAD_PATIENCE = 2


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
