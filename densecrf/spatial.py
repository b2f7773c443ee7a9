"""The spatial Gaussian on a regular grid: separable, on nodes a few pixels apart, without any lattice.

Pixels are splatted with tent weights onto nodes ``spacing`` apart, filtered there with a short symmetric
filter and interpolated back with the same tents. The taps are those that bring the whole operator, averaged
over where a pixel lies between its nodes, nearest to the true Gaussian. ``spacing == 1`` is the direct
filter. Errors are measured in tests/test_spatial.py and docs/accuracy.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_REACH = 3.0  # bandwidths that the direct filter reaches to at least; 0.3 % of the mass lies beyond
_COARSE_REACH = 2.6  # the same on coarser nodes, where the splat and the fitted taps make up for the rest
_DIRECT_BELOW = 3.0  # bandwidth in pixels from which on nodes are coarser than pixels
_SHORT = 32  # pixels along an axis up to which it is always filtered directly
_PHASES = 8  # positions of a pixel between two nodes that the taps are fitted at


@dataclass(frozen=True, eq=False)
class Axis:
    """The filter along one axis."""

    size: int
    spacing: int
    taps: Array  # [radius + 1], centre first
    slope: Array  # their derivative with respect to the bandwidth in pixels

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return self.size if self.spacing == 1 else (self.size - 1) // self.spacing + 2

    def weights(self) -> tuple[NDArray[np.int64], Array]:
        """Lower node of each pixel ``[size]`` and its fraction towards the next."""
        pixels = np.arange(self.size)
        if self.spacing == 1:
            return pixels, np.zeros(self.size)
        return pixels // self.spacing, (pixels % self.spacing + 0.5) / self.spacing

    @cached_property
    def ones(self) -> Array:
        """The filter of ones ``[size]``, the normalisation."""
        return self.sums(np.ones(self.size))

    def sums(self, values: Array) -> Array:
        """Filter a line of values ``[size]``."""
        node, f = self.weights()
        on_nodes = np.bincount(node, (1 - f) * values, self.nodes + 1)
        on_nodes += np.bincount(node + 1, f * values, self.nodes + 1)
        taps = self.taps[: self.nodes]
        filtered = np.convolve(on_nodes[: self.nodes], np.concatenate([taps[:0:-1], taps]))
        filtered = filtered[len(taps) - 1 :]
        return (1 - f) * filtered[node] + f * filtered[np.minimum(node + 1, self.nodes - 1)]

    def diagonal(self) -> Array:
        """What each pixel sends to itself ``[size]``."""
        _, f = self.weights()
        beside = self.taps[1] if len(self.taps) > 1 else 0.0
        return (f**2 + (1 - f) ** 2) * self.taps[0] + 2 * f * (1 - f) * beside


class Grid:
    """The separable filter of an image, line or volume.

    Parameters
    ----------
    shape : one to three sizes
    sigmas : bandwidth of each axis in pixels

    """

    def __init__(self, shape: Sequence[int], sigmas: Sequence[float]) -> None:
        self.axes = [_axis(size, float(sigma)) for size, sigma in zip(shape, sigmas, strict=True)]

    def ones(self, dtype: np.dtype[Any], power: float = 1) -> NDArray[Any]:
        """The filter of ones ``[N]``, to this power: a product of one vector per axis."""
        return _outer([axis.ones**power for axis in self.axes], dtype)

    def diagonal(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        """What each pixel sends to itself ``[N]`` (exactly: 1)."""
        return _outer([axis.diagonal() for axis in self.axes], dtype)

    def slopes(self) -> list[Grid]:
        """Derivative of the filter with respect to each axis' bandwidth: the same with that axis' taps' derivative."""
        out = []
        for i, axis in enumerate(self.axes):
            slope = copy(self)
            slope.axes = [*self.axes[:i], replace(axis, taps=axis.slope), *self.axes[i + 1 :]]
            out.append(slope)
        return out

    def native(self, dtype: np.dtype[Any]) -> tuple[Any, ...]:
        """What the engine takes: sizes, spacings and taps of three axes."""
        unit = _axis(1, 1.0)
        axes = [unit] * (3 - len(self.axes)) + self.axes
        return [a.size for a in axes], [a.spacing for a in axes], [a.taps.astype(dtype) for a in axes]


def _outer(vectors: list[Array], dtype: np.dtype[Any]) -> NDArray[Any]:
    out = np.ones(1, dtype)
    for v in vectors:
        out = np.multiply.outer(out, v.astype(dtype)).ravel()
    return out


@lru_cache(maxsize=256)
def _axis(size: int, sigma: float) -> Axis:
    if size == 1:
        return Axis(1, 1, np.ones(1), np.zeros(1))
    if sigma < _DIRECT_BELOW or size <= _SHORT:
        offsets = np.arange(min(ceil(_REACH * sigma), size - 1) + 1.0)
        return Axis(size, 1, *_gaussian(offsets, sigma))
    spacing = 2 if sigma < 6 else min(int(sigma / 3), max(2, size // 8))
    return Axis(size, spacing, *_fit_taps(spacing, sigma, size))


def _gaussian(offsets: Array, sigma: float) -> tuple[Array, Array]:
    """The Gaussian and its derivative with respect to sigma."""
    value = np.exp(-0.5 * (offsets / sigma) ** 2)
    return value, value * offsets**2 / sigma**3


def _fit_taps(spacing: int, sigma: float, size: int) -> tuple[Array, Array]:
    """Taps with the least squared error of the whole operator against the Gaussian, and their derivative."""
    radius = min(ceil(_COARSE_REACH * sigma / spacing), (size - 1) // spacing + 1)
    phases = (np.arange(min(spacing, _PHASES)) + 0.5) / min(spacing, _PHASES)  # of the receiving pixel
    reach = min(radius + 1, size / spacing)  # no pixel is farther away
    offsets = np.arange(0, ceil(reach * len(phases))) / len(phases)  # to the sending one, in nodes
    rows = []
    targets = []
    for phase in phases:
        sender = phase + offsets
        node = np.floor(sender).astype(int)
        f = sender - node
        coefficients = np.zeros((len(offsets), radius + 4))
        index = np.arange(len(offsets))
        for here, weight in ((0, 1 - phase), (1, phase)):
            for there, other in ((0, 1 - f), (1, f)):
                np.add.at(coefficients, (index, np.abs(node + there - here)), weight * other)
        rows.append(coefficients[:, : radius + 1])
        targets.append(np.stack(_gaussian(offsets * spacing, sigma), axis=1))
    taps, slope = np.linalg.lstsq(np.concatenate(rows), np.concatenate(targets), rcond=None)[0].T.copy()
    return taps, slope
