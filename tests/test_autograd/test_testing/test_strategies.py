"""The strategies draw valid examples of every kind, and shrink to the smallest example."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from autograd import Tensor
from autograd.testing import (
    arrays,
    axes,
    broadcastable_arrays,
    extremes,
    graphs,
    indices,
    lettered_shapes,
    literal,
    matmul_arrays,
    nonzero,
    numbers,
    positive,
    shapes,
)
from autograd.testing.strategies import LAYOUTS

MANY = settings(max_examples=2000, phases=[Phase.generate, Phase.shrink])
ONCE = settings(max_examples=300, phases=[Phase.generate], derandomize=True, database=None)
SHAPES = shapes().flatmap(lambda shape: st.tuples(st.just(shape), indices(shape)))


@cache
def sample(strategy):
    """Return 300 examples."""
    drawn = []
    ONCE(given(strategy())(lambda x: drawn.append(x)))()
    return drawn


@given(numbers(-1.0, 2.0), positive(), nonzero())
def test_numbers_lie_in_their_range_and_are_exact_in_float32(x, p, n):
    assert -1.0 <= x <= 2.0 and 0.5 <= p <= 4.0 and 0.5 <= abs(n) <= 4.0
    assert all(float(np.float32(number)) == number for number in (x, p, n))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extremes_are_the_ends_of_the_dtype(dtype):
    info = np.finfo(dtype)
    drawn = sample(partial(extremes, dtype))
    assert {0.0, info.max, -info.max, info.smallest_subnormal, np.inf, -np.inf} <= set(drawn)
    assert any(map(np.isnan, drawn)) and any(x == 0.0 and np.signbit(x) for x in drawn)


@given(extremes(np.float32, finite=True))
def test_finite_extremes_are_finite(x):
    assert np.isfinite(x) and float(np.float32(x)) == x


def is_backwards(a):
    return any(step < 0 for step in a.strides)


KINDS = {
    "0-d": lambda a: a.ndim == 0,
    "empty": lambda a: a.size == 0,
    "empty of two axes": lambda a: a.ndim == 2 and a.size == 0,
    "contiguous": lambda a: a.flags.c_contiguous and a.size > 3,
    "columns first": lambda a: a.flags.f_contiguous and not a.flags.c_contiguous,
    "backwards with gaps": lambda a: not a.flags.forc and is_backwards(a) and a.size > 3,
    "three axes": lambda a: a.ndim == 3 and a.size > 3,
    "negative": lambda a: bool((a < 0).any()),
    "all different": lambda a: a.size > 3 and np.unique(a).size == a.size,
}


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_of_every_kind_are_drawn(kind):
    assert any(map(KINDS[kind], sample(arrays)))


@given(arrays((2, 3), dtype=np.float32))
def test_arrays_have_the_shape_and_dtype_asked_for(a):
    assert a.shape == (2, 3) and a.dtype == np.float32 and np.isfinite(a).all()


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (1, 0, 2)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_keeps_shape_and_values(layout, shape):
    a = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    laid_out = layout(a)
    assert laid_out.dtype == a.dtype and laid_out.shape == shape
    assert np.array_equal(laid_out, a)


@given(lettered_shapes("nc, c,, cnn", min_side=0))
def test_axes_with_the_same_letter_have_the_same_length(drawn):
    (n, c), vector, scalar, cube = drawn
    assert vector == (c,) and scalar == () and cube == (c, n, n)
    assert 0 <= n <= 3 and 0 <= c <= 3


def test_axes_with_different_letters_have_different_lengths():
    assert {(1, 3), (3, 1), (2, 2)} <= {shape for (shape,) in sample(letters)}


def letters():
    return lettered_shapes("nc")


@pytest.mark.parametrize("wrong", ["n3", "n->c", "(n,c)", "n.c", "n c"])
def test_shapes_that_are_no_letters_are_refused(wrong):
    with pytest.raises(ValueError, match="shapes are letters with commas between them, such as"):
        lettered_shapes(wrong)


def test_arrays_shrink_to_the_smallest():
    assert find(arrays(), lambda a: a.size > 0 and a.max() > 1.0, settings=MANY) == 1.125


@given(broadcastable_arrays(3))
def test_broadcastable_arrays_broadcast(drawn):
    assert len(drawn) == 3 and np.broadcast_shapes(*(a.shape for a in drawn)) is not None


@pytest.mark.parametrize("strategy", [broadcastable_arrays, matmul_arrays])
def test_operands_of_different_numbers_of_axes_are_drawn(strategy):
    assert {np.sign(a.ndim - b.ndim) for a, b in sample(strategy)} == {-1, 0, 1}


@given(matmul_arrays())
def test_matmul_arrays_can_be_multiplied(pair):
    assert np.isfinite(pair[0] @ pair[1]).all()


@given(st.integers(0, 3).flatmap(lambda n: st.tuples(st.just(n), axes(n))))
def test_axes_are_taken_by_reductions(drawn):
    ndim, axis = drawn
    assert np.ones((2,) * ndim).sum(axis=axis).ndim <= ndim


def test_every_kind_of_axis_is_drawn():
    assert {None, 0, 1, -1, -2, (), (0, -1), (1, 0)} <= set(sample(partial(axes, 2)))


@given(SHAPES)
def test_indices_are_taken_by_arrays(drawn):
    shape, index = drawn
    taken = np.zeros(shape)[index]
    assert np.array_equal(taken, np.zeros(taken.shape))


def parts(index):
    return index if isinstance(index, tuple) else (index,)


INDEX_KINDS = {
    "negative integer": lambda i: any(isinstance(p, int) and p < 0 for p in parts(i)),
    "slice backwards": lambda i: any(isinstance(p, slice) and (p.step or 1) < 0 for p in parts(i)),
    "ellipsis": lambda i: any(p is ... for p in parts(i)),
    "new axis": lambda i: any(p is None for p in parts(i)),
    "mask": lambda i: isinstance(i, np.ndarray) and i.dtype == bool and i.any(),
    "integer array with a repetition": lambda i: any(
        isinstance(p, np.ndarray) and p.dtype != bool and p.size > np.unique(p).size
        for p in parts(i)
    ),
    "slice and array": lambda i: {slice, np.ndarray} <= {type(p) for p in parts(i)},
}


def matrix_indices():
    return indices((3, 2))


@pytest.mark.parametrize("kind", INDEX_KINDS)
def test_every_kind_of_index_is_drawn(kind):
    assert any(map(INDEX_KINDS[kind], sample(matrix_indices)))


@given(SHAPES, arrays())
def test_literals_are_source_of_the_same_value(drawn, a):
    index = drawn[1]
    same = eval(literal((index, {"a": a})), {"np": np})
    assert np.array_equal(same[1]["a"], a) and same[1]["a"].shape == a.shape
    x = np.arange(np.prod(drawn[0], dtype=int)).reshape(drawn[0])
    assert np.array_equal(x[same[0]], x[index])


EVERY_OP = "tanh exp log sqrt ** / * + - @ .T sum( mean( reshape transpose concatenate [np slice("


@pytest.mark.parametrize("op", EVERY_OP.split())
def test_every_op_occurs_in_graphs(op):
    assert any(op in line for graph in sample(graphs) for line in graph.lines)


def test_graphs_share_values_and_have_dead_ends():
    drawn = sample(graphs)
    assert any(sum("v1" in line for line in graph.lines) > 1 for graph in drawn)
    assert any(len(graph.leaves) > 1 and "v0" not in "".join(graph.lines) for graph in drawn)


def test_graphs_shrink_to_a_few_lines():
    found = find(graphs(), lambda graph: "tanh" in graph.lines[-1], settings=MANY)
    assert len(found.leaves) == len(found.lines) == 1
    assert repr(found) == f"v0 = Tensor(np.array(0.0), requires_grad=True)\nv1 = {found.lines[0]}"


@given(graphs())
def test_values_of_graphs_stay_moderate(graph):
    for value in graph.values(*map(Tensor, graph.leaves)):
        assert np.abs(value.data).max(initial=0.0) <= 1e4 and np.isfinite(value.data).all()
