"""Labels that can be left out of a run because no pixel can take them.

For a label l let a = max_i (u_il - max_k u_ik), u being the logits, and s the most that its messages can add where it
has probability 1: its couplings times the largest row sums of the normalised filters. Messages of the others are not
negative, so Q_il <= p at every pixel makes Q_il <= exp(a + s p) after an update. Where a + s p <= log p, a label that
begins below p stays there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densecrf import _checks, _native

Array = NDArray[Any]


def tolerance(prune: Any) -> float:
    """The probability below which labels are left out, 0 for none."""
    found = _checks.number("prune", prune)
    if not 0 <= found < 1:
        raise ValueError(f"prune: must be at least 0 and below 1, got {found:g}")
    return found


def row_sums(parts: tuple[Any, ...], points: int, dtype: np.dtype[Any], threads: int) -> float:
    """The largest row sum of a normalised filter, whose parts are as `terms.prepare` gives them."""
    lattice, grid, norm_in, norm_out, _ = parts
    ones = np.ones(points, dtype) if norm_in is None else norm_in
    ops, values = _native.ops(dtype), ones[None, None]
    sums = ops.grid_filter(grid, values, threads) if lattice is None else ops.filter(lattice, values, False, threads)
    return float((sums if norm_out is None else sums * norm_out).max())


def alive(
    scores: Array,
    sign: float,
    initial: Array | None,
    prune: float,
    couplings: Sequence[Any],
    row_sums: Callable[[], Sequence[float]],
) -> Array:
    """Which labels may exceed the probability `prune` somewhere, bool ``[L]``; sign times `scores` are the logits.

    Raises
    ------
    ValueError
        A message can be negative, or depends on the other labels in another way than with Potts.

    """
    for coupling in couplings:
        if np.ndim(coupling) == 2 or np.min(coupling) < 0:
            raise ValueError(
                "prune: needs weights and a compatibility that make labels attract themselves (Potts and numbers, or "
                "vectors, of one sign), got a matrix or repulsion"
            )
    best = scores.max(axis=0) if sign > 0 else -scores.min(axis=0)
    least = np.array([(sign * plane - best).max() for plane in scores])
    below = least <= np.log(prune)  # not so where scores are NaN, which the engine refuses
    if below.any():  # the sums cost a filter of one channel
        strength = sum(coupling * most for coupling, most in zip(couplings, row_sums(), strict=True))
        below &= least + strength * prune <= np.log(prune)
    if initial is not None:  # of which something must be left at every pixel
        below &= initial.max(axis=1) <= prune / (2 * len(scores))
    return ~below


def restored(q: Array, kept: Array) -> Array:
    """Q ``[L, N]`` of all labels from that of the kept ones: the others get 0."""
    full = np.zeros((len(kept), q.shape[1]), q.dtype)
    full[kept] = q
    return full
