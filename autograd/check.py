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
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from autograd.difference import Slope, central, complex_step, norm, sizes, total, trusted
from autograd.rows import Array
from autograd.tensor import Tensor, enable_grad, no_grad
from autograd.verdict import (
    GradientMismatch,
    GradientReport,
    GradientUndecided,
    Mode,
    Reason,
    Verdict,
)

Index = tuple[int, ...]

_MODES = ("directional", "full", "complex")
# (step, rtol, the largest error of a numeric derivative that can judge, relative to the gradient)
_DIFFERENCES = {"float64": (2e-5, 1e-6, 1e-5), "float32": (1e-2, 1e-3, 1e-2)}
_COMPLEX = {"float64": (1e-20, 1e-9, 1e-5), "float32": (1e-10, 1e-4, 1e-2)}
# The steps that a check tries, as powers of 8 times `step`, until it can judge.
_POWERS = (0, -1, -2, 3, -3, -4, -5, -6, -7, -8, 1, 2, 4, 5, 6, 7, 8, 10, 12)
_FLOORS = (0.1, 0.0)  # first steps of similar sizes for all entries, then each entry's own size
_RETRIES = (1.0, 3.0, 0.7)  # complex steps that round differently, relative to `step`
_ASIDE = 1e-3  # how far from x complex steps are compared, relative to the entries
_HIDDEN = 16.0  # the rounding error of a vjp, in rounding errors of f
_NOISE = 4.0  # the rounding error of a gradient, in its distances from a straight line
_LINES, _SHORT = 4, 1e-5  # the number of lines, and their length relative to the entries
_CONFIRMED = 4  # a gradient is wrong if so many steps show it, or if no other step is left
_LEAST_STEP = 1e-30  # smaller steps are not normal numbers in float32
_SEARCH_LIMIT = 20_000  # larger inputs are not searched for the worst entry
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
    default_step, default_rtol, limit = (_COMPLEX if mode == "complex" else _DIFFERENCES)[dtype]
    eps = float(np.finfo(dtype).eps)
    least = _LEAST_STEP if mode == "complex" else eps  # x + eps * x is rounded to x
    h = _number("step", default_step if step is None else step, least=least, most=1.0)
    rtol = _number("rtol", default_rtol if rtol is None else rtol, most=1.0)
    atol = _number("atol", atol, most=math.inf)
    rng = _generator(rng)
    middle, g = _cotangent(f, leaves, cotangent, rng)
    gradients, unreached = _analytic(f, leaves, g)
    check = _Check(f, leaves, mode, g, middle, gradients, unreached, eps, h, rtol, atol, limit)
    found = {
        name: check.directions(name, directions, rng)
        if mode == "directional"
        else check.entries(name)
        for name in leaves
    }
    worst = {name: _worst(rows) for name, rows in found.items() if rows}
    if not worst:
        raise ValueError("gradcheck needs at least one input that is not empty")
    if mode == "directional":
        check.search(worst)
    overall = _worst(list(worst.values()))
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
    value = _evaluate(f, leaves)
    if not np.array_equal(value, _evaluate(f, leaves), equal_nan=True):
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


@dataclass(eq=False, repr=False)  # the fewer methods it makes, the faster the import
class _Check:
    """L(x) = <g, f(x)>, the gradients that the vjp claims, and the tolerances."""

    f: Callable[..., Tensor]
    leaves: dict[str, Tensor]
    mode: Mode
    g: Array
    middle: Array  # f(x)
    gradients: dict[str, Array]
    unreached: set[str]  # the inputs that the backward pass did not reach
    eps: float
    step: float
    rtol: float
    atol: float
    limit: float

    def directions(self, name: str, n: int, rng: np.random.Generator) -> list[GradientReport]:
        """Compare an input's gradient along n random directions."""
        x = self.leaves[name].data
        scaled = self.gradients[name] * sizes(x, _FLOORS[0])
        rows = []
        for _ in range(n if x.size else 0):
            v = rng.standard_normal(x.shape)
            # At a right angle to the gradient, the derivative shows little: draw again.
            while abs(total(scaled * v)) < 0.3 * norm(scaled):
                v = rng.standard_normal(x.shape)
            rows.append(self.settled(name, None, v))
        return rows

    def entries(self, name: str) -> list[GradientReport]:
        """Compare every entry of an input's gradient; stop after the first confirmed wrong one.

        One step shows which entries are right. The others need more steps; the worst comes first.
        """
        x = self.leaves[name].data
        size = sizes(x, self.floors[0])

        def unit(index: Index) -> Array:
            v = np.zeros(x.shape)
            v[index] = 1.0
            return v

        first = {
            index: self.judged(name, index, [self.slope(name, index, unit(index), size, self.step)])
            for index in np.ndindex(x.shape)
        }
        easy = self.too_easy(name)
        rows = [row for row in first.values() if row.ok and not easy]
        doubtful = {index: row for index, row in first.items() if easy or not row.ok}
        for index in sorted(doubtful, key=lambda index: _badness(doubtful[index]), reverse=True):
            rows.append(self.settled(name, index, unit(index)))
            if rows[-1].verdict == "wrong":
                break
        return rows

    @property
    def floors(self) -> tuple[float, ...]:
        """The floors of the entries' sizes; for a complex step, each entry has its own size."""
        return (0.0,) if self.mode == "complex" else _FLOORS

    def search(self, worst: dict[str, GradientReport]) -> None:
        """Replace rows of directions that are not right by the input's worst entry.

        If an input is wrong, search only the worst one. A wrong direction stays if no entry is
        wrong: small errors of the entries may add up. Where no direction can be judged, the entries
        decide.
        """
        budget = _SEARCH_LIMIT
        for row in sorted(worst.values(), key=_badness, reverse=True):
            budget -= self.leaves[row.input].size
            if row.ok or budget < 0:
                return
            entry = _worst(self.entries(row.input))
            if entry.verdict == "wrong" or row.verdict != "wrong":
                worst[row.input] = entry
            if row.verdict == "wrong":
                return

    def settled(self, name: str, index: Index | None, v: Array) -> GradientReport:
        """Judge the derivative along v. If one step does not show that it is right, try more."""
        x = self.leaves[name].data
        row = self.judged(
            name, index, [self.slope(name, index, v, sizes(x, self.floors[0]), self.step)]
        )
        if row.ok and not self.too_easy(name):
            return row
        # A gradient is wrong if it is wrong with both kinds of sizes.
        rows = []
        for floor in self.floors:
            rows.append(self.ladder(name, index, v, sizes(x, floor)))
            if rows[-1].ok:
                return rows[-1]
        row = min(rows, key=_badness)
        if self.mode == "complex" and row.verdict == "wrong":
            # A complex step shows only one side of a kink.
            step = _DIFFERENCES["float32" if self.eps > 1e-10 else "float64"][0]
            real = replace(self, mode="full", step=step).settled(name, index, v)
            if real.reason == "kink" or not (
                math.isfinite(row.analytic) or real.verdict == "wrong"
            ):
                return replace(real, mode="complex")
        return row

    def too_easy(self, name: str) -> bool:
        """Whether one step is too little: all of the gradient is 0, and the step may be too small
        to change f.
        """
        return self.mode != "complex" and not self.gradients[name].any()

    def ladder(self, name: str, index: Index | None, v: Array, size: Array) -> GradientReport:
        """Judge the derivative along size * v. Try steps until one can judge."""
        powers, needed = ((0,), 1) if self.mode == "complex" else (_POWERS, _CONFIRMED)
        moved, change, near, far = self.moved(name, size * v, v)
        nothing = 1e-10 * change / (norm(size * v) or 1.0)
        slopes: list[Slope] = []
        votes = 0  # for "wrong"
        for power in powers:
            slope = self.slope(name, index, v, size, self.step * 8.0**power, moved)
            if self.mode == "complex":
                slope = self.visible(name, index, v, size, moved, slope)
            slopes.append(slope)
            apart = abs(slope.analytic - slope.numeric)
            votes += slope.error <= 0.1 * abs(slope.numeric) and not apart <= 10.0 * slope.error
            row = self.judged(name, index, slopes)
            small = abs(slope.numeric) + slope.error <= nothing
            if slope.typical == 0.0 and (small or (math.isfinite(slope.error) and not far)):
                return replace(row, verdict="right", reason="")
            # If the vjp claims a slope, but the first step does not change f, then f is rounded to
            # coarse values inside, or it is a staircase. Larger steps cannot tell.
            first = slopes[0]
            flat = first.numeric == 0.0 and self.step * abs(first.analytic) > first.invisible
            if flat and not near and far and self.mode != "complex":
                return replace(row, verdict="cannot be judged", reason="rounding")
            if (row.ok and not flat) or (row.verdict == "wrong" and votes >= needed):
                return row
        if row.ok:
            return replace(row, verdict="cannot be judged", reason="rounding")
        best = trusted(slopes)
        # If the vjp returns nothing but rounding errors, and rounding hides the slope, both are as
        # good as 0. At a kink, the mean of both slopes is accepted.
        unclear = self.mode == "complex" or abs(best.numeric) <= max(best.error, abs(best.analytic))
        hidden = unclear and max(best.typical, best.error / 1e3) <= best.invisible < math.inf
        noise = norm(self.noise[name] * size)
        below_rounding = hidden and norm(self.gradients[name] * size) <= noise
        mean = row.reason == "kink" and row.absolute_error <= self.atol + self.rtol * max(
            best.typical, abs(best.numeric)
        )
        if below_rounding or mean:
            return replace(row, verdict="right", reason=row.reason if mean else "")
        if sum(math.isfinite(slope.error) for slope in slopes) < needed:
            return replace(row, verdict="cannot be judged", reason="domain")
        return row

    def moved(self, name: str, w: Array, v: Array) -> tuple[Array, float, bool, bool]:
        """Return which outputs depend on an input, how much w changes L, and where f changes.

        f may change near x, if x changes by its own size, or only far from x, or nowhere. An output
        depends on the input if it changes somewhere. If none does, all may depend on it.
        """
        changes = (w, 3.0 * w, -3.0 * w, v, -v, 1e4 * w, -1e4 * w)
        outputs = [_evaluate(self.f, self.leaves, name, change) for change in changes]
        moved = [out != self.middle for out in outputs]
        change = total(np.abs(self.g * (outputs[0] - self.middle)))
        depends, near = np.any(moved, axis=0), bool(np.any(moved[:3]))
        far = bool(depends.any())
        return depends if far else ~depends, change, near, far

    def visible(
        self, name: str, index: Index | None, v: Array, size: Array, moved: Array, slope: Slope
    ) -> Slope:
        """Return the slope of a complex step; little is invisible if it is no rounding error.

        The imaginary part of f may be more accurate than its real part. Then other steps give the
        same slope, but other rounding errors; and the slopes on both sides of x lie on a line with
        it, up to rounding. `analytic` may be a rounding error: then it is far from `numeric`.
        """
        steps = [self.step * factor for factor in _RETRIES]
        found = [self.slope(name, index, v, size, h, moved).numeric for h in steps]
        leaf, sides = self.leaves[name], list[float]()
        x, aside = leaf.data, _ASIDE * sizes(leaf.data, _FLOORS[0])
        try:
            for sign in (1.0, -1.0):
                leaf.data = np.asarray(x + sign * aside, dtype=x.dtype)
                sides.append(self.slope(name, index, v, size, self.step, moved).numeric)
        finally:
            leaf.data = x
        spread = max(found) - min(found)
        alike = abs(slope.analytic - slope.numeric) < 0.5 * abs(slope.numeric)
        definite = abs(slope.numeric) > 1e3 * spread and (alike or name in self.unreached)
        bent = abs(sides[0] - 2.0 * slope.numeric + sides[1])
        rounded = max(bent, 0.25 * self.limit * abs(slope.numeric))
        return slope._replace(invisible=min(slope.invisible, rounded)) if definite else slope

    def slope(
        self,
        name: str,
        index: Index | None,
        v: Array,
        size: Array,
        h: float,
        moved: Array | bool = False,
    ) -> Slope:
        """Return the derivative along h * size * v, from the vjp and without it."""
        x, gradient, w = self.leaves[name].data, self.gradients[name], h * size * v
        if self.mode == "complex":
            value = _evaluate(self.f, self.leaves, name, 1j * w)
            numeric, error, rounding = complex_step(value, self.g, self.eps, moved)
        else:
            # The change that x really makes: x + w is rounded.
            w = np.where(size > 0.0, np.asarray(x + w, dtype=x.dtype) - x, 0.0)
            numeric, error, rounding = central(
                lambda t: _evaluate(self.f, self.leaves, name, t * w),
                self.middle,
                self.g,
                self.eps,
                moved,
            )
        length = norm(w) or 1.0  # 0 if only infinite entries would change
        analytic, typical = total(gradient * w) / length, norm(gradient * size) * h / length
        if index is not None:
            analytic, typical = float(gradient[index]), typical / math.sqrt(x.size)
        hidden = _HIDDEN * rounding * h / length  # if x changed by its own size
        error = error / length + 256.0 * self.eps * typical
        if (size * v).any() and not w.any():  # the step is lost in rounding
            error = math.inf
        return Slope(w / length, length, analytic, numeric / length, error, typical, hidden)

    @cached_property
    def noise(self) -> dict[str, Array]:
        """The rounding errors of the gradients: how far they are from a straight line.

        The line goes through the gradients at two points, equally far from x on both sides.
        """
        rng = np.random.default_rng(0)
        original = {name: leaf.data for name, leaf in self.leaves.items()}
        noise = {name: np.zeros(x.shape) for name, x in original.items()}
        try:
            for _ in range(_LINES):
                steps = {k: _SHORT * rng.standard_normal(x.shape) for k, x in original.items()}
                sides = []
                for sign in (1.0, -1.0):
                    for k, x in original.items():
                        moved = x + sign * steps[k] * sizes(x, _FLOORS[0])
                        self.leaves[k].data = np.asarray(moved, dtype=x.dtype)
                    sides.append(_analytic(self.f, self.leaves, self.g)[0])
                for k, gradient in self.gradients.items():
                    apart = np.abs(sides[0][k] - 2.0 * gradient + sides[1][k])
                    noise[k] = np.fmax(noise[k], _NOISE * apart)  # fmax: not NaN
        finally:
            for name, x in original.items():
                self.leaves[name].data = x
        return noise

    def noise_of(self, name: str, index: Index | None, slope: Slope) -> float:
        """Return the rounding error of `slope.analytic`."""
        noise = self.noise[name]
        return norm(noise * slope.direction) if index is None else float(noise[index])

    def judged(self, name: str, index: Index | None, slopes: Sequence[Slope]) -> GradientReport:
        """Judge the most trusted of the slopes."""
        best = trusted(slopes)
        scale = max(best.typical, abs(best.numeric))
        own = scale if index is None else max(abs(best.numeric), abs(best.analytic))  # not NaN
        enough = self.atol + max(self.limit, self.rtol) * scale
        error = best.error + (best.invisible if best.error + best.invisible <= enough else 0.0)
        tolerance = allowed = self.atol + self.rtol * own + error
        difference = abs(best.analytic - best.numeric)
        precise = error <= enough
        if self.mode == "complex" and precise and tolerance < difference < math.inf:
            noise = self.noise_of(name, index, best)
            allowed += noise
            precise = noise <= enough or max(abs(best.analytic), abs(best.numeric)) <= noise
        invisible = 0.0 if name in self.unreached else best.invisible  # the vjp rounded nothing
        verdict: Verdict = "cannot be judged"
        reason: Reason = ""
        if not math.isfinite(error + total(self.g * self.middle)):
            reason = "domain"
        elif difference <= allowed < math.inf and precise:
            verdict = "right"
        elif (
            difference > max(allowed + 4.0 * invisible, 10.0 * best.error)
            if math.isfinite(difference)
            else precise
        ):
            verdict, reason = "wrong", "no path" if name in self.unreached else ""
        else:
            # Of smaller steps, the rounding error is larger; a kink stays as it is.
            smaller = [s.error for s in slopes if s.length < best.length and s.error < math.inf]
            hidden = self.mode == "complex" or max(smaller, default=0.0) > 30.0 * best.error
            reason = "rounding" if precise or hidden else "kink"
        return GradientReport(
            self.mode,
            verdict,
            reason,
            name,
            index,
            best.analytic,
            best.numeric,
            best.error,
            tolerance,
            1,
        )


def _worst(rows: Sequence[GradientReport]) -> GradientReport:
    """Return the first of the worst rows: wrong before undecided before right."""
    return max(rows, key=_badness)


def _badness(row: GradientReport) -> tuple[int, float]:
    """Return the rank of the verdict, and the error relative to the tolerance; NaN is largest."""
    rank = ("right", "cannot be judged", "wrong").index(row.verdict)
    excess = row.absolute_error / (row.tolerance or 1.0)
    return rank, math.inf if math.isnan(excess) else excess


def _evaluate(
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
    leaf = leaves[name]
    original = leaf.data
    # Keep the leaf's precision: otherwise a forced check of float32 would compute in float64.
    kind = original.dtype if np.isrealobj(change) else np.result_type(original, np.complex64)
    leaf.data = np.asarray(original + change, dtype=kind)
    try:
        return _evaluate(f, leaves)
    finally:
        leaf.data = original


def _analytic(
    f: Callable[..., Tensor], leaves: dict[str, Tensor], g: Array
) -> tuple[dict[str, Array], set[str]]:
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
