"""Emotion annotations: the real files' published counts, faults record by record, the embedded world's files."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from ommatid.data.worlds.grounding import GroundingWorld
from ommatid.errors import InputError
from ommatid.grounding.emotions import (
    Clause,
    check_emotions,
    classes_of,
    emotion_instances,
    holds_emotions,
    read_emotions,
    runs,
    summarise_emotions,
)
from ommatid.grounding.formats import detect_format

REAL = Path(os.environ.get("OMMATID_REAL", Path(__file__).parents[3] / "shared" / "real")) / "tel"
TIMES = ["00:01:00.000-->00:01:02.500", "00:01:03.000-->00:01:04.000", "01:00:00.000-->01:00:01.000"]
DIALOG = ["Where are they? ", "I don't know.", "Dad!"]
TRAIN = {"emo": {"aversion ": 2}, "time": TIMES, "dialog": DIALOG}
TEST = {"emo": {"anger": {"segment": [2, 0]}}, "dialog_name": TIMES, "dialog": DIALOG}


@pytest.fixture
def folder(tmp_path):
    def write(train=TRAIN, test=TEST):
        for name, clip in {"train": train, "test": test}.items():
            (tmp_path / f"{name}.json").write_text(json.dumps({"tt1": {"scene-1": clip}}))
        return tmp_path

    return write


def test_the_real_files_have_their_published_counts():
    if not REAL.exists():
        pytest.skip(f"the annotation files of temporal emotion localisation are not in {REAL} (set OMMATID_REAL)")
    splits = read_emotions(REAL)
    train, test = (summarise_emotions(splits[name]) for name in ("train", "test"))
    assert (train["movies"], train["clips"], test["movies"], test["clips"]) == (38, 3561, 13, 1010)
    assert (test["labels"], test["runs"]) == (3003, 4109)
    assert sum(len(marked) for clip in splits["test"] for marked in clip.marked.values()) == 9805
    votes = {name: Counter(emotion for clip in clips for emotion in clip.votes) for name, clips in splits.items()}
    known = {"disquietment": (1253, 203), "aversion": (803, 200), "suffering": (102, 49), "confident": (539, 177)}
    assert {name: (votes["train"][name], votes["test"][name]) for name in known} == known
    classes = classes_of([*splits["train"], *splits["test"]])
    assert len(classes) == 18
    assert len(emotion_instances(splits["test"], classes)[0]) == 4109
    assert len(emotion_instances(splits["test"], classes, "hull")[0]) == 3003
    mended = Counter(fault.mended for fault in check_emotions(REAL))
    assert mended.keys() == {"cut off", "sorted"}
    assert mended["sorted"] == 342


def test_clips_are_read_with_times_in_seconds(folder):
    splits = read_emotions(folder())
    (train,), (test,) = splits["train"], splits["test"]
    assert (train.movie, train.name, train.votes, train.marked) == ("tt1", "scene-1", {"aversion": 2}, {})
    assert train.clauses[0] == Clause(60.0, 62.5, "Where are they?")
    assert train.clauses[2].start == 3600.0
    assert (test.votes, test.marked) == ({"anger": 2}, {"anger": (0, 2)})


def test_instances_are_runs_or_hulls_in_seconds(folder):
    test = read_emotions(folder())["test"]
    rows, spans = emotion_instances(test, ["anger"])
    assert rows.tolist() == [[0, 0], [0, 0]]
    assert spans.tolist() == [[60.0, 62.5], [3600.0, 3601.0]]
    assert emotion_instances(test, ["anger"], "hull")[1].tolist() == [[60.0, 3601.0]]


def test_runs_of_nothing_and_of_unordered_clauses():
    assert runs([]) == []
    assert runs([3, 1, 2, 2, 7]) == [(1, 3), (7, 7)]


def test_what_is_mended_is_reported(folder):
    assert sorted(fault.mended for fault in check_emotions(folder())) == ["cut off", "sorted"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"emo": {}}, "found emo {}, expected an object from emotion to its marks"),
        ({"emo": {"anger": {"segment": [3]}}}, "found anger in clause 3, expected clause numbers from 0 to 2"),
        ({"emo": {"anger": {"segment": []}}}, "expected a list 'segment' of clause numbers"),
        ({"emo": {"anger": {"segment": [True]}}}, "expected a list 'segment' of clause numbers"),
        ({"emo": {" ": {"segment": [0]}}}, "found an empty emotion, expected a text"),
        ({"dialog": DIALOG[:2]}, "found 3 times of 2 clauses, expected one time for each"),
        ({"dialog": [1, 2, 3]}, "found the clause 1, expected a text"),
        ({"dialog_name": ["soon", *TIMES[1:]]}, "found the time 'soon', expected hours:minutes:seconds"),
        ({"dialog_name": ["00:00:02-->00:00:01", *TIMES[1:]]}, "expected an end after the start"),
        ({"dialog_name": None}, "found dialog_name None, expected a list"),
    ],
)
def test_a_faulty_clip_is_one_sentence(folder, change, sentence):
    root = folder(test={**TEST, **change})
    with pytest.raises(InputError) as caught:
        read_emotions(root)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith(f"{root / 'test.json'}: tt1 scene-1: found ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("votes", [0, -1, True, "2", None])
def test_votes_are_numbers_above_zero(folder, votes):
    with pytest.raises(InputError, match="expected a number of marks above 0"):
        read_emotions(folder(train={**TRAIN, "emo": {"anger": votes}}))


def test_other_folders_and_damaged_files_are_told(tmp_path, folder):
    with pytest.raises(InputError, match=r"found neither train\.json nor test\.json"):
        read_emotions(tmp_path)
    folder()
    (tmp_path / "test.json").write_text('{"tt1": {')
    with pytest.raises(InputError, match="damaged JSON"):
        read_emotions(tmp_path)
    (tmp_path / "test.json").write_text('{"tt1": [1]}')
    with pytest.raises(InputError, match=r"tt1: found \[1\], expected an object from clip to annotation"):
        read_emotions(tmp_path)


def test_the_embedded_world_writes_this_format(tmp_path):
    GroundingWorld(view="emotion", seed=0).write(tmp_path / "world", format="emotion")
    assert holds_emotions(tmp_path / "world")
    assert not holds_emotions(tmp_path)
    splits = read_emotions(tmp_path / "world")
    assert [len(splits[name]) for name in ("train", "test")] == [600, 200]
    assert len(classes_of(splits["train"])) == 6
    # Written with the two quirks of the real files.
    assert {fault.mended for fault in check_emotions(tmp_path / "world")} == {"cut off", "sorted"}
    with pytest.raises(InputError, match="found emotions of clips, expected sentences with moments"):
        detect_format(tmp_path / "world")
