"""Compare one gradient with derivatives that are computed without its vjp; see `check.py`.

`Comparison` compares along random directions or entry by entry. One step is enough if it shows that
a derivative is right. Otherwise the comparison climbs a ladder of larger and smaller steps until
one of them can judge. If none can, the report says why.

A derivative may be so small that rounding hides it. Then the comparison asks whether the vjp
returns more than rounding errors. Only rounding errors pass as 0.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from autograd.difference import (
    FLOOR,
    Slope,
    apart,
    central,
    complex_step,
    norm,
    sizes,
    total,
    trusted,
)
from autograd.evaluation import at, evaluate, largest_value, rounding_errors
from autograd.rows import Array
from autograd.tensor import Tensor
from autograd.verdict import GradientReport, Mode, Reason, Verdict

Index = tuple[int, ...]


class Settings(NamedTuple):
    """How a numeric derivative is computed and compared.

    Attributes
    ----------
    step
        The first step, relative to the size of each entry.
    rtol
        The allowed difference of right derivatives, relative to them.
    limit
        The largest error of a numeric derivative that can judge, relative to the gradient.
    """

    step: float
    rtol: float
    limit: float


def settings(mode: Mode, dtype: str) -> Settings:
    """Return the default settings of a mode for float64 or float32."""
    if dtype == "float32":
        return Settings(1e-10, 1e-4, 1e-2) if mode == "complex" else Settings(1e-2, 1e-3, 1e-2)
    return Settings(1e-20, 1e-9, 1e-5) if mode == "complex" else Settings(2e-5, 1e-6, 1e-5)


# The steps that a check tries, as powers of 7.3 times `step`, until it can judge. If f rounds
# inside, steps that are multiples of each other may agree on a wrong slope: so it is no integer.
_BASE = 7.3
_POWERS = (0, -1, -2, 3, -3, -4, -5, -6, -7, -8, 1, 2, 4, 5, 6, 7, 8, 10, 12)
_FLOORS = (FLOOR, 0.0)  # first steps of similar sizes for all entries, then each entry's own size
_RETRIES = (1.0, 3.0, 0.7)  # complex steps that round differently, relative to `step`
_ASIDE = 1e-3  # how far from x complex steps are compared, relative to the entries
_HIDDEN = 16.0  # the rounding error of a vjp, in rounding errors of f
_LOST = 64.0  # the rounding error of a vjp, in eps times values of L far from x
_GROSS = 1.5e-4  # a rounding error may not show near x if it is a larger part of the gradient
_CONFIRMED = 4  # a gradient is wrong if so many steps show it, or if no other step is left
_SEARCH_LIMIT = 20_000  # larger inputs are not searched for the worst entry


@dataclass(eq=False, repr=False)  # the fewer methods it makes, the faster the import
class Comparison:
    """L(x) = <g, f(x)>, the gradients that the vjp claims, and the tolerances."""

    f: Callable[..., Tensor]
    leaves: dict[str, Tensor]
    mode: Mode
    dtype: str  # "float32" if an input has it, otherwise "float64"
    g: Array
    middle: Array  # f(x)
    gradients: dict[str, Array]
    unreached: set[str]  # the inputs that the backward pass did not reach
    step: float
    rtol: float
    atol: float

    @property
    def eps(self) -> float:
        """The machine epsilon of the dtype."""
        return float(np.finfo(self.dtype).eps)

    @property
    def limit(self) -> float:
        """The largest error of a numeric derivative that can judge, relative to the gradient."""
        return settings(self.mode, self.dtype).limit

    def directions(self, name: str, n: int, rng: np.random.Generator) -> list[GradientReport]:
        """Compare an input's gradient along n random directions."""
        x = self.leaves[name].data
        scaled = self.gradients[name] * sizes(x, FLOOR)
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
            entry = worst_of(self.entries(row.input))
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
        if self.mode == "complex" and not row.ok:
            # A complex step shows only one side of a kink.
            first_step = settings("full", self.dtype).step
            real = replace(self, mode="full", step=first_step).settled(name, index, v)
            if real.reason == "kink" or not (
                math.isfinite(row.analytic) or real.verdict == "wrong"
            ):
                return replace(real, mode="complex")
        return row

    def too_easy(self, name: str) -> bool:
        """Whether more steps are needed: if the gradient is 0, one may be too small to change f."""
        return self.mode != "complex" and not self.gradients[name].any()

    def ladder(self, name: str, index: Index | None, v: Array, size: Array) -> GradientReport:
        """Judge the derivative along size * v. Try steps until one can judge."""
        powers, needed = ((0,), 1) if self.mode == "complex" else (_POWERS, _CONFIRMED)
        moved, change, near, far = self.moved(name, size * v, v)
        nothing = 1e-10 * change / (norm(size * v) or 1.0)
        slopes: list[Slope] = []
        votes = 0  # for "wrong"
        for power in powers:
            slope = self.slope(name, index, v, size, self.step * _BASE**power, moved)
            if self.mode == "complex":
                slope = self.visible(name, index, v, size, moved, slope)
            slopes.append(slope)
            difference = abs(slope.analytic - slope.numeric)
            definite = slope.error <= 0.1 * abs(slope.numeric)
            votes += definite and not difference <= 10.0 * slope.error
            row = self.judged(name, index, slopes)
            if row.verdict == "wrong" and self.lost(row, norm(size * v)):
                return replace(row, verdict="cannot be judged", reason="rounding")
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
        below_rounding = hidden and norm(self.gradients[name] * size) <= norm(
            self.noise[0][name] * size
        )
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
        changes = (w, -w, 3.0 * w, -3.0 * w, v, -v, 1e4 * w, -1e4 * w)
        outputs = [evaluate(self.f, self.leaves, name, change) for change in changes]
        moved = [out != self.middle for out in outputs]
        depends, near = np.any(moved, axis=0), bool(np.any(moved[:4]))
        change = total(np.abs(self.g * (outputs[0] - self.middle)))
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
        x = self.leaves[name].data
        aside, sides = _ASIDE * sizes(x, FLOOR), []
        for sign in (1.0, -1.0):
            with at(self.leaves, {name: x + sign * aside}):
                sides.append(self.slope(name, index, v, size, self.step, moved).numeric)
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
            value = evaluate(self.f, self.leaves, name, 1j * w)
            numeric, error, rounding = complex_step(value, self.g, self.eps, moved)
        else:
            # The change that x really makes: x + w is rounded.
            w = np.where(size > 0.0, np.asarray(x + w, dtype=x.dtype) - x, 0.0)
            numeric, error, rounding = central(
                lambda t: evaluate(self.f, self.leaves, name, t * w),
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

    def lost(self, row: GradientReport, size: float) -> bool:
        """Whether the difference may be a rounding error, because L is much larger elsewhere.

        Only the rounding errors that are large beside the derivatives: `noise` shows the others.
        """
        large = row.absolute_error > _GROSS * max(abs(row.analytic), abs(row.numeric))
        rounding = _LOST * self.eps * self.elsewhere
        return large and row.input not in self.unreached and row.absolute_error * size <= rounding

    @cached_property
    def elsewhere(self) -> float:
        """The size of L far from x."""
        return largest_value(self.f, self.leaves, self.g)

    @cached_property
    def noise(self) -> tuple[dict[str, Array], dict[str, Array]]:
        """The rounding errors of the gradients: those that show near x, and farther from x."""
        return rounding_errors(self.f, self.leaves, self.g, self.gradients, self.eps)

    def judged(self, name: str, index: Index | None, slopes: Sequence[Slope]) -> GradientReport:
        """Judge the most trusted of the slopes."""
        best = trusted(slopes)
        scale = max(best.typical, abs(best.numeric))
        own = scale if index is None else max(abs(best.numeric), abs(best.analytic))  # not NaN
        enough = self.atol + max(self.limit, self.rtol) * scale
        error = best.error + (best.invisible if best.error + best.invisible <= enough else 0.0)
        tolerance = allowed = self.atol + self.rtol * own + error
        difference = abs(best.analytic - best.numeric)
        precise, coarse = error <= enough, 0.0
        if self.mode == "complex" and precise and tolerance < difference < math.inf:
            noise, coarse = (float(part[name][index]) for part in self.noise)
            allowed += noise
            both = max(abs(best.analytic), abs(best.numeric))
            precise = noise <= enough or both <= noise <= best.invisible
        invisible = 0.0 if name in self.unreached else best.invisible  # the vjp rounded nothing
        # Steps may agree by chance, so a wrong gradient needs three that agree.
        spread = 4.0 * _third(apart(best, slope) for slope in slopes)
        verdict: Verdict = "cannot be judged"
        reason: Reason = ""
        if not math.isfinite(error + total(self.g * self.middle)):
            reason = "domain"
        elif difference <= allowed < math.inf and precise:
            verdict = "right"
        elif (
            difference > max(allowed + 4.0 * invisible, 10.0 * best.error, coarse, spread)
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


def worst_of(rows: Sequence[GradientReport]) -> GradientReport:
    """Return the first of the worst rows: wrong before undecided before right."""
    return max(rows, key=_badness)


def _badness(row: GradientReport) -> tuple[int, float]:
    """Return the rank of the verdict, and the error relative to the tolerance; NaN is largest."""
    rank = ("right", "cannot be judged", "wrong").index(row.verdict)
    excess = row.absolute_error / (row.tolerance or 1.0)
    return rank, math.inf if math.isnan(excess) else excess


def _third(distances: Iterable[float]) -> float:
    """Return the third smallest finite number, or the largest of fewer."""
    return [0.0, *sorted(filter(math.isfinite, distances))[:3]][-1]
