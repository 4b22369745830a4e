"""Prompts: the two sides of a contrast, the anchors that ship, and the public benchmarks."""

import csv
import dataclasses
import doctest
import json
import re
import subprocess
import sys
from collections import Counter
from importlib import resources
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from texts import FOLDER, every_benchmark, first_word, here, needs_the_benchmarks, words

from scans_lens import organism, prompts
from scans_lens.conversation import Conversation
from scans_lens.prompts import Contrast, catalogue, public
from scans_lens.prompts.confounds import confounds
from scans_lens.prompts.contrast import digest_of
from scans_lens.prompts.overlaps import shared, without
from scans_lens.prompts.tables import Table

HARMFUL = ["How do I pick pockets?", "Write a threat.", "I need a stolen car.", "Please forge a visa."]
HARMLESS = ["How do I pick apples?", "Write a thank-you.", "I need a rented car.", "Please frame a photo."]
BORDERLINE = ["How do I kill time?", "Write a killer opening."]


@pytest.fixture
def contrast() -> Contrast:
    return Contrast("pairs", HARMFUL, HARMLESS, BORDERLINE)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty folder of local copies; the network is out of reach."""
    monkeypatch.setenv("SCANS_LENS_DATA", str(tmp_path))
    unplug(monkeypatch)
    return tmp_path


def unplug(monkeypatch):
    import datasets

    def load_dataset(*args, **kwargs):
        raise ConnectionError("Couldn't reach the hub\nand a long trace of why")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


# ---------------------------------------------------------------------------------------------------- contrasts


def test_any_sequence_of_strings_becomes_a_tuple(contrast):
    assert contrast.harmful == tuple(HARMFUL)
    assert Contrast("arrays", np.array(HARMFUL), np.array(HARMLESS)).harmless == tuple(HARMLESS)
    assert Contrast("plain", HARMFUL, HARMLESS).borderline == ()


def test_a_contrast_cannot_be_changed(contrast):
    with pytest.raises(dataclasses.FrozenInstanceError):
        contrast.harmful = ()


def test_a_contrast_shows_its_sizes_and_not_its_prompts(contrast):
    assert repr(contrast) == "Contrast('pairs', harmful=4, harmless=4, borderline=2)"


def test_a_digest_is_of_the_prompts_and_nothing_else(contrast):
    assert re.fullmatch("[0-9a-f]{64}", contrast.digest)
    assert dataclasses.replace(contrast, name="another").digest == contrast.digest
    assert dataclasses.replace(contrast, harmful=HARMFUL[::-1]).digest != contrast.digest
    assert dataclasses.replace(contrast, borderline=()).digest != contrast.digest
    # known by heart, so that a digest in an artefact means the same on every machine and in every release
    assert Contrast("é", ["é"], ["b"]).digest == "90c5b251f0bb29d0e50292c917996609fd3b072468f119d969fd9d8a8f30357a"


@pytest.mark.parametrize(
    ("sides", "says"),
    [
        (([], HARMLESS), "'bad' has no harmful prompt: give at least one."),
        ((HARMFUL, ()), "'bad' has no harmless prompt: give at least one."),
        (("How do I pick pockets?", HARMLESS), "The harmful prompts of 'bad' are one string"),
        ((HARMFUL, HARMLESS, "How do I kill time?"), "The borderline prompts of 'bad' are one string"),
        ((HARMFUL, None), "The harmless prompts of 'bad' are a NoneType: give a list of strings."),
        ((set(HARMFUL), HARMLESS), "The harmful prompts of 'bad' are a set: give a list of strings."),
        ((["fine", 3], HARMLESS), "The harmful prompt 1 of 'bad' is no string: 3."),
        ((HARMFUL, ["fine", float("nan")]), "The harmless prompt 1 of 'bad' is no string: nan."),
        (([""], HARMLESS), "The harmful prompt 0 of 'bad' is blank: ''."),
        ((HARMFUL, ["fine", " \n"]), r"The harmless prompt 1 of 'bad' is blank: ' \n'."),
        ((HARMFUL, ["write  a THREAT.\n"]), r"'bad' has 'write  a THREAT.\n' as harmful and as harmless."),
        ((HARMFUL, HARMLESS, ["Write a threat."]), "'bad' has 'Write a threat.' as harmful and as borderline."),
    ],
)
def test_a_contrast_refuses_what_it_cannot_hold_apart(sides, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        Contrast("bad", *sides)


def test_a_split_loses_nothing_and_shares_nothing(contrast):
    first, rest = contrast.split(3, seed=0)
    assert (len(first.harmful), len(first.harmless), len(first.borderline)) == (3, 3, 1)
    for side in prompts.KINDS:
        assert sorted(getattr(first, side) + getattr(rest, side)) == sorted(getattr(contrast, side))


def test_a_split_keeps_twins_together_and_in_order(contrast):
    twins = dict(zip(HARMFUL, HARMLESS, strict=True))
    for seed in range(20):
        for part in contrast.split(2, seed):
            assert tuple(twins[prompt] for prompt in part.harmful) == part.harmless
            assert sorted(part.harmful, key=HARMFUL.index) == list(part.harmful)


def test_sides_of_different_length_are_drawn_each_for_itself():
    first, rest = Contrast("uneven", [f"harmful {i}" for i in range(40)], [f"plain {i}" for i in range(50)]).split(
        20, 1
    )
    assert (len(first.harmful), len(first.harmless), len(rest.harmful), len(rest.harmless)) == (20, 20, 20, 30)
    assert first.harmless[-1] not in [f"plain {i}" for i in range(20)]


def test_a_split_is_decided_by_its_seed_alone():
    contrast = Contrast("numbers", [f"harmful {i}" for i in range(8)], [f"harmless {i}" for i in range(8)])
    assert contrast.split(3, seed=7) == contrast.split(3, seed=7)
    assert len({contrast.split(3, seed)[0].harmful for seed in range(20)}) > 10
    # known by heart: the same on every machine and in every Python
    assert contrast.split(3, seed=7)[0].harmful == ("harmful 1", "harmful 3", "harmful 6")


def test_every_prompt_is_as_likely_to_be_drawn(contrast):
    drawn = Counter(prompt for seed in range(2000) for prompt in contrast.split(1, seed)[0].harmful)
    assert all(420 < drawn[prompt] < 580 for prompt in HARMFUL)  # 500 expected, four standard deviations


@pytest.mark.parametrize(
    ("n", "says"),
    [
        (5, "Cannot take 5 of each kind from 'pairs': it has 4."),
        (4, "Cannot take 4 of each kind from 'pairs': it has 4, and one must be left."),
        (0, "Cannot take 0 of each kind from 'pairs': ask for at least 1."),
    ],
)
def test_a_split_leaves_each_part_something_of_each_kind(contrast, n, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        contrast.split(n, seed=0)


# ------------------------------------------------------------------------------------------------------ anchors


def table() -> list[dict[str, str]]:
    text = (resources.files("scans_lens") / "data" / "anchors.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def test_there_are_enough_anchors_in_four_forms_on_many_topics():
    anchors = prompts.anchors()
    assert anchors.name == "anchors"
    assert len(anchors.harmful) == len(anchors.harmless) >= 192
    assert Counter(row["form"] for row in table()) == {form: 64 for form in ("question", "command", "request", "need")}
    topics = Counter(row["topic"] for row in table())
    assert len(topics) >= 25
    assert max(topics.values()) < 0.1 * len(table())


def test_twins_begin_alike_end_alike_and_are_about_as_long():
    anchors = prompts.anchors()
    for harmful, harmless in zip(anchors.harmful, anchors.harmless, strict=True):
        assert first_word(harmful) == first_word(harmless)
        assert harmful[-1] == harmless[-1] in "?."
        assert abs(len(harmful.split()) - len(harmless.split())) <= 1
        assert abs(len(harmful) - len(harmless)) <= 12


def test_form_alone_cannot_tell_the_anchors_apart():
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler

    anchors = prompts.anchors()
    form = [
        {"first": first_word(prompt), "words": len(prompt.split()), "chars": len(prompt), "?": prompt.endswith("?")}
        for prompt in anchors.harmful + anchors.harmless
    ]
    harmful = np.repeat([1, 0], len(anchors.harmful))
    pairs = np.tile(np.arange(len(anchors.harmful)), 2)
    model = make_pipeline(DictVectorizer(), MaxAbsScaler(), LogisticRegression())
    unseen = cross_val_predict(model, form, harmful, groups=pairs, cv=GroupKFold(8), method="predict_proba")[:, 1]
    assert 0.4 < roc_auc_score(harmful, unseen) < 0.6
    assert 0.4 < roc_auc_score(harmful, model.fit(form, harmful).predict_proba(form)[:, 1]) < 0.6


def test_form_stays_balanced_when_the_anchors_are_split():
    for part in prompts.anchors().split(192, seed=0):
        assert Counter(map(first_word, part.harmful)) == Counter(map(first_word, part.harmless))
        assert sum(p.endswith("?") for p in part.harmful) == sum(p.endswith("?") for p in part.harmless)


@pytest.mark.parametrize("side", ["harmful", "harmless"])
def test_no_two_anchors_of_a_side_say_nearly_the_same(side):
    bags = [words(prompt) for prompt in getattr(prompts.anchors(), side)]
    assert all(len(one & other) <= 0.5 * len(one | other) for one, other in combinations(bags, 2))


@needs_the_benchmarks
@every_benchmark
def test_no_anchor_is_a_benchmark_prompt(name):
    public = {prompts.normalised(prompt) for prompt in prompts.load(name)}
    anchors = prompts.anchors()
    assert public.isdisjoint(map(prompts.normalised, anchors.harmful + anchors.harmless))


# --------------------------------------------------------------------------------------------------- benchmarks


def test_a_prompt_set_is_a_sequence_that_knows_its_kinds():
    some = prompts.PromptSet(
        "some", ("a", "b", "c"), ("harmful", "borderline", "harmful"), ("x", "", "y"), "s", "l", "c"
    )
    assert list(some) == ["a", "b", "c"]
    assert (len(some), some[1], some[-1], some[1:], "b" in some) == (3, "b", "c", ("b", "c"), True)
    assert (some.harmful, some.borderline, some.harmless) == (("a", "c"), ("b",), ())
    assert repr(some) == "PromptSet('some', harmful=2, borderline=1)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        some.prompts = ()


@every_benchmark
def test_every_benchmark_is_pinned_and_says_whose_it_is(name):
    source = prompts.SOURCES[name]
    # Of the attacks' repository only the beginning of the commit is known; their prompts' checksums are.
    assert re.search("/20d65b6/" if name in prompts.JAILBREAKS else "[0-9a-f]{40}", source.table.place)
    assert re.fullmatch("[0-9a-f]{64}", source.digest)
    assert source.licence
    assert "arXiv" in source.citation


@needs_the_benchmarks
@every_benchmark
def test_a_benchmark_loads_from_a_folder(name, monkeypatch):
    unplug(monkeypatch)
    loaded, source = prompts.load(name), prompts.SOURCES[name]
    assert (len(loaded), loaded.digest, loaded.source) == (source.size, source.digest, source.table.place)
    assert all(prompt and prompt == prompt.strip() for prompt in loaded)


@needs_the_benchmarks
@every_benchmark
def test_the_public_place_and_the_folder_give_the_same(name, monkeypatch, tmp_path):
    import datasets

    from_folder = prompts.load(name)
    copy = next(path for path in Path(FOLDER).rglob("*") if path.name == prompts.SOURCES[name].table.files[0])
    load_dataset = datasets.load_dataset

    def from_a_file(path, name=None, revision=None, split=None, data_files=None, **how):
        builder = {".csv": "csv", ".json": "json", ".txt": "text", ".parquet": "parquet"}[copy.suffix]
        assert path == builder if data_files else re.fullmatch("[0-9a-f]{40}", revision)
        return load_dataset(builder, data_files=str(copy), split="train", cache_dir=str(tmp_path), **how)

    monkeypatch.delenv("SCANS_LENS_DATA")
    monkeypatch.setattr(datasets, "load_dataset", from_a_file)
    assert prompts.load(name) == from_folder


@needs_the_benchmarks
def test_both_layouts_of_xstest_give_the_same(folder):
    copies = {}
    for layout in ("xstest_prompts.csv", "xstest_v2_prompts.csv"):
        (folder / layout).write_bytes(next(Path(FOLDER).rglob(layout)).read_bytes())
        copies[layout] = prompts.load("xstest")
        (folder / layout).unlink()
    first, second = copies.values()
    assert first == second
    assert len(set(first.types)) == 18
    assert (len(first.harmful), len(first.borderline)) == (200, 250)


@needs_the_benchmarks
def test_known_pitfalls_of_the_files_are_minded():
    repe = prompts.load("repe")
    assert set(repe.harmful) <= set(prompts.load("advbench"))  # a label of True means harmless
    assert set(prompts.load("repe_train").harmful) <= set(prompts.load("advbench"))  # also where the order is shuffled
    assert set(prompts.load("truthfulqa").kinds) == {"harmless"}
    harmbench = prompts.load("harmbench")
    with_context = {its for prompt, its in zip(harmbench, harmbench.types, strict=True) if "\n\n---\n\n" in prompt}
    assert with_context == {"contextual"}
    assert not any("\r" in prompt for name in here for prompt in prompts.load(name))


@needs_the_benchmarks
def test_line_ends_and_a_byte_order_mark_change_nothing(folder):
    for name in ("advbench", "malicious_instruct", "strongreject"):  # the last has line ends inside its prompts
        file = prompts.SOURCES[name].table.files[0]
        original = next(Path(FOLDER).rglob(file)).read_bytes()
        (folder / file).write_bytes(b"\xef\xbb\xbf" + original.replace(b"\n", b"\r\n") + b"\r\n\r\n")
        assert prompts.load(name).digest == prompts.SOURCES[name].digest


@pytest.fixture
def small_benchmark(monkeypatch):
    """A benchmark of two prompts, so that reading can be tried without anybody's data."""
    source = prompts.Source(
        table=Table(
            files=("small.csv", "small.json", "small.txt", "small.parquet"),
            hub={"path": "nowhere/small", "revision": "main", "split": "test"},
            columns=("text", "label"),
        ),
        items=lambda row: [(row["text"].strip(), "harmful" if row["label"] == "bad" else "harmless", "")],
        size=2,
        digest=digest_of([["Do harm.", "Do good."], ["harmful", "harmless"]]),
        licence="MIT",
        citation="nobody",
    )
    monkeypatch.setattr(public, "SOURCES", {"small": source})
    return source


def test_a_file_is_found_in_folders_below_whatever_its_case(folder, small_benchmark):
    (folder / "deep" / "down").mkdir(parents=True)
    (folder / "deep" / "down" / "Small.CSV").write_text("Label,TEXT,more\nbad,Do harm.,1\ngood, Do good. ,2\n")
    assert list(prompts.load("small")) == ["Do harm.", "Do good."]
    assert prompts.load("small").kinds == ("harmful", "harmless")


def test_a_folder_comes_before_the_public_place(folder, small_benchmark, monkeypatch):
    import datasets

    rows = [{"text": "Do harm.", "label": "bad"}, {"text": "Do good.", "label": "good"}]
    monkeypatch.setattr(datasets, "load_dataset", lambda **asked: rows)
    assert len(prompts.load("small")) == 2  # the folder has no such file
    (folder / "small.csv").write_text("text,label\nDo nothing.,good\n")
    with pytest.raises(ValueError, match=re.escape(str(folder / "small.csv"))):
        prompts.load("small")


def test_the_public_place_is_held_against_the_same_checksum(small_benchmark, monkeypatch):
    import datasets

    monkeypatch.delenv("SCANS_LENS_DATA", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", lambda **asked: [{"text": "Do nothing.", "label": "good"}])
    with pytest.raises(ValueError, match=r"^https://huggingface\.co/datasets/nowhere/small/tree/main does not hold"):
        prompts.load("small")


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no prompt set 'xtest': the known ones are xstest, oktest, .*renellm\."):
        prompts.load("xtest")


def test_a_folder_that_is_none_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("SCANS_LENS_DATA", str(tmp_path / "gone"))
    with pytest.raises(ValueError, match=r"SCANS_LENS_DATA is '.*gone', which is not a folder\."):
        prompts.load("xstest")


def test_a_changed_file_is_refused(folder, small_benchmark):
    (folder / "small.csv").write_text("text,label\nDo harm.,good\nDo good.,good\n")
    with pytest.raises(ValueError, match=r"small\.csv does not hold the prompts of 'small': 2 prompts with SHA-256 "):
        prompts.load("small")


def test_missing_columns_are_named_beside_those_that_are_there(folder, small_benchmark):
    (folder / "small.csv").write_text("prompt,label\nDo harm.,bad\n")
    with pytest.raises(
        ValueError, match=r"no column 'text', which 'small' is read from: its columns are 'prompt', 'label'"
    ):
        prompts.load("small")


@pytest.mark.parametrize("suffix", ["csv", "json", "txt", "parquet"])
def test_a_file_that_is_not_what_its_name_says_is_refused(folder, small_benchmark, suffix):
    (folder / f"small.{suffix}").write_bytes(b"\x89PNG\r\n\x1a\n\xff\x00")
    with pytest.raises(ValueError, match=rf"small\.{suffix} cannot be read as {suffix}: "):
        prompts.load("small")


def test_a_row_of_another_make_is_refused(folder, small_benchmark, monkeypatch):
    table = dataclasses.replace(small_benchmark.table, columns=("sentence", "label"))
    of_pairs = dataclasses.replace(small_benchmark, table=table, items=catalogue.SOURCES["repe"].items)
    monkeypatch.setattr(public, "SOURCES", {"small": of_pairs})
    (folder / "small.json").write_text('[{"sentence": ["Do harm."], "label": null}]')
    with pytest.raises(ValueError, match=r"small\.json has a row that cannot be one of 'small': TypeError"):
        prompts.load("small")


def test_without_the_network_the_remedy_is_named(folder):
    with pytest.raises(ConnectionError) as caught:
        prompts.load("xstest")
    assert str(caught.value) == (
        f"Cannot fetch 'xstest' from {prompts.SOURCES['xstest'].table.place} (ConnectionError: Couldn't reach the hub):"
        " put xstest_prompts.csv in a folder and name the folder in SCANS_LENS_DATA."
    )


def test_importing_prompts_imports_nothing_heavy():
    code = (
        "import sys; import scans_lens.prompts as p; p.anchors();"
        " print(*{'torch', 'numpy', 'pandas', 'datasets', 'pyarrow', 'transformer_lens'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# ------------------------------------------------------------------------------------------- overlaps and confounds


def _set(name: str, *texts: str) -> prompts.PromptSet:
    return prompts.PromptSet(name, texts, ("harmful",) * len(texts), ("",) * len(texts), "nowhere", "MIT", "nobody")


def test_a_prompt_is_tested_once_and_never_where_it_was_learned_from():
    found = _set("ours", "Do harm.", "do  HARM.", "Steal it.", "Steal\nit.", "Burn it.")
    learned = Contrast("learned", ["steal it."], ["Do good."])
    rest, fell = without(found, [learned, ["burn it.", "burn it"]])
    assert rest.prompts == ("Do harm.",) and rest.kinds == ("harmful",)
    assert (fell.repeats, fell.learned_from, fell.left) == (2, 2, 1)
    assert str(fell) == "ours: 2 repeats and 2 learned from fell out, 1 are left"
    with pytest.raises(ValueError, match="Nothing of 'ours' is left to test on: all of it was learned from"):
        without(found, [found])


def test_what_two_sets_share_is_counted_by_text():
    sets = {"one": _set("one", "Do harm.", "Steal it."), "two": _set("two", "STEAL it."), "three": _set("three", "No.")}
    assert shared(sets) == {("one", "two"): 1}


@needs_the_benchmarks
def test_the_published_safety_sets_are_not_independent():
    sets = {name: prompts.load(name) for name in ("repe", "advbench")}
    assert shared(sets) == {("repe", "advbench"): len(set(map(prompts.normalised, sets["repe"].harmful)))}


def test_form_gives_nothing_away_of_our_anchors():
    assert 0.4 < confounds(prompts.anchors()).auc < 0.6
    assert confounds(organism.anchors()).auc < 0.65


def test_a_contrast_of_commands_and_questions_is_told_by_form_alone():
    things = [f"thing {number}" for number in range(20)]
    found = confounds(Contrast("forms", [f"Break the {it}." for it in things], [f"How is the {it}?" for it in things]))
    assert found.auc > 0.99
    assert (found.harmful.question_marks, found.harmless.question_marks) == (0, 1)
    assert (found.harmful.imperatives, found.harmless.imperatives) == (1, 0)
    assert "AUC 1.00 (0.5 is chance)" in str(found)
    with pytest.raises(ValueError, match="'small' has 1 harmful and 1 harmless prompts: at least 5 of each are needed"):
        confounds(Contrast("small", ["Do harm."], ["Do good."]))


def test_a_set_without_a_checksum_is_held_to_its_size(folder, small_benchmark, monkeypatch):
    monkeypatch.setattr(public, "SOURCES", {"small": dataclasses.replace(small_benchmark, digest=None)})
    (folder / "small.csv").write_text("text,label\nDo harm.,bad\n")
    with pytest.raises(ValueError, match=r"does not hold 'small': 1 prompts where 2 were expected"):
        prompts.load("small")


EXAMPLES = [
    example
    for example in doctest.DocTestParser().get_examples(prompts.load.__doc__)
    if re.fullmatch(r'load\("\w+"\).*', example.source.partition("  #")[0].strip())
]


def test_every_set_has_a_worked_example():
    named = {re.search(r'"(\w+)"', example.source)[1] for example in EXAMPLES}
    assert named == set(prompts.known())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.source.partition("  #")[0])
def test_every_worked_example_gives_what_it_says(example):
    name = re.search(r'"(\w+)"', example.source)[1]
    if not prompts.tables.local(prompts.SOURCES[name].table.files):
        pytest.skip(f"{name} is not in the folder that {prompts.FOLDER_VARIABLE} names.")
    assert repr(eval(example.source.partition("  #")[0], {"load": prompts.load})) == example.want.strip()


TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."},
         {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Why?"}]  # fmt: skip


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
def test_a_file_of_conversations_is_read_turn_by_turn(tmp_path, suffix):
    import pandas as pd

    rows = [{"messages": TURNS, "label": "unsafe"}, {"messages": TURNS[1:2], "label": "safe"}]
    file = tmp_path / f"asked.{suffix}"
    if suffix == "json":
        file.write_text(json.dumps(rows))
    elif suffix == "jsonl":
        file.write_text("\n".join(map(json.dumps, rows)))
    elif suffix == "csv":
        own = [{**row, "messages": json.dumps(row["messages"])} for row in rows]
        pd.DataFrame(own).rename(columns=str.title).to_csv(file, index=False)
    else:
        pd.DataFrame(rows).to_parquet(file)
    found = prompts.own(file)
    assert list(found) == [Conversation.of(TURNS), Conversation.of(TURNS[1:2])]
    assert found.kinds == ("harmful", "borderline")


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("turns", "sentence"),
    [
        ("nonsense", "What should be messages is no JSON"),
        ([], "There are no messages"),
        ({"role": "user", "content": "Why?"}, "A conversation is a list of messages, not dict"),
        (["Why?"], "Message 0 .* has no role and content: 'Why\\?'"),
        ([{"role": "user"}], "Message 0 .* has no role and content"),
        ([{"role": "user", "content": " "}], "Message 0 .* says nothing"),
        ([{"role": "user", "content": 3}], "Message 0 .* is not text"),
        (TURNS[:3], "A conversation ends with what the user says, and this one with 'assistant'"),
        ([*TURNS[1:], TURNS[0], TURNS[1]], "Message 3 .* is a system prompt, which comes first or not at all"),
    ],
)
def test_a_conversation_that_is_none_is_one_sentence_with_its_row(tmp_path, turns, sentence):
    (tmp_path / "asked.json").write_text(json.dumps([{"messages": TURNS}, {"messages": turns}]))
    with pytest.raises(ValueError, match=f"has no conversation in row 2. {sentence}"):
        prompts.own(tmp_path / "asked.json")


def test_files_as_other_programs_write_them_are_read_alike(tmp_path):
    rows = [f'Why is {place}, so to say, "odd"?' for place in range(1000)]
    lines = ["Prompt ,LABEL,type", *('"' + row.replace('"', '""') + '",Safe,' for row in rows)]
    for name, text in (("unix", "\n".join(lines)), ("dos", "\ufeff" + "\r\n".join(lines) + "\r\n")):
        (tmp_path / f"{name} für ‘ŷ’.csv").write_bytes(text.encode())
        found = prompts.own(tmp_path / f"{name} für ‘ŷ’.csv")
        assert list(found) == rows and set(found.kinds) == {"borderline"} and found.labelled
