"""Practice with diagnosis: write the backward pass of a layer, and see your mistake.

`check` calls your function on random inputs and compares each gradient with the right one. If a
gradient is wrong, `check` compares it with known mistakes. It names a mistake only if your gradient
agrees with that mistake everywhere, to nine digits. Otherwise it says that it does not know the
mistake, and shows measurements.

>>> from npgpt2.learn.exercises.softmax import forward
>>> verdict = check("softmax", lambda g, x: forward(x) * g)
>>> verdict.passed
False
>>> print(verdict.headline)
softmax: dx is wrong.
>>> print(verdict.diagnosis)
The term -p * sum(g * p) is missing.

`start` makes a file for your answer, and `check_file` judges this file. `hints` and `derivation`
help.
"""

from __future__ import annotations

import inspect
import io
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np

from npgpt2.disk.files import as_argument
from npgpt2.learn.exercises import EXERCISES
from npgpt2.learn.judge.attempt import where_raised
from npgpt2.learn.judge.exercise import Exercise
from npgpt2.learn.judge.judge import judge
from npgpt2.learn.judge.verdict import Verdict


def check(name: str, function: Callable[..., Any]) -> Verdict:
    """Judge an answer to one of the `exercises()`: a function of its arguments, in their order.

    An error in the answer is a part of the verdict. Only a function that never returns cannot be
    judged.
    """
    exercise = _exercise(name)
    if not callable(function):
        raise TypeError(f"expected a function, not {type(function).__name__}")
    return judge(exercise, function)


def exercises() -> dict[str, str]:
    """Return the names of the exercises in their order, each with its task.

    >>> list(exercises())[:3]
    ['linear', 'cross_entropy', 'softmax']
    """
    return {name: exercise.statement for name, exercise in EXERCISES.items()}


def hints(name: str, n: int = 3) -> tuple[str, ...]:
    """Return the first n hints, from 1 to 3; each helps more than the one before.

    >>> hints("residual", 2)
    ('How often is x used in x + f(x)?', 'Twice, so dx has two terms. What does each path do to g?')
    """
    if n not in (1, 2, 3):
        raise ValueError(f"there is no hint {n}; choose 1, 2 or 3")
    return _exercise(name).hints[:n]


def derivation(name: str) -> str:
    """Return the way from the forward pass to the gradients, line by line."""
    exercise = _exercise(name)
    first = f"from {exercise.module} import *"
    return f"{exercise.derivation}\n\nTo run the lines with >>>, first run {first}."


def _exercise(name: str) -> Exercise:
    if name not in EXERCISES:
        raise ValueError(f"there is no exercise {name!r}; choose one of {', '.join(EXERCISES)}")
    return EXERCISES[name]


# -- answers in files ----------------------------------------------------------------------------


def start(name: str, path: str | os.PathLike[str]) -> None:
    """Write a new file with the task, the forward pass, and the function that you should write.

    Raises
    ------
    FileExistsError
        There is a file of this name. It stays unchanged.
    """
    text = _starting_text(_exercise(name), os.fspath(path))
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise FileExistsError(
            f"{os.fspath(path)} exists and stays unchanged; choose another name"
        ) from None


def _starting_text(exercise: Exercise, path: str) -> str:
    source = inspect.getsource(exercise.forward).rstrip().split("\n", 1)[1]  # without annotations
    parameters = ", ".join(inspect.signature(exercise.forward).parameters)
    imports = ["import math", ""] if "math." in source else []
    file = as_argument(os.path.basename(path)).replace('"""', r"\"\"\"")  # keeps the docstring open
    g = ["g is the gradient of the loss with respect to the result of forward."]
    return "\n".join(
        [
            f'r"""{exercise.statement}',
            "",
            *(g if next(iter(exercise.arguments)) == "g" else []),
            "Sizes: B batch, T time, C channels, H heads, D = C/H, V vocabulary. Verdict and help:",
            "",
            f"    npgpt2 practice {exercise.name} {file}",
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
            f'    """Return {", ".join(exercise.gradients)}; change none of the arguments.',
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


def check_file(name: str, path: str | os.PathLike[str]) -> Verdict:
    """Judge the answer in a file: the function that `start` wrote there.

    The file runs as a module, not as `__main__`, and cannot import files beside it.

    Raises
    ------
    OSError, ValueError
        The file cannot be read or run, or lacks the function. The message names the line.
    """
    exercise = _exercise(name)
    path = os.fspath(path)
    with open(path, "rb") as file:
        source = file.read()
    module, said = ModuleType(_MODULE), io.StringIO()
    module.__file__ = path
    code = _compile(source, path)
    sys.modules[_MODULE] = module  # where dataclasses look for it
    try:
        with redirect_stdout(said), np.errstate(all="ignore"):
            exec(code, module.__dict__)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ValueError(f"{path} cannot be run: {where_raised(error, path)}") from None
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


def _compile(source: bytes, path: str) -> Any:
    try:
        return compile(source, path, "exec", dont_inherit=True)
    except SyntaxError as error:
        line = f":{error.lineno}" if error.lineno else ""
        raise ValueError(f"{path}{line}: {type(error).__name__}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{path} cannot be compiled: {error or type(error).__name__}") from None


# -- the command ---------------------------------------------------------------------------------


def report(
    name: str | None = None,
    file: str | None = None,
    *,
    start_file: str | None = None,
    hint: int | None = None,
    show_derivation: bool = False,
) -> Verdict | str:
    """Return the output of `npgpt2 practice`: a verdict if there is a file, otherwise a text.

    Without a name, the text lists the exercises. With a name alone, it is the task.

    Raises
    ------
    OSError, ValueError
        The arguments or the file are wrong. The message has one line.
    """
    if name is None:
        if start_file is not None or hint is not None or show_derivation:
            raise ValueError("name the exercise before the flag: npgpt2 practice NAME --hint 1")
        width = max(map(len, EXERCISES))
        return "\n".join(f"{n:<{width}}  {statement}" for n, statement in exercises().items())
    exercise = _exercise(name)
    if sum(x is not None for x in (file, start_file, hint)) + show_derivation > 1:
        raise ValueError("choose one: a file to judge, --start, --hint or --derivation")
    if start_file is not None:
        start(name, start_file)
        return (
            f"{start_file}: write {exercise.function} there, then npgpt2 practice {name} "
            f"{as_argument(start_file)}"
        )
    if hint is not None:
        return hints(name, hint)[-1]
    if show_derivation:
        return derivation(name)
    if file is not None:
        return check_file(name, file)
    return _starting_text(exercise, f"{name}.py").rstrip("\n")
