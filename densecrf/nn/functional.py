"""Dense CRFs and Gaussian filters as functions of tensors, with gradients to every tensor that goes in.

Values are ``[B, C, *spatial]`` with one to three spatial axes, features ``[B, d, *spatial]``. float32 and float64 are
computed in their own precision, float16 and bfloat16 in float32; results come back in the dtype that came in. A
batch is one lattice, whose images share no vertices. Gradients are the exact derivatives of what is computed, under
every normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from densecrf import _checks, _ops
from densecrf.nn import _tensors

_SMALLEST = 1e-20  # added to the normalisation: a point without neighbours gets no message


class Term(NamedTuple):
    """One pairwise kernel on one batch of images, with its normalisation: what `mean_field` takes.

    A lattice (weights and index arrays) or the spatial Gaussian (sigma, bandwidths in pixels per axis); what it has
    not is empty. Built by `features_term` and `spatial_term`, reused by every iteration and by the backward pass.
    """

    weights: Tensor  # barycentric weights [B, n, d + 1]
    arrays: list[Tensor]
    sigma: Tensor
    norm_in: Tensor  # [B, n]
    norm_out: Tensor
    shape: tuple[int, ...]
    method: str

    def filter(self, values: Tensor) -> Tensor:
        """Filter ``[B, C, n]``, without the normalisation."""
        if self.arrays:
            return _ops.lattice_filter(values, self.weights, self.arrays, self.method, False)
        return _ops.grid_filter(values, self.sigma, list(self.shape))

    def normalised(self, normalization: str, mask: Tensor | None) -> Term:
        """The term with norms from D = K 1; points that the mask ``[B, n]`` leaves out neither send nor hear."""
        empty = self.weights.new_empty(0) if self.arrays else self.sigma.new_empty(0)
        norm_in = norm_out = empty
        if mask is not None:
            norm_in = norm_out = mask
        if normalization != "none":
            inverse = 1 / (self._sums(mask).clamp(min=0) + _SMALLEST)
            if normalization == "symmetric":
                inverse = inverse.sqrt()
            inverse = inverse if mask is None else inverse * mask
            norm_in = norm_in if normalization == "after" else inverse
            norm_out = norm_out if normalization == "before" else inverse
        return self._replace(norm_in=norm_in, norm_out=norm_out)

    def _sums(self, mask: Tensor | None) -> Tensor:
        if mask is not None:
            return self.filter(mask.unsqueeze(1)).squeeze(1)
        if self.arrays:
            return self.filter(self.weights.new_ones(self.weights.shape[0], 1, self.weights.shape[1])).squeeze(1)
        return self.filter(self.sigma.new_ones(1, 1, prod(self.shape))).squeeze(1)  # the same for all images


def features_term(
    features: Tensor, *, method: str = "tuned", normalization: str = "symmetric", mask: Tensor | None = None
) -> Term:
    """A Gaussian kernel on any features, already divided by their bandwidths.

    Parameters
    ----------
    features : ``[B, d, *spatial]``, float, d up to 64
    method : "tuned" or "classic", as in `densecrf.Lattice`
    normalization : "symmetric", "after", "before" or "none"
    mask : bool ``[B, *spatial]``; False: the point takes no part

    Raises
    ------
    ValueError, TypeError
        Wrong rank, size, dtype or name; NaN or inf.

    """
    _checks.choice("method", method, ("tuned", "classic"))
    _checks.choice("normalization", normalization, _checks.NORMALIZATIONS)
    found, shape = _tensors.values("features", features)
    if not 1 <= found.shape[1] <= _ops.MAX_DIMS:
        raise ValueError(f"features: must have 1 to {_ops.MAX_DIMS} dimensions, got {found.shape[1]}")
    taking_part = _tensors.mask(mask, found, shape)
    points = found.transpose(1, 2)
    if taking_part is not None:
        points = _tensors.gathered(points, taking_part)
    weights, *index = _ops.lattice_build(points.contiguous(), method)
    none = weights.new_empty(0)
    term = Term(weights, index, none, none, none, shape, method)
    return term.normalised(normalization, taking_part)


def spatial_term(
    sigma: Tensor,
    shape: Sequence[int],
    *,
    batch: int = 1,
    method: str = "tuned",
    normalization: str = "symmetric",
    mask: Tensor | None = None,
) -> Term:
    """The Gaussian kernel on positions.

    Parameters
    ----------
    sigma : bandwidth in pixels, one per axis of `shape`; float, with or without gradient
    shape : spatial shape, one to three axes
    batch : number of images B
    method : "tuned" filters on a grid, near to the true Gaussian; "classic" on the lattice
    normalization, mask : as in `features_term`

    """
    _checks.choice("method", method, ("tuned", "classic"))
    _checks.choice("normalization", normalization, _checks.NORMALIZATIONS)
    if sigma.shape != (len(shape),):
        raise ValueError(f"sigma: must have one bandwidth for each of the {len(shape)} axes, got {list(sigma.shape)}")
    if method == "classic":
        features = _tensors.positions(sigma, shape).unsqueeze(0).expand(batch, -1, *shape)
        return features_term(features, method=method, normalization=normalization, mask=mask)
    taking_part = None if mask is None else _tensors.mask(mask, sigma.new_empty(batch, 1, prod(shape)), tuple(shape))
    none = sigma.new_empty(0)
    term = Term(none, [], sigma, none, none, tuple(shape), method).normalised(normalization, taking_part)
    norms = [norm.expand(batch, -1) if norm.numel() else norm for norm in (term.norm_in, term.norm_out)]
    return term._replace(norm_in=norms[0], norm_out=norms[1])


def mean_field(
    logits: Tensor,
    terms: Sequence[Term],
    couplings: Sequence[Tensor],
    *,
    iterations: int = 5,
    recompute: bool | None = None,
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
        most about 2.5 times the logits' memory

    """
    _checks.integer("iterations", iterations, 0)
    found, shape = _tensors.values("logits", logits)
    if len(terms) != len(couplings):
        raise ValueError(f"couplings: must be one for each of the {len(terms)} terms, got {len(couplings)}")
    for term, coupling in zip(terms, couplings, strict=True):
        _tensors.check_term(term.shape, term.norm_in if not term.arrays else term.weights[..., 0], found, shape)
        labels = found.shape[1]
        if coupling.shape not in ((), (labels,), (labels, labels)):
            rule = f"a number, [{labels}] or [{labels}, {labels}]"
            raise ValueError(f"couplings: must be {rule}, got shape {list(coupling.shape)}")
    inputs = [
        found,
        *couplings,
        *(t for term in terms for t in (term.weights, term.sigma, term.norm_in, term.norm_out)),
    ]
    scores, _, _ = _ops.mean_field(
        found,
        [coupling.to(found.dtype) for coupling in couplings],
        [term.weights.to(found.dtype) for term in terms],
        [array for term in terms for array in term.arrays],
        [term.sigma for term in terms],
        [term.norm_in.to(found.dtype) for term in terms],
        [term.norm_out.to(found.dtype) for term in terms],
        list(shape),
        terms[0].method if terms else "tuned",
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
    term = features_term(features, method=method, normalization=normalization, mask=mask)
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
    term = spatial_term(
        sigma, values.shape[2:], batch=values.shape[0], method=method, normalization=normalization, mask=mask
    )
    return _filtered(values, term)


def _filtered(values: Tensor, term: Term) -> Tensor:
    found, shape = _tensors.values("values", values)
    _tensors.check_term(term.shape, term.weights[..., 0] if term.arrays else term.norm_in, found, shape)
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
    return -compatibility.unsqueeze(1) * weight if compatibility.ndim == 1 else -compatibility @ weight
