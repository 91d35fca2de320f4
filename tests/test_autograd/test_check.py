"""gradcheck passes correct vjps. It catches every kind of wrong vjp, and names the wrong entry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autograd import GradientMismatch, Tensor, exp, gradcheck, no_grad, record

MODES = ["directional", "full", "complex"]
SEEDS = st.integers(0, 2**32 - 1)
each_mode = pytest.mark.parametrize("mode", MODES)


def entries(seed=0, *shape):
    """Random numbers away from 0, so that x**3 has no slope that is small by chance."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0.5, 2.0, shape or (3, 4)) * rng.choice([-1.0, 1.0], shape or (3, 4))


def cube_with(gradient):
    """Return x**3 as an op whose vjp returns `gradient(g, x)`."""
    return lambda x: record(x.data**3, (x,), lambda g, a=x.data: (gradient(g, a),))


def right(g, x):
    return g * 3.0 * x * x


def changed(gradient, change):
    """Return the gradient with its entry (1, 2) changed."""
    out = gradient.copy()
    out[1, 2] = change(out[1, 2])
    return out


cube = cube_with(right)
ANYWHERE = {
    "wrong by a thousandth": lambda g, x: right(g, x) * 1.001,
    "forgets g": lambda g, x: right(np.ones_like(g), x),
    "zeros": lambda g, x: np.zeros_like(x),
    "NaN": lambda g, x: np.full_like(x, np.nan),
    "constant factor": lambda g, x: right(g, x) * 2.0,
    "derivative of another power": lambda g, x: g * 2.0 * x,
    "g of the neighbour": lambda g, x: right(np.roll(g, 1), x),
}
AT_ONE_ENTRY = {
    "sign of one entry": lambda g, x: changed(right(g, x), lambda d: -d),
    "one entry is off by a thousandth": lambda g, x: changed(right(g, x), lambda d: 1.001 * d),
    "one entry is NaN": lambda g, x: changed(right(g, x), lambda d: np.nan),
    "one entry is 0": lambda g, x: changed(right(g, x), lambda d: 0.0),
}
FAULTS = ANYWHERE | AT_ONE_ENTRY


def mismatch(f, inputs, **options):
    with pytest.raises(GradientMismatch) as caught:
        gradcheck(f, inputs, **options)
    return caught.value


# -- the verdict ---------------------------------------------------------------------------------


@each_mode
@given(seed=SEEDS)
def test_right_gradients_are_accepted(mode, seed):
    x, y = entries(seed, 2, 3), entries(seed + 1, 3)
    report = gradcheck(lambda x, y: exp(cube(x) * 0.1) @ y / (y * y).sum(), [x, y], mode=mode)
    assert report.ok and report.mode == mode
    assert report.checked == {"directional": 3 + 3, "full": 6 + 3, "complex": 6 + 3}[mode]


@each_mode
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("seed", range(3))
def test_wrong_gradients_are_rejected(mode, fault, seed):
    report = mismatch(cube_with(FAULTS[fault]), [entries(seed)], mode=mode, rng=seed).report
    assert not report.ok and report.mode == mode


@each_mode
@pytest.mark.parametrize("fault", AT_ONE_ENTRY)
def test_the_wrong_entry_of_the_wrong_input_is_named(mode, fault):
    wrong, g = cube_with(FAULTS[fault]), np.random.default_rng(5).standard_normal((3, 4))
    x, y = entries(1), Tensor(entries(2))
    inputs = {"fine": Tensor(x), "weight": y, "also fine": Tensor(x)}
    error = mismatch(lambda a, b, c: a * c + wrong(b), inputs, mode=mode, cotangent=g)
    report, slope = error.report, right(g, y.data)[1, 2]
    assert (report.input, report.index) == ("weight", (1, 2))
    assert isinstance(error, AssertionError) and str(error) == str(report)
    # `numeric` has an error of about h**2; `analytic` is exactly the entry from the vjp.
    np.testing.assert_allclose(report.numeric, slope, rtol=1e-8)
    np.testing.assert_equal(report.analytic, FAULTS[fault](g, y.data)[1, 2])
    np.testing.assert_equal(report.absolute_error, abs(report.analytic - report.numeric))
    larger = max(abs(report.numeric), abs(report.analytic))
    np.testing.assert_equal(report.relative_error, report.absolute_error / larger)
    assert not report.absolute_error <= report.tolerance
    for part in (
        "wrong gradient",
        f"{mode} check",
        "input weight at entry (1, 2)",
        f"analytic {report.analytic:.12g}",
        f"numeric {report.numeric:.12g}",
        f"absolute error {report.absolute_error:.3g}",
        f"relative error {report.relative_error:.3g}",
        f"allowed {report.tolerance:.3g}",
    ):
        assert part in str(error)


@each_mode
def test_worst_entry_is_the_one_farthest_beyond_its_tolerance(mode):
    factors = 1.0 + 1e-3 * np.arange(12.0).reshape(3, 4)
    f = cube_with(lambda g, x: right(g, x) * factors)
    assert mismatch(f, [entries()], mode=mode, atol=0.0).report.index == (2, 3)
    # With an absolute tolerance alone, the worst entry is the one with the largest error.
    slopes = np.array([[1.0, 4.0], [2.0, 3.0]])  # of x**3 with this cotangent
    f, x = cube_with(lambda g, x: 1.001 * right(g, x)), np.full((2, 2), 3.0**-0.5)
    options = {"mode": mode, "cotangent": slopes, "rtol": 0.0, "atol": 1e-9}
    assert mismatch(f, [x], **options).report.index == (0, 1)


@each_mode
def test_cotangent_of_ones_hides_a_forgotten_g(mode):
    f = cube_with(FAULTS["forgets g"])
    assert gradcheck(f, [entries()], mode=mode, cotangent=np.ones((3, 4))).ok
    mismatch(f, [entries()], mode=mode)  # so the default is random


def test_nan_is_a_value_that_can_be_the_same_twice():
    f = cube_with(FAULTS["NaN"])
    report = mismatch(lambda x: f(x) * Tensor([[np.nan]]), [entries()]).report
    assert np.isnan(report.numeric)


def test_a_direction_in_which_nothing_changes_may_be_checked_too():
    # For some v, the terms of <gradient, v> nearly cancel: rounding and truncation errors remain.
    x, g = np.full(2, 1.0), [1e6, -1e6]
    for seed in range(200):
        assert gradcheck(lambda x: exp(x), [x], cotangent=g, rng=seed, directions=1).ok


def test_where_every_entry_passes_the_direction_is_reported():
    # Each entry is off by less than atol, but the errors add up to more.
    f = cube_with(lambda g, x: right(g, x) + 0.9e-8 * np.sign(g))
    options = {"cotangent": np.ones(400), "rtol": 1e-12, "directions": 20}
    report = mismatch(f, [np.full(400, 1e-3)], **options).report
    assert report.index is None


def test_large_input_is_not_searched_for_the_entry():
    f = cube_with(FAULTS["constant factor"])
    report = mismatch(f, [entries(0, 20_001)]).report
    assert report.index is None and "along a random direction" in str(report)


@each_mode
def test_input_that_does_not_matter_has_gradient_0(mode):
    inputs = [entries(), entries(1)]
    assert gradcheck(lambda x, y: cube(y), inputs, mode=mode).ok
    report = gradcheck(lambda x: Tensor(np.ones(3)), [entries()], mode=mode)
    assert report.ok and (report.analytic, report.numeric, report.relative_error) == (0, 0, 0)
    # The graph does not know that the result depends on y, so the gradient is 0, which is wrong.
    cut = mismatch(lambda x, y: cube(x) + y.detach(), inputs, mode=mode).report
    assert (cut.input, cut.analytic) == ("1", 0.0)


# -- refusals ------------------------------------------------------------------------------------


@each_mode
def test_float32_is_refused_with_the_reason(mode):
    for x in (entries().astype(np.float32), Tensor(entries().astype(np.float32))):
        with pytest.raises(TypeError, match="needs float64, but input 1 is float32; .*too coarse"):
            gradcheck(lambda x, y: y * y, [entries(), x], mode=mode)


@each_mode
def test_float32_is_judged_coarsely_where_forced(mode):
    dtypes = set()

    def f(x, y):
        dtypes.add(x.dtype)
        return exp(cube(x) * 0.1) * y

    single = [entries(seed).astype(np.float32) for seed in (0, 1)]
    assert gradcheck(f, single, mode=mode, force=True).ok
    # Every call computes in single precision, with the complex step too.
    assert dtypes == {np.dtype(d) for d in ("f4", "c8")[: 1 + (mode == "complex")]}
    assert gradcheck(f, [entries(), entries(1)], mode=mode, force=True, rtol=1e-6, atol=1e-8).ok
    for fault in ("constant factor", "forgets g", "zeros", "NaN", "g of the neighbour"):
        mismatch(cube_with(FAULTS[fault]), single[:1], mode=mode, force=True)
    error = {"directional": 1e-2, "full": 1e-2, "complex": 1e-4}[mode]
    wrong = cube_with(lambda g, x: (right(g, x) * (1.0 + 3.0 * error)).astype(x.dtype))
    mismatch(wrong, [2.0 * single[0]], mode=mode, force=True)
    slightly_wrong = cube_with(lambda g, x: (right(g, x) * (1.0 + 0.1 * error)).astype(x.dtype))
    assert gradcheck(slightly_wrong, single[:1], mode=mode, force=True).ok
    mismatch(slightly_wrong, [entries()], mode=mode, force=True, rtol=1e-6)  # float64 stays strict


@each_mode
def test_complex_inputs_are_refused_even_where_forced(mode):
    with pytest.raises(TypeError, match="needs float64, but input 0 is complex128"):
        gradcheck(lambda x: x * x, [entries() + 1j], mode=mode, force=True)


@each_mode
def test_function_that_is_not_deterministic_is_refused(mode):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="not deterministic"):
        gradcheck(lambda x: x * rng.random(x.shape), [entries()], mode=mode)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ([], {}, "at least one input"),
        ({}, {}, "at least one input"),
        ([np.zeros((0, 3)), np.zeros(0)], {"mode": "directional"}, "not empty"),
        ([np.zeros((0, 3)), np.zeros(0)], {"mode": "full"}, "not empty"),
        ([entries()], {"mode": "exact"}, "'exact' is unknown; .*directional, full, complex"),
        ([entries()], {"cotangent": np.ones((4, 3))}, "cotangent of shape"),
        ([entries()], {"cotangent": 1.0}, "cotangent of shape"),
        ([Tensor(entries(), requires_grad=True) * 1.0], {}, "input 0 is part of a graph; .*deta"),
        ([entries()], {"directions": 0}, "directions=0 at least 1"),
        ([entries()], {"step": 0.0}, "step=0.0 must be positive"),
        ([entries()], {"step": np.nan}, "step=nan must be positive"),
    ],
)
def test_wrong_arguments_are_refused(inputs, options, message):
    with pytest.raises(ValueError, match=message):
        gradcheck(lambda *xs: cube(xs[0]) if xs else Tensor(1.0), inputs, **options)


def test_wrong_numbers_are_refused_before_f_is_called():
    rng = np.random.default_rng(0)
    for wrong, message in (
        ({"step": -1.0}, "step=-1.0 must be positive"),
        ({"directions": 0}, "step=6e-06 must be positive, and directions=0 at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            gradcheck(lambda x: 1 / 0, [entries()], rng=rng, **wrong)
    assert rng.random() == np.random.default_rng(0).random()


def test_one_array_is_no_sequence_of_inputs():
    for x in (entries(), Tensor(entries())):
        with pytest.raises(TypeError, match=r"write \[x\]"):
            gradcheck(cube, x)


def test_a_function_that_returns_an_array_is_refused():
    with pytest.raises(TypeError, match="f must return a Tensor, not ndarray"):
        gradcheck(lambda x: cube(x).data, [entries()])


@pytest.mark.parametrize("cotangent", [1.0, np.ones((2, 3))])
def test_wrong_cotangent_is_refused_for_a_constant_too(cotangent):
    with pytest.raises(ValueError, match="cotangent"):
        gradcheck(lambda x: Tensor(np.ones(3)), [entries()], cotangent=cotangent)


# -- nothing is left behind ----------------------------------------------------------------------


class CountedCube:
    """The sum of x**3 over the inputs. It counts its calls, and call number `fails_at` fails."""

    def __init__(self, fails_at=None, f=cube):
        self.calls, self.fails_at, self.f = 0, fails_at, f

    def __call__(self, *inputs):
        self.calls += 1
        if self.calls == self.fails_at:
            raise KeyError("f failed")
        out = self.f(inputs[0])
        for x in inputs[1:]:
            out = out + self.f(x)
        return out


def check_leaves_no_trace(f, mode, error):
    x, y = Tensor(entries(1), requires_grad=True), Tensor(entries(2))
    x.grad = entries(3)
    arrays = [x.data, y.data, x.grad]
    values = [a.copy() for a in arrays]
    if error is None:
        gradcheck(f, {"x": x, "y": y}, mode=mode)
    else:
        with pytest.raises(error):
            gradcheck(f, {"x": x, "y": y}, mode=mode)
    for now, before, value in zip((x.data, y.data, x.grad), arrays, values, strict=True):
        assert now is before and np.array_equal(now, value)
    assert (x.requires_grad, y.requires_grad, y.grad) == (True, False, None)


@each_mode
def test_given_tensors_are_restored(mode):
    check_leaves_no_trace(CountedCube(), mode, None)
    check_leaves_no_trace(CountedCube(f=cube_with(FAULTS["zeros"])), mode, GradientMismatch)


@each_mode
@pytest.mark.parametrize("fails_at", [1, 2, 3, 4, 5, 8])
def test_given_tensors_are_restored_when_f_raises(mode, fails_at):
    check_leaves_no_trace(CountedCube(fails_at), mode, KeyError)


@each_mode
def test_given_arrays_are_not_changed(mode):
    x = entries()
    x.flags.writeable = False  # so a write into x is an error
    assert gradcheck(cube, [x], mode=mode).ok
    assert np.array_equal(x, entries())


@pytest.mark.parametrize("fails_at", [None, 1, 3, 4])
def test_recording_is_as_before(fails_at):
    def recording():
        return (Tensor(1.0, requires_grad=True) * 2.0).requires_grad

    def check():
        if fails_at is None:
            gradcheck(CountedCube(), [entries()])
        else:
            with pytest.raises(KeyError):
                gradcheck(CountedCube(fails_at), [entries()])

    check()
    assert recording()
    with no_grad():
        check()  # the verdict is the same under no_grad
        assert not recording()


# -- arguments -----------------------------------------------------------------------------------


def test_inputs_may_be_read_where_they_live():
    parameters = {"weight": Tensor(entries(1), requires_grad=True), "bias": Tensor(entries(2))}
    f = lambda *_: cube(parameters["weight"]) * parameters["bias"]  # noqa: E731
    assert gradcheck(f, parameters, mode="full").checked == 24
    wrong = cube_with(FAULTS["zeros"])
    f = lambda *_: parameters["weight"] + wrong(parameters["bias"])  # noqa: E731
    assert mismatch(f, parameters).report.input == "bias"


@pytest.mark.parametrize("directions", [1, 3, 10])
def test_directional_check_takes_two_evaluations_a_direction(directions):
    f = CountedCube()
    report = gradcheck(f, [entries(1), entries(2)], directions=directions)
    # Two calls test whether f is deterministic, and one records the graph for the vjp. Then each
    # input and direction needs two.
    assert f.calls == 2 + 1 + 2 * 2 * directions
    assert report.checked == 2 * directions


@pytest.mark.parametrize(("mode", "evaluations"), [("full", 2), ("complex", 1)])
def test_other_checks_evaluate_at_every_entry(mode, evaluations):
    f = CountedCube()
    assert gradcheck(f, [entries()], mode=mode).checked == 12
    assert f.calls == 2 + 1 + evaluations * 12


@each_mode
def test_same_seed_gives_the_same_report(mode):
    first = gradcheck(cube, [entries()], mode=mode, rng=3)
    assert gradcheck(cube, [entries()], mode=mode, rng=np.random.default_rng(3)) == first
    assert gradcheck(cube, [entries()], mode=mode, rng=4) != first


@each_mode
def test_tolerances_are_what_is_allowed(mode):
    x, f = [entries()], cube_with(FAULTS["wrong by a thousandth"])
    mismatch(f, x, mode=mode, rtol=0.9e-3, atol=0.0, directions=10)
    assert gradcheck(f, x, mode=mode, rtol=1.1e-3, atol=0.0).ok
    g = np.eye(3, 4)  # only the diagonal has slopes: 3 x**2
    largest = 1e-3 * (3.0 * np.diagonal(x[0]) ** 2).max()
    options = {"mode": mode, "rtol": 0.0, "cotangent": g}
    if mode != "directional":
        mismatch(f, x, atol=0.99 * largest, **options)
    report = gradcheck(f, x, atol=1.01 * np.sqrt(12.0) * largest, **options)
    assert report.ok and report.tolerance == 1.01 * np.sqrt(12.0) * largest


def test_directions_have_length_1():
    """So the compared points lie at the distance h, however many entries the input has."""
    for seed in range(5):
        report = gradcheck(cube, [np.array([0.5])], cotangent=[2.0], directions=1, rng=seed)
        np.testing.assert_allclose(abs(report.analytic), 2.0 * 3.0 * 0.25, rtol=1e-12)
    distances = []

    def f(x):
        distances.append(float(np.linalg.norm(x.data - entries())))
        return cube(x)

    gradcheck(f, [entries()], directions=4, step=1e-3, rtol=1e-3)
    np.testing.assert_allclose(distances[3:], 1e-3, rtol=1e-9)
    assert len(distances) == 3 + 2 * 4


@each_mode
def test_cotangent_is_the_one_given(mode):
    g = np.zeros((3, 4))
    g[1, 2] = 5.0
    only_here = {"directional": cube_with(FAULTS["zeros"]), "full": cube, "complex": cube}[mode]
    wrong = cube_with(lambda g, x: changed(right(g, x), lambda d: 0.0))
    report = mismatch(wrong, [entries()], mode=mode, cotangent=g.tolist()).report
    # The numeric derivative is off by about h**2.
    np.testing.assert_allclose(report.numeric, 15.0 * entries()[1, 2] ** 2, rtol=1e-8)
    assert report.index == (1, 2) and only_here is not None


@pytest.mark.parametrize("h", [1e-1, 1e-2])
def test_step_is_the_h_of_the_difference(h):
    x = np.array([1.5])
    report = mismatch(cube, [x], mode="full", cotangent=[1.0], step=h).report
    # ((x+h)**3 - (x-h)**3) / 2h = 3x**2 + h**2, up to the rounding of values near 3, divided by 2h.
    np.testing.assert_allclose(report.absolute_error, h * h, atol=1e-14 / h)
    complex_step = mismatch(cube, [x], mode="complex", cotangent=[1.0], step=h).report
    np.testing.assert_allclose(complex_step.numeric, 3.0 * 1.5**2 - h * h, rtol=1e-13)
