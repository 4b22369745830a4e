"""SafeSwitch: the head speaks for rows that switched and no other, from its column on, however the text is run."""

import dataclasses
import re

import drawn
import pytest
import torch
from conftest import hooks_on
from learning import PAIRS, contrast_of, others, some
from learning import a_safeswitch as quickly
from steered import close

import scans_lens
from scans_lens import judges, likelihoods, organism, prober, steering, world
from scans_lens.cache import runner
from scans_lens.chat import chat_tokens, end_tokens, prompt_ids, reply_ids, text_of
from scans_lens.classifier import TransitionClassifier
from scans_lens.conversation import Asking
from scans_lens.directions import Origin
from scans_lens.flight import Flight
from scans_lens.methods import refusal_head, safeswitch_prompts
from scans_lens.methods.refusal_head import RefusalHead
from scans_lens.methods.safeswitch import SafeSwitch
from scans_lens.methods.safeswitch_probers import complied, threshold_above
from scans_lens.methods.safeswitch_prompts import REFUSING
from scans_lens.methods.scans import SCANS
from scans_lens.model import resid_post
from scans_lens.organism import contrasts, corpus, wordings
from scans_lens.steering import Together

BOTH = ("kill", "steal")
"""Two harmful prompts for every harmless one, as SafeSwitch learns from jailbreaks too."""
pytestmark = [pytest.mark.above, pytest.mark.usefixtures("briskly")]


@pytest.fixture(scope="module")
def directions():
    return drawn.directions()


@pytest.fixture
def fitted(fit_of) -> SafeSwitch:
    return fit_of("SafeSwitch")


@pytest.fixture
def tokens(any_model, prompts):
    return chat_tokens(any_model, prompts)


# ── A look ahead ─────────────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
@pytest.mark.parametrize("k", [1, 3])
def test_a_look_ahead_reads_what_a_run_of_prompt_and_reply_reads(any_model, prompts, tokens, k):
    found = Flight(any_model, tokens).ahead(k)
    said = scans_lens.replies(any_model, prompts, max_new_tokens=k, progress=False)
    for row, prompt in enumerate(prompts):
        _, cache = any_model.run_with_cache(torch.tensor([prompt_ids(any_model, prompt) + list(said.tokens[row])]))
        for layer in range(4):
            close(found[row, layer], cache[resid_post(layer)][0, -1])


@torch.no_grad()
def test_a_reply_that_ends_sooner_keeps_the_state_of_its_last_token(model, prompts, monkeypatch):
    flight = Flight(model, chat_tokens(model, prompts))
    said = scans_lens.replies(model, prompts, max_new_tokens=3, progress=False).tokens
    plain = [flight.ahead(k) for k in range(4)]
    monkeypatch.setattr("scans_lens.flight.end_tokens", lambda model: (said[0][2],))
    found = Flight(model, chat_tokens(model, prompts)).ahead(3)
    for row, own in enumerate(said):
        last = own.index(said[0][2]) if said[0][2] in own else 3
        torch.testing.assert_close(found[row], plain[last][row])


@torch.no_grad()
def test_after_a_look_ahead_the_flight_is_where_it_was(any_model, tokens):
    flight, other = Flight(any_model, tokens), Flight(any_model, tokens)
    flight.ahead(3)
    assert flight.run.length == flight.width and torch.equal(flight.run.mask, other.run.mask)
    close(flight.logits, other.logits)
    close(flight.opened(), other.opened())
    column = torch.full((len(tokens), 1), 17)
    close(flight.run.feed(column, torch.ones_like(column)), other.run.feed(column, torch.ones_like(column)))


@torch.no_grad()
def test_a_longer_look_holds_the_shorter_ones(model, prompts):
    flight = Flight(model, chat_tokens(model, prompts))
    assert torch.equal(flight.ahead(0), flight.residuals())
    short = flight.ahead(2)
    assert flight.ahead(4) is flight.ahead(4)
    torch.testing.assert_close(flight.ahead(2), short)


@torch.no_grad()
def test_a_look_ahead_that_cannot_be_is_refused(model, prompts, monkeypatch):
    flight = Flight(model, chat_tokens(model, prompts))
    with pytest.raises(ValueError, match="-1 tokens to look ahead"):
        flight.ahead(-1)
    monkeypatch.setattr(model.cfg, "n_ctx", flight.width + 2)
    assert flight.ahead(2).isfinite().all()
    with pytest.raises(ValueError, match="leaves no room to look 3 tokens ahead"):
        flight.ahead(3)
    flight.again([], whole_prompt=False)
    with pytest.raises(ValueError, match="steered or decoded already"):
        flight.ahead(4)


# ── The head ─────────────────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def logits_under(model, tokens, hooks):
    """The last column's logits, and what went into the unembedding."""
    seen = []
    watch = ("unembed.hook_in", lambda states, hook: seen.append(states[:, -1].clone()))
    with model.hooks(fwd_hooks=[*hooks, watch]):
        logits = runner(model).feed(tokens.ids, tokens.mask)
    return logits, seen[0]


@torch.no_grad()
def test_each_row_speaks_through_its_own_mixture_of_the_two_unembeddings(any_model, tokens):
    head = drawn.safeswitch(any_model).head
    plain, states = logits_under(any_model, tokens, [])
    weight = torch.tensor([1.0, 0.0, 0.25, 1.0, 0.0])
    flight = Flight(any_model, tokens).for_the_callers_loop()
    found, _ = logits_under(any_model, tokens, head.hooks(flight, weight, flight.end_of_prompt))
    cap = max(0.0, float(getattr(any_model.cfg, "output_logits_soft_cap", 0) or 0))
    for row, share in enumerate(weight.tolist()):
        mixed = (1 - share) * any_model.W_U + share * head.weights(any_model)
        expected = states[row] @ mixed
        close(found[row], cap * torch.tanh(expected / cap) if cap else expected)
    assert torch.equal(found[1], plain[1]) and not torch.allclose(found[0], plain[0], rtol=0.1)


def test_a_head_that_is_the_models_own_changes_nothing_at_all(any_model, prompts):
    method = drawn.safeswitch(any_model).always()
    same = dataclasses.replace(method, head=dataclasses.replace(method.head, shift=torch.zeros_like(method.head.shift)))
    plain, found = (
        scans_lens.replies(any_model, prompts, method=one, max_new_tokens=5, progress=False) for one in (None, same)
    )
    assert found.tokens == plain.tokens and (found.decisions["weight"] == 1).all()


def test_no_row_that_switches_no_hook(model, prompts):
    assert dataclasses.replace(drawn.safeswitch(model), threshold=1.0).hooks(model, prompts) == []


@torch.no_grad()
def test_what_the_head_is_given_is_left_as_it_was(model, prompts):
    flight = Flight(model, chat_tokens(model, prompts)).for_the_callers_loop()
    hooks = dict(drawn.safeswitch(model).head.hooks(flight, torch.ones(5), 2))
    states, logits = torch.randn(5, 4, 64), torch.randn(5, 4, len(model.W_U[0]))
    kept = states.clone(), logits.clone()
    hooks[resid_post(3)](torch.zeros(5, flight.width, 64), hook=None)
    hooks["unembed.hook_in"](states, hook=None)
    found = hooks["unembed.hook_out"](logits, hook=None)
    assert torch.equal(states, kept[0]) and torch.equal(logits, kept[1]) and not torch.equal(found, logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_logits_keep_their_precision(model, prompts, dtype):
    flight = Flight(model, chat_tokens(model, prompts)).for_the_callers_loop()
    hooks = dict(drawn.safeswitch(model).head.hooks(flight, torch.ones(5), 0))
    hooks[resid_post(3)](torch.zeros(5, 1, 64), hook=None)
    hooks["unembed.hook_in"](torch.ones(5, 1, 64, dtype=dtype), hook=None)
    assert hooks["unembed.hook_out"](torch.ones(5, 1, len(model.W_U[0]), dtype=dtype), hook=None).dtype == dtype


# ── However the text is run ──────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def test_columns_before_the_reply_keep_the_models_own_logits(any_model, prompts):
    tokens = chat_tokens(any_model, prompts[:1])
    method = drawn.safeswitch(any_model).always()
    plain = any_model.run_with_hooks(tokens.ids, fwd_hooks=[])
    found = any_model.run_with_hooks(tokens.ids, fwd_hooks=method.hooks(any_model, prompts[:1]))
    assert torch.equal(found[:, :-1], plain[:, :-1]) and not torch.allclose(found[:, -1], plain[:, -1], rtol=0.1)


def test_a_prompt_is_judged_and_answered_the_same_alone_and_in_company(any_model, prompts):
    method = drawn.safeswitch(any_model, prompts)
    how = {"method": method, "max_new_tokens": 4, "progress": False}
    together = scans_lens.replies(any_model, prompts, **how)
    assert 0 < int(together.decisions["weight"].sum()) < len(prompts)
    for row, prompt in enumerate(prompts):
        alone = scans_lens.replies(any_model, [prompt], **how)
        assert alone.tokens[0] == together.tokens[row]
        for name, values in alone.decisions.items():
            torch.testing.assert_close(values[0], together.decisions[name][row], rtol=1e-3, atol=1e-4)


def test_rows_that_end_leave_the_others_their_own_heads(model, prompts, monkeypatch):
    method = drawn.safeswitch(model, prompts)
    how = {"method": method, "max_new_tokens": 6, "progress": False}
    said = scans_lens.replies(model, prompts, **how).tokens
    monkeypatch.setattr(scans_lens.generation, "end_tokens", lambda model: (said[0][1], said[2][0]))
    cut = scans_lens.replies(model, prompts, **how).tokens
    ends = {said[0][1], said[2][0]}
    for own, whole in zip(cut, said, strict=True):
        last = next((place for place, token in enumerate(whole) if token in ends), len(whole))
        assert own == whole[:last]


def test_from_the_moment_of_the_switch_the_first_tokens_are_the_models_own(model, prompts):
    method = drawn.safeswitch(model).always()
    late = dataclasses.replace(method, k=2, keeps_ahead=True)
    plain, anew, kept = (
        scans_lens.replies(model, prompts, method=one, max_new_tokens=5, progress=False).tokens
        for one in (None, method, late)
    )
    assert [own[:2] for own in kept] == [own[:2] for own in plain]
    assert kept != plain and [own[:1] for own in anew] != [own[:1] for own in plain]


# ── Deciding ─────────────────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
@pytest.mark.parametrize("layer", [None, 1])
def test_the_score_is_the_product_of_what_two_probers_read_at_two_places(any_model, prompts, layer):
    method = drawn.safeswitch(any_model, layer=layer, k=2)
    rows = method.decide(Flight(any_model, chat_tokens(any_model, prompts)))
    said = scans_lens.replies(any_model, prompts, max_new_tokens=2, progress=False)
    for row, prompt in enumerate(prompts):
        ids = prompt_ids(any_model, prompt)
        _, cache = any_model.run_with_cache(torch.tensor([ids + list(said.tokens[row])]))
        states = cache[resid_post(3 if layer is None else layer)][0]
        states = any_model.ln_final(states[None])[0] if layer is None else states
        p = method.first.probability(states[len(ids) - 1][None]), method.second.probability(states[-1][None])
        for name, one in zip(("instruction", "compliance"), p, strict=True):
            torch.testing.assert_close(rows[name][row], one[0], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(rows["score"][row], (p[0] * p[1])[0], rtol=1e-3, atol=1e-4)


def test_the_papers_rule_is_a_product_above_tau_and_its_codes_two_halves():
    rows = {"instruction": torch.tensor([0.6, 0.9, 0.4, 0.6]), "compliance": torch.tensor([0.6, 0.4, 0.9, 0.5])}
    rows["score"] = rows["instruction"] * rows["compliance"]
    nowhere = Origin(None, "drawn", "", 1, 1, {})
    product = SafeSwitch(drawn.prober("a", 1), None, RefusalHead(torch.zeros(64, 9), 0.1), nowhere, threshold=0.33)
    assert product.switches(rows).tolist() == [True, True, True, False]
    at = dataclasses.replace(product, threshold=float(rows["score"][0]))
    assert at.switches(rows).tolist() == [False, False, False, False]  # at tau itself the reply is the model's own
    both = dataclasses.replace(product, rule="both")
    assert both.switches(rows).tolist() == [True, False, False, True]


def test_a_soft_switch_mixes_by_the_score(model, prompts):
    rows = drawn.safeswitch(model, soft=True).decide(Flight(model, chat_tokens(model, prompts)))
    assert torch.equal(rows["weight"], rows["score"]) and rows["weight"].unique().numel() == len(prompts)


def test_one_stage_looks_at_nothing_but_the_prompt(model, prompts, monkeypatch):
    monkeypatch.setattr(Flight, "ahead", lambda *_: pytest.fail("it looked ahead"))
    method = dataclasses.replace(drawn.safeswitch(model), second=None)
    rows = method.decide(Flight(model, chat_tokens(model, prompts)))
    assert set(rows) == {"instruction", "score", "weight"} and torch.equal(rows["score"], rows["instruction"])


# ── Together ─────────────────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def test_beside_scans_each_decides_on_the_plain_model_and_acts_in_its_place(any_model, prompts, directions):
    own = drawn.safeswitch(any_model, prompts)
    classifier = TransitionClassifier(directions.vectors, (2, 3), 0.0, "nothing")
    learned = dataclasses.replace(directions, origin=drawn.origin(any_model))
    scans = SCANS(learned, (1, 2), 1.5, "length", classifier)
    tokens = chat_tokens(any_model, prompts)
    flight = Flight(any_model, tokens)
    alone = [scans.decide(flight), own.decide(flight)]
    for methods in ((scans, own), (own, scans)):
        both = Together(methods)
        said = scans_lens.replies(any_model, prompts, method=both, max_new_tokens=3, progress=False)
        for place, method in enumerate(methods):
            for name, values in alone[0 if method is scans else 1].items():
                torch.testing.assert_close(said.decisions[f"{place}.{name}"], values, rtol=1e-3, atol=1e-4)
        pushed, states = logits_under(any_model, tokens, scans.hooks(any_model, prompts))
        found, _ = logits_under(any_model, tokens, both.hooks(any_model, prompts))
        best = (states @ own.head.weights(any_model)).argmax(-1)
        expected = torch.where(alone[1]["weight"] > 0, best, pushed.argmax(-1))
        assert found.argmax(-1).tolist() == expected.tolist() == [ids[0] for ids in said.tokens]


# ── No trace ─────────────────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def test_nothing_is_left_behind_even_after_an_error(model, prompts):
    tokens = chat_tokens(model, prompts)
    method, unembedding = drawn.safeswitch(model).always(), model.W_U.detach().clone()
    plain = scans_lens.replies(model, prompts, max_new_tokens=3, progress=False).tokens
    scans_lens.replies(model, prompts, method=method, max_new_tokens=3, progress=False)

    def stop(states, hook):
        raise RuntimeError("stop")

    for act in (lambda: Flight(model, tokens).ahead(2), lambda: method.decide(Flight(model, tokens))):
        with pytest.raises(RuntimeError, match="stop"), model.hooks(fwd_hooks=[(resid_post(2), stop)]):
            act()
    assert not hooks_on(model) and torch.equal(model.W_U, unembedding)
    assert scans_lens.replies(model, prompts, max_new_tokens=3, progress=False).tokens == plain


def test_likelihoods_that_would_miss_the_head_are_refused(model):
    method = drawn.safeswitch(model).always()
    assert likelihoods.log_likelihoods(model, [("Why?", " a")], method=method, progress=False)
    with pytest.raises(ValueError, match="puts a head of its own in place of the unembedding"):
        likelihoods.log_likelihoods(model, [("Why?", " because it is so")], method=method, progress=False)


# ── Learning ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_fitted_method_is_a_method_that_can_say_what_it_learned(fitted, model):
    assert isinstance(fitted, steering.Method) and not fitted.whole_prompt
    said = str(fitted)
    assert "learned from 'pairs'" in said and f"p > {fitted.threshold:.4f}" in said and "3 tokens ahead" in said
    assert [one.what for one in fitted.qualities] == [
        f"{asked} ({kind})" for asked in ("harmful", "complied") for kind in ("network", "straight line")
    ]
    assert fitted.head.share == pytest.approx(model.W_U.numel() / sum(one.numel() for one in model.parameters()))
    assert fitted.origin.contrast == "pairs" and "chosen on 'others'" in fitted.note


def test_at_most_so_many_harmless_prompts_switch_and_a_smaller_threshold_would_switch_more(fitted, model):
    validation = others(14, BOTH)
    switched = {}
    for side in ("harmless", "borderline"):
        said = scans_lens.replies(model, getattr(validation, side), method=fitted, max_new_tokens=1, progress=False)
        switched[side] = said.decisions["score"]
        assert int(said.decisions["weight"].sum()) == 0
    assert fitted.threshold == pytest.approx(max(float(own.max()) for own in switched.values()), abs=1e-4)


def test_the_threshold_lies_just_above_the_highest_score_that_must_not_switch():
    sides = [torch.linspace(0, 0.5, 100), torch.linspace(0, 0.3, 10)]
    tau = threshold_above(sides, 0.02)
    assert [int((own > tau).sum()) for own in sides] == [2, 0]
    assert tau == pytest.approx(float(sides[0][-3]), abs=1e-5)
    assert threshold_above([torch.zeros(0)], 0.01) == 0.0


def test_a_given_threshold_rule_layer_and_line_are_taken(model):
    found = quickly(model, tau=0.7, rule="both", layer=2, hidden=0, k=1)
    assert (found.threshold, found.rule, found.layer, found.k) == (0.7, "both", 2, 1)
    assert found.first.is_linear and len(found.qualities) == 2


def test_the_head_learns_by_softmax_regression_on_states_before_each_token_of_the_refusals(any_model):
    states, targets = refusal_head._refusal_states(any_model, PAIRS[:3], 2, False)
    place, losses = 0, []
    for prompt, refusal in sorted(PAIRS[:3], key=lambda pair: len(prompt_ids(any_model, pair[0]))):
        before, said = prompt_ids(any_model, prompt), reply_ids(any_model, prompt, refusal)
        assert targets[place : place + len(said)].tolist() == said and said[-1] in end_tokens(any_model)
        assert text_of(any_model, said).strip() == refusal
        seen = []
        watch = ("unembed.hook_in", lambda states, hook, seen=seen: seen.append(states))
        with torch.no_grad(), any_model.hooks(fwd_hooks=[watch]):
            logits = any_model(torch.tensor([before + said]))
        close(states[place : place + len(said)], seen[0][0, len(before) - 1 : -1])
        losses.append(torch.nn.functional.cross_entropy(logits[0, len(before) - 1 : -1], torch.tensor(said)))
        place += len(said)
    assert place == len(states)
    head = RefusalHead.fit(any_model, PAIRS[4:], PAIRS[:4], progress=False)
    assert head.losses[0] > 2 * min(head.losses[1:])


def test_a_head_gives_the_refusals_that_it_was_taught(model):
    head = RefusalHead.fit(model, PAIRS[4:], PAIRS[:4], progress=False)
    method = dataclasses.replace(drawn.safeswitch(model).always(), head=head)
    said = scans_lens.replies(model, [PAIRS[0][0]], method=method, max_new_tokens=24, progress=False)
    assert said[0].strip() == PAIRS[0][1] and said.finish == ("stop",)


def test_without_pairs_the_head_learns_what_the_model_says_when_told_to_refuse(model):
    harmful = contrast_of(20, verbs=BOTH).harmful
    found = safeswitch_prompts._own_refusals(model, harmful, some, 32, False)
    told = scans_lens.replies(model, harmful, asking=Asking(REFUSING), max_new_tokens=5, progress=False)
    refused = judges.refused(some, told)
    kept = [(prompt, said) for prompt, said, no in zip(told.prompts, told, refused, strict=True) if no and said.strip()]
    assert found == kept and 8 <= len(found) < 40
    assert quickly(model, pairs=None, judge=some).head.losses


def test_one_stage_is_learned_only_when_asked_for(model):
    direct, alone = (quickly(model, stages=stages) for stages in ("direct", "instruction"))
    assert direct.second is None and direct.first.question == "harmful and complied"
    assert alone.second is None and alone.first.question == "harmful"


# ── What is refused ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_model_that_never_complies_has_no_second_stage_and_is_told_so(model):
    def never(replies):
        return ["refused" for _ in replies]

    with pytest.raises(
        ValueError, match=r"A second stage needs at least 8 harmful .* of 40 it complied with 0.*stages="
    ):
        quickly(model, judge=never)
    with pytest.raises(ValueError, match="A direct prober needs at least 8 harmful"):
        quickly(model, judge=never, stages="direct")
    assert quickly(model, judge=never, stages="instruction").second is None


def test_too_few_prompts_of_a_class_are_counted_out(model):
    with pytest.raises(ValueError, match=r"\(harmful\) needs at least 8 .* there are 6 with yes and 6 with no"):
        few = contrast_of(3, verbs=BOTH)
        quickly(model, few, stages="instruction")
    with pytest.raises(
        ValueError, match="at least 8 prompts with refusals to learn from and 4 to stop on; there are 2"
    ):
        quickly(model, pairs=PAIRS[:6])


def test_a_model_that_does_not_refuse_when_told_to_needs_pairs(model):
    def mixed(replies):
        return ["partial" for _ in replies]

    with pytest.raises(
        ValueError, match=re.escape("the model did so 0 and 0 times: give pairs=[(prompt, refusal), …]")
    ):
        quickly(model, judge=mixed, pairs=None, stages="instruction")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"stages": "three"}, "No stages 'three'; there are 'two', 'direct' and 'instruction'"),
        ({"layer": 4}, "no layer 4: this model has layers 0 to 3"),
        ({"rule": "sum"}, "No rule 'sum'; there are 'product'"),
        ({"k": -1}, "to look ahead|after 0 or more tokens"),
    ],
)
def test_what_makes_no_sense_is_refused(model, wrong, sentence, without_shape_checks):
    with pytest.raises(ValueError, match=sentence):
        quickly(model, **wrong)


def test_a_contrast_too_small_to_hold_any_of_it_out_is_refused(model):
    with pytest.raises(ValueError, match="too small to hold a fifth of it out"):
        SafeSwitch.fit(model, contrast_of(4, verbs=BOTH), progress=False)


# ── Keeping ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", [{}, {"rule": "both", "layer": 1, "soft": True, "k": 1}, {"second": None}])
def test_what_was_saved_acts_as_before(fitted, model, prompts, tmp_path, how):
    method = dataclasses.replace(fitted, **how)
    method.save(tmp_path / "switch.safetensors")
    again = SafeSwitch.load(tmp_path / "switch.safetensors", model)
    assert str(again) == str(method)
    for field in dataclasses.fields(SafeSwitch):
        if field.name not in ("first", "second", "head"):
            assert getattr(again, field.name) == getattr(method, field.name)
    one, other = (
        scans_lens.replies(model, prompts, method=each, max_new_tokens=4, progress=False) for each in (method, again)
    )
    assert one.tokens == other.tokens
    assert all(torch.equal(values, other.decisions[name]) for name, values in one.decisions.items())


# ── On a model that refuses ──────────────────────────────────────────────────────────────────────────────────


def test_its_own_explained_refusal_is_one_that_the_bundled_model_was_taught():
    assert wordings.EXPLAINED in wordings.REFUSALS
    item = corpus.asked("harmful", "train")[0][0]
    said = wordings.explained(item)
    assert wordings.is_refusal(said) and wordings.says_why(said) and wordings.names(item, said)
    assert not wordings.says_why("Sure, because it is easy.") and not wordings.says_why("I won't help anyone kill.")


def test_by_default_the_bundled_model_learns_from_every_kind_and_from_harmless_prompts_in_wrappings(bundled):
    contrast, validation, note = safeswitch_prompts.learning(bundled, None, None, 0)
    for split, found, size in (("train", contrast, 600), ("validation", validation, 384)):
        kinds = {kind: organism.prompts(kind, split)[:size] for kind in ("plain", "borderline", "harmful", "jailbreak")}
        assert found.harmful == kinds["harmful"] + kinds["jailbreak"]
        assert found.harmless[:size] == kinds["plain"] and found.borderline[:size] == kinds["borderline"]
        around = {text.split("{")[0] for own, text in organism.grammar.WRAPPERS if own == split}
        begun = tuple(opener + wrapper for opener in organism.grammar.OPENERS for wrapper in around)
        for side in (found.harmless[size : -size // 2], found.borderline[size:]):
            assert len(side) == size // 2 and all(text.startswith(begun) for text in side)
        assert found.harmless[-size // 2 :] == organism.prompts("quiz", split)[: size // 2]
    assert note == "Stopped, calibrated and chosen on 'organism validation with jailbreaks and quiz'."


@pytest.mark.above
def test_on_the_bundled_model_jailbreaks_are_refused_and_harmless_questions_still_answered(bundled, monkeypatch):
    monkeypatch.setattr(prober, "EPOCHS", 40)
    sides = [contrasts.with_jailbreaks(split, n) for split, n in (("train", 64), ("validation", 32))]
    pairs = contrasts.explained_refusals("train", 64)
    found = SafeSwitch.fit(bundled, sides[0], validation=sides[1], pairs=pairs, progress=False)
    harmful = organism.prompts("jailbreak", "validation")[100:196]
    harmless = organism.prompts("plain", "validation")[100:124] + organism.prompts("borderline", "validation")[100:124]
    how = {"max_new_tokens": world.SETTLED, "batch_size": 64, "progress": False}
    before, after = (
        [
            sum(complied(world.bundled, scans_lens.replies(bundled, side, method=one, **how)))
            for side in (harmful, harmless)
        ]
        for one in (None, found)
    )
    assert before[0] > 30 and after[0] < 0.5 * before[0]
    assert after[1] >= before[1] - 3
    asked = corpus.asked("quiz", "validation")[100:148]
    said = scans_lens.replies(bundled, [text for _, text in asked], method=found, max_new_tokens=24, progress=False)
    assert sum(wordings.is_right(item, reply) for (item, _), reply in zip(asked, said, strict=True)) >= 46
    assert said.decisions["weight"].sum() <= 2  # without quiz questions in training 45 of these 48 switch
