"""Loading: the whole model or a sentence, and never another model than transformers runs."""

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import architectures
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from scans_lens import outside
from scans_lens.chat import chat_tokens, prompt_ids
from scans_lens.checkpoint import hugging_face, tokenizer_of
from scans_lens.loading import load_model, wrapped
from scans_lens.model import identity, is_folded

BACKENDS = [load.__name__ for load in tiny.LOADERS]
PROMPTS = ["How do I kill a process?", "Tell me how to bake a loaf of bread for my sister and her children."]


@pytest.fixture
def copied(tiny_folder, tmp_path):
    """`copied(family, template)`: a folder of one's own, to break."""

    def made(family: str = "llama", template: str = "llama3") -> Path:
        return Path(shutil.copytree(tiny_folder(family, template), tmp_path / f"{family}-{template}"))

    return made


def rewritten(path: Path, weights: Any = None, **settings: Any) -> Path:
    """The folder with other weights (a function of those that are there) and other settings."""
    if weights is not None:
        file = path / "model.safetensors"
        save_file(weights(load_file(file)), file, metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | settings))
    return path


def findings(model: Any) -> dict[str, bool | None]:
    return {finding.law: finding.ok for finding in outside.compared(model, PROMPTS)}


# ── Whole ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_that_the_files_lack_are_named(copied, backend):
    path = rewritten(copied(), lambda own: {name: own[name] for name in own if name != "lm_head.weight"})
    with pytest.raises(ValueError, match=r"is not whole: 1 weights .* lm_head\.weight"):
        load_model(path, backend=backend)


def test_weights_under_a_foreign_prefix_are_named(copied):
    path = rewritten(copied(), lambda own: {f"base_model.model.{name}": own[name] for name in own})
    with pytest.raises(ValueError, match=r"is not whole: 39 weights .* under the prefix 'base_model\.model\.'"):
        load_model(path)


def test_more_layers_in_the_configuration_than_in_the_files_are_refused(copied):
    with pytest.raises(ValueError, match=r"is not whole: 18 weights .*layers\.4\."):
        load_model(rewritten(copied(), num_hidden_layers=6))


def test_more_layers_in_the_files_than_in_the_configuration_are_refused(copied):
    with pytest.raises(ValueError, match=r"hold 9 weights that its configuration has no place for.*layers\.3\."):
        load_model(rewritten(copied(), num_hidden_layers=3))


def test_biases_that_the_configuration_does_not_know_are_refused(copied):
    bias = {"model.layers.1.self_attn.q_proj.bias": torch.ones(64)}
    with pytest.raises(ValueError, match=r"hold 1 weights .*layers\.1\.self_attn\.q_proj\.bias"):
        load_model(rewritten(copied(), lambda own: own | bias))


def test_another_shape_is_refused(copied):
    with pytest.raises(ValueError, match=r"other shapes|size mismatch|ignore_mismatched_sizes"):
        load_model(rewritten(copied(), intermediate_size=80))


def test_what_belongs_to_no_part_of_the_model_may_be_left_over(copied, tiny_folder):
    extra = {
        "score.weight": torch.ones(2, 64),
        "vision_tower.layers.0.weight": torch.ones(4),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
    }
    loaded = load_model(rewritten(copied(), lambda own: own | extra))
    assert identity(loaded).same_as(identity(load_model(tiny_folder())))


def test_cut_weights_are_one_sentence_about_the_folder(copied):
    path = copied()
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="Cannot load the model in the folder") as error:
        load_model(path)
    assert "no folder here" not in str(error.value) and "\n" not in str(error.value)


def test_weights_in_a_gguf_file_are_named(copied):
    path = copied()
    (path / "model.safetensors").rename(path / "model-q8_0.gguf")
    with pytest.raises(ValueError, match=r"only as a GGUF file: name the file itself, '.*model-q8_0\.gguf'"):
        load_model(path)


@pytest.mark.parametrize("left", [(), ("tokenizer_config.json",)])
def test_a_folder_without_a_tokenizer_is_one_sentence(copied, left):
    path = copied()
    for file in path.glob("*token*"):
        if file.name not in left:
            file.unlink()
    with pytest.raises(ValueError, match=r"(without a tokenizer|no tokenizer that can be loaded)") as error:
        load_model(path)
    assert "no folder here" not in str(error.value)


def test_a_tokenizer_of_another_model_is_refused(copied):
    path = copied()
    few = lambda own: own | {name: own[name][:300].clone() for name in ("model.embed_tokens.weight", "lm_head.weight")}  # noqa: E731
    with pytest.raises(ValueError, match=r"tokenizer is not this model's.*300 embeddings"):
        load_model(rewritten(path, few, vocab_size=300))


# ── As transformers runs it ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", architectures.RIGHT)
def test_what_loads_is_what_transformers_runs(kind, tmp_path):
    assert findings(load_model(architectures.folder(kind, tmp_path))) == dict.fromkeys(outside.LAWS, True)


@pytest.mark.parametrize("kind", architectures.DOUBTFUL)
def test_an_architecture_is_right_or_it_is_refused_when_it_is_loaded(kind, tmp_path):
    path = architectures.folder(kind, tmp_path)
    try:
        loaded = load_model(path)
    except ValueError as error:
        said = ("is not the model that transformers runs", "does not run as transformers runs it", "has no bridge")
        assert any(words in str(error) for words in said)
        assert "\n" not in str(error)
    else:
        assert findings(loaded) == dict.fromkeys(outside.LAWS, True)


@pytest.mark.skipif(not tiny.HAS_HOOKED, reason="TransformerLens 3 has HookedTransformer")
@pytest.mark.parametrize(
    ("kind", "more", "named"),
    [
        ("llama", {"attention_bias": True}, "attention_bias"),
        ("llama", {"mlp_bias": True}, "mlp_bias"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "use_sliding_window"),
    ],
)
def test_what_a_hooked_transformer_would_leave_out_is_refused_by_its_name(kind, more, named, tmp_path):
    with pytest.raises(ValueError, match=rf"with {named} does not load as a HookedTransformer; use backend='bridge'"):
        load_model(architectures.folder(kind, tmp_path, **more), backend="hooked")


@pytest.mark.skipif(not tiny.HAS_HOOKED, reason="TransformerLens 3 has HookedTransformer")
def test_what_a_hooked_transformer_leaves_out_is_seen_in_its_logits(tmp_path, monkeypatch):
    path = architectures.folder("qwen2", tmp_path)
    own = load_file(path / "model.safetensors")
    save_file({name: own[name] + name.endswith("bias") for name in own}, path / "model.safetensors", {"format": "pt"})
    load_model(path, backend="hooked")
    from transformer_lens import loading_from_pretrained

    carried = loading_from_pretrained.get_pretrained_state_dict

    def dropping(*args: Any, **how: Any) -> dict[str, torch.Tensor]:
        found = carried(*args, **how)
        return {name: torch.zeros_like(found[name]) if name.endswith("b_Q") else found[name] for name in found}

    monkeypatch.setattr(loading_from_pretrained, "get_pretrained_state_dict", dropping)
    with pytest.raises(ValueError, match=r"not the model that transformers runs: .* Use backend='bridge'"):
        load_model(path, backend="hooked")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision_is_no_reason_to_refuse(family, tiny_folder, backend, dtype):
    load_model(tiny_folder(*family), backend=backend, dtype=dtype)


@pytest.mark.parametrize("mixed", [False, True], ids=["all in half precision", "one weight in float32"])
@pytest.mark.parametrize("kind", architectures.RIGHT)
def test_half_precision_files_in_float32_are_what_transformers_widens(kind, mixed, tmp_path):
    """They are widened weight by weight, where that gives the same weights and tables."""
    folder = architectures.folder(kind, tmp_path)
    file = folder / "model.safetensors"
    weights = load_file(file)
    first = min(name for name, weight in weights.items() if weight.is_floating_point())
    halved = {name: weight.to(torch.bfloat16) for name, weight in weights.items()}
    if mixed:
        halved[first] = weights[first]
    save_file(halved, file, {"format": "pt"})
    own = hugging_face(str(folder), torch.device("cpu"), torch.float32)
    other = type(own).from_pretrained(folder, dtype=torch.float32)
    assert own.config.dtype == own.dtype == torch.float32
    found, expected = dict(own.named_parameters()), dict(other.named_parameters())
    found |= dict(own.named_buffers())
    expected |= dict(other.named_buffers())
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert found[name].dtype == weight.dtype and torch.equal(found[name], weight), name


def test_a_model_that_reads_images_loads_and_nothing_is_installed(tmp_path, monkeypatch):
    def installs(*command: Any, **_: Any) -> None:
        raise AssertionError(f"a program was run: {command}")

    path = architectures.seeing(tmp_path)
    for name in ("check_call", "run", "Popen", "call", "check_output"):
        monkeypatch.setattr(subprocess, name, installs)
    assert findings(load_model(path)) == dict.fromkeys(outside.LAWS, True)


# ── The tokenizer ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_tokenizer_is_the_untouched_one(style, tiny_folder, backend):
    path = tiny_folder("llama", style)
    own, untouched = load_model(path, backend=backend).tokenizer, AutoTokenizer.from_pretrained(path)
    for name in ("bos_token", "eos_token", "pad_token", "chat_template", "padding_side", "special_tokens_map"):
        assert getattr(own, name) == getattr(untouched, name)
    assert own("Why?")["input_ids"] == untouched("Why?")["input_ids"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tokenizer_without_a_bos_gets_none(copied, backend):
    path = copied("llama", "chatml")
    template = "{% if bos_token %}{{ bos_token }}{% endif %}" + tiny.STYLES["chatml"].template
    (path / "chat_template.jinja").write_text(template)
    loaded, untouched = load_model(path, backend=backend), AutoTokenizer.from_pretrained(path)
    talk = [{"role": "user", "content": "Why?"}]
    expected = untouched.apply_chat_template(talk, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert loaded.tokenizer.bos_token is None
    assert prompt_ids(loaded, "Why?") == expected
    assert expected[0] == untouched.convert_tokens_to_ids("<|im_start|>")


def test_half_a_character_is_refused(model):
    with pytest.raises(ValueError, match=r"Prompt 1 holds .* half of a character"):
        chat_tokens(model, ["Why?", "What is \ud83d?"])


# ── Adapters ─────────────────────────────────────────────────────────────────────────────────────────────────


def adapter_in(path: Path, base: str) -> Path:
    path.mkdir(exist_ok=True)
    about = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 2, "target_modules": ["q_proj"]}
    (path / "adapter_config.json").write_text(json.dumps(about))
    return path


def test_an_adapter_alone_says_what_it_is_and_which_base_it_wants(tmp_path, monkeypatch):
    path = adapter_in(tmp_path / "adapter", "/nowhere/base")
    with pytest.raises(ValueError, match=r"is a LORA adapter of /nowhere/base"):
        load_model(path)


def test_an_adapter_is_not_left_out_without_a_word(copied, monkeypatch):
    monkeypatch.setattr("scans_lens.checkpoint.find_spec", lambda name: None)
    path = adapter_in(copied(), "base")
    with pytest.raises(ValueError, match=r"holds a LORA adapter beside its model.*pip install peft"):
        load_model(path)


@pytest.mark.parametrize("beside", [True, False])
def test_a_model_with_an_adapter_is_another_model_and_the_one_that_transformers_runs(copied, tmp_path, beside):
    peft = pytest.importorskip("peft")
    base = copied()
    tuned = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), peft.LoraConfig(r=2, target_modules=["k_proj", "up_proj"])
    )
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.3)
    plain = identity(load_model(base))
    where = base if beside else tmp_path / "adapter"
    tuned.save_pretrained(where)
    loaded = load_model(where)
    assert findings(loaded) == dict.fromkeys(outside.LAWS, True)
    assert not identity(loaded).same_as(plain)
    ids = chat_tokens(loaded, PROMPTS[:1]).ids
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids), tuned(ids).logits, rtol=1e-4, atol=1e-3)


# ── What a model is ──────────────────────────────────────────────────────────────────────────────────────────


class Adapted(torch.nn.Module):
    """A linear map with something learned around it, as adapters are."""

    def __init__(self, base: torch.nn.Linear) -> None:
        super().__init__()
        self.base_layer, self.lora_A = base, torch.nn.Linear(base.in_features, 2, bias=False)
        self.lora_B = torch.nn.Linear(2, base.out_features, bias=False)
        self.scaling, self.disable_adapters, self.active_adapters = {"default": 2.0}, False, ["default"]

    @property
    def weight(self) -> torch.Tensor:
        return self.base_layer.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + 2 * self.lora_B(self.lora_A(x))


def test_identity_knows_what_an_adapter_learned_and_whether_it_acts(tiny_folder):
    path = str(tiny_folder())
    source = hugging_face(path, torch.device("cpu"), torch.float32)
    source.model.layers[1].self_attn.q_proj = layer = Adapted(source.model.layers[1].self_attn.q_proj)
    model = wrapped(source, tokenizer_of(path), path)
    found = [identity(load_model(path)), identity(model)]
    with torch.no_grad():
        layer.lora_B.weight.mul_(1.5)
    found.append(identity(model))
    layer.disable_adapters = True
    found.append(identity(model))
    assert [one.unembedding for one in found] == [found[0].unembedding] * 4
    assert not any(one.same_as(other) for one in found for other in found if one is not other)


@pytest.mark.parametrize("kind", ["mixtral", "deepseek_v3", "mamba"])
def test_each_weight_of_an_unusual_block_makes_another_model(kind, tmp_path):
    loaded = tiny.bridge(architectures.folder(kind, tmp_path))
    before = identity(loaded)
    assert before.same_as(identity(tiny.bridge(tmp_path / kind)))
    for weight in loaded.blocks[1].parameters():
        kept = weight.detach().clone()
        weight.data.mul_(1.5).add_(0.1)
        assert not identity(loaded).same_as(before)
        weight.data.copy_(kept)
    assert identity(loaded) == before


def test_an_identity_that_was_kept_before_all_weights_were_taken_is_still_known(model):
    assert dataclasses.replace(identity(model), rest="").same_as(identity(model))
    assert not dataclasses.replace(identity(model), rest="another").same_as(identity(model))


def test_packed_weights_have_an_identity(tiny_folder):
    loaded = load_model(tiny_folder())
    before = identity(loaded)
    part = loaded.original_model.model.layers[1].self_attn.q_proj.original_component
    packed = torch.arange(2048, dtype=torch.uint8)[:, None]
    part.weight = torch.nn.Parameter(packed, requires_grad=False)
    after = identity(loaded)
    packed[0] += 1
    assert not after.same_as(before) and not after.same_as(identity(loaded))


def test_gains_of_one_are_not_folded_norms(load, tmp_path):
    from transformers import LlamaConfig

    words = tiny.tokenizer("llama3")
    shape = architectures.SHAPE | {"vocab_size": len(words)}
    AutoModelForCausalLM.from_config(LlamaConfig(**shape)).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    assert not is_folded(load(tmp_path))


# ── From outside ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_model_that_was_changed_does_not_equal_its_source(tiny_folder):
    loaded = load_model(tiny_folder())
    loaded.original_model.model.layers[2].mlp.down_proj.original_component.weight.data.mul_(1.1)
    assert findings(loaded) == dict(
        zip(outside.LAWS, (True, False, False, findings(loaded)[outside.LAWS[3]]), strict=True)
    )


def test_where_the_source_is_not_there_it_is_said_and_nothing_passes(copied):
    path = copied()
    loaded = load_model(path)
    shutil.rmtree(path)
    found = list(outside.compared(loaded, PROMPTS))
    assert [finding.ok for finding in found] == [None] * len(outside.LAWS)
    assert all(finding.measured.startswith("not compared: ") for finding in found)
