"""Pictures of classified clips."""

import torch

from ommatid.recognition.draw import MOST_FRAMES, draw_clip, draw_labels


def test_a_long_clip_is_shown_in_a_few_frames_in_their_order(tmp_path):
    frames = torch.linspace(0, 1, 30)[:, None, None, None].expand(30, 3, 6, 6)
    figure = draw_clip(frames, [("run", 0.6), ("walk", 0.3), ("sit", 0.1)], tmp_path / "clip.png")
    *strip, bars = figure.axes
    assert len(strip) == MOST_FRAMES
    shown = [axis.images[0].get_array().mean() for axis in strip]
    assert shown == sorted(shown)
    assert (shown[0], shown[-1]) == (0.0, 1.0)
    assert [round(bar.get_width(), 2) for bar in bars.patches] == [0.1, 0.3, 0.6]
    assert (tmp_path / "clip.png").exists()


def test_a_short_clip_is_shown_whole():
    assert len(draw_clip(torch.rand(2, 3, 4, 4), [("run", 1.0)]).axes) == 3


def test_an_image_is_lit_where_the_method_looked(tmp_path):
    attention = torch.zeros(2, 4, 4)
    attention[0, 0, 0] = attention[1, 3, 3] = 1.0
    figure = draw_labels(torch.rand(3, 32, 32), [("cat", 0.9), ("sofa", 0.6)], attention, tmp_path / "labels.png")
    first, second = (axis.images[1].get_array() for axis in figure.axes)
    assert first[0, 0] < first[-1, -1]
    assert second[-1, -1] < second[0, 0]
    assert (tmp_path / "labels.png").exists()


def test_without_attention_or_labels_the_image_stands_alone():
    assert len(draw_labels(torch.rand(3, 8, 8), [("cat", 0.9), ("sofa", 0.6)]).axes) == 1
    assert draw_labels(torch.rand(3, 8, 8), []).axes[0].get_title() == "no label"
