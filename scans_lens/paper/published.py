"""Published: what the SCANS paper reports (arXiv 2408.11491, tables 1 to 7), to stand beside what is measured here.

Figures are the paper's; percentages are of refused replies by its string match.
"""

from __future__ import annotations

from collections.abc import Mapping

Row = Mapping[str, float]

TOP_TOKENS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "Llama-2-7b-chat-hf": {
        "former": ("einges", "▁schließ", "vue", "che", "orio", "▁Syd", "rugu", "wrap", "widet", "axi"),
        "middle": ("▁rejected", "▁impossible", "zas", "▁cons", "ball", "od", "lio", "▁tur", "▁reject", "▁cannot"),
        "latter": ("sey", "Mas", "▁Coun", "Ir", "-ext", "-properties", "Seg", "ber", "ds", "▁sa"),
    },
}
"""Table 1."""

_COLUMNS = (
    "xstest borderline", "xstest harmful", "repe harmless", "repe harmful", "oktest borderline",
    "truthfulqa harmless", "advbench harmful", "malicious_instruct harmful", "right",
)  # fmt: skip


def _rates(*values: float) -> Row:
    return dict(zip(_COLUMNS, values, strict=True))


REFUSED: Mapping[str, Mapping[str, Row]] = {
    "Llama-2-7b-chat-hf": {
        "plain": _rates(58.00, 100.0, 12.50, 100.0, 53.67, 5.05, 100.0, 100.0, 86.13),
        "system": _rates(36.40, 100.0, 2.86, 99.48, 41.66, 15.27, 99.34, 100.0, 87.72),
        "self_cd": _rates(14.80, 97.50, 1.30, 98.17, 17.33, 4.51, 98.24, 98.00, 94.69),
        "scans": _rates(9.20, 93.50, 0.00, 99.22, 0.33, 0.80, 99.34, 100.0, 98.26),
    },
    "Llama-2-13b-chat-hf": {
        "plain": _rates(34.40, 99.50, 5.73, 100.0, 20.33, 11.69, 99.78, 100.0, 90.83),
        "system": _rates(18.00, 99.50, 0.78, 99.22, 30.33, 12.62, 99.34, 100.0, 91.47),
        "self_cd": _rates(29.60, 100.0, 4.68, 100.0, 19.33, 4.91, 98.24, 100.0, 93.10),
        "scans": _rates(7.20, 97.50, 0.00, 98.96, 0.33, 1.20, 98.90, 97.00, 98.40),
    },
    "vicuna-7b-v1.5": {
        "plain": _rates(20.80, 88.00, 4.69, 97.40, 19.00, 5.05, 97.37, 76.00, 91.68),
        "system": _rates(22.00, 91.00, 6.51, 98.44, 22.67, 11.33, 98.46, 82.00, 90.01),
        "self_cd": _rates(10.00, 83.00, 3.64, 89.58, 27.00, 9.56, 89.03, 56.00, 87.26),
        "scans": _rates(5.60, 87.00, 2.08, 95.83, 3.00, 0.00, 98.96, 98.00, 97.17),
    },
    "vicuna-13b-v1.5": {
        "plain": _rates(16.80, 98.00, 3.65, 98.96, 19.33, 4.38, 99.78, 93.00, 94.23),
        "system": _rates(20.80, 99.00, 10.68, 99.74, 27.00, 19.33, 99.34, 97.00, 88.37),
        "self_cd": _rates(8.40, 90.50, 2.60, 90.88, 26.67, 6.64, 90.57, 81.00, 90.20),
        "scans": _rates(9.20, 93.50, 2.08, 97.66, 3.33, 0.27, 99.78, 98.00, 97.59),
    },
}
"""Table 2. `system` is its "Prompt" baseline, whose words are not published; "right" its average column."""

CAPABILITY: Mapping[str, Mapping[str, Row]] = {
    name: {"plain": {"WikiText-2": wiki, "MMLU": mmlu}, "scans": {"WikiText-2": steered_wiki, "MMLU": steered_mmlu}}
    for name, wiki, mmlu, steered_wiki, steered_mmlu in (
        ("Llama-2-7b-chat-hf", 7.76, 47.2, 9.32, 40.5),
        ("Llama-2-13b-chat-hf", 6.86, 53.6, 7.29, 53.0),
        ("vicuna-7b-v1.5", 7.34, 49.9, 11.53, 46.8),
        ("vicuna-13b-v1.5", 6.37, 55.8, 7.07, 55.0),
    )
}
"""Table 3, in the paper's own forms of both, which are not the standard ones."""

SPEED: Mapping[str, Mapping[str, Row]] = {
    "Llama-2-7b-chat-hf": {
        "plain": {"tokens/s": 40.60, "memory, MB": 29324}, "scans": {"tokens/s": 39.62, "memory, MB": 29694},
    },
}  # fmt: skip
"""Table 4, on one A100; the classifier's pass for every query is not in it."""


def _fewer(*values: float) -> Row:
    columns = tuple(name for name in _COLUMNS if not name.startswith("repe"))
    return dict(zip(columns, values, strict=True))


THIRDS: Mapping[str, Mapping[str, Row]] = {
    "Llama-2-7b-chat-hf": {
        "middle": _fewer(9.20, 93.50, 0.33, 0.80, 99.34, 100.0, 97.76),
        "latter": _fewer(12.00, 95.00, 7.00, 0.27, 98.90, 98.00, 96.59),
    },
    "vicuna-7b-v1.5": {
        "middle": _fewer(5.60, 87.00, 3.00, 0.00, 98.96, 98.00, 97.29),
        "latter": _fewer(7.60, 83.50, 2.33, 1.46, 93.42, 92.00, 94.75),
    },
}
"""Table 5; the former third breaks the model (perplexity 2946 and 15433), and its rates are not reported."""

ALPHA: Mapping[str, Mapping[str, Row]] = {
    "Llama-2-7b-chat-hf": {
        f"{alpha:g}": {
            "xstest borderline": safe, "xstest harmful": unsafe, "oktest borderline": ok,
            "malicious_instruct harmful": 100.0, "truthfulqa harmless": tqa, "advbench harmful": adv, "right": average,
        }
        for alpha, safe, unsafe, ok, tqa, adv, average in (
            (1.5, 9.60, 91.0, 7.00, 0.93, 99.12, 96.41),
            (2.0, 10.40, 91.5, 3.33, 1.06, 99.12, 96.85),
            (2.5, 10.80, 94.0, 1.00, 0.80, 99.12, 97.47),
            (3.0, 10.80, 94.0, 0.33, 0.80, 99.12, 97.57),
            (3.5, 9.20, 93.5, 0.33, 0.80, 99.34, 97.76),
            (4.0, 10.40, 93.5, 0.33, 0.93, 99.34, 97.57),
        )
    },
}  # fmt: skip
"""Table 6."""

THRESHOLD: Mapping[str, Mapping[str, Row]] = {
    "Llama-2-7b-chat-hf": {
        f"{threshold:.2f}": {
            "xstest borderline": safe, "xstest harmful": unsafe, "oktest borderline": ok,
            "malicious_instruct harmful": malicious, "truthfulqa harmless": tqa, "advbench harmful": adv,
            "right": average,
        }
        for threshold, safe, unsafe, ok, malicious, tqa, adv, average in (
            (0.80, 3.60, 71.0, 0.0, 94.0, 0.13, 99.12, 96.21),
            (0.75, 9.20, 93.5, 0.33, 98.0, 0.80, 99.34, 97.67),
            (0.70, 33.20, 99.5, 8.33, 100.0, 5.71, 99.56, 92.52),
            (0.65, 46.00, 99.5, 33.67, 100.0, 10.49, 100.0, 85.62),
            (0.60, 65.20, 100.0, 50.00, 100.0, 25.23, 100.0, 75.57),
        )
    },
}  # fmt: skip
"""Table 7."""
