"""The page and the picture of search results: whole by themselves, and nothing in a name is markup."""

import base64
import io
import os
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from mdrlib import search_page
from mdrlib.gallery import Match


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def results(album):
    awkward = album / "<img src=x onerror=alert(1)> & 'quoted'.png"
    awkward.write_bytes((album / "milk/e.PNG").read_bytes())
    first = [Match(1, 0.25, str(album / "milk/e.PNG"), "milk"), Match(2, 0.5, str(awkward), "<b>oats</b>")]
    return [awkward, album / "loose.jpg"], [first, [Match(1, 1.0, str(album / "other.jpeg"), None)]]


def test_a_page_has_its_pictures_and_names_in_it_and_asks_for_nothing(results, tmp_path):
    search_page.write(tmp_path / "page.html", *results)
    text = (tmp_path / "page.html").read_text("utf8")
    page = Elements(text)
    images = [attributes for tag, attributes in page.found if tag == "img"]
    assert len(images) == 5 and {tag for tag, _ in page.found} & {"script", "link", "b", "iframe"} == set()
    for image in images:
        assert set(image) == {"src", "alt"} and image["alt"]
        kind, data = image["src"].split(",")
        assert kind == "data:image/jpeg;base64"
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        assert max(picture.size) <= 160
    assert "url(" not in text and "://" not in text
    words = " ".join(page.texts)
    for match in sum(results[1], []):
        assert os.path.basename(match.path) in words and f"{match.distance:.4f}" in words
    assert "<b>oats</b>" in words and results[0][0].name in words


def test_a_page_is_light_and_dark_and_opens_without_faults(results, tmp_path, visit):
    import check_book

    search_page.write(tmp_path / "page.html", *results)
    seen = {}
    with check_book.served(tmp_path) as address:
        for scheme in ("light", "dark"):
            page = visit(f"{address}/page.html", color_scheme=scheme)
            colours = "b => [getComputedStyle(b).backgroundColor, getComputedStyle(b).color]"
            seen[scheme] = page.eval_on_selector("body", colours)
            wide = page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            loaded = page.eval_on_selector_all("img", "all => all.every(i => i.naturalWidth > 0)")
            assert wide and loaded
    assert seen["light"] != seen["dark"]
    assert all(back != front for back, front in seen.values())


def test_a_picture_has_a_cell_for_each_photograph(results, tmp_path):
    search_page.write(tmp_path / "page.png", *results)
    picture = Image.open(tmp_path / "page.png")
    assert picture.format == "PNG" and picture.size == (3 * 170, 2 * 220)
    loose = Image.open(results[0][1]).convert("RGB")
    differences = np.asarray(picture)[220 : 220 + loose.height, : loose.width] - np.asarray(loose).astype(int)
    assert np.abs(differences).max() == 0, "small photographs keep their size"
    assert picture.getpixel((400, 300)) == (255, 255, 255), "the second query has one match"


@pytest.mark.parametrize("name", ["page.pdf", "page", "page.HTM"])
def test_other_kinds_of_files_are_refused(results, tmp_path, name):
    with pytest.raises(ValueError, match=r"must end in .html or .png, got .*page"):
        search_page.write(tmp_path / name, *results)


def test_a_photograph_that_is_gone_leaves_the_old_page(results, tmp_path, album):
    search_page.write(tmp_path / "page.html", *results)
    before = (tmp_path / "page.html").read_bytes()
    (album / "other.jpeg").unlink()
    with pytest.raises(OSError, match="other.jpeg cannot be read"):
        search_page.write(tmp_path / "page.html", *results)
    assert (tmp_path / "page.html").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
