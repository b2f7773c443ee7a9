"""How the commands talk: to standard error, with a bar where someone looks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_INTERRUPTED = 130  # 128 + the signal, as shells report it


def stderr() -> Console:
    """Console for all that is not the result."""
    return Console(stderr=True, soft_wrap=True, markup=False, highlight=False, emoji=False)


def interrupted(console: Console, advice: str = "") -> NoReturn:
    """End the command after Ctrl-C."""
    console.print(f"densecrf: interrupted{advice}")
    # An interrupt during the exec() of a string, which imports do, makes `python -m densecrf` die by the signal in the
    # end, whatever its exit status. The next exec() of a string takes that back (CPython, run_eval_code_obj).
    exec("")
    sys.exit(_INTERRUPTED)


@contextmanager
def progress(console: Console, quiet: bool) -> Iterator[Progress]:
    """Bar that goes away at the end; unseen where the console is no terminal."""
    name = TextColumn("{task.description}", markup=False)
    columns = name, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=console, transient=True)
    if quiet or not console.is_terminal:
        yield bar  # counts, unseen
    else:
        with bar:
            yield bar


def failures(console: Console, lines: list[str], total: int) -> None:
    """List the images that failed, of so many."""
    if lines:
        console.print(f"densecrf: error: {len(lines)} of {total} images failed:")
        for line in lines:
            console.print(f"  {line}")
