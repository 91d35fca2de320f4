"""Keep or change a gradient without copying it, if nobody else holds it.

A vjp may return one array for two parents, or a view of another array, or an array that it keeps
itself. So in general a sum must not change a gradient, and a leaf must not keep it. Copying every
gradient would be correct but slow: the gradient of a large weight is a large array.

Python counts the references to every object, and a view of an array holds a reference to that
array. So if an array has the fewest references possible, only the caller holds it. Such an array
can be changed in place, or become a leaf's `.grad`, and nobody else notices.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from autograd.rows import Array, Rows


def own(gradient: Any) -> Array:
    """Return the gradient itself if only the caller holds it, otherwise a copy.

    The gradient is `Rows` or array-like; the result is an array. The caller must hold the gradient
    in one variable only, and pass that variable.
    """
    if _is_plain_array(gradient) and sys.getrefcount(gradient) == _SOLE_OWNER_REFCOUNT:
        return gradient  # type: ignore[no-any-return]
    return np.array(gradient)


def accumulate(so_far: Any, gradient: Any) -> Any:
    """Return so_far + gradient, computed in place if only the caller holds `so_far`."""
    if _is_plain_array(so_far) and sys.getrefcount(so_far) == _SOLE_OWNER_REFCOUNT:
        if isinstance(gradient, Rows):
            gradient.add_to(so_far)
        else:
            so_far += gradient
        return so_far
    return so_far + gradient


def _is_plain_array(gradient: object) -> bool:
    """Whether this is a writeable array that owns its memory, and not a view."""
    return type(gradient) is np.ndarray and gradient.base is None and gradient.flags.writeable


def _sole_owner_refcount() -> int:
    """Count the references that a function sees to an array held by one variable of its caller.

    The number differs between versions of Python, so it is measured. It is 3 at most; a debugger
    may hold further references during the measurement. A number that is too low only means more
    copies.
    """

    def references(array: Array) -> int:
        return sys.getrefcount(array)

    array = np.empty(0)
    return min(references(array), 3)


_SOLE_OWNER_REFCOUNT = _sole_owner_refcount()
