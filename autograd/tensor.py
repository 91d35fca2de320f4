"""The primitive ops, each with its vjp beneath it; and Tensor, which has the ops as methods.

How to read an op. First it computes its value from the arrays of its operands. Then an inner
function `vjp(g)` (vector-Jacobian product) answers the question that you answer on paper: *given
the cotangent g = dL/dout, what are dL/da and dL/db?* A vjp is pure. It changes nothing, and returns
one gradient per parent. It closes over arrays, never over the result Tensor, so no reference cycle
keeps memory alive. You can call it at the prompt:

>>> a, b = Tensor([2.0, 3.0], requires_grad=True), Tensor([10.0, 20.0], requires_grad=True)
>>> out = a * b
>>> out.vjp([1.0, 0.5])  # da = g * b,  db = g * a
(array([10., 10.]), array([2. , 1.5]))

To write your own op, you need only `record`:

>>> def square(a):
...     x = a.data
...     def vjp(g):
...         return (g * 2.0 * x,)
...     return record(x * x, (a,), vjp)
>>> square(a).backward([1.0, 1.0])
>>> a.grad
array([4., 6.])

An op keeps the arrays of its operands, and does not copy them. Do not change them before the
backward pass has ended: change `x.data` between a backward pass and the next forward pass.

Dtypes. float32 stays float32 and float64 stays float64: a constant takes the dtype of the Tensor
it meets, and two Tensors of different precision are an error. Analytic ops also accept complex
arrays in the forward pass, because complex-step derivative checks need them. There is no backward
pass for complex values, and there are no derivatives of derivatives.

Threads. `no_grad` affects only the thread that calls it. Several threads may build graphs and run
backward passes at once. Each gets the same bits as if it ran alone, unless two threads add to the
`.grad` of the same leaf, which no lock protects.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from functools import partial
from math import prod
from numbers import Integral, Real
from types import EllipsisType, NoneType
from typing import Any, ClassVar, TypeAlias, cast

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple
from numpy.typing import ArrayLike, DTypeLike

from autograd.backward import backward
from autograd.ownership import accumulate, own
from autograd.rows import Array, Rows

Axis: TypeAlias = int | tuple[int, ...] | None
Operand: TypeAlias = "Tensor | ArrayLike"
Vjp: TypeAlias = Callable[[Array], tuple[Any, ...]]


class _Mode(threading.local):
    recording = True


_mode = _Mode()


@contextmanager
def _recording(wanted: bool) -> Iterator[None]:
    previous, _mode.recording = _mode.recording, wanted
    try:
        yield
    finally:
        _mode.recording = previous


def no_grad() -> AbstractContextManager[None]:
    """Record no graph inside this block, in this thread: ops compute values and save nothing.

    >>> x = Tensor(3.0, requires_grad=True)
    >>> with no_grad():
    ...     y = x * x
    >>> y.requires_grad
    False
    """
    return _recording(False)


def enable_grad() -> AbstractContextManager[None]:
    """Record the graph inside this block, even if the block stands inside `no_grad`."""
    return _recording(True)


def is_recorded(*parents: Tensor) -> bool:
    """Whether `record` would remember these parents. If not, an op need not save anything."""
    return _mode.recording and any([parent.requires_grad for parent in parents])


def record(data: ArrayLike, parents: tuple[Tensor, ...], vjp: Vjp) -> Tensor:
    """Return `data` as a Tensor that remembers how it was computed.

    Under `no_grad`, or if no parent requires a gradient, it remembers neither parents nor vjp.

    Parameters
    ----------
    data
        The forward value.
    parents
        The Tensors that `data` was computed from.
    vjp
        A pure function. It takes g, an array with the shape and dtype of `data`, and returns a
        tuple with one gradient per parent: an array of the parent's shape and dtype, or `Rows`. If
        nobody else holds a returned array, the engine may add to it, or keep it as a `.grad`.

    Raises
    ------
    TypeError
        Data and parents do not all have the same precision.
    """
    out = Tensor(data)
    dtype, wanted = out.data.dtype, False
    for i, parent in enumerate(parents):
        wanted = wanted or parent.requires_grad
        if parent.data.dtype is not dtype and (
            parent.data.real.dtype != out.data.real.dtype  # `real`: complex64 goes with float32
        ):
            raise TypeError(
                f"{op_name(vjp)}: operand {i} has dtype {parent.dtype}, the result {out.dtype}; "
                "convert all operands to one dtype first"
            )
    if wanted and _mode.recording:
        out.requires_grad, out.parents, out.grad_fn = True, parents, vjp
    return out


def op_name(vjp: Vjp) -> str:
    """Return the name of the op that a vjp belongs to: the function that the vjp was defined in.

    A vjp may be any callable. If it was not defined inside a function, its own name is returned, or
    the name of its type if it has no name.

    >>> def square(a):
    ...     return record(a.data**2, (a,), lambda g: (g * 2.0 * a.data,))
    >>> op_name(square(Tensor(1.0, requires_grad=True)).grad_fn)
    'square'
    """
    function = vjp.func if isinstance(vjp, partial) else vjp
    name = getattr(function, "__qualname__", None)
    name = name if isinstance(name, str) else type(function).__name__
    *outer, own_name = name.split(".<locals>")
    return (outer[-1] if outer else own_name).rpartition(".")[2]


def as_tensor(x: Operand, like: Operand | None = None) -> Tensor:
    """Return x if it is a Tensor, otherwise a constant Tensor made from it.

    If `like` is a Tensor, the constant gets the dtype of `like`. So a Python or NumPy number never
    changes the precision: `t * np.float64(2)` has t's dtype.
    """
    if isinstance(x, Tensor):
        return x
    array = _array(x)
    if isinstance(like, Tensor) and array.dtype.kind in "fiub":
        array = array.astype(like.dtype, copy=False)
    return Tensor(array)


def _array(x: ArrayLike) -> Array:
    """Return np.asarray(x); TypeError if x is a list with Tensors in it."""
    if isinstance(x, (list, tuple)) and _holds_tensor(x):  # a tuple is faster than list | tuple
        raise _joined_without_stack()
    return np.asarray(x)


def _holds_tensor(x: object) -> bool:
    """Whether x is a Tensor, or a list or an object array with a Tensor somewhere in it."""
    if isinstance(x, np.ndarray):
        return x.dtype.kind == "O" and any(map(_holds_tensor, x.flat))
    return any(map(_holds_tensor, x)) if isinstance(x, list | tuple) else isinstance(x, Tensor)


def _joined_without_stack() -> Exception:
    return TypeError(
        "a list or an array of Tensors is not a Tensor: join them with stack([a, b]) or "
        "concatenate([a, b])"
    )


def _values(x: Operand) -> Array:
    """Return the array of x, where no gradient is lost: in a comparison, or for the shape alone."""
    return x.data if isinstance(x, Tensor) else _array(x)


def _operands(a: Operand, b: Operand) -> tuple[Tensor, Tensor]:
    return as_tensor(a, like=b), as_tensor(b, like=a)


def unbroadcast(g: Array, shape: tuple[int, ...]) -> Array:
    """Sum g over the axes along which `shape` was broadcast to g.shape.

    Broadcasting uses one value many times, so the value's gradient is the sum over all uses. This
    holds for new leading axes, and for axes of size 1.

    >>> unbroadcast(np.ones((4, 2, 3)), (2, 1))
    array([[12.],
           [12.]])
    """
    if g.shape == shape:
        return g
    leading = g.ndim - len(shape)
    axes = tuple(range(leading)) + tuple(leading + i for i, n in enumerate(shape) if n == 1)
    return _sum(g, axes).reshape(shape)


_TERMS = 16  # rows that are added up one after the other
_FEW = 256  # an array with so few entries has short sums: NumPy adds them up well enough


def _sum(x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    """Return x.sum(axis, keepdims), with a rounding error that hardly grows with the sum's length.

    Along the last axis, NumPy sums in pairs. Along the others it adds one term after the other, so
    that a sum of 1,000,000 float32 numbers can lose all digits but two.
    """
    if axis is not None and axis != -1 and x.size > _FEW:
        axes = normalize_axis_tuple(axis, x.ndim)
        n = prod([x.shape[i] for i in axes])
        if n > _TERMS and axes != (x.ndim - 1,) and len(axes) < x.ndim:
            terms = np.moveaxis(x, axes, range(len(axes)))
            total = _sum_rows(terms.reshape(n, -1)).reshape(terms.shape[len(axes) :])
            return np.expand_dims(total, axes) if keepdims else total
    return cast(Array, x.sum(axis=axis, keepdims=keepdims))


def _sum_rows(rows: Array) -> Array:
    """Sum the rows, (N, M) -> (M,), in sums of 16 rows, which are summed in the same way."""
    n, rest = divmod(len(rows), _TERMS)
    if not n:
        return cast(Array, rows.sum(axis=0))
    # Sum i of the n sums has the rows i, n + i, 2n + i, ...
    sums = rows[: n * _TERMS].reshape(_TERMS, n, -1).sum(axis=0)
    return _sum_rows(np.concatenate([sums, rows[len(rows) - rest :]]))


# -- arithmetic, with broadcasting ---------------------------------------------------------------


def add(a: Operand, b: Operand) -> Tensor:
    """out = a + b;  da = g,  db = g  (summed over broadcast axes, here and below)."""
    a, b = _operands(a, b)
    a_shape, b_shape = a.shape, b.shape

    def vjp(g: Array) -> tuple[Array, Array]:
        return unbroadcast(g, a_shape), unbroadcast(g, b_shape)

    return record(a.data + b.data, (a, b), vjp)


def sub(a: Operand, b: Operand) -> Tensor:
    """out = a - b;  da = g,  db = -g."""
    a, b = _operands(a, b)
    a_shape, b_shape = a.shape, b.shape

    def vjp(g: Array) -> tuple[Array, Array]:
        return unbroadcast(g, a_shape), unbroadcast(-g, b_shape)

    return record(a.data - b.data, (a, b), vjp)


def mul(a: Operand, b: Operand) -> Tensor:
    """out = a * b;  da = g * b,  db = g * a."""
    a, b = _operands(a, b)
    x, y = a.data, b.data

    def vjp(g: Array) -> tuple[Array, Array]:
        return unbroadcast(g * y, x.shape), unbroadcast(g * x, y.shape)

    return record(x * y, (a, b), vjp)


def div(a: Operand, b: Operand) -> Tensor:
    """out = a / b;  da = g / b,  db = -g * a / b**2."""
    a, b = _operands(a, b)
    x, y = a.data, b.data

    def vjp(g: Array) -> tuple[Array, Array]:
        da = g / y
        return unbroadcast(da, x.shape), unbroadcast(-da * (x / y), y.shape)

    return record(x / y, (a, b), vjp)


def neg(a: Operand) -> Tensor:
    """out = -a;  da = -g."""
    a = as_tensor(a)

    def vjp(g: Array) -> tuple[Array]:
        return (-g,)

    return record(-a.data, (a,), vjp)


def power(a: Operand, n: Operand) -> Tensor:
    """out = a**n;  da = g * n * a**(n-1),  dn = g * out * log(a).

    If a is negative, dn is NaN: a**n is real only if n is an integer. At a = 0, dn is 0.
    """
    if isinstance(n, Real):
        a, m = as_tensor(a), int(n) if isinstance(n, Integral) else float(n)
        x = a.data

        def vjp_of_base(g: Array) -> tuple[Array]:
            return (g * (m * x ** (m - 1 if m else 0)),)  # a**0 is constant, at 0 as well

        return record(x**m, (a,), vjp_of_base)  # m: a NumPy number would promote float32
    a, n = _operands(a, n)
    x, y = a.data, n.data
    out = x**y

    def vjp(g: Array) -> tuple[Array, Array]:
        with np.errstate(divide="ignore", invalid="ignore"):  # in the gradient of a constant
            da = g * (y * x ** np.where(y == 0.0, y, y - 1.0))
            dn = g * np.where((x == 0.0) & (y >= 0.0), 0.0, out * np.log(x))
        return unbroadcast(da, x.shape), unbroadcast(dn, y.shape)

    return record(out, (a, n), vjp)


def matmul(a: Operand, b: Operand) -> Tensor:
    """out = a @ b;  da = g @ b^T,  db = a^T @ g.  Leading axes broadcast, as in NumPy."""
    a, b = _operands(a, b)
    if b.ndim == 1 and a.ndim:  # a vector is a matrix of one column, or of one row
        return matmul(a, b[:, None])[..., 0]
    if a.ndim == 1 and b.ndim:
        return matmul(a[None, :], b)[..., 0, :]
    x, y = a.data, b.data

    def vjp(g: Array) -> tuple[Array, Array]:
        da = g @ y.swapaxes(-1, -2)  # (..., n, m) @ (..., m, k) -> (..., n, k)
        db = x.swapaxes(-1, -2) @ g  # (..., k, n) @ (..., n, m) -> (..., k, m)
        return unbroadcast(da, x.shape), unbroadcast(db, y.shape)

    return record(x @ y, (a, b), vjp)


# -- elementwise functions -----------------------------------------------------------------------


def exp(a: Operand) -> Tensor:
    """out = exp(a);  da = g * out."""
    a = as_tensor(a)
    out = np.exp(a.data)

    def vjp(g: Array) -> tuple[Array]:
        return (g * out,)

    return record(out, (a,), vjp)


def log(a: Operand) -> Tensor:
    """out = log(a), the natural logarithm;  da = g / a."""
    a = as_tensor(a)
    x = a.data

    def vjp(g: Array) -> tuple[Array]:
        return (g / x,)

    return record(np.log(x), (a,), vjp)


def log1p(a: Operand) -> Tensor:
    """out = log(1 + a), accurate for small a too;  da = g / (1 + a)."""
    a = as_tensor(a)
    x = a.data

    def vjp(g: Array) -> tuple[Array]:
        return (g / (1.0 + x),)

    return record(np.log1p(x), (a,), vjp)


def sin(a: Operand) -> Tensor:
    """out = sin(a);  da = g * cos(a)."""
    a = as_tensor(a)
    x = a.data

    def vjp(g: Array) -> tuple[Array]:
        return (g * np.cos(x),)

    return record(np.sin(x), (a,), vjp)


def cos(a: Operand) -> Tensor:
    """out = cos(a);  da = -g * sin(a)."""
    a = as_tensor(a)
    x = a.data

    def vjp(g: Array) -> tuple[Array]:
        return (-g * np.sin(x),)

    return record(np.cos(x), (a,), vjp)


def tanh(a: Operand) -> Tensor:
    """out = tanh(a);  da = g * (1 - out**2)."""
    a = as_tensor(a)
    out = np.tanh(a.data)

    def vjp(g: Array) -> tuple[Array]:
        return (g * (1.0 - out * out),)

    return record(out, (a,), vjp)


def sigmoid(a: Operand) -> Tensor:
    """out = 1 / (1 + exp(-a));  da = g * out * (1 - out)."""
    a = as_tensor(a)
    negative = a.data.real < 0.0
    with np.errstate(under="ignore"):
        e = np.exp(np.where(negative, a.data, -a.data))  # exp(-|a|), which cannot overflow
    out, rest = np.where(negative, e, 1.0) / (1.0 + e), np.where(negative, 1.0, e) / (1.0 + e)

    def vjp(g: Array) -> tuple[Array]:
        return (g * out * rest,)  # rest = 1 - out, also where out rounds to 1

    return record(out, (a,), vjp)


def sqrt(a: Operand) -> Tensor:
    """out = sqrt(a);  da = g / (2 * out)."""
    a = as_tensor(a)
    out = np.sqrt(a.data)

    def vjp(g: Array) -> tuple[Array]:
        return (g / (2.0 * out),)

    return record(out, (a,), vjp)


def abs(a: Operand) -> Tensor:
    """out = |a|;  da = g where a > 0,  -g where a < 0,  and 0 where a = 0."""
    a = as_tensor(a)
    sign = np.sign(a.data.real)

    def vjp(g: Array) -> tuple[Array]:
        return (g * sign,)

    return record(a.data * sign + 0.0, (a,), vjp)  # + 0.0, as |-0.0| is 0.0


def maximum(a: Operand, b: Operand) -> Tensor:
    """out = the larger of a and b;  it gets g, the other gets 0, and if a = b both get g/2."""
    a, b = _operands(a, b)
    x, y = a.data, b.data

    def vjp(g: Array) -> tuple[Array, Array]:
        shared = np.where(x == y, 0.5 * g, 0.0)
        da, db = np.where(x > y, g, shared), np.where(y > x, g, shared)
        return unbroadcast(da, x.shape), unbroadcast(db, y.shape)

    return record(np.maximum(x, y), (a, b), vjp)


def minimum(a: Operand, b: Operand) -> Tensor:
    """out = the smaller of a and b, as -maximum(-a, -b);  the gradients are like maximum's."""
    a, b = _operands(a, b)
    return neg(maximum(neg(a), neg(b)))


def clip(
    a: Operand,
    a_min: Operand | None = None,
    a_max: Operand | None = None,
    *,
    min: Operand | None = None,
    max: Operand | None = None,
) -> Tensor:
    """out = minimum(maximum(a, a_min), a_max);  None stands for no limit.

    da = g between the limits, g/2 at a limit, and 0 outside. A limit that is a Tensor gets a
    gradient too. As in NumPy, `min` and `max` are other names for the limits.
    """
    for low in (a_min, min):
        a = a if low is None else maximum(a, low)
    for high in (a_max, max):
        a = a if high is None else minimum(a, high)
    return as_tensor(a)


def relu(a: Operand) -> Tensor:
    """out = a where a > 0, otherwise 0;  da = g where a > 0, otherwise 0."""
    a = as_tensor(a)
    return where(a.data.real <= 0.0, 0.0, a)  # <=, so that NaN stays NaN


def where(condition: Operand, a: Operand, b: Operand) -> Tensor:
    """out = a where the condition holds, otherwise b;  da = g there,  db = g elsewhere.

    The branch that is not chosen gets a gradient of 0. Its own operands may still get NaN, from
    0 * inf. So instead of where(x > 0, sqrt(x), 0) write where(x > 0, sqrt(where(x > 0, x, 1)), 0).
    """
    a, b = _operands(a, b)
    # The condition is copied because the caller may change it before the backward pass.
    a_shape, b_shape, condition = a.shape, b.shape, np.array(_values(condition), dtype=bool)

    def vjp(g: Array) -> tuple[Array, Array]:
        da, db = np.where(condition, g, 0.0), np.where(condition, 0.0, g)
        return unbroadcast(da, a_shape), unbroadcast(db, b_shape)

    return record(np.where(condition, a.data, b.data), (a, b), vjp)


# -- reductions ----------------------------------------------------------------------------------


def _expand(reduced: Array, axis: Axis, keepdims: bool) -> Array:
    """Put the reduced axes back into a reduced array, with size 1, so that it broadcasts."""
    return reduced if keepdims or axis is None else np.expand_dims(reduced, axis)


def sum(a: Operand, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """out = sum of a over axis (an integer, a tuple, or None for all);  da = g, broadcast."""
    a = as_tensor(a)
    shape = a.shape

    def vjp(g: Array) -> tuple[Array]:
        return (np.broadcast_to(_expand(g, axis, keepdims), shape),)

    return record(_sum(a.data, axis, keepdims), (a,), vjp)


def mean(a: Operand, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """out = sum(a) / n over axis, n = number of elements in each sum;  da = g / n, broadcast."""
    a = as_tensor(a)
    return sum(a, axis, keepdims) / _count(a, axis)


def _count(a: Tensor, axis: Axis) -> int:
    """Return the number of elements that a reduction over axis adds up to one."""
    axes = range(a.ndim) if axis is None else np.atleast_1d(axis)
    return prod(a.shape[i] for i in axes)


def max(a: Operand, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """out = maximum of a over axis;  da = g at the maximum, split equally between ties."""
    a = as_tensor(a)
    x = a.data
    out = x.max(axis=axis, keepdims=keepdims)

    def vjp(g: Array) -> tuple[Array]:
        largest = x == _expand(out, axis, keepdims)
        ties = largest.sum(axis=axis, keepdims=True, dtype=x.dtype)
        return (largest * (_expand(g, axis, keepdims) / ties),)

    return record(out, (a,), vjp)


def min(a: Operand, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """out = minimum of a over axis, as -max(-a);  the gradient is like max's."""
    return neg(max(neg(a), axis, keepdims))


def var(a: Operand, axis: Axis = None, ddof: float = 0, keepdims: bool = False) -> Tensor:
    """out = sum((a - mean)**2) / (n - ddof) over axis, n = number of elements in each sum.

    ddof = 0 divides by n, as NumPy does; ddof = 1 divides by n - 1, as torch does. ValueError if
    n - ddof is not positive.
    """
    a = as_tensor(a)
    centred = a - mean(a, axis, keepdims=True)
    centred = centred - mean(centred, axis, keepdims=True)  # takes out the rounding of the mean
    n = _count(a, axis)
    if not n > ddof:
        raise ValueError(f"var: ddof={ddof} must be less than the number of elements, {n}")
    return sum(centred * centred, axis, keepdims) / (n - ddof)


def std(a: Operand, axis: Axis = None, ddof: float = 0, keepdims: bool = False) -> Tensor:
    """out = sqrt(var(a));  da = g * (a - mean) / ((n - ddof) * out), and 0 where out = 0."""
    variance = var(a, axis, ddof, keepdims)
    zero = variance.data == 0.0  # here sqrt has no derivative
    return where(zero, 0.0, sqrt(where(zero, 1.0, variance)))


def cumsum(a: Operand, axis: int | None = None) -> Tensor:
    """out_i = a_0 + ... + a_i along axis, or of the flattened a;  da_j = g_j + g_j+1 + ..."""
    a = flatten(a) if axis is None else as_tensor(a)
    along = 0 if axis is None else axis

    def vjp(g: Array) -> tuple[Array]:
        return (np.flip(np.flip(g, along).cumsum(along), along),)

    return record(a.data.cumsum(along), (a,), vjp)


# -- shape and selection -------------------------------------------------------------------------


def reshape(a: Operand, *shape: int | tuple[int, ...]) -> Tensor:
    """out = a in another shape, given as a tuple or as integers;  da = g in a's shape."""
    a = as_tensor(a)
    a_shape = a.shape

    def vjp(g: Array) -> tuple[Array]:
        return (g.reshape(a_shape),)

    return record(a.data.reshape(*cast(Any, shape)), (a,), vjp)


def transpose(a: Operand, *axes: int | Sequence[int]) -> Tensor:
    """out = a with its axes in the given order, by default reversed;  da = g, permuted back."""
    a = as_tensor(a)
    given: Any = axes[0] if len(axes) == 1 and isinstance(axes[0], tuple | list) else axes
    order = normalize_axis_tuple(given or range(a.ndim)[::-1], a.ndim)

    def vjp(g: Array) -> tuple[Array]:
        return (g.transpose(np.argsort(order)),)

    return record(a.data.transpose(order), (a,), vjp)


def swapaxes(a: Operand, axis1: int, axis2: int) -> Tensor:
    """out = a with two axes exchanged;  da = g with the same two exchanged."""
    a = as_tensor(a)

    def vjp(g: Array) -> tuple[Array]:
        return (g.swapaxes(axis1, axis2),)

    return record(a.data.swapaxes(axis1, axis2), (a,), vjp)


def flatten(a: Operand) -> Tensor:
    """out = a with all its elements along one axis;  da = g in a's shape."""
    return reshape(a, -1)


def squeeze(a: Operand, axis: Axis = None) -> Tensor:
    """out = a without its axes of size 1, or without the given ones;  da = g in a's shape."""
    return reshape(a, np.squeeze(_values(a), axis).shape)


def expand_dims(a: Operand, axis: int | tuple[int, ...]) -> Tensor:
    """out = a with new axes of size 1 at the given places;  da = g in a's shape."""
    return reshape(a, np.expand_dims(_values(a), axis).shape)


def broadcast_to(a: Operand, shape: int | tuple[int, ...]) -> Tensor:
    """out = a, repeated so that it has this shape;  da = g summed over the repetitions."""
    a = as_tensor(a)
    a_shape = a.shape

    def vjp(g: Array) -> tuple[Array]:
        return (unbroadcast(g, a_shape),)

    return record(np.broadcast_to(a.data, shape), (a,), vjp)


def getitem(a: Operand, index: Any) -> Tensor:
    """out = a[index];  da = 0 with g added at index, twice where an entry was selected twice.

    NumPy defines the possible indices: integers, slices, None, ..., integer or boolean arrays, or a
    tuple of these.
    """
    a = as_tensor(a)
    x = a.data
    basic = (int, np.integer, slice, NoneType, EllipsisType)
    items = index if isinstance(index, tuple) else (index,)
    selects_once = all(isinstance(i, basic) for i in items)
    out = x[index]
    if not selects_once:
        index = deepcopy(index)  # the caller may change it before the backward pass

    def vjp(g: Array) -> tuple[Array]:
        da = np.zeros_like(x)
        if selects_once:
            da[index] = g
        else:
            np.add.at(da, index, g)  # da[index] += g would count a repeated index once
        return (da,)

    return record(out, (a,), vjp)


def concatenate(tensors: Iterable[Operand], axis: int | None = 0) -> Tensor:
    """out = the tensors joined along an existing axis;  the gradient of each is its part of g.

    If axis is None, the tensors are flattened first.
    """
    tensors = list(tensors)
    if not tensors:
        raise ValueError("concatenate needs at least one Tensor")
    like = next((t for t in tensors if isinstance(t, Tensor)), None)
    parents = tuple(_operands(t, tensors[0] if like is None else like)[0] for t in tensors)
    if axis is None:
        parents, axis = tuple(map(flatten, parents)), 0
    out = np.concatenate([p.data for p in parents], axis=axis)
    ends = np.cumsum([p.shape[axis] for p in parents])[:-1]

    def vjp(g: Array) -> tuple[Array, ...]:
        return tuple(np.split(g, ends, axis=axis))

    return record(out, parents, vjp)


def stack(tensors: Iterable[Operand], axis: int = 0) -> Tensor:
    """out = tensors of one shape, joined along a new axis;  the gradient of each is its part of g.

    >>> a, b = Tensor([1.0, 2.0]), Tensor([3.0, 4.0])
    >>> stack([a, b], axis=1)
    Tensor([[1., 3.],
            [2., 4.]], dtype=float64)
    """
    return concatenate([expand_dims(t, axis) for t in tensors], axis)


def split(a: Operand, indices_or_sections: int | Sequence[int], axis: int = 0) -> list[Tensor]:
    """Cut a along axis, into equal sections or at indices;  da = the gradients, joined.

    >>> [part.shape for part in split(np.ones((2, 6)), 3, axis=1)]
    [(2, 2), (2, 2), (2, 2)]
    >>> [part.shape for part in split(np.ones(6), [1, 4])]
    [(1,), (3,), (2,)]
    """
    a = as_tensor(a)
    (axis,) = normalize_axis_tuple(axis, a.ndim)
    parts = np.split(np.arange(a.shape[axis]), indices_or_sections)
    before = (slice(None),) * axis
    return [a[(*before, slice(p[0], p[-1] + 1) if p.size else slice(0))] for p in parts]


def pad(a: Operand, pad_width: Any, mode: str = "constant", constant_values: float = 0.0) -> Tensor:
    """out = a with a border;  da = g without the border, plus g of the border's copies of a.

    Parameters
    ----------
    pad_width
        (before, after) for all axes, or one such pair for each axis, or one number, as in NumPy.
        Or a dict of some axes, such as {-1: (before, after)}.
    mode
        "constant": the border is `constant_values`. "edge", "reflect", "symmetric", "wrap": the
        border copies entries of a; see `np.pad`.

    Raises
    ------
    ValueError, TypeError, IndexError
        The mode is unknown, or pad_width does not fit.
    """
    a = as_tensor(a)
    if isinstance(pad_width, dict):
        each: list[Any] = [(0, 0)] * a.ndim
        for axis, width in pad_width.items():
            each[axis] = np.broadcast_to(width, 2)
        pad_width = each
    widths = np.broadcast_to(pad_width, (a.ndim, 2))
    copies = ("edge", "reflect", "symmetric", "wrap")
    if mode in copies:
        for axis, width in enumerate(widths):
            source = np.pad(np.arange(a.shape[axis]), width, mode)  # type: ignore[call-overload]
            a = a[(*[slice(None)] * axis, source)]
        return a
    if mode != "constant":
        known = ", ".join(("constant", *copies))
        raise ValueError(f"pad: mode {mode!r} is unknown; choose one of {known}")
    # np.pad refuses wrong widths; but it has no widths for no axes.
    out = np.pad(a.data, widths if a.ndim else 0, constant_values=constant_values)
    inside = tuple(slice(w[0], w[0] + n) for w, n in zip(widths, a.shape, strict=True))

    def vjp(g: Array) -> tuple[Array]:
        return (g[inside],)

    return record(out, (a,), vjp)


_GRADIENTS = (np.ndarray, np.generic, Rows)  # what a vjp may return


class Tensor:
    """An array that remembers how it was computed.

    Parameters
    ----------
    data
        Anything that `np.asarray` takes. Arrays of float32, float64 or complex numbers are used
        without a copy; integers and booleans become float64.
    requires_grad
        Whether `backward` leaves a gradient in `.grad`.

    Attributes
    ----------
    data
        The array.
    grad
        dL/ddata, an array with the shape and dtype of `data`. It is None until `backward` has
        reached this leaf. Later backward passes add to it; set it to None to start anew.
    requires_grad
        True for leaves made with requires_grad=True, and for all Tensors computed from them, except
        under `no_grad`.
    parents
        The Tensors that this one was computed from: empty at a leaf, None once freed.
    grad_fn
        The vjp function of the op that made this Tensor. None at a leaf, and once freed.

    Raises
    ------
    TypeError
        The data has another dtype (float16, text, objects), or a complex leaf asks for a gradient.
    """

    __slots__ = ("__weakref__", "data", "grad", "grad_fn", "parents", "requires_grad")

    # NumPy calls these for its functions of Tensors. numpy_protocols.py sets them, as it is built
    # on the ops.
    __array_ufunc__: ClassVar[Callable[..., Any]]
    __array_function__: ClassVar[Callable[..., Any]]

    def __init__(self, data: ArrayLike, requires_grad: bool = False) -> None:
        array = data if type(data) is np.ndarray else _array(data)
        if array.dtype.char not in "fdFD" or not array.dtype.isnative:
            if array.dtype.kind not in "biu":
                if _holds_tensor(array):
                    raise _joined_without_stack()
                raise TypeError(
                    f"Tensor holds float32, float64 or complex data, not {array.dtype}; "
                    "convert it first, e.g. with .astype(np.float32)"
                )
            array = array.astype(np.float64)
        if requires_grad and array.dtype.kind == "c":
            raise TypeError("a complex leaf has no gradient here; use its real and imaginary parts")
        self.data: Array = array
        self.grad: Array | None = None
        self.requires_grad = requires_grad
        self.parents: tuple[Tensor, ...] | None = ()
        self.grad_fn: Vjp | None = None

    # -- the graph ---------------------------------------------------------------------------

    @property
    def op(self) -> str:
        """Name of the op that made this Tensor, such as "matmul"; empty at a leaf or once freed."""
        return "" if self.grad_fn is None else op_name(self.grad_fn)

    def vjp(self, g: ArrayLike) -> tuple[Any, ...]:
        """Return one gradient per parent, given the cotangent g = dL/dself.

        This method calls `grad_fn`, and checks g and the gradients. It changes nothing.

        Parameters
        ----------
        g
            Array-like of this Tensor's shape; it is converted to this Tensor's dtype.

        Raises
        ------
        RuntimeError
            This Tensor is a leaf, or an earlier backward pass has freed the graph.
        TypeError, ValueError
            g is a Tensor or has another shape. Or the op is wrong: its vjp did not return a tuple
            with one gradient per parent, an array (or Rows) of that parent's shape and dtype.
        """
        if self.grad_fn is None or self.parents is None:
            raise RuntimeError(
                "no vjp here: this Tensor is a leaf"
                if self.parents == ()
                else "no vjp here: an earlier backward pass freed this graph; "
                "keep it with backward(retain_graph=True)"
            )
        gradients = self.grad_fn(self.cotangent(g))
        if not isinstance(gradients, tuple) or len(gradients) != len(self.parents):
            raise _wrong_number(self.op, gradients, len(self.parents))
        for i, (parent, gradient) in enumerate(zip(self.parents, gradients, strict=True)):
            data = parent.data
            if parent.requires_grad and not (
                isinstance(gradient, _GRADIENTS)
                and gradient.shape == data.shape
                and gradient.dtype == data.dtype
            ):
                raise _wrong_gradient(self.op, gradient, i, data)
        return gradients

    @np.errstate(under="ignore")  # a gradient that is too small for its dtype becomes 0
    def backward(self, g: ArrayLike | None = None, retain_graph: bool = False) -> None:
        """Add dL/dleaf to the `.grad` of every leaf that this Tensor was computed from.

        Parameters
        ----------
        g
            The cotangent dL/dself; see `cotangent`.
        retain_graph
            Keep the graph for another backward pass. By default the pass frees it while it runs.

        Raises
        ------
        RuntimeError
            This Tensor requires no gradient, or an earlier backward pass has freed the graph.
        TypeError, ValueError
            g does not fit; or an op is wrong (see `vjp`); or a leaf's `.grad` has another shape or
            dtype than its gradient. After an error, every `.grad` is as before.
        """
        leaves = cast(
            list[tuple[Tensor, Array]],
            backward(self, self.cotangent(g), retain_graph=retain_graph, add=accumulate),
        )
        for leaf, gradient in leaves:
            so_far = leaf.grad
            if so_far is not None and (
                so_far.shape != gradient.shape or so_far.dtype != gradient.dtype
            ):
                raise ValueError(
                    f".grad has shape {so_far.shape} and dtype {so_far.dtype} on a leaf of shape "
                    f"{leaf.shape} and dtype {leaf.dtype}; set it to None to start anew"
                )
        while leaves:
            leaf, gradient = leaves.pop()
            leaf.grad = own(gradient) if leaf.grad is None else np.array(leaf.grad + gradient)

    def cotangent(self, g: ArrayLike | None = None) -> Array:
        """Return g as a cotangent of this Tensor: an array of its shape and dtype.

        Parameters
        ----------
        g
            Array-like of this Tensor's shape. None means 1, for a Tensor of one element.

        Raises
        ------
        RuntimeError
            This Tensor requires no gradient.
        TypeError
            g is a Tensor: derivatives of derivatives are not supported. Or this Tensor is complex.
        ValueError
            g has another shape or does not hold real numbers. Or g is None, and this Tensor does
            not have exactly one element.
        """
        data = self.data
        if not self.requires_grad:
            raise RuntimeError(
                "this Tensor requires no gradient: nothing it was computed from has "
                "requires_grad=True, or it was computed under no_grad()"
            )
        if data.dtype.kind == "c":
            raise TypeError("there is no backward pass for complex values")
        if g is None:
            if data.size != 1:
                raise ValueError(
                    f"a Tensor of shape {data.shape} needs a cotangent g of that shape: give g, "
                    "or reduce to a scalar first, with .sum()"
                )
            return np.ones_like(data)
        if isinstance(g, Tensor):
            raise TypeError(
                "a cotangent is an array, not a Tensor: derivatives of derivatives are not "
                "supported; pass g.data"
            )
        if type(g) is np.ndarray and g.shape == data.shape and g.dtype == data.dtype:
            return g
        array = np.asarray(g)
        if array.shape != data.shape or array.dtype.kind not in "fiub":
            raise ValueError(
                f"a cotangent of shape {array.shape} and dtype {array.dtype} does not fit an "
                f"output of shape {data.shape} and dtype {data.dtype}"
            )
        return array.astype(data.dtype, copy=False)

    def free(self) -> None:
        """Forget the parents and the arrays that the vjp saved; `backward` calls this."""
        self.parents, self.grad_fn = None, None

    def detach(self) -> Tensor:
        """Return the same array as a leaf that requires no gradient."""
        return Tensor(self.data)

    # -- as an array -------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the data."""
        return self.data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the data."""
        return self.data.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.data.ndim

    @property
    def size(self) -> int:
        """Number of elements, as NumPy calls it."""
        return self.data.size

    def numel(self) -> int:
        """Return the number of elements, as torch calls it."""
        return self.data.size

    def item(self) -> Any:
        """Return the only element as a Python number; ValueError unless there is exactly one."""
        return self.data.item()

    def numpy(self) -> Array:
        """Return the array; TypeError if this Tensor requires a gradient, as the array has none."""
        if self.requires_grad:
            raise TypeError(
                "this Tensor requires a gradient, and an array would lose it: for the values "
                "alone, take t.data or t.detach(); to join Tensors, use stack or concatenate"
            )
        return self.data

    def argmax(self, axis: int | None = None, keepdims: bool = False) -> Array:
        """Return where the maximum is, as `np.argmax` does: a plain array, without derivative."""
        return cast(Array, np.argmax(self.data, axis, keepdims=keepdims))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __format__(self, spec: str) -> str:
        return format(self.item() if spec else str(self), spec)

    def __float__(self) -> float:
        return float(self.data.item())

    def __bool__(self) -> bool:
        return bool(self.data)

    def __repr__(self) -> str:
        values = np.array2string(self.data, separator=", ", prefix="Tensor(")
        grad = ", requires_grad=True" if self.requires_grad else ""
        return f"{type(self).__name__}({values}, dtype={self.dtype}{grad})"

    def __getstate__(self) -> object:
        if self.parents != ():
            raise TypeError("only leaves can be copied or pickled; take tensor.detach()")
        return object.__getstate__(self)

    # -- the ops, as operators and methods -----------------------------------------------------

    __add__ = __radd__ = add
    __sub__ = sub
    __mul__ = __rmul__ = mul
    __truediv__ = div
    __matmul__ = matmul
    __pow__ = power
    __neg__ = neg
    __abs__ = abs
    __getitem__ = getitem

    exp, log, log1p, sqrt, abs = exp, log, log1p, sqrt, abs
    sin, cos, tanh, sigmoid, relu = sin, cos, tanh, sigmoid, relu
    maximum, minimum, clip = maximum, minimum, clip
    sum, mean, max, min, var, std, cumsum = sum, mean, max, min, var, std, cumsum
    reshape, transpose, swapaxes = reshape, transpose, swapaxes
    flatten, ravel, squeeze = flatten, flatten, squeeze

    def __pos__(self) -> Tensor:
        return self

    def dot(self, other: Operand) -> Tensor:
        """Return `np.dot(self, other)`: a product with a number, a vector or a matrix."""
        return cast(Tensor, np.dot(self, other))

    def __rsub__(self, other: ArrayLike) -> Tensor:
        return sub(other, self)

    def __rtruediv__(self, other: ArrayLike) -> Tensor:
        return div(other, self)

    def __rmatmul__(self, other: ArrayLike) -> Tensor:
        return matmul(other, self)

    def __rpow__(self, other: ArrayLike) -> Tensor:
        return power(other, self)

    @property
    def T(self) -> Tensor:  # noqa: N802
        """The transpose: all axes reversed."""
        return transpose(self)

    @property
    def real(self) -> Tensor:
        """The Tensor itself; if it is complex, its real part, as a constant."""
        return Tensor(self.data.real) if self.data.dtype.kind == "c" else self

    def _inplace(self, _other: object) -> Any:
        if not self.requires_grad:
            return NotImplemented  # then Python computes x = x + y, which changes no array
        raise RuntimeError(
            "an in-place operator on a Tensor that is part of a graph would make gradients wrong; "
            "write x = x + y, or change x.data between backward and the next forward"
        )

    __iadd__ = __isub__ = __imul__ = __itruediv__ = __imatmul__ = __ipow__ = _inplace

    def __setitem__(self, index: object, value: object) -> None:
        raise TypeError(
            "Tensors do not support item assignment; use where(condition, a, b), or change "
            "x.data between backward and the next forward"
        )

    # Comparisons are elementwise, and return plain boolean arrays. Hashing still uses the identity.
    __hash__ = object.__hash__

    def __eq__(self, other: Any) -> Array:  # type: ignore[override]
        return cast(Array, self.data == _values(other))

    def __ne__(self, other: Any) -> Array:  # type: ignore[override]
        return cast(Array, self.data != _values(other))

    def __lt__(self, other: Operand) -> Array:
        return cast(Array, self.data < _values(other))

    def __le__(self, other: Operand) -> Array:
        return cast(Array, self.data <= _values(other))

    def __gt__(self, other: Operand) -> Array:
        return cast(Array, self.data > _values(other))

    def __ge__(self, other: Operand) -> Array:
        return cast(Array, self.data >= _values(other))


# -- the errors for a wrong op -------------------------------------------------------------------


def _wrong_number(op: str, gradients: object, parents: int) -> Exception:
    """Return the error for a vjp that returned no tuple, or one of the wrong length."""
    if not isinstance(gradients, tuple):
        return TypeError(
            f"the vjp of {op} returned a {type(gradients).__name__}: a vjp returns a tuple, "
            "with one gradient per parent"
        )
    return ValueError(f"the vjp of {op} returned {len(gradients)} gradients for {parents} parents")


def _wrong_gradient(op: str, gradient: Any, i: int, data: Array) -> Exception:
    """Return the error for a gradient that is not an array, or does not fit parent i."""
    if not isinstance(gradient, _GRADIENTS):
        return TypeError(f"the vjp of {op} returned {gradient!r} for parent {i}, not an array")
    return ValueError(
        f"the vjp of {op} returned a gradient of shape {gradient.shape} and dtype "
        f"{gradient.dtype} for parent {i}, which has shape {data.shape} and dtype {data.dtype}"
    )
