"""The registry of ops, and the specs of the primitive ops; see `autograd.testing`."""

from __future__ import annotations

from typing import Any

import numpy as np

from autograd import tensor as ops
from autograd.einsum import einsum
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


@st.composite
def _stacks(draw: DrawFn) -> Sizes:
    shape, n = draw(shapes(max_dims=2)), draw(st.integers(1, 3))
    return (shape,) * n, {"axis": draw(st.integers(-len(shape) - 1, len(shape)))}


@st.composite
def _cuts(draw: DrawFn) -> Sizes:
    shape = draw(shapes(min_dims=1, min_side=1))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    places = st.lists(st.integers(-1, shape[axis] + 1), max_size=3).map(sorted)
    return (shape,), {"indices_or_sections": draw(places | st.just(shape[axis])), "axis": axis}


@st.composite
def _deviations(draw: DrawFn) -> Sizes:
    shape, keywords = draw(_reductions(1))
    return shape, {**keywords, "ddof": draw(st.sampled_from([0, 0.5]))}


@st.composite
def _running(draw: DrawFn) -> Sizes:
    shape = draw(shapes())
    one = st.integers(-len(shape), len(shape) - 1) if shape else st.nothing()
    return (shape,), {"axis": draw(st.none() | one)}


@st.composite
def _squeezed(draw: DrawFn) -> Sizes:
    shape = draw(shapes())
    ones = [i for i, n in enumerate(shape) if n == 1]
    some = st.lists(st.sampled_from(ones), unique=True).map(tuple) if ones else st.just(())
    return (shape,), {"axis": draw(st.none() | some)}


@st.composite
def _expanded(draw: DrawFn) -> Sizes:
    shape = draw(shapes(max_dims=2))
    places = st.lists(st.integers(0, len(shape)), min_size=1, max_size=2, unique=True)
    one = st.integers(-len(shape) - 1, len(shape))
    return (shape,), {"axis": draw(one | places.map(tuple))}


@st.composite
def _broadcasts(draw: DrawFn) -> Sizes:
    shape, other = draw(broadcastable(2))
    return (shape,), {"shape": np.broadcast_shapes(shape, other)}


@st.composite
def _borders(draw: DrawFn) -> Sizes:
    shape, width = draw(shapes(min_dims=1, min_side=1)), st.integers(0, 3)
    each = st.lists(st.tuples(width, width), min_size=len(shape), max_size=len(shape))
    modes = st.sampled_from(["constant", "edge", "reflect", "symmetric", "wrap"])
    return (shape,), {"pad_width": draw(width | each), "mode": draw(modes)}


_SUMS = (
    *("ij,jk->ik", "ij,jk", "bij,bjk->bik", "i,j->ij", "ij,ij->", "ij->ji", "ij->", "ji", "i,i,i"),
    *("ijk->ik", "ijk->j", "...z,z->...", "...A,zA->z..."),
    *("ii->i", "ii", "iij->j", "ij,i->j", "...i,...i", "i...,ij->...j", "...->...", "a, ab -> b"),
)


@st.composite
def _sums_of_products(draw: DrawFn) -> Sizes:
    subscripts = draw(st.sampled_from(_SUMS))
    sizes = {letter: draw(st.integers(0, 3)) for letter in "abijkzA"}
    terms = subscripts.replace(" ", "").partition("->")[0].split(",")
    more = draw(broadcastable(len(terms))) if "..." in subscripts else [()] * len(terms)

    def shape(term: str, of_dots: tuple[int, ...]) -> tuple[int, ...]:
        one = draw(st.sampled_from(["", *(set(term) - {"."})])) if len(terms) > 1 else ""
        before, dots, after = term.partition("...")
        sides = [[1 if c == one else sizes[c] for c in part] for part in (before, after)]
        return (*sides[0], *(of_dots if dots else ()), *sides[1])

    return tuple(map(shape, terms, more)), {"subscripts": subscripts}


def _equal(a: Array, b: Array) -> bool:
    return bool(np.any(a == b))


def _ties(x: Array, axis: Any, keepdims: bool) -> bool:
    return bool(np.any(np.count_nonzero(x == x.max(axis=axis, keepdims=True), axis=axis) > 1))


def _call(*given_operands: Any, **keywords: Any) -> Call:
    return Call(tuple(np.asarray(a, dtype=np.float64) for a in given_operands), keywords)


def _smallest_ties(x: Array, axis: Any, keepdims: bool) -> bool:
    return _ties(-x, axis, keepdims)


def _constant(x: Array, **keywords: Any) -> bool:
    return not np.all(np.std(x, **keywords))


_PAIR = operands(broadcastable(2))
_TWO_AND_THREE = _call(np.ones(2), np.ones(3))
_CANNOT_BROADCAST = (Refusal(_TWO_AND_THREE, ValueError, r"\(2,\) \(3,\)"),)
_BAD_AXIS = (Refusal(_call(1.0, axis=1, keepdims=False), np.exceptions.AxisError, "axis 1"),)

_CANNOT_CLIP = (Refusal(_call(1.0, low="0", high=None), TypeError, "not <U1"),)

# -- the specs -----------------------------------------------------------------------------------

for _spec in (
    OpSpec("add", ops.add, np.add, _PAIR, refusals=_CANNOT_BROADCAST),
    OpSpec("sub", ops.sub, np.subtract, _PAIR, refusals=_CANNOT_BROADCAST),
    OpSpec("mul", ops.mul, np.multiply, _PAIR, refusals=_CANNOT_BROADCAST),
    OpSpec("div", ops.div, np.divide, _PAIR, (numbers(), nonzero()), refusals=_CANNOT_BROADCAST),
    OpSpec("neg", ops.neg, np.negative, one_operand()),
    OpSpec("exp", ops.exp, np.exp, one_operand()),
    OpSpec("log", ops.log, np.log, one_operand(), positive()),
    OpSpec("log1p", ops.log1p, np.log1p, one_operand(), positive()),
    OpSpec("sin", ops.sin, np.sin, one_operand()),
    OpSpec("cos", ops.cos, np.cos, one_operand()),
    OpSpec("sigmoid", ops.sigmoid, lambda x: 0.5 + 0.5 * np.tanh(0.5 * x), one_operand()),
    OpSpec("abs", ops.abs, np.abs, one_operand(), kinks=lambda x: _equal(x, np.zeros(()))),
    OpSpec(
        "relu",
        ops.relu,
        lambda x: np.maximum(x, 0.0),
        one_operand(),
        kinks=lambda x: _equal(x, np.zeros(())),
    ),
    OpSpec("maximum", ops.maximum, np.maximum, _PAIR, kinks=_equal, refusals=_CANNOT_BROADCAST),
    OpSpec("minimum", ops.minimum, np.minimum, _PAIR, kinks=_equal, refusals=_CANNOT_BROADCAST),
    OpSpec(
        "clip",
        lambda a, low, high: ops.clip(a, low, high),
        lambda a, low, high: np.minimum(np.maximum(a, low), high),
        operands(broadcastable(3)),
        (numbers(), numbers(-4, 0), numbers(0.125)),
        lambda a, low, high: _equal(a, low) or _equal(np.maximum(a, low), high),
        refusals=_CANNOT_CLIP,
    ),
    OpSpec(
        "clip to numbers",
        ops.clip,
        lambda a, a_min, a_max: np.clip(a, a_min, a_max),
        one_operand(a_min=st.sampled_from([-1.0, 1]), a_max=st.sampled_from([2.5, None])),
        kinks=lambda a, a_min, a_max: bool(np.isin(a, [a_min, a_max or np.nan]).any()),
    ),
    OpSpec("tanh", ops.tanh, np.tanh, one_operand()),
    OpSpec("sqrt", ops.sqrt, np.sqrt, one_operand(), positive()),
    OpSpec(
        "power",
        ops.power,
        lambda x, n: x ** float(n),
        one_operand(n=st.sampled_from([0, 1, 2, 3, -1, -2, 0.0, 2.0, 0.5, -1.5])),
        positive(),
        refusals=(Refusal(_call(1.0, n="2"), TypeError, "not <U1"),),
    ),
    OpSpec(
        "power of two Tensors",
        ops.power,
        np.power,
        _PAIR,
        (positive(), numbers(-2, 2)),
        refusals=_CANNOT_BROADCAST,
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
        "min", ops.min, np.min, _reductions(1), numbers(-2, 2), _smallest_ties, refusals=_BAD_AXIS
    ),
    OpSpec(
        "var",
        ops.var,
        np.var,
        _deviations(),
        refusals=(Refusal(_call(np.ones(2), ddof=2), ValueError, "ddof=2 must be less than .* 2"),),
    ),
    OpSpec("std", ops.std, np.std, _deviations(), kinks=_constant),
    OpSpec("cumsum", ops.cumsum, np.cumsum, _running()),
    OpSpec(
        "einsum",
        lambda *tensors, subscripts: einsum(subscripts, *tensors),
        lambda *a, subscripts: np.einsum(subscripts, *a),
        _sums_of_products(),
        refusals=(
            Refusal(_call(np.ones(2), subscripts="ij"), ValueError, "einstein sum subscripts"),
            Refusal(_call(np.ones(2), subscripts=[0]), TypeError, r'such as "ij,jk->ik"'),
        ),
    ),
    OpSpec("flatten", ops.flatten, np.ravel, one_operand()),
    OpSpec(
        "squeeze",
        ops.squeeze,
        np.squeeze,
        _squeezed(),
        refusals=(Refusal(_call(np.ones(3), axis=0), ValueError, "size not equal to one"),),
    ),
    OpSpec("expand_dims", ops.expand_dims, np.expand_dims, _expanded()),
    OpSpec(
        "broadcast_to",
        ops.broadcast_to,
        np.broadcast_to,
        _broadcasts(),
        refusals=(Refusal(_call(np.ones(3), shape=(2,)), ValueError, r"\(3,\)"),),
    ),
    OpSpec(
        "pad",
        lambda a, pad_width, mode: ops.pad(a, pad_width, mode, constant_values=0.5),
        lambda a, pad_width, mode: np.pad(
            a, pad_width, mode, **({"constant_values": 0.5} if mode == "constant" else {})
        ),
        _borders(),
        refusals=(
            Refusal(_call(np.ones(3), pad_width=1, mode="mean"), ValueError, "mode 'mean'"),
            Refusal(_call(np.ones(3), pad_width=1.5, mode="edge"), TypeError, "integral type"),
            Refusal(_call(np.ones(3), pad_width=-1, mode="edge"), ValueError, "negative"),
        ),
    ),
    OpSpec(
        "reshape",
        lambda a, shape: ops.reshape(a, shape),
        lambda a, shape: np.reshape(a, shape),
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
    OpSpec(
        "stack",
        lambda *tensors, axis: ops.stack(tensors, axis),
        lambda *a, axis: np.stack(a, axis),
        _stacks(),
        refusals=(Refusal(_call(np.ones(2), np.ones(3), axis=0), ValueError, "dimension"),),
    ),
    OpSpec(
        "split, joined in the opposite order",
        lambda a, axis, **cuts: ops.concatenate(ops.split(a, **cuts, axis=axis)[::-1], axis),
        lambda a, axis, **cuts: np.concatenate(np.split(a, **cuts, axis=axis)[::-1], axis),
        _cuts(),
        refusals=(
            Refusal(_call(np.ones(3), axis=0, indices_or_sections=2), ValueError, "equal division"),
        ),
    ),
):
    register(_spec)
