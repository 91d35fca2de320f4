"""Gradient checks: compare the gradients of a vjp with derivatives computed without it.

Let L(x) = <g, f(x)> for a function f and a random cotangent g. The vjp claims to return dL/dx. A
check tests this claim by evaluating L at points near x, in one of three modes:

- "directional": compare central differences of L with <dL/dx, v>, along random directions v. Each
  direction takes four evaluations of f, however large x is. Use this mode for whole models.
- "full": do the same along each single entry of x.
- "complex": compare Im L(x + i h e_j) / h with every entry j of dL/dx. Nothing is subtracted, so h
  can be tiny, and the result is exact up to rounding. The ops must accept complex arrays.

A difference has an error too. `difference.py` estimates it. If this error could hide a wrong
gradient, the check tries other steps. If all of them are too rough, the gradient cannot be judged
at this point, and the check says why.

The cotangent is random because special cotangents hide mistakes: with g = 1 everywhere, a vjp that
forgets g passes, and the gradient of softmax is 0.

Source: Baydin et al., Automatic differentiation in machine learning: a survey, JMLR 18 (2018),
section 2.1.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from autograd.comparison import Comparison, settings, worst_of
from autograd.evaluation import analytic, evaluate
from autograd.rows import Array
from autograd.tensor import Tensor
from autograd.verdict import GradientMismatch, GradientReport, GradientUndecided, Mode

_MODES = ("directional", "full", "complex")
_LEAST_STEP = 1e-30  # smaller steps are not normal numbers in float32
_MOST_DIRECTIONS = 10_000


@np.errstate(all="ignore")  # a step may leave the domain of f
def gradcheck(
    f: Callable[..., Tensor],
    inputs: Sequence[Tensor | ArrayLike] | Mapping[str, Tensor],
    *,
    mode: Mode = "directional",
    cotangent: ArrayLike | None = None,
    directions: int = 3,
    rtol: float | None = None,
    atol: float = 0.0,
    step: float | None = None,
    rng: np.random.Generator | int = 0,
    force: bool = False,
) -> GradientReport:
    """Check the gradients of f with respect to every input; raise an error if one is wrong.

    Parameters
    ----------
    f
        A function. f(*inputs) returns a Tensor of any shape. f must be deterministic.
    inputs
        float64 arrays or Tensors; or a mapping from names to Tensors. f may ignore its arguments,
        and read the Tensors from the model that owns them:
        `gradcheck(lambda *_: loss(model), dict(model.named_parameters()))`.
        After the check, the Tensors have the same data and the same `.grad` as before.
    mode
        "directional", "full" or "complex"; see the top of this module.
    cotangent
        Array-like of the output's shape. By default it is drawn from the standard normal
        distribution.
    directions
        Number of random directions for each input, in directional mode: from 1 to 10,000. They are
        standard normal, times the sizes of the entries.
    rtol, atol
        The tolerance is atol + rtol * scale + the estimated error of the numeric derivative. For an
        entry, scale is the larger of |analytic| and |numeric|. For a direction, scale is the larger
        of |numeric| and the typical size of <gradient, v>. Defaults: rtol = 1e-6, for the complex
        step 1e-9; for float32 1e-3, for the complex step 1e-4. atol = 0.
    step
        The first step to try, relative to the size of each entry: its absolute value, or a tenth of
        the root mean square of all entries if this is larger. If the derivative is too rough there,
        the check tries larger and smaller steps. At most 1; at least the rounding error of the
        dtype, or 1e-30 for the complex step. Default: 2e-5, for the complex step 1e-20; for
        float32 1e-2, for the complex step 1e-10.
    rng
        Seed or generator for the cotangent and the directions.
    force
        Accept float32 inputs too, and use the larger tolerances for float32.

    Returns
    -------
    GradientReport
        The verdict is "right": all derivatives agree within the tolerance. `print(report)` shows
        one line, `print(report.full())` a table.

    Raises
    ------
    GradientMismatch
        A gradient is wrong; `.report` says where. In directional mode, the check then looks for the
        worst entry of the wrong input, if this input has at most 20,000 entries.
    GradientUndecided
        No gradient is wrong, but one cannot be judged: at all steps, the estimated error of the
        numeric derivative is more than 1e-5 of the gradient (1e-2 for float32). `.report` says
        where and why: f has a kink there, rounding hides the slope, or f is NaN or infinite.
    TypeError
        f does not return a Tensor. Or an argument has the wrong type: `inputs` is a single array,
        an input is complex. Or an input is float32, without `force`: differences of float32 values
        cannot tell a correct gradient from a slightly wrong one.
    ValueError
        The mode is unknown; no input has entries; an input is not a leaf; f is not deterministic;
        the cotangent has the wrong shape or is not finite; a number is outside its limits.

    Notes
    -----
    If L is much larger than a gradient times the size of its input, rounding hides the gradient.
    Where no step shows it, a gradient of 0 is accepted: for example, the bias of the keys does not
    change attention, and both derivatives are only rounding errors.

    The vjp rounds too. If it subtracts two numbers that are nearly equal, few digits are right: for
    example 1 - tanh(x)**2 for large x. The check measures how much the vjp rounds. If few digits
    are right, the gradient is not called wrong: it cannot be judged.

    At a kink, the mean of the slopes to the left and to the right is accepted, because a central
    difference gives this mean too: for example, `max` shares its gradient among equal entries.

    NumPy's warnings and errors of floating-point numbers are off during the check, because a step
    may leave the domain of f.

    Examples
    --------
    >>> x = np.array([0.5, -1.0, 2.0])
    >>> gradcheck(lambda x: (x * x).sum(), [x], mode="full").ok
    True
    """
    if not callable(f):
        raise TypeError(f"f must be a function, not {f!r}")
    if not isinstance(mode, str):
        raise TypeError(f"mode must be a string, one of {', '.join(_MODES)}, not {mode!r}")
    if mode not in _MODES:
        raise ValueError(f"mode {mode!r} is unknown; choose one of {', '.join(_MODES)}")
    if not isinstance(force, bool | np.bool_):
        raise TypeError(f"force must be True or False, not {force!r}")
    directions = _directions(directions)
    leaves = _leaves(inputs, force)
    coarse = any(leaf.dtype == np.float32 for leaf in leaves.values())
    dtype = "float32" if coarse else "float64"
    defaults = settings(mode, dtype)
    eps = float(np.finfo(dtype).eps)
    least = _LEAST_STEP if mode == "complex" else eps  # x + eps * x is rounded to x
    h = _number("step", defaults.step if step is None else step, least=least, most=1.0)
    rtol = _number("rtol", defaults.rtol if rtol is None else rtol, most=1.0)
    atol = _number("atol", atol, most=math.inf)
    rng = _generator(rng)
    middle, g = _cotangent(f, leaves, cotangent, rng)
    gradients, unreached = analytic(f, leaves, g)
    comparison = Comparison(f, leaves, mode, dtype, g, middle, gradients, unreached, h, rtol, atol)
    found = {
        name: comparison.directions(name, directions, rng)
        if mode == "directional"
        else comparison.entries(name)
        for name in leaves
    }
    worst = {name: worst_of(rows) for name, rows in found.items() if rows}
    if not worst:
        raise ValueError("gradcheck needs at least one input that is not empty")
    if mode == "directional":
        comparison.search(worst)
    overall = worst_of(list(worst.values()))
    checked = sum(leaf.size for leaf in leaves.values())
    if mode == "directional":
        checked = directions * len(worst)
    report = replace(overall, checked=checked, inputs=tuple(worst.values()))
    if report.ok:
        return report
    raise (GradientMismatch if report.verdict == "wrong" else GradientUndecided)(report)


def _number(name: str, value: Any, most: float, least: float = 0.0) -> float:
    """Return value as a finite float from `least` to `most`."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not (least <= number <= most and number < math.inf):
        upper = "finite" if most == math.inf else f"at most {most:g}"
        raise ValueError(f"{name}={number} must be at least {least:g} and {upper}")
    return number


def _directions(value: Any) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"directions must be an integer, not {value!r}")
    number = int(value)
    if not 1 <= number <= _MOST_DIRECTIONS:
        shown = number if abs(number) < 10**20 else "a huge number"
        raise ValueError(
            f"directions={shown} must be from 1 to {_MOST_DIRECTIONS:,}; "
            "mode='full' checks every entry"
        )
    return number


def _generator(rng: Any) -> np.random.Generator:
    if isinstance(rng, np.random.Generator):
        return rng
    if not isinstance(rng, Integral) or isinstance(rng, bool):
        raise TypeError(f"rng must be a np.random.Generator or an integer, not {rng!r}")
    if int(rng) < 0:
        raise ValueError(f"rng={rng} must be at least 0")
    return np.random.default_rng(int(rng))


def _leaves(
    inputs: Sequence[Tensor | ArrayLike] | Mapping[str, Tensor], force: bool
) -> dict[str, Tensor]:
    """Return the inputs as leaves, by name or position; raise an error for an unfit input."""
    if isinstance(inputs, Tensor | np.ndarray):
        raise TypeError("inputs must be a sequence or a mapping; for a single input, write [x]")
    if not isinstance(inputs, Sequence | Mapping):
        raise TypeError(f"inputs must be a sequence or a mapping, not {inputs!r}")
    named = inputs if isinstance(inputs, Mapping) else {str(i): x for i, x in enumerate(inputs)}
    if not named:
        raise ValueError("gradcheck needs at least one input")
    leaves = {k: x if isinstance(x, Tensor) else Tensor(x) for k, x in named.items()}
    for name, leaf in leaves.items():
        if leaf.dtype != np.float64 and not (force and leaf.dtype == np.float32):
            raise TypeError(
                f"gradcheck needs float64, but input {name} is {leaf.dtype}; "
                "differences of float32 values are too coarse to judge a gradient: convert it, "
                "or pass force=True for a coarse check"
            )
        if leaf.parents != ():
            raise ValueError(f"input {name} is part of a graph; pass its .detach()")
    return leaves


def _cotangent(
    f: Callable[..., Tensor],
    leaves: dict[str, Tensor],
    given: ArrayLike | None,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """Return f's value and a cotangent for it; raise an error if f is not deterministic."""
    value = evaluate(f, leaves)
    if not np.array_equal(value, evaluate(f, leaves), equal_nan=True):
        raise ValueError(
            "f is not deterministic: it returned two different values for the same inputs; "
            "if f uses dropout, make a generator with a fixed seed inside f"
        )
    if given is None:
        return value, rng.standard_normal(value.shape)
    try:
        g = np.asarray(given)
    except ValueError:  # NumPy's message does not name the argument
        raise ValueError("the rows of the cotangent must have equal lengths") from None
    if g.shape != value.shape:
        raise ValueError(
            f"a cotangent of shape {g.shape} does not fit an output of shape {value.shape}"
        )
    if g.dtype.kind not in "biuf" or not np.isfinite(g).all():
        raise ValueError(f"the cotangent must be real and finite, not {given!r}")
    return value, g.astype(np.float64)
