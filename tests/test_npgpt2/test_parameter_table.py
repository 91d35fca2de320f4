"""The parameter arithmetic against the published counts and against real models."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt2 import GPT2Config, GPT2Model, Linear
from npgpt2.config import PRESETS
from npgpt2.parameter_table import block_rows, format_table, parameter_table


def totals(config):
    rows = parameter_table(config)
    return sum(row.weights for row in rows), sum(row.biases for row in rows)


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("gpt2-small", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_presets_have_the_published_number_of_parameters(name, total):
    config = PRESETS[name]()
    assert sum(totals(config)) == total
    assert f"{total:,}" in format_table(config).splitlines()[-1]


def test_small_without_linear_biases_is_the_figure_of_course_notes():
    weights, biases = totals(GPT2Config.gpt2_small())
    assert (weights, biases) == (124_356_864, 82_944)
    table = format_table(GPT2Config.gpt2_small())
    for figure in ("38,597,376", "786,432", "1,769,472", "589,824", "2,359,296", "1,536",
                   "7,080,960", "84,971,520", "124,356,864"):  # fmt: skip
        assert figure in table


def test_the_table_allocates_no_weights():
    tracemalloc.start()
    format_table(GPT2Config.gpt2_xl())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


@given(
    st.integers(1, 50), st.integers(1, 20), st.integers(1, 3), st.integers(1, 3),
    st.integers(1, 4), st.none() | st.integers(1, 30),
)  # fmt: skip
def test_the_table_agrees_with_the_model(V, P, n_layer, n_head, head_size, n_inner):
    config = GPT2Config(V, P, n_head * head_size, n_layer, n_head, n_inner)
    model = GPT2Model(config)
    weights, biases = totals(config)
    assert weights + biases == model.get_num_params()
    linear = [m for m in model.modules() if isinstance(m, Linear) and m.bias is not None]
    assert biases == sum(m.bias.numel() for m in linear)
    for row in block_rows(config):
        layer = model.h[0]
        for part in row.name.split("."):
            layer = getattr(layer, part)
        assert row.weights + row.biases == layer.weight.numel() + layer.bias.numel()
