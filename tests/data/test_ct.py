"""The embedded CT: the map lies on its volume, and every class is in every split."""

import pytest
import torch

from ommatid.data.ct import ANCHORS, CLASSES, OTHERS, SLAB, SPLITS, ct, ct_slabs
from ommatid.errors import InputError


def test_organs_are_as_bright_as_they_are_in_bodies():
    found = ct()
    assert found.hu.shape == found.organs.shape == (112, 80, 112)
    assert found.organs.unique().tolist() == list(range(1 + len(found.names)))

    def mean(name):
        return float(found.hu[found.organs == 1 + found.names.index(name)].mean())

    assert 35 < mean("liver") < 55
    assert mean("lung_lower_lobe_right") < -140
    assert mean("vertebrae_L5") > 130
    assert 30 < mean("aorta") < 60


def test_left_is_left_and_the_head_is_up():
    found = ct()

    def middle(name):
        return (found.organs == 1 + found.names.index(name)).nonzero().float().mean(dim=0)

    assert middle("liver")[0] > middle("spleen")[0], "x grows to the right"
    assert middle("urinary_bladder")[1] > middle("sacrum")[1], "y grows to the front"
    assert middle("vertebrae_L1")[2] > middle("vertebrae_L5")[2], "z grows to the head"


def test_slabs_share_no_slice_and_every_split_has_every_class():
    assert sorted(number for slabs in SPLITS.values() for number in slabs) == list(range(112 // SLAB))
    for split, slabs in SPLITS.items():
        cases = ct_slabs(split)
        assert len(cases) == len(slabs)
        assert cases.class_names == tuple(CLASSES)
        present = torch.cat([each.labels.unique() for each in cases]).unique()
        assert present.tolist() == list(range(1 + len(CLASSES)))
    assert ct_slabs("train").anchors == tuple(ANCHORS)


def test_groups_take_up_organs_once():
    names = [beginnings for groups in (CLASSES, ANCHORS, OTHERS) for each in groups.values() for beginnings in each]
    for name in ct().names:
        assert sum(name.startswith(beginning) for beginning in names) <= 1, name
    for beginning in names:
        assert any(name.startswith(beginning) for name in ct().names), beginning


def test_a_slab_lies_where_it_was_cut():
    whole, slab = ct(), ct_slabs("test")[1]
    corner = slab.image.affine @ torch.tensor([0.0, 0, 0, 1], dtype=torch.double)
    place = torch.linalg.solve(whole.affine, corner)[:3]
    torch.testing.assert_close(place, torch.tensor([0.0, 0, SLAB * SPLITS["test"][1]], dtype=torch.double))
    with pytest.raises(InputError, match="unknown split"):
        ct_slabs("all")
