"""Lesson 2: write an op, check its gradient, break it, and watch the check fail.

An op is a function: compute the output, write the vjp beneath, hand both to `record`.
"""

import numpy as np

from autograd import GradientMismatch, Tensor, gradcheck, record


def sigmoid(a: Tensor) -> Tensor:
    """out = 1 / (1 + exp(-a));  da = g * out * (1 - out)."""
    out = 1.0 / (1.0 + np.exp(-a.data))

    def vjp(g):
        return (g * out * (1.0 - out),)

    return record(out, (a,), vjp)


def forgetful_sigmoid(a: Tensor) -> Tensor:
    """The same, but the vjp forgets g."""
    out = 1.0 / (1.0 + np.exp(-a.data))

    def vjp(g):
        return (out * (1.0 - out),)

    return record(out, (a,), vjp)


x = np.random.default_rng(0).standard_normal((3, 4))

print("the op as it should be:")
for mode in ("directional", "full", "complex"):
    print(f"  {gradcheck(sigmoid, [x], mode=mode)}")

print("\nthe one that forgets g, with a random cotangent:")
try:
    gradcheck(forgetful_sigmoid, [x])
except GradientMismatch as error:
    print(f"  {error}")
else:
    raise SystemExit("the check should have failed")

print("\nthe same, with a cotangent of ones, which is what .sum().backward() checks:")
print(f"  {gradcheck(forgetful_sigmoid, [x], cotangent=np.ones_like(x))}")
print("  It passes. That is why the checks here draw a random cotangent.")

print("\nNow you: softplus, log(1 + exp(a)). Lesson 12 has it, and its other tests.")
