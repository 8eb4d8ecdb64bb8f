"""Clips with subtitles as one batch, from the embedded world and from official files."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from ommatid.data.sentences import SentenceEncoder
from ommatid.data.worlds.grounding import GroundingWorld
from ommatid.errors import InputError
from ommatid.grounding.emotion_data import (
    EmotionData,
    all_clauses,
    collate,
    make_sample,
    mean_over_units,
    random_runs,
    silences,
    write_subtitles,
)
from ommatid.grounding.emotions import Clause, runs

REAL = Path(os.environ.get("OMMATID_REAL", Path(__file__).parents[3] / "shared" / "real")) / "tel"
SIZES = {"train_clips": 40, "test_clips": 6, "held_out": 1, "batch_size": 8}


@pytest.fixture(scope="module")
def data():
    return EmotionData(**SIZES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("emotions") / "set"
    GroundingWorld("emotion", train_videos=40, test_videos=6).write(root)
    return root


# --- batches ---


def test_a_batch_holds_units_labels_and_where_the_truth_is(data):
    batch = data.first_batch("test", 6)
    for row in range(6):
        clip = data.clips["test"][row]
        assert int(batch.heard[row].sum()) == len(clip.clauses)
        assert [data.classes[i] for i in batch.labels[row].nonzero()[:, 0].tolist()] == sorted(clip.votes)
        expected = {
            (data.classes.index(name), clip.clauses[first].start, clip.clauses[last].end)
            for name, marked in clip.marked.items()
            for first, last in runs(marked)
        }
        known = batch.true_labels[row] >= 0
        found = zip(batch.true_labels[row][known].tolist(), *batch.true_spans[row][known].T.tolist(), strict=True)
        assert {(label, round(start, 3), round(end, 3)) for label, start, end in found} == expected


def test_silences_are_units_of_the_video_alone(data):
    batch = data.first_batch("train", 8)
    silent = batch.mask & ~batch.heard
    assert silent.any()
    assert (batch.text[silent] == 0).all()
    length = batch.times[..., 1] - batch.times[..., 0]
    assert (length[silent] > 2).all()
    assert (batch.times[:, 1:, 0] >= batch.times[:, :-1, 0])[batch.mask[:, 1:]].all()


def test_training_knows_clips_only_and_validation_has_movies_of_its_own(data):
    for split in ("train", "val"):
        assert (data.first_batch(split, 8).true_labels == -1).all()
    movies = {split: {clip.movie for clip in clips} for split, clips in data.clips.items()}
    assert len(movies["val"]) == 1
    assert not movies["val"] & movies["train"]


def test_without_a_video_there_are_clauses_alone():
    clauses = [Clause(0.0, 1.0, "a"), Clause(9.0, 10.0, "b")]
    nothing = torch.zeros(0, 2), torch.zeros(0, dtype=torch.long)
    sample = make_sample(clauses, torch.ones(2, 3), None, torch.zeros(4), nothing, 0)
    batch = collate([sample])
    assert batch.times[0].tolist() == [[0, 1], [9, 10]]
    assert batch.heard.all()
    assert not batch.seen.any()
    with pytest.raises(InputError, match="found 3 rows, expected one for each of 2 clauses"):
        make_sample(clauses, torch.ones(3, 3), None, torch.zeros(4), nothing, 0)


def test_overlapping_clauses_leave_no_silence():
    assert len(silences(torch.tensor([[0.0, 9.0], [1.0, 2.0], [8.0, 10.0]]))) == 0


def test_a_unit_shorter_than_a_frame_has_the_frame_it_lies_in():
    frames = torch.tensor([[1.0], [2.0], [3.0]])
    features, seen = mean_over_units(frames, 1.0, torch.tensor([[1.05, 1.1], [1.6, 1.7], [3.5, 4.0]]))
    assert features[:2, 0].tolist() == [2.0, 2.0]
    assert seen.tolist() == [True, True, False]


# --- files ---


def test_files_tell_what_the_world_tells(data, folder):
    files = EmotionData(str(folder), held_out=1, batch_size=8)
    assert files.classes == data.classes
    ours, theirs = data.first_batch("test", 6), files.first_batch("test", 6)
    names, mine = ([(clip.movie, clip.name) for clip in each.clips["test"]] for each in (files, data))
    theirs = theirs[torch.tensor([names.index(name) for name in mine])]
    for name in ("video", "text", "times", "labels", "votes"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), atol=1e-3, rtol=1e-4)


def test_clauses_are_hashed_where_no_features_lie(folder, tmp_path):
    for name in ("train.json", "test.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    data = EmotionData(str(tmp_path), held_out=1)
    assert (data.encoder, data.text_dim, data.video_dim) == (SentenceEncoder("hashed"), 300, 1)
    assert data.describe()["text"] == "hashed"
    assert not data.first_batch("test", 2).seen.any()


def test_features_of_subtitles_are_made_once_and_remember_their_encoder(folder, tmp_path):
    encoder = SentenceEncoder("hashed", dim=8)
    assert write_subtitles(folder, tmp_path / "text", encoder)["clips"] == 46
    data = EmotionData(str(folder), subtitles=str(tmp_path / "text"), held_out=1)
    assert (data.encoder, data.text_dim) == (encoder, 8)
    made = next((tmp_path / "text").rglob("*.npy"))
    np.save(made, np.zeros((1, 8)))
    write_subtitles(folder, tmp_path / "text", encoder)
    assert len(np.load(made)) == 1  # what exists stays
    with pytest.raises(InputError, match="expected the same or another folder"):
        write_subtitles(folder, tmp_path / "text", SentenceEncoder("hashed", dim=9))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"root": "nowhere"}, "no such folder"),
        ({"fps": 0.0}, "fps must be above 0"),
        ({"held_out": 0}, "held_out must be at least 1"),
        ({"held_out": 3, **{k: SIZES[k] for k in ("train_clips", "test_clips")}}, "has 3 training movies"),
    ],
)
def test_bad_settings_are_told_in_one_sentence(arguments, told):
    with pytest.raises(InputError, match=told):
        EmotionData(**arguments).dataset("train")


def test_missing_features_and_damaged_rates_are_told(folder, tmp_path):
    with pytest.raises(InputError, match=r"expected features as <movie>/<clip>\.npy"):
        EmotionData(str(folder), features=str(tmp_path / "nowhere"))
    for name in ("train.json", "test.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "features").mkdir()
    with pytest.raises(InputError, match=r"\.npy"):
        EmotionData(str(tmp_path), held_out=1).first_batch("test", 1)
    movies = json.loads((folder / "test.json").read_text())
    clip = next(f"{movie}/{name}" for movie, clips in movies.items() for name in clips)
    (tmp_path / "fps.json").write_text(json.dumps({clip: "fast"}))
    with pytest.raises(InputError, match="has 'fast', expected a number above 0"):
        EmotionData(str(tmp_path), held_out=1).first_batch("test", 6)


def test_a_checkpoints_emotions_must_hold_those_of_the_data(data):
    with pytest.raises(InputError, match="has the emotion 'anger', which the checkpoint does not know"):
        EmotionData(**SIZES).use([name for name in data.classes if name != "anger"])


# --- what stands beside a model ---


def test_baselines_are_runs_of_clauses_inside_their_clip(data):
    batch = data.first_batch("test", 6)
    prior = torch.linspace(0.1, 0.6, len(data.classes))
    end = batch.times[..., 1].amax(dim=1)
    for moments in (random_runs(batch, prior, seed=0), all_clauses(batch, prior)):
        assert (moments.spans[..., 0] < moments.spans[..., 1]).all()
        assert (moments.spans[..., 1] <= end[:, None]).all()
    assert torch.equal(random_runs(batch, prior, 1).spans, random_runs(batch, prior, 1).spans)
    found = data.baselines("test")
    assert set(found) == {"random runs", "all clauses"}
    assert all(0 < metrics["mAP"] < 0.5 for metrics in found.values())
    assert set(data.baselines("val")["all clauses"]) == {"clip_mAP"}


@pytest.mark.skipif(
    not REAL.is_dir(), reason="the real annotations are not redistributed; OMMATID_REAL names their folder"
)
def test_real_annotations_become_batches():
    data = EmotionData(str(REAL))
    assert {split: len(clips) for split, clips in data.clips.items()} == {"train": 3219, "val": 342, "test": 1010}
    batch = data.first_batch("test", 1010)
    assert int((batch.true_labels >= 0).sum()) == 4109
    hull = EmotionData(str(REAL), instances="hull").first_batch("test", 1010)
    assert int((hull.true_labels >= 0).sum()) == 3003
