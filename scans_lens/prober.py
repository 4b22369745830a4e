"""Prober: one yes or no read off one state of a model, by a small network or, to be compared with, by a straight line.

The networks of SafeSwitch (Han et al., EMNLP Findings 2025, arXiv 2502.01042): d_model -> 64 -> 2. The authors' code
ends the network in a softmax and takes the cross-entropy of that, which is a softmax too many: the loss cannot fall
below log(1 + 1/e), and learning is slow. Here the cross-entropy is of the logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scans_lens.errors import Refused

HIDDEN = 64
"""As published (128 for the largest of their models)."""
NEEDED = 8
"""Prompts of either class, at least, to learn from."""
HELD = 4
"""Prompts of either class, at least, to stop and to calibrate on."""
RATE = 2e-3
DECAY = 1e-2
MINIBATCH = 64
EPOCHS = 60
PATIENCE = 6
"""Epochs without a better validation loss after which learning stops."""


@dataclass(frozen=True)
class Quality:
    """How well a prober does on prompts that it did not learn from."""

    what: str
    accuracy: float
    """Share that it gets right, with a half as the border."""
    auc: float
    positive: int
    total: int

    def __str__(self) -> str:
        return f"{self.what}: accuracy {self.accuracy:.3f}, AUC {self.auc:.3f} ({self.positive} of {self.total} yes)"


@dataclass(frozen=True)
class Prober:
    """A network of one hidden layer, or of none, from a standardised state to how likely the answer is yes."""

    question: str
    """What it answers, for messages."""
    mean: Float[Tensor, "d_model"]
    spread: Float[Tensor, "d_model"]
    """Of the states that it learned from; features are standardised with these."""
    weights: tuple[Tensor, ...]
    """[hidden d_model] and [2 hidden], or [2 d_model] alone for a straight line; rows of the last are no and yes."""
    biases: tuple[Tensor, ...]
    slope: float = 1.0
    offset: float = 0.0
    """Platt's calibration: the logit that counts is slope x logit + offset."""

    def __post_init__(self) -> None:
        width, shapes = self.mean.shape, []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            shapes.append(weight.ndim == 2 and weight.shape[1:] == width and bias.shape == weight.shape[:1])
            width = weight.shape[:1]
        if not shapes or not all(shapes) or tuple(width) != (2,) or self.spread.shape != self.mean.shape:
            found = [tuple(weight.shape) for weight in self.weights]
            raise ValueError(
                f"A prober goes from a state of width {self.mean.shape[0]} to 2 answers; its layers are {found}."
            )

    @property
    def d_model(self) -> int:
        return self.mean.shape[0]

    @property
    def is_linear(self) -> bool:
        return len(self.weights) == 1

    def logit(self, states: Float[Tensor, "prompt d_model"]) -> Float[Tensor, "prompt"]:
        """Log-odds of yes, calibrated; 0 is even odds."""
        return self.slope * self._raw(states) + self.offset

    def probability(self, states: Float[Tensor, "prompt d_model"]) -> Float[Tensor, "prompt"]:
        """How likely the answer is yes."""
        return torch.sigmoid(self.logit(states))

    def _raw(self, states: Tensor) -> Tensor:
        if states.shape[1:] != self.mean.shape:
            raise ValueError(
                f"The prober ({self.question}) reads states of width {self.d_model}; got {tuple(states.shape)}."
            )
        x = (states.float() - self.mean.to(states.device)) / self.spread.to(states.device)
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = (torch.relu(x) if place else x) @ weight.to(x.device).T + bias.to(x.device)
        return x[:, 1] - x[:, 0]

    @classmethod
    def fit(
        cls,
        question: str,
        states: Float[Tensor, "prompt d_model"],
        yes: Bool[Tensor, "prompt"],
        held: Float[Tensor, "held d_model"],
        held_yes: Bool[Tensor, "held"],
        *,
        hidden: int = HIDDEN,
        seed: int = 0,
    ) -> Prober:
        """Learn from states and answers; stop, and calibrate, on those held out.

        The two classes weigh alike in learning, however many prompts each has. A network learns by AdamW on
        the cross-entropy of its logits until that of the held-out states has not fallen for `PATIENCE` epochs, and
        is taken as it was at its best. With `hidden=0` it is logistic regression. Either is calibrated by Platt's
        method on the held-out states, so that its probabilities fit their mix of the classes, unlike the mix that is
        met later; order is untouched by it.

        Raises:
            ValueError: too few prompts of a class, or shapes that do not go together.
        """
        require_both(question, yes, NEEDED, "to learn from")
        require_both(question, held_yes, HELD, "to stop and calibrate on")
        states, held = states.float().cpu(), held.float().cpu()
        yes, held_yes = yes.cpu(), held_yes.cpu()
        mean, spread = states.double().mean(dim=0), states.double().std(dim=0)
        mean, spread = mean.float(), torch.where(spread > 0, spread, 1.0).float()
        x, x_held = (states - mean) / spread, (held - mean) / spread
        weights, biases = _network(x, yes, x_held, held_yes, hidden, seed) if hidden else _line(x, yes)
        learned = cls(question, mean, spread, weights, biases)
        slope, offset = _platt(learned._raw(held), held_yes)
        return replace(learned, slope=slope, offset=offset)

    def quality(self, states: Float[Tensor, "prompt d_model"], yes: Bool[Tensor, "prompt"], what: str = "") -> Quality:
        """Accuracy and AUC on other prompts, both classes among them."""
        from sklearn.metrics import roc_auc_score

        yes, found = yes.cpu(), self.logit(states).double().cpu()
        require_both(self.question, yes, 1, "to be tried on")
        return Quality(
            what or self.question,
            accuracy=float(((found >= 0) == yes).double().mean()),
            auc=float(roc_auc_score(yes.numpy(), found.numpy())),
            positive=int(yes.sum()),
            total=len(yes),
        )


def require_both(question: str, yes: Bool[Tensor, "prompt"], needed: int, what_for: str) -> None:
    """Refuse what has too few prompts of a class, saying how many are needed and how many were found."""
    found = int(yes.sum()), int((~yes).sum())
    if min(found) < needed:
        raise Refused(
            f"The prober ({question}) needs at least {needed} prompts with yes and {needed} with no {what_for}; "
            f"there are {found[0]} with yes and {found[1]} with no."
        )


def _network(
    x: Tensor, yes: Tensor, held: Tensor, held_yes: Tensor, hidden: int, seed: int
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    drawn = torch.Generator().manual_seed(seed)
    sizes = ((hidden, x.shape[1]), (2, hidden))
    found = [_drawn(shape, shape[1], drawn) for shape in sizes] + [_drawn(s[:1], s[1], drawn) for s in sizes]
    balance = len(yes) / (2 * torch.stack([(~yes).sum(), yes.sum()]).float())

    def loss(some: Tensor, answers: Tensor) -> Tensor:
        w1, w2, b1, b2 = found
        logits = torch.relu(some @ w1.T + b1) @ w2.T + b2
        return torch.nn.functional.cross_entropy(logits, answers.long(), weight=balance)

    learner = torch.optim.AdamW(found, lr=RATE, weight_decay=DECAY)
    best, kept, since = math.inf, [one.detach().clone() for one in found], 0
    with torch.enable_grad():
        for _ in range(EPOCHS):
            for places in torch.randperm(len(x), generator=drawn).split(MINIBATCH):
                learner.zero_grad()
                loss(x[places], yes[places]).backward()
                learner.step()
            with torch.no_grad():
                now = float(loss(held, held_yes))
            since = 0 if now < best - 1e-5 else since + 1
            if not since:
                best, kept = now, [one.detach().clone() for one in found]
            if since >= PATIENCE:
                break
    return (kept[0], kept[1]), (kept[2], kept[3])


def _drawn(shape: tuple[int, ...], inputs: int, generator: torch.Generator) -> Tensor:
    edge = 1 / math.sqrt(inputs)
    return ((torch.rand(shape, generator=generator) * 2 - 1) * edge).requires_grad_()


def _line(x: Tensor, yes: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    from sklearn.linear_model import LogisticRegression

    found = LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000).fit(x.double().numpy(), yes.numpy())
    weight = torch.from_numpy(found.coef_[0]).float()
    return (torch.stack([torch.zeros_like(weight), weight]),), (torch.tensor([0.0, float(found.intercept_[0])]),)


def _platt(logits: Tensor, yes: Tensor) -> tuple[float, float]:
    """Slope and offset of the least log loss, with Platt's targets: a little inside of 0 and 1.

    Those keep the slope finite where the classes lie apart. It never falls below 0.
    """
    n_yes, n_no = int(yes.sum()), int((~yes).sum())
    target = torch.where(yes, (n_yes + 1) / (n_yes + 2), 1 / (n_no + 2)).double()
    z = logits.detach().double()
    scale = float(z.std()) or 1.0
    found = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    learner = torch.optim.LBFGS([found], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        learner.zero_grad()
        with torch.enable_grad():
            value = torch.nn.functional.binary_cross_entropy_with_logits(found[0] * z / scale + found[1], target)
            value.backward()
        return value

    learner.step(loss)
    slope, offset = found.detach().tolist()
    return max(0.0, slope / scale), offset
