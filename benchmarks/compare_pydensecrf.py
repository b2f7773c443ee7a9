"""Speed and memory of densecrf beside pydensecrf2, whole call from arrays to probabilities.

    pip install -c constraints.txt -e ".[bench]"
    DENSECRF_DATA=... python -m benchmarks compare_pydensecrf [--cases main|all] [--rounds 7]

pydensecrf2 and both methods of densecrf are called in turn, round after round, in one process, after it has been
checked that "classic" gives pydensecrf's Q; the table has the median of each, the ratio of the medians and the smallest
and largest ratio of one round. Photographs: crops of the two that ship with densecrf, and where DENSECRF_DATA names the
benchmark data (see data.py) CamVid street scenes. Unaries are seeded random scores of a stride-8 map, upsampled, with
every label alive: time depends on their shape only. Memory is measured as in memory.py. Writes
``compare_pydensecrf.json``.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

import densecrf
from benchmarks import common, figures, memory
from benchmarks.contenders import SETTINGS, Problem, ours, theirs
from benchmarks.data import Case, photographs, unary_of
from benchmarks.timing import interleaved
from densecrf import Bilateral

Array = NDArray[Any]
ENGINES = "1 thread", "2 threads", "fast, 1 thread", "fast, 2 threads"
MAIN = [Case(500, 375, 21, 5)]
ALL = [
    *MAIN,
    Case(500, 375, 21, 10),
    Case(480, 360, 12, 5),
    Case(320, 240, 2, 5),
    Case(1920, 1080, 2, 5),
    Case(1920, 1080, 21, 5),
    Case(500, 375, 150, 5),
]


def check(problem: Problem, case: Case) -> None:
    """Stop unless the classic mode agrees with pydensecrf."""
    difference = np.abs(ours(problem, 2, "classic") - theirs(problem)).max()
    if difference > 1e-3:
        raise SystemExit(f"classic and pydensecrf differ by {difference:.1e} on {case}, {problem.setting}")


def time_case(case: Case, setting: str, rounds: int, image: Array) -> dict[str, list[float]]:
    """Seconds of each engine, interleaved."""
    problem = Problem(image, unary_of(case), SETTINGS[setting], case.iterations)
    check(problem, case)
    runs = {
        "pydensecrf": lambda: theirs(problem),
        "1 thread": lambda: ours(problem, 1),
        "2 threads": lambda: ours(problem, 2),
        "fast, 1 thread": lambda: ours(problem, 1, "fast"),
        "fast, 2 threads": lambda: ours(problem, 2, "fast"),
    }
    return interleaved(runs, rounds)


def lattice_ratio(case: Case, setting: str, image: Array) -> float:
    """M / N of the bilateral lattice."""
    crf = densecrf.DenseCRF(image)
    _, _, sxy, srgb, weight = SETTINGS[setting]
    lattice = densecrf.Lattice(crf.domain.features(Bilateral(sxy, srgb, weight)))
    return lattice.num_vertices / (case.width * case.height)


def row(case: Case, setting: str, rounds: int) -> dict[str, Any]:
    """One line of the table: the median over photographs."""
    lines = []
    for name, image in photographs(case.width, case.height):
        seconds = time_case(case, setting, rounds, image)
        middle = {engine: median(values) for engine, values in seconds.items()}
        ratios = {engine: middle["pydensecrf"] / middle[engine] for engine in ENGINES}
        lines.append({"photo": name, "M/N": lattice_ratio(case, setting, image), "seconds": seconds, "ratio": ratios})
    summary = {
        "case": case._asdict(),
        "setting": setting,
        "photos": lines,
        "M/N": median(line["M/N"] for line in lines),
        "ratio": {engine: median(line["ratio"][engine] for line in lines) for engine in ENGINES},
        "ms": {
            engine: 1000 * median(median(line["seconds"][engine]) for line in lines)
            for engine in ("pydensecrf", *ENGINES)
        },
    }
    spread = {e: [line["ratio"][e] for line in lines] for e in ENGINES}
    print(
        f"{case.width}x{case.height} L={case.labels} T={case.iterations} {setting:9} M/N {summary['M/N']:.2f}  "
        + "  ".join(f"{e} {v:.0f} ms" for e, v in summary["ms"].items())
        + "  "
        + "  ".join(f"{e}: {v:.1f}x ({min(spread[e]):.1f}-{max(spread[e]):.1f})" for e, v in summary["ratio"].items()),
        flush=True,
    )
    return summary


def main(arguments: list[str]) -> None:
    parser = common.parser("compare_pydensecrf", __doc__)
    parser.add_argument("--cases", choices=["main", "all"], default="main")
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--results", type=Path, default=common.RESULTS)
    options = parser.parse_args(arguments)
    stamp = {"environment": figures.environment()}
    cases = MAIN if options.cases == "main" else ALL
    rows = [row(case, setting, options.rounds) for case in cases for setting in options.settings]
    peaks = {}
    for setting in options.settings if not options.no_memory else []:
        peaks[setting] = {engine: memory.added(engine, setting, MAIN[0]) for engine in ("pydensecrf", "densecrf")}
        print(f"peak extra memory, 500x375 L=21, {setting}: {peaks[setting]} MB", flush=True)
    figures.save(options.results, "compare_pydensecrf", {**stamp, "rows": rows, "peak_MB": peaks})
