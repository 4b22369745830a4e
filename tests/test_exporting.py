"""Exporting: what is written adds what the method adds, read back with the other program's own reader."""

from dataclasses import replace

import pytest
import torch
from gguf import GGUFReader
from typer.testing import CliRunner

from scans_lens.__main__ import app
from scans_lens.exporting import control_vector
from scans_lens.steering import Method, Push

pytestmark = pytest.mark.above


class Still(Method):
    """A method that adds nothing."""

    def decide(self, flight):
        return {}


@pytest.fixture(scope="module")
def scans(fits, load):
    found = fits(load, "SCANS")
    return replace(found, layers=(1, 2), scale=0.3)


def read(path):
    reader = GGUFReader(path)
    vectors = {tensor.name: torch.tensor(tensor.data.copy()) for tensor in reader.tensors}
    return vectors, {name: field.contents() for name, field in reader.fields.items()}


@pytest.mark.parametrize(("way", "sign"), [("away", -1), ("towards", 1)])
def test_a_control_vector_adds_what_the_method_adds(scans, tmp_path, way, sign):
    vectors, fields = read(control_vector(scans, tmp_path / "new" / "push.gguf", way))
    assert set(vectors) == {"direction.1", "direction.2"}
    for layer in (1, 2):
        torch.testing.assert_close(vectors[f"direction.{layer}"], sign * 0.3 * scans.directions.vectors[layer])
    assert fields["general.architecture"] == "controlvector" and fields["controlvector.layer_count"] == 2
    assert fields["controlvector.model_hint"] == "llama"
    assert fields["scans_lens.unembedding"] == scans.measured_on.unembedding
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["push.gguf"]


def test_a_push_is_written_as_it_is_signed_by_the_way_and_not_by_its_own_scale(scans, tmp_path):
    for scale in (0.5, -0.5):
        vectors, _ = read(control_vector(Push(scans.directions, [1], scale), tmp_path / "push.gguf", "away"))
        torch.testing.assert_close(vectors["direction.1"], -0.5 * scans.directions.vectors[1])


def test_what_cannot_be_a_control_vector_is_said(scans, tmp_path, without_shape_checks):
    with pytest.raises(ValueError, match="no place for a push behind block 0"):
        control_vector(replace(scans, layers=(0, 1)), tmp_path / "push.gguf")
    with pytest.raises(ValueError, match="Still does not add one vector a layer"):
        control_vector(Still(), tmp_path / "push.gguf")
    with pytest.raises(ValueError, match="away or towards, and not 'back'"):
        control_vector(scans, tmp_path / "push.gguf", "back")
    assert not list(tmp_path.iterdir())


def test_the_command_writes_it_and_says_how_to_use_it(scans, tmp_path):
    scans.save(tmp_path / "scans.safetensors")
    words = ["export", "--fitted", f"scans={tmp_path / 'scans.safetensors'}", "--out", str(tmp_path / "push.gguf")]
    done = CliRunner().invoke(app, [*words, "--way", "towards"], env={"COLUMNS": "200"})
    assert done.exit_code == 0 and "--control-vector" in done.stdout, done.output
    vectors, _ = read(tmp_path / "push.gguf")
    torch.testing.assert_close(vectors["direction.2"], 0.3 * scans.directions.vectors[2])
    for more, sentence in (
        (["--way", "back"], "--way is away or towards, and not 'back'"),
        (["--fitted", "system=x"], "There is no file 'x'"),
        ([], None),
    ):
        done = CliRunner().invoke(app, [*words, *more])
        assert done.exit_code == (2 if sentence else 0) and (sentence or "") in done.output
    done = CliRunner().invoke(app, ["export", "--out", str(tmp_path / "push.gguf")])
    assert done.exit_code == 2 and "Give one method: --fitted NAME=FILE." in done.output
