"""What the tests share: tiny models, loaded once, prompts to put to them, and which of all products are run.

    pytest             families, loaders and templates in their whole product in `WHOLE`, in a covering choice elsewhere
    pytest --all       the whole product everywhere
    pytest --models    only laws that TransformerLens can break, as its second version needs

A law may ask for a model, a model of any family, one with any template, or the bundled one.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything of Hugging Face is imported
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import jaxtyping
import pytest
import tiny
import torch
from hypothesis import settings
from transformers import AutoModelForCausalLM, PreTrainedModel

settings.register_profile("laws", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("laws")
torch.set_num_threads(1)  # the models are so small that a second thread only waits

WHOLE = ("test_cache.py", "test_reading.py", "test_chat.py")
"""Where every law runs over every family or template through every loader."""
LONGEST = (
    "test_methods.py",
    "test_figures.py",
    "test_main.py",
    "test_generation.py",
    "test_scans.py",
    "test_safeswitch.py",
    "test_comparison.py",
    "test_notebooks.py",
    "test_evaluation.py",
)
"""Files that take longest, which begin first, so that no worker is left alone with one at the end."""
REAL = "test_real.py"
"""Whose laws are of real chat models; they run with --real."""
MODELS = frozenset({"load", "tiny_folder", "bundled", "in_a_fresh_process"})
"""Whoever asks for one of these or for what is made of one, or stands in a file that makes models of its own (that
imports `tiny`), touches a model."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="every family and template through every loader in every file")
    parser.addoption("--real", action="store_true", help="the laws on real chat models, where their weights are here")
    parser.addoption("--models", action="store_true", help="only the laws that TransformerLens can break")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept, left = [], []
    for item in items:
        covered = config.getoption("all") or item.path.name in WHOLE or _in_the_covering_choice(item)
        wanted = not config.getoption("models") or (touches_a_model(item) and not _stands_above(item))
        (kept if covered and wanted else left).append(item)
        if item.path.name == REAL and not config.getoption("real"):
            item.add_marker(pytest.mark.skip(reason="takes minutes on real chat models: make test-real"))
    config.hook.pytest_deselected(items=left)
    items[:] = sorted(
        kept, key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST)
    )


def touches_a_model(item: Any) -> bool:
    return not MODELS.isdisjoint(item.fixturenames) or hasattr(item.module, "tiny") or item.path.name == REAL


def _stands_above(item: Any) -> bool:
    """Whether a law is of what is made of states and replies, which is the same on every TransformerLens.

    Only loading and running know TransformerLens (a law of test_package.py). A file or a law marked `above` is of
    numbers, tables, pictures, files and words further up; one marked `both` in such a file asks TransformerLens, too.
    """
    nearest = next((mark.name for mark in item.iter_markers() if mark.name in ("above", "both")), "both")
    return nearest == "above"


def _in_the_covering_choice(item: Any) -> bool:
    """Whatever a law runs over beside loaders (families, templates, methods), it meets them crosswise.

    Every value comes, every other one with the other loader, and in the next law the other way round. A law that runs
    over loaders alone meets both, but for one that stands above TransformerLens.
    """
    places = dict(item.callspec.indices) if hasattr(item, "callspec") else {}
    if "load" not in places or (len(places) == 1 and not _stands_above(item)):
        return True
    load = places.pop("load")
    return (crc32(item.originalname.encode()) + sum(places.values())) % len(tiny.LOADERS) == load


WINDOW = 8
"""How far back sliding attention sees here: less than any prompt is long."""


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Callable[..., Path]:
    """`tiny_folder(family, template, window, seed)`: a model saved on disk, made once."""
    root = tmp_path_factory.mktemp("tiny")

    @cache
    def made(family: str = "llama", template: str = "llama3", window: int | None = None, seed: int = 0) -> Path:
        return tiny.folder(family, template, root, window=window, seed=seed)

    return made


@pytest.fixture(scope="session")
def tiny_model(tiny_folder) -> Callable[..., Any]:
    """`tiny_model(load, family, template, window, seed)`: loaded once; leave it as you found it."""

    @cache
    def loaded(load: Callable[[Path], Any], *which: Any) -> Any:
        return load(tiny_folder(*which))

    return loaded


@pytest.fixture(scope="session", params=tiny.LOADERS, ids=lambda load: load.__name__)
def load(request) -> Callable[[Path], Any]:
    """Every way to load a model."""
    return request.param


@pytest.fixture(scope="session")
def model(load, tiny_model) -> Any:
    """A Llama with the Llama-3 template, through every loader."""
    return tiny_model(load)


@pytest.fixture(scope="session", params=tiny.FAMILIES)
def family(request) -> tuple[Any, ...]:
    """Every architecture, with its own template and, where attention slides, a window shorter than any prompt."""
    own = {
        "llama": ("llama", "llama3", None),
        "qwen2": ("qwen2", "chatml", None),
        "gemma2": ("gemma2", "gemma", WINDOW),
        "mistral": ("mistral", "mistral", WINDOW),
    }
    return own[request.param]


@pytest.fixture(scope="session")
def any_model(load, family, tiny_model) -> Any:
    """A model of every family, through every loader."""
    return tiny_model(load, *family)


@pytest.fixture(scope="session")
def reference(family, tiny_folder) -> Any:
    """The same model as Hugging Face runs it."""
    return AutoModelForCausalLM.from_pretrained(tiny_folder(*family), attn_implementation="eager").eval()


@pytest.fixture(scope="session", params=tiny.STYLES)
def style(request) -> str:
    """Every chat template."""
    return request.param


@pytest.fixture(scope="session")
def talker(load, style, tiny_model) -> Any:
    """A Llama with every chat template, through every loader."""
    return tiny_model(load, "llama", style)


@pytest.fixture(scope="session")
def prompts() -> list[str]:
    """Of different lengths, and not in their order."""
    return [
        "How do I kill a process on my computer?",
        "Why?",
        "Tell me how to bake a loaf of bread, in as few words as you can find, for a child of seven.",
        "Name ten stars.",
        "How do I break into a house that does not belong to me?",
    ]


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def hooks_on(model: Any) -> dict[str, int]:
    """How many functions hang on each hook point that has any."""
    return {name: len(point.fwd_hooks) for name, point in model.hook_dict.items() if point.fwd_hooks}


def one_by_one(tokens: Any) -> list[torch.Tensor]:
    """The rows of a padded batch as texts of their own, without the padding."""
    return [ids[mask.bool()][None] for ids, mask in zip(tokens.ids, tokens.mask, strict=True)]


@pytest.fixture
def without_shape_checks():
    """Signatures unchecked, as a user has them, so that a wrong argument reaches our own sentence."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def bundled() -> Any:
    """The chat model that ships with the package."""
    import scans_lens

    return scans_lens.load_model()


@pytest.fixture(scope="session")
def in_a_fresh_process() -> Callable[..., str]:
    """`in_a_fresh_process(program)`: what a Python program prints that may load a model; it takes seconds to start."""

    def ran(program: str, **environment: str) -> str:
        there = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment}
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=there)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return ran


@pytest.fixture(autouse=True)
def models_are_asked_for(request, monkeypatch) -> None:
    """A law that loads a model without asking for one of `MODELS` would be passed over by `--models`."""
    if touches_a_model(request.node):
        return

    def refused(*_: Any, **__: Any) -> None:
        pytest.fail("This law loads a model: let it ask for a fixture of conftest.MODELS, so that --models finds it.")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", refused)


@pytest.fixture(scope="module")
def briskly() -> Iterator[pytest.MonkeyPatch]:
    """For a whole file: methods are fitted on fewer scales and shorter replies (`learning.briskly`)."""
    import learning  # which imports the package, and pytest has to be ready to check its shapes

    with learning.briskly() as patch:
        yield patch


@pytest.fixture(scope="session")
def fits(tiny_model) -> Callable[..., Any]:
    """`fits(load, name)`: one of `learning.FITS` on the tiny Llama; fitted once, briskly."""
    import learning

    @cache
    def fitted(load: Callable[[Path], Any], name: str) -> Any:
        with learning.briskly():
            return learning.FITS[name](tiny_model(load))

    return fitted


@pytest.fixture(scope="session")
def fit_of(load, fits) -> Callable[[str], Any]:
    """`fit_of(name)`: the same through every loader."""
    return lambda name: fits(load, name)


@pytest.fixture(scope="session")
def one_model(tiny_model) -> Any:
    """The tiny Llama through one loader, for laws of what is done with the numbers."""
    return tiny_model(tiny.LOADERS[0])
