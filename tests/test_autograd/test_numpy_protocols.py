"""NumPy's functions of Tensors: each one records its gradient, raises in words, or has none."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest

import autograd
from autograd import Tensor, gradcheck
from autograd.testing import cotangent
from npgpt2.learn.exercises import EXERCISES
from npgpt2.learn.judge.exercise import SIZES
from tests.test_npgpt2.cases import assert_close

# -- the table of all functions ------------------------------------------------------------------

RECORDED = set(
    """
    abs absolute add amax amin clip concat concatenate cos cumsum divide dot einsum exp exp2
    expand_dims fabs flip log log1p matmul max maximum mean min minimum multiply negative outer pad
    permute_dims pow power ravel reciprocal repeat reshape roll sin split sqrt square squeeze stack
    std subtract sum swapaxes take take_along_axis tanh tile transpose true_divide var where
    broadcast_to
    """.split()
)
NO_DERIVATIVE = set(
    """
    all allclose any argmax argmin argpartition argsort argwhere array2string array_equal
    array_equiv array_repr array_str can_cast common_type count_nonzero digitize empty_like equal
    flatnonzero greater greater_equal isclose iscomplex iscomplexobj isfinite isinf isnan isneginf
    isposinf isreal isrealobj less less_equal lexsort logical_and logical_not logical_or logical_xor
    may_share_memory min_scalar_type nanargmax nanargmin ndim nonzero not_equal ones_like
    result_type searchsorted shape shares_memory signbit size zeros_like
    """.split()
)
# These functions take any Python object, and ask what kind it is, so they treat a Tensor otherwise
# than an array: fromiter calls float(t) for each entry, as you may do; bmat returns None.
ANY_OBJECT = {"fromiter", "bmat", "mintypecode", "polynomial.polynomial.polyvalfromroots"}
# These functions change files, the terminal or global state.
UNSAFE = re.compile(
    "save|load|fromfile|fromregex|genfromtxt|test$|show|set_|setbuf|seterr|seed|info|get_|geterr|"
    "getbuf|printoptions|add_"
)
V, M = np.array([0.3, 0.9, 0.5]), np.array([[2.0, 0.3, 0.1], [0.2, 1.5, 0.4], [0.6, 0.7, 3.0]])
INDEX, MASK = np.array([2, 0]), np.array([True, False, True])
# Arguments to try: v and m stand for arrays or for Tensors.
ARGUMENTS = [
    lambda v, m: (v,),
    lambda v, m: (m,),
    lambda v, m: (v, v),
    lambda v, m: (m, m),
    lambda v, m: (m, v),
    lambda v, m: (1.5, v),
    lambda v, m: (v, 1.5),
    lambda v, m: (v, 1),
    lambda v, m: (m, 0),
    lambda v, m: (m, 3),
    lambda v, m: (m, -1, 0),
    lambda v, m: (m, 0, 1),
    lambda v, m: (m, (9,)),
    lambda v, m: (v, (2, 3)),
    lambda v, m: (v, [1, 2]),
    lambda v, m: (v, INDEX),
    lambda v, m: (INDEX, v),
    lambda v, m: (v, INDEX, 0),
    lambda v, m: (MASK, v),
    lambda v, m: (v, MASK),
    lambda v, m: (MASK, v, v),
    lambda v, m: (v, MASK, v),
    lambda v, m: (v, INDEX, 0.25),
    lambda v, m: (np.ones(3), INDEX, v),
    lambda v, m: (v, v, v),
    lambda v, m: (0.45, v, v),
    lambda v, m: (v, 0.4, 0.6),
    lambda v, m: ([v, v],),
    lambda v, m: ([v, v], v),
    lambda v, m: ([MASK, MASK], [v, v]),
    lambda v, m: ([m, m, m],),
    lambda v, m: ([[v, v]],),
    lambda v, m: (v, 2, 5),
    lambda v, m: (3, v),
    lambda v, m: (v, 0.5, 3),
    lambda v, m: ("i,i", v, v),
    lambda v, m: ("ij,j->i", m, v),
    lambda v, m: (np.sum, 0, m),
    lambda v, m: (np.sum, m, 0),
    lambda v, m: (v, np.float32),
    lambda v, m: (np.full(3, 0.4), v),
    lambda v, m: (v, np.full(3, 0.4)),
    lambda v, m: ((v, v), (2, 3)),
    lambda v, m: (v[0], v[1], 4),
    lambda v, m: (m, 2),
]


def public_functions():
    """Return all public functions of NumPy, by name."""
    modules = {"": np, "linalg.": np.linalg, "fft.": np.fft, "emath.": np.emath}
    modules |= {"random.": np.random, "lib.stride_tricks.": np.lib.stride_tricks}
    modules |= {"polynomial.polynomial.": np.polynomial.polynomial}
    return {
        prefix + name: f
        for prefix, module in modules.items()
        for name, f in vars(module).items()
        if callable(f) and not isinstance(f, type) and name[0] != "_" and not UNSAFE.search(name)
        if prefix + name not in ANY_OBJECT
    }


FUNCTIONS = public_functions()


def parts_of(result):
    """List everything inside nested lists, tuples and dicts."""
    if isinstance(result, list | tuple):
        return [part for item in result for part in parts_of(item)]
    return [result]


def call(f, arguments):
    """Return what f returns, without warnings; also the error, if it raises one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return f(*arguments), None
        except Exception as error:
            return None, error


def numbers_in(result):
    """Return all floats in a result as one array."""
    parts = [part.data if isinstance(part, Tensor) else part for part in parts_of(result)]
    arrays = [np.asarray(p) for p in parts if isinstance(p, np.ndarray | np.generic | float | int)]
    return np.concatenate([np.zeros(0), *(a.ravel() for a in arrays if a.dtype.kind in "fciub")])


def slopes(f, arguments, g):
    """Return the derivatives of <g, f> along each entry of V and of M, by differences of arrays."""
    h, result = 1e-6, []
    for which in (0, 1):
        slope = np.zeros((V, M)[which].shape)
        for index in np.ndindex(slope.shape):
            values = []
            for sign in (1.0, -1.0):
                arrays = [V.copy(), M.copy()]
                arrays[which][index] += sign * h
                value, error = call(f, arguments(*arrays))
                values.append(numbers_in(value))
            slope[index] = (g @ (values[0] - values[1])).real / (2.0 * h)
        result.append(slope)
    return result


def outcome(name, arguments):
    """Call a function of Tensors, check the result, and return "records", "raises" and so on."""
    f = FUNCTIONS[name]
    leaves = [Tensor(a.copy(), requires_grad=True) for a in (V, M)]
    result, error = call(f, arguments(*leaves))
    assert all(np.array_equal(x.data, a) for x, a in zip(leaves, (V, M), strict=True)), name
    if error is not None:
        assert isinstance(error, TypeError | AttributeError | ValueError), (name, error)
        known = ("Tensor", "t.data", "is read-only")
        assert any(words in str(error) for words in known), (name, error)
        return "raises"
    out = [x for x in parts_of(result) if isinstance(x, Tensor) and x.requires_grad]
    g = cotangent((numbers_in(result).size,))
    if not out:
        if name not in NO_DERIVATIVE:
            for slope in slopes(f, arguments, g):
                assert not slope.any(), f"{name} loses a gradient: it returned {result!r}"
        return "has no derivative"
    assert len(out) == len(parts_of(result)), f"{name} returns Tensors and arrays: {result!r}"
    joined = autograd.concatenate([part.flatten() for part in out])
    assert_close(joined.data, numbers_in(call(f, arguments(V, M))[0]), name)
    joined.backward(g)
    for leaf, slope in zip(leaves, slopes(f, arguments, g), strict=True):
        gradient = np.zeros(leaf.shape) if leaf.grad is None else leaf.grad
        np.testing.assert_allclose(gradient, slope, atol=1e-7, err_msg=name)
    return "records"


def works(f, arguments):
    """Whether f works on arrays, and returns finite numbers."""
    result, error = call(f, arguments(V.copy(), M.copy()))
    return error is None and np.isfinite(numbers_in(result)).all()


@pytest.fixture
def random_state():
    """Put NumPy's global generator back, from which np.random draws."""
    state = np.random.get_state()
    yield
    np.random.set_state(state)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
@pytest.mark.usefixtures("random_state")
def test_no_function_loses_a_gradient(name):
    done = {outcome(name, a) for a in ARGUMENTS if works(FUNCTIONS[name], a)}
    assert "records" in done or name not in RECORDED
    assert "has no derivative" in done or name not in NO_DERIVATIVE


UFUNCS = {f for f in FUNCTIONS.values() if isinstance(f, np.ufunc) and f.nin == 2 and f.nout == 1}


@pytest.mark.parametrize("ufunc", sorted(UFUNCS, key=lambda f: f.__name__))
def test_no_method_of_a_ufunc_loses_a_gradient(ufunc):
    t, a = Tensor(V, requires_grad=True), V.copy()
    arguments = {"reduce": (t,), "accumulate": (t,), "reduceat": (t, [0, 2])}
    for method, given in (arguments | {"outer": (t, V), "at": (a, [0, 1, 2], t)}).items():
        f, arrays = getattr(ufunc, method), [x.data if x is t else np.array(x) for x in given]
        if call(f, arrays)[1] is None:
            result, error = call(f, given)
            assert "has no vjp" in str(error) or ufunc.__name__ in NO_DERIVATIVE, (method, result)
    assert np.array_equal(a, V) or ufunc.__name__ in NO_DERIVATIVE


NAMED = [  # expressions of Tensors x (3,) and m (3, 3), and what the error must name
    ("np.sort(x)", r"write np.take_along_axis\(a, .*, axis=-1\), or take t.data or t.detach\(\)"),
    ("np.add.reduce(x)", r"np.add.reduce has no vjp.*\n.*sum\(a, axis\)"),
    ("np.sort(a=x)", r"np.argsort\(a\)"),
    ("np.take(x, [0], out=np.ones(1))", "np.take without out="),
    ("np.take(x, [9], mode='clip')", "np.take without mode="),
    ("np.take(x, x)", "Cannot cast"),
    ("np.einsum(m, [0, 1])", 'subscripts such as "ij,jk->ik" first, not a value of type Tensor$'),
    ("np.where(MASK, x)", "float32, float64 or complex data, not object"),
    ("np.where(MASK, None, x)", "float32, float64 or complex data, not object"),
    ("np.linalg.norm(x)", r"sqrt\(sum\(a \* a\)\)"),
    ("np.linalg.inv(m)", r"np.linalg.inv has no vjp.*\n.*record\(value, parents, vjp\)"),
    ("np.fft.fft(x)", "np.fft.fft has no vjp"),
    ("np.floor(x)", "slope is 0"),
    ("np.exp(x, dtype=np.float32)", "np.exp without dtype="),
    ("np.sum(x, dtype=np.float32, where=MASK)", "np.sum without dtype=, where="),
    ("np.sum(x, 0, np.float32)", "np.sum without dtype="),
    ("np.concatenate([x, x], dtype=np.float32)", "np.concatenate without dtype="),
    ("np.dot(x, x, np.ones(()))", "np.dot without out="),
    ("np.add(x, 1.0, out=np.ones(3))", "np.add without out="),
    ("np.multiply(1.0, x, where=MASK)", "np.multiply without where="),
    ("np.ones(3).__iadd__(x)", "np.add without out="),
    ("np.dot(m, x[None, None] * m)", "write a @ b or einsum"),
    ("np.asarray(x)", r"t.data or t.detach\(\)"),
    ("np.array([x, x])", "use stack or concatenate"),
    ("np.ones(3).__setitem__(slice(None), x)", r"t.data or t.detach\(\)"),
    ("np.random.default_rng(0).normal(x)", r"t.data or t.detach\(\)"),
    ("x.numpy()", r"t.data or t.detach\(\)"),
    ("Tensor(x)", r"t.data or t.detach\(\)"),
    ("m * [x, x, x]", r"stack\(\[a, b\]\)"),
    ("m * (x, 1.0)", r"stack\(\[a, b\]\)"),
    ("m + [[1.0, x[0], 2.0]]", r"stack\(\[a, b\]\)"),
    ("[x, x, x] @ m", r"stack\(\[a, b\]\)"),
    ("Tensor([x[0], 2.0])", r"stack\(\[a, b\]\)"),
    ("m * objects", r"stack\(\[a, b\]\)"),
    ("autograd.where(MASK, [x[0], x[1], x[2]], x)", r"stack\(\[a, b\]\)"),
    ("m * [x.detach()]", r"stack\(\[a, b\]\)"),
]


@pytest.mark.parametrize(("expression", "message"), NAMED)
def test_errors_name_what_to_write(expression, message):
    x, m = Tensor(V, requires_grad=True), Tensor(M, requires_grad=True)
    objects = np.empty(3, dtype=object)
    for i, entry in enumerate(x):
        objects[i] = entry
    with pytest.raises(TypeError, match=message):
        eval(expression, globals() | {"x": x, "m": m, "objects": objects})


# -- what records ----------------------------------------------------------------------------------


def test_arrays_and_tensors_mix_in_any_order():
    a, b = Tensor([1.0, 2.0], requires_grad=True), np.array([3.0, 4.0])
    (np.concatenate([a, b]) * autograd.concatenate([b, a])).sum().backward()
    assert a.grad.tolist() == [6.0, 8.0]
    two = (np.float64(2.0) * a, np.float32(2.0) * a)
    for out in (b * a, np.multiply(b, a), *two, np.stack([b, a])):
        assert isinstance(out, Tensor) and out.requires_grad and out.dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_functions_keep_the_precision(dtype):
    x = Tensor(V.astype(dtype), requires_grad=True)
    h = np.where(x > 0.4, np.square(x), 0.0)
    out = np.einsum("i,i->", np.clip(h, 0.0, 0.7), np.cumsum(np.maximum(x, 0.5)))
    out.backward()
    assert out.dtype == x.grad.dtype == dtype


def test_entries_along_an_axis():
    for axis, index in ((None, [4, 1, 4]), (0, [[1, 0, 2]]), (-1, [[0, 0], [2, 1], [-2, 1]])):
        x, g = Tensor(M, requires_grad=True), cotangent(np.shape(index), seed=1)
        out = np.take_along_axis(x, np.array(index), axis)
        out.backward(g)
        position = np.take_along_axis(np.arange(9).reshape(3, 3), np.array(index), axis)
        expected = np.bincount(position.ravel(), g.ravel(), minlength=9).reshape(3, 3)
        assert np.array_equal(out.data, M.ravel()[position]) and np.allclose(x.grad, expected)


def test_entries_along_an_axis_need_an_index_with_as_many_axes():
    with pytest.raises(ValueError, match="same number of dimensions"):
        np.take_along_axis(Tensor(M, requires_grad=True), np.array([0, 1, 2]), axis=0)


EQUAL = [  # calls of NumPy with Tensors x (3,) and m (3, 3), and calls of ours
    ("np.dot(m, m)", "m @ m"),
    ("np.dot(m[None], m)", "m[None] @ m"),
    ("np.dot(x, 2.0)", "2.0 * x"),
    ("np.reshape(x, (3, 1))", "x.reshape(3, 1)"),
    ("np.take_along_axis(m, np.argsort(m))", "m[np.arange(3)[:, None], np.argsort(m.data)]"),
    ("np.pad(x, 1, constant_values=0.5)", "autograd.pad(x, 1, constant_values=0.5)"),
    ("np.pad(x, 1, mode='edge')", "x[[0, 0, 1, 2, 2]]"),
    ("np.sum(m, 0, None, None, True)", "m.sum(0, keepdims=True)"),
    ("np.concatenate((x, x), axis=-1)", "autograd.concatenate([x, x])"),
    ("np.clip(x, max=0.4)", "x.clip(a_max=0.4)"),
    ("np.take(m, [2, 0, 2], axis=1)", "m[:, [2, 0, 2]]"),
    ("np.take(m, 4)", "m[1, 1]"),
    ("np.repeat(m, [2, 0, 1], axis=0)", "m[[0, 0, 2]]"),
    ("np.tile(x, (2, 1))", "autograd.stack([x, x])"),
    ("np.roll(m, 1, axis=1)", "m[:, [2, 0, 1]]"),
    ("np.flip(m)", "m[::-1, ::-1]"),
    ("np.concatenate([x, m], axis=None)", "autograd.concatenate([x, m.flatten()])"),
    ("np.clip(x, 0.4, None)", "x.maximum(0.4)"),
    ("np.std(m, 0, ddof=1)", "m.var(0, 1).sqrt()"),
]


@pytest.mark.parametrize(("of_numpy", "ours"), EQUAL)
def test_arguments_mean_the_same_as_in_numpy(of_numpy, ours):
    results = []
    for expression in (of_numpy, ours):
        x, m = Tensor(V, requires_grad=True), Tensor(M, requires_grad=True)
        out = eval(expression, globals() | {"x": x, "m": m})
        out.backward(cotangent(out.shape))
        results.append((out.data, x.grad, m.grad))
    for one, other in zip(*results, strict=True):
        assert np.array_equal(one, other)  # both are None if the form does not use the Tensor


def test_without_a_gradient_every_function_works_on_the_arrays():
    x, read_only = Tensor(V), Tensor(V.copy())
    read_only.data.flags.writeable = False
    for result, expected in (
        (np.sort(x), np.sort(V)),
        (np.linalg.norm(x), np.linalg.norm(V)),
        (np.add.reduce(x), V.sum()),
        (np.add(x, 1.0, dtype=np.float32), np.add(V, 1.0, dtype=np.float32)),
        (np.asarray(x), V),
        (x.numpy(), V),
        (np.sort(read_only), np.sort(V)),
        (np.vstack([x, V]), np.vstack([V, V])),
    ):
        assert type(result) is type(expected) and np.array_equal(result, expected)
    array = np.ones(3)
    array += x
    np.add(x, 1.0, out=(total := np.empty(3)))
    assert np.array_equal(array, 1.0 + V) and np.array_equal(total, array)


def test_values_without_derivative_are_plain():
    x = Tensor(V, requires_grad=True)
    assert Tensor(M).argmax(1, keepdims=True).tolist() == [[0], [1], [2]]
    assert (
        np.argmax(x) == x.argmax() == 1
        and np.shape(x) == (3,)
        and np.argsort(x).tolist() == [0, 2, 1]
    )
    assert np.allclose(x, V) and np.isfinite(x).all() and np.greater(x, 0.4).tolist() == [0, 1, 1]
    assert not (x == None).any()  # noqa: E711
    assert type(np.zeros_like(x)) is np.ndarray and np.where(x)[0].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="read-only"):
        np.greater(V, 0.5, out=x)
    assert np.array_equal(x.data, V)


# -- forward passes written for arrays -------------------------------------------------------------


def leaves_of(arguments):
    """Return the arguments with Tensors in place of float arrays, and these Tensors."""
    given = [
        Tensor(a, requires_grad=True) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a
        for a in arguments
    ]
    return given, [x for x in given if isinstance(x, Tensor)]


def forward_arguments(name, draw):
    """Return arguments of an exercise's forward pass; its backward pass has most of them."""
    given, sizes, rng = EXERCISES[name].draws[draw], SIZES[draw], np.random.default_rng(draw)
    weights = rng.standard_normal((4, sizes.C, sizes.C))
    parts = [lambda x, w=w: np.tanh(x @ w) for w in weights]
    x = rng.standard_normal((sizes.B, sizes.T, sizes.C))
    if name in ("residual", "block"):
        return (x, parts[0]) if name == "residual" else (x, *parts)
    if name == "tied_head":
        return (*given[1:3], parts[0])
    return (*given[1:4], *given[6:8]) if name == "adamw" else given[1:]


@pytest.mark.parametrize("draw", range(len(SIZES)))
@pytest.mark.parametrize("name", EXERCISES)
def test_the_forward_passes_of_all_exercises_are_differentiated_as_they_stand(name, draw):
    exercise, arguments = EXERCISES[name], forward_arguments(name, draw)
    given, leaves = leaves_of(arguments)

    def f(*xs):
        replaced = iter(xs)
        out = exercise.forward(*[next(replaced) if isinstance(a, Tensor) else a for a in given])
        return autograd.concatenate([o.flatten() for o in (out if type(out) is tuple else (out,))])

    expected = exercise.forward(*arguments)
    parts = expected if type(expected) is tuple else (expected,)
    assert_close(f(*leaves).data, np.concatenate([np.ravel(part) for part in parts]))
    assert gradcheck(f, leaves, mode="complex").ok
    if name in ("linear", "softmax", "cross_entropy", "layer_norm", "gelu", "causal_attention"):
        exercise.forward(*given).backward(exercise.draws[draw][0])
        for leaf, gradient in zip(leaves, exercise.expected[draw], strict=True):
            assert_close(leaf.grad, gradient, name)
