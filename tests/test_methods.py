"""Methods: what every method promises, whichever it is; what one method alone computes stands in its own file."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping

import pytest
import torch
from conftest import hooks_on
from drawn import METHODS, directions
from learning import FITS, others, some
from steered import SAID, close, decoded, run_by_the_caller, run_whole
from tiny import LOADERS

from scans_lens import artefacts, likelihoods, methods
from scans_lens.chat import chat_tokens
from scans_lens.directions import Directions
from scans_lens.flight import Flight
from scans_lens.generation import replies
from scans_lens.methods import choosing, gating, thresholds
from scans_lens.methods.gated_push import GatedPush
from scans_lens.methods.refusal_direction import RefusalDirection
from scans_lens.methods.safeswitch import SafeSwitch
from scans_lens.methods.scans import SCANS
from scans_lens.methods.self_cd import SelfCD
from scans_lens.model import resid_post
from scans_lens.prompts import halves
from scans_lens.steering import Method, Together, add

KINDS = {
    "SCANS": "SCANS",
    "GatedPush": "gated push",
    "CAST": "CAST",
    "JailbreakAntidote": "Jailbreak Antidote",
    "CAA": "CAA",
    "RefusalDirection": "refusal direction",
    "FalseRefusal": "ablation of false refusal",
    "SafeSwitch": "SafeSwitch",
}
"""What a file of each class says it holds."""
SCALES = {
    "SCANS": "scale", "CAST": "scale", "JailbreakAntidote": "scale", "CAA": "multiplier", "Push": "scale",
    "ActivationAddition": "coefficient", "GatedPush": "scale",
}  # fmt: skip
"""What says how hard a method pushes, of those that push."""
PUSHES = [
    name
    for name in METHODS
    if name.startswith(("push", "SCANS", "gated push", "CAST", "Jailbreak", "CAA")) or name == "a direction added"
]
CHOSEN = [name for name in FITS if name not in ("refusal direction", "false refusal", "SafeSwitch")]
"""Whose knobs are chosen by replies."""
pytestmark = pytest.mark.usefixtures("briskly")


@pytest.fixture
def tokens(any_model, prompts):
    return chat_tokens(any_model, prompts)


@pytest.fixture(params=METHODS)
def method(request, any_model, prompts):
    """Every method, from vectors drawn at random."""
    return METHODS[request.param](any_model, prompts)


@pytest.fixture(params=FITS)
def fitted(request, fit_of):
    """Every method as it fits itself on a few prompts."""
    return fit_of(request.param)


def acting(fitted) -> tuple[Method, ...]:
    """What steers: the fitted method itself, or what a direction that was found is used for."""
    return (fitted.ablation(), fitted.addition(-1.0)) if isinstance(fitted, RefusalDirection) else (fitted,)


def test_every_class_that_can_be_fitted_is_tried_here(fits):
    there = set()
    for module in pkgutil.iter_modules(methods.__path__):
        own = vars(importlib.import_module(f"scans_lens.methods.{module.name}")).values()
        there |= {one.__name__ for one in own if isinstance(one, type) and {"fit", "load", "save"} <= set(dir(one))}
    there -= {"Directions", "TransitionClassifier", "Prober"}
    assert there == {type(fits(LOADERS[0], name)).__name__ for name in FITS} == set(KINDS)


@pytest.mark.parametrize("name", FITS)
def test_a_fit_says_which_halves_of_benchmarks_its_knobs_were_chosen_on(name, one_model):
    """So that it is not asked them: `keeping.loaded_fits` reads it there."""
    chosen_on = dataclasses.replace(others(), name="others and halves of mine (36), harm (12)")
    made = FITS[name](one_model, validation=chosen_on)
    assert halves.named_in(str(made)) == "halves of mine (36), harm (12)"


# ── However the text is run ──────────────────────────────────────────────────────────────────────────────────


def test_steered_decoding_from_the_cache_equals_running_the_whole_text_again(any_model, prompts, tokens, method):
    """Prefill, cached steps and whole texts agree: the hooks of a caller's own loop are those of ours."""
    close(decoded(any_model, tokens, method), run_whole(any_model, tokens, method.hooks(any_model, prompts)))


def test_hooks_of_a_callers_own_cached_loop_are_the_same(any_model, prompts, tokens, method):
    hooks, expected = method.hooks(any_model, prompts), decoded(any_model, tokens, method)
    for _ in range(2):  # hooks that have been through a loop fit the next one
        close(run_by_the_caller(any_model, tokens, hooks), expected)


@torch.no_grad()
def test_hooks_fit_run_with_hooks_of_transformer_lens_which_unembeds_every_column(any_model, prompts, method):
    tokens = chat_tokens(any_model, prompts[:1])
    ids = torch.cat([tokens.ids, torch.tensor([SAID])], dim=1)
    found = any_model.run_with_hooks(ids, fwd_hooks=method.hooks(any_model, prompts[:1]))[:, -1 - len(SAID) :]
    close(found, decoded(any_model, tokens, method))


def test_a_prompt_is_steered_the_same_alone_and_in_company(any_model, prompts, tokens, method):
    together = decoded(any_model, tokens, method)
    for row, prompt in enumerate(prompts[:2]):
        close(together[row], decoded(any_model, chat_tokens(any_model, [prompt]), method)[0])


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_methods_and_making_their_hooks_leaves_the_model_alone(model, prompts, name):
    method = METHODS[name](model, prompts)
    assert isinstance(method, Method)
    assert isinstance(method.decide(Flight(model, chat_tokens(model, prompts))), Mapping)
    hooks = method.hooks(model, prompts)
    assert hooks and all(isinstance(name, str) and callable(function) for name, function in hooks)
    assert not hooks_on(model)


@pytest.mark.parametrize("name", METHODS)
def test_nothing_is_left_behind_even_after_an_error(model, prompts, name):
    method = METHODS[name](model, prompts)
    tokens = chat_tokens(model, prompts)
    plain, unembedding = replies(model, prompts, max_new_tokens=2, progress=False).tokens, model.W_U.detach().clone()
    replies(model, prompts, method=method, max_new_tokens=2, progress=False)

    def stop(states, hook):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), model.hooks(fwd_hooks=[(resid_post(2), stop)]):
        replies(model, prompts, method=method, max_new_tokens=2, progress=False)
    with pytest.raises(RuntimeError, match="stop"), model.hooks(fwd_hooks=[(resid_post(2), stop)]):
        decoded(model, tokens, method)
    assert not hooks_on(model) and torch.equal(model.W_U, unembedding)
    assert replies(model, prompts, max_new_tokens=2, progress=False).tokens == plain


@pytest.mark.parametrize("method", PUSHES, indirect=True)
def test_a_scale_of_zero_changes_nothing(any_model, prompts, tokens, method):
    none = dataclasses.replace(method, **{SCALES[type(method).__name__]: 0.0})
    close(decoded(any_model, tokens, none), run_whole(any_model, tokens, []))
    plain = replies(any_model, prompts, max_new_tokens=4, progress=False)
    assert replies(any_model, prompts, method=none, max_new_tokens=4, progress=False).tokens == plain.tokens


# ── Fitting ──────────────────────────────────────────────────────────────────────────────────────────────────


def same(one, other) -> bool:
    """Equal in every part, tensors included."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if dataclasses.is_dataclass(one):
        own = [field.name for field in dataclasses.fields(one)]
        return type(one) is type(other) and all(same(getattr(one, name), getattr(other, name)) for name in own)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("name", FITS)
def test_the_same_prompts_and_seed_give_the_same_method(fits, one_model, name):
    assert same(FITS[name](one_model), fits(LOADERS[0], name))
    assert not hooks_on(one_model)


@pytest.mark.parametrize("name", FITS)
def test_fitting_leaves_no_hooks_behind_even_after_an_error(one_model, name):
    calls = iter(range(10**9))

    def stop(states, hook):
        if next(calls) == 3:
            raise RuntimeError("stop")

    with one_model.hooks(fwd_hooks=[(resid_post(2), stop)]):
        there = hooks_on(one_model)
        with pytest.raises(RuntimeError, match="stop"):
            FITS[name](one_model)
        assert hooks_on(one_model) == there


@pytest.mark.parametrize("fitted", CHOSEN, indirect=True)
def test_the_chosen_trial_is_what_the_method_does(fitted, model):
    rules = {SCANS: thresholds.choice, GatedPush: gating.choice}
    chosen = rules.get(type(fitted), choosing.best)(fitted.trials)[0]
    assert fitted.chosen == chosen and "'others'" in fitted.note
    validation = others(6) if type(fitted).__name__ == "CAA" else others()
    n = len(validation.harmful)
    asked = (*validation.borderline, *validation.harmful)
    verdicts = some(replies(model, asked, method=fitted, max_new_tokens=5, progress=False))
    assert chosen.harmless == (verdicts[:n].count("refused"), n)
    assert chosen.harmful == (verdicts[n:].count("refused"), n)


# ── Keeping ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_comes_back_from_disk_as_it_went(fitted, model, prompts, tmp_path):
    fitted.save(tmp_path / "kept")
    again = type(fitted).load(tmp_path / "kept", model)
    assert same(again, fitted) and str(again) == str(fitted)
    for one, other in zip(acting(fitted), acting(again), strict=True):
        said, same_said = (
            replies(model, prompts, method=own, max_new_tokens=4, progress=False) for own in (one, other)
        )
        assert said.tokens == same_said.tokens and same(said.decisions, same_said.decisions)


def test_a_method_of_another_model_is_refused_wherever_it_is_used(fitted, load, tiny_model, tmp_path):
    other, wider = tiny_model(load, "llama", "llama3", None, 1), tiny_model(load, "qwen2", "chatml")
    fitted.save(tmp_path / "kept")
    for model in (other, wider):
        with pytest.raises(ValueError, match="measured on another model"):
            type(fitted).load(tmp_path / "kept", model)
        for method in acting(fitted):
            for use in (
                lambda own=method, model=model: own.hooks(model, ["Why?"]),
                lambda own=method, model=model: replies(model, ["Why?"], method=own, progress=False),
                lambda own=method, model=model: replies(model, ["Why?"], method=Together((own,)), progress=False),
            ):
                with pytest.raises(ValueError, match="measured on another model"):
                    use()
    type(fitted).load(tmp_path / "kept")  # without a model nothing is compared


def test_a_file_of_something_else_or_cut_short_is_refused(fitted, tmp_path):
    kept, kind = tmp_path / "kept", KINDS[type(fitted).__name__]
    fitted.save(kept)
    with pytest.raises(ValueError, match=f"holds no directions, but {kind}"):
        Directions.load(kept)
    artefacts.write(tmp_path / "other", "directions", {"vectors": torch.ones(4, 64)}, {})
    with pytest.raises(ValueError, match=f"holds no {kind}, but directions"):
        type(fitted).load(tmp_path / "other")
    whole = kept.read_bytes()
    for length in (0, 40, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="no safetensors file, or it is cut short"):
            type(fitted).load(tmp_path / "cut")
    with pytest.raises(ValueError, match="There is no file"):
        type(fitted).load(tmp_path / "none")


@pytest.mark.usefixtures("without_shape_checks")
def test_a_file_that_lacks_a_part_or_has_one_of_another_shape_is_refused(fitted, tmp_path):
    kind = KINDS[type(fitted).__name__]
    fitted.save(tmp_path / "kept")
    tensors, header = artefacts.read(tmp_path / "kept", kind)
    for name, tensor in tensors.items():
        others = {each: own for each, own in tensors.items() if each != name}
        for parts in (others, {**others, name: tensor[..., 1:].contiguous()}):
            artefacts.write(tmp_path / "other", kind, parts, header)
            with pytest.raises(ValueError, match=r"lacks|should|shape|width"):
                type(fitted).load(tmp_path / "other")


# ── Refused ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["SCANS", "gated push", "CAST", "Jailbreak Antidote", "CAA"])
@pytest.mark.parametrize(("layers", "sentence"), [((), "no layers"), ((1, 4), "no layer 4")])
def test_layers_that_are_none_are_refused(one_model, name, layers, sentence):
    with pytest.raises(ValueError, match=sentence):
        FITS[name](one_model, layers=layers)


def test_methods_that_cannot_be_put_together_say_so(model):
    own = METHODS["SafeSwitch"](model, None)
    for both, sentence in (
        ((), "no methods"),
        ((SelfCD(),), "SelfCD mixes logits of two contexts"),
        ((own, own), "SafeSwitch and SafeSwitch each put a head of their own"),
        ((own, Together((own,))), "SafeSwitch and SafeSwitch each put a head of their own"),
    ):
        with pytest.raises(ValueError, match=sentence):
            Together(both)
    assert isinstance(own, SafeSwitch) and Together((own,)).swaps_the_head


# ── A method of one's own ────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True)
class ByLength(Method):
    """What the docstring of `Method` has for an example."""

    directions: Directions
    layer: int

    def decide(self, flight):
        return {"scale": 0.1 * flight.residuals()[:, self.layer].norm(dim=-1)}

    def hooks_for(self, rows, flight):
        since = flight.since(flight.end_of_prompt)
        return add(self.directions, [self.layer], rows["scale"], since=since)


def test_a_method_of_ones_own_has_everything_that_a_method_may_offer(any_model, prompts, tokens):
    method = ByLength(directions(), 2)
    assert not (method.whole_prompt or method.swaps_the_head or method.asks_twice or method.push)
    assert method.repetition_penalty == 1.0 and Together((method,)).repetition_penalty == 1.0
    close(decoded(any_model, tokens, method), run_whole(any_model, tokens, method.hooks(any_model, prompts)))
    said = replies(any_model, prompts, method=method, max_new_tokens=3, progress=False)
    assert said.tokens != replies(any_model, prompts, max_new_tokens=3, progress=False).tokens


@pytest.mark.usefixtures("without_shape_checks")
def test_a_class_that_is_no_method_is_told_how_it_becomes_one(model):
    class Plain:
        whole_prompt = False

        def decide(self, flight):
            return {}

        def hooks_for(self, rows, flight):
            return []

    for use in (
        lambda: replies(model, ["Why?"], method=Plain(), progress=False),
        lambda: likelihoods.log_likelihoods(model, [("Why", " not")], Plain()),
    ):
        with pytest.raises(ValueError, match=r"Plain.*inherits from scans_lens\.steering\.Method"):
            use()


def test_hooks_of_a_method_that_asks_twice_are_none_and_it_says_so(model):
    with pytest.raises(ValueError, match="SelfCD mixes logits of two contexts, which no hooks do"):
        SelfCD().hooks(model, ["Why?"])
