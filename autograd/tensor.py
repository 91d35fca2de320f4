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
from math import prod
from numbers import Integral, Real
from types import EllipsisType, NoneType
from typing import Any, TypeAlias, cast

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
    dtype = out.data.dtype
    for i, parent in enumerate(parents):
        if parent.data.dtype is not dtype and (
            parent.data.real.dtype != out.data.real.dtype  # `real`: complex64 goes with float32
        ):
            raise TypeError(
                f"{op_name(vjp)}: operand {i} has dtype {parent.dtype}, the result {out.dtype}; "
                "convert all operands to one dtype first"
            )
    if is_recorded(*parents):
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
    function = getattr(vjp, "func", vjp)  # if vjp is a functools.partial, the function inside it
    name = getattr(function, "__qualname__", type(function).__name__)
    *outer, own_name = name.split(".<locals>")
    return (outer[-1] if outer else own_name).rpartition(".")[2]


def as_tensor(x: Operand, like: Operand | None = None) -> Tensor:
    """Return x if it is a Tensor, otherwise a constant Tensor made from it.

    If `like` is a Tensor, the constant gets the dtype of `like`. So a Python or NumPy number never
    changes the precision: `t * np.float64(2)` has t's dtype.
    """
    if isinstance(x, Tensor):
        return x
    array = np.asarray(x)
    if isinstance(like, Tensor) and array.dtype.kind in "fiub":
        array = array.astype(like.dtype, copy=False)
    return Tensor(array)


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
    return cast(Array, g.sum(axis=axes).reshape(shape))


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


def power(a: Operand, n: float) -> Tensor:
    """out = a**n for a number n;  da = g * n * a**(n-1)."""
    if not isinstance(n, Real):
        raise TypeError(
            f"the exponent must be a number, not {type(n).__name__}; "
            "for a Tensor n, write exp(n * log(a))"
        )
    a = as_tensor(a)
    x = a.data
    n = int(n) if isinstance(n, Integral) else float(n)  # a NumPy number would promote float32

    def vjp(g: Array) -> tuple[Array]:
        return (g * (n * x ** (n - 1 if n else 0)),)  # a**0 is constant, at 0 as well

    return record(x**n, (a,), vjp)


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


def tanh(a: Operand) -> Tensor:
    """out = tanh(a);  da = g * (1 - out**2)."""
    a = as_tensor(a)
    out = np.tanh(a.data)

    def vjp(g: Array) -> tuple[Array]:
        return (g * (1.0 - out * out),)

    return record(out, (a,), vjp)


def sqrt(a: Operand) -> Tensor:
    """out = sqrt(a);  da = g / (2 * out)."""
    a = as_tensor(a)
    out = np.sqrt(a.data)

    def vjp(g: Array) -> tuple[Array]:
        return (g / (2.0 * out),)

    return record(out, (a,), vjp)


def where(condition: ArrayLike, a: Operand, b: Operand) -> Tensor:
    """out = a where the condition holds, otherwise b;  da = g there,  db = g elsewhere.

    The branch that is not chosen gets a gradient of 0. Its own operands may still get NaN, from
    0 * inf. So instead of where(x > 0, sqrt(x), 0) write where(x > 0, sqrt(where(x > 0, x, 1)), 0).
    """
    a, b = _operands(a, b)
    # The condition is copied because the caller may change it before the backward pass.
    a_shape, b_shape, condition = a.shape, b.shape, np.array(condition, dtype=bool)

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

    return record(a.data.sum(axis=axis, keepdims=keepdims), (a,), vjp)


def mean(a: Operand, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """out = sum(a) / n over axis, n = number of elements in each sum;  da = g / n, broadcast."""
    a = as_tensor(a)
    axes = range(a.ndim) if axis is None else np.atleast_1d(axis)
    return sum(a, axis, keepdims) / prod(a.shape[i] for i in axes)


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
    if not selects_once:
        index = deepcopy(index)  # the caller may change it before the backward pass

    def vjp(g: Array) -> tuple[Array]:
        da = np.zeros_like(x)
        if selects_once:
            da[index] = g
        else:
            np.add.at(da, index, g)  # da[index] += g would count a repeated index once
        return (da,)

    return record(x[index], (a,), vjp)


def concatenate(tensors: Iterable[Operand], axis: int = 0) -> Tensor:
    """out = the tensors joined along an existing axis;  the gradient of each is its part of g."""
    tensors = list(tensors)
    if not tensors:
        raise ValueError("concatenate needs at least one Tensor")
    like = next((t for t in tensors if isinstance(t, Tensor)), None)
    parents = tuple(_operands(t, tensors[0] if like is None else like)[0] for t in tensors)
    out = np.concatenate([p.data for p in parents], axis=axis)
    ends = np.cumsum([p.shape[axis] for p in parents])[:-1]

    def vjp(g: Array) -> tuple[Array, ...]:
        return tuple(np.split(g, ends, axis=axis))

    return record(out, parents, vjp)


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
    __array_ufunc__ = None  # so that NumPy leaves `array * tensor` to Tensor.__rmul__

    def __init__(self, data: ArrayLike, requires_grad: bool = False) -> None:
        array = np.asarray(data)
        if array.dtype.char not in "fdFD" or not array.dtype.isnative:
            if array.dtype.kind not in "biu":
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

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        return np.array(self.data, dtype=dtype, copy=copy)

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
    __getitem__ = getitem

    sum, mean, max = sum, mean, max
    exp, log, tanh, sqrt = exp, log, tanh, sqrt
    reshape, transpose, swapaxes = reshape, transpose, swapaxes

    def __rsub__(self, other: ArrayLike) -> Tensor:
        return sub(other, self)

    def __rtruediv__(self, other: ArrayLike) -> Tensor:
        return div(other, self)

    def __rmatmul__(self, other: ArrayLike) -> Tensor:
        return matmul(other, self)

    @property
    def T(self) -> Tensor:  # noqa: N802
        """The transpose: all axes reversed."""
        return transpose(self)

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

    def __eq__(self, other: object) -> Array:  # type: ignore[override]
        return cast(Array, self.data == np.asarray(other))

    def __ne__(self, other: object) -> Array:  # type: ignore[override]
        return cast(Array, self.data != np.asarray(other))

    def __lt__(self, other: Operand) -> Array:
        return cast(Array, self.data < np.asarray(other))

    def __le__(self, other: Operand) -> Array:
        return cast(Array, self.data <= np.asarray(other))

    def __gt__(self, other: Operand) -> Array:
        return cast(Array, self.data > np.asarray(other))

    def __ge__(self, other: Operand) -> Array:
        return cast(Array, self.data >= np.asarray(other))


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
