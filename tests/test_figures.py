"""Laws of the figures: numbers first, pictures second, and neither forgets what it was made of."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import effort
import numpy as np
import pytest
import torch
from drawn import safeswitch, wide
from typer.testing import CliRunner

from scans_lens import divergence, figures, judges, organism, world
from scans_lens.errors import Refused
from scans_lens.figures import __main__ as command
from scans_lens.figures import (
    anchor_size,
    catalogue,
    comparison,
    judge_agreement,
    placebos,
    projections,
    push_sweep,
    refusal_rates,
    style,
    switch_study,
)
from scans_lens.figures.prompt_types import typed
from scans_lens.figures.study import signed
from scans_lens.figures.switch_study import Switching
from scans_lens.methods.scans import SCANS
from scans_lens.organism import corpus
from scans_lens.steering import Push

pytestmark = pytest.mark.above

N = effort.N
EXACT = world.bundled
MEASURED = [name for name in figures.ABOUT if name not in catalogue.FROM_A_RUN]
"""Figures that are measured on a model; the others show what another command has measured."""
OF_THE_SWITCH = ("probers", "states", "switching", "switch_by_type")
OF_ANY_MODEL = ("push_sweep", "threshold_sweep", "thirds", "by_type", "calibration", "judge_agreement", "anchor_size")
COMMITTED = Path(__file__).parent.parent / "figures" / "measured"
KEPT = [name for name in figures.ABOUT if name not in catalogue.FROM_A_RUN or (COMMITTED / f"{name}.json").is_file()]
"""Figures of the bundled model; of those that show a run, what is committed (README's tables need the comparison)."""


@pytest.fixture(scope="module")
def study(bundled):
    """The bundled model on a few prompts, with a SafeSwitch of which nothing is learned."""
    made = replace(figures.Study.of(bundled, prompts_a_kind=N, progress=False), effort=effort.LITTLE)
    blank = safeswitch(bundled, k=2)
    assert blank.second
    method = replace(blank, first=wide(blank.first, 160), second=wide(blank.second, 160))
    own = Switching.of(bundled, method, prompts_a_kind=N, effort=effort.LITTLE, progress=False)
    with pytest.MonkeyPatch.context() as patch:  # whether a prompt is complied with takes a whole opening to tell
        patch.setattr(world, "bundled", EXACT)
        assert len(own.learned.kinds) > len(own.held.kinds) > len(own.tested.kinds)
    made.__dict__["switching"] = own
    return made


@pytest.fixture(scope="module")
def few():
    """Short replies and few draws, which is all that the laws need."""
    with effort.little():
        yield


@pytest.fixture
def loaded(bundled, study, monkeypatch):
    """The command's model is the one that is loaded already, and its study the one that was made."""

    def made(model, dtype, scans, prompts, seed, batch_size):
        if prompts == N:
            return study
        return replace(figures.Study.of(bundled, prompts_a_kind=prompts, progress=False), effort=effort.LITTLE)

    monkeypatch.setattr(command, "_study", made)


@pytest.fixture(scope="module")
def folder(study, few, tmp_path_factory) -> Path:
    """Every figure measured once, on disk."""
    folder = tmp_path_factory.mktemp("figures") / "measured"
    for name in MEASURED:
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


@pytest.mark.parametrize("name", MEASURED)
def test_measured_numbers_say_what_they_were_measured_on(folder, study, name):
    measured = figures.load(name, folder)
    assert measured["settings"] == study.settings
    settings = measured["settings"]
    assert settings["model"]["name"] == "bundled"
    assert settings["seed"] == 0
    assert len(settings["anchors"]["digest"]) == 64 and settings["anchors"]["harmful"] == N
    assert settings["test"]["harmful"] == N
    assert {"torch", "transformers", "transformer-lens", "scans_lens"} <= set(measured["made_with"])


@pytest.mark.parametrize("name", MEASURED)
def test_no_path_of_this_machine_is_in_the_numbers(folder, name):
    text = (folder / f"{name}.json").read_text()
    assert str(Path.home()) + "/" not in text
    assert str(Path(figures.__file__).parents[2]) not in text
    assert "organism/weights" not in text


def test_every_rate_has_its_n_and_an_interval_around_it(folder):
    found = 0
    for name in MEASURED:
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
    for made in refusal_rates.placebos_of(study).values():
        assert len({placebo.directions.vectors.sum().item() for placebo in made}) == len(made)
        for placebo in made:
            assert placebo.directions.vectors.norm(dim=-1).allclose(true.norm(dim=-1), rtol=1e-4)
            assert placebo.classifier is study.scans.classifier and placebo.scale == study.scans.scale
        assert placebos.likeness(study.scans, made) < 0.8


def test_measuring_twice_gives_the_same_numbers(study, folder):
    for name in ("top_tokens", "geometry", "tsne", "classifier"):
        assert figures.measure(name, study) == figures.load(name, folder)


@pytest.mark.both
def test_another_model_has_no_jailbreaks_and_the_figures_say_so(tiny_model):
    import tiny

    other = figures.Study.of(tiny_model(tiny.bridge), prompts_a_kind=8, progress=False)
    other = replace(other, effort=effort.LITTLE)
    assert set(other.test) == {"plain", "borderline", "harmful"}
    assert "/" not in other.settings["model"]["name"]
    measured = figures.measure("projections", other)
    figures.draw("projections", measured)
    assert set(measured["numbers"]["auc"]) == {"plain", "borderline"}
    mine = world.World.of(other.model, name="mine")
    assert replace(figures.Study.of(other.model, world=mine), effort=effort.LITTLE).world is mine
    assert "No jailbreak prompts were there" in projections.caption(measured["numbers"], measured["settings"])


# ── Drawing ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", MEASURED)
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
@pytest.mark.parametrize("name", KEPT)
def test_the_committed_numbers_can_be_drawn(name):
    assert figures.draw(name, figures.load(name, COMMITTED)).axes


@pytest.mark.skipif(not COMMITTED.is_dir(), reason="no numbers are committed yet")
@pytest.mark.parametrize("name", KEPT)
def test_the_committed_numbers_are_of_the_model_that_ships(name):
    shipped = organism.identity()
    assert shipped is not None
    assert figures.load(name, COMMITTED)["settings"]["model"]["unembedding"] == shipped["unembedding"]


def test_every_figure_has_a_file_with_a_line_two_functions_and_no_heavy_import():
    code = (
        "import sys\n"
        "from scans_lens.figures import catalogue\n"
        "for name, about in catalogue.ABOUT.items():\n"
        "    figure = catalogue.figure(name)\n"
        "    assert about and '\\n' not in about and callable(figure.measure) and callable(figure.draw), name\n"
        "heavy = {'torch', 'transformers', 'transformer_lens', 'matplotlib', 'sklearn', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_token_that_the_font_does_not_have_is_written_as_its_code():
    assert style.legible(" no\n") == "␣no↵"
    assert style.legible("拒") == "U+62D2"
    assert style.legible("") == "(empty)"


# ── Sweeps ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_threshold_that_is_looked_up_is_scans_run_at_that_threshold(study, few):
    for kind, share in (("harmful", 0.3), ("borderline", 0.5), ("jailbreak", 0.7)):
        there = study.pushed[kind]
        threshold = float(there.score.double().quantile(share))
        at = replace(study.scans, classifier=replace(study.scans.classifier, threshold=threshold))
        assert there.at(threshold) == study.refused(study.test[kind], at)


def test_every_prompt_is_pushed_the_way_that_was_asked_for(study):
    texts = study.test["harmful"]
    for sign in (-1, 1):
        said = study.replies(texts, signed(study.scans, sign))
        assert (said.scale.sign() == sign).all()
        assert said.scale.abs().allclose(torch.tensor(study.scans.scale))


def test_at_the_ends_of_the_thresholds_everything_is_pushed_one_way(study, folder):
    found = figures.load("threshold_sweep", folder)["numbers"]
    assert found["thresholds"] == sorted(found["thresholds"])
    for kind, there in study.pushed.items():
        assert found["rates"][kind][0]["count"] == sum(there.towards)
        assert found["rates"][kind][-1]["count"] == sum(there.away)
    assert found["interval"][0] <= found["chosen"] <= found["interval"][1]


def test_scale_0_is_the_plain_model_and_the_chosen_scale_is_scans(study, folder):
    found = figures.load("push_sweep", folder)["numbers"]
    places = {share: place for place, share in enumerate(found["shares"])}
    for kind in ("harmful", "borderline"):
        texts, rates = study.test[kind], found["rates"][kind]
        assert rates[places[0.0]]["count"] == sum(study.refused(texts, replace(study.scans, scale=0.0)))
        assert rates[places[0.0]]["count"] == sum(study.pushed[kind].plain)
        assert rates[places[1.0]]["count"] == sum(study.refused(texts, study.scans))
    for part in found["placebos"].values():
        assert {rate["count"] for rate in part["rates"][0]} == {sum(study.pushed["borderline"].plain)}


# ── How far a push moves the model ───────────────────────────────────────────────────────────────────────────


def divergences(study, texts, scales):
    pushes = [Push(study.scans.directions, study.scans.layers, scale) for scale in scales]
    return divergence.divergences(study.model, texts, pushes).numpy()


@pytest.mark.parametrize("sign", (-1, 1))
def test_a_divergence_is_0_without_a_push_and_grows_with_it(study, sign):
    scales = [sign * share * study.scans.scale for share in (0, 0.5, 1, 2)]
    apart = divergences(study, study.validation.harmless, scales)
    assert (apart >= 0).all()
    assert apart[0].max() < 1e-9
    assert (apart[1:].mean(1) > apart[:-1].mean(1)).all()


def test_a_divergence_does_not_depend_on_what_was_pushed_before(study):
    texts, scale = study.validation.harmless[:3], -study.scans.scale
    alone = divergences(study, texts, [scale])
    behind = divergences(study, texts, [5 * scale, scale])
    assert alone[0] == pytest.approx(behind[1], abs=1e-6)


def test_placebos_are_as_long_as_the_true_directions_and_point_or_act_elsewhere(study, few):
    true = study.scans.directions.vectors
    made = push_sweep.placebos_of(study)
    for draw in (*made["random directions"], *made["shuffled labels"]):
        assert draw.directions.vectors.norm(dim=-1).allclose(true.norm(dim=-1), rtol=1e-4)
        assert draw.classifier is study.scans.classifier and draw.layers == study.scans.layers
    assert not set(made["wrong layers"][0].layers) & set(study.scans.layers)
    assert all(placebos.likeness(study.scans, made[name]) < 0.8 for name in ("random directions", "shuffled labels"))


# ── Prompts, judges, anchors ─────────────────────────────────────────────────────────────────────────────────


def test_a_types_harmful_contrasts_share_its_verbs(study):
    asked = typed(study)
    verbs = {item.phrase: item.act for kind in ("borderline", "harmful") for item in corpus.items(kind)}
    for name in {name for one in asked["borderline"] for name in one.types}:
        taken = {item.act for item in corpus.items("borderline") if item.type == name}
        assert {verbs[one.item] for one in asked["harmful"] if name in one.types} <= taken
        assert not any(verbs[one.item] in taken for one in asked["harmful"] if name not in one.types)


def test_validation_and_test_prompts_of_a_type_have_nothing_in_common(study, other):
    for which in (study, other):
        held, test = (
            {one.text for own in typed(which, split).values() for one in own} for split in ("validation", "test")
        )
        assert held and test and not held & test


def test_a_judge_agrees_with_itself_and_not_with_its_contrary():
    no = np.array([[True, False], [False, False], [True, True]])
    assert judge_agreement.kappa(no, no) == 1.0
    assert judge_agreement.kappa(no, ~no) == pytest.approx(-1.0)
    assert judge_agreement.kappa(no, np.ones_like(no)) == pytest.approx(0.0)


def test_all_anchors_give_their_own_directions_back(study, folder):
    pool = anchor_size.pool_of(study)
    n = len(pool.harmful)
    assert n == 2 * N
    mixed = torch.randperm(n)
    one, other = (pool.directions(places, places, study.scans).vectors for places in (torch.arange(n), mixed))
    assert one.allclose(other, atol=1e-5)
    found = figures.load("anchor_size", folder)["numbers"]
    assert [row["size"] for row in found["rows"]] == [4, 8]
    assert all(0 < value < 1 for row in found["rows"] for value in row["cosine"]["anchor layers"])


def test_steering_the_anchor_layers_is_scans_itself_among_the_thirds(study, folder):
    ways = figures.load("thirds", folder)["numbers"]["ways"]
    for kind, there in study.pushed.items():
        assert ways["anchor layers"]["rates"][kind]["count"] == sum(there.at(study.scans.classifier.threshold))
    layers = [layer for name, part in ways.items() if name.endswith("third") for layer in part["layers"]]
    assert layers == list(range(12))
    cost = figures.load("capability", folder)["numbers"]["ways"]
    for third, way in (("plain model", "plain model"), ("anchor layers", "all away from refusal")):
        assert ways[third]["perplexity"] == cost[way]["perplexity"]


def test_capability_without_a_sign_of_its_own_is_not_pushed_and_both_signs_are(folder):
    ways = figures.load("capability", folder)["numbers"]["ways"]
    pushed = {way: part["pushed_towards"] for way, part in ways.items()}
    assert pushed["plain model"] is None
    assert pushed["all away from refusal"]["count"] == 0
    assert pushed["all towards refusal"]["value"] == 1.0


@pytest.fixture(scope="module")
def other(few, tiny_model):
    """A model of random weights, which has no jailbreak prompts and refuses at random, with SCANS as it was given."""
    import tiny

    made = figures.Study.of(tiny_model(tiny.bridge), prompts_a_kind=N, progress=False)
    made = replace(made, effort=effort.LITTLE)
    fitted = SCANS.fit(
        made.model, made.anchors, validation=made.validation, layers=(1, 2), judge=judges.rules, progress=False
    )
    return replace(made, fitted=fitted)


@pytest.mark.parametrize("name", OF_ANY_MODEL)
def test_on_another_model_what_is_missing_is_absent(other, few, name):
    measured = figures.measure(name, other)
    assert figures.draw(name, measured).axes
    assert "jailbreak" not in measured["numbers"].get("rates", {})
    assert other.scans is other.fitted and measured["settings"]["fitted"] == str(other.fitted)


def test_capability_is_of_the_bundled_model_and_says_where_else_to_look(other):
    with pytest.raises(ValueError, match="reproduce --table 3"):
        figures.measure("capability", other)


@pytest.mark.skipif(not COMMITTED.is_dir(), reason="no numbers are committed yet")
def test_the_committed_figures_agree_where_they_show_the_same():
    names = ("refusal_rates", "push_sweep", "thirds", "threshold_sweep")
    measured = [figures.load(name, COMMITTED) for name in names]
    assert all(one["settings"] == measured[0]["settings"] for one in measured)
    rates, sweep, ways, threshold = (one["numbers"] for one in measured)
    chosen, at = sweep["shares"].index(1.0), threshold["thresholds"].index(threshold["chosen"])
    for kind, rate in rates["rates"]["SCANS"].items():
        assert sweep["rates"][kind][chosen] == rate
        assert threshold["rates"][kind][at] == rate
        assert ways["ways"]["anchor layers"]["rates"][kind] == rate
        assert sweep["rates"][kind][0] == rates["rates"]["plain model"][kind]


# ── Rivals ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_prompt_that_a_prober_learned_from_or_was_stopped_on_is_reported(study):
    reported = {text for kind in switch_study.KINDS for text in study.switching.texts(kind)}
    assert len(reported) == N * len(switch_study.KINDS)
    for split in ("train", "validation"):
        assert not reported & {
            text for kind in switch_study.KINDS for text in switch_study.texts_of(kind, split, 10_000)
        }


def test_every_prober_is_tried_on_every_prompt_at_every_layer_and_after_every_token(folder):
    found = figures.load("probers", folder)["numbers"]
    total = N * len(switch_study.KINDS)
    for sorts in found["by_layer"]["probers"].values():
        for rows in sorts.values():
            assert [row["total"] for row in rows] == [total] * 13
            assert {row["items"] for row in rows} == {found["items"]}
    assert len(found["by_tokens"]["tokens"]) == effort.LITTLE.ahead + 1
    both = found["by_layer"]["probers"]["direct"]["network"][-1], found["by_tokens"]["one stage"]["network"]
    assert both[0]["count"] == both[1]["count"]  # after the final norm, at the end of the prompt


def test_types_are_wrappings_where_prompts_are_wrapped_and_share_out_every_prompt(folder):
    rows = figures.load("switch_by_type", folder)["numbers"]["rows"]
    assert sum(row["right"]["total"] for row in rows) == N * len(switch_study.KINDS)
    assert all(
        ("{}" in row["type"]) == (row["kind"].startswith("wrapped") or row["kind"] == "jailbreak") for row in rows
    )


def test_the_chosen_candidate_is_the_best_of_those_that_pass_and_has_its_own_scores(folder):
    found = figures.load("refusal_direction", folder)["numbers"]
    chosen, kept = found["chosen"], np.array(found["kept"], dtype=bool)
    place = (chosen["position"], chosen["layer"])
    bypass = np.array(found["bypass"])
    assert kept[place] and bypass[place] == bypass[kept].min() and kept.sum() == found["kept_count"]
    for name in ("bypass", "induce", "kl"):
        assert chosen["scores"][name]["value"] == pytest.approx(np.array(found[name])[place], rel=1e-3, abs=1e-4)


def test_where_no_candidate_passes_none_is_framed_and_all_are_hatched(folder):
    measured = figures.load("refusal_direction", folder)
    numbers = measured["numbers"]
    none = {**numbers, "chosen": None, "kept_count": 0, "kept": np.zeros_like(numbers["kept"]).tolist()}
    text = style.written(figures.draw("refusal_direction", {**measured, "numbers": none}), "svg")
    assert len(text) > 5_000


@pytest.mark.parametrize("name", OF_THE_SWITCH)
def test_a_switch_is_measured_on_the_bundled_models_own_prompts_only(other, name):
    with pytest.raises(ValueError, match="bundled model's own prompts"):
        figures.measure(name, other)


@pytest.mark.skipif(not COMMITTED.is_dir(), reason="no numbers are committed yet")
def test_the_committed_figures_of_rivals_agree_about_the_plain_model():
    rates, direction, switch = (
        figures.load(name, COMMITTED)["numbers"] for name in ("refusal_rates", "refusal_direction", "switching")
    )
    plain = rates["rates"]["plain model"]
    assert direction["chosen"]["refused"]["plain model"] == plain
    for kind, rate in plain.items():
        assert switch["ways"]["plain model"][kind]["complied"]["count"] == rate["total"] - rate["count"]


# ── The command ──────────────────────────────────────────────────────────────────────────────────────────────


def test_an_unknown_name_lists_the_known_ones():
    result = run("--only", "geometri")
    assert result.exit_code == 1
    assert "No figure 'geometri'" in result.output
    assert all(name in result.output for name in figures.ABOUT)


def test_drawing_without_numbers_says_so_in_one_sentence(tmp_path):
    result = run("--draw-only", "--out", tmp_path, "--measured", tmp_path / "none")
    assert result.exit_code == 1
    assert result.output.count("\n") == 1
    assert "no measured numbers of 'overview'" in result.output
    assert not list(tmp_path.iterdir())


def test_what_is_drawn_comes_from_the_kept_numbers_unless_there_are_others(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    figures.store(figures.load("geometry", folder), tmp_path / "figures" / "measured")
    result = run("--draw-only", "--out", tmp_path / "x", "--only", "geometry")
    assert result.exit_code == 0 and "Numbers: figures/measured." in result.output
    assert (tmp_path / "x" / "geometry.svg").is_file()
    figures.store(figures.load("geometry", folder), tmp_path / "x" / "measured")
    result = run("--draw-only", "--out", "x", "--only", "geometry")
    assert result.exit_code == 0 and "Numbers: x/measured." in result.output


def test_a_librarys_fault_is_no_figure_that_cannot_be_measured(folder, loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "measure", lambda name, study: np.zeros(2) + np.zeros(3))
    result = run("--prompts", N, "--out", tmp_path, "--only", "geometry")
    assert isinstance(result.exception, ValueError) and "broadcast" in str(result.exception)
    assert "not measured" not in result.output


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


def test_numbers_of_another_effort_are_measured_anew(study, folder):
    assert figures.load("geometry", folder)["settings"]["effort"]["resamples"] == effort.LITTLE.resamples
    again = replace(study, effort=replace(effort.LITTLE, resamples=effort.LITTLE.resamples + 1))
    assert again.settings != study.settings
    assert "effort" not in replace(study, effort=figures.Effort()).settings


@pytest.mark.skipif(not COMMITTED.is_dir(), reason="no numbers are committed yet")
def test_the_comparison_is_redrawn_from_kept_numbers_and_measured_from_a_run(loaded, tmp_path):
    kept = figures.load("comparison", COMMITTED)
    result = run("comparison", "--draw-only", "--measured", COMMITTED, "--out", tmp_path / "kept")
    assert result.exit_code == 0, result.output
    drawn, there = ((at / "comparison.svg").read_bytes() for at in (tmp_path / "kept", COMMITTED.parent))
    assert drawn == there
    told = run("--prompts", N, "comparison", "--out", tmp_path / "none")
    assert told.exit_code == 1 and "python -m scans_lens compare --out" in told.output.replace("\n", " ")
    ran = tmp_path / "run"
    ran.mkdir()
    (ran / "comparison.json").write_text(json.dumps(kept["numbers"]))
    result = run("--prompts", N, "comparison", "--compared", ran, "--out", tmp_path / "ran")
    assert result.exit_code == 0, result.output
    assert figures.load("comparison", tmp_path / "ran" / "measured") == kept
    assert comparison.write(kept["numbers"], tmp_path)[1].read_bytes() == there


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
            raise Refused("none of the words is there")
        return measure(name, study)

    monkeypatch.setattr(figures, "measure", failing)
    result = run("--prompts", N, "--out", tmp_path, "--only", "top_tokens,geometry")
    assert result.exit_code == 1
    assert "none of the words is there" in result.output
    assert (tmp_path / "geometry.png").is_file()
