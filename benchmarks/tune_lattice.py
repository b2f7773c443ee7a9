"""Blur weight and feature scale of the tuned lattice, for each number of dimensions.

    python -m benchmarks tune_lattice [--output FILE]

For each d the symmetrically normalised filter is compared with the exact one (densecrf.reference, float64) on real
features (positions, colours and gradients of crops of the shipped photographs, at several bandwidths) and on random
ones (normal clouds at several densities): error = |K^ v - K^_exact v| / |K^_exact v| for piecewise constant v. The pair
with the smallest mean error over real and random features wins; half of the sets choose, the other half is reported.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import common
from benchmarks.data import DEMO
from densecrf import Lattice, numerics, reference

Array = NDArray[Any]
DIMENSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16)
WEIGHTS = np.arange(0.30, 0.561, 0.02)
STRETCHES = np.arange(0.96, 1.121, 0.01)


def photo_features(name: str, corner: tuple[int, int], dims: int, sxy: float, srgb: float) -> Array:
    """The first `dims` of x, y, r, g, b, gradients and smoothed colours of a 60 x 50 crop, over their bandwidths."""
    with Image.open(DEMO / f"{name}.png") as file:
        image = np.asarray(file.convert("RGB"), dtype=np.float64)
    y0, x0 = corner
    image = image[y0 : y0 + 50, x0 : x0 + 60]
    y, x = np.indices(image.shape[:2])
    dy, dx = np.gradient(image, axis=(0, 1))
    smooth = (np.roll(image, 2, 0) + np.roll(image, -2, 1) + image) / 3
    planes = [x / sxy, y / sxy]
    for source in (image, dx, dy, smooth, image[::-1]):
        planes += [source[..., c] / srgb for c in range(3)]
    order = planes[2:3] if dims == 1 else planes[:dims]
    return np.stack(order, axis=-1).reshape(-1, dims)


def feature_sets(dims: int) -> list[tuple[str, Array]]:
    """Real and random features, alternating."""
    rng = np.random.default_rng(dims)
    sets = []
    corners = [
        ("astronaut", (60, 180)),
        ("camera", (100, 160)),
        ("astronaut", (230, 60)),
        ("camera", (300, 220)),
    ]
    for i, (name, corner) in enumerate(corners):
        for sxy, srgb in ((3, 13), (10, 8), (50, 4), (80, 13)):
            sets.append((f"{name} {i} {sxy} {srgb}", photo_features(name, corner, dims, sxy, srgb)))
    for spread in (0.5, 1.0, 2.0, 4.0):
        for _ in range(2):
            sets.append((f"random {spread}", rng.normal(scale=spread, size=(2500, dims))))
    return sets


def values_for(features: Array) -> Array:
    """Four piecewise constant planes: signs of random directions."""
    rng = np.random.default_rng(0)
    centred = features - features.mean(axis=0)
    return (centred @ rng.normal(size=(features.shape[1], 4)) > 0).T.astype(np.float64)


def normalised(apply: Any, values: Array) -> Array:
    """D^-1/2 K D^-1/2 v."""
    root = 1 / np.sqrt(np.maximum(apply(np.ones((1, values.shape[1]))), 1e-20))
    return root * apply(root * values)


def error(features: Array, values: Array, truth: Array, how: numerics.Numerics) -> float:
    """Relative error of one setting on one feature set."""
    lattice = Lattice(features, numerics=how, num_threads=1)
    found = normalised(lambda v: lattice.filter(v).astype(np.float64), values)
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


def tune(dims: int) -> dict[str, Any]:
    """Best (w, stretch) on the even sets, and errors on the odd ones."""
    prepared = []
    for _, features in feature_sets(dims):
        values = values_for(features)
        truth = normalised(lambda v, f=features: reference.filter(f, v), values)
        prepared.append((features, values, truth))
    choose, report = prepared[::2], prepared[1::2]

    def mean(sets: list[Any], how: numerics.Numerics) -> float:
        return float(np.mean([error(*one, how) for one in sets]))

    grid = [(w, s) for w in WEIGHTS for s in STRETCHES]
    scores = {(w, s): mean(choose[::2], numerics.lattice_of(dims, w, s)) for w, s in grid}
    best = sorted(scores, key=lambda key: scores[key])[:12]
    w, s = min(best, key=lambda key: mean(choose, numerics.lattice_of(dims, *key)))
    return {
        "d": dims,
        "w": round(float(w), 2),
        "stretch": round(float(s), 2),
        "classic": mean(report, numerics.classic(dims, 4)),
        "shipped": mean(report, numerics.tuned(dims, 4)),
        "best": mean(report, numerics.lattice_of(dims, w, s)),
        "best without bridges": mean(report, numerics.lattice_of(dims, w, s)._replace(bridges=False)),
    }


def main(arguments: list[str]) -> None:
    parser = common.parser("tune_lattice", __doc__)
    parser.add_argument("--dims", type=int, nargs="+", default=list(DIMENSIONS))
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    options = parser.parse_args(arguments)
    rows = []
    for dims in options.dims:
        rows.append(tune(dims))
        print(
            "  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()),
            flush=True,
        )
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1) + "\n")
