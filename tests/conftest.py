"""What tests share: a browser, small trees laid out as the benchmarks are, finished runs made by hand."""

import csv
import json
import os

# Before torch is imported: threads of several processes would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from urllib.parse import urlsplit

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")  # no window

EACH = 4  # images a class
SHOWN = """<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf8"><title>A cell</title>
<link rel="icon" href="data:,">
<meta name="viewport" content="width=device-width"><style>
html {{ --back: #ffffff; --text: #222832; }} html[data-theme=dark] {{ --back: #121212; --text: #ced6dd; }}
body {{ margin: 16px; background: var(--back); color: var(--text); }}
</style></head><body><article class="bd-content"><div class="cell_output">{}</div></article></body></html>"""


@pytest.fixture(autouse=True)
def same_environment():
    """What a command under test sets for its child processes must not reach the next test's."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def chromium():
    """Skips what needs a browser where there is none; .ci/run installs one, and fails if it cannot."""
    import check_book

    if check_book.CHROMIUM is None:
        pytest.skip("no Chromium here; .ci/run installs it")


@pytest.fixture(scope="module")
def browser(chromium):
    """Headless Chromium."""
    import check_book

    with check_book.chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser):
    """visit(address, **context options) -> the page; errors and whatever asks another host fail the test."""
    import check_book

    faults, contexts = [], []

    def visited(address, **options):
        contexts.append(browser.new_context(**({"viewport": check_book.DESKTOP} | options)))
        page = contexts[-1].new_page()
        check_book.watch(page, urlsplit(address).netloc, faults)
        page.goto(address, wait_until="load")
        return page

    yield visited
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def show(visit, tmp_path):
    """show(HTML text, **context options) -> a page with what a cell of the book has as its output."""
    import check_book

    with check_book.served(tmp_path) as address:

        def shown(html, **options):
            (tmp_path / "shown.html").write_text(SHOWN.format(html), "utf8")
            return visit(f"{address}/shown.html", **options)

        yield shown


def photograph(path, seed, size=(12, 9)):
    """A JPEG of one colour, another for each seed."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, tuple(37 * seed * k % 256 for k in (1, 3, 7))).save(path, quality=95)


def cub(root, train=(3, 7, 100)):
    folder = root / "CUB_200_2011"
    paths, labels = [], []
    for number in (*train, 101, 200):
        for k in range(EACH):
            paths.append(f"{number:03d}.Bird_{number}/Bird_{number}_{k:04d}.jpg")
            labels.append(number)
            photograph(folder / "images" / paths[-1], len(paths))
    (folder / "images.txt").write_text("".join(f"{i} {p}\n" for i, p in enumerate(paths, 1)))
    (folder / "image_class_labels.txt").write_text("".join(f"{i} {n}\n" for i, n in enumerate(labels, 1)))
    return folder


CARS = (2, 98, 99, 174, 196)


def cars_mat(root):
    from scipy.io import savemat

    folder = root / "Cars196"
    columns = "relative_im_path bbox_x1 bbox_y1 bbox_x2 bbox_y2 class test".split()
    records = []
    for number in CARS:
        for k in range(EACH):
            path = f"car_ims/{len(records) + 1:06d}.jpg"
            photograph(folder / path, len(records))
            records.append((path, 1, 2, 3, 4, number, k % 2))
    annotations = np.array([records], dtype=[(column, "O") for column in columns])
    names = np.array([[f"Car {number}" for number in range(1, 197)]], dtype=object)
    savemat(folder / "cars_annos.mat", {"annotations": annotations, "class_names": names})
    return folder


def cars_csv(root):
    folder = root / "Cars196"
    names = [f"Car {number}" for number in range(1, 197)]
    names[173] = "Ram C/V Cargo Van"
    for part in ("train", "test"):
        rows = []
        for number in CARS:
            for _ in range(EACH // 2):
                rows.append((f"{len(rows) + 1:05d}.jpg", 1, 2, 3, 4, number))
                name = names[number - 1].replace("/", "-")
                photograph(folder / "car_data" / "car_data" / part / name / rows[-1][0], len(rows))
        with open(folder / f"anno_{part}.csv", "w", newline="") as file:
            csv.writer(file).writerows(rows)
    (folder / "names.csv").write_text("\n".join(names) + "\n")
    return folder


def sop(root):
    folder = root / "Stanford_Online_Products"
    image = 0
    for split, numbers in (("train", (1, 2, 30)), ("test", (31, 40))):
        lines = ["image_id class_id super_class_id path"]
        for number in numbers:
            for k in range(EACH):
                image += 1
                kind = "bicycle" if number % 2 else "coffee_maker"
                path = f"{kind}_final/{1000 + number}_{k}.JPG"
                photograph(folder / path, image)
                lines.append(f"{image} {number} {number % 2 + 1} {path}")
        (folder / f"Ebay_{split}.txt").write_text("\n".join(lines) + "\n")
    return folder


def inshop(root, annotations="", images=""):
    folder = root / "Inshop"
    rows = []
    for item in (1, 2, 10, 11, 12):
        for k in range(EACH):
            status = "train" if item < 10 else "query" if k < 2 else "gallery"
            path = f"img/WOMEN/Dresses/id_{item:08d}/0{k}_1_front.jpg"
            photograph(folder / images / path, len(rows))
            rows.append(f"{path:70} id_{item:08d}   {status}    ")
    rows[3], rows[14] = rows[14], rows[3]  # splits are not in order
    (folder / annotations).mkdir(parents=True, exist_ok=True)
    head = f"{len(rows)}\nimage_name item_id evaluation_status\n"
    (folder / annotations / "list_eval_partition.txt").write_text(head + "\n".join(rows) + "\n")
    return folder


def inshop_apart(root):
    return inshop(root, "Eval", "Img")


LAYOUTS = {
    "cub": cub,
    "cars": cars_mat,
    "cars csv": cars_csv,
    "sop": sop,
    "inshop": inshop,
    "inshop apart": inshop_apart,
}


@pytest.fixture
def make_tree(tmp_path, monkeypatch):
    """make_tree(layout) -> the set's folder below tmp_path, which is the data root from here on.

    "cub" takes the numbers of its training classes: train=(1, 2, 3, 4).
    """
    monkeypatch.setenv("MDR_DATA_ROOT", str(tmp_path))
    monkeypatch.setenv("MDR_PROGRESS", "off")
    return lambda layout, **options: LAYOUTS[layout](tmp_path, **options)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Folders of three runs by method, with the distances of four evaluations; the last run has levels."""
    rng, edges, folders = np.random.default_rng(0), np.linspace(-6, 6, 121), {}
    for method in ("triplet", "triplet+l2", "triplet+mdr"):
        folder = folders[method] = tmp_path_factory.mktemp("run")
        counts = {"test_positive": [], "test_negative": []}
        for shift in range(4):
            counts["test_positive"].append(np.histogram(rng.normal(-0.7 * shift, 0.6, 300), edges)[0])
            counts["test_negative"].append(np.histogram(rng.normal(0.1, 0.9, 3000), edges)[0])
        np.savez(folder / "distances.npz", edges=edges, iterations=[0, 10, 20, 30], **counts)
        levels = {f"level_{k}": s for k, s in enumerate((2.5, 0.0, -2.0))} if method.endswith("mdr") else {}
        history = [{"iteration": 10 * t} | {key: s - 0.1 * t for key, s in levels.items()} for t in range(4)]
        result = {"config": {}, "metrics": {}, "selected_by": "last", "seconds": 0, "environment": {}}
        result |= {"git": None, "data": {}, "history": history}
        (folder / "result.json").write_text(json.dumps(result))
    return folders


@pytest.fixture(scope="session")
def drawings():
    """Eighty drawings of noise, in eight classes and three groups."""
    import torch

    images = torch.rand(80, 1, 32, 32, generator=torch.Generator().manual_seed(0)).round()
    labels = torch.arange(80) // 10
    xy = {
        name: np.random.default_rng(seed).normal(size=(80, 2)) for seed, name in enumerate(("triplet", "mdr"))
    }
    return xy, images, labels, [f"class <{k}>" for k in range(8)], labels % 3, ["a", "b", "c"]
