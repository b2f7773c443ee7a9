"""The picture of a search: its objective over pairs of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, BinaryIO

import numpy as np

from densecrf import _extras
from densecrf._candidates import Axis
from densecrf.tune import Tuning

NAMES = {
    "weight": "weight",
    "sxy": "sxy, pixels",
    "srgb": "srgb, of 255",
    "contrast": "contrast",
}
LEGEND = "tiles: coarse search, circles: finer, star: chosen, grey: no better than the scores alone"
WORSE = "0.85"


def draw(file: BinaryIO, tuning: Tuning) -> None:
    """Write a PNG: for each pair of searched parameters, the best objective over all others.

    Colours begin at the objective of the scores alone.
    """
    _extras.need("evaluate", "matplotlib")
    figures = _extras.need("evaluate", "matplotlib.figure")
    pairs = list(combinations(reversed(tuning.space.axes), 2))
    figure = figures.Figure(figsize=(5.2 * len(pairs) + 0.9, 4.8), layout="constrained")
    axes = figure.subplots(1, len(pairs), squeeze=False)[0]
    least = tuning.figures["unary"][tuning.objective]
    most = max(row.all for row in tuning.table)
    limits = {"vmin": least, "vmax": max(most, least + 1e-3)}
    for ax, pair in zip(axes, pairs, strict=True):
        shown = _panel(ax, tuning, pair, limits)
    bar = figure.colorbar(shown, ax=list(axes), extend="min", label=f"{tuning.objective} on all images, percent")
    bar.ax.axhline(least, color="black")
    figure.suptitle(_title(tuning), fontsize=11)
    figure.supxlabel(LEGEND, fontsize=9, color="0.3")
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})


def _title(tuning: Tuning) -> str:
    best = tuning.best["all"]
    setting = ", ".join(f"{name} {value:g}" for name, value in best._asdict().items() if not isinstance(value, str))
    before = tuning.figures["unary"][tuning.objective]
    after = next(row.all for row in tuning.table if row.candidate == best)
    return f"{setting}\n{tuning.objective} {before:.2f} \N{RIGHTWARDS ARROW} {after:.2f}"


def _panel(ax: Any, tuning: Tuning, pair: tuple[str, str], limits: dict[str, float]) -> Any:
    across, up = (tuning.space.axes[name] for name in pair)
    best: dict[tuple[float, float], float] = {}
    for row in tuning.table:
        where = getattr(row.candidate, pair[0]), getattr(row.candidate, pair[1])
        best[where] = max(row.all, best.get(where, -np.inf))
    tiles = np.array([[best.get((x, y), np.nan) for x in across.values] for y in up.values])
    colours = _extras.need("evaluate", "matplotlib").colormaps["viridis"].with_extremes(under=WORSE)
    shown = ax.pcolormesh(_edges(across), _edges(up), tiles, cmap=colours, **limits)
    ax.set(xscale="log", yscale="log", xlabel=NAMES[pair[0]], ylabel=NAMES[pair[1]])
    coarse = {(x, y) for x in across.values for y in up.values}
    finer = {where: value for where, value in best.items() if where not in coarse}
    if finer:
        ax.scatter(
            *zip(*finer, strict=True),
            c=list(finer.values()),
            cmap=colours,
            edgecolors="black",
            linewidths=0.6,
            s=30,
            **limits,
        )
    chosen = tuning.best["all"]
    ax.plot(getattr(chosen, pair[0]), getattr(chosen, pair[1]), "*", color="red", mec="white", ms=16, zorder=4)
    for y, line in zip(_edges(up), tiles, strict=False):  # into the lower left corners, where the fewest circles are
        for x, value in zip(_edges(across), line, strict=False):
            box = {"facecolor": "white", "alpha": 0.5, "linewidth": 0, "pad": 1}
            ax.annotate(f"{value:.2f}", (x, y), (4, 4), textcoords="offset points", fontsize=8, bbox=box)
    _ticks(ax.xaxis, across.values)
    _ticks(ax.yaxis, up.values)
    return shown


def _edges(axis: Axis) -> list[float]:
    """Borders of the tiles, half a step from their values."""
    values = axis.values
    inner = [float(np.sqrt(a * b)) for a, b in zip(values, values[1:], strict=False)]
    half = axis.ratio**0.5
    return [values[0] / half, *inner, values[-1] * half]


def _ticks(axis: Any, values: Sequence[float]) -> None:
    axis.set_ticks(values, labels=[f"{value:g}" for value in values])
    axis.set_ticks([], minor=True)
