"""The pairwise kernels: what makes two pixels neighbours, and how much they say to each other.

Each is a Gaussian ``k(f_i, f_j) = exp(-|f_i - f_j|^2 / 2)`` on features that have been divided by their
bandwidths (Krähenbühl & Koltun 2011, equation 3). Bandwidths are standard deviations: of positions in pixels
(or in the units of ``spacing=``), of colours in the image's own units (0 to 255 for 8-bit images).

The weight is a number, a vector ``[L]`` (one per label) or a matrix ``[L, L]``. ``normalization=None`` takes
the normalisation of the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from densecrf import _checks

Bandwidth = float | tuple[float, ...]


class Kernel:
    """What all kernels share; use `Gaussian`, `Bilateral` or `Custom`."""

    weight: Any
    normalization: str | None

    def _check(self, weight: Any, normalization: str | None, **bandwidths: Any) -> None:
        _checks.weight("weight", weight)
        if normalization is not None:
            _checks.choice("normalization", normalization, _checks.NORMALIZATIONS)
        for name, value in bandwidths.items():
            _checks.bandwidths(name, value)


@dataclass(frozen=True, eq=False)
class Gaussian(Kernel):
    """Smoothness: nearby pixels agree, whatever their colours.

    Parameters
    ----------
    sxy : bandwidth in pixels; one number, or one per axis in axis order: (sy, sx), (sz, sy, sx)
    weight : number, ``[L]`` or ``[L, L]``
    normalization : "symmetric", "after", "before", "none", or None for that of the run

    """

    sxy: Bandwidth = 1.0
    weight: Any = 3.0
    normalization: str | None = None

    def __post_init__(self) -> None:
        self._check(self.weight, self.normalization, sxy=self.sxy)


@dataclass(frozen=True, eq=False)
class Bilateral(Kernel):
    """Appearance: pixels agree that are near and of similar colour.

    Parameters
    ----------
    sxy : bandwidth of positions in pixels, as in `Gaussian`
    srgb : bandwidth of the image's channels in its own units; one number or one per channel
    weight : number, ``[L]`` or ``[L, L]``
    normalization : "symmetric", "after", "before", "none", or None for that of the run

    """

    sxy: Bandwidth = 50.0
    srgb: Bandwidth = 4.0
    weight: Any = 5.0
    normalization: str | None = None

    def __post_init__(self) -> None:
        self._check(self.weight, self.normalization, sxy=self.sxy, srgb=self.srgb)


@dataclass(frozen=True, eq=False)
class Custom(Kernel):
    """Any features: depth, embeddings, optical flow, time, positions of a point cloud.

    Parameters
    ----------
    features : ``[N, d]`` or ``[*spatial, d]``, finite, already divided by their bandwidths; d up to 64
    weight : number, ``[L]`` or ``[L, L]``
    normalization : "symmetric", "after", "before", "none", or None for that of the run

    """

    features: Any
    weight: Any = 1.0
    normalization: str | None = None

    def __post_init__(self) -> None:
        self._check(self.weight, self.normalization)
        found = _checks.array("features", self.features)
        if found.ndim < 2:
            raise ValueError(f"features: must have shape [N, d] or [*spatial, d], got shape {found.shape}")
