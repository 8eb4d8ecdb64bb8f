"""The refinement of sequences that were put together from pieces."""

import torch

from ommatid.nn.self_refine import SelfRefine, corrupt, reconstruction_loss, seam_smoothness

MASK = torch.ones(2, 12, dtype=torch.bool)


def sequence(seed=0, dim=6):
    return torch.randn(2, 12, dim, generator=torch.Generator().manual_seed(seed))


def test_a_step_is_corrected_by_its_neighbours_alone():
    torch.manual_seed(0)
    refine, steps = SelfRefine(6, kernel=5, window=3), sequence().requires_grad_()
    (gradient,) = torch.autograd.grad(refine(steps, MASK)[0, 6].sum(), steps)
    touched = gradient[0].abs().sum(dim=1) > 0
    # Two convolutions of five reach four steps, the attention three more.
    assert touched.nonzero()[:, 0].tolist() == list(range(0, 12))
    (gradient,) = torch.autograd.grad(refine(steps, MASK)[0, 11].sum(), steps)
    assert (gradient[0].abs().sum(dim=1) > 0).nonzero()[:, 0].tolist() == list(range(4, 12))


def test_padding_changes_nothing():
    torch.manual_seed(0)
    refine, steps = SelfRefine(6), sequence()
    mask = torch.arange(12) < torch.tensor([12, 7])[:, None]
    padded = refine(torch.where(mask[..., None], steps, 50.0), mask)
    torch.testing.assert_close(padded[1, :7], refine(steps[1:, :7], MASK[:1, :7])[0])
    assert (padded[1, 7:] == 0).all()


def test_corruption_hits_the_stated_shares_and_says_where():
    torch.manual_seed(0)
    steps, mask = torch.randn(40, 50, 3), torch.ones(40, 50, dtype=torch.bool)
    changed, which = corrupt(steps, mask)
    assert abs(float(which.float().mean()) - 0.3) < 0.03
    assert torch.equal(changed[~which], steps[~which])
    zeroed = which & (changed == 0).all(dim=-1)
    assert abs(float(zeroed.float().mean()) - 0.1) < 0.02
    row, step = (which & ~zeroed)[:, 1:].nonzero()[0].tolist()
    assert torch.equal(changed[row, step + 1], steps[row, step])


def test_only_corrupted_steps_are_reconstructed():
    which = torch.zeros(2, 12, dtype=torch.bool)
    which[0, 3] = True
    refined = sequence().clone()
    refined[0, 3] += 2.0
    refined[1, 5] += 100.0
    torch.testing.assert_close(reconstruction_loss(refined, sequence(), which), torch.tensor(4.0))


def test_jumps_count_at_seams_and_beyond_the_usual():
    seams = torch.zeros(2, 12, dtype=torch.bool)
    seams[0, 4] = True
    calm = torch.zeros(2, 12, 1)
    jump = calm.clone()
    jump[0, 5:] = 3.0
    usual = torch.arange(12.0)[None, :, None].expand(2, -1, -1)  # neighbours one apart
    torch.testing.assert_close(seam_smoothness(jump, seams, MASK, usual, MASK), torch.tensor(2.0))
    assert seam_smoothness(jump, seams.roll(1, 1), MASK, usual, MASK) == 0
    assert seam_smoothness(jump, seams & False, MASK, usual, MASK) == 0


def test_gradients_are_finite_where_steps_are_equal():
    still = torch.zeros(1, 4, 2, requires_grad=True)
    seams, mask = torch.ones(1, 4, dtype=torch.bool), torch.ones(1, 4, dtype=torch.bool)
    seam_smoothness(still, seams, mask, torch.zeros(1, 4, 2), mask).backward()
    assert torch.isfinite(still.grad).all()
