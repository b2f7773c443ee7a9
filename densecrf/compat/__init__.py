"""Interfaces of other dense CRF libraries, on densecrf's engine.

`pydensecrf`: all of pydensecrf. `DeepLabCRF`: the class that DeepLab's ports wrap around it. `densecrf`:
the function of SimpleCRF.
"""

from densecrf.compat.deeplab import DeepLabCRF
from densecrf.compat.simplecrf import densecrf

__all__ = ["DeepLabCRF", "densecrf"]
