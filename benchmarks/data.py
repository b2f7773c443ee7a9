"""Photographs for the benchmarks, with real network scores: CamVid, MSRC-21 and the two photos that ship with densecrf.

The data folder is named by the environment variable DENSECRF_DATA (or the argument `root`) and has two subfolders.
None of CamVid or MSRC may be redistributed, so none of it is in this repository (README.md says where it comes from).

* ``camvid_val/``: ``images/NAME.png`` 480x360, ``labels/NAME.png`` (11: void), ``scores/NAME.npz`` with
  the key ``scores``, float16 [11, 45, 60] logits at stride 8
* ``msrc/``: the same, images mostly 320x213, 255: void, scores [21, ceil(H/8), ceil(W/8)] of the padded image
* ``msrc/textonboost_2_14/``: ``image.png``, ``label.png``, ``unary_prob.npz`` with the key ``prob`` [H, W, 21]
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from densecrf import unary
from densecrf.datasets import Sample
from densecrf.metrics import VOID

Array = NDArray[Any]
DEMO = Path(__file__).resolve().parent.parent / "examples" / "data"
NOISE = 2.0  # standard deviation of a camera's noise, of 255
SHIPPED = ("astronaut", "camera")
STREETS = ("0016E5_07979", "0016E5_08051", "0016E5_08117", "0016E5_07959")


class Photo(NamedTuple):
    """One photograph with its network scores."""

    name: str
    image: NDArray[np.uint8]  # [H, W, 3]
    logits: NDArray[np.float32]  # [L, H, W], at the size of the image
    labels: NDArray[np.uint8] | None  # [H, W] ground truth, None where there is none


class Crop(NamedTuple):
    """A rectangle of one photograph, at full resolution."""

    dataset: str
    photo: str
    x: int
    y: int
    width: int
    height: int


# Most are 150x110, where the exact answer takes half a minute. Chosen by place, not by any error: three from
# the middle of a street scene, the others where the network is undecided (several labels, an outline).
CROPS = (
    Crop("camvid", "0016E5_07979", 165, 125, 150, 110),
    Crop("camvid", "0016E5_08051", 165, 125, 150, 110),
    Crop("camvid", "0016E5_08117", 165, 125, 150, 110),
    Crop("camvid", "0016E5_07959", 200, 100, 150, 110),
    Crop("camvid", "0016E5_07995", 330, 120, 150, 110),
    Crop("camvid", "0016E5_08031", 170, 110, 150, 110),
    Crop("camvid", "0016E5_08061", 250, 150, 150, 110),
    Crop("camvid", "0016E5_08097", 100, 100, 150, 110),
    Crop("camvid", "0016E5_08133", 130, 110, 100, 75),
    Crop("msrc", "10_15_s", 170, 0, 150, 110),
    Crop("msrc", "14_5_s", 120, 0, 150, 110),
    Crop("msrc", "19_5_s", 120, 130, 150, 110),
    Crop("msrc", "4_5_s", 40, 90, 100, 75),
    Crop("msrc", "17_25_s", 100, 80, 200, 130),
    Crop("demo", "camera", 160, 60, 150, 110),
    Crop("demo", "astronaut", 100, 20, 250, 187),
)


def has_root() -> bool:
    """Whether there is a data folder."""
    return bool(os.environ.get("DENSECRF_DATA"))


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The data folder: `root`, or the environment variable DENSECRF_DATA."""
    named = root or os.environ.get("DENSECRF_DATA")
    if not named:
        raise SystemExit("DENSECRF_DATA: must name the folder with camvid_val and msrc, is not set")
    if not Path(named).is_dir():
        raise SystemExit(f"DENSECRF_DATA: must name a folder, got {named}")
    return Path(named)


def camvid(root: str | os.PathLike[str] | None = None, names: list[str] | None = None) -> Iterator[Photo]:
    """CamVid-11 validation images, L = 11, 480x360."""
    yield from _folder(data_root(root) / "camvid_val", names)


def msrc(root: str | os.PathLike[str] | None = None, names: list[str] | None = None) -> Iterator[Photo]:
    """MSRC-21 validation images, L = 21, mostly 320x213."""
    yield from _folder(data_root(root) / "msrc", names)


def demo(names: Sequence[str] | None = None) -> Iterator[Photo]:
    """The photos that ship with densecrf, L = 2 (background, person), 512x512, no ground truth."""
    for name in names or SHIPPED:
        image = np.asarray(Image.open(DEMO / f"{name}.png").convert("RGB"))
        with np.load(DEMO / f"{name}_scores_256.npz") as file:
            scores = resize_bilinear(file["scores"], *image.shape[:2])
        yield Photo(name, image, scores, None)


def crops(chosen: Iterable[Crop] = CROPS) -> Iterator[Photo]:
    """Rectangles, cut out of the photograph and of its scores at full size."""
    loaders: dict[str, Any] = {"camvid": partial(camvid, None), "msrc": partial(msrc, None), "demo": demo}
    for crop in chosen:
        photo = next(loaders[crop.dataset]([crop.photo]))
        y, x = slice(crop.y, crop.y + crop.height), slice(crop.x, crop.x + crop.width)
        yield Photo(
            f"{crop.dataset}-{crop.photo}-{crop.width}x{crop.height}+{crop.x}+{crop.y}",
            np.ascontiguousarray(photo.image[y, x]),
            np.ascontiguousarray(photo.logits[:, y, x]),
            None if photo.labels is None else np.ascontiguousarray(photo.labels[y, x]),
        )


def resize_bilinear(scores: NDArray[Any], height: int, width: int) -> NDArray[np.float32]:
    """Bilinear upsampling of ``[L, h, w]``, half-pixel centres, edges repeated."""
    rows, columns = _taps(scores.shape[1], height), _taps(scores.shape[2], width)
    out = scores.astype(np.float32)
    out = out[:, rows[0]] * (1 - rows[2][:, None]) + out[:, rows[1]] * rows[2][:, None]
    return out[:, :, columns[0]] * (1 - columns[2]) + out[:, :, columns[1]] * columns[2]


def _taps(size: int, new: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """The two source indices and the second one's share, for each of `new` samples."""
    at = np.clip((np.arange(new) + 0.5) * size / new - 0.5, 0, size - 1)
    low = np.floor(at).astype(np.intp)
    return low, np.minimum(low + 1, size - 1), (at - low).astype(np.float32)


def _folder(folder: Path, names: list[str] | None) -> Iterator[Photo]:
    for name in names or (folder / "list.txt").read_text().split():
        image = np.asarray(Image.open(folder / "images" / f"{name}.png").convert("RGB"))
        labels = np.asarray(Image.open(folder / "labels" / f"{name}.png"))
        with np.load(folder / "scores" / f"{name}.npz") as file:
            scores = file["scores"]
        # Both networks have stride 8; an image of another size was padded at the right and bottom.
        logits = resize_bilinear(scores, scores.shape[1] * 8, scores.shape[2] * 8)
        logits = np.ascontiguousarray(logits[:, : image.shape[0], : image.shape[1]])
        yield Photo(name, image, logits, labels)


class Case(NamedTuple):
    """One row: size, labels, iterations."""

    width: int
    height: int
    labels: int
    iterations: int


def photographs(width: int, height: int) -> list[tuple[str, Array]]:
    """Photographs of a size: crops where they are large enough, enlarged otherwise."""
    paths = [DEMO / f"{name}.png" for name in SHIPPED]
    root = os.environ.get("DENSECRF_DATA")
    if root:
        paths += [Path(root) / "camvid_val" / "images" / f"{name}.png" for name in STREETS]
    found = []
    for path in paths:
        with Image.open(path) as file:
            image = file.convert("RGB")
        scale = max(width / image.width, height / image.height)
        if scale > 1:
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        pixels = np.array(image)[:height, :width].copy()  # pydensecrf wants it contiguous and writable
        found.append((path.stem, pixels))
    return found


def enlarged(width: int, height: int) -> Array:
    """The photograph `astronaut` at any size: a crop, or mirrored copies of it enlarged to four times its pixels.

    The noise of a camera is added, or neighbours in an enlarged photo would be more alike than in a real one, and its
    lattice too small.
    """
    with Image.open(DEMO / "astronaut.png") as file:
        photo = file.convert("RGB")
    if width <= photo.width and height <= photo.height:
        return np.array(photo)[:height, :width].copy()
    side = 2 * photo.width
    pixels = np.asarray(photo.resize((side, side), Image.Resampling.BICUBIC))[:height, :width]
    more = (0, max(0, height - side)), (0, max(0, width - side)), (0, 0)
    tiled = np.pad(pixels, more, mode="symmetric")
    noise = np.random.default_rng(0).normal(scale=NOISE, size=tiled.shape).astype(np.float32)
    return np.clip(np.rint(tiled + noise), 0, 255).astype(np.uint8)


def unary_of(case: Case) -> Array:
    """Energies of random scores at stride 8, upsampled."""
    rng = np.random.default_rng(0)
    small = rng.normal(scale=2.0, size=(case.labels, case.height // 8 + 1, case.width // 8 + 1))
    return unary.from_logits(resize_bilinear(small, case.height, case.width))


# By folder: what the benchmarks have to be told of each data set, and whether it has thin labels, for `labels`.
SETS: dict[str, dict[str, Any]] = {
    "camvid_val": {"title": "CamVid", "void": [11], "stride": 8, "thin": True},
    "msrc": {"title": "MSRC-21", "void": [255], "stride": 8, "thin": False},
}


def title(folder: Path) -> str:
    """Of a data set, for readers and (in lower case) for the names of result files."""
    return str(SETS[folder.name]["title"]) if folder.name in SETS else folder.name


TEXTONBOOST = "unary_prob.npz"


def textonboost(folder: Path) -> list[Sample]:
    """The image of Krähenbühl & Koltun (2011) with TextonBoost's probabilities, and with their softmax.

    The second is what their program takes for the unary: energies between 0 and 1, weak enough to let the photo say
    where the branches of the tree are.
    """
    image = np.asarray(Image.open(folder / "image.png").convert("RGB"))
    labels = np.asarray(Image.open(folder / "label.png")).astype(np.int32)
    truth = np.where(labels == 255, VOID, labels)
    with np.load(folder / TEXTONBOOST) as file:
        probs = np.moveaxis(file["prob"].astype(np.float32), -1, 0)
    found = {"probabilities": -unary.from_probs(probs / probs.sum(axis=0)), "softmax": probs}
    return [Sample(name, image, np.ascontiguousarray(logits), truth) for name, logits in found.items()]


def stand_in(folder: Path) -> Path:
    """A data set of the shipped photos at a quarter of their size, the network's own fine map as the truth.

    It shows that everything runs; it measures nothing.
    """
    for part in ("images", "scores", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for photo in demo():
        small = Image.fromarray(photo.image).resize((128, 128), Image.Resampling.BICUBIC)
        small.save(folder / "images" / f"{photo.name}.png")
        labels = photo.logits[:, ::4, ::4].argmax(axis=0).astype(np.uint8)
        Image.fromarray(labels).save(folder / "labels" / f"{photo.name}.png")
        shutil.copy(DEMO / f"{photo.name}_scores.npz", folder / "scores" / f"{photo.name}.npz")
    return folder
