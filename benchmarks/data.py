"""Photographs with real network scores for the benchmarks: CamVid, MSRC-21 and the two demo photos.

The data folder is named by the environment variable DENSECRF_DATA (or the argument `data_root`) and has
three subfolders. None of CamVid or MSRC may be redistributed, so none of it is in this repository.

* ``camvid_val/``: ``images/NAME.png`` 480x360, ``labels/NAME.png`` (11: void), ``scores/NAME.npz`` with
  the key ``scores``, float16 [11, 45, 60] logits at stride 8
* ``msrc/``: the same, images mostly 320x213, 255: void, scores [21, ceil(H/8), ceil(W/8)] of the padded image
* ``demo/``: ``NAME.png`` 512x512 and ``NAME_selfie_logits.npz`` with the key ``logit_256x256``, the logit of
  "person"; NAME is astronaut or camera
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image


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


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The data folder: `root`, or the environment variable DENSECRF_DATA."""
    named = root or os.environ.get("DENSECRF_DATA")
    if not named:
        raise SystemExit("DENSECRF_DATA: must name the folder with camvid_val, msrc and demo, is not set")
    if not Path(named).is_dir():
        raise SystemExit(f"DENSECRF_DATA: must name a folder, got {named}")
    return Path(named)


def camvid(root: str | os.PathLike[str] | None = None, names: list[str] | None = None) -> Iterator[Photo]:
    """CamVid-11 validation images, L = 11, 480x360."""
    yield from _folder(data_root(root) / "camvid_val", names)


def msrc(root: str | os.PathLike[str] | None = None, names: list[str] | None = None) -> Iterator[Photo]:
    """MSRC-21 validation images, L = 21, mostly 320x213."""
    yield from _folder(data_root(root) / "msrc", names)


def demo(root: str | os.PathLike[str] | None = None, names: list[str] | None = None) -> Iterator[Photo]:
    """The photos that ship with densecrf, L = 2 (background, person), 512x512, no ground truth."""
    folder = data_root(root) / "demo"
    for name in names or ["astronaut", "camera"]:
        image = np.asarray(Image.open(folder / f"{name}.png").convert("RGB"))
        with np.load(folder / f"{name}_selfie_logits.npz") as file:
            logit = file["logit_256x256"].astype(np.float32)
        scores = resize_bilinear(np.stack([-logit / 2, logit / 2]), *image.shape[:2])
        yield Photo(name, image, scores, None)


def crops(root: str | os.PathLike[str] | None = None) -> Iterator[Photo]:
    """The rectangles of CROPS, cut out of the photograph and of its scores at full size."""
    loaders: dict[str, Any] = {"camvid": camvid, "msrc": msrc, "demo": demo}
    for crop in CROPS:
        photo = next(loaders[crop.dataset](root, [crop.photo]))
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
