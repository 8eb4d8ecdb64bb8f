import weakref
import zlib
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from dense.made import trans_net
from ommatid.data.images import read_image
from ommatid.dense.otsu import otsu_of_counts
from ommatid.dense.task import TiledSegmentation, shown_step
from ommatid.dense.windows import TiffBands, WholeImage, map_in_bands, open_bands, window_starts
from ommatid.errors import InputError, MissingDependency

tifffile = pytest.importorskip("tifffile", reason="large images need pip install 'ommatid[slides]'")


def picture(height=50, width=70, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def brightness(windows):
    return windows.mean(dim=1, keepdim=True)


def whole(image, maps, window, overlap, at_once=32):
    parts = list(map_in_bands(maps, image, window, overlap, at_once))
    assert [top for top, _, _ in parts] == list(np.cumsum([0, *(len(found) for _, _, found in parts)]))[:-1]
    return torch.cat([pixels for _, pixels, _ in parts], dim=1), torch.cat([found for _, _, found in parts])


@pytest.mark.parametrize(("window", "overlap"), [(16, 0.5), (16, 0.0), (13, 0.3), (50, 0.5), (64, 0.5), (100, 0.9)])
def test_what_is_seen_pixel_by_pixel_comes_out_as_if_seen_at_once(window, overlap):
    """Windows larger than the image, too."""
    pixels = torch.from_numpy(picture()).permute(2, 0, 1)
    image, found = whole(WholeImage(pixels), brightness, window, overlap)
    assert torch.equal(image, pixels)
    torch.testing.assert_close(found, pixels.float().mean(dim=0) / 255)


def test_windows_that_overlap_are_averaged():
    """Every window gives its own number: the mean is that of those which see a pixel."""
    pixels, seen = torch.zeros(3, 8, 8, dtype=torch.uint8), []

    def number(windows):
        values = torch.arange(len(seen), len(seen) + len(windows)).float()
        seen.extend(values.tolist())
        return values.view(-1, 1, 1, 1).expand(-1, 1, 4, 4)

    _, found = whole(WholeImage(pixels), number, 4, 0.5)
    assert len(seen) == 9
    assert float(found[0, 0]) == 0
    assert float(found[0, 3]) == pytest.approx(0.5)
    assert float(found[3, 3]) == pytest.approx((0 + 1 + 3 + 4) / 4)
    assert float(found[7, 7]) == 8


def test_how_many_pass_together_makes_no_difference():
    image = WholeImage(torch.from_numpy(picture()).permute(2, 0, 1))
    torch.testing.assert_close(whole(image, brightness, 16, 0.5, 1)[1], whole(image, brightness, 16, 0.5, 5)[1])


def test_starts_cover_the_whole_axis():
    for length in (1, 7, 16, 17, 40):
        starts = window_starts(length, 16, 5)
        assert starts[0] == 0
        assert all(following - start <= 5 for start, following in pairwise(starts))
        assert starts[-1] == max(length - 16, 0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zlib"},
        {"tile": (32, 16)},
        {"tile": (16, 16), "compression": "zlib"},
        {"rowsperstrip": 7},
    ],
)
def test_tiff_files_are_read_row_by_row(tmp_path, options):
    pixels = picture()
    tifffile.imwrite(tmp_path / "x.tif", pixels, photometric="rgb", **options)
    bands = open_bands(tmp_path / "x.tif")
    assert isinstance(bands, TiffBands)
    assert (bands.height, bands.width) == (50, 70)
    for top, bottom in ((0, 50), (3, 4), (17, 41), (49, 50)):
        np.testing.assert_array_equal(bands.rows(top, bottom).permute(1, 2, 0).numpy(), pixels[top:bottom])


def test_grey_and_transparent_tiffs_are_seen_in_colour(tmp_path):
    grey = picture()[..., 0]
    tifffile.imwrite(tmp_path / "grey.tif", grey)
    assert np.array_equal(TiffBands(tmp_path / "grey.tif").rows(0, 50)[1].numpy(), grey)
    four = np.concatenate([picture(), picture()[..., :1]], axis=2)
    tifffile.imwrite(tmp_path / "four.tif", four, photometric="rgb", extrasamples=["unassalpha"])
    assert np.array_equal(TiffBands(tmp_path / "four.tif").rows(0, 50).permute(1, 2, 0).numpy(), four[..., :3])


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_parts_that_are_left_out_are_black(tmp_path, compression):
    tiles = [np.full((32, 32), value, np.uint8) for value in (10, 20, 30, 40, 60)]
    parts = iter([*tiles[:4], None, tiles[4]])
    tifffile.imwrite(tmp_path / "x.tif", parts, shape=(64, 96), dtype=np.uint8, tile=(32, 32), compression=compression)
    bands = open_bands(tmp_path / "x.tif")
    assert isinstance(bands, TiffBands)
    np.testing.assert_array_equal(bands.rows(0, 64)[0].numpy(), tifffile.imread(tmp_path / "x.tif"))
    assert not bands.rows(32, 64)[:, :, 32:64].any()


def gradient():
    rows, columns = np.mgrid[:50, :70]
    return np.stack([columns * 3, rows * 4, rows + columns], axis=-1).astype(np.uint8)


def same_in_parts(path):
    bands, expected = open_bands(path), read_image(path)
    found = torch.cat([bands.rows(top, min(top + 16, bands.height)) for top in range(0, bands.height, 16)], dim=1)
    assert found.shape == expected.shape
    assert (found.int() - expected.int()).abs().max() <= 2
    return isinstance(bands, TiffBands)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
@pytest.mark.parametrize("compression", ["tiff_lzw", "jpeg"])
def test_compressed_slides_are_read_row_by_row(tmp_path, compression, mode):
    """The strips of JPEG have their tables in a tag of their own."""
    pytest.importorskip("imagecodecs", reason="JPEG and LZW need pip install 'ommatid[slides]'")
    Image.fromarray(gradient()).convert(mode).save(tmp_path / "x.tif", compression=compression)
    assert same_in_parts(tmp_path / "x.tif")


@pytest.mark.parametrize(
    ("options", "in_parts"),
    [
        ({"photometric": "miniswhite"}, True),
        ({"photometric": "rgb", "extratags": [(274, "H", 1, 6, True)]}, False),
        ({"photometric": "rgb", "extrasamples": ["assocalpha"]}, False),
    ],
    ids=["white is zero", "turned", "multiplied by alpha"],
)
def test_pixels_mean_the_same_in_parts_as_in_the_whole(tmp_path, options, in_parts):
    pixels = gradient()[..., 0] if options["photometric"] == "miniswhite" else gradient()
    if "extrasamples" in options:
        pixels = np.dstack([pixels // 2, np.full((50, 70), 128, np.uint8)])
    tifffile.imwrite(tmp_path / "x.tif", pixels, **options)
    assert same_in_parts(tmp_path / "x.tif") == in_parts


@pytest.mark.parametrize("mode", ["P", "CMYK"])
def test_palettes_and_inks_are_read_as_a_whole(tmp_path, mode):
    Image.fromarray(gradient()).convert(mode).save(tmp_path / "x.tif")
    assert not same_in_parts(tmp_path / "x.tif")


def test_other_files_are_read_as_a_whole(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "x.png")
    assert np.array_equal(open_bands(tmp_path / "x.png").rows(5, 9).permute(1, 2, 0).numpy(), picture()[5:9])


def test_what_cannot_be_read_is_told_in_one_sentence(tmp_path):
    (tmp_path / "broken.tif").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"broken.tif: found a damaged or unreadable file .*, expected a TIFF image"):
        open_bands(tmp_path / "broken.tif")
    tifffile.imwrite(tmp_path / "deep.tif", picture().astype(np.uint16))
    with pytest.raises(InputError, match=r"deep.tif: found 3 channels of uint16, expected 1, 3 or 4 of bytes"):
        open_bands(tmp_path / "deep.tif")
    with pytest.raises(InputError, match="found no such file, expected an image"):
        open_bands(tmp_path / "nowhere.tif")
    for window, overlap in ((0, 0.5), (4, 1.0)):
        with pytest.raises(InputError, match="tile and overlap: found"):
            next(map_in_bands(brightness, WholeImage(torch.zeros(3, 4, 4, dtype=torch.uint8)), window, overlap))


def test_a_file_that_breaks_off_is_told_in_one_sentence(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", picture(), photometric="rgb")
    bands = open_bands(tmp_path / "x.tif")
    content = (tmp_path / "x.tif").read_bytes()
    bands.page.databytecounts = (len(content),)
    with pytest.raises(InputError, match=rf"x.tif: found \d+ bytes of part 0, expected {len(content)}"):
        bands.rows(0, 4)


@pytest.mark.parametrize("fault", [zlib.error("Error -3"), ValueError("no strip"), RuntimeError("LzwError")])
def test_a_damaged_part_is_told_in_one_sentence(tmp_path, fault):
    """Which error it is depends on the decoder that is installed."""

    def broken(*_, **__):
        raise fault

    tifffile.imwrite(tmp_path / "x.tif", picture(), photometric="rgb", compression="zlib")
    bands = open_bands(tmp_path / "x.tif")
    bands.page.decode = broken
    with pytest.raises(InputError, match=r"x.tif: found a damaged part 0 \(.*\), expected pixels"):
        bands.rows(0, 4)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    def lacking(*_, **__):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    tifffile.imwrite(tmp_path / "x.tif", picture(), photometric="rgb")
    bands = open_bands(tmp_path / "x.tif")
    bands.page.decode = lacking
    with pytest.raises(MissingDependency, match=r"x.tif: its compression needs imagecodecs: pip install 'ommatid\[sli"):
        bands.rows(0, 4)
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    with pytest.raises(
        MissingDependency, match=r"x.tif: TIFF in parts needs tifffile: pip install 'ommatid\[slides\]'"
    ):
        open_bands(tmp_path / "x.tif")


# --- predictions in windows ---


class Bright(torch.nn.Module):
    def forward(self, images):
        return 40 * (images.mean(dim=1, keepdim=True) - 0.5)


@pytest.fixture
def slide(tmp_path):
    pixels = np.full((90, 130, 3), 20, dtype=np.uint8)
    pixels[30:60, 40:100] = 240
    tifffile.imwrite(tmp_path / "slide.tif", pixels, tile=(32, 32), compression="zlib", photometric="rgb")
    return tmp_path / "slide.tif"


def test_a_large_image_is_found_in_windows(slide, tmp_path):
    method = trans_net()
    method.network = Bright()
    found = method.predict(slide, tile=16)
    assert isinstance(found, TiledSegmentation)
    assert found.levels.shape == (90, 130)
    told = found.to_json()
    assert told["box"] == [40, 30, 100, 60]
    assert told["foreground"] == pytest.approx(30 * 60 / (90 * 130), abs=1e-3)
    found.draw(tmp_path / "found.png")
    assert Image.open(tmp_path / "found.png").size == (130, 90)
    mask = np.asarray(Image.open(tmp_path / "found.mask.png"))
    assert set(np.unique(mask)) == {0, 255}
    assert (mask > 0).sum() == 1800


def test_windows_may_be_larger_than_what_was_trained_on(slide):
    method = trans_net()
    method.network = Bright()
    left, top, right, bottom = method.predict(slide, tile=32).to_json()["box"]
    assert abs(left - 40) <= 2
    assert abs(bottom - 60) <= 2
    assert abs(right - 100) <= 2
    assert abs(top - 30) <= 2


def test_otsu_is_chosen_of_the_whole_map(slide):
    method = trans_net(threshold="otsu")
    method.network = Bright()
    found = method.predict(slide, tile=16)
    assert found.threshold == float(otsu_of_counts(found.levels.flatten().bincount(minlength=256).float()))
    assert method.predict(slide, tile=16, threshold=0.9).threshold == 0.9


def test_masks_of_very_large_images_are_written_in_parts(slide, tmp_path, monkeypatch):
    from ommatid.dense import draw

    monkeypatch.setattr(draw, "MOST_PIXELS", 1000)
    method = trans_net()
    method.network = Bright()
    method.predict(slide, tile=16).draw(tmp_path / "found.png")
    mask = tifffile.imread(tmp_path / "found.mask.tif")
    assert mask.shape == (90, 130)
    assert (mask > 0).sum() == 1800


def test_rows_that_are_done_are_let_go(monkeypatch):
    """Memory for an image of any height: of all that were read, no more than two bands are alive."""
    from ommatid.dense import segmenter, task

    class Noted(WholeImage):
        def rows(self, top, bottom):
            found = super().rows(top, bottom).clone()
            alive.append(weakref.ref(found.untyped_storage()))
            most.append(sum(each() is not None for each in alive))
            return found

    alive, most = [], []
    monkeypatch.setattr(task, "MOST_SHOWN", 40)
    monkeypatch.setattr(segmenter, "open_bands", lambda path: Noted(torch.zeros(3, 320, 64, dtype=torch.uint8)))
    assert trans_net().predict("tall.tif", tile=16).shown.shape == (3, 40, 8)
    assert len(most) > 10
    assert max(most) <= 2


def test_drawings_are_no_larger_than_can_be_shown(tmp_path, monkeypatch):
    from ommatid.dense import task

    monkeypatch.setattr(task, "MOST_SHOWN", 40)
    assert shown_step(90, 130) == 4
    Image.fromarray(picture(90, 130)).save(tmp_path / "x.png")
    found = trans_net().predict(tmp_path / "x.png", tile=16)
    assert found.shown.shape == (3, 23, 33)
    found.draw(tmp_path / "found.png")
    assert Image.open(tmp_path / "found.png").size == (33, 23)
