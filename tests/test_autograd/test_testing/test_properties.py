"""The checks of ops can fail: for each property, they find an op that breaks it."""

from __future__ import annotations

import gc
import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autograd import GradientMismatch, GradientUndecided, abs, gradcheck, record
from autograd.testing import (
    OPS,
    PROPERTIES,
    Call,
    OpSpec,
    Refusal,
    broadcastable,
    check_op,
    check_refusals,
    graphs,
    numbers,
    one_operand,
    operands,
    register,
)

ROOT = Path(__file__).parents[3]


def square_with(gradient, value=np.square):
    """Return x**2 as an op whose vjp returns `gradient(g, x)`, and whose value is `value(x)`."""

    def square(a):
        x = a.data
        return record(value(x), (a,), lambda g: (gradient(g, x),))

    return OpSpec("square", square, np.square, one_operand())


def right(g, x):
    return g * 2.0 * x


def scrambled(g, x):
    return np.reshape(right(g.ravel(order="K"), x.ravel(order="K")), x.shape)


def doubling_what_was_saved(g, x):
    gradient = right(g, x)
    x *= 2.0
    return gradient


def differing_under_no_grad(a):
    x = a.data
    bias = 0.0 if (a * 1.0).requires_grad else 1e-9
    return record(x * x + bias, (a,), lambda g: (right(g, x),))


def differing_every_time(calls):
    return lambda x: x * x + 1e-12 * next(calls)


def holding_on_to_its_result(a):
    out = record(a.data * a.data, (a,), lambda g: (right(g, a.data) + 0.0 * out.data,))
    return out


def lazy_product(a, b):
    x, y = a.data, b.data
    return record(x * y, (a, b), lambda g: (g * y, g * x if a.requires_grad else 0.0 * x))


def relu_with(slope_at_0):
    def relu(a):
        x = a.data
        slope = np.where(x > 0.0, 1.0, np.where(x < 0.0, 0.0, slope_at_0))
        return record(np.maximum(x.real, 0.0), (a,), lambda g: ((g * slope).astype(x.dtype),))

    return OpSpec(
        "relu",
        relu,
        lambda x: np.maximum(x, 0.0),
        one_operand(),
        domain=numbers(-1.0, 1.0),
        kinks=lambda x: bool((x == 0.0).any()),
        analytic=False,
    )


def spec(function):
    return OpSpec("square", function, np.square, one_operand())


FAULTS = {
    "value_equals_the_reference": square_with(right, lambda x: 1.000001 * x * x),
    "gradients_are_the_difference_quotients": square_with(lambda g, x: 2.001 * g * x),
    "gradients_are_the_complex_steps": square_with(lambda g, x: (2.0 + 1e-8) * g * x),
    "gradients_are_linear_in_the_cotangent": square_with(lambda g, x: g * g * x),
    "a_cotangent_of_zeros_gives_gradients_of_zeros": square_with(lambda g, x: right(g, x) + 1e-300),
    "gradients_have_shape_and_dtype_of_their_operands": square_with(
        lambda g, x: right(g, x).astype(np.float64)
    ),
    "memory_layout_does_not_matter": square_with(scrambled),
    "nothing_given_is_changed_or_shared": square_with(lambda g, x: np.multiply(g, 2.0 * x, out=g)),
    "a_constant_operand_changes_no_other_gradient": OpSpec(
        "mul", lazy_product, np.multiply, operands(broadcastable(1).map(lambda s: s * 2))
    ),
    "without_a_graph_the_value_has_the_same_bits": spec(differing_under_no_grad),
    "the_same_call_gives_the_same_bits": square_with(right, differing_every_time(count())),
    "the_result_is_freed_with_its_last_reference": spec(holding_on_to_its_result),
    "at_a_kink_the_gradient_lies_between_the_slopes_of_both_sides": relu_with(-0.5),
}


def test_every_property_has_a_fault_that_breaks_it():
    assert FAULTS.keys() == PROPERTIES.keys()


@pytest.mark.parametrize("name", PROPERTIES)
def test_an_op_that_breaks_a_property_is_found_out(name):
    with pytest.raises((AssertionError, ValueError)) as caught:
        check_op(FAULTS[name], [name], max_examples=500)  # until an example shows the fault
    lacks = isinstance(caught.value, AssertionError)
    how = "lacks this property" if lacks else "raises an error in the check of"
    assert caught.value.__notes__[0].endswith(f" {how}: {name}")


@pytest.mark.parametrize("right_op", [square_with(right), relu_with(0.0), relu_with(1.0)])
def test_a_right_op_passes(right_op):
    check_op(right_op)


def test_values_saved_by_an_op_and_changed_by_its_vjp_are_noticed():
    def saving(a):
        saved = a.data.copy()
        return record(saved * saved, (a,), lambda g: (doubling_what_was_saved(g, saved),))

    with pytest.raises(AssertionError, match="a second backward pass differs"):
        check_op(spec(saving), ["nothing_given_is_changed_or_shared"])


def test_check_op_makes_all_checks():
    for name in (next(iter(FAULTS)), list(FAULTS)[-1]):
        with pytest.raises(AssertionError):
            check_op(FAULTS[name])
    with pytest.raises(GradientMismatch):
        check_op(square_with(lambda g, x: 2.001 * g * x))
    with pytest.raises(AssertionError, match="does not refuse"):
        check_op(refusing(Refusal(ONE, ValueError, "")), properties=())


def test_the_garbage_collector_is_left_off_where_it_was_off():
    gc.disable()
    try:
        check_op(square_with(right), ["the_result_is_freed_with_its_last_reference"])
        assert not gc.isenabled()
    finally:
        gc.enable()
    check_op(square_with(right), ["the_result_is_freed_with_its_last_reference"])
    assert gc.isenabled()


# -- refusals ------------------------------------------------------------------------------------

ONE = Call((np.ones(1),), {})


def refusing(*refusals):
    return OpSpec("neg", lambda a: -a, np.negative, one_operand(), refusals=refusals)


def test_a_call_that_must_be_refused_is_made():
    wrong = Call((np.ones(1), np.ones(1)), {})
    check_refusals(refusing(Refusal(wrong, TypeError, "takes 1 positional argument")))
    with pytest.raises(AssertionError, match="'other words' is not in: .* takes 1 positional"):
        check_refusals(refusing(Refusal(wrong, TypeError, "other words")))
    with pytest.raises(TypeError, match="takes 1 positional"):
        check_refusals(refusing(Refusal(wrong, ValueError, "")))
    with pytest.raises(AssertionError, match=r"neg does not refuse Call\(\(np.array\(\[1.0\]\),"):
        check_refusals(refusing(Refusal(ONE, ValueError, "")))


# -- the registry --------------------------------------------------------------------------------


def test_a_registered_op_is_in_the_registry_and_its_name_is_taken():
    mine = square_with(right)
    try:
        assert register(mine) is mine and OPS["square"] is mine
        assert register(mine) is mine  # the same op twice is no conflict
        with pytest.raises(ValueError, match="there is an op 'square' already; choose another"):
            register(square_with(right))
        assert OPS["square"] is mine
    finally:
        del OPS["square"]


# -- the printed counterexample ------------------------------------------------------------------


def test_the_smallest_failing_call_is_printed_as_python():
    wrong = square_with(right, lambda x: np.where(x > 1.0, 0.0, x * x))
    with pytest.raises(AssertionError) as caught:
        check_op(wrong, ["value_equals_the_reference"])
    printed = "\n".join(caught.value.__notes__)
    assert "square lacks this property: value_equals_the_reference" in printed
    assert "call=Call((np.array(1.125),), {})" in printed


def test_the_smallest_failing_graph_is_printed_as_python():
    @given(graphs())
    def test(graph):
        assert not graph.lines

    with pytest.raises(AssertionError) as caught:
        test()
    printed = "\n".join(caught.value.__notes__)
    assert "v0 = Tensor(np.array(0.0), requires_grad=True)" in printed
    assert "v1 = -v0" in printed


# -- without hypothesis --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module", ["autograd.testing", "autograd.testing.strategies", "npgpt2.testing"]
)
def test_without_hypothesis_the_extra_is_named(module):
    program = f"import sys; sys.modules['hypothesis'] = None; import {module}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("pip install 'npgpt2[testing]'")


def test_calls_at_which_rounding_hides_the_gradient_are_left_out():
    domain, drawn = st.sampled_from([1e-5, 0.5]), set()

    def hidden(a):
        drawn.update(a.data.real.ravel().tolist())
        return 1.0 + a**4

    reference = lambda x: 1.0 + x**4  # noqa: E731
    check_op(OpSpec("hidden", hidden, reference, one_operand(), domain))
    assert {1e-5, 0.5} <= drawn
    with pytest.raises(GradientUndecided, match="rounding"):
        gradcheck(hidden, [[1e-5]])


def test_a_kink_that_the_spec_does_not_know_is_an_error():
    spec = OpSpec("abs", lambda a: abs(a) + 2.0 * a.relu(), np.abs, one_operand())
    with pytest.raises(GradientUndecided, match="kink"):
        PROPERTIES["gradients_are_the_difference_quotients"](spec, Call((np.array(0.0),), {}))
