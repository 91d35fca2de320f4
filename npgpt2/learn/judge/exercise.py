"""An exercise: everything that the judge knows about one function to be written.

Each file of `npgpt2/learn/exercises` is one exercise. The text at its top is the derivation, whose
lines are doctests. Below it stand these names, which `Exercise.of` reads:

    STATEMENT    the task, in a sentence or two
    ARGUMENTS    the arguments of the function: names, with their shapes or a description
    GRADIENTS    the results of the function: names, with their shapes
    HINTS        three hints; each helps more than the one before
    MISTAKES     the known mistakes; see `read_mistakes`
    forward      the forward pass in plain NumPy, which the learner sees
    reference    the right gradients, computed by the library
    solution     the right answer, written by hand, one step a line
    end_to_end   uses an answer in a model, and checks the result

Some exercises need more names:

    FUNCTION     the name of the function to be written, if it is not NAME_backward
    LETTERS      the sizes that a wrong factor may contain; by default the letters of the shapes
    draw         random arguments, if some of them are not normal numbers
    terms        the right gradients, as sums of terms
    factors      further factors that a wrong answer may contain
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np

from autograd import Array, Tensor, enable_grad

Arguments = tuple[Any, ...]
Answer = Callable[..., tuple[Array, ...]]


@dataclass(frozen=True)
class Sizes:
    """The size of each letter in one draw."""

    B: int
    H: int
    T: int
    C: int
    D: int
    V: int
    n_in: int
    n_out: int


# In the first draws no two letters of an exercise are equal, so that no transposition can hide. In
# the last draws all letters are equal, so that a transposition can run.
SIZES = (
    Sizes(B=2, T=3, C=5, H=4, D=7, V=11, n_in=5, n_out=7),
    Sizes(B=5, T=2, C=7, H=3, D=6, V=8, n_in=4, n_out=3),
    Sizes(B=4, T=3, C=6, H=2, D=5, V=9, n_in=7, n_out=2),
    Sizes(B=3, T=3, C=3, H=3, D=3, V=3, n_in=3, n_out=3),
    Sizes(B=4, T=4, C=4, H=4, D=4, V=4, n_in=4, n_out=4),
)


@dataclass(frozen=True)
class Mistake:
    """A wrong line of the solution, or several; see `injection.replaced_lines`."""

    name: str  # unique within the exercise
    wrong: str
    lesson: str


def read_mistakes(text: str) -> tuple[Mistake, ...]:
    """Read mistakes that are separated by blank lines: a name, wrong lines with +, a lesson.

    >>> read_mistakes('''
    ... sign
    ... + dx = -g
    ... The sign is wrong.
    ... ''')
    (Mistake(name='sign', wrong='dx = -g', lesson='The sign is wrong.'),)
    """
    mistakes = []
    for entry in text.strip("\n").split("\n\n"):
        name, *lines = entry.splitlines()
        wrong = [line[2:] for line in lines if line.startswith("+ ")]
        lesson = " ".join(line for line in lines if not line.startswith("+ "))
        if not (wrong and lesson):
            raise ValueError(f"mistake {name!r} needs a line that begins with + , and a sentence")
        mistakes.append(Mistake(name, "\n".join(wrong), lesson))
    return tuple(mistakes)


@dataclass(frozen=True, eq=False)
class Exercise:
    """One function to be written. The top of this file describes the attributes."""

    name: str
    module: str  # the full name of the module
    derivation: str
    statement: str
    function: str
    arguments: Mapping[str, str]
    gradients: Mapping[str, str]
    letters: tuple[str, ...]
    hints: tuple[str, str, str]
    mistakes: tuple[Mistake, ...]
    forward: Callable[..., Any]
    reference: Callable[..., tuple[Array, ...]]
    solution: Answer
    end_to_end: Callable[[Answer], str]
    draw: Callable[[np.random.Generator, Sizes], Arguments]
    terms: Callable[..., Mapping[str, Mapping[str, Array]]]
    factors: Callable[..., Mapping[str, float]]

    @classmethod
    def of(cls, module: ModuleType) -> Exercise:
        """Read an exercise from its module."""
        name = module.__name__.rpartition(".")[2]
        shapes = [*module.ARGUMENTS.values(), *module.GRADIENTS.values()]
        letters = {letter for text in shapes for letter in _shape(text) or ()}
        defaults: dict[str, Any] = {
            "FUNCTION": f"{name}_backward",
            "LETTERS": tuple(f.name for f in fields(Sizes) if f.name in letters),
            "draw": lambda rng, sizes: _normal_numbers(module.ARGUMENTS, rng, sizes),
            "terms": lambda *_: {},
            "factors": lambda *_: {},
        }
        found = defaults | vars(module)
        constants = "STATEMENT FUNCTION ARGUMENTS GRADIENTS LETTERS HINTS MISTAKES".split()
        functions = "forward reference solution end_to_end draw terms factors".split()
        return cls(
            name=name,
            module=module.__name__,
            derivation=inspect.cleandoc(module.__doc__ or ""),
            **{constant.lower(): found[constant] for constant in constants},
            **{function: found[function] for function in functions},
        )

    @cached_property
    def draws(self) -> tuple[Arguments, ...]:
        """The arguments on which every answer is judged."""
        return tuple(self.draw(np.random.default_rng(i), n) for i, n in enumerate(SIZES))

    @cached_property
    def expected(self) -> tuple[tuple[Array, ...], ...]:
        """The right gradients for the draws."""
        return tuple(self.reference(*arguments) for arguments in self.draws)


def _shape(text: str) -> tuple[str, ...] | None:
    """Return the letters of a shape at the beginning of a text; None if there is no shape.

    >>> _shape("(B, T, n_in)"), _shape("(C,)"), _shape("()"), _shape("a number")
    (('B', 'T', 'n_in'), ('C',), (), None)
    """
    shape = re.match(r"\(([\w, ]*)\)", text)
    return tuple(re.findall(r"\w+", shape[1])) if shape else None


def _normal_numbers(
    arguments: Mapping[str, str], rng: np.random.Generator, sizes: Sizes
) -> Arguments:
    """Draw normal numbers for arguments that all have shapes."""
    shapes = [_shape(text) or () for text in arguments.values()]
    return tuple(rng.standard_normal([getattr(sizes, n) for n in shape]) for shape in shapes)


# -- helpers of several exercises ----------------------------------------------------------------


def vjp(op: Callable[..., Tensor], g: Array, *inputs: Array) -> tuple[Array, ...]:
    """Return the gradients of <g, op(*inputs)> with respect to the inputs, from the library.

    >>> from npgpt2 import functional as F
    >>> vjp(F.softmax, np.array([1.0, 0.0]), np.array([0.0, 0.0]))
    (array([ 0.25, -0.25]),)
    """
    leaves = [Tensor(x, requires_grad=True) for x in inputs]
    with enable_grad():
        op(*leaves).backward(g)
    return tuple(np.asarray(leaf.grad) for leaf in leaves)


def slope(f: Callable[[Array], Any], x: Array, g: Any = 1.0) -> Array:
    """Return the gradient of <g, f(x)> without a derivation: complex steps, exact up to rounding.

    >>> slope(lambda x: x**3, np.array([1.0, 2.0]))
    array([ 3., 12.])
    """
    gradient = np.empty(x.shape)
    for index in np.ndindex(x.shape):
        moved = x.astype(complex)
        moved[index] += 1e-30j
        gradient[index] = np.sum(g * f(moved)).imag / 1e-30
    return gradient


def some_backward(rng: np.random.Generator, shape: tuple[int, ...]) -> Callable[[Array], Array]:
    """Return the vjp of a random function that mixes the positions and channels of (..., T, C)."""
    T, C = shape[-2:]
    over_time, over_channels = rng.standard_normal((T, T)), rng.standard_normal((C, C))

    def backward(g: Array) -> Array:
        if np.shape(g) != shape:
            raise ValueError(f"expected a gradient of shape {shape}, got {np.shape(g)}")
        mixed: Array = np.tril(over_time).T @ g @ over_channels
        return mixed.astype(g.dtype)

    return backward
