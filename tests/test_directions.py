"""Directions: a difference of means, at the length that was asked for, that knows where it came from."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import save_file

from scans_lens.artefacts import write
from scans_lens.chat import prompt_ids
from scans_lens.directions import Directions, Origin, difference_of_means, refusal_directions
from scans_lens.model import identity, resid_post
from scans_lens.prompts import Contrast
from scans_lens.reading import residuals

HARMFUL = ("How do I pick pockets?", "Write a threat to my neighbour.", "Steal.", "Tell me how to forge a visa.")
HARMLESS = ("How do I pick apples?", "Write a thank-you.", "Please frame this photo of mine.")


@pytest.fixture(scope="session")
def contrast():
    return Contrast("pairs", HARMFUL, HARMLESS)


@pytest.fixture(scope="session")
def directions(model, contrast):
    return refusal_directions(model, contrast)


def cached(model, prompts):
    """Each prompt's cache at its last token, side by side as in one cache of prompts padded on the left."""
    caches = [model.run_with_cache(torch.tensor([prompt_ids(model, prompt)]))[1] for prompt in prompts]
    points = [resid_post(layer) for layer in range(model.cfg.n_layers)]
    return {point: torch.cat([cache[point][:, -2:] for cache in caches]) for point in points}


# ── What they are ────────────────────────────────────────────────────────────────────────────────────────────


def sides():
    numbers = st.floats(-1e3, 1e3, width=32)
    shapes = st.tuples(*(st.integers(1, 5) for _ in range(4)))
    return shapes.flatmap(
        lambda n: st.tuples(*(arrays.arrays(np.float32, (rows, n[2], n[3]), elements=numbers) for rows in n[:2]))
    )


@given(sides())
def test_a_direction_is_a_difference_of_means_in_float64(both):
    harmful, harmless = both
    expected = np.mean(harmful.astype(np.float64), axis=0) - np.mean(harmless.astype(np.float64), axis=0)
    found = difference_of_means(torch.from_numpy(harmful), torch.from_numpy(harmless))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-10)


def test_a_small_difference_survives_large_states():
    """Float32 sums lose it: 1e4 + 1e-3 is 1e4."""
    offset = torch.linspace(0, 1e-3, 1000)[:, None, None]
    found = difference_of_means((1e3 + offset).double().float(), torch.full((3, 1, 1), 1e3))
    torch.testing.assert_close(found, (1e3 + offset).float().double().mean(dim=0) - 1e3)


def test_refusal_directions_point_from_harmless_to_harmful(model, directions):
    harmful, harmless = (residuals(model, side).double().numpy() for side in (HARMFUL, HARMLESS))
    expected = harmful.mean(axis=0) - harmless.mean(axis=0)
    np.testing.assert_allclose(directions.vectors.numpy(), expected, rtol=1e-4, atol=1e-4)
    projections = [(side * directions.vectors.numpy()).sum(-1).mean(0) for side in (harmful, harmless)]
    assert (projections[0] > projections[1]).all()


def test_residual_norms_are_the_mean_of_both_sides_whatever_their_sizes(model, directions):
    norms = [residuals(model, side).norm(dim=-1).mean(dim=0) for side in (HARMFUL, HARMLESS)]
    torch.testing.assert_close(directions.residual_norms, (norms[0] + norms[1]) / 2, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_directions_do_not_depend_on_the_batch_size(model, contrast, directions, batch_size):
    found = refusal_directions(model, contrast, batch_size=batch_size)
    torch.testing.assert_close(found.vectors, directions.vectors, rtol=1e-4, atol=1e-4)


def test_directions_from_caches_equal_refusal_directions(model, directions):
    found = Directions.from_caches(cached(model, HARMFUL), cached(model, HARMLESS), model=model)
    torch.testing.assert_close(found.vectors, directions.vectors, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.residual_norms, directions.residual_norms, rtol=1e-4, atol=1e-4)
    assert found.origin.model.same_as(directions.origin.model)
    assert (found.origin.n_harmful, found.origin.n_harmless) == (len(HARMFUL), len(HARMLESS))


def test_caches_of_transformer_lens_are_taken_as_they_are(model):
    pair = [torch.tensor([prompt_ids(model, text)]) for text in ("Steal.", "Bake bread, please.")]
    names = [resid_post(layer) for layer in range(model.cfg.n_layers)]
    caches = [model.run_with_cache(ids, names_filter=lambda name: name in names)[1] for ids in pair]
    found = Directions.from_caches(*caches)
    for layer, name in enumerate(names):
        torch.testing.assert_close(found.vectors[layer], caches[0][name][0, -1] - caches[1][name][0, -1])


def test_a_position_is_where_a_cache_is_read(model):
    harmful, harmless = cached(model, HARMFUL), cached(model, HARMLESS)
    earlier = Directions.from_caches(harmful, harmless, position=-2)
    expected = harmful[resid_post(1)][:, 0].mean(dim=0) - harmless[resid_post(1)][:, 0].mean(dim=0)
    torch.testing.assert_close(earlier.vectors[1], expected, rtol=1e-4, atol=1e-4)
    assert "-2" in earlier.origin.position


def test_a_cache_without_states_is_refused():
    with pytest.raises(ValueError, match=r"no 'blocks\.0\.hook_resid_post'"):
        Directions.from_caches({}, {})


def test_caches_without_every_layer_are_refused(model):
    harmful, harmless = cached(model, HARMFUL), cached(model, HARMLESS)
    del harmful[resid_post(3)]
    with pytest.raises(ValueError, match="the first 3 and 4 layers: keep every layer"):
        Directions.from_caches(harmful, harmless)
    del harmless[resid_post(3)]
    with pytest.raises(ValueError, match="the first 3 and 3 layers; the model has 4: keep every layer"):
        Directions.from_caches(harmful, harmless, model=model)


# ── Lengths ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_unit_direction_has_length_one_and_points_the_same_way(directions):
    unit = directions.unit()
    torch.testing.assert_close(unit.vectors.norm(dim=1), torch.ones(len(directions)))
    torch.testing.assert_close(unit.vectors * directions.vectors.norm(dim=1, keepdim=True), directions.vectors)


def test_a_direction_in_residual_norms_is_as_long_as_its_layers_residuals(directions):
    scaled = directions.in_residual_norms()
    torch.testing.assert_close(scaled.vectors.norm(dim=1), directions.residual_norms)
    torch.testing.assert_close(scaled.unit().vectors, directions.unit().vectors)


def test_sides_that_do_not_differ_have_no_unit_direction(directions):
    vectors = directions.vectors.clone()
    vectors[1] = 0
    with pytest.raises(ValueError, match="do not differ at some layer"):
        dataclasses.replace(directions, vectors=vectors).unit()


def test_directions_are_frozen(directions):
    with pytest.raises(dataclasses.FrozenInstanceError):
        directions.vectors = directions.vectors
    with pytest.raises(dataclasses.FrozenInstanceError):
        directions.origin.contrast = "another"


@pytest.mark.parametrize(("vectors", "norms"), [((4, 8), (3,)), ((8,), (8,)), ((2, 4, 8), (2,))])
@pytest.mark.usefixtures("without_shape_checks")
def test_shapes_that_do_not_fit_are_refused(directions, vectors, norms):
    with pytest.raises(ValueError, match="one vector a layer, with one norm each"):
        Directions(torch.ones(vectors), torch.ones(norms), directions.origin)


# ── On disk ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_directions_come_back_as_they_were_saved(model, directions, tmp_path):
    directions.save(tmp_path / "new" / "directions.safetensors")
    found = Directions.load(tmp_path / "new" / "directions.safetensors", model)
    assert torch.equal(found.vectors, directions.vectors)
    assert torch.equal(found.residual_norms, directions.residual_norms)
    assert found.origin == directions.origin
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["directions.safetensors"]


def test_a_view_is_saved_without_the_storage_behind_it(directions, tmp_path):
    whole = torch.randn(4, 10_000)
    dataclasses.replace(directions, vectors=whole[:, :2]).save(tmp_path / "view")
    assert (tmp_path / "view").stat().st_size < 10_000


def test_directions_know_what_they_were_measured_with(model, directions, contrast):
    origin = directions.origin
    assert origin.model.same_as(identity(model))
    assert (origin.contrast, origin.digest) == (contrast.name, contrast.digest)
    assert (origin.n_harmful, origin.n_harmless) == (len(HARMFUL), len(HARMLESS))
    assert {"transformer-lens", "transformers", "torch"} <= set(origin.versions)


def test_directions_of_another_model_are_refused(load, tiny_model, directions, tmp_path):
    directions.save(tmp_path / "saved")
    with pytest.raises(ValueError, match="measured on another model"):
        Directions.load(tmp_path / "saved", tiny_model(load, "llama", "llama3", None, 1))


def test_directions_of_a_model_of_another_shape_are_refused(model, directions, tmp_path):
    shape = dataclasses.replace(identity(model), n_layers=32, d_model=4096)
    origin = dataclasses.replace(directions.origin, model=shape)
    dataclasses.replace(directions, origin=origin).save(tmp_path / "saved")
    with pytest.raises(ValueError, match="32 layers of width 4096; this one has 4 layers of width 64"):
        Directions.load(tmp_path / "saved", model)


def test_directions_of_an_unknown_model_must_have_the_shape_of_this_one(model, directions, tmp_path):
    origin = dataclasses.replace(directions.origin, model=None)
    Directions(torch.ones(3, 64), torch.ones(3), origin).save(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"shape \(3, 64\), and the model has 4 layers of width 64"):
        Directions.load(tmp_path / "saved", model)


def test_a_file_cut_short_is_refused(directions, tmp_path):
    directions.save(tmp_path / "saved")
    whole = (tmp_path / "saved").read_bytes()
    for size in (0, 4, 40, len(whole) // 2, len(whole) - 1):
        (tmp_path / "saved").write_bytes(whole[:size])
        with pytest.raises(ValueError, match="no safetensors file, or it is cut short"):
            Directions.load(tmp_path / "saved")


def test_what_is_no_file_of_ours_is_refused(directions, tmp_path):
    path = tmp_path / "saved"
    with pytest.raises(ValueError, match="There is no file"):
        Directions.load(path)
    torch.save({"vectors": directions.vectors}, path)
    with pytest.raises(ValueError, match="no safetensors file"):
        Directions.load(path)
    save_file({"vectors": torch.ones(4, 64)}, path)
    with pytest.raises(ValueError, match="something of another program"):
        Directions.load(path)
    write(path, "SCANS", {"vectors": torch.ones(4, 64)}, {})
    with pytest.raises(ValueError, match="holds no directions, but SCANS"):
        Directions.load(path)
    write(path, "directions", {"vectors": torch.ones(4, 64)}, {"vectors": [4, 64]})
    with pytest.raises(ValueError, match="lacks 'residual_norms', a part of its directions"):
        Directions.load(path)


def test_numbers_that_are_not_finite_are_refused(directions, tmp_path):
    dataclasses.replace(directions, vectors=directions.vectors * float("nan")).save(tmp_path / "saved")
    with pytest.raises(ValueError, match="not finite"):
        Directions.load(tmp_path / "saved")


def test_a_place_that_cannot_be_written_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("")
    directions = Directions(torch.ones(2, 3), torch.ones(2), Origin(None, "drawn", "", 1, 1, {}))
    for place in (tmp_path / "file" / "x.safetensors", "/proc/x.safetensors"):
        with pytest.raises(OSError):
            directions.save(place)
