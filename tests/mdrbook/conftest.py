"""The playground's page in headless Chromium; `ci/check_book.py` sees it within the book."""

import shutil
from functools import partial

import pytest

import check_book
from tests.mdrbook.playground_page import HEAD, ROOT, markup


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("playground")
    shutil.copytree(ROOT / "book/extra", folder, dirs_exist_ok=True)
    (folder / "page.html").write_text(f"{HEAD}{markup()}</article></body></html>", encoding="utf8")
    with check_book.served(folder) as host:
        yield f"{host}/page.html"


@pytest.fixture
def open_page(visit, address):
    """open_page(**context options) -> a page on the playground."""
    return partial(visit, address)
