r"""Put wrong code in place of right code, in one function: for bugs, mistakes and slips.

A bug replaces code of the library inside a block (`injected`). A mistake or a slip is a new
function (`variant`): the right answer to an exercise, with some lines changed.

>>> def double(x):
...     return 2 * x
>>> triple = variant(double, "def double(x):\n    return 3 * x\n", "triple")
>>> triple(5), double(5)
(15, 10)
"""

from __future__ import annotations
import __future__

import ast
import inspect
import linecache
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import CodeType, FunctionType
from typing import Any, cast

Function = Callable[..., Any]


def source_of(function: Function) -> str:
    """Return the source of a function, without the indentation of its first line."""
    return textwrap.dedent(inspect.getsource(function))


@contextmanager
def injected(function: Function, source: str, name: str) -> Iterator[None]:
    """Inside this block the function has other code, given as `source`, a definition.

    Only its code object changes. So every alias of the function, method and operator has the other
    code too. Tracebacks show the code as a file called `name`. Blocks may be nested. Not
    thread-safe: the change holds for the whole process.
    """
    target, filename = cast(FunctionType, function), f"<{name}>"
    code = _compile(source, filename)
    # Tracebacks and inspect.getsource show the wrong code because of this line.
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    before, target.__code__ = target.__code__, code
    try:
        yield
    finally:
        target.__code__ = before
        linecache.cache.pop(filename, None)


def variant(function: Function, source: str, name: str) -> Function:
    """Return a function with other source and the globals of the given function."""
    code = _compile(source, f"<{name}>")
    return FunctionType(code, cast(FunctionType, function).__globals__, name)


def _compile(source: str, filename: str) -> CodeType:
    """Compile one function definition; return the code of the function."""
    compiled = compile(
        source, filename, "exec", __future__.annotations.compiler_flag, dont_inherit=True
    )
    (code,) = (c for c in compiled.co_consts if isinstance(c, CodeType))
    return code


# -- functions as lists of lines -----------------------------------------------------------------


@cache
def lines_of(function: Function) -> tuple[str, ...]:
    """Return the statements of a function, one line each, without its docstring."""
    (definition,) = ast.parse(source_of(function)).body
    assert isinstance(definition, ast.FunctionDef)
    has_docstring = ast.get_docstring(definition) is not None
    return tuple(map(ast.unparse, definition.body[has_docstring:]))


def with_lines(function: Function, lines: Sequence[str], name: str) -> Function:
    """Return a function with the arguments of the given function, and these lines as its body."""
    arguments = ", ".join(inspect.signature(function).parameters)
    body = textwrap.indent("\n".join(lines), "    ")
    return variant(function, f"def {name}({arguments}):\n{body}\n", name)


def replaced_lines(lines: Sequence[str], wrong: str) -> list[str]:
    """Return the lines, some of them replaced by wrong statements.

    A wrong statement takes the place of the line that assigns the same name, or of the `return`. If
    several lines assign this name, it takes the place of all of them. A statement that assigns a
    new name stands before the next wrong statement.

    Raises
    ------
    ValueError
        A new name comes last, so that no line uses it.

    Examples
    --------
    >>> replaced_lines(["a = x + 1", "b = 2 * a", "return b"], "b = 3 * a")
    ['a = x + 1', 'b = 3 * a', 'return b']
    >>> replaced_lines(["a = x + 1", "b = 2 * a", "return b"], "c = a * a; b = c")
    ['a = x + 1', 'c = a * a', 'b = c', 'return b']
    """
    known = [_assigned(line) for line in lines]
    blocks: dict[str, list[str]] = {}
    new: list[str] = []
    for statement in map(ast.unparse, ast.parse(wrong.strip()).body):
        name = _assigned(statement)
        if name in known:
            blocks.setdefault(name, []).extend([*new, statement])
            new = []
        else:
            new.append(statement)
    if new:
        raise ValueError(f"no line of the function assigns the name that {new[-1]!r} assigns")
    changed: list[str] = []
    for line, name in zip(lines, known, strict=True):
        changed += blocks.get(name, [line])
        if name in blocks:
            blocks[name] = []  # the block stands in for all lines that assign this name
    return changed


def _assigned(line: str) -> str:
    """Return the name that a statement assigns, or its first word if it assigns none."""
    (statement,) = ast.parse(line).body
    if isinstance(statement, ast.Assign):
        return ast.unparse(statement.targets[0])
    if isinstance(statement, ast.AugAssign):
        return ast.unparse(statement.target)
    if isinstance(statement, ast.Expr):  # such as np.add.at(dweight, ids, g)
        call = statement.value
        assert isinstance(call, ast.Call)
        return f"{ast.unparse(call.func)}({ast.unparse(call.args[0])})"
    return line.split()[0]
