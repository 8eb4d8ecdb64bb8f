"""Changed videos: every new clip comes from where the plan says, and instants move as their clips do."""

import pytest
import torch

from ommatid.grounding.augment import (
    AFTER,
    BACK,
    BEFORE,
    FRONT,
    MOMENT,
    Speeds,
    interpolate,
    perturb_features,
    plan_times,
)

LENGTHS = torch.tensor([60, 41, 97, 5, 1])
MASK = torch.arange(97) < LENGTHS[:, None]
SPAN = torch.tensor([[0.3, 0.6], [0.0, 0.2], [0.5, 1.0], [0.2, 0.25], [0.0, 1.0]])
STILL = Speeds(moment=(1.0, 1.0), background=(1.0, 1.0), move=0.0, drop=0.0)


def plan(seed=0, speeds=Speeds()):
    torch.manual_seed(seed)
    return plan_times(MASK, SPAN, speeds)


def test_without_changes_the_video_stays_as_it_is():
    same = plan(speeds=STILL)
    for row, length in enumerate(LENGTHS.tolist()):
        assert same.mask[row].sum() == length
        assert same.index[row, :length].tolist() == list(range(length))
    times = torch.rand(5, 7)
    torch.testing.assert_close(same.move(times), times)


@pytest.mark.parametrize("seed", range(8))
def test_every_clip_of_the_moment_is_played_in_order_and_nothing_else_is(seed):
    changed = plan(seed)
    start = torch.minimum((SPAN[:, 0] * LENGTHS).round().long(), LENGTHS - 1)
    stop = torch.minimum(torch.maximum((SPAN[:, 1] * LENGTHS).round().long(), start + 1), LENGTHS)
    for row in range(5):
        played = changed.mask[row]
        index, piece = changed.index[row][played], changed.piece[row][played]
        inside = (index >= start[row]) & (index < stop[row])
        assert torch.equal(inside, piece == MOMENT)
        moment = index[piece == MOMENT]
        assert (moment[1:] >= moment[:-1]).all()
        length = int(stop[row] - start[row])
        assert round(0.6 * length) <= max(len(moment), 1) <= round(1.6 * length) + 1
        # The label is exact: the moment's clips are those between its ends.
        ends = (changed.span[row] * int(played.sum())).round().long().tolist()
        assert (piece == MOMENT).nonzero()[:, 0].tolist() == list(range(*ends))
        assert (piece[1:] >= piece[:-1]).all()


def test_backgrounds_are_moved_dropped_and_played_faster_sometimes():
    seen, shares = set(), []
    for seed in range(12):
        changed = plan(seed)
        seen |= set(changed.piece[changed.mask].tolist())
        shares.append(changed.mask.sum(dim=1) / LENGTHS)
    assert seen == {FRONT, *BEFORE, MOMENT, *AFTER, BACK}
    assert torch.stack(shares).min() < 0.8 < 1.2 < torch.stack(shares).max()
    never = Speeds(move=0.0, drop=0.0)
    assert not {FRONT, BACK} & set(plan(0, never).piece[plan(0, never).mask].tolist())


@pytest.mark.parametrize("seed", range(4))
def test_instants_move_with_their_clips(seed):
    changed = plan(seed)
    for row in (0, 2):
        total = int(changed.mask[row].sum())
        for place in range(total):
            if int(changed.piece[row, place]) in (FRONT, BACK):
                continue
            old = changed.time[row, place]
            new = changed.move(old.expand(5, 1))[row, 0]
            # A clip lasts a step of its video; a slow piece shows one clip in two places.
            assert abs(float(new) * total - (place + 0.5)) <= 2.0
    ends = changed.move(changed.move_back(changed.span))
    torch.testing.assert_close(ends, changed.span, atol=1e-4, rtol=0)


def test_moving_an_instant_has_a_gradient():
    changed, times = plan(), torch.full((5, 1), 0.45, requires_grad=True)
    changed.move(times)[0].sum().backward()
    assert times.grad[0, 0] > 0


def test_interpolation_is_constant_beyond_its_edges():
    at, value = torch.tensor([[0.2, 0.4, 0.4, 0.8]]), torch.tensor([[0.0, 0.5, 0.6, 1.0]])
    found = interpolate(torch.tensor([[0.0, 0.3, 0.6, 0.9]]), at, value)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.25, 0.8, 1.0]]))


def test_shown_clips_are_the_planned_ones():
    video, changed = torch.randn(5, 97, 3), plan()
    shown = changed.show(video)
    assert torch.equal(shown[2, 10], video[2, changed.index[2, 10]])
    assert (shown[~changed.mask] == 0).all()


def test_features_of_a_piece_change_alike():
    torch.manual_seed(0)
    video, changed = torch.ones(5, plan().mask.shape[1], 400), plan()
    found = perturb_features(video, changed.piece, changed.mask, noise=0.0)
    assert (found[~changed.mask] == 0).all()
    piece, row = changed.piece[0], found[0]
    moment = row[(piece == MOMENT) & changed.mask[0]]
    assert torch.equal(moment[0], moment[-1])
    other = row[(piece == BEFORE[0]) & changed.mask[0]]
    assert not torch.equal(moment[0], other[0])
    assert 0.03 < float((moment[0] == 0).float().mean()) < 0.2
    assert perturb_features(video, changed.piece, changed.mask, 0.0, 0.0, 0.0)[changed.mask].unique().tolist() == [1.0]
