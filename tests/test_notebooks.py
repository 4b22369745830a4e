"""The notebooks: they hold their scripts, and they run."""

import sys
from dataclasses import replace
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import effort
import matplotlib.pyplot as plt
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import scans_lens
from scans_lens import figures
from scans_lens.methods.safeswitch import SafeSwitch
from scans_lens.organism import contrasts

pytestmark = pytest.mark.above

N = effort.N
NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
SPEC = spec_from_file_location("build_notebooks", NOTEBOOKS / "build.py")
assert SPEC and SPEC.loader
build = module_from_spec(SPEC)
SPEC.loader.exec_module(build)
SCRIPTS = build.scripts()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_scripts_and_notebooks_agree(script):
    assert build.same_source(script)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_notebook_is_small_and_its_script_short(script):
    assert script.with_suffix(".ipynb").stat().st_size <= build.LARGEST
    assert len(script.read_text().splitlines()) < 100


@pytest.fixture(scope="module")
def study(bundled):
    """The study of a few prompts that each of them makes, made once."""
    return replace(figures.Study.of(bundled, prompts_a_kind=N, progress=False), effort=effort.LITTLE)


@pytest.fixture(scope="module")
def few():
    """What SafeSwitch learns from by default, but less of it, and little effort all through."""
    train, validation = (contrasts.with_jailbreaks(split, 2 * N) for split in ("train", "validation"))
    with effort.little():
        yield {"contrast": train, "validation": validation, "pairs": contrasts.explained_refusals("train", 3 * N)}


HOOKED = [pytest.mark.both]
"""Of the notebook that hooks the model itself, in a loop of its own."""


@pytest.mark.parametrize(
    "script",
    [pytest.param(one, marks=HOOKED if "model.hooks(" in one.read_text() else []) for one in SCRIPTS],
    ids=lambda script: script.stem,
)
def test_a_notebook_runs(script, bundled, study, few, monkeypatch, tmp_path):
    """In this process, cell by cell as a kernel would, on the bundled model that is loaded already."""
    monkeypatch.setenv("SCANS_LENS_NOTEBOOK_N", str(N))
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # a shell puts its own there
    monkeypatch.chdir(NOTEBOOKS)
    monkeypatch.setattr(scans_lens, "load_model", lambda *name, **how: bundled)
    monkeypatch.setattr(figures.Study, "of", lambda *given, **how: study)
    monkeypatch.setattr(SafeSwitch, "fit", partial(SafeSwitch.fit, **few))
    shell = InteractiveShell(config=Config(HistoryManager={"enabled": False}))
    try:
        for cell in build.from_script(script).cells:
            if cell.cell_type == "code":
                shell.run_cell(cell.source).raise_error()
    finally:
        plt.close("all")
