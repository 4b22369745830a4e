"""The package: laws of the house as a whole."""

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import planted
import pytest

import scans_lens

ROOT = Path(scans_lens.__file__).parent
CLONE = ROOT.parent
ORDER = (
    "thoughts",
    "conversation",
    "errors",
    "prompts",
    "effort",
    "organism",
    "processes",
    "past",
    "model",
    "templates",
    "chat",
    "packing",
    "cache",
    "batches",
    "whole",
    "agreement",
    "models",
    "checkpoint",
    "hooked",
    "loading",
    "hub",
    "fields",
    "artefacts",
    "flight",
    "reading",
    "directions",
    "steering",
    "classifier",
    "prober",
    "lens",
    "decoding",
    "generation",
    "rates",
    "pieces",
    "likelihoods",
    "questions",
    "divergence",
    "continuing",
    "lm_eval",
    "judges",
    "world",
    "evidence",
    "anchoring",
    "calibration",
    "methods",
    "outside",
    "check",
    "table",
    "scoring",
    "evaluation",
    "queries",
    "capability",
    "comparison",
    "transfer",
    "explain",
    "report",
    "paper",
    "exporting",
    "figures",
    "shell",
    "__main__",
)
"""Each imports only what stands before it."""
FILES = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py"))


def room_of(file: str) -> str:
    """Its folder or its own name; what a folder runs as a command stands last, as the package's own command does."""
    return "__main__" if Path(file).name == "__main__.py" else Path(file).parts[0].removesuffix(".py")


def imported(file: str) -> set[str]:
    """Every module that a file imports, wherever in it, those for type checkers included."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file} imports relatively"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "scans_lens" else {module}
    return found


def tops(file: str) -> set[str]:
    return {name.split(".")[0] for name in imported(file)}


@pytest.mark.parametrize("file", [file for file in FILES if file not in ("__init__.py", "__main__.py")])
def test_imports_run_one_way(file):
    own = room_of(file)
    assert own in ORDER, f"{own} has no place in the order"
    rooms = {name.split(".")[1] for name in imported(file) if name.startswith("scans_lens.")}
    late = {room for room in rooms - {own} if ORDER.index(room) > ORDER.index(own)}
    assert not late, f"{file} imports {late}, which come after it"


def test_only_what_loads_and_what_runs_a_batch_touch_transformer_lens():
    loading = ["checkpoint.py", "hooked.py", "loading.py"]
    assert [file for file in FILES if "transformer_lens" in tops(file)] == ["cache.py", *loading]
    inside = [file for file in FILES if re.search(r"\.original_model\b", (ROOT / file).read_text())]
    assert set(inside) <= {"cache.py", "loading.py", "model.py"}


def test_only_the_world_knows_the_bundled_model():
    """Beside it, what loads the model knows where it lies, and four figures show what only its own corpus can tell."""
    knowing = {file for file in FILES if any(name.startswith("scans_lens.organism") for name in imported(file))}
    figures = {
        f"figures/{name}.py" for name in ("anchor_size", "capability", "prompt_types", "switch_study", "switching")
    }
    known = {"__init__.py", "world.py", "loading.py"} | figures
    assert {file for file in knowing if not file.startswith("organism/")} <= known
    asking = {file for file in FILES if re.search(r"\bis_bundled\(", (ROOT / file).read_text())}
    assert asking == {"world.py"}


def test_the_package_imports_nothing_that_lies_beside_it():
    """The wheel carries the package alone."""
    assert not {"making", "benchmarks", "tests"} & set().union(*map(tops, FILES))


@pytest.mark.skipif(not (CLONE / "pyproject.toml").is_file(), reason="not a clone")
def test_what_is_imported_is_declared():
    """The wheel is tried where everything is installed, so that a forgotten dependency would not be missed there."""
    project = tomllib.loads((CLONE / "pyproject.toml").read_text())["project"]
    extras = (project["optional-dependencies"][name] for name in ("eval", "gguf"))
    asked = chain(project["dependencies"], *extras)
    declared = {re.split(r"[\[<>=~! ]", one)[0].lower().replace("_", "-") for one in asked}
    wanted = set().union(*map(tops, FILES)) - set(sys.stdlib_module_names) - {"scans_lens"}
    homes = packages_distributions()
    lacking = {
        name for name in wanted if not declared & {home.lower().replace("_", "-") for home in homes.get(name, [name])}
    }
    assert not lacking


@pytest.mark.skipif(not (CLONE / "CITATION.cff").is_file(), reason="not a clone")
def test_the_citation_and_the_changes_name_the_version_that_this_is():
    version = tomllib.loads((CLONE / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (CLONE / "CITATION.cff").read_text()
    assert f"\n## {version}" in (CLONE / "CHANGELOG.md").read_text()


def test_only_figures_draw():
    drawing = {room_of(file) for file in FILES if {"matplotlib", "seaborn", "pylab"} & tops(file)}
    assert drawing <= {"figures"}


def test_importing_the_package_does_nothing(in_a_fresh_process):
    program = """
import logging, sys, threading, warnings
before = set(sys.modules)
import scans_lens
new = {name.split(".")[0] for name in set(sys.modules) - before}
heavy = "torch transformers transformer_lens matplotlib datasets scipy sklearn pandas numpy tqdm".split()
print(sorted(new & set(heavy)), logging.root.handlers, threading.active_count())
"""
    assert in_a_fresh_process(program) == "[] [] 1\n"


def test_prompts_of_ours_and_of_the_bundled_model_cost_no_torch(in_a_fresh_process):
    program = """
import sys, scans_lens
scans_lens.prompts.anchors(), scans_lens.organism.anchors(), scans_lens.organism.is_refusal("No.")
scans_lens.judges.rules([""]), scans_lens.Rate(1, 2)
print("torch" in sys.modules)
"""
    assert in_a_fresh_process(program) == "False\n"


@pytest.mark.parametrize("name", scans_lens.__all__)
def test_every_public_name_is_there(name):
    assert name in dir(scans_lens)
    found = getattr(scans_lens, name)
    assert found.__doc__ and found.__doc__.strip()


def test_a_name_that_is_not_there_is_an_attribute_error():
    assert not hasattr(scans_lens, "SCAN")
    with pytest.raises(ImportError):
        from scans_lens import SCAN  # noqa: F401


def test_no_public_name_is_that_of_a_module():
    modules = {module.name for module in pkgutil.iter_modules([str(ROOT)])}
    assert set(scans_lens._MODULES) <= modules
    assert not set(scans_lens._HOME) & modules
    # and once everything is imported, names still mean what they meant
    for module in sorted(modules - {"__main__"}):
        importlib.import_module(f"scans_lens.{module}")
    for name, home in scans_lens._HOME.items():
        assert getattr(scans_lens, name) is getattr(importlib.import_module(f"scans_lens.{home}"), name)


@pytest.mark.skipif(not (CLONE / ".git").exists(), reason="not a clone")
def test_no_file_names_a_place_that_only_its_author_has():
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CLONE,
        capture_output=True,
        check=True,
    )
    places = re.compile(rb"(?<![\w./-])/(?:work|root|home/\w+|tmp/\w+)/\w|\.\./shared/")
    said = []
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = CLONE / name
        if path.is_file() and path.suffix not in (".safetensors", ".png", ".parquet"):
            said += [f"{name}: {match[0]!r}" for match in places.finditer(path.read_bytes())]
    assert not said


@pytest.mark.parametrize("file", sorted(Path(__file__).parent.glob("*.py")), ids=lambda file: file.stem)
def test_no_test_file_imports_another(file):
    assert not re.search(r"^\s*(from|import) test_", file.read_text(), re.M)


@pytest.mark.parametrize("bug", planted.BUGS, ids=lambda bug: bug.name)
def test_every_bug_of_the_mutants_still_has_its_place_and_its_law(bug):
    assert (CLONE / bug.path).read_text().count(bug.right) == 1
    file, name = bug.law.split("::")
    assert f"def {name}(" in (CLONE / "tests" / file).read_text()
