"""Figures behind a slider stand on their own in a page and follow the slider in Chromium."""

import html.parser

import pytest

from mdrbook import slider, style

LABELS = ['a <b> & "c"', "second", "third"]


class Tags(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, name):
        return [attributes for tag, attributes in self.found if tag == name]


@pytest.fixture(scope="module")
def player():
    figures = []
    for k in range(3):
        fig, ax = style.figure(2, 1)
        ax.plot([0, k])
        figures.append(fig)
    return slider.frames(figures, LABELS, "a line", caption="Some lines", start=1).data


def test_frames_stand_on_their_own(player):
    tags = Tags(player)
    images, (control,) = tags.all("img"), tags.all("input")
    assert [image["alt"] for image in images] == [f"a line: {label}" for label in LABELS]
    assert [image["data-label"] for image in images] == LABELS
    assert all(image["src"].startswith("data:image/png;base64,iVBOR") for image in images)
    assert len({image["src"] for image in images}) == 3
    assert ["display:block" in image["style"] for image in images] == [False, True, False]
    assert control["type"] == "range" and (control["min"], control["max"], control["value"]) == (
        "0",
        "2",
        "1",
    )
    assert "data-lm-suppress-shortcuts" in control  # JupyterLab leaves it its arrow keys
    assert control["aria-label"] == "Some lines" and control["aria-valuetext"] == "second"
    assert tags.text == "secondSome lines"
    assert "http" not in player and not tags.all("script") and not tags.all("link")
    assert not any("id" in attributes for _, attributes in tags.found)  # several can share a page


def test_each_figure_has_a_label():
    fig, _ = style.figure(1, 1)
    with pytest.raises(ValueError):
        slider.frames([fig], ["a", "b"], "alt")


def test_frames_follow_the_slider_in_a_browser(show, player):
    page = show(player + player)  # two of them do not disturb each other
    first, second = page.locator(".mdr-player").all()
    first.locator("input").focus()
    page.keyboard.press("ArrowLeft")
    assert first.locator("img:visible").get_attribute("data-label") == LABELS[0]
    assert first.locator(".mdr-player-label").inner_text() == LABELS[0]
    assert first.locator("input").get_attribute("aria-valuetext") == LABELS[0]
    assert second.locator("img:visible").get_attribute("data-label") == LABELS[1]
