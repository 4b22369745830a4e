"""GGUF: what comes out of a file is what went into it, or one sentence says why nothing does."""

import dataclasses
import hashlib
import os
import struct
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

pytest.importorskip("gguf")

import ggufs

from scans_lens import outside
from scans_lens.chat import prompt_ids
from scans_lens.loading import load_model
from scans_lens.model import identity
from scans_lens.models import gguf, home, known, located, unpacking

BACKENDS = [load.__name__ for load in tiny.LOADERS]
KINDS = [
    ("llama", "llama-bpe", False),
    ("llama", "smollm", True),
    ("qwen2", "qwen2", True),
    ("qwen2", "gpt-2", False),
    ("qwen2", "llama-bpe", False),
    ("llama", "qwen2", False),
]
"""Architecture, way to cut texts, and whether the head is the embedding."""


@pytest.fixture(autouse=True)
def kept_in(tmp_path, monkeypatch) -> Path:
    """Where everything is kept here: a folder that is gone with the test."""
    monkeypatch.setenv(home.VARIABLE, str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def sources() -> Callable[..., ggufs.Source]:
    return cache(ggufs.source)


@pytest.fixture
def file(sources, tmp_path) -> Path:
    return ggufs.write(sources(), tmp_path / "tiny.gguf")


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    out = model(torch.arange(3, 90)[None])
    return getattr(out, "logits", out)


def unpacked(kept_in: Path) -> list[str]:
    """Every file of what was made of a GGUF file; locks and remembered hashes are no part of a model."""
    return sorted(
        str(there.relative_to(kept_in))
        for there in kept_in.rglob("*")
        if there.name != "digests.json" and not there.name.endswith(".lock") and not there.is_dir()
    ) + sorted(there.name for there in kept_in.glob("models/*") if there.is_dir())


# ── What comes out ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("which", KINDS, ids=lambda which: "-".join(map(str, which[:2])))
def test_a_file_in_full_precision_is_its_source(sources, tmp_path, which, backend):
    source = sources(*which[:2], tied=which[2])
    model = load_model(ggufs.write(source, tmp_path / "tiny.gguf", "F16"), backend=backend)
    torch.testing.assert_close(logits(model), logits(source.model), rtol=1e-4, atol=1e-4)
    words = source.tokenizer
    for text in ggufs.TELLING:
        assert model.tokenizer(text)["input_ids"] == words(text)["input_ids"]
    talk = [{"role": "user", "content": ggufs.TELLING[0]}]
    wanted = words.apply_chat_template(talk, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert prompt_ids(model, ggufs.TELLING[0]) == wanted
    for name in ("chat_template", "bos_token", "eos_token", "pad_token"):
        assert getattr(model.tokenizer, name) == getattr(words, name)


@pytest.mark.parametrize("which", KINDS[:3], ids=lambda which: "-".join(map(str, which[:2])))
def test_a_quantised_file_is_its_source_with_each_weight_rounded_as_the_file_rounds_it(sources, tmp_path, which):
    source = sources(*which[:2], tied=which[2])
    model = load_model(ggufs.write(source, tmp_path / "tiny.gguf", "Q8_0"))
    torch.testing.assert_close(logits(model), logits(ggufs.rounded(source)), rtol=1e-4, atol=1e-4)
    assert (logits(model) - logits(source.model)).abs().max() > 0.05


@pytest.mark.parametrize("which", KINDS[:4], ids=lambda which: "-".join(map(str, which[:2])))
def test_settings_are_the_sources_and_a_tied_head_stays_tied(sources, tmp_path, which):
    source = sources(*which[:2], tied=which[2])
    folder = unpacking.folder_of(ggufs.write(source, tmp_path / "tiny.gguf"))
    module = AutoModelForCausalLM.from_pretrained(folder)
    held = {"architectures", "_name_or_path", "name_or_path", "bos_token_id", "dtype", "rms_norm_eps", "model_name"}
    wanted = {name: value for name, value in source.model.config.to_dict().items() if name not in held}
    assert {name: module.config.to_dict()[name] for name in wanted} == wanted
    assert module.config.rms_norm_eps == pytest.approx(source.model.config.rms_norm_eps)
    assert module.num_parameters() == source.model.num_parameters()
    assert (module.lm_head.weight is module.model.embed_tokens.weight) == which[2]


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_is_the_model_that_transformers_runs(file, backend):
    model = load_model(file, backend=backend)
    assert {finding.ok for finding in outside.compared(model, ["Why?", "How do I kill a process?"])} == {True}


def test_linear_scaling_of_positions_is_read(sources, tmp_path):
    scaled = {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0}
    source = ggufs.source("qwen2", "qwen2", rope_parameters=scaled)
    settings = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
    model = load_model(ggufs.write(source, tmp_path / "tiny.gguf", settings=settings))
    torch.testing.assert_close(logits(model), logits(source.model), rtol=1e-4, atol=1e-4)
    assert (logits(sources("qwen2", "qwen2").model) - logits(source.model)).abs().max() > 0.1


def llama3(**more: Any) -> tuple[ggufs.Source, dict[str, np.ndarray]]:
    """A Llama whose positions are scaled as Llama 3.1's, and the tensor that llama.cpp writes of it."""
    shape = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    rope = {"rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, **shape, **more}
    source = ggufs.source("llama", "llama-bpe", rope_parameters=rope)
    return source, {"rope_freqs.weight": ggufs.llama3_factors(source.model, 5000.0)}


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_scaling_of_llama_3_is_read(sources, tmp_path, backend):
    source, factors = llama3()
    model = load_model(ggufs.write(source, tmp_path / "tiny.gguf", more=factors), backend=backend)
    torch.testing.assert_close(logits(model), logits(source.model), rtol=1e-4, atol=1e-3)
    assert (logits(sources().model) - logits(source.model)).abs().max() > 0.01


def test_factors_of_one_scale_nothing(sources, tmp_path):
    more = {"rope_freqs.weight": np.ones(8, dtype=np.float32)}
    model = load_model(
        ggufs.write(sources(), tmp_path / "tiny.gguf", more=more, settings={"rope.scaling.type": "none"})
    )
    torch.testing.assert_close(logits(model), logits(sources().model), rtol=1e-4, atol=1e-4)


# ── What it is called and where it is kept ───────────────────────────────────────────────────────────────────


def test_identity_knows_the_file_and_the_name_says_how_it_was_packed(sources, tmp_path):
    file = ggufs.write(sources(), tmp_path / "tiny.gguf", "Q8_0")
    model = load_model(file)
    assert identity(model).file == hashlib.sha256(file.read_bytes()).hexdigest()
    assert identity(model).title == "tiny (Q8_0, dequantised)"
    plain = load_model(ggufs.write(sources(), tmp_path / "plain.gguf"))
    assert identity(plain).title == "plain (F32, dequantised)"
    assert not identity(plain).same_as(identity(model))


def test_the_second_load_unpacks_nothing_and_gives_the_same(file, monkeypatch):
    first = load_model(file)
    monkeypatch.setattr(unpacking, "_convert", None)
    again = load_model(file)
    assert torch.equal(logits(again), logits(first))
    assert identity(again) == identity(first) and identity(again).title == identity(first).title


def test_a_folder_that_was_made_otherwise_is_made_anew(file, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(unpacking, "FORMAT", unpacking.FORMAT - 1)
        folder = unpacking.folder_of(file)
        (folder / "old").write_text("")
    assert unpacking.folder_of(file) == folder and not (folder / "old").exists()
    load_model(file)


def test_two_files_of_one_name_are_two_models(sources, tmp_path):
    found = []
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        source = sources(seed=seed)
        found.append(load_model(ggufs.write(source, tmp_path / str(seed) / "tiny.gguf")))
        torch.testing.assert_close(logits(found[-1]), logits(source.model), rtol=1e-4, atol=1e-4)
    assert not identity(found[0]).same_as(identity(found[1]))


def test_a_file_that_was_written_anew_is_unpacked_anew(sources, file):
    load_model(file)
    time = file.stat().st_mtime_ns
    ggufs.write(sources(seed=1), file)
    os.utime(file, ns=(time, time + 1))
    torch.testing.assert_close(logits(load_model(file)), logits(sources(seed=1).model), rtol=1e-4, atol=1e-4)


def test_one_file_by_two_names_and_without_an_ending_is_one_model(file, tmp_path):
    blob = tmp_path / "sha256-0123"
    blob.write_bytes(file.read_bytes())
    assert identity(load_model(blob)).same_as(identity(load_model(file)))


def test_a_template_beside_the_file_is_taken(sources, tmp_path):
    file = ggufs.write(sources(), tmp_path / "tiny.gguf", template=False)
    (tmp_path / "tiny.jinja").write_text("{{ messages[0]['content'] }}!")
    assert load_model(file).tokenizer.chat_template == "{{ messages[0]['content'] }}!"
    (tmp_path / "tiny.jinja").write_text("{{ messages[0]['content'] }}?")
    assert load_model(file).tokenizer.chat_template == "{{ messages[0]['content'] }}?"
    own = ggufs.write(sources(), tmp_path / "own.gguf")
    assert load_model(own).tokenizer.chat_template == sources().tokenizer.chat_template
    (tmp_path / "own.jinja").write_text("{{ messages[0]['content'] }}.")
    assert load_model(own).tokenizer.chat_template == "{{ messages[0]['content'] }}."


def test_two_at_once_make_one_folder(file, kept_in, monkeypatch):
    made, convert, folders = [], unpacking._convert, []

    def slowly(*which: Any) -> None:
        made.append(which)
        convert(*which)

    monkeypatch.setattr(unpacking, "_convert", slowly)
    both = [threading.Thread(target=lambda: folders.append(unpacking.folder_of(file))) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert len(made) == 1 and len(folders) == 2 and folders[0] == folders[1]


def test_a_known_models_file_is_called_by_its_short_name(file, monkeypatch):
    model = dataclasses.replace(known.KNOWN["smollm2-135m"], sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.setitem(known.KNOWN, model.name, model)
    assert identity(load_model(file)).title == "smollm2-135m (F32, dequantised)"
    file.unlink()
    assert identity(load_model("smollm2-135m")).title == "smollm2-135m (F32, dequantised)"


# ── What is refused ──────────────────────────────────────────────────────────────────────────────────────────


def refused(file: Path, kept_in: Path, sentence: str) -> None:
    """It is said in one sentence, whoever asks, and nothing is left."""
    with pytest.raises(ValueError, match=sentence) as error:
        load_model(file)
    assert "\n" not in str(error.value)
    assert not unpacked(kept_in)


def at_once(file: Path, sentence: str) -> None:
    """It is said before torch or the weights are touched, by what the commands ask first."""
    with pytest.raises(ValueError, match=sentence):
        located.require(str(file))


BROKEN = {
    "no GGUF file": (lambda whole: b"PK\x03\x04" + whole[4:], "no GGUF file: it does not begin with the letters GGUF"),
    "empty": (lambda whole: b"", "no GGUF file"),
    "another version": (lambda whole: b"GGUF" + struct.pack("<I", 1) + whole[8:], "is of version 1"),
    "big-endian": (lambda whole: b"GGUF" + struct.pack(">I", 3) + whole[8:], "is of version 50331648"),
    "cut in its numbers": (lambda whole: whole[:14], "was cut off: it ends within its header"),
    "cut in the header": (lambda whole: whole[:3000], "was cut off: it ends within its header"),
    "cut in the tensors": (lambda whole: whole[: len(whole) // 2], r"was cut off: it has \d+ bytes and should have"),
    "cut at the end": (lambda whole: whole[:-64], "was cut off: it has"),
    "damaged": (lambda whole: whole[:24] + whole[24:56] + struct.pack("<I", 77) + whole[60:], "is damaged|was cut off"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_what_is_no_whole_file_is_refused_at_once(file, kept_in, how):
    breaks, sentence = BROKEN[how]
    file.write_bytes(breaks(file.read_bytes()))
    at_once(file, sentence)
    refused(file, kept_in, sentence)
    assert not kept_in.exists()


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"template": False}, r"has no chat template, .* write one to '.*tiny\.jinja'"),
        ({"settings": {"pooling_type": 1}}, r"is an embedding model \(llama\)"),
        ({"architecture": "clip", "template": False}, r"is the vision part of a model \(clip\)"),
        ({"weights": False}, "holds no weights, only a vocabulary"),
        ({"split": 3}, "is one of 3 parts: join them first"),
    ],
    ids=["no template", "embedding", "vision", "vocabulary", "part"],
)
def test_what_is_no_chat_model_is_refused_at_once(sources, tmp_path, kept_in, how, sentence):
    file = ggufs.write(sources(), tmp_path / "tiny.gguf", **how)
    at_once(file, sentence)
    refused(file, kept_in, sentence)


def test_a_file_that_does_not_pool_is_no_embedding_model(sources, tmp_path):
    located.require(str(ggufs.write(sources(), tmp_path / "tiny.gguf", settings={"pooling_type": 0})))


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"architecture": "nonesuch"}, r"transformers .* cannot read the GGUF file .*tiny\.gguf' \(nonesuch\)"),
        ({"cuts": "nonesuch"}, "cuts texts in the way 'nonesuch', which is not known here"),
        ({"cuts": "default"}, "cuts texts in the way 'default', which is not known here"),
        ({"cuts": ""}, "cuts texts in a way that it does not name"),
        ({"settings": {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}}, r"scales positions \(yarn\)"),
        ({"more": {"rope_freqs.weight": np.linspace(1, 7, 8, dtype=np.float32)}}, r"positions \(rope_freqs\.weight\)"),
        (
            {"more": {f"rope_factors_{kind}.weight": np.full(8, 2, dtype=np.float32) for kind in ("long", "short")}},
            r"scales positions \(rope_factors_long\.weight, rope_factors_short\.weight\)",
        ),
        (
            {"more": {"blk.1.attn_q.bias": np.ones(64, dtype=np.float32)}},
            r"holds 64 values that transformers .* has no place for in a LlamaForCausalLM.*: blk\.1\.attn_q\.bias;",
        ),
    ],
    ids=["architecture", "cuts", "default cuts", "no cuts", "yarn", "factors", "longrope", "biases"],
)
def test_what_would_be_another_model_is_refused(sources, tmp_path, kept_in, how, sentence):
    refused(ggufs.write(sources(), tmp_path / "tiny.gguf", **how), kept_in, sentence)


def test_scaling_that_only_looks_like_llama_3s_is_refused(tmp_path, kept_in):
    source, factors = llama3(high_freq_factor=2.0)
    refused(ggufs.write(source, tmp_path / "tiny.gguf", more=factors), kept_in, "scales positions")


def test_weights_that_are_missing_are_named(sources, tmp_path, kept_in, monkeypatch):
    tensors = ggufs._tensors
    without = lambda *how: {name: own for name, own in tensors(*how).items() if "blk.1.ffn_up" not in name}  # noqa: E731
    monkeypatch.setattr(ggufs, "_tensors", without)
    refused(
        ggufs.write(sources(), tmp_path / "tiny.gguf"), kept_in, r"is not whole: 1 weights .*layers\.1\.mlp\.up_proj"
    )


def test_a_disk_that_is_too_small_is_said_before_anything_is_read(file, kept_in, monkeypatch):
    monkeypatch.setattr(home.shutil, "disk_usage", lambda folder: type("Disk", (), {"free": 10})())
    monkeypatch.setattr(unpacking, "_convert", None)
    refused(file, kept_in, "Unpacking 'tiny.gguf' needs .* are free; SCANS_LENS_HOME can name another")


def test_what_fails_on_the_way_leaves_nothing(file, kept_in, monkeypatch):
    from transformers import PreTrainedModel

    def full(self: Any, folder: Path, **_: Any) -> None:
        Path(folder, "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedModel, "save_pretrained", full)
        with pytest.raises(OSError, match="No space left"):
            load_model(file)
    assert not list(kept_in.rglob("*.safetensors")) and not [one for one in kept_in.glob("models/*") if one.is_dir()]
    load_model(file)


def test_without_the_package_gguf_it_is_named(file, kept_in, monkeypatch):
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    at_once(file, "needs the package gguf: pip install gguf")
    refused(file, kept_in, "needs the package gguf: pip install gguf")
