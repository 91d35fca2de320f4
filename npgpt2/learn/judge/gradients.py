"""Judge each gradient: its type, shape and entries, and measurements if nothing explains it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from autograd import Array, Tensor
from npgpt2.learn.judge.attempt import Attempt, is_numeric
from npgpt2.learn.judge.diagnosis import close, diagnose, differ
from npgpt2.learn.judge.exercise import Answer, Exercise
from npgpt2.learn.judge.verdict import Gradient


def examine(
    exercise: Exercise, function: Answer, attempts: Sequence[Attempt]
) -> tuple[Gradient, ...]:
    """Judge each gradient separately, given one attempt for each draw."""
    gradients: dict[str, Gradient] = {}
    yours: dict[str, list[Array | None]] = {}
    for i, name in enumerate(exercise.gradients):
        pairs = [
            (attempt.values[i], right[i])
            for attempt, right in zip(attempts, exercise.expected, strict=True)
            if attempt.values is not None
        ]
        gradients[name] = _fault_in_kind(name, pairs) or _compare(name, pairs)
        values = [None if a.values is None else a.values[i] for a in attempts]
        yours[name] = [np.asarray(v) if is_numeric(v) else None for v in values]
    wrong = [n for n, g in gradients.items() if g.status in ("wrong", "wrong shape", "not finite")]
    findings = diagnose(exercise, yours, wrong)
    for name in wrong:
        if name in findings:
            text, names = findings[name].text, findings[name].names
            gradients[name] = replace(gradients[name], diagnosis=text, mistakes=names)
        elif gradients[name].status == "wrong":
            evidence = tuple(_evidence(exercise, function, name, yours[name]))
            gradients[name] = replace(gradients[name], evidence=evidence)
    return tuple(gradients.values())


def _fault_in_kind(name: str, pairs: Sequence[tuple[Any, Array]]) -> Gradient | None:
    """Say so if the values are not float64 arrays."""
    for value, right in pairs:
        if not is_numeric(value):
            what = f"of type {type(value).__name__}"
            if isinstance(value, np.ma.MaskedArray):
                what = "a masked array"
            elif isinstance(value, np.ndarray):
                what = f"an array of {value.dtype}"
            elif value is None or isinstance(value, Tensor):
                what = "None" if value is None else "a Tensor"
            text = f"it is {what}; return a NumPy array"
            return Gradient(name, "not an array", evidence=(text,))
        if value.dtype != np.float64:
            rounded = value.shape == right.shape and np.allclose(value, right, rtol=1e-3, atol=1e-5)
            more = "; its values are right to that precision" if rounded else ""
            text = f"it is {value.dtype}, but the inputs are float64{more}"
            return Gradient(name, "wrong dtype", evidence=(text,))
    return None


def _compare(name: str, pairs: Sequence[tuple[Array, Array]]) -> Gradient:
    for value, right in pairs:
        if value.shape != right.shape:
            shape = f"it has shape {value.shape}, expected {right.shape}"
            return Gradient(name, "wrong shape", evidence=(shape, *_ways_to_fit(value, right)))
        bad = differ(value, right)
        if bad.any():
            status = "wrong" if np.isfinite(value).all() else "not finite"
            bad = bad if status == "wrong" else ~np.isfinite(value)
            index = tuple(int(n) for n in np.argwhere(bad)[0])
            cause = (
                "NaN comes from 0/0, from inf - inf, or from the root or logarithm of a negative "
                "number; inf comes from x/0"
            )
            evidence = (cause,) if status == "not finite" else ()
            numbers = float(value[index]), float(right[index])
            return Gradient(name, status, index, *numbers, evidence=evidence)
    return Gradient(name, "right")


def _ways_to_fit(value: Array, right: Array) -> Iterator[str]:
    """Say which change would make the shape fit, and whether the numbers would then be right."""
    changes: dict[str, Array] = {}
    if value.ndim > 5:
        return
    for order in itertools.permutations(range(value.ndim)):
        if value.ndim > 1 and order != tuple(range(value.ndim)):
            changes[f"transposed to the axes {order}"] = value.transpose(order)
    for n in range(1, value.ndim + 1):
        for axes in itertools.combinations(range(value.ndim), n):
            over = f"summed over axis {axes[0] if n == 1 else axes}"
            changes[over] = value.sum(axis=axes)
            changes[f"{over} and transposed"] = value.sum(axis=axes).T
    if value.size == right.size:
        changes["reshaped"] = value.reshape(right.shape)
    fitting = {what: changed for what, changed in changes.items() if changed.shape == right.shape}
    equal = [what for what, changed in fitting.items() if close(changed, right)]
    if equal:
        yield f"{equal[0]}, it would be right"
    elif fitting:
        yield f"{next(iter(fitting))}, it would have the right shape but the wrong values"
    for n in range(1, right.ndim + 1):
        for axes in itertools.combinations(range(right.ndim), n):
            if close(value, right.sum(axis=axes)):
                yield f"it is the right gradient summed over axis {axes[0] if n == 1 else axes}"


def _evidence(
    exercise: Exercise, function: Answer, name: str, yours: Sequence[Array | None]
) -> Iterator[str]:
    """Measure a wrong gradient that no known mistake explains."""
    i = list(exercise.gradients).index(name)
    value, right = next(
        (v, r[i])
        for v, r in zip(yours, exercise.expected, strict=True)
        if v is not None and not close(v, r[i])
    )
    bad = differ(value, right)
    size, right_size = float(np.linalg.norm(value)), float(np.linalg.norm(right))
    error = float(np.linalg.norm(value - right)) / (right_size or 1.0)
    yield f"relative error {error:.2g}; {bad.sum()} of {bad.size} entries are wrong"
    as_float32 = error < 1e-6
    if as_float32:
        yield "an error this small may be rounding in float32 (use float64), or a constant like eps"
    elif error < 1e-3:
        yield "an error this small is not rounding: check constants, eps and differences"
    if size and right_size:
        product = float(np.sum(value * right))
        yield (
            f"nearest to {product / right_size**2:.4g} times the right gradient; "
            f"the cosine of the two is {product / (size * right_size):.4f}"
        )
    for axis in range(right.ndim):
        others = tuple(a for a in range(right.ndim) if a != axis)
        wrong_at = np.flatnonzero(bad.any(axis=others))
        if others and len(wrong_at) < right.shape[axis]:
            yield f"wrong only at {', '.join(map(str, wrong_at))} of axis {axis}"
        if np.abs((value - right).sum(axis=axis)).max() <= 1e-9 * np.abs(right).max():
            yield f"its sum over axis {axis} is right"
    if next(iter(exercise.arguments)) == "g" and not as_float32:
        linear = _is_linear(exercise, function, i)
        yield f"it is {'linear in g, like' if linear else 'not linear in g, unlike'} every vjp"


def _is_linear(exercise: Exercise, function: Answer, i: int) -> bool:
    """Whether the i-th gradient for g + h is the one for g plus the one for h, on all draws."""
    for g, *others in exercise.draws:
        h = np.asarray(np.flip(g) * 0.7 + 0.1)
        attempts = [Attempt.of(exercise, function, (x, *others)) for x in (g, h, g + h)]
        values = [np.asarray(a.values[i]) for a in attempts if a.values is not None]
        if len(values) == 3 and not close(values[2], values[0] + values[1]):
            return False
    return True
