"""Pairwise kernels on a batch of images, ready to filter: what mean field takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from densecrf import _checks, _features_ops, _ops
from densecrf.kernels import Bandwidth, Bilateral, Custom, Gaussian, Kernel
from densecrf.nn import _tensors


class Term(NamedTuple):
    """One pairwise kernel on one batch of images, with its normalisation: what `mean_field` takes.

    A lattice (weights and index arrays) or the spatial Gaussian (sigma, bandwidths in pixels per axis, which may stay
    on the CPU); what it has not is empty. Built by `features_term` and `spatial_term`, reused by every iteration and by
    the backward pass.
    """

    weights: Tensor  # barycentric weights [B, n, d + 1]
    arrays: list[Tensor]
    sigma: Tensor
    norm_in: Tensor  # [B, n]
    norm_out: Tensor
    shape: tuple[int, ...]
    method: str

    def check(self, values: Tensor, shape: tuple[int, ...]) -> None:
        """Refuse to work on values ``[B, C, n]`` that are not of the images that the term was made for."""
        if self.shape != shape:
            raise ValueError(f"terms: must be of the values' spatial shape {list(shape)}, got {list(self.shape)}")
        made_for = self.weights if self.arrays else self.norm_in
        if made_for.numel() and made_for.shape[0] != values.shape[0]:
            raise ValueError(f"terms: must be of {values.shape[0]} images, like the values, got {made_for.shape[0]}")
        _tensors.same_device("terms", self.weights, values)

    def filter(self, values: Tensor) -> Tensor:
        """Filter ``[B, C, n]``, without the normalisation."""
        if self.arrays:
            return _ops.lattice_filter(values, self.weights, self.arrays, self.method, False)
        return _ops.grid_filter(values, self.sigma, list(self.shape))

    def normalised(self, normalization: str, mask: Tensor | None) -> Term:
        """The term with norms from D = K 1; points that the mask ``[B, n]`` leaves out neither send nor hear."""
        _checks.choice("normalization", normalization, _checks.NORMALIZATIONS)
        empty = self.weights.new_empty(0)
        norm_in = norm_out = empty
        if mask is not None:
            norm_in = norm_out = mask
        if normalization != "none":
            inverse = self._norm(empty if mask is None else mask, -0.5 if normalization == "symmetric" else -1.0)
            norm_in = norm_in if normalization == "after" else inverse
            norm_out = norm_out if normalization == "before" else inverse
        return self._replace(norm_in=norm_in, norm_out=norm_out)

    def _norm(self, mask: Tensor, power: float) -> Tensor:
        if self.arrays:
            return _ops.lattice_norm(self.weights, self.arrays, mask, self.method, power)
        return _ops.grid_norm(self.sigma, mask, list(self.shape), power)  # without a mask the same for all images


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
    found, shape = _tensors.values("features", features)
    taking_part = _tensors.mask(mask, found, shape)
    return _lattice_term(found.transpose(1, 2), shape, method, normalization, taking_part)


def _lattice_term(
    points: Tensor, shape: tuple[int, ...], method: str, normalization: str, taking_part: Tensor | None
) -> Term:
    """The term of points ``[B, n, d]``."""
    if not 1 <= points.shape[2] <= _ops.MAX_DIMS:
        raise ValueError(f"features: must have 1 to {_ops.MAX_DIMS} dimensions, got {points.shape[2]}")
    if taking_part is not None:
        points = _tensors.gathered(points, taking_part)
    weights, *index = _ops.lattice_build(points, method)
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
    device: torch.device | None = None,
) -> Term:
    """The Gaussian kernel on positions.

    Parameters
    ----------
    sigma : bandwidth in pixels, one per axis of `shape`; float, with or without gradient
    shape : spatial shape, one to three axes
    batch : number of images B
    method : "tuned" filters on a grid, near to the true Gaussian; "classic" on the lattice
    normalization, mask : as in `features_term`
    device : of the values; None: that of sigma. A sigma on the CPU spares a wait for the GPU

    """
    _checks.choice("method", method, ("tuned", "classic"))
    sigma = _tensors.bandwidth("sigma", sigma).to(_tensors.compute_dtype("sigma", sigma))
    if sigma.shape != (len(shape),):
        raise ValueError(f"sigma: must have one bandwidth for each of the {len(shape)} axes, got {list(sigma.shape)}")
    device = device or sigma.device
    if method == "classic":
        features = _tensors.positions(sigma.to(device), shape).unsqueeze(0).expand(batch, -1, *shape)
        return features_term(features, method=method, normalization=normalization, mask=mask)
    none = sigma.new_empty(0, device=device)
    taking_part = None if mask is None else _tensors.mask(mask, none.new_empty(batch, 1, prod(shape)), tuple(shape))
    term = Term(none, [], sigma, none, none, tuple(shape), method).normalised(normalization, taking_part)
    norms = [norm.expand(batch, -1) if norm.numel() else norm for norm in (term.norm_in, term.norm_out)]
    return term._replace(norm_in=norms[0], norm_out=norms[1])


@dataclass(frozen=True, eq=False)
class Features(Kernel):
    """Pixels agree whose features are similar: a kernel of `DenseCRF` on what ``forward(features=...)`` brings.

    Parameters
    ----------
    bandwidth : of the features; one number, or one per dimension
    weight : number to begin with
    normalization : "symmetric", "after", "before", "none", or None for that of the layer

    """

    bandwidth: Bandwidth = 1.0
    weight: Any = 1.0
    normalization: str | None = None

    def __post_init__(self) -> None:
        self._check(self.weight, self.normalization, bandwidth=self.bandwidth)


def bandwidths_of(kernel: Kernel) -> dict[str, tuple[float, ...]]:
    """The bandwidths that a kernel has, by name."""
    if isinstance(kernel, Custom):
        raise TypeError("kernels: must be Gaussian, Bilateral or densecrf.nn.Features, whose features go to the call")
    names = {Gaussian: ("sxy",), Bilateral: ("sxy", "srgb"), Features: ("bandwidth",)}[type(kernel)]
    return {name: numbers(getattr(kernel, name)) for name in names}


def numbers(value: Any) -> tuple[float, ...]:
    """One number or several as a tuple; in plain Python, which torch.compile can trace."""
    return (float(value),) if isinstance(value, (int, float)) else tuple(float(v) for v in value)


class TermBuilder:
    """Makes terms of kernels, for scores ``[B, L, *spatial]`` and what comes with them.

    Parameters
    ----------
    scores : in the dtype to compute in
    image : ``[B, C, *spatial]`` or None
    features : one tensor ``[B, d, *spatial]`` for each `Features` kernel, in order
    mask, normalization, method : as in `features_term`
    spacing : size of a pixel along each axis, in the units of sxy

    """

    def __init__(
        self,
        scores: Tensor,
        image: Tensor | None,
        features: Sequence[Tensor],
        mask: Tensor | None,
        normalization: str,
        method: str,
        spacing: float | Sequence[float] | None,
    ) -> None:
        self.scores, self.shape = scores, tuple(scores.shape[2:])
        self.pixels = None if image is None else self._part("image", image, mask)
        self.features = [self._part("features", tensor, mask) for tensor in features]
        self.mask, self.normalization, self.method = mask, normalization, method
        steps = numbers(1 if spacing is None else spacing)
        self.spacing = _checks.per_axis("spacing", steps, len(self.shape), "axes")

    def _part(self, name: str, given: Tensor, mask: Tensor | None) -> Tensor:
        """What takes part; whatever else is there, NaN too, must not reach the bandwidths' gradients."""
        found = _tensors.image(name, given, self.scores)
        if mask is None:
            return found
        points, shape = self.scores.flatten(2), self.shape
        taking_part = cast(Tensor, _tensors.mask(mask, points, shape)).view(-1, 1, *shape)
        return torch.where(taking_part > 0, found, 0)

    def terms(self, kernels: Sequence[Kernel], bandwidths: Sequence[Mapping[str, Tensor]]) -> list[Term]:
        """One term for each kernel; bandwidths by name take the place of the kernel's own."""
        wanted = sum(isinstance(kernel, Features) for kernel in kernels)
        if len(self.features) != wanted:
            raise ValueError(
                f"features: must be one tensor for each of the {wanted} Features kernels, got {len(self.features)}"
            )
        if len(bandwidths) != len(kernels):
            raise ValueError(
                f"bandwidths: must be one mapping for each of {len(kernels)} kernels, got {len(bandwidths)}"
            )
        left = iter(self.features)
        return [self._term(kernel, given, left) for kernel, given in zip(kernels, bandwidths, strict=True)]

    def _term(self, kernel: Kernel, given: Mapping[str, Tensor], left: Any) -> Term:
        names = bandwidths_of(kernel)
        if not names.keys() >= given.keys():
            raise ValueError(f"bandwidths: must be of {', '.join(names)} for this kernel, got {', '.join(given)}")
        how: dict[str, Any] = {
            "method": self.method,
            "normalization": kernel.normalization or self.normalization,
            "mask": self.mask,
        }
        if isinstance(kernel, Gaussian):
            sigma, device = self._sigma(kernel, given), self.scores.device
            return spatial_term(sigma, self.shape, batch=self.scores.shape[0], device=device, **how)
        if isinstance(kernel, Bilateral):
            return self._bilateral(kernel, given)
        features = next(left)
        bandwidths = self._bandwidth(kernel, "bandwidth", given, features.shape[1], "channels").to(features.device)
        return features_term(features / bandwidths.view(-1, *[1] * (features.ndim - 2)), **how)

    def _bilateral(self, kernel: Kernel, given: Mapping[str, Tensor]) -> Term:
        if self.pixels is None:
            raise ValueError("image: must be given for a Bilateral kernel, got None")
        pixels = self.pixels.flatten(2)
        srgb = self._bandwidth(kernel, "srgb", given, pixels.shape[1], "channels")
        points = _features_ops.image_features(pixels, self._sigma(kernel, given), srgb, list(self.shape))
        taking_part = _tensors.mask(self.mask, pixels, self.shape)
        return _lattice_term(points, self.shape, self.method, kernel.normalization or self.normalization, taking_part)

    def _sigma(self, kernel: Kernel, given: Mapping[str, Tensor]) -> Tensor:
        """Bandwidths of positions, in pixels."""
        found = self._bandwidth(kernel, "sxy", given, len(self.shape), "axes")
        if all(step == 1 for step in self.spacing):
            return found
        # select: the gradient of an expanded tensor's unbind is wrong in inductor (torch 2.13)
        return torch.stack([found.select(0, axis) / step for axis, step in enumerate(self.spacing)])

    def _bandwidth(self, kernel: Kernel, name: str, given: Mapping[str, Tensor], count: int, what: str) -> Tensor:
        if name not in given:  # on the CPU, where operators read numbers without waiting for a device
            own = _checks.per_axis(name, bandwidths_of(kernel)[name], count, what)
            return torch.tensor(own, dtype=self.scores.dtype, device="cpu")
        found = _tensors.bandwidth(name, given[name]).reshape(-1).to(self.scores.dtype)
        if found.shape[0] not in (1, count):
            raise ValueError(f"{name}: must be one number or one for each of the {count} {what}, got {found.shape[0]}")
        return found.expand(count)
