import pytest

from ommatid.data.rated_videos import LIST, PARTS, TABLE, RatedVideo, detect_rated_format, open_rated, rated_splits
from ommatid.errors import InputError

VIDEOS = ("a.yuv", "a_27.yuv", "a_42.yuv", "b.yuv", "b_27.yuv")
LINES = (
    "0 0 a.yuv a_27.yuv 0.21 3840 1920 300",
    "0 1 a.yuv a_42.yuv 0.64 3840 1920 300",
    "1 0 b.yuv b_27.yuv 0.33 7680 3840 250",
)


@pytest.fixture
def odv(tmp_path):
    """The lists as the data set's authors give them."""
    for name in VIDEOS:
        (tmp_path / name).touch()
    (tmp_path / LIST).write_text("".join(f"{line}\n" for line in LINES))
    (tmp_path / PARTS).write_text("0 \n1 \n")
    return tmp_path


def rated(root, reference, distorted, opinion):
    return RatedVideo(root / reference, root / distorted, opinion)


def test_vqa_odv_is_read_by_its_split_of_references(odv):
    assert (detect_rated_format(odv), rated_splits(odv)) == ("vqa-odv", ("train", "test"))
    assert open_rated(odv, "train") == [rated(odv, "a.yuv", "a_27.yuv", 0.21), rated(odv, "a.yuv", "a_42.yuv", 0.64)]
    assert open_rated(odv) == [rated(odv, "b.yuv", "b_27.yuv", 0.33)]


def test_without_the_second_list_all_is_to_test_with(odv):
    (odv / PARTS).unlink()
    assert rated_splits(odv) == ("test",)
    assert len(open_rated(odv)) == 3
    with pytest.raises(InputError, match=r"split: found 'train', expected one of those in .*: test"):
        open_rated(odv, "train")


def test_videos_may_have_another_suffix_than_listed(odv):
    (odv / "b_27.yuv").rename(odv / "b_27.mp4")
    assert open_rated(odv)[0].distorted == odv / "b_27.mp4"
    (odv / "b_27.mp4").unlink()
    with pytest.raises(InputError, match=r"VQA_ODV.txt, line 3: found no video .*b_27.yuv, expected it, or one of its"):
        open_rated(odv)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("0 0 a.yuv a_27.yuv 0.2", "line 4: found 5 columns, expected 8"),
        ("x 0 a.yuv a_27.yuv 0.2 1 1 1", "line 4: found the number 'x' of a reference"),
        ("0 0 a.yuv a_27.yuv good 1 1 1", "line 4: found 'good' for an opinion, expected a number"),
        ("0 0 a.yuv a_27.yuv nan 1 1 1", "line 4: found 'nan' for an opinion, expected a number"),
    ],
)
def test_a_line_that_is_no_rating_is_named(odv, line, sentence):
    (odv / LIST).write_text("".join(f"{each}\n" for each in (*LINES, line)))
    with pytest.raises(InputError, match=sentence):
        open_rated(odv, "train")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("0 1\n", "found 1 lines, expected 2 of whole numbers"),
        ("0 a\n1\n", "found 2 lines, expected 2 of whole numbers"),
        ("0 1\n1\n", "found 1 in both lines, expected each reference once"),
    ],
)
def test_a_split_that_is_none_is_named(odv, text, sentence):
    (odv / PARTS).write_text(text)
    with pytest.raises(InputError, match=f"{PARTS}: {sentence}"):
        open_rated(odv)


def test_a_split_without_ratings_is_named(odv):
    (odv / PARTS).write_text("0 1\n7\n")
    with pytest.raises(InputError, match="found no rated video in test, expected at least 1"):
        open_rated(odv)


def table(root, *lines):
    (root / TABLE).write_text("".join(f"{line}\n" for line in lines))
    return root


def test_a_table_of_ones_own(tmp_path):
    for name in ("a.mp4", "low, dark.mp4"):
        (tmp_path / name).touch()
    table(tmp_path, "reference, distorted,opinion", 'a.mp4,"low, dark.mp4", 61.5', "")
    assert (detect_rated_format(tmp_path), rated_splits(tmp_path)) == ("rated-csv", ("test",))
    assert open_rated(tmp_path) == [rated(tmp_path, "a.mp4", "low, dark.mp4", 61.5)]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ((), "ratings.csv: found the header '', expected reference,distorted,opinion"),
        (("a,b",), "ratings.csv: found the header 'a,b', expected reference,distorted,opinion"),
        (("reference,distorted,opinion", "a.mp4,1"), "ratings.csv, line 2: found 2 cells, expected 3"),
        (("reference,distorted,opinion", "a.mp4,b.mp4,1"), "ratings.csv, line 2: found no video .*a.mp4"),
        (("reference,distorted,opinion",), "found no rated video in test"),
    ],
)
def test_a_table_that_is_none_is_named(tmp_path, lines, sentence):
    with pytest.raises(InputError, match=sentence):
        open_rated(table(tmp_path, *lines))


def test_other_folders_and_formats_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"found neither VQA_ODV.txt nor ratings.csv, expected rated videos"):
        open_rated(tmp_path)
    with pytest.raises(InputError, match="unknown format of rated videos 'odv'"):
        open_rated(tmp_path, format="odv")
