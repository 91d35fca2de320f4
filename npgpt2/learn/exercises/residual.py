"""Residual connection: out = x + f(x).

x, out and g are (B, T, C), as in GPT-2, where f is attention or MLP with its layer norm. What f
does is its own affair: f_backward takes the gradient of f's output, and returns that of its input.

1. x is used twice: in the sum, and in f. It gets the sum of two gradients.

2. Along the first path out changes as x does, so that the gradient arrives as it is: g.

3. Along the second, the output of f gets g too (a sum hands the same g to both parts), and
   f_backward takes it on to x: f_backward(g).

       dx = g + f_backward(g)

>>> import numpy as np
>>> from npgpt2.learn.judge.exercise import slope
>>> x, g = np.random.default_rng(0).standard_normal((2, 2, 3, 4))
>>> def f(x):
...     return x**3
>>> def f_backward(g):
...     return g * 3 * x**2
>>> np.allclose(g + f_backward(g), slope(lambda x: forward(x, f), x, g))
True

The identity is what carries gradients through deep models: with L blocks, dx is g plus something,
where without it there would be L Jacobians in a row. For f(x) = 0.1 x, and 12 blocks:

>>> round(1.1**12, 3), float(f"{0.1**12:.0e}")
(3.138, 1e-12)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from autograd import Array, Tensor, record
from npgpt2.learn.judge.exercise import (
    Answer,
    Arguments,
    Exercise,
    Mistake,
    Sizes,
    in_gpt2,
    part,
    replaced,
    some_backward,
)
from npgpt2.model import TransformerBlock

Backward = Callable[[Array], Array]


def forward(x: Array, f: Callable[[Array], Array]) -> Any:
    """(B, T, C) -> (B, T, C)."""
    return x + f(x)


def answer(g: Array, x: Array, f_backward: Backward) -> tuple[Array, ...]:
    """Return (dx,)."""
    return (g + f_backward(g),)


def solution(g: Array, x: Array, f_backward: Backward) -> Any:
    """The answer by hand."""
    return g + f_backward(g)


def _draw(rng: np.random.Generator, n: Sizes) -> Arguments:
    g, x = rng.standard_normal((2, n.B, n.T, n.C))
    return g, x, some_backward(rng, g.shape)


def _end_to_end(function: Answer) -> str:
    def residual(x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        out, f_backward = part(f, x.data)

        def vjp(g: Array) -> tuple[Array, ...]:
            out.backward(g, retain_graph=True)  # for the parameters in f
            gradients: tuple[Array, ...] = function(g, x.data, f_backward)
            return gradients

        return record(x.data + out.data, (x,), vjp)

    def block(self: TransformerBlock, x: Tensor, past: None = None) -> Tensor:
        x = residual(x, lambda x: self.attn(self.ln_1(x)))
        return residual(x, lambda x: self.mlp(self.ln_2(x)))

    with replaced(TransformerBlock, "forward", block):
        return in_gpt2()


def _of(change: Any) -> Answer:
    return lambda g, x, f: {"dx": change(g, x, f)}


_MISTAKES = (
    Mistake(
        "identity-forgotten",
        "The residual path is forgotten: x is also in the sum, and gets g from there.",
        _of(lambda g, x, f: f(g)),
    ),
    Mistake(
        "branch-forgotten",
        "The branch is forgotten: x is also the input of f, and gets f_backward(g) from there.",
        _of(lambda g, x, f: g.copy()),
    ),
    Mistake(
        "averaged",
        "The two gradients are averaged; they are summed.",
        _of(lambda g, x, f: 0.5 * (g + f(g))),
    ),
    Mistake(
        "subtracted",
        "The branch is subtracted; it is added.",
        _of(lambda g, x, f: g - f(g)),
    ),
    Mistake(
        "multiplied",
        "The two gradients are multiplied; they are summed.",
        _of(lambda g, x, f: g * f(g)),
    ),
    Mistake(
        "backward-of-x",
        "f_backward was given x; it takes the gradient of f's output, which is g.",
        _of(lambda g, x, f: g + f(x)),
    ),
    Mistake(
        "backward-of-x-alone",
        "f_backward was given x instead of g, and the residual path is forgotten.",
        _of(lambda g, x, f: f(x)),
    ),
    Mistake(
        "twice-through-f",
        "The gradient goes through f_backward twice: f's output gets g, not dx.",
        _of(lambda g, x, f: g + f(g + f(g))),
    ),
    Mistake(
        "x-for-g",
        "x is added where g should be.",
        _of(lambda g, x, f: x + f(g)),
    ),
    Mistake(
        "times-x",
        "g is multiplied by x: out changes as x does, by a factor of 1.",
        _of(lambda g, x, f: g * x + f(g)),
    ),
)


def _terms(g: Array, x: Array, f_backward: Backward) -> Mapping[str, Mapping[str, Array]]:
    return {"dx": {"g": g, "f_backward(g)": f_backward(g)}}


EXERCISE = Exercise(
    name="residual",
    statement="The gradient of a residual connection, given the backward pass of its branch.",
    forward=forward,
    function="residual_backward",
    arguments={
        "g": "(B, T, C)",
        "x": "(B, T, C)",
        "f_backward": "function: gradient of f's output -> gradient of f's input, (B, T, C) both",
    },
    gradients={"dx": "(B, T, C)"},
    draw=_draw,
    reference=answer,
    solution=solution,
    mistakes=_MISTAKES,
    hints=(
        "How often is x used in x + f(x)?",
        "Twice, so dx has two terms. What does each path do to g?",
        "dx = g + f_backward(g).",
    ),
    end_to_end=_end_to_end,
    terms=_terms,
)
