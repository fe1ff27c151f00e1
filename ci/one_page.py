"""Join the built pages to one long page to print: chapters in order, nothing folded, no controls.

Sphinx's singlehtml is no substitute: "Takeaways", citations and footnotes of all chapters get the same ids
there, so that links lead to the wrong chapter.
"""

from collections.abc import Iterable
from html import escape
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

from bs4 import BeautifulSoup, Tag

CI = Path(__file__).resolve().parent
# Lines in place of what only the web page can do.
SLIDER = (
    "On the web page a slider shows {count} pictures here, from “{first}” to “{last}”; this is “{shown}”."
)
PLAYGROUND = "On the web page you can play with this: drag points, move levels, watch both losses."
REMOVED = ".headerlink, .copybtn, script, style, button, link, section.mdr-playground, input, .d-print-none"
REFERRING = ("for", "aria-labelledby", "aria-describedby", "aria-controls", "aria-owns")


def assemble(html: Path, contents: Iterable[tuple[str, Iterable[str]]], title: str, author: str) -> str:
    """Return all pages as one HTML page, which loads stylesheets and MathJax from the folder of the pages.

    Args:
        html: The folder of built pages.
        contents: Captions of parts, each with its pages by name without suffix; a caption may be empty.
        title: Title of the book.
        author: Its authors.

    Raises:
        FileNotFoundError: A page is missing.
    """
    contents = [(caption, list(names)) for caption, names in contents]
    names = [name for _, part in contents for name in part]
    for name in names:
        if not (html / f"{name}.html").is_file():
            raise FileNotFoundError(f"no page {name}.html in {html}: call `make book` first")
    soups = {name: BeautifulSoup((html / f"{name}.html").read_text("utf8"), "html.parser") for name in names}
    articles = {name: _article(soup, name, set(names)) for name, soup in soups.items()}
    said = [soup.select_one(".bd-header-announcement__content") for soup in soups.values()]
    note = next((node.get_text().strip() for node in said if node), "")
    lines = []
    for caption, part in contents:
        lines += [f'<p class="print-part">{escape(caption)}</p>'] if caption else []
        lines += [
            f'<p><a href="#{name}"><span>{escape(_heading(articles[name]))}</span>'
            f'<span class="print-number" data-place="{name}"></span></a></p>'
            for name in part
        ]
    return "\n".join(
        [
            '<!doctype html><html lang="en" data-theme="light" data-mode="light"><head><meta charset="utf8">',
            f"<title>{escape(title)}</title>",
            *dict.fromkeys(piece for soup in soups.values() for piece in _head(soup)),
            f"<style>{(CI / 'print.css').read_text('utf8')}</style></head><body>",
            '<div class="print-title">',
            *(f"<p>{escape(line)}</p>" for line in (title, author, note)),
            "</div>",
            f'<nav class="print-contents"><h1 id="print-contents">Contents</h1>{"".join(lines)}</nav>',
            '<div class="bd-content"><div class="bd-article-container">',
            *(
                f'<article class="bd-article" id="{name}">{article.decode_contents()}</article>'
                for name, article in articles.items()
            ),
            "</div></div></body></html>",
        ]
    )


def _head(soup: BeautifulSoup) -> list[str]:
    """Stylesheets and MathJax with its settings, as a page's head has them."""
    found = soup.head.select('link[rel="stylesheet"], script') if soup.head else []
    return [str(node) for node in found if node.name == "link" or "mathjax" in str(node).lower()]


def _heading(article: Tag) -> str:
    heading = article.find("h1")
    return heading.get_text().strip() if heading else ""


def _article(soup: BeautifulSoup, name: str, names: set[str]) -> Tag:
    """The text of one page, with ids and links that are unique in the whole."""
    article = soup.find("article") or soup.body
    for still in article.select(".playground-still > p"):
        still.string = PLAYGROUND
        still["class"] = "print-note"
    for player in article.select(".mdr-player"):
        _stand_still(soup, player)
    _unfold(soup, article)
    for node in article.select(REMOVED):
        node.decompose()
    for node in article.find_all(True):
        if node.get("id"):
            node["id"] = f"{name}--{node['id']}"
        for key in REFERRING:
            del node[key]
    for link in article.find_all("a"):
        _lead(link, name, names)
    for image in article.find_all("img"):
        if not image.get("src", "").startswith("data:"):
            image["src"] = urljoin(name, image.get("src", ""))
    return article


def _stand_still(soup: BeautifulSoup, player: Tag) -> None:
    """Keep the picture of a slider that is shown, and say in a line what the web page has."""
    images = player.find_all("img")
    shown = next((image for image in images if "none" not in image.get("style", "")), images[0])
    labels = [image.get("data-label", "") for image in images]
    note = soup.new_tag("p", attrs={"class": "print-note"})
    note.string = SLIDER.format(
        count=len(images), first=labels[0], last=labels[-1], shown=shown["data-label"]
    )
    player.find("input").parent.replace_with(note)
    for image in images:
        if image is not shown:
            image.decompose()


def _unfold(soup: BeautifulSoup, article: Tag) -> None:
    """Open what is folded; of the lines to click only that of a solution stays, as a heading."""
    for folded in article.find_all("details"):
        folded["open"] = ""
        summary = folded.find("summary")
        if summary:
            word = "Solution" if "solution" in summary.get_text().lower() else ""
            label = soup.new_tag("p", attrs={"class": "print-label"})
            label.string = word
            summary.replace_with(label) if word else summary.decompose()
        folded.name = "div"
        folded["class"] = "print-open"
    for node in article.select(".dropdown, .toggle, .toggle-hidden"):
        node["class"] = [c for c in node["class"] if c not in ("dropdown", "toggle", "toggle-hidden")]


def _lead(link: Tag, name: str, names: set[str]) -> None:
    """Turn a link between pages into one within the whole, or into plain text if the page is not in it."""
    parts = urlsplit(link.get("href", ""))
    if parts.scheme or parts.netloc:
        return
    target = urljoin(name, unquote(parts.path)).removesuffix(".html") if parts.path else name
    if target not in names or "href" not in link.attrs:
        link.name = "span"
        del link["href"]
        return
    link["href"] = f"#{target}--{parts.fragment}" if parts.fragment else f"#{target}"
