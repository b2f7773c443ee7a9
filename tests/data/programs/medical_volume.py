"""A medical 3-D volume with features of its own: thick slices, two modalities, step by step until KL is at rest.

medical_volume.py OUT.npz
"""

import sys

import numpy as np
import pydensecrf.densecrf as dcrf
from pydensecrf.utils import create_pairwise_bilateral, create_pairwise_gaussian, unary_from_softmax

SHAPE = (6, 11, 13)
rng = np.random.default_rng(8)
z, y, x = np.indices(SHAPE)
lesion = (3.0 * (z - 3)) ** 2 + (y - 5) ** 2 + (x - 6) ** 2 < 16
flair = np.where(lesion, 180.0, 90.0) + rng.normal(size=SHAPE) * 8
t1 = np.where(lesion, 60.0, 75.0) + rng.normal(size=SHAPE) * 5
volume = np.stack([flair, t1], axis=-1).astype(np.float32)

p = np.clip(0.5 * lesion + 0.25 + rng.normal(size=SHAPE) * 0.15, 0.01, 0.99)
probability = np.stack([1 - p, p])

d = dcrf.DenseCRF(np.prod(SHAPE), 2)
d.setUnaryEnergy(unary_from_softmax(probability, scale=0.9))
smooth = create_pairwise_gaussian(sdims=(0.5, 1.5, 1.5), shape=SHAPE)
d.addPairwiseEnergy(smooth, compat=2, kernel=dcrf.DIAG_KERNEL, normalization=dcrf.NORMALIZE_SYMMETRIC)
colour = create_pairwise_bilateral(sdims=(2.0, 6.0, 6.0), schan=(12.0, 10.0), img=volume, chdim=3)
costs = np.array([[-3, 1], [1, -4]], dtype=np.float32)
d.addPairwiseEnergy(colour, compat=costs)
from_centre = np.sqrt((3.0 * (z - 3)) ** 2 + (y - 5) ** 2 + (x - 6) ** 2).reshape(1, -1).astype(np.float32) / 2
d.addPairwiseEnergy(from_centre, compat=1, normalization=dcrf.NORMALIZE_AFTER)

Q, tmp1, tmp2 = d.startInference()
kl = [d.klDivergence(Q)]
for _ in range(8):
    d.stepInference(Q, tmp1, tmp2)
    kl.append(d.klDivergence(Q))
np.savez(sys.argv[1], Q=np.array(Q).reshape(2, *SHAPE), KL=kl)
