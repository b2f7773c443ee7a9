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
            self.filter = lambda v: _native.ops(np.dtype(dtype)).grid_filter(native, v.astype(dtype), 1)
            own = grid.diagonal()
        else:
            points = features_of(kernel, image, shape, spacing).astype(dtype)
            points[~mask] = points[mask.argmax()]
            lattice = Lattice(points, method, dtype=dtype)
            self.filter, own = lattice.filter, lattice.self_weights().astype(float)
        self.mask, self.own = mask, 0.0 if self_message else own
        n = np.maximum(self.filter(mask[None].astype(float))[0] - self.own * mask, 0.0) + 1e-20
        one = np.ones(len(n))
        scales = {"symmetric": (n**-0.5, n**-0.5), "after": (1 / n, one), "before": (one, 1 / n), "none": (one, one)}
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


def agrees(U, image, kernels, *, iterations=5, damping=0.0, initial=None, dtype="float64", shape=None, moves=True, **options):
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
        assert np.abs(expected[-1] - expected[0]).max() > 0.05
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
    mu = {"potts": "potts", "scalar": 0.6, "vector": -0.5 - rng.random(L), "matrix": rng.random((L, L)) - np.eye(L)}
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
    kernels = [Gaussian(1.5, weights_of("matrix", L, 2)), Bilateral(6.0, 25.0, weights_of("vector", L, 3))]
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
    same = [refine(i, unary=unary_of(SHAPE, 3)).probs for i in (as_bytes, as_bytes.astype("float32"), as_bytes.astype(int))]
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
    terms = [
        (features_of(k, image, shape, spacing)[part], k.weight, k.normalization or normalization) for k in kernels
    ]
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
    with np.load(GOLDEN / "golden_three.npz") as file:
        image, unary = file["image"], file["unary"].astype(np.float32)
    for kernels in (densecrf.presets.DEFAULT.kernels, densecrf.presets.PYDENSECRF.kernels):
        run = partial(refine, image, unary=unary, kernels=kernels)
        exact, tuned, classic = (run(method=method).probs for method in ("exact", "tuned", "classic"))
        errors = [np.sqrt(((q - exact) ** 2).sum(axis=0).mean()) for q in (tuned, classic)]
        assert errors[0] < 0.75 * errors[1]  # measured: see the print of this test under -rP
        assert errors[0] < 0.05
        print(errors)
