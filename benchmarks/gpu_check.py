"""All that only a GPU shows, in one run of less than eight minutes, offline.

    python -m benchmarks gpu_check [--out FILE]

builds densecrf in place for this machine's GPU, runs the tests that want one, takes times (bench_gpu.py), looks for
races, barriers that not all threads reach, and stray reads and writes with compute-sanitizer, and writes one JSON file:
the GPU, driver and versions, the commit, and outcome and seconds of every step. A step that fails does not stop the
others. Exit status: 0 if all passed, 1 if not, 2 where there is no GPU.

Needs torch for CUDA, nvcc, and what the extra [test] brings.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.common import ROOT, said

FIGURES = ROOT / "build" / "bench_gpu.json"
SECONDS = 470  # for all steps together
SANITIZER_SECONDS = 60  # for each of its tools, which may crawl
TAIL = 3000  # characters of a step's output that are kept
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_cuda.py", "-k"]
# One call of every operator.
SMALL = [*PYTEST, "test_opcheck and gpu"]
SEE = (
    "import torch, densecrf._native as native; "
    "assert torch.cuda.is_available(), 'torch sees no GPU'; "
    "assert native.info()['cuda'], 'built without CUDA'; "
    "print(torch.cuda.get_device_name(), native.info())"
)


def machine(gpu: str) -> dict[str, Any]:
    name, driver, capability = (part.strip() for part in gpu.splitlines()[0].split(","))
    versions = "import json, torch as t, numpy; print(json.dumps([t.__version__, t.version.cuda, numpy.__version__]))"
    torch, torch_cuda, numpy = json.loads(said([sys.executable, "-c", versions]) or "[null, null, null]")
    nvcc = re.search(r"release \S+, V(\S+)", said(["nvcc", "--version"]))
    return {
        "gpu": name,
        "driver": driver,
        "compute_capability": capability,
        "nvcc": nvcc[1] if nvcc else None,
        "python": sys.version.split()[0],
        "torch": torch,
        "torch_cuda": torch_cuda,
        "numpy": numpy,
        "commit": said(["git", "rev-parse", "HEAD"]) or None,
        "changed_files": said(["git", "status", "--porcelain"]).splitlines(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def steps(capability: str) -> list[tuple[str, list[str], dict[str, str]]]:
    """Name, command and environment of each step."""
    build = {"DENSECRF_CUDA": "1", "DENSECRF_CUDA_ARCHS": capability.replace(".", "")}
    # Every tensor an allocation of its own, so that what lies beside it is nobody's.
    alone = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    sanitizer = ["compute-sanitizer", "--error-exitcode", "86", "--report-api-errors", "no", "--tool"]
    ours = ["--kernel-name", "kns=densecrf"]
    return [
        ("build", [sys.executable, "setup.py", "-q", "build_ext", "--inplace"], build),
        ("torch and densecrf see the GPU", [sys.executable, "-c", SEE], {}),
        ("current stream", [*PYTEST, "current_stream"], {}),
        ("CUDA graphs", [*PYTEST, "in_a_graph"], {}),
        ("tests", [*PYTEST, "gpu and not current_stream and not in_a_graph"], {}),
        ("benchmarks", common.command("bench_gpu", "--rounds", 15, "--output", FIGURES), {}),
        ("memcheck", [*sanitizer, "memcheck", *ours, *SMALL], alone),
        ("racecheck", [*sanitizer, "racecheck", *ours, *SMALL], alone),
        ("synccheck", [*sanitizer, "synccheck", *ours, *SMALL], alone),
        # Of all kernels: what torch's have written would seem uninitialised otherwise.
        ("initcheck", [*sanitizer, "initcheck", *SMALL], alone),
    ]


def run(name: str, command: list[str], environment: dict[str, str], seconds: float) -> dict[str, Any]:
    print(f"== {name}", flush=True)
    start = time.monotonic()
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))  # this folder's densecrf
    try:
        step = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": paths, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output = step.communicate(timeout=seconds)[0]
            outcome = "passed" if step.returncode == 0 else f"failed ({step.returncode})"
        except subprocess.TimeoutExpired:
            os.killpg(step.pid, signal.SIGKILL)  # with what it has started, which holds on to its output
            outcome, output = "out of time", step.communicate()[0]
    except OSError as error:
        outcome, output = "failed (not there)", str(error)
    took = time.monotonic() - start
    print(f"{output[-TAIL:]}\n-- {name}: {outcome}, {took:.1f} s", flush=True)
    return {"name": name, "command": command, "outcome": outcome, "seconds": round(took, 1), "output": output[-TAIL:]}


def main(arguments: list[str]) -> int:
    parser = common.parser("gpu_check", __doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu_check.json")
    out = parser.parse_args(arguments).out
    gpu = said(["nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"])
    if not gpu:
        print("gpu_check: there is no NVIDIA GPU here (nvidia-smi shows none), so there is nothing to check.")
        return 2
    found = machine(gpu)
    until, results = time.monotonic() + SECONDS, []
    FIGURES.unlink(missing_ok=True)
    for name, command, environment in steps(found["compute_capability"]):
        left = until - time.monotonic()
        most = SANITIZER_SECONDS if name.endswith("check") else left
        results.append(run(name, command, environment, max(1.0, min(most, left))))
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else None
    passed = all(step["outcome"] == "passed" for step in results)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**found, "passed": passed, "steps": results, "benchmarks": figures}, indent=2) + "\n")
    for step in results:
        print(f"{step['seconds']:>7.1f} s  {step['outcome']:<20} {step['name']}")
    print(f"gpu_check: {'all passed' if passed else 'not all passed'}; {out}")
    return 0 if passed else 1
