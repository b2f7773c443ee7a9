"""Small scripts in pydensecrf's terms: run with pydensecrf2 by make_compat.py, with the front end by test_compat.py.

A case is a function of the modules (dcrf, utils, eigen) that returns arrays by name: "Q..." are compared to 1e-4 and
in their labels, "KL..." to 1e-3 relative, everything else to 1e-6.
"""

from __future__ import annotations

from functools import partial

import numpy as np

CASES = {}


def case(*variants):
    """Register a case, once for each variant of its last argument."""

    def register(function):
        for variant in variants:
            CASES[f"{function.__name__} {variant}"] = partial(function, variant=variant)
        if not variants:
            CASES[function.__name__] = function
        return function

    return register


def photo(h, w, seed=0, channels=3):
    """Patches of 4 x 4 with noise, uint8 [h, w, channels]."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(30, 220, (h // 4 + 1, w // 4 + 1, channels)).repeat(4, 0).repeat(4, 1)[:h, :w]
    return (patches + rng.integers(-9, 10, (h, w, channels))).astype(np.uint8)


def energies(L, N, seed=0):
    """float32 [L, N], with a few labels that are likely at each point."""
    return (np.random.default_rng(50 + seed).random((L, N)) * 4).astype(np.float32)


def compatibility(kind, L, scale=1.0):
    rng = np.random.default_rng(L)
    vector = (-scale * (1 + rng.random(L))).astype(np.float32)
    matrix = (np.diag(vector) + scale * rng.random((L, L)) / 2).astype(np.float32)
    return {"number": scale, "vector": vector, "matrix": matrix}[kind]


NORMALIZATIONS = ("NO_NORMALIZATION", "NORMALIZE_BEFORE", "NORMALIZE_AFTER", "NORMALIZE_SYMMETRIC")


def stepped(crf, steps):
    """Q after so many steps; klDivergence before and after each."""
    Q, tmp1, tmp2 = crf.startInference()
    kl = [crf.klDivergence(Q)]
    for _ in range(steps):
        crf.stepInference(Q, tmp1, tmp2)
        kl.append(crf.klDivergence(Q))
    return {"Q stepped": np.array(Q), "KL": np.array(kl)}


@case(*NORMALIZATIONS)
def normalization(dcrf, utils, eigen, variant):
    out = {}
    for kind in ("number", "vector", "matrix"):
        scale = 0.05 if variant == "NO_NORMALIZATION" else 2.0
        crf = dcrf.DenseCRF2D(7, 9, 3)
        crf.setUnaryEnergy(energies(3, 63))
        how = {"normalization": getattr(dcrf, variant), "compat": compatibility(kind, 3, scale)}
        crf.addPairwiseGaussian(sxy=2, **how)
        crf.addPairwiseBilateral(sxy=(6, 9), srgb=20, rgbim=photo(9, 7), **how)
        out[f"Q {kind}"] = np.array(crf.inference(5))
        out |= {f"{name} {kind}": value for name, value in stepped(crf, 2).items()}
    return out


@case(2, 3, 4, 5, 12, 21, 150)
def number_of_labels(dcrf, utils, eigen, variant):
    crf = dcrf.DenseCRF2D(5, 3, variant)
    crf.setUnaryEnergy(energies(variant, 15))
    crf.addPairwiseGaussian(1, compatibility("vector", variant))
    crf.addPairwiseBilateral(20, 13, photo(3, 5), 4, dcrf.FULL_KERNEL)
    return {"Q": np.array(crf.inference(5)), **stepped(crf, 1)}


@case("1x1", "2x2", "1x7", "5x1", "3x3", "4x4", "17x5")
def size(dcrf, utils, eigen, variant):
    w, h = map(int, variant.split("x"))
    crf = dcrf.DenseCRF2D(w, h, 2)
    crf.setUnaryEnergy(energies(2, w * h))
    crf.addPairwiseGaussian((1.5, 3), 3, dcrf.CONST_KERNEL, dcrf.NORMALIZE_AFTER)
    crf.addPairwiseBilateral((30, 9), (8, 13, 21), photo(h, w), np.float32(5))
    return {"Q": np.array(crf.inference(3)), "Q 0": np.array(crf.inference(0)), **stepped(crf, 3)}


@case(1, 2, 4, 7)
def custom_features(dcrf, utils, eigen, variant):
    features = (np.random.default_rng(variant).random((variant, 51)) * 3).astype(np.float32)
    crf = dcrf.DenseCRF(51, 4)
    crf.setUnaryEnergy(energies(4, 51))
    crf.addPairwiseEnergy(features, compat=compatibility("matrix", 4))
    crf.addPairwiseEnergy(features[:1] * 2, 2, normalization=dcrf.NORMALIZE_BEFORE)
    return {"Q": np.array(crf.inference(4)), **stepped(crf, 2)}


@case("grey", "channels last", "channels first")
def volume(dcrf, utils, eigen, variant):
    voxels = photo(4, 35, channels=2).reshape(4, 5, 7, 2)
    image, axis = (voxels[..., 0], -1) if variant == "grey" else (voxels, 3)
    if variant == "channels first":
        image, axis = np.moveaxis(voxels, 3, 0), 0
    near = utils.create_pairwise_gaussian(sdims=(1, 2, 2), shape=(4, 5, 7))
    far = utils.create_pairwise_bilateral((3, 5, 5), 20 if variant == "grey" else (20, 9), image, chdim=axis)
    crf = dcrf.DenseCRF(140, 3)
    crf.setUnaryEnergy(energies(3, 140))
    crf.addPairwiseEnergy(near, compat=3)
    crf.addPairwiseEnergy(far, compat=5)
    return {"Q": np.array(crf.inference(5)), "near": near, "far": far}


@case("ConstUnary", "LogisticUnary", "features", "none", "infinite")
def unary(dcrf, utils, eigen, variant):
    crf = dcrf.DenseCRF2D(w := 4, h := 3, 3)
    u, rng = energies(3, w * h), np.random.default_rng(0)
    if variant == "ConstUnary":
        crf.setUnary(dcrf.ConstUnary(u))
    if variant == "LogisticUnary":
        crf.setUnary(dcrf.LogisticUnary(energies(3, 5), rng.random((5, w * h), np.float32)))
    if variant == "features":
        crf.setUnaryEnergy(u, rng.random((w * h, w * h), np.float32) / 4)
    if variant == "infinite":
        u[0, 5] = u[1:, 7] = np.inf
        crf.setUnaryEnergy(u)
    crf.addPairwiseGaussian(2, 3)
    crf.addPairwiseBilateral(5, 20, photo(h, w), compatibility("vector", 3))
    if variant == "infinite":
        return {"Q": np.array(crf.inference(5))}
    return {"Q": np.array(crf.inference(5)), **stepped(crf, 2)}


@case()
def several_images(dcrf, utils, eigen):
    crf = dcrf.DenseCRF2D(10, 9, 5)
    crf.setUnaryEnergy(energies(5, 90))
    for seed in range(3):
        crf.addPairwiseBilateral(9, 15 + 5 * seed, photo(9, 10, seed), 2)
    first = np.array(crf.inference(2))
    crf.addPairwiseEnergy(utils.create_pairwise_gaussian((2, 2), (9, 10)), 3)  # one more, between two runs
    second = np.array(crf.inference(2))
    crf.setUnaryEnergy(energies(5, 90, seed=1))
    return {"Q first": first, "Q second": second, "Q third": np.array(crf.inference(2))}


@case()
def no_kernels(dcrf, utils, eigen):
    crf = dcrf.DenseCRF(7, 3)
    crf.setUnaryEnergy(energies(3, 7))
    return {"Q": np.array(crf.inference(5)), **stepped(crf, 1)}


@case()
def divergence_of_any_matrix(dcrf, utils, eigen):
    crf = dcrf.DenseCRF2D(7, 6, 3)
    crf.setUnaryEnergy(energies(3, 42))
    crf.addPairwiseGaussian(2, compatibility("matrix", 3))
    matrix = np.random.default_rng(0).random((3, 42), np.float32)
    vector = np.arange(5, dtype=np.float32)
    kl = [crf.klDivergence(eigen.matrixXf(scale * matrix)) for scale in np.float32([0, 1, 2])]
    return {"KL": np.array(kl), "matrix": np.array(eigen.matrixXf(matrix)), "vector": np.array(eigen.vectorXf(vector))}


@case()
def helpers(dcrf, utils, eigen):
    labels = np.random.default_rng(0).integers(0, 4, (5, 7))
    softmax = np.random.default_rng(1).dirichlet(np.ones(4), (5, 7)).transpose(2, 0, 1)
    softmax[:, 0, 0] = (1, 0, 0, 0)
    return {
        "labels": utils.unary_from_labels(labels, 3, gt_prob=0.7),
        "labels, 0 is one": utils.unary_from_labels(labels, 4, 0.6, zero_unsure=False),
        "softmax": utils.unary_from_softmax(softmax),
        "softmax float32": utils.unary_from_softmax(softmax.astype(np.float32), scale=0.8),
        "softmax, other clip": utils.unary_from_softmax(softmax, clip=1e-2),
        "compute_unary": utils.compute_unary(labels, 3),
        "softmax_to_unary": utils.softmax_to_unary(softmax, 0.9),
        "gaussian": utils.create_pairwise_gaussian((2, 3), (5, 7)),
        "bilateral": utils.create_pairwise_bilateral((2, 3), (4, 5, 6), photo(5, 7), chdim=2),
        "bilateral grey": utils.create_pairwise_bilateral((2, 3), (4,), photo(5, 7)[..., 0]),
        "bilateral one number": utils.create_pairwise_bilateral((2, 3), 4.5, photo(5, 7), chdim=2),
    }


def run(modules):
    """{case: {name: array}} of all cases."""
    return {name: function(*modules) for name, function in CASES.items()}
