"""The spatial Gaussian on a regular grid: against the true Gaussian, and in its own right."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import densecrf
from densecrf import Gaussian, _native, reference
from densecrf.spatial import Grid

SIGMAS = (
    0.3,
    0.5,
    0.8,
    1.0,
    1.5,
    2.0,
    2.9,
    3.0,
    3.4,
    4.0,
    5.0,
    5.99,
    6.0,
    7.5,
    9.0,
    13.0,
    20.0,
    33.0,
    60.0,
    101.0,
    1000.0,
)
ROUNDING = {"float32": 3e-6, "float64": 1e-13}  # of a filter, relative to its largest result


def grid_filter(shape, sigmas, values, dtype="float64", threads=1):
    native = Grid(shape, sigmas).native(np.dtype(dtype))
    values = np.ascontiguousarray(values, dtype=dtype)
    return _native.ops(np.dtype(dtype)).grid_filter(native, values[None], threads)[0]


def positions(shape, sigmas):
    return np.stack([axis / s for axis, s in zip(np.indices(shape), sigmas, strict=True)], axis=-1).reshape(
        -1, len(shape)
    )


def gaussian(shape, sigmas):
    """The true kernel matrix [N, N]."""
    return reference.filter(positions(shape, sigmas), np.eye(int(np.prod(shape))))


def operator_error(shape, sigmas):
    """Largest error of any filtered values in [-1, 1], relative to the largest sum of a row; and of filtered ones."""
    found = grid_filter(shape, sigmas, np.eye(int(np.prod(shape))))
    exact = gaussian(shape, sigmas)
    peak = exact.sum(axis=1).max()
    return np.abs(found - exact).sum(axis=1).max() / peak, np.abs((found - exact).sum(axis=1)).max() / peak


# Largest error along one axis, measured over sizes 1 ... 201 and the bandwidths above, plus a fifth: the direct filter
# below 3 pixels (measured 0.00102) cuts the Gaussian off, the coarse one (measured 0.0081, at 3 pixels; 0.0052 for
# bandwidths beyond the image's size) interpolates it.
DIRECT, COARSE = 0.00125, 0.0098


def bound(sigmas):
    """Errors of the axes add up."""
    return sum(DIRECT if s < 3 else COARSE for s in sigmas)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_line(sigma):
    for n in (1, 2, 3, 5, 10, 31, 33, 50, 64, 101, 201):
        error, of_ones = operator_error((n,), (sigma,))
        assert error <= bound([sigma]), n
        assert of_ones <= error


IMAGES = [
    ((1, 1), (2.0, 5.0)),
    ((1, 37), (50.0, 4.0)),
    ((37, 1), (0.7, 3.3)),
    ((19, 23), (0.3, 0.3)),
    ((19, 23), (1.0, 1.0)),
    ((19, 23), (3.0, 3.0)),
    ((23, 19), (7.0, 7.0)),
    ((17, 31), (23.0, 23.0)),
    ((31, 17), (0.6, 40.0)),
    ((31, 17), (6.5, 0.9)),
    ((16, 32), (2.5, 3.5)),
    ((2, 150), (1.5, 12.0)),
    # Axes longer than 32 pixels, which nodes of their own may stand for.
    ((33, 35), (3.0, 3.0)),
    ((37, 41), (7.0, 9.0)),
    ((41, 37), (40.0, 0.6)),
    ((34, 20), (5.0, 30.0)),
    ((20, 34), (5.0, 30.0)),
]


@pytest.mark.parametrize("shape, sigmas", IMAGES)
def test_image(shape, sigmas):
    assert operator_error(shape, sigmas)[0] <= bound(sigmas)


VOLUMES = [
    ((5, 7, 9), (1.0, 1.0, 1.0)),
    ((5, 7, 9), (3.0, 3.0, 3.0)),
    ((9, 5, 7), (0.5, 4.0, 9.0)),
    ((9, 5, 7), (8.0, 1.2, 3.1)),
    ((1, 12, 13), (2.0, 4.0, 1.0)),
    ((12, 1, 13), (4.0, 2.0, 5.0)),
    ((12, 13, 1), (1.0, 5.0, 4.0)),
    ((2, 2, 60), (30.0, 0.4, 10.0)),
    ((21, 3, 4), (7.0, 7.0, 7.0)),
    ((34, 3, 5), (5.0, 2.0, 3.0)),
    ((3, 34, 5), (2.0, 8.0, 9.0)),
    ((3, 5, 34), (1.0, 9.0, 4.0)),
    ((33, 2, 33), (4.0, 1.0, 11.0)),
    ((1, 33, 35), (4.0, 3.0, 11.0)),
    ((33, 35, 1), (7.0, 3.0, 11.0)),
]


@pytest.mark.parametrize("shape, sigmas", VOLUMES)
def test_volume(shape, sigmas):
    assert operator_error(shape, sigmas)[0] <= bound(sigmas)


def along_axes(shape, sigmas, values):
    """The true Gaussian of values [C, N], one axis after the other."""
    out = values.reshape(-1, *shape)
    for axis, (n, s) in enumerate(zip(shape, sigmas, strict=True)):
        out = np.moveaxis(np.tensordot(gaussian((n,), (s,)), out, (1, axis + 1)), 0, axis + 1)
    return out.reshape(values.shape)


@pytest.mark.parametrize("sigmas", [(3.0, 8.0, 40.0), (11.0, 3.5, 5.0), (2.0, 6.0, 2.9)])
def test_larger_volume(sigmas):
    shape = (35, 33, 41)
    rng = np.random.default_rng(0)
    values = np.concatenate([np.ones((1, 35 * 33 * 41)), rng.choice([-1.0, 1.0], (2, 35 * 33 * 41))])
    exact = along_axes(shape, sigmas, values)
    for threads in (1, 3):
        found = grid_filter(shape, sigmas, values, threads=threads)
        assert np.abs(found - exact).max() <= bound(sigmas) * exact[0].max()


EVERY = [((n,), (s,)) for n, s in ((1, 3.0), (2, 9.0), (40, 2.0), (41, 4.0), (150, 11.0))] + IMAGES + VOLUMES


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape, sigmas", EVERY)
def test_operator(shape, sigmas, dtype):
    n = int(np.prod(shape))
    K = grid_filter(shape, sigmas, np.eye(n), dtype)
    assert K.dtype == dtype
    rounding = ROUNDING[dtype] * np.abs(K).max()
    np.testing.assert_allclose(K, K.T, atol=rounding)
    grid = Grid(shape, sigmas)
    np.testing.assert_allclose(grid.diagonal(K.dtype), np.diagonal(K), atol=rounding)
    ones = grid_filter(shape, sigmas, np.ones((1, n)), dtype)[0]
    np.testing.assert_allclose(grid.ones(K.dtype), ones, atol=ROUNDING[dtype] * ones.max())
    np.testing.assert_allclose(K.sum(axis=1), ones, atol=ROUNDING[dtype] * ones.max())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 8, 15, 16, 17, 19, 21, 24, 31, 32, 33, 64, 150])
def test_channels(channels, dtype):
    # Each is filtered as if it were alone; a direct axis, a coarse one, and rows longer than a chunk of points.
    shape, sigmas = (6, 131), (1.3, 5.0)
    n = int(np.prod(shape))
    values = np.random.default_rng(channels).random((channels, n)) - 0.3
    found = grid_filter(shape, sigmas, values, dtype)
    alone = np.concatenate([grid_filter(shape, sigmas, v[None]) for v in values])
    np.testing.assert_allclose(found, alone, atol=ROUNDING[dtype] * np.abs(alone).max())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape, sigmas", [((37, 41), (1.0, 5.0)), ((35, 9, 37), (4.0, 1.0, 3.0)), ((500,), (9.0,))])
def test_threads(shape, sigmas, dtype):
    values = np.random.default_rng(0).random((5, int(np.prod(shape))))
    one = grid_filter(shape, sigmas, values, dtype, 1)
    for threads in (2, 3, 5, 64):
        many = grid_filter(shape, sigmas, values, dtype, threads)
        np.testing.assert_allclose(many, one, atol=ROUNDING[dtype] * one.max())
        np.testing.assert_array_equal(many, grid_filter(shape, sigmas, values, dtype, threads))


def test_no_bandwidth_is_too_large_or_small():
    n = 53
    values = np.random.default_rng(0).random((1, n))
    for sigma in (1e3, 1e6, 1e9, 1e12, 1e18):  # everyone hears everyone
        found = grid_filter((n,), (sigma,), values)[0]
        np.testing.assert_allclose(found, values.sum(), rtol=COARSE)
    for sigma in (1e-18, 1e-9, 1e-3, 0.05):  # everyone hears only themselves
        np.testing.assert_array_equal(grid_filter((n,), (sigma,), values), values)
    assert Grid((500,), (1e18,)).axes[0].nodes < 12


def test_work_does_not_grow_with_the_bandwidth():
    for size, sigma in product((100, 2000), (3.0, 10.0, 100.0, 1999.0)):
        axis = Grid((size,), (sigma,)).axes[0]
        assert len(axis.taps) <= 12
        assert axis.nodes <= size / 2 + 2


# ---- through refine -----------------------------------------------------------------------------------------


def message_of_refine(shape, sigmas, dtype="float64", **options):
    """What one iteration adds to the difference of two labels' scores: K (Q_1 - Q_0); and the same exactly."""
    z = np.random.default_rng(3).normal(size=(2, *shape))
    kernels = [Gaussian(sigmas, 1.0, "none")]
    out = densecrf.refine(logits=z, kernels=kernels, iterations=1, dtype=dtype, **options).probs
    q = reference.softmax(z.reshape(2, -1))
    found = np.log(out[1] / out[0]).ravel() - (z[1] - z[0]).ravel()
    return found, q[1] - q[0]


@pytest.mark.parametrize("shape, sigmas", EVERY)
def test_refine_uses_this_filter(shape, sigmas):
    # Weak enough for probabilities to stay away from 0 and 1: their logarithms keep 10 digits.
    found, q = message_of_refine(shape, sigmas)
    expected = grid_filter(shape, sigmas, q[None])[0]
    if np.abs(expected).max() < 10:
        np.testing.assert_allclose(found, expected, atol=1e-9)
    peak = gaussian(shape, sigmas).sum(axis=1).max()
    assert np.abs(expected - gaussian(shape, sigmas) @ q).max() <= bound(sigmas) * peak


def test_spacing_divides_the_bandwidths():
    shape = (6, 7, 9)
    U = np.random.default_rng(0).random((3, *shape))
    options = {"unary": U, "dtype": "float64"}
    thick = densecrf.refine(kernels=[Gaussian(6.0)], spacing=(3.0, 1.0, 2.0), **options).probs
    in_pixels = densecrf.refine(kernels=[Gaussian((2.0, 6.0, 3.0))], **options).probs
    np.testing.assert_array_equal(thick, in_pixels)
    other_order = densecrf.refine(kernels=[Gaussian((3.0, 6.0, 2.0))], **options).probs
    assert np.abs(other_order - in_pixels).max() > 1e-3


@pytest.mark.parametrize("normalization", ["symmetric", "after", "before"])
@pytest.mark.parametrize("sigmas", [(0.6, 0.6), (1.0, 1.0), (3.0, 3.0), (2.0, 9.0), (15.0, 15.0), (200.0, 0.5)])
def test_probabilities_are_near_the_exact_ones(sigmas, normalization):
    rng = np.random.default_rng(1)
    shape = (21, 25)
    z = rng.normal(size=(3, *shape))
    options = {"logits": z, "kernels": [Gaussian(sigmas, 3.0, normalization)], "iterations": 5}
    found, exact = (densecrf.refine(method=method, **options).probs for method in ("tuned", "exact"))
    start = reference.softmax(z.reshape(3, -1)).reshape(z.shape)
    # Measured 0.014 of the largest step from the start, three pixels being the worst bandwidth.
    assert np.abs(found - exact).max() <= 0.02 * np.abs(exact - start).max()


def test_taps_are_not_negative():
    """So that no message is, which pruning and the engine's softmax reckon with."""
    for size in (1, 2, 3, 5, 9, 17, 40, 100, 500, 2000):
        for sigma in np.geomspace(0.2, 1000, 60):
            assert Grid((size,), (float(sigma),)).axes[0].taps.min() >= 0, (size, sigma)
