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

from densecrf import _features_ops, _mean_field_ops, _native, _ops
from densecrf.numerics import METHODS
from densecrf.spatial import Grid
from densecrf.terms import UNREACHED

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


def queue(name: str, like: Tensor, *arguments: Any) -> None:
    """Queue a function of the engine on the current stream of a tensor's device; tensors stand for their addresses."""
    functions = _native.cuda_ops(_ops.dtype_of(like))
    with torch.cuda.device(like.get_device()):  # -1, none, for a CPU tensor
        stream = torch.cuda.current_stream(like.device).cuda_stream if like.is_cuda else 0  # 0: emulated
        getattr(functions, name)(*addresses(arguments), stream)


def workspace_of(name: str, like: Tensor, *sizes: Any) -> Tensor:
    """The memory that a function wants for a call with these first arguments."""
    functions = _native.cuda_ops(_ops.dtype_of(like))
    with torch.cuda.device(like.get_device()):
        nbytes = getattr(functions, f"{name}_workspace")(*addresses(sizes))
    return torch.empty(nbytes, dtype=torch.uint8, device=like.device)


def queue_in_workspace(name: str, like: Tensor, sizes: Sequence[Any], *others: Any) -> None:
    """Queue a function whose workspace, for this call only, is as large as the first arguments ask for."""
    queue(name, like, *sizes, *others, workspace_of(name, like, *sizes))


def addresses(given: Any) -> Any:
    """Arguments as the engine takes them: tensors and None, also in tuples and lists, as addresses."""
    if given is None:
        return 0
    if isinstance(given, Tensor):
        return given.data_ptr()
    return type(given)(map(addresses, given)) if isinstance(given, (list, tuple)) else given


# ---- features of images ----------------------------------------------------------------------------------------


def _beside(like: Tensor, sigma: Tensor) -> Tensor:
    """Bandwidths on the device; the host need not wait, since it is done with them when the copy is queued."""
    return sigma.to(like, non_blocking=True)


def _image_request(image: Any, images: int, size: Sequence[int], sigma: Tensor, channel_sigma: Tensor) -> Any:
    return (images, tuple(size), len(sigma), len(channel_sigma), image, sigma.contiguous(), channel_sigma.contiguous())


@on_cuda(_features_ops.image_features)
def image_features(image: Tensor, sigma: Tensor, channel_sigma: Tensor, shape: list[int]) -> Tensor:
    """As in `_features_ops`."""
    images, channels, points = image.shape
    size = *[1] * (3 - len(shape)), *shape
    request = _image_request(image.contiguous(), images, size, _beside(image, sigma), _beside(image, channel_sigma))
    features = image.new_empty((images, points, len(shape) + channels))
    queue("image_features", image, request, features)
    return features


@on_cuda(_features_ops.image_features_grad)
def image_features_grad(
    grad: Tensor, features: Tensor, sigma: Tensor, channel_sigma: Tensor, wants_image: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """As in `_features_ops`."""
    images, points, _ = features.shape
    image = features.new_empty((images, len(channel_sigma), points) if wants_image else 0)
    here = _beside(features, sigma), _beside(features, channel_sigma)
    request = _image_request(None, images, (1, 1, points), *here)
    slopes = torch.empty_like(here[0]), torch.empty_like(here[1])
    to_image = image if wants_image else None
    given = checked("grad", grad, features, features.shape)
    queue_in_workspace("image_features_grad", features, (request,), features.contiguous(), given, to_image, *slopes)
    return image, slopes[0].to(sigma), slopes[1].to(channel_sigma)


# ---- building a lattice ----------------------------------------------------------------------------------------


def _build_request(features: Tensor, method: str) -> tuple[Any, ...]:
    """What the engine builds from; waits for what the features span."""
    images, points, dims = features.shape
    how = METHODS[method](dims, points)

    def spanning(low: Sequence[float], high: Sequence[float]) -> tuple[Any, ...]:
        rest = (0.0,) * (_ops.MAX_DIMS - dims)
        flags = how.pad_origin, how.bridges
        return features, images, points, dims, how.scale, *flags, (*low, *rest), (*high, *rest)

    extent = features.new_empty((2, dims))
    queue_in_workspace("build_extent", features, (spanning([0.0] * dims, [0.0] * dims),), extent)
    request = spanning(*extent.tolist())
    with _native.speaking_of("image or features"):
        _native.cuda_ops(_ops.dtype_of(features)).check_build(addresses(request))
    return request


@on_cuda(_ops.lattice_build)
def lattice_build(features: Tensor, method: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As in `_ops`, with the index arrays of this file; waits twice."""
    features = features.contiguous()
    images, points, dims = features.shape
    request = _build_request(features, method)

    def integers(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int32, device=features.device)

    weights = features.new_empty((images, points, dims + 1))
    corner, by_vertex, found = integers(*weights.shape), integers(weights.numel()), integers(2)
    workspace = workspace_of("build_vertices", features, request)
    queue("build_vertices", features, request, weights, corner, by_vertex, found, workspace)
    corners, bridges = found.tolist()
    vertices = corners + bridges
    starts, neighbours = integers(vertices + 1), integers(dims + 1, vertices, 2)
    queue("build_links", features, request, corners, bridges, starts, neighbours, workspace)
    return weights, corner, by_vertex, starts, neighbours, torch.empty(0, dtype=torch.int64, device=features.device)


@on_cuda(_ops.lattice_features_grad)
def lattice_features_grad(features: Tensor, grad_weights: Tensor, method: str) -> Tensor:
    """As in `_ops`; waits for what the features span."""
    features = features.contiguous()
    grad = torch.empty_like(features)
    given = checked("grad", grad_weights, features, (*features.shape[:2], features.shape[2] + 1))
    queue("lattice_features_grad", features, _build_request(features, method), given, grad)
    return grad


# ---- filtering on a lattice ------------------------------------------------------------------------------------


def lattice_of(weights: Tensor, index: Sequence[Tensor], method: str, bfloat16: bool = False) -> tuple[Any, ...]:
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
    return images, points, corners - 1, vertices, weights.contiguous(), *arrays, how.blur, how.alpha, bfloat16


def filtered(values: Tensor, weights: Tensor, index: Sequence[Tensor], method: str, transpose: bool = False) -> Tensor:
    """Filter values ``[B, C, n]`` on a lattice."""
    images, points, _ = weights.shape
    channels = values.shape[1]
    given = checked("values", values, weights, (images, channels, points))
    out = torch.empty_like(given)
    queue_in_workspace("filter", given, (lattice_of(weights, index, method), channels), given, out, transpose)
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


def weights_grad(values: Tensor, grad: Tensor, weights: Tensor, index: Sequence[Tensor], method: str) -> Tensor:
    """Gradient of the barycentric weights, `grad` being that of the filtered values."""
    images, points, _ = weights.shape
    shape = images, values.shape[1], points
    given = [checked(name, each, weights, shape) for name, each in (("values", values), ("grad", grad))]
    out = torch.empty_like(weights, memory_format=torch.contiguous_format)
    queue_in_workspace("filter_weights_grad", out, (lattice_of(weights, index, method), shape[1]), *given, out)
    return out


@on_cuda(_ops.lattice_filter_weights_grad)
def lattice_filter_weights_grad(
    values: Tensor, grad: Tensor, weights: Tensor, index: list[Tensor], method: str
) -> Tensor:
    """As in `_ops`."""
    return weights_grad(values, grad, weights, index, method)


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
    lines = [axis.ones.copy() for axis in grid.axes]  # tensors may be written to
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
    queue_in_workspace("grid_filter", given, (grid.native, images, channels), given, out)
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
    """``sums ** power``; 0 where nobody is in reach, and where the mask, if it is not empty, leaves a point out."""
    found = sums.clamp_min(UNREACHED)
    found = found.rsqrt() if power == -0.5 else found.reciprocal()
    found = found * (sums > UNREACHED)
    return found * mask if mask.numel() else found


def _sums_grad(grad: Tensor, norm: Tensor, power: float) -> Tensor:
    out = power * grad * norm * norm
    return out * norm if power == -0.5 else out


def _ones(weights: Tensor, mask: Tensor) -> Tensor:
    images, points, _ = weights.shape
    return mask.unsqueeze(1) if mask.numel() else weights.new_ones((images, 1, points))


@on_cuda(_ops.lattice_norm)
def lattice_norm(weights: Tensor, index: list[Tensor], mask: Tensor, method: str, power: float) -> Tensor:
    """As in `_ops`."""
    return _factors(filtered(_ones(weights, mask), weights, index, method).squeeze(1), mask, power)


@on_cuda(_ops.lattice_norm_weights_grad)
def lattice_norm_weights_grad(
    grad: Tensor, norm: Tensor, weights: Tensor, index: list[Tensor], mask: Tensor, method: str, power: float
) -> Tensor:
    """As in `_ops`."""
    back = _sums_grad(grad, norm, power).unsqueeze(1)
    return weights_grad(_ones(weights, mask), back, weights, index, method)


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


# ---- mean field ------------------------------------------------------------------------------------------------

_VECTOR, _MATRIX = 1, 2  # kinds of couplings; a number is a vector here, since only the device knows it


class _Run:
    """A mean field run as the engine takes it."""

    def __init__(
        self,
        logits: Tensor,
        couplings: Sequence[Tensor],
        weights: Sequence[Tensor],
        index: Sequence[Tensor],
        sigmas: Sequence[Tensor],
        norm_in: Sequence[Tensor],
        norm_out: Sequence[Tensor],
        shape: Sequence[int],
        method: str,
        bfloat16: bool,
    ) -> None:
        self.logits = logits.contiguous()
        self.weights, self.couplings = weights, couplings
        self.grids = [[] if w.numel() else grids_of(s, shape, logits) for w, s in zip(weights, sigmas, strict=True)]
        images, labels, points = logits.shape
        left = list(index)
        self.kernels = []
        for k, coupling in enumerate(couplings):
            arrays, left = (left[: _ops.INDEX_ARRAYS], left[_ops.INDEX_ARRAYS :]) if weights[k].numel() else ([], left)
            lattice = [lattice_of(weights[k], arrays, method, bfloat16)] if arrays else []
            grid = [grid.native for grid in self.grids[k][:1]]
            norms = norm_in[k], norm_out[k]
            ends = [checked("norm", end, logits, (images, points)) if end.numel() else None for end in norms]
            whole = coupling.to(logits.dtype).expand(labels) if coupling.ndim == 0 else coupling
            size = (labels,) * whole.ndim
            self.kernels.append((lattice, grid, *ends, whole.ndim, checked("coupling", whole, logits, size)))

    def request(
        self,
        iterations: int,
        initial: Tensor | None = None,
        output: Tensor | None = None,
        states: Tensor | None = None,
        kept: Tensor | None = None,
        every: int = 0,
    ) -> tuple[Any, ...]:
        """The members of cuda::MeanField."""
        images, labels, points = self.logits.shape
        sizes = images, points, labels
        return *sizes, self.logits, initial, self.kernels, iterations, output, states, kept, every

    def state_values(self) -> int:
        """Length of an iteration's filtered values."""
        return int(_native.cuda_ops(_ops.dtype_of(self.logits)).mean_field_states(addresses(self.request(1))))

    def queue(self, request: tuple[Any, ...]) -> None:
        queue_in_workspace("mean_field", self.logits, (request,))

    def states(self, start: Tensor | None, iterations: int) -> Tensor:
        """See `_mean_field_ops.Pieces`."""
        out = self.logits.new_empty(iterations * self.state_values())
        if iterations:
            self.queue(self.request(iterations, None if start is None else start.contiguous(), states=out))
        return out


class _Pieces:
    """See `_mean_field_ops.Pieces`."""

    def __init__(self, run: _Run, flags: Sequence[tuple[bool, ...]]) -> None:
        self.run, self.flags = run, flags
        self.states = run.states
        wanted = [(k, grids) for k, grids in enumerate(run.grids) if flags[k][2]]
        self.probes = [(slope.native, k) for k, grids in wanted for slope in grids[1:]]

    def back(self, grad: Tensor, start: Tensor | None, iterations: int, states: Tensor) -> tuple[Any, ...]:
        logits = self.run.logits
        start = None if start is None else start.contiguous()
        grad_logits, grad_start = torch.empty_like(logits), None if start is None else torch.empty_like(logits)
        parts = [self._parts(k) for k in range(len(self.flags))]
        slopes = logits.new_empty(len(self.probes))
        gradients = [(_MATRIX if part[0] is not None and part[0].ndim == 2 else _VECTOR, *part) for part in parts]
        request = self.run.request(iterations, start, states=states)
        outputs = grad, grad_logits, grad_start, gradients
        probes = [native for native, _ in self.probes], [k for _, k in self.probes]
        queue_in_workspace("mean_field_backward", logits, ((request, *outputs, *probes, slopes),))
        return grad_logits, grad_start, parts, slopes

    def _parts(self, k: int) -> list[Tensor | None]:
        """Where kernel k's gradients go: of its coupling, weights, norm_in, norm_out."""
        (images, labels, points), weights, wants = self.run.logits.shape, self.run.weights[k], self.flags[k]
        shapes = (labels,) * max(1, self.run.couplings[k].ndim), weights.shape, (images, points), (images, points)
        chosen = zip(shapes, (wants[0], wants[1], wants[3], wants[4]), strict=True)
        return [self.run.logits.new_empty(shape) if wanted else None for shape, wanted in chosen]


@on_cuda(_mean_field_ops.mean_field)
def mean_field(logits: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    """As in `_mean_field_ops`."""
    *model, iterations, keep, recompute = others
    run = _Run(logits, *model)
    values = iterations * run.state_values()
    states, every = _mean_field_ops.what_is_kept(keep, recompute, iterations, values, logits.numel())
    output, left = torch.empty_like(run.logits), logits.new_empty(values if states else 0)
    kept = logits.new_empty(((iterations - 1) // every if every and iterations else 0, *logits.shape))
    run.queue(run.request(iterations, None, output, left if states else None, kept if len(kept) else None, every))
    return output, left, kept


@on_cuda(_mean_field_ops.mean_field_backward)
def mean_field_backward(grad: Tensor, logits: Tensor, *others: Any) -> list[Tensor]:
    """As in `_mean_field_ops`."""
    *lists, states, kept, shape, method, bfloat16, iterations, wanted = others
    model = *lists, shape, method, bfloat16
    couplings, weights, _, sigmas, norm_in, norm_out = lists
    flags = [tuple(wanted[5 * k : 5 * k + 5]) for k in range(len(couplings))]
    run = _Run(logits, *model)
    back = _mean_field_ops.BackwardRun(_Pieces(run, flags), checked("grad", grad, logits, logits.shape), flags)
    back.go_back(iterations, states, kept)
    return back.results(logits, couplings, weights, sigmas, norm_in, norm_out)
