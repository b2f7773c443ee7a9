"""Parameter files: what `densecrf tune` finds, and ``--params FILE`` of `densecrf refine` and `evaluate` takes.

    {"dense": {"kernels": [{"kind": "gaussian", "sxy": 1, "weight": 3},
                           {"kind": "bilateral", "sxy": 50, "srgb": 4, "weight": 5}],
               "iterations": 5, "normalization": "symmetric"},
     "grid": {"weight": 15, "contrast": 0.1, "neighbours": 8}}

Either part may be missing; what else is in the file is for people to read. Of several files a later one's parts count.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from densecrf import _checks, images, presets
from densecrf.grid import GridSetting
from densecrf.images import FileError
from densecrf.kernels import Bilateral, Gaussian, Kernel
from densecrf.presets import Preset

_KINDS: dict[str, type[Gaussian] | type[Bilateral]] = {"gaussian": Gaussian, "bilateral": Bilateral}


@dataclass(frozen=True)
class Params:
    """Settings of the dense and of the grid CRF."""

    dense: Preset = presets.DEFAULT
    grid: GridSetting = GridSetting()


def load(*paths: str | os.PathLike[str]) -> Params:
    """Read parameter files.

    Raises
    ------
    FileError
        One is missing, is no JSON or breaks a rule.

    """
    found = Params()
    for path in paths:
        found = _read(path, found)
    return found


def _read(path: str | os.PathLike[str], before: Params) -> Params:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        dense, grid = (_part(content, name) for name in ("dense", "grid"))
        preset = _preset(dense.pop("kernels"), **dense) if dense else before.dense
        return Params(preset, GridSetting(**grid) if grid else before.grid)
    except OSError as error:
        raise FileError(f"{path}: cannot read: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise FileError(f"{path}: is no parameter file: {reason}") from error


def save(path: str | os.PathLike[str], params: Params, **about: Any) -> None:
    """Write a parameter file, with anything else that goes into JSON beside the parameters.

    Raises
    ------
    FileError
        It cannot be written.
    ValueError
        A kernel is neither a `Gaussian` nor a `Bilateral`.

    """
    target = Path(path)
    with images.Outputs(target.parent) as outputs, outputs.open(target.name) as file:
        write(file, {**plain(params), **about})


def write(file: BinaryIO, content: dict[str, Any]) -> None:
    """Write what `plain` gives, or a part of it, into an open file."""
    file.write((json.dumps(content, indent=1) + "\n").encode())


def plain(params: Params) -> dict[str, Any]:
    """What a parameter file says, ready for JSON."""
    dense = params.dense
    kernels = [_plain(kernel) for kernel in dense.kernels]
    return {
        "dense": {"kernels": kernels, "iterations": dense.iterations, "normalization": dense.normalization},
        "grid": asdict(params.grid),
    }


def _part(content: Any, name: str) -> dict[str, Any]:
    found = content.get(name, {}) if isinstance(content, dict) else None
    if not isinstance(found, dict):
        raise ValueError(f"{name}: must be an object")
    return found


def _preset(
    kernels: list[dict[str, Any]],
    iterations: int = presets.DEFAULT.iterations,
    normalization: str = presets.DEFAULT.normalization,
) -> Preset:
    return Preset(
        tuple(_kernel(**kernel) for kernel in kernels),
        _checks.integer("iterations", iterations, 0),
        _checks.choice("normalization", normalization, _checks.NORMALIZATIONS),
    )


def _kernel(kind: str, **values: Any) -> Kernel:
    made: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) and name != "weight" else value for name, value in values.items()
    }
    return _KINDS[_checks.choice("kind", kind, tuple(_KINDS))](**made)


def _plain(kernel: Kernel) -> dict[str, Any]:
    kind = next((name for name, made in _KINDS.items() if isinstance(kernel, made)), None)
    if kind is None:
        raise ValueError(f"kernels: must be Gaussian or Bilateral to go into a file, got {type(kernel).__name__}")
    values = {name: value for name, value in vars(kernel).items() if value is not None}
    return {"kind": kind} | {
        name: value if isinstance(value, str) else np.asarray(value).tolist() for name, value in values.items()
    }
