"""The fused mean field as torch operators, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from densecrf import _native
from densecrf._ops import (
    INDEX_ARRAYS,
    array_of,
    dtype_of,
    grid_of,
    lattice_of,
    native_ops,
    operator,
    thread_count,
    vector_of,
)
from densecrf.spatial import Grid

# The filtered values of all iterations are kept for the backward pass while they are at most so many times the
# logits; beyond (dense lattices, fine grids) Q is kept now and then and the values between are computed again.
_MOST_STATES = 3.0  # the standard setting keeps 2.5 times the logits on busy photographs, 40 MB at 500x375, L = 21
_SEGMENTS = 3  # pieces in which a run is computed again


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
            number = float(coupling) if coupling.ndim == 0 else array_of(coupling)
            if not np.isfinite(number).all():
                raise ValueError("couplings: must be finite, got NaN or inf")
            ends = vector_of(norm_in[k]), vector_of(norm_out[k]), None, number
            if weights[k].numel():
                parts, left = left[:INDEX_ARRAYS], left[INDEX_ARRAYS:]
                self.grids.append(None)
                self.native.append((lattice_of(weights[k], parts, method), None, *ends))
            else:
                grid = grid_of(sigmas[k], shape)
                self.grids.append(grid)
                self.native.append((None, grid.native(dtype_of(weights[k])), *ends))

    def probes(self, wanted: Sequence[bool]) -> tuple[list[tuple[Any, ...]], list[int]]:
        """For each wanted bandwidth the kernel's derivative, as a kernel, and the number of the kernel."""
        out, of = [], []
        for k, (native, grid, wants) in enumerate(zip(self.native, self.grids, wanted, strict=True)):
            if grid is not None and wants:
                dtype = native[1][2][0].dtype
                slopes = grid.slopes()
                out += [(None, slope.native(dtype), *native[2:]) for slope in slopes]
                of += [k] * len(slopes)
        return out, of


@operator("mean_field")
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
    bfloat16: bool,
    iterations: int,
    keep: bool,
    recompute: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores z_T ``[B, L, n]`` of ``z_{t+1} = logits + sum_k E_k K_k softmax(z_t)``, z_0 = logits.

    ``K_k = diag(norm_out) K diag(norm_in)``, the norms ``[B, n]``; the coupling E_k a number, ``[L]`` or ``[L, L]``.
    Kernel k is a lattice (``weights[k]``, five of `index`) or the spatial Gaussian of bandwidths ``sigmas[k]``.

    bfloat16 : values on the vertices of lattices are stored so, on CUDA only

    Also returns what the backward pass wants, if `keep`: the filtered values of every iteration, or, where these are
    many (or recompute > 0; never for recompute < 0), Q after every few.
    """
    if bfloat16:
        raise ValueError(f"lattice_dtype: must be None for tensors on {logits.device}, 16 bits are for cuda")
    kernels = _Kernels(couplings, weights, index, sigmas, norm_in, norm_out, shape, method)
    native, array = native_ops(logits), array_of(logits)
    values = iterations * native.mean_field_states(array, kernels.native)
    states, every = what_is_kept(keep, recompute, iterations, values, array.size)
    with _native.speaking_of("logits"):
        scores, left, kept = native.mean_field_train(
            array, None, kernels.native, iterations, True, states, every, thread_count()
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


def what_is_kept(keep: bool, recompute: int, iterations: int, values: int, scores: int) -> tuple[bool, int]:
    """Whether the filtered values of all iterations, so many values, are kept; and after how many updates Q is."""
    states = keep and (recompute < 0 or (recompute == 0 and values <= _MOST_STATES * scores))
    return states, _segment_length(iterations) if keep and not states else 0


def _segment_length(iterations: int) -> int:
    return max(1, -(-iterations // _SEGMENTS))


@operator("mean_field_backward")
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
    bfloat16: bool,
    iterations: int,
    wanted: list[bool],
) -> list[Tensor]:
    """Gradients: of the logits, then of each kernel's coupling, weights, sigma, norm_in, norm_out.

    `wanted` says for each kernel which of its five; the others come back empty.
    """
    flags = [tuple(wanted[5 * k : 5 * k + 5]) for k in range(len(couplings))]
    kernels = _Kernels(couplings, weights, index, sigmas, norm_in, norm_out, shape, method)
    run = BackwardRun(_CpuPieces(logits, kernels, couplings, flags), array_of(grad), flags)
    try:
        run.go_back(iterations, states, kept)
    except ValueError as error:
        if not _native.is_not_finite(error):
            raise
        run.spoil()
    return run.results(logits, couplings, weights, sigmas, norm_in, norm_out)


class Pieces(Protocol):
    """Pieces of a run, some iterations from where they start, as a device computes them; arrays are its own."""

    def states(self, start: Any, iterations: int) -> Any:
        """The filtered values of the iterations."""

    def back(self, grad: Any, start: Any, iterations: int, states: Any) -> tuple[Any, Any, list[list[Any]], Any]:
        """Gradients of logits and start; of each kernel's coupling, weights, norm_in, norm_out, or None; of bandwidths.

        Those of all kernels' wanted bandwidths follow one another.
        """


class _CpuPieces:
    def __init__(
        self, logits: Tensor, kernels: _Kernels, couplings: Sequence[Tensor], flags: Sequence[tuple[bool, ...]]
    ) -> None:
        self.native, self.logits, self.kernels = native_ops(logits), array_of(logits), kernels.native
        self.probes = kernels.probes([f[2] for f in flags])
        self.wanted = [
            ((2 if c.ndim == 2 else 1) if f[0] else 0, f[1], f[3], f[4]) for c, f in zip(couplings, flags, strict=True)
        ]

    def states(self, start: Any, iterations: int) -> Any:
        if iterations == 0:
            return np.empty(0, self.logits.dtype)
        start = None if start is None else array_of(start)
        how = iterations, False, True, 0, thread_count()
        return self.native.mean_field_train(self.logits, start, self.kernels, *how)[1]

    def back(self, grad: Any, start: Any, iterations: int, states: Any) -> tuple[Any, Any, list[list[Any]], Any]:
        start = None if start is None else array_of(start)
        states = array_of(states) if isinstance(states, Tensor) else states
        grad_logits, grad_start, parts, slopes = self.native.mean_field_backward(
            grad, self.logits, start, self.kernels, *self.probes, self.wanted, iterations, states, thread_count()
        )
        found = [[None if coupling is None else coupling.sum(axis=0), *others] for coupling, *others in parts]
        return grad_logits, grad_start, found, slopes.sum(axis=0)


class BackwardRun:
    """Adds up the gradients of a run, piece by piece from its end."""

    def __init__(self, pieces: Pieces, grad: Any, flags: Sequence[tuple[bool, ...]]) -> None:
        self.pieces, self.grad, self.flags = pieces, grad, flags
        self.inner = any(any(f[1:]) for f in flags)  # gradients that want the last iteration's values, too
        self.grad_logits: Any = None
        self.parts: list[list[Any]] = [[None] * 4 for _ in flags]
        self.slopes: Any = None
        self.spoiled = False

    def go_back(self, iterations: int, states: Tensor, kept: Tensor) -> None:
        """Go back through a run, in one piece where its states were kept, else from one kept Q to the one before."""
        if kept.shape[0] == 0:
            return self._piece(iterations, None, states if states.numel() else None)
        every = _segment_length(iterations)
        for start in reversed(range(0, iterations, every)):
            initial = None if start == 0 else kept[start // every - 1]
            self._piece(min(every, iterations - start), initial, None)

    def _piece(self, iterations: int, start: Tensor | None, states: Any) -> None:
        """Go back through some iterations, computing their filtered values again where they were not kept."""
        if states is None:
            states = self.pieces.states(start, iterations if self.inner else iterations - 1)
        grad_logits, self.grad, parts, slopes = self.pieces.back(self.grad, start, iterations, states)
        self.grad_logits = _sum(self.grad_logits, grad_logits)
        self.slopes = _sum(self.slopes, slopes)
        self.parts = [list(map(_sum, total, found)) for total, found in zip(self.parts, parts, strict=True)]

    def spoil(self) -> None:
        """Make all gradients NaN: the one that came in is not finite."""
        self.spoiled = True

    def results(
        self,
        logits: Tensor,
        couplings: Sequence[Tensor],
        weights: Sequence[Tensor],
        sigmas: Sequence[Tensor],
        norm_in: Sequence[Tensor],
        norm_out: Sequence[Tensor],
    ) -> list[Tensor]:
        """What `mean_field_backward` returns."""
        out = [self._result(self.grad_logits, logits)]
        used = 0
        for k, likes in enumerate(zip(couplings, weights, sigmas, norm_in, norm_out, strict=True)):
            coupling, of_weights, of_in, of_out = self.parts[k]
            sigma = None
            if self.slopes is not None and self.flags[k][2] and sigmas[k].numel():
                sigma = self.slopes[used : used + len(sigmas[k])] + 0  # results of an operator may not share memory
                used += len(sigmas[k])
            if coupling is not None and couplings[k].ndim == 0:
                coupling = coupling.sum()
            for found, like, wants in zip(
                (coupling, of_weights, sigma, of_in, of_out), likes, self.flags[k], strict=True
            ):
                out.append(self._result(found, like) if wants else like.new_empty(0))
        return out

    def _result(self, found: Any, like: Tensor) -> Tensor:
        if self.spoiled:
            return torch.full_like(like, torch.nan, memory_format=torch.contiguous_format)
        if found is None:
            return like.new_empty(0)
        return torch.as_tensor(found, dtype=like.dtype, device=like.device).reshape(like.shape)


def _sum(total: Any, found: Any) -> Any:
    if found is None:
        return total
    if total is None:
        return found
    total += found
    return total


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
    logits, *lists, ctx.shape, ctx.method, ctx.bfloat16, ctx.iterations, _, _ = inputs
    _, states, kept = output
    ctx.lengths = [len(part) for part in lists]
    ctx.save_for_backward(logits, states, kept, *(tensor for part in lists for tensor in part))
    ctx.mark_non_differentiable(states, kept)
    ctx.set_materialize_grads(False)


def _mean_field_backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if grad is None:
        return (None, *([None] * n for n in ctx.lengths), *[None] * 6)
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
        grad, logits, *lists, states, kept, ctx.shape, ctx.method, ctx.bfloat16, ctx.iterations, wanted
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
        *[None] * 6,
    )


mean_field.register_autograd(_mean_field_backward, setup_context=_mean_field_context)
