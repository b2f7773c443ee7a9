"""The operators on CUDA against those on the CPU: on a GPU, and emulated, where the same kernels run on the CPU."""

from __future__ import annotations

import copy
import importlib
import subprocess
import sys
from contextlib import contextmanager
from math import prod
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import densecrf.nn  # noqa: E402
from densecrf import _cuda_ops, _features_ops, _mean_field_ops, _native, _ops  # noqa: E402
from densecrf.nn import functional as F  # noqa: E402
from densecrf.nn.terms import TermBuilder  # noqa: E402

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
        if _native.cuda is self.native:  # already
            yield
            return
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


def same(device, function, *args, of=None, close32=2e-5):
    """Values and gradients on the device are those on the CPU; `of`: what the CPU gets instead of `args`."""
    expected = values_and_gradients(function, moved(args if of is None else of, "cpu"))
    given = moved(args, device.device)
    with device.active():
        found = values_and_gradients(function, given)
        again = values_and_gradients(function, given)
    for e, f, a in zip(expected, found, again, strict=True):
        close = close32 if e.dtype == torch.float32 else 1e-11
        assert f.device == device.device
        scale = max(1.0, float(e.abs().max()))
        torch.testing.assert_close(f.cpu(), e, rtol=close, atol=close * scale)
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

    def __init__(self, device, images, n, d, method="tuned", dtype=torch.float64):
        features = random(images, n, d, grad=False, dtype=dtype)
        self.weights, *self.index = _ops.lattice_build(features, method)
        with device.active():
            self.there, *self.on_device = moved(_ops.lattice_build(features.to(device.device), method), "cpu")


# ---- values and gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("method", ["tuned", "classic"])
@pytest.mark.parametrize("images, n, d, channels", [(1, 40, 2, 3), (3, 31, 5, 21), (2, 1, 3, 1)])
def test_lattice_filter(device, images, n, d, channels, method, dtype):
    built, values = Built(device, images, n, d, method, dtype), random(images, channels, n, seed=1, dtype=dtype)
    assert len(built.on_device[2]) - 1 == built.index[4][:, 1].sum()  # vertices
    torch.testing.assert_close(built.there, built.weights, rtol=0, atol=1e-6)
    built.weights.requires_grad_()
    for transpose in (False, True):
        cpu, there = ((values, built.weights, index, method, transpose) for index in (built.index, built.on_device))
        same(device, _ops.lattice_filter, *there, of=cpu)


def test_lattice_filter_gradients(device):
    built = Built(device, 3, 6, 3)
    given = moved([built.weights, built.on_device], device.device)
    for transpose in (False, True):
        sure(device, lambda v, t=transpose: _ops.lattice_filter(v, *given, "tuned", t), random(3, 2, 6, seed=2))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("images, n, d", [(1, 50, 2), (3, 20, 5)])
def test_gradient_of_features(device, images, n, d, dtype):
    features = random(images, n, d, dtype=dtype)
    same(device, lambda f: _ops.lattice_build(f, "tuned")[0], features)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("images, shape", [(1, (6, 7)), (3, (2, 3, 4)), (2, (9,))])
def test_image_features(device, images, shape, dtype):
    image, sigma = random(images, 3, prod(shape), dtype=dtype), random(len(shape), seed=1, dtype=dtype).detach().exp()
    colours = torch.tensor([1.0, 2.0, 0.5], dtype=dtype)
    same(device, _features_ops.image_features, image, sigma.requires_grad_(), colours.requires_grad_(), list(shape))
    same(device, _features_ops.image_features, image.detach(), sigma, colours, list(shape))


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
    built = Built(device, images, 35, 4, dtype=dtype)
    built.weights.requires_grad_()
    for mask in (NONE.to(dtype), mask_of(images, 35, dtype)):
        cpu, there = ((built.weights, index, mask, "tuned", power) for index in (built.index, built.on_device))
        same(device, _ops.lattice_norm, *there, of=cpu)
        same(device, _ops.grid_norm, sigma, mask, shape, power)
        sure(device, lambda s, m: _ops.grid_norm(s, m, shape, power), sigma.double(), mask.double())


def test_norm_is_0_where_nobody_is_in_reach(device):
    built = Built(device, 2, 20, 3)
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


LABELS = 3
WEIGHTS = {
    "scalars": (lambda: [torch.tensor(1.5), torch.tensor(2.0)], lambda: None),
    "labels": (lambda: [random(LABELS, seed=k).detach() + 2 for k in range(2)], lambda: -random(LABELS).detach().exp()),
    "matrices": (
        lambda: [random(LABELS, LABELS, seed=k).detach() for k in range(2)],
        lambda: random(LABELS, LABELS, seed=9),
    ),
}


def crf(shape, normalization, method, mask, recompute, iterations=3, lattice_dtype=None):
    """A dense CRF as a function of all that may be learned."""

    def refined(logits, image, sxy, far, srgb, compatibility, *weights):
        return F.dense_crf(
            logits,
            image,
            kernels=[densecrf.Gaussian(1), densecrf.Bilateral(1, 1)],
            weights=list(weights),
            bandwidths=[{"sxy": sxy}, {"sxy": far, "srgb": srgb}],
            compatibility=compatibility,
            normalization=normalization,
            method=method,
            mask=None if mask is None else mask.to(logits.device),
            recompute=recompute,
            iterations=iterations,
            lattice_dtype=lattice_dtype,
        )

    return refined


def crf_inputs(images, shape, weights, dtype, learned=True):
    logits, image = random(images, LABELS, *shape), random(images, 2, *shape, seed=1)
    bandwidths = [torch.full((len(shape),), s, dtype=torch.float64) for s in (1.4, 2.5)]
    make_weights, make_compatibility = WEIGHTS[weights]
    given = [logits, image, *bandwidths, torch.tensor([0.8]), make_compatibility(), *make_weights()]
    return [t if t is None else t.detach().to(dtype).requires_grad_(learned or t is logits) for t in given]


@pytest.mark.parametrize(
    "normalization, method, masked, recompute",
    [
        ("symmetric", "tuned", False, None),
        ("symmetric", "tuned", True, True),
        ("after", "classic", False, False),
        ("before", "tuned", True, None),
        ("none", "tuned", False, True),
    ],
)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("images, shape", [(1, (6, 7)), (3, (5, 4)), (2, (3, 4, 3)), (1, (11,))])
def test_dense_crf(device, images, shape, weights, normalization, method, masked, recompute):
    mask = mask_of(images, prod(shape), torch.bool).view(images, *shape) if masked else None
    function = crf(shape, normalization, method, mask, recompute)
    for dtype in DTYPES.values():
        same(device, function, *crf_inputs(images, shape, weights, dtype), close32=1e-4)
    same(device, function, *crf_inputs(images, shape, weights, torch.float64, learned=False))


@pytest.mark.parametrize("weights", WEIGHTS)
def test_dense_crf_gradients(device, weights):
    shape = (2, 3)
    given = [t for t in crf_inputs(2, shape, weights, torch.float64) if t is not None]
    function = crf(shape, "symmetric", "tuned", None, None, 2)
    if weights == "scalars":
        sure(device, lambda *all: function(*all[:5], None, *all[5:]), *given)
    else:
        sure(device, function, *given)


@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("images, shape", [(1, (6, 7)), (3, (5, 4))])
def test_lattice_values_of_16_bits(device, images, shape, weights, recompute):
    given = crf_inputs(images, shape, weights, torch.float32)
    how = shape, "symmetric", "tuned", None, recompute
    exact = values_and_gradients(crf(*how), given)
    with device.active():
        found, again = (
            values_and_gradients(crf(*how, lattice_dtype=torch.bfloat16), moved(given, device.device)) for _ in range(2)
        )
    errors = [float((f.cpu() - e).norm() / e.norm()) for e, f in zip(exact, found, strict=True)]
    assert 1e-5 < errors[0] < 0.01  # bfloat16 has 8 bits; so it was used, and nothing else
    assert max(errors) < 0.1  # sums of gradients cancel
    assert all(map(torch.equal, found, again))


def test_16_bits_take_half_of_the_memory(device):
    built, logits = Built(device, 2, 31, 5, dtype=torch.float32), random(2, 21, 31, dtype=torch.float32, grad=False)
    none = torch.empty(0)
    lists = [torch.tensor(1.0)], [built.weights], built.on_device, [none], [none], [none]
    with device.active():
        full, half = (
            _mean_field_ops.mean_field(*moved([logits, *lists, [31], "tuned", bits16, 3, True, -1], device.device))[1]
            for bits16 in (False, True)
        )
    assert half.numel() == full.numel() / 2


def test_16_bits_are_refused_where_they_are_not_meant():
    logits = random(1, LABELS, 4, 5, dtype=torch.float32)
    for scores, dtype, what in (
        (logits, torch.bfloat16, "must be None for tensors on cpu, 16 bits are for cuda"),
        (logits.double(), torch.bfloat16, "must be None for float64 scores"),
        (logits, torch.float16, "must be None, torch.bfloat16 or torch.float32 as the scores, got torch.float16"),
    ):
        with pytest.raises(ValueError, match=f"lattice_dtype: {what}"):
            F.dense_crf(scores, kernels=[densecrf.Gaussian(1)], lattice_dtype=dtype)


def test_bandwidths_of_several_gaussians(device):
    def refined(logits, near, far):
        kernels, bandwidths = [densecrf.Gaussian(1), densecrf.Gaussian(2)], [{"sxy": near}, {"sxy": far}]
        return F.dense_crf(logits, kernels=kernels, bandwidths=bandwidths)

    sigmas = [torch.tensor([s, 2 * s], dtype=torch.float64, requires_grad=True) for s in (0.9, 1.6)]
    same(device, refined, random(2, LABELS, 5, 6), *sigmas)


@pytest.mark.parametrize("iterations", [0, 1, 4])
def test_layers(device, iterations):
    torch.manual_seed(0)
    logits, image = random(2, LABELS, 6, 7, dtype=torch.float32), random(2, 3, 6, 7, seed=1, dtype=torch.float32) * 50
    for layer in (
        densecrf.nn.DenseCRF(LABELS, iterations=iterations),
        densecrf.nn.CRFasRNN(LABELS, iterations=iterations),
    ):
        same(device, lambda z, i, layer=layer: copy.deepcopy(layer).to(z.device)(z, i), logits, image)


def test_features_that_are_not_finite_are_refused(device):
    features = random(2, 9, 3, grad=False)
    for wrong, what in ((torch.nan, "finite"), (1e13, "span")):
        features[1, 4, 1] = wrong
        with device.active(), pytest.raises(ValueError, match=f"image or features.*{what}"):
            _ops.lattice_build(features.to(device.device), "tuned")


def test_what_is_not_finite_spreads(device):
    values = torch.zeros(1, 2, 35, dtype=torch.float64)
    values[0, 1, 17] = torch.nan
    with device.active():
        out = _ops.grid_filter(values.to(device.device), torch.tensor([1.0, 1.0]), [5, 7])
    assert out[0, 1, 17].isnan()
    assert (out[0, 0] == 0).all()


# ---- manners -------------------------------------------------------------------------------------------------


def checks(device):
    """One call of every operator."""
    built, shape, sigma = Built(device, 2, 35, 3), [5, 7], torch.tensor([1.3, 2.2], dtype=torch.float64)
    values, grad, norm = random(2, 3, 35), random(2, 3, 35, seed=1, grad=False), random(2, 35, seed=2, grad=False)
    mask, none = mask_of(2, 35, torch.float64), NONE.double()
    lattice, features = (built.weights, built.on_device), random(2, 35, 3, seed=3)
    couplings = [torch.tensor(2.0, dtype=torch.float64), random(3, 3, seed=4, grad=False)]
    kernels = couplings, [built.weights, none], built.on_device, [none, sigma], [norm, none], [norm, norm]
    run = values, *kernels, shape, "tuned", False, 2, True, -1
    with device.active():
        _, states, kept = _mean_field_ops.mean_field(*moved(run, device.device))
    calls = {
        _features_ops.image_features: (values, sigma, torch.ones(3, dtype=torch.float64), shape),
        _features_ops.image_features_grad: (random(2, 35, 4, grad=False), random(2, 35, 4), sigma, sigma, True),
        _ops.lattice_build: (features, "tuned"),
        _ops.lattice_features_grad: (features, random(2, 35, 4, grad=False), "tuned"),
        _ops.lattice_filter: (values, *lattice, "tuned", False),
        _ops.lattice_filter_values_grad: (grad, *lattice, "tuned", True),
        _ops.lattice_filter_weights_grad: (values, grad, *lattice, "tuned"),
        _ops.grid_filter: (values, sigma, shape),
        _ops.grid_filter_values_grad: (grad, sigma, shape),
        _ops.grid_filter_sigma_grad: (values, grad, sigma, shape),
        _ops.lattice_norm: (*lattice, mask, "tuned", -0.5),
        _ops.lattice_norm_weights_grad: (norm, norm, *lattice, mask, "tuned", -0.5),
        _ops.grid_norm: (sigma, mask, shape, -1.0),
        _ops.grid_norm_sigma_grad: (norm, norm, sigma, mask, shape, -0.5),
        _mean_field_ops.mean_field: run,
        _mean_field_ops.mean_field_backward: (
            *(grad, values, *kernels, states.cpu(), kept.cpu(), shape, "tuned", False, 2),
            [True, True, False, True, True, True, False, True, False, True],
        ),
    }
    return {op: moved(args, device.device) for op, args in calls.items()}


def test_opcheck(device):
    calls = checks(device)
    assert calls.keys() == _cuda_ops.KERNELS.keys()
    with device.active():
        for op, args in calls.items():
            fakes = ("test_faketensor",) if device.device.type == "cuda" or op is not _ops.lattice_build else ()
            torch.library.opcheck(op, args, test_utils=("test_schema", *fakes))


def test_slices_of_larger_tensors(device):
    values = random(2, 6, 70, grad=False).to(device.device)
    sigma = torch.tensor([1.3, 2.2], dtype=torch.float64)
    with device.active():
        found = _ops.grid_filter(values[:, ::2, ::2], sigma, [5, 7])
        expected = _ops.grid_filter(values[:, ::2, ::2].contiguous(), sigma, [5, 7])
    assert torch.equal(found, expected)


def test_the_runtimes_errors_are_raised(device):
    values = torch.zeros(1, 32 * 65535 + 1, 1, device=device.device)  # no device has blocks for so many channels
    with device.active(), pytest.raises(RuntimeError, match=r"^CUDA: .+ \(error [19]\)$"):
        _ops.grid_filter(values, torch.ones(1), [1])


def test_tensors_that_do_not_go_together_are_named(device):
    built = Built(device, 2, 7, 3)
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


def test_every_operator_has_a_kernel():
    modules = _ops, _features_ops, _mean_field_ops
    operators = {op for m in modules for op in vars(m).values() if isinstance(op, torch.library.CustomOpDef)}
    assert operators == _cuda_ops.KERNELS.keys()


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


QUEUED = "lattice_filter", "lattice_norm", "grid_filter", "spatial_term", "mean_field", "backward"


def queued(device):
    """Calls that wait for nothing: by name, a function of values [2, 3, 35], and such values."""
    built, sigma = Built(device, 2, 35, 3, dtype=torch.float32), torch.tensor([1.3, 2.2])
    lattice = moved([built.weights, built.on_device], device.device)
    values = random(2, 3, 35, dtype=torch.float32, grad=False)
    image = (random(2, 3, 5, 7, dtype=torch.float32, seed=5, grad=False) * 60).to(device.device)
    builder = TermBuilder(values.view(2, 3, 5, 7).to(device.device), image, [], None, "symmetric", "tuned", None)
    terms = builder.terms([densecrf.Gaussian(2), densecrf.Bilateral(3, 60)], [{}, {}])
    couplings = [torch.tensor(weight, device=device.device) for weight in (1.5, 2.0)]

    def mean_field(v):
        return F.mean_field(v.view(2, 3, 5, 7), terms, couplings, iterations=3)

    def backward(v):
        v = v.detach().requires_grad_()
        return torch.autograd.grad(mean_field(v), v, image)[0]

    return {
        "mean_field": (mean_field, values),
        "backward": (backward, values),
        "lattice_filter": (lambda v: _ops.lattice_filter(v, *lattice, "tuned", False), values),
        "lattice_norm": (lambda v: _ops.lattice_norm(*lattice, v[:, 0].abs(), "tuned", -0.5), values),
        "grid_filter": (lambda v: _ops.grid_filter(v, sigma, [5, 7]), values),
        "spatial_term": (lambda v: F.spatial_term(sigma, [5, 7], batch=2, device=v.device).filter(v), values),
    }


@pytest.mark.parametrize("name", QUEUED)
def test_calls_run(device, name):
    with device.active():
        function, values = queued(device)[name]
        assert function(values.to(device.device)).isfinite().all()


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
