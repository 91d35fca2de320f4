"""Every primitive op: the properties of all ops, the same op of torch, and special cases."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import autograd
from autograd import Tensor
from autograd import tensor as ops
from autograd.testing import (
    OPS,
    arrays,
    axes,
    broadcastable,
    broadcastable_arrays,
    check_op,
    cotangent,
    indices,
    matmul_arrays,
    shapes,
)
from tests.optional import has, needs
from tests.test_npgpt2.cases import assert_close

if has("torch"):
    import torch

SEEDS = st.integers(0, 2**32 - 1)


def gather(x, index):
    """Index the flattened input: NumPy finds the positions, torch computes the gradient."""
    positions = np.arange(x.numel()).reshape(x.shape)[index]
    return x.flatten()[torch.from_numpy(np.array(positions))]


def of_torch(name):
    """Return torch's function of this name, looked up at the call, because torch may be missing."""
    return lambda *args, **keywords: getattr(torch, name)(*args, **keywords)


def over_axes(reduce):
    def reduced(x, axis, keepdims):
        if axis == () or not x.ndim:
            return x  # here torch would reduce over all axes, or raise an error
        dim = tuple(range(x.ndim)) if axis is None else axis
        return reduce(x, dim=dim, keepdim=keepdims)

    return reduced


def limited(x, a_min, a_max):
    for limit, choose in ((a_min, torch.maximum), (a_max, torch.minimum)):
        x = x if limit is None else choose(x, torch.tensor(float(limit), dtype=x.dtype))
    return x


def deviation(name):
    def of(x, axis, keepdims, ddof):
        if axis == () or not x.ndim:  # one element each; torch would reduce over all axes
            return (x - x) ** 2 / (1.0 - ddof)
        dim = tuple(range(x.ndim)) if axis is None else axis
        return getattr(torch, name)(x, dim=dim, correction=ddof, keepdim=keepdims)

    return of


def padded(x, pad_width, mode):
    """Pad the positions with NumPy, and select; a border of constants has the position -1."""
    positions = np.arange(x.numel()).reshape(x.shape)
    options = {"constant_values": -1} if mode == "constant" else {}
    source = torch.from_numpy(np.pad(positions, pad_width, mode, **options))
    return torch.cat([x.flatten(), torch.tensor([0.5], dtype=x.dtype)])[source]


def cut_and_joined(x, indices_or_sections, axis):
    parts = np.split(np.arange(x.shape[axis]), indices_or_sections)
    return torch.index_select(x, axis, torch.from_numpy(np.concatenate(parts[::-1])))


TORCH = {
    **{name: of_torch(name) for name in "add sub mul div matmul".split()},
    **{name: of_torch(name) for name in "neg exp tanh log sqrt".split()},
    **{name: of_torch(name) for name in "log1p sin cos sigmoid abs relu maximum minimum".split()},
    "clip": lambda x, low, high: torch.minimum(torch.maximum(x, low), high),
    "clip to numbers": limited,
    "min": over_axes(of_torch("amin")),
    "var": deviation("var"),
    "std": deviation("std"),
    "cumsum": lambda x, axis: torch.cumsum(x.flatten() if axis is None else x, axis or 0),
    "einsum": lambda *xs, subscripts: torch.einsum(subscripts, *xs),
    "flatten": of_torch("flatten"),
    "squeeze": lambda x, axis: torch.squeeze(x) if axis is None else torch.squeeze(x, axis),
    "expand_dims": lambda x, axis: x.reshape(np.expand_dims(np.empty(x.shape), axis).shape),
    "broadcast_to": lambda x, shape: torch.broadcast_to(x, shape),
    "pad": padded,
    "stack": lambda *xs, axis: torch.stack(xs, axis),
    "split, joined in the opposite order": cut_and_joined,
    "power of two Tensors": of_torch("pow"),
    "power": lambda x, n: x ** float(n),
    "power of any base": lambda x, n: x ** float(n),
    "where": lambda a, b, condition: torch.where(torch.from_numpy(np.array(condition)), a, b),
    "sum": over_axes(of_torch("sum")),
    "mean": over_axes(of_torch("mean")),
    "max": over_axes(of_torch("amax")),
    "reshape": of_torch("reshape"),
    "transpose": lambda x, axes: torch.permute(x, axes or tuple(range(x.ndim))[::-1]),
    "swapaxes": lambda x, axis1, axis2: torch.swapaxes(x, axis1, axis2),
    "getitem": gather,
    "concatenate, the first twice": lambda *xs, axis: torch.cat([*xs, xs[0]], axis),
}
each_op = pytest.mark.parametrize("name", TORCH)


def differentiate(op, inputs, g=None):
    """Return the value of an op, then the gradient of each input."""
    leaves = [Tensor(a, requires_grad=True) for a in inputs]
    out = op(*leaves)
    out.backward(cotangent(out.shape) if g is None else g)
    return [out.data, *(leaf.grad for leaf in leaves)]


# -- every op ------------------------------------------------------------------------------------


def test_every_op_has_a_spec():
    modules = ("autograd.tensor", "autograd.einsum")
    defined = {**vars(ops), **vars(autograd)}.items()
    functions = {name for name, f in defined if getattr(f, "__module__", "") in modules}
    public = {name for name in functions if not name.startswith("_")}
    no_op = "Tensor record is_recorded op_name as_tensor no_grad enable_grad unbroadcast".split()
    assert public - {*no_op} == {name.replace(",", " ").split()[0] for name in TORCH}
    assert set(TORCH) <= set(OPS)


@each_op
def test_every_op_has_all_properties(name):
    check_op(OPS[name], max_examples=max(50, settings.default.max_examples))


@needs("torch")
@each_op
def test_value_and_gradients_equal_those_of_torch(name):
    spec = OPS[name]

    @given(spec.calls(), SEEDS)
    def check(call, seed):
        leaves = [torch.from_numpy(np.array(a)).requires_grad_() for a in call.operands]
        expected = TORCH[name](*leaves, **call.keywords)
        g = cotangent(tuple(expected.shape), seed=seed)
        expected.backward(torch.from_numpy(g))
        value, *gradients = spec.differentiate(call, g)
        assert_close(value, expected.detach().numpy(), name)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            assert_close(gradient, leaf.grad.numpy(), name)

    check()


def test_a_number_has_no_border():
    for mode in ("constant", "edge"):
        value, gradient = differentiate(lambda x, mode=mode: ops.pad(2.0 * x, 1, mode), [3.0])
        assert value.shape == gradient.shape == () and value == 6.0


def test_axes_without_entries_may_stay():
    for op in (ops.mean, ops.max):
        value, gradient = differentiate(partial(op, axis=1), [np.zeros((0, 3))])
        assert value.shape == (0,) and gradient.shape == (0, 3)


# -- operators and methods -----------------------------------------------------------------------

FORMS = {  # x and y are Tensors; a and b are their arrays
    "x + y": "add(x, y)",
    "x - y": "sub(x, y)",
    "x * y": "mul(x, y)",
    "x / y": "div(x, y)",
    "x @ y": "matmul(x, y)",
    "a + y": "add(a, y)",
    "a - y": "sub(a, y)",
    "a * y": "mul(a, y)",
    "a / y": "div(a, y)",
    "a @ y": "matmul(a, y)",
    "x @ b": "matmul(x, b)",
    "2 - y": "sub(2.0, y)",
    "2 / y": "div(2.0, y)",
    "-x": "neg(x)",
    "+x * y": "mul(x, y)",
    "abs(x)": "x.abs()",
    "2.0**y": "power(2.0, y)",
    "a**y": "power(a, y)",
    "x**y": "power(x, y)",
    "x**b": "power(x, b)",
    "x.clip(0.8, 1.5)": "minimum(maximum(x, 0.8), 1.5)",
    "x.clip(a_max=1.0)": "x.minimum(1.0)",
    "x.clip(min=0.8)": "x.maximum(0.8)",
    "clip(x, min=0.8, max=y)": "x.clip(0.8, y)",
    "clip(x, 0.8, 1.9, min=0.9, max=1.5)": "x.clip(0.9, 1.5)",
    "clip(x)": "add(x, 0.0)",
    "x.var(1, 1, True)": "var(x, axis=1, ddof=1, keepdims=True)",
    "x.std(0)": "std(x, 0)",
    "x.cumsum(-1)": "cumsum(x, axis=1)",
    "x.cumsum()": "cumsum(flatten(x), 0)",
    "x[:1].squeeze()": "x[0]",
    "stack([x, b])": "concatenate([x[None], b[None]])",
    "split(x, 3)[1]": "x[1:2]",
    "pad(x, 1)[1:-1, 1:-1]": "add(x, 0.0)",
    "pad(x, {0: 2, -1: (0, 1)})": "pad(x, ((2, 2), (0, 1)))",
    "pad(x, {1: (2, 1)}, 'edge')": "x[:, [0, 0, 0, 1, 2, 2]]",
    "x.real": "add(x, 0.0)",
    "x**3": "power(x, 3)",
    "x[1:, [0, 0]]": "getitem(x, (slice(1, None), [0, 0]))",
    "x.T": "transpose(x)",
    "x.transpose(0, 1)": "transpose(x, 0, 1)",
    "x.swapaxes(0, 1)": "swapaxes(x, 0, 1)",
    "x.transpose((-1, -2))": "transpose(x)",
    "x.transpose([1, 0])": "transpose(x)",
    "x.reshape(1, -1)": "reshape(x, (1, -1))",
    "concatenate(t for t in (x, y, x))": "concatenate([x, y, x])",
    "concatenate([x[0], y, a], axis=None)": "concatenate([x[0], y.flatten(), a.flatten()])",
    "x.ravel()": "flatten(x)",
    "x.dot(y)": "matmul(x, y)",
    "x.dot(a[0])": "matmul(x, a[0])",
    "x.dot(2)": "mul(x, 2.0)",
    "x.sum(1, True)": "sum(x, axis=1, keepdims=True)",
    "x.mean(0, True)": "mean(x, axis=0, keepdims=True)",
    "x.max(-1, True)": "max(x, axis=-1, keepdims=True)",
    **{f"x.{f}()": f"{f}(x)" for f in "sum mean max min var std exp log log1p sqrt".split()},
    **{f"x.{f}()": f"{f}(x)" for f in "sin cos tanh sigmoid relu abs flatten cumsum".split()},
}


@pytest.mark.parametrize("form", FORMS)
def test_operators_and_methods_are_the_functions(form):
    a, b = np.random.default_rng(7).uniform(0.5, 2.0, (2, 3, 3))
    results = []
    for expression in (form, FORMS[form]):
        x, y = Tensor(a, requires_grad=True), Tensor(b, requires_grad=True)
        out = eval(expression, vars(ops) | {"x": x, "y": y, "a": a, "b": b})
        out.backward(cotangent(out.shape))
        results.append((out.data, x.grad, y.grad))
    for one, other in zip(*results, strict=True):
        assert np.array_equal(one, other)  # both are None if the form has no y


@pytest.mark.parametrize("name", "neg exp log tanh sqrt sum mean max transpose".split())
def test_functions_take_lists_and_plain_numbers(name):
    f = getattr(ops, name)
    for x in ([4, 1], 3):
        out = f(x)
        assert isinstance(out, Tensor) and out.dtype == np.float64 and not out.requires_grad
        assert np.array_equal(out.data, f(Tensor(np.array(x, dtype=float))).data)


# -- the same result, computed in another way ----------------------------------------------------


@given(broadcastable(2), SEEDS)
def test_unbroadcast_is_the_gradient_of_an_explicit_broadcast(pair, seed):
    shape, result = pair[0], np.broadcast_shapes(*pair)
    numbers = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    source = np.broadcast_to(numbers, result)
    g = cotangent(result, seed=seed)
    each_use_added = np.zeros(shape)
    np.add.at(each_use_added.reshape(-1), source.ravel(), g.ravel())
    assert_close(ops.unbroadcast(g, shape), each_use_added)


def broadcast_first(op, a, b):
    """Broadcast the operands first, then sum each gradient over all copies of a number."""
    value, da, db = differentiate(op, [np.array(x) for x in np.broadcast_arrays(a, b)])
    return [value, ops.unbroadcast(da, a.shape), ops.unbroadcast(db, b.shape)]


@given(broadcastable_arrays(2))
@pytest.mark.parametrize("op", [ops.add, ops.sub, ops.mul, lambda a, b: a / (2.0 + b * b)])
def test_gradient_of_a_broadcast_operand_is_the_sum_over_its_uses(op, pair):
    for a, b in zip(differentiate(op, pair), broadcast_first(op, *pair), strict=True):
        assert_close(a, b)


@given(matmul_arrays())
def test_gradient_of_a_product_is_that_of_its_sum_of_products(pair):
    """out_ij = sum_k a_ik b_kj: broadcast, multiply entry by entry, and sum over k."""

    def spelled(a, b):
        rows = a.reshape(1, -1) if a.ndim == 1 else a
        columns = b.reshape(-1, 1) if b.ndim == 1 else b
        out = (rows[..., :, :, None] * columns[..., None, :, :]).sum(axis=-2)
        out = out[..., 0] if b.ndim == 1 else out
        return out if a.ndim > 1 else out[..., 0, :] if b.ndim > 1 else out[..., 0]

    for x, y in zip(differentiate(ops.matmul, pair), differentiate(spelled, pair), strict=True):
        assert_close(x, y)


def checkered(shape):
    return np.asarray(np.indices(shape).sum(axis=0) % 2 == 0)


def assert_gathers(shape, index):
    """x[index] and its gradient are products with one-hot rows, one row per selected entry."""
    x = cotangent(shape, seed=1)
    rows = np.eye(x.size)[np.arange(x.size).reshape(shape)[index]]
    g = cotangent(rows.shape[:-1], seed=2)
    value, gradient = differentiate(partial(ops.getitem, index=index), [x], g=g)
    assert np.array_equal(value, rows @ x.ravel())
    assert_close(gradient.ravel(), np.tensordot(g, rows, axes=g.ndim))


@given(shapes().flatmap(lambda shape: st.tuples(st.just(shape), indices(shape))))
def test_gather_equals_a_product_with_one_hot_rows(drawn):
    assert_gathers(*drawn)


BASIC = (2, -1, np.int64(3), np.s_[1:3], np.s_[::2], np.s_[::-2], np.s_[2:2], None, ..., True)
TUPLES = ((1, -2, 0), np.s_[:, None, -2, ...], np.s_[..., 1, ::-1], np.s_[-1, ..., [0, 0]])
ARRAYS = ([0, -1, 3, 0], np.array([[1, -1], [1, 3]]), np.array(2), np.zeros((0, 2), dtype=int))
MIXED = (
    *(([0, 3, 0], [4, 1, 4]), ([[0], [3]], [1, 1, 2]), np.s_[[0, 0, 1], 1::2, [2, 2, 0]]),
    *(np.s_[:, [1, 1, -1], None], np.s_[checkered((4,)), [1, 1]], np.s_[:, checkered((5,))]),
)
MASKS = (checkered((4, 5, 3)), checkered((4, 5)), np.zeros(4, dtype=bool))


@pytest.mark.parametrize(
    "index", (*BASIC, *TUPLES, *ARRAYS, *MIXED, *MASKS), ids=lambda i: " ".join(repr(i).split())
)
def test_every_kind_of_index_gathers(index):
    assert_gathers((4, 5, 3), index)


@pytest.mark.parametrize(
    "op",
    [
        lambda x, i, c: x[i],
        lambda x, i, c: x[0, i],
        lambda x, i, c: x[c],
        lambda x, i, c: ops.where(c, x, 0.0),
    ],
)
def test_indices_and_conditions_may_change_between_forward_and_backward(op):
    x = Tensor(cotangent((4, 4)), requires_grad=True)
    index, condition = np.array([3, 1, 1]), checkered((4, 4))
    out = op(x, index, condition)
    expected = out.vjp(cotangent(out.shape))[0]
    index[...], condition[...] = 0, ~condition
    out.backward(cotangent(out.shape))
    assert np.array_equal(x.grad, expected)


INVERSES = {
    "reshape": lambda x: x.reshape(-1).reshape(2, 3, 4),
    "transpose": lambda x: x.transpose(2, 0, 1).transpose(1, 2, 0),
    "T": lambda x: x.T.T,
    "swapaxes": lambda x: x.swapaxes(0, -1).swapaxes(0, -1),
    "split and concatenate": lambda x: ops.concatenate([x[:, :1], x[:, 1:]], axis=1),
    "concatenate and split": lambda x: ops.concatenate([x[1:], x, x[:1]], axis=0)[1:3],
    "backwards": lambda x: x[::-1, :, ::-1][::-1, :, ::-1],
    "permutation": lambda x: x[:, [2, 0, 1]][:, [1, 2, 0]],
    "None": lambda x: x[None, ..., None][0, ..., 0],
}


@pytest.mark.parametrize("name", INVERSES)
@given(arrays((2, 3, 4)), arrays((2, 3, 4)))
def test_inverses_are_the_identity_in_value_and_gradient(name, a, g):
    value, gradient = differentiate(INVERSES[name], [a], g=g)
    assert np.array_equal(value, a) and np.array_equal(gradient, g)


REDUCED = shapes(min_side=1).flatmap(lambda shape: st.tuples(st.just(shape), axes(len(shape))))


@given(REDUCED, st.booleans())
def test_gradient_of_sum_and_mean_is_the_cotangent_broadcast(drawn, keepdims):
    shape, axis = drawn
    ones = np.ones(shape).sum(axis=axis, keepdims=True)  # the number of entries in each sum
    g = cotangent(ones.shape)
    of_result = g if keepdims else g.reshape(np.ones(shape).sum(axis=axis).shape)
    for op, weight in ((ops.sum, 1.0), (ops.mean, 1.0 / ones)):
        x = cotangent(shape, seed=1)
        _, gradient = differentiate(partial(op, axis=axis, keepdims=keepdims), [x], g=of_result)
        assert_close(gradient, np.broadcast_to(g * weight, shape))


LONG = [((100_000, 3), 0), ((300, 7, 40), (0, 1)), ((5, 20_000, 2), 1), ((70_000, 2, 3), (0, 2))]


@pytest.mark.parametrize(("shape", "axis"), LONG)
@pytest.mark.parametrize("keepdims", [False, True])
def test_long_sums_of_float32_are_accurate(shape, axis, keepdims):
    """Equal terms are the hardest: each addition rounds in the same direction."""
    terms = {"equal": np.full(shape, 0.1), "normal": 1.0 + cotangent(shape)}
    for name, x in terms.items():
        x = x.astype(np.float32)
        exact = x.sum(axis=axis, keepdims=keepdims, dtype=np.float64)
        total = ops.sum(Tensor(x), axis, keepdims).data
        assert total.dtype == np.float32 and total.shape == exact.shape
        np.testing.assert_allclose(total, exact, rtol=5e-7, err_msg=name)


def test_the_gradient_of_a_bias_for_many_rows_is_accurate():
    bias = Tensor(np.zeros(3, dtype=np.float32), requires_grad=True)
    for shape in ((100_000, 3), (4, 30_000, 3)):
        bias.grad = None
        g = np.full(shape, 0.1, dtype=np.float32)
        (np.zeros(shape, dtype=np.float32) + bias).backward(g)
        np.testing.assert_allclose(bias.grad, g.size / 3 * float(g.flat[0]), rtol=5e-7)


@given(seed=SEEDS, axis=st.sampled_from([None, 0, 1, -1, (0, 1)]), keepdims=st.booleans())
def test_max_shares_its_cotangent_equally_between_ties(seed, axis, keepdims):
    a = np.random.default_rng(seed).integers(0, 3, (4, 5)).astype(np.float64)
    value, gradient = differentiate(partial(ops.max, axis=axis, keepdims=keepdims), [a])
    g = cotangent(value.shape).reshape(a.max(axis=axis, keepdims=True).shape)
    assert_close(gradient.sum(axis=axis, keepdims=True), g)
    largest = a == a.max(axis=axis, keepdims=True)
    shares = np.broadcast_to(g / largest.sum(axis=axis, keepdims=True), a.shape)
    assert_close(gradient, np.where(largest, shares, 0.0))


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_branch_not_chosen_does_no_harm(bad):
    a, b, chosen = np.array([1.0, bad, 3.0]), np.array([bad, 5.0, bad]), [True, False, True]
    g = np.array([0.5, -2.0, 7.0])
    value, da, db = differentiate(partial(ops.where, chosen), [a, b], g=g)
    assert value.tolist() == [1.0, 5.0, 3.0]
    assert da.tolist() == [0.5, 0.0, 7.0] and db.tolist() == [0.0, -2.0, 0.0]


@given(arrays((3, 4)), arrays((3, 4), st.sampled_from([0.0, 1.0])))
def test_zero_cotangent_gives_zero_even_where_infinities_were_masked_out(scores, kept):
    kept[:, 0] = 1.0  # a row needs one score that is not masked out

    def masked_softmax(x):
        e = ops.exp(ops.where(kept > 0.0, x, -np.inf))
        return e / e.sum(axis=-1, keepdims=True)

    _, gradient = differentiate(masked_softmax, [scores], g=np.zeros((3, 4)))
    assert not gradient.any()
    value, gradient = differentiate(masked_softmax, [scores])
    assert not value[kept == 0.0].any() and not gradient[kept == 0.0].any()


def test_the_absolute_value_of_a_zero_is_positive():
    assert not np.signbit(ops.abs(np.array([0.0, -0.0, -2.0])).data).any()


@pytest.mark.parametrize(("n", "slope"), [(0, 0.0), (0.0, 0.0), (1, 1.0), (2, 0.0), (1.5, 0.0)])
def test_power_has_its_limit_as_the_slope_at_0(n, slope):
    value, gradient = differentiate(partial(ops.power, n=n), [np.zeros(2)], g=np.array([3.0, -5.0]))
    assert value.tolist() == [float(n == 0)] * 2
    assert gradient.tolist() == [3.0 * slope, -5.0 * slope]


# -- errors --------------------------------------------------------------------------------------

X, X32 = Tensor(np.ones((2, 3))), Tensor(np.ones((2, 3), dtype=np.float32))
NAMES = vars(ops) | {"x": X, "x32": X32, "v": Tensor(np.ones(3)), "one": Tensor([1.0])}
BINARY = (ops.add, ops.sub, ops.mul, ops.div, ops.matmul, partial(ops.where, True))


@pytest.mark.parametrize("op", BINARY)
def test_operands_of_two_precisions_are_refused(op):
    for pair in ((X[:, :2], X32[:, :2]), (X32[:, :2], X[:, :2])):
        with pytest.raises(TypeError, match="operand . has dtype float32, the result float64"):
            op(*pair)


@pytest.mark.parametrize("op", BINARY)
def test_shapes_that_do_not_broadcast_are_refused(op):
    for shape in ((2,), (3, 2, 2), (4, 5, 3)):
        with pytest.raises(ValueError):
            op(X, Tensor(np.ones(shape)))


@pytest.mark.parametrize("n", ["2", None, [None], np.array("2")])
def test_exponent_must_be_a_number_or_an_array_of_numbers(n):
    with pytest.raises(TypeError, match="float32, float64 or complex data, not"):
        ops.power(X, n)


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("matmul(v, one)", ValueError),
        ("matmul(one, v)", ValueError),
        ("matmul(v, 2.0)", ValueError),
        ("matmul(2.0, x)", ValueError),
        ("concatenate([])", ValueError),
        ("concatenate([x, v])", ValueError),
        ("concatenate([x, x.T])", ValueError),
        ("concatenate([x, x32])", TypeError),
        ("concatenate([x, x], axis=2)", np.exceptions.AxisError),
        ("concatenate(iter(()))", ValueError),
        ("pad(x, None)", TypeError),
        ("pad(x, {0: 1.5})", TypeError),
        ("pad(x, {2: 1})", IndexError),
        ("reshape(x, 4)", ValueError),
        ("transpose(x, 0)", ValueError),
        ("transpose(x, 0, 0)", ValueError),
        ("transpose(x, 0, 3)", IndexError),
        ("transpose(sum(x), 0)", IndexError),
        ("swapaxes(x, 0, 2)", IndexError),
        ("x[2]", IndexError),
        ("x[1.0]", IndexError),
        ("x[[True, False, True]]", IndexError),
        ("sum(x, axis=2)", IndexError),
        ("mean(x, axis=-3)", IndexError),
        ("max(x, axis=(0, 0))", ValueError),
        ("max(x[:0], axis=0)", ValueError),
    ],
)
def test_wrong_arguments_are_refused(expression, error):
    with pytest.raises(error):
        eval(expression, NAMES)
