"""The C++ engine (csrc/python/).

Arrays must be C-contiguous and of the dtype named here; T is float32 in `f32` and float64 in `f64`. Errors
are terse: `_native.speaking_of` makes sentences of them.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, type_check_only

import numpy as np
from numpy.typing import NDArray

__version__: str
MAX_DIMS: int
MAX_THREADS: int

def simd() -> str:
    """SIMD level in use: "baseline", "avx2" or "avx512"."""

def keep_memory(nbytes: int, /) -> None:
    """Keep so much memory of past calls and arrays at most for later ones; 512 MiB unless told."""

_Array: TypeAlias = NDArray[Any]  # of T, where nothing else is said
_Lattice: TypeAlias = tuple[Any, ...]  # see Lattice._native
_Lattices: TypeAlias = tuple[
    NDArray[np.int32],  # simplex
    _Array,  # weights
    NDArray[np.int32],  # simplex_vertices
    NDArray[np.int32],  # chains
    NDArray[np.int64],  # chain_starts
    NDArray[np.int64],  # sizes
]
_Image: TypeAlias = tuple[  # see Domain.pixels
    Sequence[int],  # D, H, W
    int,  # number of trailing axes that become positions
    Sequence[float],  # bandwidths of x, y, z
    _Array | None,  # uint8 or T
    Sequence[float],  # bandwidths of channels
]
_Grid: TypeAlias = tuple[Any, ...]  # see Grid.native

@type_check_only
class _Ops(Protocol):
    def empty(self, shape: Sequence[int], /) -> _Array: ...  # from kept memory, see keep_memory
    def make_features(self, image: _Image, threads: int, /) -> _Array: ...
    def lattice_build(  # features: [B, N, d]
        self, features: _Array, scale: float, pad_origin: bool, bridges: bool, threads: int, /
    ) -> _Lattices: ...
    def lattice_of_image(
        self, image: _Image, scale: float, pad_origin: bool, bridges: bool, threads: int, /
    ) -> _Lattices: ...
    def lattice_self(self, lattice: _Lattice, threads: int, /) -> _Array: ...
    def lattice_features_grad(
        self, features: _Array, scale: float, pad_origin: bool, grad_weights: _Array, threads: int, /
    ) -> _Array: ...
    # values: [B, C, N]
    def filter(self, lattice: _Lattice, values: _Array, transpose: bool, threads: int, /) -> _Array: ...
    def lattice_norm(self, lattice: _Lattice, mask: _Array | None, power: float, threads: int, /) -> _Array: ...
    def filter_weights_grad(self, lattice: _Lattice, values: _Array, grad: _Array, threads: int, /) -> _Array: ...
    def grid_filter(self, grid: _Grid, values: _Array, threads: int, /) -> _Array: ...
    def exact_filter(
        self, features: _Array, values: _Array, self_message: bool, begin: int, end: int, threads: int, /
    ) -> _Array: ...
    def mean_field(
        self,
        unary: _Array,  # [L, N]
        unary_sign: float,
        initial: _Array | None,
        kernels: list[Any],  # of (lattice or None, grid or None, norm_in, norm_out, self, coupling)
        potts: bool,  # the couplings leave out the constant of a Potts model
        iterations: int,
        damping: float,
        tolerance: float,
        mask: NDArray[np.uint8] | None,
        free_energy: bool,
        row_step: int,
        row_points: int,
        float16: bool,
        threads: int,
        progress: Callable[[int], object] | None,
        /,
    ) -> tuple[_Array, int, NDArray[np.float64] | None]: ...
    def mean_field_states(self, logits: _Array, kernels: list[Any], /) -> int: ...
    def mean_field_train(
        self,
        logits: _Array,  # [B, L, N]
        initial: _Array | None,
        kernels: list[Any],
        iterations: int,
        output: bool,
        states: bool,
        keep_every: int,
        threads: int,
        /,
    ) -> tuple[_Array | None, _Array | None, _Array | None]: ...  # scores, states, kept Q
    def mean_field_backward(
        self,
        grad: _Array,
        logits: _Array,
        initial: _Array | None,
        kernels: list[Any],
        probes: list[Any],
        probe_of: list[int],
        wanted: list[tuple[int, bool, bool, bool]],  # per kernel: coupling, weights, norm_in, norm_out
        iterations: int,
        states: _Array,
        threads: int,
        /,
    ) -> tuple[_Array, _Array | None, list[tuple[_Array | None, ...]], _Array]: ...

f32: _Ops
f64: _Ops

# The functions of csrc/cuda/device.h by their names: arrays on the device and the stream are their addresses, structs
# are tuples of their members. They queue work on the stream and wait for nothing. RuntimeError says what the CUDA
# runtime complains of.
@type_check_only
class _CudaOps(Protocol):
    def __getattr__(self, name: str, /) -> Any: ...

@type_check_only
class _Cuda(Protocol):
    emulated: bool  # by the CPU, for tests; arrays are those of the CPU then
    f32: _CudaOps
    f64: _CudaOps

cuda: _Cuda  # only in a build with CUDA
