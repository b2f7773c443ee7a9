"""Saliency post-processing: a grey saliency map becomes two labels, the result is a sharp map.

saliency.py OUT.npz
"""

import sys

import numpy as np
import pydensecrf.densecrf as dcrf


def crf_refine(img, annos):
    def _sigmoid(x):
        return 1 / (1 + np.exp(-x))

    assert img.dtype == np.uint8
    assert annos.dtype == np.uint8
    assert img.shape[:2] == annos.shape

    EPSILON = 1e-8
    M = 2
    tau = 1.05
    d = dcrf.DenseCRF2D(img.shape[1], img.shape[0], M)

    anno_norm = annos / 255.0
    n_energy = -np.log((1.0 - anno_norm + EPSILON)) / (tau * _sigmoid(1 - anno_norm))
    p_energy = -np.log(anno_norm + EPSILON) / (tau * _sigmoid(anno_norm))

    U = np.zeros((M, img.shape[0] * img.shape[1]), dtype="float32")
    U[0, :] = n_energy.flatten()
    U[1, :] = p_energy.flatten()
    d.setUnaryEnergy(U)

    d.addPairwiseGaussian(sxy=3, compat=3)
    d.addPairwiseBilateral(sxy=60, srgb=5, rgbim=img, compat=5)

    infer = np.array(d.inference(1)).astype("float32")
    res = infer[1, :]
    res = res * 255
    res = res.reshape(img.shape[:2])
    return infer, res.astype("uint8")


rng = np.random.default_rng(5)
row, column = np.indices((39, 45))
inside = (row - 20) ** 2 + (column - 26) ** 2 < 180
img = (np.where(inside[..., None], (200, 150, 40), (60, 90, 120)) + rng.integers(-4, 5, (39, 45, 3))).astype(np.uint8)
annos = np.clip(inside * 130 + rng.integers(0, 120, inside.shape), 0, 255).astype(np.uint8)
Q, refined = crf_refine(img, annos)
assert refined.shape == annos.shape
np.savez(sys.argv[1], Q=Q)
