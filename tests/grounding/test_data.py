"""`GroundingData`: one batch for every method, whatever the data are."""

import json
import math

import numpy as np
import pytest
import torch

from data.videos import steady
from ommatid.data.tagging import VERB
from ommatid.data.text import Vocabulary, tokenize
from ommatid.data.video import Extractor
from ommatid.data.worlds.grounding import GroundingWorld
from ommatid.engine.fit import evaluate, fit
from ommatid.engine.settings import build
from ommatid.errors import InputError
from ommatid.grounding.data import GroundingData, clip_features, collate, glances_only, make_sample
from ommatid.grounding.mgsl_net import MGSLNet
from ommatid.grounding.task import Query, UnpairedBatch
from ommatid.grounding.timeindex import pool_to_length

SIZES = {"train_videos": 8, "test_videos": 4, "steps": 16, "batch_size": 8}


def world_data(view="standard", **settings):
    return GroundingData(view=view, **{**SIZES, **settings})


def tiny(data, **settings):
    small = {"hidden_dim": 8, "video_dim": 8, "memory_slots": 4, "graph_layers": 1, "encoder": "conv", **settings}
    return build(MGSLNet, {**MGSLNet.arguments_from(data), **small})


@pytest.fixture(scope="module")
def data():
    return world_data()


def own_set(root, **splits):
    """A data set of the user's own: splits of lines, and clip features of every video they name."""
    (root / "features").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, lines in splits.items():
        (root / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
        for line in lines:
            np.save(root / "features" / f"{line['video']}.npy", rng.normal(size=(12, 5)).astype(np.float32))
    return root


def line(video, sentence="a dog barks", start=1.0, end=4.0, **more):
    return {"video": video, "sentence": sentence, "start": start, "end": end, "duration": 10.0, **more}


# --- samples and batches ---


def test_a_sample_holds_the_query_in_the_units_of_the_contract():
    query = Query("0", "v", "A dog barks loudly", 20.0, (5.0, 15.0), 7.0)
    features = torch.rand(40, 6)
    sample = make_sample(query, features, Vocabulary(["dog", "barks"]), 10, 3, index=4, subsets={"rare": True})
    assert sample.words.tolist() == [1, 2, 3]
    assert (sample.span, sample.glance, sample.duration) == ((0.25, 0.75), 0.35, 20.0)
    assert (sample.query, sample.subsets) == (4, {"rare": True})
    assert torch.equal(sample.video, pool_to_length(features, 10))


def test_what_is_not_annotated_is_nan():
    sample = make_sample(Query("0", "v", "a dog", 20.0), torch.rand(4, 6), Vocabulary([]), 10, None, 0)
    assert all(map(math.isnan, (*sample.span, sample.glance)))


def test_a_batch_pads_and_masks_videos_and_sentences():
    vocabulary = Vocabulary(["dog"])
    queries = [Query("0", "v", "a dog", 20.0, (0.0, 5.0)), Query("1", "w", "one two three dog", 8.0)]
    samples = [
        make_sample(query, torch.ones(clips, 6), vocabulary, 10, None, index)
        for index, (query, clips) in enumerate(zip(queries, (3, 25), strict=True))
    ]
    batch = collate(samples)
    assert batch.video.shape == (2, 10, 6)
    assert batch.video_mask.sum(dim=1).tolist() == [3, 10]
    assert batch.word_mask.sum(dim=1).tolist() == [2, 4]
    assert (batch.video[~batch.video_mask] == 0).all()
    assert (batch.words[~batch.word_mask] == 0).all()
    assert batch.words.tolist() == [[1, 2, 0, 0], [1, 1, 1, 2]]
    assert batch.span[0].tolist() == [0.0, 0.25]
    assert batch.span[1].isnan().all()
    assert (batch.query.tolist(), batch.duration.tolist()) == ([0, 1], [20.0, 8.0])


def test_every_query_of_a_split_is_met_once(data):
    met = torch.cat([batch.query for batch in data.test_dataloader()])
    assert sorted(met.tolist()) == list(range(len(data.queries["test"])))


def test_samples_of_the_set_are_those_of_the_queries(data):
    dataset = data.dataset("test")
    for index in (0, 5):
        query, sample = data.queries["test"][index], dataset[index]
        assert sample.duration == query.duration
        assert sample.span == pytest.approx([time / query.duration for time in query.span])
        assert torch.equal(sample.video, pool_to_length(data.store[query.vid], data.steps, keep_short=True))
        assert sample.words.tolist() == data.vocabulary.encode(query.sentence).tolist()


def test_long_sentences_are_cut_and_long_videos_pooled():
    data = world_data(steps=7, max_words=3)
    batch = data.first_batch("train")
    assert batch.video.shape[1] == 7
    assert batch.words.shape[1] == 3


# --- words ---


def test_a_trained_vocabulary_replaces_the_data_s_own():
    data = world_data()
    before = data.first_batch("test")
    trained = Vocabulary(["the", "person"])
    data.use(trained, steps=5, max_words=4)
    batch = data.first_batch("test")
    assert data.vocabulary == trained
    assert len(data.word_vectors) == 4
    assert batch.video.shape[1] == 5
    assert batch.words.shape[1] == 4
    assert set(batch.words.flatten().tolist()) <= {0, 1, 2, 3}
    assert torch.equal(batch.span, before.span)


def test_using_a_vocabulary_without_a_word_limit_keeps_the_data_s():
    data = world_data(max_words=6)
    data.use(Vocabulary([]), steps=5, max_words=None)
    assert data.max_words == 6


def test_word_vectors_stand_in_the_order_of_the_vocabulary(data):
    vectors = GroundingWorld(train_videos=8, test_videos=4).word_vectors
    assert data.word_vectors.shape == (len(data.vocabulary), 48)
    word = data.vocabulary.words[3]
    assert data.word_vectors[5].tolist() == pytest.approx(vectors[word].tolist())
    assert (data.word_vectors[:2] == 0).all()


# --- subsets, supervision ---


def test_rare_queries_hold_a_word_that_training_hardly_says():
    data = world_data("rare", train_videos=40, rare_below=4)
    counts = {}
    for query in data.queries["train"]:
        for word in tokenize(query.sentence):
            counts[word] = counts.get(word, 0) + 1
    open_classes = {word for word, kind in data._source.parts_of_speech().items() if kind in ("NOUN", "VERB", "ADJ")}
    subsets = data.subsets("test")
    expected = [
        any(counts.get(word, 0) < 4 for word in tokenize(query.sentence) if word in open_classes)
        for query in data.queries["test"]
    ]
    assert subsets["rare"].tolist() == expected
    assert 0 < sum(expected) < len(expected)
    assert (subsets["common"] == ~subsets["rare"]).all()


def test_parts_of_a_compositional_test_are_subsets_that_cover_it():
    data = world_data("cg")
    named = ("test_trivial", "novel_composition", "novel_word")
    parts = {name: data.subsets("test")[name] for name in named}
    assert (np.stack(list(parts.values())).sum(axis=0) == 1).all()
    batch = data.collate([data.dataset("test")[index] for index in range(len(data.dataset("test")))])
    assert batch.subsets["novel_word"].tolist() == parts["novel_word"].tolist()


def test_compositions_are_also_scored_by_their_type(tmp_path):
    GroundingWorld("cg", train_videos=20, test_videos=4).write(tmp_path / "set")
    for data in (world_data("cg"), GroundingData(str(tmp_path / "set"), steps=8)):
        parts = data.subsets("test")
        assert parts["novel v-n"].tolist() == parts["novel_composition"].tolist()
        assert not any(name.startswith("novel v-n") for name in data.subsets("val"))


def test_without_training_sentences_nothing_is_rare(tmp_path):
    data = GroundingData(str(own_set(tmp_path / "set", test=[line("a")])))
    assert data.subsets("test") == {}
    assert data.supervision == "none"


@pytest.mark.parametrize(
    ("train", "supervision"),
    [
        ([{}, {}], "span"),
        ([{"glance": 2.0}, {"glance": 0.0}], "glance"),
        ([{"glance": 2.0}, {}], "partial"),
        ([{"span": True}, {}], "partial"),
        ([{}], "none"),
    ],
)
def test_supervision_is_what_all_training_queries_have(data, monkeypatch, train, supervision):
    queries = [
        Query(str(i), "v", "a dog", 9.0, (1.0, 2.0) if labels.get("span") or supervision == "span" else None,
              labels.get("glance"))
        for i, labels in enumerate(train)
    ]  # fmt: skip
    fresh = world_data()
    monkeypatch.setitem(fresh.__dict__, "queries", {"train": queries})
    assert fresh.supervision == supervision


@pytest.mark.parametrize("view", ["standard", "rare", "cg"])
def test_views_with_moments_train_and_evaluate(view):
    data = world_data(view)
    assert data.supervision == "span"
    method = tiny(data)
    fit(method, data, trainer={"max_steps": 2, "limit_val_batches": 1})
    metrics = evaluate(method, data)
    assert 0 <= metrics["mIoU"] <= 1
    assert {f"{part}/mIoU" for part in data.subsets("test")} <= set(metrics)


def test_views_without_moments_refuse_a_method_that_needs_them_and_still_evaluate():
    told = {
        "glance": "^MGSLNet learns from annotated moments, these data have supervision 'glance': expected",
        "unsupervised": "^MGSLNet learns from annotated moments, these data have supervision 'none': expected",
    }
    for view, sentence in told.items():
        data = world_data(view)
        assert data.supervision == {"glance": "glance", "unsupervised": "none"}[view]
        method = tiny(data)
        with pytest.raises(InputError, match=sentence):
            fit(method, data, trainer={"max_steps": 1, "limit_val_batches": 0})
        assert 0 <= evaluate(method, data)["mIoU"] <= 1


def test_pairs_are_refused_where_sentences_belong_to_no_video():
    data = world_data("unsupervised")
    with pytest.raises(
        InputError, match=r"\(unsupervised\): the sentences of 'train' belong to no video, expected pairs"
    ):
        data.dataset("train")


@pytest.mark.parametrize(
    ("view", "allowed"),
    [
        ("standard", {"span", "glance", "unpaired"}),
        ("glance", {"glance", "unpaired"}),
        ("unsupervised", {"unpaired"}),
    ],
)
def test_data_allow_every_method_that_needs_less_than_they_know(view, allowed):
    data = world_data(view)
    assert {kind for kind in ("span", "glance", "unpaired") if data.allows(kind)} == allowed


def test_a_method_of_glances_sees_one_instant_inside_every_moment_and_no_moment():
    data = world_data()
    span = data.first_batch("train", 24).span
    data.learn_from("glance")
    batch = data.first_batch("train", 24)
    assert batch.span.isnan().all()
    assert ((batch.glance >= span[:, 0]) & (batch.glance <= span[:, 1])).all()
    # Neither always the middle nor always an end.
    place = (batch.glance - span[:, 0]) / (span[:, 1] - span[:, 0])
    assert place.min() < 0.25 < 0.75 < place.max()
    assert not data.first_batch("test", 4).span.isnan().any()


def test_distributed_glances_are_kept_and_drawn_ones_follow_from_the_seed():
    first, second = (
        glances_only([Query("0", "v", "a", 9.0, (1.0, 3.0), 2.5), Query("1", "v", "a", 9.0, (1.0, 3.0))], seed)
        for seed in (0, 1)
    )
    assert first[0].glance == second[0].glance == 2.5
    assert first[1].glance != second[1].glance
    assert first[1].glance == glances_only([Query("0", "v", "a", 9.0, (0.0, 1.0), 0.5), first[1]], 0)[1].glance


@pytest.mark.parametrize("view", ["standard", "unsupervised"])
def test_unpaired_batches_hold_every_video_and_every_sentence_and_no_pairs(view):
    data = world_data(view)
    data.learn_from("unpaired")
    train = data.dataset("train")
    assert len(train) == 24
    batch = data.first_batch("train", 24)
    assert isinstance(batch, UnpairedBatch)
    assert set(vars(batch)) == {"video", "video_mask", "video_number", "words", "word_mask", "sentence_number"}
    assert sorted(batch.sentence_number.tolist()) == list(range(24))
    assert batch.video_number.unique().tolist() == list(range(8))
    queries = data.queries["train"]
    for row, number in enumerate(batch.sentence_number.tolist()):
        assert torch.equal(train[row].words, data.vocabulary.encode(queries[number].sentence, data.max_words))
    # The true pairs stand three in a row: chance alone puts a few of the 24 side by side.
    own = [number // 3 == row % 8 for row, number in enumerate(batch.sentence_number.tolist())]
    assert sum(own) < 12


def test_an_unpaired_folder_gives_the_videos_of_its_list(tmp_path):
    GroundingWorld("unsupervised", train_videos=6, val_videos=2, test_videos=2).write(tmp_path / "set")
    data = GroundingData(str(tmp_path / "set"), steps=8)
    data.learn_from("unpaired")
    assert data.dataset("train").videos == list(json.loads((tmp_path / "set" / "videos.json").read_text()))
    assert data.first_batch("train", 18).video_number.unique().tolist() == list(range(6))
    assert len(data.queries["val"]) == 6


def test_queries_are_also_scored_by_the_length_of_their_moment():
    data = world_data(by_length=True, test_videos=40)
    share = [(query.span[1] - query.span[0]) / query.duration for query in data.queries["test"]]
    parts = data.subsets("test")
    assert parts["short"].tolist() == [value < 0.15 for value in share]
    assert parts["long"].tolist() == [value > 0.25 for value in share]
    assert (parts["short"] ^ parts["medium"] ^ parts["long"]).all()


def test_settings_of_the_embedded_world_are_passed_on_and_unknown_ones_refused():
    quiet, loud = (world_data(world={"sigma": sigma}).first_batch("test", 2).video for sigma in (0.1, 3.0))
    assert quiet.std() < loud.std()
    with pytest.raises(InputError, match="loudness"):
        world_data(world={"loudness": 1})


def test_words_come_with_their_parts_of_speech(data):
    tags = dict(zip(data.vocabulary.words, data.word_tags[2:].tolist(), strict=True))
    assert {tags[word] for word, part in data._source.parts_of_speech().items() if part == "VERB" and word in tags} == {
        VERB
    }
    method = tiny(data)
    method.adopt(data)
    assert torch.equal(method.words.tags, data.word_tags)


class EveryClip(MGSLNet):
    clips_kept = 64


def test_a_method_may_ask_for_every_clip(data):
    fresh = world_data()
    method = build(EveryClip, {**EveryClip.arguments_from(fresh), "hidden_dim": 8, "video_dim": 8, "memory_slots": 4})
    method.adopt(fresh)
    assert fresh.first_batch("test", 4).video.shape[1] == method.steps == 64


# --- what stands beside a model ---


def test_trivial_baselines_are_scored_like_a_model_on_every_subset(data):
    found = data.baselines("test")
    assert set(found) == {"random span", "mean span", "whole video"}
    spans = torch.tensor([query.span for query in data.queries["test"]])
    durations = torch.tensor([query.duration for query in data.queries["test"]])
    share = ((spans[:, 1] - spans[:, 0]) / durations).mean()
    assert found["whole video"]["mIoU"] == pytest.approx(float(share), abs=1e-5)
    assert "rare/mIoU" in found["mean span"]


def test_a_data_set_describes_itself(data):
    described = data.describe()
    assert described["name"] == "world-grounding (standard)"
    assert described["queries"]["train"] == 24
    assert (described["feature_dim"], described["steps"]) == (48, 16)
    json.dumps(described)


# --- a folder of the user's ---


def test_an_own_folder_trains_and_evaluates(tmp_path):
    lines = [line(f"v{i}", "a dog barks" if i % 2 else "a cat sleeps") for i in range(10)]
    root = own_set(tmp_path / "set", train=lines, test=[line("w", "a dog sleeps")])
    (root / "glove.txt").write_text("dog 1 0 0\ncat 0 1 0\n")
    data = GroundingData(str(root), batch_size=4)
    assert (data.feature_dim, data.word_vectors.shape, data.supervision) == (5, (4, 3), "span")
    method = tiny(data)
    fit(method, data, trainer={"max_epochs": 1})
    assert "mIoU" in evaluate(method, data)
    assert {len(part) for part in data.queries.values()} == {9, 1}


@pytest.mark.parametrize("features", ["npy", "hdf5"])
def test_official_files_give_the_same_batches_as_the_world_in_memory(tmp_path, features):
    GroundingWorld(train_videos=8, test_videos=4).write(tmp_path / "set", features=features)
    files, memory = GroundingData(str(tmp_path / "set"), steps=16), world_data()
    assert (files.feature_dim, files.vocabulary) == (memory.feature_dim, memory.vocabulary)
    assert torch.equal(files.word_vectors, memory.word_vectors)
    places = {(query.vid, tuple(tokenize(query.sentence))): i for i, query in enumerate(memory.queries["test"])}
    for index, query in enumerate(files.queries["test"]):
        ours = files.dataset("test")[index]
        theirs = memory.dataset("test")[places[query.vid, tuple(tokenize(query.sentence))]]
        assert torch.equal(ours.video, theirs.video)
        assert torch.equal(ours.words, theirs.words)
        assert ours.span == pytest.approx(theirs.span)
        assert ours.subsets == theirs.subsets


def test_loader_workers_read_the_same_features(tmp_path):
    GroundingWorld(train_videos=4, test_videos=2).write(tmp_path / "set", format="jsonl", features="hdf5")
    alone, helped = (GroundingData(str(tmp_path / "set"), steps=8, batch_size=4, workers=n) for n in (0, 1))
    assert helped.feature_dim == 48  # opens the file in this process; the worker must open its own
    for ours, theirs in zip(alone.test_dataloader(), helped.test_dataloader(), strict=True):
        assert torch.equal(ours.video, theirs.video)


# --- mistakes ---


def test_impossible_settings_are_refused():
    for settings, told in (
        ({"steps": 1}, "steps must be at least 2, found 1"),
        ({"max_words": 0}, "max_words must be at least 1, found 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, found 0"),
        ({"view": "emotion"}, "emotion"),
        ({"train_videos": -1}, "train_videos"),
    ):
        with pytest.raises(InputError, match=told):
            build(GroundingData, {**SIZES, **settings}).queries  # noqa: B018


def test_splits_that_do_not_exist_are_refused(tmp_path, data):
    with pytest.raises(InputError, match="unknown split 'tset': did you mean 'test'"):
        data.dataset("tset")
    only_test = GroundingData(str(own_set(tmp_path / "set", test=[line("a")])))
    with pytest.raises(InputError, match="unknown split 'train': expected one of 'test'"):
        only_test.dataset("train")


def test_a_video_without_features_is_named(tmp_path):
    root = own_set(tmp_path / "set", test=[line("a"), line("b")])
    (root / "features" / "b.npy").unlink()
    data = GroundingData(str(root))
    with pytest.raises(InputError, match="no features of video 'b' among 1"):
        data.dataset("test")[1]


def test_features_with_nan_are_named(tmp_path):
    root = own_set(tmp_path / "set", test=[line("a")])
    np.save(root / "features" / "a.npy", np.full((3, 5), np.nan, np.float32))
    with pytest.raises(InputError, match=r"a\.npy: found NaN or infinite values in clip 0"):
        GroundingData(str(root)).first_batch("test")


# --- clip features of one file ---


def test_a_feature_file_needs_its_duration(tmp_path):
    path = tmp_path / "clip.npy"
    np.save(path, np.ones((4, 3), np.float32))
    features, seconds = clip_features(path, None, 12.0)
    assert (features.shape, seconds) == ((4, 3), 12.0)
    for duration in (None, 0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match=r"clip\.npy: a feature file needs its duration in seconds"):
            clip_features(path, None, duration)


def test_a_video_is_read_by_the_extractor_of_the_training_features(tmp_path):
    path = steady(tmp_path / "film.mp4")
    settings = vars(Extractor("test_resnet", "random", 2.0))
    features, seconds = clip_features(path, settings, None)
    assert features.shape == (4, Extractor(**settings).network.num_features)
    assert seconds == pytest.approx(2.0, abs=0.25)
    with pytest.raises(InputError, match=r"film\.mp4: this checkpoint was trained on features of unknown origin"):
        clip_features(path, None, None)
    shouting = path.rename(tmp_path / "FILM.MP4")
    assert len(clip_features(shouting, settings, None)[0]) == 4


def test_other_files_are_refused(tmp_path):
    for name, told in (("a.txt", "not a feature file"), ("none.npy", "no such feature file")):
        if name == "a.txt":
            (tmp_path / name).write_text("x")
        with pytest.raises(InputError, match=told):
            clip_features(tmp_path / name, None, 5.0)
