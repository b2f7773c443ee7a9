"""The layers among the rest of PyTorch: compiling, exporting, precision, processes, threads, saving."""

from __future__ import annotations

import copy
import io
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import threading
from contextlib import nullcontext

import pytest

torch = pytest.importorskip("torch")

from torch._dynamo.testing import CompileCounterWithBackend  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.fx.experimental.symbolic_shapes import ShapeEnv  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import densecrf.nn as dnn  # noqa: E402
from densecrf import Bilateral, Gaussian, _mean_field_ops  # noqa: E402
from densecrf.nn import Features  # noqa: E402
from densecrf.nn import functional as F  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

KERNELS = (Gaussian(1.3, weight=0.8), Bilateral(4.0, 25.0, weight=1.4))
SHAPE = (6, 8)


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def inputs_of(images=2, labels=3, shape=SHAPE, dtype=torch.float32, **more):
    logits, image = (random(images, c, *shape, seed=s) for c, s in ((labels, 1), (3, 2)))
    return {"logits": (2 * logits).to(dtype), "image": (128 + 40 * image).to(dtype), **more}


def masked(inputs):
    mask = random(len(inputs["logits"]), *inputs["logits"].shape[2:], seed=3) > -1
    return inputs | {"mask": mask}


def deep(inputs):
    """With features, too: what an embedding network might bring."""
    return inputs | {"features": random(len(inputs["logits"]), 5, *inputs["logits"].shape[2:], seed=4)}


def layer_of(labels=3, kernels=KERNELS, **options):
    layer = dnn.DenseCRF(labels, kernels, 3, **options)
    with torch.no_grad():
        for k, parameter in enumerate(layer.parameters()):
            parameter += 0.2 * random(*parameter.shape, seed=k)
    return layer


def results(layer, inputs, module=None, leaves=("logits", "image", "features"), context=nullcontext()):  # noqa: B008
    """The output and all gradients."""
    given = {k: v.detach().clone().requires_grad_() for k, v in inputs.items() if k in leaves}
    with context:
        out = (layer if module is None else module)(**{**inputs, **given})
    total = (out.float() * random(*out.shape, seed=9)).sum()
    return [out.detach(), *torch.autograd.grad(total, [*given.values(), *layer.parameters()])]


def equal(found, expected, tolerance=0.0):
    for f, e in zip(found, expected, strict=True):
        assert f.dtype == e.dtype
        torch.testing.assert_close(f, e, rtol=0, atol=tolerance * max(1e-3, float(e.abs().max())), equal_nan=False)


# ---- torch.compile and torch.export --------------------------------------------------------------------------

LAYERS = {
    "one channel": (lambda: layer_of(1), lambda **how: inputs_of(labels=1, **how)),
    "matrices": (
        lambda: layer_of(
            learn_bandwidths=True,
            weights="matrix",
            compatibility="matrix",
            method="classic",
            normalization="after",
            recompute=True,
        ),
        inputs_of,
    ),
    "everything": (
        lambda: layer_of(
            kernels=[*KERNELS, Features(1.3)],
            learn_bandwidths=True,
            weights="label",
            output="probs",
            spacing=(2.0, 1.0),
        ),
        lambda **how: masked(deep(inputs_of(**how))),
    ),
    "crfasrnn": (lambda: dnn.CRFasRNN(3, 3, alpha=4.0, beta=25.0), inputs_of),
}


@pytest.fixture
def compiled():
    """torch.compile that counts its graphs and refuses to break them."""
    torch._dynamo.reset()

    def compile(module, backend, **options):
        counter = CompileCounterWithBackend(backend)
        return torch.compile(module, backend=counter, fullgraph=True, **options), counter

    yield compile
    torch._dynamo.reset()


@pytest.mark.parametrize("name", LAYERS)
def test_compiles_to_one_graph_of_any_size(name, compiled):
    layer, given = LAYERS[name]
    layer = layer()
    fast, counter = compiled(layer, "aot_eager", dynamic=True)
    graphs = []
    for images, shape in ((2, (6, 8)), (3, (9, 5))):
        inputs = given(images=images, shape=shape)
        equal(results(layer, inputs, fast), results(layer, inputs), 1e-5)
        graphs.append(counter.frame_count)
    assert len(set(graphs)) == 1  # (2 may be counted for one: numbers that turn out not to vary are compiled in)


def test_lattice_filter_compiles(compiled):
    layer = dnn.LatticeFilter(0.8, learn_bandwidth=True)
    fast, counter = compiled(layer, "aot_eager", dynamic=True)
    graphs = []
    for shape in ((6, 8), (7, 3)):
        inputs = {"values": random(2, 3, *shape), "features": random(2, 4, *shape, seed=1)}
        found, expected = (results(layer, inputs, module, ("values", "features")) for module in (fast, layer))
        equal(found, expected, 1e-5)
        with torch.no_grad():  # another graph, which keeps nothing
            torch.testing.assert_close(fast(**inputs), layer(**inputs))
        graphs.append(counter.frame_count)
    assert len(set(graphs)) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiles_within_a_network(compiled):
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scores = torch.nn.Conv2d(3, 3, 3, padding=1)
            self.crf = layer_of(learn_bandwidths=True)

        def forward(self, logits, image):
            return self.crf(logits + self.scores(image / 255), image).log_softmax(dim=1)

    network = Network()
    fast, _ = compiled(network, "aot_eager_decomp_partition")
    equal(results(network, inputs_of(), fast), results(network, inputs_of()), 1e-3)


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="inductor wants a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiles_with_inductor(compiled):
    layer = layer_of(learn_bandwidths=True)
    fast, _ = compiled(layer, "inductor", dynamic=True)
    # It divides in its own way, so that the last bits of the features differ.
    found, expected = (results(layer, inputs_of(), module, ("logits",)) for module in (fast, layer))
    equal(found, expected, 1e-3)
    equal(found[:2], expected[:2], 1e-5)


@pytest.mark.parametrize("name, strict", [*((name, False) for name in LAYERS), ("one channel", True)])
def test_exports(name, strict):
    layer, given = LAYERS[name]
    layer = layer().eval()
    any_size = torch.export.Dim.DYNAMIC
    inputs = given()
    shapes = {k: {0: any_size, v.ndim - 2: any_size, v.ndim - 1: any_size} for k, v in inputs.items()}
    program = torch.export.export(layer, (), inputs, dynamic_shapes=shapes, strict=strict)
    kept = io.BytesIO()
    torch.export.save(program, kept)
    kept.seek(0)
    module = torch.export.load(kept).module()
    for images, shape in ((2, SHAPE), (3, (11, 5))):
        inputs = given(images=images, shape=shape)
        with torch.no_grad():
            torch.testing.assert_close(module(**inputs), layer(**inputs))


def test_exports_for_training():
    layer = layer_of(learn_bandwidths=True)
    program = torch.export.export(layer, (), inputs_of())
    module = program.module()
    out = module(**inputs_of())
    out.square().sum().backward()
    expected = layer(**inputs_of())
    assert torch.equal(out, expected)
    wanted = torch.autograd.grad(expected.square().sum(), list(layer.parameters()))
    for (name, _), grad in zip(layer.named_parameters(), wanted, strict=True):
        torch.testing.assert_close(module.get_parameter(name).grad, grad)


SMALL_COLOURS = (Gaussian(1.3), Bilateral(4.0, 0.3))


@pytest.mark.parametrize("method", ["tuned", "classic"])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_fake_tensors(dtype, grad, method):
    with FakeTensorMode(shape_env=ShapeEnv()), torch.set_grad_enabled(grad):
        layer = dnn.DenseCRF(3, [*SMALL_COLOURS, Features(1.3)], learn_bandwidths=True, method=method)
        logits, image = (torch.empty(2, 3, *SHAPE, dtype=dtype) for _ in range(2))
        logits.requires_grad_(grad)
        out = layer(logits, image, image, torch.ones(2, *SHAPE) > 0)
        assert (out.shape, out.dtype, out.requires_grad) == (logits.shape, dtype, grad)
        if grad:
            out.sum().backward()
            assert logits.grad.shape == logits.shape
            assert all(p.grad.shape == p.shape for p in layer.parameters())


def test_fake_tensors_of_an_image_in_0_to_255():
    with FakeTensorMode(shape_env=ShapeEnv()):
        layer = dnn.DenseCRF(3)
        assert layer(torch.empty(2, 3, *SHAPE), torch.empty(2, 3, *SHAPE)).shape == (2, 3, *SHAPE)


CUDA = pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="strides and indices of fakes want a CUDA build")


@CUDA
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_fake_tensors_on_cuda(dtype):
    with FakeTensorMode(shape_env=ShapeEnv()):
        with torch.device("cuda"):
            layer = dnn.DenseCRF(3, [*SMALL_COLOURS, Features(1.3)], learn_bandwidths=True)
            logits, image = (torch.empty(2, 3, *SHAPE, dtype=dtype) for _ in range(2))
        out = layer(logits, image, image)
        assert (out.shape, out.dtype, out.device.type) == (logits.shape, dtype, "cuda")
        out.sum().backward()
        assert all(p.grad.device.type == "cuda" for p in layer.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_fake_tensors_on_cuda_of_any_build(dtype):
    # Without CUDA PyTorch has no gradients, copies and indexing of such tensors, but most functions.
    with FakeTensorMode(shape_env=ShapeEnv()), torch.no_grad(), torch.device("cuda"):
        layer = dnn.DenseCRF(3, [*SMALL_COLOURS, Features(1.3)], weights="matrix", compatibility="matrix")
        out = layer(*(torch.empty(2, 3, *SHAPE) for _ in range(3)))
        assert (out.shape, out.dtype, out.device.type) == ((2, 3, *SHAPE), torch.float32, "cuda")
    with FakeTensorMode(shape_env=ShapeEnv()), torch.no_grad(), torch.device("cuda"):
        logits, sigma = torch.empty(2, 3, *SHAPE, dtype=dtype), torch.empty(2)
        terms = [F.spatial_term(sigma, SHAPE, batch=2, normalization=n) for n in ("symmetric", "none")]
        out = F.mean_field(logits, terms, [torch.empty(()), torch.empty(3, 3)])
        assert (out.shape, out.dtype, out.device.type) == (logits.shape, dtype, "cuda")
        out = F.spatial_filter(logits, sigma, normalization="after")
        assert (out.shape, out.dtype, out.device.type) == (logits.shape, dtype, "cuda")


# ---- precision -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    layer = layer_of(weights="matrix", learn_bandwidths=True)
    half = inputs_of(dtype=dtype)
    whole = {k: v.float() for k, v in half.items()}
    found, expected = results(layer, half), results(layer, whole)
    assert [f.dtype for f in found] == [dtype] * 3 + [torch.float32] * (len(found) - 3)
    for f, e in zip(found[:3], expected[:3], strict=True):
        # The output is rounded once, and so is each gradient.
        torch.testing.assert_close(f.float(), e, rtol=2 * torch.finfo(dtype).eps, atol=1e-2 * float(e.abs().max()))
    for f, e in zip(found[3:], expected[3:], strict=True):
        torch.testing.assert_close(f, e, rtol=0.05, atol=1e-2 * float(e.abs().max()))
    assert torch.equal(found[0], expected[0].to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_layer_of_another_dtype(dtype):
    layer, inputs = layer_of(learn_bandwidths=True, weights="label", compatibility="matrix"), inputs_of()
    other = copy.deepcopy(layer).to(dtype)
    assert {p.dtype for p in other.parameters()} == {dtype}
    out = other(**{k: v.to(dtype) for k, v in inputs.items()})
    assert out.dtype == dtype
    out.sum().backward()
    assert {p.grad.dtype for p in other.parameters()} == {dtype}
    tolerance = 1e-5 if dtype == torch.float64 else 0.1
    torch.testing.assert_close(out.float(), layer(**inputs), rtol=tolerance, atol=tolerance)
    # Scores decide: a layer in double still computes float32 scores in float32.
    assert other(**inputs).dtype == torch.float32


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_autocast(half, monkeypatch):
    seen, right = [], _mean_field_ops.mean_field
    monkeypatch.setattr(
        _mean_field_ops, "mean_field", lambda *args: seen.append({t.dtype for t in args[2]}) or right(*args)
    )
    scores = torch.nn.Conv2d(3, 3, 1)
    for layer in (layer_of(weights="matrix", compatibility="matrix", learn_bandwidths=True), dnn.CRFasRNN(3)):
        for dtype in (half, torch.float32):
            inputs = inputs_of(dtype=dtype)
            expected = results(layer, inputs)
            found = results(layer, inputs, context=torch.autocast("cpu", dtype=half))
            with torch.autocast("cpu", dtype=half):
                assert scores(inputs["image"]).dtype == half
                assert layer(scores(inputs["image"]), inputs["image"]).dtype == half
            assert found[0].dtype == dtype
            equal(found, expected)  # to the bit: nothing inside was cast down
    assert set().union(*seen) <= {torch.float32}


# ---- gradients that are not wanted ---------------------------------------------------------------------------


@pytest.fixture
def spy(monkeypatch):
    """What the backward pass was asked for: lists of names."""
    seen, right = [], _mean_field_ops.mean_field_backward
    names = ("coupling", "weights", "sigma", "norm_in", "norm_out")

    def backward(*args):
        wanted = args[-1]
        seen.append([f"{names[i % 5]} {i // 5}" for i, flag in enumerate(wanted) if flag])
        return right(*args)

    monkeypatch.setattr(_mean_field_ops, "mean_field_backward", backward)
    return seen


def test_frozen_parameters_are_not_computed(spy):
    layer, inputs = layer_of(learn_bandwidths=True), inputs_of()
    leaf = inputs["logits"].requires_grad_()
    for frozen in layer.parameters():
        frozen.requires_grad_(False)
    layer(**inputs).sum().backward()
    assert spy.pop() == []
    assert all(p.grad is None for p in layer.parameters())
    layer.weight_1.requires_grad_()
    layer(**inputs).sum().backward()
    assert spy.pop() == ["coupling 1"]
    layer.log_sxy_0.requires_grad_()
    layer(**inputs).sum().backward()
    assert spy.pop() == ["sigma 0", "norm_in 0", "norm_out 0", "coupling 1"]
    [has.requires_grad_(has is layer.log_srgb_1) for has in layer.parameters()]
    layer(**inputs).sum().backward()
    assert spy.pop() == ["weights 1", "norm_in 1", "norm_out 1"]
    assert {n for n, p in layer.named_parameters() if p.grad is not None} == {"weight_1", "log_sxy_0", "log_srgb_1"}
    layer.requires_grad_(False)
    leaf.requires_grad_(False)
    inputs["image"].requires_grad_()
    layer(**inputs).sum().backward()
    assert spy.pop() == ["weights 1", "norm_in 1", "norm_out 1"]
    assert leaf.grad is not None and inputs["image"].grad.abs().sum() > 0


def test_nothing_is_kept_without_gradients(spy, monkeypatch):
    kept, right = [], _mean_field_ops.mean_field
    monkeypatch.setattr(_mean_field_ops, "mean_field", lambda *args: kept.append(args[-2]) or right(*args))
    layer, inputs = layer_of(), inputs_of()
    layer(**inputs)
    with torch.no_grad():
        assert not layer(**inputs).requires_grad
    with torch.inference_mode():
        assert layer(**inputs).is_inference()
    layer.requires_grad_(False)
    assert not layer(**inputs).requires_grad
    assert kept == [True, False, False, False]
    assert spy == []


def test_second_derivatives_are_refused():
    inputs = inputs_of()
    inputs["logits"].requires_grad_()
    (first,) = torch.autograd.grad(layer_of()(**inputs).square().sum(), inputs["logits"], create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        first.square().sum().backward()


@pytest.mark.parametrize("recompute", [True, None, False])
def test_no_kernels(recompute):
    layer, logits = dnn.DenseCRF(3, [], recompute=recompute), random(2, 3, *SHAPE).requires_grad_()
    out = layer(logits)
    torch.testing.assert_close(out, logits)
    out.sum().backward()
    assert (logits.grad == 1).all()


# ---- manners -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["tuned", "classic"])
def test_inputs_stay_as_they_are_and_nothing_is_printed(method, capfd):
    layer = layer_of(kernels=[*KERNELS, Features(1.3)], learn_bandwidths=True, weights="matrix", method=method)
    state = copy.deepcopy(layer.state_dict())
    for dtype in (torch.float32, torch.float64):
        inputs = masked(deep(inputs_of(dtype=dtype)))
        inputs["features"] = inputs["features"].to(dtype)
        before = {k: v.clone() for k, v in inputs.items()}
        for output in ("logits", "probs", "log_probs"):
            layer.output, layer.iterations = output, 0 if output == "logits" else 3
            out = layer(**inputs)
            out.sum().backward()
            with torch.no_grad():
                out.zero_()  # a tensor of its own, even after no iterations
            for k, v in inputs.items():
                assert torch.equal(v, before[k])
    for name, value in layer.state_dict().items():
        assert torch.equal(value, state[name])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("threads", [1, 2])
def test_two_runs_are_equal_to_the_bit(threads):
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        layer = layer_of(kernels=[*KERNELS, Features(1.3)], learn_bandwidths=True, weights="matrix")
        inputs = masked(deep(inputs_of(shape=(31, 29))))
        first = results(layer, inputs)
        for _ in range(2):
            equal(results(layer, inputs), first)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", ["logits", "image", "features", "mask"])
def test_layouts_are_equal(name):
    layer = layer_of(kernels=[*KERNELS, Features(1.3)], learn_bandwidths=True, weights="label")
    inputs = masked(deep(inputs_of()))
    expected = results(layer, inputs)
    given = inputs[name]
    wide = torch.zeros(*given.shape[:-1], 2 * given.shape[-1], dtype=given.dtype)
    wide[..., ::2] = given
    layouts = [given.mT.contiguous().mT, wide[..., ::2], given.flip(-1).contiguous().flip(-1)]
    if given.ndim == 4:
        layouts.append(given.to(memory_format=torch.channels_last))
    for layout in layouts:
        assert torch.equal(layout, given)
        equal(results(layer, inputs | {name: layout}), expected)
    if name == "logits":
        out = layer(**inputs | {"logits": given.to(memory_format=torch.channels_last)})
        assert out.shape == given.shape
        out.contiguous(memory_format=torch.channels_last).sum().backward()  # gradients that are not contiguous


def test_volumes_in_channels_last():
    layer, inputs = layer_of(learn_bandwidths=True), inputs_of(shape=(3, 4, 5))
    expected = results(layer, inputs)
    last = {k: v.to(memory_format=torch.channels_last_3d) for k, v in inputs.items()}
    equal(results(layer, last), expected)


def test_expanded_gradients():
    layer, inputs = layer_of(), inputs_of()
    one, two = (inputs["logits"].clone().requires_grad_() for _ in range(2))
    layer(one, inputs["image"]).sum().backward()  # an expanded 1
    layer(two, inputs["image"]).backward(torch.ones(2, 3, *SHAPE))
    assert torch.equal(one.grad, two.grad)


def test_copies_and_pickles_are_equal():
    layers = [
        (layer_of(kernels=[*KERNELS, Features(1.3)], learn_bandwidths=True, weights="matrix"), deep(inputs_of())),
        (dnn.CRFasRNN(3, alpha=5, beta=20), inputs_of()),
    ]
    for layer, inputs in layers:
        expected = results(layer, inputs)
        saved = io.BytesIO()
        torch.save(layer, saved)
        saved.seek(0)
        for again in (
            copy.deepcopy(layer),
            copy.copy(layer),
            pickle.loads(pickle.dumps(layer)),
            torch.load(saved, weights_only=False),
        ):
            equal(results(again, inputs), expected)
            assert repr(again) == repr(layer)


@pytest.mark.parametrize("learn_bandwidths", [False, True])
@pytest.mark.parametrize("compatibility", ["potts", "vector", "matrix"])
def test_state_dict(compatibility, learn_bandwidths, tmp_path):
    how = {"weights": "label", "compatibility": compatibility, "learn_bandwidths": learn_bandwidths}
    layer, fresh = layer_of(**how), dnn.DenseCRF(3, KERNELS, 3, **how)
    names = ["weight_0", "weight_1"]
    names += ["log_sxy_0", "log_sxy_1", "log_srgb_1"] if learn_bandwidths else []
    names += [] if compatibility == "potts" else ["compatibility"]
    assert sorted(layer.state_dict()) == sorted(names)
    assert all(isinstance(p, torch.nn.Parameter) for p in layer.parameters())
    torch.save(layer.state_dict(), tmp_path / "crf.pt")
    fresh.load_state_dict(torch.load(tmp_path / "crf.pt", weights_only=True), strict=True)
    equal(results(fresh, inputs_of()), results(layer, inputs_of()))
    with pytest.raises(RuntimeError, match="size mismatch"):
        dnn.DenseCRF(4, KERNELS, **how).load_state_dict(layer.state_dict())


def test_lattice_filter_state_dict():
    layer = dnn.LatticeFilter((1.0, 2.0), learn_bandwidth=True)
    assert list(layer.state_dict()) == ["log_bandwidth"]
    assert not dnn.LatticeFilter(2.0).state_dict()
    torch.testing.assert_close(layer.log_bandwidth.exp(), torch.tensor([1.0, 2.0]))


def test_repr():
    layer = dnn.DenseCRF(21, KERNELS, 4, eval_iterations=7, weights="label", output="probs")
    for part in (
        "DenseCRF(num_labels=21",
        "Gaussian(sxy=1.3, weight=0.8",
        "iterations=4 (eval 7)",
        "weights='label'",
        "compatibility='potts'",
        "learn_bandwidths=False",
        "normalization='symmetric'",
        "method='tuned'",
        "output='probs'",
    ):
        assert part in repr(layer)
    assert "(eval" not in repr(dnn.DenseCRF(2))
    expected = "CRFasRNN(num_labels=2, iterations=5 (eval 10), alpha=160, beta=3, gamma=3, method='classic')"
    assert repr(dnn.CRFasRNN(2)) == expected
    expected = "LatticeFilter(bandwidth=1, 2.5, learned, normalization='after', method='tuned')"
    assert repr(dnn.LatticeFilter((1, 2.5), learn_bandwidth=True)) == expected
    assert "log_" not in repr(torch.nn.Sequential(layer)) and "0): DenseCRF(" in repr(torch.nn.Sequential(layer))


@pytest.mark.parametrize("kind", ["DenseCRF", "CRFasRNN"])
def test_train_and_eval_have_iterations_of_their_own(kind):
    def layer(iterations, **options):
        if kind == "DenseCRF":
            return dnn.DenseCRF(3, KERNELS, iterations, **options)
        return dnn.CRFasRNN(3, iterations, alpha=4, beta=25, **options)

    inputs = inputs_of()
    both = layer(2, eval_iterations=6)
    with torch.no_grad():
        two, six = layer(2).train()(**inputs), layer(6, eval_iterations=6)(**inputs)
        assert torch.equal(both(**inputs), two)
        assert torch.equal(both.eval()(**inputs), six)
        assert torch.equal(both.train()(**inputs), two)
        assert (two - six).abs().max() > 1e-3
        if kind == "DenseCRF":
            assert torch.equal(layer(2).eval()(**inputs), two)


def test_an_optimiser_lowers_the_loss():
    layer = layer_of(kernels=[*KERNELS, Features(1.3)], learn_bandwidths=True, weights="label", compatibility="vector")
    inputs, truth = deep(inputs_of(shape=(12, 12))), (random(2, 12, 12, seed=8) > 0).long()
    optimiser = torch.optim.SGD(layer.parameters(), 0.1)
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(layer(**inputs), truth)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses == sorted(losses, reverse=True)


def test_gradients_add_up_over_calls():
    layer, inputs = layer_of(learn_bandwidths=True), inputs_of()
    expected = results(layer, inputs)[3:]
    for _ in range(2):
        (layer(**inputs) * random(2, 3, *SHAPE, seed=9)).sum().backward()
    equal([p.grad for p in layer.parameters()], [2 * g for g in expected], 1e-6)
    # A graph that is used twice, and two calls in one graph.
    layer.zero_grad()
    total = (layer(**inputs) * random(2, 3, *SHAPE, seed=9)).sum()
    total.backward(retain_graph=True)
    total.backward()
    equal([p.grad for p in layer.parameters()], [2 * g for g in expected], 1e-6)
    with pytest.raises(RuntimeError, match="second time"):
        total.backward()


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(reentrant):
    layer, inputs = layer_of(learn_bandwidths=True), inputs_of()
    expected = results(layer, inputs)
    leaves = [v.requires_grad_() for v in inputs.values()]
    out = checkpoint(layer, *leaves, use_reentrant=reentrant)
    (out * random(*out.shape, seed=9)).sum().backward()
    equal([out.detach(), *(t.grad for t in (*leaves, *layer.parameters()))], expected)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_hooks_and_anomaly_mode():
    layer, inputs, seen = layer_of(learn_bandwidths=True), inputs_of(), []
    layer.register_full_backward_hook(lambda module, grad_in, grad_out: seen.append(grad_out[0].shape))
    with torch.autograd.detect_anomaly(check_nan=True):
        inputs["logits"].requires_grad_()
        layer(inputs["logits"], inputs["image"]).sum().backward()
    assert seen == [(2, 3, *SHAPE)]


def test_data_parallel_falls_through():
    if torch.cuda.is_available():
        pytest.skip("there are GPUs")
    layer, inputs = layer_of(learn_bandwidths=True), inputs_of()
    parallel = torch.nn.DataParallel(layer)
    equal(results(layer, inputs, lambda logits, image: parallel(logits, image)), results(layer, inputs))


def test_threads_may_share_a_layer():
    layer = layer_of(kernels=[*KERNELS, Features(1.3)], learn_bandwidths=True)
    given = [deep(inputs_of(shape=(9 + k, 11))) for k in range(4)]
    expected = [results(layer, inputs) for inputs in given]
    found = [[] for _ in given]

    def work(k):
        torch.set_num_threads(1)
        for _ in range(4):
            found[k].append(results(layer, given[k]))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    for runs, wanted in zip(found, expected, strict=True):
        assert len(runs) == 4
        for run in runs:
            equal(run, wanted)


class Refined(torch.utils.data.Dataset):
    """Items that come out of a CRF."""

    def __init__(self, layer):
        self.layer = layer

    def __len__(self):
        return 4

    def __getitem__(self, k):
        inputs = inputs_of(images=1, shape=(9 + k, 8))
        with torch.no_grad():
            return self.layer(**inputs)[0]


# From Python 3.12 on, forking a process that has threads warns: PyTorch's own have been started by now.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_in_the_workers_of_a_data_loader():
    torch.set_num_threads(2)
    data = Refined(layer_of())
    [data[k] for k in range(4)]  # the parent has used its threads
    expected = []
    torch.set_num_threads(1)  # as the workers do
    expected = [data[k] for k in range(4)]
    loader = torch.utils.data.DataLoader(
        data, batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60
    )
    for found, wanted in zip(loader, expected, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("default", [torch.float64, torch.float16])
def test_default_dtypes_do_not_matter(default):
    expected = layer_of(learn_bandwidths=True, weights="label", compatibility="matrix")(**inputs_of())
    torch.set_default_dtype(default)
    try:
        layer = layer_of(learn_bandwidths=True, weights="label", compatibility="matrix").float()
        found = layer(**inputs_of())
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 if default == torch.float64 else 1e-2)


def test_terms_are_built_once_for_many_scores():
    image, sigma = inputs_of()["image"], torch.tensor([1.3, 1.3])
    terms = [F.spatial_term(sigma, SHAPE, batch=2), F.features_term(image / 25)]
    couplings = [torch.tensor(0.8), torch.tensor(1.4)]
    for seed in range(3):
        logits = random(2, 3, *SHAPE, seed=seed)
        again = [F.spatial_term(sigma, SHAPE, batch=2), F.features_term(image / 25)]
        found, expected = (F.mean_field(logits, t, couplings) for t in (terms, again))
        assert torch.equal(found, expected)


def test_without_torch_there_is_a_sentence():
    code = "import sys; sys.modules['torch'] = None\nimport densecrf\nimport densecrf.nn"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | PATH)
    assert run.returncode == 1
    assert "ImportError: densecrf.nn needs PyTorch: pip install 'densecrf[torch]'" in run.stderr


def test_densecrf_itself_does_not_import_torch():
    code = "import densecrf, sys; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | PATH)
    assert run.stdout.strip() == "False", run.stderr


PATH = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


INTERRUPTED = """
import signal, sys, time
import torch
import densecrf.nn as dnn

torch.set_num_threads(int(sys.argv[1]))
layer = dnn.DenseCRF(3, iterations=2)
inputs = torch.randn(3, 3, 40, 50), 255 * torch.rand(3, 3, 40, 50)
expected = layer(*inputs)
layer.iterations = 10**8
signal.signal(signal.SIGALRM, signal.default_int_handler)
start = time.monotonic()
signal.setitimer(signal.ITIMER_REAL, 0.2)
try:
    with torch.no_grad():
        layer(*inputs)
except KeyboardInterrupt:
    late = time.monotonic() - start - 0.2
    layer.iterations = 2
    assert torch.equal(layer(*inputs), expected)
    print("interrupted", late)
"""


@pytest.mark.parametrize("threads", ["1", "2", "8"])
def test_ctrl_c_ends_a_batch(threads):
    path = os.pathsep.join([os.path.dirname(os.path.dirname(dnn.__path__[0])), *sys.path])
    command = [sys.executable, "-c", INTERRUPTED, threads]
    out = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120)
    assert out.stdout.startswith("interrupted"), out.stderr
    assert float(out.stdout.split()[1]) < 5.0
