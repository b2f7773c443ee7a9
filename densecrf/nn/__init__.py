"""Trainable dense CRF layers for PyTorch, differentiable in everything: scores, weights, bandwidths, features.

>>> import densecrf.nn                                                          # doctest: +SKIP
>>> crf = densecrf.nn.DenseCRF(num_labels=21)
>>> logits = crf(backbone(image), image)            # float [B, 21, H, W], image [B, 3, H, W] in 0 ... 255
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("densecrf.nn needs PyTorch: pip install 'densecrf[torch]'") from error

from densecrf import _cuda_ops  # noqa: F401  gives the operators their kernels on CUDA
from densecrf.nn import functional
from densecrf.nn.layers import CRFasRNN, DenseCRF, LatticeFilter
from densecrf.nn.terms import Features

__all__ = ["CRFasRNN", "DenseCRF", "Features", "LatticeFilter", "functional"]
