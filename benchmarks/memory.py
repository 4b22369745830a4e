"""Memory: the most that a process holds while it reads prompts, beside the bare forward pass on the same batches."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from benchmarks import others, subjects
from benchmarks.subjects import TOKENS
from scans_lens.batches import in_batches
from scans_lens.chat import chat_tokens
from scans_lens.loading import load_model
from scans_lens.reading import residuals

HERE = Path(__file__).parent


def peak(what: str) -> int:
    """Most bytes that a process of its own held while it read, or ran the bare forward pass on the same batches."""
    code = f"from benchmarks.memory import held; held({what!r}, {str(subjects.folder())!r})"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=HERE.parent)
    return int(said.stdout.split()[-1])


def held(what: str, folder: str) -> None:
    """For `peak`: both load the same bridge, so that they differ by what reading holds alone."""
    model = load_model(folder)
    texts = subjects.prompts(model, 256, TOKENS)
    if what == "read":
        residuals(model, texts, progress=False)
    else:
        whole = chat_tokens(model, texts)
        for _ in in_batches(model, whole, lambda _, tokens: others.forward(model.original_model, tokens)):
            pass
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(kilobytes * (1 if sys.platform == "darwin" else 1024))
