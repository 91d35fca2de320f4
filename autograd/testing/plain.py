"""`check_backward`: the properties of a correct op, for plain functions; see `autograd.testing`.

The two functions become an op: its value is `forward(*arguments)`, and its vjp calls
`backward(g, *arguments)`. So the properties in `PROPERTIES` serve here too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from autograd.tensor import Tensor, record
from autograd.testing.properties import Call, OpSpec, check_op
from autograd.testing.strategies import (
    Array,
    SearchStrategy,
    filled,
    lettered_shapes,
    literal,
    with_gaps,
)

BACKWARD_PROPERTIES = (
    "nothing_given_is_changed_or_shared",
    "the_same_call_gives_the_same_bits",
    "gradients_have_shape_and_dtype_of_their_operands",
    "gradients_are_the_difference_quotients",
    "gradients_are_the_complex_steps",
    "gradients_are_linear_in_the_cotangent",
    "a_cotangent_of_zeros_gives_gradients_of_zeros",
    "memory_layout_does_not_matter",
    "at_a_kink_the_gradient_lies_between_the_slopes_of_both_sides",
)


def check_backward(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    inputs: str | SearchStrategy[Any],
    *,
    kinks: Callable[..., bool] | None = None,
    analytic: bool = False,
    properties: Iterable[str] = BACKWARD_PROPERTIES,
    max_examples: int | None = None,
) -> None:
    """Check the gradients that a plain function computes, on arguments drawn by hypothesis.

    The functions may use any library. They get NumPy arrays, and return anything that `np.asarray`
    takes, such as NumPy arrays, numbers, lists, and torch Tensors without `requires_grad`.

    Parameters
    ----------
    forward
        forward(*arguments) returns one array, the value. It computes in the precision of the
        arguments, float64 or float32.
    backward
        backward(g, *arguments) returns one gradient per argument, given g, an array of the value's
        shape and dtype. The gradient of an argument is dL/dargument, an array of the argument's
        shape and dtype, if g is dL/dvalue. It is None if the argument is not a float array. If only
        one argument is a float array, backward may return this gradient alone.
    inputs
        Letters, such as "nc,c,c": one letter per axis, and a comma between two arguments; see
        `lettered_shapes`. Or a strategy that draws a tuple of arguments, or an array alone. It may
        draw integer arrays, masks and numbers too: `forward` and `backward` get them as they are,
        and there is no derivative with respect to them. For a single call, write
        `st.just(arguments)`.
    kinks
        kinks(*arguments) returns True if `forward` has no derivative there. None if it is smooth.
    analytic
        Whether `forward` also takes complex arrays, and returns its analytic continuation. Then the
        complex step checks every entry to 11 digits.
    properties
        Names from `BACKWARD_PROPERTIES`; all by default. For example, a function that computes in
        float64 alone lacks "gradients_have_shape_and_dtype_of_their_operands", so leave it out.
    max_examples
        Number of calls; by default the number in hypothesis's current profile.

    Raises
    ------
    AssertionError
        The functions do not have a property. Notes on the error name the property, and the smallest
        arguments that show the fault, as Python. For a wrong gradient the error is a
        `GradientMismatch`, and its `.report` says where.
    TypeError, ValueError
        `inputs` does not fit, or there is no property of this name. Or `forward` or `backward` did
        not return a result of this kind. Notes on the error name the smallest arguments. All
        other errors of the functions pass through, also with these notes.

    Examples
    --------
    >>> def linear(x, weight, bias):
    ...     return x @ weight.T + bias
    >>> def linear_backward(g, x, weight, bias):
    ...     return g @ weight, g.T @ x, g.sum(axis=0)
    >>> check_backward(linear, linear_backward, "ni,oi,o")

    Only some numbers have a logarithm, so draw the entries from `positive()`:

    >>> from autograd.testing import positive
    >>> check_backward(np.log, lambda g, x: g / x, filled(lettered_shapes("n"), positive()))
    """
    chosen = set(properties)
    if unknown := chosen.difference(BACKWARD_PROPERTIES):
        raise ValueError(
            f"no property {min(unknown)!r}; choose from {', '.join(BACKWARD_PROPERTIES)}"
        )
    if isinstance(inputs, str):
        inputs = filled(lettered_shapes(inputs))
    if not isinstance(inputs, SearchStrategy):
        raise TypeError(
            "inputs are letters such as 'nc,c,c', or a strategy of hypothesis, not "
            f"{type(inputs).__name__}; for a single call, write st.just(arguments)"
        )

    def op(*operands: Tensor, **others: Any) -> Tensor:
        given = [_for_any_library(operand.data) for operand in operands]
        arguments = _merged(given, others)

        def vjp(g: Array) -> tuple[Array, ...]:
            returned = backward(_for_any_library(g), *arguments)
            return _gradients(returned, given, others)

        return record(_value(forward(*arguments), given), operands, vjp)

    def op_kinks(*operands: Array, **others: Any) -> bool:
        return kinks is not None and kinks(*_merged(operands, others))

    name = getattr(backward, "__name__", "backward")
    spec = OpSpec(
        name if name.isidentifier() else "backward",  # the name of a lambda says nothing
        op,
        forward,
        inputs.map(_arguments),
        kinks=None if kinks is None else op_kinks,
        analytic=analytic,
    )
    check_op(spec, [name for name in BACKWARD_PROPERTIES if name in chosen], max_examples)


# -- the arguments -------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Arguments(Call):
    """The arguments of plain functions.

    The operands are the float arrays. The keywords are all other arguments, by position: {"1": 3}.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The positions of the operands among all arguments."""
        n = len(self.operands) + len(self.keywords)
        return tuple(str(i) for i in range(n) if str(i) not in self.keywords)

    def __repr__(self) -> str:
        return literal(tuple(_merged(self.operands, self.keywords)))


def _arguments(drawn: Any) -> Arguments:
    """Return what `inputs` drew as Arguments, with copies of the arrays."""
    arguments = drawn if isinstance(drawn, tuple) else (drawn,)
    operands, others = [], {}
    for i, argument in enumerate(arguments):
        if isinstance(argument, np.ndarray) and argument.dtype.kind == "f":
            operands.append(np.array(argument, dtype=np.float64, order="C"))
        else:
            others[str(i)] = argument.copy() if isinstance(argument, np.ndarray) else argument
    if not operands:
        raise TypeError(
            f"inputs drew {literal(drawn)}: draw a float array, or a tuple with one, for example "
            "with `arrays` or `filled`"
        )
    return Arguments(tuple(operands), others)


def _merged(operands: Iterable[Any], others: Mapping[str, Any]) -> list[Any]:
    """Return all arguments in order."""
    arguments = list(operands)
    for position, other in others.items():  # in ascending order
        arguments.insert(int(position), other)
    return arguments


def _for_any_library(a: Array) -> Array:
    """Return an array that torch takes: writeable, and without negative strides.

    It has the same values, and gaps in memory if `a` has gaps.
    """
    if any(stride < 0 for stride in a.strides):
        backwards = (slice(None, None, -1),) * a.ndim
        return with_gaps(a[backwards])[backwards]
    a.flags.writeable = True
    return a


# -- the results ---------------------------------------------------------------------------------


def _value(returned: Any, operands: list[Array]) -> Array:
    """Return the value of `forward` as an array."""
    value = _array("the value of forward", returned, np.result_type(*operands))
    if not np.isfinite(value).all():
        raise ValueError(
            "forward returned NaN or infinity; draw arguments for which the value is finite, such "
            "as filled(lettered_shapes('n'), positive())"
        )
    return value


_ONE_EACH = "return one gradient per argument, and None if the argument is not a float array"


def _gradients(
    returned: Any, operands: list[Array], others: Mapping[str, Any]
) -> tuple[Array, ...]:
    """Return what `backward` returned as one array per operand."""
    n = len(operands) + len(others)
    if len(operands) == 1 and not isinstance(returned, tuple):
        returned = _merged([returned], dict.fromkeys(others))
    if not isinstance(returned, tuple | list):
        raise TypeError(f"backward must return a tuple, not {_kind(returned)}; {_ONE_EACH}")
    if len(returned) != n:
        raise ValueError(
            f"backward returned {len(returned)} gradients for {n} arguments; {_ONE_EACH}"
        )
    positions = [i for i in range(n) if str(i) not in others]
    return tuple(
        _gradient(i, returned[i], operand) for i, operand in zip(positions, operands, strict=True)
    )


def _gradient(i: int, returned: Any, operand: Array) -> Array:
    """Return the gradient of argument i as an array."""
    if returned is None:
        raise TypeError(
            f"backward returned None for argument {i}, a float array; return its gradient, which "
            "is zeros if the value does not depend on this argument"
        )
    gradient = _array(f"the gradient of argument {i}", returned, operand.dtype)
    if gradient.shape != operand.shape:
        raise ValueError(
            f"backward returned a gradient of shape {gradient.shape} for argument {i}, which has "
            f"shape {operand.shape}; return a gradient of the argument's shape (if the argument "
            "was broadcast, sum over the axes that were added or repeated)"
        )
    return gradient


def _array(what: str, returned: Any, dtype: np.dtype[Any]) -> Array:
    """Return a result as an array. Numbers and lists get the precision of the arguments."""
    if returned is None or isinstance(returned, tuple | Tensor):
        way_out = "; return its .data, or use check_op" if isinstance(returned, Tensor) else ""
        raise TypeError(f"{what} must be an array, not {_kind(returned)}{way_out}")
    array = np.asarray(returned)
    if not hasattr(returned, "dtype") and array.dtype.kind in "biuf":
        array = array.astype(dtype)
    if array.dtype not in (dtype, dtype.type(0).real.dtype):
        raise TypeError(
            f"{what} has dtype {array.dtype}, but the arguments have {dtype}; compute in the "
            "precision of the arguments"
        )
    return array


def _kind(returned: Any) -> str:
    """Return the name of a result's type in an error; for a Tensor with its package."""
    if isinstance(returned, Tensor):
        return "an autograd.Tensor"
    return "None" if returned is None else type(returned).__name__
