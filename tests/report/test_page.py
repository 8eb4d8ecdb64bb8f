"""Pages hold what they were given, as text, and need nothing from anywhere."""

import base64
import json
import re
import shutil
import struct
import subprocess
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ommatid.errors import InputError
from ommatid.report.page import Page, write_comparison, write_report
from report.records import claim_record, comparison_record

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH to draw the page with")
VOID = {"meta", "link", "img", "br"}


def png(path: Path, size: int = 8, value: int = 200) -> Path:
    """A grey picture of `size` x `size` pixels."""
    raw = b"".join(b"\0" + bytes([value]) * size for _ in range(size))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(raw)),
        (b"IEND", b""),
    )
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


class Outline(HTMLParser):
    """Whether every tag is closed, and what was seen."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "20260101-000000"
    folder.mkdir()
    (folder / "config.yaml").write_text("method: cmi\nmodel:\n  recipe: {lr: 0.1}\ndata: {}\ntrainer: {}\nseed: 0\n")
    (folder / "environment.json").write_text(
        json.dumps({"python": "3.11", "gpus": [], "packages": {"torch": "2.13.0"}})
    )
    result = {"test": {"top1": 0.913}, "baselines": {"chance": {"top1": 0.1}}, "data": {"name": "digits <&>"}}
    (folder / "result.json").write_text(json.dumps(result))
    png(folder / "curves.png")
    png(folder / "recovered.png", value=50)
    return folder


def page_with_everything(folder: Path) -> Page:
    page = Page("A <title> & more", "lead <script>alert(1)</script>")
    page.section('section "one" <i>')
    page.text("text <img src=x onerror=alert(1)>")
    page.verdict("does not hold")
    page.table(["name <b>", "value"], [["<td>", 0.5], ["b", None]], "caption <u>")
    page.picture(png(folder / "p.png"), 'caption " <em>', alt='alt " onload="x')
    page.section("two")
    return page


def test_everything_given_is_text_and_never_markup(tmp_path):
    outline = Outline(page_with_everything(tmp_path).html())
    assert outline.open == []
    for tag in ("script", "i", "b", "u", "em"):
        assert outline.attributes(tag) == []
    assert [set(image) for image in outline.attributes("img")] == [{"alt", "src"}]
    for words in ("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "caption <u>", "name <b>"):
        assert words in outline.words
    assert outline.attributes("img")[0]["alt"] == 'alt " onload="x'


def test_a_page_needs_nothing_from_outside(tmp_path, run):
    for text in (page_with_everything(tmp_path).html(), write_report(run).read_text()):
        outline = Outline(text)
        for _, attributes in outline.tags:
            for name in ("src", "href"):
                assert (attributes.get(name) or "data:").startswith("data:")
        assert not re.search(r"https?://|url\(|@import", text)


def test_a_page_is_made_for_phones_and_for_readers_of_the_screen(tmp_path):
    outline = Outline(page_with_everything(tmp_path).html())
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in outline.attributes("meta")
    assert outline.attributes("html") == [{"lang": "en"}]
    assert [tag for tag, _ in outline.tags if re.fullmatch(r"h\d", tag)] == ["h1", "h2", "h2"]
    (box,) = outline.attributes("div")
    assert (box["role"], box["tabindex"], box["aria-label"]) == ("region", "0", "caption <u>")
    assert [header["scope"] for header in outline.attributes("th")] == ["col", "col", "row", "row"]


def test_pictures_are_inside_the_page(tmp_path):
    path = png(tmp_path / "p.png")
    page = Page("t")
    page.picture(path, "caption")
    (image,) = Outline(page.html()).attributes("img")
    assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == path.read_bytes()
    assert image["alt"] == "caption"


@pytest.mark.parametrize("name", ["missing.png", "notes.txt"])
def test_what_is_no_picture_is_refused_by_name(tmp_path, name):
    with pytest.raises(InputError, match=name):
        Page("t").picture(tmp_path / name, "caption")


def test_numbers_align_right_and_words_left():
    page = Page("t")
    page.table(["name", "value", "several"], [["a", 0.12345, "0.100 ± 0.010"], ["b", 1234567, "-"]])
    text = page.html()
    assert '<td class="number">0.123</td>' in text
    assert '<td class="number">1,234,567</td>' in text
    assert '<td class="number">0.100 ± 0.010</td>' in text
    assert '<th scope="row">a</th>' in text


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
    path = Page("t").write(tmp_path / "deep" / "page.html")
    assert path.read_text().endswith("</html>\n")
    assert [child.name for child in path.parent.iterdir()] == ["page.html"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file that can be written"):
        Page("t").write(tmp_path / "file" / "page.html")


def test_a_run_report_shows_metrics_beside_baselines_settings_environment_and_pictures(run):
    path = write_report(run)
    assert path == run / "report.html"
    outline = Outline(path.read_text())
    for words in (
        "cmi: 20260101-000000",
        "0.913",
        "chance",
        "model.recipe.lr",
        "packages.torch",
        "2.13.0",
        "digits <&>",
    ):
        assert words in outline.words
    assert len(outline.attributes("img")) == 2
    assert outline.words.index("curves") < outline.words.index("recovered")


def test_a_run_without_result_and_pictures_says_so(run):
    for name in ("result.json", "environment.json", "curves.png", "recovered.png"):
        (run / name).unlink()
    words = Outline(write_report(run).read_text()).words
    assert "has not finished" in words
    assert "Pictures" not in words


def test_a_report_goes_where_it_is_asked_to(run, tmp_path):
    assert write_report(run, tmp_path / "x.html") == tmp_path / "x.html"
    assert not (run / "report.html").exists()


def test_a_claims_report_has_a_section_a_claim_with_verdict_effects_arms_and_tuning(tmp_path):
    (tmp_path / "cmi-student.json").write_text(json.dumps(claim_record()))
    other = {**claim_record(), "claim": "cmi-diversity", "verdict": "does not hold"}
    (tmp_path / "cmi-diversity.json").write_text(json.dumps(other))
    text = write_report(tmp_path).read_text()
    outline = Outline(text)
    assert text.count("<section>") == 2
    assert "2 claims: holds 1, does not hold 1." in outline.words
    expected = (
        "even so",
        "[-0.0050, +0.0450]",
        "0.900 ± 0.100",
        "12.0 ± 1.4",
        "recipe.lr = 0.005 (chosen)",
        "top1 0.800",
    )
    for words in expected:
        assert words in outline.words
    assert 'class="verdict does-not-hold"' in text


def test_an_interval_without_bounds_can_be_reported(tmp_path):
    record = claim_record()
    record["criteria"][0] |= {"low": float("-inf"), "high": float("inf")}
    (tmp_path / "cmi-student.json").write_text(json.dumps(record))
    assert "not known" in write_report(tmp_path).read_text()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (None, None, "neither config.yaml nor claim results"),
        ("a.json", '{"job": {}}', "a.json: not the result of a claim"),
        ("a.json", '{"claim": ', "a.json: not readable as JSON"),
        ("a.json", "[1]", "a.json: not the result of a claim"),
        ("config.yaml", "model: {}", "no entry 'method'"),
    ],
)
def test_any_other_folder_is_refused_in_one_sentence(tmp_path, name, content, reason):
    if name:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=reason) as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        write_report(tmp_path / "nowhere")


def test_a_damaged_result_is_refused_by_name(run):
    for content, reason in (
        ("{", "not readable as JSON"),
        ("{}", "not the result of a run"),
        ("[]", "not the result of"),
    ):
        (run / "result.json").write_text(content)
        with pytest.raises(InputError, match=rf"result\.json: {reason}"):
            write_report(run)


def test_a_comparison_page_shows_all_methods_and_baselines(tmp_path):
    record = {**comparison_record(), "pictures": ["examples/query_1.png"]}
    (tmp_path / "new" / "examples").mkdir(parents=True)
    png(tmp_path / "new" / "examples" / "query_1.png")
    words = Outline(write_comparison(tmp_path / "new", record).read_text()).words
    for expected in ("Comparison on digits", "0.900 ± 0.141", "chance", "images.train", "850", "learns from videos"):
        assert expected in words
    assert "Test sample 1: the best answer of each method, first seed." in words


# -- in a browser ------------------------------------------------------------------------------------------------------

PHONE, HEIGHT = 390, 900


def browse(page: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """A headless Chromium on the page, in a frame as wide as a phone (the browser's own window is never so narrow)."""
    frame = folder / "frame.html"
    frame.write_text(
        f"<body style='margin:0'><iframe src='{page.as_uri()}' style='border:0;width:{PHONE}px;height:{HEIGHT}px'"
        " onload='document.title = contentDocument.documentElement.scrollWidth'></iframe>"
    )
    fixed = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files")
    profile = (f"--user-data-dir={folder / 'profile'}", f"--window-size=600,{HEIGHT}")
    command = [str(CHROMIUM), *fixed, *profile, *options, frame.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def pixels(path: Path):
    from PIL import Image

    return Image.open(path).convert("L").crop((0, 0, PHONE, HEIGHT))


@needs_browser
def test_on_a_phone_tables_scroll_in_their_box_and_the_page_does_not(tmp_path):
    page = page_with_everything(tmp_path)
    page.table([f"a long header {number}" for number in range(12)], [[0.5] * 12])
    page.picture(png(tmp_path / "wide.png", size=1500), "wide")
    shown = browse(page.write(tmp_path / "page.html"), tmp_path, "--virtual-time-budget=3000", "--dump-dom")
    assert f"<title>{PHONE}</title>" in shown.stdout


@needs_browser
def test_the_page_is_dark_in_dark_mode_and_light_in_light_mode(tmp_path):
    page = page_with_everything(tmp_path).write(tmp_path / "page.html")
    corners = {}
    for mode, number in {"dark": 0, "light": 1}.items():
        picture = tmp_path / f"{mode}.png"
        browse(page, tmp_path, f"--blink-settings=preferredColorScheme={number}", f"--screenshot={picture}")
        corners[mode] = pixels(picture).getpixel((3, 3))
        darkest, brightest = pixels(picture).getextrema()
        assert brightest - darkest > 150  # text is readable on its background
    assert corners["dark"] < 60
    assert corners["light"] > 220
