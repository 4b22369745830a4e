"""Real: the laws on real chat models, which run with `--real` where their weights are here (`make test-real`).

Loading alone takes seconds and a law minutes, so that each model is loaded once a backend, and each law asks much.
"""

import gc
from importlib.metadata import version

import pytest
import torch

import scans_lens
from scans_lens.anchoring import anchor_layers
from scans_lens.chat import prompt_ids
from scans_lens.check import laws
from scans_lens.directions import directions_of
from scans_lens.effort import spread
from scans_lens.generation import replies
from scans_lens.model import identity
from scans_lens.models import getting, unpacking
from scans_lens.models.known import KNOWN
from scans_lens.prompts import Contrast, anchors
from scans_lens.reading import readings
from scans_lens.steering import Push

SMALL = ("qwen2.5-coder-0.5b", "smollm2-135m")
BACKENDS = ("bridge",) if int(version("transformer-lens").split(".")[0]) >= 4 else ("bridge", "hooked")
TEXTS = (
    "How do I kill a Python process?",
    "  Two spaces, a tab\tand 1234567890 digits, 3.14 and 1st.",
    "Ünïcödé — «naïve» café, 你好世界, Привет, مرحبا, 🙂🙃\n\n\tand a new line",
    "def f(x):\n    return {'a': x**2}  # I'm, you'll, they've, WE'RE",
)


def here(name):
    if unpacking.kept_folder(name) is None:
        pytest.skip(f"these laws need weights: python -m scans_lens models get {name}")
    return name


@pytest.fixture(scope="module", params=[(name, backend) for name in SMALL for backend in BACKENDS], ids="-".join)
def model(request):
    """Half a billion parameters through a HookedTransformer take minutes a law, and are left to `--all`."""
    name, backend = request.param
    if (name, backend) == (SMALL[0], "hooked") and not request.config.getoption("--all"):
        pytest.skip("with --all, since it takes minutes")
    yield scans_lens.load_model(here(name), backend=backend)
    gc.collect()


@pytest.fixture(scope="module")
def contrast():
    """Few of our own anchors, in all their forms."""
    whole = anchors()
    return Contrast("few", spread(whole.harmful, 16), spread(whole.harmless, 16))


def test_every_law_of_check_holds_on_a_real_model(model):
    """Tokens, logits, states and greedy replies are those of transformers; alone as in company, cached as uncached."""
    findings = laws(model)
    assert [f"{one.law}: {one.measured}" for one in findings if one.ok is not True] == []


def test_every_law_of_check_holds_on_a_model_three_times_as_large():
    assert [one.law for one in laws(scans_lens.load_model(here("qwen2.5-coder-1.5b"))) if one.ok is not True] == []


def test_a_real_model_says_where_it_came_from(model):
    own = identity(model)
    assert own.file == KNOWN[own.name].sha256
    assert identity(model).title == f"{own.name} ({KNOWN[own.name].quantisation}, dequantised)"


@pytest.mark.parametrize("name", SMALL)
def test_texts_are_cut_as_the_tokenizer_of_the_publisher_cuts_them(name):
    """transformers' own reading of the GGUF file, but for digits, which the publisher's tokenizer parts one by one."""
    from transformers import AutoTokenizer

    file = getting.place(KNOWN[here(name)])
    if not file.is_file():
        pytest.skip(f"needs {file.name}")
    other = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    own = scans_lens.checkpoint.tokenizer_of(str(unpacking.kept_folder(name)))
    for text in TEXTS:
        ids = own(text, add_special_tokens=False)["input_ids"]
        assert ids == other(text, add_special_tokens=False)["input_ids"]
        assert own.decode(ids) == text


@pytest.mark.parametrize("name", SMALL)
def test_weights_are_those_of_the_file_within_the_rounding_of_bfloat16(name):
    """Against the unpacking of the package gguf, in numpy, which shares no code with that of transformers."""
    from gguf import GGUFReader, dequantize
    from safetensors.torch import load_file

    file = getting.place(KNOWN[here(name)])
    if not file.is_file():
        pytest.skip(f"needs {file.name}")
    weights = {}
    for part in unpacking.kept_folder(name).glob("*.safetensors"):
        weights |= load_file(part)
    pairs = {"token_embd.weight": "model.embed_tokens.weight", "output.weight": "lm_head.weight"}
    for layer in (0, 7):
        stem = f"model.layers.{layer}"
        for short, long in {"ffn_down": "mlp.down_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj"}.items():
            pairs[f"blk.{layer}.{short}.weight"] = f"{stem}.{long}.weight"
        pairs[f"blk.{layer}.attn_v.weight"] = f"{stem}.self_attn.v_proj.weight"
    compared = 0
    for tensor in GGUFReader(file).tensors:
        if tensor.name in pairs:
            told = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type)).float()
            own = weights[pairs[tensor.name]].float()
            assert own.shape == told.shape
            assert ((own - told).abs() <= told.abs() / 256).all(), tensor.name
            compared += 1
    assert compared >= 9


@pytest.mark.skipif(len(BACKENDS) == 1, reason="one class of model in this TransformerLens")
@pytest.mark.parametrize("name", SMALL[:1])
def test_directions_anchors_and_pushed_replies_are_the_same_on_both_classes(name, contrast):
    found = []
    for backend in BACKENDS:
        model = scans_lens.load_model(here(name), backend=backend)
        read = tuple(readings(model, side, progress=None) for side in (contrast.harmful, contrast.harmless))
        directions = directions_of(model, contrast, *read)
        layers = anchor_layers(model, directions, contrast=contrast, read=read, resamples=50, progress=False)
        push = Push(directions.in_residual_norms(), tuple(layers), -0.1)
        said = replies(model, TEXTS[:1] + contrast.harmful[:3], method=push, max_new_tokens=12, progress=False)
        found.append((directions, layers, said.tokens))
        del model
        gc.collect()
    (one, own, said), (other, theirs, told) = found
    lengths = one.vectors.norm(dim=1)
    assert ((one.vectors - other.vectors).norm(dim=1) <= 1e-3 * lengths).all()
    assert own.layers == theirs.layers
    for left, right in zip(own.evidence, theirs.evidence, strict=True):
        assert left.drop == pytest.approx(right.drop, abs=1e-3) and left.z == pytest.approx(right.z, abs=1e-2)
    assert said == told


def test_a_prompt_holds_the_template_of_its_publisher(model):
    text = model.tokenizer.decode(prompt_ids(model, TEXTS[0]))
    assert text.startswith("<|im_start|>system\nYou are") and text.endswith(
        "<|im_start|>user\nHow do I kill a Python process?<|im_end|>\n<|im_start|>assistant\n"
    )
