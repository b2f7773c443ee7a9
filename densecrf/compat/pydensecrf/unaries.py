"""The unary energies of pydensecrf.densecrf: ConstUnary, LogisticUnary."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from densecrf import _native
from densecrf.compat.pydensecrf import arrays

_LARGEST = np.float32(1e30)  # an infinite energy, -log 0, is as good as this; what is added to it does not overflow


class Unary:
    """Energies for `DenseCRF.setUnary`; by itself none at all, as in pydensecrf."""

    energies: NDArray[np.float32] | None = None  # [L, N]


class ConstUnary(Unary):
    """Energies u ``[L, N]`` as they are; infinite ones, -log 0, become 1e30."""

    def __init__(self, u: Any) -> None:
        given = arrays.float32("u", u)
        self.energies = _native.ops(given.dtype).empty(given.shape)
        np.copyto(self.energies, given)  # the caller may reuse the array
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(self.energies.sum())  # faster than to look at each
        if not finite:
            self._tame(self.energies)

    @staticmethod
    def _tame(energies: NDArray[np.float32]) -> None:
        missing = np.isnan(energies).sum()
        if missing:
            rule = "must not hold NaN; energies are -log p: see that p is a softmax, without 0/0"
            raise ValueError(f"unary energy: {rule}, got {missing} NaN")
        np.clip(energies, -_LARGEST, _LARGEST, out=energies)


class LogisticUnary(ConstUnary):
    """Energies L f of weights L ``[L, F]`` and features f ``[F, N]``."""

    def __init__(self, L: Any, f: Any) -> None:
        weights, features = arrays.float32("L", L), arrays.float32("f", f)
        if weights.ndim != 2 or features.ndim != 2 or weights.shape[1] != features.shape[0]:
            raise ValueError(f"L, f: must have shapes [L, F] and [F, N], got {weights.shape} and {features.shape}")
        super().__init__(weights @ features)
