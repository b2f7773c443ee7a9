"""Result files: JSON with the environment that the figures come from."""

from __future__ import annotations

import json
import os
import platform
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import densecrf
from benchmarks import common
from densecrf import _native
from densecrf.images import FileError, Outputs

SOURCES = ("setup.py", "csrc", "densecrf", "benchmarks/*.py")  # changes of these matter to figures
PACKAGES = ("numpy", "torch", "pydensecrf2", "SimpleCRF", "gco-wrapper", "PyMaxflow", "scikit-learn")


def environment() -> dict[str, Any]:
    """Processor, cores, load, versions, commit."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),  # of the last minute; beside the benchmark nothing should run
        "system": platform.platform(),
        "python": platform.python_version(),
        "densecrf": densecrf.__version__,
        **_native.info(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": common.said(["git", "rev-parse", "--short", "HEAD"]) or None,
        "changed_files": len(common.said(["git", "status", "--porcelain", "--", *SOURCES]).splitlines()),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def save(folder: Path, name: str, content: dict[str, Any]) -> None:
    """Write ``NAME.json``."""
    try:
        with Outputs(folder) as outputs, outputs.open(f"{name}.json") as file:
            file.write((json.dumps(content, indent=1) + "\n").encode())
    except FileError as error:
        raise SystemExit(str(error)) from error
    print(f"wrote {folder / name}.json", flush=True)


def load(folder: Path, name: str) -> dict[str, Any] | None:
    """What `save` has written; None where there is none."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
