"""Every fused op equals its composed twin, torch's op and its numeric derivative.

The inputs have random values and sizes. The cotangent is random too: with a constant cotangent,
the gradient of softmax is 0, and a vjp that forgets its cotangent passes.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autograd import Tensor, gradcheck
from autograd.testing import arrays, check_op, extremes
from npgpt2 import composed
from npgpt2 import functional as F
from npgpt2.machine.work import BLOCK
from npgpt2.testing import FUSED
from tests.optional import has, needs
from tests.test_npgpt2.cases import assert_as_accurate, assert_close

if has("torch"):
    import torch
    from torch.nn import functional as tF

P_DROP = 0.3
SEEDS = st.integers(0, 2**32 - 1)
DTYPES = st.sampled_from([np.float32, np.float64])


def torch_attention(H, seed, p):
    """Return attention in torch, with the dropout mask that a generator of this seed gives."""

    def attention(qkv):
        q, k, v = (a.unflatten(-1, (H, -1)).transpose(1, 2) for a in qkv.chunk(3, dim=-1))
        if p == 0.0:
            out = tF.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            T = q.shape[-2]
            scores = q @ k.mT / math.sqrt(q.shape[-1])
            above = torch.ones(T, T, dtype=torch.bool).triu(1)
            weights = torch.softmax(scores.masked_fill(above, -math.inf), dim=-1)
            out = torch_dropout(seed, p)(weights) @ v
        return out.transpose(1, 2).flatten(-2)

    return attention


def torch_dropout(seed, p):
    def dropout(x):
        keep = np.random.default_rng(seed).random(tuple(x.shape), dtype=np.float32) >= p
        return x * torch.from_numpy(keep) / (1.0 - p)

    return dropout


class Draws:
    """Random sizes, token ids and normal numbers, with the letters of functional.py."""

    def __init__(self, seed, largest, smallest=1):
        self.seed, self.rng = seed, np.random.default_rng(seed)
        sizes = self.rng.integers(smallest, largest + 1, 5)
        self.B, self.T, self.H, self.D, self.V = (int(n) for n in sizes)
        self.C = self.H * self.D
        # At least 3 channels: layer norm turns one channel into 0 and two into +-1, so their
        # gradients would be rounding errors.
        self.W = self.C + 2
        self.ids, self.targets = self.rng.integers(0, self.V, (2, self.B, self.T))
        self.some = np.where(self.rng.random((self.B, self.T)) < 0.4, -100, self.targets)
        self.some[0, 0] = 0  # at least one target counts

    def normal(self, *shape):
        """Return float64 numbers that float32 holds exactly, so both dtypes get the same."""
        return self.rng.standard_normal(shape, dtype=np.float32).astype(np.float64)

    def same_draws(self):
        return np.random.default_rng(self.seed)


def linear_cases(d):
    x, w, b = d.normal(d.B, d.T, d.W), d.normal(d.V, d.W), d.normal(d.V)
    return {
        "linear": (
            lambda F, x, w, b: F.linear(x, w, b),
            lambda x, w, b: tF.linear(x, w, b),
            [x, w, b],
        ),
        "linear without bias": (
            lambda F, x, w: F.linear(x, w),
            lambda x, w: tF.linear(x, w),
            [x, w],
        ),
        "embedding": (
            lambda F, w: F.embedding(w, d.ids),
            lambda w: tF.embedding(torch.from_numpy(d.ids), w),
            [d.normal(d.V, d.C)],
        ),
    }


def layer_norm_cases(d):
    operands = [d.normal(d.B, d.T, d.W), d.normal(d.W), d.normal(d.W)]
    return {
        "layer_norm": (
            lambda F, x, w, b: F.layer_norm(x, w, b),
            lambda x, w, b: tF.layer_norm(x, (d.W,), w, b),
            operands,
        ),
        "layer_norm, eps 0.5": (
            lambda F, x, w, b: F.layer_norm(x, w, b, 0.5),
            lambda x, w, b: tF.layer_norm(x, (d.W,), w, b, 0.5),
            operands,
        ),
    }


def elementwise_cases(d):
    x = d.normal(d.B, d.T, d.W)
    return {
        "gelu": (
            lambda F, x: F.gelu(x),
            lambda x: tF.gelu(x, approximate="tanh"),
            [2.0 * x],
        ),
        "softmax": (
            lambda F, x: F.softmax(x),
            lambda x: torch.softmax(x, dim=-1),
            [2.0 * d.normal(d.B, d.T, d.V)],
        ),
        "dropout": (
            lambda F, x: F.dropout(x, P_DROP, d.same_draws()),
            torch_dropout(d.seed, P_DROP),
            [x],
        ),
    }


def attention_cases(d):
    qkv = d.normal(d.B, d.T, 3 * d.C)
    return {
        "causal_attention": (
            lambda F, qkv: F.causal_attention(qkv, d.H),
            torch_attention(d.H, d.seed, 0.0),
            [qkv],
        ),
        "causal_attention with dropout": (
            lambda F, qkv: F.causal_attention(qkv, d.H, P_DROP, d.same_draws()),
            torch_attention(d.H, d.seed, P_DROP),
            [qkv],
        ),
    }


def cross_entropy_cases(d):
    logits = 2.0 * d.normal(d.B, d.T, d.V)
    # A quarter, so that no prediction is nearly certain. If p is nearly 1, then p - 1 cancels, and
    # the error of a gradient is as large as the rounding of p, however small the gradient is.
    x, w = d.normal(d.B, d.T, d.W), 0.25 * d.normal(d.V, d.W)
    cases = {}
    for labels, more in ((d.targets, ""), (d.some, " with ignored targets")):
        cases[f"cross_entropy{more}"] = (
            lambda F, z, labels=labels: F.cross_entropy(z, labels),
            torch_loss(labels),
            [logits],
        )
        cases[f"linear_cross_entropy{more}"] = (
            lambda F, x, w, labels=labels: F.linear_cross_entropy(x, w, labels),
            lambda x, w, labels=labels: torch_loss(labels)(tF.linear(x, w)),
            [x, w],
        )
    return cases


def torch_loss(labels):
    def loss(z):
        flat = torch.from_numpy(labels).flatten()
        return tF.cross_entropy(z.flatten(0, 1), flat, ignore_index=-100)

    return loss


def make_cases(seed, largest, smallest=1):
    """Return for each op: a function of a module and Tensors, torch's op, and float64 inputs."""
    d = Draws(seed, largest, smallest)
    families = (
        linear_cases, layer_norm_cases, elementwise_cases, attention_cases, cross_entropy_cases,
    )  # fmt: skip
    return {name: case for family in families for name, case in family(d).items()}


OPS = list(make_cases(0, 2))
each_op = pytest.mark.parametrize("name", OPS)


def cotangent(shape):
    rng = np.random.default_rng(99)
    return rng.standard_normal(shape, dtype=np.float32).astype(np.float64)


def differentiate(op, module, inputs, dtype=np.float64):
    """Return the value of an op, then the gradient of each input."""
    leaves = [Tensor(a.astype(dtype), requires_grad=True) for a in inputs]
    out = op(module, *leaves)
    out.backward(cotangent(out.shape))
    return [out.data, *(leaf.grad for leaf in leaves)]


@each_op
@given(seed=SEEDS)
def test_fused_and_composed_agree(name, seed):
    op, _, inputs = make_cases(seed, 5)[name]
    pairs = zip(differentiate(op, F, inputs), differentiate(op, composed, inputs), strict=True)
    for fused, twin in pairs:
        assert_close(fused, twin, name)


@each_op
@pytest.mark.parametrize("seed", range(6))
def test_fused_is_as_accurate_as_composed_in_float32(name, seed):
    op, _, inputs = make_cases(seed, 12, smallest=4)[name]
    reference = differentiate(op, composed, inputs)
    twin = differentiate(op, composed, inputs, np.float32)
    fused = differentiate(op, F, inputs, np.float32)
    for triple in zip(fused, twin, reference, strict=True):
        assert_as_accurate(*triple, name=name)


@needs("torch")
@each_op
@given(seed=SEEDS)
def test_fused_equals_torch(name, seed):
    op, torch_op, inputs = make_cases(seed, 5)[name]
    leaves = [torch.from_numpy(a).requires_grad_() for a in inputs]
    out = torch_op(*leaves)
    out.backward(torch.from_numpy(cotangent(tuple(out.shape))))
    theirs = [out.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)]
    for a, b in zip(differentiate(op, F, inputs), theirs, strict=True):
        assert_close(a, b, name)


# -- numbers of every scale ----------------------------------------------------------------------


def at_scale(seed=0):
    """Return float32 cases of unusual scale: an op, torch's op, and inputs.

    The rows are constant or far from 0, there are very many of them, or the logits are large.
    """
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    cases = {}

    def layer_norm_of(name, x):
        C = x.shape[-1]
        cases[f"layer_norm of {name}"] = (
            lambda F, x, w, b: F.layer_norm(x, w, b),
            lambda x, w, b: tF.layer_norm(x, (C,), w, b),
            [x, normal(C), normal(C)],
        )

    for value in (1.1, 1234.567, -3e7):
        # The float64 error of a gain's gradient, which is 0, would be the whole reference.
        layer_norm_of(f"rows of {value}", np.full((8, 768), value, np.float32))
    layer_norm_of("rows of offset 1e4", normal(64, 768) + np.float32(1e4))
    layer_norm_of("rows of size 1e4", normal(64, 768) * np.float32(1e4))
    layer_norm_of("rows of size 1e-4", normal(64, 768) * np.float32(1e-4))
    outlier = normal(64, 768)
    outlier[:, 5] = 1e4
    layer_norm_of("rows with an outlier", outlier)
    layer_norm_of("1e5 rows", normal(100_000, 8))
    many, wide = rng.integers(0, 8, 100_000), rng.integers(0, 300, 64)
    cases["linear of 1e5 rows"] = (
        lambda F, x, w, b: F.linear(x, w, b),
        lambda x, w, b: tF.linear(x, w, b),
        [normal(100_000, 8), normal(5, 8), normal(5)],
    )
    cases["embedding of 1e5 tokens"] = (
        lambda F, w: F.embedding(w, np.minimum(many, 1)),
        lambda w: tF.embedding(torch.from_numpy(np.minimum(many, 1)), w),
        [normal(3, 8)],
    )
    logits = {
        "of 1e5 rows": (normal(100_000, 8), many),
        "of logits +-1e4": (np.float32(1e4) * np.sign(normal(64, 300)), wide),
        "of logits of size 1e4": (np.float32(1e4) * normal(64, 300), wide),
        "of logits of size 1e30": (np.float32(1e30) * normal(64, 300), wide),
    }
    for name, (z, targets) in logits.items():
        cases[f"cross_entropy {name}"] = (
            lambda F, z, targets=targets: F.cross_entropy(z, targets),
            lambda z, targets=targets: tF.cross_entropy(z, torch.from_numpy(targets)),
            [z],
        )
        cases[f"linear_cross_entropy {name}"] = (
            lambda F, x, w, targets=targets: F.linear_cross_entropy(x, w, targets),
            lambda x, w, targets=targets: tF.cross_entropy(
                tF.linear(x, w), torch.from_numpy(targets)
            ),
            [z[:, :12], normal(8 if len(z) > 64 else 300, 12)[:, : z.shape[1]]],
        )
    for size in (1.0, 1e4):
        qkv = normal(1, 200, 96)
        qkv[..., :64] *= np.float32(math.sqrt(size))  # then the scores have this size
        cases[f"causal_attention with scores of size {size:g}"] = (
            lambda F, qkv: F.causal_attention(qkv, 2),
            torch_attention(2, 0, 0.0),
            [qkv],
        )
    return cases


AT_SCALE = list(at_scale())


@needs("torch")
@pytest.mark.parametrize("equal", [False, True], ids=["random cotangents", "equal cotangents"])
@pytest.mark.parametrize("name", AT_SCALE)
def test_float32_errors_are_at_most_twice_torchs_at_every_scale(name, equal):
    op, torch_op, inputs = at_scale()[name]
    results = []
    for dtype in (np.float32, np.float64):
        leaves = [torch.from_numpy(a.astype(dtype)).requires_grad_() for a in inputs]
        out = torch_op(*leaves)
        g = cotangent(tuple(out.shape)) if not equal else np.full(out.shape, np.float32(0.1))
        out.backward(torch.from_numpy(np.asarray(g, dtype)))
        results.append([out.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)])
    ours = [Tensor(a, requires_grad=True) for a in inputs]
    out = op(F, *ours)
    out.backward(g)
    ours = [out.data, *(leaf.grad for leaf in ours)]
    for i, triple in enumerate(zip(ours, *results, strict=True)):
        assert_as_accurate(*triple, name=f"{name}, result {i}")


@pytest.mark.parametrize("module", [F, composed])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("C", [1, 3, 48, 768, 1600])
@pytest.mark.parametrize("value", [0.0, 1.1, 1234.567, 10000.1, -3e7, 1e-30, 1e30])
def test_layer_norm_of_constant_rows_is_exactly_the_bias(module, dtype, C, value):
    rng = np.random.default_rng(0)
    gain, bias, g = (rng.standard_normal(s).astype(dtype) for s in ((C,), (C,), (4, C)))
    x, w, b = (Tensor(a, requires_grad=True) for a in (np.full((4, C), value, dtype), gain, bias))
    out = module.layer_norm(x, w, b)
    assert np.array_equal(out.data, np.broadcast_to(bias, out.shape))
    out.backward(g)
    assert not w.grad.any()  # exactly 0
    dxhat = g.astype(np.float64) * gain
    right = (dxhat - dxhat.mean(axis=-1, keepdims=True)) / math.sqrt(1e-5)
    rounding = 8 * np.finfo(dtype).eps
    np.testing.assert_allclose(x.grad, right, rtol=0.0, atol=rounding * np.abs(dxhat).max() * 320)
    np.testing.assert_allclose(b.grad, g.astype(np.float64).sum(axis=0), atol=4 * rounding)


@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 1e30), (np.float64, 1e200)])
def test_layer_norm_takes_rows_whose_squares_overflow(dtype, size):
    rng = np.random.default_rng(0)
    rows, gain, bias, g = (rng.standard_normal(s) for s in ((3, 9), (9,), (9,), (3, 9)))
    rounding = 32 * np.finfo(dtype).eps
    results = []
    for scale, eps in ((1.0, 0.0), (size, 1e-5)):  # beside squares as large, eps is nothing
        x = (scale * rows).astype(dtype)
        x[2] = rows[2]  # not every row is large
        leaves = [Tensor(a.astype(dtype), requires_grad=True) for a in (x[:2], gain, bias)]
        with np.errstate(all="raise"):
            out = F.layer_norm(*leaves, eps)
            out.backward(g[:2].astype(dtype))
        results.append([out.data, scale * leaves[0].grad, leaves[1].grad, leaves[2].grad])
        together, alone = (F.layer_norm(a, *leaves[1:], eps).data[-1] for a in (x, x[2:]))
        np.testing.assert_allclose(together, alone, rtol=rounding)
    for small, large in zip(*results, strict=True):
        np.testing.assert_allclose(large, small, rtol=0.0, atol=rounding * np.abs(small).max())


@pytest.mark.parametrize("N", [1, F._TERMS, F._TERMS + 1, 4096, 100_000, 1_000_000])
@pytest.mark.parametrize("equal", [True, False])
def test_the_error_of_a_sum_over_rows_does_not_grow_with_their_number(N, equal):
    rng = np.random.default_rng(N)
    for _ in range(4):
        g = (
            rng.uniform(0.5, 1.0, (1 if equal else N, 3))
            .astype(np.float32)
            .repeat(N if equal else 1, 0)
        )
        bias = Tensor(np.zeros(3, np.float32), requires_grad=True)
        F.linear(np.zeros((N, 1), np.float32), Tensor(np.ones((3, 1), np.float32)), bias).backward(
            g
        )
        # At most three products of 128 terms each. A single product is up to 1e-3 off.
        np.testing.assert_allclose(bias.grad, g.sum(axis=0, dtype=np.float64), rtol=1e-6)


def test_the_loss_of_very_many_parts_is_accurate():
    rng, n = np.random.default_rng(0), 3000
    x, w = rng.standard_normal((n, 4), np.float32), rng.standard_normal((5, 4), np.float32)
    targets = rng.integers(0, 5, n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "_LOGITS", 5)  # one row in each part
        loss = F.linear_cross_entropy(x, Tensor(w), targets).item()
    exact = F.linear_cross_entropy(x.astype(float), Tensor(w.astype(float)), targets).item()
    assert abs(loss - exact) <= 4 * np.finfo(np.float32).eps * exact


@pytest.mark.parametrize("module", [F, composed])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gelu_is_x_or_0_far_out_and_its_slope_is_exactly_1_or_0(module, dtype):
    sizes = [99.0, 101.0, 1e8, 1e12, 1e13, 1e15, 1e19, 1e37, float(np.finfo(dtype).max) / 16.0]
    if dtype == np.float64:
        sizes += [1e100, 1e150, 1e300]
    x = Tensor(np.array([[size, -size] for size in sizes], dtype), requires_grad=True)
    with np.errstate(all="raise", under="ignore"):
        out = module.gelu(x)
        out.backward(np.full(x.shape, 3.0))
    assert np.array_equal(out.data, np.maximum(x.data, 0.0))
    assert np.array_equal(x.grad, 3.0 * (x.data > 0.0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gelu_of_infinity_is_infinity_with_slope_1(dtype):
    x = Tensor(np.array([np.inf], dtype), requires_grad=True)
    out = F.gelu(x)
    out.backward(np.ones(1))
    assert out.data == np.inf and x.grad == 1.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gelu_of_tiny_numbers_is_their_half(dtype):
    x = Tensor(np.array([1e-30, -1e-30, np.finfo(dtype).tiny, 0.0], dtype), requires_grad=True)
    out = F.gelu(x)
    out.sum().backward()
    assert np.array_equal(out.data, x.data / 2) and np.array_equal(x.grad, [0.5] * 4)


def test_softmax_of_the_largest_numbers_does_not_even_warn():
    largest = np.finfo(np.float32).max
    with np.errstate(all="raise"):
        p = F.softmax(Tensor(np.array([[largest, -largest], [-largest] * 2], np.float32)))
    assert np.array_equal(p.data, [[1.0, 0.0], [0.5, 0.5]])


UNDERFLOWING = {
    "linear": (lambda x, w: F.linear(x, w, w[0]), ((6, 8), (8, 8))),
    "embedding": (lambda w: F.embedding(w, [1, 0, 1]), ((3, 4),)),
    "layer_norm": (lambda x, w: F.layer_norm(x, w[0], w[1]), ((6, 8), (2, 8))),
    "gelu": (lambda x: F.gelu(1e30 * x), ((6, 8),)),
    "gelu of 30": (lambda x: F.gelu(x + 30.0) + F.gelu(x - 30.0), ((6, 8),)),
    "softmax": (lambda x: F.softmax(1e35 * x), ((6, 8),)),
    "dropout": (lambda x: F.dropout(x, P_DROP, np.random.default_rng(0)), ((6, 8),)),
    "causal_attention": (
        lambda x: F.causal_attention(x, 2, P_DROP, np.random.default_rng(0)),
        ((2, 5, 12),),
    ),
    "causal_attention, large": (
        lambda x: F.causal_attention(1e33 * x, 2, P_DROP, np.random.default_rng(0)),
        ((2, 5, 12),),
    ),
    "cross_entropy": (lambda x: F.cross_entropy(1e35 * x, [1, 2]), ((2, 8),)),
    "linear_cross_entropy": (
        lambda x, w: F.linear_cross_entropy(x, w, [1, 2]),
        ((2, 8), (5, 8)),
    ),
    "linear_cross_entropy, large": (
        lambda x, w: F.linear_cross_entropy(1e33 * x, w + 10.0, [1, 2]),
        ((2, 8), (5, 8)),
    ),
}


@pytest.mark.parametrize("name", UNDERFLOWING)
def test_underflow_is_not_an_error(name):
    op, shapes = UNDERFLOWING[name]
    rng = np.random.default_rng(0)
    for size in (1e-38, 1e-30, 1e-20):
        operands = [Tensor((size * rng.standard_normal(s)).astype(np.float32)) for s in shapes]
        with np.errstate(all="raise"):
            op(*operands)
            leaves = [Tensor(a.data, requires_grad=True) for a in operands]
            out = op(*leaves)
            g = rng.standard_normal(out.shape).astype(np.float32)
            out.backward(np.float32(1e-20) * g)
        with np.errstate(all="ignore"):
            assert np.array_equal(op(*operands).data, out.data)
        assert all(np.isfinite(leaf.grad).all() for leaf in leaves)


OF_SEVERAL_BLOCKS = {
    "causal_attention, three blocks of rows": (
        lambda F, x: F.causal_attention(x, 2),
        ((3, 2 * F._ROWS + 5, 12),),
    ),
    "causal_attention, three blocks of the batch": (
        lambda F, x: F.causal_attention(x, 8, P_DROP, np.random.default_rng(0)),
        ((2 * F._SCORES // (8 * 36 * 36) + 1, 36, 24),),
    ),
    "gelu": (lambda F, x: F.gelu(x), ((3, BLOCK // 2),)),
    "cross_entropy": (
        lambda F, z: F.cross_entropy(z, np.arange(40) * 9),
        ((40, BLOCK // 16),),
    ),
}


@pytest.mark.parametrize("name", OF_SEVERAL_BLOCKS)
def test_arrays_of_several_blocks_equal_composed(name):
    op, shapes = OF_SEVERAL_BLOCKS[name]
    inputs = [cotangent(shape) for shape in shapes]
    reference = differentiate(op, composed, inputs)
    for fused, twin in zip(differentiate(op, F, inputs), reference, strict=True):
        assert_close(fused, twin, name)
    floats = (differentiate(op, module, inputs, np.float32) for module in (F, composed))
    for triple in zip(*floats, reference, strict=True):
        assert_as_accurate(*triple, name=name)


@given(SEEDS, st.integers(1, 40))
def test_without_a_graph_the_loss_of_many_logits_is_computed_in_parts(seed, at_a_time):
    for name in ("linear_cross_entropy", "linear_cross_entropy with ignored targets"):
        op, _, inputs = make_cases(seed, 5)[name]
        tensors = [Tensor(a) for a in inputs]
        whole = op(composed, *tensors)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(F, "_LOGITS", at_a_time)
            assert_close(op(F, *tensors).data, whole.data)


@pytest.mark.parametrize("name", FUSED)
def test_every_op_has_all_properties(name):
    check_op(FUSED[name], max_examples=max(100, settings.default.max_examples))


# -- softmax and cross entropy -------------------------------------------------------------------


@given(SEEDS, DTYPES, st.integers(-1024, 1024))
def test_softmax_rows_are_distributions_whatever_is_added(seed, dtype, shift):
    rng = np.random.default_rng(seed)
    V = int(rng.integers(1, 9))
    z = (rng.integers(-800, 800, (3, V)) / 8.0).astype(dtype)
    x = Tensor(z, requires_grad=True)
    p = F.softmax(x)
    assert p.dtype == dtype and (p.data >= 0.0).all()
    rounding = V * np.finfo(dtype).eps  # an ulp for each term of a sum
    np.testing.assert_allclose(p.data.sum(axis=-1), 1.0, rtol=rounding)
    # Even float32 holds eighths below 2**11 exactly, so the shift is exact.
    assert np.array_equal(F.softmax(Tensor(z + dtype(shift))).data, p.data)
    g = rng.standard_normal(p.shape)
    p.backward(g)
    # This is the sum of p * (g - sum(g * p)). Both sums have rounding errors.
    atol = 2.0 * rounding * np.abs(g).max()
    np.testing.assert_allclose(x.grad.sum(axis=-1), 0.0, atol=atol)


@given(SEEDS, DTYPES)
def test_masked_entries_have_softmax_0_and_gradient_0_and_do_not_count(seed, dtype):
    rng = np.random.default_rng(seed)
    z, g = (a.astype(dtype) for a in rng.standard_normal((2, int(rng.integers(1, 9)))))
    visible = rng.random(z.shape) < 0.5
    visible[rng.integers(len(z))] = True  # a row without a visible entry is 0/0
    x, y = (Tensor(a, requires_grad=True) for a in (np.where(visible, z, -np.inf), z[visible]))
    masked, alone = F.softmax(x), F.softmax(y)
    masked.backward(g)
    alone.backward(g[visible])
    for whole, part in ((masked.data, alone.data), (x.grad, y.grad)):
        assert not whole[~visible].any()  # exactly 0
        # The longer sum adds its terms in another order: allow an ulp for each of the 8.
        atol = 8 * np.finfo(dtype).eps * np.abs(g).max(initial=1.0)
        np.testing.assert_allclose(whole[visible], part, rtol=0.0, atol=atol)


@given(SEEDS, st.floats(0.01, 100.0))
def test_log_sum_exp_is_the_maximum_and_at_most_ln_n_more_and_has_the_gradient_softmax(seed, size):
    """The cross entropy of a row is its log-sum-exp minus the target's logit: lse = loss + z_t."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 9))
    x, target = Tensor(size * rng.standard_normal(n), requires_grad=True), rng.integers(n)
    lse = F.cross_entropy(x, target) + x[target]
    rounding = 1e-15 * (1.0 + np.abs(x.data).max())
    above = lse.item() - x.data.max()
    assert -rounding <= above <= math.log(n) + rounding
    c = rng.standard_normal()
    lse.backward(c)
    assert_close(x.grad, c * F.softmax(x).data)


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_softmax_and_cross_entropy_take_large_float32_logits(size):
    z = np.float32(size) * np.array([[1.0, -1.0, 0.5], [-1.0, -1.0, -1.0]], dtype=np.float32)
    np.testing.assert_array_equal(F.softmax(Tensor(z)).data[0], [1.0, 0.0, 0.0])
    x = Tensor(z, requires_grad=True)
    loss = F.cross_entropy(x, [2, 0])
    np.testing.assert_allclose(loss.item(), (0.5 * size + math.log(3.0)) / 2, rtol=1e-6)  # 8 ulp
    loss.backward()
    third = 1 / 3
    expected = np.array([[1.0, 0.0, -1.0], [third - 1.0, third, third]]) / 2
    np.testing.assert_allclose(x.grad, expected, atol=1e-7)  # an ulp of float32


@pytest.mark.parametrize("module", [F, composed])
def test_softmax_takes_rows_of_very_different_sizes(module):
    z = np.array([[1e4, 1e4 - math.log(3.0)], [-1e4, -1e4 - math.log(3.0)], [0.0, -math.log(3.0)]])
    assert_close(module.softmax(Tensor(z)).data, [[0.75, 0.25]] * 3)


LARGE = extremes(np.float32, finite=True).filter(lambda x: abs(x) < 1e38)  # differences are finite


@given(arrays((2, 3), LARGE, np.float32))
def test_softmax_and_cross_entropy_are_finite_for_the_extremes_of_float32(z):
    x = Tensor(z, requires_grad=True)
    p = F.softmax(x)
    np.testing.assert_allclose(p.data.sum(axis=-1), 1.0, rtol=1e-6)  # a few roundings
    p.backward(np.float32([[1.0, -2.0, 0.5]] * 2))
    F.cross_entropy(x, [0, 2]).backward()
    assert (p.data >= 0.0).all() and np.isfinite(x.grad).all()


@given(SEEDS, st.floats(-100.0, 100.0))
def test_cross_entropy_gradient_is_p_minus_y_over_n(seed, shift):
    rng = np.random.default_rng(seed)
    B, T, V = (int(n) for n in rng.integers(1, 6, 3))
    targets = rng.integers(0, V, (B, T))
    ignored = rng.random((B, T)) < 0.5
    ignored[0, 0] = False
    targets[ignored] = -100
    x, c = Tensor(rng.standard_normal((B, T, V)), requires_grad=True), rng.standard_normal()
    loss = F.cross_entropy(x, targets)
    loss.backward(c)
    p = F.softmax(x.detach()).data
    y = np.eye(V)[np.where(ignored, 0, targets)]
    n = np.count_nonzero(~ignored)
    assert loss.item() >= 0.0
    assert_close(x.grad[~ignored], c * (p - y)[~ignored] / n)
    assert not x.grad[ignored].any()  # exactly 0
    np.testing.assert_allclose(x.grad.sum(axis=-1), 0.0, atol=1e-15 * V * abs(c))
    assert_close(F.cross_entropy(x.detach() + shift, targets).data, loss.data)
    relabel = rng.permutation(V)
    shuffled = Tensor(x.data[..., np.argsort(relabel)], requires_grad=True)
    labels = np.where(ignored, -100, relabel[np.where(ignored, 0, targets)])
    same = F.cross_entropy(shuffled, labels)
    same.backward(c)
    assert_close(same.data, loss.data)
    assert_close(shuffled.grad[..., relabel], x.grad)


@pytest.mark.parametrize("V", [1, 2, 65, 50257])
def test_cross_entropy_of_uniform_logits_is_ln_v(V):
    loss = F.cross_entropy(Tensor(np.full((2, V), 3.25)), [0, V - 1])
    np.testing.assert_allclose(loss.item(), math.log(V), rtol=1e-12)  # V roundings of a sum


def test_ignored_targets_are_not_even_looked_at():
    z = np.random.default_rng(0).standard_normal((4, 5))
    targets = np.array([1, -1, 3, -1])
    clean = F.cross_entropy(Tensor(z[[0, 2]]), targets[[0, 2]])
    z[1], z[3] = np.nan, 1e300
    x = Tensor(z, requires_grad=True)
    loss = F.cross_entropy(x, targets, ignore_index=-1)
    loss.backward()
    assert loss.item() == clean.item()
    assert np.array_equal(x.grad[[1, 3]], np.zeros((2, 5)))


# -- layer norm, GELU, linear, embedding ---------------------------------------------------------


@given(seed=SEEDS)
def test_layer_norm_backward_is_the_three_term_formula(seed):
    rng = np.random.default_rng(seed)
    C, eps = int(rng.integers(3, 20)), 1e-5
    x = Tensor(rng.standard_normal((4, C)), requires_grad=True)
    w, b = (Tensor(rng.standard_normal(C), requires_grad=True) for _ in range(2))
    out = F.layer_norm(x, w, b, eps)
    g = rng.standard_normal(out.shape)
    out.backward(g)
    np.testing.assert_allclose(x.grad.sum(axis=-1), 0.0, atol=1e-12 * np.abs(x.grad).max())
    dw, db = np.zeros(C), np.zeros(C)
    for row, dout, dx in zip(x.data, g, x.grad, strict=True):
        rstd = (np.var(row) + eps) ** -0.5
        norm = (row - np.mean(row)) * rstd
        dnorm = w.data * dout
        dw, db = dw + norm * dout, db + dout
        assert_close(dx, (dnorm - np.mean(dnorm) - norm * np.mean(dnorm * norm)) * rstd)
    assert_close(w.grad, dw)
    assert_close(b.grad, db)


@given(SEEDS, st.sampled_from([0.0, 1e-5, 1e-2, 1.0]))
def test_layer_norm_gradient_has_nothing_along_1_and_along_xhat_only_what_eps_leaves(seed, eps):
    """Along xhat, (I - xhat xhat^T / C) leaves 1 - mean(xhat**2) = eps / (var + eps)."""
    rng = np.random.default_rng(seed)
    C = int(rng.integers(3, 20))
    x = Tensor(rng.standard_normal((4, C)), requires_grad=True)
    w, b = (Tensor(rng.standard_normal(C)) for _ in range(2))
    out = F.layer_norm(x, w, b, eps)
    g = rng.standard_normal(out.shape)
    out.backward(g)
    var = x.data.var(axis=-1)
    rstd = 1.0 / np.sqrt(var + eps)
    xhat = (x.data - x.data.mean(axis=-1, keepdims=True)) * rstd[:, None]
    left = eps / (var + eps) * rstd * (w.data * g * xhat).sum(axis=-1)
    atol = 1e-12 * np.abs(g * rstd[:, None]).max()  # the terms of the sums cancel
    np.testing.assert_allclose(x.grad.sum(axis=-1), 0.0, atol=atol)
    np.testing.assert_allclose((x.grad * xhat).sum(axis=-1), left, rtol=1e-9, atol=atol)


@given(SEEDS, st.floats(-100.0, 100.0), st.floats(0.01, 100.0))
def test_layer_norm_normalises_and_ignores_shift_and_scale(seed, shift, scale):
    rng = np.random.default_rng(seed)
    C = int(rng.integers(3, 20))
    x, ones, zeros = 5.0 * rng.standard_normal((3, C)), np.ones(C), np.zeros(C)

    def normalise(x, eps):
        return F.layer_norm(Tensor(x), Tensor(ones), Tensor(zeros), eps).data

    out = normalise(x, 1e-5)
    np.testing.assert_allclose(out.mean(axis=-1), 0.0, atol=1e-14)  # a few ulps of values near 1
    assert_close(out.var(axis=-1), x.var(axis=-1) / (x.var(axis=-1) + 1e-5))
    assert_close(normalise(x + shift, 1e-5), out)
    assert_close(normalise(scale * x, 0.0), normalise(x, 0.0))


@given(SEEDS)
def test_a_loss_that_does_not_depend_on_the_size_of_a_weight_has_no_gradient_along_it(
    seed,
):
    """Without eps, layer norm gives the same result for a * W x, for every a > 0: <W, dL/dW> = 0.

    This is Euler's theorem for homogeneous functions of degree 0. It is true for every loss.
    """
    rng = np.random.default_rng(seed)
    N, n_in, C = (int(n) for n in rng.integers((1, 1, 3), 9))
    x, gain, shift = (Tensor(rng.standard_normal(shape)) for shape in ((N, n_in), (C,), (C,)))
    weight = Tensor(rng.standard_normal((C, n_in)), requires_grad=True)
    normalised = F.layer_norm(F.linear(x, weight), gain, shift, eps=0.0)
    F.cross_entropy(F.gelu(normalised), rng.integers(0, C, N)).backward(rng.standard_normal())
    size = np.linalg.norm(weight.data) * np.linalg.norm(weight.grad)
    assert abs(np.vdot(weight.data, weight.grad)) <= 1e-12 * size and size > 0.0  # rounding


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_gelu_of_complex_numbers_is_finite_where_that_of_real_ones_is(dtype):
    x = np.array([-1000.0, -30.0, -12.0, -6.0, 30.0, 1000.0])
    real = F.gelu(Tensor(x.astype(dtype(0).real.dtype))).data
    out = F.gelu(Tensor((x + 1e-3j).astype(dtype))).data
    assert np.isfinite(out).all()
    np.testing.assert_allclose(out.real, real, rtol=1e-4, atol=1e-8)
    assert gradcheck(F.gelu, [x], mode="complex").ok


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_the_mask_hides_may_be_infinite(dtype):
    qkv = np.random.default_rng(0).standard_normal((1, 4, 6)).astype(dtype)
    clean = F.causal_attention(Tensor(qkv), 1).data
    for later in (np.inf, -np.inf, np.nan):
        qkv[0, 2, 2:4] = later  # a key
        with np.errstate(invalid="ignore"):
            out = F.causal_attention(Tensor(qkv), 1).data
        assert np.array_equal(out[0, :2], clean[0, :2])


def test_gelu_is_the_tanh_form():
    x = np.linspace(-8.0, 8.0, 4001)
    leaf = Tensor(x, requires_grad=True)
    out = F.gelu(leaf)
    np.testing.assert_allclose(out.data - F.gelu(Tensor(-x)).data, x, rtol=1e-14)
    erf_form = x / 2.0 * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))
    assert 1e-4 < np.abs(out.data - erf_form).max() < 4.8e-4
    out.backward(np.ones_like(x))
    assert -0.13 < leaf.grad.min() < -0.12 and 1.12 < leaf.grad.max() < 1.13


@given(SEEDS, DTYPES, st.floats(0.1, 1e6))
def test_gelu_of_minus_x_is_x_less_and_its_slope_is_bounded(seed, dtype, size):
    rng = np.random.default_rng(seed)
    x = Tensor(rng.uniform(-size, size, 50).astype(dtype), requires_grad=True)
    out, g = F.gelu(x), rng.uniform(1.0, 2.0, 50)
    mirrored = F.gelu(Tensor(-x.data))
    np.testing.assert_allclose(out.data - mirrored.data, x.data, rtol=4 * np.finfo(dtype).eps)
    out.backward(g)
    assert (-0.13 < x.grad / g).all() and (x.grad / g < 1.13).all()


@pytest.mark.parametrize("argument", range(3))
@given(seed=SEEDS, share=st.floats(-2.0, 2.0))
def test_linear_is_affine_in_each_argument(argument, seed, share):
    rng = np.random.default_rng(seed)
    B, T, n_in, n_out = (int(n) for n in rng.integers(1, 6, 4))
    shapes = ((B, T, n_in), (n_out, n_in), (n_out,))
    both = [[Tensor(rng.standard_normal(s)) for s in shapes] for _ in range(2)]
    first, second, between = list(both[0]), list(both[0]), list(both[0])
    second[argument] = both[1][argument]
    between[argument] = share * both[0][argument] + (1.0 - share) * both[1][argument]
    mixed = share * F.linear(*first) + (1.0 - share) * F.linear(*second)
    assert_close(F.linear(*between).data, mixed.data)


@given(SEEDS)
def test_a_weight_stored_inputs_first_is_that_of_a_linear_transposed(seed):
    """GPT-2's published weights are (n_in, n_out), made for x @ weight + bias."""
    rng = np.random.default_rng(seed)
    N, n_in, n_out = (int(n) for n in rng.integers(1, 6, 3))
    inputs = [rng.standard_normal(s) for s in ((N, n_in), (n_in, n_out), (n_out,))]
    transposed = differentiate(lambda F, x, w, b: F.linear(x, w.T, b), F, inputs)
    as_published = differentiate(lambda _, x, w, b: x @ w + b, F, inputs)
    for a, b in zip(transposed, as_published, strict=True):
        assert_close(a, b)


@given(seed=SEEDS)
def test_embedding_gradient_is_that_of_a_one_hot_product(seed):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 6, rng.integers(1, 5, 2)).astype(rng.choice(["uint16", "int64"]))
    w = Tensor(rng.standard_normal((9, 4)), requires_grad=True)
    out = F.embedding(w, ids)
    g = rng.standard_normal(out.shape)
    out.backward(g)
    assert np.array_equal(out.data, w.data[ids])
    assert_close(w.grad, np.eye(9)[ids.ravel()].T @ g.reshape(-1, 4))
    absent = np.setdiff1d(np.arange(9), ids)
    assert absent.size >= 3 and not w.grad[absent].any()  # exactly 0


# -- attention and dropout -----------------------------------------------------------------------


def join_heads(q, k, v):
    """(B, T, C) each -> (B, T, 3C)."""
    return Tensor(np.concatenate([q, k, v], axis=-1), requires_grad=True)


@given(seed=SEEDS)
def test_attention_averages_what_is_visible(seed):
    rng = np.random.default_rng(seed)
    B, T, H, D = (int(n) for n in rng.integers(1, 5, 4))
    q, k, v = rng.standard_normal((3, B, T, H * D)) * 3.0
    out = F.causal_attention(join_heads(q, k, v), H).data
    lowest, highest = (f.accumulate(v, axis=1) for f in (np.minimum, np.maximum))
    assert (lowest - 1e-12 <= out).all() and (out <= highest + 1e-12).all()  # up to rounding
    assert_close(out[:, 0], v[:, 0])
    constant = np.broadcast_to(v[:, :1], v.shape)
    assert_close(F.causal_attention(join_heads(q, k, constant), H).data, constant)
    same_keys = np.broadcast_to(k[:, :1], k.shape)
    prefix_means = np.cumsum(v, axis=1) / np.arange(1, T + 1)[:, None]
    equal = F.causal_attention(join_heads(q, same_keys, v), H).data
    np.testing.assert_allclose(equal, prefix_means, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("p", [0.0, 0.5])
@given(seed=SEEDS)
def test_attention_weights_above_the_diagonal_are_exactly_0(p, seed):
    rng = np.random.default_rng(seed)
    T = int(rng.integers(1, 8))
    q, k = 3.0 * rng.standard_normal((2, 1, T, T))
    qkv = join_heads(q, k, np.eye(T)[None])  # v is the identity, so the output is the weights
    out = F.causal_attention(qkv, 1, p, rng)
    assert np.array_equal(out.data, np.tril(out.data))
    if p == 0.0:
        assert (np.diagonal(out.data[0]) > 0.0).all()
        scores = (q @ k.swapaxes(1, 2))[0] / math.sqrt(T)
        for t in range(T):
            e = np.exp(scores[t, : t + 1] - scores[t, : t + 1].max())
            assert_close(out.data[0, t, : t + 1], e / e.sum())
    for t in range(T):
        qkv.grad, g = None, np.zeros_like(out.data)
        g[:, t] = rng.standard_normal(T)
        out.backward(g, retain_graph=True)
        assert not qkv.grad[:, t + 1 :].any()
        assert p > 0.0 or qkv.grad[:, : t + 1].any()


@example(0, float(np.nextafter(1.0, 0.0)), np.float32)  # 1 itself is refused, see below
@given(SEEDS, st.floats(0.0, 1.0, exclude_max=True), DTYPES)
def test_dropout_sends_its_cotangent_through_the_mask_of_its_values(seed, p, dtype):
    rng = np.random.default_rng(seed)
    x = Tensor(rng.uniform(1.0, 2.0, (4, 10)).astype(dtype), requires_grad=True)
    g = rng.standard_normal(x.shape).astype(dtype)
    out, again = (F.dropout(x, p, np.random.default_rng(seed)) for _ in range(2))
    out.backward(g)
    kept = (out.data != 0.0) * dtype(1.0 / (1.0 - p))
    assert out.dtype == dtype and np.array_equal(out.data, again.data)
    assert np.array_equal(out.data, x.data * kept)
    assert np.array_equal(x.grad, g * kept) and np.isfinite(x.grad).all()


@pytest.mark.parametrize("module", [F, composed])
def test_masks_come_from_the_generator_alone(module):
    x = np.ones((3, 50))
    a = module.dropout(Tensor(x), P_DROP, np.random.default_rng(1)).data
    b = module.dropout(Tensor(x.astype(np.float32)), P_DROP, np.random.default_rng(1)).data
    c = module.dropout(Tensor(x), P_DROP, np.random.default_rng(2)).data
    assert b.dtype == np.float32 and np.array_equal(a == 0.0, b == 0.0)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize("module", [F, composed])
def test_dropout_of_probability_0_is_the_identity_and_draws_nothing(module):
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    x, qkv = Tensor(np.ones(3)), Tensor(cotangent((2, 3, 12)))
    assert module.dropout(x, 0.0, rng) is x
    attended = module.causal_attention(qkv, 2, 0.0, rng)
    assert np.array_equal(attended.data, module.causal_attention(qkv, 2).data)
    assert rng.bit_generator.state == before


# -- arguments of an op --------------------------------------------------------------------------


@pytest.mark.parametrize("module", [F, composed])
def test_integers_may_change_between_forward_and_backward(module):
    table, z = (Tensor(cotangent((5, 3)), requires_grad=True) for _ in range(2))
    ids, targets = np.array([[1, 2], [4, 1]]), np.array([0, 2, -100, 1, -100])
    out, loss = module.embedding(table, ids), module.cross_entropy(z, targets)
    expected = [*out.vjp(cotangent(out.shape))]
    loss.backward(retain_graph=True)
    ids[...], targets[...] = 0, 0  # a buffer used again for the next batch
    out.backward(cotangent(out.shape))
    assert np.array_equal(table.grad, expected[0]) and not table.grad[0].any()
    first = z.grad
    z.grad = None
    loss.backward()
    assert np.array_equal(z.grad, first) and not z.grad[[2, 4]].any()


def test_arrays_are_constants():
    x, qkv, w = cotangent((2, 3, 4)), cotangent((2, 3, 12)), Tensor(cotangent((4,)))
    weight = Tensor(cotangent((5, 4)))
    for call in (
        lambda x, _: F.linear(x, weight),
        lambda x, _: F.layer_norm(x, w, w),
        lambda x, _: F.gelu(x),
        lambda x, _: F.softmax(x),
        lambda x, _: F.dropout(x, 0.5, np.random.default_rng(0)),
        lambda _, qkv: F.causal_attention(qkv, 2),
        lambda x, _: F.cross_entropy(x, [[0, 1, 2], [3, 0, 1]]),
        lambda x, _: F.linear_cross_entropy(x, weight, [[0, 1, 2], [3, 0, 1]]),
    ):
        assert np.array_equal(call(x, qkv).data, call(Tensor(x), Tensor(qkv)).data)


@pytest.mark.parametrize("module", [F, composed])
@pytest.mark.parametrize("requires_grad", [True, False])
def test_two_precisions_in_one_op_are_refused(module, requires_grad):
    x, weight = Tensor(np.ones((2, 4))), Tensor(np.ones((3, 4), np.float32), requires_grad)
    gain = Tensor(np.ones(4, np.float32), requires_grad)
    for call in (lambda: module.linear(x, weight), lambda: module.layer_norm(x, gain, gain)):
        with pytest.raises(TypeError, match=": operand 1 has dtype float32, the result float64"):
            call()


def test_an_empty_batch_has_gradients_of_0():
    x = Tensor(np.ones((0, 2, 4)), requires_grad=True)
    weight, bias = (Tensor(cotangent(s), requires_grad=True) for s in ((3, 4), (3,)))
    table = Tensor(cotangent((3, 4)), requires_grad=True)
    for module in (F, composed):
        for out in (module.linear(x, weight, bias), module.embedding(table, np.zeros((0, 2), int))):
            out.backward(np.ones(out.shape))
            assert out.shape[:2] == (0, 2)
    for leaf in (x, weight, bias, table):
        assert leaf.grad.shape == leaf.shape and not leaf.grad.any()


# -- errors --------------------------------------------------------------------------------------

X, QKV, Z = Tensor(np.ones((2, 4))), Tensor(np.ones((1, 2, 12))), Tensor(np.ones((2, 3, 5)))
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: F.linear(X, Tensor(np.ones((4, 5)))), ValueError, r"\(2, 4\) .* \(4, 5\)"),
        (lambda: F.linear(X, X[0]), ValueError, r"\(2, 4\) .* \(4,\)"),
        (lambda: F.linear(1.0, X[0]), ValueError, r"\(\) .* \(4,\)"),
        (lambda: F.linear_cross_entropy(1.0, X[0], 0), ValueError, r"\(\) .* \(4,\)"),
        (lambda: F.linear(X, Z), ValueError, r"\(2, 4\) .* \(2, 3, 5\)"),
        (lambda: F.linear(Tensor(1.0), X), ValueError, r"\(\) .* \(2, 4\)"),
        (lambda: F.linear(X, X, X[0, :1]), ValueError, r"\(2, 4\), but the bias \(1,\)"),
        (lambda: F.linear(X, X, X[:, :2]), ValueError, r"\(2, 4\), but the bias \(2, 2\)"),
        (lambda: F.embedding(X[0], [0]), ValueError, r"\(V, C\), not \(4,\)"),
        (lambda: F.embedding(Z, [0]), ValueError, r"\(V, C\), not \(2, 3, 5\)"),
        (lambda: F.causal_attention(QKV[:, :0], 2), ValueError, r"\(1, 0, 12\).* T at least 1"),
        (lambda: F.causal_attention(QKV, 0), ValueError, "n_head=0 must be at least 1"),
        (lambda: F.causal_attention(QKV, 2.0), TypeError, "n_head must be an integer"),
        (lambda: F.softmax(1.0), ValueError, r"\(..., n\), not \(\)"),
        (
            lambda: F.layer_norm(np.ones((2, 0)), *[Tensor(np.ones(0))] * 2),
            ValueError,
            r"weight \(0,\)",
        ),
        (lambda: F.cross_entropy(1.0, 0), ValueError, r"\(..., V\), not \(\)"),
        (lambda: F.layer_norm(X, X, X), ValueError, r"shape \(2, 4\), but weight \(2, 4\)"),
        (lambda: F.layer_norm(X, X[0], X[0, :1]), ValueError, r"\(4,\) and bias \(1,\)"),
        (lambda: F.embedding(X, [0, 2]), IndexError, r"ids\[1\] = 2 .*\[0, 2\)"),
        (lambda: F.embedding(X, [[0], [-1]]), IndexError, r"ids\[1, 0\] = -1 .*\[0, 2\)"),
        (lambda: F.embedding(X, [0.0]), TypeError, "integers, not float64"),
        (lambda: F.embedding(X, [True]), TypeError, "integers, not bool"),
        (lambda: F.dropout(X, 1.0, RNG), ValueError, r"p=1.0 .*\[0, 1\)"),
        (lambda: F.dropout(X, -0.1, RNG), ValueError, r"p=-0.1 must lie in \[0, 1\)"),
        (lambda: F.dropout(X, math.nan, RNG), ValueError, "p=nan"),
        (lambda: F.causal_attention(QKV, 3), ValueError, r"\(1, 2, 12\).*multiple of n_head=3"),
        (lambda: F.causal_attention(X, 2), ValueError, r"\(2, 4\) must be \(B, T, 3C\)"),
        (lambda: F.causal_attention(QKV, 2, 1.0, RNG), ValueError, r"p=1.0 .*\[0, 1\)"),
        (lambda: F.causal_attention(QKV, 2, 0.5), ValueError, "p=0.5 needs a generator"),
        (lambda: F.cross_entropy(Z, [[0, 1, 5], [0, 0, 0]]), IndexError, r"\[0, 2\] = 5 .*\[0, 5"),
        (lambda: F.cross_entropy(Z, [[0, 1, 0], [-1, 0, 0]]), IndexError, r"\[1, 0\] = -1 "),
        (lambda: F.cross_entropy(Z, np.zeros((2, 3))), TypeError, "integers, not float64"),
        (lambda: F.cross_entropy(Z, [0, 1]), ValueError, r"shape \(2,\).*need.*\(2, 3\)"),
        (lambda: F.cross_entropy(Z, np.full((2, 3), -100)), ValueError, "all 6 targets are ignor"),
    ],
)
def test_wrong_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_arrays_that_all_calls_share_cannot_be_written_to():
    for shared in (F._ones(3, np.dtype(np.float32)), F._hidden(3)):
        with pytest.raises(ValueError, match="read-only"):
            shared[0] = 0
