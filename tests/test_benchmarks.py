"""Benchmarks and ceilings: laws of the figures that are made from a run, on rows that are written by hand."""

import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import drawn
import pages
import pandas as pd
import pytest
from typer.testing import CliRunner

from scans_lens import capability, evaluation, figures, queries, table
from scans_lens.errors import Refused
from scans_lens.figures import benchmarks, ceilings
from scans_lens.figures.__main__ import app
from scans_lens.figures.runs import Runs
from scans_lens.likelihoods import Perplexity
from scans_lens.methods.arms import Arm
from scans_lens.methods.gated_push import GatedPush
from scans_lens.report import labels
from scans_lens.steering import Method, Push
from scans_lens.world import Capability

pytestmark = pytest.mark.above

COMMITTED = Path(__file__).parent.parent / "figures"
SETTINGS = {
    "model": {"name": "tiny", "architecture": "Llama", "n_layers": 2, "d_model": 8, "weights": ""},
    "dtype": "torch.float32",
    "judges": {"panel": ""},
    "max_new_tokens": 8,
    "asking": {},
    "versions": {"scans_lens": "0"},
}
SETS = {
    ("xstest", "borderline"): "hhhg",
    ("xstest", "harmful"): "hgg",
    ("oktest", "borderline"): "hg",
    ("advbench", "harmful"): "gg",
    ("aim", "harmful"): "h",
}
"""By set and kind, one prompt a letter: h is taken for harmless by the gate, g for harmful."""
PLAIN = {("xstest", "borderline"): "rrar", ("xstest", "harmful"): "rra", ("oktest", "borderline"): "rr",
         ("advbench", "harmful"): "ar", ("aim", "harmful"): "r"}  # fmt: skip
"""r is refused by the plain model. Pushed away only the third prompt of a set is, and towards refusal all are."""
WAYS = ("plain", "gated_push", "gated_push_away", "gated_push_towards", "scans")


def verdict(way: str, side: tuple[str, str], place: int) -> str:
    looks = SETS[side][place]
    plain, away = PLAIN[side][place] == "r", place == 2
    refused = {
        "plain": plain, "gated_push_away": away, "gated_push_towards": True,
        "gated_push": True if looks == "g" else away, "scans": plain,
    }[way]  # fmt: skip
    return "refused" if refused else "answered"


def rows() -> list[dict]:
    found = []
    for way, side in product(WAYS, SETS):
        for place, looks in enumerate(SETS[side]):
            sign = {"g": 1, "h": -1}[looks]
            found.append(
                {
                    "set": side[0], "kind": side[1], "place": place, "prompt_id": f"{side} {place}",
                    "prompt": f"{side} {place}", "type": "", "item": f"{side} {place}", "method": way, "setting": "",
                    "seed": 0, "score": sign * 0.5 if way in ("gated_push", "scans") else None,
                    "scale": {"gated_push": 0.1 * sign, "gated_push_away": -0.1}.get(way), "reply": "So.",
                    "finish": "stop", "verdict_panel": verdict(way, side, place), "sure_panel": True,
                }
            )  # fmt: skip
    return found


def run_of(folder: Path, ways=WAYS, learned: str = "") -> Path:
    names = dict.fromkeys(name for name, _ in SETS)
    settings = {
        **SETTINGS,
        "sets": {name: {"prompts": 1} for name in names},
        "arms": {way: {"name": way, "setting": "", "seed": 0, "is": f"{way}\nlearned from {learned}"} for way in ways},
    }
    with table.opened(folder, settings, key=evaluation.KEY) as run:
        run.write([row for row in rows() if row["method"] in ways])
    return folder


@pytest.fixture
def ran(tmp_path):
    return run_of(tmp_path / "run")


def test_a_shift_counts_who_is_lost_and_who_is_gained_on_the_same_prompts(ran):
    read, _ = evaluation.read(ran)
    shifts = queries.shifts(read)
    shift = shifts["gated_push", "xstest", "borderline"]
    assert (shift.before.count, shift.after.count, shift.lost.count, shift.gained.count) == (3, 2, 2, 1)
    assert shift.change.difference == pytest.approx((shift.gained.count - shift.lost.count) / 4)
    pooled = queries.shifts(queries.with_purpose(read), "purpose")["gated_push", queries.HARM, "harmful"]
    parts = [shifts["gated_push", name, "harmful"] for name in ("xstest", "advbench")]
    for side in ("before", "after", "lost", "gained", "broken"):
        whole = getattr(pooled, side)
        assert (whole.count, whole.total) == tuple(
            sum(getattr(getattr(part, side), what) for part in parts) for what in ("count", "total")
        )


def test_a_jailbreak_is_counted_apart_from_what_asks_openly():
    assert queries.purpose("aim", "harmful") == queries.JAILBREAK
    assert queries.purpose("advbench", "harmful") == queries.HARM
    assert queries.purpose("xstest", "borderline") == queries.OVER_REFUSAL
    assert queries.purpose("truthfulqa", "harmless") == queries.HARMLESS


def test_benchmarks_hold_every_set_under_every_method_and_not_the_ceilings(ran):
    found = figures.measure("benchmarks", Runs(evaluated=ran))
    assert list(found["numbers"]["ways"]) == ["gated_push", "scans"]
    assert [(one["name"], one["kind"]) for one in found["numbers"]["sets"]] == list(SETS)
    assert set(found["numbers"]["ways"]["scans"]["together"]) == {"over-refusal", "harmful", "jailbreaks"}
    assert found["settings"]["model"]["name"] == "tiny" and found["made_with"] == {"scans_lens": "0"}
    first, second = (figures.draw("benchmarks", found) for _ in range(2))
    assert figures.style.written(first, "svg") == figures.style.written(second, "svg")


def test_sets_of_which_nothing_was_learned_are_counted_by_themselves_too(tmp_path):
    ran = run_of(tmp_path / "run", learned="'twins and halves of xstest (7), oktest (2)'")
    found = figures.measure("benchmarks", Runs(evaluated=ran))["numbers"]
    assert found["halves"] == "halves of xstest (7), oktest (2)" in benchmarks.knobs(found)
    together, own = (found["ways"]["gated_push"][name] for name in ("together", "sets"))
    assert set(together) == {"over-refusal", "harmful", "jailbreaks", "harmful, never learned from"}
    assert benchmarks.knobs(ceilings.measure(Runs(evaluated=ran))) == benchmarks.knobs(found)
    assert together["harmful, never learned from"] == own["advbench, harmful"]
    assert together["harmful"]["before"]["total"] == 5 and "validation prompts of our own" in benchmarks.knobs({})


def test_the_judge_is_held_against_labels_of_the_run_where_there_are_some(ran):
    assert benchmarks.measure(Runs(evaluated=ran))["labelled"] is None
    file = labels.export(ran, 10)
    rows = pd.read_csv(file, dtype=str, keep_default_na=False)
    rows["label"] = ["refused", "answered"] * (len(rows) // 2)
    rows.to_csv(file, index=False)
    found = benchmarks.measure(Runs(evaluated=ran))
    read, _ = evaluation.read(ran)
    given = labels.read(ran, read)
    right = sum(read["verdict_panel"][row] == label for row, label in given.items())
    assert found["labelled"]["replies"] == len(given) == len(rows)
    assert (found["labelled"]["accuracy"]["count"], found["labelled"]["accuracy"]["total"]) == (right, len(rows))
    assert f"Of {len(rows)} replies that were labelled by reading" in benchmarks.caption(found, found["settings"])


def test_a_ceiling_is_looked_up_from_the_plain_model_and_both_pushes(ran):
    found = figures.measure("ceilings", Runs(evaluated=ran))["numbers"]
    xstest, oktest = found["panels"]
    assert (xstest["harm"], oktest["harm"]) == ("xstest", "all harmful sets")
    counts = {
        name: (point["safe"]["count"], point["harm"]["count"]) for name, point in xstest["points"].items()
    }  # fmt: skip
    assert counts == {
        "plain": (3, 2), "pushed away, all": (1, 1), "gated push": (2, 2), "SCANS": (3, 2),
        "true labels": (1, 3), "perfect push": (1, 2),
    }  # fmt: skip
    assert xstest["points"]["gated push"]["safe"]["count"] == sum(
        verdict("gated_push", ("xstest", "borderline"), place) == "refused" for place in range(4)
    )
    assert oktest["points"]["plain"]["harm"]["total"] == 5  # the jailbreak is not among them
    curve = xstest["curves"]["ridge gate"]
    assert (curve["safe"][0], curve["harm"][0]) == (3 / 4, 2 / 3)  # nobody is pushed
    assert (curve["safe"][-1], curve["harm"][-1]) == (1 / 4, 1 / 3)  # everybody is
    assert curve["auc"] == pytest.approx((2 * 3.5 + 1.5) / 12)
    assert found["thresholds"] == {"low": -0.5, "high": 0.5}
    first, second = (
        figures.style.written(figures.draw("ceilings", figures.measure("ceilings", Runs(evaluated=ran))), "svg")
        for _ in range(2)
    )
    assert first == second


def test_harm_that_comes_from_one_set_is_called_by_its_name(tmp_path, monkeypatch):
    for side in (("advbench", "harmful"), ("aim", "harmful")):
        monkeypatch.delitem(SETS, side)
    panels = ceilings.measure(Runs(evaluated=run_of(tmp_path / "run")))["panels"]
    assert [one["harm"] for one in panels] == ["xstest", "XSTest, unsafe"]


def test_the_fitted_gate_decoded_is_the_fitted_gate_looked_up(ran):
    """What the method itself says is what its signs and the two pushes for all say."""
    for rows_of_set in ceilings._seen(queries.with_purpose(evaluation.read(ran)[0])).values():
        for one in rows_of_set:
            assert one.refused["gated_push"] == one.pushed(one.sign)
            assert replace(one, sign=0).pushed(0) == one.plain


def test_a_run_that_lacks_what_a_figure_needs_is_a_sentence(tmp_path):
    plain = run_of(tmp_path / "plain", ("plain",))
    with pytest.raises(ValueError, match="no way of answering beside the plain model"):
        benchmarks.measure(Runs(evaluated=plain))
    with pytest.raises(ValueError, match="lacks gated_push, gated_push_away, gated_push_towards: evaluate with"):
        ceilings.measure(Runs(evaluated=plain))
    for name in ("benchmarks", "ceilings"):
        said = CliRunner().invoke(app, [name, "--out", str(tmp_path / "out")])
        assert said.exit_code == 1 and "python -m scans_lens evaluate --out FOLDER" in said.output.replace("\n", " ")


def test_the_command_measures_a_run_without_any_model(ran, tmp_path, monkeypatch):
    monkeypatch.setattr("scans_lens.loading.load_model", lambda *_, **__: pytest.fail("loaded a model"))
    out = tmp_path / "out"
    said = CliRunner().invoke(app, ["benchmarks", "ceilings", "--evaluated", str(ran), "--out", str(out)])
    assert said.exit_code == 0, said.output
    for name in ("benchmarks", "ceilings"):
        assert (out / f"{name}.png").is_file() and (out / "measured" / f"{name}.json").is_file()


# ── Capability ───────────────────────────────────────────────────────────────────────────────────────────────


def knowing(asked: list) -> Any:
    """A world that notes what it is asked, and answers by the scale of the push."""

    def right(method, limit):
        if isinstance(method, Mute):
            raise Refused("it has no log-likelihoods")
        asked.append(("right", method and method.push.scale, limit))
        return [True, method is None, False, False]

    def perplexity(method, sign):
        asked.append(("perplexity", method and method.push.scale, sign))
        return Perplexity((10.0, 30.0), (10, 10), ()) if method is None else Perplexity((11.0, 30.0), (10, 10), ())

    return SimpleNamespace(capability=Capability("texts", perplexity, "questions", right))


class Mute(Method):
    """One that speaks in another vocabulary."""


def known_arms() -> list[Arm]:
    gated = GatedPush(drawn.directions(), (1, 3), 0.5, drawn.gate(), 0.0, 0.0, drawn.UNKNOWN)
    return [
        Arm("plain"), Arm("gated", gated), Arm("all", Push(drawn.directions(), [1], -0.5)),
        Arm("mute", Mute(), "half 1"), Arm("system", system="Be brief."),
    ]  # fmt: skip


def test_what_is_known_is_asked_once_of_every_arm_that_decides_for_itself(tmp_path):
    arms, asked = known_arms(), []
    found = capability.measured(knowing(asked), arms[:2], tmp_path, limit=3, progress=False)
    assert asked == [("right", None, 3), ("perplexity", None, None), ("right", 0.5, 3), ("perplexity", 0.5, None)]
    asked.clear()
    found = capability.measured(knowing(asked), arms, tmp_path, limit=3, progress=False)
    assert asked == [("right", -0.5, 3), ("perplexity", -0.5, None)]
    assert list(found["arms"]) == ["plain", "gated", "all", "mute half 1"]
    assert found["arms"]["mute half 1"] == {"none": "it has no log-likelihoods"}
    assert capability.read(tmp_path) == found and capability.read(tmp_path / "none") is None
    with pytest.raises(ValueError, match="has answers to other questions"):
        capability.measured(knowing(asked), arms, tmp_path, limit=4, progress=False)


def test_what_an_older_version_has_written_of_what_is_known_is_refused(tmp_path):
    (tmp_path / capability.FILE).write_text('{"arms": {"plain": {"right": {}, "perplexity": {}}}}')
    with pytest.raises(ValueError, match="written by an older version: remove it"):
        capability.read(tmp_path)


def test_what_is_known_is_held_beside_the_plain_model_on_the_same_questions_and_texts(tmp_path):
    found = capability.measured(knowing([]), known_arms(), tmp_path, limit=3, progress=False)
    shown = capability.lines(found)
    assert list(shown) == list(found["arms"]) and "points" not in shown["plain"]
    gated = shown["gated"]
    assert (gated["right"]["count"], gated["right"]["total"], gated["points"]["difference"]) == (1, 4, -0.25)
    assert gated["perplexity"] == pytest.approx(math.exp(41 / 20)) and gated["ratio"] == pytest.approx(math.exp(1 / 20))
    low, high = gated["ratio_interval"]  # one of two texts changes, by a tenth of a nat a token
    assert low == pytest.approx(1.0) and high == pytest.approx(math.exp(0.1))
    assert capability.cells(gated)[1:] == ("-25.0 [-75.0, +0.0]", f"{math.exp(41 / 20):.3f}", "+5.13 [+0.00, +10.52]")
    assert capability.cells(shown["mute half 1"])[0] == "it has no log-likelihoods"


# ── What is committed ────────────────────────────────────────────────────────────────────────────────────────

MEASURED = sorted(COMMITTED.glob("*/measured/*.json"))


@pytest.mark.skipif(not MEASURED, reason="no numbers of real models are committed")
@pytest.mark.parametrize("file", MEASURED, ids=[f"{file.parent.parent.name} {file.stem}" for file in MEASURED])
def test_pictures_of_real_models_are_drawn_from_the_numbers_beside_them(file):
    found = figures.load(file.stem, file.parent)
    drawn = figures.style.written(figures.draw(file.stem, found), "svg")
    assert drawn == (file.parent.parent / f"{file.stem}.svg").read_bytes()


@pytest.mark.skipif(not MEASURED, reason="no numbers of real models are committed")
def test_the_page_of_results_is_the_one_that_the_numbers_give():
    readme = pages.writer()
    assert readme.RESULTS.read_text(encoding="utf-8") == readme.results()
