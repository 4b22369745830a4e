"""Self-CD: the model's own answer under a safety prompt, subtracted from its answer without one.

Shi et al.: Navigating the OverKill in Large Language Models. ACL 2024, arXiv 2401.17633. A decoding baseline that
steers no residual stream; it runs every prompt in two contexts, so a token costs twice as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from scans_lens.chat import Tokens, chat_tokens
from scans_lens.conversation import Prompt, conversation_of
from scans_lens.methods.arms import Arm, Recipe
from scans_lens.model import Model
from scans_lens.steering import Method
from scans_lens.world import SAFETY_PROMPT

ARMS = {
    "self_cd": "what a safety prompt adds to logits, subtracted (2401.17633)",
    "system": "the plain model under a safety prompt",
}


@dataclass(frozen=True)
class SelfCD(Method):
    """Greedy on logits - ratio x (logits under the safety prompt - logits)."""

    system: str = SAFETY_PROMPT
    ratio: float = 2.5
    """As in the authors' code."""
    asks_twice: ClassVar[bool] = True

    def second_context(self, model: Model, prompts: Sequence[Prompt]) -> Tokens:
        return chat_tokens(model, [conversation_of(prompt).with_system(self.system) for prompt in prompts])

    def mix(
        self, logits: Float[Tensor, "row d_vocab"], second: Float[Tensor, "row d_vocab"]
    ) -> Float[Tensor, "row d_vocab"]:
        return logits - self.ratio * (second - logits)


RECIPES = {
    "self_cd": Recipe(lambda fitting, _: SelfCD(fitting.world.safety_prompt)),
    "system": Recipe(lambda fitting, _: Arm("system", system=fitting.world.safety_prompt)),
}
