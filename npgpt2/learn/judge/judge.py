"""The judge: from a learner's function to a verdict.

The judge calls the function on random inputs of unequal sizes, where every wrong transposition
shows, and on inputs whose sizes are all equal. It compares each gradient with the right one, and a
wrong gradient with the known mistakes (see `diagnosis`). It then uses a right function in a larger
computation, usually a whole model.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import replace

import numpy as np

from npgpt2.learn.judge.attempt import Attempt, as_tuple, is_numeric, where_raised
from npgpt2.learn.judge.diagnosis import close
from npgpt2.learn.judge.exercise import SIZES, Answer, Exercise
from npgpt2.learn.judge.gradients import examine
from npgpt2.learn.judge.verdict import Gradient, Verdict

_SQUARE = 2  # the last draws, whose sizes are all equal


def judge(exercise: Exercise, function: Answer) -> Verdict:
    """Judge an answer. Only a function that never returns cannot be judged."""
    said = io.StringIO()
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with redirect_stdout(said):
            first = Attempt.of(exercise, function, exercise.draws[0])
        with redirect_stdout(io.StringIO()):  # keep the printed text of one call
            others = [Attempt.of(exercise, function, draw) for draw in exercise.draws[1:]]
            verdict = _judge(exercise, function, [first, *others])
    return replace(verdict, output=said.getvalue())


def _judge(exercise: Exercise, function: Answer, attempts: list[Attempt]) -> Verdict:
    refusal = _refusal(exercise, function, attempts)
    if refusal:
        return Verdict(exercise.name, False, f"{exercise.name}: {refusal}")
    gradients = examine(exercise, function, attempts)
    wrong = [g for g in gradients if g.status != "right"]
    faults = list(_faults(exercise, function, attempts, bool(wrong)))
    notes = list(_dangers(exercise, attempts))
    if not (wrong or faults):
        fault, said = _end_to_end(exercise, function)
        faults += [fault] if fault else []
        notes += [*_float32_notes(exercise, function), said] if said else []
    what = f"right. On {len(attempts)} random inputs, it equals the right answer up to rounding."
    if wrong:
        what = _headline(wrong)
    elif faults:
        what = "not right yet."
    return Verdict(
        exercise.name,
        passed=not (wrong or faults),
        headline=f"{exercise.name}: {what}",
        gradients=gradients,
        notes=(*faults, *notes),
    )


def _refusal(exercise: Exercise, function: Answer, attempts: list[Attempt]) -> str:
    """Say why no gradient can be judged; empty if all can."""
    for attempt in attempts:
        if isinstance(attempt.error, NotImplementedError):
            return f"not yet written. It raises {where_raised(attempt.error, function)}"
    done = [attempt.values for attempt in attempts if attempt.values is not None]
    if not done:
        error = attempts[0].error
        assert error is not None
        called = f"{exercise.function}({', '.join(exercise.arguments)})"
        return f"{called} raises {where_raised(error, function)}"
    names = list(exercise.gradients)
    for values in done:
        if len(values) != len(names):
            number = f"{len(values)} value{'s' * (len(values) != 1)}"
            number = "None" if len(values) == 1 and values[0] is None else number
            return f"it returns {number}, not {len(names)} arrays: {', '.join(names)}."
    return ""


def _headline(wrong: Sequence[Gradient]) -> str:
    (cause, *more) = {g.mistakes for g in wrong}
    same = cause and not more and len(wrong) > 1 and not cause[0].startswith("factor")
    verb = "is" if len(wrong) == 1 else "are"
    why = ", because of one mistake" if same else ""
    return f"{', '.join(g.name for g in wrong)} {verb} wrong{why}."


def _faults(
    exercise: Exercise, function: Answer, attempts: list[Attempt], is_wrong: bool
) -> Iterator[str]:
    """Yield sentences about faults of the whole function."""
    raised = [attempt.error for attempt in attempts if attempt.error is not None]
    if raised:
        unequal = all(attempt.error is not None for attempt in attempts[:-_SQUARE])
        when = "unless all sizes are equal" if unequal else "for some of the inputs"
        yield f"Your function raises an error {when}: {where_raised(raised[0], function)}"
    for name in dict.fromkeys(name for attempt in attempts for name in attempt.changed):
        yield f"Your function changes its input {name}, which other code needs. Work on a copy."
    if not attempts[0].agrees_with(Attempt.of(exercise, function, exercise.draws[0])):
        yield "Your function gives different results if you call it twice with the same inputs."
    elif not is_wrong and not _is_right_again(exercise, function):
        yield (
            "Your function is wrong if you call it again with other inputs of the same shapes. "
            "Does it keep something from an earlier call?"
        )


def _is_right_again(exercise: Exercise, function: Answer) -> bool:
    """Whether the function raises, or is right, for new values in the shapes of the first draw."""
    arguments = exercise.draw(np.random.default_rng(99), SIZES[0])
    values = Attempt.of(exercise, function, arguments).values
    expected = exercise.reference(*arguments)
    return values is None or (
        len(values) == len(expected)
        and all(is_numeric(v) and close(v, r) for v, r in zip(values, expected, strict=True))
    )


def _dangers(exercise: Exercise, attempts: list[Attempt]) -> Iterator[str]:
    names = list(exercise.gradients)
    shared = dict.fromkeys(pair for attempt in attempts for pair in attempt.shared)
    for i, name in shared:
        yield (
            f"Danger: {names[i]} has the same memory as the input {name}, so code that adds to "
            f"{names[i]} in place changes {name}. Return a new array."
        )


def _end_to_end(exercise: Exercise, function: Answer) -> tuple[str, str]:
    """Use the answer in a model; return (a fault, ""), or ("", a sentence about the comparison)."""
    try:
        return "", exercise.end_to_end(lambda *given: as_tuple(exercise, function(*given)))
    except AssertionError as error:
        return f"In a larger computation, your function is wrong: {error}", ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit() raises one, for example
        return f"In a larger computation, your function raises {where_raised(error, function)}", ""


def _float32_notes(exercise: Exercise, function: Answer) -> list[str]:
    """Return a note for each gradient that does not keep the precision of the inputs."""
    narrow = (
        a.astype(np.float32) if isinstance(a, np.ndarray) and a.dtype == np.float64 else a
        for a in exercise.draws[0]
    )
    values = Attempt.of(exercise, function, tuple(narrow)).values or ()
    return [
        f"Note: for float32 inputs, {name} is {value.dtype}. Your function uses a float64 value: "
        "an array made without a dtype, or a NumPy number. For example, write math.sqrt(D) instead "
        "of np.sqrt(D)."
        for name, value in zip(exercise.gradients, values, strict=False)
        if is_numeric(value) and value.dtype != np.float32
    ]
