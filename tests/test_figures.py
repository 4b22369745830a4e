"""Laws of the figures: numbers first, pictures second, and neither forgets what it was made of."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scans_lens import figures, organism
from scans_lens.figures import __main__ as command
from scans_lens.figures import measuring, style
from scans_lens.methods import scans

N = 8
"""Prompts of a kind: enough for every law, and quick."""
COMMITTED = Path(__file__).parent.parent / "figures" / "measured"


@pytest.fixture(scope="module")
def study(bundled):
    """The bundled model on a few prompts."""
    return figures.Study.of(bundled, prompts_a_kind=N, progress=False)


@pytest.fixture(scope="module")
def few():
    """Short replies and few draws, which is all that the laws need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scans, "SHARES", (0.05, 0.1))
        patch.setattr(scans, "ROUNDS", 0)
        patch.setattr(scans, "VALIDATION_TOKENS", 4)
        short = {"RATE_TOKENS": 3, "VALIDATION_TOKENS": 4, "LONG_REPLY": 9}
        for name, value in {"RESAMPLES": 40, "TOKEN_RESAMPLES": 10, "DRAWS": 2, **short}.items():
            patch.setattr(measuring, name, value)
        yield


@pytest.fixture
def loaded(bundled, study, monkeypatch):
    """The command's model is the one that is loaded already, and its study the one that was made."""

    def made(model, prompts, seed, batch_size):
        return study if prompts == N else figures.Study.of(bundled, prompts_a_kind=prompts, progress=False)

    monkeypatch.setattr(command, "_study", made)


@pytest.fixture(scope="module")
def folder(study, few, tmp_path_factory) -> Path:
    """Every figure measured once, on disk."""
    folder = tmp_path_factory.mktemp("figures") / "measured"
    for name in figures.ABOUT:
        figures.store(figures.measure(name, study), folder)
    return folder


def run(*arguments: object):
    return CliRunner().invoke(command.app, [str(argument) for argument in arguments])


def every(value, path=()):
    """Every dict inside a value, with the way to it."""
    if isinstance(value, dict):
        yield path, value
        for key, entry in value.items():
            yield from every(entry, (*path, key))
    elif isinstance(value, list):
        for place, entry in enumerate(value):
            yield from every(entry, (*path, place))


# ── Measuring ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", figures.ABOUT)
def test_measured_numbers_say_what_they_were_measured_on(folder, study, name):
    measured = figures.load(name, folder)
    assert measured["settings"] == study.settings
    settings = measured["settings"]
    assert settings["model"]["name"] == "bundled"
    assert settings["seed"] == 0
    assert len(settings["anchors"]["digest"]) == 64 and settings["anchors"]["harmful"] == N
    assert settings["test"]["harmful"] == N
    assert {"torch", "transformers", "transformer-lens", "scans_lens"} <= set(measured["made_with"])


@pytest.mark.parametrize("name", figures.ABOUT)
def test_no_path_of_this_machine_is_in_the_numbers(folder, name):
    text = (folder / f"{name}.json").read_text()
    assert str(Path.home()) + "/" not in text
    assert str(Path(figures.__file__).parents[2]) not in text
    assert "weights" not in text


def test_every_rate_has_its_n_and_an_interval_around_it(folder):
    found = 0
    for name in figures.ABOUT:
        for path, part in every(figures.load(name, folder)["numbers"]):
            if "count" in part:
                found += 1
                low, high = part["interval"]
                assert 0 <= part["count"] <= part["total"] and part["total"] >= 1, path
                assert low <= part["value"] + 1e-6 and part["value"] <= high + 1e-6, path
    assert found > 50


def test_every_estimate_has_an_interval_and_an_n(folder):
    for name in ("classifier", "tsne", "projections"):
        for path, part in every(figures.load(name, folder)["numbers"]):
            if "value" in part:
                assert "interval" in part and ("n" in part or "total" in part), path


def test_test_prompts_choose_nothing(study):
    seen = {text for contrast in (study.anchors, study.validation) for text in (*contrast.harmful, *contrast.harmless)}
    assert not any(text in seen for texts in study.test.values() for text in texts)
    rule = figures.measure("classifier", study)["numbers"]
    held = study.scans.classifier.score(study.validation_states["harmful"].transitions)
    assert rule["methods"]["SCANS score"]["threshold"] == pytest.approx(float(held.min()), abs=1e-5)


def test_placebos_are_as_long_as_the_true_directions_and_point_elsewhere(study):
    true = study.scans.directions.vectors
    for draw in (measuring._random, measuring._shuffled):
        made = measuring._placebos(study, draw)
        assert len({placebo.directions.vectors.sum().item() for placebo in made}) == len(made)
        for placebo in made:
            assert placebo.directions.vectors.norm(dim=-1).allclose(true.norm(dim=-1), rtol=1e-4)
            assert placebo.classifier is study.scans.classifier and placebo.scale == study.scans.scale
        assert measuring._likeness(study, made) < 0.8


def test_measuring_twice_gives_the_same_numbers(study, folder):
    for name in ("top_tokens", "geometry", "tsne", "classifier"):
        assert figures.measure(name, study) == figures.load(name, folder)


def test_another_model_has_no_borderline_prompts_and_the_figures_say_so(tiny_model):
    import tiny

    other = figures.Study.of(tiny_model(tiny.bridge), prompts_a_kind=8, progress=False)
    assert set(other.test) == {"plain", "harmful"}
    assert "/" not in other.settings["model"]["name"]
    measured = figures.measure("projections", other)
    figures.draw("projections", measured)
    assert set(measured["numbers"]["auc"]) == {"plain"}


# ── Drawing ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", figures.ABOUT)
def test_the_same_numbers_give_the_same_bytes(folder, name):
    once, twice = (style.written(figures.draw(name, figures.load(name, folder)), "svg") for _ in range(2))
    assert once == twice
    assert len(once) > 5_000


def test_what_is_saved_is_what_is_drawn_and_a_notebook_is_shown_it_small(folder, tmp_path):
    picture = figures.draw("geometry", figures.load("geometry", folder))
    png, svg = figures.save(picture, tmp_path, "geometry")
    assert len(picture._repr_png_()) < png.stat().st_size
    assert png.read_bytes() == style.written(picture, "png")
    assert svg.read_bytes() == style.written(figures.draw("geometry", figures.load("geometry", folder)), "svg")


def test_drawing_ignores_the_readers_own_settings(folder, tmp_path):
    import matplotlib

    measured = figures.load("geometry", folder)
    ours = figures.save(figures.draw("geometry", measured), tmp_path / "ours", "geometry")[1].read_bytes()
    with matplotlib.rc_context({"font.size": 20, "axes.grid": True, "svg.fonttype": "none"}):
        theirs = figures.save(figures.draw("geometry", measured), tmp_path / "theirs", "geometry")[1].read_bytes()
        assert matplotlib.rcParams["font.size"] == 20
    assert ours == theirs


def test_drawing_needs_no_model(folder, tmp_path):
    code = (
        "import sys\n"
        "from scans_lens import figures\n"
        f"picture = figures.draw('refusal_rates', figures.load('refusal_rates', {str(folder)!r}))\n"
        f"figures.save(picture, {str(tmp_path)!r}, 'refusal_rates')\n"
        "heavy = {'torch', 'transformers', 'transformer_lens', 'matplotlib.pyplot'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert (tmp_path / "refusal_rates.png").is_file()


@pytest.mark.skipif(not COMMITTED.is_dir(), reason="no numbers are committed yet")
@pytest.mark.parametrize("name", figures.ABOUT)
def test_the_committed_numbers_can_be_drawn(name):
    assert figures.draw(name, figures.load(name, COMMITTED)).axes


@pytest.mark.skipif(not COMMITTED.is_dir(), reason="no numbers are committed yet")
@pytest.mark.parametrize("name", figures.ABOUT)
def test_the_committed_numbers_are_of_the_model_that_ships(name):
    shipped = organism.identity()
    assert shipped is not None
    assert figures.load(name, COMMITTED)["settings"]["model"]["unembedding"] == shipped["unembedding"]


def test_a_token_that_the_font_does_not_have_is_written_as_its_code():
    assert style.legible(" no\n") == "␣no↵"
    assert style.legible("拒") == "U+62D2"
    assert style.legible("") == "(empty)"


# ── The command ──────────────────────────────────────────────────────────────────────────────────────────────


def test_an_unknown_name_lists_the_known_ones():
    result = run("--only", "geometri")
    assert result.exit_code == 1
    assert "No figure 'geometri'" in result.output
    assert all(name in result.output for name in figures.ABOUT)


def test_drawing_without_numbers_says_so_in_one_sentence(tmp_path):
    result = run("--draw-only", "--out", tmp_path)
    assert result.exit_code == 1
    assert result.output.count("\n") == 1
    assert "no measured numbers of 'overview'" in result.output
    assert not list(tmp_path.iterdir())


def test_draw_only_takes_several_names_and_numbers_from_elsewhere(folder, tmp_path):
    result = run("--draw-only", "--measured", folder, "--out", tmp_path, "--only", "geometry", "top_tokens")
    assert result.exit_code == 0, result.output
    assert {file.name for file in tmp_path.iterdir()} == {
        f"{name}.{kind}" for name in ("geometry", "top_tokens") for kind in ("png", "svg")
    }


def test_an_interrupted_run_goes_on_where_it_was(folder, loaded, tmp_path, monkeypatch):
    done, measure = [], figures.measure

    def stopping(name, study):
        done.append(name)
        if done == ["geometry", "projections"]:
            raise KeyboardInterrupt
        return measure(name, study)

    monkeypatch.setattr(figures, "measure", stopping)
    figures.store(figures.load("top_tokens", folder), tmp_path / "measured")
    wanted = ("--prompts", N, "--out", tmp_path, "--only", "top_tokens,geometry,projections")
    assert run(*wanted).exit_code != 0
    assert done == ["geometry", "projections"]
    assert (tmp_path / "measured" / "geometry.json").is_file()
    result = run(*wanted)
    assert result.exit_code == 0, result.output
    assert done == ["geometry", "projections", "projections"]
    assert result.output.count("kept") == 2


def test_other_settings_are_measured_anew(folder, loaded, tmp_path):
    old = figures.load("geometry", folder)
    figures.store(old, tmp_path / "measured")
    result = run("--prompts", N - 2, "--out", tmp_path, "--only", "geometry")
    assert result.exit_code == 0 and "kept" not in result.output
    assert figures.load("geometry", tmp_path / "measured")["settings"]["anchors"]["harmful"] == N - 2


def test_a_broken_file_of_numbers_is_refused_with_a_sentence(tmp_path):
    (tmp_path / "geometry.json").write_text('{"figure": "geometry", "form')
    with pytest.raises(ValueError, match="cut short"):
        figures.load("geometry", tmp_path)
    (tmp_path / "geometry.json").write_text(json.dumps({"figure": "geometry", "format": 0}))
    with pytest.raises(ValueError, match="measure it again"):
        figures.load("geometry", tmp_path)
    with pytest.raises(ValueError, match="not of 'tsne'"):
        figures.draw("tsne", {"figure": "geometry"})


def test_one_figure_that_cannot_be_measured_loses_no_other(folder, loaded, tmp_path, monkeypatch):
    measure = figures.measure

    def failing(name, study):
        if name == "top_tokens":
            raise ValueError("none of the words is there")
        return measure(name, study)

    monkeypatch.setattr(figures, "measure", failing)
    result = run("--prompts", N, "--out", tmp_path, "--only", "top_tokens,geometry")
    assert result.exit_code == 1
    assert "none of the words is there" in result.output
    assert (tmp_path / "geometry.png").is_file()


# ── What the README says ─────────────────────────────────────────────────────────────────────────────────────


README = COMMITTED.parent.parent / "README.md"
with_readme = pytest.mark.skipif(not README.is_file(), reason="there is no README beside this installation")


def percent(rate):
    return f"{100 * rate['value']:.1f} [{100 * rate['interval'][0]:.1f}, {100 * rate['interval'][1]:.1f}]"


@with_readme
def test_the_readmes_rates_are_those_that_were_measured():
    found = figures.load("refusal_rates", COMMITTED)["numbers"]
    said = README.read_text()
    for way, rates in found["rates"].items():
        cells = [rates[kind] for kind in ("harmful", "borderline", "plain", "jailbreak")]
        cells += [found["skill"][way][kind] for kind in ("plain", "quiz")]
        assert f"| {way} | {' | '.join(map(percent, cells))} |" in said


@with_readme
def test_the_readmes_anchor_table_is_the_one_that_was_measured():
    found = figures.load("anchor_layers", COMMITTED)["numbers"]
    said = README.read_text()
    assert f"Anchor layers: {', '.join(map(str, found['layers']))}\n" in said
    for one in found["evidence"]:
        low, high = one["drop_interval"]
        mark = r"\*" if one["layer"] in found["layers"] else " "
        row = rf"^    {mark} +{one['layer']} +{one['drop']:.2f} +\[{low:.2f}, {high:.2f}\] +{one['z']:.2f} "
        assert re.search(row, said, re.M), row
