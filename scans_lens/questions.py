"""Questions: MMLU, four choices each, and how many of them a model answers rightly under a push."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scans_lens.chat import first_tokens, prompt_ids
from scans_lens.likelihoods import scored
from scans_lens.model import Model
from scans_lens.pieces import Piece, parted, require_steerable, room_of
from scans_lens.prompts import FOLDER_VARIABLE
from scans_lens.rates import Rate
from scans_lens.steering import Method

LETTERS = "ABCD"


@dataclass(frozen=True)
class Accuracy:
    """Which questions were answered rightly, by subject and in the order of the files."""

    right: Mapping[str, tuple[bool, ...]]
    """With two of these, `Paired.of` compares two ways question by question."""
    scales: Mapping[str, tuple[float, ...]]
    """How hard each question was pushed, + towards refusal; empty where nothing was."""

    @property
    def rate(self) -> Rate:
        """Over all questions."""
        return Rate.of(right for subject in self.right.values() for right in subject)

    @property
    def subjects(self) -> dict[str, Rate]:
        return {subject: Rate.of(right) for subject, right in self.right.items()}

    def as_json(self) -> dict[str, Any]:
        subjects = {subject: rate.as_json() for subject, rate in self.subjects.items()}
        return {"all": self.rate.as_json(), "subjects": subjects}

    def __str__(self) -> str:
        return "\n".join(f"{name}: {rate}" for name, rate in {**self.subjects, "all": self.rate}.items())


def mmlu(
    model: Model,
    method: Method | None = None,
    *,
    subjects: Sequence[str] | None = None,
    shots: int = 5,
    limit: int | None = None,
    chat: bool = False,
    sign: float | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> Accuracy:
    """Accuracy on the four-way questions of MMLU (Hendrycks et al. 2021), from a folder of local copies.

    The standard form, word for word lm-eval's: questions with their answers from the development file, then the
    question, and the likeliest of " A" to " D" after "Answer:". The files are `<subject>_dev.csv` and
    `<subject>_test.csv`, without a header, anywhere in the folder that SCANS_LENS_DATA names.

    Args:
        subjects: such as "college_biology"; by default all that lie in the folder.
        shots: answered questions before each question.
        limit: the first so many questions of each subject.
        chat: put all of it into one user's turn, as `replies` asks, and compare how the reply begins.
        sign: see `lm`.

    Raises:
        ValueError: no folder or files, broken ones, too few answered questions, or a model whose context is too short.
    """
    require_steerable(method, sign)
    if shots < 0 or (limit is not None and limit < 1):
        raise ValueError(f"Shots are 0 or more, and a limit is 1 or more; got {shots} and {limit}.")
    files = files_of(subjects)
    letters = _letters(model) if chat else None
    pieces: list[Piece] = []
    answers: list[tuple[str, int]] = []
    for subject in subjects or files:
        shown, asked = (_questions(path) for path in files[subject])
        if shots > len(shown):
            raise ValueError(f"There are {len(shown)} answered questions about {subject}, and {shots} are to be shown.")
        said = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
        said += "".join(f"{_question(row)} {row[5].strip()}\n\n" for row in shown[:shots])
        for row in asked[:limit]:
            text = said + _question(row)
            answers.append((subject, LETTERS.index(row[5].strip())))
            if letters:
                before = tuple(prompt_ids(model, text))
                pairs = [(before, (token,)) for token in letters]
            else:
                pairs = [parted(model, text, f" {letter}") for letter in LETTERS]
            pieces += [Piece((*before, *after), len(before), len(after)) for before, after in pairs]
    needed, most = max(map(room_of(model, method), pieces)), int(model.cfg.n_ctx)
    if needed > most:
        raise ValueError(
            f"MMLU with {shots} answered questions before each needs {needed} tokens, and this model reads at most "
            f"{most}: show fewer (shots=…), or take a model with a longer context."
        )
    scores = scored(model, pieces, method, sign, batch_size=batch_size, progress=progress)
    right: dict[str, list[bool]] = {}
    scales: dict[str, list[float]] = {}
    for place, (subject, answer) in enumerate(answers):
        choices = scores[4 * place : 4 * place + 4]
        likeliest = max(range(4), key=lambda choice: choices[choice].log_likelihood)
        right.setdefault(subject, []).append(likeliest == answer)
        if choices[0].scale is not None:
            scales.setdefault(subject, []).append(choices[0].scale)
    return Accuracy(
        {subject: tuple(answers) for subject, answers in right.items()},
        {subject: tuple(pushes) for subject, pushes in scales.items()},
    )


def _question(row: Sequence[str]) -> str:
    choices = "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, row[1:5], strict=True))
    return f"{row[0].strip()}{choices}\nAnswer:"


def _letters(model: Model) -> list[int]:
    """The tokens with which a reply begins that is one letter."""
    found = first_tokens(model, list(LETTERS))
    if any(letter not in found for letter in LETTERS):
        raise ValueError(f"The letters {LETTERS} are not one token each for this model: ask without chat=True.")
    return [found[letter] for letter in LETTERS]


def files_of(subjects: Sequence[str] | None = None) -> dict[str, tuple[Path, Path]]:
    """By subject, all that lie in the folder, where the answered questions and the others lie.

    Raises:
        ValueError: no folder, or not those subjects in it.
    """
    files = _subject_files()
    unknown = [subject for subject in subjects or () if subject not in files]
    if unknown or not (subjects or files):
        named = ", ".join(unknown) or "any subject"
        raise ValueError(
            f"{FOLDER_VARIABLE} has no MMLU files of {named}; it has those of {', '.join(files) or 'none'}."
        )
    return files


def _subject_files() -> dict[str, tuple[Path, Path]]:
    named = os.environ.get(FOLDER_VARIABLE)
    if not named or not Path(named).is_dir():
        raise ValueError(
            f"{FOLDER_VARIABLE} names no folder; put MMLU's files, <subject>_dev.csv and <subject>_test.csv, into one."
        )
    found = {}
    for test in sorted(Path(named).rglob("*_test.csv")):
        subject = test.name.removesuffix("_test.csv")
        if (shown := test.with_name(f"{subject}_dev.csv")).is_file():
            found.setdefault(subject, (shown, test))
    return found


def _questions(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    for place, row in enumerate(rows):
        if len(row) != 6 or row[5].strip() not in tuple(LETTERS):
            raise ValueError(f"{path} is not one of MMLU's: row {place} is no question, four choices and a letter.")
    return rows
