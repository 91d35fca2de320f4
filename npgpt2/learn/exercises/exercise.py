"""What an exercise is, and what most of them use.

Each of the other files here is one exercise. The text at its top is the derivation, whose lines
are doctests; below stand the forward pass that the learner is shown, the right answer, its terms,
and the mistakes that are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import npgpt2.model
from autograd import Tensor, enable_grad, gradcheck
from npgpt2 import functional as F
from npgpt2 import layers
from npgpt2.config import GPT2Config
from npgpt2.layers import Dropout
from npgpt2.model import GPT2Model

Array = NDArray[Any]
Arguments = tuple[Any, ...]
Answer = Callable[..., Any]


@dataclass(frozen=True)
class Sizes:
    """How large each letter is in one draw."""

    B: int
    T: int
    C: int
    H: int
    D: int
    V: int
    n_in: int
    n_out: int


# Of the letters of one exercise, no two are equal, so that no transposition can hide; and in the
# last ones all are, so that one can run.
SIZES = (
    Sizes(B=2, T=3, C=5, H=4, D=7, V=11, n_in=5, n_out=7),
    Sizes(B=5, T=2, C=7, H=3, D=6, V=8, n_in=4, n_out=3),
    Sizes(B=4, T=3, C=6, H=2, D=5, V=9, n_in=7, n_out=2),
    Sizes(B=3, T=3, C=3, H=3, D=3, V=3, n_in=3, n_out=3),
    Sizes(B=4, T=4, C=4, H=4, D=4, V=4, n_in=4, n_out=4),
)


@dataclass(frozen=True)
class Mistake:
    """A wrong answer and what is wrong with it.

    Attributes
    ----------
    name
        Short, unique within the exercise.
    lesson
        What is wrong, in a sentence.
    answer
        Called with the arguments of the exercise, returns the gradients that come out wrong, by
        name; those that it does not touch are left out.
    """

    name: str
    lesson: str
    answer: Callable[..., Mapping[str, Array]]


@dataclass(frozen=True, eq=False)
class Exercise:
    """One function to be written.

    Attributes
    ----------
    name
        As in `practice.check(name, ...)`.
    statement
        The task, in a sentence or two.
    forward
        The forward pass in plain NumPy, shown to the learner.
    function
        Name of the function to be written.
    arguments, gradients
        Names and shapes of what it takes and returns.
    draw
        Random arguments of given sizes.
    reference
        The right answer, a tuple.
    mistakes
        The catalogue of wrong answers.
    hints
        Three, each of more help than the one before.
    end_to_end
        Given an answer, puts it to use in a model and says how that went; AssertionError if wrong.
    letters
        The letters that factors are made of.
    terms
        The right gradients, by name, as sums of terms, by name; a gradient that is left out is one
        term.
    factors
        Further factors by which one is easily off, by name.
    """

    name: str
    statement: str
    forward: Callable[..., Any]
    function: str
    arguments: Mapping[str, str]
    gradients: Mapping[str, str]
    draw: Callable[[np.random.Generator, Sizes], Arguments]
    reference: Callable[..., tuple[Array, ...]]
    mistakes: tuple[Mistake, ...]
    hints: tuple[str, str, str]
    end_to_end: Callable[[Answer], str]
    letters: tuple[str, ...] = ("B", "T", "C")
    terms: Callable[..., Mapping[str, Mapping[str, Array]]] = field(default=lambda *_: {})
    factors: Callable[..., Mapping[str, float]] = field(default=lambda *_: {})

    @cached_property
    def draws(self) -> tuple[Arguments, ...]:
        """The arguments that an answer is judged on, always the same."""
        return tuple(self.draw(np.random.default_rng(i), n) for i, n in enumerate(SIZES))

    @cached_property
    def rights(self) -> tuple[tuple[Array, ...], ...]:
        """The right answers for them."""
        return tuple(self.reference(*arguments) for arguments in self.draws)


def vjp(op: Callable[..., Tensor], g: Array, *inputs: Array) -> tuple[Array, ...]:
    """Return the gradients of <g, op(*inputs)> with respect to the inputs, from the library.

    >>> vjp(F.softmax, np.array([1.0, 0.0]), np.array([0.0, 0.0]))
    (array([ 0.25, -0.25]),)
    """
    leaves = [Tensor(x, requires_grad=True) for x in inputs]
    with enable_grad():
        op(*leaves).backward(g)
    return tuple(np.asarray(leaf.grad) for leaf in leaves)


def slope(f: Callable[[Array], Any], x: Array, g: Any = 1.0) -> Array:
    """Return the gradient of <g, f(x)> without a derivation: by complex steps, exact to rounding.

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
    """Return the vjp of some function of arrays (..., T, C): it mixes positions, and channels."""
    T, C = shape[-2:]
    over_time, over_channels = rng.standard_normal((T, T)), rng.standard_normal((C, C))

    def backward(g: Array) -> Array:
        if np.shape(g) != shape:
            raise ValueError(f"expected a gradient of shape {shape}, got {np.shape(g)}")
        mixed: Array = np.tril(over_time).T @ g @ over_channels
        return mixed.astype(g.dtype)

    return backward


def only_last(g: Array) -> Array:
    """Return g, but 0 in all rows of the batch except the last: what `=` in a loop leaves."""
    kept = np.zeros_like(g)
    kept[-1] = g[-1]
    return kept


# -- end to end ----------------------------------------------------------------------------------

_CONFIG = GPT2Config(
    vocab_size=7, n_positions=4, n_embd=6, n_layer=1, n_head=2, embd_pdrop=0.25, resid_pdrop=0.25,
    attn_pdrop=0.0,
)  # fmt: skip


@contextmanager
def replaced(owner: ModuleType | type, name: str, value: Any) -> Iterator[None]:
    """Inside this block, owner.name is another value. For the whole process: one at a time."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def in_gpt2(**ops: Any) -> str:
    """Compare the loss gradient of a small GPT-2, in which ops are replaced, with differences.

    The ops of `functional` itself stay as they are, for the answer may use them.

    Raises
    ------
    GradientMismatch
        They disagree.
    """
    rng = np.random.default_rng(0)
    model = GPT2Model(_CONFIG, rng=rng, dtype=np.float64)
    for parameter in model.parameters():
        parameter.data += 0.3 * rng.standard_normal(parameter.shape)
    ids, targets = rng.integers(0, _CONFIG.vocab_size, (2, 2, 4))
    functional = SimpleNamespace(**{**vars(F), **ops})

    def loss(*_: Tensor) -> Tensor:
        for module in model.modules():
            if isinstance(module, Dropout):
                module.rng = np.random.default_rng(1)  # the same masks every time
        out: Tensor = functional.cross_entropy(model(ids), targets)
        return out

    with replaced(layers, "F", functional), replaced(npgpt2.model, "F", functional):
        report = gradcheck(loss, dict(model.named_parameters()), directions=1)
    return (
        "In a small GPT-2 with your function in its backward pass, the gradients of the loss with "
        f"respect to all {report.checked} parameters agree with differences of the loss "
        f"(worst relative error {report.relative_error:.0e})."
    )


def part(f: Callable[[Tensor], Tensor], x: Array) -> tuple[Array, Callable[[Array], Array]]:
    """Return f(x) and its vjp: as arrays, while the parameters in f gather their gradients."""
    leaf = Tensor(x, requires_grad=True)
    out = f(leaf)

    def backward(g: Array) -> Array:
        leaf.grad = None
        out.backward(g, retain_graph=True)
        return np.asarray(leaf.grad)

    return out.data, backward
