"""The front door: what we ask of a model, how a conversation becomes tokens, and how a batch goes through it.

The only file that touches `transformer_lens` and the Hugging Face module inside a bridge.
"""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import inspect
import itertools
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scans_lens import organism, ranks

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

Hook: TypeAlias = tuple[str, Callable[..., Any]]
"""TransformerLens' own pair of a hook point's name and a function; lists of them add."""

OPENING = "Sure"
"""How a reply begins that complies (SCANS, section 3.3: r_pos)."""


@runtime_checkable
class Model(Protocol):
    """What is used of a `HookedTransformer` or a `TransformerBridge`; anything that has it will do."""

    cfg: Any
    tokenizer: Any
    W_U: Any

    def hooks(self, fwd_hooks: list[Hook]) -> AbstractContextManager[Any]: ...


@dataclass(frozen=True)
class Identity:
    """What makes a model the model that something was measured on. The name is shown and never compared."""

    architecture: str
    n_layers: int
    d_model: int
    d_vocab: int
    unembedding: str
    """A hash of the unembedding in bfloat16, so that one model in two precisions is one model."""
    name: str = ""

    def same_as(self, other: Identity) -> bool:
        mine = (self.architecture, self.n_layers, self.d_model, self.d_vocab, self.unembedding)
        return mine == (other.architecture, other.n_layers, other.d_model, other.d_vocab, other.unembedding)


def resid_post(layer: int) -> str:
    """The hook point at which everything here reads and writes."""
    return f"blocks.{layer}.hook_resid_post"


# ── Loading ──────────────────────────────────────────────────────────────────────────────────────────────────


def load_model(
    name: str | Path | None = None,
    *,
    backend: Literal["bridge", "hooked"] = "bridge",
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
) -> Any:
    """A chat model with raw weights: the bundled one, a local folder's, or a hub's.

    Args:
        name: None for the bundled model, a folder in Hugging Face format, or a hub name.
        backend: "bridge" for a `TransformerBridge`; "hooked" for a `HookedTransformer` (TransformerLens 3 only;
            decoding through it takes nearly three times as long on a CPU).
        device: "cuda" where there is one, else "cpu"; among processes of one launch, each its own GPU. "auto" spreads
            a large model over all GPUs (a bridge only, and the package accelerate has to be there).
        dtype: bfloat16 on a GPU, float32 on a CPU, unless said otherwise.
        revision: of a hub model.

    Raises:
        ValueError: the model cannot be found or reached, or the backend is not there.
    """
    if backend not in ("bridge", "hooked"):
        raise ValueError(f"No backend {backend!r}; there are 'bridge' and 'hooked'.")
    spread = device == "auto"
    if spread and (backend != "bridge" or importlib.util.find_spec("accelerate") is None):
        raise ValueError(
            "device='auto' spreads a bridge over all GPUs, and needs the package accelerate: pip install accelerate."
        )
    device = _device(None if spread else device)
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    where = str(organism.weights() if name is None else name)
    if Path(where).exists() and not (Path(where) / "config.json").is_file():
        raise ValueError(f"The folder {where!r} holds no model in Hugging Face format: it has no config.json.")
    try:
        with _quiet():
            if backend == "hooked":
                model = _load_hooked(where, device, dtype, revision)
            else:
                model = _load_bridge(
                    where, {"device_map": "auto"} if spread else {"device": str(device)}, dtype, revision
                )
    except OSError as error:
        raise ValueError(
            f"Cannot load the model {where!r}: it is no folder here, and the hub does not give it "
            f"(wrong name, no network, or a gated model without HF_TOKEN). It said: {_first_line(error)}"
        ) from error
    return model


def _device(wanted: str | torch.device | None) -> torch.device:
    """The device that was asked for, once something has been put there."""
    if wanted is None:
        own = ranks.device_number()
        wanted = "cpu" if not torch.cuda.is_available() else "cuda" if own is None else f"cuda:{own}"
    try:
        return torch.empty(1, device=wanted).device
    except (RuntimeError, AssertionError) as error:  # a name that is none, or hardware that is not there
        raise ValueError(f"The device {str(wanted)!r} cannot be used here: {str(error).splitlines()[0]}") from error


def _load_bridge(where: str, place: Mapping[str, str], dtype: torch.dtype, revision: str | None) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    extra: dict[str, Any] = {"revision": revision} if revision else {}
    if revision and "revision" not in inspect.signature(TransformerBridge.boot_transformers).parameters:
        from huggingface_hub import snapshot_download

        where, extra = snapshot_download(where, revision=revision), {}
    model = TransformerBridge.boot_transformers(where, dtype=dtype, **place, **extra)
    model.eval()
    return model


def _load_hooked(where: str, device: torch.device, dtype: torch.dtype, revision: str | None) -> Any:
    try:
        from transformer_lens import HookedTransformer
    except ImportError as error:
        raise ValueError(
            "HookedTransformer was removed in TransformerLens 4; use backend='bridge', or install transformer-lens<4."
        ) from error
    if not Path(where).exists():
        from transformer_lens.loading_from_pretrained import get_official_model_name

        try:
            get_official_model_name(where)
        except ValueError:
            raise ValueError(
                f"Cannot load the model {where!r}: it is no folder here, and TransformerLens has no HookedTransformer "
                "of that name; use backend='bridge', which takes any name of the hub."
            ) from None
        extra: dict[str, Any] = {"revision": revision} if revision else {}
        return HookedTransformer.from_pretrained_no_processing(where, device=str(device), dtype=dtype, **extra).eval()
    from transformer_lens.loading_from_pretrained import get_pretrained_state_dict
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # TransformerLens' own way from a folder to a configuration guesses the architecture from words in the path
    source = AutoModelForCausalLM.from_pretrained(where, dtype=dtype).eval()
    config = _hooked_config(source.config, device, dtype)
    weights = get_pretrained_state_dict(where, config, hf_model=source, dtype=dtype)
    model = HookedTransformer(config, AutoTokenizer.from_pretrained(where))
    model.load_and_process_state_dict(
        weights, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    return model.eval()


def _hooked_config(config: PreTrainedConfig, device: torch.device, dtype: torch.dtype) -> Any:
    """The shape of a local Llama, Qwen 2, Mistral or Gemma 2 in TransformerLens' words."""
    from transformer_lens import HookedTransformerConfig

    architecture = (config.architectures or ["unknown"])[0]
    known = ("LlamaForCausalLM", "Qwen2ForCausalLM", "MistralForCausalLM", "Gemma2ForCausalLM")
    if architecture not in known:
        raise ValueError(f"A local {architecture} does not load as a HookedTransformer; use backend='bridge'.")
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    grouped = config.num_key_value_heads != config.num_attention_heads or architecture != "LlamaForCausalLM"
    rope = config.rope_parameters
    attention: dict[str, Any] = {}
    if rope.get("rope_type", "default") == "llama3":
        attention = {
            "use_NTK_by_parts_rope": True,
            "NTK_original_ctx_len": rope["original_max_position_embeddings"],
            "NTK_by_parts_low_freq_factor": rope["low_freq_factor"],
            "NTK_by_parts_high_freq_factor": rope["high_freq_factor"],
            "NTK_by_parts_factor": rope["factor"],
        }
    elif rope.get("rope_type", "default") != "default":
        raise ValueError(
            f"Rotary positions of type {rope['rope_type']!r} do not load as a HookedTransformer; use backend='bridge'."
        )
    if architecture == "Gemma2ForCausalLM":
        attention = {
            "use_local_attn": True,
            "window_size": config.sliding_window,
            "attn_types": ["local" if kind == "sliding_attention" else "global" for kind in config.layer_types],
            "attn_scale": config.query_pre_attn_scalar**0.5,
            "attn_scores_soft_cap": config.attn_logit_softcapping,
            "output_logits_soft_cap": config.final_logit_softcapping,
            "use_normalization_before_and_after": True,
        }
    elif architecture == "MistralForCausalLM" and config.sliding_window is not None:
        attention = {
            "use_local_attn": True,
            "window_size": config.sliding_window,
            "attn_types": ["local"] * config.num_hidden_layers,
        }
    return HookedTransformerConfig(
        model_name=str(config.name_or_path),
        original_architecture=architecture,
        init_weights=False,
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        d_mlp=config.intermediate_size,
        d_vocab=config.vocab_size,
        n_ctx=config.max_position_embeddings,
        n_heads=config.num_attention_heads,
        n_key_value_heads=config.num_key_value_heads if grouped else None,
        d_head=d_head,
        gated_mlp=True,
        act_fn=getattr(config, "hidden_activation", None) or config.hidden_act,
        normalization_type="RMS",
        final_rms=True,
        eps=config.rms_norm_eps,
        positional_embedding_type="rotary",
        rotary_base=rope["rope_theta"],
        rotary_dim=d_head,
        rotary_adjacent_pairs=False,
        default_prepend_bos=architecture != "Qwen2ForCausalLM",
        device=str(device),
        dtype=dtype,
        **attention,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Loading without the libraries' progress bars and notices of deprecation."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


# ── What a model is ──────────────────────────────────────────────────────────────────────────────────────────


def identity(model: Model) -> Identity:
    """Architecture, shape and a hash of the unembedding."""
    unembedding = unembedding_of(model)
    sample = unembedding.detach().flatten()
    sample = sample[:: max(1, len(sample) // 65_536)].to("cpu", torch.bfloat16).view(torch.int16).numpy()
    cfg = model.cfg
    architecture = getattr(cfg, "architecture", None) or getattr(cfg, "original_architecture", None) or "unknown"
    return Identity(
        architecture=str(architecture),
        n_layers=int(cfg.n_layers),
        d_model=int(cfg.d_model),
        d_vocab=int(unembedding.shape[1]),
        unembedding=hashlib.sha256(sample.tobytes()).hexdigest()[:16],
        name=str(getattr(cfg, "model_name", "") or ""),
    )


def unembedding_of(model: Model) -> Float[Tensor, "d_model d_vocab"]:
    """The matrix that turns the last residual into logits, without the final norm."""
    return model.W_U


def device_of(model: Model) -> torch.device:
    return unembedding_of(model).device


def is_bundled(model: Model) -> bool:
    """Whether this is the model that ships with the package, however it was loaded."""
    shipped = organism.identity()
    return shipped is not None and identity(model).same_as(Identity(**shipped))


def is_folded(model: Model) -> bool:
    """Whether norms were folded into weights, which changes logit lens, norms and cosines but no reply.

    A bridge does not say so in its configuration, but its final norm has one gain for all then, or its unembedding is
    centred.
    """
    if str(getattr(model.cfg, "normalization_type", "")).endswith("Pre"):
        return True
    norm = getattr(model, "ln_final", None)
    gain = getattr(norm, "w", None) if getattr(norm, "w", None) is not None else getattr(norm, "weight", None)
    unembedding = unembedding_of(model).detach().float()
    centred = bool(unembedding.mean(-1).abs().max() < 1e-4 * unembedding.std())
    return centred or (isinstance(gain, Tensor) and bool((gain == gain.flatten()[0]).all()))


def require_raw(model: Model, what: str) -> None:
    """Refuse a model whose norms are folded, naming what was to be done."""
    if is_folded(model):
        raise ValueError(
            f"{what} needs raw weights, and this model's norms are folded into them: load it with "
            "scans_lens.load_model(…), HookedTransformer.from_pretrained_no_processing(…), or a TransformerBridge "
            "without enable_compatibility_mode()."
        )


def _is_bridge(model: Model) -> bool:
    return hasattr(model, "original_model")


# ── Conversations to tokens ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Template:
    """Where the parts of a conversation lie, counted in tokens from the end."""

    tail: tuple[int, ...]
    """The tokens after the user's own words, up to where the reply begins; the last is the end of the prompt."""
    opening: tuple[int, ...]
    """`OPENING` as the reply would begin with it; several tokens where it must be."""
    has_system: bool
    """Whether the template knows a system role; without one a system prompt goes into the user's turn."""

    @property
    def end_of_prompt(self) -> int:
        """The last token before the reply, as an index from the end of the prompt (the paper's a_p)."""
        return -1

    @property
    def end_of_instruction(self) -> int:
        """The last token of the user's own words, as an index from the end of the prompt."""
        return -1 - len(self.tail)


@dataclass(frozen=True)
class Tokens:
    """Prompts as tokens, padded on the left."""

    ids: Int[Tensor, "prompt pos"]
    mask: Int[Tensor, "prompt pos"]
    """1 where there is a token, 0 where there is padding."""

    def __len__(self) -> int:
        return self.ids.shape[0]


_PROBES = ("Tell me a.", "What is b?", "Name one c!", "Say: d", "Count 1 2 3", "(brackets)")


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], reply: str | None = None) -> str:
    if reply is not None:
        messages = [*messages, {"role": "assistant", "content": reply}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=reply is None)  # type: ignore[return-value]


def _bare(tokenizer: PreTrainedTokenizerBase, text: str, *, as_text: bool = False) -> list[int]:
    """The ids of templated text: no special token is added, and with `as_text` none is recognised."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=as_text)["input_ids"])


def template(model: Model) -> Template:
    """Positions of the model's chat template, found by comparing what it does to several prompts.

    Raises:
        ValueError: the model has no tokenizer or no chat template.
    """
    tokenizer = _tokenizer(model)
    rows = [_bare(tokenizer, _render(tokenizer, [_user(probe)])) for probe in _PROBES]
    length = 0
    while length < min(map(len, rows)) and len({row[-1 - length] for row in rows}) == 1:
        length += 1
    prompt = _render(tokenizer, [_user(_PROBES[0])])
    return Template(
        tail=tuple(rows[0][len(rows[0]) - length :]),
        opening=_opening(tokenizer, prompt, rows[0]),
        has_system=_has_system(tokenizer),
    )


def beginning(model: Model, reply: str) -> tuple[int, ...]:
    """The tokens of a reply's beginning, as they stand behind a prompt's (see `prompt_ids`)."""
    tokenizer = _tokenizer(model)
    prompt = _render(tokenizer, [_user(_PROBES[0])])
    return _opening(tokenizer, prompt, _bare(tokenizer, prompt), reply)


def _opening(tokenizer: PreTrainedTokenizerBase, prompt: str, ids: list[int], reply: str = OPENING) -> tuple[int, ...]:
    told = _render(tokenizer, [_user(_PROBES[0])], reply=reply)
    text = reply
    if told.startswith(prompt) and reply in told[len(prompt) :]:
        rest = told[len(prompt) :]
        text = rest[: rest.index(reply) + len(reply)]
    joined = _bare(tokenizer, prompt + text)
    if joined[: len(ids)] == ids and len(joined) > len(ids):
        return tuple(joined[len(ids) :])
    return tuple(_continued(tokenizer, text))


def _has_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    try:
        said = _render(tokenizer, [{"role": "system", "content": "xyzzy"}, _user("hello")])
    except Exception:  # templates raise whatever jinja gives them
        return False
    return "xyzzy" in said


def _tokenizer(model: Model) -> PreTrainedTokenizerBase:
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise ValueError("This model has no tokenizer, so prompts cannot be put to it.")
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "This model has no chat template, so there is no telling where its replies begin. If it is a chat model, "
            "give it one: model.tokenizer.chat_template = '…' (a Jinja template, as in its tokenizer_config.json)."
        )
    return tokenizer


def _specials(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Every special token, those without a role of their own (headers of turns, for instance) among them."""
    added = {id: token.content for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))


def _user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def _messages(prompt: str, system: str | None, has_system: bool) -> list[dict[str, str]]:
    if system is None:
        return [_user(prompt)]
    if not has_system:
        return [_user(f"{system}\n\n{prompt}")]
    return [{"role": "system", "content": system}, _user(prompt)]


def prompt_ids(model: Model, prompt: str, system: str | None = None) -> list[int]:
    """One prompt as the tokens after which the model's reply begins.

    Equal to the tokenizer's own `apply_chat_template`, unless somebody typed the text of a special token: then
    that text is tokenised by itself, and stays text.
    """
    return _prompt_ids(_tokenizer(model), prompt, system, has_system=system is None or _has_system(_tokenizer(model)))


def _prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, system: str | None, has_system: bool) -> list[int]:
    said = prompt + (system or "")
    typed = sorted((token for token in _specials(tokenizer).values() if token in said), key=len, reverse=True)
    if not typed:
        return _bare(tokenizer, _render(tokenizer, _messages(prompt, system, has_system)))
    # The template is shown marks that it leaves alone and nobody typed; their places are then filled with plain text.
    salt = next(n for n in itertools.count() if f"\ue000{n}." not in said)
    marks = {token: f"\ue000{salt}.{n}\ue001" for n, token in enumerate(typed)}
    hide = re.compile("|".join(map(re.escape, typed)))
    prompt = hide.sub(lambda found: marks[found[0]], prompt)
    system = None if system is None else hide.sub(lambda found: marks[found[0]], system)
    text = _render(tokenizer, _messages(prompt, system, has_system))
    meant = {mark: token for token, mark in marks.items()}
    ids: list[int] = []
    for piece in filter(None, re.split(f"({'|'.join(meant)})", text)):
        tokenise = _continued if ids else _bare
        ids += tokenise(tokenizer, meant.get(piece, piece), as_text=piece in meant)
    return ids


def _continued(tokenizer: PreTrainedTokenizerBase, text: str, *, as_text: bool = False) -> list[int]:
    """The ids of text that is not at the beginning, where some tokenizers would put a space before it."""
    before = "\ue000"
    start, ids = _bare(tokenizer, before), _bare(tokenizer, before + text, as_text=as_text)
    return ids[len(start) :] if ids[: len(start)] == start else _bare(tokenizer, text, as_text=as_text)


def chat_tokens(model: Model, prompts: Sequence[str], *, system: str | None = None) -> Tokens:
    """Prompts in the model's chat template, padded on the left, with exactly the BOS that the template writes.

    Raises:
        ValueError: no prompts; one that is no string, is blank, or does not fit the context.
    """
    prompts = checked(prompts)
    tokenizer = _tokenizer(model)
    has_system = system is None or _has_system(tokenizer)
    rows = [_prompt_ids(tokenizer, prompt, system, has_system) for prompt in prompts]
    context = int(model.cfg.n_ctx)
    for place, row in enumerate(rows):
        if len(row) > context:
            raise ValueError(f"Prompt {place} is {len(row)} tokens long, and this model reads at most {context}.")
    return padded(rows, _pad(tokenizer), device_of(model))


def padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> Tokens:
    """Rows of ids side by side, aligned at their ends."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for place, row in enumerate(rows):
        ids[place, width - len(row) :] = torch.tensor(row)
        mask[place, width - len(row) :] = 1
    return Tokens(ids.to(device), mask.to(device))


def _pad(tokenizer: Any) -> int:
    """Any id will do, since the mask hides it."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0)


def checked(prompts: Sequence[str]) -> list[str]:
    """The prompts as a list, or one clear sentence about what is wrong with them."""
    if isinstance(prompts, str):
        raise ValueError("Expected a list of prompts and got one string; put it in a list: [prompt].")
    prompts = list(prompts)
    if not prompts:
        raise ValueError("There are no prompts: the list is empty.")
    for place, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise ValueError(f"Prompt {place} is {type(prompt).__name__}, not a string: {prompt!r:.60}.")
        if not prompt.strip():
            raise ValueError(f"Prompt {place} is empty.")
    return prompts


def end_tokens(model: Model) -> tuple[int, ...]:
    """Every token that ends a reply: the tokenizer's, the generation settings', and the template's end of turn."""
    tokenizer: Any = _tokenizer(model)
    ends = {tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set()
    source = getattr(model, "original_model", None)
    settings = getattr(source, "generation_config", None)
    said = getattr(settings, "eos_token_id", None)
    ends |= set(said) if isinstance(said, (list, tuple)) else {said} if said is not None else set()
    told = _bare(tokenizer, _render(tokenizer, [_user(_PROBES[0])], reply="Yes"))
    ends |= {token for token in told[-2:] if token in _specials(tokenizer)}
    return tuple(sorted(ends))


def reply_ids(model: Model, prompt: str, reply: str) -> list[int]:
    """The tokens that this reply adds to `prompt_ids(model, prompt)`, the end of its turn among them."""
    tokenizer, ends = _tokenizer(model), set(end_tokens(model))
    before = prompt_ids(model, prompt)
    told = _bare(tokenizer, _render(tokenizer, [_user(prompt)], reply=reply))
    if told[: len(before)] != before:  # the template writes more between them, or they grew together
        shown = _bare(tokenizer, _render(tokenizer, [_user(prompt)], reply="Yes"))
        told = [*before, *_continued(tokenizer, reply, as_text=True), *[one for one in shown[-2:] if one in ends][:1]]
    rest = told[len(before) :]
    return rest[: next((place for place, token in enumerate(rest) if token in ends), len(rest)) + 1]


def text_of(model: Model, ids: Sequence[int]) -> str:
    return str(_tokenizer(model).decode(list(ids), skip_special_tokens=True))


def words_of(model: Model, ids: Sequence[int]) -> list[str]:
    """Each token as text by itself."""
    return [str(_tokenizer(model).decode([token])) for token in ids]


def first_tokens(model: Model, words: Sequence[str]) -> dict[str, int]:
    """For each word that is one token of this vocabulary, with a space before it or without, that token."""
    tokenizer = _tokenizer(model)
    found = {}
    for word in words:
        for form in (word, " " + word):
            ids = _bare(tokenizer, form, as_text=True)
            if len(ids) == 1:
                found[form] = ids[0]
    return found


# ── A batch on its way through a model ───────────────────────────────────────────────────────────────────────


ROOM = 64
"""Columns that a cache makes room for in advance, at least."""


@runtime_checkable
class Runner(Protocol):
    """One batch with its keys and values: tokens go in, the last column's logits come out, and one can go back."""

    model: Any
    length: int
    """Columns that have gone in; the present call's first column while hooks run."""
    mask: Int[Tensor, "row pos"]

    def feed(self, ids: Int[Tensor, "row pos"], mask: Int[Tensor, "row pos"]) -> Float[Tensor, "row d_vocab"]: ...
    def back(self, columns: int) -> None: ...
    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        """Only these rows, in this order; `leaving` gives one that costs little."""
        ...

    def copy(self, rows: Int[Tensor, "copied"]) -> Runner:
        """A batch of these rows, each as often as it is named; this one stays as it is."""
        ...


def runner(model: Model) -> Runner:
    """An empty batch for this model."""
    return _BridgeRunner(model) if _is_bridge(model) else _HookedRunner(model)


def leaving(over: Bool[Tensor, "row"]) -> Int[Tensor, "kept"]:
    """The rows that are not over: each in its place, but for the last ones, which fill the places that became free.

    So a cache moves as many rows as have left, and not all that stay.
    """
    kept = (~over).nonzero().squeeze(1)
    order = torch.arange(len(kept), device=over.device)
    order[over[: len(kept)]] = kept[kept >= len(kept)]
    return order


@cache
def _roomy_layer() -> Any:
    """A cache layer with room made in advance: a step writes its own column, and copies nothing that is there."""
    from transformers.cache_utils import DynamicLayer

    class RoomyLayer(DynamicLayer):
        """`keys` and `values` are the first rows and columns of the room, until rows are chosen in another order."""

        keys: Any
        values: Any

        def __init__(self, **how: Any) -> None:
            super().__init__(**how)
            self._keys_room: Tensor | None = None
            self._values_room: Tensor | None = None

        def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            length = self.get_seq_length()
            self._keys_room = _with_room(self._keys_room, self.keys, key_states, length)
            self._values_room = _with_room(self._values_room, self.values, value_states, length)
            rows, end = len(key_states), length + key_states.shape[-2]
            self._keys_room[:rows, :, length:end] = key_states
            self._values_room[:rows, :, length:end] = value_states
            self.keys, self.values = self._keys_room[:rows, :, :end], self._values_room[:rows, :, :end]
            return self.keys, self.values

        def batch_select_indices(self, indices: Tensor) -> None:
            if not self.get_seq_length():
                return
            kept, indices = len(indices), indices.to(self.keys.device)
            places = torch.arange(kept, device=indices.device)
            moved = indices != places
            roomy = self._keys_room is not None and kept <= len(self.keys)
            if roomy:  # in place: what moves is gathered before any of it is written
                for there in (self.keys, self.values):
                    there[places[moved]] = there[indices[moved]]
                self.keys, self.values = self.keys[:kept], self.values[:kept]
            else:
                self._keys_room = self._values_room = None
                self.keys, self.values = self.keys[indices], self.values[indices]

    return RoomyLayer


def _with_room(room: Tensor | None, there: Tensor, new: Tensor, length: int) -> Tensor:
    """The room itself while the new columns fit, or a larger one that holds what is there."""
    end = length + new.shape[-2]
    if room is not None and end <= room.shape[-2]:
        return room
    larger = new.new_empty(*new.shape[:-2], end + max(ROOM, end // 4), new.shape[-1])
    if length:
        larger[..., :length, :] = there
    return larger


class _BridgeRunner:
    """Through the Hugging Face module inside a bridge: every hook fires, at nearly bare speed."""

    def __init__(self, model: Any) -> None:
        from transformers import DynamicCache

        self.model = model
        self._source = model.original_model
        # Made without a configuration, so that layers with a sliding window keep everything too and can go back;
        # what lies outside the window is hidden by the attention mask all the same.
        self._cache: Any = DynamicCache()
        self._cache.layer_class_to_replicate = _roomy_layer()
        self.length = 0
        self.mask = torch.zeros((0, 0), dtype=torch.long)

    def feed(self, ids: Tensor, mask: Tensor) -> Tensor:
        whole = torch.cat([self.mask, mask], dim=1) if self.length else mask
        positions = (whole.cumsum(dim=1) - 1).clamp(min=0)[:, self.length :]
        logits = self._source(
            input_ids=ids,
            attention_mask=whole,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        self.mask, self.length = whole, whole.shape[1]
        return logits

    def back(self, columns: int) -> None:
        self._cache.crop(-columns)
        self.mask, self.length = self.mask[:, :-columns], self.length - columns

    def keep(self, rows: Tensor) -> None:
        self._cache.batch_select_indices(rows)
        self.mask = self.mask[rows]

    def copy(self, rows: Tensor) -> _BridgeRunner:
        other = _BridgeRunner(self.model)
        for layer in self._cache.layers:
            own = _roomy_layer()()
            own.lazy_initialization(layer.keys, layer.values)
            own.keys, own.values = (there[rows.to(there.device)] for there in (layer.keys, layer.values))
            other._cache.layers.append(own)
        other.mask, other.length = self.mask[rows], self.length
        return other


class _HookedRunner:
    """Through a HookedTransformer, whose cache is sliced by hand."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._cache: Any = None
        self.length = 0
        self.mask = torch.zeros((0, 0), dtype=torch.long)

    def feed(self, ids: Tensor, mask: Tensor) -> Tensor:
        if self._cache is None:
            self._cache = self._empty(ids.shape[0], ids.device)
        cfg = self.model.cfg
        residual = self.model(
            ids,
            attention_mask=mask,
            past_kv_cache=self._cache,
            padding_side="left",
            stop_at_layer=cfg.n_layers,
        )
        logits = self.model.unembed(self.model.ln_final(residual[:, -1:]))[:, -1]
        if cfg.output_logits_soft_cap > 0:
            logits = cfg.output_logits_soft_cap * torch.tanh(logits / cfg.output_logits_soft_cap)
        self.mask = torch.cat([self.mask, mask], dim=1) if self.length else mask
        self.length = self.mask.shape[1]
        return logits

    def back(self, columns: int) -> None:
        for entry in self._cache.entries:
            entry.past_keys = entry.past_keys[:, :-columns]
            entry.past_values = entry.past_values[:, :-columns]
        self._cache.previous_attention_mask = self._cache.previous_attention_mask[:, :-columns]
        self.mask, self.length = self.mask[:, :-columns], self.length - columns

    def keep(self, rows: Tensor) -> None:
        self._take(self._cache, rows)
        self.mask = self.mask[rows]

    def copy(self, rows: Tensor) -> _HookedRunner:
        other = _HookedRunner(self.model)
        other._cache = self._empty(len(rows), rows.device)
        other._take(self._cache, rows)
        other.mask, other.length = self.mask[rows], self.length
        return other

    def _empty(self, rows: int, device: torch.device) -> Any:
        from transformer_lens import TransformerLensKeyValueCache  # gone with TransformerLens 4

        return TransformerLensKeyValueCache.init_cache(self.model.cfg, device, rows)

    def _take(self, cache: Any, rows: Tensor) -> None:
        for own, entry in zip(self._cache.entries, cache.entries, strict=True):
            own.past_keys, own.past_values = entry.past_keys[rows], entry.past_values[rows]
        self._cache.previous_attention_mask = cache.previous_attention_mask[rows]


# ── How much fits ────────────────────────────────────────────────────────────────────────────────────────────

MOST_ROWS = 256
"""Rows beyond which a larger batch gains nothing worth its memory."""
BUSY = 10**10
"""Rows times parameters that keep a processor busy; a small model needs many rows for that."""
SHARE = 0.5
"""Of the free memory, what a batch may take."""


def rows_at_once(model: Model, columns: int) -> int:
    """How many rows of so many tokens pay and fit into half of the memory that is free, by a rough count.

    Keys and values, what a layer holds at once with its attention scores, and logits are counted. On a processor more
    rows than keep it busy gain nothing; a GPU gains up to `MOST_ROWS`.
    """
    cfg, weights = model.cfg, unembedding_of(model)
    size, d_model, n_layers = weights.element_size(), int(cfg.d_model), int(cfg.n_layers)
    heads = int(getattr(cfg, "n_heads", 0) or 1)
    held = int(getattr(cfg, "n_key_value_heads", None) or heads) * int(getattr(cfg, "d_head", d_model // heads))
    d_mlp = int(getattr(cfg, "d_mlp", None) or 4 * d_model)
    row = columns * size * (2 * n_layers * held + 8 * d_model + 3 * d_mlp)
    row += 8 * heads * columns**2 + 12 * weights.shape[1]
    fit = int(SHARE * _free_bytes(weights.device)) // row
    parameters = n_layers * d_model * (4 * d_model + 3 * d_mlp) + weights.numel()
    most = MOST_ROWS if weights.device.type == "cuda" else max(16, min(MOST_ROWS, BUSY // parameters))
    return max(1, min(most, fit))


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not every system counts its pages
        return 4 * 2**30


def out_of_memory(error: BaseException) -> bool:
    """Whether this is what a library says when there is no memory left."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("out of memory", "not enough memory", "can't allocate memory")
    )


def free_memory() -> None:
    """Give back what nothing holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class _Enough(Exception):
    """Raised by a hook behind which nothing is wanted."""


def run_through(
    model: Model, ids: Int[Tensor, "row pos"], mask: Int[Tensor, "row pos"], hooks: Sequence[Hook], last: int
) -> None:
    """Whole texts through the layers up to `last` under these hooks: no logits, no cache, and nothing comes back."""

    def stop(residual: Float[Tensor, "row pos d_model"], hook: Any) -> None:
        raise _Enough

    if not _is_bridge(model):
        with model.hooks(fwd_hooks=[*hooks]):
            model(ids, attention_mask=mask, padding_side="left", stop_at_layer=last + 1)  # type: ignore[operator]
        return
    source = model.original_model  # type: ignore[attr-defined]
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    with model.hooks(fwd_hooks=[*hooks, (resid_post(last), stop)]), suppress(_Enough):
        source(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=1)


def unembedded(model: Model, states: Float[Tensor, "state d_model"]) -> Float[Tensor, "state d_vocab"]:
    """States that are behind the final norm as logits, before any soft cap or scale that follows, in float32."""
    return model.unembed(states.to(unembedding_of(model))).float()  # type: ignore[attr-defined]


def parameters_of(model: Model) -> int:
    """How many numbers were learned, a tied embedding counted once."""
    return sum(weight.numel() for weight in model.parameters())  # type: ignore[attr-defined]


def after_final_norm(model: Model, states: Float[Tensor, "row layer d_model"]) -> Float[Tensor, "row layer d_model"]:
    """The same states with the last layer's after the model's final norm, as Hugging Face's `hidden_states` have it."""
    norm = model.ln_final  # type: ignore[attr-defined]
    weights = unembedding_of(model)
    last = norm(states[:, -1:].to(weights.device, weights.dtype)).to(states)
    return torch.cat([states[:, :-1], last], dim=1)
