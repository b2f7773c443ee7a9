"""Mean field inference in a fully connected CRF (Krähenbühl & Koltun 2011): `refine` and `DenseCRF`."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from densecrf import _checks, _exact, _inputs, _native, _pruning, presets, reference, terms
from densecrf.features import Domain
from densecrf.kernels import Bilateral, Kernel

Array = NDArray[Any]


@dataclass(frozen=True)
class Result:
    """What a run gives back.

    Attributes
    ----------
    probs : marginals Q, ``[L, *spatial]``, float32 (float64 where asked for)
    iterations : how many were done
    free_energy : float64 ``[iterations + 1]``, of Q_0 ... Q_T, where asked for; else None

    """

    probs: Array
    iterations: int
    free_energy: NDArray[np.float64] | None = None

    @cached_property
    def labels(self) -> Array:
        """Most probable label of each pixel, ``[*spatial]``: uint8 up to 256 labels, else int32."""
        return self.probs.argmax(axis=0).astype(np.uint8 if self.probs.shape[0] <= 256 else np.int32)


class DenseCRF:
    """A dense CRF on one image: its lattices are built once and serve any number of score maps.

    Parameters
    ----------
    image : ``[H, W, C]`` or grey ``[H, W]`` (volumes: ``[D, H, W, C]`` or ``[D, H, W]``), or None for kernels that
        need none
    shape : spatial shape; needed without an image, and for a grey volume: (N,), (H, W) or (D, H, W)
    kernels : list of `Gaussian`, `Bilateral`, `Custom`; None: ``presets.DEFAULT.kernels``
    compatibility : "potts" (cost 1 where labels differ), a number (times Potts), the diagonal ``[L]`` of the cost
        matrix (attraction is negative: -1 everywhere equals Potts), or the cost matrix ``[L, L]`` (row: own
        label), which is not symmetrised
    normalization : "symmetric" D^-1/2 K D^-1/2, "after" D^-1 K, "before" K D^-1 or "none", with D = K 1
    method : "tuned" (nearest to the exact answer), "classic" (pydensecrf's numbers), "fast" (about as far from the
        exact answer as classic: fewer vertices, and of an image every second or fourth row, in turns, until the last
        iterations) or "exact" (O(N^2), small images)
    self_message : False leaves out what a pixel says to itself (the paper does; implementations keep it)
    mask : bool ``[*spatial]``; False: the pixel takes no part and keeps the softmax of its own scores
    spacing : size of a pixel along each axis, in the units of sxy (volumes with thick slices)
    dtype : "float32" or "float64": arithmetic and result
    num_threads : threads to use; None: DENSECRF_NUM_THREADS, or all cores

    One object may be used from several threads at once.

    """

    def __init__(
        self,
        image: ArrayLike | None = None,
        *,
        shape: Sequence[int] | None = None,
        kernels: Sequence[Kernel] | None = None,
        compatibility: ArrayLike | str = "potts",
        normalization: str = "symmetric",
        method: str = "tuned",
        self_message: bool = True,
        mask: ArrayLike | None = None,
        spacing: float | Sequence[float] | None = None,
        dtype: DTypeLike = "float32",
        num_threads: int | None = None,
    ) -> None:
        self.method = _checks.choice("method", method, _checks.METHODS)
        self.normalization = _checks.choice("normalization", normalization, _checks.NORMALIZATIONS)
        self.kernels = _inputs.kernels(presets.DEFAULT.kernels if kernels is None else kernels)
        self.compatibility = _inputs.compatibility(compatibility)
        self.dtype = np.dtype(np.float64) if method == "exact" else _native.check_dtype(dtype)
        self.out_dtype = _native.check_dtype(dtype)
        self.self_message = bool(self_message)
        self.num_threads = _native.threads(num_threads)
        pixels, self.shape = _inputs.image_and_shape(image, shape, self.dtype, mask)
        warn_of_units(pixels, self.kernels)
        self.domain = Domain(
            self.shape,
            pixels,
            _inputs.mask(mask, self.shape),
            _inputs.spacing(spacing, len(self.shape)),
            self.dtype,
            self.num_threads,
        )
        self._row_step = self.domain.row_step(self.kernels) if self.method == "fast" else 1
        if self._row_step > 1 and not self.self_message:
            raise ValueError(
                "self_message: must be True with method='fast', which counts some rows for others, got False"
            )
        self._lock = threading.Lock()
        self._prepared: list[Any] | None = None

    def refine(
        self,
        logits: ArrayLike | None = None,
        *,
        probs: ArrayLike | None = None,
        unary: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        num_labels: int | None = None,
        confidence: float = 0.7,
        iterations: int = 5,
        tol: float | None = None,
        damping: float = 0.0,
        initial: ArrayLike | None = None,
        free_energy: bool = False,
        prune: float = 0.0,
        progress: Callable[[int], object] | None = None,
    ) -> Result:
        """Run mean field on one set of scores; parameters as in `densecrf.refine`.

        Step by step: ``out = crf.refine(scores, iterations=1, initial=out.probs)``.
        """
        values, sign = _inputs.scores(
            self.shape, self.dtype, self.domain.mask, logits, probs, unary, labels, num_labels, confidence
        )
        options = _Options(
            source="logits" if logits is not None else "probs" if probs is not None else "unary",
            iterations=_checks.integer("iterations", iterations, 0),
            tol=_inputs.tolerance(tol),
            damping=_inputs.damping(damping),
            initial=_inputs.initial(initial, values.shape[0], self.shape, self.dtype),
            free_energy=bool(free_energy),
            prune=_pruning.tolerance(prune),
            progress=progress,
        )
        if options.prune and self.method == "exact":
            raise ValueError(f"prune: must be 0 with method='exact', which leaves nothing out, got {prune!r}")
        for name, value in (("tol", options.tol), ("damping", options.damping), ("free_energy", options.free_energy)):
            if value and self._row_step > 1:
                raise ValueError(f"{name}: must not be asked of method='fast', which leaves pixels out, got {value!r}")
        compatibility, weights = self._weights(values.shape[0])
        run = self._exact if self.method == "exact" else self._engine
        q, done, energy = run(self._ready(), values, sign, weights, compatibility, options)
        shaped = q.reshape(-1, *self.shape).astype(self.out_dtype, copy=False)
        return Result(shaped, done, energy)

    def reweighted(self, weights: Sequence[Any]) -> DenseCRF:
        """The same CRF, on the same lattices, with other weights of its kernels, one for each."""
        self._ready()
        other = copy.copy(self)
        pairs: Any = zip(self.kernels, weights, strict=True)
        other.kernels = tuple(replace(kernel, weight=weight) for kernel, weight in pairs)
        return other

    def _weights(self, num_labels: int) -> tuple[Any, list[Any]]:
        mu = _checks.weight("compatibility", self.compatibility, num_labels)
        weights = [_checks.weight("weight", kernel.weight, num_labels) for kernel in self.kernels]
        return mu, weights

    def _ready(self) -> list[Any]:
        """The kernels' lattices and grids (features for the exact method), built at the first call."""
        with self._lock:
            if self._prepared is None:
                prepare = self.domain.features if self.method == "exact" else self._term
                self._prepared = [prepare(kernel) for kernel in self.kernels]
            return self._prepared

    # ---- the engine ----

    def _engine(
        self, prepared: list[Any], values: Array, sign: float, weights: list[Any], mu: Any, options: _Options
    ) -> Any:
        couplings = [terms.coupling(mu, weight, self.dtype) for weight in weights]
        initial, kept = options.initial, None
        if options.prune:
            kept = _pruning.alive(values, sign, initial, options.prune, couplings, lambda: self._row_sums)
        if kept is not None and kept.all():
            kept = None
        if kept is not None:
            values = values[kept]
            initial = None if initial is None else initial[kept] / initial[kept].sum(axis=0)
            couplings = [coupling[kept] if np.ndim(coupling) else coupling for coupling in couplings]
        kernels = [(*parts, coupling) for parts, coupling in zip(prepared, couplings, strict=True)]
        mask = None if self.domain.mask is None else self.domain.mask.view(np.uint8)
        normalizations = {kernel.normalization or self.normalization for kernel in self.kernels}
        with _native.speaking_of(options.source):
            q, done, energy = _native.ops(self.dtype).mean_field(
                values,
                sign,
                initial,
                kernels,
                isinstance(mu, float),
                options.iterations,
                options.damping,
                options.tol,
                mask,
                options.free_energy,
                self._row_step,
                self.shape[-1],
                self.method in ("tuned", "fast") and normalizations <= terms.BOUNDED,
                self.num_threads,
                options.progress,
            )
        return q if kept is None else _pruning.restored(q, kept), done, energy

    @cached_property
    def _row_sums(self) -> list[float]:
        about = self.domain.size, self.dtype, self.num_threads
        return [self._row_step * _pruning.row_sums(parts, *about) for parts in self._ready()]

    def _term(self, kernel: Kernel) -> tuple[Any, ...]:
        return terms.prepare(self.domain, kernel, self.method, self.normalization, self.self_message)

    # ---- the exact reference ----

    def _exact(
        self, prepared: list[Any], values: Array, sign: float, weights: list[Any], mu: Any, options: _Options
    ) -> Any:
        part = slice(None) if self.domain.mask is None else self.domain.mask
        energies = _checks.finite(options.source, -sign * values)
        exact = [
            (features[part], weight, kernel.normalization or self.normalization)
            for features, weight, kernel in zip(prepared, weights, self.kernels, strict=True)
        ]
        matrix = partial(_exact.Matrix, dtype=self.out_dtype, num_threads=self.num_threads)
        pairwise = reference.Pairwise(exact, mu, self.self_message, matrix=matrix)
        q = reference.softmax(-energies)
        inner = q[:, part] if options.initial is None else options.initial[:, part]
        unary = energies[:, part]
        trace = [reference.free_energy(unary, inner, pairwise)] if options.free_energy else None
        done = 0

        def note(t: int, now: Array) -> None:
            nonlocal done
            done = t
            if trace is not None:
                trace.append(reference.free_energy(unary, now, pairwise))
            if options.progress is not None:
                options.progress(t)

        q[:, part] = reference.mean_field(
            unary,
            pairwise,
            iterations=options.iterations,
            damping=options.damping,
            tol=options.tol or None,
            initial=inner,
            on_iteration=note,
        )
        return q, done, None if trace is None else np.array(trace)


@dataclass(frozen=True)
class _Options:
    """How one run goes."""

    source: str  # argument that the scores came in, for messages
    iterations: int
    tol: float
    damping: float
    initial: Array | None
    free_energy: bool
    prune: float
    progress: Callable[[int], object] | None


def warn_of_units(image: Array | None, kernels: Sequence[Kernel]) -> None:
    """Warn of a 0-1 image under 0-255 bandwidths, and of the reverse."""
    smallest = [min(_checks.bandwidths("srgb", k.srgb)) for k in kernels if isinstance(k, Bilateral)]
    if image is None or not smallest:
        return
    wide, narrow = image.dtype.kind == "f" and min(smallest) >= 1, max(smallest) < 0.5
    if not wide and not narrow:
        return
    brightest = float(image.max())
    if wide and 0 < brightest <= 1:
        warnings.warn(
            f"image has values up to {brightest:g} but srgb is {min(smallest):g}, made for 0 to 255: colours will "
            "hardly matter; multiply the image by 255 or divide srgb by it",
            stacklevel=4,
        )
    if narrow and brightest > 2:
        warnings.warn(
            f"image has values up to {brightest:g} but srgb is {max(smallest):g}, made for 0 to 1: only equal "
            "colours will count as similar; divide the image by 255 or multiply srgb by it",
            stacklevel=4,
        )


def refine(
    image: ArrayLike | None = None,
    *,
    logits: ArrayLike | None = None,
    probs: ArrayLike | None = None,
    unary: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    num_labels: int | None = None,
    confidence: float = 0.7,
    kernels: Sequence[Kernel] | None = None,
    compatibility: ArrayLike | str = "potts",
    normalization: str = "symmetric",
    iterations: int = 5,
    method: str = "tuned",
    tol: float | None = None,
    damping: float = 0.0,
    self_message: bool = True,
    mask: ArrayLike | None = None,
    spacing: float | Sequence[float] | None = None,
    initial: ArrayLike | None = None,
    free_energy: bool = False,
    prune: float = 0.0,
    dtype: DTypeLike = "float32",
    num_threads: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Result:
    """Refine a network's segmentation of an image with a dense CRF.

    Minimises ``E(x) = sum_i psi_i(x_i) + sum_{i<j} sum_m w_m mu_m(x_i, x_j) k_m(f_i, f_j)`` by mean field
    (Krähenbühl & Koltun 2011, algorithm 1), all pixels at once.

    Parameters
    ----------
    image : uint8 or float ``[H, W, C]`` or grey ``[H, W]``; volumes ``[D, H, W, C]`` or ``[D, H, W]``; None for
        kernels that need no image
    logits : ``[L, *spatial]``, a network's output before the softmax; a map smaller than the image is upsampled
        bilinearly with half-pixel centres (PyTorch's align_corners=False)
    probs : ``[L, *spatial]``, probabilities
    unary : ``[L, *spatial]``, energies -log p
    labels : integers ``[*spatial]``, -1 = unknown; see `densecrf.unary.from_labels` for `num_labels` and
        `confidence`. Exactly one of logits, probs, unary and labels is given, each of any real dtype and layout.
    kernels, compatibility, normalization, method, self_message, mask, spacing, dtype, num_threads
        as in `DenseCRF`
    iterations : at most this many
    tol : stop once no probability changes by as much as this in an iteration
    damping : a in [0, 1): Q <- a Q_old + (1 - a) Q_new
    initial : ``[L, *spatial]``, a Q to continue from; None: the softmax of the scores
    free_energy : also compute the free energy of Q_0 ... Q_T: sum Q (U + log Q) + 1/2 sum Q E(Q)
    prune : leave out labels that can nowhere exceed this probability, which a bound on their messages tells; they get
        probability 0. Pays with many labels of which an image shows a few; needs Potts or couplings of one sign
    progress : called with the number of iterations done, between iterations

    Returns
    -------
    Result
        probs ``[L, *spatial]``, labels ``[*spatial]``, iterations, free_energy

    Raises
    ------
    ValueError, TypeError
        An argument breaks its rule; the message names argument and rule and says what came.

    """
    given = _inputs.first(logits, probs, unary, labels)
    shape = _inputs.spatial_shape(image, given, labels is not None)
    crf = DenseCRF(
        image,
        shape=shape,
        kernels=kernels,
        compatibility=compatibility,
        normalization=normalization,
        method=method,
        self_message=self_message,
        mask=mask,
        spacing=spacing,
        dtype=dtype,
        num_threads=num_threads,
    )
    return crf.refine(
        logits,
        probs=probs,
        unary=unary,
        labels=labels,
        num_labels=num_labels,
        confidence=confidence,
        iterations=iterations,
        tol=tol,
        damping=damping,
        initial=initial,
        free_energy=free_energy,
        prune=prune,
        progress=progress,
    )
