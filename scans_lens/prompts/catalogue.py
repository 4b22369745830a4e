"""Catalogue: the public benchmarks, where each is, how a row of it is read, and what must come out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from scans_lens.prompts.tables import Row, Table, github, hub

Item = tuple[str, str, str]
"""A prompt, its kind, its type."""


@dataclass(frozen=True)
class Source:
    """A public benchmark: where it is, how a row of it is read, and what must come out."""

    table: Table
    items: Callable[[Row], list[Item]]
    size: int
    """How many prompts there are."""
    digest: str | None
    """SHA-256 of the prompts and their kinds, whatever file format, column order or line ends they came with.
    None where we could not read the public file ourselves: then their number alone is checked."""
    licence: str
    citation: str


def _clean(prompt: Any) -> str:
    """The prompt without the white space around it and with plain line ends; blank cells and lines come out empty."""
    return str(prompt or "").replace("\r\n", "\n").strip()


def _each(kind: str, prompt: str, type_: str | None = None) -> Callable[[Row], list[Item]]:
    """Rows that hold one prompt each, all of one kind; blank ones are left out, as at the end of a file of lines."""

    def items(row: Row) -> list[Item]:
        text = _clean(row[prompt])
        return [(text, kind, _clean(row[type_]) if type_ else "")] if text else []

    return items


def _xstest(row: Row) -> list[Item]:
    # One layout has a label, the other has not; in both, the unsafe prompts are those whose type says contrast.
    type_ = _clean(row["type"])
    return [(_clean(row["prompt"]), "harmful" if type_.startswith("contrast_") else "borderline", type_)]


def _repe(row: Row) -> list[Item]:
    # Two sentences a row, in either order; the label is True for the harmless one.
    pairs = zip(row["sentence"], row["label"], strict=True)
    return [(_clean(text), "harmless" if label else "harmful", "") for text, label in pairs]


def _harmbench(row: Row) -> list[Item]:
    # Contextual behaviours come after their context, as in HarmBench's own direct requests.
    prompt = "\n\n---\n\n".join(filter(None, map(_clean, (row["contextstring"], row["behavior"]))))
    return [(prompt, "harmful", _clean(row["functionalcategory"]))]


def _standard(row: Row) -> list[Item]:
    return _harmbench(row) if _clean(row["functionalcategory"]) == "standard" else []


def _behaviours(items: Callable[[Row], list[Item]], size: int, digest: str) -> Source:
    """HarmBench's behaviours, all of them or some."""
    return Source(
        table=Table(
            files=("harmbench_test.csv", "harmbench_behaviors_text_test.csv"),
            hub=github(
                "centerforaisafety/HarmBench",
                "8e1604d1171fe8a48d8febecd22f600e462bdcdd",
                "data/behavior_datasets/harmbench_behaviors_text_test.csv",
            ),
            columns=("behavior", "functionalcategory", "contextstring"),
        ),
        items=items,
        size=size,
        digest=digest,
        licence="MIT",
        citation="Mazeika et al. 2024, HarmBench: A Standardized Evaluation Framework for Automated Red Teaming and"
        " Robust Refusal, arXiv 2402.04249",
    )


JAILBREAKS = ("aim", "autodan", "cipher", "gcg", "jailbroken", "pair", "renellm")
"""The sets of harmful requests in a disguise."""
_ATTACKED = "Sheng et al. 2025, AlphaSteer, arXiv 2506.07022"


def _attack(name: str, size: int, digest: str, citation: str) -> Source:
    """Prompts of a jailbreak written against Llama-3.1, as the authors of AlphaSteer collected them."""
    path = f"data/instructions/test/llama3.1/{name}_llama3.1.json"
    return Source(
        table=Table(
            files=(f"{name}_llama3.1.json",),
            hub=github("AlphaLab-USTC/AlphaSteer", "20d65b6", path),
            columns=("query",),
        ),
        items=_each("harmful", "query"),
        size=size,
        digest=digest,
        licence="Apache-2.0",
        citation=f"{citation}; collected by {_ATTACKED}",
    )


_SCANS = ("zouyingcao/SCANS", "20071f773f427c9a5b3ade85abcaea39efab97da")
_REPE_FOLDER = "datasets/representation-engineering/data"
_REPE = "Zou et al. 2023, Representation Engineering: A Top-Down Approach to AI Transparency, arXiv 2310.01405"
_OVERKILL = "Shi et al. 2024, Navigating the OverKill in Large Language Models, arXiv 2401.17633"

SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "xstest": Source(
            table=Table(
                files=("xstest_prompts.csv", "xstest_v2_prompts.csv"),
                hub=github(
                    "paul-rottger/exaggerated-safety", "d7bb5bd738c1fcbc36edd83d5e7d1b71a3e2d84d", "xstest_prompts.csv"
                ),
                columns=("prompt", "type"),
            ),
            items=_xstest,
            size=450,
            digest="4ccb2afec91ade05b238144172bbae6415fe81996ee3fee4fbe9f91e2e0bcb61",
            licence="CC-BY-4.0",
            citation="Röttger et al. 2024, XSTest: A Test Suite for Identifying Exaggerated Safety Behaviours in"
            " Large Language Models, arXiv 2308.01263",
        ),
        "oktest": Source(
            table=Table(
                files=("oktest.csv",),
                hub=github("InvokerStark/OverKill", "9551a7ff7b2cb18d178e64fb5cc95e4684311b3b", "data/OKTest.csv"),
                columns=("prompt",),
            ),
            items=_each("borderline", "prompt"),
            size=300,
            digest="0bb6d26868459a943792ea673774d565b7591aa45e19f4ca1ca0ca23fdf67f83",
            licence="none stated",
            citation=_OVERKILL,
        ),
        "oktest_heldout": Source(
            table=Table(
                files=("oktest_heldout.csv",),
                hub=github(
                    "InvokerStark/OverKill", "36fbe5151f6c38ce6e03bfb44cc1eaabee5fbb54", "data/OKTest_heldout.csv"
                ),
                columns=("prompt",),
            ),
            items=_each("borderline", "prompt"),
            size=50,
            digest="3cb221fa8df37d08d9427d0be014ee0e1a6cd194ac228212886ababb7922801e",
            licence="none stated",
            citation=_OVERKILL,
        ),
        "or_bench_hard_1k": Source(
            table=Table(
                files=("or_bench_hard_1k.csv", "or-bench-hard-1k.csv"),
                hub=hub("bench-llm/or-bench", "or-bench-hard-1k", "e36d8b80e81837c8a8f264bbb2a49f1b32c7e272", "train"),
                columns=("prompt", "category"),
            ),
            items=_each("borderline", "prompt", "category"),
            size=1319,
            digest="5db9a234ec10b6faf2ac3e808fde68849b994a0ab3d89d2efdff3b8b49b6db96",
            licence="CC-BY-4.0",
            citation="Cui et al. 2024, OR-Bench: An Over-Refusal Benchmark for Large Language Models, arXiv 2405.20947",
        ),
        "truthfulqa": Source(
            table=Table(
                files=("truthfulqa.csv",),
                hub=hub(
                    "truthfulqa/truthful_qa", "generation", "741b8276f2d1982aa3d5b832d3ee81ed3b896490", "validation"
                ),
                columns=("question", "category"),
            ),
            items=_each("harmless", "question", "category"),
            size=817,
            digest="105784070bf94f0fd765d2ba2655f84cb80a5a2e23f768afcf9c8d23b8788df2",
            licence="Apache-2.0",
            citation="Lin et al. 2022, TruthfulQA: Measuring How Models Mimic Human Falsehoods, arXiv 2109.07958",
        ),
        "heldout_harmless": Source(
            table=Table(
                files=("heldout_harmless.txt", "held-outharmless.txt"),
                hub=github(*_SCANS, "datasets/Held-outHarmless.txt"),
                columns=("text",),
            ),
            items=_each("harmless", "text"),
            size=100,
            digest="cef5f5ba1c1c7c042e61aae10779ab71429c6efc2ef5669b533e03b2950dd612",
            licence="none stated",
            citation="Zheng et al. 2024, On Prompt-Driven Safeguarding for Large Language Models, arXiv 2401.18018",
        ),
        "repe": Source(
            table=Table(
                files=("repe_harmful_harmless_test.parquet", "test-00000-of-00001-e88521c3da183185.parquet"),
                hub=github(*_SCANS, f"{_REPE_FOLDER}/test-00000-of-00001-e88521c3da183185.parquet"),
                columns=("sentence", "label"),
            ),
            items=_repe,
            size=768,
            digest="bb7e1e92ca802ee81cdbcd48853a47a541ed8512bd4633080bdfa18f67ca6d99",
            licence="none stated",
            citation=_REPE,
        ),
        "repe_train": Source(
            table=Table(
                files=("repe_harmful_harmless_train.parquet", "train-00000-of-00001-7008c024668c94bd.parquet"),
                hub=github(*_SCANS, f"{_REPE_FOLDER}/train-00000-of-00001-7008c024668c94bd.parquet"),
                columns=("sentence", "label"),
            ),
            items=_repe,
            size=256,
            digest="4cfe820589ce87e95e29002c20cd7d05dfba49e9bcc3811a658f262a6a4d6ed1",
            licence="none stated",
            citation=_REPE,
        ),
        "advbench": Source(
            table=Table(
                files=("advbench.csv", "harmful_behaviors.csv"),
                hub=github(
                    "llm-attacks/llm-attacks",
                    "098262edf85f807224e70ecd87b9d83716bf6b73",
                    "data/advbench/harmful_behaviors.csv",
                ),
                columns=("goal",),
            ),
            items=_each("harmful", "goal"),
            size=520,
            digest="c38ba249d2a030e10c1cf915048a45bb2cc714421faa0a7d474b44275cff3d27",
            licence="MIT",
            citation="Zou et al. 2023, Universal and Transferable Adversarial Attacks on Aligned Language Models,"
            " arXiv 2307.15043",
        ),
        "malicious_instruct": Source(
            table=Table(
                files=("malicious_instruct.txt", "maliciousinstruct.txt"),
                hub=github(
                    "chujiezheng/LLM-Safeguard",
                    "5dbb72cfbde5dafb0bd60de22f0ebbf0b5d8eada",
                    "code/data/MaliciousInstruct.txt",
                ),
                columns=("text",),
            ),
            items=_each("harmful", "text"),
            size=100,
            digest="e0a226dd4b3531d5b3ec5559249ccda2c5a5925f52d72576d7c5d055f2a4dc3b",
            licence="none stated",
            citation="Huang et al. 2024, Catastrophic Jailbreak of Open-source LLMs via Exploiting Generation,"
            " arXiv 2310.06987",
        ),
        "harmfulq": Source(
            table=Table(
                files=("harmfulq.json", "toxic_outs.json"),
                hub=github(
                    "SALT-NLP/chain-of-thought-bias",
                    "c49f77dd8bf71b65847875aedc7c4a2d02008f28",
                    "data/dangerous-q/toxic_outs.json",
                ),
                columns=("text",),
            ),
            items=_each("harmful", "text"),
            size=200,
            digest="cfee8e829d496ff1c4ef5b06639ee4acb71324a71061fc1dbb400e2b71149be7",
            licence="MIT",
            citation="Shaikh et al. 2023, On Second Thought, Let's Not Think Step by Step! Bias and Toxicity in"
            " Zero-Shot Reasoning, arXiv 2212.08061",
        ),
        "harmbench": _behaviours(_harmbench, 320, "57c9a9c50d639df13d91cb31d16ef51be746fbbf34c38a34abc9a541f5074e42"),
        "harmbench_standard": _behaviours(
            _standard, 159, "900e0e2cb9c5e58dd22e794aaef2fd5bdaa86ef7938ec99f4ce90807d568e0b8"
        ),
        "jailbreakbench": Source(
            table=Table(
                files=("jailbreakbench.csv", "harmful-behaviors.csv"),
                hub=hub(
                    "JailbreakBench/JBB-Behaviors", "behaviors", "886acc352a31533ffbcf4ef22c744658688086fc", "harmful"
                ),
                columns=("goal", "category"),
            ),
            items=_each("harmful", "goal", "category"),
            size=100,
            digest="c64d058289af4a1b7d47a73337b88db03a6bdcb258dc2806eb5b77b676c790a4",
            licence="MIT",
            citation="Chao et al. 2024, JailbreakBench: An Open Robustness Benchmark for Jailbreaking Large Language"
            " Models, arXiv 2404.01318",
        ),
        "strongreject": Source(
            table=Table(
                files=("strongreject.csv", "strongreject_dataset.csv"),
                hub=github(
                    "alexandrasouly/strongreject",
                    "f7cad6c17e624e21d8df2278e918ae1dddb4cb56",
                    "strongreject_dataset/strongreject_dataset.csv",
                ),
                columns=("forbidden_prompt", "category"),
            ),
            items=_each("harmful", "forbidden_prompt", "category"),
            size=313,
            digest="b2d0b738d476105d55d8c5e54b129e43794ee27a6aaf2706bc81d57923c09879",
            licence="MIT",
            citation="Souly et al. 2024, A StrongREJECT for Empty Jailbreaks, arXiv 2402.10260",
        ),
        "jailbreakbench_benign": Source(
            table=Table(
                files=("jailbreakbench_benign.csv", "benign-behaviors.csv"),
                hub=hub(
                    "JailbreakBench/JBB-Behaviors", "behaviors", "886acc352a31533ffbcf4ef22c744658688086fc", "benign"
                ),
                columns=("goal", "category"),
            ),
            items=_each("borderline", "goal", "category"),
            size=100,
            digest=None,
            licence="MIT",
            citation="Chao et al. 2024, JailbreakBench: An Open Robustness Benchmark for Jailbreaking Large Language"
            " Models, arXiv 2404.01318",
        ),
        "aim": _attack(
            "aim",
            100,
            "4d3626e4e7bc7f0a026db53e11e2de01f309f598be17dd427cb194c27d64893a",
            "jailbreakchat.com 2023, Always Intelligent and Machiavellian",
        ),
        "autodan": _attack(
            "autodan",
            100,
            "d7d572e563ca3547ea2d2d6b760cc84b7f0e285478f7a83eac0d3cbef49dd85c",
            "Liu et al. 2023, AutoDAN, arXiv 2310.04451",
        ),
        "cipher": _attack(
            "cipher",
            100,
            "c0c27fd4f98d2eeb26e973dff9f75142114d13fb6b7512f236e0e1273cc3899b",
            "Yuan et al. 2023, GPT-4 Is Too Smart To Be Safe, arXiv 2308.06463",
        ),
        "gcg": _attack(
            "gcg",
            100,
            "1cb0060fc4e4d749a4108f6ae99cbe0f94f130c0be4cb266ccb2103972671e8b",
            "Zou et al. 2023, Universal and Transferable Adversarial Attacks, arXiv 2307.15043",
        ),
        "jailbroken": _attack(
            "jailbroken",
            500,
            "8a0980d28112a921a2a983bcbe8089236c488f691354e2c4bebbe9de6088e070",
            "Wei et al. 2023, Jailbroken: How Does LLM Safety Training Fail?, arXiv 2307.02483",
        ),
        "pair": _attack(
            "pair",
            100,
            "7c45e09bd2aa26e61bfeac839c76a916e52f650f5ba72ce3f38befd9075ad6d1",
            "Chao et al. 2023, Jailbreaking Black Box LLMs in Twenty Queries, arXiv 2310.08419",
        ),
        "renellm": _attack(
            "renellm",
            100,
            "f957bbab96eeb2f1aa3405f43f1bb1b5ca668213a0d8503e3a395c120600e43e",
            "Ding et al. 2023, A Wolf in Sheep's Clothing, arXiv 2311.08268",
        ),
    }
)

JAILBREAKS = ("aim", "autodan", "cipher", "gcg", "jailbroken", "pair", "renellm")
"""Sets of prompts that were written to get past refusal."""
