"""Blocks cover an array once, in order."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from npgpt2.blocks import blocks


@given(st.integers(0, 50), st.integers(0, 9), st.integers(1, 60))
def test_blocks_cover_the_first_axis_and_are_no_larger_than_asked(
    length: int, width: int, size: int
) -> None:
    a = np.empty((length, width))
    cut = list(blocks(a, size))
    assert [i for n in cut for i in range(n.start, n.stop)] == list(range(length))
    assert all(a[n].size <= size or n.stop - n.start == 1 for n in cut)
