"""Pictures of the field."""

import pytest
import torch
from PIL import Image

from ommatid.classification.draw import draw_classification, draw_sheet


def test_the_most_probable_class_stands_on_top_with_its_probability():
    figure = draw_classification(torch.rand(3, 8, 8), [("cat", 0.7), ("dog", 0.3)])
    bars = figure.axes[1].patches
    assert [bar.get_width() for bar in bars] == [0.3, 0.7]
    assert [label.get_text() for label in figure.axes[1].get_yticklabels()] == ["dog", "cat"]
    assert [text.get_text() for text in figure.axes[1].texts] == ["0.30", "0.70"]


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_shown_as_it_is(channels):
    image = torch.rand(channels, 5, 7)
    shown = draw_classification(image, [("cat", 1.0)]).axes[0].images[0]
    assert shown.get_array().shape == ((5, 7) if channels == 1 else (5, 7, 3))
    assert shown.get_clim() == (0, 1)
    assert float(shown.get_array().flat[0]) == pytest.approx(image[0, 0, 0].item())


@pytest.mark.parametrize("count", [1, 2, 7, 60])
def test_a_sheet_shows_every_image_once_with_its_caption(count):
    captions = [f"n{number}" for number in range(count)]
    figure = draw_sheet(torch.rand(count, 1, 4, 4), "recovered", captions=captions)
    filled = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in filled] == captions
    assert not any(axis.axison for axis in figure.axes)
    assert figure.get_suptitle() == "recovered"


def test_values_outside_of_the_unit_interval_are_clipped():
    figure = draw_sheet(torch.tensor([-1.0, 0.5, 3.0]).view(1, 1, 1, 3).expand(1, 3, 2, 3), "x")
    assert figure.axes[0].images[0].get_array()[0, :, 0].tolist() == [0.0, 0.5, 1.0]


def test_pictures_are_written_whole_in_the_format_of_their_ending(tmp_path):
    draw_sheet(torch.rand(2, 3, 4, 4), "x", tmp_path / "sheet.jpg")
    draw_classification(torch.rand(1, 4, 4), [("a", 1.0)], tmp_path / "deep" / "one.png")
    with Image.open(tmp_path / "sheet.jpg") as sheet, Image.open(tmp_path / "deep" / "one.png") as one:
        assert (sheet.format, one.format) == ("JPEG", "PNG")
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["one.png", "sheet.jpg"]
