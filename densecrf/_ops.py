"""The engine as torch operators: schemas, CPU kernels, fake kernels and gradients.

Everything that knows how tensors become the engine's arrays is in this file. Shapes: B images of n points each,
values ``[B, C, n]``, features ``[B, n, d]``. The lattices of a batch, one per image, travel as one: their barycentric
weights, the only array with a gradient, and a list of five index arrays (numbers counted within the image).

Lists of tensors name kernels in order; an empty tensor stands for "none".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densecrf import _C, _native
from densecrf.numerics import METHODS
from densecrf.spatial import Grid

INDEX_ARRAYS = 5  # simplex, simplex_vertices, chains, chain_starts, sizes
MAX_DIMS = _native.MAX_DIMS

# The filtered values of all iterations are kept for the backward pass while they are at most so many times the
# logits; beyond (dense lattices, fine grids) Q is kept now and then and the values between are computed again.
_MOST_STATES = 2.5
_SEGMENTS = 3  # pieces in which a run is computed again

# A training step wants the same large blocks of memory as the one before.
_C.keep_memory(2 << 30)


def _threads() -> int:
    return _native.threads(torch.get_num_threads())


def _array(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().numpy()


def _grid(sigma: Tensor, shape: Sequence[int]) -> Grid:
    numbers = sigma.tolist()
    if not all(0 < s < np.inf for s in numbers):
        raise ValueError(f"sigma: must be positive and finite, got {numbers}")
    return Grid(shape, numbers)


def _dtype(tensor: Tensor) -> np.dtype[Any]:
    return np.dtype(np.float64 if tensor.dtype == torch.float64 else np.float32)


def _native_ops(tensor: Tensor) -> Any:
    return _native.ops(_dtype(tensor))


def _gradient(compute: Callable[[], Tensor], like: Tensor) -> Tensor:
    """A gradient; NaN where what comes in is not finite, as loss scaling (torch.amp) counts on."""
    try:
        return compute()
    except ValueError as error:
        if str(error) != "not finite":
            raise
        return torch.full_like(like, torch.nan, memory_format=torch.contiguous_format)


def _optional(tensor: Tensor) -> Any:
    return _array(tensor).reshape(-1) if tensor.numel() else None


def _lattice(weights: Tensor, index: Sequence[Tensor], method: str) -> tuple[Any, ...]:
    """A lattice as the engine takes it."""
    simplex, *others = index
    dims = weights.shape[-1] - 1
    how = METHODS[method](dims, weights.shape[1])
    arrays = simplex.reshape(-1), weights.reshape(-1, dims + 1), *others
    return (*map(_array, arrays), how.blur, how.alpha)


def _op(name: str) -> Any:
    """Register a CPU kernel as the operator ``densecrf::name``; other devices get a sentence."""

    def decorate(function: Any) -> Any:
        op = torch.library.custom_op(f"densecrf::{name}", function, mutates_args=(), device_types="cpu")

        def refuse(*args: Any, **kwargs: Any) -> Any:
            flat = [t for a in args for t in (a if isinstance(a, (list, tuple)) else [a]) if isinstance(t, Tensor)]
            device = next((t.device for t in flat if t.device.type != "cpu"), "another device")
            raise NotImplementedError(
                f"densecrf computes on the CPU only, got tensors on {device}: move them with .cpu()"
            )

        op.register_kernel("cuda")(refuse)
        return op

    return decorate


# ---- building a lattice ----------------------------------------------------------------------------------------


@_op("lattice_build")
def lattice_build(features: Tensor, method: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Build the lattice of features ``[B, n, d]``; returns the weights ``[B, n, d + 1]``, then the index arrays."""
    images, points, dims = features.shape
    how = METHODS[method](dims, points)
    with _native.speaking_of("image or features"):
        simplex, weights, *others = _native_ops(features).lattice_build(
            _array(features), how.scale, how.pad_origin, how.bridges, _threads()
        )
    return (
        torch.from_numpy(weights).view(images, points, dims + 1),
        torch.from_numpy(simplex).view(images, points),
        *map(torch.from_numpy, others),
    )


@lattice_build.register_fake
def _(features: Tensor, method: str) -> tuple[Tensor, ...]:
    images, points, dims = features.shape
    context = torch.library.get_ctx()
    simplices, chained = context.new_dynamic_size(), context.new_dynamic_size()
    return (
        features.new_empty((images, points, dims + 1)),
        features.new_empty((images, points), dtype=torch.int32),
        features.new_empty((simplices, dims + 1), dtype=torch.int32),
        features.new_empty((chained,), dtype=torch.int32),
        features.new_empty((images, dims + 2), dtype=torch.int64),
        features.new_empty((images, 2), dtype=torch.int64),
    )


@_op("lattice_features_grad")
def lattice_features_grad(features: Tensor, grad_weights: Tensor, method: str) -> Tensor:
    """Gradient ``[B, n, d]`` of the features from that of the weights; exact between two walls of a simplex."""
    how = METHODS[method](features.shape[2], features.shape[1])
    grad = _native_ops(features).lattice_features_grad(
        _array(features), how.scale, how.pad_origin, _array(grad_weights), _threads()
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


@_op("lattice_filter")
def lattice_filter(values: Tensor, weights: Tensor, index: list[Tensor], method: str, transpose: bool) -> Tensor:
    """Filter values ``[B, C, n]``, or apply the transpose."""
    with _native.speaking_of("values"):
        return _lattice_filter(values, weights, index, method, transpose)


def _lattice_filter(values: Tensor, weights: Tensor, index: list[Tensor], method: str, transpose: bool) -> Tensor:
    out = _native_ops(values).filter(_lattice(weights, index, method), _array(values), transpose, _threads())
    return torch.from_numpy(out)


@lattice_filter.register_fake
def _(values: Tensor, weights: Tensor, index: list[Tensor], method: str, transpose: bool) -> Tensor:
    return torch.empty_like(values, memory_format=torch.contiguous_format)


@_op("lattice_filter_values_grad")
def lattice_filter_values_grad(
    grad: Tensor, weights: Tensor, index: list[Tensor], method: str, transpose: bool
) -> Tensor:
    """Gradient ``[B, C, n]`` of the values that went through the filter, or through its transpose."""
    return _gradient(lambda: _lattice_filter(grad, weights, index, method, not transpose), grad)


@lattice_filter_values_grad.register_fake
def _(grad: Tensor, weights: Tensor, index: list[Tensor], method: str, transpose: bool) -> Tensor:
    return torch.empty_like(grad, memory_format=torch.contiguous_format)


@_op("lattice_filter_weights_grad")
def lattice_filter_weights_grad(
    values: Tensor, grad: Tensor, weights: Tensor, index: list[Tensor], method: str
) -> Tensor:
    """Gradient ``[B, n, d + 1]`` of the barycentric weights, `grad` being that of the filtered values."""

    def compute() -> Tensor:
        out = _native_ops(values).filter_weights_grad(
            _lattice(weights, index, method), _array(values), _array(grad), _threads()
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


@_op("grid_filter")
def grid_filter(values: Tensor, sigma: Tensor, shape: list[int]) -> Tensor:
    """Filter values ``[B, C, n]`` with the Gaussian of bandwidths `sigma`, in pixels, one per axis of `shape`."""
    with _native.speaking_of("values"):
        return _grid_filter(values, _grid(sigma, shape))


def _grid_filter(values: Tensor, grid: Grid) -> Tensor:
    array = _array(values)
    return torch.from_numpy(_native_ops(values).grid_filter(grid.native(array.dtype), array, _threads()))


@grid_filter.register_fake
def _(values: Tensor, sigma: Tensor, shape: list[int]) -> Tensor:
    return torch.empty_like(values, memory_format=torch.contiguous_format)


@_op("grid_filter_values_grad")
def grid_filter_values_grad(grad: Tensor, sigma: Tensor, shape: list[int]) -> Tensor:
    """Gradient ``[B, C, n]`` of the values: the filter is its own transpose."""
    return _gradient(lambda: _grid_filter(grad, _grid(sigma, shape)), grad)


@grid_filter_values_grad.register_fake
def _(grad: Tensor, sigma: Tensor, shape: list[int]) -> Tensor:
    return torch.empty_like(grad, memory_format=torch.contiguous_format)


@_op("grid_filter_sigma_grad")
def grid_filter_sigma_grad(values: Tensor, grad: Tensor, sigma: Tensor, shape: list[int]) -> Tensor:
    """Gradient of the bandwidths; of what is computed, so the taps' own derivative."""
    slopes = _grid(sigma, shape).slopes()
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


# ---- mean field ------------------------------------------------------------------------------------------------


class _Kernels:
    """The kernels of a mean field run, from the operator's flat lists."""

    def __init__(
        self,
        couplings: Sequence[Tensor],
        weights: Sequence[Tensor],
        index: Sequence[Tensor],
        sigmas: Sequence[Tensor],
        norm_in: Sequence[Tensor],
        norm_out: Sequence[Tensor],
        shape: Sequence[int],
        method: str,
    ) -> None:
        self.native: list[tuple[Any, ...]] = []
        self.grids: list[Grid | None] = []
        left = list(index)
        for k, coupling in enumerate(couplings):
            number = float(coupling) if coupling.ndim == 0 else _array(coupling)
            if not np.isfinite(number).all():
                raise ValueError("couplings: must be finite, got NaN or inf")
            ends = _optional(norm_in[k]), _optional(norm_out[k]), None, number
            if weights[k].numel():
                parts, left = left[:INDEX_ARRAYS], left[INDEX_ARRAYS:]
                self.grids.append(None)
                self.native.append((_lattice(weights[k], parts, method), None, *ends))
            else:
                grid = _grid(sigmas[k], shape)
                self.grids.append(grid)
                self.native.append((None, grid.native(_dtype(weights[k])), *ends))

    def probes(self, wanted: Sequence[bool]) -> list[tuple[Any, ...]]:
        """For each wanted bandwidth the kernel's derivative, as a kernel: its coupling's gradient is what it adds."""
        out = []
        for native, grid, wants in zip(self.native, self.grids, wanted, strict=True):
            if grid is not None and wants:
                dtype = native[1][2][0].dtype
                out += [(None, slope.native(dtype), *native[2:]) for slope in grid.slopes()]
        return out


@_op("mean_field")
def mean_field(
    logits: Tensor,
    couplings: list[Tensor],
    weights: list[Tensor],
    index: list[Tensor],
    sigmas: list[Tensor],
    norm_in: list[Tensor],
    norm_out: list[Tensor],
    shape: list[int],
    method: str,
    iterations: int,
    keep: bool,
    recompute: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores z_T ``[B, L, n]`` of ``z_{t+1} = logits + sum_k E_k K_k softmax(z_t)``, z_0 = logits.

    ``K_k = diag(norm_out) K diag(norm_in)``, the norms ``[B, n]``; the coupling E_k a number, ``[L]`` or ``[L, L]``.
    Kernel k is a lattice (``weights[k]``, five of `index`) or the spatial Gaussian of bandwidths ``sigmas[k]``.

    Also returns what the backward pass wants, if `keep`: the filtered values of every iteration, or, where these are
    many (or recompute > 0; never for recompute < 0), Q after every few.
    """
    kernels = _Kernels(couplings, weights, index, sigmas, norm_in, norm_out, shape, method)
    native, array = _native_ops(logits), _array(logits)
    states, every = False, 0
    if keep:
        size = iterations * native.mean_field_states(array, kernels.native)
        states = recompute < 0 or (recompute == 0 and size <= _MOST_STATES * array.size)
        every = 0 if states else _segment_length(iterations)
    with _native.speaking_of("logits"):
        scores, left, kept = native.mean_field_train(
            array, None, kernels.native, iterations, True, states, every, _threads()
        )
    return (
        torch.from_numpy(scores),
        logits.new_empty(0) if left is None else torch.from_numpy(left),
        logits.new_empty((0, *logits.shape)) if kept is None else torch.from_numpy(kept),
    )


@mean_field.register_fake
def _(logits: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    keep = others[-2]
    states: Any = 0
    kept: Any = 0
    if keep:
        context = torch.library.get_ctx()
        states, kept = context.new_dynamic_size(), context.new_dynamic_size()
    scores = torch.empty_like(logits, memory_format=torch.contiguous_format)
    return scores, logits.new_empty(states), logits.new_empty((kept, *logits.shape))


def _segment_length(iterations: int) -> int:
    """Updates after which Q is kept."""
    return max(1, -(-iterations // _SEGMENTS))


@_op("mean_field_backward")
def mean_field_backward(
    grad: Tensor,
    logits: Tensor,
    couplings: list[Tensor],
    weights: list[Tensor],
    index: list[Tensor],
    sigmas: list[Tensor],
    norm_in: list[Tensor],
    norm_out: list[Tensor],
    states: Tensor,
    kept: Tensor,
    shape: list[int],
    method: str,
    iterations: int,
    wanted: list[bool],
) -> list[Tensor]:
    """Gradients: of the logits, then of each kernel's coupling, weights, sigma, norm_in, norm_out.

    `wanted` says for each kernel which of its five; the others come back empty.
    """
    flags = [tuple(wanted[5 * k : 5 * k + 5]) for k in range(len(couplings))]
    kernels = _Kernels(couplings, weights, index, sigmas, norm_in, norm_out, shape, method)
    run = _BackwardRun(grad, logits, kernels, couplings, flags)
    try:
        run.go_back(iterations, states, kept)
    except ValueError as error:
        if str(error) != "not finite":
            raise
        run.spoil()
    return run.results(couplings, weights, sigmas, norm_in, norm_out)


class _BackwardRun:
    """Adds up the gradients of a run, piece by piece from its end."""

    def __init__(
        self,
        grad: Tensor,
        logits: Tensor,
        kernels: _Kernels,
        couplings: Sequence[Tensor],
        flags: Sequence[tuple[bool, ...]],
    ) -> None:
        self.native, self.logits, self.kernels, self.flags = _native_ops(logits), _array(logits), kernels, flags
        self.grad = _array(grad)
        self.inner = any(f[1] or f[3] or f[4] for f in flags)  # gradients that want the values of Q_t itself
        self.probes = kernels.probes([f[2] for f in flags])
        self.wanted = [
            ((2 if c.ndim == 2 else 1) if f[0] else 0, f[1], f[3], f[4]) for c, f in zip(couplings, flags, strict=True)
        ]
        for coupling, grid, f in zip(couplings, kernels.grids, flags, strict=True):
            axes = len(grid.axes) if grid is not None and f[2] else 0
            self.wanted += [(2 if coupling.ndim == 2 else 1, False, False, False)] * axes
        self.spoiled = False
        self.grad_logits: Any = None
        self.parts: list[list[Any]] = [[None] * 4 for _ in self.wanted]

    def go_back(self, iterations: int, states: Tensor, kept: Tensor) -> None:
        """Go back through a run, in one piece where its states were kept, else from one kept Q to the one before."""
        if kept.shape[0] == 0:
            return self.segment(iterations, None, states if states.numel() else None)
        every = _segment_length(iterations)
        for start in reversed(range(0, iterations, every)):
            initial = None if start == 0 else kept[start // every - 1]
            self.segment(min(every, iterations - start), initial, None)

    def segment(self, iterations: int, initial: Tensor | None, states: Tensor | None) -> None:
        """Go back through some iterations, computing their filtered values again where they were not kept."""
        start = None if initial is None else _array(initial)
        if states is None:
            again = iterations if self.inner else iterations - 1
            values = np.empty(0, self.logits.dtype)
            if again > 0:
                values = self.native.mean_field_train(
                    self.logits, start, self.kernels.native, again, False, True, 0, _threads()
                )[1]
        else:
            values = _array(states)
        grad_logits, grad_start, parts = self.native.mean_field_backward(
            self.grad,
            self.logits,
            start,
            self.kernels.native,
            self.probes,
            self.wanted,
            iterations,
            values,
            _threads(),
        )
        if self.grad_logits is None:
            self.grad_logits = grad_logits
        else:
            self.grad_logits += grad_logits
        self.grad = grad_start
        for total, (coupling, *others) in zip(self.parts, parts, strict=True):
            for i, array in enumerate([None if coupling is None else coupling.sum(axis=0), *others]):
                if array is not None:
                    total[i] = array if total[i] is None else total[i] + array

    def spoil(self) -> None:
        """Make all gradients NaN: the one that came in is not finite."""
        self.spoiled = True
        self.grad_logits = np.full_like(self.logits, np.nan)
        self.parts = [[np.full(1, np.nan)] * 4 for _ in self.parts]

    def results(
        self,
        couplings: Sequence[Tensor],
        weights: Sequence[Tensor],
        sigmas: Sequence[Tensor],
        norm_in: Sequence[Tensor],
        norm_out: Sequence[Tensor],
    ) -> list[Tensor]:
        out = [torch.from_numpy(self.grad_logits)]
        probes = iter(self.parts[len(couplings) :])
        for k, coupling in enumerate(couplings):
            grad_coupling, *others = self.parts[k]
            if grad_coupling is not None and coupling.ndim == 0:
                grad_coupling = grad_coupling.sum(keepdims=True)
            sigma = None
            if self.flags[k][2]:
                sigma = np.array([_contracted(next(probes)[0], coupling) for _ in range(sigmas[k].numel())])
            likes = couplings[k], weights[k], sigmas[k], norm_in[k], norm_out[k]
            arrays = grad_coupling, others[0], sigma, *others[1:]
            for array, like, wants in zip(arrays, likes, self.flags[k], strict=True):
                if array is None or not wants:
                    out.append(like.new_empty(0))
                else:
                    found = torch.as_tensor(array, dtype=like.dtype)
                    out.append(torch.full_like(like, torch.nan) if self.spoiled else found.reshape(like.shape))
        return out


def _contracted(grad: Any, coupling: Tensor) -> float:
    """Derivative with respect to a factor of a kernel, from the gradient of that kernel's coupling."""
    return float((grad * _array(coupling)).sum())


@mean_field_backward.register_fake
def _(grad: Tensor, logits: Tensor, *others: Any) -> list[Tensor]:
    couplings, weights, _, sigmas, norm_in, norm_out, *_, wanted = others
    out = [torch.empty_like(logits, memory_format=torch.contiguous_format)]
    flags = iter(wanted)
    for likes in zip(couplings, weights, sigmas, norm_in, norm_out, strict=True):
        out += [
            torch.empty_like(like, memory_format=torch.contiguous_format) if next(flags) else like.new_empty(0)
            for like in likes
        ]
    return out


def _mean_field_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, *lists, ctx.shape, ctx.method, ctx.iterations, _, _ = inputs
    _, states, kept = output
    ctx.lengths = [len(part) for part in lists]
    ctx.save_for_backward(logits, states, kept, *(tensor for part in lists for tensor in part))
    ctx.mark_non_differentiable(states, kept)
    ctx.set_materialize_grads(False)


def _mean_field_backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if grad is None:
        return (None, *([None] * n for n in ctx.lengths), *[None] * 5)
    logits, states, kept, *flat = ctx.saved_tensors
    lists: list[list[Tensor]] = []
    for length in ctx.lengths:
        lists.append(flat[:length])
        flat = flat[length:]
    couplings, weights, index, sigmas, norm_in, norm_out = lists
    needs_couplings, needs_weights, _, needs_sigmas, needs_in, needs_out = ctx.needs_input_grad[1:7]
    wanted = [
        bool(flag)
        for flags in zip(needs_couplings, needs_weights, needs_sigmas, needs_in, needs_out, strict=True)
        for flag in flags
    ]
    grad_logits, *others = mean_field_backward(
        grad, logits, *lists, states, kept, ctx.shape, ctx.method, ctx.iterations, wanted
    )
    found = [g if wants else None for g, wants in zip(others, wanted, strict=True)]
    return (
        grad_logits,
        found[0::5],
        found[1::5],
        [None] * len(index),
        found[2::5],
        found[3::5],
        found[4::5],
        *[None] * 5,
    )


mean_field.register_autograd(_mean_field_backward, setup_context=_mean_field_context)
