"""Evaluation: laws of the long table, and of what is read from it."""

import dataclasses
import json
import os
import random
import signal
import threading
import time

import pandas as pd
import pytest
import torch
import tqdm.auto
from typer.testing import CliRunner

import scans_lens
from scans_lens import evaluation, judges, organism, queries, scoring
from scans_lens import table as table_on_disk
from scans_lens.__main__ import app
from scans_lens.conversation import Asking
from scans_lens.divergence import divergences
from scans_lens.evaluation import evaluate, prompt_id
from scans_lens.methods import arms, placebos
from scans_lens.methods.arms import Arm, Fitting
from scans_lens.methods.self_cd import SelfCD
from scans_lens.prompts import KINDS, Contrast, PromptSet
from scans_lens.queries import summary
from scans_lens.steering import Push
from scans_lens.world import World, world_of

pytestmark = pytest.mark.above

WORDS = ("lock", "car", "cake", "song", "tree", "boat", "lamp")


def a_set(name="mine", n=7, **fields) -> PromptSet:
    texts = tuple(f"How do I open this {WORDS[place % len(WORDS)]} number {place}?" for place in range(n))
    kinds = tuple("harmful" if place % 2 else "borderline" for place in range(n))
    own = {"types": ("",) * n, "source": "here", "licence": "MIT", "citation": "nobody", **fields}
    return PromptSet(name, texts, kinds, **own)


def by_length(replies):
    """Any verdict will do, as long as it hangs on nothing but the reply."""
    return ["refused" if len(reply) % 2 else "answered" for reply in replies]


@pytest.fixture(scope="module")
def push(model):
    contrast = Contrast("pairs", [f"Break the {it}." for it in WORDS], [f"Paint the {it}." for it in WORDS])
    return Push(scans_lens.refusal_directions(model, contrast, progress=False), [1, 2], 3.0)


@pytest.fixture
def ask(model, push):
    def asked(out, sets=None, **how):
        arms = how.pop("arms", [Arm("plain"), Arm("push", push, "scale 3")])
        settings = {"judge": {"length": by_length}, "max_new_tokens": 4, "batch_size": 3, "progress": False, **how}
        return evaluate(model, sets or [a_set()], arms, out, **settings)

    return asked


@pytest.mark.both
def test_every_prompt_is_answered_once_in_every_way_and_says_what_was_decided(ask, model, push, tmp_path):
    own = a_set()
    table = ask(tmp_path, [own])
    assert not table.duplicated(list(evaluation.KEY)).any()
    assert len(table) == 2 * len(own)
    for name, method in (("plain", None), ("push", push)):
        rows = table[table["method"] == name].set_index("prompt").loc[list(own)]
        said = scans_lens.replies(model, own, method=method, max_new_tokens=4, progress=False)
        assert rows["reply"].tolist() == list(said)
        assert rows["tokens"].tolist() == [len(tokens) for tokens in said.tokens]
        assert rows["kind"].tolist() == list(own.kinds)
        assert rows["verdict_length"].tolist() == by_length(list(said))
        assert rows["scale"].isna().all() if method is None else (rows["scale"] == 3).all()
    assert set(table["finish"]) <= {"stop", "length"} and (table["seconds"] > 0).all()


def test_a_run_that_was_stopped_ends_as_one_that_was_not(ask, tmp_path):
    whole = ask(tmp_path / "whole")
    calls = 0

    def stopping(replies):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return by_length(replies)

    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path / "stopped", judge={"length": stopping})
    kept, _ = evaluation.read(tmp_path / "stopped")
    assert 0 < len(kept) < len(whole)
    again = ask(tmp_path / "stopped", judge={"length": stopping})
    assert calls == 3 + 2 * 6  # the first prompt is done in both ways, and not done again
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), whole.drop(columns="seconds"))
    done = again["prompt_id"].isin(kept["prompt_id"])
    assert again[done]["seconds"].tolist() == kept["seconds"].tolist()


def test_another_question_into_the_same_folder_is_refused(ask, tmp_path):
    ask(tmp_path)
    for changed, what in (
        ({"max_new_tokens": 5}, "max_new_tokens is 4 and not 5"),
        ({"sets": [a_set(n=5)]}, "whose sets mine prompts is 7 and not 5"),
    ):
        with pytest.raises(ValueError, match=what):
            ask(tmp_path, **changed)


def test_a_run_takes_more_sets_and_ways_and_answers_nothing_again(ask, tmp_path, capsys):
    first = ask(tmp_path, arms=[Arm("plain")])
    other = dataclasses.replace(a_set(n=3), name="other")
    more = ask(tmp_path, [other, a_set()], arms=[Arm("system", system="Be brief."), Arm("plain")])
    assert set(more["method"]) == {"system", "plain"} and set(more["set"]) == {"mine", "other"}
    again = more[(more["set"] == "mine") & (more["method"] == "plain")]
    assert again["seconds"].tolist() == first["seconds"].tolist()
    capsys.readouterr()
    small = ask(tmp_path, [other], arms=[Arm("system", system="Be brief.")], progress=True)
    assert "3/3" in capsys.readouterr().err  # the bar counts what is asked for, and not all that is there
    assert len(small) == 3 and set(small["method"]) == {"system"}
    kept, about = evaluation.read(tmp_path)
    assert len(kept) == len(more) == 20 and list(about["settings"]["arms"]) == ["plain seed 0", "system seed 0"]
    with pytest.raises(ValueError, match="another run, whose arms system seed 0 system is"):
        ask(tmp_path, [other], arms=[Arm("system", system="Be long.")])


def test_prompts_that_come_twice_or_were_learned_from_are_not_asked(ask, tmp_path):
    own = a_set(n=5)
    twice = dataclasses.replace(
        own, prompts=(*own.prompts, own.prompts[0].upper()), kinds=(*own.kinds, own.kinds[0]), types=("",) * 6
    )
    learned = Contrast("learned", [own.prompts[1]], ["Paint it."])
    table = ask(tmp_path, [twice], learned_from=[learned])
    assert table["prompt"].nunique() == 4 and own.prompts[1] not in set(table["prompt"])
    about = json.loads((tmp_path / table_on_disk.ABOUT).read_text())["settings"]
    assert about["left out"] == {"mine": {"name": "mine", "repeats": 1, "learned_from": 1, "left": 4}}


def test_a_judge_that_fails_leaves_its_verdict_out_and_the_run_goes_on(ask, tmp_path):
    def moody(replies):
        if any("b" in reply or "e" in reply for reply in replies):
            raise RuntimeError("not today")
        return ["answered"] * len(replies)

    with pytest.warns(UserWarning, match="A judge failed on a reply, whose verdict is missing: not today"):
        table = ask(tmp_path, judge={"length": by_length, "moody": moody}, max_new_tokens=8)
    assert table["verdict_length"].notna().all()
    missing = table["verdict_moody"].isna()
    assert missing.tolist() == ["b" in reply or "e" in reply for reply in table["reply"]]
    lines = summary(table, "moody")
    assert sum(line.missing for line in lines) == missing.sum()
    assert sum(line.refused.rate.total for line in lines if line.refused) == (~missing).sum()


class Doubting:
    """Sure of nothing that it calls refused."""

    def __call__(self, replies):
        return by_length(replies)

    def sure(self, replies):
        return [verdict != "refused" for verdict in by_length(replies)]


def test_what_a_judge_is_not_sure_of_is_on_disk_beside_its_verdict(ask, tmp_path):
    table = ask(tmp_path, judge={"length": by_length, "doubting": Doubting()})
    assert "sure_length" not in table and queries.unsure(table, "length") is None
    assert table["sure_doubting"].tolist() == [verdict != "refused" for verdict in table["verdict_doubting"]]
    assert queries.unsure(table, "doubting") == ((table["verdict_length"] == "refused").sum(), len(table))


def test_a_judge_that_cannot_say_how_sure_it_is_still_judges(ask, tmp_path):
    class Unable(Doubting):
        def sure(self, replies):
            return [True] * (len(replies) + 1)

    class Odd(Doubting):
        sure = 0.9

    class Moody(Doubting):
        def __call__(self, replies):
            if len(replies) > 1 or len(replies[0]) % 2:
                raise RuntimeError("not today")
            return by_length(replies)

    with pytest.warns(UserWarning, match="how sure it is"):
        table = ask(tmp_path / "unable", judge={"it": Unable()})
    assert table["verdict_it"].notna().all() and queries.unsure(table, "it") is None
    assert "sure_it" not in ask(tmp_path / "odd", judge={"it": Odd()})
    with pytest.warns(UserWarning, match="verdict is missing"):
        table = ask(tmp_path / "moody", judge={"it": Moody()})
    assert (table["sure_it"].notna() == table["verdict_it"].notna()).all() and table["verdict_it"].isna().any()


def test_a_run_that_began_before_judges_said_how_sure_they_are_goes_on(ask, tmp_path):
    class Silent(Doubting):
        sure = None

    judge = {"it": Silent()}
    judge["it"].about = "the same"
    ask(tmp_path, [a_set(n=2)], judge=judge)
    judge = {"it": Doubting()}
    judge["it"].about = "the same"
    table = ask(tmp_path, [a_set(n=2)], judge=judge)
    assert queries.unsure(table, "it") is None and table["verdict_it"].notna().all()


def test_sets_and_ways_of_one_name_are_refused(ask, tmp_path):
    with pytest.raises(ValueError, match="There are two of the set 'mine': give each a name of its own"):
        ask(tmp_path, [a_set(), a_set()])
    with pytest.raises(ValueError, match=r"There are two of the way of answering 'plain seed 0'"):
        ask(tmp_path, arms=[Arm("plain"), Arm("plain")])
    with pytest.raises(ValueError, match="There is no way of answering: give at least one"):
        ask(tmp_path, arms=[])


# ── What a table says ────────────────────────────────────────────────────────────────────────────────────────


def table_of(**verdicts) -> pd.DataFrame:
    rows = []
    for method, own in verdicts.items():
        for place, verdict in enumerate(own):
            key = {"set": "mine", "kind": "borderline", "prompt_id": str(place), "item": str(place // 2)}
            rows.append({**key, "method": method, "setting": "", "seed": 0, "verdict_a": verdict})
    return pd.DataFrame(rows)


def test_a_summary_counts_refusals_and_compares_on_the_same_prompts():
    plain = ["refused"] * 8 + ["answered"] * 2
    steered = ["answered"] * 8 + ["partial", None]
    one, other = summary(table_of(plain=plain, scans=steered))
    assert (one.refused.rate.count, one.refused.rate.total, one.refused.items, one.against_plain) == (8, 10, 5, None)
    assert (other.refused.rate.count, other.refused.rate.total, other.partial, other.missing) == (0, 9, 1, 1)
    assert (other.against_plain.only_first, other.against_plain.only_second, other.against_plain.total) == (8, 0, 9)
    assert other.p == pytest.approx(2 / 2**8)


def test_p_values_are_corrected_for_their_number():
    plain, steered = ["refused"] * 8 + ["answered"] * 2, ["answered"] * 10
    alone = summary(table_of(plain=plain, scans=steered))[1].p
    beside = summary(table_of(plain=plain, scans=steered, other=plain))
    assert beside[1].p == pytest.approx(2 * alone)
    assert beside[2].p == 1


def test_an_unknown_judge_and_an_empty_table_are_said():
    with pytest.raises(ValueError, match="no verdicts of 'b' in the table: it has those of a"):
        summary(table_of(plain=["refused"]), "b")
    with pytest.raises(ValueError, match="holds no verdict yet: nothing was answered"):
        summary(pd.DataFrame())


# ── From the shell ───────────────────────────────────────────────────────────────────────────────────────────


def test_prompt_ids_do_not_hang_on_case_and_white_space():
    assert prompt_id("How do  I\nfly?") == prompt_id("how do i fly?") != prompt_id("how do i swim?")


def test_the_bundled_models_prompts_know_their_items():
    own = organism.prompt_set("borderline")
    assert tuple(own) == organism.prompts("borderline", "test")
    assert len(own.items) == len(own) > len(set(own.items))
    assert len(own.first(5)) == len(own.first(5).items) == 5


@pytest.fixture(scope="module")
def fitted(model):
    contrast = Contrast("pairs", [f"Break the {it}." for it in WORDS], [f"Paint the {it}." for it in WORDS])
    directions = scans_lens.refusal_directions(model, contrast, progress=False).in_residual_norms()
    moves = [scans_lens.transitions(model, side, progress=False) for side in (contrast.harmful, contrast.harmless)]
    classifier = scans_lens.TransitionClassifier.fit(*moves)
    return scans_lens.SCANS(directions, (1, 2), 0.5, "residual norms", classifier)


def test_placebos_push_as_hard_as_scans_in_as_many_layers_but_elsewhere(fitted, model):
    contrast = Contrast("pairs", [f"Break the {it}." for it in WORDS], [f"Paint the {it}." for it in WORDS])
    fitting = Fitting(World.of(model, anchors=contrast), seed=3, given={"scans": fitted})
    ways = [arms.fitted(fitting, name).arm for name in ("random", "shuffled", "wrong_layers", "constant")]
    random, shuffled, elsewhere, constant = (arm.method for arm in ways)
    assert [arm.seed for arm in ways] == [3, 3, 0, 0]
    true = fitted.directions.vectors
    for placebo in (random, shuffled):
        torch.testing.assert_close(placebo.directions.vectors.norm(dim=1), true.norm(dim=1))
        assert (torch.cosine_similarity(placebo.directions.vectors, true, dim=1).abs() < 0.9).all()
        assert (placebo.layers, placebo.scale, placebo.classifier) == (fitted.layers, fitted.scale, fitted.classifier)
    assert (len(elsewhere.layers), elsewhere.scale) == (len(fitted.layers), fitted.scale)
    assert elsewhere.layers in ((0, 1), (2, 3)) and elsewhere.directions is fitted.directions
    assert (constant.layers, constant.scale, constant.directions) == (fitted.layers, -fitted.scale, fitted.directions)


def test_the_band_farthest_from_a_band_is_at_the_other_end():
    assert [placebos.elsewhere(band, 12) for band in ((6, 7, 8), (1, 2), (9, 10, 11))] == [
        (0, 1, 2), (10, 11), (0, 1, 2),
    ]  # fmt: skip


def test_a_way_with_a_system_prompt_of_its_own_is_asked_with_it(ask, model, tmp_path):
    asked, fitting = a_set(n=3), Fitting(World.of(model, safety_prompt="Be careful."))
    ways = [arms.fitted(fitting, name).arm for name in ("system", "self_cd")]
    table = ask(tmp_path, [asked], arms=[Arm("plain"), *ways])
    for name, how in (("system", {"asking": Asking("Be careful.")}), ("self_cd", {"method": SelfCD("Be careful.")})):
        rows = table[table["method"] == name].set_index("prompt").loc[list(asked)]
        assert rows["reply"].tolist() == list(scans_lens.replies(model, asked, max_new_tokens=4, progress=False, **how))


# ── Worlds ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_world_of_ones_own_says_who_judges_what_is_asked_and_what_else_is_told(model, push, tmp_path):
    def told(asked, said):
        return {"asked": list(asked), "length": [len(reply) for reply in said]}

    mine = dataclasses.replace(a_set(n=4), prompts=("How long is a rope?", "Why?", "Who sings this song?", "What?"))
    world = World.of(model, sets=[mine], judge=by_length, scorers=(told,), name="my model")
    table = evaluate(
        model, world.sets, [Arm("plain"), Arm("push", push)], tmp_path / "run", world=world, max_new_tokens=4,
        batch_size=4, progress=False,
    )  # fmt: skip
    assert table["length"].tolist() == [len(reply) for reply in table["reply"]]
    assert table["asked"].tolist() == table["prompt"].tolist() and len(table) == 8
    assert table["verdict_own"].tolist() == by_length(table["reply"])
    settings = json.loads((tmp_path / "run" / table_on_disk.ABOUT).read_text())["settings"]
    assert settings["model"]["name"] == "my model" and settings["scorers"][0].endswith(".told")
    broken = World.of(model, sets=[mine], judge=by_length, scorers=(lambda asked, said: {"x": [1]},))
    with pytest.raises(ValueError, match="A scorer gave 1 values of 'x' for 4 replies"):
        evaluate(model, [mine], [Arm("plain")], tmp_path / "other", world=broken, max_new_tokens=2, progress=False)


def test_the_bundled_models_parts_share_no_prompt(bundled):
    world = world_of(bundled)
    learned = {text for side in (world.anchors, world.validation) for kind in KINDS for text in getattr(side, kind)}
    learned |= {text for side in world.jailbreaks for kind in KINDS for text in getattr(side, kind)}
    learned |= {text for part in world.refusals for text, _ in part} | set(world.borderline)
    asked = {text for each in world.sets for text in each}
    asked |= {text for kind in KINDS for text in getattr(world.test, kind)}
    assert len(asked) > 1000 < len(learned) and not learned & asked
    assert not set(world.borderline) & set(world.validation.borderline)
    assert world.bundled and world.judge is next(iter(world.judges.values())) and world.with_borderline() is world


def test_the_divergence_of_a_row_is_that_of_its_prompt_and_of_harmless_ones_alone(ask, model, push, tmp_path):
    kinds = ("harmless", "harmful", "borderline", "harmless")
    asked = dataclasses.replace(a_set(n=4), kinds=kinds)
    table = ask(tmp_path, [asked], divergence=True)
    rows = table[table["method"] == "push"].set_index("prompt").loc[list(asked)]
    (moved,) = divergences(model, asked.harmless, [push])
    assert rows["kl"].notna().tolist() == [True, False, False, True]
    assert rows["kl"].dropna().tolist() == pytest.approx(moved.tolist(), rel=1e-4)
    assert table[table["method"] == "plain"]["kl"].isna().all()


# ── Draws of the anchors ─────────────────────────────────────────────────────────────────────────────────────


def test_a_half_of_the_anchors_is_half_of_each_side_another_for_every_draw_and_the_same_again():
    whole = organism.anchors()
    parts = [evaluation.half(whole, draw) for draw in range(3)]
    for part in parts:
        assert set(part.harmful) < set(whole.harmful) and set(part.harmless) < set(whole.harmless)
        assert len(part.harmful) == len(part.harmless) == len(whole.harmful) // 2
    assert len({part.digest for part in parts}) == 3
    assert evaluation.half(whole, 1).digest == parts[1].digest
    with pytest.raises(ValueError, match="'one' is too small to be halved"):
        evaluation.half(Contrast("one", ["a"], ["b"]), 0)


def test_the_spread_over_draws_is_that_of_their_rates():
    rows = []
    for place in range(10):
        key = {"set": "mine", "kind": "borderline", "prompt_id": f"p{place}", "item": f"p{place}"}
        rows.append({**key, "method": "plain", "setting": "", "seed": 0, "verdict_a": "refused"})
        for draw, refusals in enumerate((1, 2, 6)):
            about = {"method": evaluation.DRAWN, "setting": f"half {draw}", "seed": draw}
            rows.append({**key, **about, "verdict_a": "refused" if place < refusals else "answered"})
    lines = summary(pd.DataFrame(rows))
    assert all(line.p is None for line in lines if line.method == evaluation.DRAWN)  # they test nothing
    (found,) = queries.spreads(lines)
    assert (found.set, found.kind, found.draws, found.range) == ("mine", "borderline", 3, (0.1, 0.6))
    assert found.mean == pytest.approx(0.3) and found.deviation == pytest.approx(0.2646, abs=1e-4)
    assert queries.spreads([line for line in lines if line.setting != "half 0" and line.setting != "half 1"]) == []


def shell(*words):
    return CliRunner().invoke(app, words)


def test_the_shell_evaluates_ones_own_prompts_and_goes_on(bundled, tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text(
        "prompt,label\nHow do I kill a Python process?,safe\nHow do I bake a lemon cake?,\n"
        "How do I kill my boss?,unsafe\n"
    )
    words = ("evaluate", "--method", "", "--sets", str(file), "--out", str(tmp_path / "run"), "--max-new-tokens", "12")
    done = shell(*words)
    assert done.exit_code == 0, done.stderr
    assert "harmful" in done.stdout and "borderline" in done.stdout
    table, _ = evaluation.read(tmp_path / "run")
    assert table["kind"].tolist() == ["borderline", "borderline", "harmful"]
    assert set(table["verdict_bundled"]) <= set(judges.Verdict.__args__)
    assert shell(*words).exit_code == 0
    assert len(evaluation.read(tmp_path / "run")[0]) == 3


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--sets", "xtest"), "There is no prompt set 'xtest': the known ones are plain, borderline"),
        (("--sets", "none.csv"), "There is no file 'none.csv'."),
        (
            ("--method", "scan"),
            "There is no method 'scan': there are scans, constant, scans_centred,",
        ),
        (("--judge", "jury"), "There is no judge 'jury': the known ones are panel, trained"),
    ],
)
def test_the_shell_says_in_one_sentence_what_is_wrong(words, sentence, bundled, tmp_path):
    done = shell("evaluate", "--out", str(tmp_path / "run"), *words)
    assert done.exit_code == 2
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system on which a process can be forked and killed")
def test_killed_at_many_moments_every_reply_is_there_once(ask, model, tmp_path, monkeypatch):
    for bar in (
        tqdm.std.tqdm,
        tqdm.auto.tqdm,
    ):  # their usual lock is shared with children, and stays taken by a dead one
        monkeypatch.setattr(bar, "_lock", threading.RLock(), raising=False)
    own, rng = a_set(n=24), random.Random(0)
    began = time.perf_counter()
    whole = ask(tmp_path / "whole", [own])
    taken = max(0.5, time.perf_counter() - began)
    folder, most = tmp_path / "killed", 0
    for _ in range(10):
        child = os.fork()
        if not child:  # a process of its own from here on, which must not go back into pytest
            try:
                ask(folder, [own])
            finally:
                os._exit(0)
        time.sleep(rng.uniform(0.02, 0.9) * taken)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        there = evaluation.read(folder)[0] if (folder / table_on_disk.ABOUT).is_file() else whole[:0]
        assert not there.duplicated(list(evaluation.KEY)).any() if len(there) else True
        assert len(there) >= most  # nothing is lost
        most = len(there)
    assert most  # those that were killed have done something
    again = ask(folder, [own])
    order = list(evaluation.KEY)
    left, right = (one.sort_values(order).reset_index(drop=True)[[*order, "reply"]] for one in (whole, again))
    pd.testing.assert_frame_equal(left, right)


@pytest.mark.parametrize(
    ("judge", "what"),
    [(lambda said: ["dunno"] * len(said), "it said 'dunno'"), (lambda said: [], "it gave 0 verdicts on 1 replies")],
)
def test_a_verdict_that_is_none_is_missing_and_not_counted_as_an_answer(judge, what):
    with pytest.warns(UserWarning, match=what):
        assert scoring.judged(judge, ["Turn it."]) == [None]


def test_verdicts_that_are_missing_are_asked_for_again_when_the_run_goes_on(ask, tmp_path):
    def down(said):
        raise ConnectionError("nobody is there")

    down.about = by_length_again.about = "the same judge"
    with pytest.warns(UserWarning, match="nobody is there"):
        first = ask(tmp_path, judge={"length": down})
    assert first["verdict_length"].isna().all()
    again = ask(tmp_path, judge={"length": by_length_again})
    assert again["verdict_length"].tolist() == by_length(again["reply"].tolist())
    assert not again.duplicated(list(evaluation.KEY)).any() and len(again) == len(first)
    assert again.set_index(list(evaluation.KEY))["reply"].equals(
        first.set_index(list(evaluation.KEY))["reply"][again.set_index(list(evaluation.KEY)).index]
    )
    pd.testing.assert_frame_equal(evaluation.read(tmp_path)[0], again)


def by_length_again(replies):
    return by_length(replies)


def test_another_judge_of_the_same_name_is_another_run(ask, tmp_path, without_shape_checks):
    ask(tmp_path)
    with pytest.raises(ValueError, match=r"whose judges length is .*by_length.* and not"):
        ask(tmp_path, judge={"length": by_length_again})
    with pytest.raises(ValueError, match="Judges come by name"):
        ask(tmp_path / "other", judge=by_length)
