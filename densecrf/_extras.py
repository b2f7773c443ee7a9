"""Packages of the extras, which are imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any


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
