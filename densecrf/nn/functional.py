"""Dense CRFs and Gaussian filters as functions of tensors, with gradients to every tensor that goes in.

Values are ``[B, C, *spatial]`` with one to three spatial axes, features ``[B, d, *spatial]``. float32 and float64 are
computed in their own precision, float16 and bfloat16 in float32; results come back in the dtype that came in. The
images of a batch are computed side by side. Gradients are the exact derivatives of what is computed, under
every normalisation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from densecrf import _checks, _inputs, _mean_field_ops, presets
from densecrf.kernels import Bilateral, Gaussian, Kernel
from densecrf.nn import _tensors
from densecrf.nn.terms import Term, TermBuilder, features_term, spatial_term

__all__ = [
    "Term",
    "coupling",
    "crf_as_rnn",
    "dense_crf",
    "features_term",
    "lattice_filter",
    "mean_field",
    "spatial_filter",
    "spatial_term",
]


def dense_crf(
    logits: Tensor,
    image: Tensor | None = None,
    *,
    kernels: Sequence[Kernel] | None = None,
    weights: Sequence[Tensor] | None = None,
    bandwidths: Sequence[Mapping[str, Tensor]] | None = None,
    compatibility: Tensor | None = None,
    features: Tensor | Sequence[Tensor] | None = None,
    mask: Tensor | None = None,
    iterations: int = 5,
    normalization: str = "symmetric",
    method: str = "tuned",
    spacing: float | Sequence[float] | None = None,
    recompute: bool | None = None,
    lattice_dtype: torch.dtype | None = None,
) -> Tensor:
    """Refine a network's scores; what `densecrf.nn.DenseCRF` computes with its parameters.

    Parameters
    ----------
    logits : ``[B, L, *spatial]``, before the softmax; one to three spatial axes
    image : ``[B, C, *spatial]``, in the units of the bandwidths (0 to 255 for srgb=4): not normalised
    kernels : list of `densecrf.Gaussian`, `densecrf.Bilateral` and `densecrf.nn.Features`; None:
        ``densecrf.presets.DEFAULT.kernels``
    weights : one tensor for each kernel, a number, ``[L]`` or ``[L, L]``; None: the kernels' own
    bandwidths : for each kernel tensors that take the place of its own, by name: {"sxy": ..., "srgb": ...}
    compatibility : None for Potts, the diagonal ``[L]`` of the cost matrix (-1: Potts) or the matrix ``[L, L]``
    features : ``[B, d, *spatial]``, for a `Features` kernel; a list for several of them
    mask : bool ``[B, *spatial]``; False: the pixel takes no part and keeps its own scores
    iterations, recompute, lattice_dtype : as in `mean_field`
    normalization : "symmetric", "after", "before" or "none"
    method : "tuned" or "classic"
    spacing : size of a pixel along each axis, in the units of sxy

    Returns
    -------
    Tensor
        scores ``[B, L, *spatial]``, in the logits' dtype; their softmax is Q

    Raises
    ------
    ValueError, TypeError
        An argument breaks its rule; NaN or inf.

    """
    _checks.choice("normalization", normalization, _checks.NORMALIZATIONS)
    chosen = _inputs.kernels(presets.DEFAULT.kernels if kernels is None else kernels)
    scores = _tensors.scores(logits)
    weights = [_own_weight(kernel, scores) for kernel in chosen] if weights is None else weights
    for name, given in [*(("weights", w) for w in weights), ("compatibility", compatibility)]:
        _check_weight(name, given, scores)
    with torch.autocast(device_type=scores.device.type, enabled=False):
        taking_part = None
        if mask is not None:  # whatever else is there, NaN too, stays there
            flags = cast(Tensor, _tensors.mask(mask, scores.flatten(2), tuple(scores.shape[2:])))
            taking_part = flags.view(-1, 1, *scores.shape[2:]) > 0
            scores = torch.where(taking_part, scores, 0)
        builder = TermBuilder(scores, image, _listed(features), mask, normalization, method, spacing)
        terms = builder.terms(chosen, [{}] * len(chosen) if bandwidths is None else bandwidths)
        costs = None if compatibility is None else compatibility.to(scores.dtype)
        couplings = [coupling(costs, weight.to(scores.dtype)) for weight in weights]
        refined = mean_field(
            scores, terms, couplings, iterations=iterations, recompute=recompute, lattice_dtype=lattice_dtype
        ).to(logits.dtype)
        return refined if taking_part is None else torch.where(taking_part, refined, logits)


def crf_as_rnn(
    logits: Tensor,
    image: Tensor,
    spatial_weights: Tensor,
    bilateral_weights: Tensor,
    compatibility: Tensor,
    *,
    alpha: float = 160.0,
    beta: float = 3.0,
    gamma: float = 3.0,
    mask: Tensor | None = None,
    iterations: int = 5,
    method: str = "classic",
    recompute: bool | None = None,
) -> Tensor:
    """CRF-as-RNN (Zheng et al. 2015): ``z = logits + C (W_s K_s Q + W_b K_b Q)``, K normalised "after".

    Matrices are ``[L, L]``; the compatibility is added, as in crfasrnn_pytorch. The rest is as in `dense_crf` and
    `densecrf.nn.CRFasRNN`.
    """
    return dense_crf(
        logits,
        image,
        kernels=[Gaussian(sxy=gamma), Bilateral(sxy=alpha, srgb=beta)],
        weights=[spatial_weights, bilateral_weights],
        compatibility=-compatibility,
        mask=mask,
        iterations=iterations,
        normalization="after",
        method=method,
        recompute=recompute,
    )


def _listed(features: Tensor | Sequence[Tensor] | None) -> list[Tensor]:
    if features is None:
        return []
    return [features] if isinstance(features, Tensor) else list(features)


def _check_weight(name: str, given: Tensor | None, scores: Tensor) -> None:
    if given is None:
        return
    _tensors.device(name, given)
    _tensors.same_device("logits", scores, given)
    labels = scores.shape[1]
    least = 0 if name == "weights" else 1
    if not least <= given.ndim <= 2 or any(size != labels for size in given.shape):
        also = "a number, " if name == "weights" else ""
        raise ValueError(f"{name}: must be {also}[{labels}] or [{labels}, {labels}], got shape {list(given.shape)}")


def _own_weight(kernel: Kernel, scores: Tensor) -> Tensor:
    weight = _checks.weight("weight", kernel.weight, scores.shape[1])
    return torch.as_tensor(weight, dtype=scores.dtype, device=scores.device)


def mean_field(
    logits: Tensor,
    terms: Sequence[Term],
    couplings: Sequence[Tensor],
    *,
    iterations: int = 5,
    recompute: bool | None = None,
    lattice_dtype: torch.dtype | None = None,
) -> Tensor:
    """Scores after so many updates of mean field (Krähenbühl & Koltun 2011, algorithm 1), all points at once.

    ``z_{t+1} = logits + sum_k E_k K_k softmax(z_t)``, z_0 = logits; the result's softmax is Q.

    Parameters
    ----------
    logits : ``[B, L, *spatial]``
    terms : the kernels K_k, of `features_term` and `spatial_term`
    couplings : for each term E_k = -compatibility x weight: a number, a vector ``[L]`` (a diagonal) or a matrix
        ``[L, L]`` (row: own label); positive on the diagonal is attraction
    iterations : updates
    recompute : True keeps little for the backward pass and computes more, False the other way; None: what keeps at
        most three times the logits' memory
    lattice_dtype : torch.bfloat16 stores the values on the vertices of lattices in 16 bits, in the backward pass too,
        and adds them up in float32: half of the memory traffic of a large lattice; Q moves by up to 0.035
        (docs/accuracy.md). On CUDA only. None: as everything else

    """
    _checks.integer("iterations", iterations, 0)
    if recompute not in (None, True, False):
        raise TypeError(f"recompute: must be True, False or None, got {recompute!r}")
    found, shape = _tensors.values("logits", logits)
    if lattice_dtype not in (None, torch.bfloat16, found.dtype):
        raise ValueError(
            f"lattice_dtype: must be None, torch.bfloat16 or {found.dtype} as the scores, got {lattice_dtype}"
        )
    if lattice_dtype == torch.bfloat16 and found.dtype == torch.float64:
        raise ValueError("lattice_dtype: must be None for float64 scores, torch.bfloat16 is for float32")
    if len(terms) != len(couplings):
        raise ValueError(f"couplings: must be one for each of the {len(terms)} terms, got {len(couplings)}")
    methods = {term.method for term in terms if term.arrays}
    if len(methods) > 1:
        raise ValueError(f"terms: must be of one method, got {' and '.join(sorted(methods))}")
    labels = found.shape[1]
    for term, matrix in zip(terms, couplings, strict=True):
        term.check(found, shape)
        _tensors.device("couplings", matrix)
        _tensors.same_device("couplings", matrix, found)
        if matrix.shape not in ((), (labels,), (labels, labels)):
            rule = f"a number, [{labels}] or [{labels}, {labels}]"
            raise ValueError(f"couplings: must be {rule}, got shape {list(matrix.shape)}")
    inputs = [
        found,
        *couplings,
        *(t for term in terms for t in (term.weights, term.sigma, term.norm_in, term.norm_out)),
    ]
    scores, _, _ = _mean_field_ops.mean_field(
        found,
        [matrix.to(found.dtype) for matrix in couplings],
        [term.weights.to(found.dtype) for term in terms],
        [array for term in terms for array in term.arrays],
        [term.sigma for term in terms],
        [term.norm_in.to(found.dtype) for term in terms],
        [term.norm_out.to(found.dtype) for term in terms],
        list(shape),
        methods.pop() if methods else "tuned",
        lattice_dtype == torch.bfloat16,
        iterations,
        torch.is_grad_enabled() and any(t.requires_grad for t in inputs),
        0 if recompute is None else 1 if recompute else -1,
    )
    return scores.reshape(logits.shape).to(logits.dtype)


def lattice_filter(
    values: Tensor,
    features: Tensor,
    *,
    method: str = "tuned",
    normalization: str = "none",
    mask: Tensor | None = None,
) -> Tensor:
    """Gaussian filter of values ``[B, C, *spatial]`` in the space of features ``[B, d, *spatial]``; same shape out.

    ``out_i = sum_j exp(-|f_i - f_j|^2 / 2) v_j`` for normalization="none"; "after" makes it a weighted mean.
    """
    dtype = _tensors.compute_dtype("values", values)
    points = features if _tensors.compute_dtype("features", features) == dtype else features.to(dtype)
    term = features_term(points, method=method, normalization=normalization, mask=mask)
    return _filtered(values, term)


def spatial_filter(
    values: Tensor,
    sigma: Tensor,
    *,
    method: str = "tuned",
    normalization: str = "none",
    mask: Tensor | None = None,
) -> Tensor:
    """Gaussian filter of values ``[B, C, *spatial]`` over positions; sigma in pixels, one per axis."""
    dtype = _tensors.compute_dtype("values", values)
    _tensors.same_device("sigma", _tensors.bandwidth("sigma", sigma), values)
    term = spatial_term(
        sigma.to(dtype), values.shape[2:], batch=values.shape[0], method=method, normalization=normalization, mask=mask
    )
    return _filtered(values, term)


def _filtered(values: Tensor, term: Term) -> Tensor:
    found, shape = _tensors.values("values", values)
    term.check(found, shape)
    inner = found * term.norm_in.unsqueeze(1) if term.norm_in.numel() else found
    out = term.filter(inner)
    out = out * term.norm_out.unsqueeze(1) if term.norm_out.numel() else out
    return out.reshape(values.shape).to(values.dtype)


def coupling(compatibility: Tensor | None, weight: Tensor) -> Tensor:
    """E = -compatibility x weight, what a filtered Q adds to the scores.

    compatibility : None for Potts (up to a constant over the labels, -1 on the diagonal), the diagonal ``[L]`` or the
    matrix ``[L, L]`` of the cost; weight : a number, ``[L]`` or ``[L, L]``.
    """
    if compatibility is None:
        return weight
    if weight.ndim < 2:
        return -compatibility * weight
    return -compatibility.unsqueeze(1) * weight if compatibility.ndim == 1 else -_product(compatibility, weight)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b``; small ones not by BLAS, whose threads spin on for 6 ms in which the engine's have no core."""
    return (a.unsqueeze(2) * b).sum(1) if a.shape[0] <= 32 else a @ b
