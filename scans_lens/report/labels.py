"""Labels: a hundred replies out to be judged by hand, and the judgements back in as one more judge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

from scans_lens import runs
from scans_lens.evaluation import KEY
from scans_lens.judges import Verdict

if TYPE_CHECKING:
    import pandas as pd

FILE = "labels.csv"
PEOPLE = "people"
"""The name under which labels stand beside the other judges' verdicts."""
_COLUMNS = KEY


def export(folder: str | Path, n: int = 100, seed: int = 0) -> Path:
    """Write `n` replies, drawn evenly over sets, kinds and methods, to `labels.csv` in the run's folder.

    Which method a reply is from is in the last columns, so that it need not be looked at. Fill the column `label`
    with refused, answered, partial or degenerate; the report reads it from there.

    Raises:
        ValueError: no run in the folder, no replies yet, or a file with labels that would be overwritten.
    """
    import numpy as np

    folder = Path(folder)
    table, _ = runs.read(folder)
    if table.empty:
        raise ValueError(f"{str(folder)!r} holds no replies yet.")
    file = folder / FILE
    if file.is_file() and len(read(folder, table)):
        raise ValueError(f"{str(file)!r} holds labels already: move it away first.")
    rng = np.random.default_rng(seed)
    mixed = table.iloc[rng.permutation(len(table))]
    turn = mixed.groupby(["set", "kind", "method"]).cumcount()
    chosen = mixed.assign(turn=turn).sort_values("turn", kind="stable").head(n)
    chosen = chosen.iloc[rng.permutation(len(chosen))].assign(label="")
    chosen[["label", "prompt", "reply", *_COLUMNS]].to_csv(file, index=False)
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
    found = pd.read_csv(file, dtype=str, keep_default_na=False)
    if missing := {"label", *_COLUMNS} - set(found.columns):
        raise ValueError(f"{str(file)!r} lacks the column {sorted(missing)[0]!r}: export it again.")
    keys = table[list(_COLUMNS)].astype(str).itertuples(index=False, name=None)
    places = {key: place for place, key in enumerate(keys)}
    labels: dict[int, Verdict] = {}
    for number, row in enumerate(found.to_dict("records"), 2):
        label = row["label"].strip().lower()
        if not label:
            continue
        if label not in get_args(Verdict):
            raise ValueError(f"{str(file)!r}, line {number}: {label!r} is none of {', '.join(get_args(Verdict))}.")
        key = tuple(row[name] for name in _COLUMNS)
        if key not in places:
            raise ValueError(f"{str(file)!r}, line {number}: there is no such reply in this run.")
        labels[places[key]] = label  # type: ignore[assignment]
    return labels
