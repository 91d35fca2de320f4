"""Wrong code in place of right code, inside a block or in a new function."""

from __future__ import annotations

import inspect
import traceback

import pytest

from npgpt2.learn.injection import (
    injected,
    lines_of,
    replaced_lines,
    source_of,
    variant,
    with_lines,
)

SCALE = 10


def scaled(x, y):
    """Return x + y, scaled."""
    total = x + y
    return SCALE * total


WRONG = "def scaled(x, y):\n    total = x - y\n    return SCALE * total\n"


def test_the_function_and_its_aliases_have_the_other_code_inside_the_block_only():
    alias = scaled
    with injected(scaled, WRONG, "minus"):
        assert scaled(3, 1) == alias(3, 1) == 20
        assert inspect.getsource(scaled) == WRONG
    assert scaled(3, 1) == alias(3, 1) == 40
    with pytest.raises(KeyError), injected(scaled, WRONG, "minus"):
        raise KeyError
    assert scaled(3, 1) == 40


def test_blocks_may_be_nested():
    with injected(scaled, WRONG, "minus"):
        with injected(scaled, WRONG.replace("- y", "* y"), "times"):
            assert scaled(3, 2) == 60
        assert scaled(3, 2) == 10
    assert scaled(3, 2) == 50


def test_a_traceback_shows_the_line_of_the_other_code():
    with injected(scaled, WRONG, "minus"):
        with pytest.raises(TypeError) as error:
            scaled(1, "1")
        shown = "".join(traceback.format_exception(error.value))
    assert 'File "<minus>", line 2' in shown and "total = x - y" in shown


def test_what_does_not_compile_changes_nothing():
    with pytest.raises(SyntaxError), injected(scaled, "def scaled(x, y):\n    return (\n", "open"):
        pass
    assert scaled(3, 1) == 40


def test_a_variant_sees_the_globals_of_the_function_and_leaves_it_alone():
    other = variant(scaled, WRONG, "minus")
    assert (other(3, 1), scaled(3, 1), other.__name__) == (20, 40, "minus")


def test_lines_are_statements_without_the_docstring():
    assert lines_of(scaled) == ("total = x + y", "return SCALE * total")
    assert with_lines(scaled, lines_of(scaled), "again")(3, 1) == 40
    assert source_of(scaled).startswith("def scaled(x, y):")


LINES = ["a = x + 1", "b = 2 * a", "b = b + a", "return b"]


@pytest.mark.parametrize(
    "wrong, expected",
    [
        ("a = x", ["a = x", "b = 2 * a", "b = b + a", "return b"]),
        ("b = a", ["a = x + 1", "b = a", "return b"]),  # in place of both
        ("b = a; b = -b", ["a = x + 1", "b = a", "b = -b", "return b"]),
        ("c = a; b = c", ["a = x + 1", "c = a", "b = c", "return b"]),
        ("return a", ["a = x + 1", "b = 2 * a", "b = b + a", "return a"]),
        ("c = b; c += 1; return c", [*LINES[:3], "c = b", "c += 1", "return c"]),
        ("a = x; return a", ["a = x", "b = 2 * a", "b = b + a", "return a"]),
        (
            "for i in range(2):\n    x = x + i\na = x",
            ["for i in range(2):\n    x = x + i", "a = x", "b = 2 * a", "b = b + a", "return b"],
        ),
    ],
)
def test_wrong_lines_take_the_place_of_those_that_assign_the_same_name(wrong, expected):
    assert replaced_lines(LINES, wrong) == expected


def test_a_line_that_nothing_uses_is_an_error():
    with pytest.raises(ValueError, match="no line .* assigns the name that 'c = 1' assigns"):
        replaced_lines(LINES, "a = x; c = 1")
