"""A folder of photos, network scores and true labels, as `densecrf tune` and `densecrf evaluate` read it.

    FOLDER/images/NAME.png      photos
    FOLDER/scores/NAME.npz      scores [labels, height, width] of the photo's size or smaller (.npy, .npz)
    FOLDER/labels/NAME.png      true labels (palette or grey PNG)

Files belong together by name, as in `densecrf refine`: NAME_scores.npy and NAME_labels.png do, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densecrf import _inputs, _jobs, images, unary
from densecrf.images import FileError
from densecrf.metrics import VOID

Array = NDArray[Any]
ASKED = 5  # scores that are read to learn how many labels there are


@dataclass(frozen=True)
class Sample:
    """One photo with all that is known of it."""

    name: str
    image: Array  # uint8 [H, W, 3] or [H, W]
    logits: Array  # float32 [L, H, W]
    labels: Array  # int32 [H, W], VOID where they do not count


@dataclass(frozen=True)
class _Files:
    image: Path
    scores: Path
    labels: Path
    problem: str | None


def _scores(files: _Files, key: str | None) -> Array:
    if files.problem:
        raise FileError(files.problem)
    return images.read_scores(files.scores, key)


class DataSet:
    """The photos of a folder that have scores and labels.

    Parameters
    ----------
    folder : with the folders images, scores and labels
    void : labels that do not count
    probs : the scores are probabilities
    key : of the array, in an .npz that holds several
    stride : the scores are those of the photo padded at its right and bottom to a multiple of so many pixels, one
        for each; None: of the photo as a whole

    Raises
    ------
    FileError
        A folder is missing or empty.

    """

    def __init__(
        self,
        folder: str | Path,
        *,
        void: Sequence[int] = (255,),
        probs: bool = False,
        key: str | None = None,
        stride: int | None = None,
    ) -> None:
        self.folder, self.void, self.probs, self.key, self.stride = Path(folder), tuple(void), probs, key, stride
        parts = [self.folder / name for name in ("images", "scores", "labels")]
        for part in parts:
            if not part.is_dir():
                raise FileError(
                    f"{part}: no such folder; {self.folder} must have the folders images, scores and labels"
                )
        pictures, scores, labels = map(str, parts)
        with_scores = _jobs.find_jobs([pictures], [scores], self.folder, False)
        with_labels = _jobs.find_jobs([pictures], [labels], self.folder, True)
        self._files: dict[str, _Files] = {}
        for a, b in zip(with_scores, with_labels, strict=True):
            name = a.image.stem if a.image.stem not in self._files else a.image.name
            self._files[name] = _Files(a.image, a.scores, b.scores, a.problem or b.problem)
        used = {path for job in with_scores for path in job.fitting}
        for path in _jobs.inside(parts[1], _jobs.SCORE_SUFFIXES, "scores"):
            if path not in used:
                self._files[path.name] = _Files(path, path, path, f"{path}: no image found for it")

    @cached_property
    def num_labels(self) -> int:
        """How many labels the scores have: most of the first few that can be read.

        Raises
        ------
        FileError
            No scores can be read.

        """
        counts: Counter[int] = Counter()
        problem = ""
        for files in self._files.values():
            try:
                counts[len(_scores(files, self.key))] += 1
            except FileError as error:
                problem = problem or str(error)
            if counts.total() == ASKED:
                break
        if not counts:
            raise FileError(f"{self.folder}: no image can be used; the first: {problem}")
        return counts.most_common(1)[0][0]

    @property
    def names(self) -> list[str]:
        """Of all photos, also those that cannot be read."""
        return list(self._files)

    def read(self, name: str) -> Sample:
        """Read one photo.

        Raises
        ------
        FileError
            A file is missing, damaged, of a wrong size or has labels that the scores do not.

        """
        files = self._files[name]
        scores = _scores(files, self.key)
        image = images.read_image(files.image)
        size = image.shape[0], image.shape[1]
        logits = self._logits(files.scores, scores, size)
        labels = images.read_labels(files.labels, size)
        return Sample(name, image, logits, self._known(files.labels, labels, len(logits)))

    def _logits(self, path: Path, scores: Array, size: tuple[int, int]) -> Array:
        if len(scores) != self.num_labels:
            raise FileError(f"{path}: must have {self.num_labels} labels as most scores, got {len(scores)}")
        padded = size
        if self.stride is None:
            _jobs.warn_if_stretched(scores.shape[1:], size)
        else:
            cells = tuple(-(-n // self.stride) for n in size)
            if scores.shape[1:] != cells:
                rule = f"must be {cells[1]} x {cells[0]}, one for each {self.stride} pixels of the photo"
                raise FileError(f"{path}: scores {rule}, got {scores.shape[2]} x {scores.shape[1]}")
            padded = cells[0] * self.stride, cells[1] * self.stride
        try:
            values = -unary.from_probs(scores) if self.probs else scores
            enlarged = _inputs.upsample(values, padded, np.dtype(np.float32))
        except ValueError as error:
            raise FileError(f"{path}: {error}") from error
        return np.ascontiguousarray(enlarged[:, : size[0], : size[1]])

    def _known(self, path: Path, labels: Array, count: int) -> Array:
        void = np.isin(labels, self.void)
        unknown = np.unique(labels[~void & ((labels < 0) | (labels >= count))])
        if unknown.size:
            listed = ", ".join(map(str, unknown[:5]))
            raise FileError(
                f"{path}: has the label {listed}, but the scores are of labels 0 to {count - 1}; "
                f"name labels that do not count as void (--void {unknown[0]})"
            )
        return np.where(void, VOID, labels).astype(np.int32)
