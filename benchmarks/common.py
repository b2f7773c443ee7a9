"""Command lines of the benchmarks and where their files are; needs nothing but Python."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SHORT = ROOT / "build" / "benchmarks"  # of --short, whose figures mean nothing


def parser(name: str, about: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the benchmark's docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def measuring(name: str, about: str | None) -> argparse.ArgumentParser:
    """The parser of a benchmark with a short form, which writes into a folder of results."""
    made = parser(name, about)
    made.add_argument("--short", action="store_true", help="small and quick, to see that it runs; figures mean nothing")
    made.add_argument("--results", type=Path, help="folder for the JSON file")
    return made


def folder(options: argparse.Namespace) -> Path:
    """Where the results go."""
    return options.results or (SHORT if options.short else RESULTS)


def command(name: str, *arguments: object) -> list[str]:
    """Command line of a benchmark in a process of its own; to be run in ROOT."""
    return [sys.executable, "-m", "benchmarks", name, *map(str, arguments)]


def said(line: list[str]) -> str:
    """What a command prints; empty where it fails or is not there."""
    try:
        return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
