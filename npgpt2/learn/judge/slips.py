"""Slips of the pen: all functions with one small change that people easily make."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from npgpt2.learn.injection import lines_of, with_lines


@dataclass(frozen=True)
class Slip:
    """A wrong line, the right line in its place, and the function with the wrong line."""

    wrong: str
    right: str
    function: Callable[..., Any]


def slips(function: Callable[..., Any]) -> list[Slip]:
    """Return all slips of a function: each changes one expression in one of its lines.

    Python must find the source of the function. Its body must consist of plain statements.

    >>> from npgpt2.learn.exercises.dropout import solution
    >>> [slip.wrong for slip in slips(solution)][:4]
    ['return g * mask', 'return 1 - p', 'return g * mask * (1 - p)', 'return (1 - p) / (g * mask)']
    """
    lines, arguments = lines_of(function), inspect.signature(function).parameters
    names, made = set(arguments), dict[tuple[str, str], Slip]()
    for i, right in enumerate(lines):
        for wrong in _changed(right, sorted(names)):
            if wrong != right and (wrong, right) not in made:
                changed = with_lines(function, [*lines[:i], wrong, *lines[i + 1 :]], "slip")
                made[wrong, right] = Slip(wrong, right, changed)
        names |= {
            node.id
            for node in ast.walk(ast.parse(right))
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
    return list(made.values())


def _changed(line: str, names: list[str]) -> Iterator[str]:
    """Yield the line with one of its expressions changed."""
    for node in ast.walk(ast.parse(line)):
        if isinstance(node, ast.expr) and not isinstance(getattr(node, "ctx", None), ast.Store):
            for other in _others(node, names):
                changed = (
                    f"{line[: node.col_offset]}({ast.unparse(other)}){line[node.end_col_offset :]}"
                )
                yield ast.unparse(ast.parse(changed))


_OPPOSITE = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}


def _others(node: ast.expr, names: list[str]) -> Iterator[ast.expr]:
    """Yield expressions that people may write by mistake in place of this one."""
    if isinstance(node, ast.BinOp):
        left, op, right = node.left, node.op, node.right
        yield left  # one operand is forgotten
        yield right
        if type(op) in _OPPOSITE:
            yield ast.BinOp(left, _OPPOSITE[type(op)](), right)
        if not isinstance(op, ast.Add | ast.Mult):
            yield ast.BinOp(right, op, left)
        if isinstance(op, ast.MatMult):
            yield ast.BinOp(_transposed(left), op, right)
            yield ast.BinOp(left, op, _transposed(right))
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Attribute) and node.attr == "T":
        yield node.value
    elif isinstance(node, ast.Call):
        yield from _other_calls(node)
    elif isinstance(node, ast.Name) and node.id in names:
        yield from (ast.Name(name, ast.Load()) for name in names if name != node.id)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield from (ast.Constant(node.value + step) for step in (-1, 1))


def _transposed(node: ast.expr) -> ast.expr:
    two = ast.UnaryOp(ast.USub(), ast.Constant(2))
    one = ast.UnaryOp(ast.USub(), ast.Constant(1))
    return ast.Call(ast.Attribute(node, "swapaxes", ast.Load()), [one, two], [])


def _other_calls(node: ast.Call) -> Iterator[ast.expr]:
    """Yield the argument without the call; sum for mean, mean for sum, and other axes."""
    if not isinstance(node.func, ast.Attribute):
        return
    name, value = node.func.attr, node.func.value
    yield node.args[0] if isinstance(value, ast.Name) and value.id in ("np", "math") else value
    if name in ("sum", "mean"):
        other = ast.Attribute(value, "mean" if name == "sum" else "sum", ast.Load())
        yield ast.Call(other, node.args, node.keywords)
        rest = [k for k in node.keywords if k.arg != "axis"]
        for axis in ("0", "1", "2", "-1", "-2", "(0, 1)", "(0, 2)", "(1, 2)", "None"):
            over = ast.keyword("axis", ast.parse(axis, mode="eval").body)
            yield ast.Call(node.func, node.args, [over, *rest])
