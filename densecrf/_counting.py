"""Counts of many settings on many images: on all cores, and kept in a file so that nothing is counted twice."""

from __future__ import annotations

import json
import signal
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

import densecrf
from densecrf._candidates import Candidate, Dense, Grid, label
from densecrf.datasets import DataSet, Sample
from densecrf.images import FileError
from densecrf.metrics import Counts, Truth

_KINDS: dict[str, type[Dense] | type[Grid]] = {"dense": Dense, "grid": Grid}
Found = dict[Candidate, Counts]


@dataclass(frozen=True)
class Image:
    """What is known of an image before any setting is tried."""

    name: str
    content: str  # changes with photo, scores, labels and the version of the engine
    size: tuple[int, int]
    unary: Counts


class Task(NamedTuple):
    """One image and settings that share their lattices."""

    image: Image
    candidates: tuple[Candidate, ...]


def look(data: DataSet, name: str) -> Image:
    """Read an image and count what its scores say by themselves.

    Raises
    ------
    FileError
        It cannot be read.

    """
    sample = data.read(name)
    content = 0
    for array in (sample.image, sample.logits, sample.labels):
        content = zlib.crc32(np.ascontiguousarray(array).data, zlib.crc32(str(array.shape).encode(), content))
    truth = Truth(sample.labels, len(sample.logits))
    size = sample.labels.shape
    unary = truth.count(sample.logits.argmax(axis=0))
    return Image(name, f"{content:08x} {densecrf.__version__}", (size[0], size[1]), unary)


class Counter:
    """Counts settings on images, each pair once.

    Parameters
    ----------
    data : the images
    path : file that keeps the counts, one line per task; made if missing
    jobs : processes

    Attributes
    ----------
    failed : image -> what went wrong
    reused, counted : pairs of image and setting so far

    Raises
    ------
    FileError
        The file cannot be read or written, or holds something else.

    """

    def __init__(self, data: DataSet, path: Path, jobs: int) -> None:
        self.data, self.path, self.jobs = data, path, jobs
        self.failed: dict[str, str] = {}
        self.reused = self.counted = 0
        self._kept = _read(path)
        self._asked: dict[str, set[Candidate]] = {}  # of this search, by image
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Counter:
        """Open the file and start the processes."""
        try:
            self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise FileError(f"{self.path}: cannot write: {error.strerror or error}") from error
        if self.jobs > 1:
            # Not forked: other threads of this process may hold locks then.
            self._pool = ProcessPoolExecutor(self.jobs, get_context("spawn"), _start, (self.data,))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drop the tasks that have not begun, wait for the others."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        self._file.close()

    def count(
        self, images: list[Image], candidates: Iterable[Candidate], progress: Callable[[int, int], object]
    ) -> dict[str, Found]:
        """Counts of each image under each setting; images that fail are left out.

        `progress` is called with the tasks that are done and all of them.
        """
        wanted = sorted(set(candidates))
        tasks = [task for image in images for task in self._missing(image, wanted)]
        progress(0, len(tasks))
        for number, (task, found) in enumerate(self._run(tasks), 1):
            if isinstance(found, Exception):
                self.failed[task.image.name] = _line(found)
            else:
                self._keep(task.image, found)
            progress(number, len(tasks))
        good = [image for image in images if image.name not in self.failed]
        return {image.name: {each: self._kept[_key(image)][each] for each in wanted} for image in good}

    def _missing(self, image: Image, wanted: list[Candidate]) -> list[Task]:
        kept = self._kept.setdefault(_key(image), {})
        asked = self._asked.setdefault(image.name, set())
        self.reused += sum(each in kept for each in wanted if each not in asked)
        asked.update(wanted)
        missing = sorted((each for each in wanted if each not in kept), key=lambda each: (each.shared, each))
        return [Task(image, tuple(some)) for _, some in groupby(missing, lambda each: each.shared)]

    def _run(self, tasks: list[Task]) -> Iterator[tuple[Task, Found | Exception]]:
        if self._pool is None:
            for task in tasks:
                yield task, _attempt(partial(_count, self.data, task))
            return
        futures = {self._pool.submit(_in_process, task): task for task in tasks}
        for future in as_completed(futures):
            yield futures[future], _attempt(future.result)

    def _keep(self, image: Image, found: Found) -> None:
        self._kept[_key(image)].update(found)
        self.counted += len(found)
        try:
            self._file.write(_written(image, found))
            self._file.flush()
        except OSError as error:
            raise FileError(f"{self.path}: cannot write: {error.strerror or error}") from error


def _attempt(get: Callable[[], Found]) -> Found | Exception:
    try:
        return get()
    except BrokenProcessPool:  # says nothing of the image: the others would fail, too
        raise
    except Exception as error:
        return error


# --- In a process of the pool ---

_data: DataSet


def _start(data: DataSet) -> None:
    global _data
    _data = data
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that shows the progress ends the others


def _in_process(task: Task) -> Found:
    return _count(_data, task)


def _count(data: DataSet, task: Task) -> Found:
    sample, truth = _sample(data, task.image.name)
    return {candidate: truth.count(labels) for candidate, labels in label(sample, task.candidates)}


@lru_cache(maxsize=1)  # the tasks of an image follow each other
def _sample(data: DataSet, name: str) -> tuple[Sample, Truth]:
    sample = data.read(name)
    return sample, Truth(sample.labels, len(sample.logits))


# --- The file ---


def _key(image: Image) -> tuple[str, str]:
    return image.name, image.content


def _written(image: Image, found: Found) -> str:
    kind = next(name for name, kind in _KINDS.items() if isinstance(next(iter(found)), kind))
    rows = [
        [candidate, counts.confusion.ravel().tolist(), counts.near.ravel().tolist(), _number(counts.boundary)]
        for candidate, counts in found.items()
    ]
    return json.dumps([*_key(image), kind, rows], separators=(",", ":")) + "\n"


def _read(path: Path) -> dict[tuple[str, str], Found]:
    """What a file holds; a last line that was cut off is removed from it."""
    kept: dict[tuple[str, str], Found] = {}
    try:
        content = path.read_bytes() if path.exists() else b""
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with path.open("r+b") as file:
                file.truncate(whole)
    except OSError as error:
        raise FileError(f"{path}: cannot read: {error.strerror or error}") from error
    for number, line in enumerate(content[:whole].splitlines(), 1):
        try:
            name, fingerprint, kind, rows = json.loads(line)
            found = {_KINDS[kind](*candidate): _counts(*counts) for candidate, *counts in rows}
        except (ValueError, TypeError, KeyError) as error:
            raise FileError(f"{path}: line {number} holds no counts; remove the file to begin anew") from error
        kept.setdefault((name, fingerprint), {}).update(found)
    return kept


def _counts(confusion: list[int], near: list[int], boundary: float | None) -> Counts:
    labels = round(len(confusion) ** 0.5)
    square = np.array(confusion, np.int32).reshape(labels, labels)  # half the memory of int64
    return Counts(square, np.array(near, np.float64).reshape(-1, 2), float("nan") if boundary is None else boundary)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, (FileError, ValueError)) else f"{type(error).__name__}: {text}".rstrip(": ")
