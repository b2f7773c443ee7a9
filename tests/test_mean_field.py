"""Mean field: the fused engine against the same steps one by one, against pydensecrf, and in its ways of use."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import densecrf
from densecrf import Bilateral, Custom, DenseCRF, Gaussian, Lattice, _native, reference, refine
from densecrf.spatial import Grid

GOLDEN = Path(__file__).parent / "data"
NORMALIZATIONS = ("symmetric", "after", "before", "none")
DTYPES = ("float32", "float64")
# Fused against composed: the order of the sums differs, nothing else. Probabilities.
ROUNDING = {"float32": 1e-5, "float64": 1e-9}
SHAPE = (11, 13)


def image_of(shape, seed=0, channels=3):
    """A few smooth patches with noise, so that colours both agree and differ."""
    rng = np.random.default_rng(seed)
    waves = sum(np.sin(i / (2.0 + 1.3 * axis)) for axis, i in enumerate(np.indices(shape)))
    noise = rng.normal(size=(*shape, channels)) * 12
    tints = rng.uniform(20, 60, channels)
    return np.clip(128 + tints * np.sign(waves)[..., None] + noise, 0, 255).astype(np.uint8)


def unary_of(shape, L, seed=0):
    """Energies of a network that is half right: two clear labels at each pixel, the rest unlikely."""
    rng = np.random.default_rng(100 + seed)
    return rng.normal(size=(L, *shape)) * 1.5 + rng.random((L, 1)).reshape(L, *[1] * len(shape))


# ---- the same, one step at a time ----------------------------------------------------------------------------


def positions_first(shape, sigmas):
    """Positions over bandwidths [N, axes], x first as the engine has them."""
    axes = [axis / s for axis, s in zip(np.indices(shape).astype(float), sigmas, strict=True)]
    return np.stack(axes[::-1], axis=-1).reshape(-1, len(shape))


def spread(value, count):
    return np.broadcast_to(np.asarray(value, float), (count,))


def features_of(kernel, image, shape, spacing):
    if isinstance(kernel, Custom):
        return np.asarray(kernel.features, float).reshape(int(np.prod(shape)), -1)
    found = positions_first(shape, spread(kernel.sxy, len(shape)) / spread(spacing, len(shape)))
    if isinstance(kernel, Gaussian):
        return found
    colours = np.asarray(image, float).reshape(len(found), -1)
    return np.concatenate([found, colours / spread(kernel.srgb, colours.shape[1])], axis=1)


class Step:
    """One kernel's part of a step: the normalised filter, without the self-message if so asked."""

    def __init__(self, kernel, image, shape, spacing, method, self_message, mask, dtype, normalization):
        self.dtype, self.weight = dtype, np.asarray(kernel.weight, float)
        if method == "tuned" and isinstance(kernel, Gaussian):
            grid = Grid(shape, spread(kernel.sxy, len(shape)) / spread(spacing, len(shape)))
            native = grid.native(np.dtype(dtype))
            self.filter = lambda v: _native.ops(np.dtype(dtype)).grid_filter(native, v.astype(dtype)[None], 1)[0]
            own = grid.diagonal(np.dtype(dtype)).astype(float)
        else:
            points = features_of(kernel, image, shape, spacing).astype(dtype)
            points[~mask] = points[mask.argmax()]
            lattice = Lattice(points, method, dtype=dtype)
            self.filter, own = lattice.filter, lattice.self_weights().astype(float)
        self.mask, self.own = mask, 0.0 if self_message else own
        n = self.filter(mask[None].astype(float))[0] - self.own * mask
        assert n[mask].min() > 0.1  # points that hardly hear anyone have their own test: rounding decides there
        n = np.maximum(n, 1e-20)
        one = np.ones(len(n))
        scales = {
            "symmetric": (n**-0.5, n**-0.5),
            "after": (1 / n, one),
            "before": (one, 1 / n),
            "none": (one, one),
        }
        self.left, self.right = scales[kernel.normalization or normalization]

    def message(self, Q):
        v = self.mask * self.right * Q
        return self.mask * self.left * (self.filter(v).astype(float) - self.own * v)


def times(weight, values):
    return weight @ values if weight.ndim == 2 else weight.reshape(-1, 1) * values


class Composed:
    """Mean field of `densecrf.refine`, put together from the public filters in NumPy."""

    def __init__(
        self,
        image,
        shape,
        kernels,
        *,
        compatibility="potts",
        normalization="symmetric",
        method="tuned",
        self_message=True,
        mask=None,
        spacing=1.0,
        dtype="float64",
    ):
        self.mask = np.ones(int(np.prod(shape)), bool) if mask is None else np.asarray(mask, bool).ravel()
        self.mu = np.asarray(1.0 if isinstance(compatibility, str) else compatibility, float)
        rest = (image, shape, spacing, method, self_message, self.mask, dtype, normalization)
        self.steps = [Step(kernel, *rest) for kernel in kernels]

    def energy(self, Q):
        total = np.zeros_like(Q)
        for step in self.steps:
            total += times(step.weight, step.message(Q))
        if self.mu.ndim == 0:
            return self.mu * (total.sum(axis=0) - total)
        return times(self.mu, total)

    def run(self, U, iterations=5, damping=0.0, initial=None):
        """Q after 0, 1, ... iterations, each [L, N]."""
        U = U.reshape(len(U), -1)
        found = [reference.softmax(-U) if initial is None else initial.reshape(U.shape)]
        for _ in range(iterations):
            found.append(damping * found[-1] + (1 - damping) * reference.softmax(-U - self.energy(found[-1])))
        return found

    def free_energy(self, U, Q):
        U = U.reshape(Q.shape)
        log_q = np.log(np.where(Q > 0, Q, 1.0))
        return (Q * (U + log_q) + 0.5 * Q * self.energy(Q))[:, self.mask].sum()


def agrees(
    U,
    image,
    kernels,
    *,
    iterations=5,
    damping=0.0,
    initial=None,
    dtype="float64",
    shape=None,
    moves=True,
    **options,
):
    """The fused engine equals the composed one."""
    shape = U.shape[1:] if shape is None else shape
    composed = Composed(image, shape, kernels, dtype=dtype, **options)
    expected = composed.run(U, iterations, damping, initial)
    out = refine(
        image,
        unary=U,
        kernels=kernels,
        iterations=iterations,
        damping=damping,
        initial=initial,
        dtype=dtype,
        **options,
    )
    assert out.probs.shape == U.shape
    assert out.probs.dtype == dtype
    assert out.iterations == iterations
    error = np.abs(out.probs.reshape(len(U), -1) - expected[-1]).max()
    assert error <= ROUNDING[dtype], f"{error:.2g}"
    if moves and len(U) > 1:  # the kernels did matter: otherwise the comparison says nothing
        assert np.abs(expected[-1] - expected[0]).max() > 0.03
    return out


def several_kernels():
    return [
        Gaussian(1.2, 1.5),
        Bilateral((7.0, 5.0), 30.0, 2.0),
        Gaussian((9.0, 4.0), 0.7, "after"),
        Bilateral(3.0, (20.0, 40.0, 60.0), 0.2, "none"),
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("L", [1, 2, 3, 4, 5, 8, 12, 16, 17, 21, 33, 150])
def test_any_number_of_labels(L, dtype):
    agrees(unary_of(SHAPE, L), image_of(SHAPE), several_kernels(), dtype=dtype)


@pytest.mark.parametrize("method", ["tuned", "classic"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("L", [2, 3, 21])
def test_normalizations(L, normalization, method):
    U, image = unary_of(SHAPE, L), image_of(SHAPE)
    few = 0.2 if normalization == "none" else 2.0  # sums of many neighbours would decide everything at once
    for dtype in DTYPES:
        for kernel in (Gaussian(1.1, few), Bilateral(5.0, 25.0, few)):
            options = {"normalization": normalization, "method": method, "dtype": dtype}
            agrees(U, image, [kernel], **options)
    # A kernel's own normalisation goes before the run's.
    named = [Gaussian(1.1, few, normalization), Bilateral(5.0, 25.0, few, normalization)]
    agrees(U, image, named, normalization="after", method=method)


def test_normalizations_differ():
    found = [
        refine(image_of(SHAPE), unary=unary_of(SHAPE, 3), normalization=normalization).probs
        for normalization in NORMALIZATIONS
    ]
    for i, a in enumerate(found):
        for b in found[:i]:
            assert np.abs(a - b).max() > 0.01


def weights_of(kind, L, seed=0):
    rng = np.random.default_rng(seed)
    return {"scalar": 1.7, "vector": rng.random(L) * 2 + 0.5, "matrix": rng.random((L, L)) * 2 + np.eye(L)}[kind]


def compatibilities_of(kind, L, seed=1):
    rng = np.random.default_rng(seed)
    mu = {
        "potts": "potts",
        "scalar": 0.6,
        "vector": -0.5 - rng.random(L),
        "matrix": rng.random((L, L)) - np.eye(L),
    }
    return mu[kind]


@pytest.mark.parametrize("compatibility", ["potts", "scalar", "vector", "matrix"])
@pytest.mark.parametrize("weight", ["scalar", "vector", "matrix"])
@pytest.mark.parametrize("L", [1, 2, 3, 5, 17, 21])
def test_weights_and_compatibilities(L, weight, compatibility):
    # The matrices are not symmetric: a missing or an extra transpose shows.
    U, image = unary_of(SHAPE, L), image_of(SHAPE)
    mu = compatibilities_of(compatibility, L)
    kernels = [Gaussian(1.5, weights_of(weight, L, 2)), Bilateral(6.0, 25.0, weights_of(weight, L, 3))]
    for dtype in DTYPES:
        agrees(U, image, kernels, compatibility=mu, dtype=dtype)


@pytest.mark.parametrize("self_message", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("damping", [0.0, 0.3])
@pytest.mark.parametrize("L", [2, 3, 17])
def test_self_message_mask_and_damping(L, damping, masked, self_message):
    U, image = unary_of(SHAPE, L), image_of(SHAPE)
    mask = np.random.default_rng(5).random(SHAPE) < 0.7 if masked else None
    options = {"damping": damping, "mask": mask, "self_message": self_message}
    for normalization in NORMALIZATIONS:
        few = 0.2 if normalization == "none" else 2.0
        kernels = [Gaussian(2.0, few), Gaussian(4.0, few), Bilateral(8.0, 40.0, few)]
        agrees(U, image, kernels, normalization=normalization, **options)
    kernels = [Gaussian(1.5, weights_of("matrix", L, 2)), Bilateral(6.0, 60.0, weights_of("vector", L, 3))]
    for dtype in DTYPES:
        agrees(U, image, kernels, compatibility=compatibilities_of("matrix", L), dtype=dtype, **options)
    agrees(U, image, kernels, compatibility=compatibilities_of("vector", L), method="classic", **options)


def test_self_message_matters():
    U, image = unary_of(SHAPE, 3), image_of(SHAPE)
    with_it, without = (refine(image, unary=U, self_message=s).probs for s in (True, False))
    assert np.abs(with_it - without).max() > 0.05


DOMAINS = [
    ((60,), 1.0),
    ((9, 11), (2.0, 0.5)),
    ((4, 5, 6), 1.0),
    ((4, 5, 6), (3.0, 1.0, 0.8)),
    ((1, 5, 6), 1.0),
]


@pytest.mark.parametrize("method", ["tuned", "classic"])
@pytest.mark.parametrize("shape, spacing", DOMAINS)
def test_lines_images_and_volumes(shape, spacing, method):
    for channels in (1, 2, 3):
        image = image_of(shape, channels=channels)
        sxy = (2.0, 3.0, 4.0)[: len(shape)]
        srgb = (20.0, 30.0, 40.0)[:channels]
        kernels = [Gaussian(1.4, 1.0), Gaussian(sxy[::-1], 0.5), Bilateral(sxy, srgb, 2.0)]
        agrees(unary_of(shape, 3), image, kernels, spacing=spacing, method=method)
        grey = image[..., 0]
        few = [Gaussian(1.4, 1.0), Bilateral(sxy, 20.0, 2.0)]
        alone = refine(grey, unary=unary_of(shape, 3), kernels=few, spacing=spacing, method=method)
        as_channel = refine(grey[..., None], unary=unary_of(shape, 3), kernels=few, spacing=spacing, method=method)
        np.testing.assert_array_equal(alone.probs, as_channel.probs)


@pytest.mark.parametrize("shape", [(70,), (35, 41), (33, 2, 34), (3, 34, 5)])
def test_axes_long_enough_for_coarse_nodes(shape):
    sxy = (3.5, 5.0, 9.0)[: len(shape)]
    kernels = [Gaussian(sxy, 1.5), Gaussian(sxy[::-1], 0.7, "after"), Gaussian(1.5, 1.0)]
    for L in (2, 3, 17):
        agrees(unary_of(shape, L), None, kernels)
        mask = np.random.default_rng(5).random(shape) < 0.7
        agrees(unary_of(shape, L), None, kernels, mask=mask, self_message=False, damping=0.2, dtype="float32")
        agrees(unary_of(shape, L), None, kernels, compatibility=compatibilities_of("matrix", L))


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 6, 7, 17])
def test_points_with_features_of_their_own(d):
    rng = np.random.default_rng(d)
    points = rng.random((150, d)) * 3
    for method in ("tuned", "classic"):
        for dtype in DTYPES:
            agrees(unary_of((150,), 3), None, [Custom(points, 2.0)], method=method, dtype=dtype)
    # The same features in the shape of an image.
    options = {"unary": unary_of((10, 15), 3), "dtype": "float64"}
    shaped = refine(kernels=[Custom(points.reshape(10, 15, d), 2.0)], **options)
    flat = refine(kernels=[Custom(points, 2.0)], **options)
    np.testing.assert_array_equal(shaped.probs, flat.probs)


def test_float_images_and_many_channels():
    rng = np.random.default_rng(0)
    image = rng.random((*SHAPE, 8)) * 100
    kernels = [Bilateral(10.0, 60.0, 3.0), Gaussian(1.0, 1.0)]
    for dtype in DTYPES:
        agrees(unary_of(SHAPE, 5), image.astype(dtype), kernels, dtype=dtype)
    as_bytes = image_of(SHAPE)
    same = [
        refine(i, unary=unary_of(SHAPE, 3)).probs for i in (as_bytes, as_bytes.astype("float32"), as_bytes.astype(int))
    ]
    np.testing.assert_array_equal(same[0], same[1])
    np.testing.assert_array_equal(same[0], same[2])


@pytest.mark.parametrize("method", ["tuned", "classic", "exact"])
def test_no_kernels(method):
    U = unary_of(SHAPE, 4)
    out = refine(unary=U, kernels=[], method=method, dtype="float64", free_energy=True)
    expected = reference.softmax(-U.reshape(4, -1)).reshape(U.shape)
    np.testing.assert_allclose(out.probs, expected, atol=1e-14)
    expected = (expected * (U + np.log(expected))).sum()
    np.testing.assert_allclose(out.free_energy, np.full(6, expected), rtol=1e-12)


def test_what_the_scores_are():
    z = unary_of(SHAPE, 3)
    image = image_of(SHAPE)
    run = partial(refine, image, dtype="float64")
    by_logits = run(logits=z).probs
    probs = reference.softmax(z.reshape(3, -1)).reshape(z.shape)
    np.testing.assert_allclose(run(unary=-z).probs, by_logits, atol=1e-12)
    np.testing.assert_allclose(run(probs=probs).probs, by_logits, atol=1e-9)
    labels = z.argmax(axis=0)
    labels[3:5, 2:7] = -1
    energies = densecrf.unary.from_labels(labels, 4, 0.6, dtype="float64")
    np.testing.assert_array_equal(run(labels=labels, num_labels=4, confidence=0.6).probs, run(unary=energies).probs)
    # In positional use, DenseCRF.refine takes logits.
    np.testing.assert_array_equal(DenseCRF(image, dtype="float64").refine(z).probs, by_logits)
    flat = DenseCRF(image, dtype="float64").refine(z.reshape(3, -1))
    assert flat.probs.shape == z.shape
    np.testing.assert_array_equal(flat.probs, by_logits)


# ---- pydensecrf ---------------------------------------------------------------------------------------------


def golden_cases():
    for path in sorted(GOLDEN.glob("golden_*.npz")):
        with np.load(path) as file:
            for index, case in enumerate(json.loads(str(file["cases"]))):
                yield pytest.param(path, index, case, id=f"{path.stem[7:]}-{case['name']}")


def golden_kernel(kernel, weight, arrays):
    name = kernel["normalization"]
    if kernel["kind"] == "gaussian":
        return Gaussian(tuple(kernel["sxy"]), weight, name)
    if kernel["kind"] == "bilateral":
        return Bilateral(tuple(kernel["sxy"]), tuple(kernel["srgb"]), weight, name)
    return Custom(arrays[kernel["features"]], weight, name)


@pytest.mark.parametrize("path, index, case", list(golden_cases()))
def test_classic_gives_the_numbers_of_pydensecrf(path, index, case):
    with np.load(path) as file:
        arrays = dict(file)
    unary, golden = arrays["unary"].astype(np.float32), arrays[f"Q{index}"]
    for call in case["native"]:
        kernels = [golden_kernel(k, w, arrays) for k, w in zip(case["kernels"], call["weights"], strict=True)]
        out = refine(
            arrays.get("image"),
            unary=unary,
            kernels=kernels,
            compatibility=call["compatibility"],
            iterations=case["iterations"],
            method="classic",
        )
        assert np.abs(out.probs - golden).max() <= 1e-4  # measured 3e-6
        np.testing.assert_array_equal(out.labels, golden.argmax(axis=0))


# ---- exact --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("self_message", [True, False])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_exact_is_the_reference(normalization, self_message, masked):
    shape, L = (4, 5, 6), 3
    U, image = unary_of(shape, L), image_of(shape)
    few = 0.1 if normalization == "none" else 1.5
    spacing = (2.0, 1.0, 0.5)
    points = np.random.default_rng(0).random((*shape, 2)) * 3
    kernels = [
        Gaussian((3.0, 1.0, 2.0), few * weights_of("matrix", L)),
        Bilateral(9.0, (20.0, 30.0, 40.0), few, "after"),
        Custom(points, few * weights_of("vector", L)),
    ]
    mask = np.random.default_rng(5).random(shape) < 0.7 if masked else np.ones(shape, bool)
    part = mask.ravel()
    mu = compatibilities_of("matrix", L)
    terms = [(features_of(k, image, shape, spacing)[part], k.weight, k.normalization or normalization) for k in kernels]
    inner = U.reshape(L, -1)[:, part]
    start = reference.softmax(-unary_of(shape, L, 7).reshape(L, -1))
    for initial in (None, start):
        for damping in (0.0, 0.4):
            trace = []
            expected = reference.mean_field(
                inner,
                terms,
                mu,
                4,
                damping=damping,
                self_message=self_message,
                initial=None if initial is None else initial[:, part],
                on_iteration=lambda t, Q, trace=trace: trace.append(Q),
            )
            out = refine(
                image,
                unary=U,
                kernels=kernels,
                compatibility=mu,
                normalization=normalization,
                self_message=self_message,
                mask=mask,
                spacing=spacing,
                iterations=4,
                damping=damping,
                initial=None if initial is None else initial.reshape(U.shape),
                free_energy=True,
                method="exact",
                dtype="float64",
            )
            np.testing.assert_allclose(out.probs.reshape(L, -1)[:, part], expected, atol=1e-10)
            outside = reference.softmax(-U.reshape(L, -1))[:, ~part]
            np.testing.assert_allclose(out.probs.reshape(L, -1)[:, ~part], outside, atol=1e-14)
            energies = [
                reference.free_energy(inner, Q, terms, mu, self_message=self_message)
                for Q in [reference.softmax(-inner) if initial is None else initial[:, part], *trace]
            ]
            np.testing.assert_allclose(out.free_energy, energies, rtol=1e-9)
            assert out.iterations == 4


def test_tuned_is_nearer_to_exact_than_classic():
    errors = {"tuned": 0.0, "classic": 0.0}
    for scene in ("three", "twelve", "many"):
        with np.load(GOLDEN / f"golden_{scene}.npz") as file:
            image, unary = file["image"], file["unary"].astype(np.float32)
        for kernels in (densecrf.presets.DEFAULT.kernels, densecrf.presets.PYDENSECRF.kernels):
            run = partial(refine, image, unary=unary, kernels=kernels)
            exact = run(method="exact").probs
            for method in errors:
                errors[method] += np.sqrt(((run(method=method).probs - exact) ** 2).sum(axis=0).mean()) / 6
    # Root mean square error of Q; measured 0.0245 and 0.0534.
    assert errors["tuned"] < 0.035
    assert errors["tuned"] < 0.6 * errors["classic"]


# ---- free energy --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compatibility", ["potts", "scalar", "vector", "matrix"])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("self_message", [True, False])
@pytest.mark.parametrize("L", [1, 2, 3, 17])
def test_free_energy(L, self_message, masked, compatibility):
    U, image = unary_of(SHAPE, L), image_of(SHAPE)
    mask = np.random.default_rng(5).random(SHAPE) < 0.7 if masked else None
    kernels = [
        Gaussian(1.5, weights_of("matrix", L, 2)),
        Bilateral(6.0, 60.0, 1.5),
        Gaussian(3.0, weights_of("vector", L)),
    ]
    for dtype, damping, rounding in (
        ("float64", 0.0, 1e-10),
        ("float64", 0.3, 1e-10),
        ("float32", 0.0, 1e-5),
    ):
        options = {
            "compatibility": compatibilities_of(compatibility, L),
            "self_message": self_message,
            "mask": mask,
        }
        composed = Composed(image, SHAPE, kernels, dtype=dtype, **options)
        expected = [composed.free_energy(U, Q) for Q in composed.run(U, 4, damping)]
        out = refine(
            image,
            unary=U,
            kernels=kernels,
            iterations=4,
            damping=damping,
            free_energy=True,
            dtype=dtype,
            **options,
        )
        assert out.free_energy.dtype == np.float64
        scale = np.abs(expected).max() + np.abs(U).sum() / L
        np.testing.assert_allclose(out.free_energy, expected, atol=rounding * scale)
        # Watching changes nothing.
        unwatched = refine(image, unary=U, kernels=kernels, iterations=4, damping=damping, dtype=dtype, **options)
        assert unwatched.free_energy is None
        np.testing.assert_allclose(unwatched.probs, out.probs, atol=ROUNDING[dtype])
    assert refine(image, unary=U, kernels=kernels, iterations=0, free_energy=True, **options).free_energy.shape == (1,)


def test_damped_iterations_lower_the_free_energy():
    U, image = unary_of(SHAPE, 5), image_of(SHAPE)
    kernels = [Gaussian(1.5, 2.0), Bilateral(6.0, 30.0, 3.0)]
    F = refine(
        image, unary=U, kernels=kernels, iterations=60, damping=0.8, free_energy=True, dtype="float64"
    ).free_energy
    assert np.diff(F[1:]).max() < 1e-6 * abs(F[0])  # the lattice is symmetric to rounding only on average
    assert F[-1] < F[0] - 1


# ---- step by step -------------------------------------------------------------------------------------------

METHODS = ("tuned", "classic", "exact")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("L", [1, 2, 3, 21])
def test_a_run_can_be_continued(L, method):
    z, image = unary_of(SHAPE, L), image_of(SHAPE)
    for dtype in DTYPES:
        for damping in (0.0, 0.4):
            crf = DenseCRF(image, method=method, dtype=dtype)
            whole = crf.refine(z, iterations=5, damping=damping)
            part = crf.refine(z, iterations=2, damping=damping)
            rest = crf.refine(z, iterations=3, damping=damping, initial=part.probs)
            assert (whole.iterations, part.iterations, rest.iterations) == (5, 2, 3)
            # Probabilities pass through their dtype once more.
            np.testing.assert_allclose(rest.probs, whole.probs, atol=2e-5 if dtype == "float32" else 1e-12)
            if L > 1:
                assert np.abs(rest.probs - part.probs).max() > 1e-3


def test_a_run_from_another_start():
    for L in (2, 3, 17):
        U, image = unary_of(SHAPE, L), image_of(SHAPE)
        start = reference.softmax(unary_of(SHAPE, L, 9).reshape(L, -1)).reshape(U.shape)
        kernels = [Gaussian(1.5, 2.0), Bilateral(6.0, 25.0, 2.0)]
        for damping in (0.0, 0.5):
            agrees(U, image, kernels, iterations=1, initial=start, damping=damping)
            agrees(U, image, kernels, iterations=3, initial=start, damping=damping, dtype="float32")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("L", [1, 2, 3, 17])
def test_no_iterations(L, method):
    z, image = unary_of(SHAPE, L), image_of(SHAPE)
    run = partial(refine, image, logits=z, iterations=0, method=method, dtype="float64")
    out = run()
    np.testing.assert_allclose(out.probs.reshape(L, -1), reference.softmax(z.reshape(L, -1)), atol=1e-14)
    assert out.iterations == 0
    start = reference.softmax(unary_of(SHAPE, L, 9).reshape(L, -1)).reshape(z.shape)
    np.testing.assert_allclose(run(initial=start).probs, start, atol=1e-14)
    assert run(free_energy=True).free_energy.shape == (1,)


@pytest.mark.parametrize("free_energy", [False, True])
@pytest.mark.parametrize("damping", [0.0, 0.6])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("L", [1, 2, 3, 17])
def test_tolerance(L, method, damping, free_energy):
    z, image = unary_of(SHAPE, L), image_of(SHAPE)
    crf = DenseCRF(image, method=method, dtype="float64")
    tol = 3e-3
    out = crf.refine(z, iterations=200, damping=damping, tol=tol, free_energy=free_energy)
    trace = [crf.refine(z, iterations=t, damping=damping).probs for t in range(out.iterations + 1)]
    # The step of the update itself counts, so that damping alone never ends a run.
    moves = [np.abs(b - a).max() / (1 - damping) for a, b in zip(trace[:-1], trace[1:], strict=True)]
    assert moves[-1] < tol
    assert min(moves[:-1], default=1.0) >= tol
    assert out.iterations == 1 if L == 1 else 2 < out.iterations < 200
    np.testing.assert_allclose(out.probs, trace[-1], atol=1e-12)
    if free_energy:
        whole = crf.refine(z, iterations=out.iterations, damping=damping, free_energy=True)
        assert out.free_energy.shape == (out.iterations + 1,)
        np.testing.assert_allclose(out.free_energy, whole.free_energy, rtol=1e-12)
    # No tolerance, or one that is never reached: all iterations.
    assert crf.refine(z, iterations=4, damping=damping, tol=0.0, free_energy=free_energy).iterations == 4
    if L > 1:
        assert crf.refine(z, iterations=4, damping=damping, tol=1e-9, free_energy=free_energy).iterations == 4


# ---- progress and interruption ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_progress_is_told_after_every_iteration(method):
    z, image = unary_of(SHAPE, 3), image_of(SHAPE)
    for options in (
        {},
        {"free_energy": True},
        {"tol": 5e-2},
        {"tol": 5e-2, "free_energy": True},
        {"damping": 0.2},
    ):
        seen = []
        out = refine(image, logits=z, iterations=100, method=method, progress=seen.append, **options)
        assert [t for t in seen if t > 0] == list(range(1, out.iterations + 1)), options
        assert (out.iterations < 100) == ("tol" in options)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("threads", [1, 2])
def test_an_exception_in_progress_ends_the_run(threads, method):
    class Enough(Exception):
        pass

    def stop(t):
        seen.append(t)
        if t == 2:
            raise Enough("after two")

    seen = []
    z, image = unary_of(SHAPE, 3), image_of(SHAPE)
    crf = DenseCRF(image, method=method, num_threads=threads)
    before = crf.refine(z).probs
    with pytest.raises(Enough, match="^after two$"):
        crf.refine(z, iterations=1000, progress=stop)
    assert seen[-1] == 2
    np.testing.assert_array_equal(crf.refine(z).probs, before)  # and leaves nothing behind


def run_script(code, *arguments, **environment):
    """Run Python code in a process of its own, which imports the package that is tested here."""
    path = os.pathsep.join([str(Path(_native.__file__).parents[1]), *sys.path])
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


INTERRUPTED = """
import signal, sys, time
import numpy as np
import densecrf

signal.signal(signal.SIGALRM, signal.default_int_handler)
rng = np.random.default_rng(0)
image = rng.integers(0, 256, (60, 80, 3)).astype(np.uint8)
crf = densecrf.DenseCRF(image, num_threads=int(sys.argv[1]))
scores = rng.normal(size=(5, 60, 80))
expected = crf.refine(scores).probs
start = time.monotonic()
signal.setitimer(signal.ITIMER_REAL, 0.2)
try:
    crf.refine(scores, iterations=10**8)
except KeyboardInterrupt:
    late = time.monotonic() - start - 0.2
    assert (crf.refine(scores).probs == expected).all()
    print("interrupted", late)
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_ctrl_c_ends_a_long_run(threads):
    out = run_script(INTERRUPTED, threads)
    assert out.stdout.startswith("interrupted"), out.stderr
    assert float(out.stdout.split()[1]) < 5.0  # an iteration takes a few ms; the rest is a busy machine


# ---- threads and processes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["tuned", "classic"])
@pytest.mark.parametrize("L", [1, 2, 3, 21])
def test_any_number_of_threads(L, method):
    shape = (37, 41)
    z, image = unary_of(shape, L), image_of(shape)
    mask = np.random.default_rng(0).random(shape) < 0.8
    for options in ({}, {"free_energy": True, "damping": 0.2, "mask": mask}, {"self_message": False}):
        run = partial(refine, image, logits=z, kernels=several_kernels()[:3], method=method, dtype="float64", **options)
        one = run(num_threads=1)
        for threads in (2, 3, 7, 64):
            many = run(num_threads=threads)
            np.testing.assert_allclose(many.probs, one.probs, atol=1e-9)
            if one.free_energy is not None:
                np.testing.assert_allclose(many.free_energy, one.free_energy, rtol=1e-9)
            again = run(num_threads=threads)
            np.testing.assert_array_equal(again.probs, many.probs)
            np.testing.assert_array_equal(again.free_energy, many.free_energy)
        in_single = partial(run, dtype="float32")
        np.testing.assert_allclose(in_single(num_threads=3).probs, in_single(num_threads=1).probs, atol=1e-5)
        np.testing.assert_array_equal(in_single(num_threads=3).probs, in_single(num_threads=3).probs)


def test_the_environment_sets_the_number_of_threads(monkeypatch):
    monkeypatch.setenv("DENSECRF_NUM_THREADS", "3")
    assert DenseCRF(shape=(5,), kernels=[]).num_threads == 3
    assert DenseCRF(shape=(5,), kernels=[], num_threads=2).num_threads == 2
    for text, error, message in (
        ("0", ValueError, "DENSECRF_NUM_THREADS: must be at least 1, got 0"),
        ("two", TypeError, "DENSECRF_NUM_THREADS: must be an integer, got 'two'"),
        ("-1", TypeError, "DENSECRF_NUM_THREADS: must be an integer, got '-1'"),
    ):
        monkeypatch.setenv("DENSECRF_NUM_THREADS", text)
        with pytest.raises(error, match=f"^{re.escape(message)}$"):
            DenseCRF(shape=(5,), kernels=[])


FORKED = """
import os, sys
import numpy as np
import densecrf

rng = np.random.default_rng(0)
image = rng.integers(0, 256, (60, 80, 3)).astype(np.uint8)
scores = rng.normal(size=(5, 60, 80))
crf = densecrf.DenseCRF(image, num_threads=2)
expected = crf.refine(scores).probs
child = os.fork()
if child == 0:
    same = (crf.refine(scores).probs == expected).all()  # of the parent's lattices and buffers
    fresh = (densecrf.refine(image, logits=scores, num_threads=2).probs == expected).all()
    print("child", same and fresh, flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert (crf.refine(scores).probs == expected).all()
print("parent")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_can_run():
    out = run_script(FORKED)
    assert out.stdout.split() == ["child", "True", "parent"], out.stderr


def in_threads(calls):
    """Results of calls made at once, each from a thread of its own."""
    results = [None] * len(calls)
    gate = threading.Barrier(len(calls))

    def work(i):
        gate.wait()
        results[i] = calls[i]()

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(calls))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return results


@pytest.mark.parametrize("shared", [True, False])
def test_calls_from_several_python_threads(shared):
    shape = (37, 41)
    image = image_of(shape)
    scores = [unary_of(shape, L, seed) for seed, L in enumerate((2, 3, 21, 5, 2, 12))]
    expected = [DenseCRF(image, num_threads=2).refine(z).probs for z in scores]
    for _ in range(3):
        one = DenseCRF(image, num_threads=2)
        crfs = [one if shared else DenseCRF(image, num_threads=2) for _ in scores]
        found = in_threads([partial(crf.refine, z) for crf, z in zip(crfs, scores, strict=True)])
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a.probs, b)


def test_filters_from_several_python_threads():
    rng = np.random.default_rng(0)
    clouds = [rng.random((500, 5)) * 3 for _ in range(4)]
    values = rng.random((7, 500))
    expected = [Lattice(cloud, num_threads=2).filter(values) for cloud in clouds]
    found = in_threads([lambda c=cloud: Lattice(c, num_threads=2).filter(values) for cloud in clouds])
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


# ---- masks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("source", ["logits", "unary", "probs"])
@pytest.mark.parametrize("L", [2, 3, 17])
def test_masked_pixels_change_nothing(L, source, method):
    rng = np.random.default_rng(0)
    mask = rng.random(SHAPE) < 0.7
    image = image_of(SHAPE).astype(np.float64)
    given = unary_of(SHAPE, L)
    if source == "probs":
        given = reference.softmax(given.reshape(L, -1)).reshape(given.shape)
    for options in ({}, {"self_message": False, "damping": 0.2}):
        run = partial(
            refine,
            kernels=several_kernels()[:1] + [Bilateral(9.0, 60.0, 2.0)],
            mask=mask,
            method=method,
            **options,
        )
        expected = run(image, **{source: given})
        for value in (7.0, -1e6, np.nan, np.inf, -np.inf):
            other_image, other = image.copy(), given.copy()
            other_image[~mask] = value
            other[:, ~mask] = value
            found = run(other_image, **{source: other})
            np.testing.assert_array_equal(found.probs[:, mask], expected.probs[:, mask])
            # Equal scores, or none that are any use: all labels equally likely.
            np.testing.assert_allclose(found.probs[:, ~mask], 1 / L, atol=1e-7)
        one_bad = given.copy()
        one_bad[0, ~mask] = np.nan
        found = run(image, **{source: one_bad})
        np.testing.assert_array_equal(found.probs[:, mask], expected.probs[:, mask])
        np.testing.assert_allclose(found.probs[:, ~mask], 1 / L, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("L", [2, 3, 17])
def test_masked_pixels_keep_their_own_scores(L, method):
    z, image = unary_of(SHAPE, L), image_of(SHAPE)
    mask = np.random.default_rng(0).random(SHAPE) < 0.7
    own = reference.softmax(z.reshape(L, -1)).reshape(z.shape)[:, ~mask]
    start = reference.softmax(unary_of(SHAPE, L, 9).reshape(L, -1)).reshape(z.shape)
    for options in (
        {},
        {"free_energy": True},
        {"damping": 0.4},
        {"initial": start},
        {"initial": start, "damping": 0.4},
    ):
        out = refine(image, logits=z, mask=mask, method=method, **options)
        np.testing.assert_allclose(out.probs[:, ~mask], own, atol=1e-6)


def test_masked_labels_may_be_anything():
    labels = unary_of(SHAPE, 3).argmax(axis=0).astype(np.uint8)
    mask = np.random.default_rng(0).random(SHAPE) < 0.7
    void = np.where(mask, labels, 255)
    for num_labels in (None, 3, np.int64(3)):
        run = partial(refine, image_of(SHAPE), num_labels=num_labels, mask=mask)
        expected, found = run(labels=labels).probs, run(labels=void).probs
        np.testing.assert_array_equal(found[:, mask], expected[:, mask])
        np.testing.assert_allclose(found[:, ~mask], 1 / 3, atol=1e-6)
        assert np.abs(expected[:, ~mask] - 1 / 3).max() > 0.1  # labels that are some keep their say
    with pytest.raises(ValueError, match=r"^labels: must lie in 0\.\.2 or be -1 \(unknown\), got 255$"):
        refine(image_of(SHAPE), labels=void, num_labels=3, mask=~mask)


def test_masks_of_all_forms():
    z, image = unary_of(SHAPE, 3), image_of(SHAPE)
    mask = np.random.default_rng(0).random(SHAPE) < 0.7
    expected = refine(image, logits=z, mask=mask).probs
    for form in (
        mask.astype(np.uint8),
        mask.astype(int),
        mask.ravel(),
        mask.tolist(),
        np.asfortranarray(mask),
    ):
        np.testing.assert_array_equal(refine(image, logits=z, mask=form).probs, expected)
    unmasked = refine(image, logits=z).probs
    np.testing.assert_array_equal(refine(image, logits=z, mask=np.ones(SHAPE, bool)).probs, unmasked)
    assert np.abs(unmasked - expected)[:, mask].max() > 0.01


def test_a_single_pixel_left():
    z, image = unary_of(SHAPE, 3), image_of(SHAPE)
    mask = np.zeros(SHAPE, bool)
    mask[4, 5] = True
    for self_message in (True, False):
        tuned, exact = (
            refine(image, logits=z, mask=mask, method=method, self_message=self_message).probs
            for method in ("tuned", "exact")
        )
        np.testing.assert_allclose(tuned, exact, atol=1e-5)


# ---- points without neighbours ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("L", [2, 3])
def test_without_the_self_message_lonely_points_hear_nothing(L, normalization, method, dtype):
    # Every pixel is a world of its own, so that what is left without the self-message is rounding.
    z = unary_of(SHAPE, L)
    image = np.random.default_rng(0).permutation(np.arange(143) * 1000.0).reshape(SHAPE)
    options = {"logits": z, "normalization": normalization, "method": method, "dtype": dtype}
    found = refine(image, kernels=[Bilateral(0.1, 1.0, 5.0), Gaussian(0.05, 3.0)], self_message=False, **options).probs
    own = reference.softmax(z.reshape(L, -1)).reshape(z.shape)
    np.testing.assert_allclose(found, own, atol=1e-5)
    one = refine(image[:1, :1], **{**options, "logits": z[:, :1, :1]}, self_message=False).probs
    np.testing.assert_allclose(one, own[:, :1, :1], atol=1e-5)


# ---- two labels in one channel ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_two_labels_in_one_channel_are_two_labels(normalization, dtype):
    # The free energy needs both labels, so asking for it takes the general path.
    U, image = unary_of(SHAPE, 2), image_of(SHAPE)
    mask = np.random.default_rng(0).random(SHAPE) < 0.7
    few = 0.1 if normalization == "none" else 2.0
    start = reference.softmax(unary_of(SHAPE, 2, 9).reshape(2, -1)).reshape(U.shape)
    kernels = [Gaussian(1.5, few), Gaussian(5.0, few), Bilateral(9.0, 60.0, few)]
    for options in ({}, {"self_message": False}, {"mask": mask}, {"compatibility": 0.7}):
        for more in (
            {},
            {"damping": 0.3},
            {"initial": start},
            {"tol": 1e-3, "iterations": 30},
            {"iterations": 0},
        ):
            run = partial(
                refine,
                image,
                unary=U,
                kernels=kernels,
                normalization=normalization,
                dtype=dtype,
                **options,
                **more,
            )
            one, two = run(), run(free_energy=True)
            assert one.iterations == two.iterations
            np.testing.assert_allclose(one.probs, two.probs, atol=5 * ROUNDING[dtype])


def test_certain_scores():
    # Differences that a softmax cannot represent: 0 and 1, and no NaN.
    for L in (2, 3, 17):
        for size in (1e2, 1e4, 1e20, 1e30):
            z = np.random.default_rng(0).normal(size=(L, *SHAPE)) * size
            for dtype in DTYPES:
                for free_energy in (False, True):
                    probs = refine(image_of(SHAPE), logits=z, dtype=dtype, free_energy=free_energy).probs
                    np.testing.assert_allclose(probs.sum(axis=0), 1.0, atol=1e-5)
                    assert probs.min() >= 0
            if size >= 1e4:
                np.testing.assert_array_equal(probs.argmax(axis=0), z.argmax(axis=0))


@pytest.mark.parametrize("offset", [0.0, 1e4, -1e4, 1e6, 3e29, -3e29, 1e31, -1e31])
def test_a_constant_added_to_all_scores_changes_nothing(offset):
    for L in (2, 3, 5, 17):
        z = np.zeros((L, *SHAPE))
        expected = refine(image_of(SHAPE), logits=z).probs
        np.testing.assert_allclose(expected, 1 / L, atol=1e-6)
        np.testing.assert_allclose(refine(image_of(SHAPE), logits=z + offset).probs, expected, atol=1e-6)


# ---- shapes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["tuned", "classic"])
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 37), (37, 1), (3, 200), (200, 3), (2, 2), (1, 1, 1), (1, 1, 9), (1,), (2,)]
)
def test_thin_images(shape, method):
    for L in (1, 2, 3, 17):
        U, image = unary_of(shape, L), image_of(shape)
        for kernels in (
            several_kernels_for(shape),
            densecrf.presets.DEFAULT.kernels,
            densecrf.presets.PYDENSECRF.kernels,
        ):
            agrees(U, image, kernels, method=method, moves=False)


def several_kernels_for(shape):
    return [Gaussian(1.2, 1.5), Gaussian(5.0, 1.0), Bilateral(7.0, 30.0, 2.0)]


def test_a_long_strip():
    for shape in ((3, 5000), (5000, 3)):
        for method in ("tuned", "classic"):
            agrees(
                unary_of(shape, 3),
                image_of(shape),
                several_kernels_for(shape),
                method=method,
                dtype="float64",
            )


@pytest.mark.parametrize("value", [0, 77, 255])
def test_constant_images(value):
    image = np.full((*SHAPE, 3), value, np.uint8)
    for method in ("tuned", "classic"):
        agrees(unary_of(SHAPE, 3), image, several_kernels()[:3], method=method)
    out = refine(image, logits=unary_of(SHAPE, 3), kernels=[Bilateral(5.0, 10.0, 2.0)], dtype="float64")
    other = refine(image * 0, logits=unary_of(SHAPE, 3), kernels=[Bilateral(5.0, 10.0, 2.0)], dtype="float64")
    assert np.abs(out.probs - other.probs).max() < 0.05  # where the lattice lies is all that differs


# ---- results and reuse --------------------------------------------------------------------------------------


def test_one_crf_serves_any_scores():
    image = image_of(SHAPE)
    for method in METHODS:
        crf = DenseCRF(image, method=method)
        kept = {}
        for seed, L in enumerate((3, 21, 2, 1, 3, 150, 2)):
            z = unary_of(SHAPE, L, seed)
            out = crf.refine(z)
            kept[seed] = (out.probs, out.probs.copy())
            np.testing.assert_array_equal(out.probs, refine(image, logits=z, method=method).probs)
        for probs, then in kept.values():  # results are the caller's, whatever comes after
            np.testing.assert_array_equal(probs, then)
        sized = DenseCRF(image, method=method, kernels=[Gaussian(1.0, [1.0, 2.0, 3.0])])
        sized.refine(unary_of(SHAPE, 3))
        with pytest.raises(ValueError, match=r"^weight: must be a number, \[2\] or \[2, 2\], got shape \(3,\)$"):
            sized.refine(unary_of(SHAPE, 2))
        sized.refine(unary_of(SHAPE, 3))


def test_labels():
    z = unary_of(SHAPE, 5)
    out = refine(image_of(SHAPE), logits=z)
    assert out.labels.shape == SHAPE
    assert out.labels.dtype == np.uint8
    np.testing.assert_array_equal(out.labels, out.probs.argmax(axis=0))
    assert refine(logits=np.zeros((256, 2)), kernels=[]).labels.dtype == np.uint8
    many = np.zeros((257, 2))
    many[256, 1] = 1.0
    labels = refine(logits=many, kernels=[]).labels
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, [0, 256])
    assert labels.shape == (2,)


@pytest.mark.parametrize("method", METHODS)
def test_inputs_are_not_changed(method):
    rng = np.random.default_rng(0)
    z = unary_of(SHAPE, 3).astype(np.float32)
    given = {
        "image": image_of(SHAPE).astype(np.float32),
        "logits": z,
        "mask": rng.random(SHAPE) < 0.7,
        "initial": reference.softmax(z.reshape(3, -1)).reshape(z.shape),
        "compatibility": rng.random((3, 3)),
        "weight": rng.random((3, 3)),
        "features": rng.random((143, 2)).astype(np.float32),
    }
    given["logits"][0, ~given["mask"]] = np.nan
    before = {name: value.copy() for name, value in given.items()}
    weight, features = given.pop("weight"), given.pop("features")
    kernels = [Gaussian(1.0, weight), Bilateral(5.0, 20.0, weight), Custom(features, weight)]
    options = {"damping": 0.2, "free_energy": True, "self_message": False, "method": method}
    first = refine(kernels=kernels, **given, **options).probs
    for name, value in {**given, "weight": weight, "features": features}.items():
        np.testing.assert_array_equal(value, before[name])
        value.flags.writeable = False
    np.testing.assert_array_equal(refine(kernels=kernels, **given, **options).probs, first)
    assert not any(np.shares_memory(first, value) for value in given.values())
    # No iterations: still an array of its own.
    start = given["initial"]
    out = refine(logits=np.zeros((3, *SHAPE), np.float32), kernels=[], initial=start, iterations=0, method=method).probs
    assert not np.shares_memory(out, start)
    assert out.flags.writeable


def test_upsampled_scores():
    rng = np.random.default_rng(0)
    small = rng.normal(size=(3, 5, 7))
    image = image_of((20, 28))

    # A weight of 4 rows and columns at half-pixel centres, by hand.
    def along(size, count):
        at = np.clip((np.arange(size) + 0.5) * count / size - 0.5, 0, count - 1)
        return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(count)))

    large = np.einsum("yh,lhw,xw->lyx", along(20, 5), small, along(28, 7))
    for dtype in DTYPES:
        for method in METHODS:
            run = partial(refine, image, method=method, dtype=dtype)
            tolerance = 1e-5 if dtype == "float32" else 1e-12
            np.testing.assert_allclose(run(logits=small).probs, run(logits=large).probs, atol=tolerance)
    # One axis only, one row, one score for all.
    for h, w in ((20, 7), (5, 28), (1, 7), (1, 1)):
        part = small[:, :1, :1] if h == 1 and w == 1 else np.resize(small, (3, h, w))
        large = np.einsum("yh,lhw,xw->lyx", along(20, h), part, along(28, w))
        found, expected = refine(image, logits=part).probs, refine(image, logits=large).probs
        np.testing.assert_allclose(found, expected, atol=1e-5)
