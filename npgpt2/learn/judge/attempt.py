"""One call of an answer: what it returned or raised, and what it did to its inputs."""

from __future__ import annotations

import inspect
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from npgpt2.learn.judge.exercise import Answer, Arguments, Exercise


@dataclass(frozen=True)
class Attempt:
    """What an answer did with one draw of arguments.

    Attributes
    ----------
    values
        What it returned, as a tuple; None if it raised.
    error
        What it raised.
    changed
        The names of the inputs that it wrote into.
    shared
        (position of a result, name of an input) that have the same memory.
    """

    values: tuple[Any, ...] | None
    error: BaseException | None = None
    changed: tuple[str, ...] = ()
    shared: tuple[tuple[int, str], ...] = ()

    @classmethod
    def of(cls, exercise: Exercise, function: Answer, arguments: Arguments) -> Attempt:
        """Call an answer with copies of the arguments."""
        given = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
        try:
            values = as_tuple(exercise, function(*given))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return cls(None, error)
        arrays = [
            (name, before, after)
            for name, before, after in zip(exercise.arguments, arguments, given, strict=True)
            if isinstance(before, np.ndarray)
        ]
        shared = [
            (i, name)
            for i, value in enumerate(values)
            for name, _, array in arrays
            if isinstance(value, np.ndarray) and np.may_share_memory(value, array)
        ]
        changed = [name for name, before, after in arrays if not np.array_equal(before, after)]
        kept = (v.copy() if isinstance(v, np.ndarray) else v for v in values)
        return cls(tuple(kept), None, tuple(changed), tuple(shared))

    def agrees_with(self, other: Attempt) -> bool:
        """Whether both returned the same numbers, bit for bit, or raised the same kind of error."""
        if self.values is None or other.values is None:
            return type(self.error) is type(other.error)
        if len(self.values) != len(other.values):
            return False
        return all(
            not is_numeric(a) or (is_numeric(b) and np.array_equal(a, b, equal_nan=True))
            for a, b in zip(self.values, other.values, strict=True)
        )


def as_tuple(exercise: Exercise, values: Any) -> tuple[Any, ...]:
    """Return what an answer returned as a tuple; several values may come as a list."""
    several = isinstance(values, tuple) or (
        isinstance(values, list) and len(exercise.gradients) > 1
    )
    return tuple(values) if several else (values,)


def is_numeric(value: Any) -> bool:
    """Whether this is an array of numbers, or a NumPy number; masked arrays are not."""
    is_array = isinstance(value, np.ndarray | np.generic)
    return is_array and value.dtype.kind in "fiubc" and not isinstance(value, np.ma.MaskedArray)


def where_raised(error: BaseException, file: Answer | str) -> str:
    """Return an error in one line, with the line of the answer's own file that led to it.

    Parameters
    ----------
    error
        The error.
    file
        The file, or the answer that is defined in it.
    """
    if not isinstance(file, str):
        with suppress(ValueError):  # of a function that wraps itself
            file = inspect.unwrap(file)
        code = getattr(file, "__code__", None)
        file = code.co_filename if code else ""
    try:
        said = str(error)
    except Exception:  # an exception class of the learner
        said = ""
    text = " ".join(f"{type(error).__name__}: {said}".split()).removesuffix(":")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename == file:
            line = f", in: {frame.line}" if frame.line else ""
            return f"{text} ({frame.filename}:{frame.lineno}{line})"
    return text
