"""A recurrent decoder that names the labels of an image one after another, in an order of its own.

Order-free RNN with visual attention (arXiv:1707.05495), stage 2. The control arms that are taught an order are the same
decoder with one more output, the end symbol.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ommatid.errors import InputError
from ommatid.nn.set_beam_search import FoundSets, set_beam_search

Features = Float[Tensor, "batch region feature"]
Keys = Float[Tensor, "batch region attention"]
Initial = Float[Tensor, "batch label"]


class RegionAttention(nn.Module):
    """One vector of an image's regions, weighted by w^T ReLU(W_v v + W_h h + b) of each (arXiv:1707.05495, E3).

    Unlike `ommatid.nn.attention.AdditiveAttention`, which weighs words for every frame under a tanh, this one serves a
    recurrent state, and the state also decides how much of each channel of the result passes (E4).

    Returns the vector, and the weights over the regions.

    Args:
        feature_dim: width of the regions.
        hidden_dim: width of the state.
        attention_dim: width in which both are compared.
        gate: the output passes through sigmoid(W_b h) (E4).

    Examples:
        >>> attention = RegionAttention(feature_dim=6, hidden_dim=8, attention_dim=4)
        >>> context, weights = attention(torch.randn(2, 9, 6), torch.randn(2, 8))
        >>> context.shape, weights.shape
        (torch.Size([2, 6]), torch.Size([2, 9]))
    """

    def __init__(self, feature_dim: int, hidden_dim: int, attention_dim: int, gate: bool = True) -> None:
        super().__init__()
        self.region = nn.Linear(feature_dim, attention_dim)
        self.guide = nn.Linear(hidden_dim, attention_dim, bias=False)
        self.energy = nn.Linear(attention_dim, 1, bias=False)
        self.gate = nn.Linear(hidden_dim, feature_dim) if gate else None

    def keys(self, features: Features) -> Keys:
        """W_v v + b: the part of E3 that is the same for every state."""
        return self.region(features)

    def forward(
        self, features: Features, hidden: Float[Tensor, "batch *beam hidden"], keys: Keys | None = None
    ) -> tuple[Float[Tensor, "batch *beam feature"], Float[Tensor, "batch *beam region"]]:
        """Attend to the regions of each sample, with one state or with several.

        Args:
            keys: of the features, where they are at hand.
        """
        keys = self.keys(features) if keys is None else keys
        keys = keys.reshape(len(keys), *[1] * (hidden.ndim - 2), *keys.shape[1:])
        energy = self.energy(F.relu(keys + self.guide(hidden)[..., None, :]))[..., 0]
        weights = energy.softmax(dim=-1, dtype=_at_least_single(energy))
        context = torch.einsum("b...r,brf->b...f", weights.to(features.dtype), features)
        return context if self.gate is None else self.gate(hidden).sigmoid() * context, weights


class LabelState(NamedTuple):
    """What the decoder carries from step to step.

    Attributes:
        hidden, cell: of the LSTM.
        probs: of all labels, as the last step saw them.
        chosen: the labels named so far; the pool of candidates is what is left.
    """

    hidden: Float[Tensor, "batch *beam hidden"]
    cell: Float[Tensor, "batch *beam hidden"]
    probs: Float[Tensor, "batch *beam label"]
    chosen: Bool[Tensor, "batch *beam label"]


class Unrolled(NamedTuple):
    """Every step of a decoding.

    Attributes:
        logits: of all labels; with an end symbol it is the last.
        weights: attention over the regions.
        labels: what was named, or was to be named; -1 where nothing was.
        confidence: geometric mean of the probabilities of the labels up to here (E12).
    """

    logits: Float[Tensor, "batch step output"]
    weights: Float[Tensor, "batch step region"]
    labels: Int[Tensor, "batch step"]
    confidence: Float[Tensor, "batch step"]


class LabelDecoder(nn.Module):
    """An LSTM that looks at regions, says how probable all labels are, and names one label a step (E3 to E7).

    Each step is told the probabilities of the step before, what it attends to, and the labels named so far. Nothing in
    the decoder knows an order; `unroll` lets it choose its own, `unroll_order` and `unroll_remaining` tell it what to
    name. Without attention it is the same decoder on a single region, the mean of all.

    Args:
        num_labels: how many labels there are, C.
        feature_dim: width of the regions.
        hidden_dim: width of the LSTM.
        attention_dim: width in which regions and state are compared.
        dropout: before each of the two output maps, in training (E6).
        end_symbol: probabilities are a softmax over C labels and an end symbol, not C sigmoids. Fed back are those of
            the labels.

    Examples:
        >>> decoder = LabelDecoder(num_labels=5, feature_dim=6, hidden_dim=8, attention_dim=4).eval()
        >>> features, initial = torch.randn(2, 9, 6), torch.rand(2, 5)
        >>> decoder.unroll(features, initial, steps=5).labels.sort(dim=1).values
        tensor([[0, 1, 2, 3, 4],
                [0, 1, 2, 3, 4]])
        >>> decoder.search(features, initial, width=2, max_steps=4, threshold=0.5).labels.shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        num_labels: int,
        feature_dim: int,
        hidden_dim: int,
        attention_dim: int,
        dropout: float = 0.5,
        end_symbol: bool = False,
    ) -> None:
        super().__init__()
        self.num_labels, self.end_symbol = num_labels, end_symbol
        self.attention = RegionAttention(feature_dim, hidden_dim, attention_dim)
        self.first_hidden = nn.Linear(feature_dim, hidden_dim)
        self.first_cell = nn.Linear(feature_dim, hidden_dim)
        self.cell = nn.LSTMCell(2 * num_labels + feature_dim, hidden_dim)
        self.output = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(hidden_dim, hidden_dim),
            nn.Dropout(dropout),
            nn.Linear(hidden_dim, num_labels + end_symbol),
        )

    def start(self, features: Features, initial: Initial) -> LabelState:
        """The state before the first step (E5): from the mean region, the initial probabilities, and no label.

        Args:
            initial: probabilities of the labels as an ordinary classifier gives them (E1).
        """
        mean, kind = features.mean(dim=1), self.cell.weight_hh.dtype
        chosen = torch.zeros_like(initial, dtype=torch.bool)
        return LabelState(self.first_hidden(mean).to(kind), self.first_cell(mean).to(kind), initial, chosen)

    def step(
        self, state: LabelState, features: Features, keys: Keys | None = None
    ) -> tuple[LabelState, Float[Tensor, "batch *beam output"], Float[Tensor, "batch *beam region"]]:
        """One step (E3 to E6): the state after it with nothing chosen yet, logits, and weights over the regions.

        Args:
            state: of one or of several beams a sample.
            keys: `attention.keys(features)`, where they are at hand: they are the same in every step.
        """
        context, weights = self.attention(features, state.hidden, keys)
        told = torch.cat([state.probs, context, state.chosen.to(state.probs.dtype)], dim=-1)
        # The state keeps the precision of the weights: under autocast it would otherwise lose some in every step.
        kind, lead = self.cell.weight_hh.dtype, state.hidden.shape[:-1]
        memory = state.hidden.flatten(0, -2), state.cell.flatten(0, -2)
        hidden, cell = (x.to(kind).reshape(*lead, -1) for x in self.cell(told.flatten(0, -2).to(kind), memory))
        logits = self.output(hidden)
        probs = self.log_probs(logits)[..., : self.num_labels].exp().to(state.probs.dtype)
        return LabelState(hidden, cell, probs, state.chosen), logits, weights

    def log_probs(self, logits: Float[Tensor, "*lead output"]) -> Float[Tensor, "*lead output"]:
        """Log-probabilities in at least single precision: of sigmoids, or of a softmax with the end symbol."""
        logits = logits.to(_at_least_single(logits))
        return logits.log_softmax(dim=-1) if self.end_symbol else F.logsigmoid(logits)

    def unroll(self, features: Features, initial: Initial, steps: int) -> Unrolled:
        """Every step names the most probable label not named before (E7), in training as at test.

        The choice itself has no gradient; the probabilities that are fed back have one. The end symbol is not chosen.

        Raises:
            InputError: more steps than labels.
        """
        if not 1 <= steps <= self.num_labels:
            raise InputError(f"steps: found {steps}, expected 1 to {self.num_labels}, the number of labels")

        def choose(log_probs: Tensor, chosen: Tensor, step: int) -> Tensor:
            return best_in_pool(log_probs[:, : self.num_labels], ~chosen)

        return self._unroll(features, initial, steps, choose)

    def unroll_order(self, features: Features, initial: Initial, order: Int[Tensor, "batch step"]) -> Unrolled:
        """Every step is told to name a given label, whatever it would have named itself (teacher forcing).

        Args:
            order: labels, then, where there is an end symbol, C; -1 after the last.
        """
        return self._unroll(features, initial, order.shape[1], lambda log_probs, chosen, step: order[:, step])

    def unroll_remaining(
        self, features: Features, initial: Initial, labels: Bool[Tensor, "batch label"], steps: int
    ) -> Unrolled:
        """Every step is told to name the most probable true label that is left (E11), at last the end symbol if any.

        Args:
            labels: the truth, multi-hot.
        """
        count = labels.sum(dim=1) + int(self.end_symbol)

        def choose(log_probs: Tensor, chosen: Tensor, step: int) -> Tensor:
            return torch.where(step < count, best_remaining(log_probs, labels & ~chosen), -1)

        return self._unroll(features, initial, steps, choose)

    def search(
        self, features: Features, initial: Initial, width: int = 3, max_steps: int = 10, threshold: float = 0.5
    ) -> FoundSets:
        """The most confident label set (E12, E13), by `ommatid.nn.set_beam_search.set_beam_search`."""
        keys = self.attention.keys(features)

        def step(state: LabelState, chosen: Tensor) -> tuple[Tensor, LabelState]:
            state, logits, _ = self.step(state._replace(chosen=chosen), features, keys)
            return self.log_probs(logits), state

        start = self.start(features, initial)
        return set_beam_search(step, start, self.num_labels, width, max_steps, threshold, self.end_symbol)

    def _unroll(
        self, features: Features, initial: Initial, steps: int, choose: Callable[[Tensor, Tensor, int], Tensor]
    ) -> Unrolled:
        keys, state = self.attention.keys(features), self.start(features, initial)
        every_label = torch.arange(self.num_labels, device=features.device)
        seen = []
        # Step after step, because each one is told what the one before it has named; there are a handful.
        for step in range(steps):
            state, logits, weights = self.step(state, features, keys)
            label = choose(self.log_probs(logits).detach(), state.chosen, step)
            state = state._replace(chosen=state.chosen | (label[:, None] == every_label))
            seen.append((logits, weights, label))
        logits, weights, labels = (torch.stack(values, dim=1) for values in zip(*seen, strict=True))
        return Unrolled(logits, weights, labels, path_confidence(self.log_probs(logits), labels))


def best_in_pool(scores: Float[Tensor, "*lead label"], pool: Bool[Tensor, "*lead label"]) -> Int[Tensor, "*lead"]:
    """The label of highest score among the candidates (E7), also where all of them score -inf.

    Examples:
        >>> best_in_pool(torch.tensor([0.9, 0.0, 0.0]), torch.tensor([False, False, True]))
        tensor(2)
    """
    lowest = torch.finfo(scores.dtype).min
    return scores.clamp(min=lowest).masked_fill(~pool, float("-inf")).argmax(dim=-1)


def best_remaining(
    scores: Float[Tensor, "batch output"], remaining: Bool[Tensor, "batch label"]
) -> Int[Tensor, "batch"]:
    """The true label of highest score that is left, or the end symbol, which comes after all labels (E11).

    Examples:
        >>> scores = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
        >>> best_remaining(scores, torch.tensor([[True, True, False]]))
        tensor([1])
        >>> best_remaining(scores, torch.tensor([[False, False, False]]))
        tensor([3])
    """
    num_labels = remaining.shape[1]
    return torch.where(remaining.any(dim=1), best_in_pool(scores[:, :num_labels], remaining), num_labels)


def path_confidence(
    log_probs: Float[Tensor, "batch step output"], labels: Int[Tensor, "batch step"]
) -> Float[Tensor, "batch step"]:
    """Geometric mean of the probabilities of the labels named up to each step (E12); -1 names nothing.

    Examples:
        >>> probs = torch.tensor([[[0.9, 0.1], [0.5, 0.4]]])
        >>> path_confidence(probs.log(), torch.tensor([[0, 1]]))
        tensor([[0.9000, 0.6000]])
    """
    named = labels >= 0
    each = log_probs.gather(2, labels.clamp(min=0)[..., None])[..., 0]
    return (torch.where(named, each, 0.0).cumsum(dim=1) / named.cumsum(dim=1).clamp(min=1)).exp()


def confident_labels(
    labels: Int[Tensor, "batch step"],
    confidence: Float[Tensor, "batch step"],
    threshold: float,
    num_labels: int,
    as_released: bool = False,
) -> Bool[Tensor, "batch label"]:
    """The labels of a path before its confidence first falls below the threshold, at least one (E12, E13 greedily).

    Args:
        labels, confidence: of an `Unrolled`.
        as_released: every label at a step of enough confidence counts, also after one of too little, and there may be
            none, as in the public re-implementation.

    Examples:
        >>> labels, confidence = torch.tensor([[2, 0, 1]]), torch.tensor([[0.9, 0.4, 0.6]])
        >>> confident_labels(labels, confidence, 0.5, num_labels=3).int()
        tensor([[0, 0, 1]], dtype=torch.int32)
    """
    kept = confidence >= threshold
    if not as_released:
        first = torch.arange(labels.shape[1], device=labels.device) == 0
        kept = (~kept).cumsum(dim=1).eq(0) | first
    named = labels[..., None] == torch.arange(num_labels, device=labels.device)
    return (named & kept[..., None]).any(dim=1)


_PUBLISHED = {
    "attn.encoder_att.weight": "attention.region.weight",
    "attn.decoder_att.weight": "attention.guide.weight",
    "attn.full_att.weight": "attention.energy.weight",
    **{f"f_beta.{part}": f"attention.gate.{part}" for part in ("weight", "bias")},
    **{f"init_h.{part}": f"first_hidden.{part}" for part in ("weight", "bias")},
    **{f"init_c.{part}": f"first_cell.{part}" for part in ("weight", "bias")},
    **{f"decode_step.{part}": f"cell.{part}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")},
    **{f"fc1.{part}": f"output.1.{part}" for part in ("weight", "bias")},
    **{f"fc2.{part}": f"output.3.{part}" for part in ("weight", "bias")},
}


def published_label_decoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the public re-implementation under the names of `LabelDecoder`.

    Its two biases inside the attention are one here, and the one after it, which the softmax cancels, is left out.
    """
    ours = {name: state[theirs] for theirs, name in _PUBLISHED.items()}
    return ours | {"attention.region.bias": state["attn.encoder_att.bias"] + state["attn.decoder_att.bias"]}


def _at_least_single(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
