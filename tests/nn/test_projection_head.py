import pytest
import torch

from ommatid.errors import InputError
from ommatid.nn.projection_head import ProjectionHead, load_published_head


def test_projections_are_unit_vectors_of_the_asked_size():
    projected = ProjectionHead(12, 5)(torch.randn(7, 12))
    assert projected.shape == (7, 5)
    torch.testing.assert_close(projected.norm(dim=1), torch.ones(7))


def test_a_zero_feature_gives_no_nan():
    head = ProjectionHead(3, 2)
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    assert head(torch.zeros(1, 3)).isfinite().all()


def test_published_weights_project_alike():
    head, features = ProjectionHead(6, 4), torch.randn(2, 6)
    state = {key.replace("layers.", "head."): value for key, value in head.state_dict().items()}
    assert torch.equal(load_published_head(state)(features), head(features))
    with pytest.raises(InputError, match=r"state: found fc\.weight, expected the weights head\.0\.\* and head\.2\.\*"):
        load_published_head({"fc.weight": torch.zeros(1)})
