"""The operators' kernels on CUDA: the engine's functions on device pointers and the current stream.

All is queued on the stream that is current on the tensors' device, and nothing waits for it, but for the numbers of a
`sigma` that lives on the device. What is not finite spreads to the results instead of raising an error.

Index arrays of a batch of lattices (`csrc/cuda/device.h`), which are one lattice here: corner ``[B, n, d + 1]``, sorted
``[B * n * (d + 1)]``, starts ``[M + 1]``, neighbours ``[d + 1, M, 2]``, and an empty one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, reduce
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from densecrf import _native, _ops
from densecrf.numerics import METHODS
from densecrf.spatial import Grid

KERNELS: dict[Any, Callable[..., Any]] = {}  # by operator


def on_cuda(op: Any) -> Any:
    """Register the operator's kernel for tensors on CUDA."""

    def decorate(function: Any) -> Any:
        op.register_kernel("cuda")(function)
        KERNELS[op] = function
        return function

    return decorate


def checked(name: str, tensor: Tensor, like: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """The tensor, contiguous; what the engine gets is an address, so here is where mistakes are found."""
    wanted = tuple(shape), dtype or like.dtype, like.device
    got = tuple(tensor.shape), tensor.dtype, tensor.device
    if got != wanted:
        names = "{0[1]} {0[0]} on {0[2]}"
        raise ValueError(f"{name}: must be {names.format(wanted)}, got {names.format(got)}")
    return tensor.contiguous()


def queue(name: str, like: Tensor, sizes: Sequence[Any], *others: Any) -> None:
    """Queue a function of the engine on the current stream of a tensor's device, in a workspace for this call.

    `sizes` come first and decide how large the workspace is. Tensors stand for their addresses.
    """
    functions = _native.cuda_ops(_ops.dtype_of(like))
    with torch.cuda.device(like.get_device()):  # -1, none, for a CPU tensor
        stream = torch.cuda.current_stream(like.device).cuda_stream if like.is_cuda else 0  # 0: emulated
        nbytes = getattr(functions, f"{name}_workspace")(*_addresses(sizes))
        workspace = torch.empty(nbytes, dtype=torch.uint8, device=like.device)
        getattr(functions, name)(*_addresses((*sizes, *others, workspace)), stream)


def _addresses(given: Any) -> Any:
    if isinstance(given, Tensor):
        return given.data_ptr()
    return tuple(map(_addresses, given)) if isinstance(given, (list, tuple)) else given


# ---- filtering on a lattice ------------------------------------------------------------------------------------


def lattice_of(weights: Tensor, index: Sequence[Tensor], method: str) -> tuple[Any, ...]:
    """A lattice as the engine takes it."""
    corner, by_vertex, starts, neighbours, _ = index
    images, points, corners = weights.shape
    vertices = starts.shape[0] - 1
    shapes = weights.shape, (weights.numel(),), (vertices + 1,), (corners, vertices, 2)
    arrays = [
        checked("lattice", array, weights, shape, torch.int32)
        for array, shape in zip((corner, by_vertex, starts, neighbours), shapes, strict=True)
    ]
    how = METHODS[method](corners - 1, points)
    return images, points, corners - 1, vertices, weights.contiguous(), *arrays, how.blur, how.alpha


def filtered(values: Tensor, weights: Tensor, index: Sequence[Tensor], method: str, transpose: bool = False) -> Tensor:
    """Filter values ``[B, C, n]`` on a lattice."""
    images, points, _ = weights.shape
    channels = values.shape[1]
    given = checked("values", values, weights, (images, channels, points))
    out = torch.empty_like(given)
    queue("filter", given, (lattice_of(weights, index, method), channels), given, out, transpose)
    return out


@on_cuda(_ops.lattice_filter)
def lattice_filter(values: Tensor, weights: Tensor, index: list[Tensor], method: str, transpose: bool) -> Tensor:
    """As in `_ops`."""
    return filtered(values, weights, index, method, transpose)


@on_cuda(_ops.lattice_filter_values_grad)
def lattice_filter_values_grad(
    grad: Tensor, weights: Tensor, index: list[Tensor], method: str, transpose: bool
) -> Tensor:
    """As in `_ops`."""
    return filtered(grad, weights, index, method, not transpose)


# ---- the spatial Gaussian --------------------------------------------------------------------------------------


class DeviceGrid(NamedTuple):
    """A `Grid` on a device."""

    native: tuple[Any, ...]  # sizes, spacings, radii, taps
    lines: list[Tensor]  # the filter of ones is the product of these, one per axis


_in_graphs: list[Any] = []  # what the addresses in CUDA graphs belong to


def grids_of(sigma: Tensor, shape: Sequence[int], like: Tensor) -> list[DeviceGrid]:
    """The spatial Gaussian, then its slope with respect to each bandwidth, in the dtype and on the device of `like`."""
    grids = _grids(_ops.bandwidths_of(sigma), tuple(shape), like.dtype, like.device)
    if like.is_cuda and torch.cuda.is_current_stream_capturing():
        _in_graphs.append(grids)
    return grids


@lru_cache(maxsize=64)  # bandwidths that are not learned come again in every call, and their taps need no copy then
def _grids(
    sigma: tuple[float, ...], shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> list[DeviceGrid]:
    grid = Grid(shape, sigma)
    return [_on_device(each, dtype, device) for each in (grid, *grid.slopes())]


def _on_device(grid: Grid, dtype: torch.dtype, device: torch.device) -> DeviceGrid:
    sizes, spacings, taps = grid.native(np.dtype(np.float64))
    lines = [axis.sums(np.ones(axis.size)) for axis in grid.axes]
    radii = [len(axis) - 1 for axis in taps]
    return DeviceGrid(
        (sizes, spacings, radii, [torch.from_numpy(axis).to(device, dtype) for axis in taps]),
        [torch.from_numpy(line).to(device, dtype) for line in lines],
    )


def grid_filtered(values: Tensor, grid: DeviceGrid) -> Tensor:
    """Filter values ``[B, C, n]`` on a grid."""
    images, channels, _ = values.shape
    given = checked("values", values, grid.native[3][0], (images, channels, prod(grid.native[0])))
    out = torch.empty_like(given)
    queue("grid_filter", given, (grid.native, images, channels), given, out)
    return out


def _like_sigma(sums: Sequence[Tensor], sigma: Tensor) -> Tensor:
    return torch.stack(list(sums)).to(sigma)


@on_cuda(_ops.grid_filter)
def grid_filter(values: Tensor, sigma: Tensor, shape: list[int]) -> Tensor:
    """As in `_ops`."""
    return grid_filtered(values, grids_of(sigma, shape, values)[0])


@on_cuda(_ops.grid_filter_values_grad)
def grid_filter_values_grad(grad: Tensor, sigma: Tensor, shape: list[int]) -> Tensor:
    """As in `_ops`."""
    return grid_filtered(grad, grids_of(sigma, shape, grad)[0])


@on_cuda(_ops.grid_filter_sigma_grad)
def grid_filter_sigma_grad(values: Tensor, grad: Tensor, sigma: Tensor, shape: list[int]) -> Tensor:
    """As in `_ops`."""
    _, *slopes = grids_of(sigma, shape, values)
    return _like_sigma([(grid_filtered(values, slope) * grad).sum(dtype=torch.float64) for slope in slopes], sigma)


# ---- normalisation ---------------------------------------------------------------------------------------------


def _factors(sums: Tensor, mask: Tensor, power: float) -> Tensor:
    """As `_ops._factors`, for an empty mask, too."""
    found = sums.clamp_min(_ops.UNREACHED)
    found = found.rsqrt() if power == -0.5 else found.reciprocal()
    found = found * (sums > _ops.UNREACHED)
    return found * mask if mask.numel() else found


def _sums_grad(grad: Tensor, norm: Tensor, power: float) -> Tensor:
    out = power * grad * norm * norm
    return out * norm if power == -0.5 else out


@on_cuda(_ops.lattice_norm)
def lattice_norm(weights: Tensor, index: list[Tensor], mask: Tensor, method: str, power: float) -> Tensor:
    """As in `_ops`."""
    images, points, _ = weights.shape
    ones = mask.unsqueeze(1) if mask.numel() else weights.new_ones((images, 1, points))
    return _factors(filtered(ones, weights, index, method).squeeze(1), mask, power)


def _grid_sums(grid: DeviceGrid, mask: Tensor) -> Tensor:
    if mask.numel():
        return grid_filtered(mask.unsqueeze(1), grid).squeeze(1)
    return reduce(lambda outer, line: torch.outer(outer, line).view(-1), grid.lines).unsqueeze(0)


@on_cuda(_ops.grid_norm)
def grid_norm(sigma: Tensor, mask: Tensor, shape: list[int], power: float) -> Tensor:
    """As in `_ops`."""
    return _factors(_grid_sums(grids_of(sigma, shape, mask)[0], mask), mask, power)


@on_cuda(_ops.grid_norm_sigma_grad)
def grid_norm_sigma_grad(
    grad: Tensor, norm: Tensor, sigma: Tensor, mask: Tensor, shape: list[int], power: float
) -> Tensor:
    """As in `_ops`."""
    back = _sums_grad(grad, norm, power)
    _, *slopes = grids_of(sigma, shape, mask)
    return _like_sigma([(_grid_sums(slope, mask) * back).sum(dtype=torch.float64) for slope in slopes], sigma)
