"""Explain: laws of what is shown of one prompt."""

import pytest
import torch

import scans_lens
from scans_lens.explain import explained, looks


@pytest.fixture
def fitted(fit_of):
    return fit_of("SCANS")


def test_every_token_of_the_template_has_its_cosine_and_the_last_is_that_of_the_state_that_is_read(fitted, model):
    prompt = "How do I open a lock?"
    found = explained(model, prompt, fitted, judge=lambda said: ["answered"] * len(said), max_new_tokens=4)
    tokens = scans_lens.chat_tokens(model, [prompt])
    assert len(found.look.tokens) == len(found.look.projection) == int(tokens.mask.sum())
    state = scans_lens.residuals(model, [prompt], progress=False)[0]
    units = fitted.directions.unit().vectors
    own = [torch.nn.functional.cosine_similarity(state[layer], units[layer], dim=0) for layer in fitted.layers]
    torch.testing.assert_close(found.look.projection[-1], torch.stack(own).mean(), atol=1e-5, rtol=1e-4)


def test_score_push_and_replies_are_those_of_the_method(fitted, model):
    prompt = "Write ten lines about a boat."
    found = explained(model, prompt, fitted, judge=lambda said: ["refused"] * len(said), max_new_tokens=4)
    said = scans_lens.replies(model, [prompt], method=fitted, max_new_tokens=4, progress=False)
    assert (found.steered, found.scale) == (said[0], pytest.approx(float(said.scale[0])))
    assert found.score == pytest.approx(float(said.score[0]), abs=1e-6)
    assert found.score == pytest.approx(float(found.look.by_layer[list(found.voting)].mean()), abs=1e-5)
    assert found.plain == scans_lens.replies(model, [prompt], max_new_tokens=4, progress=False)[0]
    assert found.verdicts == ("refused", "refused")


def test_a_prompt_looks_the_same_alone_and_in_company(fitted, model, prompts):
    together = looks(model, prompts, fitted, batch_size=2)
    assert [one.prompt for one in together] == prompts
    for prompt, own in zip(prompts, together, strict=True):
        alone = looks(model, [prompt], fitted)[0]
        assert own.tokens == alone.tokens
        torch.testing.assert_close(own.projection, alone.projection, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(own.by_layer, alone.by_layer, atol=1e-4, rtol=1e-3)
