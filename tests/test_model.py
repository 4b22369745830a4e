"""The front door: loading, and what a model is."""

import dataclasses
import shutil

import pytest
import tiny
import torch
from conftest import one_by_one
from transformers import AutoModelForCausalLM

from scans_lens import model
from scans_lens.chat import chat_tokens
from scans_lens.loading import load_model
from scans_lens.model import identity, is_folded

BACKENDS = [load.__name__ for load in tiny.LOADERS]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_from_a_folder_is_the_hugging_face_model(family, tiny_folder, reference, prompts, backend):
    loaded = load_model(tiny_folder(*family), backend=backend, device="cpu")
    assert not is_folded(loaded)
    for text in one_by_one(chat_tokens(loaded, prompts)):
        with torch.no_grad():
            torch.testing.assert_close(loaded(text), reference(text).logits, rtol=1e-4, atol=1e-3)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no model .*config\.json"):
        load_model(tmp_path)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["nobody/has-this-model", "no/such/folder", "NeelNanda/SoLU_1L_v9_old"])
def test_a_hub_that_cannot_be_reached_gets_a_sentence(backend, name):
    with pytest.raises(ValueError, match=f"Cannot load the model '{name}': it is no folder here"):
        load_model(name, backend=backend)


@pytest.mark.usefixtures("without_shape_checks")
def test_an_unknown_backend_is_refused(tiny_folder):
    with pytest.raises(ValueError, match="'bridge' and 'hooked'"):
        load_model(tiny_folder(), backend="vllm")


@pytest.mark.skipif(tiny.HAS_HOOKED, reason="TransformerLens 3 has HookedTransformer")
def test_where_there_is_no_hooked_transformer_the_error_says_so(tiny_folder):
    with pytest.raises(ValueError, match=r"removed in TransformerLens 4; use backend='bridge'"):
        load_model(tiny_folder(), backend="hooked")


def test_a_model_is_the_same_one_in_either_class_and_precision(family, tiny_folder, tiny_model):
    path = tiny_folder(*family)
    found = [identity(tiny_model(load, *family)) for load in tiny.LOADERS]
    found += [identity(load_model(path, device="cpu", dtype=torch.bfloat16))]
    assert all(one.same_as(other) for one in found for other in found)


def test_another_seed_or_family_is_another_model(load, tiny_model):
    found = [
        identity(tiny_model(load, "llama", "llama3")),
        identity(tiny_model(load, "llama", "llama3", None, 1)),
        identity(tiny_model(load, "mistral", "llama3")),
    ]
    assert not any(one.same_as(other) for one in found for other in found if one is not other)


@pytest.mark.parametrize(
    "name", [f"self_attn.{one}_proj" for one in "qkvo"] + ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
)
def test_a_fine_tuned_model_that_kept_its_head_is_another_model(load, family, tiny_folder, tmp_path, name):
    shutil.copytree(tiny_folder(*family), tmp_path / "tuned")
    tuned = AutoModelForCausalLM.from_pretrained(tmp_path / "tuned")
    with torch.no_grad():
        tuned.model.layers[1].get_submodule(name).weight.mul_(1.5)
    tuned.save_pretrained(tmp_path / "tuned")
    before, after = identity(load(tiny_folder(*family))), identity(load(tmp_path / "tuned"))
    assert before.unembedding == after.unembedding
    assert not before.same_as(after)


def test_a_name_is_shown_and_never_compared(model):
    assert identity(model).same_as(dataclasses.replace(identity(model), name="another"))


def test_folded_norms_are_noticed(load, family, tiny_folder):
    folded = load(tiny_folder(*family))
    if load is tiny.bridge:
        folded.enable_compatibility_mode()
    else:
        folded.process_weights_()
    assert is_folded(folded)
    with pytest.raises(ValueError, match="The lens needs raw weights"):
        model.require_raw(folded, "The lens")


def test_raw_weights_pass(any_model):
    assert not is_folded(any_model)
    model.require_raw(any_model, "The lens")


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(ValueError, match=f"The device '{device}' cannot be used here"):
        load_model(device=device)
