"""Pages: README and docs, and what writes their tables."""

import importlib.util
from pathlib import Path

CLONE = Path(__file__).parent.parent
README = CLONE / "README.md"
PAGES = sorted([*CLONE.glob("*.md"), *CLONE.glob("docs/*.md")])


def writer():
    """The module that writes the tables (`figures/readme.py`), which is no part of the package."""
    given = importlib.util.spec_from_file_location("readme", CLONE / "figures" / "readme.py")
    assert given and given.loader
    made = importlib.util.module_from_spec(given)
    given.loader.exec_module(made)
    return made
