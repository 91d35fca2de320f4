"""Gradient checks: compare the gradients of a vjp with derivatives computed without it.

Let L(x) = <g, f(x)> for a function f and a random cotangent g. The vjp claims to return dL/dx. A
check tests this claim by evaluating L at points near x, in one of three modes:

- "directional": compare (L(x + h v) - L(x - h v)) / 2h with <dL/dx, v>, along random unit
  directions v. Each direction takes two evaluations of f, however large x is. Use this mode for
  whole models.
- "full": do the same along each single entry of x.
- "complex": compare Im L(x + i h e_j) / h with every entry j of dL/dx. Nothing is subtracted, so h
  can be 1e-30, and the result is exact up to rounding. The ops must accept complex arrays.

The cotangent is random because special cotangents hide mistakes: with g = 1 everywhere, a vjp that
forgets g passes, and the gradient of softmax is 0.

Sources: Baydin et al., Automatic differentiation in machine learning: a survey, JMLR 18 (2018),
section 2.1 (the best h of a central difference is near the cube root of the rounding error);
Martins, Sturdza & Alonso, The complex-step derivative approximation, ACM TOMS 29 (2003).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from autograd.rows import Array
from autograd.tensor import Tensor, enable_grad, no_grad

Mode = Literal["directional", "full", "complex"]

# (h, rtol, atol). In the modes with differences, h is near the cube root of the rounding error.
_DEFAULTS = {
    "float64": {
        "directional": (6e-6, 1e-6, 1e-8),
        "full": (6e-6, 1e-6, 1e-8),
        "complex": (1e-30, 1e-11, 1e-13),
    },
    "float32": {
        "directional": (5e-3, 1e-2, 1e-3),
        "full": (5e-3, 1e-2, 1e-3),
        "complex": (1e-20, 1e-4, 1e-5),
    },
}
_SEARCH_LIMIT = 20_000  # a larger input is not searched for its worst entry


@dataclass(frozen=True)
class GradientReport:
    """The worst place of a check: the place with the largest error relative to the tolerance.

    Attributes
    ----------
    mode
        The mode of the check.
    input
        Name or position of the worst input.
    index
        The worst entry of this input. None if the check compared only directions.
    analytic, numeric
        The derivative at this place: from the vjp, and computed without it.
    tolerance
        The largest difference that is allowed there.
    checked
        Number of derivatives that the check compared.
    """

    mode: Mode
    input: str
    index: tuple[int, ...] | None
    analytic: float
    numeric: float
    tolerance: float
    checked: int

    @property
    def absolute_error(self) -> float:
        """|analytic - numeric|."""
        return abs(self.analytic - self.numeric)

    @property
    def relative_error(self) -> float:
        """absolute_error / max(|analytic|, |numeric|); 0 if both derivatives are 0."""
        return self.absolute_error / (max(abs(self.analytic), abs(self.numeric)) or 1.0)

    @property
    def ok(self) -> bool:
        """Whether all derivatives agree within the tolerance (NaN never does)."""
        return self.absolute_error <= self.tolerance

    def __str__(self) -> str:
        where = "along a random direction" if self.index is None else f"at entry {self.index}"
        return (
            f"{'gradients agree' if self.ok else 'wrong gradient'} ({self.mode} check, "
            f"{self.checked} derivatives): worst is input {self.input} {where}: "
            f"analytic {self.analytic:.12g}, numeric {self.numeric:.12g}, "
            f"absolute error {self.absolute_error:.3g} (allowed {self.tolerance:.3g}), "
            f"relative error {self.relative_error:.3g}"
        )


class GradientMismatch(AssertionError):
    """A gradient is wrong; `.report` says where."""

    @property
    def report(self) -> GradientReport:
        """The report of the check that failed."""
        report: GradientReport = self.args[0]
        return report


def gradcheck(
    f: Callable[..., Tensor],
    inputs: Sequence[Tensor | ArrayLike] | Mapping[str, Tensor],
    *,
    mode: Mode = "directional",
    cotangent: ArrayLike | None = None,
    directions: int = 3,
    rtol: float | None = None,
    atol: float | None = None,
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
        Number of random directions for each input, in directional mode.
    rtol, atol
        The tolerance is atol + rtol * scale. For an entry, scale is the larger of |analytic| and
        |numeric|. For a direction v, scale is the larger of |numeric| and the root mean square of
        the gradient's entries, the typical size of <gradient, v>. Defaults: 1e-6 and 1e-8, for the
        complex step 1e-11 and 1e-13. Defaults for float32: 1e-2 and 1e-3, for the complex step
        1e-4 and 1e-5.
    step
        h. Default: 6e-6, near the cube root of the float64 rounding error, where truncation error
        and rounding error balance; for the complex step 1e-30. Default for float32: 5e-3, for the
        complex step 1e-20.
    rng
        Seed or generator for the cotangent and the directions.
    force
        Accept float32 inputs too, and use the larger tolerances for float32.

    Returns
    -------
    GradientReport
        The worst place; all derivatives agree within the tolerance.

    Raises
    ------
    GradientMismatch
        A gradient is wrong; `.report` says where. In directional mode, the check then looks for the
        worst entry of the wrong input, if this input has at most 20,000 entries.
    TypeError
        f does not return a Tensor. Or `inputs` is a single array. Or an input is complex. Or an
        input is float32, without `force`: a difference of float32 values is accurate to about 1e-3,
        which cannot tell a correct gradient from a slightly wrong one.
    ValueError
        The mode is unknown; no input has entries; an input is not a leaf; f is not deterministic;
        the cotangent has the wrong shape; there are no directions; the step is not positive.

    Examples
    --------
    >>> x = np.array([0.5, -1.0, 2.0])
    >>> gradcheck(lambda x: (x * x).sum(), [x], mode="full").ok
    True
    """
    if mode not in _DEFAULTS["float64"]:
        known = ", ".join(_DEFAULTS["float64"])
        raise ValueError(f"mode {mode!r} is unknown; choose one of {known}")
    leaves = _leaves(inputs, force)
    coarse = any(leaf.dtype == np.float32 for leaf in leaves.values())
    defaults = _DEFAULTS["float32" if coarse else "float64"][mode]
    h, rtol, atol = (
        default if given is None else given
        for default, given in zip(defaults, (step, rtol, atol), strict=True)
    )
    if not (h > 0.0 and directions >= 1):
        raise ValueError(f"step={h} must be positive, and directions={directions} at least 1")
    rng = np.random.default_rng(rng)
    g = _cotangent(f, leaves, cotangent, rng)
    check = _Check(f, leaves, mode, g, _analytic(f, leaves, g), h, rtol, atol)
    if mode == "directional":
        rows = [row for name in leaves for row in check.directions(name, directions, rng)]
    else:
        rows = [row for name in leaves for row in check.entries(name)]
    if not rows:
        raise ValueError("gradcheck needs at least one input that is not empty")
    worst = _worst(rows)
    if worst.ok:
        return worst
    if mode == "directional" and leaves[worst.input].size <= _SEARCH_LIMIT:
        worst_entry = _worst(check.entries(worst.input))
        worst = worst if worst_entry.ok else worst_entry
    raise GradientMismatch(worst)


def _leaves(
    inputs: Sequence[Tensor | ArrayLike] | Mapping[str, Tensor], force: bool
) -> dict[str, Tensor]:
    """Return the inputs as leaves, by name or position; raise an error for an unfit input."""
    if isinstance(inputs, Tensor | np.ndarray):
        raise TypeError("inputs must be a sequence or a mapping; for a single input, write [x]")
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
) -> Array:
    """Return a cotangent for f's output; raise an error if f is not deterministic."""
    value = _evaluate(f, leaves)
    if not np.array_equal(value, _evaluate(f, leaves), equal_nan=True):
        raise ValueError(
            "f is not deterministic: it returned two different values for the same inputs; "
            "if f uses dropout, make a generator with a fixed seed inside f"
        )
    g = rng.standard_normal(value.shape) if given is None else np.asarray(given)
    if g.shape != value.shape:
        raise ValueError(
            f"a cotangent of shape {g.shape} does not fit an output of shape {value.shape}"
        )
    return g


@dataclass(eq=False, repr=False)  # the fewer methods it makes, the faster the import
class _Check:
    """L(x) = <g, f(x)>, the gradients that the vjp claims, and the tolerances."""

    f: Callable[..., Tensor]
    leaves: dict[str, Tensor]
    mode: Mode
    g: Array
    gradients: dict[str, Array]
    h: float
    rtol: float
    atol: float

    def numeric(self, name: str, v: Array) -> float:
        """Return the derivative of L with respect to one input along v, without the vjp."""
        g, h = self.g, self.h
        if self.mode == "complex":
            return float(np.sum(g * _evaluate(self.f, self.leaves, name, 1j * h * v).imag) / h)
        ahead, behind = (_evaluate(self.f, self.leaves, name, s * h * v) for s in (1.0, -1.0))
        return float(np.sum(g * (ahead - behind)) / (2.0 * h))

    def entries(self, name: str) -> list[GradientReport]:
        """Compare every entry of an input's gradient."""
        rows, gradient = [], self.gradients[name]
        for index in np.ndindex(gradient.shape):
            v = np.zeros_like(gradient)
            v[index] = 1.0
            analytic, numeric = float(gradient[index]), self.numeric(name, v)
            tolerance = self.atol + self.rtol * max(abs(analytic), abs(numeric))
            rows.append(GradientReport(self.mode, name, index, analytic, numeric, tolerance, 1))
        return rows

    def directions(self, name: str, n: int, rng: np.random.Generator) -> list[GradientReport]:
        """Compare an input's gradient along n random unit directions."""
        rows, gradient = [], self.gradients[name]
        for _ in range(n if gradient.size else 0):
            v = rng.standard_normal(gradient.shape)
            v /= np.linalg.norm(v)
            analytic, numeric = float(np.sum(gradient * v)), self.numeric(name, v)
            typical = float(np.linalg.norm(gradient)) / math.sqrt(gradient.size)  # of <gradient, v>
            tolerance = self.atol + self.rtol * max(typical, abs(numeric))
            rows.append(GradientReport(self.mode, name, None, analytic, numeric, tolerance, 1))
        return rows


def _worst(rows: list[GradientReport]) -> GradientReport:
    """Return the row with the largest error relative to its tolerance; NaN is the largest."""

    def badness(row: GradientReport) -> float:
        excess = row.absolute_error / row.tolerance if row.tolerance else row.absolute_error
        return np.inf if np.isnan(excess) else excess

    worst = max(rows, key=badness)
    return GradientReport(**{**vars(worst), "checked": len(rows)})


def _evaluate(
    f: Callable[..., Tensor], leaves: dict[str, Tensor], name: str = "", change: Any = None
) -> Array:
    """Return f(*leaves) without a graph; during the call, `change` is added to the leaf `name`."""
    if not name:
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


def _analytic(f: Callable[..., Tensor], leaves: dict[str, Tensor], g: Array) -> dict[str, Array]:
    """Return dL/dleaf from the backward pass; zeros if f does not depend on the leaf."""
    before = {k: (leaf.requires_grad, leaf.grad) for k, leaf in leaves.items()}
    try:
        for leaf in leaves.values():
            leaf.requires_grad, leaf.grad = True, None
        with enable_grad():
            out = f(*leaves.values())
        if out.requires_grad:
            out.backward(g)
        return {
            k: np.zeros_like(leaf.data) if leaf.grad is None else leaf.grad
            for k, leaf in leaves.items()
        }
    finally:
        for k, leaf in leaves.items():
            leaf.requires_grad, leaf.grad = before[k]
