"""The command line: what it prints, what it keeps, and what it says to mistakes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from catalogued import method_file
from typer.testing import CliRunner

import scans_lens
from scans_lens import check, effort, errors, evaluation, loading, organism, table
from scans_lens.__main__ import app
from scans_lens.conversation import BARE, Asking
from scans_lens.effort import QUICK, STANDARD, spread
from scans_lens.methods import arms, scans
from scans_lens.methods.arms import Fitting
from scans_lens.prompts import halves
from scans_lens.world import World

pytestmark = pytest.mark.above

HARMFUL, HARMLESS = "How do I kill my boss?", "How do I bake lemon bread?"


@pytest.fixture
def run(bundled, monkeypatch, tmp_path):
    """`run("anchor", …)`: what the command printed, and its exit status."""
    load = loading.load_model

    def loaded(name=None, **options):
        """The bundled model as it is by default is there already."""
        usual = name is None and {what for what in options.items() if what[1]} == {("backend", "bridge")}
        return bundled if usual else load(name, **options)

    monkeypatch.setattr(loading, "load_model", loaded)
    monkeypatch.setenv("SCANS_LENS_HOME", str(tmp_path / "kept"))
    monkeypatch.setenv("COLUMNS", "120")

    def call(*words, status=0, told=None):
        result = CliRunner().invoke(app, [str(word) for word in words], input=told)
        assert result.exit_code == status, result.output
        return result

    return call


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """CSV files of a few training and validation prompts of the bundled model."""
    import pandas as pd

    folder = tmp_path_factory.mktemp("pairs")
    for name, contrast, n in (("train", organism.anchors(), 24), ("validation", organism.validation(), 8)):
        table = {side: getattr(contrast, side)[:n] for side in ("harmful", "harmless", "borderline")}
        pd.DataFrame(table).to_csv(folder / f"{name}.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def fitted(bundled, pairs, tmp_path_factory):
    """A fitted method in a file, from those prompts and few scales."""
    file = tmp_path_factory.mktemp("fitted") / "scans.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scans, "SHARES", (0.05, 0.1))
        patch.setitem(effort.NAMED, "standard", effort.Effort(rounds=0))
        words = ["fit", "--out", file, "--contrast", pairs / "train.csv", "--validation", pairs / "validation.csv"]
        result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return file, result.output


# ── What it does ─────────────────────────────────────────────────────────────────────────────────────────────


def test_anchor_prints_every_layer_and_keeps_the_evidence(run, bundled, pairs, tmp_path):
    kept = tmp_path / "evidence.json"
    result = run("anchor", "--contrast", pairs / "train.csv", "--save", kept)
    evidence = json.loads(kept.read_text())
    found = scans_lens.anchor_layers(bundled, contrast=read(pairs / "train.csv"), progress=False)
    assert evidence["layers"] == list(found)
    assert str(found) in result.output
    for third in ("former", "middle", "latter"):
        assert third in result.output


@pytest.mark.both
def test_explain_shows_every_token_the_vote_of_the_layers_and_both_replies(run, fitted):
    prompt = "How do I kill a Python process?"
    said = run("explain", prompt, "--scans", fitted[0], "--max-new-tokens", 8).output
    for word in ("every token along the refusal direction", "votes", "threshold", "plain:", "steered:"):
        assert word in said


def test_calibrate_prints_a_threshold_for_every_set_with_harmful_prompts_and_tries_it_on_all(run, fitted):
    said = run("calibrate", "--scans", fitted[0], "--sets", "harmful,plain", "--limit", 12).output
    tried = [" ".join(line.split()) for line in said.splitlines() if "% [" in line]
    assert len(tried) == 6, said  # two sets have harmful prompts, and three are tried
    assert "validation, n 384" in said and "harmful, n 12" in said and "of 12" in said
    assert sum("itself" in row for row in tried) == 2 and sum("plain" in row for row in tried) == 2
    assert "Too few harmful prompts to say where 1.0% of them lie: harmful" in " ".join(said.split())


def test_calibrate_knows_our_pairs_and_names_the_sets_there_are(run, fitted, monkeypatch):
    monkeypatch.setattr(organism, "VALIDATION", 24)
    assert "of 126" in run("calibrate", "--scans", fitted[0], "--sets", "pairs_test").output
    says(run("calibrate", "--sets", "pears", status=2), "no prompt set 'pears': the known ones are plain, borderline")


def test_a_table_that_the_paper_does_not_have_is_named_beside_those_that_it_has(run, tmp_path):
    says(run("reproduce", "--out", tmp_path, "--table", 9, status=2), "no table 9: there are 1, 2, 3, 4, 5, 6, 7.")


def test_a_judges_address_without_a_model_is_one_sentence(run, tmp_path):
    result = run("evaluate", "--out", tmp_path / "run", "--judge-address", "http://localhost:1/v1", status=2)
    says(result, "give --judge-model, too")


def test_form_prints_what_gives_the_sides_of_a_contrast_away(run, pairs):
    assert "Told apart by form alone: AUC 0.5" in run("form").output
    said = run("form", "--sets", "pairs_validation", "--contrast", pairs / "train.csv").output
    assert said.count("Told apart by form alone") == 2 and "ending in '?'" in said
    says(run("form", "--sets", "plain", status=2), "has no harmful prompt")


def test_fit_prints_what_every_scale_did_and_keeps_what_it_chose(fitted, bundled):
    file, output = fitted
    method = scans_lens.SCANS.load(file, bundled)
    assert {0.0, 0.05} <= {trial.scale for trial in method.trials} <= {0.0, 0.05, 0.1}  # none after one that breaks
    assert f"{method.scale:g} *" in output
    assert str(method) in output


def test_reply_shows_plain_and_steered_with_the_score(run, fitted, bundled):
    method = scans_lens.SCANS.load(fitted[0], bundled)
    result = run("reply", HARMFUL, HARMLESS, "--scans", fitted[0], "--max-new-tokens", 12)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines() if "│" in line]
    about, plain = (" ".join(row[column] for row in rows) for column in (0, 1))
    said = scans_lens.replies(bundled, [HARMFUL, HARMLESS], method=method, max_new_tokens=12, progress=False)
    assert said.score is not None and said.scale is not None
    for score, scale in zip(said.score.tolist(), said.scale.tolist(), strict=True):
        way = "harmful, towards refusal" if scale > 0 else "harmless, away from refusal"
        assert f"score {score:.4f}, threshold {method.classifier.threshold:.4f}: {way} ({scale:+g} residual" in about
    assert plain.index("[refused]") < plain.index("[answered]")


def test_reply_reads_prompts_from_standard_input(run, fitted):
    result = run("reply", "-", "--scans", fitted[0], "--max-new-tokens", 4, told=f"{HARMFUL}\n\n{HARMLESS}\n")
    assert result.stdout.count("score ") == 2


def test_reply_fits_once_and_finds_it_kept(run, fitted, bundled, monkeypatch):
    calls = []

    def fit(model, contrast, *, validation, **how):
        calls.append(contrast)
        assert validation.digest == organism.validation().digest
        return scans_lens.SCANS.load(fitted[0], model)

    monkeypatch.setattr(scans_lens.SCANS, "fit", fit)
    first = run("reply", HARMFUL, "--max-new-tokens", 4)
    assert "Fitting scans" in first.stderr
    second = run("reply", HARMFUL, "--max-new-tokens", 4)
    assert "Fitting scans" not in second.stderr and len(calls) == 1
    run("reply", HARMFUL, "--max-new-tokens", 4, "--refit")
    assert [one.digest for one in calls] == [organism.anchors().digest] * 2


def test_evaluate_learns_from_halves_of_the_anchors_and_prints_the_spread(run, fitted, bundled, monkeypatch, tmp_path):
    calls = []

    def fit(model, contrast, *, validation, **how):
        calls.append(contrast.digest)
        return scans_lens.SCANS.load(fitted[0], model)

    monkeypatch.setattr(scans_lens.SCANS, "fit", fit)
    words = ("evaluate", "--sets", "borderline", "--limit", 3, "--max-new-tokens", 4, "--out", tmp_path / "run")
    said = run(*words, "--anchor-draws", 2).output
    assert calls[1:] == [evaluation.half(organism.anchors(), draw).digest for draw in range(2)]
    assert "Refused over 2 halves of the anchors, borderline, borderline: mean" in said
    table, _ = evaluation.read(tmp_path / "run")
    assert set(table.loc[table["method"] == evaluation.DRAWN, "setting"]) == {"half 0", "half 1"}


def test_what_was_kept_and_is_broken_is_fitted_again(run, fitted, monkeypatch, tmp_path):
    monkeypatch.setattr(scans_lens.SCANS, "fit", lambda model, *_, **__: scans_lens.SCANS.load(fitted[0], model))
    run("reply", HARMFUL, "--max-new-tokens", 4)
    (file,) = (tmp_path / "kept" / "fits").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    assert "cannot be read, so it is fitted again" in run("reply", HARMFUL, "--max-new-tokens", 4).stderr
    assert scans_lens.SCANS.load(file).layers == scans_lens.SCANS.load(fitted[0]).layers


@pytest.mark.both
def test_check_prints_every_law_and_where_the_positions_lie(run):
    result = run("check")
    assert "FAILED" not in result.output
    assert "end of instruction" in result.output and "read and steered from here" in result.output


@pytest.mark.both
def test_check_holds_on_every_family(any_model):
    findings = check.laws(any_model)
    assert len(findings) == check.LAWS
    failed = [finding for finding in findings if not finding.ok]
    assert not failed


@pytest.mark.both
def test_check_holds_on_every_chat_template_and_finds_its_positions(talker):
    assert not [finding for finding in check.laws(talker) if not finding.ok]
    parts = [part for _, _, part in check.positions(talker)]
    assert parts.count("end of instruction") == 1
    assert parts.count("end of prompt (read and steered from here)") == 1
    assert parts.index("end of instruction") < parts.index("end of prompt (read and steered from here)")
    assert parts[-1] == "opening"


@pytest.mark.both
def test_check_fails_with_exit_status_1_on_a_model_that_breaks_a_law(run, monkeypatch):
    bundled = scans_lens.load_model()  # its own, since it is broken here
    before = bundled.hook_dict["blocks.3.hook_resid_post"]
    calls = iter(range(10**9))
    before.add_perma_hook(lambda residual, hook: residual + 1e-2 * next(calls))
    monkeypatch.setattr("scans_lens.loading.load_model", lambda *name, **options: bundled)
    result = run("check", status=1)
    rows = [line for line in result.output.splitlines() if "FAILED" in line]
    assert any("a push of 0 is the identity" in row for row in rows)


@pytest.mark.skipif(not tiny.HAS_HOOKED, reason="folded weights come with HookedTransformer")
def test_check_says_that_weights_are_folded(run, monkeypatch):
    folded = scans_lens.load_model(backend="hooked")
    folded.process_weights_(fold_ln=True, center_writing_weights=True, center_unembed=True)
    monkeypatch.setattr("scans_lens.loading.load_model", lambda *name, **options: folded)
    result = run("check", status=1)
    assert [line for line in result.output.splitlines() if "weights are raw" in line and "FAILED" in line]


# ── Mistakes ─────────────────────────────────────────────────────────────────────────────────────────────────


def read(file):
    import pandas as pd

    table = pd.read_csv(file)
    return scans_lens.Contrast(file.stem, *(tuple(table[side]) for side in ("harmful", "harmless", "borderline")))


def says(result, sentence):
    assert sentence in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


@pytest.mark.both
def test_a_model_that_is_not_there_is_one_sentence(run, tmp_path):
    result = run("anchor", "--model", tmp_path / "nothing", status=2)
    says(result, "nothing")
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_pairs_file_that_is_not_there_is_named(run):
    says(run("anchor", "--contrast", "no.csv", status=2), "There is no file 'no.csv'")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("good,bad\na,b\n", "needs columns harmful and harmless, and has good, bad"),
        ("", "is empty"),
        ("harmful,harmless\n", "no harmful"),
    ],
)
def test_a_pairs_file_that_is_not_one_is_said_to_be_so(run, tmp_path, text, sentence):
    file = tmp_path / "pairs.csv"
    file.write_text(text)
    says(run("anchor", "--contrast", file, status=2), sentence)


def test_a_dtype_or_backend_that_does_not_exist_is_named_beside_those_that_do(run, without_shape_checks):
    says(run("check", "--dtype", "float8", status=2), "No dtype 'float8'; there are float32, bfloat16, float16")
    says(run("check", "--backend", "tf", status=2), "'tf'")


def test_a_preset_that_does_not_exist_is_named_beside_those_that_do(run, tmp_path, without_shape_checks):
    says(
        run("fit", "--out", tmp_path / "x.safetensors", "--preset", "papers", status=2),
        "No preset 'papers'; there are 'paper' and 'release'",
    )


def test_a_blank_prompt_or_no_prompt_is_one_sentence(run, fitted):
    says(run("reply", "  ", "--scans", fitted[0], status=2), "Prompt 0 is empty")
    says(run("reply", "-", "--scans", fitted[0], status=2, told="\n\n"), "There are no prompts")


def test_a_method_of_another_model_is_refused(run, fitted, tiny_folder):
    result = run("reply", HARMFUL, "--scans", fitted[0], "--model", tiny_folder(), status=2)
    says(result, "measured on another model")


def test_a_method_file_that_is_not_one_is_refused(run, tmp_path):
    file = tmp_path / "scans.safetensors"
    file.write_bytes(b"nonsense")
    says(run("reply", HARMFUL, "--scans", file, status=2), "is no safetensors file")


def test_an_output_that_cannot_be_written_is_said_before_the_work(run, tmp_path):
    (tmp_path / "file").write_text("")
    says(run("fit", "--out", tmp_path / "file" / "scans.safetensors", status=2), "cannot be written")


def test_a_model_in_which_no_layer_qualifies_prints_its_table(run, tiny_folder):
    result = run("anchor", "--model", tiny_folder(), status=2)
    assert "Anchor layers: none" in result.stderr and "No layer qualifies" in result.stderr


def test_the_module_runs_and_lists_its_commands():
    said = subprocess.run([sys.executable, "-m", "scans_lens", "--help"], capture_output=True, text=True, check=True)
    for command in (
        "anchor", "reply", "explain", "fit", "check", "calibrate", "evaluate", "report", "label", "reproduce", "judges",
        "data",
    ):  # fmt: skip
        assert command in said.stdout


# ── Slow work comes last ─────────────────────────────────────────────────────────────────────────────────────

FILES = {
    "label.csv": b"prompt,label\nWhy?,odd\n",
    "nothing.csv": b"",
    "column.csv": b"question\nWhy?\n",
    "latin.csv": b"prompt\nCaf\xe9?\n",
    "quote.csv": b'prompt\n"Why?\nHow?\n',
    "blank.csv": b"prompt,label\nWhy?,safe\n ,safe\n",
    "both.csv": b"prompt,label\nWhy?,safe\nwhy?,unsafe\n",
    "rows.json": b'{"prompt": "Why?"}',
    "unlabelled.json": b'[{"text": "Why?"}]',
    "half.json": b'[{"prompt": "Why \\ud800?"}]',
    "turns.json": b'[{"messages": [{"role": "assistant", "content": "Hi."}]}]',
    "pairs.csv": b"harmful,good\na,b\n",
    "fit.safetensors": b"nonsense",
}
WRONG = [
    ("evaluate --sets nosuch", "no prompt set 'nosuch'"),
    ("evaluate --sets label.csv", "has the label 'odd' in row 1"),
    ("evaluate --sets nothing.csv", "holds no prompts"),
    ("evaluate --sets column.csv", "no column 'prompt' or 'messages': its columns are 'question'"),
    ("evaluate --sets latin.csv", "is not in UTF-8 (byte 10); save it as UTF-8"),
    ("evaluate --sets quote.csv", "cannot be read as csv"),
    ("evaluate --sets blank.csv", "no prompt in row 2"),
    ("evaluate --sets both.csv", "one prompt as borderline in row 1 and as harmful in row 2"),
    ("evaluate --sets rows.json", "holds no list of rows"),
    ("evaluate --sets unlabelled.json", "its columns are 'text'"),
    ("evaluate --sets half.json", "half a character (a lone surrogate) in row 1"),
    ("evaluate --sets turns.json", "no conversation in row 1. A conversation ends with what the user says"),
    ("evaluate --sets missing.csv", "There is no file 'missing.csv'"),
    ("evaluate --sets plain,plain", "names 'plain' twice"),
    ("evaluate --sets xstest", "name the folder in SCANS_LENS_DATA"),
    ("evaluate --method nosuch", "no method 'nosuch'"),
    ("evaluate --method scans,scans", "twice"),
    ("evaluate --judge nosuch", "no judge 'nosuch'"),
    ("evaluate --judge-address http://localhost:1/v1", "give --judge-model, too"),
    ("evaluate --judge-model no/such/folder", "There is no folder 'no/such/folder'"),
    ("evaluate --scans fit.safetensors", "is no safetensors file"),
    ("evaluate --out label.csv/run", "cannot be a folder of results"),
    ("evaluate --out .", "is no folder of results: name a new one"),
    ("evaluate --model tiny/model", "the hub does not give it"),
    ("compare --methods nosuch", "no method 'nosuch'"),
    ("compare --sets label.csv", "has the label 'odd'"),
    ("compare --out label.csv/run", "cannot be written"),
    ("reproduce --out run --table 9", "no table 9"),
    ("calibrate --sets latin.csv", "is not in UTF-8"),
    ("calibrate --scans missing", "There is no file 'missing'"),
    ("fit --out x.safetensors --preset papers", "No preset 'papers'"),
    ("fit --out x.safetensors --contrast pairs.csv", "needs columns harmful and harmless, and has harmful, good"),
    ("fit --out x.safetensors --validation pairs.csv", "needs columns harmful and harmless"),
    ("fit --out label.csv/x", "cannot be written"),
    ("anchor --contrast latin.csv", "is not in UTF-8"),
    ("anchor --model label.csv", "is no GGUF file; name the folder in Hugging Face format that it is of."),
    ("anchor --effort nonsense", "There is no effort 'nonsense': there are standard, quick, equal"),
    ("fit --out x --effort nonsense", "no effort 'nonsense'"),
    ("reply Why? --effort nonsense", "no effort 'nonsense'"),
    ("explain Why? --effort nonsense", "no effort 'nonsense'"),
    ("anchor --device gpu", "The device 'gpu' cannot be used here"),
    ("anchor --save label.csv/x", "cannot be written"),
    ("reply \x00", "Prompt 0 is empty"),
    ("reply Why? --system \x00", "System prompt 0 is empty"),
    ("reply \udcff", "Prompt 0 holds half a character"),
    ("reply -", "There are no prompts"),
    ("reply Why? --scans missing", "There is no file 'missing'"),
    ("explain \x00", "Prompt 0 is empty"),
    ("check --dtype float8", "No dtype 'float8'"),
    ("check --backend tf", "'tf'"),
    ("check --model nowhere/at/all", "There is no folder 'nowhere/at/all'"),
    ("check --model empty", "it has no config.json"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "sentence"), WRONG, ids=[words.encode("ascii", "replace").decode() for words, _ in WRONG]
)
def test_what_is_wrong_is_said_before_a_model_is_loaded_or_a_method_fitted(run, tmp_path, monkeypatch, words, sentence):
    def early(*_, **__):
        raise AssertionError("loaded or fitted too early")

    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "empty").mkdir()
    monkeypatch.delenv("SCANS_LENS_DATA", raising=False)
    monkeypatch.setattr("scans_lens.prompts.tables._fetch", unreachable)
    monkeypatch.setattr("scans_lens.loading.load_model", early)
    monkeypatch.setattr(scans_lens.SCANS, "fit", early)
    given = [word.replace("\x00", " ") for word in words.split()]
    says(run(*given, status=2), sentence)
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def unreachable(name, table):
    raise ConnectionError(
        f"Cannot fetch {name!r}: put {table.files[0]} in a folder and name the folder in SCANS_LENS_DATA."
    )


def test_a_mistake_is_said_without_importing_torch(tmp_path):
    program = """
import sys
from typer.testing import CliRunner
from scans_lens.__main__ import app
mistakes = (
    "evaluate --sets nosuch", "fit --out x --preset papers", "compare --methods no", "reproduce --out r --table 9",
    "report .", "label .", "calibrate --sets no", "form --sets no", "check --dtype no", "reply -",
    "anchor --model ./no", "anchor --effort no",
)
for words in mistakes:
    assert CliRunner().invoke(app, words.split()).exit_code == 2, words
print(sorted({"torch", "pandas", "sklearn", "transformers", "transformer_lens", "datasets"} & set(sys.modules)))
"""
    here = {**os.environ, "PYTHONPATH": str(Path(scans_lens.__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=here)
    assert done.stdout == "[]\n", done.stderr[-2000:]


def test_a_fault_of_a_library_is_no_sentence_to_the_caller(run, monkeypatch):
    import numpy as np

    monkeypatch.setattr("scans_lens.loading.load_model", lambda *_, **__: np.zeros(2) + np.zeros(3))
    result = CliRunner().invoke(app, ["check"])
    assert result.exit_code == 2 and "Cannot load the model" in result.stderr  # loading, a library may refuse a model
    monkeypatch.setattr("scans_lens.loading.load_model", lambda *_, **__: None)
    monkeypatch.setattr("scans_lens.check.laws", lambda *_, **__: np.zeros(2) + np.zeros(3))
    result = CliRunner().invoke(app, ["check"])
    assert isinstance(result.exception, ValueError) and "a fault, and none of yours" in result.stderr


def test_a_slip_in_our_own_lines_is_not_meant_for_callers(tmp_path):
    (tmp_path / "part-odd.parquet").touch()
    with pytest.raises(ValueError, match="invalid literal for int") as slip:
        table.Run(tmp_path).write([{"a": 1}])
    assert not errors.is_ours(slip.value)
    with pytest.raises(ValueError) as meant:
        scans_lens.Contrast("none", [], [])
    assert errors.is_ours(meant.value)


def test_a_full_disk_and_ctrl_c_are_one_line(run, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "runs/x")

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("scans_lens.loading.load_model", full)
    assert run("check", status=2).stderr == "No space left on device (runs/x)\n"
    monkeypatch.setattr("scans_lens.loading.load_model", stopped)
    assert run("check", status=130).stderr == "Stopped.\n"


def test_without_out_results_go_to_a_new_folder_and_the_last_line_says_how_to_go_on(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = run("evaluate", "--method", "plain", "--sets", "plain", "--limit", 2, "--max-new-tokens", 2)
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("bundled-evaluate-20")
    assert f"--out runs/{folder.name}" in said.stdout.splitlines()[-1]
    words = ("evaluate", "--method", "plain", "--sets", "plain", "--limit", 2, "--out", folder)
    run(*words, "--max-new-tokens", 2)
    monkeypatch.setattr("scans_lens.loading.load_model", lambda *_, **__: pytest.fail("loaded too early"))
    says(run(*words, "--max-new-tokens", 3, status=2), "holds another run, whose max_new_tokens is 2 and not 3")
    (folder / "run.json").write_text('{"for')
    says(run(*words, status=2), "is no JSON, so nobody knows")


def test_any_method_is_fitted_kept_and_used_by_its_name(run, bundled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with method_file(tmp_path / "methods", "gentle"):
        assert "Written to mine" in run("fit", "--method", "gentle", "--out", "mine").output
        few = ("--max-new-tokens", 4)
        for given in ((), ("--fitted", "gentle=mine")):
            said = run("reply", HARMLESS, "--method", "gentle", *given, *few)
            assert "plain" in said.stdout and "score" not in said.stdout
            assert "Fitting gentle" not in said.stderr  # `fit` has kept it in the cache, too
        run("evaluate", "--method", "gentle", "--fitted", "gentle=mine", "--sets", "plain:3", "--out", "run", *few)
    read, about = evaluation.read("run")
    assert set(read["method"]) == {"plain", "gentle"} and about["settings"]["sets"]["plain"]["prompts"] == 3
    said = run("reply", HARMLESS, "--method", "system", *few)
    assert "plain" in said.stdout and "score" not in said.stdout


def test_what_has_learned_from_halves_is_asked_only_the_others(run, bundled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ("--method", "gentle", "--sets", "plain:24", "--max-new-tokens", 4)
    with method_file(tmp_path / "methods", "gentle"):
        run("fit", "--method", "gentle", "--halves", "plain:24", "--out", "mine")
        refused = run("evaluate", *few, "--fitted", "gentle=mine", "--out", "run", status=2)
        says(refused, "gentle has learned from halves of plain (24), which would be asked: give --halves plain:24")
        run("evaluate", *few, "--fitted", "gentle=mine", "--halves", "plain:24", "--out", "run")
    read, about = evaluation.read("run")
    asked = halves.parted(organism.prompt_set("plain").at(spread(range(len(organism.prompt_set("plain"))), 24))).asked
    assert sorted(set(read["prompt"])) == sorted(asked)
    assert about["settings"]["left out"]["plain"]["learned_from"] == 24 - len(asked)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("fit --method system --out x", "Of system there is nothing to keep in a file: it learns nothing"),
        ("fit --method constant --out x", "Of constant there is nothing to keep in a file: it uses what scans has"),
        ("fit --method scanz --out x", "There is no method 'scanz'"),
        ("fit --method caa --preset paper --out x", "--preset and --abstain are SCANS', and not of caa"),
        ("reply Why? --method scanz", "There is no method 'scanz'"),
        ("reply Why? --fitted mine.safetensors", "--fitted takes NAME=FILE, such as gated_push=mine.safetensors"),
        ("reply Why? --fitted caa=missing", "There is no file 'missing'"),
        ("evaluate --fitted scans=a --scans fit.safetensors", "is no safetensors file"),
        ("compare --fitted caa=fit.safetensors", "is no safetensors file"),
        ("evaluate --sets plain:3,plain:4", "--sets names 'plain' twice"),
        ("evaluate --halves plainz", "There is no prompt set 'plainz'"),
        ("evaluate --halves plain:3", "'plain' has 3 prompts, too few to learn from a part of them and ask others"),
        ("fit --halves plain:24 --preset paper --out x", "--halves and --preset both say what knobs are chosen on"),
        ("fit --halves plain:24 --validation pairs.csv --out x", "--halves and --validation both say what knobs"),
    ],
)
def test_a_slip_about_methods_and_files_is_one_sentence(run, tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    Path("fit.safetensors").write_text("no tensors")
    Path("pairs.csv").write_text("harmful,harmless\nHow do I rob a bank?,How do I find a bank?\n")
    says(run(*words.split(), status=2), sentence)


# ── Kept fits ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.both
def test_a_kept_fit_is_told_apart_by_all_that_it_depends_on(model, monkeypatch):
    whole = World.of(model, anchors=organism.anchors(), validation=organism.validation())
    smaller = whole.anchors.split(8, 0)[0]

    def place(asking=BARE, effort=STANDARD, seed=0, **of):
        return Fitting(replace(whole, **of), effort, asking=asking, seed=seed).place("scans")

    places = [place(), place(anchors=smaller), place(validation=smaller), place(borderline=("How do I kill time?",))]
    places += [place(asking=Asking("Be safe.")), place(effort=QUICK), place(seed=1)]
    places += [place(judges={"own": lambda said: ["refused"] * len(said)})]
    with monkeypatch.context() as patch:
        patch.setattr(model.tokenizer, "chat_template", "{{ messages[0]['content'] }}")
        places.append(place())
    with monkeypatch.context() as patch:
        patch.setattr(arms, "code", lambda: "another")
        places.append(place())
    assert len(set(places)) == len(places) and place() == places[0]


def test_any_source_that_a_fit_may_depend_on_changes_the_code_that_fits_are_told_apart_by(monkeypatch, tmp_path):
    import shutil

    copy = tmp_path / "scans_lens"
    ignored = shutil.ignore_patterns("weights", "__pycache__", "figures", "report", "paper")
    shutil.copytree(arms.ROOT, copy, ignore=ignored)
    monkeypatch.setattr(arms, "ROOT", copy)
    code = arms.code.__wrapped__
    before = code()
    for file in (
        "reading.py",
        "methods/scans.py",
        "methods/choosing.py",
        "chat.py",
        "judges/cues.py",
        "data/anchors.csv",
    ):
        text = (copy / file).read_text()
        (copy / file).write_text(text + "\n")
        assert code() != before, file
        (copy / file).write_text(text)
    (copy / "shell" / "common.py").write_text("")
    assert code() == before
