"""densecrf.reference against triple loops, values worked by hand, and pydensecrf's answers."""

import json
import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from densecrf import reference

NORMALIZATIONS = ["symmetric", "after", "before", "none"]
GOLDEN = Path(__file__).parent / "data"


def problem(N=7, L=3, d=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(N, d)), 2 * rng.random((L, N)), rng.normal(size=(L, L)), rng.normal(size=L)


# --- plain loops: one number at a time ---------------------------------------------------------------------


def loop_filter(features, values, self_message=True):
    N = len(features)
    out = np.zeros_like(values)
    for channel, i, j in product(range(len(values)), range(N), range(N)):
        if i != j or self_message:
            distance = sum((a - b) ** 2 for a, b in zip(features[i], features[j], strict=True))
            out[channel, i] += math.exp(-distance / 2) * values[channel, j]
    return out


def loop_message(features, Q, normalization, self_message):
    n = loop_filter(features, np.ones((1, len(features))), self_message)[0]
    if normalization == "none":
        return loop_filter(features, Q, self_message)
    if normalization == "after":
        return loop_filter(features, Q, self_message) / n
    if normalization == "before":
        return loop_filter(features, Q / n, self_message)
    return loop_filter(features, Q / np.sqrt(n), self_message) / np.sqrt(n)


def as_matrix(value, L):
    """A number or a diagonal as the [L, L] matrix that it stands for."""
    value = np.asarray(value, dtype=float)
    return value if value.ndim == 2 else np.diag(np.broadcast_to(value, L))


def loop_energy(Q, kernels, mu, self_message):
    L, N = Q.shape
    E = np.zeros((L, N))
    for features, weight, normalization in kernels:
        W, F = as_matrix(weight, L), loop_message(features, Q, normalization, self_message)
        for i, own, other, source in product(range(N), range(L), range(L), range(L)):
            E[own, i] += mu[own, other] * W[other, source] * F[source, i]
    return E


def loop_mean_field(U, kernels, mu, iterations, self_message=True):
    L, N = U.shape
    Q = np.zeros((L, N))
    E = np.zeros((L, N))
    for t in range(iterations + 1):
        if t > 0:
            E = loop_energy(Q, kernels, mu, self_message)
        for i in range(N):
            Z = sum(math.exp(-U[m, i] - E[m, i]) for m in range(L))
            Q[:, i] = [math.exp(-U[m, i] - E[m, i]) / Z for m in range(L)]
    return Q


# --- the filter --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("self_message", [True, False])
@pytest.mark.parametrize("d", [1, 2, 5, 9])
def test_filter_is_the_double_sum(d, self_message):
    features, values, _, _ = problem(d=d)
    expected = loop_filter(features, values, self_message)
    for chunk in (None, 1, 2, 3, 7, 100):
        found = reference.filter(features, values, self_message=self_message, chunk=chunk)
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-15)


def test_filter_by_hand():
    near = math.exp(-0.5)
    np.testing.assert_allclose(reference.filter([[0.0], [1.0]], [1.0, 2.0]), [1 + 2 * near, 2 + near])
    without = reference.filter([[0.0], [1.0]], [1.0, 2.0], self_message=False)
    np.testing.assert_allclose(without, [2 * near, near])
    # 3-4-5 triangle: distances 3, 4, 5
    corners = [[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]
    expected = [1 + math.exp(-4.5) + math.exp(-8), 1 + math.exp(-4.5) + math.exp(-12.5)]
    np.testing.assert_allclose(reference.filter(corners, np.ones(3))[:2], expected)


def test_filter_keeps_the_shape_and_returns_float64():
    features = np.zeros((4, 2), dtype=np.float32)
    assert reference.filter(features, np.ones(4, dtype=np.float32)).shape == (4,)
    found = reference.filter(features, np.ones((1, 4), dtype=np.uint8))
    assert found.shape == (1, 4) and found.dtype == np.float64
    assert reference.filter(np.zeros((0, 2)), np.zeros((3, 0))).shape == (3, 0)


def test_filter_is_precise_far_from_the_origin():
    features, values, _, _ = problem()
    features = np.round(features * 64) / 64  # the shift is exact
    expected = reference.filter(features, values)
    np.testing.assert_allclose(reference.filter(features + 2.0**30, values), expected, rtol=1e-13)


def test_filter_with_points_beyond_underflow():
    np.testing.assert_allclose(reference.filter([[0.0], [1e6]], [1.0, 2.0]), [1.0, 2.0])
    np.testing.assert_allclose(reference.filter([[-1e308], [0.0], [1.0], [1e308]], np.ones(4))[[0, 3]], 1.0)


def test_filter_is_precise_where_one_feature_is_huge():
    # A colour bandwidth near 0: equal colours 1e8 from the origin, others far, and positions that matter.
    features, values, _, _ = problem()
    near = reference.filter(features[:5], values[:, :5])
    colours = np.array([1e8 / 3, 1e8 / 3, 1e8 / 3, 1e8 / 3, 1e8 / 3, 0.0, 2e8])[:, None]
    found = reference.filter(np.hstack([features, colours]), values)
    np.testing.assert_allclose(found[:, :5], near, rtol=1e-13)
    np.testing.assert_allclose(found[:, 5:], values[:, 5:], rtol=1e-13)


def test_kept_and_recomputed_matrices_agree():
    features, values, _, _ = problem(N=50)
    kept = reference.GaussianMatrix(features, chunk=8, keep_bytes=1 << 20)
    again = reference.GaussianMatrix(features, chunk=8, keep_bytes=0)
    assert kept._kept is not None and again._kept is None
    np.testing.assert_array_equal(kept.apply(values), again.apply(values))


# --- normalisation -----------------------------------------------------------------------------------------


def test_what_each_normalisation_preserves():
    features, values, _, _ = problem(N=20)
    matrix = reference.GaussianMatrix(features)
    one = np.ones((1, 20))

    def apply(name, x):
        left, right = reference.normalizers(matrix, name)
        return left * matrix.apply(right * x)

    np.testing.assert_allclose(apply("after", one), one)  # constants
    np.testing.assert_allclose(apply("before", values).sum(axis=1), values.sum(axis=1))  # mass
    root = np.sqrt(matrix.apply(one))
    np.testing.assert_allclose(apply("symmetric", root), root)  # the eigenvector of eigenvalue 1
    np.testing.assert_array_equal(apply("none", values), matrix.apply(values))


def test_a_point_without_neighbours_gets_no_message():
    features, U = [[0.0], [1e6], [1.0]], np.array([[0.0, 0.3, 1.0], [1.0, 0.0, 0.0]])
    for name in NORMALIZATIONS:
        Q = reference.mean_field(U, [(features, 5.0, name)], self_message=False)
        np.testing.assert_allclose(Q[:, 1], reference.softmax(-U)[:, 1])
        assert np.isfinite(Q).all()


# --- mean field --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("self_message", [True, False])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_mean_field_is_the_loop(normalization, self_message):
    features, U, matrix, vector = problem()
    other, potts = problem(d=3, seed=1)[0], np.ones((3, 3)) - np.eye(3)
    weights = [1.5, vector, matrix]
    compatibilities = [("potts", potts), (0.7, 0.7 * potts), (vector, np.diag(vector)), (matrix, matrix)]
    for weight, (compatibility, mu) in product(weights, compatibilities):
        kernels = [(features, weight, normalization), (other, 0.5, "symmetric")]
        found = reference.mean_field(U, kernels, compatibility, 3, self_message=self_message)
        expected = loop_mean_field(U, kernels, mu, 3, self_message)
        np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_mean_field_by_hand():
    # Two points at distance 1, two labels, Potts, unnormalised, no self-message: E_0(l) = w k Q_1(other).
    U, w, k = np.array([[0.0, 2.0], [1.0, 0.0]]), 3.0, math.exp(-0.5)
    q0, q1 = 1 / (1 + math.exp(-1.0)), 1 / (1 + math.exp(2.0))  # Q of label 0 at the start
    expected = [
        1 / (1 + math.exp(-1.0 - w * k * (q1 - (1 - q1)))),
        1 / (1 + math.exp(2.0 - w * k * (q0 - (1 - q0)))),
    ]
    Q = reference.mean_field(U, [([[0.0], [1.0]], w, "none")], iterations=1, self_message=False)
    np.testing.assert_allclose(Q, [expected, [1 - q for q in expected]])


def test_without_iterations_or_kernels_it_is_the_softmax():
    _, U, _, _ = problem()
    expected = np.exp(-U) / np.exp(-U).sum(axis=0)
    np.testing.assert_allclose(reference.mean_field(U, [([[0.0]] * 7, 1.0, "none")], iterations=0), expected)
    np.testing.assert_allclose(reference.mean_field(U, [], iterations=4), expected)
    assert (reference.mean_field(U[:1], [([[0.0]] * 7, 1.0, "none")]) == 1.0).all()  # one label


def test_rows_of_the_compatibility_are_the_own_label():
    # One point that hears itself: E = mu Q. Label 0 pays 2 for the presence of label 1, not the reverse.
    Q = reference.mean_field([[0.0], [0.0]], [([[0.0]], 1.0, "none")], [[0.0, 2.0], [0.0, 0.0]], 1)
    np.testing.assert_allclose(Q[:, 0], [1 / (1 + math.e), math.e / (1 + math.e)])


def test_equal_ways_to_say_potts():
    features, U, _, _ = problem()

    def run(weight, compatibility):
        return reference.mean_field(U, [(features, weight, "symmetric")], compatibility)

    expected = run(2.0, "potts")
    for weight, compatibility in [
        (1.0, 2.0),
        (2.0, [-1.0, -1.0, -1.0]),  # costs that differ by a constant
        (2.0, 1 - np.eye(3)),
        ([2.0, 2.0, 2.0], 1.0),
        (2 * np.eye(3), "potts"),
    ]:
        np.testing.assert_allclose(run(weight, compatibility), expected, rtol=1e-12)


def test_very_large_unaries_do_not_overflow():
    Q = reference.mean_field([[0.0, 1e300], [1e300, 0.0]], [(np.zeros((2, 1)), 1.0, "symmetric")])
    np.testing.assert_array_equal(Q, [[1.0, 0.0], [0.0, 1.0]])


def test_damping_mixes_in_the_last_q():
    features, U, _, _ = problem()
    kernels = [(features, 2.0, "symmetric")]
    start, whole = (reference.mean_field(U, kernels, iterations=T) for T in (0, 1))
    damped = reference.mean_field(U, kernels, iterations=1, damping=0.3)
    np.testing.assert_allclose(damped, 0.3 * start + 0.7 * whole)


def test_the_callback_sees_every_iteration_and_initial_continues():
    features, U, _, _ = problem()
    kernels = [(features, 2.0, "symmetric")]
    seen = {}
    last = reference.mean_field(U, kernels, iterations=10, on_iteration=seen.__setitem__)
    assert list(seen) == list(range(1, 11))
    np.testing.assert_array_equal(last, seen[10])
    np.testing.assert_array_equal(reference.mean_field(U, kernels, iterations=5), seen[5])
    np.testing.assert_array_equal(reference.mean_field(U, kernels, iterations=5, initial=seen[5]), last)


def test_tol_stops_where_q_moves_less():
    features, U, _, _ = problem()
    kernels = [(features, 1.0, "symmetric")]
    for damping in (0.0, 0.5):
        seen = {0: reference.softmax(-U)}
        options = {"tol": 1e-6, "damping": damping, "on_iteration": seen.__setitem__}
        reference.mean_field(U, kernels, iterations=200, **options)
        # The move that counts is the undamped one, so that damping alone never ends the run.
        moves = [np.abs(seen[t] - seen[t - 1]).max() / (1 - damping) for t in range(1, len(seen))]
        assert 2 < len(moves) < 200
        assert moves[-1] < 1e-6 and min(moves[:-1]) >= 1e-6


def test_a_pairwise_is_built_once_and_reused():
    features, U, matrix, _ = problem()
    kernels = [(features, 2.0, "after")]
    pairwise = reference.Pairwise(kernels, matrix, self_message=False, keep_bytes=0)
    expected = reference.mean_field(U, kernels, matrix, self_message=False)
    np.testing.assert_array_equal(reference.mean_field(U, pairwise), expected)
    with_kernels = reference.free_energy(U, expected, kernels, matrix, self_message=False)
    assert reference.free_energy(U, expected, pairwise) == with_kernels


# --- free energy -------------------------------------------------------------------------------------------


def test_free_energy_by_hand():
    # One point, U = (0, 1), Q = (1/4, 3/4), Potts weight 2, self-message: E = 2 (3/4, 1/4).
    expected = 0.75 + 0.25 * math.log(0.25) + 0.75 * math.log(0.75) + 0.5 * (0.25 * 1.5 + 0.75 * 0.5)
    found = reference.free_energy([[0.0], [1.0]], [[0.25], [0.75]], [([[0.0]], 2.0, "none")])
    assert found == pytest.approx(expected, rel=1e-14)


def test_free_energy_of_hard_labels_is_the_energy_of_the_labelling():
    features, U, _, _ = problem()
    labels = np.array([0, 1, 2, 0, 1, 2, 0])
    Q = np.eye(3)[:, labels]
    K = np.exp(-0.5 * ((features[:, None] - features) ** 2).sum(axis=2))
    pairs = sum(2.0 * K[i, j] for i in range(7) for j in range(i) if labels[i] != labels[j])
    found = reference.free_energy(U, Q, [(features, 2.0, "none")], self_message=False)
    assert found == pytest.approx(U[labels, np.arange(7)].sum() + pairs, rel=1e-13)


SYMMETRIC_MU = np.array([[0.0, 1.0, 2.0], [1.0, -0.5, 0.5], [2.0, 0.5, 0.3]])


@pytest.mark.parametrize("self_message", [True, False])
@pytest.mark.parametrize("compatibility", ["potts", SYMMETRIC_MU], ids=["potts", "matrix"])
@pytest.mark.parametrize("normalization", ["symmetric", "none"])
def test_the_fixed_point_is_stationary(normalization, compatibility, self_message):
    features, U, _, _ = problem()
    pairwise = reference.Pairwise([(features, 1.2, normalization)], compatibility, self_message)
    Q = reference.mean_field(U, pairwise, iterations=3000, damping=0.7, tol=1e-13)
    assert np.abs(reference.softmax(-U - pairwise(Q)) - Q).max() < 1e-12  # it did converge

    def slope(point, step):
        """Central difference along a direction that keeps the sum over labels."""
        F = [reference.free_energy(U, point + sign * step, pairwise) for sign in (1, -1)]
        return (F[0] - F[1]) / 2

    away = reference.softmax(-U)
    steepest = 0.0
    for i, label in product(range(7), range(2)):
        step = np.zeros_like(Q)
        size = 1e-3 * min(Q[label, i], Q[2, i])
        step[label, i], step[2, i] = size, -size
        assert abs(slope(Q, step)) / size < 1e-5
        steepest = max(steepest, abs(slope(away, step)) / size)
    assert steepest > 0.1  # elsewhere it is not


@pytest.mark.parametrize("seed", range(5))
def test_damped_steps_never_increase_the_free_energy(seed):
    features, U, _, _ = problem(N=12, seed=seed)
    pairwise = reference.Pairwise([(features, 3.0, "symmetric"), (features / 3, 4.0, "none")])
    F = [reference.free_energy(U, reference.softmax(-U), pairwise)]
    reference.mean_field(
        U,
        pairwise,
        iterations=100,
        damping=0.9,
        on_iteration=lambda t, Q: F.append(reference.free_energy(U, Q, pairwise)),
    )
    assert np.diff(F).max() <= 1e-12
    assert F[-1] < F[0]


# --- pydensecrf --------------------------------------------------------------------------------------------


def golden_cases():
    for path in sorted(GOLDEN.glob("golden_*.npz")):
        with np.load(path) as file:
            for index, case in enumerate(json.loads(str(file["cases"]))):
                if case["name"].endswith("none"):
                    continue  # pydensecrf's unnormalised sums are off by a factor
                yield pytest.param(path, index, case, id=case["name"])


def kernel_features(kernel, arrays):
    if kernel["kind"] == "custom":
        return arrays[kernel["features"]]
    image = arrays["image"]
    features = [axis / s for axis, s in zip(np.indices(image.shape[:2]), kernel["sxy"], strict=True)]
    if kernel["kind"] == "bilateral":
        features += [image[..., c] / kernel["srgb"][c] for c in range(3)]
    return np.stack(features, axis=-1).reshape(-1, len(features))


@pytest.mark.parametrize("path, index, case", list(golden_cases()))
def test_conventions_are_those_of_pydensecrf(path, index, case):
    # pydensecrf filters approximately: near is all it can be. A wrong sign or a wrong order is far.
    with np.load(path) as file:
        arrays = dict(file)
    L = len(arrays["unary"])
    U, golden = arrays["unary"].reshape(L, -1).astype(float), arrays[f"Q{index}"].reshape(L, -1)
    features = [kernel_features(kernel, arrays) for kernel in case["kernels"]]
    names = [kernel["normalization"] for kernel in case["kernels"]]
    answers = []
    for call in case["native"]:
        kernels = list(zip(features, call["weights"], names, strict=True))
        answers.append(reference.mean_field(U, kernels, call["compatibility"], case["iterations"]))
        np.testing.assert_allclose(answers[-1], answers[0], atol=1e-9)  # two ways to say the same
    rmse = np.sqrt(((answers[0] - golden) ** 2).sum(axis=0).mean())
    moved = np.sqrt(((reference.softmax(-U) - golden) ** 2).sum(axis=0).mean())
    assert rmse < 0.4 * moved  # at worst 0.35, mostly 0.1


# --- errors ------------------------------------------------------------------------------------------------

POINTS = np.zeros((5, 2))
U23 = np.zeros((3, 5))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: reference.filter([0.0], [0.0]), "features: must have shape [N, d], got shape (1,)"),
        (lambda: reference.filter([[np.nan]], [1.0]), "features: must be finite, got NaN or inf"),
        (
            lambda: reference.filter(POINTS, np.zeros(4)),
            "values: must have shape [N] or [C, N] with N = 5, got shape (4,)",
        ),
        (
            lambda: reference.normalizers(reference.GaussianMatrix(POINTS), "both"),
            "normalization: must be one of symmetric, after, before, none, got 'both'",
        ),
        (lambda: reference.mean_field(np.zeros(5), []), "unary: must have shape [L, N], got shape (5,)"),
        (
            lambda: reference.mean_field(U23, [(POINTS, [1.0, 2.0])]),
            "weight: must be a number, [3] or [3, 3], got shape (2,)",
        ),
        (
            lambda: reference.mean_field(U23, [(POINTS,)], np.eye(2)),
            "compatibility: must be a number, [3] or [3, 3], got shape (2, 2)",
        ),
        (
            lambda: reference.mean_field(U23, [(POINTS,)], "ising"),
            "compatibility: must be 'potts', a number, [L] or [L, L], got 'ising'",
        ),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message
