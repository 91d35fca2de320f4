"""gradcheck passes correct vjps. It catches every kind of wrong vjp, and names the wrong entry."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autograd import (
    GradientMismatch,
    GradientUndecided,
    Tensor,
    concatenate,
    exp,
    gradcheck,
    log,
    no_grad,
    record,
    sqrt,
    tanh,
    where,
)
from npgpt2 import functional as F
from tests.optional import needs

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


def undecided(f, inputs, **options):
    with pytest.raises(GradientUndecided) as caught:
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
    assert str(report) == (
        "wrong gradient: input weight at entry (1, 2): "
        f"analytic {report.analytic:.12g}, numeric {report.numeric:.12g}, "
        f"relative error {report.relative_error:.2g}"
    )
    assert report.numeric_error <= report.tolerance
    assert [row.input for row in report.inputs] == list(inputs)
    assert [row.verdict for row in report.inputs] == ["right", "wrong", "right"]


@each_mode
def test_worst_entry_is_the_one_farthest_beyond_its_tolerance(mode):
    factors = 1.0 + 1e-4 * 2.0 ** np.arange(12.0).reshape(3, 4)
    f = cube_with(lambda g, x: right(g, x) * factors)
    options = {"mode": mode, "cotangent": np.ones((3, 4))}
    assert mismatch(f, [entries()], **options).report.index == (2, 3)
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
    report = undecided(lambda x: f(x) * Tensor([[np.nan]]), [entries()]).report
    assert report.reason == "domain"


# -- the error of the difference -----------------------------------------------------------------

CLASSES = np.array([0, 3, 1])


def softmax(x):
    e = exp(x - x.max(axis=-1, keepdims=True).detach())
    return e / e.sum(axis=-1, keepdims=True)


def normalized(x):  # by torch
    centered = x - x.mean(-1, keepdim=True)
    return centered / ((centered**2).mean(-1, keepdim=True) + 1e-5).sqrt()


def layer_norm(x):
    return F.layer_norm(x, Tensor(np.ones(4)), Tensor(np.zeros(4)))


# Each function of x, or of x and y, in autograd and in torch.
PAIRS = {
    "exp": (exp, lambda x: x.exp()),
    "log": (lambda x: log(x * x), lambda x: (x * x).log()),
    "sqrt": (lambda x: sqrt(x * x), lambda x: (x * x).sqrt()),
    "tanh": (tanh, lambda x: x.tanh()),
    "1 / x": (lambda x: 1.0 / x, lambda x: 1.0 / x),
    "x**3": (lambda x: x**3, lambda x: x**3),
    "sum of x**2": (lambda x: (x * x).sum(), lambda x: (x * x).sum()),
    "mean": (lambda x: x.mean(axis=0), lambda x: x.mean(0)),
    "max": (lambda x: x.max(axis=1), lambda x: x.amax(1)),
    "x @ y": (lambda x, y: x @ y.transpose(), lambda x, y: x @ y.T),
    "x * y": (lambda x, y: x * y, lambda x, y: x * y),
    "x / y": (lambda x, y: x / y, lambda x, y: x / y),
    "softmax": (softmax, lambda x: x.softmax(-1)),
    "log of softmax": (lambda x: log(softmax(x)), lambda x: x.softmax(-1).log()),
    "layer_norm": (layer_norm, normalized),
    "gelu": (F.gelu, lambda x: 0.5 * x * (1 + (GELU * (x + 0.044715 * x**3)).tanh())),
    "cross_entropy": (
        lambda x: F.cross_entropy(x, CLASSES),
        lambda x: -x.log_softmax(-1)[range(3), CLASSES].mean(),
    ),
    "cross_entropy of x @ y": (
        lambda x, y: F.cross_entropy(x @ y.transpose(), CLASSES % 3),
        lambda x, y: -(x @ y.T).log_softmax(-1)[range(3), CLASSES % 3].mean(),
    ),
}
GELU = (2.0 / np.pi) ** 0.5
SCALES = np.logspace(-6.0, 6.0, 8)
# The scales at which a right gradient cannot be judged, with the reason: f itself is infinite, or
# the probabilities are 0 and 1 up to rounding.
CANNOT_BE_JUDGED = {
    "exp": {6: "domain", 7: "domain"},
    "softmax": {5: "rounding"},
    "log of softmax": {5: "domain", 6: "domain", 7: "domain"},
}


def verdict_of(f, inputs, **options):
    try:
        return gradcheck(f, inputs, **options)
    except (GradientMismatch, GradientUndecided) as error:
        return error.report


def times(factor):
    """Return the identity with a gradient that is wrong by this factor."""
    return lambda a: record(a.data, (a,), lambda g: (factor * g,))


def draw(name, k, seed):
    rng = np.random.default_rng([seed, k])
    inputs = SCALES[k] * rng.standard_normal((2, 3, 4))
    return list(inputs)[: 2 if "y" in name.split() else 1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PAIRS)
def test_right_gradients_at_all_scales(name, mode):
    """They are right, or cannot be judged; never wrong."""
    found = {}
    for k, seed in itertools.product(range(len(SCALES)), range(2)):
        report = verdict_of(PAIRS[name][0], draw(name, k, seed), mode=mode, rng=seed)
        assert report.verdict != "wrong", (SCALES[k], str(report))
        if not report.ok:
            found[k] = report.reason
    known = CANNOT_BE_JUDGED.get(name, {})
    assert found == known or (mode == "complex" and found.items() <= known.items())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PAIRS)
def test_gradients_wrong_by_a_ten_thousandth_at_all_scales(name, mode):
    """All gradients are wrong, or one of two. They are called right only if they are 0."""
    f = PAIRS[name][0]
    for k in range(len(SCALES)):
        inputs = draw(name, k, 0)
        n = len(inputs)
        for factors in ([1.0001] * n, [1.0001, 1.0][:n], [1.0, 1.0001][-n:]):

            def wrong(*xs, factors=factors):
                return f(*(times(factor)(x) for factor, x in zip(factors, xs, strict=True)))

            report = verdict_of(wrong, inputs, mode=mode)
            if report.verdict == "right":
                leaves = [Tensor(x, requires_grad=True) for x in inputs]
                out = f(*leaves)
                out.backward(np.random.default_rng(0).standard_normal(out.shape))
                changed = [x for x, factor in zip(leaves, factors, strict=True) if factor != 1.0]
                assert not any(np.any(x.grad) for x in changed), (SCALES[k], report.full())


@needs("torch")
@pytest.mark.parametrize("name", PAIRS)
def test_what_torch_accepts_is_accepted(name):
    import torch

    f, by_torch = PAIRS[name]
    for k in range(len(SCALES)):
        inputs = draw(name, k, 0)
        tensors = [torch.tensor(x, requires_grad=True) for x in inputs]
        accepted = torch.autograd.gradcheck(by_torch, tensors, raise_exception=False)
        report = verdict_of(f, inputs)
        assert report.ok or not accepted or k in CANNOT_BE_JUDGED.get(name, {}), SCALES[k]


HIDDEN = {  # functions with gradients that are definite, but far below the rounding error of L
    "1 + x**4": (lambda x: 1.0 + x**4, [1e-5, -2e-5]),
    "(x + c) * (x - c)": (lambda x: (x + 1e4) * (x - 1e4), [1e-6, 3e-6]),
    "beside a large input": (lambda x: concatenate([x, Tensor([1e6])]).sum(), [1e-12, 2e-12]),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_a_definite_gradient_that_rounding_hides_is_not_passed(name):
    f, x = HIDDEN[name]
    for mode, factor in itertools.product(MODES, (1.0, 1.0001)):
        report = verdict_of(lambda x, factor=factor: f(times(factor)(x)), [x], mode=mode)
        if mode == "complex":  # the imaginary part of f is not hidden
            assert report.verdict == ("right" if factor == 1.0 else "wrong"), (factor, str(report))
        else:
            assert report.reason == "rounding", (mode, factor, str(report))


@each_mode
def test_two_derivatives_that_are_rounding_errors_pass(mode):
    """Softmax does not change with a shift, so this gradient is 0, and the vjp rounds it."""
    x = entries(1, 3, 5)
    assert gradcheck(lambda c: F.softmax(Tensor(x) + c), [[2.0]], mode=mode).ok


@pytest.mark.parametrize("scale", [1e-6, 5e-5, 3e-3])
@pytest.mark.parametrize("seed", range(4))
def test_complex_steps_that_all_round_alike_accuse_nobody(scale, seed):
    x = scale * np.random.default_rng(seed).standard_normal((2, 3, 4))
    report = verdict_of(lambda x: (x + 1e4) * (x - 1e4), [x], mode="complex", rng=seed)
    assert report.verdict != "wrong", str(report)


@each_mode
@pytest.mark.parametrize("z", [10.0, 25.0, 30.0, 40.0, 300.0])
def test_a_gradient_with_few_right_digits_is_not_called_wrong(mode, z):
    """p - 1 loses the digits of 1 - p, if the target is nearly certain.

    From 32 to 37, p - 1 has no right digit, and only the complex step shows it.
    """
    report = verdict_of(lambda z: F.cross_entropy(z, [0]), [[[z, 0.0, -1.0]]], mode=mode)
    assert report.ok or report.verdict == "cannot be judged", str(report)


NEARLY_CERTAIN = {  # functions that lose digits if the first number is large
    "cross entropy": lambda t: F.cross_entropy(t.reshape((1, 2)), [0]),
    "linear cross entropy": lambda t: F.linear_cross_entropy(
        t.reshape((1, 2)), Tensor([[1.0, 0.25], [0.0, 0.5]]), np.array([0])
    ),
    "softmax": lambda t: F.softmax(t),
    "log(1 + exp(-x))": lambda t: log(1.0 + exp(-t)),
    "1 - tanh(x)**2": lambda t: 1.0 - tanh(0.5 * t) ** 2,
}


@each_mode
@pytest.mark.parametrize("name", NEARLY_CERTAIN)
def test_lost_digits_are_not_called_wrong(name, mode):
    """Right gradients never are. Gradients wrong by a ten-thousandth do not pass."""
    f, judged = NEARLY_CERTAIN[name], 0
    for z in np.arange(4.0, 42.0, 2.0):
        x = np.array([z, np.random.default_rng(int(z)).standard_normal()])
        report = verdict_of(f, [x], mode=mode, rng=int(z))
        assert report.verdict != "wrong", (z, str(report))
        judged += report.ok
        wrong = verdict_of(lambda t: f(times(1.0001)(t)), [x], mode=mode, rng=int(z))
        assert wrong.verdict != "right", (z, str(wrong))
    assert judged >= 3


def test_a_slope_that_two_steps_show_by_chance_accuses_nobody():
    """With w = [[0, 0.125, 0], ...] the loss is 6e-9, and log(1 + 6e-9) has 8 right digits."""
    x, w = [[2.125, 0.0, -2.5]], [[0.0, 0.125, 0.0], [-3.25, 0.125, 3.875]]
    for mode, seed in itertools.product(MODES, range(30)):
        inputs = [np.array(x), np.array(w)]
        report = verdict_of(
            lambda x, w: F.linear_cross_entropy(x, w, np.array([0])), inputs, mode=mode, rng=seed
        )
        assert report.verdict != "wrong", (mode, seed, str(report))


@pytest.mark.parametrize("seed", range(5))
def test_a_few_lost_digits_are_allowed(seed):
    """At z = 20, eight digits of p - 1 are right, but the tolerance of the complex step is 1e-9."""
    z = np.array([[20.0, 0.0, np.random.default_rng(seed).standard_normal()]])
    report = gradcheck(lambda z: F.cross_entropy(z, [0]), [z], mode="complex", rng=seed)
    assert report.ok and report.tolerance < 1e-8 * abs(report.numeric)


@pytest.mark.parametrize("mode", ["directional", "full"])
def test_atol_allows_what_rounding_hides(mode):
    f, x = (lambda x: (1.0 + x**4).sum()), [np.array([3e-3])]
    undecided(f, x, mode=mode)
    assert gradcheck(f, x, mode=mode, atol=1e-3).ok


@each_mode
@pytest.mark.parametrize("error", [3e-6, -8e-6])
def test_a_small_error_is_wrong_too(error, mode):
    """It is beyond rtol, but below the error that a numeric derivative may have."""
    mismatch(cube_with(lambda g, x: (1.0 + error) * right(g, x)), [entries()], mode=mode)


@each_mode
def test_a_constant_that_claims_a_slope_is_wrong(mode):
    mismatch(lambda x: record(np.ones(3), (x,), lambda g: (g,)), [entries(0, 3)], mode=mode)


@each_mode
@pytest.mark.parametrize("offset", [1e2, 1e5, 1e8])
def test_a_large_offset_hides_no_wrong_gradient(offset, mode):
    """Layer norm removes it. Close to x, in relation to x, its gradient changes completely."""

    def f(x, factor):
        return F.layer_norm(times(factor)(x), Tensor(np.ones(4)), Tensor(np.zeros(4)))

    x = np.array([[1.0, 2.0, 3.0, 4.5]]) + offset
    assert gradcheck(lambda x: f(x, 1.0), [x], mode=mode).ok
    report = verdict_of(lambda x: f(x, 1.0001), [x], mode=mode)
    assert report.verdict == ("wrong" if offset < 1e8 else "cannot be judged"), str(report)


def relu(x):
    return where(x.data > 0.0, x, 0.0 * x)


HARD = {  # f, x and the reason why the gradient cannot be judged
    "relu at 0": (relu, [0.0, 1.0, -1.0], "kink"),
    "relu at zeros": (relu, np.zeros(3), "kink"),
    "|x| at 0": (lambda x: where(x.data > 0.0, x, -x), [0.0, 2.0], "kink"),
    "sqrt at 0": (lambda x: sqrt(x), [0.0, 1.0], "domain"),
    "log of -1": (lambda x: log(x), [-1.0], "domain"),
    "overflow": (lambda x: x * x, [1e160], "domain"),
    "NaN": (exp, [np.nan, 1.0], "domain"),
    "small beside 1, with a log": (
        lambda x: F.linear_cross_entropy(x, Tensor([[-1.625], [3.125]]), np.array(1)),
        [5.0],
        "rounding",
    ),
    "small beside 1": (lambda x: (1.0 + x**4).sum(), [3e-3], "rounding"),
}


@pytest.mark.parametrize("mode", ["directional", "full"])
@pytest.mark.parametrize("case", HARD)
def test_what_cannot_be_judged_is_said_with_the_reason(case, mode):
    f, x, reason = HARD[case]
    with np.errstate(all="raise"):
        error = undecided(f, [np.array(x)], mode=mode)
    report = error.report
    assert not isinstance(error, AssertionError) and not report.ok
    assert (report.verdict, report.reason) == ("cannot be judged", reason)
    assert report.index == (0,) or not np.any(x)  # equal entries are equally bad
    complex_helps = "" if reason == "kink" else ", use mode='complex'"
    start = f"cannot be judged at this point{complex_helps}: input 0 at entry {report.index}: "
    assert str(error).startswith(start)


JUDGED = {  # f and x, where steps of one size cannot judge
    "relu near 0": (relu, [1e-13, 1.0, -2.0]),
    "relu near 0, on the left": (relu, [-1e-9, 1.0, -2.0]),
    "log": (log, [1e-6, 1e6]),
    "log of tiny numbers": (log, [1e-300, 1e-200]),
    "1 / x": (lambda x: 1.0 / x, [1e-6, 1e6, -1.0]),
    "x * x, with 0": (lambda x: x * x, [1e-6, 1e6, 0.0]),
    "max of equals: the mean of both slopes": (lambda x: x.max(axis=0), [1.0, 1.0, 0.0]),
    "x**3 at 0": (lambda x: x**3, [0.0]),
    "large plus small": (lambda x: 1e8 + x, [1e-3, 2.0]),
    "1 + x**2": (lambda x: (1.0 + x * x).sum(), [1e-6, 2e-6]),
    "softmax, summed": (lambda x: softmax(x).sum(), [0.3, -0.2, 0.1]),
    "infinite entry": (exp, [-np.inf, 1.0]),
    "huge": (lambda x: 0.5 * x, [1e300, 1.0]),
    "fast": (lambda x: tanh(1e6 * x), [1e-6, 0.5e-6]),
}


@pytest.mark.parametrize("mode", ["directional", "full"])
@pytest.mark.parametrize("case", JUDGED)
def test_other_steps_judge_where_the_first_one_cannot(case, mode):
    f, x = JUDGED[case]
    with np.errstate(all="raise"):
        assert gradcheck(f, [np.array(x)], mode=mode).ok


def test_a_wrong_input_among_hard_ones_is_named():
    wrong = times(1.0001)
    inputs = {"kink": Tensor(np.zeros(2)), "x": Tensor([1.0, 2.0])}
    report = mismatch(lambda a, b: relu(a) + wrong(b), inputs).report
    assert report.input == "x" and [row.verdict for row in report.inputs][1] == "wrong"


def test_inputs_that_are_too_large_to_search_are_not_judged_by_entries():
    report = undecided(relu, [np.zeros(20_001)]).report
    assert report.index is None and report.reason == "kink"


@each_mode
@pytest.mark.parametrize(
    "cut", [lambda y: y.detach(), lambda y: Tensor(y.data), lambda y: Tensor(np.array(y.data))]
)
def test_a_cut_graph_is_named(cut, mode):
    x, y = entries(), entries(1)
    for f, name in ((lambda x, y: x * cut(y), "1"), (lambda x, y: cut(x), "0")):
        report = mismatch(f, [x, y], mode=mode).report
        assert report.reason == "no path" and report.input == name
        assert str(report).startswith(f"no path from input {name}: its gradient is 0, but the")


def test_tiny_gradients_are_judged_too():
    for mode in MODES:
        for size in (1e-9, 1e-20, 1e-100, 1e12):
            x = entries()
            assert gradcheck(lambda x, size=size: size * x * x, [x], mode=mode).ok
            mismatch(lambda x, size=size: size * times(1.0001)(x) ** 2, [x], mode=mode)


def test_the_report_is_short_and_the_table_is_full():
    report = gradcheck(lambda x, y: cube(x) * y, {"x": Tensor(entries()), "y": Tensor(entries(1))})
    assert str(report).startswith("gradients agree (directional check, 6 derivatives): relative")
    first, head, *rows = report.full().splitlines()
    assert first == str(report) and head.split()[:4] == ["input", "place", "verdict", "analytic"]
    assert [row.split()[:3] for row in rows] == [[x, "direction", "right"] for x in "xy"]
    report = undecided(relu, [[0.0, 1.0]], mode="full").report
    assert "(0,)   cannot be judged (kink)" in report.full()


def test_a_direction_in_which_nothing_changes_may_be_checked_too():
    # For some v, the terms of <gradient, v> nearly cancel: rounding and truncation errors remain.
    x, g = np.full(2, 1.0), [1e6, -1e6]
    for seed in range(200):
        assert gradcheck(lambda x: exp(x), [x], cotangent=g, rng=seed, directions=1).ok


def test_where_every_entry_passes_the_direction_is_reported():
    # Each entry is off by less than atol, but the errors add up to more.
    f = cube_with(lambda g, x: right(g, x) + 0.9e-8 * np.sign(g))
    options = {"cotangent": np.ones(400), "rtol": 1e-12, "atol": 1e-8, "directions": 20}
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
        ([entries()], {"directions": 0}, "directions=0 must be from 1 to 10,000; mode='full'"),
        ([entries()], {"directions": 10_001}, "directions=10001 must be from 1 to 10,000"),
        ([entries()], {"directions": 10**400}, "directions=a huge number must be from 1"),
        ([entries()], {"step": 0.0}, "step=0.0 must be at least 2.22045e-16 and at most 1"),
        ([entries()], {"step": -1e-3}, "step=-0.001 must be at least 2.22045e-16 and at most 1"),
        ([entries()], {"step": 1.5}, "step=1.5 must be at least 2.22045e-16 and at most 1"),
        ([entries()], {"step": np.nan}, "step=nan must be at least 2.22045e-16"),
        ([entries()], {"step": 10**400}, "step=inf must be at least 2.22045e-16"),
        ([entries()], {"rtol": -1.0}, "rtol=-1.0 must be at least 0 and at most 1"),
        ([entries()], {"rtol": np.nan}, "rtol=nan must be at least 0"),
        ([entries()], {"rtol": 2}, "rtol=2.0 must be at least 0 and at most 1"),
        ([entries()], {"atol": np.inf}, "atol=inf must be at least 0 and finite"),
        ([entries()], {"atol": -1e-9}, "atol=-1e-09 must be at least 0 and finite"),
        ([entries()], {"cotangent": np.full((3, 4), np.nan)}, "cotangent must be real and finite"),
        ([entries()], {"cotangent": np.full((3, 4), 1j)}, "cotangent must be real and finite"),
        ([entries()], {"rng": -1}, "rng=-1 must be at least 0"),
    ],
)
def test_wrong_arguments_are_refused(inputs, options, message):
    with pytest.raises(ValueError, match=message):
        gradcheck(lambda *xs: cube(xs[0]) if xs else Tensor(1.0), inputs, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directions": 2.0}, "directions must be an integer, not 2.0"),
        ({"directions": True}, "directions must be an integer, not True"),
        ({"step": "1e-3"}, "step must be a number, not '1e-3'"),
        ({"rtol": False}, "rtol must be a number, not False"),
        ({"atol": None}, "atol must be a number, not None"),
        ({"mode": ["full"]}, r"mode must be a string, one of directional, full, complex, not \["),
        ({"rng": "0"}, "rng must be a np.random.Generator or an integer, not '0'"),
        ({"rng": None}, "rng must be a np.random.Generator or an integer, not None"),
        ({"force": "no"}, "force must be True or False, not 'no'"),
    ],
)
def test_arguments_of_wrong_types_are_refused(options, message):
    rng = np.random.default_rng(0)
    with pytest.raises(TypeError, match=message):
        gradcheck(lambda x: 1 / 0, [entries()], **{"rng": rng} | options)
    assert rng.random() == np.random.default_rng(0).random()  # nothing was drawn


def test_what_is_no_sequence_and_no_function_is_refused():
    with pytest.raises(TypeError, match="inputs must be a sequence or a mapping, not 3"):
        gradcheck(cube, 3)
    with pytest.raises(TypeError, match="f must be a function, not 3"):
        gradcheck(3, [entries()])


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
def test_directional_check_takes_four_evaluations_a_direction(directions):
    f = CountedCube()
    report = gradcheck(f, [entries(1), entries(2)], directions=directions)
    # Two calls test whether f is deterministic, and one records the graph for the vjp. Then each
    # input and direction needs four.
    assert f.calls == 2 + 1 + 2 * 4 * directions
    assert report.checked == 2 * directions


@pytest.mark.parametrize(("mode", "evaluations"), [("full", 4), ("complex", 1)])
def test_other_checks_evaluate_at_every_entry(mode, evaluations):
    f = CountedCube()
    assert gradcheck(f, [entries()], mode=mode).checked == 12
    assert f.calls == 2 + 1 + evaluations * 12


def test_a_wrong_gradient_does_not_take_many_evaluations():
    f = CountedCube(f=cube_with(FAULTS["constant factor"]))
    mismatch(f, [entries()])
    assert f.calls < 400


@each_mode
def test_same_seed_gives_the_same_report(mode):
    first = gradcheck(cube, [entries()], mode=mode, rng=3)
    assert gradcheck(cube, [entries()], mode=mode, rng=np.random.default_rng(3)) == first
    assert gradcheck(cube, [entries()], mode=mode, rng=4) != first


@each_mode
def test_tolerances_are_what_is_allowed(mode):
    x, f = [entries()], cube_with(FAULTS["wrong by a thousandth"])
    mismatch(f, x, mode=mode, rtol=0.9e-3, directions=10)
    report = gradcheck(f, x, mode=mode, rtol=1.1e-3)
    assert report.ok and report.tolerance > 1.1e-3 * min(abs(report.analytic), abs(report.numeric))
    g = np.eye(3, 4)  # only the diagonal has slopes: 3 x**2
    largest = 1e-3 * (3.0 * np.diagonal(x[0]) ** 2).max()
    options = {"mode": mode, "rtol": 0.0, "cotangent": g}
    if mode != "directional":
        mismatch(f, x, atol=0.99 * largest, **options)
    atol = 1.01 * np.sqrt(12.0) * largest
    report = gradcheck(f, x, atol=atol, **options)
    assert report.ok and atol <= report.tolerance <= atol + 2.0 * report.numeric_error + 1e-9


def test_steps_are_relative_to_the_size_of_each_entry():
    changes = []
    x = np.array([1e-4, 1.0, -3.0, 0.0])

    def f(a):
        changes.append(a.data - x)
        return a * 1.0

    gradcheck(f, [x], mode="full", step=0.125)
    change = np.abs(changes[3:]).reshape(4, 4, 4)  # entries, evaluations, x
    assert not change[~np.eye(4, dtype=bool)[:, None, :].repeat(4, axis=1)].any()
    typical = 0.1 * np.sqrt((x**2).sum() / 3.0)  # for entries near 0
    for j, size in enumerate([typical, 1.0, 3.0, typical]):
        np.testing.assert_allclose(change[j, :, j] / size, [0.125, 0.125, 0.25, 0.25], rtol=1e-12)


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
def test_step_of_the_complex_mode_is_relative(h):
    x = np.array([1.5])
    report = mismatch(cube, [x], mode="complex", cotangent=[1.0], step=h).report
    # Im (x + i h x)**3 / h x = 3 x**2 - (h x)**2
    np.testing.assert_allclose(report.numeric, 3.0 * 1.5**2 - (1.5 * h) ** 2, rtol=1e-13)


LOST = {  # the first step does not change f, because f rounds inside
    "log(1 + x**2)": (lambda x: log(1.0 + x * x), [1e-12, -2e-12]),
    "exp(x) - 1": (lambda x: exp(x) - 1.0, [1e-20, -2e-20]),
    "(x + c) - c": (lambda x: (x + 1e8) - 1e8, [1e-10, -2e-12]),
}


@pytest.mark.parametrize("name", LOST)
@pytest.mark.parametrize("mode", ["directional", "full"])
def test_a_right_gradient_that_no_step_shows_is_not_called_wrong(name, mode):
    f, x = LOST[name]
    assert undecided(f, [x], mode=mode).report.verdict == "cannot be judged"
    assert gradcheck(f, [x], mode="complex").ok


@pytest.mark.parametrize("mode", ["directional", "full"])
def test_a_staircase_has_no_slope(mode):
    """Over many stairs the slope is 1, but the first step does not change f."""
    stairs = lambda x: record(np.round(x.data), (x,), lambda g: (g,))  # noqa: E731
    assert verdict_of(stairs, [[0.3, 1.2]], mode=mode).verdict == "cannot be judged"


@each_mode
@pytest.mark.parametrize("size", [1e-12, 1e-9, 1e-6, 1.0])
def test_a_cut_graph_is_found_at_all_scales(mode, size):
    """Small steps do not change f here, so the larger ones count."""
    x, y = size * entries(), entries(1)
    for f, name in (
        (lambda x, y: y / (1.0 + exp(-Tensor(x.data))), "0"),
        (lambda x, y: 2.0 * y + Tensor(x.data) + 5.0, "0"),
        (lambda x, y: F.cross_entropy(Tensor(x.data), [1, 2, 0]) * y, "0"),
    ):
        report = mismatch(f, [x, y], mode=mode).report
        assert (report.reason, report.input) == ("no path", name)


def test_a_complex_step_is_checked_at_a_kink():
    relu = lambda x: np.maximum(x, 0.0)  # noqa: E731
    report = gradcheck(relu, [[0.0]], mode="complex")
    assert report.ok and "right (kink)" in report.full()
    assert undecided(sqrt, [[0.0, 1.0]], mode="complex").report.reason == "domain"
    wrong = lambda x: relu(times(1.0001)(x))  # noqa: E731
    assert mismatch(wrong, [[0.5, 1.0]], mode="complex").report.reason == ""


@pytest.mark.parametrize("step", [2.3e-16, 1e-15, 1e-10])
def test_a_first_step_that_is_lost_in_rounding_proves_nothing(step):
    wrong = lambda x: times(0.5)(x) * 2.0  # noqa: E731
    for mode in MODES:
        mismatch(wrong, [[-3.0, -1.0]], mode=mode, step=step)


def test_ragged_cotangent():
    with pytest.raises(ValueError, match="rows of the cotangent must have equal lengths"):
        gradcheck(lambda x: x * 2.0, [[1.0]], cotangent=[[1.0], [1.0, 2.0]])
