"""Draws the plots of docs/comparison.md from the result files, without measuring anything.

python -m benchmarks plots [--results DIR] [--images DIR]
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common, figures
from densecrf import _extras
from densecrf.images import Outputs
from densecrf.metrics import BANDS, HEADLINES

IMAGES = common.ROOT / "docs" / "images"
STYLE = {
    "figure.dpi": 120,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "svg.hashsalt": "densecrf",  # the same file each time
}
# Colours of Okabe and Ito, which colour-blind people can tell apart; markers say the same once more.
LOOKS = {
    "densecrf, n threads": ("#0072B2", "o"),
    "densecrf": ("#56B4E9", "s"),
    "densecrf, fast": ("#F0E442", "p"),
    "densecrf, classic": ("#009E73", "^"),
    "pydensecrf": ("#D55E00", "D"),
    "SimpleCRF": ("#CC79A7", "v"),
    "grid CRF": ("#E69F00", "P"),
    "exact": ("#000000", "X"),
    "window": ("#CC79A7", "v"),
    "unary": ("#000000", "X"),
    "densecrf, default": ("#0072B2", "o"),
    "densecrf, standard": ("#56B4E9", "s"),
    "densecrf, params": ("#009E73", "^"),
    "pydensecrf, default": ("#D55E00", "D"),
    "grid CRF, params": ("#F0E442", "p"),
    "grid, default": ("#E69F00", "P"),
    "grid, tuned": ("#D55E00", "D"),
    "dense, default": ("#56B4E9", "s"),
    "dense, tuned": ("#0072B2", "o"),
}
AXES = {
    "size": "image size (megapixels)",
    "labels": "labels",
    "iterations": "iterations",
    "sxy": "bilateral bandwidth of positions (pixels)",
    "srgb": "bilateral bandwidth of colours (of 255)",
    "threads": "threads",
}
FEW_DECADES = 1.7
GUIDES = {"size": 1, "labels": 1, "iterations": 1, "threads": -1}  # powers of the axis that time may go with


def look(name: str) -> dict[str, Any]:
    """Colour and marker, the same in all plots."""
    key = "densecrf, n threads" if name.endswith(" threads") else "window" if name.startswith("window") else name
    colour, marker = LOOKS[key]
    return {"color": colour, "marker": marker, "markeredgewidth": 0}


def plain_log(axis: Any, values: Any = None) -> None:
    """A logarithmic axis with plain numbers, at the values where they are given."""
    ticker = _extras.need("evaluate", "matplotlib.ticker")
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    if values is not None:
        axis.set_major_locator(ticker.FixedLocator(values))
    axis.set_minor_formatter(ticker.NullFormatter())
    axis.set_minor_locator(ticker.NullLocator())


def legend_below(figure: Any, axes: Any, title: str | None = None) -> None:
    """One legend of all panels."""
    found = {}
    for panel in np.ravel(axes):
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    found = dict(sorted(found.items(), key=lambda item: item[0].startswith("in ")))  # guides last
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=min(4, len(found)), title=title)


def scaling(result: dict[str, Any]) -> Any:
    """Seconds along each axis, both logarithmic, with the slope of what is linear."""
    plt = _extras.need("evaluate", "matplotlib.pyplot")
    figure, panels = plt.subplots(2, 3, figsize=(9.5, 6), layout="constrained")
    for panel in panels.flat[len(result["axes"]) :]:
        panel.set_visible(False)
    for panel, (axis, lines) in zip(panels.flat, result["axes"].items(), strict=False):
        for name in dict.fromkeys(name for line in lines for name in line["seconds"]):
            found = [(line["value"], line["seconds"][name]) for line in lines if name in line["seconds"]]
            at, times = [value for value, _ in found], [seconds for _, seconds in found]
            middle, low, high = (np.array([t[k] for t in times]) for k in ("median", "low", "high"))
            panel.errorbar(at, middle, (middle - low, high - middle), label=name, elinewidth=0.8, **look(name))
        panel.set(xscale="log", yscale="log", xlabel=AXES[axis], ylabel="seconds per image")
        values = [line["value"] for line in lines]
        if axis in GUIDES:
            guide(panel, values, list(lines[-1]["seconds"].values())[0]["median"], GUIDES[axis])
        plain_log(panel.xaxis, steps(values) if axis == "size" else values)
        at_least_a_decade(panel)
    legend_below(figure, panels, "one thread unless said; medians and quartiles")
    return figure


def guide(panel: Any, values: Any, last: float, power: int = 1) -> None:
    """A dashed line in proportion to the axis (or to its inverse), through densecrf's last figure."""
    values = np.array(values, float)
    limits = panel.get_ylim()
    label = "in proportion" if power == 1 else "in inverse proportion"
    panel.plot(values, last * (values / values[-1]) ** power, "--", color="0.55", linewidth=1, label=label, zorder=1)
    panel.set_ylim(limits)


def at_least_a_decade(panel: Any) -> None:
    """A vertical axis that does not make much of small differences."""
    low, high = panel.get_ylim()
    middle, half = (low * high) ** 0.5, 10**0.5
    panel.set_ylim(min(low, middle / half), max(high, middle * half))
    plain_log(panel.yaxis, steps(panel.get_ylim()))


def steps(values: Any) -> list[float]:
    """Powers of ten that span the values, and where these are few, twice and five times them."""
    low, high = np.log10(min(values)), np.log10(max(values))
    between = (1,) if high - low > FEW_DECADES else (1, 2, 5)
    return [n * 10.0**power for power in np.arange(np.floor(low), np.ceil(high) + 1) for n in between]


def frontier(result: dict[str, Any]) -> Any:
    """Distance from the exact answer against time; a window's sizes are joined."""
    plt = _extras.need("evaluate", "matplotlib.pyplot")
    iterations = list(dict.fromkeys(row["T"] for row in result["means"]))
    figure, panels = plt.subplots(1, len(iterations), figsize=(8.5, 3.9), layout="constrained", sharey=True)
    for panel, T in zip(np.ravel(panels), iterations, strict=True):
        rows = [row for row in result["means"] if row["T"] == T]
        windows = [row for row in rows if row["method"].startswith("window")]
        for row in rows:
            if row not in windows:
                panel.plot(1e3 * row["seconds"]["median"], row["L1"], ls="", label=row["method"], **look(row["method"]))
        if windows:
            at, far = [1e3 * row["seconds"]["median"] for row in windows], [row["L1"] for row in windows]
            panel.plot(at, far, label="windows of n x n pixels", **look("window"))
        for row in windows:
            where = 1e3 * row["seconds"]["median"], row["L1"]
            size = row["method"].split()[1]
            panel.annotate(size, where, xytext=(4, 4), textcoords="offset points", fontsize=8, color="0.3")
        panel.set(xscale="log", yscale="log", title=f"{T} iterations", xlabel="milliseconds per crop, one thread")
        plain_log(panel.xaxis, steps(panel.get_xlim()))
        plain_log(panel.yaxis, steps(panel.get_ylim()))
    np.ravel(panels)[0].set_ylabel("distance from the exact mean field\nmean over pixels of sum over labels of |dQ|")
    legend_below(figure, panels)
    return figure


def memory(result: dict[str, Any]) -> Any:
    """Megabytes against size and labels."""
    plt = _extras.need("evaluate", "matplotlib.pyplot")
    figure, panels = plt.subplots(1, 2, figsize=(7.5, 3.4), layout="constrained", sharey=True)
    for panel, (axis, rows) in zip(panels, result["rows"].items(), strict=True):
        at = [
            row["case"]["width"] * row["case"]["height"] / 1e6 if axis == "size" else row["case"][axis] for row in rows
        ]
        for name in dict.fromkeys(name for row in rows for name in row["MB"]):
            found = [(x, row["MB"][name]) for x, row in zip(at, rows, strict=True) if name in row["MB"]]
            panel.plot(*zip(*found, strict=True), label=name, **look(name))
        panel.set(xscale="log", yscale="log", xlabel=AXES[axis])
        plain_log(panel.xaxis, [float(f"{x:.2g}") for x in at])
        at_least_a_decade(panel)
    panels[0].set_ylabel("memory that a call adds at its peak (MB)")
    legend_below(figure, panels)
    return figure


def huge_image(result: dict[str, Any]) -> Any:
    """Seconds up to huge images, and memory."""
    plt = _extras.need("evaluate", "matplotlib.pyplot")
    figure, panels = plt.subplots(1, 2, figsize=(7.5, 3.2), layout="constrained")
    at = [row["megapixels"] for row in result["rows"]]
    for panel, name, unit in zip(
        panels, ("seconds", "GB"), ("seconds per image", "memory at the peak (GB)"), strict=True
    ):
        values = [row[name] for row in result["rows"]]
        panel.plot(at, values, label="densecrf, all cores, two labels", **look("densecrf, n threads"))
        panel.set(xscale="log", yscale="log", xlabel=AXES["size"], ylabel=unit)
        guide(panel, at, values[-1])
        plain_log(panel.xaxis, [float(f"{x:.2g}") for x in at])
        at_least_a_decade(panel)
    legend_below(figure, panels)
    return figure


def quality(result: dict[str, Any]) -> Any:
    """Accuracy near boundaries, and differences to the network alone with their intervals."""
    plt = _extras.need("evaluate", "matplotlib.pyplot")
    found, intervals = result["figures"], result["intervals"]
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.9), layout="constrained", width_ratios=(3, 4))
    for name, of in found.items():
        panels[0].plot(BANDS, [of[f"within {k} px"] for k in BANDS], label=name, **look(name))
    panels[0].set(xscale="log", xlabel="within so many pixels of a true boundary", ylabel="pixel accuracy (%)")
    plain_log(panels[0].xaxis, BANDS)
    others = [name for name in found if name != "unary"]
    for i, headline in enumerate(HEADLINES):
        for j, name in enumerate(others):
            gain = found[name][headline] - found["unary"][headline]
            low, high = intervals[f"{name} - unary"][headline]
            y = i + (j - (len(others) - 1) / 2) * 0.8 / len(others)
            style = look(name)
            panels[1].plot([low, high], [y, y], color=style["color"], linewidth=1)
            panels[1].plot(gain, y, ls="", **style)
    panels[1].axvline(0, color="0.3", linewidth=0.8)
    panels[1].set_yticks(range(len(HEADLINES)), HEADLINES)
    panels[1].grid(axis="y", visible=False)
    panels[1].invert_yaxis()
    panels[1].set_xlabel("gain over the network alone (percentage points, 95 % intervals)")
    figure.suptitle(f"{result['set']}, {len(result['images'])} images", fontsize=9)
    legend_below(figure, panels)
    return figure


def draw(results: Path, images: Path) -> list[str]:
    """Draw what there are results for; gives the names of the files."""
    plots: dict[str, Callable[[dict[str, Any]], Any]] = {
        "scaling": scaling,
        "frontier": frontier,
        "memory": memory,
        "huge_image": huge_image,
    }
    plots |= {path.stem: quality for kind in ("quality", "tuned") for path in sorted(results.glob(f"{kind}-*.json"))}
    matplotlib = _extras.need("evaluate", "matplotlib")
    matplotlib.use("Agg")
    plt = _extras.need("evaluate", "matplotlib.pyplot")
    with plt.rc_context(STYLE), Outputs(images) as outputs:
        for name, plot in plots.items():
            result = figures.load(results, name)
            if result is None or (plot is quality and not result["intervals"]):  # of a single image
                continue
            figure = plot(result)
            with outputs.open(f"{name}.svg") as file:
                figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
            plt.close(figure)
        names = outputs.names
    return names


def main(arguments: list[str]) -> None:
    parser = common.parser("plots", __doc__)
    parser.add_argument("--results", type=Path, default=common.RESULTS)
    parser.add_argument("--images", type=Path, default=IMAGES)
    options = parser.parse_args(arguments)
    for name in draw(options.results, options.images):
        print(f"wrote {options.images / name}")
