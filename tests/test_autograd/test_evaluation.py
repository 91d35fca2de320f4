"""f and its vjp are evaluated near x, and rounding errors of the vjp are told from its slopes."""

from __future__ import annotations

import numpy as np
import pytest

from autograd import Tensor, exp, record, relu, sin, tanh
from autograd.evaluation import analytic, at, evaluate, largest_value, rounding_errors

EPS = float(np.finfo(float).eps)


def errors(f, *inputs):
    """Return the rounding errors of the gradients near x and far from it, and the gradients."""
    leaves = {str(i): Tensor(x) for i, x in enumerate(inputs)}
    g = np.ones(evaluate(f, leaves).shape)
    gradients, _ = analytic(f, leaves, g)
    near, far = rounding_errors(f, leaves, g, gradients, EPS)
    assert all(leaf.grad is None for leaf in leaves.values())
    return [[part[name] for name in leaves] for part in (near, far, gradients)]


@pytest.mark.parametrize("f", [exp, sin, tanh, lambda x: x**3, lambda x: 2.0 * x])
def test_a_smooth_gradient_is_exact_up_to_a_few_eps(f):
    x = np.array([0.5, -1.0, 2.0])
    (near,), (far,), (gradient,) = errors(f, x)
    assert np.all(near <= 1e3 * EPS * np.abs(gradient))
    assert np.all(far <= 1e-9 * np.abs(gradient))


def test_an_offset_is_no_rounding_error():
    """sin changes completely along 1e-5 * x."""
    (near,), (far,), (gradient,) = errors(sin, np.array([1e6 + 0.5]))
    assert 0.0 < far == near < 1e-7 * abs(gradient)


@pytest.mark.parametrize("z", np.arange(4.0, 17.0))
def test_digits_that_the_vjp_loses_are_found(z):
    """1 - tanh(z)**2 has the rounding error of 1, about eps; its right value is 1 / cosh(z)**2."""
    _, (far,), (gradient,) = errors(tanh, np.array([z, 0.9 * z]))
    right = 1.0 / np.cosh([z, 0.9 * z]) ** 2
    assert np.all(np.abs(gradient - right) <= far + 4.0 * EPS * right)
    assert np.all(far <= 100.0 * EPS + 1e-10 * right)


def test_a_rounded_gradient_jumps():
    """Near x it does not change, but farther from it it does."""

    def rounded(x):
        return record(x.data**2, (x,), lambda g, a=x.data: (g * np.round(2e3 * a) / 1e3,))

    (near,), (far,), _ = errors(rounded, np.array([0.05]))
    assert near == 0.0 and far / 4.0 == pytest.approx(1e-3)  # the first jump is one unit


def test_only_the_first_jump_is_a_rounding_error():
    def jumps(x):
        def vjp(g, a=x.data):
            away = np.abs(a - 1.0)
            return (g * (1.0 + 0.02 * (away > 1e-7) + 5.0 * (away > 1e-3)),)

        return record(x.data, (x,), vjp)

    (near,), (far,), _ = errors(jumps, np.array([1.0]))
    assert near == far == pytest.approx(0.08)


def test_the_vjp_is_not_called_more_often_than_needed():
    calls = []

    def noisy(x):
        return record(x.data, (x,), lambda g: (calls.append(1), np.full(2, float(len(calls))))[1:])

    errors(noisy, np.array([1.0, 2.0]))
    assert len(calls) == 1 + 2 * 4  # at x, and at four points on two lines


def test_a_kink_far_from_x_shows_only_there():
    (near,), (far,), _ = errors(relu, np.array([1e-3, -1.0, 1.0]))
    np.testing.assert_array_equal(near, np.zeros(3))
    assert far[0] >= 1.0 and not far[1:].any()


def test_one_input_hides_no_rounding_error_of_another():
    """The gradient of x changes with y at once, but its rounding error shows only as x changes."""
    _, (far, _), (gradient, _) = errors(lambda x, y: y * tanh(x), np.array([13.0]), np.array([1.0]))
    assert far >= abs(gradient - 1.0 / np.cosh(13.0) ** 2) > 0.0


def test_nan_is_no_rounding_error():
    def fails(x):
        return record(x.data, (x,), lambda g, a=x.data: (np.where(a == 1.0, g, np.nan),))

    (near,), (far,), _ = errors(fails, np.array([1.0]))
    assert near == far == 0.0


def test_leaves_hold_other_values_meanwhile():
    leaves = {"x": Tensor(np.float32([1.0, 2.0])), "y": Tensor([3.0])}
    x, y = (leaf.data for leaf in leaves.values())
    with pytest.raises(ZeroDivisionError), at(leaves, {"x": np.array([5.0, 6.0])}):
        assert leaves["x"].data.tolist() == [5.0, 6.0] and leaves["x"].dtype == np.float32
        assert leaves["y"].data is y
        raise ZeroDivisionError
    assert leaves["x"].data is x
    with at(leaves, {"x": x + 1e-10j}):
        assert leaves["x"].dtype == np.complex64


def test_the_largest_value_is_finite():
    g, leaves = np.array([1.0, -2.0]), {"x": Tensor([1.0, 800.0])}
    assert largest_value(lambda x: x**2, leaves, g) == 4.0 + 2.0 * 1600.0**2
    with np.errstate(all="ignore"):
        assert largest_value(exp, leaves, g) == 3.0  # at 0, because exp(800) is infinite
        assert largest_value(lambda x: x / 0.0, leaves, g) == 0.0
