"""Hypothesis strategies: arrays of every layout, shapes that fit, axes, indices, random op graphs.

Import them from `autograd.testing`. A failing example shrinks to small shapes and small numbers,
and prints as Python that you can run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from types import EllipsisType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

import autograd
from autograd.rows import Array
from autograd.tensor import Tensor, no_grad

try:
    from hypothesis import Phase, assume, given, settings
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp
    from hypothesis.strategies import DrawFn, SearchStrategy
except ImportError as error:
    raise ImportError(
        "the test tools need hypothesis, which is an extra: pip install 'npgpt2[testing]'"
    ) from error

# The other test tools import hypothesis from this file, so that only one place has the error above.
__all__ = [
    "LAYOUTS",
    "Array",
    "DrawFn",
    "Graph",
    "Phase",
    "SearchStrategy",
    "Shape",
    "arrays",
    "assume",
    "axes",
    "broadcastable",
    "broadcastable_arrays",
    "extremes",
    "fill",
    "filled",
    "given",
    "graphs",
    "hnp",
    "indices",
    "lettered_shapes",
    "literal",
    "matmul_arrays",
    "matmul_shapes",
    "nonzero",
    "numbers",
    "positive",
    "settings",
    "shapes",
    "st",
    "with_gaps",
]

Shape: TypeAlias = tuple[int, ...]

# -- numbers -------------------------------------------------------------------------------------


def numbers(low: float = -4.0, high: float = 4.0) -> SearchStrategy[float]:
    """Draw multiples of 1/8 from low to high. They are easy to read, and exact in float32."""
    return st.integers(math.ceil(8 * low), math.floor(8 * high)).map(lambda n: n / 8)


def positive() -> SearchStrategy[float]:
    """Draw numbers from 1/2 to 4."""
    return numbers(0.5)


def nonzero() -> SearchStrategy[float]:
    """Draw numbers of magnitude 1/2 to 4."""
    return positive() | positive().map(lambda x: -x)


def extremes(dtype: DTypeLike = np.float64, finite: bool = False) -> SearchStrategy[float]:
    """Draw values at which formulas often fail: +-0, the smallest and largest numbers, inf, NaN.

    >>> @given(extremes(np.float32))
    ... def test_negation_is_its_own_inverse(x):
    ...     assert np.array_equal(-(-x), x, equal_nan=True)
    >>> test_negation_is_its_own_inverse()
    """
    info = np.finfo(np.dtype(dtype))
    sizes = [0.0, 1.0, info.eps, info.tiny, info.smallest_subnormal, info.max]
    sizes += [] if finite else [math.inf, math.nan]
    return st.sampled_from([float(s) for size in sizes for s in (size, -size)])


# -- shapes and arrays ---------------------------------------------------------------------------


def shapes(
    min_dims: int = 0, max_dims: int = 3, min_side: int = 0, max_side: int = 3
) -> SearchStrategy[Shape]:
    """Draw shapes. There may be no axes, and an axis may have length 0 unless min_side > 0."""
    return hnp.array_shapes(
        min_dims=min_dims, max_dims=max_dims, min_side=min_side, max_side=max_side
    )


def broadcastable(n: int, min_side: int = 0) -> SearchStrategy[tuple[Shape, ...]]:
    """Draw n shapes that broadcast with each other."""
    return hnp.mutually_broadcastable_shapes(
        num_shapes=n, min_side=min_side, max_side=3, max_dims=3
    ).map(lambda drawn: drawn.input_shapes)


def matmul_shapes(min_side: int = 0) -> SearchStrategy[tuple[Shape, ...]]:
    """Draw two shapes for `@`: vectors, matrices, and stacks of matrices that broadcast."""
    return hnp.mutually_broadcastable_shapes(
        signature="(n?,k),(k,m?)->(n?,m?)", min_side=min_side, max_side=3, max_dims=2
    ).map(lambda drawn: drawn.input_shapes)


def lettered_shapes(
    letters: str, min_side: int = 1, max_side: int = 3
) -> SearchStrategy[tuple[Shape, ...]]:
    """Draw shapes with one letter per axis. Axes with the same letter have the same length.

    Commas separate the shapes. Nothing between two commas is the shape of a 0-d array.

    Raises
    ------
    ValueError
        There is a character that is no letter, comma or space.

    Examples
    --------
    >>> @given(lettered_shapes("ni, oi, o"))
    ... def test_shapes_of_a_linear_layer(shapes):
    ...     (n, i), weight, (o,) = shapes
    ...     assert weight == (o, i)
    >>> test_shapes_of_a_linear_layer()
    """
    each = [shape.strip() for shape in letters.split(",")]
    if not all(shape.isalpha() or not shape for shape in each):
        raise ValueError(
            f"shapes are letters with commas between them, such as 'ni, oi, o', not {letters!r}"
        )
    side = st.integers(min_side, max_side)
    sides = st.fixed_dictionaries(dict.fromkeys(sorted({*"".join(each)}), side))
    return sides.map(lambda n: tuple(tuple(n[letter] for letter in shape) for shape in each))


def with_gaps(a: Array) -> Array:
    """Return an array with the same values, which lie in memory backwards with NaN between them."""
    memory = np.full(tuple(2 * n for n in a.shape[::-1]), np.nan, dtype=a.dtype)
    backwards: tuple[Any, ...] = (*[slice(None, None, -2)] * a.ndim, ...)
    view: Array = memory.T[backwards]
    view[...] = a
    return view


def _columns_first(a: Array) -> Array:
    return np.asarray(a, order="F")  # np.asfortranarray would make a 0-d array 1-d


def _contiguous(a: Array) -> Array:
    return a


LAYOUTS: tuple[Callable[[Array], Array], ...] = (_contiguous, _columns_first, with_gaps)


def arrays(
    shape: Shape | SearchStrategy[Shape] | None = None,
    elements: SearchStrategy[float] | None = None,
    dtype: DTypeLike = np.float64,
    layouts: Sequence[Callable[[Array], Array]] = LAYOUTS,
) -> SearchStrategy[Array]:
    """Draw arrays, also 0-d and empty ones, contiguous or not.

    Parameters
    ----------
    shape
        A shape, or a strategy for shapes. By default there are up to 3 axes of length up to 3.
    elements
        Strategy for the entries; `numbers()` by default. See also `extremes`.
    dtype
        Dtype of the array.
    layouts
        Functions that return an array with the same values in some memory layout.
    """
    entries = hnp.arrays(
        np.dtype(dtype),
        shapes() if shape is None else shape,
        elements=_NUMBERS if elements is None else elements,
        fill=st.nothing(),  # with a fill, most entries are equal, and hide a missing transpose
    )
    return _laid_out(entries, layouts)


@st.composite
def _laid_out(
    draw: DrawFn, entries: SearchStrategy[Array], layouts: Sequence[Callable[[Array], Array]]
) -> Array:
    return draw(st.sampled_from(layouts))(draw(entries))


@st.composite
def filled(
    draw: DrawFn, given_shapes: SearchStrategy[tuple[Shape, ...]], *elements: SearchStrategy[float]
) -> tuple[Array, ...]:
    """Draw shapes that belong together, and an array of each shape.

    `elements` are strategies for the entries, one per array. The last one also serves all further
    arrays; without any, the entries are `numbers()`.
    """
    return fill(draw, draw(given_shapes), *elements)


def fill(
    draw: DrawFn, given_shapes: tuple[Shape, ...], *elements: SearchStrategy[float]
) -> tuple[Array, ...]:
    """Do the same as `filled`, in a composite strategy that has already drawn the shapes."""
    each = [*elements, *[elements[-1] if elements else _NUMBERS] * len(given_shapes)]
    return tuple(draw(_filled(shape, of)) for shape, of in zip(given_shapes, each, strict=False))


@cache  # because making a strategy takes longer than drawing from it
def _filled(shape: Shape, elements: SearchStrategy[float]) -> SearchStrategy[Array]:
    return arrays(shape, elements)


_NUMBERS = numbers()


def broadcastable_arrays(n: int = 2) -> SearchStrategy[tuple[Array, ...]]:
    """Draw n arrays that broadcast with each other.

    >>> @given(broadcastable_arrays(2))
    ... def test_addition_commutes(pair):
    ...     a, b = pair
    ...     assert np.array_equal(a + b, b + a)
    >>> test_addition_commutes()
    """
    return filled(broadcastable(n))


def matmul_arrays() -> SearchStrategy[tuple[Array, ...]]:
    """Draw two operands of `@`."""
    return filled(matmul_shapes())


# -- axes and indices ----------------------------------------------------------------------------


def axes(ndim: int) -> SearchStrategy[int | tuple[int, ...] | None]:
    """Draw the `axis` of a reduction, for an array of ndim axes: None, one axis, or several."""
    if ndim == 0:
        return st.sampled_from((None, ()))
    one = st.integers(-ndim, ndim - 1)
    several = st.lists(one, unique_by=lambda i: i % ndim, max_size=ndim).map(tuple)
    return st.none() | one | several


def indices(shape: Shape) -> SearchStrategy[Any]:
    """Draw an index for an array of this shape.

    It may be an integer or a slice (also negative), None, ..., an integer array with repetitions, a
    boolean mask, or a tuple that mixes them.
    """
    kinds: list[SearchStrategy[Any]] = [
        hnp.basic_indices(shape, allow_newaxis=True, max_dims=4),
        st.integers(0, len(shape)).flatmap(
            lambda k: hnp.arrays(np.bool_, shape[:k], fill=st.nothing())
        ),
    ]
    if shape and all(shape):
        kinds += [hnp.integer_array_indices(shape, result_shape=shapes(max_dims=2)), _mixed(shape)]
    return st.one_of(kinds)


@st.composite
def _mixed(draw: DrawFn, shape: Shape) -> tuple[Any, ...]:
    """Draw slices, and integer arrays of one shape, in any order."""
    together = draw(shapes(max_dims=1))

    def array(n: int) -> SearchStrategy[Any]:
        return hnp.arrays(np.int64, together, elements=st.integers(-n, n - 1))

    return tuple(draw(st.one_of(st.slices(n), array(n))) for n in shape)


def literal(value: Any) -> str:
    """Return the Python source of an array, a number, an index, or a container of them.

    >>> literal((np.array([1.0, 2.5]), slice(1, None)))
    '(np.array([1.0, 2.5]), slice(1, None, None))'
    """
    if isinstance(value, tuple):
        return f"({', '.join(map(literal, value))}{',' * (len(value) == 1)})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k!r}: {literal(v)}' for k, v in value.items())}}}"
    if isinstance(value, EllipsisType):
        return "..."
    if isinstance(value, np.ndarray):
        plain = np.array(value.tolist())
        if plain.shape == value.shape and plain.dtype == value.dtype:
            return f"np.array({value.tolist()})"
        return f"np.array({value.tolist()}, dtype=np.{value.dtype}).reshape({value.shape})"
    return repr(value)


# -- random op graphs ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Graph:
    """A random computation: leaves, and lines that each compute a new value from earlier values.

    If you call a Graph with one Tensor for each leaf, it returns the last value. Some values may be
    unused. The repr is a program that computes the same.

    Attributes
    ----------
    leaves
        The arrays of the leaves, named v0, v1, and so on.
    lines
        Expressions in these names. Each computes the next value, whose name has the next number.

    Examples
    --------
    >>> Graph((np.array([0.5, 1.0]),), ("tanh(v0)", "v0 * v1"))
    v0 = Tensor(np.array([0.5, 1.0]), requires_grad=True)
    v1 = tanh(v0)
    v2 = v0 * v1
    """

    leaves: tuple[Array, ...]
    lines: tuple[str, ...]

    def values(self, *leaves: Tensor) -> list[Tensor]:
        """Return all values in order, the leaves first."""
        values = list(leaves)
        for line in self.lines:
            values.append(_evaluate(line, values))
        return values

    def __call__(self, *leaves: Tensor) -> Tensor:
        """Return the last value."""
        return self.values(*leaves)[-1]

    def __repr__(self) -> str:
        made = [f"Tensor({literal(a)}, requires_grad=True)" for a in self.leaves]
        return "\n".join(f"v{i} = {source}" for i, source in enumerate([*made, *self.lines]))

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Make hypothesis print the repr; by default it prints dataclasses in another form."""
        printer.text(repr(self))


def _evaluate(line: str, values: Sequence[Tensor]) -> Tensor:
    names = vars(autograd) | {"np": np} | {f"v{i}": value for i, value in enumerate(values)}
    value: Tensor = eval(line, names)
    return value


_UNARY = ("-{a}", "2.0 - {a}", "{a} * {a}", "tanh({a})", "exp(tanh({a}))", "{a}.T", "{a} + {a}")
_SMOOTH = ("log(2.0 + tanh({a}))", "sqrt(1.0 + {a} * {a})", "{a}**3", "1.0 / (1.0 + {a} * {a})")
_BINARY = ("{a} + {b}", "{a} - {b}", "{a} * {b}", "{b} * {a}", "{a} / exp(tanh({b}))")


@st.composite
def graphs(draw: DrawFn, max_leaves: int = 3, max_lines: int = 8) -> Graph:
    """Draw `Graph`s of smooth primitive ops, with sharing, diamonds, dead ends and broadcasting.

    No graph has a kink, so every gradient equals its numeric derivative. A value whose entries
    exceed 100 is scaled by 0.01.
    """
    leaves = draw(st.lists(arrays(shapes(min_side=1)), min_size=1, max_size=max_leaves))
    values, lines = [Tensor(a) for a in leaves], list[str]()
    for _ in range(draw(st.integers(1, max_lines))):
        line = draw(_lines(values))
        with no_grad():
            value = _evaluate(line, values)
            if np.abs(value.data).max(initial=0.0) > 100.0:
                line = f"0.01 * ({line})"
                value = _evaluate(line, values)
        lines.append(line)
        values.append(value)
    return Graph(tuple(leaves), tuple(lines))


@st.composite
def _lines(draw: DrawFn, values: Sequence[Tensor]) -> str:
    """Draw one more line: an expression in the values."""
    i = draw(st.integers(0, len(values) - 1))
    a, x = f"v{i}", values[i]

    def partner(fits: Callable[[Shape], bool]) -> str:
        return draw(st.sampled_from([f"v{j}" for j, y in enumerate(values) if fits(y.shape)]))

    kind = draw(st.sampled_from(("unary", "binary", "reduce", "shape", "index", "join", "matmul")))
    if kind == "binary":
        b = partner(lambda other: _broadcasts(x.shape, other))
        return draw(st.sampled_from(_BINARY)).format(a=a, b=b)
    if kind == "reduce" and x.size:
        axis, keepdims = draw(axes(x.ndim)), draw(st.booleans())
        return f"{a}.{draw(st.sampled_from(('sum', 'mean')))}(axis={axis}, keepdims={keepdims})"
    if kind == "shape":
        order = draw(st.permutations(range(x.ndim)))
        return f"{a}.reshape(-1)" if draw(st.booleans()) else f"{a}.transpose({tuple(order)})"
    if kind == "index":
        return f"{a}[{literal(draw(indices(x.shape)))}]"
    if kind == "join" and x.ndim:
        axis = draw(st.integers(0, x.ndim - 1))
        rest = (*x.shape[:axis], *x.shape[axis + 1 :])
        b = partner(lambda s: len(s) == x.ndim and (*s[:axis], *s[axis + 1 :]) == rest)
        return f"concatenate([{a}, {b}], axis={axis})"
    if kind == "matmul" and x.ndim == 2:
        b = partner(lambda s: len(s) == 2 and s[1] == x.shape[1])
        return f"{a} @ {b}.T"
    return str(draw(st.sampled_from(_UNARY + _SMOOTH)).format(a=a))


def _broadcasts(a: Shape, b: Shape) -> bool:
    try:
        np.broadcast_shapes(a, b)
    except ValueError:
        return False
    return True
