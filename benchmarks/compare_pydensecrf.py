"""Speed and memory of densecrf beside pydensecrf2, whole call from arrays to probabilities.

    pip install -c constraints.txt ".[bench]"
    DENSECRF_DATA=... python benchmarks/compare_pydensecrf.py [--cases main|all] [--rounds 7]

Both engines are called in turn, round after round, in one process, after it has been checked that "classic" gives
pydensecrf's Q; the table has the median of each, the ratio of the medians and the smallest and largest ratio of one
round. Photographs: crops of the two that ship with densecrf, and where DENSECRF_DATA names the benchmark data
(see data.py) CamVid street scenes. Unaries are seeded random scores of a stride-8 map, upsampled, with every label
alive: time depends on their shape only. Memory is the growth of a fresh process's peak over the call.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from data import resize_bilinear
from numpy.typing import NDArray
from PIL import Image

import densecrf
from densecrf import Bilateral, Gaussian, _native

Array = NDArray[Any]
SETTINGS = {"standard": (3, 3, 80, 13, 10), "default": (1, 3, 50, 4, 5)}  # sxy, weight; sxy, srgb, weight
DEMO = Path(__file__).resolve().parent.parent / "examples" / "data"
STREETS = ("0016E5_07979", "0016E5_08051", "0016E5_08117", "0016E5_07959")


class Case(NamedTuple):
    """One row: size, labels, iterations."""

    width: int
    height: int
    labels: int
    iterations: int


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


def photographs(width: int, height: int) -> list[tuple[str, Array]]:
    """Photographs of a size: crops where they are large enough, enlarged otherwise."""
    paths = [DEMO / "astronaut.png", DEMO / "camera.png"]
    root = os.environ.get("DENSECRF_DATA")
    if root:
        paths += [Path(root) / "camvid_val" / "images" / f"{name}.png" for name in STREETS]
    found = []
    for path in paths:
        with Image.open(path) as file:
            image = file.convert("RGB")
        scale = max(width / image.width, height / image.height)
        if scale > 1:
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        pixels = np.array(image)[:height, :width].copy()  # pydensecrf wants it contiguous and writable
        found.append((path.stem, pixels))
    return found


def unary_of(case: Case) -> Array:
    """Energies of random scores at stride 8, upsampled."""
    rng = np.random.default_rng(0)
    small = rng.normal(scale=2.0, size=(case.labels, case.height // 8 + 1, case.width // 8 + 1))
    return densecrf.unary.from_logits(resize_bilinear(small, case.height, case.width))


def ours(image: Array, unary: Array, setting: str, case: Case, threads: int, method: str = "tuned") -> Array:
    """Probabilities by densecrf."""
    sxy, weight, bilateral_sxy, srgb, bilateral_weight = SETTINGS[setting]
    kernels = [Gaussian(sxy, weight), Bilateral(bilateral_sxy, srgb, bilateral_weight)]
    return densecrf.refine(
        image, unary=unary, kernels=kernels, iterations=case.iterations, method=method, num_threads=threads
    ).probs


def theirs(image: Array, unary: Array, setting: str, case: Case, module: str = "pydensecrf.densecrf") -> Array:
    """Probabilities by pydensecrf, or by another module with its names."""
    dcrf = importlib.import_module(module)
    sxy, weight, bilateral_sxy, srgb, bilateral_weight = SETTINGS[setting]
    crf = dcrf.DenseCRF2D(image.shape[1], image.shape[0], len(unary))
    crf.setUnaryEnergy(unary.reshape(len(unary), -1))
    crf.addPairwiseGaussian(sxy=sxy, compat=weight)
    crf.addPairwiseBilateral(sxy=bilateral_sxy, srgb=srgb, rgbim=image, compat=bilateral_weight)
    return np.array(crf.inference(case.iterations)).reshape(unary.shape)


def check(image: Array, unary: Array, setting: str, case: Case) -> None:
    """Stop unless the classic mode agrees with pydensecrf."""
    difference = np.abs(ours(image, unary, setting, case, 2, "classic") - theirs(image, unary, setting, case)).max()
    if difference > 1e-3:
        raise SystemExit(f"classic and pydensecrf differ by {difference:.1e} on {case}, {setting}")


def time_case(case: Case, setting: str, rounds: int, image: Array) -> dict[str, list[float]]:
    """Seconds of each engine, interleaved."""
    unary = unary_of(case)
    check(image, unary, setting, case)
    runs = {
        "pydensecrf": lambda: theirs(image, unary, setting, case),
        "1 thread": lambda: ours(image, unary, setting, case, 1),
        "2 threads": lambda: ours(image, unary, setting, case, 2),
    }
    return interleaved(runs, rounds)


def interleaved(runs: dict[str, Callable[[], Any]], rounds: int, pause: float = 0) -> dict[str, list[float]]:
    """Seconds of each run, called in turn, round after round, each after a pause."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            time.sleep(pause)
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def memory(engine: str, setting: str, case: Case) -> float:
    """Peak memory in MB that a call adds, measured in a fresh process."""
    out = subprocess.run(
        [sys.executable, __file__, "--peak", engine, setting, json.dumps(case)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(out.stdout)


def print_peak(engine: str, setting: str, case: Case) -> None:
    """The child of memory()."""
    image = photographs(case.width, case.height)[0][1]
    unary = unary_of(case)
    tiny = Case(16, 16, 2, 1)
    (theirs if engine == "pydensecrf" else lambda *a: ours(*a, threads=2))(
        image[:16, :16].copy(), unary_of(tiny), setting, tiny
    )
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of making the inputs
    before = peak_resident()
    result = theirs(image, unary, setting, case) if engine == "pydensecrf" else ours(image, unary, setting, case, 2)
    assert result.shape == unary.shape
    print(peak_resident() - before)


def peak_resident() -> float:
    """Peak resident memory of this process in MB (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise SystemExit("/proc/self/status has no VmHWM: memory is measured on Linux only")


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
        ratios = {engine: middle["pydensecrf"] / middle[engine] for engine in ("1 thread", "2 threads")}
        lines.append({"photo": name, "M/N": lattice_ratio(case, setting, image), "seconds": seconds, "ratio": ratios})
    summary = {
        "case": case._asdict(),
        "setting": setting,
        "photos": lines,
        "M/N": median(line["M/N"] for line in lines),
        "ratio": {engine: median(line["ratio"][engine] for line in lines) for engine in ("1 thread", "2 threads")},
        "ms": {
            engine: 1000 * median(median(line["seconds"][engine]) for line in lines)
            for engine in ("pydensecrf", "1 thread", "2 threads")
        },
    }
    spread = {e: [line["ratio"][e] for line in lines] for e in ("1 thread", "2 threads")}
    print(
        f"{case.width}x{case.height} L={case.labels} T={case.iterations} {setting:9} M/N {summary['M/N']:.2f}  "
        + "  ".join(f"{e} {v:.0f} ms" for e, v in summary["ms"].items())
        + "  "
        + "  ".join(f"{e}: {v:.1f}x ({min(spread[e]):.1f}-{max(spread[e]):.1f})" for e, v in summary["ratio"].items()),
        flush=True,
    )
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", choices=["main", "all"], default="main")
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print_peak(options.peak[0], options.peak[1], Case(*json.loads(options.peak[2])))
        return
    cases = MAIN if options.cases == "main" else ALL
    rows = [row(case, setting, options.rounds) for case in cases for setting in options.settings]
    peaks = {}
    for setting in options.settings if not options.no_memory else []:
        peaks[setting] = {engine: memory(engine, setting, MAIN[0]) for engine in ("pydensecrf", "densecrf")}
        print(f"peak extra memory, 500x375 L=21, {setting}: {peaks[setting]} MB", flush=True)
    if options.output:
        stamp = {
            "machine": platform.processor() or platform.machine(),
            **_native.info(),
            "version": densecrf.__version__,
        }
        options.output.write_text(json.dumps({"environment": stamp, "rows": rows, "peak_MB": peaks}, indent=1) + "\n")


if __name__ == "__main__":
    main()
