"""A small folder of photographs for readers without their own: places in the pictures of two packages."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

# Which ship with scikit-learn and scikit-image. Places of a picture are on one side.
TRAIN = ("sklearn/datasets/images/flower.jpg", "skimage/data/astronaut.png", "skimage/data/coffee.png",
         "skimage/data/coins.png", "skimage/data/hubble_deep_field.jpg", "skimage/data/ihc.png",
         "skimage/data/retina.jpg", "skimage/data/rocket.jpg")  # fmt: skip
TEST = ("sklearn/datasets/images/china.jpg", "skimage/data/chelsea.png", "skimage/data/motorcycle_left.png")
SIZE = 96  # pixels of a photograph's side
ROWS = 3  # of places in a picture
VISITS, SHOTS = 5, 2  # photographs of a place: on so many days, so many shots within seconds
PLAIN = 20  # standard deviation of the brightness of a place where nothing is to be seen, such as sky
QUERIES = 2  # visits of a test place that are searched for; the gallery has the others


def cut(folder: str | Path, train: Sequence[str] = TRAIN, seed: int = 0) -> None:
    """Write a folder of JPEG, PNG and WebP files for `mdrlib`, with train, query and gallery.

    A class is a place in a picture, such as china/b2. A visit has its own viewpoint and light, and the shots
    of a visit are nearly alike.

    Args:
        folder: It must not exist.
        train: The pictures to train on, a part of TRAIN.
        seed: Of viewpoints and light.
    """
    folder, random = Path(folder), np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for name in (*train, *TEST):
        picture, places = _picture(name)
        for place, centre in places.items():
            for visit in range(VISITS):
                split = "train" if name in train else "query" if visit < QUERIES else "gallery"
                home = folder / split / Path(name).stem / place
                home.mkdir(parents=True, exist_ok=True)
                view = random.uniform(-1, 1, 9)
                for shot in range(SHOTS):
                    moved = view + random.uniform(-0.06, 0.06, 9)
                    _save(_photograph(picture, centre, moved), home / f"visit-{visit}-shot-{shot}")


def _picture(name: str) -> tuple[Image.Image, dict[str, np.ndarray]]:
    """Read a picture with a mirrored border of SIZE pixels, and the centres of its places in it."""
    package, _, path = name.partition("/")
    file = Path(find_spec(package).origin).parent / path
    with Image.open(file) as image:
        picture = image.convert("RGB")
    width = round(picture.width * ROWS * SIZE / picture.height)
    pixels = np.asarray(picture.resize((width, ROWS * SIZE), Image.Resampling.LANCZOS))
    pixels = np.pad(pixels, ((SIZE, SIZE), (SIZE, SIZE), (0, 0)), mode="reflect")
    places = {}
    for row, column in np.ndindex(ROWS, width // SIZE):
        top, left = SIZE * (1 + row), SIZE * (1 + column)
        if pixels[top : top + SIZE, left : left + SIZE].std((0, 1)).max() > PLAIN:
            places[f"{'abc'[row]}{column + 1}"] = np.array([left, top]) + SIZE / 2
    return Image.fromarray(pixels), places


def _photograph(picture: Image.Image, centre: np.ndarray, view: np.ndarray) -> Image.Image:
    """Return a photograph of a place: `view` has 9 numbers from -1 to 1, for viewpoint and light."""
    turn, zoom, shift, light, cast = np.radians(70) * view[0], 1.6 ** view[1], view[2:4], view[4:6], view[6:]
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * zoom
    corner = centre + 0.25 * SIZE * shift - turned @ np.full(2, SIZE / 2)
    affine = [*turned[0], corner[0], *turned[1], corner[1]]
    seen = picture.transform((SIZE, SIZE), Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)
    unit = (np.asarray(seen) / 255) ** (2.0 ** light[0]) * 1.4 ** (light[1] - 0.5) * 1.35**cast
    return Image.fromarray((255 * unit.clip(0, 1)).round().astype(np.uint8))


def _save(image: Image.Image, path: Path) -> None:
    """Store an image in the format of its visit; one of each picture is turned by EXIF, as phones do."""
    suffix = (".jpg", ".JPG", ".png", ".webp", ".jpeg")[int(path.name[6])]
    exif = Image.Exif()
    if (path.parent.name, path.name) == ("b2", "visit-1-shot-1"):
        exif[0x0112] = 6  # turn it right by 90 degrees to see it upright
        image = image.transpose(Image.Transpose.ROTATE_90)
    image.save(path.with_suffix(suffix), quality=90, exif=exif)
