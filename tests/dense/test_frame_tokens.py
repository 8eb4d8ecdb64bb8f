"""Tokens are made once, are read as they were made, and belong to one encoder and one file."""

import gc
import json

import numpy as np
import pytest
import torch

from dense.made_saliency import Encoder, film
from ommatid.data.saliency_videos import SaliencyVideo
from ommatid.dense.frame_tokens import MANIFEST, StoredTokens, TokenFolder, file_digest, frame_tokens
from ommatid.errors import InputError


@pytest.fixture
def video(tmp_path):
    return SaliencyVideo("a", film(tmp_path / "a.mp4"))


def test_a_window_is_what_the_encoder_saw(video, tmp_path):
    encoder = Encoder()
    [stored] = TokenFolder(tmp_path / "tokens", encoder).all_of([video], [video.path])
    patches, cls = encoder.encode(video.frames(range(7), 32))
    assert len(stored) == 7
    torch.testing.assert_close(stored[2:5][:, 1:], patches[2:5], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(stored[2:5][:, 0], cls[2:5], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(frame_tokens(video, encoder), torch.cat([cls[:, None], patches], dim=1))


def test_a_file_grows_with_its_video(video, tmp_path, monkeypatch):
    """Tokens of a few frames are let go before the next ones come."""
    expected = frame_tokens(video, Encoder())

    class Watching(Encoder):
        def encode(self, frames):
            tensors = [each for each in gc.get_objects() if type(each) is torch.Tensor]
            most.append(sum(each.shape == (1, *expected.shape[1:]) for each in tensors))
            return super().encode(frames)

    most, chunks = [], SaliencyVideo.chunks
    monkeypatch.setattr(SaliencyVideo, "chunks", lambda self, height: chunks(self, height, length=1))
    [stored] = TokenFolder(tmp_path / "tokens", Watching()).all_of([video], [video.path])
    assert len(most) == 7
    assert max(most) <= 1
    assert stored.shape == expected.shape
    assert np.array_equal(np.load(stored.path), expected.numpy().astype(np.float16))


def test_what_is_there_is_not_made_again(video, tmp_path):
    encoder = Encoder()
    for _ in range(2):
        TokenFolder(tmp_path / "tokens", encoder).all_of([video], [video.path])
    assert encoder.frames == 7


def test_other_weights_and_other_bytes_have_tokens_of_their_own(video, tmp_path):
    [first] = TokenFolder(tmp_path / "tokens", Encoder()).all_of([video], [video.path])
    [other] = TokenFolder(tmp_path / "tokens", Encoder(shift=0.5)).all_of([video], [video.path])
    assert not torch.allclose(first[0:1], other[0:1])
    film(video.path, seed=3)
    [changed] = TokenFolder(tmp_path / "tokens", Encoder()).all_of([video], [video.path])
    assert changed.path != first.path
    assert not torch.allclose(first[0:1], changed[0:1], atol=1e-2)


def test_a_file_that_breaks_off_is_made_anew(video, tmp_path):
    encoder = Encoder()
    [stored] = TokenFolder(tmp_path / "tokens", encoder).all_of([video], [video.path])
    whole = stored[0:7]
    stored.path.write_bytes(stored.path.read_bytes()[:-100])
    [again] = TokenFolder(tmp_path / "tokens", encoder).all_of([video], [video.path])
    assert torch.equal(again[0:7], whole)


def test_processes_begin_in_different_places_and_leave_out_what_is_there(tmp_path):
    videos = [SaliencyVideo(name, film(tmp_path / f"{name}.mp4", seed=number)) for number, name in enumerate("abcd")]
    paths = [video.path for video in videos]
    made = []

    class Watched(TokenFolder):
        def make(self, video, path):
            made.append((video.name, path.is_file()))
            super().make(video, path)

    folder = Watched(tmp_path / "tokens", Encoder())
    found = folder.all_of(videos, paths, share=0.5)
    assert [name for name, _ in made] == ["c", "d", "a", "b"]
    assert [each.path.stem[0] for each in found] == ["a", "b", "c", "d"]
    made.clear()
    folder.all_of(videos, paths)
    assert all(there for _, there in made)


def test_a_manifest_says_whose_tokens_they_are(video, tmp_path):
    encoder = Encoder()
    folder = TokenFolder(tmp_path / "tokens", encoder)
    folder.all_of([video], [video.path])
    told = json.loads((folder.folder / MANIFEST).read_text())
    assert told["fingerprint"] == encoder.fingerprint()
    assert told["encoder"] == "mean"
    assert told["values"] == "float16"
    assert not list(folder.folder.glob(".*"))


def test_folders_that_cannot_be_written_and_files_that_are_not_there_are_named(video, tmp_path):
    (tmp_path / "tokens").write_text("a file")
    with pytest.raises(InputError, match="expected a folder that can be written: name one as cache"):
        TokenFolder(tmp_path / "tokens", Encoder()).all_of([video], [video.path])
    with pytest.raises(InputError, match=r"nothing\.mp4: No such file or directory, expected a readable video"):
        file_digest(tmp_path / "nothing.mp4")


def test_tokens_are_read_in_single_precision(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((4, 3, 2), np.float16))
    assert StoredTokens(tmp_path / "x.npy")[1:3].dtype == torch.float32
