"""Builds ``densecrf._C``: the only file that knows compilers.

The sources are compiled by ninja, which tracks headers and command lines, so that a second build compiles
only what changed.  Objects live in ``build/ninja-*``, whatever front end (pip, editable or not, ``make``)
asked for them.

Switches, all environment variables:

``DENSECRF_DEBUG=1``
    ``-Og -g``, assertions on, SIMD levels up to AVX2 only.
``DENSECRF_SANITIZE=address,undefined``
    any list that ``-fsanitize=`` takes; ``-O1 -g``, assertions on, SIMD levels up to AVX2 only.
``DENSECRF_CUDA=0|1|auto``
    whether csrc/cuda is compiled into the package: no, yes, or if there is an nvcc (in CUDA_HOME, on PATH or in
    /usr/local/cuda).  When unset: auto where there is an NVIDIA driver (nvidia-smi on PATH), else 0.
``DENSECRF_CUDA_ARCHS="80 90"``
    compute capabilities to compile it for, the last one as PTX too; 80 90 100 120 when unset.
``MAX_JOBS=n``
    compile at most n files at once.
``CXX``, ``CXXFLAGS``, ``LDFLAGS``
    as everywhere.  CXXFLAGS come before the flags of this file, so that these win.

Commands beside those of setuptools:

``python setup.py cpp_tests``
    builds ``tests/cpp/*.cpp`` against the engine (without Python) and runs them, at the lowest SIMD level and
    at the best that the processor has.
``python setup.py build_emulated``
    builds ``build/emulated/_emulated``: what ``densecrf._C.cuda`` holds, with kernels that run on the CPU, for tests.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from setuptools import Command, Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
CUDA_BINDING = CSRC / "python" / "cuda.cpp"

# Sources of csrc/cpu that are compiled once, without -march; everything else there once per SIMD level.
COMPILED_ONCE = ("dispatch.cpp", "memory.cpp", "parallel.cpp")

# SIMD sources that decide which lattice cell a point falls into.  Fused multiply-adds would round differently
# from level to level and a point on a border would change cells; so they are off here and on elsewhere.
# On a device the same cells as on the CPU are wanted.
BIT_STABLE = ("features.cpp", "lattice.cpp", "lattice_grad.cpp")
BIT_STABLE_CUDA = ("image_features.cu", "lattice_build.cu", "lattice_grad.cu")

# SIMD level -> spellings of its flags, the first that the compiler knows is used.  Lowest level first.
LEVELS: dict[str, list[list[str]]] = {
    "baseline": [[]],
    "avx2": [["-march=x86-64-v3"], ["-mavx2", "-mfma", "-mbmi2", "-mf16c"]],
    "avx512": [
        ["-march=x86-64-v4", "-mprefer-vector-width=512"],
        ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mf16c"],
    ],
}
DEBUG_LEVELS = ("baseline", "avx2")

CUDA_ARCHS = ("80", "90", "100", "120")

# Programs of tests/cpp that run kernels on the CPU: on x86-64 only, and once, whatever the SIMD level.
EMULATED_TESTS = ("test_cuda", "test_cuda_build", "test_cuda_mean_field", "test_emulation")


@dataclass(frozen=True)
class Mode:
    """What the switches ask for."""

    debug: bool = False
    sanitize: str = ""

    @classmethod
    def from_environment(cls) -> Mode:
        sanitize = os.environ.get("DENSECRF_SANITIZE", "").replace(" ", "")
        if not re.fullmatch(r"[a-z,-]*", sanitize):
            raise CompileError(f"DENSECRF_SANITIZE must be a list such as address,undefined; got {sanitize!r}.")
        return cls(debug=os.environ.get("DENSECRF_DEBUG", "0") not in ("", "0"), sanitize=sanitize)

    @property
    def release(self) -> bool:
        return not (self.debug or self.sanitize)

    def optimise(self, release_level: str) -> list[str]:
        if self.release:
            return [release_level, "-DNDEBUG"]
        return ["-O1" if self.sanitize else "-Og", "-g", "-D_GLIBCXX_ASSERTIONS"]

    @property
    def sanitizer_flags(self) -> list[str]:
        if not self.sanitize:
            return []
        return [f"-fsanitize={self.sanitize}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]

    @property
    def build_dir(self) -> Path:
        """One folder per interpreter and mode: switching modes back and forth recompiles nothing."""
        parts = ["ninja", sys.implementation.cache_tag, sysconfig.get_platform()]
        parts += ["debug"] if self.debug else []
        parts += self.sanitize.split(",") if self.sanitize else []
        return ROOT / "build" / "-".join(parts)


@dataclass(frozen=True)
class Group:
    """Sources that one ninja rule compiles with the same flags into the folder ``name``."""

    name: str
    sources: tuple[Path, ...]
    flags: tuple[str, ...]
    rule: str = "cxx"

    def objects(self) -> list[str]:
        return [f"{self.name}/{source.stem}.o" for source in self.sources]


# ---- the compiler ------------------------------------------------------------------------------------------


def find_compiler(mode: Mode) -> list[str]:
    """Command of the compiler: CXX, or the first of the usual names; CompileError says what is missing."""
    wanted = os.environ.get("CXX", "").strip()
    candidates = [wanted] if wanted else ["c++", "g++", "clang++"]
    command = next((shlex.split(c) for c in candidates if shutil.which(shlex.split(c)[0])), None)
    if command is None:
        names = f"CXX={wanted!r} names no program" if wanted else "none of c++, g++ and clang++ is on PATH"
        raise CompileError(
            f"densecrf needs a C++17 compiler, and {names}: install one (Debian and Ubuntu: apt install g++; "
            "macOS: xcode-select --install) or set CXX."
        )
    flags = common_flags(mode)
    complaint = compiler_complaint(command, flags)
    if complaint:
        raise CompileError(
            f"densecrf needs a C++17 compiler, and {shlex.join([*command, *flags])} "
            f"cannot compile an empty program: {complaint}"
        )
    return command


def compiler_complaint(command: list[str], flags: Iterable[str]) -> str:
    """First line of what the compiler says against these flags; empty when it takes them."""
    run = subprocess.run(
        [*command, *flags, "-x", "c++", "-S", "-o", "-", "-"],
        input="int main() {}\n",
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode == 0:
        return ""
    lines = [line.strip() for line in run.stderr.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), (lines or [f"exit status {run.returncode}"])[0])


def compiles_for_x86_64(command: list[str]) -> bool:
    """Whether the compiler's target (not this machine: it may be a cross-compiler) is x86-64."""
    run = subprocess.run([*command, "-dumpmachine"], capture_output=True, text=True, check=False)
    target = run.stdout.strip() if run.returncode == 0 else platform.machine()
    return target.lower().startswith(("x86_64", "amd64"))


def simd_levels(command: list[str], mode: Mode) -> dict[str, list[str]]:
    """SIMD level -> its flags, for those levels that this compiler can build; lowest first."""
    if not compiles_for_x86_64(command):
        return {"baseline": []}  # the compiler vectorises for the target's own baseline (NEON on ARM)
    levels = {}
    for name, spellings in LEVELS.items():
        if mode.release or name in DEBUG_LEVELS:
            flags = next((s for s in spellings if not compiler_complaint(command, s)), None)
            if flags is not None:
                levels[name] = flags
    return levels


# ---- CUDA -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cuda:
    """A CUDA toolkit, and what to compile for."""

    nvcc: str
    release: str  # "13.0"
    root: Path
    archs: tuple[str, ...]

    @property
    def runtime(self) -> Path:
        """The static runtime: with it the package imports on machines without a driver."""
        for folder in (self.root / "lib64", *sorted(self.root.glob("targets/*/lib"))):
            if (folder / "libcudart_static.a").exists():
                return folder / "libcudart_static.a"
        raise CompileError(f"densecrf needs CUDA's static runtime, and {self.root} has no libcudart_static.a.")

    @property
    def arch_flags(self) -> list[str]:
        flags = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in self.archs]
        return [*flags, f"-gencode=arch=compute_{self.archs[-1]},code=compute_{self.archs[-1]}"]


def find_cuda() -> Cuda | None:
    """The toolkit to compile csrc/cuda with, or None where that is not wanted or, with auto, not possible."""
    wanted = wanted_cuda()
    if wanted not in ("0", "1", "auto"):
        raise CompileError(f"DENSECRF_CUDA must be 0, 1 or auto; got {wanted!r}.")
    if wanted == "0":
        return None
    nvcc = find_nvcc()
    if nvcc is None and wanted == "1":
        raise CompileError(
            "DENSECRF_CUDA=1 needs nvcc, which is neither in CUDA_HOME, nor on PATH, nor in /usr/local/cuda: "
            "install the CUDA toolkit or set CUDA_HOME; DENSECRF_CUDA=0 builds for the CPU only."
        )
    if nvcc is None:
        return None
    release = re.search(r"release (\d+\.\d+)", output([nvcc, "--version"]))
    # nvcc may be a script that calls the one in the toolkit.
    here = re.search(r"_HERE_=(\S+)", output([nvcc, "--dryrun", "-x", "cu", os.devnull]))
    root = Path(here[1]).parent if here else Path(nvcc).resolve().parents[1]
    return Cuda(nvcc, release[1] if release else "?", root, cuda_archs(nvcc))


def wanted_cuda() -> str:
    """0, 1 or auto; where nobody says, a machine without a GPU is spared some minutes of compiling for one."""
    driver = shutil.which("nvidia-smi")
    return os.environ.get("DENSECRF_CUDA", "").strip() or ("auto" if driver else "0")


def find_nvcc() -> str | None:
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    places = [f"{home}/bin/nvcc" for home in homes if home] + ["nvcc", "/usr/local/cuda/bin/nvcc"]
    return next((found for place in places if (found := shutil.which(place))), None)


def cuda_archs(nvcc: str) -> tuple[str, ...]:
    """Those asked for, all of which nvcc must know; by default those that it knows."""
    known = re.findall(r"sm_(\d+[a-z]?)", output([nvcc, "--list-gpu-code"]))
    wanted = re.findall(r"[^\s,;]+", os.environ.get("DENSECRF_CUDA_ARCHS", ""))
    unknown = [arch for arch in wanted if arch not in known]
    if unknown:
        raise CompileError(
            f"DENSECRF_CUDA_ARCHS names {', '.join(unknown)}, which {nvcc} does not know; it knows {', '.join(known)}."
        )
    archs = tuple(wanted) or tuple(arch for arch in CUDA_ARCHS if arch in known)
    if not archs:
        raise CompileError(
            f"{nvcc} knows none of {', '.join(CUDA_ARCHS)}: set DENSECRF_CUDA_ARCHS, or DENSECRF_CUDA=0 to build for "
            "the CPU only."
        )
    return archs


def output(command: list[str]) -> str:
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return run.stdout + run.stderr


def cuda_groups(cuda: Cuda | None, command: list[str], mode: Mode) -> list[Group]:
    if cuda is None:
        return []
    host = "-fPIC,-fvisibility=hidden,-Wall,-Wextra"
    flags = ["-std=c++17", *(["-O3", "-DNDEBUG"] if mode.release else ["-O1", "-g", "-lineinfo"])]
    flags += ["-DDENSECRF_ISA=cuda", f"-I{CSRC}", f"-ccbin={command[0]}", f"-Xcompiler={host}"]
    flags += ["-Werror=all-warnings", "-cudart=static", *cuda.arch_flags]
    sources = sorted((CSRC / "cuda").glob("*.cu"))
    stable = tuple(source for source in sources if source.name in BIT_STABLE_CUDA)
    fast = tuple(source for source in sources if source.name not in BIT_STABLE_CUDA)
    return [
        Group("cuda", stable, (*flags, "-fmad=false"), rule="nvcc"),
        Group("cuda", fast, tuple(flags), rule="nvcc"),
    ]


# ---- what is compiled --------------------------------------------------------------------------------------


def common_flags(mode: Mode) -> list[str]:
    flags = shlex.split(os.environ.get("CXXFLAGS", ""))
    flags += ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-pthread", f"-I{CSRC}"]
    return flags + mode.sanitizer_flags


def link_flags(mode: Mode) -> list[str]:
    flags = ["-pthread", *mode.sanitizer_flags, *shlex.split(os.environ.get("LDFLAGS", ""))]
    return flags if sys.platform == "darwin" else ["-Wl,--exclude-libs,ALL", *flags]


def module_flags() -> list[str]:
    if sys.platform == "darwin":
        return ["-shared", "-undefined", "dynamic_lookup"]
    return ["-shared"]


def engine_groups(levels: dict[str, list[str]], mode: Mode) -> list[Group]:
    """The engine without Python, in link order.

    Of an inline function that several objects carry (a std:: template, say) the linker keeps the first, and
    every object that needs one carries it.  With the lowest level first, what it keeps is never meant for a
    newer processor than the code that calls it; with the bit-stable files first within a level, it never
    rounds otherwise than they want.
    """
    cpu = CSRC / "cpu"
    once = tuple(cpu / name for name in COMPILED_ONCE)
    simd = sorted(set(cpu.glob("*.cpp")) - set(once))
    stable = tuple(source for source in simd if source.name in BIT_STABLE)
    fast = tuple(source for source in simd if source.name not in BIT_STABLE)
    built = [f"-DDENSECRF_HAS_{name.upper()}" for name in levels if name != "baseline"]
    groups = [Group("once", once, (*mode.optimise("-O2"), *built))]
    arithmetic = ("-fno-math-errno", "-fno-trapping-math")
    for name, march in levels.items():
        flags = (*mode.optimise("-O3"), *arithmetic, f"-DDENSECRF_ISA={name}", *march)
        groups.append(Group(name, stable, (*flags, "-ffp-contract=off")))
        groups.append(Group(name, fast, (*flags, "-ffp-contract=fast")))
    return groups


EMULATION = ROOT / "tests" / "cpp" / "emulation"
EMULATED = ("-include", str(EMULATION / "emu.h"))


def emulated_group(mode: Mode) -> Group:
    """The CUDA sources, compiled to run on the CPU, for tests."""
    # CUB does not compile so; emulation/sort.cpp takes its place.
    kernels = [source for source in sorted((CSRC / "cuda").glob("*.cu")) if source.name != "sort.cu"]
    flags = (*mode.optimise("-O1"), "-Wno-unknown-pragmas", "-x", "c++", *EMULATED)
    return Group("emulated", (*kernels, *sorted(EMULATION.glob("*.cpp"))), flags)


def python_group(mode: Mode, version: str, cuda: Cuda | None) -> Group:
    """The binding: the only sources that see Python and pybind11."""
    sources = set((CSRC / "python").glob("*.cpp")) - ({CUDA_BINDING} if cuda is None else set())
    flags = (*python_flags(mode), f'-DDENSECRF_VERSION="{version}"', *([] if cuda is None else ["-DDENSECRF_CUDA"]))
    return Group("python" if cuda is None else "python_cuda", tuple(sorted(sources)), flags)


def emulated_python_group(mode: Mode) -> Group:
    """The binding of the emulated kernels."""
    return Group("python_emulated", (CUDA_BINDING,), (*python_flags(mode), *EMULATED))


def python_flags(mode: Mode) -> list[str]:
    python = Path(sysconfig.get_path("include"))
    if not (python / "Python.h").exists():
        raise CompileError(
            f"densecrf needs Python's C headers, and {python} has no Python.h: install them "
            "(Debian and Ubuntu: apt install python3-dev)."
        )
    includes = [f"-I{pybind11_headers()}", f"-I{python}", f"-I{sysconfig.get_path('platinclude')}"]
    return [*mode.optimise("-O2"), *dict.fromkeys(includes)]


def pybind11_headers() -> Path:
    """A copy of pybind11's headers that stays where it is.

    With build isolation they lie in a new temporary folder at every build, which would recompile the binding
    each time.
    """
    import pybind11

    here = ROOT / "build" / f"pybind11-{pybind11.__version__}"
    if not here.exists():
        partial = here.with_name(f"{here.name}.{os.getpid()}")
        shutil.copytree(Path(pybind11.get_include()) / "pybind11", partial / "pybind11")
        partial.rename(here)
    return here


# ---- ninja -------------------------------------------------------------------------------------------------


def escape(path: Path | str) -> str:
    """A path as ninja wants it in a build line."""
    return re.sub(r"([$ :])", r"$\1", str(path))


def shell(words: Iterable[str]) -> str:
    """Words as ninja wants them in a command."""
    return shlex.join(words).replace("$", "$$")


def compile_lines(group: Group) -> list[str]:
    lines = []
    for source, target in zip(group.sources, group.objects(), strict=True):
        lines += [f"build {target}: {group.rule} {escape(source)}", f"  flags = {shell(group.flags)}"]
    return lines


def ninja_file(
    command: list[str],
    mode: Mode,
    cuda: Cuda | None,
    engine: list[Group],
    python: Group,
    emulated: Group,
    emulated_python: Group,
    tests: Group,
) -> str:
    """Text of build.ninja with the targets ``_C.so``, ``_emulated.so`` and ``cpp_tests``."""
    compiler, links = shell(command), shell(link_flags(mode))
    lines = [
        "ninja_required_version = 1.5",
        "rule cxx",
        f"  command = {compiler} -MMD -MF $out.d {shell(common_flags(mode))} $flags -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = C++ $out",
        "rule link",
        f"  command = {compiler} $flags -o $out $in $libraries {links}",
        "  description = link $out",
    ]
    if cuda:
        lines += [
            "rule nvcc",
            f"  command = {shell([cuda.nvcc])} -MMD -MF $out.d $flags -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "  description = CUDA $out",
        ]
    kernels = cuda_groups(cuda, command, mode)
    for group in (python, *kernels, *engine, emulated, emulated_python, tests):
        lines += compile_lines(group)
    objects = " ".join(target for group in engine for target in group.objects())
    module = " ".join(target for group in (python, *kernels) for target in group.objects())
    lines.append(f"build _C.so: link {module} {objects}")
    lines.append(f"  flags = {shell(module_flags())}")
    if cuda:
        lines.append(f"  libraries = {shell([str(cuda.runtime), '-ldl', '-lrt'])}")
    lines.append(f"build _emulated.so: link {' '.join([*emulated_python.objects(), *emulated.objects()])}")
    lines.append(f"  flags = {shell(module_flags())}")
    programs = [target.removesuffix(".o") for target in tests.objects()]
    objects = " ".join([*emulated.objects(), objects])
    lines += [f"build {program}: link {program}.o {objects}" for program in programs]
    lines += [f"build cpp_tests: phony {' '.join(programs)}", "default _C.so", ""]
    return "\n".join(lines)


def ninja_command() -> list[str]:
    """The ninja of this environment (build isolation installs one), else the system's."""
    try:
        import ninja

        return [str(Path(ninja.BIN_DIR) / "ninja")]
    except ImportError:
        found = shutil.which("ninja")
        if not found:
            raise CompileError("densecrf is built with ninja, which is missing: pip install ninja.") from None
        return [found]


@dataclass(frozen=True)
class Build:
    """Outcome of build(): where things are."""

    directory: Path
    programs: list[Path]


def build(target: str, version: str) -> Build:
    """Bring one target of build.ninja up to date."""
    if os.name == "nt":
        raise CompileError("densecrf builds on Linux and macOS; on Windows use the Linux subsystem (WSL).")
    mode = Mode.from_environment()
    command = find_compiler(mode)
    levels = simd_levels(command, mode)
    emulates = compiles_for_x86_64(command)
    if target == "_emulated.so" and not emulates:
        raise CompileError("densecrf: CUDA is emulated on x86-64 only.")
    emulated = emulated_group(mode) if emulates else Group("emulated", (), ())
    programs = sorted((ROOT / "tests" / "cpp").glob("*.cpp"))
    tests = Group(
        "tests",
        tuple(p for p in programs if emulates or p.stem not in EMULATED_TESTS),
        (*mode.optimise("-O1"), "-Wno-unknown-pragmas"),  # those of kernels
    )
    directory = mode.build_dir
    directory.mkdir(parents=True, exist_ok=True)
    cuda = find_cuda()
    engine, python = engine_groups(levels, mode), python_group(mode, version, cuda)
    text = ninja_file(command, mode, cuda, engine, python, emulated, emulated_python_group(mode), tests)
    (directory / "build.ninja").write_text(text)
    if cuda:
        device = f"CUDA {cuda.release} for {', '.join(cuda.archs)}"
    else:
        device = "no CUDA, without nvcc" if wanted_cuda() == "auto" else "no CUDA (DENSECRF_CUDA=1 builds it)"
    print(f"densecrf: {shlex.join(command)}, SIMD levels {', '.join(levels)}, {device}", flush=True)
    jobs = os.environ.get("MAX_JOBS", "")
    if jobs and not (jobs.isdecimal() and int(jobs) > 0):
        raise CompileError(f"MAX_JOBS must be a positive whole number; got {jobs!r}.")
    run = [*ninja_command(), "-C", str(directory), *(["-j", jobs] if jobs else []), target]
    if subprocess.run(run, check=False).returncode:
        also = f" or {cuda.nvcc} (DENSECRF_CUDA=0 does without)" if cuda else ""
        raise CompileError(f"densecrf: {shlex.join(command)}{also} failed; its own message is above.")
    return Build(directory, [directory / target.removesuffix(".o") for target in tests.objects()])


# ---- commands ----------------------------------------------------------------------------------------------


class BuildExtension(build_ext):
    """``build_ext`` by ninja."""

    def build_extension(self, ext: Extension) -> None:
        built = build("_C.so", self.distribution.get_version()).directory / "_C.so"
        put(built, Path(self.get_ext_fullpath(ext.name)))


def put(built: Path, target: Path) -> None:
    """A new file in place of the old, never written into: a running process may have that one mapped."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    shutil.copy(built, partial)
    partial.replace(target)


class PlainCommand(Command):
    """A command without options."""

    user_options: list[tuple[str, str, str]] = []

    def initialize_options(self) -> None: ...

    def finalize_options(self) -> None: ...


class BuildEmulated(PlainCommand):
    """``build_emulated``: the CUDA functions with kernels that run on the CPU, as an extension of their own."""

    description = "build the CUDA functions for tests without a GPU"

    def run(self) -> None:
        built = build("_emulated.so", self.distribution.get_version()).directory / "_emulated.so"
        put(built, ROOT / "build" / "emulated" / f"_emulated{sysconfig.get_config_var('EXT_SUFFIX')}")


class CppTests(PlainCommand):
    """``cpp_tests``: build and run tests/cpp/*.cpp."""

    description = "build and run the C++ tests"

    def run(self) -> None:
        built = build("cpp_tests", self.distribution.get_version())
        if not built.programs:
            raise CompileError("tests/cpp has no *.cpp files, so there is nothing to run.")
        failed = []
        best = {name: value for name, value in os.environ.items() if name != "DENSECRF_SIMD"}
        for level, environment in {"baseline": {**best, "DENSECRF_SIMD": "baseline"}, "best": best}.items():
            for program in built.programs:
                if level == "baseline" and program.name in EMULATED_TESTS:
                    continue
                print(f"densecrf: {program.name}, SIMD level: {level}", flush=True)
                if subprocess.run([program], env=environment, check=False).returncode:
                    failed.append(f"{program.name} ({level})")
        if failed:
            raise CompileError(f"C++ tests failed: {', '.join(failed)}.")


if __name__ == "__main__":
    sources = [str(path.relative_to(ROOT)) for path in sorted(CSRC.rglob("*.cpp"))]
    setup(
        ext_modules=[Extension("densecrf._C", sources=sources)],
        cmdclass={"build_ext": BuildExtension, "build_emulated": BuildEmulated, "cpp_tests": CppTests},
    )
