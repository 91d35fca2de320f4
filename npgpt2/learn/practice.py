"""Practice with diagnosis: write the backward pass of a layer yourself, and be told what is wrong.

`check` runs a function on random inputs of unequal sizes, where no transposition can hide, and on
some where all sizes are equal, and compares each gradient with the right one. A wrong one is
compared with the wrong answers that are known (see `exercises/diagnosis.py`). Only what agrees
everywhere, to nine digits, is named; where nothing does, the verdict says so, and shows what can be
measured.

>>> from npgpt2.learn.exercises.softmax import forward
>>> verdict = check("softmax", lambda g, x: forward(x) * g)
>>> verdict.passed
False
>>> print(verdict.headline)
softmax: dx is wrong.
>>> print(verdict.diagnosis)
The term -p * sum(g * p) is missing.

To write one in a file: `start` makes the file, `check_file` judges it; `hints` and `derivation`
help.
"""

from __future__ import annotations

import inspect
import io
import itertools
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from autograd import Array, Tensor
from npgpt2.learn.exercises import EXERCISES
from npgpt2.learn.judge.diagnosis import close, diagnose, differ
from npgpt2.learn.judge.exercise import SIZES, Answer, Arguments, Exercise

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
        seen: dict[str | None, str] = {}  # what is wrong with several is said once
        for i, g in enumerate(self.gradients, start=1):
            if g.diagnosis and seen.setdefault(g.diagnosis, g.name) != g.name:
                parts[i] = str(replace(g, diagnosis=f"the same as {seen[g.diagnosis]}"))
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
        Whatever the function does; only one that never ends is not stopped.

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
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with redirect_stdout(said):
            first = _Run.of(exercise, function, exercise.draws[0])
        with redirect_stdout(io.StringIO()):  # what it prints is kept once
            runs = [first, *(_Run.of(exercise, function, draw) for draw in exercise.draws[1:])]
            return replace(_judge(exercise, function, runs), output=said.getvalue())


@dataclass(frozen=True)
class _Run:
    """What a function did with one draw."""

    values: tuple[Any, ...] | None  # None if it raised
    error: BaseException | None = None
    changed: tuple[str, ...] = ()  # the inputs that it wrote into
    shared: tuple[tuple[int, str], ...] = ()  # which result has the memory of which input

    @classmethod
    def of(cls, exercise: Exercise, function: Answer, arguments: Arguments) -> _Run:
        given = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
        try:
            values = _tuple(exercise, function(*given))
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


def _tuple(exercise: Exercise, values: Any) -> tuple[Any, ...]:
    """Return the values of an answer as a tuple; several may be a list too."""
    several = isinstance(values, tuple) or (
        isinstance(values, list) and len(exercise.gradients) > 1
    )
    return tuple(values) if several else (values,)


def _judge(exercise: Exercise, function: Answer, runs: list[_Run]) -> Verdict:
    def verdict(what: str, passed: bool = False, **more: Any) -> Verdict:
        return Verdict(exercise.name, passed, f"{exercise.name}: {what}", **more)

    names = list(exercise.gradients)
    for run in runs:
        if isinstance(run.error, NotImplementedError):
            return verdict(f"not yet written ({_where(run.error, function)}).")
    done = [run for run in runs if run.values is not None]
    raised = [run.error for run in runs if run.error is not None]
    if not done:
        called = f"{exercise.function}({', '.join(exercise.arguments)})"
        return verdict(f"{called} raises {_where(raised[0], function)}")
    for values in (run.values for run in done):
        if values is not None and len(values) != len(names):
            number = "None" if len(values) == 1 and values[0] is None else str(len(values))
            return verdict(f"it returns {number}, expected {len(names)}: {', '.join(names)}.")

    gradients = _examine(exercise, function, runs)
    wrong = [g.name for g in gradients if g.status != "right"]
    faults = []
    if raised:
        unequal = all(run.error is not None for run in runs[:-_SQUARE])
        when = "unless all sizes are equal" if unequal else "for some of the inputs"
        faults.append(f"It raises {when}: {_where(raised[0], function)}")
    for name in dict.fromkeys(name for run in done for name in run.changed):
        faults.append(f"It changes its input {name}, which others still need: work on a copy.")
    if not _same_values(runs[0], _Run.of(exercise, function, exercise.draws[0])):
        faults.append("Called twice with the same inputs, it gives different results.")
    elif not wrong and not _is_right_again(exercise, function):
        faults.append(
            "Called again with other inputs of the same shapes, it is wrong: does it keep "
            "something from an earlier call?"
        )
    dangers = [
        f"Danger: {names[i]} has the memory of the input {name}: who adds to {names[i]} in place "
        f"changes {name}. Return a new array."
        for i, name in dict.fromkeys(pair for run in done for pair in run.shared)
    ]
    if wrong:
        (cause, *more) = {g.mistakes for g in gradients if g.status != "right"}
        same = cause and not more and len(wrong) > 1 and not cause[0].startswith("factor")
        one = ", by one mistake" if same else ""
        what = f"{', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} wrong{one}."
        return verdict(what, gradients=gradients, notes=(*faults, *dangers))
    if not faults:
        try:
            said = exercise.end_to_end(lambda *given: _tuple(exercise, function(*given)))
        except AssertionError as error:
            faults.append(f"End to end it is wrong: {error}")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # among them what sys.exit() raises
            faults.append(f"End to end it raises {_where(error, function)}")
    if faults:
        return verdict("not right yet.", gradients=gradients, notes=(*faults, *dangers))
    notes = (*dangers, *_float32_notes(exercise, function), said)
    return verdict(
        f"right. Up to rounding the answer is the right one, on {len(runs)} draws.",
        True, gradients=gradients, notes=notes,
    )  # fmt: skip


_SQUARE = 2  # the last draws, where all sizes are equal


def _where(error: BaseException, file: Answer | str) -> str:
    """Return the error in a line, with the last line of the learner's own file that led to it."""
    if not isinstance(file, str):
        with suppress(ValueError):  # of a function that wraps itself
            file = inspect.unwrap(file)
        code = getattr(file, "__code__", None)
        file = code.co_filename if code else ""
    try:
        said = str(error)
    except Exception:  # an exception of the learner's own
        said = ""
    text = " ".join(f"{type(error).__name__}: {said}".split()).removesuffix(":")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename == file:
            line = f", in: {frame.line}" if frame.line else ""
            return f"{text} ({frame.filename}:{frame.lineno}{line})"
    return text


def _same_values(one: _Run, other: _Run) -> bool:
    if one.values is None or other.values is None:
        return type(one.error) is type(other.error)
    if len(one.values) != len(other.values):
        return False
    pairs = zip(one.values, other.values, strict=True)
    return all(
        not _is_numeric(a) or (_is_numeric(b) and np.array_equal(a, b, equal_nan=True))
        for a, b in pairs
    )


def _is_numeric(value: Any) -> bool:
    is_array = isinstance(value, np.ndarray | np.generic)
    return is_array and value.dtype.kind in "fiubc" and not isinstance(value, np.ma.MaskedArray)


def _is_right_again(exercise: Exercise, function: Answer) -> bool:
    """Whether it is right for new values in the shapes of the first draw; or raises."""
    arguments = exercise.draw(np.random.default_rng(99), SIZES[0])
    values = _Run.of(exercise, function, arguments).values
    rights = exercise.reference(*arguments)
    return values is None or (
        len(values) == len(rights)
        and all(_is_numeric(v) and close(v, r) for v, r in zip(values, rights, strict=True))
    )


def _float32_notes(exercise: Exercise, function: Answer) -> list[str]:
    """Say which gradients do not keep the precision of the inputs."""
    narrow = (
        a.astype(np.float32) if isinstance(a, np.ndarray) and a.dtype == np.float64 else a
        for a in exercise.draws[0]
    )
    values = _Run.of(exercise, function, tuple(narrow)).values or ()
    return [
        f"Note: of float32 inputs, {name} is {value.dtype}: something in it is float64, an array "
        "made without a dtype, or a NumPy number such as np.sqrt(D), where math.sqrt(D) is none."
        for name, value in zip(exercise.gradients, values, strict=False)
        if _is_numeric(value) and value.dtype != np.float32
    ]


# -- one gradient --------------------------------------------------------------------------------


def _examine(exercise: Exercise, function: Answer, runs: Sequence[_Run]) -> tuple[Gradient, ...]:
    """Judge each gradient by itself."""
    gradients: dict[str, Gradient] = {}
    yours: dict[str, list[Array | None]] = {}
    for i, name in enumerate(exercise.gradients):
        pairs = [
            (run.values[i], right[i])
            for run, right in zip(runs, exercise.expected, strict=True)
            if run.values is not None
        ]
        gradients[name] = _kind(name, pairs) or _compare(name, pairs)
        values = [None if run.values is None else run.values[i] for run in runs]
        yours[name] = [np.asarray(v) if _is_numeric(v) else None for v in values]
    wrong = [n for n, g in gradients.items() if g.status in ("wrong", "wrong shape", "not finite")]
    findings = diagnose(exercise, yours, wrong)
    for name in wrong:
        if name in findings:
            text, names = findings[name].text, findings[name].names
            gradients[name] = replace(gradients[name], diagnosis=text, mistakes=names)
        elif gradients[name].status == "wrong":
            evidence = tuple(_evidence(exercise, function, name, yours[name]))
            gradients[name] = replace(gradients[name], evidence=evidence)
    return tuple(gradients.values())


def _kind(name: str, pairs: Sequence[tuple[Any, Array]]) -> Gradient | None:
    """Say what the values are, if they are not float64 arrays."""
    for value, right in pairs:
        if not _is_numeric(value):
            what = f"of type {type(value).__name__}"
            if isinstance(value, np.ma.MaskedArray):
                what = "a masked array"
            elif isinstance(value, np.ndarray):
                what = f"an array of {value.dtype}"
            elif value is None or isinstance(value, Tensor):
                what = "None" if value is None else "a Tensor"
            text = f"it is {what}; return a NumPy array"
            return Gradient(name, "not an array", evidence=(text,))
        if value.dtype != np.float64:
            rounded = value.shape == right.shape and np.allclose(value, right, rtol=1e-3, atol=1e-5)
            more = "; as far as that goes its values are right" if rounded else ""
            text = f"it is {value.dtype}, where the inputs are float64{more}"
            return Gradient(name, "wrong dtype", evidence=(text,))
    return None


def _compare(name: str, pairs: Sequence[tuple[Array, Array]]) -> Gradient:
    for value, right in pairs:
        if value.shape != right.shape:
            shape = f"it has shape {value.shape}, expected {right.shape}"
            return Gradient(name, "wrong shape", evidence=(shape, *_fit(value, right)))
        bad = differ(value, right)
        if bad.any():
            status = "wrong" if np.isfinite(value).all() else "not finite"
            bad = bad if status == "wrong" else ~np.isfinite(value)
            index = tuple(int(n) for n in np.argwhere(bad)[0])
            cause = "a root of a negative number, 0/0 or inf - inf makes NaN; x/0, inf"
            evidence = (cause,) if status == "not finite" else ()
            numbers = float(value[index]), float(right[index])
            return Gradient(name, status, index, *numbers, evidence=evidence)
    return Gradient(name, "right")


def _fit(value: Array, right: Array) -> Iterator[str]:
    """Say what would make the shape fit, and whether the numbers would be right then."""
    changes: dict[str, Array] = {}
    if value.ndim > 5:
        return
    for order in itertools.permutations(range(value.ndim)):
        if value.ndim > 1 and order != tuple(range(value.ndim)):
            changes[f"transposed to the axes {order}"] = value.transpose(order)
    for n in range(1, value.ndim + 1):
        for axes in itertools.combinations(range(value.ndim), n):
            over = f"summed over axis {axes[0] if n == 1 else axes}"
            changes[over] = value.sum(axis=axes)
            changes[f"{over} and transposed"] = value.sum(axis=axes).T
    if value.size == right.size:
        changes["reshaped"] = value.reshape(right.shape)
    fitting = {what: changed for what, changed in changes.items() if changed.shape == right.shape}
    equal = [what for what, changed in fitting.items() if close(changed, right)]
    if equal:
        yield f"{equal[0]} it would be right"
    elif fitting:
        yield f"{next(iter(fitting))} it would have the right shape, but not the right values"
    for n in range(1, right.ndim + 1):
        for axes in itertools.combinations(range(right.ndim), n):
            if close(value, right.sum(axis=axes)):
                yield f"it is the right one summed over axis {axes[0] if n == 1 else axes}"


def _evidence(
    exercise: Exercise, function: Answer, name: str, yours: Sequence[Array | None]
) -> Iterator[str]:
    """Say what can be measured about a wrong gradient that is none of the known ones."""
    i = list(exercise.gradients).index(name)
    value, right = next(
        (v, r[i])
        for v, r in zip(yours, exercise.expected, strict=True)
        if v is not None and not close(v, r[i])
    )
    bad = differ(value, right)
    size, right_size = float(np.linalg.norm(value)), float(np.linalg.norm(right))
    error = float(np.linalg.norm(value - right)) / (right_size or 1.0)
    yield f"relative error {error:.2g}; {bad.sum()} of {bad.size} entries are wrong"
    as_float32 = error < 1e-6
    if as_float32:
        yield "so little is rounding of float32, if not a constant or eps: keep to float64"
    elif error < 1e-3:
        yield "that is little, but not rounding: look at constants, eps, differences"
    if size and right_size:
        product = float(np.sum(value * right))
        yield (
            f"cosine with the right one {product / (size * right_size):.4f}, "
            f"best factor {product / right_size**2:.4g}"
        )
    for axis in range(right.ndim):
        others = tuple(a for a in range(right.ndim) if a != axis)
        wrong_at = np.flatnonzero(bad.any(axis=others))
        if others and len(wrong_at) < right.shape[axis]:
            yield f"wrong only at {', '.join(map(str, wrong_at))} of axis {axis}"
        if np.abs((value - right).sum(axis=axis)).max() <= 1e-9 * np.abs(right).max():
            yield f"its sum over axis {axis} is right"
    if next(iter(exercise.arguments)) == "g" and not as_float32:
        linear = _is_linear(exercise, function, i)
        yield "it is linear in g" if linear else "it is not linear in g, as it must be"


def _is_linear(exercise: Exercise, function: Answer, i: int) -> bool:
    """Whether the i-th gradient of g + h is that of g and that of h, on all draws."""
    for g, *others in exercise.draws:
        h = np.asarray(np.flip(g) * 0.7 + 0.1)
        runs = [_Run.of(exercise, function, (x, *others)) for x in (g, h, g + h)]
        values = [np.asarray(run.values[i]) for run in runs if run.values is not None]
        if len(values) == 3 and not close(values[2], values[0] + values[1]):
            return False
    return True


# -- files ---------------------------------------------------------------------------------------


def exercises() -> dict[str, str]:
    """Return the names of the exercises in their order, each with its statement.

    >>> list(exercises())[:3]
    ['linear', 'cross_entropy', 'softmax']
    """
    return {name: exercise.statement for name, exercise in EXERCISES.items()}


def hints(name: str, n: int = 3) -> tuple[str, ...]:
    """Return the first n hints, from 1 to 3; each is of more help than the one before.

    >>> hints("residual", 2)
    ('How often is x used in x + f(x)?', 'Twice, so dx has two terms. What does each path do to g?')
    """
    if n not in (1, 2, 3):
        raise ValueError(f"there are 3 hints, so that hint {n} must be 1, 2 or 3")
    return _exercise(name).hints[:n]


def derivation(name: str) -> str:
    """Return the way from the forward pass to the gradients, line by line."""
    exercise = _exercise(name)
    return f"{exercise.derivation}\n\nThese lines run after `from {exercise.module} import *`."


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
    source = inspect.getsource(exercise.forward).rstrip().split("\n", 1)[1]  # without annotations
    parameters = ", ".join(inspect.signature(exercise.forward).parameters)
    imports = ["import math", ""] if "math." in source else []
    return "\n".join(
        [
            f'r"""{exercise.statement}',
            "",
            "B batch, T time, C channels, H heads, D = C/H, V vocabulary. For a verdict or help:",
            "",
            f"    npgpt2 practice {exercise.name} {os.path.basename(path)}",
            f"    npgpt2 practice {exercise.name} --hint 1",
            f"    npgpt2 practice {exercise.name} --derivation",
            '"""',
            "",
            *imports,
            "import numpy as np",
            "",
            "",
            f"def forward({parameters}):",
            source,
            "",
            "",
            f"def {exercise.function}({', '.join(exercise.arguments)}):",
            f'    """Return {", ".join(exercise.gradients)}; change nothing of what is given.',
            "",
            *(f"    {n:<13} {what}" for n, what in exercise.arguments.items()),
            "",
            "    Returned:",
            "",
            *(f"    {n:<13} {what}" for n, what in exercise.gradients.items()),
            '    """',
            "    raise NotImplementedError",
            "",
        ]
    )


_MODULE = "answer to an exercise"  # a name that no import asks for


def _exercise(name: str) -> Exercise:
    if name not in EXERCISES:
        raise ValueError(f"there is no exercise {name!r}; choose one of {', '.join(EXERCISES)}")
    return EXERCISES[name]


def check_file(name: str, path: str | os.PathLike[str]) -> Verdict:
    """Judge the answer in a file, found there by the name of the function to be written.

    The file is run by itself, as a module that is not `__main__`; files beside it are not found.

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
        line = f":{error.lineno}" if error.lineno else ""
        raise ValueError(f"{path}{line}: {type(error).__name__}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{path} cannot be compiled: {error or type(error).__name__}") from None
    module = ModuleType(_MODULE)
    module.__file__ = path
    said = io.StringIO()
    sys.modules[_MODULE] = module  # where dataclasses look for it
    try:
        with redirect_stdout(said), np.errstate(all="ignore"):
            exec(code, module.__dict__)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ValueError(f"{path} cannot be run: {_where(error, path)}") from None
    finally:
        del sys.modules[_MODULE]
    function = vars(module).get(exercise.function)
    if not callable(function):
        others = [
            n for n, v in vars(module).items()
            if inspect.isfunction(v) and v.__module__ == _MODULE
        ]  # fmt: skip
        found = f"; its functions are {', '.join(others)}" if others else ""
        raise ValueError(
            f"{path} has no function {exercise.function}({', '.join(exercise.arguments)}){found}"
        )
    verdict = check(name, function)
    return replace(verdict, output=said.getvalue() + verdict.output)


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
        if start_file is not None or hint is not None or show_derivation:
            raise ValueError("of which exercise? npgpt2 practice NAME, and then the flag")
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
              f"{shlex.quote(start_file)}")  # fmt: skip
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
