"""Confounds: how well the two sides of a contrast can be told apart by their form alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scans_lens.conversation import words
from scans_lens.prompts.contrast import Contrast

_QUESTIONS = frozenset(
    ["how", "what", "why", "when", "where", "who", "whom", "whose", "which", "is", "are", "am", "was", "were", "do"]
    + ["does", "did", "can", "could", "will", "would", "shall", "should", "may", "might", "has", "have", "had"]
)
_POLITE = ("please", "could you", "would you", "thank")


@dataclass(frozen=True)
class Form:
    """The form of one side: shares of its prompts, and the median of their words."""

    prompts: int
    question_marks: float
    """Share that end in a question mark, quotation marks aside."""
    imperatives: float
    """Share that open with neither a question word nor a pronoun or article: "Write …", "Please tell …"."""
    polite: float
    words: float
    first_words: tuple[tuple[str, int], ...]
    """The most frequent ones."""


@dataclass(frozen=True)
class Confounds:
    """What form gives away of a contrast. A direction between such sides may be one of form, and not of harm."""

    name: str
    harmful: Form
    harmless: Form
    auc: float
    """Harmful told from harmless by form alone (the numbers above and the first word): 1/2 says nothing is given away.
    Of a logistic regression, on prompts that it was not fitted to (five folds)."""

    def __str__(self) -> str:
        rows = [
            ("prompts", *(str(side.prompts) for side in (self.harmful, self.harmless))),
            ("ending in '?'", *(f"{side.question_marks:.0%}" for side in (self.harmful, self.harmless))),
            ("imperative", *(f"{side.imperatives:.0%}" for side in (self.harmful, self.harmless))),
            ("polite", *(f"{side.polite:.0%}" for side in (self.harmful, self.harmless))),
            ("words, median", *(f"{side.words:g}" for side in (self.harmful, self.harmless))),
            (
                "first words",
                *(", ".join(f"{word} {n}" for word, n in side.first_words) for side in (self.harmful, self.harmless)),
            ),
        ]
        width = max(len(row[1]) for row in rows)
        lines = [f"{'':<16}{'harmful':<{width}}  harmless", *(f"{a:<16}{b:<{width}}  {c}" for a, b, c in rows)]
        return "\n".join([*lines, f"Told apart by form alone: AUC {self.auc:.2f} (0.5 is chance)."])


def confounds(contrast: Contrast, folds: int = 5) -> Confounds:
    """The form of both sides, and how well it alone tells them apart.

    AdvBench against TruthfulQA, the published anchors, differ in form almost without exception: none of
    the one end in a question mark, nearly all of the other do.

    Raises:
        ValueError: fewer prompts on a side than folds.
    """
    import numpy as np
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler

    sides = (contrast.harmful, contrast.harmless)
    if min(map(len, sides)) < folds:
        raise ValueError(
            f"{contrast.name!r} has {len(sides[0])} harmful and {len(sides[1])} harmless prompts: at least {folds} of"
            " each are needed to say how well form tells them apart."
        )
    truth = np.repeat([1, 0], [len(side) for side in sides])
    features = [_features(words(prompt)) for side in sides for prompt in side]
    guess = make_pipeline(DictVectorizer(), MaxAbsScaler(), LogisticRegression(max_iter=1000))
    # Sides of one length are taken to be matched, as in `Contrast.split`: of a twin whose twin was fitted, the form is
    # known too well, with the wrong side to it.
    alone = range(len(truth)) if len(sides[0]) != len(sides[1]) else [*range(len(sides[0]))] * 2
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    guessed = cross_val_predict(guess, features, truth, cv=split, groups=list(alone), method="predict_proba")
    auc = float(roc_auc_score(truth, np.asarray(guessed)[:, 1]))
    harmful, harmless = (_form([words(prompt) for prompt in side]) for side in sides)
    return Confounds(contrast.name, harmful, harmless, auc)


def _first_word(prompt: str) -> str:
    said = prompt.split()
    return said[0].strip("\"'.,:;!?()").lower() if said else ""


def _asks(prompt: str) -> bool:
    return prompt.rstrip(" \"'”’)").endswith("?")


def _is_polite(prompt: str) -> bool:
    return any(word in prompt.lower() for word in _POLITE)


def _commands(prompt: str) -> bool:
    return _first_word(prompt) not in _QUESTIONS | {"i", "i'm", "my", "we", "the", "a", "an", "in", "if", "there"}


def _features(prompt: str) -> dict[str, float | str]:
    return {
        "asks": float(_asks(prompt)),
        "commands": float(_commands(prompt)),
        "polite": float(_is_polite(prompt)),
        "words": float(len(prompt.split())),
        "capitals": sum(letter.isupper() for letter in prompt) / max(len(prompt), 1),
        "first word": _first_word(prompt),
    }


def _form(prompts: Sequence[str]) -> Form:
    n = len(prompts)
    lengths = sorted(len(prompt.split()) for prompt in prompts)
    return Form(
        n,
        sum(map(_asks, prompts)) / n,
        sum(map(_commands, prompts)) / n,
        sum(map(_is_polite, prompts)) / n,
        (lengths[(n - 1) // 2] + lengths[n // 2]) / 2,
        tuple(Counter(map(_first_word, prompts)).most_common(3)),
    )
