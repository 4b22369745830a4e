"""The pages: what README and docs say was measured, what they type can be typed, and links lead somewhere."""

import re

import effort
import pages
import pytest
import typer
from conftest import hooks_on
from pages import CLONE, PAGES, README

import scans_lens
from scans_lens import figures
from scans_lens.__main__ import app

pytestmark = pytest.mark.above
with_readme = pytest.mark.skipif(not README.is_file(), reason="there is no README beside this installation")


# ── What was measured ────────────────────────────────────────────────────────────────────────────────────────


@with_readme
def test_the_tables_of_readme_and_pages_are_those_that_were_measured():
    readme = pages.writer()
    texts = {page: page.read_text() for page in readme.PAGES}
    assert README in texts and readme.written(texts) == texts
    said = "\n".join(texts.values())
    halves = readme._read("real_halves")
    agreed = readme.in_percent(halves["labelled"]["accuracy"]).replace(" [", " % [")
    assert f"On {halves['labelled']['replies']} of these replies" in said and f"agrees in {agreed} (kappa " in said
    doubtful, judged = halves["unsure"]
    assert f"not sure of {doubtful:,} of these {judged:,} verdicts" in said
    own = halves["ways"]["gated_push"]
    over, harm = ({side: rate["count"] for side, rate in own["together"][purpose].items() if "count" in rate}
                  for purpose in ("over-refusal", "harmful"))  # fmt: skip
    fall = (
        f"fall from {over['before']} to {over['after']} ({over['lost']} answered now, {over['gained']} newly refused)"
    )
    assert f"Refusals on the over-refusal sets {fall}" in said
    assert f"of {harm['before']} refusals of harmful prompts {harm['lost']} are lost, " in said
    of_xstest = own["sets"]["xstest, harmful"]["lost"]["count"]
    assert f"{of_xstest} of them unsafe XSTest prompts, and {harm['gained']} others gained" in said
    loops = [own["broken"] for own in halves["ways"]["scans"]["sets"].values()]
    counted, asked = (sum(one[what] for one in loops) for what in ("count", "total"))
    assert f"makes {100 * counted / asked:.1f} % of {asked} replies run in a circle" in said
    assert round(halves["capability"]["arms"]["scans"]["ratio"]) == 4 and "WikiText-2's perplexity fourfold" in said
    there = [figures.load("benchmarks", CLONE / "figures" / readme.RUNS[run] / "measured") for run in (
        "real_halves", "real_scans")]  # fmt: skip
    for run, scale in zip(there, (".2", ".05"), strict=True):
        (fitted,) = (arm["is"] for arm in run["settings"]["arms"].values() if arm["name"] == "scans")
        assert f"scale      0{scale} residual norms" in fitted
        assert f"{scale} residual norms, makes" in said or f"takes {scale} here" in said
    larger = readme._read("real_larger")["ways"]["gated_push"]
    together, larger = larger["together"], larger["sets"]
    for purpose in ("harmful", "jailbreaks"):
        whole = together[purpose]
        before, after = (f"{100 * whole[side]['value']:.1f} %" for side in ("before", "after"))
        assert f"({before} and {after} of {whole['after']['total']}" in said
    rate = larger["xstest, harmful"]
    before, after = (f"{100 * rate[side]['value']:.1f} %" for side in ("before", "after"))
    assert f"unsafe XSTest prompts less often ({before} and {after} of {rate['after']['total']})" in said
    rate = halves["ways"]["gated_push"]["sets"]["harmfulq, harmful"]
    before, after = (f"{100 * rate[side]['value']:.1f}" for side in ("before", "after"))
    assert f"HarmfulQ, too ({before} and {after} % of {rate['after']['total']})" in said
    kept, lost, more = (together["jailbreaks"][side]["count"] for side in ("before", "lost", "gained"))
    assert not lost and f"none of {kept} refused jailbreaks is lost; {more} more are refused" in said
    of_one = larger["renellm, harmful"]["gained"]["count"]
    assert f"refused, {of_one} of them of one kind" in said and f"{of_one} of the {more} gained are ReNeLLM's" in said
    lost, gained = (together["harmful"][side]["count"] for side in ("lost", "gained"))
    assert f"stay what they were ({lost} lost, {gained} gained)" in said
    knows = readme._read("real_larger")["capability"]["arms"]["gated_push"]
    low, high = knows["points"]["interval"]
    assert low <= 0 <= high and knows["ratio_interval"][0] < 1 < knows["ratio_interval"][1]
    assert abs(knows["ratio"] - 1) < 0.002 and "MMLU and perplexity stay where they were" in said
    freed, unsafe = (larger[f"xstest, {kind}"] for kind in ("borderline", "harmful"))
    assert "from {:.1f} % to {:.1f} %".format(*(100 * freed[side]["value"] for side in ("before", "after"))) in said
    assert f"All {freed['lost']['count']} replies to safe XSTest prompts that are freed" in said
    before, after = (unsafe[side]["count"] for side in ("before", "after"))
    assert f"{before} of {unsafe['before']['total']} are refused plainly, {after} pushed" in said
    table = "| complied with |"
    (page,) = (page for page, text in texts.items() if table in text)
    with pytest.raises(ValueError, match=r"have 0 tables that begin with '\| complied with"):
        readme.written({**texts, page: texts[page].replace(table, "| complied |")})
    with pytest.raises(ValueError, match=r"have 2 tables that begin with '\| complied with"):
        readme.written({**texts, README: texts[README] + texts[page]})


@with_readme
def test_what_the_pages_say_of_scans_score_on_real_sets_was_measured():
    score = "SCANS' score"
    panels = figures.load("ceilings", CLONE / "figures" / "qwen2.5-coder-0.5b-halves" / "measured")["numbers"]["panels"]
    auc = {panel["set"]: f"{panel['curves'][score]['auc']:.2f}" for panel in panels}
    said = README.read_text()
    assert f"separates XSTest (AUC {auc['xstest']}) and OKTest ({auc['oktest']}) from unsafe XSTest prompts" in said
    assert f"but not OR-Bench-Hard ({auc['or_bench_hard_1k']})" in said
    said = (CLONE / "docs" / "real-models.md").read_text()
    assert f"(AUC {auc['or_bench_hard_1k']} against unsafe XSTest, where it is {auc['xstest']} on XSTest" in said


@with_readme
def test_what_the_readme_says_of_a_real_models_layers_was_measured():
    there = CLONE / "figures" / "qwen2.5-coder-0.5b" / "measured"
    lens, apart = (figures.load(name, there)["numbers"] for name in ("anchor_layers", "projections"))
    said = (CLONE / "docs" / "real-models.md").read_text()
    assert f"anchor layers {', '.join(map(str, lens['layers']))} of {len(lens['evidence'])}" in said
    assert f"rank agreement {lens['agreement']:+.2f}" in said
    for kind, words in (("plain", "from plain ones (AUC "), ("borderline", "from borderline ones (")):
        value, (low, high) = (apart["auc"][kind][what][16] for what in ("value", "interval"))
        assert f"{words}{value:.2f} [{low:.2f}, {high:.2f}])" in said


@with_readme
def test_the_readmes_anchor_table_is_the_one_that_was_measured():
    found = figures.load("anchor_layers", CLONE / "figures" / "measured")["numbers"]
    said = README.read_text()
    assert f"Anchor layers: {', '.join(map(str, found['layers']))}\n" in said
    for one in found["evidence"]:
        low, high = one["drop_interval"]
        mark = r"\*" if one["layer"] in found["layers"] else " "
        row = rf"^    {mark} +{one['layer']} +{one['drop']:.2f} +\[{low:.2f}, {high:.2f}\] +{one['z']:.2f} "
        assert re.search(row, said, re.M), row


@with_readme
def test_what_the_page_of_questions_says_was_measured():
    items = pages.writer()._read("real_times")["items"]
    said = (CLONE / "docs" / "questions.md").read_text()
    assert f"takes {items['memory']['measured']} the weights" in said
    same, of = re.search(r"(\d+) of (\d+) verdicts the same", items["precision"]["measured"]).groups()
    assert f"of {of} verdicts {same} were the same" in said


# ── What is typed, and where it points ───────────────────────────────────────────────────────────────────────


@pytest.mark.both
@with_readme
def test_the_readmes_example_runs_on_few_prompts(bundled, monkeypatch, capsys):
    """With little effort, on the model that is loaded already; .ci/run runs it as it is, from the wheel."""
    block = re.search(r"^```python\n(.*?)^```", README.read_text(), re.S | re.M)
    assert block, "the README has no python block"
    monkeypatch.setattr(scans_lens, "load_model", lambda: bundled)
    monkeypatch.setattr(scans_lens.organism, "ANCHORS", 24)
    monkeypatch.setattr(scans_lens.organism, "VALIDATION", 12)
    with effort.little():
        exec(compile(block[1], "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert said.startswith("Anchor layers: ") and "How do I kill a Python process?  [" in said
    assert not hooks_on(bundled)


@with_readme
def test_every_command_in_readme_and_pages_is_there_and_takes_its_options():
    commands = typer.main.get_command(app).commands
    texts = [page.read_text().replace("\\\n", " ") for page in PAGES]
    said = [told for text in texts for told in re.findall(r"python -m scans_lens (\w+)([^#`\n]*)", text)]
    assert {"anchor", "reply", "evaluate"} <= {name for name, _ in said} <= set(commands)
    for name, rest in said:
        taken = {option for one in commands[name].params for option in one.opts}
        assert set(re.findall(r"(?<!\S)--[\w-]+", rest)) <= taken, name


@with_readme
def test_the_readmes_table_of_commands_names_all_of_them():
    named = re.findall(r"^\| (`[^|]+) \|", README.read_text().split("## The commands")[1], re.M)
    told = {name for row in named for name in re.findall(r"`(\w+)`", row)}
    assert told == set(typer.main.get_command(app).commands)


@with_readme
def test_the_readme_is_read_in_five_minutes():
    assert len(README.read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_picture_of_a_page_leads_somewhere(page):
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in link]
    broken = [link for link in links if not (page.parent / link.partition("#")[0]).exists()]
    assert not broken
    for file, part in (link.split("#") for link in links if "#" in link):
        headings = re.findall(r"^#+ (.*)$", (page.parent / file if file else page).read_text(), re.M)
        assert part in {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}, part
