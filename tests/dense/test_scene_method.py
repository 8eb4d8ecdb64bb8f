"""What all methods of scenes share; the rest of it is tested with `nddr-cnn`."""

import torch

from ommatid.dense.multi_task_data import SceneData
from ommatid.dense.nddr_cnn import NDDRCNN
from ommatid.dense.scene_method import SceneMethod, preprocessed


def test_caffes_networks_see_blue_first_and_no_mean():
    mean = torch.tensor([122.7, 116.7, 104.0]).view(1, 3, 1, 1) / 255
    images = mean + torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1) / 255
    torch.testing.assert_close(
        preprocessed(images, "caffe").flatten(), torch.tensor([3.0, 2.0, 1.0]), atol=1e-4, rtol=0
    )
    assert preprocessed(images, "none") is images


def test_names_of_classes_are_kept_with_the_network():
    data = SceneData(world={"train": 2, "val": 2, "test": 2, "size": 12})
    method = NDDRCNN(num_classes=len(data.class_names), backbone="plain", widths=[4, 6], head="linear")
    assert isinstance(method, SceneMethod)
    method.adopt(data)
    other = NDDRCNN(num_classes=len(data.class_names), backbone="plain", widths=[4, 6], head="linear")
    other.restore_extras(method.extras())
    assert other.class_names == list(data.class_names)
