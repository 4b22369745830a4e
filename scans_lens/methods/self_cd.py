"""Self-CD: the model's own answer under a safety prompt, subtracted from its answer without one.

Shi et al.: Navigating the OverKill in Large Language Models. ACL 2024, arXiv 2401.17633. A decoding baseline that
steers no residual stream; it runs every prompt in two contexts, so a token costs twice as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from scans_lens.chat import Tokens, chat_tokens
from scans_lens.conversation import Prompt, conversation_of
from scans_lens.flight import Flight
from scans_lens.model import Hook, Model
from scans_lens.steering import Rows

SAFETY_PROMPT = (
    "You are an assistant for whom safety comes first. Think about harm before you reply, and turn down whatever could "
    "hurt anybody."
)
"""Ours; the paper's own prompt stresses safety likewise."""


@dataclass(frozen=True)
class SelfCD:
    """Greedy on logits - ratio x (logits under the safety prompt - logits)."""

    system: str = SAFETY_PROMPT
    ratio: float = 2.5
    """As in the authors' code."""
    whole_prompt: bool = False

    def decide(self, flight: Flight) -> Rows:
        return {}

    def hooks_for(self, rows: Rows, flight: Flight) -> list[Hook]:
        return []

    def second_context(self, model: Model, prompts: Sequence[Prompt]) -> Tokens:
        return chat_tokens(model, [conversation_of(prompt).with_system(self.system) for prompt in prompts])

    def mix(
        self, logits: Float[Tensor, "row d_vocab"], second: Float[Tensor, "row d_vocab"]
    ) -> Float[Tensor, "row d_vocab"]:
        return logits - self.ratio * (second - logits)
