"""NumPy's functions of Tensors: they record an op, or say what to write; no gradient gets lost.

NumPy hands every call with a Tensor among the operands to the two methods of Tensor that this file
sets: `__array_ufunc__` for ufuncs, such as np.exp(t) or array * t, and `__array_function__` for the
other functions, such as np.sum(t). A call does one of three things:

- It records an op, if the function has one here. So a forward pass written for arrays can be
  differentiated:

  >>> def rms_norm(x):
  ...     return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True))
  >>> x = Tensor([3.0, 4.0], requires_grad=True)
  >>> rms_norm(x).backward([1.0, 0.0])
  >>> np.round(x.grad, 3)
  array([ 0.181, -0.136])

- It returns arrays, if the result has no derivative (np.argmax, comparisons), or if no Tensor among
  the arguments requires a gradient.
- Otherwise it raises a TypeError that names what to write.

>>> try:
...     np.sort(x)
... except TypeError as error:
...     print(error)
np.sort has no vjp here, so its result would lose the gradient:
write np.take_along_axis(a, np.argsort(a), axis=-1), or take t.data or t.detach()

Functions that NumPy does not hand over, such as np.asarray, read the array of a Tensor; that raises
an error if the Tensor requires a gradient (see `Tensor.numpy`).

Sources: NumPy Enhancement Proposals 13 and 18.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from autograd import tensor as ops
from autograd.einsum import einsum
from autograd.tensor import Operand, Tensor, as_tensor

# -- functions of ours, with the arguments of NumPy's ---------------------------------------------


def _dot(a: Operand, b: Operand) -> Tensor:
    if np.ndim(a) == 0 or np.ndim(b) == 0:
        return ops.mul(a, b)
    if np.ndim(b) > 2:
        raise TypeError("np.dot of Tensors takes a b of at most two axes: write a @ b or einsum")
    return ops.matmul(a, b)


def _reshape(a: Operand, shape: Any = None, newshape: Any = None) -> Tensor:
    return ops.reshape(a, newshape if shape is None else shape)  # NumPy 2.0 says newshape


def _moved(function: Any, a: Operand, *options: Any) -> Tensor:
    """Return function(a, *options), for a function that only moves entries of a, or repeats them.

    It moves the entries' positions, and these select the entries.
    """
    a = as_tensor(a)
    return ops.flatten(a)[function(np.arange(a.size).reshape(a.shape), *_arrays(options))]


def _where(condition: Operand, x: Any = None, y: Any = None) -> Any:
    if x is None and y is None:
        return np.nonzero(condition)  # type: ignore[arg-type]
    return ops.where(condition, x, y)


_UFUNCS: dict[np.ufunc, Callable[..., Tensor]] = {
    np.add: ops.add,
    np.subtract: ops.sub,
    np.multiply: ops.mul,
    np.divide: ops.div,
    np.negative: ops.neg,
    np.power: ops.power,
    np.square: lambda a: a * a,
    np.reciprocal: lambda a: 1.0 / a,
    np.matmul: ops.matmul,
    np.exp: ops.exp,
    np.exp2: lambda a: 2.0**a,
    np.log: ops.log,
    np.log1p: ops.log1p,
    np.sqrt: ops.sqrt,
    np.sin: ops.sin,
    np.cos: ops.cos,
    np.tanh: ops.tanh,
    np.absolute: ops.abs,
    np.fabs: ops.abs,
    np.maximum: ops.maximum,
    np.minimum: ops.minimum,
}

_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.sum: ops.sum,
    np.mean: ops.mean,
    np.max: ops.max,
    np.amax: ops.max,
    np.min: ops.min,
    np.amin: ops.min,
    np.var: ops.var,
    np.std: ops.std,
    np.cumsum: ops.cumsum,
    np.clip: ops.clip,
    np.where: _where,
    np.dot: _dot,
    np.outer: lambda a, b: ops.flatten(a)[:, None] * ops.flatten(b),
    np.einsum: einsum,
    np.reshape: _reshape,
    np.ravel: ops.flatten,
    np.transpose: lambda a, axes=None: ops.transpose(a, *(() if axes is None else axes)),
    np.swapaxes: ops.swapaxes,
    np.squeeze: ops.squeeze,
    np.expand_dims: ops.expand_dims,
    np.broadcast_to: lambda array, shape: ops.broadcast_to(array, shape),
    np.concatenate: lambda arrays, axis=0: ops.concatenate(arrays, axis),
    np.stack: lambda arrays, axis=0: ops.stack(arrays, axis),
    np.split: lambda ary, indices_or_sections, axis=0: ops.split(ary, indices_or_sections, axis),
    np.pad: lambda array, pad_width, mode="constant", constant_values=0.0: ops.pad(
        array, pad_width, mode, constant_values
    ),
    np.take: lambda a, indices, axis=None: _moved(np.take, a, indices, axis),
    np.take_along_axis: lambda arr, indices, axis=-1: _moved(
        np.take_along_axis, arr, indices, axis
    ),
    np.repeat: lambda a, repeats, axis=None: _moved(np.repeat, a, repeats, axis),
    np.tile: lambda A, reps: _moved(np.tile, A, reps),
    np.roll: lambda a, shift, axis=None: _moved(np.roll, a, shift, axis),
    np.flip: lambda m, axis=None: _moved(np.flip, m, axis),
}

# The result does not change with the values, or changes only in jumps: it has no derivative.
_NO_DERIVATIVE: set[Any] = {
    *(np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal),
    *(np.logical_and, np.logical_or, np.logical_xor, np.logical_not, np.any, np.all),
    *(np.isfinite, np.isinf, np.isnan, np.isposinf, np.isneginf, np.signbit, np.isclose),
    *(np.allclose, np.array_equal, np.array_equiv, np.isreal, np.iscomplex, np.isrealobj),
    *(np.iscomplexobj, np.shape, np.ndim, np.size, np.argmax, np.argmin, np.argsort),
    *(np.nanargmax, np.nanargmin, np.argpartition, np.argwhere, np.nonzero, np.flatnonzero),
    *(np.count_nonzero, np.searchsorted, np.digitize, np.lexsort, np.zeros_like, np.ones_like),
    *(np.empty_like, np.result_type, np.common_type, np.min_scalar_type, np.can_cast),
    *(np.shares_memory, np.may_share_memory, np.array_repr, np.array_str, np.array2string),
}

# What to write in place of a function without an op.
_INSTEAD = {
    **dict.fromkeys(
        "around ceil fix floor heaviside rint round sign trunc".split(),
        "a.data in place of a, as the slope is 0",
    ),
    "add.accumulate": "cumsum(a, axis)",
    "add.outer": "a[:, None] + b",
    "add.reduce": "sum(a, axis)",
    "append": "concatenate([a, b])",
    "array_split": "split(a, indices)",
    "astype": "Tensor(a.data.astype(dtype), requires_grad=True), before all ops",
    "atleast_1d": "a.reshape(1)",
    "atleast_2d": "a[None]",
    "atleast_3d": "a[None, None]",
    "average": "sum(a * weights) / sum(weights)",
    "block": "concatenate([a, b])",
    "broadcast_arrays": "broadcast_to(a, shape)",
    "choose": "where(condition, a, b)",
    "column_stack": "stack([a, b], axis=1) for vectors, or concatenate([a, b], axis=1)",
    "compress": "a[condition]",
    "conjugate": "a itself, as it is real",
    "convolve": "sums of slices: a[1:] * w[0] + a[:-1] * w[1]",
    "copy": "a itself, as no op changes it",
    "copysign": "abs(a) * np.sign(b.data)",
    "cosh": "(exp(a) + exp(-a)) / 2.0",
    "cross": "a[1] * b[2] - a[2] * b[1], and so on",
    "cumprod": "exp(cumsum(log(a))), if all a are positive",
    "cumulative_prod": "exp(cumsum(log(a))), if all a are positive",
    "cumulative_sum": "a.cumsum(axis)",
    "deg2rad": "a * (math.pi / 180.0)",
    "degrees": "a * (180.0 / math.pi)",
    "delete": "a[index]",
    "diag": "einsum('ii->i', a), or a * np.eye(n) for a vector",
    "diagflat": "a * np.eye(n)",
    "diagonal": "einsum('ii->i', a)",
    "diff": "a[..., 1:] - a[..., :-1]",
    "dsplit": "split(a, sections, axis=2)",
    "dstack": "stack([a, b], axis=2)",
    "ediff1d": "a[1:] - a[:-1]",
    "einsum_path": "np.einsum_path(subscripts, a.data, b.data)",
    "expm1": "exp(a) - 1.0",
    "extract": "a[condition]",
    "fliplr": "a[:, ::-1]",
    "flipud": "a[::-1]",
    "float_power": "a ** b",
    "floor_divide": "np.floor(a.data / b.data), as the slope is 0",
    "fmax": "maximum(a, b)",
    "fmin": "minimum(a, b)",
    "full_like": "np.full(a.shape, value)",
    "hsplit": "split(a, sections) for a vector, or split(a, sections, axis=1)",
    "hstack": "concatenate([a, b]) for vectors, or concatenate([a, b], axis=1)",
    "hypot": "sqrt(a * a + b * b)",
    "imag": "0.0, as a is real",
    "inner": "a @ b.T",
    "insert": "concatenate([a[:i], b, a[i:]])",
    "kron": "einsum('ij,kl->ikjl', a, b) and reshape",
    "linalg.cross": "a[1] * b[2] - a[2] * b[1], and so on",
    "linalg.diagonal": "einsum('ii->i', a)",
    "linalg.matmul": "a @ b",
    "linalg.matrix_norm": "sqrt(sum(a * a))",
    "linalg.matrix_power": "a @ a",
    "linalg.matrix_transpose": "a.swapaxes(-1, -2)",
    "linalg.multi_dot": "a @ b @ c",
    "linalg.norm": "sqrt(sum(a * a))",
    "linalg.outer": "a[:, None] * b",
    "linalg.tensordot": "einsum or @",
    "linalg.trace": "einsum('ii', a)",
    "linalg.vecdot": "sum(a * b, axis=-1)",
    "linalg.vector_norm": "sqrt(sum(a * a))",
    "log10": "log(a) / math.log(10.0)",
    "log2": "log(a) / math.log(2.0)",
    "logaddexp": "maximum(a, b) + log1p(exp(-abs(a - b)))",
    "matrix_transpose": "a.swapaxes(-1, -2)",
    "matvec": "a @ b",
    "maximum.reduce": "max(a, axis)",
    "median": "s = a[np.argsort(a)], and the mean of its entries in the middle",
    "meshgrid": "a[None, :] and b[:, None]",
    "minimum.reduce": "min(a, axis)",
    "moveaxis": "a.transpose(axes)",
    "multiply.outer": "a[:, None] * b",
    "nan_to_num": "where(np.isnan(a.data), 0.0, a)",
    "nanmax": "max(where(np.isnan(a.data), -np.inf, a))",
    "nanmean": "a[~np.isnan(a.data)].mean()",
    "nanmin": "min(where(np.isnan(a.data), np.inf, a))",
    "nansum": "where(np.isnan(a.data), 0.0, a).sum()",
    "piecewise": "where(condition, a, b)",
    "polyval": "a sum of c * x**n",
    "positive": "a itself",
    "prod": "exp(sum(log(a))), if all a are positive",
    "ptp": "a.max(axis) - a.min(axis)",
    "rad2deg": "a * (180.0 / math.pi)",
    "radians": "a * (math.pi / 180.0)",
    "real": "a.real",
    "remainder": "a - b * np.floor(a.data / b.data)",
    "resize": "a[index]",
    "rollaxis": "a.transpose(axes)",
    "rot90": "a.swapaxes(0, 1)[::-1]",
    "row_stack": "stack([a, b]) for vectors, or concatenate([a, b])",
    "select": "where(condition, a, b)",
    "sinc": "sin(x) / x with x = math.pi * a",
    "sinh": "(exp(a) - exp(-a)) / 2.0",
    "sort": "np.take_along_axis(a, np.argsort(a), axis=-1)",
    "subtract.outer": "a[:, None] - b",
    "tan": "sin(a) / cos(a)",
    "tensordot": "einsum or @",
    "trace": "einsum('ii', a)",
    "trapezoid": "sum((a[..., 1:] + a[..., :-1]) / 2.0 * dx, axis=-1)",
    "tril": "a * np.tri(n)",
    "tril_indices_from": "np.tril_indices(n)",
    "triu": "a * np.tri(n).T",
    "triu_indices_from": "np.triu_indices(n)",
    "unstack": "list(a)",
    "vdot": "sum(a * b)",
    "vecdot": "sum(a * b, axis=-1)",
    "vecmat": "a @ b",
    "vsplit": "split(a, sections)",
    "vstack": "stack([a, b]) for vectors, or concatenate([a, b])",
}

# -- the protocols --------------------------------------------------------------------------------


def _array_ufunc(self: Tensor, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
    """Return the value of a ufunc of Tensors; NumPy calls this."""
    direct = method == "__call__"
    op = _UFUNCS.get(ufunc) if direct else None
    if op is not None and not options:
        return op(*inputs)
    call = ufunc if direct else getattr(ufunc, method)
    name = ufunc.__name__ if direct else f"{ufunc.__name__}.{method}"
    return _without_op(call, ufunc, name, list(options) if op else [], inputs, options)


def _array_function(
    self: Tensor, function: Any, types: Any, args: Sequence[Any], options: Mapping[str, Any]
) -> Any:
    """Return the value of another function of Tensors; NumPy calls this."""
    op, unknown = _FUNCTIONS.get(function), list[str]()
    if op is not None:
        named, unknown = _by_name(function, op, args, options)
        if not unknown:
            return op(*named.pop("operands", ()), **named)
    name = f"{function.__module__}.{function.__name__}".removeprefix("numpy.")
    return _without_op(function, function, name, unknown, args, options)


def _by_name(
    function: Any, op: Any, args: Sequence[Any], options: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Return the arguments that op takes, by name, and the names of the others."""
    known, signature = _signature(op).parameters, _signature(op if function in _IN_C else function)
    try:
        given = signature.bind(*args, **options).arguments
    except TypeError:
        return {}, list(options) or ["out"]
    given |= given.pop("kwargs", {})
    named = {name: given.pop(name) for name in known if name in given}
    default = {p.name: p.default for p in signature.parameters.values()}
    return named, [name for name, x in given.items() if x is not default.get(name, _REQUIRED)]


_signature = cache(inspect.signature)
_REQUIRED = inspect.Parameter.empty
_IN_C = {np.concatenate, np.dot, np.where}  # before NumPy 2.4, they do not tell their parameters


def _without_op(
    call: Any, function: Any, name: str, unknown: list[str], args: Any, options: Mapping[str, Any]
) -> Any:
    """Return the value as plain arrays, if no gradient gets lost by that."""
    if function not in _NO_DERIVATIVE and _requires_grad([args, options]):
        instead = _INSTEAD.get(name, "an op with record(value, parents, vjp)")
        if unknown:
            instead = f"np.{name} without {'=, '.join(unknown)}="
        raise TypeError(
            f"np.{name} has no vjp here, so its result would lose the gradient:\n"
            f"write {instead}, or take t.data or t.detach()"
        )
    return call(*_arrays(args), **_arrays(options))


def _requires_grad(x: Any) -> bool:
    """Whether a Tensor in x requires a gradient. x may be a list, a tuple or a dict of them."""
    if isinstance(x, list | tuple | dict):
        return any(map(_requires_grad, x.values() if isinstance(x, dict) else x))
    return isinstance(x, Tensor) and x.requires_grad


def _arrays(x: Any) -> Any:
    """Return x with arrays in place of Tensors; those that require a gradient are read-only."""
    if type(x) in (list, tuple):
        return type(x)(map(_arrays, x))
    if type(x) is dict:
        return {key: _arrays(value) for key, value in x.items()}
    if not isinstance(x, Tensor):
        return x
    array = x.data.view()
    array.flags.writeable = x.data.flags.writeable and not x.requires_grad
    return array


Tensor.__array_ufunc__ = _array_ufunc
Tensor.__array_function__ = _array_function
