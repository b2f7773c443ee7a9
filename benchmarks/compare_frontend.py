"""pydensecrf2 and densecrf.compat.pydensecrf on the same random scripts, in one process: same numbers, which speed?

    pip install -c constraints.txt -e ".[bench]"
    python -m benchmarks compare_frontend [--scripts 400] [--seed 0] [--rounds 9] [--output FILE]

A script is drawn from a seeded generator: image, points or volume, 2 to 150 labels, any unary, up to four kernels of
any kind, compatibility and normalisation, and then `inference`, or steps with klDivergence. It fails where a
probability differs by more than 1e-4, a label differs, or a KL value by more than 1e-3 relative. A point counts as a
tie, where either label will do, if pydensecrf2's two best probabilities lie within 2e-4: within the tolerance each may
have moved past the other. Strong weights amplify the last bit of float32 from iteration to iteration: a script beyond
the tolerance is called unstable instead of failed where pydensecrf2's own Q moves at least half as far when the last
bit of the unaries changes, and is printed and counted.

Speed: the script of pydensecrf's README on the two photographs that ship with densecrf, as in compare_pydensecrf.py,
beside the engine's own `densecrf.refine(..., method="classic")`.
"""

from __future__ import annotations

import importlib
import json
import os
from collections import Counter
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import densecrf
from benchmarks import common
from benchmarks.contenders import SETTINGS, Problem, ours, theirs
from benchmarks.data import Case, photographs, unary_of
from benchmarks.timing import interleaved
from densecrf import _native

Array = NDArray[Any]
PACKAGES = ("pydensecrf", "densecrf.compat.pydensecrf")
NORMALIZATIONS = ("NO_NORMALIZATION", "NORMALIZE_BEFORE", "NORMALIZE_AFTER", "NORMALIZE_SYMMETRIC")
KERNELS = ("CONST_KERNEL", "DIAG_KERNEL", "FULL_KERNEL")
LABELS = (2, 2, 3, 4, 5, 7, 12, 21, 33, 64, 150)
Q_TOLERANCE, KL_TOLERANCE = 1e-4, 1e-3
CASES = [Case(500, 375, 21, 5), Case(480, 360, 12, 5), Case(320, 240, 2, 5)]


class Kernel(NamedTuple):
    """One call of addPairwise..."""

    kind: str  # gaussian, bilateral, features, util gaussian, util bilateral
    compat: Any
    options: dict[str, str]  # names of constants: kernel, normalization
    arguments: dict[str, Any]


class Script(NamedTuple):
    """What to call, with which arguments."""

    shape: tuple[int, ...]  # (N,), (H, W) or (D, H, W); (H, W) is a DenseCRF2D
    labels: int
    unary: str  # energies, softmax, labels, ConstUnary, LogisticUnary, none
    data: dict[str, Any]  # what the unary is made of
    kernels: list[Kernel]
    steps: int
    stepwise: bool


def draw(seed: int) -> Script:
    """A random script."""
    rng = np.random.default_rng(seed)
    shape = draw_shape(rng)
    labels = int(rng.choice(LABELS))
    unary = str(rng.choice(["energies", "softmax", "labels", "ConstUnary", "LogisticUnary", "none"], p=_UNARIES))
    kernels = [draw_kernel(rng, shape, labels) for _ in range(rng.integers(1, 5))]
    steps, stepwise = int(rng.integers(0, 8)), bool(rng.random() < 0.5)
    return Script(shape, labels, unary, draw_data(rng, unary, shape, labels), kernels, steps, stepwise)


_UNARIES = (0.35, 0.2, 0.15, 0.1, 0.15, 0.05)


def draw_shape(rng: np.random.Generator) -> tuple[int, ...]:
    """Of a 2-D image in half of the cases."""
    rank = int(rng.choice([1, 2, 2, 3]))
    return tuple(int(n) for n in rng.integers(1, {1: 400, 2: 40, 3: 12}[rank], rank))


def draw_data(rng: np.random.Generator, unary: str, shape: tuple[int, ...], labels: int) -> dict[str, Any]:
    """Arrays that a unary is made of."""
    points = int(np.prod(shape))
    if unary == "softmax":
        sm = rng.dirichlet(np.ones(labels), shape)
        scale = None if rng.random() < 0.5 else float(rng.uniform(0.3, 1))
        return {"sm": np.moveaxis(sm, -1, 0).astype(rng.choice([np.float32, np.float64])), "scale": scale}
    if unary == "labels":
        zero_unsure = bool(rng.random() < 0.5)
        given = rng.integers(0, labels + zero_unsure, shape)
        return {"labels": given, "gt_prob": float(rng.uniform(0.3, 0.9)), "zero_unsure": zero_unsure}
    if unary == "LogisticUnary":
        features = int(rng.integers(1, 9))
        return {
            "L": rng.normal(size=(labels, features)).astype(np.float32),
            "f": rng.random((features, points), np.float32),
        }
    return {"u": (rng.random((labels, points)) * rng.uniform(0.5, 5)).astype(np.float32)}


def draw_kernel(rng: np.random.Generator, shape: tuple[int, ...], labels: int) -> Kernel:
    """A kernel that fits the shape."""
    kinds = ["features"] + ["util gaussian", "util bilateral"] * (len(shape) > 1)
    kind = str(rng.choice(kinds + ["gaussian", "bilateral", "bilateral"] * (len(shape) == 2)))
    normalization = str(rng.choice(NORMALIZATIONS))
    # Unnormalised sums grow with the number of points.
    scale = rng.uniform(0.2, 10) if normalization != "NO_NORMALIZATION" else rng.uniform(0.2, 20) / np.prod(shape)
    compat = draw_compat(rng, labels, scale)
    options = {"kernel": str(rng.choice(KERNELS)), "normalization": normalization}
    return Kernel(kind, compat, options, draw_arguments(rng, kind, shape))


def draw_compat(rng: np.random.Generator, labels: int, scale: float) -> Any:
    """A number, a vector or a matrix, not symmetric; most attract."""
    kind = rng.integers(3)
    if kind == 0:
        return float(scale if rng.random() < 0.9 else -scale)
    vector = (-scale * rng.uniform(0.5, 1.5, labels)).astype(np.float32)
    if kind == 1:
        return vector
    return np.diag(vector) + (scale * rng.normal(size=(labels, labels)) / (2 * labels)).astype(np.float32)


def draw_arguments(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """Bandwidths, an image, features."""
    if kind == "features":
        dims = int(rng.integers(1, 7))
        return {"features": (rng.random((dims, int(np.prod(shape)))) * rng.uniform(0.5, 6)).astype(np.float32)}
    sigmas = tuple(float(s) for s in rng.uniform(0.7, 20, len(shape)))
    channels = 3 if kind == "bilateral" else int(rng.integers(1, 4))
    image = rng.integers(0, 256, [n // 3 + 1 for n in shape] + [channels])
    for axis in range(len(shape)):
        image = image.repeat(3, axis)
    image = image[tuple(slice(n) for n in shape)]
    image = np.clip(image + rng.integers(-9, 10, image.shape), 0, 255).astype(np.uint8)
    bandwidths = tuple(float(s) for s in rng.uniform(3, 60, channels))
    if kind == "gaussian":
        return {"sxy": sigmas if rng.random() < 0.5 else sigmas[0]}
    if kind == "bilateral":
        return {"sxy": sigmas, "srgb": bandwidths if rng.random() < 0.5 else bandwidths[0], "rgbim": image.copy()}
    if kind == "util gaussian":
        return {"sdims": sigmas, "shape": shape}
    if channels == 1:
        return {"sdims": sigmas, "schan": bandwidths, "img": image[..., 0], "chdim": -1}
    return {"sdims": sigmas, "schan": bandwidths, "img": image, "chdim": len(shape)}


def run(script: Script, package: str) -> tuple[Array, list[float]]:
    """Q, and the KL values of a stepwise script."""
    dcrf, utils = (importlib.import_module(f"{package}.{name}") for name in ("densecrf", "utils"))
    points = int(np.prod(script.shape))
    if len(script.shape) == 2:
        crf = dcrf.DenseCRF2D(script.shape[1], script.shape[0], script.labels)
    else:
        crf = dcrf.DenseCRF(points, script.labels)
    set_unary(crf, script, dcrf, utils)
    for kernel in script.kernels:
        add_kernel(crf, kernel, dcrf, utils)
    if not script.stepwise:
        return np.array(crf.inference(script.steps)), []
    Q, tmp1, tmp2 = crf.startInference()
    kl = [crf.klDivergence(Q)]
    for _ in range(script.steps):
        crf.stepInference(Q, tmp1, tmp2)
        kl.append(crf.klDivergence(Q))
    return np.array(Q), kl


def set_unary(crf: Any, script: Script, dcrf: Any, utils: Any) -> None:
    data = script.data
    if script.unary == "energies":
        crf.setUnaryEnergy(data["u"])
    elif script.unary == "softmax":
        crf.setUnaryEnergy(np.ascontiguousarray(utils.unary_from_softmax(**data)))
    elif script.unary == "labels":
        crf.setUnaryEnergy(utils.unary_from_labels(n_labels=script.labels, **data))
    elif script.unary != "none":
        crf.setUnary(getattr(dcrf, script.unary)(*data.values()))


def add_kernel(crf: Any, kernel: Kernel, dcrf: Any, utils: Any) -> None:
    options = {name: getattr(dcrf, value) for name, value in kernel.options.items()}
    if kernel.kind == "gaussian":
        crf.addPairwiseGaussian(compat=kernel.compat, **kernel.arguments, **options)
    elif kernel.kind == "bilateral":
        crf.addPairwiseBilateral(compat=kernel.compat, **kernel.arguments, **options)
    elif kernel.kind == "features":
        crf.addPairwiseEnergy(compat=kernel.compat, **kernel.arguments, **options)
    else:
        create = getattr(utils, f"create_pairwise_{kernel.kind.split()[1]}")
        crf.addPairwiseEnergy(create(**kernel.arguments), kernel.compat, **options)


def differences(script: Script) -> dict[str, float]:
    """Largest difference of Q and of KL (relative), and how many labels differ, ties aside; how many are ties."""
    (theirs_q, theirs_kl), (q, kl) = (run(script, package) for package in PACKAGES)
    second, best = np.sort(theirs_q, axis=0)[-2:]
    ties = best - second <= 2 * Q_TOLERANCE
    other = (q.argmax(axis=0) != theirs_q.argmax(axis=0)) & ~ties
    floor = 1e-3 * q.shape[1]  # KL sums over points and may pass through 0
    relative = [abs(a - b) / max(abs(b), floor) for a, b in zip(kl, theirs_kl, strict=True)]
    # A NaN is a failure, too.
    return {
        "Q": float(np.nan_to_num(np.abs(q - theirs_q), nan=np.inf).max()),
        "labels": int(other.sum()),
        "ties": int(ties.sum()),
        "points": int(q.shape[1]),
        "KL": max(relative, default=0.0),
    }


def own_movement(script: Script) -> float:
    """How far pydensecrf2's Q moves when the last bit of the unaries' floats changes."""
    before, largest = run(script, PACKAGES[0])[0], 0.0
    for seed in range(3):
        rng = np.random.default_rng(seed)
        data = {
            name: value * (1 + rng.choice([-6e-8, 6e-8], value.shape)).astype(value.dtype)
            if isinstance(value, np.ndarray) and value.dtype.kind == "f"
            else value
            for name, value in script.data.items()
        }
        largest = max(largest, np.abs(run(script._replace(data=data), PACKAGES[0])[0] - before).max())
    return float(largest)


def check(seeds: range) -> dict[str, Any]:
    """Run the scripts; what they showed."""
    found, failed, unstable = [], [], []
    for seed in seeds:
        script = draw(seed)
        one = differences(script)
        if one["Q"] <= Q_TOLERANCE and one["labels"] == 0 and one["KL"] <= KL_TOLERANCE:
            found.append(one)
            continue
        own = own_movement(script)
        (unstable if one["Q"] <= 2 * own and one["KL"] <= KL_TOLERANCE else failed).append(seed)
        print(f"seed {seed}: {one}, pydensecrf2 by itself: {own:.1e}, {sorted(describe(script))}", flush=True)
    scripts = [draw(seed) for seed in seeds]
    return {
        "scripts": len(seeds),
        "seeds": [seeds.start, seeds.stop],
        "failed": failed,
        "unstable": unstable,
        "largest Q": max(one["Q"] for one in found),
        "largest KL": max(one["KL"] for one in found),
        "labels that differ": sum(one["labels"] for one in found),
        "ties": sum(one["ties"] for one in found),
        "points": sum(one["points"] for one in found),
        "covered": Counter(feature for script in scripts for feature in describe(script)),
    }


def describe(script: Script) -> set[str]:
    """What a script makes use of."""
    kinds = {0: "compat number", 1: "compat vector", 2: "compat matrix"}
    used = {f"{len(script.shape)}-D", f"unary {script.unary}", "steps" if script.stepwise else "inference"}
    used |= {kernel.kind for kernel in script.kernels} | {kinds[np.ndim(k.compat)] for k in script.kernels}
    used |= {k.options["normalization"] for k in script.kernels}
    return used | {f"L = {script.labels}"} | ({"N % 4 != 0"} if np.prod(script.shape) % 4 else set())


def time_frontend(case: Case, setting: str, rounds: int, threads: int) -> dict[str, Any]:
    """Medians of the README's script over rounds and photographs, and what pydensecrf2 takes in terms of each."""
    unary = unary_of(case)
    lines = []
    for _, image in photographs(case.width, case.height)[:2]:
        problem = Problem(image, unary, SETTINGS[setting], case.iterations)
        runs = {package: partial(theirs, problem, f"{package}.densecrf") for package in PACKAGES}
        runs["engine"] = partial(ours, problem, threads, "classic")
        lines.append([median(seconds) for seconds in interleaved(runs, rounds).values()])
    ms = [1000 * median(column) for column in zip(*lines, strict=True)]
    front, engine = (median(line[0] / line[i] for line in lines) for i in (1, 2))
    name = f"{case.width}x{case.height} L={case.labels} T={case.iterations} {setting}"
    print(
        f"{name:32} pydensecrf2 {ms[0]:.0f} ms, front end {ms[1]:.0f} ms: {front:.1f}x, engine {engine:.1f}x",
        flush=True,
    )
    return {"case": name, "ms": ms, "ratio": {"front end": front, "engine": engine}}


def main(arguments: list[str]) -> None:
    parser = common.parser("compare_frontend", __doc__)
    parser.add_argument("--scripts", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=9, help="of the timing; 0: none")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    options = parser.parse_args(arguments)
    result = check(range(options.seed, options.seed + options.scripts))
    print(json.dumps(result, indent=1))
    speed: dict[str, list[dict[str, Any]]] = {}
    for threads in (1, 2) if options.rounds else ():
        os.environ["DENSECRF_NUM_THREADS"] = str(threads)
        print(f"threads: {threads}")
        rows = [time_frontend(case, setting, options.rounds, threads) for case in CASES for setting in SETTINGS]
        speed[str(threads)] = rows
    if options.output:
        stamp = {**_native.info(), "version": densecrf.__version__}
        options.output.write_text(json.dumps({"environment": stamp, "check": result, "speed": speed}, indent=1) + "\n")
    if result["failed"]:
        raise SystemExit(f"{len(result['failed'])} of {options.scripts} scripts failed")
