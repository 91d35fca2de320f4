"""Checks of arguments return a valid value, and name an invalid value with its limit."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt2 import validate


def assert_refused(error, message, call):
    """The call raises this error, and the message contains the text given."""
    with pytest.raises(error, match=re.escape(message)):
        call()


@given(st.integers(), st.integers())
def test_integer_has_a_minimum(value, minimum):
    if value >= minimum:
        assert validate.integer("n", value, minimum, math.inf) == value
    else:
        message = f"n={value} must be at least {minimum}"
        assert_refused(ValueError, message, lambda: validate.integer("n", value, minimum))


@pytest.mark.parametrize("value", [2.0, np.float64(2.0), "2", None, True, [2], 2j])
def test_what_is_no_integer_is_refused_even_if_it_has_the_value_of_one(value):
    message = f"n must be an integer, not {value!r}"
    assert_refused(TypeError, message, lambda: validate.integer("n", value))


def test_without_limits_integers_are_from_1_and_numbers_from_0():
    assert validate.integer("n", 1) == 1 and validate.number("x", 0.0) == 0.0
    assert_refused(ValueError, "n=0 must be at least 1", lambda: validate.integer("n", 0))
    assert validate.number("x", 1e300) == 1e300
    message = "x=-0.5 must be at least 0, and finite"
    assert_refused(ValueError, message, lambda: validate.number("x", -0.5))


@given(st.floats())
def test_number_includes_its_limits_and_excludes_all_else(value):
    for inside in (-2.0, 3.0):
        assert validate.number("x", inside, -2.0, 3.0) == inside
    if -2.0 <= value <= 3.0:
        assert validate.number("x", value, -2.0, 3.0) == value
    else:
        message = f"x={value} must be at least -2 and at most 3, and finite"
        assert_refused(ValueError, message, lambda: validate.number("x", value, -2.0, 3.0))


@given(st.floats())
def test_fraction_is_from_0_up_to_but_not_1(value):
    if 0.0 <= value < 1.0:
        assert validate.fraction("p", value) == value
    else:
        assert_refused(ValueError, f"p={value} must", lambda: validate.fraction("p", value))


@given(st.floats())
def test_positive_is_above_0_and_finite(value):
    if 0.0 < value < math.inf:
        assert validate.positive("x", value) == value
    else:
        assert_refused(ValueError, " must be ", lambda: validate.positive("x", value))


@given(st.lists(st.integers(-3, 12), min_size=1), st.sampled_from(["i1", "i2", "i4", "i8", "O"]))
def test_ids_are_returned_or_the_first_wrong_one_is_named(values, dtype):
    array = values if dtype == "O" else np.array(values, dtype)  # "O" stands for a plain list
    wrong = [i for i, value in enumerate(values) if not 0 <= value < 10]
    if wrong:
        position, value = wrong[0], values[wrong[0]]
        message = f"ids[{position}] = {value} is out of range: it must lie in [0, 10)"
        assert_refused(IndexError, message, lambda: validate.ids("ids", array, 10))
    else:
        assert validate.ids("ids", array, 10).tolist() == values


@pytest.mark.parametrize("dtype", ["i1", "u1", "u2", "u4", "i8", "u8"])
def test_ids_of_every_kind_come_back_as_indices(dtype):
    array = np.array([[0, 100]], dtype)[:, ::-1]
    for limit in (101, 100_000):  # the second one does not fit into a byte
        result = validate.ids("ids", array, limit, ignore=-100)
        assert result.dtype == np.intp and result.tolist() == [[100, 0]]
    message = "ids[0, 0] = 100 is out of range: it must lie in [0, 100)"
    assert_refused(IndexError, message, lambda: validate.ids("ids", array, 100))


def test_an_id_past_every_signed_integer_is_named():
    array = np.array([1, 2**64 - 1], dtype=np.uint64)
    message = "ids[1] = 18446744073709551615 is out of range"
    assert_refused(IndexError, message, lambda: validate.ids("ids", array, 10))


@pytest.mark.parametrize("ignore", [-100, -1, 99])
def test_ids_equal_to_ignore_pass(ignore):
    values = [[1, ignore], [ignore, 9]]
    assert validate.ids("ids", values, 10, ignore).tolist() == values
    message = f"ids[1] = {ignore - 1} "
    assert_refused(IndexError, message, lambda: validate.ids("ids", [0, ignore - 1], 10, ignore))
    assert_refused(IndexError, f"ids[0, 1] = {ignore} ", lambda: validate.ids("ids", values, 10))


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1.0, 2.0], "float64"),
        ([True, False], "bool"),
        (["1"], "'1'; encode"),
        ([1j], "complex128"),
    ],
)
def test_ids_that_are_not_integers_are_refused(values, dtype):
    message = f"ids must be integers, not {dtype}"
    assert_refused(TypeError, message, lambda: validate.ids("ids", values, 10))


def test_no_ids_at_all_are_integers_too():
    array = validate.ids("ids", [], 10)
    assert array.shape == (0,) and array.dtype.kind == "i"


def test_dtype_is_float32_or_float64():
    for value in (np.float32, "float64", "<f4", float, np.dtype(np.float64)):
        assert validate.dtype(value) == np.dtype(value)
    for value in (np.float16, int, complex, ">f4"):
        message = f"dtype must be float32 or float64, not {np.dtype(value)}"
        assert_refused(TypeError, message, lambda value=value: validate.dtype(value))
    assert_refused(TypeError, "text", lambda: validate.dtype("text"))


@pytest.mark.parametrize(
    ("values", "rows"),
    [
        ([[1, 2], [3]], "ids[0] has length 2 and ids[1] has length 1"),
        ([[[1, 2], [3]]], "ids[0][0] has length 2 and ids[0][1] has length 1"),
        ([[], [1]], "ids[0] has length 0 and ids[1] has length 1"),
        ([np.zeros((2, 3), int), np.zeros((2, 2), int)], "ids[0][0] has length 3 and ids[1][0]"),
        ([[1, 2], 3], "ids[0] has length 2 and ids[1] is 3"),
        ([3, [1]], "ids[0] is 3 and ids[1] has length 1"),
        ([[1, 2], "ab"], "ids[0] has length 2 and ids[1] is 'ab'"),
        ([[1], {2: 3}], "ids[0] has length 1 and ids[1] is {2: 3}"),
    ],
)
def test_rows_of_different_lengths_are_named(values, rows):
    message = f"the rows of ids must have equal lengths, but {rows}"
    assert_refused(ValueError, message, lambda: validate.ids("ids", values, 10))


def test_rows_that_numpy_refuses_for_another_reason_are_refused_too():
    endless = []
    endless.append(endless)
    for values in (endless, [Unreadable()]):
        assert_refused(ValueError, "NumPy cannot make", lambda v=values: validate.ids("ids", v, 10))


class Unreadable:
    def __array__(self, dtype=None, copy=None):
        raise ValueError("not now")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("hello", "not 'hello'; encode text with the tokenizer"),
        (b"abc", "not b'abc'; encode"),
        (None, "not None; pass a list or array of integers"),
        ([[1, None]], "not None"),
        ({1}, "not {1}"),
        ((i for i in [1]), "not <generator"),
        ([2**70, True], "not True"),
        (np.array(["2020-01-01"], "M8[D]"), "not datetime.date(2020, 1, 1)"),
    ],
)
def test_what_is_no_integer_is_shown(values, message):
    assert_refused(
        TypeError, f"ids must be integers, {message}", lambda: validate.integers("ids", values)
    )


@pytest.mark.parametrize("value", [2**64, -(2**64), 10**5000], ids=["a", "b", "c"])
def test_an_id_too_large_for_numpy_is_out_of_range(value):
    assert_refused(IndexError, "ids[0, 1] = ", lambda: validate.ids("ids", [[1, value]], 10))


def test_python_integers_in_an_object_array_are_ids():
    array = validate.ids("ids", np.array([1, 2], object), 10)
    assert array.dtype == np.intp and array.tolist() == [1, 2]


def test_an_integer_has_a_maximum():
    assert validate.integer("n", sys.maxsize) == sys.maxsize
    assert validate.integer("n", 10**400, maximum=math.inf) == 10**400
    assert_refused(ValueError, f"at most {sys.maxsize}", lambda: validate.integer("n", 10**5000))
    assert_refused(ValueError, "n=5 must be at most 4", lambda: validate.integer("n", 5, maximum=4))


@pytest.mark.parametrize("value", [10**400, -(10**400)], ids=["above", "below"])
def test_a_number_too_large_for_a_float_is_infinite(value):
    message = "p=inf must lie" if value > 0 else "p=-inf must lie"
    assert_refused(ValueError, message, lambda: validate.fraction("p", value))


def test_boolean_is_true_or_false():
    assert validate.boolean("b", np.True_) is True and validate.boolean("b", False) is False
    for value in (1, "no", None):
        message = f"b must be True or False, not {value!r}"
        assert_refused(TypeError, message, lambda value=value: validate.boolean("b", value))


def test_instance_and_path_return_the_value_or_name_its_kind():
    assert validate.instance("x", 3, int, "") == 3
    message = "x must be a int, not 'a'; write 3"
    assert_refused(TypeError, message, lambda: validate.instance("x", "a", int, "write 3"))
    assert validate.path("x", "a/b") == validate.path("x", Path("a/b")) == Path("a/b")
    for value in (None, 3, b"a"):
        message = f"x must be a path, not {value!r}; pass a str"
        assert_refused(TypeError, message, lambda value=value: validate.path("x", value))


def test_what_is_shown_of_a_value_is_short_and_one_line():
    assert validate.shown("a b") == "'a b'"
    assert validate.shown(10**5000) == "a huge int"
    assert len(validate.shown("a" * 1000)) < 100
    assert "\n" not in validate.shown(np.zeros((3, 3)))
