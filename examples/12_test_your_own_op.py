"""Lesson 12: describe an op of your own, and have it tested as the built-in ones are.

Needs hypothesis: pip install 'npgpt2[testing]'.
"""

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
    lambda a: softplus(a, slope=lambda g, x: g / (1.0 + np.exp(x))),  # a sign
    lambda x: np.logaddexp(0.0, x),
    one_operand(),
    domain=numbers(-2.0, 2.0),
)
try:
    check_op(wrong)
except AssertionError as error:
    print(f"\nwrong softplus: {error}", *error.__notes__, sep="\n")
