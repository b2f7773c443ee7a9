"""The lattice and its filter: against the exact Gaussian sum, and in its own right."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from densecrf import Lattice, _native, numerics, reference

DIMS = (1, 2, 3, 5, 6, 8, 16, 17)
METHODS = ("tuned", "classic")
DTYPES = ("float32", "float64")
# Rounding of a filter, relative to the largest result: sums of a few hundred terms, blurred d + 1 times.
ROUNDING = {"float32": 5e-6, "float64": 1e-14}
# Width of random points at which each has a dozen or so neighbours within a bandwidth or two.
WIDTH = {1: 30.0, 2: 8.0, 3: 4.0, 5: 2.5, 6: 2.2, 8: 2.0, 16: 1.4, 17: 1.4}
GOLDEN = Path(__file__).parent / "data"


def cloud(d, n=400, seed=0):
    return np.random.default_rng(seed).random((n, d)) * WIDTH.get(d, 2.0)


def values_for(n, channels=3, seed=1):
    return np.random.default_rng(seed).random((channels, n)) - 0.3


def photo_features(sxy, srgb):
    """Positions and colours of a crop of a photo, every third pixel."""
    with np.load(GOLDEN / "golden_three.npz") as file:
        image = file["image"].astype(float)
    positions = np.stack(np.mgrid[: image.shape[0], : image.shape[1]][::-1], axis=-1)
    return np.concatenate([positions / sxy, image / srgb], axis=-1).reshape(-1, 5)[::3]


def close(found, expected, dtype="float32", times=1.0):
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    assert found.shape == expected.shape
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error <= times * ROUNDING[dtype], f"{error:.2g}"


# ---- against the exact sum ----------------------------------------------------------------------------------


def scores_against_exact(features, method, dtype):
    """Correlation of the filtered values with the exact ones, the factor between them, and rmse of the weighted means
    in units of what there is to explain."""
    values = np.random.default_rng(2).random((4, len(features)))
    values[0] = 1.0
    found = Lattice(features, method, dtype=dtype).filter(values).astype(float)
    exact = reference.filter(features, values)
    correlation = np.corrcoef(found.ravel(), exact.ravel())[0, 1]
    factor = (found * exact).sum() / (exact * exact).sum()
    means, exact_means = found[1:] / found[0], exact[1:] / exact[0]
    return correlation, factor, np.sqrt(((means - exact_means) ** 2).mean()) / exact_means.std()


# Correlation and rmse of the means, (tuned, classic); measured on 1500 points, the worst of four clouds, plus a fifth.
RANDOM = {
    1: ((0.998, 0.08), (0.997, 0.09)),
    2: ((0.998, 0.12), (0.997, 0.13)),
    3: ((0.997, 0.12), (0.996, 0.15)),
    5: ((0.990, 0.17), (0.987, 0.22)),
    6: ((0.982, 0.19), (0.981, 0.21)),
    8: ((0.970, 0.29), (0.965, 0.28)),
    16: ((0.80, 0.95), (0.76, 1.05)),  # a few vertices per point: the lattice has little left to say
    17: ((0.77, 1.10), (0.71, 1.40)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("d", DIMS)
def test_filter_is_near_the_gaussian_on_random_points(d, method, dtype):
    correlation, factor, rmse = scores_against_exact(cloud(d, 1500), method, dtype)
    least, most = RANDOM[d][METHODS.index(method)]
    print(d, method, dtype, correlation, factor, rmse)
    assert correlation >= least
    assert rmse <= most
    # tuned estimates the sum itself: within 5 % while neighbours overlap; classic's scale is a matter of convention.
    if method == "tuned":
        assert factor == pytest.approx(1.0, abs=0.05 if d <= 8 else 0.35)


@pytest.mark.parametrize("sxy, srgb", [(80.0, 13.0), (50.0, 4.0), (10.0, 20.0)])
def test_filter_is_near_the_gaussian_on_a_photo(sxy, srgb):
    features = photo_features(sxy, srgb)
    tuned, classic = (scores_against_exact(features, method, "float32") for method in METHODS)
    print(sxy, srgb, tuned, classic)
    # Measured: tuned 0.984 ... 0.997 and 0.08 ... 0.13; classic 0.968 ... 0.996 and 0.15 ... 0.19.
    assert tuned[0] >= 0.98 and tuned[2] <= 0.16
    assert classic[0] >= 0.96 and classic[2] <= 0.23
    assert tuned[2] <= classic[2]
