"""lm-eval: a steered model as its tasks (MMLU, WikiText, XSum, …) take it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from scans_lens.continuing import continuations
from scans_lens.generation import NEW_TOKENS
from scans_lens.likelihoods import log_likelihoods, perplexity
from scans_lens.model import Model, device_of
from scans_lens.pieces import require_steerable
from scans_lens.steering import Method


def lm(
    model: Model,
    method: Method | None = None,
    *,
    sign: float | None = None,
    batch_size: int | None = None,
    truncate: bool = False,
) -> Any:
    """The model, steered by `method` if there is one, as an `lm_eval.api.model.LM`.

    lm_eval.simple_evaluate(model=scans_lens.lm_eval.lm(model, scans), tasks=["mmlu"], num_fewshot=5)

    A request's push is decided from its context and acts from the context's last token on. Tasks without a context
    (WikiText) need a `sign`, and then every token is pushed. With lm-eval's `apply_chat_template` a context is decided
    on as a prompt of `replies` is.

    Args:
        sign: -1 or +1 pushes everything away from refusal or towards it, as hard as the method decides; None lets the
            method choose the sign.
        truncate: cut what does not fit off the beginning of a context, BOS apart, as lm-eval does; otherwise it is
            an error. Pieces of long texts for perplexity are no cuts.

    Raises:
        ValueError: lm-eval is not installed, or a sign that is none.
    """
    try:
        from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            "lm-eval is not installed, and its tasks need it: pip install scans_lens[eval], or "
            "use scans_lens.questions.mmlu and scans_lens.likelihoods.perplexity."
        ) from error
    require_steerable(method, sign)
    how: dict[str, Any] = {"sign": sign, "batch_size": batch_size}

    class Steered(LM):
        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            pairs = [request.args for request in requests]
            scores = log_likelihoods(model, pairs, method, truncate=truncate, **how)
            return [(score.log_likelihood, score.greedy) for score in scores]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            return [-nats for nats in perplexity(model, [request.args[0] for request in requests], method, **how).nats]

        def generate_until(self, requests: list[Any]) -> list[str]:
            asked = [request.args for request in requests]
            found: list[str] = [""] * len(asked)
            for settings in {repr(kwargs): kwargs for _, kwargs in asked}.values():
                places = [place for place, (_, kwargs) in enumerate(asked) if kwargs == settings]
                stops, most = _decoding(settings)
                contexts = [asked[place][0] for place in places]
                texts = continuations(model, contexts, method, stops=stops, most=most, truncate=truncate, **how)
                for place, text in zip(places, texts, strict=True):
                    found[place] = text
            return found

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return model.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )

        def chat_template(self, chat_template: bool | str = False) -> str | None:
            return model.tokenizer.chat_template if chat_template else None

        @property
        def tokenizer_name(self) -> str:
            return str(model.tokenizer.name_or_path).replace("/", "__")

        @property
        def device(self) -> torch.device:
            return device_of(model)

    return Steered()


def _decoding(settings: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    """Stop strings and the most new tokens, in the words that lm-eval has for them."""
    if settings.get("do_sample") and settings.get("temperature", 1.0):
        raise ValueError("This task draws its replies (do_sample), and here they are greedy: set do_sample to false.")
    stops = settings.get("until") or ()
    names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
    most = next((settings[name] for name in names if settings.get(name) is not None), NEW_TOKENS)
    return ((stops,) if isinstance(stops, str) else tuple(filter(None, stops))), int(most)
