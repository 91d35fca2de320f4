"""Lesson 2: write an op, check its gradient, break the op, and see the check fail.

An op is a function. It computes the output, defines the vjp beneath it, and gives both to `record`.

`gradcheck` draws a random cotangent g, takes L = sum(g * out) as the loss, and compares two
derivatives of L. The analytic one comes from the vjp. The numeric one comes from values of L alone:

    directional   (L(x + h v) - L(x - h v)) / 2h, along a few random directions v
    full          the same along each entry of x, so it finds the wrong entry
    complex       the complex step Im L(x + i h) / h, for each entry of x. It subtracts nothing, so
                  h can be 1e-30, and the result is exact up to rounding

If a directional check fails, `gradcheck` looks for the worst entry.
"""

import textwrap

import numpy as np

from autograd import GradientMismatch, Tensor, gradcheck, record


def sigmoid(a: Tensor) -> Tensor:
    """out = 1 / (1 + exp(-a));  da = g * out * (1 - out)."""
    out = 1.0 / (1.0 + np.exp(-a.data))

    def vjp(g):
        return (g * out * (1.0 - out),)

    return record(out, (a,), vjp)


def forgetful_sigmoid(a: Tensor) -> Tensor:
    """Return the same value as `sigmoid`, but with a vjp that forgets g."""
    out = 1.0 / (1.0 + np.exp(-a.data))

    def vjp(g):
        return (out * (1.0 - out),)

    return record(out, (a,), vjp)


def show(result: object) -> None:
    """Print the result of a check, in lines of at most 80 columns."""
    print(textwrap.indent(textwrap.fill(str(result), 76, break_on_hyphens=False), "  "))


x = np.random.default_rng(0).standard_normal((3, 4))

print("The right op passes all three checks:")
for mode in ("directional", "full", "complex"):
    show(gradcheck(sigmoid, [x], mode=mode))

print("\nThe op that forgets g, with a random cotangent:")
try:
    gradcheck(forgetful_sigmoid, [x])
except GradientMismatch as error:
    show(error)
else:
    raise SystemExit("the check should have failed")

print("\nThe same op with a cotangent of ones, as .sum().backward() uses it:")
show(gradcheck(forgetful_sigmoid, [x], cotangent=np.ones_like(x)))
print("  The wrong op passes. That is why gradcheck draws a random cotangent.")

print("\nNow you: write softplus, log(1 + exp(a)). Lesson 12 has it, with more tests.")
