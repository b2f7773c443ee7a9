"""An evaluation as one HTML file that needs nothing else: no network, no script.

Needs the extra ``[evaluate]``: matplotlib draws, jinja2 fills `report.html`.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from densecrf import _extras, _figures, images, metrics, params
from densecrf._figures import number
from densecrf.datasets import DataSet
from densecrf.evaluate import Evaluation, predict
from densecrf.metrics import BANDS

Array = NDArray[Any]
COLOURS = {"unary": "#777777", "grid": "#d55e00", "dense": "#0072b2"}  # apart for the colour-blind, too
GAINED, LOST = (0, 158, 115), (213, 30, 60)
SHOWN = 3  # images where a method wins most, and where it loses most
SIDE, QUALITY = 340, 78  # pixels, and JPEG's: some 20 kB a picture


def check() -> None:
    """Raise an ImportError if a package is missing: before hours of work and not after."""
    for module in ("jinja2", "matplotlib.figure"):
        _extras.need("evaluate", module)


def html(found: Evaluation, data: DataSet, names: Sequence[str]) -> bytes:
    """The report.

    Parameters
    ----------
    found : what to report
    data : where its images come from; the pictures are made from it
    names : of the labels

    """
    jinja2 = _extras.need("evaluate", "jinja2")
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    template = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(
        "report.html"
    )
    text = template.render(
        found=found,
        data=data,
        total=len(data.names),
        columns=[*found.methods, *(f"{b} - {a}" for b, a in found.pairs)],
        rows=_rows(found),
        trimap=_trimap(found),
        labels=_labels(found, names),
        bars=_bars(found, names),
        times=_times(found),
        strips=_strips(found, data),
        settings=json.dumps(params.plain(found.params), indent=1),
        environment=_figures.environment(),
        bands=BANDS,
        tolerance=metrics.TOLERANCE,
    )
    return text.encode()


# --- Tables ---


@dataclass(frozen=True)
class _Cell:
    value: str
    interval: str
    kind: str  # "better", "worse" or "": whether the interval of a difference leaves 0 out


def _rows(found: Evaluation) -> list[tuple[str, list[_Cell]]]:
    names = found.figures[found.methods[0]]
    return [(name, [_cell(found, column, name) for column in found.figures]) for name in names]


def _cell(found: Evaluation, column: str, name: str) -> _Cell:
    value, (low, high) = found.figures[column][name], found.intervals[column][name]
    sign = "" if column in found.methods else "+"
    kind = ("better" if low > 0 else "worse" if high < 0 else "") if sign else ""
    return _Cell(number(value, sign), f"{number(low, sign)} to {number(high, sign)}", kind)


def _labels(found: Evaluation, names: Sequence[str]) -> list[tuple[str, str, str, list[str]]]:
    """Name, colour, share of the known pixels and IoU of each label."""
    rates = [found.per_label(method)["IoU"] for method in found.methods]
    pixels = found.confusion(found.methods[0]).sum(axis=1)
    shares = 100 * pixels / max(pixels.sum(), 1)
    colours = [f"#{bytes(colour).hex()}" for colour in images.palette(len(names))]
    return [
        (name, colour, number(share), [number(value) for value in values])
        for name, colour, share, *values in zip(names, colours, shares, *rates, strict=True)
    ]


# --- Plots ---


def _figure(width: float, height: float) -> Any:
    figure = _extras.need("evaluate", "matplotlib.figure")
    return figure.Figure(figsize=(width, height), dpi=150, layout="constrained")


def _plain_axes(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)


def _png(figure: Any) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return _embedded("png", file)


def _embedded(kind: str, file: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _trimap(found: Evaluation) -> str:
    """Accuracy near boundaries, and what the methods add to the first of them."""
    figure = _figure(10, 3.8)
    first, *others = found.methods
    panels = figure.subplots(1, 2 if others else 1, squeeze=False)[0]
    panels[0].set_title("Accuracy near boundaries", loc="left")
    for method in found.methods:
        _curve(panels[0], found, method, method)
    if others:
        panels[1].set_title(f"Difference to {first}", loc="left")
        panels[1].axhline(0, color=COLOURS[first], linewidth=1)
        for method in others:
            _curve(panels[1], found, f"{method} - {first}", method)
    for axes, unit in zip(panels, ("percent of pixels", "percent points"), strict=False):
        axes.set_xscale("log", base=2)
        axes.set_xticks(BANDS, [str(k) for k in BANDS])
        axes.set_xlabel("pixels within so many px of a boundary")
        axes.set_ylabel(unit)
        axes.legend(frameon=False)
        _plain_axes(axes)
    return _png(figure)


def _curve(axes: Any, found: Evaluation, column: str, method: str) -> None:
    names = [f"within {k} px" for k in BANDS]
    low, high = np.transpose([found.intervals[column][name] for name in names])
    values = [found.figures[column][name] for name in names]
    axes.plot(BANDS, values, "o-", color=COLOURS[method], label=method, markersize=4)
    axes.fill_between(BANDS, low, high, color=COLOURS[method], alpha=0.15, linewidth=0)


def _bars(found: Evaluation, names: Sequence[str]) -> str:
    """IoU of each label."""
    figure = _figure(10, 1 + 0.13 * len(names) * (len(found.methods) + 1))
    axes = figure.subplots()
    places = np.arange(len(names))
    height = 0.8 / len(found.methods)
    for i, method in enumerate(found.methods):
        iou = np.nan_to_num(found.per_label(method)["IoU"])
        axes.barh(places + (i + 0.5) * height - 0.4, iou, height, color=COLOURS[method], label=method)
    axes.set_yticks(places, [name.replace("$", r"\$") for name in names])  # a pair of $ would be a formula
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("IoU, percent")
    _plain_axes(axes)
    axes.grid(visible=False, axis="y")
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, ncols=len(found.methods), loc="outside upper left")
    return _png(figure)


def _times(found: Evaluation) -> str:
    """Seconds of every image."""
    figure = _figure(10, 0.9 + 0.45 * len(found.methods))
    axes = figure.subplots()
    for place, method in enumerate(found.methods):
        seconds = [image.seconds[method] for image in found.images]
        axes.plot(seconds, [place] * len(seconds), "|", color=COLOURS[method], markersize=14, alpha=0.6)
    axes.set_yticks(range(len(found.methods)), found.methods)
    axes.set_ylim(len(found.methods) - 0.5, -0.5)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("seconds on one thread, one stroke for each image")
    _plain_axes(axes)
    return _png(figure)


# --- Pictures ---


@dataclass(frozen=True)
class _Strip:
    """An image: what it is about, and its panels with captions."""

    name: str
    gain: str
    panels: list[tuple[str, str]]


def _strips(found: Evaluation, data: DataSet) -> list[tuple[str, list[_Strip]]]:
    """Where each method gains and loses most, under a heading for each."""
    pictures = _Pictures(found, data)
    strips = []
    for b, a in found.pairs:
        gains = found.gains(b, a)
        best, worst = [g for g in gains[::-1] if g[0] > 0][:SHOWN], [g for g in gains if g[0] < 0][:SHOWN]
        for what, shown in ((f"{b} gains most over {a}", best), (f"{b} loses most against {a}", worst)):
            strips.append(
                (what, [_Strip(name, number(gain, "+"), pictures.panels(name, b, a)) for gain, name in shown])
            )
    return strips


class _Pictures:
    """Panels of images as JPEG, made when they are asked for."""

    def __init__(self, found: Evaluation, data: DataSet) -> None:
        self.found, self.data = found, data
        self.results = {image.name: image for image in found.images}
        self.made: dict[str, tuple[list[tuple[str, str]], dict[str, Array]]] = {}

    def panels(self, name: str, b: str, a: str) -> list[tuple[str, str]]:
        """Caption and picture of the photo, the truth, all methods, and what method b changes for method a."""
        sample = self.data.read(name)
        if name not in self.made:
            self.made[name] = self._common(sample)
        common, labels = self.made[name]
        return [*common, (f"{b} against {a}", _jpeg(_change(sample.image, sample.labels, labels[b], labels[a])))]

    def _common(self, sample: Any) -> tuple[list[tuple[str, str]], dict[str, Array]]:
        found, count = self.found, len(sample.logits)
        labels = {method: predict(method, sample, found.params, num_threads=None) for method in found.methods}
        accuracy = self.results[sample.name].accuracy
        panels = [
            ("photo", images.coloured(sample.image)),
            ("truth", images.tinted(sample.image, sample.labels, count)),
            *((f"{m} {number(accuracy(m))} %", images.tinted(sample.image, labels[m], count)) for m in found.methods),
        ]
        return [(caption, _jpeg(panel)) for caption, panel in panels], labels


def _change(image: Array, truth: Array, after: Array, before: Array) -> Array:
    """Grey photo with the pixels that became right and those that became wrong."""
    grey = images.coloured(image).mean(axis=2, keepdims=True).repeat(3, axis=2) / 2 + 100
    grey[(after == truth) & (before != truth)] = GAINED
    grey[(after != truth) & (before == truth)] = LOST
    grey[truth == metrics.VOID] = 255
    return grey.astype(np.uint8)


def _jpeg(panel: Array) -> str:
    picture = Image.fromarray(panel)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY, optimize=True)
    return _embedded("jpeg", file)
