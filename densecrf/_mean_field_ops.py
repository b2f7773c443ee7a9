"""The fused mean field as torch operators, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
_MOST_STATES = 2.5
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
    native, array = native_ops(logits), array_of(logits)
    states, every = False, 0
    if keep:
        size = iterations * native.mean_field_states(array, kernels.native)
        states = recompute < 0 or (recompute == 0 and size <= _MOST_STATES * array.size)
        every = 0 if states else _segment_length(iterations)
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


def _segment_length(iterations: int) -> int:
    """Updates after which Q is kept."""
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
        if not _native.is_not_finite(error):
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
        self.native, self.logits, self.kernels, self.flags = native_ops(logits), array_of(logits), kernels, flags
        self.grad = array_of(grad)
        self.inner = any(any(f[1:]) for f in flags)  # gradients that want the last iteration's values, too
        self.probes, self.probe_of = kernels.probes([f[2] for f in flags])
        self.wanted = [
            ((2 if c.ndim == 2 else 1) if f[0] else 0, f[1], f[3], f[4]) for c, f in zip(couplings, flags, strict=True)
        ]
        self.spoiled = False
        self.grad_logits: Any = None
        self.parts: list[list[Any]] = [[None] * 4 for _ in self.wanted]
        self.slopes = np.zeros(len(self.probes))

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
        start = None if initial is None else array_of(initial)
        if states is None:
            again = iterations if self.inner else iterations - 1
            values = np.empty(0, self.logits.dtype)
            if again > 0:
                values = self.native.mean_field_train(
                    self.logits, start, self.kernels.native, again, False, True, 0, thread_count()
                )[1]
        else:
            values = array_of(states)
        grad_logits, grad_start, parts, slopes = self.native.mean_field_backward(
            self.grad,
            self.logits,
            start,
            self.kernels.native,
            self.probes,
            self.probe_of,
            self.wanted,
            iterations,
            values,
            thread_count(),
        )
        if self.grad_logits is None:
            self.grad_logits = grad_logits
        else:
            self.grad_logits += grad_logits
        self.grad = grad_start
        self.slopes += slopes.sum(axis=0)
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
        probe_of = np.array(self.probe_of)
        for k, coupling in enumerate(couplings):
            grad_coupling, *others = self.parts[k]
            if grad_coupling is not None and coupling.ndim == 0:
                grad_coupling = grad_coupling.sum(keepdims=True)
            sigma = self.slopes[probe_of == k]
            likes = couplings[k], weights[k], sigmas[k], norm_in[k], norm_out[k]
            arrays = grad_coupling, others[0], sigma, *others[1:]
            for array, like, wants in zip(arrays, likes, self.flags[k], strict=True):
                if array is None or not wants:
                    out.append(like.new_empty(0))
                else:
                    found = torch.as_tensor(array, dtype=like.dtype)
                    out.append(torch.full_like(like, torch.nan) if self.spoiled else found.reshape(like.shape))
        return out


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
