"""Grid CRF and dense CRF, each with the setting chosen on other photos: the search of `densecrf tune`, two-fold.

    python -m benchmarks tuned FOLDER --kept DIR [--void N] [--stride N] [--images N]

Both searches part the photos by the same seed, and each half is scored with what the other half chose, for mIoU. The
setting without tuning is among those that they may choose.
What they count stays in DIR: the same command goes on from there, and later only reads. Seconds are of one call on one
thread with the setting chosen on all photos, in turn photo after photo. Writes ``tuned-SET.json``. On two cores
reckon with half an hour for the dense CRF and an hour for the grid CRF.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from rich.progress import Progress

from benchmarks import common, contenders, figures
from benchmarks.data import title
from benchmarks.timing import spread
from densecrf import metrics, tune
from densecrf.datasets import DataSet
from densecrf.evaluate import predict
from densecrf.images import FileError
from densecrf.params import Params

TIMED = 20  # photos


def search(data: DataSet, kept: Path, model: str, images: int | None) -> tune.Tuning:
    """The search for one model, with a bar for what it does."""
    with Progress(transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(model)

        def show(what: str, done: int, total: int) -> None:
            progress.update(task, description=f"{model}: {what}", completed=done, total=total)

        return tune.search(data, kept / f"{data.folder.name}-{model}", model=model, images=images, progress=show)


def seconds(data: DataSet, names: list[str], params: Params) -> dict[str, dict[str, float]]:
    """Of one call of each method."""
    taken: dict[str, list[float]] = {"grid": [], "dense": []}
    for i, name in enumerate(names):
        sample = data.read(name)
        if i == 0:
            contenders.check(contenders.problem(sample, params.dense))
        for method, times in taken.items():
            start = time.perf_counter()
            predict(method, sample, params)
            times.append(time.perf_counter() - start)
    return {f"{method}, tuned": spread(times) for method, times in taken.items()}


def measure(data: DataSet, kept: Path, images: int | None) -> dict[str, Any]:
    """Figures of both models beside the network's, their differences, and what was chosen."""
    found = {model: search(data, kept, model, images) for model in ("grid", "dense")}
    failed = {name: reason for each in found.values() for name, reason in each.failed.items()}
    if failed:
        raise FileError(next(iter(failed.values())))
    counts = {"unary": found["dense"].counts["unary"]}
    for kind in ("default", "tuned"):
        counts |= {f"{model}, {kind}": each.counts[kind] for model, each in found.items()}
    halves = found["dense"].halves
    best = {model: {part: each.best[part]._asdict() for part in each.best} for model, each in found.items()}
    both = Params(found["dense"].best["all"].params.dense, found["grid"].best["all"].params.grid)
    return {
        "set": f"{title(data.folder)}, each half with the other's choice",
        "images": sorted(sum(halves.values(), [])),
        "halves": halves,
        "settings": {model: len(each.table) for model, each in found.items()},
        "best": best,
        "figures": {name: metrics.summary(of) for name, of in counts.items()},
        "intervals": metrics.intervals(counts),
        "seconds": seconds(data, sorted(sum(halves.values(), []))[:TIMED], both),
    }


def main(arguments: list[str]) -> None:
    parser = common.parser("tuned", __doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kept", type=Path, required=True, metavar="DIR", help="folder for what is counted")
    parser.add_argument("--void", type=int, nargs="*", default=[255])
    parser.add_argument("--stride", type=int)
    parser.add_argument("--images", type=int, help="only so many photos, drawn by the seed")
    parser.add_argument("--results", type=Path, default=common.RESULTS)
    options = parser.parse_args(arguments)
    stamp = {"environment": figures.environment(), "left_out": []}
    data = DataSet(options.folder, void=options.void, stride=options.stride)
    found = measure(data, options.kept, options.images)
    figures.save(options.results, f"tuned-{title(options.folder).lower()}", {**stamp, **found})
    for name, of in found["figures"].items():
        print(f"{name:16}" + ", ".join(f"{figure} {of[figure]:.2f}" for figure in metrics.HEADLINES))
