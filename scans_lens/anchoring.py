"""Anchoring: in which layers refusal is decided.

The lens proposes, a causal push disposes: a layer qualifies when its direction, put to the unembedding, says
words of refusal more loudly than a direction learned from shuffled labels does; among the layers that
qualify, the band is chosen whose push changes the model's mind the most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from scans_lens import artefacts, steering
from scans_lens.chat import words_of
from scans_lens.conversation import BARE, Asking, Prompt
from scans_lens.directions import Directions, Origin, components, difference_of_means, directions_of
from scans_lens.effort import STANDARD, Effort, spread
from scans_lens.errors import Refused
from scans_lens.evidence import LayerEvidence, as_html, as_text
from scans_lens.flight import flights
from scans_lens.lens import Loudness, logits_of, refusal_tokens
from scans_lens.model import Model, identity, require_raw
from scans_lens.prompts import Contrast
from scans_lens.reading import Readings, readings, residuals
from scans_lens.world import world_of

SIGNIFICANCE = 0.05
LAST_FIFTH = 0.8
"""Layers from this share of the depth on are left out of the band: what is written there can no longer decide."""


@dataclass(frozen=True)
class AnchorLayers(Sequence[int]):
    """The layers in which refusal is decided, with what speaks for them (the paper's safety-critical layers).

    Usable wherever layer numbers are expected; prints its evidence.
    """

    layers: tuple[int, ...]
    evidence: tuple[LayerEvidence, ...]
    agreement: float
    """Spearman's rank correlation between z and causal drop over the layers that could be chosen."""
    rising: tuple[str, ...]
    """Tokens whose next-token mass rises from harmless to harmful anchors."""
    note: str
    """How the band was chosen."""
    origin: Origin

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[int, ...]: ...
    def __getitem__(self, place: int | slice) -> int | tuple[int, ...]:
        return self.layers[place]

    def __len__(self) -> int:
        return len(self.layers)

    def __str__(self) -> str:
        return as_text(self.layers, self.evidence, f"{self.note} {self._agreement()}", self.origin.on)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return as_html(self.layers, self.evidence, f"{self.note} {self._agreement()}")

    def _agreement(self) -> str:
        return f"Rank agreement of lens and cause: {self.agreement:+.2f}."

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return asdict(self)

    def to_dataframe(self) -> Any:
        """One row a layer."""
        import pandas as pd

        return pd.DataFrame([asdict(layer) for layer in self.evidence]).set_index("layer")


class NoAnchorLayers(Refused):
    """No layer's direction says words of refusal more loudly than chance; the table is in the message."""

    def __init__(self, evidence: Sequence[LayerEvidence]) -> None:
        self.evidence = tuple(evidence)
        super().__init__(
            as_text((), self.evidence, "No layer qualifies: refusal words are no louder than under shuffled labels.")
        )


@torch.no_grad()
def anchor_layers(
    model: Model,
    directions: Directions | None = None,
    *,
    contrast: Contrast | None = None,
    words: Sequence[str] | None = None,
    asking: Asking = BARE,
    resamples: int | None = None,
    effort: Effort | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool = True,
    read: tuple[Readings, Readings] | None = None,
) -> AnchorLayers:
    """The layers in which refusal is decided: a contiguous band, found by lens and cause.

    Every layer is given: the tokens its direction says, rank and z of refusal words with a bootstrap interval
    over anchors and a label-shuffle test, the AUC of the two sides (which has no vote: it saturates early), and
    how much the refusal log-odds of harmful prompts fall when that layer alone, at the last prompt token alone,
    is moved by minus the difference of means. The band is n//4 to n//3 layers wide, leaves out the last
    fifth, consists of layers whose z exceeds the null at p < .05, and has the largest mean drop.

    Args:
        directions: to be judged; by default learned from the contrast.
        contrast: the anchors; by default the bundled model's own for it, `prompts.anchors()` for any other.
        words: refusal words to look for instead of `REFUSAL_WORDS`.
        asking: how the anchors are put: a system prompt, thinking on or off.
        resamples: of bootstrap and of label shuffles; by default as the effort says.
        effort: how many anchors are read and pushed; by default all.
        seed: of both.
        read: what was read of the contrast's harmful and harmless prompts, so that it is not read again.

    Raises:
        NoAnchorLayers: no layer qualifies. ValueError: folded weights, directions of length one or of the residual's,
            or refusal words that are no tokens.
    """
    require_raw(model, "anchor_layers")
    tokens = refusal_tokens(model, words)
    effort = effort or STANDARD
    resamples = effort.resamples if resamples is None else resamples
    contrast = effort.learned(contrast or world_of(model).anchors).under(asking)
    word = "reading" if progress else None
    if read is None:
        sides = (contrast.harmful, contrast.harmless)
        first, second = (readings(model, side, batch_size=batch_size, progress=word) for side in sides)
        read = (first, second)
    harmful, harmless = (side.residuals for side in read)
    if directions is None:
        directions = directions_of(model, contrast, *read)
    else:
        artefacts.require_same_model(directions.origin.model, identity(model), "These directions")
        lengths = directions.vectors.norm(dim=1)
        scaled = (torch.ones_like(lengths), directions.residual_norms.to(lengths))
        if any(torch.allclose(lengths, other, rtol=1e-3) for other in scaled):
            raise ValueError(
                "anchor_layers pushes by the difference of means itself, and these directions have another length: "
                "hand it what they were before unit() or in_residual_norms()."
            )
    borderline = None
    if contrast.borderline:
        borderline = residuals(model, contrast.borderline, batch_size=batch_size, progress=progress)

    rng = np.random.default_rng(seed)
    rising = _rising(read[0].mass, read[1].mass)
    loudness = Loudness(model, list(tokens.values()))
    rising_loudness = loudness.of_words(model, rising)
    z = loudness(directions.vectors).mean(-1)
    boot, null = _resampled(loudness, harmful, harmless, resamples, rng)
    p = (1 + (null >= z).sum(dim=0)) / (1 + resamples)
    pushed = spread(contrast.harmful, effort.pushed)
    drops = causal_drops(model, directions, pushed, rising, batch_size=batch_size, progress=progress)
    drop_boot = torch.stack(
        [drops[torch.from_numpy(rng.integers(len(drops), size=len(drops)))].mean(0) for _ in range(resamples)]
    )
    logits = logits_of(model, directions.vectors)
    auc = held_out_auc(harmful, harmless)
    beside = None if borderline is None else loudness(difference_of_means(harmful, borderline)).mean(-1)
    beside_auc = None if borderline is None else held_out_auc(harmful, borderline)
    ids, forms = list(tokens.values()), list(tokens)
    evidence = []
    for layer in range(len(directions)):
        loudest = int(logits[layer, ids].argmax())
        evidence.append(
            LayerEvidence(
                layer=layer,
                top=tuple(words_of(model, logits[layer].topk(10).indices.tolist())),
                rank=int((logits[layer] > logits[layer, ids[loudest]]).sum()) + 1,
                loudest=forms[loudest],
                z=float(z[layer]),
                z_interval=_interval(boot[:, layer]),
                z_null=float(null[:, layer].quantile(0.95)),
                p=float(p[layer]),
                rising_z=float(rising_loudness(directions.vectors[layer]).mean()),
                auc=float(auc[layer]),
                drop=float(drops[:, layer].mean()),
                drop_interval=_interval(drop_boot[:, layer]),
                qualifies=bool(p[layer] < SIGNIFICANCE),
                borderline_z=None if beside is None else float(beside[layer]),
                borderline_auc=None if beside_auc is None else float(beside_auc[layer]),
            )
        )
    band, note = _band(evidence)
    return AnchorLayers(
        layers=band,
        evidence=tuple(evidence),
        agreement=_agreement(evidence),
        rising=tuple(words_of(model, list(rising))),
        note=note,
        origin=directions.origin,
    )


def _resampled(
    loudness: Loudness, harmful: Tensor, harmless: Tensor, resamples: int, rng: np.random.Generator
) -> tuple[Float[Tensor, "resample layer"], Float[Tensor, "resample layer"]]:
    """z under resampled anchors, and z under shuffled labels; the same draws at every layer.

    A direction from shuffled labels is short, and points along the true one or against it wherever the two sides
    lie far apart; divided by its own spread it would look as loud as the true one. So its lift is counted in spreads
    of the true direction.
    """
    n, m = len(harmful), len(harmless)
    drawn, shuffled = np.zeros((resamples, n + m)), np.zeros((resamples, n + m))
    for row in range(resamples):
        drawn[row, :n] = np.bincount(rng.integers(n, size=n), minlength=n) / n
        drawn[row, n:] = -np.bincount(rng.integers(m, size=m), minlength=m) / m
        shuffled[row] = -1 / m
        shuffled[row, rng.permutation(n + m)[:n]] = 1 / n
    weights = torch.from_numpy(np.stack([drawn, shuffled]))
    boot, null = [], []
    for layer in range(harmful.shape[1]):
        vectors = weights @ torch.cat([harmful[:, layer], harmless[:, layer]]).double()
        truth = harmful[:, layer].double().mean(0) - harmless[:, layer].double().mean(0)
        boot.append(loudness(vectors[0]).mean(-1))
        null.append(loudness.lift(vectors[1]).mean(-1) / loudness.spread(truth))
    return torch.stack(boot, dim=-1), torch.stack(null, dim=-1)


def _interval(values: Tensor) -> tuple[float, float]:
    low, high = torch.quantile(values.double(), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def held_out_auc(
    harmful: Float[Tensor, "harmful layer d_model"], others: Float[Tensor, "other layer d_model"]
) -> Float[Tensor, "layer"]:
    """AUC along the difference of means, learned on every second prompt and measured on the rest, both ways round."""
    from scipy.stats import rankdata

    total = torch.zeros(harmful.shape[1], dtype=torch.float64)
    for first in (0, 1):
        vectors = difference_of_means(harmful[first::2], others[first::2])
        yes = components(harmful[1 - first :: 2].double(), vectors)
        no = components(others[1 - first :: 2].double(), vectors)
        ranks = torch.from_numpy(rankdata(torch.cat([yes, no]).numpy(), axis=0))
        above = ranks[: len(yes)].sum(0) - len(yes) * (len(yes) + 1) / 2
        total += above / (len(yes) * len(no)) / 2
    return total


@torch.no_grad()
def rising_tokens(
    model: Model, contrast: Contrast, *, batch_size: int | None = None, most: int = 20
) -> tuple[int, ...]:
    """Next tokens whose mass rises from harmless to harmful anchors: those that carry nine tenths of the rise.

    One forward, no decoding. The first token of a refusal is often only "I", which no list of words holds.
    """
    harmful, harmless = (
        readings(model, side, batch_size=batch_size, progress=None).mass
        for side in (contrast.harmful, contrast.harmless)
    )
    return _rising(harmful, harmless, most)


def _rising(harmful: Float[Tensor, "d_vocab"], harmless: Float[Tensor, "d_vocab"], most: int = 20) -> tuple[int, ...]:
    """From the mean probabilities of next tokens of both sides."""
    rise = (harmful - harmless).clamp(min=0)
    gains, ids = rise.sort(descending=True)
    needed = int((gains.cumsum(0) < 0.9 * gains.sum()).sum()) + 1
    return tuple(ids[: min(most, needed)].tolist())


def refusal_log_odds(logits: Float[Tensor, "row d_vocab"], tokens: Sequence[int]) -> Float[Tensor, "row"]:
    """log P - log(1 - P) of the next token being one that begins refusals (Arditi et al. 2024, section 2)."""
    log_shares = torch.log_softmax(logits.double(), dim=-1)
    inside = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    inside[list(tokens)] = True
    return log_shares[:, inside].logsumexp(-1) - log_shares[:, ~inside].logsumexp(-1)


@torch.no_grad()
def causal_drops(
    model: Model,
    directions: Directions,
    harmful: Sequence[Prompt],
    tokens: Sequence[int],
    *,
    batch_size: int | None = None,
    progress: bool = True,
) -> Float[Tensor, "prompt layer"]:
    """How far each harmful prompt's refusal log-odds fall, in nats, when one layer is moved by minus its direction.

    The raw difference of means is the dose: it takes the average harmful prompt to where the average
    harmless one is. Only the last prompt token is moved, on the keys and values of one prefill.
    """
    result = torch.empty(len(harmful), len(directions), dtype=torch.float64)
    word = "pushing" if progress else None
    for rows, flight in flights(model, harmful, batch_size=batch_size, progress=word):
        before = refusal_log_odds(flight.logits, tokens).cpu()
        for layer in range(len(directions)):
            hooks = steering.add(directions, [layer], -1.0, since=flight.since(flight.end_of_prompt))
            result[rows, layer] = before - refusal_log_odds(flight.again(hooks, whole_prompt=False), tokens).cpu()
    return result


def _band(evidence: Sequence[LayerEvidence]) -> tuple[tuple[int, ...], str]:
    n = len(evidence)
    last = max(1, int(LAST_FIFTH * n))
    narrow, wide = max(1, n // 4), max(1, n // 3)
    able = [layer.qualifies and layer.layer < last for layer in evidence]
    if not any(able):
        raise NoAnchorLayers(evidence)
    note = f"Band of {narrow} to {wide} of {n} layers with the largest mean causal drop"
    note += f"; layers from {last} on are left out."
    for width in range(narrow, 0, -1):
        widths = range(width, wide + 1) if width == narrow else (width,)
        bands = [range(start, start + w) for w in widths for start in range(last - w + 1)]
        bands = [band for band in bands if all(able[layer] for layer in band)]
        if bands:
            best = max(bands, key=lambda band: (sum(evidence[layer].drop for layer in band) / len(band), len(band)))
            if width < narrow:
                note += f" No {narrow} layers that qualify lie side by side, so the band is narrower."
            return tuple(best), note
    raise AssertionError("some layer qualifies, so a band of one exists")


def _agreement(evidence: Sequence[LayerEvidence]) -> float:
    from scipy.stats import spearmanr

    open_ = evidence[: max(1, int(LAST_FIFTH * len(evidence)))]
    if len(open_) < 3:
        return float("nan")
    return float(spearmanr([layer.z for layer in open_], [layer.drop for layer in open_]).statistic)  # type: ignore[attr-defined]
