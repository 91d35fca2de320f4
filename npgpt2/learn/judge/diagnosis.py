"""Find the mistake in a wrong answer.

The judge names a mistake only if it gives exactly the learner's gradient: on all draws of the
arguments, to nine digits. It compares the answer with

- the known mistakes of the exercise;
- slips that fit any exercise, such as a forgotten g;
- the terms of the right gradient, each with a factor, which may be 0;
- slips of the pen in the solution, such as another sign;
- the known mistakes and the slips that fit any exercise, times a factor.

If several mistakes give the same gradient on all draws, the finding lists up to three of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from autograd import Array
from npgpt2.learn.injection import lines_of, replaced_lines, with_lines
from npgpt2.learn.judge.exercise import SIZES, Answer, Arguments, Exercise
from npgpt2.learn.judge.slips import slips

Outcome = Array | None  # of one draw; None where the function raised
Outcomes = Mapping[str, Sequence[Outcome]]  # by gradient and draw

_TOLERANCE = 1e-9  # relative to the largest entry: far above rounding, far below any mistake


def close(value: Array, right: Array) -> bool:
    """Whether two arrays are equal, shapes too, up to rounding."""
    return value.shape == right.shape and not differ(value, right).any()


def differ(value: Array, right: Array) -> Array:
    """Return which entries differ by more than rounding. NaN equals NaN alone."""
    scale = float(np.abs(right[np.isfinite(right)]).max(initial=0.0)) or 1.0
    same = (value == right) | (np.isnan(value) & np.isnan(right))
    different: Array = ~(same | (np.abs(value - right) <= _TOLERANCE * scale))
    return different


Gradients = Callable[..., Mapping[str, Array]]


@dataclass(frozen=True, eq=False)
class Cause:
    """A possible cause of a wrong answer: a known mistake or a slip."""

    name: str  # unique within the exercise
    lesson: str
    gradients: Gradients  # the gradients that this cause makes wrong, by name


@dataclass(frozen=True)
class Finding:
    """The mistake in a gradient: a sentence, and the names of the possible causes."""

    text: str
    names: tuple[str, ...]
    mistakes: tuple[Cause, ...] = ()  # empty if only factors were found

    @classmethod
    def of(cls, mistakes: Sequence[Cause]) -> Finding:
        """Return the finding for mistakes that give the same gradient."""
        text = " Or: ".join(m.lesson for m in mistakes[:3])
        return cls(text, tuple(m.name for m in mistakes[:3]), tuple(mistakes))


def diagnose(exercise: Exercise, yours: Outcomes, wrong: Sequence[str]) -> dict[str, Finding]:
    """Return a finding for each of the wrong gradients, by name, if its mistake is known."""
    findings = {n: finding for n in wrong if (finding := _diagnose(exercise, n, yours, wrong))}
    raised = [i for i, value in enumerate(yours[wrong[0]]) if value is None] if wrong else []
    if raised and not any(_misfits(exercise, n, f.mistakes, raised) for n, f in findings.items()):
        return {}  # the answer raised, but these mistakes do not: there is another mistake
    return findings


def _misfits(
    exercise: Exercise, name: str, mistakes: Sequence[Cause], draws: Sequence[int]
) -> bool:
    """Whether one of the mistakes raises, or gives a wrong shape, on one of these draws."""
    i = list(exercise.gradients).index(name)
    made = [
        (_made(exercise, m, d).get(name), exercise.expected[d][i]) for m in mistakes for d in draws
    ]
    return any(value is None or value.shape != right.shape for value, right in made)


def _diagnose(
    exercise: Exercise, name: str, yours: Outcomes, wrong: Sequence[str]
) -> Finding | None:
    def agreeing(mistakes: Sequence[Cause]) -> list[Cause]:
        """Return the mistakes that give the same values for this gradient."""
        return [m for m in mistakes if _agrees(exercise, m, name, yours)]

    def whole(mistakes: Sequence[Cause]) -> list[Cause]:
        """Return the mistakes that give the same values for every gradient that they change."""
        return [
            m
            for m in mistakes
            if all(_agrees(exercise, m, n, yours) for n in _touched(exercise, m))
        ]

    if not _has_wrong_numbers(exercise, name, yours):
        return None
    catalogue, general = known_mistakes(exercise), _general(exercise)
    known = agreeing(catalogue)
    if found := whole(known):
        return Finding.of(found)
    pens = agreeing(_slips(exercise))
    # If several gradients are wrong, prefer one slip that explains all to a mistake for each.
    if found := whole(pens) if len(wrong) > 1 else []:
        return Finding.of(found)
    if known:  # the mistake would change other gradients too, but they do not agree with it
        found_here = Finding.of(known)
        return replace(found_here, text=f"In {name} only: {found_here.text}")
    if found := agreeing(general):
        return Finding.of(found)
    if finding := _of_terms(exercise, name, yours[name]):
        return finding
    if pens:
        return Finding.of(whole(pens) or pens)
    for mistake in (*catalogue, *general):
        single = [_made(exercise, mistake, draw).get(name) for draw in range(len(SIZES))]
        terms = [None if term is None else [term] for term in single]
        symbols = _coefficients(exercise, yours[name], terms)
        if symbols and symbols[0] != "0":  # times 0, all mistakes give the same
            text = f"{mistake.lesson} In addition, {_off_by(symbols[0])}."
            return Finding(text, (mistake.name, f"factor {symbols[0]}"), (mistake,))
    return None


def _agrees(exercise: Exercise, mistake: Cause, name: str, yours: Outcomes) -> bool:
    """Whether a mistake gives the same gradient, on all draws on which the answer did not raise."""
    for draw, value in enumerate(yours[name]):
        if value is not None:
            theirs = _made(exercise, mistake, draw).get(name)
            if theirs is None or not close(value, theirs):
                return False
    return True


def _has_wrong_numbers(exercise: Exercise, name: str, yours: Outcomes) -> bool:
    """Whether a gradient has finite wrong entries. NaN alone says nothing about its cause."""
    i = list(exercise.gradients).index(name)
    for value, right in zip(yours[name], exercise.expected, strict=True):
        if value is not None:
            wrong: Any = value.shape != right[i].shape or differ(value, right[i])
            if np.any(np.isfinite(value) & wrong):
                return True
    return False


def _touched(exercise: Exercise, mistake: Cause) -> set[str]:
    """Return the names of the gradients that a mistake changes."""
    return {n for draw in range(len(SIZES)) for n in _made(exercise, mistake, draw)}


# -- known mistakes and slips --------------------------------------------------------------------


@cache
def _made(exercise: Exercise, mistake: Cause, draw: int) -> Mapping[str, Array]:
    """Return the gradients that a mistake gives on a draw, by name; none if it raises."""
    with np.errstate(all="ignore"):
        try:
            return mistake.gradients(*exercise.draws[draw])
        except Exception:  # for example, a wrong transposition raises if the sizes differ
            return {}


@cache
def known_mistakes(exercise: Exercise) -> tuple[Cause, ...]:
    """Return the known mistakes of an exercise, each with the gradients that it changes."""
    lines = lines_of(exercise.solution)
    causes = []
    for mistake in exercise.mistakes:
        wrong = with_lines(exercise.solution, replaced_lines(lines, mistake.wrong), "mistake")
        everything = Cause(mistake.name, mistake.lesson, _by_name(exercise, wrong))
        changed = frozenset(_changed(exercise, everything))
        causes.append(replace(everything, gradients=_only(changed, everything.gradients)))
    return tuple(causes)


def _changed(exercise: Exercise, cause: Cause) -> Iterator[str]:
    """Yield the names of the gradients that come out wrong, once for each draw."""
    for draw, expected in enumerate(exercise.expected):
        made = _made(exercise, cause, draw)
        for (name, value), right in zip(made.items(), expected, strict=bool(made)):
            if not close(value, right):
                yield name


def _only(names: frozenset[str], gradients: Gradients) -> Gradients:
    return lambda *arguments: {n: a for n, a in gradients(*arguments).items() if n in names}


def _by_name(exercise: Exercise, function: Answer) -> Gradients:
    """Return a function that calls an answer and returns the gradients by name."""

    def gradients(*arguments: Any) -> Mapping[str, Array]:
        values = function(*arguments)
        several = values if isinstance(values, tuple) else (values,)
        arrays = (np.asarray(value, dtype=float) for value in several)
        return dict(zip(exercise.gradients, arrays, strict=True))

    return gradients


@cache
def _slips(exercise: Exercise) -> tuple[Cause, ...]:
    """Return the slips of the pen in the solution."""
    return tuple(
        Cause(
            slip.wrong,
            f"You get this result with `{slip.wrong}` in place of `{slip.right}`.",
            _by_name(exercise, slip.function),
        )
        for slip in slips(exercise.solution)
    )


@cache
def _general(exercise: Exercise) -> tuple[Cause, ...]:
    return tuple(_of_any(exercise))


def _of_any(exercise: Exercise) -> Iterator[Cause]:
    """Yield the slips that fit any exercise."""
    names = list(exercise.gradients)

    def changed(change: Callable[[dict[str, Array], Arguments], dict[str, Array]]) -> Any:
        def gradients(*arguments: Any) -> dict[str, Array]:
            return change(dict(zip(names, exercise.reference(*arguments), strict=True)), arguments)

        return gradients

    def of_ones(right: dict[str, Array], arguments: Arguments) -> dict[str, Array]:
        values = exercise.reference(np.ones_like(arguments[0]), *arguments[1:])
        return {n: v for n, v in zip(names, values, strict=True) if not close(v, right[n])}

    if next(iter(exercise.arguments)) == "g":
        yield Cause(
            "g-forgotten",
            "g is forgotten: you get this result if g is 1 everywhere. The answer must use g, the "
            "gradient of the loss with respect to the output.",
            changed(of_ones),
        )
        for i, name in enumerate(exercise.arguments):
            if isinstance(exercise.draws[0][i], np.ndarray):
                yield Cause(
                    f"{name}-passed-on",
                    f"This is {name} itself, unchanged.",
                    changed(lambda right, given, i=i: dict.fromkeys(names, given[i])),  # type: ignore[misc]
                )
    for one, other in itertools.permutations(names, 2):
        yield Cause(
            f"{other}-for-{one}",
            f"This is {other}, not {one}. Return the gradients in the order {', '.join(names)}.",
            changed(lambda right, _, one=one, other=other: {one: right[other]}),  # type: ignore[misc]
        )
    for n, right in zip(names, exercise.expected[0], strict=True):
        for axes in itertools.combinations(range(right.ndim), 2):
            yield Cause(
                f"{n}-transposed{axes}",
                f"{n} is transposed: its axes {axes[0]} and {axes[1]} are exchanged.",
                changed(lambda right, _, n=n, axes=axes: {n: right[n].swapaxes(*axes)}),  # type: ignore[misc]
            )
            yield Cause(
                f"{n}-transposed{axes}-reshaped",
                f"{n} is transposed, with its axes {axes[0]} and {axes[1]} exchanged, and then "
                "reshaped to the right shape: it has the right numbers in the wrong places.",
                changed(
                    lambda right, _, n=n, axes=axes: {  # type: ignore[misc]
                        n: right[n].swapaxes(*axes).reshape(right[n].shape)
                    }
                ),
            )


# -- terms and factors ---------------------------------------------------------------------------


def _of_terms(exercise: Exercise, name: str, yours: Sequence[Outcome]) -> Finding | None:
    """Write an answer as a sum of the right gradient's terms; name those with a wrong factor."""
    by_draw = []
    for arguments, rights in zip(exercise.draws, exercise.expected, strict=True):
        right = rights[list(exercise.gradients).index(name)]
        by_draw.append(exercise.terms(*arguments).get(name, {"": right}))
    symbols = _coefficients(exercise, yours, [list(terms.values()) for terms in by_draw])
    if not symbols:
        return None
    if len(set(symbols)) == 1:
        return Finding(_off_by(symbols[0], "It") + ".", (f"factor {symbols[0]}",))
    off = [(s, label) for s, label in zip(symbols, by_draw[0], strict=True) if s != "1"]
    terms = [label if label.startswith("the ") else f"the term {label}" for _, label in off]
    text = "; ".join(_off_by(s, term) for (s, _), term in zip(off, terms, strict=True))
    return Finding(f"T{text[1:]}.", tuple(f"factor {s} of {label}" for s, label in off))


def _off_by(symbol: str, what: str = "it") -> str:
    """Return a sentence, without its full stop, about the wrong factor of something."""
    if symbol == "0":
        return f"{what} is {'0 everywhere' if what == 'It' else 'missing'}"
    if symbol == "-1":
        return f"{what} has the wrong sign"
    if symbol.startswith("-"):
        return f"{what} has the wrong sign, and an extra factor of {symbol[1:]}"
    return f"{what} has an extra factor of {symbol}"


def _coefficients(
    exercise: Exercise, yours: Sequence[Outcome], terms: Sequence[list[Array] | None]
) -> list[str]:
    """Return symbols for the factors c, where yours = sum of c * term on all draws; [] if none."""
    factors = _factors(exercise)
    possible: list[set[str]] = []
    for draw, (value, parts) in enumerate(zip(yours, terms, strict=True)):
        if value is None:
            continue
        if parts is None or any(part.shape != value.shape for part in parts):
            return []
        matrix = np.stack([part.ravel() for part in parts], axis=1)
        if not (np.isfinite(value).all() and np.isfinite(matrix).all()):
            return []
        c, _, rank, _ = np.linalg.lstsq(matrix, value.ravel())
        if rank < len(parts) or not close(value.ravel(), matrix @ c):
            return []  # no solution, or more than one
        here = [{s for s, f in factors.items() if close(np.array(x), f[draw])} for x in c]
        possible = [a & b for a, b in zip(possible or here, here, strict=True)]
    if not all(possible):
        return []
    # Prefer a number to a ratio such as B/T: they are equal if only draws of equal sizes ran.
    numbers = [{s for s in several if s.lstrip("-").isdigit()} for several in possible]
    order = list(factors)
    return [
        " or ".join(sorted(few or several, key=order.index))
        for few, several in zip(numbers, possible, strict=True)
    ]


@cache
def _factors(exercise: Exercise) -> dict[str, Array]:
    """Return factors of easy mistakes, by symbol, the simplest first; each has one value a draw."""
    ones = np.ones(len(SIZES))
    letters = {s: np.array([getattr(n, s) for n in SIZES], dtype=float) for s in exercise.letters}
    given = [exercise.factors(*arguments) for arguments in exercise.draws]
    pairs = list(itertools.combinations(letters, 2))
    large = {s: float(s) * ones for s in ("2", "3", "4")} | letters
    large |= {f"{a}*{b}": letters[a] * letters[b] for a, b in pairs}
    large |= {f"sqrt({s})": np.sqrt(x) for s, x in large.items()}
    large |= {f"{s}**2": x * x for s, x in letters.items()}
    large |= {f"{a}/{b}": letters[a] / letters[b] for a, b in pairs}
    large |= {s: np.array([g[s] for g in given]) for s in given[0]}
    inverse = {f"1/({s})" if "*" in s else f"1/{s}": 1.0 / x for s, x in large.items()}
    some = {"1": ones, **large, **inverse}
    some |= {f"-{s}": -x for s, x in some.items()} | {"0": 0.0 * ones}
    factors: dict[str, Array] = {}
    for s, x in some.items():  # keep the simplest symbol of each factor
        if not any(np.allclose(x, other, rtol=1e-12, atol=0.0) for other in factors.values()):
            factors[s] = x
    return factors
