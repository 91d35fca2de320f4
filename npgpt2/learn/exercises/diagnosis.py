"""From a wrong answer to what is wrong with it.

An answer is given a name only if it equals, on all draws and to nine digits, what the mistake of
that name makes. It is compared with the exercise's catalogue; with slips that fit any exercise;
with the terms of the right gradient, of which some may be missing or off by a factor; and with the
catalogue times a factor. What several mistakes make alike on all draws is named by all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from npgpt2.learn.exercises.exercise import SIZES, Arguments, Array, Exercise, Mistake

Outcome = Array | None  # of one draw; None where the function raised
Outcomes = Mapping[str, Sequence[Outcome]]  # by gradient and draw

_TOLERANCE = 1e-9  # relative to the largest entry: well above rounding, well below any mistake


def close(value: Array, right: Array) -> bool:
    """Whether two arrays are equal, shapes too, up to rounding."""
    return value.shape == right.shape and not differ(value, right).any()


def differ(value: Array, right: Array) -> Array:
    """Which entries differ by more than rounding, or are not finite."""
    scale = float(np.abs(right).max(initial=0.0)) or 1.0
    different: Array = ~(np.abs(value - right) <= _TOLERANCE * scale)
    return different


@dataclass(frozen=True)
class Finding:
    """What is wrong with a gradient, in words, and the names of the mistakes."""

    text: str
    names: tuple[str, ...]


def diagnose(exercise: Exercise, yours: Outcomes, wrong: Sequence[str]) -> dict[str, Finding]:
    """Return what is wrong with the wrong ones of all gradients; nothing where it is not known."""
    findings = {name: _diagnose(exercise, name, yours) for name in wrong}
    return {name: finding for name, finding in findings.items() if finding}


def _diagnose(exercise: Exercise, name: str, yours: Outcomes) -> Finding | None:
    catalogue, slips = _known(exercise)
    for known in (catalogue, slips):
        found = [(m, made) for m, made in known if name in made and _agree(yours[name], made[name])]
        # Better those that explain the other gradients too.
        whole = [(m, made) for m, made in found if all(_agree(yours[n], made[n]) for n in made)]
        if mistakes := [m for m, _ in whole or found]:
            text = " Or: ".join(m.lesson for m in mistakes)
            return Finding(text, tuple(m.name for m in mistakes))
    if finding := _of_terms(exercise, name, yours[name]):
        return finding
    for mistake, made in catalogue + slips:
        single = [None if m is None else [m] for m in made.get(name, ())]
        if single and (symbols := _coefficients(exercise, yours[name], single)):
            text = f"{mistake.lesson} Besides, {_off_by(symbols[0])}."
            return Finding(text, (mistake.name, f"factor {symbols[0]}"))
    return None


def _agree(yours: Sequence[Outcome], theirs: Sequence[Outcome]) -> bool:
    """Whether two answers are the same wherever the first has not raised."""
    pairs = [(y, t) for y, t in zip(yours, theirs, strict=True) if y is not None]
    return all(t is not None and close(y, t) for y, t in pairs)


# -- what is known -------------------------------------------------------------------------------

_Known = list[tuple[Mistake, dict[str, list[Outcome]]]]


@cache
def _known(exercise: Exercise) -> tuple[_Known, _Known]:
    """Return the exercise's own mistakes, and general slips, each with what it makes."""
    own, general = exercise.mistakes, _slips(exercise)
    return [(m, _made(exercise, m)) for m in own], [(m, _made(exercise, m)) for m in general]


def _made(exercise: Exercise, mistake: Mistake) -> dict[str, list[Outcome]]:
    made = []
    for arguments in exercise.draws:
        try:
            made.append(mistake.answer(*arguments))
        except (ValueError, IndexError):  # as the learner's function, where sizes differ
            made.append({})
    return {n: [m.get(n) for m in made] for n in exercise.gradients if any(n in m for m in made)}


def _slips(exercise: Exercise) -> Iterator[Mistake]:
    """Yield the slips that fit any exercise."""
    names = list(exercise.gradients)

    def changed(change: Callable[[dict[str, Array], Arguments], dict[str, Array]]) -> Any:
        def answer(*arguments: Any) -> dict[str, Array]:
            return change(dict(zip(names, exercise.reference(*arguments), strict=True)), arguments)

        return answer

    def of_ones(right: dict[str, Array], arguments: Arguments) -> dict[str, Array]:
        values = exercise.reference(np.ones_like(arguments[0]), *arguments[1:])
        return {n: v for n, v in zip(names, values, strict=True) if not close(v, right[n])}

    if next(iter(exercise.arguments)) == "g":
        yield Mistake(
            "g-forgotten",
            "g is forgotten: this is the answer for a g of ones. Asked for is the derivative times "
            "g, the gradient that comes from above.",
            changed(of_ones),
        )
        yield Mistake(
            "g-passed-on",
            "g is passed on as it is.",
            changed(lambda right, arguments: {n: arguments[0] for n in names}),
        )
    for one, other in itertools.permutations(names, 2):
        yield Mistake(
            f"{other}-for-{one}",
            f"This is {other}, not {one}: the order is {', '.join(names)}.",
            changed(lambda right, _, one=one, other=other: {one: right[other]}),  # type: ignore[misc]
        )
    for n, right in zip(names, exercise.rights[0], strict=True):
        for order in itertools.permutations(range(right.ndim)):
            if order == tuple(range(right.ndim)):
                continue
            yield Mistake(
                f"{n}-transposed{order}",
                f"{n} is transposed: its axes are in the order {order}.",
                changed(lambda right, _, n=n, order=order: {n: right[n].transpose(order)}),  # type: ignore[misc]
            )
            yield Mistake(
                f"{n}-transposed{order}-reshaped",
                f"{n} was transposed, its axes in the order {order}, and reshaped until it fitted: "
                "the right numbers in the wrong places.",
                changed(
                    lambda right, _, n=n, order=order: {  # type: ignore[misc]
                        n: right[n].transpose(order).reshape(right[n].shape)
                    }
                ),
            )


# -- terms and factors ---------------------------------------------------------------------------


def _of_terms(exercise: Exercise, name: str, yours: Sequence[Outcome]) -> Finding | None:
    """Take an answer apart into the right gradient's terms; say which have a wrong factor."""
    by_draw = []
    for arguments, rights in zip(exercise.draws, exercise.rights, strict=True):
        right = rights[list(exercise.gradients).index(name)]
        by_draw.append(exercise.terms(*arguments).get(name, {"": right}))
    symbols = _coefficients(exercise, yours, [list(terms.values()) for terms in by_draw])
    if not symbols:
        return None
    if len(set(symbols)) == 1:
        return Finding(_off_by(symbols[0]).capitalize() + ".", (f"factor {symbols[0]}",))
    off = [(s, label) for s, label in zip(symbols, by_draw[0], strict=True) if s != "1"]
    text = "; ".join(_off_by(s, f"the term {label}") for s, label in off)
    return Finding(text, tuple(f"factor {s} of {label}" for s, label in off))


def _off_by(symbol: str, what: str = "it") -> str:
    """Say by which factor something is off."""
    if symbol == "0":
        return f"{what} is 0" if what == "it" else f"{what} is missing"
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
        if not np.isfinite(value).all() or np.linalg.matrix_rank(matrix) < len(parts):
            return []  # in the second case there are several solutions, and none is sure
        c = np.linalg.lstsq(matrix, value.ravel())[0]
        if not close(value.ravel(), matrix @ c):
            return []
        here = [{s for s, f in factors.items() if close(np.array(x), f[draw])} for x in c]
        possible = [a & b for a, b in zip(possible or here, here, strict=True)]
    return (
        [" or ".join(sorted(s, key=list(factors).index)) for s in possible] if all(possible) else []
    )


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
    some = {"1": ones, **large, **{f"1/({s})": 1.0 / x for s, x in large.items()}}
    some |= {f"-{s}": -x for s, x in some.items()} | {"0": 0.0 * ones}
    factors: dict[str, Array] = {}
    for s, x in some.items():  # the simplest symbol of each
        if not any(np.allclose(x, other, rtol=1e-12, atol=0.0) for other in factors.values()):
            factors[s] = x
    return factors
