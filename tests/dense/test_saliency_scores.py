"""Frames are scored one by one, videos as means over their frames."""

import pytest
import torch

from ommatid.dense.saliency_metrics import correlation, latitude_weights, saliency_metrics
from ommatid.dense.saliency_scores import VideoScores, frame_identity, frame_scores, share_at_high_latitude

GENERATOR = torch.Generator().manual_seed(0)
PREDICTED, DENSITY = torch.rand(2, 5, 16, 32, generator=GENERATOR) ** 6
FRAMES = torch.tensor([3, 1, 4, 15, 9])


def test_videos_count_alike_however_long_they_are():
    scores = VideoScores()
    identity = frame_identity(torch.tensor([0] * 9 + [1]), torch.arange(10))
    scores.update(identity, {"CC": torch.tensor([0.0] * 9 + [1.0]), "CC_high": torch.tensor([torch.nan] * 9 + [0.25])})
    assert scores.compute() == {"CC": 0.5, "CC_high": 0.25}


def test_what_no_frame_has_is_no_score():
    scores = VideoScores()
    scores.update(FRAMES, {"CC": torch.ones(5), "CC_high": torch.full((5,), torch.nan)})
    assert scores.compute() == {"CC": 1.0}
    nothing = VideoScores()
    nothing.update(torch.zeros(0, dtype=torch.long), frame_scores(PREDICTED[:0], DENSITY[:0], FRAMES[:0]))
    assert nothing.compute() == {}


def test_a_frame_is_scored_alike_in_every_company():
    together = frame_scores(PREDICTED, DENSITY, FRAMES)
    order = torch.tensor([4, 2])
    apart = frame_scores(PREDICTED[order], DENSITY[order], FRAMES[order])
    for name, values in together.items():
        assert torch.equal(values[order].nan_to_num(), apart[name].nan_to_num()), name


def test_scores_are_those_of_the_metrics():
    found = frame_scores(PREDICTED, DENSITY, FRAMES)
    metrics = saliency_metrics(PREDICTED, DENSITY, ("cc", "sim", "nss", "kld"))
    for ours, theirs in (("CC", "cc"), ("SIM", "sim"), ("NSS", "nss"), ("KLD", "kld")):
        assert torch.equal(found[ours], metrics[theirs])
    expected = correlation(PREDICTED, DENSITY, latitude_weights(16, 32))
    assert torch.equal(found["sphere_CC"], expected)
    assert {"AUC_Judd", "AUC_Borji", "CC_high"} <= set(found)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_maps_that_are_no_numbers_have_the_worst_scores(broken):
    """No better than the opposite of the truth; and what is scored beside them does not notice."""
    maps, place = PREDICTED.clone(), torch.tensor([1, 4])
    maps[1, 3, 5], maps[4] = broken, broken
    found, fair = frame_scores(maps, DENSITY, FRAMES), frame_scores(PREDICTED, DENSITY, FRAMES)
    opposite = frame_scores(DENSITY.amax() - DENSITY, DENSITY, FRAMES)
    for name, values in found.items():
        assert torch.equal(values[[0, 2, 3]].nan_to_num(), fair[name][[0, 2, 3]].nan_to_num()), name
        # Fixations are their own false alarms (E17), which takes a few pixels from the opposite's area.
        worse = values >= opposite[name] if name == "KLD" else values <= opposite[name] + 1e-2
        assert (worse | opposite[name].isnan())[place].all(), name
    for name, worst in {"CC": -1, "sphere_CC": -1, "SIM": 0, "AUC_Judd": 0, "AUC_Borji": 0}.items():
        assert found[name][place].tolist() == [worst] * 2
    scores = VideoScores()
    scores.update(FRAMES, frame_scores(torch.full_like(PREDICTED, broken), DENSITY, FRAMES))
    assert scores.compute()["CC"] == -1


def test_high_latitudes_are_those_of_what_people_look_at():
    maps = torch.zeros(3, 16, 32)
    maps[0, 1, 5] = maps[1, 8, 5] = maps[2, 14, 5] = 1.0
    assert share_at_high_latitude(maps).tolist() == [1, 0, 1]
    found = frame_scores(maps + 0.1 * PREDICTED[:3], maps, FRAMES[:3])
    assert found["CC_high"].isnan().tolist() == [False, True, False]
    assert float(found["CC_high"][0]) == pytest.approx(float(found["CC"][0]))


def test_a_row_near_the_pole_weighs_as_much_as_it_covers():
    maps = torch.zeros(1, 16, 32)
    maps[0, 0], maps[0, 8] = 1.0, 0.5
    weights = latitude_weights(16, 1).flatten()
    expected = weights[0] / (weights[0] + 0.5 * weights[8])
    assert float(share_at_high_latitude(maps)) == pytest.approx(float(expected))
