"""A Sphinx extension: pages show the narrow variant of a figure in a narrow window, see `mdrbook.narrow`."""

from pathlib import Path
from typing import Any

from docutils import nodes

from mdrbook.narrow import MEDIA, taken_apart


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx, which calls this."""
    app.connect("doctree-resolved", choose_by_width)
    app.connect("build-finished", lighten)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def choose_by_width(app: Any, doctree: nodes.document, docname: str) -> None:
    """Put each image with a narrow variant into a <picture>, from which the browser chooses.

    Args:
        app: The Sphinx application.
        doctree: The document of a page, with paths of images relative to the sources.
        docname: The name of the page.
    """
    if app.builder.format != "html":
        return
    for image in list(doctree.findall(nodes.image)):
        path = Path(app.srcdir, image["uri"])
        small = taken_apart(path.read_bytes())[1] if path.suffix == ".png" and path.is_file() else None
        if small is None:
            continue
        target = Path(app.outdir, app.builder.imagedir, f"{path.stem}-narrow.png")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(small)
        up = "../" * app.builder.get_target_uri(docname).count("/")
        address = f"{up}{app.builder.imagedir}/{target.name}"
        begin = f'<picture><source media="{MEDIA}" srcset="{address} 2x">'
        at = image.parent.index(image)
        image.parent.insert(at + 1, nodes.raw("", "</picture>", format="html"))
        image.parent.insert(at, nodes.raw("", begin, format="html"))


def lighten(app: Any, error: Exception | None) -> None:
    """Remove the narrow variants from the wide images of the built pages."""
    if error is None and app.builder.format == "html":
        for path in Path(app.outdir, app.builder.imagedir).glob("*.png"):
            wide, small = taken_apart(path.read_bytes())
            if small is not None:
                path.write_bytes(wide)
