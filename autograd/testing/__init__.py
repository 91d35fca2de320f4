"""For people who test ops: what an op is, which ops there are, and what must hold of every one.

Needs hypothesis (`pip install 'npgpt2[testing]'`), which nothing else in this package does.

An `OpSpec` tells what an op computes and from what, where it has kinks, and what it refuses. Each
function in `PROPERTIES` states something that is true of every right op. `check_op` draws operands
and holds an op to all of it, so that an op of one's own gets the tests of the built-in ones:

>>> import numpy as np
>>> from autograd import Tensor, record, tanh
>>> def cube(a):
...     x = a.data
...     return record(x**3, (a,), lambda g: (g * 3.0 * x * x,))
>>> check_op(OpSpec("cube", cube, lambda x: x**3, one_operand()))

`OPS` is the registry of all ops with a spec; `register` adds to it. The strategies themselves
(arrays, shapes, axes, indices, graphs) are those of `autograd.strategies`:

>>> from hypothesis import given
>>> @given(arrays())
... def test_tanh_is_odd(x):
...     assert np.array_equal(tanh(Tensor(-x)).data, -tanh(Tensor(x)).data)
>>> test_tanh_is_odd()
"""

from autograd.testing.op_specs import OPS, register
from autograd.testing.properties import (
    PROPERTIES,
    Call,
    OpSpec,
    Refusal,
    check_op,
    check_refusals,
    cotangent,
    one_operand,
    operands,
)
from autograd.testing.strategies import (
    Graph,
    arrays,
    axes,
    broadcastable,
    broadcastable_arrays,
    extremes,
    filled,
    graphs,
    indices,
    literal,
    matmul_arrays,
    matmul_shapes,
    nonzero,
    numbers,
    positive,
    shapes,
    with_gaps,
)

__all__ = [
    "OPS",
    "PROPERTIES",
    "Call",
    "Graph",
    "OpSpec",
    "Refusal",
    "arrays",
    "axes",
    "broadcastable",
    "broadcastable_arrays",
    "check_op",
    "check_refusals",
    "cotangent",
    "extremes",
    "filled",
    "graphs",
    "indices",
    "literal",
    "matmul_arrays",
    "matmul_shapes",
    "nonzero",
    "numbers",
    "one_operand",
    "operands",
    "positive",
    "register",
    "shapes",
    "with_gaps",
]
