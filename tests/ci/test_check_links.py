"""ci/check_links.py finds each link that leads nowhere, and none on a page whose links lead somewhere."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import check_links

GOOD = (
    '<h1 id="top">T</h1><a name="old">O</a><a href="#top">1</a><a href="#old">2</a><a href="#">7</a>'
    '<a href="deep/other.html#%C3%A4">3</a><a href="picture.png">4</a><a href="deep/">5</a>'
    '<a href="https://example.org/a?b=c#d">6</a><a href="mailto:a@b.example">8</a><a href="">9</a>'
    '<form action="deep/other.html"></form><a>no link</a>'
)
BROKEN = {
    '<a href="lost.html">x</a>': "link to no file: lost.html",
    '<a href="deep/other.html#lost">x</a>': "link to no place: deep/other.html#lost",
    '<a href="#lost">x</a>': "link to no place: #lost",
    '<a href="../outside.html">x</a>': "link to no file: ../outside.html",
    '<a href="deep">x</a>': "link to no file: deep",
    '<form action="search.html"></form>': "link to no file: search.html",
    '<a href="https://nowhere/x">x</a>': "link of no form: https://nowhere/x",
    '<a href="https://example.org/a b">x</a>': "link of no form: https://example.org/a b",
    '<a href="https://[example/">x</a>': "link of no form",
    '<a href="javascript:go()">x</a>': "link of no form: javascript:go()",
    '<a href="//example.org/x">x</a>': "link of no form: //example.org/x",
}


@pytest.fixture
def html(tmp_path):
    """A folder of pages within another that has a page too."""
    folder = tmp_path / "html"
    (folder / "deep").mkdir(parents=True)
    (folder / "_static").mkdir()
    (tmp_path / "outside.html").write_text("outside")
    (folder / "_static/part.html").write_text('<a href="lost.html">of the theme</a>')
    (folder / "picture.png").write_bytes(b"")
    (folder / "deep/index.html").write_text('<a href="../good.html#top">up</a>')
    (folder / "deep/other.html").write_text('<p id="ä">here</p><a href="other.html#ä">here</a>')
    (folder / "good.html").write_text(GOOD)
    return folder


def test_good_links(html):
    found = check_links.internal_faults(html)
    assert found == {"deep/index.html": [], "deep/other.html": [], "good.html": []}


@pytest.mark.parametrize(("body", "fault"), BROKEN.items(), ids=BROKEN.values())
def test_broken_links(html, body, fault):
    (html / "bad.html").write_text(body * 2)
    found = check_links.internal_faults(html)
    assert len(found["bad.html"]) == 1 and found["bad.html"][0].startswith(fault)
    assert found["good.html"] == []


def test_external_links_are_asked(html, capsys):
    (html / "bad.html").write_text(
        '<a href="https://example.org/a?b=c#e">x</a><a href="http://example.net">x</a>'
    )
    links = check_links.external_links(html)
    assert links == {
        "https://example.org/a?b=c": ["bad.html", "good.html"],
        "http://example.net": ["bad.html"],
    }
    assert check_links.check_external(html, lambda url: "answered 404" if "net" in url else "") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "passed  https://example.org/a?b=c",
        "FAILED  http://example.net  (answered 404; linked from bad.html)",
        "1 passed, 1 failed",
    ]


def test_ask_a_real_server():
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/good" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f"http://127.0.0.1:{server.server_port}"
    assert check_links.ask(f"{host}/good") == ""
    assert check_links.ask(f"{host}/lost") == "answered 404"
    server.shutdown()
    server.server_close()
    assert "refused" in check_links.ask(f"{host}/good", seconds=2)
    assert check_links.ask("https://example.org:x") != ""
