"""What people pass in, checked and brought into the engine's layout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densecrf import _checks, unary
from densecrf.kernels import Kernel

Array = NDArray[Any]
SOURCES = ("logits", "probs", "unary", "labels")
_SUM_TOLERANCE = 0.05  # what probabilities rounded to float16 or 8 bits keep to


def first(*sources: Any) -> Any:
    """The one of logits, probs, unary and labels that is not None."""
    given = [name for name, value in zip(SOURCES, sources, strict=True) if value is not None]
    if len(given) != 1:
        got = " and ".join(given) or "none"
        raise TypeError(f"logits, probs, unary, labels: exactly one must be given, got {got}")
    return next(value for value in sources if value is not None)


def spatial_shape(image: Any, given: Any, is_labels: bool) -> tuple[int, ...] | None:
    """Spatial shape of a run: the image's, whose rank the scores tell; the scores' own without an image."""
    names = "labels" if is_labels else "logits, probs, unary"
    shape = _shape(names, given)
    rank = len(shape) - (0 if is_labels else 1)
    if image is None:
        if rank not in (1, 2, 3):
            rule = "[N], [H, W] or [D, H, W]" if is_labels else "[L, N], [L, H, W] or [L, D, H, W]"
            raise ValueError(f"{names}: must have shape {rule}, got shape {shape}")
        if 0 in shape:
            raise ValueError(f"{names}: must not be empty, got shape {shape}")
        return tuple(shape[-rank:])
    pixels = _shape("image", image)
    return tuple(pixels[:rank]) if rank in (1, 2, 3) and len(pixels) in (rank, rank + 1) else None


def _shape(name: str, value: Any) -> tuple[int, ...]:
    try:
        return np.shape(value)
    except ValueError:
        raise ValueError(f"{name}: must be a rectangular array, got sequences of different lengths") from None


def image_and_shape(
    image: Any, shape: Sequence[int] | None, dtype: np.dtype[Any], given_mask: Any = None
) -> tuple[Array | None, tuple[int, ...]]:
    """Image ``[*spatial, C]``, uint8 or `dtype`, and the spatial shape. Pixels without a part may be NaN."""
    found = None if image is None else _checks.array("image", image)
    if shape is not None and _checks.rank("shape", shape) != 1:
        raise TypeError(f"shape: must be (N,), (H, W) or (D, H, W), got {shape!r}")
    wanted = None if shape is None else tuple(_checks.integer("shape", n, 1) for n in shape)
    if wanted is not None and len(wanted) not in (1, 2, 3):
        raise ValueError(f"shape: must be (N,), (H, W) or (D, H, W), got {wanted}")
    if found is None:
        if wanted is None:
            raise TypeError("shape: must be given where there is no image, got None")
        return None, wanted
    if wanted is None:
        wanted = found.shape if found.ndim == 2 else found.shape[:-1]
    if len(wanted) not in (1, 2, 3) or found.shape not in (wanted, (*wanted, *found.shape[-1:])):
        rule = "must be [H, W], [H, W, C], [D, H, W] or [D, H, W, C] and of the scores' rank"
        expected = "" if shape is None else f" with spatial shape {wanted}"
        raise ValueError(f"image: {rule}{expected}, got shape {found.shape}")
    pixels = found.reshape(*wanted, -1)
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels), wanted
    part = mask(given_mask, wanted)
    if part is not None:
        any_of_them = pixels.reshape(-1, pixels.shape[-1])[part.argmax()]
        pixels = np.where(part.reshape(*wanted, 1), pixels, any_of_them)
    return _checks.finite("image", _checks.native(pixels, dtype)), wanted


def kernels(given: Sequence[Kernel]) -> tuple[Kernel, ...]:
    """Kernels as a tuple."""
    if isinstance(given, Kernel):
        return (given,)
    if not isinstance(given, Iterable):
        raise TypeError(f"kernels: must be a list of Gaussian, Bilateral and Custom, got {given!r}")
    found = tuple(given)
    for kernel in found:
        if not isinstance(kernel, Kernel):
            raise TypeError(f"kernels: must be Gaussian, Bilateral or Custom, got {kernel!r}")
    return found


def compatibility(given: Any) -> Any:
    """Compatibility as a number, ``[L]`` or ``[L, L]``; Potts is the number 1."""
    if isinstance(given, str):
        if given != "potts":
            raise ValueError(f"compatibility: must be 'potts', a number, [L] or [L, L], got {given!r}")
        return 1.0
    return _checks.weight("compatibility", given)


def mask(given: Any, shape: tuple[int, ...]) -> Array | None:
    """Mask as bool ``[N]``; None where everything takes part."""
    if given is None:
        return None
    _shape("mask", given)
    found = np.asarray(given)
    if found.dtype.kind not in "biu" or (found.dtype.kind != "b" and not np.isin(found, (0, 1)).all()):
        raise TypeError(f"mask: must be boolean, got {found.dtype.name}")
    if found.shape not in (shape, (int(np.prod(shape)),)):
        raise ValueError(f"mask: must have shape {shape}, got shape {found.shape}")
    flat = np.ascontiguousarray(found.reshape(-1), dtype=bool)
    if not flat.any():
        raise ValueError("mask: must leave at least one pixel, got none")
    return None if flat.all() else flat


def spacing(given: Any, axes: int) -> tuple[float, ...]:
    """Size of a pixel along each axis."""
    if given is None:
        return (1.0,) * axes
    return _checks.per_axis("spacing", _checks.bandwidths("spacing", given, "steps"), axes, "axes")


def tolerance(tol: Any) -> float:
    """Tolerance, 0 for none."""
    found = 0.0 if tol is None else _checks.number("tol", tol)
    if found < 0:
        raise ValueError(f"tol: must not be negative, got {found:g}")
    return found


def damping(given: Any) -> float:
    """Damping in [0, 1)."""
    found = _checks.number("damping", given)
    if not 0 <= found < 1:
        raise ValueError(f"damping: must be at least 0 and below 1, got {found:g}")
    return found


def initial(given: Any, labels: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array | None:
    """A Q to continue from, ``[L, N]``."""
    if given is None:
        return None
    found = _checks.array("initial", given)
    if found.shape not in ((labels, *shape), (labels, int(np.prod(shape)))):
        raise ValueError(f"initial: must have shape {(labels, *shape)}, got shape {found.shape}")
    _checks.finite("initial", found)
    if found.min() < 0:
        raise ValueError(f"initial: must be probabilities, got {found.min():g}")
    sums = found.sum(axis=0, dtype=np.float64)
    if np.abs(sums - 1).max() > _SUM_TOLERANCE:
        raise ValueError(f"initial: must sum to 1 over axis 0, got sums from {sums.min():g} to {sums.max():g}")
    return _checks.native(found.reshape(labels, -1), dtype)


def scores(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    mask: Array | None,
    logits: Any,
    probs: Any,
    energies: Any,
    labels: Any,
    num_labels: int | None,
    confidence: Any,
) -> tuple[Array, float]:
    """Scores ``[L, N]`` of `dtype`, and the sign that makes them logits."""
    given = first(logits, probs, energies, labels)
    if labels is not None:
        _expect_shape("labels", _shape("labels", given), shape, leading=False)
        known = given if mask is None else _known_labels(given, mask, num_labels)
        made = unary.from_labels(known, num_labels, confidence, dtype=dtype)
        return made.reshape(made.shape[0], -1), -1.0
    name = "logits" if logits is not None else "probs" if probs is not None else "unary"
    found = _checks.array(name, given)
    if found.ndim != len(shape) + 1 and found.ndim != 2:
        raise ValueError(f"{name}: must have shape [L, {', '.join(map(str, shape))}], got shape {found.shape}")
    if logits is not None and found.ndim == len(shape) + 1 and found.shape[1:] != shape:
        found = upsample(found, shape, dtype)
    if found.shape[1:] != (int(np.prod(shape)),):
        _expect_shape(name, found.shape, shape, leading=True)
    flat = found.reshape(found.shape[0], -1)
    if probs is not None:
        if mask is not None:
            flat = _without_void(flat, mask, _are_probabilities(flat), 1.0 / flat.shape[0])
        return _checks.native(unary.from_probs(flat, dtype=dtype), dtype), -1.0
    flat = _checks.native(flat, dtype)
    if mask is not None:
        flat = _without_void(flat, mask, np.isfinite(flat).all(axis=0), 0.0)
    return flat, 1.0 if logits is not None else -1.0


def _without_void(scores: Array, mask: Array, good: Array, equal: float) -> Array:
    """Scores ``[L, N]`` where pixels that take no part and have no `good` scores get equal ones."""
    void = ~(mask | good)
    return np.where(void, equal, scores) if void.any() else scores


def _are_probabilities(values: Array) -> Array:
    """Whether each pixel's values ``[L, N]`` are in [0, 1] and sum to 1."""
    with np.errstate(invalid="ignore", over="ignore"):
        sums = values.sum(axis=0, dtype=np.float64)
        in_range = ((values >= 0) & (values <= 1)).all(axis=0)
        return in_range & (np.abs(sums - 1) <= _SUM_TOLERANCE)


def _known_labels(given: Any, mask: Array, num_labels: Any) -> Any:
    """Labels with -1, unknown, where a pixel takes no part and its label is none (255 for void, say)."""
    found = np.asarray(given)
    if found.dtype.kind not in "iu" or found.size == 0:
        return given
    part = found.reshape(-1)[mask]
    count = num_labels if isinstance(num_labels, (int, np.integer)) else int(part.max()) + 1
    void = ~mask.reshape(found.shape) & ((found < 0) | (found >= count))
    return np.where(void, -1, found.astype(np.int64)) if void.any() else given


def _expect_shape(name: str, got: tuple[int, ...], shape: tuple[int, ...], leading: bool) -> None:
    if got[1 if leading else 0 :] == shape:
        return
    wanted = ", ".join(map(str, shape))
    rule = f"must have shape [L, {wanted}]" if leading else f"must have shape [{wanted}]"
    raise ValueError(f"{name}: {rule}, got shape {got}")


def upsample(logits: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Logits ``[L, h, w]`` enlarged to ``[L, H, W]``, bilinearly with half-pixel centres."""
    small = logits.shape[1:]
    rule = "must have the image's size, or a smaller one to be upsampled from"
    if any(a > b for a, b in zip(small, shape, strict=True)):
        raise ValueError(f"logits: {rule}, got {small} for an image of {shape}")
    if len(shape) != 2:
        raise ValueError(f"logits: {rule} (images only, not lines and volumes), got {small} for {shape}")
    values = _checks.finite("logits", _checks.native(logits, dtype))
    return _stretch(_stretch(values, shape[1], 2), shape[0], 1)


def _stretch(values: Array, size: int, axis: int) -> Array:
    """Linear interpolation along one axis; beyond the outermost centres the values stay."""
    count = values.shape[axis]
    if count == size:
        return values
    centres = np.clip((np.arange(size) + 0.5) * (count / size) - 0.5, 0, count - 1)
    low = centres.astype(np.intp)
    rest = (centres - low).astype(values.dtype)[:, None] if axis == 1 else (centres - low).astype(values.dtype)
    out: Array = np.take(values, low, axis) * (1 - rest)
    out += np.take(values, np.minimum(low + 1, count - 1), axis) * rest
    return out
