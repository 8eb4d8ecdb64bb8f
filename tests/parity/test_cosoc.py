"""Object seeking and the shared object concentrator against recorded numbers of the authors' code."""

import pytest
import torch
from einops import rearrange

from ommatid.nn.object_concentrator import SharedObjectConcentrator, unit_vectors
from ommatid.nn.object_seeking import crop_distances, relax_box, seek_objects
from parity.fixture import load_fixture

# --- clustering-based object seeking ---


@pytest.fixture
def sought():
    return load_fixture("cosoc-cos")


def found_crops(fixture):
    config = fixture.config
    settings = config["clusters"], config["coverage_threshold"], config["top_k"]
    return seek_objects(list(fixture.tensor("in/features")), *settings, as_released=True)


def test_clusters_are_met_in_the_recorded_share_of_images(sought):
    config = sought.config
    found = [
        crop_distances(features, config["clusters"], config["coverage_threshold"]).coverage
        for features in sought.tensor("in/features")
    ]
    sought.assert_close(torch.stack(found).sort(dim=1, descending=True).values, "out/cluster_fractions_sorted")


def test_the_recorded_crops_are_found(sought):
    found = found_crops(sought)
    assert torch.equal(torch.stack([each.crops for each in found]), sought.tensor("out/selected_crops"))
    sought.assert_close(torch.stack([each.distances for each in found]), "out/crop_distances")
    sought.assert_close(torch.stack([each.probabilities for each in found]), "out/sampling_probabilities")


def test_boxes_grow_as_recorded(sought):
    height, width = sought.array("in/image_hw").tolist()
    boxes, share = relax_box(sought.tensor("in/boxes"), sought.config["relax_ratio"], height, width)
    sought.assert_close(boxes, "out/relaxed_boxes")
    sought.assert_close(share, "out/area_ratio")


# --- shared object concentrator ---


@pytest.fixture(params=["cosoc-soc-1shot", "cosoc-soc-2shot"])
def concentrated(request):
    return load_fixture(request.param)


def split_episodes(fixture, vectors):
    """Supports as (episode, way, shot, crop, feature), queries as (episode, query, crop, feature)."""
    config = fixture.config
    episodes = rearrange(vectors, "(episode image) p d -> episode image p d", episode=config["episodes"])
    supports = config["way"] * config["shot"]
    support = rearrange(episodes[:, :supports], "e (shot way) p d -> e way shot p d", way=config["way"])
    return support, episodes[:, supports:]


def test_vectors_of_maps_are_the_recorded_ones(concentrated):
    concentrated.assert_close(unit_vectors(concentrated.tensor("in/patches")), "out/patch_features")


@pytest.mark.parametrize(("as_released", "key"), [(False, "out/scores"), (True, "out/scores_released")])
def test_scores_are_the_recorded_ones(concentrated, as_released, key):
    config = concentrated.config
    support, query = split_episodes(concentrated, unit_vectors(concentrated.tensor("in/patches")))
    block = SharedObjectConcentrator(config["alpha"], config["beta"], as_released)
    concentrated.assert_close(block(support, query), key)


def test_every_recorded_array_is_compared(sought, concentrated):
    assert set(sought.tensors("out")) == {
        "cluster_fractions_sorted",
        "selected_crops",
        "crop_distances",
        "sampling_probabilities",
        "relaxed_boxes",
        "area_ratio",
    }
    assert set(concentrated.tensors("out")) == {"patch_features", "scores", "scores_released"}
