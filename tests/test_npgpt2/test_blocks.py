"""Blocks cover an array once, in order; by threads too."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt2 import blocks as module
from npgpt2.blocks import blocks, cores, for_each_block


@given(st.integers(0, 50), st.integers(0, 9), st.integers(1, 60))
def test_blocks_cover_the_first_axis_and_are_no_larger_than_asked(
    length: int, width: int, size: int
) -> None:
    a = np.empty((length, width))
    cut = list(blocks(a, size))
    assert [i for n in cut for i in range(n.start, n.stop)] == list(range(length))
    assert all(a[n].size <= size or n.stop - n.start == 1 for n in cut)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_large_arrays_are_shared_out_among_threads(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    monkeypatch.setattr(module, "_LARGE", 100)
    a, names = np.zeros(1000), set()

    def work(n: slice) -> None:
        a[n] += 1.0
        names.add(threading.current_thread().name)

    for_each_block(work, a)
    assert (a == 1.0).all()
    if threads == 1:
        assert names == {threading.main_thread().name}
    else:
        assert threading.main_thread().name not in names


def test_an_error_in_a_thread_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(module, "_LARGE", 100)

    def fail(n: slice) -> None:
        raise FloatingPointError(f"at {n.start}")

    with pytest.raises(FloatingPointError, match="at "):
        for_each_block(fail, np.zeros(1000))


@pytest.mark.parametrize("value", ["", "0", "many"])
def test_without_a_wish_there_is_a_thread_for_every_core(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores() == os.cpu_count()
