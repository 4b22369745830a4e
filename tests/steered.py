"""Steered: a steered model run by hand, in several ways that have to agree, and the states that hooks move."""

from typing import Any

import torch
from conftest import one_by_one
from drawn import REFUSING

from scans_lens.cache import runner
from scans_lens.chat import chat_tokens
from scans_lens.flight import Flight
from scans_lens.model import resid_post

SAID = (17, 300, 42)
"""A reply of three tokens, the same for every prompt."""


def close(found: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-4) -> None:
    """Equal as far as float32 goes, beside the largest of the expected numbers."""
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * float(expected.abs().max()))


def applied(hooks: list, state: torch.Tensor) -> torch.Tensor:
    """The state after hooks on one hook point, in their order."""
    for _, function in hooks:
        state = function(state, hook=None)
    return state


def _watch(seen: dict[int, torch.Tensor], layer: int) -> tuple[str, Any]:
    return resid_post(layer), lambda residual, hook: seen.__setitem__(layer, residual.clone())


@torch.no_grad()
def states_under(model: Any, tokens: Any, hooks: list) -> tuple[torch.Tensor, torch.Tensor]:
    """States of a whole text at every layer under these hooks, [row pos layer d_model], and its last logits."""
    seen: dict[int, torch.Tensor] = {}
    with model.hooks(fwd_hooks=hooks + [_watch(seen, layer) for layer in range(4)]):
        logits = runner(model).feed(tokens.ids, tokens.mask)
    return torch.stack([seen[layer] for layer in range(4)], dim=2), logits


@torch.no_grad()
def moves_under(model: Any, tokens: Any, hooks: list) -> dict[int, torch.Tensor]:
    """By how much these hooks move the state of each layer, for layers that they touch: {layer: [row pos d_model]}."""
    before: dict[int, torch.Tensor] = {}
    after: dict[int, torch.Tensor] = {}
    layers = sorted({int(name.split(".")[1]) for name, _ in hooks})
    around = [_watch(before, layer) for layer in layers] + hooks + [_watch(after, layer) for layer in layers]
    with model.hooks(fwd_hooks=around):
        runner(model).feed(tokens.ids, tokens.mask)
    return {layer: after[layer] - before[layer] for layer in layers}


@torch.no_grad()
def decoded(model: Any, tokens: Any, method: Any) -> torch.Tensor:
    """A reply's logits, steered from the cache: the states of the prompt are not run again where they need not be."""
    flight = Flight(model, tokens)
    rows = method.decide(flight)
    logits = [flight.again(method.hooks_for(rows, flight), whole_prompt=method.whole_prompt)]
    for token in SAID:
        column = torch.full((len(tokens), 1), token)
        with model.hooks(fwd_hooks=method.hooks_for(rows, flight)):
            logits.append(flight.run.feed(column, torch.ones_like(column)))
    return torch.stack(logits, dim=1)


@torch.no_grad()
def run_whole(model: Any, tokens: Any, hooks: list) -> torch.Tensor:
    """The same logits, the whole text run again for every token."""
    logits = []
    for length in range(len(SAID) + 1):
        said = torch.tensor(SAID[:length], dtype=torch.long).expand(len(tokens), -1)
        ids, mask = torch.cat([tokens.ids, said], dim=1), torch.cat([tokens.mask, torch.ones_like(said)], dim=1)
        with model.hooks(fwd_hooks=hooks):
            logits.append(runner(model).feed(ids, mask))
    return torch.stack(logits, dim=1)


@torch.no_grad()
def run_by_the_caller(model: Any, tokens: Any, hooks: list) -> torch.Tensor:
    """The same logits once more, in a cached loop of the caller's own with the same hooks all through."""
    run = runner(model)
    with model.hooks(fwd_hooks=hooks):
        logits = [run.feed(tokens.ids, tokens.mask)]
        for token in SAID:
            column = torch.full((len(tokens), 1), token)
            logits.append(run.feed(column, torch.ones_like(column)))
    return torch.stack(logits, dim=1)


@torch.no_grad()
def first_logits(model: Any, prompts: Any, hooks: Any = ()) -> torch.Tensor:
    """Each prompt alone, as TransformerLens runs it."""
    rows = one_by_one(chat_tokens(model, prompts))
    return torch.stack([model.run_with_hooks(ids, fwd_hooks=list(hooks))[0, -1].double() for ids in rows])


def taking_out(vector: torch.Tensor, layer: int | None = None) -> list:
    """Hooks that take a direction out everywhere, or with a layer add it there, as a few lines of tensor code."""
    unit = vector / vector.norm()
    if layer is not None:
        return [(f"blocks.{layer}.hook_resid_pre", lambda x, hook: x + vector)]
    sites = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out")
    names = [f"blocks.{each}.{site}" for each in range(4) for site in sites]
    return [(name, lambda x, hook: x - torch.einsum("bpd,d,e->bpe", x, unit, unit)) for name in names]


def odds_of_refusal(logits: torch.Tensor) -> torch.Tensor:
    """Log-odds of a reply that begins with one of `drawn.REFUSING`."""
    shares = logits.softmax(dim=-1)[:, list(REFUSING)].sum(dim=-1)
    return torch.log(shares) - torch.log(1 - shares)
