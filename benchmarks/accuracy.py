"""How far from the exact mean field: densecrf "tuned", "classic" and "fast", and pydensecrf2, on real crops.

    DENSECRF_DATA=... python -m benchmarks accuracy --cache DIR [--pydensecrf-python PYTHON]

Truth is `densecrf.reference.mean_field` in float64, with both kernels dense. All crops take about 15 minutes
of one core and 5 GB, so it is kept in the cache folder (under a name with a digest of image, logits and
setting). Everyone gets the same float32 unary, image and kernels, and the same normalisation ("symmetric",
self-message kept).

Measures, for each crop, setting and number of iterations, with dQ = Q - Q_exact [L, N]:
  rmse   sqrt(mean over pixels of the sum over labels of dQ^2)
  L1     mean over pixels of the sum over labels of |dQ|
  wrong  % of pixels whose most probable label differs from the exact one's

The table goes to the terminal, everything to a JSON file.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import common, pydensecrf_worker
from benchmarks.data import Photo, crops
from densecrf import reference, unary

Q_at = dict[int, NDArray[Any]]  # T -> Q [L, H, W]

ITERATIONS = (5, 10)
SETTINGS: dict[str, dict[str, tuple[float, ...]]] = {  # Gaussian (sxy, weight), Bilateral (sxy, srgb, weight)
    "default": {"gaussian": (1, 3), "bilateral": (50, 4, 5)},
    "standard": {"gaussian": (3, 3), "bilateral": (80, 13, 10)},
}
MEASURES = ("rmse", "L1", "wrong")
KEEP_BYTES = 4 << 30  # of kernel matrices, while one exact result is computed


def features(image: NDArray[np.uint8], sxy: float, srgb: float | None = None) -> NDArray[np.float64]:
    """Features ``[N, 2]`` (y, x) or ``[N, 5]`` (y, x, r, g, b), divided by their bandwidths."""
    position = np.indices(image.shape[:2], dtype=np.float64).reshape(2, -1).T / sxy
    return position if srgb is None else np.hstack([position, image.reshape(-1, 3) / srgb])


def exact(photo: Photo, energy: NDArray[np.float32], setting: dict[str, tuple[float, ...]]) -> Q_at:
    """The exact Q for each of ITERATIONS, from one run."""
    sxy, weight = setting["gaussian"]
    bilateral_sxy, srgb, bilateral_weight = setting["bilateral"]
    kernels = [
        (features(photo.image, sxy), weight, "symmetric"),
        (features(photo.image, bilateral_sxy, srgb), bilateral_weight, "symmetric"),
    ]
    found: Q_at = {}

    def keep(t: int, Q: NDArray[Any]) -> None:
        if t in ITERATIONS:
            found[t] = Q.reshape(energy.shape)

    pairwise = reference.Pairwise(kernels, keep_bytes=KEEP_BYTES)
    flat = energy.reshape(len(energy), -1)
    reference.mean_field(flat, pairwise, iterations=max(ITERATIONS), on_iteration=keep)
    return found


def cached_exact(photo: Photo, energy: NDArray[np.float32], name: str, cache: Path | None) -> Q_at:
    """`exact`, from the cache folder if it is there."""
    if cache is None:
        return exact(photo, energy, SETTINGS[name])
    inputs = photo.image.tobytes() + photo.logits.tobytes() + repr(SETTINGS[name]).encode()
    path = cache / f"{photo.name}-{name}-{hashlib.sha1(inputs).hexdigest()[:12]}.npz"
    if not path.exists():
        start = time.perf_counter()
        found = exact(photo, energy, SETTINGS[name])
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with open(partial, "wb") as file:
            np.savez(file, **{f"T{t}": Q for t, Q in found.items()})  # type: ignore[arg-type]
        partial.replace(path)
        print(f"exact {path.stem}: {time.perf_counter() - start:.0f} s", flush=True)
    with np.load(path) as stored:
        return {t: stored[f"T{t}"] for t in ITERATIONS}


def run_densecrf(method: str) -> Callable[[Photo, NDArray[np.float32], str], Q_at]:
    """A function that runs densecrf with this method."""
    import densecrf

    def run(photo: Photo, energy: NDArray[np.float32], name: str) -> Q_at:
        sxy, weight = SETTINGS[name]["gaussian"]
        bilateral_sxy, srgb, bilateral_weight = SETTINGS[name]["bilateral"]
        kernels = [
            densecrf.Gaussian(sxy=sxy, weight=weight),
            densecrf.Bilateral(sxy=bilateral_sxy, srgb=srgb, weight=bilateral_weight),
        ]
        return {
            T: densecrf.refine(photo.image, unary=energy, kernels=kernels, iterations=T, method=method).probs
            for T in ITERATIONS
        }

    return run


def run_pydensecrf(python: str | None) -> Callable[[Photo, NDArray[np.float32], str], Q_at]:
    """A function that runs pydensecrf2 in this process or, where `python` is given, in that interpreter."""

    def run(photo: Photo, energy: NDArray[np.float32], name: str) -> Q_at:
        inputs = {"image": photo.image, "unary": energy, **SETTINGS[name]}
        if python is None:
            return {T: pydensecrf_worker.infer(**inputs, iterations=T) for T in ITERATIONS}  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory() as folder:
            source, target = f"{folder}/input.npz", f"{folder}/output.npz"
            np.savez(source, iterations=ITERATIONS, **inputs)  # type: ignore[arg-type]
            subprocess.run([python, pydensecrf_worker.__file__, source, target], check=True)
            with np.load(target) as file:
                return dict(zip(ITERATIONS, file["Q"], strict=True))

    return run


def score(Q: NDArray[Any], truth: NDArray[Any]) -> dict[str, float]:
    """rmse, L1 and wrong (%), as the head of this file defines them; Q ``[L, H, W]``."""
    difference = np.asarray(Q, dtype=np.float64) - truth
    return {
        "rmse": float(np.sqrt((difference**2).sum(axis=0).mean())),
        "L1": float(np.abs(difference).sum(axis=0).mean()),
        "wrong": float(100.0 * (Q.argmax(axis=0) != truth.argmax(axis=0)).mean()),
    }


def measure(photos: Iterable[Photo], methods: dict[str, Any], cache: Path | None) -> list[dict[str, Any]]:
    """One row for each crop, setting, T and method. Without methods, only the cache is filled."""
    rows = []
    for photo in photos:
        energy = unary.from_logits(photo.logits)
        for name in SETTINGS:
            truth = cached_exact(photo, energy, name, cache)
            for method, run in methods.items():
                case = {"crop": photo.name, "labels": len(energy), "setting": name, "method": method}
                for T, Q in run(photo, energy, name).items():
                    rows.append({**case, "T": T, **score(Q, truth[T])})
    return rows


def table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and lines: a line for each setting, T and crop, their mean and the worst ratios to pydensecrf2."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    groups: dict[tuple[str, int, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["setting"], row["T"], row["crop"]), {})[row["method"]] = row
    lines = []
    for setting, T in sorted({key[:2] for key in groups}):
        found = [(crop, of) for (s, t, crop), of in groups.items() if (s, t) == (setting, T)]
        mean = {m: {k: np.mean([of[m][k] for _, of in found]) for k in MEASURES} for m in methods}
        for crop, of in [*found, ("mean", mean)]:
            cells = [f"{of[m]['rmse']:.4f} {of[m]['L1']:.4f} {of[m]['wrong']:5.2f}" for m in methods]
            lines.append([setting, str(T), crop, *cells, *(f"{ratio:.2f}" for ratio in _ratios(of))])
        worst = np.max([_ratios(of) for _, of in found], axis=0)
        if worst.size:
            blank = [""] * len(methods)
            lines.append([setting, str(T), "worst", *blank, *(f"{ratio:.2f}" for ratio in worst)])
    ratios = [f"{m}/pydensecrf2" for m in methods[:-1]] if "pydensecrf2" in methods else []
    return ["setting", "T", "crop", *(f"{m}: rmse L1 wrong%" for m in methods), *ratios], lines


def _ratios(of: dict[str, dict[str, Any]]) -> list[float]:
    """The rmse of every other method over that of pydensecrf2."""
    if "pydensecrf2" not in of:
        return []
    return [row["rmse"] / of["pydensecrf2"]["rmse"] for m, row in of.items() if m != "pydensecrf2"]


def show(head: list[str], lines: list[list[str]]) -> None:
    """Print as a table: with rich where it is installed, else aligned columns."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
        for line in [head, *lines]:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
        return
    grid = Table(*head)
    for line in lines:
        grid.add_row(*line, style="bold" if line[2] in ("mean", "worst") else None)
    console = Console()
    Console(width=max(console.width, 60 + 40 * (len(head) - 3))).print(grid)


def main(arguments: list[str]) -> None:
    """Parse the command line, measure, print, write."""
    parser = common.parser("accuracy", __doc__)
    parser.add_argument("--cache", type=Path, help="folder where exact results are kept")
    parser.add_argument("--exact-only", action="store_true", help="only fill the cache")
    names = ["tuned", "classic", "fast", "pydensecrf2"]
    parser.add_argument("--methods", nargs="+", default=names, choices=names)
    parser.add_argument("--crops", type=int, nargs="+", help="only these, by place in data.CROPS (0, 1, ...)")
    parser.add_argument("--pydensecrf-python", help="a Python with pydensecrf2, if this one has none")
    parser.add_argument("--output", type=Path, default=common.RESULTS / "accuracy.json")
    options = parser.parse_args(arguments)

    photos = (photo for n, photo in enumerate(crops()) if options.crops is None or n in options.crops)
    if options.exact_only:
        measure(photos, {}, options.cache)
        return
    ordered = [name for name in names if name in options.methods]  # pydensecrf2 last, for the ratios
    other = options.pydensecrf_python
    methods = {m: run_pydensecrf(other) if m == "pydensecrf2" else run_densecrf(m) for m in ordered}
    rows = measure(photos, methods, options.cache)
    show(*table(rows))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    about = {"settings": SETTINGS, "numpy": np.__version__, "machine": platform.machine()}
    options.output.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
