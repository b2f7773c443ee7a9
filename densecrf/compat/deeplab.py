"""The class that DeepLab's PyTorch ports wrap around pydensecrf, copied from project to project."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densecrf.compat.pydensecrf import arrays, utils
from densecrf.compat.pydensecrf.densecrf import DenseCRF2D


@dataclass
class DeepLabCRF:
    """``DeepLabCRF(10, 3, 1, 4, 67, 3)(image, probmap)`` refines the probabilities of one image.

    Parameters
    ----------
    iter_max : iterations
    pos_w, pos_xy_std : weight and bandwidth of the smoothness term
    bi_w, bi_xy_std, bi_rgb_std : weight and bandwidths of the colour term

    """

    iter_max: int
    pos_w: float
    pos_xy_std: float
    bi_w: float
    bi_xy_std: float
    bi_rgb_std: float

    def __call__(self, image: Any, probmap: Any) -> NDArray[np.float32]:
        """Q ``[L, H, W]`` from an image uint8 ``[H, W, 3]`` and probabilities ``[L, H, W]``."""
        probabilities = arrays.given("probmap", probmap)
        if probabilities.ndim != 3:
            raise ValueError(f"probmap: must have shape [L, H, W], got shape {probabilities.shape}")
        labels, height, width = probabilities.shape
        crf = DenseCRF2D(width, height, labels)
        crf.setUnaryEnergy(utils.unary_from_softmax(probabilities))
        crf.addPairwiseGaussian(sxy=self.pos_xy_std, compat=self.pos_w)
        crf.addPairwiseBilateral(sxy=self.bi_xy_std, srgb=self.bi_rgb_std, rgbim=image, compat=self.bi_w)
        return np.asarray(crf.inference(self.iter_max)).reshape(probabilities.shape)
