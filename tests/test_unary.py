"""densecrf.unary: what each function returns, what it accepts, and every sentence it refuses with."""

import math

import numpy as np
import pytest

from densecrf import unary

SHAPES = [(7,), (3, 4), (2, 3, 4)]


def softmax(logits):
    p = np.exp(np.asarray(logits, float) - np.max(logits, axis=0))
    return p / p.sum(axis=0)


def random_logits(shape=(3, 4), L=5, seed=0):
    return np.random.default_rng(seed).normal(size=(L, *shape)) * 4


def random_probs(shape=(3, 4), L=5, seed=0):
    return softmax(random_logits(shape, L, seed))


def layouts(array):
    """The same values in other memory layouts."""
    fortran = np.asfortranarray(array)
    strided = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)[..., ::2]
    strided[...] = array
    backwards = np.ascontiguousarray(array[..., ::-1])[..., ::-1]
    read_only = array.copy()
    read_only.flags.writeable = False
    swapped = array.astype(array.dtype.newbyteorder(">"))
    return [fortran, strided, backwards, read_only, swapped, array.tolist()]


def check(result, expected, dtype=np.float32, tolerance=2e-6):
    assert result.dtype == dtype and result.dtype.isnative
    assert result.flags.c_contiguous and result.flags.writeable
    assert np.isfinite(result).all()
    np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)


# --- logits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_become_minus_log_softmax(shape):
    logits = random_logits(shape)
    expected = -np.log(softmax(logits))
    check(unary.from_logits(logits), expected)
    check(unary.from_logits(logits.astype(np.float32)), expected)
    check(unary.from_logits(logits, dtype="float64"), expected, np.float64, 1e-14)
    check(unary.from_logits(logits, dtype=np.float64), expected, np.float64, 1e-14)


def test_logits_by_hand():
    check(unary.from_logits([[0.0], [math.log(3)]]), [[math.log(4)], [math.log(4 / 3)]])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble", "int8", "uint8", "int64"])
def test_logits_of_any_real_type(dtype):
    logits = np.array([[3, 0, 100], [0, 5, 100]]).astype(dtype)
    expected = -np.log(softmax(logits.astype(float)))
    check(unary.from_logits(logits), expected)
    check(unary.from_logits(logits, dtype="float64"), expected, np.float64, 1e-14)


def test_logits_in_any_layout():
    logits = random_logits()
    expected = unary.from_logits(logits)
    for view in layouts(logits):
        check(unary.from_logits(view), expected)


def test_large_logits_keep_their_differences():
    check(unary.from_logits([[1e30], [0.0]]), [[0.0], [1e30]])
    check(unary.from_logits([[1e9 + 1], [1e9]]), unary.from_logits([[1.0], [0.0]]))  # subtracted in float64


def test_one_label_has_energy_zero():
    for energy in (
        unary.from_logits(random_logits(L=1)),
        unary.from_probs(np.ones((1, 3, 4))),
        unary.from_labels(np.zeros((3, 4), int)),
        unary.from_labels(np.zeros((3, 4), int), 1, 0.3),
        unary.from_scribbles(np.full((3, 4), -1), 1),
    ):
        assert energy.shape == (1, 3, 4)
        assert (energy == 0).all() and not np.signbit(energy).any()


# --- probabilities -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_probs_become_minus_log(shape):
    probs = random_probs(shape)
    check(unary.from_probs(probs), -np.log(probs))
    check(unary.from_probs(probs.astype(np.float32)), -np.log(probs))
    check(unary.from_probs(probs, dtype="float64"), -np.log(probs), np.float64, 1e-14)


def test_probs_and_their_logits_agree():
    logits = random_logits()
    check(unary.from_probs(softmax(logits)), unary.from_logits(logits))


def test_probs_are_clipped_at_eps():
    check(unary.from_probs([[0.0, 1.0], [1.0, 0.0]]), [[-math.log(1e-8), 0], [0, -math.log(1e-8)]])
    check(unary.from_probs([[0.0], [1.0]], eps=1e-5), [[-math.log(1e-5)], [0]])
    check(unary.from_probs([[1e-30], [1.0]], eps=1e-35), [[-math.log(1e-30)], [0]])


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64])
def test_integer_probs_may_be_one_hot(dtype):
    one_hot = np.array([[0, 1], [1, 0]]).astype(dtype)
    check(unary.from_probs(one_hot), unary.from_probs(one_hot.astype(float)))


def test_half_precision_and_8_bit_probs_sum_closely_enough():
    probs = random_probs(L=150).astype(np.float16)
    check(unary.from_probs(probs), -np.log(np.maximum(probs.astype(float), 1e-8)))
    unary.from_probs(np.round(random_probs(L=21) * 255) / 255)


def test_probs_in_any_layout():
    probs = random_probs()
    for view in layouts(probs):
        check(unary.from_probs(view), -np.log(probs))


def test_the_input_is_never_written_to():
    for function, array in ((unary.from_logits, random_logits()), (unary.from_probs, random_probs())):
        for dtype in (np.float32, np.float64):
            given = array.astype(dtype)
            kept = given.copy()
            result = function(given, dtype=dtype)
            assert not np.shares_memory(result, given)
            np.testing.assert_array_equal(given, kept)


# --- labels ------------------------------------------------------------------------------------------------


def test_labels_get_the_confidence_and_the_others_share_the_rest():
    energy = unary.from_labels([[0, 2], [-1, 1]], confidence=0.7)
    sure, other, any_label = -math.log(0.7), -math.log(0.15), math.log(3)
    expected = [
        [[sure, other], [any_label, other]],
        [[other, other], [any_label, sure]],
        [[other, sure], [any_label, other]],
    ]
    check(energy, expected)
    check(unary.from_labels([[0, 2], [-1, 1]], dtype="float64"), expected, np.float64, 1e-15)


@pytest.mark.parametrize("shape", SHAPES)
def test_labels_are_probabilities(shape):
    labels = np.random.default_rng(0).integers(-1, 5, shape)
    energy = unary.from_labels(labels, 5)
    assert energy.shape == (5, *shape)
    np.testing.assert_allclose(np.exp(-energy.astype(float)).sum(axis=0), 1.0, rtol=1e-6)
    known = labels >= 0
    np.testing.assert_array_equal(energy.argmin(axis=0)[known], labels[known])


def test_confidence_for_each_label():
    energy = unary.from_labels([0, 1, 2, -1], 3, confidence=[0.5, 0.9, 0.2])
    p = np.exp(-energy.astype(float))
    np.testing.assert_allclose(p[:, 0], [0.5, 0.25, 0.25], rtol=1e-6)
    np.testing.assert_allclose(p[:, 1], [0.05, 0.9, 0.05], rtol=1e-6)
    np.testing.assert_allclose(p[:, 2], [0.4, 0.4, 0.2], rtol=1e-6)
    np.testing.assert_allclose(p[:, 3], [1 / 3] * 3, rtol=1e-6)


def test_number_of_labels_is_the_largest_plus_one():
    assert unary.from_labels([0, 4, -1]).shape == (5, 3)
    assert unary.from_labels([0, 4, 255], unknown=255).shape == (5, 3)
    assert unary.from_labels([0, 4], num_labels=9).shape == (9, 2)
    assert unary.from_labels(np.array([0, 1]), num_labels=np.int64(3)).shape == (3, 2)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int64", "uint64", ">i4", ">u2"])
def test_labels_of_any_integer_type(dtype):
    labels = np.array([[0, 1], [2, 7]])
    expected = unary.from_labels(labels, 200, unknown=7)
    np.testing.assert_array_equal(unary.from_labels(labels.astype(dtype), 200, unknown=7), expected)
    np.testing.assert_array_equal(
        unary.from_labels(labels.astype(dtype), 200), unary.from_labels(labels, 200, unknown=None)
    )


def test_bool_labels_are_a_mask():
    np.testing.assert_array_equal(unary.from_labels([True, False]), unary.from_labels([1, 0]))


def test_labels_in_any_layout():
    labels = np.array([[0, 1, 2], [2, -1, 1]])
    for view in layouts(labels):
        check(unary.from_labels(view), unary.from_labels(labels))


def test_scribbles_are_labels_with_the_rest_unknown():
    strokes = np.full((4, 5), -1)
    strokes[1, 1:3], strokes[3, 4] = 0, 2
    energy = unary.from_scribbles(strokes, 3)
    check(energy, unary.from_labels(strokes, 3, confidence=0.99))
    np.testing.assert_allclose(np.exp(-energy[:, 0, 0]), [1 / 3] * 3, rtol=1e-6)
    np.testing.assert_allclose(np.exp(-energy[:, 3, 4]), [0.005, 0.005, 0.99], rtol=1e-6)
    shifted = unary.from_scribbles(np.where(strokes < 0, 9, strokes), 3, unknown=9, confidence=0.6)
    np.testing.assert_array_equal(shifted, unary.from_labels(strokes, 3, confidence=0.6))
    assert unary.from_scribbles(np.full((4, 5), 255, np.uint8), 2, unknown=255).shape == (2, 4, 5)
    assert unary.from_scribbles(strokes, 3, dtype="float64").dtype == np.float64


# --- errors ------------------------------------------------------------------------------------------------

NAN = np.array([[0.0, np.nan], [np.inf, -np.inf]])
OPEN = "strictly between 0 and 1"
RULE = "must have shape [L, N], [L, H, W] or [L, D, H, W]"


VALUE_ERRORS = [
    (lambda: unary.from_logits(NAN), "logits: must be finite, got 1 NaN and 2 inf"),
    (lambda: unary.from_logits(np.zeros(3)), f"logits: {RULE}, got shape (3,)"),
    (lambda: unary.from_logits(np.zeros((1, 1, 1, 1, 2))), f"logits: {RULE}, got shape (1, 1, 1, 1, 2)"),
    (lambda: unary.from_logits(np.zeros((2, 0, 5))), "logits: must not be empty, got shape (2, 0, 5)"),
    (
        lambda: unary.from_logits([[1, 2], [3]]),
        "logits: must be a rectangular array, got sequences of different lengths",
    ),
    (
        lambda: unary.from_logits([[1e200], [-1e200]]),
        "logits: differences must fit float32, got values from -1e+200 to 1e+200",
    ),
    (
        lambda: unary.from_logits(np.array([[3e38], [-3e38]], np.float32)),
        "logits: differences must fit float32, got values from -3e+38 to 3e+38",
    ),
    (lambda: unary.from_probs(NAN), "probs: must be finite, got 1 NaN and 2 inf"),
    (lambda: unary.from_probs(np.float32(1)), f"probs: {RULE}, got shape ()"),
    (lambda: unary.from_probs([[-0.5], [1.5]]), "probs: must lie in [0, 1], got values from -0.5 to 1.5"),
    (
        lambda: unary.from_probs([[0.5, 0.5], [0.5, 0.9]]),
        "probs: must sum to 1 over axis 0, got sums from 1 to 1.4",
    ),
    (
        lambda: unary.from_probs(np.array([[255, 128], [0, 127]], np.uint8)),
        "probs: integers must be 0 or 1 (divide 8-bit probabilities by 255), got uint8 from 0 to 255",
    ),
    (lambda: unary.from_probs([[0.5], [0.5]], eps=0), f"eps: must lie {OPEN}, got 0"),
    (
        lambda: unary.from_probs([[0.5], [0.5]], eps=1e-50),
        "eps: must be one number of at least 1.2e-38, got 1e-50",
    ),
    (
        lambda: unary.from_probs([[0.5], [0.5]], eps=[0.1]),
        "eps: must be one number of at least 1.2e-38, got [0.1]",
    ),
    (lambda: unary.from_labels([0, 5, -1], 3), "labels: must lie in 0..2 or be -1 (unknown), got 5"),
    (lambda: unary.from_labels([0, -2]), "labels: must lie in 0..0 or be -1 (unknown), got -2"),
    (lambda: unary.from_labels([-3, -1]), "labels: must lie in 0..0 or be -1 (unknown), got -3"),
    (lambda: unary.from_labels([0, -1], unknown=None), "labels: must lie in 0..0, got -1"),
    (
        lambda: unary.from_labels(np.array([0, 255], np.uint8), 2),
        "labels: must lie in 0..1 or be -1 (unknown), got 255",
    ),
    (lambda: unary.from_labels(0), "labels: must have shape [N], [H, W] or [D, H, W], got shape ()"),
    (
        lambda: unary.from_labels(np.zeros((1, 1, 1, 1), int)),
        "labels: must have shape [N], [H, W] or [D, H, W], got shape (1, 1, 1, 1)",
    ),
    (lambda: unary.from_labels(np.zeros((0, 3), int)), "labels: must not be empty, got shape (0, 3)"),
    (lambda: unary.from_labels([-1, -1]), "num_labels: must be given where no pixel has a label, got None"),
    (lambda: unary.from_labels([0], 0), "num_labels: must be at least 1, got 0"),
    (lambda: unary.from_labels([0], 2, confidence=0), f"confidence: must lie {OPEN}, got 0"),
    (lambda: unary.from_labels([0], 2, confidence=1.0), f"confidence: must lie {OPEN}, got 1"),
    (lambda: unary.from_labels([0], 2, confidence=np.nan), f"confidence: must lie {OPEN}, got nan"),
    (lambda: unary.from_labels([0], 2, [0.5, 1.5]), f"confidence: must lie {OPEN}, got 1.5"),
    (
        lambda: unary.from_labels([0], 2, [0.5] * 3),
        "confidence: must be a number or [2], one per label, got shape (3,)",
    ),
    (lambda: unary.from_scribbles([3], 2), "labels: must lie in 0..1 or be -1 (unknown), got 3"),
]

TYPE_ERRORS = [
    (lambda: unary.from_logits(np.zeros((2, 2), complex)), "logits: must be real numbers, got complex128"),
    (lambda: unary.from_logits(np.zeros((2, 2), bool)), "logits: must be real numbers, got bool"),
    (lambda: unary.from_logits([["a"], ["b"]]), "logits: must be real numbers, got str32"),
    (lambda: unary.from_logits(None), "logits: must be real numbers, got None"),
    (lambda: unary.from_logits([[0.0]], dtype="float16"), "dtype: must be float32 or float64, got 'float16'"),
    (lambda: unary.from_logits([[0.0]], dtype="real"), "dtype: must be float32 or float64, got 'real'"),
    (lambda: unary.from_probs(np.zeros((2, 2), complex)), "probs: must be real numbers, got complex128"),
    (lambda: unary.from_probs([[1.0]], eps="small"), "eps: must be a real number, got 'small'"),
    (lambda: unary.from_labels([0.0, 1.0]), "labels: must be integers, got float64"),
    (lambda: unary.from_labels(None), "labels: must be integers, got None"),
    (lambda: unary.from_labels([0], 2.0), "num_labels: must be an integer, got 2.0"),
    (lambda: unary.from_labels([0], True), "num_labels: must be an integer, got True"),
    (lambda: unary.from_labels([0], 2, unknown=0.5), "unknown: must be an integer, got 0.5"),
    (lambda: unary.from_labels([0], 2, confidence=None), "confidence: must be a real number, got None"),
    (lambda: unary.from_scribbles([0], None), "num_labels: must be an integer, got None"),
]


@pytest.mark.parametrize("call, message", VALUE_ERRORS, ids=[message for _, message in VALUE_ERRORS])
def test_wrong_values(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message


@pytest.mark.parametrize("call, message", TYPE_ERRORS, ids=[message for _, message in TYPE_ERRORS])
def test_wrong_types(call, message):
    with pytest.raises(TypeError) as error:
        call()
    assert str(error.value) == message
