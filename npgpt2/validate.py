"""Checks of arguments. Each function returns the value as a plain type, or raises an error.

The errors are TypeError, ValueError or IndexError. Their messages name the argument, its value and
the limit.
"""

from __future__ import annotations

import math
import os
import reprlib
import sys
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

T = TypeVar("T")


def integer(name: str, value: object, minimum: int = 1, maximum: int | float = sys.maxsize) -> int:
    """Return value as an int from `minimum` to `maximum`, both included.

    The default maximum is the largest size of an array.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {shown(value)}")
    number = int(value)
    if number < minimum:
        raise ValueError(f"{name}={shown(number)} must be at least {minimum}")
    if number > maximum:
        raise ValueError(f"{name}={shown(number)} must be at most {maximum}")
    return number


def number(name: str, value: object, minimum: float = 0.0, maximum: float = math.inf) -> float:
    """Return value as a finite float from `minimum` to `maximum`, both included."""
    value = _real(name, value)
    if not (math.isfinite(value) and minimum <= value <= maximum):
        upper = "" if maximum == math.inf else f" and at most {maximum:g}"
        raise ValueError(f"{name}={value} must be at least {minimum:g}{upper}, and finite")
    return value


def positive(name: str, value: object) -> float:
    """Return value as a finite float above 0."""
    value = _real(name, value)
    if not 0.0 < value < math.inf:
        raise ValueError(f"{name}={value} must be positive, and finite")
    return value


def fraction(name: str, value: object) -> float:
    """Return value as a float in [0, 1), the limits of a dropout probability."""
    value = _real(name, value)
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name}={value} must lie in [0, 1)")
    return value


def _real(name: str, value: object) -> float:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {shown(value)}")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf  # type: ignore[operator]


def boolean(name: str, value: object) -> bool:
    """Return value, True or False, as a bool."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, not {shown(value)}")
    return bool(value)


def instance(name: str, value: object, kind: type[T], way_out: str) -> T:
    """Return value if it is a `kind`; otherwise raise TypeError, which ends with `way_out`."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, not {shown(value)}; {way_out}")
    return value


def path(name: str, value: object) -> Path:
    """Return value, a str or a path, as a Path."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} must be a path, not {shown(value)}; pass a str or a pathlib.Path")
    return Path(value)


_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80


def shown(value: object) -> str:
    """Return the repr of a value in one line, shortened if it is long."""
    try:
        return " ".join(_repr.repr(value).split())
    except ValueError:  # Python does not print an int of more than 4,300 digits
        return f"a huge {type(value).__name__}"


def dtype(value: DTypeLike) -> np.dtype[Any]:
    """Return value as the dtype float32 or float64."""
    try:
        kind = np.dtype(value)
    except (TypeError, ValueError):
        raise TypeError(f"dtype must be float32 or float64, not {shown(value)}") from None
    if kind not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 or float64, not {kind}")
    return kind


def ids(name: str, values: ArrayLike, limit: int, ignore: int | None = None) -> NDArray[Any]:
    """Return a copy of values as np.intp, all in [0, limit), except values equal to `ignore`.

    A negative id is an error here. NumPy would silently read it as an index from the end.

    Raises
    ------
    TypeError, ValueError
        The values are not integers, or their rows have different lengths; see `integers`.
    IndexError
        A value is out of range. The message has the value, its position and the limit.
    """
    given = integers(name, values)
    # The array is copied because the caller may reuse it before the backward pass. The copy is
    # signed, because NumPy before 2.3 can crash when it compares unsigned integers with -100.
    # Integers that are too large for NumPy stay Python's.
    array = given.astype(object if given.dtype == object else np.intp)
    wrong = (array < 0) | (array >= limit)
    if ignore is not None:
        wrong &= array != ignore
    if wrong.any():
        position = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise IndexError(
            f"{name}[{', '.join(map(str, position))}] = {shown(int(given[position]))} "
            f"is out of range: it must lie in [0, {limit})"
        )
    return array.astype(np.intp, copy=False)


def integers(name: str, values: ArrayLike) -> NDArray[Any]:
    """Return values as an array of integers of any dtype; an empty array may have other numbers.

    Raises
    ------
    TypeError
        The values are not integers.
    ValueError
        Rows have different lengths. The message names two of them.
    """
    try:
        given = np.asarray(values)
    except ValueError:  # NumPy's message does not say which rows
        raise ValueError(
            f"the rows of {name} must have equal lengths, but {_unequal_rows(name, values)}; pad "
            "the shorter rows, or pass one row at a time"
        ) from None
    if given.dtype.kind in "iu" or not given.size:
        return given
    if given.dtype.kind in "fcb":
        raise TypeError(
            f"{name} must be integers, not {given.dtype}; convert with .astype(np.int64)"
        )
    items = given.ravel().tolist()
    wrong = [x for x in items if not isinstance(x, Integral) or isinstance(x, bool)]
    if wrong:
        text = isinstance(wrong[0], str | bytes)
        way_out = "encode text with the tokenizer" if text else "pass a list or array of integers"
        raise TypeError(f"{name} must be integers, not {shown(wrong[0])}; {way_out}")
    return given


def _unequal_rows(name: str, values: Any) -> str:
    """Name two rows in nested lists, at the same depth, that have different lengths."""
    level = [(name, values)]
    for _ in range(64):  # NumPy allows no more axes
        sizes = [_size(row) for _, row in level]
        for (place, row), size in zip(level, sizes, strict=True):
            if size != sizes[0]:
                rows = [(*level[0], sizes[0]), (place, row, size)]
                return " and ".join(
                    f"{place} is {shown(row)}" if size is None else f"{place} has length {size}"
                    for place, row, size in rows
                )
        if sizes[0] is None:
            break
        level = [(f"{place}[{i}]", item) for place, row in level for i, item in enumerate(row)]
    return "NumPy cannot make an array of them"


def _size(row: Any) -> int | None:
    """Return the number of entries of a row; None if it is no row."""
    try:
        return None if isinstance(row, str | bytes | dict | set) else len(row)
    except TypeError:
        return None


def checked(check: Callable[[str, object], object]) -> Any:
    """Return an attribute of a class that is checked whenever it is set.

    `check` takes the attribute's name and the new value. It returns the value to keep, or raises an
    error; then the attribute keeps its old value.

    >>> class Layer:
    ...     p: float = checked(fraction)
    >>> layer = Layer()
    >>> layer.p = 0.1
    >>> layer.p = 1.5
    Traceback (most recent call last):
    ValueError: p=1.5 must lie in [0, 1)
    >>> layer.p
    0.1
    """
    return _Checked(check)


class _Checked:
    """A descriptor without `__get__`, so that Python reads the value from the instance."""

    def __init__(self, check: Callable[[str, object], object]) -> None:
        self.check = check

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __set__(self, instance: object, value: object) -> None:
        instance.__dict__[self.name] = self.check(self.name, value)


class Problems(ValueError):
    """One error that lists all problems: `str()` gives one problem per line, `line` gives one line.

    >>> error = Problems("gpt2 cannot be read", ["config.json is missing", "wte.weight is missing"])
    >>> print(error)
    gpt2 cannot be read:
      config.json is missing
      wte.weight is missing
    >>> print(error.line)
    gpt2 cannot be read: config.json is missing; wte.weight is missing

    Attributes
    ----------
    heading
        A statement that the problems explain.
    problems
        The problems, a tuple of strings.
    """

    def __init__(self, heading: str, problems: Iterable[str]) -> None:
        self.heading, self.problems = heading, tuple(problems)
        super().__init__(heading, self.problems)

    @property
    def line(self) -> str:
        """Heading and problems in one line."""
        return f"{self.heading}: {'; '.join(self.problems)}"

    def __str__(self) -> str:
        return "\n  ".join([f"{self.heading}:", *self.problems])
