"""Any call either raises ValueError or TypeError, or gives probabilities. Also run under sanitizers.

DENSECRF_FUZZ_EXAMPLES sets the number of examples of each test (200).
"""

from __future__ import annotations

import os
import re
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from densecrf import Bilateral, Custom, DenseCRF, Gaussian, Lattice, refine

EXAMPLES = int(os.environ.get("DENSECRF_FUZZ_EXAMPLES", "200"))
ANYTHING = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,  # the same examples every time: a failure can be run again
    database=None,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)

sizes = st.sampled_from([1, 1, 2, 3, 5, 8, 13, 17, 40, 70])
shapes = st.one_of(
    st.tuples(st.sampled_from([1, 2, 3, 15, 16, 17, 63, 64, 65, 130, 300])),
    st.tuples(sizes, sizes),
    st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9)),
)
label_counts = st.one_of(st.integers(1, 8), st.sampled_from([12, 15, 16, 17, 18, 21, 31, 32, 33, 40, 64]))
normalizations = st.sampled_from(["symmetric", "after", "before", "none"])
seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from(["float32", "float64", "float16", ">f4", "int16", "uint8", "bool"])


def decades(low, high):
    return st.floats(low, high).map(lambda e: 10.0**e)


# Usual values, and now and then many decades, the edges and what lies beyond. A call is either all tame or may be wild
# anywhere: if every argument had its own chance to be wrong, hardly any call would get as far as the engine.
bandwidths = {
    False: st.one_of(
        decades(-1, 3), decades(-1, 3), decades(0, 18), st.sampled_from([2.999999, 3.0, 5.999999, 6.0, 1e18])
    ),
    True: st.one_of(decades(-20, 20), st.sampled_from([0.0, -1.0, 1e-300, 1e300, np.nan, np.inf, 1e-18])),
}
scales = {False: st.one_of(decades(-1, 2), decades(-1, 2), decades(-12, 6)), True: decades(-40, 40)}
mishaps = {False: st.just(False), True: st.integers(0, 9).map(lambda i: i == 0)}


def numbers(rng, shape, scale, dtype):
    """Random values of any dtype and size; casting may overflow or wrap, as the caller's own casts may."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return (rng.normal(size=shape) * scale).astype(dtype)


def laid_out(rng, array):
    """The same values in another order in memory."""
    choice = rng.integers(4)
    if choice == 1:
        return np.asfortranarray(array)
    if choice == 2:
        return np.repeat(array, 2, axis=-1)[..., ::2]
    if choice == 3:
        array = array.copy()
        array.flags.writeable = False
    return array


def weights(draw, labels, rng, wild):
    scale = draw(scales[wild]) * draw(st.sampled_from([1.0, 1.0, -1.0]))
    count = labels + draw(mishaps[wild])
    shape = draw(st.sampled_from([(), (), (count,), (count, count)]))
    with np.errstate(over="ignore"):
        return scale if shape == () else rng.normal(size=shape) * scale


def a_kernel(draw, shape, labels, rng, has_image, wild):
    kind = draw(st.sampled_from([Gaussian, Bilateral if has_image or wild else Gaussian, Custom]))
    weight, name = weights(draw, labels, rng, wild), draw(st.one_of(st.none(), normalizations))
    if kind is Custom:
        d = draw(st.one_of(st.integers(1, 8), st.sampled_from([12, 16, 17, 24])))
        features = rng.normal(size=(*shape, d)) * draw(scales[wild])
        if draw(st.booleans()):
            features = features.reshape(-1, d)
        return Custom(laid_out(rng, features), weight, name)
    several = draw(st.booleans())
    sxy = tuple(draw(bandwidths[wild]) for _ in shape) if several else draw(bandwidths[wild])
    if kind is Gaussian:
        return Gaussian(sxy, weight, name)
    return Bilateral(sxy, draw(bandwidths[wild]), weight, name)


def any_call(draw):
    """Call refine with anything; its result and the shape that the probabilities should have."""
    rng = np.random.default_rng(draw(seeds))
    shape, labels, wild = draw(shapes), draw(label_counts), draw(st.integers(0, 2)) == 2
    channels = draw(st.sampled_from([None, 1, 2, 3, 3, 4, 9]))
    image = None
    if draw(st.integers(0, 9)):
        pixels = shape if channels is None else (*shape, channels)
        kind = draw(st.sampled_from(["bytes", "bytes", "numbers", "flat"]))
        image = rng.integers(0, 256, pixels).astype(np.uint8)
        if kind == "numbers":
            image = numbers(rng, pixels, draw(scales[wild]), draw(dtypes))
        if kind == "flat":
            image[:] = 7
        image = laid_out(rng, image)
    options = {
        "image": image,
        "kernels": [
            a_kernel(draw, shape, labels, rng, image is not None, wild) for _ in range(draw(st.integers(0, 3)))
        ],
        "compatibility": "potts" if draw(st.booleans()) else weights(draw, labels, rng, wild),
        "normalization": draw(normalizations),
        "method": draw(st.sampled_from(["tuned", "tuned", "classic", "fast"])),
        "iterations": draw(st.integers(0, 4)),
        "tol": -1.0 if draw(mishaps[wild]) else draw(st.sampled_from([None, None, 0.0, 1e-3, 0.5, 1e-50])),
        "damping": 1.0 if draw(mishaps[wild]) else draw(st.sampled_from([0.0, 0.0, 0.3, 0.99])),
        "self_message": draw(st.booleans()),
        "free_energy": draw(st.booleans()),
        "dtype": draw(st.sampled_from(["float32", "float64"])),
        "num_threads": draw(st.integers(1, 3)),
    }
    if options["method"] == "fast":
        options.update(tol=None, damping=0.0, self_message=True, free_energy=False)
    if draw(st.booleans()):
        options["mask"] = rng.random(shape) < draw(st.sampled_from([0.05, 0.5, 0.95]))
        options["mask"].flat[0] |= not draw(mishaps[wild])
    if draw(st.integers(0, 4)) == 0:
        options["spacing"] = draw(bandwidths[wild])
    source = draw(st.sampled_from(["logits", "logits", "unary", "probs", "labels", "small"]))
    if source == "labels":
        options["labels"] = laid_out(rng, rng.integers(-1, labels, shape))
        options["num_labels"] = labels
    elif source == "probs":
        p = rng.random((labels, *shape)) + 1e-3
        options["probs"] = laid_out(rng, (p / p.sum(axis=0)).astype(draw(st.sampled_from(["float32", "float64"]))))
    elif source == "small":
        two = len(shape) == 2 and image is not None
        small = [draw(st.integers(1, n)) if two or wild else n for n in shape]
        options["logits"] = numbers(rng, (labels, *small), draw(scales[wild]), draw(dtypes))
    else:
        scores = numbers(rng, (labels, *shape), draw(scales[wild]), draw(dtypes))
        if draw(mishaps[wild]) and scores.dtype.kind == "f":
            scores.flat[rng.integers(scores.size)] = rng.choice([np.nan, np.inf, -np.inf])
        options[source] = laid_out(rng, scores)
    if draw(st.integers(0, 3)) == 0:
        q = rng.random((labels, *shape)) + 1e-3
        options["initial"] = q / q.sum(axis=0)
    return refine(**options), (labels, *shape)


def are_probabilities(probs, shape):
    assert probs.shape == shape
    assert np.isfinite(probs).all()
    assert probs.min() >= 0
    assert probs.max() <= 1 + 1e-5
    np.testing.assert_allclose(probs.sum(axis=0), 1.0, atol=2e-5)


@ANYTHING
@given(st.data())
def test_refine_gives_probabilities_or_a_sentence(data):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "image has values up to", UserWarning)  # any other one is an error
        try:
            out, shape = any_call(data.draw)
        except (ValueError, TypeError) as error:
            assert re.match(r"[\w, ]+: .*must .*, got |features: must span fewer than", str(error)), error
            return
    are_probabilities(out.probs, shape)
    assert 0 <= out.iterations <= 4
    if out.free_energy is not None:
        assert out.free_energy.shape == (out.iterations + 1,)
        assert not np.isnan(out.free_energy).any()


@ANYTHING
@given(shapes, st.lists(label_counts, min_size=1, max_size=4), st.integers(1, 3), seeds)
def test_one_crf_for_many_scores(shape, counts, threads, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
    crf = DenseCRF(image, shape=shape, kernels=[Gaussian(2.0, 1.0), Bilateral(9.0, 30.0, 2.0)], num_threads=threads)
    for labels in counts:
        z = rng.normal(size=(labels, *shape))
        are_probabilities(crf.refine(z, iterations=2, free_energy=bool(labels % 2)).probs, z.shape)


@ANYTHING
@given(
    st.sampled_from([1, 2, 15, 16, 17, 40, 100]),
    st.one_of(st.integers(1, 9), st.sampled_from([16, 17, 33, 64])),
    st.sampled_from([1, 2, 3, 4, 7, 15, 16, 17, 31, 32, 33, 70]),
    st.one_of(decades(-2, 1), decades(-40, 40)),
    st.sampled_from(["tuned", "classic", "fast"]),
    st.sampled_from(["float32", "float64"]),
    st.integers(1, 3),
    seeds,
)
def test_lattice(points, d, channels, scale, method, dtype, threads, seed):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(points, d)) * scale
    features[rng.integers(points, size=points // 2)] = features[0]
    try:
        lattice = Lattice(features, method, dtype=dtype, num_threads=threads)
    except ValueError as error:
        assert scale > 1e7, error  # others always have a lattice
        return
    values = rng.normal(size=(channels, points))
    found, back = lattice.filter(values), lattice.transpose_filter(values)
    assert np.isfinite(found).all()
    # <K x, x> = <x, K' x>, up to rounding.
    size = np.abs(values) @ lattice.filter(np.abs(values)).T.astype(float)
    left, right = (found * values).sum(), (back * values).sum()
    assert left == pytest.approx(right, abs=1e-4 * np.trace(size))
    own = lattice.self_weights()
    assert np.isfinite(own).all()
    assert own.min() >= 0


@pytest.mark.parametrize("labels", [9, 33])
@pytest.mark.parametrize("threads", [1, 3])
def test_values_in_half_precision(labels, threads):
    """Lattices of images this small do not outgrow the cache, but for noise."""
    rng = np.random.default_rng(labels)
    image, logits = rng.integers(0, 256, (110, 90, 3), np.uint8), rng.normal(size=(labels, 110, 90))
    found = refine(image, logits=logits, num_threads=threads).probs
    np.testing.assert_allclose(found.sum(axis=0), 1, rtol=1e-5)
