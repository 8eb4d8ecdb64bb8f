import pytest
import torch
from PIL import Image

from ommatid.transfer.zero_shot_draw import draw_found_classes, draw_latent_map
from ommatid.transfer.zero_shot_task import FoundClasses, LatentMap

CLASSES = [("okapi", 0.7), ("zebra", 0.2)]


@pytest.fixture
def map():
    return LatentMap(
        ["okapi", "quagga"], torch.randn(4, 2), torch.randn(10, 2), torch.arange(2).repeat(5), torch.randn(3, 2)
    )


@pytest.mark.parametrize("samples", [1, 2, 3, 9])
@pytest.mark.parametrize("with_map", [False, True])
def test_samples_are_drawn_with_and_without_a_map(samples, with_map, map, tmp_path):
    path = tmp_path / "found.png"
    figure = draw_found_classes([CLASSES] * samples, map if with_map else None, path)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles.count("generated samples of classes without images") == int(with_map)
    assert len([title for title in titles if title.startswith("sample ")]) == min(samples, 6)
    assert Image.open(path).width > 200


def test_a_map_names_its_classes_and_shows_what_there_is(map):
    (axis,) = draw_latent_map(map).axes
    assert [text.get_text() for text in axis.texts] == ["okapi", "quagga"]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["seen classes", "your samples"]
    none = LatentMap(map.class_names, map.seen, map.generated, map.labels, torch.zeros(0, 2))
    (axis,) = draw_latent_map(none).axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["seen classes"]


def test_a_prediction_is_drawn_and_read_by_programs(map, tmp_path):
    found = FoundClasses([CLASSES, CLASSES[:1]], map)
    found.draw(tmp_path / "found.png")
    assert (tmp_path / "found.png").stat().st_size > 1000
    assert found.to_json() == {
        "classes": [
            {"sample": 0, "class": "okapi", "probability": 0.7},
            {"sample": 0, "class": "zebra", "probability": 0.2},
            {"sample": 1, "class": "okapi", "probability": 0.7},
        ]
    }
