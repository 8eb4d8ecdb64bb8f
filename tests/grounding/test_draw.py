"""The picture of a grounded sentence."""

import io
import sys

import matplotlib
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from ommatid.errors import InputError
from ommatid.grounding.draw import BEST, OTHER, TRUTH, draw_moments
from ommatid.grounding.task import Moments

MOMENTS = Moments(
    torch.tensor([[[0.2, 0.5], [0.6, 0.9], [-0.4, 1.7], [0.7, 0.72]]]), torch.tensor([[0.9, 0.6, 0.4, 0.1]])
)


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts] + [text.get_text() for text in figure.texts]


def bars(figure):
    return [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in figure.axes[0].patches]


def test_bars_stand_where_the_moments_are_in_seconds():
    figure = draw_moments("a dog runs", 40.0, MOMENTS, truth=(7.0, 21.5))
    expected = [(7.0, 21.5), (8.0, 20.0), (24.0, 36.0), (0.0, 40.0), (28.0, 28.8)]
    for found, wanted in zip(bars(figure), expected, strict=True):
        assert found == pytest.approx(wanted, abs=1e-4)
    assert figure.axes[0].get_xlim() == (0, 40)


def test_every_bar_says_its_seconds_and_its_score():
    shown = texts(draw_moments("a dog runs", 40.0, MOMENTS, truth=(7.0, 21.5)))
    for part in ("7.0–21.5 s", "8.0–20.0 s  0.90", "24.0–36.0 s  0.60", "a dog runs"):  # noqa: RUF001
        assert part in shown


def test_truth_best_and_others_differ_in_colour_and_hatch():
    patches = draw_moments("a dog runs", 40.0, MOMENTS, truth=(7.0, 21.5)).axes[0].patches
    colours = [matplotlib.colors.to_hex(patch.get_facecolor()).upper() for patch in patches]
    assert colours == [TRUTH, BEST, OTHER, OTHER, OTHER]
    assert [patch.get_hatch() for patch in patches] == ["//", None, None, None, None]


def test_only_the_first_moments_are_drawn():
    assert len(bars(draw_moments("a dog runs", 40.0, MOMENTS, count=2))) == 2


def test_text_stays_inside_the_picture_and_is_readable_on_a_phone():
    sentence = "A person opens the heavy wooden door and walks slowly into the kitchen with a cup " * 6
    figure = draw_moments(sentence, 83.2, MOMENTS, truth=(20.0, 44.0), frames=torch.rand(9, 3, 24, 32))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = figure.bbox
    for text in [*figure.texts, *(t for axes in figure.axes for t in axes.texts)]:
        extent = text.get_window_extent(canvas.get_renderer())
        assert extent.x0 >= box.x0
        assert extent.x1 <= box.x1
        assert text.get_fontsize() >= 9


def test_frames_make_a_film_strip_from_first_to_last():
    frames = torch.arange(12).float()[:, None, None, None].expand(12, 3, 4, 6) / 12
    figure = draw_moments("a dog runs", 40.0, MOMENTS, frames=frames)
    (image,) = figure.axes[1].images
    strip = image.get_array()
    assert strip.shape == (4, 36, 3)
    assert strip[0, 0, 0] == 0
    assert strip[0, -1, 0] == pytest.approx(11 / 12)


def test_frames_of_bytes_and_of_floats_look_the_same():
    frames = torch.randint(0, 256, (3, 3, 4, 4), dtype=torch.uint8)
    strips = [
        draw_moments("a", 9.0, MOMENTS, frames=f).axes[1].images[0].get_array() for f in (frames, frames.float() / 255)
    ]
    assert (strips[0] == strips[1]).all()


@pytest.mark.parametrize("ending", ["png", "pdf", "svg", "JPG"])
def test_the_file_is_complete_and_nothing_else_is_left(ending, tmp_path):
    path = tmp_path / f"moment.{ending}"
    draw_moments("costs $5_{ & \\frac $6", 40.0, MOMENTS, path=path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    if ending in ("png", "JPG"):
        assert Image.open(io.BytesIO(path.read_bytes())).convert("RGB").size[0] == 900


def test_a_failed_save_leaves_nothing_behind(tmp_path, monkeypatch):
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(InputError, match=r"taken\.png: .*expected a file that can be written"):
        draw_moments("a dog runs", 40.0, MOMENTS, path=tmp_path / "taken.png")
    assert [file.name for file in tmp_path.iterdir()] == ["taken.png"]


@pytest.mark.parametrize("name", ["moment", "moment.docx"])
def test_an_unknown_ending_is_refused(name, tmp_path):
    with pytest.raises(InputError, match=r"found the ending .* expected one of .*png"):
        draw_moments("a dog runs", 40.0, MOMENTS, path=tmp_path / name)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file or directory, expected a file that can be written"):
        draw_moments("a dog runs", 40.0, MOMENTS, path=tmp_path / "nowhere" / "moment.png")


def test_more_than_one_query_is_refused():
    with pytest.raises(InputError, match="found a batch of 2 queries"):
        draw_moments("a dog runs", 40.0, Moments(torch.rand(2, 3, 2), torch.rand(2, 3)))


@pytest.mark.parametrize("duration", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_duration_is_refused(duration):
    with pytest.raises(InputError, match="duration: found"):
        draw_moments("a dog runs", duration, MOMENTS)


def test_drawing_keeps_no_global_state():
    before = "matplotlib.pyplot" in sys.modules and sys.modules["matplotlib.pyplot"].get_fignums()
    draw_moments("a dog runs", 40.0, MOMENTS)
    assert ("matplotlib.pyplot" in sys.modules and sys.modules["matplotlib.pyplot"].get_fignums()) == before


def test_no_candidates_and_no_sentence_still_make_a_picture():
    figure = draw_moments("", 5.0, Moments(torch.zeros(1, 0, 2), torch.zeros(1, 0)))
    FigureCanvasAgg(figure).draw()
