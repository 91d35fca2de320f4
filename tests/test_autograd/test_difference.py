"""Numeric derivatives are accurate to the error that they estimate."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autograd.difference import Slope, central, complex_step, norm, sizes, trusted

EPS = float(np.finfo(float).eps)
FUNCTIONS = {  # with their derivatives
    "exp": (np.exp, np.exp),
    "sin": (np.sin, np.cos),
    "cube": (lambda x: x**3, lambda x: 3.0 * x**2),
    "reciprocal": (lambda x: 1.0 / x, lambda x: -1.0 / x**2),
    "rounded": (lambda x: 1e8 + np.sin(x), np.cos),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("h", [1e-1, 1e-3, 1e-5, 1e-7])
def test_the_error_of_a_central_difference_is_at_most_the_estimate(name, h):
    f, slope = FUNCTIONS[name]
    rng = np.random.default_rng(0)
    for _ in range(100):
        x, g = rng.uniform(0.5, 2.0), rng.standard_normal(())
        w = (x + h) - x
        value, error, rounding = central(lambda t: f(x + t * w), f(x), g, EPS, True)  # noqa: B023
        assert abs(value / w - g * slope(x)) * w <= error
        assert rounding <= error


def test_a_kink_is_part_of_the_error():
    for h in (1e-1, 1e-5):
        zero, g = np.array(0.0), np.array(1.0)
        value, error, _ = central(lambda t, h=h: np.abs(t * h), zero, g, EPS, False)
        np.testing.assert_allclose([value, error], [0.0, 2.0 * h], rtol=1e-9)


def test_what_is_not_finite_has_an_infinite_error():
    g = np.array(1.0)
    with np.errstate(all="ignore"):
        assert central(lambda t: np.log(t), np.array(0.0), g, EPS, False)[1] == math.inf
    assert complex_step(np.array(np.nan + 1j), g, EPS, False)[1] == math.inf
    assert complex_step(np.array(1.0 + 1j * np.inf), g, EPS, False)[1] == math.inf


def test_the_complex_step_is_exact_up_to_rounding():
    x = np.linspace(0.5, 2.0, 7)
    for f, slope in (FUNCTIONS["exp"], FUNCTIONS["cube"]):
        value, error, _ = complex_step(f(x + 1e-20j), np.ones(7), EPS, False)
        assert abs(value * 1e20 - slope(x).sum()) <= error * 1e20 <= 1e-12 * abs(value) * 1e20


def slope(length, numeric, error, analytic=1.0):
    return Slope(np.ones(1), length, analytic, numeric, error, 1.0, 0.0)


def test_the_slope_with_the_smallest_error_is_trusted():
    slopes = [slope(10.0**-k, 1.0, 10.0 ** -abs(k - 3)) for k in range(1, 8)]  # noise in the last
    smooth = [slope(10.0**-k, 1.0, 10.0 ** (-2 * k)) for k in range(1, 8)]
    assert trusted(smooth).length == 1e-5  # the two smallest steps only show the rounding error
    assert trusted(slopes[:1]) == slopes[0]
    infinite = [slope(1.0, 1.0, math.inf)] * 4
    assert trusted(infinite).error == math.inf


def test_an_error_that_is_0_by_chance_is_not_trusted():
    noisy = [slope(10.0**-k, 1.0, 1e-12 * 10.0**k) for k in range(1, 7)]
    lucky = [*noisy[:-1], slope(1e-6, 1.5, 0.0)]
    assert trusted(lucky).numeric == 1.0


def test_a_kink_is_not_removed_by_larger_steps():
    kink = [slope(10.0**-k, 0.5, 1.0) for k in range(1, 7)]
    larger = [*kink, slope(100.0, 0.0, 1e-3)]
    assert trusted(larger).error > 0.5


def test_slopes_that_differ_are_not_trusted():
    fast = [slope(10.0**-k, 1.0, 1e-4) for k in range(1, 7)]
    wrong = [*fast, slope(100.0, 0.0, 1e-9)]  # f does not move there, by chance
    assert trusted(wrong).numeric == 1.0


def test_a_step_that_is_lost_in_rounding_is_not_trusted():
    lost = [slope(10.0**-k, 0.0, 0.0) for k in range(4, 9)]
    found = [slope(10.0**-k, 1.0, 1e-6) for k in range(1, 4)]
    assert trusted(lost + found).numeric == 1.0
    assert trusted(lost).numeric == 0.0


@pytest.mark.parametrize(
    ("x", "floor", "expected"),
    [
        ([3.0, -4.0], 0.0, [3.0, 4.0]),
        ([0.0, 0.0], 0.1, [1.0, 1.0]),
        ([0.0, 1e-6], 0.0, [1e-6, 1e-6]),
        ([1e-6, 1e6], 0.0, [1e-6, 1e6]),
        ([1e-6, 1e6], 0.1, [0.1e6 / np.sqrt(2.0), 1e6]),
        ([np.inf, 2.0, np.nan], 0.1, [0.0, 2.0, 0.0]),
        ([1e200, 1e-200], 0.1, [1e200, 0.1e200 / np.sqrt(2.0)]),
        ([5e-324], 0.0, [1e6 * np.finfo(float).tiny]),
        ([], 0.1, []),
    ],
)
def test_sizes(x, floor, expected):
    np.testing.assert_allclose(sizes(np.array(x), floor), expected, rtol=1e-12)


def test_norms_do_not_overflow():
    np.testing.assert_allclose(norm(np.array([3e200, -4e200])), 5e200, rtol=1e-15)
    np.testing.assert_allclose(norm(np.array([3e-200, 4e-200])), 5e-200, rtol=1e-15)
    assert norm(np.array([np.nan, 2.0, np.inf])) == 2.0 and norm(np.zeros(0)) == 0.0


def test_of_two_slopes_the_longer_is_trusted():
    assert trusted([slope(1e-3, 1.0, 1e-9), slope(1e-5, 2.0, 1e-12)]).length == 1e-3


def test_no_slope_is_better_than_its_distance_to_the_nearest_other():
    best = trusted([slope(h, n, 0.0) for h, n in ((1e-6, 1.0), (1e-5, 1.5), (1e-4, 1.25))])
    assert (best.length, best.error) == (1e-4, 0.25)
