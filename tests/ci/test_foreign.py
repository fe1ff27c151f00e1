"""ci/foreign.py finds what Chromium asks other hosts for, in each form, and nothing else."""

import base64

import pytest

import check_book
from foreign import foreign_addresses

AWAY = "https://cdn.example/x"
SVG = "<svg xmlns='http://www.w3.org/2000/svg' xmlns:xlink='http://www.w3.org/1999/xlink'>{}</svg>"
# Name -> the body of a page, and further files.
ASKED = {
    "script": f'<script src="{AWAY}.js"></script>',
    "capitals": '<SCRIPT SRC="HTTPS://CDN.EXAMPLE/X.JS"></SCRIPT>',
    "no scheme": '<img src="//cdn.example/x.png">',
    "backslashes": r'<img src="\\cdn.example\x.png">',
    "blanks": '<img src=" \n ht\ntps://cdn.example/x.png ">',
    "entities": '<img src="&#104;ttps&colon;//cdn.example/x.png">',
    "unquoted": f"<img src={AWAY}.png>",
    "slash": f'<img/src="{AWAY}.png">',
    "link": f'<link rel="stylesheet" href="{AWAY}.css">',
    "preload": f'<link rel="preload" as="image" href="{AWAY}.png">',
    "imagesrcset": f'<link rel="preload" as="image" imagesrcset="{AWAY}.png 1x">',
    "srcset": f'<img src="pixel.png" srcset="{AWAY}.png 1x">',
    "second of a srcset": f'<img src="pixel.png" srcset="data:,//x 3x,{AWAY}.png 1x">',
    "source": f'<picture><source srcset="{AWAY}.png"><img src="pixel.png"></picture>',
    "poster": f'<video poster="{AWAY}.png"></video>',
    "video": f'<video src="{AWAY}.mp4" preload="auto"></video>',
    "object": f'<object data="{AWAY}.svg"></object>',
    "embed": f'<embed src="{AWAY}.svg">',
    "iframe": f'<iframe src="{AWAY}"></iframe>',
    "srcdoc": f"<iframe srcdoc='<img src=&quot;{AWAY}.png&quot;>'></iframe>",
    "data document": f"<iframe src=\"data:text/html,<img src='{AWAY}.png'>\"></iframe>",
    "input": f'<input type="image" src="{AWAY}.png">',
    "background": f'<table background="{AWAY}.png"><tr><td>x</td></tr></table>',
    "style": f"<p style=\"background: url('{AWAY}.png')\">x</p>",
    "style without quotes": f'<p style="background: URL({AWAY}.png)">x</p>',
    "image-set": f"<style>p {{ background: image-set('pixel.png' 2x, '{AWAY}.png' 1x) }}</style><p>x</p>",
    "escapes": r"<style>p { background: url(\68 ttps://cdn.example/x.png) }</style><p>x</p>",
    "import": f'<style>@import "{AWAY}.css";</style>',
    "import url": f"<style>@import url({AWAY}.css);</style>",
    "font": f"<style>@font-face {{ font-family: f; src: url({AWAY}) }} p {{ font-family: f }}</style><p>x",
    "refresh": f'<meta http-equiv="Refresh" content="0; URL={AWAY}">',
    "refresh without url": f'<meta http-equiv="refresh" content="0;{AWAY}">',
    "base": '<base href="https://cdn.example/"><img src="x.png">',
    "svg image": SVG.format(f"<image href='{AWAY}.png' width='9' height='9'/>"),
    "xlink": SVG.format(f"<image xlink:href='{AWAY}.png' width='9' height='9'/>"),
    "animation": SVG.format(
        f"<image width='9' height='9'><set attributeName='href' to='{AWAY}.png'/></image>"
    ),
    "inline script": f'<script>fetch("{AWAY}.json").catch(() => 0)</script>',
    "module": f'<script type="module">import "{AWAY}.js"</script>',
    "import map": f'<script type="importmap">{{"imports": {{"x": "{AWAY}.js"}}}}</script>'
    '<script type="module">import "x"</script>',
    "property": f'<script>new Image().src = "{AWAY}.png"</script>',
    "written": f"<script>document.write('<img src=\"{AWAY}.png\">')</script>",
    "event": f'<img src="lost.png" onerror="fetch(\'{AWAY}\')">',
    "a stylesheet": ('<link rel="stylesheet" href="a.css">', {"a.css": f"/* */ @import '{AWAY}.css';"}),
    "a script": ('<script src="a.js"></script>', {"a.js": f"navigator.sendBeacon('{AWAY}')"}),
    "an svg": ('<object data="a.svg"></object>', {"a.svg": SVG.format(f"<image href='{AWAY}.png'/>")}),
    "import in a data stylesheet": '<link rel="stylesheet" href="data:text/css;base64,'
    f'{base64.b64encode(f"@import url({AWAY}.css)".encode()).decode()}">',
}
NOT_ASKED = {
    "a": f'<a href="{AWAY}">x</a><a href="//cdn.example">y</a><map><area href="{AWAY}"></map>',
    "own": '<img src="pixel.png"><img src="./a.png" srcset="b.png 1x, c.png?2 2x"><img src="/d.png">',
    "text": f"<p>src=\"{AWAY}\" and url({AWAY})</p><!-- <img src='{AWAY}'> -->",
    "data": '<img src="data:image/png;base64,//8AAA==" srcset="data:image/png;base64,//8AAA== 1x">',
    "comment in css": f"<style>/* url({AWAY}) */ @namespace url(http://www.w3.org/1999/xhtml);</style>",
    "namespace": SVG.format("<circle r='9'/>"),
    "data script": f'<script type="application/json">{{"fetch(": "{AWAY}"}}</script>',
    "canonical": f'<link rel="canonical" href="{AWAY}">',
    "inert in a script": f'<script>const home = "{AWAY}"; // see {AWAY}\n</script>',
    "meta": f'<meta property="og:image" content="{AWAY}.png"><meta http-equiv="refresh" content="99; url=a">',
    "own style": "<style>@import 'own.css'; p { background: url(pixel.png) }</style>",
}


@pytest.fixture(params=[*ASKED, *NOT_ASKED])
def form(request, tmp_path):
    """A folder with a page of one form, its name, and whether a browser asks another host."""
    page = (ASKED | NOT_ASKED)[request.param]
    body, files = page if isinstance(page, tuple) else (page, {})
    head = '<!doctype html><meta charset="utf8"><link rel="icon" href="data:,"><title>t</title>'
    (tmp_path / "page.html").write_text(head + body)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path, request.param in ASKED


def test_each_form_is_found_where_it_is_written_and_nothing_else(form):
    folder, asked = form
    found = foreign_addresses(folder)
    assert bool(found) == asked, found
    assert all("cdn.example" in line.lower() for line in found)


@pytest.mark.slow
def test_a_browser_asks_for_the_same(form, browser):
    folder, asked = form
    faults = []
    with check_book.served(folder) as address:
        page = browser.new_page()
        check_book.watch(page, address.removeprefix("http://"), faults)
        page.goto(f"{address}/page.html", wait_until="load" if not asked else "commit")
        for _ in range(100 if asked else 3):
            if any("asks another host" in fault for fault in faults):
                break
            page.wait_for_timeout(100)
        page.close()
    assert any("asks another host" in fault for fault in faults) == asked, faults
