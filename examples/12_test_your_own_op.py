"""Lesson 12: describe your own op, and test it in the same way as the built-in ops.

An `OpSpec` has the name of the op, the op, a reference in plain NumPy that computes the same value,
and a strategy: an object that draws random operands. `check_op` draws many calls of the op, and
checks the properties that all built-in ops have. If a call violates a property, `check_op` shows
the smallest call that it can find. One property is about kinks. A kink is a point where the slope
jumps, such as 0 for max(a, 0).

You need hypothesis: pip install 'npgpt2[testing]'.
"""

import textwrap

import numpy as np

from autograd import Tensor, record
from autograd.testing import OPS, PROPERTIES, OpSpec, check_op, numbers, one_operand, register


def softplus(a: Tensor, slope=lambda g, x: g / (1.0 + np.exp(-x))) -> Tensor:
    """out = log(1 + exp(a));  da = g * sigmoid(a)."""
    x = a.data
    return record(np.log1p(np.exp(x)), (a,), lambda g: (slope(g, x),))


register(OpSpec("softplus", softplus, lambda x: np.logaddexp(0.0, x), one_operand()))
check_op(OPS["softplus"])
print(f"softplus has all {len(PROPERTIES)} properties:")
print("  " + "\n  ".join(name.replace("_", " ") for name in PROPERTIES))

wrong = OpSpec(
    "wrong softplus",
    lambda a: softplus(a, slope=lambda g, x: g / (1.0 + np.exp(x))),  # the sign of x is wrong
    lambda x: np.logaddexp(0.0, x),
    one_operand(),
    domain=numbers(-2.0, 2.0),
)
try:
    check_op(wrong)
except AssertionError as error:
    print()
    print(textwrap.fill(f"wrong softplus: {error}", 80, break_on_hyphens=False))
    print(*error.__notes__[:2], sep="\n")  # the property, and the smallest call
