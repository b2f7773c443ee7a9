"""The command line: ``densecrf refine``, ``densecrf info``, and the group that the other commands are in."""

from __future__ import annotations

import platform
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import PIL

import densecrf
from densecrf import _console, _jobs, _native, _tune_command
from densecrf._evaluate_command import evaluate
from densecrf._options import EXAMPLES, PRESETS, input_options, model_options, run_options
from densecrf.images import FileError
from densecrf.presets import Preset

TERMINATED = 143  # 128 + the signal, as shells report it


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(densecrf.__version__, prog_name="densecrf")
def cli() -> None:
    """Sharpen segmentations to the edges of their photos, with a dense conditional random field.

    Begin with: densecrf refine --help
    """


cli.add_command(evaluate)
cli.add_command(_tune_command.tune)


@cli.command(epilog=EXAMPLES, short_help="Refine the segmentation of one photo or many.")
@click.argument("paths", nargs=-1, required=True, metavar="IMAGE... SCORES")
@click.option("-o", "--output", required=True, metavar="DIR", help="Folder for the results; made if missing.")
@input_options
@model_options
@run_options
def refine(paths: tuple[str, ...], output: str, **options: Any) -> None:
    """Move a segmentation's borders to the edges of its photo.

    IMAGE is the photo. SCORES is what a network said about it: a .npy or .npz file of shape
    [labels, height, width], of the photo's size or smaller.

    Writes to DIR: labels.png (label map with a palette), probs.npy (float32 probabilities
    [labels, height, width]) and overlay.png (photo, before and after, side by side). An image's files appear
    together or not at all.
    """
    source, settings = _source(options), _settings(options)
    try:
        given, scores = _jobs.split(paths, options["scores"], source.is_picture)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    work = _Work(source, settings, options)
    try:
        work.run(_jobs.find_jobs(given, scores, Path(output), source.is_picture))
    except FileError as error:
        work.note(error)
        work.console.print(f"densecrf: error: {error}")
    except KeyboardInterrupt:
        _console.interrupted(work.console)
    sys.exit(1 if work.failed else 0)


def _source(options: dict[str, Any]) -> _jobs.Source:
    chosen = [kind for kind in ("probs", "labels", "binary") if options[kind]]
    if len(chosen) > 1:
        raise click.UsageError(f"--{chosen[0]} and --{chosen[1]} exclude each other.")
    kind = chosen[0] if chosen else "logits"
    given = {name: options[name] for name in ("key", "num_labels", "confidence", "unknown")}
    return _jobs.Source(kind, **given)


def _settings(options: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the engine that all images share."""
    preset = _preset(options)
    kernels = [_changed(kernel, options) for kernel in preset.kernels]
    iterations = preset.iterations if options["iterations"] is None else options["iterations"]
    return {
        "kernels": [kernel for kernel in kernels if kernel.weight != 0],
        "iterations": iterations,
        "method": options["method"],
        "normalization": options["normalization"] or preset.normalization,
        "prune": options["prune"],
        "num_threads": options["threads"],
    }


def _preset(options: dict[str, Any]) -> Preset:
    """What the single options change."""
    if options["params"] is None:
        return PRESETS[options["preset"] or "default"]
    if options["preset"]:
        raise click.UsageError("--params and --preset exclude each other.")
    found: Preset = options["params"].dense
    return found


def _changed(kernel: Any, options: dict[str, Any]) -> Any:
    """Kernel of a preset with the values that were given as options."""
    names = ("sxy", "srgb", "weight") if isinstance(kernel, densecrf.Bilateral) else ("sxy", "weight")
    prefix = "" if isinstance(kernel, densecrf.Bilateral) else "spatial_"
    given = {name: options[prefix + name] for name in names if options[prefix + name] is not None}
    try:
        return replace(kernel, **given)
    except ValueError as error:
        raise click.UsageError(f"--{prefix.replace('_', '-')}{error}") from error


class _Work:
    """Go through the jobs, say what happens, and remember what failed."""

    def __init__(self, source: _jobs.Source, settings: dict[str, Any], options: dict[str, Any]) -> None:
        self.source, self.settings = source, settings
        self.with_overlay = not options["no_overlay"]
        self.quiet, self.debug = options["quiet"], options["debug"]
        self.console = _console.stderr()
        self.failed: list[str] = []

    def run(self, jobs: list[_jobs.Job]) -> None:
        if len(jobs) == 1:
            self._alone(jobs[0])
        else:
            self._all(jobs)

    def _alone(self, job: _jobs.Job) -> None:
        with _console.progress(self.console, self.quiet) as progress:
            task = progress.add_task(job.image.name, total=self.settings["iterations"])
            done = self._one(job, lambda number: progress.update(task, completed=number))
        if done is None:
            self.console.print(f"densecrf: error: {self.failed[0]}")
        elif not self.quiet:
            click.echo(_summary(done, job))

    def _all(self, jobs: list[_jobs.Job]) -> None:
        with _console.progress(self.console, self.quiet) as progress:
            task = progress.add_task("", total=len(jobs))
            for job in jobs:
                progress.update(task, description=job.image.name)
                self._one(job)
                progress.advance(task)
        _console.failures(self.console, self.failed, len(jobs))
        if not self.quiet:
            done = len(jobs) - len(self.failed)
            click.echo(f"{done} of {len(jobs)} images refined into {jobs[0].folder.parent}")

    def _one(self, job: _jobs.Job, progress: Callable[[int], object] = int) -> _jobs.Done | None:
        # The engine calls `progress` between iterations, which also is when Ctrl-C is noticed.
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                settings = {**self.settings, "progress": progress}
                return _jobs.run(job, self.source, settings, self.with_overlay)
            except Exception as error:
                self.note(error, job)
                return None
            finally:
                for text in dict.fromkeys(str(warning.message) for warning in caught):
                    self.console.print(f"densecrf: warning: {job.image}: {text}")

    def note(self, error: Exception, job: _jobs.Job | None = None) -> None:
        """Remember an error as one line."""
        line = " ".join(str(error).split())
        if not isinstance(error, (FileError, ValueError, TypeError, NotImplementedError)):
            line = f"{type(error).__name__}: {line}".rstrip(": ")
        if job and not isinstance(error, FileError):
            line = f"{job.image}: {line}"
        self.failed.append(line)
        if self.debug:
            self.console.print(traceback.format_exc().rstrip())


def _summary(done: _jobs.Done, job: _jobs.Job) -> str:
    height, width = done.size
    return (
        f"{job.image}: {width} x {height}, {done.num_labels} labels, {done.changed:.2%} of labels changed, "
        f"{done.seconds:.2f} s\nwrote {', '.join(str(job.folder / name) for name in done.written)}"
    )


@cli.command()
def info() -> None:
    """Show versions, SIMD, threads and CUDA, as for a bug report."""
    native = _native.info()
    rows = {
        "densecrf": densecrf.__version__,
        "SIMD": native["simd"],
        "threads": native["threads"],
        "CUDA": "built in" if native["cuda"] else "not built in",
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "Pillow": PIL.__version__,
        "system": platform.platform(),
    }
    for name, value in rows.items():
        click.echo(f"{name:<9} {value}")


def _terminate(number: int, frame: object) -> None:
    sys.exit(TERMINATED)  # as an exception, so that half-written files are removed


def main() -> None:
    """Entry point of the ``densecrf`` command."""
    signal.signal(signal.SIGTERM, _terminate)
    cli(prog_name="densecrf")
