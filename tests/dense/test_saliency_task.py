"""A saliency batch travels whole, and a prediction can be read and drawn."""

import json

import pytest
import torch
from PIL import Image

from dense.made_saliency import batch
from ommatid.data.clips import count_frames, read_frames
from ommatid.dense.saliency_draw import heated
from ommatid.dense.saliency_task import SaliencyMaps


def maps(frames=4, height=8):
    found = torch.zeros(frames, height, 2 * height)
    found[:, 0, 0] = 1.0
    return SaliencyMaps(torch.full((frames, 3, height, 2 * height), 90, dtype=torch.uint8), found, first=3, fps=12.5)


def test_windows_are_chosen_with_all_that_belongs_to_them():
    windows = batch(windows=3)
    chosen = windows[torch.tensor([2, 0])]
    assert len(chosen) == 2
    assert chosen.video.tolist() == [2, 0]
    assert torch.equal(chosen.patches[0], windows.patches[2])
    assert torch.equal(chosen.saliency[1], windows.saliency[0])


def test_peaks_are_places_on_the_sphere():
    found = maps()
    assert found.peaks()[0].tolist() == pytest.approx([78.75, 11.25])
    south = torch.zeros(1, 8, 16)
    south[0, 7, 15] = 1.0
    peak = SaliencyMaps(found.frames[:1], south).peaks()[0]
    assert peak.tolist() == pytest.approx([-78.75, 348.75])


def test_what_is_told_of_a_prediction_is_json():
    told = maps().to_json()
    assert json.loads(json.dumps(told)) == told
    assert (told["frames"], told["height"], told["width"], told["fps"]) == (4, 8, 16, 12.5)
    assert told["peaks"][1] == {"frame": 4, "latitude": 78.8, "longitude": 11.2}


def test_a_drawing_is_a_picture_or_a_film_by_its_ending(tmp_path):
    maps().draw(tmp_path / "found.png")
    assert Image.open(tmp_path / "found.png").size[0] > 300
    maps(frames=5, height=16).draw(tmp_path / "found.mp4")
    assert count_frames(tmp_path / "found.mp4") == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found.mp4", "found.png"]
    first = read_frames(tmp_path / "found.mp4", [0])[0]
    assert first.shape == (3, 16, 32)


def test_frames_shine_where_maps_are_high_and_stay_as_they_are_elsewhere():
    found = maps()
    shown = heated(found.frames, found.maps)
    assert (shown[:, 1:] == 90).all()
    assert (shown[:, 0, 0].float() - 90).abs().max() > 50
