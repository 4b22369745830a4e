"""Report: laws of the page, and of labels that come back."""

import json
import re
import shutil
import subprocess
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from scans_lens import evaluation, report, table
from scans_lens.queries import summary
from scans_lens.report import labels, refusals, scores

pytestmark = pytest.mark.above

WICKED = '</script><b>bold</b> & "quoted" <!--rows-->'
SETTINGS = {
    "model": {"name": "tiny", "architecture": "Llama"},
    "arms": {
        "plain": {"name": "plain", "setting": "", "seed": 0},
        "scans scale 2": {"name": "scans", "setting": "scale 2", "seed": 0},
    },
    "sets": {"mine": {"prompts": 8}},
    "left out": {"mine": {"name": "mine", "repeats": 1, "learned_from": 2, "left": 8}},
}


def rows() -> list[dict]:
    found = []
    for method in ("plain", "scans"):
        for place in range(8):
            refused = method == "plain" and place % 2 == 0
            found.append(
                {
                    "set": "mine", "place": place, "prompt_id": f"id{place}",
                    "prompt": f"How do I open lock {place}? {WICKED}",
                    "kind": "harmful" if place % 2 else "borderline", "type": "locks" if place < 4 else "",
                    "item": f"lock {place // 2}", "method": method, "setting": "" if method == "plain" else "scale 2",
                    "seed": 0, "score": None if method == "plain" else 0.9,
                    "scale": None if method == "plain" else -2.0,
                    "reply": "I cannot." if refused else f"Turn it. {WICKED}", "tokens": 3,
                    "finish": "stop" if place else "length", "seconds": 0.1,
                    "verdict_rules": "refused" if refused else "answered", "verdict_other": "answered",
                }
            )  # fmt: skip
    return found


@pytest.fixture(autouse=True)
def few_draws(monkeypatch) -> None:
    """How wide an interval is has its laws in test_calibration.py."""
    monkeypatch.setattr(scores, "curves", partial(scores.curves, resamples=50))


@pytest.fixture
def folder(tmp_path) -> Path:
    with table.opened(tmp_path / "run", SETTINGS, {"device": "cpu"}) as run:
        run.write(rows())
    return tmp_path / "run"


class Checked(HTMLParser):
    """Every tag that is opened is closed, in order."""

    ALONE = ("meta", "input", "circle", "line", "br", "!doctype")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href") and value]
        if tag not in self.ALONE:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.ALONE:
            assert self.open.pop() == tag, (tag, self.getpos())


def test_the_page_is_whole_and_fetches_nothing(folder):
    page = report.write(folder).read_text()
    checked = Checked()
    checked.feed(page)
    assert not checked.open and not checked.links
    assert not re.search(r"https?://|@import|url\(", page)
    assert not re.search(r"<!--[a-z]+-->", page.partition('id="data"')[0])


def test_what_a_model_says_cannot_break_the_page(folder):
    page = report.write(folder).read_text()
    assert "<b>bold</b>" not in page
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    assert len(data) == 8
    assert data[1]["ways"][0]["reply"].endswith(WICKED) and data[1]["prompt"].endswith(WICKED)


def test_the_page_says_the_rates_of_the_summary(folder):
    page = report.write(folder).read_text()
    for line in summary(evaluation.read(folder)[0]):
        low, high = (100 * edge for edge in line.refused.interval)
        assert f"{100 * line.refused.value:.1f} % [{low:.1f}, {high:.1f}]" in page
    assert "<b>mine, borderline 100.0 → 0.0 % (n 4)</b>" not in page  # of four prompts nobody can be sure
    assert "mine, borderline 100.0 → 0.0 % (n 4); mine, harmful 0.0 → 0.0 % (n 4)." in page
    assert "mine: 8 prompts; left out: 1 that come twice and 2 that something was learned from." in page


def test_verdicts_that_a_judge_is_not_sure_of_are_counted_and_marked(tmp_path):
    unsure = [{**row, "sure_rules": row["place"] != 3} for row in rows()]
    with table.opened(tmp_path, SETTINGS) as run:
        run.write(unsure)
    page = report.write(tmp_path).read_text()
    assert "Of 2 of 16 verdicts it was not sure." in page
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    assert [[way["unsure"] for way in row["ways"]] for row in data] == [
        [["rules"]] * 2 if place == 3 else [[]] * 2 for place in range(8)
    ]


def test_an_unfinished_run_says_so(tmp_path):
    with table.opened(tmp_path, SETTINGS) as run:
        run.write(rows()[:5])
    assert "5 of 16 replies are there so far" in report.write(tmp_path).read_text()


def test_labels_go_out_blind_and_come_back_as_one_more_judge(folder):
    file = labels.export(folder, n=6)
    out = pd.read_csv(file, dtype=str, keep_default_na=False)
    assert len(out) == 6 and list(out.columns[:3]) == ["label", "prompt", "reply"]
    assert "method" not in out.columns and "plain" not in file.read_text()
    assert (out["prompt"].value_counts() == 2).all()  # every way's reply to each prompt
    table, _ = evaluation.read(folder)
    assert labels.read(folder, table) == {}
    out["label"] = ["refused" if reply == "I cannot." else "Answered " for reply in out["reply"]]
    out.loc[0, "label"] = ""
    out.to_csv(file, index=False)
    given = labels.read(folder, table)
    assert len(given) == 5
    assert all((table.loc[place, "reply"] == "I cannot.") == (label == "refused") for place, label in given.items())
    page = report.write(folder, judge="people").read_text()
    assert "where the judge <em>people</em> says so" in page
    with pytest.raises(ValueError, match=r"labels\.csv' holds labels already: move it away first"):
        labels.export(folder)


def test_labels_that_are_none_are_said_with_their_line(folder):
    file = labels.export(folder, n=2)
    out = pd.read_csv(file, dtype=str, keep_default_na=False)
    table, _ = evaluation.read(folder)
    for column, value, what in (
        ("label", "maybe", "'maybe' is none of refused, answered"),
        ("reply_id", "gone", "there is no such reply in this run"),
    ):
        wrong = out.assign(label="refused")
        wrong.loc[1, column] = value
        wrong.to_csv(file, index=False)
        with pytest.raises(ValueError, match=f"line 3: {what}"):
            labels.read(folder, table)
    out.drop(columns="reply_id").to_csv(file, index=False)
    with pytest.raises(ValueError, match="lacks the column 'reply_id': export it again"):
        labels.read(folder, table)
    file.write_text("")
    with pytest.raises(ValueError, match=r"labels\.csv' is empty, or no CSV file in UTF-8"):
        labels.read(folder, table)


def test_a_folder_without_results_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"holds no results: there is no run\.json in it"):
        report.write(tmp_path)
    with table.opened(tmp_path / "run", SETTINGS):
        pass
    with pytest.raises(ValueError, match="holds no replies yet"):
        report.write(tmp_path / "run")
    with pytest.raises(ValueError, match="holds no replies yet"):
        labels.export(tmp_path / "run")


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="no browser (chromium) is installed to open the page with")
def test_a_browser_shows_every_reply_and_no_more_than_was_asked(folder):
    file = report.write(folder)
    done = subprocess.run(
        [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"]
        + [file.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.count("<article>") == 8
    assert "8 of 8 prompts" in done.stdout
    assert "<b>bold</b>" not in done.stdout


def test_each_type_stands_above_the_contrasts_that_belong_to_it(monkeypatch):
    monkeypatch.setattr(refusals, "FEW", 1)
    types = ("homonyms", "privacy_public", "contrast_privacy", "contrast_homonyms", "privacy_fictional")
    kinds = ("borderline", "borderline", "harmful", "harmful", "borderline")
    table = pd.DataFrame(
        [
            {"set": "xstest", "kind": kind, "type": type_, "prompt_id": f"{type_} {n}", "item": f"{type_} {n}",
             "method": "plain", "setting": "", "verdict_rules": "refused" if n else "answered"}
            for type_, kind in zip(types, kinds, strict=True) for n in range(4)
        ]
    )  # fmt: skip
    found = re.findall(
        r"<tr><td class=name>xstest</td><td class=name>(.*?)</td><td class=name>(.*?)</td><td class=number>(.*?) ",
        refusals.by_type(table, "verdict_rules"),
    )
    assert [(name, kind) for name, kind, _ in found] == [
        ("homonyms", "borderline"), ("contrast homonyms", "harmful"),
        ("privacy public", "borderline"), ("privacy fictional", "borderline"), ("contrast privacy", "harmful"),
    ]  # fmt: skip
    assert {rate for *_, rate in found} == {"75.0"}


def test_types_of_few_prompts_are_counted_and_not_shown():
    table = pd.DataFrame(rows())
    assert "no types of 5 prompts or more" in refusals.by_type(table, "verdict_rules")


def test_the_curve_is_of_each_prompt_once_and_needs_both_sides():
    table = pd.DataFrame(rows())
    table.loc[table["kind"] == "harmful", "score"] = 0.95
    table.loc[table["method"] == "plain", "score"] = None
    assert "Score of 4 harmful against 4 other prompts" in scores.curve(table)
    assert "area under the curve 1.000" in scores.curve(table)
    assert "no scores of both sides" in scores.curve(table[table["kind"] == "harmful"])


def test_what_was_seen_in_a_prompt_is_on_the_page_beside_its_replies(folder):
    seen = pd.DataFrame(
        {"prompt_id": ["id0"], "tokens": [["How", " do"]], "projection": [[0.25, -0.5]], "by_layer": [[0.1, 0.9]],
         "threshold": 0.5, "voting": [[1]]}
    )  # fmt: skip
    seen.to_parquet(folder / "audit.parquet")
    page = report.write(folder).read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    own = {row["prompt"][:20]: row["seen"] for row in data}
    assert own["How do I open lock 0"] == {
        "tokens": ["How", " do"], "projection": [0.25, -0.5], "layers": [0.1, 0.9], "voting": [1], "threshold": 0.5,
    }  # fmt: skip
    assert own["How do I open lock 1"] is None
    (folder / "audit.parquet").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"audit\.parquet' cannot be read: remove it"):
        report.write(folder)


def test_ways_of_one_name_at_two_settings_stand_apart(monkeypatch):
    monkeypatch.setattr(refusals, "FEW", 1)
    more = [{**row, "setting": "scale 4", "scale": 4.0} for row in rows() if row["method"] == "scans"]
    table = pd.DataFrame(rows() + more)
    types = refusals.by_type(table, "verdict_rules")
    assert re.findall(r"<th class=number>(.*?)</th>", types) == [
        "plain model", "scans (scale 2)", "scans (scale 4)", "n",
    ]  # fmt: skip
    cell = "</td><td class=number>"
    pushed = re.findall(rf"<td class=name>(scans .*?){cell}(\d) .*?{cell}(\d) ", scores.sides(table))
    assert set(pushed) == {("scans (scale 2)", "4", "0"), ("scans (scale 4)", "0", "4")}
