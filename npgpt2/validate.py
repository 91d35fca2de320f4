"""Checks of arguments. Each function returns the value as a plain type, or raises an error.

The errors are TypeError, ValueError or IndexError. Their messages name the argument, its value and
the limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray


def integer(name: str, value: object, minimum: int = 1) -> int:
    """Return value as an int of at least `minimum`."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if value < minimum:
        raise ValueError(f"{name}={value} must be at least {minimum}")
    return int(value)


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
        raise TypeError(f"{name} must be a number, not {value!r}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def dtype(value: DTypeLike) -> np.dtype[Any]:
    """Return value as the dtype float32 or float64."""
    kind = np.dtype(value)
    if kind not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 or float64, not {kind}")
    return kind


def ids(name: str, values: ArrayLike, limit: int, ignore: int | None = None) -> NDArray[Any]:
    """Return a copy of values as np.intp, all in [0, limit), except values equal to `ignore`.

    A negative id is an error here. NumPy would silently read it as an index from the end.

    Raises
    ------
    TypeError
        The values are not integers.
    IndexError
        A value is out of range. The message has the value, its position and the limit.
    """
    given = np.asarray(values)
    if given.size and given.dtype.kind not in "iu":
        raise TypeError(
            f"{name} must be integers, not {given.dtype}; convert with .astype(np.int64)"
        )
    # The array is copied because the caller may reuse it before the backward pass. The copy is
    # signed, because NumPy before 2.3 can crash when it compares unsigned integers with -100.
    array = given.astype(np.intp)
    wrong = (array < 0) | (array >= limit)
    if ignore is not None:
        wrong &= array != ignore
    if wrong.any():
        position = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise IndexError(
            f"{name}[{', '.join(map(str, position))}] = {given[position]} "
            f"is out of range: it must lie in [0, {limit})"
        )
    return array


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
