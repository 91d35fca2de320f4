"""The values of f and of its vjp, at x and near x.

The vjp rounds too. If it subtracts two numbers that are nearly equal, few digits of a gradient are
right, or none: for example 1 - tanh(x)**2 for large x. A gradient is not wrong because of that. So
`rounding_errors` measures how much the vjp rounds.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from autograd.difference import FLOOR, sizes, total
from autograd.rows import Array
from autograd.tensor import Tensor, enable_grad, no_grad

Arrays = dict[str, Array]

_LINES = 2  # the number of random lines through x
_NEAR, _FAR = 1e-5, 1e-2  # the largest distances, relative to the sizes of the entries
_LITTLE = 1e-2  # the largest relative change of a gradient that is little
_JUMP = 50.0  # if the distance grows by 4, the change of a smooth gradient grows by less than this


def evaluate(
    f: Callable[..., Tensor],
    leaves: dict[str, Tensor],
    name: str | None = None,
    change: Any = None,
) -> Array:
    """Return f(*leaves) without a graph; during the call, `change` is added to the leaf `name`."""
    if name is None:
        with no_grad():
            out = f(*leaves.values())
        if not isinstance(out, Tensor):
            raise TypeError(f"f must return a Tensor, not {type(out).__name__}")
        return np.array(out.data)
    with at(leaves, {name: leaves[name].data + change}):
        return evaluate(f, leaves)


def analytic(
    f: Callable[..., Tensor], leaves: dict[str, Tensor], g: Array
) -> tuple[Arrays, set[str]]:
    """Return dL/dleaf from the backward pass, and the leaves that it does not reach: zeros."""
    before = {k: (leaf.requires_grad, leaf.grad) for k, leaf in leaves.items()}
    try:
        for leaf in leaves.values():
            leaf.requires_grad, leaf.grad = True, None
        with enable_grad():
            out = f(*leaves.values())
        if out.requires_grad:
            out.backward(g)
        gradients = {k: leaf.grad for k, leaf in leaves.items()}
    finally:
        for k, leaf in leaves.items():
            leaf.requires_grad, leaf.grad = before[k]
    zeros = {k: np.zeros_like(leaf.data) for k, leaf in leaves.items()}
    reached = {k: gradient for k, gradient in gradients.items() if gradient is not None}
    return zeros | reached, leaves.keys() - reached.keys()


@contextmanager
def at(leaves: dict[str, Tensor], values: Arrays) -> Iterator[None]:
    """Let leaves hold other values inside the block, in the leaves' own precision."""
    original = {name: leaves[name].data for name in values}
    try:
        for name, value in values.items():
            x = original[name]
            # Otherwise a forced check of float32 would compute in float64.
            kind = x.dtype if np.isrealobj(value) else np.result_type(x, np.complex64)
            leaves[name].data = np.asarray(value, dtype=kind)
        yield
    finally:
        for name, x in original.items():
            leaves[name].data = x


def largest_value(f: Callable[..., Tensor], leaves: dict[str, Tensor], g: Array) -> float:
    """Return the largest of some values of L far from x that are finite.

    L may be small at x only because f subtracts two numbers there that are nearly equal.
    """
    found = [0.0]
    for factor in (-1.0, 0.0, 2.0):
        with at(leaves, {name: factor * leaf.data for name, leaf in leaves.items()}):
            found.append(total(np.abs(g * evaluate(f, leaves))))
    return max(filter(math.isfinite, found))


def rounding_errors(
    f: Callable[..., Tensor], leaves: dict[str, Tensor], g: Array, gradients: Arrays, eps: float
) -> tuple[Arrays, Arrays]:
    """Return the rounding errors of the gradients, twice: as they show near x, and farther from x.

    The fourth difference of a cubic function is 0. So it shows the rounding errors of a gradient,
    as long as the gradient changes little. But rounding may be so coarse that a gradient does not
    change at all, until it jumps. Then the jump is the rounding error, or f has a kink there.
    """
    rng = np.random.default_rng(0)
    near = far = before = {name: np.zeros(x.shape) for name, x in gradients.items()}
    little = {name: np.ones(x.shape, dtype=bool) for name, x in gradients.items()}
    distance = 16.0 * eps
    while distance <= _FAR and any(map(np.any, little.values())):
        lines = [_changes(f, leaves, g, gradients, distance, rng) for _ in range(_LINES)]
        found, now = {}, {}
        for name, gradient in gradients.items():
            first, second, third, fourth = np.stack([line[name] for line in lines], axis=1)
            rough = _largest(-4.0 * first + 6.0 * second - 4.0 * third + fourth)
            change = now[name] = np.fmax(_largest(first), _largest(fourth))
            smooth = change <= _LITTLE * np.abs(gradient)
            jump = np.where(change > _JUMP * before[name], 4.0 * change, 0.0)
            new = np.fmax(far[name], np.where(smooth, rough, jump))
            found[name] = np.where(little[name], new, far[name])
            little[name] &= smooth
        far, before = found, now
        if distance <= _NEAR:
            near = far
        distance *= 4.0
    return near, far


def _changes(
    f: Callable[..., Tensor],
    leaves: dict[str, Tensor],
    g: Array,
    gradients: Arrays,
    distance: float,
    rng: np.random.Generator,
) -> Arrays:
    """Return how much the gradients change at 1, 2, 3 and 4 times a random step."""
    original = {name: leaf.data for name, leaf in leaves.items()}
    steps = {
        name: distance * rng.standard_normal(x.shape) * sizes(x, FLOOR)
        for name, x in original.items()
    }
    found = []
    for t in (1.0, 2.0, 3.0, 4.0):
        with at(leaves, {name: x + t * steps[name] for name, x in original.items()}):
            found.append(analytic(f, leaves, g)[0])
    return {
        name: np.stack([there[name] - gradient for there in found])
        for name, gradient in gradients.items()
    }


def _largest(changes: Array) -> Array:
    """Return the largest absolute values along axis 0. NaN is no rounding error."""
    largest: Array = np.fmax.reduce(np.abs(changes), axis=0)
    return largest
