"""The layers: `DenseCRF`, `CRFasRNN` and `LatticeFilter`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from densecrf import _checks, _inputs, presets
from densecrf.kernels import Bandwidth, Bilateral, Gaussian, Kernel
from densecrf.nn import _tensors, functional
from densecrf.nn.terms import bandwidths_of

FORMS = ("scalar", "label", "matrix")
COMPATIBILITIES = ("potts", "vector", "matrix")
OUTPUTS = ("logits", "probs", "log_probs")


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
    lattice_dtype : torch.bfloat16 stores lattice values in 16 bits (on CUDA), see `functional.mean_field`; None: as the
        rest

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
        lattice_dtype: torch.dtype | None = None,
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
        self.spacing = None if spacing is None else _checks.bandwidths("spacing", spacing, "steps")
        self.recompute = recompute
        self.lattice_dtype = lattice_dtype
        self._looked_at_units = False
        labels = max(self.num_labels, 2)
        for k, kernel in enumerate(self.kernels):
            self.register_parameter(f"weight_{k}", nn.Parameter(_weight(kernel.weight, weights, labels)))
            for name, value in bandwidths_of(kernel).items():
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
        _tensors.device("logits", logits)
        if logits.ndim > 1 and logits.shape[1] != self.num_labels:
            raise ValueError(f"logits: must have shape [B, {self.num_labels}, *spatial], got {list(logits.shape)}")
        scores = _tensors.scores(logits)  # in the dtype to compute in
        refined = functional.dense_crf(
            torch.cat([torch.zeros_like(scores), scores], dim=1) if self.num_labels == 1 else scores,
            image,
            kernels=self.kernels,
            weights=[getattr(self, f"weight_{k}") for k in range(len(self.kernels))],
            bandwidths=[self._bandwidths(k) for k in range(len(self.kernels))],
            compatibility=self.compatibility,
            features=features,
            mask=mask,
            iterations=self.iterations if self.training else self.eval_iterations,
            normalization=self.normalization,
            method=self.method,
            spacing=self.spacing,
            recompute=self.recompute,
            lattice_dtype=self.lattice_dtype,
        )
        self._warn_of_units(image)
        with torch.autocast(device_type=logits.device.type, enabled=False):
            return self._finished(refined).to(logits.dtype)

    def _bandwidths(self, k: int) -> dict[str, Tensor]:
        """The learned bandwidths of a kernel, by name."""
        logs = {name: getattr(self, f"log_{name}_{k}") for name in bandwidths_of(self.kernels[k])}
        return {name: log.exp() for name, log in logs.items() if log is not None}

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
        if torch.compiler.is_compiling() or self._looked_at_units or type(image) is not Tensor:
            return  # not while something is traced, either
        smallest = [min(_checks.bandwidths("srgb", k.srgb)) for k in self.kernels if isinstance(k, Bilateral)]
        self._looked_at_units = True
        if smallest and min(smallest) >= 1 and image.is_floating_point() and 0 < float(image.detach().abs().max()) <= 4:
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
        self.kernels = Gaussian(sxy=self.gamma), Bilateral(sxy=self.alpha, srgb=self.beta)
        self.method = _checks.choice("method", method, ("tuned", "classic"))
        self.recompute = recompute
        eye = torch.eye(num_labels)
        self.spatial_ker_weights = nn.Parameter(_checks.number("spatial_weight", spatial_weight) * eye)
        self.bilateral_ker_weights = nn.Parameter(_checks.number("bilateral_weight", bilateral_weight) * eye)
        self.compatibility_matrix = nn.Parameter(eye.clone())

    def forward(self, logits: Tensor, image: Tensor, mask: Tensor | None = None) -> Tensor:
        """Refine logits ``[B, L, H, W]`` with images ``[B, 3, H, W]`` in 0 ... 255; logits ``[B, L, H, W]`` out."""
        _tensors.device("logits", logits)
        if logits.ndim != 4 or logits.shape[1] != self.num_labels:
            raise ValueError(f"logits: must have shape [B, {self.num_labels}, H, W], got {list(logits.shape)}")
        return functional.dense_crf(
            logits,
            image,
            kernels=self.kernels,
            weights=[self.spatial_ker_weights, self.bilateral_ker_weights],
            compatibility=-self.compatibility_matrix,
            mask=mask,
            iterations=self.iterations if self.training else self.eval_iterations,
            normalization="after",
            method=self.method,
            recompute=self.recompute,
        )

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
        with torch.autocast(device_type=_tensors.device("values", values).type, enabled=False):
            points = _tensors.image("features", features, values.to(_tensors.compute_dtype("values", values)))
            bandwidth = points.new_tensor(self.bandwidth) if self.log_bandwidth is None else self.log_bandwidth.exp()
            if bandwidth.shape[0] not in (1, points.shape[1]):
                raise ValueError(f"bandwidth: must be one number or one for each of the {points.shape[1]} dimensions")
            scaled = points / bandwidth.to(points.dtype).view(1, -1, *[1] * (points.ndim - 2))
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
