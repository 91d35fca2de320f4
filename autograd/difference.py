"""Numeric derivatives that know their own error.

Let phi(t) = <g, f(x + t w)> for a change w of x. A central difference approximates phi'(0):

    D(t) = (phi(t) - phi(-t)) / 2t = phi'(0) + t**2 phi'''(0) / 6 + ...

`central` takes two steps, t = 1 and t = 2, so it can tell how far to trust the result:

- (4 D(1) - D(2)) / 3 has no error in t**2. The distance D(1) - D(2) is the error of a rougher
  result, so it is an upper estimate.
- If f is smooth, the bend B(t) = (phi(t) - 2 phi(0) + phi(-t)) / t doubles with t. At a kink it is
  the difference of the slopes to the right and to the left, whatever t is.
- The values of f are rounded.

A smaller change w has a smaller truncation error and a larger rounding error. `trusted` compares
the results of several changes, and finds the best of them.

`complex_step` subtracts nothing: Im phi(i t) / t = phi'(0) - t**2 phi'''(0) / 6 + ..., and t can be
1e-20.

Sources: Richardson, Phil. Trans. R. Soc. A 210 (1911), section 3 (two steps); Ridders, Accurate
computation of F'(x) and F'(x) F''(x), Advances in Engineering Software 4 (1982) (trust the step
with the smallest estimated error); Martins, Sturdza & Alonso, The complex-step derivative
approximation, ACM TOMS 29 (2003).
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from autograd.rows import Array

FLOOR = 0.1  # for `sizes`: entries that are small beside the others change like these
_ROUNDINGS = 16.0  # an op rounds several times, so the error of its values is several times eps


class Slope(NamedTuple):
    """A derivative of L along a direction of length 1, from the vjp and computed without it.

    Attributes
    ----------
    direction
        The direction, an array of length 1.
    length
        The length of the change of x.
    analytic, numeric
        The derivative from the vjp, and the derivative computed without it.
    error
        The estimated error of `numeric`. It is infinite if L is not finite at a changed x.
    typical
        The typical size of `analytic` along other directions.
    invisible
        The size of a derivative that rounding hides: if x changed by its own size, L would change
        by no more than its rounding error.
    """

    direction: Array
    length: float
    analytic: float
    numeric: float
    error: float
    typical: float
    invisible: float


def central(
    along: Callable[[float], Array], middle: Array, g: Array, eps: float, moved: Array | bool
) -> tuple[float, float, float]:
    """Return phi'(0), its estimated error, and the rounding error of phi.

    `along(t)` is f(x + t w), and `middle` is f(x). `eps` is the machine epsilon of f's dtype.
    Outputs that change are rounded. `moved` marks the outputs that change with larger steps; here
    the change may be lost in rounding.
    """
    right, left, far_right, far_left = (along(t) for t in (1.0, -1.0, 2.0, -2.0))
    near = total(g * (right - left)) / 2.0  # D(1)
    far = total(g * (far_right - far_left)) / 4.0  # D(2)
    bends = (far_right - 2.0 * middle + far_left) / 2.0 - 2.0 * (right - 2.0 * middle + left)
    rounding = _rounding(far_right, (far_right != far_left) | moved, g, eps)
    error = 2.0 * abs(near - far) + abs(total(g * bends)) + rounding
    return (4.0 * near - far) / 3.0, error if math.isfinite(error) else math.inf, rounding


def complex_step(
    value: Array, g: Array, eps: float, moved: Array | bool
) -> tuple[float, float, float]:
    """Return the same for value = f(x + i w)."""
    error = _rounding(value.imag, True, g, eps)
    rounding = _rounding(value.real, (value.imag != 0.0) | moved, g, eps)
    finite = math.isfinite(error + rounding)
    return total(g * value.imag), error if finite else math.inf, rounding


def _rounding(value: Array, changed: Array | bool, g: Array, eps: float) -> float:
    """Return the rounding error of <g, value>, in the outputs that have changed."""
    return _ROUNDINGS * eps * total(np.abs(np.where(changed, g * value, 0.0)))


def total(terms: Array) -> float:
    """Return the sum, in double precision."""
    return float(np.sum(terms, dtype=np.float64))


def trusted(slopes: Sequence[Slope]) -> Slope:
    """Return the slope with the smallest error, after each error is compared with smaller steps.

    Smaller steps show three things. The rounding error of L is about the same at each step; the two
    smallest steps serve only to show it, because a single error may be 0 by chance. An error that
    does not shrink with the step is a kink: no larger step removes it. And two slopes must agree up
    to their errors. Smaller or larger, some other step must confirm a slope: its error is at least
    the distance to the nearest other slope.
    """
    known = sorted((s for s in slopes if math.isfinite(s.error)), key=lambda s: s.length)
    if any(s.numeric for s in known):  # where f does not change, the step may be lost in rounding
        known = [s for s in known if s.numeric or not s.analytic]
    if len(known) < 3:
        return known[-1] if known else slopes[0]
    rounding = 0.0  # of L; the rounding error of a slope is rounding / length
    kink = math.inf
    first = max(s.error * s.length for s in known[:2])
    found: list[Slope] = []
    for i, slope in enumerate(known):
        rounding = max(rounding, slope.error * slope.length)
        if i < 2:
            continue
        error = max(rounding / slope.length, kink if found else 0.0)
        kink = min(kink, error - 2.0 * first / slope.length)
        for other in found:
            if math.isfinite(distance := apart(slope, other)):
                error = max(error, distance - other.error)
        others = (apart(slope, other) for other in known if other is not slope)
        error = max(error, min(filter(math.isfinite, others), default=0.0))
        found.append(slope._replace(error=error))
    return min(found, key=lambda slope: slope.error)


def apart(a: Slope, b: Slope) -> float:
    """Return the distance of two slopes; their directions may differ by rounding."""
    return abs((a.numeric - a.analytic) - (b.numeric - b.analytic))


def sizes(x: Array, floor: float) -> Array:
    """Return the size by which to scale a change of each entry of x.

    The size of an entry is its absolute value, but at least `floor` times the root mean square of
    all entries, because entries near 0 are usually small by chance. An entry that is 0 beside
    others takes at least the smallest of them, and if all are 0, the size is 1. Infinite entries
    cannot change: their size is 0.
    """
    finite = np.isfinite(x)
    size = np.where(finite, np.abs(x), 0.0)
    positive = size[size > 0.0]
    least = float(positive.min()) if positive.size else 1.0
    size[size == 0.0] = least
    typical = norm(positive) / math.sqrt(positive.size or 1)
    smallest = 1e6 * float(np.finfo(x.dtype).tiny)  # steps of smaller numbers lose digits
    size = np.maximum(size, max(floor * typical, smallest))
    return np.where(finite, size, 0.0)


def norm(x: Array) -> float:
    """Return the Euclidean norm of the finite entries; their squares cannot overflow."""
    x = np.where(np.isfinite(x), np.abs(x), 0.0)
    largest = float(x.max(initial=0.0))
    return largest * float(np.sqrt(np.sum(np.square(x / largest)))) if largest else 0.0
