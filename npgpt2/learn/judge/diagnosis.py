"""From a wrong answer to what is wrong with it.

An answer is given a name only if it equals, on all draws and to nine digits, what the mistake of
that name makes. It is compared with the exercise's catalogue; with slips that fit any exercise;
with the terms of the right gradient, of which some may be missing or off by a factor; with slips of
the pen in the answer written by hand; and with the catalogue times a factor. What several mistakes
make alike on all draws is named by all of them.
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

_TOLERANCE = 1e-9  # relative to the largest entry: well above rounding, well below any mistake


def close(value: Array, right: Array) -> bool:
    """Whether two arrays are equal, shapes too, up to rounding."""
    return value.shape == right.shape and not differ(value, right).any()


def differ(value: Array, right: Array) -> Array:
    """Which entries differ by more than rounding. NaN differs from all but NaN."""
    scale = float(np.abs(right[np.isfinite(right)]).max(initial=0.0)) or 1.0
    same = (value == right) | (np.isnan(value) & np.isnan(right))
    different: Array = ~(same | (np.abs(value - right) <= _TOLERANCE * scale))
    return different


Gradients = Callable[..., Mapping[str, Array]]


@dataclass(frozen=True, eq=False)
class Cause:
    """Something that an answer may have come out wrong by: a known mistake or a slip.

    Attributes
    ----------
    name
        Short, unique within the exercise.
    lesson
        What is wrong, in a sentence.
    gradients
        Called with the arguments of the exercise, returns the gradients that it changes, by name.
    """

    name: str
    lesson: str
    gradients: Gradients


@dataclass(frozen=True)
class Finding:
    """What is wrong with a gradient, in words, and the names of the mistakes."""

    text: str
    names: tuple[str, ...]
    mistakes: tuple[Cause, ...] = ()  # those of the catalogues

    @classmethod
    def of(cls, mistakes: Sequence[Cause]) -> Finding:
        """Any of several mistakes, which make the same; three are enough to say."""
        text = " Or: ".join(m.lesson for m in mistakes[:3])
        return cls(text, tuple(m.name for m in mistakes[:3]), tuple(mistakes))


def diagnose(exercise: Exercise, yours: Outcomes, wrong: Sequence[str]) -> dict[str, Finding]:
    """Return what is wrong with the wrong ones of all gradients; nothing where it is not known."""
    findings = {n: finding for n in wrong if (finding := _diagnose(exercise, n, yours, wrong))}
    raised = [i for i, value in enumerate(yours[wrong[0]]) if value is None] if wrong else []
    if raised and not any(_misfits(exercise, n, f.mistakes, raised) for n, f in findings.items()):
        return {}  # none of these mistakes raises, so that there is another one
    return findings


def _misfits(
    exercise: Exercise, name: str, mistakes: Sequence[Cause], draws: Sequence[int]
) -> bool:
    """Whether one of the mistakes raises, or has a wrong shape, on one of these draws."""
    i = list(exercise.gradients).index(name)
    made = [
        (_made(exercise, m, d).get(name), exercise.expected[d][i]) for m in mistakes for d in draws
    ]
    return any(value is None or value.shape != right.shape for value, right in made)


def _diagnose(
    exercise: Exercise, name: str, yours: Outcomes, wrong: Sequence[str]
) -> Finding | None:
    def alike(mistakes: Sequence[Cause]) -> list[Cause]:
        """Those that make the same of this gradient."""
        return [m for m in mistakes if _agrees(exercise, m, name, yours)]

    def whole(mistakes: Sequence[Cause]) -> list[Cause]:
        """Those that make the same of all the gradients that they change."""
        return [
            m
            for m in mistakes
            if all(_agrees(exercise, m, n, yours) for n in _touched(exercise, m))
        ]

    if not _has_wrong_numbers(exercise, name, yours):
        return None
    catalogue, general = known_mistakes(exercise), _general(exercise)
    known = alike(catalogue)
    if found := whole(known):
        return Finding.of(found)
    pens = alike(_slips(exercise))
    # Of several wrong gradients, better one slip that explains all than a mistake for each.
    if found := whole(pens) if len(wrong) > 1 else []:
        return Finding.of(found)
    if known:  # what it does to other gradients too was not done there
        found_here = Finding.of(known)
        return replace(found_here, text=f"As far as {name} goes: {found_here.text}")
    if found := alike(general):
        return Finding.of(found)
    if finding := _of_terms(exercise, name, yours[name]):
        return finding
    if pens:
        return Finding.of(whole(pens) or pens)
    for mistake in (*catalogue, *general):
        single = [_made(exercise, mistake, draw).get(name) for draw in range(len(SIZES))]
        terms = [None if term is None else [term] for term in single]
        symbols = _coefficients(exercise, yours[name], terms)
        if symbols and symbols[0] != "0":  # what is not there at all has no name
            text = f"{mistake.lesson} Besides, {_off_by(symbols[0])}."
            return Finding(text, (mistake.name, f"factor {symbols[0]}"), (mistake,))
    return None


def _agrees(exercise: Exercise, mistake: Cause, name: str, yours: Outcomes) -> bool:
    """Whether a mistake makes the same of a gradient, wherever the answer has not raised."""
    for draw, value in enumerate(yours[name]):
        if value is not None:
            theirs = _made(exercise, mistake, draw).get(name)
            if theirs is None or not close(value, theirs):
                return False
    return True


def _has_wrong_numbers(exercise: Exercise, name: str, yours: Outcomes) -> bool:
    """Whether a gradient has any: answers of NaN alone are all the same, and tell nothing."""
    i = list(exercise.gradients).index(name)
    for value, right in zip(yours[name], exercise.expected, strict=True):
        if value is not None:
            wrong: Any = value.shape != right[i].shape or differ(value, right[i])
            if np.any(np.isfinite(value) & wrong):
                return True
    return False


def _touched(exercise: Exercise, mistake: Cause) -> set[str]:
    return {n for draw in range(len(SIZES)) for n in _made(exercise, mistake, draw)}


# -- what is known -------------------------------------------------------------------------------


@cache
def _made(exercise: Exercise, mistake: Cause, draw: int) -> Mapping[str, Array]:
    """Return what a mistake makes of a draw, by gradient; nothing if it raises."""
    with np.errstate(all="ignore"):
        try:
            return mistake.gradients(*exercise.draws[draw])
        except Exception:  # as the learner's function does, where sizes differ
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
    """Yield the names of the gradients that come out wrong, on one draw at least."""
    for draw, expected in enumerate(exercise.expected):
        made = _made(exercise, cause, draw)
        for (name, value), right in zip(made.items(), expected, strict=bool(made)):
            if not close(value, right):
                yield name


def _only(names: frozenset[str], gradients: Gradients) -> Gradients:
    return lambda *arguments: {n: a for n, a in gradients(*arguments).items() if n in names}


def _by_name(exercise: Exercise, function: Answer) -> Gradients:
    """Return a function like an answer, which returns its gradients by name."""

    def gradients(*arguments: Any) -> Mapping[str, Array]:
        values = function(*arguments)
        several = values if isinstance(values, tuple) else (values,)
        arrays = (np.asarray(value, dtype=float) for value in several)
        return dict(zip(exercise.gradients, arrays, strict=True))

    return gradients


@cache
def _slips(exercise: Exercise) -> tuple[Cause, ...]:
    """Return the slips in the answer written by hand."""
    return tuple(
        Cause(
            slip.wrong,
            f"It is what comes out with `{slip.wrong}` in place of `{slip.right}`.",
            _by_name(exercise, slip.function),
        )
        for slip in slips(exercise.solution)
    )


@cache
def _general(exercise: Exercise) -> tuple[Cause, ...]:
    """Return the slips that fit any exercise."""
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
            "g is forgotten: this is the answer for a g of ones. Asked for is the derivative times "
            "g, the gradient that comes from above.",
            changed(of_ones),
        )
        for i, name in enumerate(exercise.arguments):
            if isinstance(exercise.draws[0][i], np.ndarray):
                yield Cause(
                    f"{name}-passed-on",
                    f"This is {name}, passed on as it is.",
                    changed(lambda right, given, i=i: dict.fromkeys(names, given[i])),  # type: ignore[misc]
                )
    for one, other in itertools.permutations(names, 2):
        yield Cause(
            f"{other}-for-{one}",
            f"This is {other}, not {one}: the order is {', '.join(names)}.",
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
                f"{n} was transposed, its axes {axes[0]} and {axes[1]} exchanged, and reshaped "
                "until it fitted: the right numbers in the wrong places.",
                changed(
                    lambda right, _, n=n, axes=axes: {  # type: ignore[misc]
                        n: right[n].swapaxes(*axes).reshape(right[n].shape)
                    }
                ),
            )


# -- terms and factors ---------------------------------------------------------------------------


def _of_terms(exercise: Exercise, name: str, yours: Sequence[Outcome]) -> Finding | None:
    """Take an answer apart into the right gradient's terms; say which have a wrong factor."""
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
    text = "; ".join(_off_by(s, f"the term {label}") for s, label in off)
    return Finding(f"T{text[1:]}.", tuple(f"factor {s} of {label}" for s, label in off))


def _off_by(symbol: str, what: str = "it") -> str:
    """Say by which factor something is off."""
    if symbol == "0":
        return f"{what} is {'0 everywhere' if what == 'It' else 'missing'}"
    if symbol == "-1":
        return f"{what} has the wrong sign"
    if symbol.startswith("-"):
        return f"{what} has the wrong sign, and is {symbol[1:]} times what it should be"
    return f"{what} is {symbol} times what it should be"


def _coefficients(
    exercise: Exercise, yours: Sequence[Outcome], terms: Sequence[list[Array] | None]
) -> list[str]:
    """Return the factors c with yours = sum c * term on all draws, as symbols; [] if none are."""
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
            return []  # no solution, or several, none of which is sure
        here = [{s for s, f in factors.items() if close(np.array(x), f[draw])} for x in c]
        possible = [a & b for a, b in zip(possible or here, here, strict=True)]
    if not all(possible):
        return []
    # A number rather than B/T, where all sizes are equal.
    numbers = [{s for s in several if s.lstrip("-").isdigit()} for several in possible]
    order = list(factors)
    return [
        " or ".join(sorted(few or several, key=order.index))
        for few, several in zip(numbers, possible, strict=True)
    ]


@cache
def _factors(exercise: Exercise) -> dict[str, Array]:
    """Return factors by which one is easily off: by symbol, the simplest first; one a draw."""
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
    for s, x in some.items():  # the simplest symbol of each
        if not any(np.allclose(x, other, rtol=1e-12, atol=0.0) for other in factors.values()):
            factors[s] = x
    return factors
