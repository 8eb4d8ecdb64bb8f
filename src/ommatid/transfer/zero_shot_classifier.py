"""The last stage of generating methods: ordinary softmax classifiers on samples that are partly made up."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ommatid.transfer.zero_shot_task import CHOOSING, TESTING

Linear = tuple[Float[Tensor, "class feature"], Float[Tensor, " class"]]


def fit_softmax(
    features: Float[Tensor, "sample feature"],
    labels: Int[Tensor, " sample"],
    num_classes: int,
    steps: int,
    batch_size: int = 100,
    lr: float = 1e-3,
    seed: int = 0,
) -> Linear:
    """Weight and bias of a linear softmax classifier: a fixed number of updates by Adam, the last state counts.

    It starts from zero and draws its batches from a generator of its own: the same samples always give the same
    classifier, and nothing else that draws is disturbed.

    Examples:
        >>> features, labels = torch.eye(3), torch.arange(3)
        >>> weight, bias = fit_softmax(features, labels, 3, steps=20, lr=0.1)
        >>> (features @ weight.T + bias).argmax(dim=1)
        tensor([0, 1, 2])
    """
    generator = torch.Generator().manual_seed(seed)
    weight, bias = features.new_zeros(num_classes, features.shape[1]), features.new_zeros(num_classes)
    optimizer = torch.optim.Adam([weight, bias], lr=lr)
    size = min(batch_size, len(labels))
    batches = torch.randint(len(labels), (steps, size), generator=generator).to(labels.device)
    for chosen in batches:  # updates follow from each other
        inputs = features[chosen]
        # The gradient of the cross-entropy, written out: it is also needed where torch records none.
        error = ((inputs @ weight.T + bias).softmax(dim=1) - one_hot(labels[chosen], num_classes)) / size
        weight.grad, bias.grad = error.T @ inputs, error.sum(dim=0)
        optimizer.step()
    return weight, bias


class ZeroShotClassifiers(nn.Module):
    """For each of the two tasks a classifier among all of its classes, and one among those without training samples.

    They are buffers, fitted after the last update of training (`fit_softmax`), and are kept in checkpoints.

    Args:
        feature_dim: width of what is classified.
        num_seen, num_back, num_unseen: classes, numbered in this order.
    """

    weight: Tensor
    bias: Tensor
    candidates: Tensor

    def __init__(self, feature_dim: int, num_seen: int, num_back: int, num_unseen: int) -> None:
        super().__init__()
        self.num_seen = num_seen
        classes = num_seen + num_back + num_unseen
        self.new = {CHOOSING: range(num_seen, num_seen + num_back), TESTING: range(num_seen + num_back, classes)}
        self.register_buffer("weight", torch.zeros(2, 2, classes, feature_dim))
        self.register_buffer("bias", torch.zeros(2, 2, classes))
        self.register_buffer("candidates", self._candidates(classes), persistent=False)

    def _candidates(self, classes: int) -> Bool[Tensor, "task 2 class"]:
        found = torch.zeros(2, 2, classes, dtype=torch.bool)
        for task, new in self.new.items():
            found[task, 0, : self.num_seen] = True
            found[task, :, new.start : new.stop] = True
            # Without new classes, the seen ones are all there is.
            found[task, 1, : self.num_seen] |= not len(new)
        return found

    @torch.no_grad()
    def keep(self, task: int, kind: int, fitted: Linear) -> None:
        """Take over a classifier among all (`kind` 0) or among new classes (1) of a task."""
        places = self.candidates[task, kind].nonzero()[:, 0]
        self.weight[task, kind, places] = fitted[0].to(self.weight)
        self.bias[task, kind, places] = fitted[1].to(self.bias)

    def forward(
        self, features: Float[Tensor, "batch feature"], task: Int[Tensor, "batch"]
    ) -> tuple[Float[Tensor, "batch class"], Float[Tensor, "batch class"]]:
        """Logits among all classes and among new ones; minus infinity for what cannot be the answer."""
        logits = torch.einsum("bf,tkcf->btkc", features.float(), self.weight) + self.bias
        logits = logits.masked_fill(~self.candidates, float("-inf"))
        of_task = logits[torch.arange(len(task), device=task.device), task]
        return of_task[:, 0], of_task[:, 1]
