"""A kernel as the engine takes it: lattice or grid, the vectors around it, and what its message adds to the scores."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densecrf import _checks, _native
from densecrf.features import Domain
from densecrf.kernels import Custom, Gaussian, Kernel
from densecrf.lattice import Lattice
from densecrf.spatial import Grid

Array = NDArray[Any]
BOUNDED = frozenset({"symmetric", "after"})  # normalisations whose messages half precision may hold
UNREACHED = 1e-10  # sums below this are those of points that nobody reaches, masked ones; they get no message


def prepare(
    domain: Domain, kernel: Kernel, method: str, normalization: str, self_message: bool = True
) -> tuple[Any, ...]:
    """(lattice or None, grid or None, norm_in, norm_out, self) of a kernel; only its coupling is missing.

    Parameters
    ----------
    domain : where the pixels are
    kernel : its own normalisation, where it has one, goes before `normalization`
    method : "tuned" or "classic"
    self_message : False leaves out what a pixel says to itself

    """
    normalization = kernel.normalization or normalization
    mask = None if domain.mask is None else domain.mask.astype(domain.dtype)
    if isinstance(kernel, Gaussian) and method != "classic":
        grid = Grid(domain.shape, domain.sigmas(kernel))
        native = grid.native(domain.dtype)
        if mask is None:
            norm = partial(grid.ones, domain.dtype)
        else:
            norm = partial(_masked_norm, native, mask, _native.threads(domain.num_threads))
        own = None if self_message else grid.diagonal(domain.dtype)
        return (None, native, *_norms(mask, normalization, norm, own, domain.dtype))
    lattice = _lattice(domain, kernel, method)
    norm = partial(lattice._norm, mask)
    own = None if self_message else lattice.self_weights()
    return (lattice._native(), None, *_norms(mask, normalization, norm, own, domain.dtype))


def _lattice(domain: Domain, kernel: Kernel, method: str) -> Lattice:
    if domain.mask is None and not isinstance(kernel, Custom):
        return Lattice._of_image(domain.pixels(kernel), method, domain.dtype, domain.num_threads)
    return Lattice(domain.features(kernel), method, dtype=domain.dtype, num_threads=domain.num_threads)


def _norms(
    mask: Array | None,
    normalization: str,
    norm: Callable[[float], Array],
    own: Array | None,
    dtype: np.dtype[Any],
) -> tuple[Array | None, ...]:
    """Factors before and after the filter, and the diagonal of the normalised filter to take away.

    norm: the filter of ones, to the power of 1, -1 or -1/2; not called where nothing is normalised.
    """
    if own is not None:
        others = norm(1) - own
        norm = partial(power_of, others)
    left, right = _factors(norm, normalization)
    if own is not None:
        rounding = np.sqrt(np.finfo(dtype).eps)
        alone = others <= rounding * own  # nothing is left but rounding: such a pixel hears nobody
        left = np.where(alone, 0, 1 if left is None else left)
        right = np.where(alone, 0, 1 if right is None else right)
    if mask is not None:
        same = right is left
        left = mask if left is None else left * mask
        right = left if same else mask if right is None else right * mask
    if own is not None:
        own = own * (1 if left is None else left) * (1 if right is None else right)
    vectors = (right, left, own)
    return tuple(None if v is None else _checks.native(v, dtype) for v in vectors)


def _factors(norm: Callable[[float], Array], normalization: str) -> tuple[Array | None, Array | None]:
    """(left, right) of the normalised filter diag(left) K diag(right); None stands for ones."""
    if normalization == "none":
        return None, None
    inverse = norm(-0.5 if normalization == "symmetric" else -1)
    if normalization == "symmetric":
        return inverse, inverse
    return (inverse, None) if normalization == "after" else (None, inverse)


def _masked_norm(grid: tuple[Any, ...], mask: Array, threads: int, power: float) -> Array:
    """A grid's filter of a mask ``[N]``, to this power."""
    return power_of(_native.ops(mask.dtype).grid_filter(grid, mask[None, None], threads)[0, 0], power)


def power_of(sums: Array, power: float) -> Array:
    """``sums ** power``, power 1, -1 or -1/2, but 0 where that is negative and nobody is in reach."""
    if power == 1:
        return sums
    inverse = np.maximum(sums, sums.dtype.type(UNREACHED))  # from here on in place: fresh memory costs more
    if power == -0.5:
        np.sqrt(inverse, out=inverse)
    np.reciprocal(inverse, out=inverse)
    inverse *= sums > UNREACHED
    return inverse


def coupling(mu: Any, weight: Any, dtype: np.dtype[Any]) -> Any:
    """What a filtered Q adds to the scores: -mu weight, each a number (Potts), a diagonal or a matrix.

    A multiple of Potts, mu = c (1 - I), gives c weight: the constant over the labels changes no probability.
    """
    product = _product(mu, weight)
    return product if isinstance(product, float) else _checks.native(product, dtype)


def _product(mu: Any, weight: Any) -> Any:
    if isinstance(mu, float):
        return mu * weight
    if mu.ndim == 1:
        return -mu[:, None] * weight if np.ndim(weight) == 2 else -mu * weight
    return -mu @ weight if np.ndim(weight) == 2 else -mu * weight
