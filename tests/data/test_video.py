"""Reading videos: what is shown when, whatever the file says about itself."""

import json
import struct
import sys

import av
import numpy as np
import pytest
import torch

from data.videos import grey, steady, write_video
from ommatid.data.video import SUFFIXES, Extractor, decode_video, read_clips, video_duration
from ommatid.errors import InputError, MissingDependency


def clips(path, fps):
    """(time, mean grey level) of every clip."""
    return [(time, float(image.mean())) for time, image in read_clips(path, fps)]


def levels(path, fps):
    return [round(level) for _, level in clips(path, fps)]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return steady(tmp_path_factory.mktemp("film") / "film.mp4")


def test_a_clip_shows_the_frame_of_its_middle(film):
    found = clips(film, fps=2.0)
    assert [time for time, _ in found] == [0.25, 0.75, 1.25, 1.75]
    assert [level for _, level in found] == pytest.approx([8 * 2, 8 * 7, 8 * 12, 8 * 17], abs=3)


def test_a_higher_rate_than_the_film_s_shows_frames_again(film):
    found = levels(film, fps=20.0)
    assert len(found) == 40
    assert found[0::2] == found[1::2]


def test_duration_is_measured_to_the_end_of_the_last_frame(film):
    assert video_duration(film) == pytest.approx(2.0, abs=1e-3)


def test_only_frames_that_are_asked_for_are_converted(film, monkeypatch):
    import ommatid.data.video as video

    converted = []
    original = video._upright
    monkeypatch.setattr(video, "_upright", lambda *given: converted.append(1) or original(*given))
    assert len(list(read_clips(film, 2.0))) == len(converted) == 4
    assert len(list(read_clips(film, 40.0))) == 80
    assert len(converted) == 4 + 20


def test_variable_frame_rate_follows_the_times_of_the_frames(tmp_path):
    times = [0.0, 0.1, 0.2, 2.0, 2.1, 3.9]
    path = write_video(tmp_path / "slides.mkv", [grey(40 * i) for i in range(6)], times)
    found = clips(path, fps=1.0)
    assert [time for time, _ in found][:4] == [0.5, 1.5, 2.5, 3.5]
    assert [level for _, level in found][:4] == pytest.approx([80, 80, 160, 160], abs=3)


def test_a_film_that_starts_late_is_counted_from_its_first_frame(tmp_path):
    path = write_video(tmp_path / "late.mkv", [grey(0), grey(100), grey(200)], [5.0, 5.5, 6.0])
    assert levels(path, fps=2.0) == pytest.approx([0, 100], abs=3)
    assert video_duration(path) < 2


def test_a_header_with_a_wrong_rate_does_not_stretch_the_last_frame(tmp_path):
    path = steady(tmp_path / "film.mkv")
    data = bytearray(path.read_bytes())
    default_duration = data.index(bytes.fromhex("23e38384")) + 4
    assert struct.unpack(">I", data[default_duration : default_duration + 4]) == (100_000_000,)
    data[default_duration : default_duration + 4] = struct.pack(">I", 4_000_000_000)  # nanoseconds
    path.write_bytes(data)
    assert video_duration(path) == pytest.approx(2.0, abs=0.11)
    assert len(clips(path, fps=2.0)) == 4


def test_a_film_of_a_phone_is_read_upright(tmp_path):
    picture = grey(0, 32, 64)
    picture[:, :32] = 200
    path = write_video(tmp_path / "phone.mp4", [picture] * 4, [0.0, 0.1, 0.2, 0.3])
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # behind the fixed fields of a track header
    assert struct.unpack(">9i", data[matrix : matrix + 36])[0] == 0x10000
    # "Turn a quarter clockwise when showing", as portrait films say.
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
    path.write_bytes(data)
    for _, image in read_clips(path, 10.0):
        assert image.shape == (64, 32, 3)
        assert image[:28].mean() == pytest.approx(200, abs=5)
        assert image[36:].mean() == pytest.approx(0, abs=5)


def test_a_film_that_changes_its_size_keeps_that_of_its_first_frame(tmp_path):
    tracks = [
        write_video(
            tmp_path / name, [grey(level, *size)] * 25, [i / 25 for i in range(25)], codec="mpeg1video", ticks=25
        )
        for name, level, size in (("a.mpg", 40, (32, 48)), ("b.mpg", 200, (64, 80)))
    ]
    joined = tmp_path / "joined.mpg"
    joined.write_bytes(b"".join(track.read_bytes() for track in tracks))
    with av.open(str(joined)) as container:
        assert len({(frame.height, frame.width) for frame in container.decode(video=0)}) == 2
    found = [image for _, image in read_clips(joined, 25.0)]
    assert {image.shape for image in found} == {(32, 48, 3)}


def test_a_film_shorter_than_a_clip_is_one_clip(tmp_path):
    path = write_video(tmp_path / "short.mp4", [grey(120)], [0.0])
    assert levels(path, fps=0.5) == pytest.approx([120], abs=3)


def test_a_truncated_film_gives_the_frames_that_exist(tmp_path):
    whole = steady(tmp_path / "whole.mkv", seconds=20)
    data = whole.read_bytes()
    broken = tmp_path / "broken.mkv"
    broken.write_bytes(data[: len(data) // 2])
    found, expected = levels(broken, 2.0), levels(whole, 2.0)
    assert 0 < len(found) < len(expected)
    assert found == expected[: len(found)]


@pytest.mark.parametrize("keep", [0, 10, 200, 0.9])
def test_a_film_cut_before_its_index_is_refused_in_one_sentence(film, tmp_path, keep):
    data = film.read_bytes()
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data[: round(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(InputError, match=r"broken\.mp4: not a readable video \(\w+\)$"):
        list(read_clips(broken, 2.0))


def test_damaged_pictures_give_what_can_be_decoded_or_one_sentence(film, tmp_path):
    """Every part of a file in turn overwritten: frames, or one sentence, never another error."""
    data = film.read_bytes()
    outcomes = set()
    for start in range(0, len(data), max(len(data) // 24, 1)):
        damaged = bytearray(data)
        damaged[start : start + 32] = b"\xff" * len(damaged[start : start + 32])
        path = tmp_path / "damaged.mp4"
        path.write_bytes(damaged)
        outcomes.add(outcome(path))
    assert "frames" in outcomes
    assert all(said == "frames" or (str(path) in said and "\n" not in said) for said in outcomes)


def outcome(path):
    try:
        return "frames" if clips(path, 2.0) else "nothing"
    except InputError as error:
        return str(error)


def audio_file(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_what_is_no_video_is_said_in_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"sound\.mp4: holds no video stream$"):
        list(read_clips(audio_file(tmp_path / "sound.mp4"), 2.0))
    with pytest.raises(InputError, match=r"none\.mp4: no such video file$"):
        list(read_clips(tmp_path / "none.mp4", 2.0))
    with pytest.raises(InputError, match=r"none\.mp4: no such video file$"):
        video_duration(tmp_path / "none.mp4")
    (text := tmp_path / "text.avi").write_text("not a film")
    with pytest.raises(InputError, match=r"text\.avi: not a readable video \(\w+\)$"):
        list(read_clips(text, 2.0))
    with pytest.raises(InputError, match="no such video file"):
        list(read_clips(tmp_path, 2.0))


def test_a_film_without_frames_is_refused(tmp_path):
    path = tmp_path / "empty.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        container.start_encoding()
    for read in (video_duration, lambda path: list(read_clips(path, 2.0))):
        with pytest.raises(InputError, match=r"empty\.avi: "):
            read(path)


def test_raw_frames_have_their_size_in_their_name(tmp_path):
    """The luma plane of each frame, then both chroma planes of half the size; 128 there is no colour."""
    planes = [np.full(n, value, dtype=np.uint8) for level in (40, 200) for n, value in ((32 * 16, level), (256, 128))]
    path = tmp_path / "street_32x16_30fps.yuv"
    path.write_bytes(np.concatenate(planes).tobytes())
    images = [image() for _, image, _ in decode_video(path)]
    assert [image.shape for image in images] == [(16, 32, 3)] * 2
    assert images[0].std() == 0
    assert images[0].mean() < 60 < 180 < images[1].mean()
    nameless = path.rename(tmp_path / "street.yuv")
    with pytest.raises(InputError, match=r"street\.yuv: found no size in the name, expected raw frames named as in"):
        next(decode_video(nameless))


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_rates_are_refused(film, fps):
    with pytest.raises(InputError, match="fps must be above 0"):
        next(read_clips(film, fps))


def test_without_pyav_the_extra_is_named(film, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependency, match=r"pip install 'ommatid\[video\]'"):
        list(read_clips(film, 2.0))


def test_every_suffix_is_one_that_a_file_name_ends_in():
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in SUFFIXES)
    assert {".mp4", ".mkv", ".avi"} <= SUFFIXES


# --- clip features ---

BACKBONE = "test_resnet"


@pytest.fixture(scope="module")
def extractor():
    return Extractor(BACKBONE, weights="random", fps=2.0, batch_size=3)


def test_every_clip_has_its_features_whatever_the_batch(film, extractor):
    features, seconds = extractor(film)
    assert features.shape[0] == 4
    assert features.isfinite().all()
    assert seconds == pytest.approx(video_duration(film), abs=0.5 / extractor.fps)
    one_by_one = Extractor(BACKBONE, weights="random", fps=2.0, batch_size=1)
    torch.testing.assert_close(one_by_one(film)[0], features, rtol=1e-4, atol=1e-5)


def test_random_backbones_are_the_same_whatever_was_drawn_before(film, extractor):
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    again = Extractor(BACKBONE, weights="random", fps=2.0)
    features = again(film)[0]
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(features, extractor(film)[0], rtol=1e-4, atol=1e-5)


def test_different_films_have_different_features(film, extractor, tmp_path):
    other = write_video(tmp_path / "other.mp4", [grey(250)] * 10, [i / 10 for i in range(10)])
    assert not torch.allclose(extractor(film)[0][0], extractor(other)[0][0])


def test_weights_come_from_a_file(film, extractor, tmp_path):
    state = {name: tensor * 0.5 for name, tensor in extractor.network.state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    halved = Extractor(BACKBONE, weights=str(tmp_path / "weights.pth"), fps=2.0)
    assert not torch.allclose(halved(film)[0], extractor(film)[0])
    name = next(iter(state))
    torch.testing.assert_close(halved.network.state_dict()[name], state[name])


def test_unusable_backbones_are_said_in_one_sentence(film, extractor, tmp_path):
    with pytest.raises(InputError, match="unknown timm backbone 'resnet_five_million'"):
        Extractor("resnet_five_million", weights="random")(film)
    with pytest.raises(InputError, match=r"none\.pth: no such weights file"):
        Extractor(BACKBONE, weights=str(tmp_path / "none.pth"))(film)
    (tmp_path / "torn.pth").write_bytes(b"PK\x03\x04torn")
    with pytest.raises(InputError, match=r"torn\.pth: not a readable weights file \(\w+\)"):
        Extractor(BACKBONE, weights=str(tmp_path / "torn.pth"))(film)
    torch.save({"stranger": torch.zeros(1)}, tmp_path / "stranger.pth")
    with pytest.raises(InputError, match=r"stranger\.pth: lacks \d+ weights of the backbone \(first: "):
        Extractor(BACKBONE, weights=str(tmp_path / "stranger.pth"))(film)


def test_wrong_shapes_of_weights_are_said_in_one_sentence(film, extractor, tmp_path):
    state = {name: torch.zeros(3) for name in extractor.network.state_dict()}
    torch.save(state, tmp_path / "shapes.pth")
    with pytest.raises(InputError, match=r"shapes\.pth: [\w.]+ has the shape \(3,\), expected \("):
        Extractor(BACKBONE, weights=str(tmp_path / "shapes.pth"))(film)


def test_a_file_without_a_dict_of_tensors_is_refused(film, tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(InputError, match=r"list\.pth: found a list, expected a dict of tensors"):
        Extractor(BACKBONE, weights=str(tmp_path / "list.pth"))(film)


def test_a_file_that_would_run_code_is_refused(film, tmp_path):
    torch.save({"weights": pytest.fail}, tmp_path / "code.pth")
    with pytest.raises(InputError, match=r"code\.pth: not a readable weights file"):
        Extractor(BACKBONE, weights=str(tmp_path / "code.pth"))(film)


def test_how_features_were_taken_is_written_beside_them(extractor, tmp_path):
    extractor.write(tmp_path)
    assert Extractor(**json.loads((tmp_path / "extractor.json").read_text())) == extractor
