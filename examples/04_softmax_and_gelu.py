"""Lesson 4: softmax mixes the entries of a row, GELU does not.

Softmax. p_i = exp(x_i) / sum_k exp(x_k). x_j is in the numerator only if j = i, and always in the
denominator. Write 1[i = j] for a number that is 1 if i = j, and 0 otherwise:

    dp_i/dx_j = p_i (1[i = j] - p_j)
    dx_j = sum_i g_i dp_i/dx_j = g_j p_j - p_j sum_i g_i p_i
    dx = p * (g - sum(g * p))          the sum is over the row

(Goodfellow et al., Deep Learning (2016), section 6.2.2.3, defines the function.)

GELU. out = x/2 * (1 + tanh(u)) with u = c (x + a x**3), c = sqrt(2/pi), a = 0.044715. x has two
uses, in x/2 and in u: use the product rule, and the chain rule for u, with
d tanh(u)/du = 1 - tanh(u)**2:

    slope = (1 + tanh(u)) / 2  +  x/2 * (1 - tanh(u)**2) * c (1 + 3 a x**2)
    dx = g * slope                     entry by entry

(Hendrycks & Gimpel, arXiv:1606.08415 (2016), section 2. GELU is x * Phi(x), where Phi is the normal
distribution function. The tanh form approximates it, and GPT-2 was trained with the tanh form.)
"""

import math

import numpy as np

from autograd import Tensor
from npgpt2 import functional as F

rng = np.random.default_rng(0)
x, g = rng.standard_normal((2, 5)), rng.standard_normal((2, 5))
leaf = Tensor(x, requires_grad=True)

print("Softmax of one row, once with the whole Jacobian, and once with the formula:")
out = F.softmax(leaf)
p = out.data[0]
jacobian = np.diag(p) - np.outer(p, p)  # (i, j): dp_i/dx_j
dx = p * (g[0] - (g[0] * p).sum())
print(f"  g @ jacobian  {(g[0] @ jacobian).round(4)}\n  formula       {dx.round(4)}")
(engine,) = out.vjp(g)
assert np.abs(g[0] @ jacobian - dx).max() < 1e-14 and np.abs(engine[0] - dx).max() < 1e-14

print("\nTwo facts that most wrong formulas violate:")
print(f"  dx sums to 0 (here {abs(dx.sum()):.0e}), because adding a constant to x changes nothing")
(of_ones,) = out.vjp(np.ones_like(g))
print(f"  for g = 1, dx is 0 (here {np.abs(of_ones).max():.0e}), because the p always sum to 1")
print("So .sum().backward() would accept a softmax whose gradient is always 0.")
assert abs(dx.sum()) < 1e-14 and np.abs(of_ones).max() < 1e-14

print("\nGELU, by hand:")
a, c = 0.044715, math.sqrt(2.0 / math.pi)


def tanh_form(x):
    """Return values and slopes of the tanh form."""
    t = np.tanh(c * (x + a * x**3))
    return x / 2 * (1 + t), (1 + t) / 2 + x / 2 * (1 - t**2) * c * (1 + 3 * a * x**2)


def erf_form(x):
    """Return values and slopes of x * Phi(x): Phi + x * phi, with the normal density phi."""
    cdf = np.array([(1 + math.erf(v / math.sqrt(2))) / 2 for v in x])
    return x * cdf, cdf + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


values, slopes = tanh_form(x)
out = F.gelu(leaf)
(engine,) = out.vjp(g)
print(f"  largest difference of dx from the engine: {np.abs(g * slopes - engine).max():.0e}")
assert np.abs(values - out.data).max() < 1e-14 and np.abs(g * slopes - engine).max() < 1e-14

grid = np.linspace(-6, 6, 24_001)
of_tanh, of_erf = tanh_form(grid), erf_form(grid)
gaps = [np.abs(one - other) for one, other in zip(of_tanh, of_erf, strict=True)]
for name, gap in zip(("values", "slopes"), gaps, strict=True):
    print(f"  the two forms: {name} differ by at most {gap.max():.2e}, at |x| = ", end="")
    print(f"{abs(grid[gap.argmax()]):.2f}")
assert 4.725e-4 < gaps[0].max() < 4.735e-4
print("  If your slope is off by more than rounding, but less than 9e-4, it may be the")
print("  slope of the other form.")
print(f"  GELU falls left of x = {grid[of_tanh[0].argmin()]:.2f}: the slope is below 0 there")

print("\nNow you: npgpt2 practice softmax --start softmax.py, then practice gelu")
