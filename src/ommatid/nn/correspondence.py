"""Which part of a video each part of a sentence is about: nodes of a video on three levels, and a distribution over
them for every node of the sentence's graph (VISA, arXiv:2203.13049).

The sentence looks among windows, its actions among steps, its atoms among a few slots of every step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ommatid.nn.semantic_graph import IMPOSSIBLE, GraphAttentionLayer, SemanticGraph, masked_softmax

SCALES = (2, 4, 8)
"""Windows take a half, a quarter and an eighth of the video."""
MIXED = 1e-3
"""How much of every prior is uniform (E9)."""
SENTENCE_WEIGHT = 0.1
"""Of the sentence's own divergence; actions and atoms weigh 1 (E15)."""


@dataclass
class VideoNodes:
    """A video as nodes on three levels.

    Attributes:
        inside: whether a step lies in a window; windows without steps do not exist.
        mask: valid steps.
    """

    windows: Float[Tensor, "batch window dim"]
    steps: Float[Tensor, "batch time dim"]
    slots: Float[Tensor, "batch time slot dim"]
    inside: Bool[Tensor, "batch window time"]
    mask: Bool[Tensor, "batch time"]

    def each(self, function: Callable[[Tensor], Tensor]) -> "VideoNodes":
        """The same nodes with `function` applied to what they hold."""
        return replace(self, windows=function(self.windows), steps=function(self.steps), slots=function(self.slots))

    @property
    def spread(self) -> Float[Tensor, "batch window time"]:
        """A window as an even distribution over its steps."""
        return _spread(self.inside)


@dataclass
class Levels:
    """A number for every node of a sentence's graph and every video node of its level.

    Attributes:
        windows: of the sentence itself.
        steps: of every word as an action; means nothing for other words.
        slots: of every word as an atom; means nothing for other words.
    """

    windows: Float[Tensor, "batch window"]
    steps: Float[Tensor, "batch word time"]
    slots: Float[Tensor, "batch word time slot"]


Prior = Callable[[Levels, SemanticGraph, VideoNodes], Levels]


# --- nodes of a video and messages among them ---


def multi_scale_windows(
    mask: Bool[Tensor, "batch time"], scales: Sequence[int] = SCALES
) -> Bool[Tensor, "batch window time"]:
    """Which steps lie in each window; windows of 1/scale of the video follow one another by half their length (E4).

    A step lies where its middle does. Windows are shares of the video's own length, whatever is padded.

    Examples:
        >>> multi_scale_windows(torch.ones(1, 4, dtype=torch.bool), [2])[0].int().tolist()
        [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    """
    first = torch.cat([torch.arange(2 * scale - 1, device=mask.device) for scale in scales])
    scale = torch.cat([torch.full((2 * scale - 1,), scale, device=mask.device) for scale in scales])
    middle = (2 * torch.arange(mask.shape[1], device=mask.device) + 1) * scale[:, None]
    # (t + 1/2) / n against i / (2 scale), in integers: no step is lost between two windows by rounding.
    start = first * mask.sum(dim=1, keepdim=True)
    end = (first + 2) * mask.sum(dim=1, keepdim=True)
    return (start[..., None] <= middle) & (middle < end[..., None]) & mask[:, None]


class HierarchicalVideoNodes(nn.Module):
    """Windows, steps and slots of steps from clip features (VISA, arXiv:2203.13049, E4).

    A window is a projection of the mean of its steps, a step a projection plus a depth-wise convolution over its
    neighbours, a slot one of several projections of a step.

    Args:
        channels, dim: width of clip features and of nodes.
        slots: per step.
        scales: a window takes one of these parts of the video.
        kernel: steps that the convolution sees.

    Examples:
        >>> nodes = HierarchicalVideoNodes(6, 8)(torch.randn(2, 16, 6), torch.ones(2, 16, dtype=torch.bool))
        >>> nodes.windows.shape, nodes.steps.shape, nodes.slots.shape
        (torch.Size([2, 25, 8]), torch.Size([2, 16, 8]), torch.Size([2, 16, 4, 8]))
    """

    def __init__(
        self, channels: int, dim: int, slots: int = 4, scales: Sequence[int] = SCALES, kernel: int = 5
    ) -> None:
        super().__init__()
        self.scales, self.slots = tuple(scales), slots
        self.window, self.step = nn.Linear(channels, dim), nn.Linear(channels, dim)
        self.across = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.slot = nn.Linear(channels, slots * dim)

    def forward(self, video: Float[Tensor, "batch time channel"], mask: Bool[Tensor, "batch time"]) -> VideoNodes:
        inside = multi_scale_windows(mask, self.scales)
        windows = self.window(_spread(inside).to(video.dtype) @ video.masked_fill(~mask[..., None], 0))
        # Padded steps are zero before the convolution, so that they cannot leak into valid ones.
        steps = self.step(video) * mask[..., None]
        steps = steps + self.across(steps.transpose(1, 2)).transpose(1, 2)
        slots = rearrange(self.slot(video), "b t (k d) -> b t k d", k=self.slots)
        return VideoNodes(windows, steps, slots, inside, mask)


def slot_similarity(nodes: VideoNodes) -> Float[Tensor, ""]:
    """Mean cosine between two slots of a step, to be kept small so that slots differ (E4)."""
    slots, count = F.normalize(nodes.slots.float(), dim=-1), nodes.slots.shape[2]
    if count == 1:
        return slots.new_zeros(())
    # |sum_k s_k|^2 holds every pair twice and every slot's product with itself.
    pairs = (slots.sum(dim=2).square().sum(dim=-1) - count) / (count * (count - 1))
    return (pairs * nodes.mask).sum() / nodes.mask.sum().clamp(min=1)


class VideoGraphAttention(nn.Module):
    """`GraphAttentionLayer` on the nodes of a video, without a matrix of all pairs (VISA, E5-E7).

    Neighbours are a window and its steps, a step and its slots, consecutive steps, and the same slot of consecutive
    steps.

    Examples:
        >>> nodes = HierarchicalVideoNodes(6, 8)(torch.randn(2, 16, 6), torch.ones(2, 16, dtype=torch.bool))
        >>> VideoGraphAttention(8, key_dim=4)(nodes).slots.shape
        torch.Size([2, 16, 4, 8])
    """

    def __init__(self, dim: int, key_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.layer = GraphAttentionLayer(dim, key_dim, dropout)

    def forward(self, nodes: VideoNodes) -> VideoNodes:
        return replace(
            nodes,
            windows=self.layer.receive(nodes.windows, self.to_windows(nodes)),
            steps=self.layer.receive(nodes.steps, self.to_steps(nodes)),
            slots=self.layer.receive(nodes.slots, self.to_slots(nodes)),
        )

    def to_windows(self, nodes: VideoNodes) -> Float[Tensor, "batch window dim"]:
        query, key = self.layer.compared(nodes.windows)[0], self.layer.compared(nodes.steps)[1]
        weights = masked_softmax(query @ key.transpose(1, 2), nodes.inside)
        return weights.to(nodes.steps.dtype) @ nodes.steps

    def to_steps(self, nodes: VideoNodes) -> Float[Tensor, "batch time dim"]:
        """From the windows around a step, the steps beside it, and its slots."""
        query, key = self.layer.compared(nodes.steps)
        window_key, slot_key = self.layer.compared(nodes.windows)[1], self.layer.compared(nodes.slots)[1]
        logits = torch.cat(
            [query @ window_key.transpose(1, 2), _dots(query, _beside(key)), _dots(query, slot_key)], dim=-1
        )
        own = nodes.mask[..., None].expand(-1, -1, nodes.slots.shape[2])
        allowed = torch.cat([nodes.inside.transpose(1, 2), _has_beside(nodes.mask), own], dim=-1)
        weights = masked_softmax(logits, allowed).to(nodes.steps.dtype)
        windows, near, slots = weights.split([nodes.windows.shape[1], 2, nodes.slots.shape[2]], dim=-1)
        return windows @ nodes.windows + _mix(near, _beside(nodes.steps)) + _mix(slots, nodes.slots)

    def to_slots(self, nodes: VideoNodes) -> Float[Tensor, "batch time slot dim"]:
        """From a slot's step, and from the same slot of the steps beside it."""
        query, key = self.layer.compared(nodes.slots)
        step_key = self.layer.compared(nodes.steps)[1][:, :, None, None].expand(-1, -1, key.shape[2], -1, -1)
        logits = _dots(query, torch.cat([step_key, _beside(key)], dim=-2))
        allowed = torch.cat([nodes.mask[..., None], _has_beside(nodes.mask)], dim=-1)[:, :, None]
        weights = masked_softmax(logits, allowed).to(nodes.slots.dtype)
        steps = nodes.steps[:, :, None, None].expand(-1, -1, key.shape[2], -1, -1)
        return _mix(weights, torch.cat([steps, _beside(nodes.slots)], dim=-2))


def _beside(nodes: Float[Tensor, "batch time *rest"]) -> Tensor:
    """The nodes one step before and one step after each, on a new axis before the last; around the ends, anything."""
    return torch.stack([nodes.roll(1, dims=1), nodes.roll(-1, dims=1)], dim=-2)


def _has_beside(mask: Bool[Tensor, "batch time"]) -> Bool[Tensor, "batch time 2"]:
    """Whether there is a step before, and one after, each."""
    return torch.stack([F.pad(mask, (1, 0))[:, :-1], F.pad(mask, (0, 1))[:, 1:]], dim=-1) & mask[..., None]


def _dots(query: Float[Tensor, "*node key"], keys: Float[Tensor, "*node choice key"]) -> Float[Tensor, "*node choice"]:
    return (query[..., None, :] * keys).sum(dim=-1)


def _mix(
    weights: Float[Tensor, "*node choice"], values: Float[Tensor, "*node choice dim"]
) -> Float[Tensor, "*node dim"]:
    return (weights[..., None] * values).sum(dim=-2)


def _spread(inside: Bool[Tensor, "batch window time"]) -> Float[Tensor, "batch window time"]:
    return inside / inside.sum(dim=-1, keepdim=True).clamp(min=1)


# --- what a sentence's nodes correspond to ---


def gumbel_categorical(
    logits: Float[Tensor, "*shape"],
    mask: Bool[Tensor, "*#shape"],
    temperature: float | Float[Tensor, ""],
    noise: Float[Tensor, "*shape"] | None = None,
) -> Float[Tensor, "*shape"]:
    """A relaxed one-hot sample over the last axis, softmax((logits + Gumbel noise) / temperature) (E10).

    Args:
        mask: choices that exist; others are 0.
        temperature: near 0 samples are one-hot, at 1 and above they are smooth.
        noise: uniform numbers in [0, 1) to draw with; from the global generator where None.

    Examples:
        >>> torch.manual_seed(0).initial_seed()
        0
        >>> sample = gumbel_categorical(torch.zeros(3), torch.tensor([True, True, False]), temperature=0.01)
        >>> sample.round().tolist()
        [0.0, 1.0, 0.0]
    """
    if noise is None:
        noise = torch.rand_like(logits, dtype=torch.float32)
    smallest = torch.finfo(torch.float32).tiny
    gumbel = -(-noise.clamp(min=smallest).log()).clamp(min=smallest).log()
    return masked_softmax((logits.float() + gumbel) / temperature, mask)


def correspondence_logits(nodes: Float[Tensor, "batch node dim"], video: VideoNodes) -> Levels:
    """Scaled inner products <node, video node> / sqrt(dim) on every level (E8, and the evidence of E11)."""
    nodes = nodes * nodes.shape[-1] ** -0.5
    words = nodes[:, 1:]
    slots = torch.einsum("bnd,btkd->bntk", words, video.slots)
    return Levels(
        windows=_dots(nodes[:, 0], video.windows).float(),
        steps=(words @ video.steps.transpose(1, 2)).float(),
        slots=slots.float(),
    )


def posterior(logits: Levels, video: VideoNodes) -> Levels:
    """Probability of every correspondence given both graphs: softmax on every level (E8)."""
    return _on_every_level(masked_softmax, logits, video)


def relaxed_samples(logits: Levels, video: VideoNodes, temperature: float | Float[Tensor, ""]) -> Levels:
    """One `gumbel_categorical` sample from every posterior (E10)."""
    return _on_every_level(lambda level, mask: gumbel_categorical(level, mask, temperature), logits, video)


def _on_every_level(function: Callable[[Tensor, Tensor], Tensor], levels: Levels, video: VideoNodes) -> Levels:
    """Every level as a categorical distribution; those over slots range over all slots of all steps."""
    slots = rearrange(levels.slots, "b n t k -> b n (t k)")
    slot_mask = video.mask[:, None, :, None].expand(-1, -1, -1, levels.slots.shape[3]).flatten(2)
    return Levels(
        windows=function(levels.windows, video.inside.any(dim=2)),
        steps=function(levels.steps, video.mask[:, None]),
        slots=function(slots, slot_mask).view_as(levels.slots),
    )


def mass_by_step(probs: Levels, graph: SemanticGraph, video: VideoNodes) -> Float[Tensor, "batch node time"]:
    """How much of each node's distribution lies on each step: windows spread evenly, slots add up."""
    sentence = torch.einsum("bw,bwt->bt", probs.windows, video.spread)
    words = torch.where(graph.actions[..., None], probs.steps, probs.slots.sum(dim=3))
    return torch.cat([sentence[:, None], words], dim=1)


def structured_prior(probs: Levels, graph: SemanticGraph, video: VideoNodes) -> Levels:
    """What is expected of a node from where its parent is: an object is where its action is (VISA, E9).

    An action (or an atom without an action) follows the windows of the sentence, an atom the steps of its action, with
    all slots alike; windows are uniform, and so is a thousandth of everything.
    """
    uniform = uniform_prior(probs, graph, video)
    by_step = mass_by_step(probs, graph, video)
    of_parent = by_step.gather(1, graph.parent[:, 1:, None].expand(-1, -1, by_step.shape[2]))
    count = probs.slots.shape[3]
    return Levels(
        windows=uniform.windows,
        steps=torch.lerp(of_parent, uniform.steps, MIXED),
        slots=torch.lerp((of_parent / count)[..., None].expand_as(probs.slots), uniform.slots, MIXED),
    )


def uniform_prior(probs: Levels, graph: SemanticGraph, video: VideoNodes) -> Levels:
    """Every video node of the level is as likely as any other."""
    return posterior(Levels(*(torch.zeros_like(level) for level in vars(probs).values())), video)


def structured_correspondence(
    logits: Levels, graph: SemanticGraph, video: VideoNodes, prior: Prior = structured_prior
) -> tuple[Levels, Float[Tensor, "batch"]]:
    """The posterior of every node's counterpart, and its divergence from the prior (VISA, E8, E9, E15).

    The divergence is the sum of KL(posterior, prior) over nodes, the sentence's own weighing a tenth, divided by the
    number of nodes. Gradients flow into both sides.

    Examples:
        >>> from ommatid.nn.semantic_graph import rule_parse
        >>> graph = rule_parse(torch.tensor([[2, 1, 2]]), torch.ones(1, 3, dtype=torch.bool))
        >>> video = HierarchicalVideoNodes(6, 8)(torch.randn(1, 16, 6), torch.ones(1, 16, dtype=torch.bool))
        >>> logits = correspondence_logits(torch.randn(1, 4, 8), video)
        >>> probs, divergence = structured_correspondence(logits, graph, video)
        >>> probs.slots.shape, bool(divergence > 0)
        (torch.Size([1, 3, 16, 4]), True)
    """
    probs = posterior(logits, video)
    expected = prior(probs, graph, video)
    words = torch.where(
        graph.actions,
        categorical_kl(probs.steps, expected.steps),
        categorical_kl(probs.slots.flatten(2), expected.slots.flatten(2)),
    )
    total = SENTENCE_WEIGHT * categorical_kl(probs.windows, expected.windows) + (words * graph.mask[:, 1:]).sum(dim=1)
    return probs, total / graph.mask.sum(dim=1)


def categorical_kl(
    probs: Float[Tensor, "*batch choice"], prior: Float[Tensor, "*batch choice"]
) -> Float[Tensor, "*batch"]:
    """KL(probs, prior) over the last axis; what has no probability adds nothing.

    Examples:
        >>> categorical_kl(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])).item() == torch.tensor(2.0).log().item()
        True
    """
    smallest = torch.finfo(probs.dtype).tiny
    return (probs * (probs.clamp(min=smallest).log() - prior.clamp(min=smallest).log())).sum(dim=-1)


def matched_content(probs: Levels, graph: SemanticGraph, video: VideoNodes) -> Float[Tensor, "batch node dim"]:
    """What each node found: the mean of the video nodes of its level under its distribution (E11)."""
    probs = Levels(*(level.to(video.steps.dtype) for level in vars(probs).values()))
    sentence = torch.einsum("bw,bwd->bd", probs.windows, video.windows)
    atoms = torch.einsum("bntk,btkd->bnd", probs.slots, video.slots)
    words = torch.where(graph.actions[..., None], probs.steps @ video.steps, atoms)
    return torch.cat([sentence[:, None], words], dim=1)


def step_evidence(logits: Levels, graph: SemanticGraph, video: VideoNodes) -> Float[Tensor, "batch node time"]:
    """Evidence of each node at each step: an action's own, an atom's in the best slot, the sentence's in the best
    window around it (E11). 0 where padded.
    """
    around = torch.where(video.inside, logits.windows[..., None], IMPOSSIBLE).amax(dim=1)
    words = torch.where(graph.actions[..., None], logits.steps, logits.slots.amax(dim=3))
    return torch.cat([around[:, None], words], dim=1) * video.mask[:, None]
