"""Object seeking finds what images of a class share, on one scale for all classes, and training crops follow it."""

import pytest
import torch
import torch.nn.functional as F

from ommatid.errors import InputError
from ommatid.nn.object_seeking import choose_crops, crop_distances, fusion_boxes, relax_box, seek_objects


def one_object(images=12, crops=6, seed=0):
    """Crop 2 of each image shows the object of the class, the others show a ground of the image's own."""
    generator = torch.Generator().manual_seed(seed)
    features = F.normalize(torch.randn(images, 1, 16, generator=generator).expand(-1, crops, -1).clone(), dim=-1)
    features[:, 2] = F.normalize(torch.ones(16), dim=0)
    return F.normalize(features + 0.02 * torch.randn(features.shape, generator=generator), dim=-1)


def test_the_shared_crop_is_found():
    found = seek_objects([one_object(), -one_object(seed=1)])
    for each in found:
        assert (each.crops[:, 0] == 2).all()
        assert (each.distances.diff(dim=1) >= 0).all()


def test_probabilities_are_such():
    for each in seek_objects([one_object(), one_object(seed=3)]):
        assert (each.probabilities >= 0).all()
        assert (each.probabilities.sum(dim=1) <= 1).all()


def test_the_released_scores_may_fall_below_zero():
    features = one_object()
    released = seek_objects([features], as_released=True)[0]
    ours = seek_objects([features])[0]
    assert torch.equal(released.crops, ours.crops)
    assert (released.probabilities < 0).any() or (released.probabilities - ours.probabilities).abs().max() < 1e-6
    far = choose_crops(torch.tensor([[0.1, 3.0]]), 1.0, 2, as_released=True)
    assert far.probabilities[0, 1] > 0 > far.probabilities[0, 0]
    assert choose_crops(torch.tensor([[0.1, 3.0]]), 1.0, 2).probabilities[0].tolist() == pytest.approx([0.9, 0.0])


def test_the_most_frequent_cluster_counts_where_none_is_frequent():
    features = F.normalize(torch.randn(8, 4, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    found = crop_distances(features, clusters=5, coverage=0.99)
    assert found.to_object.isfinite().all()
    assert (found.to_object >= found.to_any - 1e-6).all()


def test_more_clusters_than_crops_are_not_asked_for():
    found = seek_objects([one_object(images=1, crops=3)], clusters=5, top=5)[0]
    assert found.crops.shape == (1, 3)


def test_without_classes_or_with_no_share_nothing_is_sought():
    with pytest.raises(InputError, match="classes: found none"):
        seek_objects([])
    with pytest.raises(InputError, match=r"coverage: found 1\.5"):
        seek_objects([one_object()], coverage=1.5)


def test_a_grown_box_stays_in_the_image():
    boxes = torch.rand(50, 4) * 24 + torch.tensor([0.0, 0.0, 4.0, 4.0])
    grown, share = relax_box(boxes, 1.5, 48, 48)
    assert (grown[:, :2] >= 0).all()
    assert (grown[:, :2] + grown[:, 2:] <= 48.001).all()
    torch.testing.assert_close(share, grown[:, 2:].prod(dim=1) / 48**2)
    inner = torch.tensor([20.0, 20.0, 8.0, 8.0])
    torch.testing.assert_close(relax_box(inner, 1.5, 48, 48)[0], torch.tensor([18.0, 18.0, 12.0, 12.0]))


def test_crops_follow_the_probabilities():
    count = 4000
    found = torch.tensor([[0.0, 0.0, 8.0, 8.0], [40.0, 40.0, 8.0, 8.0]]).expand(count, 2, 4)
    chances = torch.tensor([0.5, 0.2]).expand(count, 2)
    boxes = fusion_boxes(found, chances, 48, 48, generator=torch.Generator().manual_seed(0))
    low, high = boxes[:, :2].amin(dim=1), (boxes[:, :2] + boxes[:, 2:]).amax(dim=1)
    first, second = (high <= 9.61).float().mean(), (low >= 39.19).float().mean()
    # Few crops of the whole image are so small and in a corner that they count as well.
    assert float(first) == pytest.approx(0.5, abs=0.03)
    assert float(second) == pytest.approx(0.2, abs=0.03)


def test_a_crop_of_a_small_box_shows_no_less_than_a_crop_of_the_image_may():
    found = torch.tensor([[[10.0, 10.0, 20.0, 20.0]]]).expand(300, 1, 4)
    boxes = fusion_boxes(found, torch.ones(300, 1), 48, 48)
    assert (boxes[:, 2:].prod(dim=1) >= 0.0799 * 48 * 48).all()


def test_probabilities_beyond_one_are_brought_back():
    found = torch.tensor([[0.0, 0.0, 8.0, 8.0], [40.0, 40.0, 8.0, 8.0]]).expand(500, 2, 4)
    boxes = fusion_boxes(found, torch.tensor([1.5, 1.5]).expand(500, 2), 48, 48)
    assert float((boxes[:, 0] < 24).float().mean()) == pytest.approx(0.5, abs=0.1)
