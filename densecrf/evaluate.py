"""Unary, grid CRF and dense CRF side by side on a folder of photos with true labels.

Needs the extras ``[evaluate]`` and, for the grid CRF, ``[grid]``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

import densecrf
from densecrf import _checks, _extras, _native, grid, metrics
from densecrf.datasets import DataSet, Sample
from densecrf.images import FileError
from densecrf.metrics import Counts
from densecrf.params import Params

Array = NDArray[Any]
METHODS = ("unary", "grid", "dense")
_BAD_INPUT = (FileError, ValueError, NotImplementedError, MemoryError)  # the other images go on


@dataclass(frozen=True)
class ImageResult:
    """What each method did on one image."""

    name: str
    counts: dict[str, Counts]
    seconds: dict[str, float]

    def accuracy(self, method: str) -> float:
        """Pixel accuracy in percent; NaN where no label is known."""
        confusion = self.counts[method].confusion
        return 100 * float(np.trace(confusion)) / float(confusion.sum()) if confusion.any() else float("nan")


@dataclass(frozen=True)
class Evaluation:
    """What the methods did on all images.

    Figures, intervals (low, high) and differences are in percent. A difference is under the name "b - a", a being
    the method that comes first in `METHODS`.
    """

    params: Params
    methods: tuple[str, ...]
    images: list[ImageResult]
    problems: dict[str, str]  # why an image could not be used
    figures: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, tuple[float, float]]]
    resamples: int
    seed: int

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Methods that are compared: (b, a) for every "b - a"."""
        return [(b, a) for i, a in enumerate(self.methods) for b in self.methods[i + 1 :]]

    def confusion(self, method: str) -> Array:
        """Pixels ``[L, L]`` by true and by predicted label."""
        return np.sum([image.counts[method].confusion for image in self.images], axis=0)

    def per_label(self, method: str) -> dict[str, Array]:
        """IoU, Dice, precision and recall ``[L]`` of each label."""
        return metrics.per_label(self.confusion(method))

    def seconds(self, method: str) -> float:
        """Median of the images' computing times, on one thread."""
        return median(image.seconds[method] for image in self.images)

    def gains(self, b: str, a: str) -> list[tuple[float, str]]:
        """Pixel accuracy of method b less that of method a on each image, and its name; the greatest loss first."""
        gains = [(image.accuracy(b) - image.accuracy(a), image.name) for image in self.images]
        return sorted(gain for gain in gains if not np.isnan(gain[0]))


def evaluate(
    data: DataSet,
    params: Params | None = None,
    methods: Sequence[str] = METHODS,
    *,
    jobs: int | None = None,
    resamples: int = 1000,
    seed: int = 0,
    progress: Callable[[int], object] = int,
) -> Evaluation:
    """Evaluate methods on a data set.

    Parameters
    ----------
    data : photos, scores and labels
    params : settings of both CRFs; the defaults if None
    methods : some of `METHODS`
    jobs : images at a time; as many as there are cores if None
    resamples, seed : of the bootstrap intervals
    progress : called with the number of images done, after each

    Raises
    ------
    ValueError
        An argument breaks its rule.
    FileError
        No image can be used.
    ImportError
        A package of an extra is missing.

    """
    params = params or Params()
    chosen = _chosen(methods)
    resamples = _checks.integer("resamples", resamples, 1)
    data.num_labels  # noqa: B018  - known before threads read
    threads = _native.threads() if jobs is None else _checks.integer("jobs", jobs, 1)
    images, problems = _all(data, params, chosen, threads, progress)
    if not images:
        raise FileError(f"{data.folder}: no image can be used; the first: {next(iter(problems.values()))}")
    counts = {method: [image.counts[method] for image in images] for method in chosen}
    figures = {method: metrics.summary(found) for method, found in counts.items()}
    intervals = metrics.intervals(counts, resamples, seed)
    result = Evaluation(params, chosen, images, problems, figures, intervals, resamples, seed)
    for b, a in result.pairs:
        figures[f"{b} - {a}"] = {name: figures[b][name] - figures[a][name] for name in figures[a]}
    return result


def predict(method: str, sample: Sample, params: Params, num_threads: int | None = 1) -> Array:
    """Labels ``[H, W]`` by one of `METHODS`; of several threads only the dense CRF can make use."""
    if method == "unary":
        return np.asarray(sample.logits.argmax(axis=0))
    if method == "grid":
        return grid.refine(sample.image, logits=sample.logits, **asdict(params.grid)).labels
    return densecrf.refine(sample.image, logits=sample.logits, num_threads=num_threads, **params.dense).labels


def _chosen(methods: Sequence[str]) -> tuple[str, ...]:
    for method in methods:
        _checks.choice("methods", method, METHODS)
    chosen = tuple(method for method in METHODS if method in methods)
    if not chosen:
        raise ValueError(f"methods: must be some of {', '.join(METHODS)}, got none")
    _extras.need_measuring(with_grid="grid" in chosen)
    return chosen


def _all(
    data: DataSet, params: Params, methods: tuple[str, ...], jobs: int, progress: Callable[[int], object]
) -> tuple[list[ImageResult], dict[str, str]]:
    # Threads and not processes: nothing has to be pickled or imported again, and the long parts, the engine's and the
    # graph cuts', are C++ that releases the GIL. Ctrl-C ends the run when the images under way are done.
    found: dict[str, ImageResult] = {}
    problems: dict[str, str] = {}
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(_one, data, name, params, methods): name for name in data.names}
        try:
            for number, future in enumerate(as_completed(futures), 1):
                name = futures[future]
                try:
                    found[name] = future.result()
                except _BAD_INPUT as error:
                    text = " ".join(str(error).split())
                    problems[name] = text if isinstance(error, FileError) else f"{name}: {text}"
                progress(number)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    ordered = [found[name] for name in data.names if name in found]
    return ordered, {name: problems[name] for name in data.names if name in problems}


def _one(data: DataSet, name: str, params: Params, methods: tuple[str, ...]) -> ImageResult:
    sample = data.read(name)
    truth = metrics.Truth(sample.labels, len(sample.logits))
    counts, seconds = {}, {}
    for method in methods:
        start = time.thread_time()  # of this thread only, whatever else the machine does
        predicted = predict(method, sample, params)
        seconds[method] = time.thread_time() - start
        counts[method] = truth.count(predicted)
    return ImageResult(name, counts, seconds)
