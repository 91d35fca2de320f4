"""The layers equal torch's layers of the same name. Initial values and dropout are tested too."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autograd import Tensor
from npgpt2 import Dropout, Embedding, LayerNorm, Linear
from tests.optional import has, needs
from tests.test_npgpt2.cases import assert_close

if has("torch"):
    import torch
    from torch import nn
    from torch.nn.utils import skip_init  # without draws from torch's global generator

SEEDS = st.integers(0, 2**32 - 1)
DTYPES = [np.float32, np.float64]


def randomise(layer, rng):
    for parameter in layer.parameters():
        parameter.data[...] = rng.standard_normal(parameter.shape)


def assert_same_as_torch(layer, oracle, x, seed):
    """Assert that the outputs and all gradients are equal, for a random cotangent."""
    rng = np.random.default_rng(seed)
    randomise(layer, rng)
    state = {name: torch.from_numpy(a) for name, a in layer.state_dict().items()}
    oracle.double().load_state_dict(state)  # strict: the names are the same
    if x.dtype.kind == "f":
        ours, theirs = Tensor(x, requires_grad=True), torch.from_numpy(x).requires_grad_()
    else:
        ours, theirs = x, torch.from_numpy(x)
    out, expected = layer(ours), oracle(theirs)
    assert_close(out.data, expected.detach().numpy(), "out")
    g = rng.standard_normal(out.shape)
    out.backward(g)
    expected.backward(torch.from_numpy(g))
    gradients = {name: p.grad.numpy() for name, p in oracle.named_parameters()}
    for name, parameter in layer.named_parameters():
        assert_close(parameter.grad, gradients[name], name)
    if isinstance(ours, Tensor):
        assert_close(ours.grad, theirs.grad.numpy(), "x")


def random_sizes(seed, *lowest):
    """Return the sizes of 0 to 3 leading axes, and a size for each lower limit."""
    rng = np.random.default_rng(seed)
    leading = tuple(int(n) for n in rng.integers(1, 5, rng.integers(0, 4)))
    return leading, [int(n) for n in rng.integers(lowest, 8)]


# -- equal to torch ------------------------------------------------------------------------------


@needs("torch")
@given(SEEDS, st.booleans())
def test_linear_equals_torch(seed, bias):
    leading, (n_in, n_out) = random_sizes(seed, 1, 1)
    x = np.random.default_rng(seed + 1).standard_normal((*leading, n_in))
    layer = Linear(n_in, n_out, bias, dtype=np.float64)
    assert_same_as_torch(layer, skip_init(nn.Linear, n_in, n_out, bias), x, seed)


@needs("torch")
@given(SEEDS)
def test_embedding_equals_torch(seed):
    leading, (V, C) = random_sizes(seed, 1, 1)
    ids = np.asarray(np.random.default_rng(seed + 1).integers(0, V, leading))
    layer = Embedding(V, C, dtype=np.float64)
    assert_same_as_torch(layer, skip_init(nn.Embedding, V, C), ids, seed)


@needs("torch")
@given(SEEDS, st.sampled_from([1e-5, 1e-3, 0.5]))
def test_layer_norm_equals_torch(seed, eps):
    # At least 3 channels: with fewer, the output is constant, and gradients are rounding errors.
    leading, (C,) = random_sizes(seed, 3)
    x = np.random.default_rng(seed + 1).standard_normal((*leading, C))
    layer = LayerNorm(C, eps, dtype=np.float64)
    assert_same_as_torch(layer, nn.LayerNorm(C, eps), x, seed)


@needs("torch")
@given(SEEDS, st.sampled_from([0.0, 0.3]))
def test_dropout_in_evaluation_equals_torch(seed, p):
    leading, (C,) = random_sizes(seed, 1)
    x = np.random.default_rng(seed + 1).standard_normal((*leading, C))
    assert_same_as_torch(Dropout(p).eval(), nn.Dropout(p).eval(), x, seed)


@given(SEEDS, st.sampled_from([0.1, 0.5, 0.9]))
def test_dropout_in_training_zeroes_entries_and_scales_the_others(seed, p):
    rng = np.random.default_rng(seed)
    x = Tensor(rng.uniform(1.0, 2.0, (4, 30)), requires_grad=True)
    out = Dropout(p, seed)(x)
    kept = out.data != 0.0
    g = rng.standard_normal(x.shape)
    out.backward(g)
    assert_close(out.data, kept * x.data / (1.0 - p))
    assert_close(x.grad, kept * g / (1.0 - p))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_zeroes_a_share_p_of_the_entries(p):
    n = 100_000
    zeros = n - np.count_nonzero(Dropout(p, 1)(Tensor(np.ones(n))).data)
    assert abs(zeros / n - p) < 5.0 * math.sqrt(p * (1.0 - p) / n)  # 5 sigma


# -- initial values ------------------------------------------------------------------------------

Maker = Callable[..., Any]
WEIGHTED = [
    (lambda **how: Linear(200, 300, **how), (300, 200)),
    (lambda **how: Embedding(200, 300, **how), (200, 300)),
]
each_weighted = pytest.mark.parametrize(("make", "shape"), WEIGHTED, ids=["Linear", "Embedding"])


@each_weighted
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_are_zeros_without_an_rng(make, shape, dtype):
    weight = make(dtype=dtype).weight
    assert weight.shape == shape and weight.dtype == dtype and weight.requires_grad
    assert not weight.data.any()


@each_weighted
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_are_normal_with_an_rng(make, shape, dtype):
    weight = make(rng=0, dtype=dtype).weight.data
    assert weight.shape == shape and weight.dtype == dtype
    z, n = weight.astype(np.float64).ravel() / 0.02, weight.size
    # 5 sigma of the mean, the standard deviation and the share beyond one standard deviation
    assert abs(z.mean()) < 5.0 / math.sqrt(n)
    assert abs(z.std() - 1.0) < 5.0 / math.sqrt(2.0 * n)
    assert abs(np.mean(np.abs(z) > 1.0) - 0.3173) < 5.0 * math.sqrt(0.3173 * 0.6827 / n)


@each_weighted
def test_weights_are_the_same_in_both_dtypes_up_to_rounding(make, shape):
    single, double = (make(rng=5, dtype=dtype).weight.data for dtype in DTYPES)
    np.testing.assert_allclose(single, double, rtol=2.0**-23)  # two roundings of half an ulp each


@each_weighted
def test_a_seed_or_its_generator_gives_the_weights(make, shape):
    same, rng = make(rng=7).weight.data, np.random.default_rng(7)
    assert np.array_equal(make(rng=7).weight.data, same)
    assert np.array_equal(make(rng=rng).weight.data, same)
    assert not (make(rng=rng).weight.data == same).any(), "the generator has moved on"
    assert not (make(rng=8).weight.data == same).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rng", [None, 0])
def test_linear_bias_starts_at_0_and_is_none_if_unwanted(dtype, rng):
    bias = Linear(4, 3, rng=rng, dtype=dtype).bias
    assert bias.shape == (3,) and bias.dtype == dtype and not bias.data.any()
    without = Linear(4, 3, bias=False, rng=rng, dtype=dtype)
    assert without.bias is None
    assert [name for name, _ in without.named_parameters()] == ["weight"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm_starts_with_gain_1_and_shift_0(dtype):
    layer = LayerNorm(5, dtype=dtype)
    assert layer.weight.shape == layer.bias.shape == (5,)
    assert layer.weight.dtype == layer.bias.dtype == dtype
    assert (layer.weight.data == 1.0).all() and not layer.bias.data.any()


@needs("torch")
def test_layer_norm_has_the_attributes_of_torch():
    ours, theirs = LayerNorm(5), nn.LayerNorm(5)
    assert type(ours.normalized_shape) is tuple
    assert (ours.normalized_shape, ours.eps) == (theirs.normalized_shape, theirs.eps)
    assert LayerNorm(5, 0.25).eps == 0.25


def test_float32_is_the_default():
    for layer in (Linear(2, 3), Embedding(2, 3), LayerNorm(3)):
        assert all(parameter.dtype == np.float32 for parameter in layer.parameters())


@pytest.mark.parametrize("dtype", DTYPES)
def test_layers_return_the_dtype_of_their_parameters(dtype):
    rng = np.random.default_rng(0)
    x = Tensor(rng.standard_normal((2, 3)).astype(dtype), requires_grad=True)
    layers = [Linear(3, 4, rng=0, dtype=dtype), LayerNorm(3, dtype=dtype), Dropout(0.5)]
    for layer in layers:
        out = layer(x)
        out.backward(rng.standard_normal(out.shape))
        assert out.dtype == dtype and x.grad.dtype == dtype
        assert all(parameter.grad.dtype == dtype for parameter in layer.parameters())
    assert Embedding(3, 4, dtype=dtype)([[0, 2]]).dtype == dtype


def test_sizes_have_the_names_of_torch():
    linear, embedding = Linear(3, 2), Embedding(5, 4)
    assert (linear.in_features, linear.out_features) == (3, 2)
    assert (embedding.num_embeddings, embedding.embedding_dim) == (5, 4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_layers_take_arrays_as_constants(dtype):
    a = np.random.default_rng(0).standard_normal((2, 3))
    for layer in (Linear(3, 4, rng=0, dtype=dtype), LayerNorm(3, dtype=dtype), Dropout(0.0)):
        out = layer(a)
        assert np.array_equal(out.data, layer(Tensor(a.astype(out.dtype))).data)
        assert out.dtype == (np.float64 if isinstance(layer, Dropout) else dtype)


# -- dropout -------------------------------------------------------------------------------------


def test_dropout_is_the_identity_in_evaluation_and_draws_nothing():
    layer, x = Dropout(0.5, 3).eval(), Tensor(np.ones(20))
    before = layer.rng.bit_generator.state
    assert layer(x) is x
    assert layer.rng.bit_generator.state == before
    assert not np.array_equal(layer.train()(x).data, x.data)


def test_dropout_draws_a_new_mask_at_every_call():
    layer, x = Dropout(0.5), Tensor(np.ones(100))
    assert not np.array_equal(layer(x).data, layer(x).data)


def test_the_state_of_the_generator_determines_the_mask():
    layer, x = Dropout(0.5, 3), Tensor(np.ones(100))
    state = layer.rng.bit_generator.state
    first = layer(x).data
    layer.rng.bit_generator.state = state
    assert np.array_equal(layer(x).data, first)
    assert np.array_equal(Dropout(0.5, np.random.default_rng(3))(x).data, first)
    single = Dropout(0.5, 3)(Tensor(np.ones(100, np.float32))).data
    assert single.dtype == np.float32 and np.array_equal(single, first)


def test_layers_given_one_generator_share_it():
    rng, x = np.random.default_rng(3), Tensor(np.ones(100))
    one, two = Dropout(0.5, rng), Dropout(0.5, rng)
    assert one.rng is two.rng is rng
    assert not np.array_equal(one(x).data, two(x).data)


# -- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Dropout(1.0), ValueError, r"p=1.0 must lie in \[0, 1\)"),
        (lambda: Dropout(-0.5), ValueError, r"p=-0.5 must lie in \[0, 1\)"),
        (lambda: Dropout(math.nan), ValueError, "p=nan"),
        (lambda: Dropout(True), TypeError, "p must be a number, not True"),
        (lambda: Dropout("0.5"), TypeError, "p must be a number, not '0.5'"),
        (lambda: Linear(3, 2)(np.ones((2, 4))), ValueError, r"shape \(2, 4\) .* \(2, 3\)"),
        (lambda: Linear(0, 3), ValueError, "in_features=0 must be at least 1"),
        (lambda: Linear(3, 2.0), TypeError, "out_features must be an integer, not 2.0"),
        (lambda: Embedding(-1, 3), ValueError, "num_embeddings=-1 must be at least 1"),
        (lambda: Embedding(3, "2"), TypeError, "embedding_dim must be an integer, not '2'"),
        (lambda: LayerNorm((3,)), TypeError, r"channels must be an integer, not \(3,\)"),
        (lambda: LayerNorm(3, eps=-1.0), ValueError, "eps=-1.0 must be at least 0"),
        (lambda: Embedding(3, 2)([[0], [3]]), IndexError, r"ids\[1, 0\] = 3 .*\[0, 3\)"),
        (lambda: Embedding(3, 2)([-1]), IndexError, r"ids\[0\] = -1 .*\[0, 3\)"),
        (lambda: Embedding(3, 2)([1.0]), TypeError, "integers, not float64"),
    ],
)
def test_wrong_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
