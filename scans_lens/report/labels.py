"""Labels: a hundred replies out to be judged by hand, and the judgements back in as one more judge."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from scans_lens import evaluation
from scans_lens.evaluation import KEY
from scans_lens.judges import Verdict

if TYPE_CHECKING:
    import pandas as pd

FILE = "labels.csv"
PEOPLE = "people"
"""The name under which labels stand beside the other judges' verdicts."""


def export(folder: str | Path, n: int = 100, seed: int = 0) -> Path:
    """Write about `n` replies to `labels.csv` in the run's folder: every way's to prompts drawn evenly over kinds.

    Which way a reply came about is not in the file, only a number that the report knows it by. Fill the column `label`
    with refused, answered, partial or degenerate; the report reads it from there.

    Raises:
        ValueError: no run in the folder, no replies yet, or a file with labels that would be overwritten.
    """
    import numpy as np

    folder = Path(folder)
    table, _ = evaluation.read(folder)
    if table.empty:
        raise ValueError(f"{str(folder)!r} holds no replies yet.")
    file = folder / FILE
    if file.is_file() and len(read(folder, table)):
        raise ValueError(f"{str(file)!r} holds labels already: move it away first.")
    rng = np.random.default_rng(seed)
    prompts = table.drop_duplicates(["set", "prompt_id"])
    mixed = prompts.iloc[rng.permutation(len(prompts))]
    turn = mixed.groupby(["set", "kind"]).cumcount()
    drawn = mixed.assign(turn=turn).sort_values("turn", kind="stable")[["set", "prompt_id"]]
    ways = max(1, len(table) // len(prompts))
    chosen = table.merge(drawn.head(max(1, round(n / ways))), on=["set", "prompt_id"])
    chosen = chosen.iloc[rng.permutation(len(chosen))].assign(label="")
    chosen["reply_id"] = _ids(chosen)
    chosen[["label", "prompt", "reply", "reply_id"]].to_csv(file, index=False)
    return file


def read(folder: str | Path, table: pd.DataFrame) -> dict[int, Verdict]:
    """Row of the table -> label, of those that are filled in; empty where there is no file.

    Raises:
        ValueError: no labels file of this run, or an unknown label.
    """
    import pandas as pd

    file = Path(folder) / FILE
    if not file.is_file():
        return {}
    try:
        found = pd.read_csv(file, dtype=str, keep_default_na=False)
    except ValueError as error:  # of pandas' parser, or of the encoding
        raise ValueError(f"{str(file)!r} is empty, or no CSV file in UTF-8: export it again.") from error
    if missing := {"label", "reply_id"} - set(found.columns):
        raise ValueError(f"{str(file)!r} lacks the column {sorted(missing)[0]!r}: export it again.")
    places = {name: place for place, name in enumerate(_ids(table))}
    labels: dict[int, Verdict] = {}
    for number, row in enumerate(found.to_dict("records"), 2):
        label = row["label"].strip().lower()
        if not label:
            continue
        if label not in get_args(Verdict):
            raise ValueError(f"{str(file)!r}, line {number}: {label!r} is none of {', '.join(get_args(Verdict))}.")
        if row["reply_id"] not in places:
            raise ValueError(f"{str(file)!r}, line {number}: there is no such reply in this run.")
        labels[places[row["reply_id"]]] = label  # type: ignore[assignment]
    return labels


def _ids(table: pd.DataFrame) -> list[str]:
    """A number for every row, which says nothing of the way that it came about."""
    keys = table[list(KEY)].astype(str).itertuples(index=False, name=None)
    return [sha256("|".join(key).encode()).hexdigest()[:12] for key in keys]
