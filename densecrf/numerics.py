"""The two numerics of the lattice, by name.

The lattice filters with blur weights ``[w, 1, w]`` along each of its d + 1 axes. The variance of the result
is that of the blur plus that of splat and slice, (d + 1)^2 / 12 each and per axis in units of elevated
coordinates (Adams et al. 2010, section 3.2), so that unit variance wants the features scaled by

    (d + 1) * sqrt(2 w / (1 + 2 w) + 1 / 6)

which is the published (d + 1) * sqrt(2 / 3) for w = 1/2. Two things stand between that and the exact Gaussian:
the shape of the kernel, which another w and a stretch of the scale bring nearer, and the vertices that do
not exist. The blur takes its axes one after the other, and mass gets from one vertex to another only where every
vertex on the way exists; so the tuned lattice has bridges, which carry the blur and nothing else. With a, b, c, d for
the steps of an occupied simplex from corner k on (after the last corner comes the first again), they are the vertices
k + b, passed when a and b are swapped, and in a sparse lattice, one of at least three points to a corner, k + d as
well (csrc/cpu/lattice.cpp).

Blur weight and stretch for d = 5 were chosen with both kinds of bridges, on whole mean-field runs
(benchmarks/accuracy.py); those for the other d with the first kind alone, on the error of one filter
(benchmarks/tune_lattice.py).
"""

from __future__ import annotations

from math import pi, sqrt
from typing import NamedTuple

import numpy as np


class Numerics(NamedTuple):
    """How a lattice of d dimensions filters."""

    scale: float  # of the elevation
    blur: float  # outer weight w of [w, 1, w]
    alpha: float  # output scale
    pad_origin: bool  # insert the zero feature's simplex, too
    bridges: bool  # insert vertices that only carry the blur, too


# Blur weight and stretch of the scale by dimension, found by benchmarks/tune_lattice.py against the exact Gaussian;
# d = 5 by benchmarks/accuracy.py on whole mean-field runs.
_TUNED: dict[int, tuple[float, float]] = {
    1: (0.56, 1.03),
    2: (0.50, 1.04),
    3: (0.50, 1.03),
    4: (0.46, 1.02),
    5: (0.46, 1.04),
    6: (0.42, 0.97),
    7: (0.42, 0.96),
    8: (0.44, 0.96),
    10: (0.46, 0.96),
}


# Without bridges; by benchmarks/accuracy.py, no farther from the exact Q than pydensecrf2 over its settings.
_FAST = {5: (0.40, 1.02)}


def classic(dims: int, points: int) -> Numerics:
    """The lattice as published, with the output scale and the padding of pydensecrf.

    pydensecrf pads the points to a multiple of four with zero features, whose vertices then carry the blur.
    """
    scale = float(np.float32((dims + 1) * sqrt(2 / 3)))  # colours often lie on ties, so even roundings count
    return Numerics(scale, 0.5, 1 / (1 + 2.0**-dims), points % 4 != 0, False)


def tuned(dims: int, points: int) -> Numerics:
    """Blur weight and scale with the smallest error against the exact Gaussian."""
    return lattice_of(dims, *_nearest(dims))


def _nearest(dims: int) -> tuple[float, float]:
    return _TUNED[min(_TUNED, key=lambda d: abs(d - dims))]


def lattice_of(dims: int, blur: float, stretch: float) -> Numerics:
    """A lattice with bridges, of this blur weight and stretch of the unit-variance scale."""
    scale = (dims + 1) * sqrt(2 * blur / (1 + 2 * blur) + 1 / 6) * stretch
    return Numerics(scale, blur, mass_preserving_alpha(dims, scale, blur), False, True)


def mass_preserving_alpha(dims: int, scale: float, blur: float) -> float:
    """Output scale with which evenly spread points sum to the Gaussian's integral, (2 pi)^(d/2).

    One vertex owns the volume (d + 1)^(d - 1/2) of the elevated lattice, scale^-d of that in feature space;
    the blur multiplies mass by (1 + 2 w)^(d + 1).
    """
    return (2 * pi) ** (dims / 2) * scale**dims / ((dims + 1) ** (dims - 0.5) * (1 + 2 * blur) ** (dims + 1))


def fast(dims: int, points: int) -> Numerics:
    """Without bridges: about as many vertices as `classic`, and as near to the exact Gaussian or nearer."""
    return lattice_of(dims, *(_FAST.get(dims) or _nearest(dims)))._replace(bridges=False)


METHODS = {"classic": classic, "tuned": tuned, "fast": fast}
