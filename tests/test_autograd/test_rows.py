"""Rows, the gradient of a table of which some rows were used: as an array, and in sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autograd import Rows, Tensor, record

SHAPE = (5, 3)


@st.composite
def rows(draw):
    ids = draw(st.lists(st.integers(0, SHAPE[0] - 1)))
    values = np.random.default_rng(draw(st.integers(0, 99))).standard_normal((len(ids), SHAPE[1]))
    made = Rows(SHAPE, np.array(ids, dtype=np.intp), values)
    assert made.ids.tolist() == sorted(set(ids))
    made.expected = np.zeros(SHAPE)
    for i, value in zip(ids, values, strict=True):
        made.expected[i] += value
    return made


@given(rows(), rows(), st.integers(0, 99))
def test_rows_are_an_array_and_sums_with_them_are_arrays(a, b, seed):
    table = np.random.default_rng(seed).standard_normal(SHAPE)
    before = table.copy()
    np.testing.assert_allclose(np.asarray(a), a.expected, rtol=0, atol=1e-14)
    dense_a, dense_b = np.asarray(a), np.asarray(b)
    assert np.asarray(a, dtype=np.float32).dtype == np.float32
    for total, expected in (
        (table + a, table + dense_a),
        (a + table, table + dense_a),
        (a + b, dense_a + dense_b),
    ):
        assert type(total) is np.ndarray and np.array_equal(total, expected)
    assert np.array_equal(table, before)
    a.add_to(table)
    assert np.array_equal(table, before + dense_a)


def looked_up(table, i):
    return record(table.data[i], (table,), lambda g: (Rows(table.shape, [i], g[None]),))


@given(st.lists(st.integers(0, SHAPE[0] - 1), min_size=1), st.integers(0, 99))
def test_gradients_by_rows_and_by_arrays_add_up(ids, seed):
    rng = np.random.default_rng(seed)
    table = Tensor(rng.standard_normal(SHAPE), requires_grad=True)
    weights = rng.standard_normal(SHAPE)
    loss = (table * weights).sum()
    for i in ids:
        loss = loss + looked_up(table, i).sum()
    for times in (1, 2):  # the second pass adds to the gradient of the first
        loss.backward(retain_graph=True)
        counts = np.bincount(ids, minlength=SHAPE[0])[:, None]
        np.testing.assert_allclose(table.grad, times * (weights + counts), rtol=1e-13)
        assert type(table.grad) is np.ndarray


def test_rows_of_another_shape_or_dtype_than_the_table_are_an_error():
    table = Tensor(np.ones(SHAPE), requires_grad=True)
    for wrong in (Rows((4, 3), [0], np.ones((1, 3))), Rows(SHAPE, [0], np.ones((1, 3), "f"))):
        out = record(table.data[0], (table,), lambda g, wrong=wrong: (wrong,))
        with pytest.raises(ValueError, match="returned a gradient of shape"):
            out.backward(np.ones(3))
    assert table.grad is None
