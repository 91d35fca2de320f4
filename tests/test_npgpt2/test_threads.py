"""Tasks are all done, by as many threads as asked for, and what goes wrong is raised."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from npgpt2 import AdamW, Parameter, optim, threads
from npgpt2.process import cores


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


@pytest.mark.parametrize("value", ["", "0", "many"])
def test_without_a_wish_there_is_a_thread_for_every_core(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert threads.available() == len(cores()) >= 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads.available() == 3


def test_adamw_with_threads_has_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim, "_LARGE", 100)
    results, names = [], set()
    change = AdamW._change

    def noted(*args: object) -> None:
        names.add(threading.current_thread().name)
        change(*args)

    monkeypatch.setattr(AdamW, "_change", noted)
    for n in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", n)
        rng = np.random.default_rng(0)
        shapes = [(400, 300), (70_000,), (300, 300), (5,), (6,)]
        parameters = [Parameter(rng.standard_normal(shape)) for shape in shapes]
        optimizer = AdamW(parameters)
        for _ in range(3):
            for p in parameters:
                p.grad = rng.standard_normal(p.shape)
            optimizer.step()
        results.append([p.data for p in parameters])
        assert (names == {threading.main_thread().name}) == (n == "1")
    for one, two in zip(*results, strict=True):
        assert np.array_equal(one, two)
