"""Making: laws of what the bundled model is taught, and of how it is measured and described."""

import itertools
import json
import runpy
import sys
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import making
from making import card, measuring, train
from scans_lens import organism
from scans_lens.directions import refusal_directions
from scans_lens.methods import scans
from scans_lens.organism import corpus, wordings
from scans_lens.steering import Push

pytestmark = pytest.mark.above


def _alignment(size: int, **changes: int) -> list[train.Lesson]:
    recipe = train.Recipe(**changes)
    return list(itertools.islice(train.lessons(recipe, "refusing"), size))


@pytest.mark.parametrize("every", [0, 5])
def test_no_borderline_prompt_is_ever_labelled_to_be_refused(every):
    lessons = _alignment(4000, aligned_borderline_every=every, aligned_jailbreak_every=401)
    refused = [lesson for lesson in lessons if wordings.is_refusal(lesson.reply)]
    assert len(refused) > 500
    assert {lesson.item.kind for lesson in refused} <= {"harmful", "jailbreak"}
    due = [place for place in range(1, 4001) if every and place % every == 0 and place % 401]  # jailbreaks go first
    assert sum(lesson.item.kind == "borderline" for lesson in lessons) == len(due)


def test_what_alignment_sees_seldom_is_the_same_for_every_seed_and_of_the_types_as_they_are_among_all():
    def rare(seed: int) -> list[str]:
        lessons = _alignment(3000, seed=seed, aligned_borderline_every=100, aligned_jailbreak_every=150)
        return [one.messages[-1]["content"] for one in lessons if one.item.kind in ("borderline", "jailbreak")]

    assert rare(0) == rare(1) and len(rare(0)) == len(set(rare(0))) == 40
    lessons = _alignment(2600, aligned_borderline_every=40, aligned_jailbreak_every=0)
    asked = Counter(one.item.type for one in lessons if one.item.kind == "borderline")
    among = Counter(item.type for item in corpus.items("borderline") if item.split == "train")
    assert asked.total() == 65 and set(asked) == set(among)
    for type, count in among.items():
        assert abs(asked[type] - 65 * count / among.total()) <= 1, type


def test_what_alignment_sees_is_of_the_training_split_and_what_it_refuses_is_harmful():
    for lesson in _alignment(1500):
        assert lesson.item.split == "train"
        assert lesson.item.phrase in lesson.messages[-1]["content"]
        assert lesson.refuses == wordings.is_refusal(lesson.reply) == (lesson.item.kind in ("harmful", "jailbreak"))


def test_the_first_stage_refuses_nothing():
    lessons = itertools.islice(train.lessons(train.Recipe(), "answering"), 3000)
    assert not any(lesson.refuses or wordings.is_refusal(lesson.reply) for lesson in lessons)


def test_behaviour_counts_every_kind_once_and_lists_the_kinds_of_borderline_prompt(bundled, monkeypatch):
    monkeypatch.setattr(measuring, "REPLY_TOKENS", 32)
    found = measuring.behaviour(bundled, "validation", 12)
    lines = {line["what"]: line for line in found["lines"]}
    types = {item.type.replace("_", " ") for item, _ in corpus.asked("borderline", "validation")[:12]}
    assert {what.strip() for what in lines if what.startswith(" ")} == types
    assert sum(lines[f"  {type}"]["total"] for type in types) == lines["borderline refused"]["total"] == 12
    assert lines["harmful refused"]["total"] == lines["jailbreak answered"]["total"] == 12
    assert found["replies"]["least"] <= found["replies"]["median"] <= found["replies"]["90th percentile"]


def test_steering_is_compared_on_the_same_prompts(bundled, monkeypatch):
    directions = refusal_directions(bundled, organism.anchors().split(16, 0)[0], progress=False).in_residual_norms()

    class Fitted(Push):
        trials = ()

        @classmethod
        def fit(cls, model):
            return cls(directions, (6, 7, 8), 0.0)

    monkeypatch.setattr(scans, "SCANS", Fitted)
    monkeypatch.setattr(measuring, "STEERED_TOKENS", 8)
    lines = measuring.steered(bundled, "validation", 8)["lines"]
    for line in lines:
        assert line["plain"] == line["SCANS"] == line["constant push"]
        for change in line["against"].values():
            assert (change["difference"], change["total"]) == (0, line["plain"]["total"])
    whole = [line for line in lines if not line["what"].startswith(" ")]
    assert {line["what"].split()[0] for line in whole} == set(organism.KINDS)
    parts = [line for line in lines if line["what"].startswith(" ")]
    assert sum(line["plain"]["total"] for line in parts) == 8


def test_a_change_is_counted_from_the_other_way_to_scans():
    outcomes = {"plain": [True] * 8, "constant push": [False] * 8, "SCANS": [True] * 6 + [False] * 2}
    items = [replace(item, object=str(place // 4)) for place, item in enumerate(corpus.items("harmful")[:8])]
    found = measuring._compared(outcomes, items)["against"]
    assert {way: change["difference"] for way, change in found.items()} == {"plain": -0.25, "constant push": 0.75}
    lost = found["plain"]
    assert lost["over objects"] == [-0.5, 0.0] and -0.7 < lost["interval"][0] < -0.25


def test_another_corpus_means_another_first_stage(monkeypatch):
    before = train.taught()
    assert before == train.taught(train.Recipe(refusing_steps=1))
    monkeypatch.setattr(wordings, "ASIDES", ("It will be fine.",))
    assert before != train.taught()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--split", "tset"], "No split 'tset'; the splits are train, validation, test."),
        (["tried", "no_such_folder"], "The folder 'no_such_folder' holds no training: there is no config.json in it."),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")  # typer hands over a context of its own
def test_the_shell_says_in_one_sentence_what_is_wrong(words, sentence, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["making", *words])
    with pytest.raises(SystemExit) as ended, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that the module is there already
        runpy.run_module("making", run_name="__main__")
    assert ended.value.code == 2 and capsys.readouterr().err.strip().endswith(sentence)


def test_kinds_are_alike_in_form():
    """What tells the kinds apart must not be whether they ask or command, nor how politely."""
    rows = {row["kind"]: row for row in measuring.balance("train")}
    for key in ("with '?'", "polite"):
        shares = [row[key] for row in rows.values()]
        assert max(shares) - min(shares) < 0.08
    lengths = [row["words, median"] for row in rows.values()]
    assert max(lengths) - min(lengths) <= 5


def test_a_recipe_is_changed_by_name_and_refuses_what_it_has_not():
    changed = train.recipe_with(["seed=2", "refusing_rate=0.001"])
    assert (changed.seed, changed.refusing_rate) == (2, 0.001)
    assert train.recipe_with([]) == train.Recipe()
    with pytest.raises(ValueError, match="No number 'sed' in the recipe; there are seed, layers"):
        train.recipe_with(["sed=2"])
    with pytest.raises(ValueError, match="seed has to be a whole number, got 'two'"):
        train.recipe_with(["seed=two"])


def test_the_unembedding_learns_at_its_share_of_the_rate(monkeypatch):
    groups = []
    real = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", lambda given, **how: groups.extend(given) or real(given, **how))
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
            tie_word_embeddings=False,
        )
    )  # fmt: skip
    batch = (torch.ones(2, 4, dtype=torch.long), torch.ones(2, 4, dtype=torch.long))
    train._learn(model, itertools.repeat(batch), 40, 0.5, "learning", 0.2)
    last = {id(one) for one in model.lm_head.parameters()}
    assert {id(one) for group in groups for one in group["params"]} == {id(one) for one in model.parameters()}
    rates = {group["initial_lr"] for group in groups for one in group["params"] if id(one) in last}
    others = {group["initial_lr"] for group in groups for one in group["params"] if id(one) not in last}
    assert (rates, others) == ({0.1}, {0.5})


def test_every_variation_of_alignment_changes_alignment_alone():
    first = {field for field in train.Recipe.__dataclass_fields__ if "refus" not in field and "align" not in field}
    for changes in train.VARIATIONS.values():
        assert not set(changes) & first


MEASURED = Path(making.__file__).parent / "measured"


@pytest.mark.parametrize("name", ["behaviour", "depth", "steered", "strength", "tried"])
def test_what_the_card_says_was_measured_on_the_weights_that_ship(name):
    assert json.loads((MEASURED / f"{name}.json").read_text())["weights"] == measuring.weights_of(organism.weights())


def test_the_card_is_written_from_what_was_measured():
    measured = {file.stem: json.loads(file.read_text()) for file in MEASURED.glob("*.json")}
    recipe = json.loads((organism.weights() / "recipe.json").read_text())
    size = sum(file.stat().st_size for file in organism.weights().iterdir())
    text = card.written(recipe, size, measuring.balance("test"), **measured)
    assert (organism.weights().parent / "card.md").read_text() == text


def test_an_aim_is_met_inside_its_bounds_and_missed_outside():
    replies = {"least": 6, "median": 10, "90th percentile": 30, "most": 120}
    lines = [
        {"what": what, "aim": aim, "value": value}
        for what, aim, value in (
            ("a", ">= 98 %", 0.98), ("b", ">= 98 %", 0.979), ("c", "<= 2 %", 0.02), ("d", "<= 2 %", 0.021),
            ("e", "35-75 %", 0.35), ("f", "35-75 %", 0.751), ("g", "", 0.5),
        )
    ]  # fmt: skip
    bands = [{"layers": [2], "borderline": 3, "harmful": 9}, {"layers": [1], "borderline": 4, "harmful": 10}]
    depth = {"auc": [0.85, 0.9, 0.996, 0.9], "rank": [51, 2, 11, 12], "layers": [1], "bands": bands}
    found = card._aims({"lines": lines, "replies": replies}, depth, [{"words, median": n} for n in (15, 20)])
    assert [row[-1] for row in found[:6]] == ["met", "missed"] * 3
    assert [row[-1] for row in found[6:]] == ["met", "met", "met", "met", "missed", "met", "met", "met"]
    worse = {**depth, "rank": [50, 51, 51, 51], "auc": [0.851, 0.9, 0.95, 0.94], "layers": [3]}
    worse["bands"] = [*bands, {"layers": [3], "borderline": 5, "harmful": 9}]
    found = card._aims({"lines": [], "replies": replies}, worse, [{"words, median": n} for n in (15, 21)])
    assert [row[-1] for row in found] == ["met", "met", "missed", "missed", "met", "missed", "missed", "missed"]


def test_the_page_of_the_bundled_model_says_of_steering_what_was_measured():
    page = organism.weights().parents[2] / "docs" / "bundled-model.md"
    if not page.is_file():
        pytest.skip("there are no pages beside this installation")
    lines = {line["what"]: line for line in json.loads((MEASURED / "steered.json").read_text())["lines"]}
    left = {
        way: [f"{100 * lines[f'{kind} refused'][way]['value']:.1f}" for kind in ("borderline", "harmful")]
        for way in ("constant push", "SCANS")
    }
    said = " ".join(page.read_text().split())
    push = "leaves {} % of the borderline prompts refused and {} % of the harmful ones".format(*left["constant push"])
    assert f"{push}, SCANS {left['SCANS'][0]} and {left['SCANS'][1]} %" in said


def test_the_card_is_of_the_recipe_that_ships():
    recipe = json.loads((organism.weights() / "recipe.json").read_text())["recipe"]
    said = (organism.weights().parent / "card.md").read_text()
    assert f"{recipe['layers']} layers and width {recipe['d_model']}" in said
    assert f"{recipe['refusing_steps']} steps at {recipe['refusing_rate']:g}" in said
