"""The report as HTML: the same words and numbers as in Markdown, nothing fetched, legible on a phone."""

import base64
import io
import re
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from diffexp.evaluation import vector
from diffexp.evaluation.chart import distance_chart
from diffexp.evaluation.document import Code, Heading, Item, Picture, Table, plain
from diffexp.evaluation.grid import draw_grid, read_grid
from diffexp.evaluation.page import inline, page
from diffexp.evaluation.record import save_evaluation
from diffexp.evaluation.report import write_report
from diffexp.evaluation.sweep import evaluate
from diffexp.evaluation.table import spell_spread, summarise_arms, summarise_controls, summarise_groups
from tests.evaluation import browser

VOID = {"meta", "img", "br", "link"}
LONG = (
    "a_sampler_with_a_very_long_name_that_nothing_can_break(" + ",".join(f"setting_{i}=0.{i}" for i in range(9)) + ")"
)


class Outline(HTMLParser):
    """Checks that elements close in order; keeps elements with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.words, self.ids = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "svg"} & set(self.open):
            self.words.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.found if name == tag]


@pytest.fixture
def found(arms, denoiser, dataset, settings, provenance):
    return evaluate(arms, denoiser, dataset, settings, provenance)


@pytest.fixture
def folder(tmp_path, found):
    save_evaluation(tmp_path, found)
    write_report(tmp_path)
    return tmp_path


def test_page_and_markdown_say_the_same(folder, found):
    """Every cell and every paragraph of the one is in the other."""
    text = (folder / "report.html").read_text(encoding="utf-8")
    words = " ".join("".join(Outline(text).words).split())
    lines = (folder / "report.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) > 60
    for line in lines:
        if line.startswith(("!", "[PNG]", "```")) or set(line) <= set("|-: "):
            continue
        for cell in line.split("|") if line.startswith("|") else [line.lstrip("# ")]:
            assert " ".join(plain(cell).split()) in words
    for arm in summarise_arms(found.rows):
        assert spell_spread(arm) in words


def test_a_page_needs_nothing_but_itself(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Outline(text)
    assert page.all("html") == [{"lang": "en"}]
    assert not page.all("script")
    assert not page.all("link")
    assert not re.search(r"url\(|@import", text)
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in page.all("img"))
    assert all("src" not in attrs for tag, attrs in page.found if tag != "img")
    assert len(page.ids) == len(set(page.ids))
    assert {link["href"][1:] for link in page.all("a") if link["href"].startswith("#")} == set(page.ids)
    assert all(chart["aria-label"] for chart in page.all("svg") if chart.get("role") == "img")
    levels = [int(tag[1]) for tag, _ in page.found if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert max(after - before for before, after in pairwise(levels)) == 1


def test_what_is_not_ours_is_escaped(tmp_path):
    evil = '<script>alert(1)</script> & "b"'
    blocks = [
        Heading(1, evil), Heading(2, evil), evil, Table([evil, "b"], [[evil, "*x*"]]), Item(evil, evil), Code(evil),
        "[click](javascript:alert(1)) [there](https://a.b/?c=1&d=2)",
    ]  # fmt: skip
    outline = Outline(page(blocks, tmp_path))
    assert not outline.all("script")
    assert " ".join(outline.words).count('<script>alert(1)</script> & "b"') == 10
    assert [link["href"] for link in outline.all("a")] == ["#s1", "https://a.b/?c=1&d=2"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a **b `c`** d", "a <strong>b <code>c</code></strong> d"),
        ("*The title*, 2 * 3 * 4", "<em>The title</em>, 2 * 3 * 4"),
        ("`a*b*c` < 5", "<code>a*b*c</code> &lt; 5"),
        ("[run](../x/report.md)", '<a href="../x/report.html">run</a>'),
    ],
)
def test_marks(text, expected):
    assert inline(text) == expected


def test_the_images_of_a_page_are_those_of_the_grid(tmp_path):
    """At their own size, whatever they were enlarged by; large ones are made smaller for the page alone."""
    small = torch.arange(3 * 8 * 8, dtype=torch.uint8).reshape(3, 1, 8, 8)
    draw_grid([("NFE 5", small), ("real", small[:2])], tmp_path / "s.png", "title <1>")
    title, rows = read_grid(tmp_path / "s.png")
    assert title == "title <1>"
    assert [label for label, _ in rows] == ["NFE 5", "real"]
    np.testing.assert_array_equal(rows[0][1], small.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy())
    assert rows[1][1].shape == (2, 8, 8, 3)
    large = torch.full((2, 3, 256, 200), 77, dtype=torch.uint8)
    draw_grid([("", large)], tmp_path / "l.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "other.png")
    assert read_grid(tmp_path / "other.png") is None
    text = page([Picture(f"{name}.png", name) for name in ("s", "l", "other")], tmp_path)
    assert "title &lt;1&gt;" in text
    sizes = []
    for image in Outline(text).all("img"):
        with Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))) as picture:
            sizes.append(picture.size)
    assert sizes == [(3 * 9 - 1, 8), (2 * 9 - 1, 8), (2 * (112 + 7) - 7, 143), (9, 9)]


def test_a_chart_shows_the_numbers_where_they_are(found):
    chart = distance_chart(summarise_arms(found.rows), summarise_controls(found.rows), found.protocols[0])
    text = vector.draw(chart, 700)
    titles = [unescape(title) for title in re.findall("<title>(.*?)</title>", text)]
    assert titles == [point.text for series in chart.series for point in series.points]
    (first, second) = re.findall('<polyline points="([^"]+)"', text)
    assert text.count("stroke-dasharray") == 2, "the second sampler is dashed, and the floor dotted"
    places = [tuple(map(float, place.split(","))) for place in f"{first} {second}".split()]
    points = [point for series in chart.series for point in series.points]
    order = sorted(range(len(points)), key=lambda place: points[place].x)
    assert [places[place][0] for place in order] == sorted(place[0] for place in places)
    lowest = min(range(len(points)), key=lambda place: points[place].y)
    assert places[lowest][1] == max(place[1] for place in places), "down is small"
    assert all(0 < x < 700 for x, _ in places)


def test_lines_stand_out_on_white_and_on_black(found):
    rows = [row for row in found.rows if row.control is None]
    arms = summarise_groups([(f"seed={seed}", rows) for seed in range(9)])
    text = vector.draw(distance_chart(arms, [], found.protocols[0]), 700)
    groups = re.findall(r'class="s" style="--d:(#\w+)" stroke="(#\w+)"', text)
    assert len(groups) == 18
    assert len(set(groups)) == 9
    assert all(vector.contrast(light, "#ffffff") >= 3 for _, light in groups)
    assert all(vector.contrast(dark, "#15171a") >= 4.5 for dark, _ in groups)
    assert vector.contrast("#000000", "#ffffff") == pytest.approx(21.0)


@pytest.mark.skipif(browser.find() is None, reason="no Chromium here: apt-get install chromium")
def test_in_a_browser_as_wide_as_a_phone(folder, tmp_path):
    """No error, nothing asked for, no sideways scrolling, one of the two drawings of a chart; the checks can fail."""
    long = page([Heading(1, LONG), LONG, Table([LONG] * 3, [[LONG] * 3], 1), Code(LONG * 3), Item(LONG, LONG)], folder)
    (tmp_path / "long.html").write_text(long, encoding="utf-8")
    bad = '<body><script>missing()</script><img src="http://localhost:9/a.png"><pre style="width:500px">a</pre>'
    (tmp_path / "bad.html").write_text(bad)
    with browser.Browser(tmp_path / "profile") as chromium:
        chromium.open(tmp_path / "bad.html")
        assert any("missing is not defined" in line for line in chromium.logged)
        assert "http://localhost:9/a.png" in chromium.asked
        for name in ("long", "report"):
            path = (tmp_path if name == "long" else folder) / f"{name}.html"
            chromium.open(path)
            assert chromium.value("[innerWidth, document.scrollingElement.scrollWidth].join()") == "390,390"
            assert chromium.logged == []
            assert [url for url in chromium.asked if not url.startswith("data:")] == [path.as_uri()]
        shown = "[...document.querySelectorAll('.chart')].map(e => e.getBoundingClientRect().width > 300).join()"
        assert chromium.value(shown) == "false,true,false,true"
        chromium.shoot(tmp_path / "phone.png")
        with Image.open(tmp_path / "phone.png") as image:
            assert image.width == 2 * 390
            assert image.height > 2 * 2000
            assert np.asarray(image.convert("L")).std() > 10
