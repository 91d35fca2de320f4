"""Tools for people who test ops: describe an op, then check all properties of a correct op.

These tools need hypothesis (`pip install 'npgpt2[testing]'`). The rest of autograd does not.

An `OpSpec` describes an op: its value, its operands, its kinks, and the calls that it refuses. Each
function in `PROPERTIES` checks a property that every correct op has. `check_op` draws operands and
checks all properties. So your own op gets the same tests as the built-in ops:

>>> import numpy as np
>>> from autograd import Tensor, record, tanh
>>> def cube(a):
...     x = a.data
...     return record(x**3, (a,), lambda g: (g * 3.0 * x * x,))
>>> check_op(OpSpec("cube", cube, lambda x: x**3, one_operand()))

`check_backward` checks the same properties of a forward and a backward that are plain functions of
arrays, from NumPy or any other library:

>>> check_backward(lambda x: x**3, lambda g, x: g * 3.0 * x * x, arrays())

`OPS` holds the specs of all built-in ops, by name. `register` adds a spec. You can also use the
strategies (arrays, shapes, axes, indices, graphs) in your own tests:

>>> from hypothesis import given
>>> @given(arrays())
... def test_tanh_is_odd(x):
...     assert np.array_equal(tanh(Tensor(-x)).data, -tanh(Tensor(x)).data)
>>> test_tanh_is_odd()
"""

from autograd.testing.op_specs import OPS, register
from autograd.testing.plain import BACKWARD_PROPERTIES, check_backward
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
    lettered_shapes,
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
    "BACKWARD_PROPERTIES",
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
    "check_backward",
    "check_op",
    "check_refusals",
    "cotangent",
    "extremes",
    "filled",
    "graphs",
    "indices",
    "lettered_shapes",
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
