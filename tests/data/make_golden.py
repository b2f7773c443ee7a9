"""Make the golden arrays golden_*.npz, the answers of pydensecrf2. The tests need neither it nor a photo.

    pip install pydensecrf2 numpy pillow
    python tests/data/make_golden.py

One file holds one scene:

* ``image`` uint8 [H, W, 3]: a crop of a photo of examples/data; a scene with features of its own has
  ``features0`` float32 [N, d] instead
* ``unary`` float16 [L, H, W] or [L, N]: the energies, exactly representable, given to pydensecrf as float32
* ``cases``: JSON, a list of dictionaries; ``Q0``, ``Q1``, ...: for each case Q, float32, the shape of
  ``unary``, rounded to multiples of 2^-20 (which compress well)

A case:

* ``name``, ``iterations``
* ``kernels``: a list of ``{"kind": "gaussian", "sxy": [sy, sx]}``, ``{"kind": "bilateral", "sxy": [sy, sx],
  "srgb": [r, g, b]}`` or ``{"kind": "custom", "features": "features0"}``, each with ``normalization``
  ("symmetric", "after", "before", "none") and ``compat``, as pydensecrf takes it: a number w is the energy
  -w F, a list v the energy v F, a matrix m the energy (m + m^T) / 2 F
* ``native``: equivalent densecrf calls, a list of ``{"compatibility": ..., "weights": [one per kernel]}``

The unaries look like a network's: coarse random logits (standard normal times 2.5, one per 8 pixels),
upsampled bilinearly, plus a random linear function of the colours, both from numpy.random.default_rng(seed).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pydensecrf.densecrf as dcrf
from PIL import Image

HERE = Path(__file__).parent
NORMALIZATIONS = {
    "symmetric": dcrf.NORMALIZE_SYMMETRIC,
    "after": dcrf.NORMALIZE_AFTER,
    "before": dcrf.NORMALIZE_BEFORE,
    "none": dcrf.NO_NORMALIZATION,
}


def gaussian(sxy, compat, normalization="symmetric"):
    return {"kind": "gaussian", "sxy": _list(sxy, 2), "compat": compat, "normalization": normalization}


def bilateral(sxy, srgb, compat, normalization="symmetric"):
    bandwidths = {"sxy": _list(sxy, 2), "srgb": _list(srgb, 3)}
    return {"kind": "bilateral", **bandwidths, "compat": compat, "normalization": normalization}


def custom(features, compat, normalization="symmetric"):
    return {"kind": "custom", "features": features, "compat": compat, "normalization": normalization}


def default(normalization="symmetric", scale=1.0):
    return [gaussian(1, 3 * scale, normalization), bilateral(50, 4, 5 * scale, normalization)]


def standard(normalization="symmetric", scale=1.0):
    return [gaussian(3, 3 * scale, normalization), bilateral(80, 13, 10 * scale, normalization)]


def _list(number_or_tuple, length):
    return np.broadcast_to(np.asarray(number_or_tuple, float), length).tolist()


def scenes():
    """Yield (name, photo, (x, y, width, height), L, seed, features or None, cases)."""
    yield "two", "astronaut", (190, 60, 41, 37), 2, 1, None, cases_two()
    yield "three", "camera", (215, 95, 53, 29), 3, 2, None, cases_three()
    yield "twelve", "astronaut", (225, 200, 29, 27), 12, 3, None, cases_twelve()
    yield "many", "camera", (245, 120, 23, 17), 21, 4, None, cases_many()
    yield "wide", "astronaut", (150, 75, 64, 48), 2, 5, None, cases_wide()
    yield "thin", "camera", (170, 330, 97, 1), 3, 6, None, cases_thin()
    yield "custom3", "astronaut", (200, 80, 31, 25), 3, 7, features_brightness, cases_custom(3)
    yield "custom6", "astronaut", (120, 220, 27, 23), 3, 8, features_smoothed, cases_custom(6)


# Unnormalised sums grow with the bandwidth, so weights that leave Q undecided are small there.
SCALE = {"symmetric": 1.0, "after": 1.0, "before": 1.0, "none": 0.02}


def cases_two():
    """L = 2, N = 1517: every normalisation with both settings; one kernel at a time; T = 1, 5, 10."""
    for name, scale in SCALE.items():
        yield f"standard {name}", 5, standard(name, scale)
        yield f"default {name}", 5, default(name, scale)
    for T in (1, 10):
        yield f"standard T={T}", T, standard()
        yield f"default T={T}", T, default()
    yield "gaussian only", 5, [gaussian(3, 3)]
    yield "bilateral only", 5, [bilateral(80, 13, 10)]
    yield "repulsive vector", 5, [gaussian(3, [1.5, -2.0]), bilateral(80, 13, [3.0, -4.0])]
    yield "matrix", 5, [gaussian(3, [[-3, 1], [1, -2]]), bilateral(80, 13, [[-6, 2], [2, -4]])]
    yield "asymmetric matrix", 5, [gaussian(3, 3.0), bilateral(50, 4, [[-3.0, 2.0], [0.0, -4.0]])]


def cases_three():
    """L = 3, N = 1537: vector and matrix for every normalisation, anisotropic bandwidths."""
    vector = np.array([-3.0, -1.0, -2.0])
    matrix = np.array([[-2.0, 0.5, 1.0], [0.5, -3.0, 0.0], [1.0, 0.0, -2.5]])
    for name, scale in SCALE.items():
        for kind, C in (("vector", vector), ("matrix", matrix)):
            near, far = (C * scale).tolist(), (2 * C * scale).tolist()
            yield f"{kind} {name}", 5, [gaussian(3, near, name), bilateral(80, 13, far, name)]
    yield "anisotropic", 5, [gaussian((1.5, 4.0), 3.0), bilateral((30, 90), (20, 8, 13), 10.0)]
    turned = [gaussian((4.0, 1.5), 3.0, "after"), bilateral((90, 30), 10, 10.0, "after")]
    yield "anisotropic after T=10", 10, turned
    yield "mixed normalisations", 5, [gaussian(1, 3.0, "before"), bilateral(50, 4, 5.0, "after")]
    yield "mixed compatibilities", 5, [gaussian(3, 3.0), bilateral(80, 13, (3 * matrix).tolist())]


def cases_twelve():
    """L = 12, N = 783."""
    rng = np.random.default_rng(12)
    matrix = rng.normal(size=(12, 12)) - 4 * np.eye(12)
    matrix = np.round((matrix + matrix.T) / 2, 3)
    yield "standard", 5, standard()
    yield "default T=10", 10, default()
    yield "vector", 5, [gaussian(1, np.round(-3 * rng.random(12), 3).tolist()), bilateral(50, 4, 5.0)]
    yield "matrix T=1", 1, [gaussian(3, matrix.tolist()), bilateral(80, 13, (2 * matrix).tolist())]


def cases_many():
    """L = 21, N = 391."""
    rng = np.random.default_rng(21)
    matrix = rng.normal(size=(21, 21)) - 4 * np.eye(21)
    matrix = np.round((matrix + matrix.T) / 2, 3)
    yield "standard T=10", 10, standard()
    yield "default", 5, default()
    yield "vector after", 5, [bilateral(80, 13, np.round(-9 * rng.random(21), 3).tolist(), "after")]
    yield "matrix", 5, [gaussian(3, matrix.tolist()), bilateral(80, 13, (2 * matrix).tolist())]


def cases_wide():
    """L = 2, N = 3072: no padding inside pydensecrf."""
    yield "standard T=10", 10, standard()
    yield "default T=10", 10, default()


def cases_thin():
    """L = 3, one row of pixels."""
    yield "standard", 5, standard()


def cases_custom(d):
    """Features of any kind, d of them."""
    yield f"d={d}", 5, [custom("features0", 5.0)]
    yield f"d={d} after", 5, [custom("features0", [-4.0, -6.0, -3.0], "after")]


def features_brightness(image):
    """Position / 20, brightness / 15: d = 3."""
    y, x = np.indices(image.shape[:2])
    return np.stack([y / 20, x / 20, image.mean(axis=2) / 15], axis=-1).reshape(-1, 3)


def features_smoothed(image):
    """Position / 30, colour / 20, brightness of the 5x5 neighbourhood / 10: d = 6."""
    y, x = np.indices(image.shape[:2])
    padded = np.pad(image.mean(axis=2), 2, mode="edge")
    mean = np.lib.stride_tricks.sliding_window_view(padded, (5, 5)).mean(axis=(2, 3))
    return np.stack([y / 30, x / 30, *np.moveaxis(image / 20, 2, 0), mean / 10], axis=-1).reshape(-1, 6)


def network_like(image, L, seed):
    """Energies float16 [L, H, W], see the head of this file."""
    rng = np.random.default_rng(seed)
    H, W = image.shape[:2]
    logits = 2.5 * rng.normal(size=(L, H // 8 + 2, W // 8 + 2))
    y, x = (np.arange(H) + 0.5) / 8, (np.arange(W) + 0.5) / 8
    for axis, at in ((1, y), (2, x)):
        low = at.astype(int)
        share = (at - low).reshape([-1 if a == axis else 1 for a in range(3)])
        logits = logits.take(low, axis) * (1 - share) + logits.take(low + 1, axis) * share
    logits += 1.5 * np.tensordot(rng.normal(size=(L, 3)), (image - image.mean((0, 1))) / 64.0, axes=(1, 2))
    logits -= logits.max(axis=0)
    return (np.log(np.exp(logits).sum(axis=0)) - logits).astype(np.float16)


def answer(image, features, unary, kernels, iterations):
    """Q float32, the shape of unary, of pydensecrf."""
    L, N = len(unary), unary[0].size
    crf = dcrf.DenseCRF(N, L) if features else dcrf.DenseCRF2D(image.shape[1], image.shape[0], L)
    crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(L, N), dtype=np.float32))
    for kernel in kernels:
        compat = kernel["compat"]
        compat = compat if np.ndim(compat) == 0 else np.array(compat, dtype=np.float32)
        shared = {"compat": compat, "normalization": NORMALIZATIONS[kernel["normalization"]]}
        if kernel["kind"] == "custom":
            crf.addPairwiseEnergy(np.ascontiguousarray(features[kernel["features"]].T), **shared)
            continue
        sxy = tuple(kernel["sxy"][::-1])  # width first
        if kernel["kind"] == "gaussian":
            crf.addPairwiseGaussian(sxy=sxy, **shared)
        else:
            crf.addPairwiseBilateral(sxy=sxy, srgb=tuple(kernel["srgb"]), rgbim=image, **shared)
    return np.array(crf.inference(iterations), dtype=np.float32).reshape(unary.shape)


def native_calls(kernels, L):
    """The same energies in densecrf's terms: E = mu sum_m W_m F_m.

    Always: Potts and W = -C, which differs from C F by what is the same for all labels of a pixel. And where
    all C are multiples of one vector or matrix: that as mu, and numbers as weights.
    """
    energies = [_energy(kernel["compat"], L) for kernel in kernels]
    calls = [{"compatibility": "potts", "weights": [_plain(-C) for C in energies]}]
    first = energies[0]
    if first.ndim and all(C.shape == first.shape for C in energies):
        largest = np.abs(first).argmax()
        factors = [float(C.flat[largest] / first.flat[largest]) for C in energies]
        if all(np.allclose(C, factor * first) for C, factor in zip(energies, factors, strict=True)):
            calls.append({"compatibility": _plain(first), "weights": factors})
    return calls


def _energy(compat, L):
    """C in pydensecrf's energy C F, as a number, [L] or [L, L]."""
    C = np.asarray(compat, dtype=float)
    return -C if C.ndim == 0 else C if C.ndim == 1 else (C + C.T) / 2


def _plain(C):
    return np.asarray(C).tolist()


def main():
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    photos = HERE.parent.parent / "examples" / "data"
    parser.add_argument("--photos", type=Path, default=photos, help="folder of astronaut.png and camera.png")
    options = parser.parse_args()
    for name, photo, (x, y, width, height), L, seed, make_features, cases in scenes():
        picture = np.asarray(Image.open(options.photos / f"{photo}.png").convert("RGB"))
        image = picture[y : y + height, x : x + width].copy()  # pydensecrf refuses read-only arrays
        unary = network_like(image, L, seed)
        features = {}
        if make_features:
            features["features0"] = make_features(image).astype(np.float32)
            unary = unary.reshape(L, -1)
        described, arrays = [], {}
        for case_name, iterations, kernels in cases:
            Q = answer(image, features, unary, kernels, iterations)
            rounded = np.round(Q * 2.0**20) / np.float32(2.0**20)
            assert (rounded.argmax(axis=0) == Q.argmax(axis=0)).all()
            arrays[f"Q{len(described)}"] = rounded.astype(np.float32)
            about = {"name": f"{name}: {case_name}", "iterations": iterations, "kernels": kernels}
            described.append({**about, "native": native_calls(kernels, L)})
            sure, moved = (Q.max(axis=0) > 0.99).mean(), (Q.argmax(axis=0) != unary.argmin(axis=0)).mean()
            print(f"{about['name']:40s} {sure:4.0%} sure, {moved:4.0%} of the labels changed")
        arrays |= features or {"image": image}
        path = HERE / f"golden_{name}.npz"
        np.savez_compressed(path, unary=unary, cases=json.dumps(described), **arrays)
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
