"""What people pass in: every bad input has its exact error, every odd but good one gives the plain result."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest

import densecrf
from densecrf import Bilateral, Custom, DenseCRF, Gaussian, refine

H, W = 7, 9
IMAGE = np.random.default_rng(0).integers(0, 256, (H, W, 3)).astype(np.uint8)
Z = np.random.default_rng(1).normal(size=(3, H, W))
P = np.exp(Z) / np.exp(Z).sum(axis=0)
LABELS = Z.argmax(axis=0)
MASK = np.random.default_rng(2).random((H, W)) < 0.7
RAGGED = [[1.0, 2.0], [3.0]]
HUGE = 10**400
MATRIX = np.zeros((3, 3))


def put(array, value):
    """A copy with one bad value."""
    out = np.array(array, dtype=np.result_type(array, type(value)))
    out.flat[4] = value
    return out


def run(**changes):
    given = {"image": IMAGE, "logits": Z, **changes}
    if {"probs", "unary", "labels"} & changes.keys() and "logits" not in changes:
        del given["logits"]
    return refine(**given)


NOT_FINITE = "must be finite, got NaN or inf"
RECTANGULAR = "must be a rectangular array, got sequences of different lengths"
ONE = "logits, probs, unary, labels: exactly one must be given, got "
IMAGE_RULE = "image: must be [H, W], [H, W, C], [D, H, W] or [D, H, W, C] and of the scores' rank"
SIZE_RULE = "logits: must have the image's size, or a smaller one to be upsampled from"

# (what is changed in a good call, type of the exception, its text)
BAD = {
    # which scores
    "none given": ({"logits": None}, TypeError, ONE + "none"),
    "two given": ({"unary": Z, "logits": Z}, TypeError, ONE + "logits and unary"),
    "all given": (
        {"unary": Z, "logits": Z, "probs": P, "labels": LABELS},
        TypeError,
        ONE + "logits and probs and unary and labels",
    ),
    # scores
    "NaN logits": ({"logits": put(Z, np.nan)}, ValueError, "logits: " + NOT_FINITE),
    "inf logits": ({"logits": put(Z, np.inf)}, ValueError, "logits: " + NOT_FINITE),
    "-inf logits": ({"logits": put(Z, -np.inf)}, ValueError, "logits: " + NOT_FINITE),
    "too large logits": ({"logits": put(Z, 1e300)}, ValueError, "logits: " + NOT_FINITE),
    "NaN logits in float64": ({"logits": put(Z, np.nan), "dtype": "float64"}, ValueError, "logits: " + NOT_FINITE),
    "NaN logits for exact": ({"logits": put(Z, np.nan), "method": "exact"}, ValueError, "logits: " + NOT_FINITE),
    "NaN in two labels": ({"logits": put(Z, np.nan)[:2]}, ValueError, "logits: " + NOT_FINITE),
    "NaN in small logits": ({"logits": put(Z, np.nan)[:, :4, :5]}, ValueError, "logits: " + NOT_FINITE),
    "inf unary": ({"unary": put(Z, np.inf)}, ValueError, "unary: " + NOT_FINITE),
    "NaN unary for exact": ({"unary": put(Z, np.nan), "method": "exact"}, ValueError, "unary: " + NOT_FINITE),
    "NaN probs": ({"probs": put(P, np.nan)}, ValueError, "probs: must be finite, got 1 NaN and 0 inf"),
    "inf probs": ({"probs": put(P, np.inf)}, ValueError, "probs: must be finite, got 0 NaN and 1 inf"),
    "probs below 0": (
        {"probs": put(P, -0.5)},
        ValueError,
        f"probs: must lie in [0, 1], got values from -0.5 to {P.max():g}",
    ),
    "probs that are logits": (
        {"probs": Z},
        ValueError,
        f"probs: must lie in [0, 1], got values from {Z.min():g} to {Z.max():g}",
    ),
    "probs that do not sum to 1": (
        {"probs": np.full((3, H, W), 0.5)},
        ValueError,
        "probs: must sum to 1 over axis 0, got sums from 1.5 to 1.5",
    ),
    "probs in 0 ... 255": (
        {"probs": np.full((3, H, W), 85, np.uint8)},
        ValueError,
        "probs: integers must be 0 or 1 (divide 8-bit probabilities by 255), got uint8 from 85 to 85",
    ),
    "scores of the wrong rank": (
        {"logits": Z[0, 0]},
        ValueError,
        f"logits: must have shape [L, {H}, {W}], got shape ({W},)",
    ),
    "no label axis": (
        {"unary": Z[0]},
        ValueError,
        f"unary: must have shape [L, {H}, {W}], got shape ({H}, {W})",
    ),
    "scores with a batch axis": (
        {"logits": Z[None, None]},
        ValueError,
        f"logits: must have shape [L, {H}, {W}], got shape (1, 1, 3, {H}, {W})",
    ),
    "labels last": (
        {"unary": np.moveaxis(Z, 0, -1)},
        ValueError,
        f"unary: must have shape [L, {H}, {W}], got shape ({H}, {W}, 3)",
    ),
    "small probs": (
        {"probs": P[:, :4, :5]},
        ValueError,
        f"probs: must have shape [L, {H}, {W}], got shape (3, 4, 5)",
    ),
    "large logits": (
        {"logits": np.zeros((3, H, W + 1))},
        ValueError,
        f"{SIZE_RULE}, got ({H}, {W + 1}) for an image of ({H}, {W})",
    ),
    "flat logits of another size": (
        {"logits": np.zeros((3, H * W - 1))},
        ValueError,
        f"logits: must have shape [L, {H}, {W}], got shape (3, {H * W - 1})",
    ),
    "small volume of logits": (
        {"image": np.zeros((2, H, W)), "logits": np.zeros((3, 1, H, W))},
        ValueError,
        f"{SIZE_RULE} (images only, not lines and volumes), got (1, {H}, {W}) for (2, {H}, {W})",
    ),
    "empty scores": ({"logits": np.zeros((3, 0, W))}, ValueError, f"logits: must not be empty, got shape (3, 0, {W})"),
    "no labels": ({"logits": np.zeros((0, H, W))}, ValueError, f"logits: must not be empty, got shape (0, {H}, {W})"),
    "text scores": ({"logits": "scores"}, TypeError, "logits: must be an array of real numbers, got 'scores'"),
    "complex scores": ({"unary": Z * 1j}, TypeError, "unary: must be an array of real numbers, got complex128"),
    "objects": (
        {"logits": np.full((3, H, W), None)},
        TypeError,
        "logits: must be an array of real numbers, got object",
    ),
    "dates": (
        {"logits": np.zeros((3, H, W), "datetime64[s]")},
        TypeError,
        "logits: must be an array of real numbers, got datetime64[s]",
    ),
    "empty scores without an image": (
        {"image": None, "logits": np.zeros((3, 0, W))},
        ValueError,
        f"logits, probs, unary: must not be empty, got shape (3, 0, {W})",
    ),
    "ragged scores": ({"logits": RAGGED}, ValueError, "logits, probs, unary: " + RECTANGULAR),
    "ragged scores without an image": (
        {"image": None, "logits": RAGGED, "kernels": []},
        ValueError,
        "logits, probs, unary: " + RECTANGULAR,
    ),
    "a number": (
        {"image": None, "logits": 3.0},
        ValueError,
        "logits, probs, unary: must have shape [L, N], [L, H, W] or [L, D, H, W], got shape ()",
    ),
    "wrong rank without an image": (
        {"image": None, "logits": Z[0, 0]},
        ValueError,
        f"logits, probs, unary: must have shape [L, N], [L, H, W] or [L, D, H, W], got shape ({W},)",
    ),
    # labels
    "label too large": (
        {"labels": put(LABELS, 3), "num_labels": 3},
        ValueError,
        "labels: must lie in 0..2 or be -1 (unknown), got 3",
    ),
    "label below -1": (
        {"labels": put(LABELS, -2)},
        ValueError,
        "labels: must lie in 0..2 or be -1 (unknown), got -2",
    ),
    "void 255": (
        {"labels": put(LABELS.astype(np.uint8), np.uint8(255)), "num_labels": 3},
        ValueError,
        "labels: must lie in 0..2 or be -1 (unknown), got 255",
    ),
    "real labels": ({"labels": LABELS * 1.0}, TypeError, "labels: must be integers, got float64"),
    "all unknown": (
        {"labels": np.full((H, W), -1)},
        ValueError,
        "num_labels: must be given where no pixel has a label, got None",
    ),
    "labels of another size": (
        {"labels": LABELS[:4]},
        ValueError,
        f"labels: must have shape [{H}, {W}], got shape (4, {W})",
    ),
    "empty labels": (
        {"labels": np.zeros((0, W), int)},
        ValueError,
        f"labels: must have shape [{H}, {W}], got shape (0, {W})",
    ),
    "ragged labels": ({"labels": [[0, 1], [0]]}, ValueError, "labels: " + RECTANGULAR),
    "a label": (
        {"image": None, "labels": 1},
        ValueError,
        "labels: must have shape [N], [H, W] or [D, H, W], got shape ()",
    ),
    "num_labels 0": ({"labels": LABELS, "num_labels": 0}, ValueError, "num_labels: must be at least 1, got 0"),
    "num_labels 3.0": ({"labels": LABELS, "num_labels": 3.0}, TypeError, "num_labels: must be an integer, got 3.0"),
    "confidence 1": (
        {"labels": LABELS, "confidence": 1.0},
        ValueError,
        "confidence: must lie strictly between 0 and 1, got 1",
    ),
    "confidence NaN": (
        {"labels": LABELS, "confidence": np.nan},
        ValueError,
        "confidence: must lie strictly between 0 and 1, got nan",
    ),
    "confidence for other labels": (
        {"labels": LABELS, "confidence": [0.5, 0.5]},
        ValueError,
        "confidence: must be a number or [3], one per label, got shape (2,)",
    ),
    # image
    "no image": ({"image": None}, ValueError, "image: must be given for a Bilateral kernel, got None"),
    "no image for exact": (
        {"image": None, "method": "exact"},
        ValueError,
        "image: must be given for a Bilateral kernel, got None",
    ),
    "NaN image": ({"image": put(IMAGE / 1.0, np.nan)}, ValueError, "image: " + NOT_FINITE),
    "inf image": ({"image": put(IMAGE / 1.0, np.inf)}, ValueError, "image: " + NOT_FINITE),
    "too large image": ({"image": put(IMAGE / 1.0, 1e300)}, ValueError, "image: " + NOT_FINITE),
    "half inf image": ({"image": put(IMAGE, np.inf).astype(np.float16)}, ValueError, "image: " + NOT_FINITE),
    "empty image": ({"image": IMAGE[:0]}, ValueError, f"image: must not be empty, got shape (0, {W}, 3)"),
    "no channels": ({"image": IMAGE[..., :0]}, ValueError, f"image: must not be empty, got shape ({H}, {W}, 0)"),
    "image of rank 1": ({"image": IMAGE[0, 0]}, ValueError, f"{IMAGE_RULE}, got shape (3,)"),
    "image of rank 5": ({"image": IMAGE[None, None]}, ValueError, f"{IMAGE_RULE}, got shape (1, 1, {H}, {W}, 3)"),
    "smaller image": (
        {"image": IMAGE[:, :5]},
        ValueError,
        f"{SIZE_RULE}, got ({H}, {W}) for an image of ({H}, 5)",
    ),
    "channels first": (
        {"image": np.moveaxis(IMAGE, -1, 0)},
        ValueError,
        f"{SIZE_RULE}, got ({H}, {W}) for an image of (3, {H})",
    ),
    "text image": ({"image": "photo.jpg"}, TypeError, "image: must be an array of real numbers, got 'photo.jpg'"),
    "complex image": ({"image": IMAGE * 1j}, TypeError, "image: must be an array of real numbers, got complex128"),
    "ragged image": ({"image": RAGGED}, ValueError, "image: " + RECTANGULAR),
    # kernels
    "kernels a number": (
        {"kernels": 5},
        TypeError,
        "kernels: must be a list of Gaussian, Bilateral and Custom, got 5",
    ),
    "a kernel's class": (
        {"kernels": [Gaussian]},
        TypeError,
        f"kernels: must be Gaussian, Bilateral or Custom, got {Gaussian!r}",
    ),
    "kernels by name": (
        {"kernels": ["default"]},
        TypeError,
        "kernels: must be Gaussian, Bilateral or Custom, got 'default'",
    ),
    "three bandwidths for two axes": (
        {"kernels": [Gaussian((1.0, 2.0, 3.0))]},
        ValueError,
        "sxy: must be one number or one for each of the 2 axes, got 3",
    ),
    "two bandwidths for three axes": (
        {"image": None, "logits": np.zeros((2, 3, 4, 5)), "kernels": [Gaussian((1.0, 2.0))]},
        ValueError,
        "sxy: must be one number or one for each of the 3 axes, got 2",
    ),
    "two bandwidths for three channels": (
        {"kernels": [Bilateral(5.0, (1.0, 2.0))]},
        ValueError,
        "srgb: must be one number or one for each of the 3 channels, got 2",
    ),
    "features of another size": (
        {"kernels": [Custom(np.zeros((5, 2)))]},
        ValueError,
        f"features: must have shape [{H * W}, d] or [*({H}, {W}), d] with d at most 64, got shape (5, 2)",
    ),
    "too many dimensions": (
        {"kernels": [Custom(np.zeros((H, W, 65)))]},
        ValueError,
        f"features: must have shape [{H * W}, d] or [*({H}, {W}), d] with d at most 64, got shape ({H}, {W}, 65)",
    ),
    "NaN features": (
        {"kernels": [Custom(put(np.zeros((H * W, 2)), np.nan))]},
        ValueError,
        "features: " + NOT_FINITE,
    ),
    "inf features for exact": (
        {"kernels": [Custom(put(np.zeros((H * W, 2)), np.inf))], "method": "exact"},
        ValueError,
        "features: " + NOT_FINITE,
    ),
    "too large features": (
        {"kernels": [Custom(put(np.zeros((H * W, 2)), 1e300))]},
        ValueError,
        "features: " + NOT_FINITE,
    ),
    "too wide features": (
        {"kernels": [Custom(put(np.zeros((H * W, 2)), 1e20))]},
        ValueError,
        "features: must span fewer than about 2^40 lattice cells; the bandwidths are too small for these values",
    ),
    "far too small bandwidth": (
        {"kernels": [Bilateral(1e-13, 5.0)]},
        ValueError,
        "features: must span fewer than about 2^40 lattice cells; the bandwidths are too small for these values",
    ),
    "weight of other labels": (
        {"kernels": [Gaussian(1.0, [1.0, 2.0])]},
        ValueError,
        "weight: must be a number, [3] or [3, 3], got shape (2,)",
    ),
    "weight matrix of other labels": (
        {"kernels": [Gaussian(1.0, np.eye(4))]},
        ValueError,
        "weight: must be a number, [3] or [3, 3], got shape (4, 4)",
    ),
    # compatibility
    "compatibility by another name": (
        {"compatibility": "ising"},
        ValueError,
        "compatibility: must be 'potts', a number, [L] or [L, L], got 'ising'",
    ),
    "compatibility of other labels": (
        {"compatibility": np.eye(2)},
        ValueError,
        "compatibility: must be a number, [3] or [3, 3], got shape (2, 2)",
    ),
    "oblong compatibility": (
        {"compatibility": np.zeros((3, 2))},
        ValueError,
        "compatibility: must be a number, a vector [L] or a matrix [L, L], got shape (3, 2)",
    ),
    "NaN compatibility": ({"compatibility": np.nan}, ValueError, "compatibility: must be finite, got nan"),
    "NaN in the compatibility": (
        {"compatibility": put(MATRIX, np.nan)},
        ValueError,
        "compatibility: " + NOT_FINITE,
    ),
    "huge compatibility": (
        {"compatibility": -1e13},
        ValueError,
        "compatibility: must lie between -1e+12 and 1e+12, got -1e+13",
    ),
    "huge in the compatibility": (
        {"compatibility": put(MATRIX, 1e300)},
        ValueError,
        "compatibility: must lie between -1e+12 and 1e+12, got 1e+300",
    ),
    "no compatibility": ({"compatibility": None}, TypeError, "compatibility: must be a number, got None"),
    "ragged compatibility": ({"compatibility": RAGGED}, ValueError, "compatibility: " + RECTANGULAR),
    "complex compatibility": (
        {"compatibility": MATRIX * 1j},
        TypeError,
        "compatibility: must be an array of real numbers, got complex128",
    ),
    # options
    "method": ({"method": "best"}, ValueError, "method: must be one of tuned, classic, fast, exact, got 'best'"),
    "no method": ({"method": None}, ValueError, "method: must be one of tuned, classic, fast, exact, got None"),
    "an array of methods": (
        {"method": np.array(["tuned", "exact"])},
        ValueError,
        "method: must be one of tuned, classic, fast, exact, got array(['tuned', 'exact'], dtype='<U5')",
    ),
    "normalization": (
        {"normalization": "both"},
        ValueError,
        "normalization: must be one of symmetric, after, before, none, got 'both'",
    ),
    "no normalization": (
        {"normalization": None},
        ValueError,
        "normalization: must be one of symmetric, after, before, none, got None",
    ),
    "iterations -1": ({"iterations": -1}, ValueError, "iterations: must be at least 0, got -1"),
    "iterations 5.0": ({"iterations": 5.0}, TypeError, "iterations: must be an integer, got 5.0"),
    "iterations True": ({"iterations": True}, TypeError, "iterations: must be an integer, got True"),
    "iterations None": ({"iterations": None}, TypeError, "iterations: must be an integer, got None"),
    "iterations 2^31": (
        {"iterations": 2**31},
        ValueError,
        "iterations: must be at most 2147483646, got 2147483648",
    ),
    "tol -1": ({"tol": -1.0}, ValueError, "tol: must not be negative, got -1"),
    "tol NaN": ({"tol": np.nan}, ValueError, "tol: must be finite, got nan"),
    "tol inf": ({"tol": np.inf}, ValueError, "tol: must be finite, got inf"),
    "tol text": ({"tol": "0.1"}, TypeError, "tol: must be a number, got '0.1'"),
    "tol huge": ({"tol": HUGE}, ValueError, "tol: must be finite, got inf"),
    "tol list": ({"tol": [0.1]}, TypeError, "tol: must be a number, got [0.1]"),
    "damping 1": ({"damping": 1.0}, ValueError, "damping: must be at least 0 and below 1, got 1"),
    "damping -0.1": ({"damping": -0.1}, ValueError, "damping: must be at least 0 and below 1, got -0.1"),
    "damping NaN": ({"damping": np.nan}, ValueError, "damping: must be finite, got nan"),
    "damping None": ({"damping": None}, TypeError, "damping: must be a number, got None"),
    "damping True": ({"damping": True}, TypeError, "damping: must be a number, got True"),
    "damping 1j": ({"damping": 1j}, TypeError, "damping: must be a number, got 1j"),
    "num_threads 0": ({"num_threads": 0}, ValueError, "num_threads: must be at least 1, got 0"),
    "num_threads -1": ({"num_threads": -1}, ValueError, "num_threads: must be at least 1, got -1"),
    "num_threads 1.5": ({"num_threads": 1.5}, TypeError, "num_threads: must be an integer, got 1.5"),
    "num_threads text": ({"num_threads": "2"}, TypeError, "num_threads: must be an integer, got '2'"),
    "dtype float16": ({"dtype": "float16"}, TypeError, "dtype: must be float32 or float64, got 'float16'"),
    "dtype int": ({"dtype": int}, TypeError, f"dtype: must be float32 or float64, got {int!r}"),
    "dtype text": (
        {"dtype": "double precision"},
        TypeError,
        "dtype: must be float32 or float64, got 'double precision'",
    ),
    "dtype for exact": (
        {"dtype": "float16", "method": "exact"},
        TypeError,
        "dtype: must be float32 or float64, got 'float16'",
    ),
    # mask, spacing, initial
    "mask of another size": (
        {"mask": MASK[:4]},
        ValueError,
        f"mask: must have shape ({H}, {W}), got shape (4, {W})",
    ),
    "mask with channels": (
        {"mask": MASK[..., None]},
        ValueError,
        f"mask: must have shape ({H}, {W}), got shape ({H}, {W}, 1)",
    ),
    "real mask": ({"mask": MASK * 1.0}, TypeError, "mask: must be boolean, got float64"),
    "mask of labels": ({"mask": LABELS}, TypeError, "mask: must be boolean, got int64"),
    "mask 255": ({"mask": MASK.astype(np.uint8) * 255}, TypeError, "mask: must be boolean, got uint8"),
    "mask of nothing": ({"mask": MASK & False}, ValueError, "mask: must leave at least one pixel, got none"),
    "ragged mask": ({"mask": [[True], [True, False]]}, ValueError, "mask: " + RECTANGULAR),
    "spacing 0": ({"spacing": 0.0}, ValueError, "spacing: steps must be positive, got 0.0"),
    "spacing NaN": ({"spacing": (1.0, np.nan)}, ValueError, "spacing: must be finite, got nan"),
    "spacing of three": (
        {"spacing": (1.0, 1.0, 1.0)},
        ValueError,
        "spacing: must be one number or one for each of the 2 axes, got 3",
    ),
    "spacing text": ({"spacing": "1"}, TypeError, "spacing: must be a number, got '1'"),
    "initial of another size": (
        {"initial": P[:2]},
        ValueError,
        f"initial: must have shape (3, {H}, {W}), got shape (2, {H}, {W})",
    ),
    "initial below 0": ({"initial": put(P, -0.25)}, ValueError, "initial: must be probabilities, got -0.25"),
    "NaN initial": ({"initial": put(P, np.nan)}, ValueError, "initial: " + NOT_FINITE),
    "initial that does not sum to 1": (
        {"initial": np.full((3, H, W), 0.5)},
        ValueError,
        "initial: must sum to 1 over axis 0, got sums from 1.5 to 1.5",
    ),
    "initial text": ({"initial": "start"}, TypeError, "initial: must be an array of real numbers, got 'start'"),
}


@pytest.mark.parametrize("changes, error, message", BAD.values(), ids=BAD.keys())
def test_bad_inputs_have_their_errors(changes, error, message):
    with pytest.raises(error) as caught:
        run(**changes)
    assert type(caught.value) is error
    assert str(caught.value) == message


def test_the_good_call_is_good():
    assert run().probs.shape == Z.shape


POSITIVE = "bandwidths must be positive, got "
LIMITS = "bandwidths must lie between 1e-18 and 1e+18, got "

BAD_KERNELS = {
    "sxy 0": (lambda: Gaussian(0), ValueError, f"sxy: {POSITIVE}0"),
    "sxy -1": (lambda: Bilateral(-1.0), ValueError, f"sxy: {POSITIVE}-1.0"),
    "sxy NaN": (lambda: Gaussian(np.nan), ValueError, "sxy: must be finite, got nan"),
    "sxy inf": (lambda: Gaussian(np.inf), ValueError, "sxy: must be finite, got inf"),
    "one sxy 0": (lambda: Gaussian((1.0, 0.0)), ValueError, f"sxy: {POSITIVE}(1.0, 0.0)"),
    "no sxy": (lambda: Gaussian(()), ValueError, f"sxy: {POSITIVE}()"),
    "sxy None": (lambda: Gaussian(None), TypeError, "sxy: must be a number, got None"),
    "sxy text": (lambda: Gaussian("3"), TypeError, "sxy: must be a number, got '3'"),
    "sxy True": (lambda: Gaussian(True), TypeError, "sxy: must be a number, got True"),
    "sxy nested": (lambda: Gaussian(((1.0, 2.0), 3.0)), ValueError, "sxy: " + RECTANGULAR),
    "sxy tiny": (lambda: Gaussian(1e-300), ValueError, f"sxy: {LIMITS}1e-300"),
    "sxy huge": (lambda: Gaussian(1e19), ValueError, f"sxy: {LIMITS}1e+19"),
    "srgb 0": (lambda: Bilateral(1.0, 0), ValueError, f"srgb: {POSITIVE}0"),
    "srgb NaN": (lambda: Bilateral(1.0, (1.0, np.nan, 1.0)), ValueError, "srgb: must be finite, got nan"),
    "srgb tiny": (lambda: Bilateral(1.0, (1.0, 1e-30)), ValueError, f"srgb: {LIMITS}(1.0, 1e-30)"),
    "weight NaN": (lambda: Gaussian(1.0, np.nan), ValueError, "weight: must be finite, got nan"),
    "weight inf": (lambda: Gaussian(1.0, [1.0, np.inf]), ValueError, "weight: " + NOT_FINITE),
    "weight None": (lambda: Gaussian(1.0, None), TypeError, "weight: must be a number, got None"),
    "weight text": (lambda: Gaussian(1.0, "3"), TypeError, "weight: must be a number, got '3'"),
    "weight of rank 3": (
        lambda: Gaussian(1.0, np.ones((2, 2, 2))),
        ValueError,
        "weight: must be a number, a vector [L] or a matrix [L, L], got shape (2, 2, 2)",
    ),
    "weight ragged": (lambda: Gaussian(1.0, RAGGED), ValueError, "weight: " + RECTANGULAR),
    "weight huge": (lambda: Gaussian(1.0, 1e20), ValueError, "weight: must lie between -1e+12 and 1e+12, got 1e+20"),
    "weight huger": (lambda: Gaussian(1.0, HUGE), ValueError, "weight: must be finite, got inf"),
    "weight empty": (lambda: Gaussian(1.0, []), ValueError, "weight: must not be empty, got shape (0,)"),
    "normalization": (
        lambda: Gaussian(1.0, 1.0, "both"),
        ValueError,
        "normalization: must be one of symmetric, after, before, none, got 'both'",
    ),
    "features None": (lambda: Custom(None), TypeError, "features: must be an array of real numbers, got None"),
    "features of rank 1": (
        lambda: Custom(np.zeros(5)),
        ValueError,
        "features: must have shape [N, d] or [*spatial, d], got shape (5,)",
    ),
    "features empty": (lambda: Custom(np.zeros((5, 0))), ValueError, "features: must not be empty, got shape (5, 0)"),
    "shape and image": (
        lambda: DenseCRF(IMAGE, shape=(H, W + 1)),
        ValueError,
        f"{IMAGE_RULE} with spatial shape ({H}, {W + 1}), got shape ({H}, {W}, 3)",
    ),
    "neither shape nor image": (
        lambda: DenseCRF(),
        TypeError,
        "shape: must be given where there is no image, got None",
    ),
    "shape a number": (lambda: DenseCRF(shape=5), TypeError, "shape: must be (N,), (H, W) or (D, H, W), got 5"),
    "shape of rank 4": (
        lambda: DenseCRF(shape=(1, 2, 3, 4)),
        ValueError,
        "shape: must be (N,), (H, W) or (D, H, W), got (1, 2, 3, 4)",
    ),
    "shape 0": (lambda: DenseCRF(shape=(0, 5)), ValueError, "shape: must be at least 1, got 0"),
    "shape 2.5": (lambda: DenseCRF(shape=(2.5, 5)), TypeError, "shape: must be an integer, got 2.5"),
}


@pytest.mark.parametrize("call, error, message", BAD_KERNELS.values(), ids=BAD_KERNELS.keys())
def test_bad_kernels_and_domains_have_their_errors(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert str(caught.value) == message


# ---- odd but good -------------------------------------------------------------------------------------------


def same_as_plain(**changes):
    np.testing.assert_array_equal(run(**changes).probs, run().probs)


def layouts(array):
    """The same values in other clothes."""
    read_only = array.copy()
    read_only.flags.writeable = False
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    wide[..., ::2] = array
    return {
        "Fortran order": np.asfortranarray(array),
        "every second": wide[..., ::2],
        "backwards": np.ascontiguousarray(array[::-1])[::-1],
        "swapped axes": np.ascontiguousarray(np.swapaxes(array, 0, 1)).swapaxes(0, 1),
        "big-endian": array.astype(array.dtype.newbyteorder(">")),
        "read-only": read_only,
        "list": array.tolist(),
        "unaligned": np.frombuffer(b"x" + array.tobytes(), np.uint8)[1:].view(array.dtype).reshape(array.shape),
    }


@pytest.mark.parametrize("form", layouts(np.zeros((2, 2))).keys())
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_layouts_of_scores(dtype, form):
    given = Z.astype(dtype)
    expected = run(logits=given).probs
    np.testing.assert_array_equal(run(logits=layouts(given)[form]).probs, expected)
    np.testing.assert_array_equal(run(unary=layouts(-given)[form]).probs, expected)
    small = given[:, :4, :5]
    np.testing.assert_array_equal(run(logits=layouts(small)[form]).probs, run(logits=small.copy()).probs)
    probs = P.astype(dtype)
    # A list is float64 to begin with, and probabilities keep the digits they come with until the logarithm.
    rounding = 1e-6 if form == "list" else 0.0
    np.testing.assert_allclose(run(probs=layouts(probs)[form]).probs, run(probs=probs).probs, rtol=0, atol=rounding)


@pytest.mark.parametrize("form", layouts(np.zeros((2, 2))).keys())
def test_layouts_of_images_and_the_rest(form):
    same_as_plain(image=layouts(IMAGE)[form])
    same_as_plain(image=layouts(IMAGE.astype(np.float64))[form])
    same_as_plain(image=layouts(IMAGE.astype(np.int16))[form])
    np.testing.assert_array_equal(run(mask=layouts(MASK)[form]).probs, run(mask=MASK).probs)
    np.testing.assert_array_equal(run(labels=layouts(LABELS)[form]).probs, run(labels=LABELS).probs)
    np.testing.assert_array_equal(run(initial=layouts(P)[form]).probs, run(initial=P).probs)
    mu = np.random.default_rng(0).random((3, 3))
    np.testing.assert_array_equal(run(compatibility=layouts(mu)[form]).probs, run(compatibility=mu).probs)
    features = np.random.default_rng(0).random((H, W, 2)) * 3
    found, expected = (run(kernels=[Custom(f, layouts(mu)[form])]).probs for f in (layouts(features)[form], features))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "longdouble", "uint8", "int8", "int64", "uint64", "bool"]
)
def test_dtypes_of_scores(dtype):
    low = 0 if np.dtype(dtype).kind in "ub" else -8
    exact = np.random.default_rng(0).integers(low, 2 if dtype == "bool" else 9, Z.shape)
    expected = run(logits=exact.astype("float32")).probs
    np.testing.assert_array_equal(run(logits=exact.astype(dtype)).probs, expected)
    small = run(logits=exact[:, :4, :5].astype("float32")).probs
    np.testing.assert_array_equal(run(logits=exact[:, :4, :5].astype(dtype)).probs, small)
    hard = np.eye(3)[LABELS].transpose(2, 0, 1)
    expected = run(probs=hard).probs
    np.testing.assert_allclose(run(probs=hard.astype(dtype)).probs, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float64", "longdouble", "int8", "int16", "uint16", "int64", "uint64"])
def test_dtypes_of_images(dtype):
    image = IMAGE // 4 * 2
    expected = run(image=image).probs
    np.testing.assert_array_equal(run(image=image.astype(dtype)).probs, expected)


def test_a_boolean_image_is_zeros_and_ones():
    image = IMAGE[..., 0] > 100
    kernels = [Bilateral(5.0, 0.5)]
    np.testing.assert_array_equal(
        run(image=image, kernels=kernels).probs, run(image=image * 1.0, kernels=kernels).probs
    )


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int64", "uint64", "bool"])
def test_dtypes_of_labels(dtype):
    labels = (LABELS > 0).astype(dtype)
    np.testing.assert_array_equal(run(labels=labels).probs, run(labels=(LABELS > 0).astype(int)).probs)


def test_float64_scores_keep_their_digits():
    # Differences that float32 cannot hold decide.
    z = np.zeros((2, 4, 4))
    z[0] += 1e9
    z[1] += 1e9 + np.arange(16.0).reshape(4, 4) / 16
    found = refine(logits=z, kernels=[], dtype="float64").probs
    np.testing.assert_allclose(found[1], 1 / (1 + np.exp(-np.arange(16.0) / 16)).reshape(4, 4), atol=1e-6)
    assert found.dtype == np.float64
    small = refine(np.zeros((8, 8)), logits=z, kernels=[], dtype="float64").probs  # through the upsampling, too
    assert small[1].max() > 0.7


def test_one_label():
    for given in ({"logits": Z[:1]}, {"unary": Z[:1]}, {"probs": np.ones((1, H, W))}, {"labels": LABELS * 0}):
        for method in ("tuned", "classic", "exact"):
            out = run(**given, method=method)
            np.testing.assert_array_equal(out.probs, np.ones((1, H, W)))
            np.testing.assert_array_equal(out.labels, np.zeros((H, W)))


def test_one_kernel_needs_no_list():
    np.testing.assert_array_equal(run(kernels=Gaussian(2.0)).probs, run(kernels=[Gaussian(2.0)]).probs)
    np.testing.assert_array_equal(run(kernels=iter([Gaussian(2.0)])).probs, run(kernels=[Gaussian(2.0)]).probs)


def test_bandwidths_of_any_number_type():
    expected = run(kernels=[Gaussian((2.0, 3.0), 1.5), Bilateral(5.0, (8.0, 9.0, 10.0), 2.0)]).probs
    forms = [
        [Gaussian((2, 3), np.float32(1.5)), Bilateral(np.int64(5), np.array([8, 9, 10]), 2)],
        [Gaussian([np.float64(2), 3], np.array(1.5)), Bilateral((5.0,), [8.0, 9, 10], np.int8(2))],
    ]
    for kernels in forms:
        np.testing.assert_array_equal(run(kernels=kernels).probs, expected)


@pytest.mark.parametrize("srgb", [1e-3, 1e-6, 1e-8])
def test_bandwidths_so_small_that_keys_are_wide(srgb):
    # Pixels of equal colour still find each other; all others are worlds apart.
    image = np.where(MASK, 10.0, 200.0)
    kernels = [Bilateral(1e9, srgb, 3.0, "after")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = {m: run(image=image, kernels=kernels, method=m).probs for m in ("tuned", "classic", "exact")}
    np.testing.assert_allclose(found["tuned"], found["exact"], atol=1e-4)
    np.testing.assert_allclose(found["classic"], found["exact"], atol=1e-4)


def test_any_bandwidth_gives_probabilities_or_a_sentence():
    for sxy in 10.0 ** np.arange(-18, 19, 3):
        for srgb in 10.0 ** np.arange(-18, 19, 6):
            for method in ("tuned", "classic"):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)
                    try:
                        probs = run(kernels=[Gaussian(sxy), Bilateral(sxy, srgb)], spacing=2.5, method=method).probs
                    except ValueError as error:
                        assert str(error).startswith("features: must span fewer than about 2^40 lattice cells")
                        assert min(sxy, srgb) < 1e-5
                        continue
                np.testing.assert_allclose(probs.sum(axis=0), 1.0, atol=1e-5)


def test_weights_up_to_the_limit():
    for weight in (1e12, -1e12, np.array([1e12, -1e12, 0.0]), np.full((3, 3), 1e12), np.diag([1e12, -1e12, 1.0])):
        for compatibility in ("potts", 1e12, -1e12, np.full(3, -1e12), 1e12 * (1 - np.eye(3))):
            for normalization in ("symmetric", "none"):
                kernels = [Gaussian(1.0, weight), Bilateral(5.0, 20.0, weight)]
                options = {"kernels": kernels, "compatibility": compatibility, "normalization": normalization}
                for more in ({}, {"self_message": False, "free_energy": True}):
                    probs = run(**options, **more).probs
                    np.testing.assert_allclose(probs.sum(axis=0), 1.0, atol=1e-5)


# ---- warnings -----------------------------------------------------------------------------------------------


def test_an_image_of_0_to_1_under_bandwidths_of_0_to_255_is_warned_about():
    message = (
        "image has values up to 0.5 but srgb is 4, made for 0 to 255: colours will hardly matter; "
        "multiply the image by 255 or divide srgb by it"
    )
    image = IMAGE / IMAGE.max() / 2
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as caught:
        run(image=image)
    assert len(caught) == 1
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        DenseCRF(image)
    run(image=image, kernels=[Bilateral(5.0, 4.0 / 255)])
    run(image=image, kernels=[Gaussian(1.0)])
    run(image=image * 0)
    run(image=np.full_like(IMAGE, 1))  # a dark photo


def test_an_image_of_0_to_255_under_bandwidths_of_0_to_1_is_warned_about():
    message = (
        "image has values up to 255 but srgb is 0.02, made for 0 to 1: only equal colours will count as similar; "
        "divide the image by 255 or multiply srgb by it"
    )
    image = IMAGE.copy()
    image[0, 0, 0] = 255
    for form in (image, image.astype(np.float64)):
        with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
            run(image=form, kernels=[Bilateral(5.0, (0.05, 0.1, 0.02))])
    run(image=image, kernels=[Bilateral(5.0, 0.5)])


def test_presets_do_not_warn():
    for preset in (densecrf.presets.DEFAULT, densecrf.presets.PYDENSECRF, densecrf.presets.DEEPLAB):
        run(kernels=preset.kernels, iterations=preset.iterations)
