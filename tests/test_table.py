"""Runs: laws of the table on disk: nothing lost, nothing twice, whatever stops a run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scans_lens import table

SETTINGS = {"model": "tiny", "tokens": 8}


def rows(*numbers: int) -> list[dict]:
    return [
        {"number": number, "text": f"reply {number}", "score": None if number % 2 else number / 7} for number in numbers
    ]


def numbers(folder) -> list[int]:
    return table.read(folder)[0]["number"].tolist()


def test_what_was_written_is_read_as_one_table_in_its_order(tmp_path):
    with table.opened(tmp_path, SETTINGS, {"device": "cpu"}) as run:
        assert run.table().empty
        run.write(rows(0, 1))
        run.write([])
        run.write(rows(2))
        assert run.table()["number"].tolist() == [0, 1, 2]
    kept, about = table.read(tmp_path)
    assert kept["text"].tolist() == ["reply 0", "reply 1", "reply 2"]
    assert (about["settings"], about["machine"]) == (SETTINGS, {"device": "cpu"})


def test_a_column_that_is_empty_in_one_part_is_none_in_another(tmp_path):
    with table.opened(tmp_path, SETTINGS) as run:
        run.write(rows(1, 3))
        run.write(rows(2))
    assert table.read(tmp_path)[0]["score"].notna().tolist() == [False, False, True]


def test_a_run_goes_on_where_it_was_on_any_machine(tmp_path):
    for number, device in ((0, "cpu"), (1, "cuda")):
        with table.opened(tmp_path, SETTINGS, {"device": device}) as run:
            run.write(rows(number))
    assert numbers(tmp_path) == [0, 1]


def test_another_run_is_refused_by_what_differs(tmp_path):
    with table.opened(tmp_path, SETTINGS):
        pass
    with pytest.raises(ValueError, match=r"holds another run, whose tokens is 8 and not 9: name a new folder"):  # noqa: SIM117
        with table.opened(tmp_path, {**SETTINGS, "tokens": 9}):
            pass


def test_another_version_and_a_folder_of_something_else_are_refused(tmp_path):
    with table.opened(tmp_path / "run", SETTINGS):
        pass
    about = tmp_path / "run" / table.ABOUT
    about.write_text(json.dumps({**json.loads(about.read_text()), "format": 99}))
    (tmp_path / "notes.txt").write_text("mine")
    for folder, what in (
        (tmp_path / "run", "is in format 99, and this version writes format 3"),
        (tmp_path, "and is no folder of results"),
    ):
        with pytest.raises(ValueError, match=what):  # noqa: SIM117
            with table.opened(folder, SETTINGS):
                pass
    with pytest.raises(ValueError, match="is in format 99, and this version writes format 3"):
        table.read(tmp_path / "run")
    about.write_text("{")
    with pytest.raises(ValueError, match="is no JSON, so nobody knows what these results are of"):
        table.read(tmp_path / "run")
    with pytest.raises(ValueError, match=r"holds no results: there is no run\.json in it"):
        table.read(tmp_path)
    with pytest.raises(ValueError, match="cannot be a folder of results"):  # noqa: SIM117
        with table.opened(tmp_path / "notes.txt", SETTINGS):
            pass


def test_two_runs_on_one_folder_refuse_each_other_and_the_first_goes_on(tmp_path):
    with table.opened(tmp_path, SETTINGS) as run:
        with pytest.raises(ValueError, match="Another process is writing to"):  # noqa: SIM117
            with table.opened(tmp_path, SETTINGS):
                pass
        run.write(rows(0))
    with table.opened(tmp_path, SETTINGS) as run:
        assert run.table()["number"].tolist() == [0]


def test_a_half_written_part_is_set_aside_and_its_rows_are_done_again(tmp_path):
    with table.opened(tmp_path, SETTINGS) as run:
        run.write(rows(0))
        run.write(rows(1))
    part = sorted(tmp_path.glob("part-*.parquet"))[1]
    part.write_bytes(part.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"part-000001\.parquet' is half written, or no parquet file: evaluate again"):
        table.read(tmp_path)
    with table.opened(tmp_path, SETTINGS) as run:
        assert run.table()["number"].tolist() == [0]
        run.write(rows(1))
    assert numbers(tmp_path) == [0, 1]
    assert list(tmp_path.glob("*.unreadable"))


def test_a_full_disk_loses_nothing_that_was_there(tmp_path, monkeypatch):
    from pyarrow import parquet

    with table.opened(tmp_path, SETTINGS) as run:
        run.write(rows(0))

        def full(table, file):
            file.write(b"PAR1 half of it")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(parquet, "write_table", full)
        with pytest.raises(
            OSError, match=r"cannot be written to \(No space left on device\); what was there before is kept"
        ):
            run.write(rows(1))
        monkeypatch.undo()
        assert run.table()["number"].tolist() == [0]
        assert not list(tmp_path.glob("*.part"))


WRITER = """
import sys, time
from scans_lens import table
with table.opened(sys.argv[1], {"model": "tiny", "tokens": 8}) as run:
    done = set(run.table()["number"]) if len(run.table()) else set()
    print("going", flush=True)
    for number in range(60):
        if number not in done:
            run.write([{"number": number, "text": "x" * 5000}])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system on which processes can be killed")
def test_killed_at_any_moment_nothing_is_lost_and_nothing_done_twice(tmp_path):
    folder, environment = tmp_path / "run", {**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))}
    before: list[int] = []
    for moment in (0.0, 0.004, 0.011, 0.02, 0.04):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, env=environment)
        assert process.stdout is not None and process.stdout.readline() == b"going\n"
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        there = numbers(folder) if list(Path(folder).glob("part-*.parquet")) else []
        assert there[: len(before)] == before  # nothing is lost
        assert sorted(there) == list(range(len(there)))  # nothing is there twice, nothing skipped
        before = there
    subprocess.run([sys.executable, "-c", WRITER, str(folder)], env=environment, check=True, capture_output=True)
    assert numbers(folder) == list(range(60))


# ── Runs that grow ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_may_get_more_of_what_grows_and_what_it_has_of_that_stays_as_it_is(tmp_path):
    for own in ({"a": 1, "b": {"x": 1}}, {"b": {"x": 1}, "c": 3}):
        with table.opened(tmp_path, {**SETTINGS, "arms": own}, grows=("arms",)):
            pass
    assert table.read(tmp_path)[1]["settings"] == {**SETTINGS, "arms": {"a": 1, "b": {"x": 1}, "c": 3}}
    with pytest.raises(ValueError, match="another run, whose arms b x is 1 and not 2"):  # noqa: SIM117
        with table.opened(tmp_path, {**SETTINGS, "arms": {"b": {"x": 2}}}, grows=("arms",)):
            pass
    with pytest.raises(ValueError, match="another run, whose arms"):  # noqa: SIM117
        with table.opened(tmp_path, {**SETTINGS, "arms": {"d": 4}}):
            pass
    with pytest.raises(ValueError, match="another run, whose tokens is 8 and not 9"):  # noqa: SIM117
        with table.opened(tmp_path, {**SETTINGS, "tokens": 9, "arms": {}}, grows=("arms",)):
            pass
    table.require_free(tmp_path, {"arms": {"d": 4}})
    table.require_free(tmp_path, {"arms": {"b": {"y": 4}}})
    with pytest.raises(ValueError, match="another run, whose arms b x is 1 and not 2"):
        table.require_free(tmp_path, {"arms": {"b": {"x": 2}}})
