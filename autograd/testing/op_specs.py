"""The registry of ops, and the specs of the primitive ops; see `autograd.testing`."""

from __future__ import annotations

from typing import Any

import numpy as np

from autograd import tensor as ops
from autograd.tensor import Tensor
from autograd.testing.properties import Call, OpSpec, Refusal, Sizes, one_operand, operands
from autograd.testing.strategies import (
    Array,
    DrawFn,
    arrays,
    axes,
    broadcastable,
    indices,
    matmul_shapes,
    nonzero,
    numbers,
    positive,
    shapes,
    st,
)

OPS: dict[str, OpSpec] = {}


def register(spec: OpSpec) -> OpSpec:
    """Add a spec to `OPS`, and return it; ValueError if another spec has the same name."""
    if OPS.setdefault(spec.name, spec) is not spec:
        raise ValueError(f"there is an op {spec.name!r} already; choose another name")
    return spec


# -- operands that fit an op ---------------------------------------------------------------------


@st.composite
def _reductions(draw: DrawFn, min_side: int) -> Sizes:
    shape = draw(shapes(min_side=min_side))
    return (shape,), {"axis": draw(axes(len(shape))), "keepdims": draw(st.booleans())}


@st.composite
def _reshapes(draw: DrawFn) -> Sizes:
    shape = draw(shapes(min_side=1))
    factors = draw(st.permutations([*shape, 1]))
    cut = draw(st.integers(0, len(factors)))
    return (shape,), {"shape": (*factors[:cut], int(np.prod(factors[cut:], dtype=int)))}


@st.composite
def _orders(draw: DrawFn) -> Sizes:
    shape = draw(shapes())
    order = [i - len(shape) * draw(st.booleans()) for i in draw(st.permutations(range(len(shape))))]
    return (shape,), {"axes": draw(st.sampled_from([(), tuple(order)]))}


@st.composite
def _pairs_of_axes(draw: DrawFn) -> Sizes:
    shape = draw(shapes(min_dims=1))
    axis = st.integers(-len(shape), len(shape) - 1)
    return (shape,), {"axis1": draw(axis), "axis2": draw(axis)}


@st.composite
def _joints(draw: DrawFn) -> Sizes:
    shape = list(draw(shapes(min_dims=1)))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    lengths = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
    joined = [tuple([*shape[:axis], n, *shape[axis:][1:]]) for n in lengths]
    return tuple(joined), {"axis": axis}


@st.composite
def _choices(draw: DrawFn) -> Sizes:
    condition, a, b = draw(broadcastable(3))
    return (a, b), {"condition": draw(arrays(condition, st.sampled_from([0.0, 1.0]))) > 0.0}


_INDEXED = shapes().flatmap(
    lambda s: st.tuples(st.just((s,)), st.fixed_dictionaries({"index": indices(s)}))
)


def _ties(x: Array, axis: Any, keepdims: bool) -> bool:
    return bool(np.any(np.count_nonzero(x == x.max(axis=axis, keepdims=True), axis=axis) > 1))


def _call(*given_operands: Any, **keywords: Any) -> Call:
    return Call(tuple(np.asarray(a, dtype=np.float64) for a in given_operands), keywords)


_PAIR = operands(broadcastable(2))
_TWO_AND_THREE = _call(np.ones(2), np.ones(3))
_CANNOT_BROADCAST = (Refusal(_TWO_AND_THREE, ValueError, r"\(2,\) \(3,\)"),)
_BAD_AXIS = (Refusal(_call(1.0, axis=1, keepdims=False), np.exceptions.AxisError, "axis 1"),)

# -- the specs -----------------------------------------------------------------------------------

for _spec in (
    OpSpec("add", ops.add, np.add, _PAIR, refusals=_CANNOT_BROADCAST),
    OpSpec("sub", ops.sub, np.subtract, _PAIR, refusals=_CANNOT_BROADCAST),
    OpSpec("mul", ops.mul, np.multiply, _PAIR, refusals=_CANNOT_BROADCAST),
    OpSpec("div", ops.div, np.divide, _PAIR, (numbers(), nonzero()), refusals=_CANNOT_BROADCAST),
    OpSpec("neg", ops.neg, np.negative, one_operand()),
    OpSpec("exp", ops.exp, np.exp, one_operand()),
    OpSpec("log", ops.log, np.log, one_operand(), positive()),
    OpSpec("tanh", ops.tanh, np.tanh, one_operand()),
    OpSpec("sqrt", ops.sqrt, np.sqrt, one_operand(), positive()),
    OpSpec(
        "power",
        ops.power,
        lambda x, n: x ** float(n),
        one_operand(n=st.sampled_from([0, 1, 2, 3, -1, -2, 0.0, 2.0, 0.5, -1.5])),
        positive(),
        refusals=(Refusal(_call(1.0, n=Tensor(2.0)), TypeError, "exponent must be a number"),),
    ),
    OpSpec(
        "power of any base",
        ops.power,
        lambda x, n: x ** float(n),
        one_operand(n=st.integers(0, 4)),
    ),
    OpSpec(
        "matmul",
        ops.matmul,
        np.matmul,
        operands(matmul_shapes()),
        refusals=(
            Refusal(_call(np.ones((2, 3)), np.ones((2, 3))), ValueError, "mismatch"),
            Refusal(_call(1.0, np.ones((2, 3))), ValueError, "matmul"),
        ),
    ),
    OpSpec(
        "where",
        lambda a, b, condition: ops.where(condition, a, b),
        lambda a, b, condition: np.where(condition, a, b),
        _choices(),
    ),
    OpSpec("sum", ops.sum, np.sum, _reductions(0), refusals=_BAD_AXIS),
    OpSpec("mean", ops.mean, np.mean, _reductions(1)),
    OpSpec("max", ops.max, np.max, _reductions(1), numbers(-2, 2), _ties, refusals=_BAD_AXIS),
    OpSpec(
        "reshape",
        lambda a, shape: ops.reshape(a, shape),
        np.reshape,
        _reshapes(),
        refusals=(Refusal(_call(np.ones(3), shape=(2, 2)), ValueError, "cannot reshape"),),
    ),
    OpSpec(
        "transpose",
        lambda a, axes: ops.transpose(a, *axes),
        lambda a, axes: np.transpose(a, axes or None),
        _orders(),
        refusals=(
            Refusal(_call(np.ones((2, 3)), axes=(0, 0)), ValueError, "repeated axis"),
            Refusal(_call(np.ones((2, 3)), axes=(0, 2)), np.exceptions.AxisError, "axis 2"),
        ),
    ),
    OpSpec("swapaxes", ops.swapaxes, np.swapaxes, _pairs_of_axes()),
    OpSpec(
        "getitem",
        ops.getitem,
        lambda a, index: a[index],
        _INDEXED,
        refusals=(Refusal(_call(np.ones(3), index=3), IndexError, "out of bounds"),),
    ),
    OpSpec(
        "concatenate, the first twice",
        lambda *tensors, axis: ops.concatenate([*tensors, tensors[0]], axis),
        lambda *a, axis: np.concatenate([*a, a[0]], axis),
        _joints(),
        refusals=(Refusal(_call(np.ones(2), np.ones((2, 2)), axis=0), ValueError, "dimension"),),
    ),
):
    register(_spec)
