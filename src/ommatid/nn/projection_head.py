"""Two linear layers onto the unit sphere, where features are compared by their angle."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ommatid.errors import InputError


class ProjectionHead(nn.Module):
    """Unit vectors from features (CMI, arXiv:2105.08584, E7): linear, ReLU, linear, L2 normalisation.

    Examples:
        >>> import torch
        >>> ProjectionHead(16, embed_dim=4)(torch.randn(2, 16)).shape
        torch.Size([2, 4])
    """

    def __init__(self, feature_dim: int, embed_dim: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(feature_dim, feature_dim), nn.ReLU(), nn.Linear(feature_dim, embed_dim))

    def forward(self, features: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch embed"]:
        return F.normalize(self.layers(features), dim=-1)


def load_published_head(state: dict[str, Tensor]) -> ProjectionHead:
    """The head whose weights the authors of CMI saved (`head.0.*`, `head.2.*`), of the size that the weights have.

    Raises:
        InputError: the weights are not those of such a head.
    """
    try:
        embed_dim, feature_dim = state["head.2.weight"].shape
        head = ProjectionHead(feature_dim, embed_dim)
        head.load_state_dict({key.replace("head.", "layers.", 1): value for key, value in state.items()})
    except (KeyError, RuntimeError, ValueError) as error:
        found = ", ".join(list(state)[:3]) or "nothing"
        raise InputError(f"state: found {found}, expected the weights head.0.* and head.2.* of a CMI head") from error
    return head
