"""The judge's verdict on an answer, as data and as text."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Gradient:
    """The judge's findings about one gradient.

    Attributes
    ----------
    name
        Its name, such as dx.
    status
        "right", "wrong", "wrong shape", "wrong dtype", "not finite" or "not an array".
    index, yours, right
        The first wrong entry: its place, its value, and the right value. None if there is none.
    diagnosis
        The mistake in words; None if it is not one of the known mistakes.
    mistakes
        Short names of the mistakes. The answer makes all of them, unless the diagnosis says "or".
    evidence
        Measurements, one a line.
    """

    name: str
    status: str
    index: tuple[int, ...] | None = None
    yours: float | None = None
    right: float | None = None
    diagnosis: str | None = None
    mistakes: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = ""
        if self.index is not None:
            at = ", ".join(map(str, self.index))
            where = f"; first at [{at}]: yours {self.yours:.8g}, right {self.right:.8g}"
        lines = [f"{self.name}: {self.status}{where}"]
        if self.diagnosis:
            lines.append(f"  {self.diagnosis}")
        elif self.status == "wrong":
            lines.append("  The judge does not know this mistake. It measured:")
        return "\n".join(lines + [f"  - {line}" for line in self.evidence])


@dataclass(frozen=True)
class Verdict:
    """The judge's verdict on an answer; `str()` of it is the text to read.

    Attributes
    ----------
    exercise
        The name of the exercise.
    passed
        Whether the answer is right, alone and in a whole model, and changes none of its inputs.
    headline
        One line.
    gradients
        The findings about each gradient; empty if the function returned none.
    notes
        Sentences about the whole function: its faults, its dangers, and its use in a model.
    output
        The text that the answer printed while its file was read, and at its first call.
    """

    exercise: str
    passed: bool
    headline: str
    gradients: tuple[Gradient, ...] = ()
    notes: tuple[str, ...] = ()
    output: str = ""

    @property
    def diagnosis(self) -> str | None:
        """All diagnoses, each once; None if there is none."""
        found = dict.fromkeys(g.diagnosis for g in self.gradients if g.diagnosis)
        return "; ".join(found) or None

    def __str__(self) -> str:
        parts = [self.headline, *map(str, self.gradients), *self.notes]
        first: dict[str, str] = {}  # by diagnosis: the first gradient, where it is printed
        for i, g in enumerate(self.gradients, start=1):
            if g.diagnosis and first.setdefault(g.diagnosis, g.name) != g.name:
                same = f"The same mistake as in {first[g.diagnosis]}."
                parts[i] = str(replace(g, diagnosis=same))
        if self.output:
            parts.append("Your code printed:\n" + self.output.rstrip("\n"))
        return "\n".join(parts)
