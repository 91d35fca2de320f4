"""Practice with diagnosis: write the backward pass of a layer yourself, and be told what is wrong.

`check` runs a function on random inputs of unequal sizes, where no transposition can hide, and on
some where all sizes are equal, and compares each gradient with the right one. A wrong one is
compared with the wrong answers that are known (`exercises/`), with the right gradient's terms
taken apart, and with some slips that fit any exercise. Only what agrees everywhere, to nine digits,
is named; where nothing does, the verdict says so, and shows what can be measured.

>>> from npgpt2.learn.exercises.softmax import forward
>>> verdict = check("softmax", lambda g, x: forward(x) * g)
>>> verdict.passed
False
>>> print(verdict.headline)
softmax: dx is wrong.
>>> print(verdict.gradients[0].diagnosis)
the term -p * sum(g * p) is missing

To write one in a file: `start` makes the file, `check_file` judges it; `hints` and `derivation`
help.
"""

from __future__ import annotations

import inspect
import io
import itertools
import os
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from autograd import Tensor
from npgpt2.learn.exercises import EXERCISES
from npgpt2.learn.exercises.exercise import (
    Answer,
    Arguments,
    Array,
    Exercise,
    Mistake,
    Sizes,
)

_SIZES = (
    Sizes(B=2, T=3, C=5, H=4, D=7, V=11, n_in=5, n_out=7),
    Sizes(B=5, T=2, C=7, H=3, D=6, V=8, n_in=4, n_out=3),
    Sizes(B=4, T=3, C=6, H=2, D=5, V=9, n_in=7, n_out=2),
    Sizes(*[3] * 8),
    Sizes(*[4] * 8),
)
_TOLERANCE = 1e-9  # relative to the largest entry: well above rounding, well below any mistake


# -- the verdict ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gradient:
    """What the judge found about one of the gradients.

    Attributes
    ----------
    name
        Such as dx.
    status
        "right", "wrong", "wrong shape", "wrong dtype", "not finite" or "not an array".
    index, yours, right
        The first wrong entry: where it is, what it is, what it should be. None if there is none.
    diagnosis
        What is wrong, in words; None if it is none of the known mistakes.
    mistakes
        Their short names. Those of one gradient are all made, unless the diagnosis says "or".
    evidence
        What was measured, line by line.
    """

    name: str
    status: str
    index: tuple[int, ...] | None = None
    yours: float | None = None
    right: float | None = None
    diagnosis: str | None = None
    mistakes: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = ""
        if self.index is not None:
            at = ", ".join(map(str, self.index))
            where = f"; first at [{at}]: yours {self.yours:.8g}, right {self.right:.8g}"
        lines = [f"{self.name}: {self.status}{where}"]
        if self.diagnosis:
            lines.append(f"  {self.diagnosis}")
        elif self.status == "wrong":
            lines.append("  not one of the known mistakes; what can be said:")
        return "\n".join(lines + [f"  - {line}" for line in self.evidence])


@dataclass(frozen=True)
class Verdict:
    """The judge's answer; `str()` of it is what to read.

    Attributes
    ----------
    exercise
        Its name.
    passed
        Whether the answer is right, alone and end to end, and changes none of its inputs.
    headline
        One line.
    gradients
        What was found about each; empty if the function did not get so far.
    notes
        More about the function as a whole: what is dangerous, and how it does end to end.
    output
        What the learner's code printed, at its first call and while its file was read.
    """

    exercise: str
    passed: bool
    headline: str
    gradients: tuple[Gradient, ...] = ()
    notes: tuple[str, ...] = ()
    output: str = ""

    @property
    def diagnosis(self) -> str | None:
        """All that was diagnosed, each mistake once; None if nothing was."""
        found = dict.fromkeys(g.diagnosis for g in self.gradients if g.diagnosis)
        return "; ".join(found) or None

    def __str__(self) -> str:
        parts = [self.headline, *map(str, self.gradients), *self.notes]
        if self.output:
            parts.append("Your code printed:\n" + self.output.rstrip("\n"))
        return "\n".join(parts)


# -- the judge -----------------------------------------------------------------------------------


def check(name: str, function: Callable[..., Any]) -> Verdict:
    """Judge an answer to an exercise.

    Parameters
    ----------
    name
        One of `exercises()`.
    function
        The answer, called with the arguments of the exercise in their order.

    Returns
    -------
    Verdict
        Whatever the function does, except that it is not stopped if it does not end.

    Raises
    ------
    ValueError
        There is no such exercise.
    TypeError
        The function is not callable.
    """
    exercise = _exercise(name)
    if not callable(function):
        raise TypeError(f"expected a function, not {type(function).__name__}")
    said = io.StringIO()
    with redirect_stdout(said):
        runs = [_Run.of(exercise, function, _draws(name)[0])]
    with redirect_stdout(io.StringIO()):  # what it prints at every call is read once
        runs += [_Run.of(exercise, function, arguments) for arguments in _draws(name)[1:]]
        return _judge(exercise, function, runs, said.getvalue())


@dataclass(frozen=True)
class _Run:
    """What a function did with one draw."""

    values: tuple[Any, ...] | None  # None if it raised
    trouble: str = ""  # what it raised, and where
    written: bool = True
    changed: tuple[str, ...] = ()  # the inputs that it wrote into
    shared: tuple[tuple[int, str], ...] = ()  # which result is the memory of which input

    @classmethod
    def of(cls, exercise: Exercise, function: Answer, arguments: Arguments) -> _Run:
        given = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                values = function(*given)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            written = not isinstance(error, NotImplementedError)
            return cls(None, _where(error, function), written)
        values = tuple(values) if isinstance(values, tuple | list) else (values,)
        pairs = list(zip(exercise.arguments, arguments, given, strict=True))
        arrays = [(n, a, b) for n, a, b in pairs if isinstance(a, np.ndarray)]
        shared = [
            (i, n)
            for i, value in enumerate(values)
            for n, _, b in arrays
            if isinstance(value, np.ndarray) and np.may_share_memory(value, b)
        ]
        changed = tuple(n for n, a, b in arrays if not np.array_equal(a, b))
        return cls(values, changed=changed, shared=tuple(shared))


def _where(error: BaseException, function: Answer) -> str:
    """Return the error in a line, with the last line of the learner's own file that led to it."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if code is not None and f.filename == code.co_filename]
    text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    if not own:
        return text
    return f"{own[-1].filename}:{own[-1].lineno}: {text}  ({own[-1].line})"


def _judge(exercise: Exercise, function: Answer, runs: list[_Run], output: str) -> Verdict:
    def verdict(what: str, passed: bool = False, **more: Any) -> Verdict:
        return Verdict(exercise.name, passed, f"{exercise.name}: {what}", output=output, **more)

    names = ", ".join(exercise.gradients)
    first = runs[0]
    if not first.written:
        return verdict(f"not yet written ({first.trouble}).")
    done = [run for run in runs if run.values is not None]
    if not done:
        return verdict(f"your function raises {first.trouble}")
    for run in done:
        assert run.values is not None
        if len(run.values) != len(exercise.gradients):
            found = f"{len(run.values)} gradients are" if len(run.values) != 1 else "1 gradient is"
            if run.values == (None,):
                found = "nothing (None) is"
            return verdict(f"{found} returned; expected: {names}.")

    reference = _answer(exercise, function)
    gradients = tuple(
        _examine(exercise, i, name, runs, reference) for i, name in enumerate(exercise.gradients)
    )
    notes = []
    raised = [run for run in runs if run.values is None]
    if raised:
        equal = all(run.values is None for run in runs[:3])
        when = "where sizes differ; where all are equal it runs" if equal else "for some inputs"
        notes.append(f"Your function raises {when}: {raised[0].trouble}")
    changed = dict.fromkeys(n for run in done for n in run.changed)
    notes += [
        f"Your function changes its input {n}: others still need it. Copy it." for n in changed
    ]
    for i, n in dict.fromkeys(pair for run in done for pair in run.shared):
        gradient = list(exercise.gradients)[i]
        notes.append(
            f"Danger: {gradient} shares memory with your input {n}: whoever adds to {gradient} in "
            f"place changes {n}. Return a new array."
        )
    wrong = [g.name for g in gradients if g.status != "right"]
    again = _Run.of(exercise, function, _draws(exercise.name)[0])
    if not _same_values(first, again):
        notes.append("Two calls with the same inputs gave different results: it is not a function.")
    elif not wrong and not raised and not changed:
        try:
            said = exercise.end_to_end(reference)
        except AssertionError as error:
            notes.append(f"End to end it is wrong: {error}")
        except Exception as error:
            notes.append(f"End to end it raises {_where(error, function)}")
        else:
            notes += [*_float32_notes(exercise, function), said]
            return verdict(
                f"right. {names}: equal to the right answer up to rounding, on {len(runs)} draws.",
                passed=True, gradients=gradients, notes=tuple(notes),
            )  # fmt: skip
    if not wrong:
        return verdict("not right yet.", gradients=gradients, notes=tuple(notes))
    are = "is" if len(wrong) == 1 else "are"
    return verdict(f"{', '.join(wrong)} {are} wrong.", gradients=gradients, notes=tuple(notes))


def _answer(exercise: Exercise, function: Answer) -> Answer:
    """Return the function, made to return a tuple."""

    def answer(*arguments: Any) -> tuple[Any, ...]:
        values = function(*arguments)
        return tuple(values) if isinstance(values, tuple | list) else (values,)

    return answer


def _same_values(one: _Run, other: _Run) -> bool:
    if one.values is None or other.values is None:
        return one.trouble == other.trouble
    try:
        return all(
            np.array_equal(a, b, equal_nan=True)
            for a, b in zip(one.values, other.values, strict=True)
        )
    except (TypeError, ValueError):
        return True  # not arrays of numbers, which the verdict says elsewhere


def _float32_notes(exercise: Exercise, function: Answer) -> list[str]:
    """Say which gradients do not keep the precision of the inputs."""
    narrow = [
        a.astype(np.float32) if isinstance(a, np.ndarray) and a.dtype == np.float64 else a
        for a in _draws(exercise.name)[0]
    ]
    values = _Run.of(exercise, function, tuple(narrow)).values or ()
    return [
        f"Note: with float32 inputs, {name} comes back as {value.dtype}: some array was made "
        "without a dtype."
        for name, value in zip(exercise.gradients, values, strict=False)
        if getattr(value, "dtype", np.float32) != np.float32
    ]


# -- one gradient --------------------------------------------------------------------------------


def _examine(
    exercise: Exercise, i: int, name: str, runs: Sequence[_Run], answer: Answer
) -> Gradient:
    """Judge the i-th gradient by itself."""
    rights = [values[i] for values in _rights(exercise.name)]
    yours = [None if run.values is None else run.values[i] for run in runs]
    for value, right in zip(yours, rights, strict=True):
        if value is None:
            continue
        if not isinstance(value, np.ndarray | np.generic) or value.dtype.kind not in "fiubc":
            return Gradient(name, "not an array", evidence=(_not_an_array(value),))
        if value.dtype != np.float64:
            close = value.shape == right.shape and np.allclose(value, right, rtol=1e-3, atol=1e-4)
            more = "; its values are right to that precision" if close else ""
            text = f"it is {value.dtype}, expected float64 as the inputs{more}"
            return Gradient(name, "wrong dtype", evidence=(text,))
    pairs = [(v, r) for v, r in zip(yours, rights, strict=True) if v is not None]
    if all(_close(v, r) for v, r in pairs):
        return Gradient(name, "right")
    diagnosis, mistakes = _diagnose(exercise, name, yours)
    value, right = next((v, r) for v, r in pairs if not _close(v, r))
    if value.shape != right.shape:
        shape = f"it has shape {value.shape}, expected {exercise.gradients[name]} = {right.shape}"
        evidence = (shape, *_fit(value, right))
        return Gradient(name, "wrong shape", None, None, None, diagnosis, mistakes, evidence)
    bad = ~np.isfinite(value)
    status = "not finite" if bad.any() else "wrong"
    if not bad.any():
        bad = np.abs(value - right) > _TOLERANCE * _scale(right)
    index = tuple(int(n) for n in np.argwhere(bad)[0])
    evidence = ()
    if not diagnosis and status == "wrong":
        evidence = tuple(_evidence(exercise, i, answer, value, right, bad))
    return Gradient(
        name, status, index, float(value[index]), float(right[index]), diagnosis, mistakes, evidence
    )


def _not_an_array(value: Any) -> str:
    if value is None:
        return "it is None"
    if isinstance(value, Tensor):
        return "it is a Tensor; return an array: its .data"
    kind = getattr(value, "dtype", type(value).__name__)
    return (
        f"it is {'an array of ' if hasattr(value, 'dtype') else 'a '}{kind}; return a NumPy array"
    )


def _scale(right: Array) -> float:
    """The size of an array: its largest entry."""
    return float(np.abs(right).max(initial=0.0)) or 1.0


def _close(value: Any, right: Array) -> bool:
    """Whether two arrays are equal, shapes too, up to rounding."""
    if np.shape(value) != right.shape:
        return False
    return bool(np.all(np.abs(value - right) <= _TOLERANCE * _scale(right)))


def _fit(value: Array, right: Array) -> Iterator[str]:
    """Say what would make a shape fit, and whether the numbers would be right then."""

    def say(changed: Array, what: str) -> str:
        same = _close(changed, right)
        return (
            f"{what} {'it would be right' if same else 'the shape would fit, but not the values'}"
        )

    for order in itertools.permutations(range(value.ndim)):
        if order != tuple(range(value.ndim)) and value.transpose(order).shape == right.shape:
            how = ".T" if value.ndim == 2 else f".transpose{order}"
            yield say(value.transpose(order), f"transposed ({how})")
    for n in range(1, value.ndim + 1):
        for axes in itertools.combinations(range(value.ndim), n):
            reduced = value.sum(axis=axes)
            if reduced.shape == right.shape:
                yield say(reduced, f"summed over axis {axes[0] if n == 1 else axes}")
            elif reduced.shape == right.shape[::-1] and reduced.ndim > 1:
                yield say(reduced.T, f"summed over axis {axes[0] if n == 1 else axes}, transposed,")
    for n in range(1, right.ndim + 1):
        for axes in itertools.combinations(range(right.ndim), n):
            if right.sum(axis=axes).shape == value.shape and _close(value, right.sum(axis=axes)):
                yield f"it is the right gradient summed over axis {axes[0] if n == 1 else axes}"
    if value.size == right.size and _close(value.reshape(right.shape), right):
        yield f"reshaped to {right.shape} it would be right"


def _evidence(
    exercise: Exercise, i: int, answer: Answer, value: Array, right: Array, bad: Array
) -> Iterator[str]:
    """Say what can be measured about a wrong gradient that is none of the known ones."""
    error = float(np.linalg.norm(value - right) / (np.linalg.norm(right) or 1.0))
    yield f"relative error {error:.2g}; {bad.sum()} of {bad.size} entries are wrong"
    if error < 1e-3:
        yield (
            "close, but not by rounding: look at constants, at eps, at float32, or at differences "
            "in place of derivatives"
        )
    product = float(np.sum(value * right))
    size, right_size = float(np.linalg.norm(value)), float(np.linalg.norm(right))
    if size and right_size:
        yield (
            f"cosine with the right one {product / (size * right_size):.4f}; "
            f"best factor {product / right_size**2:.4g}"
        )
    for axis in range(right.ndim):
        one_wrong = bad.any(axis=tuple(a for a in range(right.ndim) if a != axis))
        if not one_wrong.all() and right.ndim > 1:
            at = ", ".join(str(n) for n in np.flatnonzero(one_wrong))
            yield f"along axis {axis}, only these have wrong entries: {at}"
        if right.shape[axis] > 1 and _close_sums(value, right, axis):
            yield f"its sum over axis {axis} is right"
    if "g" in exercise.arguments and exercise.name != "adamw":
        yield from _linearity(exercise, i, answer)


def _close_sums(value: Array, right: Array, axis: int) -> bool:
    difference = np.abs(value.sum(axis=axis) - right.sum(axis=axis))
    return bool(np.all(difference <= _TOLERANCE * _scale(right)))


def _linearity(exercise: Exercise, i: int, answer: Answer) -> Iterator[str]:
    """Say whether the answer is linear in g, as every vjp is."""
    g, *others = _draws(exercise.name)[0]
    h = np.array(np.flip(g)) * 0.7 + 0.1
    try:
        of_g, of_h, of_both = (
            np.asarray(answer(np.array(x), *others)[i], dtype=float) for x in (g, h, g + h)
        )
        linear = _close(of_both, of_g + of_h)
    except Exception:
        return
    yield f"it is {'' if linear else 'not '}linear in g" + ("" if linear else ", as a vjp must be")


# -- diagnosis -----------------------------------------------------------------------------------

_Outcome = Array | None


def _diagnose(
    exercise: Exercise, name: str, yours: Sequence[_Outcome]
) -> tuple[str | None, tuple[str, ...]]:
    """Return what is wrong, in words, and the names of the mistakes."""
    known = [(m, by_name[name]) for m, by_name in _known(exercise.name) if name in by_name]
    found = [m for m, theirs in known if _agree(yours, theirs)]
    if found:
        return " Or: ".join(m.lesson for m in found), tuple(m.name for m in found)
    factors = _factors(exercise.name)
    if exact := _of_terms(exercise, name, yours, factors):
        return "; ".join(exact.values()), tuple(exact)
    for mistake, theirs in known:
        if factor := _ratio(yours, [None if t is None else [t] for t in theirs], factors):
            (symbol,) = factor
            words = _by(symbol)
            return f"{mistake.lesson} Besides, {words}", (mistake.name, f"factor: {symbol}")
    return None, ()


def _agree(yours: Sequence[_Outcome], theirs: Sequence[_Outcome]) -> bool:
    """Whether two answers are the same wherever the first has not raised."""
    pairs = [(y, t) for y, t in zip(yours, theirs, strict=True) if y is not None]
    return all(t is not None and _close(y, t) for y, t in pairs)


@cache
def _known(name: str) -> list[tuple[Mistake, dict[str, list[_Outcome]]]]:
    """Return all known mistakes with what they answer, by gradient and draw."""
    exercise = _exercise(name)
    known = []
    for mistake in (*exercise.mistakes, *_general(exercise)):
        answers = []
        for arguments in _draws(name):
            with np.errstate(all="ignore"):
                try:
                    answers.append(mistake.answer(*arguments))
                except (ValueError, IndexError):  # as the learner's does, where sizes differ
                    answers.append({})
        touched = dict.fromkeys(key for answer in answers for key in answer)
        known.append((mistake, {key: [a.get(key) for a in answers] for key in touched}))
    return known


def _general(exercise: Exercise) -> Iterator[Mistake]:
    """Yield the slips that fit any exercise."""
    names = list(exercise.gradients)

    def of(change: Callable[[dict[str, Array], Arguments], dict[str, Array]]) -> Answer:
        def answer(*arguments: Any) -> dict[str, Array]:
            return change(dict(zip(names, exercise.reference(*arguments), strict=True)), arguments)

        return answer

    if exercise.name == "adamw":
        return

    def of_ones(right: dict[str, Array], arguments: Arguments) -> dict[str, Array]:
        ones = np.ones_like(arguments[0])
        values = dict(zip(names, exercise.reference(ones, *arguments[1:]), strict=True))
        return {n: v for n, v in values.items() if not _close(v, right[n])}

    yield Mistake(
        "g-forgotten",
        "g is forgotten: this is the answer for a g of ones. A derivative was asked for times g, "
        "the gradient that comes from above.",
        of(of_ones),
    )
    yield Mistake(
        "g-passed-on",
        "g is passed on as it is.",
        of(lambda right, arguments: {n: arguments[0] for n in names}),
    )
    yield Mistake(
        "zero", "It is 0 everywhere.", of(lambda right, _: {n: 0.0 * right[n] for n in names})
    )
    for one, other in itertools.permutations(names, 2):
        yield Mistake(
            f"{other}-for-{one}",
            f"This is {other}, and not {one}: the order is {', '.join(names)}.",
            of(lambda right, _, one=one, other=other: {one: right[other]}),  # type: ignore[misc]
        )
    for n in names:
        ndim = exercise.reference(*_draws(exercise.name)[0])[names.index(n)].ndim
        for order in itertools.permutations(range(ndim)):
            if order == tuple(range(ndim)):
                continue
            how = ".T" if ndim == 2 else f".transpose{order}"
            yield Mistake(
                f"{n}-transposed{order}",
                f"{n} is transposed: this is {n}{how}.",
                of(lambda right, _, n=n, order=order: {n: right[n].transpose(order)}),  # type: ignore[misc]
            )
            yield Mistake(
                f"{n}-transposed{order}-reshaped",
                f"{n} is transposed and was then reshaped until it fitted: the right numbers in "
                f"the wrong places. It is {n}{how}.reshape({n}.shape).",
                of(
                    lambda right, _, n=n, order=order: {  # type: ignore[misc]
                        n: right[n].transpose(order).reshape(right[n].shape)
                    }
                ),
            )


def _of_terms(
    exercise: Exercise, name: str, yours: Sequence[_Outcome], factors: dict[str, Array]
) -> dict[str, str]:
    """Take the answer apart into the right gradient's terms; say which have a wrong factor."""
    terms: list[list[Array] | None] = []
    labels: list[str] = []
    for value, arguments, rights in zip(
        yours, _draws(exercise.name), _rights(exercise.name), strict=True
    ):
        right = rights[list(exercise.gradients).index(name)]
        parts = exercise.terms(*arguments).get(name, {"": right})
        labels = list(parts)
        fits = value is not None and value.shape == right.shape
        terms.append(list(parts.values()) if fits else None)
    if any(y is not None and t is None for y, t in zip(yours, terms, strict=True)):
        return {}
    symbols = _ratio(yours, terms, factors)
    if len(set(symbols)) == 1:  # all of the gradient
        return {f"factor: {symbols[0]}": _by(symbols[0])}
    found = {}
    for label, symbol in zip(labels, symbols, strict=bool(symbols)):
        if symbol == "0":
            found[f"missing: {label}"] = f"the term {label} is missing"
        elif symbol != "1":
            found[f"factor: {symbol} of {label}"] = _by(symbol, f"the term {label}")
    return found


def _by(symbol: str, what: str = "it") -> str:
    """Say that something is off by a factor."""
    if symbol == "-1":
        return f"{what} has the wrong sign"
    if symbol.startswith("1/("):
        return f"{what} is too small: it must be multiplied by {symbol[3:-1]}"
    if symbol.startswith("-"):
        return f"{what} has the wrong sign, and is {symbol[1:]} times what it should be"
    return f"{what} is {symbol} times what it should be"


def _ratio(
    yours: Sequence[_Outcome], terms: Sequence[list[Array] | None], factors: dict[str, Array]
) -> list[str]:
    """Return the symbols c with yours = sum c * term on all draws; [] if there are none."""
    candidates: list[set[str]] = []
    for draw, (value, parts) in enumerate(zip(yours, terms, strict=True)):
        if value is None:
            continue
        if parts is None or any(part.shape != value.shape for part in parts):
            return []
        if not np.isfinite(value).all():
            return []
        matrix = np.stack([part.ravel() for part in parts], axis=1)
        if np.linalg.matrix_rank(matrix) < len(parts):  # several answers: none is sure
            return []
        c = np.linalg.lstsq(matrix, value.ravel())[0]
        if not np.all(np.abs(matrix @ c - value.ravel()) <= _TOLERANCE * _scale(value)):
            return []
        here = [
            {s for s, f in factors.items() if abs(f[draw] - x) <= 1e-8 * max(1.0, abs(f[draw]))}
            for x in c
        ]
        candidates = [a & b for a, b in zip(candidates or here, here, strict=True)]
        if not all(candidates):
            return []
    return [" or ".join(s for s in factors if s in several) for several in candidates]


@cache
def _factors(name: str) -> dict[str, Array]:
    """Return factors by which a gradient may be off, by symbol, the simplest first; (draws,)."""
    exercise = _exercise(name)
    letters = {s: np.array([getattr(n, s) for n in _SIZES], dtype=float) for s in exercise.letters}
    ones = np.ones(len(_SIZES))
    plain = {"2": 2 * ones, "3": 3 * ones, "4": 4 * ones, **letters}
    plain |= {f"{a}*{b}": letters[a] * letters[b] for a, b in itertools.combinations(letters, 2)}
    plain |= {f"sqrt({a})": np.sqrt(x) for a, x in plain.items()}
    plain |= {f"{a}**2": x * x for a, x in letters.items()}
    plain |= {f"{a}/{b}": letters[a] / letters[b] for a, b in itertools.permutations(letters, 2)}
    extra = [exercise.factors(*arguments) for arguments in _draws(name)]
    plain |= {key: np.array([float(e[key]) for e in extra]) for key in extra[0]}
    known = {"1": ones, "0": 0.0 * ones}
    known |= plain | {f"1/({s})": 1.0 / x for s, x in plain.items()}
    known |= {f"-{s}": -x for s, x in known.items() if s != "0"}
    distinct: dict[str, Array] = {}
    for s, x in known.items():  # the simplest name of each
        if not any(np.allclose(x, other, rtol=1e-12) for other in distinct.values()):
            distinct[s] = x
    return distinct


# -- draws ---------------------------------------------------------------------------------------


@cache
def _draws(name: str) -> tuple[Arguments, ...]:
    """Return the arguments that an answer is judged on: the same at every call."""
    exercise = _exercise(name)
    return tuple(exercise.draw(np.random.default_rng(i), n) for i, n in enumerate(_SIZES))


@cache
def _rights(name: str) -> tuple[tuple[Array, ...], ...]:
    exercise = _exercise(name)
    return tuple(exercise.reference(*arguments) for arguments in _draws(name))


def _exercise(name: str) -> Exercise:
    if name not in EXERCISES:
        raise ValueError(f"there is no exercise {name!r}; choose one of {', '.join(EXERCISES)}")
    return EXERCISES[name]


# -- files ---------------------------------------------------------------------------------------


def exercises() -> dict[str, str]:
    """Return the names of the exercises in their order, each with its statement.

    >>> list(exercises())[:3]
    ['linear', 'cross_entropy', 'softmax']
    """
    return {name: exercise.statement for name, exercise in EXERCISES.items()}


def hints(name: str, n: int = 3) -> tuple[str, ...]:
    """Return the first n hints, from 1 to 3; each is of more help than the one before.

    >>> hints("softmax", 1)
    ('Every output depends on every input of its row: what is dp_i/dx_j for i = j, and for others?',)
    """
    if n not in (1, 2, 3):
        raise ValueError(f"there are 3 hints, so that hint {n} must be 1, 2 or 3")
    return _exercise(name).hints[:n]


def derivation(name: str) -> str:
    """Return the way from the forward pass to the gradients, line by line."""
    module = inspect.getmodule(_exercise(name).forward)
    return inspect.cleandoc(str(getattr(module, "__doc__", "")))


def start(name: str, path: str | os.PathLike[str]) -> None:
    """Write a file to begin with: the task, the forward pass, and the function to be written.

    Raises
    ------
    FileExistsError
        There is a file of this name; it is left as it is.
    ValueError
        There is no such exercise.
    """
    text = _starting_text(_exercise(name), os.fspath(path))
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise FileExistsError(
            f"{os.fspath(path)} exists and is left as it is; choose another name"
        ) from None


def _starting_text(exercise: Exercise, path: str) -> str:
    shapes = [f"    {n:<12} {s}" for n, s in exercise.arguments.items()]
    gradients = [f"    {n:<12} {s}" for n, s in exercise.gradients.items()]
    lines = [
        f'"""{exercise.statement}',
        "",
        "B batch, T time, C channels, H heads, D = C/H, V vocabulary. To be judged:",
        "",
        f"    npgpt2 practice {exercise.name} {path}",
        f"    npgpt2 practice {exercise.name} --hint 1",
        '"""',
        "",
        "import math",
        "",
        "import numpy as np",
        "",
        "",
        inspect.getsource(exercise.forward).rstrip(),
        "",
        "",
        f"def {exercise.function}({', '.join(exercise.arguments)}):",
        f'    """Return {", ".join(exercise.gradients)}.',
        "",
        "    Given",
        *shapes,
        "    return",
        *gradients,
        "",
        "    Change none of what is given.",
        '    """',
        "    raise NotImplementedError",
        "",
        "",
        'if __name__ == "__main__":',
        "    from npgpt2.learn.practice import check",
        "",
        f'    print(check("{exercise.name}", {exercise.function}))',
        "",
    ]
    text = "\n".join(lines)
    return text.replace("Array", "np.ndarray").replace(") -> Any:", "):")


def check_file(name: str, path: str | os.PathLike[str]) -> Verdict:
    """Judge the answer in a file, found there by the name of the function to be written.

    The file is run by itself, as a module that is not `__main__`.

    Raises
    ------
    OSError, ValueError
        The file cannot be read or run, or has no such function; the message has the line.
    """
    exercise = _exercise(name)
    path = os.fspath(path)
    with open(path, "rb") as file:
        source = file.read()
    try:
        code = compile(source, path, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise ValueError(f"{path}:{error.lineno}: {type(error).__name__}: {error.msg}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    module = ModuleType("answer")
    module.__file__ = path
    said = io.StringIO()
    try:
        with redirect_stdout(said), np.errstate(all="ignore"):
            exec(code, module.__dict__)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = [f.lineno for f in frames if f.filename == path][-1:] or ["?"]
        raise ValueError(f"{path}:{line[0]}: {type(error).__name__}: {error}") from None
    function = getattr(module, exercise.function, None)
    if not callable(function):
        others = [
            n for n, v in vars(module).items()
            if inspect.isfunction(v) and v.__module__ == "answer"
        ]  # fmt: skip
        found = f"; its functions are {', '.join(others)}" if others else ""
        raise ValueError(
            f"{path} has no function {exercise.function}({', '.join(exercise.arguments)}){found}"
        )
    verdict = check(name, function)
    return Verdict(**{**vars(verdict), "output": said.getvalue() + verdict.output})


# -- the command line ----------------------------------------------------------------------------


def practice(
    name: str | None = None,
    file: str | None = None,
    *,
    start_file: str | None = None,
    hint: int | None = None,
    show_derivation: bool = False,
) -> int:
    """`npgpt2 practice`: print what is asked for; return 0, or 1 if an answer is wrong.

    Without a name, the exercises; with one alone, its task.

    Raises
    ------
    OSError, ValueError
        With a message of one line, for what a user can mend.
    """
    if name is None:
        width = max(map(len, EXERCISES))
        for n, statement in exercises().items():
            print(f"{n:<{width}}  {statement}")
        return 0
    exercise = _exercise(name)
    if sum(x is not None for x in (file, start_file, hint)) + show_derivation > 1:
        raise ValueError("one thing at a time: a file to judge, --start, --hint or --derivation")
    if start_file is not None:
        start(name, start_file)
        print(f"{start_file}: write {exercise.function} there, then npgpt2 practice {name} "
              f"{start_file}")  # fmt: skip
    elif hint is not None:
        print(hints(name, hint)[-1])
    elif show_derivation:
        print(derivation(name))
    elif file is not None:
        verdict = check_file(name, file)
        print(verdict)
        return 0 if verdict.passed else 1
    else:
        print(_starting_text(exercise, f"{name}.py"), end="")
    return 0
