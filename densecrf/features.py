"""From an image and a kernel to features ``[N, d]``: positions (x first), then channels, over bandwidths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densecrf import _checks, _native
from densecrf.kernels import Bilateral, Custom, Gaussian, Kernel


class Domain:
    """Where the pixels are, what they look like and which of them take part.

    Parameters
    ----------
    shape : spatial shape: (N,), (H, W) or (D, H, W)
    image : ``[*shape, C]``, uint8 or of the run's dtype, or None
    mask : bool ``[N]`` or None
    spacing : size of a pixel along each axis, in the units of the bandwidths

    """

    def __init__(
        self,
        shape: tuple[int, ...],
        image: NDArray[Any] | None,
        mask: NDArray[Any] | None,
        spacing: tuple[float, ...],
        dtype: np.dtype[Any],
        num_threads: int | None,
    ) -> None:
        self.shape, self.image, self.mask, self.spacing = shape, image, mask, spacing
        self.dtype, self.num_threads = dtype, num_threads
        self.size = int(np.prod(shape))

    def sigmas(self, kernel: Gaussian | Bilateral) -> tuple[float, ...]:
        """Bandwidths of the axes in pixels, in axis order."""
        given = _checks.per_axis("sxy", _checks.bandwidths("sxy", kernel.sxy), len(self.shape), "axes")
        return tuple(s / step for s, step in zip(given, self.spacing, strict=True))

    def row_step(self, kernels: Sequence[Kernel]) -> int:
        """Which rows `fast` needs: every second one, or every fourth where all kernels are wide and rows are many.

        A Gaussian's sum over every n-th row is off by 2 exp(-2 pi^2 sigma^2 / n^2) of it, 1.4 % for sigma = n / 2.
        """
        if len(self.shape) < 2 or self.shape[-2] < 2:
            return 1
        wide = [isinstance(k, (Gaussian, Bilateral)) and self.sigmas(k)[-2] >= 2 for k in kernels]
        return 4 if all(wide) and self.shape[-2] >= 16 else 2

    def features(self, kernel: Kernel) -> NDArray[Any]:
        """Features of a kernel ``[N, d]``."""
        if isinstance(kernel, Custom):
            return self._masked(self._custom(kernel))
        found: NDArray[Any] = _native.ops(self.dtype).make_features(
            self.pixels(kernel), _native.threads(self.num_threads)
        )
        return self._masked(found)

    def pixels(self, kernel: Kernel) -> tuple[Any, ...]:
        """What the engine makes features from: size, number of axes, their bandwidths, image and its channels'."""
        if isinstance(kernel, Bilateral):
            channels = self._channel_sigmas(kernel)
        elif isinstance(kernel, Gaussian):
            channels = ()
        else:
            raise TypeError(f"kernels: must be Gaussian, Bilateral or Custom, got {kernel!r}")
        sigmas = self.sigmas(kernel)
        size = [1] * (3 - len(self.shape)) + list(self.shape)
        reversed_sigmas = list(sigmas[::-1]) + [1.0] * (3 - len(sigmas))
        return size, len(sigmas), reversed_sigmas, self.image if channels else None, list(channels)

    def _channel_sigmas(self, kernel: Bilateral) -> tuple[float, ...]:
        if self.image is None:
            raise ValueError("image: must be given for a Bilateral kernel, got None")
        channels = self.image.shape[-1]
        return _checks.per_axis("srgb", _checks.bandwidths("srgb", kernel.srgb), channels, "channels")

    def _custom(self, kernel: Custom) -> NDArray[Any]:
        found = _checks.array("features", kernel.features)
        if found.shape[:-1] not in ((self.size,), self.shape) or found.shape[-1] > _native.MAX_DIMS:
            rule = f"must have shape [{self.size}, d] or [*{self.shape}, d] with d at most {_native.MAX_DIMS}"
            raise ValueError(f"features: {rule}, got shape {found.shape}")
        return _checks.native(found.reshape(self.size, -1), self.dtype)

    def _masked(self, features: NDArray[Any]) -> NDArray[Any]:
        """Points that take no part stand where another one does, so that they add no vertices."""
        if self.mask is None:
            return features
        features = features.copy()
        features[~self.mask] = features[int(np.argmax(self.mask))]
        return features
