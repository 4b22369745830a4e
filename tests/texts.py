"""Texts: prompts as their words, and the public sets of prompts where there are copies of them."""

import os
import re
from pathlib import Path

import pytest

from scans_lens import prompts

FOLDER = os.environ.get("SCANS_LENS_DATA", "")
needs_the_benchmarks = pytest.mark.skipif(
    not Path(FOLDER, "prompts").is_dir(), reason="SCANS_LENS_DATA names no folder with local copies of the benchmarks"
)
here = [name for name, source in prompts.SOURCES.items() if source.digest]
every_benchmark = pytest.mark.parametrize("name", here)


def first_word(prompt: str) -> str:
    return prompt.split()[0]


def words(prompt: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9']+", prompt.lower()))
