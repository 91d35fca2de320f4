"""Checks of arguments: what passes comes back plain, what does not is named with its limit."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from npgpt2 import validate


@pytest.mark.parametrize("value", [1, 7, np.int64(7), np.uint8(7)])
def test_integers_come_back_as_int(value: Any) -> None:
    result = validate.integer("n", value)
    assert type(result) is int and result == value


@pytest.mark.parametrize("value", [0, 2, 0.5, np.float32(0.5), Fraction(1, 2)])
def test_numbers_come_back_as_float(value: Any) -> None:
    for check in (validate.number, validate.fraction, validate.positive):
        if check is validate.fraction and value == 2 or check is validate.positive and not value:
            continue
        result = check("x", value)
        assert type(result) is float and result == value


@pytest.mark.parametrize("check", [validate.integer, validate.number, validate.fraction])
@pytest.mark.parametrize("value", ["1", None, True, 1j, [1], np.array([1, 2])])
def test_other_kinds_of_values_are_refused(check: Callable[..., Any], value: Any) -> None:
    with pytest.raises(TypeError, match="^x must be an? (integer|number), not "):
        check("x", value)


@pytest.mark.parametrize(
    ("check", "value", "message"),
    [
        (validate.integer, 0, "x=0 must be at least 1"),
        (validate.number, -0.1, "x=-0.1 must be at least 0, and finite"),
        (validate.number, math.inf, "x=inf must be .* finite"),
        (validate.number, math.nan, "x=nan must be .* finite"),
        (validate.positive, 0.0, "x=0 must be positive"),
        (validate.fraction, 1.0, r"x=1.0 must lie in \[0, 1\)"),
        (validate.fraction, -1e-9, "x=-1e-09 must be at least 0"),
    ],
)
def test_values_out_of_range_are_refused(
    check: Callable[..., Any], value: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check("x", value)


def test_limits_given_are_included() -> None:
    assert validate.integer("n", -2, minimum=-2) == -2
    assert validate.number("x", 3.0, minimum=1.0, maximum=3.0) == 3.0
    with pytest.raises(ValueError, match="x=3.5 must be at least 1 and at most 3, and finite"):
        validate.number("x", 3.5, minimum=1.0, maximum=3.0)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int64, np.uint64])
def test_ids_keep_their_dtype_and_are_not_copied(kind: type) -> None:
    ids = np.array([[0, 4], [2, 3]], dtype=kind)
    assert validate.ids("ids", ids, 5) is ids
    with pytest.raises(IndexError, match=r"ids\[0, 1\] = 4 .* \[0, 4\)"):
        validate.ids("ids", ids, 4)


def test_negative_ids_are_refused_but_for_the_one_to_ignore() -> None:
    assert validate.ids("t", [-100, 1], 5, ignore=-100).tolist() == [-100, 1]
    for ignore in (None, -1):
        with pytest.raises(IndexError, match=r"t\[0\] = -100 .* \[0, 5\)"):
            validate.ids("t", [-100, 1], 5, ignore=ignore)


def test_no_ids_are_ids_whatever_their_dtype() -> None:
    assert validate.ids("ids", [], 5).dtype.kind == "i"


@pytest.mark.parametrize("values", [[0.0], [True], ["0"], [None], [1 + 0j]])
def test_values_that_are_no_integers_are_refused(values: Any) -> None:
    with pytest.raises(TypeError, match="ids must be integers, not "):
        validate.ids("ids", values, 5)
