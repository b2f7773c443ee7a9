"""Which setting to start from when the network's scores are coarser: strides 8, 16 and 32.

    python -m benchmarks strides FOLDER [--void N]

FOLDER has scores of a network at stride 8; those of larger strides are made of them by averaging 2 x 2 and 4 x 4
cells. At each stride: the network alone, the grid CRF and the presets with their own values, and the dense CRF with a
setting chosen from GRID, on one half of the photos (first or second by name) and counted on the other. Writes
``strides-SET.json``.
"""

from __future__ import annotations

import itertools
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

import densecrf
from benchmarks import common, figures
from benchmarks.data import title
from benchmarks.labels import chosen
from densecrf import grid, metrics
from densecrf.datasets import DataSet, Sample
from densecrf.images import read_scores
from densecrf.metrics import Counts, Truth

FINEST = 8
FACTORS = (1, 2, 4)
PRESETS = {
    "default": densecrf.presets.DEFAULT,
    "standard": densecrf.presets.PYDENSECRF,
    "deeplab": densecrf.presets.DEEPLAB,
}
WEIGHTS = (3.0, 6.0, 12.0)
REACHES = (30.0, 80.0)  # sxy
COLOURS = (3.0, 4.5, 7.0)  # srgb


class Setting(NamedTuple):
    """Of the colour term; the smoothness term is the default's."""

    weight: float
    sxy: float
    srgb: float


GRID = [Setting(*values) for values in itertools.product(WEIGHTS, REACHES, COLOURS)]


def pooled(scores: NDArray[Any], factor: int) -> NDArray[np.float32]:
    """Means of `factor` x `factor` cells; at the right and bottom of those that there are."""
    _, h, w = scores.shape
    rows, columns = (np.arange(0, n, factor) for n in (h, w))
    sums = np.add.reduceat(np.add.reduceat(scores.astype(np.float32), rows, axis=1), columns, axis=2)
    sizes = np.outer(*(np.diff([*starts, n]) for starts, n in ((rows, h), (columns, w))))
    return sums / sizes


def coarser(folder: Path, factor: int, made: Path) -> Path:
    """A folder like this one, with pooled scores."""
    (made / "scores").mkdir(parents=True)
    for name in ("images", "labels"):
        (made / name).symlink_to((folder / name).resolve())
    for path in sorted((folder / "scores").glob("*.np[yz]")):
        np.save(made / "scores" / f"{path.stem}.npy", pooled(read_scores(path), factor))
    return made


def count(sample: Sample) -> dict[Any, Counts]:
    """Counts of all methods on a photo."""
    truth, image, logits = Truth(sample.labels, len(sample.logits)), sample.image, sample.logits
    found: dict[Any, Counts] = {
        "unary": truth.count(logits.argmax(axis=0)),
        "grid": truth.count(grid.refine(image, logits=logits).labels),
    }
    for name, preset in PRESETS.items():
        found[name] = truth.count(densecrf.refine(image, logits=logits, num_threads=1, **preset).labels)
    for sxy, srgb in itertools.product(REACHES, COLOURS):
        kernels = [densecrf.Gaussian(1, 3), densecrf.Bilateral(sxy, srgb, 1)]
        crf = densecrf.DenseCRF(image, kernels=kernels, num_threads=1)
        for weight in WEIGHTS:
            labels = crf.reweighted([3, weight]).refine(logits=logits).labels
            found[Setting(weight, sxy, srgb)] = truth.count(labels)
    return found


def evaluate(data: DataSet) -> dict[str, Any]:
    """Figures of all methods at one stride."""
    names = sorted(data.names)
    with ThreadPoolExecutor() as pool:
        counts = pool.map(lambda name: count(data.read(name)), names)
        found = list(track(counts, description=f"stride {data.stride}", total=len(names)))
    half = (np.arange(len(names)) >= len(names) // 2).astype(int)
    of_half, best = chosen(found, half, GRID)
    rows = {name: metrics.summary([each[name] for each in found]) for name in ("unary", "grid", *PRESETS)}
    everywhere = max(GRID, key=lambda setting: metrics.summary([each[setting] for each in found])["mIoU"])
    settings = [setting._asdict() for setting in (*best, everywhere)]
    rows["chosen"] = {**metrics.summary(of_half), "half A, half B, all": settings}
    return rows


def main(arguments: list[str]) -> None:
    parser = common.parser("strides", __doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--void", type=int, nargs="*", default=[255])
    parser.add_argument("--results", type=Path, default=common.RESULTS)
    options = parser.parse_args(arguments)
    stamp = {"environment": figures.environment(), "left_out": []}
    found: dict[str, Any] = {}
    for factor in FACTORS:
        with tempfile.TemporaryDirectory() as made:
            folder = coarser(options.folder, factor, Path(made) / "set")
            rows = evaluate(DataSet(folder, void=options.void, stride=FINEST * factor))
        found[f"stride {FINEST * factor}"] = rows
        for method, line in rows.items():
            rates = "  ".join(f"{figure} {line[figure]:.2f}" for figure in (*metrics.HEADLINES, "within 4 px"))
            print(f"stride {FINEST * factor:<3}{method:10}{rates}", flush=True)
        print(rows["chosen"]["half A, half B, all"], flush=True)
    figures.save(options.results, f"strides-{title(options.folder).lower()}", {**stamp, "strides": found})
