"""Files in, files out: everything of the library that touches pictures and disks.

Reading turns every failure into one :class:`FileError` whose text begins with the path.  Writing goes through
:class:`Outputs`, so that a set of files appears whole or not at all.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from densecrf._outputs import FileError, Outputs

__all__ = [
    "FileError",
    "Outputs",
    "coloured",
    "enlarged_labels",
    "overlay",
    "palette",
    "read_image",
    "read_labels",
    "read_scores",
    "tinted",
    "write_labels",
    "write_picture",
    "write_probs",
]

SCORE_KEYS = ("scores", "logits", "probs")


# --- Reading ---


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a photo as the numbers that a network saw.

    EXIF rotation is applied, transparency is dropped (the colours beneath it stay), palettes are resolved, of
    several frames the first is taken, and 16 bits become 8 (65535 is white).

    Returns
    -------
    uint8 [H, W, 3], or uint8 [H, W] where the file is grey.

    Raises
    ------
    FileError
        The file is missing, is no picture, is damaged, or has more pixels than Pillow's limit against
        decompression bombs (``PIL.Image.MAX_IMAGE_PIXELS``) allows.

    """
    with _reading(path), _decoding(path, "image"), Image.open(path) as image:
        image.load()
        return _eight_bits(ImageOps.exif_transpose(image), path)


def _eight_bits(image: Image.Image, path: str | os.PathLike[str]) -> np.ndarray:
    mode = image.mode
    if mode in ("1", "L", "LA", "La"):
        return np.array(image.convert("L"))
    if mode in ("I", "F") or mode.startswith("I;16"):
        values = np.asarray(image)
        if mode == "F" or values.size and (values.min() < 0 or values.max() > 65535):
            raise FileError(f"{path}: pixels must be 8 or 16 bits, got {values.dtype} values")
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if mode in ("P", "PA", "RGBa"):
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def read_scores(path: str | os.PathLike[str], key: str | None = None) -> np.ndarray:
    """Read a network's scores from a ``.npy`` or ``.npz`` file.

    Parameters
    ----------
    path
        The file.  Its first bytes decide what it is, not its name; pickled objects are never loaded.
    key
        The name of the array in an ``.npz``.  Without it the only array is taken, else the one called
        ``scores``, ``logits`` or ``probs``.

    Returns
    -------
    Array [L, h, w] of integers or floats, as stored.

    Raises
    ------
    FileError
        The file is missing, damaged, of another kind, holds several candidates, or the array has the wrong
        rank or dtype.

    """
    with _reading(path), open(path, "rb") as file:
        if file.read(4) not in (b"\x93NUM", b"PK\x03\x04", b"PK\x05\x06"):
            raise FileError(f"{path}: scores must be a .npy or .npz file, this is neither")
        file.seek(0)
        with _decoding(path, "NumPy file"):
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return _checked_scores(loaded, path)
            with loaded:
                return _checked_scores(loaded[_pick(loaded, key, path)], path)


def _pick(archive: Any, key: str | None, path: str | os.PathLike[str]) -> str:
    names: list[str] = list(archive.files)
    held = ", ".join(names) or "nothing"
    if key is not None:
        if key not in names:
            raise FileError(f"{path}: has no array called {key!r}, it holds {held}")
        return key
    found = names if len(names) == 1 else [name for name in SCORE_KEYS if name in names]
    if len(found) != 1:
        raise FileError(f"{path}: holds {held}; name the array to take (key= in Python, --key in the shell)")
    return found[0]


def _checked_scores(scores: Any, path: str | os.PathLike[str]) -> np.ndarray:
    if not isinstance(scores, np.ndarray):
        raise FileError(f"{path}: holds no NumPy arrays (a file saved by torch or Keras?)")
    if scores.dtype.kind not in "iuf":
        raise FileError(f"{path}: scores must be integers or floats, got dtype {scores.dtype}")
    if scores.ndim != 3:
        raise FileError(f"{path}: scores must have shape [labels, height, width], got {_shape(scores)}")
    return scores


def read_labels(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a label picture: palette indices, grey values (8 or 16 bits) or black and white (0 and 1).

    Parameters
    ----------
    path
        The file.
    size
        (H, W) that it must have, those of its photo.

    Returns
    -------
    int32 [H, W].

    Raises
    ------
    FileError
        The file is missing or damaged, of another size, is a colour picture, or is a JPEG, whose compression
        changes labels.

    """
    with _reading(path), _decoding(path, "label image"), Image.open(path) as image:
        if image.format == "JPEG":
            raise FileError(f"{path}: labels must not be JPEG, its compression changes the numbers; use PNG")
        if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
            raise FileError(f"{path}: labels must be a palette or grey picture, got mode {image.mode}")
        if size not in (None, image.size[::-1]):
            have, want = (f"{width} x {height}" for width, height in (image.size, size[::-1]))
            raise FileError(f"{path}: a label picture must have the image's size, {want}, got {have}")
        return np.asarray(image).astype(np.int32)


def ignore_decoders() -> None:
    """Ignore what decoders warn of, with a filter that holds in all threads."""
    warnings.filterwarnings("ignore", module=r"PIL\.|numpy\.lib\.")


@contextmanager
def _decoders_silent() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # filters are the process's: other threads would lose theirs
        return
    with warnings.catch_warnings():
        ignore_decoders()
        yield


@contextmanager
def _reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Say in one line why the file cannot be opened."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileError(f"{path}: no such file") from error
    except OSError as error:
        raise FileError(f"{path}: cannot read: {error.strerror or error}") from error


@contextmanager
def _decoding(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Say in one line why the content makes no sense; decoders raise nearly anything on a damaged file."""
    try:
        with _decoders_silent():
            yield
    except FileError:
        raise
    except UnidentifiedImageError as error:
        raise FileError(f"{path}: not an image that Pillow can read") from error
    except Image.DecompressionBombError as error:
        limit = (Image.MAX_IMAGE_PIXELS or 0) * 2 / 1e6
        raise FileError(f"{path}: more than {limit:.0f} megapixels, Pillow's limit against bombs") from error
    except MemoryError as error:
        raise FileError(f"{path}: does not fit in memory") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileError(f"{path}: unreadable {what}: {reason}") from error


# --- Looking ---


def enlarged_labels(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Label map of the scores alone: enlarged bilinearly (half-pixel centres), then the largest score wins.

    Parameters
    ----------
    scores
        [L, h, w], any real dtype.
    size
        (H, W) of the picture.

    Returns
    -------
    [H, W], uint8 up to 256 labels, else int32.

    """
    (labels, h, w), (height, width) = scores.shape, size
    dtype = np.uint8 if labels <= 256 else np.int32
    if (h, w) == (height, width):
        return np.asarray(scores.argmax(axis=0), dtype)
    small = scores.astype(np.float32)
    above, below, down = _taps(h, height)
    left, right, along = _taps(w, width)
    result = np.empty(size, dtype)
    step = max(1, (1 << 23) // (labels * width))  # rows at a time: the whole would be L float pictures
    for top in range(0, height, step):
        rows = slice(top, top + step)
        weight = down[rows, None]
        band = small[:, above[rows]] * (1 - weight) + small[:, below[rows]] * weight
        result[rows] = (band[:, :, left] * (1 - along) + band[:, :, right] * along).argmax(axis=0)
    return result


def _taps(small: int, large: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both neighbours of every large-grid pixel in the small grid, and the second one's share."""
    position = np.clip((np.arange(large) + 0.5) * (small / large) - 0.5, 0, small - 1)
    first = position.astype(np.int64)
    return first, np.minimum(first + 1, small - 1), (position - first).astype(np.float32)


def palette(num_labels: int = 256) -> np.ndarray:
    """Colours of the PASCAL VOC colour map, uint8 [num_labels, 3].

    Bits 0, 3, 6, ... of a label make its red, from the highest bit down; bits 1, 4, 7, ... its green; bits 2,
    5, 8, ... its blue.  Every label below 2^24 has a colour of its own.
    """
    labels = np.arange(num_labels)
    colours = np.zeros((num_labels, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((labels >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colours


PANEL_SIDE = 2048  # the overlay is for the eye: larger photos are shrunk in it
NIGHT = np.array([20, 0, 60], np.uint8)  # over the background, where there are two labels


def overlay(image: np.ndarray, before: np.ndarray, after: np.ndarray, num_labels: int | None = None) -> np.ndarray:
    """Photo, labels before and labels after, side by side, with the label boundary drawn.

    Of two labels the first, the background, is darkened and the second left in its own colours.  More labels
    are tinted with their :func:`palette` colours.  Unknown pixels are greyed.

    Parameters
    ----------
    image
        uint8 [H, W, 3] or [H, W].
    before, after
        Integer labels [H, W]; negative means unknown.
    num_labels
        How many labels there are; by default what the two maps hold.

    Returns
    -------
    uint8 [h, w, 3].  No panel is larger than 2048 pixels on its long side.

    """
    before, after = _shrunk(before), _shrunk(after)
    if image.shape[:2] != before.shape:
        image = np.asarray(Image.fromarray(image).resize(before.shape[::-1], Image.Resampling.BOX))
    if num_labels is None:
        num_labels = int(max(before.max(initial=0), after.max(initial=0))) + 1
    panels = [coloured(image), tinted(image, before, num_labels), tinted(image, after, num_labels)]
    gap = np.full((image.shape[0], 8, 3), 255, np.uint8)
    row = np.concatenate([part for panel in panels for part in (gap, panel)][1:], axis=1)
    return np.concatenate([_captions(["photo", "before", "after"], image.shape[1], gap.shape[1]), row])


def _shrunk(labels: np.ndarray) -> np.ndarray:
    step = -(-max(labels.shape) // PANEL_SIDE)
    rows, columns = (np.minimum(np.arange(0, size, step) + step // 2, size - 1) for size in labels.shape)
    return np.asarray(labels[np.ix_(rows, columns)]) if step > 1 else labels


def coloured(image: np.ndarray) -> np.ndarray:
    """Photo [H, W, 3] or [H, W] as [H, W, 3]."""
    return np.stack([image] * 3, axis=-1) if image.ndim == 2 else image


def tinted(image: np.ndarray, labels: np.ndarray, num_labels: int) -> np.ndarray:
    """Photo uint8 [H, W, 3] or [H, W] with its labels [H, W], as a panel of :func:`overlay`: uint8 [H, W, 3]."""
    image = coloured(image)
    panel: np.ndarray = image // 2 + palette(max(num_labels, 2))[labels.clip(0)] // 2
    if num_labels <= 2:
        panel = np.where((labels > 0)[..., None], image, image // 4 + NIGHT // 4 * 3)
    panel[labels < 0] = image[labels < 0] // 4 + 96
    panel[_boundary(labels)] = (255, 255, 0) if num_labels <= 2 else (255, 255, 255)
    return panel


def _boundary(labels: np.ndarray) -> np.ndarray:
    """Mark pixels on both sides of every change of label: 2 pixels wide, wider on pictures from 1024 on."""
    edge = _spread(np.zeros(labels.shape, bool), labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1])
    for _ in range(max(labels.shape) // 512 - 1):
        edge = _spread(edge, edge[1:] | edge[:-1], edge[:, 1:] | edge[:, :-1])
    return edge


def _spread(edge: np.ndarray, down: np.ndarray, along: np.ndarray) -> np.ndarray:
    edge = edge.copy()
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= along
    edge[:, :-1] |= along
    return edge


def _captions(texts: list[str], width: int, gap: int) -> np.ndarray:
    """White strip with a text above each panel; of no height where a panel is too narrow for its text."""
    total = len(texts) * width + (len(texts) - 1) * gap
    size = max(14, width // 24)
    if width < 5 * size:
        return np.zeros((0, total, 3), np.uint8)
    strip = Image.new("RGB", (total, size * 3 // 2), "white")
    draw = ImageDraw.Draw(strip)
    for index, text in enumerate(texts):
        draw.text((index * (width + gap) + 2, size // 8), text, fill="black", font=_font(size))
    return np.asarray(strip)


def _font(size: int) -> Any:
    try:
        return ImageFont.load_default(size)
    except (ImportError, TypeError):  # without FreeType, or before Pillow 10.1: one small font only
        return ImageFont.load_default()


# --- Writing ---


def write_labels(file: BinaryIO, labels: np.ndarray) -> None:
    """Write integer labels [H, W] as a PNG: with the VOC palette up to label 255, as 16-bit grey above.

    Raises
    ------
    ValueError
        A label is negative or above 65535.

    """
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    if low < 0 or high > 65535:
        raise ValueError(f"labels must lie in 0..65535 to be written as PNG, got {low}..{high}")
    if high > 255:
        picture = Image.fromarray(labels.astype(np.uint16))
    else:
        picture = Image.fromarray(labels.astype(np.uint8))
        picture.putpalette(palette().tobytes())
    picture.save(file, "PNG")


def write_probs(file: BinaryIO, probs: np.ndarray) -> None:
    """Write an array as ``.npy``.

    Not with ``np.save``, which reports a full disk without its cause.
    """
    array = np.ascontiguousarray(probs)
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    file.write(array.reshape(-1).view(np.uint8).data)


def write_picture(file: BinaryIO, picture: np.ndarray) -> None:
    """Write uint8 [H, W, 3] or [H, W] as a PNG."""
    Image.fromarray(picture).save(file, "PNG")


def _shape(array: np.ndarray) -> str:
    return "[" + ", ".join(map(str, array.shape)) + "]"
