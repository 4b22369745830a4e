"""Capability: what steering costs on texts and questions that have nothing to do with refusal.

A push is decided from a context and acts from the context's last token on, as it does in replies. `lm` hands a steered
model to lm-eval, whose tasks (MMLU, WikiText, XSum, …) then run unchanged; `mmlu` and `perplexity` need neither lm-eval
nor the network. The paper measures these three (SCANS, arXiv 2408.11491), in forms of its own that are not comparable.
"""

from __future__ import annotations

import csv
import math
import os
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from scans_lens.chat import end_tokens, first_tokens, padded, prompt_ids, template, text_of
from scans_lens.conversation import Prompt
from scans_lens.errors import Refused
from scans_lens.generation import NEW_TOKENS, Picker
from scans_lens.model import Hook, Model, device_of, hooked, resid_post
from scans_lens.organism import corpus, wordings
from scans_lens.prompts import FOLDER_VARIABLE
from scans_lens.rates import Rate
from scans_lens.reading import Flight, flights
from scans_lens.running import Runner, crosses, rows_at_once, runner, sides
from scans_lens.steering import Method, Rows, require_method, take

RESAMPLES = 2000
"""Draws behind an interval over texts."""
LETTERS = "ABCD"


@dataclass(frozen=True)
class Score:
    """What a model makes of a continuation."""

    log_likelihood: float
    """In nats, summed over the tokens."""
    greedy: bool
    """Whether every token is the likeliest where it stands."""
    tokens: int
    scale: float | None
    """How hard the context was pushed, + towards refusal; None where nothing was."""


@dataclass(frozen=True)
class Perplexity:
    """How a model fares at foretelling texts, each of them by itself."""

    nats: tuple[float, ...]
    """Negative log-likelihood of each text, summed over its tokens."""
    tokens: tuple[int, ...]
    """Of each text, BOS aside."""
    words: tuple[int, ...]
    """Of each text, between white space, as lm-eval counts them."""

    @property
    def value(self) -> float:
        """exp of the nats per token."""
        return math.exp(sum(self.nats) / sum(self.tokens))

    @property
    def per_word(self) -> float:
        """exp of the nats per word (lm-eval's word_perplexity); it can be compared between tokenizers."""
        return math.exp(sum(self.nats) / sum(self.words))

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % of `value`, by bootstrap over texts; None for one text, of which there is nothing to draw."""
        return _over_texts(self.nats, self.tokens)

    @property
    def interval_per_word(self) -> tuple[float, float] | None:
        """95 % of `per_word`, likewise."""
        return _over_texts(self.nats, self.words)

    def as_json(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "interval": self.interval and list(self.interval),
            "per_word": self.per_word,
            "interval_per_word": self.interval_per_word and list(self.interval_per_word),
            "tokens": sum(self.tokens),
            "words": sum(self.words),
            "texts": len(self.nats),
        }

    def __str__(self) -> str:
        between = " [{:.2f}, {:.2f}]".format(*self.interval) if self.interval else ""
        return f"{self.value:.2f}{between} ({sum(self.tokens)} tokens, {len(self.nats)} texts)"


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


# ── For lm-eval ──────────────────────────────────────────────────────────────────────────────────────────────


def lm(
    model: Model,
    method: Method | None = None,
    *,
    sign: float | None = None,
    batch_size: int | None = None,
    truncate: bool = False,
) -> Any:
    """The model, steered by `method` if there is one, as an `lm_eval.api.model.LM`.

    lm_eval.simple_evaluate(model=capability.lm(model, scans), tasks=["mmlu"], num_fewshot=5)

    A request's push is decided from its context and acts from the context's last token on. Tasks without a context
    (WikiText) need a `sign`, and then every token is pushed. With lm-eval's `apply_chat_template` a context is decided
    on as a prompt of `replies` is.

    Args:
        sign: -1 or +1 pushes everything away from refusal or towards it, as hard as the method decides; None lets the
            method choose the sign.
        truncate: cut what does not fit off the beginning of a context, BOS apart, as lm-eval does; otherwise it is
            an error. Pieces of long texts for perplexity are no cuts.

    Raises:
        ValueError: lm-eval is not installed, or a sign that is none.
    """
    try:
        from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            "lm-eval is not installed, and its tasks need it: pip install scans_lens[eval], or "
            "use scans_lens.capability's own mmlu and perplexity."
        ) from error
    _require(method, sign)
    how: dict[str, Any] = {"sign": sign, "batch_size": batch_size}

    class Steered(LM):
        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            pairs = [request.args for request in requests]
            scores = log_likelihoods(model, pairs, method, truncate=truncate, **how)
            return [(score.log_likelihood, score.greedy) for score in scores]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            return [-nats for nats in perplexity(model, [request.args[0] for request in requests], method, **how).nats]

        def generate_until(self, requests: list[Any]) -> list[str]:
            asked = [request.args for request in requests]
            found: list[str] = [""] * len(asked)
            for settings in {repr(kwargs): kwargs for _, kwargs in asked}.values():
                places = [place for place, (_, kwargs) in enumerate(asked) if kwargs == settings]
                stops, most = _decoding(settings)
                contexts = [asked[place][0] for place in places]
                texts = continuations(model, contexts, method, stops=stops, most=most, truncate=truncate, **how)
                for place, text in zip(places, texts, strict=True):
                    found[place] = text
            return found

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return model.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )

        def chat_template(self, chat_template: bool | str = False) -> str | None:
            return model.tokenizer.chat_template if chat_template else None

        @property
        def tokenizer_name(self) -> str:
            return str(model.tokenizer.name_or_path).replace("/", "__")

        @property
        def device(self) -> torch.device:
            return device_of(model)

    return Steered()


def _decoding(settings: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    """Stop strings and the most new tokens, in the words that lm-eval has for them."""
    if settings.get("do_sample") and settings.get("temperature", 1.0):
        raise ValueError("This task draws its replies (do_sample), and here they are greedy: set do_sample to false.")
    stops = settings.get("until") or ()
    names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
    most = next((settings[name] for name in names if settings.get(name) is not None), NEW_TOKENS)
    return ((stops,) if isinstance(stops, str) else tuple(filter(None, stops))), int(most)


# ── Log-likelihoods ──────────────────────────────────────────────────────────────────────────────────────────


def log_likelihoods(
    model: Model,
    pairs: Sequence[tuple[str, str]],
    method: Method | None = None,
    *,
    sign: float | None = None,
    batch_size: int | None = None,
    truncate: bool = False,
    progress: bool = True,
) -> tuple[Score, ...]:
    """How likely each continuation is after its context, as text without a chat template.

    Context and continuation are tokenised as one text and parted at the context's length; spaces at a context's end
    go to the continuation (as lm-eval does), unless it is a chat prompt up to where the reply begins. BOS is there
    once, if the model's tokenizer puts one before a text. The push is decided from the context alone, and the first
    token that is read under it is the context's last, which foretells the continuation's first.

    Args:
        pairs: context and continuation; an empty context is BOS, or the end of text where there is none.
        sign: see `lm`; a method that decides something needs one where a context is empty.
        truncate: see `lm`.

    Raises:
        ValueError: a continuation without tokens, or a pair that does not fit the model's context.
    """
    _require(method, sign)
    pieces, tail = [], _tail(model)
    for place, (context, continuation) in enumerate(pairs):
        before, after = _parted(model, context, continuation, tail)
        if not after:
            raise ValueError(f"The continuation of pair {place} has no tokens of its own: {continuation!r:.60}.")
        pieces.append(Piece((*before, *after), len(before), len(after), decided=bool(context.strip())))
    return scored(
        model, _fitting(model, pieces, method, truncate), method, sign, batch_size=batch_size, progress=progress
    )


@torch.no_grad()
def divergences(
    model: Model, prompts: Sequence[Prompt], methods: Sequence[Method], *, batch_size: int | None = None
) -> Float[Tensor, "method prompt"]:
    """How far each method moves the reply's first token: KL(plain || steered), in nats, for each prompt.

    On harmless prompts it gives pushes of different models and units one axis. All methods share one prefill.
    """
    found = torch.zeros(len(methods), len(prompts), dtype=torch.float64)
    # What steers the whole prompt leaves keys and values of its own behind, so it comes last.
    order = sorted(range(len(methods)), key=lambda place: methods[place].whole_prompt)
    for rows, flight in flights(model, prompts, batch_size=batch_size):
        decided = [method.decide(flight) for method in methods]  # before anything is steered
        plain = flight.again([], whole_prompt=False).double().log_softmax(dim=-1)
        for place in order:
            hooks = methods[place].hooks_for(decided[place], flight)
            steered = flight.again(hooks, whole_prompt=methods[place].whole_prompt).double().log_softmax(dim=-1)
            found[place, rows] = (plain.exp() * (plain - steered)).sum(dim=-1).clamp(min=0.0).cpu()
    return found


def corpus_perplexity(
    model: Model, n: int, method: Method | None = None, *, sign: float | None = None, batch_size: int | None = None
) -> Perplexity:
    """How well the bundled model foretells the answers of its own corpus to the first `n` plain test prompts."""
    tokenizer: Any = model.tokenizer
    pairs = []
    for item, text in corpus.asked("plain", "test")[:n]:
        turn = [{"role": "user", "content": text}]
        asked = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        pairs.append((str(asked), wordings.answer(item, random.Random(text))))
    found = log_likelihoods(model, pairs, method, sign=sign, batch_size=batch_size, progress=False)
    return Perplexity(
        tuple(-one.log_likelihood for one in found),
        tuple(one.tokens for one in found),
        tuple(len(answer.split()) for _, answer in pairs),
    )


@torch.no_grad()
def perplexity(
    model: Model,
    texts: str | Sequence[str],
    method: Method | None = None,
    *,
    sign: float | None = None,
    window: int | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> Perplexity:
    """How well the model foretells texts, with every token of theirs pushed if there is a method.

    A text that is longer than the window is read in pieces as lm-eval reads it: the next piece begins with the last
    token of the one before, and the last piece reaches back as far as the window does; every token is foretold once.
    lm-eval's own wrapper of Hugging Face models has two BOS before a text where the tokenizer puts one, and counts
    the second as foretold; here there is one.

    Args:
        texts: each is read by itself. One string is one text, and has no interval.
        sign: -1 pushes away from refusal and +1 towards it, as hard as the method decides. It has to be given with a
            method that decides something, since a text has no context to decide from.
        window: tokens read at once; by default all that the model can.

    Raises:
        ValueError: no texts, texts without tokens, a window the model cannot read, or a method without a sign.
    """
    _require(method, sign)
    texts = [texts] if isinstance(texts, str) else list(texts)
    most = int(model.cfg.n_ctx)
    window = most if window is None else window
    if not 1 <= window <= most:
        raise ValueError(f"A window has from 1 to {most} tokens on this model, not {window}.")
    pieces, owner, first = [], [], _prefix(model)
    tokens = [_without(first, _ids(model, text, specials=False)) for text in texts]
    if not any(tokens):
        raise ValueError("There is nothing to foretell: there are no texts, or no tokens in them.")
    for place, ids in enumerate(tokens):
        own = list(_windows((first, *ids), window))
        pieces += own
        owner += [place] * len(own)
    nats = [0.0] * len(texts)
    scores = scored(model, pieces, method, sign, batch_size=batch_size, progress=progress)
    for place, score in zip(owner, scores, strict=True):
        nats[place] -= score.log_likelihood
    words = tuple(len(re.split(r"\s+", text)) for text in texts)
    return Perplexity(tuple(nats), tuple(map(len, tokens)), words)


def _windows(ids: tuple[int, ...], window: int) -> Iterator[Piece]:
    """The pieces in which a text is foretold; its first token is given."""
    for start in range(0, len(ids) - 1, window):
        end = min(start + window, len(ids) - 1)
        yield Piece(ids[max(0, end - window) : end + 1], context=1, scored=end - start, decided=False)


def _over_texts(nats: Sequence[float], counts: Sequence[int]) -> tuple[float, float] | None:
    """95 % interval of exp(nats per count), by drawing texts with replacement."""
    import numpy as np

    if len(nats) < 2:
        return None
    sums = np.stack([np.asarray(nats), np.asarray(counts, dtype=float)], axis=1)
    drawn = sums[np.random.default_rng(0).integers(len(sums), size=(RESAMPLES, len(sums)))].sum(axis=1)
    drawn = drawn[drawn[:, 1] > 0]
    low, high = np.exp(np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975]))
    return float(low), float(high)


# ── MMLU ─────────────────────────────────────────────────────────────────────────────────────────────────────


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
    _require(method, sign)
    if shots < 0 or (limit is not None and limit < 1):
        raise ValueError(f"Shots are 0 or more, and a limit is 1 or more; got {shots} and {limit}.")
    files = _subject_files()
    unknown = [subject for subject in subjects or () if subject not in files]
    if unknown or not (subjects or files):
        named = ", ".join(unknown) or "any subject"
        raise ValueError(
            f"{FOLDER_VARIABLE} has no MMLU files of {named}; it has those of {', '.join(files) or 'none'}."
        )
    own = _letters(model) if chat else None
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
            if own:
                before = tuple(prompt_ids(model, text))
                pairs = [(before, (token,)) for token in own]
            else:
                pairs = [_parted(model, text, f" {letter}") for letter in LETTERS]
            pieces += [Piece((*before, *after), len(before), len(after)) for before, after in pairs]
    needed, most = max(map(_room(model, method), pieces)), int(model.cfg.n_ctx)
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
        {subject: tuple(own) for subject, own in right.items()},
        {subject: tuple(own) for subject, own in scales.items()},
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


# ── Going on from a context ──────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def continuations(
    model: Model,
    contexts: Sequence[str],
    method: Method | None = None,
    *,
    stops: Sequence[str] = (),
    most: int = NEW_TOKENS,
    sign: float | None = None,
    batch_size: int | None = None,
    truncate: bool = False,
) -> tuple[str, ...]:
    """How the model goes on after each context, as text without a chat template, greedily.

    The repetition penalty is what the method asks for, as in `replies`.

    Args:
        stops: a continuation ends before the first of these texts, or where the model ends it.
        most: new tokens. There must be room for all of them behind a context.
        sign: see `lm`.
        truncate: see `lm`.

    Raises:
        ValueError: a context that leaves no room, or a model without a chat template, which says how replies end.
    """
    _require(method, sign)
    if most < 1:
        raise ValueError(f"A continuation needs room for at least one token, not {most}.")
    ends = end_tokens(model)
    penalty = method.repetition_penalty if method is not None else 1.0
    before = [tuple(_ids(model, context)) or (_prefix(model),) for context in contexts]
    # As long as they will be at most, so that batches have room; what stands there is never read.
    pieces = [
        Piece((*ids, *[0] * most), len(ids), most, decided=bool(context.strip()))
        for ids, context in zip(before, contexts, strict=True)
    ]
    pieces = _fitting(model, pieces, method, truncate)
    said: list[list[int]] = [[] for _ in contexts]

    def over(place: int) -> bool:
        text = text_of(model, said[place]) if stops else ""
        return any(stop in text for stop in stops)

    for places in _batches(model, pieces, batch_size):
        going = _Going.begun(model, [pieces[place] for place in places], method, sign)
        pick = Picker([""] * len(places), going.ids, going.mask, None, penalty)
        for step in range(most):
            chosen = pick(going.logits)
            for place, token in zip(places, chosen.tolist(), strict=True):
                if token not in ends:
                    said[place].append(token)
            left = [
                row
                for row, (place, token) in enumerate(zip(places, chosen.tolist(), strict=True))
                if token not in ends and not over(place)
            ]
            if not left or step + 1 == most:
                break
            places = [places[row] for row in left]
            pick.keep(left)
            going.keep(torch.tensor(left, device=chosen.device))
            going.feed(chosen[torch.tensor(left, device=chosen.device)][:, None])
    return tuple(_cut(text_of(model, ids), stops) for ids in said)


def _cut(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0]
    return text


# ── Texts to tokens ──────────────────────────────────────────────────────────────────────────────────────────


def _ids(model: Model, text: str, *, specials: bool = True) -> list[int]:
    """A text as the model's own tokenizer has it; one that brings its BOS along gets no other."""
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise ValueError("This model has no tokenizer, so texts cannot be put to it.")
    there = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
    return list(tokenizer(text, add_special_tokens=specials and not there, verbose=False)["input_ids"])


def _prefix(model: Model) -> int:
    """What stands before a text that has no context, as lm-eval has it."""
    tokenizer = model.tokenizer
    return int(tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id)


def _without(first: int, ids: list[int]) -> list[int]:
    return ids[1:] if ids[:1] == [first] else ids


def _parted(
    model: Model, context: str, continuation: str, tail: tuple[int, ...] = ()
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens of a context and of what follows it (lm-eval, `TemplateLM._encode_pair`).

    Args:
        tail: how a chat prompt ends; there the push begins in replies, too, and spaces stay where they are.
    """
    if not context:
        first = _prefix(model)
        return (first,), tuple(_without(first, _ids(model, continuation, specials=False)))
    spaces = len(context) - len(context.rstrip())
    if spaces and not (tail and tuple(_ids(model, context)[-len(tail) :]) == tail):
        context, continuation = context[:-spaces], context[-spaces:] + continuation
        if not context:
            return _parted(model, context, continuation)
    before = _ids(model, context)
    return tuple(before), tuple(_ids(model, context + continuation)[len(before) :])


def _tail(model: Model) -> tuple[int, ...]:
    return template(model).tail if getattr(model.tokenizer, "chat_template", None) else ()


@dataclass(frozen=True)
class Piece:
    """Tokens whose last ones are to be foretold, and how many of them are given."""

    ids: tuple[int, ...]
    context: int
    scored: int
    decided: bool = True
    """Whether there is something to decide from; otherwise the sign has to be given."""

    @property
    def read(self) -> tuple[int, ...]:
        """The last token is only foretold."""
        return self.ids[:-1]


def _room(model: Model, method: Method | None) -> Any:
    """From a piece to the columns that it takes; a method may read the opening behind the context."""
    opening = len(template(model).opening) if method is not None else 0
    return lambda piece: max(len(piece.read), piece.context + opening)


def _fitting(model: Model, pieces: Sequence[Piece], method: Method | None, truncate: bool) -> list[Piece]:
    """The pieces, cut at the beginning where that was asked for."""
    most, room, fitting = int(model.cfg.n_ctx), _room(model, method), []
    for place, piece in enumerate(pieces):
        over = room(piece) - most
        if over > 0:
            kept = int(piece.ids[0] == _prefix(model))
            if not truncate or over >= piece.context - kept:
                remedy = "cut it, or let truncate=True do so" if over < piece.context - kept else "cut it"
                raise ValueError(
                    f"Request {place} takes {over + most} tokens, its continuation included, and this model reads at "
                    f"most {most}: {remedy}."
                )
            piece = Piece(
                piece.ids[:kept] + piece.ids[kept + over :], piece.context - over, piece.scored, piece.decided
            )
        fitting.append(piece)
    return fitting


# ── Running ──────────────────────────────────────────────────────────────────────────────────────────────────


def _require(method: Any, sign: float | None) -> None:
    require_method(method)
    if method is not None and method.asks_twice:
        raise ValueError(
            f"{type(method).__name__} asks prompts in a second context, and texts without a chat have none."
        )
    if sign is not None and (method is None or sign not in (-1, 1)):
        raise ValueError(f"A sign is -1 (away from refusal) or +1 (towards it), of a method's push; got {sign}.")


def _forced(method: Method, rows: Rows, sign: float | None, decided: bool) -> Rows:
    """The method's decisions, with the sign of the push as the caller has it."""
    if sign is None:
        if rows and not decided:
            raise ValueError(
                f"{type(method).__name__} decides from a context, and here is a text without one: "
                "give sign=-1 (away from refusal) or sign=+1 (towards it)."
            )
        return rows
    scales = [name for name in rows if _is_scale(name)]
    if not scales:
        raise ValueError(f"{type(method).__name__} decides no scale, so there is no sign of it to give.")
    return {name: sign * values.abs() if name in scales else values for name, values in rows.items()}


def _is_scale(name: str) -> bool:
    """Of a method, or of one of several (see `steering.Together`)."""
    return name.rpartition(".")[2] == "scale"


class _Going:
    """A batch behind its contexts: decided, steered, and ready for the tokens that follow."""

    def __init__(self, model: Model, run: Runner, logits: Tensor, method: Method | None, rows: Rows, flight: Any):
        self.model = model
        self.logits: Float[Tensor, "row d_vocab"] = logits
        """Of the token after the last column that went in."""
        self.rows = rows
        self.ids: Tensor
        self.mask: Tensor
        self._run, self._method, self._flight = run, method, flight

    @classmethod
    def begun(cls, model: Model, pieces: Sequence[Piece], method: Method | None, sign: float | None) -> _Going:
        tokens = padded([piece.ids[: piece.context] for piece in pieces], 0, device_of(model))
        if method is None:
            run = runner(model)
            going = cls(model, run, run.feed(tokens.ids, tokens.mask), None, {}, None)
        else:
            flight = Flight(model, tokens)
            decided = all(piece.decided for piece in pieces)
            rows = _forced(method, method.decide(flight), sign, decided)
            flight.again(method.hooks_for(rows, flight), whole_prompt=method.whole_prompt)
            going = cls(model, flight.run, flight.logits, method, rows, flight)
        going.ids, going.mask = tokens.ids, tokens.mask
        return going

    def feed(self, ids: Tensor, also: Sequence[Hook] = ()) -> None:
        """Run the next columns under the method's hooks and, behind them, the caller's."""
        hooks = self._method.hooks_for(self.rows, self._flight) if self._method is not None else []
        with hooked(self.model, [*hooks, *also]):
            self.logits = self._run.feed(ids, torch.ones_like(ids))

    @property
    def swaps_the_head(self) -> bool:
        return self._method is not None and self._method.swaps_the_head

    def keep(self, rows: Tensor) -> None:
        self._run.keep(rows)
        self.rows = take(self.rows, rows)


@torch.no_grad()
def scored(
    model: Model,
    pieces: Sequence[Piece],
    method: Method | None = None,
    sign: float | None = None,
    *,
    batch_size: int | None = None,
    progress: bool = True,
) -> tuple[Score, ...]:
    """Every piece's score; what reads the same, such as the choices of a question, is run once."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for place, piece in enumerate(pieces):
        alike.setdefault((piece.read, piece.context, piece.decided), []).append(place)
    groups = list(alike.values())
    found: list[Score | None] = [None] * len(pieces)
    hidden = not progress or len(groups) < 2
    with tqdm(total=len(groups), desc="scoring", unit="text", disable=hidden, leave=False) as bar:
        for batch in _batches(model, [pieces[group[0]] for group in groups], batch_size):
            own = [pieces[groups[number][0]] for number in batch]
            going = _Going.begun(model, own, method, sign)
            scales = next((values.tolist() for name, values in going.rows.items() if _is_scale(name)), None)
            for row, (number, logits) in enumerate(zip(batch, _logits(model, going, own), strict=True)):
                for place in groups[number]:
                    found[place] = _score(logits, pieces[place], None if scales is None else float(scales[row]))
            bar.update(len(batch))
    return tuple(score for score in found if score is not None)


def _score(logits: Float[Tensor, "pos d_vocab"], piece: Piece, scale: float | None) -> Score:
    logits = logits[-piece.scored :]
    targets = torch.tensor(piece.ids[-piece.scored :], device=logits.device)
    shares = logits.float().log_softmax(dim=-1).gather(1, targets[:, None])
    greedy = bool((logits.argmax(dim=-1) == targets).all())
    return Score(float(shares.double().sum()), greedy, piece.scored, scale)


def _logits(model: Model, going: _Going, pieces: Sequence[Piece]) -> Iterator[Float[Tensor, "pos d_vocab"]]:
    """Of each piece, from the last token of its context on: a row at a time, since a vocabulary is large."""
    rests = [piece.read[piece.context :] for piece in pieces]
    first, longest = going.logits, max(map(len, rests))
    states = None
    if longest and going.swaps_the_head:
        raise Refused(
            "This method puts a head of its own in place of the unembedding, and log-likelihoods behind the first "
            "token are not read through it: score continuations of one token, or ask for replies."
        )
    if longest:
        # Padding behind a text needs no mask: attention is causal, so that nothing feels it.
        ids = torch.tensor([[*rest, *[0] * (longest - len(rest))] for rest in rests], device=first.device)
        seen: list[Tensor] = []
        last = resid_post(int(model.cfg.n_layers) - 1)
        going.feed(ids, [(last, lambda residual, hook: seen.append(residual))])
        states = seen[-1][:, -longest:]  # the whole text may have been run again
        _require_plain_logits(going.logits, _unembedded(model, states[:, -1:])[:, 0])
    for row, rest in enumerate(rests):
        own = first[row : row + 1]
        if states is not None and rest:
            own = torch.cat([own, _unembedded(model, states[row : row + 1, : len(rest)])[0]])
        yield own


def _unembedded(model: Any, states: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos d_vocab"]:
    logits = model.unembed(model.ln_final(states))
    cap = getattr(model.cfg, "output_logits_soft_cap", None) or 0.0
    return cap * torch.tanh(logits / cap) if cap > 0 else logits


def _require_plain_logits(own: Tensor, ours: Tensor) -> None:
    """The same column two ways, so that nobody gets numbers of a model that does more to its logits than is known."""
    apart = float((own.float() - ours.float()).abs().max())
    if not apart <= 0.05 * float(own.float().abs().max()):
        raise ValueError(
            "This model does something to its logits behind the unembedding that is not known here, or they are not "
            f"finite: the last ones are {apart:.3g} apart."
        )


def _batches(model: Model, pieces: Sequence[Piece], size: int | None) -> Iterator[list[int]]:
    """Places of pieces with contexts of like length, as many as fit side by side, contexts aligned at their ends."""
    if size is not None and size < 1:
        raise ValueError(f"A batch holds at least one text, not {size}.")
    most = int(model.cfg.n_ctx)
    size = size or rows_at_once(model, max((len(piece.read) for piece in pieces), default=1))
    side = sides(model, torch.tensor([piece.context for piece in pieces])).tolist()
    for place, piece in enumerate(pieces):  # padding behind the others would take them across a rotary switch with it
        if crosses(model, torch.tensor([piece.context]), len(piece.read) - piece.context):
            side[place] = -1 - place
    batch: list[int] = []
    behind = 0
    for place in sorted(range(len(pieces)), key=lambda place: (pieces[place].context, len(pieces[place].read))):
        piece = pieces[place]
        wider = max(behind, len(piece.read) - piece.context)
        if batch and (len(batch) == size or piece.context + wider > most or side[place] != side[batch[0]]):
            yield batch
            batch, wider = [], len(piece.read) - piece.context
        batch, behind = [*batch, place], wider
    if batch:
        yield batch
