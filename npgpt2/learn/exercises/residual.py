"""Residual connection: out = x + f(x).

x, out and g are (B, T, C). g is the gradient of the loss with respect to out. f is the branch: in
GPT-2 it is a layer norm and then attention, or a layer norm and then the MLP. You need not know how
f computes its output, because its backward pass is given. f_backward takes the gradient of f's
output and returns the gradient of f's input.

1. x is used twice: in the sum, and as the input of f. So dx is the sum of two gradients, one for
   each use.

2. The first use is the residual path. On this path, out changes by as much as x does, so x gets g
   unchanged.

3. The second use is the branch. A sum passes the same g to both of its parts, so the gradient of
   f's output is g too. From this, f_backward computes the gradient of f's input: f_backward(g).

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

The residual path carries gradients through deep models. With L residual connections in a row, dx is
g plus further terms. Without the residual paths, dx would be g times L Jacobians in a row. Take
f(x) = 0.1 x and L = 12. The first number below is dx/g with the residual paths, the second number
is dx/g without them:

>>> round(1.1**12, 3), float(f"{0.1**12:.0e}")
(3.138, 1e-12)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from autograd import Array, Tensor, record
from npgpt2.learn.judge.exercise import Answer, Arguments, Sizes, read_mistakes, some_backward
from npgpt2.learn.judge.in_model import in_gpt2, part, replaced
from npgpt2.model import TransformerBlock

Function = Callable[[Array], Array]

STATEMENT = "The gradient of a residual connection, given the backward pass of its branch."
ARGUMENTS = {
    "g": "(B, T, C)",
    "x": "(B, T, C)",
    "f_backward": "function: gradient of f's output -> gradient of f's input, both (B, T, C)",
}
GRADIENTS = {"dx": "(B, T, C)"}
HINTS = (
    "How often is x used in x + f(x)?",
    "Twice, so dx has two terms. What does each path do to g?",
    "dx = g + f_backward(g).",
)


def forward(x: Array, f: Function) -> Any:
    """(B, T, C) -> (B, T, C)."""
    return x + f(x)


def solution(g: Array, x: Array, f_backward: Function) -> Any:
    """Return dx."""
    return g + f_backward(g)


def reference(*arguments: Any) -> tuple[Array, ...]:
    """Return (dx,). The branch is given, so the library has no op for this."""
    return (solution(*arguments),)


def terms(g: Array, x: Array, f_backward: Function) -> Mapping[str, Mapping[str, Array]]:
    """Return one term for each path."""
    return {"dx": {"g": g, "f_backward(g)": f_backward(g)}}


def draw(rng: np.random.Generator, n: Sizes) -> Arguments:
    """Return g, x and a backward pass."""
    g, x = rng.standard_normal((2, n.B, n.T, n.C))
    return g, x, some_backward(rng, g.shape)


def end_to_end(answer: Answer) -> str:
    """Check a GPT-2 whose residual connections have the answer as their backward pass."""

    def residual(x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        out, f_backward = part(f, x.data)

        def vjp(g: Array) -> tuple[Array, ...]:
            out.backward(g, retain_graph=True)  # for the parameters in f
            return answer(g, x.data, f_backward)

        return record(x.data + out.data, (x,), vjp)

    def block(self: TransformerBlock, x: Tensor, past: None = None) -> Tensor:
        x = residual(x, lambda x: self.attn(self.ln_1(x)))
        return residual(x, lambda x: self.mlp(self.ln_2(x)))

    with replaced(TransformerBlock, "forward", block):
        return in_gpt2()


MISTAKES = read_mistakes(
    """
identity-forgotten
+ return f_backward(g)
The residual path is missing. x is in the sum itself, and gets g from there.

branch-forgotten
+ return g.copy()
The branch is missing. x is also the input of f, and gets f_backward(g) from there.

averaged
+ return (g + f_backward(g)) / 2
dx is the mean of the two gradients. It should be their sum.

subtracted
+ return g - f_backward(g)
The gradient of the branch is subtracted. It should be added.

multiplied
+ return g * f_backward(g)
dx is the product of the two gradients. It should be their sum.

backward-of-x
+ return g + f_backward(x)
f_backward was given x. It takes the gradient of f's output, and that is g.

backward-of-x-alone
+ return f_backward(x)
f_backward was given x instead of g, and the residual path is missing.

twice-through-f
+ return g + f_backward(g + f_backward(g))
The gradient goes through f_backward twice. The gradient of f's output is g, not dx.

x-for-g
+ return x + f_backward(g)
x is added in place of g: dx = g + f_backward(g).

times-x
+ return g * x + f_backward(g)
g is multiplied by x. On the residual path, out changes by as much as x does, so the factor is 1.
"""
)
