"""Clip features from every layout users have; whatever is wrong with a file is said in one sentence."""

import json
import multiprocessing
import os
import pickle
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ommatid.data.features import FeatureStore
from ommatid.errors import InputError, MissingDependency

VIDEOS = {"v_one": (5, 4), "v_two": (9, 4), "v_three": (1, 4)}


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {vid: rng.normal(size=shape).astype(np.float32) for vid, shape in VIDEOS.items()}


def write(root, layout, arrays):
    root.mkdir(exist_ok=True)
    if layout in ("npy", "npy4d", "npy64"):
        for vid, array in arrays.items():
            shaped = array[:, None, None] if layout == "npy4d" else array
            np.save(root / f"{vid}.npy", shaped.astype(np.float64) if layout == "npy64" else shaped)
        return root
    if layout == "h5":
        for vid, array in arrays.items():
            with h5py.File(root / f"{vid}.h5", "w") as file:
                file["feature"] = array
        return root
    name = {"group": "sub_activitynet_v1-3.c3d.hdf5", "flat": "vgg_rgb_features.hdf5", "avi": "tall_c3d_features.hdf5"}
    with h5py.File(root / name[layout], "w") as file:
        for vid, array in arrays.items():
            if layout == "group":
                file.create_group(vid)["c3d_features"] = array
            else:
                file[vid + (".avi" if layout == "avi" else "")] = array
    return root / name[layout]


LAYOUTS = ["npy", "npy4d", "npy64", "h5", "group", "flat", "avi"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_float32_clips(layout, arrays, tmp_path):
    store = FeatureStore(write(tmp_path / "f", layout, arrays))
    assert sorted(store) == sorted(arrays)
    assert len(store) == 3
    assert store.dim == 4
    for vid, array in arrays.items():
        assert vid in store
        assert store[vid].dtype == torch.float32
        assert torch.equal(store[vid], torch.from_numpy(array))
        assert store.length(vid) == len(array)
    assert "v_four" not in store
    assert 3 not in store


@pytest.mark.parametrize("layout", ["group", "flat", "avi"])
def test_the_folder_around_one_file_of_all_videos_is_enough(layout, arrays, tmp_path):
    file = write(tmp_path / "f", layout, arrays)
    assert torch.equal(FeatureStore(file.parent)["v_two"], FeatureStore(file)["v_two"])


def test_video_endings_are_ignored_on_both_sides(arrays, tmp_path):
    with_ending = FeatureStore(write(tmp_path / "a", "avi", arrays))
    without = FeatureStore(write(tmp_path / "b", "npy", arrays))
    for store in (with_ending, without):
        assert torch.equal(store["v_one.avi"], store["v_one"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_store_survives_pickling_after_use(layout, arrays, tmp_path):
    store = FeatureStore(write(tmp_path / "f", layout, arrays))
    before = store["v_two"]
    assert torch.equal(pickle.loads(pickle.dumps(store))["v_two"], before)


def _sum_in_child(store, vid, queue):
    total = store[vid].sum().item()
    queue.put((total, store._open is None or store._open[0] == os.getpid()))


@pytest.mark.parametrize("layout", ["npy", "flat"])
def test_forked_workers_read_what_the_parent_reads_with_its_file_open(layout, arrays, tmp_path):
    store = FeatureStore(write(tmp_path / "f", layout, arrays))
    expected = store["v_two"].sum().item()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_sum_in_child, args=(store, "v_two", queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [queue.get(timeout=30) for _ in workers]
    for worker in workers:
        worker.join(30)
    # Values and, for hdf5, a handle of one's own: sharing the parent's goes wrong only sometimes.
    assert found == [(expected, True)] * 2
    assert store["v_two"].sum().item() == expected


def test_data_loader_workers_share_a_store(arrays, tmp_path):
    store = FeatureStore(write(tmp_path / "f", "group", arrays))
    store["v_one"]

    class Videos(torch.utils.data.Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, i):
            return store[sorted(arrays)[i]].sum()

    sums = [float(x) for x in torch.utils.data.DataLoader(Videos(), batch_size=None, num_workers=2)]
    assert sums == [float(store[vid].sum()) for vid in sorted(arrays)]


def test_lengths_come_from_the_side_file_without_opening_features(arrays, tmp_path):
    root = write(tmp_path / "f", "npy", arrays)
    (root / "feature_shapes.json").write_text(json.dumps({vid: len(a) for vid, a in arrays.items()}))
    store = FeatureStore(root)
    (root / "v_two.npy").write_bytes(b"")
    assert store.length("v_two") == 9


def test_a_sequence_shorter_than_the_side_file_says_is_refused(arrays, tmp_path):
    root = write(tmp_path / "f", "npy", arrays)
    (root / "feature_shapes.json").write_text(json.dumps({"v_two": 12}))
    with pytest.raises(InputError, match=r"v_two\.npy: found 9 clips, expected 12 as in feature_shapes.json"):
        FeatureStore(root)["v_two"]


@pytest.mark.parametrize("text", ["{", "[1]", '{"v_one": "5"}', '{"v_one": true}', "\x00"])
def test_a_damaged_side_file_is_named(text, arrays, tmp_path):
    root = write(tmp_path / "f", "npy", arrays)
    (root / "feature_shapes.json").write_text(text)
    with pytest.raises(InputError, match=r"feature_shapes\.json: .*expected"):
        FeatureStore(root)


def test_a_missing_video_is_answered_with_the_nearest_names(arrays, tmp_path):
    store = FeatureStore(write(tmp_path / "f", "npy", arrays))
    with pytest.raises(InputError, match="no features of video 'v_tow' among 3, the nearest are 'v_two'"):
        store["v_tow"]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[1.0, np.nan]]), "found NaN or infinite values in clip 0"),
        (np.array([[1.0, 1.0], [np.inf, 1.0]]), "found NaN or infinite values in clip 1"),
        (np.array([[1e300, 1.0]]), "found NaN or infinite values in clip 0"),
        (np.zeros((0, 4)), "expected"),
        (np.zeros((4, 0)), "expected"),
        (np.zeros(4), r"found an array of shape \(4,\), expected \(clips, channels\)"),
        (np.zeros(()), r"found an array of shape \(\)"),
        (np.zeros((3, 2, 4)), r"found an array of shape \(3, 2, 4\)"),
        (np.array([["a", "b"]]), "found values of type <U1, expected numbers"),
        (np.zeros((2, 2), complex), "found values of type complex128"),
        (np.zeros((2, 2), bool), "found values of type bool"),
        (np.array([[None]]), "expected an .npy file of clip features"),
    ],
)
def test_unusable_arrays_are_refused_with_file_and_finding(array, message, tmp_path):
    np.save(tmp_path / "v_bad.npy", array)
    with pytest.raises(InputError, match=rf"v_bad\.npy: .*{message}"):
        FeatureStore(tmp_path)["v_bad"]


def test_a_change_of_width_names_both_videos(arrays, tmp_path):
    root = write(tmp_path / "f", "npy", arrays)
    np.save(root / "v_wide.npy", np.zeros((3, 6)))
    with pytest.raises(InputError, match="video 'v_wide' has features of width 6, expected 4 as in 'v_one'"):
        FeatureStore(root)["v_wide"]


@pytest.mark.parametrize("layout", ["h5", "group", "flat"])
def test_a_truncated_hdf5_file_is_named(layout, arrays, tmp_path):
    root = write(tmp_path / "f", layout, arrays)
    file = root if root.is_file() else root / "v_two.h5"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"{file.name}: .*expected a complete hdf5 file"):
        FeatureStore(root)["v_two"]


def test_a_header_that_promises_more_than_the_file_holds_asks_for_no_memory(tmp_path):
    np.save(tmp_path / "v_big.npy", np.zeros((10, 10)))
    content = (tmp_path / "v_big.npy").read_bytes()
    (tmp_path / "v_big.npy").write_bytes(content.replace(b"(10, 10), }    ", b"(10, 1000000), "[:15].ljust(15)))
    with pytest.raises(InputError, match=r"v_big\.npy"):
        FeatureStore(tmp_path)["v_big"]


def test_pickled_objects_are_never_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (sys.exit, (3,))

    np.save(tmp_path / "v_bomb.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"v_bomb\.npy"):
        FeatureStore(tmp_path)["v_bomb"]


@pytest.mark.parametrize("make", ["missing", "empty", "text"])
def test_a_root_without_features_is_refused(make, tmp_path):
    root = tmp_path / "root"
    if make == "empty":
        root.mkdir()
    if make == "text":
        root.write_text("hello")
    with pytest.raises(InputError, match=r"root: .*expected"):
        FeatureStore(root)


def test_an_hdf5_group_without_a_known_dataset_is_refused(tmp_path):
    with h5py.File(tmp_path / "all.hdf5", "w") as file:
        file.create_group("v_one").create_group("deeper").create_group("still")
        file["v_one/other"] = np.zeros(3)
    with pytest.raises(InputError, match="video 'v_one': found 'deeper', 'other', expected a dataset called one of"):
        FeatureStore(tmp_path)["v_one"]


def test_a_video_id_that_is_no_text_is_refused(tmp_path):
    with h5py.File(tmp_path / "all.hdf5", "w") as file:
        file[b"\x80ne"] = np.zeros((3, 2))
    with pytest.raises(InputError, match=r"all\.hdf5: found the video id .*, expected UTF-8 text"):
        FeatureStore(tmp_path)


def test_without_h5py_the_extra_is_named(arrays, tmp_path, monkeypatch):
    file = write(tmp_path / "f", "flat", arrays)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingDependency, match=r"ommatid\[video\]"):
        FeatureStore(file)


def test_npy_folders_need_no_h5py(arrays, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert FeatureStore(write(tmp_path / "f", "npy", arrays))["v_one"].shape == (5, 4)


@pytest.mark.parametrize("layout", ["npy", "h5", "group", "flat"])
@settings(max_examples=int(os.environ.get("OMMATID_FUZZ", "100")), deadline=None)
@given(data=st.data())
def test_damaged_files_give_an_error_of_ours_or_finite_clips(layout, data):
    clean = {"v_one": np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)}
    with TemporaryDirectory() as folder:
        root = write(Path(folder) / "f", layout, clean)
        file = root if root.is_file() else next(root.iterdir())
        content = bytearray(file.read_bytes())
        # Damage gathers in the first bytes: that is where headers stand.
        end = data.draw(st.sampled_from([128, len(content)]))
        for _ in range(data.draw(st.integers(0, 4))):
            content[data.draw(st.integers(0, min(end, len(content)) - 1))] = data.draw(st.integers(0, 255))
        file.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
        try:
            store = FeatureStore(root)
            clips = [store[vid] for vid in store]
        except InputError as error:
            message = str(error)
        else:
            message = ""
            assert all(c.ndim == 2 and c.isfinite().all() for c in clips)
        assert "\n" not in message
