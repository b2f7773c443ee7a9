"""Refinement of an unsupervised segmentation: cluster log-probabilities as unaries, float64 to the last moment.

unsupervised_refinement.py OUT.npz
"""

import sys

import numpy as np
import pydensecrf.densecrf as dcrf
from pydensecrf.utils import unary_from_softmax

MAX_ITER = 10
POS_W = 3
POS_XY_STD = 1
Bi_W = 4
Bi_XY_STD = 67
Bi_RGB_STD = 3


def dense_crf(image, output_logits):
    c, h, w = output_logits.shape
    e = np.exp(output_logits - output_logits.max(0))
    output_probs = e / e.sum(0)
    U = np.ascontiguousarray(unary_from_softmax(output_probs))

    d = dcrf.DenseCRF2D(w, h, c)
    d.setUnaryEnergy(U)
    d.addPairwiseGaussian(sxy=POS_XY_STD, compat=POS_W)
    d.addPairwiseBilateral(sxy=Bi_XY_STD, srgb=Bi_RGB_STD, rgbim=image, compat=Bi_W)

    Q = d.inference(MAX_ITER)
    return np.array(Q).reshape((c, h, w))


rng = np.random.default_rng(3)
clusters = rng.normal(size=(9, 16))
codes = rng.normal(size=(4, 5, 16)).repeat(6, 0).repeat(5, 1)
image = np.ascontiguousarray((rng.integers(0, 240, (4, 5, 3)).repeat(6, 0).repeat(5, 1) + 5).astype(np.uint8)[:, ::-1])
logits = np.einsum("hwc,kc->khw", codes + rng.normal(size=codes.shape), clusters)
np.savez(sys.argv[1], Q=dense_crf(image, logits[:, :, ::-1]))
