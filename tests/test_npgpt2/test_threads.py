"""Tasks are all done, by as many threads as asked for, and what goes wrong is raised."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from npgpt2 import threads


@pytest.mark.parametrize("n", [1, 2, 3])
def test_all_tasks_are_done_by_so_many_threads(n: int) -> None:
    meet, names = threading.Barrier(n), []

    def task() -> None:
        meet.wait(timeout=10.0)  # until n of them are at work
        names.append(threading.current_thread().name)

    threads.run([task] * (2 * n), n)
    assert len(names) == 2 * n and len(set(names)) == n
    assert (threading.main_thread().name in names) == (n == 1)


@pytest.mark.parametrize("n", [1, 2])
def test_an_error_in_a_task_is_raised_and_numpys_error_state_is_the_callers(n: int) -> None:
    def divide() -> None:
        np.ones(1) / np.zeros(1)

    with np.errstate(divide="ignore"):
        threads.run([divide, divide], n)
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError, match="divide by zero"):
        threads.run([divide, divide], n)
