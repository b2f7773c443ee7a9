"""The layers: `DenseCRF`, `CRFasRNN` and `LatticeFilter`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from densecrf import _checks, _inputs, presets
from densecrf.kernels import Bandwidth, Bilateral, Custom, Gaussian, Kernel
from densecrf.nn import _tensors, functional

FORMS = ("scalar", "label", "matrix")
COMPATIBILITIES = ("potts", "vector", "matrix")
OUTPUTS = ("logits", "probs", "log_probs")


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


class DenseCRF(nn.Module):
    """A fully connected CRF on top of a segmentation network, trainable end to end.

    Mean field (Krähenbühl & Koltun 2011) unrolled for a fixed number of updates, as in CRF-as-RNN (Zheng et al. 2015).

    Parameters
    ----------
    num_labels : L; 1 means one channel for two labels, as with binary cross entropy on logits
    kernels : list of `densecrf.Gaussian`, `densecrf.Bilateral` and `Features`, whose weights are where learning
        starts; None: ``densecrf.presets.DEFAULT.kernels``
    iterations : updates, in ``train()`` and in ``eval()``
    eval_iterations : updates in ``eval()``, if not the same (Zheng et al.: 5 and 10)
    weights : what each kernel learns: "scalar" one number, "label" one per label, "matrix" ``[L, L]``
    compatibility : "potts" (not learned), "vector" (the diagonal of the cost matrix) or "matrix"; learning starts at
        Potts, -1 on the diagonal
    learn_bandwidths : learn the kernels' bandwidths, too (their logarithms)
    normalization : "symmetric", "after", "before" or "none"
    method : "tuned" (nearest to the exact answer) or "classic" (pydensecrf's numbers)
    output : "logits", "probs" or "log_probs"
    spacing : size of a pixel along each axis, in the units of sxy
    recompute : True keeps little memory for the backward pass and takes more time; None: where there is much to keep

    Examples
    --------
    >>> crf = DenseCRF(num_labels=21, weights="label")                          # doctest: +SKIP
    >>> loss = cross_entropy(crf(logits, image), labels)

    """

    compatibility: Tensor | None

    def __init__(
        self,
        num_labels: int,
        kernels: Sequence[Kernel] | None = None,
        iterations: int = 5,
        *,
        eval_iterations: int | None = None,
        weights: str = "scalar",
        compatibility: str = "potts",
        learn_bandwidths: bool = False,
        normalization: str = "symmetric",
        method: str = "tuned",
        output: str = "logits",
        spacing: float | Sequence[float] | None = None,
        recompute: bool | None = None,
    ) -> None:
        super().__init__()
        self.num_labels = _checks.integer("num_labels", num_labels, 1)
        self.kernels = _inputs.kernels(presets.DEFAULT.kernels if kernels is None else kernels)
        self.iterations = _checks.integer("iterations", iterations, 0)
        self.eval_iterations = (
            self.iterations if eval_iterations is None else _checks.integer("eval_iterations", eval_iterations, 0)
        )
        self.weights = _checks.choice("weights", weights, FORMS)
        self.compatibility_form = _checks.choice("compatibility", compatibility, COMPATIBILITIES)
        self.learn_bandwidths = bool(learn_bandwidths)
        self.normalization = _checks.choice("normalization", normalization, _checks.NORMALIZATIONS)
        self.method = _checks.choice("method", method, ("tuned", "classic"))
        self.output = _checks.choice("output", output, OUTPUTS)
        self.spacing = spacing
        self.recompute = recompute
        self._looked_at_units = False
        labels = max(self.num_labels, 2)
        for k, kernel in enumerate(self.kernels):
            if isinstance(kernel, Custom):
                raise TypeError("kernels: must be Gaussian, Bilateral or Features (whose features go to forward)")
            self.register_parameter(f"weight_{k}", nn.Parameter(_weight(kernel.weight, weights, labels)))
            for name, value in _bandwidths(kernel).items():
                logs = torch.tensor(value, dtype=torch.float64).log().float()
                self.register_parameter(f"log_{name}_{k}", nn.Parameter(logs) if learn_bandwidths else None)
        start = {"potts": None, "vector": -torch.ones(labels), "matrix": -torch.eye(labels)}[compatibility]
        self.register_parameter("compatibility", None if start is None else nn.Parameter(start))

    def forward(
        self,
        logits: Tensor,
        image: Tensor | None = None,
        features: Tensor | Sequence[Tensor] | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Refine the network's scores.

        Parameters
        ----------
        logits : ``[B, L, *spatial]``, before the softmax; one to three spatial axes
        image : ``[B, C, *spatial]``, in the units of the bandwidths (0 to 255 for srgb=4): not normalised
        features : ``[B, d, *spatial]``, for a `Features` kernel; a list for several of them
        mask : bool ``[B, *spatial]``; False: the pixel takes no part and keeps its own scores (batches of images
            of different sizes)

        Returns
        -------
        Tensor
            ``[B, L, *spatial]``, in the logits' dtype

        Raises
        ------
        ValueError, TypeError
            An argument breaks its rule; NaN or inf.

        """
        iterations = self.iterations if self.training else self.eval_iterations
        with torch.autocast(device_type=logits.device.type, enabled=False):
            scores = self._scores(logits, image, features, mask, iterations)
            return self._finished(scores).to(logits.dtype)

    def _scores(
        self,
        logits: Tensor,
        image: Tensor | None,
        features: Tensor | Sequence[Tensor] | None,
        mask: Tensor | None,
        iterations: int,
    ) -> Tensor:
        dtype = _tensors.compute_dtype("logits", logits)
        if not 3 <= logits.ndim <= 5:
            raise ValueError(f"logits: must have shape [B, L, *spatial] with 1 to 3 axes, got {list(logits.shape)}")
        if logits.shape[1] != self.num_labels:
            raise ValueError(f"logits: must have {self.num_labels} labels, got shape {list(logits.shape)}")
        scores = logits.to(dtype)
        if self.num_labels == 1:
            scores = torch.cat([torch.zeros_like(scores), scores], dim=1)
        pixels = None if image is None else _tensors.image(image, logits, dtype)
        self._warn_of_units(image)
        terms = self._terms(scores, pixels, _listed(features), mask)
        couplings = [self._coupling(k).to(dtype) for k in range(len(self.kernels))]
        return functional.mean_field(scores, terms, couplings, iterations=iterations, recompute=self.recompute)

    def _terms(
        self, scores: Tensor, pixels: Tensor | None, given: list[Tensor], mask: Tensor | None
    ) -> list[functional.Term]:
        wanted = sum(isinstance(kernel, Features) for kernel in self.kernels)
        if len(given) != wanted:
            raise ValueError(
                f"features: must be one tensor for each of the {wanted} Features kernels, got {len(given)}"
            )
        left = iter(given)
        terms = []
        for k, kernel in enumerate(self.kernels):
            how: dict[str, Any] = {
                "method": self.method,
                "normalization": kernel.normalization or self.normalization,
                "mask": mask,
            }
            shape = tuple(scores.shape[2:])
            if isinstance(kernel, Gaussian):
                sigma = self._bandwidth(k, "sxy", len(shape), scores)
                terms.append(functional.spatial_term(sigma, shape, batch=scores.shape[0], **how))
            elif isinstance(kernel, Bilateral):
                terms.append(functional.features_term(self._bilateral(k, pixels, scores), **how))
            else:
                features = _tensors.image(next(left), scores, scores.dtype)
                bandwidth = self._bandwidth(k, "bandwidth", features.shape[1], scores)
                terms.append(functional.features_term(features / _per_channel(bandwidth, features), **how))
        return terms

    def _bilateral(self, k: int, pixels: Tensor | None, scores: Tensor) -> Tensor:
        if pixels is None:
            raise ValueError("image: must be given for a Bilateral kernel, got None")
        shape = tuple(scores.shape[2:])
        places = _tensors.positions(self._bandwidth(k, "sxy", len(shape), scores), shape)
        colours = pixels / _per_channel(self._bandwidth(k, "srgb", pixels.shape[1], scores), pixels)
        return torch.cat([places.unsqueeze(0).expand(scores.shape[0], *places.shape), colours], dim=1)

    def _bandwidth(self, k: int, name: str, count: int, like: Tensor) -> Tensor:
        """Bandwidths of a kernel, one for each of `count` axes or channels; positions in pixels."""
        what = "axes" if name == "sxy" else "channels"
        learned = getattr(self, f"log_{name}_{k}")
        if learned is None:
            numbers = _checks.per_axis(name, _bandwidths(self.kernels[k])[name], count, what)
            found = torch.tensor(numbers, dtype=like.dtype, device=like.device)
        else:
            found = learned.to(like.dtype).exp()
            if found.shape[0] not in (1, count):
                raise ValueError(f"{name}: must be one number or one for each of the {count} {what}")
            found = found.expand(count)
        if name != "sxy" or self.spacing is None:
            return found
        steps = _inputs.spacing(self.spacing, count)
        return found / torch.tensor(steps, dtype=like.dtype, device=like.device)

    def _coupling(self, k: int) -> Tensor:
        return functional.coupling(self.compatibility, getattr(self, f"weight_{k}"))

    def _finished(self, scores: Tensor) -> Tensor:
        if self.num_labels == 1:
            scores = scores[:, 1:] - scores[:, :1]
            if self.output == "logits":
                return scores
            return scores.sigmoid() if self.output == "probs" else nn.functional.logsigmoid(scores)
        if self.output == "logits":
            return scores
        return scores.softmax(dim=1) if self.output == "probs" else scores.log_softmax(dim=1)

    def _warn_of_units(self, image: Tensor | None) -> None:
        """Once, warn of an image in 0-1 under bandwidths made for 0-255."""
        if torch.compiler.is_compiling() or self._looked_at_units or image is None:
            return
        smallest = [min(_checks.bandwidths("srgb", k.srgb)) for k in self.kernels if isinstance(k, Bilateral)]
        self._looked_at_units = True
        if smallest and min(smallest) >= 1 and image.is_floating_point() and float(image.detach().abs().max()) <= 4:
            warnings.warn(
                f"image has values within -4 to 4 but srgb is {min(smallest):g}, made for 0 to 255: colours will "
                "hardly matter; pass the image as it was before it was normalised",
                stacklevel=4,
            )

    def extra_repr(self) -> str:
        """Say how the layer is set."""
        iterations = str(self.iterations)
        if self.eval_iterations != self.iterations:
            iterations += f" (eval {self.eval_iterations})"
        kernels = ", ".join(repr(kernel) for kernel in self.kernels)
        return (
            f"num_labels={self.num_labels}, kernels=[{kernels}], iterations={iterations}, weights={self.weights!r}, "
            f"compatibility={self.compatibility_form!r}, learn_bandwidths={self.learn_bandwidths}, "
            f"normalization={self.normalization!r}, method={self.method!r}, output={self.output!r}"
        )


class CRFasRNN(nn.Module):
    """The layer of Zheng et al. 2015 ("Conditional random fields as recurrent neural networks").

    Learns an ``[L, L]`` matrix for each of its two kernels and an ``[L, L]`` compatibility, which here is added
    (``z = logits + C (W_s K_s Q + W_b K_b Q)``) and starts as the identity. Parameters have the names of
    crfasrnn_pytorch, whose state dicts load as they are and whose outputs it reproduces.

    Parameters
    ----------
    num_labels : L
    iterations, eval_iterations : updates in ``train()`` and in ``eval()``; 5 and 10 as published (crfasrnn_pytorch: 5)
    alpha, beta, gamma : bandwidths: positions and colours of the bilateral kernel, positions of the spatial one
    spatial_weight, bilateral_weight : the kernels' weights to begin with, times the identity
    method : "classic" (the published lattice) or "tuned" (nearer to the exact Gaussian)
    recompute : as in `DenseCRF`

    """

    def __init__(
        self,
        num_labels: int,
        iterations: int = 5,
        *,
        eval_iterations: int = 10,
        alpha: float = 160.0,
        beta: float = 3.0,
        gamma: float = 3.0,
        spatial_weight: float = 3.0,
        bilateral_weight: float = 5.0,
        method: str = "classic",
        recompute: bool | None = None,
    ) -> None:
        super().__init__()
        self.num_labels = _checks.integer("num_labels", num_labels, 2)
        self.iterations = _checks.integer("iterations", iterations, 0)
        self.eval_iterations = _checks.integer("eval_iterations", eval_iterations, 0)
        self.alpha, self.beta, self.gamma = (
            _checks.bandwidths(name, value)[0] for name, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma))
        )
        self.method = _checks.choice("method", method, ("tuned", "classic"))
        self.recompute = recompute
        eye = torch.eye(num_labels)
        self.spatial_ker_weights = nn.Parameter(_checks.number("spatial_weight", spatial_weight) * eye)
        self.bilateral_ker_weights = nn.Parameter(_checks.number("bilateral_weight", bilateral_weight) * eye)
        self.compatibility_matrix = nn.Parameter(eye.clone())

    def forward(self, logits: Tensor, image: Tensor, mask: Tensor | None = None) -> Tensor:
        """Refine logits ``[B, L, H, W]`` with images ``[B, 3, H, W]`` in 0 ... 255; logits ``[B, L, H, W]`` out."""
        iterations = self.iterations if self.training else self.eval_iterations
        with torch.autocast(device_type=logits.device.type, enabled=False):
            dtype = _tensors.compute_dtype("logits", logits)
            if logits.ndim != 4 or logits.shape[1] != self.num_labels:
                raise ValueError(f"logits: must have shape [B, {self.num_labels}, H, W], got {list(logits.shape)}")
            pixels = _tensors.image(image, logits, dtype)
            shape = tuple(logits.shape[2:])
            how: dict[str, Any] = {"method": self.method, "normalization": "after", "mask": mask}
            gamma, alpha = (torch.full((2,), s, dtype=dtype, device=logits.device) for s in (self.gamma, self.alpha))
            places = _tensors.positions(alpha, shape).unsqueeze(0).expand(logits.shape[0], 2, *shape)
            terms = [
                functional.spatial_term(gamma, shape, batch=logits.shape[0], **how),
                functional.features_term(torch.cat([places, pixels / self.beta], dim=1), **how),
            ]
            matrices = self.spatial_ker_weights, self.bilateral_ker_weights
            couplings = [(self.compatibility_matrix @ matrix).to(dtype) for matrix in matrices]
            scores = functional.mean_field(
                logits.to(dtype), terms, couplings, iterations=iterations, recompute=self.recompute
            )
            return scores.to(logits.dtype)

    def extra_repr(self) -> str:
        """Say how the layer is set."""
        return (
            f"num_labels={self.num_labels}, iterations={self.iterations} (eval {self.eval_iterations}), "
            f"alpha={self.alpha:g}, beta={self.beta:g}, gamma={self.gamma:g}, method={self.method!r}"
        )


class LatticeFilter(nn.Module):
    """Gaussian filter of values ``[B, C, *spatial]`` in the space of features ``[B, d, *spatial]``, as a layer.

    Parameters
    ----------
    bandwidth : of the features; one number, or one per dimension
    learn_bandwidth : learn its logarithm
    normalization : "after" (a weighted mean), "symmetric", "before" or "none"
    method : "tuned" or "classic"

    """

    log_bandwidth: Tensor | None

    def __init__(
        self,
        bandwidth: Bandwidth = 1.0,
        *,
        learn_bandwidth: bool = False,
        normalization: str = "after",
        method: str = "tuned",
    ) -> None:
        super().__init__()
        self.bandwidth = _checks.bandwidths("bandwidth", bandwidth)
        self.normalization = _checks.choice("normalization", normalization, _checks.NORMALIZATIONS)
        self.method = _checks.choice("method", method, ("tuned", "classic"))
        logs = nn.Parameter(torch.tensor(self.bandwidth).log()) if learn_bandwidth else None
        self.register_parameter("log_bandwidth", logs)

    def forward(self, values: Tensor, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Filter; the same shape and dtype out."""
        with torch.autocast(device_type=values.device.type, enabled=False):
            dtype = _tensors.compute_dtype("values", values)
            points = _tensors.image(features, values, dtype)
            if self.log_bandwidth is None:
                bandwidth = torch.tensor(self.bandwidth, dtype=dtype, device=values.device)
            else:
                bandwidth = self.log_bandwidth.to(dtype).exp()
            if bandwidth.shape[0] not in (1, points.shape[1]):
                raise ValueError(f"bandwidth: must be one number or one for each of the {points.shape[1]} dimensions")
            scaled = points / _per_channel(bandwidth.expand(points.shape[1]), points)
            return functional.lattice_filter(
                values, scaled, method=self.method, normalization=self.normalization, mask=mask
            )

    def extra_repr(self) -> str:
        """Say how the layer is set."""
        numbers = ", ".join(f"{b:g}" for b in self.bandwidth)
        learned = ", learned" if self.log_bandwidth is not None else ""
        return f"bandwidth={numbers}{learned}, normalization={self.normalization!r}, method={self.method!r}"


def _weight(value: Any, form: str, labels: int) -> Tensor:
    """A kernel's weight to begin with, in the form that is learned."""
    found = torch.as_tensor(_checks.weight("weight", value, None if form == "scalar" else labels), dtype=torch.float32)
    if found.ndim > FORMS.index(form):
        raise ValueError(f"weight: must be a number for weights={form!r}, got shape {list(found.shape)}")
    if form == "scalar" or found.ndim == 2:
        return found
    return found.expand(labels).clone() if form == "label" else torch.diag(found.expand(labels))


def _bandwidths(kernel: Kernel) -> dict[str, tuple[float, ...]]:
    """The bandwidths that a kernel has, by name."""
    names = {Gaussian: ("sxy",), Bilateral: ("sxy", "srgb"), Features: ("bandwidth",)}[type(kernel)]
    return {name: _checks.bandwidths(name, getattr(kernel, name)) for name in names}


def _per_channel(bandwidth: Tensor, like: Tensor) -> Tensor:
    return bandwidth.view(1, -1, *[1] * (like.ndim - 2))


def _listed(features: Tensor | Sequence[Tensor] | None) -> list[Tensor]:
    if features is None:
        return []
    return [features] if isinstance(features, Tensor) else list(features)
