"""Arrays as people have them, brought into the front end's form: any real dtype, layout and shape that fits."""

from __future__ import annotations

from math import prod
from numbers import Number
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densecrf import _checks

Array = NDArray[Any]


def given(name: str, value: Any) -> Array:
    """An array, a list or a torch tensor (on any device, with or without gradient) as a NumPy array."""
    if value is None:
        raise TypeError(f"Argument '{name}' must not be None")
    return _checks.array(name, _of_tensor(value) if hasattr(value, "detach") else value)


def _of_tensor(tensor: Any) -> Array:
    on_cpu = tensor.detach().cpu()
    try:
        return on_cpu.numpy()
    except TypeError:  # NumPy has no bfloat16
        return on_cpu.float().numpy()


def is_number(value: Any) -> bool:
    """Whether pydensecrf takes it for one: a Python or a NumPy number."""
    return isinstance(value, Number)


def float32(name: str, value: Any) -> NDArray[np.float32]:
    """Contiguous float32, a copy only if need be."""
    return _checks.native(given(name, value), np.dtype(np.float32))


def matrix(name: str, what: str, value: Any, rows: int | None, spatial: tuple[int, ...]) -> NDArray[np.float32]:
    """``[rows, N]`` float32 of an array of that shape or not flattened, ``[rows, *spatial]``.

    Parameters
    ----------
    what : the array in pydensecrf's words: "Bad shape for unary energy (Need (3, 20), got (3, 10))"
    rows : None for any number
    spatial : (N,), which any spatial shape of that size fits, or (H, W)

    """
    found = given(name, value)
    points = prod(spatial)
    flat = found.shape[1:] in ((points,), spatial) or (len(spatial) == 1 and prod(found.shape[1:]) == points)
    if found.ndim > 1 and flat and rows in (None, found.shape[0]):
        return float32(name, found.reshape(-1, points))
    need = f"({'?' if rows is None else rows}, {points})"
    hint = _repair(name, found.shape, rows, spatial)
    raise ValueError(f"Bad shape for {what} (Need {need}, got {found.shape}){hint}")


def _repair(name: str, got: tuple[int, ...], rows: int | None, spatial: tuple[int, ...]) -> str:
    """What most likely makes an array of a wrong shape a right one."""
    points = prod(spatial)
    if got[:1] == (1,) and prod(got[2:]) == points:
        return f"; leave out the batch axis: {name}[0]"
    if got[1:] == spatial[::-1]:
        return "; DenseCRF2D takes the width first: DenseCRF2D(w, h, nlabels)"
    if len(got) > 1 and prod(got[:-1]) == points and rows in (None, got[-1]):
        return f"; pixels come last: {name}.T" if len(got) == 2 else f"; pixels come last: np.moveaxis({name}, -1, 0)"
    if rows is None and prod(got[1:]) % points == 0:
        return "; create_pairwise_bilateral has to be told the axis of the channels: chdim=-1 means that there is none"
    return ""
