"""Time against image size, labels, iterations, bandwidths and threads, one at a time.

    python -m benchmarks scaling [--axes size labels ...] [--rounds 5] [--short]

The base is a photograph of 500 x 375 pixels with 21 labels, 5 iterations and the default setting; along each axis one
of these changes. Before a case is timed, everyone is checked on a corner of it: against the exact answer, or against
each other (contenders.check). Then all are called in turn, round after round; the figures are medians and quartiles.
A contender has no more turns in a case when it has taken --budget seconds, and no turn where the case before says that
a call would take more than --limit seconds or more memory than there is. The images are those of `data.enlarged`, the
unaries seeded random scores of a stride-8 map; time of the grid CRF, unlike all others', depends on them. It has no
bandwidths or iterations: its time along those axes is left out.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import densecrf
from benchmarks import common, contenders, figures
from benchmarks.contenders import SETTINGS, Problem, ours
from benchmarks.data import Case, enlarged, unary_of
from benchmarks.timing import interleaved, spread

BASE = Case(500, 375, 21, 5)
SHORT = Case(96, 72, 3, 2)
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
EXACT_GROWTH = 2  # its time grows with this power of the number of pixels
AXES: dict[str, Sequence[float]] = {
    "size": (0.001, 0.003, 0.01, 0.05, 0.1, 0.1875, 0.5, 1, 2, 5, 10, 20),  # megapixels
    "labels": (2, 5, 10, 21, 50, 100, 256),
    "iterations": (1, 2, 5, 10, 20),
    "sxy": (10, 20, 50, 80, 160),  # of the bilateral kernel
    "srgb": (3, 5, 8, 13, 20),
    "threads": sorted({min(2**k, CORES) for k in range(8)}),
}
SHORT_AXES: dict[str, Sequence[float]] = {
    "size": (0.001, 0.004),
    "labels": (2, 5),
    "iterations": (1, 4),
    "sxy": (10, 50),
    "srgb": (4, 13),
    "threads": range(1, min(2, CORES) + 1),
}
GRID_AXES = ("size", "labels")


class Point(NamedTuple):
    """A problem on an axis, and densecrf's threads."""

    problem: Problem
    threads: int


def point(axis: str, value: float, base: Case) -> Point:
    """The base case with one thing changed."""
    sxy, weight, bilateral_sxy, srgb, bilateral_weight = SETTINGS["default"]
    case = base
    if axis == "size":
        height = round((value * 1e6 * 3 / 4) ** 0.5)
        case = base._replace(width=round(value * 1e6 / height), height=height)
    elif axis in ("labels", "iterations"):
        case = base._replace(**{axis: int(value)})
    elif axis == "sxy":
        bilateral_sxy = value
    elif axis == "srgb":
        srgb = value
    setting = sxy, weight, bilateral_sxy, srgb, bilateral_weight
    threads = int(value) if axis == "threads" else CORES
    return Point(Problem(enlarged(case.width, case.height), unary_of(case), setting, case.iterations), threads)


def runs_of(axis: str, at: Point) -> dict[str, Callable[[Problem], Any]]:
    """Who takes part along an axis."""
    if axis == "threads":
        methods = {"densecrf": "tuned", "densecrf, classic": "classic"}
        return {name: partial(ours, threads=at.threads, method=method) for name, method in methods.items()}
    runs = contenders.everyone(at.threads, len(at.problem.unary))
    if axis not in GRID_AXES:
        runs.pop("grid CRF", None)
    if axis == "size":
        runs["exact"] = partial(ours, threads=1, method="exact")
    return runs


class Limits(NamedTuple):
    """Of one axis."""

    rounds: int
    budget: float  # seconds of a contender in a case
    limit: float  # seconds of a call


def measure(axis: str, values: Sequence[float], base: Case, limits: Limits) -> list[dict[str, Any]]:
    """One line for each value, from the smallest on."""
    lines: list[dict[str, Any]] = []
    expected: dict[str, float] = {}  # seconds of the next case
    for value, after in zip(values, [*values[1:], None], strict=True):
        if not fits(axis, value, base):
            print(f"{axis} {value:g}: left out, too large for the memory of this machine", flush=True)
            break
        at = point(axis, value, base)
        contenders.check(at.problem)
        runs = {
            name: partial(run, at.problem)
            for name, run in runs_of(axis, at).items()
            if expected.get(name, 0) <= limits.limit
        }
        if not runs:
            break
        seconds = interleaved(runs, limits.rounds, budget=limits.budget)
        found = {name: spread(times) for name, times in seconds.items()}
        lines.append({"value": value, "M/N": lattice_ratio(at.problem), "seconds": found})
        print(f"{axis} {value:g}: " + ", ".join(f"{n} {s['median']:.3f} s" for n, s in found.items()), flush=True)
        growth = after / value if after else 1
        for name, times in found.items():
            power = EXACT_GROWTH if name == "exact" else 1
            expected[name] = times["median"] * (growth**power if axis in ("size", "labels", "iterations") else 1)
    return lines


def fits(axis: str, value: float, base: Case) -> bool:
    """Whether there is memory for a case: scores, a few copies of them, and the lattice."""
    points = value * 1e6 if axis == "size" else base.width * base.height
    labels = value if axis == "labels" else base.labels
    return points * (400 + 24 * labels) < available()


def available() -> float:
    """Bytes of memory that are free (Linux; elsewhere all)."""
    try:
        with open("/proc/meminfo") as file:
            return 1024 * next(int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return float("inf")


def lattice_ratio(problem: Problem) -> float:
    """M / N, vertices of the bilateral lattice to pixels."""
    crf = densecrf.DenseCRF(problem.image)
    lattice = densecrf.Lattice(crf.domain.features(contenders.kernels(problem.setting)[1]))
    return lattice.num_vertices / problem.image[..., 0].size


def limits_of(options: argparse.Namespace) -> Limits:
    return Limits(2, 0.5, 1.0) if options.short else Limits(options.rounds, options.budget, options.limit)


def main(arguments: list[str]) -> None:
    parser = common.measuring("scaling", __doc__)
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--budget", type=float, default=3.0, help="seconds of a contender in a case [3]")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds of a call [60]")
    options = parser.parse_args(arguments)
    left_out = contenders.say_who_is_left_out()
    stamp = {"environment": figures.environment(), "left_out": left_out, "threads": CORES}
    axes, base = (SHORT_AXES, SHORT) if options.short else (AXES, BASE)
    found = {}
    for axis in options.axes:  # a quarter of an hour for the first: kept whatever happens to the next
        found[axis] = measure(axis, axes[axis], base, limits_of(options))
        figures.save(common.folder(options), "scaling", {**stamp, "base": base._asdict(), "axes": found})
