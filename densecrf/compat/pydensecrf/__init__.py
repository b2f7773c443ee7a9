"""pydensecrf's interface on densecrf's engine: the same names, arguments and numbers.

>>> import densecrf.compat.pydensecrf.densecrf as dcrf              # instead of: import pydensecrf.densecrf as dcrf
>>> from densecrf.compat.pydensecrf import utils                     # instead of: from pydensecrf import utils

Code that cannot be edited runs after `install`, or by ``python -m densecrf.compat.pydensecrf script.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from densecrf.compat.pydensecrf import densecrf, eigen, utils

__all__ = ["densecrf", "eigen", "install", "method", "utils"]

method = "classic"
"""Numerics of every CRF made from now on: "classic" (pydensecrf's numbers) or "tuned" (nearer to the exact ones)."""


def install() -> None:
    """Make ``import pydensecrf`` mean this package, here and in processes started by multiprocessing.

    A spawned process begins with this one's ``sys.path``, so a folder goes there that holds a package of that name:
    after the first entry, which is the script's own folder. The folder of densecrf itself goes to the end, for a
    densecrf that was found in the working directory.
    """
    here = Path(__file__)
    for position, folder in ((1, here.parents[1] / "path"), (len(sys.path) + 1, here.parents[3])):
        if str(folder) not in sys.path:
            sys.path.insert(position, str(folder))
    sys.modules["pydensecrf"] = sys.modules[__name__]
    for module in (densecrf, eigen, utils):
        sys.modules[f"pydensecrf.{module.__name__.rpartition('.')[2]}"] = module
