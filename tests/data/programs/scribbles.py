"""pydensecrf's own example: an annotation image whose colours are labels, black for unsure; then labels in colour.

scribbles.py OUT.npz
"""

import sys

import numpy as np
import pydensecrf.densecrf as dcrf
from pydensecrf.utils import create_pairwise_bilateral, create_pairwise_gaussian, unary_from_labels

rng = np.random.default_rng(13)
regions = np.ones((34, 41), int)
regions[8:25, 5:20], regions[15:31, 22:38] = 2, 3
img = (np.array([(0, 0, 0), (90, 140, 60), (200, 60, 50), (40, 70, 190)])[regions]).astype(np.uint8)
img += rng.integers(0, 12, img.shape, dtype=np.uint8)
scribbled = np.where(rng.random(regions.shape) < 0.2, regions, 0)
anno_rgb = np.array([0x000000, 0x3C8C5A, 0x323CC8, 0xBE4628], dtype=np.uint32)[scribbled]

# Convert the RGB color to a single 32-bit integer: 0 is "unsure".
colors, labels = np.unique(anno_rgb, return_inverse=True)
labels = labels.reshape(anno_rgb.shape)
HAS_UNK = 0 in colors
if HAS_UNK:
    colors = colors[1:]
n_labels = len(set(labels.flat)) - int(HAS_UNK)

use_2d = "generic" not in sys.argv[2:]
U = unary_from_labels(labels, n_labels, gt_prob=0.7, zero_unsure=HAS_UNK)
if use_2d:
    d = dcrf.DenseCRF2D(img.shape[1], img.shape[0], n_labels)
    d.setUnaryEnergy(U)
    d.addPairwiseGaussian(sxy=(3, 3), compat=3, kernel=dcrf.DIAG_KERNEL, normalization=dcrf.NORMALIZE_SYMMETRIC)
    d.addPairwiseBilateral(
        sxy=(80, 80),
        srgb=(13, 13, 13),
        rgbim=img,
        compat=10,
        kernel=dcrf.DIAG_KERNEL,
        normalization=dcrf.NORMALIZE_SYMMETRIC,
    )
else:
    d = dcrf.DenseCRF(img.shape[1] * img.shape[0], n_labels)
    d.setUnaryEnergy(U)
    feats = create_pairwise_gaussian(sdims=(3, 3), shape=img.shape[:2])
    d.addPairwiseEnergy(feats, compat=3, kernel=dcrf.DIAG_KERNEL, normalization=dcrf.NORMALIZE_SYMMETRIC)
    feats = create_pairwise_bilateral(sdims=(80, 80), schan=(13, 13, 13), img=img, chdim=2)
    d.addPairwiseEnergy(feats, compat=10, kernel=dcrf.DIAG_KERNEL, normalization=dcrf.NORMALIZE_SYMMETRIC)

Q = d.inference(5)
MAP = np.argmax(Q, axis=0)
coloured = colors[MAP].reshape(img.shape[:2])
print("KL-divergence at the start: {}".format(d.klDivergence(d.startInference()[0])))
np.savez(sys.argv[1], Q=np.array(Q), coloured=coloured)
