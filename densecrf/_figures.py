"""The figures of an evaluation as JSON, as CSV and on the terminal."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

import densecrf
from densecrf import _native, metrics, params
from densecrf.datasets import DataSet
from densecrf.evaluate import Evaluation


def environment() -> dict[str, Any]:
    """Where the times come from."""
    return {
        "densecrf": densecrf.__version__,
        "simd": _native.info()["simd"],
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def as_json(found: Evaluation, data: DataSet, names: Sequence[str]) -> bytes:
    """Everything; what is not defined (NaN) is null."""
    content = {
        "environment": environment(),
        "data": {
            "folder": str(data.folder),
            "void": data.void,
            "probs": data.probs,
            "key": data.key,
            "stride": data.stride,
            "labels": names,
        },
        "params": params.plain(found.params),
        "methods": found.methods,
        "resamples": found.resamples,
        "seed": found.seed,
        "figures": {
            method: {
                name: dict(zip(("value", "low", "high"), (value, *found.intervals[method][name]), strict=True))
                for name, value in figures.items()
            }
            for method, figures in found.figures.items()
        },
        "per label": {method: found.per_label(method) for method in found.methods},
        "confusion": {method: found.confusion(method) for method in found.methods},
        "seconds per image": {method: found.seconds(method) for method in found.methods},
        "images": [
            {
                "name": image.name,
                "pixel accuracy": {method: image.accuracy(method) for method in found.methods},
                "seconds": image.seconds,
            }
            for image in found.images
        ],
        "problems": found.problems,
    }
    return (json.dumps(_defined(content), indent=1, allow_nan=False) + "\n").encode()


def _defined(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _defined(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        return _defined(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_defined(each) for each in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def as_csv(found: Evaluation, names: Sequence[str]) -> bytes:
    """One figure of one method a line; empty where it is not defined."""
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["method", "figure", "value", "low", "high"])
    for method, figures in found.figures.items():
        for name, value in figures.items():
            rows.writerow([method, name, *map(_cell, (value, *found.intervals[method][name]))])
    for method in found.methods:
        for name, iou in zip(names, found.per_label(method)["IoU"], strict=True):
            rows.writerow([method, f"IoU of {name}", _cell(iou), "", ""])
        rows.writerow([method, "seconds per image", _cell(found.seconds(method)), "", ""])
    return file.getvalue().encode()


def _cell(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6g}"


def tables(found: Evaluation, names: Sequence[str]) -> list[Table]:
    """What the terminal shows: figures, differences, IoU of each label."""
    return [_figures(found), *([_differences(found)] if found.pairs else []), _labels(found, names)]


def _figures(found: Evaluation) -> Table:
    table = _table(f"{len(found.images)} images, percent (95 % interval)", "", *found.methods)
    for name in found.figures[found.methods[0]]:
        table.add_row(name, *(_with_interval(found, method, name) for method in found.methods))
    table.add_section()
    table.add_row("s per image", *(f"{found.seconds(method):.3f}" for method in found.methods))
    return table


def _differences(found: Evaluation) -> Table:
    table = _table("Differences, percent points (95 % interval)", "", *metrics.HEADLINES)
    for b, a in found.pairs:
        cells = (_with_interval(found, f"{b} - {a}", name, sign="+") for name in metrics.HEADLINES)
        table.add_row(f"{b} - {a}", *cells)
    return table


def _labels(found: Evaluation, names: Sequence[str]) -> Table:
    table = _table("IoU, percent", "", *found.methods)
    rates = [found.per_label(method)["IoU"] for method in found.methods]
    for name, *values in zip(names, *rates, strict=True):
        table.add_row(name, *(number(value) for value in values))
    return table


def _table(title: str, first: str, *others: str) -> Table:
    # Three methods with their intervals fit into 80 columns.
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True
    )
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _with_interval(found: Evaluation, method: str, name: str, sign: str = "") -> str:
    value, (low, high) = found.figures[method][name], found.intervals[method][name]
    return f"{number(value, sign)} ({number(low, sign)}, {number(high, sign)})"


def number(value: float, sign: str = "") -> str:
    """With two decimals, or a dash where it is not defined."""
    return "-" if np.isnan(value) else f"{value:{sign}.2f}"
