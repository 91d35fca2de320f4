"""The result of a gradient check: a sentence, and a table on request."""

from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["directional", "full", "complex"]
Verdict = Literal["right", "wrong", "cannot be judged"]
Reason = Literal["", "no path", "kink", "rounding", "domain"]

_WHY = {
    "kink": "f has a kink or a jump there; move the input away from it",
    "rounding": "the rounding errors of f hide a slope this small",
    "domain": "f is NaN or infinite there or beside it; move the input into the domain of f",
}


@dataclass(frozen=True)
class GradientReport:
    """The result of a check: its verdict, and the worst place that it found.

    `str(report)` is one sentence; `report.full()` is a table of all inputs.

    Attributes
    ----------
    mode
        The mode of the check.
    verdict
        "right", "wrong" or "cannot be judged". One wrong place makes the whole check wrong; without
        one, one place that cannot be judged makes it "cannot be judged".
    reason
        Why the verdict is not "right", if known: "no path" (the backward pass does not reach the
        input), "kink", "rounding" or "domain" (f is NaN or infinite). Otherwise "". At a kink, a
        gradient that is the mean of both slopes is "right", with the reason "kink".
    input
        Name or position of the worst input.
    index
        The worst entry of this input. None if the check compared only directions.
    analytic, numeric
        The derivative at this place: from the vjp, and computed without it.
    numeric_error
        The estimated error of `numeric`.
    tolerance
        The largest difference that is allowed there. It includes `numeric_error`.
    checked
        Number of derivatives that the check compared.
    inputs
        For each input, the report of its worst place.
    """

    mode: Mode
    verdict: Verdict
    reason: Reason
    input: str
    index: tuple[int, ...] | None
    analytic: float
    numeric: float
    numeric_error: float
    tolerance: float
    checked: int
    inputs: tuple["GradientReport", ...] = field(default=(), repr=False)

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
        """Whether the verdict is "right"."""
        return self.verdict == "right"

    def __str__(self) -> str:
        where = f"input {self.input} {self._place}"
        if self.verdict == "cannot be judged":
            elsewhere = self.mode != "complex" and self.reason != "kink"
            way_out = ", use mode='complex'" if elsewhere else ""
            return f"cannot be judged at this point{way_out}: {where}: {_WHY[self.reason]}"
        if self.reason == "no path":
            return (
                f"no path from input {self.input}: its gradient is 0, but the numeric derivative "
                f"{self._place} is {self.numeric:.6g}; look for .data, .detach() or np.asarray in f"
            )
        error = f"relative error {self.relative_error:.2g}"
        if self.ok:
            return f"gradients agree ({self.mode} check, {self.checked} derivatives): {error}"
        return (
            f"wrong gradient: {where}: analytic {self.analytic:.12g}, "
            f"numeric {self.numeric:.12g}, {error}"
        )

    @property
    def _place(self) -> str:
        return "along a random direction" if self.index is None else f"at entry {self.index}"

    def full(self) -> str:
        """Return `str(self)`, and a table with the worst place of each input.

        Examples
        --------
        >>> from autograd import gradcheck
        >>> report = gradcheck(lambda x, y: x * y, [[1.0], [2.0]], cotangent=[1.0], mode="complex")
        >>> print(report.full())
        gradients agree (complex check, 2 derivatives): relative error 0
        input  place  verdict  analytic  numeric  |difference|  allowed  estimated error of numeric
        0      (0,)   right    2         2        0             2e-09    1.2e-13
        1      (0,)   right    1         1        0             1e-09    6e-14
        """
        rows = [tuple("input place verdict analytic numeric |difference| allowed".split())]
        rows[0] += ("estimated error of numeric",)
        for row in self.inputs or (self,):
            entry = "direction" if row.index is None else str(row.index)
            verdict = f"{row.verdict} ({row.reason})" if row.reason else row.verdict
            numbers = (row.absolute_error, row.tolerance, row.numeric_error)
            rows.append(
                (row.input, entry, verdict, f"{row.analytic:.12g}", f"{row.numeric:.12g}")
                + tuple(f"{number:.2g}" for number in numbers)
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join([str(self), *lines])


class GradientMismatch(AssertionError):
    """A gradient is wrong; `.report` says where."""

    @property
    def report(self) -> GradientReport:
        """The report of the check that failed."""
        report: GradientReport = self.args[0]
        return report


class GradientUndecided(ArithmeticError):
    """A gradient cannot be judged at this point; `.report` says where and why."""

    @property
    def report(self) -> GradientReport:
        """The report of the check."""
        report: GradientReport = self.args[0]
        return report
