"""Measures: what is timed, beside what a user would run instead."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from benchmarks import memory, others, subjects
from benchmarks.subjects import NEW, ROWS, TOKENS, drawn
from benchmarks.timing import Machine, Times, in_turns, ratio
from scans_lens import organism
from scans_lens.batches import in_batches, rows_at_once
from scans_lens.chat import chat_tokens, end_tokens
from scans_lens.flight import Flight
from scans_lens.generation import replies, replies_under
from scans_lens.loading import load_model
from scans_lens.reading import residuals
from scans_lens.steering import Push

ROUNDS = 5

Numbers = dict[str, Any]


def reading(machine: Machine) -> Numbers:
    """1,024 prompts at all layers against a forward pass with nothing read, in quarters that take turns."""
    model = subjects.subject()
    source, texts = others.bare(subjects.folder()), subjects.prompts(model, 1024, TOKENS)
    times: dict[str, list[float]] = {"scans_lens.residuals": [], "bare forward": []}
    for turn in range(4):
        quarter = texts[256 * turn : 256 * (turn + 1)]

        def bare(own: list[str] = quarter) -> None:
            for _ in in_batches(model, chat_tokens(model, own), lambda _, tokens: others.forward(source, tokens)):
                pass

        def ours(own: list[str] = quarter) -> None:
            residuals(model, own, progress=False)

        pair = {"scans_lens.residuals": ours, "bare forward": bare}
        for name, own in in_turns(dict(sorted(pair.items(), reverse=bool(turn % 2))), 1, warm=not turn).items():
            times[name] += own.seconds
    found = {name: Times(tuple(own)) for name, own in times.items()}
    work = 256 * TOKENS * _weights(model, unembedding=False) / machine.multiply_adds
    peak = {name: memory.peak(name) for name in ("bare", "read")}
    return {
        "what": "reading 1,024 prompts of 48 tokens at all 12 layers, in quarters",
        "seconds a quarter": {name: own.as_json() for name, own in found.items()},
        "speed against": {"bare forward": ratio(found, "scans_lens.residuals", "bare forward")},
        "target": 0.95,
        "peak memory": {**peak, "more": peak["read"] / peak["bare"] - 1, "target": 0.1},
        "limit": {"seconds": work, "set by": "arithmetic", "share": work / found["scans_lens.residuals"].median},
    }


def decoding(machine: Machine) -> Numbers:
    """Steered replies of one length against Hugging Face and TransformerLens, unsteered, and the published way."""
    model = subjects.subject()
    source, texts = others.bare(subjects.folder()), subjects.prompts(model, ROWS, TOKENS)
    tokens, ends = chat_tokens(model, texts), end_tokens(model)
    scans, directions = drawn(model)
    n = int(model.cfg.n_layers)

    def ours(method: Any = None) -> Callable[[], object]:
        return lambda: replies(model, texts, method=method, max_new_tokens=NEW, batch_size=ROWS, progress=False)

    contenders = {
        "Hugging Face generate": lambda: others.generate(source, tokens, NEW, ends),
        "plain": ours(),
        "pushed at 4 layers": ours(Push(directions, range(4, 8), 1.0)),
        "pushed at all layers": ours(Push(directions, range(n), 1.0)),
        "SCANS, scores included": ours(scans),
    }
    times = in_turns(contenders, ROUNDS)
    slow = {
        "TransformerLens generate (bridge)": lambda: others.transformer_lens(model, tokens, NEW),
        "SCANS as published, 4 prompts": lambda: others.published(source, model, scans, texts[:4], NEW),
    }
    if hooked := _hooked():
        slow["TransformerLens generate (HookedTransformer)"] = lambda: others.transformer_lens(hooked, tokens, NEW)
    once = in_turns(slow, 1, warm=False)
    theirs = times["Hugging Face generate"].median
    as_published = once["SCANS as published, 4 prompts"].median * ROWS / 4
    limit, by = machine.decoding_limit(_weights(model), 4, ROWS)
    return {
        "what": f"{ROWS} prompts of {TOKENS} tokens, {NEW} new ones, nobody ends early",
        "seconds": {name: own.as_json() for name, own in {**times, **once}.items()},
        "speed against": {
            f"Hugging Face generate, {name}": ratio(times, name, "Hugging Face generate")
            for name in list(contenders)[1:]
        },
        "targets": {"pushed at 4 layers": 1.0, "pushed at all layers": 1.0, "SCANS, scores included": 0.95},
        "speed against the published way": as_published / times["SCANS, scores included"].median,
        "Hugging Face, tokens a second": ROWS * NEW / theirs,
        "limit": {
            "seconds a step": limit,
            "set by": by,
            "share": limit * NEW / times["SCANS, scores included"].median,
        },
    }


def mixed(machine: Machine) -> Numbers:
    """The bundled model on its own prompts, where replies end by themselves, against Hugging Face's best batch."""
    model = load_model()
    source, ends, new, n = others.bare(organism.weights()), end_tokens(model), 128, 256
    kinds = [organism.prompts(kind, "test")[: n // 4] for kind in ("plain", "borderline", "harmful", "jailbreak")]
    texts = [prompt for kind in kinds for prompt in kind]
    said = replies(model, texts, max_new_tokens=new, progress=False)
    lengths = sorted(len(own) + (ended == "stop") for own, ended in zip(said.tokens, said.finish, strict=True))

    def theirs(size: int) -> Callable[[], object]:
        batches = others.sorted_batches(model, texts, size)
        return lambda: [others.generate(source, tokens, new, ends) for tokens in batches]

    sizes = {f"Hugging Face generate, {size} rows": theirs(size) for size in (8, 16, 32, 64)}
    first = in_turns(sizes, 1, warm=False)
    best = min(first, key=lambda name: first[name].median)
    times = in_turns({best: sizes[best], "plain": lambda: replies(model, texts, max_new_tokens=new, progress=False)}, 3)
    rows = min(len(texts), rows_at_once(model, 200))
    return {
        "what": f"{n} test prompts of four kinds, end tokens respected, at most {new} new tokens",
        "tokens of the replies": {
            "median": lengths[n // 2],
            "90th percentile": lengths[int(0.9 * n)],
            "sum": sum(lengths),
        },
        "seconds": {name: own.as_json() for name, own in {**first, **times}.items()},
        "best batch of Hugging Face": best,
        "speed against": {best: ratio(times, "plain", best)},
        "target": 1.5,
        "joining": _joining(model, lengths, rows, times["plain"].median),
        "limit": {
            "seconds": sum(lengths) * _weights(model) / machine.multiply_adds,
            "set by": "arithmetic",
            "share": sum(lengths) * _weights(model) / machine.multiply_adds / times["plain"].median,
        },
    }


def _joining(model: Any, lengths: list[int], rows: int, taken: float) -> Numbers:
    """What it would save at most if waiting prompts took the places of those that ended, by the cost of a step."""
    cost = {}
    with torch.no_grad():
        for size in (8, rows // 4, rows // 2, rows):
            flight = Flight(model, chat_tokens(model, organism.prompts("plain", "test")[:size]))
            column = flight.tokens.ids[:, -1:]
            spent = []
            for _ in range(12):
                start = time.perf_counter()
                flight.run.feed(column, torch.ones_like(column))
                spent.append(time.perf_counter() - start)
            cost[size] = sorted(spent)[len(spent) // 2]
    low, high = min(cost), max(cost)
    slope = (cost[high] - cost[low]) / (high - low)
    fixed = max(0.0, cost[low] - slope * low)
    batches = [lengths[start : start + rows] for start in range(0, len(lengths), rows)]
    steps = sum(max(batch) for batch in batches)
    full = sum(lengths) / rows
    return {
        "seconds a step by rows": cost,
        "fixed seconds a step": fixed,
        "steps": steps,
        "steps if every one were full": full,
        "saved at most, of the time": fixed * max(0.0, steps - full) / taken,
    }


def sweep(machine: Machine) -> Numbers:
    """Eight scales in one call against eight calls."""
    model = subjects.subject()
    texts = subjects.prompts(model, ROWS, TOKENS)
    scans, _ = drawn(model)
    methods = [replace(scans, scale=0.25 * step) for step in range(1, 9)]
    how: dict[str, Any] = {"max_new_tokens": 16, "progress": False}
    times = in_turns(
        {
            "eight calls": lambda: [replies(model, texts, method=one, **how) for one in methods],
            "one call": lambda: replies_under(model, texts, methods, **how),
        },
        3,
    )
    share = times["one call"].median / times["eight calls"].median
    return {
        "what": f"SCANS at eight scales, {ROWS} prompts of {TOKENS} tokens, 16 new ones",
        "seconds": {name: own.as_json() for name, own in times.items()},
        "share of the time of eight calls": share,
        "target": 0.5,
    }


def growth(machine: Machine) -> Numbers:
    """How the cost of SCANS grows with prompts, their length, layers and batch size, one at a time."""
    small = {"layers": 12, "width": 256}

    def seconds(n: int = 64, tokens: int = 48, layers: int = 12, rows: int = 32) -> float:
        model = subjects.subject(layers, small["width"])
        texts = subjects.prompts(model, n, tokens)
        scans, _ = drawn(model)

        def own(asked: list[str] = texts) -> None:
            replies(model, asked, method=scans, max_new_tokens=16, batch_size=rows, progress=False)

        own(texts[:rows])  # warms up
        return min(in_turns({"own": own}, 2, warm=False)["own"].seconds)

    return {
        "what": f"SCANS on a Llama of width {small['width']}: 64 prompts of 48 tokens, 12 layers, 32 rows, 16 new "
        "tokens, but for what grows; the better of two",
        "seconds": {
            "prompts": {n: seconds(n=n) for n in (64, 128, 256, 512, 1024)},
            "prompt length": {tokens: seconds(tokens=tokens) for tokens in (32, 64, 128, 256, 512)},
            "layers": {layers: seconds(layers=layers) for layers in (8, 12, 16, 24)},
            "batch size": {rows: seconds(n=128, rows=rows) for rows in (4, 8, 16, 32, 64, 128)},
        },
    }


def start_up(machine: Machine) -> Numbers:
    """Seconds until the package can be used."""

    def median(*command: str) -> float:
        taken = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
            taken.append(time.perf_counter() - start)
        return sorted(taken)[2]

    bare = median("-c", "pass")
    return {
        "what": "seconds to start, medians of five",
        "interpreter": bare,
        "import scans_lens, over the interpreter": median("-c", "import scans_lens") - bare,
        "python -m scans_lens --help": median("-m", "scans_lens", "--help"),
        "targets": {"import": 0.5, "help": 1.0},
    }


def gpu(machine: Machine) -> Numbers:
    """A Llama as large as Llama-2-7b with random bfloat16 weights, where there is a GPU."""
    if not torch.cuda.is_available():
        return {"what": "a 7 B Llama on a GPU", "skipped": "there is no GPU here"}
    from benchmarks.on_gpu import seven_billion

    return seven_billion()


MEASURES: Mapping[str, Callable[[Machine], Numbers]] = {
    own.__name__: own for own in (start_up, reading, decoding, mixed, sweep, growth, gpu)
}


def _weights(model: Any, *, unembedding: bool = True) -> int:
    """Weights that every token is multiplied with: all but the embedding, a look-up."""
    source = model.original_model
    embedding = source.get_input_embeddings().weight.numel()
    head = source.get_output_embeddings().weight.numel()
    tied = source.get_input_embeddings().weight.data_ptr() == source.get_output_embeddings().weight.data_ptr()
    total = sum(one.numel() for one in source.parameters()) - embedding + (head if tied else 0)
    return total if unembedding else total - head


def _hooked() -> Any:
    try:
        return load_model(subjects.folder(), backend="hooked")
    except ValueError:
        return None
