"""Dense conditional random fields: better segmentations from a network's scores and the photo.

>>> import densecrf                                                             # doctest: +SKIP
>>> out = densecrf.refine(image, logits=scores)     # uint8 [H, W, 3], float [L, H, W]
>>> out.probs, out.labels                           # float32 [L, H, W], uint8 [H, W]
"""

from densecrf import presets, reference, unary
from densecrf._C import __version__
from densecrf.kernels import Bilateral, Custom, Gaussian
from densecrf.lattice import Lattice
from densecrf.mean_field import DenseCRF, Result, refine

__all__ = [
    "Bilateral",
    "Custom",
    "DenseCRF",
    "Gaussian",
    "Lattice",
    "Result",
    "__version__",
    "presets",
    "reference",
    "refine",
    "unary",
]
