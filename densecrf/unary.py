"""Unary energies, -log p, from what people have: logits, probabilities, label maps, scribbles.

Every function returns ``[L, *spatial]`` in `dtype` ("float32" or "float64"), C-contiguous and finite, where
spatial is ``[N]``, ``[H, W]`` or ``[D, H, W]``. Inputs may have any real dtype, byte order and strides and
may be read-only; they are never written to. A wrong kind of input raises TypeError, a wrong value ValueError,
both as "argument: rule, got what".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

Array = NDArray[Any]

_SUM_TOLERANCE = 0.05  # float16 and 8-bit probabilities sum to 1 this closely even with many labels


def from_logits(logits: ArrayLike, *, dtype: DTypeLike = "float32") -> Array:
    """Energies from scores before the softmax: ``-log softmax(logits)`` over axis 0.

    Parameters
    ----------
    logits : ``[L, *spatial]`` integers or floats, finite
    dtype : of the result; float64 logits are subtracted in float64 in either case

    Returns
    -------
    ``[L, *spatial]``, >= 0. One label gives zeros.
    """
    out = _dtype(dtype)
    scores = _scores("logits", logits, "iuf")
    _check_finite("logits", scores)
    work = _float(scores, out)
    with np.errstate(over="ignore"):
        energy = work.max(axis=0) - work
        energy += np.log(np.exp(-energy).sum(axis=0))
        result: Array = energy.astype(out, order="C", copy=False)
    if not np.isfinite(result).all():
        low, high = scores.min(), scores.max()
        raise ValueError(f"logits: differences must fit {out.name}, got values from {low:g} to {high:g}")
    return result


def from_probs(probs: ArrayLike, *, eps: float = 1e-8, dtype: DTypeLike = "float32") -> Array:
    """Energies from probabilities: ``-log max(p, eps)``.

    Parameters
    ----------
    probs : ``[L, *spatial]`` floats in [0, 1] that sum to 1 over axis 0 (to 0.05); integers or bool only if
        they are 0 and 1. A hard 0 becomes eps: a pixel of which the energy of every other label is then
        -log(eps) hardly ever changes its label, so hard label maps belong in `from_labels`.
    eps : smallest probability, in (0, 1)
    dtype : of the result

    Returns
    -------
    ``[L, *spatial]``, between 0 and -log(eps)
    """
    out = _dtype(dtype)
    values = _scores("probs", probs, "iufb")
    low = _open_unit("eps", eps)
    if low.ndim or low < np.finfo(out).tiny:
        raise ValueError(f"eps: must be one number of at least {np.finfo(out).tiny:.2g}, got {eps!r}")
    if values.dtype.kind in "iub" and ((values != 0) & (values != 1)).any():
        raise ValueError(
            f"probs: integers must be 0 or 1 (divide 8-bit probabilities by 255), "
            f"got {values.dtype.name} from {values.min()} to {values.max()}"
        )
    _check_finite("probs", values)
    if values.min() < 0 or values.max() > 1:
        raise ValueError(f"probs: must lie in [0, 1], got values from {values.min():g} to {values.max():g}")
    sums = values.sum(axis=0, dtype=np.float64)
    if np.abs(sums - 1.0).max() > _SUM_TOLERANCE:
        raise ValueError(f"probs: must sum to 1 over axis 0, got sums from {sums.min():g} to {sums.max():g}")
    work = np.clip(_float(values, out), float(low), 1.0)
    return np.ascontiguousarray(np.negative(np.log(work, out=work), out=work) + 0.0, dtype=out)  # no -0


def from_labels(
    labels: ArrayLike,
    num_labels: int | None = None,
    confidence: ArrayLike = 0.7,
    unknown: int | None = -1,
    *,
    dtype: DTypeLike = "float32",
) -> Array:
    """Energies from a label map that is right with probability `confidence`.

    Parameters
    ----------
    labels : ``[*spatial]`` integers (or bool) in 0 .. num_labels - 1, or `unknown`
    num_labels : L; None: the largest label + 1
    confidence : probability of the given label, in (0, 1); the other labels share the rest equally. One
        number, or ``[L]``: one for each label.
    unknown : the value of pixels without a label: all labels equally likely. None: there are none
    dtype : of the result

    Returns
    -------
    ``[L, *spatial]``. One label gives zeros.
    """
    out = _dtype(dtype)
    given = _labels(labels)
    known = np.ones(given.shape, dtype=bool) if unknown is None else given != _integer("unknown", unknown)
    L = _num_labels(num_labels, given, known)
    _check_labels(given, known, L, unknown)
    certain = _open_unit("confidence", confidence)
    if certain.shape not in ((), (L,)):
        raise ValueError(f"confidence: must be a number or [{L}], one per label, got shape {certain.shape}")
    if L == 1:
        return np.zeros((1, *given.shape), dtype=out)
    # Row l: energies of all labels at a pixel that is labelled l; the last row: at an unknown pixel.
    table = np.full((L + 1, L), np.log(L))
    table[:L] = np.broadcast_to(-np.log((1.0 - certain) / (L - 1)), L)[:, None]
    table[np.arange(L), np.arange(L)] = -np.log(certain)
    row = given.astype(np.intp, order="C")
    row[~known] = L
    return np.stack([column[row] for column in table.T.astype(out)])


def from_scribbles(
    labels: ArrayLike,
    num_labels: int,
    unknown: int | None = -1,
    confidence: ArrayLike = 0.99,
    *,
    dtype: DTypeLike = "float32",
) -> Array:
    """Energies from a few strokes: `from_labels` with nearly certain strokes and everything else unknown.

    `num_labels` has to be given, as a class may have no stroke in one image. Parameters, result and errors
    are those of `from_labels`.
    """
    if num_labels is None:
        raise TypeError("num_labels: must be an integer, got None")
    return from_labels(labels, num_labels, confidence, unknown, dtype=dtype)


def _dtype(dtype: DTypeLike) -> np.dtype[Any]:
    try:
        out = np.dtype(dtype)
    except TypeError:
        out = np.dtype(object)
    if out not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"dtype: must be float32 or float64, got {dtype!r}")
    return out


def _array(name: str, value: ArrayLike, kinds: str, rule: str) -> Array:
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(f"{name}: must be a rectangular array, got sequences of different lengths") from None
    if array.dtype.kind not in kinds:
        raise TypeError(f"{name}: must be {rule}, got {array.dtype.name if array.ndim else repr(value)}")
    if array.size == 0:
        raise ValueError(f"{name}: must not be empty, got shape {array.shape}")
    return array


def _scores(name: str, value: ArrayLike, kinds: str) -> Array:
    array = _array(name, value, kinds, "real numbers")
    if array.ndim not in (2, 3, 4):
        rule = "must have shape [L, N], [L, H, W] or [L, D, H, W]"
        raise ValueError(f"{name}: {rule}, got shape {array.shape}")
    return array


def _labels(value: ArrayLike) -> Array:
    array = _array("labels", value, "iub", "integers")
    if array.ndim not in (1, 2, 3):
        raise ValueError(f"labels: must have shape [N], [H, W] or [D, H, W], got shape {array.shape}")
    return array.astype(np.uint8) if array.dtype.kind == "b" else array


def _num_labels(num_labels: int | None, labels: Array, known: Array) -> int:
    if num_labels is None:
        if not known.any():
            raise ValueError("num_labels: must be given where no pixel has a label, got None")
        return max(1, int(labels[known].max()) + 1)
    count = _integer("num_labels", num_labels)
    if count < 1:
        raise ValueError(f"num_labels: must be at least 1, got {count}")
    return count


def _check_labels(labels: Array, known: Array, num_labels: int, unknown: int | None) -> None:
    wrong = known & ((labels < 0) | (labels >= num_labels))
    if wrong.any():
        rule = f"must lie in 0..{num_labels - 1}" + ("" if unknown is None else f" or be {unknown} (unknown)")
        raise ValueError(f"labels: {rule}, got {labels[wrong][0]}")


def _check_finite(name: str, array: Array) -> None:
    if not np.isfinite(array).all():
        nan, inf = np.isnan(array).sum(), np.isinf(array).sum()
        raise ValueError(f"{name}: must be finite, got {nan} NaN and {inf} inf")


def _float(array: Array, out: np.dtype[Any]) -> Array:
    """The array as native floats for computing: at least `out`, and never less than it came with."""
    return array.astype(np.promote_types(array.dtype, out), copy=False)


def _integer(name: str, value: Any) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: must be an integer, got {value!r}")
    return int(value)


def _open_unit(name: str, value: ArrayLike) -> NDArray[np.float64]:
    """Float array of `value`, checked to lie in (0, 1)."""
    array = _array(name, value, "iuf", "a real number").astype(np.float64)
    inside = (array > 0.0) & (array < 1.0)  # False for NaN
    if not inside.all():
        raise ValueError(f"{name}: must lie strictly between 0 and 1, got {array[~inside].flat[0]:g}")
    return array
