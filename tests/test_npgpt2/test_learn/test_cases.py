"""The fixed inputs: they cover every op, and each call makes new arrays."""

from __future__ import annotations

import numpy as np
import pytest

import autograd
import npgpt2.testing  # noqa: F401  registers the fused ops
from autograd import Tensor
from autograd import tensor as ops
from autograd.tensor import op_name
from autograd.testing import OPS
from npgpt2 import composed
from npgpt2 import functional as F
from npgpt2.learn.cases import (
    Case,
    assert_close,
    fused_cases,
    graph_cases,
    model_case,
    primitive_cases,
)
from npgpt2.learn.detectors import code_run_by


def op_of(case):
    """Return the name of the op that made the result."""
    return op_name(case.f(*(Tensor(x, requires_grad=True) for x in case.inputs)).grad_fn)


# "power of any base" and "concatenate, the first twice" begin with the name of the op.
REGISTERED = {spec.replace(",", " ").split()[0] for spec in OPS}


def test_every_registered_op_runs_in_a_case():
    cases = (primitive_cases() | fused_cases()).values()
    ran = set.union(*(code_run_by(case.differentiate) for case in cases))
    functions = vars(autograd) | vars(ops) | vars(F)
    assert [name for name in REGISTERED if functions[name].__code__ not in ran] == []


def test_every_case_is_of_a_registered_op():
    assert {op_of(case) for case in (primitive_cases() | fused_cases()).values()} <= REGISTERED


def test_fused_and_composed_cases_have_the_same_inputs():
    ours, twins = fused_cases(F), fused_cases(composed)
    assert ours.keys() == twins.keys()
    for name, case in ours.items():
        for x, y in zip(case.inputs, twins[name].inputs, strict=True):
            np.testing.assert_array_equal(x, y)


def test_every_op_of_composed_has_a_case():
    names = {
        name
        for name, f in vars(composed).items()
        if getattr(f, "__module__", None) == composed.__name__
    }
    assert names and {op_of(case) for case in fused_cases().values()} == names


@pytest.mark.parametrize("cases", [primitive_cases, graph_cases, fused_cases])
def test_every_call_makes_new_arrays(cases):
    """Otherwise a bug that changes its inputs would spoil later checks."""
    for one, other in zip(cases().values(), cases().values(), strict=True):
        assert not any(map(np.shares_memory, one.inputs, other.inputs))


def test_a_case_is_differentiated_with_a_random_cotangent():
    value, (gradient,), g = Case(lambda x: 2.0 * x, (np.array([1.0, 5.0]),)).differentiate()
    np.testing.assert_array_equal(value, [2.0, 10.0])
    np.testing.assert_array_equal(gradient, 2.0 * g)
    assert len(set(g)) == 2


def test_the_model_draws_the_same_dropout_in_every_call():
    loss, parameters = model_case()
    assert loss().item() == loss().item()
    parameters["wte.weight"].data += 1.0
    changed = loss().item()
    parameters["wte.weight"].data -= 1.0
    assert changed != loss().item()


def test_close_means_nine_digits_or_near_zero_beside_the_largest():
    assert_close(np.array([1.0 + 1e-10, 1e-13]), np.array([1.0, 0.0]))
    for wrong in ([1.0 + 1e-8, 0.0], [1.0, 1e-11]):
        with pytest.raises(AssertionError):
            assert_close(np.array(wrong), np.array([1.0, 0.0]))
