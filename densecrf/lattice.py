"""The permutohedral lattice (Adams, Baek & Davis 2010): fast Gaussian filtering in d dimensions."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from densecrf import _checks, _native
from densecrf.numerics import METHODS, Numerics


class Lattice:
    """A lattice built once for its points, then used to filter any number of values.

    ``filter(v)`` estimates ``sum_j exp(-|f_i - f_j|^2 / 2) v_j`` for every point i in O(N d) time. The
    lattice is plain data: read-only arrays that can be pickled, compared and saved.

    Parameters
    ----------
    features : ``[N, d]`` or ``[*spatial, d]``, finite, divided by their bandwidths; d from 1 to 64
    method : "tuned" (nearest to the exact Gaussian), "classic" (as published; pydensecrf's numbers) or "fast" (fewer
        vertices)
    dtype : "float32" or "float64", of the arithmetic and of the results
    num_threads : threads to use; None: all cores
    numerics : blur weight, scales and bridges of one's own instead of the method's

    Attributes
    ----------
    simplex : int32 ``[N]``, simplex of each point
    weights : ``[N, d + 1]``, barycentric weights by vertex remainder
    simplex_vertices : int32 ``[S, d + 1]``, vertices of each simplex that holds a point
    chains : int32, for each axis the vertices that have neighbours along it, in runs of neighbours; the last
        vertex of a run as its bitwise complement
    chain_starts : int64 ``[d + 2]``, where each axis begins in `chains`, and their total
    num_vertices : M; the filter's cost grows with N + M
    blur, alpha : weight w of the blur ``[w, 1, w]``, and the output scale

    Raises
    ------
    ValueError
        Wrong shape, NaN or inf, or features that span more than about 2^40 lattice cells.

    """

    def __init__(
        self,
        features: ArrayLike,
        method: str = "tuned",
        *,
        dtype: DTypeLike = "float32",
        num_threads: int | None = None,
        numerics: Numerics | None = None,
    ) -> None:
        self._set(method, dtype, num_threads)
        found = _checks.array("features", features)
        if found.ndim < 2 or found.shape[-1] > _native.MAX_DIMS:
            rule = f"must have shape [N, d] or [*spatial, d] with d at most {_native.MAX_DIMS}"
            raise ValueError(f"features: {rule}, got shape {found.shape}")
        self.shape: tuple[int, ...] = found.shape[:-1]
        flat = _checks.native(found.reshape(-1, found.shape[-1]), self.dtype)
        self._build(_native.ops(self.dtype).lattice_build, flat[None], numerics or METHODS[method](*flat.shape[::-1]))

    @classmethod
    def _of_image(
        cls, pixels: tuple[Any, ...], method: str, dtype: DTypeLike = "float32", num_threads: int | None = None
    ) -> Lattice:
        """The lattice of an image's features, which are never all in memory; pixels: see `Domain.pixels`."""
        self = cls.__new__(cls)
        self._set(method, dtype, num_threads)
        size, axes, _, _, channels = pixels
        if axes + len(channels) > _native.MAX_DIMS:
            raise ValueError(f"image: must have at most {_native.MAX_DIMS - axes} channels, got {len(channels)}")
        self.shape = tuple(size[3 - axes :])
        how = METHODS[method](axes + len(channels), prod(size))
        self._build(_native.ops(self.dtype).lattice_of_image, pixels, how)
        return self

    def _set(self, method: str, dtype: DTypeLike, num_threads: int | None) -> None:
        self.dtype = _native.check_dtype(dtype)
        self.num_threads = num_threads
        self.method = _checks.choice("method", method, tuple(METHODS))

    def _build(self, native: Callable[..., Any], points: Any, how: Numerics) -> None:
        with _native.speaking_of("features"):
            *arrays, chain_starts, sizes = native(
                points, how.scale, how.pad_origin, how.bridges, _native.threads(self.num_threads)
            )
        arrays.append(chain_starts[0])
        for a in arrays:
            a.flags.writeable = False
        self.simplex, self.weights, self.simplex_vertices, self.chains, self.chain_starts = arrays
        self.num_vertices = int(sizes[0, 1])
        self.blur, self.alpha = how.blur, how.alpha

    @property
    def num_points(self) -> int:
        """N."""
        return int(self.simplex.shape[0])

    @property
    def num_dims(self) -> int:
        """Dimensions d of the features."""
        return int(self.weights.shape[1] - 1)

    def filter(self, values: ArrayLike) -> NDArray[Any]:
        """Filter values ``[N]``, ``[C, N]``, ``[*spatial]`` or ``[C, *spatial]``; same shape out.

        The result is not normalised; divide by ``filter(ones)`` for a weighted mean.
        """
        return self._filter(values, transpose=False)

    def transpose_filter(self, values: ArrayLike) -> NDArray[Any]:
        """Apply the transpose of `filter`: the same with the axes blurred in reverse order.

        The lattice's filter matrix is not exactly symmetric, so gradients want this one.
        """
        return self._filter(values, transpose=True)

    def self_weights(self) -> NDArray[Any]:
        """Diagonal of the filter matrix ``[N]``: what each point sends to itself (exactly: 1)."""
        ops = _native.ops(self.dtype)
        diagonal: NDArray[Any] = ops.lattice_self(self._native(), _native.threads(self.num_threads))
        return diagonal

    def _filter(self, values: ArrayLike, transpose: bool) -> NDArray[Any]:
        found = _checks.array("values", values)
        n = self.num_points
        single = found.shape in ((n,), self.shape)
        if not single and found.shape[1:] not in ((n,), self.shape):
            shapes = f"[{n}] or [C, {n}]" if len(self.shape) == 1 else f"{self.shape} or [C, *{self.shape}]"
            raise ValueError(f"values: must have shape {shapes}, got shape {found.shape}")
        flat = _checks.native(found.reshape(-1, n), self.dtype)
        with _native.speaking_of("values"):
            out: NDArray[Any] = _native.ops(self.dtype).filter(
                self._native(), flat[None], transpose, _native.threads(self.num_threads)
            )
        return out.reshape(found.shape)

    def _norm(self, mask: NDArray[Any] | None, power: float) -> NDArray[Any]:
        """``filter(mask) ** power`` ``[N]``, power 1, -1 or -1/2; mask: None for ones. 0 where nobody is in reach."""
        ops = _native.ops(self.dtype)
        factors: NDArray[Any] = ops.lattice_norm(self._native(), mask, power, _native.threads(self.num_threads))
        return factors[0]

    def _native(self) -> tuple[Any, ...]:
        arrays = self.simplex, self.weights, self.simplex_vertices, self.chains, self.chain_starts[None]
        sizes = np.array([[len(self.simplex_vertices), self.num_vertices]])
        return (*arrays, sizes, self.blur, self.alpha)

    def __repr__(self) -> str:
        return (
            f"Lattice({self.num_points} points, {self.num_dims} dimensions, {self.num_vertices} vertices, "
            f"{self.method}, {np.dtype(self.dtype).name})"
        )
