"""pydensecrf.densecrf: DenseCRF and DenseCRF2D.

As in pydensecrf, energies are copied and lattices built where they are given, so that steps build nothing; unlike
there, a CRF is plain data, which can be pickled.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import densecrf.compat.pydensecrf as front_end
from densecrf import _checks, _native, terms
from densecrf.compat.pydensecrf import arrays, eigen
from densecrf.compat.pydensecrf.eigen import MatrixXf
from densecrf.compat.pydensecrf.unaries import ConstUnary, LogisticUnary, Unary
from densecrf.features import Domain
from densecrf.kernels import Bilateral, Custom, Gaussian, Kernel
from densecrf.mean_field import warn_of_units

__all__ = [
    "CONST_KERNEL",
    "DIAG_KERNEL",
    "FULL_KERNEL",
    "NORMALIZE_AFTER",
    "NORMALIZE_BEFORE",
    "NORMALIZE_SYMMETRIC",
    "NO_NORMALIZATION",
    "ConstUnary",
    "DenseCRF",
    "DenseCRF2D",
    "KernelType",
    "LogisticUnary",
    "NormalizationType",
    "Unary",
    "eigen",
]


class KernelType(IntEnum):
    """Parameters of a kernel that could be learned; inference does not depend on it, here and in pydensecrf."""

    CONST_KERNEL = 0
    DIAG_KERNEL = 1
    FULL_KERNEL = 2


class NormalizationType(IntEnum):
    """Of the Gaussian sums; NO_NORMALIZATION leaves them as they are (pydensecrf computes a mean, and drops it)."""

    NO_NORMALIZATION = 0
    NORMALIZE_BEFORE = 1
    NORMALIZE_AFTER = 2
    NORMALIZE_SYMMETRIC = 3


CONST_KERNEL, DIAG_KERNEL, FULL_KERNEL = KernelType
NO_NORMALIZATION, NORMALIZE_BEFORE, NORMALIZE_AFTER, NORMALIZE_SYMMETRIC = NormalizationType

_FLOAT = np.dtype(np.float32)
_Enum = TypeVar("_Enum", bound=IntEnum)
_NAMES = dict(zip(NormalizationType, ("none", "before", "after", "symmetric"), strict=True))


class DenseCRF:
    """A CRF of `nvar` points and `nlabels` labels; more arguments are ignored, as in pydensecrf."""

    def __init__(self, nvar: Any, nlabels: Any, *_: Any, **__: Any) -> None:
        self._spatial: tuple[int, ...] = (_size("nvar", nvar),)
        self._labels = _size("nlabels", nlabels)
        self._method = _checks.choice("densecrf.compat.pydensecrf.method", front_end.method, ("classic", "tuned"))
        self._energies: NDArray[np.float32] | None = None
        self._terms: list[tuple[Any, ...]] = []
        self._float16 = self._method != "classic"

    @property
    def _shape(self) -> tuple[int, int]:
        return self._labels, int(np.prod(self._spatial))

    def addPairwiseEnergy(
        self, features: Any, compat: Any, kernel: int = DIAG_KERNEL, normalization: int = NORMALIZE_SYMMETRIC
    ) -> None:
        """Add a kernel on features ``[F, N]`` that have been divided by their bandwidths.

        Parameters
        ----------
        features : ``[F, N]`` or ``[F, *spatial]``
        compat : number w for Potts, an energy of -w where labels agree; vector ``[L]``, the diagonal of the energies;
            matrix ``[L, L]`` of energies, of which the symmetric part counts
        kernel : a `KernelType`, without effect
        normalization : a `NormalizationType`

        """
        found = arrays.matrix("features", "pairwise energy", features, None, self._spatial)
        self._add(Custom(found.T, self._weight(compat)), kernel, normalization)

    def setUnary(self, u: Any) -> None:
        """Take the energies of a `ConstUnary` or `LogisticUnary`; it may be used again, unlike pydensecrf's."""
        if not isinstance(u, Unary):
            expected = "expected pydensecrf.densecrf.Unary"
            raise TypeError(f"Argument 'u' has incorrect type ({expected}, got {type(u)}); use setUnaryEnergy(u)")
        if u.energies is not None:
            arrays.matrix("u", "unary energy", u.energies, self._labels, self._spatial)
        self._energies = u.energies

    def setUnaryEnergy(self, u: Any, f: Any = None) -> None:
        """Set the energies u ``[L, N]`` (or ``[L, *spatial]``), -log p; with features f ``[F, N]``, u ``[L, F]`` f."""
        if f is not None:
            self.setUnary(LogisticUnary(u, f))
        else:
            self.setUnary(ConstUnary(arrays.matrix("u", "unary energy", u, self._labels, self._spatial)))

    def inference(self, niter: int) -> MatrixXf:
        """Q ``[L, N]`` after so many iterations; without a unary from the uniform Q on."""
        return self._run(self._unary(), None, max(0, _integer(niter)))[0].view(MatrixXf)

    def startInference(self) -> tuple[MatrixXf, MatrixXf, MatrixXf]:
        """Q before the first step, and two matrices to pass on to `stepInference`; without a unary Q is 0."""
        if self._energies is None:
            return np.zeros(self._shape, np.float32).view(MatrixXf), MatrixXf(), MatrixXf()
        return self.inference(0), MatrixXf(), MatrixXf()

    def stepInference(self, Q: Any, tmp1: Any, tmp2: Any) -> None:
        """One iteration, in place: Q is overwritten. tmp1 and tmp2 are not used."""
        if not isinstance(Q, np.ndarray) or Q.shape != self._shape:
            rule = f"must be the {list(self._shape)} matrix that startInference gave, to be written to"
            raise TypeError(f"Q: {rule}, got {np.shape(Q) if isinstance(Q, np.ndarray) else type(Q)}")
        Q[...] = self._run(self._unary(), arrays.float32("Q", Q), 1)[0]

    def klDivergence(self, Q: Any) -> float:
        """Sum Q log Q + Q U + Q E(Q), with the pairwise energies E of Q: pydensecrf's formula, without their half.

        It is no divergence and may be negative; `densecrf.refine` has the functional that mean field minimises.
        """
        q = arrays.matrix("Q", "Q", Q, self._labels, self._spatial)
        doubled = [(*parts, 2 * coupling) for *parts, coupling in self._terms]  # the engine halves it, rightly
        without_unary = self._run(np.zeros(self._shape, np.float32), q, 0, doubled)[1]
        unary = 0.0 if self._energies is None else np.multiply(q, self._unary(), dtype=np.float64).sum()
        return float(without_unary + unary)

    # ---- the engine ----

    def _unary(self) -> NDArray[np.float32]:
        return np.zeros(self._shape, np.float32) if self._energies is None else self._energies.reshape(self._shape)

    def _run(
        self, unary: NDArray[np.float32], initial: Any, iterations: int, kernels: list[Any] | None = None
    ) -> tuple[NDArray[np.float32], Any]:
        """Q ``[L, N]``, and the free energy of `initial` with `kernels`, where they are given."""
        wanted = kernels is not None
        chosen = self._terms if kernels is None else kernels
        with _native.speaking_of("Q"):
            q, _, energy = _native.ops(_FLOAT).mean_field(
                unary,
                -1.0,
                initial,
                chosen,
                not wanted,
                iterations,
                0.0,
                0.0,
                None,
                wanted,
                0,  # of every row
                unary.shape[1],
                self._float16 and initial is None,  # any Q may be given, also one beyond 1
                _native.threads(),
                None,
            )
        return q, None if energy is None else energy[0]

    def _add(self, kernel: Kernel, kernel_type: int, normalization: int, image: Any = None) -> None:
        """Build the kernel's lattice."""
        _enum("kernel", kernel_type, KernelType)
        name = _NAMES[_enum("normalization", normalization, NormalizationType)]
        steps = (1.0,) * len(self._spatial)
        domain = Domain(self._spatial, image, None, steps, _FLOAT, _native.threads())
        parts = terms.prepare(domain, kernel, self._method, name)
        self._float16 = self._float16 and name in terms.BOUNDED
        self._terms.append((*parts, terms.coupling(1.0, kernel.weight, _FLOAT)))

    def _weight(self, compat: Any) -> Any:
        """What a filtered Q adds to the scores: w, -v, -(m + m^T) / 2."""
        if arrays.is_number(compat):
            return _checks.weight("compat", float(compat))
        found = arrays.given("compat", compat)
        if found.ndim > 2:
            raise ValueError("LabelCompatibility of dimension >2 not meaningful.")
        if found.ndim == 0:
            return _checks.weight("compat", float(found))
        checked = np.asarray(_checks.weight("compat", found, self._labels))
        return -checked if checked.ndim == 1 else -(checked + checked.T) / 2


class DenseCRF2D(DenseCRF):
    """A CRF of the pixels of an image: width first, then height. More arguments are ignored, as in pydensecrf."""

    def __init__(self, w: Any, h: Any, nlabels: Any, *_: Any, **__: Any) -> None:
        width, height = _size("w", w), _size("h", h)
        super().__init__(width * height, nlabels)
        self._spatial = height, width

    def addPairwiseGaussian(
        self, sxy: Any, compat: Any, kernel: int = DIAG_KERNEL, normalization: int = NORMALIZE_SYMMETRIC
    ) -> None:
        """Add a kernel on positions; sxy is a number or (sx, sy), the rest as in `addPairwiseEnergy`."""
        self._add(Gaussian(_sy_sx(sxy), self._weight(compat)), kernel, normalization)

    def addPairwiseBilateral(
        self,
        sxy: Any,
        srgb: Any,
        rgbim: Any,
        compat: Any,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add a kernel on positions and colours.

        Parameters
        ----------
        sxy : number or (sx, sy)
        srgb : number or (sr, sg, sb), in the units of the image
        rgbim : ``[h, w, 3]``, uint8; other dtypes are taken as they are, not rounded
        compat, kernel, normalization : as in `addPairwiseEnergy`

        """
        colours = _numbers("srgb", srgb, 3)
        bilateral = Bilateral(_sy_sx(sxy), colours, self._weight(compat))
        self._add(bilateral, kernel, normalization, self._pixels(rgbim, bilateral))

    def _pixels(self, rgbim: Any, kernel: Kernel) -> NDArray[Any]:
        """Image ``[h, w, 3]`` as the engine takes it: uint8 or float32."""
        image = arrays.given("rgbim", rgbim)
        if image.shape[:2] != self._spatial:
            hint = self._repair(image.shape)
            raise ValueError(
                f"Bad shape for pairwise bilateral (Need {(*self._spatial, 3)}, got {list(image.shape)}){hint}"
            )
        if image.shape[2:] != (3,):
            raise ValueError(
                "addPairwiseBilateral only works for RGB images. For other types, use "
                "`utils.create_pairwise_bilateral` to construct your own pairwise energy and add it through "
                "`addPairwiseEnergy`."
            )
        if image.dtype == np.uint8:
            return np.ascontiguousarray(image)
        pixels = _checks.finite("rgbim", _checks.native(image, _FLOAT))
        warn_of_units(pixels, [kernel])
        return pixels

    def _repair(self, got: tuple[int, ...]) -> str:
        if got[:2] == self._spatial[::-1]:
            return "; DenseCRF2D takes the width first: DenseCRF2D(w, h, nlabels)"
        if got == (3, *self._spatial):
            return "; channels come last: np.moveaxis(rgbim, 0, -1)"
        return ""


def _integer(value: Any) -> int:
    if not arrays.is_number(value):
        raise TypeError("an integer is required")
    return int(value)


def _size(name: str, value: Any) -> int:
    return _checks.integer(name, _integer(value), 1, 2**62)


def _enum(name: str, value: Any, kind: type[_Enum]) -> _Enum:
    try:
        return kind(_integer(value))
    except ValueError:
        raise ValueError(f"{name}: must be one of {', '.join(kind.__members__)}, got {value!r}") from None


def _numbers(name: str, value: Any, count: int) -> tuple[float, ...]:
    """A number for all, or the first `count` of a sequence."""
    if arrays.is_number(value):
        return _checks.bandwidths(name, value) * count
    return _checks.bandwidths(name, tuple(value[i] for i in range(count)))


def _sy_sx(sxy: Any) -> tuple[float, ...]:
    return _numbers("sxy", sxy, 2)[::-1]
