"""On a GPU: a Llama as large as Llama-2-7b, with random bfloat16 weights, against Hugging Face on the same card."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks import others, subjects
from benchmarks.subjects import NEW, ROWS, TOKENS
from benchmarks.timing import in_turns, ratio
from scans_lens.chat import chat_tokens, end_tokens
from scans_lens.generation import replies
from scans_lens.loading import load_model
from scans_lens.reading import residuals


def seven_billion() -> dict[str, Any]:
    """Tokens a second and peak memory; 14 GB go through a temporary folder."""
    torch.cuda.reset_peak_memory_stats()
    where = subjects.folder(32, 4096, torch.bfloat16, 11008)
    model = load_model(where, device="cuda", dtype=torch.bfloat16)
    source = others.bare(where).to("cuda", torch.bfloat16)
    texts = subjects.prompts(model, ROWS, TOKENS)
    tokens, ends = chat_tokens(model, texts), end_tokens(model)
    scans, _ = subjects.drawn(model)

    def finished(run: Any) -> Any:
        def whole() -> None:
            run()
            torch.cuda.synchronize()

        return whole

    times = in_turns(
        {
            "Hugging Face generate": finished(lambda: others.generate(source, tokens, NEW, ends)),
            "plain": finished(lambda: replies(model, texts, max_new_tokens=NEW, batch_size=ROWS, progress=False)),
            "SCANS, scores included": finished(
                lambda: replies(model, texts, method=scans, max_new_tokens=NEW, batch_size=ROWS, progress=False)
            ),
            "reading": finished(lambda: residuals(model, texts, batch_size=ROWS, progress=False)),
        },
        3,
    )
    steered = times["SCANS, scores included"]
    return {
        "what": f"a 7 B Llama, bfloat16, {torch.cuda.get_device_name()}: {ROWS} prompts of {TOKENS} tokens, {NEW} new",
        "seconds": {name: own.as_json() for name, own in times.items()},
        "tokens a second, SCANS": ROWS * NEW / steered.median,
        "tokens a second, Hugging Face": ROWS * NEW / times["Hugging Face generate"].median,
        "speed against Hugging Face generate": ratio(times, "SCANS, scores included", "Hugging Face generate"),
        "peak bytes, both models loaded": torch.cuda.max_memory_allocated(),
    }
