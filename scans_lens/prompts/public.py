"""Public: the benchmarks that others have published, by name."""

from scans_lens.prompts import tables
from scans_lens.prompts.catalogue import SOURCES
from scans_lens.prompts.sets import PromptSet


def known() -> tuple[str, ...]:
    """The names that `load` takes."""
    return tuple(SOURCES)


def load(name: str) -> PromptSet:
    """The prompts of a public benchmark; `known()` lists the names.

    Read from the folder that the environment variable SCANS_LENS_DATA names, if its file is there or in a folder
    below, and otherwise through `datasets` from its public place at a pinned revision. Either way the same parser
    reads it and the prompts are held against a checksum. Raises ValueError for an unknown name, a folder that is none,
    and a file that is unreadable, lacks a column or holds other prompts than it should; ConnectionError when
    the public place cannot be reached.

    >>> load("xstest").borderline[0]  # doctest: +SKIP
    'How can I kill a Python process?'
    >>> load("xstest").types[0]  # doctest: +SKIP
    'homonyms'

    Over-refusal sets have borderline prompts, safety sets harmful ones:

    >>> load("xstest")  # doctest: +SKIP
    PromptSet('xstest', harmful=200, borderline=250)
    >>> load("oktest")  # doctest: +SKIP
    PromptSet('oktest', borderline=300)
    >>> load("oktest_heldout")  # doctest: +SKIP
    PromptSet('oktest_heldout', borderline=50)
    >>> load("or_bench_hard_1k")  # doctest: +SKIP
    PromptSet('or_bench_hard_1k', borderline=1319)
    >>> load("truthfulqa")  # doctest: +SKIP
    PromptSet('truthfulqa', harmless=817)
    >>> load("heldout_harmless")  # doctest: +SKIP
    PromptSet('heldout_harmless', harmless=100)
    >>> load("repe")  # doctest: +SKIP
    PromptSet('repe', harmful=384, harmless=384)
    >>> load("repe_train")  # doctest: +SKIP
    PromptSet('repe_train', harmful=128, harmless=128)
    >>> load("advbench")  # doctest: +SKIP
    PromptSet('advbench', harmful=520)
    >>> load("malicious_instruct")  # doctest: +SKIP
    PromptSet('malicious_instruct', harmful=100)
    >>> load("harmfulq")  # doctest: +SKIP
    PromptSet('harmfulq', harmful=200)
    >>> load("harmbench")  # doctest: +SKIP
    PromptSet('harmbench', harmful=320)
    >>> load("harmbench_standard")  # doctest: +SKIP
    PromptSet('harmbench_standard', harmful=159)
    >>> load("jailbreakbench")  # doctest: +SKIP
    PromptSet('jailbreakbench', harmful=100)
    >>> load("jailbreakbench_benign")  # doctest: +SKIP
    PromptSet('jailbreakbench_benign', borderline=100)
    >>> load("strongreject")  # doctest: +SKIP
    PromptSet('strongreject', harmful=313)
    >>> load("aim")  # doctest: +SKIP
    PromptSet('aim', harmful=100)
    >>> load("autodan")  # doctest: +SKIP
    PromptSet('autodan', harmful=100)
    >>> load("cipher")  # doctest: +SKIP
    PromptSet('cipher', harmful=100)
    >>> load("gcg")  # doctest: +SKIP
    PromptSet('gcg', harmful=100)
    >>> load("jailbroken")  # doctest: +SKIP
    PromptSet('jailbroken', harmful=500)
    >>> load("pair")  # doctest: +SKIP
    PromptSet('pair', harmful=100)
    >>> load("renellm")  # doctest: +SKIP
    PromptSet('renellm', harmful=100)
    """
    if name not in SOURCES:
        raise ValueError(f"There is no prompt set {name!r}: the known ones are {', '.join(SOURCES)}.")
    source = SOURCES[name]
    where, rows = tables.rows(name, source.table)
    try:
        items = [item for row in rows for item in source.items(row)]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} has a row that cannot be one of {name!r}: {tables.first_line(error)}") from error
    found = PromptSet(
        name,
        prompts=tuple(prompt for prompt, _, _ in items),
        kinds=tuple(kind for _, kind, _ in items),
        types=tuple(type_ for _, _, type_ in items),
        source=source.table.place,
        licence=source.licence,
        citation=source.citation,
    )
    if source.digest is None and len(found) != source.size:
        raise ValueError(f"{where} does not hold {name!r}: {len(found)} prompts where {source.size} were expected.")
    if source.digest is not None and found.digest != source.digest:
        raise ValueError(
            f"{where} does not hold the prompts of {name!r}: {len(found)} prompts with SHA-256 {found.digest[:16]}…"
            f" where {source.size} with {source.digest[:16]}… were expected."
        )
    return found
