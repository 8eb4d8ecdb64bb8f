"""Raw data of nnU-Net, as its tools write them: cases, names, folds; and what is wrong with them in one sentence."""

import json

import numpy as np
import pytest
import torch

from ommatid.data.volumes import UNKNOWN, detect_volume_format, open_volumes, volume_splits
from ommatid.errors import InputError

nibabel = pytest.importorskip("nibabel")
AFFINE = np.diag([-1.5, -1.5, 5.0, 1.0])
NEW = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "4L": 1, "4R": 2},
    "numTraining": 6,
    "file_ending": ".nii.gz",
}


def save(path, data, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data, affine), path)


@pytest.fixture
def root(tmp_path):
    """Six cases to train with, one to test with; names as nnU-Net has them."""
    rng = np.random.default_rng(0)
    for suffix, cases in (("Tr", [f"lung_{number:03d}" for number in range(1, 7)]), ("Ts", ["lung_007"])):
        for case in cases:
            labels = rng.integers(0, 3, (6, 5, 4), dtype=np.uint8)
            save(tmp_path / f"images{suffix}" / f"{case}_0000.nii.gz", (labels * 100.0 - 50).astype(np.float32))
            save(tmp_path / f"labels{suffix}" / f"{case}.nii.gz", labels)
    describe(tmp_path, NEW)
    return tmp_path


def describe(root, content):
    (root / "dataset.json").write_text(json.dumps(content))


def test_cases_come_with_their_maps(root):
    assert detect_volume_format(root) == "nnunet"
    assert volume_splits(root) == ("train", "val", "test")
    files = open_volumes(root, "test")
    assert files.cases == ("lung_007",)
    assert files.class_names == ("4L", "4R")
    case = files[0]
    assert case.image.voxels.shape == case.labels.shape == (6, 5, 4)
    assert case.image.spacing.tolist() == [1.5, 1.5, 5.0]
    assert files.layout(0) == ((6, 5, 4), (1.5, 1.5, 5.0))
    torch.testing.assert_close(case.image.voxels, case.labels * 100.0 - 50)
    assert not case.organs.any()
    assert files.organ_names == ()


def test_organ_maps_are_a_second_folder(root):
    for suffix in ("Tr", "Ts"):
        for path in sorted((root / f"labels{suffix}").iterdir()):
            save(root / f"organs{suffix}" / path.name, np.full((6, 5, 4), 2, np.uint8))
    describe(root, {**NEW, "organs": {"trachea": 1, "oesophagus": 2}, "anchors": ["trachea"]})
    files = open_volumes(root, "train")
    assert files.organ_names == ("trachea", "oesophagus")
    assert files.anchors == ("trachea",)
    assert files[0].organs.unique().tolist() == [2]


def test_folds_are_those_of_the_file(root):
    folds = [{"train": ["lung_003", "lung_001"], "val": ["lung_002"]}, {"train": ["lung_002"], "val": ["lung_006"]}]
    (root / "splits_final.json").write_text(json.dumps(folds))
    assert open_volumes(root, "train", fold=0).cases == ("lung_001", "lung_003")
    assert open_volumes(root, "val", fold=1).cases == ("lung_006",)
    with pytest.raises(InputError, match=r"splits_final.json: found 2 folds, expected one numbered 2"):
        open_volumes(root, "train", fold=2)


def test_folds_are_made_as_nnunet_makes_them(root):
    """Five folds of sorted names with the seed 12345: each case is in val once."""
    found = [open_volumes(root, "val", fold=fold).cases for fold in range(5)]
    assert sorted(sum(found, ())) == [f"lung_{number:03d}" for number in range(1, 7)]
    assert found[0] == ("lung_004", "lung_006")
    assert not set(open_volumes(root, "train").cases) & set(found[0])


def test_the_older_form_and_the_decathlon_are_read(root):
    for path in sorted((root / "imagesTr").iterdir()):
        path.rename(path.with_name(path.name.replace("_0000", "")))
    describe(root, {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "4L", "2": "4R"}})
    assert detect_volume_format(root) == "decathlon"
    files = open_volumes(root, "train")
    assert files.class_names == ("4L", "4R")
    assert files[0].labels.max() == 2


def test_ignored_voxels_are_unknown(root):
    describe(root, {**NEW, "labels": {"background": 0, "4L": 1, "ignore": 2}})
    labels = open_volumes(root, "train")[0].labels
    assert labels.unique().tolist() == [0, 1, UNKNOWN]


@pytest.mark.parametrize("ignored", [5, 255, 1000])
def test_labels_that_nobody_named_are_refused_beside_ignored_ones(root, ignored):
    describe(root, {**NEW, "labels": {**NEW["labels"], "ignore": ignored}})
    labels = np.full((6, 5, 4), ignored, np.int16)
    save(root / "labelsTr" / "lung_002.nii.gz", labels)
    cases = open_volumes(root, "train")
    number = cases.cases.index("lung_002")
    assert cases[number].labels.unique().tolist() == [UNKNOWN]
    for other in (3, ignored - 1, ignored + 1):
        labels[0, 0, 0] = other
        save(root / "labelsTr" / "lung_002.nii.gz", labels)
        with pytest.raises(InputError, match=rf"found the label {other}, expected 0 to 2 or {ignored} as in dataset"):
            cases[number]


def test_a_part_without_labels_is_no_test_part(root):
    for path in (root / "labelsTs").iterdir():
        path.unlink()
    assert volume_splits(root) == ("train", "val")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"labels": {"background": 0, "4L": 2}}, r"found the numbers 0, 2 in labels, expected 0, 1, ... without gaps"),
        ({"labels": {"background": 0}}, "found the numbers 0 in labels"),
        ({"labels": {"background": 0, "all": [1, 2]}}, "found a region of several labels for 'all'"),
        ({"labels": {"background": 0, "4L": "x"}}, "found 'x' for '4L' in labels, expected a whole number"),
        ({"labels": ["background"]}, "found labels that are no names with numbers"),
        ({"labels": {"background": 0, "4L": 2, "ignore": 1}}, "found the numbers 0, 2"),
        ({"channel_names": {"0": "CT", "1": "PET"}}, "found 2 channels, expected 1"),
        ({"file_ending": ".mha"}, r"found file_ending '.mha', expected .nii.gz or .nii"),
        ({"anchors": ["trachea"]}, "found the anchor 'trachea', expected one of the organs"),
        ({"anchors": None}, "found None for anchors, expected a list of organs"),
        ({"anchors": 5}, "found 5 for anchors, expected a list of organs"),
        ({"channel_names": 3}, "found 3 for channel_names, expected {number: name}"),
        ({"channel_names": None}, "found None for channel_names, expected {number: name}"),
        ({"labels": {"background": 0, "4L": "²"}}, "found '²' for '4L' in labels, expected a whole number"),
        (
            {"labels": {"background": 0, "4L": "1" * 5000}},
            r"found '1+\.\.\. for '4L' in labels, expected a whole number",
        ),
    ],
)
def test_faulty_descriptions_are_told_in_one_sentence(root, content, sentence):
    describe(root, {**NEW, **content})
    with pytest.raises(InputError, match=rf"dataset.json: {sentence}"):
        open_volumes(root, "train")


@pytest.mark.parametrize(
    ("folds", "sentence"),
    [
        ([{"train": ["lung_009"], "val": ["lung_001"]}], "found the case 'lung_009' in train of fold 0"),
        ([{"train": ["lung_001"], "val": ["lung_001"]}], "found the case 'lung_001' in train and val of fold 0"),
        ([{"train": ["lung_001"], "val": []}], "found no cases in val of fold 0"),
        ({"train": []}, "found another form, expected a list of"),
        ([{"train": 3, "val": ["lung_001"]}], "found another form, expected a list of"),
        ([{"train": None, "val": ["lung_001"]}], "found another form, expected a list of"),
    ],
)
def test_faulty_folds_are_told_in_one_sentence(root, folds, sentence):
    (root / "splits_final.json").write_text(json.dumps(folds))
    with pytest.raises(InputError, match=rf"splits_final.json: {sentence}"):
        open_volumes(root, "train")


def test_what_does_not_fit_is_named(root):
    first = root / "labelsTr" / "lung_001.nii.gz"
    names = {case: number for number, case in enumerate(open_volumes(root, "train").cases)}

    def refused(sentence):
        with pytest.raises(InputError, match=sentence):
            open_volumes(root, "train")[0]

    save(first, np.full((6, 5, 4), 3, np.uint8))
    (root / "splits_final.json").write_text(json.dumps([{"train": ["lung_001"], "val": ["lung_002"]}]))
    assert names
    refused(r"lung_001.nii.gz: found the label 3, expected 0 to 2 as in dataset.json")
    save(first, np.zeros((6, 5, 3), np.uint8))
    refused(r"lung_001.nii.gz: found 6 x 5 x 3 voxels, expected 6 x 5 x 4 as .*_0000.nii.gz has")
    save(first, np.zeros((6, 5, 4), np.uint8), np.diag([1.5, 1.5, 5.0, 1.0]))
    refused(r"lung_001.nii.gz: found an affine that lies up to")
    first.unlink()
    refused(r"labelsTr: 1 of 6 maps are missing, expected one for each image \(first: lung_001.nii.gz\)")
    save(root / "labelsTr" / "lung_01.nii.gz", np.zeros((6, 5, 4), np.uint8))
    refused(r"lung_01.nii.gz: found a map without an image")
    (root / "dataset.json").write_text("{")
    refused(r"dataset.json: not readable as JSON")


def test_other_folders_are_told_in_one_sentence(root, tmp_path):
    with pytest.raises(InputError, match="unknown split 'trian'"):
        open_volumes(root, "trian")
    with pytest.raises(InputError, match="unknown format of volumes 'nnunetv3'"):
        open_volumes(root, "train", "nnunetv3")
    with pytest.raises(InputError, match="found nothing, expected a folder"):
        open_volumes(root / "none")
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match=r"found no imagesTr/\*.nii.gz beside dataset.json"):
        detect_volume_format(tmp_path / "other")
    for number in range(3, 7):
        for path in root.glob(f"*Tr/lung_00{number}*"):
            path.unlink()
    with pytest.raises(InputError, match=r"found 2 cases, expected at least 5 to make folds of, or splits_final\.json"):
        open_volumes(root, "train")
