"""Blocks cover an array once, in order. All tasks are done, and their errors are raised."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt2.machine.work import blocks, side_by_side


@given(st.integers(0, 50), st.integers(0, 9), st.integers(1, 60))
def test_blocks_cover_the_first_axis_and_are_no_larger_than_asked(length, width, size):
    a = np.empty((length, width))
    cut = list(blocks(a, size))
    assert [i for n in cut for i in range(n.start, n.stop)] == list(range(length))
    assert all(a[n].size <= size or n.stop - n.start == 1 for n in cut)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_all_tasks_are_done_by_n_threads(n):
    meet, names = threading.Barrier(n), []

    def task():
        meet.wait(timeout=10.0)  # wait until n tasks are at work
        names.append(threading.current_thread().name)

    side_by_side([task] * (2 * n), n)
    assert len(names) == 2 * n and len(set(names)) == n
    assert (threading.main_thread().name in names) == (n == 1)


@pytest.mark.parametrize("n", [1, 2])
def test_an_error_in_a_task_is_raised_and_numpys_error_state_is_the_callers(n):
    def divide():
        np.ones(1) / np.zeros(1)

    with np.errstate(divide="ignore"):
        side_by_side([divide, divide], n)
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError, match="divide by zero"):
        side_by_side([divide, divide], n)
