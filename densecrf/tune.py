"""Search for the settings of the CRF that suit one's own images, scores and labels, as in Chen et al. 2015.

A coarse grid, then finer rounds around the best. The images are parted into two halves; what is best on one half is
scored on the other, so that the figures are of images that the settings were not chosen on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from os import PathLike
from pathlib import Path

import numpy as np

from densecrf import _checks, _extras, _native, metrics
from densecrf._candidates import Candidate, DenseSpace, GridSpace, Space, diagonal
from densecrf._counting import Counter, Found, Image, look
from densecrf.datasets import DataSet
from densecrf.images import FileError, Outputs
from densecrf.metrics import Counts

MODELS = ("dense", "grid")
OBJECTIVES = {"miou": "mIoU", "pixel": "pixel accuracy", "class": "class accuracy", "boundary": "within 4 px"}
COUNTS = "counts.jsonl"

Progress = Callable[[str, int, int], object]  # what goes on, how much of it is done, how much there is


@dataclass(frozen=True)
class Row:
    """A setting that was tried, and its objective on half A, half B and all images, in percent."""

    candidate: Candidate
    a: float
    b: float
    all: float


@dataclass(frozen=True)
class Tuning:
    """What a search found.

    Attributes
    ----------
    objective : the figure that was to be large, by its name in `metrics.summary`
    space : what was searched
    table : all settings, in order
    best : setting chosen on "A", "B" and "all"
    halves : names of the images of "A" and "B"
    counts : "unary", "default" and "tuned" -> counts of each image, the tuned ones with the setting that was chosen
        on the half that the image is not in
    failed : image -> what went wrong
    reused, counted : pairs of image and setting that were found in the file, and that were not

    """

    objective: str
    space: Space
    table: list[Row]
    best: dict[str, Candidate]
    halves: dict[str, list[str]]
    counts: dict[str, list[Counts]]
    failed: dict[str, str]
    reused: int
    counted: int

    @cached_property
    def figures(self) -> dict[str, dict[str, float]]:
        """Figures of the unary, of the default and of the tuned setting on images it was not chosen on."""
        return {method: metrics.summary(counts) for method, counts in self.counts.items()}

    @cached_property
    def intervals(self) -> dict[str, dict[str, tuple[float, float]]]:
        """Their bootstrap intervals, and those of their differences."""
        return metrics.intervals(self.counts)


def search(
    data: DataSet,
    folder: str | PathLike[str],
    *,
    model: str = "dense",
    objective: str = "miou",
    iterations: Sequence[int] = (5, 10),
    normalization: str = "symmetric",
    spatial: bool = False,
    images: int | None = None,
    seed: int = 0,
    jobs: int | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Tuning:
    """Search for the settings that suit a data set.

    Several processes start anew (as with ``multiprocessing`` and "spawn"): a script that calls this keeps its calls
    below ``if __name__ == "__main__":``.

    Parameters
    ----------
    data : photos, scores and labels
    folder : for the file that keeps what is counted; a search that was interrupted goes on from there
    model : "dense" or "grid"
    objective : "miou", "pixel" (accuracy), "class" (accuracy) or "boundary" (accuracy within 4 px of a boundary)
    iterations, normalization, spatial : of the dense CRF; see `densecrf tune --help`
    images : use so many only, drawn by the seed
    seed : draws the images and parts them into halves
    jobs : processes; None: one for each core
    progress : called with what goes on, how much of it is done and how much there is

    Raises
    ------
    FileError
        The folder cannot be written to, or fewer than two images can be read.
    ValueError, TypeError
        An argument breaks its rule.
    ImportError
        A package of the extra ``[evaluate]`` (and ``[grid]``) is not installed.

    """
    _checks.choice("model", model, MODELS)
    figure = OBJECTIVES[_checks.choice("objective", objective, tuple(OBJECTIVES))]
    _checks.choice("normalization", normalization, _checks.NORMALIZATIONS)
    if not iterations:
        raise ValueError("iterations: must name at least one number")
    steps = [_checks.integer("iterations", count, 1) for count in iterations]
    rng = np.random.default_rng(_checks.integer("seed", seed, 0))
    names = sorted(data.names)
    if images is not None:
        names = sorted(rng.permutation(names)[: _checks.integer("images", images, 2)].tolist())
    _extras.need_measuring(with_grid=model == "grid")

    failed: dict[str, str] = {}
    known = _look(data, names, failed, progress)
    if np.isnan(metrics.summary([image.unary for image in known])[figure]):
        raise FileError(f"{data.folder}: no image has known pixels that count for {figure!r}")
    reach = diagonal(image.size for image in known)
    space: Space = GridSpace() if model == "grid" else DenseSpace(reach, steps, normalization, spatial)
    choice = Choice(space, figure, _halves([image.name for image in known], rng))
    with Outputs(folder):  # made, and known to be one that can be written to
        pass
    with Counter(data, Path(folder) / COUNTS, _native.threads(jobs)) as counter:
        known = _rounds(choice, counter, known, progress)
    failed.update(counter.failed)
    counts = {
        "unary": [image.unary for image in known],
        "default": [found[space.kind()] for found in choice.found.values()],
        "tuned": choice.held_out(),
    }
    table = choice.table()
    best = {part: choice.best(part) for part in choice.halves}
    halves = {part: names for part, names in choice.halves.items() if part != "all"}
    return Tuning(figure, space, table, best, halves, counts, failed, counter.reused, counter.counted)


class Choice:
    """Chooses settings on half A, on half B and on all images, each from what its own choices led to.

    Parameters
    ----------
    space : what is searched
    figure : to be large, of `metrics.summary`
    halves : names of the images of "A" and "B"

    """

    def __init__(self, space: Space, figure: str, halves: Mapping[str, list[str]]) -> None:
        self.space, self.figure = space, figure
        self.halves = {**halves, "all": sorted(chain(*halves.values()))}
        self.tried: dict[str, set[Candidate]] = {part: set() for part in self.halves}
        self.found: dict[str, Found] = {}
        self._values: dict[tuple[str, Candidate], float] = {}

    def wanted(self, number: int) -> set[Candidate]:
        """Settings of all parts up to round `number`, and the default."""
        for part, tried in self.tried.items():
            tried.update(self.space.finer(self.best(part), number - 1) if number else self.space.coarse())
        # Half A must not profit from what half B led to, nor the reverse: else the figures would not be held out.
        self.tried["all"].update(self.tried["A"], self.tried["B"])
        return {*self.tried["all"], self.space.kind()}

    def learn(self, found: Mapping[str, Found]) -> None:
        """Take the counts of all wanted settings; an image without counts is left out from here on.

        Raises
        ------
        FileError
            A half is empty.

        """
        self.found = dict(sorted(found.items()))
        left = {part: [name for name in names if name in found] for part, names in self.halves.items()}
        if not all(left.values()):
            raise FileError("all images of one half failed")
        if left != self.halves:
            self._values.clear()
        self.halves = left

    def value(self, part: str, candidate: Candidate) -> float:
        """The objective of a setting on the images of a part, in percent."""
        key = part, candidate
        if key not in self._values:
            counts = [self.found[name][candidate] for name in self.halves[part]]
            self._values[key] = metrics.summary(counts)[self.figure]
        return self._values[key]

    def best(self, part: str) -> Candidate:
        """The best setting of a part; of equals the weakest."""
        return min(self.tried[part], key=lambda each: (-np.nan_to_num(self.value(part, each)), each))

    def held_out(self) -> list[Counts]:
        """Counts of each image with the setting chosen on the half that it is not in."""
        other = {name: self.best("B" if name in self.halves["A"] else "A") for name in self.found}
        return [found[other[name]] for name, found in self.found.items()]

    def table(self) -> list[Row]:
        """All settings that were tried, in order."""
        return [Row(each, *(self.value(part, each) for part in self.halves)) for each in sorted(self.tried["all"])]


def _look(data: DataSet, names: Sequence[str], failed: dict[str, str], progress: Progress) -> list[Image]:
    """Read all images once, to know which are good before the search begins."""
    known = []
    for number, name in enumerate(names):
        progress("reading", number, len(names))
        try:
            known.append(look(data, name))
        except FileError as error:
            failed[name] = str(error)
    if len(known) < 2:
        why = f" ({next(iter(failed.values()))})" if failed else ""
        raise FileError(f"{data.folder}: needs 2 images that can be read, has {len(known)}{why}")
    return known


def _rounds(choice: Choice, counter: Counter, images: list[Image], progress: Progress) -> list[Image]:
    """Search; gives the images that did not fail."""
    for number in range(choice.space.rounds + 1):
        title = f"finer search {number} of {choice.space.rounds}" if number else "coarse search"
        found = counter.count(images, choice.wanted(number), partial(progress, title))
        images = [image for image in images if image.name in found]
        if len(images) < 2:
            raise FileError(f"only {len(images)} images are left ({next(iter(counter.failed.values()))})")
        choice.learn(found)
    return images


def _halves(names: Sequence[str], rng: np.random.Generator) -> dict[str, list[str]]:
    drawn = [str(name) for name in rng.permutation(names)]
    middle = (len(drawn) + 1) // 2
    return {"A": sorted(drawn[:middle]), "B": sorted(drawn[middle:])}
