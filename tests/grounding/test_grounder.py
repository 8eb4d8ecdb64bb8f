"""What every grounding method inherits: words, checkpoints, prediction on a user's own video, export."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image

from data.videos import steady
from ommatid.data.text import Vocabulary
from ommatid.data.video import Extractor
from ommatid.engine.export import export_method
from ommatid.engine.fit import evaluate
from ommatid.engine.settings import build
from ommatid.errors import InputError
from ommatid.grounding.data import GroundingData
from ommatid.grounding.grounder import GroundedSentence, film_strip, kept
from ommatid.grounding.mgsl_net import MGSLNet
from ommatid.grounding.task import Moments

SMALL = {"hidden_dim": 8, "video_dim": 8, "memory_slots": 4, "graph_layers": 1}
EXTRACTOR = Extractor("test_resnet", "random", fps=4.0)


def world_data(**settings):
    return GroundingData(**{"train_videos": 8, "test_videos": 4, "steps": 16, "batch_size": 8, **settings})


def adopted(data, **settings):
    torch.manual_seed(0)
    method = build(MGSLNet, {**MGSLNet.arguments_from(data), **SMALL, **settings})
    method.adopt(data)
    return method.eval()


@pytest.fixture(scope="module")
def data():
    return world_data()


@pytest.fixture
def method(data):
    return adopted(data)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return steady(tmp_path_factory.mktemp("film") / "film.mp4", seconds=6.0)


@pytest.fixture
def film_method(data):
    """A method that was trained on features of a known extractor."""
    method = adopted(data, feature_dim=EXTRACTOR.network.num_features)
    method.extractor = asdict(EXTRACTOR)
    return method


@pytest.fixture
def clip_file(tmp_path):
    path = tmp_path / "mine.npy"
    np.save(path, np.random.default_rng(0).normal(size=(40, 48)).astype(np.float32))
    return path


def a_sentence(method):
    return " ".join(method.vocabulary.words[:3])


# --- words and data ---


def test_a_method_takes_over_words_lengths_and_extractor(data, method):
    assert method.vocabulary == data.vocabulary
    assert torch.equal(method.words.vectors, data.word_vectors)
    assert (method.steps, method.max_words, method.extractor) == (16, 20, None)


def test_a_method_of_other_word_vectors_is_refused(data):
    method = build(MGSLNet, {**MGSLNet.arguments_from(data), **SMALL, "word_dim": 50})
    with pytest.raises(InputError, match=r"word vectors of the data have the shape \(\d+, 48\), the method expects"):
        method.adopt(data)


def test_data_with_other_words_speak_the_trained_language(method, tmp_path):
    other = world_data(world_seed=5, steps=9)
    before = other.vocabulary
    evaluate(method, other, trainer={"limit_test_batches": 1})
    assert other.vocabulary == method.vocabulary != before
    assert other.steps == method.steps


def test_a_method_that_never_saw_words_adopts_those_of_its_first_data(data):
    method = build(MGSLNet, {**MGSLNet.arguments_from(data), **SMALL})
    method.align(world_data())
    assert method.vocabulary == data.vocabulary


def test_data_with_other_features_are_refused(method, tmp_path):
    (tmp_path / "features").mkdir()
    np.save(tmp_path / "features" / "a.npy", np.ones((4, 7), np.float32))
    record = {"video": "a", "sentence": "a dog", "start": 1, "end": 2, "duration": 9}
    (tmp_path / "test.jsonl").write_text(json.dumps(record))
    with pytest.raises(InputError, match="features of the data have 7 channels, this checkpoint was trained on 48"):
        evaluate(method, GroundingData(str(tmp_path)))


def test_a_checkpoint_keeps_what_is_neither_weight_nor_setting(film_method, tmp_path):
    loaded = MGSLNet.load(film_method.save(tmp_path / "m.safetensors"))
    assert loaded.vocabulary == film_method.vocabulary
    assert loaded.extras() == film_method.extras()
    assert Extractor(**loaded.extractor) == EXTRACTOR


def test_scores_are_given_for_every_subset(data, method):
    batch = data.first_batch("test", 6)
    scores = method.score(batch)
    assert {"R@1,IoU=0.5", "R@5,IoU=0.7", "mIoU", "rare/mIoU", "common/mIoU"} <= set(scores)
    assert torch.equal(scores["rare/mIoU"].isnan(), ~batch.subsets["rare"])
    assert torch.equal(method.identity(batch), batch.query)


# --- prediction ---


def test_moments_of_a_feature_file_are_sorted_and_in_seconds(method, clip_file):
    found = method.predict(clip_file, a_sentence(method), duration=80.0, top=3).to_json()
    assert (found["sentence"], found["duration"]) == (a_sentence(method), 80.0)
    assert 1 <= len(found["moments"]) <= 3
    scores = [moment["score"] for moment in found["moments"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= moment["start"] < moment["end"] <= 80 for moment in found["moments"])
    json.dumps(found, allow_nan=False)


def test_a_prediction_is_that_of_the_same_query_in_a_data_set(data, method, tmp_path):
    query = data.queries["test"][0]
    np.save(tmp_path / "clip.npy", data.store[query.vid].numpy())
    found = method.predict(tmp_path / "clip.npy", query.sentence, duration=query.duration, top=1)
    with torch.no_grad():
        expected = method(data.collate([data.dataset("test")[0]])).top(1)
    torch.testing.assert_close(found.moments.spans, expected.spans)
    torch.testing.assert_close(found.moments.scores, expected.scores)


def test_a_prediction_leaves_no_trace(method, clip_file):
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.train()
    first = method.predict(clip_file, a_sentence(method), duration=80.0).to_json()
    assert method.predict(clip_file, a_sentence(method), duration=80.0).to_json() == first
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())


def test_moments_of_a_video_file_and_their_film_strip(film_method, film, tmp_path):
    found = film_method.predict(film, a_sentence(film_method))
    assert found.duration == pytest.approx(6.0, abs=0.125)
    assert found.video == film
    assert all(moment["end"] <= found.duration for moment in found.to_json()["moments"])
    found.draw(tmp_path / "with.png")
    GroundedSentence(found.sentence, found.duration, found.moments).draw(tmp_path / "without.png")
    with Image.open(tmp_path / "with.png") as strip, Image.open(tmp_path / "without.png") as plain:
        assert strip.height > plain.height
        assert strip.width == plain.width
    assert len(list(tmp_path.iterdir())) == 2


def test_features_of_a_video_and_of_its_feature_file_give_the_same_moments(film_method, film, tmp_path):
    features, seconds = EXTRACTOR(film)
    np.save(tmp_path / "film.npy", features.numpy())
    direct = film_method.predict(film, a_sentence(film_method)).to_json()
    assert film_method.predict(tmp_path / "film.npy", a_sentence(film_method), duration=seconds).to_json() == direct


def test_unusable_input_is_said_in_one_sentence(method, film_method, film, clip_file, tmp_path):
    words = a_sentence(method)
    np.save(tmp_path / "narrow.npy", np.ones((4, 7), np.float32))
    np.save(tmp_path / "empty.npy", np.ones((0, 48), np.float32))
    np.save(tmp_path / "nan.npy", np.full((4, 48), np.nan, np.float32))
    (tmp_path / "torn.mp4").write_bytes(film.read_bytes()[:100])
    cases = [
        (method, (clip_file, words), {}, r"mine\.npy: a feature file needs its duration in seconds"),
        (method, (tmp_path / "narrow.npy", words), {"duration": 9.0}, "features have 7 channels, expected 48"),
        (method, (tmp_path / "empty.npy", words), {"duration": 9.0}, r"found no features \(shape \(0, 48\)\)"),
        (method, (tmp_path / "nan.npy", words), {"duration": 9.0}, "found NaN or infinite values in clip 0"),
        (method, (tmp_path / "none.npy", words), {"duration": 9.0}, "no such feature file"),
        (method, (clip_file, words), {"duration": 9.0, "top": 0}, "top must be at least 1, found 0"),
        (method, (clip_file, "zyzzyva quux"), {"duration": 9.0}, "none of its words is in the vocabulary"),
        (method, (clip_file, " ... "), {"duration": 9.0}, "has no words, expected a description of a moment"),
        (method, (film, words), {}, "trained on features of unknown origin"),
        (film_method, (tmp_path / "torn.mp4", words), {}, r"torn\.mp4: not a readable video"),
        (film_method, (tmp_path / "none.mp4", words), {}, r"none\.mp4: no such video file"),
    ]
    for asked, given, named, told in cases:
        with pytest.raises(InputError, match=told) as caught:
            asked.predict(*given, **named)
        assert "\n" not in str(caught.value)


def test_a_video_with_another_extractor_than_the_features_is_refused(method, film):
    method.extractor = asdict(EXTRACTOR)
    with pytest.raises(InputError, match=r"film\.mp4: clip features have \d+ channels, expected 48"):
        method.predict(film, a_sentence(method))


def test_a_few_unknown_words_are_no_mistake(method, clip_file):
    assert method.predict(clip_file, f"zyzzyva {a_sentence(method)}", duration=9.0).to_json()["moments"]


# --- pictures ---


def test_a_film_strip_is_spread_evenly_over_the_video(film):
    strip = film_strip(film, 6.0, count=3, height=16)
    assert strip.shape == (3, 3, 16, 24)
    levels = strip.mean(dim=(1, 2, 3)) * 255
    assert levels.tolist() == pytest.approx([8.0 * frame % 256 for frame in (10, 30, 50)], abs=4)


def test_fillers_of_a_suppression_are_left_out_but_one_moment_stays():
    spans, gone = torch.rand(1, 3, 2), -torch.inf
    assert kept(Moments(spans, torch.tensor([[0.5, gone, gone]]))).scores.tolist() == [[0.5]]
    assert kept(Moments(spans, torch.tensor([[gone, gone, gone]]))).scores.shape == (1, 1)


def test_seconds_of_a_prediction_are_rounded_to_milliseconds():
    moments = Moments(torch.tensor([[[0.123456, 0.654321]]]), torch.tensor([[0.98764]]))
    found = GroundedSentence("a", 10.0, moments).to_json()["moments"]
    assert found == [{"start": 1.235, "end": 6.543, "score": 0.9876}]


# --- export ---


def test_the_plain_network_gives_what_the_method_gives(data, method):
    network, example, inputs, outputs = method.exportable()
    assert (inputs, outputs) == (("video", "video_mask", "words", "word_mask"), ("spans", "scores"))
    assert example[0].shape == (1, 16, 48)
    assert example[2].shape == (1, 20)
    batch = data.first_batch("test", 3)
    with torch.no_grad():
        moments = method(batch)
        spans, scores = network(batch.video, batch.video_mask, batch.words, batch.word_mask)
    assert torch.equal(spans, moments.spans)
    assert torch.equal(scores, moments.scores)


@pytest.mark.filterwarnings("ignore:The tensor attributes")  # torch's tracing of recurrent weights
def test_the_exported_graph_answers_padded_queries_like_the_method(data, method, tmp_path):
    path = tmp_path / "graph.pt2"
    assert export_method(method, path, "torch") < 1e-5
    graph = torch.export.load(path).module()
    sample = data.dataset("test")[3]
    words = torch.zeros(1, 20, dtype=torch.long)
    words[0, : len(sample.words)] = sample.words
    given = (sample.video[None], torch.ones(1, 16, dtype=torch.bool), words, torch.arange(20)[None] < len(sample.words))
    spans, scores = graph(*given)
    with torch.no_grad():
        moments = method(data.collate([sample]))
    torch.testing.assert_close(spans, moments.spans, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores, moments.scores, rtol=1e-4, atol=1e-5)


def test_a_method_without_data_is_exported_too():
    method = MGSLNet(feature_dim=6, word_dim=4, vocabulary_size=5, **SMALL)
    network, example, *_ = method.eval().exportable()
    assert network(*example)[0].shape == (1, 2, 2)
    assert method.vocabulary == Vocabulary([])
