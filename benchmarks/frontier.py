"""Distance from the exact mean field against time: densecrf, pydensecrf, and kernels cut at windows.

    DENSECRF_DATA=... python -m benchmarks frontier [--cache DIR] [--rounds 7] [--short]

The inputs are the crops of data.py, or those of the shipped photos where DENSECRF_DATA is not set. Everyone computes
the same mean field with the default setting, on one thread, and is compared with the exact one after as many iterations
(accuracy.py, which also says what L1 and wrong are). Exact results take half a minute for each crop and are kept in the
cache folder. Windows (Teichmann & Cipolla 2018) are those of torch_baselines.py, in plain PyTorch, where it is
installed. Times are medians of interleaved rounds, means over crops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import accuracy, common, contenders, data, figures
from benchmarks.contenders import SETTINGS, Problem, ours, theirs
from benchmarks.timing import interleaved, spread
from densecrf import unary

SETTING = "default"
WINDOWS = (3, 5, 7, 11, 15)
BUDGET = 3.0  # seconds of a contender on a crop
SHORT = data.Crop("demo", "astronaut", 140, 80, 40, 30)


def runs_of(windows: Iterable[int]) -> dict[str, Callable[[Problem], Any]]:
    """Who takes part."""
    runs: dict[str, Callable[[Problem], Any]] = {
        "densecrf": partial(ours, threads=1),
        "densecrf, fast": partial(ours, threads=1, method="fast"),
        "densecrf, classic": partial(ours, threads=1, method="classic"),
    }
    if contenders.installed("pydensecrf"):
        runs["pydensecrf"] = theirs
    if find_spec("torch"):
        runs |= {f"window {size}": partial(contenders.window, size=size) for size in windows}
    return runs


def measure(photo: data.Photo, options: Any) -> list[dict[str, Any]]:
    """A line for every contender and number of iterations."""
    energy = unary.from_logits(photo.logits)
    truth = accuracy.cached_exact(photo, energy, SETTING, options.cache)
    lines = []
    for T in accuracy.ITERATIONS:
        problem = Problem(photo.image, energy, SETTINGS[SETTING], T)
        runs = {name: partial(run, problem) for name, run in runs_of(WINDOWS[:2] if options.short else WINDOWS).items()}
        # The first call is the one whose result is scored; it warms up, too.
        scores = {name: accuracy.score(run(), truth[T]) for name, run in runs.items()}
        times = interleaved(runs, 2 if options.short else options.rounds, budget=BUDGET)
        lines += [{"crop": photo.name, "method": m, "T": T, **scores[m], "seconds": spread(times[m])} for m in runs]
    print(f"{photo.name}: " + ", ".join(f"{m} L1 {of['L1']:.4f}" for m, of in scores.items()), flush=True)
    return lines


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over crops, for each contender and number of iterations; times of crops are their medians."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["T"]), []).append(row)
    return [
        {
            "method": method,
            "T": T,
            **{measure: float(np.mean([row[measure] for row in found])) for measure in accuracy.MEASURES},
            "seconds": {k: float(np.mean([row["seconds"][k] for row in found])) for k in ("median", "low", "high")},
        }
        for (method, T), found in groups.items()
    ]


def chosen(options: Any) -> tuple[data.Crop, ...]:
    """The crops that there are."""
    if options.short:
        return (SHORT,)
    if data.has_root():
        return data.CROPS
    return tuple(crop for crop in data.CROPS if crop.dataset == "demo")


def main(arguments: list[str]) -> None:
    parser = common.measuring("frontier", __doc__)
    parser.add_argument("--cache", type=Path, help="folder where exact results are kept")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--crops", type=int, help="only so many crops")
    options = parser.parse_args(arguments)
    environment = figures.environment()
    left_out = [name for name in contenders.say_who_is_left_out() if name == "pydensecrf"]
    if find_spec("torch"):
        import torch

        torch.set_num_threads(1)
    else:
        left_out.append("windows")
    photos = data.crops(islice(chosen(options), options.crops))
    rows = []
    for i, photo in enumerate(photos):
        if i == 0:
            contenders.check(Problem(photo.image, unary.from_logits(photo.logits), SETTINGS[SETTING], 5))
        rows += measure(photo, options)
    stamp = {"environment": environment, "left_out": left_out, "threads": 1, "setting": SETTING}
    figures.save(common.folder(options), "frontier", {**stamp, "means": means(rows), "rows": rows})
