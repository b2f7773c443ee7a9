"""The layers and their functional forms: against finite differences, the NumPy engine, and published equations."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import densecrf  # noqa: E402
import densecrf.nn as dnn  # noqa: E402
from densecrf import Bilateral, Custom, Gaussian  # noqa: E402
from densecrf.nn import Features  # noqa: E402
from densecrf.nn import functional as F  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

METHODS = ("tuned", "classic")
NORMALIZATIONS = ("symmetric", "after", "before", "none")
KERNELS = (Gaussian(1.3, weight=0.8), Bilateral(4.0, 25.0, weight=1.4))


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def logits_of(images, labels, shape, seed=1, dtype=torch.float32):
    return 1.5 * random(images, labels, *shape, seed=seed, dtype=dtype)


def image_of(images, shape, channels=3, seed=2, dtype=torch.float32):
    """Patches of two colours with noise: no two colours are equal, and no point lies on a wall of the lattice."""
    patches = sum(torch.sin(i / (2.0 + axis)) for axis, i in enumerate(torch.from_numpy(np.indices(shape)) + 0.5))
    tints = 30 + 20 * torch.arange(channels).view(-1, *[1] * len(shape))
    return (128 + tints * patches.sign() + 12 * random(images, channels, *shape, seed=seed)).to(dtype)


def mask_of(images, shape, seed=3):
    mask = random(images, *shape, seed=seed) > -0.7
    assert not mask.all() and mask.flatten(1).any(dim=1).all()
    return mask


def layer_of(labels=3, kernels=KERNELS, seed=7, **options):
    """A layer whose parameters are nowhere special."""
    torch.manual_seed(0)
    layer = dnn.DenseCRF(labels, kernels, **options)
    with torch.no_grad():
        for k, parameter in enumerate(layer.parameters()):
            parameter += 0.3 * random(*parameter.shape, seed=seed + k)
    return layer


def call(layer, inputs):
    return layer(**{name: value for name, value in inputs.items() if value is not None})


def tensors_of(layer, inputs):
    """What has a gradient: the floating inputs and the parameters, by name."""
    found = {name: t for name, t in inputs.items() if isinstance(t, torch.Tensor) and t.is_floating_point()}
    return found, dict(layer.named_parameters())


def sure(layer, inputs, fast=True):
    """Gradients of everything that goes in are those of finite differences."""
    layer = layer.double()
    floats, parameters = tensors_of(layer, inputs)
    leaves = [t.detach().double().requires_grad_() for t in (*floats.values(), *parameters.values())]

    def run(*given):
        now = dict(inputs) | dict(zip(floats, given, strict=False))
        own = dict(zip(parameters, given[len(floats) :], strict=True))
        return torch.func.functional_call(layer, own, kwargs={k: v for k, v in now.items() if v is not None})

    assert torch.autograd.gradcheck(run, leaves, eps=1e-6, atol=1e-7, rtol=1e-6, fast_mode=fast)


def gradients(layer, inputs, seed=9):
    """Output, and the gradients of floating inputs and parameters under random weights of the output."""
    floats, parameters = tensors_of(layer, inputs)
    leaves = {name: t.detach().clone().requires_grad_() for name, t in floats.items()}
    out = call(layer, inputs | leaves)
    wanted = [*leaves.values(), *parameters.values()]
    found = torch.autograd.grad((out * random(*out.shape, seed=seed, dtype=out.dtype)).sum(), wanted)
    return out.detach(), dict(zip([*leaves, *parameters], found, strict=True))


def close(found, expected, tolerance):
    """Equal to a tolerance relative to the largest value."""
    if isinstance(found, dict):
        assert found.keys() == expected.keys()
        for name in found:
            close(found[name], expected[name], tolerance)
        return
    found, expected = (t.detach().numpy() if isinstance(t, torch.Tensor) else t for t in (found, expected))
    assert found.shape == expected.shape
    error = np.abs(found - expected).max()
    assert error <= tolerance * max(1e-2, np.abs(expected).max()), f"{error:.2g} of {np.abs(expected).max():.2g}"


# ---- gradients -----------------------------------------------------------------------------------------------


def problem(images=2, labels=3, shape=(3, 5), channels=3, masked=False):
    return {
        "logits": logits_of(images, labels, shape),
        "image": image_of(images, shape, channels),
        "mask": mask_of(images, shape) if masked else None,
    }


@pytest.mark.parametrize("compatibility", ["potts", "vector", "matrix"])
@pytest.mark.parametrize("weights", ["scalar", "label", "matrix"])
def test_gradients_of_every_form(weights, compatibility):
    for method in METHODS:
        how = {"weights": weights, "compatibility": compatibility, "method": method, "learn_bandwidths": True}
        sure(layer_of(iterations=3, **how), problem())


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_every_normalization(method, normalization):
    how = {"weights": "matrix", "compatibility": "matrix", "learn_bandwidths": True}
    layer = layer_of(2, iterations=2, method=method, normalization=normalization, **how)
    sure(layer, problem(1, 2, (2, 3)), fast=False)
    sure(layer, problem(3, 2, (4, 3), masked=True))


# The last: nodes of the spatial grid that are coarser than pixels.
SHAPES = [((7,), 1.3), ((3, 5), 1.3), ((2, 3, 3), 1.3), ((1, 1), 1.3), ((35, 2), 3.4), ((2, 41), 12.9)]


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("shape, sxy", SHAPES)
@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_every_shape(method, shape, sxy, images):
    kernels = [Gaussian(sxy), Bilateral(tuple(3.0 + k for k in range(len(shape))), (20.0, 30.0))]
    layer = layer_of(2, kernels, iterations=2, learn_bandwidths=True, method=method, weights="label")
    sure(layer, problem(images, 2, shape, channels=2))


@pytest.mark.parametrize("recompute", [True, False, None])
@pytest.mark.parametrize("iterations", [0, 1, 2, 7])
def test_gradients_of_every_number_of_iterations(iterations, recompute):
    layer = layer_of(iterations=iterations, recompute=recompute, learn_bandwidths=True, weights="label")
    if iterations:
        sure(layer, problem())
    else:
        inputs = problem()
        inputs["logits"].requires_grad_()
        out = call(layer, inputs)
        close(out, inputs["logits"], 1e-6)
        out.sum().backward()
        assert (inputs["logits"].grad == 1).all()


@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_features(method):
    kernels = [Features((0.9, 1.4), normalization="after"), Gaussian(1.1, normalization="before"), Features(1.2)]
    inputs = {"logits": logits_of(2, 3, (3, 5))}
    first, second = random(2, 2, 3, 5, seed=4), random(2, 6, 3, 5, seed=5)
    layer = layer_of(3, kernels, iterations=2, learn_bandwidths=True, method=method)

    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, logits, first, second):
            return self.layer(logits, features=[first, second])

    sure(Two(), inputs | {"first": first, "second": second})
    sure(layer_of(3, kernels[:2], iterations=2, learn_bandwidths=True), inputs | {"features": first}, fast=False)


@pytest.mark.parametrize("output", ["logits", "probs", "log_probs"])
@pytest.mark.parametrize("labels", [1, 3])
def test_gradients_of_every_output(labels, output):
    sure(layer_of(labels, iterations=2, output=output, weights="matrix"), problem(1, labels))


def test_gradients_with_spacing():
    layer = layer_of(iterations=2, spacing=(3.0, 0.8), learn_bandwidths=True)
    sure(layer, problem())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_of_crfasrnn(masked, method):
    layer = dnn.CRFasRNN(3, 3, alpha=4.0, beta=25.0, gamma=1.7, method=method)
    with torch.no_grad():
        for k, parameter in enumerate(layer.parameters()):
            parameter.copy_(random(3, 3, seed=k))
    sure(layer, problem(masked=masked))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_lattice_filter(method, normalization):
    layer = dnn.LatticeFilter((0.8, 1.2), learn_bandwidth=True, method=method, normalization=normalization)
    inputs = {"values": random(2, 3, 3, 4), "features": random(2, 2, 3, 4, seed=1)}
    sure(layer, inputs)
    sure(layer, inputs | {"mask": mask_of(2, (3, 4))}, fast=False)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_spatial_filter(method, normalization):
    values, sigma = random(2, 3, 3, 4, dtype=torch.float64), torch.tensor([1.3, 2.2], dtype=torch.float64)
    for mask in (None, mask_of(2, (3, 4))):
        how = {"method": method, "normalization": normalization, "mask": mask}

        def run(values, sigma, how=how):
            return F.spatial_filter(values, sigma, **how)

        leaves = values.requires_grad_(), sigma.requires_grad_()
        assert torch.autograd.gradcheck(run, leaves, eps=1e-6, atol=1e-7, rtol=1e-6)


# ---- the NumPy engine ----------------------------------------------------------------------------------------


def numpy_kernels(layer, features, b):
    """The layer's kernels with what it has learned, for `densecrf.refine`."""
    left = iter(features)
    for k, kernel in enumerate(layer.kernels):
        names = [n for n in ("sxy", "srgb", "bandwidth") if hasattr(kernel, n)]
        logs = {n: getattr(layer, f"log_{n}_{k}") for n in names}
        learned = {n: getattr(kernel, n) if logs[n] is None else tuple(logs[n].exp().tolist()) for n in names}
        weight = getattr(layer, f"weight_{k}").detach().numpy()
        how = {"weight": weight.item() if weight.ndim == 0 else weight, "normalization": kernel.normalization}
        if isinstance(kernel, Features):
            points = np.moveaxis(next(left)[b].numpy(), 0, -1) / np.asarray(learned["bandwidth"])
            yield Custom(points, **how)
        else:
            yield type(kernel)(**learned, **how)


def numpy_probs(layer, logits, image=None, features=(), mask=None, dtype="float32"):
    out = []
    compatibility = "potts" if layer.compatibility is None else layer.compatibility.detach().numpy()
    for b in range(len(logits)):
        found = densecrf.refine(
            None if image is None else np.moveaxis(image[b].numpy(), 0, -1),
            logits=logits[b].numpy(),
            kernels=list(numpy_kernels(layer, features, b)),
            compatibility=compatibility,
            normalization=layer.normalization,
            method=layer.method,
            iterations=layer.iterations,
            mask=None if mask is None else mask[b].numpy(),
            spacing=layer.spacing,
            dtype=dtype,
            num_threads=1,
        )
        out.append(found.probs)
    return np.stack(out)


SETTINGS = {
    "default": {"kernels": None},
    **{f"{m} {n}": {"method": m, "normalization": n} for m in METHODS for n in NORMALIZATIONS},
    **{
        f"{w} {c}": {"weights": w, "compatibility": c}
        for w in ("scalar", "label", "matrix")
        for c in ("potts", "vector", "matrix")
    },
    "classic matrices": {"weights": "matrix", "compatibility": "matrix", "method": "classic"},
    "one kernel": {"kernels": [Bilateral((3.0, 5.0), (20.0, 30.0, 25.0))]},
    "own normalizations": {"kernels": [Gaussian(2.0, 1.0, "after"), Bilateral(4.0, 25.0, 1.0, "none")]},
    "coarse grid": {"kernels": [Gaussian(7.3)], "shape": (40, 37)},
    "coarse classic": {"kernels": [Gaussian(7.3)], "shape": (40, 37), "method": "classic"},
    "learned": {"learn_bandwidths": True},
    "spacing": {"spacing": (2.5, 0.7)},
    "two labels": {"labels": 2},
    "many labels": {"labels": 37},
    "no iterations": {"iterations": 0},
    "eleven iterations": {"iterations": 11},
    "masked": {"masked": True},
    "masked classic": {"masked": True, "method": "classic", "normalization": "after"},
    "masked matrices": {"masked": True, "weights": "matrix", "compatibility": "matrix", "normalization": "before"},
    "volume": {"shape": (4, 7, 6), "masked": True},
    "volume, spacing": {"shape": (4, 7, 6), "spacing": (3.0, 1.0, 1.0), "method": "classic"},
    "line": {"shape": (61,)},
    "one pixel": {"shape": (1, 1)},
    "grey": {"channels": 1},
    "five channels": {"channels": 5},
    "no kernels": {"kernels": []},
    "features": {"kernels": [*KERNELS, Features(1.4, 2.0)], "features": 3},
    "features alone": {"kernels": [Features((0.7, 1.2, 2.0, 1.0), 2.0)], "features": 4, "masked": True},
}


def setting(name, dtype=torch.float32):
    how = {"labels": 4, "iterations": 4, "kernels": KERNELS} | SETTINGS[name]
    shape, channels, masked, d = (how.pop(k, v) for k, v in SETTING_DEFAULTS.items())
    layer = layer_of(**how).to(dtype)
    inputs = {
        "logits": logits_of(2, how["labels"], shape, dtype=dtype),
        "image": image_of(2, shape, channels, dtype=dtype) if how["kernels"] != [] else None,
        "mask": mask_of(2, shape) if masked else None,
        "features": random(2, d, *shape, seed=8, dtype=dtype) if d else None,
    }
    return layer, inputs


SETTING_DEFAULTS = {"shape": (9, 11), "channels": 3, "masked": False, "features": 0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", SETTINGS)
def test_layer_is_the_numpy_engine(name, dtype):
    layer, inputs = setting(name, dtype)
    with torch.no_grad():
        found = call(layer, inputs)
    assert found.dtype == dtype
    features = [inputs.pop("features")]
    expected = numpy_probs(layer, **inputs, features=features, dtype=str(dtype)[6:])
    close(found.softmax(dim=1), expected, 1e-5 if dtype == torch.float32 else 1e-9)
    if layer.iterations and inputs["logits"][0, 0].numel() > 1 and layer.kernels:
        assert (found.softmax(dim=1) - inputs["logits"].softmax(dim=1)).abs().max() > 0.02


def test_uint8_images():
    image = image_of(2, (9, 11)).clamp(0, 255).byte()
    layer, logits = layer_of(), logits_of(2, 3, (9, 11))
    expected = numpy_probs(layer, logits, image)
    close(layer(logits, image).softmax(dim=1), expected, 1e-5)
    assert torch.equal(layer(logits, image), layer(logits, image.float()))


# ---- composed step by step -----------------------------------------------------------------------------------


def apart(values, count):
    """One value per axis, as a tensor with a gradient where there is one."""
    return (
        values.expand(count)
        if isinstance(values, torch.Tensor)
        else torch.tensor(values, dtype=torch.float64).expand(count)
    )


class Composed(torch.nn.Module):
    """`DenseCRF` in plain PyTorch: features, norms and updates as the README has them, and only K itself borrowed."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def bandwidth(self, k, name, count, dtype):
        learned = getattr(self.layer, f"log_{name}_{k}")
        value = getattr(self.layer.kernels[k], name) if learned is None else learned.exp()
        return apart(value, count).to(dtype)

    def kernel(self, k, logits, image, features):
        """The filter of kernel k, without norms, on ``[B, C, *spatial]``."""
        kernel, shape = self.layer.kernels[k], logits.shape[2:]
        if isinstance(kernel, Features):
            points = features / self.bandwidth(k, "bandwidth", features.shape[1], logits.dtype).view(
                1, -1, *[1] * len(shape)
            )
            return lambda v: F.lattice_filter(v, points, method=self.layer.method)
        spacing = torch.tensor(1.0 if self.layer.spacing is None else self.layer.spacing, dtype=logits.dtype)
        sigma = self.bandwidth(k, "sxy", len(shape), logits.dtype) / spacing
        if isinstance(kernel, Gaussian):
            return lambda v: F.spatial_filter(v, sigma, method=self.layer.method)
        grid = [i / s for i, s in zip(torch.from_numpy(np.indices(shape)), sigma, strict=True)][::-1]
        places = torch.stack([g.to(logits.dtype) for g in grid]).expand(len(logits), *[-1] * (len(shape) + 1))
        srgb = self.bandwidth(k, "srgb", image.shape[1], logits.dtype).view(1, -1, *[1] * len(shape))
        points = torch.cat([places, image / srgb], dim=1)
        return lambda v: F.lattice_filter(v, points, method=self.layer.method)

    def norms(self, k, K, logits):
        D = K(torch.ones_like(logits[:, :1]))
        one = torch.ones_like(D)
        name = self.layer.kernels[k].normalization or self.layer.normalization
        inner = {"symmetric": D**-0.5, "after": one, "before": 1 / D, "none": one}[name]
        outer = {"symmetric": D**-0.5, "after": 1 / D, "before": one, "none": one}[name]
        return inner, outer

    def coupled(self, k, message):
        """-mu W message, as matrices."""
        labels = message.shape[1]
        eye = torch.eye(labels, dtype=message.dtype)
        mu, W = self.layer.compatibility, getattr(self.layer, f"weight_{k}")
        mu = -eye if mu is None else torch.diag(mu) if mu.ndim == 1 else mu
        W = W * eye if W.ndim == 0 else torch.diag(W) if W.ndim == 1 else W
        return torch.einsum("ab,bc,xc...->xa...", -mu, W, message)

    def forward(self, logits, image=None, features=None):
        kernels = range(len(self.layer.kernels))
        K = [self.kernel(k, logits, image, features) for k in kernels]
        norms = [self.norms(k, K[k], logits) for k in kernels]
        z = logits
        for _ in range(self.layer.iterations):
            q = z.softmax(dim=1)
            z = logits + sum(self.coupled(k, norms[k][1] * K[k](norms[k][0] * q)) for k in kernels)
        return z


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("name", [n for n, s in SETTINGS.items() if not s.get("masked") and s.get("kernels") != []])
def test_layer_is_the_composition(name, learn):
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        layer, inputs = setting(name, dtype)
        if learn:
            how = {"labels": 4, "iterations": 4, "kernels": KERNELS} | SETTINGS[name] | {"learn_bandwidths": True}
            layer = layer_of(**{k: v for k, v in how.items() if k not in SETTING_DEFAULTS}).to(dtype)
        del inputs["mask"]
        if layer.iterations == 0:
            close(call(layer, inputs), inputs["logits"], tolerance)
            continue
        if all(isinstance(kernel, (Gaussian, Features)) for kernel in layer.kernels):
            inputs["image"] = None
        out, found = gradients(layer, inputs)
        wanted, expected = gradients(Composed(layer), inputs)
        close(out, wanted, tolerance)
        # (Gradients of bandwidths are small sums of large terms.)
        close({f"layer.{k}" if k not in inputs else k: v for k, v in found.items()}, expected, 5 * tolerance)


@pytest.mark.parametrize("name", ["default", "masked classic", "matrix matrix", "coarse grid", "volume", "features"])
def test_recompute_changes_nothing(name):
    layer, inputs = setting(name, torch.float64)
    for iterations in (1, 2, 3, 4, 8):
        layer.iterations = iterations
        results = []
        for layer.recompute in (True, False, None):
            results.append(
                gradients(
                    layer,
                    {k: v for k, v in inputs.items() if v is not None and k != "image"}
                    | {k: v for k, v in inputs.items() if k == "image" and name != "coarse grid"},
                )
            )
        for out, found in results[1:]:
            close(out, results[0][0], 1e-12)
            close(found, results[0][1], 1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_functions_are_the_layers(method):
    kernels = [*KERNELS, Features((0.8, 1.3), 2.0)]
    inputs = problem(masked=True) | {"features": random(2, 2, 3, 5, seed=8)}
    how = {"normalization": "after", "method": method, "spacing": (2.0, 1.0)}
    layer = layer_of(3, kernels, iterations=4, weights="matrix", compatibility="matrix", learn_bandwidths=True, **how)

    class Function(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, logits, image, features, mask):
            own = dict(layer.named_parameters())
            return F.dense_crf(
                logits,
                image,
                kernels=kernels,
                weights=[own[f"weight_{k}"] for k in range(3)],
                bandwidths=[
                    {name: own[f"log_{name}_{k}"].exp() for name in names}
                    for k, names in enumerate((("sxy",), ("sxy", "srgb"), ("bandwidth",)))
                ],
                compatibility=own["compatibility"],
                features=features,
                mask=mask,
                iterations=4,
                **how,
            )

    out, found = gradients(Function(), inputs)
    wanted, expected = gradients(layer, inputs)
    close(out, wanted, 1e-6)
    close({k.removeprefix("layer."): v for k, v in found.items()}, expected, 1e-5)
    # Without any of these: the kernels' own numbers, and Potts.
    plain = F.dense_crf(**inputs, kernels=kernels, **how)
    close(plain, call(dnn.DenseCRF(3, kernels, **how), inputs), 1e-6)
    vector = Gaussian(1.3, weight=[1.0, 2.0, 3.0])
    close(
        F.dense_crf(inputs["logits"], kernels=[vector]),
        call(dnn.DenseCRF(3, [vector], weights="label"), {"logits": inputs["logits"]}),
        1e-6,
    )


def test_crf_as_rnn_is_the_layer():
    layer = dnn.CRFasRNN(3, 4, alpha=4.0, beta=25.0, gamma=1.7)
    matrices = [random(3, 3, seed=k) for k in range(3)]
    layer.load_state_dict(dict(zip(layer.state_dict(), matrices, strict=True)))
    inputs = problem(masked=True)
    how = {"alpha": 4.0, "beta": 25.0, "gamma": 1.7, "iterations": 4}
    found = F.crf_as_rnn(inputs["logits"], inputs["image"], *matrices, mask=inputs["mask"], **how)
    close(found, call(layer, inputs), 1e-6)


def test_parameters_start_where_the_kernels_say():
    kernels = [Gaussian((2.0, 3.0), weight=[1.0, 2.0, 3.0]), Bilateral(50, 4, weight=5), Features((1.0, 0.5))]
    for weights, first in (("label", [1.0, 2.0, 3.0]), ("matrix", np.diag([1.0, 2.0, 3.0]))):
        layer = dnn.DenseCRF(3, kernels, weights=weights, compatibility="matrix", learn_bandwidths=True)
        np.testing.assert_array_equal(layer.weight_0.detach(), first)
        assert torch.equal(layer.compatibility, -torch.eye(3))
        assert layer.weight_1.shape == layer.weight_0.shape
    for name, value in {"sxy_0": (2, 3), "sxy_1": (50,), "srgb_1": (4,), "bandwidth_2": (1, 0.5)}.items():
        np.testing.assert_allclose(getattr(layer, f"log_{name}").detach().exp(), value, rtol=1e-6)
    plain = dnn.DenseCRF(3, compatibility="vector")
    assert [n for n, _ in plain.named_parameters()] == ["weight_0", "weight_1", "compatibility"]
    assert (plain.weight_0.item(), plain.weight_1.item()) == (3, 5)
    assert torch.equal(plain.compatibility, -torch.ones(3))


@pytest.mark.parametrize("weights", ["scalar", "label", "matrix"])
def test_forms_start_equal(weights):
    inputs = problem(shape=(7, 6))
    expected = call(dnn.DenseCRF(3), inputs)
    for compatibility in ("potts", "vector", "matrix"):
        close(call(dnn.DenseCRF(3, weights=weights, compatibility=compatibility), inputs), expected, 1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_one_channel_is_two_labels(method):
    one = layer_of(1, output="logits", method=method, weights="matrix", compatibility="matrix")
    two = layer_of(2, output="logits", method=method, weights="matrix", compatibility="matrix")
    logits, image = logits_of(2, 1, (7, 9)), image_of(2, (7, 9))
    both = two(torch.cat([torch.zeros_like(logits), logits], dim=1), image)
    close(one(logits, image), both[:, 1:] - both[:, :1], 1e-5)
    for output, expected in (("probs", both.softmax(1)[:, 1:]), ("log_probs", both.log_softmax(1)[:, 1:])):
        one.output = output
        close(one(logits, image), expected, 1e-5)
        two.output = output
        found = two(torch.cat([torch.zeros_like(logits), logits], dim=1), image)
        close(found[:, 1:], expected, 1e-5)
    # And their gradients: binary cross entropy on one is cross entropy on two.
    one.output = two.output = "logits"
    truth = (random(2, 7, 9, seed=6) > 0).float()
    z = logits.clone().requires_grad_()
    torch.nn.functional.binary_cross_entropy_with_logits(one(z, image)[:, 0], truth).backward()
    pair = torch.cat([torch.zeros_like(logits), logits], dim=1).requires_grad_()
    torch.nn.functional.cross_entropy(two(pair, image), truth.long()).backward()
    close(z.grad, pair.grad[:, 1:], 1e-6)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        close(a.grad, b.grad, 1e-5)


# ---- batches and images of different sizes -------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("threads", [1, 3, 8])  # side by side: four; three, then one on three; four on two each
@pytest.mark.parametrize("shape", [(9, 7), (3, 5, 4), (33,)])
def test_a_batch_is_its_images(shape, threads, method):
    how = {"learn_bandwidths": True, "weights": "label", "normalization": "after", "method": method}
    layer = layer_of(3, [*KERNELS, Features(1.3)], **how)
    inputs = {
        "logits": logits_of(4, 3, shape),
        "image": image_of(4, shape),
        "features": random(4, 2, *shape, seed=8),
        "mask": mask_of(4, shape),
    }
    inputs["image"][1:] += 40 * random(3, 3, *shape, seed=5)  # images unlike each other
    for leave_out in ((), ("mask",)):
        given = {k: v for k, v in inputs.items() if k not in leave_out}
        torch.set_num_threads(threads)
        out, found = gradients(layer, given)
        torch.set_num_threads(1)
        weights = random(*out.shape, seed=9)
        total = {}
        for b in range(4):
            leaves = {k: v[b : b + 1].clone() for k, v in given.items()}
            floats = {k: v.requires_grad_() for k, v in leaves.items() if v.is_floating_point()}
            single = layer(**leaves)
            close(single, out[b : b + 1], 1e-5)
            wanted = [*floats.values(), *layer.parameters()]
            grads = torch.autograd.grad((single * weights[b : b + 1]).sum(), wanted)
            for name, grad in zip(floats, grads, strict=False):
                close(grad, found[name][b : b + 1], 1e-5)
            for (name, _), grad in zip(layer.named_parameters(), grads[len(floats) :], strict=True):
                total[name] = total.get(name, 0) + grad
        for name, grad in total.items():
            close(found[name], grad, 2e-4)  # small sums of large terms


SIZES, FULL = ((8, 10), (12, 6), (5, 11), (12, 11)), (12, 11)


def padded(tensor, size, value):
    found = tensor.new_full((*tensor.shape[:2], *size), value)
    found[..., : tensor.shape[2], : tensor.shape[3]] = tensor
    return found


def of_different_sizes(fill):
    """Images of several sizes one by one, then padded to one size, and the mask of what is not padding."""
    logits = [logits_of(1, 3, size, seed=20 + k) for k, size in enumerate(SIZES)]
    images = [image_of(1, size, seed=30 + k) for k, size in enumerate(SIZES)]
    mask = torch.cat([padded(torch.ones(1, 1, *size), FULL, 0.0) for size in SIZES])[:, 0].bool()
    z, pixels = (torch.cat([padded(t, FULL, value) for t in ts]) for ts, value in ((logits, 0.3), (images, fill)))
    leaves = [t.requires_grad_() for t in (*logits, *images, z, pixels)]
    return leaves[:4], leaves[4:8], *leaves[8:], mask


@pytest.mark.parametrize("fill", [0.0, 77.0, float("nan")])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("method", METHODS)
def test_a_mask_makes_images_of_different_sizes(method, normalization, fill):
    # Classic pads to a multiple of four points with the zero feature; here pixel (0, 0) is near enough to it.
    layer = layer_of(iterations=4, method=method, normalization=normalization, weights="label")
    logits, images, z, pixels, mask = of_different_sizes(fill)
    out, weights = layer(z, pixels, mask=mask), random(4, 3, *FULL, seed=9)
    (out * weights * mask.unsqueeze(1)).sum().backward()
    outside = ~mask.unsqueeze(1).expand_as(out)
    close(out[outside], z[outside], 1e-6)
    for t in (z, pixels):
        assert (t.grad[outside] == 0).all()
    for b, (h, w) in enumerate(SIZES):
        single = layer(logits[b], images[b])
        close(out[b : b + 1, :, :h, :w], single, 1e-4)
        (single * weights[b : b + 1, :, :h, :w]).sum().backward()
        close(z.grad[b : b + 1, :, :h, :w], logits[b].grad, 1e-4)
        close(pixels.grad[b : b + 1, :, :h, :w], images[b].grad, 1e-4)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("method", METHODS)
def test_parameters_learn_the_same_from_padded_images(method, normalization):
    how = {"weights": "label", "compatibility": "matrix", "learn_bandwidths": True}
    layer = layer_of(method=method, normalization=normalization, **how)
    logits, images, z, pixels, mask = of_different_sizes(77.0)
    weights = random(4, 3, *FULL, seed=9)
    (layer(z, pixels, mask=mask) * weights * mask.unsqueeze(1)).sum().backward()
    found = {name: p.grad for name, p in layer.named_parameters()}
    layer.zero_grad()
    for b, (h, w) in enumerate(SIZES):
        (layer(logits[b], images[b]) * weights[b : b + 1, :, :h, :w]).sum().backward()
    close(found, {name: p.grad for name, p in layer.named_parameters()}, 1e-4)


def test_nan_outside_of_the_mask_does_not_reach_the_bandwidths():
    layer = layer_of(learn_bandwidths=True)
    mask = mask_of(2, (5, 6))
    image = image_of(2, (5, 6))
    expected = gradients(layer, {"logits": logits_of(2, 3, (5, 6)), "image": image, "mask": mask})[1]
    image = torch.where(mask.unsqueeze(1), image, torch.nan)
    found = gradients(layer, {"logits": logits_of(2, 3, (5, 6)), "image": image, "mask": mask})[1]
    close(found["log_srgb_1"], expected["log_srgb_1"], 1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_full_mask_is_none_and_an_empty_one_leaves_all(method):
    layer, inputs = layer_of(method=method), problem(shape=(6, 7))
    for ones in (torch.ones(2, 6, 7), torch.ones(2, 1, 6, 7)):
        close(call(layer, inputs | {"mask": ones.bool()}), call(layer, inputs), 1e-5)
    nothing = torch.zeros(2, 6, 7).bool()
    close(call(layer, inputs | {"mask": nothing}), inputs["logits"], 1e-6)
    nothing[0] = True
    found = call(layer, inputs | {"mask": nothing})
    close(found[1], inputs["logits"][1], 1e-6)
    close(found[0], call(layer, inputs)[0], 1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_where_an_image_has_no_pixel(method):
    layer, inputs = layer_of(method=method), problem(shape=(6, 7))
    out, grads = gradients(layer, inputs | {"mask": torch.zeros(2, 6, 7).bool()})
    assert all(g.isfinite().all() for g in grads.values())
    assert all((g == 0).all() for name, g in grads.items() if name != "logits")


# ---- crfasrnn_pytorch ----------------------------------------------------------------------------------------


def softmax(z):
    e = np.exp(z - z.max(axis=0))
    return e / e.sum(axis=0)


def published_features(image, alpha, beta, gamma):
    """(x / gamma, y / gamma) and (x / alpha, y / alpha, rgb / beta) ``[n, d]`` of an image ``[3, H, W]``."""
    y, x = np.indices(image.shape[1:]).astype(np.float32)
    two = np.stack([x, y], axis=-1) / np.float32(gamma)
    five = np.concatenate([np.stack([x, y], axis=-1) / np.float32(alpha), np.moveaxis(image, 0, -1) / beta], axis=-1)
    return two.reshape(-1, 2), five.reshape(-1, 5)


def published(logits, image, matrices, filters, iterations, **bandwidths):
    """crfasrnn_pytorch's layer on one image, from its equations; a filter takes features, then values."""
    W_s, W_b, C = matrices
    K = [filters(features) for features in published_features(image, **bandwidths)]
    norms = [k(np.ones((1, image[0].size))) for k in K]
    z = u = logits.reshape(len(logits), -1).astype(float)
    for _ in range(iterations):
        q = softmax(z)
        z = u + C @ (W_s @ (K[0](q) / norms[0]) + W_b @ (K[1](q) / norms[1]))
    return z.reshape(logits.shape)


class Permutohedral:
    """Adams, Baek & Davis 2010 with dictionaries, in single precision as far as the simplex."""

    def __init__(self, features):
        n, d = features.shape
        more = np.zeros((-n % 4, d))  # whose vertices then carry the blur
        self.n, self.d, self.corners, self.weights = n, d, [], []
        vertices = {}
        for point in np.concatenate([features, more]).astype(np.float32):
            keys, weights = self.simplex(point)
            self.corners.append([vertices.setdefault(key, len(vertices)) for key in keys])
            self.weights.append(weights)
        self.vertices = vertices

    def simplex(self, point):
        d = self.d
        std = np.float32(np.sqrt(2 / 3) * (d + 1))
        scale = np.array([np.float32(1 / np.sqrt((i + 1) * (i + 2)) * std) for i in range(d)])
        y, rest = np.zeros(d + 1, np.float32), np.float32(0)
        for j in range(d, 0, -1):  # onto the plane where the coordinates sum to zero
            c = point[j - 1] * scale[j - 1]
            y[j] = rest - np.float32(j) * c
            rest = rest + c
        y[0] = rest
        nearest = np.rint(y * np.float32(1 / (d + 1)))  # the nearest point with coordinates that d + 1 divides
        zero = nearest * (d + 1)
        order = sorted(range(d + 1), key=lambda i: -(y - zero)[i])  # stable: of equals the first comes first
        rank = np.empty(d + 1, int)
        rank[order] = np.arange(d + 1)
        rank += int(nearest.sum())
        for i in range(d + 1):  # back onto the plane
            step = (d + 1) * ((rank[i] < 0) * 1 - (rank[i] > d) * 1)
            rank[i] += step
            zero[i] += step
        down = np.sort((y - zero) / np.float32(d + 1))[::-1]  # steps between walls, by rank
        by_rank = np.zeros(d + 1)
        by_rank[rank] = (y - zero) / np.float32(d + 1)
        assert np.allclose(down, by_rank, atol=1e-5)
        weights = np.empty(d + 1)
        weights[0] = 1 - (by_rank[0] - by_rank[d])
        for k in range(1, d + 1):
            weights[k] = by_rank[d - k] - by_rank[d - k + 1]
        keys = [
            tuple(int(zero[i]) + (k if rank[i] <= d - k else k - (d + 1)) for i in range(d + 1)) for k in range(d + 1)
        ]
        assert all(sum(key) == 0 for key in keys)
        return keys, weights

    def __call__(self, values):
        out = np.zeros((len(values), len(self.vertices)))
        for i in range(self.n):  # splat
            for corner, weight in zip(self.corners[i], self.weights[i], strict=True):
                out[:, corner] += weight * values[:, i]
        for axis in range(self.d + 1):  # blur
            now = out.copy()
            for key, here in self.vertices.items():
                for sign in (1, -1):
                    beside = tuple(c + sign * (1 - (self.d + 1) * (a == axis)) for a, c in enumerate(key))
                    if beside in self.vertices:
                        now[:, here] += 0.5 * out[:, self.vertices[beside]]
            out = now
        sliced = np.zeros((len(values), self.n))
        for i in range(self.n):  # slice
            for corner, weight in zip(self.corners[i], self.weights[i], strict=True):
                sliced[:, i] += weight * out[:, corner]
        return sliced / (1 + 2.0**-self.d)


def by_lattice(features):
    lattice = densecrf.Lattice(features, "classic", num_threads=1)
    return lambda values: lattice.filter(values).astype(float)


BANDWIDTHS = [(160.0, 3.0, 3.0), (7.0, 25.0, 2.7), (3.3, 11.0, 1.2)]


def rnn_of(labels, iterations, alpha, beta, gamma):
    layer = dnn.CRFasRNN(labels, iterations, eval_iterations=iterations, alpha=alpha, beta=beta, gamma=gamma)
    names = ("spatial_ker_weights", "bilateral_ker_weights", "compatibility_matrix")
    state = {name: 0.8 * random(labels, labels, seed=k) for k, name in enumerate(names)}
    layer.load_state_dict(state, strict=True)
    return layer, [matrix.numpy().astype(float) for matrix in state.values()]


@pytest.mark.parametrize("alpha, beta, gamma", BANDWIDTHS)
@pytest.mark.parametrize("iterations", [1, 5])
def test_crfasrnn_by_the_published_equations(iterations, alpha, beta, gamma):
    layer, matrices = rnn_of(4, iterations, alpha, beta, gamma)
    for shape in ((13, 16), (11, 9)):
        logits, image = logits_of(3, 4, shape), image_of(3, shape)
        found = layer(logits, image)
        for b in range(3):
            how = {"alpha": alpha, "beta": beta, "gamma": gamma}
            expected = published(logits[b].numpy(), image[b].numpy(), matrices, by_lattice, iterations, **how)
            close(found[b], expected, 1e-4)


@pytest.mark.parametrize("alpha, beta, gamma", BANDWIDTHS)
@pytest.mark.parametrize("shape", [(4, 5), (5, 5), (3, 6)])
def test_crfasrnn_by_a_lattice_of_dictionaries(shape, alpha, beta, gamma):
    layer, matrices = rnn_of(3, 3, alpha, beta, gamma)
    logits, image = logits_of(2, 3, shape), image_of(2, shape)
    found = layer(logits, image)
    for b in range(2):
        how = {"alpha": alpha, "beta": beta, "gamma": gamma}
        expected = published(logits[b].numpy(), image[b].numpy(), matrices, Permutohedral, 3, **how)
        close(found[b], expected, 1e-4)
    uncoupled = published(logits[0].numpy(), image[0].numpy(), [m.T for m in matrices], Permutohedral, 3, **how)
    assert np.abs(found[0].detach().numpy() - uncoupled).max() > 0.01  # random matrices are not symmetric


def test_crfasrnn_starts_as_published():
    layer = dnn.CRFasRNN(3)
    state = layer.state_dict()
    assert list(state) == ["spatial_ker_weights", "bilateral_ker_weights", "compatibility_matrix"]
    for name, factor in zip(state, (3, 5, 1), strict=True):
        assert torch.equal(state[name], factor * torch.eye(3))
    assert (layer.iterations, layer.eval_iterations) == (5, 10)
    assert (layer.alpha, layer.beta, layer.gamma) == (160, 3, 3)
    with pytest.raises(RuntimeError, match="Missing key"):
        layer.load_state_dict({k: v for k, v in list(state.items())[1:]}, strict=True)


# ---- filters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_lattice_filter_is_the_lattice(method):
    values, features = random(2, 3, 6, 7), random(2, 4, 6, 7, seed=1)
    K = [densecrf.Lattice(np.moveaxis(f.numpy(), 0, -1), method) for f in features]
    plain = np.stack([k.filter(v.numpy()) for k, v in zip(K, values, strict=True)])
    sums = np.stack([k.filter(np.ones((1, 6, 7))) for k in K])
    close(F.lattice_filter(values, features, method=method), plain, 1e-5)
    found = F.lattice_filter(values, features, method=method, normalization="after")
    close(found, plain / sums, 1e-5)
    close(dnn.LatticeFilter(method=method)(values, features), plain / sums, 1e-5)
    wide = dnn.LatticeFilter((0.5, 1.0, 2.0, 4.0), method=method, normalization="none")
    scaled = features * torch.tensor([0.5, 1, 2, 4]).view(1, 4, 1, 1)
    close(wide(values, scaled), plain, 1e-4)
    inner = np.stack([k.filter(v.numpy() / s) for k, v, s in zip(K, values, sums, strict=True)])
    close(F.lattice_filter(values, features, method=method, normalization="before"), inner, 1e-5)
    root = sums**-0.5
    inner = root * np.stack([k.filter(v.numpy() * r) for k, v, r in zip(K, values, root, strict=True)])
    close(F.lattice_filter(values, features, method=method, normalization="symmetric"), inner, 1e-5)


def test_spatial_filter_is_near_the_gaussian():
    values, sigma = random(1, 2, 9, 40), torch.tensor([1.5, 4.0])
    places = np.stack([i.ravel() / s for i, s in zip(np.indices((9, 40)), (1.5, 4.0), strict=True)], axis=-1)
    exact = densecrf.reference.filter(places, values[0].reshape(2, -1).numpy()).reshape(1, 2, 9, 40)
    for method, tolerance in (("tuned", 0.02), ("classic", 0.4)):
        close(F.spatial_filter(values, sigma, method=method), exact, tolerance)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_a_mask_is_a_filter_of_the_rest(normalization):
    values, features, mask = random(1, 3, 8, 8), random(1, 4, 8, 8, seed=1), mask_of(1, (8, 8))
    found = F.lattice_filter(values, features, normalization=normalization, mask=mask)
    assert (found[~mask.unsqueeze(1).expand_as(found)] == 0).all()
    few = F.lattice_filter(values[:, :, mask[0]], features[:, :, mask[0]], normalization=normalization)
    close(found[:, :, mask[0]], few, 1e-5)


def test_coupling():
    w, v, M, c, C = 2.0, random(3), random(3, 3, seed=1), random(3, seed=2), random(3, 3, seed=3)
    for weight in (torch.tensor(w), v, M):
        assert torch.equal(F.coupling(None, weight), weight)
    full = {"number": w * torch.eye(3), "vector": torch.diag(v), "matrix": M}
    given = {"number": torch.tensor(w), "vector": v, "matrix": M}
    for compatibility, mu in ((c, torch.diag(c)), (C, C)):
        for form, weight in given.items():
            found = F.coupling(compatibility, weight)
            close(torch.diag(found) if found.ndim == 1 else found, -mu @ full[form], 1e-6)


# ---- wrong arguments -----------------------------------------------------------------------------------------

X, IMAGE = random(2, 3, 5, 7), image_of(2, (5, 7))
MASK = torch.ones(2, 5, 7, dtype=torch.bool)
META = IMAGE.to("meta")
ONE = torch.tensor(1.0)


def crf(logits=X, image=IMAGE, features=None, mask=None, **options):
    return dnn.DenseCRF(options.pop("labels", 3), options.pop("kernels", KERNELS), **options)(
        logits, image, features, mask
    )


def deep(features=IMAGE / 30, **options):
    return crf(image=None, features=features, kernels=[Features()], **options)


def rnn(logits=X, image=IMAGE, mask=None, **options):
    return dnn.CRFasRNN(3, **options)(logits, image, mask)


def lattice_filter(values=X, features=IMAGE / 30, mask=None, **options):
    return dnn.LatticeFilter(**options)(values, features, mask)


def field(logits=X, term=None, coupling=ONE, **options):
    term = F.features_term(IMAGE / 30) if term is None else term
    return F.mean_field(logits, [term], [coupling], **options)


def spoilt(tensor, value):
    tensor = tensor.clone()
    tensor[1, 1, 2, 3] = value
    return tensor


LOGITS_DTYPE = "logits: must be float16, bfloat16, float32 or float64, got torch."
LOGITS_SHAPE = "logits: must have shape [B, L, *spatial] with 1 to 3 axes, got "
ONE_OF = "must be one of symmetric, after, before, none, got 'full'"
FINITE = "must be finite, got NaN or inf"
WRONG = {
    # logits
    "integer logits": (lambda: crf(X.long()), TypeError, LOGITS_DTYPE + "int64"),
    "complex logits": (lambda: crf(X + 0j), TypeError, LOGITS_DTYPE + "complex64"),
    "bool logits": (lambda: rnn(X > 0), TypeError, LOGITS_DTYPE + "bool"),
    "labels": (lambda: crf(X[:, :2]), ValueError, "logits: must have shape [B, 3, *spatial], got [2, 2, 5, 7]"),
    "rank 2": (lambda: crf(X[:, :, 0, 0]), ValueError, LOGITS_SHAPE + "[2, 3]"),
    "rank 6": (lambda: crf(X[..., None, None]), ValueError, LOGITS_SHAPE + "[2, 3, 5, 7, 1, 1]"),
    "no batch": (lambda: crf(X[0]), ValueError, "logits: must have shape [B, 3, *spatial], got [3, 5, 7]"),
    "NaN": (lambda: crf(spoilt(X, np.nan)), ValueError, "logits: " + FINITE),
    "inf": (lambda: crf(spoilt(X, np.inf)), ValueError, "logits: " + FINITE),
    "-inf": (lambda: rnn(spoilt(X, -np.inf)), ValueError, "logits: " + FINITE),
    "volume for crfasrnn": (lambda: rnn(X[..., None]), ValueError, "logits: must have shape [B, 3, H, W], got "),
    "labels for crfasrnn": (lambda: rnn(X[:, 1:]), ValueError, "logits: must have shape [B, 3, H, W], got "),
    # image
    "no image": (lambda: crf(image=None), ValueError, "image: must be given for a Bilateral kernel, got None"),
    "no image for crfasrnn": (lambda: rnn(image=None), ValueError, "image: must be given for a Bilateral ker"),
    "array": (lambda: crf(image=IMAGE.numpy()), TypeError, "image: must be a torch tensor, got ndarray"),
    "size": (lambda: crf(image=IMAGE[..., 1:]), ValueError, "image: must be of the logits' size [5, 7], got "),
    "a hint": (lambda: crf(image=IMAGE[..., 1:]), ValueError, "torch.nn.functional.interpolate(logits, image.shape"),
    "batch": (lambda: crf(image=IMAGE[:1]), ValueError, "image: must have shape [B, C, *spatial] to go with logits ["),
    "rank": (lambda: rnn(image=IMAGE[:, 0]), ValueError, "image: must have shape [B, C, *spatial] to go with logits ["),
    "bool image": (lambda: crf(image=IMAGE > 99), TypeError, "image: must be of real numbers, got torch.bool"),
    "complex": (lambda: crf(image=IMAGE * 1j), TypeError, "image: must be of real numbers, got torch.complex64"),
    "NaN image": (lambda: crf(image=spoilt(IMAGE, np.nan)), ValueError, FINITE),
    "inf image": (lambda: rnn(image=spoilt(IMAGE, np.inf)), ValueError, FINITE),
    "device": (lambda: crf(image=META), ValueError, "image: must be on the device of the others, cpu, got meta"),
    # features
    "no features": (lambda: deep(None), ValueError, "features: must be one tensor for each of the 1 Features kernels"),
    "two features": (lambda: deep([X, X]), ValueError, "for each of the 1 Features kernels, got 2"),
    "unasked": (lambda: crf(features=X), ValueError, "for each of the 0 Features kernels, got 1"),
    "features size": (lambda: deep(IMAGE[..., 1:]), ValueError, "must be of the logits' size [5, 7], got "),
    "features device": (lambda: deep(META), ValueError, "must be on the device of the others, cpu, got meta"),
    "NaN features": (lambda: deep(spoilt(X, np.nan)), ValueError, "features: " + FINITE),
    "no dims": (lambda: deep(X[:, :0]), ValueError, "features: must not be empty, got shape [2, 0, 5, 7]"),
    "65 dims": (lambda: deep(random(2, 65, 5, 7)), ValueError, "features: must have 1 to 64 dimensions, got 65"),
    "tiny": (lambda: crf(kernels=[Bilateral(1e-17, 1)]), ValueError, "features: must span fewer than about 2^40 latt"),
    # mask
    "float mask": (lambda: crf(mask=MASK.float()), TypeError, "mask: must be bool, got torch.float32"),
    "mask shape": (lambda: crf(mask=MASK.mT), ValueError, "mask: must have shape [2, 5, 7], got [2, 7, 5]"),
    "mask batch": (lambda: rnn(mask=MASK[:1]), ValueError, "mask: must have shape [2, 5, 7], got [1, 5, 7]"),
    "mask rank": (lambda: deep(mask=MASK[0]), ValueError, "mask: must have shape [2, 5, 7], got [5, 7]"),
    "mask device": (lambda: crf(mask=MASK.to("meta")), ValueError, "mask: must be on the device of the others, cpu, g"),
    # layers
    "labels 0": (lambda: dnn.DenseCRF(0), ValueError, "num_labels: must be at least 1, got 0"),
    "labels 2.0": (lambda: dnn.DenseCRF(2.0), TypeError, "num_labels: must be an integer, got 2.0"),
    "one label": (lambda: dnn.CRFasRNN(1), ValueError, "num_labels: must be at least 2, got 1"),
    "iterations": (lambda: dnn.DenseCRF(2, iterations=-1), ValueError, "iterations: must be at least 0, got -1"),
    "evaluated": (lambda: dnn.CRFasRNN(2, eval_iterations=1.5), TypeError, "eval_iterations: must be an integer, got"),
    "form": (lambda: crf(weights="full"), ValueError, "weights: must be one of scalar, label, matrix, got 'full'"),
    "forms": (
        lambda: crf(compatibility="x"),
        ValueError,
        "compatibility: must be one of potts, vector, matrix, got 'x",
    ),
    "normalization": (lambda: crf(normalization="full"), ValueError, "normalization: " + ONE_OF),
    "own normalization": (lambda: Features(normalization="full"), ValueError, "normalization: " + ONE_OF),
    "method": (lambda: crf(method="exact"), ValueError, "method: must be one of tuned, classic, got 'exact'"),
    "rnn method": (lambda: rnn(method=None), ValueError, "method: must be one of tuned, classic, got None"),
    "output": (lambda: crf(output="x"), ValueError, "output: must be one of logits, probs, log_probs, got 'x'"),
    "custom": (lambda: crf(kernels=[Custom(np.eye(3))]), TypeError, "kernels: must be Gaussian, Bilateral or "),
    "kernels": (lambda: crf(kernels=[3]), TypeError, "kernels: must be Gaussian, Bilateral or "),
    "weight [2]": (lambda: crf(kernels=[Gaussian(1, [1, 2])], weights="label"), ValueError, "weight: must be a number"),
    "matrix weight": (
        lambda: crf(kernels=[Gaussian(1, np.eye(3))], weights="label"),
        ValueError,
        "weight: must be a number for weights='label', got shape [3, 3]",
    ),
    "bandwidth 0": (lambda: Features(0.0), ValueError, "bandwidth: bandwidths must be positive, got 0.0"),
    "bandwidth -1": (lambda: dnn.LatticeFilter(-1), ValueError, "bandwidth: bandwidths must be positive, got -1"),
    "bandwidth inf": (lambda: dnn.LatticeFilter(np.inf), ValueError, "bandwidth: must be finite, got inf"),
    "alpha 0": (lambda: dnn.CRFasRNN(3, alpha=0), ValueError, "alpha: bandwidths must be positive, got 0"),
    "beta NaN": (lambda: dnn.CRFasRNN(3, beta=np.nan), ValueError, "beta: must be finite, got nan"),
    "axes": (
        lambda: crf(kernels=[Gaussian((1, 2, 3))]),
        ValueError,
        "sxy: must be one number or one for each of the 2 axes",
    ),
    "channels": (
        lambda: crf(kernels=[Bilateral(1, (1, 2))]),
        ValueError,
        "srgb: must be one number or one for each of the 3 channels",
    ),
    "learned channels": (
        lambda: crf(kernels=[Bilateral(1, (1, 2))], learn_bandwidths=True),
        ValueError,
        "srgb: must be one number or one for each of the 3 channels",
    ),
    "dimensions": (
        lambda: lattice_filter(bandwidth=(1, 2)),
        ValueError,
        "bandwidth: must be one number or one for each of the 3 dimensions",
    ),
    "spacing": (lambda: crf(spacing=-1), ValueError, "spacing: steps must be positive, got -1"),
    "spacings": (lambda: crf(spacing=(1, 2, 3)), ValueError, "spacing: must be one number or one for each of the 2"),
    # functions
    "integer values": (lambda: lattice_filter(X.long()), TypeError, "values: must be float16, bfloat16, float32 or fl"),
    "values rank": (lambda: F.lattice_filter(X[0, 0], X), ValueError, "values: must have shape [B, C, *spatial] with "),
    "NaN values": (lambda: lattice_filter(spoilt(X, np.nan)), ValueError, "values: " + FINITE),
    "filter size": (lambda: F.lattice_filter(X, X[..., 1:]), ValueError, "terms: must be of the values' spatial shape"),
    "filter batch": (
        lambda: F.lattice_filter(X, X[1:]),
        ValueError,
        "terms: must be of 2 images, like the values, got 1",
    ),
    "features dtype": (
        lambda: F.features_term(X.byte()),
        TypeError,
        "features: must be float16, bfloat16, float32 or ",
    ),
    "term method": (
        lambda: F.features_term(X, method="x"),
        ValueError,
        "method: must be one of tuned, classic, got 'x'",
    ),
    "term norm": (lambda: F.features_term(X, normalization="full"), ValueError, "normalization: " + ONE_OF),
    "sigma count": (
        lambda: F.spatial_filter(X, torch.ones(3)),
        ValueError,
        "sigma: must have one bandwidth for each of the 2 axes, got [3]",
    ),
    "couplings": (lambda: F.mean_field(X, [], [ONE]), ValueError, "couplings: must be one for each of the 0 terms"),
    "coupling shape": (
        lambda: field(coupling=torch.ones(2)),
        ValueError,
        "couplings: must be a number, [3] or [3, 3], got shape [2]",
    ),
    "term size": (
        lambda: field(X[..., 1:]),
        ValueError,
        "terms: must be of the values' spatial shape [5, 6], got [5, 7",
    ),
    "term batch": (lambda: field(X[:1]), ValueError, "terms: must be of 1 images, like the values, got 2"),
    "field iterations": (lambda: field(iterations=1.5), TypeError, "iterations: must be an integer, got 1.5"),
    "field logits": (lambda: field(X.numpy()), TypeError, "logits: must be a torch tensor, got ndarray"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_say_what_is_wrong(name):
    run, error, message = WRONG[name]
    with pytest.raises(error) as caught:
        run()
    assert message in str(caught.value)


def sigma(*values, method="tuned", dtype=torch.float32, device="cpu"):
    return F.spatial_filter(X, torch.tensor(values, dtype=dtype, device=device), method=method)


def mixed():
    return F.mean_field(X, [F.features_term(IMAGE / 30, method=m) for m in METHODS], [ONE, ONE])


# Errors that name the argument, whatever else they say.
NAMED = {
    "NaN in the image": (lambda: crf(image=spoilt(IMAGE, np.nan)), "image"),
    "few weights": (lambda: F.dense_crf(X, IMAGE, weights=[ONE]), "couplings: "),
    "array as logits": (lambda: crf(X.numpy()), "logits: "),
    "list as logits": (lambda: rnn([1.0]), "logits: "),
    "no images": (lambda: crf(X[:0], IMAGE[:0]), "logits: "),
    "no pixels": (lambda: crf(X[:, :, :0], IMAGE[:, :, :0]), "logits: "),
    "array as features": (lambda: deep(X.numpy()), "features: must be a torch tensor"),
    "size of features": (lambda: deep(IMAGE[..., 1:]), "features: "),
    "size of the filter's features": (lambda: lattice_filter(features=IMAGE[..., 1:]), "features: "),
    "no channels": (lambda: crf(image=IMAGE[:, :0]), "image: "),
    "two methods": (mixed, "terms: "),
    "few bandwidths": (lambda: F.dense_crf(X, IMAGE, bandwidths=[{}]), "bandwidths: "),
    "no such bandwidth": (lambda: F.dense_crf(X, IMAGE, bandwidths=[{"xy": ONE}, {}]), "bandwidths: "),
    "bandwidth NaN": (lambda: F.dense_crf(X, IMAGE, bandwidths=[{"sxy": ONE * np.nan}, {}]), "sxy: "),
    "bandwidth -1": (lambda: F.dense_crf(X, IMAGE, bandwidths=[{"sxy": -ONE}, {}]), "sxy: "),
    "logits on meta": (lambda: crf(X.to("meta"), META), "logits: "),
    "array as mask": (lambda: crf(mask=MASK.numpy()), "mask: must be a torch tensor"),
    "list as mask": (lambda: crf(mask=MASK.tolist()), "mask: "),
    "sigma 0": (lambda: sigma(0.0, 1.0), "sigma: "),
    "sigma -1": (lambda: sigma(-1.0, 1.0), "sigma: "),
    "sigma -1, classic": (lambda: sigma(-1.0, 1.0, method="classic"), "sigma: "),
    "sigma NaN": (lambda: sigma(np.nan, 1.0), "sigma: "),
    "sigma inf": (lambda: sigma(np.inf, 1.0), "sigma: "),
    "sigma a number": (lambda: F.spatial_filter(X, 3.0), "sigma: "),
    "sigma on meta": (lambda: sigma(1.0, 1.0, device="meta"), "sigma: "),
    "coupling a number": (lambda: field(coupling=1.0), "couplings: "),
    "coupling NaN": (lambda: field(coupling=torch.tensor(np.nan)), "couplings: "),
    "coupling on meta": (lambda: field(coupling=ONE.to("meta")), "couplings: "),
}


@pytest.mark.parametrize("name", NAMED)
def test_errors_name_the_argument(name):
    run, message = NAMED[name]
    with pytest.raises((TypeError, ValueError)) as caught:
        run()
    assert str(caught.value).startswith(message)


def test_filter_of_wider_features():
    close(F.lattice_filter(X, IMAGE.double()), F.lattice_filter(X, IMAGE), 1e-6)


def test_what_is_allowed():
    # No kernels: the scores. An image nobody asked for. uint8, and half.
    close(crf(kernels=[]), X, 1e-6)
    close(crf(kernels=KERNELS[:1]), crf(image=None, kernels=KERNELS[:1]), 1e-6)
    for dtype in (torch.uint8, torch.int16, torch.int64, torch.float16, torch.float64):
        image = IMAGE.clamp(0, 255).round()
        close(crf(image=image.to(dtype)), crf(image=image), 1e-6)


def test_an_image_in_other_units_is_warned_of_once():
    layer = dnn.DenseCRF(3)
    with pytest.warns(UserWarning, match="image has values within -4 to 4 but srgb is 4, made for 0 to 255"):
        layer(X, IMAGE / 255)
    layer(X, IMAGE / 255)  # warnings are errors here
    dnn.DenseCRF(3)(X, (IMAGE > 128).byte())
    dnn.DenseCRF(3, [Bilateral(50, 0.1)])(X, IMAGE / 255)
