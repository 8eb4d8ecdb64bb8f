"""Clips: the frames that sampling asks for are the ones that decoding gives, whatever files say about themselves."""

import math

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import ommatid.data.clips as clips_module
from data.videos import grey, write_video
from ommatid.data.clips import (
    TEMPLATES,
    centre_crop,
    clip_indices,
    count_frames,
    frame_template,
    random_clip_indices,
    random_resized_crop,
    read_frames,
    three_crops,
)
from ommatid.errors import InputError

FRAMES = 24


def write_film(path, frames=FRAMES, height=32, width=48, codec="libx264"):
    """Every frame is 10 levels lighter than the one before."""
    pictures = [grey(10 * number, height, width) for number in range(frames)]
    rate = {"ticks": 10} if codec == "mpeg4" else {}
    return write_video(path, pictures, [number / 10 for number in range(frames)], codec, **rate)


def numbers(frames):
    """The numbers of the film's frames, by their grey."""
    return (frames.float().mean(dim=(-3, -2, -1)) / 10).round().int().tolist()


def textured_film(path, codec, frames=40):
    """A film whose packets are large enough to be cut anywhere."""
    texture = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    pictures = [np.roll(texture, 3 * number, 1) for number in range(frames)]
    return write_video(path, pictures, [number / 10 for number in range(frames)], codec, ticks=10)


def move_index_to_the_front(path, target):
    """As films on the web are stored: what is there is readable even if the end is missing."""
    with av.open(str(path)) as source, av.open(str(target), "w", options={"movflags": "faststart"}) as sink:
        stream = sink.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                sink.mux(packet)
    return target


def decodable(path):
    """Frames until decoding ends or fails."""
    count = 0
    try:
        with av.open(str(path)) as container:
            for _ in container.decode(container.streams.video[0]):
                count += 1
    except (av.error.FFmpegError, IndexError):
        pass
    return count


def write_frames(folder, frames=6, template="img_%05d.jpg", height=32, width=48):
    folder.mkdir(exist_ok=True)
    for number in range(1, frames + 1):
        Image.fromarray(grey(10 * (number - 1), height, width)).save(folder / (template % number))
    return folder


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write_film(tmp_path_factory.mktemp("film") / "film.mp4")


# Sampling.


def test_a_video_shorter_than_a_clip_starts_at_its_first_frame():
    assert clip_indices(5, 4, 2, 3).tolist() == [[0, 2, 4, 4]] * 3
    assert clip_indices(5, 4, 2, 3, offset_sets=2).tolist() == [[0, 2, 4, 4]] * 6
    assert random_clip_indices(5, 4, 2, 3).tolist() == [[0, 2, 4, 4]] * 3


@given(st.integers(1, 400), st.integers(1, 16), st.integers(1, 16), st.integers(1, 12), st.integers(0, 9))
def test_sampled_frames_are_in_the_video_and_in_order(frames, clip_length, interval, clips, seed):
    generator = torch.Generator().manual_seed(seed)
    random = random_clip_indices(frames, clip_length, interval, clips, generator)
    for indices in (clip_indices(frames, clip_length, interval, clips), random):
        assert indices.shape == (clips, clip_length)
        assert indices.min() >= 0
        assert indices.max() < frames
        assert (indices.diff(dim=0) >= 0).all()
        if frames >= clip_length * interval:
            assert (indices.diff(dim=1) == interval).all()


def test_a_dense_random_start_reaches_every_place_equally():
    generator = torch.Generator().manual_seed(0)
    starts = torch.cat([random_clip_indices(30, 4, 4, 1, generator)[:, 0] for _ in range(3000)])
    counts = starts.bincount(minlength=15)
    assert len(counts) == 15
    assert (counts - 200).abs().max() < 4 * math.sqrt(200)


def test_a_sparse_draw_takes_one_frame_of_every_segment():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([random_clip_indices(40, 1, 1, 8, generator)[:, 0] for _ in range(200)])
    assert (drawn // 5 == torch.arange(8)).all()
    assert (drawn[:, 3].unique() == torch.arange(15, 20)).all()


def test_the_same_generator_draws_the_same_clips():
    first, again = (random_clip_indices(300, 8, 8, 4, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, random_clip_indices(300, 8, 8, 4, torch.Generator().manual_seed(4)))


def test_impossible_settings_are_named():
    with pytest.raises(InputError, match=r"^interval: found 0, expected at least 1$"):
        clip_indices(30, 8, 0, 1)
    with pytest.raises(InputError, match=r"^frames: found 0, expected at least 1$"):
        random_clip_indices(0, 8, 8, 1)
    with pytest.raises(InputError, match=r"^offset_sets: found 3, expected 1 or 2$"):
        clip_indices(30, 8, 1, 1, offset_sets=3)


# Decoding.


def test_frames_come_in_the_order_asked_for(film):
    assert numbers(read_frames(film, [7, 0, 23, 7])) == [7, 0, 23, 7]
    frames = read_frames(film, torch.tensor([[3, 5], [5, 1]]))
    assert frames.shape == (2, 2, 3, 32, 48)
    assert frames.dtype == torch.uint8
    assert numbers(frames) == [[3, 5], [5, 1]]


def test_each_frame_asked_for_is_converted_once_and_no_frame_behind_them_is_decoded(film, monkeypatch):
    import ommatid.data.video as video

    converted, decoded = [], []
    upright, decode = video._upright, clips_module.decode_video
    monkeypatch.setattr(video, "_upright", lambda *given: converted.append(1) or upright(*given))
    monkeypatch.setattr(
        clips_module, "decode_video", lambda path: (decoded.append(1) or frame for frame in decode(path))
    )
    read_frames(film, [9, 2, 9, 2, 4])
    assert (len(converted), len(decoded)) == (3, 10)
    read_frames(film, [FRAMES - 1, 1000])
    assert len(converted) == 3 + 1


def test_indices_behind_the_end_give_the_last_frame(film):
    assert numbers(read_frames(film, [22, 23, 24, 500])) == [22, 23, 23, 23]
    assert numbers(read_frames(film, [500])) == [23]


def test_a_header_that_lies_about_the_length_is_not_believed(tmp_path):
    path = write_film(tmp_path / "film.avi", frames=12, codec="mpeg4")
    data = bytearray(path.read_bytes())
    for position in (data.index(b"avih") + 8 + 16, data.index(b"strh") + 8 + 32):
        assert int.from_bytes(data[position : position + 4], "little") == 12
        data[position : position + 4] = (444).to_bytes(4, "little")
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 444
    assert count_frames(path) == 12
    assert numbers(read_frames(path, clip_indices(count_frames(path), 4, 2, 1)[0])) == [2, 4, 6, 8]
    assert numbers(read_frames(path, [3, 300])) == [3, 11]


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("film.mp4", "libx264"),
        ("front.mp4", "libx264"),
        ("film.mkv", "libx264"),
        ("film.webm", "libvpx-vp9"),
        ("film.webm", "libvpx"),
        ("film.avi", "mpeg4"),
        ("film.avi", "mjpeg"),
        ("film.ts", "libx264"),
    ],
)
def test_count_is_that_of_decoding_wherever_a_file_breaks_off(tmp_path, name, codec):
    path = textured_film(tmp_path / name, codec) if codec != "mjpeg" else write_mjpeg(tmp_path / name)
    if name == "front.mp4":
        path = move_index_to_the_front(path, tmp_path / "moved.mp4")
    whole = path.read_bytes()
    assert count_frames(path) == decodable(path) == 40
    for kept in [*np.linspace(1, len(whole) - 1, 30).astype(int), *packet_ends(path)]:
        path.write_bytes(whole[:kept])
        if expected := decodable(path):
            assert count_frames(path) == expected
            assert len(read_frames(path, [0, 39])) == 2
        else:
            for read in (count_frames, lambda path: read_frames(path, [0])):
                with pytest.raises(InputError, match=path.name):
                    read(path)


def packet_ends(path):
    """Where a file can break off without any packet being incomplete."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(container.streams.video[0]) if packet.size and packet.pos]
        return [packet.pos + packet.size for packet in packets[::4]]


def write_mjpeg(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuvj420p"
        for number in range(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey(5 * number), format="rgb24")))
        container.mux(stream.encode())
    return path


def test_a_whole_film_is_counted_without_decoding(film, monkeypatch):
    monkeypatch.setattr(clips_module, "decode_video", lambda path: pytest.fail("decoded"))
    assert count_frames(film) == FRAMES


@pytest.mark.parametrize(("name", "codec"), [("film.avi", "mpeg4"), ("film.webm", "libvpx"), ("film.ts", "libx264")])
def test_files_whose_packets_may_hold_no_frame_or_two_are_counted_by_decoding(tmp_path, name, codec, monkeypatch):
    path = textured_film(tmp_path / name, codec)
    decoded = []
    decode = clips_module.decode_video
    monkeypatch.setattr(
        clips_module, "decode_video", lambda path: (decoded.append(1) or frame for frame in decode(path))
    )
    assert count_frames(path) == len(decoded) == 40


def test_a_film_cut_from_the_middle_of_another_counts_what_is_shown(tmp_path):
    """Cutting without encoding anew keeps packets before the cut, marked not to be shown."""
    path = write_film(tmp_path / "film.mp4")
    data = bytearray(path.read_bytes())
    edit = data.index(b"elst") + 12
    duration, start = (int.from_bytes(data[at : at + 4], "big") for at in (edit, edit + 4))
    with av.open(str(path)) as container:
        ticks = int(1 / container.streams.video[0].time_base)
    data[edit + 4 : edit + 8] = (start + ticks).to_bytes(4, "big")  # one second later
    data[edit : edit + 4] = (duration * 14 // 24).to_bytes(4, "big")
    path.write_bytes(data)
    assert count_frames(path) == decodable(path) < FRAMES


@pytest.mark.parametrize(("at_key_frame", "between"), [(True, 3), (False, 3), (False, 0)])
def test_frames_that_refer_to_a_missing_key_frame_are_not_counted(tmp_path, at_key_frame, between):
    """Films cut at a key frame that earlier pictures refer to, or between two key frames."""
    options = {"x264-params": f"open-gop=1:keyint=10:min-keyint=10:scenecut=0:bframes={between}:b-adapt=0"}
    whole, cut = tmp_path / "whole.mkv", tmp_path / "cut.mkv"
    with av.open(str(whole), "w") as container:
        stream = container.add_stream("libx264", rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for number in range(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey(5 * number), format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(whole)) as source, av.open(str(cut), "w") as sink:
        stream = sink.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(source.streams.video[0]) if packet.dts is not None]
        keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
        kept = packets[keys[1] if at_key_frame else 3 :]
        for packet in kept:
            packet.stream = stream
            sink.mux(packet)
    assert count_frames(whole) == decodable(whole) == 40
    assert count_frames(cut) == decodable(cut) < len(kept)


def test_a_film_of_a_phone_is_read_upright(tmp_path):
    import struct

    picture = grey(0, 32, 64)
    picture[:, :32] = 200
    path = write_video(tmp_path / "phone.mp4", [picture] * 4, [0.0, 0.1, 0.2, 0.3])
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
    path.write_bytes(data)
    frames = read_frames(path, [0, 3], size=16).float()
    assert frames.shape == (2, 3, 32, 16)
    assert frames[:, :, :14].mean() == pytest.approx(200, abs=5)
    assert frames[:, :, 18:].mean() == pytest.approx(0, abs=5)


@pytest.mark.parametrize(("height", "width", "expected"), [(32, 48, (16, 24)), (48, 32, (24, 16)), (32, 32, (16, 16))])
def test_the_shorter_side_gets_the_size(tmp_path, height, width, expected):
    path = write_film(tmp_path / "film.mp4", 2, height, width)
    assert read_frames(path, [0], size=16).shape[-2:] == expected
    folder = write_frames(tmp_path / "frames", 1, height=height, width=width)
    assert read_frames(folder, [0], size=16).shape[-2:] == expected


def test_resizing_averages_what_it_merges(tmp_path):
    stripes = np.zeros((32, 64, 3), dtype=np.uint8)
    stripes[:, 1::4] = stripes[:, 2::4] = 255  # just where a resize by four looks that does not average
    (tmp_path / "frames").mkdir()
    Image.fromarray(stripes).save(tmp_path / "frames" / "frame_1.png")
    frame = read_frames(tmp_path / "frames", [0], size=8).float()
    assert frame.mean() == pytest.approx(127.5, abs=25)


def test_what_cannot_be_read_ends_in_one_sentence(tmp_path, film):
    nothing, text, sound = tmp_path / "none.mp4", tmp_path / "text.mp4", tmp_path / "sound.mkv"
    text.write_text("no video")
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        samples.sample_rate = 8000
        container.mux(stream.encode(samples))
        container.mux(stream.encode())
    broken = tmp_path / "broken.mp4"
    data = move_index_to_the_front(film, broken).read_bytes()
    broken.write_bytes(data[: data.index(b"mdat") + 8])
    for path, reason in ((nothing, "no such"), (text, "readable"), (sound, "no video"), (broken, "")):
        for read in (count_frames, lambda path: read_frames(path, [0])):
            with pytest.raises(InputError, match=f"{path.name}.*{reason}"):
                read(path)


def test_unusable_indices_and_sizes_are_named(film):
    for indices in ([], [3, -1]):
        with pytest.raises(InputError, match=r"^indices: found"):
            read_frames(film, indices)
    with pytest.raises(InputError, match=r"^size: found 0"):
        read_frames(film, [0], size=0)


# Folders of frames.


@pytest.mark.parametrize("template", [*TEMPLATES, "%05d.jpg", "clip2_frame-%d.png", "50%%_%03d.jpeg"])
def test_folders_of_frames_are_read_like_films(tmp_path, template):
    folder = write_frames(tmp_path / "frames", 12, template)
    (folder / "notes.txt").touch()
    if template != "clip2_frame-%d.png":  # one digit: the width cannot be told from 10 on, the numbers can
        assert frame_template(folder) == template
    assert count_frames(folder) == 12
    assert numbers(read_frames(folder, torch.tensor([[4, 0], [11, 4]]))) == [[4, 0], [11, 4]]
    assert count_frames(folder, template) == 12
    assert numbers(read_frames(folder, [1], template=template)) == [1]


def test_optical_flow_beside_the_frames_is_not_taken_for_them(tmp_path):
    folder = write_frames(tmp_path / "frames", 4)
    write_frames(folder, 4, "flow_x_%05d.jpg")
    assert frame_template(folder) == "img_%05d.jpg"
    assert frame_template(write_frames(tmp_path / "flow", 2, "flow_x_%05d.jpg")) == "flow_x_%05d.jpg"


def test_a_missing_frame_is_named(tmp_path):
    folder = write_frames(tmp_path / "frames", 6)
    (folder / "img_00003.jpg").unlink()
    assert count_frames(folder) == 6
    with pytest.raises(InputError, match=r"img_00003\.jpg: found no such frame, expected an image numbered 3$"):
        read_frames(folder, [0, 2])
    with pytest.raises(InputError, match=r"img_00007\.jpg: found no such frame"):
        read_frames(folder, [6])
    with pytest.raises(InputError, match=r"image_0001\.jpg: found no such frame"):
        read_frames(folder, [0], template="image_%04d.jpg")


def test_folders_of_other_contents_are_refused(tmp_path):
    zero, empty, mixed = write_frames(tmp_path / "zero", 3), tmp_path / "empty", write_frames(tmp_path / "mixed", 3)
    Image.fromarray(grey(0)).save(zero / "img_00000.jpg")
    empty.mkdir()
    Image.fromarray(grey(0, 20, 20)).save(mixed / "img_00002.jpg")
    with pytest.raises(InputError, match=r"img_00000\.jpg: found a frame numbered 0"):
        read_frames(zero, [0])
    with pytest.raises(InputError, match=r"empty: found no numbered images"):
        count_frames(empty)
    with pytest.raises(InputError, match=r"mixed: found no images named like image_0001\.jpg"):
        count_frames(mixed, "image_%04d.jpg")
    with pytest.raises(InputError, match=r"img_00002\.jpg: found 20 x 20 pixels, expected 32 x 48"):
        read_frames(mixed, [0, 1])
    with pytest.raises(InputError, match=r"^template: found 'img\.jpg', expected one place for a number"):
        read_frames(mixed, [0], template="img.jpg")


# Crops.


def places(clips):
    """A clip whose pixels tell their own row and column."""
    height, width = clips
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, rows])[None].expand(4, 3, height, width)


def test_three_crops_go_along_the_longer_side():
    for size in (6, 8):
        views = three_crops(places((8, 15))[None].repeat(2, 1, 1, 1, 1), size)
        assert views.shape == (6, 4, 3, size, size)
        assert views[:, 0, 1, 0, 0].tolist() == [0, (15 - size) // 2, 15 - size] * 2
        assert set(views[:, 0, 0, 0, 0].tolist()) == {(8 - size) // 2}
    views = three_crops(places((15, 8))[None], 8)
    assert views[:, 0, 0, 0, 0].tolist() == [0, 3, 7]


def test_views_of_a_clip_follow_each_other():
    clips = torch.arange(5.0)[:, None, None, None, None].expand(5, 2, 3, 4, 9)
    assert three_crops(clips, 4)[:, 0, 0, 0, 0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]


def test_the_centre_crop_is_the_middle():
    crop = centre_crop(places((9, 13)), 5)
    assert (crop[0, 0, :, 0].tolist(), crop[0, 1, 0].tolist()) == ([2, 3, 4, 5, 6], [4, 5, 6, 7, 8])


def test_crops_larger_than_the_frames_are_refused():
    for crop, clip in ((centre_crop, torch.zeros(2, 3, 8, 20)), (three_crops, torch.zeros(1, 2, 3, 8, 20))):
        with pytest.raises(InputError, match=r"^size: found 9, expected 1 to 8 for frames of 8 x 20$"):
            crop(clip, 9)


def test_a_random_crop_is_the_same_in_all_frames_and_drawn_from_the_generator():
    clip = torch.randint(0, 255, (1, 3, 40, 60), dtype=torch.uint8).expand(5, 3, 40, 60)
    crop = random_resized_crop(clip, 16, torch.Generator().manual_seed(0))
    assert crop.shape == (5, 3, 16, 16)
    assert crop.dtype == torch.uint8
    assert (crop == crop[:1]).all()
    assert torch.equal(crop, random_resized_crop(clip, 16, torch.Generator().manual_seed(0)))
    assert not torch.equal(crop, random_resized_crop(clip, 16, torch.Generator().manual_seed(1)))


def test_random_parts_keep_to_area_and_aspect_and_reach_the_edges():
    generator = torch.Generator().manual_seed(0)
    parts = [clips_module._random_part(120, 160, generator, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(500)]
    tops, lefts, heights, widths = torch.tensor(parts).unbind(1)
    assert (tops + heights).max() == 120
    assert (lefts + widths).max() == 160
    assert tops.min() == lefts.min() == 0
    ratios, areas = widths / heights, widths * heights / (120 * 160)
    assert 0.73 < ratios.min() < 0.78
    assert 1.28 < ratios.max() < 1.37
    assert 0.075 < areas.min() < 0.1
    assert areas.max() > 0.85


@pytest.mark.parametrize(("height", "width", "expected"), [(10, 200, (10, 13)), (200, 10, (13, 10))])
def test_frames_too_narrow_for_any_part_give_their_middle(height, width, expected):
    top, left, *size = clips_module._random_part(height, width, None, (0.9, 1.0), (3 / 4, 4 / 3))
    assert tuple(size) == expected
    assert abs(top - (height - size[0]) / 2) <= 1
    assert abs(left - (width - size[1]) / 2) <= 1


def test_a_full_random_crop_is_the_resized_clip():
    clip = torch.rand(2, 3, 24, 24)
    crop = random_resized_crop(clip, 24, area=(1.0, 1.0), aspect=(1.0, 1.0))
    assert torch.allclose(crop, clip)
