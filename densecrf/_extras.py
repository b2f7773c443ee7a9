"""Packages of the extras, which are imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MEASURING = {"evaluate": ("sklearn.metrics", "scipy.ndimage"), "grid": ("gco", "maxflow")}


def need(extra: str, module: str) -> Any:
    """A module of an extra.

    Raises
    ------
    ImportError
        It is not installed; says how to.

    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f'{module}: is not installed, do: pip install "densecrf[{extra}]"') from error


def need_measuring(with_grid: bool) -> None:
    """Miss a package of what `densecrf.tune` and `densecrf.evaluate` need now, not after an hour."""
    for extra, modules in _MEASURING.items():
        for module in modules if with_grid or extra != "grid" else ():
            need(extra, module)
