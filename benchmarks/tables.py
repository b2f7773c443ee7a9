"""Fills the tables of docs/comparison.md from the result files, so that no figure there is typed by hand.

    python -m benchmarks tables [--results DIR] [--images DIR] [--template FILE] [--page FILE]

A table stands between ``<!-- NAME -->`` and ``<!-- end NAME -->``; those without results stay as they are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import common, figures
from benchmarks.plots import IMAGES
from densecrf.images import FileError, Outputs
from densecrf.metrics import BANDS, HEADLINES

PAGE = common.ROOT / "docs" / "comparison.md"
Result = dict[str, Any]
CASES = {
    "size": "{:g} megapixels",
    "labels": "{:g} labels",
    "iterations": "T = {:g}",
    "sxy": "sxy = {:g}",
    "srgb": "srgb = {:g}",
    "threads": "threads: {:g}",
}
FIGURES = (*HEADLINES, "within 4 px", "boundary F")


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])


def stamp(result: Result) -> str:
    """Where the figures come from, as one line."""
    of = result["environment"]
    packages = ", ".join(f"{name} {version}" for name, version in of["packages"].items())
    changed = " with changes" if of["changed_files"] else ""
    missing = f"; not installed: {', '.join(result['left_out'])}" if result["left_out"] else ""
    return (
        f"*{of['processor']}, {of['cores']} cores, {of['simd']}; densecrf {of['densecrf']}"
        f" ({of['commit']}{changed}), Python {of['python']}, {packages};"
        f" load before {of['load']}, {of['time'][:10]}{missing}.*"
    )


def milliseconds(seconds: dict[str, float]) -> str:
    """Median and quartiles."""
    middle, low, high = (significant(1e3 * seconds[k]) for k in ("median", "low", "high"))
    return f"{middle} ({low}–{high})"


def significant(value: float) -> str:
    """Three digits that count, or all before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def quality(result: Result) -> str:
    """Figures of each method, and what it adds to the network alone."""
    rows = []
    for name, of in result["figures"].items():
        interval = result["intervals"].get(f"{name} - unary", {}).get("mIoU")
        gain = of["mIoU"] - result["figures"]["unary"]["mIoU"]
        spread = f" ({interval[0]:+.2f} to {interval[1]:+.2f})" if interval else ""
        beyond = "" if name == "unary" else f"{gain:+.2f}{spread}"
        cells = [f"{of[figure]:.2f}" for figure in FIGURES]
        rows.append([name, *cells, beyond, milliseconds(result["seconds"][name])])
    images = f"{len(result['images'])} image{'s' * (len(result['images']) > 1)}"
    return table([images, *(f"{name}, %" for name in FIGURES), "mIoU beyond unary's", "ms per image"], rows)


def tuned(result: Result) -> str:
    """Figures of each method, and of the tuned dense CRF beyond others with their intervals."""
    names = (*HEADLINES, *(f"within {band} px" for band in BANDS))
    rows = []
    for name, of in result["figures"].items():
        taken = milliseconds(result["seconds"][name]) if name in result["seconds"] else ""
        intervals = result["intervals"][name]
        cells = ["{:.2f} ({:.2f} to {:.2f})".format(of[figure], *intervals[figure]) for figure in names]
        rows.append([name, *cells, taken])
    for a, b in (("grid, tuned", "unary"), *(("dense, tuned", name) for name in result["figures"])):
        if a == b:
            continue
        beyond = result["intervals"][f"{a} - {b}"]
        gains = {figure: result["figures"][a][figure] - result["figures"][b][figure] for figure in names}
        cells = ["{:+.2f} ({:+.2f} to {:+.2f})".format(gains[figure], *beyond[figure]) for figure in names]
        rows.append([f"{a} − {b}", *cells, ""])
    images = sum(map(len, result["halves"].values()))
    return table([f"{images} images", *(f"{name}, %" for name in names), "ms per image"], rows)


def labels(result: Result) -> str:
    """Figures of each method, with the scores as they are and with offsets."""
    names = (*HEADLINES, "within 4 px")
    rows = []
    for scores, methods in result["rows"].items():
        for method, of in methods.items():
            thin = ", ".join(f"{of['IoU'][i]:.1f}" for i in result["rarest"]) if "IoU" in of else ""
            rows.append([scores, method, *(f"{of[name]:.2f}" for name in names), thin])
    return table(["scores", "", *(f"{name}, %" for name in names), "IoU of the rarest three, %"], rows)


def strides(result: Result) -> str:
    """Figures of each method at each stride; the setting that is best on all photos."""
    names = (*HEADLINES, "within 4 px")
    rows = []
    for stride, methods in result["strides"].items():
        for method, of in methods.items():
            setting = ""
            if method == "chosen":
                setting = "({weight:g}; {sxy:g}, {srgb:g})".format(**of["half A, half B, all"][-1])
            rows.append([stride, method, *(f"{of[name]:.2f}" for name in names), setting])
    return table(["", "", *(f"{name}, %" for name in names), "best on all (weight; sxy, srgb)"], rows)


def scaling(result: Result) -> str:
    """A line for every case, a column for every contender; medians."""
    lines = [(axis, line) for axis, found in result["axes"].items() for line in found]
    names = list(dict.fromkeys(name for _, line in lines for name in line["seconds"]))
    rows = [
        [
            CASES[axis].format(line["value"]),
            f"{line['M/N']:.2f}",
            *(significant(1e3 * line["seconds"][name]["median"]) if name in line["seconds"] else "" for name in names),
        ]
        for axis, line in lines
    ]
    return table(["ms", "M/N", *names], rows)


def frontier(result: Result) -> str:
    """Distances and times of each contender."""
    rows = [
        [row["method"], str(row["T"]), f"{row['L1']:.4f}", f"{row['wrong']:.2f}", milliseconds(row["seconds"])]
        for row in result["means"]
    ]
    return table(["", "iterations", "mean of sum of \\|dQ\\|", "labels that differ, %", "ms per crop"], rows)


def memory(result: Result) -> str:
    """Megabytes of each engine."""
    lines = [row for rows in result["rows"].values() for row in rows]
    names = list(dict.fromkeys(name for row in lines for name in row["MB"]))
    rows = {
        "{width}×{height}, L = {labels}".format(**row["case"]): [
            significant(row["MB"][name]) if name in row["MB"] else "" for name in names
        ]
        for row in lines
    }
    return table(["MB", *names], [[case, *cells] for case, cells in rows.items()])


def huge_image(result: Result) -> str:
    """Seconds and gigabytes by size."""
    rows = [
        [f"{row['megapixels']:.3g}", *(significant(row[name]) for name in ("seconds", "GB"))] for row in result["rows"]
    ]
    return table(["megapixels", "seconds", "GB at the peak"], rows)


def stages(result: Result) -> str:
    """Milliseconds of each stage, and of the layer's passes."""
    names = list(result["rows"][0]["seconds"])
    rows = [
        [row["setting"], row["method"], *(significant(1e3 * row["seconds"][name]) for name in names)]
        for row in result["rows"]
    ]
    made = table(["setting", "ms", *names], rows)
    if not result["passes"]:
        return made
    passes = list(result["passes"][0]["seconds"])
    rows = [[row["setting"], *(significant(1e3 * row["seconds"][name]) for name in passes)] for row in result["passes"]]
    return f"{made}\n\n{table(['setting', *(f'{name}, ms' for name in passes)], rows)}"


def made(results: Path, images: Path, page: Path) -> dict[str, str]:
    """What there are results for: plot, table and stamp."""
    kinds: dict[str, Callable[[Result], str]] = {
        "scaling": scaling,
        "frontier": frontier,
        "memory": memory,
        "huge_image": huge_image,
        "stages": stages,
    }
    for kind, make in (("quality", quality), ("tuned", tuned), ("strides", strides), ("labels", labels)):
        kinds |= {path.stem: make for path in sorted(results.glob(f"{kind}-*.json"))}
    found = {name: (make, figures.load(results, name)) for name, make in kinds.items()}
    content = {}
    for name, (make, result) in found.items():
        picture = images / f"{name}.svg"
        shown = [f"![{name}]({os.path.relpath(picture, page.parent)})"] if picture.exists() else []
        if result:
            content[name] = "\n\n".join([*shown, make(result), stamp(result)])
    return content


def fill(text: str, tables: dict[str, str]) -> str:
    """The page with its tables."""
    for name, content in tables.items():
        if f"<!-- {name} -->" not in text:
            print(f"the page has no place for {name}", flush=True)
        between = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end {re.escape(name)} -->)", re.DOTALL)
        text = between.sub(lambda found, content=content: f"{found[1]}{content}\n{found[2]}", text)
    return text


def write(results: Path, images: Path, template: Path, page: Path) -> None:
    """Write the page: the template with its tables."""
    try:
        text = fill(template.read_text(encoding="utf-8"), made(results, images, page))
    except OSError as error:
        raise FileError(f"{template}: cannot read: {error.strerror or error}") from error
    with Outputs(page.parent) as outputs, outputs.open(page.name) as file:
        file.write(text.encode())


def main(arguments: list[str]) -> None:
    parser = common.parser("tables", __doc__)
    parser.add_argument("--results", type=Path, default=common.RESULTS)
    parser.add_argument("--images", type=Path, default=IMAGES)
    parser.add_argument("--template", type=Path, default=PAGE)
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    write(options.results, options.images, options.template, options.page)
    print(f"wrote {options.page}")
