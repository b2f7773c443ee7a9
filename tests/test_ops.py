"""The operators of `densecrf._ops`: values, gradients, and their manners towards PyTorch."""

from __future__ import annotations

import functools
from math import prod

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.autograd.gradcheck import GradcheckError  # noqa: E402
from torch.fx.experimental.symbolic_shapes import ShapeEnv  # noqa: E402

from densecrf import Lattice, _features_ops, _mean_field_ops, _ops, numerics  # noqa: E402
from densecrf.spatial import Grid  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

METHODS = ("tuned", "classic")
NONE = torch.empty(0)
# Shapes and bandwidths of the grid: filtered on pixels (sigma below 3, or a short axis) and on coarser nodes.
GRIDS = {
    "line": ((9,), (1.7,)),
    "coarse line": ((45,), (7.3,)),
    "fine": ((5, 7), (1.3, 2.2)),
    "coarse": ((35, 3), (3.4, 1.1)),
    "coarse along x": ((2, 41), (0.7, 12.9)),
    "volume": ((3, 2, 5), (0.8, 1.5, 2.9)),
    "coarse volume": ((2, 34, 2), (1.2, 4.1, 0.9)),
}


def random(*shape, seed=0, dtype=torch.float64, grad=True):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(dtype).requires_grad_(grad)


def points(images=2, n=13, d=3, seed=0, width=1.0, **options):
    """Features close enough together that most hear each other."""
    return (random(images, n, d, seed=seed, grad=False, **options) * width).requires_grad_()


def positive(*shape, seed=0, **options):
    return (random(*shape, seed=seed, grad=False, **options).abs() + 0.3).requires_grad_()


def sure(function, *inputs, fast=False):
    """Gradients are those of finite differences, to seven digits or so."""
    assert torch.autograd.gradcheck(function, inputs, eps=1e-6, atol=1e-7, rtol=1e-6, fast_mode=fast)


def built(features, method):
    weights, *index = _ops.lattice_build(features.detach(), method)
    return weights, index


def numpy_of(tensor):
    return tensor.detach().numpy()


# ---- values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("images, n, d", [(1, 40, 2), (3, 41, 5), (2, 1, 3), (2, 30, 1), (2, 50, 9)])
def test_lattice_of_a_batch_is_that_of_each_image(images, n, d, method, dtype):
    features, values = points(images, n, d, dtype=dtype), random(images, 4, n, seed=1, dtype=dtype)
    weights, index = built(features, method)
    assert weights.shape == (images, n, d + 1)
    assert index[0].shape == (images, n)
    alone = [Lattice(numpy_of(f), method, dtype=str(dtype)[6:]) for f in features]
    assert index[4][:, 1].tolist() == [lattice.num_vertices for lattice in alone]
    close = 1e-5 if dtype == torch.float32 else 1e-12
    for transpose in (False, True):
        found = _ops.lattice_filter(values, weights, index, method, transpose)
        assert found.dtype == dtype
        for b, lattice in enumerate(alone):
            expected = (lattice.transpose_filter if transpose else lattice.filter)(numpy_of(values[b]))
            np.testing.assert_allclose(numpy_of(found[b]), expected, rtol=close, atol=close)


@pytest.mark.parametrize("method", METHODS)
def test_equal_images_do_not_hear_each_other(method):
    features = points(1, 20, 3).expand(3, 20, 3)
    values = torch.zeros(3, 1, 20, dtype=torch.float64)
    values[1] = 1
    found = _ops.lattice_filter(values, *built(features, method), method, False)
    assert found[1].min() > 0.3
    assert found[[0, 2]].abs().max() == 0


@pytest.mark.parametrize("shape, sigma", GRIDS.values(), ids=GRIDS)
def test_grid_filter_is_the_separable_sum(shape, sigma):
    values = random(2, 3, prod(shape), grad=False)
    expected = values.reshape(6, *shape).numpy()
    for axis, line in enumerate(Grid(shape, sigma).axes):
        expected = np.apply_along_axis(line.sums, axis + 1, expected)
    found = _ops.grid_filter(values, torch.tensor(sigma), list(shape))
    np.testing.assert_allclose(found.reshape(6, *shape).numpy(), expected, rtol=0, atol=1e-5)
    found = _ops.grid_filter(values, torch.tensor(sigma, dtype=torch.float64), list(shape))
    np.testing.assert_allclose(found.reshape(6, *shape).numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_transpose_is_the_adjoint(method):
    features, x, y = points(2, 60, 4), random(2, 3, 60, seed=1), random(2, 3, 60, seed=2)
    weights, index = built(features, method)
    there = (_ops.lattice_filter(x, weights, index, method, False) * y).sum()
    back = (_ops.lattice_filter(y, weights, index, method, True) * x).sum()
    forth = (_ops.lattice_filter(y, weights, index, method, False) * x).sum()
    torch.testing.assert_close(there, back, rtol=1e-12, atol=1e-12)
    assert abs(there - forth) > 1e-4  # the filter itself is not its adjoint


# ---- gradients of the filters --------------------------------------------------------------------------------


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("images, n, d", [(1, 7, 2), (3, 5, 3), (2, 6, 5), (2, 5, 1)])
def test_lattice_filter_gradients(images, n, d, method, transpose):
    values, features = random(images, 2, n, seed=3), points(images, n, d, seed=4)
    weights, index = built(features, method)
    # Any weights will do here, not just those that the features give.
    sure(lambda v, w: _ops.lattice_filter(v, w, index, method, transpose), values, random(*weights.shape, seed=5))

    def whole(v, f):
        weights, *index = _ops.lattice_build(f, method)
        return _ops.lattice_filter(v, weights, index, method, transpose)

    sure(whole, values, features)


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 6, 8, 16, 17, 40])
def test_lattice_build_gradients(d):
    for method in METHODS:
        sure(lambda f, method=method: _ops.lattice_build(f, method)[0], points(2, 3, d, seed=d, width=3.0))


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("shape, sigma", GRIDS.values(), ids=GRIDS)
def test_grid_filter_gradients(shape, sigma, images):
    sigma = torch.tensor(sigma, dtype=torch.float64, requires_grad=True)
    values = random(images, 2, prod(shape))
    sure(lambda v, s: _ops.grid_filter(v, s, list(shape)), values, sigma, fast=True)
    sure(lambda s: _ops.grid_filter(values.detach(), s, list(shape)), sigma)


def test_float32_gradients_are_those_of_float64():
    features, values, grad = points(2, 50, 5), random(2, 3, 50, seed=1), random(2, 3, 50, seed=2, grad=False)

    def gradients(dtype):
        f, v = (t.detach().to(dtype).requires_grad_() for t in (features, values))
        weights, *index = _ops.lattice_build(f, "tuned")
        return torch.autograd.grad(_ops.lattice_filter(v, weights, index, "tuned", False), (f, v), grad.to(dtype))

    for single, double in zip(gradients(torch.float32), gradients(torch.float64), strict=True):
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


# ---- gradients of mean field ---------------------------------------------------------------------------------


class Problem:
    """Two lattices and a spatial grid under the three forms of coupling, all of it random."""

    def __init__(self, shape=(3, 4), images=2, labels=3, method="tuned", dtype=torch.float64, sigma=None, norms=True):
        self.shape, self.method, n = list(shape), method, prod(shape)
        how = {"dtype": dtype}
        lattices = [built(points(images, n, d, seed=d, **how), method) for d in (2, 4)]
        none = NONE.to(dtype)
        self.logits = random(images, labels, n, seed=11, **how)
        self.couplings = [
            random(seed=12, **how),
            random(labels, seed=13, **how),
            random(labels, labels, seed=14, **how),
        ]
        self.weights = [lattices[0][0].requires_grad_(), none, lattices[1][0].requires_grad_()]
        self.index = lattices[0][1] + lattices[1][1]
        sigma = torch.tensor(sigma or [1.3, 2.1, 0.8][: len(shape)], **how)
        self.sigmas = [none, sigma.requires_grad_(), none]
        self.norm_in = [positive(images, n, seed=k, **how) if norms else none for k in (21, 22, 23)]
        self.norm_out = [positive(images, n, seed=k, **how) if norms else none for k in (31, 32, 33)]
        self.norm_in[1] = self.norm_out[2] = none

    def lists(self):
        return [self.couplings, self.weights, self.index, self.sigmas, self.norm_in, self.norm_out]

    def leaves(self):
        """Everything with a gradient."""
        lists = (t for part in self.lists() for t in part)
        return [self.logits, *(t for t in lists if t.requires_grad)]

    def args(self, iterations=3, keep=True, recompute=0, detach=False):
        def plain(t):
            return t.detach() if detach else t

        lists = [[plain(t) for t in part] for part in self.lists()]
        return (plain(self.logits), *lists, self.shape, self.method, False, iterations, keep, recompute)

    def run(self, *leaves, **options):
        """The scores as a function of the leaves."""
        left = iter(leaves)
        logits = next(left)
        lists = [[next(left) if t.requires_grad else t for t in part] for part in self.lists()]
        how = self.args(**options)[1 + len(lists) :]
        return _mean_field_ops.mean_field(logits, *lists, *how)[0]

    def gradients(self, **options):
        leaves = self.leaves()
        scores = self.run(*leaves, **options)
        return scores, torch.autograd.grad(
            scores, leaves, random(*scores.shape, seed=5, dtype=scores.dtype, grad=False)
        )


def composed(problem, iterations):
    """Mean field from the filters, with autograd's own gradients."""
    z, left = problem.logits, list(problem.index)
    terms = []
    for weights, sigma in zip(problem.weights, problem.sigmas, strict=True):
        if sigma.numel():
            terms.append(lambda v, sigma=sigma: _ops.grid_filter(v, sigma, problem.shape))
        else:
            index, left = left[:5], left[5:]
            terms.append(lambda v, w=weights, i=index: _ops.lattice_filter(v, w, i, problem.method, False))
    for _ in range(iterations):
        q, z = z.softmax(dim=1), problem.logits
        for k, term in enumerate(terms):
            inner, outer = (norm[k] for norm in (problem.norm_in, problem.norm_out))
            message = term(q * inner.unsqueeze(1) if inner.numel() else q)
            message = message * outer.unsqueeze(1) if outer.numel() else message
            coupling = problem.couplings[k]
            z = z + (coupling @ message if coupling.ndim == 2 else coupling.reshape(-1, 1) * message)
    return z


@pytest.mark.parametrize("recompute", [0, 1, -1])
@pytest.mark.parametrize("iterations", [0, 1, 2, 5, 7])
@pytest.mark.parametrize("method, labels, images", [("tuned", 3, 2), ("classic", 2, 1), ("tuned", 9, 3)])
def test_mean_field_is_the_composition(method, labels, images, iterations, recompute):
    problem = Problem(images=images, labels=labels, method=method)
    scores, found = problem.gradients(iterations=iterations, recompute=recompute)
    expected = composed(problem, iterations)
    torch.testing.assert_close(scores, expected, rtol=1e-10, atol=1e-10)
    grad = random(*scores.shape, seed=5, grad=False)
    gradients = torch.autograd.grad(expected, problem.leaves(), grad, materialize_grads=True, allow_unused=True)
    for g, e in zip(found, gradients, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("labels", [1, 2, 3, 17, 33])
def test_any_number_of_labels(labels):
    problem = Problem(labels=labels, shape=(5, 5))
    scores, found = problem.gradients(iterations=2)
    expected = composed(problem, 2)
    torch.testing.assert_close(scores, expected, rtol=1e-10, atol=1e-10)
    grad = random(*scores.shape, seed=5, grad=False)
    for g, e in zip(found, torch.autograd.grad(expected, problem.leaves(), grad), strict=True):
        torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("recompute", [0, 1, -1])
@pytest.mark.parametrize("method", METHODS)
def test_mean_field_gradients(method, recompute):
    problem = Problem(images=1, shape=(2, 3), labels=2, method=method)
    sure(lambda *leaves: problem.run(*leaves, recompute=recompute), *problem.leaves())


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("shape, sigma", GRIDS.values(), ids=GRIDS)
def test_mean_field_gradients_on_grids(shape, sigma, images):
    problem = Problem(shape=shape, images=images, sigma=sigma)
    sure(lambda *leaves: problem.run(*leaves), *problem.leaves(), fast=True)


def test_mean_field_gradients_of_float32():
    single, double = (Problem(dtype=dtype, shape=(6, 7)) for dtype in (torch.float32, torch.float64))
    for s, d in zip(single.gradients(iterations=5)[1], double.gradients(iterations=5)[1], strict=True):
        assert s.dtype == torch.float32
        torch.testing.assert_close(s.double(), d, rtol=1e-3, atol=1e-3)


def test_kept_states_are_bounded():
    # Few labels on a lattice that is smaller than the image: values are kept. Much to keep: Q of every third step.
    problem = Problem()
    scores, states, kept = _mean_field_ops.mean_field(*problem.args(6, recompute=-1, detach=True))
    assert states.numel() > 0 and kept.shape[0] == 0
    again, states, kept = _mean_field_ops.mean_field(*problem.args(6, recompute=1, detach=True))
    assert states.numel() == 0 and kept.shape == (2, *problem.logits.shape)
    none, *nothing = _mean_field_ops.mean_field(*problem.args(6, keep=False, detach=True))
    assert all(t.numel() == 0 for t in nothing)
    assert torch.equal(scores, again) and torch.equal(scores, none)
    # What is kept are the probabilities themselves.
    for k, t in enumerate((2, 4)):
        q = _mean_field_ops.mean_field(*problem.args(t, keep=False, detach=True))[0].softmax(dim=1)
        torch.testing.assert_close(kept[k], q, rtol=1e-9, atol=1e-9)


def backward_args(problem, wanted, recompute=0, iterations=3):
    logits, *lists, shape, method, bfloat16, _, _, _ = problem.args(detach=True)
    _, states, kept = _mean_field_ops.mean_field(*problem.args(iterations, recompute=recompute, detach=True))
    grad = random(*logits.shape, seed=5, dtype=logits.dtype, grad=False)
    return (grad, logits, *lists, states, kept, shape, method, bfloat16, iterations, wanted)


@pytest.mark.parametrize("recompute", [0, 1, -1])
def test_only_what_is_wanted_is_computed(recompute):
    problem = Problem()
    exists = [t.numel() > 0 for row in zip(*(problem.lists()[i] for i in (0, 1, 3, 4, 5)), strict=True) for t in row]
    everything = _mean_field_ops.mean_field_backward(*backward_args(problem, exists, recompute))
    for i in [i for i, there in enumerate(exists) if there]:
        wanted = [j == i for j in range(15)]
        grad_logits, *others = _mean_field_ops.mean_field_backward(*backward_args(problem, wanted, recompute))
        torch.testing.assert_close(grad_logits, everything[0], rtol=1e-10, atol=1e-10)
        assert [t.numel() > 0 for t in others] == wanted
        torch.testing.assert_close(others[i], everything[1 + i], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("labels", [3, 33])
def test_couplings_alone(labels):
    problem = Problem(labels=labels)
    problem.couplings[:2] = random(seed=15), random(seed=16)  # two numbers, one after the other, and a matrix
    exists = [t.numel() > 0 for row in zip(*(problem.lists()[i] for i in (0, 1, 3, 4, 5)), strict=True) for t in row]
    everything = _mean_field_ops.mean_field_backward(*backward_args(problem, exists))
    wanted = [j % 5 == 0 for j in range(15)]
    found = _mean_field_ops.mean_field_backward(*backward_args(problem, wanted))
    for i in (0, *range(1, 16, 5)):
        torch.testing.assert_close(found[i], everything[i], rtol=1e-10, atol=1e-10)


def test_threads():
    def results(threads):
        torch.set_num_threads(threads)
        problem = Problem(shape=(50, 51), labels=5)
        scores, gradients = problem.gradients(iterations=4)
        return [scores, *gradients]

    one, two, again = results(1), results(2), results(2)
    for a, b, c in zip(one, two, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * float(a.detach().abs().max()))
        assert torch.equal(b, c)


# ---- wrong gradients are found -------------------------------------------------------------------------------


class Filter(torch.autograd.Function):
    """The filter over its sums, ``D^-1 K v``, with a backward pass of one's own."""

    @staticmethod
    def forward(ctx, values, weights, index, method, inverse, backward):
        ctx.rest = weights, index, method, inverse, backward
        return inverse * _ops.lattice_filter(values, weights, index, method, False)

    @staticmethod
    def backward(ctx, grad):
        weights, index, method, inverse, backward = ctx.rest
        K, K_T = (lambda g, t=t: _ops.lattice_filter(g, weights, index, method, t) for t in (False, True))
        return backward(K, K_T, inverse, grad), None, None, None, None, None


BACKWARDS = {
    "right": lambda K, K_T, D, g: K_T(D * g),
    "blur not reversed": lambda K, K_T, D, g: K(D * g),
    "normalised in the wrong place": lambda K, K_T, D, g: D * K_T(g),
    "not normalised": lambda K, K_T, D, g: K_T(g),
}


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", BACKWARDS)
def test_a_wrong_adjoint_is_found(name, method, fast):
    weights, index = built(points(1, 30, 4), method)
    inverse = 1 / _ops.lattice_filter(torch.ones(1, 1, 30, dtype=torch.float64), weights, index, method, False)

    def check():
        sure(lambda v: Filter.apply(v, weights, index, method, inverse, BACKWARDS[name]), random(1, 1, 30), fast=fast)

    if name == "right":
        return check()
    with pytest.raises(GradcheckError):
        check()


def wrong_norms(args):
    return (*args[:6], args[7], args[6], *args[8:])  # norm_out first


def wrong_couplings(args):
    return (*args[:2], [c.T if c.ndim == 2 else c for c in args[2]], *args[3:])


def other_logits(args):
    return (args[0], args[1] * 0.999, *args[2:])


@pytest.mark.parametrize("recompute", [-1, 1])
@pytest.mark.parametrize("spoil", [None, wrong_norms, wrong_couplings, other_logits])
def test_a_wrong_backward_pass_is_found(monkeypatch, spoil, recompute):
    problem, right = Problem(images=1), _mean_field_ops.mean_field_backward

    def check():
        sure(lambda *leaves: problem.run(*leaves, recompute=recompute), *problem.leaves(), fast=True)

    if spoil is None:
        return check()
    problem.norm_in[1] = problem.norm_out[2] = positive(1, 12, seed=40).detach()
    monkeypatch.setattr(_mean_field_ops, "mean_field_backward", lambda *args: right(*spoil(args)))
    with pytest.raises(GradcheckError):
        check()


def test_the_lattice_filter_goes_back_through_the_transpose(monkeypatch):
    # The operator's own backward pass, spoilt: what it hands to the filter says "transpose".
    weights, index = built(points(1, 30, 4), "tuned")
    seen, right = [], _ops._lattice_filter
    monkeypatch.setattr(_ops, "_lattice_filter", lambda *args: seen.append(args[-1]) or right(*args))
    for transpose in (False, True):
        _ops.lattice_filter(random(1, 1, 30), weights, index, "tuned", transpose).sum().backward()
        assert seen == [transpose, not transpose]
        seen.clear()


# ---- manners -------------------------------------------------------------------------------------------------


@functools.cache
def checks(dtype):
    """By name, operators and arguments: gradients asked of everything that can have one."""
    return dict(_checks({"dtype": dtype}))


def _checks(how):
    features, values, plain = points(2, 20, 3, **how), random(2, 4, 20, **how), random(2, 4, 20, grad=False, **how)
    sigma = positive(2, **how)
    for method in METHODS:
        weights, index = built(features, method)
        yield f"lattice_build {method}", (_ops.lattice_build, (features, method))
        yield (
            f"lattice_filter {method}",
            (_ops.lattice_filter, (values, weights.requires_grad_(), index, method, False)),
        )
    weights = weights.detach()
    transposed = random(2, 20, 4, grad=False, **how).mT
    yield "lattice_filter of a transpose", (_ops.lattice_filter, (transposed, weights, index, "classic", True))
    image, srgb = random(2, 3, 20, **how), positive(3, **how)
    yield "image_features", (_features_ops.image_features, (image, sigma, srgb, [4, 5]))
    made = _features_ops.image_features(image, sigma, srgb, [4, 5]).detach()
    for what, wants in ("", True), (" without an image", False):
        args = (random(2, 20, 5, grad=False, **how), made, sigma.detach(), srgb.detach(), wants)
        yield f"image_features_grad{what}", (_features_ops.image_features_grad, args)
    grad_weights = random(2, 20, 4, grad=False, **how)
    yield "lattice_features_grad", (_ops.lattice_features_grad, (features.detach(), grad_weights, "tuned"))
    args = (plain, transposed, weights, index, "classic")
    yield "lattice_filter_values_grad", (_ops.lattice_filter_values_grad, (transposed, weights, index, "tuned", False))
    yield "lattice_filter_weights_grad", (_ops.lattice_filter_weights_grad, args)
    yield "grid_filter", (_ops.grid_filter, (values, sigma, [4, 5]))
    yield "grid_filter_values_grad", (_ops.grid_filter_values_grad, (transposed, sigma.detach(), [4, 5]))
    yield "grid_filter_sigma_grad", (_ops.grid_filter_sigma_grad, (plain, transposed, sigma.detach(), [4, 5]))
    half = random(2, 20, grad=False, **how) > 0
    for what, mask in ("", random(0, grad=False, **how)), (" with a mask", half.to(plain.dtype)):
        norm = _ops.lattice_norm(weights, index, mask, "classic", -0.5)
        yield (
            f"lattice_norm{what}",
            (_ops.lattice_norm, (weights.clone().requires_grad_(), index, mask, "classic", -0.5)),
        )
        args = (plain[:, 0], norm, weights, index, mask, "classic", -0.5)
        yield f"lattice_norm_weights_grad{what}", (_ops.lattice_norm_weights_grad, args)
        norm = _ops.grid_norm(sigma.detach(), mask, [4, 5], -1.0)
        yield f"grid_norm{what}", (_ops.grid_norm, (sigma, mask, [4, 5], -1.0))
        args = (plain[: len(norm), 0], norm, sigma.detach(), mask, [4, 5], -1.0)
        yield f"grid_norm_sigma_grad{what}", (_ops.grid_norm_sigma_grad, args)
    problem = Problem(**how)
    for recompute in (0, 1, -1):
        yield f"mean_field {recompute}", (_mean_field_ops.mean_field, problem.args(recompute=recompute))
        wanted = [True, True, False, True, True, True, False, True, False, True, True, True, False, True, False]
        args = backward_args(problem, wanted, recompute)
        yield f"mean_field_backward {recompute}", (_mean_field_ops.mean_field_backward, args)
    yield "mean_field, nothing kept", (_mean_field_ops.mean_field, problem.args(keep=False, detach=True))
    yield (
        "mean_field without kernels",
        (_mean_field_ops.mean_field, (values, [], [], [], [], [], [], [4, 5], "tuned", False, 2, True, 0)),
    )


NORMS = ("lattice", ""), ("lattice", "_weights_grad"), ("grid", ""), ("grid", "_sigma_grad")
NAMES = (
    *(f"lattice_{what} {method}" for method in METHODS for what in ("build", "filter")),
    "lattice_filter of a transpose",
    "image_features",
    "image_features_grad",
    "image_features_grad without an image",
    "lattice_features_grad",
    "lattice_filter_values_grad",
    "lattice_filter_weights_grad",
    "grid_filter",
    "grid_filter_values_grad",
    "grid_filter_sigma_grad",
    *(f"{kind}_norm{what}{mask}" for mask in ("", " with a mask") for kind, what in NORMS),
    *(f"mean_field{what} {recompute}" for recompute in (0, 1, -1) for what in ("", "_backward")),
    "mean_field, nothing kept",
    "mean_field without kernels",
)


@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name):
    op, args = checks(torch.float32)[name]
    torch.library.opcheck(op, args)


def test_opcheck_covers_every_operator():
    assert tuple(checks(torch.float32)) == NAMES
    ops = {op for op, _ in checks(torch.float32).values()}
    all_of_them = [op for module in (_ops, _features_ops, _mean_field_ops) for op in vars(module).values()]
    assert ops == {op for op in all_of_them if isinstance(op, torch.library.CustomOpDef)}
    assert len(ops) == 16


def fake_of(args, device):
    if isinstance(args, torch.Tensor):
        return torch.empty(args.shape, dtype=args.dtype, device=device)
    return type(args)(fake_of(a, device) for a in args) if isinstance(args, (list, tuple)) else args


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_fake_tensors(device, dtype):
    for op, args in checks(dtype).values():
        real = op(*args)
        with FakeTensorMode(shape_env=ShapeEnv()), torch.no_grad():
            fake = op(*fake_of(args, device))
        pair = [out if isinstance(out, (list, tuple)) else [out] for out in (real, fake)]
        if op is _ops.lattice_build and device == "cuda":  # index arrays of its own
            assert len(pair[0]) == len(pair[1])
            pair = [out[:1] for out in pair]
        for r, f in zip(*pair, strict=True):
            assert f.device.type == device
            assert f.dtype == r.dtype
            assert f.ndim == r.ndim
            for a, b in zip(r.shape, f.shape, strict=True):
                assert not isinstance(b, int) or a == b  # sizes that only the data knows are symbols


def test_nothing_is_changed_or_shared():
    for op, args in checks(torch.float64).values():
        flat = [t for a in args for t in (a if isinstance(a, list) else [a]) if isinstance(t, torch.Tensor)]
        before = [t.detach().clone() for t in flat]
        out = op(*args)
        for t in out if isinstance(out, (list, tuple)) else [out]:
            if not t.numel():
                continue
            assert t.data_ptr() not in [a.data_ptr() for a in flat]
            with torch.no_grad():
                t.zero_()
        for a, b in zip(flat, before, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@pytest.mark.parametrize("recompute", [1, -1])
def test_gradients_that_are_not_finite_go_through(bad, recompute):
    # Loss scaling overflows at first, finds inf or NaN in the gradients, and tries again with a smaller scale.
    problem = Problem(images=1)
    leaves = problem.leaves()
    out = problem.run(*leaves, recompute=recompute)
    grads = torch.autograd.grad(out, leaves, torch.full_like(out, bad))
    assert all(g.shape == t.shape and g.isnan().all() for g, t in zip(grads, leaves, strict=True))
    features, sigma, values = points(1, 12, 3), positive(2), random(1, 2, 12)
    weights, index = built(features, "tuned")
    for out in (_ops.lattice_filter(values, weights, index, "tuned", False), _ops.grid_filter(values, sigma, [3, 4])):
        assert torch.autograd.grad(out, values, torch.full_like(out, bad))[0].isnan().all()
    mask = (random(1, 12, grad=False) > 0).double()
    weights.requires_grad_()
    for out, leaf in (
        (_ops.lattice_norm(weights, index, mask, "tuned", -0.5), weights),
        (_ops.grid_norm(sigma, mask, [3, 4], -1.0), sigma),
    ):
        assert torch.autograd.grad(out, leaf, torch.full_like(out, bad))[0].isnan().all()


def second(function, *inputs):
    first = torch.autograd.grad(function(*inputs).square().sum(), inputs, create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in first), inputs)


def test_second_derivatives_are_refused():
    # There is an error, not a wrong number.
    weights, index = built(points(2, 9, 3), "tuned")
    values, sigma = random(2, 2, 9), positive(2)
    problem = Problem()
    for function, *inputs in (
        (lambda v, w: _ops.lattice_filter(v, w, index, "tuned", False), values, weights.requires_grad_()),
        (lambda v, s: _ops.grid_filter(v, s, [3, 3]), values, sigma),
        (lambda w: _ops.lattice_norm(w, index, NONE.double(), "tuned", -1.0), weights.requires_grad_()),
        (lambda s: _ops.grid_norm(s, NONE.double(), [3, 3], -1.0), sigma),
        (lambda f: _ops.lattice_build(f, "tuned")[0], points(2, 9, 3)),
        (problem.run, *problem.leaves()),
    ):
        with pytest.raises(RuntimeError, match="no autograd formula was registered"):
            second(function, *inputs)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(bad):
    features, values = points(2, 20, 3).detach(), random(2, 4, 20, grad=False)
    weights, index = built(features, "tuned")
    spoilt = values.clone()
    spoilt[1, 2, 13] = bad
    with pytest.raises(ValueError, match="values: must be finite, got NaN or inf"):
        _ops.lattice_filter(spoilt, weights, index, "tuned", False)
    with pytest.raises(ValueError, match="values: must be finite, got NaN or inf"):
        _ops.grid_filter(spoilt, torch.tensor([1.0, 2.0]), [4, 5])
    features[1, 13, 2] = bad
    with pytest.raises(ValueError, match="features: must be finite, got NaN or inf"):
        _ops.lattice_build(features, "tuned")
    problem = Problem()
    with torch.no_grad():
        problem.logits[0, 1, 2] = bad
    with pytest.raises(ValueError, match="logits: must be finite, got NaN or inf"):
        problem.run(*problem.leaves())


def test_too_wide_features_are_named():
    with pytest.raises(ValueError, match=r"features: must span fewer than about 2\^40 lattice cells"):
        _ops.lattice_build(points(1, 5, 3).detach() * 1e15, "tuned")


def test_numerics_of_the_lattice_are_those_of_the_method():
    # Blur and scale of an operator come from the method's name and the points of one image, not of the batch.
    features = points(2, 6, 3).detach()
    for method in METHODS:
        weights, index = built(features, method)
        how = numerics.METHODS[method](3, 6)
        alone = Lattice(features[0].numpy(), dtype="float64", numerics=how)
        np.testing.assert_allclose(weights[0].numpy(), alone.weights, rtol=1e-12, atol=1e-12)
        found = _ops.lattice_filter(torch.ones(2, 1, 6, dtype=torch.float64), weights, index, method, False)
        np.testing.assert_allclose(found[0, 0].numpy(), alone.filter(np.ones(6)), rtol=1e-12)
