"""Lattices that outgrow the cache keep their blurred values in half precision, where only Q is asked for."""

from __future__ import annotations

import numpy as np
import pytest

import densecrf
from densecrf import Bilateral, Gaussian, _native

NO_TOLERANCE = 1e-30  # asks for the largest step, for which the engine keeps to single precision


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def scores(labels, shape, seed=1):
    return np.random.default_rng(seed).normal(size=(labels, *shape)).astype(np.float32)


def both(image, logits, **how):
    """Q as it comes, and in single precision."""
    crf = densecrf.DenseCRF(image, **how)
    return [crf.refine(logits, tol=tol).probs for tol in (None, NO_TOLERANCE)]


def has_float16():
    return _native.info()["simd"] in ("avx2", "avx512")


# One vector and several; several slabs, and a narrow one beside them.
@pytest.mark.parametrize("labels, side", [(7, 160), (21, 120), (37, 100), (65, 80), (66, 80)])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_q_is_that_of_single_precision(labels, side, threads):
    shape = side, side + 3
    found, single = both(noise(shape), scores(labels, shape), num_threads=threads)
    assert (np.abs(found - single).max() > 0) == has_float16()
    np.testing.assert_allclose(found, single, rtol=0, atol=0.1)  # pixels of noise are near to turning over
    assert np.abs(found - single).mean() < 1e-4
    np.testing.assert_allclose(found.sum(axis=0), 1, rtol=1e-5)


@pytest.mark.parametrize("method", ["tuned", "fast"])
@pytest.mark.parametrize("normalization", ["symmetric", "after", "before", "none"])
@pytest.mark.parametrize("masked", [False, True])
def test_sums_beyond_its_range(masked, method, normalization):
    """A sky of one colour, whose sums half precision could not hold, beside pixels that stand alone."""
    image = noise((250, 260))
    image[:200] = 128
    logits = scores(6, image.shape[:2]) * 0.1
    logits[3] += np.linspace(-1, 1, 260)
    weight = 1e-3 if normalization == "none" else 5
    mask = None
    if masked:
        mask = np.ones(image.shape[:2], bool)
        mask[150:160, 10:200] = False
    how = {"kernels": [Bilateral(80, 5, weight)], "normalization": normalization, "method": method, "mask": mask}
    found = densecrf.refine(image, logits=logits, **how).probs
    double = densecrf.refine(image, logits=logits, dtype="float64", **how).probs
    np.testing.assert_allclose(found, double, rtol=0, atol=0.02)
    assert np.abs(found - double).mean() < 1e-4


def test_same_bits_on_one_thread_and_in_steps():
    shape = (130, 140)
    image, logits = noise(shape), scores(9, shape)
    crf = densecrf.DenseCRF(image, kernels=[Gaussian(1, 3), Bilateral(50, 4, 5)], num_threads=1)
    whole = crf.refine(logits, iterations=2).probs
    first = crf.refine(logits, iterations=1).probs
    assert np.array_equal(whole, crf.refine(logits, iterations=2).probs)
    np.testing.assert_allclose(crf.refine(logits, iterations=1, initial=first).probs, whole, rtol=0, atol=1e-6)


NEVER = [
    ({"method": "classic"}, 9),
    ({"dtype": "float64"}, 9),
    ({"normalization": "before"}, 9),  # messages have no bound
    ({"normalization": "none", "kernels": [Gaussian(1, 0.5), Bilateral(50, 4, 1e-3)]}, 9),
    ({"kernels": [Gaussian(1, 3), Bilateral(50, 4, 5, normalization="before")]}, 9),
    ({}, 4),
]


@pytest.mark.parametrize("how, labels", NEVER)
def test_never_in(how, labels):
    shape = (200, 210)
    found, other = both(noise(shape), scores(labels, shape), num_threads=1, **how)
    assert np.array_equal(found, other)


@pytest.mark.parametrize("method", ["tuned", "fast"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("normalization", ["symmetric", "after", "none"])
def test_smoothness_term(method, threads, normalization):
    """Where pixels are the nodes of the grid, what is splatted is stored in half precision, too."""
    shape = 161, 170
    kernels = [Gaussian(1, 0.5 if normalization == "none" else 3)]
    how = {"kernels": kernels, "method": method, "normalization": normalization, "num_threads": threads}
    logits = scores(21, shape)
    found = densecrf.refine(logits=logits, **how).probs
    double = densecrf.refine(logits=logits, dtype="float64", **how).probs
    off = np.abs(found - double)
    assert (off.max() > 1e-5) == (has_float16() and normalization != "none")
    assert off.max() < 0.01 and off.mean() < 1e-5


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("normalization", ["symmetric", "after"])
def test_scores(normalization, masked):
    """Added to by a smoothness term, they are stored in half precision, too; labels out of its range stay lost."""
    shape = 200, 210
    mask = np.ones(shape, bool)
    mask[50:90, 20:180] = not masked
    logits = scores(9, shape) * 3
    logits[2], logits[4, 100:] = -1e5, -np.float32(1e30)
    how = {"image": noise(shape), "kernels": [Gaussian(3, 3), Bilateral(50, 60, 5)], "mask": mask}
    how["normalization"] = normalization
    found = densecrf.refine(logits=logits, **how).probs
    double = densecrf.refine(logits=logits, dtype="float64", **how).probs
    off = np.abs(found - double)
    assert (off.mean() > 1e-6) == has_float16()
    assert off.max() < 0.005 and off.mean() < 3e-5
    assert found[2].max() < 1e-30 and found[4, 100:].max() < 1e-30


@pytest.mark.parametrize("labels", [33, 34, 36, 40])
@pytest.mark.parametrize("threads", [1, 3])
def test_scores_of_any_number_of_labels(labels, threads):
    """Rows that are no whole number of vectors, in chunks that are none either, up to the border between threads."""
    shape = 123, 131
    logits = scores(labels, shape)
    how = {"kernels": [Gaussian(3, 3)], "num_threads": threads, "logits": logits}
    found = densecrf.refine(**how).probs
    double = densecrf.refine(dtype="float64", **how).probs
    np.testing.assert_allclose(found, double, rtol=0, atol=0.005)
    assert np.array_equal(found, densecrf.refine(**how).probs)


def test_no_scores_that_messages_could_lift_far():
    """Half precision holds a score of -100 to 1/32 only."""
    shape = 200, 210
    logits = scores(9, shape)
    logits[1:, :, :100] -= 100
    logits[0, :, 100:] -= 100
    how = {"kernels": [Gaussian(3, 200)], "logits": logits, "iterations": 1}
    found, double = (densecrf.refine(dtype=dtype, **how).probs for dtype in ("float32", "float64"))
    np.testing.assert_allclose(found, double, rtol=0, atol=1e-4)
