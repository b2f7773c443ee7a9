"""What ``densecrf refine`` does, apart from talking: pair images with scores, and the work on one image."""

from __future__ import annotations

import glob
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import densecrf
from densecrf import images
from densecrf.images import FileError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
SCORE_SUFFIXES = {".npy", ".npz"}
ENDINGS = {"scores": ("", "_scores", "_logits", "_probs"), "label pictures": ("", "_labels", "_mask")}


@dataclass(frozen=True)
class Job:
    """One image, the scores that fit it (or why there are none) and the folder of its results."""

    image: Path
    scores: Path
    folder: Path
    problem: str | None = None
    fitting: tuple[Path, ...] = ()  # all scores whose names fit


@dataclass(frozen=True)
class Source:
    """How to understand SCORES: kind "logits", "probs", "labels" or "binary", and what goes with it."""

    kind: str = "logits"
    key: str | None = None
    num_labels: int | None = None
    confidence: float = 0.7
    unknown: int = 255

    @property
    def is_picture(self) -> bool:
        """Whether SCORES is a label picture rather than a NumPy file."""
        return self.kind in ("labels", "binary")


@dataclass
class Done:
    """What there is to say about a finished image."""

    num_labels: int
    size: tuple[int, int]
    changed: float
    seconds: float
    written: list[str] = field(default_factory=list)


# --- Which scores belong to which image ---


def split(paths: Sequence[str], scores: str | None, pictures: bool) -> tuple[list[str], list[str]]:
    """Part the arguments into images and scores.

    NumPy files are scores wherever they stand, as a shell turns ``*.npy`` into many arguments; without any,
    the last argument is the scores, as the last argument of ``cp`` is the target.

    Raises
    ------
    ValueError
        Images or scores are missing.

    """
    if scores is not None:
        given, found = list(paths), [scores]
    elif pictures or not any(_is_numpy(path) for path in paths):
        given, found = list(paths[:-1]), list(paths[-1:])
    else:
        given, found = [p for p in paths if not _is_numpy(p)], [p for p in paths if _is_numpy(p)]
    if not given or not found:
        raise ValueError("needs an image and its scores, as in: densecrf refine photo.jpg scores.npy -o out")
    return given, found


def find_jobs(paths: Sequence[str], scores: Sequence[str], folder: Path, pictures: bool) -> list[Job]:
    """Pair images and scores, each of them files, folders or patterns.

    One image file and one scores file belong together whatever their names, and the results go into `folder`.
    Otherwise names decide: ``a.jpg`` goes with ``a.npy``, ``a.npz`` or ``a_scores.npz`` and so on, and its
    results go into ``folder/a``.

    Raises
    ------
    FileError
        A folder holds no images or no scores.

    """
    found = _expand(paths, IMAGE_SUFFIXES, "images")
    what = "label pictures" if pictures else "scores"
    fitting = _expand(scores, IMAGE_SUFFIXES if pictures else SCORE_SUFFIXES, what)
    if len(paths) == len(scores) == 1 and _is_one_file(paths[0]) and _is_one_file(scores[0]):
        return [Job(found[0], fitting[0], folder)]
    by_stem: dict[str, list[Path]] = {}
    for path in fitting:
        by_stem.setdefault(path.stem, []).append(path)
    first: dict[str, Path] = {}
    jobs = []
    for path in found:
        match = [fit for ending in ENDINGS[what] for fit in by_stem.get(path.stem + ending, []) if fit != path]
        twin = first.setdefault(path.stem, path)
        problem = _problem(path, match, twin if twin != path else None, what)
        jobs.append(Job(path, match[0] if match else path, folder / path.stem, problem, tuple(match)))
    return jobs


def _problem(path: Path, match: list[Path], twin: Path | None, what: str) -> str | None:
    if twin:
        return f"{path}: its results would overwrite those of {twin}, which has the same name"
    if not match and path.exists():
        names = ", ".join(path.stem + ending for ending in ENDINGS[what])
        return f"{path}: no {what} found for it (looked for files called {names})"
    if len(match) > 1:
        return f"{path}: several {what} fit: {', '.join(map(str, match))}"
    return None


def _expand(paths: Iterable[str], suffixes: set[str], what: str) -> list[Path]:
    """Files meant by files, folders and patterns; what is none of them is left for the reader to refuse."""
    result: list[Path] = []
    for text in paths:
        path = Path(text)
        if path.is_dir():
            result += inside(path, suffixes, what)
        elif not _is_one_file(text):
            result += [Path(name) for name in sorted(glob.glob(text, recursive=True))] or [path]
        else:
            result.append(path)
    return list(dict.fromkeys(result))


def inside(folder: Path, suffixes: set[str], what: str) -> list[Path]:
    """Files of a folder, by their suffixes."""
    try:
        files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise FileError(f"{folder}: cannot read: {error.strerror or error}") from error
    found = sorted(path for path in files if path.suffix.lower() in suffixes)
    if not found:
        raise FileError(f"{folder}: no {what} in this folder")
    return found


def _is_one_file(text: str) -> bool:
    path = Path(text)
    return not path.is_dir() and (path.exists() or not glob.has_magic(text))


def _is_numpy(path: str) -> bool:
    return Path(path).suffix.lower() in SCORE_SUFFIXES and not Path(path).is_dir()


# --- One image ---


def run(job: Job, source: Source, settings: dict[str, Any], with_overlay: bool = True) -> Done:
    """Refine one image and write its files.

    Raises
    ------
    FileError
        A file cannot be read or written, or the pairing failed.
    ValueError, TypeError
        What the engine says of the arrays.

    """
    if job.problem:
        raise FileError(job.problem)
    started = time.perf_counter()
    image = images.read_image(job.image)
    size = (image.shape[0], image.shape[1])
    arguments = _engine_input(job.scores, source, size)
    with images.Outputs(job.folder) as outputs:
        result = densecrf.refine(image, **arguments, **settings)
        count = result.probs.shape[0]
        before = _labels_before(arguments, size)
        with outputs.open("labels.png") as file:
            images.write_labels(file, result.labels)
        with outputs.open("probs.npy") as file:
            images.write_probs(file, result.probs)
        if with_overlay:
            with outputs.open("overlay.png") as file:
                images.write_picture(file, images.overlay(image, before, result.labels, count))
    changed = float(np.mean(before != result.labels)) if before.size else 0.0
    return Done(count, size, changed, time.perf_counter() - started, outputs.names)


def _engine_input(path: Path, source: Source, size: tuple[int, int]) -> dict[str, Any]:
    """SCORES as arguments of the engine."""
    if source.is_picture:
        labels = _labels(path, source, size)
        num_labels = source.num_labels or max(2, int(labels.max(initial=0)) + 1)
        return {"labels": labels, "num_labels": num_labels, "confidence": source.confidence}
    scores = images.read_scores(path, source.key)
    warn_if_stretched(scores.shape[1:], size)
    if source.kind == "probs" and scores.shape[1:] != size:
        return {"logits": -densecrf.unary.from_probs(scores)}  # enlarged as log-probabilities
    return {source.kind: scores}


def _labels_before(arguments: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Label map that the scores give by themselves."""
    if "labels" in arguments:
        return np.asarray(arguments["labels"])
    scores: np.ndarray = arguments["logits"] if "logits" in arguments else arguments["probs"]
    return images.enlarged_labels(scores, size)


def _labels(path: Path, source: Source, size: tuple[int, int]) -> np.ndarray:
    """Label picture as the engine wants it, -1 for unknown."""
    labels = images.read_labels(path, size)
    if source.kind == "binary":
        return np.asarray(labels != 0, np.int32)
    known = labels != source.unknown
    if not known.any():
        raise FileError(f"{path}: every pixel has the value {source.unknown}, which means unknown")
    if source.unknown == 255 and not known.all() and not labels[known].any() and source.num_labels is None:
        raise FileError(f"{path}: holds 0 and 255 (unknown) only; for a black-and-white mask add --binary")
    return np.where(known, labels, -1).astype(np.int32)


def warn_if_stretched(scores: tuple[int, ...], image: tuple[int, int]) -> None:
    """Warn of scores of another shape than the image, where rounding to whole cells does not explain it."""
    (h, w), (height, width) = scores, image
    if not (h and w):
        return
    factors = height / h, width / w
    rounding = abs(h - height / factors[1]) < 1.5 or abs(w - width / factors[0]) < 1.5
    if max(factors) > 1.2 * min(factors) and not rounding:
        warnings.warn(
            f"scores of {w} x {h} are stretched to the image's {width} x {height}; right if the network saw "
            "the whole photo squashed, wrong if it saw a crop, a padded or a rotated photo",
            stacklevel=2,
        )
