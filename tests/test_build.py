"""The build: what setup.py compiles with which flags, what it rebuilds, and what it says when it cannot."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytest.importorskip("setuptools", minversion="77", reason="setup.py needs setuptools 77 or newer")


def load_setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("densecrf_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


build = load_setup()


ONCE = {"dispatch", "memory", "parallel"}  # sources of csrc/cpu that are compiled once, not per SIMD level


@pytest.fixture(autouse=True)
def no_switches(monkeypatch):
    switches = ("DEBUG", "SANITIZE", "CUDA", "CUDA_ARCHS")
    for name in ("CXX", "CXXFLAGS", "LDFLAGS", "MAX_JOBS", *(f"DENSECRF_{switch}" for switch in switches)):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def compiler(tmp_path):
    """Makes a stand-in for a compiler: a target, and flags that it rejects."""

    def make(target: str = "x86_64-linux-gnu", rejects: str = "nothing") -> list[str]:
        script = tmp_path / "compiler"
        script.write_text(
            "#!/bin/sh\n"
            f'if [ "$1" = -dumpmachine ]; then echo {target}; exit; fi\n'
            f'case " $* " in *{rejects}*) echo "error: bad value {rejects}" >&2; exit 1;; esac\n'
        )
        script.chmod(0o755)
        return [str(script)]

    return make


# ---- flags -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("switches", [{}, {"debug": True}, {"sanitize": "address,undefined"}])
def test_each_simd_source_is_compiled_once_per_level(compiler, switches):
    mode = build.Mode(**switches)
    levels = build.simd_levels(compiler(), mode)
    assert list(levels) == ["baseline", "avx2", "avx512"][: 3 if mode.release else 2]
    objects = [target for group in build.engine_groups(levels, mode) for target in group.objects()]
    names = {path.stem for path in (ROOT / "csrc" / "cpu").glob("*.cpp")} - ONCE
    assert {"features", "lattice", "filter", "mean_field"} <= names
    assert sorted(objects) == sorted(
        [f"{level}/{name}.o" for level in levels for name in names] + [f"once/{name}.o" for name in ONCE]
    )


def test_lower_levels_are_linked_first(compiler):
    groups = build.engine_groups(build.simd_levels(compiler(), build.Mode()), build.Mode())
    assert [group.name for group in groups] == ["once", *["baseline"] * 2, *["avx2"] * 2, *["avx512"] * 2]
    for strict, fast in (groups[1:3], groups[3:5], groups[5:7]):
        assert "-ffp-contract=off" in strict.flags
        assert "-ffp-contract=fast" in fast.flags


def test_rounding_is_pinned_where_it_matters(compiler):
    pinned = ("features.cpp", "lattice.cpp", "lattice_grad.cpp")
    for group in build.engine_groups(build.simd_levels(compiler(), build.Mode()), build.Mode()):
        assert not {"-ffast-math", "-Ofast", "-funsafe-math-optimizations"} & set(group.flags)
        for source in group.sources if group.name != "once" else ():
            assert ("-ffp-contract=off" in group.flags) == (source.name in pinned)


def test_older_compilers_get_single_extensions(compiler):
    levels = build.simd_levels(compiler(rejects="-march=x86-64-v"), build.Mode())
    assert levels["avx2"] == ["-mavx2", "-mfma", "-mbmi2", "-mf16c"]
    assert "-mavx512vl" in levels["avx512"]


def test_a_level_that_the_compiler_cannot_build_is_left_out(compiler):
    levels = build.simd_levels(compiler(rejects="512"), build.Mode())
    assert list(levels) == ["baseline", "avx2"]
    once = build.engine_groups(levels, build.Mode())[0]
    assert "-DDENSECRF_HAS_AVX2" in once.flags
    assert "-DDENSECRF_HAS_AVX512" not in once.flags


@pytest.mark.parametrize("target", ["aarch64-linux-gnu", "arm64-apple-darwin24.0.0", "riscv64-linux-gnu"])
def test_other_processors_have_the_baseline_only(compiler, target):
    assert build.simd_levels(compiler(target), build.Mode()) == {"baseline": []}


def test_sanitizers_reach_compiler_and_linker():
    mode = build.Mode(sanitize="address,undefined")
    assert "-fsanitize=address,undefined" in build.common_flags(mode)
    assert "-fsanitize=address,undefined" in build.link_flags(mode)
    assert "-DNDEBUG" not in mode.optimise("-O3")
    assert len({build.Mode().build_dir, build.Mode(debug=True).build_dir, mode.build_dir}) == 3


# ---- complaints ------------------------------------------------------------------------------------------


def test_no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.CompileError, match=r"none of c\+\+, g\+\+ and clang\+\+ is on PATH: install"):
        build.find_compiler(build.Mode())


def test_compiler_that_does_not_exist(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(build.CompileError, match="CXX='no-such-compiler' names no program"):
        build.find_compiler(build.Mode())


def test_compiler_that_fails(monkeypatch, compiler):
    monkeypatch.setenv("CXX", compiler(rejects="-std=c++17")[0])
    with pytest.raises(build.CompileError, match="cannot compile an empty program: error: bad value"):
        build.find_compiler(build.Mode())


def test_sanitizer_list_is_checked(monkeypatch):
    monkeypatch.setenv("DENSECRF_SANITIZE", "address; rm")
    with pytest.raises(build.CompileError, match="must be a list such as address,undefined; got 'address;rm'"):
        build.Mode.from_environment()


# ---- CUDA --------------------------------------------------------------------------------------------------


@pytest.fixture
def toolkit(tmp_path, monkeypatch):
    """A stand-in for a CUDA toolkit, in CUDA_HOME."""
    nvcc = tmp_path / "toolkit" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        "--version) echo Cuda compilation tools, release 12.4, V12.4.1;;\n"
        "--list-gpu-code) printf 'sm_75\\nsm_80\\nsm_90\\nsm_90a\\n';;\n"
        f"--dryrun) echo '#$ _HERE_={nvcc.parent}' >&2;;\n"
        "esac\n"
    )
    nvcc.chmod(0o755)
    runtime = tmp_path / "toolkit" / "targets" / "x86_64-linux" / "lib" / "libcudart_static.a"
    runtime.parent.mkdir(parents=True)
    runtime.touch()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    return tmp_path / "toolkit"


def test_cuda_is_built_when_asked_for_and_where_there_is_a_driver(toolkit, monkeypatch):
    driver = toolkit / "nvidia-smi"
    driver.write_text("")
    driver.chmod(0o755)
    monkeypatch.delenv("DENSECRF_CUDA", raising=False)
    for path, found in (("/usr/bin:/bin", False), (f"{toolkit}:/usr/bin:/bin", True)):
        monkeypatch.setenv("PATH", path)
        assert (build.find_cuda() is not None) == found
    for switch in ("", "1", "auto"):
        monkeypatch.setenv("DENSECRF_CUDA", switch)
        cuda = build.find_cuda()
        assert (cuda.release, cuda.root, cuda.archs) == ("12.4", toolkit, ("80", "90"))
        assert toolkit in cuda.runtime.parents
        assert cuda.arch_flags[-1] == "-gencode=arch=compute_90,code=compute_90"
    groups = build.cuda_groups(cuda, ["c++"], build.Mode())
    fused = {source.name: "-fmad=false" not in group.flags for group in groups for source in group.sources}
    assert fused.items() >= {"lattice_build.cu": False, "lattice_filter.cu": True, "sort.cu": True}.items()
    assert fused.keys() == {source.name for source in (build.CSRC / "cuda").glob("*.cu")}
    monkeypatch.setenv("DENSECRF_CUDA", "0")
    assert build.find_cuda() is None


def test_the_binding_of_cuda_is_compiled_with_it_and_emulated(toolkit, monkeypatch):
    monkeypatch.setenv("DENSECRF_CUDA", "1")
    groups = [build.python_group(build.Mode(), "1", cuda) for cuda in (None, build.find_cuda())]
    assert ["python/cuda.o" in groups[0].objects(), "python_cuda/cuda.o" in groups[1].objects()] == [False, True]
    assert ["-DDENSECRF_CUDA" in group.flags for group in groups] == [False, True]
    assert build.emulated_python_group(build.Mode()).objects() == ["python_emulated/cuda.o"]


def test_cuda_archs_are_chosen_and_checked(toolkit, monkeypatch):
    monkeypatch.setenv("DENSECRF_CUDA", "1")
    monkeypatch.setenv("DENSECRF_CUDA_ARCHS", "75;90a")
    assert build.find_cuda().archs == ("75", "90a")
    monkeypatch.setenv("DENSECRF_CUDA_ARCHS", "60, 75")
    with pytest.raises(build.CompileError, match="names 60, which .*nvcc does not know; it knows 75, 80, 90, 90a"):
        build.find_cuda()


def test_no_nvcc(monkeypatch):
    monkeypatch.setattr(build, "find_nvcc", lambda: None)
    assert build.find_cuda() is None
    monkeypatch.setenv("DENSECRF_CUDA", "1")
    with pytest.raises(build.CompileError, match="install the CUDA toolkit or set CUDA_HOME; DENSECRF_CUDA=0 builds"):
        build.find_cuda()
    monkeypatch.setenv("DENSECRF_CUDA", "yes")
    with pytest.raises(build.CompileError, match="must be 0, 1 or auto; got 'yes'"):
        build.find_cuda()


# ---- a real build, of a package with the same rooms and next to nothing in them ---------------------------

PROJECT = """
[project]
name = "densecrf"
version = "1.2.3"

[tool.setuptools]
packages = ["densecrf"]
"""
MODULE = """
#include <Python.h>
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1};
PyMODINIT_FUNC PyInit__C() {
  PyObject* made = PyModule_Create(&module);
  PyModule_AddStringConstant(made, "version", DENSECRF_VERSION);
#ifdef NDEBUG
  PyModule_AddStringConstant(made, "mode", "release");
#else
  PyModule_AddStringConstant(made, "mode", "debug");
#endif
  return made;
}
"""


@pytest.fixture
def package(tmp_path):
    pytest.importorskip("pybind11")
    if not (shutil.which("ninja") or importlib.util.find_spec("ninja")):
        pytest.skip("ninja is not installed")
    root = tmp_path / "a package"
    for folder in ("core", "cpu", "python"):
        (root / "csrc" / folder).mkdir(parents=True)
    (root / "densecrf").mkdir()
    (root / "densecrf" / "__init__.py").touch()
    shutil.copy(ROOT / "setup.py", root)
    (root / "pyproject.toml").write_text(PROJECT)
    (root / "csrc" / "core" / "shared.h").write_text("inline int one() { return 1; }\n")
    for name in ONCE:
        (root / "csrc" / "cpu" / f"{name}.cpp").write_text(f"int {name}() {{ return 1; }}\n")
    for name in ("lattice", "filter"):
        include = '#include "core/shared.h"\n' if name == "lattice" else ""
        text = f"{include}namespace DENSECRF_ISA {{ int {name}() {{ return 1; }} }}\n"
        (root / "csrc" / "cpu" / f"{name}.cpp").write_text(text)
    (root / "csrc" / "python" / "module.cpp").write_text(MODULE)
    return root


def run_build(package: Path, **switches: str) -> set[str]:
    """Build in place; the objects that were compiled."""
    run = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=package,
        env={**os.environ, "DENSECRF_CUDA": "0", **switches},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return set(re.findall(r"(?:C\+\+|CUDA) (\S+\.o)", run.stdout))


def constants(package: Path) -> list[str]:
    command = [sys.executable, "-c", "import densecrf._C as c; print(c.version, c.mode)"]
    return subprocess.run(command, cwd=package, capture_output=True, text=True, check=True).stdout.split()


def edit(path: Path) -> None:
    path.write_text(path.read_text() + "\n")


def test_rebuilds_what_changed_and_nothing_else(package):
    everything = run_build(package)
    levels = {Path(target).parent.name for target in everything} - {"once", "python"}
    assert "baseline" in levels
    assert everything >= {"python/module.o", *(f"once/{name}.o" for name in ONCE)}
    assert constants(package) == ["1.2.3", "release"]
    assert run_build(package) == set()

    edit(package / "csrc" / "core" / "shared.h")
    assert run_build(package) == {f"{level}/lattice.o" for level in levels}
    edit(package / "csrc" / "cpu" / "filter.cpp")
    assert run_build(package) == {f"{level}/filter.o" for level in levels}


def test_switches_rebuild_and_switch_back(package):
    run_build(package)
    assert "python/module.o" in run_build(package, DENSECRF_DEBUG="1", MAX_JOBS="2")
    assert constants(package) == ["1.2.3", "debug"]
    assert run_build(package) == set()
    assert constants(package) == ["1.2.3", "release"]
    assert "once/parallel.o" in run_build(package, CXXFLAGS="-DSOMETHING")


KERNEL = """
__global__ void fill(int* at) { *at = 1; }
extern "C" int launch(int* at) {
  fill<<<1, 1>>>(at);
  return cudaGetLastError();
}
"""


@pytest.mark.skipif(build.find_nvcc() is None, reason="nvcc is not installed")
def test_cuda_is_compiled_once_and_needs_no_device(package):
    (package / "csrc" / "cuda").mkdir()
    (package / "csrc" / "cuda" / "kernel.cu").write_text(KERNEL)
    switches = {"DENSECRF_CUDA": "1", "DENSECRF_CUDA_ARCHS": "90"}
    assert "cuda/kernel.o" in run_build(package, **switches)
    assert constants(package) == ["1.2.3", "release"]
    assert run_build(package, **switches) == set()
    edit(package / "csrc" / "cuda" / "kernel.cu")
    assert run_build(package, **switches) == {"cuda/kernel.o"}
    assert run_build(package, DENSECRF_CUDA="0") == {"python/module.o"}
    assert run_build(package, **switches) == set()


def test_a_source_that_does_not_compile(package):
    (package / "csrc" / "cpu" / "filter.cpp").write_text("int broken = ;\n")
    run = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=package,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "filter.cpp:1" in run.stdout + run.stderr
    assert "failed; its own message is above" in run.stderr
    assert "Traceback" not in run.stderr


# ---- what was built ----------------------------------------------------------------------------------------


def weak_functions(target: Path) -> set[str]:
    """Demangled functions that the linker may merge with their namesakes from other objects."""
    run = subprocess.run(["nm", "-C", "--defined-only", target], capture_output=True, text=True, check=True)
    lines = (line.split(maxsplit=2) for line in run.stdout.splitlines())
    # W: weak functions, u: unique symbols.  V, weak data such as type names, holds no instructions.
    return {symbol for _, kind, symbol in (line for line in lines if len(line) == 3) if kind in "Wu"}


@pytest.mark.parametrize("level", ["avx2", "avx512"])
def test_simd_objects_share_no_code_with_other_levels(level):
    folder = build.Mode().build_dir / level
    sources = sorted((ROOT / "csrc" / "cpu").glob("*.cpp"))
    objects = [folder / f"{source.stem}.o" for source in sources if (folder / f"{source.stem}.o").exists()]
    if not objects:
        pytest.skip(f"no {level} objects of a release build here: densecrf was not built from this folder")
    if not shutil.which("nm"):
        pytest.skip("nm is not installed")
    leaks = {
        (target.name, symbol)
        for target in objects
        for symbol in weak_functions(target)
        if f"densecrf::{level}::" not in symbol
    }
    assert not leaks, f"shared code compiled for {level}; move it into the level's namespace (core/macros.h)"
