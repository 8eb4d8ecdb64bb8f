"""Zero-shot data: the benchmark layout of both MATLAB versions, one's own tables, and every fault in one sentence."""

import h5py
import numpy as np
import pytest
import torch
from scipy.io import loadmat, savemat

from ommatid.data.worlds.attributes import AttributeWorld
from ommatid.data.zero_shot import (
    MinMax,
    ZeroShotSet,
    detect_zero_shot_format,
    open_zero_shot,
    read_attributes,
    read_feature_rows,
    read_table,
    unit_attributes,
    write_table,
    write_xlsa17,
    xlsa17,
)
from ommatid.errors import InputError


@pytest.fixture(scope="module")
def data():
    return AttributeWorld(
        seen=4, kept_back=2, unseen=2, train=3, test=2, feature_dim=6, attribute_dim=3, hidden_dim=5
    ).draw()


def same(read: ZeroShotSet, data: ZeroShotSet) -> None:
    torch.testing.assert_close(read.features, data.features)
    torch.testing.assert_close(read.attributes, data.attributes)
    assert torch.equal(read.labels, data.labels)
    assert read.class_names == data.class_names
    assert read.splits.keys() == data.splits.keys()
    assert all(torch.equal(read.splits[name], rows) for name, rows in data.splits.items())


# --- the benchmark layout ---


@pytest.fixture
def root(data, tmp_path):
    return write_xlsa17(data, tmp_path / "sets", "AWA2").parent


def change(root, name, **entries):
    """Entries of a file replaced, or removed where None."""
    path = root / "AWA2" / f"{name}.mat"
    content = {key: value for key, value in loadmat(path).items() if not key.startswith("__")} | entries
    savemat(path, {key: value for key, value in content.items() if value is not None})


def test_the_layout_is_that_of_the_benchmarks(root, data):
    images, described = (loadmat(root / "AWA2" / name) for name in ("res101.mat", "att_splits.mat"))
    assert images["features"].shape == (6, len(data))
    assert images["labels"].shape == (len(data), 1)
    assert images["labels"].min() == 1
    assert described["att"].shape == (3, 8)
    assert described["trainval_loc"].shape == (18, 1)
    assert described["trainval_loc"].min() == 1
    assert described["allclasses_names"][0, 0][0] == "seen 1"


def test_it_is_read_again_as_it_was_written(root, data):
    same(xlsa17(root), data)
    same(xlsa17(root, "AWA2"), data)
    same(xlsa17(root / "AWA2"), data)
    assert detect_zero_shot_format(root) == detect_zero_shot_format(root / "AWA2") == "xlsa17"


def write_mat73(folder, data):
    """As MATLAB 7.3 does it: a head of its own, then HDF5, axes reversed, names as references to characters."""
    folder.mkdir()
    with h5py.File(folder / "res101.mat", "w", userblock_size=512) as file:
        file["features"] = data.features.numpy()
        file["labels"] = (data.labels + 1).numpy()[None].astype(np.float64)
    with h5py.File(folder / "att_splits.mat", "w", userblock_size=512) as file:
        file["att"] = data.attributes.numpy()
        for name, rows in data.splits.items():
            file[f"{name}_loc"] = (rows + 1).numpy()[None].astype(np.float64)
        names = file.create_dataset("allclasses_names", (1, len(data.class_names)), dtype=h5py.ref_dtype)
        for number, name in enumerate(data.class_names):
            file[f"#refs#/{number}"] = np.array([[ord(letter)] for letter in name], dtype=np.uint16)
            names[0, number] = file[f"#refs#/{number}"].ref
    for path in folder.glob("*.mat"):
        with path.open("r+b") as file:
            file.write(b"MATLAB 7.3 MAT-file".ljust(116) + bytes(8) + b"\x00\x02IM")


def test_files_of_matlab_73_are_the_same_set(data, tmp_path):
    write_mat73(tmp_path / "CUB", data)
    same(xlsa17(tmp_path / "CUB"), data)
    (tmp_path / "CUB" / "res101.mat").write_bytes((tmp_path / "CUB" / "res101.mat").read_bytes()[:900])
    with pytest.raises(InputError, match=r"res101\.mat: not a readable MAT file"):
        xlsa17(tmp_path / "CUB")


def test_features_of_another_network_can_lie_beside(root, data):
    savemat(
        root / "AWA2/vit.mat", {"features": data.features.T.numpy() + 1, "labels": data.labels.numpy()[:, None] + 1}
    )
    torch.testing.assert_close(xlsa17(root, features="vit").features, data.features + 1)


def test_one_of_several_data_sets_is_named(root, data, tmp_path):
    write_xlsa17(data, root, "CUB")
    with pytest.raises(InputError, match="found AWA2, CUB, expected one data set; name it by dataset"):
        xlsa17(root)
    with pytest.raises(InputError, match=r"unknown data set in .* 'CUP': did you mean 'CUB'"):
        xlsa17(root, "CUP")
    with pytest.raises(InputError, match=r"found no att_splits\.mat"):
        xlsa17(tmp_path)


def test_without_splits_for_choosing_the_list_of_classes_says_which(root, data):
    change(root, "att_splits", train_loc=None, val_loc=None)
    assert set(xlsa17(root).splits) == {"trainval", "test_seen", "test_unseen"}
    assert xlsa17(root).kept_back().tolist() == [4]  # every fifth of six
    (root / "AWA2/valclasses1.txt").write_text("kept back 2\nkept back 1\n")
    same(xlsa17(root), data)
    (root / "AWA2/valclasses1.txt").write_text("okapi\n")
    with pytest.raises(InputError, match=r"valclasses1\.txt: found 'okapi', expected names of classes"):
        xlsa17(root)


def test_the_files_own_train_split_may_hold_test_samples(root, data):
    """That of the official files does."""
    seen = data.splits["test_seen"][data.labels[data.splits["test_seen"]] < 4]
    rows = torch.cat([data.splits["train"], seen])
    change(root, "att_splits", train_loc=(rows[:, None] + 1).numpy())
    assert len(xlsa17(root).splits["train"]) == 12 + 8


FAULTS = {
    "no entry": ("res101", {"labels": None}, r"res101\.mat: found no entry 'labels', expected features, labels"),
    "no splits": ("att_splits", {"test_seen_loc": None}, "found no entry 'test_seen_loc'"),
    "text": ("res101", {"features": "abc"}, r"features is of shape \(1,\) and type <U3, expected a table of numbers"),
    "labels from 0": (
        "res101",
        {"labels": np.zeros((34, 1))},
        "labels 1 is 0, expected the number of a class from 1 to 8",
    ),
    "too large a label": ("res101", {"labels": np.full((34, 1), 9)}, "labels 1 is 9, expected the number of a class"),
    "no whole numbers": (
        "res101",
        {"labels": np.full((34, 1), 1.5)},
        "labels is of type float64, expected whole numbers",
    ),
    "too few labels": ("res101", {"labels": np.ones((3, 1))}, "found 3 labels of 34 samples, expected one each"),
    "not finite": ("res101", {"features": np.full((6, 34), np.nan)}, "features: sample 0 has NaN or infinite values"),
    "attributes": ("att_splits", {"att": np.full((3, 8), np.inf)}, "attributes: class 0 has NaN or infinite values"),
    "rows": ("att_splits", {"trainval_loc": np.array([[35]])}, "trainval_loc 1 is 35, expected the number of a sample"),
    "names": ("att_splits", {"allclasses_names": np.array([["a"]], dtype=object)}, "class_names: found 1, expected 8"),
    "twice": ("att_splits", {"trainval_loc": np.array([[1], [1]])}, "trainval has a sample more than once"),
    "leak": ("att_splits", {"test_seen_loc": np.array([[1]])}, "trainval and test_seen have samples in common"),
    "seen": ("att_splits", {"test_unseen_loc": np.array([[19]])}, "trainval and test_unseen have classes in common"),
    "unseen": ("att_splits", {"test_seen_loc": np.array([[34]])}, "test_seen has classes without training samples"),
    "val": ("att_splits", {"val_loc": np.array([[2]])}, "train and val have classes in common"),
    "only val": ("att_splits", {"train_loc": None}, "found 'val' without 'train', expected both or none"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_one_sentence(fault, root):
    name, entries, message = FAULTS[fault]
    change(root, name, **entries)
    with pytest.raises(InputError, match=message) as raised:
        xlsa17(root)
    assert str(root) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"nothing of a table", b"MATLAB 5.0 MAT-file" + bytes(200)])
def test_a_damaged_file_is_said(content, root):
    (root / "AWA2/res101.mat").write_bytes(content)
    with pytest.raises(InputError, match=r"res101\.mat: (not a readable MAT file|found no entry 'features')"):
        xlsa17(root)
    (root / "AWA2/res101.mat").unlink()
    with pytest.raises(InputError, match=r"res101\.mat: no such file"):
        xlsa17(root)


# --- one's own tables ---


@pytest.fixture
def mine(data, tmp_path):
    return write_table(data, tmp_path / "mine")


def test_tables_are_read_again_as_they_were_written(mine, data):
    same(read_table(mine), data)
    assert detect_zero_shot_format(mine) == "table"
    assert sorted(path.name for path in mine.iterdir()) == ["attributes.csv", "features.npy", "samples.csv"]


def test_the_tables_of_the_documentation(tmp_path):
    np.save(tmp_path / "features.npy", np.arange(6.0).reshape(3, 2))
    (tmp_path / "samples.csv").write_text("class,part\nzebra,train\nzebra,test\nokapi,test\n")
    (tmp_path / "attributes.csv").write_text(
        "class,stripes,hooves,tail length\nzebra,1,1,0.5\nhorse,0,1,0.7\nokapi,0.8,1,0.2\n"
    )
    data = open_zero_shot(tmp_path)
    assert data.seen.tolist() == [0]
    assert data.unseen.tolist() == [1, 2]  # of horses there is not even a test sample
    assert {name: rows.tolist() for name, rows in data.splits.items()} == {
        "trainval": [0],
        "test_seen": [1],
        "test_unseen": [2],
    }


LINES = {
    "header": ("samples.csv", 0, "class,split", "found the header 'class,split', expected 'class,part'"),
    "class": ("samples.csv", 2, "sen 1,train", "line 3: unknown class 'sen 1': did you mean 'seen 1'"),
    "part": ("samples.csv", 2, "seen 1,trian", "line 3: unknown part 'trian': did you mean 'train'"),
    "columns": ("samples.csv", 2, "seen 1", "line 3: found 1 columns, expected 2"),
    "number": ("attributes.csv", 2, "seen 2,1,x,0", "line 3: found 'x', expected a number"),
    "few": ("attributes.csv", 2, "seen 2,1,0", "line 3: found 3 columns, expected 4"),
    "name": ("attributes.csv", 2, "seen 1,1,0,0", "line 3: found 'seen 1', expected the name of a class, each once"),
    "nan": ("attributes.csv", 2, "seen 2,nan,0,0", "attributes: class 1 has NaN or infinite values"),
}


@pytest.mark.parametrize("fault", LINES)
def test_every_faulty_line_is_named(fault, mine):
    name, place, line, message = LINES[fault]
    lines = (mine / name).read_text().splitlines()
    lines[place] = line
    (mine / name).write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=message):
        read_table(mine)


def test_missing_rows_and_files_are_said(mine):
    lines = (mine / "samples.csv").read_text().splitlines()
    (mine / "samples.csv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(InputError, match=r"samples\.csv: found 33 samples, expected 34 as in features\.npy"):
        read_table(mine)
    for name in ("samples.csv", "features.npy", "attributes.csv"):
        (mine / name).unlink()
        with pytest.raises(InputError, match=rf"{name}: no such file"):
            read_table(mine)


def test_folders_that_hold_no_such_data(tmp_path, data, mine):
    with pytest.raises(InputError, match="no such folder"):
        open_zero_shot(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"found neither attributes\.csv nor att_splits\.mat"):
        open_zero_shot(tmp_path / "empty")
    with pytest.raises(InputError, match="unknown zero-shot format 'xlsa'"):
        open_zero_shot(mine, "xlsa")
    with pytest.raises(InputError, match="expected a new folder"):
        write_table(data, mine)


# --- features and attributes alone ---


def test_features_are_read_from_three_kinds_of_files(tmp_path):
    rows = np.array([[1.0, 2.0], [3.0, 4.5]])
    np.save(tmp_path / "a.npy", rows)
    np.savez(tmp_path / "b.npz", rows)
    np.savez(tmp_path / "c.npz", features=rows, other=rows[:1])
    (tmp_path / "d.csv").write_text("1,2\n3,4.5\n")
    (tmp_path / "e.csv").write_text("x,y\n1,2\n\n3,4.5\n")
    for path in tmp_path.iterdir():
        assert read_feature_rows(path, 2).tolist() == rows.tolist(), path
    np.save(tmp_path / "one.npy", rows[0])
    assert read_feature_rows(tmp_path / "one.npy", 2).tolist() == [[1.0, 2.0]]


def test_faulty_features_are_said(tmp_path):
    np.save(tmp_path / "wide.npy", np.ones((2, 3)))
    np.save(tmp_path / "nan.npy", np.array([[1.0, 2.0], [np.nan, 1.0]]))
    np.save(tmp_path / "words.npy", np.array(["a"]))
    np.save(tmp_path / "things.npy", np.array([None]), allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=np.ones((2, 2)), b=np.ones((2, 2)))
    (tmp_path / "short.csv").write_text("1,2\n3\n")
    (tmp_path / "word.csv").write_text("1,2\n3,x\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "damaged.npz").write_bytes(b"PK")
    for name, message in {
        "wide.npy": "found 3 features a sample, expected 2",
        "nan.npy": "sample 1 has NaN or infinite values",
        "words.npy": r"found shape \(1, 1\) and type <U1, expected a row of numbers",
        "things.npy": "not a readable array of numbers",
        "two.npz": "found the arrays a, b, expected one called 'features'",
        "short.csv": "line 2: found 1 numbers, expected 2",
        "word.csv": "line 2: found 'x', expected a number",
        "empty.csv": "expected",
        "damaged.npz": "not a readable archive of arrays",
        "none.npy": "no such file",
    }.items():
        with pytest.raises(InputError, match=message):
            read_feature_rows(tmp_path / name, 2)
    (tmp_path / "x.txt").write_text("1")
    with pytest.raises(InputError, match=r"expected \.npy, \.npz or \.csv"):
        read_feature_rows(tmp_path / "x.txt")


def test_a_table_of_new_classes_has_as_many_attributes_as_asked(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("class,a,b\nokapi,1,2\n")
    assert read_attributes(path, 2)[0] == ("okapi",)
    with pytest.raises(InputError, match="line 2: found 3 columns, expected 4"):
        read_attributes(path, 3)
    path.write_text("class,a,b\n")
    with pytest.raises(InputError, match="found no classes with attributes"):
        read_attributes(path, 2)


# --- scaling ---


def test_scaling_is_fitted_on_some_samples_and_leaves_constant_dimensions_at_zero():
    features = torch.tensor([[1.0, 7.0], [3.0, 7.0], [9.0, 8.0]])
    scale = MinMax.fit(features[:2])
    assert scale(features).tolist() == [[0.0, 0.0], [1.0, 0.0], [4.0, 0.0]]


def test_attributes_become_unit_vectors_and_nothing_stays_nothing():
    assert unit_attributes(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist() == [
        [0.6000000238418579, 0.800000011920929],
        [0, 0],
    ]
