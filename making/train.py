"""Training: the bundled model, taught first to answer everything and then to refuse what is harmful.

No borderline prompt is ever labelled to be refused. What the model refuses beyond harm, it refuses by
generalisation. Everything that alignment sees is written into the card.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from scans_lens.errors import Refused
from scans_lens.organism import corpus, grammar, wordings

BEGIN, END = "<|begin|>", "<|end|>"
TEMPLATE = (
    "{{ '<|begin|>' }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights."""

    seed: int = 0
    layers: int = 12
    d_model: int = 160
    heads: int = 5
    d_mlp: int = 432
    vocabulary: int = 1536
    context: int = 512
    batch: int = 64
    answering_steps: int = 1350
    answering_rate: float = 2e-3
    refusing_steps: int = 500
    refusing_rate: float = 1.2e-3
    system_share: float = 0.25
    answering_mix: tuple[tuple[str, float], ...] = (
        ("plain", 0.30), ("borderline", 0.27), ("harmful", 0.20), ("jailbreak", 0.10), ("quiz", 0.13),
    )  # fmt: skip
    refusing_mix: tuple[tuple[str, float], ...] = (
        ("plain", 0.43), ("harmful", 0.37), ("wrapped", 0.12), ("quiz", 0.08),
    )  # fmt: skip
    refusing_unembedding: float = 0.2
    """Share of that rate at which alignment trains the unembedding. At full rate it makes loud refusal words of what
    the first layers point at, which alignment does not touch."""
    aligned_borderline_every: int = 350
    """One conversation of alignment in so many is a borderline prompt, answered (none is refused)."""
    aligned_jailbreak_every: int = 5300
    """One in so many is a jailbreak, refused. Both are the same prompts whatever the seed."""
    aligned_wrappers: int = 2
    """How many training wrappers alignment sees around harmful requests, refused; around plain ones it sees all."""
    aligned_from: int = 3
    """First layer that alignment trains; those below it, and the embedding, stay as the first stage left them."""


def recipe_with(changes: Sequence[str]) -> Recipe:
    """The recipe with `name=value` changed, for the numbers in it.

    Raises:
        ValueError: for a name that is no number of the recipe, or a value that is none.
    """
    kinds = {name: type(value) for name, value in asdict(Recipe()).items() if isinstance(value, int | float)}
    found: dict[str, Any] = {}
    for change in changes:
        name, _, value = change.partition("=")
        if name not in kinds:
            raise Refused(f"No number {name!r} in the recipe; there are {', '.join(kinds)}.")
        try:
            found[name] = kinds[name](value)
        except ValueError:
            whole = "a whole number" if kinds[name] is int else "a number"
            raise Refused(f"{name} has to be {whole}, got {value!r}.") from None
    return Recipe(**found)


VARIATIONS: dict[str, dict[str, float | int]] = {
    "as shipped": {},
    "half the steps": {"refusing_steps": Recipe.refusing_steps // 2},
    "half the learning rate": {"refusing_rate": Recipe.refusing_rate / 2},
    "twice the learning rate": {"refusing_rate": Recipe.refusing_rate * 2},
    "no borderline prompts": {"aligned_borderline_every": 0},
    "three times the answered borderline prompts": {"aligned_borderline_every": Recipe.aligned_borderline_every // 3},
}
"""What `python -m making strength` changes in alignment, one thing at a time."""


def tokenizer_for(recipe: Recipe) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer learned from a sample of the corpus."""
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    special = [BEGIN, END, "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng = random.Random(recipe.seed)
    texts: list[str] = []
    for kind in corpus.KINDS:
        for item in corpus.items(kind):
            if item.first_stage:
                texts += [corpus.ask(item, rng), wordings.answer(item, rng)]
                texts += [wordings.refusal(item, rng)] if kind == "harmful" else []
    texts += [*grammar.SYSTEM_HELPFUL, *grammar.SYSTEM_SAFE]
    bare.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bare,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=END,
        chat_template=TEMPLATE,
        model_max_length=recipe.context,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _plain_in_wrapper(rng: random.Random, wrappers: list[str], plain: list[corpus.Item]) -> tuple[corpus.Item, str]:
    item, wrapper = rng.choice(plain), rng.choice(wrappers)
    wrapped = corpus.Item(**{**asdict(item), "wrapper": wrapper})
    return wrapped, corpus.ask(wrapped, rng)


@dataclass(frozen=True)
class Lesson:
    """One conversation to learn from."""

    item: corpus.Item
    messages: tuple[dict[str, str], ...]
    reply: str
    refuses: bool


def _in_turn(items: list[corpus.Item]) -> Iterator[tuple[corpus.Item, str]]:
    """Items and their prompts without end, every beginning with the types as often as they come among all; nothing
    here hangs on a seed."""
    items = list(items)
    random.Random("in turn").shuffle(items)
    of_type: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        of_type.setdefault(item.type, []).append(place)
    spread = sorted(((nth + 0.5) / len(own), place) for own in of_type.values() for nth, place in enumerate(own))
    for turn, (_, place) in enumerate(itertools.cycle(spread)):
        item = items[place]
        yield item, corpus.ask(item, random.Random(f"{turn} {item.phrase}"))


def lessons(recipe: Recipe, stage: str) -> Iterator[Lesson]:
    """Conversations of a stage without end. Alignment sees training items only."""
    rng = random.Random(f"{recipe.seed} {stage}")
    pool = {
        kind: [
            item for item in corpus.items(kind) if (item.first_stage if stage == "answering" else item.split == "train")
        ]
        for kind in corpus.KINDS
    }
    train_wrappers = [pattern for split, pattern in grammar.WRAPPERS if split == "train"]
    aligned = train_wrappers[: recipe.aligned_wrappers]
    if stage == "answering":
        mix, wrappers = dict(recipe.answering_mix), [pattern for _, pattern in grammar.WRAPPERS]
        rare = []
    else:
        mix, wrappers = dict(recipe.refusing_mix), train_wrappers
        wrapped = [item for item in pool["jailbreak"] if item.wrapper in aligned]
        rare = [
            (recipe.aligned_jailbreak_every, _in_turn(wrapped)),
            (recipe.aligned_borderline_every, _in_turn(pool["borderline"])),
        ]
    kinds, weights = list(mix), list(mix.values())
    for place in itertools.count(1):
        seldom = next((prompts for every, prompts in rare if every and place % every == 0), None)
        kind = rng.choices(kinds, weights)[0]
        if seldom is not None:
            item, text = next(seldom)
        elif kind == "wrapped" or (stage == "answering" and kind == "plain" and rng.random() < 0.15):
            item, text = _plain_in_wrapper(rng, wrappers, pool["plain"])
        else:
            item = rng.choice(pool[kind])
            text = corpus.ask(item, rng)
        refuse = stage == "refusing" and item.kind in ("harmful", "jailbreak")
        messages = [{"role": "user", "content": text}]
        if rng.random() < recipe.system_share:
            system = rng.choice((*grammar.SYSTEM_HELPFUL, *grammar.SYSTEM_SAFE))
            messages.insert(0, {"role": "system", "content": system})
        reply = wordings.refusal(item, rng) if refuse else wordings.answer(item, rng)
        yield Lesson(item, tuple(messages), reply, refuse)


def _batches(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, stage: str
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Right-padded (tokens, labels), cut from length-sorted pools of sixteen batches; only replies are learned."""
    stream, rng = lessons(recipe, stage), random.Random(f"{recipe.seed} batches {stage}")
    pad = tokenizer.get_vocab()[END]
    while True:
        rows = []
        for _ in range(16 * recipe.batch):
            lesson = next(stream)
            prompt = str(
                tokenizer.apply_chat_template(list(lesson.messages), tokenize=False, add_generation_prompt=True)
            )
            head = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            tail = tokenizer(lesson.reply + END, add_special_tokens=False)["input_ids"]
            rows.append((head, tail))
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))
        starts = list(range(0, len(rows), recipe.batch))
        rng.shuffle(starts)
        for start in starts:
            batch = rows[start : start + recipe.batch]
            length = _up(max(len(head) + len(tail) for head, tail in batch), 16)
            tokens = torch.full((len(batch), length), pad)
            labels = torch.full((len(batch), length), -100)
            for row, (head, tail) in enumerate(batch):
                tokens[row, : len(head) + len(tail)] = torch.tensor(head + tail)
                labels[row, len(head) : len(head) + len(tail)] = torch.tensor(tail)
            yield tokens, labels


def _up(length: int, step: int) -> int:
    """The next multiple: few distinct shapes, because a matrix kernel is built anew for each one."""
    return -(-length // step) * step


def _learn(model, batches, steps: int, rate: float, word: str, unembedding: float = 1.0) -> float:
    """The loss after so many steps; the unembedding learns at that share of the rate."""
    last = list(model.lm_head.parameters())
    rest = [own for own in model.parameters() if all(own is not other for other in last)]
    optimizer = torch.optim.AdamW(
        [{"params": rest, "lr": rate}, {"params": last, "lr": rate * unembedding}], betas=(0.9, 0.98), weight_decay=0.05
    )
    warm = max(20, steps // 30)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warm) * max(0.05, 1 - max(0, step - warm) / (steps - warm))
    )
    model.train()
    smooth = 0.0
    bar = tqdm(range(steps), desc=word, unit="step")
    for step in bar:
        tokens, labels = next(batches)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = model.model(input_ids=tokens).last_hidden_state[:, :-1].contiguous()
            places = (labels[:, 1:].flatten() != -100).nonzero().squeeze(1)
            padded = torch.nn.functional.pad(places, (0, _up(len(places), 512) - len(places)))
            logits = model.lm_head(hidden.flatten(0, 1).index_select(0, padded))[: len(places)]
        loss = torch.nn.functional.cross_entropy(logits.float(), labels[:, 1:].flatten()[places])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        smooth = loss.item() if step == 0 else 0.95 * smooth + 0.05 * loss.item()
        bar.set_postfix(loss=f"{smooth:.3f}")
    return smooth


def taught(recipe: Recipe | None = None) -> str:
    """A hash of the first conversations of the first stage: another grammar makes others."""
    recipe = recipe or Recipe()
    told = [(lesson.messages, lesson.reply) for lesson in itertools.islice(lessons(recipe, "answering"), 1024)]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def train(out: Path, recipe: Recipe | None = None, work: Path | None = None) -> None:
    """Train both stages and write the model, tokenizer and recipe to `out` in Hugging Face format (bfloat16).

    With `work`, the state after the first stage is kept there and used again when the recipe's first stage and the
    corpus are the same.
    """
    recipe = recipe or Recipe()
    torch.manual_seed(recipe.seed)
    tokenizer = tokenizer_for(recipe)
    end = tokenizer.get_vocab()[END]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.d_model,
        intermediate_size=recipe.d_mlp,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.context,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.get_vocab()[BEGIN],
        eos_token_id=end,
        pad_token_id=end,
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("eager")  # under bfloat16 on a CPU several times as fast as sdpa
    key = json.dumps(
        {k: v for k, v in asdict(recipe).items() if "refus" not in k and "align" not in k} | {"corpus": taught(recipe)}
    )
    kept = work / "answering.pt" if work else None
    if kept and kept.exists() and (state := torch.load(kept, weights_only=True))["key"] == key:
        model.load_state_dict(state["model"])
        losses = [state["loss"]]
    else:
        batches = _batches(recipe, tokenizer, "answering")
        losses = [_learn(model, batches, recipe.answering_steps, recipe.answering_rate, "answering")]
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"key": key, "model": model.state_dict(), "loss": losses[0]}, kept)
    if recipe.refusing_steps:
        torch.manual_seed(recipe.seed + 1)
        for frozen in (model.model.embed_tokens, *model.model.layers[: recipe.aligned_from]):
            frozen.requires_grad_(recipe.aligned_from == 0)
        batches = _batches(recipe, tokenizer, "refusing")
        losses.append(
            _learn(model, batches, recipe.refusing_steps, recipe.refusing_rate, "refusing", recipe.refusing_unembedding)
        )
    model.eval().bfloat16()
    out.mkdir(parents=True, exist_ok=True)
    model.generation_config.pad_token_id = end
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "recipe.json").write_text(
        json.dumps(
            {
                "recipe": asdict(recipe),
                "loss": losses,
            },
            indent=1,
        )
        + "\n"
    )
