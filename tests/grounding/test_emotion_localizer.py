"""What every method of emotion localisation inherits: names, checkpoints, prediction on a user's own subtitles."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image

from ommatid.data.sentences import SentenceEncoder
from ommatid.engine.export import export_method
from ommatid.engine.fit import evaluate
from ommatid.engine.settings import build
from ommatid.errors import InputError
from ommatid.grounding.dcin_tel import DCINTEL
from ommatid.grounding.emotion_data import EmotionData
from ommatid.grounding.emotion_localizer import EmotionalScene, FoundEmotion

SRT = "1\n00:00:01,000 --> 00:00:02,500\nI am so happy!\n\n2\n00:00:03,000 --> 00:00:06,000\nGo away, you liar.\n"


@pytest.fixture(scope="module")
def data():
    return EmotionData(train_clips=40, test_clips=6, held_out=1)


@pytest.fixture
def method(data):
    torch.manual_seed(0)
    method = build(DCINTEL, {**DCINTEL.arguments_from(data), "hidden_dim": 8})
    method.adopt(data)
    return method.eval()


@pytest.fixture
def speaking(method):
    """A method that was trained on sentence features of known making."""
    other = build(DCINTEL, {**method.settings(), "text_dim": 16})
    other.restore_extras({"names": method.names, "encoder": asdict(SentenceEncoder("hashed", dim=16))})
    return other.eval()


@pytest.fixture
def film(tmp_path):
    path = tmp_path / "film.srt"
    path.write_text(SRT)
    return path


def test_subtitles_of_ones_own_become_moments_of_emotions(speaking, film, tmp_path):
    scene = speaking.predict(film, top=3)
    assert scene.duration == 6.0
    assert 1 <= len(scene.moments) <= 3
    for found in scene.moments:
        assert found.emotion in speaking.names
        assert (found.start, found.end) in {(1.0, 2.5), (3.0, 6.0), (1.0, 6.0)}
    scores = [found.score for found in scene.moments]
    assert scores == sorted(scores, reverse=True)
    scene.draw(tmp_path / "scene.png")
    assert Image.open(tmp_path / "scene.png").width == 900
    assert json.loads(json.dumps(scene.to_json()))["moments"][0]["emotion"] in speaking.names


def test_features_of_video_and_subtitles_may_be_given(method, film, tmp_path):
    np.save(tmp_path / "text.npy", np.ones((2, 24), dtype=np.float32))
    np.save(tmp_path / "video.npy", np.ones((14, 24), dtype=np.float32))
    scene = method.predict(film, tmp_path / "text.npy", tmp_path / "video.npy", fps=2.0)
    other = method.predict(film, tmp_path / "text.npy")
    assert scene.to_json() != other.to_json()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "trained on subtitle features of unknown making, expected such features as subtitle_features"),
        ({"subtitle_features": (2, 5)}, "subtitle features have 5 channels, expected 24"),
        ({"subtitle_features": (3, 24)}, "found 3 rows, expected one for each of 2 clauses"),
        ({"subtitle_features": (2, 24), "video": (9, 24)}, "need their frames a second"),
        ({"subtitle_features": (2, 24), "video": (9, 7), "fps": 1.0}, "video features have 7 channels, expected 24"),
        ({"subtitle_features": (2, 24), "top": 0}, "top must be at least 1"),
    ],
)
def test_bad_input_is_told_in_one_sentence(method, film, tmp_path, arguments, told):
    for name, shape in arguments.items():
        if isinstance(shape, tuple):
            np.save(tmp_path / f"{name}.npy", np.ones(shape, dtype=np.float32))
    given = {name: tmp_path / f"{name}.npy" if isinstance(v, tuple) else v for name, v in arguments.items()}
    with pytest.raises(InputError, match=told):
        method.predict(film, **given)


def test_a_checkpoint_remembers_emotions_and_encoder(speaking, tmp_path):
    loaded = DCINTEL.load(speaking.save(tmp_path / "method.safetensors"))
    assert (loaded.names, loaded.encoder) == (speaking.names, speaking.encoder)


def test_data_of_another_width_are_refused(speaking, data):
    with pytest.raises(InputError, match="text features of the data have 24 channels, the method expects 16"):
        evaluate(speaking, data)


def test_evaluation_scores_moments_and_clips(method, data):
    metrics = evaluate(method, data)
    assert {"mAP", "mAP@0.5", "clip_mAP", "anger/mAP"} <= metrics.keys()
    assert evaluate(method, data, "val").keys() == {"clip_mAP"}


def test_a_scene_without_emotions_can_be_told_and_drawn(tmp_path):
    scene = EmotionalScene(5.0, [])
    assert scene.to_json() == {"duration": 5.0, "moments": []}
    scene.draw(tmp_path / "empty.png")
    EmotionalScene(5.0, [FoundEmotion("anger", 1.0, 2.0, -0.5)]).draw(tmp_path / "low.png")
    assert (tmp_path / "low.png").stat().st_size > 0


def test_the_network_is_exported(method, tmp_path):
    assert export_method(method, tmp_path / "method.pt2", "torch") < 1e-4
