"""pydensecrf.eigen: float32 vectors and matrices, here as NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from densecrf.compat.pydensecrf import arrays


class VectorXf(np.ndarray):
    """A float32 vector ``[N]``; without arguments an empty one, as in pydensecrf."""

    def __new__(cls) -> VectorXf:  # noqa: D102
        return np.empty(0, np.float32).view(cls)


class MatrixXf(np.ndarray):
    """A float32 matrix ``[L, N]``; without arguments an empty one, as in pydensecrf.

    pydensecrf's has the buffer protocol and nothing else (``np.array(Q)``, ``np.argmax(Q, axis=0)``); this is an
    array, in C order instead of Fortran's.
    """

    def __new__(cls) -> MatrixXf:  # noqa: D102
        return np.empty((0, 0), np.float32).view(cls)


def vectorXf(arr: Any) -> VectorXf:
    """A copy of a vector ``[N]``."""
    return _copy(arr, 1).view(VectorXf)


def matrixXf(arr: Any) -> MatrixXf:
    """A copy of a matrix ``[R, C]``."""
    return _copy(arr, 2).view(MatrixXf)


def _copy(arr: Any, ndim: int) -> np.ndarray:
    found = arrays.given("arr", arr)
    if found.ndim != ndim:
        raise ValueError(f"Buffer has wrong number of dimensions (expected {ndim}, got {found.ndim})")
    return found.astype(np.float32, order="C")
