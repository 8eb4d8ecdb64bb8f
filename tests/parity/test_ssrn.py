"""SSRN's sampling of padded batches against the numbers recorded from the group's loader (E1-E3)."""

import pytest
import torch

from ommatid.grounding.sampling import siamese_indices, snap_sequences, take_means
from parity.fixture import load_fixture


@pytest.fixture(params=["anet", "tacos", "charades"])
def recorded(request):
    fixture = load_fixture("ssrn-sampling")
    if request.param not in fixture.config["T"]:
        pytest.skip(f"no {request.param} in this recording")
    return fixture, request.param, fixture.config["T"][request.param]


def sequences(fixture, name, steps, siamese=0):
    frames, clips = fixture.tensor(f"in/{name}_frames"), fixture.tensor(f"in/{name}_num").long()
    mask = torch.arange(frames.shape[1]) < clips[:, None]
    return frames, siamese_indices(mask, steps, siamese)


def test_a_padded_batch_is_sampled_as_its_videos_were(recorded):
    fixture, name, steps = recorded
    frames, index = sequences(fixture, name, steps, siamese=4)
    fixture.assert_close(take_means(frames, index)[:, 0], f"out/{name}_frames")


def test_boundaries_are_snapped_to_the_anchors_of_the_loader(recorded):
    fixture, name, steps = recorded
    _, index = sequences(fixture, name, steps)
    label, expected = fixture.tensor(f"in/{name}_label").long(), fixture.tensor(f"out/{name}_label").long()
    # The loader's slip: one end label is compared with the length that the video has only later.
    intended = label[:, 1] != steps - 1
    assert intended.any()
    assert torch.equal(snap_sequences(label, index)[:, 0][intended], expected[intended])
