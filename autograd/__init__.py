"""A small reverse-mode automatic differentiation engine on NumPy.

>>> x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
>>> loss = (x * x).sum()
>>> loss.backward()
>>> x.grad
array([2., 4., 6.])

Import these names from `autograd`:

    tensors:    Tensor Operand Array as_tensor no_grad enable_grad
    ops:        exp log log1p sqrt sin cos tanh sigmoid relu abs maximum minimum clip where
                matmul einsum sum mean max min var std cumsum
                reshape flatten transpose swapaxes squeeze expand_dims broadcast_to
                concatenate stack split pad
    your ops:   record is_recorded op_name unbroadcast Rows
    checks:     gradcheck GradientReport GradientMismatch GradientUndecided

Read `backward.py` first, because it is the algorithm. `tensor.py` has Tensor and its ops.
`numpy_protocols.py` lets NumPy's functions record them. `ownership.py` saves copies, and `rows.py`
saves memory. `check.py` checks gradients. `testing/` helps you to test your own ops. Only
`testing/` needs more than NumPy: it needs hypothesis.
"""

import autograd.numpy_protocols  # noqa: F401 (it sets two methods of Tensor)
from autograd.check import gradcheck
from autograd.einsum import einsum
from autograd.rows import Array, Rows
from autograd.tensor import (
    Operand,
    Tensor,
    abs,
    as_tensor,
    broadcast_to,
    clip,
    concatenate,
    cos,
    cumsum,
    enable_grad,
    exp,
    expand_dims,
    flatten,
    is_recorded,
    log,
    log1p,
    matmul,
    max,
    maximum,
    mean,
    min,
    minimum,
    no_grad,
    op_name,
    pad,
    record,
    relu,
    reshape,
    sigmoid,
    sin,
    split,
    sqrt,
    squeeze,
    stack,
    std,
    sum,
    swapaxes,
    tanh,
    transpose,
    unbroadcast,
    var,
    where,
)
from autograd.verdict import GradientMismatch, GradientReport, GradientUndecided

__all__ = [
    "Array",
    "GradientMismatch",
    "GradientReport",
    "GradientUndecided",
    "Operand",
    "Rows",
    "Tensor",
    "abs",
    "as_tensor",
    "broadcast_to",
    "clip",
    "concatenate",
    "cos",
    "cumsum",
    "einsum",
    "enable_grad",
    "exp",
    "expand_dims",
    "flatten",
    "gradcheck",
    "is_recorded",
    "log",
    "log1p",
    "matmul",
    "max",
    "maximum",
    "mean",
    "min",
    "minimum",
    "no_grad",
    "op_name",
    "pad",
    "record",
    "relu",
    "reshape",
    "sigmoid",
    "sin",
    "split",
    "sqrt",
    "squeeze",
    "stack",
    "std",
    "sum",
    "swapaxes",
    "tanh",
    "transpose",
    "unbroadcast",
    "var",
    "where",
]
