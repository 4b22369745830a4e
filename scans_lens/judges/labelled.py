"""Labelled: replies that people have judged, and how far our judges agree with them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scans_lens.judges import cues, learned, lists
from scans_lens.judges.together import panel
from scans_lens.prompts import tables
from scans_lens.rates import Rate

if TYPE_CHECKING:
    from scans_lens.judges import Verdict

MODELS = ("llama2new", "llama2orig", "mistralinstruct")
"""Whose replies to XSTest taught the trained judge: Llama 2 without and with its first system prompt, Mistral."""
FOLDS = 5
_REVISION = "d7bb5bd738c1fcbc36edd83d5e7d1b71a3e2d84d"
_LABELS: dict[str, Verdict] = {
    "1_full_compliance": "answered", "2_full_refusal": "refused", "3_partial_refusal": "partial",
}  # fmt: skip


@dataclass(frozen=True)
class Labelled:
    """A reply, and what two people took it for."""

    model: str
    prompt: str
    reply: str
    label: Verdict

    @property
    def fold(self) -> int:
        """The same for every reply to a prompt, whoever gave it."""
        return int(hashlib.sha256(self.prompt.encode()).hexdigest(), 16) % FOLDS


def xstest_replies(models: Sequence[str] = MODELS) -> list[Labelled]:
    """Replies to XSTest's 450 prompts, labelled by two annotators each (Röttger et al. 2024, arXiv 2308.01263).

    From the folder of local copies, or from their public place. Prompts CC-BY-4.0, replies under their vendors' terms.

    Raises:
        ValueError: a file is not what its name says.
        ConnectionError: it is not in the folder, and its public place cannot be reached.
    """
    found = []
    for model in models:
        file = f"xstest_v2_completions_{model}.csv"
        place = tables.github("paul-rottger/exaggerated-safety", _REVISION, f"model_completions/{file}")
        where, rows = tables.rows(model, tables.Table((file,), place, ("prompt", "completion", "final_label")))
        for row in rows:
            if row["final_label"] not in _LABELS:
                raise ValueError(f"{where} has the label {row['final_label']!r}; there are {', '.join(_LABELS)}.")
            found.append(Labelled(model, row["prompt"], row["completion"] or "", _LABELS[row["final_label"]]))
    return found


def teach(replies: Sequence[Labelled]) -> learned.Trained:
    """A judge taught by these replies."""
    return learned.Trained.fit([one.reply for one in replies], [one.label for one in replies])


@dataclass(frozen=True)
class Agreement:
    """How far a judge agrees with people on a model's replies."""

    judge: str
    model: str
    accuracy: Rate
    """Of full refusals and full answers; a verdict of anything else is an error."""
    balanced: float
    """Mean of the accuracies on refusals and on answers: always-answered scores 1/2."""
    balanced_interval: tuple[float, float]
    """95 %, over resampled replies."""
    kappa: float
    """Cohen's, on the same replies."""
    kappa_interval: tuple[float, float]
    three_class: float
    """Macro F1 over refused, answered and partial, on all replies."""
    coverage: Rate | None
    """Where the judge says how sure it is: replies of which it is."""
    accuracy_where_sure: Rate | None


def agreement(
    judge: str, model: str, labels: Sequence[Verdict], verdicts: Sequence[Verdict], sure: Sequence[bool] | None = None
) -> Agreement:
    """A judge's verdicts against people's labels.

    Raises:
        ValueError: not one verdict for each label.
    """
    import numpy as np
    from sklearn.metrics import f1_score

    if len(labels) != len(verdicts):
        raise ValueError(f"Every reply has a label and a verdict; got {len(labels)} and {len(verdicts)}.")
    full = [place for place, label in enumerate(labels) if label != "partial"]
    truth = np.array([labels[place] == "refused" for place in full])
    right = np.array([verdicts[place] == labels[place] for place in full])
    # What is neither refused nor answered is an error: it counts as the other of the two.
    said = np.where(right, truth, ~truth)
    draws = np.random.default_rng(0).integers(len(full), size=(1000, len(full)))
    both = [(_balanced(truth[draw], said[draw]), _kappa(truth[draw], said[draw])) for draw in draws]
    low, high = np.nanquantile(np.array(both), [0.025, 0.975], axis=0)
    is_sure = None if sure is None else [sure[place] for place in full]
    return Agreement(
        judge,
        model,
        Rate.of(right.tolist()),
        _balanced(truth, said),
        (float(low[0]), float(high[0])),
        _kappa(truth, said),
        (float(low[1]), float(high[1])),
        float(f1_score(labels, verdicts, labels=list(learned.CLASSES), average="macro", zero_division=0)),  # type: ignore[arg-type]
        None if is_sure is None else Rate.of(is_sure),
        None if not is_sure or not any(is_sure) else Rate.of(right[np.array(is_sure)].tolist()),
    )


def kappa(one: Sequence[Verdict], other: Sequence[Verdict]) -> float:
    """Cohen's kappa of two judges: agreement beyond what their own frequencies would give; 1 where both say one thing.

    Raises:
        ValueError: not as many verdicts of the one as of the other.
    """
    from sklearn.metrics import cohen_kappa_score

    if len(one) != len(other):
        raise ValueError(f"Two judges agree or not on the same replies; got {len(one)} verdicts and {len(other)}.")
    return 1.0 if set(one) == set(other) and len(set(one)) == 1 else float(cohen_kappa_score(one, other))


def _balanced(truth, said) -> float:
    import numpy as np

    return float(np.mean([np.mean(said[truth == side] == side) for side in (True, False) if np.any(truth == side)]))


def _kappa(truth, said) -> float:
    import numpy as np

    agreed = np.mean(truth == said)
    by_chance = np.mean(truth) * np.mean(said) + np.mean(~truth) * np.mean(~said)
    return float((agreed - by_chance) / (1 - by_chance)) if by_chance < 1 else 1.0


def left_out(
    replies: Sequence[Labelled], progress: Callable[[Sequence[tuple[str, int]]], object] | None = None
) -> list[Agreement]:
    """Every judge against people, on every model's replies.

    What is trained is trained anew for every model and fold of prompts, on the other models' replies to the other
    prompts: neither the model's style nor its prompts were seen.
    """
    models = list(dict.fromkeys(one.model for one in replies))
    verdicts: dict[str, dict[int, Verdict]] = {name: {} for name in ("panel", "trained", *_FIXED)}
    sure: dict[int, bool] = {}
    parts = [(model, fold) for model in models for fold in range(FOLDS)]
    for model, fold in progress(parts) if progress else parts:  # type: ignore[union-attr]
        own = [place for place, one in enumerate(replies) if one.model == model and one.fold == fold]
        judge = teach([one for one in replies if one.model != model and one.fold != fold])
        texts = [replies[place].reply for place in own]
        opinions = panel(judge).opinions(texts)
        found = {name: fixed(texts) for name, fixed in _FIXED.items()}
        for row, (place, opinion) in enumerate(zip(own, opinions, strict=True)):
            verdicts["panel"][place], sure[place] = opinion.verdict, opinion.sure
            verdicts["trained"][place] = opinion.votes["trained"]
            for name in _FIXED:
                verdicts[name][place] = found[name][row]
    table = []
    for name, given in verdicts.items():
        for model in models:
            own = [place for place, one in enumerate(replies) if one.model == model]
            labels: list[Verdict] = [replies[place].label for place in own]
            about = [sure[place] for place in own] if name == "panel" else None
            table.append(agreement(name, model, labels, [given[place] for place in own], about))
    return table


_FIXED: Mapping[str, Callable[[Sequence[str]], list[Verdict]]] = {
    "rules": cues.by_rules,
    "substrings": lists.by_substrings,
    "beginnings": lists.by_beginnings,
    "always answered": lambda replies: ["answered"] * len(replies),
}
