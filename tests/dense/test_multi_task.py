import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ommatid.data.surface_samples import decoded_normals
from ommatid.dense.multi_task import SceneBatch, ScenePrediction, class_colours, draw_scene, gain_over_single
from ommatid.errors import InputError

NAMES = ("wall", "floor", "bed")


def found(height=20, width=30):
    classes = torch.zeros(height, width, dtype=torch.long)
    classes[:, 20:] = 2
    normals = F.normalize(torch.randn(3, height, width, generator=torch.Generator().manual_seed(0)), dim=0)
    return ScenePrediction(torch.rand(3, height, width), classes, normals, NAMES)


def test_a_batch_travels_and_is_cut_as_one():
    batch = SceneBatch(
        torch.rand(3, 3, 4, 5),
        torch.zeros(3, 4, 5, dtype=torch.long),
        torch.rand(3, 3, 4, 5),
        torch.ones(3, 4, 5, dtype=torch.bool),
        torch.zeros(3, 1, 4, 5),
        torch.arange(3),
    )
    assert len(batch) == 3
    assert batch[torch.tensor([2, 0])].index.tolist() == [2, 0]
    assert batch.to("meta").normals_valid.device.type == "meta"


def test_a_prediction_tells_shares_of_classes_and_the_mean_direction():
    scene = found()
    told = scene.to_json()
    assert told["classes"] == {"wall": 0.6667, "bed": 0.3333}, "the largest first, and none that does not occur"
    assert list(told["classes"]) == ["wall", "bed"]
    assert (told["width"], told["height"]) == (30, 20)
    mean = scene.normals.mean(dim=(1, 2))
    assert told["normal"] == pytest.approx((mean / mean.norm()).tolist(), abs=1e-4)
    assert json.loads(json.dumps(told)) == told


def test_maps_beside_a_drawing_hold_what_was_predicted(tmp_path):
    scene = found()
    scene.draw(tmp_path / "room.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["room.classes.png", "room.normals.png", "room.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "room.classes.png")), scene.classes.numpy())
    encoded = torch.from_numpy(np.array(Image.open(tmp_path / "room.normals.png"))).permute(2, 0, 1)
    # A byte is a 128th of the way from -1 to 1.
    torch.testing.assert_close(decoded_normals(encoded), scene.normals, atol=1e-2, rtol=0)


def test_the_drawing_shows_classes_in_the_colours_of_the_legend():
    scene = found()
    axes = draw_scene(scene).axes
    assert [axis.get_title() for axis in axes] == ["image", "classes", "normals"]
    pixels = axes[1].images[0].get_array()
    legend = axes[1].get_legend()
    shown = {
        text.get_text(): patch.get_facecolor()
        for text, patch in zip(legend.get_texts(), legend.get_patches(), strict=True)
    }
    assert list(shown) == ["wall", "bed"]
    np.testing.assert_allclose(pixels[0, 0] / 255, shown["wall"][:3])
    np.testing.assert_allclose(pixels[0, 29] / 255, shown["bed"][:3])


def test_a_wall_that_faces_the_viewer_is_blue():
    scene = found()
    scene = ScenePrediction(scene.image, scene.classes, torch.eye(3)[2][:, None, None].expand(3, 20, 30), NAMES)
    np.testing.assert_allclose(draw_scene(scene).axes[2].images[0].get_array()[5, 5], [128, 128, 255], atol=1)


def test_sixty_classes_have_sixty_colours():
    assert len({tuple(colour) for colour in class_colours(60).tolist()}) == 60
    assert torch.equal(class_colours(61)[60], class_colours(61)[0])


def test_the_gain_is_measured_by_one_score_of_each_task():
    joint, single = {"mIoU": 0.36, "mean angle": 14.0, "PA": 0.1}, {"mIoU": 0.32, "mean angle": 16.0, "PA": 0.9}
    assert gain_over_single(joint, single) == pytest.approx(12.5)
    with pytest.raises(InputError, match="scores: found mIoU, expected those of the single tasks, mIoU, mean angle"):
        gain_over_single({"mIoU": 0.3}, single)
