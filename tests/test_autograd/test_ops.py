"""Every primitive op, one table: its value and gradients against torch, numbers and properties.

Inputs and their sizes are random, and so are cotangents. Shapes are written in letters: "i1k,jk"
are two inputs of shapes (i, 1, k) and (j, k), a digit being that size itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes
from numpy.typing import NDArray

from autograd import Tensor, gradcheck
from autograd import tensor as ops
from tests.test_npgpt2.torch_gpt2 import assert_as_accurate, assert_close

SEEDS = st.integers(0, 2**32 - 1)


# -- the table -----------------------------------------------------------------------------------


normal = np.random.Generator.standard_normal


def positive(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray:
    return rng.uniform(0.5, 2.0, shape)


def away_from_0(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray:
    return positive(rng, shape) * rng.choice([-1.0, 1.0], shape)


def distinct(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray:
    """No ties, nor anything that a numeric derivative would take for one."""
    n = int(np.prod(shape))
    return 0.25 * (rng.permutation(n) - n // 2).reshape(shape)


class Case(NamedTuple):
    ours: Callable[..., Tensor]
    theirs: Callable[..., torch.Tensor]
    shapes: str
    draw: Callable[[np.random.Generator, tuple[int, ...]], NDArray]

    def inputs(self, seed: int, largest: int = 4) -> list[NDArray]:
        """Return float64 inputs that are float32 numbers, so that both dtypes compute the same."""
        rng = np.random.default_rng(seed)
        letters = {c: int(rng.integers(1, largest + 1)) for c in sorted(set(self.shapes))}
        sizes = letters | {c: int(c) for c in letters if c.isdigit()}
        shapes = [tuple(sizes[c] for c in shape) for shape in self.shapes.split(",")]
        drawn = (np.asarray(self.draw(rng, shape), dtype=np.float32) for shape in shapes)
        return [a.astype(np.float64) for a in drawn]


def checkered(shape: tuple[int, ...]) -> NDArray:
    return np.asarray(np.indices(shape).sum(axis=0) % 2 == 0)


def torch_getitem(index: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a gather from the flattened input: NumPy's indexing, torch's gradient."""

    def gather(x: torch.Tensor) -> torch.Tensor:
        positions = np.arange(x.numel()).reshape(x.shape)[index]
        return x.flatten()[torch.from_numpy(np.array(positions))]

    return gather


BASIC = (2, -1, np.int64(3), np.s_[1:3], np.s_[::2], np.s_[::-2], np.s_[2:2], None, ..., True)
TUPLES = ((1, -2, 0), np.s_[:, None, -2, ...], np.s_[..., 1, ::-1], np.s_[-1, ..., [0, 0]])
ARRAYS = ([0, -1, 3, 0], np.array([[1, -1], [1, 3]]), np.array(2), np.zeros((0, 2), dtype=int))
MIXED = (
    *(([0, 3, 0], [4, 1, 4]), ([[0], [3]], [1, 1, 2]), np.s_[[0, 0, 1], 1::2, [2, 2, 0]]),
    *(np.s_[:, [1, 1, -1], None], np.s_[checkered((4,)), [1, 1]], np.s_[:, checkered((5,))]),
)
MASKS = (checkered((4, 5, 3)), checkered((4, 5)), np.zeros(4, dtype=bool))
INDICES = {" ".join(repr(i).split()): i for i in (*BASIC, *TUPLES, *ARRAYS, *MIXED, *MASKS)}
BROADCASTS = ("ij,ij", "ijk,k", "k,ijk", "i1k,j1", "1,ij", ",ij", "ij,", ",", "0j,j", "i0,i1")
PRODUCTS = (
    *("i,i", "i,ij", "ij,j", "ij,jk", "i1,1k"),
    *("hij,j", "i,hij", "hij,jk", "ij,hjk", "hij,hjk", "hij,1jk", "h1ij,gjk", "1ij,hgjk"),
    *("i0,0k", "0j,jk", "0ij,jk", "0,0"),
)
WHERES = {"23,23": (2, 3), "3,23": (2, 1), "21,3": (4, 2, 3), "23,": (), ",": (3,), "0,10": (2, 1)}
AXES = (None, 0, -2, (0, 2), (-1, 0), (0, 1, 2))
RESHAPES = ((-1,), (4, 6), (6, -1), (2, 1, 12), (1, -1, 2, 1))
TRANSPOSES = (("ij", ()), ("ij", (1, 0)), ("ijk", ()), ("ijk", (-1, 0, -2)), ("i", ()), ("", ()))
JOINS = (("ij,kj", 0), ("ij,ik,il", -1), ("ijh,ikh", -2), ("0j,ij", 0), ("ij", 1))


def make_cases() -> Iterator[tuple[str, Case]]:
    for name, shapes in product(("add", "sub", "mul", "div"), BROADCASTS):
        draw = away_from_0 if name == "div" else normal
        yield f"{name} {shapes}", Case(getattr(ops, name), getattr(torch, name), shapes, draw)
    for shapes in PRODUCTS:
        yield f"matmul {shapes}", Case(ops.matmul, torch.matmul, shapes, normal)
    for name, shapes in product(("neg", "exp", "log", "tanh", "sqrt"), ("ij", "", "0j")):
        draw = positive if name in ("log", "sqrt") else normal
        yield f"{name} {shapes}", Case(getattr(ops, name), getattr(torch, name), shapes, draw)
    for n in (0, 0.0, 1, 2, 3, -1, 0.5, -1.5, np.float64(2.0), np.int64(3)):
        ours, theirs = partial(ops.power, n=n), partial(torch.pow, exponent=float(n))
        yield f"power {n!r}", Case(ours, theirs, "ij", positive if n % 1 else away_from_0)
    for shapes, shape in WHERES.items():
        ours = partial(ops.where, checkered(shape))
        theirs = partial(torch.where, torch.from_numpy(checkered(shape)))
        yield f"where {shape} {shapes}", Case(ours, theirs, shapes, normal)
    for op, torch_op in ((ops.sum, torch.sum), (ops.mean, torch.mean), (ops.max, torch.amax)):
        name, draw = op.__name__, distinct if op is ops.max else normal
        for keepdims, axis in product((False, True), AXES):
            ours = partial(op, axis=axis, keepdims=keepdims)
            dim = (0, 1, 2) if axis is None else axis
            theirs = partial(torch_op, dim=dim, keepdim=keepdims)
            yield f"{name} {axis} {keepdims}", Case(ours, theirs, "ijk", draw)
        yield f"{name} 0-d", Case(op, torch_op, "", draw)
        yield f"{name} size 0", Case(partial(op, axis=1), partial(torch_op, dim=1), "0j", draw)
    yield "sum of nothing", Case(partial(ops.sum, axis=0), partial(torch.sum, dim=0), "0j", normal)
    for new in RESHAPES:
        ours, theirs = (lambda x, f=f, new=new: f(x, new) for f in (ops.reshape, torch.reshape))
        yield f"reshape {new}", Case(ours, theirs, "234", normal)
    for shape, axes in TRANSPOSES:
        ours = lambda x, axes=axes: ops.transpose(x, *axes)  # noqa: E731
        theirs = partial(torch.permute, dims=axes or tuple(range(len(shape)))[::-1])
        yield f"transpose {shape} {axes}", Case(ours, theirs, shape, normal)
    for axes in ((0, 1), (0, -1), (-1, -2), (1, 1)):
        ours, theirs = (
            lambda x, f=f, axes=axes: f(x, *axes) for f in (ops.swapaxes, torch.swapaxes)
        )
        yield f"swapaxes {axes}", Case(ours, theirs, "ijk", normal)
    for name, index in INDICES.items():
        ours, theirs = partial(ops.getitem, index=index), torch_getitem(index)
        yield f"getitem {name}", Case(ours, theirs, "453", normal)
    for shapes, axis in JOINS:
        ours, theirs = (
            lambda *xs, f=f, axis=axis: f([*xs, xs[0]], axis) for f in (ops.concatenate, torch.cat)
        )
        yield f"concatenate {shapes} {axis}, the first twice", Case(ours, theirs, shapes, normal)


CASES = dict(make_cases())
each_op = pytest.mark.parametrize("name", CASES)
# Size 0 on its own has no derivative to be compared.
each_op_with_entries = pytest.mark.parametrize(
    "name", [n for n, case in CASES.items() if any("0" not in s for s in case.shapes.split(","))]
)


def cotangent(shape: tuple[int, ...], seed: int = 99) -> NDArray:
    rng = np.random.default_rng(seed)
    return np.array(rng.standard_normal(shape), dtype=np.float32).astype(np.float64)


def differentiate(
    op: Callable[..., Tensor],
    inputs: Sequence[NDArray],
    g: NDArray | None = None,
    dtype: type = np.float64,
) -> list[NDArray]:
    """The value of an op, then its gradient for each input."""
    leaves = [Tensor(np.asarray(a, dtype=dtype), requires_grad=True) for a in inputs]
    out = op(*leaves)
    out.backward(cotangent(out.shape) if g is None else g)
    return [out.data, *(leaf.grad for leaf in leaves)]


def differentiate_torch(
    op: Callable[..., torch.Tensor], inputs: Sequence[NDArray], g: NDArray, dtype: type = np.float64
) -> list[NDArray]:
    leaves = [torch.from_numpy(np.array(a, dtype)).requires_grad_() for a in inputs]
    out = op(*leaves)
    out.backward(torch.from_numpy(np.array(g, dtype)))
    return [out.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)]


# -- every op ------------------------------------------------------------------------------------


@each_op
@given(seed=SEEDS)
def test_value_and_gradients_equal_those_of_torch(name: str, seed: int) -> None:
    inputs = CASES[name].inputs(seed)
    mine = differentiate(CASES[name].ours, inputs)
    other = differentiate_torch(CASES[name].theirs, inputs, cotangent(mine[0].shape))
    for a, b in zip(mine, other, strict=True):
        assert_close(a, b, name)


@each_op_with_entries
@settings(max_examples=settings.default.max_examples // 5)
@given(seed=SEEDS)
def test_gradients_equal_numeric_ones(name: str, seed: int) -> None:
    inputs = CASES[name].inputs(seed, largest=3)
    for mode in ("directional", "full", "complex"):  # max of complex numbers goes by the real part
        report = gradcheck(CASES[name].ours, inputs, mode=mode, rng=seed)
        assert report.ok and report.checked > 0


@each_op
def test_float32_stays_and_is_as_accurate_as_in_torch(name: str) -> None:
    case, results = CASES[name], []
    for seed in range(12):  # with the one number of a 0-d array, either may be lucky
        # Magnitudes, so that no sum cancels: what is then left is no measure of an op.
        inputs = [np.abs(a) for a in case.inputs(seed, largest=8)]
        g = np.abs(cotangent(case.ours(*map(Tensor, inputs)).shape))
        mine = differentiate(case.ours, inputs, g, np.float32)
        other = differentiate_torch(case.theirs, inputs, g, np.float32)
        results.append((mine, other, differentiate(case.ours, inputs, g)))
    for i in range(len(results[0][0])):  # the value, and the gradient of each input
        mine, other, reference = (
            np.concatenate([arrays[i].ravel() for arrays in which])
            for which in zip(*results, strict=True)
        )
        assert_as_accurate(mine, other, reference, name)


@each_op
def test_gradients_are_linear_in_the_cotangent(name: str) -> None:
    op, inputs = CASES[name].ours, CASES[name].inputs(1)
    value, *_ = differentiate(op, inputs)
    g, h = cotangent(value.shape, 1), cotangent(value.shape, 2)
    results = (differentiate(op, inputs, g=c)[1:] for c in (g, h, 2.0 * g - 0.5 * h))
    for a, b, mixed in zip(*results, strict=True):
        assert_close(mixed, 2.0 * a - 0.5 * b, name)


@each_op
def test_zero_cotangent_gives_exactly_zero(name: str) -> None:
    op, inputs = CASES[name].ours, CASES[name].inputs(2)
    value, *_ = differentiate(op, inputs)
    for gradient in differentiate(op, inputs, g=np.zeros(value.shape))[1:]:
        assert not gradient.any()


def strided(a: NDArray) -> NDArray:
    """The same values, but in another order in memory, with gaps, and backwards."""
    memory = np.full(tuple(2 * n for n in a.shape[::-1]), np.nan)
    view = memory.T[(*[slice(None, None, -2)] * a.ndim, ...)]
    view[...] = a
    return view


@each_op
def test_memory_layout_does_not_matter(name: str) -> None:
    op, inputs = CASES[name].ours, CASES[name].inputs(3)
    contiguous = differentiate(op, inputs)
    g = strided(cotangent(contiguous[0].shape))
    for a, b in zip(differentiate(op, [strided(a) for a in inputs], g=g), contiguous, strict=True):
        assert_close(a, b, name)


@each_op
def test_inputs_and_cotangent_are_not_changed_nor_shared(name: str) -> None:
    op, inputs = CASES[name].ours, CASES[name].inputs(4)
    value, *once = differentiate(op, inputs)
    g = cotangent(value.shape)
    for a in (*inputs, g):
        a.flags.writeable = False  # whoever writes here fails
    leaves = [Tensor(a, requires_grad=True) for a in inputs]
    out = op(*leaves)
    out.backward(g, retain_graph=True)
    gradients = [leaf.grad for leaf in leaves]
    for i, gradient in enumerate(gradients):
        assert gradient.flags.writeable
        for other in (*inputs, g, out.data, *gradients[:i]):
            assert not np.shares_memory(gradient, other)
        gradient[...] = np.nan
    assert np.array_equal(out.data, value)
    for leaf in leaves:
        leaf.grad = None
    out.backward(g)  # what the vjp saved has not changed either
    for leaf, gradient in zip(leaves, once, strict=True):
        assert np.array_equal(leaf.grad, gradient)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "," in case.shapes])
def test_constant_operand_gets_no_gradient_and_changes_no_other(name: str) -> None:
    op, inputs = CASES[name].ours, CASES[name].inputs(5)
    _, *expected = differentiate(op, inputs)
    for i, gradient in enumerate(expected):
        leaves = [Tensor(a, requires_grad=i == j) for j, a in enumerate(inputs)]
        out = op(*leaves)
        out.backward(cotangent(out.shape))
        assert np.array_equal(leaves[i].grad, gradient)
        assert all(leaf.grad is None for j, leaf in enumerate(leaves) if j != i)


# -- operators and methods -----------------------------------------------------------------------

FORMS = {  # x and y are Tensors; a and b their arrays
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
    "x**3": "power(x, 3)",
    "x[1:, [0, 0]]": "getitem(x, (slice(1, None), [0, 0]))",
    "x.T": "transpose(x)",
    "x.transpose(0, 1)": "transpose(x, 0, 1)",
    "x.swapaxes(0, 1)": "swapaxes(x, 0, 1)",
    "x.transpose((-1, -2))": "transpose(x)",
    "x.transpose([1, 0])": "transpose(x)",
    "x.reshape(1, -1)": "reshape(x, (1, -1))",
    "concatenate(t for t in (x, y, x))": "concatenate([x, y, x])",
    "x.sum(1, True)": "sum(x, axis=1, keepdims=True)",
    "x.mean(0, True)": "mean(x, axis=0, keepdims=True)",
    "x.max(-1, True)": "max(x, axis=-1, keepdims=True)",
    **{f"x.{f}()": f"{f}(x)" for f in ("sum", "mean", "max", "exp", "log", "tanh", "sqrt")},
}


@pytest.mark.parametrize("form", FORMS)
def test_operators_and_methods_are_the_functions(form: str) -> None:
    rng = np.random.default_rng(7)
    a, b = positive(rng, (3, 3)), positive(rng, (3, 3))
    results = []
    for expression in (form, FORMS[form]):
        x, y = Tensor(a, requires_grad=True), Tensor(b, requires_grad=True)
        out = eval(expression, vars(ops) | {"x": x, "y": y, "a": a, "b": b})
        out.backward(cotangent(out.shape))
        results.append((out.data, x.grad, y.grad))
    for one, other in zip(*results, strict=True):
        assert np.array_equal(one, other)  # both None where not used


@pytest.mark.parametrize("name", "neg exp log tanh sqrt sum mean max transpose".split())
def test_functions_take_lists_and_plain_numbers(name: str) -> None:
    f = getattr(ops, name)
    for x in ([4, 1], 3):
        out = f(x)
        assert isinstance(out, Tensor) and out.dtype == np.float64 and not out.requires_grad
        assert np.array_equal(out.data, f(Tensor(np.array(x, dtype=float))).data)


# -- what ops are, in other words ----------------------------------------------------------------


@given(shapes=mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_dims=4), seed=SEEDS)
def test_unbroadcast_is_the_gradient_of_an_explicit_broadcast(shapes: Any, seed: int) -> None:
    shape = shapes.input_shapes[0]
    numbers = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    source = np.broadcast_to(numbers, shapes.result_shape)
    g = cotangent(shapes.result_shape, seed)
    each_use_added = np.zeros(shape)
    np.add.at(each_use_added.reshape(-1), source.ravel(), g.ravel())
    assert_close(ops.unbroadcast(g, shape), each_use_added)


@given(seed=SEEDS)
def test_gather_equals_a_product_with_one_hot_rows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = (int(k) for k in rng.integers(1, 6, 2))
    index, table = rng.integers(-n, n, m), rng.standard_normal((n, 3))
    gathered = differentiate(lambda t: t[index], [table])
    multiplied = differentiate(lambda t: np.eye(n)[index] @ t, [table])
    for a, b in zip(gathered, multiplied, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize(
    "op",
    [
        lambda x, i, c: x[i],
        lambda x, i, c: x[0, i],
        lambda x, i, c: x[c],
        lambda x, i, c: ops.where(c, x, 0.0),
    ],
)
def test_indices_and_conditions_may_change_between_forward_and_backward(op: Any) -> None:
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
def test_inverses_are_the_identity_in_value_and_gradient(name: str) -> None:
    a, g = cotangent((2, 3, 4), 1), cotangent((2, 3, 4), 2)
    value, gradient = differentiate(INVERSES[name], [a], g=g)
    assert np.array_equal(value, a) and np.array_equal(gradient, g)


@given(seed=SEEDS, axis=st.sampled_from([None, 0, 1, -1, (0, 1)]), keepdims=st.booleans())
def test_max_shares_its_cotangent_equally_between_ties(
    seed: int, axis: Any, keepdims: bool
) -> None:
    a = np.random.default_rng(seed).integers(0, 3, (4, 5)).astype(np.float64)
    value, gradient = differentiate(partial(ops.max, axis=axis, keepdims=keepdims), [a])
    g = cotangent(value.shape).reshape(a.max(axis=axis, keepdims=True).shape)
    assert_close(gradient.sum(axis=axis, keepdims=True), g)
    largest = a == a.max(axis=axis, keepdims=True)
    shares = np.broadcast_to(g / largest.sum(axis=axis, keepdims=True), a.shape)
    assert_close(gradient, np.where(largest, shares, 0.0))


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_branch_not_chosen_does_no_harm(bad: float) -> None:
    a, b, chosen = np.array([1.0, bad, 3.0]), np.array([bad, 5.0, bad]), [True, False, True]
    g = np.array([0.5, -2.0, 7.0])
    value, da, db = differentiate(partial(ops.where, chosen), [a, b], g=g)
    assert value.tolist() == [1.0, 5.0, 3.0]
    assert da.tolist() == [0.5, 0.0, 7.0] and db.tolist() == [0.0, -2.0, 0.0]


@pytest.mark.parametrize(("n", "slope"), [(0, 0.0), (0.0, 0.0), (1, 1.0), (2, 0.0), (1.5, 0.0)])
def test_power_has_its_limit_as_the_slope_at_0(n: float, slope: float) -> None:
    value, gradient = differentiate(partial(ops.power, n=n), [np.zeros(2)], g=np.array([3.0, -5.0]))
    assert value.tolist() == [float(n == 0)] * 2
    assert gradient.tolist() == [3.0 * slope, -5.0 * slope]


# -- errors --------------------------------------------------------------------------------------

X, X32 = Tensor(np.ones((2, 3))), Tensor(np.ones((2, 3), dtype=np.float32))
NAMES = vars(ops) | {"x": X, "x32": X32, "v": Tensor(np.ones(3)), "one": Tensor([1.0])}
BINARY = (ops.add, ops.sub, ops.mul, ops.div, ops.matmul, partial(ops.where, True))


@pytest.mark.parametrize("op", BINARY)
def test_operands_of_two_precisions_are_refused(op: Callable[..., Tensor]) -> None:
    for pair in ((X[:, :2], X32[:, :2]), (X32[:, :2], X[:, :2])):
        with pytest.raises(TypeError, match="operand . has dtype float32, the result float64"):
            op(*pair)


@pytest.mark.parametrize("op", BINARY)
def test_shapes_that_do_not_broadcast_are_refused(op: Callable[..., Tensor]) -> None:
    for shape in ((2,), (3, 2, 2), (4, 5, 3)):
        with pytest.raises(ValueError):
            op(X, Tensor(np.ones(shape)))


@pytest.mark.parametrize("n", [X, np.ones(3), np.array(2.0), 1j, "2", None])
def test_exponent_must_be_a_number(n: Any) -> None:
    with pytest.raises(TypeError, match=r"must be a number.*exp\(n \* log\(a\)\)"):
        ops.power(X, n)


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("matmul(v, one)", ValueError),
        ("matmul(one, v)", ValueError),
        ("matmul(v, 2.0)", ValueError),
        ("matmul(2.0, x)", ValueError),
        ("2.0**x", TypeError),
        ("concatenate([])", ValueError),
        ("concatenate([x, v])", ValueError),
        ("concatenate([x, x.T])", ValueError),
        ("concatenate([x, x32])", TypeError),
        ("concatenate([x, x], axis=2)", np.exceptions.AxisError),
        ("concatenate(iter(()))", ValueError),
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
def test_wrong_arguments_are_refused(expression: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        eval(expression, NAMES)
