"""`check_backward` accepts right pairs of plain functions, and finds each fault in wrong pairs."""

from __future__ import annotations

import re
import time
from functools import partial
from itertools import count

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from autograd import GradientMismatch, Tensor
from autograd.tensor import unbroadcast
from autograd.testing import (
    BACKWARD_PROPERTIES,
    PROPERTIES,
    arrays,
    broadcastable,
    broadcastable_arrays,
    check_backward,
    filled,
    lettered_shapes,
    numbers,
    one_operand,
    positive,
    shapes,
)
from tests.optional import has, needs

if has("torch"):
    import torch


def fault(*arguments, **keywords):
    """Return the error that `check_backward` raises, and what follows a colon in its first note."""
    keywords = {"max_examples": 500} | keywords  # until an example shows the fault
    with pytest.raises((AssertionError, TypeError, ValueError)) as caught:
        check_backward(*arguments, **keywords)
    return caught.value, caught.value.__notes__[0].partition(": ")[2]


def printed(error):
    """Return the arguments that a failure prints: Python source."""
    return re.search(r"call=(.*),\n\)", "\n".join(error.__notes__)).group(1)


# -- pairs of plain functions in NumPy -----------------------------------------------------------


def linear(x, weight, bias):
    return x @ weight.T + bias


def linear_backward(g, x, weight, bias):
    return g @ weight, g.T @ x, g.sum(axis=0)


def softmax(z):
    e = np.exp(z - z.real.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def softmax_backward(g, z):
    p = softmax(z)
    return p * (g - (g * p).sum(axis=-1, keepdims=True))


def layer_norm(x, weight, bias, eps=0.25):
    centered = x - x.mean(axis=-1, keepdims=True)
    rstd = 1.0 / np.sqrt((centered * centered).mean(axis=-1, keepdims=True) + eps)
    return centered * rstd * weight + bias


def layer_norm_backward(g, x, weight, bias, through_mean=1.0, through_rstd=1.0, eps=0.25):
    centered = x - x.mean(axis=-1, keepdims=True)
    rstd = 1.0 / np.sqrt((centered * centered).mean(axis=-1, keepdims=True) + eps)
    xhat, dxhat = centered * rstd, g * weight
    dx = dxhat - through_mean * dxhat.mean(axis=-1, keepdims=True)
    dx -= through_rstd * xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)
    return rstd * dx, (g * xhat).sum(axis=0), g.sum(axis=0)


def mul_backward(g, x, y):
    return unbroadcast(g * y, x.shape), unbroadcast(g * x, y.shape)


def lookup(weight, ids):
    return weight[ids]


def lookup_backward(g, weight, ids):
    dweight = np.zeros_like(weight)
    np.add.at(dweight, ids, g)
    return dweight, None


def lookups(max_dims=2):
    ids = hnp.arrays(np.int64, shapes(max_dims=max_dims), elements=st.integers(-3, 2))
    return st.tuples(arrays((3, 2)), ids)


RIGHT = {
    "linear": (linear, linear_backward, "ni,oi,o"),
    "softmax": (softmax, softmax_backward, "nc"),
    "layer norm": (layer_norm, layer_norm_backward, "nc,c,c"),
    "mul": (np.multiply, mul_backward, broadcastable_arrays(2)),
    "log": (np.log, lambda g, x: g / x, filled(lettered_shapes("nc"), positive())),
    "identity": (lambda x: x, lambda g, x: g, arrays()),
    "transpose": (lambda x: x.T, lambda g, x: (g.T,), arrays()),
    "an argument without effect": (lambda x, y: x, lambda g, x, y: (g, 0.0 * y), "n,n"),
    "the same gradient twice": (lambda x, y: x + y, lambda g, x, y: [g, g], "nc,nc"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_pair_passes(name):
    check_backward(*RIGHT[name], analytic=True)


def test_integers_and_numbers_among_the_arguments_have_no_gradient():
    check_backward(lookup, lookup_backward, lookups())
    check_backward(lookup, lambda *a: lookup_backward(*a)[0], lookups())  # the gradient alone
    check_backward(
        lambda ids, weight: weight[ids],
        lambda g, ids, weight: lookup_backward(g, weight, ids)[::-1],
        lookups().map(lambda drawn: drawn[::-1]),
    )
    check_backward(
        lambda mask, x, n: np.where(mask, x, 0.0) * n,
        lambda g, mask, x, n: (None, np.where(mask, g * n, 0.0), None),
        st.tuples(hnp.arrays(bool, (2, 3)), arrays((2, 3)), st.integers(-2, 2)),
    )


def test_numbers_and_lists_are_results_too():
    check_backward(
        lambda x: float((x * x).sum()),
        lambda g, x: [2.0 * float(g) * float(entry) for entry in x],
        "n",
    )


def relu_pair(slope_at_0):
    def relu_backward(g, x):
        return (g * np.where(x > 0.0, 1.0, np.where(x < 0.0, 0.0, slope_at_0))).astype(x.dtype)

    return lambda x: np.maximum(x, 0.0), relu_backward, filled(lettered_shapes("n"), numbers(-1, 1))


def has_zeros(x):
    return bool((x == 0.0).any())


@pytest.mark.parametrize("slope_at_0", [0.0, 0.5, 1.0])
def test_a_pair_with_a_kink_passes_with_any_slope_between_both_sides(slope_at_0):
    check_backward(*relu_pair(slope_at_0), kinks=has_zeros)


# -- every property can fail ---------------------------------------------------------------------


def square_pair(backward, forward=np.square):
    return forward, backward, arrays()


def in_order_of_memory(g, x):
    return np.reshape(2.0 * g.ravel(order="K") * x.ravel(order="K"), x.shape)


def changing_its_input(x):
    x *= 2.0
    return 0.25 * x * x


def changing_the_sign(x):
    np.negative(x, out=x)
    return x * x


def changing_the_sign_back(g, x):
    np.negative(x, out=x)
    return 2.0 * g * x


def changing_ids(weight, ids):
    value = weight[ids]
    ids += 1
    return value


def differing_every_time(calls):
    return lambda x: x * x + 1e-12 * next(calls)


FAULTS = {
    "gradients_have_shape_and_dtype_of_their_operands": [
        square_pair(lambda g, x: (2.0 * g * x).astype(np.float64)),
        square_pair(lambda g, x: 2.0 * g * x, lambda x: np.asarray(x * x, dtype=np.float64)),
        square_pair(lambda g, x: 2.0 * g * x, lambda x: x * x * (1.0 + 1e-3 * (x.itemsize == 4))),
    ],
    "nothing_given_is_changed_or_shared": [
        square_pair(lambda g, x: np.multiply(g, 2.0 * x, out=g)),
        square_pair(lambda g, x: np.multiply(g, 2.0 * x, out=x)),
        square_pair(lambda g, x: 2.0 * g * x, changing_its_input),
        square_pair(changing_the_sign_back, changing_the_sign),
        (changing_ids, lookup_backward, lookups()),
    ],
    "the_same_call_gives_the_same_bits": [
        square_pair(lambda g, x: 2.0 * g * x, differing_every_time(count())),
    ],
    "gradients_are_the_difference_quotients": [square_pair(lambda g, x: 2.001 * g * x)],
    "gradients_are_the_complex_steps": [square_pair(lambda g, x: (2.0 + 1e-8) * g * x)],
    "gradients_are_linear_in_the_cotangent": [
        (np.negative, lambda g, x: -np.clip(g, -0.5, 0.5), arrays(())),
    ],
    "a_cotangent_of_zeros_gives_gradients_of_zeros": [
        square_pair(lambda g, x: 2.0 * g * x + x.dtype.type(0.0 if g.any() else 1e-30)),
    ],
    "memory_layout_does_not_matter": [square_pair(in_order_of_memory)],
    "at_a_kink_the_gradient_lies_between_the_slopes_of_both_sides": [relu_pair(-0.5)],
}
# The other properties fail too if an input changes, or if a second call gives another value.
FOUND_BY_OTHERS = {"nothing_given_is_changed_or_shared", "the_same_call_gives_the_same_bits"}


def test_every_property_of_plain_functions_has_a_fault_that_breaks_it():
    assert FAULTS.keys() == set(BACKWARD_PROPERTIES)
    assert PROPERTIES.keys() - set(BACKWARD_PROPERTIES) == {
        "value_equals_the_reference",  # there is no reference
        "a_constant_operand_changes_no_other_gradient",  # the four below are properties of Tensors
        "without_a_graph_the_value_has_the_same_bits",
        "the_result_is_freed_with_its_last_reference",
    }


@pytest.mark.parametrize(
    "name, pair", [(name, pair) for name, pairs in FAULTS.items() for pair in pairs]
)
def test_a_fault_is_found_by_its_property_and_by_no_other(name, pair):
    keywords = {"analytic": "complex" in name, "kinks": has_zeros if "kink" in name else None}
    assert fault(*pair, **keywords)[1] == name
    if name not in FOUND_BY_OTHERS:
        others = set(BACKWARD_PROPERTIES) - {name}
        check_backward(*pair, properties=others, **keywords)


def test_the_error_says_which_function_changed_an_array():
    for forward, backward, inputs in FAULTS["nothing_given_is_changed_or_shared"]:
        error, _ = fault(forward, backward, inputs)
        by = "backward" if forward is np.square else "forward"
        assert str(error) == f"the {by} pass changed an array that it was given"


# -- wrong pairs ---------------------------------------------------------------------------------


def transposed(g, x, weight, bias):
    return g @ weight, x.T @ g, g.sum(axis=0)


def wrong_for_one_row(g, x, weight, bias):
    return g @ weight, g.T @ x, g.sum(axis=0) if len(g) > 1 else 0.0 * bias


def mean_for_sum(g, x, weight, bias):
    return g @ weight, g.T @ x, g.mean(axis=0)


def without_g(g, x, weight, bias):
    return g @ weight, np.ones_like(g).T @ x, g.sum(axis=0)


def repetitions_lost(g, weight, ids):
    dweight = np.zeros_like(weight)
    dweight[ids] += g
    return dweight, None


def mean_along_repeated_axes(g, x, y):
    dx = (g * y).sum(axis=tuple(range(g.ndim - x.ndim)))
    repeated = tuple(i for i, n in enumerate(x.shape) if n == 1)
    return dx.mean(axis=repeated, keepdims=True), unbroadcast(g * x, y.shape)


DIFFERENCES = "gradients_are_the_difference_quotients"
WRONG = {
    "linear, transposed": (linear, transposed, "nc,cc,c", DIFFERENCES),
    "linear, mean for sum": (linear, mean_for_sum, "ni,oi,o", DIFFERENCES),
    "linear, wrong for one row": (linear, wrong_for_one_row, "ni,oi,o", DIFFERENCES),
    "linear, without g": (linear, without_g, "ni,oi,o", DIFFERENCES),
    "softmax, diagonal alone": (
        softmax,
        lambda g, z: g * softmax(z) * (1.0 - softmax(z)),
        "nc",
        DIFFERENCES,
    ),
    "softmax, without g": (softmax, lambda g, z: softmax_backward(1.0, z), "nc", DIFFERENCES),
    "softmax, sum over all rows": (
        softmax,
        lambda g, z: softmax(z) * (g - (g * softmax(z)).sum()),
        "nc",
        DIFFERENCES,
    ),
    "layer norm, no path through the mean": (
        layer_norm,
        partial(layer_norm_backward, through_mean=0.0),
        "nc,c,c",
        DIFFERENCES,
    ),
    "layer norm, no path through rstd": (
        layer_norm,
        partial(layer_norm_backward, through_rstd=0.0),
        "nc,c,c",
        DIFFERENCES,
    ),
    "layer norm, another eps": (
        layer_norm,
        partial(layer_norm_backward, eps=0.2501),
        "nc,c,c",
        DIFFERENCES,
    ),
    "layer norm, dweight and dbias exchanged": (
        layer_norm,
        lambda *a: [layer_norm_backward(*a)[i] for i in (0, 2, 1)],
        "nc,c,c",
        DIFFERENCES,
    ),
    "layer norm, changes g": (
        layer_norm,
        lambda g, *a: layer_norm_backward(np.multiply(g, 1.0 + a[1], out=g), *a),
        "nc,c,c",
        "nothing_given_is_changed_or_shared",
    ),
    "lookup, repetitions lost": (lookup, repetitions_lost, lookups(), DIFFERENCES),
    "mul, mean for sum along axes of length 1": (
        np.multiply,
        mean_along_repeated_axes,
        filled(broadcastable(2, min_side=1)),
        DIFFERENCES,
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_gradient_is_found_on_a_small_example_that_runs_as_python(name):
    forward, backward, inputs, lacking = WRONG[name]
    error, lacks = fault(forward, backward, inputs)
    assert lacks == lacking and len(error.__notes__) == 2  # the property, and the arguments
    arguments = eval(printed(error), {"np": np})
    assert max(a.size for a in arguments) <= 6
    assert sum(np.count_nonzero(a) for a in arguments) <= 3
    again, lacks = fault(forward, backward, st.just(arguments), max_examples=1)
    assert str(again) == str(error) and lacks == lacking


def test_the_report_of_a_wrong_gradient_counts_all_arguments():
    error, _ = fault(
        lambda ids, weight: weight[ids],
        lambda g, ids, weight: repetitions_lost(g, weight, ids)[::-1],
        lookups().map(lambda drawn: drawn[::-1]),
    )
    assert isinstance(error, GradientMismatch) and error.report.input == "1"
    assert re.fullmatch(r"\(np\.array\(\[0, 0\]\), np\.array\(\[\[.*\]\]\)\)", printed(error))


def test_the_error_names_the_function():
    def wrong_backward(g, x):
        return g * x

    error, _ = fault(np.square, wrong_backward, "n")
    assert error.__notes__[0] == f"wrong_backward lacks this property: {DIFFERENCES}"
    error, _ = fault(np.square, lambda g, x: g * x, "n")
    assert error.__notes__[0] == f"backward lacks this property: {DIFFERENCES}"
    error, _ = fault(np.square, partial(wrong_backward), "n")
    assert error.__notes__[0] == f"backward lacks this property: {DIFFERENCES}"


def test_a_property_can_be_left_out():
    def in_double_precision(x):
        return np.exp(x, dtype=np.float64)

    def backward(g, x):
        return g * np.exp(x, dtype=np.float64)

    left_out = "gradients_have_shape_and_dtype_of_their_operands"
    assert fault(in_double_precision, backward, "n")[1] == left_out
    check_backward(
        in_double_precision, backward, "n", properties=set(BACKWARD_PROPERTIES) - {left_out}
    )


def test_a_slow_call_is_no_fault():
    pauses = iter([0.5])

    def slow_at_first(x):
        time.sleep(next(pauses, 0.0))
        return x * 1.0

    before = settings.get_current_profile_name()
    settings.load_profile("default")
    try:
        check_backward(slow_at_first, lambda g, x: g * 1.0, "n", max_examples=2)
    finally:
        settings.load_profile(before)


# -- results that cannot be checked ----------------------------------------------------------------


def keep(x):
    return x * 1.0


@pytest.mark.parametrize(
    "forward, message",
    [
        (lambda x: None, "the value of forward must be an array, not None"),
        (lambda x: (x, x), "the value of forward must be an array, not tuple"),
        (Tensor, "not an autograd.Tensor; return its .data, or use check_op"),
        (lambda x: "text", "the value of forward has dtype <U4, but the arguments have float64"),
        (lambda x: x.astype(np.float32), "has dtype float32, but the arguments have float64"),
        (lambda x: x > 0.0, "has dtype bool, but the arguments have float64; compute in the prec"),
        (lambda x: x * np.nan, "returned NaN or infinity; draw arguments for which the value is f"),
        (lambda x: x + np.inf, "returned NaN or infinity"),
    ],
)
def test_an_unfit_value_is_an_error_in_words(forward, message):
    error, _ = fault(forward, lambda g, x: g * 1.0, "n")
    assert isinstance(error, TypeError | ValueError) and message in str(error)
    assert printed(error) == "(np.array([0.0]),)"


@pytest.mark.parametrize(
    "backward, message",
    [
        (lambda g, x, y: g, "must return a tuple, not ndarray; return one gradient per argument"),
        (lambda g, x, y: None, "must return a tuple, not None; return one gradient per argument"),
        (lambda g, x, y: (g,), "returned 1 gradients for 2 arguments; return one gradient per"),
        (lambda g, x, y: (g, g, g), "returned 3 gradients for 2 arguments"),
        (lambda g, x, y: (g, None), "None for argument 1, a float array; return its gradient"),
        (lambda g, x, y: (g, (g,)), "the gradient of argument 1 must be an array, not tuple"),
        (lambda g, x, y: (Tensor(g), g), "of argument 0 must be an array, not an autograd.Tensor"),
        (lambda g, x, y: (g, np.ones((4, 1))), r"of shape (4, 1) for argument 1, which has shape "),
        (lambda g, x, y: (g, g * 1j), "of argument 1 has dtype complex128, but the arguments have"),
    ],
)
def test_an_unfit_gradient_is_an_error_in_words(backward, message):
    error, _ = fault(lambda x, y: x + y, backward, "n,n")
    assert isinstance(error, TypeError | ValueError) and message in str(error)
    assert printed(error) == "(np.array([0.0]), np.array([0.0]))"


def test_a_forgotten_sum_over_broadcast_axes_is_named():
    error, _ = fault(np.multiply, lambda g, x, y: (g * y, g * x), broadcastable_arrays(2))
    assert isinstance(error, ValueError)
    assert "if the argument was broadcast, sum over the axes that were added" in str(error)


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(TypeError, match=r"or a strategy of hypothesis, not tuple; .*write st\.jus"):
        check_backward(keep, keep, (np.ones(3),))
    with pytest.raises(ValueError, match="shapes are letters with commas between them, .*'n3,o'"):
        check_backward(keep, keep, "n3,o")
    with pytest.raises(ValueError, match="no property 'speed'; choose from nothing_given_is_ch"):
        check_backward(keep, keep, "n", properties=["speed"])
    for strategy in (st.just((np.arange(3), 2.0)), one_operand()):
        with pytest.raises(TypeError, match=r"inputs drew \(.*\): draw a float array, or a tuple"):
            check_backward(keep, keep, strategy)


def test_arrays_that_were_drawn_are_not_changed():
    x, ids = np.ones((3, 2)), np.array([0, 1])
    x.flags.writeable = False
    fault(changing_ids, lookup_backward, st.just((x, ids)), max_examples=1)
    fault(changing_its_input, lambda g, x: g * x, st.just(x), max_examples=1)
    assert np.array_equal(x, np.ones((3, 2))) and not x.flags.writeable
    assert np.array_equal(ids, [0, 1])


def test_arrays_may_have_gaps_but_fit_every_library():
    seen = []

    def double(x):
        seen.append(x)
        return 2.0 * x

    check_backward(double, lambda g, x: double(g), st.just(np.ones((3, 2), np.float32)[::-1]))
    assert all(min(a.strides) > 0 and a.flags.writeable for a in seen)
    assert any(not a.flags.forc for a in seen)
    assert {a.dtype for a in seen} == {np.dtype(np.float32), np.dtype(np.float64)}


# -- another library: torch ----------------------------------------------------------------------


def torch_pair(function):
    """Return a torch.autograd.Function as a pair of plain functions."""

    def forward(*given):
        return function.apply(*map(torch.from_numpy, given))

    def backward(g, *given):
        inputs = [torch.from_numpy(a).requires_grad_() for a in given]
        return torch.autograd.grad(function.apply(*inputs), inputs, torch.from_numpy(g))

    return forward, backward


def torch_function(backward):
    """Return out = scale * (x @ weight.T) as a torch.autograd.Function with this backward."""

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight, scale):
            product = x @ weight.T
            ctx.save_for_backward(x, weight, scale, product)
            return scale * product

        @staticmethod
        def backward(ctx, g):
            return backward(g, *ctx.saved_tensors)

    return Function


def torch_right(g, x, weight, scale, product):
    dproduct = g * scale
    return dproduct @ weight, dproduct.T @ x, (g * product).sum(0)


def torch_wrong(change):
    """Return `torch_right` with a change: change(its three gradients, its arguments)."""
    return lambda g, *saved: change(*torch_right(g, *saved), g, *saved)


def torch_changing(name):
    """Return `torch_right`, but it doubles one of its arguments in place."""

    def backward(g, x, weight, scale, product):
        gradients = torch_right(g, x, weight, scale, product)
        {"g": g, "x": x, "weight": weight}[name].mul_(2.0)
        return gradients

    return backward


UNCHANGED = "nothing_given_is_changed_or_shared"
TORCH_WRONG = {
    "missing factor": (lambda dx, dw, ds, g, x, w, s, p: (g @ w, dw, ds), DIFFERENCES),
    "forgot g": (lambda dx, dw, ds, g, x, w, s, p: (dx, dw, p.sum(0)), DIFFERENCES),
    "transposed": (
        lambda dx, dw, ds, *a: (dx, dw.T if dw.shape == dw.T.shape else dw, ds),
        DIFFERENCES,
    ),
    "mean for sum": (lambda dx, dw, ds, *a: (dx, dw, ds / len(dx)), DIFFERENCES),
    "wrong for equal entries": (
        lambda dx, dw, ds, g, x, w, s, p: (dx, dw * (1 + (x[0, 0] == x[-1, -1])), ds),
        DIFFERENCES,
    ),
    "wrong for one column": (
        lambda dx, dw, ds, *a: (dx * (1.0 + (dx.shape[1] == 1)), dw, ds),
        DIFFERENCES,
    ),
    "square of g": (lambda dx, dw, ds, g, *a: (dx, dw, (g * g).sum(0)), DIFFERENCES),
    "0 times infinity": (
        lambda dx, dw, ds, g, *a: (dx * g.sum() / g.sum(), dw, ds),
        "a_cotangent_of_zeros_gives_gradients_of_zeros",
    ),
}


@needs("torch")
def test_a_right_torch_function_passes():
    check_backward(*torch_pair(torch_function(torch_right)), "ni,oi,o")


@needs("torch")
@pytest.mark.parametrize("name", TORCH_WRONG)
def test_a_wrong_torch_function_is_found(name):
    change, lacking = TORCH_WRONG[name]
    error, lacks = fault(*torch_pair(torch_function(torch_wrong(change))), "ni,oi,o")
    assert lacks == lacking
    assert max(max(a.shape) for a in eval(printed(error), {"np": np})) <= 3


@needs("torch")
@pytest.mark.parametrize("name", ["g", "x", "weight"])
def test_a_torch_function_that_changes_what_it_was_given_is_found(name):
    error, lacks = fault(*torch_pair(torch_function(torch_changing(name))), "ni,oi,o")
    assert lacks == UNCHANGED
    assert "changed an array that it was given" in str(error)


@needs("torch")
def test_a_torch_function_takes_every_array_that_the_strategies_draw():
    def double(x):
        return (2.0 * torch.from_numpy(x)).numpy()

    check_backward(double, lambda g, x: double(g), arrays())
