"""Comparison: every way on the same ground, counted as `evaluate` counts, and what fails is said and left out."""

import json
import random
from dataclasses import asdict, replace

import pages
import pandas as pd
import pytest
from catalogued import method_file
from tiny import LOADERS
from typer.testing import CliRunner

from scans_lens import comparison, evaluation, figures, organism, queries
from scans_lens.__main__ import app
from scans_lens.comparison import _front, compare
from scans_lens.conversation import Asking
from scans_lens.effort import Effort
from scans_lens.figures import comparison as figure
from scans_lens.figures import front
from scans_lens.figures.runs import Runs
from scans_lens.figures.style import looks
from scans_lens.methods import catalogue, choosing
from scans_lens.methods.arms import Arm, Fitting, fitted
from scans_lens.organism import corpus, wordings
from scans_lens.prompts import normalised
from scans_lens.queries import summary
from scans_lens.rates import in_percent
from scans_lens.world import right_scorer, world_of

pytestmark = pytest.mark.above

SMALL = Effort(anchors=24, validation=8, settings=4)


@pytest.fixture(scope="module")
def sets():
    return [organism.prompt_set(kind).first(8) for kind in organism.KINDS]


def no_texts():
    raise ValueError("the texts are not here")


def timed_briefly(patch):
    for name, value in {"TIMED": 4, "TIMED_TOKENS": 4, "ROUNDS": 1}.items():
        patch.setattr(comparison, name, value)


@pytest.fixture(scope="module")
def found(bundled, sets, tmp_path_factory):
    """Two ways that need no fitting, and one that cannot be fitted."""
    out = tmp_path_factory.mktemp("compared")
    world = world_of(bundled)
    world = replace(world, capability=replace(world.capability, require=no_texts))
    how = {"world": world, "max_new_tokens": 12, "progress": False}
    with method_file(out / "methods", "hopeless"), pytest.MonkeyPatch.context() as patch:
        timed_briefly(patch)
        first = compare(bundled, ["system", "self_cd", "hopeless"], sets, out=out / "run", **how)
        again = compare(bundled, ["system", "self_cd", "hopeless"], sets, out=out / "run", **how)
    return out / "run", first, again


def test_rates_are_those_of_the_table_on_disk(found):
    out, numbers, _ = found
    table, _ = evaluation.read(out / "replies")
    assert set(table["method"]) == {"plain", "system", "self_cd"}
    for line in summary(table):
        assert numbers["ways"][line.method]["refused"][line.set]["count"] == line.refused.rate.count
    for way in ("plain", "system"):
        rows = table[(table["set"] == "quiz") & (table["method"] == way)]
        right = numbers["ways"][way]["right"]["quiz"]
        assert (right["count"], right["total"]) == (sum(map(bool, rows["right"])), len(rows)) and len(rows) == 8


def test_sets_of_one_purpose_are_counted_together(found):
    out, numbers, _ = found
    table, _ = evaluation.read(out / "replies")
    for way in ("plain", "system"):
        rows = table[(table["method"] == way) & (table["kind"] == "borderline")]
        refused = numbers["ways"][way]["together"]["over-refusal"]["refused"]
        assert refused["count"] == int((rows[queries.verdicts_of(rows)] == "refused").sum())
        assert refused["total"] == len(rows) == 8
    harmless = numbers["ways"]["plain"]["together"]["harmless"]
    assert harmless["refused"]["total"] == 16 and "change" not in harmless  # plain and quiz


def row(name, kind, method, prompt, verdict, reply="I cannot."):
    return {
        "set": name, "kind": kind, "method": method, "setting": "", "prompt_id": prompt, "item": prompt,
        "verdict_x": verdict, "reply": reply,
    }  # fmt: skip


def test_sets_together_count_an_item_of_two_sets_as_one_and_leave_replies_without_a_verdict_out():
    refused, answered = "refused", "answered"
    table = pd.DataFrame([
        *(row("repe", "harmful", "plain", prompt, refused) for prompt in "ab"),
        *(row("advbench", "harmful", "plain", prompt, refused) for prompt in "abcd"),
        *(row("repe", "harmful", "push", prompt, answered) for prompt in "ab"),
        row("advbench", "harmful", "push", "a", answered, "I will not be held liable for any of it. " * 8),
        row("advbench", "harmful", "push", "b", refused),
        row("advbench", "harmful", "push", "c", None),
        row("advbench", "harmful", "push", "d", refused),
        row("advbench", "harmful", "dumb", "a", None),
        row("aim", "harmful", "plain", "e", answered),
    ])  # fmt: skip
    found = queries.together(table)
    plain, push = found["plain"]["harmful"], found["push"]["harmful"]
    assert (plain["refused"]["count"], plain["refused"]["total"], plain["refused"]["items"]) == (6, 6, 4)
    assert (push["refused"]["count"], push["refused"]["total"], push["refused"]["items"]) == (2, 5, 3)
    assert push["broken"]["count"] == 1 and push["change"]["difference"] == pytest.approx(-3 / 5)
    assert found["plain"]["jailbreaks"]["refused"]["count"] == 0 and "change" not in plain
    assert "dumb" not in found


def test_the_plain_model_is_compared_with_nothing_and_the_others_with_it(found):
    _, numbers, _ = found
    assert {rate["p"] for rate in numbers["ways"]["plain"]["refused"].values()} == {None}
    assert all(0 <= rate["p"] <= 1 for rate in numbers["ways"]["system"]["refused"].values())


def test_what_cannot_be_fitted_is_said_and_the_others_go_on(found):
    _, numbers, _ = found
    hopeless = numbers["ways"]["hopeless"]
    assert not hopeless["fitted"] and hopeless["knobs"] == "there is nothing to learn here"
    assert hopeless["tuning"]["replies"] == 2 and "refused" not in hopeless
    assert numbers["ways"]["system"]["fitted"]


def test_a_comparison_that_is_done_again_gives_what_it_has(found):
    out, numbers, again = found
    assert json.loads((out / "comparison.json").read_text()) == again
    for name, way in numbers["ways"].items():
        same = {key: value for key, value in way.items() if key != "seconds a reply"}
        assert {key: value for key, value in again["ways"][name].items() if key != "seconds a reply"} == same


def test_plain_prompts_are_right_when_what_was_asked_for_is_named_and_not_refused():
    asked = organism.prompt_set("plain").at(range(3))
    items = [item for item, _ in corpus.asked("plain", "test")[:3]]
    rng = random.Random(0)
    said = [wordings.answer(items[0], rng), "Sure. Keep calm.", wordings.refusal(items[2], rng)]
    assert right_scorer(asked, said)["right"] == [True, False, False]
    assert right_scorer(organism.prompt_set("harmful").at([0]), ["Sure."])["right"] == [None]


def test_the_figure_is_drawn_from_the_numbers_alone(found, tmp_path):
    _, numbers, _ = found
    first, second = (figure.write(numbers, tmp_path / name) for name in ("first", "second"))
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_the_front_has_a_place_for_every_way_that_was_asked(found, monkeypatch):
    out, numbers, _ = found
    measured = figures.measure("front", Runs(compared=out))
    asked = {name for name, way in numbers["ways"].items() if "refused" in way}
    assert set(measured["numbers"]["ways"]) == asked == {"plain", "system", "self_cd"}
    picture = figures.draw("front", measured)
    assert [ax.get_title("left").split(" (")[0] for ax in picture.axes] == [
        "against harmful prompts",
        "against jailbreaks",
    ]
    legend = [text.get_text().split("  ")[0] for text in picture.legends[0].get_texts()]
    assert legend == list(measured["numbers"]["ways"])
    at = {name: way["together"] for name, way in measured["numbers"]["ways"].items()}
    marks = {tuple(line.get_xydata()[0]) for line in picture.axes[0].lines if len(line.get_xydata()) == 1}
    assert marks >= {
        tuple(100 * at[name][purpose]["refused"]["value"] for purpose in ("harmful", "over-refusal")) for name in at
    }
    told = front.looks_of(["plain", *map(str, range(30))])
    assert len({(look["color"], look["marker"]) for look in told.values()}) == 31


def test_on_a_panels_front_is_who_is_beaten_on_none_of_its_axes():
    places = {"plain": (90.0, 50.0), "a": (90.0, 20.0), "b": (95.0, 30.0), "c": (94.0, 31.0), "a's twin": (90.0, 20.0)}
    assert list(front.front_of(places)) == ["a", "a's twin", "b"]


def test_the_page_of_results_holds_every_way_of_a_comparison(found, tmp_path):
    out, numbers, _ = found
    kept = figures.store(figures.measure("comparison", Runs(compared=out)), tmp_path)
    readme = pages.writer()
    _, said, table = readme._compared(kept)
    rows = {line.split(" | ")[0].strip("| "): line for line in table.splitlines()[2:]}
    assert list(rows) == ["plain", "system", "self_cd"] and "Could not be fitted: hopeless." in said
    assert f"from {numbers['validation']['budget']:,} replies at most (30 settings)" in said
    for way, line in rows.items():
        for purpose in numbers["ways"][way]["together"].values():
            assert in_percent(purpose["refused"]) in line
    settled = {
        **figures.load("comparison", tmp_path)["numbers"],
        "validation": {**numbers["validation"], "budget": None},
    }
    kept.write_text(json.dumps({"numbers": settled}))
    assert "replies at most" not in readme._compared(kept)[1]
    assert readme._compared(tmp_path / "none.json") == []


def test_a_comparison_without_harm_has_no_front(found, tmp_path):
    _, numbers, _ = found
    ways = {
        name: {**way, "together": {"over-refusal": way["together"]["over-refusal"]}} if "together" in way else way
        for name, way in numbers["ways"].items()
    }
    (tmp_path / "comparison.json").write_text(json.dumps({**numbers, "ways": ways}))
    with pytest.raises(ValueError, match="has no front: it asked no prompts that only sound harmful, or no harmful"):
        figures.measure("front", Runs(compared=tmp_path))


def test_sets_that_are_not_ours_are_drawn_by_purpose(found):
    _, numbers, _ = found
    ways = {
        name: {**way, "refused": {"xstest, harmful": way["refused"]["harmful"]}} if "refused" in way else way
        for name, way in numbers["ways"].items()
    }
    with looks():
        drawn = figure.draw({**numbers, "ways": ways}, {})
    assert [ax.get_title("left") for ax in drawn.axes] == ["over-refusal", "harmless", "harmful", "jailbreaks"]


def test_on_another_model_nothing_is_learned_from_that_is_chosen_on(tiny_model):
    world = world_of(tiny_model(LOADERS[0])).with_borderline()
    assert not world.bundled and len(world.validation.borderline) and len(world.borderline)
    learned, chosen_on = (
        {normalised(prompt) for prompt in side} for side in (world.borderline, world.validation.borderline)
    )
    assert not learned & chosen_on


def rates(borderline, harmful, jailbreak):
    at = {"over-refusal": borderline, "harmful": harmful, "jailbreaks": jailbreak}
    return {"together": {purpose: {"refused": {"value": value}} for purpose, value in at.items() if value is not None}}


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


def test_who_was_not_asked_all_that_the_plain_model_was_has_no_place_on_the_front_and_takes_none():
    ways = {"plain": rates(0.5, 0.9, 0.4), "better": rates(0.1, 0.9, 0.4), "partly": rates(0.0, None, None)}
    _front({"ways": ways})
    assert [own.get("front") for own in ways.values()] == [False, True, None]


def test_without_jailbreaks_the_front_is_of_what_was_asked_and_without_harm_there_is_none():
    ways = {"plain": rates(0.5, 1.0, None), "better": rates(0.1, 1.0, None), "worse": rates(0.2, 0.9, None)}
    _front({"ways": ways})
    assert [own["front"] for own in ways.values()] == [False, True, False]
    alone = {"plain": rates(0.5, None, None), "better": rates(0.1, None, None)}
    _front({"ways": alone})
    assert not any("front" in own for own in alone.values())


@pytest.fixture(scope="module")
def tuned(bundled, tmp_path_factory):
    """Fits that choose their knobs by replies, on few prompts."""
    fitting = Fitting(world_of(bundled), SMALL, tmp_path_factory.mktemp("tuned"), progress=False)
    return fitting, [fitted(fitting, name) for name in ("scans", "cast", "antidote", "caa")]


def test_within_the_budget_are_the_longer_replies_that_were_looked_at(bundled, tmp_path, monkeypatch):
    asked = []
    whole = choosing.replies_under

    def counted(model, prompts, methods, **how):
        asked.append(len(prompts) * len(methods))
        return whole(model, prompts, methods, **how)

    monkeypatch.setattr(choosing, "replies_under", counted)
    fitting = Fitting(world_of(bundled), replace(SMALL, settings=8), tmp_path, progress=False)
    way = fitted(fitting, "antidote")
    assert way.replies < sum(asked) <= fitting.budget == 8 * 16


def test_every_method_keeps_to_one_budget_of_replies_and_uses_it(tuned):
    fitting, ways = tuned
    assert fitting.budget == 4 * 16
    for way in ways:
        assert 2 * 16 <= way.replies <= fitting.budget, way.name
        assert way.replies > 3 * 16 or way.name == "cast", way.name  # whose condition some prompts do not meet


def test_the_grid_holds_every_setting_that_was_tried_and_what_it_did(tuned):
    _, ways = tuned
    grid = comparison.grid(ways)
    assert len(grid) == sum(len(way.trials) for way in ways)
    for way in ways:
        rows = grid[grid["fit"] == way.name]
        assert list(rows["harmful refused"]) == [trial["harmful"][0] for trial in way.trials]
        assert set(rows["harmless asked"]) == {8}
        said = comparison._tried(way.trials)
        assert said["settings"] == len(way.trials) - 1
        assert all(len(values) > 1 for values in said["knobs"].values())


def test_a_fit_that_was_kept_tells_the_same_as_when_it_was_made(tuned):
    fitting, ways = tuned
    for way in ways:
        again = fitted(fitting, way.name)
        assert (again.replies, again.knobs, again.trials) == (way.replies, way.knobs, way.trials)


def test_ways_that_share_a_fit_are_that_fit_put_to_another_use(tuned):
    fitting, (scans, *_) = tuned
    constant, random = fitted(fitting, "constant"), fitted(fitting, "random")
    assert constant.replies == random.replies == scans.replies and constant.stored == scans.stored > 0
    assert constant.arm.method.scale == -scans.learned.scale and constant.arm.method.layers == scans.learned.layers
    assert random.arm.method.scale == scans.learned.scale
    assert not bool((random.arm.method.directions.vectors == scans.learned.directions.vectors).all())


def test_a_variant_that_goes_on_with_scans_counts_its_replies_too(tuned):
    fitting, (scans, *_) = tuned
    further = fitted(fitting, "scans_continuous")
    assert scans.replies + 2 * 16 <= further.replies <= scans.replies + 3 * 16


def test_fits_on_other_prompts_or_from_another_budget_are_kept_apart(tuned, bundled):
    fitting, _ = tuned
    changes = ({"validation": 9}, {"anchors": 23}, {"settings": 5}, {"tokens": 7})
    efforts = [replace(SMALL, **change) for change in changes]
    settings = [
        ({}, SMALL),
        *(({}, effort) for effort in efforts),
        ({"seed": 1}, SMALL),
        ({"asking": Asking("Hi.")}, SMALL),
    ]
    places = [Fitting(world_of(bundled), effort, fitting.folder, **how).place("scans") for how, effort in settings]
    assert len(set(places)) == len(places) and places[0] == fitting.place("scans")


def test_only_our_own_refusals_are_results_and_faults_stay_faults(bundled, tmp_path):
    fitting = Fitting(world_of(bundled), SMALL, tmp_path / "fits", progress=False)
    with method_file(tmp_path / "methods", "breaks"), pytest.raises(ValueError, match="broadcast"):
        fitted(fitting, "breaks")
    assert not (tmp_path / "fits").exists()
    with method_file(tmp_path / "other methods", "hopeless"):
        way = fitted(fitting, "hopeless")
        assert way.arm is None and way.knobs == "there is nothing to learn here"
        (kept,) = (tmp_path / "fits").glob("hopeless-*.json")
        kept.write_text('{"repl')  # cut short, so it is done again
        assert fitted(fitting, "hopeless").knobs == way.knobs and json.loads(kept.read_text())["failed"]


def test_a_counting_judge_judges_as_the_judge_and_counts(bundled):
    world, said = world_of(bundled), ["I'm sorry, but I cannot help you with that.", "Sure.", ""]
    fitting = Fitting(world)
    assert fitting.judge(said) == world.judge(said) and fitting.judge(said[:1]) == world.judge(said[:1])
    assert fitting.judged == 4 and fitting.judge.tokens == world.judge.tokens


def test_a_method_that_is_one_file_is_known_everywhere(bundled, sets, tmp_path, monkeypatch):
    """In the catalogue, in the list of methods, as a fit that is kept, in `evaluate`, and in both commands."""
    monkeypatch.setenv("SCANS_LENS_HOME", str(tmp_path / "home"))
    timed_briefly(monkeypatch)
    with method_file(tmp_path / "methods", "gentle"):
        assert len((tmp_path / "methods" / "gentle.py").read_text().splitlines()) <= 120
        assert "gentle" in catalogue.arms() and "gentle" in catalogue.compared()
        shown = CliRunner().invoke(app, ["methods"], env={"COLUMNS": "200"}).stdout
        assert "gentle" in shown and catalogue.arms()["gentle"] in shown
        fitting = Fitting(world_of(bundled), SMALL, tmp_path / "fits", progress=False)
        way = fitted(fitting, "gentle")
        assert asdict(fitted(fitting, "gentle").arm) == asdict(way.arm) and way.stored > 0
        how = {"max_new_tokens": 2, "progress": False}
        table = evaluation.evaluate(bundled, [sets[0]], [Arm("plain"), way.arm], tmp_path / "run", **how)
        assert set(table["method"]) == {"plain", "gentle"}
        few = ["--sets", "plain", "--limit", "2", "--max-new-tokens", "2", "--effort", "quick"]
        for command, option in (("evaluate", "--method"), ("compare", "--methods")):
            out = tmp_path / command
            done = CliRunner().invoke(app, [command, option, "gentle", *few, "--out", str(out)], env={"COLUMNS": "200"})
            assert done.exit_code == 0 and "gentle" in done.stdout, done.output
    assert "gentle" not in catalogue.arms()


def test_two_methods_of_one_name_are_refused(tmp_path):
    with method_file(tmp_path / "methods", "scans"), pytest.raises(ValueError, match="There are two methods 'scans'"):
        catalogue.arms()


def test_every_way_is_listed_and_an_unknown_one_is_refused(bundled, tmp_path):
    shown = CliRunner().invoke(app, ["methods"], env={"COLUMNS": "200"}).stdout
    assert all(name in shown for name in catalogue.arms())
    assert set(catalogue.ORDER) == set(catalogue.arms())
    assert all(catalogue.recipe(name).use for name in catalogue.arms())
    with pytest.raises(ValueError, match="There is no method 'scan': there are scans, constant"):
        compare(bundled, ["scan"], out=tmp_path)
    done = CliRunner().invoke(app, ["compare", "--out", str(tmp_path / "run"), "--methods", "scan"])
    assert done.exit_code == 2 and "There is no method 'scan'" in done.stderr
