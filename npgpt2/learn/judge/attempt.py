"""One call of an answer: its results or its error, and its side effects on the inputs."""

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
    """One call of an answer, with one draw of arguments."""

    values: tuple[Any, ...] | None  # the results; None if the answer raised
    error: BaseException | None = None
    changed: tuple[str, ...] = ()  # names of inputs that the answer wrote into
    shared: tuple[tuple[int, str], ...] = ()  # (result, input) pairs with the same memory

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
    """Return the results of an answer as a tuple; several results may come as a list."""
    several = isinstance(values, tuple) or (
        isinstance(values, list) and len(exercise.gradients) > 1
    )
    return tuple(values) if several else (values,)


def is_numeric(value: Any) -> bool:
    """Whether this is an array of numbers, or a NumPy number; masked arrays are not."""
    is_array = isinstance(value, np.ndarray | np.generic)
    return is_array and value.dtype.kind in "fiubc" and not isinstance(value, np.ma.MaskedArray)


def where_raised(error: BaseException, file: Answer | str) -> str:
    """Return an error in one line, with the line of the answer, or of its file, that led to it."""
    if not isinstance(file, str):
        with suppress(ValueError):  # a function that wraps itself
            file = inspect.unwrap(file)
        code = getattr(file, "__code__", None)
        file = code.co_filename if code else ""
    try:
        said = str(error)
    except Exception:  # the learner's exception class may be broken
        said = ""
    text = " ".join(f"{type(error).__name__}: {said}".split()).removesuffix(":")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename == file:
            line = f", in: {frame.line}" if frame.line else ""
            return f"{text} ({frame.filename}:{frame.lineno}{line})"
    return text
