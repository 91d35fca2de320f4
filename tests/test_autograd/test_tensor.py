"""The promises of a Tensor: dtypes, gradients, errors, memory, and its use as an array."""

from __future__ import annotations

import copy
import gc
import operator
import pickle
import subprocess
import sys
import threading
import tracemalloc
import weakref
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autograd import Tensor, concatenate, enable_grad, exp, no_grad, record, tanh, where

ROOT = Path(__file__).parents[2]
SEEDS = st.integers(0, 2**32 - 1)
FLOATS = [np.float32, np.float64]
each_float = pytest.mark.parametrize("dtype", FLOATS)


def normal(*shape, seed=0, dtype=np.float64):
    return np.asarray(np.random.default_rng(seed).standard_normal(shape), dtype=dtype)


def leaf(*shape, seed=0, dtype=np.float64):
    return Tensor(normal(*shape, seed=seed, dtype=dtype), requires_grad=True)


# -- construction --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [*FLOATS, np.complex64, np.complex128])
def test_float_and_complex_arrays_are_used_without_a_copy(dtype):
    a = np.ones((2, 3), dtype=dtype)
    t = Tensor(a)
    assert t.data is a and t.dtype == dtype
    assert t.grad is None and not t.requires_grad and t.parents == ()


@pytest.mark.parametrize("data", [3, True, [1, 2], [[True]], np.arange(3, dtype=np.uint8), 2.5, []])
def test_numbers_lists_integers_and_booleans_become_float64(data):
    t = Tensor(data, requires_grad=True)
    assert t.dtype == np.float64 and np.array_equal(t.data, np.asarray(data))
    assert isinstance(t.data, np.ndarray)


OTHER = [np.ones(2, np.float16), np.ones(2, np.longdouble), np.ones(2, ">f8"), "1", [None]]


@pytest.mark.parametrize("data", OTHER)
def test_other_data_is_refused(data):
    with pytest.raises(TypeError, match="float32, float64 or complex data, not .*convert it first"):
        Tensor(data)


def test_complex_values_have_no_gradient():
    with pytest.raises(TypeError, match="real and imaginary parts"):
        Tensor(1j, requires_grad=True)
    for args in ((), (1.0,), (1j,)):
        with pytest.raises(TypeError, match="no backward pass for complex"):
            (leaf() * 1j).backward(*args)


# -- the dtype of a result -----------------------------------------------------------------------

BINARY = [operator.add, operator.sub, operator.mul, operator.truediv]
SCALARS = [2, 2.0, True, np.float64(2.0), np.float32(2.0), np.int64(2), np.array(2.0)]
ARRAYS = [np.full((2, 3), 2, dtype=d) for d in (np.float32, np.float64, np.int64)] + [[1, 2, 3]]


@each_float
@pytest.mark.parametrize("op", BINARY)
@pytest.mark.parametrize("other", [*SCALARS, *ARRAYS])
def test_constants_take_the_dtype_of_the_tensor_they_meet(op, other, dtype):
    x = leaf(2, 3, dtype=dtype)
    constant = np.asarray(other, dtype=dtype)
    for out, value in ((op(x, other), op(x.data, constant)), (op(other, x), op(constant, x.data))):
        assert isinstance(out, Tensor) and out.dtype == dtype and out.requires_grad
        assert np.array_equal(out.data, value)


@each_float
def test_other_constants_keep_the_dtype_too(dtype):
    x = leaf(2, 3, dtype=dtype)
    outs = [
        x ** np.float64(2.0),
        x @ normal(3, 4),
        normal(4, 2).tolist() @ x,
        where(x > 0.0, x, np.float64(1.0)),
        concatenate([[[1, 2, 3]], x, normal(1, 3)]),
        x.mean(),
    ]
    assert [out.dtype for out in outs] == [dtype] * len(outs)


@pytest.mark.parametrize("op", [*BINARY, operator.matmul])
def test_tensors_of_two_precisions_do_not_mix(op):
    x, y = leaf(2, 2), leaf(2, 2, dtype=np.float32)
    for pair in ((x, y), (y, x)):
        with pytest.raises(TypeError, match="operand . has dtype float.*convert all operands"):
            op(*pair)


def test_an_op_that_loses_or_gains_precision_is_refused_in_the_forward_pass():
    x = leaf(3, dtype=np.float32)
    doubled = x.data * np.float64(2.0)
    for parents in ((x,), (Tensor(x.data), x)):
        for recording in (enable_grad, no_grad):
            with recording(), pytest.raises(TypeError, match="operand 0 .*float32, the result fl"):
                record(doubled, parents, lambda g: (g, g))


class Doubling:
    def __call__(self, g):
        return (2.0 * g,)

    def double(self, g):
        return (2.0 * g,)


def scaled(factor, g):
    return (factor * g,)


@pytest.mark.parametrize(
    ("vjp", "name"),
    [
        (exp(leaf()).grad_fn, "exp"),
        (Doubling().double, "double"),
        (scaled, "scaled"),
        (partial(scaled, 2.0), "scaled"),
        (partial(Doubling().double), "double"),
        (Doubling(), "Doubling"),
        (partial(Doubling()), "Doubling"),
    ],
)
def test_any_callable_may_be_a_vjp_and_has_a_name(vjp, name):
    x = leaf(3)
    assert record(2.0 * x.data, (x,), vjp).op == name
    with pytest.raises(TypeError, match=f"^{name}: operand 0"):
        record(x.data.astype(np.float32), (x,), vjp)


# -- backward: cotangents and gradients ----------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_cotangent_of_one_element_is_1_by_default(shape):
    x = leaf(*shape)
    (x * 3.0).backward()
    assert np.array_equal(x.grad, np.full(shape, 3.0))


@each_float
@pytest.mark.parametrize("g", [[1, 2], (1.0, 2.0), np.array([1, 2], np.uint8), np.float32([1, 2])])
def test_cotangent_is_taken_in_the_dtype_of_the_output(g, dtype):
    x = leaf(2, dtype=dtype)
    (x * 3).backward(g)
    assert x.grad.dtype == dtype and x.grad.tolist() == [3.0, 6.0]


@each_float
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 3)])
def test_gradient_is_an_array_like_the_leaf(shape, dtype):
    x, y = leaf(*shape, dtype=dtype), leaf(3, seed=1, dtype=dtype)
    for times in (1, 2, 3):
        out = tanh(x * y) + x
        out.backward(normal(*out.shape, seed=times))
        for t in (x, y):
            assert isinstance(t.grad, np.ndarray)
            assert (t.grad.shape, t.grad.dtype) == (t.data.shape, t.data.dtype)


@given(seed=SEEDS, k=st.integers(1, 6))
def test_gradients_accumulate_until_set_to_none(seed, k):
    x, cotangents = leaf(3, seed=seed), normal(k, 3, seed=seed + 1)
    expected = np.zeros(3)
    for g in cotangents:
        before = x.grad
        kept = None if before is None else before.copy()
        (x * x).backward(g)
        expected = expected + 2.0 * g * x.data
        assert before is None or np.array_equal(before, kept)  # the sum is a new array
    # Both add the same terms in the same order, but they may round 2gx differently.
    np.testing.assert_allclose(x.grad, expected, rtol=1e-13, atol=1e-13)
    x.grad = None
    (x * 4.0).backward(cotangents[0])
    assert np.array_equal(x.grad, 4.0 * cotangents[0])


def test_retained_graph_gives_twice_the_gradient():
    x, g = leaf(2, 3), normal(3, 2, seed=1)
    out = exp(x).T * 3.0
    out.backward(g, retain_graph=True)
    once = x.grad.copy()
    out.backward(g)
    assert np.array_equal(x.grad, 2.0 * once)


# -- backward: errors, and they change nothing ---------------------------------------------------


FAULTS = {  # the wrong vjp, and a part of the error message
    "shape of the first": (lambda g: (g[0], g), r"shape \(3,\) .* parent 0.*shape \(2, 3\)"),
    "shape of the second": (lambda g: (g, g[:, :1]), r"shape \(2, 1\) .* parent 1"),
    "transposed": (lambda g: (g, g.T), r"shape \(3, 2\) .* parent 1"),
    "precision": (lambda g: (g, g.astype(np.float32)), "float32 for parent 1, .* dtype float64"),
    "integers": (lambda g: (g.astype(int), g), "dtype int64 for parent 0"),
    "too few": (lambda g: (g,), "returned 1 gradients for 2 parents"),
    "nothing": (lambda g: (), "returned 0 gradients for 2 parents"),
    "too many": (lambda g: (g, g, g), "returned 3 gradients for 2 parents"),
    "None": (lambda g: (g, None), "returned None for parent 1"),
    "a number": (lambda g: (g, 0.0), "returned 0.0 for parent 1, not an array"),
    "a list": (lambda g: [g, g], "returned a list: a vjp returns a tuple"),
    "an array": (lambda g: g, "returned a ndarray: a vjp returns a tuple"),
}
each_fault = pytest.mark.parametrize("fault", FAULTS)


def faulty(fault, a, b):
    """Return a + b, with one fault in its vjp."""
    return record(a.data + b.data, (a, b), FAULTS[fault][0])


def three_leaves():
    """Return three leaves of shape (2, 3); the second has a gradient already."""
    x, y, z = (leaf(2, 3, seed=seed) for seed in (1, 2, 3))
    y.grad = normal(2, 3, seed=4)
    return x, y, z


def assert_refused(out, leaves, error, match, *args):
    """backward raises, and leaves every `.grad` the same array with the same values."""
    before = [(x.grad, copy.copy(x.grad)) for x in leaves]
    with pytest.raises(error, match=match):
        out.backward(*args)
    for x, (gradient, values) in zip(leaves, before, strict=True):
        assert x.grad is gradient and np.array_equal(gradient, values)


@each_fault
def test_faulty_op_deep_inside_is_an_error_and_changes_no_gradient(fault):
    x, y, z = leaves = three_leaves()
    out = faulty(fault, x * 2.0, y) * z + x + y
    assert_refused(out, leaves, (TypeError, ValueError), FAULTS[fault][1], normal(2, 3, seed=5))


@pytest.mark.parametrize(
    ("args", "error", "match"),
    [
        ((), ValueError, r"shape \(2, 3\) needs a cotangent"),
        ((1.0,), ValueError, r"cotangent of shape \(\) .* shape \(2, 3\)"),
        ((np.ones((3, 2)),), ValueError, r"cotangent of shape \(3, 2\)"),
        ((np.ones((1, 2, 3)),), ValueError, r"cotangent of shape \(1, 2, 3\)"),
        ((np.ones((2, 1)),), ValueError, r"cotangent of shape \(2, 1\)"),
        ((np.ones((2, 3), dtype=complex),), ValueError, "dtype complex128"),
        ((np.full((2, 3), "1"),), ValueError, "dtype <U1"),
        ((Tensor(np.ones((2, 3))),), TypeError, "derivatives of derivatives .* pass g.data"),
    ],
)
def test_wrong_cotangent_is_an_error_and_changes_nothing(args, error, match):
    leaves = three_leaves()
    out = leaves[0] * leaves[1]
    assert_refused(out, leaves, error, match, *args)
    out.backward(np.ones((2, 3)))  # the graph is still there


@pytest.mark.parametrize("wrong", [np.ones(3), np.ones((3, 2)), np.ones((2, 3), np.float32)])
def test_grad_that_does_not_fit_its_leaf_is_an_error_and_changes_no_other(wrong):
    leaves = three_leaves()
    leaves[2].grad = wrong
    out = leaves[0] * leaves[2] * leaves[1]
    message = r"\.grad has shape .* on a leaf of shape \(2, 3\) and dtype float64; set it to None"
    assert_refused(out, leaves, ValueError, message, normal(2, 3, seed=5))


def test_freed_graph_is_an_error_and_changes_no_gradient():
    x, y, z = leaves = three_leaves()
    shared, g = x * y, normal(2, 3, seed=4)
    out = shared + x
    out.backward(g)
    for again in (out, shared, shared * z + z, z + shared):
        assert_refused(again, leaves, RuntimeError, "retain_graph=True", g)


def test_backward_without_a_graph_is_an_error():
    x = leaf()
    with no_grad():
        unrecorded = x * x
    for out in (Tensor(1.0), Tensor(1.0) * 2.0, unrecorded, x.detach() * 2.0):
        assert_refused(out, (x,), RuntimeError, "requires no gradient")


# -- vjp -----------------------------------------------------------------------------------------


def test_vjp_is_pure_and_repeatable():
    x, y, g = leaf(2, 3), leaf(3, seed=1), normal(2, 3, seed=2)
    for out in (x * y, x / y, x + y, where(x > 0.0, x, y)):
        value, first = out.data.copy(), [a.copy() for a in out.vjp(g)]
        for a, b in zip(out.vjp(g.tolist()), first, strict=True):
            assert np.array_equal(a, b)
        assert x.grad is None and y.grad is None and out.grad is None
        assert len(out.parents) == 2 and np.array_equal(out.data, value)
        out.backward(g)
        assert np.array_equal(x.grad, first[0]) and np.array_equal(y.grad, first[1])
        x.grad = y.grad = None
    assert np.array_equal(g, normal(2, 3, seed=2))


@each_fault
def test_vjp_checks_what_the_op_returns(fault):
    with pytest.raises((TypeError, ValueError), match=FAULTS[fault][1]):
        faulty(fault, leaf(2, 3), leaf(2, 3)).vjp(np.ones((2, 3)))


def test_vjp_needs_a_graph_and_an_array():
    x = leaf()
    with pytest.raises(RuntimeError, match="is a leaf"):
        x.vjp(1.0)
    out = x * x
    with pytest.raises(ValueError, match="cotangent of shape"):
        out.vjp([1.0])
    with pytest.raises(TypeError, match="not a Tensor"):
        out.vjp(x)
    out.backward()
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        out.vjp(1.0)


# -- no_grad and detach --------------------------------------------------------------------------


def model(x, y):
    h = tanh(x @ y) / (1.0 + exp(-x.mean()))
    return where(h > 0.0, h**2, concatenate([h[:1], h[1:]])).max(axis=0)


def recording():
    return (leaf() * 2.0).requires_grad


@each_float
def test_no_grad_changes_no_bit_and_records_nothing(dtype):
    x, y = leaf(3, 4, dtype=dtype), leaf(4, 5, dtype=dtype)
    recorded = model(x, y)
    with no_grad():
        out = model(x, y)
    assert recorded.requires_grad and recorded.parents
    for unrecorded in (out, model(x.detach(), y.detach())):  # nor are ops of constants recorded
        assert np.array_equal(unrecorded.data, recorded.data)
        assert not unrecorded.requires_grad and unrecorded.parents == ()


def test_no_grad_nests_and_survives_exceptions():
    with no_grad():
        with no_grad():
            assert not recording()
        assert not recording()
        with pytest.raises(KeyError), no_grad():
            raise KeyError
        assert not recording()
    assert recording()
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert recording()


def test_enable_grad_records_inside_no_grad():
    with no_grad():
        with enable_grad():
            assert recording()
        assert not recording()
    with enable_grad(), no_grad():
        assert not recording()
    assert recording()


def test_no_grad_applies_to_one_thread():
    seen = []
    inside, done = threading.Event(), threading.Event()

    def work():
        seen.append(recording())
        with no_grad():
            inside.set()
            done.wait(10.0)
            seen.append(recording())

    with no_grad():
        thread = threading.Thread(target=work)
        thread.start()
        inside.wait(10.0)
        seen.append(recording())
    seen.append(recording())  # in this thread; the other one is still inside its no_grad
    done.set()
    thread.join()
    assert seen == [True, False, True, False]


def test_detach_shares_the_array_and_cuts_the_graph():
    x = leaf(3)
    y = x * 2.0
    cut = y.detach()
    assert cut.data is y.data and cut.parents == () and not cut.requires_grad and y.requires_grad
    (cut * x).backward(np.ones(3))
    assert np.array_equal(x.grad, cut.data)


# -- memory --------------------------------------------------------------------------------------


@pytest.fixture
def without_gc():
    """Let reference counts alone free objects: an object in a reference cycle stays alive."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def watch(root):
    """Return weak references to all nodes below root that are not leaves, and to their arrays."""
    nodes = [root]
    for node in nodes:
        nodes += [p for p in node.parents if p.parents and p not in set(nodes)]
    return [weakref.ref(thing) for node in nodes[1:] for thing in (node, node.data)]


def alive(refs):
    return len([ref for ref in refs if ref() is not None])


@pytest.mark.parametrize("freed_by", ["del", "backward"])
def test_graph_dies_with_its_loss_and_in_backward(without_gc, freed_by):
    loss = model(leaf(3, 4), leaf(4, 5)).sum()
    refs = watch(loss)
    assert alive(refs) == len(refs) > 20
    if freed_by == "del":
        del loss
    else:
        loss.backward()
    assert alive(refs) == 0


@pytest.mark.parametrize("retain_graph", [False, True])
def test_nodes_die_while_backward_is_running(without_gc, retain_graph):
    seen = []

    def look(a):
        return record(a.data.copy(), (a,), lambda g: (seen.append(alive(refs)), (g,))[1])

    bottom = look(leaf(3, 3))
    loss = model(bottom, bottom).sum()
    refs = [ref for ref in watch(loss) if ref() is not bottom and ref() is not bottom.data]
    loss.backward(retain_graph=retain_graph)
    assert seen == [len(refs) if retain_graph else 0]


def test_a_converted_cotangent_dies_while_backward_is_running(without_gc):
    refs, alive_below = [], []

    def above(g):
        refs.append(weakref.ref(g))
        return (2.0 * g,)

    def below(g):
        alive_below.append(alive(refs))
        return (g,)

    x = leaf(3)
    root = record(x.data * 2.0, (record(x.data, (x,), below),), above)
    root.backward([1, 2, 3])
    assert alive_below == [0]


def test_steps_do_not_pile_up_memory(without_gc):
    x, sizes = leaf(100, 100), []
    tracemalloc.start()
    for _ in range(8):
        x.grad = None
        model(x, x).sum().backward()
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert max(sizes[3:]) - sizes[2] < 4_000  # bytes; a single array here has 80,000


CHAIN = """
import numpy as np
from autograd import Tensor, concatenate, no_grad, tanh
x = y = Tensor([0.5, -0.5], requires_grad=True)
def chain(y):
    for _ in range(7_200):
        y = concatenate([-tanh(0.5 * (y + x)[::-1].reshape(1, 2))]).reshape(2)
    return y
"""
ENDS = {
    "backward": "y = chain(y); y.backward([1, 2]); assert np.isfinite(x.grad).all(); del y",
    "retained": "y = chain(y); y.backward([1, 2], retain_graph=True); assert y.parents; del y",
    "never used": "y = chain(y); del y",
    "alive at exit": "y = chain(y)",
    "forward alone": "y = chain(y.detach()); del y, x",
}


@pytest.mark.parametrize("end", ENDS)
def test_graph_of_50000_ops_runs_and_is_freed(end):
    # Start a new process: the stack overflow of a recursive destructor would end this one.
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{CHAIN}\n{ENDS[end]}\nprint('done')"],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


# -- as an array ---------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["eq", "ne", "lt", "le", "gt", "ge"])
def test_comparisons_give_boolean_arrays_and_hashing_is_by_identity(op):
    compare, a, b = getattr(operator, op), np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0])
    x = Tensor(a, requires_grad=True)
    for result in (compare(x, Tensor(b)), compare(x, b), compare(x, 2), compare(a, Tensor(b))):
        assert type(result) is np.ndarray and result.dtype == bool
        assert np.array_equal(result, compare(a, b))
    assert len({x, Tensor(a), x}) == 2 and {x: 1, Tensor(a): 2}[x] == 1


@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv", "matmul", "pow"])
def test_in_place_operators_never_change_an_array(name):
    op, in_place = getattr(operator, name), getattr(operator, f"i{name}")
    a, n = normal(2, 2), 2 if name == "pow" else normal(2, 2, seed=1)
    x = Tensor(a)
    result = in_place(x, n)
    assert result is not x and x.data is a and np.array_equal(a, normal(2, 2))
    assert np.array_equal(result.data, op(a, n))
    for t in (leaf(2, 2), leaf(2, 2) * 2.0):
        with pytest.raises(RuntimeError, match=r"write x = x \+ y, or change x.data"):
            in_place(t, n)


def test_item_assignment_is_refused():
    for x in (Tensor([1.0, 2.0]), leaf(2)):
        with pytest.raises(TypeError, match=r"where\(condition, a, b\)"):
            x[0] = 5.0


def test_shape_and_size_are_those_of_the_array():
    x = leaf(2, 3, 4, dtype=np.float32)
    assert (x.shape, x.ndim, x.size, x.numel(), len(x)) == ((2, 3, 4), 3, 24, 24, 2)
    assert x.dtype == np.float32 and np.array_equal(x.T.data, x.data.T)


def test_one_element_is_a_number():
    x = Tensor([[2.5]], requires_grad=True)
    assert (float(x), x.item(), type(x.item())) == (2.5, 2.5, float)
    assert bool(x) is True and bool(Tensor(0.0)) is False
    for convert in (float, bool, Tensor.item):
        with pytest.raises(ValueError):
            convert(Tensor([1.0, 2.0]))


def test_format_is_that_of_the_number():
    x = Tensor([2.5])
    assert f"{x:.3f} {x}" == f"2.500 {x!r}"
    with pytest.raises(ValueError):
        f"{leaf(2):.3f}"


def test_iteration_gives_rows_with_gradients():
    x, g = leaf(3, 2), normal(3, 2, seed=1)
    for row, cotangent in zip(x, g, strict=True):
        row.backward(cotangent)
    assert np.array_equal(x.grad, g)
    for f in (len, iter):
        with pytest.raises(TypeError):
            f(Tensor(1.0))


def test_repr_shows_values_dtype_and_whether_a_gradient_is_wanted():
    x = Tensor([1, 2], requires_grad=True)
    assert repr(x) == "Tensor([1., 2.], dtype=float64, requires_grad=True)"
    assert repr(Tensor(np.float32([[1]]))) == "Tensor([[1.]], dtype=float32)"


def test_numpy_sees_the_array_of_a_constant():
    x = Tensor(normal(2, 3))
    assert x.numpy() is x.data and np.shares_memory(np.asarray(x), x.data)
    assert not np.shares_memory(np.array(x), x.data) and np.array_equal(np.array(x), x.data)
    assert np.asarray(x, dtype=np.float32).dtype == np.float32


@pytest.mark.parametrize("convert", [np.asarray, np.array, Tensor, Tensor.numpy])
def test_an_array_would_lose_the_gradient(convert):
    for x in (leaf(2, 3), leaf(2, 3) * 2.0):
        with pytest.raises(TypeError, match=r"take t.data or t.detach\(\)"):
            convert(x)
        assert np.array_equal(convert(x.detach()), x.data)


@each_float
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_leaves_can_be_copied(clone, requires_grad, dtype):
    x = Tensor(normal(2, 3, dtype=dtype), requires_grad)
    for x.grad in (None, normal(2, 3, seed=1, dtype=dtype)):
        y = clone(x)
        assert np.array_equal(y.data, x.data) and not np.shares_memory(y.data, x.data)
        assert y.dtype == dtype and y.requires_grad == requires_grad and y.parents == ()
        assert (y.grad is None) if x.grad is None else np.array_equal(y.grad, x.grad)
    assert not np.shares_memory(y.grad, x.grad)


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, pickle.dumps])
def test_part_of_a_graph_cannot_be_copied(clone):
    node = leaf(2) * 2.0
    for _ in range(2):
        with pytest.raises(TypeError, match=r"only leaves .* tensor.detach\(\)"):
            clone(node)
        if node.parents:
            node.backward(np.ones(2))  # a freed node is no leaf either


def test_an_op_has_a_name_whatever_its_vjp_is():
    class Named:
        def __init__(self, name):
            self.__qualname__, self.func = name, 3

        def __call__(self, g):
            return (g,)

    for name, expected in (("f.<locals>.vjp", "f"), (None, "Named"), (7, "Named")):
        x = Tensor([1.0], requires_grad=True)
        assert record(x.data, (x,), Named(name)).op == expected
        with pytest.raises(TypeError, match=f"{expected}: operand 0"):
            record(np.float32([1.0]), (x,), Named(name))
