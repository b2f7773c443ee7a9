"""method="fast": mean field of which every second row, or three of four, are left out until the last iterations."""

from __future__ import annotations

import numpy as np
import pytest

import densecrf
from densecrf import _native, reference, terms
from densecrf.features import Domain

FLOAT = np.dtype(np.float64)
MATRIX = np.array([[0.0, 2, 1], [1, 0, 3], [2, 1, 0.5]])


def filters_of(domain, kernels):
    """The normalised filters that `fast` uses, as functions of ``[L, N]``."""
    out = []
    for kernel in kernels:
        lattice, grid, norm_in, norm_out, _ = terms.prepare(domain, kernel, "fast", "symmetric")
        if grid is not None:
            plain = lambda v, grid=grid: _native.ops(FLOAT).grid_filter(grid, v[None], 1)[0]  # noqa: E731
        else:
            points = domain.features(kernel)
            plain = densecrf.Lattice(points, "fast", dtype=FLOAT).filter
        out.append(lambda v, f=plain, a=norm_in, b=norm_out: b * f(np.ascontiguousarray(a * v)))
    return out


def plainly(image, logits, kernels, mu, iterations, step=2):
    """The same in NumPy, from the filters; every `step`-th row counts, before the last splat."""
    shape = image.shape[:-1]
    filters = filters_of(Domain(shape, image, None, (1.0,) * len(shape), FLOAT, 1), kernels)
    rows = np.arange(int(np.prod(shape[:-1]))).repeat(shape[-1])
    scores = logits.reshape(len(logits), -1)
    q = reference.softmax(scores)
    for t in range(iterations):
        now = step if t + 1 < iterations else step // 2
        counted = np.where((rows + t) % now == 0, float(now), 0.0)
        z = scores.copy()
        for kernel, filtered in zip(kernels, filters, strict=True):
            z -= kernel.weight * (mu @ filtered(q * counted))
        q = reference.softmax(z)
    return q.reshape(logits.shape)


def some(shape, labels=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (*shape, 3)).astype(np.float64), rng.normal(size=(labels, *shape))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("iterations", [0, 1, 2, 5])
@pytest.mark.parametrize(
    "sxy, step",
    [(1.5, 2), (2.0, 4), (4.0, 4), ((1.9, 9.0), 2), ((2.0, 0.1), 4)],  # pixels are the grid's nodes, and are not
)
@pytest.mark.parametrize("shape", [(11, 70), (34, 35), (3, 4, 5)])
def test_rows_are_left_out_in_turns(shape, sxy, step, iterations, threads):
    image, logits = some(shape)
    step = step if shape[-2] >= 16 else 2
    sxy = (1.0, *sxy) if isinstance(sxy, tuple) and len(shape) == 3 else sxy
    kernels = [densecrf.Gaussian(sxy, 2.0), densecrf.Bilateral(6, 60, 1.5)]
    potts = 1 - np.eye(3)
    how = {"kernels": kernels, "iterations": iterations, "dtype": "float64", "num_threads": threads}
    found = densecrf.refine(image, logits=logits, method="fast", **how).probs
    np.testing.assert_allclose(found, plainly(image, logits, kernels, potts, iterations, step), atol=1e-10)


def test_matrices_and_two_labels():
    image, logits = some((9, 12))
    kernels = [densecrf.Bilateral(6, 60, 1.5), densecrf.Gaussian(1, 1.0)]
    found = densecrf.refine(image, logits=logits, kernels=kernels, compatibility=MATRIX, method="fast", dtype="float64")
    np.testing.assert_allclose(found.probs, plainly(image, logits, kernels, MATRIX, 5), atol=1e-10)
    found = densecrf.refine(image, logits=logits[:2], kernels=kernels, method="fast", dtype="float64")
    np.testing.assert_allclose(found.probs, plainly(image, logits[:2], kernels, 1 - np.eye(2), 5), atol=1e-10)


def test_points_and_single_rows_are_all_counted():
    image, logits = some((1, 40))
    rows, points = (
        densecrf.refine(image.reshape(*shape, 3), logits=logits.reshape(3, *shape), method="fast").probs
        for shape in ((1, 40), (40, 1))
    )
    assert np.isfinite(rows).all() and np.isfinite(points).all()
    features = np.random.default_rng(0).normal(size=(50, 2))
    scores = np.random.default_rng(1).normal(size=(3, 50))
    kernels = [densecrf.Custom(features, 2.0)]
    fast, tuned = (densecrf.refine(logits=scores, kernels=kernels, method=method).probs for method in ("fast", "tuned"))
    assert np.abs(fast - tuned).max() < 0.2


@pytest.mark.parametrize(
    "option, rule",
    [
        ({"self_message": False}, "self_message: must be True with method='fast'"),
        ({"damping": 0.5}, "damping: must not be asked of method='fast'"),
        ({"tol": 1e-3}, "tol: must not be asked of method='fast'"),
        ({"free_energy": True}, "free_energy: must not be asked of method='fast'"),
    ],
)
def test_what_it_cannot_do_is_refused(option, rule):
    image, logits = some((9, 12))
    with pytest.raises(ValueError, match=rule):
        densecrf.refine(image, logits=logits, method="fast", **option)


@pytest.mark.parametrize("sxy", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("rows", [4, 16, 40])
def test_near_to_the_exact_answer(rows, sxy):
    """A step and a stripe with some noise, whatever rows are left out: as near as 0.02 of a probability on average."""
    rng = np.random.default_rng(0)
    image = np.full((rows, 60, 3), 60.0)
    image[:, 30:] = 180
    image[rows // 2] += 40
    image += rng.normal(size=image.shape) * 4
    logits = np.stack([image[..., 0] / 120 - 1, 1 - image[..., 0] / 120]) + rng.normal(size=(2, rows, 60)) * 0.7
    how = {"kernels": [densecrf.Gaussian(sxy, 1.5), densecrf.Bilateral(15, 20, 2)], "iterations": 5}
    fast, exact = (densecrf.refine(image, logits=logits, method=m, **how).probs for m in ("fast", "exact"))
    assert np.abs(fast - exact).mean() < 0.02
