"""``densecrf tune``: what it takes and says, and the files that it writes."""

from __future__ import annotations

import csv
import io
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import click
from rich.console import Console

from densecrf import _console, _extras, _tune_plot, images, params
from densecrf import tune as tuning
from densecrf._options import dataset_options, normalization_option
from densecrf.datasets import DataSet
from densecrf.images import FileError
from densecrf.metrics import HEADLINES
from densecrf.tune import Tuning

FIGURES = (*HEADLINES, "within 4 px")

EXAMPLES = """\b
Examples:
  Find a setting, and use it:
    densecrf tune photos-with-labels -o tuned
    densecrf refine photos scores --params tuned/params.json -o out
\b
  A quick look first, on 10 of the images, then on all: what was counted is not counted again
  as long as the images have the same mean size:
    densecrf tune photos-with-labels --images 10 -o tuned
    densecrf tune photos-with-labels -o tuned
\b
Exit status: 0 all went well, 1 something failed, 2 wrong usage, 130 interrupted
(what is done is kept: the same command goes on from there).
"""


@click.command(epilog=EXAMPLES, short_help="Find the setting that suits your images, scores and labels.")
@click.argument("folder", metavar="FOLDER")
@click.option("-o", "--output", required=True, metavar="OUT", help="Folder for the results; made if missing.")
@click.option("--model", type=click.Choice(tuning.MODELS), default="dense", help="The CRF to tune.  [default: dense]")
@click.option(
    "--objective",
    type=click.Choice(list(tuning.OBJECTIVES)),
    default="miou",
    help="What is to be large: mean IoU (default), pixel accuracy, class accuracy, or accuracy within 4 px of a "
    "boundary.",
)
@click.option(
    "--iterations",
    type=click.IntRange(1),
    multiple=True,
    default=(5, 10),
    metavar="N",
    help="Mean field steps to try; repeatable.  [default: 5, 10]",
)
@normalization_option(default="symmetric", help="Of the Gaussian sums.")
@click.option("--spatial", is_flag=True, help="Also tune the smoothness term; else it stays at weight 3, 1 pixel.")
@dataset_options
@click.option("--images", type=click.IntRange(2), metavar="N", help="Use N images only, drawn by the seed.")
@click.option("--seed", type=click.IntRange(0), default=0, metavar="N", help="Parts the images.  [default: 0]")
@click.option("--jobs", type=click.IntRange(1), metavar="N", help="Processes.  [default: one for each core]")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing unless something is wrong.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def tune(folder: str, output: str, quiet: bool, debug: bool, **options: Any) -> None:
    """Find weights and bandwidths of the CRF that suit a data set.

    FOLDER has the folders images, scores and labels; files belong together by name.

    Writes to OUT: params.json (the setting, for --params), search.csv (all that was tried), search.png (a picture
    of it) and counts.jsonl (what was counted, to go on from).
    """
    console = _console.stderr()
    try:
        _extras.need("evaluate", "matplotlib.figure")  # for the picture: miss it now, not after an hour
        given = {name: options.pop(name) for name in ("void", "probs", "key", "stride")}
        data = DataSet(folder, **given)
        with _progress(console, quiet) as progress:
            found = tuning.search(data, output, **options, progress=progress)
            progress("bootstrap", 0, 1)
            text = _text(found)
        written = _write(output, found, options)
    except (FileError, ValueError, ImportError, BrokenProcessPool) as error:
        if debug:
            console.print(traceback.format_exc().rstrip())
        console.print(f"densecrf: error: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        _console.interrupted(console, "; the same command goes on from here")
    if not quiet:
        click.echo(f"{text}\n\nwrote {', '.join(str(Path(output) / name) for name in written)}")
    _console.failures(console, list(found.failed.values()), len(found.failed) + sum(map(len, found.halves.values())))
    sys.exit(1 if found.failed else 0)


@contextmanager
def _progress(console: Console, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    with _console.progress(console, quiet) as bar:
        task = bar.add_task("", total=None)

        def show(what: str, done: int, total: int) -> None:
            if bar.tasks[task].description != what:
                bar.reset(task, description=what)
            bar.update(task, completed=done, total=total)

        yield show


# --- What it says ---


def _text(found: Tuning) -> str:
    count = sum(map(len, found.halves.values()))
    lines = [
        f"{count} images, {len(found.table)} settings: {found.counted} results computed, {found.reused} reused",
        "",
    ]
    parts = {"A": f"half A ({len(found.halves['A'])} images)", "B": f"half B ({len(found.halves['B'])} images)"}
    for part, name in {**parts, "all": f"all {count} images"}.items():
        row = next(row for row in found.table if row.candidate == found.best[part])
        value = {"A": row.a, "B": row.b, "all": row.all}[part]
        lines.append(f"best on {name + ':':<20} {setting(found.best[part])}  ({found.objective} {value:.2f})")
    lines += ["", "each image with the setting chosen on the half that it is not in:", *_table(found)]
    return "\n".join(lines)


def setting(candidate: Any) -> str:
    """A setting in one line."""
    values = candidate._asdict().items()
    return ", ".join(f"{name} {value}" if isinstance(value, str) else f"{name} {value:g}" for name, value in values)


def _table(found: Tuning) -> Iterator[str]:
    yield f"{'':<18}" + "".join(f"{name:>22}" for name in FIGURES)
    for method, figures in found.figures.items():
        yield f"{method:<18}" + "".join(f"{figures[name]:>22.2f}" for name in FIGURES)
    for method in ("unary", "default"):
        cells = (_difference(found, method, name) for name in FIGURES)
        yield f"{f'tuned - {method}':<18}" + "".join(f"{cell:>22}" for cell in cells)
    yield "(in brackets: 95 % bootstrap intervals over images)"


def _difference(found: Tuning, method: str, name: str) -> str:
    low, high = found.intervals[f"tuned - {method}"][name]
    return f"{found.figures['tuned'][name] - found.figures[method][name]:+.2f} ({low:+.2f} {high:+.2f})"


# --- What it writes ---


def _write(folder: str, found: Tuning, options: dict[str, Any]) -> list[str]:
    about = {
        "objective": found.objective,
        "images": sum(map(len, found.halves.values())),
        "seed": options["seed"],
        "held_out": {
            method: {name: round(figures[name], 2) for name in FIGURES} for method, figures in found.figures.items()
        },
        "chosen_on_half": {part: found.best[part]._asdict() for part in found.halves},
    }
    with images.Outputs(folder) as outputs:
        with outputs.open("params.json") as file:
            model = options["model"]
            params.write(file, {model: params.plain(found.best["all"].params)[model], "tuned": about})
        with outputs.open("search.csv") as file:
            _csv(file, found)
        with outputs.open("search.png") as file:
            _tune_plot.draw(file, found)
    return outputs.names


def _csv(file: BinaryIO, found: Tuning) -> None:
    text = io.TextIOWrapper(file, "utf-8", newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([*found.space.kind._fields, *(f"{found.objective}, {part}" for part in ("half A", "half B", "all"))])
    for row in found.table:
        rows.writerow([*row.candidate, *(f"{value:.4f}" for value in (row.a, row.b, row.all))])
    text.detach()
