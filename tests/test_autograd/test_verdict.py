"""The report of a check is one sentence by default, and a table on request."""

from __future__ import annotations

import numpy as np
import pytest

from autograd import GradientMismatch, GradientReport, GradientUndecided

RIGHT = GradientReport("full", "right", "", "x", (1, 2), 2.0, 2.0, 1e-9, 3e-6, 7)


def report(**changes):
    return GradientReport(**{**vars(RIGHT), **changes})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "gradients agree (full check, 7 derivatives): relative error 0"),
        (
            {"verdict": "wrong", "analytic": 1.5},
            "wrong gradient: input x at entry (1, 2): analytic 1.5, numeric 2, relative error 0.25",
        ),
        (
            {"verdict": "wrong", "index": None, "analytic": np.nan},
            "wrong gradient: input x along a random direction: analytic nan, numeric 2, "
            "relative error nan",
        ),
        (
            {"verdict": "wrong", "reason": "no path", "analytic": 0.0},
            "no path from input x: its gradient is 0, but the numeric derivative at entry (1, 2) "
            "is 2; look for .data, .detach() or np.asarray in f",
        ),
        (
            {"verdict": "cannot be judged", "reason": "kink"},
            "cannot be judged at this point: input x at entry (1, 2): f has a kink or a jump "
            "there; move the input away from it",
        ),
        (
            {"verdict": "cannot be judged", "reason": "rounding"},
            "cannot be judged at this point, use mode='complex': input x at entry (1, 2): "
            "the rounding errors of f hide a slope this small",
        ),
        (
            {"verdict": "cannot be judged", "reason": "domain", "mode": "complex"},
            "cannot be judged at this point: input x at entry (1, 2): f is NaN or infinite there "
            "or beside it; move the input into the domain of f",
        ),
    ],
)
def test_sentences(changes, sentence):
    assert str(report(**changes)) == sentence
    assert report(**changes).ok == (not changes)


def test_the_table_has_one_row_per_input():
    rows = (RIGHT, report(verdict="wrong", input="y", index=None, analytic=1.5))
    wrong = report(verdict="wrong", input="y", index=None, analytic=1.5, inputs=rows)
    assert wrong.full().splitlines() == [
        str(wrong),
        "input  place      verdict  analytic  numeric  |difference|  allowed  "
        "estimated error of numeric",
        "x      (1, 2)     right    2         2        0             3e-06    1e-09",
        "y      direction  wrong    1.5       2        0.5           3e-06    1e-09",
    ]
    assert RIGHT.full().splitlines()[2].startswith("x      (1, 2)")


def test_errors():
    r = report(verdict="wrong", analytic=1.5)
    np.testing.assert_equal([r.absolute_error, r.relative_error], [0.5, 0.25])
    assert report(analytic=0.0, numeric=0.0).relative_error == 0.0
    for error in (GradientMismatch(r), GradientUndecided(r)):
        assert error.report is r and str(error) == str(r)
    assert issubclass(GradientMismatch, AssertionError)
    assert not issubclass(GradientUndecided, AssertionError)
