"""The compiled filter over all pairs, judged by the one in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

import densecrf
from densecrf import _exact, _native, reference

CLOSE = {"float32": {"rtol": 2e-5, "atol": 1e-6}, "float64": {"rtol": 1e-12, "atol": 1e-13}}


def some(points, dims, channels, seed=0):
    rng = np.random.default_rng(seed)
    return 3 * rng.normal(size=(points, dims)), rng.random((channels, points))


def found(features, values, self_message=True, dtype="float64", threads=1):
    return _exact.Matrix(features, self_message, np.dtype(dtype), threads).apply(values)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("points", [1, 3, 127, 128, 129, 700])
@pytest.mark.parametrize("channels", [1, 3, 8, 21, 33, 70])
def test_sums(points, channels, dtype):
    for dims, self_message, threads in ((1, True, 1), (2, False, 2), (5, True, 3), (7, False, 1)):
        features, values = some(points, dims, channels, seed=dims)
        expected = reference.filter(features, values, self_message=self_message)
        out = found(features, values, self_message, dtype, threads)
        assert out.dtype == dtype
        np.testing.assert_allclose(out, expected, **CLOSE[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_points_far_from_each_other(dtype):
    """Most tiles of a long line are left out; distances that overflow are far, too."""
    line = np.linspace(0, 4000, 3000)[:, None]
    line[-5:] = 1e30
    values = np.random.default_rng(0).random((2, 3000))
    np.testing.assert_allclose(
        found(line, values, dtype=dtype), reference.filter(line, values), **{**CLOSE[dtype], "rtol": 1e-3}
    )


def test_in_parts(monkeypatch):
    features, values = some(500, 3, 4)
    whole = found(features, values)
    monkeypatch.setattr(_exact, "_PAIRS", 500 * 7)
    assert np.array_equal(found(features, values), whole)
    assert np.array_equal(found(features, values, threads=2), whole)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("normalization", reference.NORMALIZATIONS)
def test_method_exact(normalization, dtype):
    rng = np.random.default_rng(0)
    image, logits = rng.integers(0, 256, (17, 21, 3), np.uint8), rng.normal(size=(4, 17, 21))
    weight = 1e-2 if normalization == "none" else 1
    kernels = [densecrf.Gaussian(2, 1.5 * weight), densecrf.Bilateral(9, 30, 2 * weight)]
    how = {"kernels": kernels, "normalization": normalization, "iterations": 4, "dtype": dtype}
    probs = densecrf.refine(image, logits=logits, method="exact", **how).probs
    y, x = np.indices((17, 21)).reshape(2, -1)
    place = np.stack([x, y], axis=1).astype(float)
    features = [place / 2, np.hstack([place / 9, image.reshape(-1, 3) / 30])]
    terms = [(f, k.weight, normalization) for f, k in zip(features, kernels, strict=True)]
    expected = reference.mean_field(-logits.reshape(4, -1), terms, iterations=4).reshape(probs.shape)
    np.testing.assert_allclose(probs, expected, rtol=0, atol=1e-5 if dtype == "float32" else 1e-12)


def test_wrong_input():
    with pytest.raises(ValueError, match="features: must be finite"):
        found(np.array([[np.nan]]), np.ones((1, 1)))
    with pytest.raises(ValueError, match="not finite"):
        found(np.zeros((2, 1)), np.array([[0, np.inf]]))
    run = _native.ops(np.dtype(np.float64)).exact_filter
    for begin, end in ((-1, 2), (0, 4), (2, 2)):
        with pytest.raises(ValueError, match="range"):
            run(np.zeros((3, 1)), np.ones((1, 3)), True, begin, end, 1)
