"""Lesson 5: layer norm by hand, from three lines of forward to three lines of backward.

Forward, for each row x of C channels, with its mean and its variance var:

    xhat = (x - mean) * rstd,  rstd = 1 / sqrt(var + eps);  out = xhat * weight + bias

Backward, given g = dL/dout. Three gradients are easy: dbias = g and dweight = g * xhat, both summed
over the rows, and dxhat = g * weight. Then x reaches xhat on three paths: directly, through the
mean, and through rstd. Each path adds one part to dx:

    directly           rstd * dxhat
    through the mean   dmean/dx_j = 1/C, so                     -rstd * mean(dxhat)
    through rstd       drstd/dx_j = -rstd**2 * xhat_j / C, so   -rstd * xhat * mean(dxhat * xhat)

The exercise at the end derives the slope of rstd (--derivation). It also shows why var has no
path through the mean: the sum of x - mean is 0.

The library has every op of GPT-2 twice. In `composed` it consists of small ops, and the engine
derives its gradient. In `functional` it is one fast op, with a vjp derived by hand. Lesson 12 tests
dx, dweight and dbias on random arrays.
"""

import numpy as np

from autograd import Tensor
from npgpt2 import composed, functional

rng = np.random.default_rng(0)
C, eps = 6, 1e-5
x = Tensor(rng.standard_normal((2, C)), requires_grad=True)
weight = Tensor(rng.standard_normal(C), requires_grad=True)
bias = Tensor(rng.standard_normal(C), requires_grad=True)
g = rng.standard_normal((2, C))

mean = x.data.mean(axis=-1, keepdims=True)
rstd = 1.0 / np.sqrt(((x.data - mean) ** 2).mean(axis=-1, keepdims=True) + eps)
xhat = (x.data - mean) * rstd
dxhat = g * weight.data
direct = rstd * dxhat
through_mean = -rstd * dxhat.mean(axis=-1, keepdims=True)
through_rstd = -rstd * xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)
dx = direct + through_mean + through_rstd


def show(name: str, row: np.ndarray) -> None:
    """Print one row under a name."""
    print(f"  {name:<18}" + " ".join(f"{value:7.3f}" for value in row))


print("dx of the first row, and its three parts:")
show("directly", direct[0])
show("through the mean", np.broadcast_to(through_mean, direct.shape)[0])
show("through rstd", through_rstd[0])
show("dx", dx[0])

print("\nLargest differences of dx, dweight, dbias from the engine:")
by_hand = (dx, (g * xhat).sum(axis=0), g.sum(axis=0))
for where in (composed, functional):
    for leaf in (x, weight, bias):
        leaf.grad = None
    where.layer_norm(x, weight, bias, eps).backward(g)
    differences = [
        np.abs(leaf.grad - hand).max()
        for leaf, hand in zip((x, weight, bias), by_hand, strict=True)
    ]
    assert max(differences) < 1e-14
    print(f"  {where.__name__:<18}" + "  ".join(f"{d:.0e}" for d in differences))

print("\ndx sums to 0 over the channels, because adding a constant to x changes nothing:")
print(f"  sums: {dx.sum(axis=-1).round(12) + 0.0}")
print("Without the part through the mean, it does not:")
print(f"  sums: {(direct + through_rstd).sum(axis=-1).round(3)}")

print("\nNow you: npgpt2 practice layer_norm --start layer_norm.py")
