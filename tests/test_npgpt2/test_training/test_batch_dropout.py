"""Several processes drop the same entries as one process that has the whole batch."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from npgpt2 import functional as F
from npgpt2.layers import Dropout
from npgpt2.machine.ranks import Ranks
from npgpt2.training.batch_dropout import dropout_of_batch


@given(st.integers(1, 5), st.integers(0, 7), st.sampled_from(["float32", "float64"]))
def test_all_ranks_together_have_the_masks_of_one_rank_and_the_same_generator(size, more, dtype):
    batch_size = size + more

    def masks(rank, size):
        """Return the masks of dropout and attention (odd numbers of draws), and the rng's state."""
        dropout, rng = Dropout(0.3, 0), np.random.default_rng(0)
        dropout.rng = rng
        rows = Ranks(rank, size).share(batch_size)
        ones = np.ones((batch_size, 3, 5), dtype)[rows]
        with dropout_of_batch(dropout, batch_size, rows):
            first = dropout(ones).data
            attention = F.causal_attention(np.ones_like(ones[..., :3]), 1, 0.3, dropout.rng).data
        assert dropout.rng is rng
        return first, attention, rng.bit_generator.state

    first, attention, state = masks(0, 1)
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(first, F.dropout(np.ones_like(first), 0.3, rng).data)
    parts = [masks(rank, size) for rank in range(size)]
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), first)
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), attention)
    assert all(part[2] == state for part in parts)
