"""`world-motion`: labels lie in the order of the frames, and nowhere else."""

import pytest
import torch

from ommatid.data.worlds.motion import CLASSES, DIRECTIONS, OPPOSITE, MotionWorld
from ommatid.errors import InputError

WORLD = MotionWorld(train=24, val=12, test=12, noise=0.0)


def centres(clips):
    """Where the square is: the mean of places whose colour differs from the ground's, which does not move."""
    frames = clips.float()
    still = frames.median(dim=1, keepdim=True).values
    weight = (frames - still).abs().sum(dim=2) > 30
    axis = (torch.arange(frames.shape[-1]) + 0.5) * 2 / frames.shape[-1] - 1
    total = weight.sum(dim=(2, 3)).clamp(min=1)
    return (
        torch.stack([(weight * axis).sum(dim=(2, 3)), (weight * -axis[:, None]).sum(dim=(2, 3))], dim=-1)
        / total[..., None]
    )


def test_a_split_is_a_function_of_its_seed():
    clips, labels = WORLD.split("train")
    assert clips.shape == (24, 8, 3, 32, 32)
    assert labels.tolist() == [*range(12)] * 2
    assert torch.equal(clips, MotionWorld(train=24, noise=0.0).split("train")[0])
    assert not torch.equal(clips, MotionWorld(train=24, noise=0.0, seed=1).split("train")[0])
    assert not torch.equal(clips[:12], WORLD.split("val")[0])
    assert not torch.equal(clips[:12], clips[12:])


def test_squares_move_where_their_class_says():
    clips, labels = MotionWorld(train=240, noise=0.0).split("train")
    moved = centres(clips)
    moved = moved[:, -1] - moved[:, 0]
    for label, direction in enumerate(DIRECTIONS):
        x, y = moved[labels == label].mean(dim=0).tolist()
        assert ("right" in direction) == (x > 0.1), direction
        assert ("left" in direction) == (x < -0.1), direction
        assert ("up" in direction) == (y > 0.1), direction
        assert ("down" in direction) == (y < -0.1), direction


def reach(first, second):
    """How far from its middle two pictures differ."""
    changed = (first.float() - second.float()).abs().sum(dim=1) > 30
    axis = torch.arange(changed.shape[-1]).float()
    total = changed.sum(dim=(1, 2)).clamp(min=1)
    x, y = ((changed * each).sum(dim=(1, 2)) / total for each in (axis, axis[:, None]))
    distance = ((axis - x[:, None, None]) ** 2 + (axis[:, None] - y[:, None, None]) ** 2).sqrt()
    return (distance * changed).flatten(1).amax(dim=1)


def test_squares_grow_or_shrink_where_their_class_says():
    clips, labels = MotionWorld(train=480, noise=0.0).split("train")
    for name, order in (("grow", (0, 1, 7)), ("shrink", (7, 6, 0))):
        small, next_smallest, large = (clips[labels == CLASSES.index(name)][:, frame] for frame in order)
        assert (reach(large, small) > 1.2 * reach(next_smallest, small)).float().mean() > 0.9


def test_the_opposite_of_the_opposite_is_the_class_itself():
    assert [OPPOSITE[OPPOSITE[label]] for label in range(12)] == list(range(12))
    pairs = {CLASSES[label]: CLASSES[OPPOSITE[label]] for label in range(12)}
    assert pairs["up left"] == "down right"
    assert pairs["turn left"] == "turn right"
    assert pairs["grow"] == "shrink"


def test_single_frames_say_nothing():
    """A linear classifier of frames stays at chance; one that is told how far the square went does not."""
    from sklearn.linear_model import RidgeClassifier

    def accuracy(values, classes):
        half = len(values) // 2
        return RidgeClassifier(alpha=1e4).fit(values[:half], classes[:half]).score(values[half:], classes[half:])

    clips, labels = MotionWorld(train=1440, size=16, noise=0.0).split("train")
    frames = clips.float().mean(dim=2).flatten(0, 1).flatten(1)
    assert accuracy(frames.numpy(), labels.repeat_interleave(8).numpy()) < 0.12
    moved = centres(clips)
    assert accuracy(1e4 * (moved[:, -1] - moved[:, 0]).numpy(), labels.numpy()) > 0.3


def test_a_size_of_zero_is_refused():
    with pytest.raises(InputError, match="frames must be at least 1, found 0"):
        MotionWorld(frames=0)
