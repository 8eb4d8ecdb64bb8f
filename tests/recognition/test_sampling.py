"""Which frames and which crops a method sees."""

import pytest
import torch

from ommatid.data.images import unit_interval
from ommatid.errors import InputError
from ommatid.recognition.sampling import Sampling


def generator():
    return torch.Generator().manual_seed(0)


def test_dense_clips_are_evenly_spread_in_tests_and_anywhere_in_training():
    sampling = Sampling(clip_length=4, interval=2, clips=3)
    clips = sampling.indices(40)
    assert clips.shape == (3, 4)
    assert (clips.diff(dim=1) == 2).all()
    assert clips[:, 0].diff().unique().numel() <= 2
    starts = {int(sampling.random_indices(40, generator().manual_seed(seed))[0]) for seed in range(200)}
    assert min(starts) == 0
    assert max(starts) == 32  # the last start from which eight frames fit
    assert (sampling.random_indices(40, generator()).diff() == 2).all()


def test_segments_have_a_frame_each():
    sampling = Sampling(clip_length=5, mode="segments", clips=2)
    for frames in (sampling.random_indices(50, generator()), *sampling.indices(50)):
        assert (frames // 10).tolist() == [0, 1, 2, 3, 4]
    first, second = sampling.indices(50)
    assert (first < second).all()


def test_a_short_video_repeats_its_last_frame():
    assert Sampling(clip_length=8, interval=4).indices(10).max() == 9
    assert Sampling(clip_length=8, interval=4).random_indices(10, generator()).max() == 9


def test_training_has_one_random_crop_and_tests_have_all_views():
    sampling = Sampling(clip_length=2, size=16, clips=2, crops=3)
    assert sampling.resized == 18
    clips = torch.randint(0, 256, (2, 2, 3, 18, 30), dtype=torch.uint8)
    assert sampling.random_view(clips[0], generator()).shape == (1, 2, 3, 16, 16)
    assert sampling.views(clips).shape == (6, 2, 3, 16, 16)
    middle = Sampling(clip_length=2, size=16, clips=2).views(clips)
    assert torch.equal(middle, sampling.views(clips)[1::3])


def test_half_of_the_training_clips_are_mirrored_unless_that_is_wrong():
    clip = torch.zeros(1, 3, 20, 20, dtype=torch.uint8)
    clip[..., :10] = 255
    mirrored = {
        flip: sum(
            float(
                Sampling(size=8, flip=flip).random_view(clip, generator().manual_seed(seed)).float().diff(dim=-1).sum()
            )
            > 0
            for seed in range(60)
        )
        for flip in (True, False)
    }
    assert 15 < mirrored[True] < 45
    assert mirrored[False] == 0


def test_bytes_become_numbers_up_to_one():
    assert unit_interval(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0.0, 0.2, 1.0])


def test_impossible_settings_are_refused():
    with pytest.raises(InputError, match="clip_length must be at least 1, found 0"):
        Sampling(clip_length=0)
    with pytest.raises(InputError, match="crops must be 1 or 3, found 2"):
        Sampling(crops=2)
