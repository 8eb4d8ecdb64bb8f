import pytest
import torch

from ommatid.nn.reference import ReferenceConditioning, masked_average_pool, prototype_similarity


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_what_a_mask_shows_is_averaged():
    features, masks = drawn(2, 1, 5, 4, 4), torch.zeros(2, 1, 1, 4, 4)
    masks[:, :, :, 1, 2:] = 1
    expected = features[:, 0, :, 1, 2:].mean(dim=2)
    torch.testing.assert_close(masked_average_pool(features, masks), expected, rtol=1e-4, atol=1e-5)


def test_a_larger_mask_counts_by_its_share_of_each_place():
    features, masks = drawn(1, 1, 3, 2, 2), torch.zeros(1, 1, 1, 8, 8)
    masks[..., :4, :4] = 1
    masks[..., :4, 4:6] = 1
    expected = (features[0, 0, :, 0, 0] + 0.5 * features[0, 0, :, 0, 1]) / 1.5
    torch.testing.assert_close(masked_average_pool(features, masks)[0], expected, rtol=1e-4, atol=1e-5)


def test_several_references_are_averaged_whatever_their_areas():
    features, masks = drawn(1, 2, 3, 4, 4), torch.zeros(1, 2, 1, 4, 4)
    masks[:, 0, :, :1], masks[:, 1] = 1, 1
    each = [masked_average_pool(features[:, k : k + 1], masks[:, k : k + 1]) for k in (0, 1)]
    torch.testing.assert_close(masked_average_pool(features, masks), (each[0] + each[1]) / 2)


def test_nothing_outlined_is_no_nan():
    assert masked_average_pool(drawn(1, 1, 3, 4, 4), torch.zeros(1, 1, 1, 4, 4)).eq(0).all()


def test_similarity_is_the_cosine_of_every_place():
    features, prototypes = drawn(2, 6, 3, 3), drawn(2, 6)
    found = prototype_similarity(features, prototypes)
    for row in range(3):
        for column in range(3):
            expected = torch.cosine_similarity(features[:, :, row, column], prototypes, dim=1)
            torch.testing.assert_close(found[:, 0, row, column], expected)


def test_conditioning_tells_every_place_of_the_prototype():
    torch.manual_seed(0)
    conditioning = ReferenceConditioning(6).eval()
    features, references, masks = drawn(2, 6, 3, 3), drawn(2, 1, 6, 4, 4), torch.ones(2, 1, 1, 4, 4)
    found = conditioning(features, references, masks)
    assert found.shape == features.shape
    torch.testing.assert_close(found, conditioning.told(features, masked_average_pool(references, masks)))
    other = conditioning(features, references.flip(0), masks)
    assert not torch.allclose(found, other)


def test_gradients_reach_the_references():
    conditioning = ReferenceConditioning(4)
    references = drawn(2, 1, 4, 3, 3).requires_grad_()
    conditioning(drawn(2, 4, 3, 3), references, torch.ones(2, 1, 1, 3, 3)).square().sum().backward()
    assert references.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_half_precision_is_finite(dtype):
    conditioning = ReferenceConditioning(4)
    with torch.autocast("cpu", dtype=dtype):
        found = conditioning(drawn(2, 4, 3, 3), drawn(2, 1, 4, 3, 3), torch.ones(2, 1, 1, 3, 3))
    assert found.isfinite().all()
