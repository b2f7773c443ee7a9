"""The operators on CUDA against those on the CPU: on a GPU, and emulated, where the same kernels run on the CPU."""

from __future__ import annotations

import importlib
import subprocess
import sys
from contextlib import contextmanager
from math import prod
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from densecrf import _cuda_ops, _native, _ops  # noqa: E402
from densecrf.nn import functional as F  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[1]
DTYPES = {"float32": torch.float32, "float64": torch.float64}
GRIDS = {
    "line": ((9,), (1.7,)),
    "fine": ((5, 7), (1.3, 2.2)),
    "coarse": ((35, 3), (3.4, 1.1)),
    "coarse volume": ((2, 34, 2), (1.2, 4.1, 0.9)),
}
NONE = torch.empty(0)


# ---- devices -------------------------------------------------------------------------------------------------


class Gpu:
    """The GPU that is current."""

    def __init__(self):
        self.device = torch.device("cuda", torch.cuda.current_device())

    @contextmanager
    def active(self):
        yield


class Emulated:
    """CPU tensors, for which the operators call the emulated kernels while it is active."""

    device = torch.device("cpu")

    def __init__(self, native):
        self.native = native

    @contextmanager
    def active(self):
        before, _native.cuda = _native.cuda, self.native
        for op, kernel in _cuda_ops.KERNELS.items():
            op.register_kernel("cpu")(kernel)
        try:
            yield
        finally:
            _native.cuda = before
            for op in _cuda_ops.KERNELS:
                op.register_kernel("cpu")(op._init_fn)


@pytest.fixture(scope="session")
def emulated():
    if not (ROOT / "setup.py").exists():
        pytest.skip("the emulation is built from the source tree, and these tests are elsewhere")
    pytest.importorskip("pybind11")
    run = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_emulated"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if "on x86-64 only" in run.stderr:
        pytest.skip("CUDA is emulated on x86-64 only")
    assert run.returncode == 0, run.stdout + run.stderr
    sys.path.insert(0, str(ROOT / "build" / "emulated"))
    try:
        return Emulated(importlib.import_module("_emulated"))
    finally:
        sys.path.pop(0)


@pytest.fixture
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    if _native.cuda is None:
        pytest.skip("densecrf was built without CUDA")
    return Gpu()


@pytest.fixture(params=["emulated", "gpu"])
def device(request):
    return request.getfixturevalue(request.param)


def moved(given, device):
    """Tensors on a device, with leaves of their own."""
    if isinstance(given, torch.Tensor):
        return given.detach().to(device).clone().requires_grad_(given.requires_grad)
    return type(given)(moved(each, device) for each in given) if isinstance(given, (list, tuple)) else given


def values_and_gradients(function, args):
    leaves = [t for t in args if isinstance(t, torch.Tensor) and t.requires_grad]
    out = function(*args)
    back = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape).to(out.device)
    return [out.detach(), *(torch.autograd.grad(out, leaves, back) if leaves else ())]


def same(device, function, *args, of=None):
    """Values and gradients on the device are those on the CPU; `of`: what the CPU gets instead of `args`."""
    expected = values_and_gradients(function, moved(args if of is None else of, "cpu"))
    given = moved(args, device.device)
    with device.active():
        found = values_and_gradients(function, given)
        again = values_and_gradients(function, given)
    for e, f, a in zip(expected, found, again, strict=True):
        close = 2e-5 if e.dtype == torch.float32 else 1e-12
        assert f.device == device.device
        torch.testing.assert_close(f.cpu(), e, rtol=close, atol=close * float(e.abs().max()))
        assert torch.equal(f, a)  # the same bits at every run


def sure(device, function, *inputs):
    """Gradients are those of finite differences."""
    with device.active():
        assert torch.autograd.gradcheck(
            function, moved(inputs, device.device), eps=1e-6, atol=1e-7, rtol=1e-6, fast_mode=True, nondet_tol=0
        )


# ---- inputs --------------------------------------------------------------------------------------------------


def random(*shape, seed=0, dtype=torch.float64, grad=True):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(dtype).requires_grad_(grad)


def mask_of(images, n, dtype):
    return (random(images, n, seed=7, grad=False) > -0.5).to(dtype)


class Built:
    """A lattice as the CPU builds it, and as the device does."""

    def __init__(self, images, n, d, method="tuned", dtype=torch.float64):
        self.weights, *self.index = _ops.lattice_build(random(images, n, d, grad=False, dtype=dtype), method)
        self.on_device = on_device(self.weights, *(array.numpy() for array in self.index))


def on_device(weights, simplex, simplex_vertices, chains, chain_starts, sizes):
    """Index arrays of the CPU's lattices as those of the device's one lattice."""
    images, _, corners = weights.shape
    firsts = np.vstack([np.zeros((1, 2), np.int64), sizes.cumsum(axis=0)])
    chains_at = np.concatenate([[0], chain_starts[:, -1].cumsum()])
    vertices = int(firsts[-1, 1])
    corner = np.stack(
        [simplex_vertices[firsts[b, 0] + simplex[b].astype(np.int64)] + firsts[b, 1] for b in range(images)]
    )
    neighbours = np.full((corners, vertices, 2), -1)
    for b in range(images):
        for axis in range(corners):
            chain = chains[chains_at[b] :][chain_starts[b, axis] : chain_starts[b, axis + 1]]
            ids = firsts[b, 1] + np.where(chain < 0, ~chain, chain)
            goes_on = chain[:-1] >= 0
            lower, upper = ids[:-1][goes_on], ids[1:][goes_on]
            neighbours[axis, lower, 1], neighbours[axis, upper, 0] = upper, lower
    by_vertex = corner.ravel().argsort(kind="stable")
    starts = np.searchsorted(corner.ravel()[by_vertex], np.arange(vertices + 1))
    arrays = corner, by_vertex, starts, neighbours, np.empty(0)
    kinds = *[np.int32] * 4, np.int64
    return [torch.from_numpy(array.astype(kind)) for array, kind in zip(arrays, kinds, strict=True)]


# ---- values and gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("method", ["tuned", "classic"])
@pytest.mark.parametrize("images, n, d, channels", [(1, 40, 2, 3), (3, 31, 5, 21), (2, 1, 3, 1)])
def test_lattice_filter(device, images, n, d, channels, method, dtype):
    built, values = Built(images, n, d, method, dtype), random(images, channels, n, seed=1, dtype=dtype)
    for transpose in (False, True):
        cpu, there = ((values, built.weights, index, method, transpose) for index in (built.index, built.on_device))
        same(device, _ops.lattice_filter, *there, of=cpu)


def test_lattice_filter_gradients(device):
    built = Built(3, 6, 3)
    given = moved([built.weights, built.on_device], device.device)
    for transpose in (False, True):
        sure(device, lambda v, t=transpose: _ops.lattice_filter(v, *given, "tuned", t), random(3, 2, 6, seed=2))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("shape, sigma", GRIDS.values(), ids=GRIDS)
def test_grid_filter(device, shape, sigma, images, dtype):
    sigma, values = torch.tensor(sigma, dtype=dtype), random(images, 5, prod(shape), dtype=dtype)
    same(device, _ops.grid_filter, values, sigma, list(shape))
    same(device, _ops.grid_filter, values, sigma.requires_grad_(), list(shape))


@pytest.mark.parametrize("shape, sigma", GRIDS.values(), ids=GRIDS)
def test_grid_filter_gradients(device, shape, sigma):
    sigma = torch.tensor(sigma, dtype=torch.float64, requires_grad=True)
    sure(device, lambda v, s: _ops.grid_filter(v, s, list(shape)), random(2, 2, prod(shape)), sigma)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("power", [-1.0, -0.5])
def test_norms(device, images, power, dtype):
    shape, sigma = [5, 7], torch.tensor([1.3, 2.2], dtype=dtype, requires_grad=True)
    built = Built(images, 35, 4, dtype=dtype)
    for mask in (NONE.to(dtype), mask_of(images, 35, dtype)):
        cpu, there = ((built.weights, index, mask, "tuned", power) for index in (built.index, built.on_device))
        same(device, _ops.lattice_norm, *there, of=cpu)
        same(device, _ops.grid_norm, sigma, mask, shape, power)
        sure(device, lambda s, m: _ops.grid_norm(s, m, shape, power), sigma.double(), mask.double())


def test_norm_is_0_where_nobody_is_in_reach(device):
    built = Built(2, 20, 3)
    built.weights[1, 7] = 0
    cpu, there = ((built.weights, index, NONE.double(), "tuned", -0.5) for index in (built.index, built.on_device))
    same(device, _ops.lattice_norm, *there, of=cpu)
    assert _ops.lattice_norm(*cpu)[1, 7] == 0


@pytest.mark.parametrize("normalization", ["symmetric", "after", "before", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_spatial_filter(device, normalization, dtype):
    values, mask = random(2, 3, 5, 7, dtype=torch.float32), mask_of(2, 35, torch.bool).view(2, 5, 7)
    sigma = torch.tensor([1.3, 2.2], requires_grad=True)

    def filtered(values, sigma):
        given = None if normalization == "after" else mask.to(values.device)
        out = F.spatial_filter(values.to(dtype), sigma, normalization=normalization, mask=given)
        assert out.dtype == dtype
        return out.float()

    same(device, filtered, values, sigma)


def test_what_is_not_finite_spreads(device):
    values = torch.zeros(1, 2, 35, dtype=torch.float64)
    values[0, 1, 17] = torch.nan
    with device.active():
        out = _ops.grid_filter(values.to(device.device), torch.tensor([1.0, 1.0]), [5, 7])
    assert out[0, 1, 17].isnan()
    assert (out[0, 0] == 0).all()


# ---- manners -------------------------------------------------------------------------------------------------


def checks(device):
    """One call of every operator that the device has a kernel for."""
    built, shape, sigma = Built(2, 35, 3), [5, 7], torch.tensor([1.3, 2.2], dtype=torch.float64)
    values, grad, norm = random(2, 3, 35), random(2, 3, 35, seed=1, grad=False), random(2, 35, seed=2, grad=False)
    mask = mask_of(2, 35, torch.float64)
    lattice = built.weights, built.on_device
    calls = {
        _ops.lattice_filter: (values, *lattice, "tuned", False),
        _ops.lattice_filter_values_grad: (grad, *lattice, "tuned", True),
        _ops.grid_filter: (values, sigma, shape),
        _ops.grid_filter_values_grad: (grad, sigma, shape),
        _ops.grid_filter_sigma_grad: (values, grad, sigma, shape),
        _ops.lattice_norm: (*lattice, mask, "tuned", -0.5),
        _ops.grid_norm: (sigma, mask, shape, -1.0),
        _ops.grid_norm_sigma_grad: (norm, norm, sigma, mask, shape, -0.5),
    }
    return {op: moved(args, device.device) for op, args in calls.items()}


def test_opcheck(device):
    calls = checks(device)
    assert calls.keys() == _cuda_ops.KERNELS.keys()
    with device.active():
        for op, args in calls.items():
            torch.library.opcheck(op, args, test_utils=("test_schema", "test_faketensor"))


def test_slices_of_larger_tensors(device):
    values = random(2, 6, 70, grad=False).to(device.device)
    sigma = torch.tensor([1.3, 2.2], dtype=torch.float64)
    with device.active():
        found = _ops.grid_filter(values[:, ::2, ::2], sigma, [5, 7])
        expected = _ops.grid_filter(values[:, ::2, ::2].contiguous(), sigma, [5, 7])
    assert torch.equal(found, expected)


def test_the_runtimes_errors_are_raised(device):
    values = torch.zeros(1, 32 * 65535 + 1, 1, device=device.device)  # no device has blocks for so many channels
    with device.active(), pytest.raises(RuntimeError, match=r"^CUDA: .+ \(error 9\)$"):
        _ops.grid_filter(values, torch.ones(1), [1])


def test_tensors_that_do_not_go_together_are_named(device):
    built = Built(2, 7, 3)
    weights, index, values = moved([built.weights, built.on_device, random(2, 1, 7)], device.device)
    short = [*index[:3], index[3][:, 1:], index[4]]
    wide = [index[0].long(), *index[1:]]
    with device.active():
        with pytest.raises(ValueError, match=r"values: must be torch.float64 \(2, 1, 7\) on .*, got torch.float32 \(2"):
            _ops.lattice_filter(values.float(), weights, index, "tuned", False)
        for wrong in (short, wide):
            with pytest.raises(ValueError, match="lattice: must be torch.int32"):
                _ops.lattice_filter(values, weights, wrong, "tuned", False)
        with pytest.raises(ValueError, match=r"values: must be .*\(2, 1, 6\).*, got .*\(2, 1, 7\)"):
            _ops.grid_filter(values, torch.ones(2), [2, 3])
        with pytest.raises(ValueError, match="sigma: must be positive and finite, got"):
            _ops.grid_filter(values, torch.tensor([1.0, -1.0]), [1, 7])


def test_taps_of_fixed_bandwidths_are_made_once(device):
    values, sigma = random(1, 1, 35, grad=False).to(device.device), torch.tensor([1.31, 2.17])
    with device.active():
        for _ in range(3):
            _ops.grid_filter(values, sigma, [5, 7])
            before = _cuda_ops._grids.cache_info().misses
        assert _cuda_ops._grids.cache_info().misses == before


def test_a_build_without_cuda_says_so(monkeypatch):
    monkeypatch.setattr(_native, "cuda", None)
    assert _native.info()["cuda"] is False
    with pytest.raises(NotImplementedError, match=r"built without CUDA, got tensors on cuda: move them with \.cpu\(\)"):
        _cuda_ops.grid_filter(torch.zeros(1, 1, 4), torch.ones(1), [4])


def test_operators_without_a_kernel_refuse_in_words():
    for op in vars(_ops).values():
        if isinstance(op, torch.library.CustomOpDef) and op not in _cuda_ops.KERNELS:
            with pytest.raises(NotImplementedError, match=rf"no {op._name} for CUDA yet, got tensors on cuda: move"):
                op._backend_fns["cuda"]()


@pytest.mark.skipif(_native.cuda is None, reason="densecrf was built without CUDA")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_driver_the_extension_says_so():
    assert _native.info()["cuda"] is True
    assert _native.cuda.emulated is False
    ones = np.ones(1024)
    at = ones.ctypes.data
    with pytest.raises(RuntimeError, match=r"^no CUDA device: .+ \(error (35|100)\)$"):
        _native.cuda.f64.grid_filter(((1, 1, 1), (1, 1, 1), (0, 0, 0), (at, at, at)), 1, 1, at, at, at, 0)
    assert (ones == 1).all()


# ---- what only a GPU shows -----------------------------------------------------------------------------------


QUEUED = "lattice_filter", "lattice_norm", "grid_filter", "spatial_term"


def queued(device):
    """Calls that wait for nothing: by name, a function of values [2, 3, 35], and such values."""
    built, sigma = Built(2, 35, 3, dtype=torch.float32), torch.tensor([1.3, 2.2])
    lattice = moved([built.weights, built.on_device], device.device)
    values = random(2, 3, 35, dtype=torch.float32, grad=False)
    return {
        "lattice_filter": (lambda v: _ops.lattice_filter(v, *lattice, "tuned", False), values),
        "lattice_norm": (lambda v: _ops.lattice_norm(*lattice, v[:, 0].abs(), "tuned", -0.5), values),
        "grid_filter": (lambda v: _ops.grid_filter(v, sigma, [5, 7]), values),
        "spatial_term": (lambda v: F.spatial_term(sigma, [5, 7], batch=2, device=v.device).filter(v), values),
    }


@pytest.mark.parametrize("name", QUEUED)
def test_work_follows_the_current_stream(gpu, name):
    function, values = queued(gpu)[name]
    values = values.to(gpu.device)
    expected, given = function(values), torch.zeros_like(values)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(500_000_000)  # a quarter of a second or so; whoever does not wait reads zeros
        given.copy_(values)
        out = function(given)
        assert not side.query()  # nor did the host wait
    side.synchronize()
    assert torch.equal(out, expected)


@pytest.mark.parametrize("name", QUEUED)
def test_calls_are_captured_in_a_graph(gpu, name):
    function, values = queued(gpu)[name]
    given = values.to(gpu.device)
    function(given)  # taps are copied to the device at the first call, which a graph does not allow
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = function(given)
    given.copy_(values.flip(0))
    graph.replay()
    assert torch.equal(out, function(given))


def test_the_other_gpu(gpu):
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    values, sigma = random(1, 3, 35, grad=False), torch.tensor([1.3, 2.2])
    here, there = (_ops.grid_filter(values.to(f"cuda:{k}"), sigma, [5, 7]) for k in (0, 1))
    assert torch.equal(here.cpu(), there.cpu())
