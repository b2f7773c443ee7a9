"""Accuracy of the network alone, the grid CRF and the dense CRF on photos with true labels: the paper's table.

    python -m benchmarks quality FOLDER... [--void N] [--stride N] [--params FILE] [--short]

A FOLDER has images, scores and labels as `densecrf evaluate` reads them, or is TextonBoost's image with its unary
(see data.py). Before anything is timed, all contenders are checked on a corner of the first photo. Then each photo is
refined by every method in turn; seconds are of one call on one thread (densecrf's threads: --threads). Pixel accuracy,
class accuracy and mIoU have bootstrap intervals over images, differences are on the same images. Writes
``quality-SET.json``.

Nothing is tuned here: "default" is what `densecrf.refine` takes if not told otherwise, "standard" the setting of
pydensecrf's README. A file of `densecrf tune`, made with other photos, is one more method (--params).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from rich.progress import track

import densecrf
from benchmarks import common, contenders, data, figures
from benchmarks.timing import spread
from densecrf import grid, metrics, params
from densecrf.datasets import DataSet, Sample
from densecrf.images import FileError

Labels = NDArray[Any]
Method = Callable[[Sample], Labels]
RESAMPLES = {False: 1000, True: 20}  # by --short


def settings(given: params.Params | None) -> dict[str, densecrf.presets.Preset]:
    """Of the dense CRF, by name."""
    found = {"default": densecrf.presets.DEFAULT, "standard": densecrf.presets.PYDENSECRF}
    return found | ({"params": given.dense} if given else {})


def methods(threads: int, given: params.Params | None) -> dict[str, Method]:
    """Labels of a sample, by method."""
    runs: dict[str, Method] = {"unary": lambda sample: sample.logits.argmax(axis=0)}
    if contenders.installed("grid CRF"):
        runs["grid CRF"] = lambda sample: grid.refine(sample.image, logits=sample.logits).labels
        if given:
            runs["grid CRF, params"] = partial(_grid, setting=given.grid)
    if contenders.installed("pydensecrf"):
        runs["pydensecrf, default"] = _pydensecrf
    for name, preset in settings(given).items():
        runs[f"densecrf, {name}"] = partial(_dense, preset=preset, threads=threads)
    return runs


def _grid(sample: Sample, setting: grid.GridSetting) -> Labels:
    return grid.refine(sample.image, logits=sample.logits, **vars(setting)).labels


def _pydensecrf(sample: Sample) -> Labels:
    return contenders.theirs(contenders.problem(sample, densecrf.presets.DEFAULT)).argmax(axis=0)


def _dense(sample: Sample, preset: densecrf.presets.Preset, threads: int) -> Labels:
    return densecrf.refine(sample.image, logits=sample.logits, num_threads=threads, **preset).labels


def sets(folder: Path, options: argparse.Namespace, failed: list[str]) -> dict[str, Iterable[Sample]]:
    """The photos of a folder by the name of their results."""
    if (folder / data.TEXTONBOOST).exists():
        return {f"{folder.name}-{sample.name}": [sample] for sample in data.textonboost(folder)}
    return {data.title(folder): samples(folder, options, failed)}


def samples(folder: Path, options: argparse.Namespace, failed: list[str]) -> Iterator[Sample]:
    """The photos that can be read; what cannot is noted."""
    found = DataSet(folder, void=options.void, stride=options.stride)
    for name in track(found.names[: options.images], description=folder.name, disable=not sys.stderr.isatty()):
        try:
            yield found.read(name)
        except FileError as error:
            failed.append(str(error))


def measure(photos: Iterable[Sample], options: argparse.Namespace) -> dict[str, Any]:
    """Counts and seconds of every method on every photo, and what they say."""
    given = params.load(options.params) if options.params else None
    runs = methods(options.threads, given)
    counts: dict[str, list[metrics.Counts]] = {name: [] for name in runs}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    names: list[str] = []
    checked: dict[str, dict[str, float]] = {}
    for sample in photos:
        if not checked:
            presets = settings(given).items()
            checked = {name: contenders.check(contenders.problem(sample, preset)) for name, preset in presets}
        truth = metrics.Truth(sample.labels, len(sample.logits))
        names.append(sample.name)
        for name, run in runs.items():
            start = time.perf_counter()
            labels = run(sample)
            seconds[name].append(time.perf_counter() - start)
            counts[name].append(truth.count(labels))
    return {
        "images": names,
        "checked": checked,
        "seconds": {name: spread(found) for name, found in seconds.items() if found},
        "figures": {name: metrics.summary(found) for name, found in counts.items() if found},
        "intervals": metrics.intervals(counts, RESAMPLES[options.short]) if len(names) > 1 else {},
    }


def show(found: dict[str, Any]) -> None:
    """A line for each method."""
    for name, of in found["figures"].items():
        rates = ", ".join(f"{figure} {of[figure]:.2f}" for figure in metrics.HEADLINES)
        print(f"{name:22} {rates}, {found['seconds'][name]['median']:.3f} s", flush=True)


def main(arguments: list[str]) -> int:
    parser = common.measuring("quality", __doc__)
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER")
    parser.add_argument("--void", type=int, nargs="+", default=[255], help="labels that do not count [255]")
    parser.add_argument("--stride", type=int, help="scores are of the photo padded to a multiple of so many pixels")
    parser.add_argument("--params", type=Path, help="a file of densecrf tune, as one more method")
    parser.add_argument("--threads", type=int, default=1, help="of densecrf [1]")
    parser.add_argument("--images", type=int, help="only so many photos")
    options = parser.parse_args(arguments)
    if not options.folders and not options.short:
        parser.error("FOLDER: at least one must be named (without --short)")
    stamp = {"environment": figures.environment(), "left_out": contenders.say_who_is_left_out()}
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as made:
        for folder in options.folders or [data.stand_in(Path(made) / "stand-in")]:
            try:
                for name, photos in sets(folder, options, failed).items():
                    found = measure(photos, options)
                    if not found["images"]:
                        continue  # none could be read
                    about = {**stamp, "threads": options.threads, "set": name}
                    figures.save(common.folder(options), f"quality-{name.lower()}", {**about, **found})
                    show(found)
            except FileError as error:
                failed.append(str(error))
    for line in failed:
        print(f"quality: error: {line}", file=sys.stderr)
    return 1 if failed else 0
