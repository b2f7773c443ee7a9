"""The exact dense CRF: O(N^2) filter and mean field in plain NumPy, float64.

This is the truth that the fast filters are scored against, written to be read beside the papers. Nothing is
approximated: every pair of points is visited. 10,000 points take seconds, 50,000 minutes.

With L labels and N points, Q, the unary energies U and all messages are ``[L, N]``; features are ``[N, d]``,
already divided by their bandwidths. Points that take no part are left out of both by the caller.

* kernel, below eq. (2) of [1]: ``k(f_i, f_j) = exp(-|f_i - f_j|^2 / 2)``
* message of kernel m, first step of algorithm 1: ``F_m = K^_m Q`` (for each label, Q as a column), where K^
  is the kernel matrix normalised with ``D = diag(K 1)``: ``D^-1/2 K D^-1/2`` ("symmetric"), ``D^-1 K``
  ("after"), ``K D^-1`` ("before") or K ("none")
* compatibility transform, second step: ``E = mu (sum_m W_m F_m)``
* local update and normalisation, last steps, eq. (4): ``Q <- softmax(-U - E)``, all points at once

The sum of eq. (4) leaves out j = i. Implementations in use keep it, and so does the default here;
``self_message=False`` gives the equation as printed (and leaves j = i out of D, too).

References
----------
[1] P. Krähenbühl, V. Koltun. Efficient inference in fully connected CRFs with Gaussian edge potentials.
    NIPS 2011.
[2] P. Krähenbühl, V. Koltun. Parameter learning and convergent inference for dense random fields. ICML 2013.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

NORMALIZATIONS = ("symmetric", "after", "before", "none")
_BLOCK_ELEMENTS = 1 << 20  # of the kernel matrix, computed at a time: 8 MiB, about a cache
_KEEP_BYTES = 2 << 30  # kernel matrices of up to this size in all are kept between iterations
_LEAST_EXPONENT = -700.0  # exp gives 1e-304, nothing beside k(f_i, f_i) = 1; underflow is four times slower
_PRODUCT_LIMIT = 1e5  # of |f|^2 / 2: rounding it costs 1e-11 in the exponent
_SMALLEST = 1e-20  # a point without any neighbour gets no message instead of 0/0


class Kernel(NamedTuple):
    """One pairwise term: features ``[N, d]``, weight W (number, ``[L]`` or ``[L, L]``), normalisation."""

    features: ArrayLike
    weight: ArrayLike = 1.0
    normalization: str = "symmetric"


class GaussianMatrix:
    """The kernel matrix ``K[i, j] = exp(-|f_i - f_j|^2 / 2)`` of features ``[N, d]``.

    K is symmetric: of each chunk of rows only the part from the diagonal on is computed, and used twice.
    The chunks are kept if they take no more than `keep_bytes` together, and recomputed otherwise.
    """

    def __init__(  # noqa: D107
        self, features: ArrayLike, self_message: bool = True, chunk: int | None = None, keep_bytes: int = 0
    ) -> None:
        self.features = np.asarray(features, dtype=np.float64)
        if self.features.ndim != 2:
            raise ValueError(f"features: must have shape [N, d], got shape {self.features.shape}")
        if not np.isfinite(self.features).all():
            raise ValueError("features: must be finite, got NaN or inf")
        self.size = len(self.features)
        self._diagonal = 1.0 if self_message else 0.0
        self._chunk = chunk or max(1, _BLOCK_ELEMENTS // max(1, self.size))
        self._starts = range(0, self.size, self._chunk)
        fits = 4 * self.size * (self.size + self._chunk) <= keep_bytes
        self._kept = [self._rows(start) for start in self._starts] if fits else None

    def _rows(self, start: int) -> Array:
        """Rows [start, start + chunk) of K, columns from `start` on."""
        exponent = _minus_half_squares(self.features[start : start + self._chunk], self.features[start:])
        rows: Array = np.exp(np.clip(exponent, _LEAST_EXPONENT, 0.0, out=exponent), out=exponent)
        np.fill_diagonal(rows, self._diagonal)
        return rows

    def apply(self, values: Array) -> Array:
        """``values K`` for values ``[C, N]``: out[:, i] = sum_j k(f_i, f_j) values[:, j]."""
        out = np.zeros_like(values)
        for index, start in enumerate(self._starts):
            rows = self._kept[index] if self._kept is not None else self._rows(start)
            stop = start + len(rows)
            out[:, start:stop] += values[:, start:] @ rows.T
            out[:, stop:] += values[:, start:stop] @ rows[:, len(rows) :]  # the same pairs, seen from j
        return out


def _minus_half_squares(left: Array, right: Array) -> Array:
    """``-|left_i - right_j|^2 / 2`` ``[A, B]`` for ``[A, d]`` and ``[B, d]``."""
    with np.errstate(over="ignore"):  # an infinite distance is as good as a large one
        a, b = left - left[0], right - left[0]
        half_a, half_b = 0.5 * (a**2).sum(axis=1), 0.5 * (b**2).sum(axis=1)
        if max(half_a.max(), half_b.max()) < _PRODUCT_LIMIT:
            exponent: Array = a @ b.T - half_a[:, None]  # |a - b|^2 = |a|^2 + |b|^2 - 2ab
            exponent -= half_b
            return exponent
        exponent = np.zeros((len(left), len(right)))
        for x, y in zip(left.T, right.T, strict=True):
            exponent -= 0.5 * np.subtract.outer(x, y) ** 2
        return exponent


def filter(features: ArrayLike, values: ArrayLike, *, self_message: bool = True, chunk: int | None = None) -> Array:
    """Gaussian filter, unnormalised: ``sum_j exp(-|f_i - f_j|^2 / 2) v_j``.

    Parameters
    ----------
    features : ``[N, d]``, already divided by their bandwidths, finite
    values : ``[N]`` or ``[C, N]``; the result has the same shape, float64
    self_message : False leaves out j = i
    chunk : rows of the kernel matrix computed at a time (None: about 8 MiB)
    """
    matrix = GaussianMatrix(features, self_message, chunk)
    array = np.asarray(values, dtype=np.float64)
    if array.ndim not in (1, 2) or array.shape[-1] != matrix.size:
        rule = f"must have shape [N] or [C, N] with N = {matrix.size}"
        raise ValueError(f"values: {rule}, got shape {array.shape}")
    return matrix.apply(np.atleast_2d(array)).reshape(array.shape)


def normalizers(matrix: GaussianMatrix, normalization: str = "symmetric") -> tuple[Array, Array]:
    """Scales ``(left, right)``, each ``[N]``, such that K^ = diag(left) K diag(right)."""
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization: must be one of {', '.join(NORMALIZATIONS)}, got {normalization!r}")
    one = np.ones(matrix.size)
    if normalization == "none":
        return one, one
    n = np.maximum(matrix.apply(one[None])[0], _SMALLEST)
    return {"symmetric": (n**-0.5, n**-0.5), "after": (1.0 / n, one), "before": (one, 1.0 / n)}[normalization]


class Pairwise:
    """The pairwise energies of a list of kernels: built once, then called with each Q.

    Parameters are those of `mean_field`; `keep_bytes` bounds the memory for kernel matrices, `matrix` makes another
    one than `GaussianMatrix` of features and `self_message`.
    """

    def __init__(  # noqa: D107
        self,
        kernels: Iterable[Sequence[Any]],
        compatibility: ArrayLike = "potts",
        self_message: bool = True,
        keep_bytes: int = _KEEP_BYTES,
        matrix: Callable[[Any, bool], Any] | None = None,
    ) -> None:
        if isinstance(compatibility, str) and compatibility != "potts":
            rule = "must be 'potts', a number, [L] or [L, L]"
            raise ValueError(f"compatibility: {rule}, got {compatibility!r}")
        self._mu = np.asarray(1.0 if isinstance(compatibility, str) else compatibility, dtype=np.float64)
        self._terms = []
        terms = [Kernel(*kernel) for kernel in kernels]
        make = matrix or partial(GaussianMatrix, keep_bytes=keep_bytes // max(1, len(terms)))
        for features, weight, normalization in terms:
            made = make(features, self_message)
            left, right = normalizers(made, normalization)
            self._terms.append((np.asarray(weight, dtype=np.float64), made, left, right))

    def __call__(self, Q: Array) -> Array:
        """``E = mu (sum_m W_m F_m)`` ``[L, N]``."""
        total = np.zeros_like(Q)
        for weight, matrix, left, right in self._terms:
            total += _times("weight", weight, left * matrix.apply(right * Q))
        if self._mu.ndim == 0:  # mu = c [l != l']
            total = total.sum(axis=0) - total
        return _times("compatibility", self._mu, total)


def _times(name: str, matrix: Array, values: Array) -> Array:
    """Matrix times values ``[L, N]``; the matrix is a number (times 1), a diagonal ``[L]`` or ``[L, L]``."""
    L = len(values)
    if matrix.shape not in ((), (L,), (L, L)):
        raise ValueError(f"{name}: must be a number, [{L}] or [{L}, {L}], got shape {matrix.shape}")
    product: Array = matrix @ values if matrix.ndim == 2 else matrix.reshape(-1, 1) * values
    return product


def softmax(scores: Array) -> Array:
    """``exp(scores) / Z`` over the labels, scores ``[L, N]``."""
    p: Array = np.exp(scores - scores.max(axis=0))
    p /= p.sum(axis=0)
    return p


def mean_field(
    unary: ArrayLike,
    kernels: Iterable[Sequence[Any]] | Pairwise,
    compatibility: ArrayLike = "potts",
    iterations: int = 5,
    *,
    damping: float = 0.0,
    tol: float | None = None,
    self_message: bool = True,
    initial: ArrayLike | None = None,
    on_iteration: Callable[[int, Array], None] | None = None,
) -> Array:
    """Mean field: algorithm 1 of [1]. Returns Q, float64 ``[L, N]``.

    Parameters
    ----------
    unary : ``[L, N]`` energies, -log p
    kernels : list of (features ``[N, d]``, weight, normalization), see `Kernel`; or a `Pairwise`, which
        brings its own compatibility and self_message
    compatibility : "potts", a number c (c [l != l']), or mu: its diagonal ``[L]`` or all of it ``[L, L]``
        (row: own label; not symmetrised)
    iterations : at most this many
    damping : a in [0, 1): Q <- a Q_old + (1 - a) Q_new, with Q_new = softmax(-U - E)
    tol : stop after an iteration with max |Q_new - Q_old| < tol
    self_message : False leaves out j = i
    initial : Q to start from ``[L, N]``; None: softmax(-U)
    on_iteration : called with (t, Q after t iterations), t = 1, 2, ...; may keep Q
    """
    U = np.asarray(unary, dtype=np.float64)
    if U.ndim != 2:
        raise ValueError(f"unary: must have shape [L, N], got shape {U.shape}")
    pairwise = kernels if isinstance(kernels, Pairwise) else Pairwise(kernels, compatibility, self_message)
    Q = softmax(-U) if initial is None else np.array(initial, dtype=np.float64)
    for t in range(1, iterations + 1):
        new = softmax(-U - pairwise(Q))
        change = np.abs(new - Q).max(initial=0.0)
        Q = damping * Q + (1.0 - damping) * new
        if on_iteration is not None:
            on_iteration(t, Q)
        if tol is not None and change < tol:
            break
    return Q


def free_energy(
    unary: ArrayLike,
    Q: ArrayLike,
    kernels: Iterable[Sequence[Any]] | Pairwise,
    compatibility: ArrayLike = "potts",
    *,
    self_message: bool = True,
) -> float:
    """Variational free energy ``sum Q (U + log Q) + 1/2 sum Q E(Q)``, sums over points and labels.

    This is KL(Q || P) - log Z as in [2], but for the self-message; the 1/2 counts each pair once. Where every
    mu W_m and K^_m is symmetric, `mean_field` is at rest exactly where this is stationary, and a sufficiently
    damped step never increases it.
    """
    U, q = np.asarray(unary, dtype=np.float64), np.asarray(Q, dtype=np.float64)
    pairwise = kernels if isinstance(kernels, Pairwise) else Pairwise(kernels, compatibility, self_message)
    log_q = np.log(np.where(q > 0.0, q, 1.0))  # 0 log 0 = 0
    return float(np.sum(q * (U + log_q)) + 0.5 * np.sum(q * pairwise(q)))
