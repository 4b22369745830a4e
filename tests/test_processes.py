"""Processes: several processes do what one does, each its share, and nobody's twice."""

import os
import subprocess
import sys

import pandas as pd
import pytest
from typer.testing import CliRunner

from scans_lens import evaluation, processes
from scans_lens.__main__ import app
from scans_lens.processes import Rank

pytestmark = pytest.mark.above


@pytest.mark.parametrize("of", [1, 2, 3, 8])
def test_every_thing_is_in_one_share(of):
    things = list(range(11))
    shares = [Rank(number, of).share(things) for number in range(of)]
    assert sorted(thing for share in shares for thing in share) == things
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_one_is_the_first_and_waits_for_nobody(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert processes.here() == Rank(0, 1) and processes.here().first and processes.device_number() is None
    processes.here().wait()


def test_a_launcher_says_which_one_this_is(monkeypatch):
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert processes.here() == Rank(3, 4) and not processes.here().first and processes.device_number() == 1
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(ValueError, match="no process 4 of 4"):
        processes.here()
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(ValueError, match="RANK and WORLD_SIZE are numbers"):
        processes.here()


def test_two_processes_write_the_table_that_one_writes(bundled, tmp_path):
    words = ["--method", "system", "--sets", "borderline,quiz", "--limit", "7", "--max-new-tokens", "12"]

    asked = ["evaluate", *words, "--out"]
    one = CliRunner().invoke(app, [*asked, str(tmp_path / "one")])
    assert one.exit_code == 0, one.output
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m"]
    two = subprocess.run(
        [sys.executable, *launcher, "scans_lens", *asked, str(tmp_path / "two")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert two.returncode == 0, two.stderr
    tables = [evaluation.read(tmp_path / name)[0].drop(columns="seconds") for name in ("one", "two")]
    pd.testing.assert_frame_equal(*tables)
    assert two.stdout.count("Every reply is in") == one.output.count("Every reply is in") == 1
    assert {part.stem.count("-") for part in (tmp_path / "two").glob("part-*")} == {1, 2}  # both have written
