"""The engine's filters as torch operators: schemas, CPU kernels, fake kernels and gradients.

Everything that knows how tensors become the engine's arrays is in this file, for `_mean_field_ops`, too.
Shapes: B images of n points each, values ``[B, C, n]``, features ``[B, n, d]``. The lattices of a batch, one per
image, travel as one: their barycentric weights, the only array with a gradient, and a list of five index arrays
(numbers counted within the image).

Lists of tensors name kernels in order; an empty tensor stands for "none".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densecrf import _native
from densecrf.numerics import METHODS
from densecrf.spatial import Grid
from densecrf.terms import power_of

INDEX_ARRAYS = 5  # simplex, simplex_vertices, chains, chain_starts, sizes; on CUDA those of _cuda_ops
MAX_DIMS = _native.MAX_DIMS

_native.keep_memory(2 << 30)  # a training step wants the same large blocks as the one before


def thread_count() -> int:
    return _native.threads(torch.get_num_threads())


def array_of(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().numpy()


def vector_of(tensor: Tensor) -> Any:
    return array_of(tensor).reshape(-1) if tensor.numel() else None


def bandwidths_of(sigma: Tensor) -> tuple[float, ...]:
    numbers = tuple(sigma.tolist())
    if not all(0 < s < np.inf for s in numbers):
        raise ValueError(f"sigma: must be positive and finite, got {list(numbers)}")
    return numbers


def grid_of(sigma: Tensor, shape: Sequence[int]) -> Grid:
    return Grid(shape, bandwidths_of(sigma))


def dtype_of(tensor: Tensor) -> np.dtype[Any]:
    return np.dtype(np.float64 if tensor.dtype == torch.float64 else np.float32)


def native_ops(tensor: Tensor) -> Any:
    return _native.ops(dtype_of(tensor))


def _gradient(compute: Callable[[], Tensor], like: Tensor) -> Tensor:
    """A gradient; NaN where what comes in is not finite, as loss scaling (torch.amp) counts on."""
    try:
        return compute()
    except ValueError as error:
        if not _native.is_not_finite(error):
            raise
        return torch.full_like(like, torch.nan, memory_format=torch.contiguous_format)


def lattice_of(weights: Tensor, index: Sequence[Tensor], method: str) -> tuple[Any, ...]:
    """A lattice as the engine takes it."""
    simplex, *others = index
    dims = weights.shape[-1] - 1
    how = METHODS[method](dims, weights.shape[1])
    arrays = simplex.reshape(-1), weights.reshape(-1, dims + 1), *others
    return (*map(array_of, arrays), how.blur, how.alpha)


def operator(name: str) -> Any:
    """Register a function as the operator ``densecrf::name`` and its CPU kernel; `_cuda_ops` has those for CUDA."""
    return torch.library.custom_op(f"densecrf::{name}", mutates_args=(), device_types="cpu")


# ---- building a lattice ----------------------------------------------------------------------------------------


@operator("lattice_build")
def lattice_build(features: Tensor, method: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Build the lattice of features ``[B, n, d]``; returns the weights ``[B, n, d + 1]``, then the index arrays."""
    images, points, dims = features.shape
    how = METHODS[method](dims, points)
    with _native.speaking_of("image or features"):
        simplex, weights, simplex_vertices, chains, chain_starts, sizes = native_ops(features).lattice_build(
            array_of(features), how.scale, how.pad_origin, how.bridges, thread_count()
        )
    return (
        torch.from_numpy(weights).view(images, points, dims + 1),
        torch.from_numpy(simplex).view(images, points),
        torch.from_numpy(simplex_vertices),
        torch.from_numpy(chains),
        torch.from_numpy(chain_starts),
        torch.from_numpy(sizes),
    )


@lattice_build.register_fake
def _(features: Tensor, method: str) -> tuple[Tensor, ...]:
    images, points, dims = features.shape
    context = torch.library.get_ctx()
    if features.device.type == "cuda":
        vertices, corners = context.new_dynamic_size(), dims + 1
        return (
            features.new_empty((images, points, corners)),
            features.new_empty((images, points, corners), dtype=torch.int32),
            features.new_empty((images * points * corners,), dtype=torch.int32),
            features.new_empty((vertices + 1,), dtype=torch.int32),
            features.new_empty((corners, vertices, 2), dtype=torch.int32),
            features.new_empty((0,), dtype=torch.int64),
        )
    simplices, chained = context.new_dynamic_size(), context.new_dynamic_size()
    return (
        features.new_empty((images, points, dims + 1)),
        features.new_empty((images, points), dtype=torch.int32),
        features.new_empty((simplices, dims + 1), dtype=torch.int32),
        features.new_empty((chained,), dtype=torch.int32),
        features.new_empty((images, dims + 2), dtype=torch.int64),
        features.new_empty((images, 2), dtype=torch.int64),
    )


@operator("lattice_features_grad")
def lattice_features_grad(features: Tensor, grad_weights: Tensor, method: str) -> Tensor:
    """Gradient ``[B, n, d]`` of the features from that of the weights; exact between two walls of a simplex."""
    how = METHODS[method](features.shape[2], features.shape[1])
    grad = native_ops(features).lattice_features_grad(
        array_of(features), how.scale, how.pad_origin, array_of(grad_weights), thread_count()
    )
    return torch.from_numpy(grad)


@lattice_features_grad.register_fake
def _(features: Tensor, grad_weights: Tensor, method: str) -> Tensor:
    return torch.empty_like(features, memory_format=torch.contiguous_format)


def _build_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    features, ctx.method = inputs
    ctx.save_for_backward(features)
    ctx.set_materialize_grads(False)


def _build_backward(ctx: Any, grad_weights: Tensor | None, *_: Any) -> tuple[Tensor | None, None]:
    if grad_weights is None:
        return None, None
    return lattice_features_grad(*ctx.saved_tensors, grad_weights, ctx.method), None


lattice_build.register_autograd(_build_backward, setup_context=_build_context)


# ---- filtering on a lattice ------------------------------------------------------------------------------------


@operator("lattice_filter")
def lattice_filter(values: Tensor, weights: Tensor, index: list[Tensor], method: str, transpose: bool) -> Tensor:
    """Filter values ``[B, C, n]``, or apply the transpose."""
    with _native.speaking_of("values"):
        return _lattice_filter(values, weights, index, method, transpose)


def _lattice_filter(values: Tensor, weights: Tensor, index: list[Tensor], method: str, transpose: bool) -> Tensor:
    out = native_ops(values).filter(lattice_of(weights, index, method), array_of(values), transpose, thread_count())
    return torch.from_numpy(out)


@lattice_filter.register_fake
def _(values: Tensor, weights: Tensor, index: list[Tensor], method: str, transpose: bool) -> Tensor:
    return torch.empty_like(values, memory_format=torch.contiguous_format)


@operator("lattice_filter_values_grad")
def lattice_filter_values_grad(
    grad: Tensor, weights: Tensor, index: list[Tensor], method: str, transpose: bool
) -> Tensor:
    """Gradient ``[B, C, n]`` of the values that went through the filter, or through its transpose."""
    return _gradient(lambda: _lattice_filter(grad, weights, index, method, not transpose), grad)


@lattice_filter_values_grad.register_fake
def _(grad: Tensor, weights: Tensor, index: list[Tensor], method: str, transpose: bool) -> Tensor:
    return torch.empty_like(grad, memory_format=torch.contiguous_format)


@operator("lattice_filter_weights_grad")
def lattice_filter_weights_grad(
    values: Tensor, grad: Tensor, weights: Tensor, index: list[Tensor], method: str
) -> Tensor:
    """Gradient ``[B, n, d + 1]`` of the barycentric weights, `grad` being that of the filtered values."""

    def compute() -> Tensor:
        out = native_ops(values).filter_weights_grad(
            lattice_of(weights, index, method), array_of(values), array_of(grad), thread_count()
        )
        return torch.from_numpy(out).view(weights.shape)

    return _gradient(compute, weights)


@lattice_filter_weights_grad.register_fake
def _(values: Tensor, grad: Tensor, weights: Tensor, index: list[Tensor], method: str) -> Tensor:
    return torch.empty_like(weights, memory_format=torch.contiguous_format)


def _filter_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, weights, index, ctx.method, ctx.transpose = inputs
    ctx.save_for_backward(values, weights, *index)


def _filter_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    values, weights, *index = ctx.saved_tensors
    wants_values, wants_weights = ctx.needs_input_grad[:2]
    how = index, ctx.method, ctx.transpose
    grad_values = lattice_filter_values_grad(grad, weights, *how) if wants_values else None
    grad_weights = None
    if wants_weights:
        pair = (grad, values) if ctx.transpose else (values, grad)
        grad_weights = lattice_filter_weights_grad(*pair, weights, index, ctx.method)
    return grad_values, grad_weights, [None] * len(index), None, None


lattice_filter.register_autograd(_filter_backward, setup_context=_filter_context)


# ---- the spatial Gaussian --------------------------------------------------------------------------------------


@operator("grid_filter")
def grid_filter(values: Tensor, sigma: Tensor, shape: list[int]) -> Tensor:
    """Filter values ``[B, C, n]`` with the Gaussian of bandwidths `sigma`, in pixels, one per axis of `shape`."""
    with _native.speaking_of("values"):
        return _grid_filter(values, grid_of(sigma, shape))


def _grid_filter(values: Tensor, grid: Grid) -> Tensor:
    array = array_of(values)
    return torch.from_numpy(native_ops(values).grid_filter(grid.native(array.dtype), array, thread_count()))


@grid_filter.register_fake
def _(values: Tensor, sigma: Tensor, shape: list[int]) -> Tensor:
    return torch.empty_like(values, memory_format=torch.contiguous_format)


@operator("grid_filter_values_grad")
def grid_filter_values_grad(grad: Tensor, sigma: Tensor, shape: list[int]) -> Tensor:
    """Gradient ``[B, C, n]`` of the values: the filter is its own transpose."""
    return _gradient(lambda: _grid_filter(grad, grid_of(sigma, shape)), grad)


@grid_filter_values_grad.register_fake
def _(grad: Tensor, sigma: Tensor, shape: list[int]) -> Tensor:
    return torch.empty_like(grad, memory_format=torch.contiguous_format)


@operator("grid_filter_sigma_grad")
def grid_filter_sigma_grad(values: Tensor, grad: Tensor, sigma: Tensor, shape: list[int]) -> Tensor:
    """Gradient of the bandwidths; of what is computed, so the taps' own derivative."""
    slopes = grid_of(sigma, shape).slopes()
    sums = [(_grid_filter(values, slope) * grad).sum(dtype=torch.float64) for slope in slopes]
    return torch.stack(sums).to(sigma.dtype)


@grid_filter_sigma_grad.register_fake
def _(values: Tensor, grad: Tensor, sigma: Tensor, shape: list[int]) -> Tensor:
    return torch.empty_like(sigma)


def _grid_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, sigma, ctx.shape = inputs
    ctx.save_for_backward(values, sigma)


def _grid_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    values, sigma = ctx.saved_tensors
    wants_values, wants_sigma = ctx.needs_input_grad[:2]
    return (
        grid_filter_values_grad(grad, sigma, ctx.shape) if wants_values else None,
        grid_filter_sigma_grad(values, grad, sigma, ctx.shape) if wants_sigma else None,
        None,
    )


grid_filter.register_autograd(_grid_backward, setup_context=_grid_context)


# ---- normalisation ---------------------------------------------------------------------------------------------
#
# Not by torch's own element-wise operators: their threads spin on for milliseconds, in which the engine's have no core
# (forward pass of standard kernels, 500 x 375: 105 ms with them, 90 without).


def _sums_grad(grad: Tensor, norm: Tensor, power: float) -> Any:
    """Gradient of the sums: norm = sums ** power, and 1 - 1 / power is 3 or 2."""
    factors = array_of(norm)
    with np.errstate(over="ignore", invalid="ignore"):  # what comes in may be infinite (loss scaling)
        out = power * array_of(grad) * factors * factors
        return out * factors if power == -0.5 else out


def _ones(weights: Tensor, mask: Tensor) -> Any:
    """What the sums are those of, ``[B, 1, n]``."""
    images, points, _ = weights.shape
    return array_of(mask)[:, None] if mask.numel() else np.ones((images, 1, points), dtype_of(weights))


@operator("lattice_norm")
def lattice_norm(weights: Tensor, index: list[Tensor], mask: Tensor, method: str, power: float) -> Tensor:
    """Factors ``D ** power`` ``[B, n]`` of a normalisation; power -1 or -1/2.

    D = K 1, or ``mask * (K mask)`` for a mask ``[B, n]`` of ones and zeros; the factor is 0 where D is.
    """
    given = array_of(mask) if mask.numel() else None
    with _native.speaking_of("features"):
        lattice = lattice_of(weights, index, method)
        factors = native_ops(weights).lattice_norm(lattice, given, power, thread_count())
    return torch.from_numpy(factors if given is None else np.multiply(factors, given, out=factors))


@lattice_norm.register_fake
def _(weights: Tensor, index: list[Tensor], mask: Tensor, method: str, power: float) -> Tensor:
    return weights.new_empty(weights.shape[:2])


@operator("lattice_norm_weights_grad")
def lattice_norm_weights_grad(
    grad: Tensor, norm: Tensor, weights: Tensor, index: list[Tensor], mask: Tensor, method: str, power: float
) -> Tensor:
    """Gradient ``[B, n, d + 1]`` of the barycentric weights."""

    def compute() -> Tensor:
        back = _sums_grad(grad, norm, power)[:, None]
        lattice = lattice_of(weights, index, method)
        out = native_ops(weights).filter_weights_grad(lattice, _ones(weights, mask), back, thread_count())
        return torch.from_numpy(out).view(weights.shape)

    return _gradient(compute, weights)


@lattice_norm_weights_grad.register_fake
def _(grad: Tensor, norm: Tensor, weights: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(weights, memory_format=torch.contiguous_format)


def _lattice_norm_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weights, index, mask, ctx.method, ctx.power = inputs
    ctx.save_for_backward(output, weights, mask, *index)


def _lattice_norm_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    norm, weights, mask, *index = ctx.saved_tensors
    grad_weights = lattice_norm_weights_grad(grad, norm, weights, index, mask, ctx.method, ctx.power)
    return grad_weights, [None] * len(index), None, None, None


lattice_norm.register_autograd(_lattice_norm_backward, setup_context=_lattice_norm_context)


@operator("grid_norm")
def grid_norm(sigma: Tensor, mask: Tensor, shape: list[int], power: float) -> Tensor:
    """The same of the spatial Gaussian; ``[1, n]`` for an empty mask."""
    grid = grid_of(sigma, shape)
    if not mask.numel():
        return torch.from_numpy(grid.ones(np.dtype(dtype_of(sigma)), power)[None])
    factors = power_of(_grid_sums(grid, sigma, mask), power)
    return torch.from_numpy(np.multiply(factors, array_of(mask), out=factors))


def _grid_sums(grid: Grid, sigma: Tensor, mask: Tensor) -> Any:
    if not mask.numel():
        return grid.ones(np.dtype(dtype_of(sigma)))[None]
    return native_ops(sigma).grid_filter(grid.native(dtype_of(sigma)), array_of(mask)[:, None], thread_count())[:, 0]


@grid_norm.register_fake
def _(sigma: Tensor, mask: Tensor, shape: list[int], power: float) -> Tensor:
    return mask.new_empty(mask.shape if mask.numel() else (1, prod(shape)))


@operator("grid_norm_sigma_grad")
def grid_norm_sigma_grad(
    grad: Tensor, norm: Tensor, sigma: Tensor, mask: Tensor, shape: list[int], power: float
) -> Tensor:
    """Gradient of the bandwidths."""
    back = _sums_grad(grad, norm, power)
    slopes = grid_of(sigma, shape).slopes()
    with np.errstate(over="ignore", invalid="ignore"):  # not np.vdot: BLAS threads spin on for tens of milliseconds
        sums = [(_grid_sums(slope, sigma, mask) * back).sum(dtype=np.float64) for slope in slopes]
    return torch.tensor(sums, dtype=sigma.dtype)


@grid_norm_sigma_grad.register_fake
def _(grad: Tensor, norm: Tensor, sigma: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(sigma)


def _grid_norm_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    sigma, mask, ctx.shape, ctx.power = inputs
    ctx.save_for_backward(output, sigma, mask)


def _grid_norm_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return grid_norm_sigma_grad(grad, *ctx.saved_tensors, ctx.shape, ctx.power), None, None, None


grid_norm.register_autograd(_grid_norm_backward, setup_context=_grid_norm_context)
