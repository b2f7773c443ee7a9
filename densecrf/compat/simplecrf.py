"""The 2-D function of SimpleCRF (its module ``denseCRF``)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from densecrf.compat.pydensecrf import arrays
from densecrf.compat.pydensecrf.densecrf import DenseCRF2D

_LEAST, _MOST = 0.01, 0.99  # SimpleCRF clips the probabilities


def densecrf(I: Any, P: Any, param: Any) -> NDArray[np.int8] | NDArray[np.int32]:  # noqa: E741
    """Labels of an image, as ``denseCRF.densecrf`` gives them.

    Parameters
    ----------
    I : image, uint8 ``[H, W, 3]``
    P : probabilities ``[H, W, L]``, of which SimpleCRF takes those below 0.01 for 0.01 and above 0.99 for 0.99
    param : (w1, alpha, beta, w2, gamma, it): weight, bandwidth of positions and of colours of the bilateral term;
        weight and bandwidth of the spatial term; iterations

    Returns
    -------
    Labels ``[H, W]``, int8 as in SimpleCRF; int32 where there are more than 128

    """
    probabilities = arrays.given("P", P)
    if probabilities.ndim != 3:
        raise ValueError(f"P: must have shape [H, W, L], got shape {probabilities.shape}")
    if len(param) != 6:
        raise ValueError(f"param: must be (w1, alpha, beta, w2, gamma, it), got {param!r}")
    w1, alpha, beta, w2, gamma, iterations = param
    height, width, labels = probabilities.shape
    clipped = np.clip(probabilities.astype(np.float32, copy=False), _LEAST, _MOST)
    crf = DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(-np.log(clipped).reshape(-1, labels).T)
    crf.addPairwiseBilateral(alpha, beta, I, w1)
    crf.addPairwiseGaussian(gamma, w2)
    best = np.asarray(crf.inference(iterations)).argmax(axis=0).reshape(height, width)
    return best.astype(np.int8 if labels <= 128 else np.int32)
