"""Lists of labelled videos: the official files as they are distributed, and one sentence for what is wrong in them."""

import json
from pathlib import Path

import pytest
from PIL import Image

from data.videos import grey, write_video
from ommatid.data.clip_lists import (
    CLIP_FORMATS,
    clip_splits,
    detect_clip_format,
    open_clips,
    read_clip_folder,
    read_clip_list,
    read_hmdb51,
    read_kinetics,
    read_something_v1,
    read_something_v2,
    read_ucf101,
)
from ommatid.data.clips import count_frames, read_frames
from ommatid.errors import InputError


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    folder = tmp_path_factory.mktemp("film")
    return write_video(folder / "film.mkv", [grey(20 * number) for number in range(4)], [0.0, 0.1, 0.2, 0.3])


@pytest.fixture
def place(film):
    """Puts the same small video at a path."""

    def put(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(film.read_bytes())
        return path

    return put


def place_frames(folder, template="img_%05d.jpg", frames=4):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, frames + 1):
        Image.fromarray(grey(20 * number)).save(folder / (template % number))
    return folder


def write(path, *lines, end="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}{end}" for line in lines).encode())
    return path


def shown(clips):
    """Name -> class name."""
    return {record.name: clips.class_names[record.label] for record in clips.records}


# Kinetics.

KINETICS = "label,youtube_id,time_start,time_end,split,is_cc"


@pytest.fixture
def kinetics(tmp_path, place):
    root = tmp_path / "k400"
    train = ("playing harp,0wR5jVB-WPk,417,427,train,0", '"testifying, loudly",---QUuC4vJs,84,94,train,0')
    write(root / "annotations" / "train.csv", KINETICS, *train)
    write(root / "annotations" / "val.csv", KINETICS, "abseiling,-0a1bCdEfGh,0,10,validate,1")
    write(root / "annotations" / "test.csv", "youtube_id,time_start,time_end,split", "zzz,1,11,test")
    place(root / "train" / "playing_harp" / "0wR5jVB-WPk_000417_000427.mp4")
    place(root / "train" / "---QUuC4vJs.mp4")
    place(root / "val" / "-0a1bCdEfGh_000000_000010.mkv")
    return root


def test_kinetics_finds_its_videos_in_class_folders_or_not(kinetics):
    assert detect_clip_format(kinetics) == "kinetics"
    assert clip_splits(kinetics) == ("train", "val")
    train, val = open_clips(kinetics), open_clips(kinetics, "val")
    assert train.class_names == val.class_names == ("abseiling", "playing harp", "testifying, loudly")
    assert shown(train) == {"0wR5jVB-WPk_000417_000427": "playing harp", "---QUuC4vJs": "testifying, loudly"}
    assert shown(val) == {"-0a1bCdEfGh_000000_000010": "abseiling"}
    assert [record.frames for record in train.records] == [None, None]
    assert count_frames(train.records[0].path) == 4


def test_kinetics_reads_a_file_of_its_own_with_given_classes(kinetics):
    file = kinetics / "annotations" / "val.csv"
    assert read_kinetics(file, kinetics).class_names == ("abseiling",)
    clips = read_kinetics(file, kinetics, class_names=("zumba", "abseiling"))
    assert clips.records[0].label == 1
    assert len(read_kinetics(file, kinetics, split="train")) == 0
    with pytest.raises(InputError, match=r"val\.csv, line 2: found the class 'abseiling', expected one of the 1 given"):
        read_kinetics(file, kinetics, class_names=("zumba",))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("clapping,,1,11,train,0", "found no youtube_id"),
        (",abc,1,11,train,0", "found no label"),
        ("clapping,abc,soon,11,train,0", "found the times 'soon' and '11', expected seconds"),
        ("clapping,abc", "found the times None and None, expected seconds"),
    ],
)
def test_faulty_rows_of_kinetics_are_named(kinetics, row, said):
    file = write(kinetics / "faulty.csv", KINETICS, "clapping,abc,1,11,train,0", row)
    with pytest.raises(InputError, match=rf"faulty\.csv, line 3: {said}"):
        read_kinetics(file, kinetics)


# Something-Something.

V2_LABELS = {
    "Approaching something with your camera": "0",
    "Holding something": "1",
    "Putting something on something": "2",
}


@pytest.fixture
def something_v2(tmp_path, place):
    root = tmp_path / "v2"
    entries = [
        {
            "id": "78687",
            "label": "holding potato",
            "template": "Holding [something]",
            "placeholders": ["potato"],
        },
        {
            "id": "42326",
            "label": "putting cup on table",
            "template": "Putting [something] on [something]",
            "placeholders": ["cup", "table"],
        },
    ]
    folder = root / "labels"
    folder.mkdir(parents=True)
    (folder / "something-something-v2-labels.json").write_text(json.dumps(V2_LABELS))
    (folder / "something-something-v2-train.json").write_text(json.dumps(entries))
    (folder / "something-something-v2-validation.json").write_text(json.dumps(entries[:1]))
    (folder / "something-something-v2-test.json").write_text(json.dumps([{"id": "1420"}]))
    place(root / "20bn-something-something-v2" / "78687.webm")
    place_frames(root / "20bn-something-something-v2" / "42326", "%06d.jpg")
    return root


def test_something_v2_maps_templates_without_brackets(something_v2):
    assert detect_clip_format(something_v2) == "something-v2"
    assert clip_splits(something_v2) == ("train", "val")
    train, val = open_clips(something_v2), open_clips(something_v2, "val")
    assert train.class_names == val.class_names == tuple(V2_LABELS)
    assert [(record.name, record.label) for record in train.records] == [("78687", 1), ("42326", 2)]
    assert shown(val) == {"78687": "Holding something"}
    for record in train.records:
        assert read_frames(record.path, [0, 3]).shape == (2, 3, 32, 48)


def test_faulty_entries_of_something_v2_are_named(something_v2):
    file, labels = something_v2 / "own.json", something_v2 / "labels" / "something-something-v2-labels.json"
    good = {"id": "78687", "template": "Holding [something]"}
    for entry, said in (
        ({"id": "1420"}, "expected an id and a template"),
        ("1420", "found '1420', expected an id and a template"),
        ({"id": "1", "template": "Eating [something]"}, "found the template 'Eating something', expected one of"),
    ):
        file.write_text(json.dumps([good, entry]))
        with pytest.raises(InputError, match=rf"own\.json, entry 2: .*{said}"):
            read_something_v2(file, labels, something_v2)
    file.write_text('[\n{"id": "1",\n]')
    with pytest.raises(InputError, match=r"own\.json: not readable as JSON \(line 3: .*\), expected a list"):
        read_something_v2(file, labels, something_v2)
    file.write_text("{}")
    with pytest.raises(InputError, match=r"own\.json: found a dict, expected a list"):
        read_something_v2(file, labels, something_v2)
    file.write_text(json.dumps({"Holding something": "1"}))
    with pytest.raises(InputError, match=r"own\.json: found no template with the index 0, expected 0 to 0"):
        read_something_v2(file, file, something_v2)


@pytest.fixture
def something_v1(tmp_path):
    root = tmp_path / "v1"
    name = "something-something-v1"
    write(root / f"{name}-labels.csv", "Holding something", "Turning something upside down", "Covering something")
    write(root / f"{name}-train.csv", "100218;Turning something upside down", "24413;Covering something")
    write(root / f"{name}-validation.csv", "24413;Covering something")
    write(root / f"{name}-test.csv", "105723")
    for video in ("100218", "24413"):
        place_frames(root / "20bn-something-something-v1" / video, "%05d.jpg")
    return root


def test_something_v1_numbers_its_templates_by_the_alphabet(something_v1):
    assert detect_clip_format(something_v1) == "something-v1"
    assert clip_splits(something_v1) == ("train", "val")
    train = open_clips(something_v1)
    assert train.class_names == ("Covering something", "Holding something", "Turning something upside down")
    assert [(record.name, record.label) for record in train.records] == [("100218", 2), ("24413", 0)]
    assert read_frames(train.records[1].path, [3]).shape == (1, 3, 32, 48)


def test_faulty_rows_of_something_v1_are_named(something_v1):
    labels = something_v1 / "something-something-v1-labels.csv"
    for row in ("105723", "1;Eating something", ";Holding something"):
        file = write(something_v1 / "own.csv", "24413;Covering something", "", row)
        with pytest.raises(InputError, match=r"own\.csv, line 3: found .*, expected id;template"):
            read_something_v1(file, labels, something_v1)


# UCF101 and HMDB51.


@pytest.fixture(params=["\n", "\r\n"])
def ucf101(tmp_path, place, request):
    root = tmp_path / "ucf"
    lists = root / "ucfTrainTestlist"
    write(lists / "classInd.txt", "1 ApplyEyeMakeup", "2 HandstandPushups", end=request.param)
    makeup, push = "ApplyEyeMakeup/v_ApplyEyeMakeup_g0{}_c01.avi", "HandstandPushups/v_HandStandPushups_g0{}_c01.avi"
    write(lists / "trainlist01.txt", f"{makeup.format(8)} 1", f"{push.format(8)} 2", end=request.param)
    write(lists / "testlist01.txt", makeup.format(1), push.format(1), end=request.param)
    write(lists / "trainlist02.txt", f"{makeup.format(1)} 1", end=request.param)
    write(lists / "testlist02.txt", makeup.format(8), end=request.param)
    for group in (1, 8):
        place(root / "UCF-101" / makeup.format(group))
        place_frames(root / "UCF-101" / push.format(group).removesuffix(".avi"), "image_%04d.jpg")
    return root


def test_ucf101_reads_the_lists_of_each_fold(ucf101):
    assert detect_clip_format(ucf101) == "ucf101"
    assert clip_splits(ucf101) == ("train", "test")
    train, test = open_clips(ucf101), open_clips(ucf101, "test")
    assert train.class_names == ("ApplyEyeMakeup", "HandstandPushups")
    assert [(record.name, record.label) for record in train.records] == [
        ("v_ApplyEyeMakeup_g08_c01", 0),
        ("v_HandStandPushups_g08_c01", 1),
    ]
    assert [record.label for record in test.records] == [0, 1]
    assert [count_frames(record.path) for record in test.records] == [4, 4]
    assert list(shown(open_clips(ucf101, fold=2))) == ["v_ApplyEyeMakeup_g01_c01"]
    assert list(shown(open_clips(ucf101, "test", fold=2))) == ["v_ApplyEyeMakeup_g08_c01"]


def test_faults_in_the_lists_of_ucf101_are_named(ucf101):
    lists = ucf101 / "ucfTrainTestlist"
    with pytest.raises(InputError, match=r"trainlist03\.txt: found no such file"):
        read_ucf101(lists, ucf101, fold=3)
    with pytest.raises(InputError, match="unknown split 'val'"):
        read_ucf101(lists, ucf101, "val")
    for row, said in (
        ("Archery/v_Archery_g01_c01.avi 3", "expected Class/video.avi of a known class"),
        ("v_ApplyEyeMakeup_g08_c01.avi 1", "expected Class/video.avi of a known class"),
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 2", "found the label '2', expected 1"),
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "found the label '', expected 1"),
    ):
        write(lists / "trainlist01.txt", "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1", row)
        with pytest.raises(InputError, match=rf"trainlist01\.txt, line 2: .*{said}"):
            read_ucf101(lists, ucf101)
    write(lists / "classInd.txt", "1 ApplyEyeMakeup", "3 HandstandPushups")
    with pytest.raises(InputError, match=r"classInd\.txt, line 2: found '3 HandstandPushups', expected 2 and a class"):
        read_ucf101(lists, ucf101)


@pytest.fixture
def hmdb51(tmp_path, place):
    root = tmp_path / "hmdb"
    lists = root / "testTrainMulti_7030_splits"
    brush = ["April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "#20_Rhythm_brush_hair_u_nm_np1_fr_goo_0.avi", "same.avi"]
    write(lists / "brush_hair_test_split1.txt", f"{brush[0]} 1 ", f"{brush[1]} 2 ", f"{brush[2]} 1 ")
    write(lists / "brush_hair_test_split2.txt", f"{brush[0]} 0 ", f"{brush[1]} 1 ", f"{brush[2]} 2 ")
    for fold in (1, 2):
        write(lists / f"wave_test_split{fold}.txt", "same.avi 1 ", "old_man_wave_f_cm_np1_fr_med_0.avi 2 ")
    for video in brush:
        place(root / "hmdb51_org" / "brush_hair" / video)
    for video in ("same.avi", "old_man_wave_f_cm_np1_fr_med_0.avi"):
        place(root / "hmdb51_org" / "wave" / video)
    return root


def test_hmdb51_reads_the_flags_of_each_fold(hmdb51):
    assert detect_clip_format(hmdb51) == "hmdb51"
    assert clip_splits(hmdb51) == ("train", "test")
    train, test = open_clips(hmdb51), open_clips(hmdb51, "test")
    assert train.class_names == ("brush_hair", "wave")
    assert [(record.name, record.label) for record in train.records] == [
        ("April_09_brush_hair_u_nm_np1_ba_goo_0", 0),
        ("same", 0),
        ("same", 1),
    ]
    assert [record.label for record in test.records] == [0, 1]
    assert next(iter(shown(open_clips(hmdb51, fold=2)))).startswith("#20_Rhythm")


def test_videos_of_one_name_are_told_apart_by_their_class(hmdb51):
    assert [record.path.parent.name for record in open_clips(hmdb51).records] == ["brush_hair", "brush_hair", "wave"]


def test_faults_in_the_lists_of_hmdb51_are_named(hmdb51):
    lists = hmdb51 / "testTrainMulti_7030_splits"
    with pytest.raises(
        InputError, match=r"found no list of fold 3, expected files named like <class>_test_split3\.txt"
    ):
        read_hmdb51(lists, hmdb51, fold=3)
    for row in ("same.avi 3", "same.avi"):
        write(lists / "wave_test_split1.txt", row)
        with pytest.raises(
            InputError, match=r"wave_test_split1\.txt, line 1: found .*, expected video\.avi and 0, 1 or 2"
        ):
            read_hmdb51(lists, hmdb51)


# Working lists and folders.


def test_list_files_name_folders_of_frames_and_videos(tmp_path, place):
    place_frames(tmp_path / "frames" / "a b")
    place(tmp_path / "jump" / "one video.avi")
    place(tmp_path / "jump" / "two.mp4")
    write(tmp_path / "train_list.txt", "frames/a b 4 2", "jump/one video.avi 0", "", "jump/two.mp4 300 1")
    write(tmp_path / "val_list.txt", "frames/a b 4 3")
    assert detect_clip_format(tmp_path) == "list"
    assert clip_splits(tmp_path) == ("train", "val")
    train = open_clips(tmp_path)
    assert [(record.name, record.label, record.frames) for record in train.records] == [
        ("a b", 2, 4),
        ("one video", 0, None),
        ("two", 1, 300),
    ]
    assert all(record.path.exists() for record in train.records)
    assert train.class_names == open_clips(tmp_path, "val").class_names == ("0", "1", "2", "3")
    assert read_clip_list(tmp_path / "train_list.txt").class_names == ("0", "1", "2")
    write(tmp_path / "classes.txt", "jump", "run", "sit", "stand")
    assert shown(open_clips(tmp_path))["a b"] == "sit"


def test_lists_of_several_folds_are_chosen_by_their_number(tmp_path, place):
    for video in ("a.avi", "b.avi"):
        place(tmp_path / video)
    for fold, video in ((1, "a.avi"), (2, "b.avi")):
        write(tmp_path / f"train_video_split_{fold}.txt", f"{video} 0")
        write(tmp_path / f"val_video_split_{fold}.txt", f"{video} 0")
    assert [open_clips(tmp_path, "val", fold).records[0].name for fold in (1, 2)] == ["a", "b"]
    write(tmp_path / "my_train_1.txt", "a.avi 0")
    with pytest.raises(InputError, match=r"found a second list of train, expected one beside my_train_1\.txt"):
        open_clips(tmp_path)


@pytest.mark.parametrize(
    "row", ["a.avi", "a.avi -1", "a.avi one", "folder 3", "folder many 3", "folder 0 3", "folder -2 3", "7"]
)
def test_faulty_rows_of_lists_are_named(tmp_path, place, row):
    place(tmp_path / "a.avi")
    file = write(tmp_path / "train.txt", "a.avi 0", row)
    with pytest.raises(
        InputError, match=r"train\.txt, line 2: found .*, expected path, number of frames and label, or"
    ):
        read_clip_list(file)


def test_labels_without_a_class_are_named(tmp_path, place):
    place(tmp_path / "a.avi")
    file = write(tmp_path / "train.txt", "a.avi 0", "a.avi 2")
    with pytest.raises(InputError, match=r"train\.txt, line 2: found the label 2, expected 0 to 1 for 2 classes"):
        read_clip_list(file, class_names=("jump", "run"))


def test_folders_of_classes_with_and_without_splits(tmp_path, place):
    plain, divided = tmp_path / "plain", tmp_path / "divided"
    for root, splits in ((plain, ("",)), (divided, ("train", "val"))):
        for split in splits:
            place(root / split / "run" / "b.mp4")
            place(root / split / "jump" / "a.webm")
            place_frames(root / split / "jump" / "c.d")
            (root / split / "jump" / ".DS_Store").touch()
    place(divided / "test" / "run" / "z.mp4")
    assert detect_clip_format(plain) == detect_clip_format(divided) == "folder"
    assert clip_splits(plain) == ("train",)
    assert clip_splits(divided) == ("train", "val", "test")
    assert shown(open_clips(plain)) == {"a": "jump", "c.d": "jump", "b": "run"}
    assert shown(read_clip_folder(plain)) == shown(open_clips(divided, "val"))
    assert [(record.name, record.label) for record in open_clips(divided, "test").records] == [("z", 1)]
    with pytest.raises(InputError, match=r"^split: found 'val', expected one of those in .*plain: train$"):
        open_clips(plain, "val")
    with pytest.raises(InputError, match=r"^split: found none, expected one of train, val, test"):
        read_clip_folder(divided)


def test_faults_in_folders_of_classes_are_named(tmp_path, place):
    place(tmp_path / "train" / "run" / "a.mp4")
    place(tmp_path / "test" / "swim" / "a.mp4")
    with pytest.raises(InputError, match=r"swim: found a class that is none of the 1 classes of .*train"):
        read_clip_folder(tmp_path, "test")
    (tmp_path / "train" / "run" / "notes.txt").touch()
    with pytest.raises(InputError, match=r"notes\.txt: found the ending '\.txt', expected a video"):
        read_clip_folder(tmp_path, "train")
    (tmp_path / "train" / "jump" / "inner").mkdir(parents=True)
    with pytest.raises(InputError, match=r"inner: found a folder without images"):
        read_clip_folder(tmp_path, "train")
    (tmp_path / "train" / "jump" / "inner").rmdir()
    with pytest.raises(InputError, match=r"jump: found no videos, expected at least one for the class 'jump'"):
        read_clip_folder(tmp_path, "train")


# What holds for all.


def test_missing_videos_are_counted_and_the_first_is_named(tmp_path, kinetics, something_v2, something_v1, hmdb51):
    listed = tmp_path / "listed"
    write(listed / "train.txt", "a.avi 0", "b.avi 0", "c.avi 0")
    removed = [
        (kinetics, "train/playing_harp/0wR5jVB-WPk_000417_000427.mp4", "0wR5jVB-WPk_000417_000427", 2),
        (something_v2, "20bn-something-something-v2/78687.webm", "78687", 2),
        (hmdb51, "hmdb51_org/brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "April_09_brush_hair", 3),
    ]
    for root, path, name, count in removed:
        (root / path).unlink()
        with pytest.raises(InputError, match=rf": 1 of {count} videos are missing \(first: {name}"):
            open_clips(root)
        assert len(open_clips(root, skip_missing=True)) == count - 1
        assert name not in str(open_clips(root, skip_missing=True).records)
    with pytest.raises(InputError, match=r"train\.txt: 3 of 3 videos are missing \(first: .*a\.avi\)"):
        open_clips(listed, skip_missing=True)


def test_unusable_folders_and_formats_are_named(tmp_path):
    for use in (detect_clip_format, open_clips, clip_splits):
        with pytest.raises(InputError, match="nowhere: found nothing, expected a folder"):
            use(tmp_path / "nowhere")
        with pytest.raises(InputError, match="found no lists and no folders, expected one of the formats kinetics"):
            use(tmp_path)
    with pytest.raises(InputError, match="unknown clip format 'kinetic': did you mean 'kinetics'"):
        open_clips(tmp_path, format="kinetic")
    for format in CLIP_FORMATS:
        with pytest.raises(InputError):
            open_clips(tmp_path, format=format)


def test_missing_and_unreadable_lists_are_named(tmp_path):
    for read in (
        lambda file: read_clip_list(file),
        lambda file: read_kinetics(file, tmp_path),
        lambda file: read_something_v2(file, file, tmp_path),
        lambda file: read_something_v1(file, file, tmp_path),
    ):
        with pytest.raises(InputError, match=r"none\.txt: found no such file"):
            read(tmp_path / "none.txt")
        file = tmp_path / "bytes.txt"
        file.write_bytes(b"\xff\xfe\x00label,youtube_id\xff\n\xff")
        with pytest.raises(InputError, match=r"bytes\.txt"):
            read(file)


def test_a_list_that_starts_with_a_byte_order_mark_is_read(tmp_path, place):
    place(tmp_path / "a.avi")
    file = Path(tmp_path / "train.txt")
    file.write_text("a.avi 0\n", encoding="utf-8-sig")
    assert read_clip_list(file).records[0].name == "a"
