import pytest
import torch
import torch.nn.functional as F

from ommatid.errors import InputError
from ommatid.losses.contrastive import InstanceContrastiveLoss, instance_contrast, instance_contrastive_loss


@pytest.fixture
def views():
    generator = torch.Generator().manual_seed(0)
    return [F.normalize(torch.randn(7, 4, dtype=torch.float64, generator=generator), dim=1) for _ in range(2)]


def test_each_row_is_scored_against_all_targets_by_its_definition(views):
    anchor, target = views
    losses = instance_contrast(anchor, target, temperature=0.2)
    for i in range(7):
        similarities = torch.stack([(anchor[i] * other).sum() / 0.2 for other in target])
        torch.testing.assert_close(losses[i], similarities.logsumexp(0) - similarities[i])


def test_the_two_parts_are_averaged_apart(views):
    losses = instance_contrast(*views, temperature=0.2)
    loss = instance_contrastive_loss(*views, temperature=0.2, split=3)
    torch.testing.assert_close(loss, losses[:3].mean() + losses[3:].mean())
    torch.testing.assert_close(instance_contrastive_loss(*views, temperature=0.2), losses.mean())
    torch.testing.assert_close(instance_contrastive_loss(*views, temperature=0.2, split=7), losses.mean())


def test_gradients_reach_the_targets_only_if_asked(views):
    anchor, target = (view.requires_grad_() for view in views)
    instance_contrastive_loss(anchor, target, split=3).backward()
    assert anchor.grad.abs().sum() > 0
    assert target.grad is None
    instance_contrastive_loss(anchor, target, split=3, detach_target=False).backward()
    assert target.grad.abs().sum() > 0


def test_gradcheck(views):
    views = [view.requires_grad_() for view in views]
    assert torch.autograd.gradcheck(lambda a, t: instance_contrastive_loss(a, t, 0.5, 3, detach_target=False), views)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_close_and_finite(views, dtype):
    exact = instance_contrastive_loss(*views, temperature=0.1, split=3)
    half = instance_contrastive_loss(*(view.to(dtype) for view in views), temperature=0.1, split=3)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), exact, rtol=0.05, atol=0.05)


def test_the_module_is_the_function(views):
    module = InstanceContrastiveLoss(temperature=0.3, detach_target=False)
    assert torch.equal(module(*views, split=2), instance_contrastive_loss(*views, 0.3, 2, detach_target=False))


@pytest.mark.parametrize("split", [0, 8])
def test_a_split_outside_the_rows_is_refused(views, split):
    with pytest.raises(InputError, match=f"split: found {split}, expected 1 to 7, the number of rows"):
        instance_contrastive_loss(*views, split=split)
