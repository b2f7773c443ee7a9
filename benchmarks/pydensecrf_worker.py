"""Run pydensecrf2 on one image: as a function, or as a script with npz in and npz out.

The script is for a Python that has pydensecrf but not densecrf::

    python benchmarks/pydensecrf_worker.py input.npz output.npz

Input: ``image`` uint8 [H, W, 3], ``unary`` float32 [L, H, W], ``gaussian`` (sxy, weight), ``bilateral``
(sxy, srgb, weight), ``iterations`` [K]. Output: ``Q`` float32 [K, L, H, W].
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def infer(
    image: NDArray[np.uint8],
    unary: NDArray[np.float32],
    gaussian: Sequence[float],
    bilateral: Sequence[float],
    iterations: int,
) -> NDArray[np.float32]:
    """Q ``[L, H, W]`` of pydensecrf with its Potts compatibility and symmetric normalisation."""
    import pydensecrf.densecrf as dcrf

    L, H, W = unary.shape
    crf: Any = dcrf.DenseCRF2D(W, H, L)
    crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(L, -1), dtype=np.float32))
    crf.addPairwiseGaussian(sxy=float(gaussian[0]), compat=float(gaussian[1]))
    sxy, srgb, compat = (float(value) for value in bilateral)
    crf.addPairwiseBilateral(sxy=sxy, srgb=srgb, compat=compat, rgbim=np.ascontiguousarray(image))
    return np.array(crf.inference(iterations), dtype=np.float32).reshape(L, H, W)


def main(source: str, target: str) -> None:
    """Read `source`, infer once for each number of iterations, write `target`."""
    with np.load(source) as file:
        inputs = [file[key] for key in ("image", "unary", "gaussian", "bilateral")]
        iterations = file["iterations"].tolist()
    np.savez(target, Q=np.stack([infer(*inputs, iterations=T) for T in iterations]))


if __name__ == "__main__":
    main(*sys.argv[1:])
