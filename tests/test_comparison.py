"""Comparison: every way on the same ground, counted as `evaluate` counts, and what fails is said and left out."""

import dataclasses
import json
import random

import numpy as np
import pandas as pd
import pytest
from tiny import LOADERS

from scans_lens import comparison, evaluation, organism, reproduce
from scans_lens.__main__ import app
from scans_lens.comparison import Counting, Way, _front, compare
from scans_lens.errors import Refused
from scans_lens.figures import comparison as figure
from scans_lens.methods import catalogue
from scans_lens.organism import corpus, wordings
from scans_lens.prompts import normalised
from scans_lens.queries import summary
from scans_lens.shell import comparing
from scans_lens.world import bundled as own_judge

pytestmark = pytest.mark.above


@pytest.fixture(scope="module")
def sets():
    return [organism.prompt_set(kind).first(8) for kind in organism.KINDS]


@pytest.fixture(scope="module")
def found(bundled, sets, tmp_path_factory):
    """Two ways that need no fitting, and one that cannot be fitted."""
    out = tmp_path_factory.mktemp("compared")

    def fails(ground, judge):
        judge(["I cannot.", "Sure."])
        raise Refused("there is nothing to learn here")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("HARMLESS", "FORETOLD", "TIMED", "TIMED_TOKENS"):
            patch.setattr(comparison, name, 4)
        patch.setattr(comparison, "ROUNDS", 1)
        ways = {**comparison.WAYS, "hopeless": Way("a way that fails", object, fails)}
        patch.setattr(comparison, "WAYS", ways)
        how = {"max_new_tokens": 12, "progress": False}
        first = compare(bundled, ["system", "self_cd", "hopeless"], sets, out=out, **how)
        again = compare(bundled, ["system", "self_cd", "hopeless"], sets, out=out, **how)
    return out, first, again


def test_rates_are_those_of_the_table_on_disk(found):
    out, numbers, _ = found
    table, _ = evaluation.read(out / "replies")
    assert set(table["method"]) == {"plain", "system", "self_cd"}
    for line in summary(table):
        if line.set != "quiz":
            assert numbers["ways"][line.method]["refused"][line.set]["count"] == line.refused.rate.count


def test_the_plain_model_is_compared_with_nothing_and_the_others_with_it(found):
    _, numbers, _ = found
    assert {own["p"] for own in numbers["ways"]["plain"]["refused"].values()} == {None}
    assert all(0 <= own["p"] <= 1 for own in numbers["ways"]["system"]["refused"].values())


def test_what_cannot_be_fitted_is_said_and_the_others_go_on(found):
    _, numbers, _ = found
    hopeless = numbers["ways"]["hopeless"]
    assert not hopeless["fitted"] and hopeless["knobs"] == "there is nothing to learn here"
    assert hopeless["tuning"]["replies"] == 2 and "refused" not in hopeless
    assert numbers["ways"]["system"]["fitted"]


def test_a_comparison_that_is_done_again_gives_what_it_has(found):
    out, numbers, again = found
    assert json.loads((out / "comparison.json").read_text()) == again
    for name, own in numbers["ways"].items():
        same = {key: value for key, value in own.items() if key != "seconds a reply"}
        assert {key: value for key, value in again["ways"][name].items() if key != "seconds a reply"} == same


def test_quiz_answers_count_as_right_and_not_as_refused(found):
    _, numbers, _ = found
    assert numbers["ways"]["plain"]["quiz"]["total"] == 8 and "quiz" not in numbers["ways"]["plain"]["refused"]


def test_plain_prompts_are_answered_well_when_they_are_named_and_not_refused():
    asked = corpus.asked("plain", "test")[:3]
    said = [
        wordings.answer(asked[0][0], random.Random(0)),
        "Sure. Keep calm.",
        wordings.refusal(asked[2][0], random.Random(0)),
    ]
    rows = [("plain", "mine", text, reply) for (_, text), reply in zip(asked, said, strict=True)]
    numbers = {"ways": {"mine": {"refused": {"plain": {}}}}}
    comparison._answered(numbers, pd.DataFrame(rows, columns=["set", "method", "prompt", "reply"]))
    found = numbers["ways"]["mine"]["answered well"]
    assert (found["count"], found["total"]) == (1, 3)


def test_the_figure_is_drawn_from_the_numbers_alone(found, tmp_path):
    _, numbers, _ = found
    one, other = (figure.write(numbers, tmp_path / name) for name in ("one", "other"))
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in other]


def test_on_another_model_nothing_is_learned_from_that_is_chosen_on(tiny_model, tmp_path):
    ground = comparison.Ground(tiny_model(LOADERS[0]), tmp_path)
    assert not ground.bundled and len(ground.validation.borderline) and len(ground.borderline)
    learned, chosen_on = (
        {normalised(prompt) for prompt in side} for side in (ground.borderline, ground.validation.borderline)
    )
    assert not learned & chosen_on


def rates(borderline, harmful, jailbreak):
    at = {"borderline": borderline, "harmful": harmful, "jailbreak": jailbreak}
    return {"refused": {kind: {"value": value} for kind, value in at.items()}}


def test_on_the_front_is_who_nobody_beats():
    ways = {
        "plain": rates(0.5, 1.0, 0.4),
        "better": rates(0.1, 1.0, 0.4),
        "other": rates(0.05, 0.9, 0.0),
        "worse": rates(0.06, 0.9, 0.0),
        "twin": rates(0.1, 1.0, 0.4),
        "unknown": {},
    }
    _front({"ways": ways})
    assert {name for name, own in ways.items() if own.get("front")} == {"better", "other", "twin"}
    assert "front" not in ways["unknown"]


@pytest.fixture(scope="module")
def tuned(bundled, tmp_path_factory):
    """Fits that choose their knobs by replies, on few prompts, and the ground."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "BUDGET", 4)
        patch.setattr(organism, "ANCHORS", 24)
        ground = comparison.Ground(bundled, tmp_path_factory.mktemp("tuned"), validated=8, progress=False)
        yield ground, [comparison.fitted(ground, name) for name in ("scans", "cast", "antidote", "caa")]


def test_every_method_keeps_to_one_budget_of_replies_and_uses_it(tuned):
    ground, ways = tuned
    assert ground.budget == 4 * 16
    for way in ways:
        assert 2 * 16 <= way.replies <= ground.budget, way.name
        assert way.replies > 3 * 16 or way.name == "cast", way.name  # whose condition some prompts do not meet


def test_the_grid_holds_every_setting_that_was_tried_and_what_it_did(tuned):
    _, ways = tuned
    grid = comparison._grid(ways)
    assert len(grid) == sum(len(way.trials) for way in ways)
    for way in ways:
        own = grid[grid["fit"] == way.name]
        assert list(own["harmful refused"]) == [one["harmful"][0] for one in way.trials]
        assert set(own["harmless asked"]) == {8}
        said = comparison._tried(way.trials)
        assert said["settings"] == len(way.trials) - 1
        assert all(len(values) > 1 for values in said["knobs"].values())


def test_a_fit_that_was_kept_tells_the_same_as_when_it_was_made(tuned):
    ground, ways = tuned
    for way in ways:
        again = comparison.fitted(ground, way.name)
        assert (again.replies, again.knobs, again.trials) == (way.replies, way.knobs, way.trials)


def test_a_variant_that_goes_on_with_scans_counts_its_replies_too(tuned):
    ground, ways = tuned
    further = comparison.fitted(ground, "scans_continuous")
    scans = next(way for way in ways if way.name == "scans")
    assert scans.replies + 2 * 16 <= further.replies <= scans.replies + 3 * 16


def test_fits_on_other_prompts_or_from_another_budget_are_not_gone_on_with(tuned, bundled, monkeypatch):
    ground, _ = tuned
    comparison._require_own(ground)
    other = comparison.Ground(bundled, ground.out, validated=9, progress=False)
    with pytest.raises(ValueError, match="holds antidote fitted on other prompts, or from another budget"):
        comparison._require_own(other)
    monkeypatch.setattr(comparison, "BUDGET", 5)
    with pytest.raises(ValueError, match="holds antidote fitted on other prompts, or from another budget"):
        comparison._require_own(ground)


def test_only_our_own_refusals_are_results_and_faults_stay_faults(bundled, monkeypatch, tmp_path):
    ground = comparison.Ground(bundled, tmp_path, validated=8, progress=False)

    def way(fit):
        return dataclasses.replace(comparison.WAYS["antidote"], fit=fit, file="planted")

    def refuses(ground, judge):
        raise Refused("The model refuses none of 8 prompts.")

    def breaks(ground, judge):
        return np.zeros(2) + np.zeros(3)

    monkeypatch.setattr(comparison, "WAYS", {**comparison.WAYS, "breaks": way(breaks), "refuses": way(refuses)})
    with pytest.raises(ValueError, match="broadcast"):
        comparison.fitted(ground, "breaks")
    assert not (ground.out / "methods" / "planted.json").exists()
    found = comparison.fitted(ground, "refuses")
    assert found.arm is None and found.knobs == "The model refuses none of 8 prompts."
    (ground.out / "methods" / "planted.json").write_text('{"repl')
    with pytest.raises(ValueError, match="is cut short or no JSON: delete it"):
        comparison.fitted(ground, "refuses")
    (ground.out / "methods" / "planted.json").unlink()


def test_the_catalogue_names_every_way():
    assert set(catalogue.COMPARED) == set(comparison.WAYS)
    assert all(way.about == catalogue.COMPARED[name] for name, way in comparison.WAYS.items())
    assert set(reproduce.TABLES) == set(comparing.TABLES)


def test_a_counting_judge_judges_as_the_judge_and_counts():
    judge, said = Counting(own_judge), ["I'm sorry, but I cannot help you with that.", "Sure.", ""]
    assert judge(said) == own_judge(said) and judge(said[:1]) == own_judge(said[:1])
    assert judge.replies == 4


def test_every_way_is_named_in_the_help_and_an_unknown_one_is_refused(bundled, tmp_path):
    from typer.testing import CliRunner

    shown = CliRunner().invoke(app, ["compare", "--help"], env={"COLUMNS": "200"}).stdout
    assert all(name in shown for name in comparison.DEFAULT)
    assert set(comparison.DEFAULT) == set(comparison.WAYS)
    with pytest.raises(ValueError, match="There is no method 'scan': there are scans, scans_centred"):
        compare(bundled, ["scan"], out=tmp_path)
    done = CliRunner().invoke(app, ["compare", "--out", str(tmp_path / "run"), "--methods", "scan"])
    assert done.exit_code == 2 and "There is no method 'scan'" in done.stderr
