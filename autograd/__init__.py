"""A small reverse-mode automatic differentiation engine on NumPy.

>>> x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
>>> loss = (x * x).sum()
>>> loss.backward()
>>> x.grad
array([2., 4., 6.])

Import these names from `autograd`:

    tensors:    Tensor Operand Array as_tensor no_grad enable_grad
    ops:        exp log tanh sqrt matmul where sum mean max
                reshape transpose swapaxes concatenate
    your ops:   record is_recorded op_name unbroadcast Rows
    checks:     gradcheck GradientReport GradientMismatch

Read `backward.py` first, because it is the algorithm. `tensor.py` has Tensor and its ops.
`ownership.py` saves copies, and `rows.py` saves memory. `check.py` checks gradients. `testing/`
helps you to test your own ops. Only `testing/` needs more than NumPy: it needs hypothesis.
"""

from autograd.check import GradientMismatch, GradientReport, gradcheck
from autograd.rows import Array, Rows
from autograd.tensor import (
    Operand,
    Tensor,
    as_tensor,
    concatenate,
    enable_grad,
    exp,
    is_recorded,
    log,
    matmul,
    max,
    mean,
    no_grad,
    op_name,
    record,
    reshape,
    sqrt,
    sum,
    swapaxes,
    tanh,
    transpose,
    unbroadcast,
    where,
)

__all__ = [
    "Array",
    "GradientMismatch",
    "GradientReport",
    "Operand",
    "Rows",
    "Tensor",
    "as_tensor",
    "concatenate",
    "enable_grad",
    "exp",
    "gradcheck",
    "is_recorded",
    "log",
    "matmul",
    "max",
    "mean",
    "no_grad",
    "op_name",
    "record",
    "reshape",
    "sqrt",
    "sum",
    "swapaxes",
    "tanh",
    "transpose",
    "unbroadcast",
    "where",
]
