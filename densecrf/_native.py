"""The door to the C++ engine: precision, threads, and its errors in words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from densecrf import _C

if TYPE_CHECKING:
    from densecrf._C import _Cuda, _CudaOps, _Ops

MAX_DIMS: int = _C.MAX_DIMS
cuda: _Cuda | None = getattr(_C, "cuda", None)  # what is there in a build with CUDA


def ops(dtype: np.dtype[Any]) -> _Ops:
    """The engine's functions for float32 or float64."""
    return _C.f64 if dtype == np.float64 else _C.f32


def cuda_ops(dtype: np.dtype[Any]) -> _CudaOps:
    """The functions for CUDA, for float32 or float64.

    Raises
    ------
    NotImplementedError
        This build has none.

    """
    if cuda is None:
        raise NotImplementedError(
            "densecrf was built without CUDA, got tensors on cuda: move them with .cpu(), or build densecrf where "
            "there is an nvcc"
        )
    return cuda.f64 if dtype == np.float64 else cuda.f32


def check_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """The dtype to compute in.

    Raises
    ------
    TypeError
        It is neither float32 nor float64.

    """
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = np.dtype(object)
    if found not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"dtype: must be float32 or float64, got {dtype!r}")
    return found.newbyteorder("=")


def threads(num_threads: int | None = None) -> int:
    """Threads to use: as asked, else DENSECRF_NUM_THREADS, else the cores that this process may run on."""
    if num_threads is None:
        text = os.environ.get("DENSECRF_NUM_THREADS", "")
        if text:
            return _count("DENSECRF_NUM_THREADS", int(text) if text.isdecimal() else text)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(cores, _C.MAX_THREADS)
    return _count("num_threads", num_threads)


def _count(name: str, value: Any) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name}: must be at least 1, got {value}")
    return min(int(value), _C.MAX_THREADS)


def keep_memory(nbytes: int) -> None:
    """Keep so many bytes of memory at most, of past calls and arrays, for later ones; 1 GiB unless told."""
    _C.keep_memory(nbytes)


def info() -> dict[str, Any]:
    """What this build can use: SIMD level, threads, CUDA."""
    return {"simd": _C.simd(), "threads": threads(), "cuda": cuda is not None}


def is_not_finite(error: ValueError) -> bool:
    """Whether the engine complains of NaN or infinity."""
    return str(error) == "not finite"


@contextmanager
def speaking_of(name: str) -> Iterator[None]:
    """Turn the engine's terse errors into sentences about the argument `name`."""
    try:
        yield
    except OverflowError as error:
        if "vertices" in str(error):
            raise ValueError(
                f"{name}: the lattice may have at most 2^31 - 1 vertices; use larger bandwidths or fewer points"
            ) from None
        raise ValueError(
            f"{name}: must span fewer than about 2^40 lattice cells; the bandwidths are too small for these values"
        ) from None
    except ValueError as error:
        if is_not_finite(error):
            raise ValueError(f"{name}: must be finite, got NaN or inf") from None
        raise
    except MemoryError:
        raise MemoryError(f"{name}: not enough memory for the filter's arrays") from None
