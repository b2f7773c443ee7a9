"""The command ``densecrf evaluate``."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from densecrf import _console, _extras, _figures, images, params, report
from densecrf import evaluate as evaluation
from densecrf._options import dataset_options, params_option
from densecrf.datasets import DataSet
from densecrf.images import FileError

EPILOG = """\b
Examples:
  densecrf evaluate camvid --void 11 -o report
  densecrf evaluate msrc --stride 8 --methods unary,dense --params best.json -o report
\b
Exit status: 0 all went well, 1 something failed, 2 wrong usage, 130 interrupted.
"""


def _methods(context: click.Context, option: click.Parameter, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in evaluation.METHODS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(evaluation.METHODS)}.")
    return names


@click.command(epilog=EPILOG, short_help="Measure what a CRF gains on photos with known labels.")
@click.argument("folder", metavar="FOLDER")
@click.option("-o", "--output", required=True, metavar="OUT", help="Folder for the results; made if missing.")
@params_option("Parameters of the dense or the grid CRF; repeatable.  [default: of refine]", multiple=True)
@click.option(
    "--methods",
    default=",".join(evaluation.METHODS),
    metavar="LIST",
    callback=_methods,
    help="Which to compare.  [default: unary,grid,dense]",
)
@click.option("--names", metavar="FILE", help="Names of the labels, one a line.")
@click.option(
    "--resamples", type=click.IntRange(1), default=1000, metavar="N", help="Of the bootstrap.  [default: 1000]"
)
@click.option("--seed", type=click.IntRange(0), default=0, metavar="N", help="Of the bootstrap.  [default: 0]")
@click.option("--jobs", type=click.IntRange(1), metavar="N", help="Images at a time.  [default: all cores]")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing unless something is wrong.")
@dataset_options
def evaluate(folder: str, output: str, **options: Any) -> None:
    """Compare a network's own labels with those of a grid CRF and of a dense CRF.

    FOLDER holds photos in images, a network's scores in scores (.npy, .npz: [labels, height, width]) and the true
    labels in labels (palette or grey PNG); NAME.jpg, NAME.npy and NAME.png belong together.

    Writes to OUT: report.html (to read), figures.json (everything) and figures.csv (one figure a line).
    """
    console = _console.stderr()
    try:
        problems = _run(folder, output, options, console)
    except (FileError, ImportError) as error:
        console.print(f"densecrf: error: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        _console.interrupted(console)
    sys.exit(1 if problems else 0)


def _run(folder: str, output: str, options: dict[str, Any], console: Console) -> dict[str, str]:
    """Evaluate and write; returns the problems of images."""
    # Before OUT is made.  And C extensions swallow an interrupt now and then while they are imported.
    report.check()
    _extras.need_measuring(with_grid="grid" in options["methods"])
    data = DataSet(folder, **{name: options[name] for name in ("void", "probs", "key", "stride")})
    names = _names(options["names"], data.num_labels)
    with (
        images.Outputs(output) as outputs,
        _console.progress(console, options["quiet"]) as progress,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always", UserWarning)
        images.ignore_decoders()  # for the threads that read
        task = progress.add_task("images", total=len(data.names))
        found = evaluation.evaluate(
            data,
            options["params"] or params.Params(),
            options["methods"],
            **{name: options[name] for name in ("jobs", "resamples", "seed")},
            progress=lambda number: progress.update(task, completed=number),
        )
        progress.update(task, description="report")
        _write(outputs, found, data, names)
    for text in dict.fromkeys(str(warning.message) for warning in caught):
        console.print(f"densecrf: warning: {text}")
    if not options["quiet"]:
        _show(_figures.tables(found, names), Path(output), outputs.names)
    _console.failures(console, list(found.problems.values()), len(data.names))
    return found.problems


def _write(outputs: images.Outputs, found: evaluation.Evaluation, data: DataSet, names: list[str]) -> None:
    for name, content in (
        ("report.html", report.html(found, data, names)),
        ("figures.json", _figures.as_json(found, data, names)),
        ("figures.csv", _figures.as_csv(found, names)),
    ):
        with outputs.open(name) as file:
            file.write(content)


def _names(path: str | None, count: int) -> list[str]:
    """Of the labels."""
    if path is None:
        return [str(label) for label in range(count)]
    try:
        names = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise FileError(f"{path}: cannot read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: must be text in UTF-8") from error
    if len(names) != count:
        raise FileError(f"{path}: must have a line for each of the {count} labels, got {len(names)}")
    return names


def _show(tables: list[Any], folder: Path, written: list[str]) -> None:
    console = Console(markup=False, highlight=False, emoji=False)
    for table in tables:
        console.print(table, "")
    click.echo(f"wrote {', '.join(str(folder / name) for name in written)}")
