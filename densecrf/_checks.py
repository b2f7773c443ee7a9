"""Checks of arguments: "argument: rule, got what", with the right type of exception."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

NORMALIZATIONS = ("symmetric", "after", "before", "none")
METHODS = ("tuned", "classic", "fast", "exact")
# Beyond these sizes float32 would overflow somewhere in a run: in a weight times a compatibility times a sum
# over all pixels, and in a position or a colour over its bandwidth.
LARGEST_WEIGHT = 1e12
SMALLEST_BANDWIDTH, LARGEST_BANDWIDTH = 1e-18, 1e18


def array(name: str, value: Any, kinds: str = "iufb") -> NDArray[Any]:
    """`value` as an array of real numbers that is not empty."""
    try:
        found = np.asarray(value)
    except ValueError:
        raise ValueError(f"{name}: must be a rectangular array, got sequences of different lengths") from None
    if found.dtype.kind not in kinds:
        got = found.dtype.name if found.ndim else repr(value)
        raise TypeError(f"{name}: must be an array of real numbers, got {got}")
    if found.size == 0:
        raise ValueError(f"{name}: must not be empty, got shape {found.shape}")
    return found


def native(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """C-contiguous, aligned and of this dtype; a copy only if need be. What is beyond the dtype becomes infinite."""
    with np.errstate(over="ignore"):  # found where NaN and inf are looked for
        return np.require(values, dtype, ["C", "A"])


def finite(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Refuse NaN and inf."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"{name}: must be finite, got NaN or inf")
    return values


def choice(name: str, value: Any, allowed: Sequence[str]) -> str:
    """One of a few names."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}: must be one of {', '.join(allowed)}, got {value!r}")
    return str(value)


def rank(name: str, value: Any) -> int:
    """Number of dimensions of an array, a sequence or a number."""
    try:
        return np.ndim(value)
    except ValueError:
        raise ValueError(f"{name}: must be a rectangular array, got sequences of different lengths") from None


def number(name: str, value: Any) -> float:
    """One finite real number."""
    if isinstance(value, (bool, np.bool_, str, bytes)) or rank(name, value) != 0:
        raise TypeError(f"{name}: must be a number, got {value!r}")
    try:
        found = float(value)
    except OverflowError:  # an integer of hundreds of digits
        found = np.inf
    except (TypeError, ValueError):
        raise TypeError(f"{name}: must be a number, got {value!r}") from None
    if not np.isfinite(found):
        raise ValueError(f"{name}: must be finite, got {found}")
    return found


def integer(name: str, value: Any, least: int, most: int = 2**31 - 2) -> int:
    """One integer from `least` to `most`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name}: must be at least {least}, got {value}")
    if value > most:
        raise ValueError(f"{name}: must be at most {most}, got {value}")
    return int(value)


def bandwidths(name: str, value: Any, what: str = "bandwidths") -> tuple[float, ...]:
    """Bandwidths: one positive number or a sequence of them."""
    values = [value] if rank(name, value) == 0 else list(value)
    found = tuple(number(name, v) for v in values)
    if not found or min(found) <= 0:
        raise ValueError(f"{name}: {what} must be positive, got {value!r}")
    if min(found) < SMALLEST_BANDWIDTH or max(found) > LARGEST_BANDWIDTH:
        limits = f"between {SMALLEST_BANDWIDTH:g} and {LARGEST_BANDWIDTH:g}"
        raise ValueError(f"{name}: {what} must lie {limits}, got {value!r}")
    return found


def per_axis(name: str, values: tuple[float, ...], count: int, what: str) -> tuple[float, ...]:
    """One bandwidth for each of `count` axes or channels."""
    if len(values) == 1:
        return values * count
    if len(values) != count:
        raise ValueError(f"{name}: must be one number or one for each of the {count} {what}, got {len(values)}")
    return values


def weight(name: str, value: Any, num_labels: int | None = None) -> float | NDArray[Any]:
    """A number, a vector [L] or a matrix [L, L]; the size is checked once the number of labels is known."""
    if rank(name, value) == 0:
        scalar = number(name, value)
        _not_too_large(name, abs(scalar), scalar)
        return scalar
    found = finite(name, array(name, value).astype(np.float64))
    square = found.ndim == 2 and found.shape[0] == found.shape[1]
    if not (found.ndim == 1 or square):
        raise ValueError(f"{name}: must be a number, a vector [L] or a matrix [L, L], got shape {found.shape}")
    if num_labels is not None and found.shape[0] != num_labels:
        raise ValueError(
            f"{name}: must be a number, [{num_labels}] or [{num_labels}, {num_labels}], got shape {found.shape}"
        )
    _not_too_large(name, np.abs(found).max(), found.flat[np.abs(found).argmax()])
    return found


def _not_too_large(name: str, size: float, value: float) -> None:
    if size > LARGEST_WEIGHT:
        raise ValueError(f"{name}: must lie between -{LARGEST_WEIGHT:g} and {LARGEST_WEIGHT:g}, got {value:g}")
